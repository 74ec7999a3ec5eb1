//! `/v1/vms`: what runs, and what is done with it.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    time::Duration,
};

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{task::spawn_blocking, time};

use qhost_engine::{Context, JobFile, Order, Termination, Until, Vm, VmDetails, Which};
use qhost_policy::Operation as Permit;
use qhost_vm::{State as VmState, Stats, VmRecord};

use crate::{
    Service,
    caller::Caller,
    limits,
    operations::{self, Asked},
    problem::Problem,
    query::{Named, Page, Params},
};

/// Which VMs are listed.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Filter {
    /// A tenant's alone.
    tenant: Option<String>,
    /// Those in this state.
    state: Option<String>,
    /// Those of this task or job.
    task: Option<String>,
    /// Those whose job has this in its `meta`, as in `team=web`.
    meta: Option<String>,
    /// Ended VMs too, as far as their records are kept.
    #[serde(default)]
    all: bool,
    /// At most so many items: from 1 to 1000, 100 unless it is given.
    #[schemars(range(min = 1, max = 1000))]
    limit: Option<usize>,
    /// The id of the last item of the page before.
    after: Option<String>,
}

pub(crate) async fn list(
    caller: Caller,
    State(service): State<Service>,
    Params(filter): Params<Filter>,
) -> Result<Json<Value>, Problem> {
    let Filter { tenant, state, task, meta, all, limit, after } = filter;
    let page = Page { limit, after };
    let state = state.map(|state| known(&state)).transpose()?;
    let meta = meta.map(|pair| match pair.split_once('=') {
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
        None => Err(Problem::invalid("meta: expected KEY=VALUE".into())),
    });
    let meta = meta.transpose()?;
    let which = if all { Which::All } else { Which::GoingOn };
    let vms = service.engine.vms(which).await;
    let vms = vms.iter().filter(|vm| caller.may(&vm.tenant));
    let vms = vms.filter(|vm| tenant.as_ref().is_none_or(|tenant| vm.tenant == *tenant));
    let vms = vms.filter(|vm| state.is_none_or(|state| vm.status.state() == state));
    let vms = vms.filter(|vm| task.as_ref().is_none_or(|name| [&vm.task, &vm.job].contains(&name)));
    let vms = vms.filter(|vm| meta.as_ref().is_none_or(|(key, value)| vm.has_meta(key, value)));
    Ok(Json(page.of("vms", vms.map(|vm| (vm.id.clone(), json!(vm))))?))
}

fn known(state: &str) -> Result<VmState, Problem> {
    serde_json::from_value(json!(state)).map_err(|_| {
        let shown = qhost_model::printable::line(state, limits::SHOWN_CHARS);
        Problem::invalid(format!("state: {shown}; expected a VM's state, as in running"))
    })
}

/// Finds the VM that a caller means, by its id or by its task's name. Another tenant's VM is not found.
pub(crate) async fn meant(service: &Service, caller: &Caller, word: &str) -> Result<Vm, Problem> {
    let not_found = || Problem::not_found("VM", word);
    let word = match &caller.tenant {
        Some(tenant) if !word.contains('/') => {
            let own = service.engine.latest_vm(&format!("{tenant}/{word}")).await;
            match own {
                Ok(vm) => return Ok(vm),
                Err(_) => word,
            }
        }
        Some(_) | None => word,
    };
    match service.engine.latest_vm(word).await {
        Ok(vm) if caller.may(&vm.record().await.tenant) => Ok(vm),
        // An operator is told that a name means several VMs.
        Err(error) if caller.is_operator() => {
            Err(Problem::new(StatusCode::NOT_FOUND, "not-found", error.to_string()))
        }
        Ok(_) | Err(_) => Err(not_found()),
    }
}

pub(crate) async fn get(
    caller: Caller,
    State(service): State<Service>,
    Named(word): Named,
) -> Result<Json<VmDetails>, Problem> {
    let vm = meant(&service, &caller, &word).await?;
    Ok(Json(vm.details().await?))
}

/// For what of a VM is waited, and how long.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wait {
    /// `running`: its guest runs; `ready`: its job's ready check holds; `end`, unless another is given. Its end ends each wait.
    #[schemars(extend("enum" = ["running", "ready", "end"]))]
    until: Option<String>,
    /// Seconds, from 0 to 60; 30 unless they are given.
    #[schemars(range(min = 0, max = 60))]
    timeout_s: Option<u64>,
}

