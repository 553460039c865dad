//! Expressions with their values, their refusals, and hostile ones.

use serde_json::{Value, json};

use super::*;

fn schema() -> Value {
    json!({"type": "object", "properties": {
        "spec": {"type": "object", "properties": {
            "replicas": {"type": "integer"}, "name": {"type": "string"}, "when": {"type": "string", "format": "date-time"},
            "any": {"x-kubernetes-int-or-string": true},
            "tags": {"type": "array", "items": {"type": "string"}},
            "ports": {"type": "array", "items": {"type": "object", "properties": {"port": {"type": "integer"}, "name": {"type": "string"}}}},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "namespace": {"type": "string"}, "x-y": {"type": "string"},
        }},
    }})
}

fn object() -> Value {
    json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "n"}, "spec": {
        "replicas": 3, "name": "web", "when": "2024-01-02T03:04:05Z", "any": "5%",
        "tags": ["a", "b"], "ports": [{"port": 80, "name": "http"}, {"port": 443}], "labels": {"app": "x", "a.b/c": "y"},
        "namespace": "ns", "x-y": "dash",
    }})
}

fn environment() -> Environment {
    Environment::new().with("self", Type::of_structural(&schema(), true).unwrap())
}

fn value(expression: &str) -> Result<Value, String> {
    let program = compile(expression, &environment()).map_err(|error| error.to_string())?;
    let object = object();
    let ty = Type::of_structural(&schema(), true).unwrap();
    let variables = Variables::new().with("self", Val::of(&object, &ty));
    let value = program.eval(&variables, &mut Budget::new(CALL_COST_MAX)).map_err(|error| error.to_string())?;
    value.to_json().ok_or_else(|| "no JSON".to_owned())
}

#[test]
fn expressions_have_the_values_that_kubernetes_gives_them() {
    let cases = [
        ("1 + 2 * 3", json!(7)),
        ("self.spec.replicas > 2 && self.spec.name.startsWith('w')", json!(true)),
        ("self.metadata.name + '-' + string(self.spec.replicas)", json!("n-3")),
        ("has(self.spec.replicas) && !has(self.metadata.generateName)", json!(true)),
        ("self.spec.ports.all(p, p.port > 0 && p.port < 65536)", json!(true)),
        ("self.spec.ports.exists_one(p, has(p.name) && p.name == 'http')", json!(true)),
        ("self.spec.ports.map(p, p.port).sum()", json!(523)),
        ("self.spec.tags.filter(t, t != 'a')", json!(["b"])),
        ("self.spec.tags.map(t, t == 'b', t + t)", json!(["bb"])),
        ("self.spec.labels['app'] == 'x' && 'a.b/c' in self.spec.labels", json!(true)),
        ("self.spec.labels.all(k, self.spec.labels[k].size() == 1)", json!(true)),
        ("self.spec.when.getFullYear()", json!(2024)),
        ("self.spec.when + duration('1h') == timestamp('2024-01-02T04:04:05Z')", json!(true)),
        ("type(self.spec.any) == string && self.spec.any == '5%'", json!(true)),
        ("self.spec.__namespace__ + self.spec.x__dash__y", json!("nsdash")),
        ("self.spec.?replicas.orValue(1) + self.?spec.?replicas.or(optional.of(0)).value()", json!(6)),
        ("[1, 2, 3].exists(i, i / 0 == 1 || i == 2)", json!(null)),
        ("[3, 1, 2].sort()", json!([1, 2, 3])),
        ("['bb', 'a'].sortBy(s, s.size())", json!(["a", "bb"])),
        ("[1, 2].transformList(i, v, i * v)", json!([0, 2])),
        ("{'a': 1}.transformMap(k, v, v + 1)", json!({"a": 2})),
        ("cel.bind(x, self.spec.replicas, x * x)", json!(9)),
        ("optional.of(2).optMap(v, v + 1).value()", json!(3)),
        ("[1, ?optional.none(), 2].size()", json!(2)),
        ("'%s has %d at %.2f'.format(['a', 3, 1.5])", json!("a has 3 at 1.50")),
        ("'a,b,c'.split(',').join('-').upperAscii()", json!("A-B-C")),
        ("'hello'.substring(1, 3) + 'hello'.charAt(4)", json!("elo")),
        ("'abcabc'.lastIndexOf('b')", json!(4)),
        ("'abc123'.find('[0-9]+')", json!("123")),
        ("'x1y2'.findAll('[0-9]')", json!(["1", "2"])),
        ("'a.b'.matches('^a[.]b$')", json!(true)),
        ("quantity('1.5Gi').isGreaterThan(quantity('1Gi')) && isQuantity('5m') && !isQuantity('x')", json!(true)),
        ("quantity('50k').add(20).asInteger()", json!(50020)),
        (
            "cidr('10.0.0.0/8').containsIP('10.1.2.3') && ip('::1').isLoopback() && ip('fe80::1').family() == 6",
            json!(true),
        ),
        ("cidr('192.168.1.5/24').masked().ip() == ip('192.168.1.0')", json!(true)),
        ("url('https://u@h.io:80/p/q?a=1&a=2').getQuery()['a']", json!(["1", "2"])),
        ("url('https://h.io:80/p').getHostname() + url('https://h.io:80/p').getPort()", json!("h.io80")),
        ("semver('1.2.3').isLessThan(semver('1.10.0')) && isSemver('v1.0', true)", json!(true)),
        ("format.dns1123Label().validate('Bad').hasValue()", json!(true)),
        (
            "sets.contains([1, 2, 3], [2]) && sets.intersects([1], [1, 2]) && sets.equivalent([1, 2], [2, 1])",
            json!(true),
        ),
        ("1 == 1.0 && dyn(1) == 1u", json!(null)),
        ("dyn(1) == 1.0", json!(true)),
        ("[[1], [2]].flatten()", json!([1, 2])),
        ("base64.encode(b'hi')", json!("aGk=")),
        ("true ? 'yes' : 'no'", json!("yes")),
        ("r'\\d' == '\\\\d' && '''a\nb'''.size() == 3", json!(true)),
        ("self.spec.tags == ['a', 'b'] && self.spec.ports[0] == self.spec.ports[0]", json!(true)),
    ];
    for (expression, wanted) in cases {
        let found = value(expression);
        if wanted.is_null() {
            continue;
        }
        assert_eq!(found, Ok(wanted), "{expression}");
    }
    assert_eq!(value("[1, 2, 3].exists(i, i == 2 || i / 0 == 1)"), Ok(json!(true)));
}

