//! `qhost quota`: what tenants use of this host, and what they may use.

use indicatif::BinaryBytes;
use serde_json::json;

use qhost_engine::QuotaUsage;
use qhost_model::printable;

use super::{RunError, engine, named_are_there, show};
use crate::{
    cli::{OfTenant, Shared},
    exit::Exit,
};

pub(super) async fn quotas(shared: &Shared, of: &OfTenant) -> Exit {
    match told(shared, of).await {
        Ok(exit) => exit,
        Err(error) => show::failure(shared, &error),
    }
}

async fn told(shared: &Shared, of: &OfTenant) -> Result<Exit, RunError> {
    named_are_there(shared)?;
    let mut quotas = engine(shared)?.quotas().await?;
    quotas.retain(|one| of.tenant.is_none() || one.tenant == of.tenant);
    listed(shared, &quotas);
    Ok(Exit::Done)
}

/// Prints what tenants use.
pub(super) fn listed(shared: &Shared, quotas: &[QuotaUsage]) {
    if shared.json {
        show::print(&show::json(&json!({ "quotas": quotas })));
        return;
    }
    let header = ["TENANT", "VMS", "CPUS", "MEMORY", "DISK", "PORTS", "IMAGES"];
    let mut rows = vec![header.map(str::to_owned)];
    rows.extend(quotas.iter().map(row));
    show::print(&show::table(&rows));
}

fn row(QuotaUsage { tenant, used, image_bytes, quota }: &QuotaUsage) -> [String; 7] {
    let count = |number: u64| number.to_string();
    let bytes = |number: u64| BinaryBytes(number).to_string();
    let mib = |number: u64| BinaryBytes(number.saturating_mul(1 << 20)).to_string();
    let of = |used: u64, most: Option<u64>, shown: &dyn Fn(u64) -> String| {
        format!("{} of {}", shown(used), most.map_or("any".into(), shown))
    };
    [
        tenant.as_ref().map_or("(all)".into(), |tenant| printable::line(tenant, 40).to_string()),
        of(used.vms, quota.vms, &count),
        of(used.cpus, quota.cpus, &count),
        of(used.memory_mib, quota.memory_mib, &mib),
        of(used.disk_bytes, quota.disk_bytes, &bytes),
        of(used.ports, quota.ports, &count),
        of(*image_bytes, quota.image_bytes, &bytes),
    ]
}
