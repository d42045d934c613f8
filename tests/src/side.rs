//! One database of a stage, seen by the application that owns it.

use std::cell::RefCell;
use std::future::Future;
use std::sync::{Mutex, MutexGuard, OnceLock};

use falkirk::cluster::Cluster;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use crate::Server;

const PASSWORD: &str = "test only";

/// One database of a stage.
pub struct Side {
    /// `blue` or `green`.
    pub name: &'static str,
    /// The database's name; also the middle part of the names of its roles.
    pub database: String,
    server: Server,
    application: Mutex<Option<Client>>,
}

impl Side {
    /// A fresh database that belongs to a fresh role of the application.
    pub(crate) fn create(name: &'static str, stage: &str, server: Server) -> Side {
        let side = Side { name, database: stage.to_owned(), server, application: Mutex::new(None) };
        let (owner, database) = (side.owner(), &side.database);
        side.administrate("postgres", &format!("CREATE ROLE \"{owner}\" LOGIN PASSWORD '{PASSWORD}'"));
        side.administrate("postgres", &format!("CREATE DATABASE \"{database}\" OWNER \"{owner}\""));
        side
    }

    /// The role that owns the tables.
    pub fn owner(&self) -> String {
        format!("app_{}", self.database)
    }

    /// Falkirk's role.
    pub fn role(&self) -> String {
        format!("falkirk_{}", self.database)
    }

