//! The clients of the service's API, and the files of its certificate.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use qhost_model::{digest::Sha256, name::is_name};

use super::{Config, ConfigProblem};

/// `[api]`
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Api {
    /// Users of this host that act for a tenant on the API's socket: the tenant's name, by the user's number. Root, and the user that the
    /// service runs as, are operators.
    users: BTreeMap<String, String>,
    /// What the service is known by where it listens on the network.
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<Tls>,
    /// Clients that are known by their certificate, by names for the records.
    certificates: BTreeMap<String, Client>,
}

/// `[api.tls]`
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Tls {
    /// A file with the service's certificate and those that lead to its authority, in PEM. A path that is not absolute starts at the
    /// configuration's folder.
    certificate: PathBuf,
    /// A file with the certificate's key, in PEM, which only qhost's user may read.
    key: PathBuf,
}

/// `[api.certificates.X]`
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Client {
    /// The certificate's SHA-256, as `openssl x509 -fingerprint -sha256` prints it, without the colons. It need be signed by no authority.
    #[schemars(with = "String")]
    sha256: Sha256,
    /// The tenant that it acts for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    /// Whether it is an operator.
    #[serde(default)]
    operator: bool,
}

/// The files of the service's certificate and of its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate's file, with the certificates that lead to its authority.
    pub certificate: PathBuf,
    /// The key's file.
    pub key: PathBuf,
}

/// A client that is known by its certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownClient {
    /// The client's name, by which records name the actor.
    pub name: String,
    /// The tenant that the client acts for; absent for an operator.
    pub tenant: Option<String>,
}

impl Config {
    /// The tenant that a user of this host acts for on the API's socket.
    pub fn tenant_of_user(&self, uid: u32) -> Option<&str> {
        self.api.users.get(&uid.to_string()).map(String::as_str)
    }

    /// The files of the service's certificate and key; absent where none are configured.
    pub fn api_tls(&self) -> Option<TlsFiles> {
        let tls = self.api.tls.as_ref()?;
        let at = |path: &Path| self.folder.join(path);
        Some(TlsFiles { certificate: at(&tls.certificate), key: at(&tls.key) })
    }

    /// The client whose certificate has a digest.
    pub fn client_of_certificate(&self, sha256: Sha256) -> Option<KnownClient> {
        let mut known = self.api.certificates.iter().filter(|(_, client)| client.sha256 == sha256);
        let (name, client) = known.next()?;
        Some(KnownClient { name: name.clone(), tenant: client.tenant.clone() })
    }

    pub(super) fn check_api(&self, problems: &mut Vec<ConfigProblem>) {
        let is_there = |tenant: &str| {
            if self.has_tenants() { self.has_tenant(tenant) } else { is_name(tenant) }
        };
        let unknown = |tenant: &str| format!("{tenant} is no tenant of this configuration");
        for (user, tenant) in &self.api.users {
            let place = format!("api.users.{user}");
            // The number must be in its usual spelling, since another would never be found.
            let is_number = user.parse::<u32>().is_ok_and(|uid| uid.to_string() == *user);
            if !is_number {
                let message = "expected a user's number, as id -u prints it".into();
                problems.push(ConfigProblem { place, message });
            } else if !is_there(tenant) {
                problems.push(ConfigProblem { place, message: unknown(tenant) });
            }
        }
        for (name, client) in &self.api.certificates {
            let place = format!("api.certificates.{name}");
            let is_another =
                |(other, one): (&String, &Client)| other != name && one.sha256 == client.sha256;
            let message = if !is_name(name) {
                "expected a name of letters, digits, -, _ and .".into()
            } else if client.tenant.is_some() == client.operator {
                "expected either tenant, or operator = true".into()
            } else if let Some(tenant) = client.tenant.as_deref().filter(|one| !is_there(one)) {
                unknown(tenant)
            } else if self.api.certificates.iter().any(is_another) {
                "its sha256 is another's as well; a certificate is one client's".into()
            } else {
                continue;
            };
            problems.push(ConfigProblem { place, message });
        }
    }
}
