//! Operations: work that takes long is accepted at once, can be watched, and can be given up. Operations end with this process, except
//! starts (`starts.rs`).

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Json,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use rustix::rand::{GetRandomFlags, getrandom};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time;
use tokio_util::sync::CancellationToken;

use qhost_model::digest::Sha256;

use crate::{
    Service,
    caller::Caller,
    idempotency::Idempotency,
    limits,
    operation::{Begun, Operation, OperationStatus},
    problem::Problem,
    query::{Named, Page, Params},
    start_record::{StartRecord, StartRecords},
};

/// All operations.
pub(crate) struct Operations {
    leave: CancellationToken,
    files: StartRecords,
    list: Mutex<List>,
}

#[derive(Default)]
struct List {
    by_id: HashMap<String, Arc<Operation>>,
    /// The ids of the operations, the latest last.
    order: VecDeque<String>,
    by_key: HashMap<Key, Repeatable>,
}

/// A tenant with its `Idempotency-Key`.
type Key = (String, String);

struct Repeatable {
    request: Sha256,
    operation: String,
}

/// A request for an operation.
pub(crate) struct Asked<'a> {
    pub(crate) kind: &'static str,
    pub(crate) caller: &'a Caller,
    pub(crate) tenant: &'a str,
    /// The key and the digest by which the request is known when it is sent again.
    pub(crate) idempotency: Option<Idempotency>,
    /// The operation's id and its beginning, if it has them already.
    pub(crate) begun: Option<Begun>,
}

impl Operations {
    pub(crate) fn new(leave: CancellationToken, files: StartRecords) -> Self {
        Self { leave, files, list: Mutex::default() }
    }

    /// The files of starts that were accepted.
    pub(crate) fn files(&self) -> &StartRecords {
        &self.files
    }

    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins an operation, or gives the one that the same request began before.
    pub(crate) fn begin<W>(
        &self,
        asked: Asked<'_>,
        work: impl FnOnce(Arc<Operation>) -> W,
    ) -> Result<OperationStatus, Problem>
    where
        W: Future<Output = Result<(), Problem>> + Send + 'static,
    {
        let mut list = self.list();
        let key = asked.idempotency.as_ref().map(|it| (asked.tenant.to_owned(), it.key.clone()));
        if let (Some(key), Some(idempotency)) = (&key, &asked.idempotency)
            && let Some(before) = list.by_key.get(key)
        {
            if before.request != idempotency.request {
                let detail = "the Idempotency-Key was another request's".into();
                return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "key-reused", detail));
            }
            if let Some(operation) = list.by_id.get(&before.operation) {
                return Ok(operation.status());
            }
        }
        let of_tenant = list.by_id.values().filter(|it| it.tenant == asked.tenant && !it.is_over());
        if of_tenant.count() >= limits::OPERATIONS_OF_TENANT {
            let detail = "too many operations are under way".into();
            return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, "too-many-operations", detail));
        }
        let begun = match asked.begun {
            Some(begun) => begun,
            None => Begun { id: random_id()?, at: Timestamp::now() },
        };
        // The oldest is forgotten only after these checks, since an operation that is forgotten takes its file along.
        let forgotten = list.forget(asked.tenant);
        let cancel = self.leave.child_token();
        let actor = asked.caller.name.clone();
        let operation = Operation::begun(begun, asked.kind, asked.tenant, actor, cancel);
        list.add(&operation, asked.idempotency);
        drop(list);
        if let Some(id) = forgotten {
            let files = self.files.clone();
            tokio::spawn(async move { files.forget(&id).await });
        }
        let (done, status) = (work(Arc::clone(&operation)), operation.status());
        tokio::spawn(async move { operation.end(done.await) });
        Ok(status)
    }

    /// Adds a start that was done before this service began, so that its request is known when it is sent again.
    pub(crate) fn restore(&self, accepted: StartRecord) {
        let idempotency = accepted.idempotency.clone();
        let Some(operation) = Operation::done(accepted, self.leave.child_token()) else { return };
        self.list().add(&operation, idempotency);
    }

    /// Whether the service leaves, which gives up its operations.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leave.is_cancelled()
    }

    /// The number of operations that are under way.
    pub(crate) fn under_way(&self) -> usize {
        self.list().by_id.values().filter(|operation| !operation.is_over()).count()
    }

    /// Finds an operation that a caller may see.
    pub(crate) fn of(&self, caller: &Caller, id: &str) -> Result<Arc<Operation>, Problem> {
        let found = self.list().by_id.get(id).filter(|it| caller.may(&it.tenant)).cloned();
        found.ok_or_else(|| Problem::not_found("operation", id))
    }
}

