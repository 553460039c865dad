//! Whether a policy's expressions fit the kinds that it is about: what they say of an object is checked against each kind's
//! schema.
//!
//! In: a ValidatingAdmissionPolicy and the types of its kinds. Out: warnings for its status, worded as Kubernetes words them. They
//! refuse nothing: a policy may be about kinds that do not have the same fields.

use serde_json::{Value, json};

use crate::cel::{Request, Type};
use crate::kinds::Gvk;

/// No more kinds are checked.
pub const KINDS_MAX: usize = 10;

/// A resource that a policy is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// Its group.
    pub group: String,
    /// Its version.
    pub version: String,
    /// Its plural name.
    pub resource: String,
}

fn texts<'a>(rule: &'a Value, key: &str) -> Vec<&'a str> {
    let mut texts: Vec<&str> = rule[key].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    texts.sort_unstable();
    texts
}

fn list<'a>(spec: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    spec[key].as_array().into_iter().flatten()
}

/// The resources that a policy names. A rule that names all groups or versions names none.
pub fn subjects(policy: &Value) -> Vec<Subject> {
    let mut found = Vec::new();
    for rule in list(&policy["spec"]["matchConstraints"], "resourceRules") {
        let (groups, versions) = (texts(rule, "apiGroups"), texts(rule, "apiVersions"));
        if groups.iter().chain(&versions).any(|text| text.contains('*')) {
            continue;
        }
        for group in &groups {
            for version in &versions {
                for resource in texts(rule, "resources").into_iter().filter(|text| !text.contains(['*', '/'])) {
                    let [group, version, resource] = [*group, *version, resource].map(str::to_owned);
                    let subject = Subject { group, version, resource };
                    if !found.contains(&subject) {
                        found.push(subject);
                    }
                }
            }
        }
    }
    found
}

/// The expressions that do not fit, as the status lists them.
pub fn warnings(policy: &Value, kinds: &[(Gvk, Type)], params: Option<&Type>) -> Vec<Value> {
    let spec = &policy["spec"];
    let mut kinds: Vec<&(Gvk, Type)> = kinds.iter().collect();
    kinds.sort_by_key(|(gvk, _)| (&gvk.group, &gvk.version, &gvk.kind));
    kinds.dedup_by_key(|(gvk, _)| gvk.clone());
    kinds.truncate(KINDS_MAX);
    let requests: Vec<(&Gvk, Request)> = kinds
        .into_iter()
        .map(|(gvk, ty)| {
            let mut request = Request::of_types(ty.clone(), params.cloned());
            for variable in list(spec, "variables") {
                let text = |key: &str| variable[key].as_str().unwrap_or_default();
                // What is wrong with a variable shows where it is used.
                let _ = request.variable(text("name"), text("expression"));
            }
            (gvk, request)
        })
        .collect();
    let check = |expression: &str| {
        let wrong = requests.iter().filter_map(|(gvk, request)| {
            let error = request.compile(expression, &[]).err()?;
            let version = if gvk.group.is_empty() { format!("/{}", gvk.version) } else { gvk.api_version() };
            Some(format!("{version}, Kind={}: {error}\n", gvk.kind))
        });
        wrong.collect::<Vec<_>>().join("\n")
    };
    let mut found = Vec::new();
    for (at, validation) in list(spec, "validations").enumerate() {
        for field in ["expression", "messageExpression"] {
            let warning = validation[field].as_str().filter(|text| !text.is_empty()).map(check).unwrap_or_default();
            if !warning.is_empty() {
                found.push(json!({"fieldRef": format!("spec.validations[{at}].{field}"), "warning": warning}));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Catalog;

    fn policy(resources: Value, validations: Value) -> Value {
        json!({"spec": {
            "matchConstraints": {"resourceRules": [{"apiGroups": ["apps"], "apiVersions": ["v1"], "resources": resources}]},
            "variables": [{"name": "n", "expression": "object.spec.replicas"}],
            "validations": validations,
        }})
    }

    #[test]
    fn what_a_kind_does_not_have_is_warned_of_by_kind() {
        let catalog = Catalog::builtin();
        let policy = policy(
            json!(["deployments", "daemonsets", "deployments/scale", "*"]),
            json!([
                {"expression": "variables.n > 1"},
                {"expression": "object.spec.replcas > 1", "messageExpression": "object.spec.replicas"},
                {"expression": "object.metadata.name == 'a'"},
                {"expression": "object.spec.template.spec.containers.all(c, c.image == 1)"},
            ]),
        );
        let named = subjects(&policy);
        let plurals: Vec<&str> = named.iter().map(|subject| subject.resource.as_str()).collect();
        assert_eq!(plurals, ["daemonsets", "deployments"]);
        let kinds: Vec<(Gvk, Type)> = named
            .iter()
            .map(|subject| {
                let resource = catalog.resource(&subject.group, &subject.version, &subject.resource).unwrap();
                (resource.gvk(), Type::of_schema(resource.schema()))
            })
            .collect();
        let told = warnings(&policy, &kinds, None);
        let fields: Vec<&str> = told.iter().map(|warning| warning["fieldRef"].as_str().unwrap()).collect();
        let wanted = [
            "spec.validations[1].expression",
            "spec.validations[1].messageExpression",
            "spec.validations[3].expression",
        ];
        assert_eq!(fields, wanted, "{told:#?}");
        let both = told[0]["warning"].as_str().unwrap();
        assert!(
            both.starts_with("apps/v1, Kind=DaemonSet: compilation failed: ERROR: <input>: undefined field 'replcas'"),
            "{both}"
        );
        assert!(both.contains("\napps/v1, Kind=Deployment: compilation failed"), "{both}");
        let one = told[1]["warning"].as_str().unwrap();
        assert!(one.contains("DaemonSet") && !one.contains("Deployment"), "{one}");
    }

    #[test]
    fn rules_for_everything_are_about_no_kind_in_particular() {
        let mut all = policy(json!(["deployments"]), json!([]));
        all["spec"]["matchConstraints"]["resourceRules"][0]["apiVersions"] = json!(["*"]);
        assert!(subjects(&all).is_empty());
    }
}
