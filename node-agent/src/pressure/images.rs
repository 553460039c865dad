//! Which images go when the disk fills. Pure: in go the images, which of them are in use, and the time; out come those to be
//! removed. The least recently used go first; what is in use, pinned or has only just come stays.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crate::clock::Moment;
use crate::runtime::{ImageRecord, PodRecord};
use crate::stats::disk::FileSystem;

/// When images are removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// A disk as full as this (in percent) is emptied; 100 never is.
    pub high_percent: u8,
    /// Until it is as full as this.
    pub low_percent: u8,
    /// An image that came less than this ago stays: whoever it came for may not have started yet.
    pub age_min: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self { high_percent: 85, low_percent: 80, age_min: Duration::from_secs(120) }
    }
}

/// How full a file system is, in percent.
pub fn percent_used(disk: &FileSystem) -> u64 {
    let left = disk.available.min(disk.capacity);
    100 - (u128::from(left) * 100).checked_div(u128::from(disk.capacity)).map_or(100, |percent| percent as u64)
}

/// How many bytes are to be freed, if the disk is too full.
pub fn to_free(policy: &Policy, disk: &FileSystem) -> Option<u64> {
    if disk.capacity == 0 || percent_used(disk) < u64::from(policy.high_percent) || policy.high_percent >= 100 {
        return None;
    }
    let wanted = u128::from(disk.capacity) * u128::from(100 - policy.low_percent.min(100)) / 100;
    Some(u64::try_from(wanted).unwrap_or(u64::MAX).saturating_sub(disk.available))
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    first: Moment,
    /// None if it was not since the agent began.
    used: Option<Moment>,
}

/// Since when images are known, and when they were last used.
#[derive(Clone, Debug, Default)]
pub struct Ages(HashMap<String, Seen>);

impl Ages {
    /// Takes over what there is now.
    pub fn note(&mut self, images: &[ImageRecord], in_use: &HashSet<String>, now: Moment) {
        let ids: HashSet<&str> = images.iter().map(|image| image.id.as_str()).collect();
        self.0.retain(|id, _| ids.contains(id.as_str()));
        for image in images {
            let unused = Seen { first: now, used: None };
            let seen = self.0.entry(image.id.clone()).or_insert(unused);
            if is_used(image, in_use) {
                seen.used = Some(now);
            }
        }
    }

    /// The images to remove for so many bytes, in order; `None` for all that may go.
    pub fn plan(
        &self,
        images: &[ImageRecord],
        in_use: &HashSet<String>,
        bytes: Option<u64>,
        age_min: Duration,
        now: Moment,
    ) -> Vec<ImageRecord> {
        let seen = |image: &ImageRecord| self.0.get(&image.id).copied().unwrap_or(Seen { first: now, used: Some(now) });
        let may_go =
            |image: &&ImageRecord| !image.pinned && !is_used(image, in_use) && now.since(seen(image).first) >= age_min;
        let mut candidates: Vec<&ImageRecord> = images.iter().filter(may_go).collect();
        candidates.sort_by_key(|image| (seen(image).used, seen(image).first, image.id.clone()));
        let mut freed = 0u64;
        let mut chosen = Vec::new();
        for image in candidates {
            if bytes.is_some_and(|bytes| freed >= bytes) {
                break;
            }
            freed = freed.saturating_add(image.size_bytes);
            chosen.push(image.clone());
        }
        chosen
    }
}

/// All names by which containers refer to their images.
pub fn used_by(records: &[PodRecord]) -> HashSet<String> {
    let containers = records.iter().flat_map(|record| &record.containers);
    containers.flat_map(|container| [container.image.clone(), container.image_id.clone()]).collect()
}

fn is_used(image: &ImageRecord, in_use: &HashSet<String>) -> bool {
    in_use.contains(&image.id) || image.tags.iter().chain(&image.digests).any(|name| in_use.contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(name: &str, size_bytes: u64) -> ImageRecord {
        ImageRecord {
            id: format!("sha256:{name}"),
            tags: vec![format!("{name}:1")],
            digests: vec![format!("{name}@sha256:0")],
            size_bytes,
            user: None,
            pinned: name == "pinned",
        }
    }

    fn at(second: i64) -> Moment {
        Moment::from_second(second)
    }

    fn names(images: &[ImageRecord]) -> Vec<&str> {
        images.iter().map(|image| image.id.trim_start_matches("sha256:")).collect()
    }

    #[test]
    fn a_disk_is_emptied_from_the_high_mark_to_the_low_one() {
        let policy = Policy::default();
        let disk = |available| FileSystem { capacity: 1000, available, ..FileSystem::default() };
        assert_eq!(to_free(&policy, &disk(160)), None);
        // Parts of a percent count as one.
        assert_eq!(to_free(&policy, &disk(159)), Some(41));
        assert_eq!(to_free(&policy, &disk(150)), Some(50));
        assert_eq!(to_free(&policy, &disk(0)), Some(200));
        assert_eq!(to_free(&Policy { high_percent: 100, ..policy }, &disk(0)), None);
        assert_eq!(to_free(&policy, &FileSystem::default()), None);
    }

    #[test]
    fn the_least_recently_used_go_first_and_what_is_needed_stays() {
        let images: Vec<_> = ["used", "old", "recent", "pinned", "never"].iter().map(|name| image(name, 100)).collect();
        let mut ages = Ages::default();
        let of = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<HashSet<_>>();
        ages.note(&images, &of(&["old:1"]), at(10));
        ages.note(&images, &of(&["recent@sha256:0"]), at(100));
        let mut images = images;
        images.push(image("new", 100));
        let in_use = of(&["sha256:used"]);
        ages.note(&images, &in_use, at(1000));
        let min = Duration::from_secs(120);
        let plan = |bytes| ages.plan(&images, &in_use, bytes, min, at(1010));
        assert_eq!(names(&plan(None)), ["never", "old", "recent"]);
        assert_eq!(names(&plan(Some(101))), ["never", "old"]);
        assert_eq!(names(&plan(Some(0))), Vec::<&str>::new());
        assert_eq!(
            names(&ages.plan(&images, &in_use, None, Duration::ZERO, at(1010))),
            ["never", "new", "old", "recent"]
        );
        // One that is gone and comes again is new.
        ages.note(&[], &of(&[]), at(2000));
        ages.note(&images, &in_use, at(2010));
        assert!(ages.plan(&images, &in_use, None, min, at(2020)).is_empty());
    }
}
