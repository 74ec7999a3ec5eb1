//! Findings about this host: what it can and cannot do for VMs, and what would mend it. The examination changes nothing.

use std::{path::Path, time::Duration};

use jiff::fmt::friendly::SpanPrinter;
use procfs::{Current as _, Uptime};
use rustix::fs::{statfs, statvfs};
use serde::Serialize;

use tokio::time;

use qhost_cage::{Level, Mechanism};
use qhost_model::launch::{Architecture, FirmwareKind};
use qhost_sys::{spawn, state::StateDir, trusted};
use qhost_vm::{VmRecord, list};

use crate::{
    config::Config,
    drain::{self, Drain},
    facts,
    fingerprint::{Fingerprint, FingerprintError},
    firmware, limits,
};

/// How good or bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// All is as it should be.
    Good,
    /// VMs run, but something is missing that makes them safer, faster or more useful.
    Lacking,
    /// VMs cannot run.
    Bad,
}

/// A finding about one thing that was looked at.
#[derive(Debug, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub about: &'static str,
    /// How good or bad the finding is.
    pub health: Health,
    /// What was found.
    pub found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Finding {
    /// A finding, with what to do about it if it is not good.
    pub fn new(about: &'static str, health: Health, found: impl Into<String>, fix: &str) -> Self {
        let fix = (health != Health::Good).then(|| fix.to_owned());
        Self { about, health, found: found.into(), fix }
    }
}

fn finding(about: &'static str, health: Health, found: impl Into<String>, fix: &str) -> Finding {
    Finding::new(about, health, found, fix)
}

/// Good if a condition holds, and otherwise the given health.
fn unless(holds: bool, otherwise: Health) -> Health {
    if holds { Health::Good } else { otherwise }
}

/// Examines this host. `fingerprint` is what was found out about QEMU.
pub async fn examine(
    state: &StateDir,
    config: &Config,
    fingerprint: Result<&Fingerprint, &FingerprintError>,
) -> Vec<Finding> {
    let mut findings = qemu(fingerprint);
    findings.push(firmware(config));
    findings.extend(fingerprint.ok().map(|found| architectures(found, config)));
    findings.extend(trust(config));
    findings.extend(supervisor().await);
    findings.extend(older_supervisors(state));
    findings.extend(drained(state));
    findings.extend(cage(config));
    findings.extend([file_system(state), free_space(state, config), memory()]);
    findings.extend([ports(state, config), uptime()]);
    findings
}

/// Finds files that the configuration names and that other users can change. If other users can change the configuration itself or the
/// state folder, no command gets this far.
fn trust(config: &Config) -> Vec<Finding> {
    let files = config.image.files().map(|(key, path)| (key.to_owned(), path.to_owned()));
    let files = files.chain(config.policy_files());
    let untrusted: Vec<_> = files
        .filter_map(|(key, path)| Some((key, trusted::look(&path).err()?)))
        .map(|(key, error)| finding("trust", Health::Bad, format!("{key}: {error}"), UNTRUSTED))
        .collect();
    if untrusted.is_empty() {
        vec![finding(
            "trust",
            Health::Good,
            "only this user and root can change what decides here",
            "",
        )]
    } else {
        untrusted
    }
}

/// The finding for a configuration or a state folder that other users can change.
pub fn untrusted(error: &dyn std::error::Error) -> Finding {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let found: Vec<_> = causes.map(ToString::to_string).collect();
    finding("trust", Health::Bad, found.join(": "), UNTRUSTED)
}

const UNTRUSTED: &str = "until then it is refused";

