//! `falkirk conflicts`: what was decided or is open, and how to change it.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::conflicts::{self, Detail, Entry, Filter, Take};
use crate::names::TableName;
use crate::supervisor;

use super::{Common, table};

#[derive(Args, Debug)]
pub(super) struct Conflicts {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// One line for each conflict of either side.
    List(List),
    /// Both values of one conflict, what it means and what can be done.
    Show(Show),
    /// Decide a conflict, or decide it otherwise.
    Resolve(Resolve),
}

#[derive(Args, Debug)]
struct List {
    #[command(flatten)]
    common: Common,
    /// Only of this table, by its name on the side that holds the record.
    #[arg(long)]
    table: Option<TableName>,
    /// Only in this state.
    #[arg(long, value_enum)]
    state: Option<State>,
    /// Show keys of rows as they are, instead of hashes.
    #[arg(long)]
    values: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum State {
    Decided,
    Open,
    Resolved,
}

#[derive(Args, Debug)]
struct Show {
    #[command(flatten)]
    common: Common,
    /// As `falkirk conflicts list` names it, such as green-12.
    id: String,
    /// Show keys and values of rows.
    #[arg(long)]
    values: bool,
}

#[derive(Args, Debug)]
struct Resolve {
    #[command(flatten)]
    common: Common,
    /// As `falkirk conflicts list` names it, such as green-12.
    id: String,
    /// Whose word counts.
    #[arg(long, value_enum)]
    take: TakeArgument,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum TakeArgument {
    Blue,
    Green,
}

impl Conflicts {
    pub(super) async fn run(self) -> ExitCode {
        match self.command {
            Command::List(command) => command.run().await,
            Command::Show(command) => command.run().await,
            Command::Resolve(command) => command.run().await,
        }
    }
}

impl List {
    async fn run(self) -> ExitCode {
        let state = self.state.map(|state| format!("{state:?}").to_lowercase());
        let filter = Filter { table: self.table.clone(), state };
        let listed = async { conflicts::list(&self.common.settings()?, &filter, self.values).await };
        match listed.await {
            Err(problem) => self.common.failed(&[problem]),
            Ok(entries) if self.common.json => {
                println!("{}", serde_json::json!({ "ok": true, "conflicts": entries }));
                ExitCode::SUCCESS
            }
            Ok(entries) => {
                let head = ["id", "table", "key", "kind", "winner", "when", "position", "state"];
                table::print(&head, entries.iter().map(row).collect(), self.common.is_for_eyes());
                ExitCode::SUCCESS
            }
        }
    }
}

fn row(entry: &Entry) -> Vec<String> {
    let state = match &entry.taken {
        Some(taken) => format!("{}, {taken} taken", entry.state),
        None => entry.state.clone(),
    };
    let winner = entry.winner.clone().unwrap_or_else(|| "-".to_owned());
    let (at, position) = (entry.at.clone(), entry.position.clone());
    vec![entry.id.clone(), entry.table.clone(), shown(&entry.key), entry.kind.clone(), winner, at, position, state]
}

fn shown(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

impl Show {
    async fn run(self) -> ExitCode {
        let detail = async { conflicts::show(&self.common.settings()?, &self.id, self.values).await };
        match detail.await {
            Err(problem) => self.common.failed(&[problem]),
            Ok(detail) if self.common.json => {
                println!("{}", serde_json::to_string(&detail).unwrap_or_default());
                ExitCode::SUCCESS
            }
            Ok(detail) => {
                self.print(&detail);
                ExitCode::SUCCESS
            }
        }
    }

    fn print(&self, detail: &Detail) {
        let Detail { entry, .. } = detail;
        let mut lines = vec![
            ("conflict", format!("{}: {} of {} {}", entry.id, entry.kind, entry.table, shown(&entry.key))),
            ("state", row(entry).pop().unwrap_or_default()),
            ("change", format!("{} of {}, recorded {}", entry.position, detail.lost_side, entry.at)),
        ];
        lines.extend(entry.winner.clone().map(|winner| ("winner", winner)));
        lines.extend(entry.resolved_by.clone().map(|by| ("resolved by", by)));
        match entry.kind.as_str() {
            "unique" => lines.push(("held by", shown(&entry.held_by))),
            "parent" => lines.push(("waits for", shown(&entry.held_by))),
            _ => {}
        }
        lines.push(("means", detail.means.clone()));
        lines.extend(detail.next.iter().map(|next| ("next", next.clone())));
        for (name, text) in lines {
            println!("{name:<12} {text}");
        }
        let value = |value: &serde_json::Value| if self.values { value.to_string() } else { "(hidden)".to_owned() };
        let columns = detail.columns.iter().map(|column| {
            let now = match (column.unchanged, self.values) {
                (true, _) => "unchanged".to_owned(),
                (false, true) => column.now.to_string(),
                (false, false) => "changed since".to_owned(),
            };
            vec![column.column.clone(), value(&column.lost), value(&column.kept), now]
        });
        let (lost, kept) = (detail.lost_side, detail.kept_side);
        let head = ["column", &format!("{lost}, not written"), &format!("{kept}, then"), &format!("{kept}, now")];
        if !self.common.is_for_eyes() {
            println!("{}", head.join("\t"));
        }
        table::print(&head, columns.collect(), self.common.is_for_eyes());
    }
}

impl Resolve {
    async fn run(self) -> ExitCode {
        let take = match self.take {
            TakeArgument::Blue => Take::Blue,
            TakeArgument::Green => Take::Green,
        };
        let who = supervisor::host_name();
        let resolved = async { conflicts::resolve(&self.common.settings()?, &self.id, take, &who).await };
        match resolved.await {
            Err(problem) => self.common.failed(&[problem]),
            Ok(resolved) if self.common.json => {
                println!("{}", serde_json::json!({ "ok": true, "id": resolved.id, "what": resolved.what }));
                ExitCode::SUCCESS
            }
            Ok(resolved) => {
                println!("{}: {}", resolved.id, resolved.what);
                ExitCode::SUCCESS
            }
        }
    }
}
