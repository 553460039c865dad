//! Encryption at rest, seen from outside: what the engine holds, and what the API says when keys are missing or change.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::sync::Arc;

use common::Server;
use gantry_store::{Op, Store, Target};
use serde_json::{Value, json};

const SECRET_TEXT: &str = "correct horse battery staple";

fn secret(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"password": SECRET_TEXT}})
}

async fn engine(dir: &tempfile::TempDir) -> Arc<dyn Store> {
    gantry_store::open(&Target::Embedded(dir.path().join("store")), gantry_store::Options::default()).await.unwrap()
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|part| part == text.as_bytes())
}

/// Whether one of the store's files holds the secret, in plain or in the base64 that the API shows.
fn file_holds_secret(dir: &tempfile::TempDir) -> bool {
    use base64::Engine;
    let encoded = base64::engine::general_purpose::STANDARD.encode(SECRET_TEXT);
    ["store.redb", "store.log"].iter().any(|name| {
        let bytes = std::fs::read(dir.path().join("store").join(name)).unwrap();
        contains(&bytes, SECRET_TEXT) || contains(&bytes, &encoded)
    })
}

#[tokio::test]
async fn secrets_are_stored_encrypted_and_read_in_plain() {
    let server = Server::start().await;
    let admin = server.admin();
    assert_eq!(admin.post("/api/v1/namespaces/default/secrets", &secret("a")).await.code, 201);
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"marker": "visible in the file"}});
    assert_eq!(admin.post("/api/v1/namespaces/default/configmaps", &map).await.code, 201);
    let read = admin.get("/api/v1/namespaces/default/secrets/a").await;
    assert_eq!(read.json()["data"]["password"], "Y29ycmVjdCBob3JzZSBiYXR0ZXJ5IHN0YXBsZQ==");
    let key_file = server.dir.path().join("pki/encryption.yaml");
    #[cfg(unix)]
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&key_file).unwrap()) & 0o777, 0o600);
    let dir = server.stop().await;
    assert!(!file_holds_secret(&dir));
    assert!(contains(&std::fs::read(dir.path().join("store/store.redb")).unwrap(), "visible in the file"));
    // A restart reads it with the same key.
    let server = Server::start_in(dir).await;
    let list = server.admin().get("/api/v1/secrets").await;
    assert_eq!(list.json()["items"][0]["data"]["password"], "Y29ycmVjdCBob3JzZSBiYXR0ZXJ5IHN0YXBsZQ==");
    server.stop().await;
}

#[tokio::test]
async fn a_swapped_value_is_found_out() {
    let server = Server::start().await;
    for name in ["a", "b"] {
        assert_eq!(server.admin().post("/api/v1/namespaces/default/secrets", &secret(name)).await.code, 201);
    }
    let dir = server.stop().await;
    let store = engine(&dir).await;
    let (a, _) = store.get("/registry/core/secrets/default/a").await.unwrap();
    let key = "/registry/core/secrets/default/b".to_owned();
    store.txn(vec![Op::Put { key, value: a.unwrap().value, precondition: None }]).await.unwrap();
    store.close().await.unwrap();
    let server = Server::start_in(dir).await;
    assert_eq!(server.admin().get("/api/v1/namespaces/default/secrets/a").await.code, 200);
    let swapped = server.admin().get("/api/v1/namespaces/default/secrets/b").await;
    assert_eq!(swapped.code, 500, "{}", swapped.json());
    assert!(swapped.json()["message"].as_str().unwrap().contains("does not belong there"), "{}", swapped.json());
    server.stop().await;
}

