//! Devices (GPUs) of a node, one by one: pods take some whole, or a share of one.
//!
//! That enough is free in sum does not mean that a device has it, so what is in use is kept by device.
//! A pod whose devices nobody told (it was bound by others) is accounted to those that it most likely
//! has; that choice looks at nothing but the pods before it, so it does not matter when the node came.

/// All of a device, in thousandths.
pub const WHOLE: u16 = 1_000;
/// A node has no more devices than this: those beyond are not given out.
pub const DEVICES_MAX: u16 = 256;

/// How many devices a pod takes, and how much of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceDemand {
    /// How many.
    pub count: u16,
    /// Thousandths of each: [`WHOLE`], or less of a single one.
    pub milli: u16,
}

impl DeviceDemand {
    /// Whole devices.
    pub fn whole(count: u16) -> Self {
        DeviceDemand { count, milli: if count == 0 { 0 } else { WHOLE } }
    }

    /// A share of one device.
    pub fn share(milli: u16) -> Self {
        DeviceDemand { count: u16::from(milli > 0), milli }
    }

    /// Does it take none?
    pub fn is_none(self) -> bool {
        self.count == 0
    }

    /// Is it a share of one device?
    pub fn is_share(self) -> bool {
        self.count == 1 && self.milli < WHOLE
    }

    /// Thousandths in all.
    pub fn total(self) -> i64 {
        i64::from(self.count) * i64::from(self.milli)
    }
}

/// What is in use of a node's devices.
#[derive(Clone, Debug, Default)]
pub struct Devices {
    /// Thousandths that are free, by device.
    free: Vec<u16>,
    /// Thousandths in use, by device. Pods may be accounted to devices that the node is not known to have.
    used: Vec<u32>,
    idle: u16,
    free_sum: i64,
}

impl Devices {
    /// None.
    pub(super) const NONE: Devices = Devices { free: Vec::new(), used: Vec::new(), idle: 0, free_sum: 0 };

    /// How many devices there are.
    pub fn count(&self) -> usize {
        self.free.len()
    }

    /// Thousandths that are free, by device.
    #[inline]
    pub fn free(&self) -> &[u16] {
        &self.free
    }

    /// Devices that nobody uses.
    #[inline]
    pub fn idle(&self) -> u16 {
        self.idle
    }

    /// Thousandths that are free in all.
    #[inline]
    pub fn free_sum(&self) -> i64 {
        self.free_sum
    }

    /// Says how many devices there are.
    pub(super) fn set_count(&mut self, count: u16) {
        self.free.resize(usize::from(count.min(DEVICES_MAX)), 0);
        for index in 0..self.free.len() {
            self.free[index] = free_of(self.used.get(index));
        }
        self.sum_up();
    }

    fn sum_up(&mut self) {
        self.idle = self.free.iter().filter(|free| **free == WHOLE).count() as u16;
        self.free_sum = self.free.iter().map(|free| i64::from(*free)).sum();
    }

    /// Is what the pod takes free? A node that is not known to have devices leaves whole ones to the count
    /// of the resource.
    #[inline]
    pub fn fits(&self, demand: DeviceDemand) -> bool {
        if demand.is_share() {
            self.free.iter().any(|free| *free >= demand.milli)
        } else {
            self.free.is_empty() || self.idle >= demand.count
        }
    }

    /// Takes from (`sign` 1) or gives back to (-1) these devices.
    pub(super) fn charge(&mut self, devices: &[u16], demand: DeviceDemand, sign: i64) {
        for index in devices.iter().map(|index| usize::from(*index)) {
            if index >= self.used.len() {
                self.used.resize(index + 1, 0);
            }
            let amount = u32::from(demand.milli);
            let used = &mut self.used[index];
            *used = if sign > 0 { used.wrapping_add(amount) } else { used.wrapping_sub(amount) };
            if let Some(free) = self.free.get_mut(index) {
                *free = free_of(Some(used));
            }
        }
        self.sum_up();
    }

