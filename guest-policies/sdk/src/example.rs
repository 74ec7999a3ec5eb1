//! A request and a launch for unit tests. Change what the test is about.

use crate::{
    Accelerator, Access, AccessLevel, Disk, DiskKind, Egress, Firmware, FirmwareKind, HostFacts,
    Image, Launch, Machine, Nic, Occasion, PortMap, PortRange, PortRequest, Protocol, Rate,
    Request, Resources, SecureBoot, Task, Usage,
};

/// Tenant `acme` asks for one web server of 1 CPU and 256 MiB on a host with tcg, 4 CPUs and 8 GiB.
pub fn request() -> Request {
    Request {
        occasion: Occasion::Launch,
        task: task(),
        host: host(),
        settings: "{}".into(),
        time: "2026-01-01T00:00:00Z".into(),
        unix_seconds: 1_767_225_600,
        extensions: vec![],
    }
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
        disks: vec![root_disk()],
        seed: None,
        firmware: firmware(),
        machine: machine(),
        nics: vec![nic()],
        access: access(),
        grace_seconds: 30,
        warnings: vec![],
        extensions: vec![],
    }
}

const UNLIMITED: Rate = Rate { operations: None, kib: None };

fn root_disk() -> Disk {
    Disk {
        name: "root".into(),
        kind: DiskKind::Root,
        size_mib: None,
        image: None,
        volume: None,
        read_only: false,
        persistent: false,
        rate: UNLIMITED,
    }
}

fn firmware() -> Firmware {
    Firmware { kind: FirmwareKind::Bios, secure_boot: SecureBoot::Off, keeps_variables: false }
}

fn machine() -> Machine {
    Machine { kind: "pc".into(), architecture: "x86_64".into(), cpu: "max".into(), nested: false }
}

fn nic() -> Nic {
    Nic { name: "net".into(), network: "user".into(), mac: None, rate: UNLIMITED }
}

fn access() -> Access {
    Access { console: AccessLevel::Interact, display: AccessLevel::None, agent: AccessLevel::None }
}

fn task() -> Task {
    Task {
        tenant: "acme".into(),
        job: "web".into(),
        name: "web".into(),
        image: Image {
            source: "https://images.example/web.qcow2".into(),
            sha256: Some("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855".into()),
            sha512: None,
            checksums: None,
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
        disks: vec![root_disk()],
        seed: None,
        firmware: None,
        machine: machine(),
        nics: vec![nic()],
        access: access(),
        grace_seconds: None,
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
        machines: vec![machine()],
        firmware: vec![firmware()],
        networks: vec!["user".into()],
        resources: Resources { cpus: 4, memory_mib: 8192 },
        free: Resources { cpus: 4, memory_mib: 6144 },
        ports: vec![PortRange { first: 1024, last: 65535 }],
        ports_in_use: vec![],
        tenant_usage: Usage { vms: 0, resources: Resources { cpus: 0, memory_mib: 0 }, ports: 0 },
        extensions: vec![],
    }
}
