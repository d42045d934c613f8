//! The source stage against a live server of its own: pins, snapshots, slots, every kind of event, what is wrong with a
//! slot, authentication, hostile frames, and our frames held against the server's own word for 100,000 events.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use falkirk::change::{Before, Cell, Event, Image};
use falkirk::cluster::{Cluster, Options};
use falkirk::decode::{Decoder, Message};
use falkirk::lsn::Lsn;
use falkirk::pg::address::Address;
use falkirk::source::copy_out::{self, CopyOut};
use falkirk::source::session::ReplicationSession;
use falkirk::source::stream::{Frame, ReplicationStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_postgres::{Client, NoTls};

const PATIENCE: Duration = Duration::from_secs(30);

/// One server for all tests. It goes with the process: nothing drops a static, its watcher takes care of that.
fn cluster() -> MutexGuard<'static, Cluster> {
    static CLUSTER: OnceLock<Mutex<Cluster>> = OnceLock::new();
    let start = || Mutex::new(Cluster::start(&Options::default()).expect("a private server starts"));
    CLUSTER.get_or_init(start).lock().unwrap_or_else(PoisonError::into_inner)
}

fn superuser_url(database: &str) -> String {
    cluster().superuser_url(database)
}

/// The address for the role of a test, which is named like its database.
fn url(name: &str, password: &str) -> String {
    cluster().url(name, password, name)
}

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be started");
    runtime.block_on(async { tokio::time::timeout(PATIENCE * 4, test).await.expect("the test ends in time") })
}

/// A database with a table and a publication of its own, and a role that may replicate.
struct Ground {
    admin: Client,
    name: &'static str,
}

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("the server takes connections");
    tokio::spawn(connection);
    client
}

impl Ground {
    async fn new(name: &'static str, schema: &str) -> Ground {
        let (maintenance, url) = (superuser_url("postgres"), superuser_url(name));
        let server = connect(&maintenance).await;
        let role = format!("CREATE ROLE {name} LOGIN REPLICATION PASSWORD 'a secret'");
        server.batch_execute(&role).await.expect("a role can be made");
        server.batch_execute(&format!("CREATE DATABASE {name} OWNER {name}")).await.expect("a database can be made");
        let admin = connect(&url).await;
        let ground = Ground { admin, name };
        ground
            .sql(&format!(
                "{schema} CREATE PUBLICATION p FOR ALL TABLES; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name}"
            ))
            .await;
        ground
    }

    async fn sql(&self, sql: &str) {
        self.admin.batch_execute(sql).await.unwrap_or_else(|error| panic!("{error:?}\n  {sql}"));
    }

    fn address(&self) -> Address {
        Address::parse(&url(self.name, "a secret")).expect("the address is valid")
    }

    async fn session(&self) -> ReplicationSession {
        ReplicationSession::connect(&self.address(), "test").await.expect("a session opens")
    }

    async fn end(self) {
        let slots = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database() AND NOT active";
        self.sql(slots).await;
    }
}

/// The payloads up to and with the commit of `transactions`.
async fn payloads(stream: &mut ReplicationStream, transactions: usize) -> Vec<Bytes> {
    let mut found = Vec::new();
    let mut commits = 0;
    while commits < transactions {
        let mut frames = Vec::new();
        tokio::time::timeout(PATIENCE, stream.next(&mut frames))
            .await
            .expect("frames arrive")
            .expect("the stream is fine");
        for frame in frames {
            if let Frame::Data { payload } = frame {
                commits += usize::from(payload.first() == Some(&b'C'));
                found.push(payload);
            }
        }
    }
    found
}

async fn messages(stream: &mut ReplicationStream, transactions: usize) -> Vec<Message> {
    let mut decoder = Decoder::new();
    let frames = payloads(stream, transactions).await;
    frames.into_iter().filter_map(|frame| decoder.decode(frame).expect("every frame decodes")).collect()
}

fn events(messages: Vec<Message>) -> Vec<Event> {
    let event = |message| match message {
        Message::Change(change) => Some(change.event),
        _ => None,
    };
    messages.into_iter().filter_map(event).collect()
}

fn texts(image: &Image) -> Vec<Option<String>> {
    (0..image.len()).map(|at| image.text(at).map(|text| String::from_utf8_lossy(text).into_owned())).collect()
}

