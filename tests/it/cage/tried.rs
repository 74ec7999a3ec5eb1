//! The attempts from QEMU's place, with their results: a snapshot for each kind of host, with the cage as `plan` shows it. The list for
//! cgroups of version 2 alone is the same as the first (`tests/cgroup2`).

use std::{
    fs,
    net::{TcpListener, TcpStream},
};

use serde_json::{Value, json};

use qhost_tests::{Qhost, can_filter, outside::outside};

use super::{Caged, is_root};
use crate::{qhost, snapshot};

/// Attempts that name no port of the host.
const ANYWHERE: &[&str] = &[
    "read /etc/passwd",
    "read /proc/self/environ",
    "list /home",
    "exec /bin/sh",
    "memfd",
    "memfd-exec",
    "write-and-exec",
    "capabilities",
    "setuid",
    "unshare",
    "mount",
    "chroot",
    "x32",
    "threads 1000",
    "files 5000",
    "packet",
    "netlink",
    "six",
    "multipath",
    "datagram-pair",
    // The stored image is other tenants' too.
    "read-lock-image",
    "flock-image",
    "lease-image",
    "times-of-image",
    "mode-of-image",
    "flags-of-image",
    "verity-of-image",
    "write-image",
    "truncate-image",
    "read-lock-overlay",
    // A volume outlives the VM, and is its tenant's to write to and to empty.
    "write-node data1",
    "empty-node data1",
    "enlarge-node data1",
    "read-lock-node data1",
    "mode-of-node data1",
    // The code of UEFI is every VM's.
    "write-node code",
    "empty-node code",
    "read-lock-node code",
    // UEFI's variables are the VM's own, or with `persist` its task's.
    "write-node variables",
    "enlarge-node variables",
    "read-lock-node variables",
    "mode-of-node variables",
    "mode-of-node code",
    "chmod",
    "sync",
    "listen-unbound 1000",
];

/// Ports that are free now. A list has their names, as the numbers differ each time.
struct Ports {
    forwarded: u16,
    other: u16,
    listening: TcpListener,
    /// Addresses by their names in a list.
    addresses: Vec<(String, &'static str)>,
}

impl Ports {
    fn new() -> Self {
        let free = || TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let [a, b] = [free(), free()].map(|listener| listener.local_addr().unwrap().port());
        Self { forwarded: a, other: b, listening: free(), addresses: vec![] }
    }

    fn named(&self) -> Vec<(String, &'static str)> {
        let listening = self.listening.local_addr().unwrap().port();
        let mut named = vec![
            (format!(":{}", self.forwarded), ":FORWARDED"),
            (format!(":{}", self.other), ":OTHER"),
            (format!(":{listening}"), ":OF-THE-HOST"),
        ];
        named.extend(self.addresses.clone());
        named
    }

    fn fill_in(&self, deed: &str) -> String {
        self.named().iter().fold(deed.into(), |deed, (port, name)| deed.replace(name, port))
    }

