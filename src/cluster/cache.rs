//! Caches that follow the API server. They tell what to look at, never what is safe.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Deref;
use std::sync::{Arc, RwLock};

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;

/// All objects of a kind as they were seen last, by name as in a [`Store`], and by what they name.
///
/// Of the latter it keeps hashes: who asks gets all that fit and, hardly ever, one that does not.
pub struct Cache<K: Resource<DynamicType = ()> + Clone + 'static> {
    store: Store<K>,
    keys: Keys<K>,
    found: RwLock<Found<K>>,
}

/// What an object is found by: a kind of name, and the name.
pub type Key<'a> = (&'static str, &'a str);

/// Tells all keys of an object.
pub type Keys<K> = fn(&K, &mut dyn FnMut(Key));

struct Found<K: Resource<DynamicType = ()>> {
    by_key: HashMap<u64, Vec<Arc<ObjectRef<K>>>>,
    keys_of: HashMap<Arc<ObjectRef<K>>, Vec<u64>>,
}

fn hashed(key: Key) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

impl<K: Resource<DynamicType = ()> + Clone + 'static> Deref for Cache<K> {
    type Target = Store<K>;

    fn deref(&self) -> &Store<K> {
        &self.store
    }
}

impl<K: Resource<DynamicType = ()> + Clone + 'static> Cache<K> {
    /// The objects that have the key.
    pub fn by(&self, kind: &'static str, name: &str) -> Vec<Arc<K>> {
        let found = self.found.read().unwrap_or_else(|e| e.into_inner());
        let objects = found.by_key.get(&hashed((kind, name))).map_or(&[][..], Vec::as_slice);
        objects.iter().filter_map(|object| self.store.get(object)).collect()
    }

    /// Takes note of what the store has of an object now.
    fn note(&self, object: ObjectRef<K>) {
        let mut keys = Vec::new();
        if let Some(object) = self.store.get(&object) {
            (self.keys)(&object, &mut |key| keys.push(hashed(key)));
        }
        keys.sort_unstable();
        keys.dedup();
        self.found.write().unwrap_or_else(|e| e.into_inner()).note(object, keys);
    }

    /// Takes note of all that the store has now, and of what it has no more.
    fn note_all(&self) {
        let found = self.found.read().unwrap_or_else(|e| e.into_inner());
        let before: Vec<ObjectRef<K>> = found.keys_of.keys().map(|object| (**object).clone()).collect();
        drop(found);
        before.into_iter().for_each(|object| self.note(object));
        self.store.state().iter().for_each(|object| self.note(named(&**object)));
    }
}

impl<K: Resource<DynamicType = ()>> Found<K> {
    fn note(&mut self, object: ObjectRef<K>, keys: Vec<u64>) {
        let (object, before) = self.keys_of.remove_entry(&object).unwrap_or_else(|| (object.into(), vec![]));
        for key in before.iter().filter(|key| !keys.contains(key)) {
            if let Some(objects) = self.by_key.get_mut(key) {
                objects.retain(|other| *other != object);
                if objects.is_empty() {
                    self.by_key.remove(key);
                }
            }
        }
        for key in keys.iter().filter(|key| !before.contains(key)) {
            self.by_key.entry(*key).or_default().push(object.clone());
        }
        if !keys.is_empty() {
            self.keys_of.insert(object, keys);
        }
    }
}

/// An object's namespace and name, without what [`ObjectRef::from_obj`] copies besides.
pub fn named<K: Resource<DynamicType = ()>>(object: &K) -> ObjectRef<K> {
    let name = ObjectRef::new(&object.name_any());
    match object.namespace() {
        Some(namespace) => name.within(&namespace),
        None => name,
    }
}

/// A cache and the task that keeps it.
pub struct Cached<K: Resource<DynamicType = ()> + Clone + 'static> {
    /// What was seen last.
    pub cache: Arc<Cache<K>>,
    /// Follows the API server; runs until dropped.
    pub task: BoxFuture<'static, ()>,
}

