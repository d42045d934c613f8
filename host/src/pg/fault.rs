//! What an error of a server or of its connection means to a link.
//!
//! It must never let a row value through. Servers quote values in their messages (`invalid input syntax for type
//! integer: "..."`, `Key (id)=(...)`), translate the messages, and triggers raise any text they like. So the text of a
//! fault is made of our own words for its SQLSTATE and of the names in the error's fields. The server's own words are
//! added only where a statement or the server itself is at fault, never where a row is, and even there without
//! anything that could be a literal.

use std::error::Error as _;

use tokio_postgres::Error;

use crate::names::TableName;
use crate::problem::{Blame, Problem};

/// What kind of trouble an error is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FaultClass {
    /// The connection or the server went away.
    Lost,
    /// The server cannot do it now but may later: locks, conflicts between transactions, full disks, standbys.
    Busy,
    /// A constraint refuses the row.
    Integrity {
        /// The constraint or unique index.
        constraint: Option<String>,
        /// The table.
        table: Option<TableName>,
        /// The column.
        column: Option<String>,
    },
    /// The type or the column cannot hold the value.
    Data,
    /// The role may not do this, or may not connect.
    Denied,
    /// A table, column, type or function is not what the statement takes it for.
    Schema,
    /// Anything else.
    Other,
}

/// An error, understood.
#[derive(Clone, Debug)]
pub struct Fault {
    /// What kind of trouble it is.
    pub class: FaultClass,
    /// The server's five-character code; `None` if the error is the connection's own.
    pub sqlstate: Option<String>,
    /// What happened, free of row values.
    pub text: String,
    table: Option<TableName>,
    column: Option<String>,
}

/// The fields of a server's error that a fault is made of. DETAIL, HINT and CONTEXT are left behind: they hold values.
#[derive(Clone, Copy, Debug, Default)]
struct Fields<'a> {
    sqlstate: &'a str,
    message: &'a str,
    schema: Option<&'a str>,
    table: Option<&'a str>,
    column: Option<&'a str>,
    constraint: Option<&'a str>,
    data_type: Option<&'a str>,
}

/// The problem that an error is while `doing` something (`"write a batch"`), with its usual action.
pub fn problem(error: &Error, blame: Blame, doing: &str) -> Problem {
    Fault::of(error).into_problem(blame, doing)
}

impl Fault {
    /// Understands an error.
    pub fn of(error: &Error) -> Fault {
        match error.as_db_error() {
            Some(server) => Fault::from_fields(Fields {
                sqlstate: server.code().code(),
                message: server.message(),
                schema: server.schema(),
                table: server.table(),
                column: server.column(),
                constraint: server.constraint(),
                data_type: server.datatype(),
            }),
            None => Fault::of_connection(error),
        }
    }

    /// An error without a server behind it. Its own text names no values; of its causes only those of the system do not.
    fn of_connection(error: &Error) -> Fault {
        let mut text = error.to_string();
        let system = error.source().and_then(|cause| cause.downcast_ref::<std::io::Error>());
        if let Some(system) = system {
            text = format!("{text}: {system}");
        }
        let ours = ["error serializing", "error deserializing", "invalid co", "query returned", "expected "];
        let class = match () {
            () if text.starts_with("authentication error") => FaultClass::Denied,
            () if ours.iter().any(|start| text.starts_with(start)) => FaultClass::Other,
            () => FaultClass::Lost,
        };
        Fault { class, sqlstate: None, text, table: None, column: None }
    }

    fn from_fields(fields: Fields<'_>) -> Fault {
        let table = fields.table.map(|table| TableName::new(fields.schema.unwrap_or("public"), table));
        let column = fields.column.map(str::to_owned);
        Fault {
            class: class_of(fields, table.clone()),
            sqlstate: Some(fields.sqlstate.to_owned()),
            text: describe(fields),
            table,
            column,
        }
    }

    /// Whether trying the same again later may help.
    pub fn passes(&self) -> bool {
        matches!(self.class, FaultClass::Lost | FaultClass::Busy)
    }

