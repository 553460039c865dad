//! The one thread that writes the embedded engine's files. In: transactions and compactions, from a bounded queue.
//! Out: durable commits, each serving all transactions that waited; their answers; and their events.
//!
//! ```text
//!   batch ──▶ database, in memory ──▶ log, synced by another thread ──▶ answers, events
//!        │                    └──▶ when a read comes, or enough of it is there: visible
//!        └──▶ when the log is full: database, durable; the log begins again
//! ```
//!
//! The next batch is worked on while one goes to the disk, and grows meanwhile ([`super::intake`]). What the log has need not be
//! visible to reads before there is one: many commits share the price of that, too, for most who follow the store are told
//! by events and never read.

use std::sync::Arc;
use std::time::Instant;

use redb::{Database, Durability, ReadableTable, WriteTransaction};
use tokio::sync::oneshot;

use super::engine_error;
use super::handle::Handle;
use super::hub::Hub;
use super::intake::{Batch, Command, Growing, Intake, Waiting};
use super::log::{self, Entry, Log, Record};
use super::read::Snapshot;
use super::schema::{self, META, META_LOG, META_OLDEST, META_REVISION};
use super::tables::Tables;
use super::upgrade;
use crate::{Error, EventBatch, FIRST_REVISION, Op, Revision};

/// How many log entries one commit compacts at least; a commit compacts twice what it adds, if that is more, so
/// compaction gains on any load. Small enough that a waiting transaction does not notice.
const COMPACT_ENTRIES: usize = 256;

/// How many log entries are compacted between two durable commits at most: what they took up cannot be used again before.
const COMPACT_UNDURABLE_MAX: usize = 16_384;

/// How many changes, and how many bytes of values, the database has at most that no read can see yet: they are in memory.
const UNSHOWN_OPS_MAX: usize = 512;
const UNSHOWN_BYTES_MAX: usize = 4 << 20;

/// The writer's state, all of which is also in the file.
pub(super) struct Writer {
    pub(super) handle: Arc<Handle>,
    pub(super) hub: Arc<Hub>,
    pub(super) intake: Intake,
    pub(super) revision: Revision,
    pub(super) oldest: Revision,
    /// Where commits become durable; or why nothing can be written, if that was so from the start.
    pub(super) log: Result<Log, String>,
    /// How many log entries were compacted since the last durable commit of the database.
    pub(super) compacted: usize,
    /// What was acknowledged and cannot be read yet.
    pub(super) unshown: Option<Unshown>,
}

/// A transaction of the database that is not ended yet.
pub(super) struct Unshown {
    txn: WriteTransaction,
    ops: usize,
    bytes: usize,
}

impl Unshown {
    fn is_full(&self) -> bool {
        self.ops >= UNSHOWN_OPS_MAX || self.bytes >= UNSHOWN_BYTES_MAX
    }
}

/// Who waits for a commit.
struct Waiters {
    txns: Vec<Waiting>,
    compactions: Vec<(Revision, oneshot::Sender<Result<(), Error>>)>,
}

impl Waiters {
    /// Hands on what the commit did, and tells everyone what became of their part.
    fn done(self, hub: &Hub, done: Done) {
        hub.publish(done.batches);
        for ((reply, _permit), answer) in self.txns.into_iter().zip(done.answers) {
            // The caller may have given up waiting; the outcome stands.
            let _ = reply.send(answer);
        }
        for (_, reply) in self.compactions {
            let _ = reply.send(Ok(()));
        }
    }

    /// Tells everyone why not.
    fn fail(self, error: impl Fn() -> Error) {
        for (reply, _permit) in self.txns {
            let _ = reply.send(Err(error()));
        }
        for (_, reply) in self.compactions {
            let _ = reply.send(Err(error()));
        }
    }
}

/// Why a commit failed.
struct Failure {
    error: Error,
    /// Whether it may have taken effect nonetheless.
    in_doubt: bool,
    /// Whether the database is as it was before.
    unharmed: bool,
}

