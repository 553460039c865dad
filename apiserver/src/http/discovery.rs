//! What the server can do: discovery, OpenAPI and version documents.
//!
//! In: the catalog. Out: documents that are made on first use and kept, each with an entity tag so that clients need not
//! fetch them twice.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use bytes::Bytes;
use gantry_api::kinds::Catalog;
use gantry_api::{ApiError, discovery, openapi};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

use super::negotiate::{self, Format, Offer};
use super::{respond, status};
use crate::aggregation::{Aggregator, Published};
use crate::registry::LiveCatalog;

/// The Kubernetes version whose API this is.
pub const KUBERNETES_VERSION: &str = "v1.35.4";
/// The aggregated form.
pub(super) const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
/// The protobuf form of OpenAPI version 2, by its name and its old name.
const OPENAPI_PROTOBUF: [&str; 2] = [
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
];

/// A document and its entity tag.
#[derive(Clone)]
struct Document {
    bytes: Bytes,
    etag: HeaderValue,
    /// What others say in it.
    others: Vec<Arc<Published>>,
}

/// What was made of one state of the catalog.
#[derive(Default)]
struct Made {
    version: u64,
    documents: HashMap<String, Document>,
}

/// The documents made so far.
pub struct Documents {
    catalog: Arc<LiveCatalog>,
    address: SocketAddr,
    made: Mutex<Made>,
}

impl Documents {
    /// Documents about `catalog`, served at `address`.
    pub fn new(catalog: Arc<LiveCatalog>, address: SocketAddr) -> Self {
        Self { catalog, address, made: Mutex::default() }
    }

    fn get(&self, name: &str, make: impl FnOnce(&Catalog) -> Option<Value>) -> Option<Document> {
        self.get_bytes(name, &[], |catalog| make(catalog).map(|value| Bytes::from(value.to_string())))
    }

    /// The document of a name, in which others say this.
    fn get_bytes(
        &self,
        name: &str,
        others: &[Arc<Published>],
        make: impl FnOnce(&Catalog) -> Option<Bytes>,
    ) -> Option<Document> {
        let version = self.catalog.version();
        {
            let mut made = self.made.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if made.version != version {
                *made = Made { version, ..Made::default() };
            }
            let same = |known: &&Document| {
                known.others.len() == others.len() && known.others.iter().zip(others).all(|(a, b)| Arc::ptr_eq(a, b))
            };
            if let Some(known) = made.documents.get(name).filter(same) {
                return Some(known.clone());
            }
        }
        let bytes = make(&self.catalog.now())?;
        let document = Document { etag: etag(&bytes), bytes, others: others.to_vec() };
        let mut made = self.made.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if made.version == version {
            made.documents.insert(name.to_owned(), document.clone());
        }
        Some(document)
    }

