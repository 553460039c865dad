//! Going through an encoded struct without reading what is not asked for.
//!
//! In: the text of a struct. Out: its keys, one after another, and of each either the text of its value or the keys of the struct that it
//! is, in one pass. Of a value that is passed over no more is looked at than it takes to find its end: what is wrong within one is found by
//! whoever reads it.

use std::borrow::Cow;
use std::fmt;

use memchr::memchr2;

use crate::error::ApiError;

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

impl From<Odd> for ApiError {
    fn from(odd: Odd) -> Self {
        ApiError::internal(odd)
    }
}

/// A place in a struct, or in one within it.
pub(super) struct Skim<'a> {
    text: &'a [u8],
    at: usize,
    /// Whether the first field of the struct here is still to come.
    fresh: bool,
    /// How many structs there are around this place.
    depth: usize,
}

impl<'a> Skim<'a> {
    /// Before the first field of a struct.
    pub(super) fn of(text: &'a [u8]) -> Result<Self, Odd> {
        let mut skim = Skim { text, at: 0, fresh: true, depth: 0 };
        skim.enter()?;
        Ok(skim)
    }

    /// The next key of the struct here, before its value. None after the last: it goes on behind the struct then, and behind the
    /// outermost there may be nothing but space.
    pub(super) fn key(&mut self) -> Result<Option<Cow<'a, str>>, Odd> {
        match self.token() {
            Some(b'}') if self.depth > 0 => {
                self.at += 1;
                self.depth -= 1;
                self.fresh = false;
                let is_end = self.depth > 0 || self.token().is_none();
                return if is_end { Ok(None) } else { Err(self.odd()) };
            }
            Some(b',') if !self.fresh => self.at += 1,
            Some(b'"') if self.fresh => {}
            _ => return Err(self.odd()),
        }
        self.fresh = false;
        self.token();
        let start = self.at;
        let is_plain = self.text()?;
        let quoted = &self.text[start..self.at];
        let key = if is_plain {
            std::str::from_utf8(&quoted[1..quoted.len() - 1]).ok().map(Cow::Borrowed)
        } else {
            serde_json::from_slice(quoted).ok().map(Cow::Owned)
        };
        let key = key.ok_or(Odd { at: start })?;
        self.expect(b':')?;
        self.token();
        Ok(Some(key))
    }

    /// Whether the value here is a struct.
    pub(super) fn is_struct(&self) -> bool {
        self.text.get(self.at) == Some(&b'{')
    }

    /// Goes into the struct here, before its first key.
    pub(super) fn enter(&mut self) -> Result<(), Odd> {
        self.expect(b'{')?;
        self.depth += 1;
        self.fresh = true;
        Ok(())
    }

    /// Passes over the value here, and returns its text.
    pub(super) fn value(&mut self) -> Result<&'a [u8], Odd> {
        let start = self.at;
        self.pass()?;
        Ok(&self.text[start..self.at])
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

    /// Passes over a text in quotes. Whether nothing in it is escaped.
    fn text(&mut self) -> Result<bool, Odd> {
        self.expect(b'"')?;
        let mut is_plain = true;
        loop {
            // Most are short: a search that begins with a glance at eight bytes is over before a general one has begun.
            let step = match self.text[self.at..].first_chunk() {
                Some(chunk) => match first_special(*chunk) {
                    Some(step) => step,
                    None => {
                        self.at += chunk.len();
                        continue;
                    }
                },
                None => memchr2(b'"', b'\\', &self.text[self.at..]).ok_or_else(|| self.odd())?,
            };
            self.at += step + 1;
            if self.text[self.at - 1] == b'"' {
                return Ok(is_plain);
            }
            // Whatever is escaped, it is not the end.
            is_plain = false;
            if self.at >= self.text.len() {
                return Err(self.odd());
            }
            self.at += 1;
        }
    }

    /// Passes over a value.
    fn pass(&mut self) -> Result<(), Odd> {
        let mut depth = 0_usize;
        loop {
            match self.text.get(self.at) {
                Some(b'"') => {
                    self.text()?;
                }
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

/// Where in a word the first quote or backslash is, all eight bytes at once ("Determine if a word has a byte equal to n", S. E. Anderson,
/// Bit Twiddling Hacks: bytes behind the first may be taken for one wrongly, the first is not).
fn first_special(chunk: [u8; 8]) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    let word = u64::from_le_bytes(chunk);
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word & HIGHS;
    let found = zeros(word ^ (ONES * u64::from(b'"'))) | zeros(word ^ (ONES * u64::from(b'\\')));
    (found != 0).then(|| found.trailing_zeros() as usize / 8)
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

    /// The fields of a struct; of those that are structs, whether gone into or passed over.
    fn fields(text: &[u8], enter: bool) -> Result<Vec<(String, Value)>, Odd> {
        fn within(skim: &mut Skim<'_>, enter: bool) -> Result<Vec<(String, Value)>, Odd> {
            let mut found = Vec::new();
            while let Some(key) = skim.key()? {
                let value = if enter && skim.is_struct() {
                    skim.enter()?;
                    Value::Object(within(skim, enter)?.into_iter().collect())
                } else {
                    serde_json::from_slice(skim.value()?).map_err(|_| skim.odd())?
                };
                found.push((key.into_owned(), value));
            }
            Ok(found)
        }
        within(&mut Skim::of(text)?, enter)
    }

    proptest! {
        #[test]
        fn it_finds_what_a_parser_finds(
            map in prop::collection::btree_map(r#"[a-c"\\ü]{0,3}"#, any_value(), 0..5),
            pretty: bool,
            enter: bool,
        ) {
            let write = if pretty { serde_json::to_vec_pretty } else { serde_json::to_vec };
            let text = write(&map).unwrap();
            let parsed: BTreeMap<String, Value> = serde_json::from_slice(&text).unwrap();
            prop_assert_eq!(fields(&text, enter).unwrap(), parsed.into_iter().collect::<Vec<_>>());
            for end in 0..text.len() {
                prop_assert!(fields(&text[..end], enter).is_err(), "cut at {}", end);
            }
        }

        #[test]
        fn no_bytes_make_it_panic(text in r#"[{}\[\]",:\\a1 ]{0,24}"#, bytes in prop::collection::vec(any::<u8>(), 0..24)) {
            for text in [text.as_bytes(), &bytes] {
                let Ok(mut skim) = Skim::of(text) else { continue };
                while let Ok(Some(_)) = skim.key() {
                    let passed = if skim.is_struct() { skim.enter().is_ok() } else { skim.value().is_ok() };
                    if !passed {
                        break;
                    }
                }
            }
        }
    }

    #[test]
    fn the_end_of_a_text_is_found_wherever_it_is() {
        for before in ["", "a", "abcdefg", "abcdefgh", "!#[]\u{a2}\u{dc}é", "0123456789abcdef0123456789"] {
            for special in ["\"", "\\\\\"", "\\\"x\""] {
                let text = format!("{{\"{before}{special}:1}}");
                let key = Skim::of(text.as_bytes()).and_then(|mut skim| skim.key()).unwrap().unwrap();
                let whole: Value = serde_json::from_str(&text).unwrap();
                assert_eq!(Some(&*key), whole.as_object().and_then(|map| Some(map.iter().next()?.0.as_str())));
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
                while skim.key()?.is_some() {
                    skim.value()?;
                }
                Ok(())
            });
            assert!(skimmed.is_err(), "{odd}");
        }
    }
}
