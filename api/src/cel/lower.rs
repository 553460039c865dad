//! From a syntax tree to a checked program: macros, variables, fields and functions are resolved here, once.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use cel::IdedExpr;
use cel::common::ast::{CallExpr, EntryExpr, Expr, LiteralValue, SelectExpr, StructExpr};
use regex::Regex;

use super::functions::{self, Function};
use super::signatures::{NAMESPACES, SIGNATURES, Signature, T};
use super::types::{Field, Type};
use super::value::Text;
use super::{Environment, NESTING_MAX, Program, authority, parse};

/// What is wrong with an expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompileError(String);

impl CompileError {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    fn check(text: impl fmt::Display) -> Self {
        Self(format!("compilation failed: ERROR: <input>: {text}"))
    }
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for CompileError {}

/// A constant.
#[derive(Debug, Clone)]
pub(super) enum Constant {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Str(Arc<str>),
    Bytes(Arc<[u8]>),
    Type(Arc<str>),
}

/// What a fold over a list or map does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fold {
    All,
    Exists,
    ExistsOne,
    Filter,
    Map,
    /// Keys of a map stay, values are made.
    TransformMap,
    /// Entries are made.
    TransformEntry,
    /// Pairs of item and key, for sorting.
    SortBy,
}

/// A node of a program. Variables are slots.
#[derive(Debug, Clone)]
pub(super) enum Node {
    Constant(Constant),
    Slot(usize),
    /// A declared variable, by its place in [`Program::variables`].
    Global(usize),
    Field {
        of: Box<Node>,
        name: Arc<str>,
        optional: bool,
    },
    Has {
        of: Box<Node>,
        name: Arc<str>,
    },
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
    If(Box<Node>, Box<Node>, Box<Node>),
    List(Vec<(Node, bool)>),
    Map(Vec<(Node, Node, bool)>),
    /// A struct of a named type: names, values, and whether they may be left out.
    Struct(Arc<str>, Vec<(Arc<str>, Node, bool)>),
    Call {
        function: Function,
        name: Arc<str>,
        args: Vec<Node>,
        regex: Option<Arc<Regex>>,
        gives: Type,
    },
    /// `vars` slots follow `first`.
    Fold {
        kind: Fold,
        range: Box<Node>,
        first: usize,
        two: bool,
        filter: Option<Box<Node>>,
        body: Box<Node>,
    },
    /// A value with a name.
    Bind {
        value: Box<Node>,
        slot: usize,
        body: Box<Node>,
    },
    /// `optMap` and `optFlatMap`.
    OptMap {
        target: Box<Node>,
        slot: usize,
        body: Box<Node>,
        flat: bool,
    },
}

pub(super) type Typed = (Node, Type);

/// The type of a whole object that an expression makes.
pub(super) const OBJECT: &str = "Object";
/// The type of one operation of a patch.
pub(super) const JSON_PATCH: &str = "JSONPatch";

pub(super) fn compile(expression: &str, environment: &Environment) -> Result<Program, CompileError> {
    parse::parsed(expression, |tree| {
        let mut lowering = Lowering { environment, scope: Vec::new(), variables: Vec::new(), depth: 0, deepest: 0 };
        let (root, result) = lowering.node(tree)?;
        let uses: BTreeSet<String> = lowering.variables.iter().cloned().collect();
        Ok(Program { root, depth: lowering.deepest, result, variables: lowering.variables, uses })
    })
}

pub(super) struct Lowering<'e> {
    environment: &'e Environment,
    /// Names with their slots' types.
    pub(super) scope: Vec<(String, Type)>,
    variables: Vec<String>,
    depth: usize,
    deepest: usize,
}

/// `a.b.c` of a chain of selections.
fn qualified(expr: &IdedExpr) -> Option<String> {
    match &expr.expr {
        Expr::Ident(name) => Some(name.clone()),
        Expr::Select(select) if !select.test => Some(format!("{}.{}", qualified(&select.operand)?, select.field)),
        _ => None,
    }
}

