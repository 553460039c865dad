//! Where a volume is to be attached, and where no more. Pure: in go the volume, the pods that use it, its attachments, what its nodes
//! say, and the time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use gantry_api::storage;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{AttachedVolume, Node, PersistentVolume, Pod};
use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment, VolumeAttachmentSource, VolumeAttachmentSpec};
use kube::ResourceExt;

use crate::machinery::pods;

/// How long a node that is not well may say that it uses a volume which nobody there wants, before the volume is taken from it.
pub const UNMOUNT_MAX: SignedDuration = SignedDuration::from_mins(6);
/// The taint of a node that somebody has seen to be switched off.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// A volume that a driver attaches to nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// The PersistentVolume's name.
    pub name: String,
    driver: String,
    handle: String,
    /// Whether several nodes may have it at a time.
    shared: bool,
}

impl Volume {
    /// The volume, if it is one that is attached. `driver` is what its driver says of itself; most need attaching.
    pub fn of(volume: &PersistentVolume, driver: Option<&CSIDriver>) -> Option<Self> {
        let spec = volume.spec.as_ref()?;
        let source = spec.csi.as_ref()?;
        if driver.is_some_and(|driver| driver.spec.attach_required == Some(false)) {
            return None;
        }
        let modes = spec.access_modes.as_deref().unwrap_or_default();
        Some(Self {
            name: volume.name_any(),
            driver: source.driver.clone(),
            handle: source.volume_handle.clone(),
            // One that does not say is not restrained.
            shared: modes.is_empty() || modes.iter().any(|mode| mode == "ReadWriteMany" || mode == "ReadOnlyMany"),
        })
    }

    /// The volume of an attachment whose PersistentVolume is no more. What its driver calls it only a node still says that uses it;
    /// `None` if nobody does, or it is somebody else's attachment.
    pub fn of_orphan(attachment: &VolumeAttachment, node: Option<&Node>) -> Option<Self> {
        let spec = &attachment.spec;
        let in_use = node.and_then(|node| node.status.as_ref()?.volumes_in_use.as_deref()).unwrap_or_default();
        let start = storage::unique_name(&spec.attacher, "");
        let handles = in_use.iter().filter_map(|name| name.strip_prefix(&start));
        let name = attachment.name_any();
        let is = |handle: &&str| storage::attachment_name(handle, &spec.attacher, &spec.node_name) == name;
        Some(Self {
            name: spec.source.persistent_volume_name.clone()?,
            driver: spec.attacher.clone(),
            handle: handles.into_iter().find(is)?.to_owned(),
            shared: false,
        })
    }

    /// What a node calls it in its status.
    pub fn unique_name(&self) -> String {
        storage::unique_name(&self.driver, &self.handle)
    }

    /// The name of its attachment to a node, which agents and drivers know as well.
    pub fn attachment_name(&self, node: &str) -> String {
        storage::attachment_name(&self.handle, &self.driver, node)
    }

    /// Its attachment to a node, as it is to be made.
    pub fn attachment(&self, node: &str) -> VolumeAttachment {
        let mut made = VolumeAttachment {
            spec: VolumeAttachmentSpec {
                attacher: self.driver.clone(),
                node_name: node.to_owned(),
                source: VolumeAttachmentSource {
                    persistent_volume_name: Some(self.name.clone()),
                    ..VolumeAttachmentSource::default()
                },
            },
            ..VolumeAttachment::default()
        };
        made.metadata.name = Some(self.attachment_name(node));
        made
    }
}

/// What is known of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// It says that it uses the volume.
    pub in_use: bool,
    /// It is well.
    pub ready: bool,
    /// Somebody has seen it to be switched off.
    pub out_of_service: bool,
}

impl Seen {
    /// What a node says of a volume.
    pub fn of(node: &Node, volume: &Volume) -> Self {
        let in_use = node.status.as_ref().and_then(|status| status.volumes_in_use.as_deref()).unwrap_or_default();
        Self { in_use: in_use.contains(&volume.unique_name()), ..Self::of_state(node) }
    }

