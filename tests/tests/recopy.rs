//! What a faulty revision wrote becomes what the good one makes of the same rows while the stream goes on, and nothing
//! else is touched.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use falkirk_tests::{
    Finished, Running, SOON, Side, Stage, component_with_manifest, faulty_shop_component, free_port, shop_component,
    shop_schemas, swap_component, until,
};
use serde_json::Value;

/// A shop that the faulty revision has moved: of every three customers one has a name that it splits wrongly, and of
/// every four products three have a price that it makes ten times too high.
fn shop(name: &str, more: &str) -> Stage {
    let stage = Stage::new(name);
    let [blue, green] = shop_schemas();
    stage.schemas(&blue, &green);
    for table in ["customer", "product", "orders", "basket", "coupon", "order_line", "review", "user_session"] {
        stage.blue.sql(&format!("ALTER TABLE {table} REPLICA IDENTITY FULL"));
    }
    stage.config("forward", &(Stage::transforms(Some(faulty_shop_component())) + more));
    stage.blue.sql(
        "INSERT INTO customer (id, name, email) SELECT n, CASE n % 3 WHEN 0 THEN 'Ann Bea C. Smith'
             WHEN 1 THEN 'Ann Smith' ELSE 'Sting' END, 'c' || n || '@a' FROM generate_series(1, 3000) n;
         INSERT INTO product (id, title, price, status)
             SELECT n, 'Boat ' || n, CASE WHEN n % 4 = 0 THEN 0 ELSE n END, 'active' FROM generate_series(1, 2000) n;
         INSERT INTO coupon SELECT 'code' || n, 10 FROM generate_series(1, 50) n",
    );
    follow(&stage);
    assert_eq!(stage.green.value("SELECT price_cents FROM product WHERE id = 1"), "1000");
    stage
}

fn follow(stage: &Stage) {
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
}

fn good(stage: &Stage, more: &str) {
    stage.config("forward", &(Stage::transforms(Some(shop_component())) + more));
}

fn recopy(stage: &Stage, more: &[&str]) -> Finished {
    let old = faulty_shop_component().to_string_lossy();
    stage.falkirk(&[&["recopy", "--json", "--old", &old], more].concat())
}

fn streams(stage: &Stage) -> Running {
    let running = stage.start_falkirk(&["run"]);
    until("the link streams", SOON, || running.err().contains("streaming"));
    running
}

/// Products and customers as green has to hold them, and as it holds them.
const BLUE_SHOP: [&str; 2] = [
    "SELECT id, title, (price * 100)::bigint FROM product",
    "SELECT id, CASE WHEN position(' ' IN name) > 0 THEN split_part(name, ' ', 1) END,
        CASE WHEN position(' ' IN name) > 0 THEN substr(name, position(' ' IN name) + 1) ELSE name END, email FROM customer",
];
const GREEN_SHOP: [&str; 2] =
    ["SELECT id, label, price_cents FROM product", "SELECT id, first_name, last_name, email FROM customer"];

/// Where the rows that need nothing lie: customers whose name both revisions split alike and products without a price,
/// as far as the load leaves them alone.
const UNTOUCHED: &str = "SELECT 'c', id, xmin, ctid FROM customer WHERE id % 3 <> 0 AND id BETWEEN 1001 AND 3000
    UNION ALL SELECT 'p', id, xmin, ctid FROM product WHERE id % 4 = 0 AND id BETWEEN 1001 AND 2000";

/// Changes rows up to number 1000 all the time, some of them again and again, brings new ones and takes some away.
fn load(blue: &Side, stop: &AtomicBool, committed: &AtomicU64) {
    let mut number = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let (row, new) = (number * 7 % 1000 + 1, 10_000 + number);
        blue.sql(&format!(
            "BEGIN; UPDATE product SET price = price + 1.01 WHERE id = {row};
             UPDATE customer SET email = '{number}@b' WHERE id = 3;
             UPDATE product SET title = 'Boat of {number}' WHERE id = 5;
             UPDATE customer SET name = 'Cleo Dora {number}' WHERE id = {row} AND id > 10;
             INSERT INTO product (id, title, price) VALUES ({new}, 'New', {number} % 100);
             DELETE FROM product WHERE id = {new} - 5; COMMIT"
        ));
        committed.fetch_add(1, Ordering::Relaxed);
    }
}

