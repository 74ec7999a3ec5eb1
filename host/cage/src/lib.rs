//! The cage: what QEMU is kept in, so that a guest that breaks into QEMU has gained nothing. A start plans the cage from what this host has
//! (`detect`) and records it with the VM, and the step between supervisor and QEMU enters it (`enter`). Each of its mechanisms is one file.

pub mod limits;
mod detect;
mod enter;
mod bpf;
mod cgroup;
mod egress;
mod namespaces;
mod user;
mod rlimits;
mod scheduler;
mod hierarchy;
mod landlock;
mod seccomp;
mod sockets;

use std::{borrow::Cow, io, path::PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use cgroup::{Cgroup, Usage};
pub use detect::{Host, Mechanism, MissingMechanisms, Requirements, memory_bytes, user_namespaces};
pub use enter::{CageRequest, SUBCOMMAND, StepMessage, enter};
pub use landlock::version as landlock_version;
pub use scheduler::{LinuxResources, SchedulerGroup};
pub use sockets::bound;
pub use sockets::{BindListener, HandedSockets};
pub use user::{UIDS, Uids, UserRange};

/// How much of the cage a launch insists on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// All of it: what this host lacks refuses the launch.
    #[default]
    Strict,
    /// As much as this host has; what it lacks is said.
    BestEffort,
}

impl Level {
    /// The level's name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::BestEffort => "best-effort",
        }
    }
}

/// What one VM's QEMU is kept in. Either all that this record says is done, or the launch fails.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cage {
    /// The level that the launch insisted on.
    pub level: Level,
    /// The mechanisms that this host lacks.
    pub lacks: Vec<Mechanism>,
    /// The user that QEMU is.
    pub user: User,
    /// Whether QEMU has mount, process, IPC and host name namespaces of its own.
    pub namespaces: bool,
    /// Whether Landlock keeps QEMU from files and from TCP.
    pub landlock: bool,
    /// Whether system calls that QEMU does not need are refused.
    pub seccomp: bool,
    /// The VM's cgroup.
    pub cgroup: Option<Cgroup>,
    /// What QEMU reaches of the network.
    pub network: Network,
    /// Whether QEMU may open /dev/kvm.
    pub kvm: bool,
    /// Whether QEMU may make files in memory (memfd_create(2)), which it needs for a display. QEMU cannot execute such a file: there is no
    /// path to the file, and execveat(2) is refused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub memory_files: bool,
    /// Bounds of QEMU's process.
    pub rlimits: Rlimits,
    /// The host's files and folders that QEMU sees, for reading.
    pub paths: Vec<PathBuf>,
}

/// The user that QEMU is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum User {
    /// A user and group that no other VM and no other process of this host has.
    Own(u32),
    /// The user that started it, in a user namespace without any other user.
    Namespace(u32),
    /// The user that started it.
    Caller,
}

/// What QEMU's process reaches of the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Network {
    /// A network namespace with nothing in it; the sockets of forwarded ports are bound in the host's and handed over.
    None,
    /// The sockets of forwarded ports are handed over too, but the host lacks a network namespace around QEMU, or the filter
    /// that keeps UDP sockets from sending to any address.
    Listen {
        /// TCP ports.
        tcp: Vec<u16>,
        /// Whether UDP ports are forwarded too.
        udp: bool,
    },
    /// BPF programs filter what its sockets send and receive: forwarded UDP ports answer, and with egress public addresses are
    /// reached.
    Filtered {
        /// The cgroup below which the VM has one for these programs.
        groups: PathBuf,
        /// TCP ports.
        tcp: Vec<u16>,
        /// UDP ports.
        udp: Vec<u16>,
        /// Whether QEMU reaches public addresses.
        internet: bool,
    },
    /// All that the host reaches, loopback and private networks included, which `network.unfiltered_internet` allows.
    Host,
}

/// Bounds of QEMU's process (setrlimit(2)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimits {
    /// Open files.
    pub files: u64,
    /// Bytes of one file that QEMU writes.
    pub file_bytes: u64,
    /// Processes and threads; absent where other processes run as the same user.
    pub processes: Option<u64>,
}

impl Network {
    /// Whether QEMU has a network namespace of its own, where it has namespaces at all.
    fn is_apart(&self) -> bool {
        match self {
            Self::None | Self::Listen { .. } | Self::Filtered { internet: false, .. } => true,
            Self::Filtered { internet: true, .. } | Self::Host => false,
        }
    }
}

impl Cage {
    /// Says in a few words how whole the cage is.
    pub fn summary(&self) -> String {
        match self.lacks.as_slice() {
            [] => self.level.name().to_owned(),
            lacks => {
                let lacks: Vec<_> = lacks.iter().map(|mechanism| mechanism.what()).collect();
                let open = match self.network {
                    Network::Host => {
                        ", so that its guest reaches this host's loopback, private networks and cloud metadata"
                    }
                    Network::None | Network::Listen { .. } | Network::Filtered { .. } => "",
                };
                format!("{}; without {}{open}", self.level.name(), lacks.join(", "))
            }
        }
    }

