//! Dubbo's URLs, as they stand in the registries that Dubbo uses: providers, and overrides that its consumers follow. How
//! an override and a provider find each other is written here once, for every registry.
//!
//! A consumer applies an override only where group and version are its own, which are the provider's (`UrlUtils.isMatch`
//! of Dubbo's sources; seen with 2.7.23 and 3.3.6: `*` is not accepted, and without them calls go on). So a provider that
//! offers several versions needs an override for each.

pub(super) mod rule;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::RegistryError;

/// Tells an override of ours from one that a person made.
const OURS: &str = "unwait";
/// From a change of an override until the last consumer follows it: 3.3.6 comes back 5 to 12 s after one is gone, since it
/// holds back the second notice of a path for 5 s.
pub(super) const OVERRIDE_FOLLOWED: Duration = Duration::from_secs(12);

/// `override://IP:PORT/SERVICE?…` as former versions of ours wrote it in Redis, without group and version.
pub(super) fn bare_override(instance: &str, service: &str) -> String {
    format!("override://{instance}/{service}?category=configurators&dynamic=false&enabled=true&disabled=true")
}

/// The overrides that disable all that these providers of one instance offer, until they are taken back.
pub(super) fn overrides<'a>(
    providers: impl IntoIterator<Item = &'a String>,
    instance: &str,
    service: &str,
) -> BTreeSet<String> {
    let of = |provider: &String| {
        let mut url = bare_override(instance, service);
        for (key, value) in ["group", "version"].into_iter().zip(group_and_version(provider)) {
            if !value.is_empty() {
                url.push_str(&format!("&{key}={value}"));
            }
        }
        format!("{url}&{OURS}=true")
    };
    providers.into_iter().map(of).collect()
}

fn group_and_version(url: &str) -> [&str; 2] {
    ["group", "version"].map(|key| parameter(url, key).unwrap_or_default())
}

/// Do both offer the same group and version?
fn provides_as(url: &str, other: &str) -> bool {
    group_and_version(url) == group_and_version(other)
}

/// Is it an override that this agent wrote? Not all of its former versions said so.
pub(super) fn is_ours(url: &str) -> bool {
    parameter(url, OURS).is_some()
}

/// Does this override take this provider out of its consumers' lists? `0.0.0.0` stands for every host.
pub(super) fn disables(url: &str, provider: &str) -> bool {
    let (Some(whom), Some(instance)) = (address(url), address(provider)) else { return false };
    let (host, port) = whom.rsplit_once(':').unwrap_or((whom, "0"));
    let of_every_host =
        host == "0.0.0.0" && (port == "0" || instance.rsplit_once(':').is_some_and(|(_, of)| of == port));
    is_off(url) && (whom == instance || of_every_host) && provides_as(url, provider)
}

/// Does this URL say of itself that it takes out, or is taken out?
pub(super) fn is_off(url: &str) -> bool {
    parameter(url, "disabled") == Some("true") && parameter(url, "enabled") != Some("false")
}

/// The instances that offer something of what `own` offers, by their addresses, and whether each offers all of it, with no
/// override against it. Who offers no group and version of ours stands in for nobody. A provider that is found by its
/// application alone has no URLs, and offers what all of that application do.
pub(super) fn stand_ins<'a>(
    providers: &'a BTreeMap<String, Vec<String>>,
    overrides: &[String],
    own: &str,
) -> BTreeMap<&'a str, bool> {
    let ours = providers.get(own).map(Vec::as_slice).unwrap_or_default();
    let disabled = |url: &String| is_off(url) || overrides.iter().any(|by| disables(by, url));
    let mut standing = BTreeMap::new();
    for (instance, urls) in providers {
        if ours.is_empty() || ours.iter().any(|of| urls.iter().any(|url| provides_as(url, of))) {
            let whole = ours.iter().all(|of| urls.iter().any(|url| provides_as(url, of) && !disabled(url)));
            standing.insert(instance.as_str(), whole);
        }
    }
    standing
}

/// URLs by their addresses, in the same order at each look.
pub(super) fn by_address(urls: impl IntoIterator<Item = String>) -> BTreeMap<String, Vec<String>> {
    let mut providers: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for url in urls {
        if let Some(at) = address(&url) {
            providers.entry(at.to_owned()).or_default().push(url);
        }
    }
    providers.values_mut().for_each(|urls| urls.sort_unstable());
    providers
}

/// The application that provides it.
pub(super) fn application(provider: &str) -> Option<&str> {
    parameter(provider, "application").filter(|name| !name.is_empty())
}

/// Does the provider register by application as well? Dubbo 3 says so of a service whose name is to be mapped to its
/// application's (`ServiceConfig.exportRemote`). Consumers that find it by application follow no override.
pub(super) fn is_registered_by_application(provider: &str) -> bool {
    parameter(provider, "service-name-mapping") == Some("true")
}

/// A provider that reads an override of itself leaves and comes back with `disabled=true` in its URL: 4 to 11 ms later,
/// some 20 to 40 ms after the override was written. So after a change of ours "not registered" is believed after a second.
const COMES_BACK_WITHIN: Duration = Duration::from_secs(1);
const ASKED_AGAIN: Duration = Duration::from_millis(25);

