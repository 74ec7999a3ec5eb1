//! Guests of another architecture than the host's: aarch64 with its emulator and its UEFI, and what is refused for it.

use std::fs;

use serde_json::{Value, json};

use qhost_tests::{Done, ImageServer, Qhost, aarch64_guest, configured, efi_disk};

use crate::qhost;

fn plan(qhost: &Qhost, config: Value) -> Done {
    let nowhere = ("https://images.example/x".into(), "0".repeat(64));
    qhost.run(&["plan", &qhost.job(&nowhere, config)])
}

#[test]
fn an_aarch64_guest_boots_by_uefi_and_powers_off() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let image = server.serve("/image", efi_disk::disk("this is aarch64"));
    qhost.run(&["run", &qhost.job(&image, json!({"architecture": "aarch64"}))]).exits(0);
    qhost.console_has("this is aarch64");
    let spec = fs::read_to_string(qhost.vms()[0].join("plan.json")).unwrap();
    let spec: Value = serde_json::from_str(&spec).unwrap();
    assert!(spec["program"].as_str().unwrap().ends_with("qemu-system-aarch64"), "{spec}");
    // The VM's firmware was removed with the VM.
    assert!(!qhost.vms()[0].join("firmware.fd").exists());
    qhost.assert_nothing_left();
}

/// Debian's kernel with an initrd, by its own boot loader, from a qcow2 image with disks beside it.
#[test]
fn an_aarch64_linux_runs() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let image = server.serve("/aarch64.qcow2", fs::read(aarch64_guest()).unwrap());
    let iso = qhost_image::seed_disk(&[qhost_image::SeedFile { name: "note", bytes: b"x" }]);
    let cd = server.serve("/cd.iso", iso);
    let config = json!({
        "architecture": "aarch64",
        "display": true,
        "guest_agent": true,
        "disks": [
            {"name": "data", "size": "1MiB"},
            {"name": "cd", "image_source": cd.0, "checksum": cd.1, "cdrom": true}
        ],
        "ready": {"serial": "GUEST-READY: Linux aarch64"}
    });
    let job = fs::read_to_string(qhost.job(&image, config)).unwrap();
    let job = qhost.file("job.json", job.replace("\"memory_mib\":128", "\"memory_mib\":256"));
    qhost.run(&["run", &job]).exits(0);
    qhost.console_has("GUEST-READY: Linux aarch64");
    qhost.assert_nothing_left();
}

#[test]
fn the_fingerprint_has_the_emulators() {
    let qhost = qhost();
    let fingerprint = qhost.run(&["fingerprint", "--json"]).exits(0).json();
    let emulators = &fingerprint["attributes"]["driver.qemu.emulators"];
    assert_eq!(emulators, "qemu-system-aarch64,qemu-system-x86_64");
    assert_eq!(fingerprint["emulators"], json!(["qemu-system-aarch64", "qemu-system-x86_64"]));
    qhost.run(&["fingerprint"]).exits(0).says("driver.qemu.emulators");
    qhost.run(&["doctor"]).says("good  architectures    x86_64, aarch64");
}

#[test]
fn a_job_says_what_goes_with_an_architecture() {
    let qhost = qhost();
    for config in [
        json!({"architecture": "aarch64"}),
        json!({"emulator": "qemu-system-aarch64"}),
        json!({"architecture": "aarch64", "machine_type": "virt", "firmware": "uefi"}),
    ] {
        let planned = plan(&qhost, config).exits(0).says("qemu-system-aarch64");
        let planned = planned.says("machine virt of aarch64").says(", uefi");
        planned.says("pflash0=code,pflash1=variables").says("pvpanic-pci");
    }
    plan(&qhost, json!({"emulator": "qemu-system-x86_64"})).exits(0).says("qemu-system-x86_64");
    for (config, says) in [
        (json!({"architecture": "arm64"}), "one of x86_64, aarch64"),
        (json!({"emulator": "/bin/sh"}), "one of qemu-system-x86_64, qemu-system-aarch64"),
        (
            json!({"architecture": "aarch64", "emulator": "qemu-system-x86_64"}),
            "qemu-system-aarch64, as architecture is aarch64",
        ),
        (json!({"machine_type": "virt"}), "one of pc, q35: the guest's architecture is x86_64"),
        (
            json!({"architecture": "aarch64", "machine_type": "q35"}),
            "one of virt: the guest's architecture is aarch64",
        ),
        (json!({"architecture": "aarch64", "firmware": "bios"}), "there is no BIOS for an aarch64"),
        (
            json!({"architecture": "aarch64", "secure_boot": "vendor-keys"}),
            "an aarch64 guest's UEFI has no secure boot",
        ),
        (json!({"architecture": "aarch64", "nested": true}), "runs no VMs of its own"),
    ] {
        plan(&qhost, config).exits(10).says(says);
    }
}

#[test]
fn what_this_host_does_not_have_for_it_is_said() {
    let qhost = qhost();
    let kvm = json!({"architecture": "aarch64", "accelerator": "kvm"});
    plan(&qhost, kvm).exits(16).says("kvm runs no aarch64 guests on this host");
    let job = fs::read_to_string(qhost.folder().join("job.json")).unwrap();
    let little = job.replace("\"memory_mib\":128", "\"memory_mib\":127").replace("kvm", "tcg");
    let little = qhost.file("little.json", little);
    qhost.run(&["plan", &little]).exits(16).says("takes 128 MiB of memory, and this guest has 127");
    // An emulator alone boots nothing.
    fs::create_dir(qhost.folder().join("firmware")).unwrap();
    qhost.config("[machine]\nfirmware = \"firmware\"\n");
    let none = plan(&qhost, json!({"architecture": "aarch64"})).exits(16);
    none.says("host.architecture-not-offered").says("apt-get install qemu-system-arm");
    let doctor = qhost.run(&["doctor"]);
    doctor.says("lack  architectures    x86_64; aarch64 without emulator or firmware");
}

#[test]
fn policies_rule_it() {
    let qhost = qhost();
    let asks = |name: &str, module: &str, settings: Value, more: &str| {
        let policy = configured(name, module, settings, more);
        qhost.config(&format!("{policy}[host]\nchain = [\"{name}\"]\n"));
        plan(&qhost, json!({"architecture": "aarch64"}))
    };
    let guests = |allowed: Value| asks("guests", "guests", json!({"architectures": allowed}), "");
    guests(json!(["x86_64"])).exits(11).says("guests may not have the architecture aarch64");
    guests(json!(["x86_64", "aarch64"])).exits(0);
    let earlier = |more: &str| asks("earlier", "probe-v0-1", json!({}), more);
    earlier("").exits(11).says("contract 0.1, which has no word for machine.architecture");
    earlier("unseen = [\"machine.architecture\", \"machine.kind\", \"firmware\"]").exits(0);
}
