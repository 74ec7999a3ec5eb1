//! A network outside of this host: a network namespace of one of the tests' threads, behind a pair of virtual devices, which
//! ends with the tests. It has a public address and a private one, and port 80 answers HTTP at both.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, UdpSocket},
    sync::{OnceLock, mpsc},
    thread,
};

use rustix::thread::{UnshareFlags, gettid, unshare_unsafe};

use crate::{command, succeed};

/// The network's addresses.
#[derive(Debug, Clone, Copy)]
pub struct Outside {
    /// A public address in the outside network; no public route leads to this network.
    pub public: Ipv4Addr,
    /// A private address in the outside network.
    pub private: Ipv4Addr,
    /// A public address of this host.
    pub own: Ipv4Addr,
    /// The address at which a datagram reaches all of the public network.
    pub broadcast: Ipv4Addr,
}

/// Makes the network when it is first asked for; gives none where this is not root with all its rights, or has no ip(8).
pub fn outside() -> Option<Outside> {
    static THERE: OnceLock<Option<Outside>> = OnceLock::new();
    *THERE.get_or_init(|| {
        let trial = format!("qhost-may{}", std::process::id() % 10_000);
        let may = command("ip").args(["link", "add", &trial, "type", "veth"]).output();
        if !may.is_ok_and(|may| may.status.success()) {
            return None;
        }
        succeed("ip", &["link", "del", &trial]);
        Some(make())
    })
}

fn make() -> Outside {
    // The addresses depend on the process, so that tests that run at once have networks of their own.
    let [low, high, ..] = ((std::process::id() % (1 << 12)) << 2).to_le_bytes();
    let of = |first, second, host| Ipv4Addr::new(first, second, high | 0x40, low | host);
    let outside = Outside {
        public: of(25, 255, 2),
        private: of(10, 254, 2),
        own: of(25, 255, 1),
        broadcast: of(25, 255, 3),
    };
    let own_private = of(10, 254, 1);
    let (said, heard) = mpsc::channel();
    let (linked, go) = mpsc::channel();
    let (done, ready) = mpsc::channel();
    thread::spawn(move || {
        #[expect(unsafe_code, reason = "rustix calls unshare(2) unsafe")]
        // SAFETY: only this thread enters the new network namespace.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.expect("a network namespace");
        said.send(gettid().as_raw_nonzero()).expect("a listener");
        go.recv().expect("the word");
        set_up("eth0", [outside.public, outside.private]);
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 80)).expect("port 80");
        thread::spawn(answer_datagrams);
        done.send(()).expect("a listener");
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let answer = b"HTTP/1.0 200 OK\r\n\r\noutside\n";
            // A client that only connects has gone by now.
            if stream.read(&mut [0; 512]).and_then(|_| stream.write_all(answer)).is_err() {}
        }
    });
    let thread = heard.recv().expect("the thread").to_string();
    let device = format!("qhost{}", std::process::id() % 100_000);
    let pair = ["link", "add", &device, "type", "veth", "peer", "name", "eth0", "netns", &thread];
    succeed("ip", &pair);
    set_up(&device, [outside.own, own_private]);
    linked.send(()).expect("the thread");
    ready.recv().expect("the thread");
    outside
}

/// Answers each datagram from another port first, and then from its own.
fn answer_datagrams() {
    let [asked, other] = [80, 81]
        .map(|port| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).expect("a port for datagrams"));
    loop {
        let (_, from) = asked.recv_from(&mut [0; 64]).expect("a datagram");
        other.send_to(b"from another port", from).expect("a way back");
        asked.send_to(b"outside", from).expect("a way back");
    }
}

fn set_up(device: &str, addresses: [Ipv4Addr; 2]) {
    for address in addresses {
        succeed("ip", &["address", "add", &format!("{address}/30"), "dev", device]);
    }
    succeed("ip", &["link", "set", device, "up"]);
}
