//! The listener of a running host: is it alive, is it ready, where do its links stand, put in another revision,
//! and mend what an earlier one wrote.
//!
//! JSON over HTTP/1.1. Off unless configured; on the loopback for the machine's own users, elsewhere only with a token.
//! A web page that is open on the same machine must not be able to ask for anything: what a browser sends names an
//! origin, or a host that is not this one's, and is refused.

pub mod client;
pub mod recopy;
mod routes;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::config::{Admin, Token};
use crate::live::Live;
use crate::problem::{Blame, Outcome, Problem};
use crate::recopy::Desk;
use crate::swap::Door;

/// The largest body: an artifact may have 32 MiB.
const BODY_BYTES_MAX: usize = 33 << 20;

/// What the answers are made of.
struct Asked {
    door: Door,
    recopies: Desk,
    lives: Vec<(&'static str, watch::Receiver<Live>)>,
    token: Option<Token>,
}

/// Begins to listen; what is returned answers for as long as it is polled.
pub async fn listen(
    admin: &Admin,
    (door, recopies): (Door, Desk),
    lives: Vec<(&'static str, watch::Receiver<Live>)>,
) -> Outcome<impl Future<Output = ()> + Send + use<>> {
    let listener = TcpListener::bind(admin.listen).await.map_err(|error| {
        Problem::refuse(Blame::Config, "ADMIN_LISTEN", format!("cannot listen on {}: {error}", admin.listen))
            .remedy("choose another port in [admin] listen; every host on a machine needs its own")
    })?;
    tracing::info!(listen = %admin.listen, "admin listener");
    if !admin.listen.ip().is_loopback() {
        tracing::warn!("the admin listener can be reached from other machines and does not encrypt: put TLS before it");
    }
    let asked = Arc::new(Asked { door, recopies, lives, token: admin.token.clone() });
    let router = Router::new()
        .route("/health", get(routes::health))
        .route("/ready", get(routes::ready))
        .route("/status", get(routes::status))
        .route("/swap", post(routes::swap))
        .route("/swap/back", post(routes::back))
        .route("/swap/again", post(routes::again))
        .route("/recopy", post(routes::recopy))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(axum::middleware::from_fn_with_state(asked.clone(), routes::admit))
        .with_state(asked);
    Ok(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::warn!("the admin listener has ended: {error}");
        }
    })
}
