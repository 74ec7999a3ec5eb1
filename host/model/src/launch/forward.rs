//! A forwarded port.

use std::{fmt, net::Ipv4Addr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{PortMap, Protocol};

/// One forwarded port with its host side settled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Forward {
    /// The request's label.
    pub label: String,
    /// The host address.
    pub bind: Ipv4Addr,
    /// The host port; 0 in a plan that was not reserved.
    pub host: u16,
    /// The guest port.
    pub guest: u16,
    /// The transport.
    pub protocol: Protocol,
}

impl Forward {
    /// A launch's port, with its host side settled.
    pub fn of(port: &PortMap, host: u16) -> Self {
        let PortMap { label, guest, host: _, bind, protocol } = port;
        Self { label: label.clone(), bind: *bind, host, guest: *guest, protocol: *protocol }
    }
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { label, bind, host, guest, protocol } = self;
        write!(f, "{label}: {bind}:{host} → guest {guest}/{}", protocol.name())
    }
}
