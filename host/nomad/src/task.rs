//! Turns a task of Nomad's into an order of the engine. The job that the agent got from its server is made again from what a driver is
//! told.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tonic::{Code, Status};

use qhost_cage::{LinuxResources, SchedulerGroup};
use qhost_engine::{JobFile, Order};
use qhost_model::printable;
use qhost_policy::{Actor, Door};
use qhost_vm::LogPipes;

use crate::{
    error::{refused, status},
    limits, msgpack,
    proto::driver::{
        NetworkPort, PortMapping, Resources, TaskConfig,
        network_isolation_spec::NetworkIsolationMode,
    },
    schema::TaskKey,
    settings::Settings,
};

/// The label of a VM's job with the task's id.
pub(crate) const TASK_ID: &str = "nomad_task_id";
/// The label of a VM's job with the allocation's id.
const ALLOC_ID: &str = "nomad_alloc_id";
/// The label of a VM's job with the namespace.
const NAMESPACE: &str = "nomad_namespace";
/// The prefix of the variables in which an agent gives the keys of a job's meta.
const META: &str = "NOMAD_META_";

/// The state that Nomad keeps of a task for a later plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DriverState {
    /// The version of the state's form.
    pub(crate) version: u32,
    /// The VM's id.
    pub(crate) vm: String,
}

impl DriverState {
    /// The newest version of the form.
    pub(crate) const VERSION: u32 = 1;

    pub(crate) fn read(bytes: &[u8]) -> Result<Self, Status> {
        let unreadable = |why: String| {
            refused(Code::InvalidArgument, format!("the task's driver state cannot be read: {why}"))
        };
        let state: Self =
            serde_json::from_slice(bytes).map_err(|error| unreadable(error.to_string()))?;
        if state.version > Self::VERSION {
            return Err(unreadable(format!(
                "it has the form {}, of a later qhost; upgrade the plugin",
                state.version
            )));
        }
        Ok(state)
    }

    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>, Status> {
        serde_json::to_vec(self).map_err(|error| refused(Code::Internal, error.to_string()))
    }
}

/// Makes the order for a task.
pub(crate) fn order(task: &TaskConfig, settings: &Settings, tenant: &str) -> Result<Order, Status> {
    let mode = task.network_isolation_spec.as_ref().map(|spec| spec.mode());
    if let Some(NetworkIsolationMode::Group | NetworkIsolationMode::Task) = mode {
        let message = "the group's network has the mode bridge, or one of CNI's: QEMU is in no network of an allocation's; expected the mode host, whose ports are forwarded to the guest";
        return Err(refused(Code::InvalidArgument, message));
    }
    let bytes = serde_json::to_vec(&job(task, settings)?);
    let bytes = bytes.map_err(|error| refused(Code::Internal, error.to_string()))?;
    let name = format!("task {}", printable::line(&task.name, limits::NAME_CHARS));
    let mut order = Order::new(JobFile { name, bytes }, tenant);
    order.log_pipes = log_pipes(task)?;
    order.actor = Some(actor(&task.alloc_id, tenant));
    order.resources = linux_resources(task.resources.as_ref())?;
    Ok(order)
}

/// The actor for the policies: an allocation of the agent's, as the tenant of its task.
pub(crate) fn actor(alloc_id: &str, tenant: &str) -> Actor {
    let name = format!("nomad alloc {alloc_id}");
    Actor { name, tenant: Some(tenant.to_owned()), door: Door::Nomad }
}

/// Reads the resources that the agent has set aside for the task.
fn linux_resources(given: Option<&Resources>) -> Result<LinuxResources, Status> {
    let positive = |number: i64| u64::try_from(number).ok().filter(|number| *number > 0);
    let allocated = given.and_then(|given| given.allocated_resources.as_ref());
    let memory = allocated.and_then(|allocated| allocated.memory.as_ref());
    let memory_max = memory.and_then(|memory| positive(memory.memory_max_mb));
    let Some(linux) = given.and_then(|given| given.linux_resources.as_ref()) else {
        return Ok(LinuxResources::default());
    };
    let path = Some(linux.cpuset_cgroup.as_str()).filter(|path| !path.is_empty());
    let cgroup = match path.map(|path| (path, SchedulerGroup::at(Path::new(path)))) {
        Some((path, Err(error))) if error.kind() == io::ErrorKind::NotFound => {
            // An agent without the right to make cgroups names those that it would make.
            tracing::info!(path, "the agent has made no cgroup for the task");
            None
        }
        Some((path, Err(error))) => {
            let path = printable::line(path, limits::TEXT_CHARS);
            let message = format!("the cgroup that the agent gives the task: {path}: {error}");
            return Err(status(Code::FailedPrecondition, message, true));
        }
        Some((_, Ok(group))) => Some(group),
        None => None,
    };
    // A text that is no list of CPUs would cause an error of the kernel's, and is left out.
    let cpus = if cpus(&linux.cpuset_cpus) > 0 { linux.cpuset_cpus.clone() } else { String::new() };
    Ok(LinuxResources {
        cpu_shares: positive(linux.cpu_shares),
        memory_bytes: memory_max.and_then(|mib| mib.checked_mul(1 << 20)),
        cpus,
        cgroup,
    })
}

