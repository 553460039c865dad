//! A simulated disk. In: redb's reads, writes and syncs, and a seed. Out: what a real disk and its page cache would do at
//! their worst: whatever was not synced is lost, kept, torn or reordered when the power goes, a sync may fail, and
//! there is only so much room.
//!
//! Nothing in it depends on time or threads: one seed, one history.

use std::io;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::{BackendError, StorageBackend};

use super::super::disk::Disk;

/// A small generator of pseudo-random numbers (SplitMix64): the same everywhere, for ever.
#[derive(Clone, Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Dice(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub(super) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end.max(1) as u64).unwrap_or(0)
    }

    /// Whether something that happens once in `n` times happens.
    pub(super) fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// One of these.
    pub(super) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

/// What goes wrong, once, after a number of operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The power goes: this operation and all after it fail.
    Power,
    /// One write fails.
    Write,
    /// One read fails.
    Read,
    /// One sync fails; part of what it should have kept is gone, and the next sync does not know.
    Sync,
}

/// A change that a loss of power may undo.
#[derive(Debug)]
enum Change {
    Write { offset: usize, data: Vec<u8> },
    Length(usize),
}

/// One file.
#[derive(Debug, Default)]
struct File {
    /// What survives for certain.
    durable: Vec<u8>,
    /// What is read: the page cache.
    view: Vec<u8>,
    /// What was done to `view` since the last sync.
    pending: Vec<Change>,
}

#[derive(Debug)]
struct State {
    dice: Dice,
    file: Option<File>,
    /// The file being made, that is not yet there under its name.
    draft: Option<File>,
    /// The log beside the file.
    log: Option<File>,
    fault: Option<(Fault, usize)>,
    powered: bool,
    capacity: usize,
    /// Which process may still use it; those before are dead.
    process: u64,
    /// Bytes read, and a hash of all that was asked of the disk.
    read_bytes: usize,
    trace: u64,
}

/// The disk; clones are the same one.
#[derive(Clone, Debug)]
pub(super) struct SimDisk(Arc<Mutex<State>>);

/// Which of the files.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Part {
    Named,
    Draft,
    Log,
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    part: Part,
    process: u64,
}

impl SimFile {
    /// The disk, if the process is not dead.
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.lock();
        if state.process == self.process { Ok(state) } else { Err(io::Error::other("the process is dead")) }
    }
}

