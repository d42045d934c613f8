//! From a commit on blue to the same row visible on green, at a steady 500 transactions a second.
//!
//! Each row carries the clock at its insert; green is asked for new rows about every millisecond, and the server's clock
//! in that query is the moment of being visible. Both servers are on one machine, so it is one clock. The source's own
//! commit and up to a millisecond of asking are inside, for both alike.

use std::time::Duration;

use tokio::time::{Instant, Interval, interval_at};
use tokio_postgres::Client;

use crate::Wish;
use crate::ground::{Database, Ground, Outcome, Side, text};
use crate::link::Link;
use crate::native::Native;
use crate::report::Figure;

const PING: &str = "
CREATE TABLE ping (
    writer  int NOT NULL,
    n       bigint NOT NULL,
    sent_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    padding text NOT NULL DEFAULT 'as much as a short row holds, about a hundred bytes in all',
    PRIMARY KEY (writer, n)
)";

const WRITERS: i32 = 4;
const TRANSACTIONS_PER_SECOND: u64 = 500;

const BY_INDEX: &str = "SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off";

/// What is written and watched.
#[derive(Clone, Copy)]
pub struct Trial {
    /// A table like `ping`.
    pub table: &'static str,
    /// For how long.
    pub seconds: u64,
    /// How fast.
    pub transactions_per_second: u64,
}

fn new_rows(table: &str) -> String {
    format!(
        "SELECT p.writer, p.n, (extract(epoch FROM clock_timestamp() - p.sent_at) * 1000)::float8
         FROM unnest($1::bigint[]) WITH ORDINALITY seen(n, writer)
         CROSS JOIN LATERAL (SELECT * FROM {table} r WHERE r.writer = seen.writer AND r.n > seen.n) p"
    )
}

/// Median and 99th percentile as two figures.
pub async fn measure(wish: &Wish, ground: &Ground) -> Outcome<Vec<Figure>> {
    let seconds = if wish.quick { 5 } else { 20 };
    let what =
        |share: &str| format!("{share} of {seconds} s at {TRANSACTIONS_PER_SECOND} transactions/s, commit to visible");
    let mut median = Figure::milliseconds("latency-median", &what("median"));
    let mut worst = Figure::milliseconds("latency-p99", &what("99th percentile"));
    let trial = Trial { table: "ping", seconds, transactions_per_second: TRANSACTIONS_PER_SECOND };
    for turn in 0..wish.turns {
        let source = ground.database(Side::Blue, &format!("ping_{turn}"), PING).await?;
        let theirs = ground.database(Side::Green, &format!("theirs_{turn}"), PING).await?;
        let native = Native::prepare(&source, &theirs, "ping").await?;
        native.hold().await?;
        native.go().await?;
        let measured = ping(trial, &source, &theirs).await?;
        median.native.push(share(&measured, 0.5));
        worst.native.push(share(&measured, 0.99));
        native.halt().await?;
        ground.remove(theirs).await?;

        if ground.with_falkirk {
            source.run("TRUNCATE ping").await?;
            let ours = ground.database(Side::Green, &format!("ours_{turn}"), PING).await?;
            let link = Link::new(ground, &format!("latency_{turn}"), &source, &ours, None)?;
            let mut host = link.start(false)?;
            // A host that has ended is the reason why rows are missing.
            let measured = ping(trial, &source, &ours).await;
            host.must_not_fail()?;
            let measured = measured?;
            median.falkirk.push(share(&measured, 0.5));
            worst.falkirk.push(share(&measured, 0.99));
            host.stop().await?;
            ground.remove(ours).await?;
        }
        ground.remove(source).await?;
        eprintln!("latency, turn {}", turn + 1);
    }
    Ok(vec![median, worst])
}

/// Writes and watches; the times in milliseconds, ascending. Every row that was written must arrive.
pub async fn ping(trial: Trial, source: &Database, target: &Database) -> Outcome<Vec<f64>> {
    let Trial { table, seconds, transactions_per_second } = trial;
    // The link is there once a first row has come through.
    source.run(&format!("INSERT INTO {table} (writer, n) VALUES (0, 1)")).await?;
    target.wait_for(&format!("SELECT EXISTS (SELECT 1 FROM {table})")).await?;
    tokio::time::sleep(Duration::from_millis(500)).await;

    let pause = Duration::from_micros(1_000_000 * WRITERS as u64 / transactions_per_second);
    let count = (seconds * transactions_per_second / WRITERS as u64) as i64;
    let begin = Instant::now() + Duration::from_millis(200);
    let watcher = tokio::spawn(watch(target.connect().await?, table, count));
    let mut writers = Vec::new();
    for writer in 1..=WRITERS {
        let offset = pause / WRITERS as u32 * writer as u32;
        let clock = interval_at(begin + offset, pause);
        writers.push(tokio::spawn(write(source.connect().await?, table, (writer, count), clock)));
    }
    for writer in writers {
        writer.await.map_err(|error| error.to_string())??;
    }
    let took = begin.elapsed().as_secs_f64();
    if took > seconds as f64 * 1.05 {
        return Err(format!("the writers took {took:.1} s for {seconds} s: this machine cannot keep the pace"));
    }
    let limit = tokio::time::timeout(Duration::from_secs(30), watcher).await;
    let mut times = limit.map_err(|_| "rows were still missing after 30 s")?.map_err(|error| error.to_string())??;
    times.sort_by(f64::total_cmp);
    Ok(times)
}

async fn write(client: Client, table: &str, (writer, count): (i32, i64), mut clock: Interval) -> Outcome<()> {
    let insert = client.prepare(&format!("INSERT INTO {table} (writer, n) VALUES ($1, $2)")).await.map_err(text)?;
    for n in 1..=count {
        clock.tick().await;
        client.execute(&insert, &[&writer, &n]).await.map_err(text)?;
    }
    Ok(())
}

async fn watch(client: Client, table: &str, count: i64) -> Outcome<Vec<f64>> {
    // Whoever looks every millisecond must not read the growing table each time: it would take the cores from the links.
    client.batch_execute(BY_INDEX).await.map_err(text)?;
    let new_rows = client.prepare(&new_rows(table)).await.map_err(text)?;
    let mut seen = vec![0_i64; WRITERS as usize];
    let mut times = Vec::new();
    while seen.iter().any(|n| *n < count) {
        for row in client.query(&new_rows, &[&seen]).await.map_err(text)? {
            let (writer, n): (i32, i64) = (row.get(0), row.get(1));
            seen[writer as usize - 1] = seen[writer as usize - 1].max(n);
            times.push(row.get(2));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(times)
}

/// The value that this share of the sorted ones does not exceed.
pub fn share(sorted: &[f64], share: f64) -> f64 {
    sorted
        .get(((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1)))
        .copied()
        .unwrap_or(f64::NAN)
}
