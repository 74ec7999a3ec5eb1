//! `/v1/volumes`, `/v1/images` and `/v1/quotas`: what is kept here, whose it is, and what is left.

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use qhost_engine::VolumeName;
use qhost_image::Stored;
use qhost_model::{digest::Sha256, name::is_volume, printable};

use crate::{
    Service,
    caller::{Caller, Operator},
    limits,
    problem::Problem,
    query::{Named, Page, Params},
};

/// Whose items are listed.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Filter {
    /// A tenant's alone.
    tenant: Option<String>,
    /// At most so many items: from 1 to 1000, 100 unless it is given.
    #[schemars(range(min = 1, max = 1000))]
    limit: Option<usize>,
    /// The id of the last item of the page before.
    after: Option<String>,
}

impl Filter {
    fn is_meant(&self, caller: &Caller, tenant: Option<&str>) -> bool {
        let is_seen = tenant.map_or_else(|| caller.is_operator(), |tenant| caller.may(tenant));
        is_seen && (self.tenant.is_none() || self.tenant.as_deref() == tenant)
    }

    fn page(self) -> Page {
        Page { limit: self.limit, after: self.after }
    }
}

pub(crate) async fn volumes(
    caller: Caller,
    State(service): State<Service>,
    Params(filter): Params<Filter>,
) -> Result<Json<Value>, Problem> {
    let mut volumes = service.engine.volumes().await?;
    volumes.retain(|volume| filter.is_meant(&caller, Some(&volume.of.tenant)));
    let items = volumes.iter().map(|volume| (volume.of.to_string(), json!(volume)));
    Ok(Json(filter.page().of("volumes", items)?))
}

/// Whose a volume is.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Of {
    /// The tenant; a tenant's caller means itself.
    tenant: Option<String>,
}

/// Whose a volume is, and its size.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sized {
    /// The tenant; a tenant's caller means itself.
    tenant: Option<String>,
    /// Its size in bytes: a multiple of 1048576.
    bytes: u64,
}

/// The volume that a caller means.
fn meant(caller: &Caller, tenant: Option<String>, name: String) -> Result<VolumeName, Problem> {
    let tenant = caller.acts_for(tenant)?;
    if is_volume(&name) {
        return Ok(VolumeName { tenant, name });
    }
    let shown = printable::line(&name, limits::SHOWN_CHARS);
    Err(Problem::invalid(format!(
        "the volume's name: {shown}; expected letters, digits, ., - and _, of which the first is a letter or a digit"
    )))
}

pub(crate) async fn create_volume(
    caller: Caller,
    State(service): State<Service>,
    Named(name): Named,
    Params(Sized { tenant, bytes }): Params<Sized>,
) -> Result<Response, Problem> {
    let of = meant(&caller, tenant, name)?;
    if is_there(&service, &of).await? {
        return Err(Problem::conflict(format!("the volume {of} is there already")));
    }
    let volume = service.engine.create_volume(of, bytes).await?;
    Ok((StatusCode::CREATED, Json(json!(volume))).into_response())
}

async fn is_there(service: &Service, of: &VolumeName) -> Result<bool, Problem> {
    Ok(service.engine.volumes().await?.iter().any(|volume| volume.of == *of))
}

/// A volume that is there: what is not is told as such, whatever is done with it.
async fn there(service: &Service, of: &VolumeName) -> Result<(), Problem> {
    let is_there = is_there(service, of).await?;
    if is_there { Ok(()) } else { Err(Problem::not_found("volume", &of.name)) }
}

pub(crate) async fn resize_volume(
    caller: Caller,
    State(service): State<Service>,
    Named(name): Named,
    Params(Sized { tenant, bytes }): Params<Sized>,
) -> Result<Json<Value>, Problem> {
    let of = meant(&caller, tenant, name)?;
    there(&service, &of).await?;
    Ok(Json(json!(service.engine.resize_volume(of, bytes).await?)))
}

pub(crate) async fn remove_volume(
    caller: Caller,
    State(service): State<Service>,
    Named(name): Named,
    Params(Of { tenant }): Params<Of>,
) -> Result<StatusCode, Problem> {
    let of = meant(&caller, tenant, name)?;
    there(&service, &of).await?;
    service.engine.remove_volume(of).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What a tenant is told of an image: another tenant may use it as well, and when and from where is none of the first one's business.
const OF_IMAGE: [&str; 8] =
    ["sha256", "sha512", "format", "bytes", "disk_bytes", "disk_usage", "source", "fetched_at"];

fn shown(caller: &Caller, image: &Stored) -> Value {
    let mut shown = json!(image);
    if let Some(keys) = shown.as_object_mut().filter(|_| !caller.is_operator()) {
        keys.retain(|key, _| OF_IMAGE.contains(&key.as_str()));
    }
    shown
}

/// An image is the tenant's that fetched it first; an operator's are for operators to see.
pub(crate) async fn images(
    caller: Caller,
    State(service): State<Service>,
    Params(filter): Params<Filter>,
) -> Result<Json<Value>, Problem> {
    let store = service.engine.images();
    let listed = spawn_blocking(move || store.list().map_err(|error| Problem::unreadable(&error)));
    let mut images = listed.await.unwrap_or_else(|panicked| Err(Problem::unreadable(&panicked)))?;
    images.retain(|image| filter.is_meant(&caller, image.record.tenant.as_deref()));
    // Their order otherwise tells when they were used.
    images.sort_by_key(|image| image.sha256);
    let items = images.iter().map(|image| (image.sha256.to_string(), shown(&caller, image)));
    Ok(Json(filter.page().of("images", items)?))
}

pub(crate) async fn remove_image(
    _: Operator,
    State(service): State<Service>,
    Named(name): Named,
) -> Result<StatusCode, Problem> {
    let (engine, word) = (service.engine.clone(), name.clone());
    let removed = spawn_blocking(move || {
        let Ok(sha256) = word.parse::<Sha256>() else { return Ok(None) };
        let stored = engine.images().list().map_err(|error| Problem::unreadable(&error))?;
        let Some(stored) = stored.iter().find(|stored| stored.sha256 == sha256) else {
            return Ok(None);
        };
        let removed = engine.remove_image(stored);
        removed.map(Some).map_err(|error| Problem::conflict(error.to_string()))
    });
    match removed.await.unwrap_or_else(|panicked| Err(Problem::unreadable(&panicked)))? {
        Some(()) => Ok(StatusCode::NO_CONTENT),
        None => Err(Problem::not_found("stored image", &name)),
    }
}

pub(crate) async fn quotas(
    caller: Caller,
    State(service): State<Service>,
    Params(filter): Params<Filter>,
) -> Result<Json<Value>, Problem> {
    let mut quotas = service.engine.quotas().await?;
    quotas.retain(|quota| filter.is_meant(&caller, quota.tenant.as_deref()));
    let items = quotas.iter().map(|quota| {
        // All tenants' together have no name.
        (quota.tenant.clone().unwrap_or_default(), json!(quota))
    });
    Ok(Json(filter.page().of("quotas", items)?))
}
