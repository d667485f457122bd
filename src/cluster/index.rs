//! What is known of pods and PersistentVolumeClaims: a few strings of each, for there are many and they are large.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt::Debug;
use std::sync::{Arc, RwLock};

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use crate::api::{
    DRIVER, LABEL_CLAIM_UID, PV_PREFIX, PVC_PREFIX, PodRef, STORAGE_PROVISIONER, Size, volume_for_pvc,
};

/// A namespace and a name, with a slash between them, which neither has.
pub type Name = Arc<str>;

/// See [`Name`].
pub fn name_of(namespace: &str, name: &str) -> Name {
    format!("{namespace}/{name}").into()
}

/// Takes note of objects, each by its UID; says which names that concerns.
pub trait Index<K>: Default + Send + Sync + 'static {
    /// The object is as it is now, or is gone.
    fn note(&mut self, object: &K, gone: bool) -> Vec<Name>;
    /// Forgets all that are not `alive`.
    fn retain(&mut self, alive: &HashSet<Box<str>>) -> Vec<Name>;
}

/// An index that a task keeps.
#[derive(Clone, Default)]
pub struct Indexed<I>(Arc<RwLock<I>>);

impl<I> Indexed<I> {
    /// Follows all objects; `changed` hears of each (namespace, name) that something else is known of now, and `ready`
    /// is called when a listing is complete.
    pub fn follow<K>(
        &self,
        api: Api<K>,
        config: watcher::Config,
        changed: impl Fn(&str, &str) + Send + 'static,
        ready: impl Fn() + Send + 'static,
    ) -> BoxFuture<'static, ()>
    where
        I: Index<K>,
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let index = self.0.clone();
        let mut alive = HashSet::new();
        watch(api, config)
            .default_backoff()
            .for_each(move |event| {
                let mut index = index.write().unwrap_or_else(|e| e.into_inner());
                let mut listed = false;
                let touched = match event {
                    Ok(Event::Apply(object)) => index.note(&object, false),
                    Ok(Event::Delete(object)) => index.note(&object, true),
                    Ok(Event::Init) => {
                        alive = HashSet::new();
                        vec![]
                    }
                    Ok(Event::InitApply(object)) => {
                        alive.insert(object.uid().unwrap_or_default().into());
                        index.note(&object, false)
                    }
                    Ok(Event::InitDone) => {
                        listed = true;
                        index.retain(&std::mem::take(&mut alive))
                    }
                    Err(error) => {
                        tracing::warn!(kind = %K::kind(&()), %error, "watch interrupted");
                        vec![]
                    }
                };
                drop(index);
                if listed {
                    ready();
                }
                for (namespace, name) in touched.iter().filter_map(|name| name.split_once('/')) {
                    changed(namespace, name);
                }
                std::future::ready(())
            })
            .boxed()
    }
}

/// Which running or pending pods use which PersistentVolumeClaim.
pub type PodIndex = Indexed<Pods>;

/// See [`PodIndex`].
#[derive(Default)]
pub struct Pods {
    /// A pod uses claims of its own namespace only.
    users: HashMap<Name, Vec<User>>,
    claims_of: HashMap<Arc<str>, Box<[Name]>>,
}

struct User {
    name: Box<str>,
    uid: Arc<str>,
}

impl PodIndex {
    /// The pods that use the PersistentVolumeClaim `name`, by name.
    pub fn users(&self, namespace: &str, name: &str) -> Vec<PodRef> {
        let index = self.0.read().unwrap_or_else(|e| e.into_inner());
        let users = index.users.get(&name_of(namespace, name)).map_or(&[][..], Vec::as_slice);
        let pod = |user: &User| PodRef {
            namespace: namespace.to_owned(),
            name: user.name.to_string(),
            uid: user.uid.to_string(),
        };
        users.iter().map(pod).collect()
    }
}

impl Pods {
    fn forget(&mut self, uid: &str, used: &[Name]) {
        for name in used {
            if let Some(users) = self.users.get_mut(name) {
                users.retain(|user| *user.uid != *uid);
                if users.is_empty() {
                    self.users.remove(name);
                }
            }
        }
    }
}

