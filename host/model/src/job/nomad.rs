//! Nomad's job JSON, as its CLI and API give it: `{"Job": {…}}` or the inner object.
//!
//! Keys that steer Nomad's scheduler, or that its API adds, are accepted and not looked at: scheduling is not qhost's.
//! Keys that ask something of the task which qhost would silently not do are problems, unless they are empty.

use std::collections::BTreeMap;

use super::{
    Task,
    block::{Declared, Form, TaskBlock},
    config,
    cursor::{Cursor, Object, quoted},
    own,
};
use crate::{
    launch::{
        self, Asked,
        field::{Place, names_in},
        ports::keys as ports,
    },
    limits,
};

const JOB_KEYS: &[&str] = &[
    "ID",
    "Name",
    "TaskGroups",
    "Meta",
    "Affinities",
    "AllAtOnce",
    "Constraints",
    "ConsulNamespace",
    "ConsulToken",
    "CreateIndex",
    "Datacenters",
    "DispatchIdempotencyToken",
    "Dispatched",
    "JobModifyIndex",
    "Migrate",
    "ModifyIndex",
    "Multiregion",
    "Namespace",
    "NodePool",
    "NomadTokenID",
    "ParameterizedJob",
    "ParentID",
    "Payload",
    "Periodic",
    "Priority",
    "Region",
    "Reschedule",
    "Spreads",
    "Stable",
    "Status",
    "StatusDescription",
    "Stop",
    "SubmitTime",
    "Type",
    "UI",
    "Update",
    "VaultNamespace",
    "VaultToken",
    "Version",
    "VersionTag",
];
const GROUP_KEYS: &[&str] = &[
    "Name",
    "Tasks",
    "Networks",
    "Meta",
    "Affinities",
    "Constraints",
    "Consul",
    "Count",
    "Disconnect",
    "EphemeralDisk",
    "MaxClientDisconnect",
    "Migrate",
    "PreventRescheduleOnLost",
    "ReschedulePolicy",
    "RestartPolicy",
    "Scaling",
    "Services",
    "ShutdownDelay",
    "Spreads",
    "StopAfterClientDisconnect",
    "Update",
    "Volumes",
];
const TASK_KEYS: &[&str] = &[
    "Name",
    "Driver",
    "Config",
    "Resources",
    "Meta",
    "Actions",
    "Affinities",
    "Artifacts",
    "CSIPluginConfig",
    "Constraints",
    "Consul",
    "DispatchPayload",
    "Env",
    "Identities",
    "Identity",
    "KillSignal",
    "KillTimeout",
    "Kind",
    "Leader",
    "Lifecycle",
    "LogConfig",
    "RestartPolicy",
    "ScalingPolicies",
    "Schedule",
    "Secrets",
    "Services",
    "ShutdownDelay",
    "Templates",
    "User",
    "Vault",
    "VolumeMounts",
];
const RESOURCE_KEYS: &[&str] =
    &["CPU", "Networks", "DiskMB", "Devices", "IOPS", "MemoryMaxMB", "NUMA", "SecretsMB"];
const NETWORK_KEYS: &[&str] = &[
    "ReservedPorts",
    "DynamicPorts",
    "CIDR",
    "CNI",
    "DNS",
    "Device",
    "Hostname",
    "IP",
    "MBits",
    "Mode",
];
const PORT_KEYS: &[&str] = &["Label", "Value", "To", "HostNetwork", "IgnoreCollision"];

pub(super) fn read(root: Cursor<'_>, tenant: &str, select: Option<&str>) -> Option<Task> {
    let job = match root.value().get("Job") {
        Some(_) => root.object(&["Job"])?.required("Job", "a Nomad job")?,
        None => root,
    };
    let job = job.object(JOB_KEYS)?;
    let name =
        job.required("ID", "the job's ID").and_then(|id| id.text(limits::NAME_BYTES, "an ID"));
    let groups = job
        .required("TaskGroups", "the job's task groups")
        .and_then(|groups| groups.array(limits::NOMAD_ITEMS, "task groups"))?;
    let candidates = candidates(groups);
    let candidate = chosen(&job, candidates, select);
    let task = candidate.and_then(|candidate| candidate.read(&job, tenant));
    let name = match job.optional("Name") {
        Some(given) => given.text(limits::NAME_BYTES, "a name"),
        None => name,
    };
    Some(Task { job: name?.to_owned(), ..task? })
}

/// A qemu task and the group it is in.
struct Candidate<'a> {
    group: Object<'a>,
    group_name: &'a str,
    task: Object<'a>,
    name: &'a str,
}