    /// The problem that this fault is while `doing` something.
    ///
    /// Passing faults are retried, missing rights refused; everything else stops the link (L3). A caller that can
    /// narrow a batch down turns [`FaultClass::Integrity`] and [`FaultClass::Data`] into `Action::Strictly` with
    /// [`Problem::with_action`].
    pub fn into_problem(self, blame: Blame, doing: &str) -> Problem {
        let what = format!("could not {doing}: {}", self.text);
        let code = self.code();
        let mut problem = match self.class {
            FaultClass::Lost | FaultClass::Busy => Problem::retry(blame, code, what),
            FaultClass::Denied => Problem::refuse(blame, code, what),
            _ => Problem::stop(blame, code, what),
        };
        if let Some(table) = &self.table {
            problem = problem.table(table);
        }
        if let Some(column) = &self.column {
            problem = problem.column(column);
        }
        match remedy(code) {
            Some(remedy) => problem.remedy(remedy),
            None => problem,
        }
    }

    /// The code of the problem that this fault becomes.
    pub fn code(&self) -> &'static str {
        let sqlstate = self.sqlstate.as_deref().unwrap_or_default();
        match (&self.class, sqlstate) {
            (_, "23502") => "NOT_NULL_VIOLATION",
            (_, "23503") => "FOREIGN_KEY_VIOLATION",
            (_, "23505") => "UNIQUE_VIOLATION",
            (_, "23514") => "CHECK_VIOLATION",
            (_, "23P01") => "EXCLUSION_VIOLATION",
            (_, "25006") => "READ_ONLY",
            (_, "40P01") => "DEADLOCK",
            (_, "40001") => "SERIALIZATION_FAILURE",
            (_, "53100") => "DISK_FULL",
            (_, "53200") => "OUT_OF_MEMORY",
            (_, "53300") => "TOO_MANY_CONNECTIONS",
            (_, "55P03") => "LOCK_NOT_AVAILABLE",
            (_, "55006") => "OBJECT_IN_USE",
            (_, "57014") => "STATEMENT_CANCELLED",
            (_, "3D000") => "DATABASE_MISSING",
            (FaultClass::Denied, state) if state.is_empty() || state.starts_with("28") => "AUTHENTICATION_FAILED",
            (FaultClass::Lost, _) => "CONNECTION_LOST",
            (FaultClass::Busy, _) => "DATABASE_BUSY",
            (FaultClass::Integrity { .. }, _) => "CONSTRAINT_VIOLATION",
            (FaultClass::Data, _) => "TARGET_REJECTS_VALUE",
            (FaultClass::Denied, _) => "PERMISSION_DENIED",
            (FaultClass::Schema, _) => "SCHEMA_MISMATCH",
            (FaultClass::Other, _) => "DATABASE_ERROR",
        }
    }
}

fn class_of(fields: Fields<'_>, table: Option<TableName>) -> FaultClass {
    match (fields.sqlstate, fields.sqlstate.get(..2).unwrap_or_default()) {
        ("57P01" | "57P02" | "57P03" | "57P05" | "25P03", _) | (_, "08") => FaultClass::Lost,
        ("25006" | "57014" | "55P03" | "55006" | "40001" | "40P01", _) | (_, "53") => FaultClass::Busy,
        (_, "23") => FaultClass::Integrity {
            constraint: fields.constraint.map(str::to_owned),
            table,
            column: fields.column.map(str::to_owned),
        },
        // A row that row-level security refuses comes as 44000 (view) or 42501.
        (_, "22") => FaultClass::Data,
        ("42501" | "3D000", _) | (_, "28") => FaultClass::Denied,
        (_, "42" | "3F" | "0A") => FaultClass::Schema,
        _ => FaultClass::Other,
    }
}

/// Our words for the code, the names in the error's fields, and the server's words where they cannot speak of a row.
fn describe(fields: Fields<'_>) -> String {
    let mut text = meaning(fields.sqlstate).to_owned();
    let names = [
        ("constraint", fields.constraint),
        ("column", fields.column),
        ("table", fields.table),
        ("type", fields.data_type),
    ];
    for (kind, name) in names {
        if let Some(name) = name {
            text.push_str(&format!(", {kind} {name}"));
        }
    }
    if let Some(words) = server_words(fields.sqlstate, fields.message) {
        text.push_str(&format!(" (the server: {words})"));
    }
    format!("{text} [{}]", fields.sqlstate)
}

