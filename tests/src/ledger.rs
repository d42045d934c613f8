//! A ledger under load, and its audit: what a link must neither lose nor do twice.
//!
//! Every transfer inserts a pair of entries, `d` and `-d`, so that half a transaction shows as a sum that is not zero.
//! The target counts by triggers, on purpose not idempotently: an entry that is written twice has fired twice even if
//! it was deleted in between, and an account that is written twice has not gone forward. The audit counts what is
//! lost, what is doubled and the aggregate separately, so that one cannot hide behind another.

use std::collections::HashSet;
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio_postgres::{Client, NoTls};

use crate::{Side, Stage};

/// Where a failing run's seed is given to be run again.
const SEED_VARIABLE: &str = "FALKIRK_SEED";

/// Both sides. The composite key compares otherwise than its bytes.
const TABLES: &str = r#"
    CREATE TABLE account (id bigint PRIMARY KEY, balance bigint NOT NULL, version bigint NOT NULL);
    CREATE TABLE entry (id bigint PRIMARY KEY, account_id bigint NOT NULL REFERENCES account, amount bigint NOT NULL,
        points bigint NOT NULL, remark text);
    CREATE TABLE part (area text COLLATE "en-US-x-icu", number bigint, points bigint NOT NULL, remark text,
        PRIMARY KEY (area, number));"#;

/// The target only: what fires is counted, never set.
const COUNTERS: &str = "
    CREATE TABLE fired (entry_id bigint NOT NULL);
    CREATE TABLE tally (points numeric NOT NULL);
    CREATE TABLE stale (account_id bigint NOT NULL);
    CREATE FUNCTION entry_came() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public AS $$ BEGIN
        INSERT INTO fired SELECT id FROM came;
        INSERT INTO tally SELECT coalesce(sum(points), 0) FROM came;
        RETURN NULL; END $$;
    CREATE FUNCTION entry_went() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public AS $$ BEGIN
        INSERT INTO tally SELECT -coalesce(sum(points), 0) FROM went;
        RETURN NULL; END $$;
    CREATE FUNCTION account_changed() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public AS $$
    BEGIN
        INSERT INTO stale SELECT id FROM new_rows JOIN old_rows USING (id) WHERE new_rows.version <= old_rows.version;
        RETURN NULL; END $$;
    CREATE TRIGGER came AFTER INSERT ON entry REFERENCING NEW TABLE AS came
        FOR EACH STATEMENT EXECUTE FUNCTION entry_came();
    CREATE TRIGGER went AFTER DELETE ON entry REFERENCING OLD TABLE AS went
        FOR EACH STATEMENT EXECUTE FUNCTION entry_went();
    CREATE TRIGGER changed AFTER UPDATE ON account REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
        FOR EACH STATEMENT EXECUTE FUNCTION account_changed();";

/// What the configuration needs so that the counters may count.
pub const CONFIG: &str = "transforms = []\n[tables]\nallow_triggers = [\"public.entry\", \"public.account\"]\n";

/// After so many transactions the kind of load changes.
const CALM: u64 = 500;

/// Sorted otherwise by their collation than by their bytes.
const AREAS: [&str; 6] = ["apple", "Apple", "zebra", "Zebra", "\u{e4}pfel", "_box"];

/// Numbers that look random and come again from the same seed.
pub struct Dice(u64);

impl Dice {
    /// The dice of a seed: for tests of many seeds, of which the failing one is named.
    pub fn of_seed(seed: u64) -> Dice {
        let mut dice = Dice(seed);
        Dice(dice.next())
    }

    /// The only seeds that are to be run, if some were given: `7`, or `7-19`.
    pub fn given_seeds() -> Option<RangeInclusive<u64>> {
        let text = std::env::var(SEED_VARIABLE).ok()?;
        let (first, last) = text.split_once('-').unwrap_or((&text, &text));
        Some(first.parse().ok()?..=last.parse().ok()?)
    }

    /// The seed of this run: the one given in `FALKIRK_SEED`, else a new one. Says it, so that a failing run can be run
    /// again.
    pub fn of_this_run(test: &str) -> Dice {
        let given = std::env::var(SEED_VARIABLE).ok().and_then(|text| text.parse().ok());
        let seed = given.unwrap_or_else(|| u64::from(std::process::id()) << 32 | crate::free_port() as u64);
        println!("{test}: {SEED_VARIABLE}={seed}");
        Dice(seed)
    }

