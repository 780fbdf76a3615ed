//! Secrets that are known by their own shape: a URL's password, a webhook's path, a token's prefix.

use super::BLACKED_OUT;

/// Prefixes of well-known tokens, and the least number of token characters that must follow.
const PREFIXES: [(&str, usize); 21] = [
    ("AKIA", 16), // AWS access key ids, long-lived and temporary
    ("ASIA", 16),
    ("LTAI", 12), // Alibaba Cloud AccessKey ids
    ("AKID", 13), // Tencent Cloud SecretId
    ("ghp_", 20), // GitHub
    ("gho_", 20),
    ("ghs_", 20),
    ("ghu_", 20),
    ("github_pat_", 20),
    ("glpat-", 16), // GitLab
    ("xoxb-", 10),  // Slack
    ("xoxp-", 10),
    ("xoxa-", 10),
    ("xapp-", 10),
    ("AIza", 30),     // Google
    ("sk_live_", 16), // Stripe
    ("sk-", 20),
    ("hvs.", 16), // Vault
    ("npm_", 30),
    ("dop_v1_", 30),
    ("eyJ", 30), // a JSON Web Token: base64url of `{"`
];

/// Webhooks whose path is the credential.
const WEBHOOKS: [&str; 5] = [
    "hooks.slack.com/services/",
    "hooks.slack.com/workflows/",
    "/api/webhooks/",          // Discord
    "/open-apis/bot/v2/hook/", // Feishu, Lark
    "api.telegram.org/bot",
];

pub(super) fn in_text(line: &str) -> String {
    let line = webhooks(line);
    let line = dsn(&urls(&line));
    prefixes(&line)
}

/// What ends a URL in running text.
fn ends_url(c: char) -> bool {
    c.is_whitespace() || matches!(c, '"' | '\'' | '`' | '<' | '>')
}

fn webhooks(line: &str) -> String {
    let mut line = line.to_string();
    for hook in WEBHOOKS {
        let mut from = 0;
        while let Some(at) = line[from..].find(hook) {
            let start = from + at + hook.len();
            let end = line[start..].find(ends_url).map_or(line.len(), |length| start + length);
            if end > start {
                line.replace_range(start..end, BLACKED_OUT);
            }
            from = start;
        }
    }
    line
}

/// `scheme://user:PASSWORD@host`; a lone `scheme://TOKEN@host` where it is too long for a user's name.
fn urls(line: &str) -> String {
    let mut output = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        output.push_str(before);
        let token = &after[..after.find(ends_url).unwrap_or(after.len())];
        let authority = &token[..token.find(['/', '?', '#']).unwrap_or(token.len())];
        // A password may hold a raw slash: then what follows the colon is no port.
        let port_like = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()) || text.ends_with(']');
        let credentials = match authority.rfind('@') {
            Some(at) => Some(at),
            None if authority.rsplit_once(':').is_some_and(|(_, port)| !port_like(port)) => token.rfind('@'),
            None => None,
        };
        rest = after;
        let Some(at) = credentials else { continue };
        match token[..at].split_once(':') {
            Some((user, password)) if !password.is_empty() => {
                output.push_str(user);
                output.push(':');
                output.push_str(BLACKED_OUT);
            }
            Some((user, _)) => {
                output.push_str(user);
                output.push(':');
            }
            None if at >= 16 => output.push_str(BLACKED_OUT),
            None => output.push_str(&token[..at]),
        }
        rest = &after[at..];
    }
    output.push_str(rest);
    output
}

/// `user:PASSWORD@tcp(host:3306)/base`, as Go's MySQL driver has it.
fn dsn(line: &str) -> String {
    let mut line = line.to_string();
    for mark in ["@tcp(", "@unix("] {
        let mut from = 0;
        while let Some(at) = line[from..].find(mark).map(|at| from + at) {
            let word = line[..at]
                .rfind(ends_url)
                .map_or(0, |space| space + line[space..].chars().next().map_or(1, char::len_utf8));
            from = at + mark.len();
            if let Some(colon) = line[word..at].find(':').map(|colon| word + colon + 1).filter(|colon| *colon < at) {
                line.replace_range(colon..at, BLACKED_OUT);
                from = colon + BLACKED_OUT.len() + mark.len();
            }
        }
    }
    line
}

fn prefixes(line: &str) -> String {
    let is_token = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let mut output = String::with_capacity(line.len());
    let mut rest = line;
    while !rest.is_empty() {
        let length = rest.find(|c| !is_token(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(length);
        let known =
            PREFIXES.iter().any(|(prefix, least)| word.strip_prefix(prefix).is_some_and(|tail| tail.len() >= *least));
        output.push_str(if known { BLACKED_OUT } else { word });
        let other = after.find(is_token).unwrap_or(after.len());
        output.push_str(&after[..other]);
        rest = &after[other..];
    }
    output
}
