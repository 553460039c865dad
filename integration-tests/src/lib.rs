//! Harness of the integration tests: real clusters, real clients, and what is needed to wait, look and clean up.
//!
//! A [`Cluster`] lives in a network namespace of its own, so that clusters run beside each other on their default ports,
//! and nothing leaves the machine. What it starts is written into the ledger that `cargo xtask clean-up` reads, is ended
//! by pid when the cluster is dropped, and its state is printed when a test fails.
//!
//! `cargo xtask test` builds what the tests need and names it in the environment: `GANTRY_BINARY`, `GANTRY_IMAGES`,
//! `GANTRY_KUBECTL`, `GANTRY_WORK_DIR`; and the clients, `GANTRY_CLIENTS`, `GANTRY_GO`, `GANTRY_KUBECTL_FOLDERS`.

pub mod bench;
pub mod cluster;
pub mod command;
pub mod docs;
pub mod kubectl;
pub mod left;
pub mod process;
pub mod shared;
pub mod tools;

pub use cluster::{Cluster, Options};
pub use command::{Outcome, eventually};
