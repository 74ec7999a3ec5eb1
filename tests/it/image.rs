//! Images as a run needs them: fetched, checked, stored once; and nothing is left if that fails.

use std::{fs, time::Duration};

use serde_json::json;

use qhost_tests::{
    ImageServer, Qhost, Reply,
    boot_sector::{self, Then},
    wait_for,
};

use crate::qhost;

/// Limits with which tests of waiting end soon.
const HASTY: &str = "[image]\nattempts = 1\n";

fn disk() -> Vec<u8> {
    boot_sector::disk("here I am", Then::PowerOff)
}

/// Runs a job for the image that the server has at /image.
fn run(qhost: &Qhost, server: &ImageServer, sha256: &str) -> qhost_tests::Done {
    let job = qhost.job(&(server.url("/image"), sha256.to_owned()), json!({}));
    qhost.run(&["run", &job])
}

fn sha256(bytes: &[u8]) -> String {
    qhost_model::digest::Sha256::of(bytes).to_string()
}

#[test]
fn a_second_run_makes_no_request() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let (_, digest) = server.serve("/image", disk());
    run(&qhost, &server, &digest).exits(0);
    run(&qhost, &server, &digest).exits(0);
    assert_eq!(server.requests(), ["/image"]);
    assert_eq!(qhost.stored_images(), std::slice::from_ref(&digest));
    let stored = qhost.state().join("images/sha256").join(&digest[..2]).join(&digest);
    assert!(fs::metadata(&stored).unwrap().permissions().readonly(), "a stored image is read-only");
    assert_eq!(fs::read(stored).unwrap(), disk(), "the VM's writes went to an overlay");
}

/// Policies trust origins: a stored digest does not let an image come from an origin that never served it.
#[test]
fn another_origin_must_serve_the_image_itself() {
    let (qhost, first, second) = (qhost(), ImageServer::start(), ImageServer::start());
    qhost.config(HASTY);
    let (_, digest) = first.serve("/image", disk());
    run(&qhost, &first, &digest).exits(0);
    run(&qhost, &second, &digest).exits(13).says("404");
    second.serve("/image", disk());
    run(&qhost, &second, &digest).exits(0);
    run(&qhost, &second, &digest).exits(0);
    assert_eq!((first.requests().len(), second.requests().len()), (1, 2));
    assert_eq!(qhost.stored_images(), [digest]);
}

#[test]
fn two_runs_at_once_fetch_once() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let digest = sha256(&disk());
    server.set("/image", Reply::Slow(disk().into(), Duration::from_millis(50)));
    let job = qhost.job(&(server.url("/image"), digest.clone()), json!({}));
    let runs = [(); 3].map(|()| qhost.start(&["run", &job]));
    for run in runs {
        run.end().exits(0);
    }
    assert_eq!(server.requests(), ["/image"]);
    assert_eq!(qhost.stored_images(), [digest]);
}

#[test]
fn a_mismatch_leaves_the_store_as_it_was() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let (_, other) = server.serve("/other", boot_sector::disk("other", Then::PowerOff));
    server.set("/image", Reply::File(disk().into()));
    qhost.run(&["run", &qhost.job(&(server.url("/other"), other.clone()), json!({}))]).exits(0);
    let wrong = "0".repeat(64);
    run(&qhost, &server, &wrong)
        .exits(14)
        .says(&format!("the job says sha256:{wrong}"))
        .says(&format!("has sha256:{}", sha256(&disk())));
    assert_eq!(qhost.stored_images(), [other]);
    assert_eq!(qhost.vms().len(), 1, "the mismatch made no VM");
}

#[test]
fn addresses_that_are_not_public_must_be_allowed() {
    let (mut qhost, server) = (qhost(), ImageServer::start());
    qhost = qhost.env("QHOST_IMAGE_ALLOW", "192.0.2.0/24");
    let (_, digest) = server.serve("/image", disk());
    run(&qhost, &server, &digest).exits(13).says("image.network.allow");
    let by_name = (server.url("/image").replace("127.0.0.1", "localhost"), digest.clone());
    qhost.run(&["run", &qhost.job(&by_name, json!({}))]).exits(13).says("localhost is at");
    assert_eq!(server.requests(), [""; 0]);
    qhost.config("[image.network]\nallow = [\"127.0.0.0/8\"]\n");
    run(&qhost, &server, &digest).exits(0);
}

#[test]
fn a_query_is_not_shown() {
    let (qhost, server) = (qhost(), ImageServer::start());
    qhost.config(HASTY);
    let job = qhost.job(&(server.url("/none?signature=secret"), "0".repeat(64)), json!({}));
    let done = qhost.run(&["run", &job]).exits(13).says("/none?…");
    assert!(!done.stderr.contains("secret"));
}

#[test]
fn a_server_that_is_not_there() {
    let qhost = qhost();
    qhost.config(HASTY);
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let job = qhost.job(&(format!("http://{free}/image"), "0".repeat(64)), json!({}));
    qhost.run(&["run", &job]).exits(13).says("Connection refused");
}

