//! Binding: a manifest and two catalogs become a plan, or every shortfall at once, before the first row moves.

pub mod keyed;
mod output;
mod write;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::catalog::{Catalog, Column, ReplicaIdentity, Table};
use crate::manifest::{self, Direction, Manifest, OnDelete, Write};
use crate::names::TableName;
use crate::plan::keyed::Dependence;
use crate::plan::{Output, Plan, Rule, Source, SourceColumn, Target, fit, order};
use crate::problem::{Blame, Problem};

/// What a plan is made of.
pub struct Binding<'a> {
    /// The rules of one direction; none: every table is copied as it is.
    pub rules: &'a [manifest::Rule],
    /// The artifact's label, for messages; empty without one.
    pub artifact: &'a str,
    /// The side that is read.
    pub source: &'a Catalog,
    /// The side that is written.
    pub target: &'a Catalog,
    /// Only these tables, if any are named.
    pub include: &'a [TableName],
    /// Not these.
    pub exclude: &'a [TableName],
    /// The whole manifest and the direction that `rules` is, for key maps; without it the rules can use none.
    pub manifest: Option<(&'a Manifest, Direction)>,
}

/// Binds rules to catalogs. On failure: every shortfall, each with its table, column and next step.
pub fn bind(binding: &Binding<'_>) -> Result<Plan, Vec<Problem>> {
    let (plan, problems) = bind_what_fits(binding);
    if problems.is_empty() { Ok(plan) } else { Err(problems) }
}

/// The same with a plan of what fits beside the shortfalls: to look for further ones, never to run.
pub fn bind_what_fits(binding: &Binding<'_>) -> (Plan, Vec<Problem>) {
    let mut binder = Binder {
        given: binding,
        problems: Vec::new(),
        targets: Vec::new(),
        target_ids: HashMap::new(),
        writers: HashMap::new(),
        left_out: Vec::new(),
        maps: Vec::new(),
        map_columns: Vec::new(),
    };
    binder.bind_maps();
    let sources = binder.sources();
    let is_mirrored = |source: &Source| source.depends.mirror.is_some() || binder.is_related(&source.name);
    if sources.iter().any(is_mirrored) {
        binder.targets.push(keyed::mirror_target());
    }
    let oids = binding.source.tables.values().map(|table| (table.oid, table.name.clone())).collect();
    let mut plan = Plan {
        sources,
        targets: binder.targets,
        by_name: HashMap::new(),
        oids,
        left_out: binder.left_out,
        maps: binder.maps,
        mirror: None,
        chain: None,
    };
    let mut problems = binder.problems;
    problems.extend(order::parents_first(&mut plan, binding.target));
    plan.by_name = by_name(&plan, binding.source);
    plan.mirror = plan.targets.iter().position(|target| target.name == keyed::mirror_table());
    keyed::resolve_related(&mut plan);
    (plan, problems)
}

fn by_name(plan: &Plan, catalog: &Catalog) -> HashMap<TableName, usize> {
    let own = plan.sources.iter().enumerate().map(|(id, source)| (source.name.clone(), id));
    let mut names: HashMap<TableName, usize> = own.collect();
    for table in catalog.tables.values() {
        if let Some(id) = table.root.as_ref().and_then(|root| names.get(root).copied()) {
            names.insert(table.name.clone(), id);
        }
    }
    names
}

/// Why a table is left out that nothing says a word of.
pub const NO_TARGET: &str = "no rule names it and the target has no table of its name";

struct Binder<'a> {
    given: &'a Binding<'a>,
    problems: Vec<Problem>,
    targets: Vec<Target>,
    target_ids: HashMap<TableName, usize>,
    /// Which source tables' outputs write which column of which target, and how: at most one, or several that ensure or
    /// share.
    writers: HashMap<(TableName, String), Vec<output::Claimant>>,
    left_out: Vec<(TableName, String)>,
    maps: Vec<crate::plan::keyed::Map>,
    /// The source's and the target's key column of each map, where they are there.
    map_columns: Vec<(Option<&'a Column>, Option<&'a Column>)>,
}

/// What is known of the source table while one of its outputs is bound.
struct Frame<'a> {
    table: &'a Table,
    /// The columns that the stream sends.
    columns: Vec<&'a Column>,
    rule: &'a manifest::Rule,
    depends: Dependence,
}

impl<'a> Frame<'a> {
    fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }
}