impl Wait {
    fn until(&self) -> Result<Until, Problem> {
        match self.until.as_deref() {
            Some("running") => Ok(Until::Running),
            Some("ready") => Ok(Until::Ready),
            Some("end") | None => Ok(Until::End),
            Some(_) => Err(Problem::invalid("until: expected running, ready or end".into())),
        }
    }
}

pub(crate) async fn wait(
    caller: Caller,
    State(service): State<Service>,
    Named(word): Named,
    Params(wait): Params<Wait>,
) -> Result<Json<VmRecord>, Problem> {
    let (until, timeout) = (wait.until()?, operations::timeout(wait.timeout_s)?);
    let vm = meant(&service, &caller, &word).await?;
    let context = Context::default();
    // The record is answered whether the wait ended or its time did.
    Ok(Json(match time::timeout(timeout, vm.wait(until, &context)).await {
        Ok(waited) => waited?,
        Err(_) => vm.record().await,
    }))
}

/// Whose a job is, and which of its tasks is meant.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Of {
    /// The tenant; a tenant's caller means itself.
    pub(crate) tenant: Option<String>,
    /// Which task of a Nomad job that has several, `TASK` or `GROUP/TASK`.
    pub(crate) task: Option<String>,
}

impl Of {
    /// Makes the order for a job that came as a request's body.
    pub(crate) fn order(self, caller: &Caller, bytes: Vec<u8>) -> Result<Order, Problem> {
        let tenant = caller.acts_for(self.tenant)?;
        let mut order = Order::new(JobFile::of_body(bytes), tenant);
        order.task = self.task;
        order.actor = Some(caller.actor());
        Ok(order)
    }
}

/// Finds the VM that a caller means, if it has not ended and policies permit the operation. The policies are asked in one of the tenant's
/// places for decisions.
pub(crate) async fn permitted(
    service: &Service,
    caller: &Caller,
    word: &str,
    operation: Permit,
    request: &'static str,
) -> Result<Vm, Problem> {
    let vm = meant(service, caller, word).await?;
    vm.goes_on().await.map_err(|error| Problem::conflict(error.to_string()))?;
    let _place = service.decisions.admit(Some(&vm.record().await.tenant))?;
    let actor = caller.actor();
    vm.permit(operation, actor.clone(), &Context::default()).await?;
    vm.note_request(request, &actor).await;
    Ok(vm)
}

/// How long a guest has to power off.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Grace {
    /// Seconds, from 0 to 86400; as the VM's job says unless they are given.
    #[schemars(range(min = 0, max = 86400))]
    grace_s: Option<u64>,
}

impl Grace {
    fn given(self) -> Result<Option<Duration>, Problem> {
        let grace = self.grace_s.map(Duration::from_secs);
        if grace.is_some_and(|grace| grace > limits::GRACE_MOST) {
            let most = limits::GRACE_MOST.as_secs();
            return Err(Problem::invalid(format!("grace_s: expected at most {most}")));
        }
        Ok(grace)
    }
}

pub(crate) async fn stop(
    caller: Caller,
    State(service): State<Service>,
    Named(word): Named,
    Params(grace): Params<Grace>,
) -> Result<Response, Problem> {
    end(&service, &caller, &word, "stop", Termination::Stop(grace.given()?)).await
}

pub(crate) async fn kill(
    caller: Caller,
    State(service): State<Service>,
    Named(word): Named,
) -> Result<Response, Problem> {
    end(&service, &caller, &word, "kill", Termination::Kill).await
}

async fn end(
    service: &Service,
    caller: &Caller,
    word: &str,
    kind: &'static str,
    ending: Termination,
) -> Result<Response, Problem> {
    let vm = meant(service, caller, word).await?;
    vm.goes_on().await.map_err(|error| Problem::conflict(error.to_string()))?;
    let tenant = vm.record().await.tenant;
    // An operator's kill is the last resort, so that no policy is asked about it.
    let asks = ending != Termination::Kill || !caller.is_operator();
    let actor = caller.actor();
    let asked = Asked { kind, caller, tenant: &tenant, idempotency: None, begun: None };
    let begun = service.operations.begin(asked, |operation| async move {
        operation.is_about(vm.id());
        if asks {
            vm.permit(Permit::Stop, actor.clone(), &Context::default()).await?;
        }
        vm.note_request(kind, &actor).await;
        vm.end(ending, &operation.context()).await?;
        Ok(())
    });
    Ok(operations::accepted(begun?))
}

