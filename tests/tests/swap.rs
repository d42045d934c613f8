//! L11 under load: revisions are exchanged between transactions, nothing is lost or doubled, every row was written by a
//! revision that was valid at its commit, and what is no good is refused while the old one runs.
//!
//! The transform is `tests/guests-swap`: each revision signs the rows that it writes. Green keeps an account of the
//! link's transactions beside it, so that a row's signature can be held against checkpoint and history.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use falkirk_tests::{Finished, SOON, Side, Stage, free_port, swap_component, until};

const BLUE: &str = "CREATE TABLE item (id bigint PRIMARY KEY, note text NOT NULL, back text);
    ALTER TABLE item REPLICA IDENTITY FULL;";
const GREEN: &str = "CREATE TABLE item (id bigint PRIMARY KEY, note text NOT NULL, by text);
    ALTER TABLE item REPLICA IDENTITY FULL;";

/// Which transaction of the server wrote which position, by which artifact, and when. A view over it has the same name on
/// both sides; a table would travel.
const ACCOUNT: &str = "CREATE SCHEMA aside;
    CREATE TABLE aside.SIDE (xid bigint, position pg_lsn, artifact text, at timestamptz);
    CREATE VIEW aside.account AS SELECT * FROM aside.SIDE;
    CREATE FUNCTION aside.note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = aside AS $$ BEGIN
        INSERT INTO aside.SIDE
            VALUES (pg_current_xact_id()::text::bigint % 4294967296, NEW.position, NEW.artifact, clock_timestamp());
        RETURN NULL; END $$;
    GRANT USAGE ON SCHEMA aside TO PUBLIC; GRANT SELECT ON aside.account TO PUBLIC;
    CREATE TRIGGER account AFTER UPDATE ON falkirk.checkpoint FOR EACH ROW
        WHEN (OLD.position <> NEW.position) EXECUTE FUNCTION aside.note();";

fn long() -> bool {
    std::env::var("FALKIRK_TORTURE").is_ok_and(|tier| tier == "long")
}

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

/// Writes to a side until told to stop: keys from `first` on, and those of the 200 old rows that are `parity` modulo 2.
fn load(side: &Side, first: u64, parity: u64, stop: &AtomicBool, committed: &AtomicU64) {
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let (new, old) = (first + number, (number * 2 + parity) % 200 + 1);
        let result = side.try_sql(&format!(
            "BEGIN; INSERT INTO item (id, note) VALUES ({new}, 'new {number}');
             UPDATE item SET note = 'changed {number}' WHERE id = {old};
             UPDATE item SET note = note || '!' WHERE id = {first} + {number} / 2; COMMIT"
        ));
        if result.is_ok() {
            committed.fetch_add(1, Ordering::Relaxed);
        } else {
            let _ = side.try_sql("ROLLBACK");
        }
    }
}

/// Ends the load also when the test fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn swap(stage: &Stage, file: &Path) -> Finished {
    stage.falkirk(&["swap", "--json", &file.to_string_lossy()])
}

/// What is known of the revisions: twelve digits of the digest and the number.
#[derive(Default)]
struct Revisions(BTreeMap<String, u32>);

impl Revisions {
    fn learn(&mut self, label: &str, number: u32) {
        let digits = label.split_once("@sha256:").map_or("", |(_, digits)| digits);
        self.0.insert(digits.to_owned(), number);
    }

    fn number(&self, artifact: &str) -> Option<u32> {
        self.0.get(artifact.strip_prefix("sha256:")?.get(..12)?).copied()
    }
}

/// Every row of a side that the link wrote in the stream was signed by the artifact whose checkpoint its transaction
/// carried, and by the history that one was valid there.
#[track_caller]
fn audit(side: &Side, link: &str, signature: &str, revisions: &Revisions) -> usize {
    let history = side.admin(&format!(
        "SELECT from_position - '0/0'::pg_lsn, artifact FROM falkirk.history
         WHERE link = '{link}' AND outcome IN ('started', 'took over', 'taken back') ORDER BY from_position, at"
    ));
    let rows = side.admin(&format!(
        "SELECT i.id, i.{signature}, a.artifact, a.position - '0/0'::pg_lsn FROM item i
         JOIN aside.account a ON a.xid = i.xmin::text::bigint WHERE i.{signature} IS NOT NULL"
    ));
    for row in &rows {
        let [id, signed, artifact, position] = row.as_slice() else { panic!("four columns") };
        let number = revisions.number(artifact).unwrap_or_else(|| panic!("nobody knows {artifact}"));
        assert_eq!(signed, &format!("{number:04}"), "row {id} is signed by another revision than its checkpoint names");
        let position: u64 = position.parse().expect("a position");
        let before = |from: &str| from.parse::<u64>().expect("a position") < position;
        let valid = history.iter().rfind(|entry| before(&entry[0]));
        let valid = valid.map(|entry| entry[1].as_str()).unwrap_or_default();
        assert_eq!(valid, artifact, "row {id}: by the history another revision was valid at {position}");
    }
    rows.len()
}

