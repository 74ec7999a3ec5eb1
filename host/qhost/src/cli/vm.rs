//! VMs: `qhost ps`, `inspect`, `logs`, `console`, `exec`, `screenshot`, `stats`, `events`, `stop`, `kill`, `pause`, `resume`, `restart`, `wait`,
//! `rm`, `drain` and `recover`.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
};

use clap::{Args, Subcommand};
use jiff::{SignedDuration, Timestamp};

use qhost_vm::State;

use super::{candidates, run::tenant};

/// About VMs.
#[derive(Debug, Subcommand)]
pub enum VmCommand {
    /// List VMs
    Ps(PsArgs),
    /// Say what is known of a VM
    Inspect(VmArgs),
    /// Print a VM's console; on a terminal, what would steer the terminal is escaped
    Logs(LogsArgs),
    /// Attach to a VM's serial console, whose bytes reach the terminal as they are; Ctrl-] detaches
    Console(VmArgs),
    /// Take a picture of a guest's display
    Screenshot(ScreenshotArgs),
    /// Say what VMs use: CPU, memory, disks, connections
    Stats(StatsArgs),
    /// Say what happened to VMs
    Events(EventsArgs),
    /// Press the guest's power button, then, after its grace, make QEMU quit
    Stop(StopArgs),
    /// End VMs without asking their guests
    Kill(VmsArgs),
    /// Stop guests where they are
    Pause(VmsArgs),
    /// Let paused guests go on
    Resume(VmsArgs),
    /// Stop VMs and start them again; an ended VM is decided again first
    #[command(
        after_help = "The policies configured now decide about an ended VM again: it gets the launch\nthat it had, or is refused with exit code 11. Policies given with --policy are\nnot asked again."
    )]
    Restart(StopArgs),
    /// Wait for a VM's end
    Wait(WaitArgs),
    /// Remove what is left of ended VMs
    Rm(VmsArgs),
    /// Start nothing from now on, and wait for what runs, or stop it
    Drain(DrainArgs),
    /// Look after VMs whose supervisors were killed, and start lost ones again as their restart policies say
    #[command(
        after_help = "For a unit that runs when the host has started: what ran before is lost then.\nEvery command about VMs adopts those that live; this one also starts the lost ones again."
    )]
    Recover,
}

/// Whose VMs a command is about.
#[derive(Debug, Args)]
pub struct OfTenant {
    /// Only this tenant's
    #[arg(long, value_parser = tenant, add = candidates::tenants())]
    pub tenant: Option<String>,
}

impl OfTenant {
    /// Whether objects of a tenant are meant.
    pub fn includes(&self, tenant: &str) -> bool {
        self.tenant.as_deref().is_none_or(|only| only == tenant)
    }

    /// Whether a file of the log of decisions may have records of a tenant that is meant.
    pub fn includes_file(&self, file: &Path) -> bool {
        let folder = file.parent().and_then(Path::file_name).and_then(|name| name.to_str());
        let tenant = folder.and_then(|name| name.strip_prefix("tenant-"));
        tenant.is_none_or(|tenant| self.includes(tenant))
    }

    /// A VM's name, with its tenant.
    fn name(&self, vm: &str) -> String {
        self.tenant.as_ref().map_or_else(|| vm.to_owned(), |tenant| format!("{tenant}/{vm}"))
    }

    fn names(&self, vms: &[String]) -> Vec<String> {
        vms.iter().map(|vm| self.name(vm)).collect()
    }
}

/// `qhost ps`
#[derive(Debug, Args)]
pub struct PsArgs {
    #[command(flatten)]
    /// Whose.
    pub of: OfTenant,
    /// Ended VMs too, as far as they are kept
    #[arg(short, long)]
    pub all: bool,
    /// Only VMs of this task, or this job
    #[arg(long, value_name = "NAME")]
    pub task: Option<String>,
    /// Only VMs in this state; exited, failed and lost need no --all: created, fetching, starting, running, paused, stopping, exited, failed, lost
    #[arg(long, value_name = "STATE", value_parser = state)]
    pub state: Option<State>,
    /// Only VMs whose job's meta has this; given several times, all must match
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub meta: Vec<MetaPair>,
    /// Print only ids, one a line
    #[arg(short, long, conflicts_with = "json")]
    pub quiet: bool,
}

/// A key of a job's `meta` with its value.
#[derive(Debug, Clone)]
pub struct MetaPair {
    /// The key.
    pub key: String,
    /// The value.
    pub value: String,
}

