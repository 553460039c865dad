//! The body of a watch response.
//!
//! In: a [`WatchSession`]. Out: newline-delimited JSON frames, or messages with their lengths. A frame that many watchers get is one shared buffer; frames
//! that are ready together travel in one chunk. The body ends at its deadline, when the client lags, or at shutdown, after a
//! last bookmark where the client takes bookmarks.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::Stream;
use gantry_api::{ApiError, codec, protobuf};
use rand::Rng;
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::negotiate::Format;
use super::respond::{self, Shape};
use crate::cacher::{Delivery, Kind};
use crate::registry::{WatchSession, present};

/// About how often an idle watch tells its client how far it has come.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// As many bytes as travel in one chunk at most (one frame may be larger).
const CHUNK_BYTES_MAX: usize = 64 << 10;
/// Watches without `timeoutSeconds` end after this time or up to twice as long, so that clients spread out.
const DEFAULT_TIMEOUT_MIN: Duration = Duration::from_secs(1800);

/// How a watch is served.
#[derive(Debug, Clone, Copy)]
pub struct WatchOptions {
    /// How objects look.
    pub shape: Shape,
    /// How frames are written.
    pub format: Format,
    /// Whether the client takes bookmarks.
    pub bookmarks: bool,
    /// When it ends.
    pub timeout: Option<Duration>,
}

/// The stream of frames.
pub struct WatchBody {
    session: WatchSession,
    options: WatchOptions,
    initial: std::vec::IntoIter<Arc<crate::cacher::Entry>>,
    backlog: std::vec::IntoIter<Delivery>,
    initial_end_due: bool,
    /// The columns of a table are sent with the first row only.
    columns_due: bool,
    bookmark: Pin<Box<Sleep>>,
    deadline: Pin<Box<Sleep>>,
    shutdown: Pin<Box<WaitForCancellationFutureOwned>>,
    ended: bool,
    _open: super::metrics::OpenRequest,
}

impl WatchBody {
    /// A body that serves `session`.
    pub fn new(
        mut session: WatchSession,
        options: WatchOptions,
        shutdown: &CancellationToken,
        open: super::metrics::OpenRequest,
    ) -> Self {
        let mut random = rand::rng();
        let timeout = options.timeout.unwrap_or_else(|| DEFAULT_TIMEOUT_MIN.mul_f64(random.random_range(1.0..2.0)));
        let bookmark = BOOKMARK_EVERY.mul_f64(random.random_range(0.75..1.0));
        Self {
            initial: std::mem::take(&mut session.subscription.initial).into_iter(),
            backlog: std::mem::take(&mut session.subscription.backlog).into_iter(),
            columns_due: true,
            initial_end_due: session.mark_initial_end && options.bookmarks,
            bookmark: Box::pin(sleep(bookmark)),
            deadline: Box::pin(sleep(timeout)),
            shutdown: Box::pin(shutdown.clone().cancelled_owned()),
            ended: false,
            session,
            options,
            _open: open,
        }
    }

    /// The frame of a change as this watch shows it.
    fn change_frame(&mut self, delivery: &Delivery) -> Result<Bytes, ApiError> {
        if self.options.shape == Shape::Object && self.session.resource.conversion.is_none() {
            return match self.options.format {
                Format::Protobuf => {
                    let frame = delivery.change.message_frame(delivery.kind, &self.session.resource);
                    frame.map_err(respond::unwritable)
                }
                _ => Ok(delivery.change.frame(delivery.kind)),
            };
        }
        self.object_frame(delivery.kind, delivery.change.object(delivery.kind))
    }

    fn object_frame(&mut self, kind: Kind, object: Bytes) -> Result<Bytes, ApiError> {
        let object = present(&self.session.resource, object)?;
        if self.options.format == Format::Protobuf {
            let message = respond::message(&self.session.resource, &object, self.options.shape)?;
            return Ok(protobuf::watch_frame(kind.as_str(), &message));
        }
        let object = match self.options.shape {
            Shape::Table(include) => {
                let columns = std::mem::take(&mut self.columns_due);
                super::tables::one(&self.session.resource, &object, include, columns)?
            }
            shape => respond::shape_object(&self.session.resource, object, shape)?,
        };
        Ok(codec::watch_frame(kind.as_str(), &object))
    }

    fn bookmark_frame(&self, revision: u64, initial_events_end: bool) -> Result<Bytes, ApiError> {
        let resource = &self.session.resource;
        if self.options.format == Format::Protobuf {
            let frame = match self.options.shape {
                Shape::Metadata => protobuf::metadata_bookmark(revision, initial_events_end),
                _ => protobuf::bookmark(resource, revision, initial_events_end),
            };
            return frame.map_err(respond::unwritable);
        }
        Ok(match self.options.shape {
            Shape::Object => codec::bookmark(resource, revision, initial_events_end),
            Shape::Metadata => codec::metadata_bookmark(revision, initial_events_end),
            Shape::Table(_) => respond::table_bookmark(revision, initial_events_end),
        })
    }

