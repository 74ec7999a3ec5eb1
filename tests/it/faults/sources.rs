//! Several places for one image, and files that are not the image itself: mirrors, lists of checksums, packed images.

use std::fs;
use std::io::Write as _;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, StatusCode};
use serde_json::json;

use qhost_model::digest::Sha512;
use qhost_tests::{ImageServer, Ranged, RawServer, Reply, command, wait_for};

use super::{ONCE, digest, file, has, has_nothing, part, pull};
use crate::qhost;

/// Mirrors are asked in order; after a wrong file or none the next is asked, and the error names all that failed.
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

/// The bytes of a source that broke off are still being written when the next one is asked: none of them may get into the image, whose
/// zeros are not written at all.
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

/// Each source has its share of the time: one that only drips does not keep a run from its mirrors, nor other runs from theirs.
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
    // Another run, by the same digest, ends before the hog has given up.
    pull(&qhost, &good, &sha256).exits(0);
    qhost.run(&["image", "inspect", &sha256]).exits(0);
    hog.end().exits(13).says("longer than 4 s");
    // A mirror has the rest of the time.
    let (other, other_sha256) = server.serve("/other", file(2));
    let done =
        qhost.run(&["image", "pull", "-v", &drip.url(), &other, "--checksum", &other_sha256]);
    done.exits(0)
        .says("it took longer than 2 s, its share of image.total_timeout_s; another source");
    qhost.run(&["image", "verify"]).exits(0);
}

/// A list of checksums is pinned by its own digest, fetched once, and names the file by the end of its URL.
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
    // A job can use the list too, without a further request.
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
        // The file's bytes say how it is packed, whatever its name.
        for name in ["/image.raw", "/download"] {
            let (url, _) = server.serve(name, packed.clone());
            qhost.run(&["image", "rm", &sha256]).exits(0);
            pull(&qhost, &url, &sha256).exits(0);
            assert!(fs::read(path.trim()).unwrap() == fs::read(&plain).unwrap(), "{name}");
        }
    }
    // OpenWrt's images have a signature behind a gzip file.
    let gzip = command("sh").args(["-c", &format!("gzip -c {plain}")]).output().unwrap().stdout;
    let (url, sha256) =
        server.serve("/openwrt.img.gz", [gzip, b"FWx0\0\0signature".to_vec()].concat());
    pull(&qhost, &url, &sha256).exits(0);
    let path = qhost.run(&["image", "path", &sha256]).exits(0).stdout;
    assert!(fs::read(path.trim()).unwrap() == fs::read(&plain).unwrap());
}

/// The error for an archive of another kind, or a file that is no disk, names its kind.
#[test]
fn other_archives() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let plain = qhost.file("plain", file(1));
    let folder = qhost.folder();
    let made = |name: &str, script: &str| {
        let script = format!(
            "cd {} && {}",
            folder.display(),
            script.replace("IN", &plain).replace("OUT", name)
        );
        let done = command("sh").args(["-c", &script]).output().unwrap();
        assert!(done.status.success(), "{script}: {}", String::from_utf8_lossy(&done.stderr));
        fs::read(folder.join(name)).unwrap()
    };
    for (name, script, says) in [
        (
            "disk.tgz",
            "tar -czf OUT plain",
            "its format is tar or OVA; expected qcow2, raw or ISO; take the disk out of it",
        ),
        ("disk.tar", "tar -cf OUT plain", "its format is tar or OVA"),
        ("disk.zip", "python3 -m zipfile -c OUT plain", "its format is zip"),
        ("disk.lzma", "xz --format=lzma -c IN > OUT", "its format is lzma"),
        (
            "disk.bz2",
            "bzip2 -c IN > OUT",
            "its format is bzip2; expected qcow2, raw or ISO; unpack it",
        ),
        (
            "disk.gz.xz",
            "gzip -c IN | xz -c > OUT",
            "it is gzip-compressed where a disk was expected",
        ),
        (
            "wide.xz",
            "xz --lzma2=dict=256MiB -c IN > OUT",
            "unpacking it takes more than 128 MiB of memory",
        ),
        (
            "wide.zst",
            "head -c 300M /dev/zero | zstd -q --long=28 -c > OUT",
            "unpacking it takes more than 128 MiB of memory",
        ),
    ] {
        let (url, sha256) = server.serve(&format!("/{name}"), made(name, script));
        pull(&qhost, &url, &sha256).exits(15).says(says);
    }
    has_nothing(&qhost);
}

