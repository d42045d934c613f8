//! An order to mend rows, as it travels to the running host: a line of JSON, and the files that it names behind it.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::marker::Link;
use crate::recopy::{Older, Order, Repaired};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    backward: bool,
    table: Option<String>,
    force: bool,
    values: bool,
    older: Vec<File>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    length: usize,
    pin: Option<String>,
}

/// The body of the request.
pub fn to_body(link: Link, order: &Order) -> Vec<u8> {
    let Order { table, force, older, values, .. } = order;
    let file = |Older { name, bytes, pin }: &Older| File { name: name.clone(), length: bytes.len(), pin: pin.clone() };
    let head = Head {
        backward: link == Link::Backward,
        table: table.clone(),
        force: *force,
        values: *values,
        older: older.iter().map(file).collect(),
    };
    let mut body = json!(head).to_string().into_bytes();
    body.push(b'\n');
    older.iter().for_each(|older| body.extend_from_slice(&older.bytes));
    body
}

/// What it says; `None` if it says nothing.
pub(super) fn from_body(body: &[u8]) -> Option<(Link, Order)> {
    let end = body.iter().position(|byte| *byte == b'\n')?;
    let Head { backward, table, force, values, older } = serde_json::from_slice(&body[..end]).ok()?;
    let mut rest = &body[end + 1..];
    let mut files = Vec::new();
    for File { name, length, pin } in older {
        let (file, behind) = rest.split_at_checked(length)?;
        files.push(Older { name, bytes: file.to_vec(), pin });
        rest = behind;
    }
    let link = if backward { Link::Backward } else { Link::Forward };
    rest.is_empty().then_some((link, Order { table, force, older: files, values, only_missing: false }))
}

/// What was done, for programs. `ok`: nothing is left to do.
pub fn to_json(repaired: &Repaired, force: bool) -> Value {
    let rest = repaired.rows_rest();
    json!({
        "ok": (rest == 0 || force) && repaired.rows_busy == 0,
        "rows_written": repaired.rows_written(),
        "rows_rest": rest,
        "rows_busy": repaired.rows_busy,
        "refused": repaired.refused,
        "tables": repaired.tables,
        "left_out": repaired.left_out,
        "unknown": repaired.unknown,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_arrives_as_it_was_sent_and_nothing_else_is_one() {
        let file = |name: &str, bytes: &[u8], pin: Option<&str>| Older {
            name: name.to_owned(),
            bytes: bytes.to_vec(),
            pin: pin.map(str::to_owned),
        };
        let older = vec![file("a.wasm", b"one\ntwo", None), file("b.wasm", b"", Some("ab"))];
        let order =
            Order { table: Some("public.t".to_owned()), force: true, older, values: false, only_missing: false };
        let body = to_body(Link::Backward, &order);
        let (link, arrived) = from_body(&body).expect("it says something");
        assert_eq!(
            (link, arrived.table, arrived.force, arrived.older),
            (Link::Backward, order.table, true, order.older)
        );
        for bad in [&body[..body.len() - 1], &[body.clone(), vec![0]].concat(), b"", b"{}\n"] {
            assert!(from_body(bad).is_none());
        }
    }
}
