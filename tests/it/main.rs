//! One binary with every integration test, in the order of a run.

mod cli;
mod job;
mod policy;
mod contracts;
mod tables;
mod host_policies;
mod fields;
mod decisions;
mod doors;
mod disks;
mod image_disks;
mod seeds;
mod serve;
mod records;
mod trusted;
mod compiled;
mod author;
mod trust;
mod registries;
mod trial;
mod sandbox;
mod hostile;
mod image;
mod inspect;
mod faults;
mod store;
mod attacks;
mod audit;
mod page;
mod plan;
mod ports;
mod fingerprint;
mod firmware;
mod architectures;
mod vm;
mod vms;
mod volumes;
mod engine;
mod terminals;
mod tenants;
mod lifecycle;
mod operating;
mod operations;
mod recovery;
mod full_disk;
mod cage;
mod neighbours;
mod chaos;
mod linux;
mod debian;
mod agent;
mod nomad;
mod tutorial;
mod walks;
mod docs;
mod crates;
mod tidy;

use qhost_tests::Qhost;

/// A scratch folder with the command that was built with these tests.
fn qhost() -> Qhost {
    Qhost::new(env!("CARGO_BIN_EXE_qhost-under-test"))
}

/// Snapshots of text without the parts that differ from machine to machine, and from run to run.
fn snapshot(name: &str, text: &str, qhost: &Qhost) {
    let folder = qhost.folder().to_str().expect("UTF-8");
    let text = text
        .replace(folder, "SCRATCH")
        .replace(qhost_tests::root().to_str().expect("UTF-8"), "ROOT");
    insta::with_settings!({prepend_module_to_snapshot => false, omit_expression => true}, {
        insta::assert_snapshot!(name, text);
    });
}
