//! The harness of the tests: scratch folders, the `qhost` command, boot sectors, a Linux guest, an HTTP server with faults.

pub mod boot_sector;
pub mod api;
pub mod by_hand;
pub mod disk;
pub mod efi_disk;
pub mod hostile;
pub mod hostile_images;
pub mod hostile_tenant;
pub mod https;
pub mod image_server;
pub mod languages;
pub mod name_server;
pub mod nomad;
pub mod outside;
pub mod prometheus;
pub mod qhost;
pub mod raw_server;
pub mod registry;
pub mod stand_in;
pub mod terminal;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::OnceLock,
    time::{Duration, Instant},
};

pub use image_server::{ImageServer, Quirk, Ranged, Reply};
pub use prometheus::Prometheus;
pub use qhost::{Done, Qhost, Running};
pub use raw_server::RawServer;

/// The repository's root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the tests are in a folder of the repository")
}

/// A policy or probe, built by `guest-policies/build`.
pub fn policy(name: &str) -> PathBuf {
    let path = root().join("guest-policies/target/policies").join(name).with_extension("wasm");
    assert!(path.exists(), "{} is missing: run guest-policies/build, or tests/run", path.display());
    path
}

/// A `[policies.NAME]` table of a configuration for a built policy, pinned; `more` are further lines of it.
pub fn configured(name: &str, module: &str, settings: serde_json::Value, more: &str) -> String {
    let path = policy(module);
    let sha256 = qhost_model::digest::Sha256::of(&std::fs::read(&path).expect("a policy"));
    format!(
        "[policies.{name}]\nmodule = \"{}\"\nsha256 = \"{sha256}\"\nsettings = {}\n{more}\n",
        path.display(),
        toml_of(&settings),
    )
}

/// A JSON value as an inline TOML value.
fn toml_of(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Object(map) => {
            let pairs: Vec<_> =
                map.iter().map(|(key, value)| format!("{key} = {}", toml_of(value))).collect();
            format!("{{ {} }}", pairs.join(", "))
        }
        serde_json::Value::Array(items) => {
            format!("[{}]", items.iter().map(toml_of).collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

/// A program to run. The tests start processes other than `qhost` only by this.
#[expect(clippy::disallowed_methods, reason = "the tests' one place for this")]
pub fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    Command::new(program)
}

/// Runs a program that must succeed, and gives what it printed.
pub fn succeed(program: &str, args: &[&str]) -> String {
    let Output { status, stdout, stderr } =
        command(program).args(args).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8_lossy(&stdout).into_owned()
}

/// The folder of the Linux guest, made by `tests/guest-image` on first use.
pub fn linux_guest() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let script = root().join("tests/guest-image");
        succeed(script.to_str().expect("UTF-8"), &[]).trim().into()
    })
}

/// The Debian guest's image, made by `tests/debian-image` on first use.
pub fn debian_guest() -> &'static Path {
    static IMAGE: OnceLock<PathBuf> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let script = root().join("tests/debian-image");
        let folder = succeed(script.to_str().expect("UTF-8"), &[]);
        Path::new(folder.trim()).join("debian.qcow2")
    })
}

/// The aarch64 guest's image, made by `tests/aarch64-image` on first use.
pub fn aarch64_guest() -> &'static Path {
    static IMAGE: OnceLock<PathBuf> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let script = root().join("tests/aarch64-image");
        let folder = succeed(script.to_str().expect("UTF-8"), &[]);
        Path::new(folder.trim()).join("aarch64.qcow2")
    })
}

/// Has the programs under test act at points: `QHOST_KILL_AT` and `QHOST_SLOW_AT` name points to die and to wait at. At the point that
/// `QHOST_FILL_AT` names, the disk with the folder `QHOST_FILL` is filled, or the file system fails whose trigger that is. Each point is
/// appended to the file that `QHOST_TIMES_OF_POINTS` names, with the microseconds since 1970.
pub fn fail_points() {
    use rustix::process::{Signal, getpid, kill_process};
    qhost_sys::failpoint::at_every_point(|point| {
        if let Ok(path) = std::env::var("QHOST_TIMES_OF_POINTS") {
            use std::io::Write as _;
            let now = jiff::Timestamp::now().as_microsecond();
            // A process that does not see the host's files any more cannot open this one.
            if let Ok(mut times) = std::fs::File::options().create(true).append(true).open(path) {
                // The line is one write, since the command and the supervisor reach points at once.
                times.write_all(format!("{point} {now}\n").as_bytes()).expect("a line");
            }
        }
        if std::env::var("QHOST_KILL_AT").is_ok_and(|fatal| fatal == point) {
            kill_process(getpid(), Signal::KILL).expect("a signal to oneself");
        }
        if std::env::var("QHOST_FILL_AT").is_ok_and(|full| full == point)
            && let Ok(disk) = std::env::var("QHOST_FILL")
        {
            let disk = Path::new(&disk);
            if disk.is_dir() { disk::fill(disk) } else { disk::fail(disk) }
        }
        let slow = std::env::var("QHOST_SLOW_AT").unwrap_or_default();
        if let Some((_, milliseconds)) = slow.split_once('=').filter(|(at, _)| *at == point) {
            std::thread::sleep(Duration::from_millis(milliseconds.parse().expect("a number")));
        }
    });
}

/// The points that the program names in these of its parts, such as `launch|stop`.
pub fn named_points(parts: &str) -> BTreeSet<String> {
    let host = root().join("host");
    let pattern = format!("\"({parts})\\.[a-z.]+\"");
    let host = host.to_str().expect("UTF-8");
    let found = succeed("grep", &["-rhoE", "--include=*.rs", &pattern, host]);
    found.lines().map(|line| line.trim_matches('"').to_owned()).collect()
}

/// Whether QEMU's connections can be filtered here, found without qhost: this is root with CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN
/// (capabilities(7)), and cgroups of version 2 are mounted.
pub fn can_filter() -> bool {
    const ABLE: u64 = 1 << 39 | 1 << 12 | 1 << 21;
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let status = read("/proc/self/status");
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:\t"));
    let effective = effective.and_then(|set| u64::from_str_radix(set, 16).ok()).unwrap_or(0);
    effective & ABLE == ABLE && read("/proc/self/mounts").contains(" cgroup2 ")
}

/// Waits until `probe` gives a value. The bound is for a busy machine; no test asserts how long this took.
pub fn wait_for<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(600);
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "timed out waiting for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
