//! The key of an agent, and the TLS configurations that compare keys.

use std::sync::Arc;

use ring::rand::SystemRandom;
use ring::signature::Ed25519KeyPair;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, ring as provider, verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig,
    SignatureScheme,
};

/// The protocol. Agents of another version of it refuse one another.
const PROTOCOL: &[u8] = b"reservoir-transfer/1";

/// The beginning of each Ed25519 public key in the form of X.509; 32 bytes follow.
const ED25519: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The only kind of signature.
const SCHEMES: [SignatureScheme; 1] = [SignatureScheme::ED25519];

/// The key pair of an agent.
#[derive(Debug)]
pub struct Identity {
    key: Arc<CertifiedKey>,
    public: String,
}

impl Identity {
    /// Makes a key pair.
    ///
    /// # Errors
    /// The kernel gave no random numbers.
    pub fn make() -> Result<Self, Error> {
        let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new());
        let made = made.map_err(|_| Error::FailedToGetRandomBytes)?;
        let key = provider::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(made.as_ref()))?;
        let spki = key.public_key().ok_or(Error::FailedToGetRandomBytes)?.to_vec();
        let public = public_of(&spki).ok_or(Error::FailedToGetRandomBytes)?;
        Ok(Self { key: Arc::new(CertifiedKey::new(vec![CertificateDer::from(spki)], key)), public })
    }

    /// The public key, hexadecimal.
    pub fn public(&self) -> &str {
        &self.public
    }

    /// The configuration of the side that asks, of a peer with that public key and of no other.
    pub(super) fn client(&self, peer: &str) -> Result<ClientConfig, Error> {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Keys::of(Some(peer)))
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(self.key.clone())));
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(config)
    }

    /// The configuration of the side that serves. Each peer shows that it has the key that it names; [`public_of`] what
    /// [`peer_certificates`](rustls::CommonState::peer_certificates) returns is that key.
    pub(super) fn server(&self) -> Result<ServerConfig, Error> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Keys::of(None))
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(self.key.clone())));
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(provider::default_provider())
}

/// The public key in its published form; `None` for a key of another kind.
pub(super) fn public_of(spki: &[u8]) -> Option<String> {
    let key = spki.strip_prefix(&ED25519).filter(|key| key.len() == 32)?;
    Some(key.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The check of a peer's key, for both sides. Each peer shows that it has the key that it names.
#[derive(Debug)]
struct Keys {
    /// The only key that is accepted; `None`: each key, and the first request of the peer decides what it may read.
    pinned: Option<String>,
    schemes: WebPkiSupportedAlgorithms,
}

impl Keys {
    fn of(pinned: Option<&str>) -> Arc<Self> {
        let schemes = provider().signature_verification_algorithms;
        Arc::new(Self { pinned: pinned.map(str::to_owned), schemes })
    }

    fn check(&self, key: &CertificateDer<'_>) -> Result<(), Error> {
        let wrong = match (public_of(key), &self.pinned) {
            (Some(public), Some(pinned)) if public == *pinned => return Ok(()),
            (Some(_), None) => return Ok(()),
            (None, None) => CertificateError::BadEncoding,
            (_, Some(_)) => CertificateError::ApplicationVerificationFailure,
        };
        Err(Error::InvalidCertificate(wrong))
    }

    fn check_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = SubjectPublicKeyInfoDer::from(key.as_ref());
        verify_tls13_signature_with_raw_key(message, &key, signed, &self.schemes)
    }
}

/// No side offers TLS 1.2.
fn no_tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::InvalidCertificate(CertificateError::BadSignature))
}

impl ServerCertVerifier for Keys {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, key, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SCHEMES.to_vec()
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for Keys {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(end_entity).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, key, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SCHEMES.to_vec()
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
