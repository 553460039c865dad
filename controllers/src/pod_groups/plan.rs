//! Decides what a group's status says. In: the group, its pods and the time. Out: the status. No I/O.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::kind::{PodGroup, PodGroupStatus};
use crate::machinery::owners::controller_of;
use crate::machinery::pods;

/// The status of a group with these pods, which are all that name it.
pub fn plan(group: &PodGroup, all: &[Arc<Pod>], now: Timestamp) -> PodGroupStatus {
    let count = |is: &dyn Fn(&Pod) -> bool| i32::try_from(all.iter().filter(|pod| is(pod)).count()).unwrap_or(i32::MAX);
    let phase = |wanted: &'static str| move |pod: &Pod| pods::phase(pod) == wanted;
    let (running, succeeded, failed) = (count(&phase("Running")), count(&phase("Succeeded")), count(&phase("Failed")));
    let scheduled = count(&|pod| !pods::node_name(pod).is_empty() && !pods::is_terminal(pod));
    let wanted = group.spec.min_member;
    let enough = i32::try_from(all.len()).unwrap_or(i32::MAX) >= wanted;
    let before = &group.status;
    let phase = if all.is_empty() && matches!(before.phase.as_str(), "Finished" | "Failed") {
        // What has ended stays so when its pods are cleared away.
        return before.clone();
    } else if !enough {
        "Pending"
    } else if succeeded >= wanted {
        "Finished"
    } else if failed > 0 && failed + running + succeeded >= wanted {
        "Failed"
    } else if running + succeeded >= wanted {
        "Running"
    } else if scheduled + succeeded >= wanted {
        "Scheduled"
    } else {
        "Scheduling"
    };
    let occupied_by = if before.occupied_by.is_empty() { occupant(all) } else { before.occupied_by.clone() };
    let schedule_start_time = match (&before.schedule_start_time, enough) {
        (Some(known), true) => Some(known.clone()),
        (None, true) => Some(Time(now)),
        (_, false) => None,
    };
    let phase = phase.to_owned();
    PodGroupStatus { phase, occupied_by, scheduled, running, succeeded, failed, schedule_start_time }
}

/// Who owns the first of the pods that anyone owns.
fn occupant(all: &[Arc<Pod>]) -> String {
    let owner = all.iter().find_map(|pod| Some((pod.namespace()?, controller_of(&pod.metadata)?)));
    owner.map(|(namespace, owner)| format!("{namespace}/{}", owner.name)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::kind::PodGroupSpec;
    use super::*;
    use serde_json::json;

    fn pod(phase: &str, node: &str) -> Arc<Pod> {
        let owner =
            json!([{"apiVersion": "batch/v1", "kind": "Job", "name": "training", "uid": "u", "controller": true}]);
        let pod = json!({"metadata": {"name": "p", "namespace": "lab", "ownerReferences": owner},
            "spec": {"nodeName": node, "containers": []}, "status": {"phase": phase}});
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn status(wanted: i32, pods: &[(&str, &str)], before: PodGroupStatus) -> PodGroupStatus {
        let group = PodGroup { spec: PodGroupSpec { min_member: wanted }, status: before, ..PodGroup::default() };
        let pods: Vec<_> = pods.iter().map(|(phase, node)| pod(phase, node)).collect();
        plan(&group, &pods, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn a_group_goes_from_step_to_step() {
        let (waits, bound, runs, done, failed) =
            (("Pending", ""), ("Pending", "n"), ("Running", "n"), ("Succeeded", "n"), ("Failed", "n"));
        let steps = [
            (vec![], "Pending"),
            (vec![waits], "Pending"),
            (vec![waits, waits], "Scheduling"),
            (vec![bound, waits], "Scheduling"),
            (vec![bound, bound], "Scheduled"),
            (vec![runs, bound], "Scheduled"),
            (vec![runs, runs], "Running"),
            (vec![runs, done], "Running"),
            (vec![runs, failed], "Failed"),
            (vec![done, done, runs], "Finished"),
        ];
        for (pods, wanted) in steps {
            assert_eq!(status(2, &pods, PodGroupStatus::default()).phase, wanted, "{pods:?}");
        }
        let told = status(2, &[runs, bound, done, failed], PodGroupStatus::default());
        assert_eq!((told.scheduled, told.running, told.succeeded, told.failed), (2, 1, 1, 1));
        assert_eq!(told.occupied_by, "lab/training");
    }

    #[test]
    fn what_has_ended_stays_so_and_the_start_is_noted_once() {
        let begun = status(1, &[("Pending", "")], PodGroupStatus::default());
        assert_eq!(begun.schedule_start_time, Some(Time(Timestamp::UNIX_EPOCH)));
        let earlier = PodGroupStatus { schedule_start_time: Some(Time(Timestamp::MIN)), ..begun };
        assert_eq!(status(1, &[("Running", "n")], earlier.clone()).schedule_start_time, earlier.schedule_start_time);
        assert_eq!(status(1, &[], earlier).schedule_start_time, None, "there are no pods to place");
        let ended = status(1, &[("Succeeded", "n")], PodGroupStatus::default());
        assert_eq!(status(1, &[], ended.clone()), ended);
    }
}
