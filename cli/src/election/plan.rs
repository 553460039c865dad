//! Who leads, decided purely. In: the lease as it was read or written, and the time. Out: what to do with it next.
//!
//! The protocol is that of client-go's leader election, so that Gantry's components and Kubernetes' own respect each other.
//! No clock but the local monotonic one is trusted: a candidate waits until it has itself seen no change of the
//! lease for as long as the holder asked for, whatever times are written in it; and a holder counts its term from before
//! it sent the write that renewed it. So clocks may be wrong, but must run at about the same speed.

use std::time::Duration;

use jiff::Timestamp;

/// How long things take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How long others wait, after the last change they saw, before they take the lease.
    pub lease_duration: Duration,
    /// How long the holder goes on without being able to renew it.
    pub renew_deadline: Duration,
    /// How long between two tries.
    pub retry_period: Duration,
}

/// The most that a pause between two tries is stretched by at random, as a factor.
pub const JITTER_MAX: f64 = 1.2;

impl Timing {
    /// Whether the times can keep two from leading at once.
    ///
    /// # Errors
    /// The rule that is broken, in the flags' names.
    pub fn check(&self) -> Result<(), String> {
        let Timing { lease_duration, renew_deadline, retry_period } = *self;
        if lease_duration < Duration::from_secs(1) || retry_period.is_zero() {
            return Err(
                "--leader-elect-lease-duration must be at least 1s and --leader-elect-retry-period more than 0"
                    .to_owned(),
            );
        }
        if lease_duration <= renew_deadline {
            return Err(format!(
                "--leader-elect-lease-duration ({lease_duration:?}) must be longer than --leader-elect-renew-deadline ({renew_deadline:?})"
            ));
        }
        if renew_deadline <= retry_period.mul_f64(JITTER_MAX) {
            return Err(format!(
                "--leader-elect-renew-deadline ({renew_deadline:?}) must be longer than {JITTER_MAX} times --leader-elect-retry-period ({retry_period:?})"
            ));
        }
        Ok(())
    }
}

/// What a lease says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Who holds it; empty when it was released.
    pub holder: String,
    /// How long others wait before they take it.
    pub lease_seconds: i32,
    /// When its holder got it.
    pub acquired: Timestamp,
    /// When its holder last said that it is there.
    pub renewed: Timestamp,
    /// How often it changed hands.
    pub transitions: i32,
}

/// A lease and the version it was read or written at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    /// What it says.
    pub record: Record,
    /// Its resourceVersion.
    pub version: String,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Move {
    /// Read the lease and say what was found with [`Elector::seen`].
    Read,
    /// Create the lease, and say so with [`Elector::written`] if it works.
    Create(Record),
    /// Replace the lease if it still has this version, and say so with [`Elector::written`] if it works.
    Replace(Versioned),
    /// Somebody else holds it: wait for the next try.
    Wait,
}

/// What one candidate knows. Times are of the local monotonic clock.
#[derive(Clone, Debug)]
pub struct Elector {
    identity: String,
    timing: Timing,
    /// The lease as last seen, and when a change of it was last seen.
    observed: Option<(Versioned, Duration)>,
    /// While leading: when the write was begun that got or renewed the lease.
    renewed: Option<Duration>,
}

impl Elector {
    /// A candidate that has seen nothing yet.
    pub fn new(identity: impl Into<String>, timing: Timing) -> Self {
        Self { identity: identity.into(), timing, observed: None, renewed: None }
    }

    /// Who holds the lease as far as is known; none if nobody does.
    pub fn holder(&self) -> Option<&str> {
        self.observed.as_ref().map(|(seen, _)| seen.record.holder.as_str()).filter(|holder| !holder.is_empty())
    }

    /// Until when this candidate may act as the leader, unless it renews the lease before; none if it does not lead.
    pub fn leads_until(&self) -> Option<Duration> {
        self.renewed.map(|renewed| renewed + self.timing.renew_deadline)
    }

    /// Whether it may act at `now`.
    pub fn leads(&self, now: Duration) -> bool {
        self.leads_until().is_some_and(|until| now < until)
    }

    /// How a try begins: a leader renews what it wrote last without reading it, all others look.
    pub fn begin(&self, now: Duration, wall: Timestamp) -> Move {
        match &self.observed {
            Some((seen, _)) if self.leads(now) => {
                Move::Replace(Versioned { record: self.mine(Some(&seen.record), wall), version: seen.version.clone() })
            }
            _ => Move::Read,
        }
    }

    /// What to do about the lease as it was read.
    pub fn seen(&mut self, found: Option<Versioned>, now: Duration, wall: Timestamp) -> Move {
        let Some(found) = found else {
            self.observed = None;
            self.renewed = None;
            return Move::Create(self.mine(None, wall));
        };
        // Only what is in the record counts as a sign of life: others may touch the object's metadata.
        let changed = self.observed.as_ref().is_none_or(|(seen, _)| seen.record != found.record);
        let since = match &self.observed {
            Some((_, since)) if !changed => *since,
            _ => now,
        };
        let record = &found.record;
        let is_mine = record.holder == self.identity;
        let waits = Duration::from_secs(u64::try_from(record.lease_seconds).unwrap_or(0));
        let is_over = record.holder.is_empty() || now >= since + waits;
        let step = if is_mine || is_over {
            Move::Replace(Versioned { record: self.mine(Some(record), wall), version: found.version.clone() })
        } else {
            Move::Wait
        };
        if !is_mine {
            self.renewed = None;
        }
        self.observed = Some((found, since));
        step
    }