impl Index<Pod> for Pods {
    fn note(&mut self, pod: &Pod, gone: bool) -> Vec<Name> {
        let uid: Arc<str> = pod.uid().unwrap_or_default().into();
        let ends = gone || is_terminal(pod);
        let used: BTreeSet<(String, String)> =
            if ends { [].into() } else { claims_of(pod).into_iter().collect() };
        let used: Box<[Name]> = used.iter().map(|(namespace, name)| name_of(namespace, name)).collect();
        let before = self.claims_of.get(&uid).map_or(&[][..], |names| names);
        if *before == *used {
            return vec![];
        }
        let before = self.claims_of.remove(&uid).unwrap_or_default();
        self.forget(&uid, &before);
        for name in &used {
            let users = self.users.entry(name.clone()).or_insert_with(|| Vec::with_capacity(1));
            users.push(User { name: pod.name_any().into(), uid: uid.clone() });
            users.sort_by(|a, b| (&a.name, &a.uid).cmp(&(&b.name, &b.uid)));
        }
        let touched: BTreeSet<Name> = before.iter().chain(&used).cloned().collect();
        if !used.is_empty() {
            self.claims_of.insert(uid, used);
        }
        touched.into_iter().collect()
    }

    fn retain(&mut self, alive: &HashSet<Box<str>>) -> Vec<Name> {
        let gone: Vec<Arc<str>> =
            self.claims_of.keys().filter(|uid| !alive.contains(&***uid)).cloned().collect();
        let mut touched = BTreeSet::new();
        for uid in gone {
            let used = self.claims_of.remove(&uid).unwrap_or_default();
            self.forget(&uid, &used);
            touched.extend(used);
        }
        touched.into_iter().collect()
    }
}

/// Which PersistentVolumeClaims were made for which claim, which are to get a volume from us, and how they are. Of others
/// nothing is kept.
pub type PvcIndex = Indexed<Pvcs>;

/// See [`PvcIndex`].
#[derive(Default)]
pub struct Pvcs(HashMap<Name, Pvc>);

#[derive(PartialEq)]
struct Pvc {
    uid: Box<str>,
    /// UID of the claim that it was made for, or name of the volume that is made for it.
    stands_for: Box<str>,
    seen: SeenPvc,
}

/// How a PersistentVolumeClaim was seen last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeenPvc {
    /// Whether it is bound.
    pub bound: bool,
    /// How many bytes Kubernetes takes it for, once that was said.
    pub capacity: Option<u64>,
    /// How many bytes it asks for.
    pub requested: u64,
}

impl PvcIndex {
    /// The PersistentVolumeClaim of that name that was made for the claim of that UID, or for which the volume of that
    /// name is made; `None`: there is none.
    pub fn standing_for(&self, namespace: &str, name: &str, what: &str) -> Option<SeenPvc> {
        let index = self.0.read().unwrap_or_else(|e| e.into_inner());
        index.0.get(&name_of(namespace, name)).filter(|pvc| *pvc.stands_for == *what).map(|pvc| pvc.seen)
    }

    /// The names of those for which the volume of that name is made.
    pub fn names_for(&self, volume: &str) -> Vec<Name> {
        let index = self.0.read().unwrap_or_else(|e| e.into_inner());
        let named = index.0.iter().filter(|(_, pvc)| pvc.is_plain() && *pvc.stands_for == *volume);
        named.map(|(name, _)| name.clone()).collect()
    }

    /// The UID of the PersistentVolumeClaim of that name, if it gets its volume from us, and how it was seen last.
    pub fn plain(&self, name: &str) -> Option<(String, SeenPvc)> {
        let index = self.0.read().unwrap_or_else(|e| e.into_inner());
        index.0.get(name).filter(|pvc| pvc.is_plain()).map(|pvc| (pvc.uid.to_string(), pvc.seen))
    }

    /// The names of those that get their volume from us.
    pub fn names_of_plain(&self) -> Vec<Name> {
        let index = self.0.read().unwrap_or_else(|e| e.into_inner());
        index.0.iter().filter(|(_, pvc)| pvc.is_plain()).map(|(name, _)| name.clone()).collect()
    }
}

impl Pvc {
    fn of(pvc: &PersistentVolumeClaim) -> Option<Self> {
        let uid = pvc.uid().unwrap_or_default();
        let ours =
            pvc.annotations().get(STORAGE_PROVISIONER).is_some_and(|provisioner| provisioner == DRIVER);
        let made_for = pvc.labels().get(LABEL_CLAIM_UID).cloned();
        // Label and annotation are people's to take off; what it is bound to never changes.
        let has = || pvc.spec.as_ref()?.volume_name.as_ref()?.strip_prefix(PV_PREFIX).map(str::to_owned);
        let stands_for = made_for.or_else(|| ours.then(|| volume_for_pvc(&uid))).or_else(has)?;
        let bytes = |quantities: Option<&BTreeMap<String, Quantity>>| {
            Size::written(&quantities?.get("storage")?.0).bytes().ok()
        };
        let (spec, status) = (pvc.spec.as_ref(), pvc.status.as_ref());
        let seen = SeenPvc {
            bound: status.and_then(|s| s.phase.as_deref()) == Some("Bound"),
            capacity: bytes(status.and_then(|s| s.capacity.as_ref())),
            requested: bytes(spec.and_then(|s| s.resources.as_ref()?.requests.as_ref())).unwrap_or(0),
        };
        Some(Self { uid: uid.into(), stands_for: stands_for.into(), seen })
    }

