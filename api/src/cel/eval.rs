//! Evaluation: a value of a program, step by step, within a budget.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::functions::{self, Call};
use super::lower::{Fold, Node};
use super::value::{Key, List, Map, Val};
use super::{Program, Variables, parse};

/// Programs that nest deeper than this are worked on with a stack of their own.
const DEPTH_INLINE: usize = 24;
/// Each level of nesting takes a few kilobytes at most.
pub(super) const STACK_BYTES: usize = 16 << 20;

/// Why an expression has no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// A map has no such key, an object no such field.
    #[error("no such key: {0}")]
    NoSuchKey(String),
    /// The types do not go together.
    #[error("no such overload")]
    NoOverload,
    /// It would have cost more than it may.
    #[error("operation cancelled: actual cost limit exceeded")]
    OverBudget,
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl EvalError {
    pub(super) fn other(text: impl Into<String>) -> Self {
        Self::Other(text.into())
    }
}

/// How many steps may be taken.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    left: u64,
    used: u64,
}

impl Budget {
    /// A budget of so many steps.
    pub fn new(steps: u64) -> Self {
        Self { left: steps, used: 0 }
    }

    /// What was used so far.
    pub fn used(&self) -> u64 {
        self.used
    }

    /// What is left.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Takes steps.
    pub fn charge(&mut self, steps: u64) -> Result<(), EvalError> {
        self.used = self.used.saturating_add(steps);
        match self.left.checked_sub(steps) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => {
                self.left = 0;
                Err(EvalError::OverBudget)
            }
        }
    }
}

pub(super) fn run<'a>(
    program: &'a Program,
    variables: &Variables<'a>,
    budget: &mut Budget,
) -> Result<Val<'a>, EvalError> {
    let globals: Vec<Option<&Val<'a>>> = program.variables.iter().map(|name| variables.get(name)).collect();
    let mut work = || {
        let mut machine =
            Machine { globals: &globals, names: &program.variables, slots: Vec::new(), budget: &mut *budget };
        machine.eval(&program.root)
    };
    if program.depth <= DEPTH_INLINE {
        return work();
    }
    parse::with_stack(STACK_BYTES, work)
        .unwrap_or_else(|| Err(EvalError::other("the expression could not be evaluated")))
}

struct Machine<'a, 'm> {
    globals: &'m [Option<&'m Val<'a>>],
    names: &'m [String],
    slots: Vec<Val<'a>>,
    budget: &'m mut Budget,
}

