//! The etcd engine: keys under a prefix of an etcd cluster (3.4 or later), which other processes may use as well.
//!
//! A transaction is etcd's, its preconditions comparisons whose failure reads the keys in the same step. A list is
//! ranges at one revision. A watch is [`follow`]ed across lost connections. Leases are not used: an object that ends with
//! time is the API server's business, which works the same on every engine.

mod connect;
mod fault;
mod follow;
mod keys;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::proto::PbTxnOpResponse;
use etcd_client::{
    Client, Compare, CompareOp, Error as ClientError, GetOptions, GetResponse, KvClient, ResponseHeader, Txn, TxnOp,
};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use self::fault::Fault;
use self::follow::Follower;
use self::keys::{Root, range_end, range_start, revision, wire};
use crate::{
    Error, FIRST_REVISION, KeyValue, Op, Options, PAGE_BYTES_MAX, Page, Precondition, Revision, Status, Store, Watch,
    check_key, check_ops, ops_bytes, page_limit,
};

/// The largest response taken. The ranges asked for are sized to stay far below it.
const RESPONSE_BYTES_MAX: usize = 256 << 20;
/// The items of a list's first range: few enough that even values of the largest size make about a page's bytes.
const RANGE_ITEMS_FIRST: usize = 24;
/// The fewest and most items of a further range, which is sized by what the ones before had.
const RANGE_ITEMS: (usize, usize) = (4, 2_000);
/// What a further range should come to.
const RANGE_BYTES_WANTED: usize = 8 << 20;
/// The pause before a read is tried again, and the longest that it grows to.
const RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// The etcd engine.
pub(crate) struct Etcd {
    shared: Arc<Shared>,
}

/// What requests and watches share.
struct Shared {
    client: Client,
    kv: KvClient,
    root: Root,
    request_timeout: Duration,
    /// Whether there are tokens to renew.
    logs_in: bool,
    progress_interval: Duration,
    /// Whether this etcd's answers to progress requests can be trusted.
    progress_requests: bool,
    /// Counts the calls of [`Store::request_progress`], which each watch answers.
    progress_wanted: watch::Sender<u64>,
    closed: CancellationToken,
}

impl Etcd {
    /// Connects to a cluster.
    pub(crate) async fn connect(endpoints: &[String], options: &Options) -> Result<Self, Error> {
        let (client, version) = connect::connect(endpoints, &options.etcd).await?;
        let progress_requests = answers_progress_in_order(&version);
        if !progress_requests {
            tracing::warn!(version, "this etcd cannot be asked for the progress of watches");
        }
        Ok(Etcd {
            shared: Arc::new(Shared {
                kv: client.kv_client().max_decoding_message_size(RESPONSE_BYTES_MAX),
                client,
                root: Root::new(&options.etcd.key_prefix),
                request_timeout: options.etcd.request_timeout,
                logs_in: options.etcd.login.is_some(),
                progress_interval: options.progress_interval,
                progress_requests,
                progress_wanted: watch::Sender::new(0),
                closed: CancellationToken::new(),
            }),
        })
    }
}

impl Shared {
    /// Runs one request, within the time it may take and only while the store is open.
    async fn once<T>(&self, request: impl Future<Output = Result<T, ClientError>>, time: Duration) -> Result<T, Fault> {
        tokio::select! {
            biased;
            () = self.closed.cancelled() => Err(Fault::Refused(Error::Closed)),
            answer = timeout(time, request) => match answer {
                Ok(answer) => answer.map_err(Fault::from),
                Err(elapsed) => Err(Fault::Lost(elapsed.into())),
            },
        }
    }

    /// Reads, again and again while etcd is briefly away, within the time a request may take.
    async fn range(&self, key: Vec<u8>, options: GetOptions) -> Result<GetResponse, Fault> {
        let deadline = Instant::now() + self.request_timeout;
        let mut pause = RETRY_PAUSE.0;
        loop {
            // Half the time for each try, so that a connection that hangs leaves some for another.
            let mut kv = self.kv.clone();
            let fault = match self.once(kv.get(key.clone(), Some(options.clone())), self.request_timeout / 2).await {
                Ok(response) => return Ok(response),
                Err(fault) => fault,
            };
            if !fault.is_passing() || Instant::now() + pause >= deadline {
                return Err(fault);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_PAUSE.1);
        }
    }

    /// The revision now.
    async fn present(&self) -> Result<Revision, Error> {
        let response = self.range(self.root.marker(), GetOptions::new().with_count_only()).await;
        header(response.map_err(Fault::of_read)?.header())
    }

    /// Whether the state at `at` can still be read.
    async fn is_kept(&self, at: Revision) -> Result<bool, Error> {
        let options = GetOptions::new().with_count_only().with_revision(wire(at));
        match self.range(self.root.marker(), options).await {
            Ok(_) => Ok(true),
            Err(Fault::Compacted) => Ok(false),
            Err(fault) => Err(fault.of_read()),
        }
    }

