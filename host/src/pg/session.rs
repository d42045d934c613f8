//! A session for SQL: copy, catalogue, apply and the commands.
//!
//! Every session pins the settings that change how values are written as text, and checks after connecting that the
//! server took them: a pooler may drop them without a word, and then values would be corrupted without a word. Flows
//! read through [`Session::rows`] and never see the driver; apply takes the driver's own client. No message of this
//! file may hold a password or a row value.

use std::error::Error as _;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, Config, Connection, Error, NoTls, SimpleQueryMessage};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::pg::address::Address;
use crate::pg::fault::{self, Fault};
use crate::pg::pins::{PINS, VERIFIED};
use crate::pg::tls;
use crate::problem::{Blame, Outcome, Problem};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// A connected session.
pub struct Session {
    client: Client,
    /// Why the connection ended, once it has.
    ended: Arc<OnceLock<String>>,
    blame: Blame,
    server_version_num: u32,
    superuser: bool,
    role: String,
}

impl Session {
    /// Connects and makes sure of the pinned settings. `purpose` shows in the server's list of sessions.
    pub async fn connect(address: &Address, purpose: &str) -> Outcome<Session> {
        Session::connect_blaming(address, Blame::Config, purpose).await
    }

    /// Like [`Session::connect`]; `blame` is who has to act when something of this session fails.
    pub async fn connect_blaming(address: &Address, blame: Blame, purpose: &str) -> Outcome<Session> {
        let mut config = configuration(address, purpose);
        let ended = Arc::new(OnceLock::new());
        let failed = |error: Error| connect_problem(&error, address, blame);
        let client = match tls::client_config(address)? {
            Some(tls) => {
                config.ssl_mode(SslMode::Require);
                let (client, connection) = config.connect(MakeRustlsConnect::new(tls)).await.map_err(failed)?;
                drive(connection, ended.clone());
                client
            }
            None => {
                config.ssl_mode(SslMode::Disable);
                let (client, connection) = config.connect(NoTls).await.map_err(failed)?;
                drive(connection, ended.clone());
                client
            }
        };
        let mut session =
            Session { client, ended, blame, server_version_num: 0, superuser: false, role: address.user.clone() };
        session.introduce().await?;
        Ok(session)
    }

    /// The driver's client, for apply.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The server's version, e.g. 150018.
    pub fn server_version_num(&self) -> u32 {
        self.server_version_num
    }

    /// Whether the role is a superuser.
    pub fn is_superuser(&self) -> bool {
        self.superuser
    }

