//! Caches that follow the API server. They tell what to look at, never what is safe.

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard};

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Resource, ResourceExt};
use lz4_flex::block::{compress_prepend_size_with_dict, decompress_size_prepended_with_dict};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch::{Receiver, Sender, channel};

use super::index::{Name, name_of};

/// All objects of a kind as they were seen last, by name, and by what they name.
///
/// Of the latter it keeps hashes: who asks gets all that fit and, hardly ever, one that does not.
pub struct Cache<K> {
    how: How<K>,
    sample: Mutex<Arc<[u8]>>,
    seen: RwLock<Seen<K>>,
    filled: Receiver<bool>,
}

/// What an object is found by: a kind of name, and the name.
pub type Key<'a> = (&'static str, &'a str);

/// Tells all keys of an object.
type TellKeys<K> = fn(&K, &mut dyn FnMut(Key));

/// How a cache keeps objects.
pub struct How<K> {
    /// Tells all keys of an object.
    pub keys: TellKeys<K>,
    /// Takes off what nobody looks at.
    pub trim: fn(&mut K),
    /// Kept as compressed text, which takes a fraction of the memory and has to be read at each look: for kinds of which
    /// there are many.
    pub packed: bool,
}

impl<K> Default for How<K> {
    fn default() -> Self {
        Self { keys: |_, _| {}, trim: |_| {}, packed: false }
    }
}

struct Seen<K> {
    objects: HashMap<Name, Kept<K>>,
    by_key: HashMap<u64, Vec<Name>>,
}

struct Kept<K> {
    object: Form<K>,
    keys: Box<[u64]>,
}

impl<K: DeserializeOwned> Kept<K> {
    fn object(&self) -> Arc<K> {
        match &self.object {
            Form::Whole(object) => object.clone(),
            Form::Packed(packed) => packed.object::<K>().into(),
        }
    }
}

enum Form<K> {
    Whole(Arc<K>),
    Packed(Packed),
}

/// An object that is longer has a longer list than others, and would be a poor sample of them; LZ4 looks back 64 KiB.
const LONGEST_SAMPLE: usize = 16 * 1024;

/// An object's JSON text, compressed: what of it is not in the sample.
struct Packed {
    text: Box<[u8]>,
    sample: Arc<[u8]>,
}

impl Packed {
    /// `sample` is the text of another object of that kind. It is replaced by a text that is clearly longer: objects gain
    /// status while they live, and the first one that is seen may have none yet.
    fn of<K: Serialize>(object: &K, sample: &Mutex<Arc<[u8]>>) -> Option<Self> {
        let text = serde_json::to_vec(object).ok()?;
        let mut kept = sample.lock().unwrap_or_else(|e| e.into_inner());
        if text.len() > kept.len() + kept.len() / 4 && text.len() < LONGEST_SAMPLE {
            *kept = text.as_slice().into();
        }
        let sample = kept.clone();
        drop(kept);
        Some(Self { text: compress_prepend_size_with_dict(&text, &sample).into(), sample })
    }

    fn object<K: DeserializeOwned>(&self) -> K {
        let text = decompress_size_prepended_with_dict(&self.text, &self.sample);
        serde_json::from_slice(&text.expect("it was packed by us")).expect("it was written by us")
    }
}

fn hashed(key: Key) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

impl<K: Resource<DynamicType = ()> + Serialize + DeserializeOwned> Cache<K> {
    /// The object of that name, which is not namespaced.
    pub fn get(&self, name: &str) -> Option<Arc<K>> {
        self.seen().objects.get(name).map(Kept::object)
    }

    /// The object of that name in that namespace.
    pub fn get_in(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.get(&name_of(namespace, name))
    }

    /// All objects.
    pub fn all(&self) -> Vec<Arc<K>> {
        self.seen().objects.values().map(Kept::object).collect()
    }

    /// The names of all objects.
    pub fn names(&self) -> Vec<Name> {
        self.seen().objects.keys().cloned().collect()
    }

    /// The objects that have the key.
    pub fn by(&self, kind: &'static str, name: &str) -> Vec<Arc<K>> {
        let seen = self.seen();
        let named = seen.by_key.get(&hashed((kind, name))).map_or(&[][..], Vec::as_slice);
        named.iter().filter_map(|name| seen.objects.get(name).map(Kept::object)).collect()
    }

    /// Their names.
    pub fn names_by(&self, kind: &'static str, name: &str) -> Vec<Name> {
        self.seen().by_key.get(&hashed((kind, name))).cloned().unwrap_or_default()
    }

