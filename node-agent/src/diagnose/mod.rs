//! What is wrong with a node, and what to do about it.

#[cfg(target_os = "linux")]
pub mod machine;

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// It is as it should be.
    Good,
    /// It may become bad, or somebody wants it so.
    Odd,
    /// It has to be seen to.
    Bad,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What was looked at, and what was seen.
    pub what: String,
    /// What to do; empty if nothing has to be done.
    pub remedy: String,
}

impl Finding {
    /// As it should be.
    pub fn good(what: impl Into<String>) -> Self {
        Self { level: Level::Good, what: what.into(), remedy: String::new() }
    }

    /// Worth knowing.
    pub fn odd(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level: Level::Odd, what: what.into(), remedy: remedy.into() }
    }

    /// Has to be seen to.
    pub fn bad(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level: Level::Bad, what: what.into(), remedy: remedy.into() }
    }
}
