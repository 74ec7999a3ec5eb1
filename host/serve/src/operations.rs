//! Operations: what takes long is accepted at once, watched, and given up. They are this process's: after its end the VMs themselves tell what
//! became of them.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use rustix::rand::{GetRandomFlags, getrandom};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{sync::watch, time};
use tokio_util::sync::CancellationToken;

use qhost_engine::{Context, Observation, Observer};
use qhost_image::{Progress, Step};
use qhost_model::digest::Sha256;

use crate::{
    Service,
    caller::Caller,
    limits,
    problem::Problem,
    query::{Named, Page, Params},
};

/// A header by which a request that is sent again is known.
pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// How far an operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum OperationState {
    /// It goes on.
    Running,
    /// It is done.
    Succeeded,
    /// It could not be done; `error` says why.
    Failed,
}

/// An operation, as it is told.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct OperationStatus {
    /// Its id.
    id: String,
    /// What it does: `start`, `stop`, `kill`, `restart`.
    kind: &'static str,
    /// Whose it is.
    tenant: String,
    /// Who asked for it.
    actor: String,
    state: OperationState,
    /// What is being done.
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<String>,
    /// The VM that it is about, once there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    vm: Option<String>,
    /// The id of the decision about it, once it was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    decision: Option<String>,
    #[schemars(with = "String")]
    began_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    ended_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Problem>,
}

/// An operation under way, or one that is over.
pub(crate) struct Operation {
    tenant: String,
    status: watch::Sender<OperationStatus>,
    cancel: CancellationToken,
}

impl OperationStatus {
    pub(crate) fn is_over(&self) -> bool {
        self.state != OperationState::Running
    }
}

impl Operation {
    fn is_over(&self) -> bool {
        self.status.borrow().is_over()
    }

    pub(crate) fn status(&self) -> OperationStatus {
        self.status.borrow().clone()
    }

    /// Its status, and each change of it.
    pub(crate) fn changes(&self) -> watch::Receiver<OperationStatus> {
        self.status.subscribe()
    }

    /// What its work gives up by, and tells what it does.
    pub(crate) fn context(self: &Arc<Self>) -> Context {
        Context { cancel: self.cancel.clone(), observer: Arc::new(Told(Arc::clone(self))) }
    }

    pub(crate) fn is_about(&self, vm: &str) {
        self.status.send_modify(|status| status.vm = Some(vm.to_owned()));
    }

    fn does(&self, step: &str) {
        self.status.send_modify(|status| status.step = Some(step.to_owned()));
    }

    fn end(&self, done: Result<(), Problem>) {
        self.status.send_modify(|status| {
            status.state =
                if done.is_ok() { OperationState::Succeeded } else { OperationState::Failed };
            status.error = done.err();
            status.step = None;
            status.ended_at = Some(Timestamp::now());
        });
    }
}

/// Tells an operation what the engine does for it.
struct Told(Arc<Operation>);

impl Observer for Told {
    fn observe(&self, observation: Observation<'_>) {
        match observation {
            Observation::Waiting { .. } => self.0.does("waiting for another start of this tenant"),
            Observation::Fingerprinting => self.0.does("finding out what QEMU can do here"),
            Observation::Compiling { policy } => {
                self.0.does(&format!("compiling the policy {policy}, once"));
            }
            Observation::Decided { record, .. } => {
                let id = record.map(|id| id.to_string());
                self.0.status.send_modify(|status| status.decision = id);
            }
            Observation::Admitted { vm } => self.0.is_about(vm),
            Observation::Turn
            | Observation::Understood { .. }
            | Observation::Allowed(_)
            | Observation::Verified(_)
            | Observation::Launched { .. }
            | Observation::Status(_)
            | Observation::Stopping(_)
            | Observation::Silent { .. } => {}
        }
    }
}

impl Progress for Told {
    fn begins(&self, step: Step, total: Option<u64>) {
        let doing = match step {
            Step::Fetching => "fetching an image",
            Step::Checking => "checking a stored image",
            Step::Copying => "copying an image",
        };
        let of = total.map(|total| format!(", {} MiB", total >> 20)).unwrap_or_default();
        self.0.does(&format!("{doing}{of}"));
    }
}

/// All of them.
pub(crate) struct Operations {
    leave: CancellationToken,
    list: Mutex<List>,
}

#[derive(Default)]
struct List {
    by_id: HashMap<String, Arc<Operation>>,
    /// The latest last.
    order: VecDeque<String>,
    by_key: HashMap<Key, Repeatable>,
}

/// A key of a tenant's.
type Key = (String, String);

