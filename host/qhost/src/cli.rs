//! The command line's arguments, without logic.

mod candidates;
mod run;
mod image;
mod overlay;
mod config;
mod decisions;
mod policy;
mod serve;
mod trial;
mod trust;
mod vm;
mod volume;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::{client::HostAddress, exit::Exit};

pub use config::ConfigCommand;
pub use decisions::{DecisionsArgs, RecordFilter};
pub use image::{
    Age, GcArgs, ImageCommand, ImagePathArgs, ImportImageArgs, InspectImageArgs, ListArgs,
    PullImageArgs, RemoveImageArgs, VerifyImageArgs,
};
pub use overlay::{OverlayCommand, RemoveOverlayArgs};
pub use policy::{BuildArgs, InspectArgs, NewArgs, PolicyCommand, ReplayArgs};
pub use run::{DecideArgs, ImageNetworks, NamedFile, NamedSettings, PlanArgs, RunArgs};
pub use serve::{NewTokenArgs, RemoveTokensArgs, ServeArgs, TokenCommand};
pub use trial::{BenchArgs, LintArgs, TestArgs};
pub use trust::{KeygenArgs, LockArgs, NamedPlace, PullArgs, PushArgs, SignArgs, VerifyArgs};
pub use vm::{
    DrainArgs, EventsArgs, ExecArgs, LogsArgs, MetaPair, OfTenant, PsArgs, ScreenshotArgs,
    StatsArgs, StopArgs, VmArgs, VmCommand, VmsArgs, WaitArgs,
};
pub use volume::{
    CopyVolumeArgs, CreateVolumeArgs, NamedVolume, OneTenant, RemoveVolumesArgs, ResizeVolumeArgs,
    VolumeCommand,
};

