//! Who falls ill, and in which way.

#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::EnumIter)]
pub enum Who {
    Registry,
    Restarter,
    Fleet,
    Notifier,
    Probe,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::EnumIter)]
pub enum Illness {
    Refused,
    /// Does what it is asked, 30 s later.
    Slow,
    /// Takes the question, and never answers.
    HalfOpen,
    /// An error of its own, at once: a 5xx.
    Failing,
    /// Says yes, and does nothing.
    Pretending,
    /// Does what it is told, and says of itself what was so before.
    Stale,
    /// Does the first thing that it is told, and is gone before it has answered.
    DiesAfterWrite,
}
