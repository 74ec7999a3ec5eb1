//! The disk space that fetched images take, and for which tenant. A fetch claims space before it takes it, under one lock, so
//! that several fetches at once do not take more than a quota together. A claim is written into the lock of its download, and
//! ends with that lock.

use std::{
    fs::File,
    io::{self, ErrorKind},
    sync::atomic::{AtomicU64, Ordering},
};

use qhost_model::quota::{Quota, Terms};
use qhost_sys::state;

use super::{
    super::{ImageError, Progress, Settings},
    Lock, Store, Unfinished,
    lock::Claimed,
    space::room,
};
use crate::limits;

/// The tenant that an image is fetched for, and the quotas that bind the fetch.
#[derive(Clone, Copy)]
pub struct Fetcher<'a> {
    pub(crate) config: &'a Settings,
    pub(crate) progress: &'a dyn Progress,
    /// The tenant's name; absent where the operator fetches.
    pub(super) tenant: Option<&'a str>,
    bounds: Bounds,
}

/// The most bytes that all fetched images may take, and the most of one tenant's.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    host: Option<u64>,
    tenant: Option<u64>,
}

impl<'a> Fetcher<'a> {
    /// A fetcher for a tenant's task, which the quotas of the tenant and of the host bind.
    pub fn of_tenant(
        config: &'a Settings,
        tenant: &'a str,
        Terms { host, tenant: own, .. }: &Terms,
        progress: &'a dyn Progress,
    ) -> Self {
        let bounds = Bounds { host: host.image_bytes, tenant: own.image_bytes };
        Self { config, progress, tenant: Some(tenant), bounds }
    }

    /// A fetcher for the operator, whom only the host's quota binds.
    pub fn operator(config: &'a Settings, host: &Quota, progress: &'a dyn Progress) -> Self {
        let bounds = Bounds { host: host.image_bytes, tenant: None };
        Self { config, progress, tenant: None, bounds }
    }

    /// Makes an empty claim for a download whose lock is held.
    pub(super) fn claim(&self, store: &Store, lock: Lock) -> Result<Claim, ImageError> {
        let tenant = self.tenant.map(str::to_owned);
        let claim = Claim {
            store: store.clone(),
            lock,
            tenant,
            bounds: self.bounds,
            granted: AtomicU64::new(0),
        };
        claim.write(0)?;
        Ok(claim)
    }
}

/// The disk space that one fetch may take. The claim holds the download's lock.
pub(crate) struct Claim {
    store: Store,
    lock: Lock,
    tenant: Option<String>,
    bounds: Bounds,
    granted: AtomicU64,
}

impl Claim {
    pub(super) fn tenant(&self) -> Option<&str> {
        self.tenant.as_deref()
    }

    /// Claims so many bytes in all, for an image of known size.
    pub(crate) fn all(&self, bytes: u64) -> Result<(), ImageError> {
        self.grant(bytes, bytes)
    }

    /// Claims more, if so many bytes in all are not claimed yet, for an image of unknown size.
    pub(crate) fn at_least(&self, bytes: u64) -> Result<(), ImageError> {
        if bytes <= self.granted.load(Ordering::Relaxed) {
            Ok(())
        } else {
            self.grant(bytes, bytes.saturating_add(limits::CLAIM_BYTES))
        }
    }

    /// Gives the claim up, since the image is stored now and counted as a stored one.
    pub(super) fn give_back(&self) -> Result<(), ImageError> {
        self.granted.store(0, Ordering::Relaxed);
        self.write(0)
    }

    /// Claims as much of `wanted` as there is room for, if that is at least `least`.
    fn grant(&self, least: u64, wanted: u64) -> Result<(), ImageError> {
        if self.bounds.host.or(self.bounds.tenant).is_none() {
            self.granted.store(u64::MAX, Ordering::Relaxed);
            return Ok(());
        }
        let path = self.store.claims();
        let _alone = state::lock(&path).map_err(ImageError::store(&path))?;
        let mut granted = wanted;
        let of_tenant = self.tenant().and(self.bounds.tenant);
        // For a tenant's quota, only that tenant's unfinished downloads are removed.
        for (most, only) in [(of_tenant, self.tenant()), (self.bounds.host, None)] {
            let Some(most) = most else { continue };
            granted = granted.min(self.room(most, only, least)?);
        }
        self.write(granted)?;
        self.granted.store(granted, Ordering::Relaxed);
        Ok(())
    }

