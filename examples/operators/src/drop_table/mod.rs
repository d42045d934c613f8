//! Drop table: `fax_log` ends with release 1. Law: what release 1 writes there stays on blue for as long as blue lives.

use falkirk_sdk::Step;

pub fn rules(step: &mut Step) {
    step.forward("fax_log");
}
