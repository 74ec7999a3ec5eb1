//! `[machine]`, `[seed]` and `[data.NAME]`: what machines guests may have, the operator's part of their seeds, and the tables of policies.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use qhost_sys::trusted;

use super::ConfigProblem;

/// `[data.NAME]`
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Data {
    /// A JSON object: a key's value is any JSON; a relative path starts from the configuration's folder.
    file: PathBuf,
}

impl Data {
    pub(super) fn file(&self) -> &Path {
        &self.file
    }
}

/// `[seed]`
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Seed {
    /// The largest seed of a task in bytes, all its parts together.
    pub(super) max_bytes: u64,
    /// A file with the operator's own part, `vendor-data`, which each guest with a cloud-init seed gets; a relative path starts from the
    /// configuration's folder.
    vendor_data: Option<PathBuf>,
    /// What is in that file.
    #[serde(skip)]
    vendor_text: Option<String>,
}

impl Default for Seed {
    fn default() -> Self {
        let max_bytes = qhost_model::limits::SEED_BYTES;
        Self { max_bytes, vendor_data: None, vendor_text: None }
    }
}

impl Seed {
    /// The operator's own part.
    pub(super) fn vendor_data(&self) -> Option<&str> {
        self.vendor_text.as_deref()
    }

    pub(super) fn read(&mut self, folder: &Path, problems: &mut Vec<ConfigProblem>) {
        let Some(file) = &self.vendor_data else { return };
        let path = folder.join(file);
        if let Err(error) = trusted::look(&path) {
            let message = format!("{} cannot be relied upon: {error}", path.display());
            problems.push(ConfigProblem { place: "seed.vendor_data".into(), message });
            return;
        }
        let most = qhost_model::limits::SEED_PART_BYTES as u64;
        let mut text = String::new();
        let read =
            fs::File::open(&path).and_then(|file| file.take(most + 1).read_to_string(&mut text));
        let message = match read {
            Ok(bytes) if bytes as u64 <= most => {
                self.vendor_text = Some(text);
                return;
            }
            Ok(_) => format!("{} has more than {most} bytes", path.display()),
            Err(error) => format!("cannot read {}: {error}", path.display()),
        };
        problems.push(ConfigProblem { place: "seed.vendor_data".into(), message });
    }
}

/// `[machine]`
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Machine {
    /// The CPU models that tasks may ask for, by QEMU's names. `max`: all that the accelerator can give.
    pub(super) cpus: Vec<String>,
    /// Whether guests may run VMs of their own by hardware virtualization, which opens the largest part of KVM to their attacks.
    pub(super) nested: bool,
    /// The folder of QEMU firmware descriptors (`*.json`) that say which UEFI guests may have; only this folder is read. Debian's packages
    /// `ovmf` and, for aarch64, `qemu-efi-aarch64` install them there. Without such a folder guests boot with BIOS alone, and there are none of
    /// aarch64. A relative path starts from the configuration's folder.
    pub(super) firmware: PathBuf,
}

impl Default for Machine {
    fn default() -> Self {
        let firmware = "/usr/share/qemu/firmware".into();
        Self { cpus: qhost_model::launch::cpus(), nested: false, firmware }
    }
}

impl Machine {
    pub(super) fn check(&self, problems: &mut Vec<ConfigProblem>) {
        for (index, cpu) in self.cpus.iter().enumerate() {
            if !qhost_model::launch::machine::is_cpu(cpu) {
                let message =
                    "expected QEMU's name of a CPU model, alone: letters, digits, -, _ and ."
                        .into();
                problems.push(ConfigProblem { place: format!("machine.cpus.{index}"), message });
            }
        }
    }
}
