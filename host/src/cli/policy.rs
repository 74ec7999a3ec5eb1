//! `qhost policy …`

use clap::{Args, Subcommand};

use super::run::NamedFile;

/// About policies.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Say what a policy is: name, version, world, imports, digest, settings schema
    Inspect(InspectArgs),
}

/// `qhost policy inspect`
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  qhost policy inspect limits.wasm --json | jq .settings_schema")]
pub struct InspectArgs {
    /// The policy's file
    #[arg(value_name = "[NAME=]FILE")]
    pub policy: NamedFile,
}
