//! Decides what the Endpoints object of a service says. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, ObjectReference, Pod, Service,
};
use kube::ResourceExt;

use crate::machinery::pods;
use crate::machinery::services::{
    HEADLESS_LABEL, hostname, is_headless, ports, protocol, publishes_unready, target_port,
};

/// The most addresses in an Endpoints object.
const ADDRESSES_MAX: usize = 1000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";

/// An address as an ordered key: the address itself, the pod's UID, and whether it is ready.
type AddressKey = (IpAddr, String, bool);

/// The Endpoints that the service should have. `present` is what it has, whose other metadata is kept.
pub fn plan(service: &Service, pods: &[Arc<Pod>], present: Option<&Endpoints>) -> Endpoints {
    let mut endpoints = present.cloned().unwrap_or_default();
    endpoints.metadata.name = Some(service.name_any());
    endpoints.metadata.namespace = service.namespace();
    let mut labels = service.labels().clone();
    labels.remove(HEADLESS_LABEL);
    if is_headless(service) {
        labels.insert(HEADLESS_LABEL.into(), String::new());
    }
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    endpoints.metadata.labels = Some(labels);
    let mut subsets = subsets(service, pods);
    let truncated = truncate(&mut subsets);
    let annotations = endpoints.metadata.annotations.get_or_insert_default();
    if truncated {
        annotations.insert(OVER_CAPACITY.into(), "truncated".into());
    } else {
        annotations.remove(OVER_CAPACITY);
    }
    if annotations.is_empty() {
        endpoints.metadata.annotations = None;
    }
    endpoints.subsets = Some(subsets).filter(|subsets| !subsets.is_empty());
    endpoints
}

/// Whether this controller wrote these Endpoints.
pub fn is_ours(endpoints: &Endpoints) -> bool {
    let by = endpoints.labels().get(MANAGED_BY);
    by.is_some_and(|by| by == MANAGER)
}

/// Whether two Endpoints say the same.
pub fn same(a: &Endpoints, b: &Endpoints) -> bool {
    let subsets = |e: &Endpoints| e.subsets.clone().unwrap_or_default();
    a.labels() == b.labels()
        && a.annotations().get(OVER_CAPACITY) == b.annotations().get(OVER_CAPACITY)
        && subsets(a) == subsets(b)
}

fn wants_v6(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    let first = spec.and_then(|spec| spec.ip_families.as_ref()?.first().cloned());
    first.as_deref() == Some("IPv6")
}

fn address(pod: &Pod, service: &Service) -> Option<(IpAddr, EndpointAddress)> {
    let v6 = wants_v6(service);
    let ip = pods::addresses(pod)
        .into_iter()
        .filter_map(|address| address.parse::<IpAddr>().ok())
        .find(|ip| ip.is_ipv6() == v6)?;
    let address = EndpointAddress {
        ip: ip.to_string(),
        hostname: hostname(pod, service),
        node_name: Some(pods::node_name(pod).to_owned()).filter(|name| !name.is_empty()),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: pod.namespace(),
            name: Some(pod.name_any()),
            uid: pod.uid(),
            ..ObjectReference::default()
        }),
    };
    Some((ip, address))
}

/// Groups ports that are offered by the same addresses.
fn subsets(service: &Service, pods: &[Arc<Pod>]) -> Vec<EndpointSubset> {
    let publishes = publishes_unready(service);
    let mut addresses: BTreeMap<AddressKey, EndpointAddress> = BTreeMap::new();
    // Ports as (name, number, protocol, application protocol), with who offers them.
    type PortKey = Option<(String, i32, String, Option<String>)>;
    let mut offers: BTreeMap<PortKey, BTreeSet<AddressKey>> = BTreeMap::new();
    for pod in pods {
        let leaving = pod.metadata.deletion_timestamp.is_some();
        if pods::is_terminal(pod) || (leaving && !publishes) {
            continue;
        }
        let Some((ip, address)) = address(pod, service) else {
            continue;
        };
        let ready = publishes || pods::is_ready(pod);
        let key = (ip, pod.uid().unwrap_or_default(), ready);
        addresses.insert(key.clone(), address);
        if ports(service).is_empty() {
            offers.entry(None).or_default().insert(key);
            continue;
        }
        for port in ports(service) {
            let Some(number) = target_port(pod, port) else {
                continue;
            };
            let name = port.name.clone().unwrap_or_default();
            let offered = (name, number, protocol(port).to_owned(), port.app_protocol.clone());
            offers.entry(Some(offered)).or_default().insert(key.clone());
        }
    }
    let mut groups: BTreeMap<BTreeSet<AddressKey>, Vec<EndpointPort>> = BTreeMap::new();
    for (port, keys) in offers {
        let group = groups.entry(keys).or_default();
        if let Some((name, number, protocol, app_protocol)) = port {
            group.push(EndpointPort {
                name: Some(name).filter(|name| !name.is_empty()),
                port: number,
                protocol: Some(protocol),
                app_protocol,
            });
        }
    }
    groups
        .into_iter()
        .map(|(keys, ports)| {
            let pick = |ready: bool| {
                let picked: Vec<EndpointAddress> =
                    keys.iter().filter(|key| key.2 == ready).map(|key| addresses[key].clone()).collect();
                (!picked.is_empty()).then_some(picked)
            };
            EndpointSubset {
                addresses: pick(true),
                not_ready_addresses: pick(false),
                ports: (!ports.is_empty()).then_some(ports),
            }
        })
        .collect()
}

