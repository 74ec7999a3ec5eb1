//! A real Linux guest, in every form of image: its web server through a mapped port, its power button, and the places that it cannot reach.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use serde_json::json;

use qhost_tests::{
    ImageServer, Qhost,
    boot_sector::{self, Then},
    can_filter, linux_guest,
    outside::outside,
    wait_for,
};

use crate::qhost;

/// Starts a guest, waits until it is up, does something with its mapped port, and stops it by its power button.
fn with_guest(image: &str, config: serde_json::Value, toml: &str, visit: impl FnOnce(&Qhost, u16)) {
    let (qhost, server) = (qhost(), ImageServer::start());
    qhost.config(toml);
    let served = server.serve("/image", fs::read(linux_guest().join(image)).expect("the guest"));
    let job = qhost.job(&served, config);
    let job = fs::read_to_string(job).unwrap().replace("\"memory_mib\":32", "\"memory_mib\":128");
    let job = qhost.file("job.json", job);
    let running = qhost.start(&["run", "--json", &job]);
    qhost.console_has("GUEST-READY");
    let plan = fs::read(qhost.vms()[0].join("plan.json")).unwrap();
    let plan: serde_json::Value = serde_json::from_slice(&plan).unwrap();
    let port = plan["forwards"][0]["host"]
        .as_u64()
        .and_then(|port| u16::try_from(port).ok())
        .expect("a port");
    visit(&qhost, port);
    // The guest powers off within its grace, by its power button.
    qhost.run(&["stop", "test"]).exits(0).says("stopped; the guest powered off");
    let report = running.end().exits(130).json();
    assert_eq!(report["vm"]["end"], json!({"reason": "stopped", "by": "powerdown"}));
    qhost.console_has("GUEST-POWEROFF");
    qhost.assert_nothing_left();
}

/// The body of a page. The request is repeated while the guest's server comes up behind its forwarded port.
fn get(port: u16, path: &str) -> String {
    wait_for("the guest's web server", || {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: guest\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer
            .split_once("\r\n\r\n")
            .map(|(_, body)| body.trim().to_owned())
            .filter(|body| !body.is_empty())
    })
}

/// Whether the job's ready check has held.
fn is_ready(qhost: &Qhost) -> bool {
    qhost.run(&["inspect", "--json", "test"]).exits(0).json()["ready_at"].is_string()
}

#[test]
fn an_iso_that_is_ready_when_it_serves_a_page() {
    let config = json!({"port_map": {"http": 8080}, "ready": {"http": "http", "path": "/"}});
    with_guest("guest.iso", config, "", |qhost, port| {
        wait_for("the page", || is_ready(qhost).then_some(()));
        assert_eq!(get(port, "/"), "hello from the guest");
    });
}

#[test]
fn a_raw_disk_that_is_ready_when_it_says_something() {
    let config = json!({"port_map": {"hello": 7000}, "ready": {"tcp": "hello"}});
    with_guest("guest.raw", config, "", |qhost, _| {
        wait_for("the greeting", || is_ready(qhost).then_some(()));
    });
}

/// The guest cannot reach a server on the host's loopback, while its mapped port answers. Without the page of its ready check, the guest is
/// not ready.
#[test]
fn a_qcow2_disk_and_an_isolated_guest() {
    let host = ImageServer::start();
    host.serve("/", &b"the host"[..]);
    let ready = json!({"http": "http", "path": "/none", "timeout_s": 3600});
    let disk = json!(5_u64 << 30);
    let config = json!({"port_map": {"http": 8080}, "ready": ready, "disk_bytes": disk});
    with_guest("guest.qcow2", config, "", |qhost, port| {
        assert_eq!(get(port, "/cgi-bin/disk"), (10 << 20).to_string(), "sectors of its disk");
        let reach = get(port, &format!("/cgi-bin/reach?{}", host.port()));
        assert!(reach.starts_with("unreachable"), "{reach}");
        // The guest reaches neither another VM's port, which is on that loopback too, nor its own.
        let image = host.serve("/sector", boot_sector::disk("up", Then::Hang));
        let other = json!({"port_map": {"http": 8080}});
        let other = fs::read_to_string(qhost.job(&image, other)).unwrap();
        let other = qhost.file("other.json", other.replace("\"test\"", "\"other\""));
        let other = qhost.run(&["run", "--json", "--detach", &other]).exits(0).json();
        for port_of in [&other["vm"]["ports"][0]["host"], &json!(port)] {
            let reach = get(port, &format!("/cgi-bin/reach?{port_of}"));
            assert!(reach.starts_with("unreachable"), "{reach}");
        }
        qhost.run(&["kill", "other"]).exits(0);
        assert_eq!(get(port, "/"), "hello from the guest");
        assert!(!is_ready(qhost));
    });
    assert_eq!(host.requests(), ["/sector"], "the one for the other VM's image");
}

/// Whether the host's resolver answers, whatever it says.
fn resolver_answers() -> bool {
    let resolvers = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let first = resolvers
        .lines()
        .find_map(|line| line.strip_prefix("nameserver ")?.trim().parse::<Ipv4Addr>().ok());
    let Some(resolver) = first else { return false };
    let socket = UdpSocket::bind(("0.0.0.0", 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    // One question (RFC 1035, 4.1): localhost, A, IN.
    let question = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x09localhost\0\0\x01\0\x01";
    let asked = socket.send_to(question, (resolver, 53));
    asked.and_then(|_| socket.recv(&mut [0; 512])).is_ok()
}

/// With egress, the guest reaches a public address outside, which shows that the test above can fail. It reaches neither the host, by its
/// loopback or a public address of its own, nor a private network.
#[test]
fn a_compressed_qcow2_disk_and_a_guest_with_egress() {
    let Some(outside) = outside().filter(|_| can_filter()) else {
        eprintln!(
            "not shown here: a_compressed_qcow2_disk_and_a_guest_with_egress needs root and BPF"
        );
        return;
    };
    let host = TcpListener::bind(("0.0.0.0", 0)).unwrap();
    let host_port = host.local_addr().unwrap().port();
    let config = json!({"port_map": {"http": 8080}, "egress": "internet"});
    with_guest("guest-compressed.qcow2", config, "[network]\ninternet = true\n", |_, port| {
        // The guest gives up after three seconds, which pass soon on a machine that is busy with other tests.
        let page = format!("/cgi-bin/reach?{}:80", outside.public);
        wait_for("the guest to reach what is outside", || {
            (get(port, &page) == "reached").then_some(())
        });
        for denied in [
            format!("{host_port}"),
            format!("{}:{host_port}", outside.own),
            format!("{}:80", outside.private),
        ] {
            let reach = get(port, &format!("/cgi-bin/reach?{denied}"));
            assert!(reach.starts_with("unreachable"), "{denied}: {reach}");
        }
        assert_eq!(get(port, &page), "reached", "still");
        if resolver_answers() {
            let said = get(port, "/cgi-bin/resolve?localhost");
            assert!(!said.contains("no servers could be reached"), "{said}");
        } else {
            eprintln!(
                "not shown here: that names are resolved, for this host's resolver is silent"
            );
        }
    });
    host.set_nonblocking(true).unwrap();
    assert!(host.accept().is_err(), "a connection came");
}
