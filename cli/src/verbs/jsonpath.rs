//! kubectl's JSONPath templates: text with `{…}` parts, each a path, a literal, or `range … end`.
//!
//! Supported in a path: `.field`, `['field']`, `['a','b']`, `[n]`, `[-n]`, `[a:b:step]`, `[a,b]`, `[*]`, `.*`, `..field` and
//! filters `[?(@.path == value)]` with `==`, `!=`, `<`, `<=`, `>`, `>=` or the mere presence of the path. As with kubectl, a
//! field that is not there gives nothing, and an index that is not there is an error.

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// A parsed template.
#[derive(Clone, Debug, PartialEq)]
pub struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq)]
enum Part {
    Text(String),
    Path(Vec<Step>),
    Range(Vec<Step>, Vec<Part>),
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Fields(Vec<String>),
    Index(Vec<i64>),
    Slice(Option<i64>, Option<i64>, usize),
    All,
    Descend(String),
    Filter(Vec<Step>, Option<(String, Value)>),
}

impl Template {
    /// Parses a template.
    pub fn parse(text: &str) -> Result<Self> {
        let mut rest = text;
        let parts = parts(&mut rest, false).with_context(|| format!("error parsing jsonpath {text}"))?;
        Ok(Self(parts))
    }

    /// What the template makes of a document.
    pub fn render(&self, document: &Value) -> Result<String> {
        let mut text = String::new();
        render(&self.0, document, &mut text).context("error executing jsonpath")?;
        Ok(text)
    }
}

fn parts(rest: &mut &str, in_range: bool) -> Result<Vec<Part>> {
    let mut found = Vec::new();
    while !rest.is_empty() {
        if !rest.starts_with('{') {
            let end = rest.find('{').unwrap_or(rest.len());
            found.push(Part::Text(rest[..end].to_owned()));
            *rest = &rest[end..];
            continue;
        }
        let end = closing(rest).context("unclosed action")?;
        let action = rest[1..end].trim();
        *rest = &rest[end + 1..];
        if action == "end" {
            if in_range {
                return Ok(found);
            }
            bail!("not in range, nothing to end");
        } else if let Some(path) = action.strip_prefix("range ") {
            let path = steps(path.trim())?;
            found.push(Part::Range(path, parts(rest, true)?));
        } else if let Some(quote) = action.chars().next().filter(|quote| matches!(quote, '"' | '\'')) {
            let inner = action[1..].strip_suffix(quote).context("unterminated quoted string")?;
            found.push(Part::Text(unescape(inner)));
        } else if action.parse::<f64>().is_ok() || matches!(action, "true" | "false") {
            found.push(Part::Text(action.to_owned()));
        } else {
            found.push(Part::Path(steps(action)?));
        }
    }
    if in_range {
        bail!("unterminated range");
    }
    Ok(found)
}

/// The index of the brace that closes the first, past quotes.
fn closing(text: &str) -> Option<usize> {
    let mut quote = None;
    let mut escaped = false;
    for (index, c) in text.char_indices() {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if c == '\\' => escaped = true,
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if matches!(c, '"' | '\'') => quote = Some(c),
            None if c == '}' => return Some(index),
            None => {}
        }
    }
    None
}

fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, if c == '\\' { chars.next() } else { None }) {
            ('\\', Some('n')) => out.push('\n'),
            ('\\', Some('t')) => out.push('\t'),
            ('\\', Some('r')) => out.push('\r'),
            ('\\', Some(other)) => out.push(other),
            (c, _) => out.push(c),
        }
    }
    out
}

fn steps(path: &str) -> Result<Vec<Step>> {
    let mut rest = path.strip_prefix('$').or_else(|| path.strip_prefix('@')).unwrap_or(path);
    let mut found = Vec::new();
    while !rest.is_empty() {
        if let Some(tail) = rest.strip_prefix("..") {
            let (name, tail) = field(tail);
            found.push(Step::Descend(name));
            rest = tail;
        } else if let Some(tail) = rest.strip_prefix('.') {
            let (name, tail) = field(tail);
            match name.as_str() {
                "" if tail.is_empty() || tail.starts_with('[') => {}
                "" => bail!("unexpected `{tail}`"),
                "*" => found.push(Step::All),
                _ => found.push(Step::Fields(vec![name])),
            }
            rest = tail;
        } else if rest.starts_with('[') {
            let end = bracket(rest).context("unterminated array")?;
            found.push(subscript(rest[1..end].trim())?);
            rest = &rest[end + 1..];
        } else {
            bail!("unrecognized character in `{rest}`");
        }
    }
    Ok(found)
}

/// A field's name up to the next step; a backslash takes the next character as it is.
fn field(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut chars = text.char_indices();
    while let Some((index, c)) = chars.next() {
        match c {
            '\\' => name.extend(chars.next().map(|(_, c)| c)),
            '.' | '[' | ']' | ',' | '@' | '$' | '{' | '}' | ' ' | '\t' => return (name, &text[index..]),
            _ => name.push(c),
        }
    }
    (name, "")
}