fn qemu(fingerprint: Result<&Fingerprint, &FingerprintError>) -> Vec<Finding> {
    let fingerprint = match fingerprint {
        Ok(fingerprint) => fingerprint,
        Err(error) => {
            let fix = "install qemu-system-x86, or mend what keeps it from answering";
            return vec![finding("qemu", Health::Bad, error.to_string(), fix)];
        }
    };
    let found = format!("{} at {}", fingerprint.version, fingerprint.path().display());
    let mut findings = vec![finding("qemu", Health::Good, found, "")];
    findings.extend(fingerprint.accelerators.iter().map(|accelerator| {
        let (about, otherwise, fix) = match accelerator.name.as_str() {
            "kvm" => (
                "kvm",
                Health::Lacking,
                "without hardware virtualization guests run some ten times slower and QEMU promises no isolation: enable it \
                 in the firmware or the hypervisor above, load kvm_intel or kvm_amd, let this user open /dev/kvm",
            ),
            _ => ("tcg", Health::Bad, "install a QEMU that has its own translator"),
        };
        finding(about, unless(accelerator.works, otherwise), &accelerator.evidence, fix)
    }));
    findings
}

/// Checks that the supervisor's program is beside this one, and has this version.
async fn supervisor() -> Option<Finding> {
    let about = "supervisor";
    let ours = env!("CARGO_PKG_VERSION");
    let install = format!("put qhost-supervisor {ours} there, which is built with qhost");
    if let Err((program, error)) = spawn::has_supervisor() {
        let found = format!("{}: {error}", program.display());
        return Some(finding(about, Health::Bad, found, &install));
    }
    let program = spawn::supervisor_program().ok()?;
    let mut asked = spawn::command(&program, &["--version"]);
    let asked = time::timeout(limits::SUPERVISOR_VERSION, asked.output()).await;
    let path = program.display();
    let said = match asked {
        Ok(Ok(output)) if !output.status.success() => {
            let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Some(finding(about, Health::Bad, format!("{path}: {why}"), &install));
        }
        Ok(Ok(output)) => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        Ok(Err(error)) => {
            return Some(finding(about, Health::Bad, format!("{path}: {error}"), &install));
        }
        Err(_) => String::new(),
    };
    let version = said.strip_prefix("qhost-supervisor ");
    let found = match version {
        Some(version) => format!("{path} has version {version}, and this is qhost {ours}"),
        None => format!("{path} does not say its version, and this is qhost {ours}"),
    };
    Some(finding(about, unless(version == Some(ours), Health::Lacking), found, &install))
}

/// VMs whose supervisor is of another build than the program that new VMs get.
fn older_supervisors(state: &StateDir) -> Option<Finding> {
    let program = spawn::supervisor_program().ok()?;
    let running = list::running(state);
    let is_older = |vm: &&VmRecord| {
        let process = vm.status.supervisor.as_ref();
        process.and_then(|process| process.is_of(&program)) == Some(false)
    };
    let older: Vec<_> = running.iter().filter(is_older).map(|vm| vm.id.as_str()).collect();
    if older.is_empty() {
        return None;
    }
    let shown: Vec<_> = older.iter().take(limits::SHOWN_VMS).copied().collect();
    let found = format!(
        "{} of {} VMs run under another build of qhost-supervisor: {}",
        older.len(),
        running.len(),
        shown.join(", ")
    );
    let fix =
        "they go on as they are; qhost stop and a new run give one the program that is there now";
    Some(finding("supervisors", Health::Lacking, found, fix))
}

fn drained(state: &StateDir) -> Option<Finding> {
    let found = match drain::of(state) {
        Ok(None) => return None,
        Ok(Some(Drain { since })) => format!("draining since {since:.0}; no VM is started"),
        Err(error) => error.to_string(),
    };
    Some(finding("drain", Health::Bad, found, "qhost drain --end"))
}

/// The finding about the firmware that guests can boot with.
fn firmware(config: &Config) -> Finding {
    let builds = firmware::builds(&config.firmware());
    let offered = firmware::offered(&builds, Architecture::X86_64);
    let has_uefi = offered.iter().any(|firmware| firmware.kind == FirmwareKind::Uefi);
    let each: Vec<_> = offered.iter().map(ToString::to_string).collect();
    let found = each.join(", ") + if has_uefi { "" } else { "; no UEFI" };
    let fix = "for guests with UEFI: on Debian and Ubuntu, apt-get install ovmf; its descriptors are looked for in machine.firmware";
    finding("firmware", unless(has_uefi, Health::Lacking), found, fix)
}

