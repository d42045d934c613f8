//! Both links under random load and kills, on rows that one side holds in one table and the other side in two: routed by
//! their state, merged, or described by a second table's row. The sides converge, whatever the interleaving (L8), and
//! whatever was not written is recorded (L3).
//!
//! Each seed gives both sides a few rows and a short burst of transactions on them at once. A failing seed prints itself;
//! `FALKIRK_SEED=n` runs only that one, `n-m` those. `make torture` runs many more.

use std::path::Path;
use std::time::{Duration, Instant};

use falkirk_tests::fences::{FENCE, quiet};
use falkirk_tests::journal::{Journal, Tables};
use falkirk_tests::ledger::Dice;
use falkirk_tests::{
    FULL_IDENTITY, SOON, Side, Stage, operators_component, operators_schemas, shop_component, shop_schemas, until,
};

/// Rows that both sides fight over, at the start of each seed.
const ROWS: u64 = 4;

/// One example. In statements `{k}` is a key that both sides know, `{f}` a fresh one of the side's own, `{n}` a number and
/// `{w}` a word that are used once. No key is used again: two tables have no unique index in common, so an application that gives one
/// key to a row in each of them at once would be its own second writer.
struct Case {
    /// Blue's row at the start.
    row: &'static str,
    loads: [&'static [&'static str]; 2],
    laws: [&'static str; 2],
    /// The tables that hold the row, and those that describe it.
    tables: (&'static [&'static str], &'static [&'static str]),
}

const SPLIT: Case = Case {
    row: "INSERT INTO parcel VALUES ({k}, CASE {n} % 2 WHEN 0 THEN 'open' ELSE 'done' END, {n})",
    loads: [
        &[
            "INSERT INTO parcel VALUES ({f}, 'done', {n})",
            "UPDATE parcel SET state = 'done' WHERE id = {k}",
            "UPDATE parcel SET state = 'open', weight = {n} WHERE id = {k}",
            "UPDATE parcel SET weight = {n} WHERE id = {k}",
            "BEGIN; UPDATE parcel SET state = 'done' WHERE id = {k}; UPDATE parcel SET weight = {n} WHERE id = {k}; COMMIT",
            "DELETE FROM parcel WHERE id = {k}",
        ],
        &[
            "INSERT INTO parcel_open VALUES ({f}, 'open', {n})",
            "BEGIN; INSERT INTO parcel_done SELECT id, 'done', weight FROM parcel_open WHERE id = {k};
             DELETE FROM parcel_open WHERE id = {k} AND EXISTS (SELECT FROM parcel_done WHERE id = {k}); COMMIT",
            "WITH gone AS (DELETE FROM parcel_done WHERE id = {k} RETURNING *)
             INSERT INTO parcel_open SELECT id, 'open', {n} FROM gone",
            "WITH gone AS (DELETE FROM parcel_open WHERE id = {k} RETURNING *)
             INSERT INTO parcel_done SELECT id, 'done', weight FROM gone",
            "UPDATE parcel_open SET weight = {n} WHERE id = {k}",
            "UPDATE parcel_done SET weight = {n} WHERE id = {k}",
            "DELETE FROM parcel_open WHERE id = {k}",
            "DELETE FROM parcel_done WHERE id = {k}",
        ],
    ],
    laws: ["SELECT id, state, weight FROM parcel", "SELECT * FROM parcel_open UNION ALL SELECT * FROM parcel_done"],
    tables: (&["parcel", "parcel_open", "parcel_done"], &[]),
};

const MERGE: Case = Case {
    row: "INSERT INTO letter VALUES ({k}, 'a', {n})",
    loads: [
        &[
            "INSERT INTO mail VALUES ({f}, '{w}')",
            "WITH gone AS (DELETE FROM mail WHERE id = {k} RETURNING *) INSERT INTO letter SELECT id, body, {n} FROM gone",
            "WITH gone AS (DELETE FROM letter WHERE id = {k} RETURNING *) INSERT INTO mail SELECT id, '{w}' FROM gone",
            "UPDATE mail SET body = '{w}' WHERE id = {k}; UPDATE letter SET postage = {n} WHERE id = {k}",
            "DELETE FROM mail WHERE id = {k}",
            "DELETE FROM letter WHERE id = {k}",
        ],
        &[
            "INSERT INTO message VALUES ({f}, 'mail', '{w}')",
            "UPDATE message SET kind = 'letter', postage = {n} WHERE id = {k}",
            "UPDATE message SET kind = 'mail' WHERE id = {k}",
            "UPDATE message SET body = '{w}' WHERE id = {k}",
            "DELETE FROM message WHERE id = {k}",
        ],
    ],
    laws: [
        "SELECT id, 'mail' AS kind, body, NULL::int AS postage FROM mail
         UNION ALL SELECT id, 'letter', body, postage FROM letter",
        "SELECT id, kind, body, CASE kind WHEN 'letter' THEN postage END AS postage FROM message",
    ],
    tables: (&["mail", "letter", "message"], &[]),
};

