//! Caches that follow the API server. A cache names the objects to look at; no safety rule depends on a cache.
//!
//! `kube::runtime::reflector::Store` finds an object by its name only, and holds all objects twice during a list. This
//! cache has indexes, and keeps only the part of an object that decisions read.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt::Debug;
use std::pin::pin;
use std::sync::{Arc, RwLock, RwLockReadGuard};

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use kube::runtime::watcher::{self, Error, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::watch::{Receiver, Sender, channel};

use crate::api::{
    ANNOTATION_BORN_ON, ANNOTATION_DECIDED_BY, ANNOTATION_MADE_FOR, LABEL_CLAIM_NAMESPACE, LABEL_CLAIM_UID,
    LABEL_PVC_UID, SELECTED_NODE, STORAGE_PROVISIONER,
};

/// The name of an object. In a namespace it is `namespace/name`.
pub type Name = Arc<str>;

/// See [`Name`].
pub fn name_of(namespace: &str, name: &str) -> Name {
    format!("{namespace}/{name}").into()
}

/// The name by which caches and queues call an object.
pub fn named<K: Resource<DynamicType = ()>>(object: &K) -> Name {
    match object.namespace() {
        Some(namespace) => name_of(&namespace, &object.name_any()),
        None => object.name_any().into(),
    }
}

/// The last seen state of all objects of a kind, by name and by key. The cache keeps a `T` of each object.
pub struct Cache<T> {
    state: RwLock<State<T>>,
    filled: Receiver<bool>,
}

/// An index key: the name of the index, and the value under which objects are found.
pub type Key<'a> = (&'static str, &'a str);

/// A function that calls its second argument with each key of the object.
pub type Keys<T> = fn(&T, &mut dyn FnMut(Key));

/// The part of each object of kind `K` that a cache keeps, and the keys of that part.
pub struct CacheConfig<K, T = K> {
    /// Returns the part of the object to keep; `None`: the cache skips the object.
    pub keep: fn(K) -> Option<T>,
    /// Lists the keys of an object.
    pub keys: Keys<T>,
}

impl<K> Default for CacheConfig<K> {
    fn default() -> Self {
        Self { keep: Some, keys: |_, _| {} }
    }
}

/// A change of an object. `None` stands for an object that the cache does not keep.
pub struct Change<'a, T> {
    /// Name of the object.
    pub name: &'a Name,
    /// The object in the cache before the change.
    pub before: Option<&'a T>,
    /// The object after the change.
    pub now: Option<&'a T>,
}

impl<'a, T> Change<'a, T> {
    /// The object after the change, or its last state if the object is gone.
    pub fn latest(&self) -> Option<&'a T> {
        self.now.or(self.before)
    }
}

struct State<T> {
    objects: BTreeMap<Name, Arc<T>>,
    /// For each index, the values of the objects' keys, each with the name of the object.
    indexes: HashMap<&'static str, BTreeSet<(Box<str>, Name)>>,
}

impl<T> Cache<T> {
    /// The cluster-scoped object of that name.
    pub fn get(&self, name: &str) -> Option<Arc<T>> {
        self.state().objects.get(name).cloned()
    }

    /// The object of that name in that namespace.
    pub fn get_in(&self, namespace: &str, name: &str) -> Option<Arc<T>> {
        self.get(&name_of(namespace, name))
    }

    /// All objects.
    pub fn all(&self) -> Vec<Arc<T>> {
        self.state().objects.values().cloned().collect()
    }

    /// The objects of the namespace, by name.
    pub fn all_in(&self, namespace: &str) -> Vec<Arc<T>> {
        let state = self.state();
        state.range(namespace).map(|(_, object)| object.clone()).collect()
    }

    /// The names of the objects of the namespace.
    pub fn names_in(&self, namespace: &str) -> Vec<Name> {
        self.state().range(namespace).map(|(name, _)| name.clone()).collect()
    }

    /// The names of all objects.
    pub fn names(&self) -> Vec<Name> {
        self.state().objects.keys().cloned().collect()
    }

    /// The objects that have exactly this key, in the order of their names.
    pub fn by(&self, index: &'static str, value: &str) -> Vec<Arc<T>> {
        let state = self.state();
        state.names_by(index, value).filter_map(|name| state.objects.get(name).cloned()).collect()
    }

    /// The names of the objects that have the key.
    pub fn names_by(&self, index: &'static str, value: &str) -> Vec<Name> {
        self.state().names_by(index, value).cloned().collect()
    }

