//! Random rules as data: what a rule says, its function, and the plan that it binds to.

use super::*;

/// The source's columns; the first one is its key.
pub const SOURCE: [&str; 5] = ["id", "c1", "c2", "c3", "c4"];
/// Each target's columns: its key, what is copied, what is computed, and what only green knows.
pub const TARGET: [&str; 12] = ["k", "item", "x0", "x1", "x2", "y0", "y1", "y2", "y3", "y4", "y5", "own"];
pub const ITEMS: u64 = 3;

pub type Cell = Option<String>;
pub type Row = Vec<Cell>;
/// The columns of a target row that are not NULL.
pub type Values = BTreeMap<&'static str, String>;

/// Source columns, and how many columns are computed from them.
pub type Group = (Vec<usize>, usize);
/// Columns of a target.
pub type Columns = Vec<&'static str>;

/// Where the key of an output's row comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyFrom {
    /// Copied.
    Id,
    /// Computed from the first group's inputs.
    Guest,
    /// Copied, with an item of a list that the first group's inputs stand for.
    Items,
}

#[derive(Clone, Debug)]
pub struct Output {
    pub key: KeyFrom,
    /// Target column to source column.
    pub copied: BTreeMap<usize, usize>,
    pub groups: Vec<Group>,
    pub when: Option<Vec<usize>>,
    pub follows_key: bool,
}

/// A rule and its function.
#[derive(Clone, Debug)]
pub struct Spec {
    pub seed: u64,
    pub full_identity: bool,
    /// Whether the function leaves columns unset.
    pub unset: bool,
    pub outputs: Vec<Output>,
}

/// One value that the function computes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    Text(String),
    Null,
    Unset,
}

