//! How revisions come into a running host (L11): by command, from a watched file, in storms, with a pin, on trial, and how
//! they are taken back. What swaps do under load is in `swap_load.rs`.
//!
//! The transform is `tests/guests-swap`: each revision signs the rows that it writes.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use falkirk_tests::{Finished, SOON, Stage, free_port, swap_component, until};

const BLUE: &str = "CREATE TABLE item (id bigint PRIMARY KEY, note text NOT NULL, back text);
    ALTER TABLE item REPLICA IDENTITY FULL;";
const GREEN: &str = "CREATE TABLE item (id bigint PRIMARY KEY, note text NOT NULL, by text);
    ALTER TABLE item REPLICA IDENTITY FULL;";

/// A stage with the first revision configured and an admin listener.
fn stage(name: &str, direction: &str, more: &str) -> (Stage, u16) {
    let stage = if direction == "both" { Stage::new(name) } else { Stage::one_way(name) };
    stage.schemas(BLUE, GREEN);
    stage.blue.sql("INSERT INTO item SELECT n, 'old ' || n, NULL FROM generate_series(1, 200) n");
    let (first, port) = (swap_component(&stage, 1, "ok", None), free_port());
    stage.config(
        direction,
        &format!(
            "{}{more}\n[limits]\nmemory_mib = 32\nbatch_time_ms = 400\n[admin]\nlisten = \"127.0.0.1:{port}\"\n",
            Stage::transforms(Some(&first))
        ),
    );
    (stage, port)
}

fn swap(stage: &Stage, file: &Path) -> Finished {
    stage.falkirk(&["swap", "--json", &file.to_string_lossy()])
}

