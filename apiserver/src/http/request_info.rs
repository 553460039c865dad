//! What a request asks for, read from its method, path and query alone.
//!
//! In: method, path, the few query parameters that change the verb. Out: [`RequestInfo`], the vocabulary that
//! authorisation, metrics and dispatch share. Nothing here looks a resource up: an unknown one is still parsed.

use http::Method;

/// The attributes of one request, with Kubernetes' meaning of each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// True for `/api/…` and `/apis/…` requests that name a resource.
    pub is_resource: bool,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; for other paths the lower-cased method.
    pub verb: &'static str,
    /// The API group, empty for the core group.
    pub group: String,
    /// The API version.
    pub version: String,
    /// The namespace, empty for cluster-scoped requests and requests over all namespaces.
    pub namespace: String,
    /// The plural resource name.
    pub resource: String,
    /// The subresource, empty for the resource itself.
    pub subresource: String,
    /// The object's name, empty for collections.
    pub name: String,
    /// What follows the subresource (`proxy` paths).
    pub rest: String,
    /// The whole path.
    pub path: String,
}

impl RequestInfo {
    /// Reads a request. `watch` and `field_name` are the query's `watch` flag and a `metadata.name=` field selector.
    pub fn parse(method: &Method, path: &str, watch: bool, field_name: Option<&str>) -> Self {
        let mut info = Self { verb: method_verb(method), path: path.to_owned(), ..Self::default() };
        let segments: Vec<String> = path.split('/').filter(|part| !part.is_empty()).map(decode_segment).collect();
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        let (group, version, mut parts) = match segments.as_slice() {
            ["api", version, rest @ ..] if !rest.is_empty() => ("", *version, rest),
            ["apis", group, version, rest @ ..] if !rest.is_empty() => (*group, *version, rest),
            _ => return info,
        };
        info.group = group.to_owned();
        info.version = version.to_owned();
        info.is_resource = true;
        let mut verb = match *method {
            Method::POST => "create",
            Method::GET | Method::HEAD => "get",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "",
        };
        if parts.len() > 1 && parts[0] == "watch" {
            verb = "watch";
            parts = &parts[1..];
        }
        if parts[0] == "namespaces" && parts.len() > 1 {
            info.namespace = parts[1].to_owned();
            // `namespaces/NAME`, `namespaces/NAME/status` and `…/finalize` are about the namespace itself.
            if parts.len() > 2 && !matches!(parts[2], "status" | "finalize") {
                parts = &parts[2..];
            }
        }
        info.resource = parts[0].to_owned();
        if let Some(name) = parts.get(1) {
            info.name = (*name).to_owned();
        }
        if let Some(subresource) = parts.get(2) {
            info.subresource = (*subresource).to_owned();
        }
        if parts.len() > 3 {
            info.rest = parts[3..].join("/");
        }
        if info.name.is_empty() {
            verb = match verb {
                "get" => "list",
                "delete" => "deletecollection",
                other => other,
            };
        }
        if watch && matches!(verb, "list" | "get") && info.subresource.is_empty() {
            verb = "watch";
        }
        if matches!(verb, "list" | "watch" | "deletecollection")
            && let Some(name) = field_name
            && info.name.is_empty()
        {
            // A collection request for one name is authorised as one for that object.
            info.name = name.to_owned();
        }
        info.verb = verb;
        info
    }

    /// True for requests that may stay open for long: they are exempt from the request timeout.
    pub fn is_long_running(&self) -> bool {
        // The store's administration reads or writes everything there is.
        let operates = !self.is_resource && self.path.starts_with("/gantry/store/");
        operates
            || self.verb == "watch"
            || matches!(self.subresource.as_str(), "log" | "exec" | "attach" | "portforward" | "proxy")
    }
}

/// A path segment without its percent escapes; as it is if they make no text.
fn decode_segment(segment: &str) -> String {
    if !segment.contains('%') {
        return segment.to_owned();
    }
    let bytes = segment.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let escaped =
            segment.get(at + 1..at + 3).filter(|_| *byte == b'%').and_then(|hex| u8::from_str_radix(hex, 16).ok());
        decoded.push(escaped.unwrap_or(*byte));
        at += if escaped.is_some() { 3 } else { 1 };
    }
    String::from_utf8(decoded).unwrap_or_else(|_| segment.to_owned())
}

fn method_verb(method: &Method) -> &'static str {
    match *method {
        Method::GET => "get",
        Method::HEAD => "head",
        Method::POST => "post",
        Method::PUT => "put",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        Method::OPTIONS => "options",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(method: Method, path: &str) -> RequestInfo {
        RequestInfo::parse(&method, path, false, None)
    }

    #[test]
    fn paths_map_to_attributes() {
        let table = [
            (Method::GET, "/api/v1/pods", "list", "", "", "pods", "", ""),
            (Method::GET, "/api/v1/namespaces/a/pods/p", "get", "", "a", "pods", "p", ""),
            (Method::GET, "/api/v1/namespaces/a/pods/p/log", "get", "", "a", "pods", "p", "log"),
            (Method::POST, "/api/v1/namespaces/a/pods/p/binding", "create", "", "a", "pods", "p", "binding"),
            (Method::GET, "/api/v1/namespaces", "list", "", "", "namespaces", "", ""),
            (Method::GET, "/api/v1/namespaces/a", "get", "", "a", "namespaces", "a", ""),
            (Method::PUT, "/api/v1/namespaces/a/finalize", "update", "", "a", "namespaces", "a", "finalize"),
            (
                Method::DELETE,
                "/apis/apps/v1/namespaces/a/deployments",
                "deletecollection",
                "apps",
                "a",
                "deployments",
                "",
                "",
            ),
            (
                Method::PATCH,
                "/apis/apps/v1/namespaces/a/deployments/d/scale",
                "patch",
                "apps",
                "a",
                "deployments",
                "d",
                "scale",
            ),
            (Method::GET, "/api/v1/watch/namespaces/a/pods/p", "watch", "", "a", "pods", "p", ""),
        ];
        for (method, path, verb, group, namespace, resource, name, subresource) in table {
            let info = parse(method, path);
            assert!(info.is_resource, "{path}");
            assert_eq!(
                (
                    info.verb,
                    info.group.as_str(),
                    info.namespace.as_str(),
                    info.resource.as_str(),
                    info.name.as_str(),
                    info.subresource.as_str()
                ),
                (verb, group, namespace, resource, name, subresource),
                "{path}"
            );
        }
    }

    #[test]
    fn escapes_are_read_within_segments_only() {
        let info = parse(Method::GET, "/api/v1/namespaces/a/events/p%3A1%2F2");
        assert_eq!((info.name.as_str(), info.subresource.as_str()), ("p:1/2", ""));
        for odd in ["%", "%4", "%zz", "%ff", "%é"] {
            assert_eq!(decode_segment(odd), odd);
        }
    }

    #[test]
    fn other_paths_are_not_resources() {
        for path in ["/", "/api", "/api/v1", "/apis", "/apis/apps", "/apis/apps/v1", "/healthz", "/openapi/v2"] {
            let info = parse(Method::GET, path);
            assert!(!info.is_resource, "{path}");
            assert_eq!(info.verb, "get");
        }
    }

    #[test]
    fn watch_flag_and_name_selector() {
        let info = RequestInfo::parse(&Method::GET, "/api/v1/nodes", true, Some("n"));
        assert_eq!((info.verb, info.name.as_str()), ("watch", "n"));
        assert!(info.is_long_running());
    }
}
