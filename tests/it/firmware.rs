//! UEFI: firmware of the operator's list, variables of the VM or of the task, secure boot; and descriptors that are refused.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::PathBuf,
};

use serde_json::{Value, json};

use qhost_tests::{
    Done, ImageServer, Qhost,
    boot_sector::{self, Then},
    configured, debian_guest,
};

use crate::{decisions::records, qhost};

fn nowhere(qhost: &Qhost, config: Value) -> String {
    qhost.job(&("https://images.example/x".into(), "0".repeat(64)), config)
}

/// Runs an image that UEFI cannot boot, and waits for text that such a guest never prints.
fn boots_nothing(qhost: &Qhost, server: &ImageServer, config: Value) -> Done {
    let image = server.serve("/image", boot_sector::disk("of BIOS", Then::Hang));
    let mut all = json!({"firmware": "uefi", "ready": {"serial": "never", "timeout_s": 100}});
    all.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
    qhost.run(&["run", &qhost.job(&image, all)])
}

fn kept(qhost: &Qhost) -> Option<PathBuf> {
    let entries = fs::read_dir(qhost.state().join("overlays")).into_iter().flatten().flatten();
    entries.map(|entry| entry.path().join("variables-off.fd")).find(|path| path.exists())
}

#[test]
fn an_image_that_uefi_does_not_boot_is_told_and_fails_its_ready_check() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let done = boots_nothing(&qhost, &server, json!({}));
    assert_ne!(done.code, 0);
    done.says("the firmware found no bootable device");
    assert_eq!(kept(&qhost), None);
    // The firmware's files are removed with the VM.
    let vm = &qhost.vms()[0];
    assert!(!vm.join("firmware.fd").exists() && !vm.join("variables.fd").exists());
    qhost.assert_nothing_left();
}

#[test]
fn a_persistent_task_keeps_its_uefi_variables() {
    let (qhost, server) = (qhost(), ImageServer::start());
    qhost.config("[overlay]\npersist = true\n");
    let persist = || boots_nothing(&qhost, &server, json!({"persist": true}));
    persist().says("the firmware found no bootable device");
    let variables = kept(&qhost).unwrap();
    let inode = || fs::metadata(&variables).unwrap().ino();
    let (first, written) = (inode(), fs::read(&variables).unwrap());
    let template = fs::read("/usr/share/OVMF/OVMF_VARS_4M.fd").unwrap();
    assert!(written.len() == template.len() && written != template, "the firmware wrote to them");
    persist().says("the firmware found no bootable device");
    assert_eq!(inode(), first, "it had them again");
    // A file that is not the variables of a firmware is not given to one.
    fs::File::options().write(true).open(&variables).unwrap().set_len(4096).unwrap();
    persist().exits(16).says("have 4096 bytes and this firmware's have 540672");
    // Variables that a guest wrote without secure boot do not decide what may boot with it.
    let secure = json!({"persist": true, "machine_type": "q35", "secure_boot": "vendor-keys"});
    boots_nothing(&qhost, &server, secure).says("the firmware found no bootable device");
    let enrolled = fs::read(variables.with_file_name("variables-vendor-keys.fd")).unwrap();
    let signatures = b"Microsoft Corporation UEFI CA 2011";
    assert!(enrolled.windows(signatures.len()).any(|part| part == signatures), "its own keys");
    qhost.assert_nothing_left();
}

#[test]
fn secure_boot_boots_what_is_signed() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let image = server.serve("/debian.qcow2", fs::read(debian_guest()).unwrap());
    let run = |secure_boot: &str, machine: &str| {
        let config = json!({
            "firmware": "uefi", "secure_boot": secure_boot, "machine_type": machine,
            "ready": {"serial": "login:", "timeout_s": 600},
        });
        let job = fs::read_to_string(qhost.job(&image, config)).unwrap();
        let job = qhost.file("job.json", job.replace("\"memory_mib\":64", "\"memory_mib\":512"));
        qhost.run(&["run", "--detach", "--wait-ready", &job])
    };
    // The Debian guest of the tests has boot loaders that no vendor has signed.
    let refused = run("vendor-keys", "q35");
    assert_ne!(refused.code, 0);
    refused.says("the firmware found no bootable device");
    let log = qhost.run(&["logs", "test"]).exits(0);
    assert!(log.stdout.contains("Access Denied"), "{}", log.stdout);
    // No key is enrolled yet.
    run("own-keys", "q35").exits(0);
    qhost.run(&["kill", "test"]).exits(0);
    let wrong = run("own-keys", "pc").exits(16);
    wrong.says("is not for the machine pc; set machine_type to one of: q35");
    qhost.assert_nothing_left();
}