/// Ends the load also when the test fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn l5_l6_a_recopy_under_load_leaves_no_row_that_differs_and_rewrites_none_that_needed_nothing() {
    let admin = format!("[admin]\nlisten = \"127.0.0.1:{}\"\n", free_port());
    let stage = shop("recopy_load", &admin);
    let running = streams(&stage);
    let (stop, committed) = (AtomicBool::new(false), AtomicU64::new(0));
    let before = stage.green.lines(UNTOUCHED);
    let at_least = |more: u64| {
        let from = committed.load(Ordering::Relaxed);
        until("the load goes on", SOON, || committed.load(Ordering::Relaxed) >= from + more);
    };
    std::thread::scope(|scope| {
        let _ends = Ends(&stop);
        scope.spawn(|| load(&stage.blue, &stop, &committed));
        at_least(50);
        stage.falkirk(&["swap", &shop_component().to_string_lossy()]).expect(0);
        let from = committed.load(Ordering::Relaxed);
        // The host knows the revision that it ran before.
        let answer = stage.falkirk(&["recopy", "--json"]).expect(0).json();
        let meanwhile = committed.load(Ordering::Relaxed) - from;
        println!("{meanwhile} transactions during the recopy: {answer}");
        assert!(meanwhile > 0, "nothing was written meanwhile");
        assert_eq!((&answer["rows_rest"], &answer["rows_busy"]), (&0.into(), &0.into()), "{answer}");
        let patched = |table: &str| answer["tables"][table]["rows_patched"].as_u64().unwrap();
        // Whatever the load did, of rows from 1001 on 667 names and 750 prices were wrong.
        assert!((667..2_000).contains(&patched("public.customer")), "{answer}");
        assert!((750..2_000).contains(&patched("public.product")), "{answer}");
        assert_eq!(stage.green.lines(UNTOUCHED), before, "rows that needed nothing were written");
        // What differs for no revision's sake is written by force, from rows that change meanwhile.
        for (table, damage) in [("product", "price_cents = 7"), ("customer", "last_name = 'X' WHERE id % 3 = 0")] {
            // Row by row it would meet the link in a deadlock, and a link that begins anew ends a recopy.
            stage.green.sql(&format!(
                "BEGIN; LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE; UPDATE {table} SET {damage}; COMMIT"
            ));
        }
        let answer = stage.falkirk(&["recopy", "--json", "--force"]).expect(0).json();
        println!("by force: {answer}");
        assert_eq!(answer["rows_busy"], 0, "{answer}");
        at_least(20);
    });
    until("green has what blue has", SOON, || {
        BLUE_SHOP.iter().zip(GREEN_SHOP).all(|(blue, green)| stage.same(blue, green))
    });
    running.terminate().expect(143);
    good(&stage, "");
    stage.falkirk(&["verify"]).expect(0);
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn l6_counter_example_13_a_recopy_mends_what_the_faulty_revision_wrote_and_leaves_greens_own_corrections() {
    let stage = shop("recopy_mends", "");
    // Corrections and complement of green's own application, on rows that the revisions make differently.
    stage.green.sql(
        "UPDATE customer SET first_name = 'Ann Bea', last_name = 'C. Smith' WHERE id = 3;
         UPDATE customer SET first_name = 'Ann', last_name = 'Bea C. Smith' WHERE id = 6;
         UPDATE customer SET loyalty_level = 'gold' WHERE id IN (3, 9);
         UPDATE product SET price_cents = 500 WHERE id = 5",
    );
    good(&stage, "");
    stage.falkirk(&["verify"]).expect(1);
    // Untouched: rows that both revisions make alike, and those that green has put right.
    let untouched = "SELECT id, xmin, ctid FROM customer WHERE id % 3 <> 0 OR id IN (3, 6)
        UNION ALL SELECT id, xmin, ctid FROM product WHERE id <= 2000 AND (id % 4 = 0 OR id = 5)";
    let before = stage.green.lines(untouched);
    // The source went on meanwhile; what it changed the link brings itself, with the good revision.
    stage.blue.sql(
        "INSERT INTO product (id, title, price, status) SELECT n, 'Late', n, 'draft' FROM generate_series(3001, 3100) n;
         UPDATE product SET price = 1.01 WHERE id = 7; UPDATE customer SET name = 'Ann Cleo D. Smith' WHERE id = 9;
         DELETE FROM product WHERE id = 9",
    );
    let answer = recopy(&stage, &[]).expect(0).json();
    // 1,000 customers without the two that green corrected and the one renamed; 1,500 products without 5, 7 and 9.
    assert_eq!(answer["tables"]["public.customer"]["rows_patched"], 997, "{answer}");
    assert_eq!(answer["tables"]["public.product"]["rows_patched"], 1_497, "{answer}");
    assert_eq!((&answer["rows_written"], &answer["rows_rest"]), (&2_494.into(), &0.into()), "{answer}");
    assert_eq!(stage.green.lines(untouched), before, "rows that needed nothing were written");
    stage.falkirk(&["verify"]).expect(0);
    let names =
        "SELECT first_name || '|' || last_name || '|' || loyalty_level FROM customer WHERE id IN (3, 6, 9) ORDER BY id";
    assert_eq!(
        stage.green.rows(names),
        [["Ann Bea|C. Smith|gold"], ["Ann|Bea C. Smith|basic"], ["Ann|Cleo D. Smith|gold"]]
    );
    let again = recopy(&stage, &[]).expect(0).json();
    assert_eq!(again["rows_written"], 0, "nothing is left to do: {again}");
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn l6_what_differs_for_another_reason_is_listed_first_and_written_only_by_force() {
    let stage = shop("recopy_rest", "");
    stage.green.sql("UPDATE product SET price_cents = 1 WHERE id = 5; DELETE FROM coupon WHERE code = 'code7'");
    good(&stage, "");
    let answer = recopy(&stage, &[]).expect(1).json();
    assert_eq!(answer["rows_rest"], 2, "{answer}");
    assert_eq!(answer["tables"]["public.product"]["rest"][0][1][0], "price_cents", "{answer}");
    assert_eq!(answer["tables"]["public.coupon"]["rest"][0][1], Value::Array(Vec::new()), "{answer}");
    assert_eq!(stage.green.value("SELECT price_cents FROM product WHERE id = 5"), "1");
    stage.falkirk(&["verify"]).expect(1);
    // One table, for eyes.
    stage
        .falkirk(&["recopy", "product"])
        .expect(1)
        .says("1 rows do not agree")
        .says("price_cents")
        .keeps_quiet_about("coupon");
    let forced = recopy(&stage, &["--force"]).expect(0).json();
    assert_eq!((&forced["rows_written"], &forced["rows_rest"]), (&2.into(), &2.into()), "{forced}");
    stage.falkirk(&["verify"]).expect(0);
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn without_the_older_revision_a_recopy_takes_its_work_for_nobodys_and_names_it() {
    let stage = shop("recopy_unknown", "");
    good(&stage, "");
    let answer = stage.falkirk(&["recopy", "--json", "product"]).expect(1).json();
    assert_eq!((&answer["rows_written"], &answer["rows_rest"]), (&0.into(), &1_500.into()), "{answer}");
    let digest = stage.green.admin("SELECT DISTINCT artifact FROM falkirk.history ORDER BY 1");
    let unknown = answer["unknown"][0].as_str().unwrap().to_owned();
    assert!(answer["unknown"].as_array().unwrap().len() == 1 && digest.contains(&vec![unknown]), "{answer}");
    let sampled = answer["tables"]["public.product"]["rest"].as_array().unwrap();
    assert!(sampled.iter().all(|row| row[0].as_str().unwrap().starts_with('#')), "keys are hashed: {answer}");
    stage.falkirk(&["recopy", "product"]).expect(1).says("--old FILE");
    stage.falkirk(&["clean"]).expect(0);
}

/// Two revisions of one rule: green's key is made of one column of blue's row or of another.
fn keyed(stage: &Stage, from: &str) -> PathBuf {
    let manifest = format!(
        r#"{{ "falkirk": 1, "name": "rules", "from": "1", "to": "2", "forward": [
            {{ "table": "item", "columns": [], "outputs": [
                {{ "table": "item", "copied": {{ "code": "{from}", "note": "note" }} }} ] }} ], "backward": [] }}"#
    );
    let file = component_with_manifest(stage, &manifest);
    stage.file(&format!("{from}.wasm"), std::fs::read(file).unwrap())
}