impl Writer {
    /// Works until it is told to close or nobody can ask any more, or until a write fails.
    pub(super) fn run(mut self) {
        // Remains of a compaction may be left from before; the first look finds out.
        let mut garbage = true;
        if let Err(reason) = &self.log {
            let reason = reason.clone();
            tracing::error!(reason, "the store cannot be written; it can only be read until it is reopened");
            self.refuse(&reason);
        }
        while self.log.is_ok() {
            let Some(batch) = self.intake.batch(!garbage) else { break };
            let close = batch.close;
            match self.commit(batch) {
                Ok(left) => garbage = left,
                Err(reason) if !close => {
                    self.refuse(&reason);
                    break;
                }
                Err(_) => break,
            }
            if close {
                self.settle();
                break;
            }
        }
        // Whoever waits for a record that is under way is told before nobody can be told anything.
        let _ = self.wait();
        self.hub.close();
        self.unshown = None;
        self.handle.close();
    }

    /// Does a batch and answers everyone in it, or has it so once it is on the disk. Whether garbage is left; or why writing cannot
    /// go on.
    pub(super) fn commit(&mut self, mut batch: Batch) -> Result<bool, String> {
        let start = Instant::now();
        let mut growing = Growing::new(&mut batch);
        let Batch { compactions, mut shows, .. } = batch;
        let mut targets = Vec::new();
        for (before, reply) in compactions {
            if before > self.revision {
                // The sender may have gone; then nobody wants to know.
                let current = self.revision;
                let _ = reply.send(Err(Error::FutureRevision { requested: before, current }));
            } else {
                targets.push((before, reply));
            }
        }
        let oldest = targets.iter().map(|(before, _)| *before).fold(self.oldest, Revision::max);
        let shown = if shows.is_empty() { Ok(()) } else { self.show() };
        let mut tell_readers = || {
            for reply in shows.drain(..) {
                // Whoever wanted to read may have given up.
                let _ = reply.send(());
            }
        };
        if shown.is_ok() {
            tell_readers();
        }
        let written = shown.and_then(|()| self.write(&mut growing, oldest));
        let waiters = Waiters { txns: growing.into_waiting(), compactions: targets };
        self.intake.committed(waiters.txns.len(), start.elapsed());
        let is_alone = waiters.txns.len() <= 1;
        let committed = match written {
            Ok((done, record)) => {
                (self.revision, self.oldest) = (done.revision, oldest);
                let garbage = done.garbage;
                let (hub, handle) = (Arc::clone(&self.hub), Arc::clone(&self.handle));
                match (record, &mut self.log) {
                    (Some(record), Ok(log)) => {
                        let told = move |appended: Result<(), &std::io::Error>| match appended {
                            Ok(()) => {
                                handle.will_show_more(done.revision);
                                waiters.done(&hub, done);
                            }
                            Err(error) => waiters.fail(|| Error::UnknownOutcome(describe(error).into())),
                        };
                        log.append(record, is_alone, Box::new(told));
                    }
                    _ => waiters.done(&hub, done),
                }
                Ok(garbage)
            }
            Err(failure) => Err(self.fail(&failure, waiters)),
        };
        tell_readers();
        committed
    }

    /// Waits for the record that is on its way to the disk.
    fn wait(&mut self) -> Result<(), Failure> {
        let Ok(log) = &mut self.log else { return Ok(()) };
        // Who waited for that record has been told. What comes after it has not happened.
        log.wait().map_err(|error| Failure { error: io_error(error), in_doubt: false, unharmed: false })
    }

    /// Tells everybody who waits that writing has ended, and returns why.
    fn fail(&mut self, failure: &Failure, waiters: Waiters) -> String {
        let reason = describe(&failure.error);
        tracing::error!(reason, "a write to the store failed; it takes no more writes until it is reopened");
        if !failure.unharmed {
            self.freeze();
        }
        waiters.fail(|| failure.answer(&reason));
        reason
    }

