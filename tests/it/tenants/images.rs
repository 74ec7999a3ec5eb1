//! The disk space that fetched images and unfinished downloads take.

use std::fs;

use serde_json::{Value, json};

use qhost_tests::{
    ImageServer, Qhost, Ranged, Reply,
    boot_sector::{self, Then},
    wait_for,
};

use super::{as_tenant, named, qhost};

/// A disk that boots and powers off, of some 1.2 MB that are not zero.
fn disk(seed: u64) -> Vec<u8> {
    let mut disk = boot_sector::disk(&format!("disk {seed}"), Then::PowerOff)[..512].to_vec();
    let mut state = seed | 1;
    for _ in 0..150_000 {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        disk.extend(state.to_le_bytes());
    }
    disk
}

fn sha256(bytes: &[u8]) -> String {
    qhost_model::digest::Sha256::of(bytes).to_string()
}

fn config(qhost: &Qhost, quotas: &str) {
    qhost.config(&format!("[image]\nattempts = 1\n[tenants.acme]\n[tenants.mallory]\n{quotas}\n"));
}

/// A job for an image that the server serves in this way.
fn job(qhost: &Qhost, server: &ImageServer, seed: u64, reply: fn(Vec<u8>) -> Reply) -> String {
    let path = format!("/{seed}");
    server.set(&path, reply(disk(seed)));
    named(qhost, &(server.url(&path), sha256(&disk(seed))), "web", json!({}))
}

fn whole(disk: Vec<u8>) -> Reply {
    Reply::File(disk.into())
}

fn chunked(disk: Vec<u8>) -> Reply {
    Reply::Chunked(disk.into())
}

/// The reply of a server that breaks off, so that there is a download to resume.
fn cut(disk: Vec<u8>) -> Reply {
    Reply::Ranged(Ranged { cut: Some(700_000), ..Ranged::new(disk, "\"1\"") })
}

fn unfinished(qhost: &Qhost) -> Vec<Value> {
    let listed = qhost.run(&["image", "ls", "--json"]).exits(0).json();
    listed["unfinished"].as_array().unwrap().clone()
}

#[test]
fn images_of_a_tenant_have_a_quota() {
    let (qhost, server) = (qhost(), ImageServer::start());
    config(
        &qhost,
        "[tenants.mallory.quota]\nimage_bytes = 2000000\n[tenants.acme.quota]\nimage_bytes = 1000",
    );
    let first = job(&qhost, &server, 1, whole);
    as_tenant(&qhost, "mallory", &first).exits(0);
    let says = "fetched images of tenant mallory may take 2000000 bytes";
    for reply in [whole as fn(Vec<u8>) -> Reply, chunked, cut] {
        let refused = as_tenant(&qhost, "mallory", &job(&qhost, &server, 2, reply)).exits(11);
        refused.says(says).says("tenants.mallory.quota.image_bytes");
        assert_eq!(qhost.stored_images(), [sha256(&disk(1))]);
    }
    // A stored image costs nothing, and a new one is bounded by the tenant's quota.
    as_tenant(&qhost, "acme", &first).exits(0);
    as_tenant(&qhost, "acme", &job(&qhost, &server, 3, whole))
        .exits(11)
        .says("fetched images of tenant acme may take 1000 bytes");
    let listed = qhost.run(&["image", "ls", "--json"]).exits(0).json();
    assert_eq!(listed["images"][0]["tenant"], json!("mallory"));
    // The operator makes room.
    qhost.run(&["image", "gc", "--max-bytes", "0"]).exits(0);
    as_tenant(&qhost, "mallory", &job(&qhost, &server, 2, whole)).exits(0);
}

#[test]
fn all_images_have_a_quota() {
    let (qhost, server) = (qhost(), ImageServer::start());
    config(&qhost, "[host.quota]\nimage_bytes = 2000000");
    as_tenant(&qhost, "mallory", &job(&qhost, &server, 1, whole)).exits(0);
    as_tenant(&qhost, "acme", &job(&qhost, &server, 2, whole))
        .exits(16)
        .says("fetched images of all tenants together may take 2000000 bytes");
    let (url, sha256) = server.serve("/3", disk(3));
    let pulled = qhost.run(&["image", "pull", &url, "--checksum", &sha256]);
    pulled.exits(16).says("host.quota.image_bytes");
}

/// A packed image takes more than its server says.
#[test]
fn what_is_unpacked_counts() {
    let (qhost, server) = (qhost(), ImageServer::start());
    config(&qhost, "[tenants.mallory.quota]\nimage_bytes = 2000000");
    let mut image = boot_sector::disk("x", Then::PowerOff);
    image.resize(4 << 20, b'x');
    let path = qhost.file("x.raw", image);
    qhost_tests::succeed("gzip", &["-k", &path]);
    let packed = fs::read(format!("{path}.gz")).unwrap();
    assert!(packed.len() < 100_000);
    let job = named(&qhost, &server.serve("/x.raw.gz", packed), "web", json!({}));
    as_tenant(&qhost, "mallory", &job).exits(11).says("may take 2000000 bytes");
    assert_eq!(qhost.stored_images(), [""; 0]);
}

/// Two fetches at once have no more room than one after the other.
#[test]
fn fetches_at_once_share_a_quota() {
    let (qhost, server) = (qhost(), ImageServer::start());
    config(&qhost, "[tenants.mallory.quota]\nimage_bytes = 3000000");
    let slow = |disk: Vec<u8>| Reply::Slow(disk.into(), std::time::Duration::from_millis(50));
    let jobs = [1, 2, 3, 4, 5].map(|seed| job(&qhost, &server, seed, slow));
    let runs = jobs.map(|job| qhost.start(&["run", "--tenant", "mallory", &job]));
    let mut codes = runs.map(|run| run.end().code);
    codes.sort_unstable();
    assert_eq!(codes, [0, 0, 11, 11, 11]);
}

