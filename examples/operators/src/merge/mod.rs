//! Horizontal merge: `mail` and `letter` become `message`. Law: green's rows are the union of blue's two tables, as long as
//! no key stands in both; one that does stops the link. A mail that becomes a letter within one transaction, on either
//! side, is the same message and keeps its `stars`.

use falkirk_sdk::{Step, rows};

rows! {
    struct Nothing {}
    struct Kind { kind: String }
}

pub fn rules(step: &mut Step) {
    for kind in ["mail", "letter"] {
        let is = move |_: Nothing| Kind { kind: kind.into() };
        step.forward(kind).output("message", |to| to.same_named().computed(is).shares());
    }
    step.backward("message")
        .output("mail", |to| to.same_named().when(|message: Kind| message.kind == "mail"))
        .output("letter", |to| to.same_named().when(|message: Kind| message.kind == "letter"));
}
