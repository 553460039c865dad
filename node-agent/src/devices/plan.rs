//! Who has which device. Pure: in go what plugins list, what containers ask for and the time; out come the devices that they
//! get, or why they get none.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};

use super::client::Plugin;
use super::messages::{Grant, PluginOptions};
use crate::clock::Moment;
use crate::pods::resources::{Amounts, amount};
use crate::pods::spec;

/// How long a plugin may be away before its devices are no longer counted as the node's.
const AWAY_MAX: Duration = Duration::from_secs(300);

/// One container's devices of one kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The pod's UID.
    pub uid: String,
    /// The container's name.
    pub container: String,
    /// What the devices are called.
    pub resource: String,
}

/// What a container has of one kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Given {
    /// Which devices.
    pub ids: BTreeSet<String>,
    /// What it needs to use them; `None` while the plugin has not said.
    pub grant: Option<Grant>,
}

/// A kind of devices.
#[derive(Clone, Debug, PartialEq)]
struct Kind {
    /// Whether they are healthy, by id.
    devices: BTreeMap<String, bool>,
    state: State,
    /// Which of the plugins that called themselves so.
    generation: u64,
}

#[derive(Clone, Debug, PartialEq)]
enum State {
    /// The plugin is there.
    There(Plugin, PluginOptions),
    /// It was there with an agent before this one.
    Before { since: Moment },
    /// It has gone.
    Gone { since: Moment },
}

/// What to do for a container that asks for devices.
#[derive(Clone, Debug, PartialEq)]
pub enum Look {
    /// Nothing: no plugin has such devices.
    NotOurs,
    /// Nothing: it has them.
    Has(BTreeSet<String>),
    /// To take some of these.
    Choose {
        /// All that it could have.
        available: BTreeSet<String>,
        /// Those of them that it is to have in any case.
        reused: BTreeSet<String>,
        /// Whom to ask which go best together, should there be a choice.
        ask: Option<Plugin>,
    },
}

/// All of it.
#[derive(Clone, Debug, Default)]
pub struct Book {
    kinds: BTreeMap<String, Kind>,
    given: BTreeMap<Key, Given>,
    /// What was given before a pod began anew, and nobody could say yet whether it is still healthy.
    suspect: BTreeSet<Key>,
    generations: u64,
}

impl Book {
    /// What there was with an agent before this one.
    pub fn before(kinds: Vec<String>, given: BTreeMap<Key, Given>, now: Moment) -> Self {
        let kind = || Kind { devices: BTreeMap::new(), state: State::Before { since: now }, generation: 0 };
        let kinds = kinds.into_iter().map(|name| (name, kind())).collect();
        Self { kinds, given, ..Self::default() }
    }

    /// A plugin is there; returns its number.
    pub fn connected(&mut self, resource: &str, plugin: Plugin, options: PluginOptions) -> u64 {
        self.generations += 1;
        let devices = self.kinds.remove(resource).map(|kind| kind.devices).unwrap_or_default();
        // What it had before is not healthy until it says so.
        let devices = devices.into_keys().map(|id| (id, false)).collect();
        let kind = Kind { devices, state: State::There(plugin, options), generation: self.generations };
        self.kinds.insert(resource.to_owned(), kind);
        self.generations
    }

    /// A plugin tells of all its devices; whether something is other than before.
    pub fn listed(&mut self, resource: &str, generation: u64, devices: BTreeMap<String, bool>) -> bool {
        let Some(kind) = self.kinds.get_mut(resource).filter(|kind| kind.generation == generation) else {
            return false;
        };
        let changed = kind.devices != devices;
        kind.devices = devices;
        changed
    }

    /// A plugin has gone, unless another has taken its place.
    pub fn disconnected(&mut self, resource: &str, generation: u64, now: Moment) {
        let Some(kind) = self.kinds.get_mut(resource).filter(|kind| kind.generation == generation) else { return };
        kind.state = State::Gone { since: now };
        kind.devices.values_mut().for_each(|healthy| *healthy = false);
    }

