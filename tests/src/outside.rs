//! A network outside of this host, which ends with the tests: a network namespace that one of their threads is in, behind a pair
//! of virtual devices. It has a public address and a private one; on both, port 80 answers HTTP.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener},
    sync::{OnceLock, mpsc},
    thread,
};

use rustix::thread::{UnshareFlags, gettid, unshare_unsafe};

use crate::succeed;

/// A public address out there; the network that it is of is in no public route.
pub const PUBLIC: Ipv4Addr = Ipv4Addr::new(25, 255, 0, 2);
/// A public address of this host.
pub const OWN: Ipv4Addr = Ipv4Addr::new(25, 255, 0, 1);
/// A private address out there.
pub const PRIVATE: Ipv4Addr = Ipv4Addr::new(10, 254, 253, 2);
const OWN_PRIVATE: Ipv4Addr = Ipv4Addr::new(10, 254, 253, 1);

/// Has it there; false where that takes root, and this is not.
pub fn is_there() -> bool {
    static THERE: OnceLock<bool> = OnceLock::new();
    *THERE.get_or_init(|| {
        let is_root = rustix::process::geteuid().is_root();
        if is_root {
            make();
        }
        is_root
    })
}

fn make() {
    let (said, heard) = mpsc::channel();
    let (linked, go) = mpsc::channel();
    let (done, ready) = mpsc::channel();
    thread::spawn(move || {
        #[expect(unsafe_code, reason = "rustix calls unshare(2) unsafe")]
        // SAFETY: a network namespace is of this thread alone.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.expect("a network namespace");
        said.send(gettid().as_raw_nonzero()).expect("a listener");
        go.recv().expect("the word");
        set_up("eth0", [PUBLIC, PRIVATE]);
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 80)).expect("port 80");
        done.send(()).expect("a listener");
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let answer = b"HTTP/1.0 200 OK\r\n\r\noutside\n";
            // A client that only connects is gone by now.
            if stream.read(&mut [0; 512]).and_then(|_| stream.write_all(answer)).is_err() {}
        }
    });
    let thread = heard.recv().expect("the thread").to_string();
    let device = format!("qhost{}", std::process::id() % 100_000);
    let pair = ["link", "add", &device, "type", "veth", "peer", "name", "eth0", "netns", &thread];
    succeed("ip", &pair);
    set_up(&device, [OWN, OWN_PRIVATE]);
    linked.send(()).expect("the thread");
    ready.recv().expect("the thread");
}

fn set_up(device: &str, addresses: [Ipv4Addr; 2]) {
    for address in addresses {
        succeed("ip", &["address", "add", &format!("{address}/30"), "dev", device]);
    }
    succeed("ip", &["link", "set", device, "up"]);
}
