//! Every operator by which a schema evolves, forward, backward and both ways under load.
//!
//! The operators are those of `examples/operators`; all of them run side by side, one stage for each direction. A
//! statement of the load is one transaction of an application. In it `{k}` is a key that both sides use, `{o}` one that
//! this side has for itself while both write, `{w}` a word, `{u}` a word of this side's own, `{n}` a small number.
//! Key 100 is there from the start, no load deletes it, and it carries the complement.

use std::time::Duration;

use falkirk_tests::ledger::Dice;
use falkirk_tests::{Side, Stage, component_with_manifest, operators_component};

/// What the sides hold when they agree: a query of blue and one of green.
enum Law {
    /// Both give the same rows.
    Same(&'static str, &'static str),
    /// Every row of blue's is among green's; the rest was left by rows that are gone.
    Covers(&'static str, &'static str),
}
use Law::{Covers, Same};

/// What only one side knows: how it came to be, and how it is found again.
struct Own {
    side: &'static str,
    written: &'static str,
    query: &'static str,
    expected: &'static str,
}

struct Case {
    name: &'static str,
    v1: &'static str,
    v2: &'static str,
    /// The first rows, where blue is the source, and where green is.
    rows: [&'static str; 2],
    /// What the applications of blue and green do.
    loads: [&'static [&'static str]; 2],
    laws: &'static [Law],
    own: &'static [Own],
}

macro_rules! case {
    ($name:literal, $($field:ident: $value:expr),* $(,)?) => {
        Case {
            name: $name,
            v1: include_str!(concat!("../../examples/operators/src/", $name, "/v1.sql")),
            v2: include_str!(concat!("../../examples/operators/src/", $name, "/v2.sql")),
            $($field: $value),*
        }
    };
}

const fn own(side: &'static str, written: &'static str, query: &'static str, expected: &'static str) -> Own {
    Own { side, written, query, expected }
}

