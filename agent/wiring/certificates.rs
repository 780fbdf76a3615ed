//! What the files of TLS tell before anybody is asked: are they what they should be, and until when.

use std::time::Duration;

use jiff::Timestamp;

use crate::config::{Diagnostics, HostConfig, TlsFiles};
use crate::ports::tls::{Certificate, TlsContext, Whose};

/// A certificate that ends sooner is warned of.
const SOON: Duration = Duration::from_secs(14 * 24 * 3_600);

/// What is wrong with the files that the host's file names, and what will be soon; each where its `tls:` stands.
pub fn look(host: &HostConfig, now: Timestamp) -> (Diagnostics, Diagnostics) {
    let (mut wrong, mut soon) = (Diagnostics::default(), Diagnostics::default());
    for files in &host.tls {
        let context = match TlsContext::new("check", files.tls.clone()) {
            Ok(context) => context,
            Err(why) => {
                wrong.push(files.at.saying(why));
                continue;
            }
        };
        let certificates = context.certificates();
        let authorities: Vec<&Certificate> =
            certificates.iter().filter(|(whose, _)| *whose == Whose::Authority).map(|(_, one)| one).collect();
        // In a bundle for a change of CA the former one may have ended.
        let some_authority_lives = authorities.iter().any(|authority| authority.until > now);
        for (whose, certificate) in &certificates {
            let Some((has_ended, says)) = end(*whose, certificate, files, now) else { continue };
            let is_harmless = *whose == Whose::Authority && some_authority_lives;
            let to = if has_ended && !is_harmless { &mut wrong } else { &mut soon };
            to.push(files.at.saying(says));
        }
        let own = certificates.iter().find(|(whose, _)| *whose == Whose::Own).map(|(_, own)| own);
        if let Some(own) = own.filter(|own| files.nameless && own.has_common_name) {
            wrong.push(files.at.saying(format!(
                "{}: the certificate {own} has a CN, which etcd takes for the user of that name, and then refuses every call \
                 with `user` and `password_file`: issue one without a CN, for etcd alone",
                shown(Whose::Own, files)
            )));
        }
    }
    (wrong.sorted(), soon.sorted())
}

/// Whether it has ended, or is not valid yet, and the words; `None` for one that lasts.
fn end(whose: Whose, certificate: &Certificate, files: &TlsFiles, now: Timestamp) -> Option<(bool, String)> {
    let file = shown(whose, files);
    let Certificate { from, until, .. } = certificate;
    if *until <= now {
        return Some((true, format!("{file}: the certificate {certificate} expired at {until}: renew it")));
    }
    if *from > now {
        return Some((true, format!("{file}: the certificate {certificate} is not valid before {from}")));
    }
    (until.duration_since(now).unsigned_abs() < SOON)
        .then(|| (false, format!("{file}: the certificate {certificate} ends at {until}, within 14 days: renew it")))
}

fn shown(whose: Whose, files: &TlsFiles) -> String {
    let file = match whose {
        Whose::Own => files.tls.cert_file.as_ref(),
        Whose::Authority | Whose::Theirs => files.tls.ca_file.as_ref(),
    };
    file.map(|file| file.display().to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::ports::testing_tls::{AUTHORITY, FAR_AWAY, LOCAL, TestCa, Wanted};

    #[test]
    fn what_files_tell_is_said_where_they_are_named() {
        let ca = TestCa::made();
        let now: Timestamp = "2026-11-29T12:00:00Z".parse().unwrap();
        let until = |until| Wanted { until, ..Wanted::default() };
        ca.make("good", Wanted { subject: "/O=unwait", ..Wanted::default() });
        ca.make("named", Wanted { subject: "/CN=unwait", ..Wanted::default() });
        ca.make("soon", until("20261210000000Z"));
        ca.make("ended", until("20261101000000Z"));
        ca.make("early", Wanted { from: "20270101000000Z", until: FAR_AWAY, extensions: LOCAL, ..Wanted::default() });
        let past = Wanted { until: "20261101000000Z", extensions: AUTHORITY, by: None, ..Wanted::default() };
        ca.make("oldca", past);
        let both = ["oldca.pem", "ca.pem"].map(|part| std::fs::read_to_string(ca.path(part)).unwrap()).concat();
        for (file, text) in [("both.pem", both.as_str()), ("none.pem", "")] {
            std::fs::write(ca.path(file), text).unwrap();
        }
        let at = |file: &str| ca.path(file).display().to_string();
        let pair = |cert: &str, key: &str| format!("cert_file: {}.pem, key_file: {}.key", at(cert), at(key));
        for (login, tls, wrong, soon) in [
            (false, pair("good", "good"), None, None),
            (true, pair("good", "good"), None, None),
            (false, pair("named", "named"), None, None),
            (true, pair("named", "named"), Some("has a CN, which etcd takes for the user of that name"), None),
            (false, pair("good", "named"), Some("is not the key of the certificate in"), None),
            (false, pair("soon", "soon"), None, Some("ends at 2026-12-10T00:00:00Z, within 14 days")),
            (false, pair("ended", "ended"), Some("ended.pem: the certificate `CN=server` expired at 2026-11-01"), None),
            (false, pair("early", "early"), Some("is not valid before 2027-01-01T00:00:00Z"), None),
            (false, format!("ca_file: {}", at("oldca.pem")), Some("oldca.pem: the certificate"), None),
            (false, format!("ca_file: {}", at("both.pem")), None, Some("expired at 2026-11-01")),
            (false, format!("ca_file: {}", at("none.pem")), Some("none.pem: holds no PEM certificate"), None),
            (false, format!("ca_file: {}", at("gone.pem")), Some("gone.pem: No such file"), None),
        ] {
            let login = if login { "user: u, password_file: /p, " } else { "" };
            let keys = "key: \"/s/{service}/{instance}\", override: \"/o/{service}/{instance}\"";
            let dir = tempfile::tempdir().unwrap();
            let text = format!("registries:\n  etcd: {{ url: \"https://h:1\", {login}tls: {{ {tls} }}, {keys} }}\n");
            std::fs::write(dir.path().join("agent.yaml"), text).unwrap();
            let host = config::load(dir.path()).unwrap_or_else(|wrong| panic!("{wrong}")).host;
            let said = |all: &Diagnostics| {
                all.iter().map(|one| format!("{:?} {}", one.line, one.message)).collect::<Vec<_>>().join("; ")
            };
            let (found_wrong, found_soon) = look(&host, now);
            for (found, expected) in [(found_wrong, wrong), (found_soon, soon)] {
                match expected {
                    None => assert!(found.is_empty(), "{tls}: {}", said(&found)),
                    Some(words) => {
                        assert!(said(&found).contains(words), "{tls}: {}", said(&found));
                        assert!(said(&found).starts_with("Some(2)"), "{}", said(&found));
                    }
                }
            }
        }
    }
}
