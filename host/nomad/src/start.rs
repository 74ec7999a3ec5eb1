//! The start of a task, from the agent's call to the handle that Nomad keeps.

use std::sync::Arc;

use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use qhost_engine::{Context, Termination, Until, Vm};
use qhost_model::{name::is_name, printable};
use qhost_vm::End;

use crate::{
    error::{of_engine, refused, status},
    limits,
    plugin::Plugin,
    proto::driver::{TaskConfig, TaskHandle, TaskState},
    task::{self, DriverState},
    tasks::Task,
};

/// The version of the handles that Nomad keeps.
const HANDLE_VERSION: i32 = 1;

/// Starts a task. Of several calls for one task, the first one starts it. `given_up` is cancelled when the call is
/// given up.
pub(crate) async fn start(
    plugin: &Plugin,
    config: &TaskConfig,
    given_up: &CancellationToken,
) -> Result<TaskHandle, Status> {
    loop {
        let task = plugin.tasks.of(config, plugin.leave());
        let _one = task.starting.lock().await;
        if let Some(vm) = task.vm() {
            return handle(config, vm);
        }
        // Another call's start of this task has failed meanwhile, and its entry was removed.
        if !plugin.tasks.has(&task) {
            continue;
        }
        let (cancel, call) = (task.cancel.clone(), given_up.clone());
        let following = tokio::spawn(async move {
            call.cancelled().await;
            cancel.cancel();
        });
        let started = started(plugin, &task).await;
        following.abort();
        return match started {
            Ok(vm) => handle(config, task.set_vm(vm)),
            Err(status) => {
                plugin.tasks.forget(&task);
                Err(status)
            }
        };
    }
}

async fn started(plugin: &Plugin, task: &Task) -> Result<Vm, Status> {
    let engine = plugin.engine_to_start().await?;
    let settings = plugin.settings();
    let tenant = settings.tenant(&task.config, &engine.config());
    if !is_name(&tenant) {
        let shown = printable::line(&tenant, limits::NAME_CHARS);
        let message = format!(
            "the tenant that names.tenant makes of the task is {shown}; expected a name of letters, digits, -, _ and ."
        );
        return Err(refused(Code::InvalidArgument, message));
    }
    let left_over = plugin.left_over(&engine, &task.config.id).await?;
    for vm in left_over {
        if vm.record().await.tenant == tenant {
            return Ok(vm);
        }
    }
    let (config, of) = (task.config.clone(), tenant.clone());
    let order = spawn_blocking(move || task::order(&config, &settings, &of)).await;
    let order = order.map_err(|panicked| refused(Code::Internal, panicked.to_string()))??;
    let events = Arc::new(plugin.events.of(&task.config));
    let context = Context { cancel: task.cancel.clone(), observer: events };
    let vm = engine.start(order, &context).await.map_err(|error| of_engine(&error))?;
    // A VM with a supervisor runs on, whatever becomes of the call.
    let waited = vm.wait(Until::Running, &context).await;
    let record = match waited {
        Ok(record) if !task.cancel.is_cancelled() => record,
        Ok(_) | Err(_) => {
            let ended = vm.end(Termination::Kill, &Context::default()).await;
            ended.map_err(|error| of_engine(&error))?;
            return Err(status(Code::Cancelled, "the start was given up".into(), true));
        }
    };
    match record.status.ended.map(|ended| ended.end) {
        Some(End::NotStarted { message, .. }) => Err(status(Code::Aborted, message, true)),
        Some(_) | None => Ok(vm),
    }
}

fn handle(config: &TaskConfig, vm: &Vm) -> Result<TaskHandle, Status> {
    let state = DriverState { version: DriverState::VERSION, vm: vm.id().to_owned() };
    Ok(TaskHandle {
        version: HANDLE_VERSION,
        config: Some(config.clone()),
        state: TaskState::Running.into(),
        driver_state: state.to_bytes()?,
    })
}
