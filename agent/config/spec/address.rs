//! Addresses as they are written, by one parser: an IPv6 address stands in brackets everywhere, since its own colons would be
//! taken for the one before the port.

use std::net::{Ipv6Addr, SocketAddr};

use super::scalar::FromText;

/// A host by its name or its IP address, and a port: `HOST:PORT`, `[::1]:PORT`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort(pub String);

impl FromText for HostPort {
    const EXPECTED: &'static str = "an address such as 10.0.0.1:2181";

    fn from_text(text: &str) -> Result<Self, String> {
        let wrong = || format!("expected HOST:PORT, such as 10.0.0.1:2181 or [::1]:2181, found `{text}`");
        if let Some(hint) = lacks_brackets(text) {
            return Err(hint);
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let is_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(address) => address.parse::<Ipv6Addr>().is_ok(),
            None => !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c)),
        };
        if !is_host || !port.parse::<u16>().is_ok_and(|port| port != 0) {
            return Err(wrong());
        }
        Ok(Self(text.into()))
    }
}

impl FromText for SocketAddr {
    const EXPECTED: &'static str = "an address such as 127.0.0.1:7801";

    fn from_text(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| {
            lacks_brackets(text).unwrap_or_else(|| {
                format!("expected an IP address with a port, such as 127.0.0.1:7801 or [::1]:7801, found `{text}`")
            })
        })
    }
}

/// Says so of an IPv6 address without brackets around it.
fn lacks_brackets(text: &str) -> Option<String> {
    let is_address = |text: &str| text.parse::<Ipv6Addr>().is_ok();
    let says = |shown: String| format!("an IPv6 address needs brackets before its port: {shown}");
    match text.rsplit_once(':') {
        Some((address, port)) if is_address(address) => Some(says(format!("[{address}]:{port}"))),
        _ => is_address(text).then(|| says(format!("[{text}]:PORT"))),
    }
}

/// The same of a URL. Nothing of its path is repeated, which may be a secret.
pub fn url_lacks_brackets(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let whole = |address: &str| format!("an IPv6 address needs brackets: {scheme}://[{address}]");
    match authority.rsplit_once(':') {
        Some((address, port)) if address.parse::<Ipv6Addr>().is_ok() => Some(format!("{}:{port}", whole(address))),
        _ => authority.parse::<Ipv6Addr>().is_ok().then(|| whole(authority)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_address_stands_in_brackets_everywhere() {
        for right in ["10.0.0.1:2181", "zk-1.corp:2181", "[::1]:2181", "[fe80::1]:65535"] {
            assert_eq!(HostPort::from_text(right), Ok(HostPort(right.into())));
        }
        for (wrong, says) in [
            ("::1:2181", "[::1]:2181"),
            ("fe80::1:2181", "[fe80::1]:2181"),
            ("2001:db8::5:1", "[2001:db8::5]:1"),
            ("::1", "[::1]:PORT"),
            ("[::1]", "HOST:PORT"),
            ("[zk-1]:2181", "HOST:PORT"),
            ("zk-1", "HOST:PORT"),
            (":2181", "HOST:PORT"),
            ("zk-1:0", "HOST:PORT"),
            ("zk-1:70000", "HOST:PORT"),
            ("zk 1:2181", "HOST:PORT"),
        ] {
            let error = HostPort::from_text(wrong).unwrap_err();
            assert!(error.contains(says), "{wrong}: {error}");
        }
        assert_eq!(SocketAddr::from_text("[::1]:7801"), Ok("[::1]:7801".parse().unwrap()));
        assert!(SocketAddr::from_text("localhost:80").unwrap_err().contains("an IP address with a port"));
        assert!(SocketAddr::from_text("::1:7801").unwrap_err().contains("[::1]:7801"));
        assert_eq!(url_lacks_brackets("http://[::1]:8500"), None);
        assert_eq!(url_lacks_brackets("http://consul:8500"), None);
        let said = url_lacks_brackets("http://::1:8500/hush").unwrap();
        assert!(said.contains("http://[::1]:8500") && !said.contains("hush"), "{said}");
    }
}
