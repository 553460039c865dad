//! Whose turn it is to have moves looked for: a look can be about so many pods only, and those whom none helped must not keep
//! the others from theirs.

use std::collections::{HashMap, HashSet};

use crate::core::PodKey;

/// Kinds of pods that wait for which moves are looked for at once. Of pods that are alike all are helped or none.
const KINDS_MAX: usize = 32;

/// Which pods that wait were looked at in vain, and when: no more than there are pods that wait for nothing but room.
#[derive(Clone, Debug, Default)]
pub struct Turns {
    looks: u64,
    in_vain: HashMap<PodKey, u64>,
}

impl Turns {
    /// Of those that wait, the most important first, which are to be looked at: those that were not looked at in vain, and
    /// then those for whom that is the longest ago. `most` of each kind at most, since each takes a move at least.
    pub fn choose(
        &self,
        mut waiting: Vec<PodKey>,
        most: usize,
        are_alike: impl Fn(PodKey, PodKey) -> bool,
    ) -> Vec<PodKey> {
        waiting.sort_by_key(|pod| self.in_vain.get(pod).copied());
        let mut kinds: Vec<(PodKey, usize)> = Vec::new();
        waiting.retain(|pod| match kinds.iter().position(|(first, _)| are_alike(*first, *pod)) {
            Some(index) => {
                kinds[index].1 += 1;
                kinds[index].1 <= most
            }
            None if kinds.len() < KINDS_MAX => {
                kinds.push((*pod, 1));
                true
            }
            None => false,
        });
        waiting
    }

    /// A look is over: who waited when it began, and whom of these no moves help.
    pub fn looked(&mut self, waiting: &[PodKey], in_vain: &[PodKey]) {
        let waiting: HashSet<&PodKey> = waiting.iter().collect();
        self.in_vain.retain(|pod, _| waiting.contains(pod));
        self.looks += 1;
        self.in_vain.extend(in_vain.iter().map(|pod| (*pod, self.looks)));
    }

    /// What was found for a pod did not come about.
    pub fn failed(&mut self, pod: PodKey) {
        self.in_vain.insert(pod, self.looks);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pods(numbers: impl IntoIterator<Item = u128>) -> Vec<PodKey> {
        numbers.into_iter().map(PodKey).collect()
    }

    #[test]
    fn those_whom_nothing_helps_give_way_and_have_their_turn_again() {
        let (mut turns, waiting) = (Turns::default(), pods(0..70));
        let different = |_, _| false;
        let look = |turns: &mut Turns| {
            let chosen = turns.choose(waiting.clone(), 4, different);
            turns.looked(&waiting, &chosen);
            chosen
        };
        assert_eq!(look(&mut turns), pods(0..32), "the most important first");
        assert_eq!(look(&mut turns), pods(32..64));
        assert_eq!(look(&mut turns), pods((64..70).chain(0..26)), "who never was, and then who was first");
        assert_eq!(look(&mut turns), pods((26..32).chain(32..58)));
    }

    #[test]
    fn only_those_that_were_looked_at_in_vain_give_way() {
        let (mut turns, waiting) = (Turns::default(), pods(0..40));
        let different = |_, _| false;
        turns.looked(&waiting, &pods([1]));
        let chosen = turns.choose(waiting.clone(), 4, different);
        assert_eq!(chosen, pods([0].into_iter().chain(2..33)), "nobody got as far as the others");
        turns.failed(PodKey(0));
        assert_eq!(turns.choose(waiting, 4, different)[0], PodKey(2));
        // Who waits no more is forgotten.
        turns.looked(&pods([5]), &[]);
        assert_eq!(turns.choose(pods([0, 1, 5]), 4, different), pods([0, 1, 5]));
    }

    #[test]
    fn those_that_are_alike_have_one_place() {
        let turns = Turns::default();
        // A thousand of one kind, and then forty others.
        let alike = |one: PodKey, other: PodKey| one.0 < 1_000 && other.0 < 1_000;
        let chosen = turns.choose(pods(0..1_040), 3, alike);
        assert_eq!(chosen, pods((0..3).chain(1_000..1_031)));
    }
}
