//! Kills and crashes under load: nothing lost, nothing done twice, nothing half.
//!
//! Two servers of their own, since a crash that hits source and target together hides a target that commits too late.
//! `make torture` runs the same tests with many more rounds.

use std::time::Duration;

use falkirk_tests::ledger::{CONFIG, Dice, Ledger, Size};
use falkirk_tests::{Open, Running, SOON, Stage, until, way};

/// The long tier.
fn long() -> bool {
    std::env::var("FALKIRK_TORTURE").is_ok_and(|tier| tier == "long")
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    KillHost,
    CrashSource,
    CrashTarget,
}

fn faults(dice: &mut Dice) -> Vec<Fault> {
    let (kills, crashes) = if long() { (500, 50) } else { (25, 3) };
    let mut faults = vec![Fault::KillHost; kills];
    faults.extend(vec![Fault::CrashSource; crashes]);
    faults.extend(vec![Fault::CrashTarget; crashes]);
    dice.shuffle(&mut faults);
    faults
}

/// The position that the source remembers as confirmed.
fn confirmed(stage: &Stage) -> String {
    stage.blue.value("SELECT coalesce(max(confirmed_flush_lsn), '0/0') - '0/0'::pg_lsn FROM pg_replication_slots")
}

fn crash(stage: &Stage, fault: Fault) -> bool {
    let side = if fault == Fault::CrashSource { &stage.blue } else { &stage.green };
    let before = confirmed(stage);
    let mut server = side.server();
    server.stop_immediate().expect("a server can be stopped");
    server.start_again().expect("a server can be started");
    drop(server);
    let number = |text: &str| text.parse::<u64>().expect("a position");
    fault == Fault::CrashSource && number(&confirmed(stage)) < number(&before)
}

#[test]
fn l1_l2_kills_of_the_host_and_crashes_of_either_server_lose_and_double_nothing() {
    let mut dice = Dice::of_this_run("kills and crashes");
    let stage = Stage::with_own_servers("torture", &[]).toward(way!());
    let ledger = Ledger::open(&stage, Size { accounts: 100, pairs: 2_000, parts: 2_000, remark_bytes: 50 });
    stage.config("forward", CONFIG);
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    let load = ledger.write(3, Duration::from_millis(2), &mut dice);
    let watch = ledger.watch();
    let mut host = stage.start_falkirk(&["run"]);
    let (mut slot_went_back, mut kills, mut kills_while_streaming) = (0, 0, 0);
    let mut started_at = reached(&stage);
    for fault in faults(&mut dice) {
        dice.pause_up_to(Duration::from_millis(900));
        assert!(host.is_running(), "the host has ended by itself\n{}", host.err());
        match fault {
            Fault::KillHost => {
                let killed = host.kill_9();
                let reached = reached(&stage);
                let streamed = reached != started_at && killed.err.contains("streaming");
                (kills, kills_while_streaming) = (kills + 1, kills_while_streaming + u32::from(streamed));
                started_at = reached;
                host = stage.start_falkirk(&["run"]);
            }
            crashed => slot_went_back += u32::from(crash(&stage, crashed)),
        }
    }
    let transactions = load.stop();
    host.terminate().expect(143);
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    let (torn, reads) = watch.stop();
    let audit = ledger.audit();
    println!(
        "{transactions} transactions, {kills} kills, {kills_while_streaming} of them while streaming, the slot went back \
         {slot_went_back} times, {reads} reads, {torn} torn; {audit}"
    );
    audit.expect_clean();
    assert_eq!(torn, 0, "L4: a reader of the target saw half of a transaction");
    assert!(transactions >= 1_000, "too little was written to lose any of it: {transactions}");
    assert!(reads >= 50, "too few looks at the target to see a half: {reads}");
    assert!(kills_while_streaming * 3 >= kills, "too few kills met a stream: {kills_while_streaming} of {kills}");
}

