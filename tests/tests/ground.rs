//! What everything else stands on: sessions that pin their settings, faults without values, servers that go away.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use falkirk::cluster::{Cluster, Options};
use falkirk::pg::address::Address;
use falkirk::pg::fault::{Fault, FaultClass};
use falkirk::pg::session::Session;
use falkirk::problem::{Action, Outcome};
use falkirk_tests::{SOON, Stage, until};

#[tokio::main]
async fn ask(url: &str, sql: &str) -> Outcome<String> {
    Session::connect(&Address::parse(url)?, "test").await?.one(sql).await?.text(0)
}

#[test]
fn pitfall_29_settings_of_the_role_do_not_change_how_values_are_written() {
    let stage = Stage::one_way("pins");
    stage.schemas("CREATE TABLE t (id int)", "CREATE TABLE t (id int)");
    let role = stage.blue.role();
    for setting in [
        "datestyle = 'SQL, DMY'",
        "intervalstyle = 'sql_standard'",
        "timezone = 'Asia/Tokyo'",
        "extra_float_digits = 0",
        "bytea_output = 'escape'",
        "search_path = 'public'",
        "client_encoding = 'LATIN1'",
    ] {
        stage.blue.admin(&format!("ALTER ROLE \"{role}\" SET {setting}"));
    }
    let sql = "SELECT concat_ws('|', '2026-11-01'::date, '1 day 02:00'::interval, '2026-01-01 00:00+00'::timestamptz, \
               0.30000000000000004::float8, '\\x00ff'::bytea, current_setting('search_path'), \
               current_setting('application_name'))";
    let said = ask(&stage.blue.url(), sql).unwrap();
    assert!(said.starts_with("2026-11-01|"), "{said}");
    assert!(said.contains("|2026-01-01 00:00:00+00|0.30000000000000004|\\x00ff||falkirk test"), "{said}");
}

#[test]
fn a_wrong_password_a_missing_database_and_a_dead_server_are_told_apart_and_keep_the_password() {
    let stage = Stage::with_own_servers("login", &[]);
    stage.schemas("CREATE TABLE t (id int)", "CREATE TABLE t (id int)");
    let url = |user: &str, password: &str, database: &str| stage.blue.server().url(user, password, database);
    let role = stage.blue.role();

    let wrong = ask(&url(&role, "hush hush", "login"), "SELECT 1").unwrap_err();
    assert_eq!((wrong.code(), wrong.action()), ("AUTHENTICATION_FAILED", Action::Refuse), "{wrong}");
    assert!(!wrong.to_string().contains("hush"), "{wrong}");
    let missing = ask(&url(&role, stage.blue.password(), "nowhere"), "SELECT 1").unwrap_err();
    assert_eq!((missing.code(), missing.action()), ("DATABASE_MISSING", Action::Refuse), "{missing}");

    let live = stage.blue.url();
    stage.blue.server().stop_immediate().unwrap();
    let dead = ask(&live, "SELECT 1").unwrap_err();
    assert_eq!((dead.code(), dead.action()), ("CONNECTION_LOST", Action::Retry), "{dead}");
    stage.blue.server().start_again().unwrap();
    assert_eq!(ask(&live, "SELECT 1").unwrap(), "1");
    stage.blue.sql("INSERT INTO t VALUES (1)");
    assert_eq!(stage.blue.count("t"), 1);
}

/// Runs a statement that fails, by both of the driver's ways.
#[tokio::main]
async fn fail(url: &str, sql: &str) -> Fault {
    let session = Session::connect(&Address::parse(url).unwrap(), "test").await.unwrap();
    Fault::of(&session.client().batch_execute(sql).await.unwrap_err())
}

#[test]
fn errors_of_a_live_server_are_understood_and_give_no_value_away() {
    let stage = Stage::new("faults");
    stage.schemas(
        "CREATE TABLE t (id int PRIMARY KEY, short varchar(3), positive int CHECK (positive > 0), name text NOT NULL);
         CREATE TABLE child (id int REFERENCES t);
         CREATE FUNCTION grumble() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF NEW.name = 'grumble' THEN RAISE EXCEPTION 'customer 4711 is a secret'; END IF; RETURN NEW; END $$;
         CREATE TRIGGER grumble BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION grumble();
         INSERT INTO t VALUES (4711, 'a', 1, 'x')",
        "CREATE TABLE t (id int)",
    );
    let integrity = |code: &str| code.ends_with("VIOLATION");
    for (sql, code) in [
        ("INSERT INTO public.t VALUES (4711, 'a', 1, 'x')", "UNIQUE_VIOLATION"),
        ("INSERT INTO public.t VALUES (1, 'a', -4711, 'x')", "CHECK_VIOLATION"),
        ("INSERT INTO public.t VALUES (4711, 'a', 1, NULL)", "NOT_NULL_VIOLATION"),
        ("INSERT INTO public.child VALUES (-4711)", "FOREIGN_KEY_VIOLATION"),
        ("INSERT INTO public.t VALUES (1, '4711', 1, 'x')", "TARGET_REJECTS_VALUE"),
        ("SELECT '4711x'::int", "TARGET_REJECTS_VALUE"),
        ("SELECT '\"4711'::json", "TARGET_REJECTS_VALUE"),
        ("SELECT 471147114711 * 471147114711", "TARGET_REJECTS_VALUE"),
        ("INSERT INTO public.t VALUES (1, 'a', 1, 'grumble')", "DATABASE_ERROR"),
        ("SELECT 'a' 4711 'b'", "SCHEMA_MISMATCH"),
        ("SELECT * FROM public.nothing", "SCHEMA_MISMATCH"),
        ("SELECT * FROM pg_authid", "PERMISSION_DENIED"),
        ("SET transaction_read_only = on; DELETE FROM public.t", "READ_ONLY"),
        ("SET statement_timeout = 10; SELECT pg_sleep(5)", "STATEMENT_CANCELLED"),
        ("SELECT pg_terminate_backend(pg_backend_pid())", "CONNECTION_LOST"),
    ] {
        let fault = fail(&stage.blue.url(), sql);
        assert_eq!(fault.code(), code, "{sql}: {fault:?}");
        assert_eq!(integrity(code), matches!(fault.class, FaultClass::Integrity { .. }), "{sql}: {fault:?}");
        assert!(!format!("{fault:?}").contains("4711"), "{sql}: {fault:?}");
    }
    let fault = fail(&stage.blue.url(), "INSERT INTO public.t VALUES (4711, 'a', 1, 'x')");
    let FaultClass::Integrity { constraint, table, .. } = fault.class else { panic!("an integrity fault") };
    assert_eq!((constraint.as_deref(), table.unwrap().to_string().as_str()), (Some("t_pkey"), "public.t"));
}

