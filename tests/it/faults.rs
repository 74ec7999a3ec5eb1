//! The fault matrix of fetching: the result of each fault of a server, a network or this host. After every row the store holds whole images
//! and nothing else, except what the next fetch resumes.

mod server;
mod network;
mod host;
mod sources;

use std::fs;
use std::path::PathBuf;

use axum::http::StatusCode;
use axum::http::{HeaderName, HeaderValue};

use qhost_model::digest::Sha256;
use qhost_tests::{Done, ImageServer, Qhost, RawServer, Reply};

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

/// One row: the bytes of a server that is no HTTP server.
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
