//! `qhost serve`.

use std::path::PathBuf;

use clap::Args;

/// `qhost serve`
#[derive(Debug, Args)]
#[command(
    after_help = "Root and the service's own user are operators; [api.users] in the configuration says which users act for which tenant.
SIGHUP has it read the configuration again; SIGTERM ends it, and VMs go on. Try:
  curl --unix-socket /run/qhost/api.sock http://qhost/v1/vms"
)]
pub struct ServeArgs {
    /// The unix socket; /run/qhost/api.sock for root, $XDG_RUNTIME_DIR/qhost.sock for others
    #[arg(long, value_name = "PATH")]
    pub listen: Option<PathBuf>,
}