impl<'a> Binder<'a> {
    fn problem(&mut self, problem: Problem) {
        let problem = match self.given.artifact.is_empty() {
            true => problem,
            false => problem.artifact(self.given.artifact),
        };
        self.problems.push(problem);
    }

    fn sources(&mut self) -> Vec<Source> {
        let given = self.given;
        let mut sources = Vec::new();
        self.check_rules_and_lists();
        let owned = |rule: &'a manifest::Rule| rule.outputs.iter().filter(|output| output.write == Write::Own);
        let by_rules: BTreeSet<&TableName> =
            given.rules.iter().flat_map(|rule| owned(rule).map(|output| &output.table)).collect();
        for table in given.source.tables.values().filter(|table| table.root.is_none()) {
            let rule = given.rules.iter().find(|rule| rule.table == table.name);
            if let Some(reason) = self.reason_to_leave_out(table, rule) {
                self.left_out.push((table.name.clone(), reason));
                continue;
            }
            if rule.is_none() && by_rules.contains(&table.name) {
                self.problem(
                    Problem::refuse(Blame::Artifact, "TWO_OWNERS", "the table has no rule, so it would be copied as it is, but another table's rule writes the table of the same name")
                        .table(&table.name)
                        .remedy("declare a rule for it (one without outputs if its rows stand for nothing), or exclude it in [tables]"),
                );
                continue;
            }
            let as_it_is = match given.target.tables.contains_key(&table.name) {
                true => as_it_is(&table.name),
                // Its rows are only asked for by other rules.
                false => manifest::Rule { outputs: Vec::new(), ..as_it_is(&table.name) },
            };
            if let Some(source) = self.source(table, rule.unwrap_or(&as_it_is), rule.is_some()) {
                sources.push(source);
            }
        }
        sources
    }

    fn check_rules_and_lists(&mut self) {
        let given = self.given;
        let mut seen = BTreeSet::new();
        for rule in given.rules {
            if !seen.insert(&rule.table) {
                self.problem(
                    Problem::refuse(
                        Blame::Artifact,
                        "TWO_RULES",
                        "the manifest has two rules for one table and direction",
                    )
                    .table(&rule.table)
                    .remedy("join them into one rule with several outputs"),
                );
            }
            match given.source.tables.get(&rule.table) {
                None => self.problem(
                    Problem::refuse(Blame::Artifact, "NO_SUCH_TABLE", "the manifest has a rule for a table that the source does not have, or that the role may not see")
                        .table(&rule.table)
                        .remedy("correct the name in the transform, or check schema_version and the role's rights"),
                ),
                Some(Table { root: Some(root), .. }) => self.problem(
                    Problem::refuse(Blame::Artifact, "RULE_FOR_PARTITION", format!("the manifest has a rule for a partition of {root}"))
                        .table(&rule.table)
                        .remedy(format!("declare the rule for {root}")),
                ),
                Some(_) => {}
            }
        }
        for name in given.include.iter().chain(given.exclude) {
            if !given.source.tables.contains_key(name) {
                self.problems.push(
                    Problem::refuse(
                        Blame::Config,
                        "NO_SUCH_TABLE",
                        "[tables] names a table that the source does not have, or that the role may not see",
                    )
                    .table(name)
                    .remedy("correct the name; it is written schema.table"),
                );
            }
        }
    }

    fn reason_to_leave_out(&self, table: &Table, rule: Option<&manifest::Rule>) -> Option<String> {
        let given = self.given;
        if given.exclude.contains(&table.name) {
            return Some("excluded by the configuration".into());
        }
        if !given.include.is_empty() && !given.include.contains(&table.name) {
            return Some("not among the tables that the configuration includes".into());
        }
        if rule.is_none() && table.unlogged {
            return Some("unlogged: nothing of it is ever decoded".into());
        }
        if self.is_related(&table.name) || rule.is_some_and(|rule| !rule.bind.is_empty()) {
            return None;
        }
        if rule.is_none() && !given.target.tables.contains_key(&table.name) {
            return Some(NO_TARGET.into());
        }
        rule.is_some_and(|rule| rule.outputs.is_empty()).then(|| "its rule says that its rows stand for nothing".into())
    }

