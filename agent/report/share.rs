//! Pseudonyms for hosts and addresses, the same in all texts that are handed on together. Pure.
//!
//! An IPv4 address becomes one of 198.18.0.0/15 (set aside for benchmarks, RFC 2544), an IPv6 address one of 2001:db8::/32 (for
//! documentation, RFC 3849), a name of a host `host-1`, `host-2`, …; ports stay. Loopback, wildcard and broadcast addresses say
//! nothing of anybody and stay as well. What only looks like an address, a version of four numbers say, is replaced too.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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

    /// The text with pseudonyms, wherever a name or an address stands in it. What was met in an earlier one is called as there.
    pub fn replace(&mut self, text: &str) -> String {
        let text = self.with_names(text);
        let mut out = String::with_capacity(text.len());
        let mut rest = text.as_str();
        while let Some(c) = rest.chars().next() {
            let (length, shown) = match self.address_at(rest, out.chars().next_back()) {
                Some((length, shown)) => (length, shown.to_string()),
                None => (c.len_utf8(), c.into()),
            };
            out.push_str(&shown);
            rest = &rest[length..];
        }
        out
    }

    /// Real, and what stands for it; for the one who hands the texts on, to understand the answers.
    pub fn pairs(&self) -> impl Iterator<Item = (String, String)> + '_ {
        let names = self.names.iter().cloned();
        names.chain(self.addresses.iter().map(|(real, shown)| (real.to_string(), shown.to_string())))
    }

    /// Names of hosts, in capitals or not, where no letter or digit stands beside them.
    fn with_names(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (name, shown) in &self.names {
            let (lower, name) = (text.to_ascii_lowercase(), name.to_ascii_lowercase());
            let mut out = String::with_capacity(text.len());
            let mut from = 0;
            while let Some(at) = lower[from..].find(&name).map(|at| from + at) {
                let end = at + name.len();
                out.push_str(&text[from..at]);
                let alone = begins_a_word(&text[..at]) && !text[end..].starts_with(char::is_alphanumeric);
                out.push_str(if alone { shown } else { &text[at..end] });
                from = end;
            }
            out.push_str(&text[from..]);
            text = out;
        }
        text
    }

    /// The address that `rest` begins with, whatever follows it; `before` is the character in front.
    fn address_at(&mut self, rest: &str, before: Option<char>) -> Option<(usize, IpAddr)> {
        let first = rest.chars().next()?;
        if first.is_ascii_digit() && before.is_none_or(|c| !c.is_ascii_digit() && c != '.') {
            let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
            let run = rest[..end].trim_end_matches('.');
            if let Ok(four) = run.parse::<Ipv4Addr>() {
                return Some((run.len(), self.shown(four.into())));
            }
        }
        let is_of_six = |c: char| c.is_ascii_hexdigit() || matches!(c, ':' | '.');
        if is_of_six(first) && before.is_none_or(|c| !is_of_six(c)) {
            let end = rest.find(|c: char| !is_of_six(c)).unwrap_or(rest.len());
            let run = &rest[..end];
            // The longest that is one: a port or a full stop may stand behind it.
            let lengths = (2..=run.len()).rev().take_while(|length| run[..*length].matches(':').count() >= 2);
            for length in lengths {
                if let Ok(six) = run[..length].parse::<Ipv6Addr>() {
                    return Some((length, self.shown(six.into())));
                }
            }
        }
        None
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

/// Does a word begin behind this? A line break as JSON writes it (`\\n`) is no letter.
fn begins_a_word(before: &str) -> bool {
    let mut back = before.chars().rev();
    match (back.next(), back.next()) {
        (Some('n' | 't' | 'r'), Some('\\')) => true,
        (Some(c), _) => !c.is_alphanumeric(),
        (None, _) => true,
    }
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
            ("read tcp 10.0.0.1:51234->10.0.0.2:6379", "read tcp 198.18.0.1:51234->198.18.0.2:6379"),
            ("[10.0.0.1] [2001:470::9] addr:10.0.0.2,", "[198.18.0.1] [2001:db8::3] addr:198.18.0.2,"),
            ("10.0.0.1:rpc-order:8080 rpc-10.0.0.2-80", "198.18.0.1:rpc-order:8080 rpc-198.18.0.2-80"),
            ("dubbo%3A%2F%2F10.0.0.1%3A20880", "dubbo%3A%2F%2F198.18.0.1%3A20880"),
            (r#""a\n10.0.0.1\nbj1-03\t""#, r#""a\n198.18.0.1\nhost-1\t""#),
            ("BJ1-03.example.com", "host-1"),
            ("12:30:45.123 1::2:3 a:b", "12:30:45.123 2001:db8::5 a:b"),
        ] {
            assert_eq!(shown(text), expected);
        }
        let pairs: Vec<(String, String)> = pseudonyms.pairs().collect();
        assert!(pairs.contains(&("10.0.0.2".into(), "198.18.0.2".into())), "{pairs:?}");
        assert!(pairs.contains(&("bj1-03".into(), "host-1".into())), "{pairs:?}");
    }
}
