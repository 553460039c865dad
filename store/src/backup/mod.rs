//! Backups: everything a store held at one revision, as a stream of bytes that can be checked.
//!
//! ```text
//! head    "GANTRYBK"  version u32  revision u64  time u64 (seconds since 1970)  engine u8 + text            SHA-256
//! chunk   1 u8  length u32  records: key u32 + text, created u64, changed u64, value u32 + bytes            SHA-256
//! …
//! end     2 u8  8 u32       number of records u64                                                           SHA-256
//! ```
//!
//! Numbers are little-endian. Each SHA-256 covers the one before it and what stands between, so that a chunk that was changed, lost,
//! repeated or moved is found, and a file without its end is no backup. Values are as they are stored: what is encrypted stays
//! encrypted. Keys come in byte order, each once.
//!
//! [`snapshot`] makes the stream from a store at work, [`Reader`] checks and reads one, [`write_file`] puts one on disk.

mod file;

use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;
use futures::Stream;
use ring::digest::{Context, SHA256};

use crate::{Error, KEY_BYTES_MAX, KeyValue, Revision, Store};

pub use file::write_file;

const MAGIC: &[u8; 8] = b"GANTRYBK";
/// The version of the format that is written, and the only one that is read.
pub const VERSION: u32 = 1;
const CHUNK: u8 = 1;
const END: u8 = 2;
/// A chunk ends once it holds this many bytes: enough that its digest costs nothing, few enough to send as it comes.
const CHUNK_BYTES: usize = 256 << 10;
/// No chunk is longer, so that a damaged length does not ask for all memory.
const CHUNK_BYTES_MAX: usize = 64 << 20;
/// How many keys are read at once.
const PAGE_ITEMS: usize = 500;

type Digest = [u8; 32];

/// What a backup says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The revision it is a snapshot of.
    pub revision: Revision,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// The engine it is from.
    pub engine: String,
}

