//! Pods created at a steady pace, each with a number in its name, and when watchers see them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::Result;
use crate::h2load::IN_FLIGHT;
use crate::server::{NAMESPACE, Server};

/// How long the last deliveries are waited for.
const DELIVERY_WAIT: Duration = Duration::from_secs(30);
const NAME: &str = "\"name\":\"paced-";

/// When each pod was sent and when a watcher saw it, in nanoseconds since the start; zero for not yet.
pub struct Log {
    start: Instant,
    sent: Vec<AtomicUsize>,
    seen: Vec<AtomicUsize>,
}

impl Log {
    /// For so many pods.
    pub fn new(pods: usize) -> Arc<Self> {
        let empty = || (0..pods).map(|_| AtomicUsize::new(0)).collect();
        Arc::new(Self { start: Instant::now(), sent: empty(), seen: empty() })
    }

    fn now(&self) -> usize {
        usize::try_from(self.start.elapsed().as_nanos()).unwrap_or(usize::MAX).max(1)
    }

    /// Waits until every pod was seen.
    pub async fn wait(&self) -> Result<()> {
        let deadline = Instant::now() + DELIVERY_WAIT;
        let missing = || self.seen.iter().filter(|at| at.load(Ordering::Relaxed) == 0).count();
        while missing() > 0 {
            if Instant::now() > deadline {
                return Err(format!("{} changes were not delivered", missing()).into());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Milliseconds from sending to seeing, of each.
    pub fn latencies(&self) -> Vec<f64> {
        let times = self.sent.iter().zip(&self.seen);
        let millis = |(sent, seen): (&AtomicUsize, &AtomicUsize)| {
            seen.load(Ordering::Relaxed).saturating_sub(sent.load(Ordering::Relaxed)) as f64 / 1e6
        };
        times.map(millis).collect()
    }
}

/// Notes in the log which pods a watch shows first when.
pub async fn follow(mut body: Incoming, log: &Log) {
    while let Some(Ok(frame)) = body.frame().await {
        let Some(data) = frame.data_ref() else { continue };
        let now = log.now();
        for at in memchr::memmem::find_iter(data, NAME) {
            let digits = data[at + NAME.len()..].iter().take_while(|byte| byte.is_ascii_digit());
            let number = digits.fold(0, |number: usize, digit| number * 10 + usize::from(digit - b'0'));
            if let Some(seen) = log.seen.get(number) {
                let _ = seen.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
    }
}

/// Creates the log's pods, so many a second, as far as the server takes them. What `pod` makes of a number gets its name here.
pub async fn create(server: &Server, log: &Arc<Log>, rate: usize, pod: impl Fn(usize) -> Value) -> Result<()> {
    let client = server.client().await?;
    let turns = Arc::new(Semaphore::new(IN_FLIGHT));
    let mut creates: JoinSet<Result<()>> = JoinSet::new();
    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods");
    let started = Instant::now();
    for number in 0..log.sent.len() {
        let due = started + Duration::from_secs_f64(number as f64 / rate as f64);
        tokio::time::sleep_until(due.into()).await;
        let turn = Arc::clone(&turns).acquire_owned().await?;
        let mut pod = pod(number);
        pod["metadata"] = serde_json::json!({"name": format!("paced-{number}")});
        let (client, path, log) = (client.clone(), path.clone(), Arc::clone(log));
        creates.spawn(async move {
            log.sent[number].store(log.now(), Ordering::Relaxed);
            client.create(&path, &pod).await?;
            drop(turn);
            Ok(())
        });
        while let Some(created) = creates.try_join_next() {
            created??;
        }
    }
    while let Some(created) = creates.join_next().await {
        created??;
    }
    Ok(())
}

/// Deletes the pods at once: nobody runs them.
pub async fn clear(server: &Server) -> Result<()> {
    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods?gracePeriodSeconds=0");
    server.client().await?.call(Method::DELETE, &path, Bytes::new()).await?;
    Ok(())
}
