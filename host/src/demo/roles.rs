//! Runs the files of `examples/roles` as psql would, so that the demo's link has exactly the rights that they give.

use crate::names::{quote_name, quote_text};
use crate::pg::session::Session;
use crate::problem::Outcome;

/// What is to be granted to the role that a link reads with.
pub const SOURCE: &str = include_str!("../../../examples/roles/source.sql");
/// What is to be granted to the role that a link writes with.
pub const TARGET: &str = include_str!("../../../examples/roles/target.sql");

/// Runs one of the files, as an administrator of the database. `values` are psql's variables.
pub async fn run(administrator: &Session, file: &str, values: &[(&str, &str)]) -> Outcome<()> {
    for (sql, answers_are_statements) in steps(file, values) {
        match answers_are_statements {
            false => administrator.run(&sql).await?,
            true => {
                for row in administrator.rows(&sql).await? {
                    administrator.run(&row.text(0)?).await?;
                }
            }
        }
    }
    Ok(())
}

/// The statements of a file, and of each whether it ended in `\gexec`: then its answers are statements to run.
fn steps(file: &str, values: &[(&str, &str)]) -> Vec<(String, bool)> {
    let mut text = file.lines().filter(|line| !line.starts_with("--")).collect::<Vec<_>>().join("\n");
    for (name, value) in values {
        text = text.replace(&format!(":\"{name}\""), &quote_name(value));
        text = text.replace(&format!(":'{name}'"), quote_text(value).trim_start());
    }
    let mut steps = Vec::new();
    for part in text.split(';') {
        let mut queries = part.split("\\gexec").map(str::trim).peekable();
        while let Some(query) = queries.next() {
            if !query.is_empty() {
                steps.push((query.to_owned(), queries.peek().is_some()));
            }
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_are_read_as_psql_reads_them() {
        let values =
            [("role", "falkirk"), ("password", "it's"), ("owner", "shop"), ("schema", "public"), ("DBNAME", "shop")];
        for file in [SOURCE, TARGET] {
            let steps = steps(file, &values);
            assert!(steps[0].0.contains("'it''s'") && steps[0].1, "{steps:?}");
            assert!(steps.len() > 2 && steps[1..].iter().all(|(_, query)| !query), "{steps:?}");
            assert!(steps.iter().all(|(sql, _)| !sql.contains(":\"") && !sql.contains(":'")), "{steps:?}");
        }
        assert!(steps(SOURCE, &values).iter().any(|(sql, _)| sql == "GRANT \"shop\" TO \"falkirk\""));
    }
}
