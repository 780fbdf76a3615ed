//! TLS as the adapters here speak it, whatever goes over it: HTTP, Redis' protocol, ZooKeeper's.
//!
//! A [`TlsContext`] is our side of the connections to one server or cluster, by the files that the host's file names. At each
//! handshake the files' contents are looked at: another content is used from then on, and one that cannot be used (a
//! certificate whose key is not written yet, a bundle that is cut) is told once and leaves the former in use. So a
//! renewal, and a change of CA, need neither a restart nor a signal.
//!
//! A session is never resumed: a resumed one is verified by nobody, so that an expired server would go on serving us.
//! No switch turns verification off.
//!
//! What the server showed last is kept: for words ([`words`]), for the metric of each certificate's end, and for
//! `unwait check --ask`. A certificate that is not believed is a person's matter from the first try; it is tried again all
//! the same, as a renewal may end it at any time.

mod certificate;
mod contexts;
mod files;
mod words;

#[cfg(test)]
mod tests;

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption, WebPkiServerVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub use certificate::Certificate;
pub use contexts::Contexts;

use crate::model::Tls;
use files::{Believed, Contents, Fingerprint, Material, PROVIDER, by_the_system};

/// Our side of the connections to one server or cluster.
pub struct TlsContext {
    /// Whose connections they are, for people: `registry consul`.
    of: String,
    files: Tls,
    kept: Mutex<Kept>,
    seen: Mutex<HandshakeSeen>,
}

/// What was made of the files last.
#[derive(Default)]
struct Kept {
    used: Option<(Fingerprint, Arc<Material>)>,
    /// Why what stands in the files now is not used.
    refused: Option<String>,
}

/// What the server showed at the last handshake.
#[derive(Clone, Debug, Default)]
pub struct HandshakeSeen {
    pub theirs: Option<Certificate>,
    /// `TLS 1.3` or `TLS 1.2`.
    pub version: Option<&'static str>,
    /// The server has asked for a client certificate.
    pub asks_for_ours: bool,
}

/// Whose certificate it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Whose {
    /// We show it to the server.
    Own,
    /// The server shows it.
    Theirs,
    /// We believe what it has issued.
    Authority,
}

/// Why there is no connection, or not any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFailure {
    pub words: String,
    /// It will not pass by itself.
    pub needs_a_person: bool,
}

impl fmt::Debug for TlsContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsContext").field("of", &self.of).field("files", &self.files).finish_non_exhaustive()
    }
}

