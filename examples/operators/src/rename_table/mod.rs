//! Rename table: `client` is `patron`. Law: both tables hold the same rows.

use falkirk_sdk::Step;

pub fn rules(step: &mut Step) {
    step.forward("client").output("patron", |to| to.same_named());
    step.backward("patron").output("client", |to| to.same_named());
}
