//! Protobuf on the wire: objects, lists, watches and errors, each the same as in JSON.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use bytes::{Bytes, BytesMut};
use common::{Answer, Client, Server, config_map, deployment, pod};
use gantry_api::kinds::{Catalog, Gvk};
use gantry_api::protobuf;
use gantry_api::schema::{SchemaRef, SchemaSet};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const CONFIG_MAPS: &str = "/api/v1/namespaces/t/configmaps";

/// The object of an answer, by the schema of the kind that the envelope tells.
fn read(body: &[u8]) -> Value {
    let envelope = protobuf::envelope(body).unwrap();
    let (group, version) = envelope.api_version.split_once('/').unwrap_or(("", envelope.api_version));
    let schema = SchemaSet::builtin().of_kind(&Gvk::new(group, version, envelope.kind)).unwrap();
    let mut object = protobuf::message(schema, envelope.raw).unwrap();
    object["apiVersion"] = envelope.api_version.into();
    object["kind"] = envelope.kind.into();
    object
}

/// The messages in fields 1 and 2 of a message: all lists and watch events are made of those.
fn fields(mut bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut fields = Vec::new();
    while let [tag, rest @ ..] = bytes {
        assert_eq!(tag & 7, 2, "a field that is no message");
        let (mut length, mut shift, mut at) = (0, 0, 0);
        loop {
            length |= usize::from(rest[at] & 0x7f) << shift;
            shift += 7;
            at += 1;
            if rest[at - 1] < 0x80 {
                break;
            }
        }
        fields.push((tag >> 3, &rest[at..at + length]));
        bytes = &rest[at + length..];
    }
    fields
}

fn items(body: &[u8], schema: SchemaRef<'_>) -> Vec<Value> {
    let envelope = protobuf::envelope(body).unwrap();
    let items = fields(envelope.raw).into_iter().filter(|(number, _)| *number == 2);
    items.map(|(_, item)| protobuf::message(schema, item).unwrap()).collect()
}

async fn get(client: &Client, path: &str, accept: &str) -> Answer {
    client.request("GET", path, &[("accept", accept)], Bytes::new()).await
}

struct Frames {
    body: Incoming,
    buffer: BytesMut,
}

impl Frames {
    async fn open(client: &Client, path: &str, accept: &str) -> Self {
        let response = client.send("GET", path, &[("accept", accept)], Bytes::new()).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], format!("{PROTOBUF};stream=watch"));
        Self { body: response.into_body(), buffer: BytesMut::new() }
    }

    async fn next(&mut self) -> (String, Value) {
        loop {
            if let Some(length) = self.buffer.first_chunk::<4>() {
                let length = u32::from_be_bytes(*length) as usize + 4;
                if self.buffer.len() >= length {
                    let frame = self.buffer.split_to(length);
                    let event = fields(&frame[4..]);
                    let kind = String::from_utf8(event[0].1.to_vec()).unwrap();
                    return (kind, read(fields(event[1].1)[0].1));
                }
            }
            let frame = tokio::time::timeout(std::time::Duration::from_secs(20), self.body.frame()).await;
            let frame = frame.expect("no event within twenty seconds").expect("the watch ended").unwrap();
            self.buffer.extend_from_slice(frame.data_ref().unwrap());
        }
    }
}

/// A JSON object without what only JSON's readers see.
fn without(mut object: Value, key: &str) -> Value {
    object["metadata"].as_object_mut().unwrap().remove(key);
    object
}

#[tokio::test]
async fn an_object_goes_in_and_comes_out_in_protobuf() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    let catalog = Catalog::builtin();
    let deployments = catalog.resource("apps", "v1", "deployments").unwrap();
    let body = protobuf::object(deployments, deployment("web").to_string().as_bytes()).unwrap();
    let path = "/apis/apps/v1/namespaces/t/deployments";
    let headers = [("content-type", PROTOBUF), ("accept", "application/vnd.kubernetes.protobuf,application/json")];
    let created = admin.request("POST", path, &headers, body).await;
    assert_eq!(created.code, 201, "{}", created.text());
    assert_eq!(created.headers["content-type"], PROTOBUF);
    let shown = admin.get(&format!("{path}/web")).await.expect(200);
    assert_eq!(read(&created.body), shown);
    assert_eq!(read(&get(&admin, &format!("{path}/web"), PROTOBUF).await.body), shown);
    // What was read is written back with a change.
    let mut changed = read(&created.body);
    changed["spec"]["replicas"] = json!(0);
    let body = protobuf::object(deployments, changed.to_string().as_bytes()).unwrap();
    let updated = admin.request("PUT", &format!("{path}/web"), &headers, body).await;
    assert_eq!(read(&updated.body)["spec"]["replicas"], 0);
    let scale = get(&admin, &format!("{path}/web/scale"), PROTOBUF).await;
    assert_eq!((scale.code, read(&scale.body)["kind"].clone()), (200, json!("Scale")));
    let list = get(&admin, path, PROTOBUF).await;
    assert_eq!(items(&list.body, deployments.schema())[0]["metadata"]["name"], "web");
    server.stop().await;
}

