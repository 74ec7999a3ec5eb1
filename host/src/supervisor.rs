//! The program that looks after one VM, `qhost-supervisor`: started by `qhost` and by nobody else. It is small, because there is
//! one for each VM: no policy engine and no HTTP client are in it.

use std::{ffi::OsStr, io::stderr, path::Path, process::ExitCode};

use tracing_subscriber::filter::LevelFilter;

use crate::{
    cage, launcher,
    vm::{self, Begin},
};

/// The whole program.
pub fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let (how, vm) = (args.next(), args.next());
    match (how.as_deref().and_then(OsStr::to_str), vm) {
        (Some(cage::SUBCOMMAND), None) => cage::enter(),
        (Some("launch"), Some(vm)) => supervise(Path::new(&vm), Begin::Launch),
        (Some("adopt"), Some(vm)) => supervise(Path::new(&vm), Begin::Adopt),
        _ => {
            use std::io::Write as _;
            let said = writeln!(
                stderr(),
                "this is the part of qhost that looks after one VM; qhost starts it"
            );
            ExitCode::from(if said.is_ok() { 2 } else { 1 })
        }
    }
}

fn supervise(vm: &Path, begin: Begin) -> ExitCode {
    tracing_subscriber::fmt()
        .with_max_level(LevelFilter::WARN)
        .with_writer(stderr)
        .with_ansi(false)
        .init();
    // Of no terminal and nobody's process group: what ends those does not end the VM.
    if let Err(error) = rustix::process::setsid() {
        tracing::warn!(%error, "no session of its own");
    }
    // What was handed over stays open here and goes no further.
    if let Err(error) = launcher::close_on_exec(3) {
        tracing::error!(%error, "cannot keep descriptors from QEMU");
        return ExitCode::FAILURE;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime
        .map_err(vm::VmError::Runtime)
        .and_then(|runtime| runtime.block_on(vm::supervise(vm, begin)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the VM is not looked after");
            ExitCode::FAILURE
        }
    }
}
