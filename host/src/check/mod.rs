//! The preflight: everything that must hold before the first row moves, each shortfall with the SQL or the setting that
//! mends it, all at once. `falkirk check` prints it, `falkirk run` refuses on it. It writes nothing anywhere.

mod keys;
pub mod publication;
mod records;
mod rules;
mod servers;
mod tables;

use std::sync::Arc;

use crate::catalog::{Catalog, ReplicaIdentity, Shape};
use crate::config::Settings;
use crate::names::TableName;
use crate::pg::catalog;
use crate::pg::facts::{self, ServerFacts};
use crate::pg::session::Session;
use crate::plan::Plan;
use crate::plan::bind::{Binding, NO_TARGET};
use crate::problem::{Blame, Problem};
use crate::transform::Artifact;

use rules::Rules;

/// What the preflight found.
pub struct Findings {
    /// What must be mended first.
    pub problems: Vec<Problem>,
    /// What may be wanted and should be known.
    pub warnings: Vec<String>,
    /// The plan, if rules and catalogs fit.
    pub plan: Option<Arc<Plan>>,
    /// The plan of the other link, if there is one and it fits.
    pub back: Option<Arc<Plan>>,
    /// The source's catalog, with its tables as the link's stream shows them.
    pub source: Catalog,
    /// The source's catalog as it is now.
    source_now: Catalog,
    /// The target's catalog.
    pub target: Catalog,
    /// Facts of the source's server.
    pub source_facts: ServerFacts,
    /// Facts of the target's server.
    pub target_facts: ServerFacts,
}

/// What is known before the preflight.
pub struct Given<'a> {
    /// The configuration.
    pub settings: &'a Settings,
    /// The loaded artifact, if one is configured.
    pub artifact: Option<&'a Artifact>,
    /// The source.
    pub source: &'a Session,
    /// The target.
    pub target: &'a Session,
    /// The tables that the link has streamed so far, and what they looked like when it started; `None` before its first
    /// start. A table that came later is not streamed: its rows were never copied.
    pub started_with: Option<&'a [(TableName, Shape)]>,
    /// The same of the other link, which reads the target: what came later is nothing to it either.
    pub other_started_with: Option<&'a [(TableName, Shape)]>,
    /// Whether the link copies existing rows at its first start: then the target must be empty.
    pub copies: bool,
}

/// Looks at everything. An error only where looking itself failed.
pub async fn preflight(given: &Given<'_>) -> Result<Findings, Problem> {
    let (source_facts, target_facts) = (facts::facts(given.source).await?, facts::facts(given.target).await?);
    let (mut source, target) = (catalog::read(given.source).await?, catalog::read(given.target).await?);
    let source_now = source.clone();
    restore(&mut source, given.started_with);
    let mut findings = Findings {
        problems: Vec::new(),
        warnings: given.settings.warnings.clone(),
        plan: None,
        back: None,
        source,
        source_now,
        target,
        source_facts,
        target_facts,
    };
    servers::check(given, &mut findings);
    // Row 10: what is wrong with one table hides nothing of what is wrong with the others.
    let (plan, is_whole) = bind_plan(given, &mut findings);
    tables::check(given, &plan, &mut findings);
    if given.started_with.is_none() && given.copies {
        tables::check_empty(given, &plan, &mut findings).await?;
    }
    if is_whole {
        keys::check(given, &plan, &mut findings).await?;
        publication::check(given, &plan, &mut findings).await?;
        findings.plan = Some(plan);
        findings.back = given.settings.two_way().then(|| back(given, &findings)).flatten();
        if let (true, Some(plan), Some(back)) = (both_apply(given), &findings.plan, &findings.back) {
            records::check(plan, back, &mut findings.problems);
        }
    }
    Ok(findings)
}

fn both_apply(given: &Given<'_>) -> bool {
    given.settings.applies(given.settings.link) && given.settings.applies(given.settings.link.other())
}

/// L12: a change of columns must be met where the stream shows it, and the rows before it have the old ones.
fn restore(source: &mut Catalog, started_with: Option<&[(TableName, Shape)]>) {
    for (name, shape) in started_with.unwrap_or_default() {
        source.tables.entry(name.clone()).and_modify(|table| table.restore(shape));
    }
}