fn pair(text: &str) -> Result<MetaPair, &'static str> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok(MetaPair { key: key.into(), value: value.into() })
}

fn state(text: &str) -> Result<State, String> {
    let named = |state: &State| state.name() == text;
    State::ALL.into_iter().find(named).ok_or_else(|| {
        let names: Vec<_> = State::ALL.iter().map(|state| state.name()).collect();
        format!("expected one of {}", names.join(", "))
    })
}

/// `qhost drain`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qhost drain                      before this host is taken away
  qhost drain --stop --timeout 300
  qhost drain --end                when it is back

Until the drain is ended, every run, every plan and every restart of an ended
VM is refused with exit code 16. Running VMs still restart by their restart
policies. Ctrl-C ends the wait, and not the drain. Exit code 1 where VMs still
run after the time.")]
pub struct DrainArgs {
    /// Stop running VMs instead of waiting for their ends
    #[arg(long)]
    pub stop: bool,
    /// With --stop, seconds that a guest has to power off [default: the VM's own grace]
    #[arg(long, value_name = "SECONDS", requires = "stop", value_parser = clap::value_parser!(u64).range(..=u64::from(qhost_model::limits::GRACE_MOST_S)))]
    pub grace: Option<u64>,
    /// Do not wait for running VMs
    #[arg(long, conflicts_with_all = ["stop", "timeout"])]
    pub no_wait: bool,
    /// Seconds to wait for running VMs; then exit code 1
    #[arg(long, value_name = "SECONDS", default_value_t = qhost_vm::limits::WAIT.as_secs(), value_parser = clap::value_parser!(u64).range(..=qhost_vm::limits::WAIT.as_secs()))]
    pub timeout: u64,
    /// End the drain, so that VMs may be started
    #[arg(long, conflicts_with_all = ["stop", "no_wait", "timeout"])]
    pub end: bool,
}

/// One VM by name.
#[derive(Debug, Args)]
pub struct VmArgs {
    #[command(flatten)]
    /// Whose.
    pub of: OfTenant,
    /// Its id or the beginning of that, or its task's name; TENANT/ before it says whose
    #[arg(value_name = "VM", add = candidates::vms())]
    vm: String,
}

impl VmArgs {
    /// The VM's name, with its tenant.
    pub fn name(&self) -> String {
        self.of.name(&self.vm)
    }
}

/// `qhost exec`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qhost exec web -- systemctl is-system-running
  qhost exec web -- sh -c 'df -h / | tail -1'
  qhost exec --stdin web -- tee /etc/motd < motd

Needs \"guest_agent\": true in the job, and qemu-guest-agent running in the guest.
The agent runs the command as its own user, usually root, without a shell or a
terminal. The output, at most 6 MiB, is printed once the command has ended.

The exit code is the command's, or 128 plus the number of the signal that ended
it. Where qhost itself fails, the exit code is qhost's: 2, 11, 12, 16 or 20. To
tell them apart, use --json: it prints \"exec\" for a command that has ended, and
\"error\" for a failure of qhost.")]
pub struct ExecArgs {
    #[command(flatten)]
    /// Which.
    pub which: VmArgs,
    /// Give the command this command's standard input, at most 1 MiB
    #[arg(short = 'i', long)]
    pub stdin: bool,
    /// Seconds to wait for the command's end; then exit code 20, and the command goes on in the guest
    #[arg(long, value_name = "SECONDS", default_value_t = qhost_engine::limits::EXEC.as_secs(), value_parser = clap::value_parser!(u64).range(1..=qhost_engine::limits::EXEC_MOST.as_secs()))]
    pub timeout: u64,
    /// The program in the guest and its arguments
    #[arg(value_name = "COMMAND", required = true, last = true)]
    pub command: Vec<String>,
}

/// `qhost screenshot`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qhost screenshot web --output web.png
  qhost screenshot web --output - | display -

Needs \"display\": true in the job.")]
pub struct ScreenshotArgs {
    #[command(flatten)]
    /// Which.
    pub which: VmArgs,
    /// The PNG file to write, which must not be there yet; - for standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
}

/// Several VMs by name.
#[derive(Debug, Args)]
pub struct VmsArgs {
    #[command(flatten)]
    /// Whose.
    pub of: OfTenant,
    /// Their ids or the beginnings of these, or their tasks' names; TENANT/ before one says whose
    #[arg(value_name = "VM", required = true, add = candidates::vms())]
    vms: Vec<String>,
}