#[tokio::test]
async fn without_the_key_secrets_fail_clearly_and_all_else_works() {
    let server = Server::start().await;
    assert_eq!(server.admin().post("/api/v1/namespaces/default/secrets", &secret("a")).await.code, 201);
    let dir = server.stop().await;
    let (file, aside) = (dir.path().join("pki/encryption.yaml"), dir.path().join("aside"));
    std::fs::rename(&file, &aside).unwrap();
    let server = Server::start_in(dir).await;
    let admin = server.admin();
    for path in ["/api/v1/namespaces/default/secrets/a", "/api/v1/secrets", "/api/v1/namespaces/default/secrets"] {
        let answer = admin.get(path).await;
        let text = answer.json()["message"].as_str().unwrap_or_default().to_owned();
        assert_eq!(answer.code, 500, "{path}: {text}");
        assert!(text.contains("encryption configuration"), "{path}: {text}");
    }
    let refused = admin.post("/api/v1/namespaces/default/secrets", &secret("b")).await;
    assert!(refused.code >= 500, "never in plain text: {}", refused.json());
    assert_eq!(admin.get("/api/v1/namespaces/other/secrets").await.code, 200, "another namespace has none");
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}});
    assert_eq!(admin.post("/api/v1/namespaces/default/configmaps", &map).await.code, 201);
    assert_eq!(admin.get("/api/v1/configmaps").await.code, 200);
    assert!(!file.exists(), "no new key is made over encrypted values");
    let dir = server.stop().await;
    std::fs::rename(&aside, &file).unwrap();
    let server = Server::start_in(dir).await;
    assert_eq!(server.admin().get("/api/v1/namespaces/default/secrets/a").await.code, 200);
    let dir = server.stop().await;
    assert!(!file_holds_secret(&dir));
}

#[tokio::test]
async fn keys_rotate_under_load() {
    let server = Server::start().await;
    let admin = server.admin();
    for n in 0..40 {
        assert_eq!(admin.post("/api/v1/namespaces/default/secrets", &secret(&format!("s{n}"))).await.code, 201);
    }
    let writer = {
        let admin = server.admin();
        let stop = tokio_util::sync::CancellationToken::new();
        let token = stop.clone();
        let task = tokio::spawn(async move {
            let mut written = 0u32;
            while !token.is_cancelled() {
                let path = format!("/api/v1/namespaces/default/secrets/s{}", written % 40);
                let patch = json!({"metadata": {"labels": {"round": written.to_string()}}});
                let answer = admin.patch(&path, "merge-patch", &patch).await;
                assert_eq!(answer.code, 200, "{}", answer.json());
                written += 1;
            }
            written
        });
        (stop, task)
    };
    let before = std::fs::read_to_string(server.dir.path().join("pki/encryption.yaml")).unwrap();
    let refused = server.user("somebody", &[]).post("/gantry/store/rotate", &json!({"newKey": true})).await;
    assert_eq!(refused.code, 403);
    let answer = admin.post("/gantry/store/rotate", &json!({"newKey": true, "dropOld": true})).await;
    assert_eq!(answer.code, 200, "{}", answer.json());
    let rotation = answer.json();
    assert_eq!(rotation["dropped"].as_array().unwrap().len(), 1, "{rotation}");
    assert!(rotation["rewritten"].as_u64().unwrap() > 0, "{rotation}");
    writer.0.cancel();
    assert!(writer.1.await.unwrap() > 0);
    let after = std::fs::read_to_string(server.dir.path().join("pki/encryption.yaml")).unwrap();
    assert_ne!(before, after);
    let list = admin.get("/api/v1/secrets").await;
    assert_eq!(list.json()["items"].as_array().unwrap().len(), 40);
    let dir = server.stop().await;
    assert!(!file_holds_secret(&dir));
    let store = engine(&dir).await;
    let key = rotation["key"].as_str().unwrap();
    let page = store.list("/registry/core/secrets/", None, 0, None).await.unwrap();
    let mark = format!("gantry:enc:aesgcm:v1:{key}:");
    assert!(page.items.iter().all(|kv| kv.value.starts_with(mark.as_bytes())), "all are encrypted with {key}");
    store.close().await.unwrap();
    let server = Server::start_in(dir).await;
    assert_eq!(server.admin().get("/api/v1/namespaces/default/secrets/s39").await.code, 200, "with the new key alone");
    server.stop().await;
}
