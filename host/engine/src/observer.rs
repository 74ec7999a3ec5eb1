//! Observations of a start's progress, and the observer by which a door gets them.

use std::{path::Path, sync::Arc};

use tokio_util::sync::CancellationToken;

use qhost_image::{Progress, VerifiedImage};
use qhost_model::{digest::Sha256, job::Task, secrets::Secrets};
use qhost_policy::Decision;
use qhost_vm::{Spec, Status};

/// An observation of a start's progress. It has no secret of the task's.
#[derive(Debug)]
pub enum Observation<'a> {
    /// Other starts of the tenant are decided and launched first.
    Waiting {
        /// The tenant.
        tenant: &'a str,
    },
    /// The start has its tenant's turn: it is decided now, and launched.
    Turn,
    /// QEMU's fingerprint is being taken, which takes up to some seconds, once.
    Fingerprinting,
    /// A policy is compiled, which takes up to half a minute, once.
    Compiling {
        /// The policy's name.
        policy: &'a str,
    },
    /// The job is understood.
    Understood {
        /// The task that is asked for.
        task: &'a Task,
        /// The task's secrets, which are to be kept out of all other output.
        secrets: &'a Secrets,
    },
    /// The task was decided; this comes once more after the image's digest was looked up in a list of checksums.
    Decided {
        /// The decision, without secrets.
        decision: &'a Decision,
        /// The id of the decision's record in the log; absent where the task is only planned.
        record: Option<Sha256>,
    },
    /// The task may run. What it needs is reserved next.
    Allowed(&'a Decision),
    /// A folder was made for the VM, and what it takes is reserved.
    Admitted {
        /// The VM's id.
        vm: &'a str,
    },
    /// The image is in the store, and has the digest that was asked for.
    Verified(&'a VerifiedImage),
    /// A supervisor has the VM now.
    Launched {
        /// The spec that the VM is run from.
        spec: &'a Spec,
        /// The VM's console log.
        console: &'a Path,
    },
    /// The VM's status has changed.
    Status(&'a Status),
    /// A step by which a request to stop is carried out.
    Stopping(&'a str),
    /// A supervisor that was asked to end its VM has not answered, so that signals were sent.
    Silent {
        /// The VM's id.
        vm: &'a str,
        /// Whether QEMU was killed.
        killed: bool,
    },
}

/// An observer of a start's progress. It is called from several threads, and must not block.
pub trait Observer: Progress {
    /// Takes an observation.
    fn observe(&self, observation: Observation<'_>);
}

/// An observer that does nothing.
#[derive(Debug, Clone, Copy)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn observe(&self, _: Observation<'_>) {}
}

impl Progress for Unobserved {}

/// What a door gives along with an order.
#[derive(Clone)]
pub struct Context {
    /// The token by which the order is given up. A VM that has its supervisor already goes on.
    pub cancel: CancellationToken,
    /// The observer of the order's progress.
    pub observer: Arc<dyn Observer>,
}

impl Context {
    /// The observer, as far as it is told of downloads.
    pub(crate) fn progress(&self) -> &dyn Progress {
        &*self.observer
    }
}

impl Default for Context {
    /// An order that is not given up, and that is not observed.
    fn default() -> Self {
        Self { cancel: CancellationToken::new(), observer: Arc::new(Unobserved) }
    }
}
