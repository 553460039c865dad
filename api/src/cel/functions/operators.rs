//! Operators.

use std::cmp::Ordering;

use super::{Answer, Call, Function, overflow};
use crate::cel::EvalError;
use crate::cel::value::{Key, List, Text, Val};

pub(super) fn find(name: &str) -> Option<Function> {
    Some(match name {
        "_+_" => add,
        "_-_" => subtract,
        "_*_" => multiply,
        "_/_" => divide,
        "_%_" => modulo,
        "-_" => negate,
        "!_" => not,
        "_==_" => |call| Ok(Val::Bool(call.arg(0)?.equals(call.arg(1)?))),
        "_!=_" => |call| Ok(Val::Bool(!call.arg(0)?.equals(call.arg(1)?))),
        "_<_" => |call| ordered(call, |o| o == Ordering::Less),
        "_<=_" => |call| ordered(call, |o| o != Ordering::Greater),
        "_>_" => |call| ordered(call, |o| o == Ordering::Greater),
        "_>=_" => |call| ordered(call, |o| o != Ordering::Less),
        "@in" => contains,
        "_[_]" => |call| index(call)?.ok_or_else(|| missing(call)),
        "_[?_]" => optional_index,
        _ => return None,
    })
}

fn ordered<'a>(call: &Call<'a, '_>, wanted: fn(Ordering) -> bool) -> Answer<'a> {
    match (call.arg(0)?, call.arg(1)?) {
        (Val::Double(a), b) | (b, Val::Double(a)) if a.is_nan() && b.type_name() != "string" => Ok(Val::Bool(false)),
        (a, b) => a.compare(b).map(|ordering| Val::Bool(wanted(ordering))).ok_or(EvalError::NoOverload),
    }
}

fn add<'a>(call: &Call<'a, '_>) -> Answer<'a> {
    Ok(match (call.arg(0)?, call.arg(1)?) {
        (Val::Int(a), Val::Int(b)) => Val::Int(a.checked_add(*b).ok_or_else(|| overflow("integer"))?),
        (Val::Uint(a), Val::Uint(b)) => Val::Uint(a.checked_add(*b).ok_or_else(|| overflow("unsigned integer"))?),
        (Val::Double(a), Val::Double(b)) => Val::Double(a + b),
        (Val::Str(a), Val::Str(b)) => Val::text(format!("{}{}", &**a, &**b)),
        (Val::Bytes(a), Val::Bytes(b)) => Val::Bytes(a.iter().chain(b.iter()).copied().collect()),
        (Val::List(a), Val::List(b)) => Val::list(a.iter().chain(b.iter()).collect()),
        (Val::Duration(a), Val::Duration(b)) => Val::Duration(a.checked_add(*b).ok_or_else(|| overflow("duration"))?),
        (Val::Timestamp(at), Val::Duration(by)) | (Val::Duration(by), Val::Timestamp(at)) => {
            Val::Timestamp(at.checked_add(*by).map_err(|_| overflow("timestamp"))?)
        }
        _ => return Err(EvalError::NoOverload),
    })
}

fn subtract<'a>(call: &Call<'a, '_>) -> Answer<'a> {
    Ok(match (call.arg(0)?, call.arg(1)?) {
        (Val::Int(a), Val::Int(b)) => Val::Int(a.checked_sub(*b).ok_or_else(|| overflow("integer"))?),
        (Val::Uint(a), Val::Uint(b)) => Val::Uint(a.checked_sub(*b).ok_or_else(|| overflow("unsigned integer"))?),
        (Val::Double(a), Val::Double(b)) => Val::Double(a - b),
        (Val::Duration(a), Val::Duration(b)) => Val::Duration(a.checked_sub(*b).ok_or_else(|| overflow("duration"))?),
        (Val::Timestamp(at), Val::Duration(by)) => {
            Val::Timestamp(at.checked_sub(*by).map_err(|_| overflow("timestamp"))?)
        }
        (Val::Timestamp(a), Val::Timestamp(b)) => Val::Duration(a.duration_since(*b)),
        _ => return Err(EvalError::NoOverload),
    })
}

fn multiply<'a>(call: &Call<'a, '_>) -> Answer<'a> {
    Ok(match (call.arg(0)?, call.arg(1)?) {
        (Val::Int(a), Val::Int(b)) => Val::Int(a.checked_mul(*b).ok_or_else(|| overflow("integer"))?),
        (Val::Uint(a), Val::Uint(b)) => Val::Uint(a.checked_mul(*b).ok_or_else(|| overflow("unsigned integer"))?),
        (Val::Double(a), Val::Double(b)) => Val::Double(a * b),
        _ => return Err(EvalError::NoOverload),
    })
}

