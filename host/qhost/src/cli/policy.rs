//! `qhost policy …`

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::author::Language;

use super::{
    OfTenant, RecordFilter,
    run::{NamedFile, NamedSettings},
    trial::{BenchArgs, LintArgs, TestArgs},
    trust::{KeygenArgs, LockArgs, PullArgs, PushArgs, SignArgs, VerifyArgs},
};

/// About policies.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Make a policy's project, with cases to try it
    New(NewArgs),
    /// Build a policy's project, or a core module, into a component
    Build(BuildArgs),
    /// Say what a policy is: name, version, world, imports, digest, settings schema
    Inspect(InspectArgs),
    /// Try a policy's cases and say which came out otherwise than expected
    Test(TestArgs),
    /// Look for what a policy's cases do not show
    Lint(LintArgs),
    /// Measure what a policy's decisions cost, beside a baseline
    Bench(BenchArgs),
    /// Make a key to sign policies with
    Keygen(KeygenArgs),
    /// Sign a policy's file
    Sign(SignArgs),
    /// Check a policy's signatures
    Verify(VerifyArgs),
    /// Put a policy into an OCI registry
    Push(PushArgs),
    /// Get a policy from an OCI registry
    Pull(PullArgs),
    /// Tie the names of configured policies to the digests of their files
    Lock(LockArgs),
    /// Make past decisions again, with other policies, and say what would have been different
    Replay(ReplayArgs),
    /// Decide the running VMs again by the policies configured now, and say which would be refused
    #[command(after_help = AUDIT)]
    Audit(OfTenant),
}

const AUDIT: &str =
    "Every running VM is decided again, as a task that asks for exactly the launch it has.

  allowed   it would be launched unchanged
  refused   a policy or the host's own rules would refuse it; WHY says which
  changed   a policy would choose another launch; WHY lists the fields
  unknown   a policy failed, or needs a secret of the job that was not kept

No VM is stopped and nothing is recorded. A policy in monitor mode refuses nothing.

Examples:
  qhost policy audit --tenant acme
  qhost policy audit --json | jq '.vms[] | select(.outcome != \"allowed\")'

Exit code 0 when every VM is allowed, else 1.";

/// `qhost policy new`
#[derive(Debug, Args)]
#[command(after_help = "Example:
  qhost policy new team-rules --lang python

Makes the folder team-rules with rules that a team's VMs are allowed by, cases that try them, and a README of the next
steps.")]
pub struct NewArgs {
    /// The project's folder; its name is the policy's: lower-case letters, digits and -
    #[arg(value_name = "NAME")]
    pub folder: PathBuf,
    /// What it is written in
    #[arg(long = "lang", value_enum, default_value_t = Language::Rust)]
    pub language: Language,
}

/// `qhost policy build`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qhost policy build team-rules
  qhost policy build target/wasm32-unknown-unknown/release/team_rules.wasm --output team-rules.wasm

The language's own tools do the work: cargo, componentize-py, jco, clang. The component imports nothing but what the
rules use of the contract: in Python and JavaScript the clock stands still and
randomness is constant. The decision's time is in each request. Exit code 1 when
a tool fails.")]
pub struct BuildArgs {
    /// The project's folder; or a core module that carries its world's type, as wit-bindgen makes it
    #[arg(value_name = "DIR|MODULE", default_value = ".")]
    pub project: PathBuf,
    /// Where the component goes [default: NAME.wasm in the project; in the module's place]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Keep WASI's clock and randomness in a Python or JavaScript policy; it then loads only with wasi = true in its
    /// configuration
    #[arg(long)]
    pub wasi: bool,
}

/// `qhost policy replay`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qhost policy replay                                this host's own log
  qhost policy replay --policy limits=new.wasm --tenant acme --since 24h
  qhost policy replay decisions.jsonl --policy-settings 'limits={\"memory_mib\":512}' --json

Every recorded request is decided again at its recorded time, with the facts and the host's rules of then, by the
policies that the configuration has for its tenant now. A policy that replaces a
configured policy gets its settings and its allowance, and need not be signed.
Exit code 0 when no answer differs, 1 when one does.")]
pub struct ReplayArgs {
    /// A log of decisions: a file, or a folder with all its files [default: that of the state folder]
    #[arg(value_name = "LOG")]
    pub log: Option<PathBuf>,
    #[command(flatten)]
    /// Which of them.
    pub filter: RecordFilter,
    /// A policy to ask: in the place of the configuration's policy of this name, else before those of the configuration
    #[arg(long = "policy", value_name = "[NAME=]FILE")]
    pub policies: Vec<NamedFile>,
    /// Settings of one of these or of the configuration's policies, a JSON object: written out, or in a file
    #[arg(long = "policy-settings", value_name = "NAME=FILE|JSON")]
    pub settings: Vec<NamedSettings>,
}

/// `qhost policy inspect`
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  qhost policy inspect limits.wasm --json | jq .settings_schema")]
pub struct InspectArgs {
    /// The policy's file
    #[arg(value_name = "[NAME=]FILE")]
    pub policy: NamedFile,
}
