//! Makes, resizes, copies and removes volumes for the operator, within the tenants' quotas.

use std::{fs::File, io, path::Path};

use qhost_image::volumes::{NewVolume, Volume, VolumeError, VolumeName, Volumes};
use qhost_model::{launch::AccessLevel, quota::Usage};
use qhost_policy::{Actor, Operation};
use qhost_sys::state;
use qhost_vm::{Frozen, Spec, error::io_error, lock::lock_all};

use crate::{
    admission, disks,
    engine::{Engine, blocking},
    error::{EngineError, Failure},
    observer::Context,
};

/// A VM whose guest is frozen.
struct FrozenVm {
    vm: String,
    frozen: Frozen,
}

impl Engine {
    /// All volumes, by their tenants and names.
    ///
    /// # Errors
    /// Fails where the volumes cannot be read.
    pub async fn volumes(&self) -> Result<Vec<Volume>, EngineError> {
        let state = self.state().clone();
        Ok(blocking(move || Ok(Volumes::of(&state).list()?)).await?)
    }

    /// Makes an empty volume of so many bytes.
    ///
    /// # Errors
    /// Fails where the tenant is unknown, has a volume of that name already or too little quota, or the volume cannot be written.
    pub async fn create_volume(&self, of: VolumeName, bytes: u64) -> Result<Volume, EngineError> {
        let engine = self.clone();
        Ok(blocking(move || {
            engine.may_have(&of.tenant, bytes)?;
            let tenant = of.tenant.clone();
            engine.commit(&tenant, Volumes::of(engine.state()).make(of, bytes)?)
        })
        .await?)
    }

    /// Makes a volume larger. The added part is empty; the guest enlarges its partition and file system itself.
    ///
    /// # Errors
    /// Fails where the volume is missing, in use, larger already, or would be beyond its tenant's quota.
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

    /// Copies a volume under another name of the same tenant, and tells `progress` how many bytes are done. If a running VM has the volume,
    /// the policies must permit the actor to copy it, and the agent in its guest keeps the guest's file systems frozen meanwhile.
    ///
    /// # Errors
    /// Fails where the volume is missing, or a VM has it whose guest may not or cannot be frozen or does not stay frozen; where the other
    /// name is taken, the copy would be beyond the tenant's quota, or the copying is given up.
    pub async fn copy_volume(
        &self,
        from: VolumeName,
        to: String,
        actor: Actor,
        context: &Context,
        mut progress: impl FnMut(u64) + Send + 'static,
    ) -> Result<Volume, EngineError> {
        self.recover().await;
        let frozen = self.freeze_user_of(&from, actor).await?;
        let (engine, of, cancel) = (self.clone(), from.clone(), context.cancel.clone());
        let copied = blocking(move || {
            let volumes = Volumes::of(engine.state());
            let held =
                if frozen.is_some() { None } else { Some(disks::hold(engine.state(), &of)?) };
            let source = match &held {
                Some(held) => held.source()?,
                None => volumes.source_in_use(&of)?,
            };
            // The quota is checked before the copying, which takes long, and once more when it is done.
            drop(engine.admit_bytes(&of.tenant, source.bytes())?);
            let to = VolumeName { tenant: of.tenant.clone(), name: to };
            let thawed = || frozen.as_ref().is_some_and(|one| one.frozen.has_ended());
            let mut report = |done| {
                progress(done);
                if thawed() || cancel.is_cancelled() {
                    Err(io::ErrorKind::Interrupted.into())
                } else {
                    Ok(())
                }
            };
            match volumes.copy(&source, to, &mut report) {
                Ok(new) => Ok((new, frozen)),
                Err(_) if cancel.is_cancelled() => Err(Failure::Cancelled),
                Err(error) => match frozen {
                    Some(FrozenVm { vm, frozen }) if frozen.has_ended() => {
                        Err(VolumeError::Thawed { of, vm }.into())
                    }
                    Some(_) | None => Err(error.into()),
                },
            }
        });
        let (new, frozen) = copied.await?;
        if let Some(FrozenVm { vm, frozen }) = frozen
            && !frozen.lasted().await
        {
            return Err(VolumeError::Thawed { of: from, vm }.into());
        }
        let (engine, tenant) = (self.clone(), from.tenant);
        Ok(blocking(move || engine.commit(&tenant, new)).await?)
    }

    /// Freezes the guest of the VM that has a volume; nothing if no VM has it. If that VM's launch does not let the agent freeze its guest,
    /// the error is that the volume is in use.
    async fn freeze_user_of(
        &self,
        of: &VolumeName,
        actor: Actor,
    ) -> Result<Option<FrozenVm>, EngineError> {
        let (engine, volume) = (self.clone(), of.clone());
        let user = blocking(move || Ok(disks::user(engine.state(), &volume))).await?;
        let Some(user) = user else { return Ok(None) };
        let agent = Spec::read(&user.folder).map_or(AccessLevel::None, |spec| spec.agent);
        if agent != AccessLevel::Interact {
            let by = format!(" by the VM {}", user.id);
            return Err(VolumeError::Held { of: of.clone(), by }.into());
        }
        let vm = self.handle(&user);
        vm.permit(Operation::Snapshot, actor, &Context::default()).await?;
        let frozen = vm.freeze().await?;
        Ok(Some(FrozenVm { vm: user.id, frozen }))
    }

    /// Removes a volume with all that is on it.
    ///
    /// # Errors
    /// Fails where the volume is missing or in use.
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
        // An unknown tenant has no volumes, and is refused here.
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

    /// Checks that a tenant may have so many bytes more. Until the lock that this gives is dropped, no VM and no other volume takes these
    /// bytes.
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
