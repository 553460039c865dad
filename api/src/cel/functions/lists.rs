//! Lists and sets; and what lists and texts have in common.

use std::cmp::Ordering;
use std::sync::Arc;

use super::{Answer, Call, Function};
use crate::cel::EvalError;
use crate::cel::value::{List, Val};

/// The longest list that `lists.range` makes.
const RANGE_MAX: i64 = 100_000;

pub(super) fn find(name: &str, member: bool) -> Option<Function> {
    Some(match (name, member) {
        ("isSorted", true) => |call| {
            let items: Vec<Val<'_>> = call.list(0)?.iter().collect();
            Ok(Val::Bool(items.windows(2).all(|pair| pair[0].compare(&pair[1]).is_some_and(Ordering::is_le))))
        },
        ("sum", true) => sum,
        ("min", true) => |call| extreme(call, "min", Ordering::Less),
        ("max", true) => |call| extreme(call, "max", Ordering::Greater),
        ("indexOf", true) => |call| position(call, false),
        ("lastIndexOf", true) => |call| position(call, true),
        ("slice", true) => slice,
        ("sort", true) => |call| {
            let items: Vec<Val<'_>> = call.list(0)?.iter().collect();
            let keys = items.clone();
            sort_by(items, &keys)
        },
        ("@sortByAssociatedKeys", true) => |call| {
            let keys: Vec<Val<'_>> = call.list(1)?.iter().collect();
            sort_by(call.list(0)?.iter().collect(), &keys)
        },
        ("distinct", true) => |call| Ok(Val::list(distinct(call.list(0)?))),
        ("reverse", true) => |call| match call.arg(0)? {
            Val::Str(text) => Ok(Val::text(text.chars().rev().collect::<String>())),
            Val::List(list) => {
                let mut items: Vec<Val<'_>> = list.iter().collect();
                items.reverse();
                Ok(Val::list(items))
            }
            _ => Err(EvalError::NoOverload),
        },
        ("flatten", true) => |call| {
            let depth = if call.has(1) { call.int(1)? } else { 1 };
            let mut out = Vec::new();
            flatten(call.list(0)?, depth.clamp(0, 16), &mut out);
            Ok(Val::list(out))
        },
        ("first", true) => |call| Ok(Val::Optional(call.list(0)?.get(0).map(Arc::new))),
        ("last", true) => |call| {
            let list = call.list(0)?;
            Ok(Val::Optional(list.len().checked_sub(1).and_then(|at| list.get(at)).map(Arc::new)))
        },
        ("lists.range", false) => |call| {
            let size = call.int(0)?;
            if size > RANGE_MAX {
                return Err(EvalError::OverBudget);
            }
            Ok(Val::list((0..size).map(Val::Int).collect()))
        },
        ("sets.contains", false) => |call| Ok(Val::Bool(includes(call.list(0)?, call.list(1)?))),
        ("sets.equivalent", false) => {
            |call| Ok(Val::Bool(includes(call.list(0)?, call.list(1)?) && includes(call.list(1)?, call.list(0)?)))
        }
        ("sets.intersects", false) => |call| {
            let (a, b) = (call.list(0)?, call.list(1)?);
            Ok(Val::Bool(b.iter().any(|wanted| a.iter().any(|item| item.equals(&wanted)))))
        },
        _ => return None,
    })
}

fn includes(list: &List<'_>, part: &List<'_>) -> bool {
    part.iter().all(|wanted| list.iter().any(|item| item.equals(&wanted)))
}

fn sum<'a>(call: &Call<'a, '_>) -> Answer<'a> {
    let mut total: Option<Val<'a>> = None;
    for item in call.list(0)?.iter() {
        total = Some(match total {
            None => item,
            Some(total) => {
                let args = [total, item];
                let add = super::operators::find("_+_").ok_or(EvalError::NoOverload)?;
                add(&Call { name: call.name, args: &args, regex: None })?
            }
        });
    }
    Ok(total.unwrap_or(Val::Int(0)))
}

fn extreme<'a>(call: &Call<'a, '_>, name: &str, wanted: Ordering) -> Answer<'a> {
    let mut best: Option<Val<'a>> = None;
    for item in call.list(0)?.iter() {
        let better = match &best {
            None => true,
            Some(best) => item.compare(best).ok_or(EvalError::NoOverload)? == wanted,
        };
        if better {
            best = Some(item);
        }
    }
    best.ok_or_else(|| EvalError::other(format!("{name} called on empty list")))
}

/// The first or last place of an item in a list, or of a text in a text (counted in characters).
fn position<'a>(call: &Call<'a, '_>, last: bool) -> Answer<'a> {
    if let Val::List(list) = call.arg(0)? {
        let wanted = call.arg(1)?;
        let places: Vec<usize> = (0..list.len()).collect();
        let fits = |at: &usize| list.get(*at).is_some_and(|item| item.equals(wanted));
        let found = if last { places.into_iter().rev().find(fits) } else { places.into_iter().find(fits) };
        return Ok(Val::Int(found.map_or(-1, |at| at as i64)));
    }
    let (text, wanted) = (call.text(0)?, call.text(1)?);
    let size = text.chars().count() as i64;
    let offset = if call.has(2) {
        call.int(2)?
    } else if last {
        size
    } else {
        0
    };
    if offset < 0 || offset > size {
        return Err(EvalError::other(format!("index out of range: {offset}")));
    }
    let byte = text.char_indices().nth(offset as usize).map_or(text.len(), |(at, _)| at);
    let found = if last {
        // The match may begin at the offset at the latest.
        let end = text.len().min(byte.saturating_add(wanted.len()));
        let end = (end..=text.len()).find(|end| text.is_char_boundary(*end)).unwrap_or(text.len());
        text[..end].rfind(wanted)
    } else {
        text[byte..].find(wanted).map(|at| at + byte)
    };
    Ok(Val::Int(found.map_or(-1, |at| text[..at].chars().count() as i64)))
}

fn slice<'a>(call: &Call<'a, '_>) -> Answer<'a> {
    let (list, start, end) = (call.list(0)?, call.int(1)?, call.int(2)?);
    if start < 0 || end < start || end > list.len() as i64 {
        return Err(EvalError::other(format!("cannot slice({start}, {end}), list is length {}", list.len())));
    }
    Ok(Val::list(list.iter().skip(start as usize).take((end - start) as usize).collect()))
}

fn distinct<'a>(list: &List<'a>) -> Vec<Val<'a>> {
    let mut kept: Vec<Val<'a>> = Vec::new();
    for item in list.iter() {
        if !kept.iter().any(|known| known.equals(&item)) {
            kept.push(item);
        }
    }
    kept
}

fn flatten<'a>(list: &List<'a>, depth: i64, out: &mut Vec<Val<'a>>) {
    for item in list.iter() {
        match item {
            Val::List(inner) if depth > 0 => flatten(&inner, depth - 1, out),
            item => out.push(item),
        }
    }
}

/// The items in the order of their keys.
pub(in crate::cel) fn sort_by<'a>(items: Vec<Val<'a>>, keys: &[Val<'a>]) -> Answer<'a> {
    let mut order: Vec<usize> = (0..items.len()).collect();
    let mut comparable = true;
    order.sort_by(|a, b| match (keys.get(*a), keys.get(*b)) {
        (Some(a), Some(b)) => a.compare(b).unwrap_or_else(|| {
            comparable = false;
            Ordering::Equal
        }),
        _ => Ordering::Equal,
    });
    if !comparable {
        return Err(EvalError::NoOverload);
    }
    Ok(Val::list(order.into_iter().filter_map(|at| items.get(at).cloned()).collect()))
}
