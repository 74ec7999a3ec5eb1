//! The `qhost-supervisor` command, for `qhost-under-test`, with the same points to act at.

use std::process::ExitCode;

fn main() -> ExitCode {
    qhost_tests::fail_points();
    qhost_vm::supervisor::main()
}
