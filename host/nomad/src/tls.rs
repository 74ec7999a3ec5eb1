//! TLS on the plugin's socket, for an agent that asks for it (go-plugin's AutoMTLS). Each side has a certificate that was made for this
//! pair of processes, and trusts only the other's. Source: github.com/hashicorp/go-plugin, mtls.go and server.go.

use std::{io, sync::Arc};

use base64::{Engine as _, prelude::BASE64_STANDARD_NO_PAD};
use futures_util::{Stream, StreamExt as _};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject as _},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use tokio::{net::UnixStream, time};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{NomadError, limits};

/// The name in both sides' certificates.
const NAME: &str = "localhost";

/// The plugin's side of TLS.
pub(crate) struct Tls {
    acceptor: TlsAcceptor,
    /// The plugin's certificate, in the form in which the agent is told.
    pub(crate) certificate: String,
}

impl Tls {
    /// Makes a certificate for the plugin. `pem` is the certificate of its agent.
    pub(crate) fn with_agent(pem: &str) -> Result<Self, NomadError> {
        let agent = CertificateDer::from_pem_slice(pem.as_bytes());
        let agent = agent.map_err(|error| NomadError::AgentCertificate(error.to_string()))?;
        let (certificate, key) = own()?;
        let encoded = BASE64_STANDARD_NO_PAD.encode(&certificate);
        let provider = Arc::new(aws_lc_rs::default_provider());
        let only = Arc::new(Only { agent, provider: Arc::clone(&provider) });
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|config| {
                config.with_client_cert_verifier(only).with_single_cert(vec![certificate], key)
            });
        let mut config = config.map_err(|error| NomadError::Certificate(error.to_string()))?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self { acceptor: Arc::new(config).into(), certificate: encoded })
    }

    /// Gives the agent's connections, and closes all others.
    pub(crate) fn connections(
        self,
        connections: impl Stream<Item = io::Result<UnixStream>> + Send,
    ) -> impl Stream<Item = io::Result<TlsStream<UnixStream>>> + Send {
        let Self { acceptor, .. } = self;
        let connected = connections.map(move |connection| {
            let acceptor = acceptor.clone();
            async move {
                let handshake = acceptor.accept(connection?);
                let late = |_| io::Error::from(io::ErrorKind::TimedOut);
                time::timeout(limits::HANDSHAKE, handshake).await.map_err(late).flatten()
            }
        });
        connected.buffer_unordered(limits::HANDSHAKES).filter(|connected| {
            if let Err(error) = connected {
                tracing::warn!(%error, "a connection to the plugin's socket is refused");
            }
            std::future::ready(connected.is_ok())
        })
    }
}

/// Makes a certificate for this process, and its key.
fn own() -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), NomadError> {
    let failed = |error: rcgen::Error| NomadError::Certificate(error.to_string());
    let mut params = CertificateParams::new(vec![NAME.to_owned()]).map_err(failed)?;
    params.distinguished_name.push(DnType::CommonName, NAME);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate().map_err(failed)?;
    let certificate = params.self_signed(&key).map_err(failed)?;
    Ok((certificate.der().clone(), PrivateKeyDer::Pkcs8(key.serialize_der().into())))
}

/// Trusts the agent's certificate and no other. That certificate is self-signed and marked as an authority's, so that the usual checks of
/// chains would refuse it.
#[derive(Debug)]
struct Only {
    agent: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for Only {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if *end_entity == self.agent {
            Ok(ClientCertVerified::assertion())
        } else {
            Err(Error::General("it is not the agent's certificate".into()))
        }
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