/// Why a backup cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// It does not begin like one.
    #[error("this is no backup")]
    NotABackup,
    /// Another version wrote it.
    #[error("the backup has format version {0}; this program reads version {VERSION}")]
    Version(u32),
    /// It is not what was written.
    #[error("the backup is damaged: {0}")]
    Damaged(String),
    /// It ends too early.
    #[error("the backup is cut short after {records} objects")]
    Truncated {
        /// How many were whole.
        records: u64,
    },
    /// The operating system refused something.
    #[error("{what} {}", path.display())]
    Io {
        /// What was tried, as in "cannot write".
        what: &'static str,
        /// On which file.
        path: std::path::PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// It cannot be read.
    #[error("cannot read the backup")]
    Read(#[source] std::io::Error),
    /// Where it comes from failed.
    #[error("cannot read what is to be backed up")]
    Source(#[source] crate::Source),
}

/// Writes the format.
struct Encoder {
    digest: Digest,
    pending: Vec<u8>,
    records: u64,
}

impl Encoder {
    fn new(header: &Header) -> (Self, Bytes) {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&header.revision.to_le_bytes());
        bytes.extend_from_slice(&header.created.to_le_bytes());
        let engine = &header.engine.as_bytes()[..header.engine.len().min(255)];
        bytes.push(engine.len() as u8);
        bytes.extend_from_slice(engine);
        let digest = chained(&[0; 32], &[&bytes]);
        bytes.extend_from_slice(&digest);
        (Self { digest, pending: Vec::new(), records: 0 }, Bytes::from(bytes))
    }

    fn push(&mut self, kv: &KeyValue) {
        let field = |out: &mut Vec<u8>, bytes: &[u8]| {
            // Keys and values are far below this.
            out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
            out.extend_from_slice(bytes);
        };
        field(&mut self.pending, kv.key.as_bytes());
        self.pending.extend_from_slice(&kv.create_revision.to_le_bytes());
        self.pending.extend_from_slice(&kv.mod_revision.to_le_bytes());
        field(&mut self.pending, &kv.value);
        self.records += 1;
    }

    fn is_full(&self) -> bool {
        self.pending.len() >= CHUNK_BYTES
    }

    fn chunk(&mut self) -> Bytes {
        let payload = std::mem::take(&mut self.pending);
        self.frame(CHUNK, &payload)
    }

    fn end(&mut self) -> Bytes {
        let records = self.records.to_le_bytes();
        self.frame(END, &records)
    }

    fn frame(&mut self, kind: u8, payload: &[u8]) -> Bytes {
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes();
        self.digest = chained(&self.digest, &[&[kind], &length, payload]);
        Bytes::from([&[kind][..], &length, payload, &self.digest].concat())
    }
}

fn chained(before: &Digest, parts: &[&[u8]]) -> Digest {
    let mut context = Context::new(&SHA256);
    context.update(before);
    for part in parts {
        context.update(part);
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

/// Everything that `store` holds now, as a backup. Writers are not held up; the history must be kept for as long as it is read.
pub fn snapshot(store: Arc<dyn Store>) -> impl Stream<Item = Result<Bytes, Error>> + Send {
    enum State {
        Begin,
        Pages { encoder: Encoder, at: Revision, start_after: Option<String> },
        Done,
    }
    futures::stream::try_unfold((store, State::Begin), |(store, state)| async move {
        match state {
            State::Begin => {
                let status = store.status().await?;
                let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
                let header = Header {
                    revision: status.revision,
                    created: now.map_or(0, |now| now.as_secs()),
                    engine: status.engine.to_owned(),
                };
                let (encoder, bytes) = Encoder::new(&header);
                let pages = State::Pages { encoder, at: status.revision, start_after: None };
                Ok(Some((bytes, (store, pages))))
            }
            State::Pages { mut encoder, at, mut start_after } => loop {
                let page = store.list("", start_after.as_deref(), PAGE_ITEMS, Some(at)).await?;
                for kv in &page.items {
                    encoder.push(kv);
                }
                if !page.more {
                    let mut bytes = if encoder.pending.is_empty() { Vec::new() } else { encoder.chunk().to_vec() };
                    bytes.extend_from_slice(&encoder.end());
                    return Ok(Some((Bytes::from(bytes), (store, State::Done))));
                }
                start_after = page.items.last().map(|kv| kv.key.clone());
                if encoder.is_full() {
                    let bytes = encoder.chunk();
                    return Ok(Some((bytes, (store, State::Pages { encoder, at, start_after }))));
                }
            },
            State::Done => Ok(None),
        }
    })
}

/// Reads a backup and checks it on the way.
pub struct Reader<R> {
    inner: R,
    digest: Digest,
    last_key: Option<String>,
    records: u64,
    ended: bool,
}

impl<R: Read> Reader<R> {
    /// Reads the head.
    ///
    /// # Errors
    /// When it is none of a backup that this program can read.
    pub fn open(mut inner: R) -> Result<(Self, Header), BackupError> {
        let mut head = vec![0; MAGIC.len() + 21];
        match inner.read_exact(&mut head) {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Err(BackupError::NotABackup),
            other => other.map_err(BackupError::Read)?,
        }
        if !head.starts_with(MAGIC) {
            return Err(BackupError::NotABackup);
        }
        let version = u32::from_le_bytes(fixed(&head[8..12]));
        if version != VERSION {
            return Err(BackupError::Version(version));
        }
        let (revision, created) = (u64::from_le_bytes(fixed(&head[12..20])), u64::from_le_bytes(fixed(&head[20..28])));
        let mut reader = Self { inner, digest: [0; 32], last_key: None, records: 0, ended: false };
        let engine = reader.bytes(usize::from(head[28]))?;
        head.extend_from_slice(&engine);
        reader.check(&[&head])?;
        let engine = String::from_utf8_lossy(&engine).into_owned();
        Ok((reader, Header { revision, created, engine }))
    }

    /// The next objects, in key order; none after the last, and only if the end is there and right.
    ///
    /// # Errors
    /// When what is read is not what was written.
    pub fn next_chunk(&mut self) -> Result<Option<Vec<KeyValue>>, BackupError> {
        if self.ended {
            return Ok(None);
        }
        let head = self.bytes(5)?;
        let length = u32::from_le_bytes(fixed(&head[1..]));
        if length as usize > CHUNK_BYTES_MAX {
            return Err(BackupError::Damaged(format!("a chunk of {length} bytes after {} objects", self.records)));
        }
        let payload = self.bytes(length as usize)?;
        self.check(&[&head, &payload])?;
        match head[0] {
            CHUNK => self.records_of(&payload).map(Some),
            END if payload == self.records.to_le_bytes() => {
                self.ended = true;
                match self.inner.read(&mut [0]) {
                    Ok(0) => Ok(None),
                    Ok(_) => Err(BackupError::Damaged("something follows its end".to_owned())),
                    Err(error) => Err(BackupError::Read(error)),
                }
            }
            END => Err(BackupError::Damaged(format!("{} objects are not as many as its end says", self.records))),
            kind => Err(BackupError::Damaged(format!("a chunk of kind {kind}"))),
        }
    }

    /// How many objects were read.
    pub fn records(&self) -> u64 {
        self.records
    }

    fn records_of(&mut self, mut payload: &[u8]) -> Result<Vec<KeyValue>, BackupError> {
        let mut records = Vec::new();
        while !payload.is_empty() {
            let record = take_record(&mut payload)
                .ok_or_else(|| BackupError::Damaged(format!("object {} is not whole", self.records + 1)))?;
            if self.last_key.as_ref().is_some_and(|last| *last >= record.key) {
                return Err(BackupError::Damaged(format!("key {:?} is not in order", record.key)));
            }
            self.records += 1;
            self.last_key = Some(record.key.clone());
            records.push(record);
        }
        Ok(records)
    }

    fn bytes(&mut self, count: usize) -> Result<Vec<u8>, BackupError> {
        let mut bytes = vec![0; count];
        match self.inner.read_exact(&mut bytes) {
            Ok(()) => Ok(bytes),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                Err(BackupError::Truncated { records: self.records })
            }
            Err(error) => Err(BackupError::Read(error)),
        }
    }

    /// Reads a digest and compares it with that of `parts`.
    fn check(&mut self, parts: &[&[u8]]) -> Result<(), BackupError> {
        let expected = chained(&self.digest, parts);
        if self.bytes(32)? != expected {
            return Err(BackupError::Damaged(format!("a checksum is wrong after {} objects", self.records)));
        }
        self.digest = expected;
        Ok(())
    }
}

fn take_record(payload: &mut &[u8]) -> Option<KeyValue> {
    let key = take_field(payload)?;
    let key = std::str::from_utf8(key).ok().filter(|key| !key.is_empty() && key.len() <= KEY_BYTES_MAX)?.to_owned();
    let create_revision = u64::from_le_bytes(take(payload, 8)?.try_into().ok()?);
    let mod_revision = u64::from_le_bytes(take(payload, 8)?.try_into().ok()?);
    let value = Bytes::copy_from_slice(take_field(payload)?);
    Some(KeyValue { key, value, create_revision, mod_revision })
}

fn take_field<'a>(payload: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = u32::from_le_bytes(take(payload, 4)?.try_into().ok()?);
    take(payload, length as usize)
}

fn take<'a>(payload: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = payload.split_at_checked(count)?;
    *payload = rest;
    Some(taken)
}

/// Bytes whose number is known.
fn fixed<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(bytes);
    array
}

#[cfg(test)]
mod tests;
