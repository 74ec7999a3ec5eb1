//! Exit codes.

use serde::Serialize;

use qhost_engine::Until;
use qhost_model::kind::Kind;
use qhost_vm::{End, VmRecord};

/// The exit codes. [`Exit::ALL`] is the table that `--help` and `host/docs/exit-codes.md` have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum Exit {
    /// The VM ran and shut down; for commands other than `run`, the command did its work.
    Done = 0,
    /// A check did not hold.
    CheckFailed = 1,
    /// Wrong usage.
    Usage = 2,
    /// Job not understood.
    JobNotUnderstood = 10,
    /// Denied by policy.
    Denied = 11,
    /// A policy failed.
    PolicyFailed = 12,
    /// The image could not be fetched.
    NotFetched = 13,
    /// Checksum mismatch.
    ChecksumMismatch = 14,
    /// Image refused as unsafe.
    ImageRefused = 15,
    /// This host cannot run it.
    CannotRun = 16,
    /// The VM failed.
    VmFailed = 20,
    /// Interrupted.
    Interrupted = 130,
}

impl Exit {
    /// All exit codes, with their meanings.
    pub const ALL: [(Self, &'static str); 12] = [
        (Self::Done, "done; of run without --detach, the VM ran and shut down"),
        (
            Self::CheckFailed,
            "a check failed: build, test, lint, signature, replay, audit; or a wait timed out",
        ),
        (
            Self::Usage,
            "wrong usage: arguments, configuration, settings, or a VM, image or volume in the wrong state",
        ),
        (Self::JobNotUnderstood, "the job file was not understood"),
        (Self::Denied, "denied by a policy, or by what the host lets tenants do"),
        (Self::PolicyFailed, "a policy failed: it does not load, trapped or overran a limit"),
        (Self::NotFetched, "the image could not be fetched; of policy pull and push: the registry"),
        (Self::ChecksumMismatch, "the image's checksum is another than the job's"),
        (Self::ImageRefused, "the image was refused as unsafe"),
        (
            Self::CannotRun,
            "this host cannot run it: something is missing, taken, or the host is draining",
        ),
        (
            Self::VmFailed,
            "the VM failed; or its supervisor, or its guest's agent, does not do what it is asked",
        ),
        (Self::Interrupted, "interrupted"),
    ];

    /// The exit code of an error's kind.
    pub fn of(kind: Kind) -> Self {
        match kind {
            Kind::InvalidArgument => Self::Usage,
            Kind::InvalidJob => Self::JobNotUnderstood,
            Kind::Denied => Self::Denied,
            Kind::PolicyFailed => Self::PolicyFailed,
            Kind::Unavailable => Self::NotFetched,
            Kind::ChecksumMismatch => Self::ChecksumMismatch,
            Kind::ImageRejected => Self::ImageRefused,
            Kind::HostUnable => Self::CannotRun,
            Kind::VmFailed => Self::VmFailed,
            Kind::Cancelled => Self::Interrupted,
            Kind::CheckFailed => Self::CheckFailed,
        }
    }

    /// The exit code of a command that has followed a VM so far.
    pub fn of_vm(vm: &VmRecord, until: Until) -> Self {
        if !vm.status.state().is_final() {
            return Self::Done;
        }
        match vm.status.ended.as_ref().map(|ended| &ended.end) {
            Some(End::ShutDown) if until == Until::Ready => Self::VmFailed,
            Some(End::ShutDown) => Self::Done,
            Some(End::Stopped { .. }) => Self::Interrupted,
            Some(End::NotStarted { cannot_run: true, .. }) => Self::CannotRun,
            Some(
                End::Panicked
                | End::OutOfMemory
                | End::Unseen
                | End::Failed { .. }
                | End::NotStarted { .. },
            )
            | None => Self::VmFailed,
        }
    }

    /// The exit code as a number.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The table of exit codes, a line each.
    pub fn table() -> String {
        Self::ALL
            .iter()
            .map(|(exit, meaning)| format!("  {:>3}  {meaning}\n", exit.code()))
            .collect()
    }
}

/// The exit code of a command that may be another program's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitStatus(u8);

impl ExitStatus {
    /// The exit code of a command in a guest.
    pub fn of_guest(code: u8) -> Self {
        Self(code)
    }
}

impl From<Exit> for ExitStatus {
    fn from(exit: Exit) -> Self {
        Self(exit.code())
    }
}

impl From<ExitStatus> for std::process::ExitCode {
    fn from(ExitStatus(code): ExitStatus) -> Self {
        Self::from(code)
    }
}
