//! Messages in their envelopes: objects, lists, and the frames of watches.
//!
//! In: the JSON bytes of objects. Out: whole answers. An answer begins with `k8s\0`; a watch frame with its length.

use std::convert::Infallible;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::encode::{self, encode, nested};
use super::{MAGIC, ProtobufError, Result};
use crate::kinds::{Gvk, Resource, SchemaSource};
use crate::schema::{SchemaRef, SchemaSet};

const PARTIAL: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.PartialObjectMetadata";
const JSON_SCHEMA_PROPS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";

/// The schema of OpenAPI schemas.
pub(super) fn json_schema_props(set: &'static SchemaSet) -> SchemaRef<'static> {
    set.get(JSON_SCHEMA_PROPS).expect("the type is in the generated table, since that of CustomResourceDefinitions is")
}

/// The schema by which a resource's objects are messages; custom kinds have none.
pub fn schema_of(resource: &Resource) -> Option<SchemaRef<'_>> {
    match resource.source {
        SchemaSource::Builtin(_) => Some(resource.schema()),
        SchemaSource::Own(..) => None,
    }
}

fn of_resource(resource: &Resource) -> Result<SchemaRef<'_>> {
    schema_of(resource).ok_or_else(|| ProtobufError::NoMessage(resource.gvk().to_string()))
}

fn partial() -> Result<SchemaRef<'static>> {
    SchemaSet::builtin().get(PARTIAL).ok_or_else(|| ProtobufError::NoMessage(PARTIAL.to_owned()))
}

/// An object of a resource from its JSON.
pub fn object(resource: &Resource, json: &[u8]) -> Result<Bytes> {
    let schema = of_resource(resource)?;
    enveloped(&resource.api_version(), &resource.kind, json.len(), |out| encode(schema, json, out))
}

/// An object's metadata as `PartialObjectMetadata`.
pub fn metadata(json: &[u8]) -> Result<Bytes> {
    let schema = partial()?;
    enveloped("meta.k8s.io/v1", "PartialObjectMetadata", 1024, |out| encode(schema, json, out))
}

/// A document of any kind that the object model knows: `Status`, `Scale`, reviews, discovery.
pub fn document(json: &[u8]) -> Result<Bytes> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct TypeMeta {
        #[serde(default)]
        api_version: String,
        #[serde(default)]
        kind: String,
    }
    let meta: TypeMeta = serde_json::from_slice(json).map_err(|error| ProtobufError::Object(error.to_string()))?;
    let (group, version) = meta.api_version.split_once('/').unwrap_or(("", &meta.api_version));
    let gvk = Gvk::new(group, version, &meta.kind);
    let schema = SchemaSet::builtin().of_kind(&gvk).ok_or_else(|| ProtobufError::NoMessage(gvk.to_string()))?;
    enveloped(&meta.api_version, &meta.kind, json.len(), |out| encode(schema, json, out))
}

/// A list of a resource's objects from their JSON.
pub fn list<'a>(
    resource: &Resource,
    revision: u64,
    continue_token: Option<&str>,
    remaining: Option<u64>,
    items: impl Iterator<Item = &'a Bytes> + Clone,
) -> Result<Bytes> {
    let (schema, api_version) = (of_resource(resource)?, resource.api_version());
    write_list(schema, &api_version, &resource.list_kind, (revision, continue_token, remaining), items)
}

/// A `PartialObjectMetadataList` of objects from their JSON.
pub fn metadata_list<'a>(
    revision: u64,
    continue_token: Option<&str>,
    remaining: Option<u64>,
    items: impl Iterator<Item = &'a Bytes> + Clone,
) -> Result<Bytes> {
    let meta = (revision, continue_token, remaining);
    write_list(partial()?, "meta.k8s.io/v1", "PartialObjectMetadataList", meta, items)
}

fn write_list<'a>(
    schema: SchemaRef<'_>,
    api_version: &str,
    kind: &str,
    (revision, continue_token, remaining): (u64, Option<&str>, Option<u64>),
    items: impl Iterator<Item = &'a Bytes> + Clone,
) -> Result<Bytes> {
    let size = items.clone().map(Bytes::len).sum();
    enveloped(api_version, kind, size, |out| {
        nested(out, 1, |out| {
            encode::bytes(out, 1, b"");
            encode::bytes(out, 2, revision.to_string().as_bytes());
            encode::bytes(out, 3, continue_token.unwrap_or_default().as_bytes());
            if let Some(remaining) = remaining {
                encode::number(out, 4, i64::try_from(remaining).unwrap_or(i64::MAX));
            }
            Ok(())
        })?;
        for item in items {
            nested(out, 2, |out| encode(schema, item, out))?;
        }
        Ok(())
    })
}

/// `k8s\0` and a `runtime.Unknown` around the message that `write` writes.
fn enveloped(
    api_version: &str,
    kind: &str,
    size: usize,
    write: impl FnOnce(&mut Vec<u8>) -> Result<()>,
) -> Result<Bytes> {
    let mut out = Vec::with_capacity(size + api_version.len() + kind.len() + 32);
    out.extend_from_slice(MAGIC);
    let Ok(()) = nested::<Infallible>(&mut out, 1, |out| {
        encode::bytes(out, 1, api_version.as_bytes());
        encode::bytes(out, 2, kind.as_bytes());
        Ok(())
    });
    nested(&mut out, 2, write)?;
    // The encoding and the type of the content: none but the usual ones. Go writes them, too.
    encode::bytes(&mut out, 3, b"");
    encode::bytes(&mut out, 4, b"");
    Ok(Bytes::from(out))
}

/// One watch event around an object in its envelope, with its length before it.
pub fn watch_frame(event: &str, object: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(object.len() + event.len() + 32);
    out.extend_from_slice(&[0; 4]);
    encode::bytes(&mut out, 1, event.as_bytes());
    let Ok(()) = nested::<Infallible>(&mut out, 2, |out| {
        encode::bytes(out, 1, object);
        Ok(())
    });
    let length = u32::try_from(out.len() - 4).unwrap_or(u32::MAX);
    out[..4].copy_from_slice(&length.to_be_bytes());
    Bytes::from(out)
}

/// A BOOKMARK event of a resource; `initial_events_end` marks the end of a streaming list.
pub fn bookmark(resource: &Resource, revision: u64, initial_events_end: bool) -> Result<Bytes> {
    let json = bookmarked(&crate::codec::bookmark(resource, revision, initial_events_end))?;
    Ok(watch_frame("BOOKMARK", &object(resource, &json)?))
}

/// A BOOKMARK event of a watch for `PartialObjectMetadata`.
pub fn metadata_bookmark(revision: u64, initial_events_end: bool) -> Result<Bytes> {
    let json = bookmarked(&crate::codec::metadata_bookmark(revision, initial_events_end))?;
    Ok(watch_frame("BOOKMARK", &metadata(&json)?))
}

/// The object of a JSON watch event.
fn bookmarked(frame: &[u8]) -> Result<Bytes> {
    #[derive(Deserialize)]
    struct Event<'a> {
        #[serde(borrow)]
        object: &'a RawValue,
    }
    let event: Event<'_> = serde_json::from_slice(frame).map_err(|error| ProtobufError::Object(error.to_string()))?;
    Ok(Bytes::copy_from_slice(event.object.get().as_bytes()))
}
