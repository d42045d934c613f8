//! `falkirk recopy`: mends what earlier revisions of the transform wrote. Asks the running host; where none runs, it runs
//! the links itself for as long as that takes. Exit code 1 if rows are left that do not agree.

use std::process::ExitCode;

use clap::Args;
use serde_json::Value;
use tokio::sync::watch;

use crate::admin::{client, recopy as wire};
use crate::config::Settings;
use crate::link;
use crate::live::Live;
use crate::marker::Link;
use crate::pg::session::Session;
use crate::problem::{Blame, Outcome, Problem};
use crate::recopy::{Desk, Older, Order};
use crate::supervisor::{self, Shown, Until};
use crate::swap::Door;
use crate::transform::Artifact;

use super::{Common, Signals, table};

#[derive(Args, Debug)]
pub(super) struct Recopy {
    #[command(flatten)]
    common: Common,
    /// Only rows that stand for rows of this source table, with or without its schema.
    table: Option<String>,
    /// Mend blue by green, with the backward link.
    #[arg(long)]
    backward: bool,
    /// Also write the rows that do not agree for another reason than a revision. Run it without first: it lists them.
    #[arg(long)]
    force: bool,
    /// The file of an earlier revision that wrote; the newest first. What the running host has swapped out it knows.
    /// FILE@sha256:... if it must have that digest.
    #[arg(long, value_name = "FILE")]
    old: Vec<String>,
    /// Show keys of rows as they are, instead of hashes.
    #[arg(long)]
    values: bool,
}

impl Recopy {
    pub(super) async fn run(self) -> ExitCode {
        match self.ask().await {
            Err(problems) => self.common.failed(&problems),
            Ok(answer) => self.print(&answer),
        }
    }

    async fn ask(&self) -> Result<Value, Vec<Problem>> {
        let one = |problem: Problem| vec![problem];
        let settings = self.common.settings().map_err(one)?;
        let link = if self.backward { Link::Backward } else { Link::Forward };
        let order = self.order().map_err(one)?;
        if let Some(admin) = &settings.admin {
            match client::post(admin, "/recopy", wire::to_body(link, &order)).await {
                Err(problem) if problem.code() == "ADMIN_UNREACHABLE" => {}
                answer => return answer.map_err(one),
            }
        }
        self.by_itself(settings, link, order).await
    }

    fn order(&self) -> Outcome<Order> {
        let read = |file: &String| {
            let (path, pin) = super::pinned(file);
            let pin = pin.map(str::to_owned);
            Artifact::read(path).map(|bytes| Older { name: super::file_name(path), bytes, pin })
        };
        let older = self.old.iter().map(read).collect::<Outcome<_>>()?;
        Ok(Order { table: self.table.clone(), force: self.force, older, values: self.values, only_missing: false })
    }

    /// Runs the links, and ends them afterwards.
    async fn by_itself(&self, settings: Settings, link: Link, order: Order) -> Result<Value, Vec<Problem>> {
        let one = |problem: Problem| vec![problem];
        if !settings.applies(link) {
            let what = format!("the {link} link does not write by this configuration");
            let remedy =
                "set direction to the side that is to write, or to both; `--backward` is for the backward link";
            return Err(one(Problem::refuse(Blame::Config, "LINK_WATCHES", what).remedy(remedy)));
        }
        let closed = if settings.two_way() { link::closed(&settings).await.map_err(one)? } else { None };
        // Of a part of the tables nobody could say afterwards which.
        let reopens =
            settings.direction_is_both() && order.table.is_none() && closed.is_some_and(|one| one.link == link);
        if closed.is_none() {
            has_copied(&settings.seen_from(link)).await.map_err(one)?;
        }
        let Signals { mut told, .. } = super::signals().map_err(|error| {
            one(Problem::refuse(Blame::Host, "SIGNALS", format!("cannot listen for signals: {error}")))
        })?;
        let (desk, (stop, stopped)) = (Desk::default(), watch::channel(false));
        let (origin, other) = (watch::channel(Live::default()).0, watch::channel(Live::default()).0);
        // Nobody could bring another revision: then a link that would wait for one stops.
        let settings = Settings { admin: None, watch: false, reopens, ..settings };
        let doors = (Door::default(), desk.clone());
        let shown = Shown { origin, other };
        let host = async { supervisor::run(&settings, Until::Told, stopped, shown, doors).await };
        let mut host = std::pin::pin!(host);
        let answer = tokio::select! {
            ended = &mut host => return Err(ended.err().unwrap_or_else(|| one(ended_early()))),
            _ = told.wait_for(|told| *told) => Err(one(ended_early())),
            answer = both_ways(&desk, link, order, reopens) => answer,
        };
        stop.send_replace(true);
        let ended = host.await;
        let mut answer = answer?;
        ended?;
        if reopens {
            let is_open = answer["ok"] == Value::Bool(true);
            answer["way_open"] = is_open.into();
            if is_open {
                link::reopened(&settings.seen_from(link)).await.map_err(one)?;
            }
        }
        Ok(answer)
    }

