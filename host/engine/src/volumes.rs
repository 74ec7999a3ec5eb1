//! Volumes for their operator: made, resized, copied and removed within the tenants' quotas.

use std::{fs::File, path::Path};

use qhost_image::volumes::{NewVolume, Volume, VolumeName, Volumes};
use qhost_model::quota::Usage;
use qhost_sys::state;
use qhost_vm::{error::io_error, lock::lock_all};

use crate::{
    admission, disks,
    engine::{Engine, blocking},
    error::{EngineError, Failure},
};

impl Engine {
    /// All volumes, by their tenants and names.
    ///
    /// # Errors
    /// Where they cannot be read.
    pub async fn volumes(&self) -> Result<Vec<Volume>, EngineError> {
        let state = self.state().clone();
        Ok(blocking(move || Ok(Volumes::of(&state).list()?)).await?)
    }

    /// Makes an empty volume of so many bytes.
    ///
    /// # Errors
    /// Where the tenant is unknown, has one of that name or too little quota, or the volume cannot be written.
    pub async fn create_volume(&self, of: VolumeName, bytes: u64) -> Result<Volume, EngineError> {
        let engine = self.clone();
        Ok(blocking(move || {
            engine.may_have(&of.tenant, bytes)?;
            let tenant = of.tenant.clone();
            engine.commit(&tenant, Volumes::of(engine.state()).make(of, bytes)?)
        })
        .await?)
    }

    /// Makes a volume larger. What is added is empty; the guest enlarges its partition and file system itself.
    ///
    /// # Errors
    /// Where it is not there, in use, larger already, or beyond its tenant's quota.
    pub async fn resize_volume(&self, of: VolumeName, bytes: u64) -> Result<Volume, EngineError> {
        self.recover().await;
        let engine = self.clone();
        Ok(blocking(move || {
            engine.may_have(&of.tenant, bytes)?;
            let mut held = disks::hold(engine.state(), &of)?;
            let more = bytes.saturating_sub(held.bytes());
            let _all = engine.admit_bytes(&of.tenant, more)?;
            held.resize(bytes)?;
            drop(held);
            Ok(Volumes::of(engine.state()).get(&of)?)
        })
        .await?)
    }

    /// Makes a copy of a volume that is not in use, for the same tenant. Says how many bytes of it are done.
    ///
    /// # Errors
    /// Where it is not there, in use, the other name taken, or the copy beyond the tenant's quota.
    pub async fn copy_volume(
        &self,
        from: VolumeName,
        to: String,
        mut progress: impl FnMut(u64) + Send + 'static,
    ) -> Result<Volume, EngineError> {
        self.recover().await;
        let engine = self.clone();
        Ok(blocking(move || {
            let held = disks::hold(engine.state(), &from)?;
            // Before what takes long, and once more when it is done.
            drop(engine.admit_bytes(&from.tenant, held.bytes())?);
            let to = VolumeName { tenant: from.tenant.clone(), name: to };
            let new = Volumes::of(engine.state()).copy(&held, to, &mut progress)?;
            engine.commit(&from.tenant, new)
        })
        .await?)
    }

    /// Removes a volume with all that is on it.
    ///
    /// # Errors
    /// Where it is not there or in use.
    pub async fn remove_volume(&self, of: VolumeName) -> Result<(), EngineError> {
        self.recover().await;
        let engine = self.clone();
        Ok(blocking(move || {
            let locked = disks::lock(engine.state(), &of)?;
            Ok(Volumes::of(engine.state()).remove(locked)?)
        })
        .await?)
    }

    fn may_have(&self, tenant: &str, bytes: u64) -> Result<(), Failure> {
        let config = &self.generation().config;
        // An unknown tenant has none.
        config.chain(tenant)?;
        let most = config.rules().disk_bytes;
        if bytes <= most {
            return Ok(());
        }
        Err(Failure::Usage(format!(
            "a volume of {bytes} bytes is above this host's largest disk, {most} bytes; ask for less, or raise image.max_disk_bytes"
        )))
    }

    fn commit(&self, tenant: &str, new: NewVolume) -> Result<Volume, Failure> {
        let _all = self.admit_bytes(tenant, new.bytes())?;
        Ok(new.commit()?)
    }

    /// Whether a tenant may have so many bytes more; no VM and no other volume takes them until what this gives is dropped.
    fn admit_bytes(&self, tenant: &str, bytes: u64) -> Result<File, Failure> {
        let vms = self.state().vms();
        state::create_private(&vms).map_err(io_error("create", &vms))?;
        let all = lock_all(Path::new(&vms))?;
        let terms = self.generation().config.terms(tenant);
        let takes = Usage { disk_bytes: bytes, ..Usage::default() };
        admission::admit_volume(self.state(), tenant, takes, &terms)?;
        Ok(all)
    }
}
