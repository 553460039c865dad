//! A client that works only during a term. In: requests of a leader's loops. Out: the same requests, or an error once the
//! term is over: a process that was stalled finds out at its next request, not at its next look at the lease.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kube::Client;
use kube::client::Body;
use tokio::time::Instant;

/// Until when the leader may act.
#[derive(Clone, Debug)]
pub struct Term {
    start: Instant,
    /// Milliseconds after `start`; 0 when there is no term.
    until: Arc<AtomicU64>,
}

/// A request of a leader that is none any more.
#[derive(Debug, thiserror::Error)]
#[error("the lease is not held any more")]
pub struct TermOver;

impl Term {
    /// No term yet, on a clock that counts from `start`.
    pub fn new(start: Instant) -> Self {
        Self { start, until: Arc::default() }
    }

    /// Sets the end, or that there is no term.
    pub fn set(&self, until: Option<Duration>) {
        let millis = until.map_or(0, |until| u64::try_from(until.as_millis()).unwrap_or(u64::MAX));
        self.until.store(millis, Ordering::Release);
    }

    /// Whether it goes on.
    pub fn goes_on(&self) -> bool {
        self.start.elapsed() < Duration::from_millis(self.until.load(Ordering::Acquire))
    }

    /// `client`, for as long as the term goes on.
    pub fn fence(&self, client: Client) -> Client {
        let namespace = client.default_namespace().to_owned();
        let term = self.clone();
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let (client, term) = (client.clone(), term.clone());
            async move {
                if term.goes_on() { client.send(request).await } else { Err(kube::Error::Service(Box::new(TermOver))) }
            }
        });
        Client::new(service, namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_client_works_only_while_the_term_goes_on() {
        let answers = tower::service_fn(|_: http::Request<Body>| async {
            Ok::<_, kube::Error>(http::Response::new(Body::from(br#"{"major":"1","minor":"35","gitVersion":"v1.35.0","gitCommit":"","gitTreeState":"","buildDate":"","goVersion":"","compiler":"","platform":""}"#.to_vec())))
        });
        let term = Term::new(Instant::now());
        let client = term.fence(Client::new(answers, "default"));
        assert!(client.apiserver_version().await.unwrap_err().to_string().contains("not held"));
        term.set(Some(Duration::from_secs(3600)));
        assert_eq!(client.apiserver_version().await.unwrap().minor, "35");
        term.set(None);
        assert!(client.apiserver_version().await.is_err());
    }
}
