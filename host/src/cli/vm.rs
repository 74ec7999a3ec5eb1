//! `qhost ps`, `inspect`, `logs`, `stop`, `kill`, `wait` and `rm`.

use clap::Args;

use crate::limits;

/// `qhost ps`
#[derive(Debug, Args)]
pub struct PsArgs {
    /// Ended VMs too, as far as they are kept
    #[arg(short, long)]
    pub all: bool,
}

/// One VM by name.
#[derive(Debug, Args)]
pub struct VmArgs {
    /// The beginning of its id, or its task's name
    #[arg(value_name = "VM")]
    pub vm: String,
}

/// Several VMs by name.
#[derive(Debug, Args)]
pub struct VmsArgs {
    /// The beginnings of their ids, or their tasks' names
    #[arg(value_name = "VM", required = true)]
    pub vms: Vec<String>,
}

/// `qhost logs`
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// The beginning of its id, or its task's name
    #[arg(value_name = "VM")]
    pub vm: String,
    /// Go on until the VM ends
    #[arg(short, long)]
    pub follow: bool,
}

/// `qhost wait`
#[derive(Debug, Args)]
#[command(
    after_help = "Exit code 0 when it shut down or was stopped, 20 when it failed or nobody knows how it ended."
)]
pub struct WaitArgs {
    /// The beginning of its id, or its task's name
    #[arg(value_name = "VM")]
    pub vm: String,
    /// Seconds after which it is waited for no longer: exit code 16
    #[arg(long, value_name = "SECONDS", default_value_t = limits::WAIT.as_secs(), value_parser = clap::value_parser!(u64).range(..=limits::WAIT.as_secs()))]
    pub timeout: u64,
}