struct Repeatable {
    request: Sha256,
    operation: String,
}

/// What an operation is asked for.
pub(crate) struct Asked<'a> {
    pub(crate) kind: &'static str,
    pub(crate) caller: &'a Caller,
    pub(crate) tenant: &'a str,
    /// What makes it the same request when it is sent again, and what it was of.
    pub(crate) repeats: Option<Repeats>,
}

/// A key with the digest of the request.
pub(crate) struct Repeats {
    key: String,
    request: Sha256,
}

impl Repeats {
    /// Of a request's headers; `request` is all that it depends on.
    pub(crate) fn of(headers: &HeaderMap, request: &[&[u8]]) -> Result<Option<Self>, Problem> {
        let Some(key) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
        let key = key.to_str().ok().filter(|key| (1..=limits::KEY_BYTES).contains(&key.len()));
        let most = limits::KEY_BYTES;
        let expected = || {
            Problem::invalid(format!("Idempotency-Key: expected 1 to {most} characters of ASCII"))
        };
        let request = Sha256::of(&request.join(&0));
        Ok(Some(Self { key: key.ok_or_else(expected)?.to_owned(), request }))
    }
}

impl Operations {
    pub(crate) fn new(leave: CancellationToken) -> Self {
        Self { leave, list: Mutex::default() }
    }

    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins one, or gives the one that the same request began before.
    pub(crate) fn begin<W>(
        &self,
        asked: Asked<'_>,
        work: impl FnOnce(Arc<Operation>) -> W,
    ) -> Result<OperationStatus, Problem>
    where
        W: Future<Output = Result<(), Problem>> + Send + 'static,
    {
        let mut list = self.list();
        let key = asked.repeats.as_ref().map(|it| (asked.tenant.to_owned(), it.key.clone()));
        if let (Some(key), Some(repeats)) = (&key, &asked.repeats)
            && let Some(before) = list.by_key.get(key)
        {
            if before.request != repeats.request {
                let detail = "the Idempotency-Key was another request's".into();
                return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "key-reused", detail));
            }
            if let Some(operation) = list.by_id.get(&before.operation) {
                return Ok(operation.status());
            }
        }
        list.forget(asked.tenant);
        let of_tenant = list.by_id.values().filter(|it| it.tenant == asked.tenant && !it.is_over());
        if of_tenant.count() >= limits::OPERATIONS_OF_TENANT {
            let detail = "too many operations are under way".into();
            return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, "too-many-operations", detail));
        }
        let id = random_id()?;
        let operation = Arc::new(Operation {
            tenant: asked.tenant.to_owned(),
            status: watch::Sender::new(OperationStatus {
                id: id.clone(),
                kind: asked.kind,
                tenant: asked.tenant.to_owned(),
                actor: asked.caller.name.clone(),
                state: OperationState::Running,
                step: None,
                vm: None,
                decision: None,
                began_at: Timestamp::now(),
                ended_at: None,
                error: None,
            }),
            cancel: self.leave.child_token(),
        });
        list.by_id.insert(id.clone(), Arc::clone(&operation));
        list.order.push_back(id.clone());
        if let (Some(key), Some(Repeats { request, .. })) = (key, asked.repeats) {
            list.by_key.insert(key, Repeatable { request, operation: id });
        }
        drop(list);
        let (done, status) = (work(Arc::clone(&operation)), operation.status());
        tokio::spawn(async move { operation.end(done.await) });
        Ok(status)
    }

    /// How many go on.
    pub(crate) fn under_way(&self) -> usize {
        self.list().by_id.values().filter(|operation| !operation.is_over()).count()
    }

    /// One that a caller may see.
    pub(crate) fn of(&self, caller: &Caller, id: &str) -> Result<Arc<Operation>, Problem> {
        let found = self.list().by_id.get(id).filter(|it| caller.may(&it.tenant)).cloned();
        found.ok_or_else(|| Problem::not_found("operation", id))
    }
}

impl List {
    /// Makes room for one more of a tenant's: the oldest of those that are over goes, and none of another's.
    fn forget(&mut self, tenant: &str) {
        let its = |id: &&String| self.by_id.get(*id).is_some_and(|it| it.tenant == tenant);
        if self.order.iter().filter(its).count() < limits::OPERATIONS_KEPT {
            return;
        }
        let is_over =
            |id: &String| self.by_id.get(id).is_some_and(|it| it.tenant == tenant && it.is_over());
        let oldest = self.order.iter().position(is_over).and_then(|at| self.order.remove(at));
        if let Some(id) = oldest {
            self.by_id.remove(&id);
            self.by_key.retain(|_, of| of.operation != id);
        }
    }
}

