//! The UEFI firmware that this host has, by the descriptors that its packages ship (QEMU's `docs/interop/firmware.json`): the builds, the
//! machines that each is for, and the files of its code and its first variables. A VM gets copies of both files in its folder.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use serde::Deserialize;

use qhost_model::{
    host_facts,
    launch::{Architecture, Firmware, FirmwareKind, Launch, MachineKind, SecureBoot},
    limits::UEFI_AARCH64_MEMORY_MIB,
    limits::UEFI_MEMORY_MIB,
};
use qhost_sys::{state, trusted};
use qhost_vm::{
    VmError,
    error::io_error,
    files::{FIRMWARE, VARIABLES},
};

use crate::limits;

/// A build of UEFI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Build {
    offers: Firmware,
    /// The machines that the build is for.
    machines: Vec<MachineKind>,
    code: PathBuf,
    variables: PathBuf,
}

/// The error of a launch whose firmware does not suit its machine or its memory, or is missing on this host.
#[derive(Debug, thiserror::Error)]
#[error("the firmware {firmware} {reason}")]
pub(crate) struct FirmwareUnfit {
    firmware: Firmware,
    reason: String,
}

/// A descriptor, as far as it matters here.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Descriptor {
    interface_types: Vec<String>,
    mapping: Mapping,
    targets: Vec<Target>,
    features: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Mapping {
    device: String,
    #[serde(default)]
    mode: Option<String>,
    executable: Option<FlashFile>,
    nvram_template: Option<FlashFile>,
}

#[derive(Deserialize)]
struct FlashFile {
    filename: PathBuf,
    format: String,
}

#[derive(Deserialize)]
struct Target {
    architecture: String,
    machines: Vec<String>,
}

/// The builds for machines that guests may have, by their descriptors' file names, which are their priority.
pub(crate) fn builds(descriptors: &Path) -> Vec<Build> {
    let found = match fs::read_dir(descriptors) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return vec![],
        Err(error) => {
            tracing::warn!(path = %descriptors.display(), %error, "descriptors of firmware cannot be read");
            return vec![];
        }
    };
    let is_one = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "json");
    let mut paths: Vec<_> = found.flatten().map(|file| file.path()).filter(is_one).collect();
    paths.sort();
    if let Err(error) = trusted::check(descriptors) {
        tracing::warn!(path = %descriptors.display(), %error, "descriptors of firmware are left out");
        return vec![];
    }
    paths.iter().flat_map(|path| build(descriptors, path)).collect()
}

/// The build that a descriptor describes, if QEMU gets it as two flash files and the guest cannot turn off its secure boot.
fn build(descriptors: &Path, path: &Path) -> Option<Build> {
    let read = || -> io::Result<Descriptor> {
        // A descriptor that another user can write could give a guest any file of the host.
        let name = path.file_name().unwrap_or_default();
        trusted::check_in(descriptors, name).map_err(io::Error::other)?;
        let mut bytes = vec![];
        File::open(path)?.take(limits::FIRMWARE_DESCRIPTOR_BYTES).read_to_end(&mut bytes)?;
        Ok(serde_json::from_slice(&bytes)?)
    };
    let Descriptor { interface_types, mapping, targets, features } = read()
        .inspect_err(|error| {
            tracing::warn!(path = %path.display(), %error, "a descriptor of firmware is left out");
        })
        .ok()?;
    let has = |feature: &str| features.iter().any(|one| one == feature);
    let is_uefi = interface_types.iter().any(|interface| interface == "uefi");
    let is_flash = mapping.device == "flash" && mapping.mode.is_none_or(|mode| mode == "split");
    // A build with secure boot but without SMM is left out: the guest's kernel could write the variables that say what may boot.
    if !is_uefi || !is_flash || has("secure-boot") != has("requires-smm") {
        return None;
    }
    let raw = |file: Option<FlashFile>| file.filter(|file| file.format == "raw");
    let (code, variables) = (raw(mapping.executable)?, raw(mapping.nvram_template)?);
    let secure_boot = match (has("secure-boot"), has("enrolled-keys")) {
        (false, _) => SecureBoot::Off,
        (true, false) => SecureBoot::OwnKeys,
        (true, true) => SecureBoot::VendorKeys,
    };
    let is_for = |kind: &MachineKind| targets.iter().any(|target| target.has(*kind));
    Some(Build {
        offers: Firmware { kind: FirmwareKind::Uefi, secure_boot },
        machines: MachineKind::ALL.iter().copied().filter(is_for).collect(),
        code: code.filename,
        variables: variables.filename,
    })
    .filter(|build| !build.machines.is_empty())
}

impl Target {
    fn has(&self, machine: MachineKind) -> bool {
        // A descriptor names machines with their versions: `pc-i440fx-*`.
        let family = match machine {
            MachineKind::Pc => "pc-i440fx-",
            MachineKind::Q35 => "pc-q35-",
            MachineKind::Virt => "virt-",
        };
        self.architecture == machine.architecture().name()
            && self.machines.iter().any(|pattern| pattern.starts_with(family))
    }
}

/// The firmware that an architecture's guests can have on a host with these builds.
pub(crate) fn offered(builds: &[Build], architecture: Architecture) -> Vec<Firmware> {
    let mut offered = match architecture {
        Architecture::X86_64 => host_facts::bios(),
        Architecture::Aarch64 => vec![],
    };
    let of_it = builds.iter().filter(|build| build.is_of(architecture));
    offered.extend(of_it.map(|build| build.offers));
    offered.sort();
    offered.dedup();
    offered
}

