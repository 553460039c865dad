//! The kinds of resource.k8s.io: claims to devices, their classes, and the slices that offer devices.

use serde_json::Value;

use super::field::{at, child, list_mut, set, set_default, text};
use super::rules::{Declared, Field, Rule};
use super::volumes::driver_name;
use super::{names, pod};
use crate::error::FieldError;

const REQUESTS_MAX: usize = 32;
const CONSTRAINTS_MAX: usize = 32;
const CONFIGS_MAX: usize = 32;
const SELECTORS_MAX: usize = 32;
const ALTERNATIVES_MAX: usize = 8;
const EXPRESSION_BYTES_MAX: usize = 10 * 1024;
const PARAMETERS_BYTES_MAX: usize = 10 * 1024;
const POOL_BYTES_MAX: usize = 253;
const RESERVED_MAX: usize = 256;
const DEVICES_MAX: usize = 128;
const DEVICES_WITH_MORE_MAX: usize = 64;
const ATTRIBUTES_MAX: usize = 32;
const ATTRIBUTE_BYTES_MAX: usize = 64;

/// DeviceClass.
pub static DEVICE_CLASS: Declared = Declared {
    generation: true,
    rules: &[
        ("spec", &[Rule::Check(|spec| selectors(&spec.get("selectors")))]),
        ("spec.config", &[Rule::Max(CONFIGS_MAX)]),
        ("spec.config[]", &[Rule::Check(opaque)]),
        (
            "spec.extendedResourceName",
            &[Rule::Check(|name| {
                let extended = name.text().contains('/')
                    && !name.text().contains("kubernetes.io/")
                    && !name.text().starts_with("requests.");
                if !extended || !names::qualified(name.text()).is_empty() {
                    name.invalid("must be a valid extended resource name");
                }
            })],
        ),
    ],
    ..Declared::PLAIN
};

/// ResourceClaim.
pub static RESOURCE_CLAIM: Declared = Declared {
    default: |claim| default_requests(claim, &["spec", "devices"]),
    create: &[("spec", &[Rule::Check(claim_spec)])],
    immutable: &["spec"],
    update: |subresource, old, new| {
        if subresource == "status" {
            claim_status(old, new);
        }
    },
    ..Declared::PLAIN
};

/// ResourceClaimTemplate.
pub static RESOURCE_CLAIM_TEMPLATE: Declared = Declared {
    default: |template| default_requests(template, &["spec", "spec", "devices"]),
    create: &[
        ("spec.metadata.labels", &[Rule::Labels]),
        ("spec", &[Rule::Check(|spec| claim_spec(&spec.get("spec")))]),
    ],
    immutable: &["spec"],
    ..Declared::PLAIN
};

/// ResourceSlice.
pub static RESOURCE_SLICE: Declared = Declared {
    generation: true,
    rules: &[("spec", &[Rule::Always(slice_spec)])],
    immutable: &["spec.pool.name", "spec.driver", "spec.nodeName"],
    ..Declared::PLAIN
};

fn default_requests(object: &mut Value, path: &[&str]) {
    if super::field::deep(object, path).is_none() {
        return;
    }
    let devices = path.iter().fold(object, |value, key| child(value, key));
    for request in list_mut(devices, "requests") {
        if at(request, "exactly").is_some() {
            default_count(child(request, "exactly"));
        }
        list_mut(request, "firstAvailable").iter_mut().for_each(default_count);
    }
}

fn default_count(request: &mut Value) {
    set_default(request, "allocationMode", "ExactCount");
    if text(request, "allocationMode") == "ExactCount" && super::field::int(request, "count").unwrap_or(0) == 0 {
        set(request, "count", 1);
    }
}

