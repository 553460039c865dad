//! Bindings that are made only if the pod fits.
//!
//! Each node has a key that nothing but such bindings write, each in the transaction that binds its pod and only if nobody has
//! written it since the node's pods were looked at. So of two that were decided on the same view one is decided again,
//! whichever API servers they came to. The other bindings know nothing of it and are no slower; those that were not checked
//! count as soon as they are made.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use bytes::Bytes;
use gantry_api::engine::Binding;
use gantry_api::error::{Cause, Details};
use gantry_api::kinds::Resource;
use gantry_api::policy::room::{Demand, lacking};
use gantry_api::{ApiError, Reason, codec, meta};
use gantry_store::{Error, Op, Precondition, Revision};
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::Mutex;

use super::update::{Target, modified};
use super::{Caller, Registry, errors};
use crate::cacher::{Entry, FRESH_WAIT};

const KEYS: &str = "/registry/ranges/noderoom/";
/// How often a binding that lost a race with another API server's is decided again.
const ATTEMPTS_MAX: usize = 64;
/// Nodes that share a turn wait for one another without need: with so many turns, seldom.
const TURNS: usize = 64;

/// Whose turn it is to bind to a node: those who come to the same API server do not race, they wait.
#[derive(Debug)]
pub(super) struct Turns {
    hasher: RandomState,
    turns: [Mutex<()>; TURNS],
}

impl Default for Turns {
    fn default() -> Self {
        Self { hasher: RandomState::new(), turns: std::array::from_fn(|_| Mutex::new(())) }
    }
}

impl Turns {
    fn of(&self, node: &str) -> &Mutex<()> {
        let at = self.hasher.hash_one(node) % TURNS as u64;
        &self.turns[usize::try_from(at).unwrap_or(0)]
    }
}

/// A node and what is on it, at one moment.
struct View {
    node: Value,
    there: Vec<Arc<Entry>>,
    key: String,
    /// When a pod was last bound after a check.
    written: Revision,
}

/// What a deletion has to write beside: a node's key goes with it.
pub(super) fn release(resource: &Resource, object: &Value) -> Option<Op> {
    let is_node = resource.group.is_empty() && resource.plural == "nodes";
    is_node.then(|| Op::Delete { key: key_of(meta::name(object)), precondition: None })
}

fn key_of(node: &str) -> String {
    format!("{KEYS}{node}")
}

impl Registry {
    /// Binds the pod, if the node has room for it.
    pub(super) async fn bind_if_fits(
        &self,
        target: Target<'_>,
        binding: &Binding<'_>,
        caller: &Caller,
    ) -> Result<(), ApiError> {
        let _turn = self.turns.of(binding.node).lock().await;
        for _ in 0..ATTEMPTS_MAX {
            let view = self.view(target, binding.node).await?;
            let current = self.current(target.resource, target.namespace, target.name).await?;
            let bound = binding.apply(&current.bytes, Timestamp::now())?;
            view.check(target, &codec::decode(&bound)?)?;
            if caller.dry_run {
                return Ok(());
            }
            let mark = view.mark(&current.key);
            let precondition = Some(Precondition::ModRevision(current.revision));
            match self.store.txn(vec![Op::Put { key: current.key, value: bound, precondition }, mark]).await {
                Ok(_) => return Ok(()),
                Err(Error::Conflict { .. }) => {}
                Err(error) => return Err(errors::from_store(error)),
            }
        }
        Err(modified(&target))
    }

    /// The node and its pods, with all that was bound after a check until now.
    async fn view(&self, target: Target<'_>, name: &str) -> Result<View, ApiError> {
        let nodes = self.catalog().resource("", "v1", "nodes");
        let nodes = nodes.ok_or_else(|| ApiError::internal("there is no kind of nodes"))?;
        let key = key_of(name);
        let (written, now) = self.written(&key).await?;
        let stale = || {
            let why = "Timeout: what is on the node is not known at the moment";
            ApiError::new(Reason::Timeout, why).with_details(Details { retry_after_seconds: 1, ..Details::default() })
        };
        if !self.cacher.is_following() || !self.cacher.wait_for(now, FRESH_WAIT).await {
            return Err(stale());
        }
        let pods = self.cacher.resource(target.resource).ok_or_else(stale)?;
        if let Some((key, reason)) = pods.unreadable(&target.resource.prefix(None)) {
            return Err(errors::unreadable(&key, &reason));
        }
        let node = self.cached(nodes, "", name);
        let node = node.ok_or_else(|| refused(target, format!("node \"{name}\" not found"), Vec::new()))?;
        Ok(View { node: codec::decode(&node.object)?, there: pods.on_node(name), key, written })
    }

    /// When the node's key was last written, and what the time is. A key that is not there yet is made: that it is not there
    /// would be true again after the node, and the key with it, went and came.
    async fn written(&self, key: &str) -> Result<(Revision, Revision), ApiError> {
        loop {
            let (found, now) = self.store.get(key).await.map_err(errors::from_store)?;
            if let Some(found) = found {
                return Ok((found.mod_revision, now));
            }
            let precondition = Some(Precondition::Absent);
            let made = self.store.txn(vec![Op::Put { key: key.to_owned(), value: Bytes::new(), precondition }]).await;
            match made {
                Ok(_) | Err(Error::Conflict { .. }) => {}
                Err(error) => return Err(errors::from_store(error)),
            }
        }
    }
}

impl View {
    /// Says that a pod is bound, if nobody else has said so since the view was taken.
    fn mark(&self, pod: &str) -> Op {
        let value = Bytes::copy_from_slice(pod.as_bytes());
        Op::Put { key: self.key.clone(), value, precondition: Some(Precondition::ModRevision(self.written)) }
    }

    fn check(&self, target: Target<'_>, pod: &Value) -> Result<(), ApiError> {
        let mut there = Vec::with_capacity(self.there.len());
        for entry in &self.there {
            let unreadable = || errors::unreadable(&entry.key, "it is no pod");
            there.push(entry.demand().ok_or_else(unreadable)?);
        }
        let lacks = lacking(&self.node, there.into_iter(), &Demand::of(pod));
        if lacks.is_empty() {
            return Ok(());
        }
        let why = lacks.iter().map(|lack| lack.message.as_str()).collect::<Vec<_>>().join("; ");
        let cause = |(reason, message)| Cause { reason, message, field: String::new() };
        let causes = lacks.into_iter().map(|lack| cause((lack.reason, lack.message))).collect();
        Err(refused(target, why, causes))
    }
}

fn refused(target: Target<'_>, why: String, causes: Vec<Cause>) -> ApiError {
    let mut error = ApiError::conflict("pods/binding", target.name, why);
    if let Some(details) = &mut error.details {
        details.causes = causes;
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_api::kinds::Catalog;

    #[test]
    fn the_key_of_a_node_goes_with_it() {
        let catalog = Catalog::builtin();
        let resource = |plural| catalog.resource("", "v1", plural).unwrap();
        let object = serde_json::json!({"metadata": {"name": "n"}});
        let released = release(resource("nodes"), &object);
        assert_eq!(released, Some(Op::Delete { key: format!("{KEYS}n"), precondition: None }));
        assert_eq!(release(resource("pods"), &object), None);
    }
}
