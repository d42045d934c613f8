//! Kills and crashes while both sides write: nothing lost, nothing done twice, nothing sent back.
//!
//! `make torture` runs the same tests with many more rounds.

use std::time::Duration;

use falkirk_tests::ledger::Dice;
use falkirk_tests::twins::{CONFIG, Size, Twins};
use falkirk_tests::{Running, SOON, Stage, until};

/// The long tier.
fn long() -> bool {
    std::env::var("FALKIRK_TORTURE").is_ok_and(|tier| tier == "long")
}

/// Twins that have been copied, with nothing counted yet.
fn twins(stage: &Stage) -> Twins<'_> {
    let twins = Twins::open(stage, Size { accounts: 60, pairs: if long() { 12_000 } else { 3_000 } });
    stage.config("both", CONFIG);
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    twins.begin();
    twins
}

fn finish(stage: &Stage, twins: &Twins<'_>, host: Running) {
    host.terminate().expect(143);
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    let audits = twins.audit();
    audits.iter().for_each(|audit| println!("  {audit}"));
    audits.iter().for_each(|audit| audit.expect_clean());
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn l2_l7_kills_while_both_sides_write_lose_nothing_double_nothing_and_send_nothing_back() {
    let mut dice = Dice::of_this_run("kills while both sides write");
    let stage = Stage::new("torture_both");
    let twins = twins(&stage);
    let load = twins.write(2, Duration::from_millis(4), &mut dice);
    let mut host = stage.start_falkirk(&["run"]);
    let kills = if long() { 500 } else { 100 };
    for _ in 0..kills {
        dice.pause_up_to(Duration::from_millis(if long() { 1_200 } else { 700 }));
        assert!(host.is_running(), "the host has ended by itself\n{}", host.err());
        host.kill_9();
        host = stage.start_falkirk(&["run"]);
    }
    let transactions = load.map(|load| load.stop());
    println!("{kills} kills; {transactions:?} transactions on blue and green");
    finish(&stage, &twins, host);
}

#[test]
fn l1_l2_l7_crashes_of_either_server_while_both_sides_write_lose_and_double_nothing() {
    let mut dice = Dice::of_this_run("crashes while both sides write");
    let stage = Stage::with_own_servers("torture_crash", &[]);
    let twins = twins(&stage);
    let load = twins.write(2, Duration::from_millis(6), &mut dice);
    let mut host = stage.start_falkirk(&["run"]);
    let crashes = if long() { 30 } else { 4 };
    for crash in 0..crashes {
        let side = if crash % 2 == 0 { &stage.green } else { &stage.blue };
        let before = load.each_ref().map(|load| load.counted());
        until("both sides write", SOON, || load.iter().zip(before).all(|(load, before)| load.counted() > before + 20));
        dice.pause_up_to(Duration::from_millis(1_500));
        let mut server = side.server();
        server.stop_immediate().expect("a server can be stopped");
        server.start_again().expect("a server can be started");
        drop(server);
        assert!(host.is_running(), "a crash of a server does not end the host\n{}", host.err());
    }
    let transactions = load.map(|load| load.stop());
    println!("{crashes} crashes; {transactions:?} transactions on blue and green");
    finish(&stage, &twins, host);
}
