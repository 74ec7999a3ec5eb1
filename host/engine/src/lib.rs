//! From a job to a running VM: the host's configuration and facts, admission, ports and overlays, the launch, and recovery of what
//! was killed.

#![forbid(unsafe_code)]

pub mod config;
pub mod fingerprint;
pub mod facts;
pub mod doctor;
pub mod turn;
pub mod admission;
pub mod ports;
pub mod overlays;
pub mod plan;
pub mod start;
pub mod recover;
pub mod name;
pub mod limits;
