//! The fault matrix of fetching: what each fault of a server, a network or this host comes to. After every row the store
//! holds whole images and nothing else, but for what the next fetch goes on with.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, SystemTime},
};

use axum::http::{HeaderName, HeaderValue, StatusCode};
use qhost::digest::Sha256;
use qhost_tests::{
    Done, ImageServer, Qhost, Quirk, Ranged, RawServer, Reply, command, https::HttpsServer, root,
    wait_for,
};
use rustix::net::sockopt;
use serde_json::json;

use crate::qhost;

/// Bytes of no format, none of which is like another: a raw disk of a megabyte and a little.
fn file(seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_le_bytes()
    };
    (0..150_000).flat_map(|_| next()).collect()
}

fn digest(bytes: &[u8]) -> String {
    Sha256::of(bytes).to_string()
}

fn pull(qhost: &Qhost, url: &str, sha256: &str) -> Done {
    qhost.run(&["image", "pull", "-v", url, "--checksum", sha256])
}

/// The store has this image, whole.
#[track_caller]
fn has(qhost: &Qhost, bytes: &[u8]) {
    assert_eq!(qhost.stored_images(), [digest(bytes)]);
    assert!(fs::read(stored(qhost, bytes)).unwrap() == bytes, "other bytes are stored");
    let path = qhost.run(&["image", "path", &digest(bytes)[..10]]).exits(0);
    assert_eq!(PathBuf::from(path.stdout.trim()), stored(qhost, bytes));
}

fn stored(qhost: &Qhost, bytes: &[u8]) -> PathBuf {
    let digest = digest(bytes);
    qhost.state().join("images/sha256").join(&digest[..2]).join(&digest)
}

#[track_caller]
fn has_nothing(qhost: &Qhost) {
    assert_eq!(qhost.stored_images(), [""; 0]);
}

/// The one unfinished image.
fn part(qhost: &Qhost) -> Option<PathBuf> {
    let name = qhost.stored_images().into_iter().find(|name| name.ends_with(".part"))?;
    Some(qhost.state().join("images/sha256").join(&name[..2]).join(name))
}

/// One row: an answer that ends the fetch.
#[track_caller]
fn ends(toml: &str, reply: Reply, requests: usize, code: i32, says: &str) {
    let (qhost, server) = (qhost(), ImageServer::start());
    qhost.config(toml);
    server.set("/image", reply);
    let url = server.url("/image");
    let done = pull(&qhost, &url, &digest(&file(1))).exits(code).says(says);
    assert!(code != 13 || done.stderr.contains(&url), "it does not say where: {}", done.stderr);
    assert_eq!(server.requests().len(), requests, "{says}");
    has_nothing(&qhost);
}

/// One row: what a server that is no HTTP server sends.
#[track_caller]
fn raw(toml: &str, server: &RawServer, code: i32, says: &str) {
    let qhost = qhost();
    qhost.config(toml);
    pull(&qhost, &server.url(), &digest(&file(1))).exits(code).says(says);
    match code {
        0 => has(&qhost, &file(1)),
        _ => has_nothing(&qhost),
    }
}

const ONCE: &str = "[image]\nattempts = 1\nidle_timeout_s = 1\n";
const TWICE: &str = "[image]\nattempts = 2\n";

fn status(status: StatusCode) -> Reply {
    Reply::Status(status, vec![])
}

fn header(name: &'static str, value: &'static str) -> (HeaderName, HeaderValue) {
    (HeaderName::from_static(name), HeaderValue::from_static(value))
}

#[test]
fn statuses() {
    ends("", status(StatusCode::NOT_FOUND), 1, 13, "answered 404 Not Found, expected 200");
    ends("", status(StatusCode::FORBIDDEN), 1, 13, "403");
    ends("", status(StatusCode::PARTIAL_CONTENT), 1, 13, "206");
    ends(TWICE, status(StatusCode::BAD_GATEWAY), 2, 13, "502 Bad Gateway");
    let later = Reply::Status(StatusCode::SERVICE_UNAVAILABLE, vec![header("retry-after", "3600")]);
    ends("", later, 1, 13, "503");
    let encoded = Reply::WithHeaders(file(1).into(), vec![header("content-encoding", "gzip")]);
    ends("", encoded, 1, 13, "Content-Encoding gzip");
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
    let first = vec![
        status(StatusCode::INTERNAL_SERVER_ERROR),
        Reply::Status(StatusCode::TOO_MANY_REQUESTS, vec![header("retry-after", "1")]),
    ];
    server.set("/image", Reply::First(first, Box::new(Reply::File(file(1).into()))));
    pull(&qhost, &server.url("/image"), &digest(&file(1))).exits(0);
    assert_eq!(server.requests().len(), 3);
    has(&qhost, &file(1));
}

