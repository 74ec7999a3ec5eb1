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
    kind::Kind,
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
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Usage(_)
            | Self::Config(_)
            | Self::State(_)
            | Self::Untrusted { .. }
            | Self::Log { .. } => Kind::InvalidArgument,
            Self::JobFile { .. } | Self::Job(_) => Kind::InvalidJob,
            Self::Policy(error) | Self::Trial(TrialError::Policy(error)) => error.kind(),
            Self::Trust(error) => error.kind(),
            Self::Author(AuthorError::Failed { .. } | AuthorError::Unfit { .. }) => {
                Kind::CheckFailed
            }
            Self::Author(_) | Self::Trial(_) => Kind::InvalidArgument,
            Self::SlowDecision => Kind::PolicyFailed,
            Self::QueryNotKept { .. } => Kind::Unavailable,
            Self::Image(error) => error.kind(),
            Self::Vm(error) => error.kind(),
            Self::Fingerprint(_)
            | Self::Facts(_)
            | Self::Cgroup(_)
            | Self::Turn(_)
            | Self::Runtime(_)
            | Self::Record(_)
            | Self::Cage(_) => Kind::HostUnable,
            Self::Interrupted => Kind::Cancelled,
        }
    }

    /// The exit code, by the table in [`crate::outcome`].
    pub fn exit(&self) -> Exit {
        Exit::of(self.kind())
    }

    /// The problems of a job file, where that is what it is about.
    pub fn problems(&self) -> &[Problem] {
        if let Self::Job(error) = self { error.problems() } else { &[] }
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
