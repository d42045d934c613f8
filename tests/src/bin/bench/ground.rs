//! What the figures stand on: two private servers with the same settings, databases made for one turn and removed after.

use std::path::PathBuf;
use std::time::Duration;

use falkirk::cluster::{Cluster, Options};
use tokio_postgres::{Client, NoTls};

use crate::Wish;

/// Everything that ends the bench, as text.
pub type Outcome<T> = Result<T, String>;

/// The same on both servers. Autovacuum would start at moments of its own and hit the one or the other.
const SETTINGS: &[(&str, &str)] = &[
    ("shared_buffers", "1GB"),
    ("max_wal_size", "16GB"),
    ("checkpoint_timeout", "1h"),
    ("fsync", "on"),
    ("full_page_writes", "on"),
    ("synchronous_commit", "on"),
    ("autovacuum", "off"),
    ("max_logical_replication_workers", "8"),
    // With its default of 5 s a subscription often waits for 5 s before its worker starts, which would make
    // PostgreSQL's own replication look slow for a reason that has nothing to do with speed.
    ("wal_retrieve_retry_interval", "10ms"),
];

/// The two servers and the programs.
pub struct Ground {
    blue: Cluster,
    green: Cluster,
    /// Files of this run: configurations and what the host printed.
    pub files: tempfile::TempDir,
    /// The folder of this program, where the other built programs stand too.
    pub programs: PathBuf,
    /// Whether Falkirk runs at all.
    pub with_falkirk: bool,
}

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The source.
    Blue,
    /// The target.
    Green,
}

/// One database made for the bench, with a connection.
pub struct Database {
    /// Where it is.
    pub side: Side,
    /// Its name.
    pub name: String,
    /// Its address, with the password.
    pub url: String,
    client: Client,
}

impl Ground {
    /// Starts both servers.
    pub fn start(wish: &Wish) -> Outcome<Ground> {
        let settings: Vec<_> = SETTINGS.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let options = Options { settings, ..Options::default() };
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let programs = program.parent().ok_or("this program stands in no folder")?.to_owned();
        if !wish.native_only && !programs.join("falkirk").is_file() {
            return Err(format!("{} is not built: run `make bench`", programs.join("falkirk").display()));
        }
        Ok(Ground {
            blue: Cluster::start(&options).map_err(|problem| problem.to_string())?,
            green: Cluster::start(&options).map_err(|problem| problem.to_string())?,
            files: tempfile::tempdir().map_err(|error| error.to_string())?,
            programs,
            with_falkirk: !wish.native_only,
        })
    }

    /// The machine and the servers, for whoever reads the figures.
    pub async fn describe(&self) -> Outcome<serde_json::Value> {
        let client = connect(&self.blue.superuser_url("postgres")).await?;
        let version: String = client.query_one("SHOW server_version", &[]).await.map_err(text)?.get(0);
        let cores = std::thread::available_parallelism().map_or(0, |cores| cores.get());
        let settings: Vec<_> = SETTINGS.iter().map(|(name, value)| format!("{name} = {value}")).collect();
        Ok(serde_json::json!({ "postgres": version, "cores": cores, "settings": settings }))
    }

    /// Makes a database.
    pub async fn database(&self, side: Side, name: &str, schema: &str) -> Outcome<Database> {
        let cluster = self.cluster(side);
        let server = connect(&cluster.superuser_url("postgres")).await?;
        server.batch_execute(&format!("CREATE DATABASE {name}")).await.map_err(text)?;
        let url = cluster.superuser_url(name);
        let database = Database { side, name: name.to_owned(), client: connect(&url).await?, url };
        database.run(schema).await?;
        Ok(database)
    }

    /// Removes a database with its slots and subscriptions.
    pub async fn remove(&self, database: Database) -> Outcome<()> {
        let Database { side, name, client, .. } = database;
        // The catalog of subscriptions is one for all databases of a server.
        let own = "SELECT subname::text FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid \
                   WHERE d.datname = current_database()";
        for subscription in client.query(own, &[]).await.map_err(text)? {
            let subscription: String = subscription.get(0);
            let alter = format!("ALTER SUBSCRIPTION {subscription}");
            // The slot is dropped with its own database.
            for statement in ["DISABLE", "SET (slot_name = NONE)"] {
                client.batch_execute(&format!("{alter} {statement}")).await.map_err(text)?;
            }
            client.batch_execute(&format!("DROP SUBSCRIPTION {subscription}")).await.map_err(text)?;
        }
        drop(client);
        let server = connect(&self.cluster(side).superuser_url("postgres")).await?;
        drop_slots(&server, &name).await?;
        server.batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)")).await.map_err(text)
    }

    /// Removes the slots that a turn has left on a database which the next turn needs: they hold back its log.
    pub async fn release(&self, database: &Database) -> Outcome<()> {
        let server = connect(&self.cluster(database.side).superuser_url("postgres")).await?;
        drop_slots(&server, &database.name).await
    }

    /// Writes out what both servers hold in memory, so that none does it in the middle of a measurement.
    pub async fn settle(&self) -> Outcome<()> {
        for cluster in [&self.blue, &self.green] {
            connect(&cluster.superuser_url("postgres")).await?.batch_execute("CHECKPOINT").await.map_err(text)?;
        }
        Ok(())
    }

    fn cluster(&self, side: Side) -> &Cluster {
        match side {
            Side::Blue => &self.blue,
            Side::Green => &self.green,
        }
    }
}

impl Database {
    /// Runs statements that answer nothing. Several in one text share a transaction.
    pub async fn run(&self, statements: &str) -> Outcome<()> {
        self.client.batch_execute(statements).await.map_err(|error| format!("{}: {}", self.name, text(error)))
    }

    /// The first column of the only row, as text.
    pub async fn one(&self, query: &str) -> Outcome<String> {
        let rows = self.client.simple_query(query).await.map_err(|error| format!("{}: {}", self.name, text(error)))?;
        let value = rows.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or_default().to_owned()),
            _ => None,
        });
        value.ok_or_else(|| format!("{}: no row: {query}", self.name))
    }

    /// Waits until a query answers `t`, asking every 10 ms, at most 15 minutes.
    pub async fn wait_for(&self, query: &str) -> Outcome<()> {
        let waiting = async {
            while self.one(query).await? != "t" {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Ok(())
        };
        let waited = tokio::time::timeout(Duration::from_secs(900), waiting).await;
        waited.map_err(|_| format!("{}: waited in vain for {query}", self.name))?
    }

    /// Another connection to the same database.
    pub async fn connect(&self) -> Outcome<Client> {
        connect(&self.url).await
    }
}

/// A session that has just ended may still hold its slot for a moment.
async fn drop_slots(server: &Client, database: &str) -> Outcome<()> {
    let dropped =
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = $1 AND NOT active";
    let left = "SELECT count(*) FROM pg_replication_slots WHERE database = $1";
    for _ in 0..200 {
        server.execute(dropped, &[&database]).await.map_err(text)?;
        let count: i64 = server.query_one(left, &[&database]).await.map_err(text)?.get(0);
        if count == 0 {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(format!("a slot of {database} is still in use"))
}

async fn connect(url: &str) -> Outcome<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.map_err(text)?;
    tokio::spawn(connection);
    Ok(client)
}

/// The driver's error with what the server said.
pub fn text(error: tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(said) => format!("{}: {}", said.code().code(), said.message()),
        None => error.to_string(),
    }
}
