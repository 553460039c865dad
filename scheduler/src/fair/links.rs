//! How queues come, change, go, and are put below each other.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Amounts, DEPTH_MAX, Fault, Line, QueueId, QueueSpec, ROOT, Tree};

impl<T: Ord + Copy, P: Copy> Tree<T, P> {
    /// The queue of this name, whether or not there is one.
    pub fn id(&mut self, name: &str) -> QueueId {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        let name: Arc<str> = name.into();
        let id = match self.free.pop() {
            Some(id) => {
                *self.line_mut(id) = Line::new(name.clone());
                id
            }
            None => {
                self.lines.push(Line::new(name.clone()));
                QueueId(self.lines.len() as u32 - 1)
            }
        };
        self.ids.insert(name, id);
        self.line_mut(ROOT).below.insert(id);
        id
    }

    /// The queue of this name, if anyone named it.
    pub fn find(&self, name: &str) -> Option<QueueId> {
        self.ids.get(name).copied()
    }

    /// A queue is new, has changed or is gone. Returns whether that is news.
    pub fn set(&mut self, name: &str, spec: Option<QueueSpec>) -> bool {
        let id = self.id(name);
        if self.line(id).spec == spec {
            self.tidy(id);
            return false;
        }
        let parent = |spec: &Option<QueueSpec>| -> Option<Arc<str>> { Some(spec.as_ref()?.parent.as_deref()?.into()) };
        let before = std::mem::replace(&mut self.line_mut(id).spec, spec);
        if let Some(named) = parent(&before) {
            self.unname(id, &named);
        }
        if let Some(named) = parent(&self.line(id).spec.clone()) {
            self.naming.entry(named).or_default().insert(id);
        }
        // Those that name it are above or below each other in another way now, it may be.
        let mut open: Vec<QueueId> = vec![id];
        let mut seen = BTreeSet::new();
        while let Some(next) = open.pop() {
            if seen.insert(next) {
                let name = self.line(next).name.clone();
                open.extend(self.naming.get(&name).into_iter().flatten().copied());
            }
        }
        // First all of them apart, then each below the one that it names.
        for id in &seen {
            self.put_below(*id, ROOT);
        }
        for id in &seen {
            let (above, fault) = self.placement(*id);
            self.line_mut(*id).fault = fault;
            self.put_below(*id, above);
        }
        for id in &seen {
            self.rank_up(*id);
            let path: Vec<QueueId> = self.path(*id).collect();
            self.loosened.extend(path);
            self.changed.insert(*id);
        }
        seen.into_iter().for_each(|id| self.tidy(id));
        true
    }

    /// Below which queue one belongs, and what is wrong with that.
    fn placement(&self, id: QueueId) -> (QueueId, Option<Fault>) {
        let named = |id: QueueId| self.line(id).spec.as_ref().and_then(|spec| spec.parent.as_deref());
        let Some(parent) = named(id) else { return (ROOT, None) };
        let mut above = parent;
        let mut depth = 1;
        loop {
            let known = self.ids.get(above).copied().filter(|id| self.line(*id).spec.is_some());
            let Some(known) = known else { return (ROOT, Some(Fault::Missing(above.into()))) };
            if known == id {
                return (ROOT, Some(Fault::Cycle(self.line(id).name.clone())));
            }
            depth += 1;
            if depth > DEPTH_MAX {
                return (ROOT, Some(Fault::TooDeep(self.line(id).name.clone())));
            }
            match named(known) {
                Some(next) => above = next,
                None => break,
            }
        }
        (self.ids.get(parent).copied().unwrap_or(ROOT), None)
    }

    /// Moves a queue with all below it.
    fn put_below(&mut self, id: QueueId, above: QueueId) {
        let before = self.line(id).above;
        if before == above {
            return;
        }
        // Pods of it may be held back there.
        let path: Vec<QueueId> = self.path(before).collect();
        self.loosened.extend(path);
        let used = self.line(id).used.clone();
        if let Some(rank) = self.line_mut(id).rank.take() {
            self.line_mut(before).next.remove(&rank);
        }
        self.line_mut(before).below.remove(&id);
        self.shift(before, &used, -1);
        self.line_mut(id).above = above;
        self.line_mut(above).below.insert(id);
        self.shift(above, &used, 1);
        self.rank_up(id);
    }

    fn shift(&mut self, id: QueueId, used: &Amounts, sign: i64) {
        let path: Vec<QueueId> = self.path(id).collect();
        for id in path {
            let line = self.line_mut(id);
            for (resource, amount) in used {
                let sum = line.used.entry(*resource).or_default();
                *sum += sign * amount;
                if *sum == 0 {
                    line.used.remove(resource);
                }
            }
            self.changed.insert(id);
            self.rank(id);
        }
    }

    fn unname(&mut self, id: QueueId, named: &Arc<str>) {
        if let Some(naming) = self.naming.get_mut(named) {
            naming.remove(&id);
            if naming.is_empty() {
                self.naming.remove(named);
            }
        }
    }

    /// Forgets a queue of which nothing is left.
    pub(super) fn tidy(&mut self, id: QueueId) {
        let line = self.line(id);
        let is_known = self.ids.get(&line.name) == Some(&id);
        let is_empty = line.spec.is_none() && line.placed == 0 && line.waiting == 0;
        if !is_known || !is_empty || !line.below.is_empty() || line.is_ready() {
            return;
        }
        let (name, above) = (line.name.clone(), line.above);
        self.line_mut(above).below.remove(&id);
        self.ids.remove(&name);
        self.loosened.remove(&id);
        self.changed.remove(&id);
        self.free.push(id);
    }
}
