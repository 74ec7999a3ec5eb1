//! The program that looks after one VM, `qhost-supervisor`, which only `qhost` starts. The program is small, because each VM has one: it
//! has no policy engine and no HTTP client.

use std::{
    ffi::OsStr,
    io::{self, Write, stderr},
    os::fd::RawFd,
    path::Path,
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering},
};

use tracing_subscriber::filter::LevelFilter;

use qhost_sys::spawn;

use crate::{Begin, limits};

/// The whole program.
pub fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let (how, vm, held) = (args.next(), args.next(), args.next());
    let how = how.as_deref().and_then(OsStr::to_str);
    let held = held.and_then(|held| held.to_str()?.parse::<RawFd>().ok());
    let begin = match how {
        Some("launch") => Some(Begin::Launch),
        Some("adopt") => Some(Begin::Adopt),
        _ => None,
    };
    match (how, begin, vm, held) {
        (Some(qhost_cage::SUBCOMMAND), _, None, None) => qhost_cage::enter(),
        (Some("--version"), _, None, None) => {
            let version = concat!("qhost-supervisor ", env!("CARGO_PKG_VERSION"), "\n");
            let said = io::stdout().write_all(version.as_bytes());
            ExitCode::from(if said.is_ok() { 0 } else { 1 })
        }
        (_, Some(begin), Some(vm), Some(held)) => supervise(Path::new(&vm), begin, held),
        (_, _, _, _) => {
            let mut said = Log::default();
            let text = "this is the part of qhost that looks after one VM; qhost starts it\n";
            ExitCode::from(if said.write_all(text.as_bytes()).is_ok() { 2 } else { 1 })
        }
    }
}

fn supervise(vm: &Path, begin: Begin, held: RawFd) -> ExitCode {
    tracing_subscriber::fmt()
        .with_max_level(LevelFilter::WARN)
        .with_writer(Log::default)
        .log_internal_errors(false)
        .with_ansi(false)
        .init();
    // In a session of its own, the supervisor does not end with the terminal or the process group of the command that started it.
    if let Err(error) = rustix::process::setsid() {
        tracing::warn!(%error, "no session of its own");
    }
    // The descriptors that were handed over stay open here and are not passed on; the others that the command was started with are closed.
    let closed = spawn::close_from(spawn::FIRST_HELD.saturating_add(held));
    if let Err(error) = closed.and_then(|()| spawn::close_on_exec(spawn::FIRST_HELD)) {
        tracing::error!(%error, "cannot keep descriptors from QEMU");
        return ExitCode::FAILURE;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime
        .map_err(crate::VmError::Runtime)
        .and_then(|runtime| runtime.block_on(crate::supervise(vm, begin)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the VM is not looked after");
            ExitCode::FAILURE
        }
    }
}

/// Standard error, which is the supervisor's log, up to a size, and without what a full disk does not take. Writes to it never fail: after
/// a failed write tracing would complain on the same standard error, fail at that too, and panic.
#[derive(Debug, Default)]
struct Log(());

/// What has been written to the log so far, in bytes.
static WRITTEN: AtomicU64 = AtomicU64::new(0);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let before = WRITTEN.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if before < limits::SUPERVISOR_LOG_BYTES && stderr().write_all(bytes).is_err() {
            // The lost text is not counted, and there is nothing else to do about it.
            WRITTEN.fetch_sub(bytes.len() as u64, Ordering::Relaxed);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
