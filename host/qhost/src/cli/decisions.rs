//! `qhost decisions`

use clap::Args;

use qhost_policy::{Outcome, Record};

use super::{OfTenant, vm::Since};

/// Which records of decisions are meant.
#[derive(Debug, Args)]
pub struct RecordFilter {
    #[command(flatten)]
    /// Whose.
    pub of: OfTenant,
    /// Only decisions about this task or job
    #[arg(long, value_name = "NAME")]
    pub task: Option<String>,
    /// Only decisions with this outcome: allowed, denied, cannot-run, failed, interrupted, undecided, not-launched
    #[arg(long, value_name = "OUTCOME", value_parser = Outcome::named)]
    pub outcome: Option<Outcome>,
    /// Only decisions since this time: a time, 2026-11-24T10:00:00Z, or how long ago, 90s, 10m, 2h
    #[arg(long, value_name = "TIME")]
    pub since: Option<Since>,
}

impl RecordFilter {
    /// Whether a record is meant.
    pub fn includes(&self, record: &Record) -> bool {
        let task = &record.input.task;
        self.of.includes(&task.tenant)
            && self.task.as_ref().is_none_or(|name| [&task.name, &task.job].contains(&name))
            && self.outcome.is_none_or(|outcome| outcome == record.outcome)
            && self.since.is_none_or(|since| record.input.time >= since.0)
    }
}

/// `qhost decisions`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qhost decisions --since 2h --outcome denied
  qhost decisions --tenant acme --policy limits --all
  qhost decisions 3f9a0c21            this decision in full

What was allowed and could not be launched has a line of its own, not-launched, which says why.")]
pub struct DecisionsArgs {
    /// The beginning of a decision's id: that decision in full
    #[arg(value_name = "ID")]
    pub id: Option<String>,
    #[command(flatten)]
    /// Which.
    pub filter: RecordFilter,
    /// Only decisions that this policy was asked about
    #[arg(long, value_name = "NAME")]
    pub policy: Option<String>,
    /// Print only ids, one a line
    #[arg(short, long, conflicts_with_all = ["json", "id"])]
    pub quiet: bool,
    /// How many, the latest
    #[arg(long, short = 'n', value_name = "NUMBER", default_value_t = 20, conflicts_with = "all")]
    pub tail: usize,
    /// As many as there are
    #[arg(long)]
    pub all: bool,
}
