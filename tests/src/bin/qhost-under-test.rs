//! The `qhost` command, built with the tests: cargo builds the binaries of a test's own package only.

use std::process::ExitCode;

fn main() -> ExitCode {
    qhost::main()
}