    fn print(&self, answer: &Value) -> ExitCode {
        let ok = answer["ok"] == Value::Bool(true);
        let texts = |list: &Value| -> Vec<String> {
            list.as_array().into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect()
        };
        if self.common.json {
            println!("{answer}");
        } else if answer["tables"].is_object() {
            self.print_tables(answer);
            self.print_way(answer);
            for unknown in texts(&answer["unknown"]) {
                eprintln!("warning: {unknown} wrote as well and is not here; --old FILE brings it");
            }
        } else {
            texts(&answer["texts"]).iter().for_each(|text| eprintln!("{text}"));
        }
        ExitCode::from(u8::from(!ok))
    }

    /// What a repair that opens the way back has come to.
    fn print_way(&self, answer: &Value) {
        if answer["missing"].is_object() {
            let (here, there) = if self.backward { ("green", "blue") } else { ("blue", "green") };
            println!("\nrows that {there} has and {here} does not:");
            self.print_tables(&answer["missing"]);
        }
        match answer["way_open"].as_bool() {
            Some(true) => println!("the way back is open: `falkirk run` may start"),
            Some(false) => println!("the way back is not open yet; until it is, its slot holds log back"),
            None => {}
        }
    }

    fn print_tables(&self, answer: &Value) {
        let count = |value: &Value| value.as_u64().unwrap_or_default();
        let tables = || answer["tables"].as_object().into_iter().flatten();
        let columns = ["rows_looked_at", "rows_patched", "rows_rekeyed", "rows_inserted", "rows_deleted", "rows_rest"];
        let row = |(name, table): (&String, &Value)| {
            let counts = columns.iter().map(|column| count(&table[*column]).to_string());
            std::iter::once(name.clone()).chain(counts).collect()
        };
        let head = ["table", "looked at", "patched", "rekeyed", "inserted", "deleted", "rest"];
        table::print(&head, tables().map(row).collect(), self.common.is_for_eyes());
        for (name, table) in tables() {
            for rest in table["rest"].as_array().into_iter().flatten() {
                let columns: Vec<&str> = rest[1].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
                let what = if columns.is_empty() {
                    "missing, or nothing stands for it".to_owned()
                } else {
                    columns.join(", ")
                };
                println!("{name} {}: {what}", rest[0].as_str().unwrap_or_default());
            }
        }
        for left in answer["left_out"].as_array().into_iter().flatten() {
            println!("{}: left alone, {}", left[0].as_str().unwrap_or_default(), left[1].as_str().unwrap_or_default());
        }
        println!("{} rows written", count(&answer["rows_written"]));
        if count(&answer["rows_rest"]) > 0 && !self.force {
            println!(
                "{} rows do not agree for another reason; `--force` writes them as well",
                count(&answer["rows_rest"])
            );
        }
        if count(&answer["rows_busy"]) > 0 {
            let why = answer["refused"].as_str().unwrap_or("they changed all the time");
            println!("{} rows could not be mended ({why}); run it again", count(&answer["rows_busy"]));
        }
    }
}

/// Has the link mend its rows. Where it opens the way back, the other link then brings what only its own side has: rows that
/// the link's side has removed while nobody kept its log. They come back, since nobody can tell them from new ones.
async fn both_ways(desk: &Desk, link: Link, order: Order, reopens: bool) -> Result<Value, Vec<Problem>> {
    let force = order.force;
    let other = Order { older: Vec::new(), only_missing: true, ..order.clone() };
    let mut answer = wire::to_json(&desk.ask(link, order, None).await?, force);
    if reopens {
        let returned = wire::to_json(&desk.ask(link.other(), other, None).await?, force);
        answer["ok"] = (answer["ok"] == Value::Bool(true) && returned["ok"] == Value::Bool(true)).into();
        answer["missing"] = returned;
    }
    Ok(answer)
}

fn ended_early() -> Problem {
    Problem::refuse(Blame::Host, "RECOPY_ENDED", "told to end before every row was looked at; what was mended stays so")
        .remedy("run it again: it goes on where rows are left")
}

/// A link that has not copied its rows yet has nothing to mend, and is not to be started by the way.
async fn has_copied(settings: &Settings) -> Outcome<()> {
    let source = Session::connect(&settings.source().address, "recopy").await?;
    let target = Session::connect(&settings.target().address, "recopy").await?;
    match link::started_with(settings, &source, &target).await? {
        [Some(_), _] => Ok(()),
        [None, _] => Err(Problem::refuse(
            Blame::Config,
            "NOT_STARTED",
            "the link has not been started yet, so it has written nothing",
        )
        .remedy("`falkirk run` copies the rows with the present revision")),
    }
}
