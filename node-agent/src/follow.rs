//! Follows objects of the API, as every part of the agent does that needs their changes.

use std::fmt::Debug;
use std::time::Duration;

use futures::{Stream, StreamExt};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Config, Event};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

/// Pause after a watch failed, so that a server that comes up is found soon.
const RETRY: Duration = Duration::from_millis(500);

/// The objects that `config` selects and their changes, until it is dropped; after an error it goes on by itself. Without
/// `managedFields`: nothing on a node reads them, and as trees they are a third of what a pod occupies.
pub fn follow<K>(api: Api<K>, config: Config) -> impl Stream<Item = watcher::Result<Event<K>>> + Send
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let events = watcher::watcher(api, config).modify(|object| object.meta_mut().managed_fields = None);
    events.then(|event| async {
        if event.is_err() {
            tokio::time::sleep(RETRY).await;
        }
        event
    })
}
