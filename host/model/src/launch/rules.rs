//! The host's own rules, applied last to the one final launch: a policy can narrow what the host allows, never widen
//! it. Pure.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::{Launch, PortMap, PortRange};
use crate::{
    host_facts::HostFacts,
    job::{Accelerator, Egress, Resources, Task},
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
    // Whole, so that a new field does not compile until its rules are here.
    let Launch { accelerator, ports, resources, egress, warnings: _, extensions: _ } = launch;
    let refused = [
        self::ports(task, ports, rules),
        self::egress(*egress, rules),
        args(task, rules),
        persist(task, rules),
    ]
    .concat();
    let impossible = [amounts(*resources, host), self::accelerator(*accelerator, host)].concat();
    Findings { refused, impossible }
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

fn ports(task: &Task, ports: &[PortMap], rules: &Rules) -> Vec<Violation> {
    let mut violations = vec![];
    for (index, port) in ports.iter().enumerate() {
        let field = |side: &str| format!("ports.{}{side}", port.label);
        let asked = |port: &PortMap| {
            task.ports.iter().any(|asked| {
                (&asked.label, asked.guest, asked.protocol)
                    == (&port.label, port.guest, port.protocol)
            })
        };
        let twice = ports.iter().take(index).any(|earlier| {
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

fn egress(egress: Egress, rules: &Rules) -> Vec<Violation> {
    match egress {
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

fn amounts(resources: Resources, host: &HostFacts) -> Vec<Violation> {
    let amounts = [
        ("cpus", resources.cpus, host.resources.cpus, *limits::CPUS.start(), "CPUs", "CPUs"),
        (
            "memory-mib",
            resources.memory_mib,
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

fn accelerator(accelerator: Accelerator, host: &HostFacts) -> Vec<Violation> {
    if host.accelerators.contains(&accelerator) {
        return vec![];
    }
    let works: Vec<_> = host.accelerators.iter().map(|accelerator| accelerator.name()).collect();
    vec![violation(
        "accelerator",
        "accelerator",
        format!("{} does not run guest code on this host", accelerator.name()),
        format!("works here: {}; qhost fingerprint says why", works.join(", ")),
    )]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job;

    /// What is asked for and what the operator allows, each changed; and the codes of what is found.
    struct Row {
        change: fn(&mut Task, &mut Launch, &mut Rules, &mut HostFacts),
        refused: &'static [&'static str],
        impossible: &'static [&'static str],
    }

    const fn fine(change: fn(&mut Task, &mut Launch, &mut Rules, &mut HostFacts)) -> Row {
        Row { change, refused: &[], impossible: &[] }
    }

    const fn refused(
        refused: &'static [&'static str],
        change: fn(&mut Task, &mut Launch, &mut Rules, &mut HostFacts),
    ) -> Row {
        Row { change, refused, impossible: &[] }
    }

    const fn impossible(
        impossible: &'static [&'static str],
        change: fn(&mut Task, &mut Launch, &mut Rules, &mut HostFacts),
    ) -> Row {
        Row { change, refused: &[], impossible }
    }

    const ROWS: &[Row] = &[
        fine(|_, _, _, _| {}),
        fine(|_, launch, _, _| launch.ports[0].host = Some(1024)),
        refused(&["port-not-allowed"], |_, launch, _, _| launch.ports[0].host = Some(1023)),
        fine(|_, launch, _, _| launch.ports.clear()),
        refused(&["port-not-requested"], |_, launch, _, _| launch.ports[0].guest = 81),
        refused(&["port-not-requested"], |_, launch, _, _| launch.ports[0].label = "x".into()),
        refused(&["port-not-requested"], |_, launch, _, _| {
            launch.ports.push(launch.ports[0].clone());
        }),
        refused(&["bind-not-allowed"], |_, launch, _, _| launch.ports[0].bind = [0; 4].into()),
        fine(|_, launch, rules, _| {
            launch.ports[0].bind = [0; 4].into();
            rules.binds.push([0; 4].into());
        }),
        refused(&["egress-not-allowed"], |_, launch, _, _| launch.egress = Egress::Internet),
        fine(|_, launch, rules, _| {
            launch.egress = Egress::Internet;
            rules.internet = true;
        }),
        refused(&["argument-not-allowed"], |task, _, _, _| task.args = vec!["-rtc".into()]),
        fine(|task, _, rules, _| {
            task.args = vec!["-rtc".into(), "base=utc".into()];
            rules.args = vec![task.args.clone()];
        }),
        refused(&["argument-not-allowed"], |task, _, rules, _| {
            task.args = vec!["-rtc".into(), "base=utc,x".into()];
            rules.args = vec![vec!["-rtc".into(), "base=utc".into()]];
        }),
        refused(&["persist-not-allowed"], |task, _, _, _| task.persist = true),
        fine(|task, _, rules, _| {
            task.persist = true;
            rules.persist = true;
        }),
        fine(|_, launch, _, host| host.resources.cpus = launch.resources.cpus),
        impossible(&["capacity"], |_, launch, _, host| {
            host.resources.cpus = launch.resources.cpus - 1;
        }),
        impossible(&["capacity"], |_, launch, _, host| {
            host.free.memory_mib = launch.resources.memory_mib - 1;
        }),
        impossible(&["capacity"], |_, launch, _, _| launch.resources.cpus = 0),
        impossible(&["accelerator"], |_, launch, _, _| launch.accelerator = Accelerator::Kvm),
        fine(|_, launch, _, host| {
            launch.accelerator = Accelerator::Kvm;
            host.accelerators.push(Accelerator::Kvm);
        }),
    ];

    #[test]
    fn each_rule_at_its_bound() {
        let job = br#"{"name": "x", "driver": "qemu", "resources": {"cpus": 2, "memory_mib": 64}, "config": {
            "image_source": "https://a.example/x", "port_map": {"http": 80},
            "checksum": "0000000000000000000000000000000000000000000000000000000000000000"}}"#;
        let asked = job::parse("job.json", job, "acme", None).unwrap();
        for (number, row) in ROWS.iter().enumerate() {
            let (mut task, mut launch) = (asked.clone(), Launch::default_for(&asked));
            let (mut rules, mut host) = (Rules::default(), HostFacts::default());
            (row.change)(&mut task, &mut launch, &mut rules, &mut host);
            let found = check(&task, &launch, &host, &rules);
            let codes = |found: &[Violation]| {
                found.iter().map(|one| one.code.replace("host.", "")).collect::<Vec<_>>()
            };
            assert_eq!(codes(&found.refused), row.refused, "row {number}");
            assert_eq!(codes(&found.impossible), row.impossible, "row {number}");
        }
    }
}
