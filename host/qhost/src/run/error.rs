//! Every error that can end a run, and the exit code of each. A verdict is no error.

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
    /// The host's configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The engine refused, or failed.
    #[error(transparent)]
    Engine(#[from] qhost_engine::EngineError),
    /// The state folder cannot be used.
    #[error(transparent)]
    State(#[from] StateDirError),
    /// The job file cannot be read.
    #[error("cannot read the job file {}", path.display())]
    JobFile {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A policy cannot be used.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// QEMU or the host cannot be used.
    #[error(transparent)]
    Fingerprint(#[from] FingerprintError),
    /// The host's own facts cannot be read.
    #[error(transparent)]
    Facts(#[from] FactsError),
    /// A policy's project cannot be made or built.
    #[error(transparent)]
    Author(#[from] AuthorError),
    /// A key, signature, registry or lock file failed.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// A trial of a policy failed.
    #[error(transparent)]
    Trial(#[from] TrialError),
    /// A log of decisions that was named cannot be read.
    #[error("cannot read the log of decisions {}", path.display())]
    Log {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The image cannot be used.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The VM failed.
    #[error(transparent)]
    Vm(#[from] VmError),
    /// The cgroup of the tenant's commands cannot be used.
    #[error("cannot do this in the tenant's cgroup")]
    Cgroup(#[source] io::Error),
    /// The process itself cannot work.
    #[error("cannot set up this process")]
    Runtime(#[source] io::Error),
    /// Another host's service refused, or failed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A signal stopped the run before the guest ran.
    #[error("interrupted before the guest ran")]
    Interrupted,
}

impl RunError {
    /// The error's kind.
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

    /// The exit code of the error's kind.
    pub fn exit(&self) -> Exit {
        Exit::of(self.kind())
    }

    /// The part of the host that refused an order.
    pub fn refused_by(&self) -> Option<String> {
        if let Self::Engine(error) = self {
            error.refused_by().map(str::to_owned)
        } else {
            self.problem().and_then(|problem| problem.refused_by.clone())
        }
    }

    /// The decision, if it is the reason.
    pub fn verdict(&self) -> Option<&Decision> {
        if let Self::Engine(error) = self {
            error.verdict()
        } else {
            self.problem().and_then(|problem| problem.decision.as_deref())
        }
    }

    /// What to do about the error, if the error itself does not know that.
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

    /// The problems of a job file, if the error is about one.
    pub fn problems(&self) -> &[Problem] {
        if let Self::Engine(error) = self {
            error.problems()
        } else {
            self.problem().map(|problem| problem.problems.as_slice()).unwrap_or_default()
        }
    }

    /// The problem that another host's service answered, if it answered one.
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
    /// Makes an empty report.
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

    /// Adds an error to the report. A decision against the task is no error beside it.
    pub(super) fn fail(&mut self, error: &RunError) -> Exit {
        if error.verdict().is_none() {
            self.error = Some(error.into());
        }
        error.exit()
    }

    /// Records how the command ended.
    pub(super) fn finish(&mut self, exit: Exit) {
        self.outcome = exit;
        self.exit_code = exit.code();
    }
}
