//! Binding: a manifest and two catalogs become a plan, or every shortfall at once, before the first row moves.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::catalog::{Catalog, Column, Identity, ReplicaIdentity, Table};
use crate::change::Datum;
use crate::manifest::{self, Manifest, OnDelete, Write};
use crate::names::{TableName, quote_name};
use crate::plan::{
    Columns, Filling, Group, Output, Plan, Rule, Source, SourceColumn, Target, TargetColumn, fit, order,
};
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
}

/// Parts of the manifest's format that this host knows and does not carry out yet.
pub fn unsupported(manifest: &Manifest, artifact: &str) -> Vec<Problem> {
    let mut found = Vec::new();
    let mut say = |table: Option<&TableName>, part: &str| {
        let problem = Problem::refuse(
            Blame::Artifact,
            "NOT_SUPPORTED",
            format!("the manifest uses {part}, which this release of the host does not carry out"),
        )
        .artifact(artifact)
        .remedy("leave it out of the transform, or use a host that carries it out");
        found.push(match table {
            Some(table) => problem.table(table),
            None => problem,
        });
    };
    if manifest.maps.is_some() {
        say(None, "`maps`");
    }
    for rule in manifest.forward.iter().chain(&manifest.backward) {
        let parts = [(rule.related.is_some(), "`related`"), (rule.bind.is_some(), "`bind`")];
        parts.iter().filter(|(used, _)| *used).for_each(|(_, part)| say(Some(&rule.table), part));
        for output in &rule.outputs {
            let parts = [
                (output.write == Write::Ensure, "`write: ensure`"),
                (output.write == Write::Patch, "`write: patch`"),
                (output.mapped.is_some(), "`mapped`"),
                (output.matching.is_some(), "`match`"),
                (output.on_remove.is_some(), "`on_remove`"),
            ];
            parts.iter().filter(|(used, _)| *used).for_each(|(_, part)| say(Some(&rule.table), part));
        }
    }
    found
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
    };
    let sources = binder.sources();
    let oids = binding.source.tables.values().map(|table| (table.oid, table.name.clone())).collect();
    let mut plan = Plan { sources, targets: binder.targets, by_name: HashMap::new(), oids, left_out: binder.left_out };
    let mut problems = binder.problems;
    problems.extend(order::parents_first(&mut plan, binding.target));
    plan.by_name = by_name(&plan, binding.source);
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

struct Binder<'a> {
    given: &'a Binding<'a>,
    problems: Vec<Problem>,
    targets: Vec<Target>,
    target_ids: HashMap<TableName, usize>,
    /// Which source table's output writes which column of which target: at most one.
    writers: HashMap<(TableName, String), TableName>,
    left_out: Vec<(TableName, String)>,
}

