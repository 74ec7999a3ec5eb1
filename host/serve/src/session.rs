//! Sessions of browsers: a token in a cookie that no script can read, and that the browser sends to this service alone.

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{AppendHeaders, IntoResponse},
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{Service, caller::Caller, problem::Problem, query::Raw};

/// The cookie's name: browsers take one that begins so over TLS alone, and send it to the very host that set it (RFC 6265bis, 4.1.3.2).
const COOKIE: &str = "__Host-qhost";
const ATTRIBUTES: &str = "Path=/; Secure; HttpOnly; SameSite=Strict";

/// The token of a session.
pub(crate) fn cookie(headers: &HeaderMap) -> Option<String> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let mut cookies = lines.flat_map(|line| line.split(';')).filter_map(|one| one.split_once('='));
    let (_, token) = cookies.find(|(name, _)| name.trim() == COOKIE)?;
    Some(token.trim().to_owned())
}

pub(crate) async fn caller(caller: Caller) -> Json<Value> {
    let role = if caller.is_operator() { "operator" } else { "tenant" };
    Json(json!({"name": caller.name, "role": role, "tenant": caller.tenant}))
}

/// What begins a session.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Login {
    /// The token, as `qhost token new` printed it.
    token: String,
}

pub(crate) async fn begin(
    State(service): State<Service>,
    Raw(body): Raw,
) -> Result<impl IntoResponse, Problem> {
    let login = serde_json::from_slice(&body);
    // What was sent is not shown: it may be a token.
    let Login { token } = login
        .map_err(|_| Problem::invalid("the body: expected {\"token\": \"qhost_…\"}".into()))?;
    Caller::of_token(&service, token.clone()).await?;
    Ok(set(&format!("{COOKIE}={token}; {ATTRIBUTES}")))
}

pub(crate) async fn end() -> impl IntoResponse {
    set(&format!("{COOKIE}=; Max-Age=0; {ATTRIBUTES}"))
}

fn set(cookie: &str) -> impl IntoResponse + use<> {
    (StatusCode::NO_CONTENT, AppendHeaders([(header::SET_COOKIE, cookie.to_owned())]))
}