    /// The role that the session runs as.
    pub fn role(&self) -> &str {
        &self.role
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Why the connection ended, once it has.
    pub fn ended(&self) -> Option<&str> {
        self.ended.get().map(String::as_str)
    }

    /// Runs statements and returns the rows of all of them, as text.
    pub async fn rows(&self, sql: &str) -> Outcome<Vec<Row>> {
        let messages = self.client.simple_query(sql).await.map_err(|error| self.problem(&error, "read"))?;
        let row = |message| match message {
            SimpleQueryMessage::Row(row) => Some(Row((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect())),
            _ => None,
        };
        Ok(messages.into_iter().filter_map(row).collect())
    }

    /// Runs a query that gives exactly one row.
    pub async fn one(&self, sql: &str) -> Outcome<Row> {
        let mut rows = self.rows(sql).await?;
        match (rows.pop(), rows.len()) {
            (Some(row), 0) => Ok(row),
            (_, more) => {
                Err(unreadable(format!("a query for one row gave {}", if more == 0 { "none" } else { "several" })))
            }
        }
    }

    /// Runs statements for their effect.
    pub async fn run(&self, sql: &str) -> Outcome<()> {
        self.client.batch_execute(sql).await.map_err(|error| self.problem(&error, "run a statement"))
    }

    /// Runs one statement and says how many rows it touched.
    pub async fn touch(&self, sql: &str) -> Outcome<u64> {
        let messages = self.client.simple_query(sql).await.map_err(|error| self.problem(&error, "run a statement"))?;
        let count = |message: &SimpleQueryMessage| match message {
            SimpleQueryMessage::CommandComplete(count) => *count,
            _ => 0,
        };
        Ok(messages.iter().map(count).sum())
    }

    /// The problem that an error of this session is, with the reason of a lost connection if one is known.
    pub fn problem(&self, error: &Error, doing: &str) -> Problem {
        let mut fault = Fault::of(error);
        if let (None, Some(reason)) = (&fault.sqlstate, self.ended()) {
            fault.text = format!("{}: {reason}", fault.text);
        }
        fault.into_problem(self.blame, doing)
    }

    /// Checks the pins and learns who and what the session talks to, in one round trip.
    async fn introduce(&mut self) -> Outcome<()> {
        let mut sql = "SELECT current_setting('server_version_num'), current_user, \
                       coalesce((SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname = current_user), false)"
            .to_owned();
        for (name, _) in VERIFIED {
            sql.push_str(&format!(", current_setting('{name}', true)"));
        }
        let row = self.one(&sql).await?;
        self.server_version_num = row.number(0)?;
        self.role = row.text(1)?;
        self.superuser = row.flag(2)?;
        let wrong = unpinned(VERIFIED, &row.0[3..]);
        match wrong.is_empty() {
            true => Ok(()),
            false => Err(Problem::refuse(
                self.blame,
                "SETTING_NOT_PINNED",
                format!("the session does not have the settings that were asked for: {}", wrong.join(", ")),
            )
            .remedy("a pooler may have dropped the startup options: connect to the server itself")),
        }
    }
}

fn configuration(address: &Address, purpose: &str) -> Config {
    let mut config = Config::new();
    config.host(&address.host).port(address.port).user(&address.user).dbname(&address.database);
    config.application_name(format!("falkirk {purpose}")).options(options_of(PINS));
    config.connect_timeout(CONNECT_TIMEOUT).tcp_user_timeout(Duration::from_secs(60));
    config.keepalives_idle(Duration::from_secs(30)).keepalives_interval(Duration::from_secs(10)).keepalives_retries(3);
    if let Some(password) = address.password() {
        config.password(password);
    }
    config
}

/// The pins as the server's command line reads them: a backslash keeps a blank from ending an argument.
fn options_of(pins: &[(&str, &str)]) -> String {
    let escape = |value: &str| value.replace('\\', "\\\\").replace(' ', "\\ ");
    pins.iter().map(|(name, value)| format!("-c {name}={}", escape(value))).collect::<Vec<_>>().join(" ")
}

/// The settings that are not what they were pinned to, in words.
fn unpinned(wanted: &[(&str, &str)], got: &[Option<String>]) -> Vec<String> {
    let differs = |((name, wanted), got): (&(&str, &str), &Option<String>)| {
        let got = got.as_deref().unwrap_or("not known");
        (got != *wanted).then(|| format!("{name} is `{got}` and not `{wanted}`"))
    };
    wanted.iter().zip(got).filter_map(differs).collect()
}

/// Lets the connection run by itself, and keeps what ended it.
fn drive<S, T>(connection: Connection<S, T>, ended: Arc<OnceLock<String>>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    tokio::spawn(async move {
        let reason = match connection.await {
            Ok(()) => "the session was closed".to_owned(),
            Err(error) => Fault::of(&error).text,
        };
        // It is set once, here.
        let _ = ended.set(reason);
    });
}

/// While connecting no row is in play, so the whole chain of causes may be told: it is what helps with TLS and DNS.
fn connect_problem(error: &Error, address: &Address, blame: Blame) -> Problem {
    let place = format!("{}:{}", address.host, address.port);
    let doing = format!("connect to {place} as `{}`", address.user);
    if error.as_db_error().is_some() {
        return fault::problem(error, blame, &doing);
    }
    let mut causes = vec![error.to_string()];
    let mut next = error.source();
    while let Some(cause) = next {
        causes.push(cause.to_string());
        next = cause.source();
    }
    causes.dedup();
    let mut fault = Fault::of(error);
    fault.text = causes.join(": ");
    // Row 53: a certificate does not become good by waiting. A connection that was lost in between may.
    if fault.text.contains("TLS") && !causes_lost(error) {
        return Problem::refuse(blame, "TLS_FAILED", format!("could not {doing}: {}", fault.text))
            .remedy("check the server's certificate, its name, and the root certificate in the url");
    }
    fault.into_problem(blame, &doing).remedy(format!("check that a PostgreSQL server listens on {place}"))
}

/// Whether the system below says that the connection broke, and not TLS that it must not go on.
fn causes_lost(error: &Error) -> bool {
    use std::io::ErrorKind;
    let lost =
        [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset, ErrorKind::ConnectionAborted, ErrorKind::BrokenPipe];
    let mut next = error.source();
    while let Some(cause) = next {
        if cause.downcast_ref::<std::io::Error>().is_some_and(|system| lost.contains(&system.kind())) {
            return true;
        }
        next = cause.source();
    }
    false
}

/// One row of a result, as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row(pub Vec<Option<String>>);

impl Row {
    /// A value; `None` for NULL and for a column that is not there.
    pub fn get(&self, index: usize) -> Option<&str> {
        self.0.get(index)?.as_deref()
    }

    /// A value that is not NULL.
    pub fn text(&self, index: usize) -> Outcome<String> {
        self.get(index).map(str::to_owned).ok_or_else(|| unreadable(format!("column {index} of an answer is empty")))
    }

    /// A boolean.
    pub fn flag(&self, index: usize) -> Outcome<bool> {
        match self.get(index) {
            Some("t") => Ok(true),
            Some("f") => Ok(false),
            _ => Err(unreadable(format!("column {index} of an answer is no boolean"))),
        }
    }

    /// A number, or anything else with a text form.
    pub fn number<T: FromStr>(&self, index: usize) -> Outcome<T> {
        self.number_or_null(index)?.ok_or_else(|| unreadable(format!("column {index} of an answer is empty")))
    }

    /// A number that may be NULL.
    pub fn number_or_null<T: FromStr>(&self, index: usize) -> Outcome<Option<T>> {
        let parse =
            |text: &str| text.parse().map_err(|_| unreadable(format!("column {index} of an answer is no number")));
        self.get(index).map(parse).transpose()
    }

    /// Numbers with blanks between them.
    pub fn numbers<T: FromStr>(&self, index: usize) -> Outcome<Vec<T>> {
        let parse = |text: &str| {
            text.parse().map_err(|_| unreadable(format!("column {index} of an answer is no list of numbers")))
        };
        self.get(index).unwrap_or_default().split_ascii_whitespace().map(parse).collect()
    }

    /// JSON; an absent value reads as JSON's null.
    pub fn json<T: serde::de::DeserializeOwned>(&self, index: usize) -> Outcome<T> {
        // The parser's own message could quote the text.
        serde_json::from_str(self.get(index).unwrap_or("null"))
            .map_err(|_| unreadable(format!("column {index} of an answer is not the JSON that was asked for")))
    }
}

/// The server answered, but not as asked: a fault of ours, or something between that speaks for the server.
fn unreadable(what: String) -> Problem {
    Problem::stop(Blame::Host, "ANSWER_NOT_UNDERSTOOD", what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(values: &[Option<&str>]) -> Row {
        Row(values.iter().map(|value| value.map(str::to_owned)).collect())
    }

    #[test]
    fn pins_reach_the_server_whole_also_with_blanks_backslashes_and_without_a_value() {
        let options = options_of(&[("datestyle", "ISO, MDY"), ("search_path", ""), ("odd", "a\\b")]);
        assert_eq!(options, "-c datestyle=ISO,\\ MDY -c search_path= -c odd=a\\\\b");
    }

    #[test]
    fn a_setting_that_a_pooler_dropped_is_named_with_both_values() {
        let got = [Some("ISO, MDY"), Some("public"), Some("UTC"), None].map(|value| value.map(str::to_owned));
        let wanted = [("DateStyle", "ISO, MDY"), ("search_path", ""), ("TimeZone", "UTC"), ("gone", "x")];
        assert_eq!(unpinned(&wanted, &got), ["search_path is `public` and not ``", "gone is `not known` and not `x`"]);
    }

    #[test]
    fn a_row_gives_what_was_asked_for_or_says_which_column_did_not() {
        let row = row(&[Some("7"), Some("t"), None, Some("1 2 0"), Some("[\"a\"]"), Some("secret")]);
        assert_eq!(row.number::<u32>(0).unwrap(), 7);
        assert!(row.flag(1).unwrap());
        assert_eq!(row.number_or_null::<i64>(2).unwrap(), None);
        assert_eq!(row.numbers::<i16>(3).unwrap(), [1, 2, 0]);
        assert_eq!(row.json::<Vec<String>>(4).unwrap(), ["a"]);
        for problem in [
            row.number::<u32>(5).unwrap_err(),
            row.flag(5).unwrap_err(),
            row.json::<Vec<String>>(5).unwrap_err(),
            row.text(2).unwrap_err(),
            row.text(9).unwrap_err(),
        ] {
            assert_eq!(problem.code(), "ANSWER_NOT_UNDERSTOOD");
            assert!(!problem.to_string().contains("secret"), "{problem}");
        }
    }
}