    /// How many devices there are, and how many of them containers can have. A kind that is no more has none: whoever reads it
    /// must not go on with the number before.
    pub fn amounts(&self, now: Moment) -> (Amounts, Amounts) {
        let mut all = (Amounts::new(), Amounts::new());
        for (name, kind) in &self.kinds {
            let counts = match kind.state {
                State::There(..) => true,
                State::Before { since } | State::Gone { since } => now.since(since) <= AWAY_MAX,
            };
            let count = |count: usize| if counts { i64::try_from(count).unwrap_or(i64::MAX) } else { 0 };
            all.0.insert(name.clone(), count(kind.devices.len()));
            all.1.insert(name.clone(), count(kind.devices.values().filter(|healthy| **healthy).count()));
        }
        all
    }

    /// Whether a kind had a plugin before this agent began, and has had none since.
    pub fn is_awaited(&self, resource: &str) -> bool {
        self.kinds.get(resource).is_some_and(|kind| match kind.state {
            State::Before { .. } => true,
            // It is there and has not told of its devices yet.
            State::There(..) => kind.devices.is_empty(),
            State::Gone { .. } => false,
        })
    }

    /// The names of all kinds.
    pub fn kinds(&self) -> Vec<String> {
        self.kinds.keys().cloned().collect()
    }

    /// What was given, and by whom it was confirmed.
    pub fn given(&self) -> impl Iterator<Item = (&Key, &BTreeSet<String>, &Grant)> {
        self.given.iter().filter_map(|(key, given)| Some((key, &given.ids, given.grant.as_ref()?)))
    }

    /// What a container has of one kind.
    pub fn given_to(&self, key: &Key) -> Option<(&BTreeSet<String>, &Grant)> {
        let given = self.given.get(key)?;
        Some((&given.ids, given.grant.as_ref()?))
    }

    /// Whether these are devices of a plugin, now or before.
    pub fn is_ours(&self, resource: &str) -> bool {
        self.kinds.contains_key(resource) || self.given.keys().any(|key| key.resource == resource)
    }

    /// Whom to tell before a container starts; an error if it has to be told and is not there.
    pub fn to_prepare(&self, resource: &str) -> Result<Option<Plugin>, String> {
        match self.kinds.get(resource).map(|kind| &kind.state) {
            Some(State::There(plugin, options)) => Ok(options.pre_start_required.then(|| plugin.clone())),
            Some(State::Before { .. }) => Err(none_healthy(resource)),
            Some(State::Gone { .. }) | None => Ok(None),
        }
    }

    /// Looks whether what a container was given is still healthy, for one that begins anew; an error if it is not. While its plugin is
    /// away nobody knows: then it is found out [before the container starts](Self::is_suspect).
    pub fn vouch(&mut self, key: &Key) -> Result<(), String> {
        let resource = &key.resource;
        let Some((ids, _)) = self.given_to(key) else { return Ok(()) };
        let Some(Kind { state: State::There(..), devices, .. }) = self.kinds.get(resource) else {
            self.suspect.insert(key.clone());
            return Ok(());
        };
        if !devices.values().any(|healthy| *healthy) {
            return Err(none_healthy(resource));
        }
        if !ids.iter().all(|id| devices.get(id) == Some(&true)) {
            return Err(format!(
                "previously allocated devices are no longer healthy; cannot allocate unhealthy devices {resource}"
            ));
        }
        self.suspect.remove(key);
        Ok(())
    }

    /// Whether nobody has said yet that what a container was given before is still healthy.
    pub fn is_suspect(&self, key: &Key) -> bool {
        self.suspect.contains(key)
    }