/// The pipes to Nomad's log collector; none where the task's logs are disabled.
fn log_pipes(task: &TaskConfig) -> Result<Option<LogPipes>, Status> {
    let is_none = |path: &str| path.is_empty() || path == "/dev/null";
    if is_none(&task.stdout_path) {
        return Ok(None);
    }
    let stderr = Some(&task.stderr_path).filter(|path| !is_none(path));
    let pipe = |key, path: &str| pipe(key, path, &task.alloc_dir);
    Ok(Some(LogPipes {
        stdout: pipe("stdout_path", &task.stdout_path)?,
        stderr: stderr.map(|path| pipe("stderr_path", path)).transpose()?,
    }))
}

/// A pipe below the allocation's folder. Other tasks of the group write to that folder, so that the path below it may have no links; the
/// path of the folder itself may have some.
fn pipe(key: &str, path: &str, alloc_dir: &str) -> Result<PathBuf, Status> {
    let wrong = |expected: &str| {
        let found = printable::line(path, limits::TEXT_CHARS);
        refused(Code::InvalidArgument, format!("{key}: {found}; expected {expected}"))
    };
    if !path.starts_with('/') || path.contains('\0') {
        return Err(wrong("a path from the root"));
    }
    let below = Path::new(path).strip_prefix(alloc_dir).ok().filter(|_| !alloc_dir.is_empty());
    let below = below.ok_or_else(|| wrong("a path below the allocation's folder"))?;
    let folder = std::fs::canonicalize(alloc_dir);
    let folder = folder.map_err(|error| wrong(&format!("a path that is there: {error}")))?;
    Ok(folder.join(below))
}

/// The job of a task, in the form of Nomad's API: one group with one task.
///
/// # Errors
/// The task's configuration is not what an agent encodes.
///
/// # Example
/// ```
/// use qhost_nomad::{Settings, job, proto::driver::TaskConfig};
///
/// let task = TaskConfig { name: "web".into(), job_name: "shop".into(), ..TaskConfig::default() };
/// assert_eq!(job(&task, &Settings::default()).unwrap()["TaskGroups"][0]["Tasks"][0]["Name"], "web");
/// ```
pub fn job(task: &TaskConfig, settings: &Settings) -> Result<Value, Status> {
    let mut config = config(&task.msgpack_driver_config)?;
    settings.defaults.lay_under(&mut config);
    let asks_for_env = config.get("task_env") == Some(&Value::Bool(true));
    let resources = resources(task.resources.as_ref(), mapped(&config).as_ref());
    let name = settings.names.task(task);
    let mut of_task = json!({
        "Name": name,
        "Driver": "qemu",
        "Config": config,
        "Meta": meta(task),
        "Resources": resources,
    });
    if asks_for_env && let Some(of_task) = of_task.as_object_mut() {
        of_task.insert("Env".into(), json!(task.env.iter().collect::<BTreeMap<_, _>>()));
    }
    Ok(json!({
        "ID": settings.names.job(task),
        "TaskGroups": [{
            "Name": if task.task_group_name.is_empty() { &name } else { &task.task_group_name },
            "Tasks": [of_task],
        }],
    }))
}

/// Reads the task's `config` block. A block of HCL comes as a list of objects.
fn config(packed: &[u8]) -> Result<Map<String, Value>, Status> {
    let wrong = |why: String| refused(Code::InvalidArgument, format!("the task's config: {why}"));
    let read = msgpack::read(packed).map_err(|error| wrong(error.to_string()))?;
    let Value::Object(object) = read else {
        return Err(wrong(format!("it is {read}; expected an object")));
    };
    Ok(TaskKey::unwrapped(msgpack::without_nulls(object)))
}

