//! `x-kubernetes-validations`: rules in the expression language.
//!
//! In: the rules of a schema, compiled once, each at its place; an object and what it was. Out: what is wrong, as Kubernetes words
//! it. A rule about a change needs the value before: it can be told for struct fields, map entries and items of lists of type
//! map. All rules of one object share a budget, so whatever they say costs a bounded time.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::cel::{self, Budget, Environment, EvalError, Program, Type, Val, Variables};
use crate::error::{FieldError, FieldErrorKind};
use crate::schema::rules::Rules;

/// The budget of an object's rules is used up; the error that says so is among the errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exhausted;

/// The rules of a schema node and of what is below it.
#[derive(Debug, Clone, Default)]
pub struct Expressions {
    rules: Vec<Rule>,
    ty: Option<Type>,
    properties: BTreeMap<String, Expressions>,
    additional: Option<Box<Expressions>>,
    items: Option<Box<Expressions>>,
}

#[derive(Debug, Clone)]
struct Rule {
    text: String,
    program: Result<Program, String>,
    message: String,
    message_program: Option<Program>,
    kind: FieldErrorKind,
    field_path: String,
    optional_old: bool,
    uses_old: bool,
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// What a rule may use at a place of this type.
fn environment(ty: &Type, optional_old: bool) -> Environment {
    let old = if optional_old { Type::Optional(std::sync::Arc::new(ty.clone())) } else { ty.clone() };
    Environment::new().with("self", ty.clone()).with("oldSelf", old)
}

fn compile(rule: &Value, ty: &Type) -> Rule {
    let optional_old = rule.get("optionalOldSelf").and_then(Value::as_bool).unwrap_or_default();
    let environment = environment(ty, optional_old);
    let program = cel::compile(text(rule, "rule").trim(), &environment).map_err(|error| error.to_string());
    let program = program.and_then(|program| {
        if program.result().fits(&Type::Bool) {
            Ok(program)
        } else {
            Err("cel expression must evaluate to a bool".to_owned())
        }
    });
    let message_program = Some(text(rule, "messageExpression").trim()).filter(|text| !text.is_empty());
    let kind = match text(rule, "reason") {
        "FieldValueRequired" => FieldErrorKind::Required,
        "FieldValueForbidden" => FieldErrorKind::Forbidden,
        "FieldValueDuplicate" => FieldErrorKind::Duplicate,
        _ => FieldErrorKind::Invalid,
    };
    Rule {
        text: text(rule, "rule").trim().to_owned(),
        uses_old: program.as_ref().is_ok_and(|program| program.uses("oldSelf")),
        program,
        message: text(rule, "message").trim().to_owned(),
        message_program: message_program.and_then(|text| cel::compile(text, &environment).ok()),
        kind,
        field_path: text(rule, "fieldPath").trim().trim_start_matches('.').to_owned(),
        optional_old,
    }
}

/// What one expression may cost by estimate, times how often it is evaluated.
const EXPRESSION_COST_MAX: u64 = 10_000_000;
/// What all expressions of one definition's schema may.
const SCHEMA_COST_MAX: u64 = 100_000_000;
/// So many of the most expensive expressions are named.
const NAMED_MAX: usize = 4;

/// The estimated costs of a schema's expressions.
#[derive(Debug, Default)]
pub struct Costs {
    total: u64,
    /// The paths of those that cost most.
    highest: Vec<(u64, String)>,
}

impl Costs {
    fn count(&mut self, path: String, cost: u64) {
        self.total = self.total.saturating_add(cost);
        if cost >= SCHEMA_COST_MAX / 100 {
            self.highest.push((cost, path));
            self.highest.sort_by_key(|(cost, _)| std::cmp::Reverse(*cost));
            self.highest.truncate(NAMED_MAX);
        }
    }

    /// What is wrong with all of them together; `path` is the schema's.
    pub fn problems(self, path: &str) -> Vec<FieldError> {
        if self.total <= SCHEMA_COST_MAX {
            return Vec::new();
        }
        let contributed = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
        let mut found: Vec<FieldError> =
            self.highest.into_iter().map(|(_, path)| FieldError::forbidden(path, contributed)).collect();
        let what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        found.push(FieldError::forbidden(path, over_budget(what, self.total, SCHEMA_COST_MAX)));
        found
    }
}

fn over_budget(what: &str, cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    let factor = match factor {
        factor if factor > 100.0 => "more than 100x".to_owned(),
        // Else it would be told as 1.0x.
        factor if factor < 1.5 => format!("{factor:.6}x"),
        factor => format!("{factor:.1}x"),
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and \
         maxLength where arrays, maps, and strings are declared)"
    )
}

