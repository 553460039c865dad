//! Texts: searching, cutting, replacing, formatting.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{Answer, Call, Function};
use crate::cel::EvalError;
use crate::cel::value::{self, Val};

/// The longest text that a function makes.
const TEXT_BYTES_MAX: usize = 4 << 20;

pub(super) fn find(name: &str, member: bool) -> Option<Function> {
    Some(match (name, member) {
        ("contains", true) => |call| Ok(Val::Bool(call.text(0)?.contains(call.text(1)?))),
        ("startsWith", true) => |call| Ok(Val::Bool(call.text(0)?.starts_with(call.text(1)?))),
        ("endsWith", true) => |call| Ok(Val::Bool(call.text(0)?.ends_with(call.text(1)?))),
        ("matches", _) => |call| Ok(Val::Bool(call.pattern()?.is_match(call.text(0)?))),
        ("find", true) => {
            |call| Ok(Val::text(call.pattern()?.find(call.text(0)?).map(|found| found.as_str()).unwrap_or_default()))
        }
        ("findAll", true) => find_all,
        ("charAt", true) => char_at,
        ("lowerAscii", true) => |call| Ok(Val::text(call.text(0)?.to_ascii_lowercase())),
        ("upperAscii", true) => |call| Ok(Val::text(call.text(0)?.to_ascii_uppercase())),
        ("trim", true) => |call| Ok(Val::text(call.text(0)?.trim())),
        ("replace", true) => replace,
        ("split", true) => split,
        ("substring", true) => substring,
        ("join", true) => join,
        ("format", true) => format,
        ("strings.quote", false) => |call| Ok(Val::text(crate::error::quote(call.text(0)?))),
        ("base64.encode", false) => |call| match call.arg(0)? {
            Val::Bytes(bytes) => Ok(Val::text(STANDARD.encode(bytes))),
            _ => Err(EvalError::NoOverload),
        },
        ("base64.decode", false) => |call| {
            let bytes = STANDARD.decode(call.text(0)?);
            bytes.map(|bytes| Val::Bytes(Arc::from(bytes))).map_err(|error| EvalError::other(error.to_string()))
        },
        _ => return None,
    })
}

fn limited<'a>(text: String) -> Answer<'a> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(EvalError::OverBudget);
    }
    Ok(Val::text(text))
}

fn find_all<'a>(call: &Call<'a, '_>) -> Answer<'a> {
    let most = if call.has(2) { call.int(2)? } else { -1 };
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let pattern = call.pattern()?;
    Ok(Val::list(pattern.find_iter(call.text(0)?).take(most).map(|found| Val::text(found.as_str())).collect()))
}

fn out_of_range(at: i64) -> EvalError {
    EvalError::other(format!("index out of range: {at}"))
}

fn char_at<'a>(call: &Call<'a, '_>) -> Answer<'a> {
    let (text, at) = (call.text(0)?, call.int(1)?);
    let size = text.chars().count();
    let place = usize::try_from(at).ok().filter(|place| *place <= size).ok_or_else(|| out_of_range(at))?;
    Ok(Val::text(text.chars().nth(place).map(String::from).unwrap_or_default()))
}

fn substring<'a>(call: &Call<'a, '_>) -> Answer<'a> {
    let chars: Vec<char> = call.text(0)?.chars().collect();
    let start = call.int(1)?;
    let end = if call.has(2) { call.int(2)? } else { chars.len() as i64 };
    if start < 0 || end < 0 || start > chars.len() as i64 || end > chars.len() as i64 {
        return Err(out_of_range(if start < 0 || start > chars.len() as i64 { start } else { end }));
    }
    if start > end {
        return Err(EvalError::other(format!("invalid substring range. start: {start}, end: {end}")));
    }
    Ok(Val::text(chars[start as usize..end as usize].iter().collect::<String>()))
}

fn replace<'a>(call: &Call<'a, '_>) -> Answer<'a> {
    let (text, old, new) = (call.text(0)?, call.text(1)?, call.text(2)?);
    let most = if call.has(3) { call.int(3)? } else { -1 };
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let times = if old.is_empty() { text.chars().count() + 1 } else { text.matches(old).count() }.min(most);
    if text.len().saturating_add(times.saturating_mul(new.len())) > TEXT_BYTES_MAX {
        return Err(EvalError::OverBudget);
    }
    limited(text.replacen(old, new, times))
}

fn split<'a>(call: &Call<'a, '_>) -> Answer<'a> {
    let (text, separator) = (call.text(0)?, call.text(1)?);
    let most = if call.has(2) { call.int(2)? } else { -1 };
    let parts: Vec<Val<'a>> = match usize::try_from(most) {
        Ok(0) => Vec::new(),
        _ if separator.is_empty() => {
            let chars: Vec<char> = text.chars().collect();
            let most = usize::try_from(most).unwrap_or(usize::MAX).min(chars.len().max(1));
            let mut parts: Vec<String> = chars.iter().take(most.saturating_sub(1)).map(char::to_string).collect();
            parts.push(chars.iter().skip(most.saturating_sub(1)).collect());
            parts.into_iter().filter(|part| !part.is_empty()).map(Val::text).collect()
        }
        Ok(most) => text.splitn(most, separator).map(Val::text).collect(),
        Err(_) => text.split(separator).map(Val::text).collect(),
    };
    Ok(Val::list(parts))
}

