//! Writes an OpenAPI 2 document as the protobuf message `openapi.v2.Document`, the form in which Go clients fetch it.
//!
//! In: the JSON document. Out: the message's bytes. One walker and a table of the messages' fields; what a message has no
//! field for is left out, and extensions (`x-…`) are written as the text of their JSON, which is YAML too.

use serde_json::{Map, Value};

/// How a member of a JSON object is written.
#[derive(Clone, Copy)]
enum Form {
    Text,
    Flag,
    /// A list of texts as a repeated field.
    Texts,
    /// Any value, as text.
    Any,
    Message(Message),
    /// A message whose first field is this text.
    BoxedText,
    /// A message whose first field is this message.
    Boxed(Message),
    /// A map: a message with a repeated field of this number, of pairs of a name and a message.
    Named(u32, Message),
    Parameters,
}

/// The messages that documents are made of.
#[derive(Clone, Copy)]
enum Message {
    Document,
    Info,
    PathItem,
    Operation,
    Body,
    Query,
    Path,
    ResponseValue,
    Response,
    Schema,
}

type Field = (&'static str, u32, Form);

impl Message {
    fn fields(self) -> &'static [Field] {
        use Form::{Any, Boxed, BoxedText, Flag, Named, Parameters, Text, Texts};
        match self {
            Message::Document => &[
                ("swagger", 1, Text),
                ("info", 2, Form::Message(Message::Info)),
                ("paths", 8, Named(2, Message::PathItem)),
                ("definitions", 9, Named(1, Message::Schema)),
            ],
            Message::Info => &[("title", 1, Text), ("version", 2, Text), ("description", 3, Text)],
            Message::PathItem => &[
                ("get", 2, Form::Message(Message::Operation)),
                ("put", 3, Form::Message(Message::Operation)),
                ("post", 4, Form::Message(Message::Operation)),
                ("delete", 5, Form::Message(Message::Operation)),
                ("patch", 8, Form::Message(Message::Operation)),
                ("parameters", 9, Parameters),
            ],
            Message::Operation => &[
                ("description", 3, Text),
                ("operationId", 5, Text),
                ("parameters", 8, Parameters),
                ("responses", 9, Named(1, Message::ResponseValue)),
            ],
            Message::Body => &[
                ("description", 1, Text),
                ("name", 2, Text),
                ("in", 3, Text),
                ("required", 4, Flag),
                ("schema", 5, Form::Message(Message::Schema)),
            ],
            Message::Query => &[
                ("required", 1, Flag),
                ("in", 2, Text),
                ("description", 3, Text),
                ("name", 4, Text),
                ("type", 6, Text),
            ],
            Message::Path => &[
                ("required", 1, Flag),
                ("in", 2, Text),
                ("description", 3, Text),
                ("name", 4, Text),
                ("type", 5, Text),
            ],
            // Either a response or a reference to one; only the former is used.
            Message::ResponseValue => &[],
            Message::Response => &[("description", 1, Text), ("schema", 2, Boxed(Message::Schema))],
            Message::Schema => &[
                ("$ref", 1, Text),
                ("format", 2, Text),
                ("title", 3, Text),
                ("description", 4, Text),
                ("default", 5, Any),
                ("required", 19, Texts),
                ("additionalProperties", 21, Boxed(Message::Schema)),
                ("type", 22, BoxedText),
                ("items", 23, Boxed(Message::Schema)),
                ("properties", 25, Named(1, Message::Schema)),
            ],
        }
    }

    /// The field of extensions.
    fn extensions(self) -> Option<u32> {
        match self {
            Message::Operation => Some(13),
            Message::Schema => Some(31),
            _ => None,
        }
    }
}

/// The document's message.
pub(super) fn document(document: &Value) -> Vec<u8> {
    message(Message::Document, document)
}

fn message(kind: Message, value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    if let Message::ResponseValue = kind {
        put_bytes(&mut out, 1, &message(Message::Response, value));
        return out;
    }
    let Some(object) = value.as_object() else { return out };
    for (key, number, form) in kind.fields() {
        if let Some(value) = object.get(*key) {
            put(&mut out, *number, *form, value);
        }
    }
    if let Some(number) = kind.extensions() {
        put_extensions(&mut out, number, object);
    }
    out
}

