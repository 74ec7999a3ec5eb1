//! Credentials on odd redirects: a host's own are sent to it for sources on it, until a redirect has led away once.

use std::{fs, os::unix::fs::PermissionsExt as _};

use axum::http::{HeaderName, HeaderValue, StatusCode};

use qhost_tests::{ImageServer, Qhost, Reply, https::HttpsServer};

use super::{digest, file, pull};
use crate::qhost;

/// Credentials for one server, by both of its names, over http too.
fn trusting(server: &ImageServer) -> Qhost {
    let qhost = qhost();
    let port = server.port();
    let secrets = qhost.file(
        "secrets.toml",
        format!(
            "[\"127.0.0.1:{port}\"]\nbearer = \"topsecret\"\nhttp = true\n\
             [\"localhost:{port}\"]\nbearer = \"topsecret\"\nhttp = true\n"
        ),
    );
    fs::set_permissions(&secrets, fs::Permissions::from_mode(0o600)).unwrap();
    qhost.config(&format!("[image]\nattempts = 1\ncredentials = \"{secrets}\"\n"));
    qhost
}

fn redirect(status: StatusCode, to: &str) -> Reply {
    Reply::Status(
        status,
        vec![(HeaderName::from_static("location"), HeaderValue::from_str(to).unwrap())],
    )
}

/// The paths that a server was asked for, and whether with credentials.
fn asked(server: &ImageServer) -> Vec<(String, bool)> {
    server.seen().into_iter().map(|seen| (seen.path, seen.authorization.is_some())).collect()
}

fn image() -> Vec<u8> {
    file(1, 100_000)
}

/// Each way from the private server's `/image` to its `/secret`, and whether the request for that has credentials.
#[test]
fn on_the_way_to_the_same_server() {
    for status in [301, 302, 303, 307, 308] {
        let status = StatusCode::from_u16(status).unwrap();
        for (to, sent) in [
            ("/secret", true),
            ("http://127.0.0.1:PORT/secret", true),
            ("HTTP://127.1:PORT/secret#fragment", true),
            ("//127.0.0.1:PORT/secret", true),
            // Another name of the same server is another host.
            ("http://localhost:PORT/secret", false),
            ("http://LOCALHOST:PORT/secret", false),
            ("http://localhost.:PORT/secret", false),
            ("http://127.0.0.2:PORT/secret", false),
        ] {
            let private = ImageServer::start();
            let qhost = trusting(&private);
            let to = to.replace("PORT", &private.port().to_string());
            private.set("/image", redirect(status, &to));
            private.serve("/secret", image());
            let done = pull(&qhost, &[&private.url("/image")], &digest(&image()));
            // The server listens on 127.0.0.1 alone, and not every resolver knows the other name.
            let there = !to.contains("127.0.0.2") && !to.contains("localhost.");
            assert_eq!(done.code, if there { 0 } else { 13 }, "{to}: {}", done.stderr);
            let mut expected = vec![("/image".to_owned(), true)];
            expected.extend(there.then(|| ("/secret".to_owned(), sent)));
            assert_eq!(asked(&private), expected, "{status} {to}");
        }
    }
}

/// A user name in a redirect makes a host look like another.
#[test]
fn user_names_in_redirects() {
    let private = ImageServer::start();
    let other = ImageServer::start();
    let qhost = trusting(&private);
    let at = format!("127.0.0.1:{}", other.port());
    for to in [
        format!("http://127.0.0.1:{}@{at}/image", private.port()),
        format!("http://x@{at}/image"),
        format!("http://:y@{at}/image"),
        format!("http:\\\\x@{at}\\image"),
    ] {
        private.set("/image", redirect(StatusCode::FOUND, &to));
        pull(&qhost, &[&private.url("/image")], &digest(&image()))
            .exits(13)
            .says("carries a user name or password");
    }
    assert_eq!(other.requests(), [""; 0]);
}

/// A redirect to another host lets that host choose where the fetch goes on: sent back to the source, the fetch used to have the source's
/// credentials again, for a path of that host's choice.
#[test]
fn back_home_after_having_left() {
    let (private, other) = (ImageServer::start(), ImageServer::start());
    let qhost = trusting(&private);
    private.set("/image", Reply::redirect(&other.url("/away")));
    other.set("/away", Reply::redirect(&private.url("/secret")));
    private.serve("/secret", image());
    pull(&qhost, &[&private.url("/image")], &digest(&image())).exits(0);
    assert_eq!(asked(&private), [("/image".to_owned(), true), ("/secret".to_owned(), false)]);
    assert_eq!(asked(&other), [("/away".to_owned(), false)]);
}

/// A mirror has no part in what another source may see, in whichever order they are asked; nor has a list of checksums.
#[test]
fn a_mirror_that_leads_to_another_source() {
    let (private, mirror) = (ImageServer::start(), ImageServer::start());
    let qhost = trusting(&private);
    mirror.set("/image", Reply::redirect(&private.url("/secret")));
    mirror.set("/SHA256SUMS", Reply::redirect(&private.url("/sums")));
    let (source, lead) = (private.url("/image"), mirror.url("/image"));
    pull(&qhost, &[&lead, &source], &digest(&image())).exits(13);
    pull(&qhost, &[&source, &lead], &digest(&image())).exits(13);
    let sums = format!("{}#sha256={}", mirror.url("/SHA256SUMS"), "0".repeat(64));
    pull(&qhost, &[&source], &sums).exits(13);
    let paths = |with: bool| {
        let seen = asked(&private).into_iter().filter(move |(_, sent)| *sent == with);
        seen.map(|(path, _)| path).collect::<Vec<_>>()
    };
    assert_eq!(paths(true), ["/image", "/image"]);
    assert_eq!(paths(false), ["/secret", "/secret", "/sums"]);
}

/// A redirect from https to another port of the host gets no credentials, even if that port has some of its own; nor does one to http.
#[test]
fn from_https_to_the_same_host() {
    let private = ImageServer::start();
    let qhost = trusting(&private);
    let plain = format!("http://localhost:{}/image", private.port());
    let secure = HttpsServer::redirecting(&plain);
    let ca = qhost.file("ca.pem", secure.certificate());
    let config = fs::read_to_string(qhost.folder().join("qhost.toml")).unwrap();
    qhost.config(&format!("{config}ca = \"{ca}\"\n"));
    private.serve("/image", image());
    pull(&qhost, &[&secure.url()], &digest(&image())).exits(13).says("leads from https to http");
    assert_eq!(asked(&private), []);
    // As a mirror, the other port is a source of its own, and gets its own credentials.
    pull(&qhost, &[&secure.url(), &plain], &digest(&image())).exits(0);
    assert_eq!(asked(&private), [("/image".to_owned(), true)]);
}
