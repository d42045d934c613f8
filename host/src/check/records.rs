//! Rows that stand for one row of the other side in several tables: while both links write, the two sides have to know
//! them for one (L8).

use std::collections::BTreeSet;

use crate::manifest::Write;
use crate::names::TableName;
use crate::plan::parts::Parts;
use crate::plan::{Output, Plan, Source};
use crate::problem::{Blame, Problem};

/// The source tables whose rows cannot be told across their target tables. `back` is the plan of the other link.
pub(super) fn check(plan: &Plan, back: &Plan, problems: &mut Vec<Problem>) {
    let parts = Parts::new(plan, back).forward;
    for source in &plan.sources {
        let own: Vec<&Output> =
            source.rule.outputs.iter().filter(|output| output.write == Write::Own && !output.many).collect();
        let family = |output: &&Output| parts.records()[output.target].as_ref().map(|record| record.family.clone());
        let families: BTreeSet<Option<TableName>> = own.iter().map(family).collect();
        let is_one = families.len() == 1 && !families.contains(&None);
        // Where the key itself says in which table the row is, two tables never hold one row.
        let by_key = own.iter().all(|output| routed_by_key(source, output));
        if own.len() < 2 || is_one || by_key {
            continue;
        }
        problems.push(
            Problem::refuse(
                Blame::Artifact,
                "RECORD_KEY",
                "its rows stand in one of several tables, or in several at once, under keys that are mapped or computed: \
                 while both links write, a change of one of them and a change of another could not be known for one row",
            )
            .table(&source.name)
            .remedy(
                "copy the whole key into each of these outputs as it is; or let the key say by itself which table it is; \
                 or run one direction at a time",
            ),
        );
    }
}

fn routed_by_key(source: &Source, output: &Output) -> bool {
    let own: BTreeSet<usize> = source.key.iter().copied().collect();
    output.when.as_ref().is_some_and(|when| when.iter().all(|column| own.contains(column)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Catalog, Table};
    use crate::manifest::Rule;
    use crate::plan::bind::{Binding, bind};

    fn catalog(tables: &[(&str, &[&str], usize)]) -> Catalog {
        tables.iter().map(|(name, columns, key)| Table::of_text(name, columns, 0..*key)).collect()
    }

    /// `t(id, kind)`, or `t(kind, id)` with both as the key, goes to `x` or `y` by its kind.
    fn codes(columns: &[&str], keys: usize, outputs: [serde_json::Value; 2]) -> Vec<&'static str> {
        let source = catalog(&[("t", columns, keys)]);
        let target = catalog(&[("x", &["id", "kind"], 1), ("y", &["id", "kind"], 1)]);
        let rule: Rule =
            serde_json::from_value(serde_json::json!({ "table": "t", "columns": ["id", "kind"], "outputs": outputs }))
                .unwrap();
        let plan = |rules: &[Rule], source, target| {
            bind(&Binding { rules, artifact: "", manifest: None, source, target, include: &[], exclude: &[] }).unwrap()
        };
        let mut problems = Vec::new();
        check(&plan(&[rule], &source, &target), &plan(&[], &target, &source), &mut problems);
        problems.iter().map(Problem::code).collect()
    }

    #[test]
    fn l8_rows_in_several_tables_under_computed_keys_are_refused_while_both_links_write() {
        let copied = |table: &str| serde_json::json!({ "table": table, "when": ["kind"], "same_named": true });
        let computed = |table: &str| {
            serde_json::json!({ "table": table, "when": ["kind"], "same_named": true,
                "computed": [{ "from": ["id"], "to": ["id"] }] })
        };
        assert_eq!(codes(&["id", "kind"], 1, [copied("x"), copied("y")]), [""; 0]);
        assert_eq!(codes(&["id", "kind"], 1, [computed("x"), copied("y")]), ["RECORD_KEY"]);
        assert_eq!(codes(&["id", "kind"], 1, [computed("x"), computed("y")]), ["RECORD_KEY"]);
        assert_eq!(codes(&["kind", "id"], 2, [copied("x"), copied("y")]), [""; 0], "the key says which");
    }
}
