//! The JSON paths of custom columns: `.spec.replicas`, `.status.conditions[?(@.type=="Ready")].status`.
//!
//! ```text
//! path     = [ "{" ] { step } [ "}" ]
//! step     = "." name | "." "*" | ".." name | "[" subscript "]"
//! subscript= "*" | "'" name "'" | index { "," index } | [ index ] ":" [ index ] | "?(" "@" path [ operator literal ] ")"
//! operator = "==" | "!=" | "<" | "<=" | ">" | ">="
//! ```
//!
//! A `\` in a name takes the next character as it is. What a path does not find is no error: it finds nothing.

use std::cmp::Ordering;

use serde_json::Value;

/// A path longer than this is refused; no column needs one.
const MAX_LENGTH: usize = 4096;
/// Filters inside filters go no deeper.
const MAX_DEPTH: usize = 8;

/// Why a text is no path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid JSON path: {0}")]
pub struct PathError(String);

/// A compiled path.
#[derive(Debug, Clone, PartialEq)]
pub struct JsonPath {
    steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(String),
    /// `..name`: at any depth.
    Anywhere(String),
    All,
    Indexes(Vec<i64>),
    Slice(Option<i64>, Option<i64>),
    Filter(JsonPath, Option<(Operator, Value)>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl JsonPath {
    /// Compiles a path.
    pub fn parse(text: &str) -> Result<JsonPath, PathError> {
        if text.len() > MAX_LENGTH {
            return Err(PathError("too long".to_owned()));
        }
        let trimmed = text.trim();
        let inner = trimmed.strip_prefix('{').and_then(|t| t.strip_suffix('}')).unwrap_or(trimmed);
        let mut parser = Parser { rest: inner.strip_prefix('$').unwrap_or(inner), depth: 0 };
        let path = parser.path()?;
        if parser.rest.is_empty() { Ok(path) } else { Err(parser.unexpected()) }
    }

    /// Every value the path leads to, in order.
    pub fn find<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        let mut found = vec![value];
        for step in &self.steps {
            let mut next = Vec::new();
            for value in found {
                step.find(value, &mut next);
            }
            found = next;
        }
        found
    }
}

impl Step {
    fn find<'v>(&self, value: &'v Value, out: &mut Vec<&'v Value>) {
        match (self, value) {
            (Step::Field(name), Value::Object(map)) => out.extend(map.get(name)),
            (Step::Anywhere(name), _) => anywhere(name, value, out),
            (Step::All, Value::Object(map)) => out.extend(map.values()),
            (Step::All, Value::Array(items)) => out.extend(items),
            (Step::Indexes(indexes), Value::Array(items)) => {
                out.extend(indexes.iter().filter_map(|index| items.get(position(*index, items.len())?)));
            }
            (Step::Slice(from, to), Value::Array(items)) => {
                let clamp = |index: i64| position(index, items.len()).unwrap_or(0).min(items.len());
                let (from, to) = (from.map_or(0, clamp), to.map_or(items.len(), clamp));
                out.extend(items.get(from..to).unwrap_or_default());
            }
            (Step::Filter(path, condition), Value::Array(items)) => {
                out.extend(items.iter().filter(|item| holds(path, condition.as_ref(), item)));
            }
            _ => {}
        }
    }
}

/// An index, counted from the end if it is negative.
fn position(index: i64, length: usize) -> Option<usize> {
    if index < 0 { usize::try_from(index + length as i64).ok() } else { usize::try_from(index).ok() }
}

fn anywhere<'v>(name: &str, value: &'v Value, out: &mut Vec<&'v Value>) {
    match value {
        Value::Object(map) => {
            out.extend(map.get(name));
            map.values().for_each(|value| anywhere(name, value, out));
        }
        Value::Array(items) => items.iter().for_each(|value| anywhere(name, value, out)),
        _ => {}
    }
}

fn holds(path: &JsonPath, condition: Option<&(Operator, Value)>, item: &Value) -> bool {
    let found = path.find(item);
    let Some((operator, wanted)) = condition else { return !found.is_empty() };
    let Some(value) = found.first() else { return false };
    let order = match (value, wanted) {
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (Value::Number(a), Value::Number(b)) => a.as_f64().partial_cmp(&b.as_f64()),
        (a, b) if *a == b => Some(Ordering::Equal),
        _ => None,
    };
    match operator {
        Operator::Equal => order == Some(Ordering::Equal),
        Operator::NotEqual => order != Some(Ordering::Equal),
        Operator::Less => order == Some(Ordering::Less),
        Operator::LessOrEqual => order.is_some_and(Ordering::is_le),
        Operator::Greater => order == Some(Ordering::Greater),
        Operator::GreaterOrEqual => order.is_some_and(Ordering::is_ge),
    }
}

