//! `qhost volume …`

use clap::{Args, Subcommand};

use qhost_engine::VolumeName;
use qhost_model::{
    job::DEFAULT_TENANT,
    launch::disks::{DISK_SIZE, disk_size},
    name,
};

use super::{ListArgs, candidates, run::tenant};

/// About disks that outlive VMs.
#[derive(Debug, Subcommand)]
pub enum VolumeCommand {
    /// List volumes
    #[command(
        alias = "list",
        after_help = "SIZE is what a guest sees and quotas count; STORED what the file takes of this host's disk; WRITTEN when\nit last changed; IN USE whether a VM or a command has it."
    )]
    Ls(ListArgs),
    /// Create an empty volume
    #[command(after_help = CREATE)]
    Create(CreateVolumeArgs),
    /// Make a volume larger; the guest enlarges its partition and file system itself
    #[command(after_help = EXIT_CODES)]
    Resize(ResizeVolumeArgs),
    /// Copy a volume for the same tenant; the agent in a guest that has it keeps it still meanwhile
    #[command(after_help = COPY)]
    Copy(CopyVolumeArgs),
    /// Remove volumes with all that is on them
    #[command(after_help = "A volume in use is not removed. There is no undo.")]
    Rm(RemoveVolumesArgs),
}

const CREATE: &str = "Example:
  qhost volume create --tenant acme db --size 10GiB

The tenant's tasks attach it by its name; the guest formats it at its first use:
  \"disks\": [{\"name\": \"data\", \"volume\": \"db\"}]

Exit code 2 when there is one of that name, 11 when the tenant's quota has no
room, 16 when the host's quota or disk has none.";

const EXIT_CODES: &str =
    "Exit code 2 when the volume is unknown, there already or too small, 11 when the
tenant's quota has no room, 16 when it is in use, or the host's quota or disk has
no room.";

const COPY: &str =
    "The guest of a VM that has the volume is frozen by its agent until the copy is made, where
the policies permit that (the operation snapshot); without an agent the volume is in use.

Exit code 2 when the volume is unknown or the copy is there already, 11 when a policy is
against it or the tenant's quota has no room, 16 when it is in use, or the host's quota or
disk has no room, 20 when the agent does not answer.";

/// The tenant of the volumes on a command line.
#[derive(Debug, Clone, Args)]
pub struct OneTenant {
    /// The volume's tenant, for a NAME without TENANT/ before it
    #[arg(long, default_value = DEFAULT_TENANT, value_parser = tenant, add = candidates::tenants())]
    pub tenant: String,
}

impl OneTenant {
    /// The volume that a name on the command line means.
    pub fn volume(&self, name: &NamedVolume) -> VolumeName {
        let tenant = name.tenant.as_ref().unwrap_or(&self.tenant).clone();
        VolumeName { tenant, name: name.name.clone() }
    }
}

/// A volume on the command line: `NAME`, or `TENANT/NAME`.
#[derive(Debug, Clone)]
pub struct NamedVolume {
    tenant: Option<String>,
    name: String,
}

/// `qhost volume create`
#[derive(Debug, Args)]
pub struct CreateVolumeArgs {
    /// The volume, unique among the tenant's
    #[arg(value_name = "NAME", value_parser = named, add = candidates::volumes())]
    pub name: NamedVolume,
    /// Its size, a multiple of 1 MiB, as in 10GiB
    #[arg(long, value_parser = size)]
    pub size: u64,
    #[command(flatten)]
    /// Whose.
    pub of: OneTenant,
}

/// `qhost volume resize`
#[derive(Debug, Args)]
pub struct ResizeVolumeArgs {
    /// The volume
    #[arg(value_name = "NAME", value_parser = named, add = candidates::volumes())]
    pub name: NamedVolume,
    /// The new size, not an increment and not smaller than now, as in 20GiB
    #[arg(long, value_parser = size)]
    pub size: u64,
    #[command(flatten)]
    /// Whose.
    pub of: OneTenant,
}

/// `qhost volume copy`
#[derive(Debug, Args)]
pub struct CopyVolumeArgs {
    /// The volume that is copied
    #[arg(value_name = "FROM", value_parser = named, add = candidates::volumes())]
    pub from: NamedVolume,
    /// The name of the copy, which is the same tenant's
    #[arg(value_name = "TO", value_parser = plain)]
    pub to: String,
    #[command(flatten)]
    /// Whose.
    pub of: OneTenant,
}

/// `qhost volume rm`
#[derive(Debug, Args)]
pub struct RemoveVolumesArgs {
    /// The volumes
    #[arg(value_name = "NAME", required = true, value_parser = named, add = candidates::volumes())]
    pub names: Vec<NamedVolume>,
    #[command(flatten)]
    /// Whose.
    pub of: OneTenant,
}

fn size(text: &str) -> Result<u64, String> {
    disk_size(text).ok_or_else(|| format!("expected {DISK_SIZE}"))
}

fn plain(text: &str) -> Result<String, String> {
    if name::is_volume(text) {
        Ok(text.to_owned())
    } else {
        Err(format!("expected {}", name::VOLUME))
    }
}

fn named(text: &str) -> Result<NamedVolume, String> {
    Ok(match text.split_once('/') {
        Some((whose, name)) => NamedVolume { tenant: Some(tenant(whose)?), name: plain(name)? },
        None => NamedVolume { tenant: None, name: plain(text)? },
    })
}
