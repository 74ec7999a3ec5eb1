//! The agent's side of go-plugin's AutoMTLS: a certificate for one plugin alone, and trust in that plugin's certificate
//! and no other.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{Engine as _, prelude::BASE64_STANDARD_NO_PAD};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P521_SHA512,
};
use tokio::net::UnixStream;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::{
            WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature,
        },
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
    },
};

/// An agent's certificate with its key.
pub struct Certificate {
    /// The certificate, as the plugin is told of it.
    pub pem: String,
    der: CertificateDer<'static>,
    key: KeyPair,
}

impl Certificate {
    /// Makes a certificate as go-plugin does: with a key on the curve P-521, and its own authority.
    pub fn new() -> Self {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        params.distinguished_name.push(DnType::CommonName, "localhost");
        params.distinguished_name.push(DnType::OrganizationName, "HashiCorp");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
            KeyUsagePurpose::KeyAgreement,
            KeyUsagePurpose::KeyCertSign,
        ];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate_for(&PKCS_ECDSA_P521_SHA512).expect("a key");
        let made = params.self_signed(&key).expect("a certificate");
        Self { pem: made.pem(), der: made.der().clone(), key }
    }

    /// Writes the certificate and the key to files, for other programs.
    pub fn write_to(&self, folder: &Path) -> (PathBuf, PathBuf) {
        let (certificate, key) = (folder.join("agent.pem"), folder.join("agent.key"));
        fs::write(&certificate, &self.pem).expect("a file");
        fs::write(&key, self.key.serialize_pem()).expect("a file");
        (certificate, key)
    }
}

/// The certificates of both sides.
pub struct Pair {
    /// The agent's certificate.
    pub agent: Certificate,
    /// The plugin's certificate, from the sixth field of its line.
    pub plugin: String,
}

impl Pair {
    /// The plugin's certificate.
    pub fn plugin_der(&self) -> CertificateDer<'static> {
        BASE64_STANDARD_NO_PAD.decode(&self.plugin).expect("base64 without padding").into()
    }

    /// Connects to the plugin.
    pub async fn connect(&self, socket: &Path) -> io::Result<TlsStream<UnixStream>> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let only = Only {
            plugin: self.plugin_der(),
            algorithms: provider.signature_verification_algorithms,
        };
        let key = PrivateKeyDer::Pkcs8(self.agent.key.serialize_der().into());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(only))
            .with_client_auth_cert(vec![self.agent.der.clone()], key)
            .expect("a configuration");
        config.alpn_protocols = vec![b"h2".to_vec()];
        let connection = UnixStream::connect(socket).await?;
        let name = ServerName::try_from("localhost").expect("a name");
        TlsConnector::from(Arc::new(config)).connect(name, connection).await
    }
}

impl Default for Certificate {
    fn default() -> Self {
        Self::new()
    }
}

/// Trusts one certificate, like an agent for which it is the only authority.
#[derive(Debug)]
struct Only {
    plugin: CertificateDer<'static>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Only {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        assert_eq!(*end_entity, self.plugin, "the certificate that it announced");
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