/// Cuts the addresses beyond the limit, the unready ones first.
fn truncate(subsets: &mut Vec<EndpointSubset>) -> bool {
    let mut room = ADDRESSES_MAX;
    let mut truncated = false;
    let mut cut = |list: &mut Option<Vec<EndpointAddress>>| {
        if let Some(addresses) = list {
            truncated |= addresses.len() > room;
            addresses.truncate(room);
            room -= addresses.len();
            if addresses.is_empty() {
                *list = None;
            }
        }
    };
    for subset in subsets.iter_mut() {
        cut(&mut subset.addresses);
    }
    for subset in subsets.iter_mut() {
        cut(&mut subset.not_ready_addresses);
    }
    subsets.retain(|subset| subset.addresses.is_some() || subset.not_ready_addresses.is_some());
    truncated
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(spec: Value) -> Service {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "a", "labels": {"team": "x"}},
            "spec": spec,
        }))
        .unwrap()
    }

    fn pod(n: usize, ready: bool, port_name: &str) -> Arc<Pod> {
        let ready = if ready { "True" } else { "False" };
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": format!("p{n}"), "namespace": "a", "uid": format!("u{n}")},
                "spec": {"nodeName": "n1", "containers": [
                    {"name": "c", "ports": [{"name": port_name, "containerPort": 8080}]}]},
                "status": {"phase": "Running", "podIP": format!("10.1.{}.{}", n / 250, n % 250),
                    "conditions": [{"type": "Ready", "status": ready}]},
            }))
            .unwrap(),
        )
    }

    fn ips(list: &Option<Vec<EndpointAddress>>) -> Vec<String> {
        list.iter().flatten().map(|a| a.ip.clone()).collect()
    }

    #[test]
    fn ready_and_unready_addresses_are_told_apart() {
        let web = service(json!({"ports": [{"port": 80, "targetPort": 8080}]}));
        let pods = [pod(10, true, "web"), pod(9, true, "web"), pod(3, false, "web")];
        let endpoints = plan(&web, &pods, None);
        let subsets = endpoints.subsets.clone().unwrap();
        assert_eq!(subsets.len(), 1);
        assert_eq!(ips(&subsets[0].addresses), ["10.1.0.9", "10.1.0.10"]);
        assert_eq!(ips(&subsets[0].not_ready_addresses), ["10.1.0.3"]);
        assert_eq!(endpoints.labels()["team"], "x");
        assert_eq!(endpoints.labels()[MANAGED_BY], MANAGER);
        assert!(same(&endpoints, &plan(&web, &pods, Some(&endpoints))));
        assert!(!same(&endpoints, &plan(&web, &pods[..2], Some(&endpoints))));
    }

    #[test]
    fn ports_that_only_some_pods_have_form_a_subset_of_their_own() {
        let web = service(json!({"ports": [
            {"name": "a", "port": 80, "targetPort": 8080},
            {"name": "b", "port": 81, "targetPort": "admin"}]}));
        let pods = [pod(1, true, "web"), pod(2, true, "admin")];
        let subsets = plan(&web, &pods, None).subsets.unwrap();
        let view: Vec<_> =
            subsets.iter().map(|s| (ips(&s.addresses), s.ports.as_ref().unwrap()[0].name.clone().unwrap())).collect();
        assert_eq!(view.len(), 2);
        assert!(view.contains(&(vec!["10.1.0.1".into(), "10.1.0.2".into()], "a".into())));
        assert!(view.contains(&(vec!["10.1.0.2".into()], "b".into())));
    }

    #[test]
    fn a_headless_service_without_ports_lists_addresses_only() {
        let headless = service(json!({"clusterIP": "None"}));
        let endpoints = plan(&headless, &[pod(1, true, "web")], None);
        assert!(endpoints.labels().contains_key(HEADLESS_LABEL));
        assert_eq!(endpoints.subsets.unwrap()[0].ports, None);
    }

    #[test]
    fn too_many_addresses_are_cut_and_that_is_said() {
        let web = service(json!({"ports": [{"port": 80}]}));
        let pods: Vec<_> = (0..1100).map(|n| pod(n, n % 2 == 0, "web")).collect();
        let endpoints = plan(&web, &pods, None);
        assert_eq!(endpoints.annotations()[OVER_CAPACITY], "truncated");
        let subset = &endpoints.subsets.as_ref().unwrap()[0];
        assert_eq!(ips(&subset.addresses).len(), 550);
        assert_eq!(ips(&subset.not_ready_addresses).len(), 450);
        let fewer = plan(&web, &pods[..10], Some(&endpoints));
        assert!(!fewer.annotations().contains_key(OVER_CAPACITY));
    }

    #[test]
    fn nothing_behind_a_service_is_no_subset() {
        assert_eq!(plan(&service(json!({})), &[], None).subsets, None);
    }
}
