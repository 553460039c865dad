//! The log in front of the database. In: what each commit did, as bytes. Out: a promise that it is on the disk, for the price
//! of one sync; and after a crash the commits that the database does not have yet.
//!
//! ```text
//!   block 0         block n                        length of the file
//!   │ record │ zeroes │ record │ … │ older bytes    │ grows by zeroes, never shrinks
//! ```
//!
//! Records follow each other from the start of the file. Each begins with a block of its own, so that no write touches what an
//! earlier one made durable, and is on the disk before the next is written. It names the log's number, which is in the
//! database; a durable commit of the database changes the number, by which all records at once are old, and the log
//! begins again at the start of the file. The file's length and blocks stay the same, so that a sync writes nothing but data.
//!
//! What follows the last record is a commit that was cut short, or old. A good record behind a bad one is neither: the disk has lost
//! what it had promised to keep, and that is said.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};

use redb::StorageBackend;
use ring::digest::{self, SHA256};
use ring::rand::{SecureRandom, SystemRandom};

use crate::{Error, EventBatch, EventKind, Op, Revision, check_key};

/// What a record begins at, and is filled up to: the largest unit that a disk writes as one.
const BLOCK_BYTES: usize = 4096;
/// How much the file grows by, at the price of syncing its length too.
const GROWTH_BYTES: u64 = 1 << 20;
const MAGIC: [u8; 8] = *b"gantrylg";
/// Magic, the log's number, the length of the contents, SHA-256 of these and of the contents.
const HEADER_BYTES: usize = 8 + 8 + 8 + DIGEST_BYTES;
const DIGEST_BYTES: usize = 32;

/// The log, being written. A record goes to the disk while its writer prepares the next one: all that asks where the log ends
/// comes after [`Log::wait`].
pub(super) struct Log {
    file: Arc<dyn StorageBackend>,
    id: u64,
    /// Where the next record goes.
    end: u64,
    /// The file's length.
    len: u64,
    /// What `end` never passes.
    len_max: u64,
    /// Where the log ends once the record is on the disk that is on its way there.
    under_way: Option<u64>,
    /// How that went, where whoever asked for it has written it; else the thread knows.
    done: Option<io::Result<()>>,
    beside: Option<Appender>,
}

/// Told how appending a record went, by whoever appended it.
pub(super) type Told = Box<dyn FnOnce(Result<(), &io::Error>) + Send>;

/// A record on its way to the disk.
struct Job {
    file: Arc<dyn StorageBackend>,
    at: u64,
    /// The log's number.
    id: u64,
    record: Record,
    told: Told,
}

impl Job {
    fn run(self) -> io::Result<()> {
        let sealed = self.record.sealed(self.id);
        let done = self.file.write(self.at, &sealed).and_then(|()| self.file.sync_data());
        (self.told)(done.as_ref().copied());
        done
    }
}

/// A thread that appends records, one at a time.
struct Appender {
    jobs: SyncSender<Job>,
    done: Receiver<io::Result<()>>,
}

impl Appender {
    fn start() -> io::Result<Self> {
        let (jobs, queue) = sync_channel::<Job>(1);
        let (tell, done) = sync_channel(1);
        let work = move || {
            while let Ok(job) = queue.recv() {
                if tell.send(job.run()).is_err() {
                    break;
                }
            }
        };
        std::thread::Builder::new().name("store-log".to_owned()).spawn(work)?;
        Ok(Appender { jobs, done })
    }
}

/// The appender has ended, which only a panic in it explains.
fn gone() -> io::Error {
    io::Error::other("the thread that writes the log has ended")
}

impl Log {
    /// An empty log in a file that may hold older ones.
    pub(super) fn new(file: Box<dyn StorageBackend>, id: u64, len_max: u64) -> io::Result<Self> {
        let len = file.len()?;
        Ok(Log { file: file.into(), id, end: 0, len, len_max, under_way: None, done: None, beside: None })
    }

    /// From now on a thread appends records.
    pub(super) fn append_beside(&mut self) -> io::Result<()> {
        self.beside = Some(Appender::start()?);
        Ok(())
    }

    /// Whether no commit is only here.
    pub(super) fn is_empty(&self) -> bool {
        self.end == 0
    }

    /// Whether there is room for a record.
    pub(super) fn fits(&self, record: &Record) -> bool {
        self.end + record.padded() <= self.len_max
    }

    /// Makes the file long enough for a record.
    pub(super) fn reserve(&mut self, record: &Record) -> io::Result<()> {
        let end = self.end + record.padded();
        if end > self.len {
            let len = (self.len + GROWTH_BYTES).min(self.len_max).max(end);
            let fresh = usize::try_from(len - self.len).map_err(io::Error::other)?;
            self.file.set_len(len)?;
            // Blocks that have been written once cost later syncs less than blocks that have only been promised.
            self.file.write(self.len, &vec![0; fresh])?;
            self.len = len;
        }
        Ok(())
    }

