//! Compiling is foreign work like running (L10): a component that was made to hurt the compiler is refused within its
//! limit while the old revision runs, and code that is kept for the next start is taken only if this host put it there.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use falkirk_tests::{Finished, Running, SOON, Stage, free_port, swap_component, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const BLUE: &str = "CREATE TABLE item (id bigint PRIMARY KEY, note text NOT NULL, back text);
    ALTER TABLE item REPLICA IDENTITY FULL;";
const GREEN: &str = "CREATE TABLE item (id bigint PRIMARY KEY, note text NOT NULL, by text);";

/// A number as WebAssembly writes it.
fn leb(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (number & 0x7f) as u8;
        number >>= 7;
        bytes.push(if number == 0 { low } else { low | 0x80 });
        if number == 0 {
            return bytes;
        }
    }
}

fn section(id: u8, content: &[u8]) -> Vec<u8> {
    [&[id], leb(content.len()).as_slice(), content].concat()
}

/// A valid component of so many functions of so many statements, each a mix that no compiler can shorten.
fn bomb(functions: usize, statements: usize) -> Vec<u8> {
    let mut body = vec![0];
    for at in 0..statements {
        // local 0 = rotl(local 0 * local 0, constant) ^ local 0
        body.extend([0x20, 0, 0x20, 0, 0x7e, 0x42, (at % 64) as u8, 0x89, 0x20, 0, 0x85, 0x21, 0]);
    }
    body.extend([0x20, 0, 0x0b]);
    let one = [leb(body.len()), body].concat();
    let types = section(1, &[1, 0x60, 1, 0x7e, 1, 0x7e]);
    let declared = section(3, &[leb(functions), vec![0; functions]].concat());
    let code = section(10, &[leb(functions), one.repeat(functions)].concat());
    let module = [b"\0asm\x01\0\0\0".to_vec(), types, declared, code].concat();
    [b"\0asm\x0d\0\x01\0".to_vec(), section(1, &module)].concat()
}

fn stage(name: &str, more: &str) -> (Stage, PathBuf) {
    let stage = Stage::one_way(name);
    stage.schemas(BLUE, GREEN);
    let first = swap_component(&stage, 1, "ok", None);
    let port = free_port();
    let text = format!("{}\n[admin]\nlisten = \"127.0.0.1:{port}\"\n{more}", Stage::transforms(Some(&first)));
    stage.config("forward", &text);
    (stage, first)
}

/// Processes that this one has started and that are still there.
fn children(pid: i32) -> Vec<String> {
    let all = fs::read_dir("/proc").expect("there is a /proc").flatten();
    let parent = format!("PPid:\t{pid}\n");
    let own = all
        .filter(|entry| fs::read_to_string(entry.path().join("status")).is_ok_and(|status| status.contains(&parent)));
    own.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn row_20_and_l10_a_compile_bomb_is_refused_at_its_limits_while_the_old_revision_goes_on_without_a_stall() {
    let (stage, _) = stage("compile_bomb", "[compile]\ntime_s = 3\nmemory_mib = 256\n");
    let host = stage.start_falkirk(&["run"]);
    stage.blue.sql("INSERT INTO item (id, note) VALUES (0, 'first')");
    until("it streams", SOON, || stage.green.count("item") == 1);
    let long = stage.file("long.wasm", bomb(100_000, 16));
    let wide = stage.file("wide.wasm", bomb(1, 500_000));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut id = 1;
            while !stop.load(Ordering::Relaxed) {
                stage
                    .blue
                    .sql(&format!("INSERT INTO item (id, note) SELECT n, 'x' FROM generate_series({id}, {id} + 9) n"));
                id += 10;
            }
        });
        let _ends = Ends(&stop);
        for (file, code) in [(&long, "COMPILE_TIMEOUT"), (&wide, "COMPILE_MEMORY")] {
            let (began, blue, green) = (Instant::now(), stage.blue.count("item"), stage.green.count("item"));
            let asked = stage.start_falkirk(&["swap", &file.to_string_lossy()]);
            let mut told = Vec::new();
            until("it compiles, in a process of its own", SOON, || {
                told = children(host.pid())
                    .iter()
                    .filter_map(|pid| fs::read(format!("/proc/{pid}/environ")).ok())
                    .collect();
                told.iter().any(|environment| environment.starts_with(b"RAYON_NUM_THREADS="))
            });
            assert!(told.iter().all(|environment| environment.len() < 24), "the compiler is told more than it needs");
            let refused = asked.wait(SOON).expect(1).says(code).says("@sha256:").says("compile.");
            refused.keeps_quiet_about("panicked");
            // Held against what the application did in the same time, on however busy a machine.
            let (blue, green) = (stage.blue.count("item") - blue, stage.green.count("item") - green);
            println!("{code} after {:?}: beside it {blue} rows were written and {green} arrived", began.elapsed());
            assert!(blue > 0 && green > blue / 4, "{code}: {blue} rows were written, {green} arrived");
        }
    });
    assert_eq!(children(host.pid()), Vec::<String>::new(), "the compiler is gone");
    until("everything arrives", SOON, || stage.same("SELECT id, note FROM item", "SELECT id, note FROM item"));
    assert_eq!(stage.green.count("(SELECT FROM item WHERE by <> '0001')"), 0, "only the old revision wrote");
    stage.falkirk(&["swap", &swap_component(&stage, 2, "ok", None).to_string_lossy()]).expect(0);
    host.terminate().expect(143).keeps_quiet_about("starting again from the checkpoint");
    stage.falkirk(&["clean"]).expect(0);
}

