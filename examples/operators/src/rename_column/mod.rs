//! Rename column: `film.titel` is `film.title`. Law: both tables hold the same rows.

use falkirk_sdk::Step;

pub fn rules(step: &mut Step) {
    step.forward("film").output("film", |to| to.same_named().copied("title", "titel"));
    step.backward("film").output("film", |to| to.same_named().copied("titel", "title"));
}