    /// Adds a record for which there is room, after the last one that was waited for. It is on the disk when `told` hears so, and
    /// may be after an error. With `here`, it is so before this returns.
    pub(super) fn append(&mut self, record: Record, here: bool, told: Told) {
        self.under_way = Some(self.end + record.padded());
        let job = Job { file: Arc::clone(&self.file), at: self.end, id: self.id, record, told };
        self.done = match self.beside.as_ref().filter(|_| !here) {
            None => Some(job.run()),
            Some(appender) => appender.jobs.send(job).err().map(|unsent| {
                (unsent.0.told)(Err(&gone()));
                Err(gone())
            }),
        };
    }

    /// Whether a record is still on its way, as far as can be told without waiting.
    pub(super) fn is_busy(&mut self) -> bool {
        if self.under_way.is_none() || self.done.is_some() {
            return false;
        }
        let Some(appender) = &self.beside else { return false };
        match appender.done.try_recv() {
            Ok(done) => self.done = Some(done),
            Err(TryRecvError::Empty) => return true,
            // Waiting says what there is to say.
            Err(TryRecvError::Disconnected) => {}
        }
        false
    }

    /// Returns when nothing is under way any more. An error is that of the last record, which may be on the disk or not; nothing
    /// can be appended then.
    pub(super) fn wait(&mut self) -> io::Result<()> {
        let Some(end) = self.under_way.take() else { return Ok(()) };
        let told = || self.beside.as_ref().and_then(|appender| appender.done.recv().ok());
        let done = self.done.take().or_else(told).unwrap_or_else(|| Err(gone()));
        if done.is_ok() {
            self.end = end;
        }
        done
    }

    /// The end of the records that are on the disk for certain.
    pub(super) fn acknowledged(&self) -> u64 {
        self.end
    }

    /// Starts again under another number, which the database has by now.
    pub(super) fn restart(&mut self, id: u64) {
        (self.id, self.end) = (id, 0);
    }
}

/// A number that no log had before.
pub(super) fn fresh_id() -> Result<u64, Error> {
    let mut bytes = [0; 8];
    SystemRandom::new().fill(&mut bytes).map_err(|_| Error::Engine("the system gives no random numbers".into()))?;
    Ok(u64::from_le_bytes(bytes))
}

/// A record being made: room for the header, then the contents.
pub(super) struct Record(Vec<u8>);

impl Record {
    /// What a commit does after revision `before`: the transactions, and what the oldest revision is then.
    pub(super) fn new(before: Revision, oldest: Revision, batches: &[EventBatch]) -> Self {
        let events = || batches.iter().flat_map(|batch| &batch.events);
        let room: usize = events().map(|event| 16 + event.kv.key.len() + event.kv.value.len()).sum();
        let mut record = Record(Vec::with_capacity(HEADER_BYTES + 32 + 8 * batches.len() + room + BLOCK_BYTES));
        record.0.resize(HEADER_BYTES, 0);
        record.number(before);
        record.number(oldest);
        record.number(batches.len() as u64);
        for batch in batches {
            record.number(batch.events.len() as u64);
            for event in &batch.events {
                let value = match event.kind {
                    EventKind::Put => Some(&event.kv.value[..]),
                    EventKind::Delete => None,
                };
                record.0.push(u8::from(value.is_some()));
                record.bytes(event.kv.key.as_bytes());
                if let Some(value) = value {
                    record.bytes(value);
                }
            }
        }
        record
    }

    fn number(&mut self, number: u64) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn padded(&self) -> u64 {
        self.0.len().next_multiple_of(BLOCK_BYTES) as u64
    }

    /// Its bytes, with the header and the last block filled.
    fn sealed(mut self, id: u64) -> Vec<u8> {
        let contents = (self.0.len() - HEADER_BYTES) as u64;
        let (header, digest) = (HEADER_BYTES - DIGEST_BYTES, HEADER_BYTES);
        self.0[..8].copy_from_slice(&MAGIC);
        self.0[8..16].copy_from_slice(&id.to_le_bytes());
        self.0[16..header].copy_from_slice(&contents.to_le_bytes());
        let sum = digest_of(&self.0[..header], &self.0[digest..]);
        self.0[header..digest].copy_from_slice(sum.as_ref());
        self.0.resize(self.0.len().next_multiple_of(BLOCK_BYTES), 0);
        self.0
    }
}

