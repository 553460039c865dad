//! Who makes pods in numbers, and which pods are theirs: what pods that ask for no spreading are
//! spread by.
//!
//! Kubernetes joins the selectors of the Services that select a pod with that of the controller that
//! owns it; pods that all of it selects are the pod's likes.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use serde::Deserialize;

use super::facts::{ObjectKey, meta};
use super::relist::Known;
use crate::convert;
use crate::core::spec::Operator;
use crate::core::{ClassSpec, PodSelector, Requirement, Spread};

/// The kinds whose selectors count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OwnerKind {
    /// `v1 Service`
    Service,
    /// `v1 ReplicationController`
    ReplicationController,
    /// `apps/v1 ReplicaSet`
    ReplicaSet,
    /// `apps/v1 StatefulSet`
    StatefulSet,
}

impl OwnerKind {
    /// All of them.
    pub const ALL: [OwnerKind; 4] =
        [OwnerKind::Service, OwnerKind::ReplicationController, OwnerKind::ReplicaSet, OwnerKind::StatefulSet];

    fn facts(self) -> (&'static str, &'static str, &'static str) {
        match self {
            OwnerKind::Service => ("", "Service", "services"),
            OwnerKind::ReplicationController => ("", "ReplicationController", "replicationcontrollers"),
            OwnerKind::ReplicaSet => ("apps", "ReplicaSet", "replicasets"),
            OwnerKind::StatefulSet => ("apps", "StatefulSet", "statefulsets"),
        }
    }

    /// The kind's name in the plural.
    pub fn plural(self) -> &'static str {
        self.facts().2
    }

    /// The kind that a reference to a pod's controller names.
    pub fn of_controller(api_version: &str, kind: &str) -> Option<OwnerKind> {
        let mut controllers = OwnerKind::ALL.into_iter().filter(|one| *one != OwnerKind::Service);
        controllers.find(|one| {
            let (group, name, _) = one.facts();
            let version = if group.is_empty() { "v1".into() } else { format!("{group}/v1") };
            name == kind && version == api_version
        })
    }
}

/// An owner as the watch decodes it.
#[derive(Clone, Debug, Deserialize)]
pub struct WatchedOwner {
    #[serde(rename = "metadata", deserialize_with = "meta")]
    meta: ObjectMeta,
    spec: Option<SpecView>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct SpecView {
    selector: Option<SelectorView>,
}

/// Services and ReplicationControllers have plain labels, the others a selector.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum SelectorView {
    Labels(BTreeMap<String, String>),
    Selector(LabelSelector),
}

impl WatchedOwner {
    /// Namespace and name, and the labels that its pods have; `None` selects nothing.
    pub fn into_parts(self) -> (ObjectKey, Option<Vec<Requirement>>) {
        let selector = match self.spec.unwrap_or_default().selector {
            Some(SelectorView::Labels(labels)) => {
                Some(labels.into_iter().map(|(key, value)| equal(key, value)).collect())
            }
            Some(SelectorView::Selector(selector)) => convert::requirements(Some(&selector)),
            None => None,
        };
        ((self.meta.namespace.unwrap_or_default(), self.meta.name.unwrap_or_default()), selector)
    }
}

fn equal(key: String, value: String) -> Requirement {
    Requirement { key, operator: Operator::In, values: vec![value] }
}

impl kube::Resource for WatchedOwner {
    type DynamicType = OwnerKind;
    type Scope = kube::core::DynamicResourceScope;

    fn kind(of: &OwnerKind) -> Cow<'_, str> {
        of.facts().1.into()
    }

    fn group(of: &OwnerKind) -> Cow<'_, str> {
        of.facts().0.into()
    }

    fn version(_: &OwnerKind) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural(of: &OwnerKind) -> Cow<'_, str> {
        of.facts().2.into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

/// The owners of one namespace.
#[derive(Clone, Debug, Default)]
struct Local {
    by_kind: BTreeMap<OwnerKind, BTreeMap<String, Vec<Requirement>>>,
    /// Rises with every change.
    generation: u64,
}

/// All owners.
#[derive(Clone, Debug, Default)]
pub struct Owners {
    known: HashMap<OwnerKind, Known<ObjectKey>>,
    namespaces: HashMap<String, Local>,
    changes: u64,
}

impl Owners {
    /// A list of all of a kind begins.
    pub fn relist(&mut self, kind: OwnerKind) {
        self.known.entry(kind).or_default().relist();
    }

    /// The list of all of a kind is complete.
    pub fn listed(&mut self, kind: OwnerKind) {
        for key in self.known.entry(kind).or_default().listed() {
            self.gone(kind, &key);
        }
    }

    /// One is new or has changed.
    pub fn seen(&mut self, kind: OwnerKind, key: ObjectKey, selector: Option<Vec<Requirement>>) {
        self.known.entry(kind).or_default().saw(&key);
        self.set(kind, &key, selector);
    }

    /// One is gone.
    pub fn gone(&mut self, kind: OwnerKind, key: &ObjectKey) {
        self.known.entry(kind).or_default().gone(key);
        self.set(kind, key, None);
    }

    fn set(&mut self, kind: OwnerKind, (namespace, name): &ObjectKey, selector: Option<Vec<Requirement>>) {
        let local = self.namespaces.entry(namespace.clone()).or_default();
        let owners = local.by_kind.entry(kind).or_default();
        if owners.get(name) == selector.as_ref() {
            return;
        }
        match selector {
            Some(selector) => owners.insert(name.clone(), selector),
            None => owners.remove(name),
        };
        self.changes += 1;
        local.generation = self.changes;
        if local.by_kind.values().all(BTreeMap::is_empty) {
            self.namespaces.remove(namespace);
        }
    }

