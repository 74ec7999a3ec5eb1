//! Kinds of errors: what a door needs to know of one to answer in its own way, with an exit code, a status or a gRPC code.

/// A kind of error. Each crate's errors say their kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Arguments, configuration or settings that cannot be used, or a VM or image in the wrong state.
    InvalidArgument,
    /// The job is not understood.
    InvalidJob,
    /// A policy, or what the host lets tenants do, is against it.
    Denied,
    /// A policy does not load, trapped, overran a limit or answered nonsense.
    PolicyFailed,
    /// The image, or a policy of a registry, could not be fetched.
    Unavailable,
    /// The image has another digest than it must have.
    ChecksumMismatch,
    /// The image is one that QEMU is not given.
    ImageRejected,
    /// This host cannot do it.
    HostUnable,
    /// QEMU or the guest failed.
    VmFailed,
    /// It was given up before it was done.
    Cancelled,
    /// A check did not hold.
    CheckFailed,
}
