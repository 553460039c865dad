//! Scenarios of the pod workers: the real worker on a simulated runtime and a small API that only keeps pods.

mod clocks;
mod faults;
mod harness;
pub mod plans;
mod resizes;
mod scenarios;
