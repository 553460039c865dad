//! Field selectors: `status.phase=Running,spec.nodeName!=a`.

use std::fmt;

use crate::error::ApiError;

/// One condition on one field.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FieldRequirement {
    /// The field, as a dotted path.
    pub field: Box<str>,
    /// Whether the field must have the value, or must not.
    pub equals: bool,
    /// The value.
    pub value: Box<str>,
}

/// A conjunction of conditions on fields. Which fields a resource offers is the resource's to say.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct FieldSelector {
    requirements: Box<[FieldRequirement]>,
}

impl FieldSelector {
    /// The selector without conditions.
    pub fn everything() -> Self {
        FieldSelector::default()
    }

    /// Reads a selector. In a value `\` escapes itself, `,` and `=`.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        let mut terms = split_terms(text);
        terms.sort_unstable();
        let mut requirements = Vec::new();
        for term in terms.into_iter().filter(|t| !t.is_empty()) {
            let (field, equals, value) = split_term(term).ok_or_else(|| {
                ApiError::bad_request(format!("invalid selector: '{text}'; can't understand '{term}'"))
            })?;
            let value = unescape(value)?;
            requirements.push(FieldRequirement { field: field.into(), equals, value: value.into() });
        }
        Ok(FieldSelector { requirements: requirements.into() })
    }

    /// Whether every object matches.
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }

    /// The conditions.
    pub fn requirements(&self) -> &[FieldRequirement] {
        &self.requirements
    }

    /// Whether the fields meet every condition; `get` returns a field's value, and an absent field is the empty text.
    pub fn matches<'v>(&self, mut get: impl FnMut(&str) -> Option<&'v str>) -> bool {
        self.requirements.iter().all(|r| (get(&r.field).unwrap_or_default() == &*r.value) == r.equals)
    }

    /// The one value a field must have, if the selector says so: what an index can serve.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.requirements.iter().find(|r| r.equals && &*r.field == field).map(|r| &*r.value)
    }

    /// The same selector with its conditions changed by `change`, which may refuse a field
    /// (`field label not supported: …`).
    pub fn transform(
        &self,
        mut change: impl FnMut(&FieldRequirement) -> Result<FieldRequirement, ApiError>,
    ) -> Result<Self, ApiError> {
        let requirements = self.requirements.iter().map(&mut change).collect::<Result<Vec<_>, _>>()?;
        Ok(FieldSelector { requirements: requirements.into() })
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, r) in self.requirements.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            let operator = if r.equals { "=" } else { "!=" };
            write!(f, "{comma}{}{operator}{}", r.field, escape(&r.value))?;
        }
        Ok(())
    }
}

fn split_terms(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    for (i, c) in term.char_indices() {
        let rest = &term[i..];
        match c {
            '!' if rest.starts_with("!=") => return Some((&term[..i], false, &rest[2..])),
            '=' => return Some((&term[..i], true, rest.strip_prefix("==").unwrap_or(&rest[1..]))),
            _ => {}
        }
    }
    None
}

fn unescape(value: &str) -> Result<String, ApiError> {
    let sequence = |s: &str| ApiError::bad_request(format!("invalid field selector: invalid escape sequence: {s}"));
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                Some(c) => return Err(sequence(&format!("\\{c}"))),
                None => return Err(sequence("\\")),
            },
            ',' | '=' => {
                return Err(ApiError::bad_request(format!(
                    "invalid field selector: unescaped character in value: {}",
                    c as u32
                )));
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

fn escape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for c in value.chars() {
        if matches!(c, '\\' | ',' | '=') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}
