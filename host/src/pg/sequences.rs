//! The sequences of a database: what they have handed out, how far they may go, and which column draws from them.

use crate::names::{TableName, quote_name};
use crate::pg::session::Session;
use crate::problem::Outcome;

/// One sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// Its own name.
    pub name: TableName,
    /// The column that owns it (serial, identity); `None` for one that stands alone.
    pub owner: Option<(TableName, String)>,
    /// The number that was handed out last; the one before the first if none was.
    pub last: i128,
    /// The largest number that it may hand out: its own bound, and that of its column's type.
    pub most: i128,
    /// The step; negative for one that counts down.
    pub increment: i128,
    /// How many numbers a session may hold back.
    pub cache: i128,
    /// Starts again at its end.
    pub cycles: bool,
    /// The role may set it.
    pub may_set: bool,
}

const SELECT: &str = "
    SELECT n.nspname, c.relname, coalesce(tn.nspname, ''), coalesce(t.relname, ''), coalesce(a.attname, ''),
        coalesce(pg_sequence_last_value(s.seqrelid), s.seqstart - s.seqincrement),
        least(s.seqmax, CASE a.atttypid WHEN 21 THEN 32767 WHEN 23 THEN 2147483647 ELSE 9223372036854775807 END),
        s.seqincrement, s.seqcache, s.seqcycle, has_sequence_privilege(s.seqrelid, 'UPDATE')
    FROM pg_sequence s
    JOIN pg_class c ON c.oid = s.seqrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid
        AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i')
    LEFT JOIN pg_class t ON t.oid = d.refobjid
    LEFT JOIN pg_namespace tn ON tn.oid = t.relnamespace
    LEFT JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
    WHERE n.nspname NOT IN ('falkirk', 'pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\\_t%'
        AND has_sequence_privilege(s.seqrelid, 'SELECT, USAGE')
    ORDER BY 1, 2";

/// All sequences that the role may see.
pub async fn read(session: &Session) -> Outcome<Vec<Sequence>> {
    let rows = session.rows(SELECT).await?;
    rows.iter()
        .map(|row| {
            let (table_schema, table, column) = (row.text(2)?, row.text(3)?, row.text(4)?);
            Ok(Sequence {
                name: TableName::new(&row.text(0)?, &row.text(1)?),
                owner: (!table.is_empty()).then(|| (TableName::new(&table_schema, &table), column)),
                last: row.number(5)?,
                most: row.number(6)?,
                increment: row.number(7)?,
                cache: row.number(8)?,
                cycles: row.flag(9)?,
                may_set: row.flag(10)?,
            })
        })
        .collect()
}

/// Lets a sequence go on after `to`, unless it has got further by itself.
pub async fn set_past(session: &Session, sequence: &TableName, to: i128) -> Outcome<()> {
    let name = format!("{}.{}", quote_name(&sequence.schema), quote_name(&sequence.table));
    let text = crate::names::quote_text(&name);
    // In one statement: between looking and setting somebody may draw.
    let sql = format!(
        "SELECT setval({text}, greatest({to}, coalesce(pg_sequence_last_value({text}::regclass), {to}))::bigint, true)"
    );
    session.run(&sql).await
}
