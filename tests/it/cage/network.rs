//! The parts of the network that are reached from inside the cage.

use std::{
    fs,
    net::{TcpListener, UdpSocket},
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener},
    },
    path::PathBuf,
    time::Duration,
};

use serde_json::json;

use qhost_tests::{can_filter, outside::outside, wait_for};

use super::{Caged, refused};
use crate::qhost;

#[test]
fn it_reaches_no_port_but_its_own() {
    let host = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let there = format!("tcp 127.0.0.1:{}", host.local_addr().unwrap().port());
    let udp = format!("udp 127.0.0.1:{}", host.local_addr().unwrap().port());
    let name = format!("\0qhost-test-{}", std::process::id());
    let abstract_name = SocketAddr::from_abstract_name(&name[1..]);
    let _abstract = UnixListener::bind_addr(&abstract_name.unwrap()).unwrap();
    let unix = format!("abstract {}", &name[1..]);
    let fast = there.replace("tcp", "fastopen");
    // This port is one that any process may listen on.
    let probe = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let other = format!("listen {}", probe.local_addr().unwrap());
    drop(probe);
    let deeds = [
        there.as_str(),
        udp.as_str(),
        unix.as_str(),
        "tcp 1.1.1.1:53",
        fast.as_str(),
        "multipath",
        "datagram-pair",
        "chmod",
        other.as_str(),
        "packet",
        "netlink",
    ];
    let caged = Caged::doing(&deeds, json!({}));
    let said = caged.said();
    let more = [fast.as_str(), "multipath", "datagram-pair", "chmod"];
    let all = [there.as_str(), "tcp 1.1.1.1:53", &udp, &unix, "packet", "netlink"];
    for deed in more.into_iter().chain(all) {
        refused(&said, deed, "Operation not permitted");
    }
    refused(&said, &other, "Operation not permitted");
    // As a control, the VM's own forwarded port is listened on.
    assert!(caged.port > 0);
    drop(caged);
    let probe = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = probe.local_addr().unwrap().port();
    drop(probe);
    let listen = format!("listen 127.0.0.1:{port}");
    let ports = json!({"port_map": {"http": {"guest": 80, "host": port}}});
    let said = Caged::doing(&[&listen], ports).said();
    assert!(said.contains(&format!("{listen}: listens at")), "{said}");
}

/// Without a forwarded port a VM has no network at all.
#[test]
fn without_ports_it_has_no_network() {
    let deeds = ["interfaces", "listen 127.0.0.1:20000"];
    let said = Caged::doing(&deeds, json!({"port_map": {}})).said();
    refused(&said, "listen 127.0.0.1:20000", "Operation not permitted");
    assert!(said.contains("interfaces: only lo, and that is down"), "{said}");
}

/// A forwarded UDP port answers its askers, and sends nothing elsewhere, with egress or without.
#[test]
fn a_udp_port_answers_only() {
    for egress in ["isolated", "internet"] {
        let qhost = qhost();
        if !can_filter() {
            eprintln!("not shown here: a_udp_port_answers_only needs root and BPF");
            return;
        }
        qhost.config("[network]\ninternet = true\n");
        let local = || UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        let (asker, other, free) = (local(), local(), local().local_addr().unwrap());
        asker.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let answer = format!("answer {free} {}", other.local_addr().unwrap());
        let (to_asker, to_other) = (
            format!("udp {}", asker.local_addr().unwrap()),
            format!("udp {}", other.local_addr().unwrap()),
        );
        // This goes to the asker's address, but not to its port.
        let connect = format!("udp-connect {}", other.local_addr().unwrap());
        // A sender to a port that is not forwarded is not to be answered.
        let not_forwarded = local().local_addr().unwrap();
        let ask_there = format!("answer {not_forwarded}");
        let deeds = [to_asker.as_str(), &answer, &to_asker, &to_other, &connect, &ask_there];
        let port = json!({"dns": {"guest": 53, "host": free.port(), "protocol": "udp"}});
        let caged = Caged::with(qhost, &deeds, json!({"port_map": port, "egress": egress}));
        let mut heard = [0; 16];
        let length = wait_for("an answer", || {
            asker.send_to(b"?", free).unwrap();
            asker.recv(&mut heard).ok()
        });
        assert_eq!(&heard[..length], b"answered");
        let said = wait_for("the last deed", || {
            other.send_to(b"?", not_forwarded).unwrap();
            let log = fs::read_to_string(caged.qhost.vms()[0].join("console.log")).ok()?;
            log.contains("DONE").then_some(log)
        });
        // All forwarded ports are bound by now, so that the supervisor answers no further bind(2).
        refused(&said, &ask_there, "Function not implemented");
        refused(&said, &to_asker, "Operation not permitted");
        // The forwarded socket answers the address that asked, and sends to no other.
        refused(&said, &answer, "Operation not permitted");
        let again = said.rmatch_indices(&format!("{to_asker}: ")).next().unwrap().0;
        let again = said[again..].lines().next().unwrap();
        match egress {
            "internet" => assert!(again.ends_with(": done"), "{said}"),
            // Any other socket is in a network of its own.
            _ => assert!(again.contains("Network is unreachable"), "{said}"),
        }
        refused(&said, &to_other, "Operation not permitted");
        refused(&said, &connect, "Operation not permitted");
    }
}

