//! L11 under load: revisions are exchanged between transactions, nothing is lost or doubled, every row was written by a
//! revision that was valid at its commit, and what is no good is refused while the old one runs.
//!
//! The transform is `tests/guests-swap`: each revision signs the rows that it writes. Green keeps an account of the
//! link's transactions beside it, so that a row's signature can be held against checkpoint and history.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use falkirk_tests::{Finished, Running, SOON, Side, Stage, free_port, swap_component, until};

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

/// The figures are of one load, not of two.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

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

/// Every row of a side that the link wrote was signed by the artifact whose checkpoint its transaction carried, and by the
/// history that one was valid there. `own`: rows that the side's own application wrote last.
#[track_caller]
fn audit(side: &Side, link: &str, (signature, own): (&str, &str), revisions: &Revisions) -> usize {
    let history = side.admin(&format!(
        "SELECT from_position - '0/0'::pg_lsn, artifact FROM falkirk.history
         WHERE link = '{link}' AND outcome IN ('started', 'took over', 'taken back') ORDER BY from_position, at"
    ));
    let rows = side.admin(&format!(
        "SELECT i.id, i.note, i.{signature}, a.artifact, a.position - '0/0'::pg_lsn FROM item i
         LEFT JOIN aside.account a ON a.xid = i.xmin::text::bigint WHERE i.{signature} IS NOT NULL AND NOT ({own})"
    ));
    let mut held = 0;
    for row in &rows {
        let [id, note, signed, artifact, position] = row.as_slice() else { panic!("five columns") };
        if artifact == "~" {
            let copied = note == &format!("old {id}") && signed == "0001";
            assert!(copied, "row {id}, signed by {signed}, came in a transaction that moved no checkpoint");
            continue;
        }
        held += 1;
        let number = revisions.number(artifact).unwrap_or_else(|| panic!("nobody knows {artifact}"));
        assert_eq!(signed, &format!("{number:04}"), "row {id} is signed by another revision than its checkpoint names");
        let position: u64 = position.parse().expect("a position");
        let before = |from: &str| from.parse::<u64>().expect("a position") < position;
        let valid = history.iter().rfind(|entry| before(&entry[0]));
        let valid = valid.map(|entry| entry[1].as_str()).unwrap_or_default();
        assert_eq!(valid, artifact, "row {id}: by the history another revision was valid at {position}");
    }
    held
}

/// What is no good, each in its own way.
const KINDS: usize = 11;
/// Why the host refuses it, as its history keeps that; a file that cannot be read has no digest to keep it by.
const REASONS: [&str; 8] = [
    "TRANSFORM_TRAP",
    "TRANSFORM_TIMEOUT",
    "MEMORY_LIMIT",
    "WIT_MISMATCH",
    "NO_SUCH_COLUMN",
    "WASM_TOO_LARGE",
    "WASM_NOT_COMPONENT",
    "WASM_PRECOMPILED",
];

/// A running host that is given what is no good.
struct Victim<'s> {
    stage: &'s Stage,
    host: &'s Running,
    port: u16,
}