    /// Another stream of numbers from the same seed.
    pub fn fork(&mut self) -> Dice {
        Dice(self.next())
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    /// Waits a random moment up to `most`: the faults are to meet the host anywhere.
    pub fn pause_up_to(&mut self, most: Duration) {
        std::thread::sleep(Duration::from_micros(self.below(most.as_micros() as u64)));
    }

    /// Puts a list into a random order.
    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for at in (1..list.len()).rev() {
            list.swap(at, self.below(at as u64 + 1) as usize);
        }
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// Rows that are there before the load.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Accounts.
    pub accounts: u64,
    /// Pairs of entries.
    pub pairs: u64,
    /// Parts.
    pub parts: u64,
    /// Length of the text in entries and parts.
    pub remark_bytes: u64,
}

/// A ledger on a stage.
pub struct Ledger<'s> {
    stage: &'s Stage,
    size: Size,
}

impl<'s> Ledger<'s> {
    /// Makes the tables on both sides and the first rows on blue.
    pub fn open(stage: &'s Stage, size: Size) -> Ledger<'s> {
        stage.schemas(TABLES, &format!("{TABLES}{COUNTERS}"));
        let Size { accounts, pairs, parts, remark_bytes } = size;
        let areas = AREAS.map(|area| format!("'{area}'")).join(",");
        stage.blue.sql(&format!(
            "INSERT INTO account SELECT n, 0, 0 FROM generate_series(0, {accounts} - 1) n;
             INSERT INTO entry SELECT n * 2 + half, n % {accounts}, (n % 99 + 1) * (1 - 2 * half), n % 1000,
                 repeat('e', {remark_bytes}) FROM generate_series(0, {pairs} - 1) n, generate_series(0, 1) half;
             INSERT INTO part SELECT (ARRAY[{areas}])[n % 6 + 1], n, n % 1000, repeat('p', {remark_bytes})
                 FROM generate_series(0, {parts} - 1) n;
             ANALYZE"
        ));
        Ledger { stage, size }
    }

    /// Starts writers on blue. They survive crashes of the server and write until told to stop.
    pub fn write(&self, writers: u64, pause: Duration, dice: &mut Dice) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let committed = Arc::new(AtomicU64::new(0));
        let writer = |number: u64| {
            let mut writer = Writer { number, size: self.size, dice: dice.fork(), made: 0 };
            let (url, stop, committed) = (self.stage.blue.application_url(), stop.clone(), committed.clone());
            std::thread::spawn(move || {
                run_session(
                    &url,
                    &stop,
                    pause,
                    || writer.transaction(committed.load(Ordering::Relaxed)),
                    |_| {
                        committed.fetch_add(1, Ordering::Relaxed);
                    },
                )
            })
        };
        let threads = (1..=writers).map(writer).collect();
        Load::of(stop, committed, threads)
    }

    /// Starts a reader of green that looks for halves of transactions (L4).
    pub fn watch(&self) -> Watch {
        let stop = Arc::new(AtomicBool::new(false));
        let (torn, reads) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (url, stopped, seen, looks) =
            (self.stage.green.application_url(), stop.clone(), torn.clone(), reads.clone());
        let query = || "SELECT coalesce(sum(amount), 0) FROM entry".to_owned();
        let thread = std::thread::spawn(move || {
            run_session(&url, &stopped, Duration::from_millis(50), query, |sum| {
                seen.fetch_add(u64::from(sum != "0"), Ordering::Relaxed);
                looks.fetch_add(1, Ordering::Relaxed);
            });
        });
        Watch { load: Load::of(stop, torn, vec![thread]), reads }
    }

