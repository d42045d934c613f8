//! The apply stage and the copy's reading half against a PostgreSQL server of their own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use falkirk::apply::checkpoint::{self, SourceIdentity};
use falkirk::apply::chunk;
use falkirk::apply::copy_in::ChunkWriter;
use falkirk::apply::encode::{self, Typed, Wire};
use falkirk::apply::writer::{Batch, Closing, Writer};
use falkirk::apply::{LinkIdentity, schema};
use falkirk::change::Datum;
use falkirk::cluster::{Cluster, Options};
use falkirk::delta::{Set, SetKind};
use falkirk::lsn::Lsn;
use falkirk::marker::{Link, parse_marker};
use falkirk::names::TableName;
use falkirk::pg::pins::PINS;
use falkirk::plan::{Case, Columns, Plan, Target, TargetColumn};
use falkirk::problem::{Action, Outcome};
use falkirk::source::copy_out::{self, CopyOut, KeyColumn};
use tokio::sync::OnceCell;
use tokio_postgres::{Client, NoTls};

/// One server for all tests of this file; each test has a database of its own. It goes with the process: nothing drops a
/// static, its watcher takes care of that.
struct Server {
    cluster: Cluster,
}

impl Server {
    fn start() -> Server {
        Server { cluster: Cluster::start(&Options::default()).expect("a private server starts") }
    }

    /// A session of an administrator, who finds tables without naming their schema. What a value looks like is pinned as
    /// the host pins it.
    async fn connect(&self, database: &str) -> Client {
        session(&self.cluster.superuser_url(database), &[("search_path", "public")]).await
    }

    /// A session of a test's own role.
    async fn connect_as(&self, user: &str, database: &str) -> Client {
        session(&self.cluster.url(user, PASSWORD, database), &[]).await
    }
}

const PASSWORD: &str = "test only";

/// A connection with the pins of the host, but for those given here.
async fn session(url: &str, instead: &[(&str, &str)]) -> Client {
    let value = |name: &str, pinned: &'static str| -> String {
        instead.iter().find(|(other, _)| *other == name).map_or(pinned, |(_, value)| *value).replace(' ', "\\ ")
    };
    let pins = PINS.iter().filter(|(name, _)| *name != "client_encoding");
    let options: Vec<String> = pins.map(|(name, pinned)| format!("-c {name}={}", value(name, pinned))).collect();
    let mut config: tokio_postgres::Config = url.parse().unwrap();
    let (client, connection) = config.options(options.join(" ")).connect(NoTls).await.unwrap();
    tokio::spawn(async move { drop(connection.await) });
    client
}

static SERVER: OnceCell<Server> = OnceCell::const_new();
static DATABASES: AtomicU32 = AtomicU32::new(0);

async fn server() -> &'static Server {
    SERVER.get_or_init(|| async { tokio::task::spawn_blocking(Server::start).await.unwrap() }).await
}

struct Basin {
    database: String,
    client: Client,
    identity: LinkIdentity,
}

const START: Lsn = Lsn(100);

fn source() -> SourceIdentity {
    SourceIdentity {
        system_id: "7".into(),
        timeline: 1,
        database: "blue".into(),
        slot: "falkirk_shop_forward".into(),
        slot_created_at: Lsn(90),
    }
}

async fn basin(ddl: &str) -> Basin {
    let server = server().await;
    let database = format!("d{}", DATABASES.fetch_add(1, Ordering::Relaxed));
    server.connect("postgres").await.batch_execute(&format!("CREATE DATABASE {database}")).await.unwrap();
    let client = server.connect(&database).await;
    client.batch_execute(ddl).await.unwrap();
    schema::ensure(&client).await.unwrap();
    let migration_id = schema::migration_id(&client, "shop").await.unwrap();
    checkpoint::create(&client, "shop", Link::Forward, START, &source(), "none").await.unwrap();
    let epoch = checkpoint::bump_epoch(&client, "shop", Link::Forward, "host 1").await.unwrap();
    let identity =
        LinkIdentity { migration: "shop".into(), migration_id, link: Link::Forward, epoch, artifact: [3; 32] };
    Basin { database, client, identity }
}

impl Basin {
    async fn another(&self) -> Client {
        server().await.connect(&self.database).await
    }

    /// A target as the catalog shows it.
    async fn target(&self, table: &str, key: &[u16]) -> Target {
        let rows = self
            .client
            .query(
                "SELECT a.attname::text, format_type(a.atttypid, a.atttypmod), format_type(b.oid, -1), b.oid, \
                 a.attgenerated <> '', a.attidentity = 'a' \
                 FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid \
                 JOIN pg_type b ON b.oid = CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END \
                 WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
                &[&table],
            )
            .await
            .unwrap();
        Target {
            name: TableName::new("public", table),
            columns: rows
                .iter()
                .map(|row| TargetColumn {
                    name: row.get(0),
                    type_sql: row.get(1),
                    cast_sql: row.get(2),
                    base_oid: row.get(3),
                    case: Case::Text,
                    generated: row.get(4),
                })
                .collect(),
            key: key.into(),
            uniques: Vec::new(),
            cascades: false,
            acts: false,
            shared: false,
            identity_always: (0..rows.len() as u16).filter(|at| rows[usize::from(*at)].get(5)).collect(),
            internal: false,
        }
    }

    async fn plan(&self, tables: &[(&str, &[u16])]) -> Arc<Plan> {
        let mut targets = Vec::new();
        for (table, key) in tables {
            targets.push(self.target(table, key).await);
        }
        Arc::new(Plan {
            sources: vec![],
            targets,
            by_name: Default::default(),
            oids: Default::default(),
            left_out: vec![],
            maps: vec![],
            mirror: None,
            chain: None,
        })
    }

    async fn text(&self, query: &str) -> String {
        let rows = self.client.query(&format!("SELECT x::text FROM ({query}) AS x"), &[]).await.unwrap();
        rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>().join(" ")
    }
}

fn datums(values: &[&str]) -> Box<[Datum]> {
    values.iter().map(|value| if *value == "NULL" { Datum::Null } else { Datum::text(*value) }).collect()
}

