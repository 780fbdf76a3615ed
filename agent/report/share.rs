//! Pseudonyms for hosts and addresses, the same in all texts that are handed on together. Pure.
//!
//! An IPv4 address becomes one of 198.18.0.0/15 (set aside for benchmarks, RFC 2544), an IPv6 address one of 2001:db8::/32 (for
//! documentation, RFC 3849), a name of a host `host-1`, `host-2`, …; ports stay. Loopback, wildcard and broadcast addresses say
//! nothing of anybody and stay as well. What only looks like an address, a version of four numbers say, is replaced too.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Each address and name that was met, with what stands for it.
#[derive(Clone, Debug, Default)]
pub struct Pseudonyms {
    addresses: BTreeMap<IpAddr, IpAddr>,
    /// Longest first, so that no name is found within another.
    names: Vec<(String, String)>,
}

impl Pseudonyms {
    /// For these names of hosts; the part before the first dot stands for the host as well.
    pub fn for_hosts<'a>(hosts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut names: BTreeMap<&str, String> = BTreeMap::new();
        for (number, host) in hosts.into_iter().filter(|host| !host.is_empty()).enumerate() {
            let short = host.split('.').next().unwrap_or(host);
            for name in [host, short] {
                names.entry(name).or_insert_with(|| format!("host-{}", number + 1));
            }
        }
        let mut names: Vec<(String, String)> = names.into_iter().map(|(name, of)| (name.to_owned(), of)).collect();
        names.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
        Self { addresses: BTreeMap::new(), names }
    }

    /// The text with pseudonyms. What was met in an earlier one is called as there.
    pub fn replace(&mut self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while !rest.is_empty() {
            let end = rest.find(|c: char| !is_of_a_word(c)).unwrap_or(rest.len());
            if end == 0 {
                let other = rest.chars().next().map_or(1, char::len_utf8);
                out.push_str(&rest[..other]);
                rest = &rest[other..];
                continue;
            }
            let word = self.word(&rest[..end]);
            out.push_str(&word);
            rest = &rest[end..];
        }
        out
    }

    /// Real, and what stands for it; for the one who hands the texts on, to understand the answers.
    pub fn pairs(&self) -> impl Iterator<Item = (String, String)> + '_ {
        let names = self.names.iter().cloned();
        names.chain(self.addresses.iter().map(|(real, shown)| (real.to_string(), shown.to_string())))
    }

    /// A run of letters, digits and what stands between them in addresses and names of hosts.
    fn word(&mut self, word: &str) -> String {
        // A full stop or colon of the sentence.
        let core = word.trim_end_matches(['.', ':']);
        let core = if core.is_empty() || word.ends_with("::") { word } else { core };
        let tail = &word[core.len()..];
        if let Some(address) = self.address(core) {
            return address + tail;
        }
        let mut named = core.to_owned();
        for (name, shown) in &self.names {
            named = replaced(&named, name, shown);
        }
        named + tail
    }

    fn address(&mut self, word: &str) -> Option<String> {
        if let Ok(address) = word.parse::<IpAddr>() {
            return Some(self.shown(address).to_string());
        }
        let at: SocketAddr = word.parse().ok()?;
        Some(SocketAddr::new(self.shown(at.ip()), at.port()).to_string())
    }

    fn shown(&mut self, address: IpAddr) -> IpAddr {
        // `::ffff:10.0.0.1` is the same host as `10.0.0.1`, and is still written so.
        if let IpAddr::V6(six) = address
            && let Some(four) = six.to_ipv4_mapped()
        {
            return match self.shown(IpAddr::V4(four)) {
                IpAddr::V4(four) => IpAddr::V6(four.to_ipv6_mapped()),
                six => six,
            };
        }
        let says_nothing = match address {
            IpAddr::V4(four) => four.is_loopback() || four.is_unspecified() || four.is_broadcast(),
            IpAddr::V6(six) => six.is_loopback() || six.is_unspecified(),
        };
        if says_nothing {
            return address;
        }
        let next = u32::try_from(self.addresses.len() + 1).unwrap_or(u32::MAX);
        *self.addresses.entry(address).or_insert_with(|| match address {
            // Beyond the 131,071 of them they repeat.
            IpAddr::V4(_) => Ipv4Addr::from_bits(0xC612_0000 | (next & 0x0001_FFFF)).into(),
            IpAddr::V6(_) => Ipv6Addr::from_bits(0x2001_0DB8 << 96 | u128::from(next)).into(),
        })
    }
}

/// Brackets as well: `[2001:db8::1]:80`.
fn is_of_a_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '.' | ':' | '[' | ']' | '-' | '_')
}

/// Each place in `word` where `name` stands by itself.
fn replaced(word: &str, name: &str, shown: &str) -> String {
    let mut out = String::new();
    let mut rest = word;
    while let Some(at) = rest.find(name) {
        let (before, after) = (&rest[..at], &rest[at + name.len()..]);
        let stands_alone =
            !out.ends_with(char::is_alphanumeric) || before.chars().next_back().is_some_and(|c| !c.is_alphanumeric());
        let stands_alone = stands_alone
            && before.chars().next_back().is_none_or(|c| !c.is_alphanumeric())
            && after.chars().next().is_none_or(|c| !c.is_alphanumeric());
        out.push_str(before);
        out.push_str(if stands_alone { shown } else { name });
        rest = after;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_addresses_are_called_the_same_in_all_texts_and_the_rest_stays() {
        let mut pseudonyms = Pseudonyms::for_hosts(["bj1-03.example.com", "bj1-0"]);
        let mut shown = |text: &str| pseudonyms.replace(text);
        for (text, expected) in [
            ("CLOSE-WAIT 1 0 10.0.0.1:7801 10.0.0.2:40000", "CLOSE-WAIT 1 0 198.18.0.1:7801 198.18.0.2:40000"),
            ("closed by 10.0.0.2 (rpc-user), then 10.0.0.1.", "closed by 198.18.0.2 (rpc-user), then 198.18.0.1."),
            ("[::ffff:10.0.0.1]:80, [2001:470::9]:443", "[::ffff:198.18.0.1]:80, [2001:db8::3]:443"),
            (r#"{"local":"10.0.0.1:80","peer":"fe80::1"}"#, r#"{"local":"198.18.0.1:80","peer":"2001:db8::4"}"#),
            ("127.0.0.1:6379 [::1]:80 0.0.0.0:* [::]:22", "127.0.0.1:6379 [::1]:80 0.0.0.0:* [::]:22"),
            ("rpc-order.service on bj1-03: bj1-03.example.com", "rpc-order.service on host-1: host-1"),
            (
                "20261122T184329Z-rpc-order-1f3a at 18:43:29Z, 12:30",
                "20261122T184329Z-rpc-order-1f3a at 18:43:29Z, 12:30",
            ),
            ("bj1-030 xbj1-03 bj1-03x", "bj1-030 xbj1-03 bj1-03x"),
            ("http://10.0.0.2:8500/v1 摘流 10.0.0.2", "http://198.18.0.2:8500/v1 摘流 198.18.0.2"),
            ("deadbeef add 1.5 :: : ...", "deadbeef add 1.5 :: : ..."),
        ] {
            assert_eq!(shown(text), expected);
        }
        let pairs: Vec<(String, String)> = pseudonyms.pairs().collect();
        assert!(pairs.contains(&("10.0.0.2".into(), "198.18.0.2".into())), "{pairs:?}");
        assert!(pairs.contains(&("bj1-03".into(), "host-1".into())), "{pairs:?}");
    }
}
