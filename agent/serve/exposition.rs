//! Prometheus' text format, version 0.0.4 (prometheus.io/docs/instrumenting/exposition_formats).

use std::fmt::Write;

/// What a number is.
#[derive(Clone, Copy, Debug, strum::Display)]
#[strum(serialize_all = "snake_case")]
pub enum Kind {
    /// Only ever grows, until the agent starts anew.
    Counter,
    Gauge,
}

/// A text in the making: families one after the other, each with all of its samples.
#[derive(Debug, Default)]
pub struct Exposition(String);

impl Exposition {
    pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

    /// A family and its samples, each with its labels; one without samples is left out.
    pub fn family<'a, L: AsRef<[(&'a str, &'a str)]>>(
        &mut self,
        name: &str,
        kind: Kind,
        help: &str,
        samples: impl IntoIterator<Item = (L, f64)>,
    ) {
        let mut begun = false;
        for (labels, value) in samples {
            if !begun {
                begun = true;
                let help = help.replace('\\', "\\\\").replace('\n', "\\n");
                self.put(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
            }
            self.sample(name, labels.as_ref(), value);
        }
    }

    /// How long something took in all, and how often it was done: a summary without quantiles.
    pub fn time_spent(&mut self, name: &str, help: &str, seconds: f64, times: u64) {
        self.put(format_args!(
            "# HELP {name} {help}\n# TYPE {name} summary\n{name}_sum {seconds}\n{name}_count {times}\n"
        ));
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.put(format_args!("{name}"));
        for (at, (label, value)) in labels.iter().enumerate() {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let before = if at == 0 { '{' } else { ',' };
            self.put(format_args!("{before}{label}=\"{value}\""));
        }
        let end = if labels.is_empty() { "" } else { "}" };
        self.put(format_args!("{end} {value}\n"));
    }

    fn put(&mut self, what: std::fmt::Arguments<'_>) {
        self.0.write_fmt(what).expect("a string takes everything");
    }

    pub fn into_text(self) -> String {
        self.0
    }
}
