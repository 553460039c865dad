//! Taking a machine out of service with kubectl, in every version at hand. A cluster of its own: there is one machine in it.

use std::time::Duration;

use gantry_integration_tests::kubectl::{self, Kubectl};
use gantry_integration_tests::{Cluster, Options, eventually};

const MINUTE: Duration = Duration::from_secs(60);

fn deployment(kubectl: &Kubectl<'_>) {
    let text = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec:\n  selector: {matchLabels: {app: d}}\n  \
        template:\n    metadata: {labels: {app: d}}\n    spec:\n      terminationGracePeriodSeconds: 1\n      \
        containers: [{name: c, image: 'gantry.local/busybox:1.35', command: [sleep, '600']}]\n";
    kubectl.with(&["apply", "-f", "-"], text).ok();
    kubectl.run(&["rollout", "status", "deployment/d", "--timeout=90s"]).ok();
}

fn cordon_and_taint(kubectl: &Kubectl<'_>) {
    kubectl.prints(&["cordon", "node-1"], "node/node-1 cordoned");
    kubectl.prints(&["cordon", "node-1"], "node/node-1 already cordoned");
    let row = kubectl.run(&["get", "nodes", "--no-headers"]).ok();
    assert!(row.contains("Ready,SchedulingDisabled"), "{row}");
    kubectl.comes_to_print(
        &["get", "node", "node-1", "-o", "jsonpath={.spec.taints[*].key}"],
        "node.kubernetes.io/unschedulable",
    );
    kubectl.prints(&["uncordon", "node-1"], "node/node-1 uncordoned");
    kubectl.prints(&["uncordon", "node-1"], "node/node-1 already uncordoned");
    kubectl.refuses(&["cordon", "nobody"], "nodes \"nobody\" not found");
    kubectl.comes_to_print(&["get", "node", "node-1", "-o", "jsonpath={.spec.taints}"], "");

    kubectl.prints(&["taint", "nodes", "node-1", "use=test:NoSchedule"], "node/node-1 tainted");
    kubectl.refuses(
        &["taint", "nodes", "node-1", "use=other:NoSchedule"],
        "node node-1 already has use taint(s) with same effect(s) and --overwrite is false",
    );
    kubectl.prints(&["taint", "nodes", "node-1", "use=other:NoSchedule", "--overwrite"], "node/node-1 modified");
    kubectl.tells(&["describe", "node", "node-1"], &["use=other:NoSchedule"]);
    kubectl.prints(&["taint", "nodes", "node-1", "use:NoSchedule-"], "node/node-1 untainted");
    kubectl.refuses(&["taint", "nodes", "node-1", "use-"], "taint \"use\" not found");
    kubectl.refuses(&["taint", "nodes", "node-1", "use=x:Never"], "invalid taint effect: Never");
}

fn drain(kubectl: &Kubectl<'_>) {
    let namespace = &kubectl.namespace;
    deployment(kubectl);
    let lonely = "apiVersion: v1\nkind: Pod\nmetadata: {name: lonely, labels: {lonely: ''}}\nspec: {terminationGracePeriodSeconds: 1, containers: [{name: c, image: 'gantry.local/busybox:1.35', command: [sleep, '600']}]}\n";
    kubectl.with(&["create", "-f", "-"], lonely).ok();
    kubectl.run(&["wait", "--for=condition=Ready", "pod/lonely", "--timeout=60s"]).ok();
    // One that nobody would make again is not taken away unasked.
    let refused = kubectl.run(&["drain", "node-1", "--timeout=60s"]);
    assert_eq!((refused.code, refused.stdout.as_str()), (1, "node/node-1 cordoned\n"), "{refused}");
    let reason = format!("declare no controller (use --force to override): {namespace}/lonely");
    assert!(refused.stderr.contains(&reason), "{refused}");
    kubectl.run(&["delete", "pod", "lonely", "--now"]).ok();

    // A budget holds a drain up.
    kubectl.run(&["create", "pdb", "b", "--selector=app=d", "--min-available=1"]).ok();
    kubectl.comes_to_print(&["get", "pdb", "b", "-o", "jsonpath={.status.currentHealthy}"], "1");
    let held = kubectl.run(&["drain", "node-1", "--timeout=3s"]);
    assert_eq!(held.code, 1, "{held}");
    assert!(held.stderr.contains("Cannot evict pod as it would violate the pod's disruption budget."), "{held}");
    assert!(held.stderr.contains("global timeout reached: 3s"), "{held}");
    kubectl.run(&["delete", "pdb", "b"]).ok();

    let pod = kubectl.run(&["get", "pods", "-l", "app=d", "-o", "jsonpath={.items[0].metadata.name}"]).ok();
    let dry = kubectl.run(&["drain", "node-1", "--dry-run=server"]).ok();
    assert!(dry.contains(&format!("evicting pod {namespace}/{pod} (server dry run)")), "{dry}");
    let drained = kubectl.run(&["drain", "node-1", "--timeout=90s"]).ok();
    for line in [
        "node/node-1 already cordoned".into(),
        format!("evicting pod {namespace}/{pod}"),
        format!("pod/{pod} evicted"),
        "node/node-1 drained".into(),
    ] {
        assert!(drained.lines().any(|told| told == line), "no {line:?} in: {drained}");
    }
    // Its successor finds no place until the machine is back.
    eventually("the successor to wait for a machine", MINUTE, || {
        let told = kubectl.run(&["get", "pods", "-l", "app=d", "--no-headers"]).ok();
        if told.lines().count() == 1 && told.contains("Pending") { Ok(()) } else { Err(told) }
    });
    kubectl.prints(&["uncordon", "node-1"], "node/node-1 uncordoned");
    kubectl.run(&["rollout", "status", "deployment/d", "--timeout=90s"]).ok();
    kubectl.run(&["delete", "deployment", "d", "--cascade=foreground", "--timeout=60s"]).ok();
}

#[test]
fn a_machine_is_taken_out_of_service_and_back() {
    let Some(cluster) = Cluster::start(Options::default()) else { return };
    kubectl::each_version(&cluster, "node", |kubectl| {
        cordon_and_taint(kubectl);
        drain(kubectl);
    });
}
