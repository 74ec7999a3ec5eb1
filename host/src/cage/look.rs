//! What this host has for a cage, and the cage that comes of it. Looks only; changes nothing.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rustix::process::geteuid;
use serde::{Deserialize, Serialize};

use super::{Cage, Cgroup, Level, Network, Rlimits, Settings, User, egress, landlock};
use crate::{
    job::{Accelerator, Egress, Protocol},
    limits,
    policy::Launch,
};

/// One wall of the cage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wall {
    /// A user of its own, or a user namespace.
    User,
    /// Namespaces.
    Namespaces,
    /// Landlock for files.
    Landlock,
    /// Landlock for TCP.
    LandlockTcp,
    /// A cgroup.
    Cgroup,
    /// What keeps QEMU, where it has egress or UDP ports, from this host and from private networks.
    Egress,
}

impl Wall {
    /// What it is, for a sentence.
    pub fn what(self) -> &'static str {
        match self {
            Self::User => "a user of its own",
            Self::Namespaces => "namespaces",
            Self::Landlock => "Landlock",
            Self::LandlockTcp => "Landlock for TCP",
            Self::Cgroup => "a cgroup",
            Self::Egress => "a filter of what QEMU sends",
        }
    }

    /// What would mend it.
    pub fn fix(self) -> &'static str {
        match self {
            Self::User | Self::Namespaces => {
                "run qhost as root, or allow user namespaces (sysctl user.max_user_namespaces)"
            }
            Self::Landlock => "boot a kernel from 5.13 on with landlock among lsm=",
            Self::LandlockTcp => "boot a kernel from 6.7 on with landlock among lsm=",
            Self::Cgroup => {
                "run qhost as root, or in a systemd unit with Delegate=yes that cage.cgroup names; its controllers must be cpu, \
                 memory and pids"
            }
            Self::Egress => {
                "run qhost as root, on a kernel from 5.11 on with CONFIG_CGROUP_BPF, and have cgroups of version 2 mounted \
                 (mount -t cgroup2 none /sys/fs/cgroup/unified, where the controllers are of version 1)"
            }
        }
    }
}

/// This host lacks walls that the configuration insists on.
#[derive(Debug, thiserror::Error)]
#[error("{}", said(.0))]
pub struct Lacking(Vec<Wall>);

fn said(walls: &[Wall]) -> String {
    let each = walls.iter().map(|wall| format!("\n  {}: {}", wall.what(), wall.fix()));
    format!(
        "this host lacks what a VM is to be kept in:{}\nor have the operator set cage.level = \"best-effort\", which leaves it out",
        each.collect::<String>()
    )
}

/// What a launch needs of the cage.
#[derive(Debug, Clone, Copy)]
pub struct Needs<'a> {
    /// The launch.
    pub launch: &'a Launch,
    /// The host's side of its ports.
    pub forwards: &'a [crate::qemu::Forward],
    /// What the guest may write to its disk, in bytes.
    pub overlay_bytes: u64,
    /// The emulator.
    pub program: &'a Path,
}

/// What this host has.
#[derive(Debug)]
pub struct Host {
    is_root: bool,
    /// Whether this process may give others namespaces, users and no capabilities.
    is_able: bool,
    user_namespaces: bool,
    landlock: i64,
    cgroup: Option<Cgroup>,
    /// As the configuration names it.
    group: PathBuf,
}

/// CAP_SETGID, CAP_SETUID, CAP_SETPCAP, CAP_NET_ADMIN and CAP_SYS_ADMIN (capabilities(7)).
const ABLE: u64 = 1 << 6 | 1 << 7 | 1 << 8 | 1 << 12 | 1 << 21;