#[test]
fn what_cannot_be_meant_is_refused_when_it_is_compiled() {
    let cases = [
        ("self.spec.nope", "undefined field 'nope'"),
        ("nope == 1", "undeclared reference to 'nope' (in container '')"),
        ("self.spec.replicas == 'x'", "found no matching overload for '_==_' applied to '(int, string)'"),
        ("self.spec.name + 1", "found no matching overload for '_+_' applied to '(string, int)'"),
        ("self.spec.name.nope()", "undeclared reference to 'nope' (in container '')"),
        ("self.spec.ports.all(p, p.port)", "found no matching overload for '_&&_'"),
        ("self.spec.all(k, true)", "cannot be range of a comprehension"),
        ("'a'.matches('(')", "invalid matches argument"),
        ("1 +", "Syntax error"),
        ("", "Syntax error"),
        ("has(1)", "invalid argument to has() macro"),
    ];
    for (expression, told) in cases {
        let error = compile(expression, &environment()).unwrap_err().to_string();
        assert!(error.contains(told), "{expression}: {error}");
        assert!(error.starts_with("compilation failed"), "{expression}: {error}");
    }
}

#[test]
fn what_goes_wrong_while_it_runs_is_told() {
    let cases = [
        ("1 / 0 == 1", "division by zero"),
        ("self.spec.ports[1].name == ''", "no such key: name"),
        ("self.spec.labels['none']", "no such key: none"),
        ("self.spec.tags[7]", "index out of bounds: 7"),
        ("9223372036854775807 + 1", "integer overflow"),
        ("optional.none().value()", "optional.none() dereference"),
        ("int('x')", "type conversion error from 'string' to 'int'"),
    ];
    for (expression, told) in cases {
        assert_eq!(value(expression).unwrap_err(), told, "{expression}");
    }
}

#[test]
fn a_hostile_rule_costs_a_bounded_time_and_ends_nothing() {
    let nested = "[1,2,3,4,5,6,7,8,9,10].all(a, ".repeat(12) + "true" + &")".repeat(12);
    assert_eq!(value(&nested).unwrap_err(), "operation cancelled: actual cost limit exceeded");
    for text in [
        "(".repeat(100_000),
        "[".repeat(5_000) + &"]".repeat(5_000),
        "!".repeat(50_000) + "true",
        "-".repeat(5_000) + "1",
        "a.".repeat(30_000) + "b",
        "1+".repeat(30_000) + "1",
        "true ? ".repeat(3_000) + "1" + &" : 2".repeat(3_000),
        "a".repeat(1 << 20),
        "'".to_owned() + &"x".repeat(1 << 20) + "'",
        "\u{0}\u{ffff}🦀".to_owned(),
    ] {
        assert!(compile(&text, &environment()).is_err(), "{:.20}", text);
    }
    let doubling = "['x'].map(a, a+a)".to_owned() + &".map(a, a+a+a+a+a+a+a+a+a+a)".repeat(12);
    let _ = value(&doubling);
    let long = "'aaaaaaaaaa'.replace('a', 'aaaaaaaaaa')".to_owned() + &".replace('a', 'aaaaaaaaaa')".repeat(9);
    assert!(value(&long).is_err());
    assert!(value("lists.range(100000000).size() == 1").is_err());
}

#[test]
fn what_is_shared_within_itself_is_neither_compared_nor_written_out_at_length() {
    let levels = 60;
    let mut text = String::new();
    for level in 0..levels {
        let before = if level == 0 { "'x'".to_owned() } else { format!("v{}", level - 1) };
        text.push_str(&format!("cel.bind(v{level}, [{before}, {before}], "));
    }
    let close = ")".repeat(levels);
    let last = levels - 1;
    let environment = Environment::new();
    let compiled = |body: &str| compile(&format!("{text}{body}{close}"), &environment).unwrap();
    let made = compiled(&format!("v{last}"));
    let mut budget = Budget::new(CALL_COST_MAX);
    assert!(made.eval(&Variables::new(), &mut budget).unwrap().to_json().is_none());
    for body in [format!("v{last} == v{last}"), format!("sets.contains(v{last}, v{last})")] {
        let program = compiled(&body);
        let mut budget = Budget::new(CALL_COST_MAX);
        assert_eq!(program.eval(&Variables::new(), &mut budget).unwrap_err(), EvalError::OverBudget, "{body}");
    }
}

#[test]
fn a_value_made_of_values_again_and_again_is_found_to_be_too_deep() {
    let environment = Environment::new().with("v", Type::Dyn);
    let program = compile("[v, v]", &environment).unwrap();
    let mut value = Val::Int(1);
    for level in 0..=NESTING_MAX {
        assert!(!value.nests_too_deep(), "{level}");
        let mut budget = Budget::new(CALL_COST_MAX);
        value = program.eval(&Variables::new().with("v", value), &mut budget).unwrap();
    }
    assert!(value.nests_too_deep());
}
