//! What is replicated: a table copied as it is, and the example shop's customers through its transform.

use std::fs;
use std::path::{Path, PathBuf};

use crate::ground::{Ground, Outcome};

/// Eight columns and a primary key.
const ITEM: &str = "
CREATE TABLE item (
    id         bigint PRIMARY KEY,
    name       text NOT NULL,
    qty        int NOT NULL,
    price      numeric(10,2) NOT NULL,
    active     boolean NOT NULL,
    created_at timestamptz NOT NULL,
    meta       jsonb NOT NULL,
    notes      text
)";

/// A table with its workload. Row 0 is there from the start, and its change is the last of a load.
pub struct Subject {
    /// One line for the report.
    pub what: &'static str,
    /// The replicated table on the source, and on a native target.
    pub table: &'static str,
    /// The source's schema, and a native target's.
    pub source_schema: String,
    /// The schema of Falkirk's target.
    pub target_schema: String,
    /// Asked of the source once its schema is there.
    pub prepare_source: &'static str,
    /// The transform, if there is one.
    pub transform: Option<PathBuf>,
    columns: &'static str,
    /// A row's values by its number `i`.
    values: &'static str,
    /// What an update by ten and a single-row update set.
    update_many: &'static str,
    update_one: &'static str,
    end: &'static str,
    /// Whether the end has arrived; the same on both kinds of target.
    pub ended: &'static str,
    /// What the rows come to, in the terms of the source's schema and of Falkirk's target.
    pub source_digest: &'static str,
    /// See `source_digest`.
    pub target_digest: &'static str,
}

impl Subject {
    /// No transform: the host copies the table as it is.
    pub fn identity() -> Subject {
        let digest = "SELECT count(*) || ' ' || coalesce(sum(hashtextextended(item::text, 0)), 0) FROM item";
        Subject {
            what: "8 columns as they are",
            table: "item",
            source_schema: ITEM.to_owned(),
            target_schema: ITEM.to_owned(),
            prepare_source: "",
            transform: None,
            columns: "id, name, qty, price, active, created_at, meta, notes",
            values: "i, 'item number ' || i, (i % 1000)::int, (i % 100000) / 100.0, i % 3 = 0, \
                     timestamptz '2026-01-01' + i * interval '1 second', \
                     jsonb_build_object('kind', i % 7, 'tag', 'tag ' || i % 100), 'something to say about item ' || i",
            update_many: "qty = qty + 1",
            update_one: "price = price + 0.01",
            end: "notes = 'the end'",
            ended: "SELECT EXISTS (SELECT 1 FROM item WHERE id = 0 AND notes = 'the end')",
            source_digest: digest,
            target_digest: digest,
        }
    }

