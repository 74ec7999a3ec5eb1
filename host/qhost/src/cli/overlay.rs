//! `qhost overlay …`

use clap::{Args, Subcommand};

use super::ListArgs;

/// About what tasks keep of what their guests write.
#[derive(Debug, Subcommand)]
pub enum OverlayCommand {
    /// List kept overlays, the one written to last first
    #[command(alias = "list")]
    Ls(ListArgs),
    /// Remove kept overlays: their tasks begin anew
    Rm(RemoveOverlayArgs),
}

/// `qhost overlay rm`
#[derive(Debug, Args)]
pub struct RemoveOverlayArgs {
    /// Their names, as `qhost overlay ls` gives them
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
}
