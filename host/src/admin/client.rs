//! The other end: how `falkirk swap` asks a running host.

use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper::header;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::config::Admin;
use crate::problem::{Blame, Outcome, Problem};

/// Asks the running host, and returns its answer, which says itself whether it was carried out.
pub async fn post(admin: &Admin, path: &str, body: Vec<u8>) -> Outcome<serde_json::Value> {
    let lost = |error: &dyn std::fmt::Display| {
        let what = format!("the running host does not answer on {}: {error}", admin.listen);
        Problem::refuse(Blame::Host, "ADMIN_UNREACHABLE", what)
            .remedy("start it with `falkirk run` and the same configuration; it listens where [admin] listen says")
    };
    // It has been asked: whether it carried that out nobody knows, so nobody may do it in its place.
    let broken = |error: &dyn std::fmt::Display| {
        let what = format!("the host on {} ended before it answered: {error}", admin.listen);
        Problem::refuse(Blame::Host, "HOST_ENDED", what).remedy(
            "see its log and `falkirk status`; what it had done by then stays. Start it again and give this command again",
        )
    };
    let mut request = Request::post(path)
        .header(header::HOST, admin.listen.to_string())
        .header(header::CONTENT_TYPE, "application/wasm");
    if let Some(token) = &admin.token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.reveal()));
    }
    let request = request.body(Full::new(Bytes::from(body))).map_err(|error| lost(&error))?;
    let stream = TcpStream::connect(admin.listen).await.map_err(|error| lost(&error))?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| lost(&error))?;
    let connection = tokio::spawn(connection);
    let answer = sender.send_request(request).await.map_err(|error| broken(&error))?;
    let body = answer.into_body().collect().await.map_err(|error| broken(&error))?.to_bytes();
    connection.abort();
    serde_json::from_slice(&body).map_err(|_| lost(&"what answers there is not a host of this release"))
}
