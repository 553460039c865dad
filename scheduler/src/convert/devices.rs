//! Devices: whole ones are the vendors' extended resources, shares are [`GPU_MILLI`], and which ones a
//! pod has is an annotation that its binding writes.

use k8s_openapi::api::core::v1 as k8s;

use gantry_api::policy::room::{self, WHOLE_DEVICES};

use crate::core::resources::GPU_MILLI;
use crate::core::{DEVICES_MAX, DeviceDemand, Resources, WHOLE};

pub use gantry_api::policy::room::DEVICES_ANNOTATION;

fn whole(resources: &Resources) -> impl Iterator<Item = i64> {
    WHOLE_DEVICES.iter().filter_map(|name| resources.extended.get(*name)).copied().filter(|count| *count > 0)
}

/// How many devices a node has. Those of two vendors on one node are not told apart by number, so of
/// such a node nothing is known.
pub fn of_node(allocatable: &Resources) -> u16 {
    let mut counts = whole(allocatable);
    match (counts.next(), counts.next()) {
        (Some(count), None) => u16::try_from(count).unwrap_or(DEVICES_MAX).min(DEVICES_MAX),
        _ => 0,
    }
}

/// The devices that a pod with these requests takes.
pub fn of_pod(requests: &Resources) -> DeviceDemand {
    let share = requests.extended.get(GPU_MILLI).copied().unwrap_or(0);
    let (count, milli) = room::devices(whole(requests).fold(0, i64::saturating_add), share);
    match u16::try_from(milli) {
        Ok(milli) if milli < WHOLE => DeviceDemand::share(milli),
        _ => DeviceDemand::whole(u16::try_from(count).unwrap_or(u16::MAX)),
    }
}

/// The devices that a pod's annotation names; none if that can't be what it was given.
pub fn held(pod: &k8s::Pod, demand: DeviceDemand) -> Vec<u16> {
    let text = pod.metadata.annotations.as_ref().and_then(|annotations| annotations.get(DEVICES_ANNOTATION));
    let held = text.map(|text| room::device_numbers(text)).unwrap_or_default();
    let plausible = held.len() == usize::from(demand.count) && held.iter().all(|number| *number < DEVICES_MAX);
    if plausible { held } else { Vec::new() }
}

/// The annotation's value.
pub fn devices_annotation(devices: &[u16]) -> String {
    devices.iter().map(u16::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn resources(amounts: &[(&str, i64)]) -> Resources {
        let mut resources = Resources::default();
        for (name, amount) in amounts {
            resources.set(name, *amount);
        }
        resources
    }

    #[test]
    fn pods_take_whole_devices_or_a_share() {
        let of = |amounts: &[(&str, i64)]| of_pod(&resources(amounts));
        assert!(of(&[("cpu", 4)]).is_none());
        assert_eq!(of(&[("nvidia.com/gpu", 2)]), DeviceDemand::whole(2));
        assert_eq!(of(&[("amd.com/gpu", 1)]), DeviceDemand::whole(1));
        assert_eq!(of(&[(GPU_MILLI, 460)]), DeviceDemand::share(460));
        assert_eq!(of(&[(GPU_MILLI, 1_000)]), DeviceDemand::whole(1));
        assert_eq!(of(&[(GPU_MILLI, 1_500)]), DeviceDemand::whole(2));
        assert_eq!(of(&[("nvidia.com/gpu", 1), (GPU_MILLI, 300)]), DeviceDemand::whole(2));
        assert_eq!(of(&[("nvidia.com/gpu", 1 << 40)]), DeviceDemand::whole(u16::MAX));
    }

    #[test]
    fn nodes_have_devices_of_one_vendor() {
        let of = |amounts: &[(&str, i64)]| of_node(&resources(amounts));
        assert_eq!(of(&[("nvidia.com/gpu", 8), (GPU_MILLI, 8_000)]), 8);
        assert_eq!(of(&[("nvidia.com/gpu", 1 << 40)]), DEVICES_MAX);
        assert_eq!(of(&[("nvidia.com/gpu", 2), ("amd.com/gpu", 2)]), 0);
        assert_eq!(of(&[(GPU_MILLI, 1_000)]), 0);
    }

    #[test]
    fn what_was_given_is_read_back() {
        let held = |text: &str, demand| {
            let pod = json!({"metadata": {"annotations": {DEVICES_ANNOTATION: text}}});
            super::held(&serde_json::from_value(pod).unwrap(), demand)
        };
        assert_eq!(held(&devices_annotation(&[0, 12]), DeviceDemand::whole(2)), [0, 12]);
        assert_eq!(held("3", DeviceDemand::share(10)), [3]);
        for wrong in ["", "1,1", "0,1,2", "-1,2", "0,256", "a,b"] {
            assert!(held(wrong, DeviceDemand::whole(2)).is_empty(), "{wrong}");
        }
        assert!(held("0", DeviceDemand::default()).is_empty());
    }
}