    /// How a node is, but for volumes.
    fn of_state(node: &Node) -> Self {
        let status = node.status.as_ref();
        let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let ready = conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
        let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
        Self { in_use: false, ready, out_of_service: taints.iter().any(|taint| taint.key == OUT_OF_SERVICE) }
    }

    /// A node that is no more: what it had mounted nobody knows.
    pub const MISSING: Self = Self { in_use: true, ready: false, out_of_service: false };
}

/// The nodes that are to have a volume, with the pods for which they are.
pub type Wanted<'a> = BTreeMap<String, Vec<&'a Pod>>;

/// By the pods that use its claim.
pub fn wanted<'a>(users: impl Iterator<Item = &'a Pod>) -> Wanted<'a> {
    let mut wanted = Wanted::new();
    for pod in users.filter(|pod| !pods::is_terminal(pod) && !pods::node_name(pod).is_empty()) {
        wanted.entry(pods::node_name(pod).to_owned()).or_default().push(pod);
    }
    wanted
}

/// Whether an attachment has a name as those have that are made here: one whose volume is no more cannot be told from others
/// otherwise.
pub fn is_named_as_ours(attachment: &VolumeAttachment) -> bool {
    let name = attachment.name_any();
    let hash = name.strip_prefix("csi-").unwrap_or_default();
    hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Nodes to attach it to.
    pub attach: Vec<String>,
    /// Nodes to take it from.
    pub detach: Vec<String>,
    /// Nodes whose pods have to wait because other nodes have it.
    pub refused: Vec<String>,
    /// Nodes that still use it, and that it is taken from when they do so for too long.
    pub waits: BTreeSet<String>,
    /// When to look again at the latest.
    pub after: Option<Duration>,
}

impl Plan {
    /// For a node that has what nobody there wants.
    fn leave_or_wait(&mut self, node: &str, seen: Seen, since: &BTreeMap<String, Timestamp>, now: Timestamp) {
        let waited = since.get(node).map_or(SignedDuration::ZERO, |since| now.duration_since(*since));
        if !seen.in_use || seen.out_of_service || !seen.ready && waited >= UNMOUNT_MAX {
            self.detach.push(node.to_owned());
            return;
        }
        self.waits.insert(node.to_owned());
        // One that is well says when it has done; nobody hurries it.
        if !seen.ready {
            let left = Duration::try_from(UNMOUNT_MAX - waited).unwrap_or_default();
            self.after = Some(self.after.map_or(left, |other| other.min(left)));
        }
    }
}

/// Decides. `seen` tells of a node, `since` how long it has kept what nobody wants.
pub fn plan(
    volume: &Volume,
    wanted: &Wanted<'_>,
    attachments: &[&VolumeAttachment],
    seen: impl Fn(&str) -> Seen,
    since: &BTreeMap<String, Timestamp>,
    now: Timestamp,
) -> Plan {
    let mut plan = Plan::default();
    // Somebody else's attachments have other names, and are theirs.
    let own = attachments.iter().filter(|found| found.name_any() == volume.attachment_name(&found.spec.node_name));
    let own: BTreeMap<&str, &VolumeAttachment> = own.map(|found| (found.spec.node_name.as_str(), *found)).collect();
    for (node, found) in &own {
        if wanted.contains_key(*node) || found.metadata.deletion_timestamp.is_some() {
            continue;
        }
        plan.leave_or_wait(node, seen(node), since, now);
    }
    let mut taken = !own.is_empty();
    for node in wanted.keys().filter(|node| !own.contains_key(node.as_str())) {
        if taken && !volume.shared {
            plan.refused.push(node.clone());
        } else {
            plan.attach.push(node.clone());
            taken = true;
        }
    }
    plan
}

