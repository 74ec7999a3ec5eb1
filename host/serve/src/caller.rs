//! Finds whose a request is: the token's in the request, else the connection's: on the socket that of the user at the other end, on the
//! network that of the client's certificate.

use std::net::IpAddr;

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, StatusCode, header, request::Parts, uri::Authority},
};
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};
use tokio::{net::UnixStream, task::spawn_blocking};

use qhost_model::digest::Sha256;
use qhost_policy::{Actor, Door};

use crate::{Service, cookie, problem::Problem};

/// The other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Peer {
    /// A process of this host, as the kernel knows it.
    User {
        /// Its user.
        uid: u32,
    },
    /// A client on the network.
    Remote {
        /// The client's address; of an IPv6 address, the first half.
        network: IpAddr,
        /// The digest of the client's certificate, if it has shown one and has its key.
        certificate: Option<Sha256>,
    },
}

impl Peer {
    /// Whether the peer is root, or the user that the service runs as.
    pub(crate) fn is_operator(self) -> bool {
        match self {
            Self::User { uid } => uid == 0 || uid == geteuid().as_raw(),
            Self::Remote { .. } => false,
        }
    }

    pub(crate) fn of(connection: &UnixStream) -> Option<Self> {
        Some(Self::User { uid: connection.peer_cred().ok()?.uid() })
    }
}

/// The sender of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Caller {
    /// The caller's name in records.
    pub(crate) name: String,
    /// The tenant that the caller acts for; an operator has none.
    pub(crate) tenant: Option<String>,
}

impl Caller {
    /// Whether the caller may see and change what belongs to a tenant.
    pub(crate) fn may(&self, tenant: &str) -> bool {
        self.tenant.as_ref().is_none_or(|own| own == tenant)
    }

    pub(crate) fn is_operator(&self) -> bool {
        self.tenant.is_none()
    }

    /// Gives the tenant that a request is for: a tenant's caller means itself; an operator names the tenant, or means the default one.
    pub(crate) fn acts_for(&self, asked: Option<String>) -> Result<String, Problem> {
        match (&self.tenant, asked) {
            (None, asked) => Ok(asked.unwrap_or_else(|| qhost_model::job::DEFAULT_TENANT.into())),
            (Some(own), None) => Ok(own.clone()),
            (Some(own), Some(asked)) if *own == asked => Ok(asked),
            (Some(own), Some(_)) => {
                let detail = format!("this caller acts for the tenant {own} alone");
                Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", detail))
            }
        }
    }

    pub(crate) fn actor(&self) -> Actor {
        Actor { name: self.name.clone(), tenant: self.tenant.clone(), door: Door::Api }
    }

    /// Finds the caller that has a token.
    pub(crate) async fn of_token(service: &Service, text: String) -> Result<Self, Problem> {
        let tokens = service.tokens.clone();
        let found = spawn_blocking(move || tokens.get(&text)).await;
        let found = found.map_err(|panicked| Problem::unreadable(&panicked))?;
        let found = found.map_err(|error| Problem::unreadable(&error))?;
        let Some(token) = found else {
            return Err(Problem::unknown_caller("the token is unknown, or its time is over"));
        };
        Self::known(service, format!("token {}", token.name), token.tenant)
    }

    /// Gives the caller of a name, unless the tenant that it acts for is not configured any more.
    fn known(service: &Service, name: String, tenant: Option<String>) -> Result<Self, Problem> {
        if let Some(gone) = tenant.as_ref().filter(|tenant| !service.engine.may_be_tenant(tenant)) {
            let detail = format!("{name} acts for {gone}, which is no tenant here any more");
            return Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", detail));
        }
        Ok(Self { name, tenant })
    }

    async fn of(parts: &Parts, service: &Service) -> Result<Self, Problem> {
        if let Some(text) = bearer(&parts.headers)? {
            return Self::of_token(service, text).await;
        }
        if let Some(text) = cookie::token(&parts.headers) {
            if !comes_from(parts, Sites::Own) {
                return Err(cross_site());
            }
            return Self::of_token(service, text).await;
        }
        match parts.extensions.get().copied() {
            Some(peer @ Peer::User { uid }) => {
                let name = format!("uid {uid}");
                if peer.is_operator() {
                    return Ok(Self { name, tenant: None });
                }
                let Some(tenant) = service.engine.tenant_of_user(uid) else {
                    let detail =
                        format!("{name} is no tenant here: an operator adds it to [api.users]");
                    return Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", detail));
                };
                Ok(Self { name, tenant: Some(tenant) })
            }
            Some(Peer::Remote { certificate: Some(sha256), .. }) => {
                if !comes_from(parts, Sites::OwnOrNone) {
                    return Err(cross_site());
                }
                let Some(client) = service.engine.client_of_certificate(sha256) else {
                    let why = format!(
                        "the certificate is unknown: an operator adds it to [api.certificates], with sha256 = \"{sha256}\""
                    );
                    return Err(Problem::unknown_caller(&why));
                };
                Self::known(service, format!("certificate {}", client.name), client.tenant)
            }
            Some(Peer::Remote { certificate: None, .. }) | None => {
                Err(Problem::unknown_caller("there is neither a token nor a client's certificate"))
            }
        }
    }
}

/// The token in a request's `Authorization` header.
fn bearer(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
    let token = value.to_str().ok().and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
    });
    let expected = || Problem::unknown_caller("Authorization: expected Bearer and a token");
    token.map(Some).ok_or_else(expected)
}

/// The senders that a request which changes something may come from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sites {
    /// Only the service's own page.
    Own,
    /// The service's own page, or a program that is no browser.
    OwnOrNone,
}

/// Checks that a request which changes something, or opens a WebSocket, comes from the service's own page (the Fetch standard's
/// `Sec-Fetch-Site`; `Origin` from browsers that have no such header). A browser sends its cookie, and its user's certificate, with the
/// requests of other sites' pages as well.
fn comes_from(parts: &Parts, sites: Sites) -> bool {
    let Parts { method, uri, headers, .. } = parts;
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    if method.is_safe() && !headers.contains_key(header::UPGRADE) {
        return true;
    }
    // HTTP/2 has the host in the request's URI.
    let host = uri.authority().map(Authority::as_str).or(text("host"));
    match (text("sec-fetch-site"), text("origin")) {
        (Some(site), _) => site == "same-origin",
        (None, Some(origin)) => host.is_some_and(|host| origin == format!("https://{host}")),
        (None, None) => sites == Sites::OwnOrNone,
    }
}

fn cross_site() -> Problem {
    let detail = "a browser's requests come from the service's own page alone".into();
    Problem::new(StatusCode::FORBIDDEN, "cross-site", detail)
}

impl FromRequestParts<Service> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, service: &Service) -> Result<Self, Problem> {
        Self::of(parts, service).await
    }
}

/// A caller that must be an operator.
pub(crate) struct Operator;

impl FromRequestParts<Service> for Operator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, service: &Service) -> Result<Self, Problem> {
        let caller = Caller::from_request_parts(parts, service).await?;
        if caller.is_operator() {
            return Ok(Self);
        }
        let detail = "this is for operators".into();
        Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", detail))
    }
}
