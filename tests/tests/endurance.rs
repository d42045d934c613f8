//! Long transactions, slow targets, idle sources, and ends that are asked for: bounded memory, bounded log, and no
//! more time than promised.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use falkirk_tests::ledger::{CONFIG, Dice, Ledger, Size};
use falkirk_tests::{Finished, Open, Running, SOON, Stage, until, way};
use nix::sys::signal::Signal;

const TABLES: &str = "CREATE TABLE item (id bigint PRIMARY KEY, amount bigint NOT NULL, remark text);";
const SMALL: Size = Size { accounts: 50, pairs: 500, parts: 500, remark_bytes: 20 };

/// What the host promises: it has ended this long after it was asked to.
const END: Duration = Duration::from_secs(10);

/// Some tests take their time on a busy machine; what they wait for is no promise of the host's.
const PATIENCE: Duration = Duration::from_secs(120);

fn copied(stage: &Stage, green: &str) {
    stage.schemas(TABLES, green);
    stage.blue.sql("INSERT INTO item SELECT n, n, 'first' FROM generate_series(1, 10) n");
    stage.config("forward", "transforms = []");
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
}

fn clean(stage: &Stage) {
    stage.falkirk(&["clean"]).expect(0);
}

/// Asks the host to end and holds it to its word.
fn ends_in_time(host: Running, signal: Signal) -> Finished {
    let asked_at = Instant::now();
    host.signal(signal);
    let finished = host.wait(PATIENCE);
    assert!(asked_at.elapsed() < END, "it took {:?} to end\n{}", asked_at.elapsed(), finished.err);
    finished
}

#[test]
fn a_host_that_is_asked_to_end_under_load_ends_at_a_checkpoint_and_loses_nothing() {
    let mut dice = Dice::of_this_run("graceful ends");
    let stage = Stage::one_way("graceful").toward(way!());
    let ledger = Ledger::open(&stage, SMALL);
    stage.config("forward", CONFIG);
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    let load = ledger.write(2, Duration::ZERO, &mut dice);
    for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let before = stage.green.count("fired");
        let host = stage.start_falkirk(&["run"]);
        until("the host streams", SOON, || stage.green.count("fired") > before);
        let finished = ends_in_time(host, signal).expect(code);
        let checkpoint = stage.green.admin("SELECT position FROM falkirk.checkpoint").concat();
        finished.says(&format!("done at {}", checkpoint[0]));
        let off = stage.green.value("SELECT coalesce(sum(amount), 0) FROM entry");
        assert_eq!(off, "0", "L4: it ended in the middle of a transaction");
    }
    load.stop();
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    ledger.audit().expect_clean();
    clean(&stage);
}

#[test]
fn a_host_that_is_asked_to_end_while_the_target_hangs_ends_in_time_and_loses_nothing() {
    let stage = Stage::one_way("graceful_locked").toward(way!());
    copied(&stage, TABLES);
    let host = stage.start_falkirk(&["run"]);
    stage.blue.sql("INSERT INTO item VALUES (11, 11, NULL)");
    until("the host streams", SOON, || stage.green.count("item") == 11);
    let lock = Open::transaction(&stage.green.application_url(), "LOCK TABLE item IN ACCESS EXCLUSIVE MODE");
    stage.blue.sql("INSERT INTO item VALUES (12, 12, NULL)");
    let waiting = "(SELECT FROM pg_locks WHERE NOT granted AND relation = 'item'::regclass)";
    until("the host waits for the lock", SOON, || stage.green.count(waiting) > 0);
    ends_in_time(host, Signal::SIGTERM).expect(143);
    lock.commit();
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    stage.assert_same("SELECT * FROM item", "SELECT * FROM item");
    clean(&stage);
}

