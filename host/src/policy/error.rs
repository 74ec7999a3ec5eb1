//! What can be wrong with a policy. Every error names the policy; those past loading also name its digest.

use std::path::PathBuf;

use super::changes::{Change, listed};
use crate::{digest::Sha256, limits};

/// A policy could not be asked, or did not answer as it must.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The policy's file cannot be read.
    #[error("policy {name}: cannot read {}", path.display())]
    Unreadable {
        /// The policy.
        name: String,
        /// Its file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is larger than a policy may be.
    #[error("policy {name}: {} is larger than {} bytes, the most a policy may have", path.display(), limits::POLICY_FILE_BYTES)]
    TooLarge {
        /// The policy.
        name: String,
        /// Its file.
        path: PathBuf,
    },
    /// The file is no component, nor a core module that can be made one.
    #[error("policy {name} (sha256:{sha256}) does not load: {reason}")]
    NotLoadable {
        /// The policy.
        name: String,
        /// Its file's digest.
        sha256: Sha256,
        /// What is wrong with it.
        reason: String,
    },
    /// The component asks for something that policies do not get.
    #[error("policy {name} (sha256:{sha256}) imports {}, and a policy may import nothing but {allowed}", imports.join(", "))]
    ForbiddenImport {
        /// The policy.
        name: String,
        /// Its file's digest.
        sha256: Sha256,
        /// What it asks for.
        imports: Vec<String>,
        /// What it may have.
        allowed: &'static str,
    },
    /// The component is of another world.
    #[error("policy {name} (sha256:{sha256}) is no policy: it exports {}, and a policy exports {expected}", if exports.is_empty() { "nothing".into() } else { exports.join(", ") })]
    WrongWorld {
        /// The policy.
        name: String,
        /// Its file's digest.
        sha256: Sha256,
        /// What it exports.
        exports: Vec<String>,
        /// What it should export.
        expected: &'static str,
    },
    /// A call into the policy did not end as it must.
    #[error("policy {name} (sha256:{sha256}) failed in {call}: {fault}")]
    Failed {
        /// The policy.
        name: String,
        /// Its file's digest.
        sha256: Sha256,
        /// The function of the contract.
        call: &'static str,
        /// What happened.
        fault: Fault,
    },
    /// Asked again about its own result, the chain changes it.
    #[error(
        "policy {name} (sha256:{sha256}) does not settle: asked again about the chosen launch, it changed {}",
        listed(changes)
    )]
    Unsettled {
        /// The first policy that changed something.
        name: String,
        /// Its file's digest.
        sha256: Sha256,
        /// What it changed.
        changes: Vec<Change>,
    },
    /// The policy does not accept its settings.
    #[error("policy {name} (sha256:{sha256}) refuses its settings: {message}")]
    Settings {
        /// The policy.
        name: String,
        /// Its file's digest.
        sha256: Sha256,
        /// Its own words.
        message: String,
    },
    /// The sandbox itself cannot be set up.
    #[error("the policy sandbox cannot be set up: {reason}")]
    Sandbox {
        /// Why.
        reason: String,
    },
}

/// How a call into a policy failed.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// It ran too long.
    #[error("it ran longer than its deadline of {} ms", limits::POLICY_DEADLINE.as_millis())]
    Deadline,
    /// It asked for too much memory.
    #[error("it needed more than its {} MiB of memory", limits::POLICY_MEMORY_BYTES >> 20)]
    Memory,
    /// It ran out of stack.
    #[error("it needed more than its {} KiB of stack", limits::POLICY_STACK_BYTES >> 10)]
    Stack,
    /// It answered or logged more than the host copies.
    #[error("it handed over more than {} KiB in one call", limits::POLICY_COPIED_BYTES >> 10)]
    Copied,
    /// It trapped; a panic ends in `unreachable`.
    #[error("it trapped: {0}")]
    Trapped(String),
    /// Its answer makes no sense.
    #[error("its answer makes no sense: {0}")]
    Nonsense(String),
}
