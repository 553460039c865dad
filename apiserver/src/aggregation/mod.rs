//! Aggregation: groups and versions of the API that another server answers.
//!
//! ```text
//! APIService objects ─▶ routes ─▶ requests are passed on, discovery shows what the other server has
//!                         └─▶ keeper: probes ─▶ Available condition
//! catalog ─▶ keeper: local APIServices for what this server answers itself
//! ```
//!
//! In: the `APIService` objects, Services and EndpointSlices of the watch cache. Out: a [`Route`] for a group and version, and
//! what was last discovered behind each.

mod availability;
mod discovery;
mod keeper;
mod local;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use base64::Engine as _;
use gantry_api::kinds::{Catalog, Resource};
use gantry_api::{codec, meta, openapi};
use serde_json::Value;

pub use discovery::{merge_aggregated, merge_group, merge_groups, merge_openapi};
pub use keeper::keep;

use crate::cacher::Cacher;
use crate::webhook::{Client, ClientConfig, Endpoint, ServiceReference};

/// The group whose objects say what is aggregated: it is never answered by another server.
const OWN_GROUP: &str = "apiregistration.k8s.io";

/// A group and version that another server answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// The APIService's name: `v1.example.com`.
    pub name: String,
    /// The group.
    pub group: String,
    /// The version.
    pub version: String,
    /// How its server is reached.
    pub config: ClientConfig,
    /// Whether it was seen to work.
    pub available: bool,
    /// Groups with more come first in discovery.
    pub group_priority: i64,
    /// Versions with more come first in their group.
    pub version_priority: i64,
}

/// What a server was last seen to have.
#[derive(Debug, Clone, Default)]
pub struct Discovered {
    /// The `APIResourceList` of its group and version.
    pub resources: Value,
    /// Where its OpenAPI version 3 document is; empty if it has none.
    pub openapi: String,
    /// What its OpenAPI version 2 document says about its group and version.
    pub openapi_v2: Option<Arc<Published>>,
}

/// A part of another server's OpenAPI version 2 document.
#[derive(Debug, Default)]
pub struct Published {
    /// The document's entity tag, by which it is asked for again.
    etag: Option<http::HeaderValue>,
    /// The part.
    pub part: openapi::Part,
}

/// All routes as of one revision.
struct Routes {
    changed: u64,
    all: Vec<Arc<Route>>,
    by_version: HashMap<(String, String), Arc<Route>>,
}

/// Knows what is answered elsewhere.
pub struct Aggregator {
    cacher: Arc<Cacher>,
    services: Arc<Resource>,
    client: Client,
    routes: RwLock<Option<Arc<Routes>>>,
    discovered: RwLock<HashMap<String, Arc<Discovered>>>,
}

impl Route {
    fn from_object(object: &Value) -> Option<Self> {
        let spec = object.get("spec")?;
        let service = spec.get("service").filter(|service| service.is_object())?;
        let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let group = text(spec, "group");
        if group == OWN_GROUP {
            return None;
        }
        let port = service.get("port").and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok());
        let ca_bundle = base64::engine::general_purpose::STANDARD.decode(text(spec, "caBundle")).unwrap_or_default();
        let conditions = object.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten();
        let number = |key: &str| spec.get(key).and_then(Value::as_i64).unwrap_or_default();
        Some(Self {
            name: meta::name(object).to_owned(),
            version: text(spec, "version"),
            config: ClientConfig {
                endpoint: Endpoint::Service(ServiceReference {
                    namespace: text(service, "namespace"),
                    name: text(service, "name"),
                    path: String::new(),
                    port: port.unwrap_or(443),
                }),
                ca_bundle,
                insecure: spec.get("insecureSkipTLSVerify").and_then(Value::as_bool).unwrap_or(false),
            },
            available: conditions.into_iter().any(|c| c["type"] == "Available" && c["status"] == "True"),
            group_priority: number("groupPriorityMinimum"),
            version_priority: number("versionPriority"),
            group,
        })
    }

    /// The Service behind it.
    fn service(&self) -> Option<&ServiceReference> {
        match &self.config.endpoint {
            Endpoint::Service(service) => Some(service),
            Endpoint::Url(_) => None,
        }
    }

    /// `/apis/GROUP/VERSION`, or `/api/VERSION` for the core group.
    pub fn path(&self) -> String {
        if self.group.is_empty() {
            return format!("/api/{}", self.version);
        }
        format!("/apis/{}/{}", self.group, self.version)
    }
}

impl Aggregator {
    /// Follows the `APIService` objects. `client` presents what other servers trust.
    pub fn new(cacher: Arc<Cacher>, catalog: &Catalog, client: Client) -> Self {
        let services = catalog.resource(OWN_GROUP, "v1", "apiservices").cloned();
        let services = services.expect("APIService is a built-in kind");
        Self { cacher, services, client, routes: RwLock::new(None), discovered: RwLock::default() }
    }