fn insert(target: usize, columns: &[u16], rows: &[&[&str]]) -> Set {
    Set {
        target,
        kind: SetKind::Insert,
        columns: columns.into(),
        keys: vec![],
        new_keys: vec![],
        values: rows.iter().map(|row| datums(row)).collect(),
        truncated: Vec::new(),
    }
}

fn patch(target: usize, columns: &[u16], rows: &[(&[&str], &[&str])]) -> Set {
    Set {
        target,
        kind: SetKind::Patch,
        columns: columns.into(),
        keys: rows.iter().map(|row| datums(row.0)).collect(),
        new_keys: vec![],
        values: rows.iter().map(|row| datums(row.1)).collect(),
        truncated: Vec::new(),
    }
}

fn delete(target: usize, keys: &[&[&str]]) -> Set {
    Set {
        target,
        kind: SetKind::Delete,
        columns: [].into(),
        keys: keys.iter().map(|key| datums(key)).collect(),
        new_keys: vec![],
        values: keys.iter().map(|_| datums(&[])).collect(),
        truncated: Vec::new(),
    }
}

fn rekey(target: usize, rows: &[(&[&str], &[&str])], columns: &[u16], values: &[&[&str]]) -> Set {
    Set {
        target,
        kind: SetKind::Rekey,
        columns: columns.into(),
        keys: rows.iter().map(|row| datums(row.0)).collect(),
        new_keys: rows.iter().map(|row| datums(row.1)).collect(),
        values: values.iter().map(|row| datums(row)).collect(),
        truncated: Vec::new(),
    }
}

fn closing(position: u64) -> Closing {
    Closing { position: Lsn(position), commit_time_us: 1_000_000, transactions: 1, context: Lsn::ZERO }
}

fn whole(position: u64, sets: Vec<Set>) -> Batch {
    Batch { segments: vec![sets], first: Some(Lsn(position)), recent: None, last: Some(closing(position)) }
}

async fn apply(basin: &Basin, plan: &Arc<Plan>, batches: Vec<Batch>) -> Outcome<Lsn> {
    let at = checkpoint::load(&basin.client, "shop", Link::Forward).await.unwrap().unwrap().position;
    let mut writer = Writer::start(&basin.client, plan.clone(), basin.identity.clone(), at).await?;
    for batch in batches {
        writer.write(batch).await?;
    }
    writer.settle().await
}

#[tokio::test]
async fn l2_each_kind_of_set_is_written_with_the_checkpoint_and_its_counters() {
    let basin =
        basin("CREATE TABLE t (id int PRIMARY KEY, a text, n numeric(10,2)); CREATE TABLE u (id int PRIMARY KEY)")
            .await;
    let plan = basin.plan(&[("t", &[0]), ("u", &[0])]).await;
    let truncate = Set { kind: SetKind::Truncate, truncated: vec![1], ..delete(1, &[]) };
    let rows: &[&[&str]] = &[&["1", "x", "1.50"], &["2", "NULL", "-0.01"], &["3", "", "99999999.99"], &["4", "d", "0"]];
    let first = whole(200, vec![insert(0, &[0, 1, 2], rows), insert(1, &[0], &[&["1"]])]);
    let second = whole(
        300,
        vec![
            patch(0, &[1], &[(&["1"], &["it's"]), (&["2"], &["b\ttab"])]),
            patch(0, &[1, 2], &[(&["3"], &["NULL", "7"])]),
            rekey(0, &[(&["1"], &["10"])], &[2], &[&["5"]]),
            rekey(0, &[(&["2"], &["20"])], &[], &[&[]]),
            delete(0, &[&["4"]]),
            truncate,
        ],
    );
    assert_eq!(apply(&basin, &plan, vec![first, second]).await.unwrap(), Lsn(300));
    assert_eq!(basin.text("SELECT * FROM t ORDER BY id").await, "(3,,7.00) (10,it's,5.00) (20,\"b\ttab\",-0.01)");
    assert_eq!(basin.text("SELECT count(*) FROM u").await, "(0)");
    let now = checkpoint::load(&basin.client, "shop", Link::Forward).await.unwrap().unwrap();
    let counters = (now.counters.transactions, now.counters.inserted, now.counters.updated, now.counters.deleted);
    assert_eq!((now.position, counters), (Lsn(300), (2, 5, 5, 1)));
    assert_eq!(now.committed_at_us, Some(1_000_000));
    assert!(now.artifact.starts_with("sha256:0303"));
}

#[tokio::test]
async fn l3_a_row_count_that_is_not_expected_writes_nothing_and_names_the_table_without_values() {
    let basin = basin("CREATE TABLE t (id int PRIMARY KEY, a text); INSERT INTO t VALUES (1, 'old')").await;
    let plan = basin.plan(&[("t", &[0])]).await;
    let bad = || whole(300, vec![patch(0, &[1], &[(&["1"], &["new"]), (&["4711"], &["secret"])])]);
    let good = || whole(200, vec![insert(0, &[0, 1], &[&["2", "b"]])]);
    let problem = apply(&basin, &plan, vec![good(), bad(), whole(400, vec![])]).await.unwrap_err();
    assert_eq!((problem.code(), problem.action(), problem.at()), ("ROWCOUNT", Action::Strictly, Some(Lsn(300))));
    // The transaction before it is there, nothing of it is.
    assert_eq!(basin.text("SELECT * FROM t ORDER BY id").await, "(1,old) (2,b)");
    let at = checkpoint::load(&basin.client, "shop", Link::Forward).await.unwrap().unwrap().position;
    assert_eq!(at, Lsn(200));
    let mut writer = Writer::start(&basin.client, plan.clone(), basin.identity.clone(), at).await.unwrap();
    writer.strict = true;
    let problem = writer.write(bad()).await.unwrap_err();
    assert_eq!((problem.code(), problem.action(), problem.at()), ("ROWCOUNT", Action::Stop, Some(Lsn(300))));
    let shown = problem.to_string();
    assert!(shown.contains("public.t") && shown.contains("column id"), "{shown}");
    assert!(!shown.contains("4711") && !shown.contains("secret"), "{shown}");
    assert_eq!(basin.text("SELECT * FROM t ORDER BY id").await, "(1,old) (2,b)");
}

