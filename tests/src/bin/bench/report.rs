//! The figures as a table for people and as JSON for programs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::Wish;
use crate::ground::Outcome;

/// One figure: what each run of each side measured.
pub struct Figure {
    name: String,
    what: String,
    unit: &'static str,
    /// For a time: how many of what were done in it.
    amount: Option<(u64, &'static str)>,
    /// Whether a smaller number is the better one.
    smaller_is_better: bool,
    /// PostgreSQL's own replication, or the same work without Falkirk.
    pub native: Vec<f64>,
    /// Falkirk.
    pub falkirk: Vec<f64>,
    notes: BTreeMap<&'static str, Vec<f64>>,
    /// How many times native's speed is asked for.
    wanted: Option<f64>,
}

impl Figure {
    /// A time in seconds; `amount` makes a rate of it.
    pub fn seconds(name: &str, what: &str, amount: Option<(u64, &'static str)>) -> Figure {
        Figure::new(name, what, "s", amount, true)
    }

    /// A time in milliseconds.
    pub fn milliseconds(name: &str, what: &str) -> Figure {
        Figure::new(name, what, "ms", None, true)
    }

    /// A rate.
    pub fn rate(name: &str, what: &str, unit: &'static str) -> Figure {
        Figure::new(name, what, unit, None, false)
    }

    /// A figure that this run cannot give, and what would give it.
    pub fn not_measured(name: &str, why: &str) -> Figure {
        Figure::rate(name, &format!("not measured: {why}"), "/s")
    }

    fn new(name: &str, what: &str, unit: &'static str, amount: Option<(u64, &'static str)>, smaller: bool) -> Figure {
        Figure {
            name: name.to_owned(),
            what: what.to_owned(),
            unit,
            amount,
            smaller_is_better: smaller,
            native: Vec::new(),
            falkirk: Vec::new(),
            notes: BTreeMap::new(),
            wanted: None,
        }
    }

    /// The same, held against so many times native's speed.
    pub fn wanted(mut self, times: f64) -> Figure {
        self.wanted = Some(times);
        self
    }

    /// Whether the median reaches what is wanted, in words.
    fn verdict(&self) -> String {
        let Some((wanted, ratio)) = self.wanted.zip(median(&self.ratios())) else { return String::new() };
        format!("; wanted {wanted:.2}: {}", if ratio >= wanted { "reached" } else { "MISSED" })
    }

    /// A measurement beside the figure, e.g. a time up to another moment.
    pub fn note(&mut self, name: &'static str, value: f64) {
        self.notes.entry(name).or_default().push(value);
    }

    /// How many times as fast as native, turn by turn: only runs beside each other are compared.
    fn ratios(&self) -> Vec<f64> {
        let pairs = self.native.iter().zip(&self.falkirk);
        pairs.map(|(native, ours)| if self.smaller_is_better { native / ours } else { ours / native }).collect()
    }

    fn to_json(&self) -> Value {
        json!({
            "name": self.name, "what": self.what, "unit": self.unit,
            "native": self.native, "falkirk": self.falkirk, "times_native": self.ratios(),
            "median": {
                "native": median(&self.native), "falkirk": median(&self.falkirk), "times_native": median(&self.ratios()),
            },
            "rate": self.amount.map(|(amount, unit)| json!({
                "unit": unit,
                "native": median(&self.native).map(|time| amount as f64 / time),
                "falkirk": median(&self.falkirk).map(|time| amount as f64 / time),
            })),
            "notes": self.notes, "wanted": self.wanted,
        })
    }
}

/// All figures of a run.
pub struct Report {
    head: Value,
    figures: Vec<Figure>,
}

impl Report {
    /// An empty report.
    pub fn new(wish: &Wish, machine: Value) -> Report {
        Report { head: json!({ "quick": wish.quick, "turns": wish.turns, "machine": machine }), figures: Vec::new() }
    }

    /// Adds a figure and shows it at once: the whole run takes minutes.
    pub fn add(&mut self, figure: Figure) {
        println!("{}", line(&figure));
        self.figures.push(figure);
    }

    /// Prints the table.
    pub fn print(&self) {
        let machine = &self.head["machine"];
        println!(
            "\nPostgreSQL {}, {} cores, medians; ratio: times native",
            machine["postgres"].as_str().unwrap_or("?"),
            machine["cores"]
        );
        println!("{:<22} {:>12} {:>12} {:>7}  what", "figure", "native", "falkirk", "ratio");
        for figure in &self.figures {
            let cell = |values: &[f64]| {
                median(values).map_or("-".to_owned(), |value| format!("{} {}", round(value), figure.unit))
            };
            let ratio = median(&figure.ratios()).map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
            println!(
                "{:<22} {:>12} {:>12} {:>7}  {}{}",
                figure.name,
                cell(&figure.native),
                cell(&figure.falkirk),
                ratio,
                figure.what,
                figure.verdict()
            );
            if let Some((amount, unit)) = figure.amount {
                let rate = |values: &[f64]| median(values).map_or("-".to_owned(), |time| round(amount as f64 / time));
                println!("{:<22} {:>12} {:>12} {:>7}  {unit}", "", rate(&figure.native), rate(&figure.falkirk), "");
            }
        }
        if self.head["quick"] == true {
            println!("a quick run: these numbers say that it works, not how fast it is");
        }
    }

    /// Writes everything that was measured.
    pub fn write(&self, path: &Path) -> Outcome<()> {
        let mut all = self.head.clone();
        all["figures"] = self.figures.iter().map(Figure::to_json).collect();
        let text = serde_json::to_string_pretty(&all).map_err(|error| error.to_string())?;
        fs::write(path, text + "\n").map_err(|error| format!("{}: {error}", path.display()))
    }
}

fn line(figure: &Figure) -> String {
    let list = |values: &[f64]| values.iter().map(|value| round(*value)).collect::<Vec<_>>().join(" ");
    let ratios: Vec<String> = figure.ratios().iter().map(|ratio| format!("{ratio:.2}")).collect();
    let Figure { name, unit, .. } = figure;
    if figure.native.is_empty() && figure.falkirk.is_empty() {
        return format!("{name}: {}", figure.what);
    }
    format!(
        "{name}: native [{}] {unit}, falkirk [{}] {unit}, times native [{}]",
        list(&figure.native),
        list(&figure.falkirk),
        ratios.join(" ")
    )
}

fn round(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        count if count % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}
