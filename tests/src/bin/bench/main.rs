//! How fast a link is, beside PostgreSQL's own logical replication: same servers, same data, same run, in turns.
//!
//! `make bench`, or with arguments `make bench BENCH="--quick --only catch-up"`. It prints a table, writes every single
//! measurement to `bench.json`, and fails if what arrived on the target is not what the source holds: a fast wrong
//! answer is not a figure. It starts two private servers and touches no other.

mod backlog;
mod both;
mod boundary;
mod copy;
mod exchange;
mod ground;
mod latency;
mod limits;
mod link;
mod native;
mod report;
mod subject;

use std::path::PathBuf;
use std::process::ExitCode;

use ground::{Ground, Outcome};
use report::{Figure, Report};
use subject::Subject;

const USAGE: &str = "\
usage: bench [--quick] [--turns N] [--only NAME[,NAME...]] [--native-only] [--out FILE]
  --quick        a tenth of the rows: to try whether it runs, not to quote
  --turns N      how often each side runs, in turns (3)
  --only         catch-up, catch-up-transform, copy, copy-transform, latency, both, exchange,
                 boundary, limits
  --native-only  PostgreSQL's own replication alone
  --out FILE     where the measurements go (bench.json)";

/// What the command line asks for.
pub struct Wish {
    quick: bool,
    turns: usize,
    only: Vec<String>,
    native_only: bool,
    out: PathBuf,
}

impl Wish {
    fn read(mut arguments: impl Iterator<Item = String>) -> Outcome<Wish> {
        let mut wish =
            Wish { quick: false, turns: 3, only: Vec::new(), native_only: false, out: PathBuf::from("bench.json") };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value\n{USAGE}"));
            match argument.as_str() {
                "--quick" => wish.quick = true,
                "--native-only" => wish.native_only = true,
                "--turns" => wish.turns = value()?.parse().map_err(|_| "--turns needs a number".to_owned())?,
                "--only" => wish.only.extend(value()?.split(',').map(str::to_owned)),
                "--out" => wish.out = PathBuf::from(value()?),
                _ => return Err(format!("unknown argument {argument}\n{USAGE}")),
            }
        }
        Ok(wish)
    }

    /// A tenth of a number in a quick run.
    fn scaled(&self, number: u64) -> u64 {
        if self.quick { number / 10 } else { number }
    }

    fn asks_for(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("bench: {message}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Outcome<()> {
    let wish = Wish::read(std::env::args().skip(1))?;
    let ground = Ground::start(&wish)?;
    let mut report = Report::new(&wish, ground.describe().await?);
    // The transform is looked for only where a figure needs it.
    type Make = fn(&Ground) -> Outcome<Subject>;
    let subjects: [(&str, Make); 2] = [("", |_| Ok(Subject::identity())), ("-transform", Subject::shop)];
    for (suffix, subject) in subjects {
        let name = format!("catch-up{suffix}");
        if wish.asks_for(&name) {
            report.add(backlog::measure(&name, &wish, &ground, &subject(&ground)?).await?);
        }
        let name = format!("copy{suffix}");
        if wish.asks_for(&name) {
            report.add(copy::measure(&name, &wish, &ground, &subject(&ground)?).await?);
        }
    }
    if wish.asks_for("latency") {
        latency::measure(&wish, &ground).await?.into_iter().for_each(|figure: Figure| report.add(figure));
    }
    if wish.asks_for("both") && !wish.native_only {
        both::measure(&wish, &ground).await?.into_iter().for_each(|figure| report.add(figure));
    }
    if wish.asks_for("exchange") && !wish.native_only {
        exchange::measure(&wish, &ground).await?.into_iter().for_each(|figure| report.add(figure));
    }
    if wish.asks_for("boundary") && !wish.native_only {
        boundary::measure(&wish, &ground).await?.into_iter().for_each(|figure| report.add(figure));
    }
    if wish.asks_for("limits") && !wish.native_only {
        limits::measure(&wish, &ground)?.into_iter().for_each(|figure| report.add(figure));
    }
    report.print();
    report.write(&wish.out)
}