    /// The first object, in the order of the keys, that has a key with this prefix and that `fits`.
    pub fn first(&self, index: &'static str, start: &str, fits: impl Fn(&T) -> bool) -> Option<Arc<T>> {
        let state = self.state();
        let names = state.names_from(index, start);
        names.filter_map(|name| state.objects.get(name)).find(|object| fits(object)).cloned()
    }

    /// The names of the objects that have a key with this prefix, in the order of the keys.
    pub fn names_from(&self, index: &'static str, start: &str) -> Vec<Name> {
        self.state().names_from(index, start).cloned().collect()
    }

    /// Waits until the first list is complete.
    pub async fn wait_until_filled(&self) {
        // Dropping the task that fills the cache ends the wait too.
        let _ = self.filled.clone().wait_for(|filled| *filled).await;
    }

    fn state(&self) -> RwLockReadGuard<'_, State<T>> {
        self.state.read().unwrap_or_else(|e| e.into_inner())
    }
}

impl<T> State<T> {
    fn range(&self, namespace: &str) -> impl Iterator<Item = (&Name, &Arc<T>)> {
        let start = name_of(namespace, "");
        self.objects.range(start.clone()..).take_while(move |(name, _)| name.starts_with(&*start))
    }

    fn names_by<'a>(&'a self, index: &str, value: &'a str) -> impl Iterator<Item = &'a Name> {
        self.entries_from(index, value).take_while(move |(other, _)| **other == *value).map(|(_, name)| name)
    }

    fn names_from<'a>(&'a self, index: &str, start: &'a str) -> impl Iterator<Item = &'a Name> {
        let starts = move |(value, _): &&(Box<str>, Name)| value.starts_with(start);
        self.entries_from(index, start).take_while(starts).map(|(_, name)| name)
    }

    fn entries_from(&self, index: &str, value: &str) -> impl Iterator<Item = &(Box<str>, Name)> {
        let first = (Box::from(value), "".into());
        self.indexes.get(index).into_iter().flat_map(move |entries| entries.range(first.clone()..))
    }
}

/// Objects per page of a list. Decoding holds each page in memory more than once.
const PAGE: u32 = 50;

/// Returns a cache of all objects of a kind, and the future that fills the cache while polled.
///
/// The future calls `changed` after each change, and for each object of a list. The future calls `listed` after each
/// list: after the first list, and after each list that follows a gap in the watch.
pub fn cache<K, T>(
    api: Api<K>,
    config: watcher::Config,
    how: CacheConfig<K, T>,
    changed: impl Fn(Change<T>) + Send + 'static,
    listed: impl Fn() + Send + 'static,
) -> (Arc<Cache<T>>, BoxFuture<'static, ()>)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    let (cache, mut follower) = Follower::new(how, changed);
    let task = async move {
        // The API server streams a list object by object. A page of large objects would not fit into the memory limit.
        // An API server without the feature gate WatchList refuses the stream, and the cache lists in pages.
        for streaming in [true, false] {
            let config =
                if streaming { config.clone().streaming_lists() } else { config.clone().page_size(PAGE) };
            let mut events = pin!(watch(api.clone(), config).default_backoff());
            while let Some(event) = events.next().await {
                match event {
                    Ok(event) => {
                        let done = matches!(event, Event::InitDone);
                        follower.follow(event);
                        if done {
                            listed();
                        }
                    }
                    Err(Error::WatchStartFailed(kube::Error::Api(status)))
                        if streaming && status.code == 422 =>
                    {
                        break;
                    }
                    // The stream reconnects by itself, with back-off.
                    Err(error) => tracing::warn!(kind = %K::kind(&()), %error, "the watch was interrupted"),
                }
            }
        }
    };
    (cache, task.boxed())
}

/// Fills a cache from the events of a watch.
pub(super) struct Follower<K, T, F> {
    cache: Arc<Cache<T>>,
    how: CacheConfig<K, T>,
    changed: F,
    /// The objects that the running list has delivered so far.
    listed: HashSet<Name>,
    filled: Sender<bool>,
}

impl<K: Resource<DynamicType = ()>, T: Clone, F: Fn(Change<T>)> Follower<K, T, F> {
    pub(super) fn new(how: CacheConfig<K, T>, changed: F) -> (Arc<Cache<T>>, Self) {
        let (filled, is_filled) = channel(false);
        let state = State { objects: BTreeMap::new(), indexes: HashMap::new() };
        let cache = Arc::new(Cache { state: state.into(), filled: is_filled });
        (cache.clone(), Self { cache, how, changed, listed: HashSet::new(), filled })
    }

