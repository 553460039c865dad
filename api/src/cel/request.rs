//! What expressions about a request may name: the variables of match conditions and admission policies.

use std::sync::{Arc, LazyLock};

use super::authority::{AUTHORIZER, RESOURCE_CHECK};
use super::lower::OBJECT;
use super::types::{Field, ObjectType, Type};
use super::value::{Map, Val};
use super::{CompileError, Environment, Program, compile_as};

fn object(name: &str, fields: &[(&str, Type)]) -> Type {
    let fields = fields.iter().map(|(name, ty)| ((*name).to_owned(), ty.clone()));
    // The names are Kubernetes' own, and expressions write them as they are.
    let fields = fields.map(|(json, ty)| (json.clone(), Field { json, ty })).collect();
    Type::Object(Arc::new(ObjectType { name: name.to_owned(), fields }))
}

/// The type of `request`.
pub static REQUEST: LazyLock<Type> = LazyLock::new(|| {
    let text = || Type::String;
    let kind = object("kubernetes.GroupVersionKind", &[("group", text()), ("version", text()), ("kind", text())]);
    let resource =
        object("kubernetes.GroupVersionResource", &[("group", text()), ("version", text()), ("resource", text())]);
    let user = object(
        "kubernetes.UserInfo",
        &[
            ("username", text()),
            ("uid", text()),
            ("groups", Type::list(text())),
            ("extra", Type::map(Type::list(text()))),
        ],
    );
    object(
        "kubernetes.AdmissionRequest",
        &[
            ("kind", kind.clone()),
            ("resource", resource.clone()),
            ("subResource", text()),
            ("requestKind", kind),
            ("requestResource", resource),
            ("requestSubResource", text()),
            ("name", text()),
            ("namespace", text()),
            ("operation", text()),
            ("userInfo", user),
            ("dryRun", Type::Bool),
            ("options", Type::Dyn),
        ],
    )
});

/// The type of `namespaceObject`: of a namespace, what does not name other objects.
pub static NAMESPACE: LazyLock<Type> = LazyLock::new(|| {
    let text = || Type::String;
    let metadata = object(
        "kubernetes.NamespaceMetadata",
        &[
            ("name", text()),
            ("generateName", text()),
            ("namespace", text()),
            ("labels", Type::map(text())),
            ("annotations", Type::map(text())),
            ("UID", text()),
            ("creationTimestamp", Type::Timestamp),
            ("deletionGracePeriodSeconds", Type::Int),
            ("deletionTimestamp", Type::Timestamp),
            ("generation", Type::Int),
            ("resourceVersion", text()),
            ("finalizers", Type::list(text())),
        ],
    );
    let condition = object(
        "kubernetes.NamespaceCondition",
        &[
            ("status", text()),
            ("type", text()),
            ("lastTransitionTime", Type::Timestamp),
            ("message", text()),
            ("reason", text()),
        ],
    );
    let spec = object("kubernetes.NamespaceSpec", &[("finalizers", Type::list(text()))]);
    let status = object("kubernetes.NamespaceStatus", &[("conditions", Type::list(condition)), ("phase", text())]);
    object("kubernetes.Namespace", &[("metadata", metadata), ("spec", spec), ("status", status)])
});

/// The names that one policy's or webhook's expressions may use, and the variables they make on the way.
#[derive(Debug, Clone)]
pub struct Request {
    environment: Environment,
    variables: ObjectType,
}

impl Request {
    /// For a policy with or without parameters; for a webhook without. The types of objects are known at run time only.
    pub fn new(params: bool) -> Self {
        Self::of_types(Type::Dyn, params.then_some(Type::Dyn))
    }

    /// For objects and parameters of known types.
    pub fn of_types(object: Type, params: Option<Type>) -> Self {
        let mut environment = Environment::new()
            .with("object", object.clone())
            .with("oldObject", object)
            .with("request", REQUEST.clone())
            .with("namespaceObject", NAMESPACE.clone())
            .with("authorizer", Type::Opaque(AUTHORIZER))
            .with("authorizer.requestResource", Type::Opaque(RESOURCE_CHECK));
        if let Some(params) = params {
            environment = environment.with("params", params);
        }
        Self { environment, variables: ObjectType { name: "kubernetes.variables".to_owned(), ..ObjectType::default() } }
    }

    /// The same for expressions that make objects and patches.
    #[must_use]
    pub fn with_structs(mut self) -> Self {
        self.environment = self.environment.with_structs();
        self
    }

    /// The same for expressions that may not ask for permissions.
    #[must_use]
    pub fn without_authorizer(mut self) -> Self {
        self.environment.variables.retain(|name, _| !name.starts_with("authorizer"));
        self
    }

    /// The same where variables may be used, even if there are none.
    #[must_use]
    pub fn with_variables(mut self) -> Self {
        self.environment = self.environment.with("variables", Type::Object(Arc::new(self.variables.clone())));
        self
    }

    /// Compiles a variable; what is compiled after it may use it by its name. One that does not compile may be anything.
    pub fn variable(&mut self, name: &str, expression: &str) -> Result<Program, CompileError> {
        let program = super::compile(expression, &self.environment);
        let ty = program.as_ref().map_or(Type::Dyn, |program| program.result().clone());
        self.variables.fields.insert(name.to_owned(), Field { json: name.to_owned(), ty });
        self.environment =
            std::mem::take(&mut self.environment).with("variables", Type::Object(Arc::new(self.variables.clone())));
        program
    }

    /// Compiles an expression that must have a value of one of these types; of any, if none are named.
    pub fn compile(&self, expression: &str, wanted: &[Type]) -> Result<Program, CompileError> {
        match wanted {
            [] => super::compile(expression, &self.environment),
            wanted => compile_as(expression, &self.environment, wanted),
        }
    }
}

/// What is wrong with the type names of structs that an expression made: each must say where in the object it stands.
pub fn misnamed_structs(value: &Val<'_>) -> Vec<String> {
    let mut found = Vec::new();
    misnamed(value, OBJECT, &mut found);
    found
}

fn misnamed(value: &Val<'_>, path: &str, found: &mut Vec<String>) {
    match value {
        Val::Map(Map::Made(name, fields)) => {
            if **name != *path {
                found.push(format!(
                    "unexpected type name {name:?}, expected {path:?}, which matches field name path from root Object type"
                ));
            }
            for (field, value) in fields.iter() {
                misnamed(value, &format!("{path}.{field}"), found);
            }
        }
        Val::Map(Map::Own(entries)) => entries.values().for_each(|value| misnamed(value, path, found)),
        Val::List(list) => list.iter().for_each(|value| misnamed(&value, path, found)),
        _ => {}
    }
}