    /// The bytes of a quota that are left for this fetch. While they are fewer than `least`, the oldest unfinished downloads
    /// are removed.
    fn room(&self, most: u64, only: Option<&str>, least: u64) -> Result<u64, ImageError> {
        let is_meant = |tenant: &Option<String>| only.is_none() || tenant.as_deref() == only;
        let stored = self.store.list()?.into_iter();
        let stored = stored.filter(|one| is_meant(&one.record.tenant));
        let stored: u64 = stored.map(|one| one.disk_usage).sum();
        loop {
            let mut unfinished = self.store.downloads()?;
            unfinished.retain(|one| is_meant(&one.tenant) && !self.is_of(one));
            let parts: u64 = unfinished.iter().map(|one| one.takes()).sum();
            let taken = stored.saturating_add(parts);
            let left = most.saturating_sub(taken);
            if left >= least {
                return Ok(left);
            }
            if left.saturating_add(idle(&unfinished)) < least
                || !self.store.remove_oldest(&unfinished)?
            {
                return Err(exceeded(only, Numbers { most, taken, more: least }));
            }
        }
    }

    /// Removes unfinished downloads until a file's disk has room for so many bytes more. Gives the bytes that are free, and how
    /// many of these must stay free.
    pub(crate) fn make_room(&self, file: &File, needed: u64) -> io::Result<(u64, u64)> {
        let (mut free, mut reserve) = room(file)?;
        let idle = self.store.downloads().map_or(0, |all| idle(&all));
        // If removing all of them would not be enough, none is removed.
        if needed.saturating_add(reserve) <= free.saturating_add(idle) {
            while needed.saturating_add(reserve) > free && self.remove_oldest() {
                (free, reserve) = room(file)?;
            }
        }
        Ok((free, reserve))
    }

    /// Removes the oldest unfinished download that no process is fetching; false where there is none.
    pub(crate) fn remove_oldest(&self) -> bool {
        let removed = self.store.downloads().and_then(|all| self.store.remove_oldest(&all));
        removed.unwrap_or_else(|error| {
            tracing::warn!(%error, "no unfinished download makes room");
            false
        })
    }

    fn is_of(&self, one: &Unfinished) -> bool {
        self.lock.path() == one.lock(&self.store)
    }

    fn write(&self, bytes: u64) -> Result<(), ImageError> {
        let claimed = Claimed { tenant: self.tenant.clone(), bytes };
        loop {
            match self.lock.write(&claimed) {
                Err(error) if error.kind() == ErrorKind::StorageFull && self.remove_oldest() => {}
                written => return written.map_err(ImageError::store(self.lock.path())),
            }
        }
    }
}

impl Unfinished {
    /// The bytes that the download takes of the disk, or the bytes that it has claimed, whichever are more.
    fn takes(&self) -> u64 {
        self.disk_usage.max(self.claimed)
    }
}

/// The bytes of the unfinished downloads that no process is fetching.
fn idle(unfinished: &[Unfinished]) -> u64 {
    unfinished.iter().filter(|one| !one.fetching).map(|one| one.disk_usage).sum()
}

struct Numbers {
    most: u64,
    taken: u64,
    more: u64,
}

fn exceeded(tenant: Option<&str>, Numbers { most, taken, more }: Numbers) -> ImageError {
    let (who, key) = match tenant {
        None => ("all tenants together".to_owned(), "host.quota.image_bytes".to_owned()),
        Some(tenant) => (format!("tenant {tenant}"), format!("tenants.{tenant}.quota.image_bytes")),
    };
    let reason = format!(
        "fetched images of {who} may take {most} bytes of this host's disk, {taken} are taken and this image takes {more} \
         or more; have the operator remove images (qhost image ls, rm, gc) or raise it"
    );
    ImageError::Quota { key, reason, is_hosts: tenant.is_none() }
}
