//! A step, its rules and their outputs: where names become positions, once.
//!
//! It must never let a position out: authors see names, the host sees what `manifest` writes from the same declaration.

#![forbid(unsafe_code)]

use crate::keyed::{Creates, Map, Mapped, Matched, Related, RelatedTable};
use crate::manifest::{self, TableName};
use crate::row::{Answer, Answers, Row};
use crate::wire::{InputRow, OutputRow, Rejection, Value};

/// The way a transform is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From blue, the older schema, to green.
    Forward,
    /// From green to blue.
    Backward,
}

/// This row cannot be transformed: the host stops there and names the code, never the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    /// The source column at fault.
    pub column: Option<String>,
    /// A short, constant name of the reason. It is printed and counted: never put a value in it.
    pub code: String,
    /// For a person; may hold values of the row.
    pub message: String,
}

impl Reject {
    /// A rejection. `code` is constant, such as `not_finite`.
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Reject { column: None, code: code.into(), message: message.into() }
    }

    /// Names the source column at fault. It must be one that the rule reads.
    pub fn column(mut self, column: &str) -> Self {
        self.column = Some(column.into());
        self
    }
}

/// The related rows of one row: a list for each related table of the rule.
pub(crate) type RelatedRows = [Vec<Vec<Value>>];

/// A boxed function from a rule's values to the values of one group; `Ok` holds one list for each row.
type Compute = Box<dyn Fn(&mut dyn Iterator<Item = Value>, &RelatedRows) -> Result<Vec<Vec<Value>>, Reject>>;
type Decide = Box<dyn Fn(&mut dyn Iterator<Item = Value>) -> Result<bool, Reject>>;

/// What a function reads: names as declared, positions once the rule is known.
pub(crate) struct Inputs {
    pub(crate) columns: &'static [(&'static str, bool)],
    positions: Vec<usize>,
    sequence: usize,
}

impl Inputs {
    fn of<I: Row>() -> Self {
        Inputs { columns: I::COLUMNS, positions: Vec::new(), sequence: 0 }
    }
}

pub(crate) struct Group {
    pub(crate) inputs: Inputs,
    pub(crate) to: &'static [(&'static str, bool)],
    pub(crate) related: Option<usize>,
    pub(crate) lossy: bool,
    compute: Compute,
}

pub(crate) struct When {
    pub(crate) inputs: Inputs,
    decide: Decide,
}

/// One target row that a source row stands for (or, with [`many`](Output::many), any number).
pub struct Output {
    pub(crate) table: TableName,
    pub(crate) copied: Vec<(String, String)>,
    pub(crate) same_named: bool,
    pub(crate) groups: Vec<Group>,
    pub(crate) when: Option<When>,
    pub(crate) many: bool,
    pub(crate) shares: bool,
    pub(crate) follows: Option<&'static str>,
    pub(crate) on_delete: Vec<(String, Option<String>)>,
    pub(crate) write: Option<&'static str>,
    pub(crate) matching: Vec<(String, Matched)>,
    pub(crate) mapped: Vec<(String, Mapped)>,
    pub(crate) on_remove: Option<&'static str>,
    faults: Vec<String>,
}

fn reading<I: Row>(values: &mut dyn Iterator<Item = Value>) -> Result<I, Reject> {
    I::take(values).map_err(|(column, wrong)| {
        Reject::new(wrong.code, format!("the transform declares {}", wrong.expected)).column(column)
    })
}

fn written<A: Answers>(answer: A) -> Result<Vec<Vec<Value>>, Reject> {
    let values = |row: A::Row| {
        let mut values = Vec::with_capacity(A::Row::COLUMNS.len());
        row.give(&mut values);
        values
    };
    Ok(answer.rows()?.into_iter().map(values).collect())
}

impl Output {
    fn new(table: &str) -> Self {
        Output {
            table: TableName::parse(table),
            copied: Vec::new(),
            same_named: false,
            groups: Vec::new(),
            when: None,
            many: false,
            shares: false,
            follows: None,
            on_delete: Vec::new(),
            write: None,
            matching: Vec::new(),
            mapped: Vec::new(),
            on_remove: None,
            faults: Vec::new(),
        }
    }