#[tokio::test]
async fn l3_a_refused_row_is_named_by_table_and_constraint_in_strict_mode() {
    let basin = basin(
        "CREATE TABLE t (id int PRIMARY KEY, a varchar(3) NOT NULL, b int CONSTRAINT small CHECK (b < 10)); \
         CREATE TABLE p (id int PRIMARY KEY); \
         CREATE TABLE c (id int PRIMARY KEY, p int CONSTRAINT parent REFERENCES p DEFERRABLE)",
    )
    .await;
    let plan = basin.plan(&[("t", &[0]), ("p", &[0]), ("c", &[0])]).await;
    let all = |row: &[&str]| insert(0, &[0, 1, 2], &[row]);
    for (set, code, part) in [
        (all(&["1", "abcd", "1"]), "TOO_LONG", "public.t"),
        (all(&["1", "NULL", "1"]), "NOT_NULL", "column a"),
        (all(&["1", "a", "10"]), "CHECK", "constraint small"),
        (all(&["1", "a", "secret"]), "VALUE_REFUSED", "public.t"),
        (insert(2, &[0, 1], &[&["1", "99"]]), "FOREIGN_KEY", "constraint parent"),
        (insert(1, &[0], &[&["1"], &["1"]]), "CONFLICT", "constraint p_pkey"),
    ] {
        let problem = apply(&basin, &plan, vec![whole(200, vec![set.clone()])]).await.unwrap_err();
        assert_eq!((problem.code(), problem.action(), problem.at()), (code, Action::Strictly, Some(Lsn(200))));
        let mut writer = Writer::start(&basin.client, plan.clone(), basin.identity.clone(), START).await.unwrap();
        writer.strict = true;
        let problem = match writer.write(whole(200, vec![set])).await {
            Err(problem) => problem,
            Ok(_) => writer.settle().await.unwrap_err(),
        };
        let shown = problem.to_string();
        assert_eq!((problem.code(), problem.action(), problem.at()), (code, Action::Stop, Some(Lsn(200))), "{shown}");
        assert!(shown.contains(part) && !shown.contains("secret") && !shown.contains("99"), "{shown}");
    }
    // A child before its parent passes: deferrable constraints are checked at the end.
    let order = vec![insert(2, &[0, 1], &[&["1", "5"]]), insert(1, &[0], &[&["5"]])];
    apply(&basin, &plan, vec![whole(200, order)]).await.unwrap();
}

#[tokio::test]
async fn l2_a_fenced_host_writes_nothing_even_into_a_transaction_that_it_has_open() {
    let basin = basin("CREATE TABLE t (id int PRIMARY KEY)").await;
    let plan = basin.plan(&[("t", &[0])]).await;
    let mut writer = Writer::start(&basin.client, plan.clone(), basin.identity.clone(), START).await.unwrap();
    writer.write(whole(200, vec![insert(0, &[0], &[&["1"]])])).await.unwrap();
    assert_eq!(writer.settle().await.unwrap(), Lsn(200));
    let other = basin.another().await;
    checkpoint::bump_epoch(&other, "shop", Link::Forward, "host 2").await.unwrap();
    writer.write(whole(300, vec![insert(0, &[0], &[&["2"]])])).await.unwrap();
    let problem = writer.settle().await.unwrap_err();
    assert_eq!((problem.code(), problem.action()), ("FENCED", Action::Refuse));
    assert!(problem.to_string().contains("host 2"));
    assert_eq!(basin.text("SELECT * FROM t").await, "(1)");
    assert_eq!(writer.write(whole(400, vec![])).await.unwrap_err().code(), "WRITER_BROKEN");
    // The same for a checkpoint that somebody edited, and for one that is gone.
    let mut identity = basin.identity.clone();
    identity.epoch += 1;
    let mut writer = Writer::start(&basin.client, plan.clone(), identity.clone(), Lsn(150)).await.unwrap();
    writer.write(whole(300, vec![insert(0, &[0], &[&["2"]])])).await.unwrap();
    assert_eq!(writer.settle().await.unwrap_err().code(), "CHECKPOINT_MOVED");
    other.batch_execute("DELETE FROM falkirk.checkpoint").await.unwrap();
    let mut writer = Writer::start(&basin.client, plan, identity, Lsn(200)).await.unwrap();
    writer.write(whole(300, vec![])).await.unwrap();
    assert_eq!(writer.settle().await.unwrap_err().code(), "CHECKPOINT_MISSING");
    assert_eq!(basin.text("SELECT * FROM t").await, "(1)");
}

#[tokio::test]
async fn l2_a_huge_transaction_in_parts_is_one_target_transaction_and_holds_its_checkpoint() {
    let basin = basin("CREATE TABLE t (id int PRIMARY KEY)").await;
    let plan = basin.plan(&[("t", &[0])]).await;
    let mut writer = Writer::start(&basin.client, plan.clone(), basin.identity.clone(), START).await.unwrap();
    let part =
        |first, last, ids: &[&[&str]]| Batch { segments: vec![vec![insert(0, &[0], ids)]], first, last, recent: None };
    writer.write(whole(150, vec![insert(0, &[0], &[&["0"]])])).await.unwrap();
    writer.write(part(Some(Lsn(190)), None, &[&["1"], &["2"]])).await.unwrap();
    assert_eq!(writer.settle().await.unwrap(), Lsn(150));
    writer.write(part(None, None, &[&["3"]])).await.unwrap();
    assert_eq!(writer.settle().await.unwrap(), Lsn(150));
    let other = basin.another().await;
    let count = other.query_one("SELECT count(*) FROM t", &[]).await.unwrap();
    assert_eq!(count.get::<_, i64>(0), 1, "L4: nothing of it is seen before its end");
    other.batch_execute("SET lock_timeout = '200ms'").await.unwrap();
    let bump = checkpoint::bump_epoch(&other, "shop", Link::Forward, "host 2").await.unwrap_err();
    assert_eq!(bump.action(), Action::Retry, "the open transaction holds the checkpoint");
    writer.write(part(None, Some(closing(200)), &[&["4"]])).await.unwrap();
    assert_eq!(writer.settle().await.unwrap(), Lsn(200));
    let now = checkpoint::load(&other, "shop", Link::Forward).await.unwrap().unwrap();
    assert_eq!((now.position, now.counters.inserted, now.counters.transactions), (Lsn(200), 5, 2));
    let out_of_order = part(None, None, &[&["9"]]);
    assert_eq!(writer.write(out_of_order).await.unwrap_err().code(), "BATCH_ORDER");
}

