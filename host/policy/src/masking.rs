//! Masks a task's secrets where a decision repeats them.

use qhost_model::{
    launch::{Change, Violation},
    masks::mask_query,
    secrets::Secrets,
};

use super::{Conflict, Decision, OtherPlace, PolicyRecord};

/// A decision with every secret of its task masked.
pub fn masked(secrets: &Secrets, mut decision: Decision) -> Decision {
    decision.place.iter_mut().for_each(mask_query);
    if secrets.is_empty() {
        return decision;
    }
    policies(secrets, &mut decision.policies);
    violations(secrets, &mut decision.host.violations);
    conflicts(secrets, &mut decision.conflicts);
    for OtherPlace { place, policies, conflicts, warnings } in &mut decision.places {
        mask_query(place);
        self::policies(secrets, policies);
        self::conflicts(secrets, conflicts);
        warnings.iter_mut().for_each(|warning| secrets.clean(warning));
    }
    decision.launch.mask(secrets);
    decision
}

fn policies(secrets: &Secrets, policies: &mut [PolicyRecord]) {
    for policy in policies {
        violations(secrets, &mut policy.violations);
        policy.log.iter_mut().for_each(|line| secrets.clean(&mut line.message));
        policy.fault.iter_mut().for_each(|fault| secrets.clean(fault));
        for Change { field, from, to } in &mut policy.changes {
            secrets.clean(field);
            secrets.clean_value(from);
            secrets.clean_value(to);
        }
    }
}

fn violations(secrets: &Secrets, violations: &mut [Violation]) {
    for Violation { code, field, message, hint } in violations {
        for text in [code, field, message].into_iter().chain(hint) {
            secrets.clean(text);
        }
    }
}

fn conflicts(secrets: &Secrets, conflicts: &mut [Conflict]) {
    for Conflict { field, writers } in conflicts {
        secrets.clean(field);
        writers.iter_mut().for_each(|writer| secrets.clean_value(&mut writer.to));
    }
}