#[test]
fn a_slow_header() {
    let server = RawServer::start(|_, stream| {
        // Until the client has had enough.
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
            // The connection then ends with a reset instead of an end.
            sockopt::set_socket_linger(&*stream, Some(Duration::ZERO)).expect("a socket");
        }
    });
    raw(ONCE, &server, 13, "the body ended after");
}

#[test]
fn a_short_body() {
    ends(TWICE, Reply::CutAfter(file(1).into(), 70_000), 2, 13, "of 1200000 bytes");
}

/// What a server sends beyond the length that it announced is not the file's.
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
    // Then only the checksum tells that it broke off.
    raw(ONCE, &RawServer::answering([&head[..], &file(1)[..70_000]].concat()), 14, "(70000 bytes)");
    let (qhost, server) = (qhost(), ImageServer::start());
    server.set("/image", Reply::Chunked(file(1).into()));
    pull(&qhost, &server.url("/image"), &digest(&file(1))).exits(0);
    has(&qhost, &file(1));
}

/// A server that breaks off every answer, but gives parts: the fetch goes on from where it was, more often than it may
/// fail in a row, and no byte is sent twice.
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

/// After a part that broke off, a server that does with the request for the rest what a row says.
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

/// Only a strong validator says that the bytes are the same.
#[test]
fn a_weak_etag_is_not_gone_on_with() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let weak = Ranged { cut: Some(700_000), ..Ranged::new(file(1), "W/\"1\"") };
    let whole = Reply::Ranged(Ranged::new(file(1), "W/\"1\""));
    server.set("/image", Reply::First(vec![Reply::Ranged(weak)], Box::new(whole)));
    pull(&qhost, &server.url("/image"), &digest(&file(1))).exits(0);
    assert!(server.seen().iter().all(|seen| seen.range.is_none()));
    has(&qhost, &file(1));
}

#[test]
fn a_redirect_loop() {
    let (qhost, server) = (qhost(), ImageServer::start());
    for hop in 0..5 {
        server.set(&format!("/hop{hop}"), Reply::redirect(&format!("/hop{}", hop + 1)));
    }
    server.set("/hop5", Reply::File(file(1).into()));
    pull(&qhost, &server.url("/hop0"), &digest(&file(1))).exits(0);
    has(&qhost, &file(1));
    ends("", Reply::redirect("/image"), 6, 13, "more than 5 redirects");
}

#[test]
fn a_redirect_to_where_images_may_not_come_from() {
    for (to, says) in [
        ("file:///etc/shadow", "leads to file:"),
        ("http://user:secret@127.0.0.1/", "carries a user name or password"),
        (
            "http://192.168.0.1/image",
            "192.168.0.1 is at 192.168.0.1, from where images may not come",
        ),
        ("http://[::ffff:169.254.169.254]/latest", "169.254.169.254"),
        ("http://[64:ff9b::a9fe:a9fe]/latest", "from where images may not come"),
        ("http://2852039166/latest", "169.254.169.254"),
        ("http://0xa9.0xfe.0xa9.0xfe/latest", "169.254.169.254"),
        ("http://[fe80::1]/", "from where images may not come"),
        ("http://metadata.google.internal./", "images may not come from metadata.google.internal"),
    ] {
        ends("[image.network]\ndeny_hosts = [\"*.internal\"]\n", Reply::redirect(to), 1, 13, says);
    }
}

#[test]
fn a_redirect_from_https_to_http() {
    let (qhost, server) = (qhost(), ImageServer::start());
    server.set("/image", Reply::File(file(1).into()));
    let secure = HttpsServer::redirecting(&server.url("/image"));
    let ca = qhost.file("ca.pem", secure.certificate());
    qhost.config(&format!("[image]\nca = \"{ca}\"\n"));
    pull(&qhost, &secure.url(), &digest(&file(1))).exits(13).says("leads from https to http");
    assert_eq!(server.requests(), [""; 0]);
    has_nothing(&qhost);
}

