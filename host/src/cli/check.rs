//! `falkirk check`.

use std::process::ExitCode;

use clap::Args;

use crate::check::{self, Findings, Given};
use crate::config::Settings;
use crate::pg::session::Session;
use crate::plan::Plan;
use crate::problem::{Blame, Problem};
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
            Ok(findings) => self.print(&findings),
        }
    }

    fn print(&self, findings: &Findings) -> ExitCode {
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
            println!("{}", serde_json::json!({ "ok": true, "warnings": findings.warnings, "tables": tables }));
            return ExitCode::SUCCESS;
        }
        findings.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
        let rows = tables.into_iter().map(|(table, how, into)| vec![table, how, into]).collect();
        super::table::print(&["table", "how", "into"], rows, self.common.is_for_eyes());
        println!("ready: `falkirk run` may start");
        ExitCode::SUCCESS
    }
}

/// What a start would refuse, of both links where there are two, and whether one is closed.
async fn look(settings: &Settings) -> Result<Findings, Problem> {
    let artifact = supervisor::load_artifact(settings).await?;
    let mut findings = of_link(settings, artifact.as_deref()).await?;
    if !settings.two_way() {
        return Ok(findings);
    }
    let other = settings.seen_from(settings.link.other());
    let Findings { problems, warnings, .. } = of_link(&other, artifact.as_deref()).await?;
    let texts: Vec<String> = findings.problems.iter().map(Problem::to_string).collect();
    findings.problems.extend(problems.into_iter().filter(|problem| !texts.contains(&problem.to_string())));
    let warnings: Vec<String> = warnings.into_iter().filter(|warning| !findings.warnings.contains(warning)).collect();
    findings.warnings.extend(warnings);
    if let Some(closed) = link::closed(settings).await? {
        let plans = [findings.plan.as_deref(), findings.back.as_deref()];
        let problem = link::why_closed(settings, &closed, plans);
        findings.problems.push(problem);
    }
    Ok(findings)
}

async fn of_link(settings: &Settings, artifact: Option<&Artifact>) -> Result<Findings, Problem> {
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
    check::preflight(&given).await
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