    /// The host copies `source_column` into `target_column`; the transform never sees the value. The types must be equal
    /// or the assignment without loss.
    pub fn copied(mut self, target_column: &str, source_column: &str) -> Self {
        self.copied.push((target_column.into(), source_column.into()));
        self
    }

    /// The host also copies every other column that both tables have under one name.
    pub fn same_named(mut self) -> Self {
        self.same_named = true;
        self
    }

    /// Computes columns: a group. The fields of the function's argument are the columns it depends on, the fields of its
    /// answer the columns it fills. When one of the former changes, all of the latter are written, together.
    pub fn computed<I, A>(self, function: impl Fn(I) -> A + 'static) -> Self
    where
        I: Row + 'static,
        A: Answers<Rows = std::iter::Once<<A as Answers>::Row>> + 'static,
    {
        self.group(function, false)
    }

    /// Like [`computed`](Output::computed), for columns from which the way back cannot restore everything: comparisons
    /// of the two sides leave the group out and count it.
    pub fn lossy<I, A>(self, function: impl Fn(I) -> A + 'static) -> Self
    where
        I: Row + 'static,
        A: Answers<Rows = std::iter::Once<<A as Answers>::Row>> + 'static,
    {
        self.group(function, true)
    }

    /// One source row stands for any number of rows: the function answers a `Vec`. The rows are told apart by the
    /// target's key, so no two of them may have the same. An output has one such function and no other group.
    pub fn many<I, A>(mut self, function: impl Fn(I) -> A + 'static) -> Self
    where
        I: Row + 'static,
        A: Answers<Rows = Vec<<A as Answers>::Row>> + 'static,
    {
        self.many = true;
        self.group(function, false)
    }

    fn group<I: Row + 'static, A: Answers + 'static>(
        mut self,
        function: impl Fn(I) -> A + 'static,
        lossy: bool,
    ) -> Self {
        let compute: Compute = Box::new(move |values, _| written(function(reading::<I>(values)?)));
        self.groups.push(Group { inputs: Inputs::of::<I>(), to: A::Row::COLUMNS, related: None, lossy, compute });
        self
    }

    /// Computes columns from the row and from related rows ([`Rule::related`]). The group is also written when one of
    /// those changes.
    pub fn computed_with<I, R, A>(mut self, related: Related<R>, function: impl Fn(I, Vec<R>) -> A + 'static) -> Self
    where
        I: Row + 'static,
        R: Row + 'static,
        A: Answers<Rows = std::iter::Once<<A as Answers>::Row>> + 'static,
    {
        let number = related.number;
        let compute: Compute = Box::new(move |values, related| {
            let rows = related.get(number).map(Vec::as_slice).unwrap_or_default();
            // A wrong value of another table has no column of this one to blame.
            let read = |row: &Vec<Value>| {
                R::take(&mut row.iter().cloned())
                    .map_err(|(_, wrong)| Reject::new(wrong.code, format!("the transform declares {}", wrong.expected)))
            };
            let rows = rows.iter().map(read).collect::<Result<Vec<R>, Reject>>()?;
            written(function(reading::<I>(values)?, rows))
        });
        let to = A::Row::COLUMNS;
        self.groups.push(Group { inputs: Inputs::of::<I>(), to, related: Some(number), lossy: false, compute });
        self
    }

    /// The row is implied by several source rows: it is inserted unless it is there, and left alone from then on.
    pub fn ensure(mut self) -> Self {
        self.write = Some("ensure");
        self
    }

    /// Outputs of other source tables write other rows of the same table, and say so as well. A row still has one owner:
    /// two source rows that claim one key stop the link. A row that leaves one of the source tables and enters another
    /// in one transaction is the same row, and keeps the columns that no rule fills.
    pub fn shares(mut self) -> Self {
        self.shares = true;
        self
    }

    /// Sets columns of a row that others own: the one whose key is found in these columns, target column to source
    /// column. There must be such a row.
    pub fn patch<'a, M: Into<Matched>>(mut self, key: impl IntoIterator<Item = (&'a str, M)>) -> Self {
        self.write = Some("patch");
        self.matching.extend(key.into_iter().map(|(column, from)| (column.to_owned(), from.into())));
        self
    }

    /// The columns of a patch become NULL when its source row goes or stands for another row. Otherwise they are kept.
    pub fn on_remove_null(mut self) -> Self {
        self.on_remove = Some("null");
        self
    }

    /// Fills a column with the key that a map pairs with the value of a source column: `.mapped("cart_id",
    /// cart.of("customer_id"))`. Without a partner the row does not exist yet.
    pub fn mapped(mut self, target_column: &str, through: Mapped) -> Self {
        self.mapped.push((target_column.into(), through));
        self
    }

    /// The row exists only if the function says so. It comes, goes and moves between tables as the answer changes.
    pub fn when<I: Row + 'static, A: Answer<bool> + 'static>(mut self, function: impl Fn(I) -> A + 'static) -> Self {
        let decide: Decide = Box::new(move |values| function(reading::<I>(values)?).answer());
        if self.when.replace(When { inputs: Inputs::of::<I>(), decide }).is_some() {
            self.faults.push("has `when` twice".into());
        }
        self
    }

    /// When the key changes, the row is another row: the old one goes, the new one starts with defaults. The default
    /// for `many`.
    pub fn follows_key(mut self) -> Self {
        self.follows = Some("key");
        self
    }

    /// When the key changes, it is still the same row, and keeps the columns that the transform does not fill. The
    /// default except for `many`.
    pub fn follows_source(mut self) -> Self {
        self.follows = Some("source");
        self
    }

    /// When the source row is deleted, the target row stays and these columns are set to these values (PostgreSQL's
    /// text form, `None` for NULL).
    pub fn on_delete_set<'a>(mut self, columns: impl IntoIterator<Item = (&'a str, Option<&'a str>)>) -> Self {
        let owned = columns.into_iter().map(|(column, value)| (column.to_owned(), value.map(str::to_owned)));
        self.on_delete.extend(owned);
        self
    }

    /// Whether the host has to ask for this output's rows.
    pub(crate) fn needs_code(&self) -> bool {
        self.when.is_some() || !self.groups.is_empty()
    }

    fn check(&self, faults: &mut Vec<String>, place: &str) {
        let mut filled: Vec<&str> = self.copied.iter().map(|(target, _)| target.as_str()).collect();
        filled.extend(self.mapped.iter().map(|(target, _)| target.as_str()));
        filled.extend(self.groups.iter().flat_map(|group| group.to).map(|(column, _)| *column));
        filled.sort_unstable();
        for pair in filled.windows(2).filter(|pair| pair[0] == pair[1]) {
            faults.push(format!("{place}: column {} is filled twice", pair[0]));
        }
        if self.many && self.groups.len() > 1 {
            faults.push(format!("{place}: `many` is its output's only function"));
        }
        if self.groups.iter().any(|group| group.to.is_empty()) {
            faults.push(format!("{place}: a computing function answers a row without columns"));
        }
        if self.write.is_some() && self.many {
            faults.push(format!("{place}: `many` goes with rows of its own only"));
        }
        if self.shares && (self.write.is_some() || self.many || !self.on_delete.is_empty()) {
            faults.push(format!("{place}: `shares` goes with plain rows of its own only"));
        }
        if self.on_remove.is_some() && self.write != Some("patch") {
            faults.push(format!("{place}: `on_remove_null` goes with `patch` only"));
        }
        faults.extend(self.faults.iter().map(|fault| format!("{place} {fault}")));
    }
}

/// What the rows of one source table stand for.
pub struct Rule {
    pub(crate) table: TableName,
    pub(crate) columns: Vec<(&'static str, bool)>,
    pub(crate) outputs: Vec<Output>,
    pub(crate) binds: Vec<(Map, String, String)>,
    pub(crate) related: Vec<RelatedTable>,
    /// For each column the sequence number of the function that reads it last: that one gets the value itself.
    last_use: Vec<usize>,
    functions: usize,
    faults: Vec<String>,
}

impl Rule {
    /// Adds an output: a target table, and what its rows are made of.
    pub fn output(&mut self, table: &str, build: impl FnOnce(Output) -> Output) -> &mut Self {
        let mut output = build(Output::new(table));
        let place = format!("{} to {}", self.table.plain(), output.table.plain());
        output.check(&mut self.faults, &place);
        if let Some(when) = &mut output.when {
            self.resolve(&mut when.inputs, &place);
        }
        for group in &mut output.groups {
            self.resolve(&mut group.inputs, &place);
        }
        self.outputs.push(output);
        self
    }