/// A name that is at a permitted address when it is first asked for and at a forbidden one the second time: really
/// resolved, from a hosts file that the server changes between the two.
#[test]
fn a_dns_answer_that_changes() {
    let qhost = qhost();
    let hosts = PathBuf::from(qhost.file("hosts", "127.0.0.1 changing.test\n"));
    let changes = std::sync::Arc::new(AtomicBool::new(false));
    let (file_of_hosts, changing) = (hosts.clone(), changes.clone());
    let server = RawServer::start(move |number, stream| {
        let redirect = "HTTP/1.1 302 Found\r\nlocation: /again\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        let bytes = file(1);
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            bytes.len()
        );
        if number.is_multiple_of(2) {
            if changing.load(Ordering::Relaxed) {
                fs::write(&file_of_hosts, "127.0.0.2 changing.test\n").expect("the hosts file");
            }
            stream.write_all(redirect.as_bytes()).expect("the client reads");
        } else {
            stream.write_all(&[head.as_bytes(), &bytes].concat()).expect("the client reads");
        }
    });
    let url = format!("http://changing.test:{}/image", server.port());
    let fetch = || {
        let script = format!(
            "mount --bind {} /etc/hosts && exec {} image pull --image-allow 127.0.0.1/32 {url} --checksum {}",
            hosts.display(),
            qhost.program().display(),
            digest(&file(1)),
        );
        let mut unshared = command("unshare");
        unshared.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script]);
        let output = unshared
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("QHOST_STATE_DIR", qhost.state());
        let output = output.output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    changes.store(true, Ordering::Relaxed);
    let (code, said) = fetch();
    assert!(
        said.contains("changing.test is at 127.0.0.2, from where images may not come"),
        "{said}"
    );
    assert_eq!((code, server.connections()), (13, 1));
    has_nothing(&qhost);
    // The control: a name that stays where it is.
    fs::write(&hosts, "127.0.0.1 changing.test\n").unwrap();
    changes.store(false, Ordering::Relaxed);
    server_is_even(&server);
    let (code, said) = fetch();
    assert_eq!(code, 0, "{said}");
}

/// Makes the next connection an even one.
fn server_is_even(server: &RawServer) {
    let mut stream = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    stream.read_to_end(&mut vec![]).unwrap();
    assert!(server.connections().is_multiple_of(2));
}

#[test]
fn a_bad_certificate() {
    let qhost = qhost();
    let server = HttpsServer::start(file(1));
    let other = HttpsServer::start(vec![]);
    let untrusted = pull(&qhost, &server.url(), &digest(&file(1)));
    let untrusted = untrusted.exits(13).says("no trusted connection: invalid peer certificate");
    assert!(!untrusted.stderr.contains("trying again"), "a certificate does not get better");
    let ca = |certificate: &str| {
        let path = qhost.file("ca.pem", certificate);
        qhost.config(&format!("[image]\nca = \"{path}\"\n"));
    };
    ca(other.certificate());
    pull(&qhost, &server.url(), &digest(&file(1))).exits(13).says("no trusted connection");
    // Trusted, but by another name.
    ca(server.certificate());
    let by_address = server.url().replace("localhost", "127.0.0.1");
    pull(&qhost, &by_address, &digest(&file(1))).exits(13).says("no trusted connection");
    has_nothing(&qhost);
    pull(&qhost, &server.url(), &digest(&file(1))).exits(0);
    has(&qhost, &file(1));
    ca("nothing");
    pull(&qhost, &server.url(), &"0".repeat(64)).exits(2).says("ca.pem: it has no certificate");
}

/// Credentials go to the host that they are for, and nowhere else.
#[test]
fn credentials_across_hosts() {
    let (qhost, private, other) = (qhost(), ImageServer::start(), ImageServer::start());
    let secrets = qhost.file(
        "secrets.toml",
        format!(
            "[\"127.0.0.1:{}\"]\nusername = \"me\"\npassword = \"hunter2\"\nhttp = true\n\
             [\"127.0.0.1:{}\"]\nbearer = \"topsecret\"\nhttp = true\n",
            private.port(),
            other.port()
        ),
    );
    qhost.config(&format!("[image]\ncredentials = \"{secrets}\"\n"));
    pull(&qhost, &private.url("/image"), &digest(&file(1)))
        .exits(2)
        .says("others can read it (mode 644); use chmod 600");
    assert_eq!(private.requests(), [""; 0]);
    fs::set_permissions(&secrets, fs::Permissions::from_mode(0o600)).unwrap();

    // Every hop on the way to another host: there, even that host's own are not sent.
    private.set("/image", Reply::redirect("/moved"));
    private.set("/moved", Reply::redirect(&other.url("/image")));
    other.set("/image", Reply::File(file(1).into()));
    let verbose =
        ["image", "pull", "-vvv", &private.url("/image"), "--checksum", &digest(&file(1))];
    let done = qhost.run(&verbose).exits(0);
    for secret in ["hunter2", "topsecret", "bWU6aHVudGVyMg=="] {
        assert!(!done.stderr.contains(secret) && !done.stdout.contains(secret), "{}", done.stderr);
    }
    let basic = Some("Basic bWU6aHVudGVyMg==".to_owned());
    let sent = |server: &ImageServer| -> Vec<_> {
        server.seen().into_iter().map(|seen| seen.authorization).collect()
    };
    assert_eq!(sent(&private), [basic.clone(), basic]);
    assert_eq!(sent(&other), [None]);
    // The control: as a source of its own, the other host is told its own.
    pull(&qhost, &other.url("/none"), &"0".repeat(64)).exits(13);
    assert_eq!(sent(&other)[1].as_deref(), Some("Bearer topsecret"));
    for (text, says) in [
        ("[\"a\"]\nusername = \"hunter2\"\n", "\"a\" needs username and password, or bearer alone"),
        ("x = y hunter2\n", "line 1 is not understood"),
    ] {
        fs::write(&secrets, text).unwrap();
        let done = pull(&qhost, &private.url("/image"), &"0".repeat(64)).exits(2).says(says);
        assert!(!done.stderr.contains("hunter2"), "{}", done.stderr);
    }
}