impl Lowering<'_> {
    pub(super) fn node(&mut self, expr: &IdedExpr) -> Result<Typed, CompileError> {
        self.depth += 1;
        self.deepest = self.deepest.max(self.depth);
        if self.depth > usize::from(NESTING_MAX) {
            return Err(CompileError::new(format!(
                "compilation failed: expression recursion limit exceeded: {NESTING_MAX}"
            )));
        }
        let lowered = self.inner(expr);
        self.depth -= 1;
        lowered
    }

    fn inner(&mut self, expr: &IdedExpr) -> Result<Typed, CompileError> {
        match &expr.expr {
            Expr::Literal(literal) => Ok(literal_of(literal)),
            Expr::Ident(name) => self.ident(name),
            Expr::Select(select) => self.select(select),
            Expr::Call(call) => self.call(call),
            Expr::List(list) => {
                let mut items = Vec::with_capacity(list.elements.len());
                let mut of: Option<Type> = None;
                for (at, element) in list.elements.iter().enumerate() {
                    let (node, ty) = self.node(element)?;
                    let optional = list.optional_indices.contains(&at);
                    let ty = match ty {
                        Type::Optional(of) if optional => Type::clone(&of),
                        ty => ty,
                    };
                    of = Some(of.map_or(ty.clone(), |known| known.join(&ty)));
                    items.push((node, optional));
                }
                Ok((Node::List(items), Type::list(of.unwrap_or(Type::Dyn))))
            }
            Expr::Map(map) => {
                let mut entries = Vec::with_capacity(map.entries.len());
                let (mut keys, mut values): (Option<Type>, Option<Type>) = (None, None);
                for entry in &map.entries {
                    let EntryExpr::MapEntry(entry) = &entry.expr else {
                        return Err(CompileError::check("a map has keys, not fields"));
                    };
                    let (key, key_type) = self.node(&entry.key)?;
                    let (value, ty) = self.node(&entry.value)?;
                    let ty = match ty {
                        Type::Optional(of) if entry.optional => Type::clone(&of),
                        ty => ty,
                    };
                    keys = Some(keys.map_or(key_type.clone(), |known| known.join(&key_type)));
                    values = Some(values.map_or(ty.clone(), |known| known.join(&ty)));
                    entries.push((key, value, entry.optional));
                }
                let ty = Type::Map(Arc::new(keys.unwrap_or(Type::Dyn)), Arc::new(values.unwrap_or(Type::Dyn)));
                Ok((Node::Map(entries), ty))
            }
            Expr::Struct(made) => self.structure(made),
            Expr::Comprehension(_) | Expr::Unspecified => Err(CompileError::check("unsupported expression")),
        }
    }

    /// `Object{spec: Object.spec{…}}` or `JSONPatch{op: …}`, where they may be made.
    fn structure(&mut self, made: &StructExpr) -> Result<Typed, CompileError> {
        let name = made.type_name.strip_prefix('.').unwrap_or(&made.type_name);
        let patch = name == JSON_PATCH;
        if !self.environment.makes_structs || !(patch || name == OBJECT || name.starts_with("Object.")) {
            return Err(CompileError::check(format!("undeclared reference to '{name}' (in container '')")));
        }
        let mut fields = Vec::with_capacity(made.entries.len());
        for entry in &made.entries {
            let EntryExpr::StructField(field) = &entry.expr else {
                return Err(CompileError::check("a struct has fields, not keys"));
            };
            let (value, ty) = self.node(&field.value)?;
            let wanted = match field.field.as_str() {
                "op" | "path" | "from" if patch => &Type::String,
                "value" => &Type::Dyn,
                other if patch => return Err(CompileError::check(format!("undefined field '{other}'"))),
                _ => &Type::Dyn,
            };
            let given = match &ty {
                Type::Optional(of) if field.optional => of,
                ty => ty,
            };
            if !given.fits(wanted) {
                return Err(CompileError::check(format!(
                    "expected type of field '{}' is '{wanted}' but provided type is '{ty}'",
                    field.field
                )));
            }
            fields.push((Arc::from(field.field.as_str()), value, field.optional));
        }
        let name: Arc<str> = Arc::from(name);
        Ok((Node::Struct(Arc::clone(&name), fields), Type::Made(name)))
    }

    /// A name that is in scope or declared.
    fn known(&mut self, name: &str) -> Option<Typed> {
        let local = name.strip_prefix('.').unwrap_or(name);
        if let Some(slot) = self.scope.iter().rposition(|(known, _)| known == local) {
            return Some((Node::Slot(slot), self.scope[slot].1.clone()));
        }
        let ty = self.environment.get(local)?.clone();
        let at = self.variables.iter().position(|known| known == local).unwrap_or_else(|| {
            self.variables.push(local.to_owned());
            self.variables.len() - 1
        });
        Some((Node::Global(at), ty))
    }

    fn ident(&mut self, name: &str) -> Result<Typed, CompileError> {
        if let Some(found) = self.known(name) {
            return Ok(found);
        }
        let types = [
            "bool",
            "int",
            "uint",
            "double",
            "string",
            "bytes",
            "list",
            "map",
            "null_type",
            "type",
            "google.protobuf.Duration",
            "google.protobuf.Timestamp",
            "optional_type",
            "kubernetes.Quantity",
            "net.IP",
            "net.CIDR",
            "kubernetes.URL",
            "kubernetes.Semver",
        ];
        if types.contains(&name) {
            return Ok((Node::Constant(Constant::Type(Arc::from(name))), Type::Type));
        }
        Err(CompileError::check(format!("undeclared reference to '{name}' (in container '')")))
    }

    fn select(&mut self, select: &SelectExpr) -> Result<Typed, CompileError> {
        // A variable or type may have a dotted name.
        if let Some(root) = qualified(&select.operand)
            && !select.test
        {
            let whole = format!("{root}.{}", select.field);
            let first = root.split('.').next().unwrap_or_default();
            let shadowed = self.scope.iter().any(|(known, _)| known == first);
            if !shadowed && let Some(found) = self.known(&whole) {
                return Ok(found);
            }
            if !shadowed
                && self.environment.get(first).is_none()
                && let Ok(found) = self.ident(&whole)
            {
                return Ok(found);
            }
        }
        let (of, ty) = self.node(&select.operand)?;
        let (name, field) = self.field(&ty, &select.field)?;
        if select.test {
            return Ok((Node::Has { of: Box::new(of), name }, Type::Bool));
        }
        let optional = matches!(ty, Type::Optional(_));
        let field = if optional { Type::Optional(Arc::new(field)) } else { field };
        Ok((Node::Field { of: Box::new(of), name, optional }, field))
    }

    /// A field's name and type.
    fn field(&self, ty: &Type, name: &str) -> Result<(Arc<str>, Type), CompileError> {
        let of = match ty {
            Type::Optional(of) => of,
            ty => ty,
        };
        match of {
            Type::Object(object) => match object.fields.get(name) {
                Some(Field { ty, .. }) => Ok((Arc::from(name), ty.clone())),
                None => Err(CompileError::check(format!("undefined field '{name}'"))),
            },
            Type::Map(_, value) => Ok((Arc::from(name), Type::clone(value))),
            Type::Dyn | Type::Made(_) => Ok((Arc::from(name), Type::Dyn)),
            other => Err(CompileError::check(format!("type '{other}' does not support field selection"))),
        }
    }

    fn call(&mut self, call: &CallExpr) -> Result<Typed, CompileError> {
        if let Some(made) = self.expand(call)? {
            return Ok(made);
        }
        match (call.func_name.as_str(), call.args.as_slice()) {
            ("_&&_", [a, b]) => {
                let (a, b) = (self.truth(a, "_&&_")?, self.truth(b, "_&&_")?);
                return Ok((Node::And(Box::new(a), Box::new(b)), Type::Bool));
            }
            ("_||_", [a, b]) => {
                let (a, b) = (self.truth(a, "_||_")?, self.truth(b, "_||_")?);
                return Ok((Node::Or(Box::new(a), Box::new(b)), Type::Bool));
            }
            ("_?_:_", [condition, yes, no]) => {
                let condition = self.truth(condition, "_?_:_")?;
                let ((yes, a), (no, b)) = (self.node(yes)?, self.node(no)?);
                if !a.fits(&b) {
                    return Err(no_overload("_?_:_", &[Type::Bool, a, b]));
                }
                let ty = if matches!(a, Type::Null) { b } else { a.join(&b) };
                return Ok((Node::If(Box::new(condition), Box::new(yes), Box::new(no)), ty));
            }
            ("_?._", [of, name]) => {
                let Expr::Literal(LiteralValue::String(name)) = &name.expr else {
                    return Err(CompileError::check("unsupported optional field selection"));
                };
                let (of, ty) = self.node(of)?;
                let (name, field) = self.field(&ty, name.inner())?;
                let of_optional = matches!(field, Type::Optional(_));
                let ty = if of_optional { field } else { Type::Optional(Arc::new(field)) };
                return Ok((Node::Field { of: Box::new(of), name, optional: true }, ty));
            }
            _ => {}
        }
        self.function(call)
    }

    pub(super) fn truth(&mut self, expr: &IdedExpr, operator: &str) -> Result<Node, CompileError> {
        let (node, ty) = self.node(expr)?;
        if !ty.fits(&Type::Bool) {
            return Err(no_overload(operator, &[ty, Type::Bool]));
        }
        Ok(node)
    }

    fn function(&mut self, call: &CallExpr) -> Result<Typed, CompileError> {
        // `sets.contains(…)` is a function of a qualified name, not a member of `sets`.
        let namespace =
            call.target.as_deref().and_then(qualified).filter(|name| {
                NAMESPACES.contains(&name.as_str()) && !self.scope.iter().any(|(known, _)| known == name)
            });
        let (name, target) = match namespace {
            Some(namespace) if self.environment.get(&namespace).is_none() => {
                (format!("{namespace}.{}", call.func_name), None)
            }
            _ => (call.func_name.clone(), call.target.as_deref()),
        };
        let mut args = Vec::with_capacity(call.args.len() + 1);
        let mut types = Vec::with_capacity(call.args.len() + 1);
        for expr in target.into_iter().chain(&call.args) {
            let (node, ty) = self.node(expr)?;
            args.push(node);
            types.push(ty);
        }
        let member = target.is_some();
        let mut known = SIGNATURES.iter().filter(|s| s.name == name && s.member == member).peekable();
        if known.peek().is_none() {
            let what = if member { call.func_name.as_str() } else { name.as_str() };
            return Err(CompileError::check(format!("undeclared reference to '{what}' (in container '')")));
        }
        let gives: Vec<Type> = known.filter_map(|signature| applied(signature, &types)).collect();
        let Some(first) = gives.first().cloned() else { return Err(no_overload(&name, &types)) };
        let ty = gives.iter().skip(1).fold(first, |ty, other| ty.join(other));
        let regex = constant_regex(&name, &args)?;
        let Some(function) = functions::find(&name, member) else {
            return Err(CompileError::check(format!("undeclared reference to '{name}' (in container '')")));
        };
        Ok((Node::Call { function, name: Arc::from(name), args, regex, gives: ty.clone() }, ty))
    }
}

