//! What the acts have done for them: links started and ended, users moved, what was written waited for, sides compared.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::check::{self, Given};
use crate::config::{self, Direction, Settings};
use crate::demo::deeds::Release;
use crate::demo::link::{Link, PATIENCE, ended};
use crate::demo::load::Load;
use crate::demo::servers::{Servers, connect};
use crate::demo::summary::Lag;
use crate::demo::{Options, Stage, say, seed};
use crate::live::Live;
use crate::marker;
use crate::pg::address::Address;
use crate::pg::session::Session;
use crate::plan::Plan;
use crate::problem::{Outcome, Problem};
use crate::supervisor;
use crate::transform::Artifact;
use crate::verify::{self, Ends, Verdict};

pub(super) type Played<T> = Result<T, Vec<Problem>>;

/// How often it is looked whether something has arrived.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Lags beyond this count as this.
const LAG_LIMIT_MS: u64 = 3_600_000;

/// Everything that the acts need.
pub(super) struct Crew<'s> {
    pub(super) options: &'s Options,
    pub(super) stage: &'s mut Stage,
    pub(super) transform: &'s Path,
    pub(super) settings: Settings,
    pub(super) artifact: Option<Arc<Artifact>>,
}

pub(super) fn one(problem: Problem) -> Vec<Problem> {
    vec![problem]
}

fn configure(
    servers: &Servers,
    (transform, direction): (&Path, Direction),
    path: &mut Option<PathBuf>,
) -> Outcome<Settings> {
    let written = path.insert(servers.write_configuration(transform, direction)?);
    config::load(written, &|_| None)
}

