//! Both links under random load, kills and stalls: the sides converge, whatever the interleaving (L8), nothing comes back
//! as an echo (L7), and what was decided is recorded.
//!
//! Each seed is a short burst of transactions on both sides at once, over few rows, so that they collide. A failing seed
//! prints itself; `FALKIRK_SEED=n` runs only that one. `make torture` runs many more.

use std::time::{Duration, Instant};

use falkirk_tests::ledger::Dice;
use falkirk_tests::{Running, SOON, Side, Stage, until};

const TABLES: &str = "
    CREATE TABLE item (id int PRIMARY KEY, a int NOT NULL, b int NOT NULL, c text);
    CREATE TABLE fence (side text PRIMARY KEY, number bigint NOT NULL);
    ALTER TABLE item REPLICA IDENTITY FULL;
    ALTER TABLE fence REPLICA IDENTITY FULL;";

/// Keys that both sides fight over.
const KEYS: u64 = 6;

fn long() -> bool {
    std::env::var("FALKIRK_TORTURE").is_ok_and(|tier| tier == "long")
}

fn seeds(few: u64, many: u64) -> Vec<u64> {
    match Dice::given_seed() {
        Some(seed) => vec![seed],
        None => (1..=if long() { many } else { few }).collect(),
    }
}

/// The statements of one transaction: inserts, updates of one column or both, there and back again, deletes, key changes.
fn transaction(dice: &mut Dice) -> String {
    let mut statements = String::from("BEGIN;");
    for _ in 0..=dice.below(2) {
        let (id, value) = (dice.below(KEYS) + 1, dice.below(3));
        statements += &match dice.below(9) {
            0 | 1 => format!("INSERT INTO item VALUES ({id}, {value}, {value}, 'x') ON CONFLICT DO NOTHING;"),
            2 | 3 => format!("UPDATE item SET a = {value} WHERE id = {id};"),
            4 => format!("UPDATE item SET b = {value} WHERE id = {id};"),
            5 => format!("UPDATE item SET a = 7 WHERE id = {id}; UPDATE item SET a = {value} WHERE id = {id};"),
            6 => format!("UPDATE item SET a = {value}, b = {value}, c = 'y{value}' WHERE id = {id};"),
            7 => format!("DELETE FROM item WHERE id = {id};"),
            _ => format!(
                "UPDATE item SET id = {0} WHERE id = {id} AND NOT EXISTS (SELECT FROM item WHERE id = {0});",
                dice.below(KEYS) + 1
            ),
        };
    }
    statements + "COMMIT"
}

fn burst(side: &Side, mut dice: Dice) {
    for _ in 0..dice.below(8) + 2 {
        // Two transactions of the same side never run at once here, but the links may be in their way.
        if let Err(error) = side.try_sql(&transaction(&mut dice)) {
            let _ = side.try_sql("ROLLBACK");
            let excused = ["40P01", "23505", "40001"].iter().any(|state| error.contains(state));
            assert!(excused, "{}: {error}", side.name);
        }
        dice.pause_up_to(Duration::from_millis(4));
    }
}

/// Everything that was written before has arrived on both sides, also what the arrival itself set off.
fn quiet(stage: &Stage, number: u64) {
    for round in 0..2 {
        let mark = number * 10 + round;
        for side in [&stage.blue, &stage.green] {
            let name = side.name;
            side.sql(&format!(
                "INSERT INTO fence VALUES ('{name}', {mark}) ON CONFLICT (side) DO UPDATE SET number = {mark}"
            ));
        }
        let arrived = |side: &Side, other: &str| {
            side.count(&format!("(SELECT FROM fence WHERE side = '{other}' AND number = {mark})")) == 1
        };
        until("the fences are passed", SOON, || arrived(&stage.blue, "green") && arrived(&stage.green, "blue"));
    }
}

fn assert_agree(stage: &Stage, seed: u64) {
    let query = "SELECT * FROM item";
    let end = Instant::now() + Duration::from_secs(5);
    while !stage.same(query, query) {
        if Instant::now() > end {
            let (blue, green) = (stage.blue.lines(query), stage.green.lines(query));
            panic!("L8: seed {seed} leaves the sides apart\n  blue:  {blue:?}\n  green: {green:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Something that happens to the host during a burst.
fn disturb(stage: &Stage, host: Running, dice: &mut Dice) -> Running {
    match dice.below(6) {
        0 => {
            dice.pause_up_to(Duration::from_millis(20));
            host.kill_9();
            stage.start_falkirk(&["run"])
        }
        // A link that cannot write for a while falls behind the other one.
        kind @ (1 | 2) => {
            let side = if kind == 1 { &stage.blue } else { &stage.green };
            side.admin("BEGIN; LOCK TABLE falkirk.checkpoint IN EXCLUSIVE MODE; SELECT pg_sleep(0.2); COMMIT");
            host
        }
        _ => host,
    }
}

fn converge(name: &str, policy: &str, seeds: &[u64]) {
    let stage = Stage::new(name);
    stage.schemas(TABLES, TABLES);
    stage.config("both", &format!("conflict = \"{policy}\"\ntransforms = []"));
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    let mut host = stage.start_falkirk(&["run"]);
    for seed in seeds {
        let mut dice = Dice::of_seed(*seed);
        let (blue, green) = (dice.fork(), dice.fork());
        host = std::thread::scope(|scope| {
            scope.spawn(|| burst(&stage.blue, blue));
            scope.spawn(|| burst(&stage.green, green));
            disturb(&stage, host, &mut dice)
        });
        assert!(host.is_running(), "seed {seed}: the host has ended\n{}{}", host.out(), host.err());
        quiet(&stage, *seed);
        assert_agree(&stage, *seed);
    }
    let conflicts = |side: &Side| side.admin("SELECT count(*) FROM falkirk.conflict")[0][0].clone();
    println!(
        "{policy}: {} seeds, conflicts recorded: {} on blue, {} on green",
        seeds.len(),
        conflicts(&stage.blue),
        conflicts(&stage.green)
    );
    host.terminate().expect(143);
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn l8_random_transactions_on_both_sides_converge_where_green_wins() {
    converge("two_way_green", "green_wins", &seeds(100, 2_500));
}

#[test]
fn l8_random_transactions_on_both_sides_converge_where_blue_wins() {
    converge("two_way_blue", "blue_wins", &seeds(100, 2_500));
}
