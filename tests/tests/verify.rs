//! `verify` finds every planted difference, and nothing else.

use std::sync::atomic::{AtomicUsize, Ordering};

use falkirk::change::{Datum, Image};
use falkirk::manifest::Rule;
use falkirk::pg::address::Address;
use falkirk::pg::catalog;
use falkirk::pg::session::Session;
use falkirk::plan::bind::{Binding, bind};
use falkirk::plan::{Answer, OutputRow, Plan};
use falkirk::verify::{Ends, Kind, Options, TableVerdict, Verdict, verify};
use falkirk_tests::Stage;

const BLUE: &str = "
    CREATE TABLE customer (id bigint PRIMARY KEY, name text NOT NULL, letters text, amount numeric(8,1), born date);
    ALTER TABLE customer REPLICA IDENTITY FULL;
    CREATE TABLE coupon (code text PRIMARY KEY, percent int);
    CREATE TABLE plain (a int, b text, payload jsonb, PRIMARY KEY (a, b));
";
const GREEN: &str = "
    CREATE TABLE customer (id bigint PRIMARY KEY, first_name text, last_name text, letters varchar(4),
                           amount numeric(10,2), born date, level text NOT NULL DEFAULT 'basic',
                           shown text GENERATED ALWAYS AS (last_name || '!') STORED);
    CREATE TABLE coupon (code text PRIMARY KEY, percent int, deleted boolean NOT NULL DEFAULT false);
    CREATE TABLE plain (a int, b text, payload jsonb, PRIMARY KEY (a, b)) PARTITION BY RANGE (a);
    CREATE TABLE plain_low PARTITION OF plain FOR VALUES FROM (MINVALUE) TO (500);
    CREATE TABLE plain_high PARTITION OF plain FOR VALUES FROM (500) TO (MAXVALUE);
";
const BLUE_ROWS: &str = "
    INSERT INTO customer SELECT n, 'First' || n || ' Last' || n, 'ab', n + 0.5, '2000-01-01'::date + n
        FROM generate_series(1, 12000) n;
    INSERT INTO customer VALUES (0, 'tab' || chr(9) || 'newline' || chr(10) || '\\ x', NULL, NULL, NULL);
    INSERT INTO coupon SELECT 'C' || n, n FROM generate_series(1, 100) n;
    INSERT INTO plain SELECT n, 'b''\"\\' || n, jsonb_build_object('n', n) FROM generate_series(1, 1000) n;
";
const GREEN_ROWS: &str = "
    INSERT INTO customer SELECT n, 'First' || n, 'Last' || n, 'ab', n + 0.5, '2000-01-01'::date + n
        FROM generate_series(1, 12000) n;
    INSERT INTO customer VALUES (0, 'tab' || chr(9) || 'newline' || chr(10) || '\\', 'x', NULL, NULL, NULL);
    INSERT INTO coupon SELECT 'C' || n, n FROM generate_series(1, 100) n;
    INSERT INTO coupon VALUES ('gone', 5, true);
    UPDATE customer SET level = 'gold' WHERE id < 50;
    INSERT INTO plain SELECT n, 'b''\"\\' || n, jsonb_build_object('n', n) FROM generate_series(1, 1000) n;
";

fn stage(name: &str) -> Stage {
    let stage = Stage::one_way(name);
    stage.schemas(BLUE, GREEN);
    stage.blue.sql(BLUE_ROWS);
    stage.green.sql(GREEN_ROWS);
    stage
}

fn rules() -> Vec<Rule> {
    serde_json::from_value(serde_json::json!([
        { "table": "customer", "columns": ["name", "letters"], "outputs": [
            { "table": "customer", "same_named": true,
              "computed": [ { "from": ["name"], "to": ["first_name", "last_name"] },
                            { "from": ["letters"], "to": ["letters"] } ] } ] },
        { "table": "coupon", "outputs": [
            { "table": "coupon", "same_named": true, "on_delete": { "set": { "deleted": "t" } } } ] }
    ]))
    .unwrap()
}

async fn plan(source: &Address, target: &Address) -> Plan {
    let source = catalog::read(&Session::connect(source, "test").await.unwrap()).await.unwrap();
    let target = catalog::read(&Session::connect(target, "test").await.unwrap()).await.unwrap();
    let rules = rules();
    bind(&Binding {
        rules: &rules,
        artifact: "test",
        source: &source,
        target: &target,
        include: &[],
        exclude: &[],
        manifest: None,
    })
    .unwrap_or_else(|problems| panic!("{problems:#?}"))
}

/// The transform: splits a name at its last blank, and moves the letters into a column that may be too narrow.
fn split(plan: &Plan, source: usize, images: &[&Image]) -> Vec<Answer> {
    let column = |name: &str| plan.sources[source].columns.iter().position(|column| column.name == name).unwrap();
    let (name, letters) = (column("name"), column("letters"));
    let answer = |image: &&Image| {
        let name = std::str::from_utf8(image.text(name).unwrap()).unwrap();
        let (first, last) = name.rsplit_once(' ').unwrap();
        vec![OutputRow { output: 0, values: vec![Datum::text(first), Datum::text(last), image.datum(letters)] }]
    };
    images.iter().map(answer).collect()
}

