//! Discovery documents: which groups, versions and resources a server has.

use serde_json::Value;

use crate::kinds::Catalog;

/// `/api`: the versions of the core group. `server_address` is `host:port`.
pub fn api_versions(catalog: &Catalog, server_address: &str) -> Value {
    let _ = (catalog, server_address);
    unimplemented!()
}

/// `/apis`: all named groups.
pub fn group_list(catalog: &Catalog) -> Value {
    let _ = catalog;
    unimplemented!()
}

/// `/apis/GROUP`.
pub fn group(catalog: &Catalog, group: &str) -> Option<Value> {
    let _ = (catalog, group);
    unimplemented!()
}

/// `/api/v1` and `/apis/GROUP/VERSION`.
pub fn resource_list(catalog: &Catalog, group: &str, version: &str) -> Option<Value> {
    let _ = (catalog, group, version);
    unimplemented!()
}

/// `/api` as `APIGroupDiscoveryList` v2.
pub fn aggregated_api(catalog: &Catalog) -> Value {
    let _ = catalog;
    unimplemented!()
}

/// `/apis` as `APIGroupDiscoveryList` v2.
pub fn aggregated_apis(catalog: &Catalog) -> Value {
    let _ = catalog;
    unimplemented!()
}
