//! `qhost config …`

use clap::Subcommand;

/// About the host's configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Check the configuration with all that it names: policies, their digests, settings and limits, chains
    #[command(after_help = "Example:\n  qhost config check --config ./qhost.toml\n\n\
        Every problem is listed at once. Exit code 0 when there is none, 2 when there is.")]
    Check,
    /// Print the configuration with its defaults, and the file it comes from
    #[command(
        after_help = "Keys that are not set and have no default are left out. Policies' settings are\nprinted in full, secrets included."
    )]
    Show,
    /// Print the JSON Schema of the configuration
    #[command(after_help = "Example:\n  qhost config schema > qhost.schema.json")]
    Schema,
}