/// Runs tenants' virtual machines on QEMU, decided by WebAssembly policies.
///
/// A job file says what a tenant wants: an image and its SHA-256, resources, ports. Policies, sandboxed WebAssembly
/// components, decide whether it may run, with which accelerator and which ports. Then qhost fetches and checks the
/// image, and runs it in QEMU.
#[derive(Debug, Parser)]
#[command(name = "qhost", bin_name = "qhost", version, after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\nExit codes:\n{}", Exit::table()))]
pub struct Cli {
    #[command(flatten)]
    /// Options of every command.
    pub shared: Shared,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "Examples:
  qhost run --policy trusted-images.wasm --policy-settings 'trusted-images={\"hosts\":[\"images.example\"]}' job.json
  qhost plan --policy limits.wasm --policy-settings limits=limits.json job.json
  qhost policy inspect limits.wasm
  qhost fingerprint --json";

/// Options of every command.
#[derive(Debug, Default, Args)]
pub struct Shared {
    /// Where images, VMs and caches are kept [default: $QHOST_STATE_DIR, else /var/lib/qhost for root, else
    /// $XDG_STATE_HOME/qhost]
    #[arg(long, global = true, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// The host's configuration [default: $QHOST_CONFIG, else /etc/qhost/qhost.toml, else
    /// $XDG_CONFIG_HOME/qhost/qhost.toml, if there]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Do this on another host, through its API at unix:PATH or https://HOST:PORT [default: $QHOST_HOST, if set]. Who asks is said by $QHOST_TOKEN, or $QHOST_CLIENT_CERT and $QHOST_CLIENT_KEY; the service's
    /// certificate is to be signed by $QHOST_CACERT, else by an authority of the system
    #[arg(long, global = true, value_name = "PLACE")]
    pub host: Option<HostAddress>,
    /// Print one JSON object instead of text
    #[arg(long, global = true)]
    pub json: bool,
    /// Log what is done to standard error; twice for more
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

impl Cli {
    /// Takes from the environment the options that the command line leaves out. clap does not read these variables itself, since its usage
    /// errors would show their values.
    ///
    /// # Errors
    /// A variable's value is not valid for its option.
    pub fn with_environment(mut self) -> Result<Self, String> {
        let path = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let Shared { state_dir, config, .. } = &mut self.shared;
        *state_dir = state_dir.take().or_else(|| path("QHOST_STATE_DIR").map(PathBuf::from));
        *config = config.take().or_else(|| path("QHOST_CONFIG").map(PathBuf::from));
        // Another host fetches images from the networks of its own configuration.
        if self.shared.host.is_none()
            && let Some(networks) = self.command.networks()
        {
            networks.take_environment()?;
        }
        Ok(self)
    }
}

impl Command {
    fn networks(&mut self) -> Option<&mut ImageNetworks> {
        if let Self::Run(RunArgs { decide, .. }) | Self::Plan(PlanArgs { decide }) = self {
            Some(&mut decide.networks)
        } else if let Self::Image(ImageCommand::Pull(args)) = self {
            Some(&mut args.networks)
        } else {
            None
        }
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a job's task and stay with it until it ends
    Run(RunArgs),
    /// Say what `run` would do, and do none of it: no download, no VM; only compiled policies are kept
    Plan(PlanArgs),
    #[command(flatten)]
    /// About VMs.
    Vm(VmCommand),
    /// Run a command in a guest by its agent, and print what it prints
    Exec(ExecArgs),
    /// Say what tenants take of this host, and what they may take
    #[command(
        after_help = "A tenant a line: used of allowed. DISK is what guests may write, what kept overlays take and what volumes may take; IMAGES\nwhat fetched images and unfinished downloads take. What has no bound but the host's own is of any."
    )]
    Quota(OfTenant),
    /// List what was decided, the latest first, or say one decision in full
    Decisions(DecisionsArgs),
    /// Say what QEMU and this host can do
    Fingerprint,
    /// Say what this host lacks, and what would mend it
    #[command(after_help = "Exit code 0 when VMs can run here, 16 when not.")]
    Doctor {
        /// Look at the configuration and the plugin folder of an agent of Nomad's too
        #[arg(long, value_name = "PATH", num_args = 0..=1, require_equals = true,
              default_missing_value = qhost_nomad::AGENT_CONFIG)]
        nomad: Option<PathBuf>,
    },
    /// About job files
    #[command(subcommand)]
    Job(JobCommand),
    /// About the host's configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// About stored images
    #[command(subcommand)]
    Image(ImageCommand),
    /// About what tasks keep of what their guests write
    #[command(subcommand)]
    Overlay(OverlayCommand),
    /// About disks that outlive VMs
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// About policies
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Print a completion script, which completes names of VMs, images, volumes and tenants too
    #[command(
        after_help = "Examples:\n  qhost completions bash > ~/.local/share/bash-completion/completions/qhost\n  qhost completions fish > ~/.config/fish/completions/qhost.fish\n\nThe script asks qhost as you type. qhost reads the state folder and the\nconfiguration of $QHOST_STATE_DIR and $QHOST_CONFIG, else the default ones."
    )]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write man pages, one a command
    #[command(after_help = "Example:\n  qhost man /usr/local/share/man/man1")]
    Man {
        /// An existing folder
        folder: PathBuf,
    },
    /// Serve the API: the host as a service
    Serve(ServeArgs),
    /// Tokens: by what clients of the service on the network are known
    #[command(subcommand)]
    Token(TokenCommand),
    /// Serve an agent of Nomad's as a task driver: the agent starts this itself
    ///
    /// Link this program into the agent's plugin_dir as qhost, and name it in a block plugin "qhost" of the agent's
    /// configuration; jobs then say driver = "qhost". A person need not call it.
    NomadPlugin,
    /// Become QEMU: the step between a VM's supervisor and QEMU
    #[command(name = qhost_sys::spawn::SUBCOMMAND, hide = true)]
    Launch {
        /// The supervisor's process id
        parent: i32,
        /// The program and its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<std::ffi::OsString>,
    },
    /// Compile a policy: a process with limits of its own
    #[command(name = qhost_policy::COMPILE, hide = true)]
    Compile {
        /// What to make
        product: qhost_policy::Product,
        /// Its address space in bytes
        memory: u64,
        /// Its time in seconds
        seconds: u64,
    },
}

/// About job files.
#[derive(Debug, Subcommand)]
pub enum JobCommand {
    /// Print the JSON Schema of job files
    Schema,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_definition_is_sound() {
        super::Cli::command().debug_assert();
    }
}