#[test]
fn a_gzip_bomb() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let packed = qhost.folder().join("bomb.gz");
    let script = format!("head -c 200M /dev/zero | gzip > {}", packed.display());
    assert!(command("sh").args(["-c", &script]).status().unwrap().success());
    let (url, sha256) = server.serve("/image.gz", fs::read(&packed).unwrap());
    pull(&qhost, &url, &sha256)
        .exits(15)
        .says("unpacks to more than 200 times its size")
        .says("unpack-ratio");
    has_nothing(&qhost);
    qhost.config("[image]\nmax_bytes = 1000000\n");
    pull(&qhost, &url, &sha256).exits(15).says("larger than image.max_bytes").says("unpack-size");
    has_nothing(&qhost);
    qhost.config("");
    // Not packed at all; and not even the file that was asked for.
    let (url, sha256) = server.serve("/plain.gz", file(1));
    pull(&qhost, &url, &sha256).exits(15).says("cannot be unpacked").says("(check unpack)");
    pull(&qhost, &url, &"0".repeat(64)).exits(14);
    has_nothing(&qhost);
}

/// Runs a script in a mount namespace with an empty file system of 900 KiB at `$S`.
fn with_small_disk(qhost: &Qhost, script: &str) -> (String, String) {
    let small = qhost.folder().join("small");
    fs::create_dir_all(&small).unwrap();
    let script = format!("mount -t tmpfs -o size=900k,mode=700 tmpfs $S && {{ {script}; }}");
    let mut unshared = command("unshare");
    unshared
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script])
        .env("S", small)
        .env("Q", qhost.program())
        .env("QHOST_CONFIG", qhost.folder().join("qhost.toml"))
        .env("QHOST_IMAGE_ALLOW", "127.0.0.0/8");
    let output = unshared.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr))
}

/// A really full disk: known beforehand, and noticed on the way.
#[test]
fn a_full_disk() {
    for (reply, says) in [
        (Reply::File(file(1).into()), "bytes free, and"),
        (Reply::Chunked(file(1).into()), "No space left on device"),
    ] {
        let (qhost, server) = (qhost(), ImageServer::start());
        server.set("/image", reply);
        let script = format!(
            "$Q image pull --state-dir $S {} --checksum {}; echo code $?; find $S -type f; echo end",
            server.url("/image"),
            digest(&file(1))
        );
        let (said, errors) = with_small_disk(&qhost, &script);
        assert!(errors.contains(says), "{said}{errors}");
        assert_eq!(said, "code 16\nend\n", "{errors}");
    }
}

/// A store that cannot be written to is of use for what is in it, and says so for what is not.
#[test]
fn a_read_only_folder() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let small = file(1)[..100_000].to_vec();
    let (url, sha256) = server.serve("/small", small);
    let (other, other_sha256) = server.serve("/other", file(2)[..100_000].to_vec());
    let script = format!(
        "export QHOST_STATE_DIR=$S; $Q image pull {url} --checksum {sha256} && mount -o remount,ro $S && \
         $Q image pull {url} --checksum {sha256} && $Q image ls && $Q image verify; echo code $?; \
         $Q image pull {other} --checksum {other_sha256}; echo code $?"
    );
    let (said, errors) = with_small_disk(&qhost, &script);
    assert!(said.contains("raw") && said.contains("sound"), "{said}{errors}");
    assert!(said.contains("code 0\n") && said.ends_with("code 16\n"), "{said}{errors}");
    assert!(errors.contains("Read-only file system"), "{said}{errors}");
    assert_eq!(server.requests(), ["/small"]);
}