const CASES: &[Case] = &[
    case! { "create_table",
        rows: ["", ""],
        loads: [&[], &["INSERT INTO wish (text) VALUES ('{w}')", "DELETE FROM wish WHERE id = {k} AND text <> 'kept'"]],
        laws: &[],
        own: &[own("green", "INSERT INTO wish (text) VALUES ('kept')", "SELECT text FROM wish WHERE text = 'kept'", "kept")],
    },
    case! { "drop_table",
        rows: ["INSERT INTO fax_log (number) VALUES ('kept')", ""],
        loads: [&["INSERT INTO fax_log (number) VALUES ('{w}')", "DELETE FROM fax_log WHERE number = '{w}'"], &[]],
        laws: &[],
        own: &[own("blue", "INSERT INTO fax_log (number) VALUES ('too')", "SELECT number FROM fax_log WHERE number = 'too'", "too")],
    },
    case! { "rename_table",
        rows: ["INSERT INTO client VALUES (100, 'a')", "INSERT INTO patron VALUES (100, 'a')"],
        loads: [
            &["INSERT INTO client VALUES ({k}, '{w}') ON CONFLICT DO NOTHING",
              "UPDATE client SET name = '{w}' WHERE id IN ({k}, 100)",
              "DELETE FROM client WHERE id = {k}"],
            &["INSERT INTO patron VALUES ({k}, '{w}') ON CONFLICT DO NOTHING",
              "UPDATE patron SET name = '{w}' WHERE id IN ({k}, 100)",
              "DELETE FROM patron WHERE id = {k}"],
        ],
        laws: &[Same("SELECT id, name FROM client", "SELECT id, name FROM patron")],
        own: &[],
    },
    case! { "add_column",
        rows: ["INSERT INTO person VALUES (100, 'a')", "INSERT INTO person VALUES (100, 'a')"],
        loads: [
            &["INSERT INTO person VALUES ({k}, '{w}') ON CONFLICT DO NOTHING",
              "UPDATE person SET name = '{w}' WHERE id IN ({k}, 100)",
              "DELETE FROM person WHERE id = {k}"],
            &["INSERT INTO person VALUES ({k}, '{w}', 'silver') ON CONFLICT DO NOTHING",
              "UPDATE person SET name = '{w}', level = 'bronze' WHERE id = {k}",
              "UPDATE person SET name = '{w}' WHERE id = 100",
              "DELETE FROM person WHERE id = {k}"],
        ],
        laws: &[Same("SELECT id, name FROM person", "SELECT id, name FROM person")],
        own: &[own("green", "UPDATE person SET level = 'gold' WHERE id = 100", "SELECT level FROM person WHERE id = 100", "gold")],
    },
    case! { "drop_column",
        rows: ["INSERT INTO office VALUES (100, 'a', 't')", "INSERT INTO office VALUES (100, 'a')"],
        loads: [
            &["INSERT INTO office VALUES ({k}, '{w}', '{w}') ON CONFLICT DO NOTHING",
              "UPDATE office SET city = '{w}', telex = '{w}' WHERE id = {k}",
              "UPDATE office SET city = '{w}' WHERE id = 100",
              "DELETE FROM office WHERE id = {k}"],
            &["INSERT INTO office VALUES ({k}, '{w}') ON CONFLICT DO NOTHING",
              "UPDATE office SET city = '{w}' WHERE id IN ({k}, 100)",
              "DELETE FROM office WHERE id = {k}"],
        ],
        laws: &[Same("SELECT id, city FROM office", "SELECT id, city FROM office")],
        own: &[own("blue", "UPDATE office SET telex = '4711' WHERE id = 100", "SELECT telex FROM office WHERE id = 100", "4711")],
    },
    case! { "rename_column",
        rows: ["INSERT INTO film VALUES (100, 'a', 1900)", "INSERT INTO film VALUES (100, 'a', 1900)"],
        loads: [
            &["INSERT INTO film VALUES ({k}, '{w}', {n}) ON CONFLICT DO NOTHING",
              "UPDATE film SET titel = '{w}' WHERE id IN ({k}, 100)",
              "UPDATE film SET year = {n} WHERE id = {k}",
              "DELETE FROM film WHERE id = {k}"],
            &["INSERT INTO film VALUES ({k}, '{w}', {n}) ON CONFLICT DO NOTHING",
              "UPDATE film SET title = '{w}' WHERE id = {k}",
              "UPDATE film SET year = {n} WHERE id IN ({k}, 100)",
              "DELETE FROM film WHERE id = {k}"],
        ],
        laws: &[Same("SELECT id, titel, year FROM film", "SELECT id, title, year FROM film")],
        own: &[],
    },
    case! { "decompose_by_primary_key",
        rows: ["INSERT INTO member VALUES (100, 'a', 'b')",
               "INSERT INTO member VALUES (100, 'a'); INSERT INTO member_bio VALUES (100, 'b')"],
        loads: [
            &["INSERT INTO member VALUES ({o}, '{w}', '{w}') ON CONFLICT DO NOTHING",
              "INSERT INTO member VALUES ({o}, '{w}') ON CONFLICT DO NOTHING",
              "UPDATE member SET name = '{w}' WHERE id = {o}",
              "UPDATE member SET bio = '{w}' WHERE id IN ({o}, 100)",
              "UPDATE member SET bio = NULL WHERE id = {o}",
              "DELETE FROM member WHERE id = {o}"],
            &["INSERT INTO member VALUES ({o}, '{w}') ON CONFLICT DO NOTHING",
              "INSERT INTO member_bio SELECT id, '{w}' FROM member WHERE id = {o} ON CONFLICT DO NOTHING",
              "UPDATE member SET name = '{w}' WHERE id IN ({o}, 100)",
              "UPDATE member_bio SET bio = '{w}' WHERE id = {o}",
              "DELETE FROM member_bio WHERE id = {o}",
              "BEGIN; DELETE FROM member_bio WHERE id = {o}; DELETE FROM member WHERE id = {o}; COMMIT"],
        ],
        laws: &[Same("SELECT id, name, bio FROM member", "SELECT id, name, bio FROM member LEFT JOIN member_bio USING (id)")],
        own: &[],
    },
    case! { "join_by_primary_key",
        rows: ["INSERT INTO account VALUES (100, 'a'); INSERT INTO avatar VALUES (100, 'p')",
               "INSERT INTO account VALUES (100, 'a', 'p')"],
        loads: [
            &["INSERT INTO account VALUES ({o}, '{w}') ON CONFLICT DO NOTHING",
              "INSERT INTO avatar SELECT id, '{w}' FROM account WHERE id = {o} ON CONFLICT DO NOTHING",
              "UPDATE account SET name = '{w}' WHERE id IN ({o}, 100)",
              "UPDATE avatar SET picture = '{w}' WHERE id = {o}",
              "DELETE FROM avatar WHERE id = {o}",
              "BEGIN; DELETE FROM avatar WHERE id = {o}; DELETE FROM account WHERE id = {o}; COMMIT"],
            &["INSERT INTO account VALUES ({o}, '{w}', '{w}') ON CONFLICT DO NOTHING",
              "INSERT INTO account VALUES ({o}, '{w}') ON CONFLICT DO NOTHING",
              "UPDATE account SET name = '{w}' WHERE id = {o}",
              "UPDATE account SET picture = '{w}' WHERE id IN ({o}, 100)",
              "UPDATE account SET picture = NULL WHERE id = {o}",
              "DELETE FROM account WHERE id = {o}"],
        ],
        laws: &[Same("SELECT id, name, picture FROM account LEFT JOIN avatar USING (id)", "SELECT id, name, picture FROM account")],
        own: &[],
    },
    case! { "decompose_by_foreign_key",
        rows: ["INSERT INTO book VALUES (100, 'a', 'Ada'), (101, 'b', 'Ada'), (102, 'c', NULL)",
               "INSERT INTO author (name) VALUES ('Ada'); INSERT INTO book SELECT 100, 'a', id FROM author; INSERT INTO book SELECT 101, 'b', id FROM author"],
        loads: [
            &["INSERT INTO book VALUES ({o}, '{w}', '{u}') ON CONFLICT DO NOTHING",
              "UPDATE book SET title = '{w}' WHERE id IN ({o}, 100)",
              "UPDATE book SET author = '{u}' WHERE id = {o}",
              "UPDATE book SET author = NULL WHERE id = {o}",
              "DELETE FROM book WHERE id = {o}"],
            &["INSERT INTO author (name) SELECT '{u}' WHERE NOT EXISTS (SELECT FROM author WHERE name = '{u}')",
              "INSERT INTO book SELECT {o}, '{w}', (SELECT id FROM author WHERE name = '{u}') ON CONFLICT DO NOTHING",
              "UPDATE book SET title = '{w}' WHERE id = {o}",
              "UPDATE book SET author_id = (SELECT id FROM author WHERE name = '{u}') WHERE id = {o}",
              "UPDATE author SET name = 'r' || id WHERE name = '{u}'",
              "DELETE FROM book WHERE id = {o}"],
        ],
        laws: &[Same("SELECT id, title, author FROM book",
                     "SELECT b.id, b.title, a.name AS author FROM book b LEFT JOIN author a ON a.id = b.author_id")],
        own: &[own("green", "UPDATE author SET born = 1815 WHERE name = 'Ada'",
                   "SELECT born::text FROM author a JOIN book b ON b.author_id = a.id WHERE b.id = 100", "1815")],
    },
    case! { "join_by_foreign_key",
        rows: ["INSERT INTO city (name) VALUES ('Ayr'); INSERT INTO visit SELECT 100, id, 'n' FROM city",
               "INSERT INTO visit VALUES (100, 'Ayr', 'n'), (101, NULL, 'n')"],
        loads: [
            &["INSERT INTO city (name) SELECT '{u}' WHERE NOT EXISTS (SELECT FROM city WHERE name = '{u}')",
              "INSERT INTO visit SELECT {o}, (SELECT id FROM city WHERE name = '{u}'), '{w}' ON CONFLICT DO NOTHING",
              "UPDATE visit SET note = '{w}' WHERE id IN ({o}, 100)",
              "UPDATE visit SET city_id = (SELECT id FROM city WHERE name = '{u}') WHERE id = {o}",
              "UPDATE city SET name = 'r' || id WHERE name = '{u}'",
              "DELETE FROM visit WHERE id = {o}"],
            &["INSERT INTO visit VALUES ({o}, '{u}', '{w}') ON CONFLICT DO NOTHING",
              "UPDATE visit SET note = '{w}' WHERE id = {o}",
              "UPDATE visit SET city = '{u}' WHERE id = {o}",
              "UPDATE visit SET city = NULL WHERE id = {o}",
              "DELETE FROM visit WHERE id = {o}"],
        ],
        laws: &[Same("SELECT v.id, c.name AS city, v.note FROM visit v LEFT JOIN city c ON c.id = v.city_id",
                     "SELECT id, city, note FROM visit")],
        own: &[own("blue", "INSERT INTO city (name) VALUES ('unseen')", "SELECT name FROM city WHERE name = 'unseen'", "unseen")],
    },
    case! { "decompose_by_condition",
        rows: ["INSERT INTO fixture VALUES (100, 'a', 'b')", ""],
        loads: [
            &["INSERT INTO fixture VALUES ({o}, '{w}', '{u}') ON CONFLICT DO NOTHING",
              "UPDATE fixture SET host = '{w}' WHERE id = {o}",
              "DELETE FROM fixture WHERE id = {o}"],
            &[],
        ],
        laws: &[],
        own: &[],
    },
    case! { "horizontal_split",
        rows: ["INSERT INTO parcel VALUES (100, 'open', 1)", "INSERT INTO parcel_open VALUES (100, 'open', 1)"],
        loads: [
            &["INSERT INTO parcel VALUES ({o}, 'open', {n}) ON CONFLICT DO NOTHING",
              "INSERT INTO parcel VALUES ({o}, 'done', {n}) ON CONFLICT DO NOTHING",
              "UPDATE parcel SET state = 'done' WHERE id = {o}",
              "UPDATE parcel SET state = 'open', weight = {n} WHERE id = {o}",
              "UPDATE parcel SET weight = {n} WHERE id IN ({o}, 100)",
              "DELETE FROM parcel WHERE id = {o}"],
            &["INSERT INTO parcel_open SELECT {o}, 'open', {n} WHERE NOT EXISTS (SELECT FROM parcel_done WHERE id = {o}) ON CONFLICT DO NOTHING",
              "BEGIN; INSERT INTO parcel_done SELECT id, 'done', weight FROM parcel_open WHERE id IN ({o}, 100);
               DELETE FROM parcel_open WHERE id IN ({o}, 100); COMMIT",
              "WITH gone AS (DELETE FROM parcel_done WHERE id IN ({o}, 100) RETURNING *)
               INSERT INTO parcel_open SELECT id, 'open', {n} FROM gone",
              "UPDATE parcel_open SET weight = {n} WHERE id = {o}; UPDATE parcel_done SET weight = {n} WHERE id = {o}",
              "DELETE FROM parcel_open WHERE id = {o}",
              "DELETE FROM parcel_done WHERE id = {o}"],
        ],
        laws: &[Same("SELECT id, state, weight FROM parcel", "SELECT * FROM parcel_open UNION ALL SELECT * FROM parcel_done")],
        own: &[own("blue", "UPDATE parcel SET shelf = 'B7' WHERE id = 100", "SELECT shelf FROM parcel WHERE id = 100", "B7")],
    },
    case! { "merge",
        rows: ["INSERT INTO mail VALUES (100, 'a'); INSERT INTO letter VALUES (101, 'b', 5)",
               "INSERT INTO message VALUES (100, 'mail', 'a', NULL), (101, 'letter', 'b', 5)"],
        loads: [
            &["INSERT INTO mail SELECT {o}, '{w}' WHERE NOT EXISTS (SELECT FROM letter WHERE id = {o}) ON CONFLICT DO NOTHING",
              "INSERT INTO letter SELECT {o}, '{w}', {n} WHERE NOT EXISTS (SELECT FROM mail WHERE id = {o}) ON CONFLICT DO NOTHING",
              "BEGIN; INSERT INTO letter SELECT id, body, {n} FROM mail WHERE id IN ({o}, 100); DELETE FROM mail WHERE id IN ({o}, 100); COMMIT",
              "WITH gone AS (DELETE FROM letter WHERE id IN ({o}, 100) RETURNING *) INSERT INTO mail SELECT id, '{w}' FROM gone",
              "UPDATE mail SET body = '{w}' WHERE id = {o}; UPDATE letter SET postage = {n} WHERE id = {o}",
              "DELETE FROM mail WHERE id = {o}",
              "DELETE FROM letter WHERE id = {o}"],
            &["INSERT INTO message VALUES ({o}, 'mail', '{w}') ON CONFLICT DO NOTHING",
              "INSERT INTO message VALUES ({o}, 'letter', '{w}', {n}) ON CONFLICT DO NOTHING",
              "UPDATE message SET kind = 'letter', postage = {n} WHERE id = {o}",
              "UPDATE message SET kind = 'mail' WHERE id = {o}",
              "UPDATE message SET body = '{w}' WHERE id IN ({o}, 101)",
              "DELETE FROM message WHERE id = {o}"],
        ],
        laws: &[Same("SELECT id, 'mail' AS kind, body, NULL::int AS postage FROM mail UNION ALL SELECT id, 'letter', body, postage FROM letter",
                     "SELECT id, kind, body, CASE kind WHEN 'letter' THEN postage END AS postage FROM message")],
        own: &[own("green", "UPDATE message SET stars = 5 WHERE id = 100", "SELECT stars::text FROM message WHERE id = 100", "5")],
    },
];

