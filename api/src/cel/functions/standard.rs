//! The standard functions: sizes, conversions, times, optional values, numbers.

use std::sync::Arc;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, Zoned};

use super::{Answer, Call, Function};
use crate::cel::EvalError;
use crate::cel::value::{self, Val};

pub(super) fn find(name: &str, member: bool) -> Option<Function> {
    Some(match (name, member) {
        ("size", _) => size,
        ("int", false) => int,
        ("uint", false) => uint,
        ("double", false) => double,
        ("string", false) => string,
        ("bytes", false) => bytes,
        ("bool", false) => boolean,
        ("dyn", false) => |call| call.arg(0).cloned(),
        ("type", false) => |call| Ok(Val::Type(Arc::from(call.arg(0)?.type_name()))),
        ("duration", false) => duration,
        ("timestamp", false) => timestamp,
        ("getFullYear", true) => |call| part(call, |at| i64::from(at.year())),
        ("getMonth", true) => |call| part(call, |at| i64::from(at.month()) - 1),
        ("getDayOfYear", true) => |call| part(call, |at| i64::from(at.day_of_year()) - 1),
        ("getDayOfMonth", true) => |call| part(call, |at| i64::from(at.day()) - 1),
        ("getDate", true) => |call| part(call, |at| i64::from(at.day())),
        ("getDayOfWeek", true) => |call| part(call, |at| i64::from(at.weekday().to_sunday_zero_offset())),
        ("getHours", true) => |call| clock(call, |at| i64::from(at.hour()), |d| d.as_hours()),
        ("getMinutes", true) => |call| clock(call, |at| i64::from(at.minute()), |d| d.as_mins()),
        ("getSeconds", true) => |call| clock(call, |at| i64::from(at.second()), |d| d.as_secs()),
        ("getMilliseconds", true) => {
            |call| clock(call, |at| i64::from(at.millisecond()), |d| i64::from(d.subsec_millis()))
        }
        ("optional.of", false) => |call| Ok(Val::Optional(Some(Arc::new(call.arg(0)?.clone())))),
        ("optional.none", false) => |_| Ok(Val::Optional(None)),
        ("optional.ofNonZeroValue", false) => non_zero,
        ("hasValue", true) => |call| optional(call).map(|value| Val::Bool(value.is_some())),
        ("value", true) => |call| optional(call)?.ok_or_else(|| EvalError::other("optional.none() dereference")),
        ("or", true) => |call| match optional(call)? {
            Some(value) => Ok(Val::Optional(Some(Arc::new(value)))),
            None => call.arg(1).cloned(),
        },
        ("orValue", true) => |call| optional(call)?.map_or_else(|| call.arg(1).cloned(), Ok),
        ("math.abs", false) => |call| match call.arg(0)? {
            Val::Int(i) => i.checked_abs().map(Val::Int).ok_or_else(|| super::overflow("integer")),
            Val::Uint(u) => Ok(Val::Uint(*u)),
            Val::Double(d) => Ok(Val::Double(d.abs())),
            _ => Err(EvalError::NoOverload),
        },
        ("math.sign", false) => |call| match call.arg(0)? {
            Val::Int(i) => Ok(Val::Int(i.signum())),
            Val::Uint(u) => Ok(Val::Uint((*u).min(1))),
            Val::Double(d) => Ok(Val::Double(if *d == 0.0 { 0.0 } else { d.signum() })),
            _ => Err(EvalError::NoOverload),
        },
        ("math.ceil", false) => |call| float(call).map(|d| Val::Double(d.ceil())),
        ("math.floor", false) => |call| float(call).map(|d| Val::Double(d.floor())),
        ("math.round", false) => |call| float(call).map(|d| Val::Double(d.round())),
        ("math.isNaN", false) => |call| float(call).map(|d| Val::Bool(d.is_nan())),
        ("math.isInf", false) => |call| float(call).map(|d| Val::Bool(d.is_infinite())),
        _ => return None,
    })
}

