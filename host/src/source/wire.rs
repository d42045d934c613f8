//! The wire of a replication connection: startup, authentication, frames. A thin client on `postgres-protocol`, because
//! the SQL driver has no replication mode.
//!
//! Source: the PostgreSQL documentation, "Message Flow" and "SASL Authentication". The password never leaves this file;
//! over an unprotected way it is never sent in the clear. A frame's length is checked before anything is allocated.

use std::io;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{self, ChannelBinding, ScramSha256};
use postgres_protocol::message::backend::{ErrorResponseBody, Message};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::pg::address::Address;
use crate::pg::pins::PINS;
use crate::pg::tls;
use crate::problem::{Blame, Outcome, Problem};

/// The largest frame that is taken: PostgreSQL's own limit for one row is 1 GiB.
const FRAME_BYTES_MAX: usize = 1 << 30;
/// How much one read of the socket may bring, bytes.
const READ_BYTES: usize = 256 << 10;
/// Room for less than this is not worth a read of its own.
const READ_BYTES_LEAST: usize = 16 << 10;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

trait Transport: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Transport for T {}

/// A connection in replication mode.
pub(super) struct Wire {
    transport: Box<dyn Transport>,
    /// Received and not yet handed on. All state of a half-read frame is here, so that a read may be dropped anywhere.
    received: BytesMut,
    /// To be sent and not yet sent: a write may be dropped anywhere as well.
    unsent: BytesMut,
    /// From the server's greeting, e.g. 150018.
    pub(super) server_version_num: u32,
}

/// What an error of the server means to a reader of its stream.
pub(super) fn server_problem(body: &ErrorResponseBody, doing: &str) -> Problem {
    let mut sqlstate = String::new();
    let mut text = String::new();
    let mut fields = body.fields();
    while let Ok(Some(field)) = fields.next() {
        match field.type_() {
            b'C' => sqlstate = String::from_utf8_lossy(field.value_bytes()).into_owned(),
            b'M' => text = String::from_utf8_lossy(field.value_bytes()).into_owned(),
            _ => {}
        }
    }
    classify(&sqlstate, &text, doing)
}

fn classify(sqlstate: &str, text: &str, doing: &str) -> Problem {
    let what = format!("the source refused to {doing}: {text} ({sqlstate})");
    let stop = |code, remedy: &str| Problem::stop(Blame::Source, code, &what).remedy(remedy);
    let refuse = |code, remedy: &str| Problem::refuse(Blame::Source, code, &what).remedy(remedy);
    let slot = text.contains("replication slot");
    match sqlstate {
        "55006" if slot => refuse("SLOT_IN_USE", "another host reads this slot: end it, or wait until it has ended"),
        "42704" if slot => refuse(
            "SLOT_MISSING",
            "the changes since the checkpoint are gone: `falkirk clean`, then `falkirk run` copies anew",
        ),
        "55000" if text.contains("can no longer") || text.contains("invalidated") => refuse(
            "SLOT_LOST",
            "the source has removed log that the link still needed: raise max_slot_wal_keep_size, then `falkirk clean` and `falkirk run` copy anew",
        ),
        "42704" if text.contains("publication") => stop(
            "PUBLICATION_HISTORY",
            "the publication did not exist when the change was made; creating it now does not help: `falkirk clean`, then `falkirk run` copies anew",
        ),
        "54000" | "53200" if text.contains("string buffer") || text.contains("invalid memory alloc") => stop(
            "POISON_TRANSACTION",
            "a row is larger than the source can decode, and it never will be: take its table out, or shrink the row, and start over with `falkirk clean`",
        ),
        "22021" | "22P05" => stop(
            "ENCODING",
            "the source holds text that is not valid in UTF-8: correct the rows, then start over with `falkirk clean`",
        ),
        "53300" | "53400" => Problem::retry(Blame::Source, "NO_FREE_SLOT", &what)
            .remedy("raise max_replication_slots and max_wal_senders on the source, or remove unused slots"),
        "28P01" | "28000" | "42501" | "3D000" => refuse(
            "PERMISSION_DENIED",
            "check the role, its password and its REPLICATION attribute; the README has the recipe",
        ),
        state if state.starts_with("08") || state.starts_with("57P") || state.starts_with("53") => {
            Problem::retry(Blame::Source, "CONNECTION_LOST", &what)
        }
        _ => Problem::retry(Blame::Source, "SOURCE_ERROR", &what),
    }
}

pub(super) fn lost(error: &io::Error) -> Problem {
    Problem::retry(Blame::Source, "CONNECTION_LOST", format!("the connection to the source was lost: {error}"))
}