/// Where a schema node stands.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// Its path.
    pub path: &'a str,
    /// Whether it is a whole object.
    pub root: bool,
    /// Whether a value there can be told to be the same as one before.
    pub correlatable: bool,
    /// How many such values an object may hold; none if nothing limits it.
    pub repeated: Option<u64>,
}

/// What is wrong with the rules of a schema node.
pub fn problems(schema: &Value, place: Place<'_>, costs: &mut Costs) -> Vec<FieldError> {
    let mut found = Vec::new();
    let rules = schema.get("x-kubernetes-validations").and_then(Value::as_array);
    let (Some(ty), Some(extent)) =
        (Type::of_structural(schema, place.root), cel::Extent::of_structural(schema, place.root))
    else {
        return found;
    };
    let repeated = place.repeated.unwrap_or_else(|| extent.repetitions());
    for (at, rule) in rules.into_iter().flatten().enumerate() {
        let here = |field: &str| format!("{}.x-kubernetes-validations[{at}].{field}", place.path);
        let compiled = compile(rule, &ty);
        match &compiled.program {
            Err(why) => found.push(FieldError::invalid(here("rule"), compiled.text.clone(), why.clone())),
            Ok(program) => {
                let cost = cel::estimate(program, &extent).saturating_mul(repeated);
                if cost > EXPRESSION_COST_MAX {
                    let why = over_budget("estimated rule cost", cost, EXPRESSION_COST_MAX);
                    found.push(FieldError::forbidden(here("rule"), why));
                }
                costs.count(here("rule"), cost);
            }
        }
        let expression = text(rule, "messageExpression").trim();
        if !expression.is_empty() {
            let refuse = |why: String| FieldError::invalid(here("messageExpression"), expression, why);
            match cel::compile(expression, &environment(&ty, compiled.optional_old)) {
                Err(error) => found.push(refuse(format!("messageExpression {error}"))),
                Ok(program) if !program.result().fits(&Type::String) => {
                    found.push(refuse("messageExpression must evaluate to a string".to_owned()));
                }
                Ok(program) => {
                    let cost = cel::estimate(&program, &extent);
                    if cost > EXPRESSION_COST_MAX {
                        let why = over_budget("estimated messageExpression cost", cost, EXPRESSION_COST_MAX);
                        found.push(FieldError::forbidden(here("messageExpression"), why));
                    }
                    costs.count(here("messageExpression"), cost);
                }
            }
        }
        if compiled.optional_old && !compiled.uses_old {
            let why = "may not be set if oldSelf is not used in rule";
            found.push(FieldError::invalid(here("optionalOldSelf"), true, why));
        }
        if compiled.uses_old && !place.correlatable {
            let why = "oldSelf cannot be used on the uncorrelatable portion of the schema";
            found.push(FieldError::invalid(here("rule"), compiled.text.clone(), why));
        }
    }
    found
}

impl Expressions {
    /// Compiles the rules of a schema; `root`: of a whole object.
    pub fn new(schema: &Value, root: bool) -> Expressions {
        let rules = schema.get("x-kubernetes-validations").and_then(Value::as_array).filter(|rules| !rules.is_empty());
        let ty = rules.and_then(|_| Type::of_structural(schema, root));
        let rules = match (&ty, rules) {
            (Some(ty), Some(rules)) => rules.iter().map(|rule| compile(rule, ty)).collect(),
            _ => Vec::new(),
        };
        let below = |schema: &Value| Some(Expressions::new(schema, false)).filter(|below| !below.is_empty());
        let object = |key: &str| schema.get(key).filter(|value| value.is_object());
        let properties = schema.get("properties").and_then(Value::as_object);
        Expressions {
            rules,
            ty,
            properties: properties
                .into_iter()
                .flatten()
                .filter_map(|(name, schema)| Some((name.clone(), below(schema)?)))
                .collect(),
            additional: object("additionalProperties").and_then(below).map(Box::new),
            items: object("items").and_then(below).map(Box::new),
        }
    }