/// The index of the bracket that closes the first, past quotes and inner brackets.
fn bracket(text: &str) -> Option<usize> {
    let mut depth = 0;
    let mut quote = None;
    for (index, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '[') => depth += 1,
            (None, ']') => {
                depth -= 1;
                if depth == 0 {
                    return Some(index);
                }
            }
            _ => {}
        }
    }
    None
}

fn subscript(text: &str) -> Result<Step> {
    if text == "*" {
        return Ok(Step::All);
    }
    if let Some(filter) = text.strip_prefix("?(").and_then(|text| text.strip_suffix(')')) {
        for operator in ["==", "!=", "<=", ">=", "<", ">"] {
            if let Some((left, right)) = filter.split_once(operator) {
                return Ok(Step::Filter(steps(left.trim())?, Some((operator.into(), literal(right.trim())?))));
            }
        }
        return Ok(Step::Filter(steps(filter.trim())?, None));
    }
    if text.starts_with(['\'', '"']) {
        return Ok(Step::Fields(quoted(text)?));
    }
    let number = |text: &str| text.trim().parse::<i64>().with_context(|| format!("invalid array index {text}"));
    if text.contains(':') {
        let bound = |text: Option<&str>| text.filter(|text| !text.trim().is_empty()).map(number).transpose();
        let mut bounds = text.splitn(3, ':');
        let (from, to, step) = (bound(bounds.next())?, bound(bounds.next())?, bound(bounds.next())?.unwrap_or(1));
        let step = usize::try_from(step).ok().filter(|step| *step > 0).context("step must be > 0")?;
        return Ok(Step::Slice(from, to, step));
    }
    Ok(Step::Index(text.split(',').map(number).collect::<Result<_>>()?))
}

/// Names in quotes with commas between.
fn quoted(text: &str) -> Result<Vec<String>> {
    let mut names = Vec::new();
    let mut rest = text;
    loop {
        let quote =
            rest.chars().next().filter(|quote| matches!(quote, '\'' | '"')).context("a name in quotes is missing")?;
        let (name, tail) = rest[1..].split_once(quote).context("unterminated quoted string")?;
        names.push(name.to_owned());
        match tail.trim_start().strip_prefix(',') {
            Some(tail) => rest = tail.trim_start(),
            None if tail.trim().is_empty() => return Ok(names),
            None => bail!("unexpected `{tail}`"),
        }
    }
}

fn literal(text: &str) -> Result<Value> {
    if let Some(inner) = text.strip_prefix('\'').and_then(|text| text.strip_suffix('\'')) {
        return Ok(inner.into());
    }
    serde_json::from_str(text).with_context(|| format!("`{text}` is neither a number nor a quoted text"))
}

fn render(parts: &[Part], document: &Value, text: &mut String) -> Result<()> {
    for part in parts {
        match part {
            Part::Text(literal) => text.push_str(literal),
            Part::Path(path) => {
                let found = walk(path, document)?;
                let shown: Vec<String> = found.iter().map(|value| show(value)).collect();
                text.push_str(&shown.join(" "));
            }
            Part::Range(path, inner) => {
                for value in walk(path, document)? {
                    render(inner, value, text)?;
                }
            }
        }
    }
    Ok(())
}

fn show(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn walk<'a>(path: &[Step], document: &'a Value) -> Result<Vec<&'a Value>> {
    let mut current = vec![document];
    for step in path {
        current = match step {
            // Of several fields, first the one of every value, then the next.
            Step::Fields(names) => {
                names.iter().flat_map(|name| current.iter().filter_map(move |value| value.get(name))).collect()
            }
            _ => {
                let mut next = Vec::new();
                for value in current {
                    take(step, value, &mut next)?;
                }
                next
            }
        };
    }
    Ok(current)
}

fn take<'a>(step: &Step, value: &'a Value, found: &mut Vec<&'a Value>) -> Result<()> {
    let array = || value.as_array().map(Vec::as_slice).context("an index is for arrays only");
    match step {
        Step::Fields(names) => found.extend(names.iter().filter_map(|name| value.get(name))),
        Step::All => match value {
            Value::Object(map) => found.extend(map.values()),
            _ => found.extend(value.as_array().into_iter().flatten()),
        },
        Step::Index(indices) => {
            let items = array()?;
            for index in indices {
                let item = usize::try_from(from_end(*index, items.len())).ok().and_then(|index| items.get(index));
                found.push(
                    item.with_context(|| format!("array index out of bounds: index {index}, length {}", items.len()))?,
                );
            }
        }
        Step::Slice(from, to, step) => {
            let items = array()?;
            let bound = |index: Option<i64>, default: usize| {
                index
                    .map_or(default, |index| usize::try_from(from_end(index, items.len())).unwrap_or(0))
                    .min(items.len())
            };
            let (from, to) = (bound(*from, 0), bound(*to, items.len()));
            found.extend(items.get(from..to).into_iter().flatten().step_by(*step));
        }
        Step::Descend(name) => descend(name, value, found),
        Step::Filter(path, test) => {
            for item in value.as_array().into_iter().flatten() {
                if passes(&walk(path, item)?, test.as_ref()) {
                    found.push(item);
                }
            }
        }
    }
    Ok(())
}