/// The finding about the architectures whose guests run here. An emulator without its firmware runs no guest.
fn architectures(fingerprint: &Fingerprint, config: &Config) -> Finding {
    let builds = firmware::builds(&config.firmware());
    let offered = facts::architectures(fingerprint, &builds);
    let is_half = |architecture: &Architecture| {
        let has_emulator = fingerprint.program(*architecture).is_ok();
        let has_firmware = !firmware::offered(&builds, *architecture).is_empty();
        !offered.contains(architecture) && (has_emulator || has_firmware)
    };
    let half: Vec<_> = Architecture::ALL.iter().copied().filter(is_half).collect();
    let each: Vec<_> = offered.iter().map(|architecture| architecture.name()).collect();
    let lacks = half.iter().map(|it| format!("; {} without emulator or firmware", it.name()));
    let found = each.join(", ") + &lacks.collect::<String>();
    let packages: Vec<_> = half.iter().map(|architecture| architecture.packages()).collect();
    let fix = format!("on Debian and Ubuntu, apt-get install {}", packages.join(" "));
    finding("architectures", unless(half.is_empty(), Health::Lacking), found, &fix)
}

/// The findings about the cage: whether this host has all of it, and each mechanism.
fn cage(config: &Config) -> [Finding; 5] {
    let host = qhost_cage::Host::detect(&config.cage);
    let lacks = host.lacks();
    let each: Vec<_> = lacks.iter().map(|mechanism| mechanism.what()).collect();
    let otherwise = match config.cage.level {
        Level::Strict => Health::Bad,
        Level::BestEffort => Health::Lacking,
    };
    let found = match each.as_slice() {
        [] => "whole".to_owned(),
        each => format!("without {}", each.join(", ")),
    };
    let found = format!("{}, {found}", config.cage.level.name());
    let fix = format!("mend what is listed below, or {}", leave_out(config));
    let whole = finding("cage", unless(lacks.is_empty(), otherwise), found, &fix);
    let cgroups = match host.cgroup() {
        Some(cgroup) => finding("cgroups", Health::Good, cgroup.to_string(), ""),
        None => {
            let found =
                format!("none for {} with cpu, memory and pids", config.cage.cgroup.display());
            finding("cgroups", Health::Lacking, found, Mechanism::Cgroup.fix())
        }
    };
    let landlock = match qhost_cage::landlock_version() {
        Ok(version) => finding("landlock", Health::Good, format!("version {version}"), ""),
        Err(error) => {
            finding("landlock", Health::Lacking, error.to_string(), Mechanism::Landlock.fix())
        }
    };
    let users = match qhost_cage::user_namespaces() {
        Ok(()) => finding("user namespaces", Health::Good, "for all users", ""),
        Err((found, fix)) => finding("user namespaces", Health::Lacking, found, fix),
    };
    let egress = match host.egress() {
        Ok(groups) => {
            let found = format!("filtered by cgroups at {}", groups.display());
            finding("egress", Health::Good, found, "")
        }
        Err(error) if config.unfiltered_internet() => {
            let found = format!(
                "{error}; network.unfiltered_internet lets guests reach this host's loopback, private networks and cloud metadata"
            );
            finding("egress", Health::Lacking, found, Mechanism::Egress.fix())
        }
        Err(error) => {
            finding("egress", Health::Lacking, error.to_string(), Mechanism::Egress.fix())
        }
    };
    [whole, cgroups, landlock, users, egress]
}

/// Says what to write to which file, so that a VM is kept in as much of the cage as this host has.
pub fn leave_out(config: &Config) -> String {
    let place = config.file().map(Path::to_owned).or_else(Config::place_to_write);
    let Some(path) = place else {
        return "set level = \"best-effort\" under [cage] in a file that --config names".into();
    };
    if path.exists() {
        return format!("set level = \"best-effort\" under [cage] in {}", path.display());
    }
    let folder = path.parent().unwrap_or(Path::new("/")).display();
    let path = path.display();
    format!("mkdir -p '{folder}' && echo 'cage.level = \"best-effort\"' > '{path}'")
}