/// Decides on the attachments of a volume that is no more: nobody can want it. `node` knows the nodes.
pub fn plan_orphans(
    attachments: &[&VolumeAttachment],
    node: impl Fn(&str) -> Option<Arc<Node>>,
    since: &BTreeMap<String, Timestamp>,
    now: Timestamp,
) -> Plan {
    let mut plan = Plan::default();
    let left = |found: &&&VolumeAttachment| found.metadata.deletion_timestamp.is_none() && is_named_as_ours(found);
    for found in attachments.iter().filter(left) {
        let name = &found.spec.node_name;
        let node = node(name);
        let seen = match (&node, Volume::of_orphan(found, node.as_deref())) {
            (None, _) => Seen::MISSING,
            (Some(node), Some(volume)) => Seen::of(node, &volume),
            (Some(node), None) => Seen::of_state(node),
        };
        plan.leave_or_wait(name, seen, since, now);
    }
    plan
}

/// What a pod is told that waits for a volume which other nodes have, for the pods `elsewhere`.
pub fn multi_attach_message(volume: &Volume, pod: &Pod, elsewhere: &[&Pod]) -> String {
    let start = format!("Multi-Attach error for volume \"{}\" ", volume.name);
    let namespace = pod.namespace();
    let (local, others): (Vec<&&Pod>, Vec<&&Pod>) = elsewhere.iter().partition(|other| other.namespace() == namespace);
    let mut names: Vec<String> = local.iter().map(|pod| pod.name_any()).collect();
    names.sort();
    match (names.is_empty(), others.len()) {
        (true, 0) => {
            format!("{start}Volume is already exclusively attached to one node and can't be attached to another")
        }
        (true, count) => format!("{start}Volume is already used by {count} pod(s) in different namespaces"),
        (false, 0) => format!("{start}Volume is already used by pod(s) {}", names.join(", ")),
        (false, count) => {
            format!(
                "{start}Volume is already used by pod(s) {} and {count} pod(s) in different namespaces",
                names.join(", ")
            )
        }
    }
}

