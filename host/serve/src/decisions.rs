//! `/v1/decisions`: what was decided, and why.

use std::io;

use axum::{Json, extract::State, http::StatusCode};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use qhost_policy::Recorded;

use crate::{
    Service,
    caller::Caller,
    problem::Problem,
    query::{Named, Page, Params},
};

/// Which decisions are listed.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Filter {
    /// A tenant's alone.
    tenant: Option<String>,
    /// How they ended: `allowed`, `denied`, `cannot-run`, `failed`, `interrupted` or `undecided`.
    outcome: Option<String>,
    /// Those that this policy was asked about.
    policy: Option<String>,
    /// At most so many items: from 1 to 1000, 100 unless it is given.
    #[schemars(range(min = 1, max = 1000))]
    limit: Option<usize>,
    /// The id of the last item of the page before.
    after: Option<String>,
}

/// Those that are wanted, of what a caller may see: the latest first.
async fn recorded(
    service: &Service,
    caller: &Caller,
    wanted: impl Fn(&Recorded) -> bool + Send + 'static,
) -> Result<Vec<Recorded>, Problem> {
    let (log, caller) = (service.engine.decisions().folder, caller.clone());
    let may_see = move |one: &Recorded| caller.may(&one.record.input.task.tenant) && wanted(one);
    let read = spawn_blocking(move || qhost_policy::read_log(&log, may_see)).await;
    let read = read.unwrap_or_else(|panicked| Err(io::Error::other(panicked)));
    let read = read.map_err(|error| {
        let detail = format!("the log of decisions cannot be read: {error}");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "unreadable", detail)
    })?;
    Ok(read.records)
}

pub(crate) async fn list(
    caller: Caller,
    State(service): State<Service>,
    Params(filter): Params<Filter>,
) -> Result<Json<Value>, Problem> {
    let Filter { tenant, outcome, policy, limit, after } = filter;
    let page = Page { limit, after };
    let is_meant = move |one: &Recorded| {
        let (record, task) = (&one.record, &one.record.input.task);
        let was_asked =
            |name: &String| record.decision.policies.iter().any(|policy| policy.name == *name);
        tenant.as_ref().is_none_or(|tenant| task.tenant == *tenant)
            && outcome.as_ref().is_none_or(|outcome| record.outcome.name() == outcome)
            && policy.as_ref().is_none_or(was_asked)
    };
    let all = recorded(&service, &caller, is_meant).await?;
    let items = all.iter().map(|one| (one.id.to_string(), json!(one)));
    Ok(Json(page.of("decisions", items)?))
}

pub(crate) async fn get(
    caller: Caller,
    State(service): State<Service>,
    Named(id): Named,
) -> Result<Json<Value>, Problem> {
    let beginning = id.clone();
    let begins_so = move |one: &Recorded| one.id.to_string().starts_with(&beginning);
    let all = recorded(&service, &caller, begins_so).await?;
    let mut found = all.iter();
    match (found.next(), found.next()) {
        (Some(only), None) => Ok(Json(json!(only))),
        (Some(_), Some(_)) => {
            Err(Problem::conflict("several decisions' ids begin like that; give more of it".into()))
        }
        (None, _) => Err(Problem::not_found("decision", &id)),
    }
}
