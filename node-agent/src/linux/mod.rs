//! What exists only on Linux: cgroups and the service proxy.
