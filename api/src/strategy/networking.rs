//! The kinds of networking.k8s.io.

use serde_json::{Value, json};

use super::field::{at, child, deep, list, set};
use super::names::{self, NameRule};
use super::rules::{Declared, Field, Rule};
use crate::error::FieldError;

const CONTROLLER_BYTES_MAX: usize = 250;
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const PATH_PARTS: [&str; 5] = ["//", "/./", "/../", "%2f", "%2F"];
const PATH_ENDS: [&str; 2] = ["/..", "/."];

/// Ingress.
pub static INGRESS: Declared = Declared {
    generation: true,
    rules: &[
        (
            "spec",
            &[Rule::Check(|spec| {
                let rules = spec.get("rules");
                if rules.is_empty() && !spec.get("defaultBackend").is_set() {
                    let detail = "either `defaultBackend` or `rules` must be specified";
                    spec.report(FieldError::invalid(spec.path(), rules.value().clone(), detail));
                }
            })],
        ),
        ("spec.defaultBackend", &[Rule::Check(backend)]),
        ("spec.rules[].host", &[Rule::Check(host)]),
        ("spec.rules[].http.paths", &[Rule::Required("")]),
        ("spec.rules[].http.paths[]", &[Rule::Check(http_path)]),
        ("spec.tls[].hosts[]", &[Rule::Check(host_name)]),
        ("spec.tls[].secretName", &[Rule::Text(names::dns1123_subdomain)]),
        (
            "spec.ingressClassName",
            &[Rule::Check(|class| {
                names::dns1123_subdomain(class.text()).into_iter().for_each(|detail| class.invalid(detail));
            })],
        ),
    ],
    create: &[(
        "",
        &[Rule::Check(|ingress| {
            let annotation = ingress.at("metadata.annotations").get(CLASS_ANNOTATION);
            let class = ingress.at("spec.ingressClassName");
            if annotation.is_set() && class.is_set() && annotation.text() != class.text() {
                let told = annotation.told_at(format!("annotations.{CLASS_ANNOTATION}"));
                told.invalid("must match `ingressClassName` when both are specified");
            }
        })],
    )],
    status: &[
        ("status.loadBalancer.ingress[].ip", &[Rule::Text(names::ip)]),
        (
            "status.loadBalancer.ingress[].hostname",
            &[Rule::Text(|name| {
                let mut wrong = names::dns1123_subdomain(name);
                if names::ip(name).is_empty() {
                    wrong.push("must be a DNS name, not an IP address".to_owned());
                }
                wrong
            })],
        ),
    ],
    warnings: |ingress| {
        if deep(ingress, &["metadata", "annotations", CLASS_ANNOTATION]).is_some() {
            vec![format!("annotation {CLASS_ANNOTATION:?} is deprecated, please use 'spec.ingressClassName' instead")]
        } else {
            Vec::new()
        }
    },
    ..Declared::PLAIN
};

/// IngressClass.
pub static INGRESS_CLASS: Declared = Declared {
    generation: true,
    rules: &[
        ("spec.controller", &[Rule::Max(CONTROLLER_BYTES_MAX), Rule::Always(names::domain_prefixed_path)]),
        ("spec.parameters", &[Rule::Check(class_parameters)]),
    ],
    immutable: &["spec.controller"],
    ..Declared::PLAIN
};

/// NetworkPolicy.
pub static NETWORK_POLICY: Declared = Declared {
    generation: true,
    default: |object| {
        if at(object, "spec").is_none() {
            return;
        }
        let spec = child(object, "spec");
        if list(spec, "policyTypes").is_empty() {
            let both = !list(spec, "egress").is_empty();
            set(spec, "policyTypes", if both { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) });
        }
    },
    rules: &[
        ("spec.podSelector", &[Rule::Selector]),
        ("spec.ingress[].ports[]", &[Rule::Check(policy_port)]),
        ("spec.ingress[].from[]", &[Rule::Check(policy_peer)]),
        ("spec.egress[].ports[]", &[Rule::Check(policy_port)]),
        ("spec.egress[].to[]", &[Rule::Check(policy_peer)]),
        (
            "spec.policyTypes",
            &[Rule::Check(|types| {
                if types.len() > 2 {
                    types.invalid("may not specify more than two policyTypes");
                } else {
                    types.items().for_each(|one| one.one_of(&["Ingress", "Egress"]));
                }
            })],
        ),
    ],
    ..Declared::PLAIN
};