/// Green is never behind where it is the target: then every part of a fixture is there.
const FORWARD_ONLY: &[Law] = &[
    Covers("SELECT host FROM fixture", "SELECT name FROM host"),
    Covers("SELECT guest FROM fixture", "SELECT name FROM guest"),
];

fn side<'s>(stage: &'s Stage, name: &str) -> &'s Side {
    if name == "blue" { &stage.blue } else { &stage.green }
}

/// Both schemas with all operators, and old rows in the log, as `check` asks for.
fn stage(name: &str, direction: &str) -> Stage {
    let stage = Stage::new(name);
    let join = |part: fn(&Case) -> &str| CASES.iter().map(part).collect::<Vec<_>>().join("\n");
    let full =
        "DO $$ DECLARE name text; BEGIN FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP
        EXECUTE format('ALTER TABLE %I REPLICA IDENTITY FULL', name); END LOOP; END $$";
    stage.schemas(&format!("{};\n{full}", join(|case| case.v1)), &format!("{};\n{full}", join(|case| case.v2)));
    let policy = if direction == "both" { "conflict = \"green_wins\"\n" } else { "" };
    stage.config(direction, &format!("{policy}{}", Stage::transforms(Some(operators_component()))));
    stage
}

fn filled(statement: &str, side: usize, both: bool, dice: &mut Dice) -> String {
    let own = if both { dice.below(10) + 1 + 10 * side as u64 } else { dice.below(20) + 1 };
    let word = |dice: &mut Dice| format!("w{}", dice.below(10));
    statement
        .replace("{k}", &(dice.below(20) + 1).to_string())
        .replace("{o}", &own.to_string())
        .replace("{w}", &word(dice))
        .replace("{u}", &format!("{}{}", ["b", "g"][side], dice.below(5)))
        .replace("{n}", &dice.below(10).to_string())
}

