//! Rows of the target that refer to one that is to be deleted, and the record that it was kept for them (L8).

use tokio_postgres::{Client, Row};

use super::Writer;
use super::attempt::found;
use crate::apply::conflict::KEPT;
use crate::apply::fault;
use crate::change::Datum;
use crate::delta::Key;
use crate::names::{TableName, quote_name, quote_text};
use crate::plan::{Plan, Target};
use crate::problem::Outcome;

/// How many of them are looked at.
const AT_MOST: usize = 1_000;

/// Some rows that refer to another one.
#[derive(Debug)]
pub struct Referring {
    /// Their table, if the link writes it: position in `Plan::targets`.
    pub target: Option<usize>,
    /// Their keys; none of a table that the link does not write.
    pub keys: Vec<Key>,
    /// By what they are known, as JSON: a few of their keys; or, of such a table, what they refer to.
    pub known_by: String,
}

impl Writer<'_> {
    /// The rows of `by` that refer to a row through this foreign key.
    pub async fn referring(
        &mut self,
        (target, key): (usize, &Key),
        (by, foreign_key): (&TableName, &str),
    ) -> Outcome<Referring> {
        match look((self.client, &self.plan), (target, key), (by, foreign_key)).await {
            Ok(referring) => Ok(referring),
            Err(error) => {
                let problem = fault::written(&error, true, Some(&self.plan.targets[target]));
                Err(self.give_up(problem).await)
            }
        }
    }

    /// A row that was kept for those that refer to it goes back to where it was deleted: its record is a decision now.
    /// Only between transactions.
    pub async fn settle_kept(&mut self, digest: u128, winner: &str) -> Outcome<()> {
        let settle = format!(
            "UPDATE falkirk.conflict SET state = 'decided', winner = $4 WHERE migration = $1 AND link = $2 \
             AND key_digest = $3 AND {KEPT} AND state = 'open'"
        );
        let (link, digest) = (self.identity.link, digest.to_be_bytes());
        let parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
            &[&self.identity.migration, &link.name(), &digest.as_slice(), &winner];
        self.client.execute(&settle, parameters).await.map(|_| ()).map_err(|error| fault::refused(&error))
    }
}

async fn look(
    (client, plan): (&Client, &Plan),
    (target, key): (usize, &Key),
    (by, foreign_key): (&TableName, &str),
) -> Result<Referring, tokio_postgres::Error> {
    // A partition's rows are known as those of its table.
    let columns = "SELECT n.nspname, t.relname, c.attname, f.attname FROM pg_constraint AS k \
        JOIN pg_class AS t ON t.oid = coalesce(pg_partition_root(k.conrelid), k.conrelid) \
        JOIN pg_namespace AS n ON n.oid = t.relnamespace, unnest(k.conkey, k.confkey) AS u(child, parent) \
        JOIN pg_attribute AS c ON c.attrelid = $1::text::regclass AND c.attnum = u.child \
        JOIN pg_attribute AS f ON TRUE \
        WHERE k.conrelid = $1::text::regclass AND k.conname = $2 AND k.contype = 'f' \
        AND f.attrelid = k.confrelid AND f.attnum = u.parent";
    let pairs = client.query(columns, &[&by.sql(), &foreign_key]).await?;
    let Some(pair) = pairs.first() else {
        return Ok(Referring { target: None, keys: Vec::new(), known_by: "[]".to_owned() });
    };
    let table = TableName::new(pair.get::<_, &str>(0), pair.get::<_, &str>(1));
    let parent = &plan.targets[target];
    let Some(own) = plan.targets.iter().position(|target| target.name == table) else {
        // A table that is none of the link's is not its to read.
        let known_by = serde_json::Value::Array(vec![referred(&pairs, parent, key).into()]);
        return Ok(Referring { target: None, keys: Vec::new(), known_by: known_by.to_string() });
    };
    let child = &plan.targets[own];
    let names: Vec<&str> = child.key.iter().map(|column| child.columns[usize::from(*column)].name.as_str()).collect();
    let rows = client.query(&select(&names, (&table, &pairs), parent, key), &[]).await?;
    let some: Vec<String> = rows.iter().take(5).map(|row| row.get(0)).collect();
    let keys = rows.iter().map(|row| key_of(row, names.len())).collect();
    Ok(Referring { target: Some(own), keys, known_by: format!("[{}]", some.join(", ")) })
}

/// What rows refer to, by the names of their columns, as far as it is a row's key.
fn referred(pairs: &[Row], parent: &Target, key: &Key) -> serde_json::Map<String, serde_json::Value> {
    let value = |row: &Row| {
        let is_named = |column: &&u16| parent.columns[usize::from(**column)].name == row.get::<_, &str>(3);
        let at = parent.key.iter().position(|column| is_named(&column))?;
        let Datum::Text(text) = &key[at] else { return None };
        Some((row.get::<_, String>(2), String::from_utf8_lossy(text).into_owned().into()))
    };
    pairs.iter().filter_map(value).collect()
}

/// The text of the statement that reads what `names` are of the rows of `table` that refer to a row, through `pairs` of
/// columns: JSON, and the columns one by one.
fn select(names: &[&str], (table, pairs): (&TableName, &[Row]), parent: &Target, key: &Key) -> String {
    let texts: Vec<String> = names.iter().map(|name| format!("c.{}::text", quote_name(name))).collect();
    let known_by = names.iter().zip(&texts).map(|(name, text)| format!("{}, {text}", quote_text(name)));
    let joined = pairs.iter().map(|row| format!("c.{} = t.{}", quote_name(row.get(2)), quote_name(row.get(3))));
    format!(
        "SELECT jsonb_build_object({})::text, {} FROM {} AS c JOIN {} AS t ON {} WHERE {} LIMIT {AT_MOST}",
        known_by.collect::<Vec<_>>().join(", "),
        texts.join(", "),
        table.sql(),
        parent.name.sql(),
        joined.collect::<Vec<_>>().join(" AND "),
        found(parent, key, "t"),
    )
}

fn key_of(row: &Row, columns: usize) -> Key {
    (1..=columns).map(|at| row.get::<_, Option<&str>>(at).map_or(Datum::Null, Datum::text)).collect()
}