/// Killed at every named point: the next fetch finds its way, and afterwards all is as if nothing had been.
#[test]
fn kill_9_at_each_point() {
    let points = [
        "store.locked",
        "store.part",
        "fetch.receiving",
        "fetch.received",
        "store.inspected",
        "store.synced",
        "store.renamed",
        "store.recorded",
    ];
    let code = ["fetch.rs", "store.rs", "store/part.rs"]
        .map(|name| fs::read_to_string(root().join("host/src/image").join(name)).unwrap());
    let named = code.concat().matches("failpoint::reach(\"").count();
    assert_eq!(named, points.len(), "a point has no test");
    for point in points {
        for reply in [Reply::File(file(1).into()), Reply::Ranged(Ranged::new(file(1), "\"1\""))] {
            let (qhost, server) = (qhost(), ImageServer::start());
            server.set("/image", reply.clone());
            let url = server.url("/image");
            let sha256 = digest(&file(1));
            let args = ["image", "pull", &url, "--checksum", &sha256];
            let killed = qhost.command(&args).env("QHOST_KILL_AT", point).output().unwrap();
            assert_eq!(killed.status.code(), None, "{point} was not reached");
            // Another image is fetched, and sweeps; then this one.
            let other = server.serve("/other", file(2));
            pull(&qhost, &other.0, &other.1).exits(0);
            let part = qhost.stored_images().into_iter().any(|name| name.ends_with(".part"));
            let goes_on = matches!(reply, Reply::Ranged(_))
                && ["fetch.receiving", "fetch.received", "store.inspected"].contains(&point);
            assert!(
                !part || goes_on || point == "store.synced",
                "{point}: a part was left that nothing goes on with"
            );
            pull(&qhost, &url, &sha256).exits(0);
            let mut expected = [sha256.clone(), other.1];
            expected.sort();
            assert_eq!(qhost.stored_images(), expected, "{point}");
            assert!(
                fs::read(stored(&qhost, &file(1))).unwrap() == file(1),
                "{point}: other bytes are stored"
            );
        }
    }
}

/// Killed half way, it is gone on with by the next process, which asks for the rest alone.
#[test]
fn a_killed_fetch_is_gone_on_with() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let pause = Duration::from_millis(300);
    let slow = Reply::Ranged(Ranged { pause, ..Ranged::new(file(1), "\"1\"") });
    let fast = Reply::Ranged(Ranged::new(file(1), "\"1\""));
    server.set("/image", Reply::First(vec![slow], Box::new(fast)));
    let url = server.url("/image");
    let running = qhost.start(&["image", "pull", &url, "--checksum", &digest(&file(1))]);
    let length = || part(&qhost).map_or(0, |part| fs::metadata(part).map_or(0, |part| part.len()));
    wait_for("some of it", || (length() >= 128 << 10).then_some(()));
    running.signal("KILL");
    running.end();
    let rest = format!("bytes={}-", length());
    pull(&qhost, &url, &digest(&file(1))).exits(0);
    assert_eq!(server.seen()[1].range.as_ref(), Some(&rest));
    has(&qhost, &file(1));
}

/// Killed at any moment, again and again, by chance: never does the store have what is not whole, and in the end it has
/// the image.
#[test]
fn kill_9_at_any_moment() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let bytes: Vec<u8> = (1..=8).flat_map(file).collect();
    server.set("/image", Reply::Ranged(Ranged::new(bytes.clone(), "\"1\"")));
    let args = ["image", "pull", &server.url("/image"), "--checksum", &digest(&bytes)];
    let mut killed = 0;
    for round in 0..40 {
        let mut child =
            qhost.command(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // From before it begins until after its end.
        std::thread::sleep(Duration::from_millis(round * 3));
        child.kill().unwrap();
        killed += usize::from(child.wait().unwrap().code().is_none());
        if stored(&qhost, &bytes).exists() {
            assert!(fs::read(stored(&qhost, &bytes)).unwrap() == bytes, "round {round}: not whole");
            if qhost.run(&["image", "rm", &digest(&bytes)]).code == 0 {
                assert!(!stored(&qhost, &bytes).exists());
            }
        }
    }
    assert!(killed > 5, "{killed} of 40 were killed on the way");
    qhost.run(&args).exits(0);
    qhost.run(&["image", "verify"]).exits(0);
    has(&qhost, &bytes);
}

