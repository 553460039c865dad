//! The ResourceQuota controller: keeps what each quota's status says is used.
//!
//! Watches ResourceQuotas, and of what they count Pods, Services and PersistentVolumeClaims; the numbers of all other objects
//! come from the garbage collector's graph, which sees them anyway. Writes the quota's status.
//!
//! The API server charges a quota when it lets something in; this controller counts again when something goes, ends or
//! changes, and now and then. What was charged a moment ago may not be in the caches yet: usage is lowered only once the
//! quota has been left alone for a little while.

mod plan;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gantry_api::policy::quota::Evaluator;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ResourceQuota;
use kube::{Api, ResourceExt};
use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;

use self::plan::{Objects, is_lower, plan};
use crate::garbage_collector::Shared;
use crate::machinery::Error;
use crate::machinery::cache::{Cache, Change, Key};
use crate::machinery::context::{Caches, Context};
use crate::machinery::patch::write_status;
use crate::machinery::queue::Queue;
use crate::machinery::runner::{Controller, Outcome};
use crate::machinery::workload::Cached;

/// How long after something went a quota is counted again, so that many that go together count once.
const SETTLE: Duration = Duration::from_millis(100);
/// The same after something came, which has been charged already.
const SETTLE_ADDED: Duration = Duration::from_secs(1);
/// For how long a quota must not have been charged before its usage is lowered: what was charged is stored by then.
const QUIET: Duration = Duration::from_millis(300);
/// After this long usage is lowered though the quota is charged all the time.
const LOWER_AFTER_MAX: Duration = Duration::from_secs(5);
/// How often a quota is counted again though nothing seems to have changed.
const RESYNC: Duration = Duration::from_secs(300);

/// See the module's description.
#[derive(Debug)]
pub struct QuotaController {
    context: Arc<Context>,
    graph: Arc<Shared>,
    queue: Arc<Queue<Key>>,
    /// When each quota was charged last, and since when lowering it has been put off. One entry a quota.
    charged: Arc<Mutex<HashMap<Key, Charged>>>,
}

#[derive(Debug, Clone, Copy)]
struct Charged {
    last: Instant,
    put_off_since: Option<Instant>,
}

impl QuotaController {
    /// The controller, listening to the shared caches and to the graph of all objects.
    pub fn new(context: Arc<Context>, graph: Arc<Shared>) -> Arc<Self> {
        let queue = Arc::new(Queue::default());
        let charged = Arc::new(Mutex::new(HashMap::new()));
        listen(&context.caches, &graph, &queue, &charged);
        Arc::new(QuotaController { context, graph, queue, charged })
    }
}

type ChargedMap = Arc<Mutex<HashMap<Key, Charged>>>;

fn listen(caches: &Caches, graph: &Shared, queue: &Arc<Queue<Key>>, charged: &ChargedMap) {
    let (keys, charged) = (queue.clone(), charged.clone());
    caches.resource_quotas.on_change(move |change| {
        let Some(quota) = change.sides().last() else { return };
        let key = Key::of(&**quota);
        if change.new.is_none() {
            charged.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            return;
        }
        let used = |quota: &ResourceQuota| quota.status.as_ref().and_then(|status| status.used.clone());
        let hard = |quota: &ResourceQuota| quota.spec.as_ref().and_then(|spec| spec.hard.clone());
        if change.old.is_some_and(|old| used(old) != used(quota)) {
            let mut charged = charged.lock().unwrap_or_else(PoisonError::into_inner);
            let entry = charged.entry(key.clone()).or_insert(Charged { last: Instant::now(), put_off_since: None });
            entry.last = Instant::now();
        }
        if change.old.is_none_or(|old| hard(old) != hard(quota)) {
            keys.add(key);
        }
    });
    feed(&caches.pods, caches, queue, Evaluator::Pods);
    feed(&caches.services, caches, queue, Evaluator::Services);
    feed(&caches.claims, caches, queue, Evaluator::Claims);
    let (keys, quotas) = (queue.clone(), caches.resource_quotas.clone());
    graph.counts().on_change(move |namespace, name, removed| {
        let delay = if removed { SETTLE } else { SETTLE_ADDED };
        // The name without `count/` and the group is the older name of some types.
        let plural = name.strip_prefix("count/").unwrap_or(name);
        for quota in quotas.in_namespace(namespace) {
            let hard = quota.spec.as_ref().and_then(|spec| spec.hard.as_ref());
            if hard.is_some_and(|hard| hard.contains_key(name) || hard.contains_key(plural)) {
                keys.add_after(Key::of(&*quota), delay);
            }
        }
    });
}