    /// Two columns of the table are a pair of a map wherever both are not NULL. A new pair replaces the old ones of both
    /// keys, and the rows that were mapped through those follow.
    pub fn bind(&mut self, map: Map, blue_key: &str, green_key: &str) -> &mut Self {
        self.binds.push((map, blue_key.into(), green_key.into()));
        self
    }

    /// Rows of another table of the same side, found by equal columns (column of this table, column of the other), as
    /// they were when the row changed. The fields of `R` are the columns that are handed over. To be given to
    /// [`Output::computed_with`].
    pub fn related<'a, R: Row>(&mut self, table: &str, on: impl IntoIterator<Item = (&'a str, &'a str)>) -> Related<R> {
        let on = on.into_iter().map(|(own, other)| (own.to_owned(), other.to_owned())).collect();
        self.related.push(RelatedTable { table: TableName::parse(table), on, columns: R::COLUMNS });
        Related { number: self.related.len() - 1, row: std::marker::PhantomData }
    }

    fn resolve(&mut self, inputs: &mut Inputs, place: &str) {
        inputs.sequence = self.functions;
        self.functions += 1;
        for &(name, as_text) in inputs.columns {
            let position = match self.columns.iter().position(|(column, _)| *column == name) {
                Some(position) => position,
                None => {
                    self.columns.push((name, as_text));
                    self.last_use.push(0);
                    self.columns.len() - 1
                }
            };
            if self.columns[position].1 != as_text {
                self.faults.push(format!("{place}: column {name} is read both as Text and by its type; choose one"));
            }
            if inputs.positions.contains(&position) {
                self.faults.push(format!("{place}: one struct reads column {name} twice"));
            }
            self.last_use[position] = inputs.sequence;
            inputs.positions.push(position);
        }
    }