/// What is known of the source table while one of its outputs is bound.
struct Frame<'a> {
    table: &'a Table,
    /// The columns that the stream sends.
    columns: Vec<&'a Column>,
    rule: &'a manifest::Rule,
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
        let by_rules: BTreeSet<&TableName> =
            given.rules.iter().flat_map(|rule| rule.outputs.iter().map(|output| &output.table)).collect();
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
            let as_it_is = as_it_is(&table.name);
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
        if rule.is_none() && !given.target.tables.contains_key(&table.name) {
            return Some("no rule names it and the target has no table of its name".into());
        }
        rule.is_some_and(|rule| rule.outputs.is_empty()).then(|| "its rule says that its rows stand for nothing".into())
    }

    fn source(&mut self, table: &'a Table, rule: &manifest::Rule, by_rule: bool) -> Option<Source> {
        let problems_before = self.problems.len();
        let columns: Vec<&Column> = table.columns.iter().filter(|column| !column.generated).collect();
        let frame = Frame { table, columns, rule };
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
            self.given
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
            key: table.row_key().iter().filter_map(position).collect(),
            full_identity: table.identity == ReplicaIdentity::Full,
            identity_key: table.identity_key.iter().filter_map(position).collect(),
            copy_level: 0,
            refers_to_itself: refers,
            rule: Rule { guest_table: calls_guest.then(|| rule.table.to_string()), asked, outputs },
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

    fn output(&mut self, frame: &Frame<'_>, index: usize, by_rule: bool) -> Option<Output> {
        let given = self.given;
        let declared = &frame.rule.outputs[index];
        let Some(target) = given.target.tables.get(&declared.table) else {
            self.problem(
                Problem::refuse(
                    Blame::Target,
                    "NO_SUCH_TABLE",
                    format!("the target does not have the table {}, or the role may not see it", declared.table),
                )
                .table(&frame.table.name)
                .remedy("create the target's schema before the migration starts, or grant the role its rights"),
            );
            return None;
        };
        let key = target.row_key();
        if key.is_empty() {
            self.problem(
                Problem::refuse(Blame::Target, "NO_KEY", "the target table has no key by which a row could be found")
                    .table(&target.name)
                    .remedy(format!("ALTER TABLE {} ADD PRIMARY KEY (...)", target.name.sql())),
            );
            return None;
        }
        let (fillings, computed, groups) = self.fillings(frame, declared, target, by_rule);
        self.claim(frame, target, fillings.keys());
        self.check_not_null(target, &fillings);
        let target_id = self.target_id(target);
        let mut key: Vec<u16> = key.iter().map(|column| *column as u16).collect();
        key.sort_unstable();
        let mut key_fillings = Vec::new();
        for column in &key {
            match fillings.get(column) {
                Some(filling) => key_fillings.push(*filling),
                None => self.problem(
                    Problem::refuse(
                        Blame::Artifact,
                        "KEY_NOT_FILLED",
                        "no copied and no computed column fills a column of the target's key",
                    )
                    .table(&target.name)
                    .column(&target.columns[usize::from(*column)].name)
                    .remedy("copy or compute every column of the target table's key"),
                ),
            }
        }
        let when = self.inputs(frame, declared.when.as_deref());
        let on_delete_set = self.soft_delete(declared, target, &key);
        if declared.many && declared.follows == Some(manifest::Follows::Source) {
            self.problem(
                Problem::refuse(
                    Blame::Artifact,
                    "MANY_FOLLOWS_KEY",
                    "an output with `many` cannot follow its source row: its rows are paired by key",
                )
                .table(&target.name)
                .remedy("leave `follows` out, or set it to key"),
            );
        }
        let output = Output {
            target: target_id,
            copied: fillings
                .iter()
                .filter_map(|(column, filling)| match filling {
                    Filling::Copied(source) => Some((*source, *column)),
                    Filling::Computed(_) => None,
                })
                .collect(),
            groups,
            computed,
            columns: fillings.keys().copied().collect::<Vec<u16>>().as_slice().into(),
            filled_by: fillings.values().copied().collect(),
            key: key_fillings,
            when,
            many: declared.many,
            follows_source: !declared.many && declared.follows != Some(manifest::Follows::Key),
            on_delete_set,
        };
        self.check_old_values(frame, &output);
        Some(output)
    }

    /// Target column to where it comes from; the computed columns in the guest's order; the groups.
    fn fillings(
        &mut self,
        frame: &Frame<'_>,
        declared: &manifest::Output,
        target: &Table,
        by_rule: bool,
    ) -> (BTreeMap<u16, Filling>, Vec<u16>, Vec<Group>) {
        let mut fillings = BTreeMap::new();
        let mut computed = Vec::new();
        let mut groups = Vec::new();
        for group in &declared.computed {
            let from = self.inputs(frame, Some(&group.from)).unwrap_or_default();
            let start = computed.len();
            for name in &group.to {
                if let Some(column) = self.writable(target, name) {
                    if fillings.insert(column, Filling::Computed(computed.len())).is_some() {
                        self.written_twice(target, name);
                    }
                    computed.push(column);
                }
            }
            groups.push(Group { from, values: start..computed.len() });
        }
        for (name, source_name) in &declared.copied {
            let Some(column) = self.writable(target, name) else { continue };
            let Some(source) = frame.column(source_name) else {
                self.missing_source_column(frame, source_name);
                continue;
            };
            if fillings.insert(column, Filling::Copied(source)).is_some() {
                self.written_twice(target, name);
            }
            self.check_fit(frame, source, target, column, by_rule);
        }
        if declared.same_named {
            for (source, from) in frame.columns.iter().enumerate() {
                let Some(column) = target.column(&from.name).map(|column| column as u16) else {
                    if !by_rule {
                        self.problem(
                            Problem::refuse(Blame::Target, "NO_SUCH_COLUMN", "the table is copied as it is, but the target's table lacks a column")
                                .table(&target.name)
                                .column(&from.name)
                                .remedy("add the column to the target, declare a rule for the table, or exclude the table in [tables]"),
                        );
                    }
                    continue;
                };
                let taken = fillings.contains_key(&column);
                if taken || target.columns[usize::from(column)].generated {
                    continue;
                }
                fillings.insert(column, Filling::Copied(source));
                self.check_fit(frame, source, target, column, by_rule);
            }
        }
        (fillings, computed, groups)
    }

    fn written_twice(&mut self, target: &Table, column: &str) {
        self.problem(
            Problem::refuse(Blame::Artifact, "TWO_WRITERS", "one output writes the column twice")
                .table(&target.name)
                .column(column)
                .remedy("name it once, in `copied` or in one computed group"),
        );
    }

    fn writable(&mut self, target: &Table, name: &str) -> Option<u16> {
        let what = match target.column(name) {
            Some(column) if !target.columns[column].generated => return Some(column as u16),
            Some(_) => "the rule writes a generated column, which the database computes itself",
            None => "the rule writes a column that the target table does not have",
        };
        self.problem(
            Problem::refuse(Blame::Artifact, "NO_SUCH_COLUMN", what)
                .table(&target.name)
                .column(name)
                .remedy("correct the transform, or check that the target has the schema version that it is made for"),
        );
        None
    }

    fn check_fit(&mut self, frame: &Frame<'_>, source: usize, target: &Table, column: u16, by_rule: bool) {
        let to = &target.columns[usize::from(column)];
        if let Some(why) = fit::misfit(frame.columns[source], to) {
            let remedy = match by_rule {
                true => "compute the column in the transform, or change its type in the target",
                false => "declare a rule for the table that computes the column, or change its type in the target",
            };
            self.problem(
                Problem::refuse(
                    Blame::Artifact,
                    "TYPE_MISFIT",
                    format!("the column cannot be copied from {}: {why}", frame.columns[source].name),
                )
                .table(&target.name)
                .column(&to.name)
                .remedy(remedy),
            );
        }
    }

    /// Counter-example 6: two outputs that write one column of one table are refused.
    fn claim<'k>(&mut self, frame: &Frame<'_>, target: &Table, columns: impl Iterator<Item = &'k u16>) {
        let mut others = BTreeSet::new();
        for column in columns {
            let place = (target.name.clone(), target.columns[usize::from(*column)].name.clone());
            if let Some(other) = self.writers.insert(place, frame.table.name.clone()) {
                others.insert(other);
            }
        }
        for other in others {
            self.problem(
                Problem::refuse(
                    Blame::Artifact,
                    "TWO_OWNERS",
                    format!("rows of {other} and of {} would both write the same columns of it", frame.table.name),
                )
                .table(&target.name)
                .remedy(
                    "let one source table own the target's rows; merging two owners into one table is not supported",
                ),
            );
        }
    }

    fn check_not_null(&mut self, target: &Table, fillings: &BTreeMap<u16, Filling>) {
        for (position, column) in target.columns.iter().enumerate() {
            let filled = fillings.contains_key(&(position as u16)) || column.has_default || column.generated;
            if column.not_null && !filled && column.identity == Identity::No {
                self.problem(
                    Problem::refuse(
                        Blame::Target,
                        "NOT_NULL_UNFILLED",
                        "the column refuses NULL, has no default, and nothing fills it",
                    )
                    .table(&target.name)
                    .column(&column.name)
                    .remedy(format!(
                        "ALTER TABLE {} ALTER COLUMN {} SET DEFAULT ...; or compute it in the transform",
                        target.name.sql(),
                        quote_name(&column.name)
                    )),
                );
            }
        }
    }

    /// Source positions of a rule's inputs, each of which the guest must be handed.
    fn inputs(&mut self, frame: &Frame<'_>, names: Option<&[String]>) -> Option<Vec<usize>> {
        let mut positions = Vec::new();
        for name in names? {
            let asked = frame.rule.columns.iter().any(|column| column.name() == name);
            match frame.column(name) {
                Some(position) if asked => positions.push(position),
                Some(_) => self.problem(
                    Problem::refuse(
                        Blame::Artifact,
                        "INPUT_NOT_ASKED",
                        "an output depends on a column that the rule does not hand to the guest",
                    )
                    .table(&frame.table.name)
                    .column(name)
                    .remedy("add it to the rule's `columns`"),
                ),
                None => self.missing_source_column(frame, name),
            }
        }
        Some(positions)
    }

    fn soft_delete(&mut self, declared: &manifest::Output, target: &Table, key: &[u16]) -> Option<Vec<(u16, Datum)>> {
        let OnDelete::Set(set) = &declared.on_delete else { return None };
        let mut columns = BTreeMap::new();
        for (name, value) in set {
            match self.writable(target, name) {
                Some(column) if !key.contains(&column) && !declared.many => {
                    columns.insert(column, value.clone().map_or(Datum::Null, Datum::text));
                }
                Some(_) => self.problem(
                    Problem::refuse(
                        Blame::Artifact,
                        "SOFT_DELETE",
                        "`on_delete: set` cannot change a key and does not go with `many`",
                    )
                    .table(&target.name)
                    .column(name)
                    .remedy("set another column"),
                ),
                None => {}
            }
        }
        Some(columns.into_iter().collect())
    }

    /// Whether the output can be carried out with what the table's replica identity sends.
    fn check_old_values(&mut self, frame: &Frame<'_>, output: &Output) {
        let table = frame.table;
        if table.identity == ReplicaIdentity::Full {
            return;
        }
        let in_identity = |source: usize| {
            table.identity_key.iter().any(|column| table.columns[*column].name == frame.columns[source].name)
        };
        let toastable = |source: &usize| frame.columns[*source].toastable && !in_identity(*source);
        let why = if output.when.is_some() {
            "an output exists only for some rows (`when`)"
        } else if output.many {
            "an output stands for many rows"
        } else if output.key.iter().any(|part| !matches!(part, Filling::Copied(source) if in_identity(*source))) {
            "the target's key does not come from the columns of the replica identity"
        } else if output.groups.iter().flat_map(|group| &group.from).any(toastable) {
            "a computed column reads a value that may be stored out of line, which an update does not repeat"
        } else {
            return;
        };
        self.problem(
            Problem::refuse(
                Blame::Source,
                "NEEDS_FULL_IDENTITY",
                format!("the rule needs old values that the table's replica identity does not send: {why}"),
            )
            .table(&table.name)
            .remedy(format!("SET lock_timeout = '2s'; ALTER TABLE {} REPLICA IDENTITY FULL;", table.name.sql())),
        );
    }

    fn target_id(&mut self, table: &Table) -> usize {
        if let Some(id) = self.target_ids.get(&table.name) {
            return *id;
        }
        let set = |columns: &[usize]| -> Columns {
            let mut columns: Vec<u16> = columns.iter().map(|column| *column as u16).collect();
            columns.sort_unstable();
            columns.as_slice().into()
        };
        let key = set(&table.row_key());
        let uniques = table.uniques.iter().filter(|unique| !unique.deferrable).map(|unique| set(&unique.touches));
        self.targets.push(Target {
            name: table.name.clone(),
            columns: table.columns.iter().map(target_column).collect(),
            uniques: uniques.filter(|unique| *unique != key).collect(),
            key,
            cascades: table.foreign_keys.iter().any(|foreign_key| foreign_key.on_delete == 'c'),
            identity_always: table.columns.iter().any(|column| column.identity == Identity::Always),
        });
        self.target_ids.insert(table.name.clone(), self.targets.len() - 1);
        self.targets.len() - 1
    }
}

fn target_column(column: &Column) -> TargetColumn {
    TargetColumn {
        name: column.name.clone(),
        type_sql: column.type_sql.clone(),
        // Beneath a domain: a domain with a modifier would cut values short inside the cast.
        cast_sql: column.base_sql.clone(),
        base_oid: column.base_oid,
        case: fit::case(column.base_oid),
        generated: column.generated,
    }
}

/// The rule of a table that no rule names: copied as it is.
fn as_it_is(table: &TableName) -> manifest::Rule {
    manifest::Rule {
        table: table.clone(),
        columns: Vec::new(),
        related: None,
        bind: None,
        outputs: vec![manifest::Output {
            table: table.clone(),
            write: Write::Own,
            copied: BTreeMap::new(),
            same_named: true,
            computed: Vec::new(),
            when: None,
            many: false,
            follows: None,
            on_delete: OnDelete::Delete,
            mapped: None,
            matching: None,
            on_remove: None,
        }],
    }
}
