//! Kinds of errors, from which a door makes its own answer: an exit code, a status or a gRPC code.

/// A kind of error. The errors of each crate say their kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Arguments, configuration or settings that cannot be used, or a VM or image in the wrong state.
    InvalidArgument,
    /// The job is not understood.
    InvalidJob,
    /// A policy, or a rule on what the host lets tenants do, refuses the task or operation.
    Denied,
    /// A policy does not load, trapped, overran a limit or answered nonsense.
    PolicyFailed,
    /// The image, or a policy from a registry, could not be fetched.
    Unavailable,
    /// The image has another digest than it must have.
    ChecksumMismatch,
    /// The image is one that QEMU is not given.
    ImageRejected,
    /// This host cannot run the task or do the operation.
    HostUnable,
    /// QEMU or the guest failed.
    VmFailed,
    /// The work was given up before it was done.
    Cancelled,
    /// A check failed.
    CheckFailed,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 11] = [
        Self::InvalidArgument,
        Self::InvalidJob,
        Self::Denied,
        Self::PolicyFailed,
        Self::Unavailable,
        Self::ChecksumMismatch,
        Self::ImageRejected,
        Self::HostUnable,
        Self::VmFailed,
        Self::Cancelled,
        Self::CheckFailed,
    ];

    /// The kind's name for programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::InvalidArgument => "invalid-argument",
            Self::InvalidJob => "invalid-job",
            Self::Denied => "denied",
            Self::PolicyFailed => "policy-failed",
            Self::Unavailable => "unavailable",
            Self::ChecksumMismatch => "checksum-mismatch",
            Self::ImageRejected => "image-rejected",
            Self::HostUnable => "host-unable",
            Self::VmFailed => "vm-failed",
            Self::Cancelled => "cancelled",
            Self::CheckFailed => "check-failed",
        }
    }

    /// Finds a kind by its name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}
