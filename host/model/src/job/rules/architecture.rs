//! The rules on what this host has for a guest's architecture: an emulator, accelerators, firmware. They are apart
//! because other fields of a launch depend on the architecture.

use crate::{
    firmware::Firmware,
    host_facts::{Accelerator, HostFacts},
    launch::{Architecture, Launch, Violation, violation},
};

/// Finds what a launch needs and this host does not have for the launch's architecture.
pub(super) fn check(launch: &Launch, host: &HostFacts) -> Vec<Violation> {
    let architecture = launch.machine.architecture;
    if !host.architectures.contains(&architecture) {
        // Without an emulator, the other rules would only repeat that this host cannot run the guest.
        return vec![violation(
            "architecture-not-offered",
            "machine.architecture",
            format!("this host lacks an emulator or firmware for {} guests", architecture.name()),
            format!(
                "have the operator install both, on Debian and Ubuntu: apt-get install {}; qhost doctor says what is there",
                architecture.packages()
            ),
        )];
    }
    let mut violations: Vec<_> = firmware(launch, host).into_iter().collect();
    match architecture {
        Architecture::X86_64 => {}
        Architecture::Aarch64 => violations.extend(only_emulated(launch)),
    }
    violations
}

fn firmware(launch: &Launch, host: &HostFacts) -> Option<Violation> {
    let (firmware, architecture) = (launch.firmware, launch.machine.architecture);
    let offered = host.firmware_of(architecture);
    if offered.contains(&firmware) {
        return None;
    }
    let names: Vec<_> = offered.iter().map(Firmware::to_string).collect();
    let names = names.join(", ");
    let (message, hint) = match architecture {
        Architecture::X86_64 => (
            format!("this host does not have the firmware {firmware}"),
            format!(
                "one of {names}; or have the operator install UEFI, on Debian and Ubuntu: apt-get install ovmf"
            ),
        ),
        Architecture::Aarch64 => (
            format!("this host does not have the firmware {firmware} for aarch64 guests"),
            format!("{names}: there is no BIOS for them, and no secure boot"),
        ),
    };
    Some(violation("firmware-not-offered", "firmware", message, hint))
}

/// Finds what a launch asks for that needs processors of the guest's own architecture.
fn only_emulated(launch: &Launch) -> impl Iterator<Item = Violation> {
    let kvm = (launch.accelerator == Accelerator::Kvm).then(|| {
        violation(
            "accelerator",
            "accelerator",
            "kvm runs no aarch64 guests on this host, whose processors are x86_64".into(),
            "tcg, which emulates them; or leave accelerator out".into(),
        )
    });
    let nested = launch.machine.nested.then(|| {
        violation(
            "nested-not-offered",
            "machine.nested",
            "aarch64 guests run no VMs of their own by hardware virtualization".into(),
            "leave nested out".into(),
        )
    });
    kvm.into_iter().chain(nested)
}
