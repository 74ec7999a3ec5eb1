//! How many decisions of each tenant are made at one time: past its share a tenant is asked to come back, so that one tenant's flood leaves
//! sandboxes to the others.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::http::StatusCode;

use crate::{limits, problem::Problem};

/// Decisions under way, by tenants that have any.
#[derive(Default)]
pub(crate) struct Admission(Mutex<HashMap<String, usize>>);

/// A place for one decision. Dropped, it is given back.
pub(crate) struct Place {
    of: Arc<Admission>,
    tenant: String,
}

impl Admission {
    fn under_way(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a decision of a tenant's.
    pub(crate) fn admit(self: &Arc<Self>, tenant: &str) -> Result<Place, Problem> {
        let mut under_way = self.under_way();
        let count = under_way.entry(tenant.to_owned()).or_default();
        if *count >= limits::DECISIONS_OF_TENANT {
            let detail = format!("{count} decisions of this tenant are under way");
            return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, "too-many-decisions", detail));
        }
        *count += 1;
        drop(under_way);
        Ok(Place { of: Arc::clone(self), tenant: tenant.to_owned() })
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
        let admission = Arc::new(Admission::default());
        let places: Vec<_> = (0..limits::DECISIONS_OF_TENANT)
            .map(|_| admission.admit("acme").ok().unwrap())
            .collect();
        let refused = admission.admit("acme").err().unwrap();
        assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
        assert!(admission.admit("other").is_ok());
        drop(places);
        assert!(admission.admit("acme").is_ok());
        assert!(admission.under_way().is_empty(), "what is given back is forgotten");
    }
}