/// Every qemu task. Tasks of other drivers are not qhost's to judge, so nothing else of them is read.
fn candidates(groups: Vec<Cursor<'_>>) -> Vec<Candidate<'_>> {
    let name_of = |object: &Object<'_>| object.required("Name", "a name").is_some();
    let mut found = vec![];
    for group_cursor in groups {
        let Some(group) = group_cursor.clone().object(GROUP_KEYS) else { continue };
        let tasks = group
            .required("Tasks", "the group's tasks")
            .and_then(|tasks| tasks.array(limits::NOMAD_ITEMS, "tasks"));
        if !name_of(&group) {
            continue;
        }
        for task in tasks.into_iter().flatten() {
            let driver = task.value().get("Driver").and_then(|driver| driver.as_str());
            if driver.is_some_and(|driver| driver != "qemu") {
                continue;
            }
            let Some(task) = task.object(TASK_KEYS) else { continue };
            let driver = task.required("Driver", "\"qemu\"");
            let names = group
                .optional("Name")
                .and_then(|name| name.text(limits::NAME_BYTES, "a name"))
                .zip(task.required("Name", "a name"));
            let Some((group_name, name)) = names else { continue };
            let Some(name) = name.text(limits::NAME_BYTES, "a name") else { continue };
            if driver.and_then(|driver| driver.word(&["qemu"], |d| d)).is_none() {
                continue;
            }
            let Some(group) = group_cursor.clone().any_object("a task group") else { continue };
            found.push(Candidate { group, group_name, task, name });
        }
    }
    found
}

/// The one qemu task, or the one that was selected.
fn chosen<'a>(
    job: &Object<'a>,
    mut candidates: Vec<Candidate<'a>>,
    select: Option<&str>,
) -> Option<Candidate<'a>> {
    let all: Vec<_> =
        candidates.iter().map(|c| quoted(&format!("{}/{}", c.group_name, c.name))).collect();
    if let Some(select) = select {
        candidates.retain(|c| c.name == select || format!("{}/{}", c.group_name, c.name) == select);
    }
    let tasks = job.optional("TaskGroups")?;
    match (candidates.len(), select) {
        (1, _) => candidates.pop(),
        (0, None) => tasks.fault("no qemu task", "a task with Driver \"qemu\""),
        (0, Some(select)) => tasks.fault(
            format!("no qemu task {}", quoted(select)),
            match all.as_slice() {
                [] => "a task with Driver \"qemu\"".into(),
                all => format!("one of {}", all.join(", ")),
            },
        ),
        (_, _) => tasks.fault(
            format!("several qemu tasks: {}", all.join(", ")),
            "--task TASK or --task GROUP/TASK, the one to run",
        ),
    }
}

impl<'a> Candidate<'a> {
    /// The task, but for the job's name.
    fn read(&self, job: &Object<'a>, tenant: &str) -> Option<Task> {
        self.task.unsupported(
            &["Artifacts", "DispatchPayload", "Secrets", "Templates", "VolumeMounts"],
            "qhost gives a guest its image and nothing else; put this into the image",
        );
        self.task
            .unsupported(&["Env"], "a guest has no environment to set; put this into the image");
        let keys: Vec<_> = RESOURCE_KEYS
            .iter()
            .copied()
            .chain(names_in(launch::keys(), Place::NomadResources))
            .collect();
        let resources = self.task.required("Resources", "the task's resources");
        let resources = resources.and_then(|resources| resources.object(&keys));
        if let Some(resources) = &resources {
            resources.unsupported(&["Devices", "NUMA"], "qhost passes no host devices to guests");
        }
        let declared = self.declared(resources.as_ref());
        let config = self.task.required("Config", "the task's config");
        let config = config.and_then(|config| config.object(&config::keys()));
        let block = TaskBlock { form: Form::Nomad, config, resources, declared };
        let asked = Asked::read(&block);
        let options = block.config.as_ref().map(|config| config::read(config, asked.as_ref()));
        let mut meta = Some(BTreeMap::new());
        for object in [job, &self.group, &self.task] {
            let Some(block) = object.optional("Meta") else { continue };
            let block = block.any_object("an object of strings").and_then(|meta| own::meta(&meta));
            meta = meta.zip(block).map(|(outer, inner)| outer.into_iter().chain(inner).collect());
        }
        let config = options?;
        Some(Task {
            tenant: tenant.to_owned(),
            job: String::new(),
            name: self.name.to_owned(),
            image: config.image?,
            asked: asked?,
            persist: config.persist,
            restart: config.restart?,
            ready: config.ready?,
            args: config.args,
            meta: meta?,
        })
    }

    /// The ports of the group's networks and of the task's own.
    fn declared(&self, resources: Option<&Object<'a>>) -> Option<Vec<Declared<'a>>> {
        let mut ports = Some(vec![]);
        let task_networks = resources.and_then(|resources| resources.optional("Networks"));
        for networks in self.group.optional("Networks").into_iter().chain(task_networks) {
            for network in networks.array(limits::NOMAD_ITEMS, "networks")? {
                let network = network.object(NETWORK_KEYS)?;
                network
                    .unsupported(&["CNI", "DNS"], "a guest's network is QEMU's user-mode network");
                for (key, reserved) in [("ReservedPorts", true), ("DynamicPorts", false)] {
                    let Some(list) = network.optional(key) else { continue };
                    for port in list.array(limits::PORTS, "ports")? {
                        let port = declared_port(port, reserved);
                        ports = ports.zip(port).map(|(mut ports, port)| {
                            ports.push(port);
                            ports
                        });
                    }
                }
            }
        }
        ports.filter(|ports| {
            let few = ports.len() <= limits::PORTS;
            if !few {
                let found = format!("{} declared ports", ports.len());
                self.task.here().fault::<()>(found, format!("at most {} ports", limits::PORTS));
            }
            few
        })
    }
}

fn declared_port(cursor: Cursor<'_>, reserved: bool) -> Option<Declared<'_>> {
    let here = cursor.clone();
    let port = cursor.object(PORT_KEYS)?;
    let label = port.required("Label", "the port's label");
    let label = label.and_then(|label| {
        ports::checked_label(label.text(limits::LABEL_BYTES, "a label")?, &label)
    });
    // Nomad writes 0 for "not given".
    let given = |key| port.optional(key).filter(|port| port.value().as_u64() != Some(0));
    let host = match (given("Value"), reserved) {
        (Some(value), _) => ports::port(&value).map(Some),
        (None, true) => {
            let value = port.required("Value", "the reserved port");
            value.and_then(|value| ports::port(&value)).map(Some)
        }
        (None, false) => Some(None),
    };
    let to = match given("To") {
        Some(to) => ports::port(&to).map(Some),
        None => Some(None),
    };
    Some(Declared { label: label?, host: host?, to: to?, reserved, here })
}