    /// The password of both roles.
    pub fn password(&self) -> &'static str {
        PASSWORD
    }

    /// The address for Falkirk.
    pub fn url(&self) -> String {
        self.server().url(&self.role(), PASSWORD, &self.database)
    }

    /// The address for the application.
    pub fn application_url(&self) -> String {
        self.server().url(&self.owner(), PASSWORD, &self.database)
    }

    /// The address for an administrator. No test hands it to Falkirk.
    pub fn administrator_url(&self) -> String {
        self.server().superuser_url(&self.database)
    }

    /// The server, to be stopped, started, paused. Only for stages with servers of their own.
    pub fn server(&self) -> MutexGuard<'_, Cluster> {
        // A test that failed while it held the server says nothing about the next one.
        self.server.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Runs statements as the application.
    #[track_caller]
    pub fn sql(&self, sql: &str) {
        if let Err(error) = self.try_sql(sql) {
            panic!("{} refuses: {error}\n  {sql}", self.name);
        }
    }

    /// Runs statements as the application; the server's own words if it refuses them.
    pub fn try_sql(&self, sql: &str) -> Result<(), String> {
        self.query(sql).map(|_| ())
    }

    /// Runs statements in the session of one thread, which keeps it: writers do not wait for each other. What a failed
    /// transaction of several statements leaves open is rolled back.
    pub fn run(url: &str, sql: &str) -> Result<(), String> {
        thread_local!(static SESSION: RefCell<Option<Client>> = const { RefCell::new(None) });
        SESSION.with_borrow_mut(|kept| {
            wait_for(async {
                if kept.as_ref().is_none_or(Client::is_closed) {
                    *kept = Some(connect(url).await?);
                }
                let Some(client) = kept.as_ref() else { return Err("not connected".to_owned()) };
                let done = ask(client, sql).await.map(|_| ());
                if done.is_err() {
                    ask(client, "ROLLBACK").await?;
                }
                done
            })
        })
    }

    /// The rows of a query as text, NULL as `~`.
    #[track_caller]
    pub fn rows(&self, sql: &str) -> Vec<Vec<String>> {
        self.query(sql).unwrap_or_else(|error| panic!("{} refuses: {error}\n  {sql}", self.name))
    }

    /// The only value of a query.
    #[track_caller]
    pub fn value(&self, sql: &str) -> String {
        match self.rows(sql).as_slice() {
            [row] if row.len() == 1 => row[0].clone(),
            rows => panic!("{}: not one value but {rows:?}\n  {sql}", self.name),
        }
    }

    /// The number of rows of a table or of a query in parentheses.
    #[track_caller]
    pub fn count(&self, what: &str) -> u64 {
        self.value(&format!("SELECT count(*) FROM {what} t")).parse().expect("a count is a number")
    }

    /// The rows of a query, one line each, in the order of their text. A short name for the row could be that of a column.
    pub fn lines(&self, sql: &str) -> Vec<String> {
        let rows =
            self.rows(&format!("SELECT whole_row::text FROM ({sql}) whole_row ORDER BY whole_row::text COLLATE \"C\""));
        rows.into_iter().map(|row| row.join("|")).collect()
    }

    /// One text that stands for all rows of a query, whatever their order.
    pub fn digest(&self, sql: &str) -> String {
        self.value(&format!(
            "SELECT count(*) || ' rows ' || coalesce(md5(string_agg(whole_row::text, E'\\n' ORDER BY whole_row::text COLLATE \"C\")), '')
             FROM ({sql}) whole_row"
        ))
    }

    /// Runs statements as an administrator, for what no application does: to break things, or to look behind them.
    #[track_caller]
    pub fn admin(&self, sql: &str) -> Vec<Vec<String>> {
        self.administrate(&self.database, sql)
    }

    /// Keeps the server from sending its log to Falkirk, until what this gives back is dropped.
    pub fn hold_back_log(&self) -> HeldBack {
        let senders = self.admin(&format!("SELECT pid FROM pg_stat_replication WHERE usename = '{}'", self.role()));
        let held = HeldBack(senders.iter().filter_map(|row| row[0].parse().ok()).map(Pid::from_raw).collect());
        held.signal(Signal::SIGSTOP);
        held
    }

    #[track_caller]
    fn administrate(&self, database: &str, sql: &str) -> Vec<Vec<String>> {
        // In two steps: a lock that is held while asking would keep the test from stopping the server meanwhile.
        let url = self.server().superuser_url(database);
        let rows = wait_for(async { ask(&connect(&url).await?, sql).await });
        rows.unwrap_or_else(|error| panic!("{} refuses its administrator: {error}\n  {sql}", self.name))
    }

    fn query(&self, sql: &str) -> Result<Vec<Vec<String>>, String> {
        let url = self.application_url();
        let mut kept = self.application.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        wait_for(async {
            // The server may have been restarted since.
            if kept.as_ref().is_none_or(Client::is_closed) {
                *kept = Some(connect(&url).await?);
            }
            match kept.as_ref() {
                Some(client) => ask(client, sql).await,
                None => Err("not connected".to_owned()),
            }
        })
    }
}

/// Server processes that stand still.
pub struct HeldBack(Vec<Pid>);

impl HeldBack {
    fn signal(&self, signal: Signal) {
        for pid in &self.0 {
            // One that has ended meanwhile sends nothing either.
            let _ = kill(*pid, signal);
        }
    }
}

impl Drop for HeldBack {
    fn drop(&mut self) {
        self.signal(Signal::SIGCONT);
    }
}

/// Waits for something asynchronous in a blocking test.
pub(crate) fn wait_for<T>(future: impl Future<Output = T>) -> T {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new().expect("a runtime can be started")).block_on(future)
}

pub(crate) async fn connect(url: &str) -> Result<Client, String> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.map_err(|error| words(&error))?;
    tokio::spawn(connection);
    Ok(client)
}

async fn ask(client: &Client, sql: &str) -> Result<Vec<Vec<String>>, String> {
    let messages = client.simple_query(sql).await.map_err(|error| words(&error))?;
    let row = |message| match message {
        SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|index| row.get(index).unwrap_or("~").to_owned()).collect())
        }
        _ => None,
    };
    Ok(messages.into_iter().filter_map(row).collect())
}

fn words(error: &tokio_postgres::Error) -> String {
    error
        .as_db_error()
        .map_or_else(|| error.to_string(), |server| format!("{} [{}]", server.message(), server.code().code()))
}
