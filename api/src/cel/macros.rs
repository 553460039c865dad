//! Calls that are no functions: their arguments are names and expressions, not values.

use std::sync::Arc;

use cel::IdedExpr;
use cel::common::ast::{CallExpr, Expr};

use super::lower::{CompileError, Fold, Lowering, Node, Typed};
use super::types::Type;

fn name_of(expr: &IdedExpr) -> Result<String, CompileError> {
    match &expr.expr {
        Expr::Ident(name) => Ok(name.clone()),
        _ => Err(CompileError::new("compilation failed: ERROR: <input>: argument must be a simple name")),
    }
}

/// The types of a fold's variables: one for each item (or key), two for index and item, or key and value.
fn variables(range: &Type, two: bool) -> Result<Vec<Type>, CompileError> {
    match (range, two) {
        (Type::List(of), false) => Ok(vec![Type::clone(of)]),
        (Type::List(of), true) => Ok(vec![Type::Int, Type::clone(of)]),
        (Type::Map(key, _), false) => Ok(vec![Type::clone(key)]),
        (Type::Map(key, value), true) => Ok(vec![Type::clone(key), Type::clone(value)]),
        (Type::Dyn, false) => Ok(vec![Type::Dyn]),
        (Type::Dyn, true) => Ok(vec![Type::Dyn, Type::Dyn]),
        // Fields of a struct are known by their names, so it cannot be gone through.
        (other, _) => Err(CompileError::new(format!(
            "compilation failed: ERROR: <input>: expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
        ))),
    }
}

impl Lowering<'_> {
    /// The meaning of a call that is a macro; none if it is none.
    pub(super) fn expand(&mut self, call: &CallExpr) -> Result<Option<Typed>, CompileError> {
        let args = call.args.as_slice();
        let Some(target) = call.target.as_deref() else {
            return match (call.func_name.as_str(), args) {
                ("has", [one]) => self.has(one).map(Some),
                _ => Ok(None),
            };
        };
        let fold = |kind, two, filter, body| Some((kind, two, filter, body));
        let found = match (call.func_name.as_str(), args) {
            ("all", [_, body]) => fold(Fold::All, false, None, body),
            ("exists", [_, body]) => fold(Fold::Exists, false, None, body),
            ("exists_one" | "existsOne", [_, body]) => fold(Fold::ExistsOne, false, None, body),
            ("filter", [_, body]) => fold(Fold::Filter, false, None, body),
            ("map", [_, body]) => fold(Fold::Map, false, None, body),
            ("map", [_, filter, body]) => fold(Fold::Map, false, Some(filter), body),
            ("sortBy", [_, body]) => fold(Fold::SortBy, false, None, body),
            ("all", [_, _, body]) => fold(Fold::All, true, None, body),
            ("exists", [_, _, body]) => fold(Fold::Exists, true, None, body),
            ("exists_one" | "existsOne", [_, _, body]) => fold(Fold::ExistsOne, true, None, body),
            ("transformList", [_, _, body]) => fold(Fold::Map, true, None, body),
            ("transformList", [_, _, filter, body]) => fold(Fold::Map, true, Some(filter), body),
            ("transformMap", [_, _, body]) => fold(Fold::TransformMap, true, None, body),
            ("transformMap", [_, _, filter, body]) => fold(Fold::TransformMap, true, Some(filter), body),
            ("transformMapEntry", [_, _, body]) => fold(Fold::TransformEntry, true, None, body),
            ("transformMapEntry", [_, _, filter, body]) => fold(Fold::TransformEntry, true, Some(filter), body),
            _ => None,
        };
        if let Some((kind, two, filter, body)) = found {
            return self.fold(kind, target, args, two, filter, body).map(Some);
        }
        match (call.func_name.as_str(), args) {
            ("bind", [name, value, body]) if matches!(&target.expr, Expr::Ident(cel) if cel == "cel") => {
                let name = name_of(name)?;
                let (value, ty) = self.node(value)?;
                let slot = self.scope.len();
                self.scope.push((name, ty));
                let body = self.node(body);
                self.scope.truncate(slot);
                let (body, ty) = body?;
                Ok(Some((Node::Bind { value: Box::new(value), slot, body: Box::new(body) }, ty)))
            }
            ("optMap" | "optFlatMap", [name, body]) => {
                let flat = call.func_name == "optFlatMap";
                let name = name_of(name)?;
                let (target, ty) = self.node(target)?;
                let of = match ty {
                    Type::Optional(of) => Type::clone(&of),
                    _ => Type::Dyn,
                };
                let slot = self.scope.len();
                self.scope.push((name, of));
                let body = self.node(body);
                self.scope.truncate(slot);
                let (body, ty) = body?;
                let ty = if flat { ty } else { Type::Optional(Arc::new(ty)) };
                Ok(Some((Node::OptMap { target: Box::new(target), slot, body: Box::new(body), flat }, ty)))
            }
            _ => Ok(None),
        }
    }

    fn has(&mut self, expr: &IdedExpr) -> Result<Typed, CompileError> {
        match &expr.expr {
            Expr::Select(select) => {
                let mut select = select.clone();
                select.test = true;
                self.node(&IdedExpr { id: expr.id, expr: Expr::Select(select) })
            }
            _ => Err(CompileError::new("compilation failed: ERROR: <input>: invalid argument to has() macro")),
        }
    }

    fn fold(
        &mut self,
        kind: Fold,
        target: &IdedExpr,
        args: &[IdedExpr],
        two: bool,
        filter: Option<&IdedExpr>,
        body: &IdedExpr,
    ) -> Result<Typed, CompileError> {
        let (range, range_type) = self.node(target)?;
        let types = variables(&range_type, two)?;
        let first = self.scope.len();
        for (name, ty) in args.iter().zip(types) {
            let name = name_of(name)?;
            self.scope.push((name, ty));
        }
        let lowered = self.body(kind, filter, body);
        self.scope.truncate(first);
        let (filter, (body, ty)) = lowered?;
        let result = match kind {
            Fold::All | Fold::Exists | Fold::ExistsOne => Type::Bool,
            Fold::Filter | Fold::SortBy => match range_type {
                Type::List(of) => Type::List(of),
                Type::Map(key, _) => Type::List(key),
                _ => Type::list_of_dyn().clone(),
            },
            Fold::Map => Type::list(ty),
            Fold::TransformMap => match range_type {
                Type::Map(key, _) => Type::Map(key, Arc::new(ty)),
                _ => Type::Map(Arc::new(Type::Int), Arc::new(ty)),
            },
            Fold::TransformEntry => match ty {
                Type::Map(key, value) => Type::Map(key, value),
                _ => Type::Dyn,
            },
        };
        let filter = filter.map(Box::new);
        Ok((Node::Fold { kind, range: Box::new(range), first, two, filter, body: Box::new(body) }, result))
    }

    fn body(
        &mut self,
        kind: Fold,
        filter: Option<&IdedExpr>,
        body: &IdedExpr,
    ) -> Result<(Option<Node>, Typed), CompileError> {
        let filter = filter.map(|filter| self.truth(filter, "filter")).transpose()?;
        let truth = matches!(kind, Fold::All | Fold::Exists | Fold::ExistsOne | Fold::Filter);
        let body = if truth { (self.truth(body, "_&&_")?, Type::Bool) } else { self.node(body)? };
        Ok((filter, body))
    }
}
