//! The tasks that the plugin was asked to run, by Nomad's ids. A task is forgotten when it is destroyed; the records of its VM stay like
//! those of every VM.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use qhost_engine::Vm;

use crate::{error::refused, proto::driver::TaskConfig};

#[derive(Default)]
pub(crate) struct Tasks(Mutex<HashMap<String, Arc<Task>>>);

/// A task that the plugin was asked to run.
pub(crate) struct Task {
    pub(crate) config: TaskConfig,
    vm: OnceLock<Vm>,
    /// A lock that is held while the task is being started.
    pub(crate) starting: tokio::sync::Mutex<()>,
    /// The token that gives up the task's start.
    pub(crate) cancel: CancellationToken,
}

impl Task {
    fn new(config: TaskConfig, cancel: CancellationToken) -> Self {
        let (vm, starting) = (OnceLock::new(), tokio::sync::Mutex::default());
        Self { config, vm, starting, cancel }
    }

    /// The task's VM, once there is one.
    pub(crate) fn vm(&self) -> Option<&Vm> {
        self.vm.get()
    }

    /// The task's VM, if it has not ended.
    pub(crate) async fn going_on(&self) -> Option<&Vm> {
        let vm = self.vm()?;
        vm.goes_on().await.is_ok().then_some(vm)
    }

    /// Sets the task's VM.
    pub(crate) fn set_vm(&self, vm: Vm) -> &Vm {
        self.vm.get_or_init(|| vm)
    }

    /// The task's VM; a task without one is refused.
    pub(crate) fn started(&self) -> Result<&Vm, Status> {
        let none = || refused(Code::FailedPrecondition, "the task has not been started yet");
        self.vm().ok_or_else(none)
    }
}

impl Tasks {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Task>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The task of an id, if the plugin knows it.
    pub(crate) fn get(&self, id: &str) -> Option<Arc<Task>> {
        self.lock().get(id).cloned()
    }

    /// The task of an id; an unknown one is refused.
    pub(crate) fn known(&self, id: &str) -> Result<Arc<Task>, Status> {
        // The text is that of Nomad's own ErrTaskNotFound.
        self.get(id).ok_or_else(|| refused(Code::NotFound, "task not found for given id"))
    }

    /// The task of an id, which is made where it is not known yet. Its start is given up at the latest when the plugin leaves.
    pub(crate) fn of(&self, config: &TaskConfig, leave: &CancellationToken) -> Arc<Task> {
        let mut tasks = self.lock();
        let new = || Arc::new(Task::new(config.clone(), leave.child_token()));
        Arc::clone(tasks.entry(config.id.clone()).or_insert_with(new))
    }

    /// Whether a task is still the one of its id.
    pub(crate) fn has(&self, task: &Arc<Task>) -> bool {
        self.get(&task.config.id).is_some_and(|known| Arc::ptr_eq(&known, task))
    }

    /// Forgets a task, unless another has taken its place.
    pub(crate) fn forget(&self, task: &Arc<Task>) {
        let mut tasks = self.lock();
        if tasks.get(&task.config.id).is_some_and(|known| Arc::ptr_eq(known, task)) {
            tasks.remove(&task.config.id);
        }
    }
}