#[test]
fn unfinished_downloads_are_a_tenants() {
    let (qhost, server) = (qhost(), ImageServer::start());
    config(&qhost, "");
    as_tenant(&qhost, "mallory", &job(&qhost, &server, 1, cut)).exits(13);
    let (url, digest) = (server.url("/2"), sha256(&disk(2)));
    server.set("/2", cut(disk(2)));
    qhost.run(&["image", "pull", &url, "--checksum", &digest]).exits(13);
    let found = unfinished(&qhost);
    assert_eq!(found.len(), 2);
    assert_eq!((&found[0]["tenant"], &found[1]["tenant"]), (&json!(null), &json!("mallory")));
    assert!(found.iter().all(|one| one["disk_usage"].as_u64().unwrap() >= 700_000));
    qhost.run(&["image", "ls"]).exits(0).says("UNFINISHED").says("mallory  684.00 KiB");
    let gc = |args: &[&str]| qhost.run(&[&["image", "gc"], args].concat()).exits(0);
    gc(&[]).says("0 B freed, 1.34 MiB left");
    gc(&["--dry-run", "--unfinished"]).says("1.34 MiB would be freed, 0 B left");
    // The oldest download is removed first, and no more than is wanted.
    gc(&["--max-bytes", "1MiB"]).says("unfinished, 684.00 KiB  mallory").says("684.00 KiB freed");
    assert_eq!(unfinished(&qhost).len(), 1);
    gc(&["--unfinished"]).says("684.00 KiB freed, 0 B left");
    assert_eq!(qhost.stored_images(), [""; 0]);
}

#[test]
fn a_download_that_goes_on_is_not_removed() {
    let (qhost, server) = (qhost(), ImageServer::start());
    config(&qhost, "");
    let job = job(&qhost, &server, 1, |disk| Reply::StallAfter(disk.into(), 500_000));
    let running = qhost.start(&["run", "--tenant", "mallory", &job]);
    let has_bytes = |one: &Value| one["disk_usage"].as_u64() > Some(0);
    wait_for("bytes", || unfinished(&qhost).first().cloned().filter(has_bytes));
    assert_eq!(unfinished(&qhost)[0]["tenant"], json!("mallory"));
    assert_eq!(unfinished(&qhost)[0]["fetching"], json!(true));
    qhost.run(&["image", "gc", "--unfinished", "--max-bytes", "0"]).exits(0).says("0 B freed");
    assert_eq!(unfinished(&qhost).len(), 1);
    // The download of a killed fetch is still that tenant's, and is removed at the next look.
    running.signal("KILL");
    running.end();
    assert_eq!(unfinished(&qhost)[0]["tenant"], json!("mallory"));
    let freed = qhost.run(&["image", "gc"]).exits(0);
    assert!(!freed.stdout.contains("0 B freed"), "{}", freed.stdout);
    assert!(unfinished(&qhost).is_empty());
}

/// A tenant's unfinished downloads count, make room for its next fetch, and are bounded in number.
#[test]
fn unfinished_downloads_have_bounds() {
    let (qhost, server) = (qhost(), ImageServer::start());
    config(&qhost, "[tenants.mallory.quota]\nimage_bytes = 1500000");
    let whose =
        |tenant: &str| unfinished(&qhost).iter().filter(|one| one["tenant"] == tenant).count();
    as_tenant(&qhost, "acme", &job(&qhost, &server, 99, cut)).exits(13);
    for seed in 1..=3 {
        as_tenant(&qhost, "mallory", &job(&qhost, &server, seed, cut)).exits(13);
    }
    assert_eq!(whose("mallory"), 1);
    config(&qhost, "");
    for seed in 11..=qhost_image::limits::UNFINISHED_KEPT as u64 + 13 {
        as_tenant(&qhost, "mallory", &job(&qhost, &server, seed, cut)).exits(13);
    }
    assert_eq!((whose("mallory"), whose("acme")), (qhost_image::limits::UNFINISHED_KEPT, 1));
}

/// Lists of checksums that one tenant names push out none of another tenant's.
#[test]
fn lists_of_checksums_are_each_tenants_own() {
    let (qhost, server) = (qhost(), ImageServer::start());
    config(&qhost, "");
    let run = |tenant: &str, image: &str, list: String| {
        let (url, pin) = server.serve("/SHA256SUMS", list);
        let image = (server.url(image), format!("{url}#sha256={pin}"));
        as_tenant(&qhost, tenant, &named(&qhost, &image, "web", json!({})))
    };
    let (_, sha256) = server.serve("/image", disk(1));
    let acmes = || run("acme", "/image", format!("{sha256}  image\n"));
    acmes().exits(0);
    for number in 0..=qhost_image::limits::SUMS_KEPT {
        run("mallory", "/none", format!("# {number}\n")).exits(13).says("no line for");
    }
    let before = server.requests().len();
    acmes().exits(0);
    assert_eq!(server.requests().len(), before, "acme's list was pushed out");
    let mallorys = qhost.state().join("images/sums/mallory.lists");
    assert_eq!(fs::read_dir(mallorys).unwrap().count(), qhost_image::limits::SUMS_KEPT);
}
