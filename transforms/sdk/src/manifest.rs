//! A step's declaration as the manifest that the host reads.
//!
//! Written from the very structures that `step` computes with, so the two cannot drift apart.

#![forbid(unsafe_code)]

use serde_json::{Map, Value as Json, json};

use crate::keyed::{Creates, Mapped, Matched};
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
    let mut json = json!({
        "falkirk": 1,
        "name": step.name,
        "from": step.from,
        "to": step.to,
        "forward": step.forward.iter().map(rule).collect::<Vec<_>>(),
        "backward": step.backward.iter().map(rule).collect::<Vec<_>>(),
    });
    for (map, blue, green, creates) in &step.maps {
        let creates = match creates {
            Creates::Blue => "blue",
            Creates::Green => "green",
            Creates::Both => "both",
        };
        json["maps"][map.0] = json!({ "blue": blue, "green": green, "creates": creates });
    }
    for (version, table, column, type_sql) in &step.types {
        json["types"][version][table.plain()][column] = json!(type_sql);
    }
    json
}

fn rule(rule: &Rule) -> Json {
    let column = |&(name, as_text): &(&str, bool)| match as_text {
        true => json!({ "name": name, "as": "text" }),
        false => json!(name),
    };
    let mut json = json!({
        "table": rule.table.plain(),
        "columns": rule.columns.iter().map(column).collect::<Vec<_>>(),
        "outputs": rule.outputs.iter().map(output).collect::<Vec<_>>(),
    });
    if !rule.binds.is_empty() {
        let bind =
            |(map, blue, green): &(crate::Map, String, String)| json!({ "map": map.0, "blue": blue, "green": green });
        json["bind"] = rule.binds.iter().map(bind).collect();
    }
    for related in &rule.related {
        let on: Map<String, Json> = related.on.iter().map(|(own, other)| (own.clone(), json!(other))).collect();
        let columns: Vec<Json> = related.columns.iter().map(column).collect();
        let related = json!({ "table": related.table.plain(), "on": on, "columns": columns });
        match json["related"].as_array_mut() {
            Some(list) => list.push(related),
            None => json["related"] = json!([related]),
        }
    }
    json
}

fn mapped(mapped: &Mapped) -> Json {
    json!([mapped.map.0, mapped.column])
}

fn names(columns: &[(&str, bool)]) -> Json {
    columns.iter().map(|(name, _)| *name).collect()
}

/// Only what differs from the manifest's defaults.
fn output(output: &Output) -> Json {
    let mut json = Map::from_iter([("table".to_owned(), json!(output.table.plain()))]);
    let mut put = |key: &str, value: Json| json.insert(key.to_owned(), value);
    if let Some(write) = output.write {
        put("write", json!(write));
    }
    if output.shares {
        put("shares", json!(true));
    }
    if !output.matching.is_empty() {
        let from = |matched: &Matched| match matched {
            Matched::Column(column) => json!(column),
            Matched::Mapped(through) => mapped(through),
        };
        put("match", output.matching.iter().map(|(to, matched)| (to.clone(), from(matched))).collect());
    }
    if !output.mapped.is_empty() {
        put("mapped", output.mapped.iter().map(|(to, through)| (to.clone(), mapped(through))).collect());
    }
    if let Some(on_remove) = output.on_remove {
        put("on_remove", json!(on_remove));
    }
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
    if let Some(number) = group.related {
        json["related"] = json!([number]);
    }
    if group.lossy {
        json["lossy"] = json!(true);
    }
    json
}