impl<'a> Machine<'a, '_> {
    fn eval(&mut self, node: &'a Node) -> Result<Val<'a>, EvalError> {
        self.budget.charge(1)?;
        match node {
            Node::Constant(constant) => Ok(constant.into()),
            Node::Slot(at) => self.slots.get(*at).cloned().ok_or_else(|| EvalError::other("no such variable")),
            Node::Global(at) => match self.globals.get(*at).copied().flatten() {
                Some(value) => Ok(value.clone()),
                None => Err(EvalError::other(format!("no such attribute(s): {}", self.names[*at]))),
            },
            Node::Field { of, name, optional } => {
                let of = self.eval(of)?;
                self.field(of, name, *optional)
            }
            Node::Has { of, name } => {
                let of = self.eval(of)?;
                has(&of, name).map(Val::Bool)
            }
            Node::And(a, b) => self.logic(a, b, false),
            Node::Or(a, b) => self.logic(a, b, true),
            Node::If(condition, yes, no) => match self.eval(condition)? {
                Val::Bool(true) => self.eval(yes),
                Val::Bool(false) => self.eval(no),
                _ => Err(EvalError::NoOverload),
            },
            Node::List(items) => self.list(items),
            Node::Map(entries) => self.map(entries),
            Node::Struct(name, fields) => self.structure(name, fields),
            Node::Call { function, name, args, regex, .. } => {
                let mut values = Vec::with_capacity(args.len());
                for arg in args {
                    values.push(self.eval(arg)?);
                }
                self.budget.charge(functions::cost(name, &values))?;
                function(&Call { name, args: &values, regex: regex.as_deref() })
            }
            Node::Fold { kind, range, first, two, filter, body } => {
                let range = self.eval(range)?;
                self.fold(*kind, &range, *first, *two, filter.as_deref(), body)
            }
            Node::Bind { value, slot, body } => {
                let value = self.eval(value)?;
                self.slots.truncate(*slot);
                self.slots.push(value);
                let result = self.eval(body);
                self.slots.truncate(*slot);
                result
            }
            Node::OptMap { target, slot, body, flat } => {
                let Val::Optional(target) = self.eval(target)? else { return Err(EvalError::NoOverload) };
                let Some(value) = target else { return Ok(Val::Optional(None)) };
                self.slots.truncate(*slot);
                self.slots.push(Val::clone(&value));
                let result = self.eval(body);
                self.slots.truncate(*slot);
                let result = result?;
                Ok(if *flat { result } else { Val::Optional(Some(Arc::new(result))) })
            }
        }
    }

    /// `&&` and `||`: one side alone may decide, even if the other one is an error.
    fn logic(&mut self, a: &'a Node, b: &'a Node, decides: bool) -> Result<Val<'a>, EvalError> {
        let truth = |value: Result<Val<'a>, EvalError>| match value {
            Ok(Val::Bool(b)) => Ok(b),
            Ok(_) => Err(EvalError::NoOverload),
            Err(error) => Err(error),
        };
        match truth(self.eval(a)) {
            Ok(a) if a == decides => Ok(Val::Bool(decides)),
            Ok(_) => truth(self.eval(b)).map(Val::Bool),
            Err(EvalError::OverBudget) => Err(EvalError::OverBudget),
            Err(first) => match truth(self.eval(b)) {
                Ok(b) if b == decides => Ok(Val::Bool(decides)),
                Err(EvalError::OverBudget) => Err(EvalError::OverBudget),
                _ => Err(first),
            },
        }
    }

    fn field(&mut self, of: Val<'a>, name: &str, optional: bool) -> Result<Val<'a>, EvalError> {
        let wrap = |value: Option<Val<'a>>| match value {
            Some(Val::Optional(inner)) => Val::Optional(inner),
            value => Val::Optional(value.map(Arc::new)),
        };
        match of {
            Val::Map(map) => match map.get_str(name) {
                found if optional => Ok(wrap(found)),
                Some(value) => Ok(value),
                None => Err(EvalError::NoSuchKey(name.to_owned())),
            },
            Val::Optional(None) => Ok(Val::Optional(None)),
            Val::Optional(Some(inner)) => self.field(Val::clone(&inner), name, true),
            _ => Err(EvalError::NoOverload),
        }
    }

    fn list(&mut self, items: &'a [(Node, bool)]) -> Result<Val<'a>, EvalError> {
        let mut made = Vec::with_capacity(items.len());
        for (item, optional) in items {
            match (self.eval(item)?, optional) {
                (Val::Optional(value), true) => made.extend(value.map(|value| Val::clone(&value))),
                (value, _) => made.push(value),
            }
        }
        Ok(Val::list(made))
    }

    fn map(&mut self, entries: &'a [(Node, Node, bool)]) -> Result<Val<'a>, EvalError> {
        let mut made = BTreeMap::new();
        for (key, value, optional) in entries {
            let key = self.eval(key)?;
            let key = Key::of(&key).ok_or_else(|| EvalError::other("unsupported key type"))?;
            let value = match (self.eval(value)?, optional) {
                (Val::Optional(None), true) => continue,
                (Val::Optional(Some(value)), true) => Val::clone(&value),
                (value, _) => value,
            };
            if made.insert(key.clone(), value).is_some() {
                return Err(EvalError::other(format!("duplicate map key: {key}")));
            }
        }
        Ok(Val::Map(Map::Own(Arc::new(made))))
    }

    fn structure(&mut self, name: &Arc<str>, fields: &'a [(Arc<str>, Node, bool)]) -> Result<Val<'a>, EvalError> {
        let mut made = BTreeMap::new();
        for (field, value, optional) in fields {
            let value = match (self.eval(value)?, optional) {
                (Val::Optional(None), true) => continue,
                (Val::Optional(Some(value)), true) => Val::clone(&value),
                (value, _) => value,
            };
            made.insert(Key::Str(Arc::clone(field)), value);
        }
        Ok(Val::Map(Map::Made(Arc::clone(name), Arc::new(made))))
    }

    fn fold(
        &mut self,
        kind: Fold,
        range: &Val<'a>,
        first: usize,
        two: bool,
        filter: Option<&'a Node>,
        body: &'a Node,
    ) -> Result<Val<'a>, EvalError> {
        let mut result = Folded::new(kind);
        match range {
            Val::List(list) => {
                for (at, item) in list.iter().enumerate() {
                    let key = if two { Val::Int(at as i64) } else { item.clone() };
                    if self.step(&mut result, first, (key, two.then_some(item)), filter, body)? {
                        break;
                    }
                }
            }
            Val::Map(map) => {
                for (key, value) in map.entries() {
                    if self.step(&mut result, first, (key.value(), two.then_some(value)), filter, body)? {
                        break;
                    }
                }
            }
            _ => return Err(EvalError::NoOverload),
        }
        result.finish()
    }

    /// One item; true if the rest need not be looked at.
    fn step(
        &mut self,
        result: &mut Folded<'a>,
        first: usize,
        (one, two): (Val<'a>, Option<Val<'a>>),
        filter: Option<&'a Node>,
        body: &'a Node,
    ) -> Result<bool, EvalError> {
        self.budget.charge(2)?;
        self.slots.truncate(first);
        self.slots.push(one.clone());
        self.slots.extend(two);
        let passes = match filter.map(|filter| self.eval(filter)) {
            None => true,
            Some(Ok(Val::Bool(passes))) => passes,
            Some(Ok(_)) => return Err(EvalError::NoOverload),
            Some(Err(error)) => return Err(error),
        };
        let value = if passes { Some(self.eval(body)) } else { None };
        self.slots.truncate(first);
        match value {
            None => Ok(false),
            Some(Err(EvalError::OverBudget)) => Err(EvalError::OverBudget),
            Some(value) => result.take(one, value),
        }
    }
}

/// What a fold has come to.
struct Folded<'a> {
    kind: Fold,
    found: u64,
    /// An error that a later item may still make irrelevant (`all`, `exists`).
    error: Option<EvalError>,
    decided: Option<bool>,
    items: Vec<Val<'a>>,
    keys: Vec<Val<'a>>,
    entries: BTreeMap<Key, Val<'a>>,
}

