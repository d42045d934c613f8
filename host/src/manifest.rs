//! The manifest: what a transform declares about itself, as JSON out of `describe`.
//!
//! Plain data with unknown keys refused (counter-example 18); `plan` checks it against both catalogs. The published
//! schema is `wit/manifest.schema.json`.

mod keyed;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

pub use keyed::{Bind, Creates, KeyColumn, Map, Mapped, Matched, OnRemove, Related};

use crate::marker::Link;
use crate::names::TableName;

/// The manifest's format that this host speaks.
pub const FORMAT: u32 = 1;

/// The way a link runs a transform.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Reads blue, writes green.
    Forward,
    /// Reads green, writes blue.
    Backward,
}

/// What a transform is and which rows stand for which.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The format: 1.
    pub falkirk: u32,
    /// The application's name for this step.
    pub name: String,
    /// The older schema version: blue's.
    pub from: String,
    /// The newer schema version: green's.
    pub to: String,
    /// Key maps by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub maps: BTreeMap<String, Map>,
    /// What the step knows of columns of either version, for steps that run one after the other: version, table, column,
    /// and its type as SQL; null says that the version has no such column.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub types: BTreeMap<String, BTreeMap<TableName, BTreeMap<String, Option<String>>>>,
    /// Rules for blue's tables.
    #[serde(default)]
    pub forward: Vec<Rule>,
    /// Rules for green's tables.
    #[serde(default)]
    pub backward: Vec<Rule>,
}

impl From<Link> for Direction {
    fn from(link: Link) -> Self {
        match link {
            Link::Forward => Direction::Forward,
            Link::Backward => Direction::Backward,
        }
    }
}

impl Manifest {
    /// The rules of one direction.
    pub fn rules(&self, direction: Direction) -> &[Rule] {
        match direction {
            Direction::Forward => &self.forward,
            Direction::Backward => &self.backward,
        }
    }

    /// A manifest out of its text. The error names the place within the document.
    pub fn parse(text: &str) -> Result<Self, String> {
        let json: Json = serde_json::from_str(text).map_err(|error| format!("the manifest is not JSON: {error}"))?;
        // First of all: another format has other keys, and complaining about those would mislead.
        match json.get("falkirk").and_then(Json::as_u64) {
            Some(format) if format == u64::from(FORMAT) => {}
            Some(format) => return Err(format!("the manifest has format {format}, this host speaks {FORMAT}")),
            None => return Err("the manifest does not say its format: `falkirk` is missing or no number".into()),
        }
        // Out of the text, not out of `json`: a key that is given twice must be refused as well.
        serde_json::from_str(text).map_err(|error| match place(&json) {
            Some((place, error)) => format!("the manifest is invalid at {place}: {error}"),
            None => format!("the manifest is invalid: {error}"),
        })
    }
}

/// The innermost rule, output, group or column that is not what it should be.
fn place(json: &Json) -> Option<(String, String)> {
    ["forward", "backward"].into_iter().find_map(|direction| {
        elements(json, direction).find_map(|(at, rule)| {
            let column = elements(rule, "columns").find_map(|(here, column)| fault::<Asked>(column, &[&at, &here]));
            let output = || {
                elements(rule, "outputs").find_map(|(here, output)| {
                    let mut groups = elements(output, "computed");
                    let group = groups.find_map(|(inner, group)| fault::<Group>(group, &[&at, &here, &inner]));
                    group.or_else(|| fault::<Output>(output, &[&at, &here]))
                })
            };
            column.or_else(output).or_else(|| fault::<Rule>(rule, &[&at]))
        })
    })
}

fn elements<'a>(json: &'a Json, key: &'static str) -> impl Iterator<Item = (String, &'a Json)> {
    let list = json.get(key).and_then(Json::as_array).map(Vec::as_slice).unwrap_or_default();
    list.iter().enumerate().map(move |(position, element)| (format!("{key}[{position}]"), element))
}

fn fault<T: serde::de::DeserializeOwned>(json: &Json, place: &[&str]) -> Option<(String, String)> {
    let error = T::deserialize(json).err()?;
    let names_column = std::any::type_name::<T>() == std::any::type_name::<Asked>();
    let error = match names_column {
        true => "expected a column's name, or {\"name\": .., \"as\": \"text\"}".to_owned(),
        false => error.to_string(),
    };
    Some((place.join("."), error))
}

