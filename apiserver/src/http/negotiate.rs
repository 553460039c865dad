//! Content negotiation: which representation the client accepts, and which one it sent.
//!
//! In: `Accept`, `Content-Type` and `Accept-Encoding` headers. Out: [`Accepted`] and [`BodyKind`]. The wire is JSON;
//! YAML is answered where it is asked for, and a list or object may be transformed (`as=Table`, …).

use gantry_api::ApiError;

/// The transformation a client asks for with `;as=…`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transform {
    /// The object or list itself.
    None,
    /// `as=Table;g=meta.k8s.io;v=v1`.
    Table,
    /// `as=PartialObjectMetadata` or `as=PartialObjectMetadataList`.
    MetadataOnly,
}

/// What was agreed on for the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// The transformation of the answer.
    pub transform: Transform,
    /// YAML instead of JSON.
    pub yaml: bool,
    /// `stream=watch` was named in the media type.
    pub stream: bool,
}

impl Accepted {
    const JSON: Self = Self { transform: Transform::None, yaml: false, stream: false };

    /// The `Content-Type` of the answer.
    pub fn content_type(&self) -> &'static str {
        if self.yaml { "application/yaml" } else { "application/json" }
    }
}

struct MediaRange<'a> {
    kind: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
    quality: u16,
}

impl MediaRange<'_> {
    fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| *value)
    }
}

fn media_ranges(accept: &str) -> Vec<MediaRange<'_>> {
    let mut ranges: Vec<MediaRange<'_>> = accept
        .split(',')
        .filter_map(|item| {
            let mut parts = item.split(';').map(str::trim);
            let kind = parts.next().filter(|kind| !kind.is_empty())?;
            let mut quality = 1000;
            let mut parameters = Vec::new();
            for part in parts {
                let (key, value) = part.split_once('=').unwrap_or((part, ""));
                if key.eq_ignore_ascii_case("q") {
                    quality = value.parse::<f32>().map_or(1000, |q| (q.clamp(0.0, 1.0) * 1000.0) as u16);
                } else {
                    parameters.push((key, value.trim_matches('"')));
                }
            }
            (quality > 0).then_some(MediaRange { kind, parameters, quality })
        })
        .collect();
    ranges.sort_by_key(|range| std::cmp::Reverse(range.quality));
    ranges
}

/// Chooses the answer's representation for a resource request; `tables` says whether transformations are possible here.
pub fn accept(header: Option<&str>, transforms: bool) -> Result<Accepted, ApiError> {
    let Some(header) = header.filter(|header| !header.trim().is_empty()) else {
        return Ok(Accepted::JSON);
    };
    for range in media_ranges(header) {
        let yaml = match range.kind {
            "application/json" | "application/*" | "*/*" => false,
            "application/yaml" => true,
            _ => continue,
        };
        let transform = match range.parameter("as") {
            None => Transform::None,
            Some(_) if !transforms => continue,
            Some(name) => {
                if range.parameter("g") != Some("meta.k8s.io")
                    || !matches!(range.parameter("v"), Some("v1" | "v1beta1"))
                {
                    continue;
                }
                match name {
                    "Table" if range.parameter("v") == Some("v1") => Transform::Table,
                    "PartialObjectMetadata" | "PartialObjectMetadataList" if range.parameter("v") == Some("v1") => {
                        Transform::MetadataOnly
                    }
                    _ => continue,
                }
            }
        };
        return Ok(Accepted { transform, yaml, stream: range.parameter("stream") == Some("watch") });
    }
    Err(not_acceptable())
}

/// Whether the client asked for aggregated discovery, and in which version.
pub fn accepts_aggregated_discovery(header: Option<&str>) -> bool {
    header.is_some_and(|header| {
        for range in media_ranges(header) {
            if range.kind != "application/json" {
                continue;
            }
            match (range.parameter("as"), range.parameter("g"), range.parameter("v")) {
                (Some("APIGroupDiscoveryList"), Some("apidiscovery.k8s.io"), Some("v2")) => return true,
                (None, _, _) => return false,
                _ => {}
            }
        }
        false
    })
}