#[test]
fn a_killed_fetch_leaves_nothing_that_counts() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let digest = sha256(&disk());
    let stall = Reply::StallAfter(disk().into(), 500_000);
    server.set("/image", Reply::First(vec![stall], Box::new(Reply::File(disk().into()))));
    let job = qhost.job(&(server.url("/image"), digest.clone()), json!({}));
    let running = qhost.start(&["run", &job]);
    let unfinished = || {
        let names = qhost.stored_images();
        names.len() == 2 && names[0].ends_with(".lock") && names[1].ends_with(".part")
    };
    wait_for("a part", || unfinished().then_some(()));
    running.signal("KILL");
    running.end();
    assert!(unfinished(), "killed, it cannot clean up");
    // Another image's fetch sweeps the part, and the image itself is fetched anew.
    let other = server.serve("/other", boot_sector::disk("other", Then::PowerOff));
    qhost.run(&["run", &qhost.job(&other, json!({}))]).exits(0);
    assert_eq!(qhost.stored_images(), std::slice::from_ref(&other.1));
    run(&qhost, &server, &digest).exits(0);
}

#[test]
fn an_interrupted_fetch_leaves_nothing() {
    let (qhost, server) = (qhost(), ImageServer::start());
    server.set("/image", Reply::StallAfter(disk().into(), 500_000));
    let job = qhost.job(&(server.url("/image"), sha256(&disk())), json!({}));
    let running = qhost.start(&["run", &job]);
    wait_for("a part", || (!qhost.stored_images().is_empty()).then_some(()));
    running.signal("INT");
    running.end().exits(130).says("interrupted before the guest ran");
    assert!(qhost.stored_images().is_empty() && qhost.vms().is_empty());
}

#[test]
fn http_needs_no_certificates() {
    let (mut qhost, server) = (qhost(), ImageServer::start());
    qhost = qhost.env("SSL_CERT_FILE", "/nonexistent").env("SSL_CERT_DIR", "/nonexistent");
    let (_, digest) = server.serve("/image", disk());
    run(&qhost, &server, &digest).exits(0);
}

/// An operator imports a file, for a host that cannot reach the place where the image is served.
#[test]
fn a_file_is_imported() {
    let qhost = qhost();
    let url = "https://images.example/disk.raw";
    let file = qhost.file("disk.raw", disk());
    let import = |file: &str, more: &[&str]| {
        qhost.run(&[&["image", "import", file, "--url", url], more].concat())
    };
    let wrong = "0".repeat(64);
    import(&file, &["--checksum", &wrong])
        .exits(14)
        .says(&format!("{file}: the job says sha256:{wrong}"));
    import("/none", &[]).exits(2).says("cannot read /none");
    import("/dev/zero", &[]).exits(2).says("it is no regular file");
    qhost.run(&["image", "import", &file]).exits(2).says("--url");
    qhost.config("[image]\nmax_bytes = 1000\n");
    import(&file, &[]).exits(2).says("more than image.max_bytes, 1000");
    qhost.config("");
    let tar = qhost.file("disk.tar", [&[b'x'; 257][..], b"ustar", &[0; 1000]].concat());
    import(&tar, &[]).exits(15).says("its format is tar or OVA");
    assert_eq!(qhost.stored_images(), [""; 0]);
    import(&file, &[]).exits(0).says(&sha256(&disk()));
    let mirror = "https://mirror.example/disk.raw";
    let more = ["--url", mirror, "--checksum", &sha256(&disk())];
    import(&file, &more).exits(0);
    // An image that is stored already does not make another file its image.
    let other = qhost.file("else.raw", boot_sector::disk("else", Then::PowerOff));
    import(&other, &more).exits(14);
    // A job with a URL of that origin finds the image; a job with another origin would fetch it from there.
    for (url, found) in [
        (url, true),
        ("https://images.example/other", true),
        (mirror, true),
        ("https://else.example/disk.raw", false),
    ] {
        let job = qhost.job(&(url.to_owned(), sha256(&disk())), json!({}));
        let done = qhost.run(&["plan", &job]).exits(0);
        assert_eq!(!done.stdout.contains("not in the store"), found, "{url}: {}", done.stdout);
    }
    let job = qhost.job(&(url.to_owned(), sha256(&disk())), json!({}));
    qhost.run(&["run", &job]).exits(0).says("the guest shut down");
    // The file is packed as its server has it, and named by its SHA-512.
    let other = qhost.file("other.raw", boot_sector::disk("other", Then::PowerOff));
    assert!(qhost_tests::command("gzip").arg(&other).status().unwrap().success());
    let packed = fs::read(format!("{other}.gz")).unwrap();
    let sha512 = qhost_model::digest::Sha512::of(&packed).to_string();
    import(&format!("{other}.gz"), &["--checksum", &sha512]).exits(0).says(&sha256(&packed));
    let job = qhost.job(&(url.to_owned(), sha512), json!({}));
    qhost.run(&["run", &job]).exits(0).says("the guest shut down");
}
