//! One operation, and its progress for clients that watch it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use qhost_engine::{Context, Observation, Observer};
use qhost_image::{Progress, Step};

use crate::{
    problem::Problem,
    start_record::{Done, StartRecord},
};

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
    /// What it does: `start`, `stop`, `kill`, `restart`, `copy-volume`, `fetch-image`.
    kind: &'static str,
    /// Whose it is; of an operator's own, empty.
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
    /// Whether it goes on also where the service is killed.
    #[serde(skip)]
    is_kept: bool,
}

/// An operation under way, or one that is over.
pub(crate) struct Operation {
    pub(crate) tenant: String,
    status: watch::Sender<OperationStatus>,
    cancel: CancellationToken,
    /// Whether a client has given up the operation.
    is_given_up: AtomicBool,
}

impl OperationStatus {
    pub(crate) fn is_over(&self) -> bool {
        self.state != OperationState::Running
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// The result of the operation, for a file.
    pub(crate) fn done(&self) -> Done {
        let (vm, decision) = (self.vm.clone(), self.decision.clone());
        Done { vm, decision, ended_at: Timestamp::now() }
    }

    /// The reason why the operation was not even written down.
    pub(crate) fn not_kept(&self) -> Option<Problem> {
        self.error.clone().filter(|_| !self.is_kept)
    }
}

impl Operation {
    /// Makes an operation that begins.
    pub(crate) fn begun(
        begun: Begun,
        kind: &'static str,
        tenant: &str,
        actor: String,
        cancel: CancellationToken,
    ) -> Arc<Self> {
        Self::of(
            OperationStatus {
                id: begun.id,
                kind,
                tenant: tenant.to_owned(),
                actor,
                state: OperationState::Running,
                step: None,
                vm: None,
                decision: None,
                began_at: begun.at,
                ended_at: None,
                error: None,
                is_kept: false,
            },
            cancel,
        )
    }

    /// Makes the operation of a start that was done before this service began; none if the start was not done.
    pub(crate) fn done(accepted: StartRecord, cancel: CancellationToken) -> Option<Arc<Self>> {
        let Done { vm, decision, ended_at } = accepted.done?;
        let status = OperationStatus {
            id: accepted.id,
            kind: "start",
            tenant: accepted.tenant,
            actor: accepted.caller.name,
            state: OperationState::Succeeded,
            step: None,
            vm,
            decision,
            began_at: accepted.began_at,
            ended_at: Some(ended_at),
            error: None,
            is_kept: true,
        };
        Some(Self::of(status, cancel))
    }

    fn of(status: OperationStatus, cancel: CancellationToken) -> Arc<Self> {
        let tenant = status.tenant.clone();
        let (status, is_given_up) = (watch::Sender::new(status), AtomicBool::new(false));
        Arc::new(Self { tenant, status, cancel, is_given_up })
    }

    /// Gives up the operation for a client.
    pub(crate) fn give_up(&self) {
        self.is_given_up.store(true, Ordering::Relaxed);
        self.cancel.cancel();
    }

    pub(crate) fn is_over(&self) -> bool {
        self.status.borrow().is_over()
    }

    pub(crate) fn status(&self) -> OperationStatus {
        self.status.borrow().clone()
    }

    /// The operation's status, and each change of it.
    pub(crate) fn changes(&self) -> watch::Receiver<OperationStatus> {
        self.status.subscribe()
    }

    /// The context of the operation's work: it cancels the work, and observes it.
    pub(crate) fn context(self: &Arc<Self>) -> Context {
        Context { cancel: self.cancel.clone(), observer: Arc::new(Told(Arc::clone(self))) }
    }

    pub(crate) fn is_about(&self, vm: &str) {
        self.status.send_modify(|status| status.vm = Some(vm.to_owned()));
    }

    pub(crate) fn does(&self, step: &str) {
        self.status.send_modify(|status| status.step = Some(step.to_owned()));
    }

    /// Marks the operation as written down.
    pub(crate) fn mark_kept(&self) {
        self.status.send_modify(|status| status.is_kept = true);
    }

    /// Waits until the operation is written down, or could not be.
    pub(crate) async fn kept(&self) -> OperationStatus {
        let mut changes = self.status.subscribe();
        // The sender is this operation's own, so that it is not closed meanwhile.
        let _closed = changes.wait_for(|status| status.is_kept || status.is_over()).await;
        self.status()
    }

    /// Whether a client has given up the operation.
    pub(crate) fn is_given_up(&self) -> bool {
        self.is_given_up.load(Ordering::Relaxed)
    }

    pub(crate) fn end(&self, done: Result<(), Problem>) {
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

/// The id and the beginning of an operation that has them before it begins here.
pub(crate) struct Begun {
    pub(crate) id: String,
    pub(crate) at: Timestamp,
}