const DECOMPOSED: Case = Case {
    row: "INSERT INTO member VALUES ({k}, 'a', CASE {n} % 2 WHEN 0 THEN 'b' END)",
    loads: [
        &[
            "INSERT INTO member VALUES ({f}, '{w}', '{w}')",
            "UPDATE member SET name = '{w}' WHERE id = {k}",
            "UPDATE member SET bio = '{w}' WHERE id = {k}",
            "UPDATE member SET bio = NULL WHERE id = {k}",
            "DELETE FROM member WHERE id = {k}",
        ],
        &[
            "BEGIN; INSERT INTO member_bio VALUES ({f}, '{w}'); INSERT INTO member VALUES ({f}, '{w}'); COMMIT",
            "INSERT INTO member_bio SELECT id, '{w}' FROM member WHERE id = {k} ON CONFLICT DO NOTHING",
            "UPDATE member SET name = '{w}' WHERE id = {k}",
            "UPDATE member_bio SET bio = '{w}' WHERE id = {k}",
            "DELETE FROM member_bio WHERE id = {k}",
            "BEGIN; DELETE FROM member_bio WHERE id = {k}; DELETE FROM member WHERE id = {k}; COMMIT",
        ],
    ],
    laws: ["SELECT id, name, bio FROM member", "SELECT id, name, bio FROM member LEFT JOIN member_bio USING (id)"],
    tables: (&["member"], &["member_bio"]),
};

const JOINED: Case = Case {
    row: "INSERT INTO account VALUES ({k}, 'a'); INSERT INTO avatar SELECT {k}, 'p' WHERE {n} % 2 = 0",
    loads: [
        &[
            "BEGIN; INSERT INTO avatar VALUES ({f}, '{w}'); INSERT INTO account VALUES ({f}, '{w}'); COMMIT",
            "INSERT INTO avatar SELECT id, '{w}' FROM account WHERE id = {k} ON CONFLICT DO NOTHING",
            "UPDATE account SET name = '{w}' WHERE id = {k}",
            "UPDATE avatar SET picture = '{w}' WHERE id = {k}",
            "DELETE FROM avatar WHERE id = {k}",
            "BEGIN; DELETE FROM avatar WHERE id = {k}; DELETE FROM account WHERE id = {k}; COMMIT",
        ],
        &[
            "INSERT INTO account VALUES ({f}, '{w}', '{w}')",
            "UPDATE account SET name = '{w}' WHERE id = {k}",
            "UPDATE account SET picture = '{w}' WHERE id = {k}",
            "UPDATE account SET picture = NULL WHERE id = {k}",
            "DELETE FROM account WHERE id = {k}",
        ],
    ],
    laws: [
        "SELECT id, name, picture FROM account LEFT JOIN avatar USING (id)",
        "SELECT id, name, picture FROM account",
    ],
    tables: (&["account"], &["avatar"]),
};

const ORDERS: Case = Case {
    row: "INSERT INTO orders (id, customer_id, total) VALUES ({k}, 1, {n})",
    loads: [
        &[
            "INSERT INTO orders (id, customer_id, total) VALUES ({f}, 1, {n})",
            "UPDATE orders SET status = 'archived' WHERE id = {k}",
            "UPDATE orders SET status = 'sent', total = {n} WHERE id = {k}",
            "UPDATE orders SET total = {n} WHERE id = {k}",
            "DELETE FROM orders WHERE id = {k}",
        ],
        &[
            "INSERT INTO orders (id, customer_id, total) VALUES ({f}, 1, {n})",
            "WITH gone AS (DELETE FROM orders WHERE id = {k} RETURNING *)
             INSERT INTO archived_orders SELECT id, customer_id, 'archived', total, placed_at FROM gone",
            "WITH gone AS (DELETE FROM archived_orders WHERE id = {k} RETURNING *)
             INSERT INTO orders SELECT id, customer_id, 'paid', {n}, placed_at FROM gone",
            "UPDATE orders SET total = {n}, status = 'paid' WHERE id = {k}",
            "UPDATE archived_orders SET total = {n} WHERE id = {k}",
            "DELETE FROM orders WHERE id = {k}",
            "DELETE FROM archived_orders WHERE id = {k}",
        ],
    ],
    laws: [
        "SELECT id, customer_id, status, total, placed_at FROM orders",
        "SELECT * FROM orders UNION ALL SELECT * FROM archived_orders",
    ],
    tables: (&["orders", "archived_orders"], &[]),
};

