//! A server that lies about parts, for ever: a fetch ends after its bounded number of attempts, memory stays bounded, and nothing is stored
//! that has another digest.

use std::{
    io::Write as _,
    net::{Shutdown, TcpStream},
    time::Duration,
};

use qhost_tests::RawServer;

use super::{digest, file, outcome, pull};
use crate::{qhost, snapshot};

const LENGTH: usize = 1_200_000;
/// The length after which the first answer breaks off.
const CUT: usize = 700_000;

fn image() -> Vec<u8> {
    file(1, LENGTH)
}

fn send(stream: &mut TcpStream, parts: &[&[u8]]) {
    let sent = parts.iter().try_for_each(|part| stream.write_all(part));
    if sent.and_then(|()| stream.shutdown(Shutdown::Write)).is_ok() {
        // Closing at once could lose bytes that are on their way.
        std::io::copy(stream, &mut std::io::sink()).unwrap_or_default();
    }
}

fn part(range: &str) -> String {
    format!(
        "HTTP/1.1 206 Partial Content\r\netag: \"1\"\r\ncontent-range: {range}\r\nconnection: close\r\n\r\n"
    )
}

/// The part that a request asks for.
fn range(head: &str) -> Option<(u64, Option<u64>)> {
    let (from, to) =
        head.lines().find_map(|line| line.strip_prefix("range: bytes="))?.split_once('-')?;
    Some((from.parse().expect("a number"), to.parse().ok()))
}

/// The answers to the request for the rest.
fn lies() -> Vec<(&'static str, Vec<u8>)> {
    let with = |head: &str, body: &[u8]| [head.as_bytes(), body].concat();
    let rest = &image()[CUT..];
    let plain =
        |status: &str| format!("HTTP/1.1 {status}\r\netag: \"1\"\r\nconnection: close\r\n\r\n");
    let right = part("bytes 700000-1199999/1200000");
    let multipart = "HTTP/1.1 206 Partial Content\r\netag: \"1\"\r\ncontent-type: multipart/byteranges; boundary=x\r\nconnection: close\r\n\r\n--x\r\ncontent-range: bytes 700000-1199999/1200000\r\n\r\n";
    vec![
        ("other bytes", with(&right, &file(2, LENGTH - CUT))),
        ("the beginning once more", with(&right, &image()[..LENGTH - CUT])),
        ("another part, as it says", with(&part("bytes 0-1199999/1200000"), &image())),
        ("a part that begins before", with(&part("bytes 699999-1199999/1200000"), rest)),
        ("a part that ends before", with(&part("bytes 700000-700000/1200000"), &rest[..1])),
        ("a part that ends before it begins", with(&part("bytes 700000-5/1200000"), rest)),
        ("fewer bytes than it says", with(&right, &rest[..1000])),
        ("more bytes than it says", with(&right, &image())),
        ("no bytes", right.as_bytes().to_vec()),
        ("a larger file", with(&part("bytes 700000-1299999/1300000"), &file(1, 600_000))),
        (
            "the largest file of all",
            with(&part("bytes 700000-18446744073709551614/18446744073709551615"), rest),
        ),
        ("the first byte of the largest file", with(&part("bytes 0-0/18446744073709551615"), b"x")),
        (
            "a part up to the last number",
            with(&part("bytes 700000-18446744073709551615/18446744073709551615"), rest),
        ),
        ("a number beyond all", with(&part("bytes 700000-1199999/99999999999999999999999"), rest)),
        ("a negative number", with(&part("bytes -700000-1199999/1200000"), rest)),
        ("a size that is not known", with(&part("bytes 700000-1199999/*"), rest)),
        ("another unit", with(&part("items 700000-1199999/1200000"), rest)),
        ("several parts", with(multipart, rest)),
        (
            "the rest as if it were the whole",
            with(
                "HTTP/1.1 200 OK\r\netag: \"1\"\r\ncontent-range: bytes 700000-1199999/1200000\r\nconnection: close\r\n\r\n",
                rest,
            ),
        ),
        ("the rest of another version", with(&right.replace("\"1\"", "\"2\""), rest)),
        ("the rest by a weak validator", with(&right.replace("\"1\"", "W/\"1\""), rest)),
        ("not satisfiable", with(&plain("416 Range Not Satisfiable"), b"")),
        ("not modified", with(&plain("304 Not Modified"), b"")),
        ("no content", with(&plain("204 No Content"), b"")),
        (
            "a redirect to itself",
            with("HTTP/1.1 302 Found\r\nlocation: /image\r\nconnection: close\r\n\r\n", b""),
        ),
    ]
}