    /// What there is for a container that wants so many. `reusable` are those of containers of its pod that have ended by then.
    pub fn look(&self, key: &Key, wanted: usize, reusable: &BTreeSet<String>) -> Result<Look, String> {
        let resource = &key.resource;
        if wanted == 0 || !self.is_ours(resource) {
            return Ok(Look::NotOurs);
        }
        if let Some((had, _)) = self.given_to(key) {
            return match had.len() == wanted {
                true => Ok(Look::Has(had.clone())),
                false => Err(format!(
                    "pod {:?} container {:?} changed request for resource {resource:?} from {} to {wanted}",
                    key.uid,
                    key.container,
                    had.len()
                )),
            };
        }
        let Some(kind) = self.kinds.get(resource) else {
            return Err(format!("cannot allocate unregistered device {resource}"));
        };
        if !kind.devices.values().any(|healthy| *healthy) {
            return Err(none_healthy(resource));
        }
        let reused: BTreeSet<String> = reusable.iter().take(wanted).cloned().collect();
        let free = self.free(key, kind);
        let missing = wanted - reused.len();
        let fresh: BTreeSet<String> = free.difference(&reused).cloned().collect();
        if fresh.len() < missing {
            return Err(format!(
                "requested number of devices unavailable for {resource}. Requested: {missing}, Available: {}",
                fresh.len()
            ));
        }
        let ask = match &kind.state {
            State::There(plugin, options) if options.preferred_allocation_available && missing > 0 => {
                Some(plugin.clone())
            }
            _ => None,
        };
        Ok(Look::Choose { available: fresh.union(&reused).cloned().collect(), reused, ask })
    }

    /// Healthy devices that nobody but this container has.
    fn free(&self, key: &Key, kind: &Kind) -> BTreeSet<String> {
        let others = self.given.iter().filter(|(other, _)| other.resource == key.resource && *other != key);
        let taken: BTreeSet<&String> = others.flat_map(|(_, given)| &given.ids).collect();
        let healthy = kind.devices.iter().filter(|(_, healthy)| **healthy);
        healthy.map(|(id, _)| id).filter(|id| !taken.contains(id)).cloned().collect()
    }

    /// Takes devices for a container, preferred ones first: nobody else gets them meanwhile. Whom to ask for them.
    pub fn take(
        &mut self,
        key: &Key,
        wanted: usize,
        reusable: &BTreeSet<String>,
        preferred: &[String],
    ) -> Result<Option<(Plugin, BTreeSet<String>)>, String> {
        // While the plugin was asked which it prefers, others may have been quicker.
        let Look::Choose { available, reused, .. } = self.look(key, wanted, reusable)? else { return Ok(None) };
        let mut ids = reused;
        for id in preferred.iter().filter(|id| available.contains(*id)).chain(&available) {
            if ids.len() == wanted {
                break;
            }
            ids.insert(id.clone());
        }
        let Some(State::There(plugin, _)) = self.kinds.get(&key.resource).map(|kind| &kind.state) else {
            return Err(format!("endpoint {} has been stopped", key.resource));
        };
        let plugin = plugin.clone();
        self.given.insert(key.clone(), Given { ids: ids.clone(), grant: None });
        Ok(Some((plugin, ids)))
    }

    /// The plugin has said what a container needs; without that it has no devices.
    pub fn confirm(&mut self, key: &Key, grant: Option<Grant>) {
        match grant {
            Some(grant) => {
                if let Some(given) = self.given.get_mut(key) {
                    given.grant = Some(grant);
                }
            }
            None => _ = self.given.remove(key),
        }
    }

    /// Pods that are not kept give their devices back; whether there were any.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) -> bool {
        let before = self.given.len();
        self.given.retain(|key, _| keep(&key.uid));
        self.suspect.retain(|key| keep(&key.uid));
        self.given.len() != before
    }
}

fn none_healthy(resource: &str) -> String {
    format!("no healthy devices present; cannot allocate unhealthy devices {resource}")
}

/// What a container asks for that a plugin may have: such resources have a domain in their names, and are asked for by limits.
pub fn wanted(container: &Container) -> impl Iterator<Item = (&str, usize)> {
    let limits = container.resources.iter().flat_map(|resources| &resources.limits).flatten();
    limits
        .filter(|(name, _)| name.contains('/'))
        .map(|(name, quantity)| (name.as_str(), usize::try_from(amount(name, quantity)).unwrap_or(0)))
}

