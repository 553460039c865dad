//! Leases: what keeps the parts of an image from being collected as garbage while there is no image yet.
//!
//! A lease names the process that took it. One whose process is no more holds what nobody goes on with, and so does one of
//! this process that no import holds: containerd was away when it was to be given back.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
#[cfg(target_os = "linux")]
use std::time::SystemTime;

#[cfg(target_os = "linux")]
use containerd_client::services::v1::ListRequest;
use containerd_client::services::v1::leases_client::LeasesClient;
use containerd_client::services::v1::{CreateRequest, DeleteRequest};
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request};

use super::{ImportError, containerd};
use crate::runtime::cri::namespaced;

const PREFIX: &str = "gantry-import-";
/// The label that says who took a lease.
const LABEL_PROCESS: &str = "io.gantry.importer";

/// How often a lease is given back that containerd was not there for, and how soon again: it is back within a second.
const GIVE_BACK_TRIES: usize = 5;
const GIVE_BACK_RETRY: Duration = Duration::from_secs(1);

/// The label that says when a lease ends by itself.
const LABEL_EXPIRY: &str = "containerd.io/gc.expire";

/// The leases that imports of this process hold.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held(Arc<Mutex<HashSet<String>>>);

impl Held {
    fn with<T>(&self, work: impl FnOnce(&mut HashSet<String>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// An id that keeps what is being imported.
pub(super) struct Lease {
    id: String,
    held: Held,
}

/// Whatever way an import ends: what it held then is nobody's.
impl Drop for Lease {
    fn drop(&mut self) {
        self.held.with(|held| held.remove(&self.id));
    }
}

impl Lease {
    /// Takes a lease.
    pub(super) async fn take(channel: &Channel, held: &Held) -> Result<Self, ImportError> {
        let lease = Self { id: format!("{PREFIX}{}", uuid::Uuid::new_v4()), held: held.clone() };
        held.with(|held| held.insert(lease.id.clone()));
        // Should nobody look for what this process left, the lease expires by itself.
        let expiry = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24);
        let mut labels = HashMap::from([(LABEL_EXPIRY.to_owned(), expiry.to_string())]);
        labels.extend(process(std::process::id()).map(|name| (LABEL_PROCESS.to_owned(), name)));
        LeasesClient::new(channel.clone())
            .create(namespaced(CreateRequest { id: lease.id.clone(), labels }))
            .await
            .map_err(|status| containerd("lease what is imported", status))?;
        Ok(lease)
    }

    /// Gives it back: what no image refers to is collected.
    pub(super) async fn give_back(self, channel: &Channel) {
        for _ in 1..GIVE_BACK_TRIES {
            if delete(channel, &self.id).await {
                return;
            }
            tokio::time::sleep(GIVE_BACK_RETRY).await;
        }
        delete(channel, &self.id).await;
    }

    /// A request whose effects the lease keeps.
    pub(super) fn apply<T>(&self, message: T) -> Request<T> {
        let mut request = namespaced(message);
        // A lease id is made of letters, digits and dashes.
        if let Ok(value) = MetadataValue::try_from(self.id.as_str()) {
            request.metadata_mut().insert("containerd-lease", value);
        }
        request
    }
}

/// Gives back the leases of processes that are no more, and this one's that no import holds.
#[cfg(target_os = "linux")]
pub(super) async fn give_back_orphaned(channel: &Channel, held: &Held) {
    let leases = list(channel, vec![format!("id~=^{PREFIX}")]).await;
    for lease in leases.into_iter().filter(|lease| is_orphaned(&lease.id, lease.labels.get(LABEL_PROCESS), held)) {
        tracing::info!(lease = lease.id, "what an interrupted import left is given up");
        delete(channel, &lease.id).await;
    }
}

/// Gives back the leases that were there `then`, when containerd was not. It takes them for itself while it makes a sandbox or a
/// container or pulls, and whoever else has taken one lost the connection: what they keep nobody goes on with, for a day.
#[cfg(target_os = "linux")]
pub(super) async fn give_back_lost(channel: &Channel, then: SystemTime) {
    let leases = list(channel, Vec::new()).await;
    for lease in leases.into_iter().filter(|lease| is_lost(lease, then)) {
        tracing::info!(lease = lease.id, "what containerd was at when it ended is given up");
        delete(channel, &lease.id).await;
    }
}

/// Whether a lease was taken before `then` by somebody who meant to give it back soon. Imports have theirs looked after by themselves.
#[cfg(target_os = "linux")]
fn is_lost(lease: &containerd_client::services::v1::Lease, then: SystemTime) -> bool {
    let taken = lease.created_at.as_ref().and_then(|at| SystemTime::try_from(*at).ok());
    let expires = lease.labels.contains_key(LABEL_EXPIRY);
    expires && !lease.id.starts_with(PREFIX) && taken.is_some_and(|taken| taken < then)
}

/// The leases that filters let through; none if containerd does not say.
#[cfg(target_os = "linux")]
async fn list(channel: &Channel, filters: Vec<String>) -> Vec<containerd_client::services::v1::Lease> {
    match LeasesClient::new(channel.clone()).list(namespaced(ListRequest { filters })).await {
        Ok(answer) => answer.into_inner().leases,
        Err(status) => {
            tracing::debug!(error = %status, "what was interrupted is left to expire");
            Vec::new()
        }
    }
}

/// Whether the lease is no more.
async fn delete(channel: &Channel, id: &str) -> bool {
    let request = DeleteRequest { id: id.to_owned(), sync: false };
    match LeasesClient::new(channel.clone()).delete(namespaced(request)).await {
        Ok(_) => true,
        Err(status) => {
            tracing::debug!(lease = id, error = %status, "a lease is not given back yet");
            status.code() == Code::NotFound
        }
    }
}

/// Whether nobody goes on with what a lease keeps: the process that it names is no more, or is this one and does not hold it. A
/// lease that names none is left to expire.
#[cfg(target_os = "linux")]
fn is_orphaned(id: &str, name: Option<&String>, held: &Held) -> bool {
    let Some(pid) = name.and_then(|name| name.split('-').next()?.parse().ok()) else { return false };
    if process(pid).as_ref() != name {
        return true;
    }
    pid == std::process::id() && !held.with(|held| held.contains(id))
}

/// A process by its number and the time of its start, so that a later one of the same number is another.
fn process(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
    // The command's name, in brackets, may hold anything; the start time is the 22nd field of all.
    let started = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?;
    Some(format!("{pid}-{started}"))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_orphaned_when_its_process_is_no_more() {
        let held = Held::default();
        let is_orphaned = |name: Option<&str>| is_orphaned("lease", name.map(str::to_owned).as_ref(), &held);
        let parent = process(std::os::unix::process::parent_id()).unwrap();
        assert!(!is_orphaned(Some(&parent)));
        assert!(is_orphaned(Some(&format!("{parent}0"))), "an earlier process of the same number");
        assert!(is_orphaned(Some(&format!("{}-1", u32::MAX))), "there is none");
        assert!(!is_orphaned(None) && !is_orphaned(Some("nobody")));
    }

    #[test]
    fn what_containerd_took_before_it_ended_is_lost() {
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let lease = |id: &str, taken: i64, labels: &[&str]| containerd_client::services::v1::Lease {
            id: id.to_owned(),
            created_at: Some(prost_types::Timestamp { seconds: taken, nanos: 0 }),
            labels: labels.iter().map(|label| ((*label).to_owned(), "2026-01-02T00:00:00Z".to_owned())).collect(),
        };
        assert!(is_lost(&lease("999-abc", 999, &[LABEL_EXPIRY]), then));
        assert!(!is_lost(&lease("1001-abc", 1_001, &[LABEL_EXPIRY]), then), "it was taken since");
        assert!(!is_lost(&lease("kept", 999, &[]), then), "somebody means to keep it");
        assert!(!is_lost(&lease("gantry-import-1", 999, &[LABEL_EXPIRY, LABEL_PROCESS]), then));
    }

    #[test]
    fn a_lease_of_this_process_is_orphaned_when_its_import_is_over() {
        let own = process(std::process::id()).unwrap();
        let held = Held::default();
        let lease = Lease { id: "lease".to_owned(), held: held.clone() };
        held.with(|held| held.insert(lease.id.clone()));
        assert!(!is_orphaned("lease", Some(&own), &held));
        assert!(is_orphaned("another", Some(&own), &held));
        drop(lease);
        assert!(is_orphaned("lease", Some(&own), &held), "containerd was away when it was given back");
    }
}
