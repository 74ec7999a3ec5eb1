//! Policies in OCI registries, in the layout that the Wasm ecosystem uses (CNCF TAG Runtime, "Wasm OCI Artifact Layout"):
//! one layer `application/wasm`, and a config that says what it is. Signatures go along as annotations.
//!
//! A push of the same file gives the same digest, so nothing in it depends on when it was made. What is pulled is
//! checked against the digests that its manifest names, and the manifest against its own.

use std::{collections::BTreeMap, net::IpAddr, str::FromStr};

use oci_client::{
    Client, Reference,
    client::{ClientConfig, ClientProtocol, Config, ImageLayer, SizedStream},
    errors::OciDistributionError,
    manifest::{OCI_IMAGE_MEDIA_TYPE, OciDescriptor, OciImageManifest, WASM_LAYER_MEDIA_TYPE},
    secrets::RegistryAuth,
};
use reqwest::header::HeaderValue;
use serde_json::json;
use tokio_stream::StreamExt as _;

use crate::{
    digest::Sha256,
    limits,
    policy::{Facts, Signature},
};

const CONFIG: &str = "application/vnd.wasm.config.v0+json";
const LAYER: &str = "application/wasm";
/// Annotations with a signature; the key's id follows.
const SIGNATURE: &str = "qhost.minisig.";

/// A place in a registry: `REGISTRY/REPOSITORY:TAG` or `REGISTRY/REPOSITORY@sha256:DIGEST`.
#[derive(Debug, Clone)]
pub struct Place(Reference);

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = "expected REGISTRY/REPOSITORY:TAG or REGISTRY/REPOSITORY@sha256:DIGEST";
        let place: Reference = text.parse().map_err(|error| format!("{error}; {expected}"))?;
        // Else a misspelt path would be asked for from somebody's public registry.
        match text.starts_with(&format!("{}/", place.registry())) {
            true => Ok(Self(place)),
            false => Err(format!("it names no registry; {expected}")),
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.whole().fmt(f)
    }
}

