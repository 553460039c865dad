//! A client that bounds how many requests are in flight at once.

use std::sync::Arc;

use kube::Client;
use kube::client::Body;
use tokio::sync::Semaphore;

/// Wraps `client` so that at most `limit` requests wait for their response at a time.
///
/// The permit is given back when the response's head has arrived. Watches must use the unwrapped client, or
/// they would compete with the writes that they report on.
pub fn limited(client: Client, limit: usize) -> Client {
    let permits = Arc::new(Semaphore::new(limit.max(1)));
    let namespace = client.default_namespace().to_owned();
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let client = client.clone();
        let permits = permits.clone();
        async move {
            // The semaphore is never closed, so an error can't happen; going on without a permit is harmless.
            let _permit = permits.acquire_owned().await.ok();
            client.send(request).await
        }
    });
    Client::new(service, namespace)
}
