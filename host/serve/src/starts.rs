//! Starts of VMs: each start is an operation that is written down before it is answered, and done once, even if the service is killed.

use std::{future, sync::Arc};

use axum::{extract::State, http::HeaderMap, response::Response};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::task::spawn_blocking;

use qhost_engine::{Context, Engine, Order, Until, Vm, Which};
use qhost_model::{launch::Grace, limits::GRACE_MOST_S};
use qhost_sys::failpoint;
use qhost_vm::{End, VmRecord};

use crate::{
    Service,
    caller::Caller,
    idempotency::Idempotency,
    metrics::Measured,
    operation::{Begun, Operation, OperationStatus},
    operations::{self, Asked},
    problem::Problem,
    query::{Params, Raw},
    start_record::StartRecord,
    vms::Of,
};

/// What is said of a start besides its job.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Start {
    /// The tenant; a tenant's caller means itself.
    tenant: Option<String>,
    /// Which task of a Nomad job that has several, `TASK` or `GROUP/TASK`.
    task: Option<String>,
    /// How long the guest has to power off when it is stopped, in seconds from 0 to 3600; as the job says unless they are given.
    #[schemars(range(min = 0, max = 3600))]
    grace_s: Option<u32>,
    /// Whether the job must have a ready check.
    #[serde(default)]
    ready_check: bool,
}

impl Start {
    fn order(self, caller: &Caller, bytes: Vec<u8>) -> Result<Order, Problem> {
        let Self { tenant, task, grace_s, ready_check } = self;
        if grace_s.is_some_and(|seconds| seconds > GRACE_MOST_S) {
            return Err(Problem::invalid(format!("grace_s: expected at most {GRACE_MOST_S}")));
        }
        let mut order = Of { tenant, task }.order(caller, bytes)?;
        order.grace = grace_s.map(|seconds| Grace { seconds });
        order.ready_check = ready_check;
        Ok(order)
    }
}

pub(crate) async fn start(
    caller: Caller,
    State(service): State<Service>,
    Params(start): Params<Start>,
    headers: HeaderMap,
    Raw(body): Raw,
) -> Result<Response, Problem> {
    let order = start.order(&caller, body.to_vec())?;
    let accepted = {
        let _place = service.decisions.admit(Some(&order.tenant))?;
        let (engine, caller) = (service.engine.clone(), caller.clone());
        let read = spawn_blocking(move || {
            let task = order.task.clone().unwrap_or_default();
            let grace = order.grace.map(|grace| grace.seconds);
            let more = serde_json::json!([grace, order.ready_check]).to_string();
            let request = [b"start", task.as_bytes(), more.as_bytes(), &order.job.bytes];
            let idempotency = Idempotency::of(&headers, &request)?;
            // A job that is not understood is refused at once.
            engine.understood(&order)?;
            Ok(StartRecord::new(operations::random_id()?, &order, &caller, idempotency))
        });
        read.await.unwrap_or_else(|panicked| Err(Problem::unreadable(&panicked)))?
    };
    let begun = begin(&service, accepted, Stage::Asked)?;
    // The answer waits until the start is written down, even if an earlier request began it, so that the start outlasts the service.
    let status = service.operations.of(&caller, begun.id())?.kept().await;
    status.not_kept().map_or_else(|| Ok(operations::accepted(status)), Err)
}

/// The progress of a start.
enum Stage {
    /// The start was asked for.
    Asked,
    /// The start is written down.
    Kept,
    /// The start has a VM.
    Launched(Vm),
}

fn begin(
    service: &Service,
    accepted: StartRecord,
    stage: Stage,
) -> Result<OperationStatus, Problem> {
    let StartRecord { id, tenant, caller, idempotency, began_at, .. } = accepted.clone();
    let begun = Some(Begun { id, at: began_at });
    let asked = Asked { kind: "start", caller: &caller, tenant: &tenant, idempotency, begun };
    let (engine, metrics) = (service.engine.clone(), Arc::clone(&service.metrics));
    let operations = Arc::clone(&service.operations);
    service.operations.begin(asked, |operation| async move {
        let files = operations.files();
        if matches!(stage, Stage::Asked) {
            files.keep(&accepted).await?;
            failpoint::reach("serve.accepted");
        }
        operation.mark_kept();
        let Context { cancel, observer } = operation.context();
        let context = Context { cancel, observer: Measured::new(&metrics, observer) };
        let done = started(&engine, &accepted, stage, &operation, &context).await;
        let outcome = done.as_ref().err().map_or("running", Problem::name);
        metrics.launched(&accepted.tenant, outcome);
        let is_put_off = outcome == "cancelled" && operations.is_leaving();
        if is_put_off && !operation.is_given_up() {
            // The next service goes on with the start; until this one has gone, the start is under way.
            return future::pending().await;
        }
        if done.is_ok() && accepted.idempotency.is_some() {
            let ended = accepted.clone().ended(operation.status().done());
            if files.keep(&ended).await.is_ok() {
                return done;
            }
        }
        files.forget(&accepted.id).await;
        done
    })
}

async fn started(
    engine: &Engine,
    accepted: &StartRecord,
    stage: Stage,
    operation: &Operation,
    context: &Context,
) -> Result<(), Problem> {
    let damaged = || Problem::invalid("what was accepted cannot be read any more".into());
    let vm = match stage {
        Stage::Launched(vm) => vm,
        Stage::Asked | Stage::Kept => {
            engine.start(accepted.order().ok_or_else(damaged)?, context).await?
        }
    };
    operation.is_about(vm.id());
    let record = vm.wait(Until::Running, context).await?;
    match record.status.ended.map(|ended| ended.end) {
        Some(End::NotStarted { message, cannot_run, .. }) => {
            Err(Problem::not_started(message, cannot_run))
        }
        Some(_) | None => Ok(()),
    }
}

/// Goes on with the starts that an earlier service accepted: with a start's VM if its QEMU ran or will run, else from the beginning.
pub(crate) async fn go_on(service: &Service) {
    let files = service.operations.files().clone();
    let list = spawn_blocking(move || files.list()).await.unwrap_or_default();
    let (done, left): (Vec<_>, Vec<_>) =
        list.into_iter().partition(|accepted| accepted.done.is_some());
    done.into_iter().for_each(|accepted| service.operations.restore(accepted));
    if left.is_empty() {
        return;
    }
    let vms = service.engine.vms(Which::All).await;
    for accepted in left {
        let mut stage = Stage::Kept;
        for vm in vms.iter().filter(|vm| vm.operation.as_ref() == Some(&accepted.id)) {
            let handle = service.engine.handle(vm);
            if never_ran(vm) {
                // If the VM stayed, a recovery would start it beside the VM that is started now.
                if let Err(error) = handle.remove().await {
                    tracing::warn!(%error, vm = vm.id, "cannot remove a VM that never ran");
                }
            } else {
                stage = Stage::Launched(handle);
            }
        }
        let id = accepted.id.clone();
        if let Err(problem) = begin(service, accepted, stage) {
            let why = problem.in_a_line();
            tracing::error!(operation = id, why, "cannot go on with a start that was accepted");
        }
    }
}

fn never_ran(vm: &VmRecord) -> bool {
    vm.status.state().is_final() && vm.status.started_at.is_none()
}
