//! Crash after crash on a simulated disk: the embedded engine's file code, driven step by step on one thread and
//! checked after every start against a model in memory. One seed is one history, always the same.
//!
//! `GANTRY_STORE_SIM_ROUNDS=1000000` does more rounds, `GANTRY_STORE_SIM_SEED=n` only those of seed `n`.

mod disk;
mod model;

use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc, oneshot};

use self::disk::{Dice, Fault, SimDisk};
use self::model::{Answer, Model};
use super::handle::{Handle, Limits};
use super::hub::Hub;
use super::intake::{Batch, Command, Intake};
use super::log::Log;
use super::read::Snapshot;
use super::writer::Writer;
use crate::{Error, KeyValue, Op, PAGE_ITEMS_MAX, Revision};

/// Rounds in all, unless the environment says otherwise.
const ROUNDS: u64 = 12_000;
/// Rounds of one seed, which follow each other on one disk.
const ROUNDS_PER_SEED: u64 = 24;
/// More than any round needs.
const ROOM: usize = 64 << 20;
/// A log of a few records, so that it begins again often.
const LIMITS: Limits = Limits { cache_bytes: 1 << 20, log_bytes: 40 << 10 };

/// What happened in all, to show that it was not nothing.
#[derive(Default)]
struct Tally {
    rounds: AtomicU64,
    acknowledged: AtomicU64,
    in_doubt_kept: AtomicU64,
    in_doubt_lost: AtomicU64,
    stopped: AtomicU64,
    failed_starts: AtomicU64,
}

/// A disk, and what must be on it.
struct World<'a> {
    dice: Dice,
    disk: SimDisk,
    model: Model,
    /// What may be there instead, if the last commit's outcome is unknown.
    in_doubt: Option<Model>,
    tally: &'a Tally,
}

/// A running engine.
struct Life {
    handle: Arc<Handle>,
    writer: Writer,
}

