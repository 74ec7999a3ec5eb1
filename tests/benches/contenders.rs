//! The contenders: a chain of qhost's, bare wasmtime with the same component, regorus with the same rules.

use std::{fs, sync::Arc};

use serde_json::{Value, json};
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Store,
    component::{Component, HasSelf, Linker},
};

use qhost_image::SeedFile;
use qhost_model::{
    digest::Sha256,
    host_facts::{Accelerator, HostFacts, Resources, TenantUsage},
    job::{Checksum, ImageRequest, Task},
    launch::{Asked, Egress, PortRange, PortRequest, Protocol, Rules, seed::NoCloud},
};
use qhost_policy::{Allowance, Chain, Layer, Loader, Mode, Request, Source, Table};
use qhost_tests::{policy, root};

use crate::bare::{
    Policy, PolicyPre,
    qhost::policy::{log, tables, types},
};

/// A request that the policy leaves as it is, since it asks for what the policy would choose.
pub(crate) fn settled() -> Request {
    let mut request = request();
    request.task.asked.accelerator = Some(Accelerator::Kvm);
    request.task.asked.resources.memory_mib = 512;
    request.task.asked.ports.iter_mut().for_each(|port| port.host = port.host.or(Some(20_002)));
    request
}

/// A request of two ports, one of them with a host port; the policy changes the accelerator, the memory and the other port.
pub(crate) fn request() -> Request {
    let port = |label: &str, guest, host| PortRequest {
        label: label.into(),
        guest,
        host,
        bind: None,
        protocol: Protocol::Tcp,
    };
    let amount = |cpus, memory_mib| Resources { cpus, memory_mib };
    Request {
        task: Task {
            restart: qhost_model::job::Restart::default(),
            ready: None,
            not_looked_at: vec![],
            tenant: "acme".into(),
            job: "web".into(),
            name: "web".into(),
            image: ImageRequest {
                source: "https://images.example/web.qcow2".parse().expect("a URL"),
                mirrors: vec![],
                checksum: Checksum::Image { sha256: Sha256::of(b"") },
            },
            asked: Asked {
                resources: amount(1, 1024),
                accelerator: None,
                ports: vec![port("http", 80, None), port("ssh", 22, Some(20_010))],
                egress: Egress::Isolated,
                disk_bytes: None,
                disk_rate: qhost_model::launch::Rate::default(),
                persist: false,
                disks: vec![],
                seed: None,
                firmware: None,
                machine: qhost_model::launch::Machine::default(),
                nics: qhost_model::launch::nics::default(),
                access: qhost_model::launch::Access::default(),
                grace_s: None,
            },
            args: vec![],
            meta: [("team".to_owned(), "web".to_owned())].into(),
        },
        host: HostFacts {
            name: "host-1".into(),
            qemu_version: "10.0.2".into(),
            accelerators: vec![Accelerator::Tcg, Accelerator::Kvm],
            architectures: qhost_model::host_facts::own_architecture(),
            firmware: qhost_model::host_facts::bios(),
            resources: amount(16, 65_536),
            free: amount(8, 32_768),
            ports_in_use: vec![22, 20_000, 20_001],
            tenant_usage: TenantUsage { vms: 1, resources: amount(1, 256), ports: 1 },
        },
        rules: Rules::default(),
        time: jiff::Timestamp::UNIX_EPOCH,
        occasion: qhost_policy::Occasion::Launch,
    }
}

/// The settled task with 8 data disks and a seed of 64 KiB.
pub(crate) fn with_disks_and_seed() -> Request {
    let disks: Vec<_> =
        (0..8).map(|number| json!({"name": format!("d{number}"), "size": "1GiB"})).collect();
    let lines: String = (0..1024).map(|line| format!("# {line:061}\n")).collect();
    let job = json!({
        "name": "web",
        "driver": "qemu",
        "config": {
            "image_source": "https://images.example/web.qcow2",
            "checksum": "0".repeat(64),
            "disks": disks,
            "user_data": format!("#cloud-config\npackages: []\n{lines}"),
        },
        "resources": {"memory_mib": 1024},
    });
    let task = qhost_model::job::parse("job.json", job.to_string().as_bytes(), "acme", None);
    let asked = task.expect("a job").asked;
    let mut request = settled();
    (request.task.asked.disks, request.task.asked.seed) = (asked.disks, asked.seed);
    request
}

/// Makes the disk of a request's seed.
pub(crate) fn seed_disk_of(request: &Request) -> Vec<u8> {
    let asked = request.task.asked.seed.as_ref().expect("a seed");
    let instance = "web-00000000";
    let seed = NoCloud { asked, launched: &asked.seed, instance, task: "web", vendor_data: None };
    let files = seed.files();
    let files: Vec<_> = files
        .iter()
        .map(|file| SeedFile { name: file.name, bytes: file.text.as_bytes() })
        .collect();
    qhost_image::seed_disk(&files)
}