/// What the rows of one source table stand for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The source table.
    pub table: TableName,
    /// The columns that the guest is handed, in this order.
    #[serde(default)]
    pub columns: Vec<Asked>,
    /// Rows of other source tables that the guest is handed as well, as of the change.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub related: Vec<Related>,
    /// Columns of this table that are pairs of key maps.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bind: Vec<Bind>,
    /// The target rows; none: rows of this table stand for nothing on the other side, on purpose.
    #[serde(default)]
    pub outputs: Vec<Output>,
}

/// A column that the guest is handed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Asked {
    /// By its type's own case.
    Natural(String),
    /// With a form of its own.
    As(AskedAs),
}

/// A column handed over in another form than its type's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AskedAs {
    /// The column.
    pub name: String,
    /// The form: only text so far.
    #[serde(rename = "as")]
    pub form: Form,
}

/// The form of a value on its way to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// PostgreSQL's own text.
    Text,
}

impl Asked {
    /// The column's name.
    pub fn name(&self) -> &str {
        match self {
            Asked::Natural(name) => name,
            Asked::As(asked) => &asked.name,
        }
    }

    /// Whether it is to be handed over as text whatever its type.
    pub fn as_text(&self) -> bool {
        matches!(self, Asked::As(AskedAs { form: Form::Text, .. }))
    }
}

/// How an output's row is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Write {
    /// The row belongs to the source row and goes with it.
    #[default]
    Own,
    /// Inserted if absent, asserted again when the source row changes, never changed or deleted.
    Ensure,
    /// Sets columns of a row that others own.
    Patch,
}

/// What a target row keeps its identity by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Follows {
    /// By the source row: when the key changes, the row is rekeyed and keeps its complement.
    Source,
    /// By its key: another key is another row.
    Key,
}

/// What happens to a target row whose source row is deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDelete {
    /// It is deleted.
    #[default]
    Delete,
    /// These columns are set to these values (PostgreSQL's text form, null for NULL): a soft delete.
    Set(BTreeMap<String, Option<String>>),
}

/// One target row that a source row stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// The target table.
    pub table: TableName,
    /// How it is written.
    #[serde(default)]
    pub write: Write,
    /// Other source tables' outputs write other rows of the same target table: still one owner a row.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shares: bool,
    /// Columns moved by the host: target column to source column. The guest never sees them.
    #[serde(default)]
    pub copied: BTreeMap<String, String>,
    /// Also copy every other column that both sides have under one name.
    #[serde(default)]
    pub same_named: bool,
    /// Columns that need code.
    #[serde(default)]
    pub computed: Vec<Group>,
    /// The columns that decide whether the row exists at all; the guest is asked. Absent: it always does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<Vec<String>>,
    /// One source row stands for any number of these rows.
    #[serde(default)]
    pub many: bool,
    /// What the row keeps its identity by. Default: source, or key for `many`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follows: Option<Follows>,
    /// What a delete of the source row does.
    #[serde(default)]
    pub on_delete: OnDelete,
    /// Columns filled through a key map: target column to map and source column.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub mapped: BTreeMap<String, Mapped>,
    /// The key of the row that a patch writes: target column to where its value comes from.
    #[serde(default, rename = "match", skip_serializing_if = "BTreeMap::is_empty")]
    pub matching: BTreeMap<String, Matched>,
    /// What a patch does to its columns when its source row goes. Default: keep.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_remove: Option<OnRemove>,
}

