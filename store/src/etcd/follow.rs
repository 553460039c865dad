//! Following a watch of etcd. In: responses, in fragments and over connections that break. Out: whole batches in
//! revision order, each once.
//!
//! After a break the watch is made again from the revision after the last one given out. Nothing is buffered
//! but the response being read: when nobody polls, etcd keeps the rest back.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::proto::PbEvent;
use etcd_client::{WatchOptions, WatchRequestSender, WatchResponse, WatchResponseStream};
use tokio::sync::watch;

use super::keys::{range_end, range_start, revision, wire};
use super::{Fault, RESPONSE_BYTES_MAX, Shared};
use crate::{Error, Event, EventBatch, EventKind, Revision};

/// The pause before a lost watch is made again, and the longest that it grows to.
const RECONNECT_PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// A watch.
pub(super) struct Follower {
    shared: Arc<Shared>,
    /// The range in etcd's terms.
    start: Vec<u8>,
    end: Vec<u8>,
    /// Everything up to here has been given out or is in `ready`.
    cursor: Revision,
    connection: Option<Connection>,
    progress_wanted: watch::Receiver<u64>,
    /// Fragments of a response that is not complete.
    fragments: Vec<PbEvent>,
    ready: VecDeque<EventBatch>,
    pause: Duration,
    /// etcd ended the watch, perhaps because the token has ended: it says so only in the stream, where no token is
    /// renewed by itself.
    log_in_again: bool,
}

struct Connection {
    requests: WatchRequestSender,
    responses: WatchResponseStream,
}

/// What came of waiting.
enum Heard {
    Response(Box<WatchResponse>),
    /// The connection is gone, for this reason.
    Lost(String),
    /// It is time to ask how far the watch is.
    AskProgress,
    Closed,
}

impl Follower {
    /// A watch of what is under `prefix` after revision `after`, not yet connected.
    pub(super) fn new(shared: Arc<Shared>, prefix: &str, after: Revision) -> Self {
        let prefix = shared.root.full(prefix);
        Follower {
            end: range_end(&prefix),
            start: range_start(prefix, None),
            progress_wanted: shared.progress_wanted.subscribe(),
            shared,
            cursor: after,
            connection: None,
            fragments: Vec::new(),
            ready: VecDeque::new(),
            pause: RECONNECT_PAUSE.0,
            log_in_again: false,
        }
    }

    /// Connects, and fails if that cannot be done now.
    pub(super) async fn connect_first(&mut self) -> Result<(), Error> {
        self.connect().await.map_err(Fault::of_read)
    }

    async fn connect(&mut self) -> Result<(), Fault> {
        let options = WatchOptions::new()
            .with_range(self.end.clone())
            .with_start_revision(wire(self.cursor + 1))
            .with_prev_key()
            .with_progress_notify()
            .with_fragment();
        let mut client = self.shared.client.watch_client().max_decoding_message_size(RESPONSE_BYTES_MAX);
        let watch = client.watch(self.start.clone(), Some(options));
        let (requests, responses) = self.shared.once(watch, self.shared.request_timeout).await?.split();
        self.fragments.clear();
        self.connection = Some(Connection { requests, responses });
        Ok(())
    }

