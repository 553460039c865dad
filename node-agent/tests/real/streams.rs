//! The node's API as the API server uses it: over TLS, with a real containerd behind it.

use std::sync::Arc;
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use gantry_node_agent::pods::{PodDirectory, PodEntry};
use gantry_node_agent::runtime::{PodRecord, Runtime};
use gantry_node_agent::server::{self, ServerContext};
use gantry_node_agent::stats::Collector;
use gantry_node_agent::{Metrics, Paths, ServingIdentity};
use prometheus_client::registry::Registry;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_util::sync::CancellationToken;

use crate::harness::{Node, eventually, isolated};

type Socket = WebSocketStream<TlsStream<TcpStream>>;

/// A node's API and what it takes to call it.
struct Served {
    node: Node,
    pods: PodDirectory,
    port: u16,
    issuer: Issuer<'static, KeyPair>,
    ca_pem: String,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Served {
    async fn start() -> Self {
        let node = Node::start().await;
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_pem = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(["test-node".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        let identity =
            ServingIdentity { cert_chain_pem: leaf.pem(), key_pem: key.serialize_pem(), client_ca_pem: ca_pem.clone() };
        let server = server::bind(([127, 0, 0, 1], 0).into(), &identity).await.unwrap();
        let (port, shutdown, pods) = (server.port(), CancellationToken::new(), PodDirectory::default());
        let paths = Paths::new(node.data.as_path());
        let runtime: Arc<dyn Runtime> = node.runtime.clone();
        let drivers = Default::default();
        let stats = Collector::new(runtime, pods.clone(), paths.clone(), "/gantry".into(), "test-node".into(), drivers);
        let context = ServerContext {
            runtime: node.runtime.clone(),
            pods: pods.clone(),
            paths,
            stats: Arc::new(stats),
            metrics: Metrics::new(&mut Registry::default()),
            offer: None,
        };
        let stop = shutdown.clone();
        let task = tokio::spawn(async move { server.serve(context, stop).await.unwrap() });
        Self { node, pods, port, issuer, ca_pem, shutdown, task }
    }

    /// Runs a pod with one container and makes it known to the API.
    async fn run_pod(&self, name: &str, script: &str) -> String {
        let (_, container) = self.node.run_pod(name, script).await;
        let pod = json!({
            "metadata": { "name": name, "namespace": "test", "uid": format!("uid-{name}") },
            "spec": { "containers": [{ "name": "main" }] },
        });
        let pod = Arc::new(serde_json::from_value(pod).unwrap());
        self.pods.put("test", name, PodEntry { pod, record: Arc::new(PodRecord::default()) });
        container
    }

    async fn connect_as(&self, user: &str) -> TlsStream<TcpStream> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, user);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca_pem.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap(),
            )
            .unwrap();
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let name = ServerName::try_from("test-node").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
    }

    async fn connect(&self) -> TlsStream<TcpStream> {
        self.connect_as("kube-apiserver-kubelet-client").await
    }