/// A pattern that stands in the expression is compiled with it, and refused with it.
fn constant_regex(name: &str, args: &[Node]) -> Result<Option<Arc<Regex>>, CompileError> {
    let (true, Some(Node::Constant(Constant::Str(pattern)))) =
        (matches!(name, "matches" | "find" | "findAll"), args.get(1))
    else {
        return Ok(None);
    };
    functions::regex(pattern).map(Some).map_err(|why| CompileError::check(format!("invalid matches argument: {why}")))
}

fn no_overload(name: &str, types: &[Type]) -> CompileError {
    let types: Vec<String> = types.iter().map(ToString::to_string).collect();
    CompileError::check(format!("found no matching overload for '{name}' applied to '({})'", types.join(", ")))
}

fn literal_of(literal: &LiteralValue) -> Typed {
    match literal {
        LiteralValue::Null => (Node::Constant(Constant::Null), Type::Null),
        LiteralValue::Boolean(b) => (Node::Constant(Constant::Bool(*b.inner())), Type::Bool),
        LiteralValue::Int(i) => (Node::Constant(Constant::Int(*i.inner())), Type::Int),
        LiteralValue::UInt(u) => (Node::Constant(Constant::Uint(*u.inner())), Type::Uint),
        LiteralValue::Double(d) => (Node::Constant(Constant::Double(*d.inner())), Type::Double),
        LiteralValue::String(text) => (Node::Constant(Constant::Str(Arc::from(text.inner()))), Type::String),
        LiteralValue::Bytes(bytes) => (Node::Constant(Constant::Bytes(Arc::from(bytes.inner()))), Type::Bytes),
    }
}

