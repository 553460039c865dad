//! The way to nodes: what the API server asks of an agent, and what it passes through.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Body;
use common::{Server, pod};
use http_body_util::BodyExt;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// An agent that demands a client certificate, says what it was asked, and echoes on upgraded connections.
async fn agent(server: &Server, name: &str) -> SocketAddr {
    let pki = server.handle.pki();
    let certificate = pki.authority().issue_node(name, &[], jiff::Timestamp::now()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pki.ca_pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(certificate.chain_pem.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(certificate.key_pem.as_bytes()).unwrap(),
        )
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = service_fn(|request| async { Ok::<_, std::convert::Infallible>(answer(request)) });
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .with_upgrades()
                    .await;
            });
        }
    });
    address
}

fn answer(mut request: http::Request<hyper::body::Incoming>) -> http::Response<Body> {
    if request.headers().contains_key("upgrade") {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut stream = TokioIo::new(upgrade.await.unwrap());
            let mut buffer = [0; 1024];
            while let Ok(read) = stream.read(&mut buffer).await {
                if read == 0 {
                    break;
                }
                stream.write_all(&buffer[..read].to_ascii_uppercase()).await.unwrap();
            }
        });
        let protocol = request.headers()["sec-websocket-protocol"].clone();
        return http::Response::builder()
            .status(101)
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-protocol", protocol)
            .header("x-asked", request.uri().to_string())
            .body(Body::empty())
            .unwrap();
    }
    let authorization = request.headers().contains_key("authorization");
    http::Response::builder()
        .header("content-type", "text/plain")
        .body(Body::from(format!("{} authorization={authorization}", request.uri())))
        .unwrap()
}

async fn running_pod(server: &Server) -> common::Client {
    let admin = server.namespace("t").await;
    let address = agent(server, "n1").await;
    admin
        .post("/api/v1/nodes", &json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}}))
        .await
        .expect(201);
    let status = json!({"status": {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": address.port()}},
    }});
    admin.patch("/api/v1/nodes/n1/status", "merge-patch", &status).await.expect(200);
    let mut object = pod("p");
    object["spec"]["nodeName"] = json!("n1");
    admin.post("/api/v1/namespaces/t/pods", &object).await.expect(201);
    admin
}

#[tokio::test]
async fn logs_come_from_the_agent_of_the_pods_node() {
    let server = Server::start().await;
    let admin = running_pod(&server).await;
    let log = admin.get("/api/v1/namespaces/t/pods/p/log?follow=true&tailLines=5&timestamps=true").await;
    assert_eq!(log.text(), "/containerLogs/t/p/main?follow=true&tailLines=5&timestamps=true authorization=false");
    assert_eq!(log.headers["content-type"], "text/plain");
    admin.get("/api/v1/namespaces/t/pods/p/log?container=other").await.refused(
        400,
        "BadRequest",
        "container other is not valid for pod p",
    );
    admin.get("/api/v1/namespaces/t/pods/p/log?tailLines=-1").await.refused(
        422,
        "Invalid",
        "tailLines: Invalid value: -1",
    );
    admin.get("/api/v1/namespaces/t/pods/missing/log").await.refused(404, "NotFound", "pods \"missing\" not found");
    let own = admin.get("/api/v1/nodes/n1/proxy/healthz").await;
    assert_eq!((own.code, own.text().as_str()), (200, "/healthz authorization=false"), "the node's own API");
    admin.post("/api/v1/namespaces/t/pods", &pod("waiting")).await.expect(201);
    let nothing = admin.get("/api/v1/namespaces/t/pods/waiting/log").await;
    assert_eq!((nothing.code, nothing.text().as_str()), (200, ""));
    admin.post("/api/v1/namespaces/t/pods/waiting/exec?command=sh", &json!({})).await.refused(
        400,
        "BadRequest",
        "pod waiting does not have a host assigned",
    );
    let stranger = server.user("somebody", &[]);
    stranger.get("/api/v1/namespaces/t/pods/p/log").await.refused(403, "Forbidden", "cannot get resource \"pods/log\"");
    server.stop().await;
}

#[tokio::test]
async fn upgraded_bytes_pass_through_both_ways() {
    let server = Server::start().await;
    let admin = running_pod(&server).await;
    let headers = [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-protocol", "v5.channel.k8s.io"),
    ];
    let path = "/api/v1/namespaces/t/pods/p/exec?command=sh&command=-c&stdin=true&stdout=true&tty=false";
    let mut response = admin.send("GET", path, &headers, Body::empty()).await;
    assert_eq!(response.status(), 101);
    assert_eq!(response.headers()["sec-websocket-protocol"], "v5.channel.k8s.io");
    assert_eq!(response.headers()["x-asked"], "/exec/t/p/main?command=sh&command=-c&input=true&output=true&tty=false");
    let mut stream = TokioIo::new(hyper::upgrade::on(&mut response).await.unwrap());
    for text in ["hello", "again"] {
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut back = vec![0; text.len()];
        stream.read_exact(&mut back).await.unwrap();
        assert_eq!(back, text.to_ascii_uppercase().as_bytes());
    }
    drop(stream);
    let forwarded =
        admin.send("POST", "/api/v1/namespaces/t/pods/p/portforward?ports=80", &headers, Body::empty()).await;
    assert_eq!(forwarded.headers()["x-asked"], "/portForward/t/p?ports=80");
    server.stop().await;
}

#[tokio::test]
async fn an_agent_that_is_not_there_is_an_error() {
    let server = Server::start().await;
    let admin = running_pod(&server).await;
    let nowhere = json!({"status": {"daemonEndpoints": {"kubeletEndpoint": {"Port": 1}}}});
    admin.patch("/api/v1/nodes/n1/status", "merge-patch", &nowhere).await.expect(200);
    admin.get("/api/v1/namespaces/t/pods/p/log").await.refused(500, "InternalError", "error dialing backend");
    server.stop().await;
}

#[tokio::test]
async fn an_agent_that_is_another_node_is_not_believed() {
    let server = Server::start().await;
    let admin = running_pod(&server).await;
    let impostor = agent(&server, "n2").await;
    let there = json!({"status": {"daemonEndpoints": {"kubeletEndpoint": {"Port": impostor.port()}}}});
    admin.patch("/api/v1/nodes/n1/status", "merge-patch", &there).await.expect(200);
    let answer = admin.send("GET", "/api/v1/namespaces/t/pods/p/log", &[], Body::empty()).await;
    assert_eq!(answer.status(), 500);
    let text = String::from_utf8_lossy(&answer.into_body().collect().await.unwrap().to_bytes()).into_owned();
    assert!(text.contains("not valid for name") || text.contains("certificate"), "{text}");
    server.stop().await;
}