/// IPAddress.
pub static IP_ADDRESS: Declared = Declared {
    names: NameRule::IpAddress,
    rules: &[
        ("spec.parentRef", &[Rule::Required("")]),
        ("spec.parentRef.group", &[Rule::Text(names::dns1123_subdomain)]),
        (
            "spec.parentRef",
            &[Rule::Check(|parent| {
                for key in ["resource", "name"] {
                    parent.get(key).must(&Rule::Required(""));
                    parent.get(key).must(&Rule::Text(names::segment));
                }
                parent.get("namespace").must(&Rule::Text(names::segment));
            })],
        ),
    ],
    immutable: &["spec.parentRef"],
    ..Declared::PLAIN
};

/// ServiceCIDR.
pub static SERVICE_CIDR: Declared = Declared {
    create: &[("spec.cidrs", &[Rule::Always(service_cidrs)])],
    update: |subresource, old, new| {
        if !subresource.is_empty() {
            return;
        }
        let (was, is) = (old.at("spec.cidrs"), new.at("spec.cidrs"));
        match (was.len(), is.len()) {
            // A range of the other family may be added.
            (before, after) if before == after || (before, after) == (1, 2) => {
                for (before, after) in was.items().zip(is.items()) {
                    after.unchanged(&before);
                }
                if before != after {
                    service_cidrs(&is);
                }
            }
            _ => is.invalid("field is immutable"),
        }
    },
    ..Declared::PLAIN
};

fn host_name(host: &Field<'_>) {
    let wrong = if host.text().contains('*') { names::wildcard_subdomain } else { names::dns1123_subdomain };
    wrong(host.text()).into_iter().for_each(|detail| host.invalid(detail));
}

fn host(host: &Field<'_>) {
    if host.is_empty() {
        return;
    }
    if names::ip(host.text()).is_empty() {
        host.invalid("must be a DNS name, not an IP address");
    }
    host_name(host);
}

fn http_path(path: &Field<'_>) {
    let kind = path.get("pathType");
    if !kind.is_set() {
        kind.required("pathType must be specified");
        return;
    }
    let route = path.get("path");
    let relative = !route.text().starts_with('/');
    let told = if route.is_set() { route.clone() } else { route.with(&EMPTY) };
    match kind.text() {
        "Exact" | "Prefix" => {
            if relative {
                told.invalid("must be an absolute path");
            }
            for part in PATH_PARTS.iter().filter(|part| route.text().contains(**part)) {
                route.invalid(format!("must not contain '{part}'"));
            }
            for end in PATH_ENDS.iter().filter(|end| route.text().ends_with(**end)) {
                route.invalid(format!("cannot end with '{end}'"));
            }
        }
        "ImplementationSpecific" if relative && !route.is_empty() => route.invalid("must be an absolute path"),
        "ImplementationSpecific" => {}
        _ => kind.unsupported(&["Exact", "ImplementationSpecific", "Prefix"]),
    }
    backend(&path.get("backend"));
}

static EMPTY: Value = Value::String(String::new());

fn backend(backend: &Field<'_>) {
    let (resource, service) = (backend.get("resource"), backend.get("service"));
    let refuse = |detail: &str| backend.report(FieldError::invalid(backend.path(), "", detail));
    match (resource.is_set(), service.is_set()) {
        (true, true) => refuse("cannot set both resource and service backends"),
        (true, false) => local_reference(&resource),
        (false, true) => {
            let name = service.get("name");
            name.must(&Rule::Required(""));
            name.must(&Rule::Text(names::dns1035_label));
            let (port_name, number) = (service.at("port.name"), service.at("port.number"));
            match (!port_name.is_empty(), number.count() != 0) {
                (true, true) => refuse("cannot set both port name & port number"),
                (true, false) => port_name.must(&Rule::Text(names::port_name)),
                (false, true) => {
                    names::port_number(number.count()).into_iter().for_each(|detail| number.invalid(detail));
                }
                (false, false) => backend.required("port name or number is required"),
            }
        }
        (false, false) => refuse("resource or service backend is required"),
    }
}

