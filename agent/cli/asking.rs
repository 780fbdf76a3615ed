//! What `unwait check --ask` says of each party.

use crate::view::findings::{AskedParty, CertificateShown};

pub fn say(asked: &AskedParty) {
    let AskedParty { party, address, server, ok, says, tls } = asked;
    let address = address.as_ref().map(|address| format!(", {address}")).unwrap_or_default();
    let server = server.as_ref().map(|server| format!("{server}, ")).unwrap_or_default();
    match ok {
        true => println!("{party}{address}: {server}{says}"),
        false => println!("{party}{address}: FAILED: {says}"),
    }
    let Some(seen) = tls else { return };
    if let Some(theirs) = &seen.certificate {
        let version = seen.version.as_deref().unwrap_or("TLS");
        println!("  {version}; certificate {}", described(theirs));
    }
    match (seen.asks_for_ours, &seen.own) {
        (true, Some(own)) => println!("  asks for a client certificate; ours is {}", described(own)),
        (true, None) => println!("  asks for a client certificate; none is configured"),
        (false, Some(_)) => println!("  asks for no client certificate, so ours is not shown"),
        (false, None) => {}
    }
}

fn described(certificate: &CertificateShown) -> String {
    let CertificateShown { subject, issuer, names, until } = certificate;
    let all = names.join(", ");
    // Let's Encrypt and others leave the subject out.
    let called = match (subject.as_str(), names.first()) {
        ("", None) => "without a name".to_owned(),
        ("", Some(name)) => format!("`{name}`"),
        (subject, _) => format!("`{subject}`"),
    };
    let all = if all.is_empty() { "no name".to_owned() } else { all };
    format!("{called} for {all}; issued by `{issuer}`; ends at {until}")
}
