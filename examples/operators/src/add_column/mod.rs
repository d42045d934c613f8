//! Add column: `person.level`. Law: the other columns are equal; `level` is complement, which starts with its default and
//! keeps what release 2 puts there, whatever release 1 does to the row.

use falkirk_sdk::Step;

pub fn rules(step: &mut Step) {
    step.forward("person").output("person", |to| to.same_named());
    step.backward("person").output("person", |to| to.same_named());
}
