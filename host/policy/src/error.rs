//! Errors of policies. Every error names the policy; an error past loading also names its digest.

use std::{path::PathBuf, time::Duration};

use qhost_model::{
    digest::Sha256,
    kind::Kind,
    launch::{Change, listed, shown},
};
use qhost_sys::trusted::Untrusted;

use super::signature::{PublicKey, Signers, Verification};
use crate::limits;

/// A policy could not be asked, or did not answer as it must.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The policy's file cannot be read.
    #[error("policy {name}: cannot read {}", path.display())]
    Unreadable {
        /// The policy's name.
        name: String,
        /// The policy's file.
        path: PathBuf,
        /// Why the file cannot be read.
        source: std::io::Error,
    },
    /// Users other than the owner can change the file.
    #[error("policy {name}: {} cannot be relied upon", path.display())]
    Untrusted {
        /// The policy's name.
        name: String,
        /// The policy's file.
        path: PathBuf,
        /// Why the file is not trusted.
        source: Untrusted,
    },
    /// The file is larger than a policy may be.
    #[error("policy {name}: {} is larger than {} bytes, the most a policy may have", path.display(), limits::POLICY_FILE_BYTES)]
    TooLarge {
        /// The policy's name.
        name: String,
        /// The policy's file.
        path: PathBuf,
    },
    /// The file is no component, nor a core module that can be made one.
    #[error("policy {name} (sha256:{sha256}) does not load: {reason}")]
    NotLoadable {
        /// The policy's name.
        name: String,
        /// The file's digest.
        sha256: Sha256,
        /// What is wrong with the file.
        reason: String,
    },
    /// The component asks for something that policies do not get.
    #[error("policy {name} (sha256:{sha256}) imports {}, and a policy may import nothing but {allowed}", imports.join(", "))]
    ForbiddenImport {
        /// The policy's name.
        name: String,
        /// The file's digest.
        sha256: Sha256,
        /// The imports that are not allowed.
        imports: Vec<String>,
        /// The imports that are allowed.
        allowed: &'static str,
    },
    /// The component is of another world.
    #[error("policy {name} (sha256:{sha256}) is no policy: it exports {}, and a policy exports {expected}", if exports.is_empty() { "nothing".into() } else { exports.join(", ") })]
    WrongWorld {
        /// The policy's name.
        name: String,
        /// The file's digest.
        sha256: Sha256,
        /// The interfaces that the component exports.
        exports: Vec<String>,
        /// The interfaces of which a policy exports one.
        expected: &'static str,
    },
    /// The policy looks things up in a table that the operator does not have.
    #[error(
        "policy {name} (sha256:{sha256}) looks things up in the table {table}, and this host has none of that name; add [data.{table}] to the configuration"
    )]
    NoTable {
        /// The policy's name.
        name: String,
        /// The file's digest.
        sha256: Sha256,
        /// The table's name.
        table: String,
    },
    /// A table cannot be used.
    #[error("the table {table}: {reason}")]
    Table {
        /// The table's name.
        table: String,
        /// What is wrong with the table.
        reason: String,
    },
    /// A call into the policy did not end as it must.
    #[error("policy {name} (sha256:{sha256}) failed in {call}: {fault}")]
    Failed {
        /// The policy's name.
        name: String,
        /// The file's digest.
        sha256: Sha256,
        /// The function of the contract.
        call: &'static str,
        /// What happened.
        fault: Fault,
    },
    /// The file is not the one that the configuration names.
    #[error("policy {name}: {} has sha256:{found}, and the configuration pins sha256:{pinned}", path.display())]
    NotPinned {
        /// The policy's name.
        name: String,
        /// The policy's file.
        path: PathBuf,
        /// The file's digest.
        found: Sha256,
        /// The digest that the file should have.
        pinned: Sha256,
    },
    /// The file lacks signatures.
    #[error(
        "policy {name} (sha256:{sha256}) is signed by {} of the {} that must sign it, out of {}{}; signatures are looked for in {file}.minisig and {file}.KEYID.minisig",
        checked.by.len(), signers.threshold(), ids(signers), broken(checked), file = path.display()
    )]
    Unsigned {
        /// The policy's name.
        name: String,
        /// The policy's file.
        path: PathBuf,
        /// The file's digest.
        sha256: Sha256,
        /// The keys that have signed.
        checked: Box<Verification>,
        /// The keys of which so many must have signed.
        signers: Box<Signers>,
    },
    /// A tenant's policy allows more than the host's chain did.
    #[error(
        "policy {name} (sha256:{sha256}), a tenant's, widens {} from {} to {}; a tenant's policy can only tighten what the host's chain allowed",
        change.field, shown(&change.from), shown(&change.to)
    )]
    Widened {
        /// The policy's name.
        name: String,
        /// The file's digest.
        sha256: Sha256,
        /// The field that the policy widened.
        change: Box<Change>,
    },
    /// A policy changed the chosen launch when it was asked about that launch once more.
    #[error(
        "policy {name} (sha256:{sha256}) does not settle: asked again about the chosen launch, it changed {}{}",
        listed(changes),
        disagreeing(others)
    )]
    Unsettled {
        /// The first policy that changed something.
        name: String,
        /// The file's digest of that policy.
        sha256: Sha256,
        /// The changes that the policy made.
        changes: Vec<Change>,
        /// Other policies that wrote the same fields.
        others: Vec<String>,
    },
    /// The policy does not accept its settings.
    #[error("policy {name} (sha256:{sha256}) refuses its settings: {message}")]
    Settings {
        /// The policy's name.
        name: String,
        /// The file's digest.
        sha256: Sha256,
        /// The policy's own words, and the settings that its schema describes.
        message: String,
    },
    /// The decision as a whole took too long.
    #[error(
        "the decision took longer than {} s, the most that loading and asking its policies may take together; it was at policy {name}",
        limit.as_secs_f64()
    )]
    Overdue {
        /// The policy that was being loaded or asked.
        name: String,
        /// How long the decision had.
        limit: Duration,
    },
    /// The sandbox itself cannot be set up.
    #[error("the policy sandbox cannot be set up: {reason}")]
    Sandbox {
        /// Why the sandbox cannot be set up.
        reason: String,
    },
}

