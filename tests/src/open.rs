//! A session that stays in a transaction: what holds locks while a test looks on.

use tokio_postgres::Client;

use crate::side::{connect, wait_for};

/// A session that stays open in a transaction; dropping it rolls back.
pub struct Open(Client);

impl Open {
    /// Begins a transaction with these statements.
    #[track_caller]
    pub fn transaction(url: &str, sql: &str) -> Open {
        let client = wait_for(async {
            let client = connect(url).await?;
            client.batch_execute(&format!("BEGIN; {sql}")).await.map_err(|error| error.to_string())?;
            Ok::<Client, String>(client)
        });
        Open(client.unwrap_or_else(|error| panic!("a transaction that stays open: {error}\n  {sql}")))
    }

    /// Commits it.
    pub fn commit(self) {
        wait_for(self.0.batch_execute("COMMIT")).expect("a commit");
    }
}