/// Caches all objects of a kind, which are found by their `keys`; `trim` takes off what nobody looks at. `changed` hears
/// of each that appears, changes or goes, after the cache has it; `listed` of each time that everything was listed anew:
/// what went in between was heard of by nobody.
pub fn cache<K>(
    api: Api<K>,
    config: watcher::Config,
    keys: Keys<K>,
    trim: fn(&mut K),
    changed: impl Fn(&K) + Send + 'static,
    listed: impl Fn() + Send + 'static,
) -> Cached<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let (store, writer) = reflector::store();
    let found = RwLock::new(Found { by_key: HashMap::new(), keys_of: HashMap::new() });
    let cache = Arc::new(Cache { store, keys, found });
    let kept = cache.clone();
    let task = watch(api, config)
        .default_backoff()
        .modify(move |object| {
            object.meta_mut().managed_fields = None;
            object.annotations_mut().remove(LAST_APPLIED);
            trim(object);
            object.meta_mut().finalizers.iter_mut().for_each(Vec::shrink_to_fit);
        })
        .reflect(writer)
        .for_each(move |event| {
            match event {
                Ok(Event::Apply(object) | Event::Delete(object)) => {
                    kept.note(named(&object));
                    changed(&object);
                }
                Ok(Event::InitDone) => {
                    kept.note_all();
                    listed();
                }
                Ok(Event::Init | Event::InitApply(_)) => {}
                // The stream goes on by itself, with back-off.
                Err(error) => tracing::warn!(kind = %K::kind(&()), %error, "watch interrupted"),
            }
            std::future::ready(())
        })
        .boxed();
    Cached { cache, task }
}

/// A second copy of an object that `kubectl apply` keeps in it.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::VolumeClaim;

    fn claim(name: &str, volume: &str) -> VolumeClaim {
        let mut claim = VolumeClaim::new(name, Default::default());
        claim.metadata.namespace = Some("team".into());
        claim.spec.volume = Some(volume.into());
        claim
    }

    #[test]
    fn what_names_something_is_found_by_it_as_long_as_it_does() {
        let (store, mut writer) = reflector::store::<VolumeClaim>();
        let keys: Keys<VolumeClaim> = |claim, key| key(("volume", claim.spec.volume.as_deref().unwrap()));
        let found = RwLock::new(Found { by_key: HashMap::new(), keys_of: HashMap::new() });
        let cache = Cache { store, keys, found };
        let by = |volume: &str| {
            let mut names: Vec<String> = cache.by("volume", volume).iter().map(|c| c.name_any()).collect();
            names.sort();
            names
        };
        let mut see = |event: Event<VolumeClaim>| {
            writer.apply_watcher_event(&event);
            match event {
                Event::Apply(claim) | Event::Delete(claim) => cache.note(named(&claim)),
                Event::InitDone => cache.note_all(),
                _ => {}
            }
        };
        for name in ["a", "b"] {
            see(Event::Apply(claim(name, "v")));
        }
        assert_eq!((by("v"), by("w")), (vec!["a".into(), "b".into()], vec![]));
        see(Event::Apply(claim("a", "w")));
        assert_eq!((by("v"), by("w")), (vec!["b".to_owned()], vec!["a".to_owned()]));
        see(Event::Delete(claim("b", "v")));
        assert_eq!(by("v"), Vec::<String>::new());
        // After a gap: one has gone, one has changed, one is new.
        see(Event::Apply(claim("c", "v")));
        see(Event::Init);
        for (name, volume) in [("c", "w"), ("d", "v")] {
            see(Event::InitApply(claim(name, volume)));
        }
        see(Event::InitDone);
        assert_eq!((by("v"), by("w")), (vec!["d".to_owned()], vec!["c".to_owned()]));
        let found = cache.found.read().unwrap();
        assert_eq!((found.keys_of.len(), found.by_key.len()), (2, 2), "nothing is kept of what has gone");
    }
}
