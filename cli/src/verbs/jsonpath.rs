//! kubectl's JSONPath templates: text with `{…}` parts, each a path, a quoted text, or `range … end`.
//!
//! Supported in a path: `.field`, `['field']`, `[n]`, `[-n]`, `[a:b]`, `[a,b]`, `[*]`, `.*`, `..field` and filters
//! `[?(@.path == value)]` with `==`, `!=`, `<`, `<=`, `>`, `>=` or the mere presence of the path.

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
    Field(String),
    Index(Vec<i64>),
    Slice(Option<i64>, Option<i64>),
    All,
    Descend(String),
    Filter(Vec<Step>, Option<(String, Value)>),
}

impl Template {
    /// Parses a template. One without braces is taken for a path, as kubectl does.
    pub fn parse(text: &str) -> Result<Self> {
        let text = if text.contains('{') { text.to_owned() } else { format!("{{{text}}}") };
        let mut rest = text.as_str();
        let parts = parts(&mut rest, false).with_context(|| format!("error parsing jsonpath {text}"))?;
        Ok(Self(parts))
    }

    /// What the template makes of a document.
    pub fn render(&self, document: &Value) -> Result<String> {
        let mut text = String::new();
        render(&self.0, document, &mut text);
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
                _ => found.push(Step::Field(name)),
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
            '.' | '[' => return (name, &text[index..]),
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
    if let Some(inner) = text.strip_prefix('\'').and_then(|text| text.strip_suffix('\'')) {
        return Ok(Step::Field(inner.to_owned()));
    }
    if let Some(inner) = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
        return Ok(Step::Field(inner.to_owned()));
    }
    let number = |text: &str| text.trim().parse::<i64>().with_context(|| format!("invalid array index {text}"));
    if let Some((from, to)) = text.split_once(':') {
        let bound = |text: &str| if text.trim().is_empty() { Ok(None) } else { number(text).map(Some) };
        return Ok(Step::Slice(bound(from)?, bound(to)?));
    }
    Ok(Step::Index(text.split(',').map(number).collect::<Result<_>>()?))
}

fn literal(text: &str) -> Result<Value> {
    if let Some(inner) = text.strip_prefix('\'').and_then(|text| text.strip_suffix('\'')) {
        return Ok(inner.into());
    }
    serde_json::from_str(text).with_context(|| format!("`{text}` is neither a number nor a quoted text"))
}

fn render(parts: &[Part], document: &Value, text: &mut String) {
    for part in parts {
        match part {
            Part::Text(literal) => text.push_str(literal),
            Part::Path(path) => {
                let found = walk(path, document);
                let shown: Vec<String> = found.iter().map(|value| show(value)).collect();
                text.push_str(&shown.join(" "));
            }
            Part::Range(path, inner) => {
                for value in walk(path, document) {
                    render(inner, value, text);
                }
            }
        }
    }
}

fn show(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn walk<'a>(path: &[Step], document: &'a Value) -> Vec<&'a Value> {
    let mut current = vec![document];
    for step in path {
        current = current.into_iter().flat_map(|value| take(step, value)).collect();
    }
    current
}

fn take<'a>(step: &Step, value: &'a Value) -> Vec<&'a Value> {
    let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
    let position = |index: i64| if index < 0 { index + items.len() as i64 } else { index };
    match step {
        Step::Field(name) => value.get(name).into_iter().collect(),
        Step::All => match value {
            Value::Object(map) => map.values().collect(),
            _ => items.iter().collect(),
        },
        Step::Index(indices) => {
            indices.iter().filter_map(|index| items.get(usize::try_from(position(*index)).ok()?)).collect()
        }
        Step::Slice(from, to) => {
            let bound = |index: Option<i64>, default: usize| index.map_or(default, |index| usize::try_from(position(index)).unwrap_or(0)).min(items.len());
            let (from, to) = (bound(*from, 0), bound(*to, items.len()));
            items.get(from..to).into_iter().flatten().collect()
        }
        Step::Descend(name) => {
            let mut found = Vec::new();
            descend(name, value, &mut found);
            found
        }
        Step::Filter(path, test) => items.iter().filter(|item| passes(&walk(path, item), test.as_ref())).collect(),
    }
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
            (".items[0].n", "1"),
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
            ("{.absent.deep[3]}", ""),
            ("{$.items[0].n}", "1"),
        ] {
            assert_eq!(Template::parse(template).unwrap().render(&document).unwrap(), expected, "{template}");
        }
    }

    #[test]
    fn broken_templates_are_refused() {
        for template in ["{.a", "{range .a}x", "{end}", "{.a[}", "{.a[x]}", "{\"a}", "{.a[?(@.b==c)]}"] {
            assert!(Template::parse(template).is_err(), "{template}");
        }
    }
}