/// Looks that are left for an instance that is not registered just now.
pub(super) struct Patience(u128);

impl Patience {
    pub fn new() -> Self {
        Self(COMES_BACK_WITHIN.as_millis() / ASKED_AGAIN.as_millis())
    }

    /// True where it is to be looked for again, after a pause.
    pub async fn asks_again<T>(&mut self, seen: &Result<T, RegistryError>) -> bool {
        let again = self.0 > 0 && matches!(seen, Err(RegistryError::NotRegistered { .. }));
        if again {
            self.0 -= 1;
            tokio::time::sleep(ASKED_AGAIN).await;
        }
        again
    }
}

/// The `IP:PORT` of a URL.
pub(super) fn address(url: &str) -> Option<&str> {
    let rest = url.split_once("://")?.1;
    let authority = rest.split(['/', '?']).next()?;
    Some(authority.rsplit_once('@').map_or(authority, |(_, address)| address))
}

/// The value of a parameter, where it has one.
pub(super) fn parameter<'a>(url: &'a str, name: &str) -> Option<&'a str> {
    let parameters = url.split_once('?')?.1.split('&');
    parameters.filter_map(|parameter| parameter.split_once('=')).find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// As `java.net.URLEncoder` writes it: what Dubbo names its nodes in ZooKeeper by.
pub(super) fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len() * 3 / 2);
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'*' | b'_' => encoded.push(char::from(byte)),
            b' ' => encoded.push('+'),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// Back again; `None` where it is not so encoded.
pub(super) fn decoded(text: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
                (high * 16 + low) as u8
            }
            byte => byte,
        });
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_named_as_java_names_it_and_read_back() {
        let url = "dubbo://10.0.0.1:20880/com.shop.Order?version=1.0~a&x=ü +%&group=";
        let name = "dubbo%3A%2F%2F10.0.0.1%3A20880%2Fcom.shop.Order%3Fversion%3D1.0%7Ea%26x%3D%C3%BC+%2B%25%26group%3D";
        assert_eq!(encoded(url), name);
        assert_eq!(decoded(name).as_deref(), Some(url));
        for wrong in ["%", "%4", "%zz", "%FF"] {
            assert_eq!(decoded(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_a_url_says() {
        let url = "dubbo://me:pw@10.0.0.1:20880/com.shop.Order?version=1.0&group=&methods=a,b";
        assert_eq!(address(url), Some("10.0.0.1:20880"));
        assert_eq!((parameter(url, "version"), parameter(url, "group")), (Some("1.0"), Some("")));
        assert_eq!((parameter(url, "sion"), parameter("x://a/b", "version"), address("no url")), (None, None, None));
    }

    #[test]
    fn an_override_disables_what_has_its_address_group_and_version() {
        let provider = |query: &str| format!("dubbo://10.0.0.1:20880/com.shop.Order?application=shop{query}");
        let plain = "disabled=true";
        for (whom, query, offered, expected) in [
            ("10.0.0.1:20880", plain, "", true),
            ("10.0.0.1:20880", plain, "&group=&version=", true),
            ("10.0.0.1:20880", plain, "&version=1.0", false),
            ("10.0.0.1:20880", plain, "&group=blue", false),
            ("10.0.0.1:20880", "disabled=true&version=1.0", "&version=1.0", true),
            ("10.0.0.1:20880", "disabled=true&version=1.0", "&version=1.0&group=blue", false),
            ("10.0.0.1:20880", "disabled=true&version=1.0", "&version=2.0", false),
            ("10.0.0.1:20880", "disabled=true&version=*", "&version=2.0", false),
            ("10.0.0.1:20880", "disabled=true&version=1.0", "", false),
            ("10.0.0.1:20881", plain, "", false),
            ("10.0.0.2:20880", plain, "", false),
            ("0.0.0.0", plain, "", true),
            ("0.0.0.0:0", plain, "", true),
            ("0.0.0.0:20880", plain, "", true),
            ("0.0.0.0:20881", plain, "", false),
            ("10.0.0.1:20880", "disabled=true&enabled=false", "", false),
            ("10.0.0.1:20880", "weight=1", "", false),
            ("10.0.0.1:20880", "disabled=truer&x=disabled=true", "", false),
        ] {
            let url = format!("override://{whom}/com.shop.Order?category=configurators&{query}");
            assert_eq!(disables(&url, &provider(offered)), expected, "{url} {offered}");
        }
    }

    #[test]
    fn our_overrides_disable_all_that_an_instance_offers() {
        let offered = ["", "&version=1.0", "&version=1.0&group=blue", "&version=1.0&timestamp=2"]
            .map(|query| format!("dubbo://10.0.0.1:20880/com.shop.Order?application=shop{query}"));
        let ours = overrides(&offered, "10.0.0.1:20880", "com.shop.Order");
        assert_eq!(ours.len(), 3);
        assert!(ours.iter().all(|url| is_ours(url) && parameter(url, "category") == Some("configurators")));
        for provider in &offered {
            assert_eq!(ours.iter().filter(|url| disables(url, provider)).count(), 1, "{provider}");
        }
        assert!(!is_ours(&bare_override("10.0.0.1:20880", "com.shop.Order")));
    }
}
