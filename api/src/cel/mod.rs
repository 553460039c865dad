//! The Common Expression Language as Kubernetes uses it: rules of custom kinds, admission policies, match conditions.
//!
//! In: an expression and the variables it may use ([`Environment`]). Out of [`compile`]: a checked [`Program`], or what is wrong with
//! it. Out of [`Program::eval`]: a value or an error, within a [`Budget`] of steps.
//!
//! ```text
//! text ─▶ parse (the `cel` crate's grammar) ─▶ lower: macros, types, fields, functions ─▶ Program ─▶ eval
//! ```
//!
//! The text is parsed by the `cel` crate, so that syntax errors read as everywhere. Checking and evaluation are here: a rule comes
//! from a stranger, so its length and nesting are capped, each step costs from a budget, and what is nested deeply is
//! worked on with a stack of its own. Nothing that an expression does can take long or end the process.

mod authority;
mod cost;
mod eval;
mod functions;
mod libraries;
mod lower;
mod macros;
mod parse;
mod request;
mod signatures;
#[cfg(test)]
mod tests;
mod types;
mod value;

use std::collections::BTreeMap;

pub use authority::{Asking, Authority, Check, Decision};
pub use cost::{Extent, estimate};
pub use eval::{Budget, EvalError};
pub use lower::CompileError;
pub use request::{NAMESPACE, REQUEST, Request, misnamed_structs};
pub use types::{Field, ObjectType, Type, escape, is_identifier};
pub use value::{Key, List, Map, Text, Val};

/// The longest expression that is compiled.
pub const EXPRESSION_BYTES_MAX: usize = 64 << 10;
/// How deep an expression may nest.
pub const NESTING_MAX: u16 = 200;
/// What one evaluation may cost: Kubernetes' limit for each call.
pub const CALL_COST_MAX: u64 = 1_000_000;
/// What all rules of one object may cost together: Kubernetes' budget.
pub const OBJECT_COST_MAX: u64 = 10_000_000;

/// The variables that expressions may use, with their types.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, Type>,
    makes_structs: bool,
}

impl Environment {
    /// One without variables.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with another variable.
    #[must_use]
    pub fn with(mut self, name: &str, ty: Type) -> Self {
        self.variables.insert(name.to_owned(), ty);
        self
    }

    /// The same for expressions that make objects and patches: `Object{…}`, `Object.spec{…}`, `JSONPatch{…}`.
    #[must_use]
    pub fn with_structs(mut self) -> Self {
        self.makes_structs = true;
        self
    }

    /// A variable's type.
    pub fn get(&self, name: &str) -> Option<&Type> {
        self.variables.get(name)
    }
}

/// The values of variables.
#[derive(Debug, Clone, Default)]
pub struct Variables<'a> {
    values: Vec<(&'a str, Val<'a>)>,
}

impl<'a> Variables<'a> {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with another value.
    #[must_use]
    pub fn with(mut self, name: &'a str, value: Val<'a>) -> Self {
        self.set(name, value);
        self
    }

    /// Gives a variable a value.
    pub fn set(&mut self, name: &'a str, value: Val<'a>) {
        self.values.retain(|(known, _)| *known != name);
        self.values.push((name, value));
    }

    /// A variable's value.
    pub fn get(&self, name: &str) -> Option<&Val<'a>> {
        self.values.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }
}

/// A checked expression.
#[derive(Debug, Clone)]
pub struct Program {
    root: lower::Node,
    depth: usize,
    result: Type,
    variables: Vec<String>,
    uses: std::collections::BTreeSet<String>,
}

/// Checks an expression.
pub fn compile(expression: &str, environment: &Environment) -> Result<Program, CompileError> {
    lower::compile(expression, environment)
}

/// Checks an expression that must have a value of one of these types.
pub fn compile_as(expression: &str, environment: &Environment, wanted: &[Type]) -> Result<Program, CompileError> {
    let program = compile(expression, environment)?;
    if wanted.iter().any(|wanted| program.result.is(wanted)) {
        return Ok(program);
    }
    let names: Vec<String> = wanted.iter().map(ToString::to_string).collect();
    Err(CompileError::new(match names.as_slice() {
        [one] => format!("must evaluate to {one} but got {}", program.result),
        many => format!("must evaluate to one of [{}] but got {}", many.join(" "), program.result),
    }))
}

impl Program {
    /// The type of its value.
    pub fn result(&self) -> &Type {
        &self.result
    }

    /// Whether it uses a variable.
    pub fn uses(&self, variable: &str) -> bool {
        self.uses.contains(variable)
    }

    /// Its value for these variables. The budget is charged for every step, whatever comes of it.
    pub fn eval<'a>(&'a self, variables: &Variables<'a>, budget: &mut Budget) -> Result<Val<'a>, EvalError> {
        eval::run(self, variables, budget)
    }
}