    /// Status code and body of a plain GET.
    async fn get_as(&self, user: &str, path: &str) -> (u16, String) {
        let mut stream = self.connect_as(user).await;
        let request = format!("GET {path} HTTP/1.1\r\nHost: test-node\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // The end without a close_notify is an end too.
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let code = head.split(' ').nth(1).unwrap().parse().unwrap();
        let chunked = head.to_lowercase().contains("transfer-encoding: chunked");
        (code, if chunked { unchunk(body) } else { body.to_owned() })
    }

    async fn get(&self, path: &str) -> (u16, String) {
        self.get_as("kube-apiserver-kubelet-client", path).await
    }

    async fn websocket(&self, path: &str, protocols: &str) -> (Socket, String) {
        let mut request = format!("ws://test-node{path}").into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", protocols.parse().unwrap());
        let (socket, answer) = tokio_tungstenite::client_async(request, self.connect().await).await.unwrap();
        let chosen = answer.headers()["sec-websocket-protocol"].to_str().unwrap().to_owned();
        (socket, chosen)
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap();
        self.node.stop().await;
    }
}

fn unchunk(mut body: &str) -> String {
    let mut text = String::new();
    while let Some((len, rest)) = body.split_once("\r\n") {
        let len = usize::from_str_radix(len, 16).unwrap();
        if len == 0 {
            break;
        }
        text += &rest[..len];
        body = &rest[len + 2..];
    }
    text
}

/// What came on each channel until the server said goodbye.
async fn read_all(
    socket: &mut (impl StreamExt<Item = Result<Message, tokio_tungstenite::tungstenite::Error>> + Unpin),
) -> [Vec<u8>; 4] {
    let mut channels = [const { Vec::new() }; 4];
    let all = async {
        while let Some(Ok(message)) = socket.next().await {
            if let Message::Binary(data) = message {
                channels[usize::from(data[0])].extend_from_slice(&data[1..]);
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), all).await.expect("the session ends");
    channels
}

fn exec(pod: &str, command: &[&str], options: &str) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(command.iter().map(|word| ("command", word)));
    format!("/exec/test/{pod}/main?{}&{options}", query.finish())
}

#[test]
fn exec_carries_input_output_and_exit_code() {
    isolated("streams::exec_carries_input_output_and_exit_code", || async {
        let served = Served::start().await;
        served.run_pod("web", "sleep 1000").await;

        let path = exec("web", &["sh", "-c", "cat; echo done >&2; exit 3"], "input=1&output=1&error=1");
        let (mut socket, chosen) = served.websocket(&path, "v5.channel.k8s.io, v4.channel.k8s.io").await;
        assert_eq!(chosen, "v5.channel.k8s.io");
        socket.send(Message::Binary(b"\x00hello".as_slice().into())).await.unwrap();
        socket.send(Message::Binary(b"\xff\x00".as_slice().into())).await.unwrap();
        let [_, stdout, stderr, status] = read_all(&mut socket).await;
        assert_eq!((stdout.as_slice(), stderr.as_slice()), (&b"hello"[..], &b"done\n"[..]));
        let status: Value = serde_json::from_slice(&status).unwrap();
        assert_eq!(status["reason"], "NonZeroExitCode");
        assert_eq!(status["details"]["causes"][0]["message"], "3");

        // Large amounts in both directions at once must not stop each other.
        let path = exec("web", &["cat"], "input=1&output=1");
        let (socket, _) = served.websocket(&path, "v5.channel.k8s.io").await;
        let data: Vec<u8> = (0..6_000_000u32).map(|number| (number / 7) as u8).collect();
        let (mut sink, mut stream) = socket.split();
        let sending = async {
            for piece in data.chunks(50_000) {
                let message = [&[0], piece].concat();
                sink.send(Message::Binary(message.into())).await.unwrap();
            }
            sink.send(Message::Binary(b"\xff\x00".as_slice().into())).await.unwrap();
        };
        let ((), [_, stdout, _, status]) = tokio::join!(sending, read_all(&mut stream));
        assert!(stdout == data, "{} of {} bytes came back", stdout.len(), data.len());
        assert_eq!(serde_json::from_slice::<Value>(&status).unwrap()["status"], "Success");

        let path = exec("web", &["echo", "old"], "output=true");
        let (mut socket, chosen) = served.websocket(&path, "v4.channel.k8s.io").await;
        assert_eq!(chosen, "v4.channel.k8s.io");
        assert_eq!(read_all(&mut socket).await[1], b"old\n");

        let path = exec("web", &["sh", "-c", "sleep 0.5; stty size"], "input=1&output=1&tty=1");
        let (mut socket, _) = served.websocket(&path, "v5.channel.k8s.io").await;
        let size = b"\x04{\"Width\":100,\"Height\":40}\n".as_slice();
        socket.send(Message::Binary(size.into())).await.unwrap();
        assert_eq!(read_all(&mut socket).await[1], b"40 100\r\n");

        let path = exec("web", &["/no/such/command"], "output=1");
        let (mut socket, _) = served.websocket(&path, "v5.channel.k8s.io").await;
        let status: Value = serde_json::from_slice(&read_all(&mut socket).await[3]).unwrap();
        assert_eq!(status["status"], "Failure");
        assert!(status["message"].as_str().unwrap().contains("no such file or directory"), "{status}");
        served.stop().await;
    });
}

#[test]
fn spdy_clients_are_passed_through() {
    isolated("streams::spdy_clients_are_passed_through", || async {
        let served = Served::start().await;
        served.run_pod("web", "sleep 1000").await;
        let mut stream = served.connect().await;
        let request = format!(
            "POST {} HTTP/1.1\r\nHost: test-node\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
             X-Stream-Protocol-Version: v4.channel.k8s.io\r\nContent-Length: 0\r\n\r\n",
            exec("web", &["true"], "output=1")
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        assert!(head.starts_with("http/1.1 101"), "{head}");
        assert!(head.contains("x-stream-protocol-version: v4.channel.k8s.io"), "{head}");
        // A PING is answered by the runtime's own SPDY server.
        let ping = [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1];
        stream.write_all(&ping).await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, ping);
        drop(stream);
        served.stop().await;
    });
}

/// What a page of the pod "web" is that is asked for through numbered channels: its last line, as far as it came.
async fn forwarded_page(served: &Served) -> String {
    let (mut socket, chosen) = served.websocket("/portForward/test/web?ports=8080", "v4.channel.k8s.io").await;
    assert_eq!(chosen, "v4.channel.k8s.io");
    for channel in 0..2u8 {
        let Message::Binary(first) = socket.next().await.unwrap().unwrap() else { panic!("not binary") };
        assert_eq!(first.as_ref(), [channel, 0x90, 0x1f]);
    }
    let request = b"\x00GET /index.html HTTP/1.0\r\n\r\n".as_slice();
    socket.send(Message::Binary(request.into())).await.unwrap();
    let mut text = Vec::new();
    while !text.ends_with(b"found\n") {
        match tokio::time::timeout(Duration::from_secs(10), socket.next()).await.unwrap() {
            Some(Ok(Message::Binary(data))) if data.first() == Some(&0) => text.extend_from_slice(&data[1..]),
            Some(Ok(_)) => {}
            Some(Err(_)) | None => break,
        }
    }
    String::from_utf8_lossy(&text).lines().last().map(|line| format!("{line}\n")).unwrap_or_default()
}

#[test]
fn ports_are_forwarded_for_clients_with_numbered_channels() {
    isolated("streams::ports_are_forwarded_for_clients_with_numbered_channels", || async {
        let served = Served::start().await;
        served.run_pod("web", "echo found > /tmp/index.html; exec httpd -f -p 8080 -h /tmp").await;
        // A container runs before its server listens.
        eventually("the page", || async { forwarded_page(&served).await == "found\n" }).await;
        served.stop().await;
    });
}

#[test]
fn logs_are_served_to_the_end_and_errors_are_statuses() {
    isolated("streams::logs_are_served_to_the_end_and_errors_are_statuses", || async {
        let served = Served::start().await;
        served.run_pod("talk", "for i in 1 2 3; do echo line $i; sleep 0.3; done; exit 1").await;
        let (code, body) = served.get("/containerLogs/test/talk/main?follow=true").await;
        assert_eq!((code, body.as_str()), (200, "line 1\nline 2\nline 3\n"));
        let (_, body) = served.get("/containerLogs/test/talk/main?tailLines=1&timestamps=true").await;
        assert!(body.starts_with("20") && body.ends_with("Z line 3\n"), "{body}");

        let message = |body: &str| serde_json::from_str::<Value>(body).unwrap()["message"].as_str().unwrap().to_owned();
        let (code, body) = served.get("/containerLogs/test/talk/main?previous=true").await;
        assert_eq!(code, 400);
        assert_eq!(message(&body), "previous terminated container \"main\" in pod \"talk\" not found");
        let (code, _) = served.get("/containerLogs/test/nobody/main").await;
        assert_eq!(code, 404);
        let (code, body) = served.get(&exec("talk", &["true"], "")).await;
        assert_eq!((code, message(&body).as_str()), (400, "you must specify at least 1 of stdin, stdout, stderr"));
        let (code, body) = served.get(&exec("talk", &["true"], "output=1")).await;
        assert_eq!((code, message(&body).as_str()), (404, "container not found (\"main\")"));

        let (code, body) = served.get_as("somebody", "/pods").await;
        assert_eq!(code, 403);
        assert!(message(&body).contains("user=somebody"), "{body}");
        assert_eq!(served.get_as("somebody", "/healthz").await, (200, "ok".to_owned()));
        let (code, body) = served.get("/pods").await;
        assert_eq!(code, 200);
        assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["items"][0]["metadata"]["name"], "talk");
        served.stop().await;
    });
}