/// Each time the whole file's answer breaks off, and the answer about the rest is a lie.
#[test]
fn what_lies_about_the_rest_got() {
    let whole = format!(
        "HTTP/1.1 200 OK\r\netag: \"1\"\r\naccept-ranges: bytes\r\ncontent-length: {LENGTH}\r\n\r\n"
    );
    let mut list = String::new();
    for (name, lie) in lies() {
        let whole = whole.clone();
        let server = RawServer::hearing(move |head, stream| match range(head) {
            Some(_) => send(stream, &[&lie]),
            None => send(stream, &[whole.as_bytes(), &image()[..CUT]]),
        });
        let qhost = qhost();
        qhost.config("[image]\nattempts = 2\nidle_timeout_s = 2\n");
        let done = pull(&qhost, &[&server.url()], &digest(&image()));
        let connections = server.connections();
        let stored = qhost.stored_images();
        let left: Vec<_> = stored.iter().filter(|name| !name.contains('.')).collect();
        assert!(left.is_empty() || done.code == 0, "{name}: {stored:?}");
        let mut line = outcome(name, &done).replace(&server.port().to_string(), "PORT");
        // How much was read of a body that is too long is chance.
        if let Some((what, _)) = line.split_once(", asked for 11") {
            line = format!("{what}, asked for another part\n");
        }
        list += &format!("{connections:>2} connections  {line}");
    }
    snapshot("lying-ranges", &list, &qhost());
}

/// A file of 48 MB over a slow connection, so that parts of it are asked for side by side; each of these is answered by a lie, and all
/// later requests by the truth.
#[track_caller]
fn side_by_side(lie: fn(u64, u64) -> Vec<u8>, code: i32) {
    let bytes: Vec<u8> = file(1, 48 << 20);
    let served = bytes.clone();
    let server = RawServer::hearing(move |head, stream| {
        let Some((from, to)) = range(head) else {
            let head = format!(
                "HTTP/1.1 200 OK\r\netag: \"1\"\r\naccept-ranges: bytes\r\ncontent-length: {}\r\n\r\n",
                served.len()
            );
            // The client closes the connection when it has seen how slow it is.
            let slow = |piece: &[u8]| {
                std::thread::sleep(Duration::from_millis(20));
                stream.write_all(piece)
            };
            assert!(
                [head.as_bytes()]
                    .into_iter()
                    .chain(served.chunks(64 << 10))
                    .try_for_each(slow)
                    .is_err()
            );
            return;
        };
        match to {
            Some(to) => send(stream, &[&lie(from, to)]),
            None => {
                let head = part(&format!("bytes {from}-{}/{}", served.len() - 1, served.len()));
                send(stream, &[head.as_bytes(), &served[usize::try_from(from).unwrap()..]]);
            }
        }
    });
    let qhost = qhost();
    qhost.config("[image]\nattempts = 3\n");
    pull(&qhost, &[&server.url()], &digest(&bytes)).exits(code);
    let heads = server.heads();
    let lied = heads.iter().filter_map(|head| range(head)).any(|(_, to)| to.is_some());
    assert!(lied, "no part was asked for side by side: {heads:?}");
    let stored: Vec<_> =
        qhost.stored_images().into_iter().filter(|name| !name.contains('.')).collect();
    assert_eq!(stored, if code == 0 { vec![digest(&bytes)] } else { vec![] });
}

fn segment(from: u64, to: u64) -> String {
    part(&format!("bytes {from}-{to}/{}", 48 << 20))
}

#[test]
fn parts_side_by_side_that_are_too_long() {
    side_by_side(|from, to| [segment(from, to).as_bytes(), &[7; 16 << 20]].concat(), 0);
}

#[test]
fn parts_side_by_side_of_another_size() {
    side_by_side(
        |from, to| {
            [part(&format!("bytes {from}-{to}/{}", 49 << 20)).as_bytes(), &[7; 8 << 20]].concat()
        },
        0,
    );
}

#[test]
fn parts_side_by_side_that_overlap() {
    side_by_side(
        |from, to| {
            let length = usize::try_from(to - from + 1).unwrap();
            [segment(from, to).as_bytes(), &file(1, 48 << 20)[..length]].concat()
        },
        14,
    );
}

#[test]
fn parts_side_by_side_that_are_the_whole() {
    side_by_side(
        |_, _| {
            let head = format!(
                "HTTP/1.1 200 OK\r\netag: \"1\"\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                48 << 20
            );
            [head.as_bytes(), &file(1, 48 << 20)].concat()
        },
        0,
    );
}

/// A body that only drips is given up after one idle time-out; a list of checksums, and each part of a file that is fetched in several,
/// once had the time of the whole fetch.
#[test]
fn a_list_of_checksums_that_drips() {
    let server = RawServer::start(|_, stream| {
        let mut sent = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n");
        while sent.is_ok() {
            std::thread::sleep(Duration::from_millis(100));
            sent = stream.write_all(b"0000");
        }
    });
    let qhost = qhost();
    qhost.config("[image]\nattempts = 1\nidle_timeout_s = 1\n");
    let sums = format!("{}#sha256={}", server.url(), "0".repeat(64));
    pull(&qhost, &["http://images.example/x"], &sums)
        .exits(13)
        .says("bytes in 1 s (image.idle_timeout_s)");
}

#[test]
fn a_list_of_checksums_without_end() {
    let server = RawServer::start(|_, stream| {
        let mut sent = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        while sent.is_ok() {
            sent = stream.write_all(&[b'0'; 64 << 10]);
        }
    });
    let qhost = qhost();
    let sums = format!("{}#sha256={}", server.url(), "0".repeat(64));
    pull(&qhost, &["http://images.example/x"], &sums).exits(13).says("at most 1048576 bytes");
}