#[test]
fn pitfall_29_the_pins_win_over_the_settings_of_role_and_database() {
    run(async {
        let ground = Ground::new(
            "pins",
            "CREATE TABLE t (f float8, g float4, d date, b bytea, z timestamptz, i interval, m money);",
        )
        .await;
        for owner in ["ROLE pins", "DATABASE pins"] {
            for setting in [
                "extra_float_digits = 0",
                "DateStyle = 'SQL, DMY'",
                "bytea_output = 'escape'",
                "TimeZone = 'Asia/Tokyo'",
                "IntervalStyle = 'iso_8601'",
                "search_path = 'elsewhere'",
            ] {
                ground.sql(&format!("ALTER {owner} SET {setting}")).await;
            }
        }
        let mut session = ground.session().await;
        session.create_slot("pins", false).await.expect("a slot is made");
        session.release_snapshot().await.expect("the snapshot closes");
        ground.sql("ALTER TABLE t REPLICA IDENTITY FULL; INSERT INTO t VALUES (0.1::float8 + 0.2, 0.1::float4 / 3, '2026-11-01', '\\x00ff', '2026-11-01 12:00:00+00', '1 day 02:00:00', 12.34)").await;
        let mut stream = session.start("pins", "p", Lsn::ZERO).await.expect("the stream starts");
        let found = events(messages(&mut stream, 1).await);
        let [Event::Insert(row)] = found.as_slice() else { panic!("one insert was made: {found:?}") };
        let wanted = [
            "0.30000000000000004",
            "0.033333335",
            "2026-11-01",
            "\\x00ff",
            "2026-11-01 12:00:00+00",
            "1 day 02:00:00",
            "$12.34",
        ];
        assert_eq!(texts(row)[..6], wanted.map(|text| Some(text.to_owned()))[..6]);
        stream.finish().await.expect("the stream ends");
        ground.end().await;
    });
}

#[test]
fn l5_a_slots_snapshot_holds_exactly_what_the_stream_does_not_repeat() {
    run(async {
        let ground =
            Ground::new("snapshot", "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2);").await;
        let mut session = ground.session().await;
        let snapshot = session.create_slot("snapshot", false).await.expect("a slot is made");
        ground.sql("INSERT INTO t VALUES (3)").await;
        // Two sessions of the reading role enter it while it is held.
        for _ in 0..2 {
            let reader = connect(&url("snapshot", "a secret")).await;
            let copy = CopyOut::enter(&reader, &snapshot.snapshot).await.expect("the snapshot can be entered");
            let mut blocks = copy.read("SELECT id FROM t ORDER BY id").await.expect("it can be read");
            assert_eq!(blocks.next().await.expect("rows arrive").as_deref(), Some(&b"1\n2\n"[..]));
            assert!(blocks.next().await.expect("the end arrives").is_none());
            drop(blocks);
            copy.leave().await.expect("it can be left");
        }
        session.release_snapshot().await.expect("the snapshot closes");
        let mut stream = session.start("snapshot", "p", snapshot.consistent_point).await.expect("the stream starts");
        let found = events(messages(&mut stream, 1).await);
        let [Event::Insert(row)] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!(texts(row), [Some("3".to_owned())]);
        drop(stream);
        let reader = connect(&superuser_url("snapshot")).await;
        let gone = CopyOut::enter(&reader, &snapshot.snapshot).await;
        assert!(gone.is_err(), "a snapshot lives as long as its transaction");
    });
}