fn join<'a>(call: &Call<'a, '_>) -> Answer<'a> {
    let separator = if call.has(1) { call.text(1)? } else { "" };
    let mut out = String::new();
    for (at, item) in call.list(0)?.iter().enumerate() {
        if at > 0 {
            out.push_str(separator);
        }
        out.push_str(item.as_str().ok_or(EvalError::NoOverload)?);
        if out.len() > TEXT_BYTES_MAX {
            return Err(EvalError::OverBudget);
        }
    }
    limited(out)
}

/// `"%s has %d".format([…])`.
fn format<'a>(call: &Call<'a, '_>) -> Answer<'a> {
    let (pattern, args) = (call.text(0)?, call.list(1)?);
    let mut out = String::with_capacity(pattern.len());
    let mut next = args.iter();
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        if chars.peek() == Some(&'%') {
            chars.next();
            out.push('%');
            continue;
        }
        let mut precision = None;
        if chars.peek() == Some(&'.') {
            chars.next();
            let mut digits = String::new();
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                digits.push(digit);
            }
            precision = digits.parse::<usize>().ok().filter(|precision| *precision <= 100);
        }
        let verb = chars.next().ok_or_else(|| EvalError::other("unexpected end of format string"))?;
        let value = next.next().ok_or_else(|| EvalError::other("index out of range for format arguments"))?;
        clause(&mut out, verb, precision, &value)?;
        if out.len() > TEXT_BYTES_MAX {
            return Err(EvalError::OverBudget);
        }
    }
    limited(out)
}

fn clause(out: &mut String, verb: char, precision: Option<usize>, value: &Val<'_>) -> Result<(), EvalError> {
    let wrong = || {
        EvalError::other(format!(
            "error during formatting: could not convert argument of type {} for %{verb}",
            value.type_name()
        ))
    };
    match (verb, value) {
        ('s', value) => shown(out, value, 0),
        ('d', Val::Int(i)) => out.push_str(&i.to_string()),
        ('d', Val::Uint(u)) => out.push_str(&u.to_string()),
        ('f', Val::Double(d)) => out.push_str(&format!("{d:.*}", precision.unwrap_or(6))),
        ('e', Val::Double(d)) => out.push_str(&scientific(*d, precision.unwrap_or(6))),
        ('b', Val::Int(i)) => out.push_str(&format!("{}{:b}", if *i < 0 { "-" } else { "" }, i.unsigned_abs())),
        ('b', Val::Uint(u)) => out.push_str(&format!("{u:b}")),
        ('b', Val::Bool(b)) => out.push(if *b { '1' } else { '0' }),
        ('o', Val::Int(i)) => out.push_str(&format!("{}{:o}", if *i < 0 { "-" } else { "" }, i.unsigned_abs())),
        ('o', Val::Uint(u)) => out.push_str(&format!("{u:o}")),
        ('x' | 'X', value) => {
            let hex = match value {
                Val::Int(i) => format!("{}{:x}", if *i < 0 { "-" } else { "" }, i.unsigned_abs()),
                Val::Uint(u) => format!("{u:x}"),
                Val::Str(text) => text.bytes().map(|byte| format!("{byte:02x}")).collect(),
                Val::Bytes(bytes) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
                _ => return Err(wrong()),
            };
            out.push_str(&if verb == 'X' { hex.to_uppercase() } else { hex });
        }
        ('d' | 'f' | 'e' | 'b' | 'o', _) => return Err(wrong()),
        _ => {
            return Err(EvalError::other(format!(
                "error during formatting: unrecognized formatting clause \"{verb}\""
            )));
        }
    }
    Ok(())
}

fn scientific(value: f64, precision: usize) -> String {
    let text = format!("{value:.precision$e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |rest| ('-', rest));
    format!("{digits}e{sign}{exponent:0>2}")
}

fn shown(out: &mut String, value: &Val<'_>, depth: usize) {
    if depth > 16 || out.len() > TEXT_BYTES_MAX {
        return;
    }
    match value {
        Val::Null => out.push_str("null"),
        Val::Bool(b) => out.push_str(&b.to_string()),
        Val::Int(i) => out.push_str(&i.to_string()),
        Val::Uint(u) => out.push_str(&u.to_string()),
        Val::Double(d) => out.push_str(&d.to_string()),
        Val::Str(text) => out.push_str(text),
        Val::Bytes(bytes) => out.push_str(&String::from_utf8_lossy(bytes)),
        Val::Duration(duration) => out.push_str(&value::duration_text(*duration)),
        Val::Timestamp(at) => out.push_str(&at.to_string()),
        Val::Type(name) => out.push_str(name),
        Val::Optional(Some(inner)) => shown(out, inner, depth + 1),
        Val::Optional(None) => out.push_str("optional.none()"),
        Val::Opaque(opaque) => out.push_str(&opaque.to_string()),
        Val::List(list) => {
            out.push('[');
            for (at, item) in list.iter().enumerate() {
                if at > 0 {
                    out.push_str(", ");
                }
                shown(out, &item, depth + 1);
            }
            out.push(']');
        }
        Val::Map(map) => {
            out.push('{');
            for (at, (key, item)) in map.entries().enumerate() {
                if at > 0 {
                    out.push_str(", ");
                }
                out.push_str(&key.to_string());
                out.push_str(": ");
                shown(out, &item, depth + 1);
            }
            out.push('}');
        }
    }
}
