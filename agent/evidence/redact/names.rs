//! Which names tell that a secret follows them.

/// Anywhere in a name, its separators left out: `DB_PASSWORD`, `client_secret`, `x-api-key`.
const ANYWHERE: [&str; 10] =
    ["password", "passwd", "passphrase", "secret", "apikey", "accesskey", "privatekey", "credential", "密码", "密钥"];

/// At the end of one of a name's parts: `requirepass`, `accesstoken`, `masterauth`.
const ENDS_A_PART: [&str; 5] = ["token", "pass", "pwd", "auth", "口令"];

/// A whole part of a name.
const WHOLE_PART: [&str; 7] = ["authorization", "signature", "sig", "sign", "cookie", "bearer", "webhook"];

/// A name that ends so speaks about the secret and is not one: `token_file`, `password_length`.
const ABOUT: [&str; 16] = [
    "file", "path", "dir", "count", "length", "len", "size", "type", "ttl", "expiry", "expires", "age", "timeout",
    "policy", "method", "plugin",
];

/// Does a value of this name have to be blacked out?
pub(super) fn tells(name: &str) -> bool {
    let parts = parts(name);
    let Some(last) = parts.last() else { return false };
    if ABOUT.contains(&last.as_str()) {
        return false;
    }
    let joined = parts.concat();
    ANYWHERE.iter().any(|word| joined.contains(word))
        || parts.iter().any(|part| ENDS_A_PART.iter().any(|word| part.ends_with(word)))
        || parts.iter().any(|part| WHOLE_PART.contains(&part.as_str()))
        || last == "key"
}

/// Headers whose whole value is the secret, spaces included.
pub(super) fn is_header(name: &str) -> bool {
    ["authorization", "proxy-authorization", "cookie", "set-cookie"]
        .iter()
        .any(|header| name.eq_ignore_ascii_case(header))
}

/// `PWD` is the working directory, unless it holds something else.
pub(super) fn is_directory(name: &str, value: &str) -> bool {
    ["PWD", "OLDPWD"].contains(&name) && value.starts_with('/')
}

/// What a name is made of.
pub(super) fn is_name(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '.')
}

/// `authToken`, `auth_token` and `auth-token` alike: lower-case parts.
fn parts(name: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut before = '_';
    for c in name.chars() {
        if !c.is_alphanumeric() || (c.is_uppercase() && before.is_lowercase()) {
            parts.push(String::new());
        }
        if c.is_alphanumeric() {
            parts.last_mut().expect("one part is always there").extend(c.to_lowercase());
        }
        before = c;
    }
    parts.retain(|part| !part.is_empty());
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_or_do_not() {
        for name in [
            "password",
            "DB_PASSWORD",
            "dbPassword",
            "spring.datasource.password",
            "requirepass",
            "masterauth",
            "api_key",
            "x-api-key",
            "AWS_SECRET_ACCESS_KEY",
            "key",
            "ssh-key",
            "authToken",
            "secret_id",
            "sig",
            "--token",
        ] {
            assert!(tells(name), "{name}");
        }
        for name in [
            "",
            "user",
            "monkey",
            "keys",
            "key_count",
            "tokens",
            "token_file",
            "password-file",
            "author",
            "design",
            "passed",
        ] {
            assert!(!tells(name), "{name}");
        }
    }
}