#[tokio::test]
async fn l1_a_position_is_reported_only_after_a_commit_that_waited_for_the_disk_was_answered() {
    let basin = basin("CREATE TABLE t (id int PRIMARY KEY)").await;
    let plan = basin.plan(&[("t", &[0])]).await;
    let other = basin.another().await;
    let seen = async || {
        let row = other.query_one("SELECT count(*) FROM t", &[]).await.unwrap();
        row.get::<_, i64>(0)
    };
    let mut writer = Writer::start(&basin.client, plan, basin.identity.clone(), START).await.unwrap();
    assert_eq!(writer.write(whole(200, vec![insert(0, &[0], &[&["1"]])])).await.unwrap(), START);
    assert_eq!(seen().await, 0, "COMMIT is not sent before the counts were checked");
    assert_eq!(writer.write(whole(300, vec![insert(0, &[0], &[&["2"]])])).await.unwrap(), START);
    assert_eq!(writer.write(whole(400, vec![insert(0, &[0], &[&["3"]])])).await.unwrap(), START);
    assert!(seen().await >= 1, "committed, and still a crash of the target may undo it");
    assert_eq!(writer.settle().await.unwrap(), Lsn(400));
    assert_eq!((seen().await, writer.durable()), (3, Lsn(400)));
    // Without a pause the disk is waited for now and then: the source must not keep its log for ever.
    let reported = async |writer: &mut Writer<'_>, position: u64| {
        writer.write(whole(position, vec![insert(0, &[0], &[&[&position.to_string()]])])).await.unwrap()
    };
    let mut waits = 0;
    for position in 401..440 {
        waits += u32::from(reported(&mut writer, position).await > Lsn(400));
    }
    assert!((20..39).contains(&waits), "{waits} of 39 writes reported something new");
    assert_eq!(writer.settle().await.unwrap(), Lsn(439));
    // A connection that is lost asks for another try, from the checkpoint.
    writer.write(whole(500, vec![insert(0, &[0], &[&["4"]])])).await.unwrap();
    let end = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database() \
        AND pid <> pg_backend_pid()";
    other.batch_execute(end).await.unwrap();
    let problem = writer.settle().await.unwrap_err();
    assert_eq!((problem.action(), writer.durable(), seen().await), (Action::Retry, Lsn(439), 42), "{problem}");
}

#[tokio::test]
async fn l2_a_commit_that_fails_takes_the_batch_behind_it_along_and_names_its_own_position() {
    let basin = basin(
        "CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE q (id int PRIMARY KEY); \
         CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p DEFERRABLE)",
    )
    .await;
    let plan = basin.plan(&[("p", &[0]), ("c", &[0]), ("q", &[0])]).await;
    let batches = vec![
        whole(200, vec![insert(0, &[0], &[&["1"]])]),
        whole(300, vec![insert(1, &[0, 1], &[&["1", "9"]])]),
        whole(400, vec![insert(0, &[0], &[&["2"]])]),
        whole(500, vec![insert(2, &[0], &[&["2"]])]),
    ];
    let problem = apply(&basin, &plan, batches).await.unwrap_err();
    assert_eq!((problem.code(), problem.action(), problem.at()), ("FOREIGN_KEY", Action::Strictly, Some(Lsn(300))));
    assert_eq!(basin.text("SELECT (SELECT count(*) FROM p), (SELECT count(*) FROM c)").await, "(1,0)");
    // A batch whose statement is new cannot be prepared while the one before it has failed: that one is named.
    let batches = vec![whole(300, vec![insert(0, &[0], &[&["5"], &["5"]])]), whole(400, vec![delete(2, &[&["1"]])])];
    let problem = apply(&basin, &plan, batches).await.unwrap_err();
    assert_eq!((problem.code(), problem.at()), ("CONFLICT", Some(Lsn(300))));
    assert!(problem.to_string().contains("public.p"), "{problem}");
}

#[tokio::test]
async fn l3_values_without_an_exact_image_are_left_to_the_server() {
    let basin = basin(
        "CREATE DOMAIN short AS varchar(3); CREATE TYPE mood AS ENUM ('sad', 'ok'); \
         CREATE TABLE t (id bigint PRIMARY KEY, at timestamptz, d short, m mood, l int[], c char(4), i interval, \
         v varchar(3), \"odd \"\"name\" numeric)",
    )
    .await;
    let plan = basin.plan(&[("t", &[0])]).await;
    let columns = [0, 1, 2, 3, 4, 5, 6, 7, 8];
    let rows: &[&[&str]] = &[
        &["1", "2026-11-23 10:00:00+02", "abc", "ok", "{1,NULL}", "ab", "P1D", "abc", "1e3"],
        &[" 2 ", "0044-03-15 00:00:00+00 BC", "NULL", "sad", "[2:3]={1,2}", "abcd", "1 day", "ab", "NaN"],
    ];
    apply(&basin, &plan, vec![whole(200, vec![insert(0, &columns, rows)])]).await.unwrap();
    assert_eq!(
        basin.text("SELECT * FROM t ORDER BY id").await,
        "(1,\"2026-11-23 08:00:00+00\",abc,ok,\"{1,NULL}\",\"ab  \",\"1 day\",abc,1000) \
         (2,\"0044-03-15 00:00:00+00 BC\",,sad,\"[2:3]={1,2}\",abcd,\"1 day\",ab,NaN)"
    );
    // A cast with a modifier would cut these short without a word; a domain's modifier is one too.
    for (column, text) in [(2, "abcd"), (7, "abcd"), (5, "abcde")] {
        let problem = apply(&basin, &plan, vec![whole(300, vec![patch(0, &[column], &[(&["1"], &[text])])])]).await;
        assert_eq!(problem.unwrap_err().code(), "TOO_LONG");
    }
}

