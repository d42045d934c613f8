//! Composing: the rules from the first version to the last, and every reason for which they cannot be known.
//!
//! | what a later step does with a column of the version between | becomes |
//! |---|---|
//! | copies it, and it was copied | a copied column, from the first version |
//! | copies it, and it was computed | a computed column; the group that it was computed in stays one group |
//! | computes from it | a computed group whose inputs are the first version's columns behind it (L6) |
//! | decides by it whether the row exists | likewise, together with what the earlier steps decide by |
//!
//! A column that an earlier step does not fill has a value that only the database of the version between knows: reading
//! it is refused.

use std::collections::{BTreeMap, BTreeSet};

use super::Step;
use super::flow::{Flow, Held, Origin};
use super::rules::{clashes, declared, rule_of, uncomposable};
use super::steps::Between;
use crate::catalog::{Catalog, Table};
use crate::manifest::{Asked, Direction, Follows, OnDelete, Output, Rule};
use crate::names::TableName;
use crate::problem::{Blame, Problem};

/// What several steps are together.
pub struct Composed {
    /// The rules of the tables that any step has a rule for.
    pub rules: Vec<Rule>,
    /// Every reason for which the steps do not compose.
    pub problems: Vec<Problem>,
    /// What should be known.
    pub notes: Vec<String>,
    pub(super) between: Between,
    pub(super) trails: BTreeMap<TableName, Vec<Vec<usize>>>,
}

/// Composes the steps of a path. `steps` stand in the order of the path from blue to green, whatever the direction; the
/// catalogs are the link's source and target. Tables that `excluded` names are left alone.
pub fn compose(
    steps: &[Step<'_>],
    direction: Direction,
    (source, target): (&Catalog, &Catalog),
    excluded: &[TableName],
) -> Composed {
    let mut steps: Vec<Step<'_>> = steps.to_vec();
    if direction == Direction::Backward {
        steps.reverse();
    }
    let tables = source.tables.values().filter(|table| table.root.is_none() && !excluded.contains(&table.name));
    let mut flows: Vec<Flow> = tables.map(Flow::start).collect();
    let mut composer = Composer {
        steps: &steps,
        direction,
        target,
        step: 0,
        units: 0,
        ruled: BTreeSet::new(),
        problems: Vec::new(),
        notes: Vec::new(),
        between: Between::new(source),
    };
    for step in 0..steps.len() {
        composer.step = step;
        composer.check_rules(&flows, excluded);
        flows = flows.iter().flat_map(|flow| composer.advance(flow)).collect();
        if step + 1 < steps.len() {
            composer.between_versions(&flows);
        }
    }
    composer.end(flows)
}

struct Composer<'a> {
    steps: &'a [Step<'a>],
    direction: Direction,
    target: &'a Catalog,
    step: usize,
    units: usize,
    /// The tables of the first version that some step has a rule for.
    ruled: BTreeSet<TableName>,
    problems: Vec<Problem>,
    notes: Vec<String>,
    between: Between,
}

