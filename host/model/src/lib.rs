//! The values of qhost and the decisions about them that need no I/O: tasks and the readers of jobs, launches, digests,
//! quotas, the host's own rules, and text that is safe to show.

#![forbid(unsafe_code)]

mod named;
pub mod kind;
pub mod job;
pub mod digest;
pub mod launch;
pub mod host_facts;
pub mod rate;
pub mod quota;
pub mod retention;
pub mod masks;
pub mod secrets;
pub mod firmware;
pub mod architecture;
pub mod format;
pub mod name;
pub mod printable;
pub mod limits;
