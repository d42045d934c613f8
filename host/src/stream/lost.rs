//! What is recorded of a change that was not written (L3): its values, the row that it came from and, where one of
//! several tables holds the row, what the change would have made of each.

use crate::apply::writer::{Lost, LostFrom, LostRow};
use crate::change::Datum;
use crate::delta::decide::{self, Claim, Conflict, key_of};
use crate::delta::{ANY_OWNER, Effect, Key};
use crate::marker::row_digest;
use crate::plan::{Columns, Plan, Target};

use super::decided::{Deciding, digest};

/// What a transaction makes of a row.
#[derive(Clone)]
enum Becomes {
    Row(Named),
    Gone,
}

impl Deciding {
    /// `claims`: of the batch in which the change lost.
    pub(super) fn lost(&self, plan: &Plan, claims: &[Claim], conflict: &Conflict) -> Lost {
        let target = &plan.targets[conflict.target];
        let values = serde_json::Value::Object(values_of(target, &conflict.columns, &conflict.values));
        Lost {
            target: conflict.target,
            key: conflict.key.clone(),
            digest: digest(plan, conflict.target, &conflict.key).to_be_bytes(),
            kind: match conflict.lost {
                decide::Lost::Insert => "insert",
                decide::Lost::Patch => "update",
                decide::Lost::Delete => "delete",
            },
            position: conflict.at,
            values: (conflict.lost != decide::Lost::Delete).then(|| values.to_string()),
            winner: Some(self.target_name),
            source: self.source_of(plan, conflict.from.as_ref()),
            held_by: None,
            record: self.record_of(plan, claims, conflict),
        }
    }

    /// The rows of which one is to stand for the record. A transaction counts as a whole. A row by itself needs none,
    /// unless others than its owner write columns of it: they do not know the rest.
    fn record_of(&self, plan: &Plan, claims: &[Claim], conflict: &Conflict) -> Vec<LostRow> {
        let records = self.ruled.parts.records();
        let of_change = || claims.iter().filter(|claim| claim.at == conflict.at);
        let by_others =
            |claim: &Claim| claim.operation.target == conflict.target && claim.operation.owner_before == ANY_OWNER;
        if records.get(conflict.target).is_none_or(Option::is_none) && !of_change().any(by_others) {
            return Vec::new();
        }
        let row = |(target, key): (usize, Key)| {
            let about = of_change().filter(|claim| claim.operation.target == target);
            let becomes = about.fold(None, |before, claim| becomes(before, claim, &plan.targets[target], &key));
            let mut told = serde_json::json!({
                "table": plan.targets[target].name,
                "digest": format!("{:032x}", digest(plan, target, &key)),
                "detail": records.get(target).and_then(Option::as_ref).is_some_and(|record| record.is_detail),
            });
            match becomes {
                Some(Becomes::Row(row)) => told["lost"] = serde_json::Value::Object(row),
                Some(Becomes::Gone) => told["lost"] = serde_json::Value::Null,
                None => {}
            }
            LostRow { target, key, told: told.to_string() }
        };
        decide::kin(records, conflict.target, &conflict.key).into_iter().map(row).collect()
    }

    /// The source row of a change, as the other link knows it.
    pub(super) fn source_of(&self, plan: &Plan, from: Option<&(usize, Key)>) -> Option<LostFrom> {
        let (source, key) = from?;
        let names = self.ruled.source_keys.get(*source)?.as_ref()?;
        let table = &plan.sources[*source].name;
        let text = |datum: &Datum| match datum {
            Datum::Text(text) => String::from_utf8_lossy(text).into_owned(),
            Datum::Null | Datum::Unset => String::new(),
        };
        let texts: Vec<String> = key.iter().map(text).collect();
        let digest = row_digest(table, texts.iter().map(String::as_bytes));
        let key: serde_json::Map<_, _> =
            names.iter().cloned().zip(texts.into_iter().map(serde_json::Value::String)).collect();
        Some(LostFrom {
            table: table.to_string(),
            key: serde_json::Value::Object(key).to_string(),
            digest: digest.to_be_bytes(),
        })
    }
}

/// What becomes of a row with one more claim of its transaction; `None` while nobody has said it.
fn becomes(before: Option<Becomes>, claim: &Claim, target: &Target, key: &Key) -> Option<Becomes> {
    let own = |(columns, values): (&Columns, &[Datum])| {
        let mut row = values_of(target, columns, values);
        // What others have written of it before.
        if let Some(Becomes::Row(before)) = &before {
            before.iter().for_each(|(name, value)| {
                row.entry(name.clone()).or_insert_with(|| value.clone());
            });
        }
        Some(Becomes::Row(row))
    };
    let whole = || claim.whole.as_ref().and_then(|(columns, values)| own((columns, values)));
    let by_others = claim.operation.owner_before == ANY_OWNER;
    match &claim.operation.effect {
        Effect::Insert { columns, values } if key_of(target, columns, values) == *key => own((columns, values)),
        Effect::Patch { key: own, columns, values } | Effect::Clear { key: own, columns, values }
            if own == key && by_others =>
        {
            let Some(Becomes::Row(mut row)) = before else { return before };
            row.extend(values_of(target, columns, values));
            Some(Becomes::Row(row))
        }
        Effect::Patch { key: own, .. } if own == key => whole().or(before),
        Effect::Rekey { to, .. } if to == key => whole().or(before),
        Effect::Rekey { from: own, .. } | Effect::Delete { key: own } | Effect::Absent { key: own } if own == key => {
            Some(Becomes::Gone)
        }
        _ => before,
    }
}

/// Values by their columns' names.
pub(super) type Named = serde_json::Map<String, serde_json::Value>;

/// A row's values as records hold them.
pub(super) fn values_of(target: &Target, columns: &[u16], values: &[Datum]) -> Named {
    let named = columns.iter().zip(values).map(|(column, value)| {
        let value = match value {
            Datum::Text(text) => serde_json::Value::String(String::from_utf8_lossy(text).into_owned()),
            Datum::Null | Datum::Unset => serde_json::Value::Null,
        };
        (target.columns[usize::from(*column)].name.clone(), value)
    });
    named.collect()
}

/// Where a row stands of which a record knows table and key. `None` if the table is not written any more.
pub(super) fn place_of(plan: &Plan, table: &str, key: &Named) -> Option<(usize, Key)> {
    let at = plan.targets.iter().position(|target| target.name.to_string() == table)?;
    let target = &plan.targets[at];
    let datum = |column: &u16| key.get(&target.columns[usize::from(*column)].name).map(datum_of);
    Some((at, target.key.iter().map(datum).collect::<Option<Key>>()?))
}

/// A value of a record.
pub(super) fn datum_of(value: &serde_json::Value) -> Datum {
    value.as_str().map_or(Datum::Null, Datum::text)
}
