//! `/v1/decisions`: the decisions that were made, and their reasons.

use std::io;

use axum::{Json, extract::State};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use qhost_policy::{Outcome, Record, Recorded};
use url::Url;

use crate::{
    Service,
    caller::Caller,
    limits,
    problem::Problem,
    query::{self, Named, Page, Params},
};

/// Which decisions are listed.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Filter {
    /// A tenant's alone.
    tenant: Option<String>,
    /// How they ended: `allowed`, `denied`, `cannot-run`, `failed`, `interrupted`, `undecided` or `not-launched`.
    outcome: Option<String>,
    /// Those that this policy was asked about.
    policy: Option<String>,
    /// Those about this task or job.
    task: Option<String>,
    /// Those with this text in a name of the tenant's, the job's or the task's, in the image's address, or in what refused it: the policy, its
    /// rule, its words. Capitals do not matter.
    q: Option<String>,
    /// Those made at this time or later, as in `2026-11-30T22:00:00Z`.
    #[schemars(extend("format" = "date-time"))]
    since: Option<String>,
    /// Those made before this time.
    #[schemars(extend("format" = "date-time"))]
    until: Option<String>,
    /// At most so many items: from 1 to 1000, 100 unless it is given.
    #[schemars(range(min = 1, max = 1000))]
    limit: Option<usize>,
    /// The id of the last item of the page before.
    after: Option<String>,
}

/// A filter that was read: its outcome, its text and its times.
struct Wanted {
    filter: Filter,
    outcome: Option<Outcome>,
    text: Option<String>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
}

impl Wanted {
    fn of(filter: Filter) -> Result<Self, Problem> {
        let time = |name, text: &Option<String>| query::time(name, text.as_deref());
        let (since, until) = (time("since", &filter.since)?, time("until", &filter.until)?);
        let text = filter.q.as_ref().map(|text| text.to_lowercase());
        let outcome = filter.outcome.as_deref().map(Outcome::named).transpose();
        let outcome = outcome.map_err(|why| Problem::invalid(format!("outcome: {why}")))?;
        Ok(Self { filter, outcome, text, since, until })
    }

    fn includes(&self, record: &Record) -> bool {
        let Filter { tenant, policy, task, .. } = &self.filter;
        let about = &record.input.task;
        let was_asked =
            |name: &String| record.decision.policies.iter().any(|one| one.name == *name);
        tenant.as_ref().is_none_or(|tenant| about.tenant == *tenant)
            && self.outcome.is_none_or(|outcome| record.outcome == outcome)
            && policy.as_ref().is_none_or(was_asked)
            && task.as_ref().is_none_or(|name| [&about.name, &about.job].contains(&name))
            && self.since.is_none_or(|since| record.input.time >= since)
            && self.until.is_none_or(|until| record.input.time < until)
            && self.text.as_ref().is_none_or(|text| says(record, text))
    }
}

/// Whether a record contains a text, which is in small letters.
fn says(record: &Record, text: &str) -> bool {
    let task = &record.input.task;
    let names = [&task.tenant, &task.job, &task.name].map(String::as_str);
    let sources = task.image.sources().map(Url::as_str);
    let of_policies = record.decision.policies.iter().flat_map(|policy| {
        let violations = policy.violations.iter();
        let refused = violations.flat_map(|one| [one.code.as_str(), one.message.as_str()]);
        policy.refuses().then_some(policy.name.as_str()).into_iter().chain(refused)
    });
    let of_host = record.decision.host.violations.iter();
    let of_host = of_host.flat_map(|one| [one.code.as_str(), one.message.as_str()]);
    let mut texts = names.into_iter().chain(sources).chain(of_policies).chain(of_host);
    texts.any(|one| one.to_lowercase().contains(text))
}

/// Reads the records that a caller may see and that are wanted: the latest first, at most so many.
async fn recorded(
    service: &Service,
    caller: &Caller,
    most: usize,
    wanted: impl Fn(&Recorded) -> bool + Send + 'static,
) -> Result<Vec<Recorded>, Problem> {
    // Each read goes through the whole log.
    let place = service.reads.admit(caller.tenant.as_deref())?;
    let (log, caller) = (service.engine.decisions().folder, caller.clone());
    let may_see = move |one: &Recorded| caller.may(&one.record.input.task.tenant) && wanted(one);
    let read = spawn_blocking(move || {
        let _held = place;
        qhost_policy::read_latest(&log, most, may_see)
    });
    let read = read.await.unwrap_or_else(|panicked| Err(io::Error::other(panicked)));
    Ok(read.map_err(|error| Problem::unreadable(&error))?.records)
}

pub(crate) async fn list(
    caller: Caller,
    State(service): State<Service>,
    Params(filter): Params<Filter>,
) -> Result<Json<Value>, Problem> {
    let page = Page { limit: filter.limit, after: filter.after.clone() };
    let wanted = Wanted::of(filter)?;
    // The next page has the decisions that are no later than the last item of the page before.
    let until = match page.after.clone() {
        Some(after) => {
            let is_it = move |one: &Recorded| one.id.to_string() == after;
            let found = recorded(&service, &caller, 1, is_it).await?;
            found.first().map(|one| one.record.input.time)
        }
        None => None,
    };
    let is_meant = move |one: &Recorded| {
        until.is_none_or(|until| one.record.input.time <= until) && wanted.includes(&one.record)
    };
    let most = page.limit.unwrap_or(limits::PAGE).min(limits::PAGE_MOST) + limits::PAGE_OF_A_TIME;
    let all = recorded(&service, &caller, most, is_meant).await?;
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
    let all = recorded(&service, &caller, 2, begins_so).await?;
    let mut found = all.iter();
    match (found.next(), found.next()) {
        (Some(only), None) => Ok(Json(json!(only))),
        (Some(_), Some(_)) => {
            Err(Problem::conflict("several decisions' ids begin like that; give more of it".into()))
        }
        (None, _) => Err(Problem::not_found("decision", &id)),
    }
}
