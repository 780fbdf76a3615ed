//! A destination's template: who runs the host says in their own words what a message says (minijinja's syntax,
//! docs.rs/minijinja/latest/minijinja/syntax).
//!
//! The first line that it makes is the title, the rest are the lines. It reads nothing but the message, takes 100,000 steps at most, and
//! makes 64 KiB at most.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};

use minijinja::value::Serde;
use minijinja::{Environment, Error, UndefinedBehavior};
use serde_json::json;

use super::incident::{IncidentId, Outcome};
use super::message::{EventKind, Message, StepTold};
use super::reason::Reason;
use super::service::ServiceName;

const STEPS: u64 = 100_000;
const MAX_BYTES: usize = 64 << 10;
/// What a template may name; what a message lacks is `none`.
const VARIABLES: [&str; 13] = [
    "at", "dry_run", "event", "host", "incident", "labels", "lines", "outcome", "policy", "reason", "service", "step",
    "title",
];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(String);

/// What is wrong, and in which line of the template where that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateError {
    pub line: Option<usize>,
    pub says: String,
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line} of the template: {}", self.says),
            None => write!(f, "the template: {}", self.says),
        }
    }
}

impl From<Error> for TemplateError {
    fn from(error: Error) -> Self {
        let kind = error.kind().to_string();
        Self { line: error.line(), says: error.detail().map_or(kind.clone(), |detail| format!("{kind}: {detail}")) }
    }
}

impl Template {
    /// Everything that is wrong with it. It is tried on messages that have all and that have little.
    pub fn read(text: String) -> Result<Self, Vec<TemplateError>> {
        let template = Self(text);
        let environment = environment();
        let named = |line: usize, name: &str| TemplateError {
            line: Some(line),
            says: format!("`{name}` is no variable of a message: there are {}", VARIABLES.join(", ")),
        };
        let parsed = environment.template_from_str(&template.0).map_err(|error| vec![error.into()])?;
        let known = |name: &String| {
            VARIABLES.contains(&name.as_str()) || environment.globals().any(|(global, _)| global == name.as_str())
        };
        let mut unknown: Vec<String> =
            parsed.undeclared_variables(false).into_iter().filter(|name| !known(name)).collect();
        unknown.sort();
        if !unknown.is_empty() {
            let line = |name: &str| template.0.lines().position(|line| line.contains(name)).unwrap_or_default() + 1;
            return Err(unknown.iter().map(|name| named(line(name), name)).collect());
        }
        for sample in samples() {
            template.apply(&sample).map_err(|error| vec![error])?;
        }
        Ok(template)
    }

    /// The message with the title and the lines that the template makes of it.
    pub fn apply(&self, message: &Message) -> Result<Message, TemplateError> {
        let environment = environment();
        let template = environment.template_from_str(&self.0)?;
        let labels = message.labels.iter().filter_map(|label| label.split_once('='));
        let values = json!({
            "at": message.at.to_string(),
            "dry_run": message.dry_run,
            "event": message.event,
            "host": message.host,
            "incident": message.incident,
            "labels": labels.collect::<BTreeMap<_, _>>(),
            "lines": message.lines,
            "outcome": message.outcome,
            "policy": message.policy,
            "reason": message.reason,
            "service": message.service,
            "step": message.step,
            "title": message.title,
        });
        let mut made = Bounded(Vec::new());
        template.render_captured_to(Serde(values), &mut made)?;
        let made = String::from_utf8_lossy(&made.0).into_owned();
        let mut lines = made.trim().lines().map(String::from);
        let Some(title) = lines.next().filter(|title| !title.is_empty()) else {
            return Err(TemplateError { line: None, says: "it makes no text of a message".into() });
        };
        Ok(Message { title, lines: lines.collect(), ..message.clone() })
    }
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(STEPS));
    environment
}

struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_BYTES {
            return Err(io::Error::other(format!("the text is longer than {MAX_BYTES} bytes")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One that has all, and one that has little.
fn samples() -> [Message; 2] {
    let title = "rpc-order.service on bj1-03: completed: recovered";
    let little = Message::new(EventKind::Test, "bj1-03", jiff::Timestamp::UNIX_EPOCH, title);
    let all = Message {
        event: EventKind::End,
        labels: vec!["dc=bj1".into()],
        service: ServiceName::parse("rpc-order.service").ok(),
        policy: Some("close-wait-leak".into()),
        incident: Some(IncidentId("20261122T184329Z-rpc-order-1f3a".into())),
        outcome: Some(Outcome::Completed),
        reason: Some(Reason::Recovered),
        step: Some(StepTold { name: "drain".into(), outcome: "done".into() }),
        lines: vec![Reason::Recovered.says().into()],
        ..little.clone()
    };
    [all, little]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> Vec<(Option<usize>, String)> {
        let errors = Template::read(text.into()).expect_err(text);
        errors.into_iter().map(|error| (error.line, error.says)).collect()
    }

    #[test]
    fn a_template_makes_title_and_lines_of_a_message() {
        let text = "{{ host }}: {{ service or 'the host' }}{% if outcome %} {{ outcome }}{% endif %}\n{% for line in lines %}- {{ line }}\n{% endfor %}";
        let template = Template::read(text.into()).unwrap();
        let [all, little] = samples().map(|sample| template.apply(&sample).unwrap());
        assert_eq!(all.title, "bj1-03: rpc-order.service completed");
        assert_eq!(all.lines, ["- every step is done, and it helped"]);
        assert_eq!((little.title.as_str(), little.lines.len()), ("bj1-03: the host", 0));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let unknown = wrong("{{ host }}\n{{ sevice }} {{ hots }}");
        assert_eq!(unknown.len(), 2);
        assert!(unknown.iter().all(|(line, says)| *line == Some(2) && says.contains("is no variable")), "{unknown:?}");
        assert_eq!(wrong("a\n{{ host")[0].0, Some(2));
        assert_eq!(wrong("{{ host | nonsense }}")[0].0, Some(1));
        assert!(wrong("")[0].1.contains("makes no text"));
    }

    #[test]
    fn a_template_that_never_ends_or_makes_too_much_is_refused() {
        let endless = "{% for a in range(10000) %}{% for b in range(10000) %}{% endfor %}{% endfor %}x";
        assert!(!wrong(endless).is_empty());
        assert!(!wrong("{% for a in range(9000) %}0123456789{% endfor %}").is_empty());
    }
}
