//! Services and their endpoints as one nft ruleset. Pure: facts in, text out.
//!
//! ```text
//! packet ─▶ services: (address, protocol, port) ─▶ one chain a service port ─▶ one chain an endpoint ─▶ dnat
//!                                                     picks one at random
//! ```
//!
//! One verdict map finds the service whatever their number. Packets that would not find
//! their way back (from outside the pod network, through a node port, or from an endpoint
//! to itself) get a mark, and are masqueraded on their way out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::runtime::oci::digest;

/// The bit that asks for masquerading; the one Kubernetes uses.
const MARK: &str = "0x4000";
/// Label of an EndpointSlice that names its service.
const LABEL_SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Namespace and name.
pub type Key = (String, String);

/// Transport protocols that are translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
    /// SCTP
    Sctp,
}

impl Protocol {
    fn parse(text: Option<&str>) -> Option<Self> {
        match text.unwrap_or("TCP") {
            "TCP" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            "SCTP" => Some(Self::Sctp),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    name: String,
    protocol: Protocol,
    port: u16,
    node_port: Option<u16>,
}

/// What counts of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceFacts {
    cluster_ip: Ipv4Addr,
    ports: Vec<ServicePort>,
}

impl ServiceFacts {
    /// The facts, if the service has an address to translate.
    pub fn of(service: &Service) -> Option<Self> {
        let spec = service.spec.as_ref()?;
        if spec.type_.as_deref() == Some("ExternalName") {
            return None;
        }
        let port = |number: i32| u16::try_from(number).ok().filter(|port| *port != 0);
        let ports = spec.ports.iter().flatten().filter_map(|each| {
            Some(ServicePort {
                name: each.name.clone().unwrap_or_default(),
                protocol: Protocol::parse(each.protocol.as_deref())?,
                port: port(each.port)?,
                node_port: each.node_port.and_then(port),
            })
        });
        Some(Self { cluster_ip: spec.cluster_ip.as_deref()?.parse().ok()?, ports: ports.collect() })
    }
}

/// What counts of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceFacts {
    service: Key,
    ports: Vec<(String, Protocol, u16)>,
    ready: Vec<Ipv4Addr>,
    /// On their way out but still answering; used while nothing is ready.
    leaving: Vec<Ipv4Addr>,
}

impl SliceFacts {
    /// The facts, if the slice belongs to a service and has IPv4 addresses.
    pub fn of(slice: &EndpointSlice) -> Option<Self> {
        if slice.address_type != "IPv4" {
            return None;
        }
        let service = slice.metadata.labels.as_ref()?.get(LABEL_SERVICE_NAME)?.clone();
        let namespace = slice.metadata.namespace.clone()?;
        let ports = slice.ports.iter().flatten().filter_map(|each| {
            let port = u16::try_from(each.port?).ok().filter(|port| *port != 0)?;
            Some((each.name.clone().unwrap_or_default(), Protocol::parse(each.protocol.as_deref())?, port))
        });
        let mut facts =
            Self { service: (namespace, service), ports: ports.collect(), ready: Vec::new(), leaving: Vec::new() };
        for endpoint in &slice.endpoints {
            // More than one address of an endpoint means the same; the first is used.
            let Some(address) = endpoint.addresses.first().and_then(|text| text.parse().ok()) else { continue };
            let conditions = endpoint.conditions.clone().unwrap_or_default();
            if conditions.ready.unwrap_or(true) {
                facts.ready.push(address);
            } else if conditions.serving == Some(true) && conditions.terminating == Some(true) {
                facts.leaving.push(address);
            }
        }
        Some(facts)
    }
}

/// What is the same for all services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Name of the nft table.
    pub table: String,
    /// Where this node's pods have their addresses.
    pub pod_cidrs: Vec<String>,
    /// Where pods of all nodes have theirs: what leaves these is masqueraded. If empty, the
    /// node's own are meant.
    pub cluster_cidrs: Vec<String>,
}

