//! Inputs made from seeds: changed, cut, repeated and joined, by numbers that follow from one seed.

use crate::INPUT_BYTES_MAX;

/// What parsers look for.
const TOKENS: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    "\"",
    ":",
    ",",
    "null",
    "true",
    "-1",
    "0",
    "1e999",
    "9223372036854775808",
    "0.1",
    "\\u0000",
    "\\ud800",
    "\n",
    "  ",
    "- ",
    "&a ",
    "*a",
    "<<: *a",
    "!!binary ",
    "| ",
    "---\n",
    "'",
    "#",
    "$patch",
    "replace",
    "delete",
    "merge",
    "$retainKeys",
    "$setElementOrder/containers",
    "$deleteFromPrimitiveList/finalizers",
    "metadata",
    "spec",
    "managedFields",
    "fieldsV1",
    "f:spec",
    "k:{\"name\":\"a\"}",
    "v:\"x\"",
    ".",
    "..",
    "/",
    "~1",
    "~0",
    "-",
    "op",
    "path",
    "value",
    "add",
    "remove",
    "move",
    "copy",
    "test",
    "from",
    "name",
    "=",
    "==",
    "!=",
    " in ",
    "notin",
    "(",
    ")",
    "!",
    ">",
    "<",
    "Ki",
    "Mi",
    "e3",
    "E",
    "m",
    "n",
    "k8s\0",
    "\x08",
    "\x12",
    "\u{7f}",
    "é",
    "🦀",
];

/// Makes inputs.
pub struct Mutator<'c> {
    state: u64,
    corpus: &'c [Vec<u8>],
}

impl<'c> Mutator<'c> {
    /// Inputs from a corpus.
    pub fn new(seed: u64, corpus: &'c [Vec<u8>]) -> Self {
        Self { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, corpus }
    }

    fn random(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 8
    }

    fn below(&mut self, end: usize) -> usize {
        if end == 0 { 0 } else { (self.random() % end as u64) as usize }
    }

    fn pick(&mut self) -> &'c [u8] {
        let at = self.below(self.corpus.len());
        self.corpus.get(at).map_or(&[], Vec::as_slice)
    }

    /// A part of some input.
    fn part<'b>(&mut self, bytes: &'b [u8], length_max: usize) -> &'b [u8] {
        let start = self.below(bytes.len());
        let length = self.below(length_max.min(bytes.len() - start) + 1);
        &bytes[start..start + length]
    }

    /// The next input.
    pub fn next(&mut self) -> Vec<u8> {
        let mut input = self.pick().to_vec();
        for _ in 0..=self.below(6) {
            self.change(&mut input);
            input.truncate(INPUT_BYTES_MAX);
        }
        input
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let at = self.below(input.len() + 1);
        match self.below(8) {
            0 if at < input.len() => input[at] ^= 1 << self.below(8),
            1 if at < input.len() => input[at] = self.random() as u8,
            2 => {
                let length = self.below(16.min(input.len() - at) + 1);
                input.drain(at..at + length);
            }
            3 => {
                // Deep nesting and long lists: a part, many times.
                let part = self.part(input, 12).to_vec();
                let times = 1 << self.below(11);
                input.splice(at..at, part.repeat(times));
            }
            4 => {
                let other = self.pick();
                let part = self.part(other, 200).to_vec();
                input.splice(at..at, part);
            }
            5 => {
                let part = self.part(input, 40).to_vec();
                input.splice(at..at, part);
            }
            6 => input.truncate(at),
            _ => {
                let token = TOKENS[self.below(TOKENS.len())];
                input.splice(at..at, token.bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_says_which_inputs_come() {
        let corpus = vec![b"{\"a\":[1]}".to_vec(), b"x".to_vec()];
        let inputs = |seed| {
            let mut mutator = Mutator::new(seed, &corpus);
            (0..50).map(|_| mutator.next()).collect::<Vec<_>>()
        };
        assert_eq!(inputs(1), inputs(1));
        assert_ne!(inputs(1), inputs(2));
        assert!(inputs(3).iter().any(|input| input.len() > 1000));
    }
}
