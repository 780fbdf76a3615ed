//! What a person reads where TLS fails: one line, that names the certificate, what is wrong with it, and what to do. The
//! table from the library's errors to words; pure.
//!
//! Measured with rustls 0.23.46 and rustls-webpki 0.103.17. They refuse some certificates that OpenSSL takes: without a
//! subjectAltName, self-signed as a CA, of version 1, signed by SHA-1, with a short key.

use std::path::PathBuf;

use jiff::Timestamp;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, OtherError};

use super::certificate::Certificate;

/// What the server showed, and what it was judged by.
pub(super) struct Shown<'a> {
    /// Its own certificate; `None` where it cannot be read.
    pub leaf: Option<&'a Certificate>,
    /// What it sent besides.
    pub others: &'a [Certificate],
    pub name: &'a ServerName<'a>,
    /// The file of the authorities; `None`: the system's.
    pub ca_file: Option<&'a PathBuf>,
}

/// Our own side of a connection that the server ended.
pub(super) struct Ours<'a> {
    pub own: Option<&'a Certificate>,
    pub cert_file: Option<&'a PathBuf>,
    /// The server has asked for a client certificate.
    pub is_asked: bool,
}

/// Why the server's certificate is not believed.
pub(super) fn of_certificate(error: &CertificateError, shown: &Shown<'_>) -> String {
    let Some(leaf) = shown.leaf else {
        return "the server's certificate cannot be read: it is none of X.509, or a broken one".into();
    };
    let the = format!("the server's certificate {leaf}");
    match error {
        CertificateError::UnknownIssuer | CertificateError::BadSignature if leaf.old_signature.is_some() => old(leaf),
        _ if is_old_signature(error) && leaf.old_signature.is_some() => old(leaf),
        CertificateError::UnknownIssuer => unknown_issuer(leaf, shown),
        CertificateError::NotValidForNameContext { .. } | CertificateError::NotValidForName => wrong_name(leaf, shown),
        CertificateError::ExpiredContext { not_after, .. } => {
            let (which, until) = with_end(*not_after, leaf, shown.others);
            format!("{which} expired at {until}: renew it on the server")
        }
        CertificateError::NotValidYetContext { not_before, .. } => {
            let from = at(*not_before);
            format!("{the} is not valid before {from}: set the clock of this host, or renew the certificate")
        }
        CertificateError::InvalidPurposeContext { .. } | CertificateError::InvalidPurpose => {
            format!("{the} is not for servers: its extendedKeyUsage lacks serverAuth; issue one that has it")
        }
        CertificateError::BadSignature | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            match weakest(leaf, shown.others) {
                Some((which, bits)) => {
                    format!(
                        "{which} has a weak key: RSA of {bits} bits; make a new key of at least 2048 bits, or an EC key"
                    )
                }
                None => format!(
                    "{the} is not signed by `{}` of {}: another CA of the same name, or a changed certificate",
                    leaf.issuer,
                    authorities(shown.ca_file)
                ),
            }
        }
        _ if leaf.version < 3 => {
            format!("{the} is of X.509 version {}: make one of version 3, with a subjectAltName", leaf.version)
        }
        _ if leaf.is_authority => {
            let kind = if leaf.is_self_signed() { "self-signed as a CA" } else { "a CA's own" };
            format!("{the} is {kind} (CA:TRUE): make it with CA:FALSE, or let a CA issue one for the server")
        }
        other => format!("{the}, issued by `{}`, is refused: {}", leaf.issuer, line(&format!("{other:?}"))),
    }
}

fn is_old_signature(error: &CertificateError) -> bool {
    matches!(error, CertificateError::UnsupportedSignatureAlgorithmContext { .. })
}

fn old(leaf: &Certificate) -> String {
    let by = leaf.old_signature.unwrap_or("an algorithm that is not known");
    format!(
        "the server's certificate {leaf} is signed with {by}, which is not accepted any more: issue one with SHA-256"
    )
}

fn unknown_issuer(leaf: &Certificate, shown: &Shown<'_>) -> String {
    // What the server sent last is what a CA is to be known for.
    let top = shown.others.iter().rev().find(|other| other.is_authority && !other.is_self_signed()).unwrap_or(leaf);
    let have = authorities(shown.ca_file);
    let add = match shown.ca_file {
        Some(_) => "add that CA to the file",
        None => "name a file that has that CA: `tls: { ca_file: PATH }`",
    };
    match leaf.is_self_signed() {
        true => {
            format!("the server's certificate {leaf} is self-signed, and not in {have}; let a CA issue one, or {add}")
        }
        false => format!(
            "the server's certificate {leaf} is issued by `{}`, which {have} does not have; {add}, or let the server send \
             its intermediate certificates",
            top.issuer
        ),
    }
}