/// The labels of the VM: the job's own, and Nomad's ids of the task.
fn meta(task: &TaskConfig) -> BTreeMap<String, String> {
    let mut meta = BTreeMap::new();
    let is_upper = |key: &str| !key.contains(|c: char| c.is_ascii_lowercase());
    // An agent gives each key twice: as it stands in the job, and in capitals.
    let as_written = |key: &str| {
        !is_upper(key)
            || !task.env.keys().any(|other| {
                let other = other.strip_prefix(META);
                other.is_some_and(|it| it != key && it.eq_ignore_ascii_case(key))
            })
    };
    for (name, value) in &task.env {
        if let Some(key) = name.strip_prefix(META).filter(|key| as_written(key)) {
            meta.insert(key.to_owned(), value.clone());
        }
    }
    // Only Nomad says these ids, so that a task's own labels of these names are dropped.
    meta.retain(|key, _| ![TASK_ID, ALLOC_ID, NAMESPACE].contains(&key.as_str()));
    for (key, value) in
        [(TASK_ID, &task.id), (ALLOC_ID, &task.alloc_id), (NAMESPACE, &task.namespace)]
    {
        if !value.is_empty() {
            meta.insert(key.to_owned(), value.clone());
        }
    }
    meta
}

/// The labels in a task's `port_map`, if it has one: these are the ports of the group that are the task's.
fn mapped(config: &Map<String, Value>) -> Option<BTreeSet<String>> {
    let given = config.get("port_map")?;
    // A block comes as a list of objects.
    let maps = given.as_array().map_or(std::slice::from_ref(given), Vec::as_slice);
    let labels = maps.iter().filter_map(Value::as_object).flat_map(Map::keys);
    Some(labels.cloned().collect())
}

fn resources(given: Option<&Resources>, mapped: Option<&BTreeSet<String>>) -> Value {
    let allocated = given.and_then(|given| given.allocated_resources.as_ref());
    let memory = allocated.and_then(|allocated| allocated.memory.as_ref());
    let networks = allocated.map(|allocated| allocated.networks.as_slice()).unwrap_or_default();
    let of_task = networks.iter().map(|network| {
        let ports = network.reserved_ports.iter().chain(&network.dynamic_ports);
        let ports: Vec<_> = ports.map(of_task_port).collect();
        json!({ "IP": network.ip, "ReservedPorts": ports })
    });
    let of_group = given.map(|given| given.ports.as_slice()).unwrap_or_default();
    let is_its_own = |label: &String| mapped.is_none_or(|labels| labels.contains(label));
    let of_group = of_group.iter().filter(|port| is_its_own(&port.label));
    let of_group =
        of_group.map(|port| json!({ "IP": port.host_ip, "ReservedPorts": [of_group_port(port)] }));
    let mut resources = json!({
        "MemoryMB": memory.map_or(0, |memory| memory.memory_mb),
        "Networks": of_group.chain(of_task).collect::<Vec<_>>(),
    });
    let cores = given.and_then(|given| given.linux_resources.as_ref());
    let cores = cores.map_or(0, |linux| cpus(&linux.cpuset_cpus));
    if cores > 0
        && let Some(resources) = resources.as_object_mut()
    {
        resources.insert("Cores".into(), cores.into());
    }
    resources
}

fn of_group_port(port: &PortMapping) -> Value {
    json!({ "Label": port.label, "Value": port.value, "To": port.to })
}

fn of_task_port(port: &NetworkPort) -> Value {
    json!({ "Label": port.label, "Value": port.value })
}