impl PolicyError {
    /// The kind of failure, from which a door makes its own error.
    pub fn kind(&self) -> Kind {
        if self.is_about_settings() { Kind::InvalidArgument } else { Kind::PolicyFailed }
    }

    /// Whether the policy's settings or tables are what is wrong; every other error is a failure of the policy or the
    /// host.
    pub fn is_about_settings(&self) -> bool {
        matches!(self, Self::Settings { .. } | Self::NoTable { .. } | Self::Table { .. })
    }
}

/// How a call into a policy failed.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The call ran too long.
    #[error("it ran longer than its deadline of {} ms", limit.as_millis())]
    Deadline {
        /// The longest that the call may run.
        limit: Duration,
    },
    /// The decision as a whole took too long, whether or not this policy did.
    #[error("the decision's {} s were over", limit.as_secs_f64())]
    Overdue {
        /// How long the decision had.
        limit: Duration,
    },
    /// The policy asked for too much memory.
    #[error("it needed more than its {} MiB of memory", limit >> 20)]
    Memory {
        /// The most memory that the policy may have, in bytes.
        limit: usize,
    },
    /// The policy ran out of stack.
    #[error("it needed more than its {} KiB of stack", limits::POLICY_STACK_BYTES >> 10)]
    Stack,
    /// The policy answered or logged more than the host copies.
    #[error("it handed over more than {} KiB in one call", limits::POLICY_COPIED_BYTES >> 10)]
    Copied,
    /// The policy trapped; a panic ends in `unreachable`.
    #[error("it trapped: {0}")]
    Trapped(String),
    /// The policy's answer makes no sense.
    #[error("its answer makes no sense: {0}")]
    Nonsense(String),
}

fn ids(signers: &Signers) -> String {
    signers.keys().iter().map(PublicKey::id).collect::<Vec<_>>().join(", ")
}

fn broken(checked: &Verification) -> String {
    match checked.broken.as_slice() {
        [] => String::new(),
        ids => format!("; the signature of {} does not hold", ids.join(", ")),
    }
}

fn disagreeing(others: &[String]) -> String {
    match others {
        [] => String::new(),
        others => format!("; it disagrees with {}, which wrote the same", others.join(", ")),
    }
}
