//! Host ports that are forwarded to guests: whose they are, and the errors if they are taken.

use std::{
    fs,
    net::{TcpListener, UdpSocket},
    sync::atomic::{AtomicU16, Ordering},
};

use serde_json::{Value, json};

use qhost_tests::{
    ImageServer, Reply,
    boot_sector::{self, Then},
    policy, wait_for,
};

use crate::qhost;

#[test]
fn a_port_that_another_run_has_is_known() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let image = server.serve("/image", boot_sector::disk("the guest runs", Then::Hang));
    let port = free_ports(1);
    let dns = json!({"dns": {"guest": 53, "host": port, "protocol": "udp"}});
    qhost.config(qhost.cage_for_udp());
    let job = qhost.job(&image, json!({ "port_map": dns }));
    let running = qhost.start(&["run", "--grace", "0", &job]);
    qhost.console_has("the guest runs");
    // The forward is really UDP, since QEMU has bound a UDP port.
    let udp = fs::read_to_string("/proc/net/udp").unwrap();
    assert!(udp.contains(&format!("0100007F:{port:04X} ")), "{port} is not in {udp}");
    let taken = format!("host port {port} (udp on 127.0.0.1) is taken");
    qhost.run(&["run", &job]).exits(16).says(&taken);
    running.signal("INT");
    running.end().exits(130);
}

/// Two runs under `ports` get two ports: the port that one has reserved is shown to the other's policy as in use.
#[test]
fn runs_at_once_get_ports_of_their_own() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let stalled = Reply::StallAfter(boot_sector::disk("never", Then::Hang).into(), 500_000);
    server.set("/image", stalled);
    let job = qhost.job(&(server.url("/image"), "0".repeat(64)), json!({"port_map": {"http": 80}}));
    let first = free_ports(2);
    let settings = format!("ports={{\"first\": {first}, \"last\": {}}}", first + 1);
    let policy = policy("ports");
    let policy = policy.to_str().unwrap();
    let args = |verb| [verb, "--json", "--policy", policy, "--policy-settings", &settings, &job];
    // The first run holds its port while its image is fetched: no QEMU listens yet.
    let running = qhost.start(&args("run"));
    wait_for("the request", || (!server.requests().is_empty()).then_some(()));
    let plan = qhost.run(&args("plan")).exits(0).json();
    assert_eq!(plan["decision"]["launch"]["ports"][0]["host"], first + 1);
    running.signal("INT");
    running.end().exits(130);
    let plan = qhost.run(&args("plan")).exits(0).json();
    assert_eq!(plan["decision"]["launch"]["ports"][0]["host"], first, "given back");
}

/// The first of so many free ports in a row.
fn free_ports(count: u16) -> u16 {
    // Other processes' tests start elsewhere; tests of this one never get the same.
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = 20_000 + u16::try_from(std::process::id() % 100).unwrap() * 100;
    let free = |port: u16| {
        TcpListener::bind(("127.0.0.1", port)).is_ok()
            && UdpSocket::bind(("127.0.0.1", port)).is_ok()
    };
    loop {
        let first = start + NEXT.fetch_add(count, Ordering::Relaxed);
        if (first..first + count).all(free) {
            return first;
        }
    }
}

#[test]
fn a_port_that_is_taken_is_named() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap().port();
    let image = server.serve("/image", boot_sector::disk("never", Then::PowerOff));
    let job = qhost.job(&image, json!({"port_map": {"http": {"guest": 80, "host": taken}}}));
    qhost
        .run(&["run", &job])
        .exits(16)
        .says(&format!("host port {taken} (tcp on 127.0.0.1) is taken"));
    assert_eq!(server.requests(), [""; 0], "known before the image is fetched");
    assert!(qhost.vms().is_empty());
}

