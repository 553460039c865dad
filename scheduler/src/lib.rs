//! Gantry's scheduler.
//!
//! [`core`] decides where pods go: pure, deterministic, usable without a cluster. [`convert`] turns
//! Kubernetes objects into core's types. [`driver`] is the component around it: it watches pods and
//! nodes, keeps the queue, asks the core, binds, and tells users what happened. [`config`] reads how
//! it is to be done. [`defrag`] finds moves that make room. [`review`] answers where pods would go, without placing them.

pub mod config;
pub mod convert;
pub mod core;
pub mod defrag;
pub mod driver;
pub mod fair;
pub mod review;

pub use driver::{Error, Metrics, Options, run};
