//! Decides which endpoint slices a service should have, changing as few of those that it has as it can. Pure.
//!
//! In: the service, its pods, the slices there are and the zones of nodes. Out: slices to create, to write and to
//! delete. A slice holds up to [`SLICE_MAX`] endpoints that share one set of ports and one address family.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;

use crate::machinery::context::SERVICE_NAME_LABEL;
use crate::machinery::owners::controller_reference;
use crate::machinery::pods;
use crate::machinery::services::{
    HEADLESS_LABEL, hostname, is_headless, ports, protocol, publishes_unready, target_port,
};

/// The most endpoints in a slice.
pub const SLICE_MAX: usize = 100;
/// The label that says who manages a slice.
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// This controller's name there.
pub const MANAGER: &str = "endpointslice-controller.k8s.io";

/// What is known.
pub struct Observed<'a> {
    /// The service, which has a selector.
    pub service: &'a Service,
    /// The pods that it takes.
    pub pods: &'a [Arc<Pod>],
    /// The slices that this controller manages for it.
    pub slices: &'a [Arc<EndpointSlice>],
    /// The zone of a node.
    pub zone_of: &'a dyn Fn(&str) -> Option<String>,
}

/// What to do.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// Slices to make.
    pub create: Vec<EndpointSlice>,
    /// Slices to write anew.
    pub update: Vec<EndpointSlice>,
    /// Slices to delete.
    pub delete: Vec<Arc<EndpointSlice>>,
}

/// Identifies an endpoint among others: what may change about it without it becoming another is left out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Identity {
    addresses: Vec<String>,
    target: String,
    hostname: String,
}

impl Identity {
    fn of(endpoint: &Endpoint) -> Self {
        let target = endpoint.target_ref.as_ref();
        Identity {
            addresses: endpoint.addresses.clone(),
            target: target.and_then(|t| t.uid.clone()).unwrap_or_default(),
            hostname: endpoint.hostname.clone().unwrap_or_default(),
        }
    }
}

type Wanted = BTreeMap<Identity, Endpoint>;
/// A set of ports as text, for ordering and comparing.
type PortsKey = String;

fn ports_key(ports: &[EndpointPort]) -> PortsKey {
    let mut parts: Vec<String> = ports
        .iter()
        .map(|port| {
            format!(
                "{}/{}/{}/{}",
                port.name.as_deref().unwrap_or_default(),
                port.protocol.as_deref().unwrap_or("TCP"),
                port.port.unwrap_or_default(),
                port.app_protocol.as_deref().unwrap_or_default()
            )
        })
        .collect();
    parts.sort();
    parts.join(",")
}

/// Decides what to do.
pub fn plan(observed: &Observed<'_>) -> Plan {
    let mut plan = Plan::default();
    let families = families(observed.service);
    for family in &families {
        let present: Vec<Arc<EndpointSlice>> =
            observed.slices.iter().filter(|slice| slice.address_type == *family).cloned().collect();
        Family { observed, family, labels: labels(observed.service) }.plan(&present, &mut plan);
    }
    plan.delete.extend(observed.slices.iter().filter(|slice| !families.contains(&slice.address_type)).cloned());
    plan
}

fn families(service: &Service) -> Vec<String> {
    let spec = service.spec.as_ref();
    let listed = spec.and_then(|spec| spec.ip_families.clone()).unwrap_or_default();
    if !listed.is_empty() {
        return listed;
    }
    let address = spec.and_then(|spec| spec.cluster_ip.as_deref());
    let is_v6 = address.and_then(|address| address.parse::<IpAddr>().ok()).is_some_and(|address| address.is_ipv6());
    vec![if is_v6 { "IPv6" } else { "IPv4" }.to_owned()]
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.labels().clone();
    for reserved in [SERVICE_NAME_LABEL, MANAGED_BY, HEADLESS_LABEL] {
        labels.remove(reserved);
    }
    labels.insert(SERVICE_NAME_LABEL.into(), service.name_any());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    if is_headless(service) {
        labels.insert(HEADLESS_LABEL.into(), String::new());
    }
    labels
}

