//! Whose a request is: on the socket, the connection's user.

use axum::{
    extract::FromRequestParts,
    http::{StatusCode, request::Parts},
};
use rustix::process::geteuid;
use tokio::net::UnixStream;

use qhost_policy::{Actor, Door};

use crate::{Service, problem::Problem};

/// The process at the other end of a connection, as the kernel knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Peer {
    uid: u32,
}

impl Peer {
    /// Whether it is root, or the user that the service runs as.
    pub(crate) fn is_operator(self) -> bool {
        self.uid == 0 || self.uid == geteuid().as_raw()
    }

    pub(crate) fn of(connection: &UnixStream) -> Option<Self> {
        Some(Self { uid: connection.peer_cred().ok()?.uid() })
    }
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller {
    /// As records name it.
    pub(crate) name: String,
    /// The tenant that it acts for; none is an operator.
    pub(crate) tenant: Option<String>,
}

impl Caller {
    /// Whether what is this tenant's is its to see and to change.
    pub(crate) fn may(&self, tenant: &str) -> bool {
        self.tenant.as_ref().is_none_or(|own| own == tenant)
    }

    pub(crate) fn is_operator(&self) -> bool {
        self.tenant.is_none()
    }

    /// The tenant that a request is for: a tenant's is its own, and an operator says whose, or means the default one.
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
}

impl FromRequestParts<Service> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, service: &Service) -> Result<Self, Problem> {
        let Some(peer @ Peer { uid }) = parts.extensions.get().copied() else {
            let detail = "the connection has no user".into();
            return Err(Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", detail));
        };
        let name = format!("uid {uid}");
        if peer.is_operator() {
            return Ok(Self { name, tenant: None });
        }
        match service.engine.tenant_of_user(uid) {
            Some(tenant) => Ok(Self { name, tenant: Some(tenant) }),
            None => {
                let detail =
                    format!("{name} is no tenant here: an operator adds it to [api.users]");
                Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", detail))
            }
        }
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