fn protocol_error(what: impl std::fmt::Display) -> Problem {
    Problem::retry(Blame::Source, "PROTOCOL_ERROR", format!("the source's answer does not follow the protocol: {what}"))
}

impl Wire {
    /// Connects, proves who it is and waits until the server is ready.
    pub(super) async fn connect(address: &Address, purpose: &str) -> Outcome<Wire> {
        let place = address.same_place();
        let opened = tokio::time::timeout(CONNECT_TIMEOUT, open(address));
        let (transport, binding) = opened.await.map_err(|_| {
            Problem::retry(
                Blame::Source,
                "CONNECTION_LOST",
                format!("no answer from {place} within {} s", CONNECT_TIMEOUT.as_secs()),
            )
        })??;
        let mut wire = Wire { transport, received: BytesMut::new(), unsent: BytesMut::new(), server_version_num: 0 };
        let name = format!("falkirk {purpose}");
        let parameters = [
            ("user", address.user.as_str()),
            ("database", address.database.as_str()),
            ("replication", "database"),
            ("application_name", name.as_str()),
        ];
        frontend::startup_message(parameters.into_iter().chain(PINS.iter().copied()), &mut wire.unsent)
            .map_err(|error| lost(&error))?;
        wire.flush().await?;
        wire.authenticate(address, binding).await?;
        wire.until_ready("connect").await?;
        Ok(wire)
    }

    async fn authenticate(&mut self, address: &Address, binding: Option<Vec<u8>>) -> Outcome<()> {
        let password = || {
            address.password().map(str::as_bytes).ok_or_else(|| {
                Problem::refuse(
                    Blame::Config,
                    "PERMISSION_DENIED",
                    format!("{} asks for a password and none is given", address.same_place()),
                )
            })
        };
        loop {
            match self.message().await? {
                Message::AuthenticationOk => return Ok(()),
                Message::AuthenticationMd5Password(body) => {
                    let hash = md5_hash(address.user.as_bytes(), password()?, body.salt());
                    self.send(|out| frontend::password_message(hash.as_bytes(), out)).await?;
                }
                Message::AuthenticationSasl(body) => {
                    let mechanisms: Vec<String> =
                        body.mechanisms().map(|name| Ok(name.to_owned())).collect().map_err(|error| lost(&error))?;
                    self.scram(password()?, &mechanisms, binding.clone()).await?;
                }
                Message::ErrorResponse(body) => return Err(server_problem(&body, "connect")),
                _ => {
                    return Err(Problem::refuse(
                        Blame::Source,
                        "PERMISSION_DENIED",
                        "the server asks for a kind of authentication that is not offered",
                    )
                    .remedy("use scram-sha-256 in pg_hba.conf; a password in the clear is never sent"));
                }
            }
        }
    }

    async fn scram(&mut self, password: &[u8], mechanisms: &[String], binding: Option<Vec<u8>>) -> Outcome<()> {
        let offers = |name: &str| mechanisms.iter().any(|mechanism| mechanism == name);
        let (mechanism, binding) = match binding {
            Some(digest) if offers(sasl::SCRAM_SHA_256_PLUS) => {
                (sasl::SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(digest))
            }
            Some(_) => (sasl::SCRAM_SHA_256, ChannelBinding::unrequested()),
            None => (sasl::SCRAM_SHA_256, ChannelBinding::unsupported()),
        };
        if !offers(mechanism) {
            return Err(protocol_error("it offers no SCRAM-SHA-256"));
        }
        let mut scram = ScramSha256::new(password, binding);
        self.send(|out| frontend::sasl_initial_response(mechanism, scram.message(), out)).await?;
        match self.message().await? {
            Message::AuthenticationSaslContinue(body) => {
                scram.update(body.data()).map_err(|error| protocol_error(&error))?
            }
            Message::ErrorResponse(body) => return Err(server_problem(&body, "connect")),
            _ => return Err(protocol_error("unexpected answer to SCRAM")),
        }
        self.send(|out| frontend::sasl_response(scram.message(), out)).await?;
        match self.message().await? {
            Message::AuthenticationSaslFinal(body) => scram.finish(body.data()).map_err(|error| protocol_error(&error)),
            Message::ErrorResponse(body) => Err(server_problem(&body, "connect")),
            _ => Err(protocol_error("unexpected answer to SCRAM")),
        }
    }

    async fn until_ready(&mut self, doing: &str) -> Outcome<()> {
        let mut failed = None;
        loop {
            match self.message().await? {
                Message::ReadyForQuery(_) => return failed.map_or(Ok(()), Err),
                Message::ErrorResponse(body) => match failed {
                    // After a fatal error the server hangs up without getting ready.
                    None => failed = Some(server_problem(&body, doing)),
                    Some(first) => return Err(first),
                },
                Message::ParameterStatus(body) if matches!(body.name(), Ok("server_version")) => {
                    self.server_version_num = version_num(body.value().unwrap_or_default());
                }
                _ => {}
            }
        }
    }

