//! Dubbo's URLs, as they stand in the registries that Dubbo uses: providers, and overrides that its consumers follow.

/// `override://IP:PORT/SERVICE?…`, which disables the provider until it is taken back. Dubbo reads `disabled`.
pub(super) fn override_url(address: &str, service: &str) -> String {
    format!("override://{address}/{service}?category=configurators&dynamic=false&enabled=true&disabled=true")
}

/// The `IP:PORT` of a URL.
pub(super) fn address(url: &str) -> Option<&str> {
    let rest = url.split_once("://")?.1;
    let authority = rest.split(['/', '?']).next()?;
    Some(authority.rsplit_once('@').map_or(authority, |(_, address)| address))
}

/// Is it an override that takes this provider out? `0.0.0.0` stands for all of them.
pub(super) fn disables(url: &str) -> bool {
    url.contains("disabled=true") && !url.contains("enabled=false")
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
        assert!(disables(&override_url("10.0.0.1:20880", "com.shop.Order")));
        assert!(!disables("override://0.0.0.0/x?disabled=true&enabled=false") && !disables("override://a/x?weight=1"));
    }
}