/// The server's message, if the code says that it speaks of names and of the server, and not of rows.
fn server_words(sqlstate: &str, message: &str) -> Option<String> {
    let words = match (sqlstate, sqlstate.get(..2)?) {
        // A syntax error quotes the statement, which may hold a literal.
        ("42601", _) => return None,
        (_, "08" | "25" | "28" | "3D" | "3F" | "40" | "42" | "53" | "55" | "57" | "58") => message.to_owned(),
        (_, "0A" | "54" | "XX") => cut_literals(message),
        // Rows (21, 22, 23, 44), triggers' own texts (P0), and codes that a trigger made up.
        _ => return None,
    };
    let words: String = words.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).take(300).collect();
    Some(words)
}

/// The message up to the first sign behind which a literal may stand.
fn cut_literals(message: &str) -> String {
    let signs = ['"', '\'', '(', ':', '=', '«', '»', '„', '“', '”', '‘', '’', '‚', '「', '《'];
    match message.find(signs) {
        Some(end) => format!("{}…", message[..end].trim_end()),
        None => message.to_owned(),
    }
}

fn meaning(sqlstate: &str) -> &'static str {
    match (sqlstate, sqlstate.get(..2).unwrap_or_default()) {
        ("22001", _) => "a text is too long for its column",
        ("22003", _) => "a number is out of the range of its type",
        ("22007" | "22008", _) => "a date or time is not valid or out of range",
        ("22021" | "22P05", _) => "a text holds a byte or character that the database cannot store",
        ("22P02" | "22P03", _) => "a value is not valid for its type",
        ("22030" | "22032", _) => "a value is not valid JSON",
        (_, "22") => "a value is refused by its type or by an expression",
        ("23502", _) => "a column that cannot be null would become null",
        ("23503", _) => "a foreign key would point to no row",
        ("23505", _) => "a unique key would occur twice",
        ("23514", _) => "a check constraint refuses the row",
        ("23P01", _) => "an exclusion constraint refuses the row",
        (_, "23") => "a constraint refuses the row",
        ("25006", _) => "the server is read-only",
        ("40001", _) => "another transaction changed the same rows",
        ("40P01", _) => "a deadlock with another session",
        ("42501", _) => "the role lacks a right",
        ("42601", _) => "the server does not accept the statement",
        ("53100", _) => "the server's disk is full",
        ("53200", _) => "the server is out of memory",
        ("53300", _) => "the server has no connection left",
        ("55P03", _) => "a lock was not to be had in time",
        ("55006", _) => "the object is in use",
        ("57014", _) => "the statement was cancelled",
        ("57P01" | "57P02", _) => "the server ended the session",
        ("57P03", _) => "the server is starting or stopping",
        ("3D000", _) => "the database does not exist",
        (_, "08") => "the connection failed",
        (_, "28") => "the server refuses the login",
        (_, "42" | "3F") => "the database is not what the statement takes it for",
        (_, "0A") => "the server does not support this",
        (_, "53") => "the server lacks a resource",
        (_, "P0") => "a function or trigger in the database raised an error",
        ("XX001" | "XX002", _) => "the server reports damaged data",
        (_, "XX") => "the server reports an internal error",
        _ => "the server reports an error",
    }
}

