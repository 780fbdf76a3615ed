//! Where in a document: `steps[3].wait_drained.timeout`. The path that a decoder walks, and the key under which
//! the marks of the source keep its line and column.

use std::fmt;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Segment {
    Key(String),
    Index(usize),
}

/// A path from the root of one document.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place(Vec<Segment>);

impl Place {
    pub fn root() -> Self {
        Self::default()
    }

    pub fn key(&self, key: &str) -> Self {
        self.with(Segment::Key(key.into()))
    }

    pub fn index(&self, index: usize) -> Self {
        self.with(Segment::Index(index))
    }

    fn with(&self, segment: Segment) -> Self {
        let mut segments = self.0.clone();
        segments.push(segment);
        Self(segments)
    }

    /// One level up; `None` at the root.
    pub fn parent(&self) -> Option<Self> {
        let (_, above) = self.0.split_last()?;
        Some(Self(above.to_vec()))
    }

    pub fn segments(&self) -> &[Segment] {
        &self.0
    }

    /// The last key on the way, which is what a person would call this place.
    pub fn name(&self) -> Option<&str> {
        self.0.iter().rev().find_map(|segment| match segment {
            Segment::Key(key) => Some(key.as_str()),
            Segment::Index(_) => None,
        })
    }

    /// The place with its indices left open: `services[].health`.
    pub fn pattern(&self) -> String {
        self.spell(|_| "[]".into())
    }

    fn spell(&self, index: impl Fn(usize) -> String) -> String {
        let mut text = String::new();
        for segment in &self.0 {
            match segment {
                Segment::Key(key) => {
                    if !text.is_empty() {
                        text.push('.');
                    }
                    text.push_str(key);
                }
                Segment::Index(at) => text.push_str(&index(*at)),
            }
        }
        text
    }
}

impl From<&serde_path_to_error::Path> for Place {
    /// An enum's variant is its key in YAML.
    fn from(path: &serde_path_to_error::Path) -> Self {
        use serde_path_to_error::Segment as Theirs;
        Self(
            path.iter()
                .filter_map(|segment| match segment {
                    Theirs::Seq { index } => Some(Segment::Index(*index)),
                    Theirs::Map { key } => Some(Segment::Key(key.clone())),
                    Theirs::Enum { variant } => Some(Segment::Key(variant.clone())),
                    Theirs::Unknown => None,
                })
                .collect(),
        )
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.spell(|at| format!("[{at}]")))
    }
}