#[test]
fn pitfalls_7_to_10_every_kind_of_event_says_what_it_is() {
    run(async {
        let ground = Ground::new(
            "kinds",
            "CREATE TABLE t (id int PRIMARY KEY, big text, n int); ALTER TABLE t ALTER big SET STORAGE EXTERNAL;
             CREATE TABLE f (id int PRIMARY KEY, big text, n int); ALTER TABLE f ALTER big SET STORAGE EXTERNAL;
             ALTER TABLE f REPLICA IDENTITY FULL;",
        )
        .await;
        let mut session = ground.session().await;
        session.create_slot("kinds", false).await.expect("a slot is made");
        session.release_snapshot().await.expect("the snapshot closes");
        let steps = [
            "INSERT INTO t VALUES (1, repeat('x', 5000), NULL)",
            "UPDATE t SET n = 1",
            "UPDATE t SET id = 2",
            "DELETE FROM t",
            "INSERT INTO f VALUES (1, repeat('y', 5000), 1)",
            "UPDATE f SET n = 2",
            "DELETE FROM f",
            "TRUNCATE t, f RESTART IDENTITY CASCADE",
        ];
        for step in steps {
            ground.sql(step).await;
        }
        ground.sql("SELECT pg_logical_emit_message(true, 'here', 'inside')").await;
        let mut stream = session.start("kinds", "p", Lsn::ZERO).await.expect("the stream starts");
        let found = messages(&mut stream, steps.len() + 1).await;
        let is_message = |message: &Message| matches!(message, Message::Logical { transactional: true, prefix, content } if prefix == "here" && &content[..] == b"inside");
        assert_eq!(found.iter().filter(|message| is_message(message)).count(), 1);
        let found = events(found);
        assert_eq!(found.len(), steps.len());
        let x = Some("x".repeat(5000));
        assert!(matches!(&found[0], Event::Insert(row) if texts(row) == [Some("1".into()), x.clone(), None]));
        assert!(
            matches!(&found[1], Event::Update { before: Before::Absent, after } if after.cell(1) == Cell::Unchanged && after.text(2) == Some(b"1"))
        );
        assert!(
            matches!(&found[2], Event::Update { before: Before::Key(old), after } if old.text(0) == Some(b"1") && after.text(0) == Some(b"2") && after.cell(1) == Cell::Unchanged)
        );
        assert!(
            matches!(&found[3], Event::Delete(Before::Key(old)) if old.text(0) == Some(b"2") && old.text(2).is_none())
        );
        let Event::Update { before: Before::Full(old), after } = &found[5] else { panic!("{:?}", found[5]) };
        // The server left the big value out; the decoder has taken it from the old row.
        assert_eq!((old.text(1), after.text(1), after.text(2)), (after.text(1), old.text(1), Some(&b"2"[..])));
        assert_eq!(after.text(1).map(<[u8]>::len), Some(5000));
        assert!(matches!(&found[6], Event::Delete(Before::Full(old)) if old.text(2) == Some(b"2")));
        assert!(matches!(&found[7], Event::Truncate { relations, .. } if relations.len() == 2));
        stream.finish().await.expect("the stream ends");
        ground.end().await;
    });
}

#[test]
fn row_41_a_slot_that_is_missing_or_in_use_has_its_own_code() {
    run(async {
        let ground = Ground::new("codes", "CREATE TABLE t (id int PRIMARY KEY);").await;
        let refusal =
            ground.session().await.start("absent", "p", Lsn::ZERO).await.err().expect("there is no such slot");
        assert_eq!(refusal.code(), "SLOT_MISSING", "{refusal}");
        let mut session = ground.session().await;
        session.create_slot("codes", false).await.expect("a slot is made");
        session.release_snapshot().await.expect("the snapshot closes");
        let stream = session.start("codes", "p", Lsn::ZERO).await.expect("the stream starts");
        let refusal = ground.session().await.start("codes", "p", Lsn::ZERO).await.err().expect("it is in use");
        assert_eq!(refusal.code(), "SLOT_IN_USE", "{refusal}");
        let refusal = ground.session().await.start("co'des", "p", Lsn::ZERO).await.err().expect("it is no name");
        assert_eq!(refusal.code(), "CONFIG_INVALID", "{refusal}");
        stream.finish().await.expect("the stream ends");
        ground.end().await;
    });
}

#[test]
fn row_52_scram_proves_the_password_and_a_wrong_one_is_refused_without_being_shown() {
    run(async {
        let ground = Ground::new("scram", "CREATE TABLE t (id int PRIMARY KEY);").await;
        let mut session = ground.session().await;
        assert_eq!(session.identify().await.expect("it answers").database, "scram");
        let wrong = Address::parse(&url("scram", "a guess")).expect("the address is valid");
        let refusal = ReplicationSession::connect(&wrong, "test").await.err().expect("the password is wrong");
        assert_eq!(refusal.code(), "PERMISSION_DENIED");
        assert!(!refusal.to_string().contains("guess"), "{refusal}");
        ground.end().await;
    });
}

