//! The acts of the story, one after the other.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::clean;
use crate::config::Direction;
use crate::demo::crew::{Crew, Played, one, watch_lag};
use crate::demo::deeds::Release;
use crate::demo::servers::connect;
use crate::demo::summary::{Act, Comparison, Lag, Report, Times, grouped};
use crate::demo::{Options, Stage, say};
use crate::live;
use crate::lsn::Lsn;
use crate::marker::Link;
use crate::problem::Outcome;
use crate::supervisor::Summary;

/// How long the shop is open before anything else happens.
const ALONE: Duration = Duration::from_secs(2);

/// Plays all acts. What has to be cleared away later stands on the stage as soon as it is there.
pub(super) async fn play(options: &Options, transform: &Path, stage: &mut Stage) -> Played<Report> {
    let (began, servers) = (stage.began, &stage.servers);
    servers.furnish().await.map_err(one)?;
    let rows_seeded = servers.seed().await.map_err(one)?;
    let seeded_s = began.elapsed().as_secs_f64();
    say(format!("a shop with {rows_seeded} rows on blue, after {seeded_s:.1} s"));
    let crew = Crew::new(options, stage, transform).await?;
    let mut play = Play { crew, acts: Vec::new(), comparisons: Vec::new(), summaries: Vec::new(), lag: Lag::default() };
    let times = play.all(seeded_s).await?;
    let tally = |play: &mut Play<'_>, release| play.crew.load().map(|load| load.tally_of(release));
    Ok(Report {
        rows_seeded,
        rows_copied: play.of(Link::Forward, |summary| summary.rows_copied),
        transactions_applied: play.of(Link::Forward, |summary| summary.transactions),
        rows_changed: play.of(Link::Forward, |summary| summary.rows_changed),
        rows_changed_back: play.of(Link::Backward, |summary| summary.rows_changed),
        load: tally(&mut play, Release::One)?,
        load_of_release_2: tally(&mut play, Release::Two)?,
        lag: play.lag,
        acts: play.acts,
        comparisons: play.comparisons,
        times: Times { all_s: began.elapsed().as_secs_f64(), ..times },
    })
}

struct Play<'s> {
    crew: Crew<'s>,
    acts: Vec<Act>,
    comparisons: Vec<Comparison>,
    /// Of links that have ended.
    summaries: Vec<Summary>,
    lag: Lag,
}

