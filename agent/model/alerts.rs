//! Alerts that others watch: which are meant, and one that fires.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Which alerts are meant: matchers as Prometheus writes them, without the braces: `severity="critical",team!="web"`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertSelector(String);

/// The longest operators come first.
const OPERATORS: [&str; 4] = ["=~", "!~", "!=", "="];

impl AlertSelector {
    /// Takes one matcher or more. Whether a regular expression is one is Prometheus' to say.
    ///
    /// # Errors
    /// In words, where it is not read as Prometheus would read it between braces.
    pub fn parse(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "expected matchers such as severity=\"critical\", alertname!=\"CloseWaitLeak\"";
        let wrong = |what: &str| format!("{EXPECTED}: {what}");
        let mut rest = text.trim();
        loop {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            let (label, after) = rest.split_at(end);
            if label.is_empty() || label.starts_with(|c: char| c.is_ascii_digit()) {
                return Err(wrong(&format!("a label is missing at `{rest}`")));
            }
            if label == "alertstate" {
                return Err(wrong("`alertstate` is not chosen: alerts that fire are meant"));
            }
            let after = after.trim_start();
            let operator = OPERATORS.into_iter().find_map(|operator| after.strip_prefix(operator));
            let after = operator.ok_or_else(|| wrong(&format!("after `{label}` comes =, !=, =~ or !~")))?.trim_start();
            let length = quoted(after).ok_or_else(|| wrong(&format!("the value of `{label}` stands in quotes")))?;
            rest = after[length..].trim_start();
            match rest.strip_prefix(',') {
                None if rest.is_empty() => return Ok(Self(text.trim().into())),
                Some(more) if !more.trim().is_empty() => rest = more.trim_start(),
                _ => return Err(wrong(&format!("`{rest}` is too much"))),
            }
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The length of the string in double quotes at the beginning.
fn quoted(text: &str) -> Option<usize> {
    let mut escaped = false;
    let mut characters = text.char_indices();
    characters.next().filter(|(_, quote)| *quote == '"')?;
    for (at, c) in characters {
        match c {
            '\n' => return None,
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(at + 1),
            _ => {}
        }
    }
    None
}

impl fmt::Display for AlertSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An alert that fires, by its labels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FiringAlert(pub BTreeMap<String, String>);

/// Labels that are said of an alert, beside its name.
const LABELS_SAID: usize = 4;

impl fmt::Display for FiringAlert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.0.get("alertname").map_or("an alert without a name", String::as_str);
        let others = self.0.iter().filter(|(key, _)| !matches!(key.as_str(), "alertname" | "alertstate" | "__name__"));
        let others: Vec<String> = others.take(LABELS_SAID).map(|(key, value)| format!("{key}={value}")).collect();
        match others.is_empty() {
            true => f.write_str(name),
            false => write!(f, "{name} ({})", others.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matchers_are_taken_as_prometheus_writes_them() {
        for text in [
            r#"severity="critical""#,
            r#" severity = "critical" , alertname !~ "CloseWait.*" "#,
            r#"a="\"}, b",_b2!="x""#,
            r#"a=~"x|y""#,
        ] {
            assert_eq!(AlertSelector::parse(text).map(|selector| selector.0), Ok(text.trim().to_owned()));
        }
        for (text, says) in [
            ("", "a label is missing at ``"),
            ("severity", "after `severity` comes =, !=, =~ or !~"),
            ("severity=critical", "the value of `severity` stands in quotes"),
            (r#"severity="critical"#, "the value of `severity` stands in quotes"),
            (r#"severity="critical","#, "`,` is too much"),
            (r#"severity="critical"} or vector(1) #"#, "`} or vector(1) #` is too much"),
            (r#"2="x""#, "a label is missing"),
            (r#"alertstate="pending""#, "alerts that fire are meant"),
        ] {
            let wrong = AlertSelector::parse(text).unwrap_err();
            assert!(wrong.contains(says), "{text}: {wrong}");
        }
    }

    #[test]
    fn an_alert_is_said_by_its_name_and_a_few_labels() {
        let alert = |labels: &[(&str, &str)]| {
            FiringAlert(labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()).to_string()
        };
        assert_eq!(alert(&[("alertname", "Down"), ("alertstate", "firing")]), "Down");
        assert_eq!(alert(&[("alertname", "Down"), ("team", "web")]), "Down (team=web)");
        assert_eq!(alert(&[]), "an alert without a name");
    }
}
