//! Decompose by foreign key: the text `book.author` becomes a row of `author` with a key of its own. Law: blue's rows are
//! green's books, each with its author's name; an author stays when its last book goes, and `born` is complement.
//!
//! A key map pairs a name with a key. Release 2 names authors itself: what it writes binds the pair, and a renamed author
//! renames all its books on blue.

use falkirk_sdk::{Creates, Step};

pub fn rules(step: &mut Step) {
    let author = step.map("author", "book.author", "author.id", Creates::Green);
    step.forward("book")
        .output("author", |to| to.ensure().mapped("id", author.of("author")).copied("name", "author"))
        .output("book", |to| to.same_named().mapped("author_id", author.of("author")));
    step.backward("author").bind(author, "name", "id");
    step.backward("book").output("book", |to| to.same_named().mapped("author", author.of("author_id")));
}
