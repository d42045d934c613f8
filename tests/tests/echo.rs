//! No echo (L7): what a link wrote is never sent back by the other one, counted row by row; a chain of two migrations,
//! which signs twice, still flows.

use std::path::PathBuf;
use std::time::Duration;

use falkirk_tests::{Running, Side, Stage, until};

const ITEM: &str = "CREATE TABLE item (id bigint PRIMARY KEY, n int NOT NULL, note text);
    ALTER TABLE item REPLICA IDENTITY FULL;";

/// Changes of each side. Every row is changed once, so that no two of them become one on their way.
const INSERTS: u64 = 39_000;
const UPDATES: u64 = 30_000;
const SINGLE_UPDATES: u64 = 1_000;
const DELETES: u64 = 30_000;
/// What is there before, of each side.
const ROWS: u64 = UPDATES + SINGLE_UPDATES + DELETES;
/// Green's keys lie beyond all of blue's.
const BETWEEN: u64 = 1_000_000;

const PATIENCE: Duration = Duration::from_secs(120);

/// A side's 100,000 changes.
fn change(side: &Side, base: u64) {
    let (singles, deletes, inserts) = (base + UPDATES, base + UPDATES + SINGLE_UPDATES, base + ROWS);
    let within = |from: u64, count: u64| format!("id BETWEEN {} AND {}", from + 1, from + count);
    for part in 0..10 {
        let share = |from: u64, count: u64| within(from + part * count / 10, count / 10);
        side.sql(&format!(
            "INSERT INTO item SELECT id, 0, 'of {} ' || id FROM generate_series(1, {INSERTS} / 10) n,
                LATERAL (SELECT {inserts} + {part} * {INSERTS} / 10 + n AS id) key;
             UPDATE item SET n = n + 1 WHERE {};
             DELETE FROM item WHERE {}",
            side.name,
            share(base, UPDATES),
            share(deletes, DELETES)
        ));
        for n in 1..=SINGLE_UPDATES / 10 {
            let id = singles + part * SINGLE_UPDATES / 10 + n;
            side.sql(&format!("UPDATE item SET note = 'by itself' WHERE id = {id}"));
        }
    }
}

/// Rows that a link has inserted, updated and deleted, as its target holds it.
fn written(target: &Side, link: &str) -> [u64; 3] {
    let sql = format!("SELECT inserted, updated, deleted FROM falkirk.checkpoint WHERE link = '{link}'");
    let row = target.admin(&sql).remove(0);
    [0, 1, 2].map(|column: usize| row[column].parse().expect("a counter is a number"))
}

fn of_both(stage: &Stage) -> [[u64; 3]; 2] {
    [written(&stage.green, "forward"), written(&stage.blue, "backward")]
}

/// How far a server's log has come.
fn log_bytes(side: &Side) -> u64 {
    side.admin("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")[0][0].parse().expect("a position is a number")
}

#[test]
fn l7_100_000_changes_each_way_send_nothing_back() {
    let stage = Stage::with_own_servers("echo", &[]);
    stage.schemas(ITEM, ITEM);
    stage.blue.sql(&format!(
        "INSERT INTO item SELECT base + n, 0, 'old' FROM generate_series(1, {ROWS}) n, (VALUES (0), ({BETWEEN})) base (base)"
    ));
    stage.config("both", "conflict = \"green_wins\"\ntransforms = []");
    let mut host = stage.start_falkirk(&["run"]);
    until("the copy is there", PATIENCE, || streams(&stage) && stage.green.count("item") == 2 * ROWS);
    std::thread::scope(|scope| {
        scope.spawn(|| change(&stage.blue, 0));
        scope.spawn(|| change(&stage.green, BETWEEN));
    });
    let all = [INSERTS, UPDATES + SINGLE_UPDATES, DELETES];
    assert_eq!(all.iter().sum::<u64>(), 100_000);
    until("everything has arrived", PATIENCE, || {
        assert!(host.is_running(), "the host has ended by itself\n{}", host.err());
        let sum = |written: [u64; 3]| written.iter().sum::<u64>();
        of_both(&stage).into_iter().all(|link| sum(link) >= 100_000)
    });
    stage.assert_same("SELECT * FROM item", "SELECT * FROM item");
    let logs = || [&stage.blue, &stage.green].map(log_bytes);
    let before = logs();
    std::thread::sleep(Duration::from_secs(2));
    // An echo would be written a second time; what is sent to and fro would never end.
    assert_eq!(of_both(&stage), [all, all], "L7: rows written by a link are not the rows that the other side changed");
    let grown: Vec<u64> = logs().into_iter().zip(before).map(|(now, before)| now - before).collect();
    assert!(grown.iter().all(|bytes| *bytes < 64 << 10), "the log of a quiet pair grows by {grown:?} bytes in 2 s");
    stage.assert_same("SELECT * FROM item", "SELECT * FROM item");
    for side in [&stage.blue, &stage.green] {
        assert_eq!(side.admin("SELECT count(*) FROM falkirk.conflict")[0][0], "0", "nobody met anybody");
    }
    host.terminate().expect(143);
    stage.falkirk(&["clean"]).expect(0);
}

