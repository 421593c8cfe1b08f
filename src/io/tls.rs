//! TLS for every transport: rustls with aws-lc-rs, chosen here once.

use crate::error::{Error, Result};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore,
    SignatureScheme,
};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// How far the server's certificate is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verify {
    /// The chain and the host name.
    #[default]
    Full,
    /// The chain only.
    Chain,
    /// Nothing: anybody in between can read and change the traffic.
    Nothing,
}

/// What a user says about TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsOptions {
    /// What stands before the names of these options where the user writes them: for errors.
    pub prefix: &'static str,
    /// How far the server's certificate is checked.
    pub verify: Verify,
    /// A PEM file of trusted authorities instead of the system's.
    pub ca_certs: Option<PathBuf>,
    /// A folder of such files.
    pub ca_path: Option<PathBuf>,
    /// The text of such a file.
    pub ca_data: Option<String>,
    /// A PEM file with our own certificate (and its chain), for servers that ask for one.
    pub certfile: Option<PathBuf>,
    /// A PEM file with the key of `certfile`.
    pub keyfile: Option<PathBuf>,
    /// TLS 1.3 or nothing. Older than 1.2 is never spoken.
    pub only_1_3: bool,
    /// The cipher suites of TLS 1.2 that may be used, by OpenSSL's names; `None` for all.
    pub ciphers: Option<Vec<String>>,
    /// The name that the server's certificate must have; `None` for the host that was connected to.
    pub server_name: Option<String>,
}

/// OpenSSL's names of the suites of TLS 1.2.
const CIPHERS: [(&str, CipherSuite); 6] = [
    ("ECDHE-ECDSA-AES256-GCM-SHA384", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ("ECDHE-ECDSA-AES128-GCM-SHA256", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-ECDSA-CHACHA20-POLY1305", CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("ECDHE-RSA-AES256-GCM-SHA384", CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ("ECDHE-RSA-AES128-GCM-SHA256", CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-RSA-CHACHA20-POLY1305", CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
];

impl TlsOptions {
    /// Checks what is wrong whatever the server is.
    ///
    /// # Errors
    /// `Invalid` naming a cipher suite that there is not, and those that there are.
    pub fn check(&self) -> Result<()> {
        self.provider().map(drop)
    }

    /// The provider with what may be spoken.
    fn provider(&self) -> Result<Arc<CryptoProvider>> {
        let Some(names) = &self.ciphers else { return Ok(provider()) };
        let mut wanted = Vec::new();
        for name in names {
            match CIPHERS.iter().find(|(known, _)| known == name) {
                Some((_, suite)) => wanted.push(*suite),
                None => {
                    let known: Vec<_> = CIPHERS.iter().map(|(name, _)| *name).collect();
                    return Err(Error::invalid(format!(
                        "{}ciphers: there is no {name:?} here; there are {}, and those of TLS 1.3, \
                         which need not be named",
                        self.prefix,
                        known.join(":")
                    )));
                }
            }
        }
        let mut provider = (*provider()).clone();
        provider.cipher_suites.retain(|suite| {
            suite.version() == &rustls::version::TLS13 || wanted.contains(&suite.suite())
        });
        Ok(Arc::new(provider))
    }

    fn unusable(&self, option: &str, path: &Path) -> Error {
        Error::invalid(format!("{}{option}: '{}' cannot be used", self.prefix, path.display()))
    }

    fn certificates(&self, path: &Path, option: &str) -> Result<Vec<CertificateDer<'static>>> {
        let found: Vec<_> = CertificateDer::pem_file_iter(path)
            .and_then(|certificates| certificates.collect())
            .map_err(|error| self.unusable(option, path).with_source(error.to_string()))?;
        match found.is_empty() {
            true => Err(self.unusable(option, path).with_source("there is no certificate in it")),
            false => Ok(found),
        }
    }
}

/// Ready to open sessions.
#[derive(Debug, Clone)]
pub struct Tls {
    config: Arc<ClientConfig>,
    server_name: Option<String>,
}

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER
        .get_or_init(|| {
            // Another rustls user of this process may have installed one: theirs stays.
            let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
            Arc::new(rustls::crypto::aws_lc_rs::default_provider())
        })
        .clone()
}

