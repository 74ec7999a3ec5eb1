//! The errors of orders that the engine did not carry out. Each room's error says its kind; the error that a door gets has no secret of a
//! task in it.

use std::{fmt, io};

use qhost_cage::MissingMechanisms;
use qhost_image::{ImageError, volumes::VolumeError};
use qhost_model::{
    digest::FileDigest,
    job::{JobError, Problem},
    kind::Kind,
    launch::{Change, DiskName},
    secrets::Secrets,
};
use qhost_policy::{Decision, PolicyError, RecordError};
use qhost_sys::trusted::Untrusted;
use qhost_vm::VmError;

use crate::{
    config::UnknownTenant, facts::FactsError, fingerprint::FingerprintError,
    firmware::FirmwareUnfit, tokens::TokenError, turn::TurnError,
};

/// The reason why an order was not carried out. The error's `Display` says its own layer, and its sources are the causes.
#[derive(Debug)]
pub struct EngineError {
    kind: Kind,
    message: String,
    cause: Option<Box<Cause>>,
    problems: Vec<Problem>,
    verdict: Option<Box<Decision>>,
    refused_by: Option<Box<str>>,
    settings_of: Option<Box<str>>,
    hint: Option<Box<str>>,
}

/// A cause, with its own cause.
#[derive(Debug)]
struct Cause {
    message: String,
    cause: Option<Box<Self>>,
}

impl EngineError {
    /// The error's kind, which a door turns into an exit code, a status or a gRPC code.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The problems of the job file, if the error is about it.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// What refused the order, by the name that goes behind "refused by": a policy, a quota, the host's ports, the image's checksum.
    pub fn refused_by(&self) -> Option<&str> {
        self.refused_by.as_deref()
    }

    /// The policy that does not accept its settings, if that is the error.
    pub fn settings_of(&self) -> Option<&str> {
        self.settings_of.as_deref()
    }

    /// What the operator can do about the error, if the message does not say it.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Adds what the operator can do about the error.
    pub(crate) fn hinting(self, hint: Option<String>) -> Self {
        Self { hint: hint.map(Into::into), ..self }
    }

    /// The decision, if it is the error: policies, or the host's rules, refuse the task, or this host cannot run what they allow.
    pub fn verdict(&self) -> Option<&Decision> {
        self.verdict.as_deref()
    }
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for EngineError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.as_deref().map(|cause| cause as _)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Cause {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.as_deref().map(|cause| cause as _)
    }
}

/// Each failure that can end an order, as its room says it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Tenant(#[from] UnknownTenant),
    /// The parts of an order do not go together.
    #[error("{0}")]
    Usage(String),
    #[error("{what} cannot be relied upon")]
    Untrusted { what: String, source: Untrusted },
    #[error(transparent)]
    Job(#[from] JobError),
    #[error(transparent)]
    Policy(#[from] PolicyError),
    #[error("loading and asking the policies took longer than {} s", qhost_policy::limits::DECISION.as_secs())]
    SlowDecision,
    #[error("{}", refused(.0))]
    Denied(Box<Decision>),
    #[error("it would be allowed, but this host cannot run it")]
    CannotRun(Box<Decision>),
    /// A part of a VM's job was masked, and policies may need it.
    #[error(
        "of its job, {place} was not kept, as it may be a secret, and policies may go by it; run the job again"
    )]
    NotKept { place: String },
    /// A VM that was to be started again would not get what it had.
    #[error(
        "the policies would now launch this VM differently: {}; to accept that, run its job again",
        qhost_model::launch::listed(changes)
    )]
    LaunchDiffers { changes: Vec<Change> },
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error(transparent)]
    Fingerprint(#[from] FingerprintError),
    #[error(transparent)]
    Facts(#[from] FactsError),
    #[error(transparent)]
    Turn(#[from] TurnError),
    #[error(transparent)]
    Cage(#[from] MissingMechanisms),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// A disk of a task's cannot be attached.
    #[error("cannot attach the task's disk {disk}")]
    Disk { disk: DiskName, source: VolumeError },
    #[error(transparent)]
    Firmware(#[from] FirmwareUnfit),
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The image of a VM that is to be started again is not stored any more, and its record does not lead to it.
    #[error(
        "the image {digest} is not in the store any more, and of its source {source_url} the query was not kept, as it may be a secret; run the job again"
    )]
    QueryNotKept { digest: FileDigest, source_url: String },
    #[error(transparent)]
    Vm(#[from] VmError),
    #[error("cannot set up this process")]
    Runtime(#[source] io::Error),
    #[error("interrupted before the guest ran")]
    Cancelled,
}

fn refused(decision: &Decision) -> String {
    format!("refused by {}", decision.refused_by().join(", "))
}

impl Failure {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Tenant(_) | Self::Usage(_) | Self::Untrusted { .. } => Kind::InvalidArgument,
            Self::Job(_) => Kind::InvalidJob,
            Self::Policy(error) => error.kind(),
            Self::SlowDecision => Kind::PolicyFailed,
            Self::Denied(_) | Self::LaunchDiffers { .. } => Kind::Denied,
            Self::QueryNotKept { .. } => Kind::Unavailable,
            Self::Image(error) => error.kind(),
            Self::Vm(error) => error.kind(),
            Self::Volume(error) => error.kind(),
            Self::Token(error) => error.kind(),
            Self::CannotRun(_)
            | Self::Disk { .. }
            | Self::Firmware(_)
            | Self::NotKept { .. }
            | Self::Record(_)
            | Self::Fingerprint(_)
            | Self::Facts(_)
            | Self::Turn(_)
            | Self::Cage(_)
            | Self::Runtime(_) => Kind::HostUnable,
            Self::Cancelled => Kind::Cancelled,
        }
    }

    /// The failure's message and its causes, in a line.
    pub(crate) fn in_a_line(&self) -> String {
        let causes = std::iter::successors(std::error::Error::source(self), |cause| cause.source());
        causes.fold(self.to_string(), |text, cause| format!("{text}: {cause}"))
    }

    /// Makes the error that a door gets, without the secrets of the task that the failure is about.
    pub(crate) fn without(self, secrets: &Secrets) -> EngineError {
        let messages = std::iter::successors(std::error::Error::source(&self), |it| it.source());
        let mut messages: Vec<_> =
            messages.map(|cause| secrets.without(&cause.to_string())).collect();
        let mut cause = None;
        while let Some(message) = messages.pop() {
            cause = Some(Box::new(Cause { message, cause }));
        }
        let (kind, message) = (self.kind(), secrets.without(&self.to_string()));
        let problems =
            if let Self::Job(error) = &self { error.problems().to_vec() } else { vec![] };
        let refused_by = self.refused_by().map(Into::into);
        let settings_of = if let Self::Policy(PolicyError::Settings { name, .. }) = &self {
            Some(name.as_str().into())
        } else {
            None
        };
        let verdict = if let Self::Denied(decision) | Self::CannotRun(decision) = self {
            Some(Box::new(qhost_policy::masked(secrets, *decision)))
        } else {
            None
        };
        EngineError { kind, message, cause, problems, verdict, refused_by, settings_of, hint: None }
    }
}

impl<E: Into<Failure>> From<E> for EngineError {
    fn from(error: E) -> Self {
        error.into().without(&Secrets::default())
    }
}