impl VmsArgs {
    /// The VMs' names, with their tenants.
    pub fn names(&self) -> Vec<String> {
        self.of.names(&self.vms)
    }
}

/// `qhost stats`
#[derive(Debug, Args)]
pub struct StatsArgs {
    #[command(flatten)]
    /// Whose.
    pub of: OfTenant,
    /// Their ids or the beginnings of these, or their tasks' names; all that run when none is given
    #[arg(value_name = "VM", add = candidates::running_vms())]
    vms: Vec<String>,
    /// Print again every SECONDS until Ctrl-C, 2 unless given, with the share of a CPU since the last time
    #[arg(short, long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "2", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub watch: Option<u64>,
}

impl StatsArgs {
    /// The VMs' names, with their tenants.
    pub fn names(&self) -> Vec<String> {
        self.of.names(&self.vms)
    }
}

/// `qhost stop` and `qhost restart`
#[derive(Debug, Args)]
pub struct StopArgs {
    #[command(flatten)]
    /// Which.
    pub which: VmsArgs,
    /// Seconds that a guest has to power off [default: what its run said]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(..=u64::from(qhost_model::limits::GRACE_MOST_S)))]
    pub grace: Option<u64>,
}

/// `qhost logs`
#[derive(Debug, Args)]
pub struct LogsArgs {
    #[command(flatten)]
    /// Which.
    pub which: VmArgs,
    /// Go on until the VM ends
    #[arg(short, long)]
    pub follow: bool,
    /// Only what came since then: a time, 2026-11-24T10:00:00Z, or how long ago, 90s, 10m, 2h
    #[arg(long, value_name = "TIME")]
    pub since: Option<Since>,
    /// Only the last LINES lines
    #[arg(short = 'n', long, value_name = "LINES")]
    pub tail: Option<usize>,
    /// The guest's bytes as they are, on a terminal too
    #[arg(long)]
    pub raw: bool,
}

/// `qhost events`
#[derive(Debug, Args)]
pub struct EventsArgs {
    #[command(flatten)]
    /// Whose.
    pub of: OfTenant,
    /// Go on with what happens from now on
    #[arg(short, long)]
    pub follow: bool,
    /// Only what happened since then: a time, 2026-11-24T10:00:00Z, or how long ago, 90s, 10m, 2h
    #[arg(long, value_name = "TIME")]
    pub since: Option<Since>,
    /// Only about this VM: its id, or the beginning of that
    #[arg(long, value_name = "ID")]
    pub vm: Option<String>,
    /// Only about this task
    #[arg(long, value_name = "NAME")]
    pub task: Option<String>,
    /// Only these events, as in the second column: refused, running, failed, …
    #[arg(long = "event", value_name = "EVENT")]
    pub events: Vec<String>,
    /// Only the last NUMBER events so far
    #[arg(short = 'n', long, value_name = "NUMBER")]
    pub tail: Option<usize>,
}

/// A time from which on something is shown.
#[derive(Debug, Clone, Copy)]
pub struct Since(pub Timestamp);

impl FromStr for Since {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let expected = "expected a time, 2026-11-24T10:00:00Z, or how long ago, 90s, 10m, 2h";
        if let Ok(time) = text.parse::<Timestamp>() {
            return Ok(Self(time));
        }
        let ago: SignedDuration = text.parse().map_err(|_| expected)?;
        Timestamp::now().checked_sub(ago.abs()).map(Self).map_err(|_| expected)
    }
}

/// `qhost wait`
#[derive(Debug, Args)]
#[command(
    after_help = "Exit code 0 when it shut down or was stopped, 20 when it failed or how it ended is not known."
)]
pub struct WaitArgs {
    #[command(flatten)]
    /// Which.
    pub which: VmArgs,
    /// Seconds to wait; then exit code 1
    #[arg(long, value_name = "SECONDS", default_value_t = qhost_vm::limits::WAIT.as_secs(), value_parser = clap::value_parser!(u64).range(..=qhost_vm::limits::WAIT.as_secs()))]
    pub timeout: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for good in ["2026-11-24T10:00:00Z", "90s", "10m", "2h", "1h 30m"] {
            assert!(good.parse::<Since>().is_ok(), "{good}");
        }
        for bad in ["", "yesterday", "10", "10x"] {
            assert!(bad.parse::<Since>().is_err(), "{bad}");
        }
    }
}
