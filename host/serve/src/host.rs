//! The host itself: whether it is well, and what it can do.

use std::collections::BTreeMap;

use axum::{Json, extract::State, http::StatusCode};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use qhost_engine::{facts, fingerprint::AcceleratorCheck};

use crate::{Service, caller::Caller, problem::Problem};

pub(crate) async fn live() -> StatusCode {
    StatusCode::NO_CONTENT
}

/// Ready to start VMs: the policies load, and QEMU answers.
pub(crate) async fn ready(State(service): State<Service>) -> Result<StatusCode, Problem> {
    let policies = service.engine.policies().await.map(drop);
    let ready = policies.and(service.engine.host().await.map(drop));
    ready.map_err(|error| {
        // Any client may ask, so that the answer names none of this host's files.
        tracing::warn!(error = Problem::from(&error).in_a_line(), "not ready to start VMs");
        let detail = "no VM can be started; the service's log says why".into();
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not-ready", detail)
    })?;
    Ok(StatusCode::NO_CONTENT)
}

/// Which version the service is.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Version {
    version: &'static str,
}

pub(crate) async fn version() -> Json<Version> {
    Json(Version { version: env!("CARGO_PKG_VERSION") })
}

pub(crate) async fn document(State(service): State<Service>) -> Json<Value> {
    Json((*service.document).clone())
}

/// What QEMU and this host can do.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Host {
    /// What Nomad's fingerprint of the driver has, by its names.
    attributes: BTreeMap<String, String>,
    accelerators: Vec<AcceleratorCheck>,
    machine_types: Vec<String>,
    /// CPUs that VMs may have, all together.
    cpus: u32,
    /// Memory that VMs may have, all together.
    memory_mib: u32,
    /// What is free on the state folder's disk; absent for tenants.
    #[serde(skip_serializing_if = "Option::is_none")]
    free_bytes: Option<u64>,
}

/// What QEMU and this host can do; the state folder's free bytes are an operator's to know.
pub(crate) async fn get(
    caller: Caller,
    State(service): State<Service>,
) -> Result<Json<Host>, Problem> {
    let found = service.engine.host().await?;
    let attributes = found.attributes().into_iter();
    let attributes = attributes.map(|(key, value)| (key.into(), value)).collect();
    let (resources, _) = facts::resources().map_err(|error| {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "host-unable", error.to_string())
    })?;
    let free_bytes = caller.is_operator().then(|| service.engine.free_bytes()).flatten();
    Ok(Json(Host {
        attributes,
        accelerators: found.accelerators.clone(),
        machine_types: found.machine_types.clone(),
        cpus: resources.cpus,
        memory_mib: resources.memory_mib,
        free_bytes,
    }))
}
