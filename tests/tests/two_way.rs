//! Both links under random load, kills and stalls: the sides converge, whatever the interleaving (L8), and whatever was
//! not written is recorded (L3).
//!
//! Each seed is a short burst of transactions on both sides at once, over few rows, so that they collide. A failing seed
//! prints itself; `FALKIRK_SEED=n` runs only that one, `n-m` those. `make torture` runs many more.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use falkirk_tests::ledger::Dice;
use falkirk_tests::{Running, SOON, Side, Stage, until};

/// `t` and `u` hold tokens, each written once: what became of it is looked for afterwards. `history` belongs to each side
/// alone.
const TABLES: &str = "
    CREATE TABLE item (id int PRIMARY KEY, a int NOT NULL, b int NOT NULL, c text, t text, u text);
    CREATE TABLE fence (side text PRIMARY KEY, number bigint NOT NULL);
    ALTER TABLE item REPLICA IDENTITY FULL;
    ALTER TABLE fence REPLICA IDENTITY FULL;
    CREATE TABLE history (n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, by_link boolean NOT NULL, old_id int,
        new_id int, t text, u text);
    CREATE FUNCTION remember() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public AS $$ BEGIN
        INSERT INTO history (by_link, old_id, new_id, t, u) VALUES (session_user LIKE 'falkirk%', OLD.id, NEW.id,
            CASE WHEN NEW.t IS DISTINCT FROM OLD.t THEN NEW.t END, CASE WHEN NEW.u IS DISTINCT FROM OLD.u THEN NEW.u END);
        RETURN NULL; END $$;
    CREATE TRIGGER remember AFTER INSERT OR UPDATE OR DELETE ON item FOR EACH ROW EXECUTE FUNCTION remember();";

const TRIGGERS: &str = "[tables]\nexclude = [\"public.history\"]\nallow_triggers = [\"public.item\"]\n";

/// Keys that both sides fight over.
const KEYS: u64 = 6;

fn long() -> bool {
    std::env::var("FALKIRK_TORTURE").is_ok_and(|tier| tier == "long")
}

fn seeds(few: u64, many: u64) -> Vec<u64> {
    match Dice::given_seeds() {
        Some(seeds) => seeds.collect(),
        None => (1..=if long() { many } else { few }).collect(),
    }
}

/// What the two sides of a burst do to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Everything, on all keys.
    Anything,
    /// Each side has its own keys: nobody may lose anything.
    DisjointKeys,
    /// Both update the same rows, each its own columns: nobody may lose anything.
    DisjointColumns,
    /// Both update one column of the same rows.
    OneColumn,
    /// There and back again: values that are as they were, rows that are deleted and made anew.
    ThereAndBack,
}

const KINDS: [Kind; 5] =
    [Kind::Anything, Kind::DisjointKeys, Kind::DisjointColumns, Kind::OneColumn, Kind::ThereAndBack];

/// Somebody who writes on one side.
struct Author {
    kind: Kind,
    seed: u64,
    is_blue: bool,
    tokens: u64,
    dice: Dice,
}

impl Author {
    fn key(&mut self) -> u64 {
        let own = u64::from(self.is_blue);
        match self.kind {
            Kind::DisjointKeys => 1 + self.dice.below(KEYS / 2) * 2 + own,
            _ => 1 + self.dice.below(KEYS),
        }
    }

    fn token(&mut self) -> String {
        self.tokens += 1;
        format!("{}{}.{}", if self.is_blue { 'b' } else { 'g' }, self.seed, self.tokens)
    }

    /// One transaction.
    fn transaction(&mut self) -> String {
        let mut statements = String::from("BEGIN;");
        for _ in 0..=self.dice.below(2) {
            statements += &match self.kind {
                Kind::Anything | Kind::DisjointKeys => self.anything(),
                Kind::DisjointColumns => {
                    let (id, value, token) = (self.key(), self.dice.below(3), self.token());
                    let (number, text) = if self.is_blue { ("a", "t") } else { ("b", "u") };
                    format!("UPDATE item SET {number} = {value}, {text} = '{token}' WHERE id = {id};")
                }
                Kind::OneColumn => {
                    let (id, value, token) = (self.key(), self.dice.below(3), self.token());
                    match self.dice.below(2) {
                        0 => format!("UPDATE item SET a = {value} WHERE id = {id};"),
                        _ => format!("UPDATE item SET t = '{token}' WHERE id = {id};"),
                    }
                }
                Kind::ThereAndBack => self.there_and_back(),
            };
        }
        statements + "COMMIT"
    }