    /// Compares both sides. Nobody may write meanwhile.
    pub fn audit(&self) -> Audit {
        let (blue, green) = (&self.stage.blue, &self.stage.green);
        let mut audit = Audit { rows: blue.count("entry") + blue.count("part"), ..Audit::default() };
        for key in ["SELECT id FROM account", "SELECT id FROM entry", "SELECT area, number FROM part"] {
            let (left, right) = (keys(blue, key), keys(green, key));
            audit.lost += left.difference(&right).count() as u64;
            audit.surplus += right.difference(&left).count() as u64;
        }
        audit.unfired = green.count("(SELECT FROM entry WHERE id NOT IN (SELECT entry_id FROM fired))");
        audit.doubled = green.count("(SELECT FROM fired GROUP BY entry_id HAVING count(*) > 1)") + green.count("stale");
        let points = |side: &Side, from: &str| -> i64 {
            side.value(&format!("SELECT coalesce(sum(points), 0)::bigint FROM {from}")).parse().expect("a sum")
        };
        audit.aggregate_off = points(green, "tally") - points(blue, "entry");
        audit.sum_off = green.value("SELECT coalesce(sum(amount), 0)::bigint FROM entry").parse().expect("a sum");
        let differs = |table: &&str| {
            let query = format!("SELECT * FROM {table}");
            !self.stage.same(&query, &query)
        };
        audit.tables_that_differ = ["account", "entry", "part"].into_iter().filter(differs).collect();
        audit
    }
}

fn keys(side: &Side, query: &str) -> HashSet<Vec<String>> {
    side.rows(query).into_iter().collect()
}

/// What an audit found.
#[derive(Clone, Debug, Default)]
pub struct Audit {
    /// Entries and parts on blue.
    pub rows: u64,
    /// Keys of blue that green lacks.
    pub lost: u64,
    /// Keys of green that blue lacks.
    pub surplus: u64,
    /// Entries of green that came without the trigger.
    pub unfired: u64,
    /// Entries that fired more than once, and accounts that were written again.
    pub doubled: u64,
    /// How far green's own sum of points is off blue's.
    pub aggregate_off: i64,
    /// What all pairs sum up to.
    pub sum_off: i64,
    /// Tables whose rows are not the same.
    pub tables_that_differ: Vec<&'static str>,
}

impl Audit {
    /// Panics with the figures unless everything is as it should be.
    #[track_caller]
    pub fn expect_clean(&self) {
        let Audit { lost, surplus, unfired, doubled, aggregate_off, sum_off, .. } = self;
        let clean = [*lost, *surplus, *unfired, *doubled] == [0; 4] && [*aggregate_off, *sum_off] == [0; 2];
        assert!(clean && self.tables_that_differ.is_empty(), "{self}");
    }
}

impl fmt::Display for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} rows: lost {}, surplus {}, unfired {}, doubled {}, aggregate off by {}, pairs off by {}, differing: {:?}",
            self.rows,
            self.lost,
            self.surplus,
            self.unfired,
            self.doubled,
            self.aggregate_off,
            self.sum_off,
            self.tables_that_differ
        )
    }
}

/// Sessions at work in threads of their own. Stopped when dropped.
pub struct Load {
    stop: Arc<AtomicBool>,
    committed: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    pub(crate) fn of(stop: Arc<AtomicBool>, committed: Arc<AtomicU64>, threads: Vec<JoinHandle<()>>) -> Load {
        Load { stop, committed, threads }
    }

    /// What was counted so far: committed transactions, or sums that were not zero.
    pub fn counted(&self) -> u64 {
        self.committed.load(Ordering::Relaxed)
    }

