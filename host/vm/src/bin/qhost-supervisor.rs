//! The `qhost-supervisor` command, which `qhost` starts for each VM.

use std::process::ExitCode;

fn main() -> ExitCode {
    qhost_vm::supervisor::main()
}