    /// Inserts, updates of one column or more, there and back again, deletes, key changes.
    fn anything(&mut self) -> String {
        let (id, value, token) = (self.key(), self.dice.below(3), self.token());
        match self.dice.below(11) {
            0 | 1 => self.insert(id),
            2 => format!("UPDATE item SET a = {value} WHERE id = {id};"),
            3 => format!("UPDATE item SET b = {value} WHERE id = {id};"),
            4 => format!("UPDATE item SET t = '{token}' WHERE id = {id};"),
            5 => format!("UPDATE item SET u = '{token}', b = {value} WHERE id = {id};"),
            6 => format!("UPDATE item SET a = 7 WHERE id = {id}; UPDATE item SET a = {value} WHERE id = {id};"),
            7 => format!("UPDATE item SET a = {value}, b = {value}, c = 'y{value}' WHERE id = {id};"),
            8 => format!("DELETE FROM item WHERE id = {id};"),
            9 => format!("DELETE FROM item WHERE id = {id}; {}", self.insert(id)),
            _ => format!(
                "UPDATE item SET id = {0} WHERE id = {id} AND NOT EXISTS (SELECT FROM item WHERE id = {0});",
                self.key()
            ),
        }
    }

    fn there_and_back(&mut self) -> String {
        let id = self.key();
        match self.dice.below(5) {
            0 => format!("UPDATE item SET a = 1 WHERE id = {id};"),
            1 => format!("UPDATE item SET a = 0 WHERE id = {id};"),
            2 => format!("UPDATE item SET a = 2 WHERE id = {id}; UPDATE item SET a = 0 WHERE id = {id};"),
            3 => format!("DELETE FROM item WHERE id = {id}; {}", self.insert(id)),
            _ => self.insert(id),
        }
    }

    fn insert(&mut self, id: u64) -> String {
        let (value, t, u) = (self.dice.below(3), self.token(), self.token());
        format!("INSERT INTO item VALUES ({id}, {value}, {value}, 'x', '{t}', '{u}') ON CONFLICT DO NOTHING;")
    }

    fn burst(mut self, side: &Side) {
        for _ in 0..self.dice.below(8) + 2 {
            // Two transactions of the same side never run at once here, but the links may be in their way.
            if let Err(error) = side.try_sql(&self.transaction()) {
                let _ = side.try_sql("ROLLBACK");
                let excused = ["40P01", "23505", "40001"].iter().any(|state| error.contains(state));
                assert!(excused, "{}: {error}", side.name);
            }
            self.dice.pause_up_to(Duration::from_millis(4));
        }
    }
}

/// Everything that was written before has arrived on both sides, also what the arrival itself set off.
fn quiet(stage: &Stage, seed: u64, host: &mut Running) {
    static MARKS: AtomicU64 = AtomicU64::new(1);
    for _ in 0..2 {
        let mark = MARKS.fetch_add(1, Ordering::Relaxed);
        for side in [&stage.blue, &stage.green] {
            let name = side.name;
            side.sql(&format!(
                "INSERT INTO fence VALUES ('{name}', {mark}) ON CONFLICT (side) DO UPDATE SET number = {mark}"
            ));
        }
        let arrived = |side: &Side, other: &str| {
            side.count(&format!("(SELECT FROM fence WHERE side = '{other}' AND number = {mark})")) == 1
        };
        until(&format!("the fences are passed after seed {seed}"), SOON, || {
            assert!(host.is_running(), "seed {seed}: the host has ended\n{}{}", host.out(), host.err());
            arrived(&stage.blue, "green") && arrived(&stage.green, "blue")
        });
    }
}