    fn source(&mut self, table: &'a Table, rule: &manifest::Rule, by_rule: bool) -> Option<Source> {
        let (given, problems_before) = (self.given, self.problems.len());
        let columns: Vec<&Column> = table.columns.iter().filter(|column| !column.generated).collect();
        let mut frame = Frame { table, columns, rule, depends: Dependence::default() };
        frame.depends = self.depends(&frame);
        self.check_full(&frame);
        self.check_identity(table);
        let asked = self.asked(&frame);
        let outputs: Vec<Output> =
            (0..rule.outputs.len()).filter_map(|index| self.output(&frame, index, by_rule)).collect();
        if self.problems.len() > problems_before {
            return None;
        }
        let position = |index: &usize| frame.column(&table.columns[*index].name);
        let refers = outputs.iter().any(|output| {
            let name = &self.targets[output.target].name;
            given
                .target
                .tables
                .get(name)
                .is_some_and(|target| target.foreign_keys.iter().any(|foreign_key| foreign_key.parent == *name))
        });
        let calls_guest = outputs.iter().any(Output::needs_guest);
        Some(Source {
            name: table.name.clone(),
            columns: frame
                .columns
                .iter()
                .map(|column| SourceColumn {
                    name: column.name.clone(),
                    type_oid: column.type_oid,
                    type_modifier: column.type_modifier,
                    type_sql: column.type_sql.clone(),
                    case: fit::case(column.base_oid),
                })
                .collect(),
            generated: if given.source.sends_generated { stored_generated(table) } else { Vec::new() },
            key: table.row_key().iter().filter_map(position).collect(),
            full_identity: table.identity == ReplicaIdentity::Full,
            identity_key: table.identity_key.iter().filter_map(position).collect(),
            copy_level: 0,
            refers_to_itself: refers,
            rule: Rule { guest_table: calls_guest.then(|| rule.table.to_string()), asked, outputs },
            depends: frame.depends,
            size_bytes: table.size_bytes,
            rows_estimate: table.rows_estimate,
        })
    }

    /// Pitfalls 1 and 5: publishing a table without a usable identity breaks the application's own updates at once.
    fn check_identity(&mut self, table: &Table) {
        let none = table.identity == ReplicaIdentity::Nothing;
        let no_key = table.identity != ReplicaIdentity::Full && table.identity_key.is_empty();
        if none || no_key {
            self.problem(
                Problem::refuse(Blame::Source, "NO_REPLICA_IDENTITY", "the table has no usable replica identity: once it is published, the application's own UPDATE and DELETE would fail")
                    .table(&table.name)
                    .remedy(format!(
                        "ALTER TABLE {0} ADD PRIMARY KEY (...); or ALTER TABLE {0} REPLICA IDENTITY FULL; or exclude it in [tables]",
                        table.name.sql()
                    )),
            );
        }
        if table.unlogged {
            self.problem(
                Problem::refuse(Blame::Source, "UNLOGGED", "the table is unlogged: nothing of it is ever decoded")
                    .table(&table.name)
                    .remedy(format!("ALTER TABLE {} SET LOGGED; or exclude it in [tables]", table.name.sql())),
            );
        }
    }

    fn asked(&mut self, frame: &Frame<'_>) -> Vec<(usize, bool)> {
        let mut asked = Vec::new();
        for column in &frame.rule.columns {
            match frame.column(column.name()) {
                Some(position) => asked.push((position, column.as_text())),
                None => self.missing_source_column(frame, column.name()),
            }
        }
        asked
    }

    fn missing_source_column(&mut self, frame: &Frame<'_>, name: &str) {
        let generated = frame.table.columns.iter().any(|column| column.name == name && column.generated);
        let what = match generated {
            true => "the rule reads a generated column, which is never sent",
            false => "the rule reads a column that the source table does not have",
        };
        self.problem(
            Problem::refuse(Blame::Artifact, "NO_SUCH_COLUMN", what)
                .table(&frame.table.name)
                .column(name)
                .remedy("correct the transform, or check that the source has the schema version that it is made for"),
        );
    }
}

/// The rule of a table that no rule names: copied as it is.
fn as_it_is(table: &TableName) -> manifest::Rule {
    manifest::Rule {
        table: table.clone(),
        columns: Vec::new(),
        related: Vec::new(),
        bind: Vec::new(),
        outputs: vec![manifest::Output {
            table: table.clone(),
            write: Write::Own,
            shares: false,
            copied: BTreeMap::new(),
            same_named: true,
            computed: Vec::new(),
            when: None,
            many: false,
            follows: None,
            on_delete: OnDelete::Delete,
            mapped: BTreeMap::new(),
            matching: BTreeMap::new(),
            on_remove: None,
        }],
    }
}

fn stored_generated(table: &Table) -> Vec<String> {
    let stored = table.columns.iter().filter(|column| column.generated && !column.is_virtual);
    stored.map(|column| column.name.clone()).collect()
}
