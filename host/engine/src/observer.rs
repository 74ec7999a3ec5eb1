//! What happens on the way of a start, and the observer that a door has for it.

use std::{path::Path, sync::Arc};

use tokio_util::sync::CancellationToken;

use qhost_image::{Progress, VerifiedImage};
use qhost_model::{digest::Sha256, job::Task, secrets::Secrets};
use qhost_policy::Decision;
use qhost_vm::{Spec, Status};

/// What happens on the way. Nothing secret of the task is in it.
#[derive(Debug)]
pub enum Observation<'a> {
    /// Other starts of the tenant are decided and launched first.
    Waiting {
        /// The tenant.
        tenant: &'a str,
    },
    /// The start has its tenant's turn: it is decided now, and launched.
    Turn,
    /// It is found out what QEMU can do here; that takes up to some seconds, once.
    Fingerprinting,
    /// A policy is compiled, which takes up to half a minute, once.
    Compiling {
        /// Its name.
        policy: &'a str,
    },
    /// The job is understood.
    Understood {
        /// What is asked for.
        task: &'a Task,
        /// What was secret of it, to be kept out of what else is shown.
        secrets: &'a Secrets,
    },
    /// It was decided; once more where the image's digest was looked up in a list of checksums.
    Decided {
        /// The decision, without secrets.
        decision: &'a Decision,
        /// The id of its record in the log of decisions; none where it is only planned.
        record: Option<Sha256>,
    },
    /// It may run, and all that it needs can be had.
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
        /// What it is run from.
        spec: &'a Spec,
        /// Its console log.
        console: &'a Path,
    },
    /// The VM's status has changed.
    Status(&'a Status),
    /// This is being done about a request to stop.
    Stopping(&'a str),
    /// A supervisor that was asked to end its VM has not answered, so that signals were sent.
    Silent {
        /// The VM's id.
        vm: &'a str,
        /// Whether QEMU was killed.
        killed: bool,
    },
}

/// Is told what happens on the way. It is called from several threads, and must not block.
pub trait Observer: Progress {
    /// Something has happened.
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
    /// Gives the order up. A VM that a supervisor has already goes on.
    pub cancel: CancellationToken,
    /// Is told what happens on the way.
    pub observer: Arc<dyn Observer>,
}

impl Context {
    /// The part of the observer that images tell.
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
