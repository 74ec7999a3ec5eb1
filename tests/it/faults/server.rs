//! Faults and slowness of a server: statuses, bodies, parts.

use std::io::Write as _;
use std::time::Duration;

use axum::http::StatusCode;
use rustix::net::sockopt;

use qhost_tests::{ImageServer, Quirk, Ranged, RawServer, Reply};

use super::{ONCE, TWICE, digest, ends, file, has, has_nothing, header, pull, raw, status};
use crate::qhost;

#[test]
fn statuses() {
    ends("", status(StatusCode::NOT_FOUND), 1, 13, "answered 404 Not Found, expected 200");
    ends("", status(StatusCode::FORBIDDEN), 1, 13, "403");
    ends("", status(StatusCode::PARTIAL_CONTENT), 1, 13, "206");
    ends(TWICE, status(StatusCode::BAD_GATEWAY), 2, 13, "502 Bad Gateway");
    let later = Reply::Status(StatusCode::SERVICE_UNAVAILABLE, vec![header("retry-after", "3600")]);
    ends("", later, 1, 13, "503");
    ends(
        "[image]\nmax_bytes = 1000000\n",
        Reply::File(file(1).into()),
        1,
        13,
        "larger than image.max_bytes, 1000000",
    );
    ends(
        "[image]\nmax_bytes = 1000000\n",
        Reply::Chunked(file(1).into()),
        1,
        13,
        "larger than image.max_bytes",
    );
}

#[test]
fn a_500_and_then_200() {
    let (qhost, server) = (qhost(), ImageServer::start());
    qhost.config("[image]\nattempts = 5\n");
    let first = vec![
        status(StatusCode::INTERNAL_SERVER_ERROR),
        status(StatusCode::REQUEST_TIMEOUT),
        status(StatusCode::TOO_EARLY),
        Reply::Status(StatusCode::TOO_MANY_REQUESTS, vec![header("retry-after", "1")]),
    ];
    server.set("/image", Reply::First(first, Box::new(Reply::File(file(1).into()))));
    pull(&qhost, &server.url("/image"), &digest(&file(1))).exits(0);
    assert_eq!(server.requests().len(), 5);
    has(&qhost, &file(1));
}

/// Many servers call a file encoded that is packed and served as it is: the digest decides.
#[test]
fn encodings_that_were_not_asked_for() {
    for encoding in ["gzip", "x-gzip", "aws-chunked", "", "Identity", "identity"] {
        let (qhost, server) = (qhost(), ImageServer::start());
        let encoded = |bytes: Vec<u8>| {
            Reply::WithHeaders(bytes.into(), vec![header("content-encoding", encoding)])
        };
        server.set("/image", encoded(file(1)));
        pull(&qhost, &server.url("/image"), &digest(&file(1))).exits(0);
        has(&qhost, &file(1));
        server.set("/other", encoded(file(4)));
        let done = pull(&qhost, &server.url("/other"), &digest(&file(6))).exits(14);
        let named = !["", "Identity", "identity"].contains(&encoding);
        let said = done.stderr.contains(&format!("Content-Encoding {encoding}, which was not"));
        assert_eq!(said, named, "{}", done.stderr);
    }
}

#[test]
fn a_slow_header() {
    let server = RawServer::start(|_, stream| {
        // The server waits until the client has had enough.
        if std::io::copy(stream, &mut std::io::sink()).is_err() {}
    });
    raw(ONCE, &server, 13, "no bytes in time (image.idle_timeout_s)");
}

#[test]
fn a_slow_body() {
    let server = RawServer::start(|_, stream| {
        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 1200000\r\n\r\n";
        let mut sent = stream.write_all(head);
        while sent.is_ok() {
            std::thread::sleep(Duration::from_millis(100));
            sent = stream.write_all(&[7; 100]);
        }
    });
    raw(ONCE, &server, 13, "bytes in 1 s (image.idle_timeout_s)");
    let slow = Reply::StallAfter(file(1).into(), 70_000);
    ends("[image]\ntotal_timeout_s = 1\n", slow, 1, 13, "longer than 1 s");
}

#[test]
fn a_stall() {
    ends(ONCE, Reply::StallAfter(file(1).into(), 70_000), 1, 13, "no bytes in time");
}

#[test]
fn a_reset() {
    let server = RawServer::start(|_, stream| {
        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 1200000\r\n\r\n";
        if stream.write_all(&[&head[..], &[7; 50_000]].concat()).is_ok() {
            // The connection then ends with a reset.
            sockopt::set_socket_linger(&*stream, Some(Duration::ZERO)).expect("a socket");
        }
    });
    raw(ONCE, &server, 13, "the body ended after");
}