/// The position up to which the link has written the target.
fn reached(stage: &Stage) -> String {
    stage.green.admin("SELECT position FROM falkirk.checkpoint").concat().concat()
}

/// The chunks that are finished, with everything that is written down about them.
fn finished(stage: &Stage) -> Vec<String> {
    match stage.green.admin("SELECT to_regclass('falkirk.chunk') IS NOT NULL")[0][0].as_str() {
        "t" => stage.green.admin("SELECT t::text FROM falkirk.chunk t WHERE finished_at IS NOT NULL").concat(),
        _ => Vec::new(),
    }
}

fn phase(stage: &Stage) -> String {
    let json = stage.falkirk(&["status", "--json"]).json();
    json["phase"].as_str().expect("a phase").to_owned()
}

/// Waits until more chunks are finished than before, then a random moment more.
fn more_is_copied(stage: &Stage, host: &mut Running, dice: &mut Dice, before: usize) {
    until("a further chunk is copied", SOON, || {
        assert!(host.is_running(), "the host has ended by itself\n{}", host.err());
        finished(stage).len() > before
    });
    dice.pause_up_to(Duration::from_millis(120));
}

/// Kills the host where its copy has just become a stream.
///
/// Nobody may change accounts, so the rest of the copy passes, and the stream waits at the first change of one: at its
/// first transaction, or behind some that concern parts alone.
fn kill_at_the_hand_over(stage: &Stage, host: Running) {
    let lock = Open::transaction(&stage.green.application_url(), "LOCK TABLE account IN SHARE MODE");
    let waits = "(SELECT FROM pg_locks WHERE NOT granted AND relation = 'account'::regclass)";
    assert_ne!(phase(stage), "streaming", "the copy was over too early");
    until("the copy is over and the stream has begun", SOON, || {
        phase(stage) == "streaming" && stage.green.count(waits) > 0
    });
    host.kill_9();
    lock.commit();
}

#[test]
fn l5_a_copy_that_is_killed_again_and_again_goes_on_and_meets_the_stream_exactly() {
    let mut dice = Dice::of_this_run("kills during the copy");
    let stage = Stage::with_own_servers("copy_torture", &[]).toward(way!());
    let ledger = Ledger::open(&stage, Size { accounts: 2_000, pairs: 50_000, parts: 100_000, remark_bytes: 250 });
    stage.config("forward", &format!("{CONFIG}[copy]\nchunk_mib = 1\n"));
    let load = ledger.write(3, Duration::from_millis(2), &mut dice);
    let (mut kills, mut done, mut chunks) = (0, Vec::<String>::new(), usize::MAX);
    // Kills while most is left to copy; the last one meets the hand-over.
    let mut host = stage.start_falkirk(&["run"]);
    while kills < 3 || done.len() < chunks / 2 {
        more_is_copied(&stage, &mut host, &mut dice, done.len());
        host.kill_9();
        kills += 1;
        let now = finished(&stage);
        assert!(done.iter().all(|chunk| now.contains(chunk)), "a finished chunk was copied again");
        (done, chunks) = (now, stage.green.admin("SELECT FROM falkirk.chunk").len());
        host = stage.start_falkirk(&["run"]);
    }
    until("a further chunk is copied", SOON, || finished(&stage).len() > done.len());
    kill_at_the_hand_over(&stage, host);
    let mut host = stage.start_falkirk(&["run"]);
    for _ in 0..3 {
        dice.pause_up_to(Duration::from_millis(500));
        host.kill_9();
        host = stage.start_falkirk(&["run"]);
    }
    let transactions = load.stop();
    host.terminate().expect(143);
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    let audit = ledger.audit();
    println!("{transactions} transactions, {chunks} chunks, {kills} kills while copying; {audit}");
    assert!(transactions >= 300, "too little was written to lose any of it: {transactions}");
    audit.expect_clean();
    let now = finished(&stage);
    assert!(done.iter().all(|chunk| now.contains(chunk)), "a finished chunk was copied again");
}
