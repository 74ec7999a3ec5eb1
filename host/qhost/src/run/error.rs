//! Everything that can end a run but a verdict, and the exit code of each.

use std::{io, path::PathBuf};

use qhost_engine::{config::ConfigError, facts::FactsError, fingerprint::FingerprintError};
use qhost_image::ImageError;
use qhost_model::{job::Problem, kind::Kind};
use qhost_policy::{Decision, PolicyError};
use qhost_sys::state::StateDirError;
use qhost_vm::VmError;

use super::trust::TrustError;
use crate::{
    author::AuthorError,
    client::{self, ClientError},
    exit::Exit,
    outcome::{ErrorReport, Report},
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
    /// What the engine did not do.
    #[error(transparent)]
    Engine(#[from] qhost_engine::EngineError),
    /// The state folder.
    #[error(transparent)]
    State(#[from] StateDirError),
    /// The job file cannot be read.
    #[error("cannot read the job file {}", path.display())]
    JobFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
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
    /// A log of decisions that was named cannot be read.
    #[error("cannot read the log of decisions {}", path.display())]
    Log {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The VM.
    #[error(transparent)]
    Vm(#[from] VmError),
    /// The group of the tenant's commands.
    #[error("cannot do this in the tenant's cgroup")]
    Cgroup(#[source] io::Error),
    /// The process itself cannot work.
    #[error("cannot set up this process")]
    Runtime(#[source] io::Error),
    /// Another host's service.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Stopped by a signal before the guest ran.
    #[error("interrupted before the guest ran")]
    Interrupted,
}

impl RunError {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Engine(error) => error.kind(),
            Self::Usage(_) | Self::Config(_) | Self::State(_) | Self::Log { .. } => {
                Kind::InvalidArgument
            }
            Self::JobFile { .. } => Kind::InvalidJob,
            Self::Policy(error) | Self::Trial(TrialError::Policy(error)) => error.kind(),
            Self::Trial(TrialError::InCase { source, .. }) => source.kind(),
            Self::Trust(error) => error.kind(),
            Self::Author(
                AuthorError::Failed { .. }
                | AuthorError::Compile { .. }
                | AuthorError::Unfit { .. },
            ) => Kind::CheckFailed,
            Self::Author(_) | Self::Trial(_) => Kind::InvalidArgument,
            Self::Image(error) => error.kind(),
            Self::Vm(error) => error.kind(),
            Self::Fingerprint(_) | Self::Facts(_) | Self::Cgroup(_) | Self::Runtime(_) => {
                Kind::HostUnable
            }
            Self::Client(error) => error.kind(),
            Self::Interrupted => Kind::Cancelled,
        }
    }

    /// The exit code, by the table in [`crate::outcome`].
    pub fn exit(&self) -> Exit {
        Exit::of(self.kind())
    }

    /// What refused an order.
    pub fn refused_by(&self) -> Option<String> {
        if let Self::Engine(error) = self {
            error.refused_by().map(str::to_owned)
        } else {
            self.problem().and_then(|problem| problem.refused_by.clone())
        }
    }

    /// The decision, where that is why.
    pub fn verdict(&self) -> Option<&Decision> {
        if let Self::Engine(error) = self {
            error.verdict()
        } else {
            self.problem().and_then(|problem| problem.decision.as_deref())
        }
    }

    /// What to do about it, where the error itself does not know that.
    pub fn hint(&self) -> Option<String> {
        let how = |name: &str| {
            format!(
                "give them with --policy-settings {name}=FILE or {name}='{{…}}', or in the configuration as settings of policies.{name}"
            )
        };
        if let Self::Engine(error) = self {
            error.settings_of().map(how).or(error.hint().map(str::to_owned))
        } else if let Self::Policy(PolicyError::Settings { name, .. }) = self {
            Some(how(name))
        } else if let Self::Client(error) = self {
            error.hint()
        } else {
            None
        }
    }

    /// The problems of a job file, where that is what it is about.
    pub fn problems(&self) -> &[Problem] {
        if let Self::Engine(error) = self {
            error.problems()
        } else {
            self.problem().map(|problem| problem.problems.as_slice()).unwrap_or_default()
        }
    }

    /// What another host's service said, where it said something.
    fn problem(&self) -> Option<&client::Problem> {
        if let Self::Client(error) = self { error.problem() } else { None }
    }
}

impl From<&RunError> for ErrorReport {
    fn from(error: &RunError) -> Self {
        let mut shown = Self::new(error, error.problems());
        if let Some(problem) = error.problem() {
            shown.causes.clone_from(&problem.causes);
        }
        Self { hint: error.hint(), refused_by: error.refused_by(), ..shown }
    }
}

impl Report {
    /// A report of nothing yet.
    pub(super) fn new() -> Self {
        Self {
            outcome: Exit::Done,
            exit_code: Exit::Done.code(),
            task: None,
            decision: None,
            image_allow: vec![],
            image: None,
            vm: None,
            error: None,
        }
    }

    /// Takes an error in. A decision against the task is no error beside it.
    pub(super) fn fail(&mut self, error: &RunError) -> Exit {
        if error.verdict().is_none() {
            self.error = Some(error.into());
        }
        error.exit()
    }

    /// Says how it ended.
    pub(super) fn finish(&mut self, exit: Exit) {
        self.outcome = exit;
        self.exit_code = exit.code();
    }
}
