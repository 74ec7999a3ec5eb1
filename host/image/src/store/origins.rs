//! The origins (RFC 6454) that were seen to serve an image. Each tenant has room for its own, so that no tenant's origins push out another's.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::limits;

/// The origins of one image, the latest last.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Origins {
    origins: Vec<String>,
    /// The tenant for which an origin first served the image; absent for the operator's, and for those of an earlier version.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    origin_tenants: BTreeMap<String, String>,
}

impl Origins {
    /// The origins, the latest last.
    pub fn list(&self) -> &[String] {
        &self.origins
    }

    /// Adds an origin that served the image for a tenant. Of very many of one tenant's, only the latest stay; of very many of all, those of the
    /// tenant with the most go.
    pub(super) fn add(&mut self, origin: String, tenant: Option<&str>) {
        let is_known = self.origins.contains(&origin);
        self.origins.retain(|known| *known != origin);
        if let Some(tenant) = tenant.filter(|_| !is_known) {
            self.origin_tenants.insert(origin.clone(), tenant.to_owned());
        }
        self.origins.push(origin);
        if self.of(tenant).count() > limits::IMAGE_ORIGINS {
            self.forget_the_first_of(tenant.map(str::to_owned));
        }
        if self.origins.len() > limits::IMAGE_ORIGINS_OF_ALL {
            let all = self.origins.iter().map(|origin| self.tenant_of(origin));
            let most = all.max_by_key(|tenant| self.of(*tenant).count()).flatten();
            self.forget_the_first_of(most.map(str::to_owned));
        }
    }

    fn tenant_of(&self, origin: &str) -> Option<&str> {
        self.origin_tenants.get(origin).map(String::as_str)
    }

    fn of(&self, tenant: Option<&str>) -> impl Iterator<Item = &String> {
        self.origins.iter().filter(move |origin| self.tenant_of(origin) == tenant)
    }

    fn forget_the_first_of(&mut self, tenant: Option<String>) {
        let first = self.of(tenant.as_deref()).next().cloned();
        if let Some(first) = first {
            self.origins.retain(|known| *known != first);
            self.origin_tenants.remove(&first);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Before, a tenant that had a shared image served by many origins had other tenants fetch it again.
    #[test]
    fn a_tenants_origins_push_out_no_other_tenants() {
        let mut origins = Origins::default();
        origins.add("https://operators".into(), None);
        origins.add("https://acmes".into(), Some("acme"));
        for port in 0..10_000 {
            origins.add(format!("https://mallorys:{port}"), Some("mallory"));
        }
        assert_eq!(origins.list().len(), limits::IMAGE_ORIGINS + 2);
        assert_eq!(origins.list()[..2], ["https://operators", "https://acmes"]);
        // An origin that is known already is not taken over.
        origins.add("https://acmes".into(), Some("mallory"));
        assert_eq!(origins.tenant_of("https://acmes"), Some("acme"));
        // Many tenants together take from the tenant with the most.
        for tenant in 0..100 {
            for port in 0..limits::IMAGE_ORIGINS {
                origins.add(format!("https://of-{tenant}:{port}"), Some(&tenant.to_string()));
            }
        }
        assert_eq!(origins.list().len(), limits::IMAGE_ORIGINS_OF_ALL);
        for kept in ["https://operators", "https://acmes"] {
            assert!(origins.list().iter().any(|origin| origin == kept), "{kept}");
        }
        let earlier: Origins = serde_json::from_str(r#"{"origins": ["https://a"]}"#).unwrap();
        assert_eq!(earlier.list(), ["https://a"]);
    }
}
