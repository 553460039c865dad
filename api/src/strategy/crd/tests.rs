//! Definitions that are refused, and with which words.

use serde_json::{Value, json};

use super::*;

fn crd(schema: Value) -> Value {
    let mut crd = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "foos.g.io"},
        "spec": {"group": "g.io", "scope": "Namespaced", "names": {"plural": "foos", "kind": "Foo"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]},
    });
    CrdStrategy.default(&mut crd);
    CrdStrategy.prepare_create(&mut crd);
    crd
}

fn plain() -> Value {
    json!({"type": "object"})
}

fn refused(crd: &Value) -> Vec<String> {
    let mut errors = Vec::new();
    CrdStrategy.validate_create(crd, &mut errors);
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn names_versions_and_paths_follow_the_rules() {
    assert!(refused(&crd(plain())).is_empty(), "{:?}", refused(&crd(plain())));
    let cases: [(&str, Value, &str); 12] = [
        (
            "/metadata/name",
            json!("bars.g.io"),
            "metadata.name: Invalid value: \"bars.g.io\": must be spec.names.plural+\".\"+spec.group",
        ),
        (
            "/spec/scope",
            json!("Galaxy"),
            "spec.scope: Unsupported value: \"Galaxy\": supported values: \"Cluster\", \"Namespaced\"",
        ),
        (
            "/spec/names/listKind",
            json!("Foo"),
            "spec.names.listKind: Invalid value: \"Foo\": kind and listKind may not be the same",
        ),
        ("/spec/versions/0/storage", json!(false), "must have exactly one version marked as storage version"),
        ("/spec/versions/0/name", json!("V1"), "spec.versions[0].name: Invalid value: \"V1\""),
        (
            "/spec/versions/0/additionalPrinterColumns",
            json!([{"name": "A", "type": "list", "jsonPath": ".a"}]),
            "spec.versions[0].additionalPrinterColumns[0].type: Invalid value: \"list\": must be one of integer,number,string,boolean,date",
        ),
        (
            "/spec/versions/0/subresources",
            json!({"scale": {"specReplicasPath": ".status.r", "statusReplicasPath": ".status.r"}}),
            "spec.versions[0].subresources.scale.specReplicasPath: Invalid value: \".status.r\": should be a json path under .spec",
        ),
        (
            "/spec/versions/0/selectableFields",
            json!([{"jsonPath": ".spec.x"}]),
            "must point to a field of type string, boolean or integer",
        ),
        (
            "/spec/conversion",
            json!({"strategy": "Webhook"}),
            "spec.conversion.webhookClientConfig: Required value: required when strategy is set to Webhook",
        ),
        (
            "/spec/preserveUnknownFields",
            json!(true),
            "spec.preserveUnknownFields: Invalid value: true: cannot set to true",
        ),
        ("/spec/versions/0/schema", json!({}), "spec.versions[0].schema.openAPIV3Schema: Required value"),
        (
            "/status/storedVersions",
            json!(["v1", "v0"]),
            "status.storedVersions[1]: Invalid value: \"v0\": missing from spec.versions",
        ),
    ];
    for (pointer, value, told) in cases {
        let mut crd = crd(plain());
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        crd.pointer_mut(parent).unwrap()[key] = value;
        let errors = refused(&crd);
        assert!(errors.iter().any(|error| error.contains(told)), "{pointer}: {errors:?}");
    }
}

#[test]
fn schemas_must_be_structural_and_make_sense() {
    let with = |field: Value| json!({"type": "object", "properties": {"f": field}});
    let at = "spec.versions[0].schema.openAPIV3Schema.properties[f]";
    let cases = [
        (
            json!({"type": "array"}),
            "spec.versions[0].schema.openAPIV3Schema.type: Invalid value: \"array\": must be object at the root"
                .to_owned(),
        ),
        (
            json!({"type": "object", "nullable": true}),
            "spec.versions[0].schema.openAPIV3Schema.nullable: Forbidden: nullable cannot be true at the root"
                .to_owned(),
        ),
        (with(json!({})), format!("{at}.type: Required value: must not be empty for specified object fields")),
        (with(json!({"type": "array"})), format!("{at}.items: Required value: must be specified")),
        (
            with(
                json!({"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": {"type": "string"}}),
            ),
            format!("{at}.additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive"),
        ),
        (
            with(json!({"type": "array", "items": {"type": "string"}, "uniqueItems": true})),
            format!(
                "{at}.uniqueItems: Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic"
            ),
        ),
        (
            with(json!({"type": "string", "pattern": "("})),
            format!("{at}.pattern: Invalid value: \"(\": must be a valid regular expression"),
        ),
        (
            with(json!({"type": "string", "oneOf": [{"type": "string"}]})),
            format!("{at}.oneOf[0].type: Forbidden: must be empty to be structural"),
        ),
        (
            with(json!({"type": "object", "anyOf": [{"properties": {"x": {"minimum": 1}}}]})),
            format!("{at}.properties[x]: Required value: because it is defined in {at}.anyOf[0].properties[x]"),
        ),
        (
            with(json!({"type": "array", "items": {"type": "object"}, "x-kubernetes-list-type": "map"})),
            format!(
                "{at}.x-kubernetes-list-map-keys: Required value: must not be empty if x-kubernetes-list-type is map"
            ),
        ),
        (
            with(
                json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": {"type": "object", "properties": {"k": {"type": "string"}}}}),
            ),
            format!(
                "{at}.items.properties[k].default: Required value: this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property"
            ),
        ),
        (
            with(json!({"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "object"}})),
            format!(
                "{at}.items.x-kubernetes-map-type: Invalid value: \"\": must be atomic as item of a list with x-kubernetes-list-type=set"
            ),
        ),
        (with(json!({"type": "integer", "default": "x"})), format!("{at}.default: Invalid value: \"string\"")),
        (with(json!({"type": "integer", "minimum": 2, "default": 1})), format!("{at}.default: Invalid value: 1")),
        (
            with(json!({"type": "object", "properties": {"a": {"type": "string"}}, "default": {"b": 1}})),
            format!("{at}.default: Invalid value: {{\"b\":1}}: must not have unknown fields"),
        ),
        (
            with(json!({"type": "object", "x-kubernetes-embedded-resource": true})),
            format!("{at}.properties: Required value: must not be empty if x-kubernetes-embedded-resource is true"),
        ),
        (
            with(json!({"type": "integer", "x-kubernetes-validations": [{"rule": "self.x"}]})),
            format!("{at}.x-kubernetes-validations[0].rule: Invalid value: \"self.x\": compilation failed"),
        ),
        (
            with(json!({"type": "integer", "x-kubernetes-validations": [{"rule": ""}]})),
            format!("{at}.x-kubernetes-validations[0].rule: Required value: rule is not specified"),
        ),
        (
            with(
                json!({"type": "array", "items": {"type": "integer", "x-kubernetes-validations": [{"rule": "self == oldSelf"}]}}),
            ),
            format!(
                "{at}.items.x-kubernetes-validations[0].rule: Invalid value: \"self == oldSelf\": oldSelf cannot be used on the uncorrelatable portion of the schema"
            ),
        ),
    ];
    for (schema, told) in cases {
        let errors = refused(&crd(schema.clone()));
        assert!(errors.iter().any(|error| error.starts_with(&told)), "{schema}: {told}\n{errors:?}");
    }
    let fine = with(json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]}));
    assert!(refused(&crd(fine)).is_empty());
}

#[test]
fn rules_that_may_cost_too_much_are_refused() {
    let at = "spec.versions[0].schema.openAPIV3Schema";
    let with = |schema: Value| json!({"type": "object", "properties": {"a": schema}});
    let hint = "(try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)";
    let numbers = |most: Value, rule: &str| {
        let mut schema =
            json!({"type": "array", "items": {"type": "integer"}, "x-kubernetes-validations": [{"rule": rule}]});
        if !most.is_null() {
            schema["maxItems"] = most;
        }
        with(schema)
    };
    let pairs = "self.all(x, self.all(y, x != y))";
    let rule = format!("{at}.properties[a].x-kubernetes-validations[0].rule: Forbidden: estimated rule cost");
    assert_eq!(
        refused(&crd(numbers(Value::Null, pairs)))[0],
        format!("{rule} exceeds budget by factor of more than 100x {hint}")
    );
    assert!(refused(&crd(numbers(json!(100), pairs))).is_empty());
    let told = refused(&crd(numbers(json!(2000), pairs)));
    assert!(told[0].starts_with(&format!("{rule} exceeds budget by factor of 2.0x")), "{told:?}");
    assert!(refused(&crd(numbers(json!(5), "self.all(x, x > 0)"))).is_empty());

    // A rule below a list counts as often as there may be items, and all rules of a schema count together.
    let item =
        json!({"type": "string", "maxLength": 1000, "x-kubernetes-validations": [{"rule": "self.contains('ab')"}]});
    let below = |most: u64| json!({"type": "array", "maxItems": most, "items": item});
    assert!(refused(&crd(with(below(20_000)))).is_empty());
    let told = refused(&crd(with(below(30_000))));
    assert!(
        told[0].contains("items.x-kubernetes-validations[0].rule: Forbidden: estimated rule cost exceeds"),
        "{told:?}"
    );
    let many: serde_json::Map<String, Value> = (0..20).map(|n| (format!("f{n:02}"), below(20_000))).collect();
    let told = refused(&crd(json!({"type": "object", "properties": many})));
    assert_eq!(told.len(), 5, "{told:?}");
    assert_eq!(
        told[0],
        format!(
            "{at}.properties[f00].items.x-kubernetes-validations[0].rule: Forbidden: contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema"
        )
    );
    assert!(
        told[4].starts_with(&format!(
            "{at}: Forbidden: x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema exceeds budget by factor of "
        )),
        "{told:?}"
    );
}

#[test]
fn what_is_established_keeps_its_kind_and_what_is_stored_is_not_judged_again() {
    let mut old = crd(json!({"type": "array"}));
    old["status"]["conditions"] = json!([{"type": "Established", "status": "True"}]);
    let mut new = old.clone();
    let changes = |old: &Value, new: &Value| {
        let mut errors = Vec::new();
        CrdStrategy.validate_update(None, old, new, &mut errors);
        errors.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert!(changes(&old, &new).is_empty());
    new["spec"]["names"]["kind"] = json!("Bar");
    assert_eq!(changes(&old, &new), ["spec.names.kind: Invalid value: \"Bar\": field is immutable"]);
}
