//! The place where a host's service listens.

use std::{fmt, path::PathBuf, str::FromStr};

use url::Url;

/// The place where a host's service listens: `unix:PATH`, or `https://HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostAddress {
    /// A socket of this machine.
    Unix(PathBuf),
    /// A place on the network.
    Https(Url),
}

impl FromStr for HostAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let expected = "expected unix:PATH or https://HOST:PORT";
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.is_empty() { Err(expected) } else { Ok(Self::Unix(path.into())) };
        }
        let url: Url = text.parse().map_err(|_| expected)?;
        let is_plain = url.scheme() == "https"
            && url.has_host()
            && url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none();
        if is_plain { Ok(Self::Https(url)) } else { Err(expected) }
    }
}

impl fmt::Display for HostAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Https(url) => write!(f, "{}", url.as_str().trim_end_matches('/')),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, shown) in [
            ("unix:/run/qhost/api.sock", "unix:/run/qhost/api.sock"),
            ("unix:///run/qhost/api.sock", "unix:/run/qhost/api.sock"),
            ("https://vm7.example:8443", "https://vm7.example:8443"),
            ("https://[::1]:8443/", "https://[::1]:8443"),
        ] {
            assert_eq!(text.parse::<HostAddress>().unwrap().to_string(), shown);
        }
        for text in [
            "",
            "unix:",
            "/run/qhost/api.sock",
            "http://vm7.example:8443",
            "https://",
            "https://vm7.example/v1",
            "https://me:word@vm7.example",
            "https://vm7.example?a=b",
            "ssh://vm7.example",
        ] {
            assert!(text.parse::<HostAddress>().is_err(), "{text}");
        }
    }
}
