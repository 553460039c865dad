//! What exists only on Linux: cgroups, network links and the service proxy.

pub mod cgroups;
pub mod netlink;
pub mod services;
pub mod usage;
