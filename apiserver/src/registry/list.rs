//! Lists and watches: which snapshot a request gets, and from where.
//!
//! In: a [`ListRequest`] or [`WatchRequest`] with Kubernetes' resourceVersion rules still to be applied. Out: objects at
//! one revision, or an open [`WatchSession`]. The present is answered from the cache; the past from the store.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use gantry_api::error::FieldError;
use gantry_api::kinds::Resource;
use gantry_api::{ApiError, codec};
use serde::{Deserialize, Serialize};

use super::conversion::selects;
use super::{Registry, errors, present};
use crate::cacher::{Cacher, FRESH_WAIT, Filter, ResourceCache, Subscription, WatchStart};

/// `resourceVersionMatch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// At least as new.
    NotOlderThan,
    /// Exactly this snapshot.
    Exact,
}

/// Which snapshot a list shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Position {
    /// At least as recent as any write acknowledged before.
    MostRecent,
    /// Whatever the cache has.
    Any,
    /// At least as recent as this revision.
    NotOlderThan(u64),
    /// This revision.
    Exact(u64),
    /// The following page of a list.
    Continue(Continue),
}

/// What a continue token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Continue {
    /// The token's version.
    pub v: String,
    /// The list's revision; less than 0 for whatever is there when it is used.
    #[serde(default)]
    pub rv: i64,
    /// The last key of the page before, without the resource's prefix.
    #[serde(default)]
    pub start: String,
}

const TOKEN_VERSION: &str = "meta.k8s.io/v1";

/// A list.
#[derive(Debug, Clone)]
pub struct ListRequest {
    /// What is selected.
    pub filter: Arc<Filter>,
    /// The most objects of a page; 0 for all.
    pub limit: usize,
    /// Which snapshot.
    pub position: Position,
}

/// A page.
#[derive(Debug)]
pub struct ListResult {
    /// The objects with their resourceVersions, in the version asked for.
    pub objects: Vec<Bytes>,
    /// The snapshot's revision.
    pub revision: u64,
    /// Where the next page starts.
    pub continue_token: Option<String>,
    /// How many objects follow.
    pub remaining: Option<u64>,
}

/// A watch.
#[derive(Debug, Clone)]
pub struct WatchRequest {
    /// What is selected.
    pub filter: Arc<Filter>,
    /// From where: `None` for the most recent state, 0 for any.
    pub resource_version: Option<u64>,
    /// `sendInitialEvents`, where it is given.
    pub send_initial_events: Option<bool>,
}

/// An open watch.
#[derive(Debug)]
pub struct WatchSession {
    /// The resource, in the version that was asked for.
    pub resource: Arc<Resource>,
    /// What comes.
    pub subscription: Subscription,
    /// The revision that the initial objects or the backlog lead up to.
    pub revision: u64,
    /// Whether the end of the initial objects is to be marked.
    pub mark_initial_end: bool,
    /// Whose revision bookmarks carry.
    pub cacher: Arc<Cacher>,
}

impl Continue {
    /// Reads a token.
    pub fn parse(token: &str) -> Result<Self, ApiError> {
        let invalid =
            |why: String| ApiError::bad_request(format!("invalid continue token: continue key is not valid: {why}"));
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|error| invalid(illegal_base64(&error, token.len())))?;
        let token: Self = serde_json::from_slice(&bytes).map_err(|error| invalid(error.to_string()))?;
        if token.v != TOKEN_VERSION {
            return Err(invalid(format!("server does not recognize this encoded version {}", token.v)));
        }
        if token.rv == 0 {
            return Err(invalid(format!("incorrect encoded start resourceVersion (version {TOKEN_VERSION})")));
        }
        if token.start.is_empty() {
            return Err(invalid(format!("encoded start key empty (version {TOKEN_VERSION})")));
        }
        // A key that climbs could lead to another resource.
        if token.start.trim_start_matches('/').split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(invalid(token.start));
        }
        Ok(token)
    }

    fn token(revision: u64, start: &str) -> String {
        Self::encode(i64::try_from(revision).unwrap_or(i64::MAX), start)
    }

    /// A token for the rest of a list whose snapshot is gone: for what comes after `start` by the time it is used.
    fn from_now(start: &str) -> String {
        Self::encode(-1, start)
    }

    fn encode(rv: i64, start: &str) -> String {
        let token = Self { v: TOKEN_VERSION.to_owned(), rv, start: start.to_owned() };
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default())
    }
}

