//! `[admin]`: where a running host listens for its operator, and who may ask it.
//!
//! Off unless a listener is configured. On the loopback the machine's own users may ask; anywhere else only whoever
//! shows the token. The token is never printed.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;

use serde::Deserialize;

use super::written::{invalid, read_secret};
use crate::problem::Outcome;

/// The shortest token that is worth the name.
const TOKEN_BYTES_MIN: usize = 16;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenAdmin {
    listen: String,
    token: Option<String>,
    token_file: Option<String>,
}

impl fmt::Debug for WrittenAdmin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WrittenAdmin").field("listen", &self.listen).finish_non_exhaustive()
    }
}

/// The listener of a running host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Where it listens.
    pub listen: SocketAddr,
    /// What whoever asks has to show.
    pub token: Option<Token>,
}

/// A secret that whoever asks has to show.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// For the one line of a request that has to hold it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether `shown` is it; takes as long whatever of it is wrong.
    pub fn is(&self, shown: &str) -> bool {
        let (own, shown) = (self.0.as_bytes(), shown.as_bytes());
        let differ = own.iter().zip(shown).fold(0, |differ, (one, other)| differ | (one ^ other));
        own.len() == shown.len() && differ == 0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(token)")
    }
}

impl WrittenAdmin {
    pub(super) fn settle(self, base: &Path, variable: &dyn Fn(&str) -> Option<String>) -> Outcome<Admin> {
        let listen: SocketAddr = self.listen.parse().map_err(|_| {
            invalid("[admin] listen is not an address and a port, such as \"127.0.0.1:7373\" or \"[::1]:7373\"")
        })?;
        let token = match (self.token, self.token_file) {
            (None, None) => None,
            (Some(token), None) => Some(match token.strip_prefix("env:") {
                Some(name) => variable(name)
                    .ok_or_else(|| invalid(format!("[admin] token: the environment variable {name} is not set")))?,
                None => {
                    return Err(invalid("[admin] token stands in the configuration itself")
                        .remedy("give it as \"env:NAME\", or name a file by token_file"));
                }
            }),
            (None, Some(file)) => Some(read_secret("[admin] token_file", &base.join(file))?),
            (Some(_), Some(_)) => return Err(invalid("[admin] takes either token or token_file")),
        };
        if token.as_ref().is_some_and(|token| token.len() < TOKEN_BYTES_MIN || !token.bytes().all(is_plain)) {
            return Err(invalid(format!("[admin] the token needs at least {TOKEN_BYTES_MIN} letters, without blanks")));
        }
        if token.is_none() && !listen.ip().is_loopback() {
            return Err(invalid(format!("[admin] listen = \"{listen}\" can be reached from other machines"))
                .remedy("listen on the loopback, or set token = \"env:NAME\" or token_file"));
        }
        Ok(Admin { listen, token: token.map(Token) })
    }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_graphic()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settle(text: &str) -> Outcome<Admin> {
        let variable = |name: &str| (name == "TOKEN").then(|| "a-long-enough-secret".to_owned());
        toml::from_str::<WrittenAdmin>(text).expect("it parses").settle(Path::new("/etc"), &variable)
    }

    #[test]
    fn another_machine_may_only_ask_with_a_token_and_the_token_is_never_shown() {
        assert!(settle("listen = '127.0.0.1:7373'").is_ok_and(|admin| admin.token.is_none()));
        assert!(settle("listen = '[::1]:7373'").is_ok());
        assert!(settle("listen = '0.0.0.0:7373'").is_err_and(|problem| problem.to_string().contains("token")));
        let admin = settle("listen = '0.0.0.0:7373'\ntoken = 'env:TOKEN'").expect("with a token it is allowed");
        assert!(!format!("{admin:?}").contains("secret"), "{admin:?}");
        assert!(admin.token.is_some_and(|token| token.is("a-long-enough-secret") && !token.is("a-long-enough-secreT")));
    }

    #[test]
    fn a_token_in_the_file_itself_or_a_short_one_is_refused_without_being_shown() {
        for text in ["listen = '127.0.0.1:1'\ntoken = 'hidden-hidden-hidden'", "listen = 'localhost'"] {
            let problem = settle(text).expect_err("must be refused").to_string();
            assert!(!problem.contains("hidden"), "{problem}");
        }
    }
}
