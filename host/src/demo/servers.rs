//! The demo's two private servers: made, filled with the shop's schemas and roles, written into a configuration.
//!
//! Everything that the demo puts on disk lies in the two servers' own folders, so that it goes with them, whatever
//! happens to this process.

use std::path::{Path, PathBuf};

use crate::cluster::{Cluster, Options};
use crate::config::Direction;
use crate::demo::{roles, seed};
use crate::pg::address::Address;
use crate::pg::session::Session;
use crate::problem::{Blame, Outcome, Problem};

const V1: &str = include_str!("../../../examples/shop/v1.sql");
const V2: &str = include_str!("../../../examples/shop/v2.sql");

const DATABASE: &str = "shop";
/// The role of the application, which owns the tables.
const OWNER: &str = "shop";
/// The role of Falkirk.
const ROLE: &str = "falkirk";

/// Two servers.
pub struct Servers {
    /// Release 1.
    pub blue: Cluster,
    /// Release 2.
    pub green: Cluster,
    password: String,
}

impl Servers {
    /// Starts both. `settings` go into both configurations.
    pub async fn start(settings: Vec<(String, String)>) -> Outcome<Servers> {
        let start = |settings| tokio::task::spawn_blocking(move || Cluster::start(&Options { bin: None, settings }));
        let (blue, green) = tokio::join!(start(settings.clone()), start(settings));
        let (blue, green) = (blue.unwrap_or_else(|_| Err(lost())), green.unwrap_or_else(|_| Err(lost())));
        Ok(Servers { blue: blue?, green: green?, password: random_password()? })
    }

    /// Makes the shop's databases, schemas and roles, as its people would.
    pub async fn furnish(&self) -> Outcome<()> {
        tokio::try_join!(self.furnish_one(&self.blue, V1), self.furnish_one(&self.green, V2))?;
        Ok(())
    }

    async fn furnish_one(&self, server: &Cluster, schema: &str) -> Outcome<()> {
        let first = connect(&server.superuser_url("postgres")).await?;
        first.run(&format!("CREATE ROLE {OWNER} LOGIN PASSWORD '{}'", self.password)).await?;
        first.run(&format!("CREATE DATABASE {DATABASE} OWNER {OWNER}")).await?;
        let shop = connect(&server.url(OWNER, &self.password, DATABASE)).await?;
        shop.run("SET search_path = public").await?;
        shop.run(schema).await?;
        shop.run(FULL_IDENTITY).await?;
        let administrator = connect(&server.superuser_url(DATABASE)).await?;
        let values = [
            ("role", ROLE),
            ("password", self.password.as_str()),
            ("owner", OWNER),
            ("schema", "public"),
            ("DBNAME", DATABASE),
        ];
        // Each side is read and written.
        roles::run(&administrator, roles::SOURCE, &values).await?;
        roles::run(&administrator, roles::TARGET, &values).await
    }

    /// Fills blue; returns how many rows it has then.
    pub async fn seed(&self) -> Outcome<u64> {
        let shop = connect(&self.blue_url()).await?;
        shop.run("SET search_path = public; SET jit = off").await?;
        for (_, sql) in seed::statements() {
            shop.run(&sql).await?;
        }
        shop.run("ANALYZE").await?;
        let mut rows = 0;
        for (table, _) in seed::statements() {
            rows += shop.one(&format!("SELECT count(*) FROM {table}")).await?.number::<u64>(0)?;
        }
        Ok(rows)
    }

    /// Writes the configuration, with its secrets in files beside it.
    pub fn write_configuration(&self, transform: &Path, direction: Direction) -> Outcome<PathBuf> {
        let folder = self.blue.folder();
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::write(&path, text).map(|()| path).map_err(|error| unwritten(name, &error))
        };
        write("blue.url", &self.blue.url(ROLE, &self.password, DATABASE))?;
        write("green.url", &self.green.url(ROLE, &self.password, DATABASE))?;
        let transform = serde_json::Value::from(transform.display().to_string());
        // A JSON string is a TOML string.
        let text = format!(
            "[migration]\nname = \"shop\"\ndirection = \"{}\"\nconflict = \"green_wins\"\ntransforms = [{transform}]\n\n\
             [blue]\nurl_file = \"blue.url\"\nschema_version = \"1\"\n\n\
             [green]\nurl_file = \"green.url\"\nschema_version = \"2\"\n\n\
             [copy]\nworkers = 2\n",
            match direction {
                Direction::Forward => "forward",
                Direction::Backward => "backward",
                Direction::Both => "both",
            }
        );
        write("falkirk.toml", &text)
    }

    /// Blue as the shop's owner sees it.
    pub fn blue_url(&self) -> String {
        self.blue.url(OWNER, &self.password, DATABASE)
    }

    /// Green as the shop's owner sees it.
    pub fn green_url(&self) -> String {
        self.green.url(OWNER, &self.password, DATABASE)
    }

    /// Leaves both running. Says how to use and to remove them.
    pub fn keep(self, configuration: Option<&Path>) -> Outcome<String> {
        let (blue_url, green_url) = (self.blue_url(), self.green_url());
        let removals = [self.blue.keep()?, self.green.keep()?];
        let mut text =
            format!("\nthe servers keep running:\n  psql '{blue_url}'  # blue\n  psql '{green_url}'  # green\n");
        if let Some(path) = configuration {
            let path = path.display();
            text.push_str(&format!("  falkirk run -c {path}  # or status, verify, clean\n"));
        }
        text.push_str("remove them with:\n");
        removals.iter().for_each(|removal| text.push_str(&format!("  {removal}\n")));
        Ok(text)
    }

    /// Stops and removes both.
    pub async fn remove(self) {
        // It cannot fail: what is left to do after a panic in there is done by the servers' watchers.
        let _ = tokio::task::spawn_blocking(move || drop(self)).await;
    }
}

/// What `falkirk check` prints for tables without it: transforms with inputs need the old rows.
const FULL_IDENTITY: &str = "
    DO $$ DECLARE leaf regclass; BEGIN
        FOR leaf IN SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' LOOP
            EXECUTE format('ALTER TABLE %s REPLICA IDENTITY FULL', leaf);
        END LOOP;
    END $$";

/// A session, made with what a person would write down.
pub async fn connect(url: &str) -> Outcome<Session> {
    Session::connect(&Address::parse(url)?, "demo").await
}

fn random_password() -> Outcome<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| {
        Problem::refuse(Blame::Host, "NO_RANDOMNESS", format!("could not draw random bytes: {error}"))
    })?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn unwritten(name: &str, error: &std::io::Error) -> Problem {
    Problem::refuse(Blame::Host, "DEMO_FILES", format!("could not write {name} for the demo: {error}"))
}

fn lost() -> Problem {
    Problem::refuse(Blame::Host, "TASK_LOST", "starting a private server ended without an answer")
}