/// The nearest folder that is there: the folder itself, or one above it.
fn nearest(path: &Path) -> &Path {
    path.ancestors().find(|path| path.exists()).unwrap_or(path)
}

fn file_system(state: &StateDir) -> Finding {
    let folder = nearest(state.path());
    // These are magic numbers of statfs(2).
    let name = match statfs(folder).map(|found| found.f_type) {
        Ok(0xef53) => "ext4",
        Ok(0x5846_5342) => "xfs",
        Ok(0x9123_683e) => "btrfs",
        Ok(0xf2f5_2010) => "f2fs",
        Ok(0x0102_1994) => "tmpfs",
        Ok(0x794c_7630) => "overlayfs",
        Ok(0x6969) => "nfs",
        Ok(_) => "another",
        Err(error) => {
            return finding(
                "file system",
                Health::Bad,
                error.to_string(),
                "choose another --state-dir",
            );
        }
    };
    let verity = Path::new("/sys/fs/verity").exists() || Path::new("/proc/sys/fs/verity").exists();
    let found = format!(
        "{name} at {}{}",
        folder.display(),
        if verity { ", the kernel has fs-verity" } else { "" }
    );
    match name {
        "tmpfs" => {
            let fix = "images and overlays are in memory here, and gone after a restart: choose another --state-dir";
            finding("file system", Health::Lacking, found, fix)
        }
        "nfs" => {
            let fix = "locks between hosts are not to be relied upon: choose a local --state-dir";
            finding("file system", Health::Lacking, found, fix)
        }
        _ => finding("file system", Health::Good, found, ""),
    }
}

fn free_space(state: &StateDir, config: &Config) -> Finding {
    let folder = nearest(state.path());
    let found = match statvfs(folder) {
        Ok(found) => found,
        Err(error) => {
            return finding(
                "free space",
                Health::Bad,
                error.to_string(),
                "choose another --state-dir",
            );
        }
    };
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    let text = format!("{} at {}", bytesize::ByteSize(free).display().iec(), folder.display());
    if free < qhost_image::limits::DISK_RESERVE_BYTES {
        let fix = "make room: qhost image gc --older-than 30d";
        return finding("free space", Health::Bad, text, fix);
    }
    let fix = "one guest alone may fill it (overlay.max_bytes): make room, or lower that";
    finding("free space", unless(free >= config.overlay.max_bytes, Health::Lacking), text, fix)
}

fn memory() -> Finding {
    match facts::resources() {
        Ok((all, available)) => {
            let found =
                format!("{available} of {} MiB available, {} CPUs", all.memory_mib, all.cpus);
            let enough = available >= *qhost_model::limits::MEMORY_MIB.start();
            finding("memory", unless(enough, Health::Bad), found, "end what takes it")
        }
        Err(error) => finding("memory", Health::Bad, error.to_string(), "mount /proc"),
    }
}

fn ports(state: &StateDir, config: &Config) -> Finding {
    let allowed = config.rules().ports;
    let inside = |port: &u16| allowed.iter().any(|range| range.contains(*port));
    let taken = facts::ports_in_use(state).into_iter().filter(inside).count();
    let all = allowed.iter().map(|range| usize::from(range.last() - range.first()) + 1);
    let all: usize = all.sum();
    let ranges: Vec<_> = allowed.iter().map(ToString::to_string).collect();
    let found = format!("{taken} of {all} taken, of {}", ranges.join(", "));
    let fix = "allow more of them: ports.allow in qhost.toml";
    finding("ports", unless(taken < all, Health::Lacking), found, fix)
}

fn uptime() -> Finding {
    let since = Uptime::current().map(|uptime| uptime.uptime_duration());
    let found = since.map_or_else(
        |error| error.to_string(),
        |since| {
            let minutes = Duration::from_secs(since.as_secs() / 60 * 60);
            SpanPrinter::new().unsigned_duration_to_string(&minutes)
        },
    );
    finding("time since boot", Health::Good, found, "")
}
