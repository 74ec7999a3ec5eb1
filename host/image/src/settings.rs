//! `[image]` of the configuration: where images may come from, and what they may be.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::limits;

/// `[image]`
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Image")]
pub struct Settings {
    /// The largest image file in bytes, as served and as unpacked.
    pub max_bytes: u64,
    /// The largest disk that a guest may see in bytes.
    pub max_disk_bytes: u64,
    /// How many times larger than the file as served an image may become when it is unpacked.
    pub max_unpack_ratio: u64,
    /// Seconds to establish a connection.
    connect_timeout_s: u64,
    /// Seconds in which next to nothing arrives that end an attempt.
    idle_timeout_s: u64,
    /// Seconds for a fetch with all its attempts.
    total_timeout_s: u64,
    /// Attempts in a row without progress at what is worth retrying: 1 to 100.
    pub attempts: u32,
    /// Connections to one source, where the network is what holds a fetch up: 1 to 16.
    pub connections: usize,
    /// A file of CA certificates in PEM that are trusted besides the system's.
    pub ca: Option<PathBuf>,
    /// A file of credentials by host, readable by its owner only.
    pub credentials: Option<PathBuf>,
    /// Where images may come from.
    pub network: NetworkSettings,
}

/// A setting that is out of its range.
#[derive(Debug)]
pub struct SettingsProblem {
    /// The key below `image`.
    pub key: String,
    /// What was found there, and what was expected.
    pub message: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_bytes: limits::IMAGE_BYTES,
            max_disk_bytes: qhost_model::limits::DISK_BYTES,
            max_unpack_ratio: limits::UNPACK_RATIO,
            connect_timeout_s: limits::FETCH_CONNECT.as_secs(),
            idle_timeout_s: limits::FETCH_IDLE.as_secs(),
            total_timeout_s: limits::FETCH_TOTAL.as_secs(),
            attempts: limits::FETCH_ATTEMPTS,
            connections: limits::FETCH_CONNECTIONS,
            ca: None,
            credentials: None,
            network: NetworkSettings::default(),
        }
    }
}

impl Settings {
    /// The longest wait for a connection.
    pub fn connect_timeout(&self) -> Duration {
        Duration::from_secs(self.connect_timeout_s)
    }

    /// The longest time in which next to nothing arrives.
    pub fn idle_timeout(&self) -> Duration {
        Duration::from_secs(self.idle_timeout_s)
    }

    /// The longest that a whole fetch may take.
    pub fn total_timeout(&self) -> Duration {
        Duration::from_secs(self.total_timeout_s)
    }

    /// The files that the settings name, with their keys.
    pub fn files(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let files = [("image.ca", &self.ca), ("image.credentials", &self.credentials)];
        files.into_iter().filter_map(|(key, path)| Some((key, path.as_deref()?)))
    }

    /// The settings that are out of their range.
    pub fn problems(&self) -> Vec<SettingsProblem> {
        let mut problems = vec![];
        let mut range = |place: &str, found: u64, least: u64, most: u64| {
            if !(least..=most).contains(&found) {
                let message = format!("{found}; expected {least} to {most}");
                problems.push(SettingsProblem { key: place.to_owned(), message });
            }
        };
        range("attempts", self.attempts.into(), 1, 100);
        range("connections", self.connections as u64, 1, limits::FETCH_CONNECTIONS_MOST);
        range("max_unpack_ratio", self.max_unpack_ratio, 1, 1_000_000);
        for (place, seconds) in [
            ("connect_timeout_s", self.connect_timeout_s),
            ("idle_timeout_s", self.idle_timeout_s),
            ("total_timeout_s", self.total_timeout_s),
        ] {
            range(place, seconds, 1, limits::FETCH_TIMEOUT_MOST.as_secs());
        }
        // The HTTP library leaves out a proxy of another kind, and images would be fetched without any proxy.
        if let Some(proxy) = self.network.proxy.as_ref()
            && !(["http", "https"].contains(&proxy.scheme()) && proxy.has_host())
        {
            problems.push(SettingsProblem {
                key: "network.proxy".into(),
                message: format!(
                    "a proxy by {}: cannot be used; expected http://HOST:PORT or https://HOST:PORT",
                    proxy.scheme()
                ),
            });
        }
        problems
    }

    /// Makes relative paths relative to the configuration's folder.
    pub fn start_at(&mut self, folder: &Path) {
        for path in [&mut self.ca, &mut self.credentials].into_iter().flatten() {
            *path = folder.join(&*path);
        }
    }
}

/// `[image.network]`
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "ImageNetwork")]
pub struct NetworkSettings {
    /// Networks that images may come from although they are loopback, private or otherwise not public.
    #[schemars(with = "Vec<String>")]
    pub allow: Vec<IpNet>,
    /// Networks that images may not come from, though they are public; counts for more than `allow`.
    #[schemars(with = "Vec<String>")]
    pub deny: Vec<IpNet>,
    /// Hosts that images may come from, as patterns: `*.images.example`. Empty: any.
    pub hosts: Vec<String>,
    /// Hosts that images may not come from, as patterns; counts for more than `hosts`.
    pub deny_hosts: Vec<String>,
    /// URL schemes that images may come by: `https`, `http`.
    pub schemes: Vec<Scheme>,
    /// A proxy that all images come through. It resolves names, so that addresses are its to check.
    pub proxy: Option<Url>,
}

impl Default for NetworkSettings {
    fn default() -> Self {
        Self {
            allow: vec![],
            deny: vec![],
            hosts: vec![],
            deny_hosts: vec![],
            schemes: vec![Scheme::Https, Scheme::Http],
            proxy: None,
        }
    }
}

/// A URL scheme.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// HTTP over TLS.
    Https,
    /// HTTP. What arrives is held by its checksum alone.
    Http,
}

impl Scheme {
    /// The scheme's name in a URL.
    pub fn name(self) -> &'static str {
        match self {
            Self::Https => "https",
            Self::Http => "http",
        }
    }
}
