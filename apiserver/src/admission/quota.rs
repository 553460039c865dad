//! `ResourceQuota`: every write is charged to the quotas of its namespace before it is stored, or refused.
//!
//! What a write costs and whether there is enough is decided by [`gantry_api::policy::quota`]. What is used lies in the
//! quota's own status, changed by comparing and swapping, so that several API servers never charge over one another. The
//! writes of one namespace that wait at the same time are charged together, in one transaction over all quotas concerned.
//!
//! A write that fails after it was charged stays charged until the quota controller counts again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use gantry_api::kinds::Resource;
use gantry_api::policy::quota::{Charge, Evaluator, check, used};
use gantry_api::{ApiError, codec, meta, resources};
use gantry_store::{Error, Op, Precondition};
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::oneshot;

use super::{Attributes, Dependence, Operation, Phases, Plugin};
use crate::registry::{AsOf, Known, Registry, errors};

/// How often a charge that another server was faster than is made again.
const ATTEMPTS_MAX: usize = 32;

/// See the module's description.
#[derive(Default)]
pub(super) struct ResourceQuota {
    /// The namespaces in which somebody waits.
    lanes: Mutex<HashMap<String, Arc<Lane>>>,
}

/// The writes of one namespace that wait to be charged. Its length is bounded by the requests in flight.
#[derive(Default)]
struct Lane {
    waiting: Mutex<Vec<Waiter>>,
    /// Held by the one that charges for all.
    turn: tokio::sync::Mutex<()>,
}

/// One write, and where its answer goes.
struct Waiter {
    request: Request,
    answer: oneshot::Sender<Result<(), Refusal>>,
}

#[derive(Clone)]
struct Request {
    evaluator: Evaluator,
    object: Value,
    old: Option<Value>,
    is_status: bool,
    dry_run: bool,
}

#[derive(Debug, Clone)]
enum Refusal {
    /// There is not enough left.
    Quota(String),
    /// It could not be charged.
    Failed(ApiError),
}

#[async_trait]
impl Plugin for ResourceQuota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    fn phases(&self, attributes: &Attributes<'_>, _: &Registry) -> Phases {
        Phases::validate_if(!attributes.namespace.is_empty() && !is_ignored(attributes.resource))
    }

    fn depends_on(&self, attributes: &Attributes<'_>, registry: &Registry) -> Dependence {
        // Where there is a quota, every object is charged.
        let Some(quotas) = registry.known(Known::ResourceQuotas) else { return Dependence::Request };
        let charged = !quotas.is_empty() && registry.any_cached(&quotas.resource(), attributes.namespace);
        if charged { Dependence::Request } else { Dependence::Object }
    }

    async fn validate(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&Value>,
        registry: &Registry,
    ) -> Result<(), ApiError> {
        let Some(object) = object else { return Ok(()) };
        let evaluator = Evaluator::of(&attributes.resource.group, &attributes.resource.plural);
        if !handles(attributes, &evaluator, object) {
            return Ok(());
        }
        let catalog = registry.catalog();
        let Some(quotas) = catalog.resource("", "v1", "resourcequotas") else {
            return Ok(());
        };
        if attributes.all_of(quotas, registry).await?.is_empty() {
            return Ok(());
        }
        let request = Request {
            evaluator,
            object: object.clone(),
            old: attributes.old.filter(|_| attributes.operation == Operation::Update).cloned(),
            is_status: attributes.subresource == "status",
            dry_run: attributes.dry_run,
        };
        match self.charge(quotas, attributes.namespace, request, registry).await {
            Ok(()) => Ok(()),
            Err(Refusal::Quota(why)) => Err(attributes.forbidden(why)),
            Err(Refusal::Failed(error)) => Err(error),
        }
    }
}

/// Events come and go by time alone, and what is only answered is not stored.
fn is_ignored(resource: &Resource) -> bool {
    !resource.stored() || (resource.plural == "events" && matches!(resource.group.as_str(), "" | "events.k8s.io"))
}

/// Whether the write can change what is used.
fn handles(attributes: &Attributes<'_>, evaluator: &Evaluator, object: &Value) -> bool {
    let changes = || attributes.old.is_some_and(|old| evaluator.may_matter(old, object, Timestamp::now()));
    match (attributes.operation, attributes.subresource) {
        (Operation::Create, "") => true,
        (Operation::Update, "") => !matches!(evaluator, Evaluator::Count(_)) && changes(),
        (Operation::Update, "resize") => *evaluator == Evaluator::Pods,
        (Operation::Update, "status") => *evaluator == Evaluator::Claims && changes(),
        _ => false,
    }
}

