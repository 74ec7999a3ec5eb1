//! What this host has for a cage, and the cage that is planned from it. This module only looks, and changes nothing.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rustix::{
    process::{Resource, geteuid, getrlimit},
    system::uname,
};
use serde::{Deserialize, Serialize};

use qhost_model::{
    host_facts::Accelerator,
    launch::{AccessLevel, Egress, Launch, MachineKind, Protocol},
};

use super::{
    Cage, Cgroup, Level, LinuxResources, Network, Rlimits, Settings, User, cgroup, egress,
    landlock, scheduler::SchedulerGroup, sockets,
};
use crate::limits;

/// One mechanism of the cage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mechanism {
    /// A user of QEMU's own, or a user namespace.
    User,
    /// Namespaces.
    Namespaces,
    /// Landlock for files.
    Landlock,
    /// Sockets that are bound for QEMU, so that QEMU binds no others.
    #[serde(alias = "landlock-tcp")]
    Listening,
    /// A cgroup.
    Cgroup,
    /// A bound on QEMU's processes, where there is no cgroup.
    Processes,
    /// A hard limit on open files that is high enough for QEMU.
    Files,
    /// The filter that keeps a QEMU with egress or UDP ports from this host and from private networks.
    Egress,
}

impl Mechanism {
    /// The mechanism as a noun phrase, for a sentence.
    pub fn what(self) -> &'static str {
        match self {
            Self::User => "a user of its own",
            Self::Namespaces => "namespaces",
            Self::Landlock => "Landlock",
            Self::Listening => "a bound on what QEMU listens to",
            Self::Cgroup => "a cgroup",
            Self::Processes => "a bound on QEMU's processes",
            Self::Files => "a hard limit of 1024 open files or more",
            Self::Egress => "a filter of what QEMU sends and receives",
        }
    }

    /// How an operator would give the host this mechanism.
    pub fn fix(self) -> &'static str {
        match self {
            Self::User | Self::Namespaces => {
                "run qhost as root, or allow user namespaces (sysctl user.max_user_namespaces)"
            }
            Self::Landlock => "boot a kernel from 5.13 on with landlock among lsm=",
            Self::Listening => {
                "boot a kernel from 5.9 on with CONFIG_SECCOMP_FILTER, and let qhost look into its own processes (sysctl \
                 kernel.yama.ptrace_scope=1)"
            }
            Self::Files => {
                "raise this user's hard limit on open files to 1024 or more (ulimit -Hn; LimitNOFILE= of a systemd unit; nofile in \
                 /etc/security/limits.conf)"
            }
            Self::Processes => {
                "boot a kernel from 5.14 on and allow user namespaces, or have cgroups that qhost may write to"
            }
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

/// The error of a host that lacks what a launch insists on.
#[derive(Debug, thiserror::Error)]
pub enum MissingMechanisms {
    /// The host lacks mechanisms of the cage.
    #[error("{}", said(mechanisms, *may_be_left_out))]
    Mechanisms {
        /// The mechanisms that it lacks.
        mechanisms: Vec<Mechanism>,
        /// Whether the configuration could leave them out.
        may_be_left_out: bool,
    },
    /// The host lacks the filter without which egress reaches everything.
    #[error(
        "without {} a guest with egress \"internet\" reaches this host's loopback, private networks and cloud metadata: {}; \
         or ask for egress \"isolated\"; or have the operator allow all that, by cage.level = \"best-effort\" and \
         network.unfiltered_internet = true",
        Mechanism::Egress.what(), Mechanism::Egress.fix()
    )]
    OpenInternet,
}

fn said(mechanisms: &[Mechanism], may_be_left_out: bool) -> String {
    let each =
        mechanisms.iter().map(|mechanism| format!("\n  {}: {}", mechanism.what(), mechanism.fix()));
    let otherwise = if may_be_left_out {
        "\nor have the operator leave it out, by cage.level = \"best-effort\""
    } else {
        ""
    };
    format!("this host lacks what a VM is to be kept in:{}{otherwise}", each.collect::<String>())
}

/// What a launch needs of the cage.
#[derive(Debug, Clone, Copy)]
pub struct Requirements<'a> {
    /// The tenant whose launch it is.
    pub tenant: &'a str,
    /// The launch.
    pub launch: &'a Launch,
    /// The host's side of the launch's ports.
    pub forwards: &'a [qhost_model::launch::Forward],
    /// The most that QEMU may write to one file, in bytes.
    pub file_bytes: u64,
    /// The emulator.
    pub program: &'a Path,
    /// Whether egress may go without its filter.
    pub unfiltered_internet: bool,
    /// What a scheduler has set aside for the VM.
    pub resources: &'a LinuxResources,
}

/// What this host has for a cage.
#[derive(Debug)]
pub struct Host {
    is_root: bool,
    /// Whether this process may give other processes namespaces and users, and take their capabilities.
    is_able: bool,
    user_namespaces: bool,
    landlock: i64,
    /// Whether sockets can be bound for QEMU.
    listening: bool,
    cgroup: Option<Cgroup>,
    /// The group that tenants' groups are below, as the configuration names it.
    group: PathBuf,
    /// The hard limit on open files.
    files: u64,
    /// Whether the kernel counts the processes of a user namespace apart from the user's others (Linux 5.14).
    counts_processes: bool,
}

