//! `qhost policy audit`: what the policies configured now say of the running VMs.

use serde_json::json;

use qhost_engine::{AuditOutcome, Audited, Context};
use qhost_model::{launch::Change, printable};
use qhost_policy::Decision;

use super::{RunError, engine, named_are_there, show};
use crate::{
    cli::{OfTenant, Shared},
    exit::Exit,
};

pub(super) async fn audit(shared: &Shared, of: &OfTenant) -> Exit {
    match told(shared, of).await {
        Ok(exit) => exit,
        Err(error) => show::failure(shared, &error),
    }
}

async fn told(shared: &Shared, of: &OfTenant) -> Result<Exit, RunError> {
    named_are_there(shared)?;
    let audited = engine(shared)?.audit(of.tenant.as_deref(), &Context::default()).await?;
    let against =
        audited.iter().filter(|one| !matches!(one.outcome, AuditOutcome::Allowed)).count();
    if shared.json {
        show::print(&show::json(&json!({ "vms": audited })));
    } else {
        let header = ["VM", "TASK", "OUTCOME", "WHY"].map(str::to_owned);
        let rows = [header].into_iter().chain(audited.iter().map(row));
        let table = show::table(&rows.collect::<Vec<_>>());
        let count = audited.len();
        show::print(&format!(
            "{table}\n{count} VMs run; {against} of them would not be launched as they run\n"
        ));
    }
    Ok(if against == 0 { Exit::Done } else { Exit::CheckFailed })
}

fn row(Audited { vm, tenant, task, outcome }: &Audited) -> [String; 4] {
    let shown = |text: &str| printable::line(text, 40).to_string();
    let (now, why) = match outcome {
        AuditOutcome::Allowed => ("allowed", String::new()),
        AuditOutcome::Refused { decision } => ("refused", reasons(decision)),
        AuditOutcome::Changed { changes } => ("changed", changed(changes)),
        AuditOutcome::Unknown { reason } => ("unknown", reason.clone()),
    };
    let why = printable::line(&why, 300).to_string();
    [vm.clone(), format!("{}/{}", shown(tenant), shown(task)), now.into(), why]
}

fn reasons(decision: &Decision) -> String {
    let policies = decision.policies.iter().filter(|policy| policy.refuses());
    let policies = policies.map(|policy| (policy.name.as_str(), &policy.violations));
    let all = policies.chain([("host", &decision.host.violations)]);
    let each = all.flat_map(|(name, violations)| {
        violations.iter().map(move |one| format!("{name}: {}: {}", one.code, one.message))
    });
    each.collect::<Vec<_>>().join("; ")
}

fn changed(changes: &[Change]) -> String {
    qhost_model::launch::listed(changes)
}