#[test]
fn a_host_that_is_asked_to_end_while_it_copies_goes_on_where_it_was() {
    let stage = Stage::one_way("graceful_copy").toward(way!());
    stage.schemas(TABLES, TABLES);
    stage.blue.sql("INSERT INTO item SELECT n, n, repeat('r', 200) FROM generate_series(1, 100000) n; ANALYZE");
    stage.config("forward", "transforms = []\n[copy]\nchunk_mib = 1");
    let host = stage.start_falkirk(&["run"]);
    let chunks = "(SELECT FROM falkirk.chunk WHERE finished_at IS NOT NULL)";
    let exists = "SELECT to_regclass('falkirk.chunk') IS NOT NULL";
    until("a chunk is copied", SOON, || {
        stage.green.admin(exists).concat() == ["t"] && stage.green.admin(&format!("SELECT FROM {chunks} c")).len() > 1
    });
    ends_in_time(host, Signal::SIGTERM).expect(143);
    let done = "SELECT number, rows, finished_at FROM falkirk.chunk WHERE finished_at IS NOT NULL";
    let before = stage.green.admin(done);
    let left = stage.green.admin("SELECT FROM falkirk.chunk WHERE finished_at IS NULL").len();
    assert!(left > 0 && stage.green.count("item") < 100_000, "the copy was over before the host was asked to end");
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    let after = stage.green.admin(done);
    assert!(before.iter().all(|chunk| after.contains(chunk)), "a finished chunk was copied again");
    stage.assert_same("SELECT * FROM item", "SELECT * FROM item");
    clean(&stage);
}

/// The most memory that the process has had so far.
fn peak_mib(host: &Running) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", host.pid())).expect("the host runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line of that name");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
}

#[test]
fn l4_pitfall_47_transactions_of_a_million_rows_pass_whole_and_in_bounded_memory() {
    const MILLION: u64 = 1_000_000;
    let stage = Stage::one_way("million").toward(way!());
    copied(&stage, TABLES);
    let host = stage.start_falkirk(&["run"]);
    // After each of them every row has the same amount: a reader that sees anything else sees a half.
    let whole = |rows: u64, amount: u64| {
        let wanted = format!("{rows} {amount} {amount}");
        let query = "SELECT count(*) || ' ' || min(amount) || ' ' || max(amount) FROM item";
        let first = stage.green.value(query);
        until("the transaction is there", PATIENCE, || {
            let now = stage.green.value(query);
            assert!(now == wanted || now == first, "L4: a reader saw `{now}` between `{first}` and `{wanted}`");
            now == wanted
        });
    };
    stage.blue.sql("UPDATE item SET amount = 0");
    until("the host streams", SOON, || stage.green.count("(SELECT FROM item WHERE amount = 0)") == 10);
    stage.blue.sql("INSERT INTO item SELECT n, 0, 'row ' || n FROM generate_series(11, 1000000) n");
    whole(MILLION, 0);
    stage.blue.sql("UPDATE item SET amount = 1");
    whole(MILLION, 1);
    let peak = peak_mib(&host);
    println!("the host's memory rose to {peak} MiB");
    assert!(peak < 256, "the host's memory rose to {peak} MiB");
    host.terminate().expect(143);
    stage.assert_same("SELECT * FROM item", "SELECT * FROM item");
    clean(&stage);
}

fn retained_bytes(stage: &Stage) -> u64 {
    stage.falkirk(&["status", "--json"]).expect(0).json()["retained_wal_bytes"].as_u64().expect("a number")
}

#[test]
fn pitfall_70_an_idle_source_with_busy_other_tables_keeps_no_log() {
    const NOISE_MIB: u64 = 200;
    let stage = Stage::with_own_servers("idle", &[("max_wal_size", "64MB"), ("min_wal_size", "32MB")]).toward(way!());
    let noise = "CREATE TABLE noise (id bigint, text text); ALTER TABLE noise SET (autovacuum_enabled = false);";
    stage.schemas(&format!("{TABLES}{noise}"), TABLES);
    stage.config("forward", "transforms = []\n[tables]\nexclude = [\"public.noise\"]");
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    let host = stage.start_falkirk(&["run"]);
    let start = stage.blue.value("SELECT pg_current_wal_lsn()");
    let written = format!("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '{start}')::bigint");
    while stage.blue.value(&written).parse::<u64>().expect("a number") < NOISE_MIB << 20 {
        stage.blue.sql("INSERT INTO noise SELECT n, repeat(md5(n::text), 60) FROM generate_series(1, 10000) n");
    }
    until("the source keeps no log for the slot", PATIENCE, || {
        // What moves restart_lsn is the next record of running transactions, which a checkpoint writes.
        stage.blue.admin("CHECKPOINT");
        retained_bytes(&stage) <= 64 << 20
    });
    stage.blue.sql("INSERT INTO item VALUES (1, 1, 'awake')");
    until("the link is awake", SOON, || stage.green.count("item") == 1);
    host.terminate().expect(143);
}

