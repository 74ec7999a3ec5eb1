//! The records of an order that was understood and refused: an event that says by what and why, and, if policies had allowed the order, a
//! record in the log of decisions, which would otherwise show it as launched.

use jiff::Timestamp;

use qhost_cage::MissingMechanisms;
use qhost_image::ImageError;
use qhost_model::{job::Task, secrets::Secrets};
use qhost_policy::{Decision, Input, NotLaunched, Occasion, Record};
use qhost_vm::{Event, VmError};

use crate::{
    doctor,
    engine::{Engine, blocking},
    error::{EngineError, Failure},
    generation::Generation,
};

/// An order, as far as it was understood.
#[derive(Default)]
pub(crate) struct Understood {
    /// The task that is asked for, without its secrets.
    pub(crate) task: Option<Task>,
    /// The task's secrets.
    pub(crate) secrets: Secrets,
    /// The decision, once policies and the host's rules had allowed it.
    pub(crate) allowed: Option<Decision>,
}

impl Understood {
    /// Records why the order was not launched. A record that cannot be written is logged, and the order ends with its own error.
    pub(crate) async fn refused(
        &self,
        engine: &Engine,
        generation: &Generation,
        failure: &Failure,
    ) {
        let (Some(task), Some(by)) = (self.task.clone(), failure.refused_by()) else { return };
        let reason = self.secrets.without(&failure.in_a_line());
        let (state, journal) = (engine.state().clone(), generation.journal(engine.state()));
        let (rules, masks) = (generation.config.rules(), generation.masks());
        let allowed = self.allowed.clone();
        let written = blocking(move || {
            Event::refused(&task, &by, &reason).append(state.path());
            if let Some(decision) = allowed {
                let input = Input {
                    task,
                    host: None,
                    rules,
                    time: Timestamp::now(),
                    occasion: Occasion::Launch,
                };
                let why = NotLaunched { by, reason };
                journal.append(&Record::not_launched(input, decision, why, &masks))?;
            }
            Ok(())
        });
        if let Err(error) = written.await {
            let error = error.in_a_line();
            tracing::warn!(%error, "why a task was not launched is not in the log of decisions");
        }
    }
}

impl Understood {
    /// Makes the error that a door gets from a failure, with what the operator can do about it.
    pub(crate) fn error(&self, generation: &Generation, failure: Failure) -> EngineError {
        let may_be_left_out = matches!(
            failure,
            Failure::Cage(MissingMechanisms::Mechanisms { may_be_left_out: true, .. })
        );
        let hint = may_be_left_out.then(|| doctor::leave_out(&generation.config));
        failure.without(&self.secrets).hinting(hint)
    }
}

impl Failure {
    /// Names what refuses an order, as it goes behind "refused by"; absent where the order was given up, or was not understood.
    pub(crate) fn refused_by(&self) -> Option<String> {
        let by = match self {
            Self::Tenant(_)
            | Self::Usage(_)
            | Self::Untrusted { .. }
            | Self::Job(_)
            | Self::Token(_)
            | Self::Cancelled => {
                return None;
            }
            Self::Denied(decision) | Self::CannotRun(decision) => {
                let names = decision.refused_by();
                return Some(if names.is_empty() { HOST.into() } else { names.join(", ") });
            }
            Self::Vm(VmError::Quota { key, .. }) | Self::Image(ImageError::Quota { key, .. }) => {
                return Some(key.clone());
            }
            Self::Policy(_) | Self::SlowDecision => "a policy that failed",
            Self::LaunchDiffers { .. } => "a launch that would differ",
            Self::Turn(_) => "its tenant's other starts",
            Self::Cage(_) => "the host's cage",
            Self::Image(error) => match error {
                ImageError::Mismatch(_) => "the image's checksum",
                ImageError::Unsafe { .. } | ImageError::UnsafeFile { .. } => {
                    "the image's inspection"
                }
                ImageError::NoSpace { .. } | ImageError::Store { .. } => "the image store",
                ImageError::Fetch { .. }
                | ImageError::NoSource(_)
                | ImageError::Sums { .. }
                | ImageError::Waited { .. }
                | ImageError::Configured { .. }
                | ImageError::Client { .. }
                | ImageError::Quota { .. }
                | ImageError::File { .. }
                | ImageError::InUse { .. }
                | ImageError::NotStored(_) => "the image's fetch",
            },
            Self::QueryNotKept { .. } => "the image's fetch",
            Self::Vm(
                VmError::PortTaken { .. } | VmError::Port { .. } | VmError::NoFreePort { .. },
            ) => "the host's ports",
            Self::Vm(VmError::Draining { .. }) => "the drain of this host",
            Self::Vm(
                VmError::OverlayHeld { .. }
                | VmError::OverlayUnfit { .. }
                | VmError::VariablesUnfit { .. },
            ) => "the task's kept overlay",
            Self::Volume(_) | Self::Disk { .. } => "the tenant's volume",
            Self::Vm(_)
            | Self::Firmware(_)
            | Self::NotKept { .. }
            | Self::Record(_)
            | Self::Fingerprint(_)
            | Self::Facts(_)
            | Self::Runtime(_) => HOST,
        };
        Some(by.to_owned())
    }
}

const HOST: &str = "this host";