impl Place {
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

/// A policy that is in a registry.
#[derive(Debug)]
pub struct Pushed {
    /// The digest of its manifest, with `sha256:`.
    pub manifest: String,
}

/// A policy that was in a registry.
pub struct Pulled {
    /// Its file.
    pub bytes: Vec<u8>,
    /// The signatures that go along.
    pub signatures: Vec<Signature>,
    /// The digest of its manifest, with `sha256:`.
    pub manifest: String,
}

/// Why a policy was not pushed or pulled.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The registry, or the way to it.
    #[error("the registry {registry} did not do it for {place}")]
    Registry {
        /// The registry.
        registry: String,
        /// What it was asked about.
        place: String,
        /// Why.
        source: Box<OciDistributionError>,
    },
    /// It took too long.
    #[error("{place}: the registry took longer than {} s", limits::REGISTRY.as_secs())]
    Slow {
        /// What it was asked about.
        place: String,
    },
    /// What is there is no policy.
    #[error("{place} is no WebAssembly policy: {reason}")]
    Unfit {
        /// What was asked for.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
    /// What came is not what its digest says.
    #[error("{place}: {what} has {found}, and should have {expected}")]
    Digest {
        /// What was asked for.
        place: String,
        /// The manifest or the file.
        what: &'static str,
        /// What came.
        found: String,
        /// What should have.
        expected: String,
    },
    /// A push to a digest.
    #[error("{place}: a push needs a tag, and gives the digest")]
    NoTag {
        /// What was asked for.
        place: String,
    },
}

/// Puts a policy into a registry, with what it says of itself and the signatures on it.
pub async fn push(
    place: &Place,
    transport: Transport,
    file: Vec<u8>,
    facts: &Facts,
    signatures: &[Signature],
) -> Result<Pushed, RegistryError> {
    if place.0.digest().is_some() || place.0.tag().is_none() {
        return Err(RegistryError::NoTag { place: place.to_string() });
    }
    let layer = ImageLayer::new(file, LAYER.into(), None);
    let config = json!({
        // A time would give the same policy another digest with every push.
        "created": "1970-01-01T00:00:00Z",
        "architecture": "wasm",
        "os": "wasip2",
        "layerDigests": [layer.sha256_digest()],
        "component": {"exports": facts.exports, "imports": facts.imports, "target": null},
    });
    let config = Config::new(config.to_string(), CONFIG.into(), None);
    let layers = [layer];
    let mut manifest =
        OciImageManifest::build(&layers, &config, Some(annotations(facts, signatures)));
    manifest.media_type = Some(OCI_IMAGE_MEDIA_TYPE.into());
    // Written here: the client's own "canonical" JSON leaves line breaks in texts as they are, which is no JSON.
    // It is plain data with text keys, which JSON can always hold.
    let body = serde_json::to_vec(&manifest).unwrap_or_default();
    let pushed = Pushed { manifest: format!("sha256:{}", Sha256::of(&body)) };
    let client = client(transport);
    let steps = async {
        client.store_auth_if_needed(place.0.resolve_registry(), &auth(place, transport)).await;
        for (blob, digest) in
            layers.into_iter().map(|layer| layer.data).chain([config.data]).zip(digests(&manifest))
        {
            if !client.blob_exists(&place.0, digest).await? {
                client.push_blob(&place.0, blob, digest).await?;
            }
        }
        let kind = HeaderValue::from_static(OCI_IMAGE_MEDIA_TYPE);
        client.push_manifest_raw(&place.0, body, kind).await
    };
    within(place, steps).await?;
    Ok(pushed)
}

/// The digests that a manifest names: its layers', its config's.
fn digests(manifest: &OciImageManifest) -> impl Iterator<Item = &str> {
    manifest.layers.iter().chain([&manifest.config]).map(|blob| blob.digest.as_str())
}

/// Gets a policy from a registry.
pub async fn pull(place: &Place, transport: Transport) -> Result<Pulled, RegistryError> {
    let client = client(transport);
    let auth = auth(place, transport);
    let (bytes, digest) =
        within(place, client.pull_manifest_raw(&place.0, &auth, &[OCI_IMAGE_MEDIA_TYPE])).await?;
    let found = format!("sha256:{}", Sha256::of(&bytes));
    let expected = place.0.digest().unwrap_or(&digest);
    if found != expected {
        return Err(differs(place, "its manifest", found, expected));
    }
    let unfit = |reason: String| RegistryError::Unfit { place: place.to_string(), reason };
    let manifest: OciImageManifest = serde_json::from_slice(&bytes)
        .map_err(|error| unfit(format!("its manifest is no OCI image manifest: {error}")))?;
    // Only from this registry, wherever else a manifest says it might be.
    let layer = &OciDescriptor { urls: None, ..layer(&manifest).map_err(unfit)?.clone() };
    let stream = within(place, client.pull_blob_stream(&place.0, layer)).await?;
    let bytes = within(place, read(stream)).await?;
    let found = format!("sha256:{}", Sha256::of(&bytes));
    match found == layer.digest {
        true => Ok(Pulled { bytes, signatures: signatures(&manifest), manifest: digest }),
        false => Err(differs(place, "its file", found, &layer.digest)),
    }
}

fn differs(place: &Place, what: &'static str, found: String, expected: &str) -> RegistryError {
    RegistryError::Digest { place: place.to_string(), what, found, expected: expected.into() }
}

/// The one layer with the component.
fn layer(manifest: &OciImageManifest) -> Result<&OciDescriptor, String> {
    let [layer] = manifest.layers.as_slice() else {
        return Err(format!("it has {} layers, and a policy has one", manifest.layers.len()));
    };
    let kind = layer.media_type.as_str();
    if ![LAYER, WASM_LAYER_MEDIA_TYPE].contains(&kind) {
        return Err(format!("its layer is {kind:?}, and a policy's is {LAYER:?}"));
    }
    let most = limits::POLICY_FILE_BYTES;
    match u64::try_from(layer.size).is_ok_and(|size| size <= most) {
        true => Ok(layer),
        false => Err(format!("its layer has {} bytes, more than {most}", layer.size)),
    }
}

/// What comes, up to a policy's size: a registry may send more than it said.
async fn read(stream: SizedStream) -> Result<Vec<u8>, OciDistributionError> {
    let mut stream = stream.stream;
    let mut bytes = vec![];
    while let Some(more) = stream.next().await {
        bytes.extend_from_slice(&more?);
        if bytes.len() as u64 > limits::POLICY_FILE_BYTES {
            let reason = format!("more than {} bytes came", limits::POLICY_FILE_BYTES);
            return Err(std::io::Error::other(reason).into());
        }
    }
    Ok(bytes)
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

fn signatures(manifest: &OciImageManifest) -> Vec<Signature> {
    let annotations = manifest.annotations.iter().flatten();
    let fits = |text: &&String| text.len() as u64 <= limits::SIGNATURE_BYTES;
    let texts = annotations.filter(|(key, _)| key.starts_with(SIGNATURE)).map(|(_, text)| text);
    let texts = texts.filter(fits);
    texts.take(limits::SIGNATURES).filter_map(|text| Signature::parse(text.clone()).ok()).collect()
}

fn client(transport: Transport) -> Client {
    Client::new(ClientConfig {
        protocol: match transport {
            Transport::Tls => ClientProtocol::Https,
            Transport::Plain => ClientProtocol::Http,
        },
        connect_timeout: Some(limits::FETCH_CONNECT),
        read_timeout: Some(limits::FETCH_IDLE),
        user_agent: concat!("qhost/", env!("CARGO_PKG_VERSION")),
        ..ClientConfig::default()
    })
}

/// Whom `docker login` has made known to the registry. No password goes over a network in clear.
fn auth(place: &Place, transport: Transport) -> RegistryAuth {
    let host = place.0.resolve_registry().rsplit_once(':').map_or("", |(host, _)| host);
    let loopback = host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
    if transport == Transport::Plain && !loopback {
        return RegistryAuth::Anonymous;
    }
    match docker_credential::get_credential(place.0.resolve_registry()) {
        Ok(docker_credential::DockerCredential::UsernamePassword(user, password)) => {
            RegistryAuth::Basic(user, password)
        }
        Ok(docker_credential::DockerCredential::IdentityToken(token)) => {
            RegistryAuth::Bearer(token)
        }
        Err(error) => {
            tracing::info!(?error, "no credentials for the registry");
            RegistryAuth::Anonymous
        }
    }
}

async fn within<T>(
    place: &Place,
    step: impl Future<Output = Result<T, OciDistributionError>>,
) -> Result<T, RegistryError> {
    match tokio::time::timeout(limits::REGISTRY, step).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(source)) => Err(RegistryError::Registry {
            registry: place.0.resolve_registry().into(),
            place: place.to_string(),
            source: Box::new(source),
        }),
        Err(_elapsed) => Err(RegistryError::Slow { place: place.to_string() }),
    }
}
