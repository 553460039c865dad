//! The parsers, as functions of bytes.

use std::sync::LazyLock;

use gantry_api::cel::{self, Budget, CALL_COST_MAX, Environment, Extent, Type, Val, Variables};
use gantry_api::engine::{self, BodyFormat, Context, FieldValidation, PatchType};
use gantry_api::kinds::{Catalog, Resource};
use gantry_api::quantity::Quantity;
use gantry_api::selector::{FieldSelector, LabelSelector};
use gantry_api::table::JsonPath;
use gantry_api::{codec, protobuf};
use gantry_apiserver::registry::{Match, Position, parse_resource_version};
use serde_json::{Value, json};

/// A parser under test.
pub struct Target {
    /// Its name, and that of the folder with its seeds.
    pub name: &'static str,
    /// What it does with an input.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "body_json", run: |input| body(input, BodyFormat::Json) },
    Target { name: "body_yaml", run: |input| body(input, BodyFormat::Yaml) },
    Target { name: "body_protobuf", run: |input| body(input, BodyFormat::Protobuf) },
    Target { name: "delete_options", run: delete_options },
    Target { name: "patch_json", run: |input| patch(input, PatchType::Json) },
    Target { name: "patch_merge", run: |input| patch(input, PatchType::Merge) },
    Target { name: "patch_strategic", run: |input| patch(input, PatchType::Strategic) },
    Target { name: "patch_apply", run: |input| patch(input, PatchType::Apply { force: true }) },
    Target { name: "label_selector", run: label_selector },
    Target { name: "field_selector", run: field_selector },
    Target { name: "quantity", run: quantity },
    Target { name: "json_path", run: json_path },
    Target { name: "continue_token", run: continue_token },
    Target { name: "cel", run: cel },
];

static CATALOG: LazyLock<Catalog> = LazyLock::new(Catalog::builtin);

fn context() -> Context<'static> {
    Context {
        now: jiff::Timestamp::UNIX_EPOCH,
        new_uid: "uid",
        random_suffix: "abcde",
        manager: "fuzz",
        field_validation: FieldValidation::Warn,
        dry_run: false,
        warnings: Vec::new(),
        applied: false,
    }
}

/// The kind of a body is told by its first byte, so that every kind is tried.
fn kind_of(input: &[u8]) -> Option<(&'static Resource, &[u8])> {
    let (first, rest) = input.split_first()?;
    let count = CATALOG.iter().count();
    Some((CATALOG.iter().nth(usize::from(*first) % count)?, rest))
}

/// What was accepted is stored, and has to be read again: by itself, in a list, in a watch, and in protobuf.
fn stored(resource: &Resource, object: &Value) {
    let bytes = codec::with_resource_version(&codec::encode(object), 7);
    codec::decode(&bytes).expect("what is stored can be read again");
    codec::facts(resource, &bytes).expect("what is stored has facts");
    let list = codec::write_list(resource, 7, None, None, vec![bytes.clone()]).whole();
    codec::decode(&list).expect("a list can be read");
    codec::decode(&codec::watch_frame("ADDED", &bytes)).expect("a watch event can be read");
    let message = protobuf::object(resource, &bytes).expect("what is stored has a message");
    let envelope = protobuf::envelope(&message).expect("the message has an envelope");
    protobuf::message(resource.schema(), envelope.raw).expect("the message can be read");
}

fn body(input: &[u8], format: BodyFormat) {
    let Some((resource, input)) = kind_of(input) else { return };
    let mut context = context();
    let Ok(mut object) = engine::decode(resource, input, format, &mut context) else { return };
    if engine::prepare_create(resource, &mut object, Some("default"), &mut context).is_ok()
        && engine::finish_create(resource, &mut object, &mut context).is_ok()
    {
        stored(resource, &object);
    }
}

fn delete_options(input: &[u8]) {
    for format in [BodyFormat::Json, BodyFormat::Yaml, BodyFormat::Protobuf] {
        let _ = engine::decode_delete_options(input, format);
    }
}