    fn is_plain(&self) -> bool {
        self.stands_for.strip_prefix(PVC_PREFIX) == Some(&self.uid)
    }
}

impl Index<PersistentVolumeClaim> for Pvcs {
    fn note(&mut self, pvc: &PersistentVolumeClaim, gone: bool) -> Vec<Name> {
        let name = name_of(&pvc.namespace().unwrap_or_default(), &pvc.name_any());
        let Some(is) = Pvc::of(pvc).filter(|_| !gone) else {
            return self.0.remove_entry(&name).map(|(name, _)| name).into_iter().collect();
        };
        // One that is being deleted, or waits for its volume, is looked at whenever something happens to it.
        let settled = pvc.metadata.deletion_timestamp.is_none() && (is.seen.bound || !is.is_plain());
        if settled && self.0.get(&name) == Some(&is) {
            return vec![];
        }
        self.0.insert(name.clone(), is);
        vec![name]
    }

    fn retain(&mut self, alive: &HashSet<Box<str>>) -> Vec<Name> {
        let gone = self.0.extract_if(|_, pvc| !alive.contains(&pvc.uid));
        gone.map(|(name, _)| name).collect()
    }
}

/// A pod by namespace, name and UID.
pub fn pod_ref(pod: &Pod) -> PodRef {
    PodRef {
        namespace: pod.namespace().unwrap_or_default(),
        name: pod.name_any(),
        uid: pod.uid().unwrap_or_default(),
    }
}