impl<'s> Crew<'s> {
    /// For servers that stand on the stage.
    pub(super) async fn new(options: &'s Options, stage: &'s mut Stage, transform: &'s Path) -> Played<Crew<'s>> {
        let Stage { servers, configuration, .. } = &mut *stage;
        let settings = configure(servers, (transform, Direction::Forward), configuration).map_err(one)?;
        let artifact = supervisor::load_artifact(&settings).await.map_err(one)?;
        Ok(Crew { options, stage, transform, settings, artifact })
    }

    pub(super) fn load(&mut self) -> Played<&mut Load> {
        self.stage.load.as_mut().ok_or_else(gone)
    }

    pub(super) fn link(&mut self) -> Played<&mut Link> {
        self.stage.link.as_mut().ok_or_else(gone)
    }

    /// Users begin in release 1.
    pub(super) async fn open_the_shop(&mut self) -> Played<()> {
        let blue = Address::parse(&self.stage.servers.blue_url()).map_err(one)?;
        let green = Address::parse(&self.stage.servers.green_url()).map_err(one)?;
        let mut load = Load::start(&blue, self.options.pace).await.map_err(one)?;
        load.open_release_2(green);
        self.stage.load = Some(load);
        Ok(())
    }

    /// Ends the links, if some run, and starts them in another direction.
    pub(super) async fn go(&mut self, direction: Direction) -> Played<()> {
        self.halt().await?;
        let Stage { servers, configuration, .. } = &mut *self.stage;
        self.settings = configure(servers, (self.transform, direction), configuration).map_err(one)?;
        self.stage.link = Some(Link::start(self.settings.clone(), self.options.for_eyes));
        Ok(())
    }

    /// Ends the links; they finish what they have received.
    pub(super) async fn halt(&mut self) -> Played<Vec<supervisor::Summary>> {
        match self.stage.link.take() {
            Some(link) => link.end().await,
            None => Ok(Vec::new()),
        }
    }

    fn side(&self, release: Release) -> String {
        match release {
            Release::One => self.stage.servers.blue_url(),
            Release::Two => self.stage.servers.green_url(),
        }
    }

    /// Waits until everything that was committed in a release so far has arrived in the other one: one last event there,
    /// which has arrived when everything before it has.
    pub(super) async fn arrived(&mut self, release: Release) -> Played<()> {
        let other = if release == Release::One { Release::Two } else { Release::One };
        let (from, to) = (self.side(release), self.side(other));
        let (from, to) = (connect(&from).await.map_err(one)?, connect(&to).await.map_err(one)?);
        let fence = from.one("INSERT INTO public.event (kind) VALUES ('fence') RETURNING id").await.map_err(one)?;
        let id = fence.number::<i64>(0).map_err(one)?;
        let seen = format!("SELECT EXISTS (SELECT FROM public.event WHERE id = {id})");
        let began = Instant::now();
        while !to.one(&seen).await.and_then(|row| row.flag(0)).map_err(one)? {
            if self.link()?.has_ended() {
                return self.link()?.ended_before("brought everything to the other side").await;
            }
            if began.elapsed() > PATIENCE {
                return Err(ended("what was written has not arrived".to_owned(), "DEMO_TOO_SLOW"));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Moves all users to a release, one after the other, over `seconds`, while the others work on. A user goes on
    /// where the last deed has arrived: sessions are sticky.
    pub(super) async fn move_users(&mut self, to: Release, seconds: u64) -> Played<()> {
        let users = self.load()?.users();
        let each = Duration::from_secs(seconds) / u32::try_from(users).unwrap_or(1).max(1);
        for number in 0..users {
            let began = Instant::now();
            let from = self.load()?.rest(number).await.map_err(one)?;
            if let Some(from) = from {
                self.arrived(from).await?;
            }
            self.load()?.work(number, to).await.map_err(one)?;
            self.work_on(each.saturating_sub(began.elapsed())).await?;
        }
        Ok(())
    }

    /// Lets users and links work for a while.
    pub(super) async fn work_on(&mut self, time: Duration) -> Played<()> {
        tokio::time::sleep(time).await;
        match &mut self.stage.link {
            Some(link) if link.has_ended() => link.ended_before("ended the act").await,
            _ => Ok(()),
        }
    }

    /// All users rest. Which release each was at.
    pub(super) async fn rest(&mut self) -> Played<Vec<Option<Release>>> {
        let load = self.load()?;
        let mut at = Vec::new();
        for number in 0..load.users() {
            at.push(load.rest(number).await.map_err(one)?);
        }
        Ok(at)
    }

    /// All users go on where they were.
    pub(super) async fn go_on(&mut self, at: Vec<Option<Release>>) -> Played<()> {
        let load = self.load()?;
        for (number, release) in at.into_iter().enumerate() {
            if let Some(release) = release {
                load.work(number, release).await.map_err(one)?;
            }
        }
        Ok(())
    }

    /// Compares what one link has brought, while nobody writes.
    pub(super) async fn compare(&self, link: marker::Link) -> Played<Verdict> {
        let settings = self.settings.seen_from(link);
        let (plan, back) = self.plan(&settings).await?;
        let ends = Ends { source: &settings.source().address, target: &settings.target().address };
        let artifact = self.artifact.clone().map(|artifact| (artifact, settings.limits));
        verify::verify_through(
            ends,
            (&plan, back.as_deref()),
            (&settings.name, link),
            artifact,
            verify::Options::default(),
        )
        .await
        .map_err(one)
    }

    /// The plan of the settings' link, and that of the other one.
    async fn plan(&self, settings: &Settings) -> Played<(Arc<Plan>, Option<Arc<Plan>>)> {
        let session = async |address| Session::connect(address, "demo: compare").await;
        let source = session(&settings.source().address).await.map_err(one)?;
        let target = session(&settings.target().address).await.map_err(one)?;
        let [known, others] = crate::link::started_with(settings, &source, &target).await.map_err(one)?;
        let artifact = self.artifact.as_deref();
        let given = Given {
            settings,
            artifact,
            source: &source,
            target: &target,
            started_with: known.as_deref(),
            other_started_with: others.as_deref(),
            copies: known.is_none() && settings.link == settings.origin(),
        };
        let findings = check::preflight(&given).await.map_err(one)?;
        let back = findings.back;
        let plan = findings.plan.filter(|_| findings.problems.is_empty()).ok_or(findings.problems)?;
        Ok((plan, back))
    }

    /// What `falkirk check` does, and its last line.
    pub(super) async fn check(&self) -> Played<()> {
        let (plan, _) = self.plan(&self.settings).await?;
        let artifact = self.artifact.as_ref().map_or("no transform", |artifact| artifact.label());
        say(format!(
            "check: {} tables become {} through {artifact}; nothing is missing",
            plan.sources.len(),
            plan.targets.len()
        ));
        Ok(())
    }

    /// Conflicts that are recorded on either side.
    pub(super) async fn conflicts(&self) -> Played<u64> {
        let mut conflicts = 0;
        for side in [&self.settings.blue, &self.settings.green] {
            let session = Session::connect(&side.address, "demo: conflicts").await.map_err(one)?;
            let row = session.one("SELECT count(*) FROM falkirk.conflict").await.map_err(one)?;
            conflicts += row.number::<u64>(0).map_err(one)?;
        }
        Ok(conflicts)
    }

    /// What release 2 alone knows of its customers: how many, and one text that stands for all of it.
    pub(super) async fn levels(&self) -> Played<(u64, String)> {
        let green = connect(&self.stage.servers.green_url()).await.map_err(one)?;
        // Customers who were registered later may be deleted again.
        let sql = format!(
            "SELECT count(*) FILTER (WHERE loyalty_level <> 'basic'), md5(string_agg(id || loyalty_level, ',' ORDER BY id))
             FROM public.customer WHERE id <= {}",
            seed::CUSTOMERS
        );
        let row = green.one(&sql).await.map_err(one)?;
        Ok((row.number(0).map_err(one)?, row.text(1).map_err(one)?))
    }
}

/// The lag of what a link applies, sampled at every change of its live state.
pub(super) async fn watch_lag(mut live: watch::Receiver<Live>, time: Duration) -> Lag {
    let end = tokio::time::Instant::now() + time;
    // It cannot happen that bounds which are constants are refused; and then there would be no figures, and no more.
    let Ok(mut lags) = hdrhistogram::Histogram::<u64>::new_with_bounds(1, LAG_LIMIT_MS, 3) else {
        return Lag::default();
    };
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
        rows_a_second: rows as f64 / time.as_secs_f64().max(0.001),
    }
}

fn gone() -> Vec<Problem> {
    ended("the demo has lost a part of its stage".to_owned(), "DEMO_LINK_ENDED")
}
