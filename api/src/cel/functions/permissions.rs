//! Questions about permissions, and keys of patches.

use std::sync::Arc;

use super::{Answer, Call, Function};
use crate::cel::authority::{Asking, Check, Decision, Stage};
use crate::cel::libraries::Opaque;
use crate::cel::value::Val;
use crate::cel::{EvalError, Text};
use crate::strategy::NameRule;

pub(super) fn find(name: &str, member: bool) -> Option<Function> {
    Some(match (name, member) {
        ("path", true) => |call| {
            let path = filled(call, "path")?;
            ask(call, Stage::Authorizer, Stage::Path, |check| check.path = path)
        },
        ("group", true) => |call| {
            let group = call.text(1)?.to_owned();
            ask(call, Stage::Authorizer, Stage::Group, |check| check.group = group)
        },
        ("serviceAccount", true) => service_account,
        ("resource", true) => |call| {
            let resource = filled(call, "resource")?;
            ask(call, Stage::Group, Stage::Resource, |check| check.resource = resource)
        },
        ("subresource", true) => |call| narrow(call, |check, text| check.subresource = text),
        ("namespace", true) => |call| narrow(call, |check, text| check.namespace = text),
        ("name", true) => |call| narrow(call, |check, text| check.name = text),
        ("fieldSelector", true) => |call| narrow(call, |check, text| check.field_selector = text),
        ("labelSelector", true) => |call| narrow(call, |check, text| check.label_selector = text),
        ("check", true) => |call| {
            let asking = asking(call)?;
            if !matches!(asking.stage, Stage::Path | Stage::Resource) {
                return Err(EvalError::NoOverload);
            }
            Ok(Val::Opaque(Arc::new(Opaque::Decision(asking.decide(call.text(1)?)))))
        },
        ("allowed", true) => |call| decision(call).map(|decision| Val::Bool(decision.allowed)),
        ("reason", true) => |call| decision(call).map(|decision| Val::text(decision.reason.as_str())),
        ("errored", true) => |call| decision(call).map(|decision| Val::Bool(decision.error.is_some())),
        ("error", true) => |call| decision(call).map(|d| Val::text(d.error.as_deref().unwrap_or_default())),
        ("jsonpatch.escapeKey", false) => {
            |call| Ok(Val::Str(Text::Own(Arc::from(call.text(0)?.replace('~', "~0").replace('/', "~1")))))
        }
        _ => return None,
    })
}

fn asking<'c>(call: &'c Call<'_, '_>) -> Result<&'c Asking, EvalError> {
    match call.arg(0)? {
        Val::Opaque(value) => match &**value {
            Opaque::Asking(asking) => Ok(asking),
            _ => Err(EvalError::NoOverload),
        },
        _ => Err(EvalError::NoOverload),
    }
}

fn decision<'c>(call: &'c Call<'_, '_>) -> Result<&'c Decision, EvalError> {
    match call.arg(0)? {
        Val::Opaque(value) => match &**value {
            Opaque::Decision(decision) => Ok(decision),
            _ => Err(EvalError::NoOverload),
        },
        _ => Err(EvalError::NoOverload),
    }
}

fn ask<'a>(call: &Call<'a, '_>, from: Stage, to: Stage, change: impl FnOnce(&mut Check)) -> Answer<'a> {
    let asking = asking(call)?;
    if asking.stage != from {
        return Err(EvalError::NoOverload);
    }
    Ok(asking.at(to, change).value())
}

fn narrow<'a>(call: &Call<'a, '_>, set: fn(&mut Check, String)) -> Answer<'a> {
    let text = call.text(1)?.to_owned();
    ask(call, Stage::Resource, Stage::Resource, |check| set(check, text))
}

fn filled(call: &Call<'_, '_>, what: &str) -> Result<String, EvalError> {
    let text = call.text(1)?;
    if text.trim().is_empty() {
        return Err(EvalError::other(format!("{what} must not be empty")));
    }
    Ok(text.to_owned())
}

fn service_account<'a>(call: &Call<'a, '_>) -> Answer<'a> {
    let (namespace, name) = (call.text(1)?, call.text(2)?);
    if !NameRule::Subdomain.errors(name, false).is_empty() {
        return Err(EvalError::other("Invalid service account name"));
    }
    if !NameRule::Label.errors(namespace, false).is_empty() {
        return Err(EvalError::other("Invalid service account namespace"));
    }
    let asking = asking(call)?;
    if asking.stage != Stage::Authorizer {
        return Err(EvalError::NoOverload);
    }
    Ok(asking.of_account(namespace, name).value())
}