fn claim_spec(spec: &Field<'_>) {
    let devices = spec.get("devices");
    let requests = devices.get("requests");
    requests.must(&Rule::Max(REQUESTS_MAX));
    requests.items().for_each(|one| request(&one));
    requests.must(&Rule::Distinct("name"));
    let known = request_names(&devices);
    let constraints = devices.get("constraints");
    constraints.must(&Rule::Max(CONSTRAINTS_MAX));
    for constraint in constraints.items() {
        request_references(&constraint.get("requests"), &known);
        let attribute = constraint.get("matchAttribute");
        attribute.must(&Rule::Required(""));
        if !attribute.is_empty() {
            qualified_attribute(&attribute);
        }
    }
    let configs = devices.get("config");
    configs.must(&Rule::Max(CONFIGS_MAX));
    for config in configs.items() {
        request_references(&config.get("requests"), &known);
        opaque(&config);
    }
}

/// The names of the requests, and of their alternatives behind a slash.
fn request_names(devices: &Field<'_>) -> Vec<String> {
    let mut names = Vec::new();
    for request in devices.get("requests").items() {
        let name = request.text_of("name");
        names.push(name.to_owned());
        for alternative in request.get("firstAvailable").items() {
            names.push(format!("{name}/{}", alternative.text_of("name")));
        }
    }
    names
}

fn request_references(references: &Field<'_>, known: &[String]) {
    references.must(&Rule::Max(REQUESTS_MAX));
    references.items().for_each(|reference| request_reference(&reference, known));
    references.must(&Rule::Distinct(""));
}

fn request_reference(reference: &Field<'_>, known: &[String]) {
    let detail =
        "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
    let segments: Vec<&str> = reference.text().split('/').collect();
    if segments.len() <= 2 {
        for segment in segments {
            for wrong in names::dns1123_label(segment) {
                reference.report(FieldError::invalid(reference.path(), segment, wrong));
            }
        }
    }
    if !known.iter().any(|name| name == reference.text()) {
        reference.invalid(detail);
    }
}

fn label(name: &Field<'_>) {
    names::dns1123_label(name.text()).into_iter().for_each(|detail| name.invalid(detail));
}

fn request(request: &Field<'_>) {
    label(&request.get("name"));
    let (exactly, alternatives) = (request.get("exactly"), request.get("firstAvailable"));
    let one = "exactly one of `exactly` or `firstAvailable` is required";
    match (exactly.is_set(), !alternatives.is_empty()) {
        (false, false) => request.required(one),
        (true, true) => request.report(FieldError::invalid(
            request.path(),
            Value::Null,
            format!("{one}, but multiple fields are set"),
        )),
        (true, false) => wanted(&exactly),
        (false, true) => {
            alternatives.must(&Rule::Max(ALTERNATIVES_MAX));
            for alternative in alternatives.items() {
                label(&alternative.get("name"));
                wanted(&alternative);
            }
            alternatives.must(&Rule::Distinct("name"));
        }
    }
}

fn wanted(request: &Field<'_>) {
    let class = request.get("deviceClassName");
    class.must(&Rule::Required(""));
    class.must(&Rule::Text(names::dns1123_subdomain));
    selectors(&request.get("selectors"));
    let (mode, count) = (request.get("allocationMode"), request.get("count"));
    match mode.text() {
        "All" if count.count() != 0 => count.invalid("must not be specified when allocationMode is 'All'"),
        "All" => {}
        "ExactCount" if count.count() <= 0 => count.invalid("must be greater than zero"),
        "ExactCount" => {}
        _ => mode.unsupported(&["All", "ExactCount"]),
    }
}

fn selectors(selectors: &Field<'_>) {
    selectors.must(&Rule::Max(SELECTORS_MAX));
    for selector in selectors.items() {
        selector.get("cel").must(&Rule::Required(""));
        selector.at("cel.expression").must(&Rule::Max(EXPRESSION_BYTES_MAX));
    }
}

fn opaque(config: &Field<'_>) {
    let opaque = config.get("opaque");
    if !opaque.is_set() {
        opaque.required("");
        return;
    }
    driver_name(&opaque.get("driver"));
    let parameters = opaque.get("parameters");
    match parameters.value() {
        Value::Null => parameters.required(""),
        Value::Object(_) => {}
        _ => {
            parameters.report(FieldError::invalid(parameters.path(), "<value omitted>", "must be a valid JSON object"))
        }
    }
    if parameters.value().to_string().len() > PARAMETERS_BYTES_MAX {
        parameters.report(FieldError::too_long(parameters.path(), PARAMETERS_BYTES_MAX));
    }
}

