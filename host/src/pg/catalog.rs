//! Reads what a database says about its tables.
//!
//! One query per kind of object, all in one read-only snapshot, so that a schema change in between cannot give a
//! picture that never was. It works with an empty search path, for a role without any right, on PostgreSQL 14 to 18:
//! columns that only newer servers have are asked for through `to_jsonb`. It must never change anything, and takes no
//! lock except the weakest one for a moment where it asks for a size.

use std::collections::{BTreeMap, HashMap};

use crate::catalog::{Catalog, Column, ForeignKey, Identity, ReplicaIdentity, Rights, Table, TableKind, Unique};
use crate::names::TableName;
use crate::pg::session::{Row, Session};
use crate::problem::{Outcome, Problem};

/// Reads the catalog in one snapshot. Nothing else may use the session meanwhile.
pub async fn read(session: &Session) -> Outcome<Catalog> {
    // The timeout: a size needs the weakest lock, and whoever rewrites a table holds the strongest.
    session
        .run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL lock_timeout = '10s'")
        .await
        .map_err(|problem| doing(problem, session))?;
    let read = read_snapshot(session).await;
    let end = session.run("ROLLBACK").await;
    let catalog = read.map_err(|problem| doing(problem, session))?;
    end?;
    Ok(catalog)
}

fn doing(problem: Problem, session: &Session) -> Problem {
    problem.remedy(format!("the catalog is read as role `{}`; it needs no grants", session.role()))
}

async fn read_snapshot(session: &Session) -> Outcome<Catalog> {
    let mut draft = Draft::default();
    for row in session.rows(TABLES).await? {
        draft.add_table(&row)?;
    }
    let mut labels: HashMap<u32, Vec<String>> = HashMap::new();
    for row in session.rows(LABELS).await? {
        labels.entry(row.number(0)?).or_default().push(row.text(1)?);
    }
    for row in session.rows(COLUMNS).await? {
        draft.add_column(&row, &labels)?;
    }
    for row in session.rows(INDEXES).await? {
        draft.add_index(&row)?;
    }
    for row in session.rows(FOREIGN_KEYS).await? {
        draft.add_foreign_key(&row)?;
    }
    for row in session.rows(TRIGGERS).await? {
        draft.add_trigger(&row)?;
    }
    Ok(Catalog { sends_generated: session.server_version_num() >= 180_000, ..draft.finish() })
}

/// The tables that are Falkirk's business, partitions of foreign tables included: they spoil their root's identity.
macro_rules! our_tables {
    () => {
        "SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE (c.relkind IN ('r', 'p') OR c.relkind = 'f' AND c.relispartition) AND c.relpersistence <> 't'
           AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'falkirk')
           AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                           AND d.objsubid = 0 AND d.deptype = 'e')"
    };
}

