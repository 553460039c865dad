//! What the writer works on: which requests become one commit. In: the bounded queue. Out: a batch of what waits, which grows while
//! it is worked on.
//!
//! A batch cannot be made durable before the last one is, so until then it takes in what waits and what comes. Once it can, and has a good
//! part of what waits, it is closed: were it to take all, everybody would wait for everybody, with the disk and the processors in turns. And
//! who was answered just now often asks again at once, and is waited for, though not for long. Many writers share the price of a commit that
//! way, and one writer alone never waits for others.

use std::time::{Duration, Instant};

use tokio::sync::mpsc::{Receiver, error::TryRecvError};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::{Error, Op, Revision};

/// The most transactions in one commit, which bounds how long the first of them waits.
const BATCH_TXNS_MAX: usize = 1_024;
/// The most bytes of keys and values in one commit, for the same reason.
const BATCH_BYTES_MAX: usize = 16 << 20;

/// How many transactions are worth a commit of their own while more wait, so that work on them, the disk and the answers go on side by side.
const SHARE_TXNS_MIN: usize = 16;
/// The same as a part of those that wait: with very many, larger commits are cheaper.
const SHARE: usize = 3;

/// How long a commit waits at most for those who were in the last one.
const GATHER_MAX: Duration = Duration::from_millis(1);
/// Which part of a commit's time that may be.
const GATHER_FRACTION: u32 = 5;
/// How long until it looks again.
const GATHER_STEP: Duration = Duration::from_micros(30);

/// What a writer is asked.
pub(super) enum Command {
    /// Make visible what was acknowledged.
    Show { reply: oneshot::Sender<()> },
    /// Do these, all or none.
    Txn { ops: Vec<Op>, bytes: usize, waiting: Waiting },
    /// Drop the history before this revision.
    Compact { before: Revision, reply: oneshot::Sender<Result<(), Error>> },
    /// Finish what came before, and end.
    Close,
}

/// Who waits for a transaction's answer, and its share of the queue's bytes, given back once answered.
pub(super) type Waiting = (oneshot::Sender<Result<Revision, Error>>, OwnedSemaphorePermit);

/// The transactions of one commit and the compactions asked for meanwhile.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) txns: Vec<(Vec<Op>, Waiting)>,
    bytes: usize,
    pub(super) compactions: Vec<(Revision, oneshot::Sender<Result<(), Error>>)>,
    pub(super) shows: Vec<oneshot::Sender<()>>,
    pub(super) close: bool,
}

impl Batch {
    pub(super) fn add(&mut self, command: Command) {
        match command {
            Command::Txn { ops, bytes, waiting } => {
                self.bytes += bytes;
                self.txns.push((ops, waiting));
            }
            Command::Compact { before, reply } => self.compactions.push((before, reply)),
            Command::Show { reply } => self.shows.push(reply),
            Command::Close => self.close = true,
        }
    }
}

/// The transactions of a batch while they are worked on.
pub(super) struct Growing {
    ready: std::vec::IntoIter<(Vec<Op>, Waiting)>,
    bytes: usize,
    /// Whether it may take in more.
    open: bool,
    since: Instant,
    /// Who waits for those that were taken so far.
    waiting: Vec<Waiting>,
}

impl Growing {
    pub(super) fn new(batch: &mut Batch) -> Self {
        let open = !batch.close;
        let ready = std::mem::take(&mut batch.txns).into_iter();
        let waiting = Vec::with_capacity(ready.len());
        Growing { ready, bytes: batch.bytes, open, since: Instant::now(), waiting }
    }

    /// Everybody who waits for a transaction of it, in order; those that were not taken come last.
    pub(super) fn into_waiting(mut self) -> Vec<Waiting> {
        self.waiting.extend(self.ready.map(|(_, waiting)| waiting));
        self.waiting
    }
}

/// What the last commit was like.
#[derive(Default)]
struct Pace {
    txns: usize,
    took: Duration,
}

/// The queue, as the writer takes from it.
pub(super) struct Intake {
    commands: Receiver<Command>,
    /// What was taken from the queue and does not belong to the batch that was growing then.
    held: Option<Command>,
    pace: Pace,
}

impl Intake {
    pub(super) fn new(commands: Receiver<Command>) -> Self {
        Intake { commands, held: None, pace: Pace::default() }
    }

    /// The first transaction that waits, with what is asked besides before it; waits for something unless there is something else to
    /// do. None when nobody can ask any more.
    pub(super) fn batch(&mut self, idle: bool) -> Option<Batch> {
        let mut batch = Batch::default();
        if let Some(held) = self.held.take() {
            batch.add(held);
        } else if idle {
            batch.add(self.commands.blocking_recv()?);
        }
        while batch.txns.is_empty() && !batch.close {
            match self.commands.try_recv() {
                Ok(command) => batch.add(command),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => batch.close = true,
            }
        }
        Some(batch)
    }

    /// The next request, whatever it is.
    pub(super) fn next(&mut self) -> Option<Command> {
        self.held.take().or_else(|| self.commands.blocking_recv())
    }

    /// The next transaction of a batch: one that was ready, or one that came since. Waits for one as long as `is_busy` says that
    /// the batch cannot be made durable yet, and for as many as there were last time.
    pub(super) fn more(&mut self, batch: &mut Growing, mut is_busy: impl FnMut() -> bool) -> Option<Vec<Op>> {
        loop {
            if let Some((ops, waiting)) = batch.ready.next() {
                batch.waiting.push(waiting);
                return Some(ops);
            }
            let taken = batch.waiting.len();
            if !batch.open || taken >= BATCH_TXNS_MAX || batch.bytes >= BATCH_BYTES_MAX || self.held.is_some() {
                return None;
            }
            // The disk has nothing to do: the first of many go there, and are answered while the others are worked on.
            if taken >= SHARE_TXNS_MIN && taken * SHARE >= self.commands.len() && !is_busy() {
                return None;
            }
            match self.commands.try_recv() {
                Ok(Command::Txn { ops, bytes, waiting }) => {
                    batch.bytes += bytes;
                    batch.waiting.push(waiting);
                    return Some(ops);
                }
                Ok(other) => self.held = Some(other),
                Err(TryRecvError::Empty)
                    if self.pace.waits(taken, batch.since.elapsed()) || (taken > 0 && is_busy()) =>
                {
                    std::thread::sleep(GATHER_STEP);
                }
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return None,
            }
        }
    }

    /// Notes what the last commit was like.
    pub(super) fn committed(&mut self, txns: usize, took: Duration) {
        self.pace = Pace { txns, took };
    }
}

impl Pace {
    /// Whether a commit of so many transactions waits for more after such a time: for as many as there were last time, and a
    /// fraction of what the commit will take.
    fn waits(&self, txns: usize, waited: Duration) -> bool {
        (1..self.txns).contains(&txns) && waited < (self.took / GATHER_FRACTION).min(GATHER_MAX)
    }
}
