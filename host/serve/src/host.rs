//! The host itself: whether it is well, what it can do, and which policies it has.

use axum::{Json, extract::State, http::StatusCode};
use serde_json::{Map, Value, json};

use qhost_engine::facts;

use crate::{Service, caller::Caller, problem::Problem};

pub(crate) async fn live() -> StatusCode {
    StatusCode::NO_CONTENT
}

/// Ready to start VMs: the policies load, and QEMU answers.
pub(crate) async fn ready(State(service): State<Service>) -> Result<StatusCode, Problem> {
    let policies = service.engine.policies().await.map(drop);
    let ready = policies.and(service.engine.host().await.map(drop));
    ready.map_err(|error| {
        // Any client may ask, and is not told of this host's files.
        tracing::warn!(error = Problem::from(&error).in_a_line(), "not ready to start VMs");
        let detail = "no VM can be started; the service's log says why".into();
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not-ready", detail)
    })?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn version() -> Json<Value> {
    Json(json!({"version": env!("CARGO_PKG_VERSION")}))
}

pub(crate) async fn document(State(service): State<Service>) -> Json<Value> {
    Json((*service.document).clone())
}

/// What QEMU and this host can do; the state folder's free bytes are an operator's to know.
pub(crate) async fn get(
    caller: Caller,
    State(service): State<Service>,
) -> Result<Json<Value>, Problem> {
    let found = service.engine.host().await?;
    let attributes: Map<String, Value> =
        found.attributes().into_iter().map(|(key, value)| (key.into(), value.into())).collect();
    let (resources, _) = facts::resources().map_err(|error| {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "host-unable", error.to_string())
    })?;
    let mut host = json!({
        "attributes": attributes,
        "accelerators": found.accelerators,
        "machine_types": found.machine_types,
        "cpus": resources.cpus,
        "memory_mib": resources.memory_mib,
    });
    if caller.is_operator()
        && let (Some(host), Some(free)) = (host.as_object_mut(), service.engine.free_bytes())
    {
        host.insert("free_bytes".into(), free.into());
    }
    Ok(Json(host))
}
