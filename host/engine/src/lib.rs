//! From a job to a running VM: the host's configuration and facts, admission, ports and overlays, the launch, and recovery of what
//! was killed.

#![forbid(unsafe_code)]

pub mod config;
pub mod fingerprint;
mod firmware;
pub mod facts;
pub mod doctor;
pub mod sources;
mod order;
mod observer;
mod error;
mod data;
mod generation;
mod candidate;
mod engine;
mod decision_record;
mod refusal;
mod decide;
mod turn;
mod admission;
mod ports;
pub mod overlays;
mod disks;
mod locks;
mod run;
mod seed;
mod plan;
mod quotas;
mod volumes;
mod drain;
mod tokens;
mod images;
pub mod replay;
mod vm;
mod earlier;
mod restart;
mod audit;
mod operation;
mod guest;
mod details;
mod recover;
mod event_log;
mod name;
pub mod limits;

pub use audit::{AuditOutcome, Audited};
pub use candidate::Candidate;
pub use decide::Decided;
pub use details::{DataDiskUse, DiskUse, VmDetails};
pub use drain::{Drain, Draining};
pub use engine::{Engine, Options};
pub use error::EngineError;
pub use event_log::EventLog;
pub use generation::InForce;
pub use guest::{Exec, ExecOutput, ExecReport, ExecStatus, GuestAddress, GuestInfo};
pub use images::ImageUses;
pub use observer::{Context, Observation, Observer, Unobserved};
pub use order::{JobFile, Order};
pub use plan::Plan;
pub use qhost_image::volumes::{Volume, VolumeName};
pub use qhost_sys::spawn::Programs;
pub use quotas::QuotaUsage;
pub use recover::Recovered;
pub use tokens::{Token, TokenError, Tokens};
pub use vm::{Ending, Until, Vm, Which};
