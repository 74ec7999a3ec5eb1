//! A task as an agent hands it to a driver, with the pipe for the task's logs.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::Read as _,
    sync::{Arc, Mutex},
    thread,
};

use rustix::fs::{CWD, Mode, mkfifoat};
use serde_json::Value;

use qhost_nomad::proto::{
    driver::{
        AllocatedMemoryResources, AllocatedTaskResources, PortMapping, Resources, TaskConfig,
    },
    hclspec::Spec,
};

use super::packed;
use crate::{Qhost, wait_for};

/// A task with its log pipe, and the text that came out of the pipe.
pub struct Task {
    /// The task as an agent sends it.
    pub config: TaskConfig,
    console: Arc<Mutex<Vec<u8>>>,
}

impl Task {
    /// Makes a task of a job `web`, in the namespace `default`, with as little memory as the firmware starts with. The schema is the
    /// driver's.
    pub fn new(qhost: &Qhost, schema: &Spec, id: &str, config: &Value) -> Self {
        let folder = qhost.folder().join("allocs").join(id);
        fs::create_dir_all(&folder).expect("an allocation's folder");
        let fifo = folder.join("web.stdout.fifo");
        mkfifoat(CWD, &fifo, Mode::from_raw_mode(0o600)).expect("a named pipe");
        let console = Arc::new(Mutex::new(vec![]));
        let (path, read) = (fifo.clone(), Arc::clone(&console));
        // Nomad's log collector reads like this: it opens the pipe again when its writers have gone.
        thread::spawn(move || {
            // Both ends are open here, so that reading never ends.
            let Ok(mut pipe) = File::options().read(true).write(true).open(path) else { return };
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = pipe.read(&mut buffer) {
                read.lock().expect("the console").extend_from_slice(&buffer[..count]);
            }
        });
        let memory = AllocatedMemoryResources { memory_mb: 32, memory_max_mb: 0 };
        let allocated =
            AllocatedTaskResources { memory: Some(memory), ..AllocatedTaskResources::default() };
        let resources = Resources { allocated_resources: Some(allocated), ..Resources::default() };
        let config = TaskConfig {
            id: format!("{id}/web/1"),
            name: "web".into(),
            msgpack_driver_config: packed(schema, config),
            env: HashMap::from([
                ("NOMAD_META_OWNER".into(), "ops".into()),
                ("NOMAD_META_owner".into(), "ops".into()),
            ]),
            resources: Some(resources),
            alloc_dir: folder.to_string_lossy().into_owned(),
            stdout_path: fifo.to_string_lossy().into_owned(),
            task_group_name: "group".into(),
            job_name: "web".into(),
            job_id: "web".into(),
            alloc_id: id.into(),
            namespace: "default".into(),
            ..TaskConfig::default()
        };
        Self { config, console }
    }

    /// The task's id.
    pub fn id(&self) -> &str {
        &self.config.id
    }

    /// Gives the task so much memory.
    pub fn with_memory(mut self, mib: i64) -> Self {
        let resources = self.config.resources.as_mut();
        let allocated = resources.and_then(|resources| resources.allocated_resources.as_mut());
        if let Some(memory) = allocated.and_then(|allocated| allocated.memory.as_mut()) {
            memory.memory_mb = mib;
        }
        self
    }

    /// Gives the task's group ports: label, host port, guest port.
    pub fn with_ports(mut self, ports: &[(&str, u16, u16)]) -> Self {
        let mapping = |(label, value, to): &(&str, u16, u16)| PortMapping {
            label: (*label).into(),
            value: (*value).into(),
            to: (*to).into(),
            host_ip: "127.0.0.1".into(),
        };
        if let Some(resources) = &mut self.config.resources {
            resources.ports = ports.iter().map(mapping).collect();
        }
        self
    }

    /// The text that came out of the log pipe so far.
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&self.console.lock().expect("the console")).into_owned()
    }

    /// Waits until a text came out of the log pipe.
    pub fn says(&self, text: &str) {
        wait_for(&format!("{text:?} in the log"), || self.console().contains(text).then_some(()));
    }
}