    /// The first devices that nobody uses, as many as a pod wants whole.
    pub(super) fn first_idle(&self, count: u16) -> Vec<u16> {
        let idle = self.free.iter().enumerate().filter(|(_, free)| **free == WHOLE);
        idle.map(|(index, _)| index as u16).take(usize::from(count)).collect()
    }

    /// The device with the least free that has enough for a share.
    pub(super) fn tightest(&self, milli: u16) -> Option<u16> {
        let fitting = self.free.iter().enumerate().filter(|(_, free)| **free >= milli);
        fitting.min_by_key(|(_, free)| **free).map(|(index, _)| index as u16)
    }

    /// The devices that a pod is accounted to of which nobody told.
    pub(super) fn likely(&self, demand: DeviceDemand) -> Vec<u16> {
        if demand.is_none() {
            return Vec::new();
        }
        let used = |index: u16| self.used.get(usize::from(index)).copied().unwrap_or(0);
        let all = 0..DEVICES_MAX;
        if !demand.is_share() {
            return all.filter(|index| used(*index) == 0).take(usize::from(demand.count)).collect();
        }
        let shared = all.clone().filter(|index| {
            let used = used(*index);
            used > 0 && used.saturating_add(u32::from(demand.milli)) <= u32::from(WHOLE)
        });
        let fullest = shared.max_by_key(|index| (used(*index), std::cmp::Reverse(*index)));
        fullest.or_else(|| all.into_iter().find(|index| used(*index) == 0)).into_iter().collect()
    }
}

fn free_of(used: Option<&u32>) -> u16 {
    let used = used.copied().unwrap_or(0).min(u32::from(WHOLE));
    WHOLE - used as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(count: u16) -> Devices {
        let mut devices = Devices::default();
        devices.set_count(count);
        devices
    }

    fn take(devices: &mut Devices, demand: DeviceDemand) -> Vec<u16> {
        let taken = devices.likely(demand);
        devices.charge(&taken, demand, 1);
        taken
    }

    #[test]
    fn enough_in_sum_is_not_enough() {
        let mut devices = node(2);
        assert_eq!(take(&mut devices, DeviceDemand::share(600)), [0]);
        assert_eq!(take(&mut devices, DeviceDemand::share(600)), [1]);
        assert_eq!((devices.free_sum(), devices.idle()), (800, 0));
        assert!(!devices.fits(DeviceDemand::share(500)));
        assert!(devices.fits(DeviceDemand::share(400)));
        assert!(!devices.fits(DeviceDemand::whole(1)));
        devices.charge(&[1], DeviceDemand::share(600), -1);
        assert!(devices.fits(DeviceDemand::whole(1)));
        assert_eq!(devices.first_idle(2), [1]);
        assert_eq!(devices.tightest(300), Some(0));
    }

    #[test]
    fn pods_may_be_there_before_their_node() {
        let mut devices = Devices::default();
        assert_eq!(take(&mut devices, DeviceDemand::whole(2)), [0, 1]);
        assert_eq!(take(&mut devices, DeviceDemand::share(300)), [2]);
        assert_eq!(take(&mut devices, DeviceDemand::share(700)), [2]);
        assert!(devices.fits(DeviceDemand::whole(1)), "nothing is known of the node's devices");
        assert!(!devices.fits(DeviceDemand::share(1)));
        devices.set_count(4);
        assert_eq!(devices.free(), [0, 0, 0, 1000]);
        assert!(devices.fits(DeviceDemand::whole(1)));
        devices.set_count(1);
        assert!(!devices.fits(DeviceDemand::whole(1)));
        assert!(!devices.fits(DeviceDemand::share(1)));
    }

    #[test]
    fn more_than_there_is_can_be_in_use() {
        let mut devices = node(1);
        for _ in 0..3 {
            devices.charge(&[0], DeviceDemand::share(600), 1);
        }
        assert_eq!(devices.free(), [0]);
        devices.charge(&[0], DeviceDemand::share(600), -1);
        assert_eq!(devices.free(), [0]);
        devices.charge(&[0], DeviceDemand::share(600), -1);
        assert_eq!(devices.free(), [400]);
    }
}
