//! `/v1/policies`, `/v1/replay` and `/v1/configuration`: the policies, their costs, and what another policy or configuration would decide.

use std::{path::Path, sync::Arc};

use axum::{Json, extract::State, http::StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use qhost_engine::{Candidate, Engine, EngineError, InForce, config::Config, replay::Replay};
use qhost_model::{digest::Sha256, kind::Kind};
use qhost_policy::{Layer, Mode};

use crate::{
    Identity, Service,
    admission::Place,
    caller::Operator,
    limits,
    problem::Problem,
    query::{Params, Raw},
};

/// The policies.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Policies {
    policies: Vec<PolicyShown>,
}

/// A policy, with what it said and cost since the service began.
#[derive(Debug, Serialize, JsonSchema)]
struct PolicyShown {
    /// The name that it goes by on this host.
    name: String,
    sha256: Sha256,
    /// The version that it says it has.
    version: String,
    mode: Mode,
    layer: Layer,
    settings_sha256: Sha256,
    /// How often it was asked about a job.
    evaluations: u64,
    /// How often it refused one.
    refusals: u64,
    /// How long an answer took in the mean, in microseconds; null before the first.
    mean_us: Option<f64>,
}

pub(crate) async fn list(
    _: Operator,
    State(service): State<Service>,
) -> Result<Json<Policies>, Problem> {
    let policies = service.engine.policies().await?;
    let policies = policies.into_values().map(|policy| {
        let cost = service.metrics.cost_of(&policy.name);
        PolicyShown {
            name: policy.name,
            sha256: policy.sha256,
            version: policy.version,
            mode: policy.mode,
            layer: policy.layer,
            settings_sha256: policy.settings_sha256,
            evaluations: cost.evaluations,
            refusals: cost.refusals,
            mean_us: cost.mean_micros(),
        }
    });
    Ok(Json(Policies { policies: policies.collect() }))
}

/// Which decisions are made again, and with what.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Again {
    /// The policy that the body is a component for; absent: today's policies decide.
    policy: Option<String>,
    /// How many decisions, the latest: from 1 to 10000, 1000 unless it is given.
    #[schemars(range(min = 1, max = 10_000))]
    limit: Option<usize>,
}

/// How many decisions are made again.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Latest {
    /// The latest so many: from 1 to 10000, 1000 unless it is given.
    #[schemars(range(min = 1, max = 10_000))]
    limit: Option<usize>,
}

fn most(limit: Option<usize>) -> Result<usize, Problem> {
    let limit = limit.unwrap_or(limits::REPLAYED);
    if (1..=limits::REPLAYED_MOST).contains(&limit) {
        return Ok(limit);
    }
    let most = limits::REPLAYED_MOST;
    Err(Problem::invalid(format!("limit: {limit}; expected a number from 1 to {most}")))
}

pub(crate) async fn replay(
    _: Operator,
    State(service): State<Service>,
    Params(again): Params<Again>,
    Raw(component): Raw,
) -> Result<Json<Replay>, Problem> {
    let most = most(again.limit)?;
    let place = service.replays.admit(None)?;
    let candidate = match (again.policy, component.is_empty()) {
        (None, true) => None,
        (Some(policy), false) => {
            let loaded = service.engine.load_with(policy, component.to_vec()).await;
            Some(loaded.map_err(|error| unfit(&error))?)
        }
        (Some(_), true) => {
            return Err(Problem::invalid("the body: expected the policy's component".into()));
        }
        (None, false) => {
            let detail = "policy: expected the name of the policy that the component is for";
            return Err(Problem::invalid(detail.into()));
        }
    };
    Ok(Json(replayed(&service, candidate, most, place).await?))
}

/// Replays decisions. The replay's place is held until the replay is done, even if the client goes before.
async fn replayed(
    service: &Service,
    candidate: Option<Candidate>,
    most: usize,
    place: Place,
) -> Result<Replay, Problem> {
    let engine = service.engine.clone();
    let replaying = tokio::spawn(async move {
        let _held = place;
        engine.replay(candidate.as_ref(), most).await
    });
    Ok(replaying.await.map_err(|panicked| Problem::unreadable(&panicked))??)
}

/// Makes the policies known to the metrics before they are asked, since loading them may take long.
pub(crate) async fn tell_metrics(service: Service) {
    for policy in service.engine.policies().await.unwrap_or_default().values() {
        service.metrics.knows(&policy.name, policy.mode);
    }
}

pub(crate) async fn in_force(_: Operator, State(service): State<Service>) -> Json<InForce> {
    Json(service.engine.in_force())
}

/// Another configuration's decisions, without its being in force.
pub(crate) async fn attempt(
    _: Operator,
    State(service): State<Service>,
    Params(Latest { limit }): Params<Latest>,
) -> Result<Json<Replay>, Problem> {
    let most = most(limit)?;
    let place = service.replays.admit(None)?;
    let candidate: Candidate = service.engine.load(on_disk(&service.engine)?).await?;
    Ok(Json(replayed(&service, Some(candidate), most, place).await?))
}

pub(crate) async fn reload(
    _: Operator,
    State(service): State<Service>,
) -> Result<Json<InForce>, Problem> {
    let place = service.replays.admit(None)?;
    // The configuration is taken over or refused even if the client goes before.
    let taking = tokio::spawn(async move {
        let _held = place;
        take(&service.engine, service.identity.as_deref()).await
    });
    Ok(Json(taking.await.map_err(|panicked| Problem::unreadable(&panicked))??))
}

pub(crate) async fn step_back(
    _: Operator,
    State(service): State<Service>,
) -> Result<Json<InForce>, Problem> {
    let done = service.engine.step_back();
    Ok(Json(done.map_err(|error| Problem::conflict(error.to_string()))?))
}

/// The problem of a component that does not load, which is the request's fault and no policy's.
fn unfit(error: &EngineError) -> Problem {
    if error.kind() != Kind::PolicyFailed {
        return Problem::from(error);
    }
    let detail = Problem::from(error).in_a_line();
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-component", detail)
}

fn on_disk(engine: &Engine) -> Result<Config, Problem> {
    let file = engine.config().file().map(Path::to_owned);
    Config::load(file.as_deref()).map_err(|error| refused(&error))
}

fn refused(error: &dyn std::error::Error) -> Problem {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    let detail = causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"));
    Problem::conflict(detail).hinting("the configuration before stays")
}

/// Takes over the configuration on disk as a whole, or keeps the one in force.
pub(crate) async fn take(engine: &Engine, identity: Option<&Identity>) -> Result<InForce, Problem> {
    let config = on_disk(engine)?;
    // The certificate is read before anything changes, so that everything is taken over or nothing is.
    let next = match (identity, config.api_tls()) {
        (Some(identity), Some(files)) => {
            Some((identity, Identity::read(&files).map_err(|error| refused(&error))?))
        }
        (_, _) => None,
    };
    let in_force = engine.reload_tried(config, limits::TRIED).await?;
    if let Some((identity, next)) = next {
        identity.replace(next);
    }
    Ok(in_force)
}

/// Takes over the configuration on disk when a signal asks for it; the error is text for the log.
///
/// # Errors
/// The reason why the configuration before stays.
pub async fn reload_from_disk(
    engine: &Engine,
    identity: Option<&Arc<Identity>>,
) -> Result<(), String> {
    match take(engine, identity.map(|identity| &**identity)).await {
        Ok(_) => Ok(()),
        Err(problem) => Err(problem.in_a_line()),
    }
}
