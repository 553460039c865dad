//! The stream that a watch is. In: any engine's stream of batches. Out: [`Watch`], which ends after its first error.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::stream::{BoxStream, Stream, StreamExt};

use crate::{Error, EventBatch};

/// The changes of the keys under a prefix, in revision order; see [`Store::watch`](crate::Store::watch). Ends after
/// its first error. Nothing runs, and nothing piles up, while it is not polled.
pub struct Watch {
    /// None once an error was yielded.
    inner: Option<BoxStream<'static, Result<EventBatch, Error>>>,
}

impl Watch {
    /// A watch over the stream of an engine, or of what stands before one.
    pub fn new(inner: impl Stream<Item = Result<EventBatch, Error>> + Send + 'static) -> Self {
        Watch { inner: Some(inner.boxed()) }
    }
}

impl Stream for Watch {
    type Item = Result<EventBatch, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(inner) = self.inner.as_mut() else { return Poll::Ready(None) };
        let item = std::task::ready!(inner.poll_next_unpin(cx));
        if !matches!(item, Some(Ok(_))) {
            self.inner = None;
        }
        Poll::Ready(item)
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("ended", &self.inner.is_none()).finish()
    }
}