fn float(call: &Call<'_, '_>) -> Result<f64, EvalError> {
    match call.arg(0)? {
        Val::Double(d) => Ok(*d),
        _ => Err(EvalError::NoOverload),
    }
}

fn size<'a>(call: &Call<'a, '_>) -> Answer<'a> {
    let size = match call.arg(0)? {
        Val::Str(text) => text.chars().count(),
        Val::Bytes(bytes) => bytes.len(),
        Val::List(list) => list.len(),
        Val::Map(map) => map.len(),
        _ => return Err(EvalError::NoOverload),
    };
    Ok(Val::Int(size as i64))
}

fn conversion(value: &Val<'_>, to: &str) -> EvalError {
    EvalError::other(format!("type conversion error from '{}' to '{to}'", value.type_name()))
}

fn int<'a>(call: &Call<'a, '_>) -> Answer<'a> {
    let value = call.arg(0)?;
    let found = match value {
        Val::Int(i) => Some(*i),
        Val::Uint(u) => i64::try_from(*u).ok(),
        Val::Double(d) => (d.abs() < 9.3e18).then_some(*d as i64),
        Val::Str(text) => text.parse().ok(),
        Val::Timestamp(at) => Some(at.as_second()),
        Val::Duration(duration) => i64::try_from(duration.as_nanos()).ok(),
        _ => return Err(EvalError::NoOverload),
    };
    found.map(Val::Int).ok_or_else(|| conversion(value, "int"))
}

fn uint<'a>(call: &Call<'a, '_>) -> Answer<'a> {
    let value = call.arg(0)?;
    let found = match value {
        Val::Int(i) => u64::try_from(*i).ok(),
        Val::Uint(u) => Some(*u),
        Val::Double(d) => (*d >= 0.0 && *d < 1.8e19).then_some(*d as u64),
        Val::Str(text) => text.parse().ok(),
        _ => return Err(EvalError::NoOverload),
    };
    found.map(Val::Uint).ok_or_else(|| conversion(value, "uint"))
}

fn double<'a>(call: &Call<'a, '_>) -> Answer<'a> {
    let value = call.arg(0)?;
    match value {
        Val::Int(i) => Ok(Val::Double(*i as f64)),
        Val::Uint(u) => Ok(Val::Double(*u as f64)),
        Val::Double(d) => Ok(Val::Double(*d)),
        Val::Str(text) => text.parse().map(Val::Double).map_err(|_| conversion(value, "double")),
        _ => Err(EvalError::NoOverload),
    }
}

fn string<'a>(call: &Call<'a, '_>) -> Answer<'a> {
    let value = call.arg(0)?;
    Ok(match value {
        Val::Str(text) => Val::Str(text.clone()),
        Val::Bool(b) => Val::text(b.to_string()),
        Val::Int(i) => Val::text(i.to_string()),
        Val::Uint(u) => Val::text(u.to_string()),
        Val::Double(d) => Val::text(d.to_string()),
        Val::Bytes(bytes) => Val::text(
            std::str::from_utf8(bytes)
                .map_err(|_| EvalError::other("invalid UTF-8 in bytes, cannot convert to string"))?,
        ),
        Val::Duration(duration) => Val::text(value::duration_text(*duration)),
        Val::Timestamp(at) => Val::text(at.to_string()),
        Val::Opaque(opaque) => Val::text(opaque.to_string()),
        _ => return Err(EvalError::NoOverload),
    })
}

fn bytes<'a>(call: &Call<'a, '_>) -> Answer<'a> {
    match call.arg(0)? {
        Val::Str(text) => Ok(Val::Bytes(Arc::from(text.as_bytes()))),
        Val::Bytes(bytes) => Ok(Val::Bytes(Arc::clone(bytes))),
        _ => Err(EvalError::NoOverload),
    }
}

fn boolean<'a>(call: &Call<'a, '_>) -> Answer<'a> {
    let value = call.arg(0)?;
    match value {
        Val::Bool(b) => Ok(Val::Bool(*b)),
        Val::Str(text) => match &**text {
            "1" | "t" | "true" | "TRUE" | "True" => Ok(Val::Bool(true)),
            "0" | "f" | "false" | "FALSE" | "False" => Ok(Val::Bool(false)),
            _ => Err(conversion(value, "bool")),
        },
        _ => Err(EvalError::NoOverload),
    }
}