#[test]
fn a_job_says_what_goes_together() {
    let qhost = qhost();
    let plan = |config: Value| qhost.run(&["plan", &nowhere(&qhost, config)]);
    let planned = plan(json!({"firmware": "uefi"})).exits(0);
    let planned = planned.says(", uefi\n").says("-boot 'menu=off,strict=on'");
    assert!(planned.stdout.contains("pflash0=code,pflash1=variables"), "{}", planned.stdout);
    assert!(!planned.stdout.contains("smm=on"), "{}", planned.stdout);
    let secure = json!({"firmware": "uefi", "secure_boot": "vendor-keys", "machine_type": "q35"});
    let planned = plan(secure).exits(0).says("uefi with secure boot by vendor-keys");
    assert!(planned.stdout.contains("smm=on"), "{}", planned.stdout);
    plan(json!({"firmware": "bios", "secure_boot": "off"})).exits(0);
    plan(json!({"secure_boot": "off"})).exits(0);
    let little = fs::read_to_string(nowhere(&qhost, json!({"firmware": "uefi"}))).unwrap();
    let little =
        qhost.file("little.json", little.replace("\"memory_mib\":64", "\"memory_mib\":63"));
    qhost.run(&["plan", &little]).exits(16).says("takes 64 MiB of memory, and this guest has 63");
    for (config, says) in [
        (json!({"firmware": "ovmf"}), "one of bios, uefi"),
        (json!({"firmware": "/etc/shadow"}), "one of bios, uefi"),
        (json!({"firmware": "uefi", "secure_boot": true}), "one of off, own-keys, vendor-keys"),
        (json!({"secure_boot": "vendor-keys"}), "secure boot needs UEFI"),
        (json!({"firmware": "bios", "secure_boot": "own-keys"}), "secure boot needs UEFI"),
    ] {
        plan(config).exits(10).says(says);
    }
}

/// A guest gets only firmware whose descriptor is understood and which other users cannot change.
#[test]
fn only_trusted_descriptors_offer_uefi() {
    let qhost = qhost();
    let folder = qhost.folder().join("firmware");
    fs::create_dir(&folder).unwrap();
    qhost.config("[machine]\nfirmware = \"firmware\"\n");
    let uefi = || qhost.run(&["plan", &nowhere(&qhost, json!({"firmware": "uefi"}))]);
    let none = uefi().exits(16).says("host.firmware-not-offered");
    none.says("apt-get install ovmf");
    let doctor = qhost.run(&["doctor"]);
    doctor.says("lack  firmware         bios; no UEFI").says("apt-get install ovmf");
    let (code, variables) = (folder.join("code.fd"), folder.join("vars.fd"));
    let describe = |change: fn(&mut Value)| {
        let mut descriptor = json!({
            "description": "a test's", "interface-types": ["uefi"],
            "mapping": {
                "device": "flash",
                "executable": {"filename": code, "format": "raw"},
                "nvram-template": {"filename": variables, "format": "raw"},
            },
            "targets": [{"architecture": "x86_64", "machines": ["pc-i440fx-*"]}],
            "features": ["acpi-s3"], "tags": [],
        });
        change(&mut descriptor);
        fs::write(folder.join("50-test.json"), descriptor.to_string()).unwrap();
    };
    let changes: [fn(&mut Value); 7] = [
        |it| it["interface-types"] = json!(["bios"]),
        |it| it["mapping"]["device"] = json!("memory"),
        |it| it["mapping"]["mode"] = json!("combined"),
        |it| it["mapping"]["executable"]["format"] = json!("qcow2"),
        |it| it["targets"][0]["architecture"] = json!("aarch64"),
        // Without SMM, a guest's kernel could change which programs may boot.
        |it| it["features"] = json!(["secure-boot"]),
        |it| *it = json!([]),
    ];
    for change in changes {
        describe(change);
        uefi().exits(16).says("host.firmware-not-offered");
    }
    describe(|_| {});
    uefi().exits(0);
    qhost.run(&["doctor"]).says("firmware         bios, uefi");

    let let_others_write = |path: &PathBuf, mode: u32| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let_others_write(&folder, 0o777);
    uefi().exits(16).says("host.firmware-not-offered").says("descriptors of firmware are left out");
    let_others_write(&folder, 0o755);
    let server = ImageServer::start();
    let run = || boots_nothing(&qhost, &server, json!({}));
    run().exits(16).says("read the firmware");
    fs::write(&code, vec![0xff; 4096]).unwrap();
    fs::write(&variables, vec![0xff; 9 << 20]).unwrap();
    run().exits(16).says("more than 8388608 bytes");
    fs::write(&variables, vec![0xff; 4096]).unwrap();
    let_others_write(&code, 0o666);
    run().exits(16).says("others may write to");
    qhost.assert_nothing_left();
}

/// A policy sees UEFI's settings, and makes them stricter; its choice is recorded.
#[test]
fn a_policy_has_uefi_boot_what_is_signed() {
    let qhost = qhost();
    let guests = configured("guests", "guests", json!({"secure_boot": true}), "");
    qhost.config(&format!("{guests}[host]\nchain = [\"guests\"]\n"));
    let job = nowhere(&qhost, json!({"firmware": "uefi", "machine_type": "q35"}));
    let planned = qhost.run(&["plan", "--json", &job]).exits(0).json();
    let firmware = json!({"kind": "uefi", "secure_boot": "vendor-keys"});
    assert_eq!(planned["decision"]["launch"]["firmware"], firmware);
    let guests = configured("guests", "guests", json!({"firmware": ["bios"]}), "");
    qhost.config(&format!("{guests}[host]\nchain = [\"guests\"]\n[image]\nattempts = 1\n"));
    qhost.run(&["run", &job]).exits(11).says("guests may not have the firmware uefi");
    let record = &records(&qhost)[0];
    assert_eq!(record["task"]["firmware"], json!({"kind": "uefi", "secure_boot": "off"}));
    let offered = record["host"]["firmware"].as_array().unwrap();
    assert!(offered.len() >= 2 && offered[0] == json!({"kind": "bios", "secure_boot": "off"}));
    let log = qhost.state().join("decisions/tenant-default/current.jsonl");
    qhost.run(&["policy", "replay", log.to_str().unwrap()]).exits(0).says("1 identical");
}
