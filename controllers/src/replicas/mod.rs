//! The controller of ReplicaSets and of ReplicationControllers: keeps as many pods of a template as asked for.
//!
//! Watches the sets and Pods. Creates, deletes, adopts and releases Pods and writes the set's status. What it decides is in
//! [`plan`]; in what the two kinds differ is in [`kind`].

mod kind;
mod plan;
#[cfg(test)]
mod tests;

use std::marker::PhantomData;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt};

pub use self::kind::Replicas;
use self::plan::Change;
use crate::machinery::Error;
use crate::machinery::cache::Key;
use crate::machinery::claim::claim;
use crate::machinery::context::{Context, STALE_RETRY};
use crate::machinery::objects::Matcher;
use crate::machinery::owners::{controlled_by, controller_of};
use crate::machinery::patch::write_status;
use crate::machinery::queue::Queue;
use crate::machinery::runner::{Controller, Outcome};
use crate::machinery::workload::{Begin, Failed, Workload, pod_of_template};

/// See the module's description.
#[derive(Debug)]
pub struct ReplicasController<S> {
    workload: Workload,
    kind: PhantomData<fn() -> S>,
}

impl<S: Replicas> ReplicasController<S> {
    /// The controller, listening to the shared caches.
    pub fn new(context: Arc<Context>) -> Arc<Self> {
        let workload = Workload::new(context, S::COMPONENT);
        let sets = S::cache(workload.caches()).clone();
        workload.listen_to(&sets);
        workload.listen_to_pods(&sets, |set, pod| matcher(set).is_ok_and(|matcher| matcher.takes(pod.labels())));
        Arc::new(ReplicasController { workload, kind: PhantomData })
    }
}

fn matcher<S: Replicas>(set: &S) -> Result<Matcher, Error> {
    Matcher::new(&set.selector(), || format!("{} {}", S::kind(&()), Key::of(set)))
}

impl<S: Replicas> Controller for ReplicasController<S> {
    type Key = Key;

    fn name(&self) -> &'static str {
        S::NAME
    }

    fn queue(&self) -> &Queue<Key> {
        &self.workload.queue
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        let workload = &self.workload;
        let caches = workload.caches();
        let set = match workload.begin(key, S::cache(caches), &caches.pods) {
            Begin::Gone => return Ok(Outcome::Done),
            Begin::Stale => return Ok(Outcome::After(STALE_RETRY)),
            Begin::Ready(set) => set,
        };
        let owned = claim(&workload.context.client, &*set, &matcher(&*set)?, &caches.pods).await?;
        let now = Timestamp::now();
        let related = self.related(&*set, &owned);
        let change = plan::plan(&*set, &owned, &related, now);
        let changes_pods = change != Change::None;
        let result = self.act(key, &*set, change).await;
        // Pods that were just made or deleted come back as events, and the status is written then, once.
        if !changes_pods || result.is_err() {
            let failure = result.as_ref().err().map(|(failure, _)| failure);
            let status = plan::status(&*set, &owned, failure, now);
            let api: Api<S> = workload.api(key);
            if let Some(written) = write_status(&api, &*set, &set.status(), &status).await? {
                workload.own.wrote(key, S::cache(caches), &written);
            }
        }
        result.map_err(|(_, error)| error)?;
        Ok(plan::next_available(&*set, &owned, now).map_or(Outcome::Done, Outcome::After))
    }
}

impl<S: Replicas> ReplicasController<S> {
    /// The pods of all sets under the same owner, for telling which nodes are crowded.
    fn related(&self, set: &S, owned: &[Arc<Pod>]) -> Vec<Arc<Pod>> {
        let caches = self.workload.caches();
        let Some(owner) = controller_of(set.meta()) else {
            return owned.to_vec();
        };
        S::cache(caches)
            .indexed(&controlled_by(&owner.uid))
            .iter()
            .filter_map(|sibling| sibling.uid())
            .flat_map(|uid| caches.pods.indexed(&controlled_by(&uid)))
            .collect()
    }

    async fn act(&self, key: &Key, set: &S, change: Change) -> Result<(), Failed> {
        match change {
            Change::None => Ok(()),
            Change::Create(count) => {
                let pod = pod_of_template(set, set.template());
                self.workload.create_pods(key, set, vec![pod; count]).await
            }
            Change::Delete(pods) => self.workload.delete_pods(key, set, pods).await,
        }
    }
}
