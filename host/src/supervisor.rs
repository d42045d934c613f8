//! The supervisor: lets the links live again after every passing fault, and decides when not to.
//!
//! Recovery has one path: the life ends and another one starts from the checkpoint, exactly as after a crash. What a
//! problem asks for is written in the problem itself (`problem::Action`); nothing is guessed here.

use std::sync::Arc;
use std::time::Duration;

use futures_util::TryFutureExt;
use tokio::sync::watch;

use crate::apply::checkpoint;
use crate::config::Settings;
use crate::link::commanded;
use crate::link::{self, Context, Orders, Pair, Problems};
use crate::live::{Live, Stage};
use crate::lsn::Lsn;
use crate::marker::Link;
use crate::pg::session::Session;
use crate::problem::{Action, Blame, Problem};
use crate::recopy;
use crate::stream::End;
use crate::stream::seen::Seen;
use crate::swap::{Door, Probation, Swaps};
use crate::transform::Artifact;

/// From the order to stop to the end: what is not written by then is written after the next start.
const DRAIN: Duration = Duration::from_secs(8);
const PAUSE_LEAST: Duration = Duration::from_millis(100);
const PAUSE_MOST: Duration = Duration::from_secs(10);
/// A life that lasted this long, or in which the link went on, was a good one: the next pause is short again.
const GOOD_LIFE: Duration = Duration::from_secs(30);
/// A passing fault before anything has worked at all: the configuration may be wrong, so somebody should hear of it.
const FIRST_CONNECTIONS: u32 = 30;
/// So often a row without its parent is tried again before it stops the link.
const ORPHAN_TRIES: u32 = 5;

/// When to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// When told to.
    Told,
    /// As soon as the source's position at the start of streaming is reached.
    CaughtUp,
}

/// What a link has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The link.
    pub link: Link,
    /// Source rows copied, over all starts as far as the live state knows.
    pub rows_copied: u64,
    /// Source transactions applied.
    pub transactions: u64,
    /// Rows inserted, updated and deleted.
    pub rows_changed: u64,
    /// The checkpoint.
    pub position: Lsn,
    /// Changes that the other side had changed as well: not written, and recorded.
    pub conflicts: u64,
}

/// What a host begins with: what the configuration names, or what was put in by command and holds.
pub async fn load_artifact(settings: &Settings) -> Result<Option<Arc<Artifact>>, Problem> {
    let configured = load_artifacts(settings).await?;
    Ok(commanded::begin(settings, configured).await?.revision)
}

/// The artifacts that the configuration names, each at its place.
async fn load_artifacts(settings: &Settings) -> Result<Vec<Arc<Artifact>>, Problem> {
    let (files, limits, compiler) = (settings.transforms.clone(), settings.limits, settings.compiler.clone());
    let load = move || {
        let each =
            files.iter().map(|file| Artifact::load(&file.path, file.pin.as_deref(), &limits, &compiler).map(Arc::new));
        each.collect::<Result<Vec<_>, Problem>>()
    };
    let loaded = tokio::task::spawn_blocking(load).await;
    loaded.unwrap_or_else(|_| {
        Err(Problem::retry(Blame::Host, "TASK_LOST", "loading the artifact ended without an answer"))
    })
}

/// Where the two links show themselves.
pub struct Shown {
    /// The link that copies, or the only one.
    pub origin: watch::Sender<Live>,
    /// The other one; without it nothing is shown.
    pub other: watch::Sender<Live>,
}