/// The processes in which a host compiles.
fn compilers(pid: i32) -> Vec<String> {
    let compiles = |pid: &String| {
        fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| line.windows(17).any(|part| part == b"compile-component"))
    };
    children(pid).into_iter().filter(compiles).collect()
}

#[test]
fn row_33_a_storm_of_swaps_while_one_is_compiled_ends_with_the_newest_and_one_compiler_at_a_time() {
    let (stage, _) = stage("compile_storm", PATIENT);
    let long = stage.file("long.wasm", bomb(140_000, 16));
    let host = stage.start_falkirk(&["run"]);
    stage.blue.sql("INSERT INTO item (id, note) VALUES (0, 'first')");
    until("it streams", SOON, || stage.green.count("item") == 1);
    let (stop, most) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                most.fetch_max(compilers(host.pid()).len(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        let _ends = Ends(&stop);
        let held = stage.start_falkirk(&["swap", &long.to_string_lossy()]);
        until("it compiles", SOON, || most.load(Ordering::Relaxed) > 0);
        let mut waiting: Vec<Running> = Vec::new();
        for number in 2..=7 {
            let file = swap_component(&stage, number, "ok", None);
            waiting.push(stage.start_falkirk(&["swap", &file.to_string_lossy()]));
            // Which of two has come later is known once the other one is told so.
            until("the older one is told", SOON, || {
                waiting.iter_mut().map(|wish| u32::from(wish.is_running())).sum::<u32>() == 1
            });
        }
        let newest = waiting.pop().expect("six were made");
        waiting.into_iter().for_each(|older| drop(older.wait(SOON).expect(1).says("SUPERSEDED")));
        // Long enough: the bomb's compiler is ended as by a machine that is out of memory.
        let bomb: Vec<i32> = compilers(host.pid()).iter().filter_map(|pid| pid.parse().ok()).collect();
        bomb.iter().for_each(|pid| kill(Pid::from_raw(*pid), Signal::SIGKILL).expect("it runs"));
        held.wait(SOON).expect(1).says("COMPILE_MEMORY");
        newest.wait(SOON).expect(0).says("revision_7_ok.wasm@sha256:");
    });
    assert_eq!(most.into_inner(), 1, "at most one compiles at a time");
    stage.blue.sql("INSERT INTO item (id, note) VALUES (1, 'after the storm')");
    until("it arrives", SOON, || stage.green.count("item") == 2);
    assert_eq!(stage.green.value("SELECT by FROM item WHERE id = 1"), "0007");
    let log = host.terminate().expect(143).err;
    assert_eq!(log.matches("swapped in").count(), 1, "{log}");
    stage.falkirk(&["clean"]).expect(0);
}

