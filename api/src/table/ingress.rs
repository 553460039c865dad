//! How the kinds of networking.k8s.io are printed.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Column, Doc, Printer, Show, items};
use crate::meta;

/// More hosts than these are only counted.
const HOSTS_MAX: usize = 3;

pub(super) static INGRESS: Printer = Printer::each(&[
    (Column::NAME, Show::Name),
    (
        Column::text(
            "Class",
            Doc::Text("The name of the IngressClass resource that should be used for additional configuration"),
        ),
        Show::Text(&["spec", "ingressClassName"], "<none>"),
    ),
    (
        Column::text("Hosts", Doc::Text("Hosts that incoming requests are matched against before the ingress rule")),
        Show::With(|ingress, _| json!(hosts(items(ingress, &["spec", "rules"])))),
    ),
    (
        Column::text("Address", Doc::Text("Address is a list containing ingress points for the load-balancer")),
        Show::With(|ingress, _| {
            let points = items(ingress, &["status", "loadBalancer", "ingress"]).iter();
            let address = |point: &Value| match meta::str_at(point, &["ip"]) {
                "" => meta::str_at(point, &["hostname"]).to_owned(),
                ip => ip.to_owned(),
            };
            let all: BTreeSet<String> = points.map(address).filter(|text| !text.is_empty()).collect();
            json!(all.into_iter().collect::<Vec<_>>().join(","))
        }),
    ),
    (
        Column::text("Ports", Doc::Text("Ports of TLS configurations that open")),
        Show::With(|ingress, _| json!(if items(ingress, &["spec", "tls"]).is_empty() { "80" } else { "80, 443" })),
    ),
    (Column::AGE, Show::Age),
]);

fn hosts(rules: &[Value]) -> String {
    let named: Vec<&str> =
        rules.iter().map(|rule| meta::str_at(rule, &["host"])).filter(|host| !host.is_empty()).collect();
    if named.is_empty() {
        return "*".to_owned();
    }
    let shown = named[..named.len().min(HOSTS_MAX)].join(",");
    if named.len() > HOSTS_MAX { format!("{shown} + {} more...", rules.len() - HOSTS_MAX) } else { shown }
}

pub(super) static INGRESS_CLASS: Printer = Printer::each(&[
    (Column::NAME, Show::Name),
    (
        Column::text("Controller", Doc::Text("Controller that is responsible for handling this class")),
        Show::Text(&["spec", "controller"], ""),
    ),
    (
        Column::text("Parameters", Doc::Text("A reference to a resource with additional parameters")),
        Show::With(|class, _| {
            let text = |key: &str| meta::str_at(class, &["spec", "parameters", key]);
            json!(match (text("kind"), text("apiGroup")) {
                ("", _) => "<none>".to_owned(),
                (kind, "") => format!("{kind}/{}", text("name")),
                (kind, group) => format!("{kind}.{group}/{}", text("name")),
            })
        }),
    ),
    (Column::AGE, Show::Age),
]);

pub(super) static NETWORK_POLICY: Printer = Printer::each(&[
    (Column::NAME, Show::Name),
    (
        Column::text("Pod-Selector", Doc::Field("io.k8s.api.networking.v1.NetworkPolicySpec", "podSelector")),
        Show::Selector(&["spec", "podSelector"]),
    ),
    (Column::AGE, Show::Age),
]);

pub(super) static SERVICE_CIDR: Printer = Printer::each(&[
    (Column::NAME, Show::Name),
    (
        Column::text("CIDRs", Doc::Field("io.k8s.api.networking.v1.ServiceCIDRSpec", "cidrs")),
        Show::Joined(&["spec", "cidrs"], ""),
    ),
    (Column::AGE, Show::Age),
]);

pub(super) static IP_ADDRESS: Printer = Printer::each(&[
    (Column::NAME, Show::Name),
    (
        Column::text("ParentRef", Doc::Field("io.k8s.api.networking.v1.IPAddressSpec", "parentRef")),
        Show::With(|address, _| {
            let text = |key: &str| meta::str_at(address, &["spec", "parentRef", key]);
            if text("resource").is_empty() {
                return json!("<none>");
            }
            let mut shown = text("resource").to_lowercase();
            if !text("group").is_empty() {
                shown.push('.');
                shown.push_str(&text("group").to_lowercase());
            }
            for part in [text("namespace"), text("name")].iter().filter(|part| !part.is_empty()) {
                shown.push('/');
                shown.push_str(part);
            }
            json!(shown)
        }),
    ),
    (Column::AGE, Show::Age),
]);