/// Runs the links of a migration until they are told to stop, until they have caught up, or until a problem that waiting
/// does not mend. A link that ends takes the other one with it: neither can decide anything without the other. The
/// summaries: the origin's first.
pub async fn run(
    settings: &Settings,
    until: Until,
    stop: watch::Receiver<bool>,
    shown: Shown,
    (door, recopies): (Door, recopy::Desk),
) -> Result<Vec<Summary>, Problems> {
    let Some(configured) = unless_told(stop.clone(), load_artifacts(settings)).await? else { return Ok(Vec::new()) };
    let begins = || commanded::begin(settings, configured.clone()).map_err(|problem| vec![problem]);
    let Some(beginning) = patiently(begins, stop.clone(), &shown.origin).await? else { return Ok(Vec::new()) };
    let (origin, host) = (settings.origin(), host_name());
    let seen = [Arc::<Seen>::default(), Arc::<Seen>::default()];
    let lives = [shown.origin.subscribe(), shown.other.subscribe()];
    let mut swaps = Swaps::start(settings, (beginning, &configured), until == Until::Told, lives, door);
    let (running, commanded) = (swaps.running.clone(), swaps.commanded.clone());
    let probation = swaps.probation.clone();
    let mut context = |link: Link, seen: Arc<Seen>, theirs: Arc<Seen>| Context {
        settings: settings.seen_from(link),
        running: running.clone(),
        commanded: commanded.clone(),
        desk: swaps.desk(),
        recopies: recopies.clone(),
        host: host.clone(),
        pair: settings.two_way().then(|| pair(settings, link, seen, theirs)),
    };
    let first = context(origin, seen[0].clone(), seen[1].clone());
    if !settings.two_way() {
        return one_link(first, until, stop, shown.origin, &probation).await.map(|summary| vec![summary]);
    }
    let second = context(origin.other(), seen[1].clone(), seen[0].clone());
    if patiently(|| link::prepare(&second), stop.clone(), &shown.other).await?.is_none() {
        return Ok(Vec::new());
    }
    let (tell, told_both) = watch::channel(false);
    let lives = [shown.origin.subscribe(), shown.other.subscribe()];
    let run = |context, told, live| {
        let probation = probation.clone();
        tokio::spawn(async move { one_link(context, until, told, live, &probation).await })
    };
    let mut first = run(first, told_both.clone(), shown.origin);
    let mut second = run(second, told_both, shown.other);
    let mut answers = [None, None];
    tokio::select! {
        () = told(stop) => {}
        () = all_caught_up(lives), if until == Until::CaughtUp => {}
        answer = &mut first => answers[0] = Some(answer),
        answer = &mut second => answers[1] = Some(answer),
    }
    tell.send_replace(true);
    let [one, two] = answers;
    let one = if let Some(answer) = one { answer } else { first.await };
    let two = if let Some(answer) = two { answer } else { second.await };
    let lost = |_| Err(vec![Problem::retry(Blame::Host, "TASK_LOST", "a link ended without an answer")]);
    joined(one.unwrap_or_else(lost), two.unwrap_or_else(lost))
}

fn pair(settings: &Settings, link: Link, seen: Arc<Seen>, theirs: Arc<Seen>) -> Pair {
    Pair { applies: settings.applies(link), other_applies: settings.applies(link.other()), seen, theirs }
}

fn joined(one: Result<Summary, Problems>, two: Result<Summary, Problems>) -> Result<Vec<Summary>, Problems> {
    match (one, two) {
        (Ok(first), Ok(second)) => Ok(vec![first, second]),
        (Err(mut problems), Err(more)) => {
            problems.extend(more);
            Err(problems)
        }
        (Err(problems), Ok(_)) | (Ok(_), Err(problems)) => Err(problems),
    }
}

async fn all_caught_up(lives: [watch::Receiver<Live>; 2]) {
    for mut live in lives {
        // A link that has ended is heard of by its answer.
        let _ = live.wait_for(|live| live.caught_up).await;
    }
}

/// What has to be done before the links live; waits while a database cannot be reached. `None`: told to stop meanwhile.
async fn patiently<T, F: Future<Output = Result<T, Problems>>>(
    what: impl Fn() -> F,
    stop: watch::Receiver<bool>,
    live: &watch::Sender<Live>,
) -> Result<Option<T>, Problems> {
    let mut pause = PAUSE_LEAST;
    for failures in 1.. {
        let problems = tokio::select! {
            done = what() => match done {
                Ok(done) => return Ok(Some(done)),
                Err(problems) => problems,
            },
            () = told(stop.clone()) => return Ok(None),
        };
        match problems.as_slice() {
            [problem] if problem.action() == Action::Retry && failures < FIRST_CONNECTIONS => {
                tracing::warn!("preparing again: {problem}");
                live.send_modify(|live| live.fault = Some(problem.to_string()));
            }
            _ => return Err(problems),
        }
        tokio::select! {
            () = tokio::time::sleep(jittered(pause)) => {}
            () = told(stop.clone()) => return Ok(None),
        }
        pause = (pause * 2).min(PAUSE_MOST);
    }
    Ok(None)
}

/// Runs one link, life after life.
async fn one_link(
    context: Context,
    until: Until,
    stop: watch::Receiver<bool>,
    live: watch::Sender<Live>,
    probation: &Probation,
) -> Result<Summary, Problems> {
    let settings = &context.settings;
    let mut orders = Orders { until_caught_up: until == Until::CaughtUp, strict_until: None };
    let mut pause = PAUSE_LEAST;
    let mut failures = 0;
    let mut orphans = Orphans::default();
    loop {
        let (began, from) = (tokio::time::Instant::now(), live.borrow().position);
        let renewed = probation.renewed();
        let problems = match one_life(&context, orders, stop.clone(), &live, renewed).await {
            Ok(_) => return Ok(summary(settings.link, &live)),
            Err(problems) => problems,
        };
        if *stop.borrow() {
            return Ok(summary(settings.link, &live));
        }
        if live.borrow().position > Lsn::ZERO || began.elapsed() >= GOOD_LIFE {
            failures = 0;
        }
        failures += 1;
        match problems.as_slice() {
            [problem] if problem.action() == Action::Strictly && problem.at() > orders.strict_until => {
                tracing::warn!("a batch failed and is applied again change by change: {problem}");
                orders.strict_until = problem.at();
                pause = PAUSE_LEAST;
            }
            [problem] if problem.action() == Action::Retry && failures < FIRST_CONNECTIONS => {
                tracing::warn!(pause_ms = pause.as_millis() as u64, "starting again from the checkpoint: {problem}");
                waits(&live, problem);
            }
            [problem] if orphans.may_fall(settings, problem, live.borrow().position) => {
                tracing::warn!("the other link may still take the row away: trying again: {problem}");
                orders.strict_until = None;
            }
            _ if probation.takes_back(&context.commanded, (settings, &live), &problems).await => {}
            _ => {
                record(settings, &problems).await;
                return Err(problems);
            }
        }
        // A strict life that has reached its position has found nothing: the next one is an ordinary one.
        orders.strict_until = orders.strict_until.filter(|until| live.borrow().position < *until);
        live.send_modify(|live| live.restarts += 1);
        if began.elapsed() >= GOOD_LIFE || live.borrow().position > from {
            pause = PAUSE_LEAST;
        }
        tokio::select! {
            () = tokio::time::sleep(jittered(pause)) => {}
            () = told(stop.clone()) => return Ok(summary(settings.link, &live)),
        }
        pause = (pause * 2).min(PAUSE_MOST);
    }
}

