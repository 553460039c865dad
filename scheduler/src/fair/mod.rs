//! Queues that share a cluster: whose pod is next, who has come to a limit, and who has to give back what is another's.
//!
//! Queues form a tree. What a queue uses is what its pods and those of the queues below it ask for. Its *share* is the
//! largest part that this is of anything in the cluster (its dominant resource), divided by its weight. Of the queues side
//! by side the next pod comes from one that is below all of its guarantee, if there is one, and then from the one with the
//! smallest share: dominant-resource fairness, level by level.
//!
//! Pure, and deterministic. A change costs a few steps for each level above it; a decision looks at one queue a level.

mod links;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::core::{Demand, ResourceId};

/// Amounts by resource.
pub type Amounts = BTreeMap<ResourceId, i64>;

/// What is thought away, by queue.
pub type Taken = BTreeMap<QueueId, Amounts>;

/// Queues below each other, at most.
pub const DEPTH_MAX: usize = 16;

/// Shares are counted in billionths of the cluster.
pub const WHOLE_SHARE: u64 = 1_000_000_000;

/// A queue that is known, or that someone names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueId(u32);

/// Above all queues.
const ROOT: QueueId = QueueId(0);

/// What a queue asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueSpec {
    /// The queue above it.
    pub parent: Option<String>,
    /// Its part among the queues beside it is in proportion to this; at least one.
    pub weight: u32,
    /// So much of each of these can always be had back from others that have more than theirs.
    pub guarantee: Amounts,
    /// It gets no more of each of these.
    pub limit: Amounts,
}

/// Why no pod of a queue can be placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// There is no such queue.
    Missing(Arc<str>),
    /// The queue is above itself.
    Cycle(Arc<str>),
    /// There are too many queues above it.
    TooDeep(Arc<str>),
    /// There are queues below it.
    NotLast(Arc<str>),
}

/// What keeps a pod from being placed, whatever the nodes say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Block {
    /// Its queue, or one above it, is not as it should be.
    Fault(Fault),
    /// A queue would get more than its limit.
    Limit {
        /// The queue.
        queue: Arc<str>,
        /// Of this resource.
        resource: ResourceId,
        /// It uses so much.
        used: i64,
        /// The pod asks for so much.
        wanted: i64,
        /// It may have so much.
        limit: i64,
    },
}

/// By what queues side by side are compared: the smallest is next. Names decide between equals, not which one was heard
/// of first: that is another one after each start.
type Rank = (bool, u64, Arc<str>, QueueId);

#[derive(Clone, Debug)]
struct Line<T, P> {
    name: Arc<str>,
    spec: Option<QueueSpec>,
    /// The queue above it as things are.
    above: QueueId,
    fault: Option<Fault>,
    below: BTreeSet<QueueId>,
    used: Amounts,
    /// Its own pods that have nodes.
    placed: usize,
    /// Its own pods that wait, in whatever way.
    waiting: usize,
    /// Its own pods that are to be tried.
    ready: BTreeMap<T, P>,
    /// The queues below it with pods that are to be tried.
    next: BTreeSet<Rank>,
    /// Where it is in that of the queue above.
    rank: Option<Rank>,
}

impl<T: Ord, P> Line<T, P> {
    fn new(name: Arc<str>) -> Self {
        Line {
            name,
            spec: None,
            above: ROOT,
            fault: None,
            below: BTreeSet::new(),
            used: Amounts::new(),
            placed: 0,
            waiting: 0,
            ready: BTreeMap::new(),
            next: BTreeSet::new(),
            rank: None,
        }
    }

    fn is_ready(&self) -> bool {
        !self.ready.is_empty() || !self.next.is_empty()
    }

    fn guarantee(&self, resource: ResourceId) -> i64 {
        let spec = self.spec.as_ref();
        spec.and_then(|spec| spec.guarantee.get(&resource)).copied().unwrap_or(0)
    }

    fn used(&self, resource: ResourceId) -> i64 {
        self.used.get(&resource).copied().unwrap_or(0)
    }
}

