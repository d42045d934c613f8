//! What is asked of a running host, and who may ask.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Asked, recopy};
use crate::live::{Live, Stage};
use crate::problem::{Blame, Problem};
use crate::recopy::desk::READY_PATIENCE;
use crate::stream::shadow::Trial;
use crate::swap::{Brought, Swapped, What, Wish};

type Asks = State<Arc<Asked>>;

/// Only who may ask gets an answer; whether the host lives may be asked by whoever can reach it.
pub(super) async fn admit(State(asked): Asks, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let open = matches!(request.uri().path(), "/health" | "/ready");
    let refused = match &asked.token {
        _ if headers.contains_key(header::ORIGIN) => Some("web pages may not ask"),
        Some(token) => {
            let shown = text(header::AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
            (!open && !shown.is_some_and(|shown| token.is(shown))).then_some("the token is missing or wrong")
        }
        // A page whose name was pointed at this machine sends that name.
        None => (!text(header::HOST).is_some_and(is_loopback)).then_some("the host's name is not the loopback's"),
    };
    match refused {
        None => next.run(request).await,
        Some(what) => {
            let problem = Problem::refuse(Blame::Config, "ADMIN_REFUSED", what)
                .remedy("ask with `falkirk` and the host's own configuration, which holds the address and the token");
            (StatusCode::FORBIDDEN, Json(refusal(&[problem]))).into_response()
        }
    }
}

fn is_loopback(host: &str) -> bool {
    let name = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
    let name = name.map_or(host, |(name, _)| name).trim_matches(['[', ']']);
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The process answers.
pub(super) async fn health() -> Json<Value> {
    Json(json!({ "ok": true }))
}

/// Every link streams, and none waits for anything.
pub(super) async fn ready(State(asked): Asks) -> impl IntoResponse {
    let reasons: Vec<String> = asked
        .lives
        .iter()
        .filter_map(|(name, live)| not_ready(&live.borrow()).map(|reason| format!("{name}: {reason}")))
        .collect();
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "ready": reasons.is_empty(), "reasons": reasons })))
}

fn not_ready(live: &Live) -> Option<String> {
    match live.stage {
        Stage::Streaming | Stage::Watching => live.awaits.clone(),
        Stage::Starting => Some("starting".to_owned()),
        Stage::Copying => Some("existing rows are being copied".to_owned()),
        Stage::Waiting => live.fault.clone().or_else(|| Some("waiting to start again".to_owned())),
        Stage::Draining => Some("ending".to_owned()),
    }
}

/// One link, for programs. Units stand last in the names.
#[derive(Serialize)]
struct Shown {
    link: &'static str,
    stage: String,
    artifact: Option<String>,
    position: String,
    lag_ms: u64,
    transactions: u64,
    rows_changed: u64,
    conflicts: u64,
    restarts: u64,
    awaits: Option<String>,
    fault: Option<String>,
}

/// Where the links stand.
pub(super) async fn status(State(asked): Asks) -> Json<Value> {
    let shown = asked.lives.iter().map(|(link, live)| {
        let live = live.borrow().clone();
        Shown {
            link,
            stage: format!("{:?}", live.stage).to_lowercase(),
            artifact: live.artifact,
            position: live.position.to_string(),
            lag_ms: live.lag_ms,
            transactions: live.transactions,
            rows_changed: live.rows_changed,
            conflicts: live.decided.conflicts,
            restarts: live.restarts,
            awaits: live.awaits,
            fault: live.fault,
        }
    });
    Json(json!({ "links": shown.collect::<Vec<_>>() }))
}

/// How a revision is to be put in.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct How {
    name: String,
    pin: Option<String>,
    #[serde(default)]
    when_fits: bool,
    shadow: Option<u64>,
    #[serde(default)]
    promote: bool,
    /// Keys of differing rows are shown.
    #[serde(default)]
    values: bool,
}

/// What a form of a web page could not say either.
fn is_wasm(headers: &HeaderMap) -> Result<(), Vec<Problem>> {
    match headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/wasm") {
        true => Ok(()),
        false => Err(vec![Problem::refuse(Blame::Config, "ADMIN_REFUSED", "the body is not application/wasm")]),
    }
}

