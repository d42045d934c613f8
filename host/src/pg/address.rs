//! Where a database is and how to get in. Holds the only secret of the program; nothing here ever prints it.
//!
//! Plaintext, and TLS that does not verify whom it speaks to, are for the loopback only.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use crate::problem::{Blame, Outcome, Problem};

/// How the connection is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    /// Not at all: only on the loopback.
    Off,
    /// Encrypted, the server's name and certificate verified.
    VerifyFull,
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(not shown)")
    }
}

/// The address of one database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Host name or IP address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// The role.
    pub user: String,
    /// The database.
    pub database: String,
    /// Protection of the connection.
    pub tls: Tls,
    /// A file with root certificates in PEM form that are trusted besides the system's.
    pub root_certificate: Option<PathBuf>,
    password: Option<Secret>,
}

fn invalid(what: impl fmt::Display) -> Problem {
    Problem::refuse(Blame::Config, "CONFIG_INVALID", what)
        .remedy("write it as postgres://user:password@host:port/database?sslmode=verify-full")
}

impl Address {
    /// Parses `postgres://user:password@host:port/database?sslmode=...&sslrootcert=...`.
    ///
    /// No part of the text is quoted in a message: any of it could be the password.
    pub fn parse(url: &str) -> Outcome<Address> {
        let rest = url
            .strip_prefix("postgres://")
            .or_else(|| url.strip_prefix("postgresql://"))
            .ok_or_else(|| invalid("a database address does not start with postgres://"))?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        let (credentials, place) = authority
            .rsplit_once('@')
            .ok_or_else(|| invalid("a database address names no user: postgres://USER@host/database"))?;
        let (user, password) = match credentials.split_once(':') {
            Some((user, password)) => (user, Some(Secret(decoded(password)?))),
            None => (credentials, None),
        };
        let (host, port) = host_and_port(place)?;
        let database = decoded(database)?;
        if user.is_empty() || host.is_empty() || database.is_empty() {
            return Err(invalid("a database address needs a user, a host and a database"));
        }
        let mut address = Address {
            tls: if is_loopback(&host) { Tls::Off } else { Tls::VerifyFull },
            host,
            port,
            user: decoded(user)?,
            database,
            root_certificate: None,
            password,
        };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            address.set(name, &decoded(value)?)?;
        }
        Ok(address)
    }

    fn set(&mut self, name: &str, value: &str) -> Outcome<()> {
        match (name, value) {
            ("sslmode", "verify-full") => self.tls = Tls::VerifyFull,
            ("sslmode", "disable") if is_loopback(&self.host) => self.tls = Tls::Off,
            ("sslmode", "disable" | "allow" | "prefer" | "require" | "verify-ca") => {
                return Err(Problem::refuse(
                    Blame::Config,
                    "PLAINTEXT_REFUSED",
                    format!("sslmode={value} does not protect the way to {}: passwords and rows could be read or changed on it", self.host),
                )
                .remedy("leave sslmode out (verify-full is the default), with sslrootcert=FILE for an authority of your own"));
            }
            ("sslrootcert", file) => self.root_certificate = Some(PathBuf::from(file)),
            ("sslmode", _) => return Err(invalid("a database address has an unknown sslmode")),
            ("application_name", _) => {}
            _ => {
                return Err(invalid(
                    "a database address has a parameter besides sslmode, sslrootcert and application_name",
                ));
            }
        }
        Ok(())
    }

    /// Where it is, for messages.
    pub fn same_place(&self) -> String {
        format!("{}:{}/{} as {}", self.host, self.port, self.database, self.user)
    }

    /// Whether a password was given.
    pub fn has_password(&self) -> bool {
        self.password.is_some()
    }

    /// The password, for the handshake only.
    pub(crate) fn password(&self) -> Option<&str> {
        self.password.as_ref().map(|secret| secret.0.as_str())
    }
}

fn host_and_port(place: &str) -> Outcome<(String, u16)> {
    let (host, port) = match place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => (host.to_owned(), port.strip_prefix(':')),
        None => match place.split_once(':') {
            Some((host, port)) => (decoded(host)?, Some(port)),
            None => (decoded(place)?, None),
        },
    };
    let port =
        port.map_or(Ok(5432), |port| port.parse().map_err(|_| invalid("a database address has no valid port")))?;
    if host.starts_with('/') || host.contains(',') {
        return Err(invalid("a database address names a socket or several hosts; it must be one host over TCP"));
    }
    Ok((host, port))
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn decoded(text: &str) -> Outcome<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, tail @ ..] = rest {
        rest = tail;
        if *byte != b'%' {
            bytes.push(*byte);
            continue;
        }
        let digits = tail.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let decoded = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(
            decoded.ok_or_else(|| invalid("a database address has a % that two hexadecimal digits do not follow"))?,
        );
        rest = &tail[2..];
    }
    String::from_utf8(bytes).map_err(|_| invalid("a database address is not UTF-8 after decoding"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_decoded_and_the_password_is_hidden() {
        let address = Address::parse("postgres://a%40b:p%2Fw@127.0.0.1:6000/d%20b").unwrap();
        assert_eq!((address.user.as_str(), address.password(), address.port), ("a@b", Some("p/w"), 6000));
        assert_eq!((address.database.as_str(), address.tls), ("d b", Tls::Off));
        assert!(!format!("{address:?}").contains("p/w"));
        assert_eq!(Address::parse("postgresql://u@[::1]/d").unwrap().host, "::1");
    }

    #[test]
    fn row_7_only_the_loopback_goes_without_verified_tls() {
        assert_eq!(Address::parse("postgres://u@db.example/d").unwrap().tls, Tls::VerifyFull);
        for mode in ["disable", "require", "prefer", "verify-ca"] {
            let refused = Address::parse(&format!("postgres://u@db.example/d?sslmode={mode}")).unwrap_err();
            assert_eq!(refused.code(), "PLAINTEXT_REFUSED");
        }
        assert_eq!(Address::parse("postgres://u@127.0.0.2/d?sslmode=disable").unwrap().tls, Tls::Off);
    }

    #[test]
    fn what_is_wrong_is_said_without_quoting_the_address() {
        for url in [
            "hidden",
            "postgres://host/hidden",
            "postgres://u:hidden@h:x/d",
            "postgres://u:hidden@h/d?x=1",
            "postgres://u:%zzhidden@h/d",
            "postgres://u@h/",
            "postgres://u:hidden@a,b/d",
        ] {
            let problem = Address::parse(url).unwrap_err().to_string();
            assert!(!problem.contains("hidden"), "{problem}");
        }
    }
}
