//! Messages written by hand are read, and what is written is read back.

use super::*;
use crate::schema::{SchemaRef, SchemaSet};
use proptest::prelude::*;
use serde_json::json;

/// Writes messages.
#[derive(Default, Clone)]
struct Message(Vec<u8>);

impl Message {
    fn varint(mut self, mut value: u64) -> Self {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
        self
    }

    fn number(self, field: u64, value: i64) -> Self {
        self.varint(field << 3).varint(value as u64)
    }

    fn bytes(self, field: u64, bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref();
        let mut message = self.varint(field << 3 | 2).varint(bytes.len() as u64);
        message.0.extend_from_slice(bytes);
        message
    }

    fn part(self, field: u64, part: Message) -> Self {
        self.bytes(field, part.0)
    }
}

fn new() -> Message {
    Message::default()
}

fn schema(name: &str) -> SchemaRef<'static> {
    SchemaSet::builtin().get(&format!("io.k8s.api.{name}")).unwrap()
}

#[test]
fn a_config_map_is_read_as_its_json_would_be() {
    let entry = new().bytes(1, "k").bytes(2, "v");
    let meta = new().bytes(1, "name").bytes(2, "").bytes(3, "ns").part(8, new());
    let message = new().part(1, meta).part(2, entry).part(3, new().bytes(1, "b").bytes(2, [0xff, 0]));
    let unknown = new().part(1, new().bytes(1, "v1").bytes(2, "ConfigMap")).part(2, message).bytes(3, "");
    let body = [MAGIC, &unknown.0].concat();
    let envelope = envelope(&body).unwrap();
    assert_eq!((envelope.api_version, envelope.kind), ("v1", "ConfigMap"));
    let read = super::message(schema("core.v1.ConfigMap"), envelope.raw).unwrap();
    assert_eq!(
        read,
        json!({"metadata": {"name": "name", "namespace": "ns"}, "data": {"k": "v"}, "binaryData": {"b": "/wA="}})
    );
}

#[test]
fn inlined_structs_lists_and_special_types_are_read() {
    // A volume: name is field 1, its inlined source field 2; emptyDir is the source's field 2.
    let volume = new().bytes(1, "data").part(2, new().part(2, new().bytes(1, "")));
    let port = new().bytes(1, "http").number(2, 0).number(3, 8080).bytes(4, "TCP");
    let limits = new().part(1, new().bytes(1, "cpu").part(2, new().bytes(1, "50m")));
    let container = new().bytes(1, "main").part(6, port).part(8, limits);
    let spec = new().part(1, volume).part(2, container).number(4, 0);
    let read = message(schema("core.v1.PodSpec"), &spec.0).unwrap();
    assert_eq!(
        read,
        json!({
            "volumes": [{"name": "data", "emptyDir": {}}],
            "containers": [{"name": "main", "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}], "resources": {"limits": {"cpu": "50m"}}}],
            "terminationGracePeriodSeconds": 0,
        })
    );
    let port = new().number(3, 80).part(4, new().number(1, 1).number(2, 0).bytes(3, "http"));
    let read = message(schema("core.v1.ServicePort"), &port.0).unwrap();
    assert_eq!(read, json!({"port": 80, "targetPort": "http"}));
    let taint = new().bytes(1, "k").bytes(3, "NoExecute").part(4, new().number(1, 1_700_000_000));
    let read = message(schema("core.v1.Taint"), &taint.0).unwrap();
    assert_eq!(read["timeAdded"], "2023-11-14T22:13:20Z");
}

#[test]
fn broken_bodies_are_errors() {
    assert_eq!(envelope(b"{}"), Err(ProtobufError::Prefix));
    assert_eq!(envelope(b"k8s\0\x12\x05ab"), Err(ProtobufError::Truncated));
    let overlong = [MAGIC, &[0x08], &[0xff; 11]].concat();
    assert_eq!(envelope(&overlong), Err(ProtobufError::Overflow));
    let number_for_text = new().number(1, 3);
    let error = message(schema("core.v1.Taint"), &number_for_text.0).unwrap_err();
    assert_eq!(error, ProtobufError::WireType(0, "key".into()));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = envelope(&[MAGIC, &bytes].concat());
        for name in ["core.v1.Pod", "apps.v1.Deployment", "core.v1.ConfigMap"] {
            let _ = message(schema(name), &bytes);
        }
    }
}