/// What another process left is hashed again. Where it is not of this image, the fetch begins anew.
#[test]
fn a_part_that_is_not_what_it_was() {
    let (qhost, server) = (qhost(), ImageServer::start());
    qhost.config(ONCE);
    let cut = Ranged { cut: Some(700_000), ..Ranged::new(file(1), "\"1\"") };
    let whole = Reply::Ranged(Ranged::new(file(1), "\"1\""));
    server.set("/image", Reply::First(vec![Reply::Ranged(cut)], Box::new(whole)));
    let url = server.url("/image");
    pull(&qhost, &url, &digest(&file(1))).exits(13).says("the body ended after 700000 of 1200000");
    let part = part(&qhost).unwrap();
    assert_eq!(fs::metadata(&part).unwrap().len(), 700_000);
    fs::write(&part, vec![7; 700_000]).unwrap();
    pull(&qhost, &url, &digest(&file(1)))
        .exits(0)
        .says("what was left of an earlier fetch is not of this image");
    let ranges: Vec<_> = server.seen().into_iter().map(|seen| seen.range.is_some()).collect();
    assert_eq!(ranges, [false, true, false]);
    has(&qhost, &file(1));
}

#[test]
fn no_part_is_left_for_ever() {
    let (qhost, server) = (qhost(), ImageServer::start());
    qhost.config(ONCE);
    let cut = Ranged { cut: Some(700_000), ..Ranged::new(file(1), "\"1\"") };
    server.set("/image", Reply::Ranged(cut));
    pull(&qhost, &server.url("/image"), &digest(&file(1))).exits(13);
    let part = part(&qhost).unwrap();
    let (url, sha256) = server.serve("/other", file(2));
    pull(&qhost, &url, &sha256).exits(0);
    assert!(part.exists(), "a fetch can go on from there for a day");
    let yesterday = SystemTime::now() - Duration::from_secs(25 * 60 * 60);
    fs::File::options().append(true).open(&part).unwrap().set_modified(yesterday).unwrap();
    qhost.run(&["image", "gc"]).exits(0);
    has(&qhost, &file(2));
}

#[test]
fn two_and_eight_fetchers_at_once() {
    for fetchers in [2, 8] {
        let (qhost, server) = (qhost(), ImageServer::start());
        server.set("/image", Reply::Slow(file(1).into(), Duration::from_millis(20)));
        let args = ["image", "pull", &server.url("/image"), "--checksum", &digest(&file(1))];
        let runs: Vec<_> = (0..fetchers).map(|_| qhost.start(&args)).collect();
        for run in runs {
            run.end().exits(0);
        }
        assert_eq!(server.requests(), ["/image"]);
        has(&qhost, &file(1));
    }
}

/// One that is killed while others wait for it: one of these takes over.
#[test]
fn a_fetcher_that_dies_is_succeeded() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let stall = Reply::StallAfter(file(1).into(), 500_000);
    server.set("/image", Reply::First(vec![stall], Box::new(Reply::File(file(1).into()))));
    let args = ["image", "pull", "-v", &server.url("/image"), "--checksum", &digest(&file(1))];
    let first = qhost.start(&args);
    wait_for("a part", || (!qhost.stored_images().is_empty()).then_some(()));
    let second = qhost.start(&args);
    second.says("another process is at this image");
    first.signal("KILL");
    first.end();
    second.end().exits(0);
    has(&qhost, &file(1));
}

/// Where the network is slower than this host, and the server gives parts, several are asked for at a time.
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

/// Mirrors are asked in order; a wrong file or none moves on to the next, and all that failed is told.
#[test]
fn mirrors() {
    let (qhost, server) = (qhost(), ImageServer::start());
    qhost.config(ONCE);
    let (good, sha256) = server.serve("/good", file(1));
    let (wrong, _) = server.serve("/wrong", file(2));
    let gone = server.url("/gone");
    let pull = |sources: &[&str]| {
        qhost.run(&[&["image", "pull", "-v"], sources, &["--checksum", &sha256]].concat())
    };
    pull(&[&gone, &wrong])
        .exits(14)
        .says("none of 2 sources delivered")
        .says("404")
        .says("checksum mismatch");
    pull(&[&gone, &server.url("/away")]).exits(13).says("none of 2 sources");
    has_nothing(&qhost);
    pull(&[&gone, &wrong, &good]).exits(0).says("404").says("checksum mismatch");
    assert_eq!(
        server.requests(),
        ["/gone", "/wrong", "/gone", "/away", "/gone", "/wrong", "/good"]
    );
    has(&qhost, &file(1));
}

