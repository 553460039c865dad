//! The watches that the state is fed from, and how their events are applied to it: the same for the scheduler that
//! binds and for whoever only wants to know what it would do.

use std::collections::BTreeSet;
use std::pin::{Pin, pin};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::facts::{WatchedBudget, WatchedNamespace, WatchedNode, WatchedPod};
use super::following::Followed;
use super::gangs::WatchedGroup;
use super::owners::{OwnerKind, WatchedOwner};
use super::queues::WatchedQueue;
use super::state::{Action, State};

/// Watch events between a watch and the state: a few pages of a list. The watch waits when it is
/// full, and the API server's own buffer behind it.
pub(crate) const INPUT_CAPACITY: usize = 2_048;

/// Kinds that not every API server has; where one is missing there are none of it.
const OPTIONAL: [&str; 2] = [WatchedGroup::PLURAL, WatchedQueue::PLURAL];

/// An event of a watch.
pub(crate) enum Input {
    Pod(Box<watcher::Event<WatchedPod>>),
    Node(Box<watcher::Event<WatchedNode>>),
    Namespace(Box<watcher::Event<WatchedNamespace>>),
    Budget(Box<watcher::Event<WatchedBudget>>),
    Owner(OwnerKind, Box<watcher::Event<WatchedOwner>>),
    Group(Box<watcher::Event<WatchedGroup>>),
    Queue(Box<watcher::Event<WatchedQueue>>),
    Claim(Box<watcher::Event<PersistentVolumeClaim>>),
    Volume(Box<watcher::Event<PersistentVolume>>),
    Class(Box<watcher::Event<StorageClass>>),
    CsiNode(Box<watcher::Event<CSINode>>),
    CsiDriver(Box<watcher::Event<CSIDriver>>),
    Capacity(Box<watcher::Event<CSIStorageCapacity>>),
}

/// Which lists have not been complete yet. Deciding on less would over-commit, or place a pod beside one
/// that it must not be near.
#[derive(Clone, Debug, Default)]
pub(crate) struct Awaited(BTreeSet<&'static str>);

/// A watch, which gives its name when it ends.
pub(crate) type Watching = Pin<Box<dyn Future<Output = &'static str> + Send>>;

/// All watches, and the lists that they begin with.
pub(crate) fn watches(
    client: &Client,
    inputs: &mpsc::Sender<Input>,
    shutdown: &CancellationToken,
) -> (FuturesUnordered<Watching>, Awaited) {
    let all: FuturesUnordered<Watching> = FuturesUnordered::new();
    let mut awaited = Awaited::default();
    let mut add = |name: &'static str, watching: Watching| {
        awaited.0.insert(name);
        all.push(watching);
    };
    macro_rules! add {
        ($name:expr, $type:ty, $input:path) => {
            let wrap = |event: watcher::Event<$type>| $input(Box::new(event));
            let api = Api::<$type>::all(client.clone());
            add($name, Box::pin(watch($name, api, wrap, inputs.clone(), shutdown.clone())));
        };
    }
    add!("pods", WatchedPod, Input::Pod);
    add!(WatchedNode::PLURAL, WatchedNode, Input::Node);
    add!(WatchedNamespace::PLURAL, WatchedNamespace, Input::Namespace);
    add!(WatchedBudget::PLURAL, WatchedBudget, Input::Budget);
    add!(PersistentVolumeClaim::PLURAL, PersistentVolumeClaim, Input::Claim);
    add!(PersistentVolume::PLURAL, PersistentVolume, Input::Volume);
    add!(StorageClass::PLURAL, StorageClass, Input::Class);
    add!(CSINode::PLURAL, CSINode, Input::CsiNode);
    add!(CSIDriver::PLURAL, CSIDriver, Input::CsiDriver);
    add!(CSIStorageCapacity::PLURAL, CSIStorageCapacity, Input::Capacity);
    add!(WatchedGroup::PLURAL, WatchedGroup, Input::Group);
    add!(WatchedQueue::PLURAL, WatchedQueue, Input::Queue);
    for kind in OwnerKind::ALL {
        let wrap = move |event| Input::Owner(kind, Box::new(event));
        let api = Api::<WatchedOwner>::all_with(client.clone(), &kind);
        add(kind.plural(), Box::pin(watch(kind.plural(), api, wrap, inputs.clone(), shutdown.clone())));
    }
    (all, awaited)
}

