//! TLS: the service's certificate, and the certificates that clients may show. A client's certificate need be signed by no authority: the
//! service knows it by its digest, which an operator has written down.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
};

use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{
        CertificateDer, PrivateKeyDer, UnixTime,
        pem::{self, PemObject as _},
    },
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use qhost_engine::config::TlsFiles;
use qhost_model::digest::Sha256;
use qhost_sys::trusted::{self, Untrusted};

/// Why the service's certificate or its key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file of the certificate or the key cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: pem::Error,
    },
    /// The certificate or the key may be replaced by other users.
    #[error("others may change {}", path.display())]
    Untrusted {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: Untrusted,
    },
    /// The key may be read by other users.
    #[error("{} may be read by others than its owner; run: chmod 600 {}", .0.display(), .0.display())]
    Readable(PathBuf),
    /// The certificate and the key do not belong together, or are of an unknown kind.
    #[error("the certificate and the key of api.tls cannot be used")]
    Unusable(#[source] Error),
}

/// The service's identity on the network.
#[derive(Debug)]
pub struct Identity {
    config: RwLock<Arc<ServerConfig>>,
}

/// A connection whose handshake is done.
pub(crate) struct Secured {
    pub(crate) stream: TlsStream<TcpStream>,
    /// The digest of the certificate that the client has shown, and has the key of.
    pub(crate) certificate: Option<Sha256>,
}

impl Identity {
    /// Reads the identity.
    ///
    /// # Errors
    /// A file cannot be read or trusted, or the certificate and the key do not belong together.
    pub fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        Ok(Self { config: RwLock::new(Arc::new(config(files)?)) })
    }

    /// Replaces the identity for connections to come.
    pub fn replace(&self, next: Self) {
        let next = next.config.into_inner().unwrap_or_else(PoisonError::into_inner);
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = next;
    }

    pub(crate) async fn accept(&self, connection: TcpStream) -> io::Result<Secured> {
        let config = Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner));
        let stream = TlsAcceptor::from(config).accept(connection).await?;
        let shown = stream.get_ref().1.peer_certificates().and_then(|shown| shown.first());
        let certificate = shown.map(|certificate| Sha256::of(certificate));
        Ok(Secured { stream, certificate })
    }
}

fn config(files: &TlsFiles) -> Result<ServerConfig, TlsError> {
    let TlsFiles { certificate, key } = files;
    for path in [certificate, key] {
        trusted::check(path)
            .map_err(|source| TlsError::Untrusted { path: path.clone(), source })?;
    }
    if fs::metadata(key).is_ok_and(|file| file.mode() & 0o044 != 0) {
        return Err(TlsError::Readable(key.clone()));
    }
    let failed = |path: &PathBuf| {
        let path = path.clone();
        move |source| TlsError::File { path, source }
    };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(failed(certificate))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(failed(key))?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let clients = Arc::new(ByDigest { provider: Arc::clone(&provider) });
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|config| config.with_client_cert_verifier(clients).with_single_cert(chain, key));
    let mut config = config.map_err(TlsError::Unusable)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Takes any certificate whose key the client has: the configuration says by the certificate's digest whose it is. A client with an unknown
/// certificate counts as one without.
#[derive(Debug)]
struct ByDigest {
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for ByDigest {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
