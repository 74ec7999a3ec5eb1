//! `/v1/volumes`, `/v1/images` and `/v1/quotas`: volumes and images, their owners, and what is left of quotas.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::task::spawn_blocking;
use url::Url;

use qhost_engine::{Context, Volume, VolumeName};
use qhost_image::Stored;
use qhost_model::{
    digest::{Sha256, Sha512},
    format::Format,
    job::image_request,
    name::{VOLUME_PATTERN, is_volume},
    printable,
};

use crate::{
    Service,
    caller::{Caller, Operator},
    limits,
    metrics::Measured,
    operations,
    problem::Problem,
    query::{Named, Object, Page, Params},
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
    #[schemars(range(min = 1_048_576), extend("multipleOf" = 1_048_576))]
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
    Ok((StatusCode::CREATED, Json(volume)).into_response())
}

async fn is_there(service: &Service, of: &VolumeName) -> Result<bool, Problem> {
    Ok(service.engine.volumes().await?.iter().any(|volume| volume.of == *of))
}

/// Answers that a volume is not found before a request does anything with it.
async fn there(service: &Service, of: &VolumeName) -> Result<(), Problem> {
    let is_there = is_there(service, of).await?;
    if is_there { Ok(()) } else { Err(Problem::not_found("volume", &of.name)) }
}

pub(crate) async fn resize_volume(
    caller: Caller,
    State(service): State<Service>,
    Named(name): Named,
    Params(Sized { tenant, bytes }): Params<Sized>,
) -> Result<Json<Volume>, Problem> {
    let of = meant(&caller, tenant, name)?;
    there(&service, &of).await?;
    Ok(Json(service.engine.resize_volume(of, bytes).await?))
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

/// Under which name a volume is copied, and whose it is.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Copied {
    /// The tenant; a tenant's caller means itself.
    tenant: Option<String>,
    /// The copy's name.
    #[schemars(regex(pattern = VOLUME_PATTERN))]
    to: String,
}

pub(crate) async fn copy_volume(
    caller: Caller,
    State(service): State<Service>,
    Named(name): Named,
    Params(Copied { tenant, to }): Params<Copied>,
) -> Result<Response, Problem> {
    let from = meant(&caller, tenant, name)?;
    let to = meant(&caller, Some(from.tenant.clone()), to)?;
    there(&service, &from).await?;
    if is_there(&service, &to).await? {
        return Err(Problem::conflict(format!("the volume {to} is there already")));
    }
    let (engine, actor, tenant) = (service.engine.clone(), caller.actor(), from.tenant.clone());
    let asked = operations::Asked {
        kind: "copy-volume",
        caller: &caller,
        tenant: &tenant,
        idempotency: None,
        begun: None,
    };
    let begun = service.operations.begin(asked, |operation| async move {
        let told = Arc::clone(&operation);
        let done = move |bytes| told.does(&format!("copying a volume, {} MiB done", bytes >> 20));
        engine.copy_volume(from, to.name, actor, &operation.context(), done).await?;
        Ok(())
    });
    Ok(operations::accepted(begun?))
}

/// An image to be fetched, as a job names it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    /// Its URLs, of which the later ones are tried where the earlier ones do not serve it.
    #[schemars(length(min = 1))]
    sources: Vec<Url>,
    /// The digest of what they serve: `sha256:…`, `sha512:…`, or a URL of a list of checksums.
    checksum: String,
}

pub(crate) async fn fetch_image(
    caller: Caller,
    _: Operator,
    State(service): State<Service>,
    Object(Wanted { sources, checksum }): Object<Wanted>,
) -> Result<Response, Problem> {
    let sources: Vec<_> = sources.into_iter().map(String::from).collect();
    let request = image_request(&sources, &checksum).map_err(Problem::invalid)?;
    let (engine, metrics) = (service.engine.clone(), Arc::clone(&service.metrics));
    // An image belongs to no tenant.
    let asked = operations::Asked {
        kind: "fetch-image",
        caller: &caller,
        tenant: "",
        idempotency: None,
        begun: None,
    };
    let begun = service.operations.begin(asked, |operation| async move {
        let Context { cancel, observer } = operation.context();
        let context = Context { cancel, observer: Measured::new(&metrics, observer) };
        engine.fetch_image(&request, &[], &context).await?;
        Ok(())
    });
    Ok(operations::accepted(begun?))
}

/// A stored image.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Image {
    sha256: Sha256,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    sha512: Option<Sha512>,
    format: Format,
    /// The file's size.
    bytes: u64,
    /// The size of the disk that a guest sees.
    disk_bytes: u64,
    /// What the file takes of the host's disk, in bytes: less than its size where it has holes.
    disk_usage: u64,
    /// The URL that it was first fetched from, without its query.
    source: String,
    fetched_at: Timestamp,
    #[serde(flatten)]
    of_operator: Option<ImageUse>,
}

/// What an operator alone is told: another tenant may use an image as well, and when and from where is none of the first one's business.
#[derive(Debug, Serialize, JsonSchema)]
struct ImageUse {
    /// For whom it was fetched; absent: for the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    /// The origins that were seen to serve it.
    origins: Vec<String>,
    /// The digest of the stored file: the image's own, unless it came packed.
    content_sha256: Sha256,
    /// Whether the file system guards it (fs-verity).
    fs_verity: bool,
    /// When a VM last began with it.
    used_at: Timestamp,
}

impl Image {
    fn of(stored: Stored, caller: &Caller) -> Self {
        let Stored { sha256, record, disk_usage, used_at } = stored;
        let of_operator = caller.is_operator().then_some(ImageUse {
            tenant: record.tenant,
            origins: record.origins.list().to_vec(),
            content_sha256: record.content_sha256,
            fs_verity: record.fs_verity,
            used_at,
        });
        Self {
            sha256,
            sha512: record.sha512,
            format: record.inspected.format,
            bytes: record.inspected.bytes,
            disk_bytes: record.inspected.disk_bytes,
            disk_usage,
            source: record.source,
            fetched_at: record.fetched_at,
            of_operator,
        }
    }
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
    // The list's own order would tell when the images were used.
    images.sort_by_key(|image| image.sha256);
    let items = images.into_iter().map(|image| {
        let image = Image::of(image, &caller);
        (image.sha256.to_string(), json!(image))
    });
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
        // The quota of all tenants together has no name.
        (quota.tenant.clone().unwrap_or_default(), json!(quota))
    });
    Ok(Json(filter.page().of("quotas", items)?))
}