/// Words of ours, on their way through the library's error.
#[derive(Debug)]
struct Words(String);

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Words {}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl TlsContext {
    /// `of` says whose connections they are. An error where a file cannot be used, with its name. The system's store is read
    /// at the first handshake that needs it: a host that has none speaks plain text as any other.
    pub fn new(of: impl Into<String>, files: Tls) -> Result<Arc<Self>, String> {
        let context = Self { of: of.into(), files, kept: Mutex::default(), seen: Mutex::default() };
        context.material()?;
        Ok(Arc::new(context))
    }

    /// By the system's store, and without a certificate of our own.
    pub fn plain(of: impl Into<String>) -> Arc<Self> {
        let (kept, seen) = (Mutex::default(), Mutex::default());
        Arc::new(Self { of: of.into(), files: Tls::default(), kept, seen })
    }

    pub fn of(&self) -> &str {
        &self.of
    }

    /// The name that certificates must be for, where it is not the address' own.
    pub fn server_name(&self) -> Option<&str> {
        self.files.server_name.as_deref()
    }

    /// Looks at the files now, and not at the next handshake. An error says why what stands in them is not used.
    pub fn look(&self) -> Result<(), String> {
        self.material()?;
        locked(&self.kept).refused.clone().map_or(Ok(()), Err)
    }

    pub fn seen(&self) -> HandshakeSeen {
        locked(&self.seen).clone()
    }

    /// Each certificate that is in use here, as it was seen last.
    pub fn certificates(&self) -> Vec<(Whose, Certificate)> {
        let mut all = Vec::new();
        if let Some((_, material)) = &locked(&self.kept).used {
            all.extend(material.own.iter().cloned().map(|own| (Whose::Own, own)));
            all.extend(material.authorities.iter().cloned().map(|authority| (Whose::Authority, authority)));
        }
        all.extend(self.seen().theirs.map(|theirs| (Whose::Theirs, theirs)));
        all
    }

    /// For a client of HTTP; also for all its later connections.
    pub fn for_http(self: &Arc<Self>) -> ClientConfig {
        let mut config = self.config();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config
    }

    fn config(self: &Arc<Self>) -> ClientConfig {
        let builder = ClientConfig::builder_with_provider(Arc::clone(&PROVIDER));
        let builder =
            builder.with_safe_default_protocol_versions().expect("the provider has ciphers for TLS 1.2 and 1.3");
        let verifier = Arc::clone(self) as Arc<dyn ServerCertVerifier>;
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        let mut config = builder.with_client_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesClientCert>);
        config.resumption = Resumption::disabled();
        config
    }

    /// A handshake over `stream`, with the server at `host`: a name or an IP address, the latter with brackets or without.
    pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
        self: &Arc<Self>,
        stream: S,
        host: &str,
    ) -> Result<TlsStream<S>, TlsFailure> {
        let name = self.server_name().unwrap_or_else(|| host.trim_start_matches('[').trim_end_matches(']')).to_owned();
        let name = ServerName::try_from(name).map_err(|_| TlsFailure {
            words: format!(
                "`{host}` is no name that a certificate can be for: name one by `tls: {{ server_name: NAME }}`"
            ),
            needs_a_person: true,
        })?;
        let connected = TlsConnector::from(Arc::new(self.config())).connect(name, stream).await;
        connected.map_err(|error| {
            self.failed(&error).unwrap_or_else(|| {
                let words = match error.kind() {
                    io::ErrorKind::UnexpectedEof => {
                        "the server closed the connection in the TLS handshake, as a port without TLS does".into()
                    }
                    _ => format!("during the TLS handshake: {error}"),
                };
                TlsFailure { words, needs_a_person: false }
            })
        })
    }

    /// What a failed question says of TLS; `None` where it was something else. In TLS 1.3 a server refuses a client after
    /// the client believes itself connected: so this is asked of each error of reading, too.
    pub fn failed(&self, error: &(dyn StdError + 'static)) -> Option<TlsFailure> {
        let error = of_tls(error)?;
        let material = locked(&self.kept).used.as_ref().map(|(_, material)| Arc::clone(material));
        let ours = words::Ours {
            own: material.as_ref().and_then(|material| material.own.as_ref()),
            cert_file: self.files.cert_file.as_ref(),
            is_asked: self.seen().asks_for_ours,
        };
        let known = words::of_error(error, &ours);
        let needs_a_person = known.is_some();
        let mut words = format!("TLS: {}", known.unwrap_or_else(|| error.to_string()));
        if let Some(why) = &locked(&self.kept).refused {
            words.push_str(&format!(" (the former files are in use: {why})"));
        }
        Some(TlsFailure { words, needs_a_person })
    }

    /// What the files hold, or held when they could be used last.
    fn material(&self) -> Result<Arc<Material>, String> {
        let read = Contents::read(&self.files);
        let mut kept = locked(&self.kept);
        let made = match &read {
            Ok(contents) => {
                let fingerprint = contents.fingerprint();
                if let Some((_, material)) = kept.used.as_ref().filter(|(used, _)| *used == fingerprint) {
                    let material = Arc::clone(material);
                    kept.refused = None;
                    return Ok(material);
                }
                Material::of(&self.files, contents).map(|material| (fingerprint, Arc::new(material)))
            }
            Err(why) => Err(why.clone()),
        };
        match (made, &kept.used) {
            (Ok((fingerprint, material)), former) => {
                if former.is_some() {
                    tracing::info!("{}: the TLS files have changed; the new ones are in use", self.of);
                }
                *kept = Kept { used: Some((fingerprint, Arc::clone(&material))), refused: None };
                Ok(material)
            }
            (Err(why), Some((_, former))) => {
                let former = Arc::clone(former);
                if kept.refused.as_ref() != Some(&why) {
                    tracing::warn!(
                        "{}: the new TLS files cannot be used: {why}; the former certificate and key stay in use",
                        self.of,
                    );
                    kept.refused = Some(why);
                }
                Ok(former)
            }
            (Err(why), None) => Err(why),
        }
    }

    fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let material = self.material().map_err(Error::General)?;
        let by =
            |verifier: &WebPkiServerVerifier| verifier.verify_server_cert(end_entity, intermediates, name, ocsp, now);
        let answer = match &material.believed {
            Believed::Named(verifier) => by(verifier),
            Believed::System => {
                let verifier = by_the_system(None).map_err(Error::General)?;
                match by(&verifier) {
                    Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
                        by(&*by_the_system(Some(&verifier)).map_err(Error::General)?)
                    }
                    answer => answer,
                }
            }
        };
        let leaf = Certificate::read(end_entity);
        let answer = answer.map_err(|error| match error {
            Error::InvalidCertificate(why) => {
                let others: Vec<Certificate> = intermediates.iter().filter_map(|der| Certificate::read(der)).collect();
                let ca_file = self.files.ca_file.as_ref();
                refused(words::of_certificate(
                    &why,
                    &words::Shown { leaf: leaf.as_ref(), others: &others, name, ca_file },
                ))
            }
            other => other,
        });
        locked(&self.seen).theirs = leaf;
        answer
    }

    /// The server has signed the handshake with the key of its certificate, or not.
    fn signed(
        &self,
        version: &'static str,
        certificate: &CertificateDer<'_>,
        answer: Result<HandshakeSignatureValid, Error>,
    ) -> Result<HandshakeSignatureValid, Error> {
        locked(&self.seen).version = Some(version);
        answer.map_err(|error| match error {
            Error::InvalidCertificate(why) => {
                let leaf = Certificate::read(certificate);
                let name = &ServerName::try_from("unknown").expect("it is a name");
                let ca_file = self.files.ca_file.as_ref();
                refused(words::of_certificate(&why, &words::Shown { leaf: leaf.as_ref(), others: &[], name, ca_file }))
            }
            other => other,
        })
    }
}

fn refused(words: String) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(Words(words)))))
}

/// The library's own error, wherever it stands among the causes.
fn of_tls<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref::<Error>() {
            return Some(found);
        }
        // What an I/O error carries is not among its causes, but the causes of that are.
        let carried = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        cause = match carried {
            Some(carried) => Some(carried as &(dyn StdError + 'static)),
            None => error.source(),
        };
    }
    None
}

impl ServerCertVerifier for TlsContext {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &PROVIDER.signature_verification_algorithms;
        self.signed("TLS 1.2", cert, rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &PROVIDER.signature_verification_algorithms;
        self.signed("TLS 1.3", cert, rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        PROVIDER.signature_verification_algorithms.supported_schemes()
    }
}

impl ResolvesClientCert for TlsContext {
    fn resolve(&self, _authorities: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        locked(&self.seen).asks_for_ours = true;
        self.material().ok()?.identity.clone()
    }

    fn has_certs(&self) -> bool {
        self.files.cert_file.is_some()
    }
}