impl Tls {
    /// Reads the files that `options` names.
    ///
    /// # Errors
    /// `Invalid` naming the file that cannot be read or used.
    pub fn new(options: &TlsOptions) -> Result<Self> {
        let provider = options.provider()?;
        let versions = match options.only_1_3 {
            true => &[&rustls::version::TLS13][..],
            false => rustls::DEFAULT_VERSIONS,
        };
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)
            .map_err(|error| Error::internal("TLS cannot be set up").with_source(error))?;
        let builder = match options.verify {
            Verify::Full => builder.with_root_certificates(roots(options)?),
            Verify::Chain | Verify::Nothing => {
                let roots = match options.verify {
                    Verify::Chain => Some(roots(options)?),
                    _ => None,
                };
                builder
                    .dangerous()
                    .with_custom_certificate_verifier(Arc::new(Lenient { roots, provider }))
            }
        };
        let config = match (&options.certfile, &options.keyfile) {
            (None, None) => builder.with_no_client_auth(),
            (Some(certfile), keyfile) => {
                // Python's ssl takes both from one file when there is no key file.
                let keyfile = keyfile.as_ref().unwrap_or(certfile);
                let chain = options.certificates(certfile, "certfile")?;
                let key = PrivateKeyDer::from_pem_file(keyfile).map_err(|error| {
                    options.unusable("keyfile", keyfile).with_source(error.to_string())
                })?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|error| options.unusable("certfile", certfile).with_source(error))?
            }
            (None, Some(_)) => {
                let prefix = options.prefix;
                let text = format!("{prefix}keyfile is given without {prefix}certfile");
                return Err(Error::invalid(text));
            }
        };
        Ok(Self { config: Arc::new(config), server_name: options.server_name.clone() })
    }

    /// A session with `host`, or with the name that the options say, whose handshake has not begun.
    ///
    /// # Errors
    /// `Invalid` when `host` cannot be the name of a TLS server.
    pub fn session(&self, host: &str) -> Result<ClientConnection> {
        let host = self.server_name.as_deref().unwrap_or(host);
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| Error::invalid(format!("'{host}' cannot be the name of a TLS server")))?;
        ClientConnection::new(self.config.clone(), name)
            .map_err(|error| Error::internal("a TLS session cannot be made").with_source(error))
    }
}

fn roots(options: &TlsOptions) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = &options.ca_certs {
        for certificate in options.certificates(path, "ca_certs")? {
            roots
                .add(certificate)
                .map_err(|error| options.unusable("ca_certs", path).with_source(error))?;
        }
    }
    if let Some(folder) = &options.ca_path {
        let files = std::fs::read_dir(folder)
            .map_err(|error| options.unusable("ca_path", folder).with_source(error))?;
        for file in files.flatten() {
            // Other files may be there, too.
            if let Ok(found) = options.certificates(&file.path(), "ca_path") {
                roots.add_parsable_certificates(found);
            }
        }
    }
    if let Some(text) = &options.ca_data {
        let prefix = options.prefix;
        let bad = || Error::invalid(format!("{prefix}ca_data: must be certificates in PEM"));
        let found = CertificateDer::pem_slice_iter(text.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| bad().with_source(error.to_string()))?;
        for certificate in found {
            roots.add(certificate).map_err(|error| bad().with_source(error))?;
        }
    }
    if options.ca_certs.is_none() && options.ca_path.is_none() && options.ca_data.is_none() {
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
    }
    if roots.is_empty() {
        let prefix = options.prefix;
        return Err(Error::invalid(format!(
            "no trusted certificate authorities were found: install the system's or name a file \
             with {prefix}ca_certs, a folder with {prefix}ca_path, or give their text with \
             {prefix}ca_data",
        )));
    }
    Ok(roots)
}

/// Checks the chain without the host name, or nothing; signatures are always checked.
#[derive(Debug)]
struct Lenient {
    roots: Option<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(roots) = &self.roots {
            verify_server_cert_signed_by_trust_anchor(
                &ParsedCertificate::try_from(end_entity)?,
                roots,
                intermediates,
                now,
                self.provider.signature_verification_algorithms.all,
            )?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_file_is_named() {
        let options = TlsOptions {
            prefix: "ssl_",
            ca_certs: Some("/does/not/exist.pem".into()),
            ..TlsOptions::default()
        };
        let text = Tls::new(&options).unwrap_err().to_string();
        assert!(text.contains("ssl_ca_certs") && text.contains("/does/not/exist.pem"), "{text}");
    }

    #[test]
    fn ciphers_go_by_the_names_of_openssl() {
        let only = |names: &[&str]| TlsOptions {
            ciphers: Some(names.iter().map(|name| (*name).to_owned()).collect()),
            ..TlsOptions::default()
        };
        let suites = only(&["ECDHE-RSA-AES128-GCM-SHA256"]).provider().unwrap();
        let older =
            |suite: &&rustls::SupportedCipherSuite| suite.version() == &rustls::version::TLS12;
        assert_eq!(suites.cipher_suites.iter().filter(older).count(), 1);
        let error = only(&["AES128-SHA"]).provider().unwrap_err().to_string();
        assert!(error.contains("AES128-SHA") && error.contains("ECDHE-RSA"), "{error}");
    }

    #[test]
    fn a_key_needs_a_certificate() {
        let options = TlsOptions {
            verify: Verify::Nothing,
            keyfile: Some("key.pem".into()),
            ..TlsOptions::default()
        };
        assert!(Tls::new(&options).unwrap_err().to_string().contains("without certfile"));
    }
}
