//! Join by primary key: `avatar.picture` becomes a column of its `account`. Law: green's rows are the left join of blue's
//! two tables. An avatar without an account has no place in green: the foreign key says that there is none.

use falkirk_sdk::{Step, rows};

rows! { struct Picture { picture: Option<String> } }

pub fn rules(step: &mut Step) {
    step.forward("account").output("account", |to| to.same_named());
    let forward = step.forward("avatar");
    forward.output("account", |to| to.patch([("id", "id")]).copied("picture", "picture").on_remove_null());
    step.backward("account")
        .output("account", |to| to.same_named())
        .output("avatar", |to| to.same_named().when(|account: Picture| account.picture.is_some()));
}
