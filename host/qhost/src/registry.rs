//! Policies in OCI registries, in the layout that the Wasm ecosystem uses (CNCF TAG Runtime, "Wasm OCI Artifact Layout"):
//! one layer `application/wasm`, and a config that says what it is. Signatures go along as annotations.
//!
//! A push of the same file gives the same digest, so that nothing in it depends on the time. A pulled file is checked against the digest in
//! its manifest, and the manifest against its own.

mod session;

use std::{collections::BTreeMap, str::FromStr};

use bytes::Bytes;
use oci_spec::distribution::Reference;
use serde::{Deserialize, Serialize};
use serde_json::json;
use url::Url;

use qhost_model::{digest::Sha256, printable};
use qhost_policy::{Facts, Signature};

use crate::limits;
pub use session::SessionError;
use session::{Credentials, Scope, Session};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.wasm.config.v0+json";
const LAYER: &str = "application/wasm";
/// The former media type of layers with components.
const OLD_LAYER: &str = "application/vnd.wasm.content.layer.v1+wasm";
/// The prefix of annotations with a signature; the key's id follows.
const SIGNATURE: &str = "qhost.minisig.";

/// A place in a registry: `REGISTRY/REPOSITORY:TAG` or `REGISTRY/REPOSITORY@sha256:DIGEST`.
#[derive(Debug, Clone)]
pub struct Place(Reference);

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = "expected REGISTRY/REPOSITORY:TAG or REGISTRY/REPOSITORY@sha256:DIGEST";
        let place: Reference = text.parse().map_err(|error| format!("{error}; {expected}"))?;
        // Without this check, a misspelt path would be asked for from a public registry.
        if text.starts_with(&format!("{}/", place.registry())) {
            Ok(Self(place))
        } else {
            Err(format!("it names no registry; {expected}"))
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.whole().fmt(f)
    }
}

impl Place {
    /// The host, with its port if that is named.
    fn registry(&self) -> &str {
        self.0.resolve_registry()
    }

    /// The last part of the repository's name.
    pub fn name(&self) -> &str {
        self.0.repository().rsplit('/').next().unwrap_or_default()
    }
}

/// How to reach a registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// HTTPS.
    Tls,
    /// HTTP, for a registry on loopback.
    Plain,
}

/// A policy that was put into a registry.
#[derive(Debug)]
pub struct Pushed {
    /// The digest of the policy's manifest, with `sha256:`.
    pub manifest: String,
}

/// A policy that was got from a registry.
pub struct Pulled {
    /// The policy's file.
    pub bytes: Vec<u8>,
    /// The policy's signatures.
    pub signatures: Vec<Signature>,
    /// The digest of the policy's manifest, with `sha256:`.
    pub manifest: String,
}

/// Why a policy was not pushed or pulled.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The registry, or the connection to it, failed.
    #[error("the registry {registry} did not do it for {place}")]
    Registry {
        /// The registry.
        registry: String,
        /// The place that the request was about.
        place: String,
        /// The cause.
        source: Box<SessionError>,
    },
    /// The registry took too long.
    #[error("{place}: the registry took longer than {} s", limits::REGISTRY.as_secs())]
    Slow {
        /// The place that the request was about.
        place: String,
    },
    /// The artifact in the registry is no policy.
    #[error("{place} is no WebAssembly policy: {reason}")]
    Unfit {
        /// The place that was pulled.
        place: String,
        /// The reason.
        reason: String,
    },
    /// The received bytes do not match their digest.
    #[error("{place}: {what} has {found}, and should have {expected}")]
    Digest {
        /// The place that was pulled.
        place: String,
        /// Which one does not match: the manifest or the file.
        what: &'static str,
        /// The digest of the received bytes.
        found: String,
        /// The digest that was expected.
        expected: String,
    },
    /// A push named a digest instead of a tag.
    #[error("{place}: a push needs a tag, and gives the digest")]
    NoTag {
        /// The place of the push.
        place: String,
    },
}