/// Columns of an output that are computed together: the unit of writing and of conflict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// The inputs: columns of the rule.
    pub from: Vec<String>,
    /// The related tables that are inputs as well: positions, from 0, in the rule's `related`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub related: Vec<usize>,
    /// The outputs: columns of the target table.
    pub to: Vec<String>,
    /// The way back loses something, on purpose: comparisons leave the group out and count it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lossy: bool,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde::de::DeserializeOwned;
    use serde_json::json;

    use super::*;

    fn schema() -> Json {
        serde_json::from_str(include_str!("../../wit/manifest.schema.json")).unwrap()
    }

    /// What serde says it knows, out of its complaint about a key that nobody has.
    fn fields<T: DeserializeOwned>() -> BTreeSet<String> {
        let error = serde_json::from_value::<T>(json!({ "no such key": 0 })).err().unwrap().to_string();
        error.split('`').skip(3).step_by(2).map(str::to_owned).collect()
    }

    fn assert_same_keys<T: DeserializeOwned>(object: &Json) {
        let properties = object["properties"].as_object().unwrap();
        assert_eq!(properties.keys().cloned().collect::<BTreeSet<_>>(), fields::<T>());
        assert_eq!(object["additionalProperties"], false);
        for (key, property) in properties {
            let described = property["description"].is_string() || property["$ref"].is_string();
            assert!(described, "{key} is not described");
        }
    }

    #[test]
    fn the_published_schema_has_the_keys_that_the_host_reads() {
        let schema = schema();
        let defs = &schema["$defs"];
        assert_same_keys::<Manifest>(&schema);
        assert_same_keys::<Rule>(&defs["rule"]);
        assert_same_keys::<AskedAs>(&defs["asked"]["oneOf"][1]);
        assert_same_keys::<Output>(&defs["output"]);
        assert_same_keys::<Group>(&defs["group"]);
        assert_same_keys::<Map>(&defs["map"]);
        assert_same_keys::<Bind>(&defs["bind"]);
        assert_same_keys::<Related>(&defs["related"]);
    }

    /// As much of JSON Schema as the published one uses.
    fn fits(root: &Json, schema: &Json, value: &Json) -> bool {
        let listed = |key: &str| schema[key].as_array().map(Vec::as_slice).unwrap_or_default();
        let kind = match value {
            Json::Null => "null",
            Json::Bool(_) => "boolean",
            Json::Number(_) => "number",
            Json::String(_) => "string",
            Json::Array(_) => "array",
            Json::Object(_) => "object",
        };
        let reference = schema["$ref"].as_str().map(|path| root.pointer(path.trim_start_matches('#')).unwrap());
        let typed = match &schema["type"] {
            Json::String(only) => only == kind,
            Json::Array(kinds) => kinds.contains(&json!(kind)),
            _ => true,
        };
        let inside =
            |(key, value): (&String, &Json)| match (&schema["properties"][key], &schema["additionalProperties"]) {
                (Json::Null, Json::Bool(false)) => false,
                (Json::Null, other) => fits(root, other, value),
                (property, _) => fits(root, property, value),
            };
        reference.is_none_or(|reference| fits(root, reference, value))
            && typed
            && schema.get("const").is_none_or(|constant| constant == value)
            && schema.get("enum").is_none_or(|_| listed("enum").contains(value))
            && schema["minLength"].as_u64().is_none_or(|least| value.as_str().unwrap_or_default().len() as u64 >= least)
            && (schema.get("oneOf").is_none()
                || listed("oneOf").iter().filter(|one| fits(root, one, value)).count() == 1)
            && value.as_object().is_none_or(|object| {
                listed("required").iter().all(|key| object.contains_key(key.as_str().unwrap()))
                    && object.iter().all(inside)
            })
            && (schema.get("items").is_none()
                || value.as_array().is_none_or(|list| list.iter().all(|one| fits(root, &schema["items"], one))))
    }

    fn agree(manifest: Json, accepted: bool) {
        let schema = schema();
        assert_eq!(Manifest::parse(&manifest.to_string()).is_ok(), accepted, "the host on {manifest}");
        assert_eq!(fits(&schema, &schema, &manifest), accepted, "the schema on {manifest}");
    }

    fn with_rule(rule: Json) -> Json {
        json!({ "falkirk": 1, "name": "shop", "from": "1", "to": "2", "forward": [rule] })
    }

    fn with_output(output: Json) -> Json {
        with_rule(json!({ "table": "a", "outputs": [output] }))
    }

    fn with_maps(maps: Json) -> Json {
        json!({ "falkirk": 1, "name": "shop", "from": "1", "to": "2", "maps": maps })
    }

    fn with_types(types: Json) -> Json {
        json!({ "falkirk": 1, "name": "shop", "from": "1", "to": "2", "types": types })
    }

    #[test]
    fn the_published_schema_accepts_what_the_host_accepts() {
        agree(json!({ "falkirk": 1, "name": "shop", "from": "1", "to": "2" }), true);
        agree(with_maps(json!({ "cart": { "blue": "customer.id", "green": "s.cart.id", "creates": "green" } })), true);
        agree(with_types(json!({ "2": { "customer": { "id": "bigint", "name": null } } })), true);
        agree(with_rule(json!({ "table": "app.\"My.Table\"" })), true);
        agree(
            with_rule(json!({ "table": "a", "columns": ["b", { "name": "id", "as": "text" }],
                "related": [{ "table": "c", "on": { "c_id": "id" }, "columns": ["name"] }],
                "bind": [{ "map": "m", "blue": "x", "green": "y" }] })),
            true,
        );
        agree(
            with_output(json!({ "table": "a", "write": "patch", "mapped": { "x": ["m", "y"] },
                "match": { "id": "b_id", "other": ["m", "z"] }, "on_remove": "null" })),
            true,
        );
        agree(with_output(json!({ "table": "a", "copied": { "x": "y" }, "same_named": true, "many": true })), true);
        agree(with_output(json!({ "table": "a", "shares": true, "same_named": true })), true);
        agree(with_output(json!({ "table": "a", "when": ["b"], "follows": "key", "on_delete": "delete" })), true);
        agree(
            with_output(json!({ "table": "a", "when": null, "on_delete": { "set": { "x": "t", "y": null } } })),
            true,
        );
        agree(with_output(json!({ "table": "a", "computed": [{ "from": [], "to": ["x"], "lossy": true }] })), true);
    }

    #[test]
    fn row_18_unknown_keys_and_wrong_values_are_refused_by_the_host_and_the_schema_alike() {
        agree(json!({ "falkirk": 2, "name": "shop", "from": "1", "to": "2" }), false);
        agree(json!({ "name": "shop", "from": "1", "to": "2" }), false);
        agree(json!({ "falkirk": 1, "name": "shop", "from": "1", "to": 2 }), false);
        agree(json!({ "falkirk": 1, "name": "shop", "from": "1", "to": "2", "extra": {} }), false);
        agree(with_maps(json!({ "m": { "blue": "a.b", "green": "c.d" } })), false);
        agree(with_maps(json!({ "m": { "blue": "a.b", "green": "c.d", "creates": "nobody" } })), false);
        agree(with_types(json!({ "2": { "customer": { "id": 20 } } })), false);
        agree(with_rule(json!({ "outputs": [] })), false);
        agree(with_rule(json!({ "table": "a", "bind": [{ "map": "m", "blue": "x" }] })), false);
        agree(with_rule(json!({ "table": "a", "related": [{ "table": "b", "on": {} }] })), false);
        agree(with_output(json!({ "table": "a", "mapped": { "x": "m" } })), false);
        agree(with_output(json!({ "table": "a", "on_remove": "drop" })), false);
        agree(with_rule(json!({ "table": "" })), false);
        agree(with_rule(json!({ "table": "a", "columns": [{ "name": "id" }] })), false);
        agree(with_rule(json!({ "table": "a", "columns": [{ "name": "id", "as": "json" }] })), false);
        agree(with_output(json!({ "table": "a", "same_name": true })), false);
        agree(with_output(json!({ "table": "a", "copied": { "x": 1 } })), false);
        agree(with_output(json!({ "table": "a", "write": "upsert" })), false);
        agree(with_output(json!({ "table": "a", "shares": "b" })), false);
        agree(with_output(json!({ "table": "a", "follows": "nobody" })), false);
        agree(with_output(json!({ "table": "a", "on_delete": { "set": { "x": 1 } } })), false);
        agree(with_output(json!({ "table": "a", "computed": [{ "from": ["x"] }] })), false);
        agree(with_output(json!({ "table": "a", "computed": [{ "from": ["x"], "to": ["y"], "by": 1 }] })), false);
    }

    #[test]
    fn an_invalid_manifest_names_the_innermost_place() {
        let place = |manifest: Json| Manifest::parse(&manifest.to_string()).unwrap_err();
        let text = place(with_output(json!({ "table": "a", "computed": [{ "from": [], "to": [] }, { "to": [] }] })));
        assert!(text.contains("forward[0].outputs[0].computed[1]") && text.contains("from"), "{text}");
        let text = place(with_rule(json!({ "table": "a", "columns": ["b", 3] })));
        assert!(text.contains("forward[0].columns[1]") && text.contains("column's name"), "{text}");
        let text = Manifest::parse(r#"{"falkirk": 1, "name": "a", "name": "b", "from": "1", "to": "2"}"#).unwrap_err();
        assert!(text.contains("duplicate"), "{text}");
    }

    #[test]
    fn what_is_read_writes_back_to_the_same() {
        let text = with_output(json!({ "table": "app.b", "when": ["x"], "on_delete": { "set": { "gone": "t" } } }));
        let manifest = Manifest::parse(&text.to_string()).unwrap();
        assert_eq!(Manifest::parse(&serde_json::to_string(&manifest).unwrap()), Ok(manifest));
    }
}