impl Play<'_> {
    async fn all(&mut self, seeded_s: f64) -> Played<Times> {
        self.release_1_alone().await?;
        let copied_s = self.copy_and_follow().await?;
        self.green_ready().await?;
        self.backward_on().await?;
        self.users_move("users move to release 2, one by one", Release::Two).await?;
        self.compared("both sides are compared, each way").await?;
        self.rollback().await?;
        self.users_move("forward again", Release::Two).await?;
        self.compared("both sides are compared once more").await?;
        self.finish().await?;
        let compared_s = self.comparisons.iter().map(|comparison| comparison.seconds).sum();
        Ok(Times { seeded_s, copied_s, compared_s, all_s: 0.0 })
    }

    fn of(&self, link: Link, what: impl Fn(&Summary) -> u64) -> u64 {
        self.summaries.iter().filter(|summary| summary.link == link).map(what).sum()
    }

    fn act(&mut self, name: &str, began: Instant, figures: String) {
        let seconds = began.elapsed().as_secs_f64();
        say(format!("act {}: {name} ({seconds:.1} s)\n       {figures}", self.acts.len() + 1));
        self.acts.push(Act { name: name.to_owned(), seconds, figures });
    }

    fn deeds(&mut self) -> Played<[u64; 2]> {
        let load = self.crew.load()?;
        Ok([Release::One, Release::Two].map(|release| load.tally_of(release).total()))
    }

    async fn release_1_alone(&mut self) -> Played<()> {
        let began = Instant::now();
        self.crew.open_the_shop().await?;
        self.crew.work_on(ALONE).await?;
        let pace = self.crew.options.pace;
        let deeds = self.deeds()?[0];
        let figures = format!(
            "{} users, {} transactions a second wanted: {} transactions on blue, no Falkirk yet",
            pace.users,
            pace.deeds_per_s,
            grouped(deeds)
        );
        self.act("release 1 alone", began, figures);
        Ok(())
    }

    /// How long the copy took, in seconds.
    async fn copy_and_follow(&mut self) -> Played<f64> {
        let began = Instant::now();
        self.crew.check().await?;
        let copying = Instant::now();
        self.crew.go(Direction::Forward).await?;
        let link = self.crew.link()?;
        link.until("copied", |live, _| live.stage == live::Stage::Streaming).await?;
        let copied_s = copying.elapsed().as_secs_f64();
        let rows: u64 = link.live().borrow().tables.iter().map(|table| table.rows).sum();
        let backlog = self.position().await.map_err(one)?;
        let link = self.crew.link()?;
        link.until("caught up", |live, _| live.position >= backlog).await?;
        let lag = watch_lag(link.live(), Duration::from_secs(self.crew.options.stream_s)).await;
        self.crew.work_on(Duration::ZERO).await?;
        self.lag = lag;
        let figures = format!(
            "{} rows copied in {copied_s:.1} s while users wrote; then {:.0} rows a second follow, lag median {} ms, p99 {} ms",
            grouped(rows),
            lag.rows_a_second,
            lag.median_ms,
            lag.p99_ms
        );
        self.act("copy, and forward", began, figures);
        Ok(copied_s)
    }

    async fn position(&self) -> Outcome<Lsn> {
        connect(&self.crew.stage.servers.blue_url()).await?.one("SELECT pg_current_wal_insert_lsn()").await?.number(0)
    }

    async fn green_ready(&mut self) -> Played<()> {
        let began = Instant::now();
        let at = self.crew.rest().await?;
        self.crew.arrived(Release::One).await?;
        let waiting = self.crew.link()?.back().borrow().waiting.transactions;
        let found = self.compare(Link::Forward).await?;
        self.crew.go_on(at).await?;
        let figures = format!("{found}; {waiting} transactions of green's own: the way back is open");
        self.act("green is ready", began, figures);
        Ok(())
    }

    /// Compares one way, and keeps what was found.
    async fn compare(&mut self, link: Link) -> Played<String> {
        let began = Instant::now();
        let verdict = self.crew.compare(link).await?;
        let comparison = Comparison { link: link.name(), seconds: began.elapsed().as_secs_f64(), verdict };
        let (compared, wrong) = (comparison.verdict.rows_compared(), comparison.verdict.rows_wrong());
        let corrected: u64 = comparison.verdict.tables.iter().map(|table| table.rows_corrected).sum();
        self.comparisons.push(comparison);
        let corrected = match corrected {
            0 => String::new(),
            rows => format!(" ({} corrected by its release)", grouped(rows)),
        };
        Ok(format!("{link}: {} rows compared, {} differ{corrected}", grouped(compared), grouped(wrong)))
    }

    async fn backward_on(&mut self) -> Played<()> {
        let began = Instant::now();
        let ended = self.crew.halt().await?;
        self.summaries.extend(ended);
        let before = self.deeds()?[0];
        self.crew.go(Direction::Both).await?;
        let streams = |live: &live::Live| live.stage == live::Stage::Streaming;
        self.crew.link()?.until("started", |live, back| streams(live) && streams(back)).await?;
        self.crew.arrived(Release::One).await?;
        let figures = format!(
            "both links apply, green wins conflicts; {} transactions of users who were not asked to wait",
            grouped(self.deeds()?[0] - before)
        );
        self.act("backward on", began, figures);
        Ok(())
    }

    async fn users_move(&mut self, name: &str, to: Release) -> Played<()> {
        let (began, before) = (Instant::now(), self.deeds()?);
        let time = Duration::from_secs(self.crew.options.stream_s);
        let (live, back) = (self.crew.link()?.live(), self.crew.link()?.back());
        let watching = tokio::spawn(async move { tokio::join!(watch_lag(live, time), watch_lag(back, time)) });
        self.crew.move_users(to, self.crew.options.stream_s).await?;
        let (lag, lag_back) = watching.await.unwrap_or_default();
        let after = self.deeds()?;
        let figures = format!(
            "{} transactions on blue and {} on green meanwhile; lag forward median {} ms, p99 {} ms, backward median {} ms, p99 {} ms",
            grouped(after[0] - before[0]),
            grouped(after[1] - before[1]),
            lag.median_ms,
            lag.p99_ms,
            lag_back.median_ms,
            lag_back.p99_ms
        );
        self.act(name, began, figures);
        Ok(())
    }

    /// Both ways, while nobody writes and everything has arrived, also what arriving has set off.
    async fn compared(&mut self, name: &str) -> Played<()> {
        let began = Instant::now();
        let at = self.crew.rest().await?;
        for release in [Release::One, Release::Two, Release::One, Release::Two] {
            self.crew.arrived(release).await?;
        }
        let found = [self.compare(Link::Forward).await?, self.compare(Link::Backward).await?];
        let conflicts = self.crew.conflicts().await?;
        self.crew.go_on(at).await?;
        self.act(name, began, format!("{}; {}; {conflicts} conflicts recorded", found[0], found[1]));
        Ok(())
    }

    async fn rollback(&mut self) -> Played<()> {
        let (began, before) = (Instant::now(), self.deeds()?);
        self.crew.move_users(Release::One, self.crew.options.stream_s).await?;
        // From here on nobody is in release 2: what it alone knows must stay as it is, whatever release 1 writes.
        let kept = self.crew.levels().await?;
        self.crew.work_on(Duration::from_secs(self.crew.options.stream_s.div_ceil(2))).await?;
        let after = self.deeds()?;
        let at = self.crew.rest().await?;
        self.crew.arrived(Release::Two).await?;
        self.crew.arrived(Release::One).await?;
        let found = [self.compare(Link::Forward).await?, self.compare(Link::Backward).await?];
        let still = self.crew.levels().await?;
        self.crew.go_on(at).await?;
        let lost = if still == kept { "all kept" } else { "NOT KEPT" };
        if still != kept {
            self.comparisons.push(Comparison::lost_levels());
        }
        let figures = format!(
            "{} transactions on blue, {} on green; {}; {}; loyalty levels, which release 1 does not know, of {} customers: {lost}",
            grouped(after[0] - before[0]),
            grouped(after[1] - before[1]),
            found[0],
            found[1],
            grouped(still.0)
        );
        self.act("rollback: all users back to release 1", began, figures);
        Ok(())
    }

    async fn finish(&mut self) -> Played<()> {
        let began = Instant::now();
        self.crew.rest().await?;
        for release in [Release::Two, Release::One] {
            self.crew.arrived(release).await?;
        }
        let ended = self.crew.halt().await?;
        self.summaries.extend(ended);
        let left = match self.crew.options.keep {
            // Somebody wants to look at the records.
            true => "slots, publications and records are kept".to_owned(),
            false => {
                let cleaned = clean::clean(&self.crew.settings).await.map_err(one)?;
                format!("removed {} things: slots, publications, records", cleaned.removed.len())
            }
        };
        self.act("finish: everybody is in release 2, blue is left", began, left);
        Ok(())
    }
}
