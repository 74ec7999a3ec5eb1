//! `qhost config …`

use clap::Subcommand;

/// About the host's configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Check the configuration with all that it names: policies, their digests, settings and limits, chains
    #[command(after_help = "Example:\n  qhost config check --config ./qhost.toml\n\n\
        Every problem is listed at once. Exit code 0 when there is none, 2 when there is.")]
    Check,
    /// Print the JSON Schema of the configuration
    #[command(after_help = "Example:\n  qhost config schema > qhost.schema.json")]
    Schema,
}