    fn gather<'a>(&'a self, inputs: &'a Inputs, values: &'a mut [Value]) -> impl Iterator<Item = Value> + 'a {
        inputs.positions.iter().map(move |&position| match self.last_use[position] == inputs.sequence {
            true => std::mem::replace(&mut values[position], Value::Null),
            false => values[position].clone(),
        })
    }

    /// The output rows of one source row.
    pub(crate) fn row(&self, mut values: Vec<Value>, related: &RelatedRows) -> Result<Vec<OutputRow>, Reject> {
        let mut rows = Vec::with_capacity(self.outputs.len());
        for (position, output) in self.outputs.iter().enumerate().filter(|(_, output)| output.needs_code()) {
            if let Some(when) = &output.when
                && !(when.decide)(&mut self.gather(&when.inputs, &mut values))?
            {
                continue;
            }
            let output_position = position as u32;
            if output.many {
                let group = &output.groups[0];
                let many = (group.compute)(&mut self.gather(&group.inputs, &mut values), related)?;
                rows.extend(many.into_iter().map(|values| OutputRow { output: output_position, values }));
                continue;
            }
            let mut computed = Vec::new();
            for group in &output.groups {
                let one = (group.compute)(&mut self.gather(&group.inputs, &mut values), related)?;
                computed.extend(one.into_iter().flatten());
            }
            rows.push(OutputRow { output: output_position, values: computed });
        }
        Ok(rows)
    }

    fn rejection(&self, reject: Reject) -> Rejection {
        let named = |name: String| self.columns.iter().position(|(column, _)| *column == name);
        Rejection {
            column: reject.column.and_then(named).map(|position| position as u32),
            code: reject.code,
            message: reject.message,
        }
    }
}

/// One version step of an application's schema, both directions.
pub struct Step {
    pub(crate) name: String,
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) maps: Vec<(Map, String, String, Creates)>,
    /// Version, table, column, and its type; none: the version does not have it.
    pub(crate) types: Vec<(String, TableName, String, Option<String>)>,
    pub(crate) forward: Vec<Rule>,
    pub(crate) backward: Vec<Rule>,
}

impl Step {
    /// A step of the application `name` from the older schema version to the newer one.
    pub fn new(name: &str, from: &str, to: &str) -> Self {
        Step {
            name: name.into(),
            from: from.into(),
            to: to.into(),
            maps: Vec::new(),
            types: Vec::new(),
            forward: Vec::new(),
            backward: Vec::new(),
        }
    }