/// A server that answers the startup with these bytes; what the client says after them.
async fn hostile(answer: Vec<u8>) -> (String, Vec<u8>) {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("there is a free port");
    let port = listener.local_addr().expect("it has an address").port();
    let server = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.expect("the client comes");
        let mut startup = vec![0; 4096];
        let _ = socket.read(&mut startup).await.expect("the client speaks first");
        socket.write_all(&answer).await.expect("the client listens");
        let mut rest = Vec::new();
        // It may hang up rudely: what it said before counts.
        let _ = socket.read_to_end(&mut rest).await;
        rest
    });
    let address = Address::parse(&format!("postgres://user:hidden@127.0.0.1:{port}/d")).expect("the address is valid");
    let refusal = ReplicationSession::connect(&address, "test").await.err().expect("nobody sane goes on");
    (refusal.to_string(), server.await.expect("the server ends"))
}

#[test]
fn row_35_and_52_a_hostile_server_gets_neither_memory_nor_a_password() {
    run(async {
        for length in [0x7fff_ffff_u32, 0xffff_ffff, 0x4000_0001, 3, 0] {
            let (refusal, said) = hostile([&b"R"[..], &length.to_be_bytes()].concat()).await;
            assert!(refusal.starts_with("PROTOCOL_ERROR"), "{refusal}");
            assert!(said.is_empty());
        }
        // A password in the clear is asked for.
        let (refusal, said) = hostile(b"R\0\0\0\x08\0\0\0\x03".to_vec()).await;
        assert!(refusal.starts_with("PERMISSION_DENIED"), "{refusal}");
        assert!(!String::from_utf8_lossy(&said).contains("hidden"));
    });
}

/// Applies events to a table of `(id, n, note)` in memory.
fn replay(rows: &mut BTreeMap<i64, Vec<Option<String>>>, event: &Event) {
    let key = |image: &Image| String::from_utf8_lossy(image.text(0).expect("a key")).parse().expect("a number");
    match event {
        Event::Insert(after) => _ = rows.insert(key(after), texts(after)),
        Event::Update { before, after } => {
            let old = match before {
                Before::Key(old) | Before::Full(old) => key(old),
                Before::Absent => key(after),
            };
            let was = rows.remove(&old).expect("the row is known");
            let is = (0..after.len()).map(|at| match after.cell(at) {
                Cell::Unchanged => was[at].clone(),
                _ => texts(after)[at].clone(),
            });
            rows.insert(key(after), is.collect());
        }
        Event::Delete(Before::Key(old) | Before::Full(old)) => _ = rows.remove(&key(old)).expect("the row is known"),
        Event::Delete(Before::Absent) => panic!("a delete without a key"),
        Event::Truncate { .. } => rows.clear(),
        Event::Denied { .. } => panic!("there is no other link"),
    }
}