#[tokio::test]
async fn keys_of_several_columns_and_of_padded_text_find_their_rows() {
    let basin = basin("CREATE TABLE t (a char(3), b varchar, n int, PRIMARY KEY (a, b))").await;
    let plan = basin.plan(&[("t", &[0, 1])]).await;
    let batches = vec![
        whole(200, vec![insert(0, &[0, 1, 2], &[&["x  ", "y ", "1"], &["x", "y", "2"], &["z", "", "3"]])]),
        whole(
            300,
            vec![patch(0, &[2], &[(&["x  ", "y"], &["20"]), (&["z  ", ""], &["30"])]), delete(0, &[&["x", "y "]])],
        ),
        whole(400, vec![rekey(0, &[(&["z", ""], &["z", "w"])], &[], &[&[]])]),
    ];
    apply(&basin, &plan, batches).await.unwrap();
    assert_eq!(basin.text("SELECT a, b, n FROM t ORDER BY n").await, "(\"x  \",y,20) (\"z  \",w,30)");
}

#[tokio::test]
async fn identity_always_is_overridden_and_generated_columns_are_left_out() {
    let ddl = "CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a int, b int GENERATED ALWAYS AS (a * 2) STORED)";
    let basin = basin(ddl).await;
    let plan = basin.plan(&[("t", &[0])]).await;
    apply(&basin, &plan, vec![whole(200, vec![insert(0, &[0, 1], &[&["7", "1"], &["9", "2"]])])]).await.unwrap();
    assert_eq!(basin.text("SELECT * FROM t ORDER BY id").await, "(7,1,2) (9,2,4)");
}

#[tokio::test]
async fn l7_the_marker_is_the_first_thing_in_each_transaction_that_holds_rows() {
    let basin = basin("CREATE TABLE t (id int PRIMARY KEY)").await;
    let plan = basin.plan(&[("t", &[0])]).await;
    let slot = format!("peek_{}", basin.database);
    basin.client.batch_execute("CREATE PUBLICATION p FOR TABLE t").await.unwrap();
    let create = format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')");
    basin.client.batch_execute(&create).await.unwrap();
    let batches = vec![
        whole(200, vec![insert(0, &[0], &[&["1"], &["2"]])]),
        whole(300, vec![]),
        Batch { segments: vec![vec![delete(0, &[&["1"]])]], first: Some(Lsn(390)), last: None, recent: None },
        Batch { segments: vec![vec![delete(0, &[&["2"]])]], first: None, recent: None, last: Some(closing(400)) },
    ];
    apply(&basin, &plan, batches).await.unwrap();
    let peek = format!(
        "SELECT data FROM pg_logical_slot_peek_binary_changes('{slot}', NULL, NULL, 'proto_version', '1', \
         'publication_names', 'p', 'messages', 'true')"
    );
    let rows = basin.client.query(&peek, &[]).await.unwrap();
    let messages: Vec<Vec<u8>> = rows.iter().map(|row| row.get(0)).collect();
    let kinds: String = messages.iter().map(|message| message[0] as char).collect();
    assert_eq!(kinds, "BMRIICBMDDC", "an empty transaction carries no marker");
    let markers: Vec<_> = messages.iter().filter(|message| message[0] == b'M').collect();
    for (message, position) in markers.iter().zip([200, 390]) {
        // flags, position, prefix with its end, length
        assert_eq!((message[1], &message[10..18]), (1, &b"falkirk\0"[..]), "transactional");
        let marker = parse_marker(&message[22..]).unwrap();
        assert_eq!((marker.migration_id, marker.link), (basin.identity.migration_id, Link::Forward));
        assert_eq!((marker.position, marker.artifact), (Lsn(position), [3; 32]));
    }
    basin.client.execute("SELECT pg_drop_replication_slot($1::text::name)", &[&slot]).await.unwrap();
}

#[tokio::test]
async fn two_hosts_make_the_schema_at_once_and_application_roles_cannot_read_it() {
    let server = server().await;
    let admin = server.connect("postgres").await;
    for role in ["mover", "app", "poor"] {
        admin.batch_execute(&format!("CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'")).await.unwrap();
    }
    admin.batch_execute("CREATE DATABASE plain").await.unwrap();
    let poor = server.connect_as("poor", "plain").await;
    assert_eq!(schema::ensure(&poor).await.unwrap_err().code(), "TARGET_RIGHTS");
    admin.batch_execute("GRANT CREATE ON DATABASE plain TO mover").await.unwrap();
    let (one, two) = (server.connect_as("mover", "plain").await, server.connect_as("mover", "plain").await);
    let (first, second) = tokio::join!(schema::ensure(&one), schema::ensure(&two));
    first.unwrap();
    second.unwrap();
    schema::ensure(&one).await.unwrap();
    let id = schema::migration_id(&one, "shop").await.unwrap();
    assert_eq!(schema::migration_id(&two, "shop").await.unwrap(), id);
    schema::adopt_migration_id(&two, "shop", id).await.unwrap();
    schema::adopt_migration_id(&two, "other", id).await.unwrap();
    let stale = schema::adopt_migration_id(&two, "shop", falkirk::marker::MigrationId([0; 16])).await;
    assert_eq!(stale.unwrap_err().code(), "MIGRATION_ID");
    let app = server.connect_as("app", "plain").await;
    assert!(app.query("SELECT id FROM falkirk.migration", &[]).await.is_err());
    one.batch_execute("UPDATE falkirk.version SET version = 1000").await.unwrap();
    assert_eq!(schema::ensure(&one).await.unwrap_err().code(), "SCHEMA_NEWER");
}

