//! `falkirk check`.

use std::process::ExitCode;

use clap::Args;

use crate::check::{self, Findings, Given};
use crate::config::Settings;
use crate::pg::session::Session;
use crate::plan::Plan;
use crate::problem::{Action, Blame, Problem};
use crate::sequences::{self, Kept};
use crate::transform::Artifact;
use crate::{link, supervisor};

use super::Common;

#[derive(Args, Debug)]
pub(super) struct Check {
    #[command(flatten)]
    common: Common,
}

impl Check {
    pub(super) async fn run(self) -> ExitCode {
        let settings = match self.common.settings() {
            Ok(settings) => settings,
            Err(problem) => return self.common.failed(&[problem]),
        };
        match look(&settings).await {
            Err(problem) => self.common.failed(&[problem]),
            Ok((findings, kept)) => self.print(&findings, &kept),
        }
    }

    fn print(&self, findings: &Findings, kept: &Kept) -> ExitCode {
        if !findings.problems.is_empty() {
            if !self.common.json {
                findings.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
                eprintln!("{} to mend before the first row moves:", findings.problems.len());
            }
            return self.common.failed(&findings.problems);
        }
        let tables = findings.plan.as_deref().map(tables).unwrap_or_default();
        if self.common.json {
            let tables: Vec<_> = tables
                .iter()
                .map(|(table, how, into)| serde_json::json!({ "table": table, "how": how, "into": into }))
                .collect();
            let answer = serde_json::json!({
                "ok": true, "warnings": findings.warnings, "tables": tables, "sequences": kept.shown,
                "unprotected": kept.unprotected,
            });
            println!("{answer}");
            return ExitCode::SUCCESS;
        }
        findings.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
        let rows = tables.into_iter().map(|(table, how, into)| vec![table, how, into]).collect();
        super::table::print(&["table", "how", "into"], rows, self.common.is_for_eyes());
        self.print_sequences(kept);
        println!("ready: `falkirk run` may start");
        ExitCode::SUCCESS
    }

    fn print_sequences(&self, kept: &Kept) {
        let text = |number: Option<i64>, unit: &str| number.map_or_else(|| "-".to_owned(), |it| format!("{it}{unit}"));
        let rows: Vec<Vec<String>> = kept
            .shown
            .iter()
            .map(|shown| {
                let range = match (shown.first, shown.last) {
                    (Some(first), Some(last)) => format!("{first} to {last}"),
                    _ => "-".to_owned(),
                };
                let at = shown.stands_at.to_string();
                vec![shown.side.to_owned(), shown.sequence.clone(), at, range, text(shown.left_percent, " % left")]
            })
            .collect();
        if !rows.is_empty() {
            super::table::print(&["side", "sequence", "stands at", "range", "left"], rows, self.common.is_for_eyes());
        }
        if !kept.unprotected.is_empty() {
            let tables = kept.unprotected.join(", ");
            println!("keys that no sequence keeps apart, which both sides must not make alike: {tables}");
        }
    }
}

/// What a start would refuse, of both links where there are two, whether one is closed, and how the sequences stand.
async fn look(settings: &Settings) -> Result<(Findings, Kept), Problem> {
    let artifact = supervisor::load_artifact(settings).await?;
    let (mut findings, is_first_start) = of_links(settings, artifact.as_deref()).await?;
    let mut kept = Kept::default();
    // Before the rules fit, nobody knows which sequences belong together.
    if let Some(plan) = findings.plan.clone() {
        let plans = [Some(&*plan), findings.back.as_deref()];
        kept = sequences::look(&sequences::Given { settings, plans, is_first_start }).await?;
        findings.warnings.append(&mut kept.notes);
        findings.warnings.extend(kept.shown.iter().filter_map(|shown| shown.warning.clone()));
        // What a link would stop at stops nobody here.
        findings.problems.extend(kept.problems.drain(..).map(|problem| problem.with_action(Action::Refuse)));
    }
    Ok((findings, kept))
}

/// With it: whether the link that copies has not started yet.
async fn of_links(settings: &Settings, artifact: Option<&Artifact>) -> Result<(Findings, bool), Problem> {
    let (mut findings, is_first_start) = of_link(settings, artifact).await?;
    if !settings.two_way() {
        return Ok((findings, is_first_start));
    }
    let other = settings.seen_from(settings.link.other());
    let (Findings { problems, warnings, .. }, _) = of_link(&other, artifact).await?;
    let texts: Vec<String> = findings.problems.iter().map(Problem::to_string).collect();
    findings.problems.extend(problems.into_iter().filter(|problem| !texts.contains(&problem.to_string())));
    let warnings: Vec<String> = warnings.into_iter().filter(|warning| !findings.warnings.contains(warning)).collect();
    findings.warnings.extend(warnings);
    if let Some(closed) = link::closed(settings).await? {
        let plans = [findings.plan.as_deref(), findings.back.as_deref()];
        let problem = link::why_closed(settings, &closed, plans);
        findings.problems.push(problem);
    }
    Ok((findings, is_first_start))
}

async fn of_link(settings: &Settings, artifact: Option<&Artifact>) -> Result<(Findings, bool), Problem> {
    let source = Session::connect_blaming(&settings.source().address, Blame::Source, "check").await?;
    let target = Session::connect_blaming(&settings.target().address, Blame::Target, "check").await?;
    let [started_with, others] = link::started_with(settings, &source, &target).await?;
    let given = Given {
        settings,
        artifact,
        source: &source,
        target: &target,
        started_with: started_with.as_deref(),
        other_started_with: others.as_deref(),
        copies: settings.link == settings.origin(),
    };
    Ok((check::preflight(&given).await?, started_with.is_none()))
}

/// Every table of the source, how it travels and where to.
fn tables(plan: &Plan) -> Vec<(String, String, String)> {
    let travelling = plan.sources.iter().map(|source| {
        let into: Vec<String> =
            source.rule.outputs.iter().map(|output| plan.targets[output.target].name.to_string()).collect();
        let how = match (&source.rule.guest_table, source.full_identity) {
            (Some(_), true) => "through the transform",
            (Some(_), false) => "through the transform, without old rows",
            (None, _) => "copied as it is",
        };
        (source.name.to_string(), how.to_owned(), into.join(", "))
    });
    let left_out =
        plan.left_out.iter().map(|(name, why)| (name.to_string(), format!("left out: {why}"), String::new()));
    travelling.chain(left_out).collect()
}