/// A file that is no good, by its number, and the code with which it has to be refused.
fn bad(stage: &Stage, number: u32, which: usize) -> (PathBuf, &'static str) {
    let good = || std::fs::read(swap_component(stage, number, "ok", None)).expect("it is there");
    let replaced = |from: &[u8], to: &[u8]| {
        let mut bytes = good();
        let places: Vec<usize> =
            bytes.windows(from.len()).enumerate().filter(|(_, window)| *window == from).map(|(at, _)| at).collect();
        assert!(!places.is_empty(), "there is something to replace");
        places.iter().for_each(|at| bytes[*at..*at + to.len()].copy_from_slice(to));
        bytes
    };
    let file = |name: &str, bytes: &[u8]| stage.file(&format!("bad_{number}_{name}.wasm"), bytes);
    match which % 10 {
        0 => (swap_component(stage, number, "tr", None), "TRANSFORM_TRAP"),
        1 => (swap_component(stage, number, "lo", None), "TRANSFORM_TIMEOUT"),
        2 => (swap_component(stage, number, "me", None), "MEMORY_LIMIT"),
        3 => (file("world", &replaced(b"transform@0.1.0", b"transform@0.9.0")), "WIT_MISMATCH"),
        4 => (file("manifest", &replaced(b"\"note\": \"note\" }", b"\"note\": \"nope\" }")), "COLUMN"),
        5 => {
            let path = file("large", b"");
            let large = std::fs::OpenOptions::new().write(true).open(&path).expect("it is there");
            large.set_len(33 << 20).expect("a file can have holes");
            (path, "WASM_TOO_LARGE")
        }
        6 => (file("short", &good()[..20_000]), "WASM_NOT_COMPONENT"),
        7 => (file("elf", b"\x7fELF\x02\x01\x01\0 and so on"), "WASM_NOT_COMPONENT"),
        8 => {
            // The head of what the engine itself would write.
            let mut head = [0; 128];
            head[..9].copy_from_slice(b"\x7fELF\x02\x01\x01\xc8\0");
            head[16] = 1;
            head[18] = 62;
            head[20] = 1;
            head[48] = 2;
            head[52] = 64;
            (file("precompiled", &head), "WASM_")
        }
        _ => (stage.folder().to_owned(), "WASM_UNREADABLE"),
    }
}

#[derive(Default)]
struct Figures {
    stalls_us: Vec<u64>,
    refusals_ms: Vec<u128>,
}

impl Figures {
    fn print(mut self) {
        self.stalls_us.sort_unstable();
        self.refusals_ms.sort_unstable();
        let at = |list: usize, part: usize| (list * part / 100).min(list.saturating_sub(1));
        let (stalls, refusals) = (&self.stalls_us, &self.refusals_ms);
        println!(
            "{} exchanges, stall p50 {} us, p99 {} us, most {:?} us; {} refusals, p50 {} ms, most {:?} ms",
            stalls.len(),
            stalls[at(stalls.len(), 50)],
            stalls[at(stalls.len(), 99)],
            stalls.last(),
            refusals.len(),
            refusals[at(refusals.len(), 50)],
            refusals.last()
        );
        assert!(stalls[at(stalls.len(), 50)] < 1_000_000, "an exchange is no restart");
    }
}

/// Swaps `swaps` times, one in five no good.
fn swap_on(stage: &Stage, swaps: u32, revisions: &mut Revisions, committed: &AtomicU64) -> Figures {
    let mut figures = Figures::default();
    for number in 2..2 + swaps {
        let before = committed.load(Ordering::Relaxed);
        until("the application goes on", SOON, || committed.load(Ordering::Relaxed) > before + 3);
        if number % 5 == 0 {
            let (file, code) = bad(stage, number, (number / 5) as usize);
            let began = Instant::now();
            swap(stage, &file).expect(1).says(code).keeps_quiet_about("stays inside");
            figures.refusals_ms.push(began.elapsed().as_millis());
            continue;
        }
        let answer = swap(stage, &swap_component(stage, number, "ok", None)).expect(0).json();
        assert_eq!(answer["exchanged"], true, "{answer}");
        figures.stalls_us.push(answer["stall_us"].as_u64().expect("a stall"));
        revisions.learn(answer["artifact"].as_str().expect("a label"), number);
    }
    figures
}