fn settings() -> Value {
    json!({"hosts": ["images.example"], "memory_mib": 512, "first": 20000, "last": 20015})
}

/// A chain of the standard policy several times over: only the first changes anything.
pub(crate) fn chain(loader: &Loader, policies: usize) -> Chain {
    let source = |index| Source {
        name: format!("standard-{index}"),
        path: policy("standard"),
        pin: None,
        signers: None,
        settings: settings().to_string(),
        allowance: Allowance::default(),
        mode: Mode::Enforce,
        layer: Layer::Host,
        unseen: vec![],
    };
    loader.chain((0..policies).map(source).collect()).expect("the standard policy loads")
}

/// A chain of a policy that looks the tenant up in a table of so many rows, whose keys are as long as digests.
pub(crate) fn looks_up(loader: &Loader, rows: usize) -> Chain {
    let row = |row: usize| (format!("{row:064x}"), json!({}));
    let mut table: serde_json::Map<_, _> = (1..rows).map(row).collect();
    table.insert("acme".into(), json!({"memory_mib": 4096}));
    let table = Table::read(Value::Object(table).to_string().as_bytes()).map(Arc::new);
    let loader = loader.clone().with_tables(Arc::new(move |_: &str| table.clone().map(Some)));
    let source = Source::new("sizes", policy("sizes"));
    loader.chain(vec![source]).expect("the policy sizes loads")
}

/// The component under wasmtime alone, with what makes it fastest: a pool, and pages that are kept and found by the kernel. It has a
/// deadline, as any host of a tenant's code must have, and none of qhost's other bounds.
pub(crate) struct Bare {
    engine: Engine,
    policy: PolicyPre<Nothing>,
}

/// The state of a host that has none.
pub(crate) struct Nothing;

impl types::Host for Nothing {}

impl tables::Host for Nothing {
    fn get(&mut self, _: String, _: String) -> Option<String> {
        None
    }

    fn size(&mut self, _: String) -> u32 {
        0
    }
}

impl log::Host for Nothing {
    fn log(&mut self, _: log::Level, _: String) {}
}

impl Bare {
    pub(crate) fn new() -> Self {
        let mut pool = PoolingAllocationConfig::new();
        pool.total_component_instances(16)
            .linear_memory_keep_resident(256 << 10)
            .table_keep_resident(256 << 10)
            .pagemap_scan(Enabled::Auto);
        let mut config = Config::new();
        config
            .epoch_interruption(true)
            .concurrency_support(false)
            .allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
        let engine = Engine::new(&config).expect("an engine");
        let component = Component::from_file(&engine, policy("standard")).expect("a component");
        let mut linker = Linker::new(&engine);
        Policy::add_to_linker::<_, HasSelf<_>>(&mut linker, |nothing| nothing).expect("a linker");
        let policy = PolicyPre::new(linker.instantiate_pre(&component).expect("its imports"));
        Self { engine, policy: policy.expect("a policy") }
    }

    /// Calls `choose` and `validate` in a fresh sandbox, and `choose` once more about the chosen launch if qhost does.
    pub(crate) fn decide(&self, (request, launch): &Arguments, calls: Calls) -> usize {
        let mut store = Store::new(&self.engine, Nothing);
        // The epoch does not tick: the tick is cheap enough to leave out, and no limit has to be kept here.
        store.set_epoch_deadline(1000);
        let instance = self.policy.instantiate(&mut store).expect("an instance");
        let decide = instance.qhost_policy_decide();
        let chosen = decide.call_choose(&mut store, request, launch);
        let mut chosen = chosen.expect("an answer").expect("a launch");
        if calls == Calls::Three {
            let again = decide.call_choose(&mut store, request, &chosen);
            chosen = again.expect("an answer").expect("a launch");
        }
        let violations = decide.call_validate(&mut store, request, &chosen);
        violations.expect("an answer").len()
    }
}

/// The calls that bare wasmtime makes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Calls {
    /// `choose` and `validate`.
    Two,
    /// `choose`, `choose` about its result, `validate`.
    Three,
}

/// A request and the launch so far.
pub(crate) type Arguments = (types::Request, types::Launch);