/// Demands a name with a domain: `dra.example.com/model`.
fn qualified_attribute(name: &Field<'_>) {
    let text = name.text();
    if !text.contains('/') {
        name.invalid("must include a domain");
    }
    attribute_name(name, text);
}

/// A name that may have a domain, and is a C identifier otherwise.
fn attribute_name(at: &Field<'_>, text: &str) {
    let refuse = |shown: &str, detail: &str| at.report(FieldError::invalid(at.path(), shown, detail));
    let (domain, id) = text.split_once('/').map_or((None, text), |(domain, id)| (Some(domain), id));
    match domain {
        Some("") => at.required("the domain must not be empty"),
        Some(domain) => {
            if domain.len() > 63 {
                at.report(FieldError::too_long(at.path(), 63));
            }
            names::dns1123_subdomain(domain).iter().for_each(|detail| refuse(domain, detail));
        }
        None => {}
    }
    let mut bytes = id.bytes();
    let identifier = bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if id.is_empty() {
        at.required("the name must not be empty");
    } else {
        if id.len() > 32 {
            at.report(FieldError::too_long(at.path(), 32));
        }
        if !identifier {
            refuse(
                id,
                "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric \
                 characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is \
                 '[A-Za-z_][A-Za-z0-9_]*')",
            );
        }
    }
}

fn claim_status(old: &Field<'_>, new: &Field<'_>) {
    let status = new.get("status");
    let (reserved, allocation) = (status.get("reservedFor"), status.get("allocation"));
    reserved.must(&Rule::Max(RESERVED_MAX));
    for consumer in reserved.items() {
        for key in ["resource", "name", "uid"] {
            consumer.get(key).must(&Rule::Required(""));
        }
    }
    reserved.must(&Rule::Distinct("uid"));
    if !reserved.is_empty() {
        let before = old.at("status.reservedFor");
        let added = reserved.items().any(|one| !before.items().any(|was| was.value() == one.value()));
        if !allocation.is_set() {
            reserved.forbidden("may not be specified when `allocated` is not set");
        } else if added && new.at("metadata.deletionTimestamp").is_set() {
            reserved
                .forbidden("new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set");
        }
    }
    let before = old.at("status.allocation");
    if before.is_set() && allocation.is_set() {
        allocation.unchanged(&before);
    } else if allocation.is_set() {
        allocation_result(&allocation, &request_names(&new.at("spec.devices")));
    }
    let results = allocation.at("devices.results");
    let mut seen: Vec<[&str; 3]> = Vec::new();
    for device in status.get("devices").items() {
        let id = ["driver", "pool", "device"].map(|key| device.text_of(key));
        if seen.contains(&id) {
            device.duplicate();
        }
        seen.push(id);
        if !results.items().any(|result| ["driver", "pool", "device"].map(|key| result.text_of(key)) == id) {
            let shown = format!("{}/{}/{}", id[0], id[1], id[2]);
            device.report(FieldError::invalid(device.path(), shown, "must be an allocated device in the claim"));
        }
    }
}

fn allocation_result(allocation: &Field<'_>, known: &[String]) {
    let results = allocation.at("devices.results");
    results.must(&Rule::Max(REQUESTS_MAX));
    for result in results.items() {
        request_reference(&result.get("request"), known);
        driver_name(&result.get("driver"));
        pool_name(&result.get("pool"));
        label(&result.get("device"));
    }
    let configs = allocation.at("devices.config");
    configs.must(&Rule::Max(2 * CONFIGS_MAX));
    for config in configs.items() {
        config.get("source").required_one_of(&["FromClaim", "FromClass"], "");
        request_references(&config.get("requests"), known);
        opaque(&config);
    }
    let selector = allocation.get("nodeSelector");
    if selector.is_set() {
        pod::node_selector(selector.value(), selector.path(), &mut selector.errors());
    }
}

