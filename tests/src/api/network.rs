//! The certificate of a service on the network, and the certificates of clients.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use rcgen::CertifiedKey;
use tempfile::TempDir;

use qhost_model::digest::Sha256;

/// A self-signed certificate with its key.
#[derive(Debug)]
pub struct Certificate {
    folder: TempDir,
    /// The certificate's SHA-256.
    pub sha256: Sha256,
}

impl Certificate {
    /// Makes a new certificate.
    pub fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]);
        let CertifiedKey { cert, signing_key } = made.expect("a certificate");
        let folder = tempfile::Builder::new().prefix("qhost-tls-").tempdir().expect("a folder");
        let certificate = Self { folder, sha256: Sha256::of(cert.der()) };
        fs::write(certificate.file(), cert.pem()).expect("a file");
        write_private(&certificate.key(), &signing_key.serialize_pem());
        certificate
    }

    /// The certificate's file, in PEM.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("certificate.pem")
    }

    /// The key's file, in PEM.
    pub fn key(&self) -> PathBuf {
        self.folder.path().join("key.pem")
    }

    /// The part of a configuration that gives this certificate to a service.
    pub fn configuration(&self) -> String {
        let (certificate, key) = (self.file(), self.key());
        format!("[api.tls]\ncertificate = {certificate:?}\nkey = {key:?}\n")
    }
}

impl Default for Certificate {
    fn default() -> Self {
        Self::new()
    }
}

fn write_private(path: &Path, text: &str) {
    use std::{io::Write as _, os::unix::fs::OpenOptionsExt as _};
    let file = fs::File::options().write(true).create_new(true).mode(0o600).open(path);
    file.expect("a file").write_all(text.as_bytes()).expect("a key");
}

/// The address in a service's message that says where it listens.
pub(super) fn address(said: &str) -> Option<SocketAddr> {
    let at = said.lines().find_map(|line| line.split_once("serving   https://"));
    at.map(|(_, address)| address.trim().parse().expect("an address"))
}
