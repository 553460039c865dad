//! Going through an encoded struct without reading what is not asked for.
//!
//! In: the text of a struct. Out: its keys, each with the text of its value. Of a value no more is looked at than it takes to find its
//! end: what is wrong within one is found by whoever reads it.

use std::borrow::Cow;
use std::fmt;

use memchr::memchr2;

/// Why a text cannot be gone through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Odd {
    /// The offset of the byte that is not what it should be.
    at: usize,
}

impl fmt::Display for Odd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the text is not that of an object, at byte {}", self.at)
    }
}

/// A key and the text of its value.
pub(super) type Field<'a> = (Cow<'a, str>, &'a [u8]);

/// A struct's fields, in the order of the text.
pub(super) struct Skim<'a> {
    text: &'a [u8],
    at: usize,
    /// Whether the first field is still to come.
    fresh: bool,
}

impl<'a> Skim<'a> {
    /// The fields of a struct.
    pub(super) fn of(text: &'a [u8]) -> Result<Self, Odd> {
        let mut skim = Skim { text, at: 0, fresh: true };
        skim.expect(b'{')?;
        Ok(skim)
    }

    /// The next field: its key and the text of its value. None after the last, when nothing but space may follow.
    pub(super) fn field(&mut self) -> Result<Option<Field<'a>>, Odd> {
        match self.token() {
            Some(b'}') => {
                self.at += 1;
                return if self.token().is_none() { Ok(None) } else { Err(self.odd()) };
            }
            Some(b',') if !self.fresh => self.at += 1,
            Some(b'"') if self.fresh => {}
            _ => return Err(self.odd()),
        }
        self.fresh = false;
        self.token();
        let start = self.at;
        self.text()?;
        let key = text(&self.text[start..self.at]).ok_or(Odd { at: start })?;
        self.expect(b':')?;
        self.token();
        let start = self.at;
        self.value()?;
        Ok(Some((key, &self.text[start..self.at])))
    }

    fn odd(&self) -> Odd {
        Odd { at: self.at }
    }

    /// Passes over space and returns what stands behind it.
    fn token(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\t' | b'\r' | b'\n') = self.text.get(self.at) {
            self.at += 1;
        }
        self.text.get(self.at).copied()
    }

    fn expect(&mut self, byte: u8) -> Result<(), Odd> {
        if self.token() != Some(byte) {
            return Err(self.odd());
        }
        self.at += 1;
        Ok(())
    }

    /// Passes over a text in quotes.
    fn text(&mut self) -> Result<(), Odd> {
        self.expect(b'"')?;
        loop {
            let left = self.text.get(self.at..).unwrap_or_default();
            let step = memchr2(b'"', b'\\', left).ok_or_else(|| self.odd())?;
            self.at += step + 1;
            if left[step] == b'"' {
                return Ok(());
            }
            // Whatever is escaped, it is not the end.
            self.at += 1;
        }
    }

    /// Passes over a value.
    fn value(&mut self) -> Result<(), Odd> {
        let mut depth = 0_usize;
        loop {
            match self.text.get(self.at) {
                Some(b'"') => self.text()?,
                Some(b'{' | b'[') => {
                    depth += 1;
                    self.at += 1;
                    continue;
                }
                Some(b'}' | b']') if depth > 0 => {
                    depth -= 1;
                    self.at += 1;
                }
                Some(b',' | b':' | b' ' | b'\t' | b'\r' | b'\n') if depth > 0 => {
                    self.at += 1;
                    continue;
                }
                Some(b'0'..=b'9' | b'a'..=b'z' | b'-' | b'+' | b'.' | b'E') => self.word(),
                _ => return Err(self.odd()),
            }
            if depth == 0 {
                return Ok(());
            }
        }
    }

    /// Passes over a number or a name.
    fn word(&mut self) {
        while let Some(b'0'..=b'9' | b'a'..=b'z' | b'-' | b'+' | b'.' | b'E') = self.text.get(self.at) {
            self.at += 1;
        }
    }
}

/// What a text in quotes says.
pub(super) fn text(quoted: &[u8]) -> Option<Cow<'_, str>> {
    let within = quoted.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    if memchr2(b'\\', b'"', within).is_none() {
        return std::str::from_utf8(within).ok().map(Cow::Borrowed);
    }
    serde_json::from_slice(quoted).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            r#"[a-c"\\{}\[\],:é]{0,6}"#.prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(r#"[a-c"\\{}é]{0,3}"#, inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    fn fields(text: &[u8]) -> Result<Vec<(String, Value)>, Odd> {
        let (mut skim, mut found) = (Skim::of(text)?, Vec::new());
        while let Some(field) = skim.field()? {
            found.push(field);
        }
        let parsed = |value| serde_json::from_slice(value).unwrap();
        Ok(found.into_iter().map(|(key, value)| (key.into_owned(), parsed(value))).collect())
    }

    proptest! {
        #[test]
        fn it_finds_what_a_parser_finds(
            map in prop::collection::btree_map(r#"[a-c"\\ü]{0,3}"#, any_value(), 0..5),
            pretty: bool,
        ) {
            let write = if pretty { serde_json::to_vec_pretty } else { serde_json::to_vec };
            let text = write(&map).unwrap();
            let parsed: BTreeMap<String, Value> = serde_json::from_slice(&text).unwrap();
            prop_assert_eq!(fields(&text).unwrap(), parsed.into_iter().collect::<Vec<_>>());
            for end in 0..text.len() {
                prop_assert!(fields(&text[..end]).is_err(), "cut at {}", end);
            }
        }

        #[test]
        fn no_bytes_make_it_panic(text in r#"[{}\[\]",:\\a1 ]{0,24}"#, bytes in prop::collection::vec(any::<u8>(), 0..24)) {
            for text in [text.as_bytes(), &bytes] {
                let Ok(mut skim) = Skim::of(text) else { continue };
                while let Ok(Some((_, value))) = skim.field() {
                    prop_assert!(!value.is_empty());
                }
            }
        }
    }

    #[test]
    fn what_is_no_struct_is_refused() {
        for odd in [
            "",
            "[]",
            "{",
            "{,}",
            "{\"a\":1,}",
            "{\"a\" 1}",
            "{\"a\":}",
            "{\"a\":1 \"b\":2}",
            "{} x",
            "{\"a\":]}",
            "{a:1}",
        ] {
            let skimmed = Skim::of(odd.as_bytes()).and_then(|mut skim| {
                while skim.field()?.is_some() {}
                Ok(())
            });
            assert!(skimmed.is_err(), "{odd}");
        }
    }
}