    /// Changes whenever an owner in the namespace does.
    pub fn generation(&self, namespace: &str) -> u64 {
        self.namespaces.get(namespace).map_or(0, |local| local.generation)
    }

    /// What the pod is spread by, by default: nothing if it says so itself, or has no likes.
    pub fn spread(
        &self,
        class: &ClassSpec,
        controller: Option<&(OwnerKind, String)>,
        defaults: &[Spread],
    ) -> Vec<Spread> {
        let labels = self.likes(class, controller);
        if labels.is_empty() {
            return Vec::new();
        }
        let namespaces = [class.namespace.clone()].into();
        let selector = PodSelector { namespaces, namespace_selector: None, labels: Some(labels) };
        defaults.iter().map(|one| Spread { selector: selector.clone(), ..one.clone() }).collect()
    }

    fn likes(&self, class: &ClassSpec, controller: Option<&(OwnerKind, String)>) -> Vec<Requirement> {
        let Some(local) = self.namespaces.get(&class.namespace) else { return Vec::new() };
        let services = local.by_kind.get(&OwnerKind::Service).into_iter().flatten();
        let selecting = services.map(|(_, selector)| selector).filter(|selector| class.is_selected_by(selector));
        let owner = controller.and_then(|(kind, name)| local.by_kind.get(kind)?.get(name));
        let mut likes: Vec<Requirement> = Vec::new();
        for wanted in selecting.chain(owner).flatten() {
            if !likes.contains(wanted) {
                likes.push(wanted.clone());
            }
        }
        likes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::SpreadMode;
    use serde_json::json;

    fn key(name: &str) -> ObjectKey {
        ("default".to_owned(), name.to_owned())
    }

    fn wants(pairs: &[(&str, &str)]) -> Option<Vec<Requirement>> {
        Some(pairs.iter().map(|(key, value)| equal((*key).into(), (*value).into())).collect())
    }

    fn pod() -> ClassSpec {
        let labels = [("app", "web"), ("hash", "1")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        ClassSpec { namespace: "default".into(), labels: labels.into(), ..ClassSpec::default() }
    }

    fn keys(owners: &Owners, controller: Option<&(OwnerKind, String)>) -> Vec<String> {
        owners.likes(&pod(), controller).into_iter().map(|wanted| wanted.key).collect()
    }

    #[test]
    fn services_and_the_controller_say_together_which_pods_are_alike() {
        let mut owners = Owners::default();
        let set = (OwnerKind::ReplicaSet, "web-1".to_owned());
        assert_eq!(keys(&owners, Some(&set)), [""; 0]);
        owners.seen(OwnerKind::Service, key("web"), wants(&[("app", "web")]));
        owners.seen(OwnerKind::Service, key("other"), wants(&[("app", "db")]));
        owners.seen(OwnerKind::Service, key("headless"), None);
        owners.seen(OwnerKind::ReplicaSet, key("web-1"), wants(&[("app", "web"), ("hash", "1")]));
        assert_eq!(keys(&owners, None), ["app"]);
        assert_eq!(keys(&owners, Some(&set)), ["app", "hash"]);
        let before = owners.generation("default");
        owners.seen(OwnerKind::Service, key("web"), wants(&[("app", "web")]));
        assert_eq!(owners.generation("default"), before, "nothing changed");
        owners.relist(OwnerKind::Service);
        owners.listed(OwnerKind::Service);
        assert!(owners.generation("default") > before);
        assert_eq!(keys(&owners, None), [""; 0]);
        owners.gone(OwnerKind::ReplicaSet, &key("web-1"));
        assert_eq!((keys(&owners, Some(&set)).len(), owners.namespaces.len()), (0, 0));
    }

    #[test]
    fn the_likes_are_spread_as_the_defaults_say() {
        let mut owners = Owners::default();
        owners.seen(OwnerKind::Service, key("web"), wants(&[("app", "web")]));
        let spread = owners.spread(&pod(), None, &crate::config::system_spread());
        let told: Vec<_> = spread.iter().map(|one| (one.topology_key.as_str(), one.max_skew, one.mode)).collect();
        let mode = SpreadMode::Default;
        assert_eq!(told, [("kubernetes.io/hostname", 3, mode), ("topology.kubernetes.io/zone", 5, mode)]);
        assert_eq!(spread[0].selector.labels, wants(&[("app", "web")]));
        assert_eq!(spread[0].selector.namespaces, ["default".to_owned()].into());
    }

    #[test]
    fn selectors_are_read_in_either_form() {
        let read = |spec: serde_json::Value| {
            let owner = json!({"metadata": {"name": "web", "namespace": "default"}, "spec": spec});
            serde_json::from_value::<WatchedOwner>(owner).unwrap().into_parts()
        };
        let app = wants(&[("app", "web")]);
        assert_eq!(read(json!({"selector": {"app": "web"}})), (key("web"), app.clone()));
        assert_eq!(read(json!({"selector": {"matchLabels": {"app": "web"}}})), (key("web"), app));
        assert_eq!(read(json!({"type": "ExternalName"})).1, None);
        let expression = json!({"key": "app", "operator": "In", "values": ["web", "db"]});
        let (_, selector) = read(json!({"selector": {"matchExpressions": [expression]}}));
        assert_eq!(selector.unwrap()[0].values, ["web", "db"]);
        let named = |kind: &str| OwnerKind::of_controller("apps/v1", kind);
        assert_eq!((named("ReplicaSet"), named("Deployment")), (Some(OwnerKind::ReplicaSet), None));
        assert_eq!(OwnerKind::of_controller("v1", "Service"), None);
    }
}
