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
use crate::link;
use crate::names::TableName;
use crate::pg::catalog;
use crate::pg::facts::{self, ServerFacts};
use crate::pg::session::Session;
use crate::plan::Plan;
use crate::plan::bind::Binding;
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
    /// The tables that the other link was started with, if it was: what came later is nothing to it either.
    others: Option<Vec<TableName>>,
    /// The source's catalog.
    pub source: Catalog,
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
    /// Whether the link copies existing rows at its first start: then the target must be empty.
    pub copies: bool,
}

/// Looks at everything. An error only where looking itself failed.
pub async fn preflight(given: &Given<'_>) -> Result<Findings, Problem> {
    let (source_facts, target_facts) = (facts::facts(given.source).await?, facts::facts(given.target).await?);
    let (mut source, target) = (catalog::read(given.source).await?, catalog::read(given.target).await?);
    // L12: a change of columns must be met where the stream shows it, and the rows before it have the old ones.
    for (name, shape) in given.started_with.unwrap_or_default() {
        source.tables.entry(name.clone()).and_modify(|table| table.restore(shape));
    }
    let mut findings = Findings {
        problems: Vec::new(),
        warnings: given.settings.warnings.clone(),
        plan: None,
        back: None,
        others: others_tables(given).await?,
        source,
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

async fn others_tables(given: &Given<'_>) -> Result<Option<Vec<TableName>>, Problem> {
    // The other link's target is this one's source.
    let known = link::started_with(given.source, &given.settings.name, given.settings.link.other()).await?;
    Ok(known.map(|tables| tables.into_iter().map(|(name, _)| name).collect()))
}

/// The plan of the other link. What is wrong with it is said where that link is checked itself.
fn back(given: &Given<'_>, findings: &Findings) -> Option<Arc<Plan>> {
    let (plan, problems) = backward(given, findings, &findings.target);
    problems.is_empty().then(|| Arc::new(plan))
}

/// The rules backward, to ask whether rows agree, whether a link goes there or not: without those of tables that do not
/// fit. What only a stream would need is no matter: rows are asked about whole, whatever the replica identity sends.
pub fn way_back(given: &Given<'_>, findings: &Findings) -> Option<Arc<Plan>> {
    let mut target = findings.target.clone();
    for table in target.tables.values_mut() {
        (table.identity, table.identity_key) = (ReplicaIdentity::Full, Vec::new());
    }
    let (mut plan, problems) = backward(given, findings, &target);
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

fn backward(given: &Given<'_>, findings: &Findings, from: &Catalog) -> (Plan, Vec<Problem>) {
    let direction = given.settings.link.other().into();
    let rules = Rules::of(given, direction, (from, &findings.source));
    rules.bind(&Binding {
        rules: &[],
        artifact: given.artifact.map_or("", Artifact::label),
        source: from,
        target: &findings.source,
        include: findings.others.as_ref().unwrap_or(&given.settings.include),
        exclude: &given.settings.exclude,
        manifest: None,
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
    let include: Vec<TableName> = match given.started_with {
        None => settings.include.clone(),
        Some(tables) => tables.iter().map(|(name, _)| name.clone()).collect(),
    };
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
    let is_whole = problems.is_empty();
    findings.problems.extend(problems);
    (Arc::new(plan), is_whole)
}