    /// Waits until all objects have been listed once.
    pub async fn wait_until_filled(&self) {
        // That nobody fills it any more ends whoever waits as well.
        let _ = self.filled.clone().wait_for(|filled| *filled).await;
    }

    fn seen(&self) -> RwLockReadGuard<'_, Seen<K>> {
        self.seen.read().unwrap_or_else(|e| e.into_inner())
    }

    /// Takes note of what an object is now.
    fn note(&self, object: K) {
        let mut keys = Vec::new();
        (self.how.keys)(&object, &mut |key| keys.push(hashed(key)));
        keys.sort_unstable();
        keys.dedup();
        let name = named(&object);
        let packed = if self.how.packed { Packed::of(&object, &self.sample) } else { None };
        let object = packed.map_or_else(|| Form::Whole(object.into()), Form::Packed);
        self.change(name, Some(Kept { object, keys: keys.into() }));
    }

    fn forget(&self, name: Name) {
        self.change(name, None);
    }

    /// Forgets what was not among those that were listed.
    fn keep_only(&self, listed: &HashSet<Name>) {
        self.names().into_iter().filter(|name| !listed.contains(name)).for_each(|name| self.forget(name));
    }

    fn change(&self, name: Name, now: Option<Kept<K>>) {
        let mut seen = self.seen.write().unwrap_or_else(|e| e.into_inner());
        let (name, before) =
            seen.objects.remove_entry(&name).map_or((name, None), |(name, kept)| (name, Some(kept)));
        let before = before.map(|kept| kept.keys).unwrap_or_default();
        let keys = now.as_ref().map_or(&[][..], |kept| &kept.keys);
        for key in before.iter().filter(|key| !keys.contains(key)) {
            if let Some(names) = seen.by_key.get_mut(key) {
                names.retain(|other| *other != name);
                if names.is_empty() {
                    seen.by_key.remove(key);
                }
            }
        }
        for key in keys.iter().filter(|key| !before.contains(key)) {
            seen.by_key.entry(*key).or_insert_with(|| Vec::with_capacity(1)).push(name.clone());
        }
        if let Some(now) = now {
            seen.objects.insert(name, now);
        }
    }
}

/// What a cache calls an object: its name, behind its namespace if it has one.
pub fn named<K: Resource<DynamicType = ()>>(object: &K) -> Name {
    match object.namespace() {
        Some(namespace) => name_of(&namespace, &object.name_any()),
        None => object.name_any().into(),
    }
}

/// A cache and the task that keeps it.
pub struct Cached<K> {
    /// What was seen last.
    pub cache: Arc<Cache<K>>,
    /// Follows the API server; runs until dropped.
    pub task: BoxFuture<'static, ()>,
}

/// Caches all objects of a kind. `changed` hears of each that appears, changes or goes, after the cache has it; `listed`
/// of each time that everything was listed anew: what went in between was heard of by nobody.
pub fn cache<K>(
    api: Api<K>,
    config: watcher::Config,
    how: How<K>,
    changed: impl Fn(&K) + Send + 'static,
    listed: impl Fn() + Send + 'static,
) -> Cached<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static,
{
    let (filled, is_filled) = channel(false);
    let cache = Arc::new(Cache::new(how, is_filled));
    let kept = cache.clone();
    let mut follower = Follower { cache: kept, listing: HashSet::new(), filled };
    let task = watch(api, config)
        .default_backoff()
        .for_each(move |event| {
            match event {
                Ok(event) => match follower.follow(event) {
                    Followed::Changed(object) => changed(&object),
                    Followed::Listed => listed(),
                    Followed::Nothing => {}
                },
                // The stream goes on by itself, with back-off.
                Err(error) => tracing::warn!(kind = %K::kind(&()), %error, "watch interrupted"),
            }
            std::future::ready(())
        })
        .boxed();
    Cached { cache, task }
}

impl<K> Cache<K> {
    fn new(how: How<K>, filled: Receiver<bool>) -> Self {
        let seen = Seen { objects: HashMap::new(), by_key: HashMap::new() };
        Self { how, sample: Mutex::new([].into()), seen: RwLock::new(seen), filled }
    }
}

/// Keeps a cache.
struct Follower<K> {
    cache: Arc<Cache<K>>,
    /// What the listing that is under way had so far.
    listing: HashSet<Name>,
    filled: Sender<bool>,
}

enum Followed<K> {
    Changed(K),
    Listed,
    Nothing,
}

