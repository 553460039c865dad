//! The agent's parts against a real containerd: what is promised about containers, images,
//! streams and clean-up, with the parts that a node has. Each test runs in a network namespace
//! and a temporary folder of its own and takes down what it started.
//!
//! They need root, containerd, runc, the CNI plug-ins, nft and a static busybox; without them
//! they say so and count as skipped, except on CI, where that is a failure.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod harness;
mod images;
mod leaks;
mod runtime;
mod services;
mod streams;
