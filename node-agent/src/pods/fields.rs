//! Values of a pod's own fields, for environment variables and downward API files. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use gantry_api::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, ObjectFieldSelector, Pod, ResourceFieldSelector};

use super::resources::{Amounts, amount};
use super::spec;

/// What a field may refer to besides the pod's own object.
#[derive(Clone, Debug)]
pub struct Surroundings<'a> {
    /// The node's addresses.
    pub host_ips: &'a [IpAddr],
    /// The pod's addresses; empty before it has a sandbox.
    pub pod_ips: &'a [IpAddr],
    /// The node's name.
    pub node_name: &'a str,
    /// What the node can give to pods: the limit of a container that has none.
    pub allocatable: &'a Amounts,
}

fn joined(ips: &[IpAddr]) -> String {
    ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// The value of a `fieldRef`.
pub fn field(pod: &Pod, around: &Surroundings<'_>, selector: &ObjectFieldSelector) -> Result<String, String> {
    let path = selector.field_path.as_str();
    if let Some((map, key)) = subscript(path) {
        let map = match map {
            "metadata.labels" => pod.metadata.labels.as_ref(),
            "metadata.annotations" => pod.metadata.annotations.as_ref(),
            _ => return Err(format!("unsupported fieldPath: {path}")),
        };
        return Ok(map.and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    let pod_ips = if spec::host_network(pod) { around.host_ips } else { around.pod_ips };
    Ok(match path {
        "metadata.name" => pod.metadata.name.clone().unwrap_or_default(),
        "metadata.namespace" => pod.metadata.namespace.clone().unwrap_or_default(),
        "metadata.uid" => pod.metadata.uid.clone().unwrap_or_default(),
        "metadata.labels" => format_map(pod.metadata.labels.as_ref()),
        "metadata.annotations" => format_map(pod.metadata.annotations.as_ref()),
        "spec.nodeName" => around.node_name.to_owned(),
        "spec.serviceAccountName" => spec::spec(pod).service_account_name.clone().unwrap_or_default(),
        "status.hostIP" => around.host_ips.first().map(ToString::to_string).unwrap_or_default(),
        "status.hostIPs" => joined(around.host_ips),
        "status.podIP" => pod_ips.first().map(ToString::to_string).unwrap_or_default(),
        "status.podIPs" => joined(pod_ips),
        _ => return Err(format!("unsupported fieldPath: {path}")),
    })
}

fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    Some((map, rest.strip_suffix("']")?))
}

/// `key="value"` lines, sorted, values quoted.
fn format_map(map: Option<&BTreeMap<String, String>>) -> String {
    let lines = map.into_iter().flatten().map(|(key, value)| format!("{key}={}", quote(value)));
    lines.collect::<Vec<_>>().join("\n")
}

/// As Go's `%q` writes a string.
fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The value of a `resourceFieldRef`; `container` is the one that asks.
pub fn resource(
    pod: &Pod,
    around: &Surroundings<'_>,
    container: Option<&Container>,
    selector: &ResourceFieldSelector,
) -> Result<String, String> {
    let named = selector.container_name.as_deref().filter(|name| !name.is_empty());
    let container = match named {
        Some(name) => {
            let found = spec::container(pod, name).map(|container| container.spec);
            Some(found.ok_or_else(|| format!("container {name} not found"))?)
        }
        None => container,
    };
    let container = container.ok_or("a container name is required")?;
    let unsupported = || format!("unsupported container resource : {}", selector.resource);
    let (list, name) = selector.resource.split_once('.').ok_or_else(unsupported)?;
    let resources = container.resources.as_ref();
    let limit = resources.and_then(|r| r.limits.as_ref()).and_then(|list| list.get(name));
    let request = resources.and_then(|r| r.requests.as_ref()).and_then(|list| list.get(name));
    let value = match list {
        "limits" => match limit {
            Some(quantity) => amount(name, quantity),
            None => around.allocatable.get(name).copied().unwrap_or(0),
        },
        "requests" => request.map_or(0, |quantity| amount(name, quantity)),
        _ => return Err(unsupported()),
    };
    let divisor = selector.divisor.as_ref().and_then(|divisor| Quantity::parse(&divisor.0).ok());
    let divisor = divisor.filter(|divisor| !divisor.is_zero()).unwrap_or(Quantity::from_milli(1000));
    let divisor = if name == "cpu" { divisor.milli_value() } else { divisor.value() }.max(1);
    // Rounded up: an application must not think it has nothing.
    Ok(value.saturating_add(divisor - 1).div_euclid(divisor).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_annotations_and_limits() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "labels": {"b": "x\"y", "a": "1"}},
            "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "1500m", "memory": "64Mi"}}}]}
        }))
        .unwrap();
        let allocatable = Amounts::from([("cpu".to_owned(), 4000)]);
        let around = Surroundings { host_ips: &[], pod_ips: &[], node_name: "n", allocatable: &allocatable };
        let at =
            |path: &str| field(&pod, &around, &ObjectFieldSelector { field_path: path.into(), ..Default::default() });
        assert_eq!(at("metadata.labels['a']").unwrap(), "1");
        assert_eq!(at("metadata.labels").unwrap(), "a=\"1\"\nb=\"x\\\"y\"");
        assert!(at("spec.nope").is_err());
        let container = &pod.spec.as_ref().unwrap().containers[0];
        let of = |name: &str, divisor: &str| {
            let selector = serde_json::json!({"resource": name, "divisor": divisor});
            resource(&pod, &around, Some(container), &serde_json::from_value(selector).unwrap()).unwrap()
        };
        assert_eq!(of("limits.cpu", "0"), "2");
        assert_eq!(of("limits.cpu", "1m"), "1500");
        assert_eq!(of("limits.memory", "1Mi"), "64");
        assert_eq!(of("requests.cpu", "1"), "0");
    }
}