#[test]
fn counter_example_13_a_row_is_found_under_the_key_that_an_older_revision_gave_it() {
    let stage = Stage::new("recopy_keys");
    stage.schemas(
        "CREATE TABLE item (id int PRIMARY KEY, first text NOT NULL, second text NOT NULL, note text);
             ALTER TABLE item REPLICA IDENTITY FULL",
        "CREATE TABLE item (code text PRIMARY KEY, note text, own text NOT NULL DEFAULT 'green')",
    );
    let (first, second) = (keyed(&stage, "first"), keyed(&stage, "second"));
    let configured = |file: &Path| stage.config("forward", &Stage::transforms(Some(file)));
    configured(&first);
    stage.blue.sql("INSERT INTO item SELECT n, 'a' || n, CASE WHEN n > 90 THEN 'a' || n ELSE 'b' || n END, 'n' FROM generate_series(1, 100) n");
    follow(&stage);
    stage.green.sql("UPDATE item SET own = 'kept' WHERE code IN ('a7', 'a95')");
    configured(&second);
    let old = first.to_string_lossy().into_owned();
    let answer = stage.falkirk(&["recopy", "--json", "--old", &old]).expect(0).json();
    let item = &answer["tables"]["public.item"];
    assert_eq!(
        (&item["rows_rekeyed"], &answer["rows_written"], &answer["rows_rest"]),
        (&90.into(), &90.into(), &0.into()),
        "{answer}"
    );
    stage.assert_same("SELECT second, note FROM item", "SELECT code, note FROM item");
    assert_eq!(stage.green.rows("SELECT code FROM item WHERE own = 'kept' ORDER BY 1"), [["a95"], ["b7"]]);
    // The link goes on under the new keys.
    stage.blue.sql("UPDATE item SET note = 'm' WHERE id < 20; DELETE FROM item WHERE id = 30");
    follow(&stage);
    stage.assert_same("SELECT second, note FROM item", "SELECT code, note FROM item");
    stage.falkirk(&["verify"]).expect(0);
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn a_recopy_backward_mends_blue_from_green() {
    let stage = Stage::new("recopy_backward");
    let [blue, green] = shop_schemas();
    stage.schemas(&blue, &green);
    let full = |side: &Side| {
        let tables = "SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'public'";
        side.rows(tables).iter().for_each(|row| side.sql(&format!("ALTER TABLE {} REPLICA IDENTITY FULL", row[0])));
    };
    full(&stage.blue);
    full(&stage.green);
    let admin = format!("conflict = \"green_wins\"\n[admin]\nlisten = \"127.0.0.1:{}\"\n", free_port());
    stage.config("both", &(Stage::transforms(Some(shop_component())) + &admin));
    stage
        .blue
        .sql("INSERT INTO customer (id, name, email) SELECT n, 'Ann Smith', 'c' || n FROM generate_series(1, 50) n");
    follow(&stage);
    let running = streams(&stage);
    let none = stage.falkirk(&["recopy", "--json", "--backward"]).expect(0).json();
    assert_eq!((&none["rows_written"], &none["rows_rest"]), (&0.into(), &0.into()), "{none}");
    assert_eq!(none["tables"]["public.customer"]["rows_looked_at"], 50, "{none}");
    running.terminate().expect(143);
    // Blue is put wrong, and only green is followed from here on.
    stage.blue.sql("UPDATE customer SET name = 'Wrong One', email = 'kept' WHERE id = 7");
    stage.config("backward", &Stage::transforms(Some(shop_component())));
    let untouched = "SELECT id, xmin, ctid FROM customer WHERE id <> 7";
    let before = (stage.blue.lines(untouched), stage.green.lines("SELECT id, xmin, ctid FROM customer"));
    let rest = stage.falkirk(&["recopy", "--json", "--backward"]).expect(1).json();
    assert_eq!((&rest["rows_written"], &rest["rows_rest"]), (&0.into(), &1.into()), "{rest}");
    let forced = stage.falkirk(&["recopy", "--json", "--backward", "--force"]).expect(0).json();
    assert_eq!((&forced["rows_written"], &forced["rows_rest"]), (&1.into(), &1.into()), "{forced}");
    assert_eq!(stage.blue.rows("SELECT name, email FROM customer WHERE id = 7"), [["Ann Smith", "c7"]]);
    let after = (stage.blue.lines(untouched), stage.green.lines("SELECT id, xmin, ctid FROM customer"));
    assert_eq!(before, after, "nothing else was written, on either side");
    stage.falkirk(&["clean"]).expect(0);
}

/// The backward link alone signs `back`: each of its revisions writes another number there.
#[test]
fn l6_a_recopy_backward_mends_what_a_faulty_revision_wrote_to_blue_and_only_lists_what_differs_otherwise() {
    let stage = Stage::new("recopy_back_faulty");
    let table = |own: &str| {
        format!(
            "CREATE TABLE item (id bigint PRIMARY KEY, note text NOT NULL, {own} text); ALTER TABLE item REPLICA IDENTITY FULL"
        )
    };
    stage.schemas(&table("back"), &table("by"));
    let port = free_port();
    let faulty = swap_component(&stage, 1, "ok", None);
    let admin = format!("conflict = \"green_wins\"\n[admin]\nlisten = \"127.0.0.1:{port}\"\n");
    stage.config("both", &(Stage::transforms(Some(&faulty)) + &admin));
    stage.blue.sql("INSERT INTO item SELECT n, 'old' FROM generate_series(1, 20) n");
    follow(&stage);
    let running = streams(&stage);
    stage.green.sql("UPDATE item SET note = 'of green' WHERE id <= 10");
    until("blue has it", SOON, || stage.blue.count("(SELECT FROM item WHERE back = '0001')") == 10);
    stage.falkirk(&["swap", &swap_component(&stage, 2, "ok", None).to_string_lossy()]).expect(0);
    stage.green.sql("UPDATE item SET note = 'of green' WHERE id IN (11, 12)");
    until("blue has it", SOON, || stage.blue.count("(SELECT FROM item WHERE back = '0002')") == 2);
    // Blue's own corrections, of a row that the faulty revision wrote and of one that the good one wrote.
    stage.blue.sql("UPDATE item SET back = 'own' WHERE id IN (3, 12)");
    let expected = |forced: bool| -> Vec<String> {
        let back = |id: u32| match id {
            _ if forced => "0002",
            3 | 12 => "own",
            1..=11 => "0002",
            _ => "",
        };
        (1..=20).map(|id| format!("({id},{})", back(id))).collect()
    };
    let backs = || stage.blue.rows("SELECT id, coalesce(back, '') FROM item ORDER BY id");
    let said = || -> Vec<String> { backs().iter().map(|row| format!("({},{})", row[0], row[1])).collect() };
    let untouched = "SELECT id, xmin, ctid FROM item WHERE id IN (3, 11, 12) OR id > 12";
    let before = (stage.blue.lines(untouched), stage.green.lines("SELECT id, xmin, ctid FROM item"));
    // The host knows the revision that it ran before. Nine of ten rows are mended; what else differs is listed.
    let answer = stage.falkirk(&["recopy", "--json", "--backward"]).expect(1).json();
    let item = &answer["tables"]["public.item"];
    assert_eq!((&item["rows_patched"], &answer["rows_written"]), (&9.into(), &9.into()), "{answer}");
    assert_eq!(answer["rows_rest"], 10, "{answer}");
    assert!(item["rest"].as_array().is_some_and(|rest| rest.iter().all(|row| row[1][0] == "back")), "{answer}");
    assert_eq!(said(), expected(false));
    let after = (stage.blue.lines(untouched), stage.green.lines("SELECT id, xmin, ctid FROM item"));
    assert_eq!(before, after, "nothing else was written, on either side");
    let forced = stage.falkirk(&["recopy", "--json", "--backward", "--force"]).expect(0).json();
    assert_eq!((&forced["rows_written"], &forced["rows_rest"]), (&10.into(), &10.into()), "{forced}");
    assert_eq!(said(), expected(true));
    running.terminate().expect(143);
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn a_recopy_refuses_by_name_what_it_cannot_do() {
    let stage = shop("recopy_refuses", "");
    good(&stage, "");
    stage.falkirk(&["recopy", "nowhere"]).expect(1).says("NO_SUCH_TABLE");
    stage.falkirk(&["recopy", "--backward"]).expect(1).says("LINK_WATCHES");
    let elf = stage.file("elf.wasm", b"\x7fELF");
    stage.falkirk(&["recopy", "--old", &elf.to_string_lossy()]).expect(1).says("WASM_NOT_COMPONENT");
    // A running host that cannot be asked is not written beside.
    let running = streams(&stage);
    recopy(&stage, &[]).expect(1).says("LINK_HELD");
    running.terminate().expect(143);
    stage.falkirk(&["clean"]).expect(0);
    stage.falkirk(&["recopy"]).expect(1).says("NOT_STARTED");
}

/// Both links run through the faulty revision, and both sides' applications write: blue keys from 10,000 on and old rows
/// by their last name, green its own from 50,000 on and other old rows' first names.
fn load_of(side: &Side, is_blue: bool, stop: &AtomicBool, committed: &AtomicU64) {
    let mut number = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let row = number * 7 % 500 + 1;
        let text = match is_blue {
            true => format!(
                "BEGIN; UPDATE customer SET email = 'b{number}' WHERE id = {row} * 2;
                 INSERT INTO customer (id, name, email) VALUES ({}, 'New Blue {number}', 'nb{number}');
                 UPDATE product SET price = price + 1 WHERE id = {row} * 2; COMMIT",
                10_000 + number
            ),
            false => format!(
                "BEGIN; UPDATE customer SET email = 'g{number}' WHERE id = {row} * 2 - 1;
                 INSERT INTO customer (id, first_name, last_name, email) VALUES ({}, 'New', 'Green {number}', 'ng{number}');
                 UPDATE product SET label = 'Ship {number}' WHERE id = {row} * 2 - 1; COMMIT",
                50_000 + number
            ),
        };
        // Links that decide must keep up with it.
        std::thread::sleep(std::time::Duration::from_millis(10));
        // Where it meets a link in a deadlock, or the repair, it goes on with the next one.
        match side.try_sql(&text) {
            Ok(_) => drop(committed.fetch_add(1, Ordering::Relaxed)),
            Err(_) => drop(side.try_sql("ROLLBACK")),
        }
    }
}

#[test]
fn l5_l8_a_recopy_with_both_links_under_load_survives_kill_9_and_a_second_run_leaves_no_row_that_differs() {
    let stage = shop("recopy_both", "");
    for side in [&stage.blue, &stage.green] {
        let tables = "SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'public'";
        side.rows(tables).iter().for_each(|row| side.sql(&format!("ALTER TABLE {} REPLICA IDENTITY FULL", row[0])));
    }
    // The way back begins where the copy has ended: from here on both links write.
    stage.falkirk(&["clean"]).expect(0);
    stage.green.sql("TRUNCATE customer, product, coupon CASCADE");
    let port = free_port();
    let both = |file: &Path| {
        let admin = format!("conflict = \"green_wins\"\n[admin]\nlisten = \"127.0.0.1:{port}\"\n");
        stage.config("both", &(Stage::transforms(Some(file)) + &admin));
    };
    both(faulty_shop_component());
    // Enough of it that a repair has a middle.
    stage.blue.sql(
        "INSERT INTO product (id, title, price) SELECT n, 'Boat', n % 1000 + 1 FROM generate_series(100001, 120000) n",
    );
    follow(&stage);
    assert_eq!(stage.green.value("SELECT price_cents FROM product WHERE id = 1"), "1000");
    both(shop_component());
    let old = faulty_shop_component().to_string_lossy().into_owned();
    let (stop, committed) = (AtomicBool::new(false), [AtomicU64::new(0), AtomicU64::new(0)]);
    let mut running = Some(streams(&stage));
    std::thread::scope(|scope| {
        let _ends = Ends(&stop);
        scope.spawn(|| load_of(&stage.blue, true, &stop, &committed[0]));
        scope.spawn(|| load_of(&stage.green, false, &stop, &committed[1]));
        let goes_on = |more: u64| {
            let from: Vec<u64> = committed.iter().map(|of| of.load(Ordering::Relaxed)).collect();
            let more = || committed.iter().zip(&from).all(|(of, from)| of.load(Ordering::Relaxed) >= from + more);
            until("both loads go on", SOON, more);
        };
        goes_on(20);
        let wrong =
            || stage.green.count("(SELECT FROM product WHERE id > 100000 AND price_cents = 1000 * (id % 1000 + 1))");
        assert_eq!(wrong(), 20_000);
        // Half-way the host is killed, and with it the repair that it carries out.
        let asked = stage.start_falkirk(&["recopy", "--json", "--old", &old]);
        until("a part is mended", SOON, || wrong() < 20_000);
        running.take().expect("it runs").kill_9();
        asked.wait(SOON).expect(1).says("HOST_ENDED").says("give this command again");
        let left = wrong();
        println!("killed with {left} of 20000 prices still wrong");
        assert!(left > 0, "the repair was over before it was killed");
        running = Some(streams(&stage));
        goes_on(5);
        // Whoever asks may be killed as well: nothing is half done.
        let asked = stage.start_falkirk(&["recopy", "--json", "--old", &old]);
        std::thread::sleep(std::time::Duration::from_millis(150));
        asked.kill_9();
        let from: Vec<u64> = committed.iter().map(|of| of.load(Ordering::Relaxed)).collect();
        let mut answer = Value::Null;
        until("a second run comes to its end", SOON, || {
            let asked = stage.falkirk(&["recopy", "--json", "--old", &old]);
            answer = serde_json::from_str(&asked.out).unwrap_or_default();
            asked.code == 0
        });
        let meanwhile: Vec<u64> =
            committed.iter().zip(&from).map(|(of, from)| of.load(Ordering::Relaxed) - from).collect();
        println!("{meanwhile:?} transactions during the last recopy: {answer}");
        assert!(meanwhile.iter().all(|count| *count > 0), "one side wrote nothing meanwhile");
        assert_eq!((&answer["rows_rest"], &answer["rows_busy"]), (&0.into(), &0.into()), "{answer}");
        assert_eq!(wrong(), 0);
        goes_on(10);
    });
    until("green has what blue has", SOON, || {
        BLUE_SHOP.iter().zip(GREEN_SHOP).all(|(blue, green)| stage.same(blue, green))
    });
    running.take().expect("it runs").terminate().expect(143);
    stage.falkirk(&["verify"]).expect(0);
    stage.falkirk(&["clean"]).expect(0);
}
