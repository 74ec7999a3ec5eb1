//! Who asks the API of the host as a service.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use qhost_model::name::is_name;

use super::{Config, ConfigProblem};

/// `[api]`
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Api {
    /// Users of this host that act for a tenant on the API's socket: the tenant's name, by the user's number. Root, and the user that the
    /// service runs as, are operators.
    users: BTreeMap<String, String>,
}

impl Config {
    /// The tenant that a user of this host acts for on the API's socket.
    pub fn tenant_of_user(&self, uid: u32) -> Option<&str> {
        self.api.users.get(&uid.to_string()).map(String::as_str)
    }

    pub(super) fn check_api(&self, problems: &mut Vec<ConfigProblem>) {
        for (user, tenant) in &self.api.users {
            let place = format!("api.users.{user}");
            // As the number would be written: another spelling would never be found.
            let is_number = user.parse::<u32>().is_ok_and(|uid| uid.to_string() == *user);
            let is_there =
                if self.has_tenants() { self.has_tenant(tenant) } else { is_name(tenant) };
            if !is_number {
                let message = "expected a user's number, as id -u prints it".into();
                problems.push(ConfigProblem { place, message });
            } else if !is_there {
                let message = format!("{tenant} is no tenant of this configuration");
                problems.push(ConfigProblem { place, message });
            }
        }
    }
}
