//! What `unwait check --ask` says of each party.

use serde_json::{Value, json};

use crate::wiring::asking::{Asked, Certificate};

pub fn say(party: &Asked) {
    let Asked { of, address, server, answer, tls, own } = party;
    let address = address.as_ref().map(|address| format!(", {address}")).unwrap_or_default();
    let server = server.as_ref().map(|server| format!("{server}, ")).unwrap_or_default();
    match answer {
        Ok(answer) => println!("{of}{address}: {server}{answer}"),
        Err(why) => println!("{of}{address}: FAILED: {why}"),
    }
    let Some(seen) = tls else { return };
    if let Some(theirs) = &seen.theirs {
        let version = seen.version.unwrap_or("TLS");
        println!("  {version}; certificate {}", described(theirs));
    }
    match (seen.asks_for_ours, own) {
        (true, Some(own)) => println!("  asks for a client certificate; ours is {}", described(own)),
        (true, None) => println!("  asks for a client certificate; none is configured"),
        (false, Some(_)) => println!("  asks for no client certificate, so ours is not shown"),
        (false, None) => {}
    }
}

fn described(certificate: &Certificate) -> String {
    let names = certificate.names.join(", ");
    let names = if names.is_empty() { "no name".to_owned() } else { names };
    format!("{certificate} for {names}; issued by `{}`; ends at {}", certificate.issuer, certificate.until)
}

pub fn json(party: &Asked) -> Value {
    let certificate = |certificate: &Certificate| {
        json!({
            "subject": certificate.subject, "issuer": certificate.issuer, "names": certificate.names,
            "until": certificate.until.to_string(),
        })
    };
    let tls = party.tls.as_ref().map(|seen| {
        json!({
            "version": seen.version, "certificate": seen.theirs.as_ref().map(certificate),
            "asks_for_ours": seen.asks_for_ours, "own": party.own.as_ref().map(certificate),
        })
    });
    json!({
        "party": party.of, "address": party.address, "server": party.server, "ok": party.answer.is_ok(),
        "says": party.answer.as_ref().unwrap_or_else(|why| why), "tls": tls,
    })
}