fn wrong_name(leaf: &Certificate, shown: &Shown<'_>) -> String {
    let name = shown.name.to_str();
    match leaf.names.as_slice() {
        [] if leaf.has_common_name => format!(
            "the server's certificate {leaf} has no subjectAltName, and a CN alone is not accepted: issue one with a \
             subjectAltName of `{name}`"
        ),
        [] => format!("the server's certificate {leaf} is for no name: issue one with a subjectAltName of `{name}`"),
        names => format!(
            "the server's certificate {leaf} is for {}, not for `{name}`; name one of these by `tls: {{ server_name: NAME }}`, \
             or issue one with a subjectAltName of `{name}`",
            listed(names)
        ),
    }
}

/// Names shown of one certificate.
const SHOWN_NAMES: usize = 5;

fn listed(names: &[String]) -> String {
    let mut shown: Vec<String> = names.iter().take(SHOWN_NAMES).map(|name| format!("`{name}`")).collect();
    if names.len() > SHOWN_NAMES {
        shown.push(format!("{} more", names.len() - SHOWN_NAMES));
    }
    shown.join(", ")
}

/// Where the authorities stand that a certificate was judged by.
fn authorities(file: Option<&PathBuf>) -> String {
    file.map_or_else(|| "the system's CA store".into(), |file| file.display().to_string())
}

/// The certificate with the key that is too short.
fn weakest(leaf: &Certificate, others: &[Certificate]) -> Option<(String, usize)> {
    let of_leaf = leaf.short_key.map(|bits| (format!("the server's certificate {leaf}"), bits));
    of_leaf.or_else(|| others.iter().find_map(|ca| Some((format!("the intermediate certificate {ca}"), ca.short_key?))))
}

/// Of what the server sent, that which ended then; where none did, it is one of the authorities.
fn with_end(end: UnixTime, leaf: &Certificate, others: &[Certificate]) -> (String, Timestamp) {
    let end = at(end);
    let which = match others.iter().find(|other| other.until == end) {
        _ if leaf.until == end => format!("the server's certificate {leaf}"),
        Some(other) => format!("the intermediate certificate {other}, which the server sends,"),
        None => format!("a CA certificate above the server's {leaf}"),
    };
    (which, end)
}

fn at(time: UnixTime) -> Timestamp {
    i64::try_from(time.as_secs()).ok().and_then(|secs| Timestamp::from_second(secs).ok()).unwrap_or(Timestamp::MAX)
}

/// What is wrong between us and the server, where a person must look. `None` for what may pass by itself.
pub(super) fn of_error(error: &Error, ours: &Ours<'_>) -> Option<String> {
    Some(match error {
        // Our own verifier has found the words already.
        Error::InvalidCertificate(CertificateError::Other(OtherError(words))) => line(&words.to_string()),
        Error::InvalidCertificate(other) => line(&format!("the server's certificate is refused: {other:?}")),
        Error::NoCertificatesPresented => "the server shows no certificate".into(),
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "no TLS there: the server answers in plain text; check the port, and turn TLS on at the server".into()
        }
        Error::PeerIncompatible(why) => {
            line(&format!("nothing in common with the server ({why:?}): unwait speaks TLS 1.2 and 1.3"))
        }
        Error::General(why) => line(why),
        Error::AlertReceived(alert) => return of_alert(*alert, ours),
        _ => return None,
    })
}

fn of_alert(alert: AlertDescription, ours: &Ours<'_>) -> Option<String> {
    let about_ours = matches!(
        alert,
        AlertDescription::BadCertificate
            | AlertDescription::CertificateRequired
            | AlertDescription::HandshakeFailure
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRevoked
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
    );
    Some(match (alert, ours.own) {
        (_, None) if about_ours && ours.is_asked => {
            "the server wants a client certificate, and none is configured: add `tls: { cert_file: PATH, key_file: PATH }`"
                .into()
        }
        (_, Some(own)) if about_ours && ours.is_asked => {
            let file = ours.cert_file.map(|file| file.display().to_string()).unwrap_or_default();
            let why = match alert {
                AlertDescription::UnknownCA => "the server lacks that CA".into(),
                AlertDescription::CertificateExpired => "the server reports it as expired".into(),
                AlertDescription::CertificateRevoked => "the server reports it as revoked".into(),
                other => format!("alert {other:?}"),
            };
            format!(
                "the server refuses our certificate {own} of {file}, issued by `{}`, which ends at {}: {why}",
                own.issuer, own.until
            )
        }
        (AlertDescription::ProtocolVersion, _) => {
            "the server accepts neither TLS 1.2 nor 1.3, which unwait speaks".into()
        }
        (AlertDescription::HandshakeFailure, _) => {
            "the server accepts none of unwait's ciphers and signatures (alert HandshakeFailure)".into()
        }
        (AlertDescription::UnrecognisedName, _) => {
            "the server knows no such name: name one that it has by `tls: { server_name: NAME }`".into()
        }
        _ => return None,
    })
}

/// Of a text that others wrote, in characters.
const LONGEST: usize = 300;

/// One line, and not a long one.
fn line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST).collect()
}
