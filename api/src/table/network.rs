//! How services and their endpoints are printed.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Column, Doc, Printer, Row, age_of, items, name_of, number};
use crate::meta;
use crate::selector::format_labels;

/// How many addresses or ports a cell lists before it counts the rest.
const SHOWN: usize = 3;
const SERVICE_SPEC: &str = "io.k8s.api.core.v1.ServiceSpec";
const SLICE: &str = "io.k8s.api.discovery.v1.EndpointSlice";

pub(super) static SERVICE: Printer = Printer::new(
    &[
        Column::NAME,
        Column::text("Type", Doc::Field(SERVICE_SPEC, "type")),
        Column::text("Cluster-IP", Doc::Field(SERVICE_SPEC, "clusterIP")),
        Column::text("External-IP", Doc::Field(SERVICE_SPEC, "externalIPs")),
        Column::text("Port(s)", Doc::Field(SERVICE_SPEC, "ports")),
        Column::AGE,
        Column::wide("Selector", Doc::Field(SERVICE_SPEC, "selector")),
    ],
    service,
);

fn service(service: &Value, now: Timestamp) -> Row {
    let cluster_ip = items(service, &["spec", "clusterIPs"]).first().and_then(Value::as_str).unwrap_or("<none>");
    let ports: Vec<String> = items(service, &["spec", "ports"]).iter().map(service_port).collect();
    let ports = if ports.is_empty() { "<none>".to_owned() } else { ports.join(",") };
    vec![
        name_of(service),
        json!(meta::str_at(service, &["spec", "type"])),
        json!(cluster_ip),
        json!(external_ip(service)),
        json!(ports),
        age_of(service, now),
        json!(format_labels(meta::get(service, &["spec", "selector"]))),
    ]
    .into()
}

fn service_port(port: &Value) -> String {
    let (number_, protocol) = (number(port, &["port"]), meta::str_at(port, &["protocol"]));
    match number(port, &["nodePort"]) {
        node_port @ 1.. => format!("{number_}:{node_port}/{protocol}"),
        _ => format!("{number_}/{protocol}"),
    }
}

fn external_ip(service: &Value) -> String {
    let mut ips: Vec<&str> = items(service, &["spec", "externalIPs"]).iter().filter_map(Value::as_str).collect();
    match meta::str_at(service, &["spec", "type"]) {
        "ClusterIP" | "NodePort" if ips.is_empty() => "<none>".to_owned(),
        "ClusterIP" | "NodePort" => ips.join(","),
        "LoadBalancer" => {
            let ingress = items(service, &["status", "loadBalancer", "ingress"]).iter();
            let address = |i| super::text_or(i, &["ip"], meta::str_at(i, &["hostname"]));
            let balancer: BTreeSet<&str> = ingress.map(address).filter(|address| !address.is_empty()).collect();
            ips.splice(0..0, balancer);
            if ips.is_empty() { "<pending>".to_owned() } else { ips.join(",") }
        }
        "ExternalName" => meta::str_at(service, &["spec", "externalName"]).to_owned(),
        _ => "<unknown>".to_owned(),
    }
}

pub(super) static ENDPOINTS: Printer = Printer::new(
    &[Column::NAME, Column::text("Endpoints", Doc::Field("io.k8s.api.core.v1.Endpoints", "subsets")), Column::AGE],
    |endpoints, now| vec![name_of(endpoints), json!(subsets(endpoints)), age_of(endpoints, now)].into(),
);

fn subsets(endpoints: &Value) -> String {
    let subsets = items(endpoints, &["subsets"]);
    if subsets.is_empty() {
        return "<none>".to_owned();
    }
    let mut list = Listed::default();
    for subset in subsets {
        let ips = || items(subset, &["addresses"]).iter().map(|address| meta::str_at(address, &["ip"]));
        let ports = items(subset, &["ports"]);
        if ports.is_empty() {
            ips().for_each(|ip| list.add(|| ip.to_owned()));
        }
        for port in ports {
            let port = number(port, &["port"]);
            ips().for_each(|ip| {
                list.add(|| if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") });
            });
        }
    }
    list.text()
}

pub(super) static ENDPOINT_SLICE: Printer = Printer::new(
    &[
        Column::NAME,
        Column::text("AddressType", Doc::Field(SLICE, "addressType")),
        Column::text("Ports", Doc::Field(SLICE, "ports")),
        Column::text("Endpoints", Doc::Field(SLICE, "endpoints")),
        Column::AGE,
    ],
    endpoint_slice,
);

fn endpoint_slice(slice: &Value, now: Timestamp) -> Row {
    let mut ports = Listed::default();
    for port in items(slice, &["ports"]) {
        ports.add(|| match (meta::get(port, &["port"]), meta::get(port, &["name"])) {
            (Some(number), _) => number.to_string(),
            (None, Some(name)) => name.as_str().unwrap_or_default().to_owned(),
            (None, None) => "*".to_owned(),
        });
    }
    let mut addresses = Listed::default();
    for endpoint in items(slice, &["endpoints"]) {
        for address in items(endpoint, &["addresses"]) {
            addresses.add(|| address.as_str().unwrap_or_default().to_owned());
        }
    }
    vec![
        name_of(slice),
        json!(meta::str_at(slice, &["addressType"])),
        json!(ports.text_or_unset()),
        json!(addresses.text_or_unset()),
        age_of(slice, now),
    ]
    .into()
}

/// The first few of many.
#[derive(Default)]
struct Listed {
    shown: Vec<String>,
    count: usize,
}

impl Listed {
    fn add(&mut self, text: impl FnOnce() -> String) {
        if self.shown.len() < SHOWN {
            self.shown.push(text());
        }
        self.count += 1;
    }

    fn text(&self) -> String {
        let text = self.shown.join(",");
        match self.count.saturating_sub(SHOWN) {
            0 => text,
            more => format!("{text} + {more} more..."),
        }
    }

    fn text_or_unset(&self) -> String {
        let text = self.text();
        if text.is_empty() { "<unset>".to_owned() } else { text }
    }
}