/// What is wrong with a text that is no base64, as Go says it.
fn illegal_base64(error: &base64::DecodeError, length: usize) -> String {
    use base64::DecodeError::{InvalidByte, InvalidLastSymbol, InvalidLength, InvalidPadding};
    let at = match error {
        InvalidByte(at, _) | InvalidLastSymbol(at, _) => *at,
        InvalidLength(at) => *at,
        InvalidPadding => length,
    };
    format!("illegal base64 data at input byte {at}")
}

impl Position {
    /// Applies Kubernetes' rules for `resourceVersion`, `resourceVersionMatch`, `limit` and `continue`.
    pub fn of_list(
        resource_version: Option<&str>,
        matching: Option<Match>,
        limit: usize,
        continue_token: Option<&str>,
    ) -> Result<Self, ApiError> {
        let version = resource_version.filter(|text| !text.is_empty());
        if let Some(token) = continue_token {
            let token = Continue::parse(token)?;
            if version.is_some_and(|version| version != "0") {
                return Err(ApiError::bad_request("specifying resource version is not allowed when using continue"));
            }
            return Ok(Self::Continue(token));
        }
        let version = parse_resource_version(version)
            .map_err(|error| ApiError::bad_request(format!("invalid resource version: {}", error.message)))?;
        Ok(match (version, matching) {
            (None, _) => Self::MostRecent,
            (Some(0), _) => Self::Any,
            (Some(revision), Some(Match::Exact)) => Self::Exact(revision),
            (Some(revision), None) if limit > 0 => Self::Exact(revision),
            (Some(revision), _) => Self::NotOlderThan(revision),
        })
    }
}

/// Reads a resourceVersion; an empty one is none.
pub fn parse_resource_version(text: Option<&str>) -> Result<Option<u64>, ApiError> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    text.parse().map(Some).map_err(|_| {
        let why = format!("strconv.ParseUint: parsing {}: invalid syntax", gantry_api::error::quote(text));
        ApiError::bad_request(FieldError::invalid("resourceVersion", text, why).to_string())
    })
}

impl Registry {
    /// A page of a list.
    pub async fn list(&self, resource: &Resource, request: &ListRequest) -> Result<ListResult, ApiError> {
        let Some((stored, fields)) = self.selected_after_conversion(resource, &request.filter) else {
            let mut page = self.list_stored(resource, request).await?;
            page.objects = self.out_of_storage(resource, page.objects).await?;
            return Ok(page);
        };
        // Some of a page's objects may not be selected then; that makes it shorter, as clients know it from Kubernetes.
        let request = ListRequest { filter: stored, ..request.clone() };
        let mut page = self.list_stored(resource, &request).await?;
        let objects = self.out_of_storage(resource, page.objects).await?;
        page.objects = Vec::with_capacity(objects.len());
        for object in objects {
            if selects(&fields, resource, &object)? {
                page.objects.push(object);
            }
        }
        page.remaining = None;
        Ok(page)
    }

    async fn list_stored(&self, resource: &Resource, request: &ListRequest) -> Result<ListResult, ApiError> {
        let cache = self.cache(resource).await?;
        match &request.position {
            Position::Any => self.list_cache(resource, &cache, request, None, None),
            Position::MostRecent => {
                if self.reach_present().await? {
                    self.list_cache(resource, &cache, request, None, None)
                } else {
                    self.list_store(resource, request, None, None).await
                }
            }
            Position::NotOlderThan(revision) => {
                self.reach(*revision).await?;
                self.list_cache(resource, &cache, request, None, None)
            }
            Position::Exact(revision) => self.list_at(resource, &cache, request, *revision, None).await,
            Position::Continue(token) => {
                let start = format!("{}{}", resource.storage_prefix, token.start);
                match u64::try_from(token.rv) {
                    Ok(revision) => self.list_at(resource, &cache, request, revision, Some(&start)).await,
                    Err(_) if self.reach_present().await? => {
                        self.list_cache(resource, &cache, request, Some(&start), None)
                    }
                    Err(_) => self.list_store(resource, request, Some(&start), None).await,
                }
            }
        }
    }

    pub(crate) async fn cache(&self, resource: &Resource) -> Result<Arc<ResourceCache>, ApiError> {
        if resource.custom.is_some() && self.cacher.resource(resource).is_none() {
            let stored = self.catalog.stored(resource).ok_or_else(|| no_such_kind(resource))?;
            return self.cacher.ensure(&stored, self.store.as_ref()).await.map_err(errors::from_store);
        }
        self.cacher
            .resource(resource)
            .ok_or_else(|| ApiError::internal(format!("no cache for {}", resource.qualified())))
    }