impl<'a> Folded<'a> {
    fn new(kind: Fold) -> Self {
        Self {
            kind,
            found: 0,
            error: None,
            decided: None,
            items: Vec::new(),
            keys: Vec::new(),
            entries: BTreeMap::new(),
        }
    }

    fn take(&mut self, one: Val<'a>, value: Result<Val<'a>, EvalError>) -> Result<bool, EvalError> {
        let decides = self.kind == Fold::Exists;
        match (self.kind, value) {
            (Fold::All | Fold::Exists, Ok(Val::Bool(truth))) => {
                if truth == decides {
                    self.decided = Some(truth);
                    return Ok(true);
                }
            }
            (Fold::All | Fold::Exists, Err(error)) => drop(self.error.get_or_insert(error)),
            (_, Err(error)) => return Err(error),
            (Fold::ExistsOne, Ok(Val::Bool(truth))) => self.found += u64::from(truth),
            (Fold::Filter, Ok(Val::Bool(truth))) => {
                if truth {
                    self.items.push(one);
                }
            }
            (Fold::Map, Ok(value)) => self.items.push(value),
            (Fold::SortBy, Ok(value)) => {
                self.items.push(one);
                self.keys.push(value);
            }
            (Fold::TransformMap, Ok(value)) => {
                let key = Key::of(&one).ok_or(EvalError::NoOverload)?;
                self.entries.insert(key, value);
            }
            (Fold::TransformEntry, Ok(Val::Map(made))) => {
                for (key, value) in made.entries() {
                    if self.entries.insert(key.clone(), value).is_some() {
                        return Err(EvalError::other(format!("insert failed: key {key} already exists")));
                    }
                }
            }
            _ => return Err(EvalError::NoOverload),
        }
        Ok(false)
    }

    fn finish(self) -> Result<Val<'a>, EvalError> {
        match self.kind {
            Fold::All | Fold::Exists => match (self.decided, self.error) {
                (Some(decided), _) => Ok(Val::Bool(decided)),
                (None, Some(error)) => Err(error),
                (None, None) => Ok(Val::Bool(self.kind == Fold::All)),
            },
            Fold::ExistsOne => Ok(Val::Bool(self.found == 1)),
            Fold::Filter | Fold::Map => Ok(Val::list(self.items)),
            Fold::SortBy => functions::sort_by(self.items, &self.keys),
            Fold::TransformMap | Fold::TransformEntry => Ok(Val::Map(Map::Own(Arc::new(self.entries)))),
        }
    }
}

fn has(of: &Val<'_>, name: &str) -> Result<bool, EvalError> {
    match of {
        Val::Map(map) => {
            Ok(map.get_str(name).is_some_and(|value| !matches!((&value, map), (Val::Null, Map::Object(..)))))
        }
        Val::Optional(None) => Ok(false),
        Val::Optional(Some(inner)) => has(inner, name),
        _ => Err(EvalError::NoOverload),
    }
}

impl<'a> From<List<'a>> for Val<'a> {
    fn from(list: List<'a>) -> Self {
        Val::List(list)
    }
}