    /// What a key was just before a revision; none if that is not kept.
    async fn before(&self, key: Vec<u8>, revision: Revision) -> Result<Option<KeyValue>, Error> {
        match self.range(key, GetOptions::new().with_revision(wire(revision - 1))).await {
            Ok(mut response) => response.0.kvs.pop().map(|kv| self.root.record(kv)).transpose(),
            Err(Fault::Compacted) => Ok(None),
            Err(fault) => Err(fault.of_read()),
        }
    }

    /// The oldest revision kept, which etcd does not tell: found by halving.
    async fn oldest(&self) -> Result<Revision, Error> {
        let (mut gone, mut kept) = (FIRST_REVISION - 1, self.present().await?);
        while kept - gone > 1 {
            let middle = if gone < FIRST_REVISION { FIRST_REVISION } else { gone + (kept - gone) / 2 };
            if self.is_kept(middle).await? {
                kept = middle;
            } else {
                gone = middle;
            }
        }
        Ok(kept)
    }

    /// The error for a read at `requested` that failed.
    async fn at_error(&self, fault: Fault, requested: Revision) -> Error {
        let told = match fault {
            Fault::Compacted => self.oldest().await.map(|oldest| Error::Compacted { oldest }),
            Fault::Future => self.present().await.map(|current| Error::FutureRevision { requested, current }),
            other => Ok(other.of_read()),
        };
        told.unwrap_or_else(|error| error)
    }

    /// Fails unless changes after `after` are all kept and it has been reached.
    async fn check(&self, after: Revision) -> Result<(), Error> {
        let options = GetOptions::new().with_count_only().with_revision(wire(after));
        match self.range(self.root.marker(), options).await {
            Ok(_) => Ok(()),
            Err(fault) => Err(self.at_error(fault, after).await),
        }
    }

    /// What a transaction whose comparisons failed has read, as the conflict it is.
    fn conflict(&self, ops: Vec<Op>, responses: Vec<PbTxnOpResponse>) -> Error {
        let mut responses = responses.into_iter();
        for op in ops {
            let Some(precondition) = op.precondition() else { continue };
            let Some(PbTxnOpResponse::ResponseRange(mut range)) = responses.next() else { break };
            let current = match range.kvs.pop().map(|kv| self.root.record(kv)).transpose() {
                Ok(current) => current,
                Err(error) => return error,
            };
            let holds = match precondition {
                Precondition::Absent => current.is_none(),
                Precondition::Present => current.is_some(),
                Precondition::ModRevision(revision) => current.as_ref().is_some_and(|kv| kv.mod_revision == revision),
            };
            if !holds {
                let (Op::Put { key, .. } | Op::Delete { key, .. }) = op;
                return Error::Conflict { key, current };
            }
        }
        Error::corrupt("etcd refused a transaction all of whose preconditions hold")
    }
}

#[async_trait]
impl Store for Etcd {
    async fn txn(&self, ops: Vec<Op>) -> Result<Revision, Error> {
        check_ops(&ops)?;
        let shared = &*self.shared;
        if ops.is_empty() {
            return shared.present().await;
        }
        let (mut compares, mut reads, mut writes) = (Vec::new(), Vec::new(), Vec::new());
        for op in &ops {
            let key = shared.root.full(op.key());
            if let Some(precondition) = op.precondition() {
                compares.push(comparison(key.clone(), precondition));
                reads.push(TxnOp::get(key.clone(), None));
            }
            writes.push(match op {
                Op::Put { value, .. } => TxnOp::put(key, value.to_vec(), None),
                Op::Delete { .. } => TxnOp::delete(key, None),
            });
        }
        let txn = Txn::new().when(compares).and_then(writes).or_else(reads);
        let mut kv = shared.kv.clone();
        let response = shared.once(kv.txn(txn), shared.request_timeout).await.map_err(|fault| match fault {
            Fault::TooLarge => Error::TooLarge { what: "transaction", size: ops_bytes(&ops), limit: None },
            fault => fault.of_write(),
        })?;
        if response.succeeded() {
            return header(response.header());
        }
        let responses = response.0.responses.into_iter().filter_map(|response| response.response).collect();
        Err(shared.conflict(ops, responses))
    }

    async fn get(&self, key: &str) -> Result<(Option<KeyValue>, Revision), Error> {
        check_key(key)?;
        let shared = &*self.shared;
        let response = shared.range(shared.root.full(key), GetOptions::new()).await.map_err(Fault::of_read)?;
        let revision = header(response.header())?;
        let kv = response.0.kvs.into_iter().next().map(|kv| shared.root.record(kv)).transpose()?;
        Ok((kv, revision))
    }