/// With egress a VM reaches public addresses and the host's resolver, and nothing else: not this host by any of its addresses, no private
/// network, no other port of the resolver's host. Datagrams are held to this like connections.
#[test]
fn with_egress_it_reaches_public_addresses_only() {
    let qhost = qhost();
    let Some(outside) = outside().filter(|_| can_filter()) else {
        eprintln!(
            "not shown here: with_egress_it_reaches_public_addresses_only needs root and BPF"
        );
        return;
    };
    qhost.config("[network]\ninternet = true\n");
    let loopback = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let loopback = loopback.local_addr().unwrap();
    let own = TcpListener::bind((outside.own, 0)).unwrap();
    let own = own.local_addr().unwrap();
    let (public, private) = (outside.public, outside.private);
    let mut denied = vec![
        format!("tcp {loopback}"),
        format!("udp {loopback}"),
        format!("fastopen {loopback}"),
        format!("tcp {own}"),
        format!("udp {own}"),
        format!("tcp {private}:80"),
        format!("udp {private}:80"),
        format!("fastopen {private}:80"),
        format!("udp-connect {private}:80"),
        format!("tcp 0.0.0.0:{}", loopback.port()),
        // This host receives broadcasts to its network.
        format!("broadcast {}:80", outside.broadcast),
        // These packets ask to be passed on by way of another host, or could.
        format!("source-routed {public}:80"),
        format!("ip-options {public}:80"),
        "multipath".into(),
        "six".into(),
        "packet".into(),
    ];
    // These are the first and the last address of each network, and clouds' metadata addresses.
    for of in "10.0.0.0 10.255.255.255 100.64.0.1 127.255.255.254 169.254.169.254 172.16.0.1 172.31.255.255 \
               192.168.0.1 192.168.255.255 168.63.129.16 224.0.0.1 240.0.0.1"
        .split_whitespace()
    {
        denied.push(format!("udp {of}:80"));
    }
    let public = [
        format!("tcp {public}:80"),
        format!("udp {public}:80"),
        format!("udp-connect {public}:80"),
    ];
    let resolvers = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let resolver = resolvers.lines().find_map(|line| line.strip_prefix("nameserver "));
    let resolver = resolver.map(str::trim).filter(|resolver| !resolver.contains(':'));
    let mut names = None;
    if let Some(resolver) = resolver {
        if resolver.starts_with("10.") || resolver.starts_with("127.") {
            denied.push(format!("udp {resolver}:54"));
        }
        names = Some(format!("udp {resolver}:53"));
    } else {
        eprintln!("not shown here: that the host's resolver is reached, for it has none");
    }
    let elsewhere = "listen 0.0.0.0:0".to_owned();
    let read = "read /etc/resolv.conf".to_owned();
    let all = denied.iter().chain(&public).chain(&names).chain([&elsewhere, &read]);
    let deeds: Vec<&str> = all.map(String::as_str).collect();
    let caged = Caged::with(qhost, &deeds, json!({"egress": "internet"}));
    let said = caged.said();
    for deed in &denied {
        refused(&said, deed, "Operation not permitted");
    }
    for deed in &public {
        assert!(said.contains(&format!("{deed}: done")), "{deed}\n{said}");
    }
    if let Some(deed) = names {
        // This machine may have no route to the address.
        assert!(!said.contains(&format!("{deed}: Operation not permitted")), "{said}");
        assert!(said.contains("read /etc/resolv.conf: done"), "{said}");
    }
    refused(&said, &elsewhere, "Operation not permitted");
    let inspected = caged.qhost.run(&["inspect", "test"]).exits(0);
    assert!(inspected.stdout.contains("cage       strict\n"), "{}", inspected.stdout);
    // A second start of the VM gets the same results.
    caged.qhost.run(&["restart", "--grace", "0", "test"]).exits(0);
    let again = wait_for("the second start", || {
        let log = fs::read_to_string(caged.qhost.vms()[0].join("console.log")).ok()?;
        (log.matches("DONE").count() == 2).then_some(log)
    });
    let second = again.split_once("DONE").unwrap().1;
    for deed in &denied {
        refused(second, deed, "Operation not permitted");
    }
    // The egress program is removed with the VM.
    let vm = caged.qhost.vms().remove(0).file_name().unwrap().to_string_lossy().into_owned();
    let group = egress_group(&vm);
    assert!(group.exists());
    caged.qhost.run(&["kill", "test"]).exits(0);
    assert!(!group.exists());
}

fn egress_group(vm: &str) -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let root = mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        let at = words.next()?;
        (words.next()? == "cgroup2").then(|| PathBuf::from(at))
    });
    root.expect("cgroups of version 2").join("qhost/tenant-default").join(vm).join("qemu")
}