impl World<'_> {
    fn new(seed: u64, tally: &Tally) -> World<'_> {
        let mut dice = Dice::new(seed);
        let disk = SimDisk::new(dice.next(), ROOM);
        World { dice, disk, model: Model::new(), in_doubt: None, tally }
    }

    fn round(&mut self) {
        self.disk.set_capacity(ROOM);
        if self.dice.once_in(4) {
            self.start_badly();
        }
        let mut life = self.start();
        self.plan_fault();
        let mut running = true;
        for _ in 0..1 + self.dice.below(6) {
            running = self.commit(&mut life);
            if !running {
                break;
            }
        }
        let Life { handle, mut writer } = life;
        let settled = running && self.dice.once_in(3);
        if settled {
            writer.settle();
        }
        drop(writer);
        // Unsettled: as a process ends that nobody told to close the store.
        if settled || running && self.dice.once_in(6) {
            handle.close();
        }
        self.end();
        // Dropped only after the end, so that nothing it does in parting reaches the disk.
        drop(handle);
        self.tally.rounds.fetch_add(1, Ordering::Relaxed);
    }

    /// A start during which something goes wrong: it may fail, and must do no harm.
    fn start_badly(&mut self) {
        let fault = self.dice.pick(&[Fault::Power, Fault::Power, Fault::Write, Fault::Read, Fault::Sync]);
        let after = self.dice.below(if fault == Fault::Sync { 4 } else { 40 });
        self.disk.plan(fault, after);
        match open(&self.disk) {
            Ok((handle, log)) => {
                if log.is_err() {
                    self.tally.failed_starts.fetch_add(1, Ordering::Relaxed);
                }
                self.end();
                drop(handle);
            }
            Err(_) => {
                self.tally.failed_starts.fetch_add(1, Ordering::Relaxed);
                self.end();
            }
        }
    }

    /// A start on a disk that is well: it succeeds, and everything is there.
    fn start(&mut self) -> Life {
        let (handle, log) = open(&self.disk).expect("a store opens whatever happened before");
        let log = log.expect("it can be written");
        let handle = Arc::new(handle);
        let found = read_all(&handle, &mut self.dice);
        if let Some(other) = self.in_doubt.take() {
            if found == other {
                self.model = other;
                self.tally.in_doubt_kept.fetch_add(1, Ordering::Relaxed);
            } else {
                self.tally.in_doubt_lost.fetch_add(1, Ordering::Relaxed);
            }
        }
        assert_same(&found, &self.model);
        let (revision, oldest) = (found.revision, found.oldest);
        let hub = Arc::new(Hub::new(revision));
        let (_, commands) = mpsc::channel(1);
        let writer = Writer {
            handle: Arc::clone(&handle),
            hub,
            intake: Intake::new(commands),
            revision,
            oldest,
            log: Ok(log),
            compacted: 0,
            unshown: None,
        };
        Life { handle, writer }
    }

    fn plan_fault(&mut self) {
        match self.dice.below(10) {
            // A commit into the log takes two steps, one into the file dozens.
            0..4 => {
                let within = self.dice.pick(&[6, 20, 120]);
                self.disk.plan(Fault::Power, self.dice.below(within));
            }
            4 => {
                let within = self.dice.pick(&[4, 40]);
                self.disk.plan(Fault::Write, self.dice.below(within));
            }
            5 => self.disk.plan(Fault::Read, self.dice.below(4)),
            6 => self.disk.plan(Fault::Sync, self.dice.below(5)),
            7 => self.disk.set_capacity(self.disk.len() + self.dice.below(200_000)),
            _ => {}
        }
    }

    /// One commit of some transactions; whether the engine goes on.
    fn commit(&mut self, life: &mut Life) -> bool {
        let mut after = self.model.clone();
        let mut batch = Batch::default();
        let mut waiting = Vec::new();
        let shown = self.dice.once_in(3).then(|| {
            let (reply, shown) = oneshot::channel();
            batch.add(Command::Show { reply });
            shown
        });
        for _ in 0..self.dice.below(12) {
            let ops = after.random_ops(&mut self.dice);
            let expected = after.txn(&ops);
            let (command, answer) = txn(ops);
            batch.add(command);
            waiting.push((expected, answer));
        }
        let compacted = self.dice.once_in(3).then(|| {
            let before = self.model.revision.saturating_sub(self.dice.next() % 30).max(1);
            after.compact(before);
            let (reply, answer) = oneshot::channel();
            batch.add(Command::Compact { before, reply });
            answer
        });
        let mut committed = life.writer.commit(batch).is_ok();
        let (expected, answers): (Vec<_>, Vec<_>) =
            waiting.into_iter().map(|(expected, mut answer)| (expected, answer.try_recv().unwrap())).unzip();
        let compacted = compacted.map(|mut answer| answer.try_recv().unwrap());
        let is_in_doubt = |error: Option<&Error>| matches!(error, Some(Error::UnknownOutcome(_)));
        let lost = answers.iter().any(|answer| is_in_doubt(answer.as_ref().err()))
            || is_in_doubt(compacted.as_ref().and_then(|answer| answer.as_ref().err()));
        if committed && lost {
            // The record did not arrive, of which the writer hears before it does anything else.
            committed = life.writer.commit(Batch::default()).is_ok();
            assert!(!committed, "a writer goes on after a record that did not arrive");
        }
        if committed {
            for (expected, answer) in expected.into_iter().zip(answers) {
                assert_answer(answer, &expected);
                self.tally.acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            if let Some(mut shown) = shown {
                shown.try_recv().unwrap();
                // What was there before the batch can be read; the batch itself perhaps.
                let found = read_all(&life.handle, &mut self.dice);
                let expected = if found.revision == self.model.revision && found.oldest == self.model.oldest {
                    &self.model
                } else {
                    &after
                };
                assert_same(&found, expected);
            }
            self.model = after;
            return true;
        }
        self.tally.stopped.fetch_add(1, Ordering::Relaxed);
        let mut answers: Vec<Error> = answers.into_iter().map(Result::unwrap_err).collect();
        answers.extend(compacted.map(Result::unwrap_err));
        for answer in &answers {
            match answer {
                Error::UnknownOutcome(_) => self.in_doubt = Some(after.clone()),
                Error::NoSpace(_) | Error::WritesStopped { .. } | Error::Closed => {}
                other => panic!("{other:?}"),
            }
        }
        // While there is power, reads go on, and show what was acknowledged and nothing else.
        if self.disk.is_powered() {
            if let Err(error) = life.handle.database() {
                panic!("no reads: {error:?}, and once more: {:?}", life.handle.freeze(None));
            }
            assert_same(&read_all(&life.handle, &mut self.dice), &self.model);
        }
        false
    }

    /// The process ends, with or without the machine.
    fn end(&mut self) {
        if self.dice.once_in(3) && self.disk.is_powered() {
            self.disk.end_process();
        } else {
            self.disk.lose_power();
        }
    }
}

fn open(disk: &SimDisk) -> Result<(Handle, Result<Log, Error>), Error> {
    Handle::open(Box::new(disk.clone()), Path::new("simulated"), LIMITS)
}

fn txn(ops: Vec<Op>) -> (Command, oneshot::Receiver<Result<Revision, Error>>) {
    let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
    let (reply, answer) = oneshot::channel();
    (Command::Txn { ops, bytes: 0, waiting: (reply, permit) }, answer)
}

fn assert_answer(answer: Result<Revision, Error>, expected: &Answer) {
    match (answer, expected) {
        (Ok(revision), Ok(expected)) => assert_eq!(revision, *expected),
        (Err(Error::Conflict { key, .. }), Err(expected)) => assert_eq!(key, *expected),
        (answer, expected) => panic!("{answer:?} instead of {expected:?}"),
    }
}