    /// One statement in the simple query protocol; its rows as text.
    pub(super) async fn query(&mut self, sql: &str) -> Outcome<Vec<Vec<Option<String>>>> {
        self.send(|out| frontend::query(sql, out)).await?;
        let mut rows = Vec::new();
        let mut failed = None;
        loop {
            match self.message().await? {
                Message::DataRow(body) => {
                    let cell = |range: Option<std::ops::Range<usize>>| {
                        Ok(range.map(|range| String::from_utf8_lossy(&body.buffer()[range]).into_owned()))
                    };
                    rows.push(body.ranges().map(cell).collect().map_err(|error| lost(&error))?);
                }
                Message::ErrorResponse(body) => failed = Some(server_problem(&body, "run a command")),
                Message::ReadyForQuery(_) => return failed.map_or(Ok(rows), Err),
                _ => {}
            }
        }
    }

    /// Enters the copy mode of START_REPLICATION.
    pub(super) async fn start_copy(&mut self, command: &str) -> Outcome<()> {
        self.send(|out| frontend::query(command, out)).await?;
        let (kind, body) = self.frame().await?;
        match kind {
            b'W' => Ok(()),
            b'E' => Err(raw_problem(kind, &body, "start the stream")),
            _ => Err(protocol_error("it does not enter the copy mode")),
        }
    }

    async fn send(&mut self, write: impl FnOnce(&mut BytesMut) -> io::Result<()>) -> Outcome<()> {
        write(&mut self.unsent).map_err(|error| lost(&error))?;
        self.flush().await
    }

    /// Queues one CopyData message.
    pub(super) fn queue_copy_data(&mut self, data: &[u8]) -> Outcome<()> {
        let message = frontend::CopyData::new(data).map_err(|error| lost(&error))?;
        message.write(&mut self.unsent);
        Ok(())
    }

    /// Queues the end of copying and of the connection.
    pub(super) fn queue_farewell(&mut self) {
        frontend::copy_done(&mut self.unsent);
        frontend::terminate(&mut self.unsent);
    }

    /// Sends everything that is queued. May be dropped anywhere and called again.
    pub(super) async fn flush(&mut self) -> Outcome<()> {
        while self.unsent.has_remaining() {
            let sent = self.transport.write(&self.unsent).await.map_err(|error| lost(&error))?;
            if sent == 0 {
                return Err(lost(&io::ErrorKind::WriteZero.into()));
            }
            self.unsent.advance(sent);
        }
        self.transport.flush().await.map_err(|error| lost(&error))
    }

    async fn message(&mut self) -> Outcome<Message> {
        loop {
            self.complete_frame()?;
            match Message::parse(&mut self.received).map_err(protocol_error)? {
                Some(message) => return Ok(message),
                None => _ = self.read_more().await?,
            }
        }
    }

    /// One frame as it is: kind and body. For the copy mode, which the parser does not know.
    async fn frame(&mut self) -> Outcome<(u8, Bytes)> {
        loop {
            if let Some(length) = self.complete_frame()? {
                let mut frame = self.received.split_to(length).freeze();
                let kind = frame[0];
                frame.advance(5);
                return Ok((kind, frame));
            }
            self.read_more().await?;
        }
    }

    /// Length of the first frame with its head, if all of it is there. Refuses lengths that cannot be (row 35).
    fn complete_frame(&self) -> Outcome<Option<usize>> {
        frame_length(&self.received).map(|length| length.filter(|length| *length <= self.received.len()))
    }

    /// Reads once. How many bytes came. May be dropped anywhere.
    pub(super) async fn read_more(&mut self) -> Outcome<usize> {
        let missing = frame_length(&self.received)?.map_or(0, |length| length.saturating_sub(self.received.len()));
        // What was taken out keeps its whole buffer alive: one that has room left is filled first.
        if self.received.capacity() - self.received.len() < missing.max(READ_BYTES_LEAST) {
            self.received.reserve(missing.clamp(READ_BYTES, 64 << 20));
        }
        match self.transport.read_buf(&mut self.received).await.map_err(|error| lost(&error))? {
            0 => Err(lost(&io::ErrorKind::UnexpectedEof.into())),
            count => Ok(count),
        }
    }