    /// Removes a VM's cgroups, once no process is left in them. Succeeds where there are none.
    pub fn remove_cgroups(&self, vm: &str) -> io::Result<()> {
        let bounds = self.cgroup.as_ref().map_or(Ok(()), |cgroup| cgroup.remove(vm));
        // The second cgroup is removed even if the first cannot be.
        let egress = match &self.network {
            Network::Filtered { groups, .. } => cgroup::remove_with(&groups.join(vm)),
            Network::None | Network::Listen { .. } | Network::Host => Ok(()),
        };
        bounds.and(egress)
    }

    /// Moves this process, the VM's supervisor, into the VM's cgroup.
    pub fn enter_supervisor(&self, vm: &str) -> io::Result<()> {
        self.cgroup.as_ref().map_or(Ok(()), |cgroup| cgroup.enter_supervisor(vm))
    }

    /// Moves a QEMU whose guest runs from the tenant's starts to the VM's cgroup, if QEMU was not in the VM's cgroup for CPU time yet.
    pub fn end_start(&self, vm: &str, qemu: u32) -> io::Result<()> {
        self.cgroup.as_ref().map_or(Ok(()), |cgroup| cgroup.end_start(vm, qemu))
    }

    /// Moves this process, the VM's supervisor, out of the VM's cgroups, so that they can be removed.
    pub fn leave_supervisor(&self) -> io::Result<()> {
        self.cgroup.as_ref().map_or(Ok(()), Cgroup::leave)
    }

    /// What the VM used, if it has a cgroup.
    pub fn usage(&self, vm: &str) -> Option<Usage> {
        Some(self.cgroup.as_ref()?.usage(vm))
    }
}

/// `[cage]`
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// `strict`: what this host lacks refuses a launch. `best-effort`: it is left out, and said.
    pub level: Level,
    /// The users that VMs are, one each, where qhost runs as root: `FIRST-LAST`.
    pub users: UserRange,
    /// The cgroup below which each tenant gets one, and each of its VMs: a path below the file system's root for cgroups, of version 1
    /// below that of each controller. One that is delegated to qhost, where it does not run as root.
    pub cgroup: PathBuf,
    /// Files and folders that QEMU is to see for reading, besides its own and the system's libraries.
    pub paths: Vec<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            level: Level::Strict,
            users: UserRange::default(),
            cgroup: limits::CGROUP.into(),
            paths: vec![],
        }
    }
}

/// The share of the CPUs that this process's work for a tenant comes out of: the share of the starts, which go before running VMs, or that
/// of the tenant's VMs and commands.
#[derive(Debug)]
pub struct TenantShare(Option<Cgroup>);

impl TenantShare {
    /// A tenant's share. Its functions do nothing where this host has no such groups.
    pub fn of(settings: &Settings, tenant: &str) -> Self {
        Self(Cgroup::find(&settings.cgroup).map(|cgroup| cgroup.of_tenant(tenant)))
    }

    /// No share: its functions move no process.
    pub fn none() -> Self {
        Self(None)
    }

    /// Moves this process, which is to have one thread, to the tenant's commands.
    pub fn enter_commands(&self) -> io::Result<()> {
        self.0.as_ref().map_or(Ok(()), Cgroup::enter_command)
    }

    /// Moves this process, which is to have one thread, to where a start waits for its turn: to the tenant's commands, or, with cgroups of
    /// version 2, where a later move takes long, to the starts at once.
    pub fn enter_before_start(&self) -> io::Result<()> {
        self.0.as_ref().map_or(Ok(()), Cgroup::enter_before_start)
    }

    /// Moves this process, which has its turn, to the tenant's starts: this thread at once, other threads as they [`follow`]. The process
    /// is to leave the starts before it does what takes long.
    pub fn enter_starts(&self) -> io::Result<()> {
        self.0.as_ref().map_or(Ok(()), Cgroup::enter_starts)
    }

    /// Moves this process, with all its threads at once, from the starts to the tenant's commands.
    pub fn leave_starts(&self) -> io::Result<()> {
        self.0.as_ref().map_or(Ok(()), Cgroup::leave_start)
    }
}

/// Moves this thread to the share that its process is to be in. A thread that does many pieces of work calls this before each.
pub fn follow() {
    if let Err(error) = cgroup::threads::follow() {
        tracing::warn!(%error, "a thread stays in its cgroup");
    }
}

/// A mechanism of the cage that could not be put up.
#[derive(Debug, thiserror::Error)]
#[error("{step}")]
pub struct CageError {
    step: Cow<'static, str>,
    source: io::Error,
}

impl CageError {
    fn at<E: Into<io::Error>>(step: &'static str) -> impl Fn(E) -> Self {
        move |error| Self { step: step.into(), source: error.into() }
    }

    fn other<E: std::error::Error + Send + Sync + 'static>(
        step: &'static str,
    ) -> impl Fn(E) -> Self {
        move |error| Self { step: step.into(), source: io::Error::other(error) }
    }
}
