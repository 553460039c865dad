//! The mirror with nodes that give, break off, lie or refuse: TLS, HTTP and certificates are real, the nodes' contents are not.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use futures::StreamExt as _;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use sha2::{Digest as _, Sha256};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::runtime::oci::hex;

const REPOSITORY: &str = "r.example/team/app";

/// What a made-up node does when it is asked.
#[derive(Clone, Copy)]
enum Nature {
    /// Gives all.
    Good,
    /// Gives the first half of what is asked for, and breaks off.
    Weak,
    /// Gives as much, of something else.
    Wrong,
    /// Has nothing.
    Empty,
}

struct World {
    shared: Arc<Shared>,
    mirror: SocketAddr,
    content: Bytes,
}

/// A certificate authority, and what it gives to nodes.
struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: rcgen::Issuer::new(params, key), pem }
    }

    fn identity(&self, node: &str) -> ServingIdentity {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new([node.to_owned()]).unwrap();
        ServingIdentity {
            cert_chain_pem: params.signed_by(&key, &self.issuer).unwrap().pem(),
            key_pem: key.serialize_pem(),
            client_ca_pem: self.pem.clone(),
        }
    }
}

async fn node(authority: &Authority, name: &str, nature: Nature, content: Bytes) -> Peer {
    let acceptor = tokio_rustls::TlsAcceptor::from(crate::server::tls::config(&authority.identity(name)).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let content = content.clone();
            let answer = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
                let answer = answer(nature, &content, &request);
                async move { Ok::<_, Infallible>(answer) }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
        }
    });
    Peer { node: name.to_owned(), address }
}

fn answer(nature: Nature, content: &Bytes, request: &Request<hyper::body::Incoming>) -> Response<Body> {
    let offset = offset(request.headers());
    let rest = content.slice(usize::try_from(offset).unwrap()..);
    let body = match nature {
        Nature::Good => Body::from(rest),
        Nature::Weak => {
            let half = rest.slice(..rest.len() / 2);
            let pieces = [Ok(half), Err(std::io::Error::other("broken off"))];
            Body::from_stream(futures::stream::iter(pieces).then(|piece| async {
                if piece.is_err() {
                    // What came before is on its way by then.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                piece
            }))
        }
        Nature::Wrong => Body::from(vec![b'?'; rest.len()]),
        Nature::Empty => return Response::builder().status(StatusCode::NOT_FOUND).body(Body::empty()).unwrap(),
    };
    partial(offset, content.len() as u64, body)
}

impl World {
    async fn new(natures: &[(&str, Nature)]) -> Self {
        let content = Bytes::from((0..3_000_000_u32).map(|number| (number % 251) as u8).collect::<Vec<_>>());
        let authority = Authority::new();
        let mut peers = Vec::new();
        for (name, nature) in natures {
            peers.push(node(&authority, name, *nature, content.clone()).await);
        }
        let nobody = tower::service_fn(async |_: Request<kube::client::Body>| {
            Err::<Response<kube::client::Body>, _>(std::io::Error::other("there is no API server"))
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mirror = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            client: Client::new(nobody, "default"),
            node_name: "own".into(),
            fetcher: Fetcher::new(&authority.identity("own"), "own".into()).unwrap(),
            metrics: Metrics::new(&mut Default::default()),
            state: Mutex::default(),
            next: AtomicU64::new(0),
        });
        let pull = Pull { peers, credential_hash: None };
        shared.state().pulls.insert(REPOSITORY.into(), HashMap::from([(0, pull)]));
        tokio::spawn(mirror::serve(listener, shared.clone(), "token".into(), CancellationToken::new()));
        Self { shared, mirror, content }
    }

    fn digest(&self) -> String {
        format!("sha256:{}", hex(&Sha256::digest(&self.content)))
    }

    /// What containerd is given: the status and what came, or what came until it broke off.
    async fn ask(
        &self,
        method: &str,
        repository: &str,
        token: &str,
        from: u64,
    ) -> (StatusCode, Result<Vec<u8>, Vec<u8>>) {
        let (registry, name) = repository.split_once('/').unwrap();
        let uri = format!("/v2/{name}/blobs/{}?ns={registry}", self.digest());
        let mut request = Request::builder().method(method).uri(uri).header(mirror::TOKEN, token);
        if from > 0 {
            request = request.header(header::RANGE, format!("bytes={from}-"));
        }
        let stream = TcpStream::connect(self.mirror).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let answer = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
        let (status, mut body, mut came) = (answer.status(), answer.into_body(), Vec::new());
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => came.extend_from_slice(&frame.into_data().unwrap_or_default()),
                Err(_) => return (status, Err(came)),
            }
        }
        (status, Ok(came))
    }

    async fn get(&self, from: u64) -> (StatusCode, Result<Vec<u8>, Vec<u8>>) {
        self.ask("GET", REPOSITORY, "token", from).await
    }

    fn avoided(&self) -> Vec<String> {
        let mut avoided: Vec<_> = self.shared.state().avoided.keys().cloned().collect();
        avoided.sort();
        avoided
    }
}

#[tokio::test]
async fn what_one_node_begins_another_ends() {
    let world = World::new(&[("empty", Nature::Empty), ("weak", Nature::Weak), ("good", Nature::Good)]).await;
    assert_eq!(world.get(0).await, (StatusCode::OK, Ok(world.content.to_vec())));
    assert_eq!(world.avoided(), ["weak"]);
    let rest = world.content[1_000_000..].to_vec();
    assert_eq!(world.get(1_000_000).await, (StatusCode::PARTIAL_CONTENT, Ok(rest)));
}

#[tokio::test]
async fn what_nobody_ends_is_cut_off_where_it_was_right() {
    let world = World::new(&[("weak", Nature::Weak)]).await;
    let (status, came) = world.get(0).await;
    let came = came.expect_err("it breaks off");
    assert_eq!((status, world.content.starts_with(&came)), (StatusCode::OK, true));
    assert_eq!(world.get(came.len() as u64).await.0, StatusCode::NOT_FOUND, "the registry is asked for the rest");
}

#[tokio::test]
async fn who_gives_something_else_is_not_asked_again() {
    let world = World::new(&[("wrong", Nature::Wrong), ("good", Nature::Good)]).await;
    let (_, came) = world.get(0).await;
    assert!(came.expect_err("it breaks off").len() < world.content.len(), "containerd never has it all");
    assert_eq!(world.avoided(), ["wrong"]);
    assert_eq!(world.get(0).await, (StatusCode::OK, Ok(world.content.to_vec())));
}

#[tokio::test]
async fn a_certificate_is_for_one_node() {
    let world = World::new(&[("other", Nature::Good)]).await;
    for pull in world.shared.state().pulls.values_mut().flat_map(HashMap::values_mut) {
        pull.peers[0].node = "impostor".into();
    }
    assert_eq!(world.get(0).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn only_containerd_has_answers_and_only_during_a_pull() {
    let world = World::new(&[("good", Nature::Good)]).await;
    for (method, repository, token) in [
        ("HEAD", REPOSITORY, "token"),
        ("GET", REPOSITORY, "guess"),
        ("GET", "r.example/team/other", "token"),
        ("GET", "other.example/team/app", "token"),
    ] {
        let (status, _) = world.ask(method, repository, token, 0).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{method} {repository} {token}");
    }
    let pulling = Pulling { shared: world.shared.clone(), repository: REPOSITORY.into(), id: 0 };
    assert_eq!(world.get(0).await.0, StatusCode::OK);
    drop(pulling);
    assert_eq!(world.get(0).await.0, StatusCode::NOT_FOUND);
}
