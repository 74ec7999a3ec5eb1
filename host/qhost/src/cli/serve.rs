//! `qhost serve` and `qhost token …`.

use clap::{Args, Subcommand};

use qhost_serve::Place;

use super::{candidates, run::tenant};

/// `qhost serve`
#[derive(Debug, Args)]
#[command(
    after_help = "On the socket, root and the service's own user are operators; [api.users] in the configuration says which users act for which
tenant. On the network it listens with TLS alone, by [api.tls], and knows clients by their certificates ([api.certificates])
or by tokens (qhost token new). SIGHUP has it read the configuration again; SIGTERM ends it, and VMs go on. Try:
  curl --unix-socket /run/qhost/api.sock http://qhost/v1/vms"
)]
pub struct ServeArgs {
    /// Where to listen, as often as wanted: unix:PATH or https://ADDRESS:PORT; without it /run/qhost/api.sock for root, and
    /// $XDG_RUNTIME_DIR/qhost.sock for others
    #[arg(long, value_name = "PLACE")]
    pub listen: Vec<Place>,
}

/// About the tokens by which clients of the service are known.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token, and print it: it is shown this once
    #[command(after_help = NEW)]
    New(NewTokenArgs),
    /// List tokens, without what is secret of them
    #[command(alias = "list")]
    Ls,
    /// Remove tokens: from then on they are refused
    Rm(RemoveTokensArgs),
}

const NEW: &str = "Example:
  qhost token new ci --tenant acme --days 90

A client sends it as \"Authorization: Bearer qhost_…\". Only its SHA-256 is kept.
Exit code 2 when there is one of that name or no such tenant.";

/// `qhost token new`
#[derive(Debug, Args)]
pub struct NewTokenArgs {
    /// A name, by which records say who asked
    pub name: String,
    /// The tenant that its holder acts for
    #[arg(long, value_parser = tenant, add = candidates::tenants(), required_unless_present = "operator")]
    pub tenant: Option<String>,
    /// Make its holder an operator, who may do everything
    #[arg(long, conflicts_with = "tenant")]
    pub operator: bool,
    /// For how many days it is taken, from 1 to 3650; without it, until it is removed
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub days: Option<u32>,
}

/// `qhost token rm`
#[derive(Debug, Args)]
pub struct RemoveTokensArgs {
    /// Their names
    #[arg(required = true)]
    pub names: Vec<String>,
}
