//! Faults of this host during a fetch: full and read-only disks, kills, and other fetches of the same image.

use std::fs;
use std::process::Stdio;
use std::time::Duration;
use std::time::SystemTime;

use qhost_tests::{ImageServer, Qhost, Ranged, Reply, command, root, wait_for};

use super::{ONCE, digest, file, has, part, pull, stored};
use crate::qhost;

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

/// A disk that is really full is known beforehand, and noticed on the way.
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

/// Unfinished downloads are removed if a fetch has no room otherwise, whether its size is known or not; none is removed for a file that
/// would not fit even then.
#[test]
fn unfinished_downloads_make_room() {
    let half = || file(2)[..500_000].to_vec();
    for (reply, code) in [
        (Reply::File(half().into()), 0),
        (Reply::Chunked(half().into()), 0),
        (Reply::File(file(1).into()), 16),
    ] {
        let (qhost, server) = (qhost(), ImageServer::start());
        qhost.config(ONCE);
        let left =
            Ranged { cut: Some(450_000), ..Ranged::new(file(3)[..600_000].to_vec(), "\"1\"") };
        server.set("/left", Reply::Ranged(left));
        let bytes = if code == 0 { half() } else { file(1) };
        server.set("/image", reply);
        let script = format!(
            "export QHOST_STATE_DIR=$S; $Q image pull {} --checksum {}; find $S -name '*.part'; \
             $Q image pull {} --checksum {} >&2; echo code $?; find $S -name '*.part' | wc -l",
            server.url("/left"),
            digest(&file(3)[..600_000]),
            server.url("/image"),
            digest(&bytes)
        );
        let (said, errors) = with_small_disk(&qhost, &script);
        assert!(said.contains(".part\n"), "{said}{errors}");
        let parts = if code == 0 { 0 } else { 1 };
        assert!(said.ends_with(&format!("code {code}\n{parts}\n")), "{said}{errors}");
    }
}

/// A store that cannot be written to serves the images in it, and says that others cannot be stored.
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

/// After a kill at each named point, the next fetch succeeds, and leaves the store as if there had been none.
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
    let code = ["download.rs", "store/ensure.rs", "store/part.rs"]
        .map(|name| fs::read_to_string(root().join("host/image/src").join(name)).unwrap());
    // The point of hashing again is not on a fetch's way.
    let named = code.concat().replace("failpoint::reach(\"store.hashed", "");
    let named = named.matches("failpoint::reach(\"").count();
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
            // Another image's fetch sweeps the store; then this image is fetched.
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

/// A fetch that was killed half way is resumed by the next process, which asks for the rest alone.
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

/// A fetch is killed at any moment, again and again, by chance: the store never has an image that is not whole, and has the image in the
/// end.
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
        // The moments go from before the fetch begins until after its end.
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

/// A part that another process left is hashed again. If it is not of this image, the fetch begins anew.
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
        .says("what was fetched in parts is not this image");
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

/// If a fetch is killed while others wait for it, one of these takes over.
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