/// The text for `nft -f -` that replaces the whole table at once.
pub fn ruleset(
    settings: &Settings,
    services: &BTreeMap<Key, ServiceFacts>,
    slices: &BTreeMap<Key, SliceFacts>,
) -> String {
    let mut by_service: BTreeMap<&Key, Vec<&SliceFacts>> = BTreeMap::new();
    for slice in slices.values() {
        by_service.entry(&slice.service).or_default().push(slice);
    }
    let own = networks(&settings.pod_cidrs);
    let cluster = match networks(&settings.cluster_cidrs) {
        empty if empty.is_empty() => own.clone(),
        given => given,
    };
    let mut parts = Parts { cluster, ..Parts::default() };
    for (key, service) in services {
        let slices = by_service.get(key).map_or(&[][..], Vec::as_slice);
        for port in &service.ports {
            parts.add(key, service.cluster_ip, port, &endpoints(port, slices));
        }
    }
    parts.render(&settings.table, &own)
}

/// Where a service's port leads: ready endpoints, else those that still answer.
fn endpoints(port: &ServicePort, slices: &[&SliceFacts]) -> BTreeSet<(Ipv4Addr, u16)> {
    let collect = |addresses: fn(&SliceFacts) -> &Vec<Ipv4Addr>| {
        let mut found = BTreeSet::new();
        for slice in slices {
            for (name, protocol, number) in &slice.ports {
                if *name == port.name && *protocol == port.protocol {
                    found.extend(addresses(slice).iter().map(|address| (*address, *number)));
                }
            }
        }
        found
    };
    let ready = collect(|slice| &slice.ready);
    if ready.is_empty() { collect(|slice| &slice.leaving) } else { ready }
}

/// The pieces of the table while it is put together.
#[derive(Default)]
struct Parts {
    /// The pod network.
    cluster: String,
    /// (address, protocol, port) → verdict
    services: BTreeMap<(Ipv4Addr, Protocol, u16), String>,
    /// (protocol, port) → verdict
    node_ports: BTreeMap<(Protocol, u16), String>,
    rejected: BTreeSet<(Ipv4Addr, Protocol, u16)>,
    rejected_node_ports: BTreeSet<(Protocol, u16)>,
    chains: String,
}

impl Parts {
    fn add(&mut self, key: &Key, address: Ipv4Addr, port: &ServicePort, endpoints: &BTreeSet<(Ipv4Addr, u16)>) {
        let at = (address, port.protocol, port.port);
        // Two services cannot have one address; should they, the first keeps it.
        if self.services.contains_key(&at) || self.rejected.contains(&at) {
            return;
        }
        if endpoints.is_empty() {
            self.rejected.insert(at);
            self.rejected_node_ports.extend(port.node_port.map(|number| (port.protocol, number)));
            return;
        }
        let id = digest(format!("{}/{}/{}/{}", key.0, key.1, port.protocol.name(), port.port).as_bytes());
        let id = &id["sha256:".len()..][..12];
        let comment = comment(&format!("{}/{}:{}", key.0, key.1, port.port));
        let mut verdicts = Vec::new();
        for (number, (endpoint, target)) in endpoints.iter().enumerate() {
            let chain = format!("endpoint-{id}-{number}");
            let _ = write!(
                self.chains,
                "  chain {chain} {{\n    ip saddr {endpoint} meta mark set meta mark or {MARK}\n    \
                 meta l4proto {} dnat to {endpoint}:{target}\n  }}\n",
                port.protocol.name()
            );
            verdicts.push(format!("{number} : goto {chain}"));
        }
        let _ = write!(self.chains, "  chain service-{id} {{\n    comment \"{comment}\"\n");
        if !self.cluster.is_empty() {
            // Nobody but pods is sure to get the answers by way of this node.
            let _ = writeln!(self.chains, "    ip saddr != {{ {} }} meta mark set meta mark or {MARK}", self.cluster);
        }
        let _ =
            write!(self.chains, "    numgen random mod {} vmap {{ {} }}\n  }}\n", verdicts.len(), verdicts.join(", "));
        self.services.insert(at, format!("goto service-{id}"));
        if let Some(number) = port.node_port {
            let _ = write!(
                self.chains,
                "  chain external-{id} {{\n    meta mark set meta mark or {MARK}\n    goto service-{id}\n  }}\n"
            );
            self.node_ports.insert((port.protocol, number), format!("goto external-{id}"));
        }
    }

