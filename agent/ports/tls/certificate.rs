//! What a certificate says, as far as people are told of it. Pure; nothing here decides whom to believe.

use std::fmt;
use std::net::IpAddr;

use jiff::Timestamp;
use x509_cert::certificate::Version;
use x509_cert::der::asn1::{ObjectIdentifier, UintRef};
use x509_cert::der::{Decode, Reader, SliceReader};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, SubjectAltName};

const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const SERVER_AUTH: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.1");
const ANY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37.0");
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
/// Signatures that nobody verifies any more.
const OLD_SIGNATURES: [(ObjectIdentifier, &str); 3] = [
    (ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.5"), "SHA-1"),
    (ObjectIdentifier::new_unwrap("1.2.840.10045.4.1"), "SHA-1"),
    (ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.4"), "MD5"),
];
/// Of RSA; shorter ones are not verified with.
const SHORTEST_KEY_BITS: usize = 2048;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// As RFC 4514 writes names: `CN=consul-1,O=Corp`.
    pub subject: String,
    pub issuer: String,
    /// Of its subjectAltName: DNS names and addresses.
    pub names: Vec<String>,
    pub from: Timestamp,
    pub until: Timestamp,
    pub version: u8,
    /// basicConstraints say CA:TRUE.
    pub is_authority: bool,
    pub has_common_name: bool,
    /// extendedKeyUsage, where there is one, has serverAuth.
    pub may_serve: bool,
    /// What it is signed by, where that is not verified any more.
    pub old_signature: Option<&'static str>,
    /// Bits of an RSA key that is too short.
    pub short_key: Option<usize>,
}

impl Certificate {
    /// `None` where it is none, or none that RFC 5280 knows.
    pub fn read(der: &[u8]) -> Option<Self> {
        let read = x509_cert::Certificate::from_der(der).ok()?;
        let tbs = read.tbs_certificate();
        let names = tbs.get_extension::<SubjectAltName>().ok()?.map(|(_, names)| names.0).unwrap_or_default();
        let constraints = tbs.get_extension::<BasicConstraints>().ok()?;
        let usages = tbs.get_extension::<ExtendedKeyUsage>().ok()?;
        let signature = read.signature_algorithm().oid;
        let key = tbs.subject_public_key_info();
        let key_bits = (key.algorithm.oid == RSA).then(|| rsa_bits(key.subject_public_key.raw_bytes())).flatten();
        let common_name = tbs.subject().iter().any(|attribute| attribute.oid == COMMON_NAME);
        Some(Self {
            subject: tbs.subject().to_string(),
            issuer: tbs.issuer().to_string(),
            names: names.iter().filter_map(shown).collect(),
            from: at(tbs.validity().not_before),
            until: at(tbs.validity().not_after),
            version: match tbs.version() {
                Version::V1 => 1,
                Version::V2 => 2,
                Version::V3 => 3,
            },
            is_authority: constraints.is_some_and(|(_, constraints)| constraints.ca),
            has_common_name: common_name,
            may_serve: usages
                .is_none_or(|(_, usages)| usages.0.iter().any(|usage| [SERVER_AUTH, ANY_USAGE].contains(usage))),
            old_signature: OLD_SIGNATURES.iter().find(|(oid, _)| *oid == signature).map(|(_, name)| *name),
            short_key: key_bits.filter(|bits| *bits < SHORTEST_KEY_BITS),
        })
    }

    pub fn is_self_signed(&self) -> bool {
        self.subject == self.issuer
    }
}

impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.subject.as_str(), self.names.as_slice()) {
            ("", []) => f.write_str("without a name"),
            // Let's Encrypt and others leave the subject out.
            ("", [name, ..]) => write!(f, "`{name}`"),
            (subject, _) => write!(f, "`{subject}`"),
        }
    }
}

fn shown(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::DnsName(name) => Some(name.to_string()),
        GeneralName::IpAddress(octets) => {
            let octets = octets.as_bytes();
            let address = <[u8; 4]>::try_from(octets).map(IpAddr::from);
            let address = address.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from));
            address.ok().map(|address| address.to_string())
        }
        _ => None,
    }
}

/// The end of time where a certificate ends later than that.
fn at(time: x509_cert::time::Time) -> Timestamp {
    let seconds = i64::try_from(time.to_unix_duration().as_secs()).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX)
}

/// Of a public key as RFC 8017 has it: a sequence of modulus and exponent.
fn rsa_bits(key: &[u8]) -> Option<usize> {
    let mut reader = SliceReader::new(key).ok()?;
    let (modulus, _) = reader
        .sequence(|reader| Ok::<_, x509_cert::der::Error>((UintRef::decode(reader)?, UintRef::decode(reader)?)))
        .ok()?;
    Some(modulus.as_bytes().len() * 8)
}