/// A port number can belong to another VM at each address of the host, and to one VM alone at all addresses.
#[test]
fn one_port_number_at_several_addresses() {
    let (qhost, server) = (qhost(), ImageServer::start());
    qhost.config("[ports]\nbind = [\"127.0.0.1\", \"127.0.0.2\", \"127.0.0.3\", \"0.0.0.0\"]\n");
    let image = server.serve("/image", boot_sector::disk("the guest runs", Then::Hang));
    let number = free_ports(1);
    let at = |address: &str| json!({"guest": 80, "host": number, "bind": address});
    let job = |name: &str, image, ports: Value| {
        let job = qhost.job(image, json!({ "port_map": ports }));
        qhost.file(name, fs::read(job).unwrap())
    };
    let two = job("two.json", &image, json!({"a": at("127.0.0.1"), "b": at("127.0.0.2")}));
    let first = qhost.run(&["run", "--detach", "--json", &two]).exits(0).json();
    for address in ["127.0.0.1", "127.0.0.2"] {
        TcpListener::bind((address, number)).unwrap_err();
    }
    drop(TcpListener::bind(("127.0.0.3", number)).expect("the other address is left alone"));
    // A run whose QEMU does not listen yet holds its ports.
    let stalled = Reply::StallAfter(boot_sector::disk("never", Then::Hang).into(), 500_000);
    server.set("/stalled", stalled);
    let fetched = (server.url("/stalled"), "0".repeat(64));
    let third = job("third.json", &fetched, json!({"a": at("127.0.0.3")}));
    let before = server.requests().len();
    let running = qhost.start(&["run", &third]);
    wait_for("the request", || (server.requests().len() > before).then_some(()));
    let other = job("other.json", &image, json!({"a": at("127.0.0.3")}));
    let all = job("all.json", &image, json!({"a": at("0.0.0.0")}));
    for verb in ["plan", "run"] {
        qhost.run(&[verb, &two]).exits(16).says("(tcp on 127.0.0.1) is taken");
        qhost.run(&[verb, &other]).exits(16).says("(tcp on 127.0.0.3) is taken");
        qhost.run(&[verb, &all]).exits(16).says("(tcp on 0.0.0.0) is taken");
    }
    qhost.run(&["kill", first["vm"]["id"].as_str().unwrap()]).exits(0);
    qhost.run(&["plan", &two]).exits(0);
    // A run that fetches and has a port at one address keeps others from all addresses.
    qhost.run(&["plan", &all]).exits(16).says("(tcp on 0.0.0.0) is taken");
    running.signal("INT");
    running.end().exits(130);
    qhost.run(&["plan", &all]).exits(0);
    let twice = job("twice.json", &image, json!({"a": at("127.0.0.1"), "b": at("0.0.0.0")}));
    qhost.run(&["plan", &twice]).exits(10).says("each host port once");
}

#[test]
fn ports_are_picked_within_what_is_allowed() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let image = server.serve("/image", boot_sector::disk("up", Then::PowerOff));
    let first = free_ports(3);
    let taken = TcpListener::bind(("127.0.0.1", first)).expect("a free port");
    let allowed = format!("[ports]\nallow = [\"{first}-{}\"]\n", first + 2);
    qhost.config(&(allowed + qhost.cage_for_udp()));
    let ports = json!({"a": 80, "b": {"guest": 81, "protocol": "udp"}, "c": 82});
    let report = qhost
        .run(&["run", "--json", &qhost.job(&image, json!({"port_map": ports}))])
        .exits(0)
        .json();
    let forwards = report["vm"]["ports"].as_array().expect("ports");
    let host = |label: &str| {
        let forward = forwards.iter().find(|forward| forward["label"] == label).expect("the port");
        forward["host"].as_u64().expect("a number")
    };
    let first = u64::from(first);
    assert_eq!([host("a"), host("b"), host("c")], [first + 1, first, first + 2]);
    let too_many = json!({"a": 80, "b": 81, "c": 82});
    qhost
        .run(&["run", &qhost.job(&image, json!({"port_map": too_many}))])
        .exits(16)
        .says("no host port is free");
    drop(taken);
}