fn digest_of(header: &[u8], contents: &[u8]) -> digest::Digest {
    let mut context = digest::Context::new(&SHA256);
    context.update(header);
    context.update(contents);
    context.finish()
}

/// What a record says was done.
#[derive(Debug, PartialEq)]
pub(super) struct Entry {
    /// The revision before the first transaction.
    pub(super) before: Revision,
    pub(super) oldest: Revision,
    /// Each took one revision.
    pub(super) txns: Vec<Vec<Op>>,
}

impl Entry {
    /// The revision after the last transaction.
    pub(super) fn after(&self) -> Revision {
        self.before + self.txns.len() as u64
    }

    fn decode(contents: &[u8]) -> Option<Self> {
        let mut left = contents;
        let (before, oldest, count) = (number(&mut left)?, number(&mut left)?, number(&mut left)?);
        let mut txns = Vec::new();
        for _ in 0..count {
            let mut ops = Vec::new();
            for _ in 0..number(&mut left)? {
                let (kind, rest) = left.split_first()?;
                left = rest;
                let key = std::str::from_utf8(bytes(&mut left)?).ok()?.to_owned();
                check_key(&key).ok()?;
                ops.push(match kind {
                    0 => Op::Delete { key, precondition: None },
                    1 => Op::Put { key, value: bytes(&mut left)?.to_vec().into(), precondition: None },
                    _ => return None,
                });
            }
            txns.push(ops);
        }
        left.is_empty().then_some(Entry { before, oldest, txns })
    }
}

fn number(from: &mut &[u8]) -> Option<u64> {
    let (number, rest) = from.split_first_chunk::<8>()?;
    *from = rest;
    Some(u64::from_le_bytes(*number))
}

fn bytes<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = usize::try_from(number(from)?).ok()?;
    let (bytes, rest) = from.split_at_checked(len)?;
    *from = rest;
    Some(bytes)
}

/// Why a log cannot be read.
pub(super) enum Unreadable {
    Io(io::Error),
    /// The database, or the log itself, says that something is missing.
    Other(Error),
}

impl From<io::Error> for Unreadable {
    fn from(error: io::Error) -> Self {
        Unreadable::Io(error)
    }
}

/// Calls `with` for every record of the log `id`, in order; or only for those before the offset `until`.
pub(super) fn read(
    file: &dyn StorageBackend,
    id: u64,
    until: Option<u64>,
    mut with: impl FnMut(Entry) -> Result<(), Error>,
) -> Result<(), Unreadable> {
    let len = file.len()?;
    let mut at = 0;
    let wanted = until.unwrap_or(u64::MAX);
    while at < wanted
        && let Some((contents, next)) = record_at(file, id, at, len)?
    {
        let entry = Entry::decode(&contents);
        let entry = entry.ok_or_else(|| Unreadable::Other(Error::corrupt(format!("odd record in the log at {at}"))))?;
        with(entry).map_err(Unreadable::Other)?;
        at = next;
    }
    let gap = at;
    while until.is_none() && at + (BLOCK_BYTES as u64) < len {
        at += BLOCK_BYTES as u64;
        if record_at(file, id, at, len)?.is_some() {
            let what = format!("the log has a good record at {at} behind a bad one at {gap}");
            return Err(Unreadable::Other(Error::Corrupt { what }));
        }
    }
    Ok(())
}

