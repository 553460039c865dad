//! The grammar of label selector texts.
//!
//! ```text
//! selector    = [ requirement { "," requirement } ]
//! requirement = [ "!" ] key [ operator ]
//! operator    = ( "=" | "==" | "!=" | ">" | "<" ) [ value ] | ( "in" | "notin" ) "(" [ value ] { "," [ value ] } ")"
//! ```

use super::{Operator, Requirement, aggregated, label_key_errors};
use crate::error::FieldError;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    End,
    Word(&'a str),
    /// `=`, `==`, `!=`, `>`, `<`, `!`, `(`, `)`, `,`
    Symbol(&'a str),
}

impl<'a> Token<'a> {
    fn text(self) -> &'a str {
        match self {
            Token::End => "",
            Token::Word(text) | Token::Symbol(text) => text,
        }
    }
}

/// Reads a whole selector. The error is Kubernetes' text.
pub(super) fn requirements(text: &str) -> Result<Vec<Requirement>, String> {
    let mut parser = Parser { rest: text };
    let mut requirements = Vec::new();
    loop {
        match parser.peek() {
            Token::End => return Ok(requirements),
            Token::Word(_) | Token::Symbol("!") => {
                let requirement = parser.requirement().map_err(|e| format!("unable to parse requirement: {e}"))?;
                requirements.push(requirement);
                match parser.next() {
                    Token::End => return Ok(requirements),
                    Token::Symbol(",") => {
                        let next = parser.peek();
                        if !matches!(next, Token::Word(_) | Token::Symbol("!")) {
                            return Err(format!("found '{}', expected: identifier after ','", next.text()));
                        }
                    }
                    other => return Err(format!("found '{}', expected: ',' or 'end of string'", other.text())),
                }
            }
            other => return Err(format!("found '{}', expected: !, identifier, or 'end of string'", other.text())),
        }
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Token<'a> {
        lex(self.rest).0
    }

    fn next(&mut self) -> Token<'a> {
        let (token, rest) = lex(self.rest);
        self.rest = rest;
        token
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let mut token = self.next();
        let negated = token == Token::Symbol("!");
        if negated {
            token = self.next();
        }
        let Token::Word(key) = token else {
            return Err(format!("found '{}', expected: identifier", token.text()));
        };
        let errors = label_key_errors(key);
        if !errors.is_empty() {
            return Err(FieldError::invalid("<nil>", key, errors.join("; ")).to_string());
        }
        let bare = matches!(self.peek(), Token::End | Token::Symbol(","));
        let new = |operator, values| Requirement::new(key, operator, values).map_err(|e| aggregated(&e));
        if negated {
            return new(Operator::DoesNotExist, Vec::new());
        }
        if bare {
            return new(Operator::Exists, Vec::new());
        }
        let operator = self.operator()?;
        let values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => vec![self.exact_value()?],
        };
        new(operator, values)
    }

    fn operator(&mut self) -> Result<Operator, String> {
        Ok(match self.next() {
            Token::Word("in") => Operator::In,
            Token::Word("notin") => Operator::NotIn,
            Token::Symbol("=") => Operator::Equals,
            Token::Symbol("==") => Operator::DoubleEquals,
            Token::Symbol("!=") => Operator::NotEquals,
            Token::Symbol(">") => Operator::GreaterThan,
            Token::Symbol("<") => Operator::LessThan,
            other => {
                return Err(format!("found '{}', expected: in, notin, =, ==, !=, gt, lt", other.text()));
            }
        })
    }

    /// `(a,b)`, where any of the values may be missing and then is the empty one.
    fn values(&mut self) -> Result<Vec<String>, String> {
        let open = self.next();
        if open != Token::Symbol("(") {
            return Err(format!("found '{}' expected: '('", open.text()));
        }
        let mut values = Vec::new();
        let mut value = "";
        loop {
            match self.next() {
                Token::Word(word) if value.is_empty() => {
                    value = word;
                    match self.peek() {
                        Token::Symbol("," | ")") => {}
                        other => return Err(format!("found '{}', expected: ',' or ')'", other.text())),
                    }
                }
                Token::Symbol(separator @ ("," | ")")) => {
                    values.push(value.to_owned());
                    value = "";
                    if separator == ")" {
                        values.sort_unstable();
                        values.dedup();
                        return Ok(values);
                    }
                }
                other => return Err(format!("found '{}', expected: ',', or identifier", other.text())),
            }
        }
    }

    fn exact_value(&mut self) -> Result<String, String> {
        match self.peek() {
            Token::End | Token::Symbol(",") => Ok(String::new()),
            _ => match self.next() {
                Token::Word(word) => Ok(word.to_owned()),
                other => Err(format!("found '{}', expected: identifier", other.text())),
            },
        }
    }
}

fn is_symbol(c: char) -> bool {
    matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<')
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

fn lex(text: &str) -> (Token<'_>, &str) {
    let text = text.trim_start_matches(is_space);
    let Some(first) = text.chars().next() else {
        return (Token::End, text);
    };
    if is_symbol(first) {
        let length = if text.starts_with("==") || text.starts_with("!=") { 2 } else { 1 };
        let (symbol, rest) = text.split_at(length);
        return (Token::Symbol(symbol), rest);
    }
    let (word, rest) = text.split_at(text.find(|c| is_symbol(c) || is_space(c)).unwrap_or(text.len()));
    (Token::Word(word), rest)
}
