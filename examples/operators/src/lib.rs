//! One example for each operator by which a schema evolves. A folder holds an operator: `v1.sql` is blue's part of the
//! schema, `v2.sql` green's, and the rules lead from one to the other and back. All of them are one step, so that one
//! component shows and tests them; an application would take the one or two that it needs.

pub mod add_column;
pub mod create_table;
pub mod decompose_by_condition;
pub mod decompose_by_foreign_key;
pub mod decompose_by_primary_key;
pub mod drop_column;
pub mod drop_table;
pub mod horizontal_split;
pub mod join_by_condition;
pub mod join_by_foreign_key;
pub mod join_by_primary_key;
pub mod merge;
pub mod rename_column;
pub mod rename_table;

use falkirk_sdk::Step;

falkirk_sdk::export!(step);

/// Both directions of every operator that has an answer.
pub fn step() -> Step {
    let mut step = Step::new("operators", "1", "2");
    create_table::rules(&mut step);
    drop_table::rules(&mut step);
    rename_table::rules(&mut step);
    add_column::rules(&mut step);
    drop_column::rules(&mut step);
    rename_column::rules(&mut step);
    decompose_by_primary_key::rules(&mut step);
    join_by_primary_key::rules(&mut step);
    decompose_by_foreign_key::rules(&mut step);
    join_by_foreign_key::rules(&mut step);
    decompose_by_condition::rules(&mut step);
    horizontal_split::rules(&mut step);
    merge::rules(&mut step);
    step
}

#[cfg(test)]
mod tests {
    use super::step;

    #[test]
    fn the_step_is_consistent() {
        step().check().unwrap();
    }
}