#[test]
fn a_short_body() {
    ends(TWICE, Reply::CutAfter(file(1).into(), 70_000), 2, 13, "of 1200000 bytes");
}

/// Bytes beyond the length that a server announced do not belong to the file.
#[test]
fn a_long_body() {
    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 500000\r\n\r\n";
    let server = RawServer::answering([&head[..], &file(1)].concat());
    raw(ONCE, &server, 14, "has sha256:");
}

#[test]
fn a_wrong_length() {
    for (length, code, says) in [
        ("1200001", 13, "of 1200001 bytes"),
        ("-1", 13, "the connection broke"),
        ("x", 13, "the connection broke"),
    ] {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
        let server = RawServer::answering([head.as_bytes(), &file(1)].concat());
        raw(ONCE, &server, code, says);
    }
    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 1200000\r\ncontent-length: 1200001\r\n\r\n";
    raw(ONCE, &RawServer::answering([&head[..], &file(1)].concat()), 13, "the connection broke");
}

#[test]
fn no_length() {
    let head = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n";
    raw(ONCE, &RawServer::answering([&head[..], &file(1)].concat()), 0, "");
    // Without a length, only the checksum tells that the answer broke off.
    raw(ONCE, &RawServer::answering([&head[..], &file(1)[..70_000]].concat()), 14, "(70000 bytes)");
    let (qhost, server) = (qhost(), ImageServer::start());
    server.set("/image", Reply::Chunked(file(1).into()));
    pull(&qhost, &server.url("/image"), &digest(&file(1))).exits(0);
    has(&qhost, &file(1));
}

/// A server breaks off every answer, but gives parts: the fetch is resumed more often than it may fail in a row, and no byte is sent twice.
#[test]
fn a_broken_fetch_goes_on() {
    let (qhost, server) = (qhost(), ImageServer::start());
    qhost.config("[image]\nattempts = 2\n");
    let bytes: Vec<u8> = (1..=5).flat_map(file).collect();
    let cut = Ranged { cut: Some(1_500_000), ..Ranged::new(bytes.clone(), "\"1\"") };
    server.set("/image", Reply::Ranged(cut));
    pull(&qhost, &server.url("/image"), &digest(&bytes)).exits(0).says("trying again");
    let ranges: Vec<_> = server.seen().into_iter().map(|seen| seen.range).collect();
    let asked = |from: u32| Some(format!("bytes={from}-"));
    assert_eq!(ranges, [None, asked(1_500_000), asked(3_000_000), asked(4_500_000)]);
    has(&qhost, &bytes);
}

/// One row: after an answer that broke off, the server treats the request for the rest as the row says.
#[track_caller]
fn resumed(then: Ranged, requests: usize) {
    let (qhost, server) = (qhost(), ImageServer::start());
    let cut = Ranged { cut: Some(700_000), ..Ranged::new(file(1), "\"1\"") };
    server.set(
        "/image",
        Reply::First(vec![Reply::Ranged(cut)], Box::new(Reply::Ranged(then.clone()))),
    );
    pull(&qhost, &server.url("/image"), &digest(&then.file)).exits(0);
    let seen = server.seen();
    assert_eq!(seen[1].range.as_deref(), Some("bytes=700000-"));
    assert_eq!(seen[1].if_range.as_deref(), Some("\"1\""));
    assert_eq!(seen.len(), requests);
    has(&qhost, &then.file);
}

#[test]
fn a_changed_etag_on_resume() {
    resumed(Ranged::new(file(2), "\"2\""), 2);
    resumed(Ranged { quirk: Quirk::OtherVersion, ..Ranged::new(file(1), "\"1\"") }, 3);
}

#[test]
fn an_ignored_range() {
    resumed(Ranged { quirk: Quirk::IgnoresRange, ..Ranged::new(file(1), "\"1\"") }, 2);
}

#[test]
fn a_wrong_content_range() {
    for quirk in [Quirk::WrongStart, Quirk::WrongTotal, Quirk::SaysNotWhich, Quirk::NotSatisfiable]
    {
        resumed(Ranged { quirk, ..Ranged::new(file(1), "\"1\"") }, 3);
    }
}

const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