/// What a source that broke off has sent is still being written when the next one is asked: none of it may get into the
/// image, whose zeros are not written at all.
#[test]
fn what_one_mirror_sent_is_not_in_what_another_did() {
    let (qhost, server) = (qhost(), ImageServer::start());
    qhost.config(ONCE);
    let mostly_zeros = [file(1), vec![0; 20 << 20], file(2)].concat();
    let wrong: Vec<u8> = (10..30).flat_map(file).collect();
    server.set("/wrong", Reply::CutAfter(wrong.into(), 20 << 20));
    let (good, sha256) = server.serve("/good", mostly_zeros.clone());
    let args = ["image", "pull", &server.url("/wrong"), &good, "--checksum", &sha256];
    let done = qhost.command(&args).env("QHOST_SLOW_AT", "pipe.written").output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    has(&qhost, &mostly_zeros);
    qhost.run(&["image", "verify"]).exits(0);
}

/// A mirror that is down takes nothing from what another has delivered already.
#[test]
fn a_dead_mirror_costs_no_progress() {
    let (qhost, server) = (qhost(), ImageServer::start());
    qhost.config(ONCE);
    let cut = Ranged { cut: Some(700_000), ..Ranged::new(file(1), "\"1\"") };
    let whole = Reply::Ranged(Ranged::new(file(1), "\"1\""));
    server.set("/good", Reply::First(vec![Reply::Ranged(cut)], Box::new(whole)));
    let (dead, good) = (server.url("/dead"), server.url("/good"));
    let pull = || qhost.run(&["image", "pull", &dead, &good, "--checksum", &digest(&file(1))]);
    pull().exits(13);
    pull().exits(0);
    let seen: Vec<_> = server.seen().into_iter().map(|seen| (seen.path, seen.range)).collect();
    let asked = |path: &str, range: Option<&str>| (path.to_owned(), range.map(str::to_owned));
    assert_eq!(
        seen,
        [asked("/dead", None), asked("/good", None), asked("/good", Some("bytes=700000-"))]
    );
    has(&qhost, &file(1));
}

/// Each source has its share of the time: one that only drips does not keep a run from its mirrors, nor others from theirs.
#[test]
fn a_source_that_drips_holds_up_nobody_else() {
    let (qhost, server) = (qhost(), ImageServer::start());
    qhost.config("[image]\ntotal_timeout_s = 4\n");
    let drip = RawServer::start(|_, stream| {
        let mut sent = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1200000\r\n\r\n");
        while sent.is_ok() {
            std::thread::sleep(Duration::from_millis(50));
            sent = stream.write_all(&[7; 2000]);
        }
    });
    let (good, sha256) = server.serve("/good", file(1));
    let hog = qhost.start(&["image", "pull", &drip.url(), "--checksum", &sha256]);
    wait_for("a part", || part(&qhost));
    // Somebody else's, by the same digest, is there before the hog has given up.
    pull(&qhost, &good, &sha256).exits(0);
    has_image(&qhost, &sha256);
    hog.end().exits(13).says("longer than 4 s");
    // A mirror has what is left of the time.
    let (other, other_sha256) = server.serve("/other", file(2));
    let done =
        qhost.run(&["image", "pull", "-v", &drip.url(), &other, "--checksum", &other_sha256]);
    done.exits(0)
        .says("it took longer than 2 s, its share of image.total_timeout_s; another source");
    qhost.run(&["image", "verify"]).exits(0);
}

fn has_image(qhost: &Qhost, sha256: &str) {
    qhost.run(&["image", "inspect", sha256]).exits(0);
}

/// One digest stands for one image: a zstd file that begins with a frame for others to read is no raw disk, and an escaped
/// ending is an ending.
#[test]
fn a_packed_file_is_not_a_disk_as_well() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let plain = qhost.file("plain", file(1));
    let packed = command("sh").args(["-c", &format!("zstd -qc {plain}")]).output().unwrap().stdout;
    let packed = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc", &packed].concat();
    let (_, sha256) = server.serve("/disk", packed.clone());
    pull(&qhost, &server.url("/disk"), &sha256).exits(15).says("it is zstd-compressed");
    server.serve("/disk.raw.zst", packed.clone());
    server.serve("/disk.raw%2Ezst", packed);
    pull(&qhost, &server.url("/disk.raw%2Ezst"), &sha256).exits(0);
    pull(&qhost, &server.url("/disk.raw.zst"), &sha256).exits(0);
    let path = qhost.run(&["image", "path", &sha256]).exits(0).stdout;
    assert!(fs::read(path.trim()).unwrap() == file(1));
}

