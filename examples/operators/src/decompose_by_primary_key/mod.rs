//! Decompose by primary key: `member.bio` becomes a row of `member_bio` with the member's key. Law: blue's rows are the
//! left join of green's two tables; a member without a bio has no row there.
//!
//! On the way back `member` owns the row, and `member_bio` sets one column of it.

use falkirk_sdk::{Step, rows};

rows! { struct Bio { bio: Option<String> } }

pub fn rules(step: &mut Step) {
    step.forward("member")
        .output("member", |to| to.same_named())
        .output("member_bio", |to| to.same_named().when(|member: Bio| member.bio.is_some()));
    step.backward("member").output("member", |to| to.same_named());
    step.backward("member_bio").output("member", |to| to.patch([("id", "id")]).copied("bio", "bio").on_remove_null());
}