fn duration<'a>(call: &Call<'a, '_>) -> Answer<'a> {
    let value = call.arg(0)?;
    match value {
        Val::Duration(duration) => Ok(Val::Duration(*duration)),
        Val::Str(text) => {
            value::duration(text).map(Val::Duration).ok_or_else(|| conversion(value, "google.protobuf.Duration"))
        }
        _ => Err(EvalError::NoOverload),
    }
}

fn timestamp<'a>(call: &Call<'a, '_>) -> Answer<'a> {
    let value = call.arg(0)?;
    let found = match value {
        Val::Timestamp(at) => Some(*at),
        Val::Str(text) => text.parse().ok(),
        Val::Int(seconds) => Timestamp::from_second(*seconds).ok(),
        _ => return Err(EvalError::NoOverload),
    };
    found.map(Val::Timestamp).ok_or_else(|| conversion(value, "google.protobuf.Timestamp"))
}

fn zoned(call: &Call<'_, '_>, at: Timestamp) -> Result<Zoned, EvalError> {
    let zone = match call.args.get(1) {
        None => TimeZone::UTC,
        Some(zone) => {
            let name = zone.as_str().ok_or(EvalError::NoOverload)?;
            zone_of(name).ok_or_else(|| EvalError::other(format!("unknown time zone {name}")))?
        }
    };
    Ok(at.to_zoned(zone))
}

/// A zone by its name or as an offset: `+02:00`.
fn zone_of(name: &str) -> Option<TimeZone> {
    if name == "UTC" {
        return Some(TimeZone::UTC);
    }
    let (negative, rest) = match name.as_bytes().first()? {
        b'-' => (true, &name[1..]),
        b'+' => (false, &name[1..]),
        byte if byte.is_ascii_digit() => (false, name),
        _ => return TimeZone::get(name).ok(),
    };
    let (hours, minutes) = rest.split_once(':')?;
    let seconds = hours.parse::<i32>().ok()? * 3600 + minutes.parse::<i32>().ok()? * 60;
    let offset = jiff::tz::Offset::from_seconds(if negative { -seconds } else { seconds }).ok()?;
    Some(TimeZone::fixed(offset))
}

fn part<'a>(call: &Call<'a, '_>, read: fn(&Zoned) -> i64) -> Answer<'a> {
    match call.arg(0)? {
        Val::Timestamp(at) => Ok(Val::Int(read(&zoned(call, *at)?))),
        _ => Err(EvalError::NoOverload),
    }
}

fn clock<'a>(call: &Call<'a, '_>, read: fn(&Zoned) -> i64, of: fn(&SignedDuration) -> i64) -> Answer<'a> {
    match call.arg(0)? {
        Val::Duration(duration) => Ok(Val::Int(of(duration))),
        _ => part(call, read),
    }
}

fn optional<'a>(call: &Call<'a, '_>) -> Result<Option<Val<'a>>, EvalError> {
    match call.arg(0)? {
        Val::Optional(inner) => Ok(inner.as_ref().map(|inner| Val::clone(inner))),
        _ => Err(EvalError::NoOverload),
    }
}

fn non_zero<'a>(call: &Call<'a, '_>) -> Answer<'a> {
    let value = call.arg(0)?;
    let zero = match value {
        Val::Null | Val::Bool(false) | Val::Int(0) | Val::Uint(0) | Val::Optional(None) => true,
        Val::Double(d) => *d == 0.0,
        Val::Str(text) => text.is_empty(),
        Val::Bytes(bytes) => bytes.is_empty(),
        Val::List(list) => list.is_empty(),
        Val::Map(map) => map.is_empty(),
        Val::Duration(duration) => duration.is_zero(),
        _ => false,
    };
    Ok(Val::Optional((!zero).then(|| Arc::new(value.clone()))))
}