/// Puts the body in.
pub(super) async fn swap(State(asked): Asks, Query(how): Query<How>, headers: HeaderMap, body: Bytes) -> Response {
    if let Err(problems) = is_wasm(&headers) {
        return answer(Err(problems), false);
    }
    let How { name, pin, when_fits, shadow, promote, values } = how;
    let what = What::Files(vec![Brought { name, bytes: body.to_vec(), pin, place: None }]);
    answer(asked.door.wish(Wish { what, when_fits, shadow, promote }).await, values)
}

/// Goes back to the revision before.
pub(super) async fn back(State(asked): Asks) -> Response {
    answer(asked.door.wish(Wish::now(What::Back)).await, false)
}

/// Binds the running revision again.
pub(super) async fn again(State(asked): Asks) -> Response {
    answer(asked.door.wish(Wish::now(What::Again)).await, false)
}

/// Mends what earlier revisions wrote; for as long as whoever asks waits.
pub(super) async fn recopy(State(asked): Asks, headers: HeaderMap, body: Bytes) -> Response {
    let unreadable = || {
        vec![
            Problem::refuse(Blame::Config, "ADMIN_REFUSED", "the body is no order of this release")
                .remedy("ask with the `falkirk` of the release that runs"),
        ]
    };
    let ordered = is_wasm(&headers).and_then(|()| recopy::from_body(&body).ok_or_else(unreadable));
    let (link, order) = match ordered {
        Ok(ordered) => ordered,
        Err(problems) => return answer(Err(problems), false),
    };
    let force = order.force;
    match asked.recopies.ask(link, order, Some(READY_PATIENCE)).await {
        Ok(repaired) => Json(recopy::to_json(&repaired, force)).into_response(),
        Err(problems) => answer(Err(problems), false),
    }
}

fn answer(swapped: Result<Swapped, Vec<Problem>>, values: bool) -> Response {
    match swapped {
        Ok(swapped) => {
            let positions: serde_json::Map<_, _> = swapped
                .positions
                .iter()
                .map(|(link, position)| (link.name().to_owned(), Value::String(position.to_string())))
                .collect();
            let body = json!({
                "ok": true,
                "artifact": swapped.artifact,
                "before": swapped.before,
                "exchanged": swapped.is_new,
                "commanded": swapped.is_commanded,
                "positions": positions,
                "stall_us": swapped.stall.as_micros() as u64,
                "warnings": swapped.warnings,
                "trial": swapped.trial.map(|trial| compared(&trial, values)),
            });
            Json(body).into_response()
        }
        Err(problems) => (StatusCode::CONFLICT, Json(refusal(&problems))).into_response(),
    }
}

/// What a trial has found; keys of rows are shown on request only.
fn compared(trial: &Trial, values: bool) -> Value {
    let rows = trial.shown.iter().map(|difference| {
        let key = if values { &difference.key } else { &difference.digest };
        json!({ "table": difference.table.to_string(), "key": key, "columns": difference.columns })
    });
    json!({
        "changes": trial.changes,
        "rows": trial.rows,
        "differing": trial.differing,
        "shown": rows.collect::<Vec<_>>(),
        "failed": trial.failed.as_ref().map(ToString::to_string),
    })
}

fn refusal(problems: &[Problem]) -> Value {
    let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let problems: Vec<_> = problems.iter().map(Problem::to_json).collect();
    json!({ "ok": false, "problems": problems, "texts": texts })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_the_loopback_are_taken_for_it() {
        for good in ["127.0.0.1:7373", "127.0.0.1", "localhost:1", "[::1]:7373", "127.1.2.3:80"] {
            assert!(is_loopback(good), "{good}");
        }
        for bad in ["", "evil.example:7373", "127.0.0.1.evil.example:7373", "localhost.evil:1", "10.0.0.1:7373"] {
            assert!(!is_loopback(bad), "{bad}");
        }
    }

    #[test]
    fn a_link_is_ready_while_it_streams_and_waits_for_nothing() {
        let mut live = Live { stage: Stage::Streaming, ..Live::default() };
        assert_eq!(not_ready(&live), None);
        live.awaits = Some("SCHEMA_CHANGED: c was added".to_owned());
        assert!(not_ready(&live).is_some_and(|reason| reason.contains("c was added")));
        assert!(not_ready(&Live { stage: Stage::Copying, ..Live::default() }).is_some());
    }
}