/// Makes an authority and a certificate for localhost, and has the server use it. False without the tools for it.
fn encrypt(stage: &Stage) -> bool {
    let files = stage.folder().display();
    let script = format!(
        "cd {files} && openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.pem &&
         openssl req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout server.key -out server.csr &&
         echo 'subjectAltName=DNS:localhost' >names &&
         openssl x509 -req -days 2 -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -extfile names -out server.pem &&
         cp server.key server.pem {data} && chown --reference={data}/postgresql.conf {data}/server.* &&
         chmod 600 {data}/server.key",
        data = stage.blue.server().folder().join("data").display(),
    );
    let made = Command::new("sh").args(["-c", &script]).stderr(Stdio::null()).status();
    if !made.is_ok_and(|status| status.success()) {
        return false;
    }
    for setting in ["ssl_cert_file = 'server.pem'", "ssl_key_file = 'server.key'", "ssl = on"] {
        stage.blue.admin(&format!("ALTER SYSTEM SET {setting}"));
    }
    stage.blue.server().stop_fast().unwrap();
    stage.blue.server().start_again().unwrap();
    true
}

#[test]
fn row_7_a_session_is_encrypted_and_only_a_server_with_a_trusted_name_is_spoken_to() {
    let stage = Stage::with_own_servers("encrypted", &[]);
    stage.schemas("CREATE TABLE t (id int)", "CREATE TABLE t (id int)");
    if !encrypt(&stage) {
        eprintln!("not tried: no openssl on this machine");
        return;
    }
    let root = stage.folder().join("ca.pem");
    let url =
        |host: &str, root: &str| format!("{}?sslmode=verify-full{root}", stage.blue.url().replace("127.0.0.1", host));
    let trusted = format!("&sslrootcert={}", root.display());
    let sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    assert_eq!(ask(&url("localhost", &trusted), sql).unwrap(), "t");
    let other_name = ask(&url("127.0.0.1", &trusted), sql).unwrap_err();
    assert!(other_name.to_string().contains("certificate"), "{other_name}");
    let unknown = ask(&url("localhost", ""), sql).unwrap_err();
    assert!(unknown.code() == "TLS_ROOTS" || unknown.to_string().contains("certificate"), "{unknown}");
}

#[test]
fn a_paused_server_hangs_and_goes_on() {
    let stage = Stage::with_own_servers("paused", &[]);
    stage.schemas("CREATE TABLE t (id int)", "CREATE TABLE t (id int)");
    stage.blue.server().pause().unwrap();
    let url = stage.blue.url();
    let asked = std::thread::spawn(move || ask(&url, "SELECT 1"));
    std::thread::sleep(Duration::from_millis(300));
    assert!(!asked.is_finished());
    stage.blue.server().resume().unwrap();
    assert_eq!(asked.join().unwrap().unwrap(), "1");
}

/// Not a test of its own: the process that the next test kills.
#[test]
#[ignore = "started by the test below"]
fn an_owner_that_waits_to_be_killed() {
    let cluster = Cluster::start(&Options::default()).unwrap();
    println!("folder={}|{}", cluster.folder().display(), cluster.port());
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn a_private_server_goes_with_its_owner_even_after_kill_9() {
    let mut owner = Command::new(std::env::current_exe().unwrap());
    owner.args(["--ignored", "--exact", "--nocapture", "an_owner_that_waits_to_be_killed"]);
    let mut owner = owner.stdout(Stdio::piped()).spawn().unwrap();
    let line = BufReader::new(owner.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok)
        .find_map(|line| line.split_once("folder=").map(|(_, rest)| rest.to_owned()))
        .expect("the owner tells its folder");
    let (folder, port) = line.split_once('|').unwrap();
    let port: u16 = port.parse().unwrap();
    assert!(Path::new(folder).exists() && TcpStream::connect(("127.0.0.1", port)).is_ok());

    owner.kill().unwrap();
    owner.wait().unwrap();

    until("the server and its folder are gone", SOON, || {
        !Path::new(folder).exists() && TcpStream::connect(("127.0.0.1", port)).is_err()
    });
}