static GUEST_CALLS: AtomicUsize = AtomicUsize::new(0);

#[tokio::main]
async fn compare(stage: &Stage, options: Options) -> Verdict {
    let (source, target) = (Address::parse(&stage.blue.url()).unwrap(), Address::parse(&stage.green.url()).unwrap());
    let plan = plan(&source, &target).await;
    let mut answers = |source: usize, images: &[&Image]| {
        GUEST_CALLS.fetch_add(1, Ordering::Relaxed);
        Ok(split(&plan, source, images))
    };
    verify(Ends { source: &source, target: &target }, &plan, &mut answers, options).await.unwrap()
}

fn table<'a>(verdict: &'a Verdict, name: &str) -> &'a TableVerdict {
    verdict.tables.iter().find(|table| table.table.table == name).unwrap()
}

#[test]
fn l8_sides_that_agree_have_no_difference_and_the_complement_is_counted() {
    let stage = stage("verify_agree");
    let verdict = compare(&stage, Options::default());
    assert_eq!(verdict.rows_wrong(), 0, "{verdict:#?}");
    assert_eq!(verdict.rows_compared(), 12_001 + 100 + 1_000);
    assert_eq!(table(&verdict, "customer").complement_columns, ["level"]);
    assert_eq!(table(&verdict, "coupon").complement_columns, ["deleted"]);
    assert_eq!(table(&verdict, "coupon").rows_kept, 1);
    assert!(GUEST_CALLS.load(Ordering::Relaxed) >= 12, "the guest gets rows in batches");
}

#[test]
fn l8_a_changed_a_missing_and_a_surplus_row_are_each_found() {
    let stage = stage("verify_planted");
    stage.green.sql(
        "UPDATE customer SET last_name = 'Wrong' WHERE id = 77;
         UPDATE customer SET first_name = NULL, born = born + 1 WHERE id = 9000;
         DELETE FROM customer WHERE id IN (5, 11999);
         INSERT INTO customer VALUES (-3, 'a', 'b', 'ab', 1, '2020-01-01');
         DELETE FROM plain WHERE a = 1; INSERT INTO plain VALUES (1, 'other', '{}'), (900, 'more', '{}');
         INSERT INTO coupon VALUES ('unknown', 5, false);",
    );
    let verdict = compare(&stage, Options { values: true, sample_rows: 10 });
    let customer = table(&verdict, "customer");
    assert_eq!((customer.rows_differ, customer.rows_missing, customer.rows_surplus), (2, 2, 1), "{verdict:#?}");
    let said = |kind: Kind, key: &str| {
        let found = customer.sample.iter().find(|found| found.kind == kind && found.key == key);
        found.unwrap_or_else(|| panic!("{key} is not named: {customer:#?}")).columns.clone()
    };
    assert_eq!(said(Kind::Differs, "77"), ["last_name"]);
    assert_eq!(said(Kind::Differs, "9000"), ["first_name", "born"]);
    said(Kind::Missing, "5");
    said(Kind::Missing, "11999");
    said(Kind::Surplus, "-3");
    let plain = table(&verdict, "plain");
    assert_eq!((plain.rows_differ, plain.rows_missing, plain.rows_surplus), (0, 1, 2), "{verdict:#?}");
    let coupon = table(&verdict, "coupon");
    assert_eq!((coupon.rows_surplus, coupon.rows_kept), (1, 1), "{verdict:#?}");
    assert_eq!(verdict.rows_wrong(), 5 + 3 + 1);
}

#[test]
fn l8_one_missing_and_one_surplus_row_do_not_cancel_out() {
    let stage = stage("verify_balance");
    stage.green.sql("UPDATE customer SET id = -id WHERE id = 400");
    let verdict = compare(&stage, Options::default());
    let customer = table(&verdict, "customer");
    assert_eq!((customer.rows_missing, customer.rows_surplus), (1, 1), "{verdict:#?}");
}

#[test]
fn l8_a_value_that_only_a_cast_would_cut_to_size_is_a_difference() {
    let stage = stage("verify_cut");
    stage.blue.sql("UPDATE customer SET letters = 'abcdef' WHERE id = 1; UPDATE customer SET letters = 'ab' || repeat(' ', 9) WHERE id = 2;");
    stage
        .green
        .sql("UPDATE customer SET letters = 'abcd' WHERE id = 1; UPDATE customer SET letters = 'ab  ' WHERE id = 2;");
    let verdict = compare(&stage, Options { values: true, sample_rows: 10 });
    let customer = table(&verdict, "customer");
    assert_eq!(customer.rows_wrong(), 1, "{verdict:#?}");
    assert_eq!((customer.sample[0].key.as_str(), &customer.sample[0].columns[..]), ("1", &["letters".to_owned()][..]));
}

#[test]
fn keys_are_hashed_unless_values_are_asked_for() {
    let stage = stage("verify_hash");
    stage.green.sql("DELETE FROM coupon WHERE code = 'C7'");
    let verdict = compare(&stage, Options::default());
    let sample = &table(&verdict, "coupon").sample;
    assert_eq!(sample.len(), 1);
    assert!(sample[0].key.starts_with('#') && sample[0].key.len() == 13, "{sample:?}");
    assert!(!serde_json::to_string(&verdict).unwrap().contains("C7"));
}
