//! Is a history of concurrent operations linearizable? In: for one register, what each client asked, what it was told,
//! and when it asked and was told. Out: yes, or the operations that cannot be put in any order.
//!
//! A history is linearizable if each operation can be given one moment between its call and its return so that, done one
//! after another at these moments, they give exactly the answers that were given. The search is the one of Wing and
//! Gong with Lowe's memory: take any operation whose call comes before every other's return, do it, go on; go back
//! when stuck; never visit the same set of done operations with the same value twice. Registers are independent of
//! each other, so each is checked alone.
//!
//! An operation whose outcome is unknown may have happened at any time after its call, or never. If nobody ever saw its
//! value, it may as well never have happened and is left out; if somebody did, it happened, with no end to its time.

use std::collections::{HashMap, HashSet};

/// What a register holds; every value that is ever written is another one.
pub type Value = Option<u64>;

/// What was asked, and what the answer was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Reads this.
    Read(Value),
    /// Sets it, whatever it was.
    Write(Value),
    /// Sets it to the second, having found the first.
    Swap(Value, Value),
    /// Was to set it, but found this instead of what it wanted (the first).
    SwapFailed(Value, Value),
}

/// One operation of one client.
#[derive(Clone, Copy, Debug)]
pub struct Operation {
    pub action: Action,
    /// When it was called, and when it returned; none if its outcome is unknown. Any clock that all clients share.
    pub call: u64,
    pub end: Option<u64>,
}

impl Action {
    /// The value after it, if it is possible at `now`.
    fn step(self, now: Value) -> Option<Value> {
        match self {
            Action::Read(seen) => (seen == now).then_some(now),
            Action::Write(value) => Some(value),
            Action::Swap(expected, value) => (expected == now).then_some(value),
            Action::SwapFailed(expected, found) => (found == now && expected != now).then_some(now),
        }
    }

    /// The values that it shows to have been there before it.
    fn seen(self) -> Value {
        match self {
            Action::Read(seen) | Action::SwapFailed(_, seen) | Action::Swap(seen, _) => seen,
            Action::Write(_) => None,
        }
    }

    fn written(self) -> Value {
        match self {
            Action::Write(value) | Action::Swap(_, value) => value,
            Action::Read(_) | Action::SwapFailed(..) => None,
        }
    }
}

/// Checks the history of one register that held `initial` at first.
///
/// # Errors
///
/// The operations around the place where the search got stuck.
pub fn check(initial: Value, history: &[Operation]) -> Result<(), String> {
    let mut operations = relevant(history);
    operations.sort_by_key(|operation| operation.call);
    let mut search = Search {
        done: vec![0; operations.len().div_ceil(64)],
        operations: &operations,
        first: 0,
        visited: HashSet::new(),
        furthest: 0,
    };
    if search.run(initial) {
        return Ok(());
    }
    let around = search.furthest.saturating_sub(4)..(search.furthest + 12).min(operations.len());
    Err(format!("no order explains these, or what came before: {:#?}", &operations[around]))
}

/// Leaves out what need not have happened.
fn relevant(history: &[Operation]) -> Vec<Operation> {
    // Who removed the register's value is never known from what others saw; so removals whose outcome is unknown stay
    // out of histories (the clients here don't make any), which `written` being a value says.
    let mut seen: HashMap<u64, bool> = HashMap::new();
    let mut kept: Vec<Operation> = history.iter().copied().filter(|operation| operation.end.is_some()).collect();
    let mut unknown: Vec<Operation> = history.iter().copied().filter(|operation| operation.end.is_none()).collect();
    // What an operation of unknown outcome itself saw counts once it is known to have happened.
    let mut todo: Vec<Operation> = kept.clone();
    while let Some(operation) = todo.pop() {
        let Some(value) = operation.action.seen() else { continue };
        if seen.insert(value, true).is_some() {
            continue;
        }
        if let Some(at) = unknown.iter().position(|operation| operation.action.written() == Some(value)) {
            let happened = unknown.swap_remove(at);
            kept.push(happened);
            todo.push(happened);
        }
    }
    kept
}

struct Search<'a> {
    /// In the order of their calls.
    operations: &'a [Operation],
    /// Which are done, and the first that is not.
    done: Vec<u64>,
    first: usize,
    visited: HashSet<(Vec<u64>, Value)>,
    furthest: usize,
}

