//! `/v1/jobs` and `/v1/decide`: how a job is understood, what would become of it, and what policies say, without a launch.

use std::sync::{Arc, Mutex, PoisonError};

use axum::{Json, extract::State};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::task::spawn_blocking;

use qhost_engine::{Context, Decided, Observation, Observer, Order, Plan};
use qhost_image::Progress;
use qhost_model::job::Task;
use qhost_policy::Decision;

use crate::{
    Service,
    admission::Place,
    caller::Caller,
    metrics::Metrics,
    problem::Problem,
    query::{Params, Raw},
    vms::Of,
};

/// An order with its tenant's place for a decision.
struct Admitted {
    order: Order,
    place: Place,
}

impl Admitted {
    fn of(service: &Service, caller: &Caller, of: Of, body: &[u8]) -> Result<Self, Problem> {
        let order = of.order(caller, body.to_vec())?;
        let place = service.decisions.admit(Some(&order.tenant))?;
        Ok(Self { order, place })
    }
}

/// What a job is understood as.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Understood {
    #[schemars(with = "Map<String, Value>")]
    task: Task,
}

/// What a job would be run as.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Planned {
    #[schemars(with = "Option<Map<String, Value>>")]
    decision: Option<Decision>,
    plan: Plan,
}

pub(crate) async fn validate(
    caller: Caller,
    State(service): State<Service>,
    Params(of): Params<Of>,
    Raw(body): Raw,
) -> Result<Json<Understood>, Problem> {
    let Admitted { order, place } = Admitted::of(&service, &caller, of, &body)?;
    // A job of 1 MiB takes longer to read than other requests are to wait.
    let read = spawn_blocking(move || {
        let _held = place;
        Ok(Understood { task: service.engine.understood(&order)? })
    });
    read.await.unwrap_or_else(|panicked| Err(Problem::unreadable(&panicked))).map(Json)
}

/// Keeps the latest decision of a request, and counts each.
struct Heard {
    metrics: Arc<Metrics>,
    latest: Mutex<Option<Decision>>,
}

impl Observer for Heard {
    fn observe(&self, observation: Observation<'_>) {
        if let Observation::Decided { decision, .. } = observation {
            self.metrics.decided(decision);
            *self.latest.lock().unwrap_or_else(PoisonError::into_inner) = Some(decision.clone());
        }
    }
}

impl Progress for Heard {}

pub(crate) async fn plan(
    caller: Caller,
    State(service): State<Service>,
    Params(of): Params<Of>,
    Raw(body): Raw,
) -> Result<Json<Planned>, Problem> {
    let Admitted { order, place: _place } = Admitted::of(&service, &caller, of, &body)?;
    let metrics = Arc::clone(&service.metrics);
    let heard = Arc::new(Heard { metrics, latest: Mutex::default() });
    let observer: Arc<dyn Observer> = Arc::<Heard>::clone(&heard);
    let plan = service.engine.plan(order, &Context { observer, ..Context::default() }).await?;
    let decision = heard.latest.lock().unwrap_or_else(PoisonError::into_inner).take();
    Ok(Json(Planned { decision, plan }))
}

pub(crate) async fn decide(
    caller: Caller,
    State(service): State<Service>,
    Params(of): Params<Of>,
    Raw(body): Raw,
) -> Result<Json<Decided>, Problem> {
    let Admitted { order, place: _place } = Admitted::of(&service, &caller, of, &body)?;
    let decided = service.engine.decide(order, &Context::default()).await?;
    if let Some(decision) = &decided.decision {
        service.metrics.decided(decision);
    }
    Ok(Json(decided))
}
