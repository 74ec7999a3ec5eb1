//! The engine as a program other than the command calls it.

use std::path::Path;

use serde_json::json;

use qhost_tests::{
    Done, ImageServer,
    boot_sector::{self, Then},
};

use crate::qhost;

/// `host/engine/examples/fleet.rs`, which Cargo builds along with the tests.
fn fleet() -> std::path::PathBuf {
    let built = Path::new(env!("CARGO_BIN_EXE_qhost-under-test")).with_file_name("examples/fleet");
    assert!(built.exists(), "cargo build --workspace --examples makes {}", built.display());
    built
}

#[test]
fn twenty_starts_in_one_process_half_of_them_given_up() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let image = server.serve("/fleet", boot_sector::disk("one of many", Then::Hang));
    let job = qhost.job(&image, json!({"port_map": {"http": 80}}));
    let mut command = qhost_tests::command(fleet());
    command.arg(qhost.program()).arg(qhost.state()).args([job.as_str(), "127.0.0.0/8"]);
    let done = Done::of(command.output().unwrap()).exits(0).says("0 left");
    let started: usize = done.stdout.split(' ').next().unwrap().parse().unwrap();
    assert!((10..20).contains(&started), "{}", done.stdout);
    qhost.assert_nothing_left();
}