#[tokio::test]
async fn shapes_problems_and_phases_are_kept() {
    let basin = basin("").await;
    let (client, shop, link) = (&basin.client, "shop", Link::Forward);
    let table = TableName::new("app", "My.Table");
    let columns = serde_json::json!([{ "name": "id" }]);
    let other = TableName::new("app", "other");
    let none = serde_json::json!([]);
    let both = vec![(table.clone(), none.clone()), (other.clone(), none.clone())];
    checkpoint::save_shapes(client, shop, link, &both).await.unwrap();
    checkpoint::save_shapes(client, shop, link, &vec![(table.clone(), columns.clone())]).await.unwrap();
    checkpoint::save_shapes(client, shop, link, &Vec::new()).await.unwrap();
    let mut kept = checkpoint::load_shapes(client, shop, link).await.unwrap();
    kept.sort_by_key(|(name, _)| name.to_string());
    assert_eq!(kept, [(table.clone(), columns.clone()), (other.clone(), none.clone())]);
    let outcome = checkpoint::Became::TookOver;
    let entry = checkpoint::Entry { artifact: "sha256:aa".into(), step: "1 -> 2".into(), outcome, reason: "".into() };
    checkpoint::record_revision(client, shop, link, Lsn(5), &entry).await.unwrap();
    // That a revision was refused later does not unsay that it has written.
    let refused = checkpoint::Entry { outcome: checkpoint::Became::Refused, ..entry };
    checkpoint::record_revision(client, shop, link, Lsn(5), &refused).await.unwrap();
    let kept = client.query("SELECT outcome FROM falkirk.history WHERE from_position = '0/5'", &[]).await.unwrap();
    assert_eq!((kept.len(), kept[0].get::<_, &str>(0)), (1, "took over"));
    let problem = falkirk::problem::Problem::stop(falkirk::problem::Blame::Host, "GAP", "a gap");
    checkpoint::record_problem(client, shop, link, &problem).await.unwrap();
    assert_eq!(checkpoint::last_problem(client, shop, link).await.unwrap().unwrap().1, "GAP");
    checkpoint::clear_problem(client, shop, link).await.unwrap();
    assert!(checkpoint::last_problem(client, shop, link).await.unwrap().is_none());
    // An exchange records all of it at once.
    checkpoint::record_problem(client, shop, link, &problem).await.unwrap();
    let second = checkpoint::Entry { artifact: "sha256:bb".into(), outcome, ..refused };
    let changed = vec![(other.clone(), columns.clone())];
    checkpoint::record_exchange(client, shop, link, (Lsn(6), &second), (&changed, None)).await.unwrap();
    let newest = checkpoint::newest_revision(client, shop, link).await.unwrap().unwrap();
    assert_eq!((newest.artifact.as_str(), newest.was_swapped_in), ("sha256:bb", true));
    assert!(checkpoint::last_problem(client, shop, link).await.unwrap().is_none());
    let kept = checkpoint::load_shapes(client, shop, link).await.unwrap();
    assert!(kept.len() == 2 && kept.iter().all(|(_, shape)| *shape == columns), "{kept:?}");
    // Of a table that is called something else only the new name is kept.
    let named = vec![(TableName::new("app", "named anew"), none)];
    checkpoint::record_exchange(client, shop, link, (Lsn(7), &second), (&named, Some(&other))).await.unwrap();
    let kept = checkpoint::load_shapes(client, shop, link).await.unwrap();
    let names: std::collections::BTreeSet<String> = kept.iter().map(|(name, _)| name.to_string()).collect();
    assert!(names.len() == 2 && names.contains(&table.to_string()) && !names.contains(&other.to_string()), "{names:?}");
    let epoch = basin.identity.epoch;
    checkpoint::set_phase(client, shop, link, epoch, checkpoint::Phase::Copying).await.unwrap();
    assert_eq!(checkpoint::load(client, shop, link).await.unwrap().unwrap().phase, checkpoint::Phase::Copying);
    let stale = checkpoint::set_phase(client, shop, link, epoch - 1, checkpoint::Phase::Streaming).await;
    assert_eq!(stale.unwrap_err().code(), "FENCED");
}

#[tokio::test]
async fn l5_a_chunk_is_copied_once_and_blocks_and_rows_give_the_same() {
    let ddl = "CREATE TABLE s (a int, b text, v text, n numeric, PRIMARY KEY (a, b)); \
        INSERT INTO s SELECT i / 100, 'k' || i, CASE i % 4 WHEN 0 THEN NULL WHEN 1 THEN E'\\\\N' WHEN 2 THEN \
        E'tab\\tnl\\ncr\\rbs\\\\' || chr(8) || chr(11) || chr(12) ELSE repeat('x', 50) END, i FROM generate_series(1, 20000) i; \
        CREATE TABLE raw (LIKE s INCLUDING ALL); CREATE TABLE rows (LIKE s INCLUDING ALL); ANALYZE s";
    let basin = basin(ddl).await;
    let plan = basin.plan(&[("raw", &[0, 1]), ("rows", &[0, 1])]).await;
    let table = TableName::new("public", "s");
    let key = vec![
        KeyColumn { name: "a".into(), type_sql: "integer".into() },
        KeyColumn { name: "b".into(), type_sql: "text".into() },
    ];
    // Told to be larger than it is, so that it is cut.
    let bounds = copy_out::bounds(&basin.client, &table, &key, 20 << 20, 4 << 20).await.unwrap();
    assert_eq!(bounds.len(), 4);
    let chunks = chunk::parts(&table, bounds);
    chunk::plan(&basin.client, "shop", Link::Forward, &table, &chunks).await.unwrap();
    chunk::plan(&basin.client, "shop", Link::Forward, &table, &chunks[..1]).await.unwrap();
    let planned = chunk::list(&basin.client, "shop", Link::Forward).await.unwrap();
    assert_eq!(planned, chunks);

    let holder = basin.another().await;
    holder.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").await.unwrap();
    let snapshot: String = holder.query_one("SELECT pg_export_snapshot()", &[]).await.unwrap().get(0);
    basin.client.batch_execute("INSERT INTO s VALUES (0, 'later', '', 0)").await.unwrap();
    let reader = basin.another().await;
    let out = CopyOut::enter(&reader, &snapshot).await.unwrap();
    let mut writer = ChunkWriter::new(&basin.client, plan.clone(), basin.identity.clone(), START);
    let columns: Columns = [0, 1, 2, 3].into();
    let other = basin.another().await;
    for chunk in &planned {
        let query =
            copy_out::range_query(&table, &["a", "b", "v", "n"], &key, chunk.lower.as_deref(), chunk.upper.as_deref());
        let mut open = writer.begin(chunk, Lsn(95)).await.unwrap().unwrap();
        let mut blocks = out.read(&query).await.unwrap();
        let mut all: Vec<Bytes> = Vec::new();
        while let Some(block) = blocks.next().await.unwrap() {
            open.raw(0, &columns, block.clone()).await.unwrap();
            all.push(block);
        }
        // Another worker's chunk does not wait for this one; a second host does.
        let mut second = ChunkWriter::new(&other, plan.clone(), basin.identity.clone(), START);
        let far = planned.iter().find(|far| far.number != chunk.number && !far.finished).unwrap();
        assert!(second.begin(far, Lsn(95)).await.is_ok());
        other.batch_execute("ROLLBACK").await.unwrap();
        let rows = open.finish().await.unwrap();
        let mut pushed = 0;
        other.batch_execute("UPDATE falkirk.chunk SET finished_at = NULL").await.unwrap();
        let mut open = writer.begin(chunk, Lsn(95)).await.unwrap().unwrap();
        for block in &all {
            for image in copy_out::parse_rows(block, 4).unwrap() {
                let values: Vec<Datum> = (0..4).map(|at| image.datum(at)).collect();
                open.push(1, &columns, &values).await.unwrap();
                pushed += 1;
            }
        }
        assert_eq!((open.finish().await.unwrap(), pushed), (rows, rows));
        assert!(writer.begin(chunk, Lsn(95)).await.unwrap().is_none(), "a finished chunk is not copied again");
    }
    out.leave().await.unwrap();
    let hash = |table: &str| {
        format!("SELECT count(*), md5(string_agg(x::text, '|' ORDER BY a, b)) FROM {table} x WHERE b <> 'later'")
    };
    let source = basin.text(&hash("s")).await;
    assert!(source.starts_with("(20000,"), "{source}");
    assert_eq!(basin.text(&hash("raw")).await, source);
    assert_eq!(basin.text(&hash("rows")).await, source);
    assert_eq!(basin.text("SELECT count(*) FROM raw WHERE b = 'later'").await, "(0)");

    // A chunk that is dropped half-way leaves nothing; a fenced worker does not even begin.
    other.batch_execute("UPDATE falkirk.chunk SET finished_at = NULL; TRUNCATE raw").await.unwrap();
    let mut open = writer.begin(&planned[0], Lsn(95)).await.unwrap().unwrap();
    open.push(0, &columns, &datums(&["1", "x", "NULL", "1"])).await.unwrap();
    drop(open);
    let mut open = writer.begin(&planned[0], Lsn(95)).await.unwrap().unwrap();
    open.raw(0, &columns, Bytes::from_static(b"1\tx\tsecret\tnot a number\n")).await.unwrap();
    let problem = open.finish().await.unwrap_err();
    assert_eq!((problem.code(), problem.action()), ("VALUE_REFUSED", Action::Stop));
    assert!(problem.to_string().contains("public.raw") && !problem.to_string().contains("secret"), "{problem}");
    checkpoint::bump_epoch(&other, "shop", Link::Forward, "host 2").await.unwrap();
    assert_eq!(writer.begin(&planned[0], Lsn(95)).await.err().unwrap().code(), "FENCED");
    assert_eq!(basin.text("SELECT count(*) FROM raw").await, "(0)");
}