impl Victim<'_> {
    /// Gives it the kind `which` of revision `number`; how long it took to refuse that by its code.
    fn refuses(&self, number: u32, which: usize) -> Duration {
        let good = fs::read(self.good(number)).expect("it is there");
        let file = |name: &str, bytes: &[u8]| self.stage.file(&format!("bad_{number}_{name}.wasm"), bytes);
        let manner = |manner: &str| swap_component(self.stage, number, manner, None);
        let (file, code) = match which % KINDS {
            0 => (manner("tr"), "TRANSFORM_TRAP"),
            1 => (manner("lo"), "TRANSFORM_TIMEOUT"),
            2 => (manner("me"), "MEMORY_LIMIT"),
            3 => (file("world", &replaced(&good, b"transform@0.1.0", b"transform@0.9.0")), "WIT_MISMATCH"),
            4 => {
                (file("manifest", &replaced(&good, b"\"note\": \"note\" }", b"\"note\": \"nope\" }")), "NO_SUCH_COLUMN")
            }
            5 => return self.too_large(),
            6 => (file("short", &good[..20_000]), "WASM_NOT_COMPONENT"),
            7 => (file("elf", b"\x7fELF\x02\x01\x01\0 and so on"), "WASM_NOT_COMPONENT"),
            8 => (file("precompiled", &precompiled(&good).expect("it compiles")), "WASM_PRECOMPILED"),
            9 => return self.unreadable(),
            _ => return self.replaced_while_it_is_read(number, &good),
        };
        let began = Instant::now();
        swap(self.stage, &file).expect(1).says(code).keeps_quiet_about("stays inside");
        began.elapsed()
    }

    fn good(&self, number: u32) -> PathBuf {
        swap_component(self.stage, number, "ok", None)
    }

    /// The command refuses it before it asks; the host does so whoever asks.
    fn too_large(&self) -> Duration {
        let bytes = vec![0; (32 << 20) + 1];
        let file = self.stage.file("large.wasm", &bytes);
        swap(self.stage, &file).expect(1).says("WASM_TOO_LARGE");
        fs::remove_file(file).expect("a file can be removed");
        let began = Instant::now();
        let head = format!(
            "POST /swap?name=large.wasm HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/wasm\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n",
            bytes.len()
        );
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("somebody listens");
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&bytes)).expect("it can be asked");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(answer.contains(" 409 ") && answer.contains("WASM_TOO_LARGE"), "{answer}");
        began.elapsed()
    }

    /// A folder in the place of the file that is watched, until the host has said so.
    fn unreadable(&self) -> Duration {
        let (watched, kept) = (self.good(1), self.stage.folder().join("kept.wasm"));
        fs::copy(&watched, &kept).expect("a file can be copied");
        let link = self.stage.folder().join("link.wasm");
        symlink(self.stage.folder(), &link).expect("a link can be made");
        let said = || self.host.err().matches("cannot be read now: WASM_UNREADABLE").count();
        let (before, began) = (said(), Instant::now());
        fs::rename(link, &watched).expect("a link can be renamed");
        until("the host says that it cannot read it", SOON, || said() > before);
        let took = began.elapsed();
        fs::rename(kept, watched).expect("a file can be renamed");
        took
    }

    /// Another file comes into its place while the first half is read: what is refused is what was read.
    fn replaced_while_it_is_read(&self, number: u32, good: &[u8]) -> Duration {
        let path = self.stage.folder().join(format!("bad_{number}_torn.wasm"));
        let made = Command::new("mkfifo").arg(&path).status().expect("mkfifo is there");
        assert!(made.success(), "a pipe can be made");
        let began = Instant::now();
        let asked = self.stage.start_falkirk(&["swap", "--json", &path.to_string_lossy()]);
        // Opened once the other end is.
        let mut reader = OpenOptions::new().write(true).open(&path).expect("it can be written");
        let half = good.len() / 2;
        reader.write_all(&good[..half]).expect("it is read");
        fs::copy(self.good(number), path.with_extension("whole")).expect("a file can be copied");
        fs::rename(path.with_extension("whole"), &path).expect("a file can be renamed");
        reader.write_all(&good[half + 1..]).expect("it is read");
        drop(reader);
        asked.wait(SOON).expect(1).says("WASM_NOT_COMPONENT");
        began.elapsed()
    }
}

/// What an engine like the host's makes of a component.
fn precompiled(component: &[u8]) -> wasmtime::Result<Vec<u8>> {
    // As the host's: no collector is built in.
    wasmtime::Engine::new(wasmtime::Config::new().gc_support(false))?.precompile_component(component)
}

/// All places of some bytes written over.
fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let windows = bytes.windows(from.len()).enumerate();
    let places: Vec<usize> = windows.filter(|(_, window)| *window == from).map(|(at, _)| at).collect();
    assert!(!places.is_empty(), "there is something to replace");
    let mut bytes = bytes.to_vec();
    places.iter().for_each(|at| bytes[*at..*at + to.len()].copy_from_slice(to));
    bytes
}

#[derive(Default)]
struct Figures {
    stalls: Vec<Duration>,
    refusals: Vec<Duration>,
}

