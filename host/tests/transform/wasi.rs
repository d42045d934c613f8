//! A transform that imports WASI gets one with nothing behind it, and what it writes reaches the log in bounds.

use std::process::Command;
use std::sync::Mutex;

use super::*;

/// Cargo makes a component for this target by itself.
const TARGET: &str = "wasm32-wasip2";

fn asking() -> Arc<Artifact> {
    static BUILT: OnceLock<Arc<Artifact>> = OnceLock::new();
    let build = || {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/guests-wasi");
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guests-wasi");
        let mut command = Command::new(env!("CARGO"));
        command.args(["build", "--release", "--target", TARGET]).current_dir(&folder).env("CARGO_TARGET_DIR", &target);
        assert!(command.status().unwrap().success(), "`make setup` adds the target {TARGET}");
        let path = target.join(TARGET).join("release/falkirk_test_guests_wasi.wasm");
        Arc::new(Artifact::load(&path, None, &Limits::default(), &Compiler::default()).unwrap())
    };
    Arc::clone(BUILT.get_or_init(build))
}

fn guest_with_wasi() -> Guest {
    Guest::new(asking(), Direction::Forward, Limits { batch_time_ms: 2_000, ..LIMITS })
}

fn said(guest: &mut Guest, note: &str) -> String {
    let answers = run(guest, "t", &rows(1, &[(0, note)])).unwrap();
    super::note(&answers[0])
}

/// What `work` logs.
fn logged<T>(work: impl FnOnce() -> T) -> (T, String) {
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);
    impl std::io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let done = tracing::subscriber::with_default(subscriber, || {
        tracing::info_span!("call", position = "0/1234").in_scope(work)
    });
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    (done, text)
}

#[test]
fn row_34_and_l9_time_randomness_and_surroundings_are_the_same_in_every_run_and_every_instance() {
    for (note, part) in [("time", "946684800"), ("order", "49"), ("world", "0 variables, 0 arguments, 0 files, false")]
    {
        let one = said(&mut guest_with_wasi(), note);
        assert_eq!(said(&mut guest_with_wasi(), note), one);
        assert!(one.contains(part), "{note}: {one}");
    }
    // Every call is made again in other cuts: asking for the time makes no difference.
    let limits = Limits { determinism_share: 1.0, batch_time_ms: 2_000, ..LIMITS };
    let mut guest = Guest::new(asking(), Direction::Forward, limits);
    assert!(run(&mut guest, "t", &rows(9, &[(2, "time"), (5, "world"), (7, "time")])).is_ok());
}

#[test]
fn l10_a_transform_that_sleeps_for_a_day_does_not() {
    let started = Instant::now();
    assert_eq!(said(&mut guest_with_wasi(), "sleep"), "slept");
    assert!(started.elapsed() < Duration::from_secs(60), "it slept in the host, out of the deadline's reach");
}

#[test]
fn row_31_what_a_transform_writes_reaches_the_log_escaped_with_artifact_table_and_position() {
    let mut guest = guest_with_wasi();
    let (_, log) = logged(|| said(&mut guest, "say"));
    let line = log.lines().find(|line| line.contains("a word")).unwrap();
    assert!(line.contains("stdout: a word with \\u{1b}[31mcolour\\u{1b}[0m and a return\\r"), "{line}");
    assert!(line.contains("falkirk_test_guests_wasi.wasm@sha256:") && line.contains("table=\"t\""), "{line}");
    assert!(line.contains("position=\"0/1234\""), "{line}");
    assert!(log.contains("stderr: without an end") && !log.contains('\x1b'), "{log}");
}

#[test]
fn row_31_a_flood_is_cut_and_counted() {
    let mut guest = guest_with_wasi();
    let (_, log) = logged(|| said(&mut guest, "flood"));
    assert_eq!(log.matches("stdout: line ").count(), 100, "{log}");
    assert!(log.contains("dropped=4900") && log.contains("line 4999"), "{log}");
}

#[test]
fn row_22_and_31_a_panic_s_message_reaches_the_log_once_also_after_a_flood_and_stays_out_of_the_problem() {
    let mut guest = guest_with_wasi();
    let (fault, log) = logged(|| run(&mut guest, "t", &rows(40, &[(20, "panic")])).unwrap_err());
    let text = fault.problem.to_string();
    assert_eq!((fault.row, fault.problem.code()), (20, "TRANSFORM_TRAP"));
    assert!(text.contains("ask") && text.contains("src/lib.rs:"), "the place in the transform: {text}");
    assert!(!text.contains("why"), "{text}");
    // The search for the row makes the call again and again; the log hears it once.
    assert_eq!(log.matches("stdout: before").count(), 100, "{log}");
    assert_eq!(log.matches("stderr: this is \\u{1b}[31mwhy").count(), 1, "{log}");
    assert!(log.contains("stderr: xxx"), "{log}");
    assert!(log.lines().all(|line| line.len() < 1_400), "{log}");
}

#[test]
fn an_exit_is_a_trap_that_says_so() {
    let fault = run(&mut guest_with_wasi(), "t", &rows(8, &[(3, "exit")])).unwrap_err();
    assert_eq!((fault.row, fault.problem.code()), (3, "TRANSFORM_TRAP"));
    assert!(fault.problem.to_string().contains("it called exit"), "{}", fault.problem);
}