/// What the function says of some columns.
pub type Answered = Vec<(&'static str, Said)>;

/// What one source row stands for in one output.
#[derive(Clone, Debug)]
pub struct Made {
    pub key: Vec<String>,
    pub copied: Vec<(&'static str, usize, Cell)>,
    /// Inputs, and the columns with their values, without those of the key.
    pub groups: Vec<(Vec<usize>, Answered)>,
}

impl Output {
    /// The computed columns of each group, the key's included.
    pub fn columns(&self) -> Vec<Columns> {
        let mut free = TARGET[5..11].iter().copied();
        let of = |(at, (_, width)): (usize, &Group)| {
            let mut columns: Columns = free.by_ref().take(*width).collect();
            match self.key {
                KeyFrom::Guest if at == 0 => columns.insert(0, "k"),
                KeyFrom::Items if at == 0 => columns.insert(0, "item"),
                _ => {}
            }
            columns
        };
        self.groups.iter().enumerate().map(of).collect()
    }

    pub fn to_json(&self, at: usize) -> serde_json::Value {
        let names = |columns: &[usize]| columns.iter().map(|column| SOURCE[*column]).collect::<Vec<_>>();
        let mut copied: BTreeMap<&str, &str> =
            self.copied.iter().map(|(to, from)| (TARGET[2 + to], SOURCE[*from])).collect();
        if self.key != KeyFrom::Guest {
            copied.insert("k", "id");
        }
        let computed: Vec<_> = self
            .groups
            .iter()
            .zip(self.columns())
            .map(|((from, _), to)| serde_json::json!({ "from": names(from), "to": to }))
            .collect();
        let mut json = serde_json::json!({ "table": format!("t{at}"), "copied": copied, "computed": computed });
        if let Some(when) = &self.when {
            json["when"] = names(when).into();
        }
        match self.key {
            KeyFrom::Items => json["many"] = true.into(),
            _ if self.follows_key => json["follows"] = "key".into(),
            _ => {}
        }
        json
    }
}

impl Spec {
    pub fn rule(&self) -> Rule {
        let outputs: Vec<_> = self.outputs.iter().enumerate().map(|(at, output)| output.to_json(at)).collect();
        serde_json::from_value(serde_json::json!({ "table": "s", "columns": SOURCE, "outputs": outputs })).unwrap()
    }

    pub fn plan(&self) -> Plan {
        let identity = if self.full_identity { ReplicaIdentity::Full } else { ReplicaIdentity::Default };
        let source = Table { identity, identity_key: vec![0], ..table("s", &SOURCE, &[0]) };
        let target = |(at, output): (usize, &Output)| {
            let key: &[usize] = if output.key == KeyFrom::Items { &[0, 1] } else { &[0] };
            table(&format!("t{at}"), &TARGET, key)
        };
        let targets = self.outputs.iter().enumerate().map(target).collect();
        bound(&[self.rule()], vec![source], targets).unwrap_or_else(|problems| panic!("{problems:#?}"))
    }

    pub fn roll(&self, what: (usize, usize, usize), inputs: &[usize], row: &Row) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.seed, what).hash(&mut hasher);
        inputs.iter().for_each(|input| row[*input].hash(&mut hasher));
        hasher.finish()
    }

    pub fn said(&self, what: (usize, usize, usize), inputs: &[usize], row: &Row) -> Said {
        match self.roll(what, inputs, row) % 7 {
            0 => Said::Null,
            1 if self.unset => Said::Unset,
            number => Said::Text(format!("f{number}")),
        }
    }

    /// The rows of one output that a source row stands for: its function.
    pub fn made(&self, at: usize, row: &Row) -> Vec<Made> {
        let output = &self.outputs[at];
        let id = row[0].clone().unwrap();
        if output.when.as_ref().is_some_and(|when| self.roll((at, 99, 0), when, row).is_multiple_of(2)) {
            return Vec::new();
        }
        let keys: Vec<Vec<String>> = match output.key {
            KeyFrom::Id => vec![vec![id]],
            KeyFrom::Guest => vec![vec![format!("{id}-{}", self.roll((at, 98, 0), &output.groups[0].0, row) % 3)]],
            KeyFrom::Items => {
                let list = self.roll((at, 97, 0), &output.groups[0].0, row);
                (0..ITEMS)
                    .filter(|item| (list >> item) & 1 == 1)
                    .map(|item| vec![id.clone(), format!("i{item}")])
                    .collect()
            }
        };
        let make = |key: Vec<String>| {
            let item = key.get(1).map_or(0, |item| usize::from(item.as_bytes()[1]));
            let group = |(number, (from, columns)): (usize, (&Group, Columns))| {
                let said = |(place, column)| (column, self.said((at, number * 10 + place, item), &from.0, row));
                let free = columns.into_iter().filter(|column| !TARGET[..2].contains(column));
                (from.0.clone(), free.enumerate().map(said).collect())
            };
            let copied = output.copied.iter().map(|(to, from)| (TARGET[2 + to], *from, row[*from].clone())).collect();
            let groups = output.groups.iter().zip(output.columns()).enumerate().map(group).collect();
            Made { key, copied, groups }
        };
        keys.into_iter().map(make).collect()
    }

    /// The same as a guest would answer it.
    pub fn answer(&self, plan: &Plan, row: &Row) -> Answer {
        let mut answer = Answer::new();
        for (at, output) in self.outputs.iter().enumerate() {
            if !plan.sources[0].rule.outputs[at].needs_guest() {
                continue;
            }
            for made in self.made(at, row) {
                let mut values = Vec::new();
                for (number, (_, columns)) in made.groups.iter().enumerate() {
                    match output.key {
                        KeyFrom::Guest if number == 0 => values.push(Datum::text(made.key[0].clone())),
                        KeyFrom::Items if number == 0 => values.push(Datum::text(made.key[1].clone())),
                        _ => {}
                    }
                    values.extend(columns.iter().map(|(_, said)| match said {
                        Said::Text(text) => Datum::text(text.clone()),
                        Said::Null => Datum::Null,
                        Said::Unset => Datum::Unset,
                    }));
                }
                answer.push(OutputRow { output: at, values });
            }
        }
        answer
    }
}

pub fn bound(rules: &[Rule], sources: Vec<Table>, targets: Vec<Table>) -> Result<Plan, Vec<Problem>> {
    let (source, target) = (Catalog::from_iter(sources), Catalog::from_iter(targets));
    bind(&Binding {
        rules,
        artifact: "test",
        source: &source,
        target: &target,
        include: &[],
        exclude: &[],
        manifest: None,
    })
}

/// Short values: every one of them is in the log.
pub fn table(name: &str, columns: &[&str], key: &[usize]) -> Table {
    let mut table = Table::of_text(name, columns, key.iter().copied());
    table.columns.iter_mut().for_each(|column| column.toastable = false);
    table
}
