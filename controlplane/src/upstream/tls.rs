//! Who is trusted, and what is shown to whom.
//!
//! Invariants: rustls with aws-lc-rs is the one TLS, named here and not installed for the process. The client
//! certificate is in a configuration of its own, for the upstream's own host.

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use super::settings::{SettingsError, UpstreamSettings};

/// How TLS is spoken to one upstream, and to those that it sends us to.
#[derive(Clone)]
pub(super) struct Tls {
    pub(super) own: Arc<ClientConfig>,
    pub(super) others: Arc<ClientConfig>,
    /// To a proxy that is spoken to by TLS: HTTP/1.1 only.
    pub(super) proxy: Arc<ClientConfig>,
}

impl Tls {
    /// Reads the system's certificates.
    pub(super) fn new(settings: &UpstreamSettings) -> Result<Tls, SettingsError> {
        let mut roots = RootCertStore::empty();
        let system = rustls_native_certs::load_native_certs();
        let (_, unreadable) = roots.add_parsable_certificates(system.certs);
        if unreadable > 0 {
            tracing::debug!(unreadable, "some certificates of the system are not understood");
        }
        if let Some(pem) = &settings.ca_pem {
            let wrong = || SettingsError::new("ca_pem", "it is not a list of certificates in PEM");
            let before = roots.len();
            for certificate in CertificateDer::pem_slice_iter(pem) {
                roots.add(certificate.map_err(|_not_pem| wrong())?).map_err(|_no_authority| wrong())?;
            }
            if roots.len() == before {
                return Err(wrong());
            }
        }
        if roots.is_empty() && settings.url.starts_with("https:") {
            let why = "this machine trusts no certificates: install ca-certificates, or name a CA file";
            return Err(SettingsError::new("url", why));
        }
        let roots = Arc::new(roots);
        let builder = || {
            ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .map(|builder| builder.with_root_certificates(Arc::clone(&roots)))
                .map_err(|error| SettingsError::new("url", format!("TLS can't be spoken here: {error}")))
        };
        let with_alpn = |mut config: ClientConfig, protocols: &[&[u8]]| {
            config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
            Arc::new(config)
        };
        let both: [&[u8]; 2] = [b"h2", b"http/1.1"];
        let own = match &settings.client_certificate {
            None => builder()?.with_no_client_auth(),
            Some(shown) => {
                let wrong = |what: &str| {
                    SettingsError::new("client_certificate", format!("{what} in PEM can't be read"))
                };
                let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&shown.chain_pem)
                    .collect::<Result<_, _>>()
                    .map_err(|_not_pem| wrong("its chain"))?;
                let key = PrivateKeyDer::from_pem_slice(shown.key_pem.reveal().as_bytes())
                    .map_err(|_not_pem| wrong("its key"))?;
                builder()?
                    .with_client_auth_cert(chain, key)
                    .map_err(|_mismatch| wrong("a chain with the key that belongs to it"))?
            }
        };
        Ok(Tls {
            own: with_alpn(own, &both),
            others: with_alpn(builder()?.with_no_client_auth(), &both),
            proxy: with_alpn(builder()?.with_no_client_auth(), &[b"http/1.1"]),
        })
    }
}
