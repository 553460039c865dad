//! What the watch cache keeps of one object and of one change.
//!
//! In: stored bytes with their revision. Out: [`Entry`] and [`Change`], both shared by reference: the bytes of an
//! object, its place in lists and its frame in watches are one allocation.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::Bytes;
use gantry_api::codec::{self, ObjectFacts};
use gantry_api::kinds::Resource;
use gantry_api::policy::room::Demand;
use gantry_api::protobuf::{self, ProtobufError};

/// The event types of a watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The object came into view.
    Added,
    /// The object changed and is still in view.
    Modified,
    /// The object went out of view.
    Deleted,
}

impl Kind {
    /// The `type` of a watch frame.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Added => "ADDED",
            Kind::Modified => "MODIFIED",
            Kind::Deleted => "DELETED",
        }
    }
}

/// An object at one revision: its encoded bytes and the few facts that selection needs.
#[derive(Debug)]
pub struct Entry {
    /// The store key.
    pub key: Arc<str>,
    /// The revision of this version.
    pub revision: u64,
    /// The canonical JSON, `metadata.resourceVersion` included.
    pub object: Bytes,
    /// What selectors, authorisation and indexes look at.
    pub facts: ObjectFacts,
    /// What it takes of its node, if it is a pod and was ever asked.
    demand: OnceLock<Option<Box<Demand>>>,
}

/// One change, as it is kept in the log and handed to watchers.
#[derive(Debug)]
pub struct Change {
    /// What happened to the object itself.
    pub kind: Kind,
    /// The revision of the change.
    pub revision: u64,
    /// The object after the change; for a deletion its last state, stamped with the deletion's revision.
    pub entry: Arc<Entry>,
    /// The object before the change.
    pub previous: Option<Arc<Entry>>,
    /// When it was seen; the log forgets by age.
    pub seen: Instant,
    /// The frame of `kind` itself: nearly every watcher gets this one.
    frame: Bytes,
    /// Frames of the other kinds, for watchers whose selection the object entered or left by this change.
    entered: OnceLock<Bytes>,
    left: OnceLock<Bytes>,
    /// The frames as messages, by kind; made for the first watcher that reads protobuf.
    messages: [OnceLock<Result<Bytes, ProtobufError>>; 3],
}

impl Change {
    /// A change of `kind` that leads to `stored` at `revision`.
    pub fn new(
        resource: &Resource,
        key: &str,
        kind: Kind,
        revision: u64,
        stored: &[u8],
        previous: Option<Arc<Entry>>,
        seen: Instant,
    ) -> Result<Self, gantry_api::ApiError> {
        let stored = &*codec::settled(resource, stored);
        let facts = codec::facts(resource, stored)?;
        Ok(Self::with_facts(key, kind, revision, stored, facts, previous, seen))
    }

    /// The same, of which the facts are known.
    pub fn with_facts(
        key: &str,
        kind: Kind,
        revision: u64,
        stored: &[u8],
        facts: ObjectFacts,
        previous: Option<Arc<Entry>>,
        seen: Instant,
    ) -> Self {
        let (frame, object) = codec::stamped_frame(kind.as_str(), stored, revision);
        let key = previous.as_ref().map_or_else(|| Arc::from(key), |entry| Arc::clone(&entry.key));
        let entry = Arc::new(Entry::with_facts(key, revision, object, facts));
        let (entered, left, messages) = <(OnceLock<_>, OnceLock<_>, [OnceLock<_>; 3])>::default();
        Self { kind, revision, entry, previous, seen, frame, entered, left, messages }
    }

    /// The frame that a watcher gets to whom this change is of `kind`.
    pub fn frame(&self, kind: Kind) -> Bytes {
        if kind == self.kind {
            return self.frame.clone();
        }
        match kind {
            Kind::Added => self.entered.get_or_init(|| codec::watch_frame(kind.as_str(), &self.entry.object)).clone(),
            Kind::Deleted => self.left.get_or_init(|| codec::watch_frame(kind.as_str(), &self.object(kind))).clone(),
            // A change is only ever widened to "entered" or "left"; what stays in view keeps its own kind.
            Kind::Modified => codec::watch_frame(kind.as_str(), &self.entry.object),
        }
    }

    /// The same frame in protobuf, of a resource whose objects are shown as they are stored.
    pub fn message_frame(&self, kind: Kind, resource: &Resource) -> Result<Bytes, ProtobufError> {
        let made = self.messages[kind as usize].get_or_init(|| {
            let message = protobuf::object(resource, &self.object(kind))?;
            Ok(protobuf::watch_frame(kind.as_str(), &message))
        });
        made.clone()
    }

    /// The object that a watcher gets to whom this change is of `kind`: for one whose selection it left, the last state
    /// that was selected, stamped with the revision of the change.
    pub fn object(&self, kind: Kind) -> Bytes {
        match (&self.previous, kind) {
            (Some(previous), Kind::Deleted) if self.kind != Kind::Deleted => {
                restamp(&previous.object, previous.revision, self.revision)
            }
            _ => self.entry.object.clone(),
        }
    }

    /// About how many bytes the log holds on to because of this change, with its frame in protobuf, which somebody may yet ask for.
    pub fn weight(&self) -> usize {
        2 * self.frame.len() + 256
    }
}

impl Entry {
    /// The same entry by the kind's present schema, if that makes a difference.
    pub fn settled(&self, resource: &Resource) -> Result<Option<Self>, gantry_api::ApiError> {
        let mut object = codec::decode(&self.object)?;
        gantry_api::meta::metadata_mut(&mut object).remove("resourceVersion");
        let entry = Self::new(resource, &self.key, self.revision, &codec::encode(&object))?;
        let same = entry.object == self.object && entry.facts == self.facts;
        Ok((!same).then_some(entry))
    }

    /// An entry read in a list of the store.
    pub fn new(resource: &Resource, key: &str, revision: u64, stored: &[u8]) -> Result<Self, gantry_api::ApiError> {
        let stored = &*codec::settled(resource, stored);
        let facts = codec::facts(resource, stored)?;
        let object = codec::with_resource_version(stored, revision);
        Ok(Self::with_facts(Arc::from(key), revision, object, facts))
    }

    /// An entry of which the facts are known.
    pub fn with_facts(key: Arc<str>, revision: u64, object: Bytes, facts: ObjectFacts) -> Self {
        Self { key, revision, object, facts, demand: OnceLock::new() }
    }

    /// What a pod takes of its node. None if it cannot be read.
    pub fn demand(&self) -> Option<&Demand> {
        let read = || codec::decode(&self.object).ok().map(|pod| Box::new(Demand::of(&pod)));
        self.demand.get_or_init(read).as_deref()
    }
}

/// The same object with another resourceVersion.
fn restamp(object: &Bytes, from: u64, to: u64) -> Bytes {
    // Only apiVersion and kind stand before the metadata that the codec stamps first, so the first match is the stamp.
    let stamp = format!("\"resourceVersion\":\"{from}\"");
    let Some(at) = memchr::memmem::find(object, stamp.as_bytes()) else {
        return object.clone();
    };
    let mut bytes = Vec::with_capacity(object.len() + 8);
    bytes.extend_from_slice(&object[..at]);
    bytes.extend_from_slice(format!("\"resourceVersion\":\"{to}\"").as_bytes());
    bytes.extend_from_slice(&object[at + stamp.len()..]);
    Bytes::from(bytes)
}
