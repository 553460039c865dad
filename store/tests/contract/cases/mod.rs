//! The scenarios, by what they are about. Each takes an engine and knows only the trait.

pub mod life;
pub mod read;
pub mod watch;
pub mod write;