/// One application: random statements of all operators.
fn load(stage: &Stage, at: usize, both: bool, mut dice: Dice, statements: u64) {
    let side = side(stage, ["blue", "green"][at]);
    let cases: Vec<&Case> = CASES.iter().filter(|case| !case.loads[at].is_empty()).collect();
    for _ in 0..statements {
        let templates = cases[dice.below(cases.len() as u64) as usize].loads[at];
        let template = templates[dice.below(templates.len() as u64) as usize];
        let statement = filled(template, at, both, &mut dice);
        if let Err(error) = side.try_sql(&statement) {
            let _ = side.try_sql("ROLLBACK");
            // The links write as well: a deadlock, or a row that they brought first.
            let excused = both && ["40P01", "40001", "23505", "23503"].iter().any(|state| error.contains(state));
            assert!(excused, "{}: {error}\n  {statement}", side.name);
        }
        dice.pause_up_to(Duration::from_millis(2));
    }
}

fn assert_laws<'l>(stage: &Stage, laws: impl IntoIterator<Item = (&'l str, &'l Law)>) {
    let mut broken = Vec::new();
    for (name, law) in laws {
        let (Same(blue, green) | Covers(blue, green)) = law;
        let (blue_rows, green_rows) = (stage.blue.lines(blue), stage.green.lines(green));
        let holds = match law {
            Same(..) => blue_rows == green_rows,
            Covers(..) => blue_rows.iter().all(|row| green_rows.contains(row)),
        };
        if !holds {
            let only = |these: &[String], those: &[String]| -> Vec<String> {
                these.iter().filter(|row| !those.contains(row)).cloned().collect()
            };
            broken.push(format!(
                "{name}: only in blue {:?}, only in green {:?}",
                only(&blue_rows, &green_rows),
                only(&green_rows, &blue_rows)
            ));
        }
    }
    assert!(broken.is_empty(), "laws that do not hold:\n{}", broken.join("\n"));
}

