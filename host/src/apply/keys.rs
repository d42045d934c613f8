//! Key maps: pairs of keys that stand for each other, kept on one side of the migration and read by both links.
//!
//! Pairs are made, found and replaced in short transactions of their own, before the rows that use them are written: a
//! pair that nobody uses is harmless (counter-example 8). A key is made by its column's own default. No value of a key
//! is ever printed.

use std::collections::HashMap;

use tokio_postgres::Client;

use super::{LinkIdentity, fault, schema};
use crate::names::{quote_name, quote_text};
use crate::pg::address::Address;
use crate::pg::session::Session;
use crate::plan::keyed::{Adoption, Map};
use crate::problem::{Blame, Outcome, Problem};

/// A pair: the source's key and the target's.
pub type Pair = (String, String);

/// The key maps of one link.
pub struct Keys {
    migration: String,
    /// Where pairs are kept that the source holds.
    source: Option<Session>,
    target: Session,
    /// By map: the target column's default, once it was asked for.
    defaults: HashMap<String, String>,
}

impl Keys {
    /// Connects, and makes sure that pairs can be kept where the maps say.
    pub async fn connect(source: &Address, target: &Address, identity: &LinkIdentity, maps: &[Map]) -> Outcome<Self> {
        let in_source = match maps.iter().any(|map| !map.kept_in_target) {
            false => None,
            true => {
                let session = Session::connect_blaming(source, Blame::Source, "keys").await?;
                schema::ensure(session.client()).await?;
                schema::adopt_migration_id(session.client(), &identity.migration, identity.migration_id).await?;
                Some(session)
            }
        };
        let target = Session::connect_blaming(target, Blame::Target, "keys").await?;
        Ok(Keys { migration: identity.migration.clone(), source: in_source, target, defaults: HashMap::new() })
    }

    /// Connects to read pairs only.
    pub async fn connect_to_read(source: &Address, target: &Address, migration: &str, maps: &[Map]) -> Outcome<Self> {
        let in_source = match maps.iter().any(|map| !map.kept_in_target) {
            false => None,
            true => Some(Session::connect_blaming(source, Blame::Source, "keys").await?),
        };
        let target = Session::connect_blaming(target, Blame::Target, "keys").await?;
        Ok(Keys { migration: migration.to_owned(), source: in_source, target, defaults: HashMap::new() })
    }

    fn home(&self, map: &Map) -> &Client {
        match (&self.source, map.kept_in_target) {
            (Some(source), false) => source.client(),
            _ => self.target.client(),
        }
    }

    /// The pairs that hold one of these keys of the source.
    pub async fn of_source(&self, map: &Map, keys: &[String]) -> Outcome<Vec<Pair>> {
        self.pairs(map, columns(map).0, keys).await
    }

    /// The pairs that hold one of these keys of the target.
    pub async fn of_target(&self, map: &Map, keys: &[String]) -> Outcome<Vec<Pair>> {
        self.pairs(map, columns(map).1, keys).await
    }

    async fn pairs(&self, map: &Map, by: &str, keys: &[String]) -> Outcome<Vec<Pair>> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let (source, target) = columns(map);
        let sql =
            format!("SELECT {source}, {target} FROM falkirk.key WHERE migration = $1 AND map = $2 AND {by} = ANY($3)");
        let rows = self.home(map).query(&sql, &[&self.migration, &map.name, &keys]).await;
        let rows = rows.map_err(|error| fault::refused(&error))?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Makes a pair for each of these keys of the source, none of which had one when they were asked for. Answers all
    /// pairs of the keys, for somebody else may have been faster, and the keys of the target that were made.
    pub async fn create(&mut self, map: &Map, mut keys: Vec<String>) -> Outcome<(Vec<Pair>, Vec<String>)> {
        // In one order everywhere: two that make the same pairs wait for each other and never in a circle.
        keys.sort_unstable();
        keys.dedup();
        for adoption in &map.adopts {
            let held = held(self.target.client(), adoption, &keys, "").await?;
            let pairs = held.into_iter().filter_map(|(source, target)| Some((source, target?)));
            self.insert(map, pairs.collect()).await?;
        }
        let known = self.of_source(map, &keys).await?;
        let mut missing = keys.clone();
        missing.retain(|key| !known.iter().any(|(source, _)| source == key));
        if missing.is_empty() {
            return Ok((known, Vec::new()));
        }
        let default = self.default(map).await?;
        let made = format!("SELECT ({default})::text FROM generate_series(1, $1)");
        let count = i32::try_from(missing.len()).unwrap_or(i32::MAX);
        let made = self.target.client().query(&made, &[&count]).await;
        let made = made.map_err(|error| fault::refused(&error).table(&map.table).column(&map.column))?;
        let made: Vec<String> = made.iter().map(|row| row.get(0)).collect();
        self.insert(map, missing.into_iter().zip(made.iter().cloned()).collect()).await?;
        let pairs = self.of_source(map, &keys).await?;
        match pairs.len() == keys.len() {
            true => Ok((pairs, made)),
            false => Err(Problem::stop(
                Blame::Target,
                "KEY_NOT_MADE",
                format!("the default of the key column of map {} makes keys that are in use already", map.name),
            )
            .table(&map.table)
            .column(&map.column)
            .remedy("let the column's default make a new value for every row: a sequence, or gen_random_uuid()")),
        }
    }