/// Every type with a binary image: how its values are made, and values that must go as text.
const TYPES: &[(&str, &str, &[&str])] = &[
    ("bool", "(i % 2 = 0)", &["yes"]),
    ("int2", "(i * 7919 % 65536 - 32768)", &["+ 1", " 5"]),
    ("int4", "((random() * 4294967295)::int8 - 2147483648)", &["1 "]),
    (
        "int8",
        "CASE i WHEN 1 THEN -9223372036854775808 WHEN 2 THEN 9223372036854775807 \
         ELSE ((random() - 0.5) * 1e18)::int8 END",
        &[" 9"],
    ),
    (
        "float4",
        "CASE i WHEN 1 THEN 'NaN' WHEN 2 THEN '-Infinity' WHEN 3 THEN '1e-45' WHEN 4 THEN '3.4028235e38' WHEN 5 THEN '-0' \
         ELSE ((random() - 0.5) * power(10, random() * 76 - 38))::float4::text END",
        &["inf", "1e+5 "],
    ),
    (
        "float8",
        "CASE i WHEN 1 THEN 'NaN' WHEN 2 THEN 'Infinity' WHEN 3 THEN '4.9e-324' WHEN 4 THEN '1.7976931348623157e308' \
         WHEN 5 THEN '-0' ELSE ((random() - 0.5) * power(10, random() * 600 - 300))::text END",
        &["infinity", "0x1"],
    ),
    (
        "numeric",
        "CASE i WHEN 1 THEN 'NaN' WHEN 2 THEN 'Infinity' WHEN 3 THEN '-Infinity' WHEN 4 THEN '0.000' \
         WHEN 5 THEN repeat('9', 1000) || '.' || repeat('0', 99) || '1' WHEN 6 THEN '-0.' || repeat('0', 300) || '1' \
         WHEN 7 THEN '1' || repeat('0', 500) \
         ELSE round(((random() - 0.5) * power(10, random() * 60 - 20))::numeric, (random() * 30)::int)::text END",
        &["1e10", " 7"],
    ),
    ("text", "CASE i % 3 WHEN 0 THEN '' WHEN 1 THEN 'NULL' ELSE E'\\\\x\\t\u{e9}\u{1F6A2}\"{}' || i END", &[]),
    ("varchar(40)", "md5(i::text)", &[]),
    ("bytea", "decode(md5(i::text) || CASE i % 2 WHEN 0 THEN '00' ELSE '' END, 'hex')", &["\\000a"]),
    ("uuid", "gen_random_uuid()", &["{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}"]),
    (
        "date",
        "CASE i WHEN 1 THEN 'infinity' WHEN 2 THEN '-infinity' WHEN 3 THEN '0001-01-01' WHEN 4 THEN '9999-12-31' \
         WHEN 5 THEN '2000-02-29' ELSE (date '0001-01-01' + (random() * 3652058)::int)::text END",
        &["0044-03-15 BC", "5874897-12-31"],
    ),
    (
        "timestamp",
        "CASE i WHEN 1 THEN 'infinity' WHEN 2 THEN '-infinity' WHEN 3 THEN '0001-01-01 00:00:00' \
         WHEN 4 THEN '9999-12-31 23:59:59.999999' \
         ELSE (timestamp '0001-01-02' + random() * interval '9990 years')::text END",
        &["4713-01-01 00:00:00 BC", "294276-12-31 23:59:59.999999", "2000-01-01T00:00:00"],
    ),
    (
        "timestamptz",
        "CASE i WHEN 1 THEN 'infinity' WHEN 2 THEN '-infinity' WHEN 3 THEN '1969-12-31 23:59:59.9+00' \
         ELSE (timestamptz '0001-01-02' + random() * interval '9990 years')::text END",
        &["0001-01-01 00:00:00+00 BC", "2000-01-01 00:00:00+02", "294276-12-31 23:59:59.999999+00"],
    ),
    ("json", "CASE i % 2 WHEN 0 THEN '{\"a\": 1,  \"a\":2}' ELSE '\"' || md5(i::text) || '\"' END", &[]),
    ("jsonb", "jsonb_build_object('k', i, 'l', ARRAY[NULL, md5(i::text)])", &[]),
];