    pub(super) fn follow(&mut self, event: Event<K>) {
        match event {
            Event::Apply(object) => self.see(named(&object), object),
            Event::Delete(object) => {
                let name = named(&object);
                let before = self.store(name.clone(), None);
                // A deletion carries the last state of the object, which may be newer than the cached state.
                let last = self.keep(object);
                self.report(&name, last.or(before), None);
            }
            Event::Init => self.listed.clear(),
            Event::InitApply(object) => {
                let name = named(&object);
                self.listed.insert(name.clone());
                self.see(name, object);
            }
            Event::InitDone => {
                let listed = std::mem::take(&mut self.listed);
                for name in self.cache.names().into_iter().filter(|name| !listed.contains(name)) {
                    let before = self.store(name.clone(), None);
                    self.report(&name, before, None);
                }
                self.filled.send_replace(true);
            }
        }
    }

    fn see(&self, name: Name, object: K) {
        let now = self.keep(object);
        let before = self.store(name.clone(), now.clone());
        self.report(&name, before, now);
    }

    fn keep(&self, mut object: K) -> Option<Arc<T>> {
        trim_metadata(&mut object);
        // The deserializer leaves lists with capacity for four elements. A clone has no spare capacity.
        (self.how.keep)(object).map(|kept| Arc::new(kept.clone()))
    }

    fn report(&self, name: &Name, before: Option<Arc<T>>, now: Option<Arc<T>>) {
        if before.is_some() || now.is_some() {
            (self.changed)(Change { name, before: before.as_deref(), now: now.as_deref() });
        }
    }

    /// Replaces the object of that name and its index keys. Returns the replaced object.
    fn store(&self, name: Name, now: Option<Arc<T>>) -> Option<Arc<T>> {
        let mut state = self.cache.state.write().unwrap_or_else(|e| e.into_inner());
        // All versions of an object share one allocation of the name.
        let name = state.objects.get_key_value(&name).map_or(name, |(known, _)| known.clone());
        let before = match &now {
            Some(now) => state.objects.insert(name.clone(), now.clone()),
            None => state.objects.remove(&name),
        };
        let entries = |object: &Option<Arc<T>>| {
            let mut entries = BTreeSet::new();
            if let Some(object) = object {
                (self.how.keys)(object, &mut |(index, value)| {
                    entries.insert((index, (Box::from(value), name.clone())));
                });
            }
            entries
        };
        let (old, new) = (entries(&before), entries(&now));
        for (index, entry) in old.difference(&new) {
            state.indexes.entry(index).or_default().remove(entry);
        }
        for (index, entry) in new.difference(&old) {
            state.indexes.entry(index).or_default().insert(entry.clone());
        }
        before
    }
}

/// Drops the metadata that no decision reads. Labels and annotations belong to the user. Objects stored before the
/// admission policy may have labels of any size. Claims select by labels, so the cache keeps a bounded part.
fn trim_metadata<K: Resource>(object: &mut K) {
    object.meta_mut().managed_fields = None;
    object
        .annotations_mut()
        .retain(|key, value| OUR_ANNOTATIONS.contains(&key.as_str()) && value.len() <= LONGEST_ANNOTATION);
    let mut bytes = 0;
    object.labels_mut().retain(|key, value| {
        bytes += key.len() + value.len();
        bytes <= LABELS || OUR_LABELS.contains(&key.as_str())
    });
}

/// The annotations that decisions read. The longest has a namespace and a name.
const OUR_ANNOTATIONS: [&str; 5] =
    [STORAGE_PROVISIONER, SELECTED_NODE, ANNOTATION_DECIDED_BY, ANNOTATION_MADE_FOR, ANNOTATION_BORN_ON];