/// A server without a strong `ETag` delivers as well, as the digest is checked anyway.
#[test]
fn a_fetch_goes_on_without_a_strong_etag() {
    let plain = Ranged { cut: Some(700_000), ..Ranged::unversioned(file(1)) };
    let dated = Ranged { modified: Some(DATE), ..plain.clone() };
    for (row, if_range) in [
        (plain.clone(), None),
        (Ranged { etag: Some("W/\"1\""), ..plain.clone() }, None),
        (Ranged { etag: Some("W/\"1\""), ..dated.clone() }, Some(DATE)),
        (dated, Some(DATE)),
    ] {
        let (qhost, server) = (qhost(), ImageServer::start());
        qhost.config(TWICE);
        server.set("/image", Reply::Ranged(row));
        pull(&qhost, &server.url("/image"), &digest(&file(1))).exits(0);
        let seen = server.seen();
        assert_eq!(seen.len(), 2);
        assert_eq!(seen[1].range.as_deref(), Some("bytes=700000-"));
        assert_eq!(seen[1].if_range.as_deref(), if_range);
        has(&qhost, &file(1));
    }
}

/// If only the digest tells that parts are of two versions, the file is fetched whole once more.
#[test]
fn parts_of_two_versions() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let old = Ranged { cut: Some(700_000), ..Ranged::unversioned(file(2)) };
    let new = Reply::Ranged(Ranged::unversioned(file(1)));
    server.set("/image", Reply::First(vec![Reply::Ranged(old)], Box::new(new)));
    pull(&qhost, &server.url("/image"), &digest(&file(1)))
        .exits(0)
        .says("what was fetched in parts is not this image");
    let ranges: Vec<_> = server.seen().into_iter().map(|seen| seen.range).collect();
    assert_eq!(ranges, [None, Some("bytes=700000-".into()), None]);
    has(&qhost, &file(1));
    // A file with another digest altogether is fetched whole no more than once.
    let other = self::qhost();
    server.set(
        "/other",
        Reply::Ranged(Ranged { cut: Some(700_000), ..Ranged::unversioned(file(3)) }),
    );
    pull(&other, &server.url("/other"), &digest(&file(1))).exits(14);
    assert_eq!(server.seen().len(), 3 + 4);
    has_nothing(&other);
}

/// A server sends more than it announced, in a part and in the whole.
#[test]
fn more_than_was_announced() {
    let first =
        b"HTTP/1.1 200 OK\r\netag: \"1\"\r\ncontent-length: 1200000\r\nconnection: close\r\n\r\n";
    let rest = "HTTP/1.1 206 Partial Content\r\netag: \"1\"\r\ncontent-range: bytes 700000-1199999/1200000\r\nconnection: close\r\n\r\n";
    let server = RawServer::start(move |number, stream| {
        let answer = match number {
            0 => [&first[..], &file(1)[..700_000]].concat(),
            1 => [rest.as_bytes(), &file(1), &file(2)].concat(),
            _ => [&first[..], &file(1)].concat(),
        };
        if stream.write_all(&answer).is_ok() {
            std::thread::sleep(Duration::from_millis(300));
        }
    });
    let qhost = qhost();
    pull(&qhost, &server.url(), &digest(&file(1)))
        .exits(0)
        .says("sent more than the 1200000 bytes");
    assert_eq!(server.connections(), 3);
    has(&qhost, &file(1));
}

/// If the network is slower than this host, and the server gives parts, several are asked for at a time.
#[test]
fn several_connections_where_the_network_is_slow() {
    let bytes: Vec<u8> = (1..=40).flat_map(file).collect();
    for (quirk, toml) in [
        (Quirk::None, ""),
        (Quirk::NoBoundedParts, ""),
        (Quirk::None, "[image]\nconnections = 1\n"),
    ] {
        let (qhost, server) = (qhost(), ImageServer::start());
        qhost.config(toml);
        let pause = Duration::from_millis(if toml.is_empty() { 10 } else { 2 });
        server.set(
            "/image",
            Reply::Ranged(Ranged { pause, quirk, ..Ranged::new(bytes.clone(), "\"1\"") }),
        );
        pull(&qhost, &server.url("/image"), &digest(&bytes)).exits(0);
        let bounded = |seen: &&qhost_tests::image_server::Seen| {
            seen.range.as_ref().is_some_and(|range| !range.ends_with('-'))
        };
        let parts = server.seen().iter().filter(bounded).count();
        assert_eq!(parts > 0, toml.is_empty(), "{parts} parts");
        has(&qhost, &bytes);
    }
}