#[test]
fn log_that_is_held_back_is_shown_and_warned_of() {
    let stage = Stage::one_way("retained").toward(way!());
    copied(&stage, TABLES);
    stage.config("forward", "transforms = []\n[warn]\nretained_wal_mib = 1");
    stage.blue.sql("INSERT INTO item SELECT n, n, repeat('r', 100) FROM generate_series(100, 30000) n");
    let status = stage.falkirk(&["status", "--json"]).expect(0).json();
    assert!(status["retained_wal_bytes"].as_u64().expect("a number") > 1 << 20, "{status}");
    let warnings = status["warnings"].to_string();
    assert!(warnings.contains("MiB of log"), "{status}");
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0).says("holds back log");
    clean(&stage);
}

#[test]
fn pitfall_68_a_target_that_hangs_does_not_cost_the_connection_to_the_source() {
    const HANGS: Duration = Duration::from_secs(8);
    let stage = Stage::with_own_servers("pressure", &[("wal_sender_timeout", "2s")]).toward(way!());
    copied(&stage, TABLES);
    let host = stage.start_falkirk(&["run"]);
    stage.blue.sql("INSERT INTO item VALUES (11, 11, NULL)");
    until("the host streams", SOON, || stage.green.count("item") == 11);
    let sender = || stage.blue.value("SELECT coalesce(max(active_pid), 0) FROM pg_replication_slots");
    let first = sender();
    let lock = Open::transaction(&stage.green.application_url(), "LOCK TABLE item IN ACCESS EXCLUSIVE MODE");
    // More than queue, sockets and buffers hold.
    let began = Instant::now();
    let mut next = 1000;
    while began.elapsed() < HANGS {
        let last = next + 20_000;
        stage
            .blue
            .sql(&format!("INSERT INTO item SELECT n, n, repeat('p', 200) FROM generate_series({next}, {last} - 1) n"));
        next = last;
        assert_eq!(sender(), first, "the source has given the host up");
        std::thread::sleep(Duration::from_millis(200));
    }
    lock.commit();
    until("everything is there", PATIENCE, || stage.same("SELECT * FROM item", "SELECT * FROM item"));
    assert_eq!(sender(), first, "the source has given the host up");
    host.terminate().expect(143);
}

#[test]
fn l2_a_host_that_wakes_up_beside_its_successor_writes_nothing_twice() {
    let stage = Stage::one_way("zombie").toward(way!());
    let green = format!(
        "{TABLES} CREATE TABLE fired (id bigint, amount bigint);
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public AS
             $$ BEGIN INSERT INTO fired VALUES (NEW.id, NEW.amount); RETURN NULL; END $$;
         CREATE TRIGGER note AFTER INSERT OR UPDATE ON item FOR EACH ROW EXECUTE FUNCTION note();"
    );
    stage.schemas(TABLES, &green);
    stage.blue.sql("INSERT INTO item SELECT n, 0, NULL FROM generate_series(1, 1000) n");
    stage.config("forward", "transforms = []\n[tables]\nallow_triggers = [\"public.item\"]");
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    let old = stage.start_falkirk(&["run"]);
    stage.blue.sql("UPDATE item SET amount = 1");
    until("the old host streams", SOON, || stage.green.count("(SELECT FROM item WHERE amount = 1)") == 1000);
    // Held in the middle of its transaction, with a row that somebody else has locked.
    let lock = Open::transaction(&stage.green.application_url(), "SELECT FROM item WHERE id = 500 FOR UPDATE");
    stage.blue.sql("UPDATE item SET amount = 2; INSERT INTO item VALUES (2000, 2, NULL)");
    let waits = "(SELECT FROM pg_locks WHERE NOT granted)";
    until("the old host waits", SOON, || stage.green.count(waits) > 0);
    old.signal(Signal::SIGSTOP);
    let mut new = stage.start_falkirk(&["run"]);
    // As a server does that finds out that a host is gone: what the old one holds is freed.
    let role = stage.green.role();
    let hold = format!("usename = '{role}' AND datname = '{}' AND backend_start < now() - interval '0'", stage.name());
    let sessions = format!("SELECT pid FROM pg_stat_activity WHERE {hold} AND query LIKE '%advisory%'");
    let holders: Vec<String> = stage.green.admin(&sessions).concat();
    assert!(!holders.is_empty());
    stage.green.admin(&format!("SELECT pg_terminate_backend({})", holders[0]));
    lock.commit();
    old.signal(Signal::SIGCONT);
    let ended = old.wait(PATIENCE);
    println!("the old host ended with {}: {}", ended.code, ended.err);
    until("everything is there", PATIENCE, || stage.same("SELECT * FROM item", "SELECT * FROM item"));
    if !new.is_running() {
        stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    } else {
        new.terminate().expect(143);
    }
    let twice = stage.green.count("(SELECT FROM fired GROUP BY id, amount HAVING count(*) > 1)");
    assert_eq!(twice, 0, "a row was written twice");
    clean(&stage);
}