impl<K> Follower<K>
where
    K: Resource<DynamicType = ()> + Clone + Serialize + DeserializeOwned,
{
    fn follow(&mut self, event: Event<K>) -> Followed<K> {
        match event {
            Event::Apply(mut object) => {
                self.trim(&mut object);
                self.cache.note(object.clone());
                Followed::Changed(object)
            }
            Event::Delete(object) => {
                self.cache.forget(named(&object));
                Followed::Changed(object)
            }
            Event::Init => {
                self.listing = HashSet::new();
                Followed::Nothing
            }
            Event::InitApply(mut object) => {
                self.trim(&mut object);
                self.listing.insert(named(&object));
                self.cache.note(object);
                Followed::Nothing
            }
            Event::InitDone => {
                self.cache.keep_only(&std::mem::take(&mut self.listing));
                self.filled.send_replace(true);
                Followed::Listed
            }
        }
    }

    fn trim(&self, object: &mut K) {
        trim_metadata(object);
        (self.cache.how.trim)(object);
    }
}

/// Takes off what no decision looks at, of an object that is kept.
pub fn trim_metadata<K: Resource>(object: &mut K) {
    object.meta_mut().managed_fields = None;
    object.annotations_mut().remove(LAST_APPLIED);
}

/// A second copy of an object that `kubectl apply` keeps in it.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{VolumeClaim, VolumeClaimStatus};

    fn claim(name: &str, volume: &str) -> VolumeClaim {
        let mut claim = VolumeClaim::new(name, Default::default());
        claim.metadata.namespace = Some("team".into());
        claim.spec.volume = Some(volume.into());
        claim
    }

    #[test]
    fn what_objects_have_in_common_is_kept_once() {
        let sample = Mutex::new([].into());
        let full = |i: usize| {
            let mut claim = claim(&format!("c{i}"), &format!("v{i}"));
            claim.status = Some(VolumeClaimStatus {
                node_name: Some("node-1".into()),
                persistent_volume: Some(format!("reservoir-{i}")),
                ..Default::default()
            });
            claim
        };
        let packed = |claim: &VolumeClaim| Packed::of(claim, &sample).unwrap();
        // The first one seen has no status yet, and is no good sample.
        let kept: Vec<_> =
            [claim("c", "v")].into_iter().chain((0..9).map(full)).map(|c| (packed(&c), c)).collect();
        for (packed, claim) in &kept {
            assert_eq!(packed.object::<VolumeClaim>().spec, claim.spec);
            assert_eq!(packed.object::<VolumeClaim>().status, claim.status);
        }
        let text = |i: usize| serde_json::to_vec(&kept[i].1).unwrap().len();
        assert!(kept[9].0.text.len() < text(9) / 4, "{} of {}", kept[9].0.text.len(), text(9));
        let mut samples: Vec<_> = kept.iter().map(|(packed, _)| packed.sample.as_ptr()).collect();
        samples.dedup();
        assert_eq!(samples.len(), 2);
    }

    #[test]
    fn what_names_something_is_found_by_it_as_long_as_it_does() {
        for packed in [false, true] {
            let how = How::<VolumeClaim> {
                keys: |claim, key| key(("volume", claim.spec.volume.as_deref().unwrap())),
                packed,
                ..Default::default()
            };
            let (filled, is_filled) = channel(false);
            let cache = Arc::new(Cache::new(how, is_filled));
            let mut follower = Follower { cache: cache.clone(), listing: HashSet::new(), filled };
            let by = |volume: &str| {
                let mut names: Vec<String> =
                    cache.by("volume", volume).iter().map(|c| c.name_any()).collect();
                names.sort();
                names
            };
            let mut see = |event| drop(follower.follow(event));
            for name in ["a", "b"] {
                see(Event::Apply(claim(name, "v")));
            }
            assert_eq!((by("v"), by("w")), (vec!["a".into(), "b".into()], vec![]));
            see(Event::Apply(claim("a", "w")));
            assert_eq!((by("v"), by("w")), (vec!["b".to_owned()], vec!["a".to_owned()]));
            see(Event::Delete(claim("b", "v")));
            assert_eq!((by("v"), cache.get_in("team", "b").is_none()), (vec![], true));
            // After a gap: one has gone, one has changed, one is new.
            see(Event::Apply(claim("c", "v")));
            assert!(!*cache.filled.borrow());
            see(Event::Init);
            for (name, volume) in [("c", "w"), ("d", "v")] {
                see(Event::InitApply(claim(name, volume)));
            }
            see(Event::InitDone);
            assert!(*cache.filled.borrow());
            assert_eq!((by("v"), by("w")), (vec!["d".to_owned()], vec!["c".to_owned()]));
            assert_eq!(cache.get_in("team", "d").unwrap().spec, claim("d", "v").spec);
            let seen = cache.seen();
            assert_eq!((seen.objects.len(), seen.by_key.len()), (2, 2), "nothing is kept of what has gone");
        }
    }
}