impl Search<'_> {
    fn is_done(&self, at: usize) -> bool {
        self.done[at / 64] >> (at % 64) & 1 == 1
    }

    fn set(&mut self, at: usize, done: bool) {
        if done {
            self.done[at / 64] |= 1 << (at % 64);
        } else {
            self.done[at / 64] &= !(1 << (at % 64));
        }
    }

    /// The operations that may be next: called before the first return among those not done.
    fn candidates(&mut self) -> Vec<usize> {
        while self.first < self.operations.len() && self.is_done(self.first) {
            self.first += 1;
        }
        self.furthest = self.furthest.max(self.first);
        let mut first_return = u64::MAX;
        let mut found = Vec::new();
        for at in self.first..self.operations.len() {
            let operation = &self.operations[at];
            if operation.call > first_return {
                break;
            }
            if !self.is_done(at) {
                found.push(at);
                first_return = first_return.min(operation.end.unwrap_or(u64::MAX));
            }
        }
        found.retain(|at| self.operations[*at].call <= first_return);
        found
    }

    fn run(&mut self, initial: Value) -> bool {
        // What was done, on the way here: the operation, the value before it, `first` before it, and what else to try.
        let mut path: Vec<(usize, Value, usize, Vec<usize>)> = Vec::new();
        let mut value = initial;
        let mut todo = self.candidates();
        loop {
            if todo.is_empty() && self.first == self.operations.len() {
                return true;
            }
            let next = loop {
                let Some(at) = todo.pop() else { break None };
                let Some(after) = self.operations[at].action.step(value) else { continue };
                self.set(at, true);
                if self.visited.insert((self.key(), after)) {
                    break Some((at, after));
                }
                self.set(at, false);
            };
            match next {
                Some((at, after)) => {
                    path.push((at, value, self.first, std::mem::take(&mut todo)));
                    value = after;
                    todo = self.candidates();
                }
                None => {
                    let Some((at, before, first, rest)) = path.pop() else { return false };
                    self.set(at, false);
                    (value, self.first, todo) = (before, first, rest);
                }
            }
        }
    }

    /// The set of done operations, short: all before `first` are done.
    fn key(&self) -> Vec<u64> {
        let mut first = self.first;
        while first < self.operations.len() && self.is_done(first) {
            first += 1;
        }
        let from = first / 64;
        let mut key = vec![first as u64];
        let last = self.done.iter().rposition(|word| *word != 0).map_or(from, |last| last.max(from));
        key.extend(self.done[from.min(last)..=last.min(self.done.len() - 1)].iter());
        key
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Action::{Read, Swap, SwapFailed, Write};

    fn op(action: Action, call: u64, end: u64) -> Operation {
        Operation { action, call, end: Some(end) }
    }

    fn unknown(action: Action, call: u64) -> Operation {
        Operation { action, call, end: None }
    }

    fn is_linearizable(history: &[Operation]) -> bool {
        check(None, history).is_ok()
    }

    #[test]
    fn good_histories_pass() {
        assert!(is_linearizable(&[]));
        assert!(is_linearizable(&[op(Write(Some(1)), 0, 1), op(Read(Some(1)), 2, 3)]));
        // A read beside a write may see what was before or after.
        assert!(is_linearizable(&[op(Write(Some(1)), 0, 9), op(Read(None), 1, 2), op(Read(Some(1)), 3, 4)]));
        // Writes beside each other, in either order.
        for last in [1, 2] {
            assert!(is_linearizable(&[op(Write(Some(1)), 0, 5), op(Write(Some(2)), 0, 5), op(Read(Some(last)), 6, 7)]));
        }
        assert!(is_linearizable(&[
            op(Write(Some(1)), 0, 1),
            op(Swap(Some(1), Some(2)), 2, 5),
            op(SwapFailed(Some(1), Some(2)), 3, 6),
            op(Swap(Some(2), None), 7, 8),
            op(Read(None), 9, 10),
        ]));
        // What failed without a word may have happened much later, or never.
        let lost = unknown(Write(Some(2)), 1);
        assert!(is_linearizable(&[op(Write(Some(1)), 0, 1), lost, op(Read(Some(1)), 2, 3), op(Read(Some(2)), 4, 5)]));
        assert!(is_linearizable(&[op(Write(Some(1)), 0, 1), lost, op(Read(Some(1)), 2, 3), op(Read(Some(1)), 4, 5)]));
    }

    #[test]
    fn bad_histories_are_rejected() {
        // A stale read.
        assert!(!is_linearizable(&[op(Write(Some(1)), 0, 1), op(Read(None), 2, 3)]));
        assert!(!is_linearizable(&[
            op(Write(Some(1)), 0, 1),
            op(Write(Some(2)), 2, 3),
            op(Read(Some(2)), 4, 5),
            op(Read(Some(1)), 6, 7)
        ]));
        // Going back, while the write is still under way.
        assert!(!is_linearizable(&[op(Write(Some(1)), 0, 9), op(Read(Some(1)), 1, 2), op(Read(None), 3, 4)]));
        // A lost update: two swaps from one value.
        assert!(!is_linearizable(&[
            op(Write(Some(1)), 0, 1),
            op(Swap(Some(1), Some(2)), 2, 5),
            op(Swap(Some(1), Some(3)), 2, 5)
        ]));
        // A swap that failed for no reason.
        assert!(!is_linearizable(&[op(Write(Some(1)), 0, 1), op(SwapFailed(Some(1), Some(1)), 2, 3)]));
        // A value from nowhere, and one seen before anybody wrote it.
        assert!(!is_linearizable(&[op(Read(Some(7)), 0, 1)]));
        assert!(!is_linearizable(&[op(Read(Some(1)), 0, 1), op(Write(Some(1)), 2, 3)]));
        assert!(!is_linearizable(&[op(Read(Some(1)), 0, 1), unknown(Write(Some(1)), 2)]));
        // What happened does not unhappen.
        assert!(!is_linearizable(&[
            op(Write(Some(1)), 0, 1),
            unknown(Write(Some(2)), 1),
            op(Read(Some(2)), 2, 3),
            op(Read(Some(1)), 4, 5)
        ]));
        // A write whose outcome is unknown happens once.
        assert!(!is_linearizable(&[
            unknown(Write(Some(2)), 0),
            op(Read(Some(2)), 1, 2),
            op(Write(Some(3)), 3, 4),
            op(Read(Some(2)), 5, 6)
        ]));
    }

    /// Histories made by running operations on a real register one after another, stretched in time, pass; with one
    /// answer changed they mostly don't, and the brute-force definition agrees each time.
    #[test]
    fn the_search_agrees_with_the_definition() {
        let mut seed = 7u64;
        let mut roll = |n: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % n
        };
        let (mut good, mut bad) = (0, 0);
        for _ in 0..600 {
            let mut value = None;
            let mut history = Vec::new();
            for i in 0..6 {
                let new = Some(100 + i);
                let action = match roll(4) {
                    0 => Read(value),
                    1 => Write(new),
                    2 => Swap(value, new),
                    _ if value.is_some() => SwapFailed(None, value),
                    _ => Read(value),
                };
                value = action.step(value).unwrap();
                let at = i * 10 + 20;
                history.push(op(action, at - roll(15), at + roll(15)));
            }
            assert!(is_linearizable(&history), "{history:?}");
            let wrong = roll(6) as usize;
            history[wrong].action = match history[wrong].action {
                Read(_) => Read(Some(100 + roll(6))),
                Swap(_, new) => Swap(Some(100 + roll(6)), new),
                SwapFailed(..) => SwapFailed(None, Some(100 + roll(6))),
                Write(_) => Read(Some(100 + roll(6))),
            };
            let expected = by_definition(&history, &mut Vec::new(), None);
            assert_eq!(is_linearizable(&history), expected, "{history:?}");
            if expected { good += 1 } else { bad += 1 }
        }
        assert!(good > 10 && bad > 100, "{good} {bad}");
    }

    /// Tries every order.
    fn by_definition(history: &[Operation], done: &mut Vec<usize>, value: Value) -> bool {
        if done.len() == history.len() {
            return true;
        }
        (0..history.len()).any(|at| {
            let blocked = done.contains(&at)
                || (0..history.len())
                    .any(|other| !done.contains(&other) && history[other].end.unwrap() < history[at].call);
            let Some(after) = history[at].action.step(value).filter(|_| !blocked) else { return false };
            done.push(at);
            let works = by_definition(history, done, after);
            done.pop();
            works
        })
    }
}
