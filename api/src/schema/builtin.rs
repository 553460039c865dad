//! The schemas of the built-in types.
use std::sync::OnceLock;

use super::SchemaSet;

/// The one set of built-in types.
pub(super) fn set() -> &'static SchemaSet {
    static SET: OnceLock<SchemaSet> = OnceLock::new();
    SET.get_or_init(SchemaSet::default)
}