impl Composer<'_> {
    fn is_last(&self) -> bool {
        self.step + 1 == self.steps.len()
    }

    fn rules(&self) -> &[Rule] {
        self.steps[self.step].manifest.rules(self.direction)
    }

    /// The version that a step of the link leads to.
    fn version_after(&self, step: usize) -> &str {
        let manifest = self.steps[step].manifest;
        match self.direction {
            Direction::Forward => &manifest.to,
            Direction::Backward => &manifest.from,
        }
    }

    /// The version that the current step reads.
    fn version_before(&self) -> &str {
        let manifest = self.steps[self.step].manifest;
        match self.direction {
            Direction::Forward => &manifest.from,
            Direction::Backward => &manifest.to,
        }
    }

    fn refuse(&mut self, code: &'static str, table: &TableName, column: Option<&str>, what: String, remedy: String) {
        let problem = Problem::refuse(Blame::Artifact, code, what).table(table).remedy(remedy);
        let problem = problem.artifact(self.steps[self.step].label);
        self.problems.push(match column {
            Some(column) => problem.column(column),
            None => problem,
        });
    }

    /// What never composes, and rules for tables that are not there.
    fn check_rules(&mut self, flows: &[Flow], excluded: &[TableName]) {
        let step = self.steps[self.step];
        let merge = "migrate in one step: one artifact that leads from the first version to the last";
        for map in step.manifest.maps.keys().filter(|_| self.direction == Direction::Forward) {
            let what = format!("the key map {map} of the step {} cannot be composed with other steps", step.named());
            let problem = Problem::refuse(Blame::Artifact, "NOT_COMPOSABLE", what);
            self.problems.push(problem.artifact(step.label).remedy(merge));
        }
        for rule in step.manifest.rules(self.direction) {
            if let Some(why) = uncomposable(rule) {
                let what = format!("{why} cannot be composed with other steps");
                self.refuse("NOT_COMPOSABLE", &rule.table, None, what, merge.into());
            }
            if flows.iter().any(|flow| flow.table == rule.table) || excluded.contains(&rule.table) {
                continue;
            }
            if self.step == 0 {
                let what =
                    "the manifest has a rule for a table that the source does not have, or that the role may not see";
                let remedy = "correct the name in the transform, or check schema_version and the role's rights";
                self.refuse("NO_SUCH_TABLE", &rule.table, None, what.into(), remedy.into());
            } else {
                let version = self.version_before();
                let note = format!("{}: nothing becomes rows of it in version {version}", rule.table);
                self.notes.push(note);
            }
        }
    }

    /// What the current step makes of rows that came one way.
    fn advance(&mut self, flow: &Flow) -> Vec<Flow> {
        let Some(rule) = self.rules().iter().find(|rule| rule.table == flow.table).cloned() else {
            return self.as_it_is(flow).into_iter().collect();
        };
        self.ruled.insert(flow.source.clone());
        for column in rule.columns.iter().map(Asked::name) {
            self.check_read(flow, column);
        }
        if self.is_last() && rule.outputs.is_empty() {
            self.notes.push(format!("{}: its rows stand for nothing in the end", flow.source));
        }
        let outputs = rule.outputs.iter().enumerate();
        outputs.map(|(number, output)| self.through(flow, number, output)).collect()
    }

    /// No rule: the rows stay what they are.
    fn as_it_is(&mut self, flow: &Flow) -> Option<Flow> {
        let owned = |rule: &Rule| rule.outputs.iter().any(|output| output.table == flow.table);
        if self.rules().iter().any(owned) {
            let what = "the table has no rule in this step, so it would be copied as it is, but another table's rule \
                        writes the table of the same name";
            let remedy = "declare a rule for it in this step (one without outputs if its rows stand for nothing), or \
                          exclude it in [tables]";
            self.refuse("TWO_OWNERS", &flow.table, None, what.into(), remedy.into());
            return None;
        }
        let mut flow = flow.clone();
        flow.trail.push(0);
        let Some(table) = self.target.tables.get(&flow.table).filter(|_| self.is_last()) else {
            if self.is_last() && flow.by_rule {
                let what = "no rule of the last step names it and the target has no table of its name";
                self.notes.push(format!("{} (out of {}): left out: {what}", flow.table, flow.source));
            }
            return (!self.is_last()).then_some(flow);
        };
        let lost = flow
            .columns
            .iter()
            .find(|(name, held)| table.column(name).is_none() && matches!(held.origin, Origin::Computed { .. }));
        if let Some((column, _)) = lost {
            let what = "the last step copies the table as it is, but the target's table lacks a column that an earlier \
                        step computes";
            let remedy = "declare a rule for the table in the last step, or add the column to the target";
            self.refuse("NO_SUCH_COLUMN", &flow.table, Some(&column.clone()), what.into(), remedy.into());
        }
        self.keep_known(&mut flow, table);
        Some(flow)
    }

    /// Of the columns that go on under their names, those that the target has.
    fn keep_known(&mut self, flow: &mut Flow, table: &Table) {
        let has = |name: &str| table.column(name).is_some_and(|column| !table.columns[column].generated);
        flow.columns.retain(|name, _| has(name));
        if let Some(marks) = &mut flow.marks {
            marks.retain(|name, _| has(name));
        }
        let doubts: Vec<(String, String)> =
            flow.columns.iter().filter_map(|(name, held)| Some((name.clone(), held.doubt.clone()?))).collect();
        for (column, version) in doubts {
            let what = format!(
                "a step makes other columns of it, and nothing says whether version {version} still has it: then it \
                 would be copied, otherwise the column is a new one"
            );
            let remedy = format!(
                "say it in a manifest's `types`: {{\"{version}\": {{\"{}\": {{\"{column}\": \"<its type>\"}}}}}}, or null \
                 in place of the type if the version does not have it",
                flow.table
            );
            self.refuse("COLUMN_IN_DOUBT", &flow.table.clone(), Some(&column), what, remedy);
        }
        self.check_key(flow, table);
    }

    /// A guest may be handed a column only if its value and the form of it are known.
    fn check_read(&mut self, flow: &Flow, column: &str) {
        if self.step == 0 {
            return;
        }
        let version = self.version_before().to_owned();
        let kind = self.between.kind(self.step - 1, &flow.table, column).cloned();
        let Some((_, kind)) = flow.columns.get(column).zip(kind) else {
            let what = format!(
                "the step reads a column of version {version} that the step before does not fill for rows of {}: what \
                 it holds, only a database of that version knows",
                flow.source
            );
            let remedy = "fill the column in the step before, or migrate in one step".to_owned();
            return self.refuse("COLUMN_UNKNOWN", &flow.table, Some(column), what, remedy);
        };
        if kind.exact {
            return;
        }
        let (what, remedy) = match kind.undeclared {
            true => (
                format!(
                    "the step reads a column that the step before computes, and nothing says its type in version {version}"
                ),
                format!(
                    "say it in a manifest's `types`: {{\"{version}\": {{\"{}\": {{\"{column}\": \"<its type>\"}}}}}}; for \
                     an enum, text",
                    flow.table
                ),
            ),
            false => (
                format!(
                    "the step reads a column that is {} in version {version}: in what form it would be handed over, only \
                     a database of that version knows",
                    kind.type_sql
                ),
                "copy the column in the step before, or migrate in one step".to_owned(),
            ),
        };
        self.refuse("TYPE_UNKNOWN", &flow.table, Some(column), what, remedy);
    }

    fn through(&mut self, flow: &Flow, number: usize, output: &Output) -> Flow {
        let table = self.target.tables.get(&output.table).filter(|_| self.is_last());
        let marks = self.marks(flow, output);
        let inputs = |columns: &[String]| -> BTreeSet<String> {
            columns.iter().filter_map(|column| flow.columns.get(column)).flat_map(|held| held.origin.inputs()).collect()
        };
        let when = output.when.as_ref().map(|columns| inputs(columns));
        let when = match (&flow.when, when) {
            (None, None) => None,
            (earlier, own) => Some(earlier.iter().flatten().cloned().chain(own.into_iter().flatten()).collect()),
        };
        let follows_key = output.many || output.follows == Some(Follows::Key);
        let mut next = Flow {
            source: flow.source.clone(),
            table: output.table.clone(),
            trail: flow.trail.iter().copied().chain([number]).collect(),
            by_rule: true,
            columns: self.computed(flow, output, &inputs),
            marks,
            when,
            many: flow.many || output.many,
            shares: flow.shares || output.shares,
            keyed_at: if follows_key { Some(self.step) } else { flow.keyed_at },
        };
        self.copied(flow, output, &mut next);
        match table {
            Some(table) => self.keep_explicit(output, &mut next, table),
            None => self.drop_absent(output, &mut next),
        }
        next
    }

    fn computed(
        &mut self,
        flow: &Flow,
        output: &Output,
        inputs: &dyn Fn(&[String]) -> BTreeSet<String>,
    ) -> BTreeMap<String, Held> {
        let mut columns = BTreeMap::new();
        for group in &output.computed {
            self.units += 1;
            let read = group.from.iter().filter_map(|column| flow.columns.get(column));
            let lossy =
                group.lossy || read.into_iter().any(|held| matches!(held.origin, Origin::Computed { lossy: true, .. }));
            let origin = Origin::Computed { unit: self.units, inputs: inputs(&group.from), lossy, step: self.step };
            let held = Held { origin, doubt: None };
            columns.extend(group.to.iter().map(|column| (column.clone(), held.clone())));
        }
        columns
    }

    fn copied(&mut self, flow: &Flow, output: &Output, next: &mut Flow) {
        for (to, from) in &output.copied {
            match flow.columns.get(from) {
                Some(held) => {
                    // Who names the column knows that the version has it.
                    next.columns.insert(to.clone(), Held { doubt: None, ..held.clone() });
                }
                None if flow.marks.as_ref().is_some_and(|marks| marks.contains_key(from)) => {}
                None if self.step == 0 => {
                    let what = "the rule reads a column that the source table does not have".to_owned();
                    let remedy =
                        "correct the transform, or check that the source has the schema version that it is made for";
                    self.refuse("NO_SUCH_COLUMN", &flow.table, Some(from), what, remedy.into());
                }
                None => {
                    let version = self.version_before();
                    let what = format!(
                        "the step copies a column of version {version} that the step before does not fill: what it \
                         holds, only a database of that version knows"
                    );
                    let remedy = "fill the column in the step before, or migrate in one step".to_owned();
                    self.refuse("COLUMN_UNKNOWN", &flow.table, Some(from), what, remedy);
                }
            }
        }
        if !output.same_named {
            return;
        }
        let used_up = |name: &str| {
            let renamed = output.copied.values().any(|from| from == name);
            renamed || output.computed.iter().any(|group| group.from.iter().any(|from| from == name))
        };
        for (name, held) in &flow.columns {
            let doubt = (!self.is_last() && used_up(name)).then(|| self.version_after(self.step).to_owned());
            let held = Held { doubt: doubt.or_else(|| held.doubt.clone()), ..held.clone() };
            next.columns.entry(name.clone()).or_insert(held);
        }
    }

    /// The target's catalog is known: `same_named` copies what it has, and the rest is checked when the rule is bound.
    fn keep_explicit(&mut self, output: &Output, next: &mut Flow, table: &Table) {
        let columns = std::mem::take(&mut next.columns).into_iter();
        let (named, by_name): (BTreeMap<_, _>, _) = columns.partition(|(name, _)| is_explicit(output, name));
        next.columns = by_name;
        self.keep_known(next, table);
        next.columns.extend(named);
        self.check_key(next, table);
    }

    /// What a manifest says that the version does not have.
    fn drop_absent(&mut self, output: &Output, next: &mut Flow) {
        let version = self.version_after(self.step).to_owned();
        let said = |name: &str| declared(self.steps, &version, &next.table, name);
        let mut absent = Vec::new();
        for (name, held) in &mut next.columns {
            match said(name) {
                Some(None) => absent.push(name.clone()),
                Some(Some(_)) => held.doubt = None,
                None => {}
            }
        }
        for name in absent {
            if is_explicit(output, &name) {
                let what = format!("the step fills a column that a manifest says version {version} does not have");
                let remedy = "correct `types`, or the step".to_owned();
                self.refuse("TYPES_DIFFER", &next.table, Some(&name), what, remedy);
            } else {
                next.columns.remove(&name);
            }
        }
    }

    /// What a delete of the source row sets. A row that an earlier step keeps with a mark is no longer deleted.
    fn marks(&mut self, flow: &Flow, output: &Output) -> Option<BTreeMap<String, Option<String>>> {
        let Some(marks) = &flow.marks else {
            let OnDelete::Set(set) = &output.on_delete else { return None };
            if flow.may_cease() {
                let what =
                    "a row of the version between may go while its source row stays, and the soft delete of the \
                            next step would keep it then: that does not compose"
                        .to_owned();
                let remedy = "migrate in one step: one artifact that leads from the first version to the last";
                self.refuse("NOT_COMPOSABLE", &flow.table, None, what, remedy.into());
            }
            return Some(set.clone());
        };
        let reads = |name: &String| {
            let computed = output.computed.iter().any(|group| group.from.contains(name));
            computed || output.when.as_ref().is_some_and(|columns| columns.contains(name))
        };
        let read = marks.keys().find(|name| reads(name)).cloned();
        let mut next: BTreeMap<String, Option<String>> = BTreeMap::new();
        for (to, from) in &output.copied {
            next.extend(marks.get(from).map(|value| (to.clone(), value.clone())));
        }
        if output.same_named {
            let known = |name: &&String| {
                let table = self.target.tables.get(&output.table).filter(|_| self.is_last());
                table.is_none_or(|table| table.column(name).is_some())
            };
            let by_name: Vec<&String> = marks.keys().filter(known).collect();
            for name in by_name {
                next.entry(name.clone()).or_insert_with(|| marks[name].clone());
            }
        }
        if read.is_some() || next.is_empty() {
            let what = match &read {
                Some(_) => "a step reads the mark that the step before sets for a deleted row: that does not compose",
                None => {
                    "a step drops the mark that the step before sets for a deleted row, which would keep the row for \
                         ever: that does not compose"
                }
            };
            let remedy = "copy the mark in this step, or migrate in one step";
            self.refuse("NOT_COMPOSABLE", &flow.table, read.as_deref(), what.into(), remedy.into());
        }
        Some(next)
    }

    /// Rows that follow their key are told apart by it: it has to be the one that they had then.
    fn check_key(&mut self, flow: &Flow, table: &Table) {
        let Some(keyed_at) = flow.keyed_at else { return };
        let late = table.row_key().into_iter().map(|column| &table.columns[column].name).find(|name| {
            matches!(flow.columns.get(*name).map(|held| &held.origin),
                Some(Origin::Computed { step, .. }) if *step > keyed_at)
        });
        if let Some(column) = late {
            let what =
                "rows follow their key in an earlier step, and a later step computes another key: which rows are \
                        the same is not known"
                    .to_owned();
            let remedy = "copy the key in the later step, or migrate in one step".to_owned();
            self.refuse("NOT_COMPOSABLE", &flow.table, Some(column), what, remedy);
        }
    }

    /// Remembers what rows look like in the version that the current step leads to.
    fn between_versions(&mut self, flows: &[Flow]) {
        let version = self.version_after(self.step).to_owned();
        let steps = self.steps;
        let known =
            |table: &TableName, column: &str| declared(steps, &version, table, column).flatten().map(str::to_owned);
        self.between.add(flows, &known);
        for clash in clashes(steps, &version) {
            self.refuse(
                "TYPES_DIFFER",
                &clash.0,
                Some(&clash.1),
                format!("two manifests say different types of a column of version {version}"),
                "correct `types` in one of them".into(),
            );
        }
    }

    fn end(mut self, flows: Vec<Flow>) -> Composed {
        let mut by_table: BTreeMap<TableName, Vec<Flow>> = BTreeMap::new();
        // A table whose rows end on the way keeps a rule, which says so.
        by_table.extend(self.ruled.iter().map(|table| (table.clone(), Vec::new())));
        for flow in flows.into_iter().filter(|flow| flow.by_rule) {
            by_table.entry(flow.source.clone()).or_default().push(flow);
        }
        let mut trails = BTreeMap::new();
        let mut rules = Vec::new();
        for (table, flows) in by_table {
            trails.insert(table.clone(), flows.iter().map(|flow| flow.trail.clone()).collect());
            rules.push(rule_of(table, &flows));
        }
        let direction = self.direction;
        self.between.keep_rules(self.steps.iter().map(|step| step.manifest.rules(direction)));
        let Composer { problems, notes, between, .. } = self;
        Composed { rules, problems, notes, between, trails }
    }
}

fn is_explicit(output: &Output, name: &String) -> bool {
    output.copied.contains_key(name) || output.computed.iter().any(|group| group.to.contains(name))
}