    /// Waits until the cache shows every acknowledged write; false if it does not get there.
    pub async fn reach_present(&self) -> Result<bool, ApiError> {
        let revision = self.store.current_revision().await.map_err(errors::from_store)?;
        if self.cacher.is_following() && self.cacher.revision() >= revision {
            return Ok(true);
        }
        // Not every store can do this; then its own progress notifications have to do.
        let _ = self.store.request_progress().await;
        Ok(self.cacher.wait_for(revision, FRESH_WAIT).await)
    }

    async fn reach(&self, revision: u64) -> Result<(), ApiError> {
        if self.cacher.wait_for(revision, std::time::Duration::ZERO).await {
            return Ok(());
        }
        let _ = self.store.request_progress().await;
        if self.cacher.wait_for(revision, FRESH_WAIT).await {
            return Ok(());
        }
        Err(errors::too_large_resource_version(revision, self.cacher.revision()))
    }

    /// A page at a revision: from the cache if nothing of the resource changed since, else from the store.
    async fn list_at(
        &self,
        resource: &Resource,
        cache: &ResourceCache,
        request: &ListRequest,
        revision: u64,
        start: Option<&str>,
    ) -> Result<ListResult, ApiError> {
        if self.cacher.is_following() && cache.changed() <= revision && revision <= self.cacher.revision() {
            let result = self.list_cache(resource, cache, request, start, Some(revision))?;
            // Still unchanged after reading: what was read is the snapshot.
            if cache.changed() <= revision {
                return Ok(result);
            }
        }
        self.list_store(resource, request, start, Some(revision)).await
    }

    fn list_cache(
        &self,
        resource: &Resource,
        cache: &ResourceCache,
        request: &ListRequest,
        start: Option<&str>,
        at: Option<u64>,
    ) -> Result<ListResult, ApiError> {
        let before = self.cacher.revision();
        let prefix = prefix_of(resource, &request.filter);
        all_readable(cache, &prefix)?;
        let page = cache.list(&prefix, start, request.limit, &request.filter);
        let revision = at.unwrap_or(before.max(page.changed));
        let token = page.more_after.map(|key| Continue::token(revision, relative(resource, &key)));
        let objects =
            page.entries.iter().map(|entry| present(resource, entry.object.clone())).collect::<Result<_, _>>()?;
        Ok(ListResult { objects, revision, continue_token: token, remaining: page.remaining })
    }

    async fn list_store(
        &self,
        resource: &Resource,
        request: &ListRequest,
        start: Option<&str>,
        at: Option<u64>,
    ) -> Result<ListResult, ApiError> {
        let prefix = prefix_of(resource, &request.filter);
        let cache = self.cache(resource).await?;
        let mut objects = Vec::new();
        let mut start = start.map(str::to_owned);
        let mut at = at;
        loop {
            let wanted = if request.limit == 0 || request.filter.is_selective() { 0 } else { request.limit };
            let page = self.store.list(&prefix, start.as_deref(), wanted, at).await.map_err(|error| {
                match (&request.position, &start) {
                    (Position::Continue(_), Some(key)) if errors::is_compacted(&error) => {
                        errors::expired_continue(&Continue::from_now(relative(resource, key)))
                    }
                    _ => errors::from_store(error),
                }
            })?;
            at = Some(page.revision);
            let last = page.items.len();
            for (index, item) in page.items.into_iter().enumerate() {
                let stored = cache.resource();
                let value = codec::settled(&stored, &item.value);
                let facts = codec::facts(&stored, &value)?;
                if !request.filter.matches(&facts) {
                    start = Some(item.key);
                    continue;
                }
                objects.push(present(resource, codec::with_resource_version(&value, item.mod_revision))?);
                if objects.len() == request.limit && (page.more || index + 1 < last) {
                    let token = Continue::token(page.revision, relative(resource, &item.key));
                    return Ok(ListResult {
                        objects,
                        revision: page.revision,
                        continue_token: Some(token),
                        remaining: None,
                    });
                }
                start = Some(item.key);
            }
            if !page.more {
                return Ok(ListResult { objects, revision: page.revision, continue_token: None, remaining: None });
            }
        }
    }

    /// Opens a watch.
    pub async fn watch(
        self: &Arc<Self>,
        resource: &Arc<Resource>,
        request: &WatchRequest,
    ) -> Result<WatchSession, ApiError> {
        let (filter, fields) = match self.selected_after_conversion(resource, &request.filter) {
            Some((stored, fields)) => (stored, Some(fields)),
            None => (Arc::clone(&request.filter), None),
        };
        let session = self.watch_stored(resource, &WatchRequest { filter, ..request.clone() }).await?;
        self.converted(session, fields).await
    }