fn streams(stage: &Stage) -> bool {
    stage.falkirk(&["status", "--json"]).out.contains("streaming")
}

/// A migration from the first stage's green to the second's: the middle of a chain.
fn second_link(first: &Stage, second: &Stage) -> PathBuf {
    let (name, middle, end) = (second.name(), first.green.url(), second.green.url());
    second.file(
        "falkirk.toml",
        format!(
            "[migration]\nname = \"{name}\"\ndirection = \"both\"\nconflict = \"green_wins\"\ntransforms = []\n\n\
             [blue]\nurl = \"{middle}\"\nschema_version = \"1\"\n\n[green]\nurl = \"{end}\"\nschema_version = \"2\"\n"
        ),
    )
}

#[test]
fn l7_a_chain_of_two_migrations_flows_to_both_ends() {
    let (first, second) = (Stage::new("chain_a_b"), Stage::new("chain_b_c"));
    first.schemas(ITEM, ITEM);
    second.schemas(ITEM, ITEM);
    let (a, b, c) = (&first.blue, &first.green, &second.green);
    a.sql("INSERT INTO item SELECT n, 0, 'old' FROM generate_series(1, 100) n");
    first.config("both", "conflict = \"green_wins\"\ntransforms = []");
    second_link(&first, &second);
    first.falkirk(&["run", "--until", "caught-up"]).expect(0);
    second.falkirk(&["run", "--until", "caught-up"]).expect(0);
    let hosts: Vec<Running> = [&first, &second].iter().map(|stage| stage.start_falkirk(&["run"])).collect();
    a.sql("UPDATE item SET note = 'a' WHERE id <= 10; INSERT INTO item VALUES (1001, 1, 'made on a')");
    b.sql("UPDATE item SET note = 'b' WHERE id BETWEEN 11 AND 20; INSERT INTO item VALUES (1002, 1, 'made on b')");
    c.sql("UPDATE item SET note = 'c' WHERE id BETWEEN 21 AND 30; DELETE FROM item WHERE id = 100");
    let all = "SELECT * FROM item";
    let agree = || a.digest(all) == b.digest(all) && b.digest(all) == c.digest(all);
    until("all three hold all of it", PATIENCE, || a.count("item") == 101 && c.count("item") == 101 && agree());
    for by in ["a", "b", "c"] {
        assert_eq!(b.count(&format!("(SELECT FROM item WHERE note = '{by}')")), 10, "what {by} wrote");
    }
    let counters = || {
        let of = |side: &Side| side.admin("SELECT link, inserted, updated, deleted FROM falkirk.checkpoint ORDER BY 1");
        [of(a), of(b), of(c)]
    };
    let before = counters();
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(counters(), before, "L7: a quiet chain goes on writing");
    hosts.into_iter().for_each(|host| drop(host.terminate().expect(143)));
    second.falkirk(&["clean"]).expect(0);
    first.falkirk(&["clean"]).expect(0);
}