/// Whether the client takes plain JSON at all (used where another format is preferred but JSON is served).
pub fn accepts_json(header: Option<&str>) -> bool {
    header.is_none_or(|header| {
        header.trim().is_empty()
            || media_ranges(header)
                .iter()
                .any(|range| matches!(range.kind, "application/json" | "application/*" | "*/*"))
    })
}

fn not_acceptable() -> ApiError {
    ApiError::not_acceptable("only the following media types are accepted: application/json, application/yaml")
}

/// Whether `gzip` is among the accepted encodings.
pub fn accepts_gzip(header: Option<&str>) -> bool {
    header.is_some_and(|header| {
        header.split(',').any(|item| {
            let mut parts = item.split(';').map(str::trim);
            parts.next() == Some("gzip") && !parts.any(|part| matches!(part, "q=0" | "q=0.0"))
        })
    })
}

/// What a request body is, by its `Content-Type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyKind {
    /// `application/json`, or none given.
    Json,
    /// `application/yaml`.
    Yaml,
    /// `application/vnd.kubernetes.protobuf`.
    Protobuf,
    /// `application/json-patch+json`.
    JsonPatch,
    /// `application/merge-patch+json`.
    MergePatch,
    /// `application/strategic-merge-patch+json`.
    StrategicMergePatch,
    /// `application/apply-patch+yaml`.
    Apply,
}

fn media_type(header: &str) -> &str {
    header.split(';').next().unwrap_or("").trim()
}

/// The kind of an object body (create, update, delete options).
pub fn object_body(content_type: Option<&str>) -> Result<BodyKind, ApiError> {
    match content_type.map(media_type) {
        None | Some("" | "application/json") => Ok(BodyKind::Json),
        Some("application/yaml" | "application/x-yaml" | "text/yaml") => Ok(BodyKind::Yaml),
        Some("application/vnd.kubernetes.protobuf") => Ok(BodyKind::Protobuf),
        Some(_) => Err(ApiError::unsupported_media_type(
            "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf",
        )),
    }
}

/// The kind of a patch body.
pub fn patch_body(content_type: Option<&str>) -> Result<BodyKind, ApiError> {
    match content_type.map(media_type) {
        Some("application/json-patch+json") => Ok(BodyKind::JsonPatch),
        Some("application/merge-patch+json") => Ok(BodyKind::MergePatch),
        Some("application/strategic-merge-patch+json") => Ok(BodyKind::StrategicMergePatch),
        Some("application/apply-patch+yaml") => Ok(BodyKind::Apply),
        _ => Err(ApiError::unsupported_media_type(
            "the body of the request was in an unknown format - accepted media types include: \
             application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml, application/strategic-merge-patch+json",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubectl_get_prefers_a_table() {
        let header = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(accept(Some(header), true).unwrap().transform, Transform::Table);
        assert_eq!(accept(Some(header), false).unwrap().transform, Transform::None);
    }

    #[test]
    fn only_protobuf_is_refused_and_protobuf_with_json_is_json() {
        assert!(accept(Some("application/vnd.kubernetes.protobuf"), true).is_err());
        let both = accept(Some("application/vnd.kubernetes.protobuf,application/json"), true).unwrap();
        assert_eq!(both, Accepted::JSON);
    }

    #[test]
    fn aggregated_discovery_is_seen_by_preference() {
        let kubectl = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
        assert!(accepts_aggregated_discovery(Some(kubectl)));
        assert!(!accepts_aggregated_discovery(Some("application/json")));
        assert!(!accepts_aggregated_discovery(None));
    }

    #[test]
    fn body_types() {
        assert_eq!(object_body(Some("application/json; charset=utf-8")).unwrap(), BodyKind::Json);
        assert!(object_body(Some("text/plain")).is_err());
        assert_eq!(patch_body(Some("application/apply-patch+yaml")).unwrap(), BodyKind::Apply);
        assert!(patch_body(Some("application/json")).is_err());
    }

    #[test]
    fn gzip() {
        assert!(accepts_gzip(Some("gzip")));
        assert!(accepts_gzip(Some("deflate, gzip;q=1.0")));
        assert!(!accepts_gzip(Some("gzip;q=0")));
        assert!(!accepts_gzip(None));
    }
}