/// How many CPUs a list such as `0-3,8` names; 0 where it is no such list. An agent names none for a task without cores of its own.
fn cpus(list: &str) -> u32 {
    let count = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.trim().parse::<u32>().ok()?, last.trim().parse::<u32>().ok()?);
        last.checked_sub(first)?.checked_add(1)
    };
    let counts: Option<Vec<u32>> = list.split(',').map(count).collect();
    counts.and_then(|counts| counts.into_iter().try_fold(0_u32, u32::checked_add)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::proto::driver::{
        AllocatedMemoryResources, AllocatedTaskResources, LinuxResources, NetworkResource,
    };

    fn task() -> TaskConfig {
        let port = |label: &str, value| NetworkPort { label: label.into(), value };
        let allocated = AllocatedTaskResources {
            memory: Some(AllocatedMemoryResources { memory_mb: 256, memory_max_mb: 512 }),
            networks: vec![NetworkResource {
                reserved_ports: vec![port("ssh", 2222)],
                dynamic_ports: vec![port("web", 20_000)],
                ip: "10.0.0.2".into(),
                ..NetworkResource::default()
            }],
            ..AllocatedTaskResources::default()
        };
        let group =
            PortMapping { label: "dns".into(), value: 25_000, to: 53, host_ip: "10.0.0.1".into() };
        TaskConfig {
            id: "alloc/web/1".into(),
            name: "web".into(),
            env: HashMap::from(
                [
                    ("NOMAD_META_OWNER", "ops"),
                    ("NOMAD_META_owner", "ops"),
                    ("NOMAD_META_TIER", "1"),
                    ("HOME", "/root"),
                ]
                .map(|(name, value)| (name.to_owned(), value.to_owned())),
            ),
            resources: Some(Resources {
                allocated_resources: Some(allocated),
                linux_resources: Some(LinuxResources {
                    cpuset_cpus: "0-1,4".into(),
                    ..LinuxResources::default()
                }),
                ports: vec![group],
            }),
            job_name: "shop".into(),
            alloc_id: "alloc".into(),
            namespace: "prod".into(),
            ..TaskConfig::default()
        }
    }

    #[test]
    fn a_task_as_a_job() {
        let job = job(&task(), &Settings::default()).unwrap();
        let expected = json!({
            "ID": "shop",
            "TaskGroups": [{
                "Name": "web",
                "Tasks": [{
                    "Name": "web",
                    "Driver": "qemu",
                    "Config": {},
                    "Meta": {
                        "TIER": "1",
                        "owner": "ops",
                        "nomad_alloc_id": "alloc",
                        "nomad_namespace": "prod",
                        "nomad_task_id": "alloc/web/1",
                    },
                    "Resources": {
                        "MemoryMB": 256,
                        "Cores": 3,
                        "Networks": [
                            { "IP": "10.0.0.1", "ReservedPorts": [
                                { "Label": "dns", "Value": 25_000, "To": 53 },
                            ] },
                            { "IP": "10.0.0.2", "ReservedPorts": [
                                { "Label": "ssh", "Value": 2222 },
                                { "Label": "web", "Value": 20_000 },
                            ] },
                        ],
                    },
                }],
            }],
        });
        assert_eq!(job, expected);
    }

    #[test]
    fn of_a_groups_ports_a_task_has_those_that_it_names() {
        let mut task = task();
        // The bytes encode {"port_map": [{"other": 80}]}.
        task.msgpack_driver_config = b"\x81\xa8port_map\x91\x81\xa5other\x50".to_vec();
        let job = job(&task, &Settings::default()).unwrap();
        let ports = &job["TaskGroups"][0]["Tasks"][0]["Resources"]["Networks"][0]["ReservedPorts"];
        let labels: Vec<_> = ports.as_array().unwrap().iter().map(|port| &port["Label"]).collect();
        assert_eq!(labels, ["ssh", "web"], "its own network's");
    }

    #[test]
    fn what_nomad_calls_a_task_cannot_be_said_by_the_task() {
        let mut task = task();
        task.namespace = String::new();
        task.env.insert("NOMAD_META_nomad_namespace".into(), "prod".into());
        task.env.insert("NOMAD_META_nomad_task_id".into(), "another's".into());
        let meta = meta(&task);
        assert_eq!(meta.get(NAMESPACE), None);
        assert_eq!(meta.get(TASK_ID), Some(&task.id));
    }

    #[test]
    fn the_environment_goes_to_the_guest_where_the_task_asks() {
        let mut task = task();
        // The bytes encode {"task_env": true, "ready": [{"serial": "up"}], "args": nil}.
        task.msgpack_driver_config =
            b"\x83\xa8task_env\xc3\xa5ready\x91\x81\xa6serial\xa2up\xa4args\xc0".to_vec();
        let job = job(&task, &Settings::default()).unwrap();
        let made = &job["TaskGroups"][0]["Tasks"][0];
        assert_eq!(made["Env"]["HOME"], "/root");
        // The block has become an object, and the attribute that was not given is absent.
        assert_eq!(made["Config"], json!({"task_env": true, "ready": {"serial": "up"}}));
    }

    #[test]
    fn lists_of_cpus() {
        for (list, count) in [
            ("", 0),
            ("0", 1),
            ("0-3,8", 5),
            ("3-1", 0),
            ("x", 0),
            ("0-4294967295", 0),
            ("0,,1", 0),
        ] {
            assert_eq!(cpus(list), count, "{list}");
        }
    }

    #[test]
    fn what_nomad_keeps() {
        let state = DriverState { version: DriverState::VERSION, vm: "web-1".into() };
        assert_eq!(DriverState::read(&state.to_bytes().unwrap()).unwrap(), state);
        let later = DriverState { version: DriverState::VERSION + 1, ..state };
        let error = DriverState::read(&later.to_bytes().unwrap()).unwrap_err();
        assert!(error.message().contains("upgrade the plugin"), "{error}");
    }
}