fn pool_name(name: &Field<'_>) {
    if name.is_empty() {
        name.required("");
        return;
    }
    name.must(&Rule::Max(POOL_BYTES_MAX));
    for part in name.text().split('/') {
        for detail in names::dns1123_subdomain(part) {
            name.report(FieldError::invalid(name.path(), part, detail));
        }
    }
}

fn slice_spec(spec: &Field<'_>) {
    driver_name(&spec.get("driver"));
    let pool = spec.get("pool");
    pool_name(&pool.get("name"));
    if pool.get("resourceSliceCount").count() <= 0 {
        let count = pool.get("resourceSliceCount");
        count.report(FieldError::invalid(count.path(), count.count(), "must be greater than zero"));
    }
    if pool.get("generation").count() < 0 {
        pool.get("generation").invalid("must be greater than or equal to zero");
    }
    where_it_is(spec);
    if spec.get("sharedCounters").is_set() && spec.get("devices").is_set() {
        spec.report(FieldError::invalid(spec.path(), "", "only one of `sharedCounters` or `devices` is allowed"));
    }
    let devices = spec.get("devices");
    let more = devices.items().any(|d| !d.get("taints").is_empty() || !d.get("consumesCounters").is_empty());
    devices.must(&Rule::Max(if more { DEVICES_WITH_MORE_MAX } else { DEVICES_MAX }));
    devices.items().for_each(|one| device(&one));
    devices.must(&Rule::Distinct("name"));
    for set in spec.get("sharedCounters").items() {
        set.get("name").must(&Rule::Required(""));
        set.get("name").must(&Rule::Text(names::dns1123_label));
        set.get("counters").must(&Rule::Required(""));
    }
    spec.get("sharedCounters").must(&Rule::Distinct("name"));
}

/// Exactly one way to say which nodes can reach the devices.
fn where_it_is(spec: &Field<'_>) {
    let mut ways: Vec<&str> = Vec::new();
    let (node, selector) = (spec.get("nodeName"), spec.get("nodeSelector"));
    if node.is_set() && node.is_empty() {
        node.invalid("must be either unset or set to a non-empty string");
    } else if node.is_set() {
        ways.push("`nodeName`");
        node.must(&Rule::Text(names::dns1123_subdomain));
    }
    if selector.is_set() {
        ways.push("`nodeSelector`");
        pod::node_selector(selector.value(), selector.path(), &mut selector.errors());
        if selector.get("nodeSelectorTerms").len() != 1 {
            selector.get("nodeSelectorTerms").invalid("must have exactly one node selector term");
        }
    }
    for (flag, shown) in [("allNodes", "`allNodes`"), ("perDeviceNodeSelection", "`perDeviceNodeSelection`")] {
        let flag = spec.get(flag);
        if flag.is_true() {
            ways.push(shown);
        } else if flag.is_set() {
            flag.invalid("must be either unset or set to true");
        }
    }
    let one = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    match ways.len() {
        0 => spec.required(one),
        1 => {}
        _ => spec.report(FieldError::invalid(
            spec.path(),
            format!("{{{}}}", ways.join(", ")),
            format!("{one}, but multiple fields are set"),
        )),
    }
}

fn device(device: &Field<'_>) {
    label(&device.get("name"));
    let (attributes, capacity) = (device.get("attributes"), device.get("capacity"));
    let total = attributes.len() + capacity.len();
    if total > ATTRIBUTES_MAX {
        let detail = format!("the total number of attributes and capacities must not exceed {ATTRIBUTES_MAX}");
        device.report(FieldError::invalid(device.path(), total, detail));
    }
    for (name, value) in attributes.entries() {
        attribute_name(&value, name);
        let set: Vec<&str> =
            ["bool", "int", "string", "version"].into_iter().filter(|key| value.get(key).is_set()).collect();
        match set.as_slice() {
            [] => value.required("exactly one value must be specified"),
            [kind @ ("string" | "version")] => value.get(kind).must(&Rule::Max(ATTRIBUTE_BYTES_MAX)),
            [_] => {}
            _ => value.invalid("exactly one value must be specified"),
        }
    }
    for (name, value) in capacity.entries() {
        attribute_name(&value, name);
    }
}