    /// The way to the server of a group and version, if it is another one.
    pub fn route(&self, group: &str, version: &str) -> Option<Arc<Route>> {
        let routes = self.routes()?;
        if routes.all.is_empty() {
            return None;
        }
        routes.by_version.get(&(group.to_owned(), version.to_owned())).cloned()
    }

    /// All groups and versions that other servers answer, in the order of discovery, each with what it was last seen to have.
    pub fn all(&self) -> Vec<(Arc<Route>, Option<Arc<Discovered>>)> {
        let Some(routes) = self.routes() else { return Vec::new() };
        let discovered = self.discovered.read().unwrap_or_else(PoisonError::into_inner);
        routes.all.iter().map(|route| (Arc::clone(route), discovered.get(&route.name).cloned())).collect()
    }

    /// What other servers say in OpenAPI version 2, in the order of discovery.
    pub fn published(&self) -> Vec<Arc<Published>> {
        self.all().into_iter().filter_map(|(_, found)| found?.openapi_v2.clone()).collect()
    }

    /// What a server was last seen to have.
    fn discovered(&self, name: &str) -> Option<Arc<Discovered>> {
        self.discovered.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Opens connections to other servers.
    pub fn client(&self) -> &Client {
        &self.client
    }

    fn remember(&self, name: &str, found: Discovered) {
        self.discovered.write().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), Arc::new(found));
    }

    fn forget_all_but(&self, routes: &[Arc<Route>]) {
        let mut discovered = self.discovered.write().unwrap_or_else(PoisonError::into_inner);
        discovered.retain(|name, _| routes.iter().any(|route| route.name == *name));
    }

    fn routes(&self) -> Option<Arc<Routes>> {
        let cache = self.cacher.resource(&self.services)?;
        let changed = cache.changed();
        let known = self.routes.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(known) = known.filter(|known| known.changed == changed) {
            return Some(known);
        }
        let mut all = Vec::new();
        cache.for_each_below(&self.services.storage_prefix, |entry| {
            // Nearly all are local and name no Service.
            if memchr::memmem::find(&entry.object, b"\"service\"").is_some()
                && let Ok(object) = codec::decode(&entry.object)
                && let Some(route) = Route::from_object(&object)
            {
                all.push(Arc::new(route));
            }
        });
        all.sort_by(|a, b| {
            let order = |route: &Route| (-route.group_priority, route.group.clone(), -route.version_priority);
            order(a).cmp(&order(b)).then_with(|| a.version.cmp(&b.version))
        });
        let by_version =
            all.iter().map(|route| ((route.group.clone(), route.version.clone()), Arc::clone(route))).collect();
        let routes = Arc::new(Routes { changed, all, by_version });
        *self.routes.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&routes));
        Some(routes)
    }
}

/// Headers that tell another server for whom a request is made. They mean something to it only over a connection with the
/// front proxy's certificate.
pub fn identity_headers(identity: &crate::auth::Identity) -> http::HeaderMap {
    let mut headers = http::HeaderMap::new();
    let mut add = |name: &str, value: &str| {
        if let (Ok(name), Ok(value)) =
            (http::HeaderName::from_bytes(name.as_bytes()), http::HeaderValue::from_str(value))
        {
            headers.append(name, value);
        }
    };
    add("x-remote-user", &identity.user);
    if !identity.uid.is_empty() {
        add("x-remote-uid", &identity.uid);
    }
    for group in &identity.groups {
        add("x-remote-group", group);
    }
    for (key, values) in &identity.extra {
        for value in values {
            add(&format!("x-remote-extra-{}", escape_header(key)), value);
        }
    }
    headers
}

/// A key as part of a header's name: what may not stand there is percent-encoded.
fn escape_header(key: &str) -> String {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte);
    key.to_ascii_lowercase()
        .bytes()
        .map(|byte| if legal(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_route_needs_a_service_and_is_never_the_own_group() {
        let mut object = json!({
            "metadata": {"name": "v1.example.com"},
            "spec": {"group": "example.com", "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 10,
                     "insecureSkipTLSVerify": true},
            "status": {"conditions": [{"type": "Available", "status": "True"}]},
        });
        assert!(Route::from_object(&object).is_none());
        object["spec"]["service"] = json!({"namespace": "n", "name": "s", "port": 8443});
        let route = Route::from_object(&object).unwrap();
        assert!(route.available && route.config.insecure);
        assert_eq!((route.path().as_str(), route.service().unwrap().port), ("/apis/example.com/v1", 8443));
        object["spec"]["group"] = json!(OWN_GROUP);
        assert!(Route::from_object(&object).is_none());
    }

    #[test]
    fn an_identity_travels_in_headers() {
        let mut identity = crate::auth::Identity::new("jane", ["devs"]);
        identity.extra.insert("example.com/Key".to_owned(), vec!["a".to_owned(), "b".to_owned()]);
        let headers = identity_headers(&identity);
        assert_eq!(headers["x-remote-user"], "jane");
        assert_eq!(headers.get_all("x-remote-group").iter().count(), 2);
        assert_eq!(headers.get_all("x-remote-extra-example.com%2fkey").iter().count(), 2);
    }
}
