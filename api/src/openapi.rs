//! OpenAPI documents of the API.

use serde_json::Value;

use crate::kinds::Catalog;

/// `/openapi/v2`.
pub fn v2(catalog: &Catalog) -> Value {
    let _ = catalog;
    unimplemented!()
}

/// `/openapi/v3`: each group-version's path and the hash of its document.
pub fn v3_index(catalog: &Catalog) -> Value {
    let _ = catalog;
    unimplemented!()
}

/// `/openapi/v3/api/v1`, `/openapi/v3/apis/GROUP/VERSION`.
pub fn v3_group(catalog: &Catalog, group: &str, version: &str) -> Option<Value> {
    let _ = (catalog, group, version);
    unimplemented!()
}