impl List {
    fn add(&mut self, operation: &Arc<Operation>, idempotency: Option<Idempotency>) {
        let id = operation.status().id().to_owned();
        self.by_id.insert(id.clone(), Arc::clone(operation));
        self.order.push_back(id.clone());
        if let Some(Idempotency { key, request }) = idempotency {
            let key = (operation.tenant.clone(), key);
            self.by_key.insert(key, Repeatable { request, operation: id });
        }
    }

    /// Makes room for one more operation of a tenant: the tenant's oldest one that is over is removed, and none of another tenant's. Gives
    /// its id.
    fn forget(&mut self, tenant: &str) -> Option<String> {
        let its = |id: &&String| self.by_id.get(*id).is_some_and(|it| it.tenant == tenant);
        if self.order.iter().filter(its).count() < limits::OPERATIONS_KEPT {
            return None;
        }
        let is_over =
            |id: &String| self.by_id.get(id).is_some_and(|it| it.tenant == tenant && it.is_over());
        let id = self.order.iter().position(is_over).and_then(|at| self.order.remove(at))?;
        self.by_id.remove(&id);
        self.by_key.retain(|_, of| of.operation != id);
        Some(id)
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

/// The answer to a request that began an operation: accepted, with the operation's address.
pub(crate) fn accepted(status: OperationStatus) -> Response {
    let place = HeaderValue::from_str(&format!("/v1/operations/{}", status.id()));
    let mut response = (StatusCode::ACCEPTED, Json(status)).into_response();
    // An id is hexadecimal digits, so that it fits a header.
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
        (status.id().to_owned(), json!(status))
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

/// Reads how long a request waits.
pub(crate) fn timeout(seconds: Option<u64>) -> Result<Duration, Problem> {
    let timeout = Duration::from_secs(seconds.unwrap_or(30));
    if timeout > limits::WAIT_MOST {
        let most = limits::WAIT_MOST.as_secs();
        return Err(Problem::invalid(format!("timeout_s: expected at most {most}")));
    }
    Ok(timeout)
}

pub(crate) async fn wait(
    caller: Caller,
    State(service): State<Service>,
    Named(id): Named,
    Params(Wait { timeout_s }): Params<Wait>,
) -> Result<Json<OperationStatus>, Problem> {
    let operation = service.operations.of(&caller, &id)?;
    let timeout = timeout(timeout_s)?;
    let mut changes = operation.changes();
    let over = changes.wait_for(OperationStatus::is_over);
    // The status is answered whether the operation is over or the time is.
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
    operation.give_up();
    // Without its file, no later service goes on with the operation, even if this one is killed.
    service.operations.files().forget(&id).await;
    Ok(accepted(operation.status()))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// A tenant with many operations has its own oldest forgotten, and none of another's.
    #[tokio::test]
    async fn what_is_remembered_is_remembered_a_tenant() {
        let operations =
            Operations::new(CancellationToken::new(), StartRecords::of(Path::new("/nowhere")));
        let begin = |tenant: &str| {
            let caller = Caller { name: "uid 7".into(), tenant: Some(tenant.into()) };
            let asked =
                Asked { kind: "start", caller: &caller, tenant, idempotency: None, begun: None };
            operations.begin(asked, |_| async { Ok(()) })
        };
        let others = begin("other").ok().unwrap();
        let first = begin("acme").ok().unwrap();
        for _ in 0..limits::OPERATIONS_KEPT {
            begin("acme").ok().unwrap();
            tokio::task::yield_now().await;
        }
        let list = operations.list();
        assert!(list.by_id.contains_key(others.id()) && !list.by_id.contains_key(first.id()));
        assert_eq!(list.order.len(), limits::OPERATIONS_KEPT + 1);
        drop(list);
        // Operations under way are bounded, and are not forgotten.
        let under_way = |tenant: &str| {
            let caller = Caller { name: "uid 7".into(), tenant: Some(tenant.into()) };
            let asked =
                Asked { kind: "start", caller: &caller, tenant, idempotency: None, begun: None };
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
