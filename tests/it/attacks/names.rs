//! Names that rebind: a real name server, asked by the system's own resolver, answers with forbidden addresses at the moment that suits it.
//! 127.0.0.1 stands for a public address here, and all other addresses for forbidden ones.

use std::{
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use qhost_tests::{
    Done, Qhost, RawServer,
    name_server::{Answer, NameServer, v4, v6},
};

use super::{digest, file};
use crate::qhost;

fn image() -> Vec<u8> {
    file(1, 100_000)
}

/// A server at 127.0.0.1 that sends the image, except for `/again`, which it redirects to `/image`.
fn server() -> RawServer {
    RawServer::hearing(|head, stream| {
        use std::io::Write as _;
        let image = image();
        let answer = if head.contains("/again") {
            b"HTTP/1.1 302 Found\r\nlocation: /image\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_vec()
        } else {
            [
                format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    image.len()
                )
                .as_bytes(),
                &image,
            ]
            .concat()
        };
        stream.write_all(&answer).expect("the client reads");
    })
}

/// Counts the connections to a port of 127.0.0.2.
fn victim(port: u16) -> Arc<AtomicUsize> {
    let reached = Arc::new(AtomicUsize::new(0));
    let counted = reached.clone();
    let listener = TcpListener::bind(("127.0.0.2", port)).expect("the same port");
    thread::spawn(move || {
        for _ in listener.incoming() {
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    reached
}

fn pull(names: &NameServer, qhost: &Qhost, url: &str) -> Done {
    names.run(qhost, &["image", "pull", url, "--checksum", &digest(&image())])
}

fn strict() -> Qhost {
    let qhost = qhost().env("QHOST_IMAGE_ALLOW", "127.0.0.1/32,127.7.0.0/16");
    qhost.config("[image]\nattempts = 1\nconnect_timeout_s = 5\n");
    qhost
}

fn answers(name: &str, before: usize) -> Vec<Answer> {
    let private = || v4("127.0.0.2");
    match name {
        "still.test" => vec![v4("127.0.0.1")],
        "later.test" if before == 0 => vec![v4("127.0.0.1")],
        "later.test" | "private.test" => vec![private()],
        "both.test" => vec![v4("127.0.0.1"), private()],
        "both-turned.test" => vec![private(), v4("127.0.0.1")],
        "alias.test" => vec![Answer::Alias("private.test"), private()],
        "good-alias.test" => vec![Answer::Alias("still.test"), v4("127.0.0.1")],
        "mapped.test" => vec![v6("::ffff:127.0.0.2")],
        "translated.test" => vec![v6("64:ff9b::7f00:2")],
        "six-to-four.test" => vec![v6("2002:7f00:2::")],
        "loopback.test" => vec![v6("::1")],
        "link-local.test" => vec![v6("fe80::1")],
        "unspecified.test" => vec![v4("0.0.0.0")],
        "one-family.test" => vec![v4("127.0.0.1"), v6("::1")],
        "thousands.test" => (0..4000).map(|number| thousandth("127.0", number)).collect(),
        "hidden.test" => {
            let many = (0..3000).map(|number| thousandth("127.7", number));
            many.chain([private()]).collect()
        }
        "dead-thousands.test" => (0..3000).map(|number| thousandth("127.7", number)).collect(),
        _ => vec![],
    }
}

fn thousandth(network: &str, number: u32) -> Answer {
    v4(&format!("{network}.{}.{}", 1 + number / 250, 1 + number % 250))
}

/// All addresses of a name are judged before any is connected to, and a message shows a few of them: it once had all 4,000 of a name.
#[test]
fn names_with_forbidden_addresses() {
    let Some(names) = NameServer::start(answers) else { return };
    let (qhost, server) = (strict(), server());
    let reached = victim(server.port());
    let url = |name: &str| format!("http://{name}:{}/image", server.port());
    for name in [
        "private.test",
        "both.test",
        "both-turned.test",
        "alias.test",
        "mapped.test",
        "translated.test",
        "six-to-four.test",
        "loopback.test",
        "link-local.test",
        "unspecified.test",
        "one-family.test",
        "thousands.test",
        "hidden.test",
    ] {
        let done =
            pull(&names, &qhost, &url(name)).exits(13).says("from where images may not come");
        assert!(done.stderr.len() < 1000, "{name}: {} bytes are said", done.stderr.len());
    }
    assert_eq!((server.connections(), reached.load(Ordering::Relaxed)), (0, 0));
    // As controls, these names have permitted addresses alone.
    for name in ["still.test", "good-alias.test"] {
        pull(&names, &qhost, &url(name)).exits(0);
        qhost.run(&["image", "rm", &digest(&image())]).exits(0);
    }
    assert_eq!(server.connections(), 2);
}

/// A name without addresses, or with addresses where no server listens, ends the fetch in time.
#[test]
fn names_that_lead_nowhere() {
    let Some(names) = NameServer::start(answers) else { return };
    let qhost = strict();
    for name in ["empty.test", "dead-thousands.test"] {
        pull(&names, &qhost, &format!("http://{name}:9/image")).exits(13).says("no connection");
    }
}

/// Each connection is made to an address of its own lookup: a name that was good for the first connection is looked up again for the
/// second.
#[test]
fn a_name_that_changes_between_two_connections() {
    let Some(names) = NameServer::start(answers) else { return };
    let (qhost, server) = (strict(), server());
    let reached = victim(server.port());
    let url = |name: &str| format!("http://{name}:{}/again", server.port());
    pull(&names, &qhost, &url("still.test")).exits(0);
    qhost.run(&["image", "rm", &digest(&image())]).exits(0);
    pull(&names, &qhost, &url("later.test"))
        .exits(13)
        .says("later.test is at 127.0.0.2, from where images may not come");
    // The counts are one connection after one lookup, and a second lookup without a connection.
    assert_eq!((server.connections(), reached.load(Ordering::Relaxed)), (3, 0));
    let asked = names.questions();
    assert_eq!(asked.iter().filter(|one| *one == "A later.test").count(), 2, "{asked:?}");
}
