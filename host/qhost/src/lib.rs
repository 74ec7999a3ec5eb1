//! qhost runs tenants' virtual machines on one host, decided by WebAssembly policies.
//!
//! ```text
//! job.json ──model──▶ Task ──policy──▶ Approved ──image──▶ VerifiedImage ──engine::plan──▶ LaunchPlan
//!                                                           ──vm──▶ Ended ──▶ Report: JSON + exit code
//! ```
//!
//! Each stage has one type, made only by its own crate and handed on to the next, so that launching what no policy
//! approved, or an image that was not verified, does not compile. This crate is the command; [`run`] is its spine: read it
//! first.
//!
//! The other crates below `host`, each of which uses only those before it:
//!
//! - `model`: tasks, launches, digests, quotas, the host's own rules. No I/O.
//! - `sys`: processes, durable files, locks. Only its `spawn` starts processes.
//! - `policy`: sandboxes and chains of policies. It knows nothing of images, QEMU or VMs.
//! - `image`: fetching, checking and storing images. Only it, and the registry client and [`client`] here, connect to other hosts.
//! - `cage`: the mechanisms that confine QEMU, and the step that becomes QEMU.
//! - `vm`: one VM, and the program that looks after it, `qhost-supervisor`.
//! - `engine`: configuration, admission, launch and recovery.
//! - `nomad`: the engine as a task driver of Nomad's.
//!
//! Every wait and every size has a bound in the `limits` of the crate that keeps it.

#![forbid(unsafe_code)]

pub mod run;
pub mod cli;
pub mod author;
pub mod trial;
pub mod registry;
pub mod client;
pub mod exit;
pub mod outcome;
pub mod limits;

pub use run::main;