#[tokio::test]
async fn a_watch_in_protobuf_shows_what_one_in_json_shows() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    admin.post(CONFIG_MAPS, &config_map("a")).await.expect(201);
    let path = format!(
        "{CONFIG_MAPS}?watch=true&labelSelector=shown!=no&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"
    );
    let mut json = admin.watch(&path).await;
    let mut messages = Frames::open(&admin, &path, &format!("{PROTOBUF};stream=watch")).await;
    let partial = format!("{PROTOBUF};as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json");
    let mut metadata = Frames::open(&admin, &path, &partial).await;
    for step in 0..6 {
        match step {
            2 => drop(admin.post(CONFIG_MAPS, &config_map("b")).await.expect(201)),
            3 => {
                let hidden = json!({"metadata": {"labels": {"shown": "no"}}});
                admin.patch(&format!("{CONFIG_MAPS}/b"), "merge-patch", &hidden).await.expect(200);
            }
            4 => {
                let shown = json!({"metadata": {"labels": {"shown": "yes"}}});
                admin.patch(&format!("{CONFIG_MAPS}/b"), "merge-patch", &shown).await.expect(200);
            }
            5 => drop(admin.delete(&format!("{CONFIG_MAPS}/b"), &Value::Null).await.expect(200)),
            _ => {}
        }
        let wanted = json.next().await.unwrap();
        let (kind, object) = messages.next().await;
        assert_eq!(wanted["type"], kind.as_str());
        assert_eq!(wanted["object"], object, "{kind}");
        let (kind, shown) = metadata.next().await;
        assert_eq!(wanted["type"], kind.as_str());
        assert_eq!(shown["kind"], "PartialObjectMetadata");
        let removed = "annotations";
        assert_eq!(without(shown, removed)["metadata"], without(object, removed)["metadata"]);
    }
    server.stop().await;
}

#[tokio::test]
async fn errors_and_outcomes_are_told_in_protobuf() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    let missing = get(&admin, &format!("{CONFIG_MAPS}/none"), &format!("{PROTOBUF},application/json")).await;
    assert_eq!((missing.code, missing.headers["content-type"].as_bytes()), (404, PROTOBUF.as_bytes()));
    let status = read(&missing.body);
    assert_eq!(
        (&status["kind"], &status["reason"], &status["code"]),
        (&json!("Status"), &json!("NotFound"), &json!(404))
    );
    assert_eq!(status["details"]["name"], "none");
    // Options in protobuf, and a Status as the answer.
    admin.post(CONFIG_MAPS, &config_map("a")).await.expect(201);
    let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": "another"}});
    let body = protobuf::document(options.to_string().as_bytes()).unwrap();
    let headers = [("content-type", PROTOBUF), ("accept", PROTOBUF)];
    let kept = admin.request("DELETE", &format!("{CONFIG_MAPS}/a"), &headers, body).await;
    assert_eq!((kept.code, read(&kept.body)["reason"].clone()), (409, json!("Conflict")));
    let gone = admin.request("DELETE", &format!("{CONFIG_MAPS}/a"), &headers, Bytes::new()).await;
    assert_eq!((gone.code, read(&gone.body)["status"].clone()), (200, json!("Success")));
    // A watch that starts too early is told so in its first frame.
    let text = get(&admin, CONFIG_MAPS, "text/html").await;
    text.refused(406, "NotAcceptable", "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf");
    let garbage = admin.request("POST", CONFIG_MAPS, &headers, "k8s\0garbage").await;
    assert_eq!((garbage.code, read(&garbage.body)["reason"].clone()), (400, json!("BadRequest")));
    let unknown = admin.request("POST", CONFIG_MAPS, &[("content-type", "text/plain")], "x").await;
    unknown.refused(415, "UnsupportedMediaType", "application/vnd.kubernetes.protobuf");
    server.stop().await;
}

#[tokio::test]
async fn tables_are_text_and_metadata_and_discovery_have_messages() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    admin.post("/api/v1/namespaces/t/pods", &pod("p")).await.expect(201);
    let pods = "/api/v1/namespaces/t/pods";
    let table = format!("{PROTOBUF};as=Table;g=meta.k8s.io;v=v1");
    assert_eq!(get(&admin, pods, &table).await.code, 406);
    let table = get(&admin, pods, &format!("{table},application/json;as=Table;g=meta.k8s.io;v=v1")).await.expect(200);
    assert_eq!(table["kind"], "Table");
    let metadata = get(&admin, pods, &format!("{PROTOBUF};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1")).await;
    let partial = SchemaSet::builtin().of_kind(&Gvk::new("meta.k8s.io", "v1", "PartialObjectMetadata")).unwrap();
    assert_eq!(items(&metadata.body, partial)[0]["metadata"]["name"], "p");
    for path in ["/api", "/apis", "/apis/apps", "/api/v1", "/apis/apps/v1"] {
        let json = admin.get(path).await.expect(200);
        let told = get(&admin, path, PROTOBUF).await;
        assert_eq!((told.code, told.headers["content-type"].as_bytes()), (200, PROTOBUF.as_bytes()), "{path}");
        assert_eq!(read(&told.body)["kind"], json["kind"]);
    }
    let resources = read(&get(&admin, "/apis/apps/v1", PROTOBUF).await.body);
    assert_eq!(resources["resources"], admin.get("/apis/apps/v1").await.expect(200)["resources"]);
    server.stop().await;
}