    /// Declares a key map: pairs of blue's key in `blue` and green's key in `green` (`table.column`), and whose missing
    /// keys the host may make from the column's own default.
    pub fn map(&mut self, name: &'static str, blue: &str, green: &str, creates: Creates) -> Map {
        self.maps.push((Map(name), blue.into(), green.into(), creates));
        Map(name)
    }

    /// Says types, as SQL, of columns of a version. Needed where steps run one after the other and no database holds the
    /// version between them: for columns that one step computes and the other reads. For an enum say `text`.
    pub fn types<'a>(&mut self, version: &str, table: &str, columns: impl IntoIterator<Item = (&'a str, &'a str)>) {
        let table = TableName::parse(table);
        let columns = columns.into_iter();
        self.types.extend(columns.map(|(column, type_sql)| {
            (version.to_owned(), table.clone(), column.to_owned(), Some(type_sql.to_owned()))
        }));
    }

    /// Says that a version does not have a column, although the versions on either side of it do.
    pub fn lacks(&mut self, version: &str, table: &str, column: &str) {
        self.types.push((version.to_owned(), TableName::parse(table), column.to_owned(), None));
    }

    /// The rule for a table of blue. Called once for each table; a rule without outputs says that the table's rows stand
    /// for nothing on the other side. A table without a rule is copied as it is.
    pub fn forward(&mut self, table: &str) -> &mut Rule {
        add(&mut self.forward, table)
    }

    /// The rule for a table of green.
    pub fn backward(&mut self, table: &str) -> &mut Rule {
        add(&mut self.backward, table)
    }

    pub(crate) fn rules(&self, direction: Direction) -> &[Rule] {
        match direction {
            Direction::Forward => &self.forward,
            Direction::Backward => &self.backward,
        }
    }

    pub(crate) fn rule(&self, direction: Direction, table: &str) -> Option<&Rule> {
        let name = TableName::parse(table);
        self.rules(direction).iter().find(|rule| rule.table == name)
    }

    /// Whether the declaration is consistent in itself. One test of each transform should call it; in WebAssembly an
    /// inconsistent step cannot say why it traps.
    pub fn check(&self) -> Result<(), String> {
        let mut faults = Vec::new();
        for (position, (map, ..)) in self.maps.iter().enumerate() {
            if self.maps[..position].iter().any(|(other, ..)| other == map) {
                faults.push(format!("the map {} is declared twice", map.0));
            }
        }
        for rules in [&self.forward, &self.backward] {
            for (position, rule) in rules.iter().enumerate() {
                faults.extend(rule.faults.iter().cloned());
                if rules[..position].iter().any(|other| other.table == rule.table) {
                    faults.push(format!("{} has two rules for one direction", rule.table.plain()));
                }
            }
        }
        match faults.is_empty() {
            true => Ok(()),
            false => Err(faults.join("; ")),
        }
    }

    /// The manifest as JSON.
    ///
    /// # Panics
    /// If [`check`](Step::check) finds a fault.
    pub fn manifest(&self) -> String {
        if let Err(faults) = self.check() {
            panic!("the step is inconsistent: {faults}");
        }
        manifest::json(self).to_string()
    }

    /// What the exported functions do: one result for each row.
    ///
    /// # Panics
    /// If there is no rule for the table.
    pub fn call(
        &self,
        direction: Direction,
        table: &str,
        rows: Vec<InputRow>,
    ) -> Vec<Result<Vec<OutputRow>, Rejection>> {
        let Some(rule) = self.rule(direction, table) else { panic!("there is no rule for table {table}") };
        rows.into_iter()
            .map(|row| rule.row(row.values, &row.related).map_err(|reject| rule.rejection(reject)))
            .collect()
    }
}

fn add<'a>(rules: &'a mut Vec<Rule>, table: &str) -> &'a mut Rule {
    let position = rules.len();
    rules.push(Rule {
        table: TableName::parse(table),
        columns: Vec::new(),
        outputs: Vec::new(),
        binds: Vec::new(),
        related: Vec::new(),
        last_use: Vec::new(),
        functions: 0,
        faults: Vec::new(),
    });
    &mut rules[position]
}
