//! What QEMU and this host can do, found out by asking and trying.
//!
//! Asking takes a tenth of a second and trying kvm up to [`limits::KVM_PROBE`], so the fingerprint is kept, keyed by the binary's identity
//! and the boot: after a package upgrade, a reboot or a change of `/dev/kvm`'s permissions it is taken again.

mod emulator;
mod kvm_probe;

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Output,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time;

use qhost_model::{host_facts::Accelerator, launch::Architecture, printable};
use qhost_sys::spawn::command;

use self::{emulator::Emulator, kvm_probe::Probe};
use crate::limits;

/// The host's own architecture: its emulator is asked what it can do.
const OWN: Architecture = Architecture::X86_64;

/// What QEMU and this host can do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Fingerprint {
    /// The emulator's version, for example `10.0.2`.
    pub version: String,
    /// Each accelerator, whether it works, and why not.
    pub accelerators: Vec<AcceleratorCheck>,
    /// Machine types that the emulator knows.
    pub machine_types: Vec<String>,
    key: Key,
    /// Whether a try could not be made. Such a fingerprint is not kept, as the next try may succeed.
    #[serde(skip)]
    inconclusive: bool,
}

/// One accelerator.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct AcceleratorCheck {
    /// `tcg` or `kvm`.
    pub name: String,
    /// Whether it runs guest code.
    pub works: bool,
    /// What was seen.
    pub evidence: String,
}

/// What the fingerprint depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Key {
    own: Emulator,
    /// The emulators of other architectures, as far as they are installed.
    others: Vec<Emulator>,
    boot_id: String,
    kvm_opens: bool,
    qhost: String,
}

/// The reason why there is no fingerprint.
#[derive(Debug, thiserror::Error)]
pub enum FingerprintError {
    /// The emulator is not installed.
    #[error(
        "{} is not on PATH; on Debian and Ubuntu: apt-get install {}", .0.emulator(), .0.packages()
    )]
    NotFound(Architecture),
    /// The emulator cannot be asked.
    #[error("cannot ask {}: {reason}", path.display())]
    Query {
        /// The emulator.
        path: PathBuf,
        /// What happened.
        reason: String,
    },
    /// The host does not tell a fact about itself.
    #[error("cannot find out {what}")]
    Host {
        /// What was asked for.
        what: &'static str,
        /// The cause.
        source: io::Error,
    },
}

impl Fingerprint {
    /// The kept fingerprint, if it still holds.
    pub fn kept(cache: &Path) -> Result<Option<Self>, FingerprintError> {
        let key = Key::now()?;
        let kept =
            fs::read(cache).ok().and_then(|bytes| serde_json::from_slice::<Self>(&bytes).ok());
        Ok(kept.filter(|kept| kept.key == key))
    }

    /// Takes the fingerprint anew, whatever is kept.
    pub async fn take() -> Result<Self, FingerprintError> {
        Self::fresh(Key::now()?).await
    }

    /// The emulator's path, as it is found on `PATH` now, with symbolic links resolved.
    pub fn path(&self) -> &Path {
        &self.key.own.path
    }

    /// The path of an architecture's emulator, with symbolic links resolved.
    ///
    /// # Errors
    /// Fails where the emulator is not installed.
    pub fn program(&self, architecture: Architecture) -> Result<&Path, FingerprintError> {
        let mut installed = std::iter::once(&self.key.own).chain(&self.key.others);
        let found = installed.find(|emulator| emulator.architecture == architecture);
        found.map(|it| it.path.as_path()).ok_or(FingerprintError::NotFound(architecture))
    }