/// How little a process insists on its turn: the 19th of its figures; the second one is a name in brackets.
fn nice(pid: &str) -> i32 {
    let figures = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let behind = figures.rsplit_once(") ").expect("its name ends").1;
    behind.split(' ').nth(16).and_then(|figure| figure.parse().ok()).expect("a number")
}

/// The rate while every core has as much to do as a compiler gives it, with the priority of everybody else.
fn beside_work_that_does_not_give_way(rate: &impl Fn() -> f64) -> f64 {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _ends = Ends(&stop);
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        rate()
    })
}

#[test]
fn l10_a_compiler_gives_way_to_the_application_on_a_busy_machine() {
    let (stage, _) = stage("compile_nice", PATIENT);
    let long = stage.file("long.wasm", bomb(140_000, 16));
    let host = stage.start_falkirk(&["run"]);
    stage.blue.sql("INSERT INTO item (id, note) VALUES (0, 'first')");
    until("it streams", SOON, || stage.green.count("item") == 1);
    let (stop, committed) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for id in 1.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                stage.blue.sql(&format!("INSERT INTO item (id, note) VALUES ({id}, 'x')"));
                committed.fetch_add(1, Ordering::Relaxed);
            }
        });
        let _ends = Ends(&stop);
        let rate = || {
            let (from, began) = (committed.load(Ordering::Relaxed), Instant::now());
            std::thread::sleep(Duration::from_secs(1));
            (committed.load(Ordering::Relaxed) - from) as f64 / began.elapsed().as_secs_f64()
        };
        let asked = stage.start_falkirk(&["swap", &long.to_string_lossy()]);
        let mut compiler = Vec::new();
        until("it compiles", SOON, || {
            compiler = compilers(host.pid());
            !compiler.is_empty()
        });
        until("it gives way", SOON, || nice(&compiler[0]) > 0);
        assert!(nice(&host.pid().to_string()) < nice(&compiler[0]), "the host itself does not");
        let pid = Pid::from_raw(compiler[0].parse().expect("a number"));
        // In turns: whatever else goes on on this machine is in all three.
        let (mut without, mut beside, mut pressed) = (0.0, 0.0, 0.0);
        for _ in 0..5 {
            kill(pid, Signal::SIGSTOP).expect("it runs");
            without += rate() / 5.0;
            pressed += beside_work_that_does_not_give_way(&rate) / 5.0;
            kill(pid, Signal::SIGCONT).expect("it is there");
            beside += rate() / 5.0;
        }
        assert_eq!(compilers(host.pid()), compiler, "it compiled all the time");
        println!(
            "{without:.0} transactions/s without, {beside:.0} beside the compiler ({:.2}), {pressed:.0} beside as much \
             other work ({:.2})",
            beside / without,
            pressed / without
        );
        assert!(beside > pressed, "{pressed:.0} transactions/s beside other work, {beside:.0} beside the compiler");
        kill(pid, Signal::SIGKILL).expect("it runs");
        asked.wait(SOON).expect(1).says("COMPILE_MEMORY");
    });
    host.terminate().expect(143);
    stage.falkirk(&["clean"]).expect(0);
}

/// Told to end while it compiles something that takes longer than anybody waits.
fn ends_at_once(host: Running) {
    let mut compiler = Vec::new();
    until("it compiles", SOON, || {
        compiler = compilers(host.pid());
        !compiler.is_empty()
    });
    let began = Instant::now();
    host.signal(Signal::SIGTERM);
    host.wait(Duration::from_secs(10)).expect(143).keeps_quiet_about("panicked");
    println!("ended {:?} after it was told to", began.elapsed());
    let is_left = |pid: &String| Path::new("/proc").join(pid).join("exe").exists();
    until("no compiler is left", Duration::from_secs(2), || !compiler.iter().any(is_left));
}

/// Longer than any test waits, and more than any bomb takes.
const PATIENT: &str = "[compile]\ntime_s = 600\nmemory_mib = 4096\n";