pub(crate) async fn restart(
    caller: Caller,
    State(service): State<Service>,
    Named(word): Named,
    Params(grace): Params<Grace>,
) -> Result<Response, Problem> {
    let grace = grace.given()?;
    let vm = meant(&service, &caller, &word).await?;
    let (tenant, actor) = (vm.record().await.tenant, caller.actor());
    let asked =
        Asked { kind: "restart", caller: &caller, tenant: &tenant, idempotency: None, begun: None };
    let begun = service.operations.begin(asked, |operation| async move {
        operation.is_about(vm.id());
        if vm.record().await.status.state().is_final() {
            // Policies are asked about a restart as part of the new start.
            vm.start_again("restart requested", &operation.context()).await?;
            vm.note_request("restart", &actor).await;
            return Ok(());
        }
        vm.permit(Permit::Restart, actor.clone(), &Context::default()).await?;
        vm.note_request("restart", &actor).await;
        vm.restart_running(grace, &operation.context()).await?;
        Ok(())
    });
    Ok(operations::accepted(begun?))
}

pub(crate) async fn pause(
    caller: Caller,
    State(service): State<Service>,
    Named(word): Named,
) -> Result<StatusCode, Problem> {
    paused(&service, &caller, &word, true).await
}

pub(crate) async fn resume(
    caller: Caller,
    State(service): State<Service>,
    Named(word): Named,
) -> Result<StatusCode, Problem> {
    paused(&service, &caller, &word, false).await
}

async fn paused(
    service: &Service,
    caller: &Caller,
    word: &str,
    pause: bool,
) -> Result<StatusCode, Problem> {
    let request = if pause { "pause" } else { "resume" };
    let vm = permitted(service, caller, word, Permit::Pause, request).await?;
    let done = if pause { vm.pause().await } else { vm.resume().await };
    done.map_err(|error| Problem::conflict(error.to_string()))?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn remove(
    caller: Caller,
    State(service): State<Service>,
    Named(word): Named,
) -> Result<StatusCode, Problem> {
    let vm = meant(&service, &caller, &word).await?;
    if vm.goes_on().await.is_ok() {
        return Err(Problem::conflict("the VM has not ended".into()).hinting("stop it first"));
    }
    vm.note_request("remove", &caller.actor()).await;
    vm.remove().await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn stats(
    caller: Caller,
    State(service): State<Service>,
    Named(word): Named,
) -> Result<Json<Stats>, Problem> {
    let vm = meant(&service, &caller, &word).await?;
    vm.goes_on().await.map_err(|error| Problem::conflict(error.to_string()))?;
    let stats = vm.stats().await.map_err(|error| Problem::conflict(error.to_string()))?;
    Ok(Json(stats))
}

/// How much of a log.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tail {
    /// The last so many bytes: from 0 to 1048576, which is what comes unless it is given.
    #[schemars(range(min = 0, max = 1_048_576))]
    bytes: Option<u64>,
}

pub(crate) async fn logs(
    caller: Caller,
    State(service): State<Service>,
    Named(word): Named,
    Params(Tail { bytes }): Params<Tail>,
) -> Result<Response, Problem> {
    let bytes = bytes.unwrap_or(limits::LOG_BYTES);
    if bytes > limits::LOG_BYTES {
        let most = limits::LOG_BYTES;
        return Err(Problem::invalid(format!("bytes: expected at most {most}")));
    }
    let path = meant(&service, &caller, &word).await?.record().await.console_log();
    let text = read_tail(path, bytes).await?;
    // The bytes are the guest's, so that a browser must not take them for a page.
    let headers = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    Ok((headers, text).into_response())
}

/// Reads the end of a console's log.
pub(crate) async fn read_tail(path: PathBuf, bytes: u64) -> Result<Vec<u8>, Problem> {
    let read = spawn_blocking(move || tail(&path, bytes))
        .await
        .unwrap_or_else(|panicked| Err(io::Error::other(panicked)));
    read.map_err(|error| {
        let detail = format!("the console's log cannot be read: {error}");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "unreadable", detail)
    })
}

/// Reads the end of a file. A file that is not there yet counts as empty.
fn tail(path: &Path, bytes: u64) -> io::Result<Vec<u8>> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        file => file?,
    };
    let length = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(length.saturating_sub(bytes)))?;
    let mut text = vec![];
    file.take(bytes).read_to_end(&mut text)?;
    Ok(text)
}
