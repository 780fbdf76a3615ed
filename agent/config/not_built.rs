//! What DESIGN's configuration knows and this version does not do: refused by name, never ignored, and never
//! called unknown. A line leaves this table when its key is built.

/// Where (indices left open), and the keys there.
const KEYS: [(&str, &[&str]); 3] = [
    ("services[].register[]", &["scope", "node"]),
    ("services[].restart", &["systemd", "exec"]),
    ("steps[].drain", &["scope"]),
];

/// Is this key of the design, at this place, not built yet? `pattern` is [`super::place::Place::pattern`].
pub fn is_not_built(pattern: &str, key: &str) -> bool {
    KEYS.iter().any(|(place, keys)| *place == pattern && keys.contains(&key))
}

/// `escalate` is not built in this version of unwait: remove it
pub fn says(word: &str) -> String {
    format!("`{word}` is not built in this version of unwait: remove it")
}