    /// Whether there is nothing to check here or below.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.properties.is_empty() && self.additional.is_none() && self.items.is_none()
    }

    /// The rules of a field.
    pub fn property(&self, name: &str) -> Option<&Expressions> {
        self.properties.get(name)
    }

    /// Checks a value; `rules` are those of the same schema node. An error ends the check: the budget is used up.
    pub fn check(
        &self,
        rules: &Rules,
        value: &Value,
        old: Option<&Value>,
        path: &str,
        budget: &mut Budget,
        errors: &mut Vec<FieldError>,
    ) -> Result<(), Exhausted> {
        // An absent nullable value has nothing to be judged by.
        if value.is_null() {
            return Ok(());
        }
        if let Some(ty) = &self.ty {
            self.here(ty, value, old, path, budget, errors)?;
        }
        let join = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        match value {
            Value::Object(map) => {
                let unknown = Rules::default();
                for (name, value) in map {
                    let (below, of) = match self.properties.get(name) {
                        Some(below) => (below, rules.properties.get(name)),
                        None if rules.properties.contains_key(name) => continue,
                        None => match &self.additional {
                            Some(below) => (&**below, rules.additional.as_deref()),
                            None => continue,
                        },
                    };
                    let old = old.and_then(|old| old.get(name));
                    below.check(of.unwrap_or(&unknown), value, old, &join(name), budget, errors)?;
                }
            }
            Value::Array(items) => {
                let (Some(below), Some(of)) = (&self.items, rules.items.as_deref()) else { return Ok(()) };
                let before = old.and_then(Value::as_array);
                // In a list that has not changed every item is what it was, whether or not items have keys.
                let unchanged = before.filter(|before| *before == items);
                for (at, item) in items.iter().enumerate() {
                    let key = rules.key_of(item);
                    let named =
                        || key.and_then(|key| before?.iter().find(|old| rules.key_of(old).as_ref() == Some(&key)));
                    let was = unchanged.and_then(|before| before.get(at)).or_else(named);
                    below.check(of, item, was, &format!("{path}[{at}]"), budget, errors)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn here(
        &self,
        ty: &Type,
        value: &Value,
        old: Option<&Value>,
        path: &str,
        budget: &mut Budget,
        errors: &mut Vec<FieldError>,
    ) -> Result<(), Exhausted> {
        let unchanged = old.is_some_and(|old| old == value);
        for rule in &self.rules {
            if rule.uses_old && old.is_none() && !rule.optional_old {
                continue;
            }
            let program = match &rule.program {
                Ok(program) => program,
                Err(why) => {
                    errors.push(omitted(path, format!("rule compile error: {why}")));
                    continue;
                }
            };
            let mut variables = Variables::new().with("self", Val::of(value, ty));
            let before = old.map(|old| Val::of(old, ty));
            match (rule.optional_old, before) {
                (true, before) => variables.set("oldSelf", Val::Optional(before.map(std::sync::Arc::new))),
                (false, Some(before)) => variables.set("oldSelf", before),
                (false, None) => {}
            }
            let mut call = Budget::new(budget.left().min(cel::CALL_COST_MAX));
            let result = program.eval(&variables, &mut call);
            let exhausted = budget.charge(call.used()).is_err();
            match result {
                Ok(Val::Bool(true)) => {}
                Ok(_) if unchanged && !rule.uses_old => {}
                Ok(_) => errors.push(rule.error(value, path, &variables, budget)),
                Err(EvalError::OverBudget) => {
                    let why = if exhausted || budget.left() == 0 {
                        "validation failed due to running out of cost budget, no further validation rules will be run".to_owned()
                    } else {
                        format!(
                            "'{}': no further validation rules will be run due to call cost exceeds limit for rule: {}",
                            EvalError::OverBudget, rule.text
                        )
                    };
                    errors.push(omitted(path, why));
                    return Err(Exhausted);
                }
                Err(EvalError::NoOverload) => errors.push(omitted(
                    path,
                    format!("'no such overload': call arguments did not match a supported operator, function or macro signature for rule: {}", rule.text),
                )),
                Err(error) => errors.push(omitted(path, format!("{error} evaluating rule: {}", rule.text))),
            }
        }
        Ok(())
    }
}

fn omitted(path: &str, detail: String) -> FieldError {
    let path = if path.is_empty() { "<nil>" } else { path };
    FieldError { kind: FieldErrorKind::Invalid, path: path.to_owned(), value: None, detail }
}

impl Rule {
    fn error<'a>(&'a self, value: &Value, path: &str, variables: &Variables<'a>, budget: &mut Budget) -> FieldError {
        let said = self.message_program.as_ref().and_then(|program| {
            let mut call = Budget::new(budget.left().min(cel::CALL_COST_MAX));
            let said = program.eval(variables, &mut call);
            let _ = budget.charge(call.used());
            let said = said.ok()?.as_str()?.trim().to_owned();
            (!said.is_empty() && !said.contains('\n') && said.len() <= 5 << 10).then_some(said)
        });
        let detail = said.unwrap_or_else(|| {
            if self.message.is_empty() { format!("failed rule: {}", self.text) } else { self.message.clone() }
        });
        let mut error = omitted(path, detail);
        if !self.field_path.is_empty() {
            error.path = if path.is_empty() { self.field_path.clone() } else { format!("{path}.{}", self.field_path) };
        }
        error.kind = self.kind;
        if !matches!(value, Value::Object(_) | Value::Array(_)) {
            error.value = Some(value.clone());
        }
        error
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema() -> Value {
        json!({"type": "object", "properties": {"spec": {"type": "object",
        "x-kubernetes-validations": [
            {"rule": "self.min <= self.max", "messageExpression": "'min ' + string(self.min) + ' is above max'", "fieldPath": ".min", "reason": "FieldValueForbidden"},
            {"rule": "self.max >= oldSelf.max", "message": "max never shrinks"},
            {"rule": "!oldSelf.hasValue() || self.name == oldSelf.value().name", "optionalOldSelf": true, "message": "the name stays"},
        ],
        "properties": {
            "min": {"type": "integer"}, "max": {"type": "integer"}, "name": {"type": "string", "default": ""},
            "list": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": {
                "type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "integer",
                    "x-kubernetes-validations": [{"rule": "self >= oldSelf"}]}}}},
        }}}})
    }

    fn check(value: Value, old: Option<Value>) -> Vec<String> {
        check_by(schema(), value, old)
    }

    fn check_by(schema: Value, value: Value, old: Option<Value>) -> Vec<String> {
        let mut errors = Vec::new();
        let mut budget = Budget::new(cel::OBJECT_COST_MAX);
        let _ = Expressions::new(&schema, true).check(
            &Rules::new(&schema),
            &value,
            old.as_ref(),
            "",
            &mut budget,
            &mut errors,
        );
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_stands_in_an_unchanged_list_is_not_judged_again() {
        let schema = json!({"type": "object", "properties": {"n": {"type": "integer"}, "names": {"type": "array", "items": {
            "type": "string", "x-kubernetes-validations": [{"rule": "self != 'bad'", "message": "is bad"}]}}}});
        let object = |n: i64, names: &[&str]| json!({"n": n, "names": names});
        let old = object(1, &["bad", "good"]);
        assert_eq!(check_by(schema.clone(), object(2, &["bad", "good"]), Some(old.clone())), [""; 0]);
        let told = check_by(schema, object(1, &["bad"]), Some(old));
        assert_eq!((told.len(), told[0].contains("names[0]") && told[0].contains("is bad")), (1, true), "{told:?}");
    }

    fn object(min: i64, max: i64, name: &str, list: Value) -> Value {
        json!({"spec": {"min": min, "max": max, "name": name, "list": list}})
    }

    #[test]
    fn rules_judge_values_and_changes() {
        let fine = object(1, 2, "a", json!([{"k": "x", "v": 1}]));
        assert!(check(fine.clone(), None).is_empty());
        assert_eq!(check(object(3, 2, "a", json!([])), None), ["spec.min: Forbidden: min 3 is above max"]);
        let changed = object(1, 1, "b", json!([{"k": "new", "v": 0}, {"k": "x", "v": 0}]));
        assert_eq!(
            check(changed, Some(fine)),
            [
                "spec: Invalid value: max never shrinks",
                "spec: Invalid value: the name stays",
                "spec.list[1].v: Invalid value: 0: failed rule: self >= oldSelf",
            ]
        );
    }

    #[test]
    fn what_a_definition_may_not_say_is_found() {
        let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}, "x-kubernetes-validations": [
            {"rule": "self.b > 1"}, {"rule": "self.a"}, {"rule": "self.a > oldSelf.a"},
            {"rule": "true", "messageExpression": "1"}, {"rule": "true", "optionalOldSelf": true},
        ]});
        let place = Place { path: "s", root: false, correlatable: false, repeated: Some(1) };
        let found = problems(&schema, place, &mut Costs::default());
        let at = |n: usize, field: &str| format!("s.x-kubernetes-validations[{n}].{field}");
        let wanted =
            [at(0, "rule"), at(1, "rule"), at(2, "rule"), at(3, "messageExpression"), at(4, "optionalOldSelf")];
        assert_eq!(found.iter().map(|error| error.path.as_str()).collect::<Vec<_>>(), wanted);
    }
}