    /// Lets reads see all that was acknowledged.
    fn show(&mut self) -> Result<(), Failure> {
        self.wait()?;
        let Some(Unshown { mut txn, .. }) = self.unshown.take() else { return Ok(()) };
        // What waits now is not in it: its outcome is certain.
        let failed = |error| Failure { error, in_doubt: false, unharmed: false };
        note(&txn, self.revision, self.oldest).map_err(failed)?;
        txn.set_durability(Durability::None).map_err(|e| failed(engine_error(e)))?;
        txn.commit().map_err(|e| failed(engine_error(e)))?;
        self.handle.shows_all();
        Ok(())
    }

    /// Writes a commit: the operations of each transaction, the new oldest revision, and a step of compaction. Into the log,
    /// or, when that is full, into the database's file. For the log, the record is still to be appended.
    fn write(&mut self, batch: &mut Growing, oldest: Revision) -> Result<(Done, Option<Record>), Failure> {
        let before = |error| Failure { error, in_doubt: false, unharmed: false };
        if self.unshown.as_ref().is_some_and(Unshown::is_full) {
            self.show()?;
        }
        let mut unshown = match self.unshown.take() {
            Some(unshown) => unshown,
            None => {
                let db = self.handle.database().map_err(before)?;
                let txn = db.begin_write().map_err(|e| before(engine_error(e)))?;
                Unshown { txn, ops: 0, bytes: 0 }
            }
        };
        let (intake, log) = (&mut self.intake, &mut self.log);
        let mut next = || intake.more(batch, || log.as_mut().is_ok_and(Log::is_busy));
        let (done, change) = apply(&unshown.txn, self.revision, self.oldest, oldest, &mut next).map_err(before)?;
        // What was done here so far went to the disk meanwhile. It is there before anything else goes, or is answered.
        self.wait()?;
        let log = self.log.as_mut().map_err(|reason| before(Error::WritesStopped { reason: reason.clone() }))?;
        // Only what a record may yet fail to be written of is taken back by ending the transaction.
        let unharmed = unshown.ops == 0;
        if change == Change::None {
            if unharmed {
                unshown.txn.abort().map_err(|e| before(engine_error(e)))?;
            } else {
                self.unshown = Some(unshown);
            }
            return Ok((done, None));
        }
        let record = Record::new(self.revision, oldest, &done.batches);
        self.compacted += done.removed;
        if !log.fits(&record) || self.compacted >= COMPACT_UNDURABLE_MAX {
            self.handle.will_show(done.revision);
            let id = commit_durably(unshown.txn, done.revision, oldest)?;
            self.handle.committed();
            self.handle.shows_all();
            log.restart(id);
            self.compacted = 0;
            return Ok((done, None));
        }
        let is_logged = change == Change::Logged;
        if is_logged {
            log.reserve(&record).map_err(|error| Failure { error: io_error(error), in_doubt: false, unharmed })?;
        }
        unshown.ops += 1 + done.batches.len() + done.removed;
        unshown.bytes += done.bytes;
        self.unshown = Some(unshown);
        Ok((done, is_logged.then_some(record)))
    }

    /// Makes the database durable before it is closed, so that the next start has nothing to do again.
    pub(super) fn settle(&mut self) {
        if self.wait().is_err() {
            // Only the log has all that was acknowledged. It must not begin again.
            self.unshown = None;
            return;
        }
        let Ok(log) = &self.log else { return };
        let unshown = self.unshown.take();
        if log.is_empty() && self.compacted == 0 {
            return;
        }
        let txn = match unshown {
            Some(unshown) => Ok(unshown.txn),
            None => self.handle.database().and_then(|db| db.begin_write().map_err(engine_error)),
        };
        let (revision, oldest) = (self.revision, self.oldest);
        let settled = txn.and_then(|txn| commit_durably(txn, revision, oldest).map_err(|failure| failure.error));
        if let Err(error) = settled {
            tracing::warn!(reason = describe(&error), "the store did not close cleanly; the next start reads its log");
        }
    }

