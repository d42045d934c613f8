//! Where the names of third-party crates may stand.

use crate::source::SourceFile;

const HOMES: &[(&str, &[&str])] = &[
    ("wasmtime", &["transform"]),
    ("wit_component", &["build"]),
    ("tokio_postgres", &["pg", "apply", "source"]),
    ("tokio_postgres_rustls", &["pg", "apply", "source"]),
    ("postgres_protocol", &["source", "pg"]),
    ("clap", &["cli"]),
    ("axum", &["admin"]),
    ("hyper", &["admin"]),
    ("hyper_util", &["admin"]),
    ("http_body_util", &["admin"]),
    ("indicatif", &["show", "demo"]),
    ("comfy_table", &["cli", "show", "demo"]),
    ("toml", &["config"]),
    ("rustls", &["pg", "source"]),
    ("rustls_native_certs", &["pg", "source"]),
    ("tokio_rustls", &["pg", "source"]),
    ("hmac", &["transform"]),
    ("nix", &["cluster", "build", "supervisor", "transform"]),
    ("rustix", &["transform"]),
];

/// Names away from home.
pub fn breaches(file: &SourceFile) -> Vec<String> {
    let mut found = Vec::new();
    for (at, token) in file.code.iter().enumerate() {
        let Some((name, homes)) = HOMES.iter().find(|(name, _)| token.text == *name) else { continue };
        let is =
            |at: Option<usize>, text: &str| at.and_then(|at| file.code.get(at)).is_some_and(|token| token.text == text);
        let before = at.checked_sub(1);
        // `crate::config::toml` would be ours.
        let ours = is(before, "::")
            && at.checked_sub(2).is_some_and(|at| file.code[at].text != "{" && file.code[at].text != ",");
        let named = is(Some(at + 1), "::") || is(before, "use") || is(before, "crate");
        if named && !ours && !homes.contains(&file.module()) {
            found.push(format!("{}: `{name}` lives in {}", file.at(token.line), homes.join(", ")));
        }
    }
    found
}

#[test]
fn a_name_away_from_home_is_found_in_every_spelling() {
    let count = |path: &str, text: &str| breaches(&SourceFile::new(path, text)).len();
    assert_eq!(count("host/src/transform/a.rs", "use wasmtime::Engine;"), 0);
    assert_eq!(count("host/src/link/a.rs", "use wasmtime::Engine;"), 1);
    assert_eq!(count("host/src/link/a.rs", "use toml;"), 1);
    assert_eq!(count("host/src/link/a.rs", "fn a(b: &tokio_postgres::Row) {}"), 1);
    assert_eq!(count("host/src/link/a.rs", "let wasmtime = 1; a(\"wasmtime::Engine\"); // wasmtime::Engine"), 0);
    assert_eq!(count("host/src/link/a.rs", "use crate::config::toml::A;"), 0, "a module of ours");
}