/// Everything in the file, read the ways a client reads it, as a model; one past revision too.
fn read_all(handle: &Handle, dice: &mut Dice) -> Model {
    let snapshot = Snapshot::take(&handle.database().unwrap()).unwrap();
    let list = |at: Revision| {
        let page = snapshot.list("", None, PAGE_ITEMS_MAX, Some(at)).unwrap();
        page.items.into_iter().map(|kv: KeyValue| (kv.key.clone(), kv)).collect()
    };
    let (revision, oldest) = (snapshot.revision, snapshot.oldest);
    let mut found = Model { revision, oldest, current: list(revision), log: Default::default() };
    let mut after = oldest;
    while after < revision {
        let replay = snapshot.replay("", after, revision).unwrap();
        after = replay.through;
        found.log.extend(replay.batches.into_iter().map(|batch| (batch.revision, batch.events)));
    }
    assert!(found.log.keys().copied().eq(oldest + 1..=revision), "the history has no hole");
    let past = oldest + dice.next() % (revision - oldest + 1);
    assert!(found.at(past) == list(past), "the history and the state at {past} disagree");
    found
}

fn assert_same(found: &Model, expected: &Model) {
    if found == expected {
        return;
    }
    let summary = |m: &Model| {
        let keys: Vec<_> = m.current.values().map(|kv| (kv.key.clone(), kv.mod_revision)).collect();
        format!("revision {}, oldest {}, {keys:?}", m.revision, m.oldest)
    };
    panic!("found {}\nexpected {}", summary(found), summary(expected));
}

fn number_from(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

/// Plays one seed's rounds.
fn play(seed: u64, tally: &Tally) -> SimDisk {
    let mut world = World::new(seed, tally);
    for _ in 0..ROUNDS_PER_SEED {
        world.round();
    }
    world.disk
}

#[test]
fn nothing_acknowledged_is_lost_whatever_the_disk_does() {
    let only = number_from("GANTRY_STORE_SIM_SEED");
    let rounds = number_from("GANTRY_STORE_SIM_ROUNDS").unwrap_or(ROUNDS);
    let (first, last) = only.map_or((0, rounds.div_ceil(ROUNDS_PER_SEED)), |seed| (seed, seed + 1));
    let (tally, next) = (Tally::default(), AtomicU64::new(first));
    let workers = std::thread::available_parallelism().map_or(2, usize::from).min(16);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= last {
                        return;
                    }
                    if let Err(panic) = std::panic::catch_unwind(AssertUnwindSafe(|| play(seed, &tally))) {
                        println!("to see it again: GANTRY_STORE_SIM_SEED={seed} cargo test -p gantry-store simulation");
                        std::panic::resume_unwind(panic);
                    }
                }
            });
        }
    });
    let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
    println!(
        "{} rounds: {} transactions answered, {} commits failed, of those in doubt {} kept and {} lost, {} bad starts",
        count(&tally.rounds),
        count(&tally.acknowledged),
        count(&tally.stopped),
        count(&tally.in_doubt_kept),
        count(&tally.in_doubt_lost),
        count(&tally.failed_starts),
    );
    if only.is_none() {
        assert!(count(&tally.rounds) >= rounds);
        for happened in [&tally.stopped, &tally.in_doubt_kept, &tally.in_doubt_lost, &tally.failed_starts] {
            assert!(count(happened) > rounds / 100, "too little went wrong: the test shows nothing");
        }
    }
}

#[test]
fn a_seed_gives_the_same_history_every_time() {
    let tally = Tally::default();
    for seed in [3, 1_000_003] {
        assert_eq!(play(seed, &tally).trace(), play(seed, &tally).trace(), "seed {seed}");
    }
}

/// What a start after a crash reads does not grow with what is stored.
#[test]
fn a_start_after_a_crash_reads_little() {
    let mut read = Vec::new();
    for megabytes in [4, 32] {
        let tally = Tally::default();
        let mut world = World::new(1, &tally);
        world.disk.set_capacity(1 << 30);
        let mut life = world.start();
        let value = Bytes::from(vec![7; 100_000]);
        for i in 0..megabytes {
            let mut batch = Batch::default();
            let put = |k| Op::Put { key: format!("{i:03}/{k}"), value: value.clone(), precondition: None };
            batch.add(txn((0..10).map(put).collect()).0);
            life.writer.commit(batch).unwrap();
        }
        world.disk.plan(Fault::Power, 5);
        let mut batch = Batch::default();
        batch.add(txn(vec![Op::Put { key: "last".to_owned(), value, precondition: None }]).0);
        assert!(life.writer.commit(batch).is_err());
        drop(life);
        world.disk.lose_power();
        let before = world.disk.read_bytes();
        let (handle, log) = open(&world.disk).unwrap();
        assert!(log.is_ok());
        read.push(world.disk.read_bytes() - before);
        assert_eq!(Snapshot::take(&handle.database().unwrap()).unwrap().revision, 1 + megabytes);
    }
    println!("read at a start after a crash with 4 MB and 32 MB stored: {read:?} bytes");
    assert!(read[1] < 1 << 20, "{read:?}");
    assert!(read[1] < 2 * read[0], "{read:?}");
}