fn waits(live: &watch::Sender<Live>, problem: &Problem) {
    live.send_modify(|live| {
        live.stage = Stage::Waiting;
        live.fault = Some(problem.to_string());
    });
}

/// Rows whose parent the other side has removed meanwhile. Where that removal cascades, they fall with it as soon as the
/// other link has written it and this one has read so: until then they are tried again (counter-example 12, L8).
#[derive(Default)]
struct Orphans {
    at: Lsn,
    tries: u32,
}

impl Orphans {
    /// Whether a row that lacks its parent is tried once more; only with both links writing, and a few times at one place.
    fn may_fall(&mut self, settings: &Settings, problem: &Problem, at: Lsn) -> bool {
        if problem.code() != "FOREIGN_KEY" || !settings.applies(settings.link.other()) {
            return false;
        }
        self.tries = if at == self.at { self.tries + 1 } else { 1 };
        self.at = at;
        self.tries <= ORPHAN_TRIES
    }
}

/// One life, with an end to its patience once it is told to stop.
async fn one_life(
    context: &Context,
    orders: Orders,
    stop: watch::Receiver<bool>,
    live: &watch::Sender<Live>,
    renewed: watch::Receiver<u64>,
) -> Result<End, Problems> {
    let drained = async {
        told(stop.clone()).await;
        live.send_modify(|live| live.stage = Stage::Draining);
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        ended = link::run(context, orders, stop.clone(), live) => ended,
        // Neither link applies another transaction of a revision that the host no longer runs (L11).
        () = outdated(renewed, live) => Err(vec![Problem::retry(Blame::Host, "REVISION", "another revision runs now")]),
        () = drained => {
            tracing::warn!("the target did not take the rest in time; it is written after the next start");
            Ok(End::Stopped)
        }
    }
}

/// Another revision runs, and the life has to begin anew. A link that stands at other columns applies nothing meanwhile
/// and is exchanged where it stands.
async fn outdated(mut renewed: watch::Receiver<u64>, live: &watch::Sender<Live>) {
    while renewed.changed().await.is_ok() {
        if live.borrow().awaits.is_none() {
            return;
        }
    }
    std::future::pending().await
}

async fn told(mut stop: watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// `None`: told to stop meanwhile.
async fn unless_told<T>(
    stop: watch::Receiver<bool>,
    what: impl Future<Output = Result<T, Problem>>,
) -> Result<Option<T>, Problems> {
    tokio::select! {
        done = what => done.map(Some).map_err(|problem| vec![problem]),
        () = told(stop) => Ok(None),
    }
}

fn jittered(pause: Duration) -> Duration {
    let mut byte = [0];
    // Without randomness the pause is merely not spread.
    let _ = getrandom::fill(&mut byte);
    pause + pause.mul_f64(f64::from(byte[0]) / 512.0)
}

fn summary(link: Link, live: &watch::Sender<Live>) -> Summary {
    let live = live.borrow();
    Summary {
        link,
        rows_copied: live.tables.iter().map(|table| table.rows).sum(),
        transactions: live.transactions,
        rows_changed: live.rows_changed,
        position: live.position,
        conflicts: live.decided.conflicts,
    }
}

/// Keeps the last problem for `status`; a target that cannot be reached has other worries.
async fn record(settings: &Settings, problems: &[Problem]) {
    let Some(problem) = problems.first().filter(|problem| problem.code() != "LINK_HELD" && problem.code() != "FENCED")
    else {
        return;
    };
    let Ok(session) = Session::connect(&settings.target().address, "record").await else { return };
    // Before the first start there is no table to keep it in.
    let _ = checkpoint::record_problem(session.client(), &settings.name, settings.link, problem).await;
}

/// This machine and process, for whoever asks who did something.
pub fn host_name() -> String {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    format!("{} (process {})", name.unwrap_or_else(|| "unknown".to_owned()), std::process::id())
}