    /// The names of the emulators that are installed, in alphabetical order, as Nomad's driver has them.
    pub fn emulators(&self) -> Vec<&'static str> {
        let installed = Architecture::ALL.iter().filter(|it| self.program(**it).is_ok());
        let mut names: Vec<_> = installed.map(|it| it.emulator()).collect();
        names.sort_unstable();
        names
    }

    /// Keeps the fingerprint for the next time, unless it is kept already. If that fails, the host is only slower.
    pub fn keep(&self, cache: &Path) {
        if self.inconclusive {
            return;
        }
        let kept = serde_json::to_vec_pretty(self).map_err(io::Error::other).and_then(|bytes| {
            if fs::read(cache).is_ok_and(|kept| kept == bytes) {
                Ok(())
            } else {
                qhost_sys::state::write_whole(cache, &bytes)
            }
        });
        if let Err(error) = kept {
            tracing::warn!(path = %cache.display(), %error, "cannot keep the fingerprint");
        }
    }

    /// The accelerators that run guest code.
    pub fn working(&self) -> Vec<Accelerator> {
        let works = |check: &&AcceleratorCheck| check.works;
        let named = |check: &AcceleratorCheck| Accelerator::named(&check.name);
        self.accelerators.iter().filter(works).filter_map(named).collect()
    }

    /// Attributes under the names of Nomad's QEMU driver, and the accelerators.
    pub fn attributes(&self) -> [(&'static str, String); 4] {
        let working: Vec<_> = self.working().iter().map(|accelerator| accelerator.name()).collect();
        [
            ("driver.qemu", "1".into()),
            ("driver.qemu.version", self.version.clone()),
            ("driver.qemu.emulators", self.emulators().join(",")),
            ("driver.qemu.accelerators", working.join(",")),
        ]
    }

    async fn fresh(key: Key) -> Result<Self, FingerprintError> {
        let path = key.own.path.clone();
        let version = query(&path, &["-version"]).await?;
        let version = parse_version(&version).ok_or_else(|| FingerprintError::Query {
            path: path.clone(),
            reason: format!(
                "no version in {:?}",
                printable::line(&version, qhost_model::limits::SHOWN_CHARS).to_string()
            ),
        })?;
        let machines = query(&path, &["-machine", "help"]).await?;
        let compiled = query(&path, &["-accel", "help"]).await?;
        let compiled: Vec<_> = compiled.lines().map(str::trim).collect();
        let mut accelerators = vec![];
        let mut inconclusive = false;
        for accelerator in Accelerator::ALL {
            let (works, evidence) = match (accelerator, compiled.contains(&accelerator.name())) {
                (_, false) => (false, format!("{} was built without it", OWN.emulator())),
                (Accelerator::Tcg, true) => (true, format!("{} has it", OWN.emulator())),
                (Accelerator::Kvm, true) => match kvm_probe::probe(&path).await {
                    Probe::Works(evidence) => (true, evidence),
                    Probe::DoesNot(evidence) => (false, evidence),
                    Probe::NotMade(why) => {
                        inconclusive = true;
                        (false, format!("it could not be tried: {why}"))
                    }
                },
            };
            accelerators.push(AcceleratorCheck {
                name: accelerator.name().into(),
                works,
                evidence,
            });
        }
        Ok(Self {
            version,
            accelerators,
            machine_types: machine_types(&machines),
            key,
            inconclusive,
        })
    }
}

impl Key {
    fn now() -> Result<Self, FingerprintError> {
        let host = |what| move |source| FingerprintError::Host { what, source };
        let find = |it| Emulator::find(it).map_err(host("the emulator's file"));
        let own = find(OWN)?.ok_or(FingerprintError::NotFound(OWN))?;
        let mut others = vec![];
        for architecture in Architecture::ALL.iter().copied().filter(|it| *it != OWN) {
            others.extend(find(architecture)?);
        }
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id");
        Ok(Self {
            own,
            others,
            boot_id: boot_id.map_err(host("the boot's id"))?.trim().to_owned(),
            kvm_opens: kvm_probe::device_opens().is_ok(),
            qhost: env!("CARGO_PKG_VERSION").into(),
        })
    }
}

/// Runs the emulator for what it prints.
async fn query(path: &Path, args: &[&str]) -> Result<String, FingerprintError> {
    let failed = |reason: String| FingerprintError::Query { path: path.into(), reason };
    let mut command = command(path, args);
    let Output { status, stdout, stderr } = time::timeout(limits::QEMU_QUERY, command.output())
        .await
        .map_err(|_| failed(format!("no answer within {} s", limits::QEMU_QUERY.as_secs())))?
        .map_err(|error| failed(error.to_string()))?;
    if !status.success() {
        let said = String::from_utf8_lossy(&stderr);
        return Err(failed(format!("{status}: {}", printable::line(said.trim(), 300))));
    }
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

/// The version in `QEMU emulator version 10.0.2 (Debian …)`.
fn parse_version(text: &str) -> Option<String> {
    let rest = text.split_once("version ")?.1;
    let version: String = rest.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    let version = version.trim_end_matches('.');
    version.starts_with(|c: char| c.is_ascii_digit()).then(|| version.to_owned())
}

/// The first word of each line after the title.
fn machine_types(help: &str) -> Vec<String> {
    let words = help.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    words.map(|word| printable::line(word, qhost_model::limits::SHOWN_CHARS).to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for (text, version) in [
            ("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright", Some("10.0.2")),
            ("QEMU emulator version 2.4.0", Some("2.4.0")),
            ("QEMU emulator version 11.0.50 (v11)", Some("11.0.50")),
            ("QEMU emulator version .", None),
            ("something else", None),
        ] {
            assert_eq!(parse_version(text).as_deref(), version, "{text}");
        }
    }
}