const LONGEST_ANNOTATION: usize = 400;
/// The most bytes of labels that the cache keeps of an object.
const LABELS: usize = 16 << 10;
/// Our own labels, which the cache always keeps.
const OUR_LABELS: [&str; 3] = [LABEL_CLAIM_UID, LABEL_CLAIM_NAMESPACE, LABEL_PVC_UID];

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use kube::client::Body;
    use serde_json::json;

    use super::*;
    use crate::api::VolumeClaim;

    fn claim(name: &str, volume: &str) -> VolumeClaim {
        let mut claim = VolumeClaim::new(name, Default::default());
        claim.metadata.namespace = Some("team".into());
        claim.spec.volume = Some(volume.into());
        claim
    }

    const VOLUME: &str = "volume";

    #[test]
    fn an_index_finds_exactly_the_objects_that_have_the_key() {
        let how = CacheConfig::<VolumeClaim> {
            keys: |claim, key| key((VOLUME, claim.spec.volume.as_deref().unwrap())),
            ..Default::default()
        };
        let (cache, mut follower) = Follower::new(how, |_| {});
        let mut see = |event| follower.follow(event);
        let by = |index, volume: &str| {
            let names: Vec<_> = cache.by(index, volume).iter().map(|claim| claim.name_any()).collect();
            names.join(" ")
        };
        // Keys with a common prefix, and an empty key.
        for (name, volume) in [("b", "v"), ("a", "v"), ("c", "v1"), ("d", "")] {
            see(Event::Apply(claim(name, volume)));
        }
        assert_eq!(["v", "v1", "", "v2", "u"].map(|v| by(VOLUME, v)), ["a b", "c", "d", "", ""]);
        assert_eq!(["volum", "volume ", "w"].map(|index| by(index, "v")), ["", "", ""]);
        see(Event::Apply(claim("a", "w")));
        assert_eq!(["v", "w"].map(|v| by(VOLUME, v)), ["b", "a"]);
        assert_eq!(cache.names_by(VOLUME, "w"), ["team/a".into()]);
        see(Event::Delete(claim("b", "v")));
        assert_eq!((by(VOLUME, "v"), cache.get_in("team", "b")), (String::new(), None));
        assert_eq!(cache.get_in("team", "a").unwrap().spec, claim("a", "w").spec);
        ["a", "c", "d"].into_iter().for_each(|name| see(Event::Delete(claim(name, ""))));
        let state = cache.state();
        let empty = state.objects.is_empty() && state.indexes.values().all(BTreeSet::is_empty);
        assert!(empty, "something is kept of deleted objects");
    }

    #[test]
    fn objects_are_found_by_namespace_and_by_the_start_of_a_key() {
        let how = CacheConfig::<VolumeClaim> {
            keys: |claim, key| key((VOLUME, claim.spec.volume.as_deref().unwrap())),
            ..Default::default()
        };
        let (cache, mut follower) = Follower::new(how, |_| {});
        for (namespace, name, volume) in
            [("a", "x", "v 2"), ("a", "y", "v 1"), ("a-b", "z", "v1 0"), ("ab", "z", "v 0")]
        {
            let mut claim = claim(name, volume);
            claim.metadata.namespace = Some(namespace.into());
            follower.follow(Event::Apply(claim));
        }
        assert_eq!(cache.names_in("a"), ["a/x".into(), "a/y".into()]);
        assert_eq!((cache.all_in("a-b").len(), cache.names_in("b")), (1, vec![]));
        let first = |start, fits: fn(&VolumeClaim) -> bool| {
            cache.first(VOLUME, start, fits).map(|claim| claim.name_any())
        };
        assert_eq!(first("v ", |_| true), Some("z".into()));
        assert_eq!(first("v ", |claim| claim.name_any() != "z"), Some("y".into()));
        assert_eq!((first("v ", |_| false), first("w ", |_| true)), (None, None));
    }

    /// A9: the cache keeps a bounded part of 1 MB of labels, and all labels and annotations that decisions read.
    #[test]
    fn a9_labels_beyond_a_bound_are_not_kept() {
        let (cache, mut follower) = Follower::new(CacheConfig::<VolumeClaim>::default(), |_| {});
        let mut large = claim("c", "v");
        let many = (0..10_000).map(|i| (format!("label-{i:05}"), "x".repeat(63)));
        let read = [ANNOTATION_DECIDED_BY, ANNOTATION_MADE_FOR, ANNOTATION_BORN_ON];
        let read = read.map(|key| (key.to_owned(), "7".to_owned()));
        large.metadata.annotations = Some(many.clone().chain(read.clone()).collect());
        large.metadata.labels = Some(many.chain([(LABEL_PVC_UID.to_owned(), "u".to_owned())]).collect());
        follower.follow(Event::Apply(large));
        let kept = cache.get_in("team", "c").unwrap();
        let bytes: usize = kept.labels().iter().map(|(key, value)| key.len() + value.len()).sum();
        assert!((LABELS / 2..LABELS + 100).contains(&bytes), "{bytes}");
        assert!(kept.labels().contains_key(LABEL_PVC_UID) && *kept.annotations() == read.into());
    }

    /// An API server whose feature gate WatchList is off refuses to stream.
    #[tokio::test]
    async fn a_list_that_cannot_be_streamed_comes_in_pages() {
        let service = tower::service_fn(|request: http::Request<Body>| async move {
            let query = request.uri().query().unwrap_or_default().to_owned();
            let (status, answer) = match (query.contains("sendInitialEvents"), query.contains("watch=true")) {
                (true, _) => (
                    422,
                    json!({"kind": "Status", "apiVersion": "v1", "code": 422, "reason": "Invalid",
                    "status": "Failure", "message": "sendInitialEvents is forbidden", "metadata": {}}),
                ),
                (false, true) => std::future::pending().await,
                (false, false) => (
                    200,
                    json!({"kind": "VolumeClaimList", "apiVersion": "reservoir.dev/v1alpha1",
                    "metadata": {"resourceVersion": "1"}, "items": [claim("a", "v")]}),
                ),
            };
            let answer = Body::from(answer.to_string().into_bytes());
            Ok::<_, kube::Error>(http::Response::builder().status(status).body(answer).unwrap())
        });
        let claims: Api<VolumeClaim> = Api::all(kube::Client::new(service, "default"));
        let (cache, task) = cache(claims, Default::default(), CacheConfig::default(), |_| {}, || {});
        tokio::select! {
            () = task => panic!("the cache follows until dropped"),
            () = cache.wait_until_filled() => assert_eq!(cache.names(), ["team/a".into()]),
        }
    }

    #[test]
    fn each_change_is_reported_with_the_state_before_and_now() {
        let how = CacheConfig::<VolumeClaim, String> {
            keep: |claim| claim.spec.volume.filter(|volume| !volume.is_empty()),
            keys: |volume, key| key((VOLUME, volume)),
        };
        let reports = RefCell::new(vec![]);
        let report = |change: Change<String>| {
            let or_none = |volume: Option<&String>| volume.map_or("-", |v| v).to_owned();
            let report = format!("{} {} {}", change.name, or_none(change.before), or_none(change.now));
            reports.borrow_mut().push(report);
        };
        let (cache, mut follower) = Follower::new(how, report);
        let mut reported = |events: Vec<Event<VolumeClaim>>| {
            events.into_iter().for_each(|event| follower.follow(event));
            (reports.take(), *follower.cache.filled.borrow())
        };
        let none = Vec::<String>::new;
        let listed = |name: &str, volume: &str| Event::InitApply(claim(name, volume));
        let first = vec![Event::Init, listed("a", "u"), listed("b", ""), listed("c", "v")];
        assert_eq!(reported(first), (vec!["team/a - u".into(), "team/c - v".into()], false));
        // The list is interrupted, and starts again.
        let again = vec![Event::Init, listed("a", "v"), listed("b", ""), Event::InitDone];
        assert_eq!(reported(again), (vec!["team/a u v".into(), "team/c v -".into()], true));
        assert_eq!(cache.names(), ["team/a".into()], "no more is kept than the configuration says");
        let change = |name: &str, volume: &str| vec![Event::Apply(claim(name, volume))];
        assert_eq!(reported(change("a", "w")).0, ["team/a v w"]);
        assert_eq!(reported(change("b", "")).0, none());
        assert_eq!(reported(change("b", "v")).0, ["team/b - v"]);
        assert_eq!(reported(change("b", "")).0, ["team/b v -"]);
        assert_eq!(reported(vec![Event::Delete(claim("b", ""))]).0, none());
        assert_eq!(
            reported(vec![Event::Delete(claim("a", "x"))]).0,
            ["team/a x -"],
            "the last state is the event's"
        );
        // After a gap in the watch, one object is gone, one is changed and one is new.
        ["c", "d"].into_iter().for_each(|name| drop(reported(change(name, "v"))));
        let list = vec![Event::Init, listed("d", "w"), listed("e", "v"), Event::InitDone];
        assert_eq!(reported(list).0, ["team/d v w", "team/e - v", "team/c v -"]);
        assert_eq!(["v", "w"].map(|v| cache.names_by(VOLUME, v)), [["team/e".into()], ["team/d".into()]]);
    }
}
