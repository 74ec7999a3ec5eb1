//! Several places for one image, and files that are not the image itself: mirrors, lists of checksums, packed images.

use std::fs;
use std::io::Write as _;
use std::time::Duration;

use serde_json::json;

use qhost_tests::{ImageServer, Ranged, RawServer, Reply, command, wait_for};

use super::{ONCE, digest, file, has, has_nothing, part, pull};
use crate::qhost;

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
    let done = qhost.command(&args).env("QHOST_SLOW_AT", "pipe.written=2").output().unwrap();
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
fn a_source_that_drips_holds_up_no_other_run() {
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
    // Another run's, by the same digest, is there before the hog has given up.
    pull(&qhost, &good, &sha256).exits(0);
    qhost.run(&["image", "inspect", &sha256]).exits(0);
    hog.end().exits(13).says("longer than 4 s");
    // A mirror has what is left of the time.
    let (other, other_sha256) = server.serve("/other", file(2));
    let done =
        qhost.run(&["image", "pull", "-v", &drip.url(), &other, "--checksum", &other_sha256]);
    done.exits(0)
        .says("it took longer than 2 s, its share of image.total_timeout_s; another source");
    qhost.run(&["image", "verify"]).exits(0);
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
    assert_eq!(qhost.stored_images(), std::slice::from_ref(&pin), "the list, and no image");
    pull(&qhost, &url, &pinned(&pin)).exits(0);
    // A job too, and no request more.
    let requests = server.requests().len();
    let job = qhost.job(&(url, pinned(&pin)), json!({}));
    qhost.run(&["plan", &job]).exits(0).says("in the store").says(&sha256);
    assert_eq!(server.requests().len(), requests);
    pull(&qhost, &other, &"f".repeat(63)).exits(2).says("64 hexadecimal digits");
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