/// An image that a distribution publishes by SHA-512 is stored by its SHA-256, and fetched once.
#[test]
fn checksums_by_sha512() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let (url, sha256) = server.serve("/disk.raw", file(1));
    let sha512 = Sha512::of(&file(1)).to_string();
    pull(&qhost, &url, &Sha512::of(b"other").to_string())
        .exits(14)
        .says(&format!("the file served has sha512:{sha512}"));
    has_nothing(&qhost);
    let job = qhost.job(&(url.clone(), format!("sha512:{sha512}")), json!({}));
    let before = server.requests().len();
    qhost.run(&["plan", &job]).exits(0).says(&format!("sha512:{sha512}"));
    assert_eq!(server.requests().len(), before, "a plan fetches nothing");
    pull(&qhost, &url, &sha512).exits(0);
    has(&qhost, &file(1));
    pull(&qhost, &url, &format!("sha512:{}", sha512.to_uppercase())).exits(0);
    qhost.run(&["plan", &job]).exits(0).says("in the store").says(&sha256);
    let (sums, pin) = server.serve("/SHA512SUMS", format!("{sha512}  disk.raw\n"));
    pull(&qhost, &url, &format!("{sums}#sha256={pin}")).exits(0);
    let (latest, _) = server.serve("/latest", file(1));
    pull(&qhost, &latest, &format!("{sums}#sha256={pin}"))
        .exits(13)
        .says("no line for \"latest\"")
        .says("&name=NAME");
    pull(&qhost, &latest, &format!("{sums}#sha256={pin}&name=disk.raw")).exits(0);
    assert_eq!(server.requests().iter().filter(|path| *path == "/disk.raw").count(), 2);
}

/// The error for a near miss of a checksum or a URL says what it should be.
#[test]
fn hints_for_images() {
    let qhost = qhost();
    let url = "https://images.example/disk.raw";
    for (source, checksum, says) in [
        (url, "d41d8cd98f00b204e9800998ecf8427e", "MD5 and SHA-1 can be forged"),
        (url, "md5:d41d8cd98f00b204e9800998ecf8427e", "MD5 and SHA-1 can be forged"),
        (url, "https://images.example/SHA256SUMS", "add #sha256=DIGITS"),
        (
            url,
            "file:https://images.example/SHA256SUMS",
            "https://images.example/SHA256SUMS#sha256=DIGITS",
        ),
        ("file:///srv/disk.raw", &"0".repeat(64), "qhost image import FILE --url URL"),
        ("disk.raw", &"0".repeat(64), "qhost image import FILE --url URL"),
        ("/srv/disk.raw", &"0".repeat(64), "qhost image import FILE --url URL"),
    ] {
        pull(&qhost, source, checksum).exits(2).says(says);
    }
}

/// A server may put a name into `Location` as it is, and a URL may be as long as those that clouds sign.
#[test]
fn names_and_urls_as_they_are_served() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let to = HeaderValue::from_bytes("/b\u{fc}cher/disk.raw".as_bytes()).unwrap();
    let location = vec![(HeaderName::from_static("location"), to)];
    server.set("/image", Reply::Status(StatusCode::FOUND, location));
    server.set("/b%C3%BCcher/disk.raw", Reply::File(file(1).into()));
    pull(&qhost, &server.url("/image"), &digest(&file(1))).exits(0);
    has(&qhost, &file(1));
    qhost.run(&["image", "rm", &digest(&file(1))]).exits(0);
    let (url, sha256) = server.serve("/signed", file(1));
    let url = format!("{url}?signature={}", "x".repeat(8192 - url.len() - "?signature=".len()));
    pull(&qhost, &url, &sha256).exits(0);
    qhost.run(&["plan", &qhost.job(&(url.clone(), sha256.clone()), json!({}))]).exits(0);
    pull(&qhost, &format!("{url}x"), &sha256).exits(2).says("1 to 8192 bytes");
}

/// One digest stands for one image: a zstd file that begins with a skippable frame is no raw disk, whatever its name.
#[test]
fn a_packed_file_is_not_a_disk_as_well() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let plain = qhost.file("plain", file(1));
    let packed = command("sh").args(["-c", &format!("zstd -qc {plain}")]).output().unwrap().stdout;
    let packed = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc", &packed].concat();
    for name in ["/disk", "/disk.raw", "/disk.raw.zst"] {
        let (url, sha256) = server.serve(name, packed.clone());
        pull(&qhost, &url, &sha256).exits(0);
        let path = qhost.run(&["image", "path", &sha256]).exits(0).stdout;
        assert!(fs::read(path.trim()).unwrap() == file(1), "{name}");
        qhost.run(&["image", "rm", &sha256]).exits(0);
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
    // The file is broken, and another file is not even the one that was asked for.
    let whole = fs::read(&packed).unwrap();
    let (url, sha256) = server.serve("/broken.gz", whole[..whole.len() / 2].to_vec());
    pull(&qhost, &url, &sha256).exits(15).says("unpacks to more than 200 times");
    let (url, sha256) = server.serve("/broken.gz", [&whole[..10], &file(1)].concat());
    pull(&qhost, &url, &sha256).exits(15).says("cannot be unpacked").says("(check unpack)");
    pull(&qhost, &url, &"0".repeat(64)).exits(14);
    has_nothing(&qhost);
    // The name alone says nothing.
    let (url, sha256) = server.serve("/plain.gz", file(1));
    pull(&qhost, &url, &sha256).exits(0);
    has(&qhost, &file(1));
}