fn put(out: &mut Vec<u8>, number: u32, form: Form, value: &Value) {
    match form {
        Form::Text => put_bytes(out, number, text(value)),
        Form::Flag => {
            put_varint(out, u64::from(number) << 3);
            put_varint(out, u64::from(value.as_bool().unwrap_or_default()));
        }
        Form::Texts => value.as_array().into_iter().flatten().for_each(|item| put_bytes(out, number, text(item))),
        Form::Any => put_bytes(out, number, &any(value)),
        Form::Message(kind) => put_bytes(out, number, &message(kind, value)),
        Form::BoxedText => put_bytes(out, number, &boxed(text(value))),
        Form::Boxed(kind) => put_bytes(out, number, &boxed(&message(kind, value))),
        Form::Named(inner, kind) => {
            let mut map = Vec::new();
            for (name, value) in value.as_object().into_iter().flatten() {
                put_bytes(&mut map, inner, &named(name, &message(kind, value)));
            }
            put_bytes(out, number, &map);
        }
        Form::Parameters => {
            for parameter in value.as_array().into_iter().flatten() {
                // A parameter, not a reference to one; in the body or not; in the query or the path.
                let kind = match parameter["in"].as_str() {
                    Some("body") => boxed(&message(Message::Body, parameter)),
                    Some("path") => field(2, &field(4, &message(Message::Path, parameter))),
                    _ => field(2, &field(3, &message(Message::Query, parameter))),
                };
                put_bytes(out, number, &boxed(&kind));
            }
        }
    }
}

fn put_extensions(out: &mut Vec<u8>, number: u32, object: &Map<String, Value>) {
    for (name, value) in object.iter().filter(|(name, _)| name.starts_with("x-")) {
        put_bytes(out, number, &named(name, &any(value)));
    }
}

fn text(value: &Value) -> &[u8] {
    value.as_str().unwrap_or_default().as_bytes()
}

/// A value of any kind: its second field is YAML.
fn any(value: &Value) -> Vec<u8> {
    field(2, value.to_string().as_bytes())
}

fn named(name: &str, value: &[u8]) -> Vec<u8> {
    let mut pair = field(1, name.as_bytes());
    put_bytes(&mut pair, 2, value);
    pair
}

fn boxed(value: &[u8]) -> Vec<u8> {
    field(1, value)
}

fn field(number: u32, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len() + 6);
    put_bytes(&mut out, number, value);
    out
}

fn put_bytes(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    put_varint(out, (u64::from(number) << 3) | 2);
    put_varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Catalog;
    use serde_json::json;

    #[test]
    fn a_small_document_is_written_byte_by_byte() {
        let small = json!({"swagger": "2.0", "definitions": {"a": {"type": "object", "x-k": 1}}});
        let schema =
            [&[0xb2, 1, 8, 10, 6][..], b"object", &[0xfa, 1, 10, 10, 3], b"x-k", &[18, 3, 18, 1], b"1"].concat();
        let pair = [&[10, 1][..], b"a", &[18, schema.len() as u8], &schema].concat();
        let map = [&[10, pair.len() as u8][..], &pair].concat();
        let expected = [&[10, 3][..], b"2.0", &[74, map.len() as u8], &map].concat();
        assert_eq!(document(&small), expected);
    }

    /// What an object holds that its message has no field for.
    fn unwritten(kind: Message, value: &Value, found: &mut Vec<String>) {
        if let Message::ResponseValue = kind {
            return unwritten(Message::Response, value, found);
        }
        for (key, value) in value.as_object().into_iter().flatten() {
            let form = kind.fields().iter().find(|(name, ..)| name == key).map(|(.., form)| *form);
            match form {
                None if key.starts_with("x-") && kind.extensions().is_some() => {}
                None => found.push(key.clone()),
                Some(Form::Message(inner) | Form::Boxed(inner)) => unwritten(inner, value, found),
                Some(Form::Named(_, inner)) => {
                    value.as_object().unwrap().values().for_each(|value| unwritten(inner, value, found));
                }
                Some(_) => {}
            }
        }
    }

    #[test]
    fn nothing_of_the_document_is_left_out() {
        let whole = super::super::v2(&Catalog::builtin(), std::iter::empty());
        let mut found = Vec::new();
        unwritten(Message::Document, &whole, &mut found);
        assert_eq!(found, Vec::<String>::new());
    }
}
