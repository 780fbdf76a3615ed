//! The files of one connection, and what TLS needs of them: whom we believe, and who we are.

use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use sha2::{Digest, Sha256};

use super::certificate::Certificate;
use crate::model::Tls;
use crate::trust;

/// Ours, whatever else is linked.
pub(super) static PROVIDER: LazyLock<Arc<CryptoProvider>> =
    LazyLock::new(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));

/// What stood in the files at one moment.
#[derive(Default)]
pub(super) struct Contents {
    authorities: Option<Vec<u8>>,
    certificate: Option<Vec<u8>>,
    key: Option<String>,
}

/// Tells one content from another.
pub(super) type Fingerprint = [u8; 32];

impl Contents {
    /// An error names the file.
    pub fn read(files: &Tls) -> Result<Self, String> {
        fn of<T>(file: Option<&Path>, read: fn(&Path) -> std::io::Result<T>) -> Result<Option<T>, String> {
            file.map(|file| read(file).map_err(|error| format!("{}: {error}", file.display()))).transpose()
        }
        Ok(Self {
            authorities: of(files.ca_file.as_deref(), trust::read_believed)?,
            certificate: of(files.cert_file.as_deref(), trust::read_believed)?,
            key: of(files.key_file.as_deref(), trust::read_secret)?,
        })
    }

    pub fn fingerprint(&self) -> Fingerprint {
        let mut hash = Sha256::new();
        let parts = [self.authorities.as_deref(), self.certificate.as_deref(), self.key.as_deref().map(str::as_bytes)];
        for part in parts.into_iter().flatten() {
            hash.update(part.len().to_be_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    }
}

/// What was made of the files.
#[derive(Debug)]
pub(super) struct Material {
    pub believed: Believed,
    /// Those of the file; none of the system's.
    pub authorities: Vec<Certificate>,
    pub identity: Option<Arc<CertifiedKey>>,
    pub own: Option<Certificate>,
}

#[derive(Clone, Debug)]
pub(super) enum Believed {
    /// Those of the file, and nobody else.
    Named(Arc<WebPkiServerVerifier>),
    /// Those of the system's store.
    System,
}

impl Material {
    pub fn of(files: &Tls, contents: &Contents) -> Result<Self, String> {
        let mut material = Self { believed: Believed::System, authorities: Vec::new(), identity: None, own: None };
        if let (Some(file), Some(text)) = (&files.ca_file, &contents.authorities) {
            let wrong = |why: String| format!("{}: {why}", file.display());
            let authorities = certificates(text).map_err(wrong)?;
            material.authorities = authorities.iter().filter_map(|der| Certificate::read(der)).collect();
            material.believed = Believed::Named(verifier(authorities).map_err(wrong)?);
        }
        if let (Some(cert_file), Some(text)) = (&files.cert_file, &contents.certificate) {
            let chain = certificates(text).map_err(|why| format!("{}: {why}", cert_file.display()))?;
            material.own = chain.first().and_then(|der| Certificate::read(der));
            let key_file = files.key_file.as_deref().unwrap_or(Path::new(""));
            let key = key(contents.key.as_deref().unwrap_or_default());
            let key = key.map_err(|why| format!("{}: {why}", key_file.display()))?;
            let made = CertifiedKey::from_der(chain, key, &PROVIDER);
            material.identity = Some(Arc::new(made.map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => {
                    format!("{}: is not the key of the certificate in {}", key_file.display(), cert_file.display())
                }
                other => format!("{} with {}: {other}", cert_file.display(), key_file.display()),
            })?));
        }
        Ok(material)
    }
}

/// All certificates of a PEM text, of which there is at least one.
fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    match read {
        Ok(certificates) if certificates.is_empty() => {
            Err("holds no PEM certificate (-----BEGIN CERTIFICATE-----)".into())
        }
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(format!("holds a PEM certificate that cannot be read: {}", pem_error(&error))),
    }
}

fn key(text: &str) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|error| match error {
        _ if text.contains("ENCRYPTED") => {
            "the key is encrypted, and an agent cannot type its passphrase: `openssl pkey -in KEY -out PLAIN`".into()
        }
        pem::Error::NoItemsFound => "holds no PEM private key (PKCS#8, PKCS#1 or SEC1)".into(),
        error => format!("holds a private key that cannot be read: {}", pem_error(&error)),
    })
}

/// Without any of the text itself.
fn pem_error(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "its END line is missing",
        pem::Error::IllegalSectionStart { .. } => "a BEGIN line is broken",
        pem::Error::Base64Decode(_) => "the text between its lines is not base64",
        _ => "it is no PEM",
    }
}

fn verifier(authorities: Vec<CertificateDer<'static>>) -> Result<Arc<WebPkiServerVerifier>, String> {
    let mut roots = RootCertStore::empty();
    for (at, authority) in authorities.into_iter().enumerate() {
        roots.add(authority).map_err(|error| format!("its certificate number {} cannot be used: {error}", at + 1))?;
    }
    built(roots)
}

fn built(roots: RootCertStore) -> Result<Arc<WebPkiServerVerifier>, String> {
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&PROVIDER))
        .build()
        .map_err(|error| error.to_string())
}

/// The system's store: some 140 certificates, read within 54 ms, so once for all connections.
struct System {
    verifier: Arc<WebPkiServerVerifier>,
    read_at: tokio::time::Instant,
}

static SYSTEM: Mutex<Option<System>> = Mutex::new(None);

/// A server whose CA the store lacked may have one that was added since.
const READ_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// By the system's store. `former` did not know the issuer: another one where the store may have changed since.
pub(super) fn by_the_system(former: Option<&Arc<WebPkiServerVerifier>>) -> Result<Arc<WebPkiServerVerifier>, String> {
    let mut known = SYSTEM.lock().unwrap_or_else(PoisonError::into_inner);
    match &*known {
        Some(system) if former.is_none() || system.read_at.elapsed() < READ_AGAIN_AFTER => {
            return Ok(Arc::clone(&system.verifier));
        }
        _ => {}
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err("this host has no CA certificates: install them (ca-certificates), or name a file that has the \
                    server's CA: `tls: { ca_file: PATH }`"
            .into());
    }
    let verifier = built(roots)?;
    *known = Some(System { verifier: Arc::clone(&verifier), read_at: tokio::time::Instant::now() });
    Ok(verifier)
}