    /// Stops, and waits until nobody writes any more.
    pub fn stop(mut self) -> u64 {
        self.end();
        self.counted()
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("a session of the load panicked");
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// A reader of the target.
pub struct Watch {
    load: Load,
    reads: Arc<AtomicU64>,
}

impl Watch {
    /// Stops it. How often it saw half of a transaction, and how often it looked.
    pub fn stop(self) -> (u64, u64) {
        (self.load.stop(), self.reads.load(Ordering::Relaxed))
    }
}

/// Sends one statement after the other; hands on the first value of each answer. Connects again when it must.
pub(crate) fn run_session(
    url: &str,
    stop: &AtomicBool,
    pause: Duration,
    mut statement: impl FnMut() -> String,
    mut done: impl FnMut(&str),
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be started");
    let mut session: Option<Client> = None;
    while !stop.load(Ordering::Relaxed) {
        runtime.block_on(async {
            if session.as_ref().is_none_or(Client::is_closed) {
                session = match tokio_postgres::connect(url, NoTls).await {
                    Ok((client, connection)) => {
                        tokio::spawn(connection);
                        Some(client)
                    }
                    Err(_) => None,
                };
            }
            // What fails here is a crash or a deadlock that the test is about; the audit compares what is left of it.
            if let Some(client) = &session
                && let Ok(answers) = client.simple_query(&statement()).await
            {
                let first = answers.iter().find_map(|answer| match answer {
                    tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
                    _ => None,
                });
                done(first.unwrap_or_default());
            }
            tokio::time::sleep(pause).await;
        });
    }
}

/// One of the writers: knows which rows it made.
struct Writer {
    number: u64,
    size: Size,
    dice: Dice,
    made: u64,
}

impl Writer {
    fn id(&self, made: u64) -> u64 {
        self.number * 1_000_000_000 + made
    }

    /// The text of one transaction: statements that are sent together are one. For a while all writers only change
    /// accounts: no key of the target refuses that when it is done twice.
    fn transaction(&mut self, written: u64) -> String {
        if (written / CALM) % 2 == 1 {
            let account = self.dice.below(self.size.accounts);
            return format!("UPDATE account SET balance = balance + 1, version = version + 1 WHERE id = {account}");
        }
        match self.dice.below(100) {
            0..55 => self.transfer(),
            55..58 => format!("BEGIN; {}; ROLLBACK", self.transfer()),
            58..62 => format!("BEGIN; SAVEPOINT a; {}; ROLLBACK TO a; {}; COMMIT", self.transfer(), self.transfer()),
            62..74 => self.take_back(),
            74..82 => self.new_part(),
            82..90 => self.change_part(),
            90..96 => self.move_part(),
            _ => {
                let (area, number) = self.some_part();
                format!("DELETE FROM part WHERE area = '{area}' AND number = {number}")
            }
        }
    }

    fn transfer(&mut self) -> String {
        self.made += 2;
        let id = self.id(self.made);
        let (one, other) = (self.dice.below(self.size.accounts), self.dice.below(self.size.accounts));
        let (amount, points) = (self.dice.below(1000) + 1, self.dice.below(1000));
        // Always in the same order, or the writers only meet in deadlocks.
        let (first, second) = (one.min(other), one.max(other));
        format!(
            "INSERT INTO entry VALUES ({id}, {one}, {amount}, {points}, 'new'), ({id} + 1, {other}, -{amount}, 1, NULL);
             UPDATE account SET balance = balance + {amount}, version = version + 1 WHERE id = {first};
             UPDATE account SET balance = balance - {amount}, version = version + 1 WHERE id = {second}"
        )
    }

    /// Deletes a pair: one of its own or one that was there at the start.
    fn take_back(&mut self) -> String {
        let id = match self.dice.below(2) {
            0 => self.dice.below(self.size.pairs) * 2,
            _ => {
                let made = self.dice.below(self.made / 2 + 1) * 2;
                self.id(made)
            }
        };
        format!("DELETE FROM entry WHERE id IN ({id}, {id} + 1)")
    }

    fn some_part(&mut self) -> (&'static str, u64) {
        let number = self.dice.below(self.size.parts);
        (AREAS[(number % 6) as usize], number)
    }

    fn new_key(&mut self) -> (&'static str, u64) {
        self.made += 2;
        (AREAS[self.dice.below(6) as usize], self.id(self.made))
    }

    fn new_part(&mut self) -> String {
        let ((area, number), points) = (self.new_key(), self.dice.below(1000));
        format!("INSERT INTO part VALUES ('{area}', {number}, {points}, 'new')")
    }

    fn change_part(&mut self) -> String {
        let ((area, number), length) = (self.some_part(), self.dice.below(300));
        format!(
            "UPDATE part SET points = points + 1, remark = repeat('x', {length}) WHERE area = '{area}' AND number = {number}"
        )
    }

    fn move_part(&mut self) -> String {
        let ((area, number), (to, new)) = (self.some_part(), self.new_key());
        format!("UPDATE part SET area = '{to}', number = {new} WHERE area = '{area}' AND number = {number}")
    }
}
