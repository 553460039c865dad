//! The quality-of-service class of a pod.

use serde_json::Value;

use crate::quantity::Quantity;
use crate::strategy::field::{at, entries, list};

/// The resources that decide the class.
const COMPUTE: [&str; 2] = ["cpu", "memory"];

/// `Guaranteed`, `Burstable` or `BestEffort`.
pub fn qos_class(spec: &Value) -> &'static str {
    if let Some(resources) = at(spec, "resources")
        && (amounts(resources, "requests").next().is_some() || amounts(resources, "limits").next().is_some())
    {
        return if is_guaranteed(resources) { "Guaranteed" } else { "Burstable" };
    }
    let containers = || list(spec, "initContainers").iter().chain(list(spec, "containers"));
    let none = Value::Null;
    let resources = || containers().map(|c| at(c, "resources").unwrap_or(&none));
    if resources().all(|r| amounts(r, "requests").next().is_none() && amounts(r, "limits").next().is_none()) {
        return "BestEffort";
    }
    if resources().all(is_guaranteed) { "Guaranteed" } else { "Burstable" }
}

/// The compute amounts that are more than nothing.
fn amounts<'v>(resources: &'v Value, field: &str) -> impl Iterator<Item = (&'v str, Quantity)> {
    entries(resources, field)
        .filter(|(name, _)| COMPUTE.contains(&name.as_str()))
        .filter_map(|(name, value)| Some((name.as_str(), Quantity::from_value(value).ok()?)))
        .filter(|(_, amount)| amount.signum() > 0)
}

/// Limits on all compute resources, and requests equal to them.
fn is_guaranteed(resources: &Value) -> bool {
    COMPUTE.iter().all(|name| {
        let find = |field| amounts(resources, field).find(|(n, _)| n == name).map(|(_, amount)| amount);
        match (find("limits"), find("requests")) {
            (Some(limit), Some(request)) => limit == request,
            (Some(_), None) => true,
            _ => false,
        }
    })
}