/// Postage is none: green keeps what it says of mail to itself.
const JOURNAL: Tables = Tables {
    families: &[SPLIT.tables, MERGE.tables, DECOMPOSED.tables, JOINED.tables, ORDERS.tables],
    born: None,
    tokens: &["weight", "body", "name", "bio", "picture", "total"],
};

/// Two schemas with what the test needs beside them.
fn prepared(name: &str, policy: &str, schemas: [String; 2], component: &Path) -> Stage {
    let stage = Stage::new(name);
    let [blue, green] = schemas.map(|schema| format!("{schema};{FENCE}{FULL_IDENTITY}{}", JOURNAL.schema(&schema)));
    stage.schemas(&blue, &green);
    let transforms = Stage::transforms(Some(component));
    stage.config("both", &format!("conflict = \"{policy}\"\n{transforms}{}", JOURNAL.config()));
    stage
}

fn operators(name: &str, policy: &str) -> Stage {
    prepared(name, policy, operators_schemas(), operators_component())
}

fn shop(name: &str, policy: &str) -> Stage {
    let stage = prepared(name, policy, shop_schemas(), shop_component());
    stage.blue.sql("INSERT INTO customer (id, name, email) VALUES (1, 'Mary Ann Smith', 'mary@x')");
    stage
}

fn seeds() -> Vec<u64> {
    let long = std::env::var("FALKIRK_TORTURE").is_ok_and(|tier| tier == "long");
    match Dice::given_seeds() {
        Some(seeds) => seeds.collect(),
        None => (1..=if long { 1_000 } else { 20 }).collect(),
    }
}

/// What one side of a seed has used up.
struct Fresh {
    seed: u64,
    side: u64,
    keys: u64,
    tokens: u64,
}

impl Fresh {
    fn filled(&mut self, statement: &str, dice: &mut Dice) -> String {
        let Fresh { seed, side, .. } = *self;
        let base = seed * 1_000 + 100 * (side + 1);
        self.keys += u64::from(statement.contains("{f}"));
        self.tokens += 1;
        statement
            .replace("{k}", &(seed * 1_000 + dice.below(ROWS)).to_string())
            .replace("{f}", &(base + self.keys).to_string())
            .replace("{n}", &(base + self.tokens).to_string())
            .replace("{w}", &format!("w{}", base + self.tokens))
    }
}

fn burst(side: &Side, at: usize, cases: &[&Case], seed: u64, mut dice: Dice) {
    let mut fresh = Fresh { seed, side: at as u64, keys: 0, tokens: 0 };
    for _ in 0..dice.below(6) + 3 {
        for case in cases {
            let template = case.loads[at][dice.below(case.loads[at].len() as u64) as usize];
            let statement = fresh.filled(template, &mut dice);
            if let Err(error) = side.try_sql(&statement) {
                let _ = side.try_sql("ROLLBACK");
                // The links write as well: a deadlock, or a row that they brought or took first.
                let excused = ["40P01", "40001", "23505", "23503"].iter().any(|state| error.contains(state));
                assert!(excused, "{}: {error}\n  {statement}", side.name);
            }
        }
        dice.pause_up_to(Duration::from_millis(4));
    }
}