fn local_reference(reference: &Field<'_>) {
    let group = reference.get("apiGroup");
    if group.is_set() {
        names::dns1123_subdomain(group.text()).into_iter().for_each(|detail| group.invalid(detail));
    }
    for key in ["kind", "name"] {
        reference.get(key).must(&Rule::Required(""));
        reference.get(key).must(&Rule::Text(names::segment));
    }
}

fn class_parameters(parameters: &Field<'_>) {
    local_reference(parameters);
    let (scope, namespace) = (parameters.get("scope"), parameters.get("namespace"));
    match scope.text() {
        "Namespace" if !namespace.is_set() => namespace.required("`parameters.scope` is set to 'Namespace'"),
        "Namespace" => {
            names::dns1123_label(namespace.text()).into_iter().for_each(|detail| namespace.invalid(detail));
        }
        "Cluster" if namespace.is_set() => namespace.forbidden("`parameters.scope` is set to 'Cluster'"),
        "Cluster" => {}
        "" => scope.required(""),
        _ => scope.unsupported(&["Cluster", "Namespace"]),
    }
}

fn policy_port(port: &Field<'_>) {
    port.get("protocol").must(&Rule::OneOf(&["TCP", "UDP", "SCTP"]));
    let (number, end) = (port.get("port"), port.get("endPort"));
    match number.value() {
        Value::Null if end.is_set() => end.invalid("may not be specified when `port` is not specified"),
        Value::Null => {}
        Value::String(name) => {
            if end.is_set() {
                end.invalid("may not be specified when `port` is non-numeric");
            }
            names::port_name(name).into_iter().for_each(|detail| number.invalid(detail));
        }
        _ => {
            names::port_number(number.count()).into_iter().for_each(|detail| number.invalid(detail));
            if end.is_set() {
                if end.count() < number.count() {
                    number.told_at(end.path()).invalid("must be greater than or equal to `port`");
                }
                names::port_number(end.count()).into_iter().for_each(|detail| end.invalid(detail));
            }
        }
    }
}

fn policy_peer(peer: &Field<'_>) {
    let (pods, namespaces, block) = (peer.get("podSelector"), peer.get("namespaceSelector"), peer.get("ipBlock"));
    for selector in [&pods, &namespaces] {
        selector.must(&Rule::Selector);
    }
    if block.is_set() {
        ip_block(&block);
    }
    match (pods.is_set() || namespaces.is_set(), block.is_set()) {
        (false, false) => peer.required("must specify a peer"),
        (true, true) => peer.forbidden("may not specify both ipBlock and another peer"),
        _ => {}
    }
}

fn ip_block(block: &Field<'_>) {
    let whole = block.get("cidr");
    whole.must(&Rule::Required(""));
    whole.must(&Rule::Text(names::cidr));
    let Some((address, bits)) = names::parse_cidr(whole.text()) else { return };
    for except in block.get("except").items() {
        names::cidr(except.text()).into_iter().for_each(|detail| except.invalid(detail));
        let Some((part, part_bits)) = names::parse_cidr(except.text()) else { continue };
        let inside = part.is_ipv4() == address.is_ipv4() && names::mask(part, bits) == names::mask(address, bits);
        if !inside || bits >= part_bits {
            except.invalid("must be a strict subset of `cidr`");
        }
    }
}

fn service_cidrs(cidrs: &Field<'_>) {
    match cidrs.len() {
        0 => cidrs.required("at least one CIDR required"),
        1 | 2 => {
            for cidr in cidrs.items() {
                names::canonical_cidr(cidr.text()).into_iter().for_each(|detail| cidr.invalid(detail));
            }
            let families: Vec<bool> =
                cidrs.items().filter_map(|cidr| Some(names::parse_cidr(cidr.text())?.0.is_ipv4())).collect();
            if families.len() == 2 && families[0] == families[1] {
                cidrs.invalid(
                    "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64",
                );
            }
        }
        _ => cidrs.invalid("may only hold up to 2 values"),
    }
}
