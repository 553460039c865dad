//! Bodies that were prepared before.
//!
//! A controller makes many objects of one body with a `generateName`, and they differ in nothing but what the server gives them:
//! the end of the name, the UID, the time. Such a body is read, completed, admitted and validated once. As long as nothing
//! has changed that admission went by, the next objects are copies of what was stored then, with names, UIDs and times of
//! their own.
//!
//! In: a request to create. Out: the bytes to store, or none where the request is to go the whole way. Any doubt is none:
//! a plug-in that does not say what it depends on, a note about the request, a place of a value that is not certain.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use gantry_api::codec::ObjectFacts;
use gantry_api::engine::{BodyFormat, FieldValidation};
use gantry_api::kinds::Resource;
use gantry_api::{codec, meta};
use jiff::Timestamp;

use super::{Caller, Fresh, SUFFIX_LENGTH, Written, service_address};
use crate::admission::Surroundings;

/// How many bodies are kept; when there are more, all are forgotten. Few bodies are made many objects of at one time.
const BODIES_MAX: usize = 256;
/// Larger bodies are not kept.
const BODY_BYTES_MAX: usize = 16 << 10;

/// What makes one request to create like another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Asked<'a> {
    prefix: &'a str,
    version: &'a str,
    namespace: &'a str,
    manager: &'a str,
    format: BodyFormat,
    validation: FieldValidation,
    body: &'a [u8],
}

impl<'a> Asked<'a> {
    /// The request, if its answer may be a copy.
    pub fn new(
        resource: &'a Resource,
        namespace: &'a str,
        body: &'a [u8],
        format: BodyFormat,
        caller: &'a Caller,
    ) -> Option<Self> {
        let plain = resource.custom.is_none() && resource.conversion.is_none() && !service_address::concerns(resource);
        // Protobuf does not name its fields.
        let may_generate = format == BodyFormat::Protobuf || memchr::memmem::find(body, b"generateName").is_some();
        (plain && may_generate && !caller.dry_run && body.len() <= BODY_BYTES_MAX).then_some(Self {
            prefix: &resource.storage_prefix,
            version: &resource.version,
            namespace,
            manager: &caller.manager,
            format,
            validation: caller.field_validation,
            body,
        })
    }
}

/// [`Asked`], kept.
#[derive(Debug)]
struct Kept {
    prefix: String,
    version: String,
    namespace: String,
    manager: String,
    format: BodyFormat,
    validation: FieldValidation,
    body: Vec<u8>,
}

impl Kept {
    fn new(asked: &Asked<'_>) -> Self {
        Self {
            prefix: asked.prefix.to_owned(),
            version: asked.version.to_owned(),
            namespace: asked.namespace.to_owned(),
            manager: asked.manager.to_owned(),
            format: asked.format,
            validation: asked.validation,
            body: asked.body.to_vec(),
        }
    }

    fn asked(&self) -> Asked<'_> {
        Asked {
            prefix: &self.prefix,
            version: &self.version,
            namespace: &self.namespace,
            manager: &self.manager,
            format: self.format,
            validation: self.validation,
            body: &self.body,
        }
    }
}

/// What a body came to, and where in it stands what each object has of its own.
#[derive(Debug)]
pub struct Prepared {
    kept: Kept,
    surroundings: Surroundings,
    warnings: Vec<String>,
    stored: Vec<u8>,
    facts: ObjectFacts,
    name: Range<usize>,
    uid: Range<usize>,
    /// The creation, and when the manager came to own its fields.
    times: [Range<usize>; 2],
}

impl Prepared {
    /// What a request came to that went the whole way. None if another object's bytes could not be made of it.
    fn of(resource: &Resource, asked: &Asked<'_>, surroundings: Surroundings, written: &Written) -> Option<Self> {
        let object = codec::decode(&written.object).ok()?;
        let revision = meta::resource_version(&object).parse().ok()?;
        let stored = codec::without_resource_version(&written.object, revision)?;
        // A pod that is made with its node has what the node's labels say.
        if !meta::str_at(&object, &["spec", "nodeName"]).is_empty() {
            return None;
        }
        let created = meta::str_at(&object, &["metadata", "creationTimestamp"]);
        let place = |key: &str, value: &str| {
            let before = format!("\"{key}\":\"");
            let start = memchr::memmem::find(&stored, format!("{before}{value}\"").as_bytes())? + before.len();
            Some(start..start + value.len())
        };
        // A value that stands in another place as well (a Job's name is in its labels) has more to be replaced than is known here.
        let times_of = |value: &str| memchr::memmem::find_iter(&stored, value).count();
        let (own_name, own_uid) = (meta::name(&object), meta::uid(&object));
        if [times_of(own_name), times_of(own_uid), times_of(created)] != [1, 1, 2] {
            return None;
        }
        let (name, uid) = (place("name", own_name)?, place("uid", own_uid)?);
        let times = [place("creationTimestamp", created)?, place("time", created)?];
        let (warnings, facts) = (written.warnings.clone(), codec::facts(resource, &stored).ok()?);
        (name.len() > SUFFIX_LENGTH).then(|| Self {
            kept: Kept::new(asked),
            surroundings,
            warnings,
            name,
            uid,
            times,
            facts,
            stored: stored.to_vec(),
        })
    }

    /// Another object of the body: its facts and its bytes as they are stored. None if they would not have the same shape.
    pub fn copy(&self, fresh: &Fresh, now: Timestamp) -> Option<(ObjectFacts, Bytes)> {
        let mut bytes = self.stored.clone();
        let suffix = self.name.end - SUFFIX_LENGTH..self.name.end;
        let time = meta::time(now);
        let values = [(suffix, fresh.suffix.as_str()), (self.uid.clone(), fresh.uid.as_str())];
        for (place, value) in values.into_iter().chain(self.times.iter().map(|place| (place.clone(), time.as_str()))) {
            bytes.get_mut(place).filter(|place| place.len() == value.len())?.copy_from_slice(value.as_bytes());
        }
        let name = std::str::from_utf8(bytes.get(self.name.clone())?).ok()?;
        Some((self.facts.of_another(name, &fresh.uid), Bytes::from(bytes)))
    }

    /// The warnings of the request.
    pub fn warnings(&self) -> Vec<String> {
        self.warnings.clone()
    }
}

/// The bodies that were prepared.
#[derive(Debug, Default)]
pub struct Bodies {
    hasher: RandomState,
    by_hash: RwLock<HashMap<u64, Arc<Prepared>>>,
}

impl Bodies {
    /// What the request's body came to where everything was as it is now.
    pub fn find(&self, asked: &Asked<'_>, surroundings: &Surroundings) -> Option<Arc<Prepared>> {
        let hash = self.hasher.hash_one(asked);
        let known = self.by_hash.read().unwrap_or_else(PoisonError::into_inner).get(&hash).cloned()?;
        (known.kept.asked() == *asked && known.surroundings == *surroundings).then_some(known)
    }

    /// Keeps what a request came to.
    pub fn keep(&self, resource: &Resource, asked: &Asked<'_>, surroundings: Surroundings, written: &Written) {
        let Some(prepared) = Prepared::of(resource, asked, surroundings, written) else { return };
        let hash = self.hasher.hash_one(asked);
        let mut by_hash = self.by_hash.write().unwrap_or_else(PoisonError::into_inner);
        if by_hash.len() >= BODIES_MAX && !by_hash.contains_key(&hash) {
            by_hash.clear();
        }
        by_hash.insert(hash, Arc::new(prepared));
    }
}
