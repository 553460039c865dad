//! Managed fields under create, update and patch.

use super::*;

fn object(replicas: i64) -> Value {
    web(json!({"replicas": replicas, "strategy": {"rollingUpdate": {"maxSurge": 1}, "type": "RollingUpdate"}}))
}

#[test]
fn a_create_owns_everything_but_system_fields() {
    let mut new = object(1);
    new["metadata"]["labels"] = json!({"app": "web"});
    new["metadata"]["generation"] = json!(1);
    new["metadata"]["creationTimestamp"] = json!("2024-05-01T10:00:00Z");
    let created = update_as("curl", None, new);
    assert_eq!(
        created["metadata"]["managedFields"],
        json!([{
            "manager": "curl", "operation": "Update", "apiVersion": "apps/v1", "time": "2024-05-01T10:00:00Z",
            "fieldsType": "FieldsV1",
            "fieldsV1": {
                "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                "f:spec": {"f:replicas": {}, "f:strategy": {"f:rollingUpdate": {".": {}, "f:maxSurge": {}}, "f:type": {}}},
            },
        }])
    );
}

#[test]
fn an_update_takes_what_it_changes() {
    let live = update_as("one", None, object(1));
    let mut new = live.clone();
    new["spec"]["replicas"] = json!(2);
    let live = update_as("two", Some(&live), new);
    assert_eq!(owned(&live, "two"), ".spec.replicas");
    assert!(!owned(&live, "one").contains("replicas"));
    // Removing a field takes it from its owner and gives it to nobody.
    let mut new = live.clone();
    new["spec"].as_object_mut().unwrap().remove("replicas");
    let live = update_as("three", Some(&live), new);
    assert_eq!(owned(&live, "two"), "");
    assert_eq!(owned(&live, "three"), "");
}

#[test]
fn an_update_without_change_leaves_entries_and_times() {
    let live = update_as("one", None, object(1));
    let mut same = live.clone();
    track_update(deployment_schema(), "apps/v1", Some(&live), &mut same, "two", None, later());
    assert_eq!(same, live);
    // A client that does not know the field loses nothing by leaving it out.
    let mut without = live.clone();
    managed::strip(&mut without);
    track_update(deployment_schema(), "apps/v1", Some(&live), &mut without, "two", None, later());
    assert_eq!(without, live);
}

#[test]
fn the_same_manager_is_one_entry_per_operation_and_subresource() {
    let live = update_as("one", None, object(1));
    let mut new = live.clone();
    new["status"] = json!({"readyReplicas": 1});
    track_update(deployment_schema(), "apps/v1", Some(&live), &mut new, "one", Some("status"), now());
    let entries = new["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[1]["subresource"], "status");
    assert_eq!(entries[1]["fieldsV1"], json!({"f:status": {"f:readyReplicas": {}}}));
}

#[test]
fn users_may_forget_the_entries() {
    let live = update_as("one", None, object(1));
    for reset in [json!([{}]), json!([])] {
        let mut new = live.clone();
        new["metadata"]["managedFields"] = reset;
        track_update(deployment_schema(), "apps/v1", Some(&live), &mut new, "two", None, now());
        assert_eq!(new["metadata"].get("managedFields"), None);
        // Untracked from then on, until someone applies.
        let mut next = new.clone();
        next["spec"]["replicas"] = json!(9);
        track_update(deployment_schema(), "apps/v1", Some(&new), &mut next, "two", None, now());
        assert_eq!(next["metadata"].get("managedFields"), None);
    }
}

#[test]
fn a_subresource_cannot_rewrite_the_entries() {
    let live = update_as("one", None, object(1));
    let mut new = live.clone();
    new["metadata"]["managedFields"] = json!([{}]);
    track_update(deployment_schema(), "apps/v1", Some(&live), &mut new, "two", Some("status"), now());
    assert_eq!(new["metadata"]["managedFields"], live["metadata"]["managedFields"]);
}

#[test]
fn unreadable_entries_fall_back_to_the_old_ones() {
    let live = update_as("one", None, object(1));
    let mut new = live.clone();
    new["metadata"]["managedFields"] = json!([{"manager": "x", "operation": "Nonsense"}]);
    track_update(deployment_schema(), "apps/v1", Some(&live), &mut new, "two", None, now());
    assert_eq!(new["metadata"]["managedFields"], live["metadata"]["managedFields"]);
}

#[test]
fn old_update_managers_are_merged_beyond_ten() {
    let mut live = update_as("m00", None, object(0));
    for i in 1..14 {
        let mut new = live.clone();
        new["metadata"]["annotations"][format!("k{i:02}")] = json!("v");
        let at = now() + jiff::SignedDuration::from_secs(i);
        track_update(deployment_schema(), "apps/v1", Some(&live), &mut new, &format!("m{i:02}"), None, at);
        live = new;
    }
    let entries = live["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(entries.len(), 10);
    let ancient: Vec<&Value> = entries.iter().filter(|e| e["manager"] == "ancient-changes").collect();
    assert_eq!(ancient.len(), 1);
    assert!(owned(&live, "ancient-changes").contains("replicas"));
    assert!(owned(&live, "ancient-changes").contains("k04"));
    assert_eq!(owned(&live, "m05"), ".metadata.annotations.k05");
}

#[test]
fn entries_of_other_versions_stay() {
    let mut live = update_as("one", None, object(1));
    live["metadata"]["managedFields"][0]["apiVersion"] = json!("apps/v1beta1");
    let mut new = live.clone();
    new["spec"]["replicas"] = json!(5);
    track_update(deployment_schema(), "apps/v1", Some(&live), &mut new, "one", None, now());
    let entries = new["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(entries.len(), 2);
    assert!(owned(&new, "one").contains(".spec.strategy.type"));
}

#[test]
fn appliers_come_first_in_the_list() {
    let live = update_as("zz", None, object(1));
    let live = apply_as("aa", Some(&live), &web(json!({"paused": true}))).unwrap();
    let operations: Vec<&Value> =
        live["metadata"]["managedFields"].as_array().unwrap().iter().map(|e| &e["operation"]).collect();
    assert_eq!(operations, ["Apply", "Update"]);
}
