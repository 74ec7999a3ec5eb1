//! Everything that can end a run but a verdict, and the exit code of each.

use std::{io, path::PathBuf};

use qhost_cage::MissingWalls;
use qhost_engine::{
    config::ConfigError, facts::FactsError, fingerprint::FingerprintError, turn::TurnError,
};
use qhost_image::ImageError;
use qhost_model::{
    digest::Sha256,
    job::{JobError, Problem, Task},
    masks::{Masks, Secrets},
};
use qhost_policy::{Decision, PolicyError, RecordError};
use qhost_sys::{state::StateDirError, trusted::Untrusted};
use qhost_vm::VmError;

use super::trust::TrustError;
use crate::{
    author::AuthorError,
    outcome::{ErrorReport, Exit, Report},
    trial::TrialError,
};

/// Why a run ended before it was done.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Arguments that do not go together.
    #[error("{0}")]
    Usage(String),
    /// The host's configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The state folder.
    #[error(transparent)]
    State(#[from] StateDirError),
    /// A file that others can change.
    #[error("{what} cannot be relied upon")]
    Untrusted {
        /// What names it.
        what: String,
        /// Why.
        source: Untrusted,
    },
    /// The image is not stored any more, and what is kept of its source does not lead to it.
    #[error(
        "the image sha256:{sha256} is not in the store any more, and of its source {source_url} the query was not kept, as it may be a secret; run the job again"
    )]
    QueryNotKept {
        /// The image.
        sha256: Sha256,
        /// The URL, without its query.
        source_url: String,
    },
    /// The job file cannot be read.
    #[error("cannot read the job file {}", path.display())]
    JobFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The job file is not understood.
    #[error(transparent)]
    Job(#[from] JobError),
    /// A policy.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// QEMU or the host.
    #[error(transparent)]
    Fingerprint(#[from] FingerprintError),
    /// The host's own facts.
    #[error(transparent)]
    Facts(#[from] FactsError),
    /// A policy's project.
    #[error(transparent)]
    Author(#[from] AuthorError),
    /// Keys, signatures, registries, locks.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// A policy that is tried out.
    #[error(transparent)]
    Trial(#[from] TrialError),
    /// The log of decisions.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A log of decisions that was named cannot be read.
    #[error("cannot read the log of decisions {}", path.display())]
    Log {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The policies together took too long.
    #[error("loading and asking the policies took longer than {} s", qhost_policy::limits::DECISION.as_secs())]
    SlowDecision,
    /// The image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The VM.
    #[error(transparent)]
    Vm(#[from] VmError),
    /// What VMs are to be kept in.
    #[error(transparent)]
    Cage(#[from] MissingWalls),
    /// The group of the tenant's commands.
    #[error("cannot do this in the tenant's cgroup")]
    Cgroup(#[source] io::Error),
    /// The tenant's turn.
    #[error(transparent)]
    Turn(#[from] TurnError),
    /// The process itself cannot work.
    #[error("cannot set up this process")]
    Runtime(#[source] io::Error),
    /// Stopped by a signal before the guest ran.
    #[error("interrupted before the guest ran")]
    Interrupted,
}

impl RunError {
    /// The exit code, by the table in [`crate::outcome`].
    pub fn exit(&self) -> Exit {
        match self {
            Self::Usage(_)
            | Self::Config(_)
            | Self::State(_)
            | Self::Untrusted { .. }
            | Self::Log { .. } => Exit::Usage,
            Self::JobFile { .. } | Self::Job(_) => Exit::JobNotUnderstood,
            Self::Policy(PolicyError::Settings { .. }) => Exit::Usage,
            Self::Trial(TrialError::Policy(error)) if !error.is_about_settings() => {
                Exit::PolicyFailed
            }
            Self::Trust(error) => error.exit(),
            Self::Author(AuthorError::Failed { .. } | AuthorError::Unfit { .. }) => {
                Exit::CheckFailed
            }
            Self::Author(_) | Self::Trial(_) => Exit::Usage,
            Self::Policy(_) | Self::SlowDecision => Exit::PolicyFailed,
            Self::Fingerprint(_)
            | Self::Facts(_)
            | Self::Cgroup(_)
            | Self::Turn(_)
            | Self::Runtime(_)
            | Self::Record(_)
            | Self::Cage(_) => Exit::CannotRun,
            Self::Image(error) => image_exit(error),
            Self::QueryNotKept { .. } => Exit::NotFetched,
            Self::Vm(VmError::Quota { is_hosts: false, .. }) => Exit::Denied,
            Self::Vm(
                VmError::NoOverlay(_) | VmError::Unknown { .. } | VmError::Ambiguous { .. },
            ) => Exit::Usage,
            Self::Vm(VmError::Interrupted) | Self::Interrupted => Exit::Interrupted,
            Self::Vm(VmError::Start { .. } | VmError::Control(_) | VmError::NoGreeting) => {
                Exit::VmFailed
            }
            Self::Vm(
                VmError::PortTaken { .. }
                | VmError::Port { .. }
                | VmError::NoFreePort { .. }
                | VmError::Folder { .. }
                | VmError::OverlayHeld { .. }
                | VmError::OverlayUnfit { .. }
                | VmError::GoesOn { .. }
                | VmError::Quota { .. }
                | VmError::HasEnded { .. }
                | VmError::Stays { .. }
                | VmError::Supervisor { .. }
                | VmError::Runtime(_)
                | VmError::Unseen
                | VmError::Cage { .. }
                | VmError::Refused { .. }
                | VmError::Spawn { .. },
            ) => Exit::CannotRun,
        }
    }

    /// The problems of a job file, where that is what it is about.
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::Job(error) => error.problems(),
            Self::Usage(_)
            | Self::Config(_)
            | Self::State(_)
            | Self::Untrusted { .. }
            | Self::QueryNotKept { .. }
            | Self::JobFile { .. }
            | Self::Policy(_)
            | Self::Fingerprint(_)
            | Self::Facts(_)
            | Self::Record(_)
            | Self::Author(_)
            | Self::Trust(_)
            | Self::Trial(_)
            | Self::Log { .. }
            | Self::SlowDecision
            | Self::Image(_)
            | Self::Vm(_)
            | Self::Cage(_)
            | Self::Cgroup(_)
            | Self::Turn(_)
            | Self::Runtime(_)
            | Self::Interrupted => &[],
        }
    }
}

fn image_exit(error: &ImageError) -> Exit {
    match error {
        ImageError::Fetch { .. } | ImageError::Sums { .. } => Exit::NotFetched,
        ImageError::Mismatch { .. } => Exit::ChecksumMismatch,
        ImageError::Unsafe { .. } | ImageError::UnsafeFile { .. } => Exit::ImageRefused,
        ImageError::Configured { .. } | ImageError::NotStored(_) => Exit::Usage,
        ImageError::Quota { is_hosts: false, .. } => Exit::Denied,
        ImageError::Quota { .. }
        | ImageError::InUse { .. }
        | ImageError::Waited { .. }
        | ImageError::Client { .. }
        | ImageError::NoSpace { .. }
        | ImageError::Store { .. } => Exit::CannotRun,
        // What a source served counts for more than that another served nothing.
        ImageError::NoSource(errors) => {
            let exits: Vec<_> = errors.iter().map(image_exit).collect();
            let worst = [Exit::ChecksumMismatch, Exit::ImageRefused, Exit::NotFetched];
            worst.into_iter().find(|exit| exits.contains(exit)).unwrap_or(Exit::CannotRun)
        }
    }
}

impl Report {
    /// A report of nothing yet.
    pub(super) fn new() -> Self {
        Self {
            outcome: Exit::Done,
            exit_code: Exit::Done.code(),
            task: None,
            secrets: Secrets::default(),
            decision: None,
            image_allow: vec![],
            image: None,
            vm: None,
            error: None,
        }
    }

    /// Takes a task in, without its secrets.
    pub(super) fn task(&mut self, task: Option<Task>) {
        self.task = task.map(|mut task| {
            self.secrets = Masks::default().mask(&mut task);
            task
        });
    }

    /// Takes a decision about it in.
    pub(super) fn decision(&mut self, decision: &Decision) {
        self.decision = Some(self.masked(decision));
    }

    /// A decision without the task's secrets.
    pub(super) fn masked(&self, decision: &Decision) -> Decision {
        qhost_policy::masked(&self.secrets, decision.clone())
    }

    /// Takes an error in.
    pub(super) fn fail(&mut self, error: &RunError) -> Exit {
        let ErrorReport { message, causes, problems } = ErrorReport::new(error, error.problems());
        let without = |text: String| self.secrets.without(&text);
        let causes = causes.into_iter().map(without).collect();
        self.error = Some(ErrorReport { message: without(message), causes, problems });
        error.exit()
    }

    /// Says how it ended.
    pub(super) fn finish(&mut self, exit: Exit) {
        self.outcome = exit;
        self.exit_code = exit.code();
    }
}