/// Puts a policy into a registry, with its description and its signatures.
pub async fn push(
    place: &Place,
    transport: Transport,
    file: Vec<u8>,
    facts: &Facts,
    signatures: &[Signature],
) -> Result<Pushed, RegistryError> {
    let tag = place.0.tag().filter(|_| place.0.digest().is_none());
    let tag = tag.ok_or_else(|| RegistryError::NoTag { place: place.to_string() })?;
    let layer = Descriptor::of(LAYER, &file);
    let config = json!({
        // A time would give the same policy another digest with every push.
        "created": "1970-01-01T00:00:00Z",
        "architecture": "wasm",
        "os": "wasip2",
        "layerDigests": [layer.digest],
        "component": {"exports": facts.exports, "imports": facts.imports, "target": null},
    });
    let config_file = config.to_string().into_bytes();
    let config = Descriptor::of(CONFIG, &config_file);
    let blobs = [(layer.digest.clone(), file), (config.digest.clone(), config_file)];
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(MANIFEST.into()),
        config,
        layers: vec![layer],
        annotations: Some(annotations(facts, signatures)),
    };
    // The manifest is plain data with text keys, which JSON can always hold.
    let body = serde_json::to_vec(&manifest).unwrap_or_default();
    let pushed = Pushed { manifest: format!("sha256:{}", Sha256::of(&body)) };
    let mut session = session(place, transport, Scope::Push)?;
    let steps = async {
        for (digest, blob) in blobs {
            session.put_blob(&digest, blob.into()).await?;
        }
        session.put_manifest(tag, MANIFEST, Bytes::from(body)).await
    };
    within(place, steps).await?;
    Ok(pushed)
}

/// The manifest of a tag or a digest.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    media_type: Option<String>,
    config: Descriptor,
    layers: Vec<Descriptor>,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<BTreeMap<String, String>>,
}

/// A file that a manifest names.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
}

impl Descriptor {
    fn of(media_type: &str, file: &[u8]) -> Self {
        let digest = format!("sha256:{}", Sha256::of(file));
        Self { media_type: media_type.into(), digest, size: file.len() as u64 }
    }
}

/// Gets a policy from a registry.
pub async fn pull(place: &Place, transport: Transport) -> Result<Pulled, RegistryError> {
    let mut session = session(place, transport, Scope::Pull)?;
    let named = place.0.digest().or(place.0.tag()).unwrap_or("latest");
    let path = format!("manifests/{named}");
    let got = within(place, session.get(&path, MANIFEST, limits::REGISTRY_MANIFEST_BYTES)).await?;
    let found = format!("sha256:{}", Sha256::of(&got.bytes));
    let expected = place.0.digest().map(str::to_owned).or(got.digest);
    if let Some(expected) = expected.filter(|expected| *expected != found) {
        return Err(differs(place, "its manifest", found, &expected));
    }
    let unfit = |reason: String| {
        let reason = printable::line(&reason, limits::REGISTRY_SAID_CHARS).to_string();
        RegistryError::Unfit { place: place.to_string(), reason }
    };
    let manifest: Manifest = serde_json::from_slice(&got.bytes)
        .map_err(|error| unfit(format!("its manifest is no OCI image manifest: {error}")))?;
    let digest = layer(&manifest).map_err(unfit)?;
    let path = format!("blobs/sha256:{digest}");
    // A registry may send more than its manifest says.
    let blob =
        within(place, session.get(&path, "*/*", qhost_policy::limits::POLICY_FILE_BYTES)).await?;
    let sha256 = Sha256::of(&blob.bytes);
    if sha256 != digest {
        let [found, expected] = [sha256, digest].map(|sha256| format!("sha256:{sha256}"));
        return Err(differs(place, "its file", found, &expected));
    }
    Ok(Pulled { bytes: blob.bytes, signatures: signatures(&manifest), manifest: found })
}

