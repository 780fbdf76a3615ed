//! Spec to compiled: what is missing, out of range, or at odds with something else; and every default, beside its
//! key. Nothing here reads a file.

pub mod bindings;
pub mod condition;
pub mod fields;
mod fleet;
pub mod hooks;
pub mod host;
mod notify;
mod order;
pub mod policy;
pub mod prometheus;
pub mod redis;
mod registries;
pub mod runbook;
pub mod test;
pub mod tls;

use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::diagnostic::{Diagnostic, Diagnostics};
use super::host::TlsFiles;
use super::marks::Marks;
use super::place::Place;
use super::source::Source;
use super::spec::Items;
use super::spec::scalar::Typed;
use crate::model::duration;

/// One file under compilation: says what is wrong where it stands.
pub struct Compiling<'a> {
    pub source: &'a Source,
    pub marks: &'a Marks,
    /// Wrong, and said already: its absence is no further error.
    pub pruned: &'a BTreeSet<Place>,
    pub out: &'a mut Diagnostics,
    /// Files that hold a secret, each with the place that names it.
    pub secrets: Vec<(PathBuf, Diagnostic)>,
    /// Each `tls:` that names something.
    pub tls: Vec<TlsFiles>,
    /// Policies that are named, each with the place that names it.
    pub policies_named: Vec<(String, Diagnostic)>,
}

impl Compiling<'_> {
    /// Something is wrong with the value at `place`.
    pub fn wrong(&mut self, place: &Place, message: impl Into<String>) {
        let position = self.marks.value(place);
        self.out.push(Diagnostic::at(&self.source.path, &self.source.text, position, message));
    }

    /// The value at `place` names a file that holds a secret.
    pub fn secret(&mut self, place: &Place, path: &Path) {
        let position = self.marks.value(place);
        self.secrets.push((path.into(), Diagnostic::at(&self.source.path, &self.source.text, position, "")));
    }

    /// The value at `place` names a policy.
    pub fn policy(&mut self, place: &Place, name: &str) {
        let position = self.marks.value(place);
        self.policies_named.push((name.into(), Diagnostic::at(&self.source.path, &self.source.text, position, "")));
    }

    /// Where the key stands, for what is said of it later.
    pub fn at_key(&self, place: &Place) -> Diagnostic {
        Diagnostic::at(&self.source.path, &self.source.text, self.marks.key(place), "")
    }

    /// Something is wrong with the key, or with the whole of what it holds.
    pub fn wrong_key(&mut self, place: &Place, message: impl Into<String>) {
        let at = self.at_key(place);
        self.out.push(at.saying(message.into()));
    }

    /// Was something at `place`, or within it, wrong already?
    pub fn said(&self, place: &Place) -> bool {
        self.pruned.iter().any(|wrong| wrong.segments().starts_with(place.segments()))
    }

    /// A key that has no default. `example` completes "add …".
    pub fn required<T>(&mut self, within: &Place, key: &str, value: Option<T>, example: &str) -> Option<T> {
        if value.is_none() && !self.pruned.contains(&within.key(key)) {
            self.wrong_key(within, format!("`{key}` is missing: add `{key}: {example}`"));
        }
        value
    }

    /// A duration with its default, within its range.
    pub fn duration(
        &mut self,
        place: &Place,
        value: Option<Typed<Duration>>,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        let Some(Typed(value)) = value else { return default };
        let shown = duration::format(*range.start())..=duration::format(*range.end());
        self.within(place, value, range, shown, duration::format(value))
    }

    /// A count with its default, within its range.
    pub fn count<N: PartialOrd + Display + Copy>(
        &mut self,
        place: &Place,
        value: Option<N>,
        default: N,
        range: RangeInclusive<N>,
    ) -> N {
        let Some(value) = value else { return default };
        let shown = range.start().to_string()..=range.end().to_string();
        self.within(place, value, range, shown, value.to_string())
    }

    fn within<V: PartialOrd>(
        &mut self,
        place: &Place,
        value: V,
        range: RangeInclusive<V>,
        shown: RangeInclusive<String>,
        found: String,
    ) -> V {
        if !range.contains(&value) {
            let name = place.name().unwrap_or_default();
            let message = format!("`{name}` must be from {} to {}, found {found}", shown.start(), shown.end());
            self.wrong(place, message);
        }
        value
    }

    /// A name that goes into metrics, paths and markers.
    pub fn name(&mut self, place: &Place, text: &str) {
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if text.is_empty() || text.len() > 64 || !text.chars().all(fits) || text.starts_with('.') {
            self.wrong(place, "a name has letters, digits, - _ and . only, at most 64 of them");
        }
    }

    /// A command: the program by its full path, and its arguments. Never a shell.
    pub fn argv(&mut self, place: &Place, argv: Items<Typed<String>>) -> Vec<String> {
        let complete = argv.iter().all(Option::is_some);
        let argv: Vec<String> = argv.into_iter().flatten().map(|Typed(word)| word).collect();
        match argv.first() {
            None if complete && !self.said(place) => {
                self.wrong_key(place, "the command is empty: a list such as [/usr/bin/program, argument]");
            }
            Some(program) if complete && !program.starts_with('/') => {
                let what = "a command begins with the program's full path, such as /usr/bin/curl; no shell runs it";
                self.wrong(&place.index(0), what);
            }
            _ => {}
        }
        argv
    }

    /// An absolute path.
    pub fn path(&mut self, place: &Place, text: String) -> PathBuf {
        if !text.starts_with('/') || text.contains('\0') {
            self.wrong(place, "expected a full path, beginning with /");
        }
        text.into()
    }
}

/// The items of a list with their places; what was wrong is left out.
pub fn items<T>(place: &Place, list: Items<T>) -> impl Iterator<Item = (Place, T)> {
    list.into_iter().enumerate().filter_map(|(at, item)| item.map(|item| (place.index(at), item)))
}

pub const fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

pub const fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}

pub const fn minutes(count: u64) -> Duration {
    Duration::from_secs(count * 60)
}

pub const fn hours(count: u64) -> Duration {
    Duration::from_secs(count * 3_600)
}
