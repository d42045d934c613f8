//! Two ledgers at work at once, one on each side, with both links between them: what a pair of links must neither lose,
//! nor do twice, nor send back.
//!
//! Every row belongs to the side whose application made it, and only that side's writers touch it; the row's number says
//! whose it is. On both sides a trigger counts, on purpose not idempotently, who wrote which row: a row that a link has
//! written twice has been counted twice, whatever it holds now, and a row that a link has written on the side it came
//! from is an echo. The audit counts what is lost, doubled, sent back, written and applied separately.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::ledger::{Dice, Load, run_session};
use crate::{Side, Stage};

/// Both sides. `fired` belongs to each side alone.
const TABLES: &str = "
    CREATE TABLE account (id bigint PRIMARY KEY, balance bigint NOT NULL, version bigint NOT NULL);
    CREATE TABLE entry (id bigint PRIMARY KEY, account_id bigint NOT NULL REFERENCES account, amount bigint NOT NULL,
        state text NOT NULL);
    ALTER TABLE account REPLICA IDENTITY FULL;
    ALTER TABLE entry REPLICA IDENTITY FULL;
    CREATE TABLE fired (relation text NOT NULL, row_id bigint NOT NULL, kind text NOT NULL, by_link boolean NOT NULL,
        forwards boolean NOT NULL);
    CREATE FUNCTION count_write() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public AS $$ BEGIN
        INSERT INTO fired VALUES (TG_TABLE_NAME, CASE TG_OP WHEN 'DELETE' THEN OLD.id ELSE NEW.id END, TG_OP,
            session_user LIKE 'falkirk%',
            TG_TABLE_NAME <> 'account' OR TG_OP <> 'UPDATE'
                OR (to_jsonb(NEW) ->> 'version')::bigint > (to_jsonb(OLD) ->> 'version')::bigint);
        RETURN NULL; END $$;
    CREATE TRIGGER count_write AFTER INSERT OR UPDATE OR DELETE ON account
        FOR EACH ROW EXECUTE FUNCTION count_write();
    CREATE TRIGGER count_write AFTER INSERT OR UPDATE OR DELETE ON entry
        FOR EACH ROW EXECUTE FUNCTION count_write();";

/// What the configuration needs so that the triggers may count.
pub const CONFIG: &str = "conflict = \"green_wins\"\ntransforms = []\n[tables]\nexclude = [\"public.fired\"]\n\
    allow_triggers = [\"public.entry\", \"public.account\"]\n";

/// Green's numbers start here.
const GREENS: u64 = 1_000_000_000_000;

/// Rows of each side that are there before the load.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Accounts: changed again and again.
    pub accounts: u64,
    /// Pairs of entries: settled or taken back once at most.
    pub pairs: u64,
}

/// Two ledgers on a stage.
pub struct Twins<'s> {
    stage: &'s Stage,
    size: Size,
}

