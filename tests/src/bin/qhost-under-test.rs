//! The `qhost` command, built with the tests: cargo builds the binaries of a test's own package only. It kills itself at the
//! point of a run that `QHOST_KILL_AT` names, and waits at the point that `QHOST_SLOW_AT` names for so many milliseconds.

use std::process::ExitCode;

fn main() -> ExitCode {
    qhost_tests::fail_points();
    qhost::main()
}
