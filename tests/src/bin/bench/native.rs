//! PostgreSQL's own logical replication, as its manual has it: a publication, a slot, a subscription.

use crate::ground::{Database, Outcome};

/// A subscription on the target to a slot of its own on the source.
pub struct Native<'d> {
    source: &'d Database,
    target: &'d Database,
    name: String,
}

impl<'d> Native<'d> {
    /// Publication and slot: from here on the source keeps its changes. Nothing is read yet.
    pub async fn prepare(source: &'d Database, target: &'d Database, table: &str) -> Outcome<Native<'d>> {
        let name = format!("native_{}", target.name);
        source.run(&format!("CREATE PUBLICATION {name} FOR TABLE {table}")).await?;
        Ok(Native { source, target, name })
    }

    /// A slot now and a subscription that is not running yet.
    pub async fn hold(&self) -> Outcome<()> {
        let name = &self.name;
        self.source.one(&format!("SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')")).await?;
        self.subscribe(&format!("create_slot = false, slot_name = {name}, copy_data = false, enabled = false")).await
    }

    /// Starts the subscription that [`Native::hold`] made.
    pub async fn go(&self) -> Outcome<()> {
        self.target.run(&format!("ALTER SUBSCRIPTION {} ENABLE", self.name)).await
    }

    /// Copies the rows there are, and streams.
    pub async fn copy(&self) -> Outcome<()> {
        self.subscribe("copy_data = true").await?;
        // `s` is copied and level with the stream, `r` is handed over to the stream's worker.
        self.target.wait_for("SELECT bool_and(srsubstate IN ('s', 'r')) FROM pg_subscription_rel").await
    }

    /// Stops reading, so that the other one has the machine to itself.
    pub async fn halt(&self) -> Outcome<()> {
        self.target.run(&format!("ALTER SUBSCRIPTION {} DISABLE", self.name)).await?;
        let running = "SELECT count(*) = 0 FROM pg_stat_subscription WHERE pid IS NOT NULL AND subname";
        self.target.wait_for(&format!("{running} = '{}'", self.name)).await?;
        let active = "SELECT count(*) = 0 FROM pg_replication_slots WHERE active AND slot_name";
        self.source.wait_for(&format!("{active} = '{}'", self.name)).await
    }

    async fn subscribe(&self, options: &str) -> Outcome<()> {
        let (name, url) = (&self.name, &self.source.url);
        self.target
            .run(&format!("CREATE SUBSCRIPTION {name} CONNECTION '{url}' PUBLICATION {name} WITH ({options})"))
            .await
    }
}
