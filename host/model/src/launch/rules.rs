//! The host's own rules, applied last to the one final launch: a policy can narrow what the host allows, never widen
//! it. Pure.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::{Launch, PortMap, PortRange};
use crate::{
    host_facts::HostFacts,
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

/// What an absent configuration allows: unprivileged ports on loopback, and nothing else.
impl Default for Rules {
    fn default() -> Self {
        Self {
            ports: vec![PortRange::UNPRIVILEGED],
            binds: vec![Ipv4Addr::LOCALHOST],
            internet: false,
            args: vec![],
            persist: false,
        }
    }
}

/// One reason why a task may not run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// A stable name for programs.
    pub code: String,
    /// What it is about.
    pub field: String,
    /// One sentence.
    pub message: String,
    /// What can be done about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// What the rules have against a launch.
#[derive(Debug)]
pub struct Findings {
    /// What the operator does not allow.
    pub refused: Vec<Violation>,
    /// What this host cannot do.
    pub impossible: Vec<Violation>,
}

/// Checks a launch against what the operator allows and what this host can do.
pub fn check(task: &Task, launch: &Launch, host: &HostFacts, rules: &Rules) -> Findings {
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
    if task.persist && !rules.persist {
        vec![violation(
            "persist-not-allowed",
            "persist",
            "tasks on this host may not keep what they write".into(),
            "leave persist out; or have the operator set overlay.persist = true".into(),
        )]
    } else {
        vec![]
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