    /// The next batch or progress notification.
    pub(super) async fn next(&mut self) -> Result<EventBatch, Error> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Ok(batch);
            }
            let heard = match &mut self.connection {
                None => {
                    self.reconnect().await?;
                    continue;
                }
                Some(connection) => connection.hear(&self.shared, &mut self.progress_wanted).await,
            };
            match heard {
                Heard::Response(response) => self.take(*response).await?,
                Heard::Lost(reason) => {
                    tracing::debug!(reason, "a watch of etcd was lost; making it again");
                    self.connection = None;
                }
                Heard::AskProgress => {
                    if let Some(connection) = &mut self.connection
                        && let Err(error) = connection.requests.request_progress().await
                    {
                        tracing::debug!(%error, "a watch of etcd was lost; making it again");
                        self.connection = None;
                    }
                }
                Heard::Closed => return Err(Error::Closed),
            }
        }
    }

    /// Connects again, however long it takes.
    async fn reconnect(&mut self) -> Result<(), Error> {
        loop {
            tokio::select! {
                () = self.shared.closed.cancelled() => return Err(Error::Closed),
                () = tokio::time::sleep(self.pause) => {}
            }
            self.pause = (self.pause * 2).min(RECONNECT_PAUSE.1);
            if self.log_in_again {
                let renewed = self.shared.once(self.shared.client.refresh_token(), self.shared.request_timeout).await;
                self.log_in_again = renewed.is_err();
            }
            match self.connect().await {
                Ok(()) => return Ok(()),
                Err(Fault::Refused(Error::Closed)) => return Err(Error::Closed),
                Err(fault) => tracing::warn!(error = ?fault, "cannot watch etcd; trying again"),
            }
        }
    }

    /// Takes in a response.
    async fn take(&mut self, response: WatchResponse) -> Result<(), Error> {
        let response = response.0;
        if response.canceled {
            if response.compact_revision > 0 {
                return Err(Error::Lagged { oldest: revision(response.compact_revision) });
            }
            tracing::debug!(reason = response.cancel_reason, "etcd ended a watch; making it again");
            self.connection = None;
            self.log_in_again = self.shared.logs_in;
            return Ok(());
        }
        self.pause = RECONNECT_PAUSE.0;
        if response.created {
            return Ok(());
        }
        let at = response.header.map_or(0, |header| revision(header.revision));
        let is_progress = response.events.is_empty() && !response.fragment && self.fragments.is_empty();
        if is_progress {
            if at > self.cursor {
                self.cursor = at;
            }
            self.ready.push_back(EventBatch { revision: self.cursor, events: Vec::new() });
            return Ok(());
        }
        self.fragments.extend(response.events);
        if !response.fragment {
            self.complete().await?;
        }
        Ok(())
    }

    /// Turns the events of a complete response into batches.
    async fn complete(&mut self) -> Result<(), Error> {
        for event in std::mem::take(&mut self.fragments) {
            let Some(event) = self.event(event).await? else { continue };
            let revision = event.kv.mod_revision;
            match self.ready.back_mut() {
                Some(batch) if batch.revision == revision => batch.events.push(event),
                _ => self.ready.push_back(EventBatch { revision, events: vec![event] }),
            }
        }
        if let Some(last) = self.ready.back() {
            self.cursor = last.revision;
        }
        Ok(())
    }

    /// An event as ours; none if it was given out before.
    async fn event(&self, event: PbEvent) -> Result<Option<Event>, Error> {
        let kv = event.kv.ok_or_else(|| Error::corrupt("etcd sent an event without its key"))?;
        let key = kv.key.clone();
        let kv = self.shared.root.record(kv)?;
        if kv.mod_revision <= self.cursor {
            return Ok(None);
        }
        let is_new = event.r#type == 0 && kv.create_revision == kv.mod_revision;
        let prev = match event.prev_kv {
            // etcd reads what was before when it sends the event, and leaves it out if that fails, for whatever reason.
            None if !is_new => self.shared.before(key, kv.mod_revision).await?,
            prev => prev.map(|prev| self.shared.root.record(prev)).transpose()?,
        };
        // If compaction has just taken it, the event is not whole any more.
        let (kind, kv) = match (event.r#type, &prev) {
            (1, Some(last)) => {
                let last = last.clone();
                (EventKind::Delete, crate::KeyValue { mod_revision: kv.mod_revision, ..last })
            }
            (0, Some(_)) => (EventKind::Put, kv),
            (0, None) if kv.create_revision == kv.mod_revision => (EventKind::Put, kv),
            (0 | 1, None) => return Err(Error::Lagged { oldest: self.shared.oldest().await? }),
            (other, _) => return Err(Error::corrupt(format!("etcd sent an event of kind {other}"))),
        };
        Ok(Some(Event { kind, kv, prev }))
    }
}

impl Connection {
    async fn hear(&mut self, shared: &Shared, progress_wanted: &mut watch::Receiver<u64>) -> Heard {
        tokio::select! {
            () = shared.closed.cancelled() => Heard::Closed,
            response = self.responses.message() => match response {
                Ok(Some(response)) => Heard::Response(Box::new(response)),
                Ok(None) => Heard::Lost("etcd ended the stream".to_owned()),
                Err(error) => Heard::Lost(error.to_string()),
            },
            Ok(()) = progress_wanted.changed() => Heard::AskProgress,
            () = tokio::time::sleep(shared.progress_interval), if shared.progress_requests => Heard::AskProgress,
        }
    }
}