struct Parser<'a> {
    rest: &'a str,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn unexpected(&self) -> PathError {
        let shown: String = self.rest.chars().take(20).collect();
        PathError(if shown.is_empty() { "unexpected end".to_owned() } else { format!("unexpected \"{shown}\"") })
    }

    fn eat(&mut self, text: &str) -> bool {
        match self.rest.strip_prefix(text) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, text: &str) -> Result<(), PathError> {
        if self.eat(text) { Ok(()) } else { Err(self.unexpected()) }
    }

    fn spaces(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn path(&mut self) -> Result<JsonPath, PathError> {
        let mut steps = Vec::new();
        loop {
            if self.eat("..") {
                steps.push(Step::Anywhere(self.name()?));
            } else if self.eat(".*") {
                steps.push(Step::All);
            } else if self.eat(".") {
                // `.` alone, and `.[0]`, add nothing.
                if !self.rest.is_empty() && !self.rest.starts_with('[') {
                    steps.push(Step::Field(self.name()?));
                }
            } else if self.eat("[") {
                steps.push(self.subscript()?);
                self.expect("]")?;
            } else {
                return Ok(JsonPath { steps });
            }
        }
    }

    fn name(&mut self) -> Result<String, PathError> {
        let mut name = String::new();
        let mut chars = self.rest.char_indices();
        let mut end = self.rest.len();
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => name.extend(chars.next().map(|(_, c)| c)),
                '.' | '[' | ']' | ')' | '(' | ' ' | '=' | '!' | '<' | '>' | '{' | '}' | '\'' | '"' => {
                    end = at;
                    break;
                }
                c => name.push(c),
            }
        }
        if name.is_empty() {
            return Err(self.unexpected());
        }
        self.rest = &self.rest[end..];
        Ok(name)
    }

    fn subscript(&mut self) -> Result<Step, PathError> {
        if self.eat("*") {
            return Ok(Step::All);
        }
        if self.eat("?(") {
            return self.filter();
        }
        if self.rest.starts_with(['\'', '"']) {
            return Ok(Step::Field(self.quoted()?));
        }
        let first = self.index()?;
        if self.eat(":") {
            return Ok(Step::Slice(first, self.index()?));
        }
        let mut indexes = vec![first.ok_or_else(|| self.unexpected())?];
        while self.eat(",") {
            indexes.push(self.index()?.ok_or_else(|| self.unexpected())?);
        }
        Ok(Step::Indexes(indexes))
    }

    fn index(&mut self) -> Result<Option<i64>, PathError> {
        self.spaces();
        let digits = self.rest.find(|c: char| !c.is_ascii_digit() && c != '-').unwrap_or(self.rest.len());
        if digits == 0 {
            return Ok(None);
        }
        let index = self.rest[..digits].parse().map_err(|_| self.unexpected())?;
        self.rest = &self.rest[digits..];
        self.spaces();
        Ok(Some(index))
    }

    fn quoted(&mut self) -> Result<String, PathError> {
        let mut chars = self.rest.char_indices();
        let quote = chars.next().map(|(_, c)| c);
        let mut text = String::new();
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => text.extend(chars.next().map(|(_, c)| c)),
                c if Some(c) == quote => {
                    self.rest = &self.rest[at + c.len_utf8()..];
                    return Ok(text);
                }
                c => text.push(c),
            }
        }
        Err(PathError("a text does not end".to_owned()))
    }

    fn filter(&mut self) -> Result<Step, PathError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(PathError("filters too deep".to_owned()));
        }
        self.spaces();
        self.expect("@")?;
        let path = self.path()?;
        self.spaces();
        let operators = [
            ("==", Operator::Equal),
            ("!=", Operator::NotEqual),
            ("<=", Operator::LessOrEqual),
            (">=", Operator::GreaterOrEqual),
            ("<", Operator::Less),
            (">", Operator::Greater),
        ];
        let mut condition = None;
        for (text, operator) in operators {
            if self.eat(text) {
                self.spaces();
                condition = Some((operator, self.literal()?));
                break;
            }
        }
        self.spaces();
        self.expect(")")?;
        self.depth -= 1;
        Ok(Step::Filter(path, condition))
    }

    fn literal(&mut self) -> Result<Value, PathError> {
        if self.rest.starts_with(['\'', '"']) {
            return self.quoted().map(Value::String);
        }
        let end = self.rest.find([')', ' ']).unwrap_or(self.rest.len());
        let literal = serde_json::from_str(&self.rest[..end]).map_err(|_| self.unexpected())?;
        self.rest = &self.rest[end..];
        Ok(literal)
    }
}
