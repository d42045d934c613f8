//! The acts of the story, one after the other.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::sync::watch;

use crate::check::{self, Given};
use crate::config::{self, Settings};
use crate::demo::link::Link;
use crate::demo::load::{Load, Tally};
use crate::demo::servers::{Servers, connect};
use crate::demo::summary::{Lag, Report, Times};
use crate::demo::{Options, Stage, say};
use crate::live::{self, Live};
use crate::lsn::Lsn;
use crate::plan::Plan;
use crate::problem::Problem;
use crate::supervisor::{self, Summary};
use crate::transform::Artifact;
use crate::verify::{self, Ends, Verdict};

type Played<T> = Result<T, Vec<Problem>>;

/// Lags beyond this count as this.
const LAG_LIMIT_MS: u64 = 3_600_000;

/// Plays all acts. What has to be cleared away later stands on the stage as soon as it is there.
pub(super) async fn play(options: &Options, transform: &Path, stage: &mut Stage) -> Played<Report> {
    let began = Instant::now();
    say("two private PostgreSQL servers: blue for release 1, green for release 2");
    let servers = stage.servers.insert(Servers::start(Vec::new()).await.map_err(one)?);
    servers.furnish().await.map_err(one)?;
    let rows_seeded = servers.seed().await.map_err(one)?;
    let settings = configure(servers, transform, &mut stage.configuration).map_err(one)?;
    let seeded_s = began.elapsed().as_secs_f64();
    say(format!("a shop with {rows_seeded} rows on blue, after {seeded_s:.1} s"));

    let artifact = supervisor::load_artifact(&settings).await.map_err(one)?;
    let plan = preflight(&settings, artifact.as_deref()).await?;
    let shop = crate::pg::address::Address::parse(&servers.blue_url()).map_err(one)?;
    let load = stage.load.insert(Load::start(&shop, options.pace).await.map_err(one)?);
    let Options { pace, stream_s, .. } = options;
    say(format!("a load: {} users, {} transactions a second, until the end", pace.users, pace.deeds_per_s));

    let copying = Instant::now();
    let link = stage.link.insert(Link::start(settings.clone(), options.for_eyes));
    link.until("copied", |live| live.stage == live::Stage::Streaming).await?;
    let copied_s = copying.elapsed().as_secs_f64();
    let backlog = position(servers).await.map_err(one)?;
    link.until("caught up", |live| live.position >= backlog).await?;
    let caught_up_s = copying.elapsed().as_secs_f64() - copied_s;
    let lag = watch_lag(link.live(), Duration::from_secs(*stream_s)).await;

    let load_was = load.tally();
    let tally = match stage.load.take() {
        Some(load) => load.stop().await.map_err(one)?,
        None => load_was,
    };
    drain(servers, link).await?;
    let summary = match stage.link.take() {
        Some(link) => link.end().await?.into_iter().next(),
        None => None,
    };
    let comparing = Instant::now();
    say("the load has ended and the link is drained; comparing both sides through the transform");
    let verdict = compare(&settings, &plan, artifact).await?;
    let times = Times {
        seeded_s,
        copied_s,
        caught_up_s,
        streamed_s: *stream_s as f64,
        compared_s: comparing.elapsed().as_secs_f64(),
        all_s: began.elapsed().as_secs_f64(),
    };
    Ok(report(rows_seeded, tally, summary.as_ref(), lag, verdict, times))
}

fn report(
    rows_seeded: u64,
    load: Tally,
    summary: Option<&Summary>,
    lag: Lag,
    verdict: Verdict,
    times: Times,
) -> Report {
    Report {
        rows_seeded,
        rows_copied: summary.map_or(0, |summary| summary.rows_copied),
        transactions_applied: summary.map_or(0, |summary| summary.transactions),
        rows_changed: summary.map_or(0, |summary| summary.rows_changed),
        load,
        lag,
        verdict,
        times,
    }
}

fn configure(servers: &Servers, transform: &Path, path: &mut Option<std::path::PathBuf>) -> Result<Settings, Problem> {
    let written = path.insert(servers.write_configuration(transform)?);
    config::load(written, &|_| None)
}

/// What `falkirk check` does, and its last line.
async fn preflight(settings: &Settings, artifact: Option<&Artifact>) -> Played<Arc<Plan>> {
    let session = async |address| crate::pg::session::Session::connect(address, "demo: check").await;
    let source = session(&settings.source().address).await.map_err(one)?;
    let target = session(&settings.target().address).await.map_err(one)?;
    let given = Given { settings, artifact, source: &source, target: &target, started_with: None, copies: true };
    let findings = check::preflight(&given).await.map_err(one)?;
    let Some(plan) = findings.plan.filter(|_| findings.problems.is_empty()) else { return Err(findings.problems) };
    let artifact = artifact.map_or("no transform", |artifact| artifact.label());
    say(format!(
        "check: {} tables become {} through {artifact}; nothing is missing",
        plan.sources.len(),
        plan.targets.len()
    ));
    Ok(plan)
}

/// The lag of what was applied, sampled at every change of the live state.
async fn watch_lag(mut live: watch::Receiver<Live>, duration: Duration) -> Lag {
    let end = tokio::time::Instant::now() + duration;
    // It cannot happen that bounds which are constants are refused; and then there would be no figures, and no more.
    let Ok(mut lags) = Histogram::<u64>::new_with_bounds(1, LAG_LIMIT_MS, 3) else { return Lag::default() };
    let (first, mut seen) = (live.borrow().rows_changed, live.borrow().transactions);
    while let Ok(Ok(())) = tokio::time::timeout_at(end, live.changed()).await {
        let now = live.borrow_and_update().clone();
        if now.transactions > seen {
            seen = now.transactions;
            lags.saturating_record(now.lag_ms.max(1));
        }
    }
    // A link that ended early is noticed by whoever waits for it next.
    tokio::time::sleep_until(end).await;
    let rows = live.borrow().rows_changed.saturating_sub(first);
    Lag {
        median_ms: lags.value_at_quantile(0.5),
        p99_ms: lags.value_at_quantile(0.99),
        most_ms: lags.max(),
        samples: lags.len(),
        rows_a_second: rows as f64 / duration.as_secs_f64().max(0.001),
    }
}

/// Waits until the link has written everything that was committed so far: one last event in the shop, which has
/// arrived when everything before it has.
async fn drain(servers: &Servers, link: &mut Link) -> Played<()> {
    let before = position(servers).await.map_err(one)?;
    let shop = connect(&servers.blue_url()).await.map_err(one)?;
    shop.run("INSERT INTO public.event (kind) VALUES ('the shop closes')").await.map_err(one)?;
    link.until("drained", |live| live.position > before).await
}

async fn position(servers: &Servers) -> Result<Lsn, Problem> {
    let shop = connect(&servers.blue_url()).await?;
    shop.one("SELECT pg_current_wal_insert_lsn()").await?.number(0)
}

async fn compare(settings: &Settings, plan: &Plan, artifact: Option<Arc<Artifact>>) -> Played<Verdict> {
    let ends = Ends { source: &settings.source().address, target: &settings.target().address };
    let artifact = artifact.map(|artifact| (artifact, settings.limits));
    verify::verify_through(ends, plan, (&settings.name, settings.link), artifact, verify::Options::default())
        .await
        .map_err(one)
}

fn one(problem: Problem) -> Vec<Problem> {
    vec![problem]
}
