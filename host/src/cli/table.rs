//! Tables: drawn for eyes, tab-separated for pipes.

use comfy_table::{Attribute, Cell, ContentArrangement, Table};

/// Prints rows under a head.
pub(super) fn print(head: &[&str], rows: Vec<Vec<String>>, for_eyes: bool) {
    if !for_eyes {
        rows.iter().for_each(|row| println!("{}", row.join("\t")));
        return;
    }
    let mut table = Table::new();
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(head.iter().map(|title| Cell::new(title).add_attribute(Attribute::Bold)));
    table.add_rows(rows);
    println!("{table}");
}
