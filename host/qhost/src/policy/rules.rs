//! The host's own rules, applied last to the one final launch: a policy can narrow what the host allows, never widen
//! it. Pure.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{HostFacts, Launch, PortMap, Violation};
use crate::{
    job::{Egress, Task},
    limits,
};

/// What the operator lets tenants do, from the host's configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rules {
    /// The host ports that may be forwarded.
    pub ports: Vec<PortRange>,
    /// The host addresses that may be listened on.
    pub binds: Vec<Ipv4Addr>,
    /// Whether guests may be given the reach that QEMU's user-mode network has.
    pub internet: bool,
    /// Extra QEMU arguments that tasks may ask for: each is a whole group, option and value.
    pub args: Vec<Vec<String>>,
    /// Whether what a guest writes may be kept for its task's next run.
    #[serde(default)]
    pub persist: bool,
}

/// A range of ports, both ends included. Its text form is `FIRST-LAST`, or one port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, JsonSchema)]
#[schemars(with = "String")]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// Every port that needs no privilege.
    pub const UNPRIVILEGED: Self = Self { first: 1024, last: u16::MAX };

    /// The lowest port.
    pub fn first(self) -> u16 {
        self.first
    }

    /// The highest port.
    pub fn last(self) -> u16 {
        self.last
    }

    /// Whether a port is in the range.
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (first.trim().parse(), last.trim().parse()) {
            (Ok(first), Ok(last)) if (1..=last).contains(&first) => Ok(Self { first, last }),
            _ => Err(format!("{text:?} is no port range: expected FIRST-LAST from 1 to 65535")),
        }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl<'de> Deserialize<'de> for PortRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for PortRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What the rules have against a launch.
pub(super) struct Findings {
    /// What the operator does not allow.
    pub(super) refused: Vec<Violation>,
    /// What this host cannot do.
    pub(super) impossible: Vec<Violation>,
}

pub(super) fn check(task: &Task, launch: &Launch, host: &HostFacts, rules: &Rules) -> Findings {
    let refused = [
        ports(task, launch, rules),
        egress(launch, rules),
        args(task, rules),
        persist(task, rules),
    ]
    .concat();
    Findings { refused, impossible: [amounts(launch, host), accelerator(launch, host)].concat() }
}

fn violation(code: &str, field: impl Into<String>, message: String, hint: String) -> Violation {
    Violation { code: format!("host.{code}"), field: field.into(), message, hint: Some(hint) }
}

fn persist(task: &Task, rules: &Rules) -> Vec<Violation> {
    match task.persist && !rules.persist {
        false => vec![],
        true => vec![violation(
            "persist-not-allowed",
            "persist",
            "tasks on this host may not keep what they write".into(),
            "leave persist out; or have the operator set overlay.persist = true".into(),
        )],
    }
}

fn ports(task: &Task, launch: &Launch, rules: &Rules) -> Vec<Violation> {
    let mut violations = vec![];
    for (index, port) in launch.ports.iter().enumerate() {
        let field = |side: &str| format!("ports.{}{side}", port.label);
        let asked = |port: &PortMap| {
            task.ports.iter().any(|asked| {
                (&asked.label, asked.guest, asked.protocol)
                    == (&port.label, port.guest, port.protocol)
            })
        };
        let twice = launch.ports.iter().take(index).any(|earlier| {
            earlier.label == port.label
                || (port.host.is_some()
                    && (earlier.host, earlier.protocol) == (port.host, port.protocol))
        });
        if !asked(port) || twice {
            violations.push(violation(
                "port-not-requested",
                field(""),
                format!(
                    "{} to guest port {} is not what the task asked for, once",
                    port.label, port.guest
                ),
                "a policy may drop requested ports and choose their host side, nothing else".into(),
            ));
        }
        if let Some(host) =
            port.host.filter(|host| !rules.ports.iter().any(|range| range.contains(*host)))
        {
            let ranges: Vec<_> = rules.ports.iter().map(PortRange::to_string).collect();
            violations.push(violation(
                "port-not-allowed",
                field(".host"),
                format!("host port {host} is not one that tasks may use"),
                format!("allowed here: {}", ranges.join(", ")),
            ));
        }
        if !rules.binds.contains(&port.bind) {
            let binds: Vec<_> = rules.binds.iter().map(Ipv4Addr::to_string).collect();
            violations.push(violation(
                "bind-not-allowed",
                field(".bind"),
                format!("{} is not an address that tasks may listen on", port.bind),
                format!("allowed here: {}", binds.join(", ")),
            ));
        }
    }
    violations
}

fn egress(launch: &Launch, rules: &Rules) -> Vec<Violation> {
    match launch.egress {
        Egress::Internet if !rules.internet => vec![violation(
            "egress-not-allowed",
            "egress",
            "guests on this host may not reach the internet".into(),
            "ask for egress \"isolated\"; or have the operator set network.internet = true".into(),
        )],
        Egress::Internet | Egress::Isolated => vec![],
    }
}

/// Arguments are refused but for whole groups that the operator has written out: an option and its value, both exact.
fn args(task: &Task, rules: &Rules) -> Vec<Violation> {
    let mut rest = task.args.as_slice();
    while let Some(group) =
        rules.args.iter().find(|group| !group.is_empty() && rest.starts_with(group))
    {
        rest = rest.get(group.len()..).unwrap_or_default();
    }
    let Some(first) = rest.first() else { return vec![] };
    let allowed: Vec<_> = rules.args.iter().map(shell_words::join).collect();
    vec![violation(
        "argument-not-allowed",
        "args",
        format!(
            "tasks may not pass {:?} to QEMU",
            crate::printable::line(first, limits::SHOWN_CHARS).to_string()
        ),
        match allowed.as_slice() {
            [] => "this host allows no extra QEMU arguments".into(),
            allowed => format!("allowed here, exactly: {}", allowed.join("; ")),
        },
    )]
}

fn amounts(launch: &Launch, host: &HostFacts) -> Vec<Violation> {
    let amounts = [
        ("cpus", launch.resources.cpus, host.resources.cpus, *limits::CPUS.start(), "CPUs", "CPUs"),
        (
            "memory-mib",
            launch.resources.memory_mib,
            host.free.memory_mib,
            *limits::MEMORY_MIB.start(),
            "MiB of memory",
            "MiB free",
        ),
    ];
    amounts
        .into_iter()
        .filter(|(_, wanted, most, least, _, _)| wanted > most || wanted < least)
        .map(|(name, wanted, most, least, unit, has)| {
            violation(
                "capacity",
                format!("resources.{name}"),
                format!("{wanted} {unit}: this host has {most} {has}"),
                format!("ask for {least} to {most}"),
            )
        })
        .collect()
}

fn accelerator(launch: &Launch, host: &HostFacts) -> Vec<Violation> {
    if host.accelerators.contains(&launch.accelerator) {
        return vec![];
    }
    let works: Vec<_> = host.accelerators.iter().map(|accelerator| accelerator.name()).collect();
    vec![violation(
        "accelerator",
        "accelerator",
        format!("{} does not run guest code on this host", launch.accelerator.name()),
        format!("works here: {}; qhost fingerprint says why", works.join(", ")),
    )]
}
