//! `/metrics`: the service's counts since it began, as OpenMetrics text. What the host has at the moment is read at each request
//! (`metrics/gauges.rs`).

mod events;
mod gauges;
mod process;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{StatusCode, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};

use qhost_engine::{Observation, Observer};
use qhost_image::{Progress, Step};
use qhost_policy::{Answer, Decision, Mode};
use qhost_vm::State as VmState;

pub(crate) use events::count as count_events;

use crate::{Service, caller::Operator, limits, problem::Problem};

/// The media type of OpenMetrics text, version 1.0.0.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Bounds of a policy's time, in microseconds: a policy answers within some 10, and is ended after some millions.
const MICROSECONDS: [f64; 12] =
    [5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 1e4, 1e5, 1e6, 1e7];
/// Bounds of the time of a request, or of a part of a start, in seconds.
const SECONDS: [f64; 12] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0, 300.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfLaunch {
    tenant: String,
    outcome: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfEvent {
    tenant: String,
    event: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRequest {
    route: String,
    method: String,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRoute {
    route: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfEvaluation {
    policy: String,
    mode: &'static str,
    verdict: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPolicy {
    policy: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPhase {
    phase: &'static str,
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// The counters.
pub(crate) struct Metrics {
    requests: Family<OfRequest, Counter>,
    request_seconds: Histograms<OfRoute>,
    evaluations: Family<OfEvaluation, Counter>,
    evaluation_microseconds: Histograms<OfPolicy>,
    phase_seconds: Histograms<OfPhase>,
    image_steps: Family<OfPhase, Counter>,
    fetched_bytes: Counter,
    events: Family<OfEvent, Counter>,
    launches: Family<OfLaunch, Counter>,
    /// The tenants whose starts are counted under their own names.
    tenants: Mutex<BTreeSet<String>>,
    costs: Mutex<BTreeMap<String, PolicyCost>>,
}

/// The cost of a policy.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct PolicyCost {
    pub(crate) evaluations: u64,
    pub(crate) refusals: u64,
    micros: u64,
}

impl PolicyCost {
    /// The mean time of one evaluation; none before the first.
    pub(crate) fn mean_micros(self) -> Option<f64> {
        (self.evaluations > 0).then(|| self.micros as f64 / self.evaluations as f64)
    }
}

fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Enforce => "enforce",
        Mode::Monitor => "monitor",
    }
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let seconds: fn() -> Histogram = || Histogram::new(SECONDS);
        let microseconds: fn() -> Histogram = || Histogram::new(MICROSECONDS);
        Self {
            requests: Family::default(),
            request_seconds: Family::new_with_constructor(seconds),
            evaluations: Family::default(),
            evaluation_microseconds: Family::new_with_constructor(microseconds),
            phase_seconds: Family::new_with_constructor(seconds),
            image_steps: Family::default(),
            fetched_bytes: Counter::default(),
            events: Family::default(),
            launches: Family::default(),
            tenants: Mutex::default(),
            costs: Mutex::default(),
        }
    }

    /// Counts a decision: the verdict of each policy that was asked, and the time that it took.
    pub(crate) fn decided(&self, decision: &Decision) {
        for policy in &decision.policies {
            let verdict = match policy.answer {
                Answer::Allowed => "allowed",
                Answer::Refused => "refused",
                Answer::Failed => "failed",
                Answer::NotAsked => continue,
            };
            let mode = mode_name(policy.mode);
            let name = || policy.name.clone();
            let of = OfEvaluation { policy: name(), mode, verdict };
            self.evaluations.get_or_create(&of).inc();
            let micros = self.evaluation_microseconds.get_or_create(&OfPolicy { policy: name() });
            micros.observe(policy.cost.micros as f64);
            let mut costs = self.costs.lock().unwrap_or_else(PoisonError::into_inner);
            let cost = costs.entry(name()).or_default();
            cost.evaluations += 1;
            cost.refusals += u64::from(policy.answer == Answer::Refused);
            cost.micros += policy.cost.micros;
        }
    }

    /// Counts a start that is over: its guest ran, or the problem of this name kept it from that.
    pub(crate) fn launched(&self, tenant: &str, outcome: &str) {
        let (tenant, outcome) = (self.counted_as(tenant), outcome.to_owned());
        self.launches.get_or_create(&OfLaunch { tenant, outcome }).inc();
    }

    /// The name that a tenant's starts are counted under. If no tenant is configured, an operator's request may name any.
    fn counted_as(&self, tenant: &str) -> String {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        if tenants.len() < limits::METRICS_TENANTS {
            tenants.insert(tenant.to_owned());
        }
        if tenants.contains(tenant) { tenant } else { "other" }.to_owned()
    }

    /// Makes a policy's counters known, also before the policy is asked, so that their rates begin at 0.
    pub(crate) fn knows(&self, policy: &str, mode: Mode) {
        for verdict in ["allowed", "refused", "failed"] {
            let policy = policy.to_owned();
            let of = OfEvaluation { policy, mode: mode_name(mode), verdict };
            drop(self.evaluations.get_or_create(&of));
        }
    }

    /// The cost of a policy since the service began.
    pub(crate) fn cost_of(&self, policy: &str) -> PolicyCost {
        let costs = self.costs.lock().unwrap_or_else(PoisonError::into_inner);
        costs.get(policy).copied().unwrap_or_default()
    }

    fn registry(&self) -> Registry {
        let mut registry = Registry::with_prefix("qhost");
        registry.register("http_requests", "Requests that were answered", self.requests.clone());
        registry.register(
            "http_request_duration_seconds",
            "How long requests took until their answer began",
            self.request_seconds.clone(),
        );
        registry.register(
            "policy_evaluations",
            "Decisions of policies by this service",
            self.evaluations.clone(),
        );
        registry.register(
            "policy_evaluation_duration_microseconds",
            "How long a policy took with its sandbox",
            self.evaluation_microseconds.clone(),
        );
        registry.register(
            "launch_phase_duration_seconds",
            "How long the parts of starts by this service took, each from the end of the one before",
            self.phase_seconds.clone(),
        );
        registry.register(
            "image_steps",
            "Images that were fetched, checked and copied for starts by this service",
            self.image_steps.clone(),
        );
        registry.register(
            "image_fetched_bytes",
            "Bytes of images that this service has fetched",
            self.fetched_bytes.clone(),
        );
        registry.register(
            "vm_events",
            "What has happened to VMs since the service began, whatever door they came by",
            self.events.clone(),
        );
        registry.register(
            "launches",
            "Starts by this service that are over, by how they ended",
            self.launches.clone(),
        );
        registry
    }
}

/// The progress of a fetch.
#[derive(Default)]
struct Fetched {
    is_under_way: bool,
    /// The position in the image, in bytes.
    position: u64,
}

/// Passes on the observations of a start to an observer, and counts them.
pub(crate) struct Measured {
    metrics: Arc<Metrics>,
    /// The time at which the last part of the start ended.
    since: Mutex<Instant>,
    fetched: Mutex<Fetched>,
    told: Arc<dyn Observer>,
}

impl Measured {
    pub(crate) fn new(metrics: &Arc<Metrics>, told: Arc<dyn Observer>) -> Arc<Self> {
        let (since, fetched) = (Mutex::new(Instant::now()), Mutex::default());
        Arc::new(Self { metrics: Arc::clone(metrics), since, fetched, told })
    }

    fn ends(&self, phase: &'static str) {
        let now = Instant::now();
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        let took = now.duration_since(std::mem::replace(&mut *since, now)).as_secs_f64();
        drop(since);
        self.metrics.phase_seconds.get_or_create(&OfPhase { phase }).observe(took);
    }
}

impl Observer for Measured {
    fn observe(&self, observation: Observation<'_>) {
        match &observation {
            Observation::Decided { decision, .. } => {
                self.metrics.decided(decision);
                self.ends("decided");
            }
            Observation::Admitted { .. } => self.ends("admitted"),
            Observation::Verified(_) => self.ends("verified"),
            Observation::Launched { .. } => self.ends("launched"),
            Observation::Status(status) if status.state() == VmState::Running => {
                self.ends("running");
            }
            Observation::Waiting { .. }
            | Observation::Turn
            | Observation::Fingerprinting
            | Observation::Compiling { .. }
            | Observation::Understood { .. }
            | Observation::Allowed(_)
            | Observation::Status(_)
            | Observation::Stopping(_)
            | Observation::Silent { .. } => {}
        }
        self.told.observe(observation);
    }
}

impl Progress for Measured {
    fn begins(&self, step: Step, total: Option<u64>) {
        let phase = match step {
            Step::Fetching => "fetched",
            Step::Checking => "checked",
            Step::Copying => "copied",
        };
        self.metrics.image_steps.get_or_create(&OfPhase { phase }).inc();
        let mut fetched = self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
        fetched.is_under_way = step == Step::Fetching;
        drop(fetched);
        self.told.begins(step, total);
    }

    fn waiting(&self) {
        self.told.waiting();
    }

    fn done(&self, bytes: u64) {
        let mut fetched = self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
        if fetched.is_under_way {
            // A resumed fetch goes on from its position; a fetch of another image, or from the beginning, has fewer bytes than that.
            let more = bytes.checked_sub(fetched.position).unwrap_or(bytes);
            self.metrics.fetched_bytes.inc_by(more);
            fetched.position = bytes;
        }
        drop(fetched);
        self.told.done(bytes);
    }

    fn retrying(&self, why: &str) {
        self.told.retrying(why);
    }
}

/// Counts a request by its route; requests that match no route share one name.
pub(crate) async fn counted(
    State(service): State<Service>,
    request: Request,
    next: Next,
) -> Response {
    let path = request.extensions().get::<MatchedPath>();
    let route = path.map_or("none", MatchedPath::as_str).to_owned();
    let method = match request.method().as_str() {
        known @ ("GET" | "POST" | "DELETE" | "PUT" | "PATCH" | "HEAD" | "OPTIONS") => known,
        _ => "other",
    };
    let method = method.to_owned();
    let began = Instant::now();
    let response = next.run(request).await;
    let status = response.status().as_u16();
    let of = OfRequest { route: route.clone(), method, status };
    service.metrics.requests.get_or_create(&of).inc();
    let seconds = service.metrics.request_seconds.get_or_create(&OfRoute { route });
    seconds.observe(began.elapsed().as_secs_f64());
    response
}

pub(crate) async fn get(_: Operator, State(service): State<Service>) -> Result<Response, Problem> {
    let mut registry = service.metrics.registry();
    gauges::add(&mut registry, &service).await;
    let mut text = String::new();
    let encoded = text::encode_registry(&mut text, &registry)
        .and_then(|()| text::encode(&mut text, &process::registry()));
    encoded.map_err(|error| {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "unwritable", error.to_string())
    })?;
    Ok(([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response())
}
