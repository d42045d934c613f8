//! Horizontal split: a `parcel` stands in `parcel_open` or in `parcel_done`, as its state says. Law: blue's rows are the
//! union of green's two tables. A parcel that release 2 moves from one to the other within one transaction is the same
//! row to blue, and keeps its `shelf`.

use falkirk_sdk::{Step, rows};

rows! { struct State { state: String } }

pub fn rules(step: &mut Step) {
    let done = |parcel: State| parcel.state == "done";
    step.forward("parcel")
        .output("parcel_open", move |to| to.same_named().when(move |parcel: State| !done(parcel)))
        .output("parcel_done", move |to| to.same_named().when(done));
    step.backward("parcel_open").output("parcel", |to| to.same_named().shares());
    step.backward("parcel_done").output("parcel", |to| to.same_named().shares());
}