    /// The shop's customers: the transform splits their names. All tables of the shop are there, the others are empty.
    pub fn shop(ground: &Ground) -> Outcome<Subject> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let read = |name: &str| {
            let path = root.join("examples/shop").join(name);
            fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))
        };
        let component = ground.programs.join("../shop_1_2.wasm");
        let transform = match component.canonicalize() {
            Ok(path) => Some(path),
            Err(_) if !ground.with_falkirk => None,
            Err(error) => return Err(format!("{}: {error} (run `make transforms`)", component.display())),
        };
        Ok(Subject {
            what: "the shop's customers through its transform, native: as they are",
            table: "customer",
            source_schema: read("v1.sql")?,
            target_schema: read("v2.sql")?,
            // Old names tell whether a name has changed (L6). PostgreSQL's own replication reads the same table.
            prepare_source: "ALTER TABLE customer REPLICA IDENTITY FULL; ALTER TABLE product REPLICA IDENTITY FULL; \
                             ALTER TABLE orders REPLICA IDENTITY FULL; ALTER TABLE basket REPLICA IDENTITY FULL; \
                             ALTER TABLE coupon REPLICA IDENTITY FULL",
            transform,
            columns: "id, name, email, created_at, preferences, tags",
            values: "i, 'Given' || i % 5000 || ' Family' || i % 70000, 'customer' || i || '@example.com', \
                     timestamptz '2026-01-01' + i * interval '1 second', \
                     jsonb_build_object('newsletter', i % 2 = 0, 'theme', 'theme ' || i % 10), \
                     ARRAY['since ' || i % 30, 'region ' || i % 100]",
            update_many: "name = 'Given' || c.id % 3000 || ' Newname' || c.id % 50000",
            update_one: "name = 'Other' || c.id % 4000 || ' Family' || c.id % 60000",
            end: "email = 'the end'",
            ended: "SELECT EXISTS (SELECT 1 FROM customer WHERE id = 0 AND email = 'the end')",
            source_digest: "SELECT count(*) || ' ' || coalesce(sum(hashtextextended(id || '|' || name || '|' || email \
                            || '|' || created_at || '|' || preferences || '|' || tags::text, 0)), 0) FROM customer",
            target_digest: "SELECT count(*) || ' ' || coalesce(sum(hashtextextended(id || '|' \
                            || concat_ws(' ', first_name, last_name) || '|' || email \
                            || '|' || created_at || '|' || preferences || '|' || tags::text, 0)), 0) FROM customer",
        })
    }

    /// Rows `from` to `to`, in one statement.
    pub fn fill(&self, from: u64, to: u64) -> String {
        let Subject { table, columns, values, .. } = self;
        format!("INSERT INTO {table} ({columns}) SELECT {values} FROM generate_series({from}::bigint, {to}::bigint) i")
    }

    /// The backlog: inserts by 100, updates by 10, single-row updates, then the end. Each text is run by itself.
    pub fn load(&self, load: &Load) -> Vec<String> {
        let Subject { table, columns, values, update_many, update_one, end, .. } = self;
        let Load { insert_transactions, update_transactions, single_transactions } = load;
        let rows = load.rows();
        // Numbers that jump about, each inside the rows there are; the ten of one transaction differ.
        vec![
            "SET synchronous_commit = off".to_owned(),
            "SET enable_hashjoin = off".to_owned(),
            "SET enable_mergejoin = off".to_owned(),
            "SET enable_seqscan = off".to_owned(),
            format!(
                "DO $$ BEGIN FOR t IN 0..{insert_transactions} - 1 LOOP
                     INSERT INTO {table} ({columns})
                     SELECT {values} FROM generate_series(t::bigint * 100 + 1, t::bigint * 100 + 100) i;
                     COMMIT;
                 END LOOP; END $$"
            ),
            format!("ANALYZE {table}"),
            format!(
                "DO $$ BEGIN FOR t IN 0..{update_transactions} - 1 LOOP
                     UPDATE {table} c SET {update_many} FROM generate_series(0, 9) j
                     WHERE c.id = 1 + (t::bigint * 7919 + j * ({rows} / 10)) % {rows};
                     COMMIT;
                 END LOOP; END $$"
            ),
            format!(
                "DO $$ BEGIN FOR t IN 0..{single_transactions} - 1 LOOP
                     UPDATE {table} c SET {update_one} WHERE c.id = 1 + (t::bigint * 15485863) % {rows};
                     COMMIT;
                 END LOOP; END $$"
            ),
            format!("UPDATE {table} SET {end} WHERE id = 0"),
        ]
    }
}

/// How much a backlog holds.
pub struct Load {
    /// Of 100 rows each.
    pub insert_transactions: u64,
    /// Of 10 rows each.
    pub update_transactions: u64,
    /// Of one row each.
    pub single_transactions: u64,
}

impl Load {
    /// Rows that are inserted.
    pub fn rows(&self) -> u64 {
        self.insert_transactions * 100
    }

    /// Changed rows.
    pub fn changes(&self) -> u64 {
        self.rows() + self.update_transactions * 10 + self.single_transactions + 1
    }

    /// Transactions.
    pub fn transactions(&self) -> u64 {
        self.insert_transactions + self.update_transactions + self.single_transactions + 1
    }
}