    fn render(self, table: &str, own: &str) -> String {
        let mut text = format!("add table ip {table}\ndelete table ip {table}\ntable ip {table} {{\n");
        let by_address =
            |(ip, protocol, port): &(Ipv4Addr, Protocol, u16)| format!("{ip} . {} . {port}", protocol.name());
        let by_port = |(protocol, port): &(Protocol, u16)| format!("{} . {port}", protocol.name());
        const ADDRESS: &str = "ipv4_addr . inet_proto . inet_service";
        const PORT: &str = "inet_proto . inet_service";
        let map = |to: &mut String, name: &str, kind: &str, elements: Vec<String>| {
            let _ = write!(to, "  map {name} {{\n    type {kind} : verdict\n");
            if !elements.is_empty() {
                let _ = write!(to, "    elements = {{\n      {}\n    }}\n", elements.join(",\n      "));
            }
            to.push_str("  }\n");
        };
        text.push_str("  chain refused {\n    meta l4proto tcp reject with tcp reset\n    reject\n  }\n");
        text.push_str(&self.chains);
        let elements = self.services.iter().map(|(at, verdict)| format!("{} : {verdict}", by_address(at)));
        map(&mut text, "services", ADDRESS, elements.collect());
        let elements = self.node_ports.iter().map(|(at, verdict)| format!("{} : {verdict}", by_port(at)));
        map(&mut text, "node-ports", PORT, elements.collect());
        let elements = self.rejected.iter().map(|at| format!("{} : goto refused", by_address(at)));
        map(&mut text, "without-endpoints", ADDRESS, elements.collect());
        let elements = self.rejected_node_ports.iter().map(|at| format!("{} : goto refused", by_port(at)));
        map(&mut text, "node-ports-without-endpoints", PORT, elements.collect());
        text.push_str(&translation(own, &self.cluster));
        text.push_str(FILTERS);
        text.push_str("}\n");
        text
    }
}

/// Services without endpoints refuse connections at once, instead of leaving them hanging.
const FILTERS: &str = "  chain refuse {
    ip daddr . meta l4proto . th dport vmap @without-endpoints
    fib daddr type local meta l4proto . th dport vmap @node-ports-without-endpoints
  }
  chain refuse-input {
    type filter hook input priority -10
    ct state new jump refuse
  }
  chain refuse-forward {
    type filter hook forward priority -10
    ct state new jump refuse
  }
  chain refuse-output {
    type filter hook output priority -10
    ct state new jump refuse
  }
";

/// The base chains that translate.
fn translation(own: &str, cluster: &str) -> String {
    let mut text = String::from(
        "  chain translate {
    ip daddr . meta l4proto . th dport vmap @services
    fib daddr type local meta l4proto . th dport vmap @node-ports
  }
  chain prerouting {
    type nat hook prerouting priority -100
    jump translate
  }
  chain output {
    type nat hook output priority -100
    jump translate
  }
  chain postrouting {
    type nat hook postrouting priority 100
",
    );
    let _ = writeln!(text, "    meta mark & {MARK} == {MARK} masquerade");
    if !own.is_empty() {
        // The world does not know pods' addresses.
        let _ = writeln!(text, "    ip saddr {{ {own} }} ip daddr != {{ {cluster} }} masquerade");
    }
    text.push_str("  }\n");
    text
}

/// The networks as the inside of an nft set. They come from the API: only what is a network
/// gets into the rules.
fn networks(list: &[String]) -> String {
    let valid: BTreeSet<&str> = list.iter().map(String::as_str).filter(|text| is_cidr(text)).collect();
    valid.into_iter().collect::<Vec<_>>().join(", ")
}

fn is_cidr(text: &str) -> bool {
    text.split_once('/').is_some_and(|(address, bits)| {
        address.parse::<Ipv4Addr>().is_ok() && bits.parse::<u8>().is_ok_and(|bits| bits <= 32)
    })
}