fn laws() -> impl Iterator<Item = (&'static str, &'static Law)> {
    CASES.iter().flat_map(|case| case.laws.iter().map(|law| (case.name, law)))
}

fn assert_own(stage: &Stage) {
    for case in CASES {
        for own in case.own {
            let found = side(stage, own.side).value(own.query);
            assert_eq!(found, own.expected, "{}: what only {} knows", case.name, own.side);
        }
    }
}

fn caught_up(stage: &Stage) {
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
}

/// Copies the first rows from a side, lets each side write what only it knows, and then runs the links under load.
fn run(stage: &Stage, from: usize, loads: &[usize]) {
    for case in CASES {
        side(stage, ["blue", "green"][from]).sql(case.rows[from]);
    }
    stage.falkirk(&["check"]).expect(0);
    caught_up(stage);
    for own in CASES.iter().flat_map(|case| case.own) {
        side(stage, own.side).sql(own.written);
    }
    let mut dice = Dice::of_this_run(stage.name());
    let both = loads.len() > 1;
    let mut host = stage.start_falkirk(&["run"]);
    std::thread::scope(|scope| {
        for at in loads {
            let dice = dice.fork();
            scope.spawn(move || load(stage, *at, both, dice, 800));
        }
    });
    assert!(host.is_running(), "the host has ended\n{}{}", host.out(), host.err());
    host.terminate().expect(143);
    // What one link brings may be the other one's business.
    for _ in loads {
        caught_up(stage);
    }
}