impl Host {
    /// Looks.
    pub fn look(settings: &Settings) -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:\t"));
        let effective = effective.and_then(|set| u64::from_str_radix(set, 16).ok()).unwrap_or(0);
        Self {
            is_root: geteuid().is_root(),
            is_able: effective & ABLE == ABLE,
            user_namespaces: user_namespaces().is_ok(),
            landlock: landlock::version().unwrap_or(0),
            cgroup: Cgroup::find(&settings.cgroup),
            group: settings.cgroup.clone(),
        }
    }

    /// Those of a root without its rights, as in a container, would make QEMU the owner of all that is there.
    fn has_user_namespaces(&self) -> bool {
        self.user_namespaces && !self.is_root
    }

    /// What any VM would be without.
    pub fn lacks(&self) -> Vec<Wall> {
        let root = self.is_root && self.is_able;
        let users = root || self.has_user_namespaces();
        let walls = [
            (Wall::User, users),
            (Wall::Namespaces, users),
            (Wall::Landlock, self.landlock >= 1),
            (Wall::LandlockTcp, self.landlock >= 4),
            (Wall::Cgroup, self.cgroup.is_some()),
        ];
        walls.into_iter().filter(|(_, has)| !has).map(|(wall, _)| wall).collect()
    }

    /// The cgroup that VMs' own are below.
    pub fn cgroup(&self) -> Option<&Cgroup> {
        self.cgroup.as_ref()
    }

    /// The group by which the kernel filters what QEMU sends; or why there is none.
    pub fn egress(&self) -> io::Result<PathBuf> {
        egress::groups(&self.group)
    }

    /// The cage for a launch; under `strict`, only a whole one.
    pub fn cage(&self, settings: &Settings, needs: Needs<'_>) -> Result<Cage, Lacking> {
        let Needs { launch, forwards, overlay_bytes, program } = needs;
        let mut lacks = vec![];
        let mut has = |wall: Wall, has: bool| {
            if !has {
                lacks.push(wall);
            }
            has
        };
        let root = self.is_root && self.is_able;
        let caller = geteuid().as_raw();
        let user = match (root, has(Wall::User, root || self.has_user_namespaces())) {
            // Which one, is settled when it is reserved.
            (true, _) => User::Own(settings.users.first()),
            (false, true) => User::Namespace(caller),
            (false, false) => User::Caller,
        };
        let namespaces = has(Wall::Namespaces, root || self.has_user_namespaces());
        let ports = |protocol| -> Vec<u16> {
            let of = forwards.iter().filter(|forward| forward.protocol == protocol);
            of.map(|forward| forward.host).collect()
        };
        let (tcp, udp) = (ports(Protocol::Tcp), ports(Protocol::Udp));
        let internet = launch.egress == Egress::Internet;
        // Where QEMU has neither, seccomp and Landlock are enough.
        let network = match (internet || !udp.is_empty()).then(|| self.egress()) {
            Some(Ok(groups)) => Network::Filtered { groups, tcp, udp, internet },
            None if forwards.is_empty() && namespaces => Network::None,
            None => Network::Listen { tcp, udp: false },
            Some(Err(error)) => {
                tracing::debug!(%error, "no filter");
                has(Wall::Egress, false);
                if internet { Network::Host } else { Network::Listen { tcp, udp: true } }
            }
        };
        let landlock = has(Wall::Landlock, self.landlock >= 1);
        if landlock && matches!(network, Network::Listen { .. } | Network::Filtered { .. }) {
            has(Wall::LandlockTcp, self.landlock >= 4);
        }
        has(Wall::Cgroup, self.cgroup.is_some());
        let cgroup = self.cgroup.clone().map(|mut cgroup| {
            let cpus = u64::from(launch.resources.cpus);
            cgroup.memory_bytes = memory_bytes(launch.resources.memory_mib);
            cgroup.cpu_percent = cpus * 100 + limits::CAGE_CPU_EXTRA_PERCENT;
            cgroup.pids = processes(launch.resources.cpus);
            cgroup
        });
        if settings.level == Level::Strict && !lacks.is_empty() {
            return Err(Lacking(lacks));
        }
        let own_user = matches!(user, User::Own(_));
        Ok(Cage {
            level: settings.level,
            lacks,
            user,
            namespaces,
            landlock,
            seccomp: true,
            cgroup,
            network,
            kvm: launch.accelerator == Accelerator::Kvm,
            rlimits: Rlimits {
                files: limits::CAGE_FILES,
                file_bytes: overlay_bytes,
                processes: own_user.then(|| processes(launch.resources.cpus)),
            },
            paths: paths(program, launch.egress, &settings.paths),
        })
    }
}

/// What QEMU may take of the host's memory: its guest's, and head room, without which it is killed for what its guest has a
/// right to.
pub fn memory_bytes(guest_mib: u32) -> u64 {
    let guest = u64::from(guest_mib) << 20;
    let room = (guest * limits::CAGE_MEMORY_PERCENT / 100).max(limits::CAGE_MEMORY_BYTES);
    guest + room + (u64::from(limits::TCG_TB_SIZE_MIB) << 20)
}

fn processes(cpus: u32) -> u64 {
    limits::CAGE_PROCESSES + u64::from(cpus)
}

/// Debian's place for libraries.
const MULTIARCH: &str = "lib/x86_64-linux-gnu";

/// The emulator, its own files beside it, and the system's libraries; those that are there.
fn paths(program: &Path, egress: Egress, more: &[PathBuf]) -> Vec<PathBuf> {
    let program = fs::canonicalize(program).unwrap_or_else(|_| program.to_owned());
    let own = program.parent().and_then(Path::parent).unwrap_or(Path::new("/usr"));
    let mut seen = vec![];
    for root in [own, Path::new("/usr"), Path::new("/")] {
        // Where libraries have a folder for each architecture, none of QEMU's is elsewhere.
        let libraries = if root.join(MULTIARCH).exists() { MULTIARCH } else { "lib" };
        seen.extend([libraries, "lib64", "share/qemu", "share/seabios"].map(|at| root.join(at)));
    }
    let system = ["/etc/ld.so.cache", "/dev/null", "/dev/urandom", "/dev/zero"].map(PathBuf::from);
    // By which QEMU's user-mode network resolves names for its guest.
    let resolver = match egress {
        Egress::Internet => Some(PathBuf::from(egress::RESOLVERS)),
        Egress::Isolated => None,
    };
    let mut paths = vec![program.clone()];
    for path in seen.into_iter().chain(system).chain(resolver).chain(more.iter().cloned()) {
        if path.exists() && !paths.contains(&path) {
            paths.push(path);
        }
    }
    paths
}

/// Whether whoever is not root may make user namespaces; if not, why and what would mend it.
pub fn user_namespaces() -> Result<(), (&'static str, &'static str)> {
    let number = |name: &str| -> io::Result<u64> {
        let text = fs::read_to_string(Path::new("/proc/sys").join(name))?;
        text.trim().parse().map_err(io::Error::other)
    };
    let fix = "give qhost a profile that allows userns, or run as root";
    match (
        number("user/max_user_namespaces"),
        number("kernel/unprivileged_userns_clone"),
        number("kernel/apparmor_restrict_unprivileged_userns"),
    ) {
        (Err(_), _, _) => Err(("the kernel has none", "boot a kernel with CONFIG_USER_NS")),
        (Ok(0), _, _) => Err(("turned off", "sysctl user.max_user_namespaces=15000")),
        (_, Ok(0), _) => {
            Err(("for root only", "sysctl kernel.unprivileged_userns_clone=1, or run as root"))
        }
        (_, _, Ok(1)) => Err(("restricted by AppArmor", fix)),
        (Ok(_), _, _) => Ok(()),
    }
}
