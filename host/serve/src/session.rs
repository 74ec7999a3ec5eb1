//! Sessions of browsers: a token in a cookie that no script can read, and that the browser sends to this service alone.

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{AppendHeaders, IntoResponse},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Service, caller::Caller, cookie, problem::Problem, query::Raw};

/// Who the caller is.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Shown {
    /// As records name it: `uid 1001`, `token ci`, `certificate build`.
    name: String,
    role: Role,
    /// The tenant that it acts for; null of an operator.
    tenant: Option<String>,
}

/// What a caller may do.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Role {
    Operator,
    Tenant,
}

pub(crate) async fn caller(caller: Caller) -> Json<Shown> {
    let role = if caller.is_operator() { Role::Operator } else { Role::Tenant };
    Json(Shown { name: caller.name, role, tenant: caller.tenant })
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
    // The error does not show the body, since it may contain a token.
    let Login { token } = login
        .map_err(|_| Problem::invalid("the body: expected {\"token\": \"qhost_…\"}".into()))?;
    Caller::of_token(&service, token.clone()).await?;
    Ok(set(cookie::of(&token)))
}

pub(crate) async fn end() -> impl IntoResponse {
    set(cookie::ended())
}

fn set(cookie: String) -> impl IntoResponse {
    (StatusCode::NO_CONTENT, AppendHeaders([(header::SET_COOKIE, cookie)]))
}