/// A part that is larger than the server said, in a part and in the whole.
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

/// A list of checksums is pinned by its own, fetched once, and names the file by the end of its URL.
#[test]
fn lists_of_checksums() {
    let (qhost, server) = (qhost(), ImageServer::start());
    qhost.config(ONCE);
    let (url, sha256) = server.serve("/disk.raw", file(1));
    let (other, _) = server.serve("/other.raw", file(1));
    let list = format!("{}  else.raw\n{sha256} *disk.raw\n", digest(b"else"));
    let (sums, pin) = server.serve("/SHA256SUMS", list);
    let pinned = |pin: &str| format!("{sums}#sha256={pin}");
    pull(&qhost, &url, &pinned(&digest(b"another list")))
        .exits(14)
        .says("SHA256SUMS: the job says");
    pull(&qhost, &other, &pinned(&pin))
        .exits(13)
        .says("SHA256SUMS: the list of checksums has no line for \"other.raw\"");
    has_list_only(&qhost, &pin);
    pull(&qhost, &url, &pinned(&pin)).exits(0);
    // A job too, and no request more.
    let requests = server.requests().len();
    let job = qhost.job(&(url, pinned(&pin)), json!({}));
    qhost.run(&["plan", &job]).exits(0).says("in the store").says(&sha256);
    assert_eq!(server.requests().len(), requests);
    pull(&qhost, &other, &"f".repeat(63)).exits(2).says("64 hexadecimal digits");
}

fn has_list_only(qhost: &Qhost, pin: &str) {
    assert_eq!(qhost.stored_images(), [pin]);
}

/// Packed images are unpacked on the way; their checksum is that of the file as served.
#[test]
fn packed_images() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let plain = qhost.file("plain", [file(1), vec![0; 3 << 20], file(2)].concat());
    for (ending, packer) in [("gz", "gzip -c"), ("xz", "xz -c"), ("zst", "zstd -qc")] {
        let packed =
            command("sh").args(["-c", &format!("{packer} {plain}")]).output().unwrap().stdout;
        let (url, sha256) = server.serve(&format!("/image.raw.{ending}"), packed.clone());
        pull(&qhost, &url, &sha256).exits(0);
        let path = qhost.run(&["image", "path", &sha256]).exits(0).stdout;
        assert!(fs::read(path.trim()).unwrap() == fs::read(&plain).unwrap(), "{ending}");
        qhost.run(&["image", "verify", &sha256]).exits(0).says("sound");
        qhost
            .run(&["image", "inspect", &sha256])
            .exits(0)
            .says(&format!("unpacked   sha256:{}", digest(&fs::read(&plain).unwrap())));
        // Under a name that does not say so it is no disk.
        let (url, sha256) = server.serve("/image.raw", packed);
        qhost.run(&["image", "rm", &sha256]).exits(0);
        pull(&qhost, &url, &sha256)
            .exits(15)
            .says(&format!("serve it under a name that ends in .{ending}"));
    }
}

#[test]
fn hosts_schemes_and_proxies() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let (url, sha256) = server.serve("/image", file(1));
    for (toml, says) in [
        ("schemes = [\"https\"]", "images may not come by http: (image.network.schemes)"),
        ("hosts = [\"*.example\"]", "images may not come from 127.0.0.1 (image.network.hosts"),
        ("deny_hosts = [\"127.*\"]", "images may not come from 127.0.0.1"),
        ("deny = [\"127.0.0.1/32\"]", "from where images may not come"),
    ] {
        qhost.config(&format!("[image.network]\n{toml}\n"));
        pull(&qhost, &url, &sha256).exits(13).says(says);
    }
    assert_eq!(server.requests(), [""; 0]);
    // A proxy of the environment's is none of ours; a configured one is asked for what it alone can find.
    qhost.config("");
    let nowhere = "http://127.0.0.1:9";
    let done = qhost
        .command(&["image", "pull", &url, "--checksum", &sha256])
        .env("http_proxy", nowhere)
        .env("HTTP_PROXY", nowhere)
        .output()
        .unwrap();
    assert!(done.status.success());
    qhost.config(&format!("[image.network]\nproxy = \"{}\"\n", server.url("/")));
    server.set("/far", Reply::File(file(2).into()));
    pull(&qhost, "http://far.example/far", &digest(&file(2))).exits(0);
}