fn remedy(code: &str) -> Option<&'static str> {
    Some(match code {
        "READ_ONLY" => "connect to the primary, or end the read-only state; the link tries again by itself",
        "DISK_FULL" => "free disk space on the server; the link tries again by itself",
        "TOO_MANY_CONNECTIONS" => {
            "raise max_connections or the role's connection limit; the link tries again by itself"
        }
        "PERMISSION_DENIED" => "run `falkirk check`: it prints the grants that are missing",
        "AUTHENTICATION_FAILED" => "check user, password and pg_hba.conf for this role",
        "DATABASE_MISSING" => "check the database name in the url",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::Action;
    use proptest::prelude::*;

    fn fault(sqlstate: &str, message: &str) -> Fault {
        Fault::from_fields(Fields { sqlstate, message, ..Fields::default() })
    }

    #[test]
    fn the_class_decides_what_the_link_does() {
        for (sqlstate, action, code) in [
            ("08006", Action::Retry, "CONNECTION_LOST"),
            ("57P01", Action::Retry, "CONNECTION_LOST"),
            ("57P03", Action::Retry, "CONNECTION_LOST"),
            ("53100", Action::Retry, "DISK_FULL"),
            ("53400", Action::Retry, "DATABASE_BUSY"),
            ("40001", Action::Retry, "SERIALIZATION_FAILURE"),
            ("40P01", Action::Retry, "DEADLOCK"),
            ("55P03", Action::Retry, "LOCK_NOT_AVAILABLE"),
            ("25006", Action::Retry, "READ_ONLY"),
            ("23505", Action::Stop, "UNIQUE_VIOLATION"),
            ("23001", Action::Stop, "CONSTRAINT_VIOLATION"),
            ("22003", Action::Stop, "TARGET_REJECTS_VALUE"),
            ("42501", Action::Refuse, "PERMISSION_DENIED"),
            ("28P01", Action::Refuse, "AUTHENTICATION_FAILED"),
            ("42703", Action::Stop, "SCHEMA_MISMATCH"),
            ("P0001", Action::Stop, "DATABASE_ERROR"),
            ("AB123", Action::Stop, "DATABASE_ERROR"),
            ("", Action::Stop, "DATABASE_ERROR"),
        ] {
            let problem = fault(sqlstate, "whatever").into_problem(Blame::Target, "write a batch");
            assert_eq!((problem.action(), problem.code()), (action, code), "{sqlstate}");
        }
    }

    #[test]
    fn names_from_the_fields_are_told() {
        let fields = Fields {
            sqlstate: "23505",
            message: "duplicate key value violates unique constraint \"customer_email_key\"",
            schema: Some("shop"),
            table: Some("customer"),
            constraint: Some("customer_email_key"),
            ..Fields::default()
        };
        let problem = Fault::from_fields(fields).into_problem(Blame::Target, "write a batch");
        assert_eq!(
            problem.to_string(),
            "UNIQUE_VIOLATION: could not write a batch: a unique key would occur twice, constraint customer_email_key, \
             table customer [23505] (table shop.customer)"
        );
    }

    #[test]
    fn row_values_in_the_servers_words_do_not_leak() {
        for (sqlstate, message) in [
            ("22P02", "invalid input syntax for type integer: \"secret\""),
            ("22P02", "ungültige Eingabesyntax für Typ integer: »secret«"),
            ("22P02", "invalid input syntax for type json: secret \"secret\" secret"),
            ("22021", "invalid byte sequence for encoding \"UTF8\": secret"),
            ("22007", "date/time field value out of range: \"secret\""),
            ("23514", "new row for relation \"t\" violates check constraint: secret"),
            ("P0001", "customer secret is not allowed"),
            ("U1234", "secret"),
            ("42601", "syntax error at or near \"secret\""),
            ("0A000", "cannot convert 'secret' here"),
            ("XX000", "unexpected value: secret"),
            ("44000", "new row (secret) violates check option"),
        ] {
            let problem = fault(sqlstate, message).into_problem(Blame::Target, "write a batch");
            assert!(!problem.to_string().contains("secret"), "{sqlstate}: {problem}");
            assert!(!problem.to_json().to_string().contains("secret"), "{sqlstate}");
        }
    }

    #[test]
    fn names_in_the_servers_words_stay_where_no_row_is_meant() {
        let text = fault("42P01", "relation \"shop.customer\" does not exist").text;
        assert!(text.contains("relation \"shop.customer\" does not exist"), "{text}");
        assert!(fault("42501", "permission denied for table customer").text.contains("for table customer"));
    }

    proptest! {
        #[test]
        fn no_message_of_a_row_error_gets_through(
            sqlstate in "(21|22|23|44|P0|U0|HV)[0-9A-Z]{3}", value in "[a-zA-Z0-9 \"'():«»]{4,20}", before in "[a-z ]{0,12}",
        ) {
            let marked = format!("{before}§{value}§");
            prop_assert!(!fault(&sqlstate, &marked).text.contains('§'));
        }

        #[test]
        fn nothing_behind_a_quote_gets_through_elsewhere(
            sqlstate in "(0A|54|XX)[0-9A-Z]{3}", quote in "[\"'(:=«„“‘]", value in "\\PC{0,20}",
        ) {
            let message = format!("cannot do {quote}§{value}");
            prop_assert!(!fault(&sqlstate, &message).text.contains('§'));
        }
    }
}
