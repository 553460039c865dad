//! Gantry's own kinds as Rust types, and the CustomResourceDefinitions generated from them.
//!
//! There are none yet: everything served today is one of Kubernetes' own kinds, which are rows of facts in `gantry-api`.
//! The package stands so that the dependency table of `docs/architecture.md` is whole, and kinds that come have a place.
