//! The way of a fetch, and whom it trusts there: redirects, names, certificates, credentials, proxies.

use std::fs;
use std::io::Read as _;
use std::io::Write as _;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use qhost_tests::{ImageServer, RawServer, Reply, command, https::HttpsServer};

use super::{digest, ends, file, has, has_nothing, pull};
use crate::qhost;

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

/// A name has a permitted address when it is first asked for, and a forbidden one the second time: it is really resolved, from a hosts file
/// that the server changes between the two.
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
    // As a control, the name stays where it is.
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
    // The certificate is trusted, but for another name.
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

    // On the way to another host, each hop loses the credentials: even that host's own are not sent.
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
    // As a control, the other host is a source of its own, and is told its own credentials.
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
    // A proxy of the environment is not used; a configured one is asked for what it alone can find.
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
