//! The `qhost` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    qhost::main()
}
