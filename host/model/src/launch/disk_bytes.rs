//! The size of the root disk, if it is to be larger than its image.

use serde_json::json;

use super::{
    Change, Findings, Rules,
    changes::Changes,
    field::{AskedField, Key, LaunchField, Place},
    rules::violation,
};
use crate::{host_facts::HostFacts, job::block::TaskBlock, limits, quota::Usage, secrets::Secrets};

/// Sizes are multiples of this, so that the contract can give them in MiB.
pub const MIB: u64 = 1 << 20;

/// The size's key in `extensions` of the contract 0.1, in a task and in a launch; its value has decimal digits.
pub const EXTENSION: &str = "disk-bytes";

/// The field for the root disk's size in bytes; absent where it is the image's.
#[derive(Debug)]
pub struct Field;

impl LaunchField for Field {
    type Asked = Option<u64>;
    type Value = Option<u64>;

    const NAME: &'static str = "disk_bytes";
    const CONTRACT: &'static str = "`disks`, of `root`: `size-mib`";
    const TIGHTER: &'static str = "lower it, or leave it out";

    fn default_for(asked: &Option<u64>) -> Option<u64> {
        *asked
    }

    fn compare(before: &Option<u64>, after: &Option<u64>, changes: &mut Changes) {
        changes.note(Self::NAME, before, after);
    }

    fn widened(host: &Option<u64>, tenant: &Option<u64>) -> Option<Change> {
        // A launch without a size has the image's, which is the smallest size possible.
        (tenant > host).then(|| Change::new(Self::NAME, host, tenant))
    }

    fn check(
        _: &Option<u64>,
        disk: &Option<u64>,
        rules: &Rules,
        _: &HostFacts,
        findings: &mut Findings,
    ) {
        let Some(bytes) = *disk else { return };
        check_size(Self::NAME, bytes, rules, findings);
    }

    fn mask(_: &mut Option<u64>, _: &Secrets) {}

    // The quota counts overlay.max_bytes, which bounds what a guest writes, whatever the size of its disk.
    fn add_to(_: &Option<u64>, _: &mut Usage) {}

    fn shown(disk: &Option<u64>) -> Option<String> {
        disk.map(|bytes| format!("a disk of {bytes} bytes"))
    }
}

/// Notes what the host's rules have against a disk's size.
pub(super) fn check_size(
    field: impl Into<String>,
    bytes: u64,
    rules: &Rules,
    findings: &mut Findings,
) {
    let field = field.into();
    if bytes > rules.disk_bytes {
        findings.refused.push(violation(
            "disk-not-allowed",
            field.clone(),
            format!("a disk of {bytes} bytes is larger than disks on this host may be"),
            format!(
                "ask for {} or less; or have the operator raise image.max_disk_bytes",
                rules.disk_bytes
            ),
        ));
    }
    if bytes == 0 || !bytes.is_multiple_of(MIB) {
        findings.refused.push(violation(
            "disk-not-whole",
            field,
            format!("a disk of {bytes} bytes does not consist of whole MiB"),
            format!("a multiple of {MIB}"),
        ));
    }
}

impl AskedField for Field {
    const KEYS: &'static [Key] = &[Key {
        place: Place::Config,
        name: "disk_bytes",
        required: false,
        schema: || {
            json!({
                "description": "The size of the root disk in bytes, a multiple of 1 MiB (1048576), where it is to be larger than the image's; the guest enlarges its partition and file system itself. At most what the host's image.max_disk_bytes says.",
                "type": ["integer", "null"],
                "minimum": MIB,
                "maximum": limits::DISK_BYTES_MOST,
                "multipleOf": MIB
            })
        },
    }];

    fn read(task: &TaskBlock<'_>) -> Option<Option<u64>> {
        let Some(disk) = task.config.as_ref()?.optional("disk_bytes") else { return Some(None) };
        let most = limits::DISK_BYTES_MOST;
        let bytes = disk.number(MIB..=most, "the disk's size in bytes")?;
        if bytes.is_multiple_of(MIB) {
            Some(Some(bytes))
        } else {
            disk.refuse(format!("a multiple of {MIB}: a disk has whole MiB"))
        }
    }

    fn asking_for(value: &Option<u64>) -> Option<u64> {
        *value
    }
}