/// A request as wasmtime's bindings have it, and the launch that the host starts from.
pub(crate) fn arguments(request: Request) -> Arguments {
    let Request { task, host, rules, time, occasion: _ } = request;
    let asked = task.asked;
    let amount =
        |amount: Resources| types::Resources { cpus: amount.cpus, memory_mib: amount.memory_mib };
    let accelerator = |accelerator| match accelerator {
        Accelerator::Tcg => types::Accelerator::Tcg,
        Accelerator::Kvm => types::Accelerator::Kvm,
    };
    let ports = |port: &PortRequest| types::PortMap {
        label: port.label.clone(),
        guest: port.guest,
        host: port.host,
        bind: "127.0.0.1".into(),
        protocol: types::Protocol::Tcp,
    };
    let launch = types::Launch {
        accelerator: accelerator(asked.accelerator.unwrap_or(Accelerator::Tcg)),
        ports: asked.ports.iter().map(ports).collect(),
        resources: amount(asked.resources),
        egress: types::Egress::Isolated,
        disks: vec![root_disk()],
        seed: None,
        firmware: firmware(),
        machine: machine(),
        nics: vec![nic()],
        access: access(),
        grace_seconds: 30,
        warnings: vec![],
        extensions: vec![],
    };
    let ports = |port: &PortRequest| types::PortRequest {
        label: port.label.clone(),
        guest: port.guest,
        host: port.host,
        protocol: types::Protocol::Tcp,
    };
    let task = types::Task {
        ports: asked.ports.iter().map(ports).collect(),
        tenant: task.tenant,
        job: task.job,
        name: task.name,
        image: types::Image {
            source: task.image.source.to_string(),
            sha256: task.image.checksum.pin().map(|sha256| sha256.to_string()),
            sha512: None,
            checksums: None,
        },
        resources: amount(asked.resources),
        accelerator: asked.accelerator.map(accelerator),
        egress: types::Egress::Isolated,
        disks: vec![root_disk()],
        seed: None,
        firmware: None,
        machine: machine(),
        nics: vec![nic()],
        access: access(),
        grace_seconds: None,
        args: task.args,
        meta: task.meta.into_iter().collect(),
        extensions: vec![],
    };
    let ranges = |range: &PortRange| types::PortRange { first: range.first(), last: range.last() };
    let host = types::HostFacts {
        name: host.name,
        qemu_version: host.qemu_version,
        accelerators: vec![types::Accelerator::Tcg, types::Accelerator::Kvm],
        machines: ["pc", "q35"]
            .map(|kind| types::Machine { kind: kind.into(), ..machine() })
            .into(),
        firmware: vec![firmware()],
        networks: vec!["user".into()],
        resources: amount(host.resources),
        free: amount(host.free),
        ports: rules.ports.iter().map(ranges).collect(),
        ports_in_use: host.ports_in_use,
        tenant_usage: types::Usage {
            vms: host.tenant_usage.vms,
            resources: amount(host.tenant_usage.resources),
            ports: host.tenant_usage.ports,
        },
        extensions: vec![],
    };
    let settings = settings().to_string();
    let request = types::Request {
        occasion: types::Occasion::Launch,
        task,
        host,
        settings,
        time: time.to_string(),
        unix_seconds: 0,
        extensions: vec![],
    };
    (request, launch)
}

const UNLIMITED: types::Rate = types::Rate { operations: None, kib: None };

fn root_disk() -> types::Disk {
    types::Disk {
        name: "root".into(),
        kind: types::DiskKind::Root,
        size_mib: None,
        image: None,
        volume: None,
        read_only: false,
        persistent: false,
        rate: UNLIMITED,
    }
}

fn firmware() -> types::Firmware {
    let (kind, secure_boot) = (types::FirmwareKind::Bios, types::SecureBoot::Off);
    types::Firmware { kind, secure_boot, keeps_variables: false }
}

fn machine() -> types::Machine {
    types::Machine {
        kind: "pc".into(),
        architecture: "x86_64".into(),
        cpu: "max".into(),
        nested: false,
    }
}

fn nic() -> types::Nic {
    types::Nic { name: "net".into(), network: "user".into(), mac: None, rate: UNLIMITED }
}

fn access() -> types::Access {
    let none = types::AccessLevel::None;
    types::Access { console: types::AccessLevel::Interact, display: none.clone(), agent: none }
}

/// The rules in Rego, with a warm engine: each decision has another input, as JSON in and out.
pub(crate) struct Rego {
    engine: regorus::Engine,
    input: String,
}

impl Rego {
    pub(crate) fn new() -> Self {
        let rules = root().join("tests/benches/standard.rego");
        let rules = fs::read_to_string(rules).expect("the rules");
        let mut engine = regorus::Engine::new();
        engine.add_policy("standard.rego".into(), rules).expect("rules that parse");
        let Request { task, host, .. } = request();
        let input = json!({"task": task, "host": host, "settings": settings()}).to_string();
        Self { engine, input }
    }

    pub(crate) fn decide(&mut self) -> String {
        let input = regorus::Value::from_json_str(&self.input).expect("JSON");
        self.engine.set_input(input);
        let decision = self.engine.eval_rule("data.qhost.decision".into()).expect("a decision");
        decision.to_json_str().expect("JSON")
    }
}

/// Checks that both give this request the same launch and the same violations; otherwise their rules differ.
pub(crate) fn assert_same_rules(chain: &Chain, rego: &mut Rego) {
    let verdict = chain.decide(request());
    let decision = verdict.decision();
    let theirs: Value = serde_json::from_str(&rego.decide()).expect("JSON");
    assert_eq!(json!(decision.launch), theirs["launch"]);
    assert_eq!(json!(decision.policies[0].violations), theirs["violations"]);
    assert_eq!(decision.launch.ports[0].host, Some(20_002), "the request is not trivial");
}
