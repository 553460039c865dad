//! The built-in kinds.
use super::Resource;

/// Every built-in kind.
pub(super) fn resources() -> Vec<Resource> {
    Vec::new()
}