impl ResourceQuota {
    /// Waits until the request is charged. Whoever has the turn charges for all that wait.
    async fn charge(
        &self,
        quotas: &Resource,
        namespace: &str,
        request: Request,
        registry: &Registry,
    ) -> Result<(), Refusal> {
        loop {
            let lane = self.lane(namespace);
            let (answer, mut answered) = oneshot::channel();
            lock(&lane.waiting).push(Waiter { request: request.clone(), answer });
            {
                let _turn = lane.turn.lock().await;
                let batch = std::mem::take(&mut *lock(&lane.waiting));
                charge_all(quotas, namespace, batch, registry).await;
            }
            self.leave(namespace, lane);
            match answered.try_recv() {
                Ok(result) => return result,
                // The one that charged for us was cut off, as its client went away: nobody knows what came of it.
                Err(_) => continue,
            }
        }
    }

    fn lane(&self, namespace: &str) -> Arc<Lane> {
        Arc::clone(lock(&self.lanes).entry(namespace.to_owned()).or_default())
    }

    /// Forgets a lane in which nobody waits any more.
    fn leave(&self, namespace: &str, lane: Arc<Lane>) {
        let mut lanes = lock(&self.lanes);
        drop(lane);
        if lanes.get(namespace).is_some_and(|lane| Arc::strong_count(lane) == 1) {
            lanes.remove(namespace);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Charges all of a batch, and answers each.
async fn charge_all(kind: &Resource, namespace: &str, batch: Vec<Waiter>, registry: &Registry) {
    let mut left = batch;
    let mut failure = ApiError::conflict(&kind.qualified(), "", "the quotas of the namespace kept changing");
    for _ in 0..ATTEMPTS_MAX {
        if left.is_empty() {
            return;
        }
        match charge_once(kind, namespace, left, registry).await {
            (Ok(()), pending) => {
                for waiter in pending {
                    let _ = waiter.answer.send(Ok(()));
                }
                return;
            }
            (Err(Some(error)), pending) => {
                left = pending;
                failure = error;
                break;
            }
            (Err(None), pending) => left = pending,
        }
    }
    for waiter in left {
        let _ = waiter.answer.send(Err(Refusal::Failed(failure.clone())));
    }
}

/// Decides about each request on the quotas as they are, answers those that change nothing, and stores what the others use
/// up. The error is none if another write came between.
async fn charge_once(
    kind: &Resource,
    namespace: &str,
    batch: Vec<Waiter>,
    registry: &Registry,
) -> (Result<(), Option<ApiError>>, Vec<Waiter>) {
    let (current, mut quotas) = match read(kind, namespace, registry).await {
        Ok(read) => read,
        Err(error) => return (Err(Some(error)), batch),
    };
    let mut changed = vec![false; quotas.len()];
    let mut pending = Vec::new();
    for waiter in batch {
        let Request { evaluator, object, old, is_status, dry_run } = &waiter.request;
        let charge = Charge { evaluator, object, old: old.as_ref(), is_status: *is_status };
        let after = match check(&quotas, &charge, Timestamp::now()) {
            Ok(after) => after,
            Err(why) => {
                let _ = waiter.answer.send(Err(Refusal::Quota(why)));
                continue;
            }
        };
        let mut charged = false;
        for (at, after) in after.into_iter().enumerate() {
            let Some(after) = after.filter(|after| !dry_run && *after != used(&quotas[at])) else { continue };
            meta::object_mut(&mut quotas[at], "status").insert("used".to_owned(), resources::to_value(&after));
            changed[at] = true;
            charged = true;
        }
        if charged {
            pending.push(waiter);
        } else {
            let _ = waiter.answer.send(Ok(()));
        }
    }
    if pending.is_empty() {
        return (Ok(()), pending);
    }
    let ops = current.into_iter().zip(&quotas).zip(changed).filter(|(_, changed)| *changed).map(|((was, quota), _)| {
        let precondition = Some(Precondition::ModRevision(was.revision));
        Op::Put { key: was.key, value: codec::encode(quota), precondition }
    });
    match registry.store().txn(ops.collect()).await {
        Ok(_) => (Ok(()), pending),
        Err(Error::Conflict { .. }) => (Err(None), pending),
        Err(error) => (Err(Some(errors::from_store(error))), pending),
    }
}

type Quotas = (Vec<crate::registry::Current>, Vec<Value>);

async fn read(kind: &Resource, namespace: &str, registry: &Registry) -> Result<Quotas, ApiError> {
    // What was charged since the request came in counts as well.
    let current = registry.find_all(kind, namespace, &AsOf::now()).await?;
    let quotas = current.iter().map(|current| codec::decode(&current.bytes)).collect::<Result<_, _>>()?;
    Ok((current, quotas))
}