    async fn insert(&self, map: &Map, pairs: Vec<Pair>) -> Outcome<()> {
        let (source, target) = columns(map);
        let (ours, theirs): (Vec<String>, Vec<String>) = pairs.into_iter().unzip();
        if ours.is_empty() {
            return Ok(());
        }
        let sql = format!(
            "INSERT INTO falkirk.key (migration, map, {source}, {target}) \
             SELECT $1, $2, s, t FROM unnest($3::text[], $4::text[]) AS k(s, t) ON CONFLICT DO NOTHING"
        );
        let inserted = self.home(map).execute(&sql, &[&self.migration, &map.name, &ours, &theirs]).await;
        inserted.map(drop).map_err(|error| fault::refused(&error))
    }

    /// Takes pairs away and puts others in place of whatever their keys were paired with.
    pub async fn rebind(&self, map: &Map, gone: Vec<Pair>, new: Vec<Pair>) -> Outcome<()> {
        let (source, target) = columns(map);
        let home = self.home(map);
        let (gone_source, gone_target): (Vec<String>, Vec<String>) = gone.into_iter().unzip();
        let (new_source, new_target): (Vec<String>, Vec<String>) = new.iter().cloned().unzip();
        let remove = format!(
            "DELETE FROM falkirk.key WHERE migration = $1 AND map = $2 AND (({source}, {target}) IN \
             (SELECT * FROM unnest($3::text[], $4::text[])) OR {source} = ANY($5) OR {target} = ANY($6))"
        );
        let run = async {
            home.batch_execute("BEGIN").await?;
            let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 6] =
                [&self.migration, &map.name, &gone_source, &gone_target, &new_source, &new_target];
            home.execute(&remove, &parameters).await?;
            Ok(())
        };
        let removed: Result<(), tokio_postgres::Error> = run.await;
        let done = match removed {
            Ok(()) => self.insert(map, new).await,
            Err(error) => Err(fault::refused(&error)),
        };
        let end = if done.is_ok() { "COMMIT" } else { "ROLLBACK" };
        let ended = home.batch_execute(end).await.map_err(|error| fault::refused(&error));
        done.and(ended)
    }

    /// What the target's column fills itself with, as SQL.
    async fn default(&mut self, map: &Map) -> Outcome<String> {
        if let Some(known) = self.defaults.get(&map.name) {
            return Ok(known.clone());
        }
        let sql = format!(
            "SELECT CASE WHEN a.attidentity <> '' \
             THEN format('pg_catalog.nextval(%L::pg_catalog.regclass)', pg_get_serial_sequence({table}, {column})) \
             ELSE coalesce(pg_get_expr(d.adbin, d.adrelid), t.typdefault) END \
             FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid \
             LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum \
             WHERE a.attrelid = {table}::regclass AND a.attname = {column}",
            table = quote_text(&map.table.sql()),
            column = quote_text(&map.column),
        );
        let row = self.target.one(&sql).await?;
        let default = row.get(0).map(str::to_owned).ok_or_else(|| {
            Problem::refuse(
                Blame::Target,
                "MAP_NO_DEFAULT",
                format!("the map {} makes keys of this column, which has no default", map.name),
            )
            .table(&map.table)
            .column(&map.column)
        })?;
        self.defaults.insert(map.name.clone(), default.clone());
        Ok(default)
    }
}

/// A key of the source, and the key of the target that the target's application has paired with it, if it has.
pub type Held = (String, Option<String>);

/// Counter-example 7: what the target's own application says of these keys of the source, whether the other link has bound
/// it yet or not. `lock`: what keeps it as it is until the transaction ends.
pub async fn held(
    target: &Client,
    Adoption { table, source_key, target_key, type_sql }: &Adoption,
    keys: &[String],
    lock: &str,
) -> Outcome<Vec<Held>> {
    let (source, target_key) = (quote_name(source_key), quote_name(target_key));
    let sql = format!(
        "SELECT {source}::text, {target_key}::text FROM {} WHERE {source} = ANY($1::text[]::{type_sql}[]) \
         ORDER BY {source} {lock}",
        table.sql()
    );
    let rows = target.query(&sql, &[&keys]).await.map_err(|error| fault::refused(&error).table(table))?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// The columns of the source's and of the target's keys.
fn columns(map: &Map) -> (&'static str, &'static str) {
    if map.source_is_blue { ("blue", "green") } else { ("green", "blue") }
}
