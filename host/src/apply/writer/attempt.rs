//! Writing rows one by one, while both links write, where the other side's rows may be in the way: one holds a unique
//! value (counter-example 35), a parent is missing, or a row that is to go is still referred to.
//!
//! ```text
//!   SAVEPOINT | the row | RELEASE, or ROLLBACK TO: nothing of it is left, and the transaction goes on
//! ```
//!
//! Only where batches are applied change by change: the marker stands before the savepoint, outside of it (L7).

use bytes::Bytes;

use super::{Expected, Writer, bound};
use crate::apply::conflict::PARKED;
use crate::apply::encode::Ready;
use crate::apply::fault;
use crate::change::Datum;
use crate::delta::{Key, Set, SetKind};
use crate::marker::Link;
use crate::names::{TableName, quote_name, quote_text};
use crate::plan::Target;
use crate::problem::{Blame, Outcome, Problem};

/// What became of a row.
#[derive(Debug)]
pub enum Attempt {
    /// It is written.
    Written,
    /// Another row holds a unique value of it, or, leniently, any constraint is against it: nothing was written.
    Taken,
    /// The row that this foreign key asks for is not there: nothing was written.
    Orphan {
        /// The name of the constraint.
        foreign_key: String,
        /// What is to be said if nothing explains that.
        problem: Problem,
    },
    /// Rows refer to the one that is to be deleted: it stays.
    Referred {
        /// The table of those rows.
        by: TableName,
        /// The name of their foreign key.
        foreign_key: String,
        /// What is to be said if nothing explains that.
        problem: Problem,
    },
}

/// Why a row is not written.
enum Against {
    Constraint,
    ForeignKey(String, tokio_postgres::Error),
}