    fn take_out(&self, text: &str) -> String {
        self.named().iter().fold(text.into(), |text, (port, name)| text.replace(port, name))
    }
}

/// The files that a VM was set up from must not change over its restarts.
const OF_A_SEED: &[&str] =
    &["write-node seed", "empty-node seed", "read-lock-node seed", "mode-of-node seed"];
const OF_IGNITION: &[&str] = &["read-config", "write-config", "mode-of-config", "remove-config"];

/// Lists the result of each attempt, below the cage as `plan` shows it. The guest's second other disk is a volume.
fn tried(qhost: Qhost, ports: &Ports, deeds: &[&str], mut config: Value) -> String {
    qhost.run(&["volume", "create", "kept", "--size", "1MiB"]).exits(0);
    config["disks"].as_array_mut().unwrap().push(json!({"name": "kept", "volume": "kept"}));
    let deeds: Vec<String> = deeds.iter().map(|deed| ports.fill_in(deed)).collect();
    let caged = Caged::with(qhost, &deeds.iter().map(String::as_str).collect::<Vec<_>>(), config);
    // The VM has the ports, so that a plan with them would say that they are taken.
    let job = fs::read_to_string(caged.qhost.folder().join("job.json")).unwrap();
    let mut job: Value = serde_json::from_str(&job).unwrap();
    for port in
        job["config"]["port_map"].as_object_mut().into_iter().flat_map(|map| map.values_mut())
    {
        if let Some(port) = port.as_object_mut() {
            port.remove("host");
        }
    }
    // The VM has the volume too.
    job["config"].as_object_mut().unwrap().remove("disks");
    let job = caged.qhost.file("plan.json", job.to_string());
    let plan = caged.qhost.run(&["plan", &job]).exits(0).stdout;
    let cage = plan.lines().find(|line| line.starts_with("cage ")).unwrap().to_owned();
    let said = caged.said();
    let got = deeds.iter().map(|deed| {
        let line = said.lines().find(|line| line.starts_with(&format!("{deed}: ")));
        let (_, got) = line.unwrap_or_else(|| panic!("{deed}: {said}")).split_once(": ").unwrap();
        let got = if got.starts_with("after ") { "bounded" } else { got };
        format!("{:<40} {got}\n", ports.take_out(deed))
    });
    let got: String = got.collect();
    format!("{cage}\n\n{}", ports.take_out(&got))
}

/// A job with, beside the port, a seed, a disk and a firmware, whose files QEMU has open too.
fn forwarded(ports: &Ports, protocol: &str) -> Value {
    json!({
        "port_map": {"http": {"guest": 80, "host": ports.forwarded, "protocol": protocol}},
        "hostname": "web",
        "firmware": "uefi",
        "disks": [{"name": "data", "size": "1MiB"}],
    })
}

const BY_TCP: &[&str] = &[
    "tcp 127.0.0.1:OF-THE-HOST",
    "fastopen 127.0.0.1:OF-THE-HOST",
    "udp 127.0.0.1:OF-THE-HOST",
    "tcp 1.1.1.1:53",
    "listen 0.0.0.0:OTHER",
    "listen 127.0.0.1:OTHER",
    "listen 0.0.0.0:FORWARDED",
    "listen 127.0.0.1:FORWARDED",
];

/// Attempts with a port forwarded by UDP on a host whose kernel does not filter what is sent.
const BY_UDP: &[&str] = &[
    "bind-udp 0.0.0.0:OTHER",
    "bind-udp 127.0.0.1:OTHER",
    "bind-udp 0.0.0.0:FORWARDED",
    "bind-udp 127.0.0.1:FORWARDED",
    "listen 0.0.0.0:OTHER",
    "listen 127.0.0.1:FORWARDED",
    "listen-unbound 1000",
];

/// The list of a TCP port. It is the same if the guest has Ignition's config, which QEMU opens by name, an agent, and a display, for which
/// QEMU makes files in memory.
fn with_a_tcp_port(qhost: impl Fn() -> Qhost) -> String {
    let ports = Ports::new();
    let deeds = [ANYWHERE, BY_TCP].concat();
    let mut more = forwarded(&ports, "tcp");
    let of_all = |list: &str| {
        let lines: Vec<_> = list.lines().take(2 + deeds.len()).collect();
        lines.join("\n")
    };
    let seeded = tried(qhost(), &ports, &[&deeds, OF_A_SEED].concat(), more.clone());
    let config = more.as_object_mut().unwrap();
    config.remove("hostname");
    config.insert("ignition".into(), json!({"ignition": {"version": "3.4.0"}}));
    config.insert("guest_agent".into(), true.into());
    config.insert("display".into(), true.into());
    let ignited = tried(qhost(), &ports, &[&deeds, OF_IGNITION].concat(), more);
    assert_eq!(of_all(&ignited), of_all(&seeded));
    seeded + ignited.strip_prefix(&of_all(&ignited)).unwrap().trim_start_matches('\n')
}

/// The list of an ordinary user, or of a host without rights and cgroups, by TCP and then by UDP.
fn with_a_port(qhost: impl Fn() -> Qhost) -> String {
    let ports = Ports::new();
    let by_udp = tried(qhost(), &ports, BY_UDP, forwarded(&ports, "udp"));
    format!("{}\nby UDP\n{by_udp}", with_a_tcp_port(qhost))
}

#[test]
fn with_a_forwarded_tcp_port() {
    if !is_root() {
        eprintln!("not shown here: with_a_forwarded_tcp_port needs root");
        return;
    }
    let list = with_a_tcp_port(qhost);
    snapshot("hostile-qemu", &list, &qhost());
}

#[test]
fn as_an_ordinary_user() {
    if !is_root() {
        eprintln!("not shown here: as_an_ordinary_user drops root first");
        return;
    }
    let user = || {
        let user = qhost().as_user();
        user.config("[cage]\nlevel = \"best-effort\"\n");
        user
    };
    snapshot("hostile-qemu-user", &with_a_port(user), &qhost());
}

/// Without a user, namespaces and a cgroup of its own, seccomp, Landlock and the handed-over sockets still hold.
#[test]
fn on_a_host_with_neither() {
    if !is_root() {
        eprintln!("not shown here: on_a_host_with_neither drops root's rights first");
        return;
    }
    let bare = || {
        let bare = qhost().without_rights();
        bare.config("[cage]\nlevel = \"best-effort\"\ncgroup = \"../none\"\n");
        bare
    };
    snapshot("hostile-qemu-bare", &with_a_port(bare), &qhost());
}

#[test]
fn with_egress_and_udp() {
    let Some(outside) = outside().filter(|_| can_filter()) else {
        eprintln!("not shown here: with_egress_and_udp needs root and BPF");
        return;
    };
    let mut ports = Ports::new();
    ports.addresses =
        vec![(outside.public.to_string(), "OUTSIDE"), (outside.own.to_string(), "THIS-HOST")];
    let deeds = [
        &[
            // A socket receives answers from the address and port that it asked, and from no other port.
            "hear OUTSIDE:80",
            "udp THIS-HOST:80",
            "udp 127.0.0.1:OF-THE-HOST",
            "bind-udp 0.0.0.0:OTHER",
            "bind-udp 0.0.0.0:FORWARDED",
            "bind-udp 127.0.0.1:FORWARDED",
            "listen 0.0.0.0:OTHER",
            "listen-unbound 1000",
        ][..],
        ANYWHERE,
    ]
    .concat();
    let qhost = qhost();
    qhost.config("[network]\ninternet = true\n");
    let mut config = forwarded(&ports, "udp");
    config["egress"] = json!("internet");
    let list = tried(qhost, &ports, &deeds, config);
    snapshot("hostile-qemu-egress", &list, &self::qhost());
}

/// QEMU accepts connections at the forwarded address. The lists above show that it listens nowhere else.
#[test]
fn it_accepts_at_the_forwarded_address_only() {
    let ports = Ports::new();
    let accept = ports.fill_in("accept 127.0.0.1:FORWARDED");
    let deeds = ["listen-unbound 1", "listen-unbound 1", &accept];
    let caged = Caged::doing(&deeds, forwarded(&ports, "tcp"));
    let mut stream = TcpStream::connect(("127.0.0.1", ports.forwarded)).unwrap();
    let mut heard = String::new();
    std::io::Read::read_to_string(&mut stream, &mut heard).unwrap();
    assert_eq!(heard, "accepted");
    let said = caged.said();
    assert!(said.contains(&format!("{accept}: from 127.0.0.1")), "{said}");
}

/// A lock or a lease that a VM takes on the stored image would keep other tenants' VMs from starting.
#[test]
fn a_shared_image_is_no_weapon() {
    let deeds = ["read-lock-image", "flock-image", "lease-image", "times-of-image"];
    let caged = Caged::doing(&deeds, json!({}));
    caged.said();
    let job = fs::read_to_string(caged.qhost.folder().join("job.json")).unwrap();
    let other = caged.qhost.file("other.json", job.replace("\"test\"", "\"other\""));
    let report = caged.qhost.run(&["run", "--json", "--detach", &other]).exits(0).json();
    assert_eq!(report["image"]["cached"], true, "it was neither hashed again nor put away");
    caged.qhost.run(&["kill", "other"]).exits(0);
}
