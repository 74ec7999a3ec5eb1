//! `qhost policy test`, `lint` and `bench`.

use std::path::PathBuf;

use clap::Args;

use crate::limits;

/// `qhost policy test`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qhost policy test my-policy
  qhost policy test my-policy --update && git diff my-policy/cases
  qhost policy test my-policy --junit results.xml

A file of cases/*.toml, with every key that it may have:
  # wasi = true                    grants the policy WASI
  # settings_file = \"../all.json\"  instead of [settings]
  [settings]                       # of cases without settings of their own
  teams = [\"web\"]
  [tables.sizes]                   # an operator's table, by key
  web = { memory_mib = 512 }

  [[case]]
  name = \"a task without a team is refused\"
  job = { meta = {} }              # laid over the example job
  # job_file = \"big.nomad.hcl\"     instead of job
  host = { ports_in_use = [20000] }  # laid over the facts of the example host
  allowed_ports = [\"20000-20999\"]  # what the operator lets tasks use
  tenant = \"acme\"
  settings = { teams = [\"db\"] }    # or settings_file = \"db.json\"
  time = \"2026-01-01T00:00:00Z\"    # the decision's time
  occasion = \"restart\"            # launch, restart, audit
  # operation = { do = \"stop\", actor = \"uid 1000\", tenant = \"acme\" }
  #                                asks about this on a VM of the job instead:
  #                                console, screenshot, { exec = [\"id\"] },
  #                                stop, restart, pause, snapshot
  seed_text = true                 # grants the policy the texts of a seed
  [case.expect]
  verdict = \"denied\"               # allowed, denied, failed
  violations = [{ code = \"no-team\", field = \"meta.team\" }]
  changes = [{ field = \"resources.memory_mib\", to = 512 }]
  error = \"deadline\"               # words of the error, where it fails

Paths start from the folder of the file of cases. Keys that a case does not
expect are not compared. A case fails where an answer breaks the contract: an
empty code, a text that is too long. Exit code 0 when every case is as
expected, else 1.")]
pub struct TestArgs {
    /// The policy's project, a folder with NAME.wasm and cases/*.toml; or the policy's file, with cases beside it
    #[arg(value_name = "DIR|FILE", default_value = ".")]
    pub project: PathBuf,
    /// Write what came of the cases into their files as what they expect
    #[arg(long)]
    pub update: bool,
    /// Print the example job and the facts of the example host that cases are laid over, and try nothing
    #[arg(long)]
    pub example: bool,
    /// Write the results as JUnit XML
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
}

/// `qhost policy lint`
#[derive(Debug, Args)]
#[command(after_help = "Example:
  qhost policy lint my-policy

Finds: not-idempotent, not-deterministic, fails, contract-breach, slow,
grows-its-memory, near-its-limits, unused-import, settings-without-schema,
schema-is-no-json, misspelt-settings-pass. Exit code 0 when nothing is found, 1 when something is.")]
pub struct LintArgs {
    /// The policy's project, a folder with NAME.wasm and cases/*.toml; or the policy's file, with cases beside it
    #[arg(value_name = "DIR|FILE", default_value = ".")]
    pub project: PathBuf,
}

/// `qhost policy bench`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qhost policy bench my-policy --save      # keeps this as the baseline, in my-policy/bench.json
  qhost policy bench my-policy             # prints this beside the baseline

A decision is one choose and one validate in a fresh sandbox, of a case with an
operation one permit. A case that takes
long is measured for 10 s, and for 10 decisions at least; a case in which the
policy fails ends the benchmark. A baseline is worth comparing with on its own machine.")]
pub struct BenchArgs {
    /// The policy's project, a folder with NAME.wasm and cases/*.toml; or the policy's file, with cases beside it
    #[arg(value_name = "DIR|FILE", default_value = ".")]
    pub project: PathBuf,
    /// Decisions of each case
    #[arg(long, value_name = "N", default_value_t = limits::BENCH_DECISIONS, value_parser = clap::value_parser!(u32).range(10..=1_000_000))]
    pub decisions: u32,
    /// The baseline's file [default: bench.json in the project]
    #[arg(long, value_name = "FILE")]
    pub baseline: Option<PathBuf>,
    /// Keep what is measured as the baseline
    #[arg(long)]
    pub save: bool,
}
