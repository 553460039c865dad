//! The log of changed nodes, shared by all classes.
//!
//! Every change of a node appends its slot. A class remembers how far it has read, so deciding
//! costs what has changed since, not the number of nodes. A node that changed several times is
//! looked at once: only the entry that is the node's latest counts.

/// One log for the whole engine.
#[derive(Clone, Debug, Default)]
pub struct ChangeLog {
    /// Slots in order of change; the first entry has position `base`.
    entries: Vec<u32>,
    base: u64,
    /// Per slot, the position of its latest change of any kind, plus one (0: never).
    latest: Vec<u64>,
    /// Per slot, the position of its latest change of labels, taints, name or presence, plus one.
    latest_static: Vec<u64>,
}

/// What a reader finds for one changed node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The node's slot.
    pub slot: u32,
    /// Did anything but usage change since the reader's cursor?
    pub is_static: bool,
}

impl ChangeLog {
    /// The position after the newest entry: the cursor of a reader that has seen everything.
    pub fn end(&self) -> u64 {
        self.base + self.entries.len() as u64
    }

    /// Notes that `slot` changed.
    pub fn push(&mut self, slot: u32, is_static: bool) {
        let index = slot as usize;
        if index >= self.latest.len() {
            self.latest.resize(index + 1, 0);
            self.latest_static.resize(index + 1, 0);
        }
        // Twice the nodes: a reader further behind than that does better to start afresh.
        if self.entries.len() >= 2 * self.latest.len() + 4096 {
            let half = self.entries.len() / 2;
            self.entries.drain(..half);
            self.base += half as u64;
        }
        self.entries.push(slot);
        self.latest[index] = self.end();
        if is_static {
            self.latest_static[index] = self.end();
        }
    }

    /// The position after a node's latest change, 0 if it never changed.
    pub fn latest(&self, slot: u32) -> u64 {
        self.latest.get(slot as usize).copied().unwrap_or(0)
    }

    /// Has the part of the log after `cursor` been kept?
    pub fn reaches_back_to(&self, cursor: u64) -> bool {
        cursor >= self.base
    }

    /// The nodes that changed after `cursor`, each once.
    pub fn since(&self, cursor: u64) -> impl Iterator<Item = Change> + '_ {
        let skip = cursor.saturating_sub(self.base) as usize;
        let entries = self.entries.get(skip..).unwrap_or(&[]);
        entries.iter().enumerate().filter_map(move |(offset, slot)| {
            let position = self.base + (skip + offset) as u64 + 1;
            let index = *slot as usize;
            (self.latest[index] == position)
                .then(|| Change { slot: *slot, is_static: self.latest_static[index] > cursor })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_sees_each_changed_node_once() {
        let mut log = ChangeLog::default();
        log.push(4, true);
        let cursor = log.end();
        for slot in [1, 2, 1, 1, 4] {
            log.push(slot, slot == 2);
        }
        let seen: Vec<_> = log.since(cursor).map(|change| (change.slot, change.is_static)).collect();
        assert_eq!(seen, [(2, true), (1, false), (4, false)]);
        assert_eq!(log.since(log.end()).count(), 0);
    }

    #[test]
    fn a_reader_that_fell_behind_is_told() {
        let mut log = ChangeLog::default();
        let start = log.end();
        for _ in 0..10_000 {
            log.push(0, false);
        }
        assert!(!log.reaches_back_to(start));
        assert!(log.reaches_back_to(log.end()));
    }
}
