//! The operators' page: its built files match its sources, and each screen's task is done in a browser, by click and by keyboard.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use serde_json::json;

use qhost_tests::{
    ImageServer,
    api::{Certificate, Service},
    boot_sector::{self, Then},
    command, configured, root, succeed,
};

use crate::qhost;

fn page() -> PathBuf {
    root().join("host/serve/page")
}

fn npm() -> Command {
    let mut npm = command("npm");
    npm.current_dir(page());
    npm
}

/// Installs the tools that build and test the page, as its lock file has them.
fn installed() {
    static INSTALLED: OnceLock<()> = OnceLock::new();
    INSTALLED.get_or_init(|| done(npm().args(["ci", "--no-audit", "--no-fund"])));
}

fn done(command: &mut Command) {
    let output = command.output().expect("npm");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (said, complained) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{said}\n{complained}", output.status);
}

/// Files below a folder, by their names.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = PathBuf::from(path.file_name().unwrap());
        if path.is_dir() {
            found.extend(files(&path).into_iter().map(|(below, bytes)| (name.join(below), bytes)));
        } else {
            found.insert(name, fs::read(path).unwrap());
        }
    }
    found
}

/// The service's program contains the files that the page's sources are built to.
#[test]
fn the_built_files_are_its_sources() {
    installed();
    done(npm().args(["run", "check"]));
    let folder = tempfile::tempdir().unwrap();
    let built = folder.path().join("built");
    done(npm().args(["run", "build", "--", "--outDir"]).arg(&built));
    let (now, kept) = (files(&built), files(&page().join("built")));
    assert_eq!(now.keys().collect::<Vec<_>>(), kept.keys().collect::<Vec<_>>());
    assert!(now == kept, "host/serve/page/built is older than its source: npm run build");
}

/// The page runs no script but its own, has no outside asset, and is in no other page's frame.
#[test]
fn its_content_security_policy() {
    let qhost = qhost();
    let service = Service::start(&qhost);
    let socket = service.socket().display().to_string();
    let get = ["--silent", "--include", "--unix-socket", &socket, "http://localhost/"];
    let answer = succeed("curl", &get);
    let policy = answer
        .lines()
        .find_map(|line| line.strip_prefix("content-security-policy: "))
        .unwrap_or_else(|| panic!("{answer}"));
    for says in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"] {
        assert!(policy.contains(says), "{policy}");
    }
    assert!(!policy.contains("unsafe") && !policy.contains("http"), "{policy}");
    service.end();
}

#[test]
fn each_screens_task_in_a_browser() {
    installed();
    let (qhost, server, own) = (qhost(), ImageServer::start(), Certificate::new());
    let limits = configured("limits", "limits", json!({"cpus": 4, "memory_mib": 256}), "");
    let tls = own.configuration();
    qhost.config(&format!(
        "[image.network]\nallow = [\"127.0.0.0/8\"]\n{tls}{limits}[host]\nchain = [\"limits\"]\n\
         [tenants.acme.quota]\nvms = 8\ndisk_bytes = 1073741824\n[tenants.default]\n"
    ));
    let service = Service::start_on_network(&qhost);
    let token = |name: &str, holder: &[&str]| {
        let made = qhost.run(&[&["token", "new", name], holder].concat()).exits(0);
        made.stdout.trim_end().to_owned()
    };
    let (image, sha256) = server.serve("/echo", boot_sector::disk("I echo", Then::Echo));
    let screenshots = root().join("host/serve/page/test/screenshots");
    let mut test = npm();
    test.arg("test")
        .env("QHOST_PAGE_URL", service.url())
        .env("QHOST_PAGE_TOKEN", token("ops", &["--operator"]))
        .env("QHOST_PAGE_TENANT_TOKEN", token("acmes", &["--tenant", "acme"]))
        .env("QHOST_PAGE_IMAGE", image)
        .env("QHOST_PAGE_SHA256", sha256)
        .env("QHOST_PAGE_COMPONENT", qhost_tests::policy("limits"))
        .env("QHOST_PAGE_SCREENSHOTS", screenshots);
    done(&mut test);
    service.end();
}