#[test]
fn every_operator_holds_its_law_forward_under_load() {
    let stage = stage("operators_forward", "forward");
    run(&stage, 0, &[0]);
    assert_laws(&stage, laws().chain(FORWARD_ONLY.iter().map(|law| ("decompose_by_condition", law))));
    assert_own(&stage);
    stage.falkirk(&["verify"]).expect(0);
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn every_operator_holds_its_law_backward_under_load() {
    let stage = stage("operators_backward", "backward");
    run(&stage, 1, &[1]);
    assert_laws(&stage, laws());
    assert_own(&stage);
    stage.falkirk(&["verify"]).expect(0);
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn l8_every_operator_holds_its_law_while_both_sides_write() {
    let stage = stage("operators_both", "both");
    run(&stage, 0, &[0, 1]);
    assert_laws(&stage, laws().chain(FORWARD_ONLY.iter().map(|law| ("decompose_by_condition", law))));
    assert_own(&stage);
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn counter_example_10_a_key_in_both_merged_tables_stops_the_link_until_one_of_them_goes() {
    let stage = stage("operators_overlap", "forward");
    stage.blue.sql("INSERT INTO mail VALUES (1, 'mail')");
    caught_up(&stage);
    stage.blue.sql("INSERT INTO letter VALUES (2, 'before', 1)");
    stage.blue.sql("INSERT INTO letter VALUES (1, 'secret', 2)");
    stage.blue.sql("INSERT INTO mail VALUES (3, 'after')");
    for _ in 0..2 {
        let run = stage.falkirk(&["run", "--until", "caught-up"]).expect(3);
        run.says("CONFLICT").says("public.message").says("position").keeps_quiet_about("secret");
        assert_eq!(stage.green.lines("SELECT id, kind, body FROM message"), ["(1,mail,mail)", "(2,letter,before)"]);
    }
    // What the author does: keys that never meet, and a fresh start.
    stage.falkirk(&["clean"]).expect(0);
    stage.green.sql("DELETE FROM message");
    stage.blue.sql("UPDATE letter SET id = 1001 WHERE id = 1");
    caught_up(&stage);
    assert_eq!(
        stage.green.lines("SELECT id, kind FROM message"),
        ["(1,mail)", "(1001,letter)", "(2,letter)", "(3,mail)"]
    );
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn counter_example_39_a_join_by_condition_has_two_owners_and_is_refused() {
    let stage = Stage::one_way("operators_refused");
    stage.schemas(
        include_str!("../../examples/operators/src/join_by_condition/v1.sql"),
        include_str!("../../examples/operators/src/join_by_condition/v2.sql"),
    );
    let refused = include_str!("../../examples/operators/src/join_by_condition/refused.json");
    let file = component_with_manifest(&stage, refused);
    stage.config("forward", &Stage::transforms(Some(&file)));
    for command in ["check", "run"] {
        stage.falkirk(&[command]).expect(1).says("TWO_OWNERS").says("public.shift_sale").says("merging two owners");
    }
    assert_eq!(stage.green.count("(SELECT FROM pg_namespace WHERE nspname = 'falkirk')"), 0, "nothing was made");
}