/// All queues. `T` orders the pods of one queue, `P` is a pod.
#[derive(Clone, Debug)]
pub struct Tree<T, P> {
    lines: Vec<Line<T, P>>,
    ids: HashMap<Arc<str>, QueueId>,
    free: Vec<QueueId>,
    /// Who names a queue as the one above, by that name.
    naming: BTreeMap<Arc<str>, BTreeSet<QueueId>>,
    capacity: Amounts,
    /// The ranks are of another capacity.
    is_stale: bool,
    /// Queues in which there may be more room than before, or which are not as they were.
    loosened: BTreeSet<QueueId>,
    /// During an attempt that may be taken back: what those queues used before it that use something else since.
    supposed: Option<BTreeMap<QueueId, Amounts>>,
    /// Queues of which something else is to be told.
    changed: BTreeSet<QueueId>,
}

impl<T: Ord + Copy, P: Copy> Default for Tree<T, P> {
    fn default() -> Self {
        Tree {
            lines: vec![Line::new("".into())],
            ids: HashMap::new(),
            free: Vec::new(),
            naming: BTreeMap::new(),
            capacity: Amounts::new(),
            is_stale: false,
            loosened: BTreeSet::new(),
            supposed: None,
            changed: BTreeSet::new(),
        }
    }
}

/// What a pod asks for, itself among it.
pub fn asked(demand: &Demand) -> impl Iterator<Item = (ResourceId, i64)> + '_ {
    demand.requests.iter().copied().chain([(ResourceId::PODS, 1)])
}

impl<T: Ord + Copy, P: Copy> Tree<T, P> {
    fn line(&self, id: QueueId) -> &Line<T, P> {
        &self.lines[id.0 as usize]
    }

    fn line_mut(&mut self, id: QueueId) -> &mut Line<T, P> {
        &mut self.lines[id.0 as usize]
    }