impl<'s> Twins<'s> {
    /// Makes the tables on both sides and both sides' first rows on blue, for the copy.
    pub fn open(stage: &'s Stage, size: Size) -> Twins<'s> {
        stage.schemas(TABLES, TABLES);
        let Size { accounts, pairs } = size;
        for base in [0, GREENS] {
            stage.blue.sql(&format!(
                "INSERT INTO account SELECT {base} + n, 0, 0 FROM generate_series(0, {accounts} - 1) n;
                 INSERT INTO entry SELECT {base} + n * 2 + half, {base} + n % {accounts},
                    (n % 99 + 1) * (1 - 2 * half), 'open' FROM generate_series(0, {pairs} - 1) n, generate_series(0, 1) half"
            ));
        }
        Twins { stage, size }
    }

    /// What was counted so far does not count: the copy is over.
    pub fn begin(&self) {
        [&self.stage.blue, &self.stage.green].iter().for_each(|side| side.sql("TRUNCATE fired"));
    }

    /// Starts writers on both sides, blue's first. They survive crashes of their server.
    pub fn write(&self, writers: u64, pause: Duration, dice: &mut Dice) -> [Load; 2] {
        [(&self.stage.blue, 0), (&self.stage.green, GREENS)].map(|(side, base)| {
            let (stop, committed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
            let writer = |number: u64| {
                let share = (self.size.pairs / writers * number, self.size.pairs / writers * (number + 1));
                let mut writer = Writer { base, number, size: self.size, share, made: 0, dice: dice.fork() };
                let (url, stop, committed) = (side.application_url(), stop.clone(), committed.clone());
                std::thread::spawn(move || {
                    run_session(
                        &url,
                        &stop,
                        pause,
                        || writer.transaction(),
                        |_| {
                            committed.fetch_add(1, Ordering::Relaxed);
                        },
                    )
                })
            };
            let threads = (0..writers).map(writer).collect();
            Load::of(stop, committed, threads)
        })
    }

    /// Compares both sides, each way. Nobody may write meanwhile, and everything has to have arrived.
    pub fn audit(&self) -> [OneWay; 2] {
        let (blue, green) = (&self.stage.blue, &self.stage.green);
        [self.one_way("forward", blue, green, "<"), self.one_way("backward", green, blue, ">=")]
    }

    fn one_way(&self, link: &'static str, from: &Side, to: &Side, own: &str) -> OneWay {
        let own = |column: &str| format!("{column} {own} {GREENS}");
        let rows = |side: &Side, table: &str| -> HashSet<String> {
            side.lines(&format!("SELECT * FROM {table} WHERE {}", own("id"))).into_iter().collect()
        };
        let mut found = OneWay { link, ..OneWay::default() };
        for table in ["account", "entry"] {
            let (sent, come) = (rows(from, table), rows(to, table));
            found.rows += sent.len() as u64;
            found.lost += sent.difference(&come).count() as u64;
            found.surplus += come.difference(&sent).count() as u64;
        }
        let own = own("row_id");
        // An account is changed again and again, and several changes may arrive as one: it may just not go back.
        found.doubled = to.count(&format!(
            "(SELECT FROM fired WHERE by_link AND relation = 'entry' AND {own} GROUP BY row_id, kind HAVING count(*) > 1)"
        )) + to.count(&format!("(SELECT FROM fired WHERE by_link AND NOT forwards AND {own})"));
        found.echoes = from.count(&format!("(SELECT FROM fired WHERE by_link AND {own})"));
        let kinds = |side: &Side, by_link: bool, relation: &str| {
            let count = |kind: &str| {
                side.count(&format!(
                    "(SELECT FROM fired WHERE by_link = {by_link} AND relation = '{relation}' AND kind = '{kind}' AND {own})"
                ))
            };
            ["INSERT", "UPDATE", "DELETE"].map(count)
        };
        found.written = kinds(from, false, "entry");
        found.applied = kinds(to, true, "entry");
        let accounts = kinds(to, true, "account");
        found.fired = [0, 1, 2].map(|kind: usize| found.applied[kind] + accounts[kind]);
        let counters =
            to.admin(&format!("SELECT inserted, updated, deleted FROM falkirk.checkpoint WHERE link = '{link}'"));
        found.counted = [0, 1, 2].map(|kind: usize| counters[0][kind].parse().expect("a counter is a number"));
        found.conflicts = to.admin("SELECT count(*) FROM falkirk.conflict")[0][0].parse().expect("a count is a number");
        found
    }
}

/// What an audit found one way. Rows as inserted, updated, deleted.
#[derive(Clone, Debug, Default)]
pub struct OneWay {
    link: &'static str,
    /// Rows that the source's application owns.
    pub rows: u64,
    /// Rows, as they are, that the target lacks.
    pub lost: u64,
    /// Rows, as they are, that only the target has.
    pub surplus: u64,
    /// Rows that the link has written more than once, or back in time.
    pub doubled: u64,
    /// The source's own rows that a link has written on the source.
    pub echoes: u64,
    /// Entries that the source's application has written.
    pub written: [u64; 3],
    /// Entries that the link has written in the target.
    pub applied: [u64; 3],
    /// Everything that the link has written, as the target's triggers counted it.
    pub fired: [u64; 3],
    /// The same as the link's checkpoint counted it.
    pub counted: [u64; 3],
    /// Conflicts recorded on the target; there are none.
    pub conflicts: u64,
}

impl OneWay {
    /// Panics with the figures unless everything is as it should be.
    #[track_caller]
    pub fn expect_clean(&self) {
        let faults = [self.lost, self.surplus, self.doubled, self.echoes, self.conflicts];
        let exact = self.written == self.applied && self.fired == self.counted;
        assert!(faults == [0; 5] && exact && self.written[0] > 0, "{self}");
    }
}

impl fmt::Display for OneWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} rows: lost {}, surplus {}, doubled {}, echoes {}, conflicts {}; entries written {:?}, applied {:?}; \
             all rows fired {:?}, counted {:?}",
            self.link,
            self.rows,
            self.lost,
            self.surplus,
            self.doubled,
            self.echoes,
            self.conflicts,
            self.written,
            self.applied,
            self.fired,
            self.counted
        )
    }
}

struct Writer {
    base: u64,
    number: u64,
    size: Size,
    /// The pairs of the start that are this writer's, as far as it has not used them.
    share: (u64, u64),
    made: u64,
    dice: Dice,
}

impl Writer {
    /// The text of one transaction. Entries are inserted and left alone, settled once or taken back once, so that no two
    /// changes of one become one on their way; accounts are changed again and again.
    fn transaction(&mut self) -> String {
        match self.dice.below(100) {
            0..50 => self.transfer(),
            50..54 => format!("BEGIN; {}; ROLLBACK", self.transfer()),
            54..58 => format!("BEGIN; SAVEPOINT a; {}; ROLLBACK TO a; {}; COMMIT", self.transfer(), self.transfer()),
            58..80 if self.share.0 < self.share.1 => self.end_pair(),
            _ => {
                let account = self.account();
                format!("UPDATE account SET balance = balance + 1, version = version + 1 WHERE id = {account}")
            }
        }
    }

    fn account(&mut self) -> u64 {
        self.base + self.dice.below(self.size.accounts)
    }

    fn transfer(&mut self) -> String {
        self.made += 2;
        let id = self.base + (self.number + 1) * 1_000_000_000 + self.made;
        let (one, other, amount) = (self.account(), self.account(), self.dice.below(1_000) + 1);
        // Always in the same order, or the writers only meet in deadlocks.
        let (first, second) = (one.min(other), one.max(other));
        format!(
            "INSERT INTO entry VALUES ({id}, {one}, {amount}, 'new'), ({id} + 1, {other}, -{amount}, 'new');
             UPDATE account SET balance = balance + {amount}, version = version + 1 WHERE id = {first};
             UPDATE account SET balance = balance - {amount}, version = version + 1 WHERE id = {second}"
        )
    }

    fn end_pair(&mut self) -> String {
        let id = self.base + self.share.0 * 2;
        self.share.0 += 1;
        match self.dice.below(2) {
            0 => format!("UPDATE entry SET state = 'settled' WHERE id IN ({id}, {id} + 1)"),
            _ => format!("DELETE FROM entry WHERE id IN ({id}, {id} + 1)"),
        }
    }
}