/// CAP_SETGID, CAP_SETUID, CAP_SETPCAP, CAP_NET_ADMIN, CAP_SYS_PTRACE and CAP_SYS_ADMIN (capabilities(7)).
const ABLE: u64 = 1 << 6 | 1 << 7 | 1 << 8 | 1 << 12 | 1 << 19 | 1 << 21;
/// CAP_SYS_RESOURCE: a process with it may raise its own hard limits.
const CAP_SYS_RESOURCE: u64 = 1 << 24;

impl Host {
    /// Finds out what this host has.
    pub fn detect(settings: &Settings) -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:\t"));
        let effective = effective.and_then(|set| u64::from_str_radix(set, 16).ok()).unwrap_or(0);
        let is_root = geteuid().is_root();
        let files = match effective & CAP_SYS_RESOURCE {
            0 => getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX),
            _ => u64::MAX,
        };
        Self {
            is_root,
            is_able: effective & ABLE == ABLE,
            user_namespaces: user_namespaces().is_ok(),
            landlock: landlock::version().unwrap_or(0),
            listening: sockets::is_possible(is_root),
            cgroup: Cgroup::find(&settings.cgroup),
            group: settings.cgroup.clone(),
            files,
            counts_processes: kernel() >= (5, 14),
        }
    }

    /// Whether QEMU can be given a user namespace. One that a root without capabilities makes, as in a container, would make QEMU the owner
    /// of all of root's files.
    fn has_user_namespaces(&self) -> bool {
        self.user_namespaces && !self.is_root
    }

    fn has_users(&self) -> bool {
        self.is_root && self.is_able || self.has_user_namespaces()
    }

    /// Whether processes can be bounded where there is no cgroup.
    fn bounds_processes(&self) -> bool {
        self.is_root && self.is_able || self.has_user_namespaces() && self.counts_processes
    }

    /// The mechanisms that any VM would be without.
    pub fn lacks(&self) -> Vec<Mechanism> {
        let mechanisms = [
            (Mechanism::User, self.has_users()),
            (Mechanism::Namespaces, self.has_users()),
            (Mechanism::Landlock, self.landlock >= 1),
            (Mechanism::Listening, self.listening),
            (Mechanism::Cgroup, self.cgroup.is_some()),
            (Mechanism::Processes, self.cgroup.is_some() || self.bounds_processes()),
            (Mechanism::Files, self.files >= limits::CAGE_FILES),
        ];
        mechanisms.into_iter().filter(|(_, has)| !has).map(|(mechanism, _)| mechanism).collect()
    }

    /// The cgroup that tenants' groups are below.
    pub fn cgroup(&self) -> Option<&Cgroup> {
        self.cgroup.as_ref()
    }

    /// The group by which the kernel filters what QEMU sends, or the reason why there is none.
    pub fn egress(&self) -> io::Result<PathBuf> {
        egress::groups(&self.group)
    }

    /// Plans the cage for a launch. Under `strict` an incomplete cage is an error.
    pub fn cage(
        &self,
        settings: &Settings,
        needs: Requirements<'_>,
    ) -> Result<Cage, MissingMechanisms> {
        let Requirements { launch, file_bytes, program, .. } = needs;
        let mut lacks = self.lacks();
        if needs.forwards.is_empty() {
            lacks.retain(|mechanism| *mechanism != Mechanism::Listening);
        }
        let network = match self.network(needs) {
            Ok(network) => network,
            Err(without) => {
                lacks.push(Mechanism::Egress);
                without.ok_or(MissingMechanisms::OpenInternet)?
            }
        };
        // A QEMU that could listen on any port gets none forwarded, at any level.
        if lacks.contains(&Mechanism::Listening) {
            return Err(MissingMechanisms::Mechanisms {
                mechanisms: vec![Mechanism::Listening],
                may_be_left_out: false,
            });
        }
        if settings.level == Level::Strict && !lacks.is_empty() {
            return Err(MissingMechanisms::Mechanisms { mechanisms: lacks, may_be_left_out: true });
        }
        let cpus = launch.resources.cpus;
        let cgroup = self.cgroup.clone().map(|cgroup| {
            let mut cgroup = cgroup.of_tenant(needs.tenant);
            let needed =
                memory_bytes(launch.resources.memory_mib) + flash_bytes(launch.machine.kind);
            // QEMU has no use for more than twice what it needs, and policies and quotas do not see the scheduler's bound.
            let wanted = needs.resources.memory_bytes.unwrap_or(0).min(needed.saturating_mul(2));
            cgroup.memory_bytes = needed.max(wanted);
            cgroup.cpu_shares = needs.resources.cpu_shares;
            let (own, group) = (needs.resources.cpus.clone(), needs.resources.cgroup.clone());
            cgroup.scheduler = group.map(|group| SchedulerGroup { cpus: own, ..group });
            cgroup.cpu_percent = u64::from(cpus) * 100 + limits::CAGE_CPU_EXTRA_PERCENT;
            // The VM's supervisor is in the same group.
            cgroup.pids = processes(cpus) + 1;
            cgroup
        });
        Ok(Cage {
            level: settings.level,
            lacks,
            user: self.user(settings),
            namespaces: self.has_users(),
            landlock: self.landlock >= 1,
            seccomp: true,
            cgroup,
            network,
            kvm: launch.accelerator == Accelerator::Kvm,
            memory_files: launch.access.display != AccessLevel::None,
            rlimits: Rlimits {
                files: limits::CAGE_FILES.min(self.files),
                file_bytes,
                processes: self.bounds_processes().then(|| processes(cpus)),
            },
            paths: paths(program, launch.egress, &settings.paths),
        })
    }

    fn user(&self, settings: &Settings) -> User {
        match (self.is_root && self.is_able, self.has_user_namespaces()) {
            // The first user stands for the one that is reserved later.
            (true, _) => User::Own(settings.users.first()),
            (false, true) => User::Namespace(geteuid().as_raw()),
            (false, false) => User::Caller,
        }
    }

    /// What QEMU reaches of the network. The error is for a host that lacks the filter: what QEMU reaches without the filter, or nothing
    /// where the configuration does not allow that.
    fn network(&self, needs: Requirements<'_>) -> Result<Network, Option<Network>> {
        let ports = |protocol| -> Vec<u16> {
            let of = needs.forwards.iter().filter(|forward| forward.protocol == protocol);
            of.map(|forward| forward.host).collect()
        };
        let (tcp, udp) = (ports(Protocol::Tcp), ports(Protocol::Udp));
        let internet = needs.launch.egress == Egress::Internet;
        if !internet && udp.is_empty() {
            return Ok(if self.has_users() || tcp.is_empty() {
                Network::None
            } else {
                Network::Listen { tcp, udp: false }
            });
        }
        match self.egress() {
            Ok(groups) => {
                // With version 2 a process is in one group only, which is below the scheduler's if there is one.
                let scheduler = needs.resources.cgroup.as_ref().filter(|group| group.is_v2);
                let groups = scheduler.map_or_else(
                    || cgroup::of_tenant(&groups, needs.tenant),
                    |group| group.folder.clone(),
                );
                Ok(Network::Filtered { groups, tcp, udp, internet })
            }
            Err(error) => {
                tracing::debug!(%error, "no filter");
                Err(match (internet, needs.unfiltered_internet) {
                    (false, _) => Some(Network::Listen { tcp, udp: true }),
                    (true, true) => Some(Network::Host),
                    (true, false) => None,
                })
            }
        }
    }
}