async fn watch<K>(
    name: &'static str,
    api: Api<K>,
    wrap: impl Fn(watcher::Event<K>) -> Input + Send,
    inputs: mpsc::Sender<Input>,
    shutdown: CancellationToken,
) -> &'static str
where
    K: kube::Resource + Clone + std::fmt::Debug + DeserializeOwned + Send + 'static,
{
    let events = watcher(api, watcher::Config::default()).default_backoff();
    let mut events = pin!(events);
    loop {
        let event = tokio::select! {
            () = shutdown.cancelled() => return name,
            event = events.next() => event,
        };
        match event {
            None => return name,
            // Looked for again now and then: the kind may come.
            Some(Err(watcher::Error::InitialListFailed(kube::Error::Api(status))))
                if OPTIONAL.contains(&name) && status.code == 404 =>
            {
                for event in [watcher::Event::Init, watcher::Event::InitDone] {
                    if !send(&inputs, wrap(event), &shutdown).await {
                        return name;
                    }
                }
            }
            Some(Err(error)) => tracing::warn!(watch = name, %error, "a watch failed, trying again"),
            Some(Ok(event)) => {
                if !send(&inputs, wrap(event), &shutdown).await {
                    return name;
                }
            }
        }
    }
}

/// Hands an event over; false if nobody wants it any more.
async fn send(inputs: &mpsc::Sender<Input>, input: Input, shutdown: &CancellationToken) -> bool {
    tokio::select! {
        () = shutdown.cancelled() => false,
        sent = inputs.send(input) => sent.is_ok(),
    }
}

impl Awaited {
    /// Have all lists been complete once?
    pub(crate) fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    /// Applies an event to the state; what is to be done about it at once.
    pub(crate) fn apply(&mut self, state: &mut State, input: Input, now: Duration) -> Option<Action> {
        use watcher::Event::{Apply, Delete, Init, InitApply, InitDone};
        match input {
            Input::Pod(event) => match *event {
                Init => state.pods_relist(),
                InitApply(pod) | Apply(pod) => {
                    return state.pod_seen(pod.facts, now);
                }
                Delete(pod) => state.pod_gone(pod.facts.key),
                InitDone => {
                    state.pods_listed();
                    self.0.remove("pods");
                }
            },
            Input::Owner(kind, event) => match *event {
                Init => state.owners().relist(kind),
                InitApply(owner) | Apply(owner) => {
                    let (key, selector) = owner.into_parts();
                    state.owners().seen(kind, key, selector);
                }
                Delete(owner) => state.owners().gone(kind, &owner.into_parts().0),
                InitDone => {
                    state.owners().listed(kind);
                    self.0.remove(kind.plural());
                }
            },
            Input::Node(event) => self.follow(state, *event),
            Input::Namespace(event) => self.follow(state, *event),
            Input::Budget(event) => self.follow(state, *event),
            Input::Group(event) => self.follow(state, *event),
            Input::Queue(event) => self.follow(state, *event),
            Input::Claim(event) => self.follow(state, *event),
            Input::Volume(event) => self.follow(state, *event),
            Input::Class(event) => self.follow(state, *event),
            Input::CsiNode(event) => self.follow(state, *event),
            Input::CsiDriver(event) => self.follow(state, *event),
            Input::Capacity(event) => self.follow(state, *event),
        }
        None
    }

    /// What all kinds have in common of which the state is only told.
    fn follow<K: Followed>(&mut self, state: &mut State, event: watcher::Event<K>) {
        use watcher::Event::{Apply, Delete, Init, InitApply, InitDone};
        match event {
            Init => K::relist(state),
            InitApply(object) | Apply(object) => object.seen(state),
            Delete(object) => object.gone(state),
            InitDone => {
                K::listed(state);
                self.0.remove(K::PLURAL);
            }
        }
    }
}