/// A Deployment with something of everything that patches treat apart.
static LIVE: LazyLock<Value> = LazyLock::new(|| {
    let resource = CATALOG.resource("apps", "v1", "deployments").expect("deployments are built in");
    let object = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default", "labels": {"a": "b"}, "finalizers": ["x.io/a", "x.io/b"]},
        "spec": {
            "replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "strategy": {"type": "RollingUpdate"},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {
                    "containers": [
                        {"name": "a", "image": "i:1", "ports": [{"containerPort": 80}], "env": [{"name": "A", "value": "1"}]},
                        {"name": "b", "image": "i:2"},
                    ],
                    "volumes": [{"name": "v", "emptyDir": {}}],
                    "tolerations": [{"key": "k", "operator": "Exists"}],
                },
            },
        },
    });
    let mut context = context();
    let body = object.to_string();
    let mut object = engine::decode(resource, body.as_bytes(), BodyFormat::Json, &mut context).expect("it is right");
    engine::prepare_create(resource, &mut object, Some("default"), &mut context).expect("it is right");
    engine::finish_create(resource, &mut object, &mut context).expect("it is right");
    object
});

fn patch(input: &[u8], kind: PatchType) {
    let resource = CATALOG.resource("apps", "v1", "deployments").expect("deployments are built in");
    let mut context = context();
    for current in [Some(&*LIVE), None] {
        let applies = matches!(kind, PatchType::Apply { .. });
        if current.is_none() && !applies {
            continue;
        }
        let Ok(mut object) = engine::patch(resource, None, current, kind, input, &mut context) else { continue };
        let fits = match current {
            Some(old) => {
                engine::prepare_update(resource, None, old, &mut object, &mut context).is_ok()
                    && engine::finish_update(resource, None, old, &mut object, &mut context).is_ok()
            }
            None => {
                engine::prepare_create(resource, &mut object, Some("default"), &mut context).is_ok()
                    && engine::finish_create(resource, &mut object, &mut context).is_ok()
            }
        };
        if fits {
            stored(resource, &object);
        }
    }
}

fn label_selector(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(selector) = LabelSelector::parse(text) {
        let shown = selector.to_string();
        let again = LabelSelector::parse(&shown).expect("a selector can be read as it is shown");
        assert_eq!(again.to_string(), shown);
    }
    if let Ok(value) = serde_json::from_str::<Value>(text) {
        let _ = LabelSelector::from_object(&value);
    }
}

fn field_selector(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(selector) = FieldSelector::parse(text) {
        let _ = selector.exact("metadata.name");
        let _ = selector.matches(|_| Some("value"));
    }
}

fn quantity(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(quantity) = Quantity::parse(text) else { return };
    let shown = quantity.to_string();
    let again = Quantity::parse(&shown).expect("a quantity can be read as it is shown");
    assert_eq!(again.to_string(), shown, "{text:?}");
    let _ = (quantity.value(), quantity.milli_value(), quantity.scaled(-9), quantity.signum());
    let _ = quantity.add(&again).sub(&quantity).neg().to_string();
}

fn json_path(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(path) = JsonPath::parse(text) {
        let _ = path.find(&LIVE);
    }
}

fn continue_token(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let _ = Position::of_list(None, None, 10, Some(text));
    for matching in [None, Some(Match::Exact), Some(Match::NotOlderThan)] {
        let _ = Position::of_list(Some(text), matching, 10, None);
    }
    let _ = parse_resource_version(Some(text));
}

fn cel(input: &[u8]) {
    static DYN: Type = Type::Dyn;
    let Ok(text) = std::str::from_utf8(input) else { return };
    let environment =
        Environment::new().with("self", Type::Dyn).with("n", Type::Int).with("s", Type::String).with_structs();
    let Ok(program) = cel::compile(text, &environment) else { return };
    if let Some(extent) = Extent::of_structural(&json!({"x-kubernetes-int-or-string": true}), false) {
        let _ = cel::estimate(&program, &extent);
    }
    let variables =
        Variables::new().with("self", Val::of(&LIVE, &DYN)).with("n", Val::Int(i64::MAX)).with("s", Val::text("text"));
    // Every rule has this budget, whatever it asks for.
    let mut budget = Budget::new(CALL_COST_MAX);
    let _ = program.eval(&variables, &mut budget);
}