fn assert_agree(stage: &Stage, cases: &[&Case], seed: u64) {
    let end = Instant::now() + SOON;
    for [blue, green] in cases.iter().map(|case| case.laws) {
        while !stage.same(blue, green) {
            if Instant::now() > end {
                let (here, there) = (stage.blue.lines(blue), stage.green.lines(green));
                let only = |these: &[String], those: &[String]| -> Vec<String> {
                    these.iter().filter(|row| !those.contains(row)).cloned().collect()
                };
                let (one, other) = (only(&here, &there), only(&there, &here));
                panic!("L8: seed {seed} leaves the sides apart\n  only in blue:  {one:?}\n  only in green: {other:?}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Takes the loser's word in the conflicts that were just decided: each is carried out, or refused because its record has
/// changed since. How many were carried out.
fn take_losers(stage: &Stage, policy: &str) -> u64 {
    let (winner, side, loser) =
        if policy == "green_wins" { (&stage.green, "green", "blue") } else { (&stage.blue, "blue", "green") };
    let mut taken = 0;
    // What rows refer to cannot be deleted whoever asks for it.
    let ids = winner.admin("SELECT id FROM falkirk.conflict WHERE held_by IS NULL ORDER BY id");
    for id in ids.iter().map(|row| &row[0]) {
        let resolved = stage.falkirk(&["conflicts", "resolve", &format!("{side}-{id}"), "--take", loser]);
        let refused =
            ["ROW_CHANGED", "ALREADY_RESOLVED", "RECORD_UNKNOWN"].iter().any(|code| resolved.err.contains(code));
        assert!(resolved.code == 0 || refused, "{side}-{id}: {}{}", resolved.out, resolved.err);
        taken += u64::from(resolved.code == 0);
    }
    taken
}

fn converge(stage: &Stage, policy: &str, cases: &[&Case]) {
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    let mut host = stage.start_falkirk(&["run"]);
    let seeds = seeds();
    let (mut conflicts, mut removals_lost, mut taken) = (0, 0, 0);
    for seed in &seeds {
        let mut dice = Dice::of_seed(*seed);
        for case in cases {
            for key in 0..ROWS {
                let statement = case.row.replace("{k}", &(seed * 1_000 + key).to_string());
                stage.blue.sql(&statement.replace("{n}", &dice.below(10).to_string()));
            }
        }
        quiet(stage, &mut host, &format!("seed {seed}"));
        assert_agree(stage, cases, *seed);
        let journal = Journal::begin(stage, JOURNAL, policy == "green_wins");
        let (blue, green) = (dice.fork(), dice.fork());
        host = std::thread::scope(|scope| {
            scope.spawn(|| burst(&stage.blue, 0, cases, *seed, blue));
            scope.spawn(|| burst(&stage.green, 1, cases, *seed, green));
            if dice.below(3) > 0 {
                return host;
            }
            dice.pause_up_to(Duration::from_millis(30));
            host.kill_9();
            stage.start_falkirk(&["run"])
        });
        quiet(stage, &mut host, &format!("seed {seed}"));
        assert_agree(stage, cases, *seed);
        let found = journal.end(&format!("seed {seed}"));
        conflicts += found.conflicts;
        removals_lost += found.removals_lost;
        taken += take_losers(stage, policy);
        quiet(stage, &mut host, &format!("seed {seed}"));
        assert_agree(stage, cases, *seed);
    }
    let name = stage.name();
    println!(
        "{name}: {} seeds, {conflicts} conflicts recorded, {removals_lost} removals lost, {taken} conflicts taken otherwise",
        seeds.len()
    );
    assert!(seeds.len() < 20 || taken > 0, "somebody loses in so many seeds, and is heard afterwards");
    host.terminate().expect(143);
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn l8_orders_that_green_holds_in_two_tables_converge_where_green_wins() {
    converge(&shop("routed_shop_green", "green_wins"), "green_wins", &[&ORDERS]);
}

#[test]
fn l8_orders_that_green_holds_in_two_tables_converge_where_blue_wins() {
    converge(&shop("routed_shop_blue", "blue_wins"), "blue_wins", &[&ORDERS]);
}

#[test]
fn l8_split_and_merged_rows_converge_whoever_wins() {
    for policy in ["green_wins", "blue_wins"] {
        converge(&operators(&format!("routed_{policy}"), policy), policy, &[&SPLIT, &MERGE]);
    }
}

#[test]
fn l8_rows_that_another_tables_row_describes_converge_whoever_wins() {
    for policy in ["green_wins", "blue_wins"] {
        converge(&operators(&format!("described_{policy}"), policy), policy, &[&DECOMPOSED, &JOINED]);
    }
}

#[test]
fn l8_a_row_that_moves_while_the_winner_waits_for_it_is_not_overlooked() {
    let stage = operators("routed_passes", "green_wins");
    stage.blue.sql("INSERT INTO letter VALUES (1, 'a', 2)");
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    let mut host = stage.start_falkirk(&["run"]);
    quiet(&stage, &mut host, "before the change");
    // Blue moves the letter and does not commit before the link stands waiting for it.
    let moves = "BEGIN; WITH gone AS (DELETE FROM letter RETURNING *) INSERT INTO mail SELECT id, body FROM gone;
        SELECT pg_advisory_xact_lock(4711);
        DO $$ BEGIN WHILE NOT EXISTS (SELECT FROM pg_stat_activity
            WHERE datname = current_database() AND wait_event_type = 'Lock') LOOP
            PERFORM pg_stat_clear_snapshot(); PERFORM pg_sleep(0.01); END LOOP; END $$; COMMIT";
    std::thread::scope(|scope| {
        scope.spawn(|| stage.blue.admin(moves));
        let moved = "SELECT FROM pg_locks JOIN pg_database d ON d.oid = database
            WHERE locktype = 'advisory' AND objid = 4711 AND datname = current_database()";
        until("blue has moved it", SOON, || !stage.blue.admin(moved).is_empty());
        stage.green.sql("DELETE FROM message");
    });
    quiet(&stage, &mut host, "after the change");
    assert_agree(&stage, &[&MERGE], 0);
    assert_eq!((stage.blue.count("mail"), stage.green.count("message")), (0, 0), "green wins");
    host.terminate().expect(143);
    stage.falkirk(&["clean"]).expect(0);
}
