//! The use of quotas: what each tenant, and all together, take of this host, and what they may take.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use qhost_model::quota::{Quota, Usage};
use qhost_vm::list;

use crate::{
    admission::{InUse, QuotaScope, kept_disks},
    engine::{Engine, blocking},
    error::EngineError,
    overlays::Owner,
};

/// What is taken of a quota.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct QuotaUsage {
    /// Whose it is; absent: all tenants' together.
    pub tenant: Option<String>,
    /// What VMs take, those that are about to start among them; of disks, what kept overlays take besides that no VM has, and
    /// what volumes may take.
    pub used: Usage,
    /// What fetched images and unfinished downloads take of the disk, in bytes.
    pub image_bytes: u64,
    /// What may be taken; absent: no bound.
    pub quota: Quota,
}

impl Engine {
    /// The use of quotas: first of all tenants together, then of each tenant that is configured or uses something here.
    ///
    /// # Errors
    /// Fails where overlays, volumes or images cannot be read.
    pub async fn quotas(&self) -> Result<Vec<QuotaUsage>, EngineError> {
        let engine = self.clone();
        let quotas = blocking(move || {
            let (state, config) = (engine.state(), engine.config());
            let vms = list::running(state);
            let kept = kept_disks(state, &vms, &Owner::default())?;
            let (images, unfinished) = (engine.images().list()?, engine.images().unfinished()?);
            // An operator's images are no tenant's.
            let images: Vec<_> = images
                .into_iter()
                .map(|image| (image.record.tenant, image.disk_usage))
                .chain(unfinished.into_iter().map(|one| (one.tenant, one.disk_usage)))
                .collect();
            let tenants: BTreeSet<String> = config
                .tenants()
                .chain(vms.iter().map(|vm| vm.tenant.clone()))
                .chain(kept.iter().map(|one| one.tenant.clone()))
                .chain(images.iter().filter_map(|(tenant, _)| tenant.clone()))
                .collect();
            let of = |tenant: Option<String>, quota: Quota| {
                let whose = tenant.as_deref().map_or(QuotaScope::Host, QuotaScope::Tenant);
                let InUse { vms: mut used, kept_bytes } = InUse::of(whose, &vms, &kept);
                used.disk_bytes = used.disk_bytes.saturating_add(kept_bytes);
                let images =
                    images.iter().filter(|(whose, _)| tenant.is_none() || *whose == tenant);
                let image_bytes = images.map(|(_, bytes)| bytes).sum();
                QuotaUsage { tenant: tenant.clone(), used, image_bytes, quota }
            };
            let all = of(None, config.host_quota().clone());
            let each = tenants.into_iter().map(|tenant| {
                let quota = config.terms(&tenant).tenant;
                of(Some(tenant), quota)
            });
            Ok(std::iter::once(all).chain(each).collect())
        });
        Ok(quotas.await?)
    }
}
