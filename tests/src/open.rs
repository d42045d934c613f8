//! A session that stays in a transaction: what holds locks while a test looks on, also until the link loses a deadlock.

use tokio_postgres::Client;

use crate::side::{connect, wait_for};
use crate::{Running, SOON, Stage, until};

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

    /// Runs further statements in it; the server's own words if it refuses them.
    pub fn run(&self, sql: &str) -> Result<(), String> {
        wait_for(self.0.batch_execute(sql)).map_err(|error| error.to_string())
    }

    /// Commits it.
    pub fn commit(self) {
        wait_for(self.0.batch_execute("COMMIT")).expect("a commit");
    }
}

/// Starts a host that loses a deadlock against the target's application, and has said so, when this comes back.
///
/// The application does the first of `touches`, the source makes `change` once `streams` holds, and when the link waits
/// for the application, the application does the second one, for which it has to wait for the link.
#[track_caller]
pub fn lose_a_deadlock(stage: &Stage, touches: [&str; 2], change: &str, mut streams: impl FnMut() -> bool) -> Running {
    let (green, role) = (&stage.green, stage.green.role());
    // Whoever looks for a deadlock loses it, and looks once, so long after it began to wait: the link, which began
    // first, and by then the circle is closed.
    green.admin(&format!("ALTER ROLE \"{role}\" SET deadlock_timeout = '3s'"));
    let host = stage.start_falkirk(&["run"]);
    until("the host streams", SOON, &mut streams);
    let application =
        Open::transaction(&green.administrator_url(), &format!("SET LOCAL deadlock_timeout = '1h'; {}", touches[0]));
    stage.blue.sql(change);
    let waits = format!("SELECT FROM pg_stat_activity WHERE usename = '{role}' AND wait_event_type = 'Lock'");
    until("the link waits for the application", SOON, || !green.admin(&waits).is_empty());
    application.run(touches[1]).expect("the link is the victim, so the application goes on");
    application.commit();
    until("the host says that it has lost", SOON, || host.err().contains("40P01"));
    assert!(host.err().contains("starting again from the checkpoint"), "{}", host.err());
    green.admin(&format!("ALTER ROLE \"{role}\" RESET deadlock_timeout"));
    host
}