fn differs(place: &Place, what: &'static str, found: String, expected: &str) -> RegistryError {
    let expected = printable::line(expected, limits::REGISTRY_SAID_CHARS).to_string();
    RegistryError::Digest { place: place.to_string(), what, found, expected }
}

/// The digest of the one layer, which has the component.
fn layer(manifest: &Manifest) -> Result<Sha256, String> {
    let [layer] = manifest.layers.as_slice() else {
        return Err(format!("it has {} layers, and a policy has one", manifest.layers.len()));
    };
    let Descriptor { media_type, digest, size } = layer;
    if ![LAYER, OLD_LAYER].contains(&media_type.as_str()) {
        return Err(format!("its layer is {media_type:?}, and a policy's is {LAYER:?}"));
    }
    let most = qhost_policy::limits::POLICY_FILE_BYTES;
    if *size > most {
        return Err(format!("its layer has {size} bytes, more than {most}"));
    }
    let sha256 = digest.strip_prefix("sha256:").and_then(|digest| digest.parse().ok());
    sha256.ok_or_else(|| format!("its layer's digest is {digest:?}, and no SHA-256"))
}

fn annotations(facts: &Facts, signatures: &[Signature]) -> BTreeMap<String, String> {
    let about = &facts.about;
    let plain = [
        ("org.opencontainers.image.title", &about.name),
        ("org.opencontainers.image.version", &about.version),
        ("org.opencontainers.image.description", &about.description),
    ];
    let plain = plain.map(|(key, value)| (key.to_owned(), value.clone()));
    let signed = signatures
        .iter()
        .map(|signature| (format!("{SIGNATURE}{}", signature.key_id()), signature.text().into()));
    plain.into_iter().chain(signed).collect()
}

fn signatures(manifest: &Manifest) -> Vec<Signature> {
    let annotations = manifest.annotations.iter().flatten();
    let fits = |text: &&String| text.len() as u64 <= qhost_policy::limits::SIGNATURE_BYTES;
    let texts = annotations.filter(|(key, _)| key.starts_with(SIGNATURE)).map(|(_, text)| text);
    let texts = texts.filter(fits);
    texts
        .take(qhost_policy::limits::SIGNATURES)
        .filter_map(|text| Signature::parse(text.clone()).ok())
        .collect()
}

fn session(place: &Place, transport: Transport, scope: Scope) -> Result<Session, RegistryError> {
    let credentials = credentials(place, transport);
    Session::new(place, transport, credentials, scope).map_err(|error| refused(place, error))
}

/// The credentials that `docker login` has kept for the registry. A password does not go over a network in clear.
fn credentials(place: &Place, transport: Transport) -> Credentials {
    let url = Url::parse(&format!("http://{}", place.registry()));
    if transport == Transport::Plain && !url.is_ok_and(|url| session::is_private(&url)) {
        return Credentials::Anonymous;
    }
    match docker_credential::get_credential(place.registry()) {
        Ok(docker_credential::DockerCredential::UsernamePassword(user, password)) => {
            Credentials::Password { user, password }
        }
        Ok(docker_credential::DockerCredential::IdentityToken(token)) => Credentials::Token(token),
        Err(error) => {
            tracing::info!(?error, "no credentials for the registry");
            Credentials::Anonymous
        }
    }
}

async fn within<T>(
    place: &Place,
    step: impl Future<Output = Result<T, SessionError>>,
) -> Result<T, RegistryError> {
    match tokio::time::timeout(limits::REGISTRY, step).await {
        Ok(done) => done.map_err(|error| refused(place, error)),
        Err(_elapsed) => Err(RegistryError::Slow { place: place.to_string() }),
    }
}

fn refused(place: &Place, error: SessionError) -> RegistryError {
    let (registry, place) = (place.registry().into(), place.to_string());
    RegistryError::Registry { registry, place, source: Box::new(error) }
}
