//! The real kubectl on kinds of one's own: what `docs/custom-resources.md` says.

use std::path::Path;
use std::time::Duration;

use gantry_integration_tests::{eventually, shared::Shared};

static CLUSTER: Shared = Shared::new();

fn example(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/custom").join(file);
    path.to_str().expect("a UTF-8 path").to_owned()
}

#[test]
fn a_kind_is_defined_used_and_removed() {
    let Some(cluster) = CLUSTER.get() else { return };
    let definition = example("definition.yaml");
    let applied = cluster.kubectl(&["apply", "-f", &definition]).ok();
    assert!(applied.contains("customresourcedefinition.apiextensions.k8s.io/backups.example.com created"), "{applied}");
    cluster.kubectl(&["wait", "--for=condition=Established", "crd/backups.example.com", "--timeout=60s"]).ok();
    let again = cluster.kubectl(&["apply", "-f", &definition]).ok();
    assert!(again.contains("unchanged"), "{again}");

    let explained = cluster.kubectl(&["explain", "backup.spec"]).ok();
    assert!(
        explained.contains("schedule") && explained.contains("When a copy is made, as cron writes it."),
        "{explained}"
    );

    let applied = cluster.kubectl(&["apply", "-f", &example("backup.yaml")]).ok();
    assert!(applied.contains("backup.example.com/nightly created"), "{applied}");
    let listed = cluster.kubectl(&["get", "bk"]).ok();
    let header: Vec<&str> = listed.lines().next().unwrap_or_default().split_whitespace().collect();
    assert_eq!(header, ["NAME", "SCHEDULE", "COPIES"], "{listed}");
    assert!(listed.contains("nightly") && listed.contains("0 3 * * *"), "{listed}");
    let selected = cluster.kubectl(&["get", "backups", "--field-selector", "spec.tier=silver", "-o", "name"]).ok();
    assert_eq!(selected.trim(), "backup.example.com/nightly");
    let none = cluster.kubectl(&["get", "backups", "--field-selector", "spec.tier=gold", "-o", "name"]).ok();
    assert_eq!(none.trim(), "");

    let scaled = cluster.kubectl(&["scale", "backup/nightly", "--replicas=3"]).ok();
    assert!(scaled.contains("scaled"), "{scaled}");
    let copies = cluster.kubectl(&["get", "backup", "nightly", "-o", "jsonpath={.spec.copies}"]).ok();
    assert_eq!(copies, "3");
    let older = cluster.kubectl(&["get", "backups.v1beta1.example.com", "nightly", "-o", "yaml"]).ok();
    assert!(older.contains("apiVersion: example.com/v1beta1"), "{older}");

    // Two managers, each with an item of its own.
    let volume = |name: &str| {
        format!(
            "apiVersion: example.com/v1\nkind: Backup\nmetadata: {{name: nightly}}\nspec: {{schedule: 0 3 * * *, volumes: [{{name: {name}}}]}}\n"
        )
    };
    // kubectl hands what it applied itself before over to the first one.
    let first = ["apply", "--server-side", "--field-manager=first", "-f", &example("backup.yaml")];
    cluster.kubectl(&first).ok();
    let apply = ["apply", "--server-side", "--field-manager=second", "-f", "-"];
    cluster.kubectl_with(&apply, volume("logs").as_bytes()).ok();
    let volumes = cluster.kubectl(&["get", "backup", "nightly", "-o", "jsonpath={.spec.volumes[*].name}"]).ok();
    assert_eq!(volumes, "data logs");

    for (patch, told) in [
        (r#"{"spec":{"tier":"gold"}}"#, "the tier of a backup stays"),
        (r#"{"spec":{"copies":0}}"#, "spec.copies in body should be greater than or equal to 1"),
        (r#"{"spec":{"schedule":"now"}}"#, "spec.schedule in body should match"),
    ] {
        let refused = cluster.kubectl(&["patch", "backup", "nightly", "--type=merge", "-p", patch]).fails_with(1);
        assert!(refused.contains(told), "{refused}");
    }

    let deleted = cluster.kubectl(&["delete", "-f", &definition]).ok();
    assert!(deleted.contains("deleted"), "{deleted}");
    eventually("the kind is gone", Duration::from_secs(60), || {
        let told = cluster.kubectl(&["get", "backups"]).fails_with(1);
        // What kubectl says depends on whether it still remembers the kind.
        let gone = ["the server doesn't have a resource type", "the server could not find the requested resource"];
        if gone.iter().any(|text| told.contains(text)) { Ok(()) } else { Err(told) }
    });
}