#[test]
fn l11_a_file_that_is_watched_is_swapped_in_whole_or_not_at_all_however_it_is_replaced() {
    let stage = Stage::one_way("swap_watch");
    stage.schemas(BLUE, GREEN);
    let signed = |number: u32| format!("(SELECT FROM item WHERE by = '{number:04}')");
    let revisions: Vec<PathBuf> = (1..=4).map(|number| swap_component(&stage, number, "ok", None)).collect();
    // As Kubernetes mounts files: two links, of which the inner one is renamed.
    for (at, path) in revisions.iter().enumerate().take(2) {
        std::fs::create_dir(stage.folder().join(format!("v{at}"))).expect("a folder can be made");
        std::fs::copy(path, stage.folder().join(format!("v{at}/t.wasm"))).expect("a file can be copied");
    }
    symlink("v0", stage.folder().join("..data")).expect("a link can be made");
    symlink("..data/t.wasm", stage.folder().join("t.wasm")).expect("a link can be made");
    stage.config("forward", "transforms = [\"t.wasm\"]\nwatch = true\n");
    let host = stage.start_falkirk(&["run"]);
    let written = AtomicU64::new(0);
    let arrives = |number: u32| {
        until("the revision signs what is written", SOON, || {
            let id = written.fetch_add(1, Ordering::Relaxed);
            stage.blue.sql(&format!("INSERT INTO item (id, note) VALUES ({id}, 'x')"));
            std::thread::sleep(Duration::from_millis(30));
            stage.green.count(&signed(number)) > 0
        });
    };
    arrives(1);
    symlink("v1", stage.folder().join("..data_tmp")).expect("a link can be made");
    std::fs::rename(stage.folder().join("..data_tmp"), stage.folder().join("..data")).expect("it can be renamed");
    arrives(2);
    // In pieces, with time enough between them to be seen: the pieces are refused, the whole is taken.
    let whole = std::fs::read(&revisions[2]).expect("it is there");
    std::fs::write(stage.folder().join("v1/t.wasm"), &whole[..30_000]).expect("a file can be written");
    until("the piece is refused", SOON, || host.err().contains("WASM_NOT_COMPONENT"));
    arrives(2);
    std::fs::write(stage.folder().join("v1/t.wasm"), &whole).expect("a file can be written");
    arrives(3);
    // Gone for a while, and another one.
    std::fs::remove_file(stage.folder().join("v1/t.wasm")).expect("a file can be removed");
    until("it is missed", SOON, || host.err().contains("cannot be read now"));
    std::fs::copy(&revisions[3], stage.folder().join("v1/t.wasm")).expect("a file can be copied");
    arrives(4);
    until("everything arrives", SOON, || stage.same("SELECT id, note FROM item", "SELECT id, note FROM item"));
    host.terminate().expect(143);
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn a_storm_of_swaps_ends_with_one_of_them_and_the_rest_are_told_so_and_back_is_back() {
    let (stage, _) = stage("swap_storm", "forward", "");
    let host = stage.start_falkirk(&["run"]);
    until("the copy is there", SOON, || stage.green.count("item") == 200);
    let files: Vec<PathBuf> = (2..12).map(|number| swap_component(&stage, number, "ok", None)).collect();
    let answers: Vec<Finished> = std::thread::scope(|scope| {
        let all: Vec<_> = files.iter().map(|file| scope.spawn(|| swap(&stage, file))).collect();
        all.into_iter().map(|one| one.join().expect("nobody panics")).collect()
    });
    let taken = answers.iter().filter(|answer| answer.code == 0).count();
    assert!(taken >= 1, "one of them is put in");
    answers.iter().filter(|answer| answer.code != 0).for_each(|answer| assert!(answer.out.contains("SUPERSEDED")));
    let running = |host: &falkirk_tests::Running| host.err().matches("swapped in").count();
    until("the log says it as often", SOON, || running(&host) == taken);
    swap(&stage, &swap_component(&stage, 77, "ok", None)).expect(0);
    assert_eq!(swap(&stage, &swap_component(&stage, 77, "ok", None)).expect(0).json()["exchanged"], false);
    swap(&stage, &swap_component(&stage, 78, "ok", None)).expect(0);
    stage.falkirk(&["swap", "--back"]).expect(0).says("revision_77_ok.wasm");
    stage.blue.sql("UPDATE item SET note = 'again' WHERE id = 7");
    until("77 signs", SOON, || stage.green.value("SELECT by FROM item WHERE id = 7") == "0077");
    host.terminate().expect(143);
    stage.falkirk(&["clean"]).expect(0);
}

/// One request by hand: what a probe, or a web page, would send.
fn ask(port: u16, request: &str) -> String {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).expect("somebody listens");
    stream.write_all(request.as_bytes()).expect("it can be asked");
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

#[test]
fn the_admin_listener_answers_probes_and_no_web_page() {
    let (stage, port) = stage("swap_admin", "forward", "");
    stage.falkirk(&["swap", "--back"]).expect(1).says("ADMIN_UNREACHABLE");
    let host = stage.start_falkirk(&["run"]);
    let get = |path: &str, more: &str| {
        ask(port, &format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n{more}\r\n"))
    };
    until("it streams", SOON, || stage.green.count("item") == 200 && get("/ready", "").contains(" 200 "));
    assert!(get("/health", "").contains("\"ok\":true"));
    let status = get("/status", "");
    assert!(status.contains("\"stage\":\"streaming\"") && status.contains("revision_1_ok.wasm@sha256:"), "{status}");
    for page in ["origin: http://evil.example\r\n", "host: evil.example\r\n"] {
        let request = format!("GET /status HTTP/1.1\r\n{page}connection: close\r\n\r\n");
        assert!(ask(port, &request).contains(" 403 "), "{page}");
    }
    let form = "POST /swap?name=x HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/plain\r\ncontent-length: 1\r\nconnection: close\r\n\r\nx";
    assert!(ask(port, form).contains("ADMIN_REFUSED"));
    stage.falkirk(&["swap", "--back"]).expect(1).says("NO_REVISION_BEFORE");
    host.terminate().expect(143);
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn strict_takes_no_revision_without_its_digest_and_the_bytes_that_are_compiled_are_the_ones_that_are_pinned() {
    let stage = Stage::one_way("swap_strict");
    stage.schemas(BLUE, GREEN);
    let (first, second) = (swap_component(&stage, 1, "ok", None), swap_component(&stage, 2, "ok", None));
    let digest = |path: &Path| {
        let output = std::process::Command::new("sha256sum").arg(path).output().expect("sha256sum is there");
        String::from_utf8_lossy(&output.stdout)[..64].to_owned()
    };
    let port = free_port();
    let config = |pin: &str| {
        let named = format!("{}{pin}", first.display());
        stage.config(
            "forward",
            &format!("transforms = [\"{named}\"]\nstrict = true\n[admin]\nlisten = \"127.0.0.1:{port}\"\n"),
        );
    };
    config("");
    stage.falkirk(&["run"]).expect(1).says("UNPINNED").says("sha256sum");
    config(&format!("@sha256:{}", digest(&first)));
    let host = stage.start_falkirk(&["run"]);
    stage.blue.sql("INSERT INTO item (id, note) VALUES (1, 'a')");
    until("it streams", SOON, || stage.green.count("item") == 1);
    swap(&stage, &second).expect(1).says("UNPINNED");
    let pinned = |path: &Path, pin: &str| stage.falkirk(&["swap", &format!("{}@sha256:{pin}", path.display())]);
    pinned(&second, &digest(&first)).expect(1).says("PIN_MISMATCH");
    pinned(&second, &digest(&second)).expect(0).says("revision_2_ok.wasm");
    // An earlier revision that is brought is code that runs as well, by the running host and without one.
    let mends = |old: &Path, now: &Path, signed: &str| {
        let recopy = |pin: &str| stage.falkirk(&["recopy", "--old", &format!("{}{pin}", old.display())]);
        recopy("").expect(1).says("UNPINNED").says("falkirk recopy --old FILE@sha256");
        recopy(&format!("@sha256:{}", digest(now))).expect(1).says("PIN_MISMATCH");
        assert_ne!(stage.green.value("SELECT by FROM item"), signed);
        recopy(&format!("@sha256:{}", digest(old))).expect(0);
        assert_eq!(stage.green.value("SELECT by FROM item"), signed);
    };
    mends(&first, &second, "0002");
    host.terminate().expect(143);
    stage.falkirk(&["run", "--configured", "--until", "caught-up"]).expect(0);
    mends(&second, &first, "0001");
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn l11_a_revision_that_stops_the_link_at_once_is_taken_back_with_a_record_and_nothing_is_lost() {
    let (stage, _) = stage("swap_taken_back", "forward", "take_back_changes = 100\n");
    let mut host = stage.start_falkirk(&["run"]);
    until("the copy is there", SOON, || stage.green.count("item") == 200);
    let fails = swap_component(&stage, 2, "no", None);
    swap(&stage, &fails).expect(0);
    stage.blue.sql("UPDATE item SET note = 'fine' WHERE id = 1");
    until("the new one writes", SOON, || stage.green.value("SELECT coalesce(by, '') FROM item WHERE id = 1") == "0002");
    stage.blue.sql("UPDATE item SET note = 'odd' WHERE id = 2; UPDATE item SET note = 'behind' WHERE id = 3");
    until("the old one goes on", SOON, || stage.green.value("SELECT note FROM item WHERE id = 3") == "behind");
    assert_eq!(stage.green.lines("SELECT by FROM item WHERE id IN (1, 2, 3)"), ["(0001)", "(0001)", "(0002)"]);
    assert!(host.is_running());
    let recorded = stage.green.admin("SELECT reason FROM falkirk.history WHERE outcome = 'taken back'");
    assert_eq!(recorded, [["TRANSFORM_TRAP"]]);
    host.terminate().expect(143).says("the one before it is taken back").says("TRANSFORM_TRAP");
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn a_trial_compares_what_both_would_write_shows_no_values_unasked_and_promotes_only_what_is_equal_or_told() {
    let (stage, _) = stage("swap_trial", "forward", "");
    let host = stage.start_falkirk(&["run"]);
    until("the copy is there", SOON, || stage.green.count("item") == 200);
    let signs = |id: u32| stage.green.value(&format!("SELECT by FROM item WHERE id = {id}"));
    let trial = |number: u32, manner: &str, more: &[&str]| {
        let file = swap_component(&stage, number, manner, None).to_string_lossy().into_owned();
        let mut asked = stage.start_falkirk(&[&["swap", &file, "--shadow", "5"], more].concat());
        until("enough was compared", SOON, || {
            stage.blue.sql("UPDATE item SET note = note || '.' WHERE id IN (17, 4711)");
            std::thread::sleep(Duration::from_millis(20));
            !asked.is_running()
        });
        asked.wait(SOON)
    };
    let found = trial(2, "ok", &[]).expect(1).says("public.item").says(": by").says("runs on");
    let line = found.out.lines().next().unwrap_or_default().to_owned();
    assert!(!line.contains(" 17:"), "a key is a value: {line}");
    trial(2, "ok", &["--values"]).expect(1).says("public.item 17: by");
    trial(2, "rt", &[]).expect(1).says("the new revision fails: TRANSFORM_TRAP");
    assert_eq!(signs(17), "0001", "nothing of a trial is written");
    trial(1, "no", &[]).expect(0).says("0 differ").says("revision_1_no.wasm");
    trial(2, "ok", &["--promote"]).expect(0).says("revision_2_ok.wasm");
    stage.blue.sql("UPDATE item SET note = 'last' WHERE id = 18");
    until("the promoted one signs", SOON, || stage.green.value("SELECT note FROM item WHERE id = 18") == "last");
    assert_eq!(signs(18), "0002");
    host.terminate().expect(143);
    stage.falkirk(&["clean"]).expect(0);
}