impl Writer<'_> {
    /// Writes the only row of a set. `leniently`: whatever constraint is against it, that is only said.
    pub async fn attempt(&mut self, set: &Set, leniently: bool) -> Outcome<Attempt> {
        self.check_all().await?;
        match self.try_attempt(set, leniently).await {
            Ok(Ok(count)) => {
                let expected = self.expected(set);
                if let Err(problem) = self.check(expected, Ok(count)).await {
                    return Err(self.give_up(problem).await);
                }
                if let Some(open) = &mut self.open {
                    bound::count(set, &mut open.counters);
                }
                if self.lists {
                    self.list(&[set]);
                }
                Ok(Attempt::Written)
            }
            Ok(Err(Against::ForeignKey(foreign_key, error))) => {
                let problem = fault::written(&error, true, Some(&self.plan.targets[set.target]));
                let problem = self.with_key(problem, set.target);
                let at = error.as_db_error().and_then(|db| Some(TableName::new(db.schema()?, db.table()?)));
                Ok(match (set.kind, at) {
                    (SetKind::Delete, Some(by)) => Attempt::Referred { by, foreign_key, problem },
                    _ => Attempt::Orphan { foreign_key, problem },
                })
            }
            Ok(Err(Against::Constraint)) => self.is_somebody_elses(set).await.map(|()| Attempt::Taken),
            Err(error) => {
                let problem = fault::written(&error, true, Some(&self.plan.targets[set.target]));
                let problem = self.with_key(problem, set.target);
                Err(self.give_up(problem).await)
            }
        }
    }

    async fn try_attempt(&mut self, set: &Set, leniently: bool) -> Result<Result<u64, Against>, tokio_postgres::Error> {
        let bound = bound::rows(self.client, &mut self.statements, &self.plan, set, 0..1).await?;
        self.client.batch_execute("SAVEPOINT attempt").await?;
        match self.client.execute_raw(&bound.statement, bound.parameters).await {
            Ok(count) => {
                self.client.batch_execute("RELEASE SAVEPOINT attempt").await?;
                Ok(Ok(count))
            }
            Err(error)
                if fault::state(&error).is_some_and(|state| match set.kind {
                    SetKind::Insert | SetKind::Patch => {
                        matches!(state, "23505" | "23P01" | "23503") || (leniently && state.starts_with("23"))
                    }
                    SetKind::Delete => state == "23503",
                    _ => false,
                }) =>
            {
                self.client.batch_execute("ROLLBACK TO SAVEPOINT attempt").await?;
                let is_orphan = !leniently && fault::state(&error) == Some("23503");
                let foreign_key = error.as_db_error().and_then(|error| error.constraint()).map(str::to_owned);
                Ok(Err(match foreign_key.filter(|_| is_orphan) {
                    Some(foreign_key) => Against::ForeignKey(foreign_key, error),
                    None => Against::Constraint,
                }))
            }
            Err(error) => Err(error),
        }
    }

    fn expected(&self, set: &Set) -> Expected {
        let may_be_gone = set.kind == SetKind::Clear
            || (set.kind == SetKind::Delete && self.plan.targets[set.target].cascades)
            || matches!(set.kind, SetKind::Ensure | SetKind::Truncate);
        Expected::Rows(set.target, set.kind, (!may_be_gone).then_some(set.rows() as u64))
    }

    /// A row that came with this very key since the rows were locked is another matter: it is decided anew.
    async fn is_somebody_elses(&mut self, set: &Set) -> Outcome<()> {
        let (SetKind::Insert, Some(values)) = (set.kind, set.values.first()) else { return Ok(()) };
        let key = crate::delta::decide::key_of(&self.plan.targets[set.target], &set.columns, values);
        match self.lock(set.target, &[key]).await?.as_slice() {
            [false] => Ok(()),
            _ => {
                let what = "a row with this key came while it was written; it is decided anew";
                let problem = Problem::retry(Blame::Target, "ROW_APPEARED", what);
                Err(self.give_up(problem.table(&self.plan.targets[set.target].name)).await)
            }
        }
    }

    /// The table that a foreign key of a target points to, and by pairs the columns of both.
    pub async fn parent(&mut self, target: usize, foreign_key: &str) -> Outcome<(TableName, Vec<(String, String)>)> {
        let select = "SELECT n.nspname, p.relname, c.attname, f.attname FROM pg_constraint AS k \
            JOIN pg_class AS p ON p.oid = k.confrelid JOIN pg_namespace AS n ON n.oid = p.relnamespace, \
            unnest(k.conkey, k.confkey) AS u(child, parent) \
            JOIN pg_attribute AS c ON c.attrelid = $1::text::regclass AND c.attnum = u.child \
            JOIN pg_attribute AS f ON TRUE \
            WHERE k.conrelid = $1::text::regclass AND k.conname = $2 AND k.contype = 'f' \
            AND f.attrelid = k.confrelid AND f.attnum = u.parent";
        let table = self.plan.targets[target].name.sql();
        match self.client.query(select, &[&table, &foreign_key]).await {
            Ok(rows) => {
                let name = rows.first().map_or_else(
                    || TableName::new("", ""),
                    |row| TableName::new(row.get::<_, &str>(0), row.get::<_, &str>(1)),
                );
                Ok((name, rows.iter().map(|row| (row.get(2), row.get(3))).collect()))
            }
            Err(error) => {
                let problem = fault::written(&error, true, Some(&self.plan.targets[target]));
                Err(self.give_up(problem).await)
            }
        }
    }

    /// The keys, as JSON, of some rows that hold a unique value which a row with this key was to get.
    pub async fn holders(&mut self, set: &Set, key: &Key) -> Outcome<Option<String>> {
        let target = &self.plan.targets[set.target];
        let Some(values) = set.values.first() else { return Ok(None) };
        let taken: Vec<String> = target
            .uniques
            .iter()
            .filter(|unique| unique.iter().any(|column| set.columns.contains(column)))
            .map(|unique| {
                let same = unique.iter().map(|column| {
                    let name = quote_name(&target.columns[usize::from(*column)].name);
                    match set.columns.binary_search(column).ok() {
                        Some(at) => format!("t.{name} = {}", literal(target, *column, &values[at])),
                        None => format!(
                            "t.{name} = (SELECT o.{name} FROM {} AS o WHERE {})",
                            target.name.sql(),
                            found(target, key, "o")
                        ),
                    }
                });
                format!("({})", same.collect::<Vec<_>>().join(" AND "))
            })
            .collect();
        if taken.is_empty() {
            return Ok(None);
        }
        let name = |column: &u16| &target.columns[usize::from(*column)].name;
        let pairs: Vec<String> = target
            .key
            .iter()
            .map(|column| format!("{}, t.{}::text", quote_text(name(column)), quote_name(name(column))))
            .collect();
        let select = format!(
            "SELECT jsonb_agg(k)::text FROM (SELECT jsonb_build_object({}) AS k FROM {} AS t WHERE ({}) AND NOT ({}) LIMIT 5) AS held",
            pairs.join(", "),
            target.name.sql(),
            taken.join(" OR "),
            found(target, key, "t"),
        );
        match self.client.query_one(&select, &[]).await {
            Ok(row) => Ok(row.get(0)),
            Err(error) => {
                let problem = fault::written(&error, true, Some(&self.plan.targets[set.target]));
                Err(self.give_up(problem).await)
            }
        }
    }

    /// Whether a row of the target still has to become what its record says: not if an operator has decided otherwise.
    /// `None`: the target's application has changed the same columns since, or closed the matter.
    pub async fn still_parked(&mut self, digest: u128, (target, key): (usize, &Key)) -> Outcome<Option<bool>> {
        let target = &self.plan.targets[target];
        let select = format!(
            "SELECT c.taken IS NULL OR c.taken <> $4, EXISTS (SELECT FROM jsonb_object_keys(c.lost) AS k \
             WHERE c.kept IS NOT NULL AND (to_jsonb(t.*) -> k) IS DISTINCT FROM (c.kept -> k)) \
             FROM falkirk.conflict AS c LEFT JOIN {} AS t ON {} WHERE c.migration = $1 AND c.link = $2 \
             AND c.key_digest = $3 AND c.kind IN {PARKED} AND c.state = 'open'",
            target.name.sql(),
            found(target, key, "t"),
        );
        let (link, digest) = (self.identity.link, digest.to_be_bytes());
        let kept_by = if link == Link::Forward { "green" } else { "blue" };
        let parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
            &[&self.identity.migration, &link.name(), &digest.as_slice(), &kept_by];
        match self.client.query_opt(&select, parameters).await {
            Ok(None) => Ok(None),
            Ok(Some(row)) if row.get::<_, bool>(1) => Ok(None),
            Ok(Some(row)) => Ok(Some(row.get(0))),
            Err(error) => {
                let problem = fault::written(&error, true, Some(target));
                Err(self.give_up(problem).await)
            }
        }
    }

    /// A row waits for a unique value no longer: its record is closed in the open transaction.
    pub async fn settle_parked(&mut self, digest: u128) -> Outcome<()> {
        self.check_all().await?;
        let settle = format!(
            "UPDATE falkirk.conflict SET state = 'resolved', resolved_at = now(), \
             resolved_by = coalesce(resolved_by, 'the application') WHERE migration = $1::text AND link = $2::text \
             AND key_digest = $3::bytea AND kind IN {PARKED} AND state = 'open'"
        );
        let prepared = self.statements.get(self.client, settle).await;
        let text = |text: &str| Ready(Bytes::copy_from_slice(text.as_bytes()));
        let parameters = vec![
            text(&self.identity.migration),
            text(self.identity.link.name()),
            Ready(Bytes::copy_from_slice(&digest.to_be_bytes())),
        ];
        let run = async { self.client.execute_raw(&prepared?, parameters).await };
        match run.await {
            Ok(_) => Ok(()),
            Err(error) => {
                let problem = fault::written(&error, true, None);
                Err(self.give_up(problem).await)
            }
        }
    }
}

fn literal(target: &Target, column: u16, datum: &Datum) -> String {
    match datum {
        // The cast rounds as the column does, so that what is looked for is what would have been stored.
        Datum::Text(text) => format!(
            "CAST({} AS {})",
            quote_text(&String::from_utf8_lossy(text)),
            target.columns[usize::from(column)].type_sql
        ),
        Datum::Null | Datum::Unset => "NULL".to_owned(),
    }
}

/// The condition that finds a row by its key.
pub(super) fn found(target: &Target, key: &Key, row: &str) -> String {
    let column = |(column, datum): (&u16, &Datum)| {
        let name = quote_name(&target.columns[usize::from(*column)].name);
        format!("{row}.{name} = {}", literal(target, *column, datum))
    };
    target.key.iter().zip(key).map(column).collect::<Vec<_>>().join(" AND ")
}