/// The endpoint of a pod; none if it has no address of the family or has ended.
fn endpoint(pod: &Pod, service: &Service, family: &str, zone_of: &dyn Fn(&str) -> Option<String>) -> Option<Endpoint> {
    if pods::is_terminal(pod) {
        return None;
    }
    let fits = |address: &&str| address.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6() == (family == "IPv6"));
    let addresses: Vec<String> = pods::addresses(pod).into_iter().filter(fits).map(str::to_owned).collect();
    if addresses.is_empty() {
        return None;
    }
    let serving = pods::is_ready(pod);
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let node = Some(pods::node_name(pod).to_owned()).filter(|name| !name.is_empty());
    Some(Endpoint {
        addresses,
        conditions: Some(EndpointConditions {
            ready: Some(publishes_unready(service) || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: hostname(pod, service),
        zone: node.as_deref().and_then(zone_of),
        node_name: node,
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: pod.namespace(),
            name: Some(pod.name_any()),
            uid: pod.uid(),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    })
}

fn endpoint_ports(pod: &Pod, service: &Service) -> Vec<EndpointPort> {
    ports(service)
        .iter()
        .filter_map(|port| {
            Some(EndpointPort {
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(target_port(pod, port)?),
                protocol: Some(protocol(port).to_owned()),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect()
}

/// What a slice becomes.
struct Draft {
    slice: Arc<EndpointSlice>,
    endpoints: Vec<Endpoint>,
    changed: bool,
}

/// The slices of one address family.
struct Family<'a> {
    observed: &'a Observed<'a>,
    family: &'a str,
    labels: BTreeMap<String, String>,
}

impl Family<'_> {
    fn plan(&self, present: &[Arc<EndpointSlice>], plan: &mut Plan) {
        let mut wanted: BTreeMap<PortsKey, (Vec<EndpointPort>, Wanted)> = BTreeMap::new();
        let service = self.observed.service;
        for pod in self.observed.pods {
            let made = endpoint(pod, service, self.family, self.observed.zone_of);
            let Some(endpoint) = made else { continue };
            let ports = endpoint_ports(pod, service);
            let group = wanted.entry(ports_key(&ports)).or_insert_with(|| (ports, Wanted::new()));
            group.1.insert(Identity::of(&endpoint), endpoint);
        }
        let mut by_ports: BTreeMap<PortsKey, Vec<Arc<EndpointSlice>>> = BTreeMap::new();
        for slice in present {
            let key = ports_key(slice.ports.as_deref().unwrap_or_default());
            by_ports.entry(key).or_default().push(slice.clone());
        }
        let mut kept = 0;
        let mut obsolete = Vec::new();
        let keys: BTreeSet<PortsKey> = wanted.keys().chain(by_ports.keys()).cloned().collect();
        for key in keys {
            let slices = by_ports.remove(&key).unwrap_or_default();
            let (ports, endpoints) = wanted.remove(&key).unwrap_or_default();
            kept += self.plan_ports(slices, &ports, endpoints, plan, &mut obsolete);
        }
        if kept == 0 {
            self.keep_placeholder(&mut obsolete, plan);
        }
        plan.delete.append(&mut obsolete);
    }

    /// Plans the slices of one set of ports and tells how many there will be.
    fn plan_ports(
        &self,
        slices: Vec<Arc<EndpointSlice>>,
        ports: &[EndpointPort],
        mut wanted: Wanted,
        plan: &mut Plan,
        obsolete: &mut Vec<Arc<EndpointSlice>>,
    ) -> usize {
        let mut drafts: Vec<Draft> = slices.into_iter().map(|slice| keep_what_is_wanted(slice, &mut wanted)).collect();
        let mut new: Vec<Endpoint> = wanted.into_values().collect();
        // Slices that are written anyway are filled first, the fullest before the others.
        drafts.sort_by_key(|draft| (!draft.changed, std::cmp::Reverse(draft.endpoints.len())));
        for draft in drafts.iter_mut().filter(|draft| draft.changed) {
            fill(draft, &mut new);
        }
        // Then the fullest one that takes all the rest.
        if !new.is_empty() {
            let takes_all = |draft: &&mut Draft| !draft.changed && draft.endpoints.len() + new.len() <= SLICE_MAX;
            if let Some(draft) = drafts.iter_mut().find(takes_all) {
                fill(draft, &mut new);
            }
        }
        let mut count = 0;
        for draft in drafts {
            if draft.endpoints.is_empty() {
                obsolete.push(draft.slice);
                continue;
            }
            count += 1;
            let relabelled = draft.slice.labels() != &self.labels;
            if draft.changed || relabelled {
                plan.update.push(EndpointSlice { endpoints: draft.endpoints, ..self.relabelled(&draft.slice) });
            }
        }
        for chunk in new.chunks(SLICE_MAX) {
            count += 1;
            plan.create.push(self.new_slice(ports, chunk.to_vec()));
        }
        count
    }

    /// A service without endpoints has one empty slice, so that one can tell that it was looked after.
    fn keep_placeholder(&self, obsolete: &mut Vec<Arc<EndpointSlice>>, plan: &mut Plan) {
        if obsolete.is_empty() {
            plan.create.push(self.new_slice(&[], Vec::new()));
            return;
        }
        let slice = obsolete.remove(0);
        let is_empty = slice.endpoints.is_empty() && slice.ports.as_ref().is_none_or(Vec::is_empty);
        if !is_empty || slice.labels() != &self.labels {
            plan.update.push(EndpointSlice {
                endpoints: Vec::new(),
                ports: Some(Vec::new()),
                ..self.relabelled(&slice)
            });
        }
    }

    fn relabelled(&self, slice: &EndpointSlice) -> EndpointSlice {
        let mut slice = slice.clone();
        slice.metadata.labels = Some(self.labels.clone());
        slice
    }

    fn new_slice(&self, ports: &[EndpointPort], endpoints: Vec<Endpoint>) -> EndpointSlice {
        let service = self.observed.service;
        EndpointSlice {
            metadata: ObjectMeta {
                generate_name: Some(format!("{}-", service.name_any())),
                namespace: service.namespace(),
                labels: Some(self.labels.clone()),
                owner_references: Some(vec![controller_reference(service)]),
                ..ObjectMeta::default()
            },
            address_type: self.family.to_owned(),
            ports: Some(ports.to_vec()),
            endpoints,
        }
    }
}

fn keep_what_is_wanted(slice: Arc<EndpointSlice>, wanted: &mut Wanted) -> Draft {
    let mut changed = false;
    let mut endpoints = Vec::new();
    for present in &slice.endpoints {
        match wanted.remove(&Identity::of(present)) {
            None => changed = true,
            Some(endpoint) => {
                changed |= endpoint != *present;
                endpoints.push(endpoint);
            }
        }
    }
    Draft { slice, endpoints, changed }
}

fn fill(draft: &mut Draft, new: &mut Vec<Endpoint>) {
    let room = SLICE_MAX.saturating_sub(draft.endpoints.len());
    let taken = room.min(new.len());
    if taken > 0 {
        draft.endpoints.extend(new.drain(..taken));
        draft.changed = true;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn service(spec: Value) -> Service {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "a", "uid": "s", "labels": {"team": "x"}},
            "spec": spec,
        }))
        .unwrap()
    }

    fn http() -> Service {
        service(json!({"selector": {"app": "web"}, "clusterIP": "10.96.0.9",
            "ports": [{"name": "http", "port": 80, "targetPort": "web"}]}))
    }

    fn pod(n: usize, ready: bool) -> Arc<Pod> {
        let ready = if ready { "True" } else { "False" };
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": format!("p{n}"), "namespace": "a", "uid": format!("u{n}"),
                    "labels": {"app": "web"}},
                "spec": {"nodeName": "n1", "containers": [
                    {"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}]},
                "status": {"phase": "Running",
                    "podIPs": [{"ip": format!("10.1.{}.{}", n / 250, n % 250)}],
                    "conditions": [{"type": "Ready", "status": ready}]},
            }))
            .unwrap(),
        )
    }

    fn with(pod: &Arc<Pod>, change: impl FnOnce(&mut Pod)) -> Arc<Pod> {
        let mut pod = Pod::clone(pod);
        change(&mut pod);
        Arc::new(pod)
    }

    fn decide(service: &Service, pods: &[Arc<Pod>], slices: &[Arc<EndpointSlice>]) -> Plan {
        plan(&Observed { service, pods, slices, zone_of: &|node| (node == "n1").then(|| "zone-1".to_owned()) })
    }

    /// Carries a plan out.
    fn apply(slices: &mut Vec<Arc<EndpointSlice>>, plan: Plan, made: &mut usize) {
        for mut slice in plan.create {
            *made += 1;
            slice.metadata.name = Some(format!("web-{made}"));
            slices.push(Arc::new(slice));
        }
        for slice in plan.update {
            let at = slices.iter().position(|s| s.name_any() == slice.name_any());
            slices[at.unwrap()] = Arc::new(slice);
        }
        for gone in plan.delete {
            slices.retain(|slice| slice.name_any() != gone.name_any());
        }
    }

    #[test]
    fn a_slice_says_where_when_and_on_whose_behalf() {
        let plan = decide(&http(), &[pod(1, true)], &[]);
        let [slice] = &plan.create[..] else {
            panic!("{plan:?}");
        };
        assert_eq!(slice.labels()[SERVICE_NAME_LABEL], "web");
        assert_eq!(slice.labels()[MANAGED_BY], MANAGER);
        assert_eq!(slice.labels()["team"], "x");
        assert_eq!(slice.metadata.generate_name.as_deref(), Some("web-"));
        assert_eq!(slice.metadata.owner_references.as_ref().unwrap()[0].uid, "s");
        assert_eq!(slice.address_type, "IPv4");
        let port = &slice.ports.as_ref().unwrap()[0];
        assert_eq!((port.name.as_deref(), port.port), (Some("http"), Some(8080)));
        let endpoint = &slice.endpoints[0];
        assert_eq!(endpoint.addresses, ["10.1.0.1"]);
        assert_eq!(endpoint.node_name.as_deref(), Some("n1"));
        assert_eq!(endpoint.zone.as_deref(), Some("zone-1"));
        assert_eq!(endpoint.target_ref.as_ref().unwrap().uid.as_deref(), Some("u1"));
    }

    fn conditions(service: &Service, pod: &Arc<Pod>) -> (bool, bool, bool) {
        let plan = decide(service, std::slice::from_ref(pod), &[]);
        let conditions = plan.create[0].endpoints[0].conditions.clone().unwrap();
        (conditions.ready.unwrap(), conditions.serving.unwrap(), conditions.terminating.unwrap())
    }

    #[test]
    fn conditions_tell_ready_from_serving_from_terminating() {
        let leaving = with(&pod(1, true), |pod| {
            pod.metadata.deletion_timestamp = Some(crate::machinery::objects::time(jiff::Timestamp::UNIX_EPOCH));
        });
        assert_eq!(conditions(&http(), &pod(1, true)), (true, true, false));
        assert_eq!(conditions(&http(), &pod(1, false)), (false, false, false));
        assert_eq!(conditions(&http(), &leaving), (false, true, true));
        let eager = service(json!({"selector": {"app": "web"}, "publishNotReadyAddresses": true}));
        assert_eq!(conditions(&eager, &pod(1, false)), (true, false, false));
    }

    #[test]
    fn pods_without_address_or_that_ended_are_left_out() {
        let pods = [
            with(&pod(1, true), |pod| pod.status.as_mut().unwrap().pod_ips = None),
            with(&pod(2, true), |pod| {
                pod.status.as_mut().unwrap().phase = Some("Succeeded".into());
            }),
        ];
        let plan = decide(&http(), &pods, &[]);
        assert_eq!(plan.create.len(), 1);
        assert!(plan.create[0].endpoints.is_empty());
        // The placeholder stays as it is.
        let slice = Arc::new(plan.create[0].clone());
        assert_eq!(decide(&http(), &pods, &[slice]), Plan::default());
    }

    #[test]
    fn headless_services_need_no_ports_and_name_their_hosts() {
        let headless = service(json!({"selector": {"app": "web"}, "clusterIP": "None"}));
        let named = with(&pod(1, true), |pod| {
            let spec = pod.spec.as_mut().unwrap();
            spec.hostname = Some("db-0".into());
            spec.subdomain = Some("web".into());
        });
        let plan = decide(&headless, &[named], &[]);
        let slice = &plan.create[0];
        assert!(slice.labels().contains_key(HEADLESS_LABEL));
        assert_eq!(slice.ports.as_deref(), Some(&[][..]));
        assert_eq!(slice.endpoints[0].hostname.as_deref(), Some("db-0"));
    }

    #[test]
    fn one_change_writes_one_slice() {
        let mut pods: Vec<_> = (0..250).map(|n| pod(n, true)).collect();
        let mut slices = Vec::new();
        let mut made = 0;
        apply(&mut slices, decide(&http(), &pods, &[]), &mut made);
        assert_eq!(slices.len(), 3);
        pods[120] = pod(120, false);
        let plan = decide(&http(), &pods, &slices);
        assert_eq!((plan.create.len(), plan.update.len(), plan.delete.len()), (0, 1, 0));
        apply(&mut slices, plan, &mut made);
        // A new pod goes into the slice that has room.
        pods.push(pod(250, true));
        let plan = decide(&http(), &pods, &slices);
        assert_eq!((plan.create.len(), plan.update.len(), plan.delete.len()), (0, 1, 0));
        assert_eq!(plan.update[0].endpoints.len(), 51);
    }

    #[test]
    fn families_and_ports_get_slices_of_their_own() {
        let dual = service(json!({"selector": {"app": "web"}, "ipFamilies": ["IPv4", "IPv6"],
            "ports": [{"name": "http", "port": 80, "targetPort": "web"}]}));
        let six = with(&pod(1, true), |pod| {
            let ip = serde_json::from_value(json!({"ip": "fd00::1"})).unwrap();
            pod.status.as_mut().unwrap().pod_ips.as_mut().unwrap().push(ip);
        });
        let other_port = with(&pod(2, true), |pod| {
            let container = &mut pod.spec.as_mut().unwrap().containers[0];
            container.ports.as_mut().unwrap()[0].container_port = 9090;
        });
        let plan = decide(&dual, &[six, other_port], &[]);
        let mut kinds: Vec<_> =
            plan.create.iter().map(|s| (s.address_type.clone(), s.ports.as_ref().unwrap()[0].port.unwrap())).collect();
        kinds.sort();
        assert_eq!(kinds, [("IPv4".to_owned(), 8080), ("IPv4".to_owned(), 9090), ("IPv6".to_owned(), 8080)]);
        let slices: Vec<_> = plan.create.into_iter().map(Arc::new).collect();
        let single = decide(&http(), &[pod(1, true)], &slices);
        assert!(single.delete.iter().any(|slice| slice.address_type == "IPv6"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        #[test]
        fn slices_hold_each_pod_once_and_come_to_rest(
            rounds in proptest::collection::vec(
                proptest::collection::vec((0usize..320, any::<bool>()), 0..320), 1..5),
        ) {
            let mut slices = Vec::new();
            let mut made = 0;
            for round in rounds {
                let chosen: BTreeMap<usize, bool> = round.into_iter().collect();
                let pods: Vec<_> = chosen.iter().map(|(n, ready)| pod(*n, *ready)).collect();
                let plan = decide(&http(), &pods, &slices);
                apply(&mut slices, plan, &mut made);
                prop_assert_eq!(decide(&http(), &pods, &slices), Plan::default());
                let mut seen = BTreeMap::new();
                for slice in &slices {
                    prop_assert!(slice.endpoints.len() <= SLICE_MAX);
                    for endpoint in &slice.endpoints {
                        let uid = endpoint.target_ref.as_ref().unwrap().uid.clone().unwrap();
                        let ready = endpoint.conditions.as_ref().unwrap().ready.unwrap();
                        prop_assert!(seen.insert(uid, ready).is_none());
                    }
                }
                let expected: BTreeMap<String, bool> =
                    chosen.into_iter().map(|(n, ready)| (format!("u{n}"), ready)).collect();
                prop_assert_eq!(seen, expected);
                prop_assert!(!slices.is_empty());
            }
        }
    }
}
