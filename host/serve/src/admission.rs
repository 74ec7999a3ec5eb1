//! Bounds how much of one kind each tenant has under way at one time: past its share a tenant is asked to come back, so that one tenant's
//! flood leaves sandboxes and connections to the others.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::http::StatusCode;

use crate::{limits, problem::Problem};

/// Tenants, and operators, that have something under way, with how much.
type UnderWay = HashMap<Option<String>, usize>;

/// The places for requests of one kind.
pub(crate) struct Admission {
    most: usize,
    /// The name of the kind in messages.
    what: &'static str,
    under_way: Mutex<UnderWay>,
}

/// A tenant's place, which is given back when this value is dropped.
pub(crate) struct Place {
    of: Arc<Admission>,
    tenant: Option<String>,
}

impl Admission {
    /// The places for decisions.
    pub(crate) fn of_decisions() -> Arc<Self> {
        Self::new(limits::DECISIONS_OF_TENANT, "decisions")
    }

    /// The places for streams.
    pub(crate) fn of_streams() -> Arc<Self> {
        Self::new(limits::STREAMS_OF_TENANT, "streams")
    }

    /// The places for replays, and for configurations that are tried or taken over.
    pub(crate) fn of_replays() -> Arc<Self> {
        Self::new(limits::REPLAYS, "replays")
    }

    /// The places for reads of the log of decisions.
    pub(crate) fn of_reads() -> Arc<Self> {
        Self::new(limits::READS_OF_TENANT, "reads of the log of decisions")
    }

    fn new(most: usize, what: &'static str) -> Arc<Self> {
        Arc::new(Self { most, what, under_way: Mutex::default() })
    }

    fn under_way(&self) -> MutexGuard<'_, UnderWay> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of places that are taken, of all tenants together.
    pub(crate) fn count(&self) -> usize {
        self.under_way().values().sum()
    }

    /// Takes a place for a tenant, or for an operator.
    pub(crate) fn admit(self: &Arc<Self>, tenant: Option<&str>) -> Result<Place, Problem> {
        let mut under_way = self.under_way();
        let tenant = tenant.map(str::to_owned);
        let count = under_way.entry(tenant.clone()).or_default();
        if *count >= self.most {
            let Self { most, what, .. } = **self;
            let detail =
                format!("no more than {most} {what} of one caller's are under way at a time");
            let name = format!("too-many-{}", what.split(' ').next().unwrap_or(what));
            return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, &name, detail));
        }
        *count += 1;
        drop(under_way);
        Ok(Place { of: Arc::clone(self), tenant })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut under_way = self.of.under_way();
        if let Some(count) = under_way.get_mut(&self.tenant) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                under_way.remove(&self.tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenants_flood_leaves_the_others_their_places() {
        let admission = Admission::of_decisions();
        let places: Vec<_> = (0..limits::DECISIONS_OF_TENANT)
            .map(|_| admission.admit(Some("acme")).ok().unwrap())
            .collect();
        assert_eq!(admission.count(), limits::DECISIONS_OF_TENANT);
        let refused = admission.admit(Some("acme")).err().unwrap();
        assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
        assert!(admission.admit(Some("other")).is_ok() && admission.admit(None).is_ok());
        drop(places);
        assert!(admission.admit(Some("acme")).is_ok());
        assert!(admission.under_way().is_empty(), "what is given back is forgotten");
    }
}