    /// Brings the reads back after a failed write. They show what was acknowledged: if the write in doubt has happened,
    /// it happens for its readers when the store is next opened.
    fn freeze(&mut self) {
        // A record that is under way may yet arrive, and be acknowledged.
        let _ = self.wait();
        self.unshown = None;
        if let Err(error) = self.handle.freeze(self.log.as_ref().ok().map(Log::acknowledged)) {
            tracing::error!(reason = describe(&error), "the store cannot be read any more either");
        }
    }

    /// Answers every request with the reason why there are no more writes, until it is told to close.
    fn refuse(&mut self, reason: &str) {
        let stopped = || Error::WritesStopped { reason: reason.to_owned() };
        while let Some(command) = self.intake.next() {
            match command {
                // Reads show what was acknowledged since writing ended.
                Command::Show { reply } => drop(reply.send(())),
                Command::Txn { waiting: (reply, _permit), .. } => drop(reply.send(Err(stopped()))),
                Command::Compact { reply, .. } => drop(reply.send(Err(stopped()))),
                Command::Close => break,
            }
        }
    }
}

impl Failure {
    /// What one of the waiting transactions is told.
    fn answer(&self, reason: &str) -> Error {
        let cause = || -> crate::Source { reason.to_owned().into() };
        match &self.error {
            _ if self.in_doubt => Error::UnknownOutcome(cause()),
            Error::NoSpace(_) => Error::NoSpace(cause()),
            Error::Closed => Error::Closed,
            _ => Error::WritesStopped { reason: reason.to_owned() },
        }
    }
}

/// An error and its causes in one line.
pub(super) fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// What a commit did.
struct Done {
    answers: Vec<Result<Revision, Error>>,
    batches: Vec<EventBatch>,
    revision: Revision,
    /// Bytes of the values that were written.
    bytes: usize,
    /// How many log entries were compacted, and whether some are left.
    removed: usize,
    garbage: bool,
}

/// How a commit changed the database.
#[derive(Clone, Copy, PartialEq)]
enum Change {
    None,
    /// In a way that needs no record: the same is done again without one.
    Tidied,
    Logged,
}

/// Commits to the disk what leads to `revision`, with a new number for the log, which begins again behind this.
fn commit_durably(mut txn: WriteTransaction, revision: Revision, oldest: Revision) -> Result<u64, Failure> {
    let before = |error| Failure { error, in_doubt: false, unharmed: false };
    note(&txn, revision, oldest).map_err(before)?;
    let id = log::fresh_id().map_err(before)?;
    let numbered = |txn: &WriteTransaction| -> Result<(), redb::Error> {
        txn.open_table(META)?.insert(META_LOG, id)?;
        Ok(())
    };
    numbered(&txn).map_err(|e| before(engine_error(e)))?;
    txn.set_quick_repair(true);
    txn.set_durability(Durability::Immediate).map_err(|e| before(engine_error(e)))?;
    // Whatever fails in here, the commit may yet be found to have happened.
    txn.commit().map_err(|e| Failure { error: engine_error(e), in_doubt: true, unharmed: false })?;
    Ok(id)
}

fn io_error(error: std::io::Error) -> Error {
    engine_error(redb::Error::Io(error))
}