#[tokio::test]
async fn l3_every_typed_value_arrives_as_the_text_that_was_sent() {
    let columns: Vec<String> = TYPES.iter().enumerate().map(|(at, kind)| format!("c{at} {}", kind.0)).collect();
    let texts: Vec<String> = (0..TYPES.len()).map(|at| format!("c{at} text")).collect();
    let values: Vec<String> = TYPES.iter().map(|kind| format!("({})::{}::text", kind.1, kind.0)).collect();
    let basin = basin(&format!(
        "CREATE TABLE t (id int PRIMARY KEY, {}); CREATE TABLE sent (id int PRIMARY KEY, {}); \
         INSERT INTO sent SELECT i, {} FROM generate_series(1, 3000) i",
        columns.join(", "),
        texts.join(", "),
        values.join(", ")
    ))
    .await;
    let plan = basin.plan(&[("t", &[0])]).await;
    let rows = basin.client.query("SELECT id::text, sent.* FROM sent ORDER BY sent.id", &[]).await.unwrap();
    let all: Columns = (0..=TYPES.len() as u16).collect();
    let row = |row: &tokio_postgres::Row| -> Box<[Datum]> {
        let text = |at| row.get::<_, Option<String>>(at).map_or(Datum::Null, Datum::text);
        std::iter::once(text(0)).chain((0..TYPES.len()).map(|at| text(at + 2))).collect()
    };
    let set = Set { columns: all, values: rows.iter().map(row).collect(), ..insert(0, &[], &[]) };
    let typed = |at: usize| Typed::of(plan.targets[0].columns[at + 1].base_oid).unwrap();
    for (at, kind) in TYPES.iter().enumerate() {
        let column: Vec<&Datum> = set.values.iter().map(|row| &row[at + 1]).collect();
        let (wire, _) = encode::column(Some(typed(at)), column.into_iter());
        assert_eq!(wire, Wire::Typed(typed(at)), "{}: what the server prints has an image", kind.0);
    }
    apply(&basin, &plan, vec![whole(200, vec![set])]).await.unwrap();
    for (at, kind) in TYPES.iter().enumerate() {
        let differing =
            format!("SELECT count(*) FROM t JOIN sent USING (id) WHERE t.c{at}::text IS DISTINCT FROM sent.c{at}");
        assert_eq!(basin.text(&differing).await, "(0)", "{}", kind.0);
    }
    let mut position = 300;
    for (at, kind) in TYPES.iter().enumerate() {
        for text in kind.2 {
            assert_eq!(encode::column(Some(typed(at)), [Datum::text(*text)].iter()).0, Wire::Text, "{} {text}", kind.0);
            let sent = whole(position, vec![patch(0, &[at as u16 + 1], &[(&["1"], &[text])])]);
            let own = basin.client.query_one(&format!("SELECT $1::text::{}::text", kind.0), &[text]).await;
            match (own, apply(&basin, &plan, vec![sent]).await) {
                (Ok(own), Ok(_)) => {
                    let got = format!("SELECT c{at}::text FROM t WHERE id = 1");
                    let got = basin.client.query_one(&got, &[]).await.unwrap();
                    assert_eq!(got.get::<_, String>(0), own.get::<_, String>(0), "{} {text}", kind.0);
                    position += 1;
                }
                (Err(_), Err(problem)) => assert_eq!(problem.code(), "VALUE_REFUSED", "{} {text}", kind.0),
                (own, got) => panic!("{} {text}: server {:?}, writer {:?}", kind.0, own.is_ok(), got.is_ok()),
            }
        }
    }
}
#[tokio::test]
async fn l5_bounds_are_ascending_and_distinct_also_where_a_sample_finds_little() {
    let basin = basin(
        "CREATE TABLE few (id int PRIMARY KEY); INSERT INTO few SELECT generate_series(1, 100); \
         CREATE TABLE none (id int PRIMARY KEY); CREATE TABLE one (id int PRIMARY KEY); INSERT INTO one VALUES (5); \
         CREATE TABLE parted (id int PRIMARY KEY) PARTITION BY RANGE (id); \
         CREATE TABLE low PARTITION OF parted FOR VALUES FROM (1) TO (50000); \
         CREATE TABLE high PARTITION OF parted DEFAULT; INSERT INTO parted SELECT generate_series(1, 100000)",
    )
    .await;
    let key = vec![KeyColumn { name: "id".into(), type_sql: "integer".into() }];
    for (table, least, most) in [("few", 3, 4), ("none", 0, 0), ("one", 0, 1), ("parted", 4, 4)] {
        let name = TableName::new("public", table);
        let bounds = copy_out::bounds(&basin.client, &name, &key, 20 << 20, 4 << 20).await.unwrap();
        let ids: Vec<i32> = bounds.iter().map(|bound| bound[0].parse().unwrap()).collect();
        assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "{table}: {ids:?}");
        assert!((least..=most).contains(&ids.len()), "{table}: {ids:?}");
        // Whatever the bounds are, the parts hold every row once.
        let mut rows = 0;
        for part in chunk::parts(&name, bounds) {
            let query = copy_out::range_query(&name, &["id"], &key, part.lower.as_deref(), part.upper.as_deref());
            rows += basin.client.query(&query, &[]).await.unwrap().len();
        }
        assert_eq!(format!("({rows})"), basin.text(&format!("SELECT count(*) FROM {table}")).await);
    }
    let small =
        copy_out::bounds(&basin.client, &TableName::new("public", "few"), &key, 15 << 20, 1 << 20).await.unwrap();
    assert!(small.is_empty(), "small tables are read in one part");
}