/// Makes an authority and a certificate for `name`, as files that the server may read.
fn certificates(folder: &Path, name: &str) {
    let run = |arguments: &str| {
        let mut command = Command::new("openssl");
        command.args(arguments.split(' ')).current_dir(folder);
        let output = command.output().expect("openssl is on this machine");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    run("req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -days 2 -subj /CN=authority");
    run(&format!("req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN={name}"));
    std::fs::write(folder.join("names"), format!("subjectAltName=DNS:{name}\n")).expect("a file can be written");
    run("x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out server.crt -days 2 -extfile names");
}

/// Gives a server its certificate and its key.
fn install(stage: &Stage, folder: &Path) {
    for side in [&stage.blue, &stage.green] {
        let server = side.server();
        let data = server.folder().join("data");
        let owner = std::fs::metadata(&data).expect("the server has a folder");
        for file in ["server.crt", "server.key"] {
            use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
            let path = data.join(file);
            std::fs::copy(folder.join(file), &path).expect("a file can be copied");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("a file has a mode");
            chown(&path, Some(owner.uid()), Some(owner.gid())).expect("a file has an owner");
        }
        drop(server);
        side.admin("ALTER SYSTEM SET ssl = on");
        side.admin("SELECT pg_reload_conf()");
        until("the server speaks TLS", SOON, || side.admin("SHOW ssl").concat() == ["on"]);
    }
}

#[test]
fn row_53_a_verified_certificate_is_taken_and_another_name_is_refused() {
    let stage = Stage::with_own_servers("tls", &[]).toward(way!());
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    certificates(folder.path(), "localhost");
    install(&stage, folder.path());
    let root = folder.path().join("ca.crt");
    stage.schemas(TABLES, TABLES);
    stage.blue.sql("INSERT INTO item VALUES (1, 1, NULL)");
    let path = stage.config("forward", "transforms = []");
    let plain = std::fs::read_to_string(path).expect("the configuration can be read");
    let with = |host: &str, root: &Path| {
        let query = format!("?sslmode=verify-full&sslrootcert={}", root.display());
        let mut config = plain.replace("@127.0.0.1:", &format!("@{host}:"));
        for side in [&stage.blue, &stage.green] {
            config = config.replace(&format!("/{}\"", side.database), &format!("/{}{query}\"", side.database));
        }
        stage.file("falkirk.toml", config.replacen(&query.repeat(2), &query, 2));
    };
    with("127.0.0.1", &root);
    stage.falkirk(&["run", "--until", "caught-up"]).expect(1).says("TLS_FAILED");
    with("localhost", &root);
    let host = stage.start_falkirk(&["run"]);
    until("the copy is there", SOON, || stage.green.count("item") == 1);
    stage.blue.sql("INSERT INTO item VALUES (2, 2, NULL)");
    until("the stream is there", SOON, || stage.green.count("item") == 2);
    let secured = format!(
        "SELECT bool_and(s.ssl) FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) WHERE a.usename = '{}'",
        stage.blue.role()
    );
    assert_eq!(stage.blue.admin(&secured).concat(), ["t"]);
    assert_eq!(stage.green.admin(&secured).concat(), ["t"]);
    host.terminate().expect(143);
    certificates(stage.folder(), "localhost");
    with("localhost", &stage.folder().join("ca.crt"));
    stage.falkirk(&["run", "--until", "caught-up"]).expect(1).says("TLS_FAILED");
}
