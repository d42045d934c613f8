//! Drop column: `office.telex`. Law: the other columns are equal; blue keeps `telex`, whatever release 2 does to the row.

use falkirk_sdk::Step;

pub fn rules(step: &mut Step) {
    step.forward("office").output("office", |to| to.same_named());
    step.backward("office").output("office", |to| to.same_named());
}
