//! The columns that a custom kind declares: `additionalPrinterColumns`.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::jsonpath::JsonPath;
use super::{Row, age, name_of};
use crate::error::ApiError;
use crate::meta;
use crate::schema::Descriptions;

/// The columns of a custom kind: the name, then its own, or the age if it has none.
#[derive(Debug, Clone)]
pub struct CustomColumns {
    columns: Vec<CustomColumn>,
    header: String,
}

#[derive(Debug, Clone)]
struct CustomColumn {
    path: JsonPath,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Integer,
    Number,
    Boolean,
    Date,
}

impl CustomColumns {
    /// Reads a version's `additionalPrinterColumns`; an absent or empty list shows the age.
    pub fn new(columns: &Value) -> Result<CustomColumns, ApiError> {
        let descriptions = Descriptions::load();
        let mut header = vec![super::Column::NAME.definition(&descriptions)];
        let age = [json!({
            "name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp",
            "description": descriptions.of_field(super::OBJECT_META, "creationTimestamp"),
        })];
        let declared = columns.as_array().filter(|columns| !columns.is_empty());
        let declared = declared.map_or(age.as_slice(), Vec::as_slice);
        let mut columns = Vec::with_capacity(declared.len());
        for column in declared {
            let text = |field: &str| meta::str_at(column, &[field]);
            let path = JsonPath::parse(text("jsonPath"))
                .map_err(|why| ApiError::bad_request(format!("column {}: {why}", crate::error::quote(text("name")))))?;
            let kind = match text("type") {
                "integer" => Kind::Integer,
                "number" => Kind::Number,
                "boolean" => Kind::Boolean,
                "date" => Kind::Date,
                _ => Kind::Text,
            };
            columns.push(CustomColumn { path, kind });
            header.push(json!({
                "name": text("name"), "type": text("type"), "format": text("format"), "description": text("description"),
                "priority": column.get("priority").and_then(Value::as_i64).unwrap_or_default(),
            }));
        }
        Ok(CustomColumns { columns, header: Value::Array(header).to_string() })
    }

    pub(super) fn header(&self) -> &str {
        &self.header
    }

    pub(super) fn row(&self, object: &Value, now: Timestamp) -> Row {
        let mut cells = vec![name_of(object)];
        cells.extend(self.columns.iter().map(|column| column.cell(object, now)));
        cells.into()
    }
}

impl CustomColumn {
    /// The cell; null where there is nothing to show or it is of another type.
    fn cell(&self, object: &Value, now: Timestamp) -> Value {
        let found = self.path.find(object);
        let Some(first) = found.first().filter(|first| !first.is_null()) else { return Value::Null };
        match self.kind {
            Kind::Text => Value::String(found.iter().map(|value| shown(value)).collect::<Vec<_>>().join(" ")),
            Kind::Integer => {
                first.as_i64().or_else(|| first.as_f64().map(|f| f as i64)).map_or(Value::Null, Value::from)
            }
            Kind::Number if first.is_number() => (*first).clone(),
            Kind::Boolean if first.is_boolean() => (*first).clone(),
            Kind::Date => match first.as_str() {
                Some(text) => match text.parse::<Timestamp>() {
                    Ok(time) => json!(age(Some(time), now)),
                    Err(_) => json!("<invalid>"),
                },
                None => Value::Null,
            },
            Kind::Number | Kind::Boolean => Value::Null,
        }
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}