/// What a signature gives for arguments of these types; none if it does not take them.
fn applied(signature: &Signature, types: &[Type]) -> Option<Type> {
    if signature.takes.len() != types.len() {
        return None;
    }
    let mut bound: (Option<Type>, Option<Type>) = (None, None);
    for (wanted, given) in signature.takes.iter().zip(types) {
        if !takes(*wanted, given, &mut bound) {
            return None;
        }
    }
    let a = || bound.0.clone().unwrap_or(Type::Dyn);
    Some(match signature.gives {
        T::A => a(),
        T::B => bound.1.clone().unwrap_or(Type::Dyn),
        T::ListA => Type::list(a()),
        T::OptA => Type::Optional(Arc::new(a())),
        other => plain(other),
    })
}

fn plain(wanted: T) -> Type {
    match wanted {
        T::Bool => Type::Bool,
        T::Int => Type::Int,
        T::Uint => Type::Uint,
        T::Double => Type::Double,
        T::Str => Type::String,
        T::Bytes => Type::Bytes,
        T::Dur => Type::Duration,
        T::Time => Type::Timestamp,
        T::Type => Type::Type,
        T::ListStr => Type::list(Type::String),
        T::ListInt => Type::list(Type::Int),
        T::OptListStr => Type::Optional(Arc::new(Type::list(Type::String))),
        T::MapStrListStr => Type::map(Type::list(Type::String)),
        T::Quantity => Type::Opaque("kubernetes.Quantity"),
        T::Ip => Type::Opaque("net.IP"),
        T::Cidr => Type::Opaque("net.CIDR"),
        T::Url => Type::Opaque("kubernetes.URL"),
        T::Semver => Type::Opaque("kubernetes.Semver"),
        T::Format => Type::Opaque("kubernetes.NamedFormat"),
        T::Asker => Type::Opaque(authority::AUTHORIZER),
        T::PathCheck => Type::Opaque(authority::PATH_CHECK),
        T::GroupCheck => Type::Opaque(authority::GROUP_CHECK),
        T::ResourceCheck => Type::Opaque(authority::RESOURCE_CHECK),
        T::Decision => Type::Opaque(authority::DECISION),
        T::OptFormat => Type::Optional(Arc::new(Type::Opaque("kubernetes.NamedFormat"))),
        T::Dyn | T::A | T::B | T::ListA | T::ListListA | T::MapAB | T::OptA => Type::Dyn,
    }
}