fn divide<'a>(call: &Call<'a, '_>) -> Answer<'a> {
    let by_zero = || EvalError::other("division by zero");
    Ok(match (call.arg(0)?, call.arg(1)?) {
        (Val::Int(_), Val::Int(0)) | (Val::Uint(_), Val::Uint(0)) => return Err(by_zero()),
        (Val::Int(a), Val::Int(b)) => Val::Int(a.checked_div(*b).ok_or_else(|| overflow("integer"))?),
        (Val::Uint(a), Val::Uint(b)) => Val::Uint(a / b),
        (Val::Double(a), Val::Double(b)) => Val::Double(a / b),
        _ => return Err(EvalError::NoOverload),
    })
}

fn modulo<'a>(call: &Call<'a, '_>) -> Answer<'a> {
    Ok(match (call.arg(0)?, call.arg(1)?) {
        (Val::Int(_), Val::Int(0)) | (Val::Uint(_), Val::Uint(0)) => return Err(EvalError::other("modulus by zero")),
        (Val::Int(a), Val::Int(b)) => Val::Int(a.checked_rem(*b).ok_or_else(|| overflow("integer"))?),
        (Val::Uint(a), Val::Uint(b)) => Val::Uint(a % b),
        _ => return Err(EvalError::NoOverload),
    })
}

fn negate<'a>(call: &Call<'a, '_>) -> Answer<'a> {
    Ok(match call.arg(0)? {
        Val::Int(a) => Val::Int(a.checked_neg().ok_or_else(|| overflow("integer"))?),
        Val::Double(a) => Val::Double(-a),
        _ => return Err(EvalError::NoOverload),
    })
}

fn not<'a>(call: &Call<'a, '_>) -> Answer<'a> {
    call.arg(0)?.as_bool().map(|b| Val::Bool(!b)).ok_or(EvalError::NoOverload)
}

fn contains<'a>(call: &Call<'a, '_>) -> Answer<'a> {
    let wanted = call.arg(0)?;
    match call.arg(1)? {
        // Texts in a list of the object are the common case and are compared where they stand.
        Val::List(List::Json(items, _)) if wanted.as_str().is_some() => {
            let wanted = wanted.as_str().unwrap_or_default();
            Ok(Val::Bool(items.iter().any(|item| item.as_str() == Some(wanted))))
        }
        Val::List(list) => Ok(Val::Bool(list.iter().any(|item| item.equals(wanted)))),
        Val::Map(map) => Ok(Val::Bool(Key::of(wanted).is_some_and(|key| map.get(&key).is_some()))),
        _ => Err(EvalError::NoOverload),
    }
}

fn index<'a>(call: &Call<'a, '_>) -> Result<Option<Val<'a>>, EvalError> {
    let key = call.arg(1)?;
    match call.arg(0)? {
        Val::List(list) => match key {
            Val::Int(at) => Ok(usize::try_from(*at).ok().and_then(|at| list.get(at))),
            Val::Uint(at) => Ok(usize::try_from(*at).ok().and_then(|at| list.get(at))),
            Val::Double(at) if at.fract() == 0.0 && *at >= 0.0 => Ok(list.get(*at as usize)),
            _ => Err(EvalError::NoOverload),
        },
        Val::Map(map) => match key {
            Val::Str(Text::Ref(text)) => Ok(map.get_str(text)),
            key => Ok(Key::of(key).and_then(|key| map.get(&key))),
        },
        _ => Err(EvalError::NoOverload),
    }
}

fn missing(call: &Call<'_, '_>) -> EvalError {
    let key = call.args.get(1).and_then(Key::of).map(|key| key.to_string()).unwrap_or_default();
    match call.args.first() {
        Some(Val::List(_)) => EvalError::other(format!("index out of bounds: {key}")),
        _ => EvalError::NoSuchKey(key),
    }
}

fn optional_index<'a>(call: &Call<'a, '_>) -> Answer<'a> {
    if let Val::Optional(inner) = call.arg(0)? {
        let Some(inner) = inner else { return Ok(Val::Optional(None)) };
        let args = [Val::clone(inner), call.arg(1)?.clone()];
        return optional_index(&Call { name: call.name, args: &args, regex: None });
    }
    Ok(match index(call)? {
        Some(Val::Optional(inner)) => Val::Optional(inner),
        found => Val::Optional(found.map(std::sync::Arc::new)),
    })
}
