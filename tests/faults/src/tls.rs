//! A certificate for loopback, made anew for each registry, and an authority of its own that signed it.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    server::WebPkiClientVerifier,
};

/// A server's, and who signed it.
pub struct Certificate {
    ca_pem: String,
    client_pem: [String; 2],
    pub(crate) config: Arc<ServerConfig>,
}

impl Certificate {
    pub(crate) fn new() -> Certificate {
        Certificate::speaking(&[])
    }

    /// For a server of the test's own that offers these protocols by ALPN.
    pub fn speaking(protocols: &[&str]) -> Certificate {
        let mut authority = CertificateParams::new(Vec::new()).expect("no names are legal");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(authority, key).expect("a certificate");
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(names).expect("legal names");
        let own = params.signed_by(&key, &issuer).expect("a certificate");
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let client_key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["client".to_owned()]).expect("a legal name");
        let client = params.signed_by(&client_key, &issuer).expect("a certificate");
        let mut roots = RootCertStore::empty();
        roots.add(issuer.der().clone()).expect("an authority");
        let provider = Arc::new(aws_lc_rs::default_provider());
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .allow_unauthenticated()
            .build()
            .expect("there is an authority");
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has them")
            .with_client_cert_verifier(clients)
            .with_single_cert(vec![own.der().clone()], key)
            .expect("they belong together");
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Certificate {
            ca_pem: issuer.pem(),
            client_pem: [client.pem(), client_key.serialize_pem()],
            config: Arc::new(config),
        }
    }

    /// Who signed it, in PEM.
    pub fn ca_pem(&self) -> Vec<u8> {
        self.ca_pem.clone().into_bytes()
    }

    /// What a client may show, signed by the same: certificate and key, in PEM.
    pub fn client_pem(&self) -> [String; 2] {
        self.client_pem.clone()
    }

    /// What a server needs.
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }
}
