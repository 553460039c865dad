//! Random sequences of changes, for tests that hold the engine against the oracle.

pub mod generate;
pub mod random;