/// The kernel's version.
fn kernel() -> (u32, u32) {
    let uname = uname();
    let release = uname.release().to_string_lossy();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|n| n.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// What QEMU may take of the host's memory: the guest's memory, and head room, without which QEMU would be killed for what the guest has a
/// right to.
pub fn memory_bytes(guest_mib: u32) -> u64 {
    let guest = u64::from(guest_mib) << 20;
    let room = (guest * limits::CAGE_MEMORY_PERCENT / 100).max(limits::CAGE_MEMORY_BYTES);
    guest + room + (u64::from(limits::TCG_TB_SIZE_MIB) << 20)
}

/// The memory that UEFI's flash takes in QEMU, beyond the head room of [`memory_bytes`].
fn flash_bytes(machine: MachineKind) -> u64 {
    match machine {
        MachineKind::Pc | MachineKind::Q35 => 0,
        MachineKind::Virt => limits::CAGE_VIRT_FLASH_BYTES,
    }
}

fn processes(cpus: u32) -> u64 {
    limits::CAGE_PROCESSES + u64::from(cpus)
}

/// Debian's place for libraries.
const MULTIARCH: &str = "lib/x86_64-linux-gnu";

/// The paths of the emulator, of its own files beside it, and of the system's libraries, as far as they exist.
fn paths(program: &Path, egress: Egress, more: &[PathBuf]) -> Vec<PathBuf> {
    let program = fs::canonicalize(program).unwrap_or_else(|_| program.to_owned());
    let own = program.parent().and_then(Path::parent).unwrap_or(Path::new("/usr"));
    let mut seen = vec![];
    for root in [own, Path::new("/usr"), Path::new("/")] {
        // Where libraries have a folder for each architecture, all of QEMU's libraries are in it.
        let libraries = if root.join(MULTIARCH).exists() { MULTIARCH } else { "lib" };
        seen.extend([libraries, "lib64", "share/qemu", "share/seabios"].map(|at| root.join(at)));
    }
    let system = ["/etc/ld.so.cache", "/dev/null", "/dev/urandom", "/dev/zero"].map(PathBuf::from);
    // QEMU's user-mode network resolves names for its guest by this file.
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

/// Checks that ordinary users may make user namespaces. The error says why they may not, and what would mend that.
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
