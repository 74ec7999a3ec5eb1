//! A request and a launch for unit tests. Change what the test is about.

use crate::{
    Accelerator, Egress, HostFacts, Image, Launch, PortMap, PortRange, PortRequest, Protocol,
    Request, Resources, Task, Usage,
};

/// Tenant `acme` asks for one web server of 1 CPU and 256 MiB on a host with tcg, 4 CPUs and 8 GiB.
pub fn request() -> Request {
    Request { task: task(), host: host(), settings: "{}".into(), extensions: vec![] }
}

/// The launch that the host starts from for [`request`].
pub fn launch() -> Launch {
    Launch {
        accelerator: Accelerator::Tcg,
        ports: vec![PortMap {
            label: "http".into(),
            guest: 8080,
            host: Some(18080),
            bind: "127.0.0.1".into(),
            protocol: Protocol::Tcp,
        }],
        resources: Resources { cpus: 1, memory_mib: 256 },
        egress: Egress::Isolated,
        warnings: vec![],
        extensions: vec![],
    }
}

fn task() -> Task {
    Task {
        tenant: "acme".into(),
        job: "web".into(),
        name: "web".into(),
        image: Image {
            source: "https://images.example/web.qcow2".into(),
            sha256: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855".into(),
        },
        resources: Resources { cpus: 1, memory_mib: 256 },
        accelerator: None,
        ports: vec![PortRequest {
            label: "http".into(),
            guest: 8080,
            host: Some(18080),
            protocol: Protocol::Tcp,
        }],
        egress: Egress::Isolated,
        args: vec![],
        meta: vec![],
        extensions: vec![],
    }
}

fn host() -> HostFacts {
    HostFacts {
        name: "host-1".into(),
        qemu_version: "10.0.2".into(),
        accelerators: vec![Accelerator::Tcg],
        resources: Resources { cpus: 4, memory_mib: 8192 },
        free: Resources { cpus: 4, memory_mib: 6144 },
        ports: vec![PortRange { first: 1024, last: 65535 }],
        ports_in_use: vec![],
        tenant_usage: Usage { vms: 0, resources: Resources { cpus: 0, memory_mib: 0 }, ports: 0 },
        extensions: vec![],
    }
}
