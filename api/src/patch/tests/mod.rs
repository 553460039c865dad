//! Scenarios and properties of the patches.

mod diff;
mod strategic;

use serde_json::{Value, json};

use super::{json as json_patch, merge};
use crate::error::Reason;

#[test]
fn a_field_that_is_not_there_tests_as_null() {
    let object = json!({"metadata": {"name": "a"}});
    let patched = |body: Value| json_patch(&object, body.to_string().as_bytes());
    let first = json!([
        {"op": "test", "path": "/metadata/finalizers", "value": null},
        {"op": "add", "path": "/metadata/finalizers", "value": ["example.com/keep"]},
    ]);
    assert_eq!(patched(first).unwrap()["metadata"]["finalizers"], json!(["example.com/keep"]));
    assert!(patched(json!([{"op": "test", "path": "/metadata/name", "value": null}])).is_err());
    assert!(patched(json!([{"op": "test", "path": "/spec/replicas", "value": null}])).is_err(), "no parent");
    assert!(patched(json!([{"op": "test", "path": "/metadata/finalizers", "value": []}])).is_err());
}

#[test]
fn json_patches_apply_all_or_nothing() {
    let object = json!({"metadata": {"labels": {"a/b": "1"}}, "spec": {"list": [1, 2]}});
    let patched = json_patch(
        &object,
        br#"[
            {"op": "test", "path": "/metadata/labels/a~1b", "value": "1"},
            {"op": "replace", "path": "/metadata/labels/a~1b", "value": "2"},
            {"op": "add", "path": "/spec/list/-", "value": 3},
            {"op": "remove", "path": "/spec/list/0"},
            {"op": "copy", "from": "/spec/list", "path": "/spec/more"}
        ]"#,
    )
    .unwrap();
    assert_eq!(patched, json!({"metadata": {"labels": {"a/b": "2"}}, "spec": {"list": [2, 3], "more": [2, 3]}}));
    for body in [
        r#"[{"op": "test", "path": "/spec/list/0", "value": 7}]"#,
        r#"[{"op": "remove", "path": "/spec/none"}]"#,
        r#"[{"op": "replace", "path": "/none", "value": 1}]"#,
    ] {
        let error = json_patch(&object, body.as_bytes()).unwrap_err();
        assert_eq!(error.reason, Reason::Invalid);
        assert_eq!(error.message, "the server rejected our request due to an error in our request");
    }
    for body in ["{}", "[{}]", "[", r#"[{"op": "jump", "path": ""}]"#, r#"[{"op": "add", "path": "x", "value": 1}]"#] {
        let error = json_patch(&object, body.as_bytes()).unwrap_err();
        assert_eq!(error.reason, Reason::BadRequest, "{body}");
        assert!(error.message.starts_with("error decoding patch: "));
    }
}

#[test]
fn json_patches_are_bounded() {
    let operation = json!({"op": "test", "path": "/a", "value": 1});
    let body = Value::from(vec![operation; 10_001]).to_string();
    let error = json_patch(&json!({"a": 1}), body.as_bytes()).unwrap_err();
    assert_eq!(error.reason, Reason::RequestEntityTooLarge);
    assert!(error.message.ends_with("The allowed maximum operations in a JSON patch is 10000, got 10001"));
    // Each copy doubles the depth.
    let nesting: Vec<Value> =
        (0..17).map(|i| json!({"op": "copy", "from": "/a", "path": format!("/a{}", "/a".repeat(1 << i))})).collect();
    let body = Value::from(nesting).to_string();
    assert_eq!(json_patch(&json!({"a": {"a": {}}}), body.as_bytes()).unwrap_err().reason, Reason::Invalid);
    // Each copy doubles the list.
    let doubling: Vec<Value> = (0..64).map(|_| json!({"op": "copy", "from": "/a", "path": "/a/-"})).collect();
    let error = json_patch(&json!({"a": ["x"]}), Value::from(doubling).to_string().as_bytes()).unwrap_err();
    assert_eq!(error.reason, Reason::Invalid);
}

#[test]
fn merge_patches_follow_the_rfc() {
    let object = json!({"a": {"b": 1, "c": 2}, "list": [1, 2]});
    let patched = merge(&object, br#"{"a": {"b": null, "d": {"e": null}}, "list": [3]}"#).unwrap();
    assert_eq!(patched, json!({"a": {"c": 2, "d": {}}, "list": [3]}));
    for body in ["[]", "1", "{", "null"] {
        assert_eq!(merge(&object, body.as_bytes()).unwrap_err().reason, Reason::BadRequest);
    }
}