    fn add(out: &mut Chunk, frame: Result<Bytes, ApiError>) {
        match frame {
            Ok(frame) => out.push(frame),
            Err(error) => tracing::error!(%error, "an object cannot be shown to a watcher"),
        }
    }

    /// What was there before the queue: initial objects, their end, the backlog.
    fn take_prelude(&mut self, out: &mut Chunk) {
        while !out.is_full() {
            let Some(entry) = self.initial.next() else { break };
            let frame = self.object_frame(Kind::Added, entry.object.clone());
            Self::add(out, frame);
        }
        if self.initial.as_slice().is_empty() && self.initial_end_due && !out.is_full() {
            self.initial_end_due = false;
            Self::add(out, self.bookmark_frame(self.session.revision, true));
        }
        while self.initial.as_slice().is_empty() && !out.is_full() {
            let Some(delivery) = self.backlog.next() else { break };
            let frame = self.change_frame(&delivery);
            Self::add(out, frame);
        }
    }

    /// What has arrived since; true if the queue was closed and is empty.
    fn take_queue(&mut self, out: &mut Chunk, cx: &mut Context<'_>) -> bool {
        while !out.is_full() {
            match self.session.subscription.queue.poll_recv(cx) {
                Poll::Ready(Some(delivery)) => {
                    let frame = self.change_frame(&delivery);
                    Self::add(out, frame);
                }
                Poll::Ready(None) => return true,
                Poll::Pending => return false,
            }
        }
        false
    }

    /// A bookmark at the cache's revision, after everything up to it that is still queued.
    fn take_bookmark(&mut self, out: &mut Chunk, cx: &mut Context<'_>) {
        // Everything up to this revision was queued before it was published.
        let revision = self.session.cacher.revision().max(self.session.revision);
        self.take_queue(out, cx);
        if !out.is_full() {
            Self::add(out, self.bookmark_frame(revision, false));
        }
    }

    fn prelude_is_done(&self) -> bool {
        self.initial.as_slice().is_empty() && self.backlog.as_slice().is_empty() && !self.initial_end_due
    }
}

impl Stream for WatchBody {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(None);
        }
        let mut out = Chunk::default();
        this.take_prelude(&mut out);
        if this.prelude_is_done() && this.take_queue(&mut out, cx) {
            this.ended = true;
        }
        if this.ended {
            return Poll::Ready(out.finish().map(Ok));
        }
        let over = this.deadline.as_mut().poll(cx).is_ready() | this.shutdown.as_mut().poll(cx).is_ready();
        if over && this.prelude_is_done() {
            this.ended = true;
            if this.options.bookmarks {
                this.take_bookmark(&mut out, cx);
            }
            return Poll::Ready(out.finish().map(Ok));
        }
        if this.bookmark.as_mut().poll(cx).is_ready() && this.prelude_is_done() {
            this.bookmark.as_mut().reset(Instant::now() + BOOKMARK_EVERY);
            // Polled once more, so that the new time wakes this task.
            let _ = this.bookmark.as_mut().poll(cx);
            if this.options.bookmarks {
                this.take_bookmark(&mut out, cx);
            }
        }
        match out.finish() {
            Some(bytes) => Poll::Ready(Some(Ok(bytes))),
            None => Poll::Pending,
        }
    }
}

/// Frames on their way out: one is passed on as it is, several are joined.
#[derive(Default)]
struct Chunk {
    one: Option<Bytes>,
    many: BytesMut,
}

impl Chunk {
    fn push(&mut self, frame: Bytes) {
        if self.many.is_empty() {
            match self.one.take() {
                None => {
                    self.one = Some(frame);
                    return;
                }
                Some(first) => {
                    self.many.reserve(CHUNK_BYTES_MAX.min(4 * (first.len() + frame.len())));
                    self.many.extend_from_slice(&first);
                }
            }
        }
        self.many.extend_from_slice(&frame);
    }

    fn is_full(&self) -> bool {
        self.many.len().max(self.one.as_ref().map_or(0, Bytes::len)) >= CHUNK_BYTES_MAX
    }

    fn finish(self) -> Option<Bytes> {
        self.one.or_else(|| (!self.many.is_empty()).then(|| self.many.freeze()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_join_frames_and_pass_a_single_one_on() {
        let mut chunk = Chunk::default();
        assert!(chunk.finish().is_none());
        chunk = Chunk::default();
        let frame = Bytes::from_static(b"one\n");
        chunk.push(frame.clone());
        assert_eq!(chunk.finish().unwrap().as_ptr(), frame.as_ptr());
        let mut chunk = Chunk::default();
        for text in ["a\n", "b\n", "c\n"] {
            chunk.push(Bytes::from_static(text.as_bytes()));
        }
        assert_eq!(chunk.finish().unwrap(), "a\nb\nc\n");
    }
}