    /// Answers a path of discovery or OpenAPI; none if the path is neither.
    pub fn answer(&self, path: &str, headers: &HeaderMap, aggregator: &Aggregator) -> Option<Response<Body>> {
        let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
        let aggregated = negotiate::accepts_aggregated_discovery(accept);
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let (content_type, document) = match parts.as_slice() {
            ["api"] if aggregated => {
                (AGGREGATED, self.get("/api as", |catalog| Some(discovery::aggregated_api(catalog))))
            }
            ["apis"] if aggregated => {
                (AGGREGATED, self.get("/apis as", |catalog| Some(discovery::aggregated_apis(catalog))))
            }
            ["api"] => {
                let address = self.address.to_string();
                ("application/json", self.get("/api", |catalog| Some(discovery::api_versions(catalog, &address))))
            }
            ["apis"] => ("application/json", self.get("/apis", |catalog| Some(discovery::group_list(catalog)))),
            ["api", version] => {
                ("application/json", self.get(path, |catalog| discovery::resource_list(catalog, "", version)))
            }
            ["apis", group] => ("application/json", self.get(path, |catalog| discovery::group(catalog, group))),
            ["apis", group, version] => {
                ("application/json", self.get(path, |catalog| discovery::resource_list(catalog, group, version)))
            }
            ["openapi", "v2"] => {
                let others = aggregator.published();
                let parts = || others.iter().map(|other| &other.part);
                // kubectl up to 1.28 reads this form only. Its old name is no media type, so the answer has the new one.
                if OPENAPI_PROTOBUF.iter().any(|form| accept.is_some_and(|accept| accept.contains(form))) {
                    let make = |catalog: &Catalog| Some(Bytes::from(openapi::v2_protobuf(catalog, parts())));
                    let document = self.get_bytes("/openapi/v2 protobuf", &others, make);
                    return document.map(|document| serve(&document, OPENAPI_PROTOBUF[0], headers));
                }
                if !negotiate::accepts_json(accept) {
                    return Some(status::response(
                        &ApiError::not_acceptable("only the following media types are accepted: application/json"),
                        Format::Json,
                    ));
                }
                let make = |catalog: &Catalog| Some(Bytes::from(openapi::v2(catalog, parts()).to_string()));
                ("application/json", self.get_bytes("/openapi/v2", &others, make))
            }
            ["openapi", "v3"] => {
                ("application/json", self.get("/openapi/v3", |catalog| Some(openapi::v3_index(catalog))))
            }
            ["openapi", "v3", "api", version] => {
                ("application/json", self.get(path, |catalog| openapi::v3_group(catalog, "", version)))
            }
            ["openapi", "v3", "apis", group, version] => {
                ("application/json", self.get(path, |catalog| openapi::v3_group(catalog, group, version)))
            }
            // People read it as it comes, so it is written for them.
            ["version"] => {
                let text = format!("{:#}", version());
                return Some(respond::respond(StatusCode::OK, "application/json", text));
            }
            _ => return None,
        };
        let Some(document) = document else {
            return Some(status::response(&status::no_such_path(), negotiate::error_format(accept)));
        };
        if parts[0] == "openapi" || content_type == AGGREGATED {
            return Some(serve(&document, content_type, headers));
        }
        // The older documents of discovery are objects as others are.
        Some(in_accepted_format(document, accept).map_or_else(
            |error| status::response(&error, negotiate::error_format(accept)),
            |(document, format)| serve(&document, format.content_type(), headers),
        ))
    }
}

fn in_accepted_format(document: Document, accept: Option<&str>) -> Result<(Document, Format), ApiError> {
    let format = negotiate::accept(accept, Offer::DOCUMENT)?.format;
    let bytes = respond::in_format(format, document.bytes.clone())?;
    Ok((Document { bytes, ..document }, format))
}

/// The entity tag of a document.
pub(super) fn etag(bytes: &[u8]) -> HeaderValue {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
    HeaderValue::from_str(&format!("\"{hex}\"")).unwrap_or(HeaderValue::from_static("\"\""))
}

fn serve(document: &Document, content_type: &'static str, headers: &HeaderMap) -> Response<Body> {
    let known = headers.get(header::IF_NONE_MATCH).is_some_and(|etag| *etag == document.etag);
    let mut response = if known {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        respond::respond(StatusCode::OK, content_type, document.bytes.clone())
    };
    let headers = response.headers_mut();
    headers.insert(header::ETAG, document.etag.clone());
    headers.insert(header::VARY, HeaderValue::from_static("Accept"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public"));
    response
}

/// `/version`: the Kubernetes version that is spoken, and by whom.
fn version() -> Value {
    let numbers = KUBERNETES_VERSION.trim_start_matches('v');
    let mut parts = numbers.split('.');
    let (major, minor) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    json!({
        "major": major,
        "minor": minor,
        "gitVersion": format!("{KUBERNETES_VERSION}+gantry-{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": "",
        "gitTreeState": "",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, architecture()),
    })
}

/// The architecture by its Go name, which is what clients compare.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
