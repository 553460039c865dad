//! Connections that wait for the next request to the same webhook.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::SendRequest;

/// How many connections wait for one webhook: a burst of writes asks it in parallel, and beyond that a handshake is cheap.
const IDLE_PER_KEY_MAX: usize = 8;
/// How many webhooks have waiting connections.
const KEYS_MAX: usize = 64;
/// How long a connection waits. Servers close theirs after a minute or more.
const IDLE_MAX: Duration = Duration::from_secs(45);

/// What a connection can be used for again.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub host: String,
    pub port: u16,
    /// Whom the connection trusted.
    pub trust: [u8; 32],
}

struct Idle {
    sender: SendRequest<Full<Bytes>>,
    since: Instant,
}

#[derive(Default)]
pub(super) struct Pool {
    idle: Mutex<HashMap<Key, Vec<Idle>>>,
}

impl Pool {
    /// A connection that is still open, the youngest first.
    pub fn take(&self, key: &Key) -> Option<SendRequest<Full<Bytes>>> {
        let mut idle = self.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let waiting = idle.get_mut(key)?;
        while let Some(last) = waiting.pop() {
            if last.since.elapsed() < IDLE_MAX && !last.sender.is_closed() {
                return Some(last.sender);
            }
        }
        idle.remove(key);
        None
    }

    /// Keeps a connection for the next request.
    pub fn give_back(&self, key: &Key, sender: SendRequest<Full<Bytes>>) {
        if sender.is_closed() {
            return;
        }
        let mut idle = self.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        idle.retain(|_, waiting| {
            waiting.retain(|one| one.since.elapsed() < IDLE_MAX && !one.sender.is_closed());
            !waiting.is_empty()
        });
        if idle.len() >= KEYS_MAX && !idle.contains_key(key) {
            return;
        }
        let waiting = idle.entry(key.clone()).or_default();
        if waiting.len() < IDLE_PER_KEY_MAX {
            waiting.push(Idle { sender, since: Instant::now() });
        }
    }
}
