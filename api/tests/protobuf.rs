//! Protobuf and JSON say the same: for objects of every built-in kind, what is written is read back whole.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common {
    pub mod random;
}

use bytes::Bytes;
use common::random::{self, Random};
use gantry_api::engine::{self, BodyFormat};
use gantry_api::kinds::{Catalog, Resource};
use gantry_api::protobuf::{self, ProtobufError};
use gantry_api::{codec, schema::SchemaSet};
use proptest::prelude::*;
use serde_json::{Value, json};

/// The object that an answer holds, with what the envelope says of it.
fn read(resource: &Resource, body: &[u8]) -> Value {
    let envelope = protobuf::envelope(body).unwrap();
    let mut object = protobuf::message(resource.schema(), envelope.raw).unwrap();
    object["apiVersion"] = envelope.api_version.into();
    object["kind"] = envelope.kind.into();
    object
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn json_to_protobuf_to_json_is_the_identity_for_every_kind(seed in any::<u64>()) {
        let catalog = Catalog::builtin();
        for resource in catalog.iter() {
            let object = random::object(resource, &mut Random::new(seed));
            let stored = codec::encode_whole(&object);
            let body = protobuf::object(resource, &stored).unwrap();
            prop_assert_eq!(read(resource, &body), object, "{}", resource.gvk());
        }
    }

    #[test]
    fn every_type_survives_on_its_own(seed in any::<u64>()) {
        for (name, schema) in SchemaSet::builtin().types() {
            let value = random::value(schema, &mut Random::new(seed), 7, false);
            let mut message = Vec::new();
            protobuf::encode(schema, value.to_string().as_bytes(), &mut message).unwrap();
            prop_assert_eq!(protobuf::message(schema, &message).unwrap(), value, "{}", name);
        }
    }
}

#[test]
fn every_field_that_json_has_is_in_the_messages_too() {
    for (name, schema) in SchemaSet::builtin().types() {
        for field in schema.proto_fields() {
            let told_by_the_envelope = matches!(field.name, "apiVersion" | "kind");
            assert!(field.number != 0 || told_by_the_envelope, "{name}.{} has no number", field.name);
        }
    }
}

#[test]
fn lists_are_objects_behind_each_other() {
    let catalog = Catalog::builtin();
    let pods = catalog.resource("", "v1", "pods").unwrap();
    let items: Vec<Bytes> = (0..3)
        .map(|at| {
            let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("p{at}")}, "spec": {"containers": [{"name": "c"}]}});
            codec::with_resource_version(&codec::encode(&pod), 10 + at)
        })
        .collect();
    let body = protobuf::list(pods, 20, Some("token"), Some(7), items.iter()).unwrap();
    let envelope = protobuf::envelope(&body).unwrap();
    assert_eq!((envelope.api_version, envelope.kind), ("v1", "PodList"));
    // A list's message is that of a type with these two fields, as all lists are; the first is read by hand.
    assert!(envelope.raw.windows(5).any(|part| part == b"token"));
    for at in 0..3 {
        let name = format!("p{at}");
        assert!(envelope.raw.windows(2).any(|part| part == name.as_bytes()), "{name}");
    }
    let partial = protobuf::metadata_list(20, None, None, items.iter()).unwrap();
    assert!(!partial.windows(10).any(|part| part == b"containers"));
    assert_eq!(protobuf::envelope(&partial).unwrap().kind, "PartialObjectMetadataList");
}

#[test]
fn watch_frames_tell_their_length() {
    let catalog = Catalog::builtin();
    let pods = catalog.resource("", "v1", "pods").unwrap();
    let frame = protobuf::bookmark(pods, 42, true).unwrap();
    let length = u32::from_be_bytes(frame[..4].try_into().unwrap()) as usize;
    assert_eq!(length, frame.len() - 4);
    assert_eq!(&frame[4..6], [10, 8], "the first field is the type, of eight letters");
    let object = frame.windows(4).position(|part| part == b"k8s\0").unwrap();
    let bookmark = read(pods, &frame[object..]);
    assert_eq!(bookmark["metadata"]["resourceVersion"], "42");
    assert_eq!(bookmark["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
}

#[test]
fn documents_are_known_by_their_kind() {
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "NotFound", "code": 404,
                        "details": {"name": "x", "causes": [{"reason": "R", "message": "m", "field": "f"}], "retryAfterSeconds": 1}});
    let body = protobuf::document(status.to_string().as_bytes()).unwrap();
    let envelope = protobuf::envelope(&body).unwrap();
    let schema = SchemaSet::builtin().get("io.k8s.apimachinery.pkg.apis.meta.v1.Status").unwrap();
    let mut read = protobuf::message(schema, envelope.raw).unwrap();
    read["kind"] = envelope.kind.into();
    read["apiVersion"] = envelope.api_version.into();
    assert_eq!(read, status);
    for (api_version, kind) in [
        ("autoscaling/v1", "Scale"),
        ("policy/v1", "Eviction"),
        ("authentication.k8s.io/v1", "TokenRequest"),
        ("authorization.k8s.io/v1", "SelfSubjectAccessReview"),
        ("meta.k8s.io/v1", "PartialObjectMetadata"),
        ("v1", "APIResourceList"),
        ("apiextensions.k8s.io/v1", "CustomResourceDefinition"),
        ("apiregistration.k8s.io/v1", "APIService"),
        ("rbac.authorization.k8s.io/v1", "Role"),
    ] {
        let document = json!({"apiVersion": api_version, "kind": kind}).to_string();
        assert!(protobuf::document(document.as_bytes()).is_ok(), "{api_version} {kind}");
    }
    let table = protobuf::document(br#"{"kind":"Table","apiVersion":"meta.k8s.io/v1"}"#);
    assert!(matches!(table, Err(ProtobufError::NoMessage(_))));
}

#[test]
fn what_is_read_can_be_stored_and_read_again() {
    // JSON in a message may nest as deep as JSON may by itself; inside an object that may be too deep.
    let schema = SchemaSet::builtin().get("io.k8s.api.apps.v1.ControllerRevision").unwrap();
    for (depth, fits) in [(100, true), (120, false)] {
        let data = format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        let mut message = Vec::new();
        protobuf::encode(schema, format!("{{\"data\":{data}}}").as_bytes(), &mut message).unwrap();
        let read = protobuf::message(schema, &message);
        assert_eq!(read.is_ok(), fits, "{depth}");
        if let Ok(read) = read {
            codec::decode(&codec::encode(&read)).unwrap();
        }
    }
}

#[test]
fn a_body_in_protobuf_is_taken_as_the_same_object_in_json() {
    let catalog = Catalog::builtin();
    let resource = catalog.resource("apps", "v1", "deployments").unwrap();
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {
            "replicas": 0, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{
                "name": "c", "image": "i",
                "readinessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 5},
                "resources": {"limits": {"cpu": "1"}},
            }]}},
        },
    });
    let json_body = codec::encode_whole(&deployment);
    let body = protobuf::object(resource, &json_body).unwrap();
    let decode = |body: &[u8], format| {
        let mut context = common_context();
        engine::decode(resource, body, format, &mut context).unwrap()
    };
    assert_eq!(decode(&body, BodyFormat::Protobuf), decode(&json_body, BodyFormat::Json));
}

fn common_context() -> engine::Context<'static> {
    engine::Context {
        now: jiff::Timestamp::UNIX_EPOCH,
        new_uid: "",
        random_suffix: "",
        manager: "",
        field_validation: engine::FieldValidation::Strict,
        dry_run: false,
        warnings: Vec::new(),
        applied: false,
    }
}
