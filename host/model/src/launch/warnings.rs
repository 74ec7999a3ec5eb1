//! Remarks of policies on a launch.

use super::{Change, Findings, Rules, changes::Changes, field::LaunchField};
use crate::{host_facts::HostFacts, quota::Usage, secrets::Secrets};

/// The field for remarks that policies make without refusing.
#[derive(Debug)]
pub struct Field;

impl LaunchField for Field {
    type Asked = ();
    type Value = Vec<String>;

    const NAME: &'static str = "warnings";
    const CONTRACT: &'static str = "`warnings`";
    const TIGHTER: &'static str = "add to them";

    fn default_for((): &()) -> Vec<String> {
        vec![]
    }

    fn compare(before: &Vec<String>, after: &Vec<String>, changes: &mut Changes) {
        for index in 0..before.len().max(after.len()) {
            let (old, new) = (before.get(index), after.get(index));
            changes.note(format_args!("warnings.{index}"), &old, &new);
        }
    }

    fn widened(host: &Vec<String>, tenant: &Vec<String>) -> Option<Change> {
        // A tenant's policy may add remarks, and not silence those of the host's policies.
        (!tenant.starts_with(host)).then(|| Change::new(Self::NAME, host, tenant))
    }

    fn check((): &(), _: &Vec<String>, _: &Rules, _: &HostFacts, _: &mut Findings) {}

    fn mask(warnings: &mut Vec<String>, secrets: &Secrets) {
        warnings.iter_mut().for_each(|warning| secrets.clean(warning));
    }

    fn add_to(_: &Vec<String>, _: &mut Usage) {}

    fn shown(_: &Vec<String>) -> Option<String> {
        None
    }
}