    /// All complete frames that were received, as one piece.
    pub(super) fn take_complete(&mut self) -> Outcome<Bytes> {
        let mut end = 0;
        while let Some(length) = frame_length(&self.received[end..])? {
            if end + length > self.received.len() {
                break;
            }
            end += length;
        }
        Ok(self.received.split_to(end).freeze())
    }
}

/// Splits the first frame off a piece of whole frames: kind and body.
pub(super) fn split_frame(piece: &mut Bytes) -> Outcome<Option<(u8, Bytes)>> {
    Ok(frame_length(piece)?.map(|length| {
        let mut frame = piece.split_to(length);
        let kind = frame[0];
        frame.advance(5);
        (kind, frame)
    }))
}

fn frame_length(bytes: &[u8]) -> Outcome<Option<usize>> {
    let Some(head) = bytes.first_chunk::<5>() else { return Ok(None) };
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    match (4..=FRAME_BYTES_MAX).contains(&length) {
        true => Ok(Some(length + 1)),
        false => Err(protocol_error(format!("a frame of {length} bytes"))),
    }
}

/// The problem that an error frame in copy mode stands for.
pub(super) fn raw_problem(kind: u8, body: &Bytes, doing: &str) -> Problem {
    let mut framed = BytesMut::with_capacity(body.len() + 5);
    framed.extend_from_slice(&[kind]);
    framed.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
    framed.extend_from_slice(body);
    match Message::parse(&mut framed) {
        Ok(Some(Message::ErrorResponse(body))) => server_problem(&body, doing),
        _ => protocol_error("an error that cannot be read"),
    }
}

/// `15.18 (Debian ...)` is 150018.
fn version_num(version: &str) -> u32 {
    let mut numbers = version.split(|letter: char| !letter.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    numbers.next().unwrap_or(0) * 10_000 + numbers.next().unwrap_or(0)
}

async fn open(address: &Address) -> Outcome<(Box<dyn Transport>, Option<Vec<u8>>)> {
    let place = address.same_place();
    let mut stream = TcpStream::connect((address.host.as_str(), address.port)).await.map_err(|error| {
        Problem::retry(Blame::Source, "CONNECTION_LOST", format!("cannot connect to {place}: {error}"))
    })?;
    stream.set_nodelay(true).map_err(|error| lost(&error))?;
    let Some(config) = tls::client_config(address)? else { return Ok((Box::new(stream), None)) };
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request).await.map_err(|error| lost(&error))?;
    let refuse = |what: String| {
        Problem::refuse(Blame::Source, "TLS_FAILED", what)
            .remedy("check the server's certificate, its name, and sslrootcert")
    };
    if stream.read_u8().await.map_err(|error| lost(&error))? != b'S' {
        return Err(refuse(format!("{place} does not speak TLS")));
    }
    let name = rustls::pki_types::ServerName::try_from(address.host.clone())
        .map_err(|_| refuse(format!("{} is not a name that a certificate could be for", address.host)))?;
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let stream = connector.connect(name, stream).await.map_err(|error| refuse(format!("TLS with {place}: {error}")))?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let binding = certificate.map(|certificate| {
        use sha2::Digest;
        sha2::Sha256::digest(certificate.as_ref()).to_vec()
    });
    Ok((Box::new(stream), binding))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_35_impossible_frame_lengths_are_refused_before_anything_is_allocated() {
        for length in [0u32, 3, 0x8000_0000, u32::MAX] {
            let frame = [b"d".as_slice(), &length.to_be_bytes()].concat();
            assert_eq!(frame_length(&frame).unwrap_err().code(), "PROTOCOL_ERROR");
        }
        assert_eq!(frame_length(b"d\0\0\0").unwrap(), None);
        assert_eq!(frame_length(b"d\0\0\0\x04").unwrap(), Some(5));
    }

    #[test]
    fn row_41_what_is_wrong_with_a_slot_has_its_own_code() {
        let code = |state, text| classify(state, text, "start").code();
        assert_eq!(code("55006", "replication slot \"x\" is active for PID 7"), "SLOT_IN_USE");
        assert_eq!(code("42704", "replication slot \"x\" does not exist"), "SLOT_MISSING");
        assert_eq!(code("55000", "can no longer get changes from replication slot \"x\""), "SLOT_LOST");
        assert_eq!(code("42704", "publication \"x\" does not exist"), "PUBLICATION_HISTORY");
        assert_eq!(code("57P01", "terminating connection due to administrator command"), "CONNECTION_LOST");
    }

    #[test]
    fn the_servers_version_is_understood() {
        assert_eq!(version_num("15.18 (Debian 15.18-0+deb12u1)"), 150_018);
        assert_eq!(version_num("18beta1"), 180_000);
        assert_eq!(version_num("14.23"), 140_023);
    }
}