/// Whether a pod has ended for good and so uses nothing any more.
pub fn is_terminal(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// The PersistentVolumeClaims that a pod names, as (namespace, name); those too that Kubernetes makes for it alone, and calls
/// after it and its volume.
pub fn claims_of(pod: &Pod) -> Vec<(String, String)> {
    let namespace = pod.namespace().unwrap_or_default();
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let claims = volumes.filter_map(|v| match (&v.persistent_volume_claim, &v.ephemeral) {
        (Some(claim), _) => Some(claim.claim_name.clone()),
        (None, Some(_)) => Some(format!("{}-{}", pod.name_any(), v.name)),
        (None, None) => None,
    });
    claims.map(|name| (namespace.clone(), name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, from_value, json};

    /// X1, Q4.
    #[test]
    fn a_pod_uses_what_is_made_for_it_alone_too() {
        let volumes = json!([
            {"name": "a", "persistentVolumeClaim": {"claimName": "data"}},
            {"name": "b", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}},
            {"name": "c", "emptyDir": {}},
        ]);
        let pod: Pod = from_value(json!({"metadata": {"namespace": "team", "name": "p"},
            "spec": {"containers": [], "volumes": volumes}}))
        .unwrap();
        assert_eq!(claims_of(&pod), [("team".into(), "data".into()), ("team".into(), "p-b".into())]);
    }

    fn pod(uid: &str, claims: &[&str], phase: &str) -> Pod {
        let volume = |claim: &&str| json!({"name": claim, "persistentVolumeClaim": {"claimName": claim}});
        let volumes: Vec<Value> = claims.iter().map(volume).collect();
        from_value(json!({"metadata": {"namespace": "team", "name": format!("pod-{uid}"), "uid": uid},
            "spec": {"containers": [], "volumes": volumes}, "status": {"phase": phase}}))
        .unwrap()
    }

    fn pvc(name: &str, uid: &str, claim: &str, phase: &str) -> PersistentVolumeClaim {
        from_value(json!({"metadata": {"namespace": "team", "name": name, "uid": uid,
            "labels": {LABEL_CLAIM_UID: claim}}, "status": {"phase": phase}}))
        .unwrap()
    }

    fn told(touched: Vec<Name>) -> Vec<String> {
        touched.iter().map(|name| name.to_string()).collect()
    }

    #[test]
    fn pods_are_known_by_the_claims_that_they_use_as_long_as_they_run() {
        let index = PodIndex::default();
        let note = |pod: Pod, gone| told(index.0.write().unwrap().note(&pod, gone));
        let users = |claim: &str| {
            index
                .users("team", claim)
                .into_iter()
                .map(|pod| pod.to_string() + " " + &pod.uid)
                .collect::<Vec<_>>()
        };
        let none: [&str; 0] = [];
        assert_eq!(note(pod("2", &["a", "a"], "Pending"), false), ["team/a"]);
        assert_eq!(note(pod("1", &["a", "b"], "Pending"), false), ["team/a", "team/b"]);
        assert_eq!(note(pod("1", &["a", "b"], "Running"), false), none, "nothing is new");
        assert_eq!(users("a"), ["team/pod-1 1", "team/pod-2 2"]);
        assert_eq!(index.users("other", "a"), []);
        assert_eq!(note(pod("2", &["a"], "Succeeded"), false), ["team/a"]);
        assert_eq!(note(pod("2", &["a"], "Succeeded"), true), none);
        assert_eq!((users("a"), users("b")), (vec!["team/pod-1 1".into()], vec!["team/pod-1 1".to_owned()]));
        assert_eq!(note(pod("3", &["b"], "Running"), false), ["team/b"]);
        // After a gap: one has gone.
        assert_eq!(told(index.0.write().unwrap().retain(&["3".into()].into())), ["team/a", "team/b"]);
        assert_eq!((users("a"), users("b")), (vec![], vec!["team/pod-3 3".to_owned()]));
        assert_eq!(note(pod("3", &["b"], "Running"), true), ["team/b"]);
        let index = index.0.read().unwrap();
        assert_eq!((index.users.len(), index.claims_of.len()), (0, 0), "nothing is kept of what has gone");
    }

    #[test]
    fn what_was_made_for_a_claim_is_known_by_its_name_and_uid() {
        let index = PvcIndex::default();
        let note = |pvc: PersistentVolumeClaim, gone| told(index.0.write().unwrap().note(&pvc, gone));
        let none: [&str; 0] = [];
        assert_eq!(note(pvc("a", "1", "claim-a", "Pending"), false), ["team/a"]);
        let bound = |name: &str, claim: &str| index.standing_for("team", name, claim).map(|seen| seen.bound);
        assert_eq!(bound("a", "claim-a"), Some(false));
        assert_eq!(note(pvc("a", "1", "claim-a", "Bound"), false), ["team/a"]);
        assert_eq!(note(pvc("a", "1", "claim-a", "Bound"), false), none, "nothing is new");
        assert_eq!(bound("a", "claim-a"), Some(true));
        assert_eq!(bound("a", "another"), None);
        assert_eq!(note(pvc("b", "2", "claim-b", "Bound"), false), ["team/b"]);
        // After a gap: one has gone.
        assert_eq!(told(index.0.write().unwrap().retain(&["2".into()].into())), ["team/a"]);
        assert_eq!(bound("a", "claim-a"), None);
        assert_eq!(note(pvc("b", "2", "claim-b", "Bound"), true), ["team/b"]);
        // Somebody took the label off: it has its PersistentVolume still.
        let mut bare = pvc("c", "3", "", "Bound");
        bare.metadata.labels = None;
        bare.spec.get_or_insert_default().volume_name = Some("reservoir-claim-c".into());
        assert_eq!((note(bare.clone(), false), bound("c", "claim-c")), (vec!["team/c".into()], Some(true)));
        assert_eq!(note(bare, true), ["team/c"]);
        assert!(index.0.read().unwrap().0.is_empty(), "nothing is kept of what has gone");
    }

    #[test]
    fn p1_what_gets_its_volume_from_us_is_known_and_nothing_of_others() {
        let index = PvcIndex::default();
        let note = |pvc: &PersistentVolumeClaim| told(index.0.write().unwrap().note(pvc, false));
        let none: [&str; 0] = [];
        let mut plain = pvc("a", "1", "", "Pending");
        plain.metadata.labels = None;
        assert_eq!(
            (note(&plain), index.plain("team/a")),
            (told(vec![]), None),
            "nobody said that it is ours"
        );
        let provisioner = |name: &str| Some([(STORAGE_PROVISIONER.to_owned(), name.to_owned())].into());
        plain.metadata.annotations = provisioner("another.example");
        assert_eq!((note(&plain), index.plain("team/a")), (told(vec![]), None));
        plain.metadata.annotations = provisioner(DRIVER);
        for _ in 0..2 {
            assert_eq!(note(&plain), ["team/a"], "it waits: whatever happens to it may be what it waits for");
        }
        assert_eq!(index.plain("team/a").map(|(uid, seen)| (uid, seen.bound)), Some(("1".into(), false)));
        assert!(index.standing_for("team", "a", "pvc-1").is_some());
        plain.status.as_mut().unwrap().phase = Some("Bound".into());
        assert_eq!((note(&plain), note(&plain)), (vec!["team/a".to_owned()], told(vec![])));
        assert_eq!(note(&pvc("b", "2", "claim-b", "Bound")), ["team/b"]);
        assert_eq!(index.names_of_plain().iter().map(|n| &**n).collect::<Vec<_>>(), ["team/a"]);
        assert_eq!(note(&pvc("b", "2", "claim-b", "Bound")), none);
    }
}