impl SimDisk {
    /// An empty disk that never holds more than `capacity` bytes.
    pub(super) fn new(seed: u64, capacity: usize) -> Self {
        SimDisk(Arc::new(Mutex::new(State {
            dice: Dice::new(seed),
            file: None,
            draft: None,
            log: None,
            fault: None,
            powered: true,
            capacity,
            process: 0,
            read_bytes: 0,
            trace: 0,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets `fault` happen at the operation of its kind after the next `after`.
    pub(super) fn plan(&self, fault: Fault, after: usize) {
        self.lock().fault = Some((fault, after));
    }

    /// Sets how much it holds.
    pub(super) fn set_capacity(&self, capacity: usize) {
        self.lock().capacity = capacity;
    }

    /// The bytes in all files.
    pub(super) fn len(&self) -> usize {
        self.lock().used()
    }

    /// Cuts the power, and brings it back: what was not synced is there, not there, or there in part.
    pub(super) fn lose_power(&self) {
        let mut state = self.lock();
        let state = &mut *state;
        for file in [&mut state.file, &mut state.log].into_iter().flatten() {
            file.lose_power(&mut state.dice);
        }
        // Nobody reads what was never given its name.
        state.draft = None;
        state.recover();
    }

    /// Ends the process: what it wrote is in the page cache, and may yet be lost with the power. Pages that a failed sync
    /// gave up may be read from the disk again, as they were.
    pub(super) fn end_process(&self) {
        let mut state = self.lock();
        let state = &mut *state;
        for file in [&mut state.file, &mut state.log].into_iter().flatten() {
            file.evict(&mut state.dice);
        }
        state.recover();
    }

    /// Whether the power is on.
    pub(super) fn is_powered(&self) -> bool {
        self.lock().powered
    }

    /// Bytes read so far.
    pub(super) fn read_bytes(&self) -> usize {
        self.lock().read_bytes
    }

    /// A hash of everything asked of the disk so far.
    pub(super) fn trace(&self) -> u64 {
        self.lock().trace
    }
}

/// The unit in which the page cache gives pages up.
const PAGE_BYTES: usize = 4096;

impl File {
    fn apply(to: &mut Vec<u8>, change: &Change, part: impl Fn(usize) -> bool, unit: usize) {
        match change {
            Change::Length(len) => to.resize(*len, 0),
            Change::Write { offset, data } => {
                // A write behind an end that was not kept makes the file longer, with zeroes between.
                if to.len() < offset + data.len() {
                    to.resize(offset + data.len(), 0);
                }
                for (i, piece) in data.chunks(unit).enumerate().filter(|(i, _)| part(*i)) {
                    let at = offset + i * unit;
                    to[at..at + piece.len()].copy_from_slice(piece);
                }
            }
        }
    }

    /// Some of what is pending gets to the disk, in any order, whole or in pieces.
    fn settle(&mut self, dice: &mut Dice) {
        let mut changes = std::mem::take(&mut self.pending);
        let (lost_in_10, torn_in_10) = dice.pick(&[(0, 0), (1, 1), (5, 0), (5, 3), (9, 1), (10, 0), (0, 10)]);
        if !dice.once_in(4) {
            for i in (1..changes.len()).rev() {
                changes.swap(i, dice.below(i + 1));
            }
        }
        for change in &changes {
            let fate = dice.below(10);
            if fate < lost_in_10 {
                continue;
            }
            let unit = dice.pick(&[1, 8, 64, 512, 512, 4096]);
            if fate < lost_in_10 + torn_in_10 {
                let keep = dice.next();
                Self::apply(&mut self.durable, change, |i| keep.rotate_left((i % 64) as u32) & 1 == 1, unit);
            } else {
                Self::apply(&mut self.durable, change, |_| true, PAGE_BYTES);
            }
        }
    }

    fn lose_power(&mut self, dice: &mut Dice) {
        self.settle(dice);
        self.view = self.durable.clone();
    }

    /// Pages that count as clean may be read again from the disk.
    fn evict(&mut self, dice: &mut Dice) {
        if !self.pending.is_empty() || dice.once_in(2) {
            return;
        }
        for (page, bytes) in self.view.chunks_mut(PAGE_BYTES).enumerate() {
            let from = page * PAGE_BYTES;
            if let Some(kept) = self.durable.get(from..from + bytes.len())
                && kept != bytes
                && !dice.once_in(3)
            {
                bytes.copy_from_slice(kept);
            }
        }
    }

    fn sync(&mut self) {
        for change in std::mem::take(&mut self.pending) {
            Self::apply(&mut self.durable, &change, |_| true, PAGE_BYTES);
        }
    }

    fn write(&mut self, change: Change) {
        Self::apply(&mut self.view, &change, |_| true, PAGE_BYTES);
        self.pending.push(change);
    }
}

impl State {
    fn recover(&mut self) {
        self.process += 1;
        self.powered = true;
        self.fault = None;
    }

    /// Notes an operation, and fails it if that is planned.
    fn step(&mut self, kind: Fault, what: usize) -> io::Result<()> {
        self.trace =
            (self.trace ^ (what as u64) ^ ((kind as u64) << 56)).wrapping_mul(0x0100_0000_01b3).rotate_left(17);
        if !self.powered {
            return Err(io::Error::other("no power"));
        }
        let Some((fault, left)) = &mut self.fault else { return Ok(()) };
        if *fault != kind && *fault != Fault::Power {
            return Ok(());
        }
        if *left > 0 {
            *left -= 1;
            return Ok(());
        }
        let fault = *fault;
        self.fault = None;
        if fault == Fault::Power {
            self.powered = false;
            return Err(io::Error::other("no power"));
        }
        Err(io::Error::other("input/output error"))
    }

    fn file(&mut self, part: Part) -> io::Result<&mut File> {
        let file = match part {
            Part::Named => &mut self.file,
            Part::Draft => &mut self.draft,
            Part::Log => &mut self.log,
        };
        file.as_mut().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn used(&self) -> usize {
        [&self.file, &self.draft, &self.log].into_iter().flatten().map(|file| file.view.len()).sum()
    }

    /// Whether a file may be as long as this.
    fn room(&mut self, part: Part, len: usize) -> io::Result<()> {
        let before = self.file(part)?.view.len();
        if len > before && self.used() + len - before > self.capacity {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

impl Disk for SimDisk {
    fn lock(&self) -> io::Result<Box<dyn Send>> {
        Ok(Box::new(()))
    }

    fn exists(&self) -> io::Result<bool> {
        let mut state = self.lock();
        state.step(Fault::Read, 0)?;
        Ok(state.file.is_some())
    }

    fn open(&self) -> io::Result<Box<dyn StorageBackend>> {
        let mut state = self.lock();
        state.file(Part::Named)?;
        Ok(Box::new(SimFile { disk: self.clone(), part: Part::Named, process: state.process }))
    }

    fn log(&self) -> io::Result<Box<dyn StorageBackend>> {
        let mut state = self.lock();
        state.file(Part::Log)?;
        Ok(Box::new(SimFile { disk: self.clone(), part: Part::Log, process: state.process }))
    }

    fn make_log(&self) -> io::Result<()> {
        let mut state = self.lock();
        let made = state.step(Fault::Sync, 3);
        if made.is_ok() || state.dice.once_in(2) {
            state.log.get_or_insert_default();
        }
        made
    }

    fn draft(&self) -> io::Result<Box<dyn StorageBackend>> {
        let mut state = self.lock();
        state.step(Fault::Write, 0)?;
        state.draft = Some(File::default());
        Ok(Box::new(SimFile { disk: self.clone(), part: Part::Draft, process: state.process }))
    }

    fn publish(&self) -> io::Result<()> {
        let mut state = self.lock();
        let named = state.step(Fault::Sync, 0);
        // Even if the power goes just now the name may have been kept.
        if named.is_ok() || state.dice.once_in(2) {
            state.file = state.draft.take();
        }
        named
    }
}

impl StorageBackend for SimFile {
    fn len(&self) -> io::Result<u64> {
        let mut state = self.state()?;
        state.step(Fault::Read, 1)?;
        Ok(state.file(self.part)?.view.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut state = self.state()?;
        let from = usize::try_from(offset).map_err(io::Error::other)?;
        state.step(Fault::Read, from + out.len())?;
        state.read_bytes += out.len();
        let bytes = state.file(self.part)?.view.get(from..from + out.len());
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.state()?;
        let len = usize::try_from(len).map_err(io::Error::other)?;
        state.step(Fault::Write, len)?;
        state.room(self.part, len)?;
        state.file(self.part)?.write(Change::Length(len));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.state()?;
        let state = &mut *state;
        let synced = state.step(Fault::Sync, 2);
        let powered = state.powered;
        let dice = &mut state.dice.clone();
        let file = state.file(self.part)?;
        match synced {
            Ok(()) => file.sync(),
            Err(_) if powered => file.settle(dice),
            Err(_) => {}
        }
        state.dice = dice.clone();
        synced
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.state()?;
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        let failed = state.step(Fault::Write, offset + data.len());
        if failed.is_err() && !state.powered {
            return failed;
        }
        state.room(self.part, offset + data.len())?;
        // What a write that failed has done nonetheless is anybody's guess.
        let done = if failed.is_ok() { data.len() } else { state.dice.below(data.len() + 1) };
        state.file(self.part)?.write(Change::Write { offset, data: data[..done].to_vec() });
        failed
    }

    // One process at a time uses it.
    fn try_lock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<bool, BackendError> {
        Ok(true)
    }

    fn unlock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk_with(contents: &[u8]) -> (SimDisk, Box<dyn StorageBackend>) {
        let disk = SimDisk::new(1, 1 << 20);
        let draft = disk.draft().unwrap();
        draft.write(0, contents).unwrap();
        draft.sync_data().unwrap();
        disk.publish().unwrap();
        let file = disk.open().unwrap();
        (disk, file)
    }

    fn contents(file: &dyn StorageBackend) -> Vec<u8> {
        let mut all = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
        file.read(0, &mut all).unwrap();
        all
    }

    /// The disk does all it is there for: it keeps what was synced, and drops, tears and reorders the rest.
    #[test]
    fn what_was_not_synced_may_be_lost_torn_and_reordered() {
        let (mut whole, mut lost, mut torn, mut reordered) = (0, 0, 0, 0);
        for seed in 0..200 {
            let (disk, file) = disk_with(&[1; 8192]);
            disk.lock().dice = Dice::new(seed);
            file.write(0, &[2; 4096]).unwrap();
            file.write(4096, &[3; 4096]).unwrap();
            disk.lose_power();
            let all = contents(&*disk.open().unwrap());
            let (first, second) = all.split_at(4096);
            let is = |part: &[u8], byte| part.iter().all(|b| *b == byte);
            assert!(first.iter().all(|b| [1, 2].contains(b)) && second.iter().all(|b| [1, 3].contains(b)));
            whole += usize::from(is(first, 2) && is(second, 3));
            lost += usize::from(is(first, 1) && is(second, 1));
            reordered += usize::from(is(first, 1) && is(second, 3));
            torn += usize::from(first.contains(&1) && first.contains(&2));
        }
        assert!(whole > 5 && lost > 5 && torn > 5 && reordered > 5, "{whole} {lost} {torn} {reordered}");
    }

    #[test]
    fn what_was_synced_is_kept() {
        for seed in 0..50 {
            let (disk, file) = disk_with(&[1; 100]);
            disk.lock().dice = Dice::new(seed);
            file.write(50, &[2; 100]).unwrap();
            file.sync_data().unwrap();
            disk.lose_power();
            assert_eq!(contents(&*disk.open().unwrap()), [vec![1; 50], vec![2; 100]].concat());
        }
    }

    #[test]
    fn a_planned_fault_happens_once_and_at_its_place() {
        let (disk, file) = disk_with(&[1; 100]);
        disk.plan(Fault::Write, 1);
        file.write(0, &[2]).unwrap();
        assert!(file.write(1, &[2]).is_err());
        file.write(2, &[2]).unwrap();
        disk.plan(Fault::Power, 0);
        assert!(file.sync_data().is_err() && file.len().is_err());
        disk.lose_power();
        assert!(file.len().is_err(), "what used it before is dead");
        let file = disk.open().unwrap();
        assert_eq!(file.len().unwrap(), 100);
        disk.set_capacity(120);
        let full = file.write(110, &[2; 11]);
        assert_eq!(full.unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