    async fn list(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Page, Error> {
        let shared = &*self.shared;
        if at == Some(0) {
            // To etcd 0 is the present.
            return Err(Error::Compacted { oldest: shared.oldest().await? });
        }
        let limit = page_limit(limit);
        let prefix = shared.root.full(prefix);
        let end = range_end(&prefix);
        let mut start = range_start(prefix, start_after.map(|key| shared.root.full(key)));
        let (mut items, mut bytes, mut at) = (Vec::new(), 0, at);
        let mut ask = RANGE_ITEMS_FIRST;
        loop {
            let count = ask.min(limit - items.len());
            let options = GetOptions::new()
                .with_range(end.clone())
                .with_limit(i64::try_from(count).unwrap_or(i64::MAX))
                .with_revision(at.map_or(0, wire));
            let response = match shared.range(start.clone(), options).await {
                Ok(response) => response,
                Err(Fault::ResponseTooLarge(_)) if count > RANGE_ITEMS.0 => {
                    ask = RANGE_ITEMS.0;
                    continue;
                }
                Err(fault) => return Err(shared.at_error(fault, at.unwrap_or(0)).await),
            };
            let revision = match at {
                Some(at) => at,
                None => header(response.header())?,
            };
            at = Some(revision);
            let more = response.more();
            if let Some(last) = response.0.kvs.last() {
                start = range_start(Vec::new(), Some(last.key.clone()));
            }
            for kv in response.0.kvs {
                bytes += kv.value.len();
                items.push(shared.root.record(kv)?);
            }
            if !more || items.len() >= limit || bytes >= PAGE_BYTES_MAX {
                return Ok(Page { items, revision, more });
            }
            let average = (bytes / items.len().max(1)).max(1);
            ask = (RANGE_BYTES_WANTED / average).clamp(RANGE_ITEMS.0, RANGE_ITEMS.1);
        }
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, Error> {
        // Nothing ever happens at the first revision, so 0 is as good a start.
        let after = after.max(FIRST_REVISION);
        self.shared.check(after).await?;
        let mut follower = Follower::new(Arc::clone(&self.shared), prefix, after);
        follower.connect_first().await?;
        Ok(Watch::new(futures::stream::unfold(follower, |mut follower| async move {
            let item = follower.next().await;
            Some((item, follower))
        })))
    }

    async fn request_progress(&self) -> Result<(), Error> {
        if self.shared.closed.is_cancelled() {
            return Err(Error::Closed);
        }
        if !self.shared.progress_requests {
            return Err(Error::Unsupported { what: "progress requests to this etcd; read from the store instead" });
        }
        self.shared.progress_wanted.send_modify(|count| *count += 1);
        Ok(())
    }

    async fn current_revision(&self) -> Result<Revision, Error> {
        self.shared.present().await
    }

    async fn compact(&self, before: Revision) -> Result<(), Error> {
        let shared = &*self.shared;
        let mut kv = shared.kv.clone();
        match shared.once(kv.compact(wire(before), None), shared.request_timeout).await {
            Ok(_) | Err(Fault::Compacted) => Ok(()),
            Err(Fault::Future) => Err(shared.at_error(Fault::Future, before).await),
            Err(fault) => Err(fault.of_write()),
        }
    }

    async fn status(&self) -> Result<Status, Error> {
        let shared = &*self.shared;
        let mut maintenance = shared.client.maintenance_client();
        let status = shared.once(maintenance.status(), shared.request_timeout).await.map_err(Fault::of_read)?;
        let oldest_revision = shared.oldest().await?;
        Ok(Status {
            engine: "etcd",
            size_bytes: u64::try_from(status.db_size()).unwrap_or(0),
            revision: shared.present().await?,
            oldest_revision,
        })
    }

    async fn close(&self) -> Result<(), Error> {
        self.shared.closed.cancel();
        Ok(())
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.shared.closed.cancel();
    }
}

/// A precondition as etcd's comparison.
fn comparison(key: Vec<u8>, precondition: Precondition) -> Compare {
    match precondition {
        Precondition::Absent => Compare::mod_revision(key, CompareOp::Equal, 0),
        Precondition::Present => Compare::mod_revision(key, CompareOp::Greater, 0),
        Precondition::ModRevision(revision) => Compare::mod_revision(key, CompareOp::Equal, wire(revision)),
    }
}

/// The revision in a response's header.
fn header(header: Option<&ResponseHeader>) -> Result<Revision, Error> {
    header.map(|header| revision(header.revision())).ok_or_else(|| Error::corrupt("etcd answered without a header"))
}

/// Whether an etcd of this version answers progress requests in order with a watch's events: fixed in 3.4.25 and
/// 3.5.8; before, an answer could overtake events that it claims were delivered.
fn answers_progress_in_order(version: &str) -> bool {
    let mut parts = version.split(['.', '-', '+']).map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    match version {
        (3, 4, patch) => patch >= 25,
        (3, 5, patch) => patch >= 8,
        later => later > (3, 5, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_asked_of_fixed_versions_only() {
        for (version, fixed) in [
            ("3.4.23", false),
            ("3.4.25", true),
            ("3.5.0", false),
            ("3.5.7", false),
            ("3.5.8", true),
            ("3.6.0-rc.1", true),
            ("3.3.27", false),
            ("4.0.0", true),
            ("", false),
        ] {
            assert_eq!(answers_progress_in_order(version), fixed, "{version}");
        }
    }
}
