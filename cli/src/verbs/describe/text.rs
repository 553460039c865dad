//! Lines for people: keys and values in columns that line up as kubectl's do.
//!
//! A line's cells are separated by tabs. A column is as wide as its widest cell among neighbouring lines that have one, so
//! that each block of lines aligns by itself. The last cell of a line belongs to no column.

use std::fmt::Write as _;

use jiff::{Timestamp, tz::TimeZone};
use serde_json::Value;

/// Spaces between columns.
const PADDING: usize = 2;

/// Collected lines.
#[derive(Default)]
pub struct Text(String);

impl Text {
    /// A line of cells separated by tabs, two spaces to the right a level.
    pub fn line(&mut self, level: usize, cells: impl AsRef<str>) {
        let _ = writeln!(self.0, "{:1$}{2}", "", 2 * level, cells.as_ref());
    }

    /// `Key:` and a value.
    pub fn pair(&mut self, level: usize, key: &str, value: impl AsRef<str>) {
        self.line(level, format!("{key}:\t{}", one_line(value.as_ref())));
    }

    /// `Key:` and the values below each other.
    pub fn list(&mut self, level: usize, key: &str, values: &[String]) {
        self.pair(level, key, values.first().map_or("<none>", String::as_str));
        for value in values.iter().skip(1) {
            self.line(level, format!("\t{}", one_line(value)));
        }
    }

    /// `Key:` and the entries of a map below each other.
    pub fn map(&mut self, level: usize, key: &str, map: &Value, separator: &str) {
        let entries: Vec<String> = map
            .as_object()
            .into_iter()
            .flatten()
            .map(|(key, value)| format!("{key}{separator}{}", show(value)))
            .collect();
        self.list(level, key, &entries);
    }

    /// An object's labels and annotations, but for the copy of the object that `kubectl apply` leaves among them.
    pub fn labels(&mut self, meta: &Value) {
        self.map(0, "Labels", &meta["labels"], "=");
        let mut annotations = meta["annotations"].clone();
        if let Some(annotations) = annotations.as_object_mut() {
            annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
        }
        self.map(0, "Annotations", &annotations, ": ");
    }

    /// Rows under a heading of column names with dashes below them.
    pub fn table(&mut self, level: usize, header: &[&str], rows: &[Vec<String>]) {
        self.line(level, header.join("\t"));
        let dashes: Vec<String> = header.iter().map(|name| "-".repeat(name.len())).collect();
        self.line(level, dashes.join("\t"));
        for row in rows {
            self.line(level, row.join("\t"));
        }
    }

    /// Text that has no columns.
    pub fn plain(&mut self, text: &str) {
        self.0.push_str(text);
    }

    /// The aligned text.
    pub fn aligned(&self) -> String {
        let lines: Vec<Vec<&str>> = self.0.lines().map(|line| line.split('\t').collect()).collect();
        let mut widths: Vec<Vec<usize>> = lines.iter().map(|cells| vec![0; cells.len() - 1]).collect();
        for column in 0..lines.iter().map(Vec::len).max().unwrap_or(0) {
            let mut start = 0;
            while start < lines.len() {
                let block = lines[start..].iter().take_while(|cells| cells.len() > column + 1).count();
                let width =
                    lines[start..start + block].iter().map(|cells| cells[column].chars().count() + PADDING).max();
                for widths in &mut widths[start..start + block] {
                    widths[column] = width.unwrap_or(0);
                }
                start += block.max(1);
            }
        }
        let mut text = String::new();
        for (cells, widths) in lines.iter().zip(&widths) {
            for (index, cell) in cells.iter().enumerate() {
                let _ = write!(text, "{cell:0$}", widths.get(index).copied().unwrap_or(0));
            }
            text.push('\n');
        }
        text
    }
}

/// A value of several lines would break the columns: its lines follow each other.
fn one_line(value: &str) -> String {
    value.trim_end().replace(['\n', '\t'], " ")
}

/// A value as text; one that is not there is `<none>`.
pub fn show(value: &Value) -> String {
    match value {
        Value::String(text) if text.is_empty() => "<none>".into(),
        Value::String(text) => text.clone(),
        Value::Null => "<none>".into(),
        other => other.to_string(),
    }
}

/// The items of an array field; none if there is none.
pub fn items<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value[field].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// A timestamp for people, in this machine's time zone.
pub fn time(value: &Value) -> String {
    match value.as_str().and_then(|text| text.parse::<Timestamp>().ok()) {
        Some(time) => time.to_zoned(TimeZone::system()).strftime("%a, %d %b %Y %H:%M:%S %z").to_string(),
        None => show(value),
    }
}

/// How long ago a timestamp is, in kubectl's short form.
pub fn age(value: &Value, now: Timestamp) -> String {
    match value.as_str().and_then(|text| text.parse::<Timestamp>().ok()) {
        Some(time) => span(now.as_second() - time.as_second()),
        None => "<unknown>".into(),
    }
}

/// Seconds as `45s`, `3m20s`, `5h3m`, `2d4h`, `1y20d`: two units while the first is small.
fn span(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    let two = |big: i64, unit: &str, small: i64, small_unit: &str| {
        if small == 0 { format!("{big}{unit}") } else { format!("{big}{unit}{small}{small_unit}") }
    };
    match seconds {
        ..-1 => "<invalid>".into(),
        -1..120 => format!("{}s", seconds.max(0)),
        _ if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        _ if hours < 3 => format!("{minutes}m"),
        _ if hours < 8 => two(hours, "h", minutes % 60, "m"),
        _ if hours < 48 => format!("{hours}h"),
        _ if days < 8 => two(days, "d", hours % 24, "h"),
        _ if days < 365 * 2 => format!("{days}d"),
        _ if days < 365 * 8 => two(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn blocks_of_lines_align_by_themselves() {
        let mut text = Text::default();
        text.pair(0, "Name", "web");
        text.pair(0, "Namespace", "default");
        text.list(0, "Labels", &["a=b".into(), "c=d".into()]);
        text.line(0, "Containers:");
        text.pair(1, "Image", "x");
        text.table(1, &["Type", "Status"], &[vec!["Initialised".into(), "True".into()]]);
        assert_eq!(
            text.aligned(),
            "Name:       web\nNamespace:  default\nLabels:     a=b\n            c=d\nContainers:\n  \
             Image:       x\n  Type         Status\n  ----         ------\n  Initialised  True\n"
        );
    }

    #[test]
    fn ages_are_short() {
        for (seconds, text) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (200, "3m20s"),
            (3_000, "50m"),
            (3 * 3_600 + 60, "3h1m"),
            (30 * 3_600, "30h"),
            (3 * 86_400, "3d"),
            (3 * 86_400 + 7_200, "3d2h"),
            (100 * 86_400, "100d"),
            (800 * 86_400, "2y70d"),
            (-5, "<invalid>"),
        ] {
            assert_eq!(span(seconds), text);
        }
    }

    #[test]
    fn what_is_not_there_is_none() {
        assert_eq!(show(&json!(null)), "<none>");
        assert_eq!(time(&json!("no time")), "no time");
        assert_eq!(age(&json!(null), Timestamp::UNIX_EPOCH), "<unknown>");
    }
}