#[test]
fn l10_a_host_that_is_told_to_end_while_it_compiles_ends_at_once_and_leaves_no_compiler_behind() {
    let (stage, _) = stage("compile_end", PATIENT);
    let long = stage.file("long.wasm", bomb(140_000, 16));
    let host = stage.start_falkirk(&["run"]);
    stage.blue.sql("INSERT INTO item (id, note) VALUES (0, 'first')");
    until("it streams", SOON, || stage.green.count("item") == 1);
    let asked = stage.start_falkirk(&["swap", &long.to_string_lossy()]);
    ends_at_once(host);
    asked.wait(SOON).expect(1);
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn l10_a_host_that_is_told_to_end_while_it_compiles_at_its_start_ends_at_once_and_leaves_no_compiler_behind() {
    let (stage, first) = stage("compile_start", PATIENT);
    let long = stage.file("long.wasm", bomb(140_000, 16));
    let config = fs::read_to_string(stage.folder().join("falkirk.toml")).expect("it is there");
    let named = |path: &Path| format!("{:?}", path.to_string_lossy());
    assert!(config.contains(&named(&first)));
    stage.file("falkirk.toml", config.replace(&named(&first), &named(&long)));
    ends_at_once(stage.start_falkirk(&["run"]));
    stage.file("falkirk.toml", config);
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    stage.falkirk(&["clean"]).expect(0);
}

/// Ends the load also when the test fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

const TAKEN: &str = "compiled code taken from the cache";
const FOREIGN: &str = "not what this host has put there";

/// A start; whether it compiled, and whether it took the code from the cache.
#[track_caller]
fn start(stage: &Stage) -> (bool, bool, Finished) {
    let began = Instant::now();
    let finished = stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    println!("a start of {:?}, taken from the cache: {}", began.elapsed(), finished.err.contains(TAKEN));
    (finished.err.contains(" compiled artifact="), finished.err.contains(TAKEN), finished)
}

fn kept(folder: &Path) -> Vec<PathBuf> {
    let all = fs::read_dir(folder).expect("the cache is there").flatten().map(|entry| entry.path());
    all.filter(|path| path.extension().is_some_and(|suffix| suffix == "code")).collect()
}

#[test]
fn l10_a_second_start_takes_the_code_from_the_cache_and_nothing_that_this_host_did_not_put_there() {
    let (stage, _) = stage("compile_cache", "[compile]\ncache = \"cache\"\n");
    let folder = stage.folder().join("cache");
    assert!(matches!(start(&stage), (true, false, _)), "the first start compiles");
    assert!(matches!(start(&stage), (false, true, _)), "the second does not");
    assert_eq!(folder.metadata().expect("it is there").permissions().mode() & 0o777, 0o700);
    let [place] = kept(&folder).try_into().expect("one artifact, one file");
    let whole = fs::read(&place).expect("it can be read");
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    };
    // Precompiled code as the engine writes it, without what proves whose it is; and one that another host has proved.
    let (other, _) = self::stage("compile_other", "[compile]\ncache = \"cache\"\n");
    start(&other);
    let [theirs] = kept(&other.folder().join("cache")).try_into().expect("one artifact, one file");
    assert_eq!(theirs.file_name(), place.file_name(), "the same artifact, engine and release");
    let foreign = [
        ("a flipped bit", flipped(whole.len() / 2)),
        ("a flipped bit of the proof", flipped(3)),
        ("cut short", whole[..whole.len() / 2].to_vec()),
        ("empty", Vec::new()),
        ("bare code", whole[32..].to_vec()),
        ("another host's", fs::read(theirs).expect("it can be read")),
    ];
    for (what, bytes) in foreign {
        fs::write(&place, bytes).expect("it can be written");
        let (compiled, taken, finished) = start(&stage);
        assert!(compiled && !taken, "{what}: {}", finished.err);
        finished.says(FOREIGN).keeps_quiet_about("panicked");
        // Mended by the way.
        assert!(matches!(start(&stage), (false, true, _)), "{what}: not mended");
    }
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).expect("it is ours");
    let (compiled, taken, finished) = start(&stage);
    assert!(compiled && !taken);
    finished.says("chmod 700");
    stage.falkirk(&["clean"]).expect(0);
    other.falkirk(&["clean"]).expect(0);
}