/// Only what cannot end the comment.
fn comment(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_alphanumeric() || "-._/:".contains(*c)).take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn service(spec: serde_json::Value) -> Option<ServiceFacts> {
        let object = json!({ "metadata": { "name": "web", "namespace": "shop" }, "spec": spec });
        ServiceFacts::of(&serde_json::from_value(object).unwrap())
    }

    fn slice(endpoints: serde_json::Value) -> SliceFacts {
        let object = json!({
            "metadata": {
                "name": "web-1", "namespace": "shop", "labels": { LABEL_SERVICE_NAME: "web" },
            },
            "addressType": "IPv4",
            "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
            "endpoints": endpoints,
        });
        SliceFacts::of(&serde_json::from_value(object).unwrap()).unwrap()
    }

    fn web() -> ServiceFacts {
        service(json!({
            "clusterIP": "10.96.0.7",
            "ports": [{ "name": "http", "port": 80, "nodePort": 30080, "protocol": "TCP" }],
        }))
        .unwrap()
    }

    fn plan(service: ServiceFacts, slices: Vec<SliceFacts>) -> String {
        let settings = Settings {
            table: "gantry-test".to_owned(),
            pod_cidrs: vec!["10.244.1.0/24".to_owned(), "; drop".to_owned()],
            cluster_cidrs: vec!["10.244.0.0/16".to_owned()],
        };
        let key = |name: &str| ("shop".to_owned(), name.to_owned());
        let services = BTreeMap::from([(key("web"), service)]);
        let slices = slices.into_iter().enumerate().map(|(n, slice)| (key(&format!("web-{n}")), slice));
        ruleset(&settings, &services, &slices.collect())
    }

    #[test]
    fn a_service_leads_to_each_ready_endpoint() {
        let text = plan(
            web(),
            vec![slice(json!([
                { "addresses": ["10.244.1.2"], "conditions": { "ready": true } },
                { "addresses": ["10.244.1.3"] },
                { "addresses": ["10.244.1.4"], "conditions": { "ready": false } },
            ]))],
        );
        assert!(text.contains("10.96.0.7 . tcp . 80 : goto service-"), "{text}");
        assert!(text.contains("tcp . 30080 : goto external-"));
        assert!(text.contains("numgen random mod 2 vmap"));
        assert!(text.contains("dnat to 10.244.1.3:8080"));
        assert!(!text.contains("10.244.1.4"));
        assert!(text.contains("ip saddr { 10.244.1.0/24 } ip daddr != { 10.244.0.0/16 } masquerade"));
        assert!(!text.contains("drop"), "a CIDR that is none must not get into the rules");
    }

    #[test]
    fn endpoints_on_their_way_out_serve_while_nothing_else_does() {
        let leaving = json!([{
            "addresses": ["10.244.1.5"],
            "conditions": { "ready": false, "serving": true, "terminating": true },
        }]);
        let ready = json!([{ "addresses": ["10.244.1.6"] }]);
        assert!(plan(web(), vec![slice(leaving.clone())]).contains("dnat to 10.244.1.5:8080"));
        assert!(!plan(web(), vec![slice(leaving), slice(ready)]).contains("10.244.1.5"));
    }

    #[test]
    fn a_service_without_endpoints_refuses() {
        let text = plan(web(), Vec::new());
        assert!(text.contains("10.96.0.7 . tcp . 80 : goto refused"));
        assert!(text.contains("tcp . 30080 : goto refused"));
        assert!(!text.contains("numgen"));
    }

    #[test]
    fn the_same_facts_give_the_same_text() {
        let slices = || vec![slice(json!([{ "addresses": ["10.244.1.2"] }]))];
        assert_eq!(plan(web(), slices()), plan(web(), slices()));
    }

    #[test]
    fn headless_and_external_services_are_not_translated() {
        assert_eq!(service(json!({ "clusterIP": "None", "ports": [{ "port": 80 }] })), None);
        let external = json!({ "type": "ExternalName", "externalName": "x.example", "clusterIP": "" });
        assert_eq!(service(external), None);
    }
}
