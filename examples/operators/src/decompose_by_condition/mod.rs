//! Decompose by condition: a `fixture` implies a `host` and a `guest`, and which of them play each other is told by a
//! condition from then on. Law: every host and guest of a fixture is in green. One way only: the way back is a join by
//! condition, whose rows have two owners each.

use falkirk_sdk::Step;

pub fn rules(step: &mut Step) {
    step.forward("fixture")
        .output("host", |to| to.ensure().copied("name", "host"))
        .output("guest", |to| to.ensure().copied("name", "guest"));
    step.backward("host");
    step.backward("guest");
}