    /// A write that was begun at `began` worked: this candidate leads.
    pub fn written(&mut self, written: Versioned, began: Duration) {
        self.observed = Some((written, began));
        self.renewed = Some(began);
    }

    /// It leads no longer, whatever the lease says.
    pub fn step_down(&mut self) {
        self.renewed = None;
    }

    /// What a holder leaves behind that wants another to take over at once; none if somebody else holds it.
    pub fn release(&self, found: &Versioned, wall: Timestamp) -> Option<Versioned> {
        let Versioned { record, version } = found;
        (record.holder == self.identity).then(|| Versioned {
            record: Record {
                holder: String::new(),
                lease_seconds: 1,
                acquired: wall,
                renewed: wall,
                transitions: record.transitions,
            },
            version: version.clone(),
        })
    }

    /// The record with which this candidate holds the lease that was `before`.
    fn mine(&self, before: Option<&Record>, wall: Timestamp) -> Record {
        let (acquired, transitions) = match before {
            None => (wall, 0),
            Some(before) if before.holder == self.identity => (before.acquired, before.transitions),
            Some(before) => (wall, before.transitions.saturating_add(1)),
        };
        let lease_seconds = i32::try_from(self.timing.lease_duration.as_secs()).unwrap_or(i32::MAX);
        Record { holder: self.identity.clone(), lease_seconds, acquired, renewed: wall, transitions }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMING: Timing = Timing {
        lease_duration: Duration::from_secs(15),
        renew_deadline: Duration::from_secs(10),
        retry_period: Duration::from_secs(2),
    };

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn wall(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }

    fn held(holder: &str, renewed: i64, transitions: i32, version: &str) -> Versioned {
        let record = Record {
            holder: holder.to_owned(),
            lease_seconds: if holder.is_empty() { 1 } else { 15 },
            acquired: wall(0),
            renewed: wall(renewed),
            transitions,
        };
        Versioned { record, version: version.to_owned() }
    }

    /// Does what a move says at once; the version written.
    fn carry_out(elector: &mut Elector, step: Move, now: Duration) -> Versioned {
        let written = match step {
            Move::Create(record) => Versioned { record, version: "1".into() },
            Move::Replace(Versioned { record, version }) => {
                Versioned { record, version: (version.parse::<u64>().unwrap() + 1).to_string() }
            }
            other => panic!("nothing to write: {other:?}"),
        };
        elector.written(written.clone(), now);
        written
    }

    #[test]
    fn the_first_candidate_creates_the_lease_and_renews_it_without_reading() {
        let mut a = Elector::new("a", TIMING);
        assert_eq!(a.begin(at(0), wall(0)), Move::Read);
        let create = a.seen(None, at(0), wall(0));
        let first = carry_out(&mut a, create, at(0));
        assert_eq!((first.record.holder.as_str(), first.record.lease_seconds, first.record.transitions), ("a", 15, 0));
        assert!(a.leads(at(9)) && !a.leads(at(10)), "to the renew deadline and not beyond");
        let Move::Replace(renewal) = a.begin(at(2), wall(2)) else { panic!("a leader renews") };
        assert_eq!(renewal, held("a", 2, 0, "1"));
        carry_out(&mut a, Move::Replace(renewal), at(2));
        assert_eq!(a.leads_until(), Some(at(12)));
    }

    #[test]
    fn another_waits_for_the_full_lease_after_the_last_change_it_saw_whatever_the_clocks_say() {
        let mut b = Elector::new("b", TIMING);
        // The holder's clock is an hour behind, then an hour ahead.
        assert_eq!(b.seen(Some(held("a", -3600, 0, "5")), at(100), wall(0)), Move::Wait);
        assert_eq!(b.seen(Some(held("a", 3600, 0, "6")), at(110), wall(10)), Move::Wait);
        assert_eq!(b.seen(Some(held("a", 3600, 0, "6")), at(124), wall(24)), Move::Wait);
        assert_eq!(b.holder(), Some("a"));
        let Move::Replace(taken) = b.seen(Some(held("a", 3600, 0, "6")), at(125), wall(25)) else {
            panic!("it is over")
        };
        assert_eq!((taken.version.as_str(), taken.record.holder.as_str(), taken.record.transitions), ("6", "b", 1));
        assert_eq!((taken.record.acquired, taken.record.renewed), (wall(25), wall(25)));
    }

    #[test]
    fn a_change_of_metadata_is_no_sign_of_life() {
        let mut b = Elector::new("b", TIMING);
        assert_eq!(b.seen(Some(held("a", 0, 0, "5")), at(0), wall(0)), Move::Wait);
        assert_eq!(b.seen(Some(held("a", 0, 0, "6")), at(10), wall(10)), Move::Wait);
        assert!(matches!(b.seen(Some(held("a", 0, 0, "7")), at(15), wall(15)), Move::Replace(_)));
    }

    #[test]
    fn a_released_lease_is_taken_at_once() {
        let mut a = Elector::new("a", TIMING);
        let create = a.seen(None, at(0), wall(0));
        let mine = carry_out(&mut a, create, at(0));
        let released = a.release(&mine, wall(3)).unwrap();
        assert_eq!((released.record.holder.as_str(), released.record.lease_seconds), ("", 1));
        let mut b = Elector::new("b", TIMING);
        let step = b.seen(Some(Versioned { version: "2".into(), ..released }), at(0), wall(3));
        assert_eq!(carry_out(&mut b, step, at(0)).record.transitions, 1);
        assert_eq!(a.release(&held("b", 3, 1, "3"), wall(4)), None, "what another holds is not released");
    }

    #[test]
    fn who_sees_another_holder_leads_no_more() {
        let mut a = Elector::new("a", TIMING);
        let create = a.seen(None, at(0), wall(0));
        carry_out(&mut a, create, at(0));
        assert_eq!(a.seen(Some(held("b", 1, 1, "2")), at(1), wall(1)), Move::Wait);
        assert!(!a.leads(at(1)));
        assert_eq!(a.begin(at(2), wall(2)), Move::Read);
    }

    #[test]
    fn a_holder_that_finds_its_own_lease_goes_on_with_it() {
        let mut again = Elector::new("a", TIMING);
        let Move::Replace(renewal) = again.seen(Some(held("a", 0, 4, "9")), at(0), wall(1)) else {
            panic!("it is its own")
        };
        assert_eq!((renewal.record.transitions, renewal.record.acquired), (4, wall(0)));
    }

    #[test]
    fn times_that_would_let_two_lead_are_refused() {
        let times = |lease, renew, retry| {
            Timing { lease_duration: at(lease), renew_deadline: at(renew), retry_period: at(retry) }.check()
        };
        assert_eq!(times(15, 10, 2), Ok(()));
        for (lease, renew, retry) in [(10, 10, 2), (15, 2, 2), (0, 0, 0), (15, 10, 0)] {
            assert!(times(lease, renew, retry).is_err(), "{lease} {renew} {retry}");
        }
    }

    /// Many candidates on one lease, each with a clock of its own, requests that get lost before or after they took effect,
    /// and processes that stall: at no moment do two of them lead.
    #[test]
    fn never_do_two_lead_at_once() {
        for seed in 0..300u64 {
            let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
            let mut chance = |of: u64| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random % of
            };
            let mut stored: Option<Versioned> = None;
            let mut electors: Vec<Elector> = (0..4).map(|n| Elector::new(n.to_string(), TIMING)).collect();
            let skews: Vec<(u64, i64)> = (0..4).map(|_| (chance(1_000), chance(7_200) as i64 - 3_600)).collect();
            let (mut stalled_until, mut next_try) = ([0u64; 4], [0u64; 4]);
            let mut terms = 0;
            for now in 0..4_000u64 {
                for n in 0..electors.len() {
                    if now < next_try[n] || now < stalled_until[n] {
                        continue;
                    }
                    next_try[n] = now + 2;
                    if chance(60) == 0 {
                        stalled_until[n] = now + chance(40);
                    }
                    let (local, clock) = (Duration::from_secs(now + skews[n].0), wall(now as i64 + skews[n].1));
                    let lost = chance(8);
                    let mut step = electors[n].begin(local, clock);
                    if step == Move::Read {
                        if lost == 0 {
                            continue;
                        }
                        step = electors[n].seen(stored.clone(), local, clock);
                    }
                    let (record, expected) = match step {
                        Move::Wait | Move::Read => continue,
                        Move::Create(record) => (record, None),
                        Move::Replace(Versioned { record, version }) => (record, Some(version)),
                    };
                    if lost == 1 || expected.as_deref() != stored.as_ref().map(|seen| seen.version.as_str()) {
                        // Lost on the way, or refused as a conflict; the next try reads again if it no longer leads.
                        let again = electors[n].seen(stored.clone(), local, clock);
                        drop(again);
                        continue;
                    }
                    let version = expected.map_or(1, |version| version.parse::<u64>().unwrap() + 1).to_string();
                    let written = Versioned { record, version };
                    stored = Some(written.clone());
                    if lost != 2 {
                        terms += u32::from(!electors[n].leads(local));
                        electors[n].written(written, local);
                    }
                }
                let leaders: Vec<usize> = (0..electors.len())
                    .filter(|n| electors[*n].leads(Duration::from_secs(now + skews[*n].0)))
                    .collect();
                assert!(leaders.len() <= 1, "seed {seed}, second {now}: {leaders:?} lead, {stored:?}");
            }
            assert!(terms > 1, "seed {seed}: the lease never changed hands");
        }
    }
}
