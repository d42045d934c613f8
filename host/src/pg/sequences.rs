//! The sequences of a database: what they have handed out, how far they may go, and which columns draw from them.

use crate::names::{TableName, quote_text};
use crate::pg::session::{Row, Session};
use crate::problem::Outcome;

/// One sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// Its own name.
    pub name: TableName,
    /// The columns that own it (serial, identity) or whose default draws from it; none for one that stands alone.
    pub feeds: Vec<(TableName, String)>,
    /// The number that was handed out last; the one before the first if none was. `None`: the role may not know.
    pub last: Option<i128>,
    /// The largest number that it may hand out: its own bound, and that of the types of its columns.
    pub most: i128,
    /// The step; negative for one that counts down.
    pub increment: i128,
    /// How many numbers a session may take at once.
    pub cache: i128,
    /// Starts again at its end.
    pub cycles: bool,
    /// The role may set it.
    pub may_set: bool,
}

/// Sequences of extensions are no application's. Who may not read one is told so by NULL, not by an error.
const SELECT: &str = "
    SELECT n.nspname, c.relname,
        CASE WHEN has_sequence_privilege(c.oid, 'SELECT, USAGE')
            THEN coalesce(pg_sequence_last_value(c.oid), s.seqstart - s.seqincrement) END,
        least(s.seqmax, f.most), s.seqincrement, s.seqcache, s.seqcycle, has_sequence_privilege(c.oid, 'UPDATE'), f.feeds
    FROM pg_sequence s
    JOIN pg_class c ON c.oid = s.seqrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    CROSS JOIN LATERAL (
        SELECT json_agg(json_build_array(tn.nspname, t.relname, a.attname) ORDER BY tn.nspname, t.relname, a.attname)
                AS feeds,
            min(CASE coalesce(nullif(y.typbasetype, 0), y.oid) WHEN 21 THEN 32767 WHEN 23 THEN 2147483647 END) AS most
        FROM (
            SELECT d.refobjid AS relation, d.refobjsubid AS number
            FROM pg_depend d
            WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i')
                AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0
            UNION
            SELECT e.adrelid, e.adnum
            FROM pg_depend d JOIN pg_attrdef e ON e.oid = d.objid
            WHERE d.classid = 'pg_attrdef'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid
        ) u
        JOIN pg_class t ON t.oid = u.relation
        JOIN pg_namespace tn ON tn.oid = t.relnamespace
        JOIN pg_attribute a ON a.attrelid = u.relation AND a.attnum = u.number
        JOIN pg_type y ON y.oid = a.atttypid
    ) f
    WHERE n.nspname NOT IN ('falkirk', 'information_schema') AND n.nspname !~ '^pg_'
        AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                        AND d.deptype = 'e')
    ORDER BY 1, 2";

/// All sequences, whatever the role may do with them.
pub async fn read(session: &Session) -> Outcome<Vec<Sequence>> {
    session.rows(SELECT).await?.iter().map(sequence).collect()
}

fn sequence(row: &Row) -> Outcome<Sequence> {
    let feeds: Option<Vec<(String, String, String)>> = row.json(8)?;
    let column = |(schema, table, column): (String, String, String)| (TableName::new(schema, table), column);
    Ok(Sequence {
        name: TableName::new(row.text(0)?, row.text(1)?),
        feeds: feeds.unwrap_or_default().into_iter().map(column).collect(),
        last: row.number_or_null(2)?,
        most: row.number(3)?,
        increment: row.number(4)?,
        cache: row.number(5)?,
        cycles: row.flag(6)?,
        may_set: row.flag(7)?,
    })
}

/// Lets a sequence go on after `to`, unless it has got further by itself.
pub async fn set_past(session: &Session, sequence: &TableName, to: i128) -> Outcome<()> {
    let name = quote_text(&sequence.sql());
    // In one statement: between looking and setting somebody may draw.
    let sql = format!(
        "SELECT setval({name}, greatest({to}, coalesce(pg_sequence_last_value({name}::regclass), {to}))::bigint, true)"
    );
    session.run(&sql).await
}
