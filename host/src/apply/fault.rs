//! What an error of the target means: retry, apply row by row, stop or refuse.
//!
//! PostgreSQL's messages and details repeat row values; they must never get into a problem. Only the error's state and
//! the names that it gives apart from its text are used.

use tokio_postgres::Error;
use tokio_postgres::error::DbError;

use crate::names::TableName;
use crate::plan::Target;
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
///
/// `target`: the table that the statement was about, if it was about one.
pub fn written(error: &Error, strict: bool, target: Option<&Target>) -> Problem {
    let problem = match error.as_db_error() {
        Some(db) => refused_row(db, strict, target),
        None => lost(error),
    };
    match target {
        Some(target) => problem.table(&target.name),
        None => problem,
    }
}

fn refused_row(db: &DbError, strict: bool, target: Option<&Target>) -> Problem {
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
    // A schema that is not the plan's is so for every change. That a column takes no update concerns those that change it.
    let of_all = state.starts_with("42") && code != "GENERATED_COLUMN";
    let action = if strict || of_all { Action::Stop } else { Action::Strictly };
    let mut problem = named(Problem::stop(Blame::Target, code, what).with_action(action), db);
    // Pitfall 25: the server's own words name neither the column nor the way out.
    if let Some(target) = target.filter(|target| code == "GENERATED_COLUMN" && !target.identity_always.is_empty()) {
        problem = problem.remedy(format!(
            "{} and start again: the link goes on at this change",
            target.by_default_sql(&target.identity_always)
        ));
    }
    problem.remedy("let the target take the row, or ship a transform that computes another one, and start again: the link goes on at this change")
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

#[cfg(test)]
mod tests {
    use super::passing;

    /// Rows 59 and 60: what the next life may find gone, and what it would only meet again.
    #[test]
    fn row_59_row_60_states_that_pass_are_tried_again_and_those_of_a_row_are_not() {
        let passes = [
            ("40001", "a serialization failure"),
            ("40P01", "a deadlock"),
            ("40003", "nobody knows whether the statement was completed"),
            ("55P03", "a lock that could not be had in time"),
            ("55006", "an object in use"),
            ("25006", "a transaction that may only read: a standby"),
            ("25P02", "a transaction that has failed already"),
            ("25P03", "a session that was idle in its transaction for too long"),
            ("53100", "a full disk"),
            ("53200", "no memory"),
            ("53300", "too many connections"),
            ("57014", "a statement that was cancelled"),
            ("57P01", "a server that shuts down"),
            ("57P02", "a server that crashed"),
            ("57P03", "a server that starts"),
            ("58030", "an error of the disk"),
            ("08006", "a connection that broke"),
        ];
        for (state, what) in passes {
            assert!(passing(state), "{state}: {what}");
        }
        let stays = [
            ("08P01", "a message that the server cannot read"),
            ("22001", "a value that is too long"),
            ("22P02", "a value that its type does not read"),
            ("23502", "a NULL"),
            ("23503", "a parent that is missing"),
            ("23505", "a unique value that is taken"),
            ("23514", "a check"),
            ("25001", "a statement that no transaction may hold"),
            ("40002", "a constraint at the end of the transaction"),
            ("42501", "a right that is missing"),
            ("42P01", "a table that is missing"),
            ("428C9", "a column that the database fills"),
            ("54000", "a limit of the server"),
            ("55000", "an object in the wrong state"),
            ("P0001", "a trigger that raises an error"),
            ("XX000", "a fault of the server itself"),
        ];
        for (state, what) in stays {
            assert!(!passing(state), "{state}: {what}");
        }
    }
}
