//! Tables, as kubectl prints them.
//!
//! In: encoded objects. Out: encoded tables, made by the printers of the object model at the present time.

use bytes::Bytes;
use gantry_api::ApiError;
use gantry_api::kinds::Resource;
use gantry_api::table::{self, IncludeObject, ListMeta};
use jiff::Timestamp;

use crate::registry::ListResult;

/// A list as a table.
pub fn list(resource: &Resource, list: &ListResult, include: IncludeObject) -> Result<Bytes, ApiError> {
    let revision = list.revision.to_string();
    let meta = ListMeta {
        resource_version: &revision,
        continue_token: list.continue_token.as_deref(),
        remaining: list.remaining,
    };
    table::table(resource, meta, &list.objects, include, Timestamp::now())
}

/// One object as a table; `headers`: with the columns' definitions, which a watch sends once.
pub fn one(resource: &Resource, object: &Bytes, include: IncludeObject, headers: bool) -> Result<Bytes, ApiError> {
    table::single(resource, object, include, headers, Timestamp::now())
}