impl Build {
    /// The build for a launch; nothing for BIOS, which QEMU has itself.
    pub(crate) fn of(descriptors: &Path, launch: &Launch) -> Result<Option<Self>, FirmwareUnfit> {
        let (firmware, machine) = (launch.firmware, launch.machine.kind);
        let unfit = |reason: String| FirmwareUnfit { firmware, reason };
        let architecture = machine.architecture();
        let least = match (firmware.kind, architecture) {
            (FirmwareKind::Bios, Architecture::X86_64) => return Ok(None),
            (FirmwareKind::Bios, Architecture::Aarch64) => {
                return Err(unfit("is not for aarch64 guests; leave firmware out".into()));
            }
            (FirmwareKind::Uefi, Architecture::X86_64) => UEFI_MEMORY_MIB,
            (FirmwareKind::Uefi, Architecture::Aarch64) => UEFI_AARCH64_MEMORY_MIB,
        };
        let has = launch.resources.memory_mib;
        if has < least {
            return Err(unfit(format!("takes {least} MiB of memory, and this guest has {has}")));
        }
        let is_it = |build: &Build| build.offers == firmware && build.is_of(architecture);
        let builds: Vec<_> = builds(descriptors).into_iter().filter(is_it).collect();
        let fitting = builds.iter().find(|build| build.machines.contains(&machine)).cloned();
        fitting.map(Some).ok_or_else(|| {
            let is_for = |kind: &&MachineKind| {
                kind.architecture() == architecture
                    && builds.iter().any(|build| build.machines.contains(*kind))
            };
            let machines: Vec<_> =
                MachineKind::ALL.iter().filter(is_for).map(|kind| kind.name()).collect();
            let machines = if machines.is_empty() { "none".into() } else { machines.join(", ") };
            let machine = machine.name();
            unfit(format!(
                "is not for the machine {machine}; set machine_type to one of: {machines}"
            ))
        })
    }

    fn is_of(&self, architecture: Architecture) -> bool {
        self.machines.iter().any(|machine| machine.architecture() == architecture)
    }

    /// The largest size of the build's files in bytes.
    pub(crate) fn flash_bytes(&self) -> u64 {
        if self.is_of(Architecture::Aarch64) {
            limits::FIRMWARE_AARCH64_BYTES
        } else {
            limits::FIRMWARE_BYTES
        }
    }

    /// Leaves kept variables as they are, or creates them from the build's template.
    fn ensure_variables(&self, variables: &Path) -> Result<(), VmError> {
        let bytes =
            |path: &Path| fs::metadata(path).map(|file| file.len()).map_err(io_error("read", path));
        if !variables.exists() {
            let new = variables.with_extension("new");
            copy(&self.variables, &new, self.flash_bytes(), 0o600)?;
            // Kept variables are synced, since they outlive the VM, unlike the VM's own files.
            let created = state::sync(&new).and_then(|()| fs::rename(&new, variables));
            return created.map_err(io_error("create", variables));
        }
        let (found, expected) = (bytes(variables)?, bytes(&self.variables)?);
        if found == expected {
            return Ok(());
        }
        Err(VmError::VariablesUnfit { path: variables.to_owned(), found, expected })
    }
}

/// Gives a VM its firmware's code, and variables of its own or those that are kept with its overlay. Returns the variables' path; nothing
/// for BIOS.
pub(crate) fn give_to(
    vm: &Path,
    build: Option<&Build>,
    kept: Option<PathBuf>,
) -> Result<Option<PathBuf>, VmError> {
    let Some(build) = build else { return Ok(None) };
    copy(&build.code, &vm.join(FIRMWARE), build.flash_bytes(), 0o400)?;
    if let Some(variables) = kept {
        build.ensure_variables(&variables)?;
        return Ok(Some(variables));
    }
    copy(&build.variables, &vm.join(VARIABLES), build.flash_bytes(), 0o600)?;
    Ok(Some(VARIABLES.into()))
}

static ZEROS: [u8; limits::FIRMWARE_PART_BYTES] = [0; limits::FIRMWARE_PART_BYTES];

/// Copies a file of the operator's that only root or this user can change. Files for aarch64 are nearly all zeros: parts that are not
/// written take no space on the disk or in QEMU's memory.
fn copy(from: &Path, to: &Path, most: u64, mode: u32) -> Result<(), VmError> {
    let read = || -> io::Result<Vec<u8>> {
        trusted::look(from).map_err(io::Error::other)?;
        let mut bytes = vec![];
        File::open(from)?.take(most + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > most {
            return Err(io::Error::other(format!("it has more than {most} bytes")));
        }
        Ok(bytes)
    };
    let bytes = read().map_err(io_error("read the firmware", from))?;
    let write = || -> io::Result<()> {
        let file = File::options().write(true).create_new(true).mode(0o600).open(to)?;
        let places = (0_u64..).step_by(limits::FIRMWARE_PART_BYTES);
        for (part, place) in bytes.chunks(limits::FIRMWARE_PART_BYTES).zip(places) {
            if !ZEROS.starts_with(part) {
                file.write_all_at(part, place)?;
            }
        }
        file.set_len(bytes.len() as u64)?;
        file.set_permissions(fs::Permissions::from_mode(mode))
    };
    state::remove(to).and_then(|()| write()).map_err(io_error("write", to))
}