/// What a node has attached, as its status is to say: by its attachments, with their volumes' names in nodes' statuses.
pub fn attached<'a>(attachments: impl Iterator<Item = (&'a VolumeAttachment, String)>) -> Vec<AttachedVolume> {
    let is = |found: &VolumeAttachment| {
        found.metadata.deletion_timestamp.is_none() && found.status.as_ref().is_some_and(|status| status.attached)
    };
    let names: BTreeSet<String> = attachments.filter(|(found, _)| is(found)).map(|(_, name)| name).collect();
    names.into_iter().map(|name| AttachedVolume { name, device_path: String::new() }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    fn volume(mode: &str) -> Volume {
        let found: PersistentVolume = object(json!({"metadata": {"name": "pv"}, "spec": {"accessModes": [mode],
            "csi": {"driver": "d", "volumeHandle": "h"}}}));
        Volume::of(&found, None).unwrap()
    }

    fn pod(name: &str, node: &str, phase: &str) -> Pod {
        object(json!({"metadata": {"name": name, "namespace": "ns"}, "spec": {"nodeName": node, "containers": []},
            "status": {"phase": phase}}))
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    const WELL: Seen = Seen { in_use: false, ready: true, out_of_service: false };

    /// A plan for pods on `wanted`, and attachments to `have`; one with a star is on its way out.
    fn planned(mode: &str, wanted_on: &[&str], have: &[&str], seen: Seen, waited: i64) -> Plan {
        let volume = volume(mode);
        let pods: Vec<Pod> = wanted_on.iter().map(|node| pod("p", node, "Running")).collect();
        let attachments: Vec<VolumeAttachment> = have
            .iter()
            .map(|node| {
                let mut made = volume.attachment(node.trim_end_matches('*'));
                if node.ends_with('*') {
                    made.metadata.deletion_timestamp = Some(object(json!("2026-01-01T00:00:00Z")));
                }
                made
            })
            .collect();
        let since = have.iter().map(|node| ((*node).to_owned(), at(0))).collect();
        let attachments: Vec<_> = attachments.iter().collect();
        plan(&volume, &wanted(pods.iter()), &attachments, |_| seen, &since, at(waited))
    }

    fn list(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn only_volumes_of_drivers_that_attach_are_attached() {
        let found: PersistentVolume =
            object(json!({"metadata": {"name": "pv"}, "spec": {"csi": {"driver": "d", "volumeHandle": "h"}}}));
        let driver =
            |required: Value| object::<CSIDriver>(json!({"metadata": {}, "spec": {"attachRequired": required}}));
        assert!(Volume::of(&found, None).is_some() && Volume::of(&found, Some(&driver(Value::Null))).is_some());
        assert!(Volume::of(&found, Some(&driver(json!(true)))).is_some());
        assert!(Volume::of(&found, Some(&driver(json!(false)))).is_none());
        assert!(Volume::of(&object(json!({"spec": {"local": {"path": "/x"}}})), None).is_none());
        let volume = volume("ReadWriteOnce");
        assert_eq!(volume.unique_name(), "kubernetes.io/csi/d^h");
        // The hash of `hdn`: agents look for this very name.
        let name = "csi-9072ed11cc1acb5fa433a877ff339b6311d013f33bddd1d0092711a8ace5b16d";
        assert_eq!(volume.attachment_name("n"), name);
    }

    #[test]
    fn a_volume_follows_its_pods() {
        let up = planned("ReadWriteOnce", &["a"], &[], WELL, 0);
        assert_eq!(up, Plan { attach: list(&["a"]), ..Plan::default() });
        assert_eq!(planned("ReadWriteOnce", &["a"], &["a"], WELL, 0), Plan::default());
        assert_eq!(planned("ReadWriteOnce", &[], &["a"], WELL, 0).detach, ["a"]);
        assert_eq!(planned("ReadWriteOnce", &[], &["a*"], WELL, 0), Plan::default(), "it is on its way");
        let volume = volume("ReadWriteOnce");
        let pods = [pod("over", "a", "Succeeded"), pod("waits", "", "Pending")];
        assert!(wanted(pods.iter()).is_empty());
        let mut foreign = volume.attachment("a");
        foreign.metadata.name = Some("by-hand".into());
        let left = plan(&volume, &Wanted::new(), &[&foreign], |_| WELL, &BTreeMap::new(), at(0));
        assert_eq!(left, Plan::default(), "somebody else's is left alone");
    }

    #[test]
    fn one_that_only_one_node_may_have_is_waited_for() {
        let moved = planned("ReadWriteOnce", &["b"], &["a"], WELL, 0);
        assert_eq!((moved.detach, moved.refused, moved.attach), (list(&["a"]), list(&["b"]), Vec::new()));
        assert_eq!(planned("ReadWriteOnce", &["b"], &["a*"], WELL, 0).refused, ["b"]);
        let two = planned("ReadWriteOncePod", &["a", "b"], &[], WELL, 0);
        assert_eq!((two.attach, two.refused), (list(&["a"]), list(&["b"])));
        assert_eq!(planned("ReadWriteMany", &["a", "b"], &[], WELL, 0).attach, ["a", "b"]);
        assert_eq!(planned("ReadOnlyMany", &["b"], &["a*"], WELL, 0).attach, ["b"]);
    }

    #[test]
    fn what_a_node_uses_is_taken_from_it_only_when_it_is_dead_or_long_silent() {
        let using = Seen { in_use: true, ready: true, out_of_service: false };
        let silent = Seen { ready: false, ..using };
        let detached = |seen, waited| !planned("ReadWriteOnce", &[], &["a"], seen, waited).detach.is_empty();
        assert!(!detached(using, 0) && !detached(using, 3600));
        assert!(!detached(silent, 359) && detached(silent, 360));
        assert!(detached(Seen { out_of_service: true, ..silent }, 0));
        assert!(!detached(Seen::MISSING, 0) && detached(Seen::MISSING, 360));
        let waits = planned("ReadWriteOnce", &[], &["a"], silent, 60);
        assert_eq!((waits.waits.len(), waits.after), (1, Some(Duration::from_secs(300))));
    }

    #[test]
    fn what_is_left_of_a_volume_that_is_no_more_goes_unless_it_is_in_use() {
        let found = volume("ReadWriteOnce").attachment("a");
        let planned = |found: &VolumeAttachment, in_use: Option<&str>, ready: &str, waited: i64| {
            let node = |in_use: &str| {
                Arc::new(object::<Node>(json!({"status": {"volumesInUse": [in_use],
                    "conditions": [{"type": "Ready", "status": ready}]}})))
            };
            let since = BTreeMap::from([("a".to_owned(), at(0))]);
            plan_orphans(&[found], |_| in_use.map(node), &since, at(waited))
        };
        let own = "kubernetes.io/csi/d^h";
        assert_eq!(planned(&found, Some("kubernetes.io/csi/d^other"), "True", 0).detach, ["a"]);
        assert_eq!(planned(&found, Some(own), "True", 3600).waits.len(), 1, "it is in use");
        assert_eq!(planned(&found, Some(own), "Unknown", 359).after, Some(Duration::from_secs(1)));
        assert_eq!(planned(&found, Some(own), "Unknown", 360).detach, ["a"]);
        let unknown = planned(&found, None, "True", 0);
        assert_eq!((unknown.detach.len(), unknown.waits.len()), (0, 1), "nobody knows what the node had");
        assert_eq!(planned(&found, None, "True", 360).detach, ["a"]);
        let mut other = found.clone();
        other.metadata.name = Some("by-hand".into());
        assert_eq!(planned(&other, Some("x"), "True", 0), Plan::default(), "somebody else's is left alone");
        other = found;
        other.metadata.deletion_timestamp = Some(object(json!("2026-01-01T00:00:00Z")));
        assert_eq!(planned(&other, Some("x"), "True", 0), Plan::default(), "it is on its way");
    }

    #[test]
    fn a_node_is_seen_by_its_status() {
        let node = |in_use: &[&str], ready: &str, taints: Value| {
            object::<Node>(json!({"spec": {"taints": taints}, "status": {"volumesInUse": in_use,
                "conditions": [{"type": "Ready", "status": ready}]}}))
        };
        let of = |node: Node| Seen::of(&node, &volume("ReadWriteOnce"));
        assert_eq!(
            of(node(&["kubernetes.io/csi/d^h"], "True", json!([]))),
            Seen { in_use: true, ready: true, out_of_service: false }
        );
        assert_eq!(of(node(&["kubernetes.io/csi/d^other"], "Unknown", json!([]))), Seen::default());
        let taints = json!([{"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}]);
        assert!(of(node(&[], "Unknown", taints)).out_of_service);
    }

    #[test]
    fn who_waits_is_told_for_whom() {
        let volume = volume("ReadWriteOnce");
        let mut far = pod("far", "a", "Running");
        far.metadata.namespace = Some("other".into());
        let (near, waits) = (pod("near", "a", "Running"), pod("waits", "b", "Pending"));
        let told = |elsewhere: &[&Pod]| multi_attach_message(&volume, &waits, elsewhere);
        let start = "Multi-Attach error for volume \"pv\" Volume is already ";
        assert_eq!(told(&[]), format!("{start}exclusively attached to one node and can't be attached to another"));
        assert_eq!(told(&[&near]), format!("{start}used by pod(s) near"));
        assert_eq!(told(&[&far]), format!("{start}used by 1 pod(s) in different namespaces"));
        assert_eq!(told(&[&near, &far]), format!("{start}used by pod(s) near and 1 pod(s) in different namespaces"));
    }

    #[test]
    fn a_node_has_what_is_attached_and_stays() {
        let volume = volume("ReadWriteOnce");
        let with = |attached: bool| {
            let mut found = volume.attachment("a");
            found.status = Some(object(json!({"attached": attached})));
            found
        };
        let names = |found: &VolumeAttachment| attached([(found, volume.unique_name())].into_iter()).len();
        assert_eq!((names(&with(true)), names(&with(false)), names(&volume.attachment("a"))), (1, 0, 0));
    }
}