    async fn watch_stored(&self, resource: &Arc<Resource>, request: &WatchRequest) -> Result<WatchSession, ApiError> {
        let cache = self.cache(resource).await?;
        // A watch that starts with what is there is a streaming list, whether it says so or not.
        let starts_with_all = matches!(request.resource_version, None | Some(0));
        let streaming_list = request.send_initial_events.unwrap_or(starts_with_all);
        let start = match request.resource_version {
            Some(0) => WatchStart::Now,
            None => {
                if !self.reach_present().await? {
                    return Err(ApiError::new(
                        gantry_api::Reason::Timeout,
                        "Timeout: the watch cache does not reach the present",
                    ));
                }
                WatchStart::Now
            }
            Some(revision) if streaming_list => {
                self.reach(revision).await?;
                WatchStart::Now
            }
            Some(revision) => WatchStart::After(revision),
        };
        let before = self.cacher.revision();
        let prefix = prefix_of(resource, &request.filter);
        all_readable(&cache, &prefix)?;
        let (mut subscription, changed) = cache
            .watch(&prefix, Arc::clone(&request.filter), start)
            .map_err(|oldest| errors::too_old(request.resource_version.unwrap_or_default(), oldest))?;
        if request.send_initial_events == Some(false) {
            subscription.initial.clear();
        }
        Ok(WatchSession {
            resource: Arc::clone(resource),
            subscription,
            revision: before.max(changed),
            mark_initial_end: streaming_list,
            cacher: Arc::clone(&self.cacher),
        })
    }
}

/// The kind went away while it was asked about.
fn no_such_kind(resource: &Resource) -> ApiError {
    ApiError::not_found(&resource.qualified(), "")
}

fn prefix_of(resource: &Resource, filter: &Filter) -> String {
    resource.prefix((!filter.namespace.is_empty()).then_some(filter.namespace.as_str()))
}

/// Fails if something under `prefix` is stored that cannot be read: a list without it would look complete.
fn all_readable(cache: &ResourceCache, prefix: &str) -> Result<(), ApiError> {
    match cache.unreadable(prefix) {
        None => Ok(()),
        Some((key, reason)) => Err(errors::unreadable(&key, &reason)),
    }
}

fn relative<'a>(resource: &Resource, key: &'a str) -> &'a str {
    key.strip_prefix(resource.storage_prefix.as_str()).unwrap_or(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resource_version_rules() {
        let of = |rv: Option<&str>, matching: Option<Match>, limit| Position::of_list(rv, matching, limit, None);
        assert_eq!(of(None, None, 0).unwrap(), Position::MostRecent);
        assert_eq!(of(Some(""), None, 0).unwrap(), Position::MostRecent);
        assert_eq!(of(Some("0"), None, 5).unwrap(), Position::Any);
        assert_eq!(of(Some("7"), None, 0).unwrap(), Position::NotOlderThan(7));
        assert_eq!(of(Some("7"), None, 5).unwrap(), Position::Exact(7));
        assert_eq!(of(Some("7"), Some(Match::Exact), 0).unwrap(), Position::Exact(7));
        assert_eq!(of(Some("7"), Some(Match::NotOlderThan), 5).unwrap(), Position::NotOlderThan(7));
        assert!(of(Some("x"), None, 0).is_err());
    }

    #[test]
    fn continue_tokens() {
        let token = Continue::token(9, "ns/name");
        let read = Position::of_list(None, None, 1, Some(&token)).unwrap();
        assert_eq!(read, Position::Continue(Continue { v: TOKEN_VERSION.into(), rv: 9, start: "ns/name".into() }));
        assert!(Position::of_list(Some("5"), None, 1, Some(&token)).is_err());
        let now = Continue::parse(&Continue::from_now("ns/name")).unwrap();
        assert_eq!((now.rv, now.start.as_str()), (-1, "ns/name"));
        let token = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let cases = [
            ("a+b".to_owned(), "illegal base64 data at input byte 1"),
            (token("{"), ""),
            (token(r#"{"v":"v9","rv":1,"start":"a"}"#), "server does not recognize this encoded version v9"),
            (token(r#"{"v":"meta.k8s.io/v1","start":"a"}"#), "incorrect encoded start resourceVersion"),
            (token(r#"{"v":"meta.k8s.io/v1","rv":1}"#), "encoded start key empty (version meta.k8s.io/v1)"),
            (token(r#"{"v":"meta.k8s.io/v1","rv":1,"start":"a/../../b"}"#), "a/../../b"),
        ];
        for (text, why) in cases {
            let error = Position::of_list(None, None, 1, Some(&text)).unwrap_err();
            let wanted = format!("invalid continue token: continue key is not valid: {why}");
            assert!(error.message.starts_with(&wanted), "{} is not {wanted}", error.message);
        }
    }
}
