//! The sources as text and as tokens. Tokens come from the compiler's own lexer, so that strings, comments and
//! lifetimes never fool a rule; a rule about comments reads the lines.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// One file of Rust.
pub struct SourceFile {
    /// Its path below the repository, with `/`.
    pub path: String,
    /// Its lines.
    pub lines: Vec<String>,
    /// Its tokens in order, with those of `#[cfg(test)]` items left out.
    pub code: Vec<Token>,
    /// All of its tokens.
    pub all: Vec<Token>,
}

/// One token: groups are flattened into their opening and closing bracket, `::` is one token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// The token as written.
    pub text: String,
    /// Its line, from 1.
    pub line: usize,
}

impl SourceFile {
    /// Reads a text as the file at `path`.
    pub fn new(path: &str, text: &str) -> SourceFile {
        let stream = TokenStream::from_str(text).unwrap_or_else(|error| panic!("{path}: {error}"));
        let mut all = Vec::new();
        flatten(stream, &mut all);
        let code = without_tests(&all);
        SourceFile { path: path.to_owned(), lines: text.lines().map(str::to_owned).collect(), code, all }
    }

    /// The module below `host/src` that the file belongs to: `apply` for `apply/mod.rs`, `lsn` for `lsn.rs`.
    pub fn module(&self) -> &str {
        let inside = self.path.strip_prefix("host/src/").unwrap_or(&self.path);
        inside.split('/').next().unwrap_or(inside).trim_end_matches(".rs")
    }

    /// `path:line`, to be clicked on.
    pub fn at(&self, line: usize) -> String {
        format!("{}:{line}", self.path)
    }
}

/// The files of the host.
pub fn host() -> Vec<SourceFile> {
    below(&["host/src"])
}

/// All files of Rust in the repository, but for this checker, whose rules name what they forbid.
pub fn everything() -> Vec<SourceFile> {
    let mut files = below(&["host", "tests", "transforms"]);
    files.retain(|file| !file.path.starts_with("host/tests/tidy"));
    files
}

/// The repository's folder.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the host is a folder of the repository").to_owned()
}

fn below(folders: &[&str]) -> Vec<SourceFile> {
    let root = root();
    let mut paths = Vec::new();
    for folder in folders {
        collect(&root.join(folder), &mut paths);
    }
    paths.sort();
    assert!(!paths.is_empty(), "found no sources below {}", root.display());
    let read = |path: &PathBuf| {
        let name = path.strip_prefix(&root).expect("it was found below the root").to_string_lossy().replace('\\', "/");
        SourceFile::new(&name, &fs::read_to_string(path).expect("a source is readable text"))
    };
    paths.iter().map(read).collect()
}

fn collect(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            if entry.file_name() != "target" {
                collect(&path, into);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

fn flatten(stream: TokenStream, into: &mut Vec<Token>) {
    let mut after_colon = false;
    for tree in stream {
        let line = tree.span().start().line;
        let mut push = |text: String, line| into.push(Token { text, line });
        let colon = matches!(&tree, TokenTree::Punct(punct) if punct.as_char() == ':');
        match tree {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::None => ("", ""),
                };
                push(open.to_owned(), line);
                flatten(group.stream(), into);
                into.push(Token { text: close.to_owned(), line: group.span_close().start().line });
            }
            TokenTree::Punct(_) if colon && after_colon => {
                into.last_mut().expect("the first colon was pushed").text = "::".to_owned();
                after_colon = false;
                continue;
            }
            other => push(other.to_string(), line),
        }
        after_colon = colon;
    }
}

/// Leaves out every item under `#[cfg(test)]`: up to its semicolon or the end of its braces.
fn without_tests(all: &[Token]) -> Vec<Token> {
    const MARK: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut code = Vec::new();
    let mut at = 0;
    while at < all.len() {
        let marked =
            all[at..].len() >= MARK.len() && all[at..].iter().zip(MARK).all(|(token, mark)| token.text == mark);
        if !marked {
            code.push(all[at].clone());
            at += 1;
            continue;
        }
        at = end_of_item(all, at + MARK.len());
    }
    code
}

/// The index after the item that starts at `from`.
pub fn end_of_item(tokens: &[Token], from: usize) -> usize {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(from) {
        match token.text.as_str() {
            "{" | "(" | "[" => depth += 1,
            ")" | "]" => depth -= 1,
            "}" => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            ";" if depth == 0 => return at + 1,
            _ => {}
        }
    }
    tokens.len()
}

#[test]
fn tokens_of_tests_strings_and_comments_are_not_code() {
    let text = "fn a() { b(\"x::y\"); } // c::d\n#[cfg(test)]\nmod tests { fn e() {} }\nfn f() -> g::H {}\n";
    let file = SourceFile::new("host/src/apply/x.rs", text);
    let code: Vec<&str> = file.code.iter().map(|token| token.text.as_str()).collect();
    assert_eq!(code.join(" "), "fn a ( ) { b ( \"x::y\" ) ; } fn f ( ) - > g :: H { }");
    assert_eq!(file.code.last().map(|token| token.line), Some(4));
    assert!(file.all.iter().any(|token| token.text == "e"));
    assert_eq!(file.module(), "apply");
    assert_eq!(SourceFile::new("host/src/lsn.rs", "").module(), "lsn");
}
