//! The statements for sets: their text, and those that are prepared on the present connection.
//!
//! One statement a set, over arrays; grouping is the fold's work. A statement never casts to a type with a modifier:
//! that would cut values short in silence (L3), where the assignment to the column refuses them.

use std::collections::HashMap;
use std::fmt::Write;

use tokio_postgres::{Client, Error, Statement};

use super::encode::Wire;
use crate::delta::SetKind;
use crate::names::quote_name;
use crate::plan::{Plan, Target};

/// How many statements stay prepared.
const KEPT: usize = 256;

/// The statements that are prepared on one connection. Ends with it.
#[derive(Default)]
pub struct Statements {
    prepared: HashMap<String, (Statement, u64)>,
    clock: u64,
}

impl Statements {
    /// The prepared statement for a text.
    pub async fn get(&mut self, client: &Client, sql: String) -> Result<Statement, Error> {
        self.clock += 1;
        if let Some((statement, used)) = self.prepared.get_mut(&sql) {
            *used = self.clock;
            return Ok(statement.clone());
        }
        if self.prepared.len() >= KEPT
            && let Some(oldest) = self.prepared.iter().min_by_key(|(_, (_, used))| *used).map(|(sql, _)| sql.clone())
        {
            self.prepared.remove(&oldest);
        }
        let statement = client.prepare(&sql).await?;
        self.prepared.insert(sql, (statement.clone(), self.clock));
        Ok(statement)
    }
}

/// One parameter of a set's statement: an array, and the target column that it is for.
#[derive(Clone, Copy, Debug)]
pub struct Parameter {
    /// Position in `Target::columns`.
    pub column: u16,
    /// How its elements travel.
    pub wire: Wire,
}

/// The text of a set's statement. The parameters stand in the order: keys, new keys, values.
pub fn sql(target: &Target, kind: SetKind, columns: &[u16], parameters: &[Parameter]) -> String {
    let name = |column: u16| quote_name(&target.columns[column as usize].name);
    let keys = match kind {
        SetKind::Insert | SetKind::Ensure | SetKind::Truncate => 0,
        SetKind::Patch | SetKind::Clear | SetKind::Delete | SetKind::Rekey => target.key.len(),
    };
    let new_keys = if kind == SetKind::Rekey { keys } else { 0 };
    let table = target.name.sql();
    let list = |parts: Vec<String>, between: &str| parts.join(between);
    let found = list(
        (0..keys).map(|at| format!("t.{} = {}", name(target.key[at]), value(target, parameters, at))).collect(),
        " AND ",
    );
    let set_to = || {
        let written = target.key[..new_keys].iter().chain(columns).zip(keys..);
        list(
            written.map(|(column, at)| format!("{} = {}", name(*column), value(target, parameters, at))).collect(),
            ", ",
        )
    };
    let rows = spread(parameters, target);
    match kind {
        SetKind::Insert | SetKind::Ensure => {
            let into = list(columns.iter().map(|column| name(*column)).collect(), ", ");
            let values = list((0..columns.len()).map(|at| value(target, parameters, at)).collect(), ", ");
            let overriding = if !target.identity_always.is_empty() { " OVERRIDING SYSTEM VALUE" } else { "" };
            let key = list(target.key.iter().map(|column| name(*column)).collect(), ", ");
            let unless =
                if kind == SetKind::Ensure { format!(" ON CONFLICT ({key}) DO NOTHING") } else { String::new() };
            format!("INSERT INTO {table} ({into}){overriding} SELECT {values} FROM {rows}{unless}")
        }
        SetKind::Patch | SetKind::Clear | SetKind::Rekey => {
            format!("UPDATE {table} AS t SET {} FROM {rows} WHERE {found}", set_to())
        }
        SetKind::Delete => format!("DELETE FROM {table} AS t USING {rows} WHERE {found}"),
        SetKind::Truncate => format!("TRUNCATE {table}"),
    }
}

fn element(parameter: &Parameter) -> &'static str {
    match parameter.wire {
        Wire::Text => "pg_catalog.text",
        Wire::Typed(typed) => typed.sql(),
    }
}

/// The arrays as rows `s`, spread in a list of columns: the backend hands each row on as it is made. A function in FROM
/// would first store every array as a table of its own, which costs an insert 18 % and an update 10 % more.
fn spread(parameters: &[Parameter], target: &Target) -> String {
    debug_assert!(parameters.iter().all(|parameter| (parameter.column as usize) < target.columns.len()));
    let columns = parameters.iter().enumerate();
    let columns: Vec<String> = columns
        .map(|(at, parameter)| format!("pg_catalog.unnest(${}::{}[]) AS v{at}", at + 1, element(parameter)))
        .collect();
    format!("(SELECT {}) AS s", columns.join(", "))
}

/// The same rows from a function, which can number them.
fn rows(parameters: &[Parameter], target: &Target) -> String {
    let mut text = String::from("unnest(");
    for (at, parameter) in parameters.iter().enumerate() {
        let comma = if at == 0 { "" } else { ", " };
        // Writing to a String cannot fail.
        let _ = write!(text, "{comma}${}::{}[]", at + 1, element(parameter));
    }
    debug_assert!(parameters.iter().all(|parameter| (parameter.column as usize) < target.columns.len()));
    text.push_str(") AS s(");
    for at in 0..parameters.len() {
        let comma = if at == 0 { "" } else { ", " };
        let _ = write!(text, "{comma}v{at}");
    }
    text.push(')');
    text
}

fn value(target: &Target, parameters: &[Parameter], at: usize) -> String {
    let parameter = parameters[at];
    let column = &target.columns[parameter.column as usize];
    match (parameter.wire, super::encode::Typed::of(column.base_oid)) {
        (Wire::Typed(_), _) => format!("s.v{at}"),
        (Wire::Text, Some(typed)) => format!("s.v{at}::{}", typed.sql()),
        (Wire::Text, None) => format!("s.v{at}::{}", column.cast_sql),
    }
}

/// A set of keys as rows `s`, and the condition under which a row `t` of the target is one of them.
pub fn keyed(target: &Target, parameters: &[Parameter]) -> (String, String) {
    let name = |column: u16| quote_name(&target.columns[column as usize].name);
    let found = target.key.iter().enumerate();
    let found: Vec<String> =
        found.map(|(at, column)| format!("t.{} = {}", name(*column), value(target, parameters, at))).collect();
    (rows(parameters, target), found.join(" AND "))
}

/// The text that locks the rows of a set of keys and gives the places, from 1, of those that are there.
pub fn lock(target: &Target, parameters: &[Parameter]) -> String {
    let (rows, found) = keyed(target, parameters);
    let numbered = rows.replacen(") AS s(", ") WITH ORDINALITY AS s(", 1);
    let numbered = format!("{}, n)", numbered.trim_end_matches(')'));
    format!("SELECT s.n FROM {numbered} JOIN {} AS t ON {found} ORDER BY s.n FOR UPDATE OF t", target.name.sql())
}

/// The text of a TRUNCATE over several tables. Never CASCADE: it would empty tables that nobody named.
pub fn truncate(plan: &Plan, targets: &[usize]) -> String {
    let tables: Vec<String> = targets.iter().map(|target| plan.targets[*target].name.sql()).collect();
    format!("TRUNCATE {}", tables.join(", "))
}