fn first_revision(stage: &Stage, revisions: &mut Revisions) {
    let artifact = stage.falkirk(&["status", "--json"]).expect(0).json()["artifact"].clone();
    let digest = artifact.as_str().and_then(|text| text.strip_prefix("sha256:")).expect("a digest").to_owned();
    revisions.0.insert(digest[..12].to_owned(), 1);
}

#[test]
fn l11_swaps_under_load_lose_nothing_double_nothing_and_every_row_names_a_revision_that_was_valid() {
    let (stage, _) = stage("swap_load", "forward", "");
    let host = stage.start_falkirk(&["run"]);
    until("the copy is there", SOON, || stage.green.count("item") == 200);
    until("it streams", SOON, || stage.falkirk(&["status"]).out.contains("streaming"));
    stage.green.admin(&ACCOUNT.replace("SIDE", "green"));
    let mut revisions = Revisions::default();
    first_revision(&stage, &mut revisions);
    let (stop, committed) = (AtomicBool::new(false), AtomicU64::new(0));
    let figures = std::thread::scope(|scope| {
        scope.spawn(|| load(&stage.blue, 1_000, 0, &stop, &committed));
        let _ends = Ends(&stop);
        swap_on(&stage, if long() { 200 } else { 20 }, &mut revisions, &committed)
    });
    until("everything arrives", SOON, || stage.same("SELECT id, note FROM item", "SELECT id, note FROM item"));
    let signed = audit(&stage.green, "forward", "by", &revisions);
    assert!(signed > 100, "only {signed} rows could be held against the account");
    let refused = stage.green.admin("SELECT FROM falkirk.history WHERE outcome = 'refused' AND reason <> ''").len();
    assert!(refused >= 2, "only {refused} refusals are kept");
    figures.print();
    host.terminate().expect(143).keeps_quiet_about("starting again from the checkpoint");
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn l11_both_links_exchange_before_either_applies_another_transaction_of_the_new_revision() {
    let (stage, _) = stage("swap_both", "both", "conflict = \"green_wins\"");
    let host = stage.start_falkirk(&["run"]);
    until("the copy is there", SOON, || stage.green.count("item") == 200);
    stage.green.sql("INSERT INTO item (id, note) VALUES (900, 'green')");
    until("both links stream", SOON, || stage.blue.count("(SELECT FROM item WHERE id = 900)") == 1);
    stage.blue.admin(ACCOUNT);
    stage.green.admin(&ACCOUNT.replace("SIDE", "green"));
    let mut revisions = Revisions::default();
    first_revision(&stage, &mut revisions);
    let (stop, committed) = (AtomicBool::new(false), AtomicU64::new(0));
    let figures = std::thread::scope(|scope| {
        scope.spawn(|| load(&stage.blue, 1_000_000, 0, &stop, &committed));
        scope.spawn(|| load(&stage.green, 2_000_000, 1, &stop, &committed));
        let _ends = Ends(&stop);
        swap_on(&stage, if long() { 100 } else { 10 }, &mut revisions, &committed)
    });
    until("both sides agree", SOON, || stage.same("SELECT id, note FROM item", "SELECT id, note FROM item"));
    assert!(audit(&stage.green, "forward", "by", &revisions) > 20);
    assert!(audit(&stage.blue, "backward", "back", &revisions) > 20);
    // Both servers have the same clock. On either side the last of one revision lies before the first of a later one.
    let mut times: BTreeMap<u32, (f64, f64)> = BTreeMap::new();
    for side in [&stage.blue, &stage.green] {
        let each = "SELECT artifact, min(extract(epoch FROM at)), max(extract(epoch FROM at)) FROM aside.account
            WHERE artifact LIKE 'sha256:%' GROUP BY artifact";
        for row in side.admin(each) {
            let number = revisions.number(&row[0]).expect("it is known");
            let (first, last): (f64, f64) = (row[1].parse().expect("a time"), row[2].parse().expect("a time"));
            let entry = times.entry(number).or_insert((first, last));
            *entry = (entry.0.min(first), entry.1.max(last));
        }
    }
    for (older, newer) in times.iter().zip(times.iter().skip(1)) {
        assert!(older.1.1 <= newer.1.0, "revision {} still wrote after revision {} had begun", older.0, newer.0);
    }
    figures.print();
    host.terminate().expect(143);
    stage.falkirk(&["clean"]).expect(0);
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
    host.terminate().expect(143);
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
