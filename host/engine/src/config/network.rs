//! The parts of this host's network that VMs may use.

use std::net::Ipv4Addr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use qhost_model::launch::PortRange;

/// `[ports]`
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Ports {
    /// Host ports that may be forwarded, as `FIRST-LAST`.
    pub(super) allow: Vec<PortRange>,
    /// Host addresses that may be listened on. A task may ask for any of them, and gets 127.0.0.1 unless it does.
    pub(super) bind: Vec<Ipv4Addr>,
}

impl Default for Ports {
    fn default() -> Self {
        Self { allow: vec![PortRange::UNPRIVILEGED], bind: vec![Ipv4Addr::LOCALHOST] }
    }
}

/// `[network]`
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Network {
    /// Whether guests may be given egress `internet`: public IPv4 addresses, none of this host's or of a private network.
    pub(super) internet: bool,
    /// Whether, under `cage.level = "best-effort"`, they may be given that also where this host lacks the filter that keeps them to
    /// those: they then reach all that this host does, its loopback, private networks and cloud metadata.
    pub(super) unfiltered_internet: bool,
}