/// The contents of the record at an offset, and where the next one is; none if there is no whole record of this log.
fn record_at(file: &dyn StorageBackend, id: u64, at: u64, len: u64) -> io::Result<Option<(Vec<u8>, u64)>> {
    if at + HEADER_BYTES as u64 > len {
        return Ok(None);
    }
    let mut header = [0; HEADER_BYTES];
    file.read(at, &mut header)?;
    let (head, sum) = header.split_at(HEADER_BYTES - DIGEST_BYTES);
    let mut fields = &head[MAGIC.len()..];
    let (found, count) = (number(&mut fields), number(&mut fields));
    let Some(count) = count.filter(|_| head[..MAGIC.len()] == MAGIC && found == Some(id)) else { return Ok(None) };
    let start = at + HEADER_BYTES as u64;
    let Some(end) = start.checked_add(count).filter(|end| *end <= len) else { return Ok(None) };
    let mut contents = vec![0; usize::try_from(count).map_err(io::Error::other)?];
    file.read(start, &mut contents)?;
    let whole = digest_of(head, &contents).as_ref() == sum;
    Ok(whole.then_some((contents, end.next_multiple_of(BLOCK_BYTES as u64))))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use redb::backends::InMemoryBackend;

    use super::*;
    use crate::{Event, KeyValue};

    fn batch(revision: Revision, value_bytes: usize) -> EventBatch {
        let kv = |key: &str, value| KeyValue { key: key.to_owned(), value, create_revision: 1, mod_revision: revision };
        let put = kv("put", Bytes::from(vec![revision as u8; value_bytes]));
        EventBatch {
            revision,
            events: vec![
                Event { kind: EventKind::Put, kv: put, prev: None },
                Event { kind: EventKind::Delete, kv: kv("gone", Bytes::from_static(b"last")), prev: None },
            ],
        }
    }

    fn entry(before: Revision, value_bytes: usize) -> Entry {
        let value = Bytes::from(vec![(before + 1) as u8; value_bytes]);
        let put = Op::Put { key: "put".to_owned(), value, precondition: None };
        let delete = Op::Delete { key: "gone".to_owned(), precondition: None };
        Entry { before, oldest: 1, txns: vec![vec![put, delete]] }
    }

    fn entries(file: &dyn StorageBackend, id: u64) -> Result<Vec<Entry>, Error> {
        let mut found = Vec::new();
        let keep = |entry| {
            found.push(entry);
            Ok(())
        };
        match read(file, id, None, keep) {
            Ok(()) => Ok(found),
            Err(Unreadable::Other(error)) => Err(error),
            Err(Unreadable::Io(error)) => panic!("{error}"),
        }
    }

    fn add(log: &mut Log, record: Record) {
        log.reserve(&record).unwrap();
        log.append(record, false, Box::new(|done| assert!(done.is_ok())));
        log.wait().unwrap();
    }

    /// A log of three records of two blocks each.
    fn written() -> Log {
        let mut log = Log::new(Box::new(InMemoryBackend::new()), 7, 1 << 20).unwrap();
        for before in 1..4 {
            add(&mut log, Record::new(before, 1, &[batch(before + 1, 5_000)]));
        }
        log
    }

    #[test]
    fn what_was_appended_is_read_until_the_log_is_restarted() {
        let mut log = written();
        assert_eq!(entries(&*log.file, 7).unwrap(), [entry(1, 5_000), entry(2, 5_000), entry(3, 5_000)]);
        assert!(entries(&*log.file, 8).unwrap().is_empty());
        let mut first = 0;
        let count = |_| {
            first += 1;
            Ok(())
        };
        assert!(read(&*log.file, 7, Some(8_192), count).is_ok());
        assert_eq!(first, 1);
        log.restart(8);
        assert!(log.is_empty());
        add(&mut log, Record::new(4, 1, &[batch(5, 10)]));
        assert_eq!(entries(&*log.file, 8).unwrap(), [entry(4, 10)]);
    }

    #[test]
    fn a_thread_appends_as_the_caller_does() {
        let mut log = written();
        log.append_beside().unwrap();
        for (before, here) in [(4, false), (5, true), (6, false)] {
            let (tell, told) = std::sync::mpsc::channel();
            let record = Record::new(before, 1, &[batch(before + 1, 10)]);
            log.wait().unwrap();
            log.reserve(&record).unwrap();
            log.append(record, here, Box::new(move |done| tell.send(done.is_ok()).unwrap()));
            assert!(told.recv().unwrap());
        }
        log.wait().unwrap();
        let last: Vec<_> = entries(&*log.file, 7).unwrap().into_iter().skip(3).collect();
        assert_eq!(last, [entry(4, 10), entry(5, 10), entry(6, 10)]);
    }

    #[test]
    fn the_log_has_an_end() {
        let mut log = Log::new(Box::new(InMemoryBackend::new()), 7, 3 * BLOCK_BYTES as u64).unwrap();
        let record = || Record::new(1, 1, &[batch(2, 5_000)]);
        assert!(log.fits(&record()));
        add(&mut log, record());
        assert!(!log.fits(&record()));
        assert_eq!(log.file.len().unwrap(), 3 * BLOCK_BYTES as u64);
    }

    #[test]
    fn a_record_that_was_cut_short_is_the_end_and_one_before_a_good_one_is_damage() {
        for at in [8_192 * 2, 8_192 * 2 + 20, 8_192 * 2 + 30, 8_192 * 2 + 4_500] {
            let log = written();
            log.file.write(at, b"?").unwrap();
            assert_eq!(entries(&*log.file, 7).unwrap().len(), 2, "{at}");
            log.file.write(at - 8_192, b"?").unwrap();
            assert_eq!(entries(&*log.file, 7).unwrap().len(), 1, "both are bad");
        }
        let log = written();
        log.file.write(8_192 + 100, b"?").unwrap();
        assert!(matches!(entries(&*log.file, 7), Err(Error::Corrupt { .. })));
    }
}
