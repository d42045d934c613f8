//! What went wrong, said once, in the form that a person at 3 a.m. and the supervisor both need.
//!
//! A problem decides where it arises what the link will do about it and who is to blame. Its text never holds a row
//! value or a secret (pitfalls, section 6): whoever builds one puts names, positions and counts into it, nothing else.

use std::fmt;

use crate::lsn::Lsn;
use crate::names::TableName;

/// What the supervisor does about a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A passing fault: end the link, wait a little, start again from the checkpoint. Nothing is lost by it.
    Retry,
    /// A set-wise batch failed: start again from the checkpoint and apply one change at a time, in source order,
    /// up to the position named by the problem. That either passes or finds the change to blame.
    Strictly,
    /// The link cannot go on past a change (L3): end with exit code 3.
    Stop,
    /// A condition for running is not met: nothing was written; end with exit code 1.
    Refuse,
}

/// Who has to act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The transform's author.
    Artifact,
    /// Whoever runs the source database.
    Source,
    /// Whoever runs the target database.
    Target,
    /// Whoever wrote the configuration.
    Config,
    /// Falkirk itself.
    Host,
}

/// What happened, where, what it means and what to do next.
#[derive(Clone, Debug)]
pub struct Problem(Box<Inner>);

#[derive(Clone, Debug)]
struct Inner {
    code: &'static str,
    action: Action,
    blame: Blame,
    what: String,
    table: Option<TableName>,
    column: Option<String>,
    position: Option<Lsn>,
    artifact: Option<String>,
    remedy: Option<String>,
}

/// The result of everything that can end a link.
pub type Outcome<T> = Result<T, Problem>;

impl Problem {
    fn new(action: Action, blame: Blame, code: &'static str, what: impl fmt::Display) -> Self {
        Problem(Box::new(Inner {
            code,
            action,
            blame,
            what: what.to_string(),
            table: None,
            column: None,
            position: None,
            artifact: None,
            remedy: None,
        }))
    }

    /// A passing fault. `code` is upper case with underscores, `what` lower case without a full stop.
    pub fn retry(blame: Blame, code: &'static str, what: impl fmt::Display) -> Self {
        Self::new(Action::Retry, blame, code, what)
    }

    /// A set-wise batch that has to be applied one change at a time.
    pub fn strictly(blame: Blame, code: &'static str, what: impl fmt::Display) -> Self {
        Self::new(Action::Strictly, blame, code, what)
    }

    /// A change that the link cannot go past.
    pub fn stop(blame: Blame, code: &'static str, what: impl fmt::Display) -> Self {
        Self::new(Action::Stop, blame, code, what)
    }

    /// A condition for running that is not met.
    pub fn refuse(blame: Blame, code: &'static str, what: impl fmt::Display) -> Self {
        Self::new(Action::Refuse, blame, code, what)
    }

    /// Names the table.
    pub fn table(mut self, table: &TableName) -> Self {
        self.0.table.get_or_insert_with(|| table.clone());
        self
    }

    /// Names the column.
    pub fn column(mut self, column: &str) -> Self {
        self.0.column.get_or_insert_with(|| column.to_owned());
        self
    }

    /// Names the position, unless a closer place named one already.
    pub fn position(mut self, position: Lsn) -> Self {
        self.0.position.get_or_insert(position);
        self
    }

    /// Names the artifact: file name and digest.
    pub fn artifact(mut self, artifact: &str) -> Self {
        self.0.artifact.get_or_insert_with(|| artifact.to_owned());
        self
    }

    /// Says what to do next.
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.0.remedy.get_or_insert(remedy.into());
        self
    }

    /// The same problem with another action.
    pub fn with_action(mut self, action: Action) -> Self {
        self.0.action = action;
        self
    }

    /// The code, for programs.
    pub fn code(&self) -> &'static str {
        self.0.code
    }

    /// What the supervisor does about it.
    pub fn action(&self) -> Action {
        self.0.action
    }

    /// Who has to act.
    pub fn blame(&self) -> Blame {
        self.0.blame
    }

    /// The position, if one is known.
    pub fn at(&self) -> Option<Lsn> {
        self.0.position
    }

    /// The table, if one is known.
    pub fn at_table(&self) -> Option<&TableName> {
        self.0.table.as_ref()
    }

    /// The column, if one is known.
    pub fn at_column(&self) -> Option<&str> {
        self.0.column.as_deref()
    }

    /// The artifact, if one is to blame.
    pub fn at_artifact(&self) -> Option<&str> {
        self.0.artifact.as_deref()
    }

    /// The next step, if one was given.
    pub fn next_step(&self) -> Option<&str> {
        self.0.remedy.as_deref()
    }

    /// The problem as JSON, for `--json`.
    pub fn to_json(&self) -> serde_json::Value {
        let inner = &self.0;
        serde_json::json!({
            "code": inner.code,
            "action": format!("{:?}", inner.action).to_lowercase(),
            "blame": format!("{:?}", inner.blame).to_lowercase(),
            "what": inner.what,
            "table": inner.table.as_ref().map(ToString::to_string),
            "column": inner.column,
            "position": inner.position.map(|lsn| lsn.to_string()),
            "artifact": inner.artifact,
            "next_step": inner.remedy,
        })
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &self.0;
        write!(f, "{}: {}", inner.code, inner.what)?;
        let mut place = Vec::new();
        if let Some(table) = &inner.table {
            place.push(format!("table {table}"));
        }
        if let Some(column) = &inner.column {
            place.push(format!("column {column}"));
        }
        if let Some(position) = inner.position {
            place.push(format!("position {position}"));
        }
        if let Some(artifact) = &inner.artifact {
            place.push(format!("artifact {artifact}"));
        }
        if !place.is_empty() {
            write!(f, " ({})", place.join(", "))?;
        }
        if let Some(remedy) = &inner.remedy {
            write!(f, "\n  next: {remedy}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problem {}