#[test]
fn a_hundred_thousand_events_are_the_servers_own_bytes_and_lead_to_the_servers_own_rows() {
    run(async {
        let ground = Ground::new(
            "oracle",
            "CREATE TABLE t (id bigint PRIMARY KEY, n int, note text); ALTER TABLE t ALTER note SET STORAGE EXTERNAL;",
        )
        .await;
        let mut session = ground.session().await;
        session.create_slot("oracle", false).await.expect("a slot is made");
        session.release_snapshot().await.expect("the snapshot closes");
        ground.sql("SELECT pg_copy_logical_replication_slot('oracle', 'oracle_copy')").await;
        let mut transactions = 0;
        for round in 0..20 {
            let base = round * 10_000;
            for step in [
                format!(
                    "INSERT INTO t SELECT {base} + n, n, CASE n % 100 WHEN 0 THEN repeat(n::text, 1000) ELSE E'a\\tb\\\\' || n END FROM generate_series(1, 3000) n"
                ),
                format!(
                    "UPDATE t SET n = n + 1, note = CASE WHEN id % 7 = 0 THEN NULL ELSE note END WHERE id > {base}"
                ),
                format!("UPDATE t SET id = id + 1000000000 WHERE id BETWEEN {base} AND {base} + 500"),
                format!("DELETE FROM t WHERE id BETWEEN {base} + 1000 AND {base} + 1600"),
                format!(
                    "BEGIN; SAVEPOINT s; DELETE FROM t; ROLLBACK TO s; UPDATE t SET n = -1 WHERE id = {base} + 2000; COMMIT"
                ),
            ] {
                ground.sql(&step).await;
                transactions += 1;
            }
        }
        let mut stream = session.start("oracle", "p", Lsn::ZERO).await.expect("the stream starts");
        let ours = payloads(&mut stream, transactions).await;
        stream.finish().await.expect("the stream ends");
        let query = "SELECT data FROM pg_logical_slot_peek_binary_changes('oracle_copy', NULL, NULL, 'proto_version', '1', 'publication_names', 'p', 'messages', 'true')";
        let theirs = ground.admin.query(query, &[]).await.expect("the server decodes it as well");
        // A table is described again whenever the decoding process forgets it, for example after an ANALYZE: how often is
        // the process's own affair, and the two decode in different ones.
        let is_event = |frame: &&[u8]| !matches!(frame.first(), Some(b'R' | b'Y'));
        let our_events: Vec<&[u8]> = ours.iter().map(|frame| &frame[..]).filter(is_event).collect();
        let their_events: Vec<&[u8]> = theirs.iter().map(|row| row.get(0)).filter(is_event).collect();
        assert_eq!(our_events.len(), their_events.len());
        let differs = our_events.iter().zip(&their_events).position(|(ours, theirs)| ours != theirs);
        assert_eq!(differs, None, "the first event that differs");
        let mut decoder = Decoder::new();
        let mut rows = BTreeMap::new();
        let mut count = 0;
        for frame in ours {
            if let Some(Message::Change(change)) = decoder.decode(frame).expect("every frame decodes") {
                replay(&mut rows, &change.event);
                count += 1;
            }
        }
        assert!(count >= 100_000, "{count} events");
        let table =
            ground.admin.query("SELECT id, id::text, n::text, note FROM t", &[]).await.expect("the table can be read");
        let table: BTreeMap<i64, Vec<Option<String>>> =
            table.iter().map(|row| (row.get(0), vec![row.get(1), row.get(2), row.get(3)])).collect();
        assert!(rows == table, "{} rows by replay, {} in the table", rows.len(), table.len());
        ground.end().await;
    });
}

/// A repeatable source of nasty texts; no randomness, so that a failure comes again.
fn nasty(seed: &mut u64) -> Option<String> {
    const PARTS: [&str; 20] = [
        "\\",
        "\\N",
        "\\.",
        "\t",
        "\n",
        "\r",
        "\r\n",
        "\u{8}",
        "\u{b}",
        "\u{c}",
        "\\t",
        "\\\\",
        "\\x41",
        "\\101",
        "N",
        "é",
        "\u{10ffff}",
        " ",
        "\u{1}",
        "x",
    ];
    let mut next = |below: u64| {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*seed >> 33) % below
    };
    match next(8) {
        0 => None,
        1 => Some(String::new()),
        _ => Some((0..=next(6)).map(|_| PARTS[next(PARTS.len() as u64) as usize]).collect()),
    }
}

#[test]
fn l5_whatever_text_the_server_copies_out_is_read_back_as_it_was() {
    run(async {
        let ground = Ground::new("copied", "CREATE TABLE t (id int PRIMARY KEY, a text, b text, c text);").await;
        let mut seed = 7;
        let columns: Vec<Vec<Option<String>>> =
            (0..3).map(|_| (0..5_000).map(|_| nasty(&mut seed)).collect()).collect();
        let insert = "INSERT INTO t SELECT n, a, b, c FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS u (a, b, c, n)";
        ground.admin.execute(insert, &[&columns[0], &columns[1], &columns[2]]).await.expect("rows can be made");
        let mut session = ground.session().await;
        let snapshot = session.create_slot("copied", true).await.expect("a slot is made");
        let reader = connect(&url("copied", "a secret")).await;
        let copy = CopyOut::enter(&reader, &snapshot.snapshot).await.expect("the snapshot can be entered");
        for (query, width) in [("SELECT a, b, c FROM t ORDER BY id", 3), ("SELECT a FROM t ORDER BY id", 1)] {
            let mut blocks = copy.read(query).await.expect("it can be read");
            let mut row = 0;
            while let Some(block) = blocks.next().await.expect("rows arrive") {
                for image in copy_out::parse_rows(&block, width).expect("every block is whole rows") {
                    let wanted: Vec<Option<String>> =
                        columns.iter().take(width).map(|column| column[row].clone()).collect();
                    assert_eq!(texts(&image), wanted, "row {row}");
                    row += 1;
                }
            }
            assert_eq!(row, 5_000);
        }
        copy.leave().await.expect("it can be left");
        drop(session);
        ground.end().await;
    });
}