/// Applies a batch to the tables, and says how that changed them.
fn apply(
    txn: &WriteTransaction,
    mut revision: Revision,
    old_oldest: Revision,
    oldest: Revision,
    next: &mut dyn FnMut() -> Option<Vec<Op>>,
) -> Result<(Done, Change), Error> {
    let mut tables = Tables::open(txn)?;
    let mut answers = Vec::new();
    let mut batches = Vec::new();
    while let Some(ops) = next() {
        match tables.transact(revision + 1, ops)? {
            Ok(events) => {
                if !events.is_empty() {
                    revision += 1;
                    batches.push(EventBatch { revision, events });
                }
                answers.push(Ok(revision));
            }
            Err(conflict) => answers.push(Err(conflict)),
        }
    }
    let added: usize = batches.iter().map(|batch| batch.events.len()).sum();
    let (removed, garbage) = tables.compact(oldest, COMPACT_ENTRIES.max(2 * added))?;
    let change = match (added > 0 || oldest != old_oldest, removed > 0) {
        (true, _) => Change::Logged,
        (false, true) => Change::Tidied,
        (false, false) => Change::None,
    };
    let bytes = batches.iter().flat_map(|batch| &batch.events).map(|event| event.kv.value.len()).sum();
    Ok((Done { answers, batches, revision, bytes, removed, garbage }, change))
}

/// Writes down which revisions there are, once for all commits that become visible together.
fn note(txn: &WriteTransaction, revision: Revision, oldest: Revision) -> Result<(), Error> {
    let mut meta = txn.open_table(META).map_err(engine_error)?;
    meta.insert(META_REVISION, revision).map_err(engine_error)?;
    meta.insert(META_OLDEST, oldest).map_err(engine_error)?;
    Ok(())
}

/// Does again what the log has and the database has not.
pub(super) struct Replay<'db> {
    db: &'db Database,
    id: u64,
    revision: Revision,
    oldest: Revision,
    /// All of it is one transaction, begun with the first record.
    txn: Option<WriteTransaction>,
}

impl<'db> Replay<'db> {
    pub(super) fn new(db: &'db Database) -> Result<Self, Error> {
        let now = Snapshot::take(db)?;
        let (id, revision, oldest) = (now.log_id()?, now.revision, now.oldest);
        Ok(Replay { db, id, revision, oldest, txn: None })
    }

    /// The number of the log whose records follow what the database has.
    pub(super) fn log_id(&self) -> u64 {
        self.id
    }

    pub(super) fn add(&mut self, entry: Entry) -> Result<(), Error> {
        let txn = match &mut self.txn {
            Some(txn) => txn,
            none => none.insert(self.db.begin_write().map_err(engine_error)?),
        };
        // A database that was closed without making the log begin again has it all.
        if entry.after() <= self.revision && entry.oldest <= self.oldest {
            return Ok(());
        }
        if entry.before != self.revision {
            return Err(Error::corrupt(format!("the log goes on after {}, not {}", entry.before, self.revision)));
        }
        let mut tables = Tables::open(txn)?;
        for ops in entry.txns {
            self.revision += 1;
            let done = tables.transact(self.revision, ops)?;
            if !done.is_ok_and(|events| !events.is_empty()) {
                return Err(Error::corrupt(format!("the log's change {} does not fit the file", self.revision)));
            }
        }
        self.oldest = self.oldest.max(entry.oldest);
        Ok(())
    }

    /// Makes it durable, and returns the number of the log to go on with.
    pub(super) fn finish(self) -> Result<u64, Error> {
        let Some(txn) = self.txn else { return Ok(self.id) };
        commit_durably(txn, self.revision, self.oldest).map_err(|failure| failure.error)
    }
}

/// Makes the tables of a new file, and what one of before there was a log lacks.
pub(super) fn initialise(db: &Database) -> Result<(), Error> {
    let txn = db.begin_write().map_err(engine_error)?;
    let (mut revision, mut oldest) = (FIRST_REVISION, FIRST_REVISION);
    {
        let mut meta = txn.open_table(META).map_err(engine_error)?;
        for (name, number) in [(META_REVISION, &mut revision), (META_OLDEST, &mut oldest)] {
            if let Some(found) = meta.get(name).map_err(engine_error)? {
                *number = found.value();
            }
        }
        meta.insert(schema::META_FORMAT, schema::FORMAT).map_err(engine_error)?;
        Tables::open(&txn)?;
    }
    upgrade::rewrite(&txn)?;
    commit_durably(txn, revision, oldest).map(drop).map_err(|failure| failure.error)
}