pub(crate) fn random_id() -> Result<String, Problem> {
    let mut bytes = [0; 16];
    let read = getrandom(&mut bytes, GetRandomFlags::empty());
    if read.ok() == Some(bytes.len()) {
        return Ok(format!("{:032x}", u128::from_le_bytes(bytes)));
    }
    let detail = "the kernel gives no random numbers".into();
    Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "no-randomness", detail))
}

/// The answer to a request that began an operation: accepted, and where it is told of.
pub(crate) fn accepted(status: OperationStatus) -> Response {
    let place = HeaderValue::from_str(&format!("/v1/operations/{}", status.id));
    let mut response = (StatusCode::ACCEPTED, Json(status)).into_response();
    // An id is hexadecimal digits.
    if let Ok(place) = place {
        response.headers_mut().insert(header::LOCATION, place);
    }
    response
}

pub(crate) async fn list(
    caller: Caller,
    State(service): State<Service>,
    Params(page): Params<Page>,
) -> Result<Json<Value>, Problem> {
    let list = service.operations.list();
    let latest_first = list.order.iter().rev().filter_map(|id| list.by_id.get(id));
    let its = latest_first.filter(|operation| caller.may(&operation.tenant)).map(|operation| {
        let status = operation.status();
        (status.id.clone(), json!(status))
    });
    Ok(Json(page.of("operations", its)?))
}

pub(crate) async fn get(
    caller: Caller,
    State(service): State<Service>,
    Named(id): Named,
) -> Result<Json<OperationStatus>, Problem> {
    Ok(Json(service.operations.of(&caller, &id)?.status()))
}

/// How long a wait lasts.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wait {
    /// Seconds, from 0 to 60; 30 unless they are given.
    #[schemars(range(min = 0, max = 60))]
    timeout_s: Option<u64>,
}

pub(crate) async fn wait(
    caller: Caller,
    State(service): State<Service>,
    Named(id): Named,
    Params(Wait { timeout_s }): Params<Wait>,
) -> Result<Json<OperationStatus>, Problem> {
    let operation = service.operations.of(&caller, &id)?;
    let timeout = Duration::from_secs(timeout_s.unwrap_or(30));
    if timeout > limits::WAIT_MOST {
        let most = limits::WAIT_MOST.as_secs();
        return Err(Problem::invalid(format!("timeout_s: expected at most {most}")));
    }
    let mut changes = operation.status.subscribe();
    let over = changes.wait_for(OperationStatus::is_over);
    // It is told either way.
    let _late = time::timeout(timeout, over).await;
    Ok(Json(operation.status()))
}

pub(crate) async fn cancel(
    caller: Caller,
    State(service): State<Service>,
    Named(id): Named,
) -> Result<Response, Problem> {
    let operation = service.operations.of(&caller, &id)?;
    if operation.is_over() {
        return Err(Problem::conflict("the operation is over".into()));
    }
    operation.cancel.cancel();
    Ok(accepted(operation.status()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tenant whose operations are many: its own oldest are forgotten, and none of another's.
    #[tokio::test]
    async fn what_is_remembered_is_remembered_a_tenant() {
        let operations = Operations::new(CancellationToken::new());
        let begin = |tenant: &str| {
            let caller = Caller { name: "uid 7".into(), tenant: Some(tenant.into()) };
            let asked = Asked { kind: "start", caller: &caller, tenant, repeats: None };
            operations.begin(asked, |_| async { Ok(()) })
        };
        let others = begin("other").ok().unwrap();
        let first = begin("acme").ok().unwrap();
        for _ in 0..limits::OPERATIONS_KEPT {
            begin("acme").ok().unwrap();
            tokio::task::yield_now().await;
        }
        let list = operations.list();
        assert!(list.by_id.contains_key(&others.id) && !list.by_id.contains_key(&first.id));
        assert_eq!(list.order.len(), limits::OPERATIONS_KEPT + 1);
        drop(list);
        // Those under way are bounded, and are not forgotten.
        let under_way = |tenant: &str| {
            let caller = Caller { name: "uid 7".into(), tenant: Some(tenant.into()) };
            let asked = Asked { kind: "start", caller: &caller, tenant, repeats: None };
            operations.begin(asked, |_| std::future::pending())
        };
        for _ in 0..limits::OPERATIONS_OF_TENANT {
            assert!(under_way("acme").is_ok());
        }
        let refused = under_way("acme").err().unwrap();
        assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
        assert!(under_way("other").is_ok());
    }
}
