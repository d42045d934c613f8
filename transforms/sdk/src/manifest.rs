//! A step's declaration as the manifest that the host reads.
//!
//! Written from the very structures that `step` computes with, so the two cannot drift apart.

#![forbid(unsafe_code)]

use serde_json::{Map, Value as Json, json};

use crate::step::{Group, Output, Rule, Step};

/// A table's name: schema and table, `public` if no schema is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TableName(String, String);

impl TableName {
    /// Reads `table`, `schema.table`, and double quotes around a part that holds a dot.
    pub(crate) fn parse(text: &str) -> Self {
        let mut parts = vec![String::new()];
        let mut quoted = false;
        let mut letters = text.chars().peekable();
        while let Some(letter) = letters.next() {
            match letter {
                '"' if quoted && letters.peek() == Some(&'"') => {
                    letters.next();
                    parts.last_mut().expect("there is always a part").push('"');
                }
                '"' => quoted = !quoted,
                '.' if !quoted => parts.push(String::new()),
                letter => parts.last_mut().expect("there is always a part").push(letter),
            }
        }
        let table = parts.pop().unwrap_or_default();
        match parts.is_empty() {
            true => TableName("public".into(), table),
            false => TableName(parts.join("."), table),
        }
    }

    /// As the manifest writes it.
    pub(crate) fn plain(&self) -> String {
        let part = |text: &str| match text.contains(['.', '"']) {
            true => format!("\"{}\"", text.replace('"', "\"\"")),
            false => text.to_owned(),
        };
        match self.0.as_str() {
            "public" => part(&self.1),
            schema => format!("{}.{}", part(schema), part(&self.1)),
        }
    }
}

/// The manifest of a step.
pub(crate) fn json(step: &Step) -> Json {
    json!({
        "falkirk": 1,
        "name": step.name,
        "from": step.from,
        "to": step.to,
        "forward": step.forward.iter().map(rule).collect::<Vec<_>>(),
        "backward": step.backward.iter().map(rule).collect::<Vec<_>>(),
    })
}

fn rule(rule: &Rule) -> Json {
    let column = |&(name, as_text): &(&str, bool)| match as_text {
        true => json!({ "name": name, "as": "text" }),
        false => json!(name),
    };
    json!({
        "table": rule.table.plain(),
        "columns": rule.columns.iter().map(column).collect::<Vec<_>>(),
        "outputs": rule.outputs.iter().map(output).collect::<Vec<_>>(),
    })
}

fn names(columns: &[(&str, bool)]) -> Json {
    columns.iter().map(|(name, _)| *name).collect()
}

/// Only what differs from the manifest's defaults.
fn output(output: &Output) -> Json {
    let mut json = Map::from_iter([("table".to_owned(), json!(output.table.plain()))]);
    let mut put = |key: &str, value: Json| json.insert(key.to_owned(), value);
    if !output.copied.is_empty() {
        put("copied", output.copied.iter().map(|(to, from)| (to.clone(), json!(from))).collect());
    }
    if output.same_named {
        put("same_named", json!(true));
    }
    if !output.groups.is_empty() {
        put("computed", output.groups.iter().map(group).collect());
    }
    if let Some(when) = &output.when {
        put("when", names(when.inputs.columns));
    }
    if output.many {
        put("many", json!(true));
    }
    if let Some(follows) = output.follows {
        put("follows", json!(follows));
    }
    if !output.on_delete.is_empty() {
        let set: Map<String, Json> = output.on_delete.iter().map(|(to, value)| (to.clone(), json!(value))).collect();
        put("on_delete", json!({ "set": set }));
    }
    Json::Object(json)
}

fn group(group: &Group) -> Json {
    let mut json = json!({ "from": names(group.inputs.columns), "to": names(group.to) });
    if group.lossy {
        json["lossy"] = json!(true);
    }
    json
}