const TABLES: &str = concat!(
    "SELECT c.oid, n.nspname, c.relname, c.relkind, c.relreplident, c.relpersistence = 'u',
            row_security_active(c.oid), c.reltuples,
            CASE WHEN c.relkind = 'r' THEN coalesce(pg_relation_size(c.oid), 0) ELSE 0 END,
            array_to_string(ARRAY(SELECT a.relid::oid FROM pg_partition_ancestors(c.oid) a), ' '),
            has_schema_privilege(n.oid, 'USAGE'),
            has_table_privilege(c.oid, 'SELECT') OR NOT EXISTS (SELECT FROM pg_attribute a
                WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                  AND NOT has_column_privilege(c.oid, a.attnum, 'SELECT')),
            has_table_privilege(c.oid, 'INSERT'), has_table_privilege(c.oid, 'UPDATE'),
            has_table_privilege(c.oid, 'DELETE'), has_table_privilege(c.oid, 'TRUNCATE'),
            pg_has_role(c.relowner, 'USAGE')
     FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.oid IN (",
    our_tables!(),
    ")"
);

const LABELS: &str = "SELECT enumtypid, enumlabel FROM pg_enum ORDER BY enumtypid, enumsortorder";

const COLUMNS: &str = concat!(
    "WITH RECURSIVE beneath (domain, type, not_null, has_default) AS (
         SELECT t.oid, t.oid, false, false FROM pg_type t
         UNION ALL
         SELECT b.domain, t.typbasetype, b.not_null OR t.typnotnull, b.has_default OR t.typdefault IS NOT NULL
         FROM beneath b JOIN pg_type t ON t.oid = b.type AND t.typtype = 'd'
     )
     SELECT a.attrelid, a.attnum, a.attname, a.atttypid, a.atttypmod,
            format_type(a.atttypid, a.atttypmod), format_type(a.atttypid, -1),
            t.oid, format_type(t.oid, -1), t.typtype,
            EXISTS (SELECT FROM pg_type e WHERE e.oid = t.typelem AND e.typarray = t.oid),
            a.attstorage <> 'p', a.attnotnull OR b.not_null,
            a.attgenerated = '' AND (a.atthasdef OR b.has_default) OR a.attidentity <> '',
            a.attgenerated <> '', a.attidentity, a.attgenerated = 'v'
     FROM pg_attribute a
     JOIN beneath b ON b.domain = a.atttypid
     JOIN pg_type t ON t.oid = b.type AND t.typtype <> 'd'
     WHERE a.attnum > 0 AND NOT a.attisdropped AND a.attrelid IN (",
    our_tables!(),
    ") ORDER BY a.attrelid, a.attnum"
);

const INDEXES: &str = concat!(
    "SELECT i.indrelid, x.relname, i.indisprimary, i.indisreplident, i.indisexclusion, i.indisvalid, i.indimmediate,
            i.indnkeyatts, i.indkey, i.indexprs IS NOT NULL OR i.indpred IS NOT NULL,
            array_to_string(ARRAY(SELECT d.refobjsubid FROM pg_depend d
                WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
                  AND d.refclassid = 'pg_class'::regclass AND d.refobjid = i.indrelid AND d.refobjsubid > 0), ' ')
     FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
     WHERE (i.indisunique OR i.indisexclusion) AND i.indislive AND i.indrelid IN (",
    our_tables!(),
    ") ORDER BY i.indrelid, x.relname"
);

// A key that points to a partitioned table has a twin for each of its partitions: those say nothing new.
const FOREIGN_KEYS: &str = concat!(
    "SELECT k.conrelid, k.conname, array_to_string(k.conkey, ' '), n.nspname, p.relname,
            (SELECT json_agg(a.attname ORDER BY u.place) FROM unnest(k.confkey) WITH ORDINALITY u (number, place)
             JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.number),
            k.condeferrable, k.confdeltype, k.confupdtype
     FROM pg_constraint k
     JOIN pg_class p ON p.oid = k.confrelid
     JOIN pg_namespace n ON n.oid = p.relnamespace
     WHERE k.contype = 'f' AND coalesce(to_jsonb(k) ->> 'conenforced', 'true') = 'true'
       AND NOT EXISTS (SELECT FROM pg_constraint twin WHERE twin.oid = k.conparentid AND twin.conrelid = k.conrelid)
       AND k.conrelid IN (",
    our_tables!(),
    ") ORDER BY k.conrelid, k.conname"
);

// Of the bits of tgtype, 4, 8 and 16 are insert, delete and update.
const TRIGGERS: &str = concat!(
    "SELECT t.tgrelid, t.tgname FROM pg_trigger t
     WHERE NOT t.tgisinternal AND t.tgenabled IN ('O', 'A') AND t.tgtype & 28 <> 0 AND t.tgrelid IN (",
    our_tables!(),
    ") ORDER BY t.tgrelid, t.tgname"
);

/// Tables by object id while they are being put together.
#[derive(Default)]
struct Draft {
    tables: BTreeMap<u32, Table>,
    /// The object ids above a partition, nearest first, root last.
    ancestors: HashMap<u32, Vec<u32>>,
    /// For each table the places of its column numbers.
    places: HashMap<u32, HashMap<i16, usize>>,
    foreign: Vec<u32>,
}

impl Draft {
    fn add_table(&mut self, row: &Row) -> Outcome<()> {
        let oid = row.number(0)?;
        let kind = row.text(3)?;
        let usable = row.flag(10)?;
        let right = |index: usize| Ok(usable && row.flag(index)?);
        let table = Table {
            name: TableName::new(row.text(1)?, row.text(2)?),
            oid,
            kind: if kind == "p" { TableKind::Partitioned } else { TableKind::Ordinary },
            root: None,
            columns: Vec::new(),
            primary_key: Vec::new(),
            identity: match row.text(4)?.as_str() {
                "d" => ReplicaIdentity::Default,
                "f" => ReplicaIdentity::Full,
                "i" => ReplicaIdentity::Index,
                _ => ReplicaIdentity::Nothing,
            },
            identity_key: Vec::new(),
            uniques: Vec::new(),
            foreign_keys: Vec::new(),
            triggers: Vec::new(),
            row_security: row.flag(6)?,
            unlogged: row.flag(5)?,
            rights: Rights {
                select: right(11)?,
                insert: right(12)?,
                update: right(13)?,
                delete: right(14)?,
                truncate: right(15)?,
                own: row.flag(16)?,
            },
            rows_estimate: row.number(7)?,
            size_bytes: row.number(8)?,
        };
        if kind == "f" {
            self.foreign.push(oid);
        }
        // The list begins with the table itself; it is empty for a table outside any partition tree.
        let above: Vec<u32> = row.numbers(9)?;
        if above.len() > 1 {
            self.ancestors.insert(oid, above[1..].to_vec());
        }
        self.tables.insert(oid, table);
        Ok(())
    }

    fn add_column(&mut self, row: &Row, labels: &HashMap<u32, Vec<String>>) -> Outcome<()> {
        let oid = row.number(0)?;
        let Some(table) = self.tables.get_mut(&oid) else { return Ok(()) };
        self.places.entry(oid).or_default().insert(row.number(1)?, table.columns.len());
        let base_oid = row.number(7)?;
        table.columns.push(Column {
            name: row.text(2)?,
            type_oid: row.number(3)?,
            type_modifier: row.number(4)?,
            type_sql: row.text(5)?,
            cast_sql: row.text(6)?,
            base_oid,
            base_sql: row.text(8)?,
            base_kind: row.text(9)?.chars().next().unwrap_or('b'),
            is_array: row.flag(10)?,
            labels: labels.get(&base_oid).cloned().unwrap_or_default(),
            toastable: row.flag(11)?,
            not_null: row.flag(12)?,
            has_default: row.flag(13)?,
            generated: row.flag(14)?,
            identity: match row.text(15)?.as_str() {
                "a" => Identity::Always,
                "d" => Identity::ByDefault,
                _ => Identity::No,
            },
            is_virtual: row.flag(16)?,
        });
        Ok(())
    }

    fn add_index(&mut self, row: &Row) -> Outcome<()> {
        let oid = row.number(0)?;
        let key_length: usize = row.number(7)?;
        // Number 0 stands for an expression; behind the key stand columns that are only carried along.
        let numbers: Vec<i16> = row.numbers(8)?;
        let key = self.columns(oid, numbers.iter().take(key_length));
        let mentioned: Vec<i16> = row.numbers(10)?;
        let mentioned = self.columns(oid, mentioned.iter());
        let Some(table) = self.tables.get_mut(&oid) else { return Ok(()) };
        let (primary, identity, exclusion) = (row.flag(2)?, row.flag(3)?, row.flag(4)?);
        let (valid, immediate, partial) = (row.flag(5)?, row.flag(6)?, row.flag(9)?);
        let chosen = match table.identity {
            ReplicaIdentity::Default => primary,
            ReplicaIdentity::Index => identity,
            _ => false,
        };
        // A key that is checked late is no replica identity: the server treats the table as one without.
        if chosen && immediate && valid {
            table.identity_key.clone_from(&key);
        }
        if primary {
            table.primary_key.clone_from(&key);
        }
        if primary && !exclusion {
            return Ok(());
        }
        let plain = !partial && !exclusion;
        let refuses_null = key.iter().all(|place| table.columns[*place].not_null);
        let all = || (0..table.columns.len()).collect();
        let touches = match (plain, mentioned.is_empty() && key.is_empty()) {
            (true, _) => key.clone(),
            (false, true) => all(),
            (false, false) => union(&key, &mentioned),
        };
        table.uniques.push(Unique {
            name: row.text(1)?,
            columns: if plain { key } else { Vec::new() },
            touches,
            deferrable: !immediate,
            usable_as_key: plain && valid && refuses_null,
        });
        Ok(())
    }

    fn add_foreign_key(&mut self, row: &Row) -> Outcome<()> {
        let oid = row.number(0)?;
        let numbers: Vec<i16> = row.numbers(2)?;
        let columns = self.columns(oid, numbers.iter());
        let Some(table) = self.tables.get_mut(&oid) else { return Ok(()) };
        let letter = |index: usize| Ok(row.text(index)?.chars().next().unwrap_or('a'));
        table.foreign_keys.push(ForeignKey {
            name: row.text(1)?,
            columns,
            parent: TableName::new(row.text(3)?, row.text(4)?),
            parent_columns: row.json(5)?,
            deferrable: row.flag(6)?,
            on_delete: letter(7)?,
            on_update: letter(8)?,
        });
        Ok(())
    }

    /// A row that is written to a partitioned table fires its partition's triggers: they count for the whole tree.
    fn add_trigger(&mut self, row: &Row) -> Outcome<()> {
        let oid: u32 = row.number(0)?;
        let name = row.text(1)?;
        let above = self.ancestors.get(&oid).cloned().unwrap_or_default();
        for oid in std::iter::once(oid).chain(above) {
            if let Some(table) = self.tables.get_mut(&oid).filter(|table| !table.triggers.contains(&name)) {
                table.triggers.push(name.clone());
            }
        }
        Ok(())
    }

    fn columns<'a>(&self, oid: u32, numbers: impl Iterator<Item = &'a i16>) -> Vec<usize> {
        let places = self.places.get(&oid);
        numbers.filter_map(|number| places?.get(number).copied()).collect()
    }

    fn finish(mut self) -> Catalog {
        self.sum_up_partitions();
        for (oid, above) in &self.ancestors {
            let root = above.last().and_then(|root| self.tables.get(root)).map(|root| root.name.clone());
            if let Some(table) = self.tables.get_mut(oid) {
                table.root = root;
            }
        }
        for oid in &self.foreign {
            self.tables.remove(oid);
        }
        self.tables.into_values().collect()
    }

    /// What a partitioned table has only through its leaves: size, number of rows, identity.
    fn sum_up_partitions(&mut self) {
        let mut leaves: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (oid, above) in &self.ancestors {
            if self.tables.get(oid).is_some_and(|table| table.kind == TableKind::Ordinary) {
                above.iter().for_each(|ancestor| leaves.entry(*ancestor).or_default().push(*oid));
            }
        }
        for (oid, mut leaves) in leaves {
            leaves.sort_unstable();
            let foreign = leaves.iter().any(|leaf| self.foreign.contains(leaf));
            let leaves: Vec<&Table> = leaves.iter().filter_map(|leaf| self.tables.get(leaf)).collect();
            let size = leaves.iter().map(|leaf| leaf.size_bytes).sum();
            let known = leaves.iter().map(|leaf| leaf.rows_estimate).filter(|rows| *rows >= 0.0);
            let rows = known.reduce(|sum, rows| sum + rows).unwrap_or(-1.0);
            let (identity, key) = match foreign {
                true => (ReplicaIdentity::Nothing, Vec::new()),
                false => common_identity(&leaves),
            };
            if let Some(table) = self.tables.get_mut(&oid) {
                table.size_bytes = size;
                table.rows_estimate = rows;
                table.identity_key = key.iter().filter_map(|name| table.column(name)).collect();
                table.identity = identity;
            }
        }
    }
}

/// The identity that all changes of a partition tree have at least, with the names of its columns.
fn common_identity(leaves: &[&Table]) -> (ReplicaIdentity, Vec<String>) {
    let nothing = (ReplicaIdentity::Nothing, Vec::new());
    let mut common: Option<(ReplicaIdentity, Vec<String>)> = None;
    for leaf in leaves.iter().filter(|leaf| leaf.identity != ReplicaIdentity::Full) {
        let key: Vec<String> = leaf.identity_key.iter().map(|place| leaf.columns[*place].name.clone()).collect();
        match &mut common {
            _ if key.is_empty() => return nothing,
            None => common = Some((leaf.identity, key)),
            Some((_, known)) if *known != key => return nothing,
            Some((identity, _)) if *identity != leaf.identity => *identity = ReplicaIdentity::Index,
            Some(_) => {}
        }
    }
    common.unwrap_or((ReplicaIdentity::Full, Vec::new()))
}

fn union(one: &[usize], other: &[usize]) -> Vec<usize> {
    let mut both: Vec<usize> = one.iter().chain(other).copied().collect();
    both.sort_unstable();
    both.dedup();
    both
}
