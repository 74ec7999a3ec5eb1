//! The guest's firmware.

use serde_json::json;

use super::{
    Change, Findings, Rules, architecture,
    changes::Changes,
    field::{AskedField, Key, LaunchField, Place},
};
use crate::{
    architecture::Architecture,
    firmware::{Firmware, FirmwareKind, SecureBoot},
    host_facts::HostFacts,
    job::{block::TaskBlock, cursor::Object},
    quota::Usage,
    secrets::Secrets,
};

/// The field for the guest's firmware.
#[derive(Debug)]
pub struct Field;

impl LaunchField for Field {
    type Asked = Option<Firmware>;
    type Value = Firmware;

    const NAME: &'static str = "firmware";
    const CONTRACT: &'static str = "`firmware`";
    const TIGHTER: &'static str = "have UEFI boot only what is signed";

    fn default_for(asked: &Option<Firmware>) -> Firmware {
        asked.unwrap_or_default()
    }

    fn compare(before: &Firmware, after: &Firmware, changes: &mut Changes) {
        changes.note("firmware.kind", &before.kind, &after.kind);
        changes.note("firmware.secure_boot", &before.secure_boot, &after.secure_boot);
    }

    fn widened(host: &Firmware, tenant: &Firmware) -> Option<Change> {
        if host.kind != tenant.kind {
            return Some(Change::new("firmware.kind", &host.kind, &tenant.kind));
        }
        // Booting what some keys have signed is neither more nor less than booting what others have signed.
        let is_wider =
            host.secure_boot != SecureBoot::Off && host.secure_boot != tenant.secure_boot;
        is_wider
            .then(|| Change::new("firmware.secure_boot", &host.secure_boot, &tenant.secure_boot))
    }

    fn check(_: &Option<Firmware>, _: &Firmware, _: &Rules, _: &HostFacts, _: &mut Findings) {
        // The firmware that a host has depends on another field, the machine's architecture, so that
        // `job/rules/architecture.rs` checks it.
    }

    fn mask(_: &mut Firmware, _: &Secrets) {}

    fn add_to(_: &Firmware, _: &mut Usage) {}

    fn shown(firmware: &Firmware) -> Option<String> {
        (*firmware != Firmware::default()).then(|| firmware.to_string())
    }
}

impl AskedField for Field {
    const KEYS: &'static [Key] = &[
        Key {
            place: Place::Config,
            name: "firmware",
            required: false,
            schema: || {
                json!({
                    "description": "The guest's firmware. Absent: the host's policies choose; without policies, bios. An aarch64 guest has uefi. UEFI's variables are kept for the next run where persist is true.",
                    "enum": ["bios", "uefi", null]
                })
            },
        },
        Key {
            place: Place::Config,
            name: "secure_boot",
            required: false,
            schema: || {
                json!({
                    "description": "What UEFI boots. off, when absent: anything. vendor-keys: what is signed with the keys that the firmware comes with, Microsoft's and vendors'. own-keys: what is signed with keys that the guest enrols; anything until then. Both need machine_type q35; an aarch64 guest has neither.",
                    "enum": ["off", "vendor-keys", "own-keys", null]
                })
            },
        },
    ];

    fn read(task: &TaskBlock<'_>) -> Option<Option<Firmware>> {
        let config = task.config.as_ref()?;
        if architecture::asked(config) == Architecture::Aarch64 {
            return of_aarch64(config).map(Some);
        }
        let kind =
            config.optional("firmware").map(|it| it.word(FirmwareKind::ALL, FirmwareKind::name));
        let secure = config.optional("secure_boot");
        let secure_boot = secure
            .as_ref()
            .map_or(Some(SecureBoot::Off), |it| it.word(SecureBoot::ALL, SecureBoot::name))?;
        let Some(kind) = kind else {
            return match (secure, secure_boot) {
                (None, _) | (Some(_), SecureBoot::Off) => Some(None),
                (Some(secure), _) => secure.refuse_with_hint("off, or no secure_boot", NEEDS_UEFI),
            };
        };
        match (kind?, secure) {
            (FirmwareKind::Bios, Some(secure)) if secure_boot != SecureBoot::Off => {
                secure.refuse_with_hint("off, or no secure_boot", NEEDS_UEFI)
            }
            (kind, _) => Some(Some(Firmware { kind, secure_boot })),
        }
    }

    fn asking_for(value: &Firmware) -> Option<Firmware> {
        Some(*value)
    }
}

const NEEDS_UEFI: &str = "secure boot needs UEFI: set firmware to \"uefi\"";

/// Reads the firmware of an aarch64 guest, which is UEFI that boots anything.
fn of_aarch64(config: &Object<'_>) -> Option<Firmware> {
    let kind = config.optional("firmware").map_or(Some(FirmwareKind::Uefi), |it| {
        match it.word(FirmwareKind::ALL, FirmwareKind::name)? {
            FirmwareKind::Uefi => Some(FirmwareKind::Uefi),
            FirmwareKind::Bios => {
                it.refuse_with_hint("uefi, or no firmware", "there is no BIOS for an aarch64 guest")
            }
        }
    });
    let secure_boot = config.optional("secure_boot").map_or(Some(SecureBoot::Off), |it| {
        match it.word(SecureBoot::ALL, SecureBoot::name)? {
            SecureBoot::Off => Some(SecureBoot::Off),
            SecureBoot::OwnKeys | SecureBoot::VendorKeys => it.refuse_with_hint(
                "off, or no secure_boot",
                "an aarch64 guest's UEFI has no secure boot on this host",
            ),
        }
    });
    Some(Firmware { kind: kind?, secure_boot: secure_boot? })
}
