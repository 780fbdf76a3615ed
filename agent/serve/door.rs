//! Who may ask: by which `Host` a request calls this agent. A page of another site can make a browser send requests here, and
//! by a DNS name of its own that it points at this host it could read the answers (DNS rebinding). Its name then stands
//! in `Host`, so a name that is not ours is refused.

use std::net::{IpAddr, SocketAddr};

use hyper::Request;
use hyper::header::HOST;

/// Loopback's name (RFC 6761, 6.3: and all below it).
const LOOPBACK: &str = "localhost";

/// # Errors
/// In words: why not. `local`: the address at which the connection arrived; `hosts`: what the configuration allows besides.
pub fn admit<B>(request: &Request<B>, local: SocketAddr, hosts: &[String]) -> Result<(), String> {
    let mut named = request.headers().get_all(HOST).iter();
    let (first, another) = (named.next(), named.next());
    if another.is_some() {
        return Err("the request has more than one Host".into());
    }
    // RFC 9112, 3.2.2: where the target names a host, that one counts.
    let target = request.uri().authority().map(|authority| authority.as_str());
    let Some(host) = target.or_else(|| first.and_then(|value| value.to_str().ok())) else {
        return Err("the request has no Host that can be read".into());
    };
    let name = without_port(host).to_ascii_lowercase();
    let (name, is_ours) = match name.parse::<IpAddr>().map(|address| address.to_canonical()) {
        Ok(address) => (address.to_string(), address.is_loopback() || address == local.ip().to_canonical()),
        Err(_) => {
            let is_loopback = name == LOOPBACK || name.strip_suffix(LOOPBACK).is_some_and(|below| below.ends_with('.'));
            (name, is_loopback)
        }
    };
    match is_ours || hosts.contains(&name) {
        true => Ok(()),
        false => Err(format!(
            "this agent is not called `{name}`: ask for {local}, or add the name to `http: hosts` in agent.yaml"
        )),
    }
}

/// `[::1]:9817` is `::1`.
fn without_port(host: &str) -> &str {
    if let Some((address, _)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return address;
    }
    host.rsplit_once(':').map_or(host, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_other_sites_are_refused_whatever_they_look_like() {
        let local: SocketAddr = "10.0.0.7:9817".parse().unwrap();
        let hosts = ["web-1.example".to_owned(), "192.0.2.1".to_owned()];
        let admitted = |target: &str, host: &[&str]| {
            let mut request = Request::get(target);
            for one in host {
                request = request.header(HOST, *one);
            }
            admit(&request.body(()).unwrap(), local, &hosts)
        };
        for ours in [
            "localhost",
            "LOCALHOST:9817",
            "web.localhost:1",
            "127.0.0.1",
            "127.9.9.9:80",
            "[::1]:9817",
            "[::ffff:10.0.0.7]",
            "10.0.0.7:9817",
            "Web-1.Example:443",
            "192.0.2.1",
        ] {
            assert_eq!(admitted("/", &[ours]), Ok(()), "{ours}");
        }
        for theirs in [
            "evil.example",
            "evil.example:9817",
            "notlocalhost",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.8",
            "web-1.example.evil.example",
            "localhost@evil.example",
            "",
            ":9817",
            "[::2]",
            "0.0.0.0",
            "2130706433",
        ] {
            let refused = admitted("/", &[theirs]).unwrap_err();
            assert!(refused.contains("http: hosts"), "{theirs}: {refused}");
        }
        assert!(admitted("/", &[]).unwrap_err().contains("no Host"));
        assert!(admitted("/", &["localhost", "evil.example"]).unwrap_err().contains("more than one"));
        assert!(admitted("http://evil.example/", &["localhost"]).is_err());
        assert!(admitted("http://127.0.0.1/", &["evil.example"]).is_ok());
    }
}