/// A negative index counts from the end.
fn from_end(index: i64, length: usize) -> i64 {
    if index < 0 { index.saturating_add(length as i64) } else { index }
}

fn descend<'a>(name: &str, value: &'a Value, found: &mut Vec<&'a Value>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get(name));
            map.values().for_each(|inner| descend(name, inner, found));
        }
        Value::Array(items) => items.iter().for_each(|inner| descend(name, inner, found)),
        _ => {}
    }
}

fn passes(found: &[&Value], test: Option<&(String, Value)>) -> bool {
    let Some(value) = found.first() else { return false };
    let Some((operator, wanted)) = test else { return true };
    let order = match (value, wanted) {
        (Value::Number(a), Value::Number(b)) => a.as_f64().partial_cmp(&b.as_f64()),
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (a, b) if *a == b => Some(std::cmp::Ordering::Equal),
        _ => None,
    };
    match operator.as_str() {
        "==" => order.is_some_and(std::cmp::Ordering::is_eq),
        "!=" => !order.is_some_and(std::cmp::Ordering::is_eq),
        "<" => order.is_some_and(std::cmp::Ordering::is_lt),
        "<=" => order.is_some_and(std::cmp::Ordering::is_le),
        ">" => order.is_some_and(std::cmp::Ordering::is_gt),
        _ => order.is_some_and(std::cmp::Ordering::is_ge),
    }
}

#[cfg(test)]
mod tests {
    use super::Template;
    use serde_json::json;

    #[test]
    fn templates_pick_what_kubectl_would_pick() {
        let document = json!({
            "items": [
                {"metadata": {"name": "a", "labels": {"app.kubernetes.io/name": "x"}}, "n": 1, "type": "Ready"},
                {"metadata": {"name": "b"}, "n": 2, "type": "Other"},
                {"metadata": {"name": "c"}, "n": 3, "type": "Ready"},
            ],
        });
        for (template, expected) in [
            ("{.items[0].metadata.name}", "a"),
            (".items[0].n", ".items[0].n"),
            ("{.items[*]['type','n']}", "Ready Other Ready 1 2 3"),
            ("{.items[0:3:2].n}", "1 3"),
            ("{.items[5:].n}", ""),
            ("{true} {3} {'x'}", "true 3 x"),
            ("{.items[0].absent}{.absent['a']}", ""),
            ("a}b", "a}b"),
            ("{.items[*].metadata.name}", "a b c"),
            ("{.items[-1].n}", "3"),
            ("{.items[0:2].n}", "1 2"),
            ("{.items[1:].n}", "2 3"),
            ("{.items[0,2].n}", "1 3"),
            ("{.items[0].metadata.labels.app\\.kubernetes\\.io/name}", "x"),
            ("{.items[0].metadata.labels['app.kubernetes.io/name']}", "x"),
            ("{range .items[*]}{.metadata.name}={.n}{\"\\n\"}{end}", "a=1\nb=2\nc=3\n"),
            ("{.items[?(@.type==\"Ready\")].metadata.name}", "a c"),
            ("{.items[?(@.n>1)].n}", "2 3"),
            ("{.items[?(@.metadata.labels)].n}", "1"),
            ("{..name}", "a b c"),
            ("names: {.items[*].metadata.name}!", "names: a b c!"),
            ("{.items[0].metadata}", r#"{"labels":{"app.kubernetes.io/name":"x"},"name":"a"}"#),
            ("{.absent.deep}", ""),
            ("{$.items[0].n}", "1"),
        ] {
            assert_eq!(Template::parse(template).unwrap().render(&document).unwrap(), expected, "{template}");
        }
    }

    #[test]
    fn an_index_that_is_not_there_is_an_error() {
        let document = json!({"items": [], "a": {}});
        for template in ["{.items[0].name}", "{.items[-1]}", "{.a[0]}", "{.a[0:1]}"] {
            assert!(Template::parse(template).unwrap().render(&document).is_err(), "{template}");
        }
    }

    #[test]
    fn broken_templates_are_refused() {
        for template in [
            "{.a",
            "{range .a}x",
            "{end}",
            "{.a[}",
            "{.a[x]}",
            "{\"a}",
            "{.a[?(@.b==c)]}",
            "{metadata.name}",
            "{.a[::-1]}",
            "{.a,.b}x",
            "{.a['b' 'c']}",
        ] {
            assert!(Template::parse(template).is_err(), "{template}");
        }
    }
}