    /// A queue and those above it, from below.
    fn path(&self, id: QueueId) -> impl Iterator<Item = QueueId> + '_ {
        let above = move |id: &QueueId| Some(self.line(*id).above).filter(|above| *above != ROOT);
        std::iter::successors(Some(id).filter(|id| *id != ROOT), above)
    }

    /// A queue's name.
    pub fn name(&self, id: QueueId) -> &Arc<str> {
        &self.line(id).name
    }

    /// What the nodes of the cluster can give together.
    pub fn set_capacity(&mut self, capacity: Amounts) {
        if self.capacity != capacity {
            self.capacity = capacity;
            self.is_stale = true;
            self.changed.extend(self.ids.values().copied());
        }
    }

    /// A pod of the queue begins to wait, or does so no more.
    pub fn waits(&mut self, id: QueueId, comes: bool) {
        let line = self.line_mut(id);
        line.waiting = if comes { line.waiting + 1 } else { line.waiting.saturating_sub(1) };
        self.changed.insert(id);
        self.tidy(id);
    }

    /// A pod of the queue gets a node.
    pub fn charge(&mut self, id: QueueId, demand: &Demand) {
        self.line_mut(id).placed += 1;
        self.add(id, demand, 1);
    }

    /// A pod of the queue leaves its node.
    pub fn release(&mut self, id: QueueId, demand: &Demand) {
        let line = self.line_mut(id);
        line.placed = line.placed.saturating_sub(1);
        self.add(id, demand, -1);
        if self.supposed.is_none() {
            let path: Vec<QueueId> = self.path(id).collect();
            self.loosened.extend(path);
        }
        self.tidy(id);
    }

    /// An attempt begins in which pods get nodes and may lose them again: what it only takes back makes no room for
    /// anyone. Otherwise whoever is held back would be tried after it, take back what it got, and be tried again.
    pub fn suppose(&mut self) {
        self.supposed.get_or_insert_default();
    }

    /// The attempt has ended: queues that use less of something than before it have more room.
    pub fn conclude(&mut self) {
        for (id, before) in self.supposed.take().unwrap_or_default() {
            if before.iter().any(|(resource, used)| self.line(id).used(*resource) < *used) {
                self.loosened.insert(id);
            }
        }
    }

    fn add(&mut self, id: QueueId, demand: &Demand, sign: i64) {
        let path: Vec<QueueId> = self.path(id).collect();
        for id in path {
            if let Some(supposed) = &mut self.supposed {
                supposed.entry(id).or_insert_with(|| self.lines[id.0 as usize].used.clone());
            }
            let line = self.line_mut(id);
            for (resource, amount) in asked(demand) {
                let used = line.used.entry(resource).or_default();
                *used += sign * amount;
                if *used == 0 {
                    line.used.remove(&resource);
                }
            }
            self.changed.insert(id);
            self.rank(id);
        }
    }

    /// The largest part that what the queue uses is of anything, in billionths; not weighted.
    pub fn share(&self, id: QueueId) -> u64 {
        let part = |(resource, used): (&ResourceId, &i64)| {
            // Where there is none of it, to use some is to use all.
            let all = u128::try_from(*self.capacity.get(resource).unwrap_or(&0)).unwrap_or(0).max(1);
            let used = u128::try_from(*used).unwrap_or(0);
            u64::try_from(used * u128::from(WHOLE_SHARE) / all).unwrap_or(u64::MAX)
        };
        let counted = self.line(id).used.iter().filter(|(resource, _)| **resource != ResourceId::PODS);
        counted.map(part).max().unwrap_or(0)
    }

    fn rank_of(&self, id: QueueId) -> Rank {
        let line = self.line(id);
        let weight = line.spec.as_ref().map_or(1, |spec| spec.weight.max(1));
        let guarantee = line.spec.as_ref().map(|spec| &spec.guarantee).filter(|guarantee| !guarantee.is_empty());
        let is_short = guarantee.is_some_and(|all| all.iter().all(|(resource, amount)| line.used(*resource) < *amount));
        (!is_short, self.share(id) / u64::from(weight), line.name.clone(), id)
    }

    /// Brings the queue's place among those beside it up to date.
    fn rank(&mut self, id: QueueId) {
        let wanted = self.line(id).is_ready().then(|| self.rank_of(id));
        let before = std::mem::replace(&mut self.line_mut(id).rank, wanted.clone());
        if before == wanted {
            return;
        }
        let above = self.line(id).above;
        let next = &mut self.line_mut(above).next;
        if let Some(before) = before {
            next.remove(&before);
        }
        next.extend(wanted);
    }

    /// The same for all above it, as long as that matters to them.
    fn rank_up(&mut self, id: QueueId) {
        let path: Vec<QueueId> = self.path(id).collect();
        for id in path {
            self.rank(id);
        }
    }

    /// A pod of the queue is to be tried.
    pub fn push(&mut self, id: QueueId, turn: T, pod: P) {
        self.line_mut(id).ready.insert(turn, pod);
        self.rank_up(id);
    }

    /// A pod of the queue is not to be tried now.
    pub fn remove(&mut self, id: QueueId, turn: T) -> Option<P> {
        let pod = self.line_mut(id).ready.remove(&turn);
        if pod.is_some() {
            self.rank_up(id);
        }
        pod
    }

    /// The queue whose pod is next, and when it is that pod's turn.
    pub fn first(&mut self) -> Option<(QueueId, T)> {
        if std::mem::take(&mut self.is_stale) {
            let ranked: Vec<QueueId> = self.ids.values().copied().filter(|id| self.line(*id).rank.is_some()).collect();
            ranked.into_iter().for_each(|id| self.rank(id));
        }
        let mut id = ROOT;
        loop {
            let line = self.line(id);
            match (line.ready.keys().next(), line.next.first()) {
                // Pods that wait where they should not are told so at once.
                (Some(turn), _) => return Some((id, *turn)),
                (None, Some((.., below))) => id = *below,
                (None, None) => return None,
            }
        }
    }

    /// What keeps a pod of the queue from being placed, and where.
    pub fn block(&self, id: QueueId, demand: &Demand) -> Option<(QueueId, Block)> {
        if let Some(fault) = self.fault(id) {
            return Some((id, Block::Fault(fault)));
        }
        self.path(id).find_map(|id| {
            let (resource, wanted, limit) = self.exceeds(id, demand)?;
            let (queue, used) = (self.line(id).name.clone(), self.line(id).used(resource));
            Some((id, Block::Limit { queue, resource, used, wanted, limit }))
        })
    }

    fn exceeds(&self, id: QueueId, demand: &Demand) -> Option<(ResourceId, i64, i64)> {
        let line = self.line(id);
        let limit = &line.spec.as_ref()?.limit;
        let mut asked = asked(demand);
        asked.find_map(|(resource, wanted)| {
            let limit = *limit.get(&resource)?;
            (wanted > 0 && line.used(resource) + wanted > limit).then_some((resource, wanted, limit))
        })
    }

    /// What is wrong with a queue, as its pods see it.
    pub fn fault(&self, id: QueueId) -> Option<Fault> {
        let line = self.line(id);
        if line.spec.is_none() {
            return Some(Fault::Missing(line.name.clone()));
        }
        let above = self.path(id).find_map(|id| self.line(id).fault.clone());
        above.or_else(|| (!line.below.is_empty()).then(|| Fault::NotLast(line.name.clone())))
    }

    /// Would all that is asked for of what is guaranteed to the queue be within that?
    fn is_within_guarantee(&self, id: QueueId, demand: &Demand, taken: &Taken) -> bool {
        let line = self.line(id);
        let mut listed = asked(demand).filter(|(resource, amount)| line.guarantee(*resource) > 0 && *amount > 0);
        let Some(first) = listed.next() else { return false };
        std::iter::once(first)
            .chain(listed)
            .all(|(resource, amount)| self.left(id, resource, taken) + amount <= line.guarantee(resource))
    }

    /// What the queue uses without what is thought away.
    fn left(&self, id: QueueId, resource: ResourceId, taken: &Taken) -> i64 {
        let taken = taken.get(&id).and_then(|taken| taken.get(&resource)).copied().unwrap_or(0);
        self.line(id).used(resource) - taken
    }

    /// May the pod of a queue have back what others have beyond their guarantee?
    pub fn may_reclaim(&self, id: QueueId, demand: &Demand, taken: &Taken) -> bool {
        self.path(id).any(|id| self.is_within_guarantee(id, demand, taken))
    }

    /// Does a queue have what is another's, on every level below the one that both are under? Only what the asker wants and
    /// is guaranteed counts.
    pub fn owes(&self, from: QueueId, to: QueueId, demand: &Demand) -> bool {
        self.owes_without(from, to, demand, &Taken::new())
    }

    /// The same as [`Self::owes`], with some pods thought away.
    pub fn owes_without(&self, from: QueueId, to: QueueId, demand: &Demand, taken: &Taken) -> bool {
        let mut up: Vec<QueueId> = self.path(to).collect();
        let mut down: Vec<QueueId> = self.path(from).collect();
        while up.last().is_some() && up.last() == down.last() {
            up.pop();
            down.pop();
        }
        let Some(entitled) = up.last().copied().filter(|id| self.is_within_guarantee(*id, demand, taken)) else {
            return false;
        };
        let wanted: Vec<ResourceId> = asked(demand)
            .filter(|(resource, amount)| *amount > 0 && self.line(entitled).guarantee(*resource) > 0)
            .map(|(resource, _)| resource)
            .collect();
        let borrows = |id: &QueueId| {
            let line = self.line(*id);
            wanted.iter().any(|resource| self.left(*id, *resource, taken) > line.guarantee(*resource))
        };
        !down.is_empty() && down.iter().all(borrows)
    }

    /// Does a pod that one queue has on a node stand within what is guaranteed on its side of where both queues part? It
    /// could have its room back, whoever took it: nobody takes it, or two queues would take the same room in turns.
    pub fn stands(&self, own: QueueId, other: QueueId, demand: &Demand, taken: &Taken) -> bool {
        // The last queue on the way up that is not above the other one, too.
        let Some(side) = self.path(own).take_while(|id| !self.is_under(other, *id)).last() else { return false };
        let line = self.line(side);
        // Its own use is in the sums already.
        let mut listed =
            asked(demand).filter(|(resource, amount)| line.guarantee(*resource) > 0 && *amount > 0).peekable();
        listed.peek().is_some()
            && listed.all(|(resource, _)| self.left(side, resource, taken) <= line.guarantee(resource))
    }

    /// Thinks a pod of the queue away.
    pub fn take(&self, id: QueueId, demand: &Demand, taken: &mut Taken) {
        self.think(id, demand, 1, taken);
    }

    /// Thinks of a pod as if it had a node already.
    pub fn give(&self, id: QueueId, demand: &Demand, taken: &mut Taken) {
        self.think(id, demand, -1, taken);
    }

    fn think(&self, id: QueueId, demand: &Demand, sign: i64, taken: &mut Taken) {
        for id in self.path(id) {
            let sums = taken.entry(id).or_default();
            for (resource, amount) in asked(demand) {
                *sums.entry(resource).or_default() += sign * amount;
            }
        }
    }

    /// Does the queue, or one above it, have a guarantee and no more than that?
    pub fn is_within(&self, id: QueueId) -> bool {
        let within = |line: &Line<T, P>| {
            let guarantee = line.spec.as_ref().map(|spec| &spec.guarantee).filter(|all| !all.is_empty());
            guarantee.is_some_and(|all| all.iter().all(|(resource, amount)| line.used(*resource) <= *amount))
        };
        self.path(id).any(|id| within(self.line(id)))
    }

    /// The queues with pods on nodes that owe something to one that asks, those with the largest share first.
    pub fn debtors(&self, to: QueueId, demand: &Demand, taken: &Taken) -> Vec<QueueId> {
        let mut found = Vec::new();
        // From the top down: what is below a queue that owes nothing owes nothing either.
        let mut open: Vec<QueueId> = self.path(to).chain([ROOT]).flat_map(|id| self.line(id).below.clone()).collect();
        let on_path: BTreeSet<QueueId> = self.path(to).collect();
        open.retain(|id| !on_path.contains(id));
        while let Some(id) = open.pop() {
            if self.owes_without(id, to, demand, taken) {
                if self.line(id).placed > 0 {
                    found.push(id);
                }
                open.extend(self.line(id).below.iter().copied());
            }
        }
        found.sort_unstable_by_key(|id| (Reverse(self.share(*id)), self.name(*id).clone()));
        found
    }

    /// Are there queues in which there may be more room than before, or which are not as they were?
    pub fn is_loosened(&self) -> bool {
        !self.loosened.is_empty()
    }

    /// The same queues, once, by name.
    pub fn take_loosened(&mut self) -> Vec<QueueId> {
        let mut loosened: Vec<QueueId> = std::mem::take(&mut self.loosened).into_iter().collect();
        loosened.sort_unstable_by(|one, other| self.name(*one).cmp(self.name(*other)));
        loosened
    }

    /// A pod of the queue found no node: others that are held back may have the room.
    pub fn passed(&mut self, id: QueueId) {
        let path: Vec<QueueId> = self.path(id).collect();
        self.loosened.extend(path);
    }

    /// Is the queue this one, or below it?
    pub fn is_under(&self, id: QueueId, above: QueueId) -> bool {
        self.path(id).any(|id| id == above)
    }

    /// How much more of what it limits the queue may have; `None` where something is wrong with it.
    pub fn headroom(&self, id: QueueId) -> Option<Amounts> {
        let line = self.line(id);
        let limit = &line.spec.as_ref()?.limit;
        Some(limit.iter().map(|(resource, limit)| (*resource, limit - line.used(*resource))).collect())
    }

    /// The queue is to be told of again.
    pub fn tell(&mut self, id: QueueId) {
        self.changed.insert(id);
    }

    /// Is something else to be told of any queue than before?
    pub fn is_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// The queues of which something else is to be told than when this was last asked.
    pub fn take_changed(&mut self) -> BTreeSet<QueueId> {
        std::mem::take(&mut self.changed)
    }

    /// What a queue uses, and how many pods of it have nodes and wait; `None` if there is no such queue.
    pub fn usage(&self, id: QueueId) -> Option<(&Amounts, usize, usize)> {
        let line = self.lines.get(id.0 as usize)?;
        line.spec.as_ref().map(|_| (&line.used, line.placed, line.waiting))
    }
}