/// The plan of the other link, as it makes it itself: both links have to decide by the same two plans (L8). What is wrong
/// with it is said where that link is checked.
fn back(given: &Given<'_>, findings: &Findings) -> Option<Arc<Plan>> {
    let mut from = findings.target.clone();
    restore(&mut from, given.other_started_with);
    // Columns that are gone on both sides are still in the stream of a link that has not met their end yet.
    let tried = [&from, &findings.target].into_iter().map(|from| backward(given, (from, &findings.source_now)));
    tried.filter(|(_, problems)| problems.is_empty()).map(|(plan, _)| Arc::new(plan)).next()
}

/// The rules backward, to ask whether rows agree, whether a link goes there or not: without those of tables that do not
/// fit. What only a stream would need is no matter: rows are asked about whole, whatever the replica identity sends.
pub fn way_back(given: &Given<'_>, findings: &Findings) -> Option<Arc<Plan>> {
    let mut target = findings.target.clone();
    for table in target.tables.values_mut() {
        (table.identity, table.identity_key) = (ReplicaIdentity::Full, Vec::new());
    }
    let (mut plan, problems) = backward(given, (&target, &findings.source));
    let mut unfit: Vec<&TableName> = Vec::new();
    for problem in &problems {
        tracing::debug!("agreement is not asked backward there: {problem}");
        unfit.push(problem.at_table()?);
    }
    let targets = &plan.targets;
    for source in &mut plan.sources {
        let writes_there = source.rule.outputs.iter().any(|output| unfit.contains(&&targets[output.target].name));
        if unfit.contains(&&source.name) || writes_there {
            source.rule.outputs.clear();
        }
    }
    Some(Arc::new(plan))
}

fn backward(given: &Given<'_>, (from, to): (&Catalog, &Catalog)) -> (Plan, Vec<Problem>) {
    let direction = given.settings.link.other().into();
    let rules = Rules::of(given, direction, (from, to));
    let include = names(given.other_started_with, given);
    rules.bind(&Binding {
        rules: &[],
        artifact: given.artifact.map_or("", Artifact::label),
        source: from,
        target: to,
        include: &include,
        exclude: &given.settings.exclude,
        manifest: None,
    })
}

/// The tables that a link is for.
fn names(started_with: Option<&[(TableName, Shape)]>, given: &Given<'_>) -> Vec<TableName> {
    let started_with = started_with.map(|tables| tables.iter().map(|(name, _)| name.clone()).collect());
    started_with.unwrap_or_else(|| given.settings.include.clone())
}

/// L3: a table that the link has carried so far is never left out without a word, only because nothing stands for it.
fn left_behind<'a>(given: &'a Given<'_>, plan: &'a Plan) -> impl Iterator<Item = Problem> + 'a {
    let is_lost = |name: &TableName| plan.left_out.iter().any(|(table, why)| table == name && why == NO_TARGET);
    let known = given.started_with.unwrap_or_default().iter().map(|(name, _)| name);
    known.filter(move |name| is_lost(name)).map(|name| {
        let what = "the link carries the table so far, and now no rule names it and the target has no table of its name";
        Problem::refuse(Blame::Target, "NO_SUCH_TABLE", what).table(name).remedy(
            "give the target its table, or bring a revision with a rule for it; one with `outputs: []` says that its rows stand \
             for nothing",
        )
    })
}

/// The plan of what fits, and whether that is everything.
fn bind_plan(given: &Given<'_>, findings: &mut Findings) -> (Arc<Plan>, bool) {
    let settings = given.settings;
    findings.problems.extend(rules::wrong_step(given));
    let rules = Rules::of(given, settings.link.into(), (&findings.source, &findings.target));
    findings.warnings.extend(rules.notes());
    let beside = given.artifact.map(Artifact::beside).unwrap_or_default();
    findings.warnings.extend(beside.iter().map(|label| {
        format!(
            "{label} is not on the way from version {} to {}: it is not used",
            settings.blue.schema_version, settings.green.schema_version
        )
    }));
    let include = names(given.started_with, given);
    let (plan, mut problems) = rules.bind(&Binding {
        rules: &[],
        artifact: given.artifact.map_or("", Artifact::label),
        source: &findings.source,
        target: &findings.target,
        include: &include,
        exclude: &settings.exclude,
        manifest: None,
    });
    if problems.is_empty() && plan.sources.is_empty() {
        problems.push(
            Problem::refuse(Blame::Config, "NOTHING_TO_DO", "no table of the source would be copied or streamed")
                .remedy("check the addresses, the role's rights, and [tables]; tables without a rule need a table of the same name in the target"),
        );
    }
    problems.extend(left_behind(given, &plan));
    let is_whole = problems.is_empty();
    findings.problems.extend(problems);
    (Arc::new(plan), is_whole)
}
