//! What an error of the target means: retry, apply row by row, stop or refuse.
//!
//! PostgreSQL's messages and details repeat row values; they must never get into a problem. Only the error's state and
//! the names that it gives apart from its text are used.

use tokio_postgres::Error;
use tokio_postgres::error::DbError;

use crate::names::TableName;
use crate::problem::{Action, Blame, Problem};

/// The SQLSTATE of an error that the server sent.
pub fn state(error: &Error) -> Option<&str> {
    error.code().map(|state| state.code())
}

/// Whether nothing is wrong with the statement: the same work may pass later (pitfalls, section 6, rows 59 and 60).
fn passing(state: &str) -> bool {
    if state == "08P01" {
        // A message that the server cannot read is the same message next time.
        return false;
    }
    matches!(&state[..2], "08" | "53" | "57" | "58")
        || matches!(state, "40001" | "40P01" | "40003" | "55P03" | "55006" | "25006" | "25P03" | "25P02")
}

/// The problem for an error while rows were written.
///
/// `strict`: every change has its own statement, so that the error belongs to this one; otherwise a fault of the data
/// asks for strict application, which finds the change.
pub fn written(error: &Error, strict: bool) -> Problem {
    let Some(db) = error.as_db_error() else {
        return lost(error);
    };
    let state = db.code().code();
    if passing(state) {
        return busy(state);
    }
    if state == "42501" {
        // L3: a right that only one change needs, such as TRUNCATE, stops the link at that change.
        let problem = Problem::stop(Blame::Target, "TARGET_RIGHTS", "the role may not write a table of the target")
            .with_action(if strict { Action::Stop } else { Action::Strictly });
        return named(problem, db).remedy("run `falkirk check` for the missing GRANT");
    }
    let (code, meaning) = meaning(state);
    let what = match db.constraint() {
        Some(name) => format!("the target refuses a row: {meaning}, constraint {name} (sqlstate {state})"),
        None => format!("the target refuses a row: {meaning} (sqlstate {state})"),
    };
    let action = if strict || state.starts_with("42") { Action::Stop } else { Action::Strictly };
    named(Problem::stop(Blame::Target, code, what).with_action(action), db)
        .remedy("let the target take the row, or ship a transform that computes another one, and start again: the link goes on at this change")
}

/// The problem for an error outside the writing of rows: nothing was written.
pub fn refused(error: &Error) -> Problem {
    let Some(db) = error.as_db_error() else {
        return lost(error);
    };
    let state = db.code().code();
    if passing(state) {
        return busy(state);
    }
    let (code, meaning) = meaning(state);
    named(
        Problem::refuse(Blame::Target, code, format!("the target refuses a statement: {meaning} (sqlstate {state})")),
        db,
    )
}

fn busy(state: &str) -> Problem {
    Problem::retry(Blame::Target, "TARGET_BUSY", format!("the target could not do it now (sqlstate {state})"))
}

fn lost(error: &Error) -> Problem {
    let broken = |source: &std::io::Error| source.kind() != std::io::ErrorKind::InvalidInput;
    let source = std::error::Error::source(error);
    let passing = match source.map(|source| source.downcast_ref::<std::io::Error>()) {
        None => true,
        Some(Some(source)) => broken(source),
        Some(None) => false,
    };
    match error.is_closed() || passing {
        true => Problem::retry(Blame::Target, "TARGET_LOST", "the connection to the target is lost"),
        // What is left is what the client cannot put on the wire, such as a message of more than 1 GB.
        false => Problem::stop(Blame::Host, "TARGET_PROTOCOL", "a statement could not be sent to the target")
            .remedy("a row of about 1 GB does not fit into one message; see the table's largest rows"),
    }
}

fn meaning(state: &str) -> (&'static str, &'static str) {
    match state {
        "23505" | "23P01" => ("CONFLICT", "a unique value exists already"),
        "23503" => ("FOREIGN_KEY", "a row that a foreign key asks for is missing, or still referred to"),
        "23502" => ("NOT_NULL", "a column that needs a value got none"),
        "23514" | "44000" => ("CHECK", "a check is not met"),
        "22001" => ("TOO_LONG", "a value is too long for its column"),
        "428C9" => ("GENERATED_COLUMN", "a column that the database fills itself was written"),
        "42P01" | "42703" | "42704" | "42883" | "42804" | "3F000" => {
            ("TARGET_SCHEMA", "its tables are not those that the plan was made for")
        }
        _ if state.starts_with("22") => ("VALUE_REFUSED", "a value does not fit its column's type"),
        _ => ("TARGET_REFUSES", "an error of the server or of a trigger"),
    }
}

fn named(mut problem: Problem, db: &DbError) -> Problem {
    if let Some(table) = db.table() {
        problem = problem.table(&TableName::new(db.schema().unwrap_or("public"), table));
    }
    if let Some(column) = db.column() {
        problem = problem.column(column);
    }
    problem
}