/// Whether a pod asks for something that a plugin may have.
pub fn asks(pod: &Pod) -> bool {
    spec::all_containers(pod).any(|container| wanted(container.spec).next().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket::Socket;

    fn at(second: i64) -> Moment {
        Moment::from_second(second)
    }

    fn key(uid: &str, container: &str) -> Key {
        Key { uid: uid.into(), container: container.into(), resource: "a.b/c".into() }
    }

    fn set(ids: &[&str]) -> BTreeSet<String> {
        ids.iter().map(ToString::to_string).collect()
    }

    fn plugin() -> Plugin {
        Plugin(Socket("/p".into()))
    }

    /// A book with a plugin of these devices; those in capitals are not healthy.
    fn book(ids: &[&str]) -> Book {
        let mut book = Book::default();
        let generation = book.connected("a.b/c", plugin(), PluginOptions::default());
        book.listed("a.b/c", generation, devices(ids));
        book
    }

    fn devices(ids: &[&str]) -> BTreeMap<String, bool> {
        ids.iter().map(|id| (id.to_string(), *id == id.to_lowercase())).collect()
    }

    fn give(book: &mut Book, key: &Key, wanted: usize, reusable: &[&str], preferred: &[&str]) -> BTreeSet<String> {
        let preferred: Vec<_> = preferred.iter().map(ToString::to_string).collect();
        let (_, ids) = book.take(key, wanted, &set(reusable), &preferred).unwrap().unwrap();
        book.confirm(key, Some(Grant::default()));
        ids
    }

    fn amounts(book: &Book, now: i64) -> (i64, i64) {
        let (capacity, allocatable) = book.amounts(at(now));
        (capacity["a.b/c"], allocatable["a.b/c"])
    }

    #[test]
    fn devices_are_given_once_and_preferred_ones_first() {
        let mut book = book(&["a", "b", "c", "D"]);
        assert_eq!(give(&mut book, &key("1", "x"), 1, &[], &["c", "z", "D"]), set(&["c"]));
        assert_eq!(give(&mut book, &key("2", "x"), 2, &[], &[]), set(&["a", "b"]));
        let refused = book.look(&key("3", "x"), 1, &BTreeSet::new()).unwrap_err();
        assert_eq!(refused, "requested number of devices unavailable for a.b/c. Requested: 1, Available: 0");
        assert!(book.retain(|uid| uid != "1"));
        assert_eq!(give(&mut book, &key("3", "x"), 1, &[], &[]), set(&["c"]));
        assert_eq!(book.look(&key("3", "x"), 1, &BTreeSet::new()), Ok(Look::Has(set(&["c"]))));
        let other = book.look(&key("3", "x"), 2, &BTreeSet::new()).unwrap_err();
        assert_eq!(other, "pod \"3\" container \"x\" changed request for resource \"a.b/c\" from 1 to 2");
    }

    #[test]
    fn what_is_taken_and_not_confirmed_is_nobody_elses_until_it_is_given_up() {
        let mut book = book(&["a"]);
        book.take(&key("1", "x"), 1, &BTreeSet::new(), &[]).unwrap();
        assert!(book.look(&key("2", "x"), 1, &BTreeSet::new()).is_err());
        assert_eq!(book.given().count(), 0, "nothing that could be kept");
        book.confirm(&key("1", "x"), None);
        assert_eq!(give(&mut book, &key("2", "x"), 1, &[], &[]), set(&["a"]));
    }

    #[test]
    fn what_an_ended_container_had_is_used_again() {
        let mut book = book(&["a", "b", "c"]);
        assert_eq!(give(&mut book, &key("1", "init"), 2, &[], &[]), set(&["a", "b"]));
        assert_eq!(give(&mut book, &key("1", "app"), 3, &["a", "b"], &[]), set(&["a", "b", "c"]));
        assert!(book.look(&key("2", "x"), 1, &BTreeSet::new()).is_err());
    }

    #[test]
    fn a_plugin_that_is_away_gives_nothing_and_is_forgotten_after_a_while() {
        let mut book = book(&["a", "b", "C"]);
        assert_eq!(amounts(&book, 0), (3, 2));
        book.disconnected("a.b/c", 99, at(10));
        assert_eq!(amounts(&book, 10), (3, 2), "that was another");
        book.disconnected("a.b/c", 1, at(10));
        assert_eq!(amounts(&book, 11), (3, 0));
        let refused = book.look(&key("1", "x"), 1, &BTreeSet::new()).unwrap_err();
        assert_eq!(refused, "no healthy devices present; cannot allocate unhealthy devices a.b/c");
        assert_eq!(amounts(&book, 311), (0, 0));
        let second = book.connected("a.b/c", plugin(), PluginOptions::default());
        assert_eq!(amounts(&book, 312), (3, 0), "it has not told of them");
        assert!(book.listed("a.b/c", second, devices(&["a"])));
        assert!(!book.listed("a.b/c", 1, devices(&["a", "b"])), "the one before has nothing to say");
        assert_eq!(amounts(&book, 313), (1, 1));
    }

    #[test]
    fn what_was_given_before_a_restart_stays_given() {
        let before = Given { ids: set(&["a"]), grant: Some(Grant::default()) };
        let mut book = Book::before(vec!["a.b/c".into()], BTreeMap::from([(key("1", "x"), before)]), at(0));
        assert_eq!(amounts(&book, 1), (0, 0));
        assert!(book.is_awaited("a.b/c"));
        assert_eq!(book.look(&key("1", "x"), 1, &BTreeSet::new()), Ok(Look::Has(set(&["a"]))));
        assert!(book.to_prepare("a.b/c").is_err(), "devices are not there before their plugin is");
        let generation = book.connected("a.b/c", plugin(), PluginOptions::default());
        assert!(book.is_awaited("a.b/c"));
        book.listed("a.b/c", generation, devices(&["a", "b"]));
        assert!(!book.is_awaited("a.b/c"));
        assert_eq!(book.to_prepare("a.b/c"), Ok(None));
        assert_eq!(give(&mut book, &key("2", "x"), 1, &[], &[]), set(&["b"]));
    }

    #[test]
    fn what_was_given_before_and_is_not_healthy_any_more_is_not_given_to_who_begins_anew() {
        let before = |ids: &[&str]| Given { ids: set(ids), grant: Some(Grant::default()) };
        let given = [("1", &["a"]), ("2", &["b"]), ("3", &["c"])];
        let given = given.into_iter().map(|(uid, ids)| (key(uid, "x"), before(ids))).collect();
        let mut book = Book::before(vec!["a.b/c".into()], given, at(0));
        for uid in ["1", "2", "3"] {
            assert_eq!(book.vouch(&key(uid, "x")), Ok(()), "nobody knows yet");
            assert!(book.is_suspect(&key(uid, "x")));
        }
        assert!(!book.is_suspect(&key("4", "x")));
        let generation = book.connected("a.b/c", plugin(), PluginOptions::default());
        let none = "no healthy devices present; cannot allocate unhealthy devices a.b/c";
        assert_eq!(book.vouch(&key("1", "x")).unwrap_err(), none);
        // One is healthy, one is not, and one is gone.
        book.listed("a.b/c", generation, [("a".to_owned(), true), ("b".to_owned(), false)].into());
        assert_eq!(book.vouch(&key("1", "x")), Ok(()));
        assert!(!book.is_suspect(&key("1", "x")));
        for uid in ["2", "3"] {
            let wrong = "previously allocated devices are no longer healthy; cannot allocate unhealthy devices a.b/c";
            assert_eq!(book.vouch(&key(uid, "x")).unwrap_err(), wrong);
        }
        assert_eq!(book.vouch(&key("4", "x")), Ok(()), "it was given nothing");
        assert!(book.retain(|uid| uid == "1") && !book.is_suspect(&key("2", "x")));
    }

    #[test]
    fn what_no_plugin_has_is_not_looked_for() {
        assert_eq!(Book::default().look(&key("1", "x"), 1, &BTreeSet::new()), Ok(Look::NotOurs));
        let pod = |name: &str| -> Pod {
            serde_json::from_value(serde_json::json!({"spec": {"containers": [
                {"name": "x", "resources": {"limits": {name: "2"}}}]}}))
            .unwrap()
        };
        assert!(asks(&pod("a.b/c")) && !asks(&pod("cpu")) && !asks(&pod("hugepages-2Mi")));
        let pod = pod("a.b/c");
        let container = spec::all_containers(&pod).next().unwrap();
        assert_eq!(wanted(container.spec).collect::<Vec<_>>(), [("a.b/c", 2)]);
    }
}
