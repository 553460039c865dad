//! What the functions do. One implementation a name, which tells its overloads apart by the values it is given.

mod lists;
mod operators;
mod permissions;
mod standard;
mod strings;
mod typed;

use std::sync::Arc;

use regex::{Regex, RegexBuilder};

use super::value::Val;
use super::{CALL_COST_MAX, EvalError};

pub(super) use lists::sort_by;

/// The largest compiled pattern.
const REGEX_BYTES_MAX: usize = 1 << 20;

/// What asking for a permission costs.
const PERMISSION_COST: u64 = 350_000;

/// A call with its arguments; a member function's target is the first.
pub(super) struct Call<'a, 'b> {
    /// The function's name.
    pub name: &'b str,
    pub args: &'b [Val<'a>],
    /// The compiled pattern, if it stands in the expression.
    pub regex: Option<&'b Regex>,
}

/// What a function does.
pub(super) type Function = for<'a, 'b> fn(&Call<'a, 'b>) -> Answer<'a>;

type Answer<'a> = Result<Val<'a>, EvalError>;

/// The function of a name.
pub(super) fn find(name: &str, member: bool) -> Option<Function> {
    operators::find(name)
        .or_else(|| standard::find(name, member))
        .or_else(|| strings::find(name, member))
        .or_else(|| lists::find(name, member))
        .or_else(|| typed::find(name, member))
        .or_else(|| permissions::find(name, member))
}

/// A pattern, compiled.
pub(super) fn regex(pattern: &str) -> Result<Arc<Regex>, String> {
    let built = RegexBuilder::new(pattern).size_limit(REGEX_BYTES_MAX).build();
    built.map(Arc::new).map_err(|error| error.to_string())
}

/// What a call costs beyond its step: looking at texts and lists takes time with their size.
pub(super) fn cost(name: &str, args: &[Val<'_>]) -> u64 {
    let weights = || args.iter().map(Val::weight).sum::<u64>();
    match name {
        "_[_]" | "_[?_]" | "size" | "hasValue" | "value" | "orValue" | "or" | "optional.of" | "type" | "dyn" => 0,
        // As Kubernetes has it: whoever decides may be asked over the network.
        "check" => PERMISSION_COST,
        "matches" | "find" | "findAll" => weights() * args.get(1).map_or(1, |pattern| pattern.weight() / 2 + 1),
        "@in" | "indexOf" | "lastIndexOf" | "_==_" | "_!=_" => weights().saturating_add(all_of(args)),
        "sets.contains" | "sets.equivalent" | "sets.intersects" | "distinct" => {
            let sizes: Vec<u64> = args.iter().map(Val::weight).collect();
            let first = sizes.first().copied().unwrap_or_default();
            let second = sizes.get(1).copied().unwrap_or(first);
            // Every item is compared with every other one, and what is in them with it.
            let below = |at: usize, times: u64| args.get(at).map_or(0, deep).saturating_mul(times);
            first.saturating_mul(second).max(1).saturating_add(below(0, second)).saturating_add(below(1, first))
        }
        "lists.range" => match args.first() {
            Some(Val::Int(n)) => u64::try_from(*n).unwrap_or_default(),
            _ => 0,
        },
        // Joining and replacing make texts that may be larger than what they are made of.
        "join" | "replace" | "format" | "sort" | "flatten" => all_of(args).saturating_mul(2),
        _ => weights(),
    }
}

fn all_of(args: &[Val<'_>]) -> u64 {
    args.iter().map(deep).fold(0, u64::saturating_add)
}

/// How much there is in all of a value; too much for any budget, if counting it would take as long. A value of few parts may
/// be shared so often within itself that nobody could go through it.
fn deep(value: &Val<'_>) -> u64 {
    let mut left = CALL_COST_MAX;
    match count(value, &mut left) {
        Some(()) => CALL_COST_MAX - left,
        None => u64::MAX,
    }
}

fn count(value: &Val<'_>, left: &mut u64) -> Option<()> {
    match value {
        Val::List(list) => list.iter().try_for_each(|item| {
            *left = left.checked_sub(1)?;
            count(&item, left)
        }),
        Val::Map(map) => map.entries().try_for_each(|(_, value)| {
            *left = left.checked_sub(1)?;
            count(&value, left)
        }),
        other => {
            *left = left.checked_sub(other.weight())?;
            Some(())
        }
    }
}

impl<'a> Call<'a, '_> {
    fn arg(&self, at: usize) -> Result<&Val<'a>, EvalError> {
        self.args.get(at).ok_or(EvalError::NoOverload)
    }

    fn text(&self, at: usize) -> Result<&str, EvalError> {
        self.arg(at)?.as_str().ok_or(EvalError::NoOverload)
    }

    fn int(&self, at: usize) -> Result<i64, EvalError> {
        match self.arg(at)? {
            Val::Int(i) => Ok(*i),
            _ => Err(EvalError::NoOverload),
        }
    }

    fn list(&self, at: usize) -> Result<&super::List<'a>, EvalError> {
        match self.arg(at)? {
            Val::List(list) => Ok(list),
            _ => Err(EvalError::NoOverload),
        }
    }

    fn has(&self, at: usize) -> bool {
        self.args.len() > at
    }

    fn pattern(&self) -> Result<std::borrow::Cow<'_, Regex>, EvalError> {
        match self.regex {
            Some(regex) => Ok(std::borrow::Cow::Borrowed(regex)),
            None => {
                let made =
                    regex(self.text(1)?).map_err(|why| EvalError::other(format!("error parsing regexp: {why}")))?;
                Ok(std::borrow::Cow::Owned(Regex::clone(&made)))
            }
        }
    }
}

fn overflow(kind: &str) -> EvalError {
    EvalError::other(format!("{kind} overflow"))
}

#[cfg(test)]
mod tests {
    use super::super::signatures::SIGNATURES;

    #[test]
    fn every_signature_has_its_function() {
        for signature in SIGNATURES {
            assert!(super::find(signature.name, signature.member).is_some(), "{}", signature.name);
        }
    }
}
