//! qhost runs tenants' virtual machines on one host, decided by WebAssembly policies.
//!
//! ```text
//! job.json ──job──▶ Task ──policy──▶ Approved ──image──▶ VerifiedImage ──qemu::plan──▶ LaunchPlan
//!                                                         ──vm──▶ Ended ──▶ Report: JSON + exit code
//! ```
//!
//! Each stage has one type, made only by its own room and handed on to the next, so that launching what no policy
//! approved, or an image that was not verified, does not compile. [`run`] is the spine: read it first.
//!
//! Rooms, in the order of the flow, and what each keeps to:
//!
//! - [`job`], [`digest`], [`qemu::plan`] and [`outcome`] do no I/O.
//! - Only [`spawn`] starts processes, and [`cage`] becomes QEMU; only [`image`] and [`registry`] open network connections to
//!   other hosts.
//! - [`supervisor`] is a program of its own, one for each VM: all of [`vm`] that goes on after the launch.
//! - [`policy`] knows nothing of images, QEMU or VMs.
//! - Every wait and every size has a bound in [`limits`].

pub mod run;
pub mod cli;
pub mod config;
pub mod digest;
pub mod job;
pub mod launch;
pub mod host_facts;
pub mod masks;
pub mod quota;
pub mod retention;
pub mod format;
pub mod name;
pub mod facts;
pub mod doctor;
pub mod policy;
pub mod author;
pub mod trial;
pub mod registry;
pub mod image;
pub mod qemu;
pub mod vm;
pub mod cage;
pub mod supervisor;
pub mod spawn;
pub mod outcome;
pub mod stop;
pub mod state;
pub mod trusted;
pub mod addresses;
pub mod failpoint;
pub mod printable;
pub mod limits;

pub use run::main;