fn takes(wanted: T, given: &Type, bound: &mut (Option<Type>, Option<Type>)) -> bool {
    fn bind(slot: &mut Option<Type>, given: &Type) -> bool {
        match slot {
            None => {
                *slot = Some(given.clone());
                true
            }
            Some(known) if known.is_dyn() || matches!(known, Type::Null) => {
                if !given.is_dyn() {
                    *slot = Some(given.clone());
                }
                true
            }
            // Numbers compare across their types only where one is not known; as the language says.
            Some(known) => given.fits(known),
        }
    }
    match (wanted, given) {
        (T::Dyn, _) => true,
        (T::A, given) => bind(&mut bound.0, given),
        (T::B, given) => bind(&mut bound.1, given),
        (_, Type::Dyn) => true,
        (T::ListA, Type::List(of)) => bind(&mut bound.0, of),
        (T::ListListA, Type::List(of)) => match &**of {
            Type::List(of) => bind(&mut bound.0, of),
            Type::Dyn => true,
            _ => false,
        },
        (T::MapAB, Type::Map(key, value)) => bind(&mut bound.0, key) && bind(&mut bound.1, value),
        (T::OptA, Type::Optional(of)) => bind(&mut bound.0, of),
        (T::ListA | T::ListListA | T::MapAB | T::OptA, _) => false,
        (wanted, given) => given.fits(&plain(wanted)) && !matches!(given, Type::Null),
    }
}

impl From<&Constant> for super::Val<'static> {
    fn from(constant: &Constant) -> Self {
        match constant {
            Constant::Null => super::Val::Null,
            Constant::Bool(b) => super::Val::Bool(*b),
            Constant::Int(i) => super::Val::Int(*i),
            Constant::Uint(u) => super::Val::Uint(*u),
            Constant::Double(d) => super::Val::Double(*d),
            Constant::Str(text) => super::Val::Str(Text::Own(Arc::clone(text))),
            Constant::Bytes(bytes) => super::Val::Bytes(Arc::clone(bytes)),
            Constant::Type(name) => super::Val::Type(Arc::clone(name)),
        }
    }
}