fn assert_agree(stage: &Stage, seed: u64) {
    let query = "SELECT * FROM item";
    let end = Instant::now() + SOON;
    while !stage.same(query, query) {
        if Instant::now() > end {
            let (blue, green) = (stage.blue.lines(query), stage.green.lines(query));
            let only = |these: &[String], those: &[String]| -> Vec<String> {
                these.iter().filter(|line| !those.contains(line)).cloned().collect()
            };
            let (only_blue, only_green) = (only(&blue, &green), only(&green, &blue));
            let told = [&stage.blue, &stage.green].map(|side| {
                let conflicts =
                    side.admin("SELECT link, position, kind, key, kept, lost, state FROM falkirk.conflict ORDER BY id");
                let history = side.lines("SELECT n, by_link, old_id, new_id, t, u FROM history");
                format!("{} records {conflicts:?}\n  and its history {history:?}", side.name)
            });
            panic!(
                "L8: seed {seed} leaves the sides apart\n  blue alone:  {only_blue:?}\n  green alone: {only_green:?}\n  {}",
                told.join("\n  ")
            );
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The tokens that a side's application wrote last, by row and column, as far as it has not deleted the row itself.
fn last_tokens(history: &[Vec<String>]) -> HashMap<(String, usize), String> {
    let mut last: HashMap<(String, usize), String> = HashMap::new();
    for row in history.iter().filter(|row| row[0] == "f") {
        let (old, new) = (&row[1], &row[2]);
        for column in [0, 1] {
            let before = last.remove(&(old.clone(), column));
            let token = Some(row[3 + column].clone()).filter(|token| token != "~").or(before);
            if let Some(token) = token.filter(|_| new != "~") {
                last.insert((new.clone(), column), token);
            }
        }
    }
    last
}

/// L3: what an application wrote has arrived on the other side, was replaced by the same application, or stands in the
/// other side's conflicts. Returns how many conflicts the burst had.
fn assert_recorded(stage: &Stage, seed: u64) -> u64 {
    let sides = [&stage.blue, &stage.green];
    let histories = sides.map(|side| side.rows("SELECT by_link, old_id, new_id, t, u FROM history ORDER BY n"));
    let lost = sides.map(|side| {
        let sql = "SELECT position - '0/0'::pg_lsn, lost ->> 't', lost ->> 'u' FROM falkirk.conflict";
        side.admin(sql)
    });
    for (from, to) in [(0, 1), (1, 0)] {
        let mut found: HashSet<&String> = histories[to].iter().flat_map(|row| &row[3..]).collect();
        found.extend(lost[to].iter().flat_map(|row| &row[1..]));
        for ((id, _), token) in last_tokens(&histories[from]) {
            assert!(
                found.contains(&token),
                "L3: seed {seed}: what {} wrote as {token} into row {id} has neither arrived nor is it recorded",
                sides[from].name
            );
        }
    }
    for side in sides {
        side.sql("TRUNCATE history");
        side.admin("TRUNCATE falkirk.conflict");
    }
    lost.iter().map(|lost| lost.len() as u64).sum()
}

/// Something that happens to the host during a burst.
fn disturb(stage: &Stage, host: Running, dice: &mut Dice) -> Running {
    match dice.below(6) {
        0 => {
            dice.pause_up_to(Duration::from_millis(20));
            host.kill_9();
            stage.start_falkirk(&["run"])
        }
        // A link that cannot write for a while falls behind the other one.
        kind @ (1 | 2) => {
            let side = if kind == 1 { &stage.blue } else { &stage.green };
            side.admin("BEGIN; LOCK TABLE falkirk.checkpoint IN EXCLUSIVE MODE; SELECT pg_sleep(0.2); COMMIT");
            host
        }
        _ => host,
    }
}

fn converge(name: &str, policy: &str, seeds: &[u64]) {
    let stage = Stage::new(name);
    stage.schemas(TABLES, TABLES);
    stage.config("both", &format!("conflict = \"{policy}\"\ntransforms = []\n{TRIGGERS}"));
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    let mut host = stage.start_falkirk(&["run"]);
    let mut conflicts: HashMap<&str, u64> = HashMap::new();
    let began = Instant::now();
    for seed in seeds {
        let kind = KINDS[(seed % KINDS.len() as u64) as usize];
        // A seed starts from the same rows, whatever ran before it.
        stage.blue.sql("DELETE FROM item; INSERT INTO item SELECT n, 0, 0, 'x' FROM generate_series(1, 4) n");
        quiet(&stage, *seed, &mut host);
        assert_recorded(&stage, *seed);
        let mut dice = Dice::of_seed(*seed);
        let mut author = |is_blue: bool| Author { kind, seed: *seed, is_blue, tokens: 0, dice: dice.fork() };
        let (blue, green) = (author(true), author(false));
        host = std::thread::scope(|scope| {
            scope.spawn(|| blue.burst(&stage.blue));
            scope.spawn(|| green.burst(&stage.green));
            disturb(&stage, host, &mut dice)
        });
        quiet(&stage, *seed, &mut host);
        assert_agree(&stage, *seed);
        let recorded = assert_recorded(&stage, *seed);
        let apart = matches!(kind, Kind::DisjointKeys | Kind::DisjointColumns);
        assert!(!apart || recorded == 0, "seed {seed}: {recorded} conflicts where nobody met anybody ({kind:?})");
        *conflicts
            .entry(match kind {
                Kind::Anything => "anything",
                Kind::DisjointKeys => "disjoint keys",
                Kind::DisjointColumns => "disjoint columns",
                Kind::OneColumn => "one column",
                Kind::ThereAndBack => "there and back",
            })
            .or_default() += recorded;
    }
    println!(
        "{policy}: {} seeds in {:.0} s, conflicts recorded: {conflicts:?}",
        seeds.len(),
        began.elapsed().as_secs_f64()
    );
    host.terminate().expect(143);
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn l8_random_transactions_on_both_sides_converge_where_green_wins() {
    converge("two_way_green", "green_wins", &seeds(100, 2_500));
}

#[test]
fn l8_random_transactions_on_both_sides_converge_where_blue_wins() {
    converge("two_way_blue", "blue_wins", &seeds(100, 2_500));
}
