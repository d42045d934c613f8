//! Create table: `wish` is new. Law: what release 2 writes there is complement, and no link touches it.

use falkirk_sdk::Step;

pub fn rules(step: &mut Step) {
    // Said on purpose: its rows stand for nothing on the other side.
    step.backward("wish");
}