impl Figures {
    /// Prints them; on a machine that does nothing else, as for the long tier, they are held against what is promised.
    fn judge(mut self) {
        self.stalls.sort_unstable();
        self.refusals.sort_unstable();
        let at = |list: &[Duration], part: usize| list[(list.len() * part / 100).min(list.len() - 1)];
        let (stalls, refusals) = (&self.stalls, &self.refusals);
        let (stall_p50, stall_p99, slowest) = (at(stalls, 50), at(stalls, 99), at(refusals, 100));
        println!(
            "{} exchanges, stall p50 {stall_p50:?}, p99 {stall_p99:?}, most {:?}; {} refusals, p50 {:?}, most {slowest:?}",
            stalls.len(),
            at(stalls, 100),
            refusals.len(),
            at(refusals, 50)
        );
        assert!(stall_p50 < Duration::from_secs(1), "an exchange is no restart");
        if long() {
            assert!(stall_p99 <= Duration::from_millis(100), "the stall of an exchange: p99 {stall_p99:?}");
            assert!(slowest <= Duration::from_secs(1), "a refusal took {slowest:?}");
        }
    }
}

/// Swaps `swaps` times, one in `one_in` no good.
fn swap_on(
    victim: &Victim<'_>,
    (swaps, one_in): (u32, u32),
    revisions: &mut Revisions,
    committed: &AtomicU64,
) -> Figures {
    let mut figures = Figures::default();
    for number in 2..2 + swaps {
        let before = committed.load(Ordering::Relaxed);
        until("the application goes on", SOON, || committed.load(Ordering::Relaxed) > before + 3);
        if number % one_in == 0 {
            figures.refusals.push(victim.refuses(number, (number / one_in) as usize));
            continue;
        }
        let answer = swap(victim.stage, &victim.good(number)).expect(0).json();
        assert_eq!(answer["exchanged"], true, "{answer}");
        figures.stalls.push(Duration::from_micros(answer["stall_us"].as_u64().expect("a stall")));
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
    let _alone = alone();
    let (stage, port) = stage("swap_load", "forward", "watch = true\n");
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
        let victim = Victim { stage: &stage, host: &host, port };
        swap_on(&victim, if long() { (200, 5) } else { (22, 2) }, &mut revisions, &committed)
    });
    until("everything arrives", SOON, || stage.same("SELECT id, note FROM item", "SELECT id, note FROM item"));
    let signed = audit(&stage.green, "forward", ("by", "false"), &revisions);
    assert!(signed > 100, "only {signed} rows could be held against the account");
    let refused = stage.green.admin("SELECT DISTINCT reason FROM falkirk.history WHERE outcome = 'refused'");
    let refused: BTreeSet<&str> = refused.iter().map(|row| row[0].as_str()).collect();
    assert_eq!(refused, BTreeSet::from(REASONS), "every kind is refused by its own code, and kept");
    figures.judge();
    host.terminate().expect(143).keeps_quiet_about("starting again from the checkpoint");
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn l11_both_links_exchange_before_either_applies_another_transaction_of_the_new_revision() {
    let _alone = alone();
    let (stage, port) = stage("swap_both", "both", "conflict = \"green_wins\"\nwatch = true\n");
    let host = stage.start_falkirk(&["run"]);
    until("the copy is there", SOON, || stage.green.count("item") == 200);
    stage.blue.admin(ACCOUNT);
    stage.green.admin(&ACCOUNT.replace("SIDE", "green"));
    stage.green.sql("INSERT INTO item (id, note) VALUES (900, 'green')");
    until("both links stream", SOON, || stage.blue.count("(SELECT FROM item WHERE id = 900)") == 1);
    let mut revisions = Revisions::default();
    first_revision(&stage, &mut revisions);
    let (stop, committed) = (AtomicBool::new(false), AtomicU64::new(0));
    let figures = std::thread::scope(|scope| {
        scope.spawn(|| load(&stage.blue, 1_000_000, 0, &stop, &committed));
        scope.spawn(|| load(&stage.green, 2_000_000, 1, &stop, &committed));
        let _ends = Ends(&stop);
        let victim = Victim { stage: &stage, host: &host, port };
        swap_on(&victim, if long() { (100, 5) } else { (10, 5) }, &mut revisions, &committed)
    });
    until("both sides agree", SOON, || stage.same("SELECT id, note FROM item", "SELECT id, note FROM item"));
    // Green's load changes the even ones of the old rows.
    assert!(audit(&stage.green, "forward", ("by", "id <= 200 AND id % 2 = 0"), &revisions) > 20);
    assert!(audit(&stage.blue, "backward", ("back", "false"), &revisions) > 20);
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
    figures.judge();
    host.terminate().expect(143);
    stage.falkirk(&["clean"]).expect(0);
}
