//! Descriptions of types and fields, read only for OpenAPI.

/// The descriptions of the built-in types.
#[derive(Debug, Default)]
pub struct Descriptions {}
