//! Content negotiation: which representation the client accepts, and which one it sent.
//!
//! In: `Accept`, `Content-Type` and `Accept-Encoding` headers. Out: [`Accepted`] and [`BodyKind`]. JSON is the
//! form of the store; protobuf and YAML are answered where they are asked for, and a list or object may be transformed
//! (`as=Table`, …).

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

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `application/json`.
    Json,
    /// `application/yaml`.
    Yaml,
    /// `application/vnd.kubernetes.protobuf`.
    Protobuf,
}

impl Format {
    /// In the order in which they are served to a client that takes any, as Kubernetes orders them.
    const ALL: [Self; 3] = [Self::Json, Self::Yaml, Self::Protobuf];

    /// The `Content-Type` of the answer.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::Json => "application/json",
            Format::Yaml => "application/yaml",
            Format::Protobuf => "application/vnd.kubernetes.protobuf",
        }
    }

    /// The `Content-Type` of a stream of watch events.
    pub fn stream_type(self) -> &'static str {
        match self {
            Format::Json => "application/json",
            Format::Yaml => "application/yaml;stream=watch",
            Format::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        }
    }
}

/// What was agreed on for the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// The transformation of the answer.
    pub transform: Transform,
    /// How it is written.
    pub format: Format,
    /// `pretty=1` was named in the media type.
    pub pretty: bool,
}

/// What can be answered at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// Whether what is shown has messages: everything but custom kinds has.
    pub protobuf: bool,
    /// Whether it may be YAML: everything but a stream may.
    pub yaml: bool,
    /// Whether objects may be shown in another form.
    pub transforms: bool,
}

impl Offer {
    /// Documents that are what they are: errors, discovery.
    pub const DOCUMENT: Self = Self { protobuf: true, yaml: true, transforms: false };

    /// Whether a format can hold what the client wants to see. Tables are told as text only; metadata is the same for all
    /// kinds, so it has messages even where the objects have none.
    fn allows(self, format: Format, transform: Transform) -> bool {
        if format == Format::Yaml && !self.yaml {
            return false;
        }
        match transform {
            Transform::None => format != Format::Protobuf || self.protobuf,
            Transform::Table => self.transforms && format != Format::Protobuf,
            Transform::MetadataOnly => self.transforms,
        }
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

/// Chooses the answer's representation: the first that the client names, or values most, of what is offered.
pub fn accept(header: Option<&str>, offer: Offer) -> Result<Accepted, ApiError> {
    let Some(header) = header.filter(|header| !header.trim().is_empty()) else {
        return Ok(Accepted { transform: Transform::None, format: Format::Json, pretty: false });
    };
    for range in media_ranges(header) {
        for format in Format::ALL {
            let named = range.kind == format.content_type() || matches!(range.kind, "application/*" | "*/*");
            if !named {
                continue;
            }
            let Some(transform) = transform_of(&range).filter(|transform| offer.allows(format, *transform)) else {
                continue;
            };
            return Ok(Accepted { transform, format, pretty: range.parameter("pretty") == Some("1") });
        }
    }
    // What would be acceptable as a document is told what streams there are.
    let streams_only = !offer.yaml && accept(Some(header), Offer { yaml: true, ..offer }).is_ok();
    Err(not_acceptable(if streams_only { STREAMS } else { DOCUMENTS }))
}

/// The transformation that a media range names; none for one that nobody knows.
fn transform_of(range: &MediaRange<'_>) -> Option<Transform> {
    let Some(name) = range.parameter("as") else { return Some(Transform::None) };
    if range.parameter("g") != Some("meta.k8s.io") || range.parameter("v") != Some("v1") {
        return None;
    }
    match name {
        "Table" => Some(Transform::Table),
        "PartialObjectMetadata" | "PartialObjectMetadataList" => Some(Transform::MetadataOnly),
        _ => None,
    }
}

/// How an error is told to a client that accepts this: in the form of the answer it wanted, or else in JSON.
pub fn error_format(header: Option<&str>) -> Format {
    let plain = |range: &MediaRange<'_>| {
        Format::ALL
            .into_iter()
            .find(|format| range.kind == format.content_type() || matches!(range.kind, "application/*" | "*/*"))
    };
    header.and_then(|header| media_ranges(header).iter().find_map(plain)).unwrap_or(Format::Json)
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

const DOCUMENTS: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
const STREAMS: &str = "application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch";

fn not_acceptable(offered: &str) -> ApiError {
    ApiError::not_acceptable(format!("only the following media types are accepted: {offered}"))
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

    const BUILTIN: Offer = Offer { protobuf: true, yaml: true, transforms: true };
    const CUSTOM: Offer = Offer { protobuf: false, yaml: true, transforms: true };
    const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

    fn agreed(header: &str, offer: Offer) -> (Format, Transform) {
        let accepted = accept(Some(header), offer).unwrap();
        (accepted.format, accepted.transform)
    }

    #[test]
    fn kubectl_get_prefers_a_table() {
        let header = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(agreed(header, BUILTIN), (Format::Json, Transform::Table));
        assert_eq!(agreed(header, Offer::DOCUMENT), (Format::Json, Transform::None));
    }

    #[test]
    fn the_first_of_equals_wins_and_quality_orders() {
        let both = format!("{PROTOBUF},application/json");
        assert_eq!(agreed(&both, BUILTIN), (Format::Protobuf, Transform::None));
        assert_eq!(agreed(&both, CUSTOM), (Format::Json, Transform::None));
        assert_eq!(agreed(&format!("application/json,{PROTOBUF}"), BUILTIN).0, Format::Json);
        assert_eq!(agreed(&format!("application/json;q=0.5,{PROTOBUF};q=0.9"), BUILTIN).0, Format::Protobuf);
        assert_eq!(agreed(&format!("{PROTOBUF};q=0,*/*"), BUILTIN).0, Format::Json);
        assert_eq!(agreed(&format!("text/html,{PROTOBUF};stream=watch"), BUILTIN).0, Format::Protobuf);
        assert_eq!(agreed("application/yaml", BUILTIN).0, Format::Yaml);
    }

    #[test]
    fn what_has_no_messages_is_not_acceptable_as_such() {
        assert!(accept(Some(PROTOBUF), CUSTOM).is_err());
        assert!(accept(Some("text/html"), BUILTIN).is_err());
        assert!(accept(Some(&format!("{PROTOBUF};as=Table;v=v1;g=meta.k8s.io")), BUILTIN).is_err());
        let metadata = format!("{PROTOBUF};as=PartialObjectMetadata;v=v1;g=meta.k8s.io");
        assert_eq!(agreed(&metadata, CUSTOM), (Format::Protobuf, Transform::MetadataOnly));
        let table_or_not =
            format!("{PROTOBUF};as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1;g=meta.k8s.io");
        assert_eq!(agreed(&table_or_not, BUILTIN), (Format::Json, Transform::Table));
    }

    #[test]
    fn errors_are_told_in_the_wanted_form_whatever_it_is() {
        assert_eq!(error_format(None), Format::Json);
        assert_eq!(error_format(Some("text/html")), Format::Json);
        assert_eq!(error_format(Some(&format!("{PROTOBUF};as=Table;v=v1;g=meta.k8s.io"))), Format::Protobuf);
        assert_eq!(error_format(Some("application/yaml")), Format::Yaml);
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
