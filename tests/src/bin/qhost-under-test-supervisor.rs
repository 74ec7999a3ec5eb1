//! The `qhost-supervisor` command for `qhost-under-test`, which acts at the same points.

use std::process::ExitCode;

fn main() -> ExitCode {
    qhost_tests::fail_points();
    qhost_vm::supervisor::main()
}