/// Counts the quotas of a namespace again when an object in it costs something else than before.
fn feed<K: Cached + Serialize>(cache: &Cache<K>, caches: &Caches, queue: &Arc<Queue<Key>>, evaluator: Evaluator) {
    let (keys, quotas) = (queue.clone(), caches.resource_quotas.clone());
    cache.on_change(move |change: &Change<'_, K>| {
        let Some(object) = change.sides().next() else { return };
        let concerned = quotas.in_namespace(&object.namespace().unwrap_or_default());
        if concerned.is_empty() {
            return;
        }
        let delay = match (change.old, change.new) {
            (Some(old), Some(new)) => match (serde_json::to_value(&**old), serde_json::to_value(&**new)) {
                (Ok(old), Ok(new)) if !evaluator.may_matter(&old, &new, Timestamp::now()) => return,
                _ => SETTLE,
            },
            (None, _) => SETTLE_ADDED,
            (_, None) => SETTLE,
        };
        for quota in concerned {
            keys.add_after(Key::of(&*quota), delay);
        }
    });
}

fn values<K: Cached + Serialize>(cache: &Cache<K>, namespace: &str) -> Result<Vec<Value>, Error> {
    let objects = cache.in_namespace(namespace);
    Ok(objects.iter().map(|object| serde_json::to_value(&**object)).collect::<Result<_, _>>()?)
}

impl Controller for QuotaController {
    type Key = Key;

    fn name(&self) -> &'static str {
        "resourcequota"
    }

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        let caches = &self.context.caches;
        let Some(quota) = caches.resource_quotas.get(key).filter(|quota| quota.metadata.deletion_timestamp.is_none())
        else {
            return Ok(Outcome::Done);
        };
        if !self.graph.is_complete() {
            return Err(Error::Retry("not all types are known yet"));
        }
        let value = serde_json::to_value(&*quota)?;
        let objects = Objects {
            pods: values(&caches.pods, &key.namespace)?,
            services: values(&caches.services, &key.namespace)?,
            claims: values(&caches.claims, &key.namespace)?,
        };
        let counts = self.graph.counts();
        let after = plan(&value, &objects, |name| counts.get(&key.namespace, name), Timestamp::now());
        if is_lower(&value, &after)
            && let Some(wait) = self.wait_to_lower(key)
        {
            return Ok(Outcome::After(wait));
        }
        let api: Api<ResourceQuota> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let before = value.get("status").cloned().unwrap_or_else(|| serde_json::json!({}));
        // A quota charged meanwhile is another one than was counted: the write fails, and it is counted again.
        write_status(&api, &*quota, &before, &after).await?;
        Ok(Outcome::After(RESYNC))
    }
}

impl QuotaController {
    /// For how long lowering the usage has to wait.
    fn wait_to_lower(&self, key: &Key) -> Option<Duration> {
        let mut charged = self.charged.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = charged.get_mut(key)?;
        let quiet_for = entry.last.elapsed();
        let since = *entry.put_off_since.get_or_insert_with(Instant::now);
        if quiet_for >= QUIET || since.elapsed() >= LOWER_AFTER_MAX {
            entry.put_off_since = None;
            return None;
        }
        Some(QUIET.saturating_sub(quiet_for).max(Duration::from_millis(10)))
    }
}
