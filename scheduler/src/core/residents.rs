//! Which pods are on which node, and what would be free with those below a priority gone.
//!
//! The list is kept with every change. The sums are made when preemption first asks about a node and
//! stand until the node changes again, so placing pays nothing for them.

use super::engine::PodKey;
use super::resources::{Demand, ResourceId};

/// What the pods of one priority and of all lower ones hold together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Band {
    /// The priority.
    pub priority: i32,
    /// How many pods that is.
    pub pods: i64,
    /// What they asked for, ascending by column.
    pub amounts: Vec<(ResourceId, i64)>,
}

impl Band {
    /// What they asked for of one resource.
    pub fn amount(&self, resource: ResourceId) -> i64 {
        let found = self.amounts.binary_search_by_key(&resource, |(resource, _)| *resource);
        found.map_or(0, |index| self.amounts[index].1)
    }
}

#[derive(Clone, Debug, Default)]
struct Bands {
    /// The position in the change log that the bands are of, if they were ever made.
    stamp: Option<u64>,
    bands: Vec<Band>,
}

/// The pods of all nodes.
#[derive(Clone, Debug, Default)]
pub struct Residents {
    pods: Vec<Vec<PodKey>>,
    bands: Vec<Bands>,
}

impl Residents {
    /// Adds a pod and returns where in the node's list it is.
    pub fn add(&mut self, slot: u32, pod: PodKey) -> u32 {
        let index = slot as usize;
        if index >= self.pods.len() {
            self.pods.resize(index + 1, Vec::new());
        }
        self.pods[index].push(pod);
        self.pods[index].len() as u32 - 1
    }

    /// Takes away the pod at a position, and returns the one that has that position now.
    pub fn remove(&mut self, slot: u32, position: u32) -> Option<PodKey> {
        let pods = self.pods.get_mut(slot as usize)?;
        if position as usize >= pods.len() {
            return None;
        }
        pods.swap_remove(position as usize);
        pods.get(position as usize).copied()
    }

    /// The pods of a node, in no particular order.
    pub fn on(&self, slot: u32) -> &[PodKey] {
        self.pods.get(slot as usize).map_or(&[], Vec::as_slice)
    }

    /// The node's bands, ascending by priority. `stamp` is when the node last changed.
    pub fn bands<'a>(&mut self, slot: u32, stamp: u64, pod: impl Fn(PodKey) -> Option<(i32, &'a Demand)>) -> &[Band] {
        let index = slot as usize;
        if index >= self.bands.len() {
            self.bands.resize(index + 1, Bands::default());
        }
        let kept = &mut self.bands[index];
        if kept.stamp != Some(stamp) {
            let pods = self.pods.get(index).map_or(&[] as &[_], Vec::as_slice);
            kept.bands = sum(pods.iter().filter_map(|key| pod(*key)).collect());
            kept.stamp = Some(stamp);
        }
        &kept.bands
    }
}

fn sum(mut pods: Vec<(i32, &Demand)>) -> Vec<Band> {
    pods.sort_unstable_by_key(|(priority, _)| *priority);
    let mut bands: Vec<Band> = Vec::new();
    for (priority, demand) in pods {
        if bands.last().is_none_or(|band| band.priority != priority) {
            let below = bands.last().map(|band| (band.pods, band.amounts.clone()));
            let (pods, amounts) = below.unwrap_or_default();
            bands.push(Band { priority, pods, amounts });
        }
        let Some(band) = bands.last_mut() else { continue };
        band.pods += 1;
        for (resource, amount) in &demand.requests {
            match band.amounts.binary_search_by_key(resource, |(resource, _)| *resource) {
                Ok(index) => band.amounts[index].1 += amount,
                Err(index) => band.amounts.insert(index, (*resource, *amount)),
            }
        }
    }
    bands
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demand(cpu: i64) -> Demand {
        let requests = [(ResourceId::CPU, cpu)].into();
        Demand {
            requests,
            scoring_milli_cpu: 0,
            scoring_memory: 0,
            ports: [].into(),
            devices: Default::default(),
            attachments: [].into(),
            exclusive: [].into(),
        }
    }

    #[test]
    fn bands_add_up_from_the_lowest_priority_and_stand_until_the_node_changes() {
        let (small, large) = (demand(1), demand(5));
        let mut residents = Residents::default();
        for pod in [1, 2, 3] {
            residents.add(7, PodKey(pod));
        }
        let look = |key: PodKey| Some(if key == PodKey(2) { (-5, &large) } else { (9, &small) });
        let cpu = |bands: &[Band]| -> Vec<_> {
            bands.iter().map(|band| (band.priority, band.pods, band.amount(ResourceId::CPU))).collect()
        };
        assert_eq!(cpu(residents.bands(7, 3, look)), [(-5, 1, 5), (9, 3, 7)]);
        assert_eq!(residents.remove(7, 0), Some(PodKey(3)), "the last takes the place of the first");
        assert_eq!(cpu(residents.bands(7, 3, look)).len(), 2, "nothing is said to have changed");
        assert_eq!(cpu(residents.bands(7, 4, look)), [(-5, 1, 5), (9, 2, 6)]);
        assert_eq!(residents.bands(8, 0, look), []);
    }
}
