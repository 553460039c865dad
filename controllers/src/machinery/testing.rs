//! For tests of what controllers do: a client that answers from a function and notes what it was asked.

use std::sync::{Arc, Mutex};

use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::context::{Caches, Context};
use super::events;
use crate::Options;

/// One request, as a test looks at it.
#[derive(Clone, Debug)]
pub struct Asked {
    /// `GET`, `POST`, …
    pub method: String,
    /// The path without the query.
    pub path: String,
    /// The body, null if there is none.
    pub body: Value,
}

impl Asked {
    /// Method and path.
    pub fn line(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

/// The requests that were made.
pub type Log = Arc<Mutex<Vec<Asked>>>;

/// A Status that says no.
pub fn failure(code: u16, reason: &str, message: &str) -> (u16, Value) {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
        "code": code, "reason": reason, "message": message});
    (code, status)
}

/// A context whose client answers by `answer`; its events go nowhere.
pub fn context(answer: impl Fn(&Asked) -> (u16, Value) + Send + Sync + 'static) -> (Arc<Context>, Log) {
    let log = Log::default();
    let (noted, answer) = (log.clone(), Arc::new(answer));
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let (noted, answer) = (noted.clone(), answer.clone());
        async move {
            let (head, body) = request.into_parts();
            let bytes = body.collect_bytes().await.unwrap();
            let asked = Asked {
                method: head.method.to_string(),
                path: head.uri.path().to_owned(),
                body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
            };
            noted.lock().unwrap().push(asked.clone());
            let (code, value) = answer(&asked);
            let response =
                http::Response::builder().status(code).body(Body::from(serde_json::to_vec(&value).unwrap())).unwrap();
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    let client = Client::new(service, "default");
    let shutdown = CancellationToken::new();
    let (recorder, _) = events::start(client.clone(), shutdown.clone());
    let context = Context {
        watch_client: client.clone(),
        client,
        caches: Caches::default(),
        events: recorder,
        options: Options::default(),
        shutdown,
    };
    (Arc::new(context), log)
}
