//! Functions that wait for effects of the controller and the agents.

use std::fmt::Debug;
use std::future::Future;
use std::time::{Duration, Instant};

use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use kube::core::object::HasStatus;
use kube::{Resource, ResourceExt};
use reservoir::api::SharedPersistentVolume;
use reservoir::api::condition::{self, READY};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::Cluster;

/// Waits until `look` finds something, at most for a minute.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, look: impl Fn() -> F) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "waited a minute for: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until the object's `Ready` has the reason; returns its message.
pub async fn until_reason<K>(api: &Api<K>, name: &str, reason: &str) -> String
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + HasStatus,
    K::Status: serde::Serialize,
{
    let last = std::sync::Mutex::new(String::new());
    let started = Instant::now();
    loop {
        let object = api.get_opt(name).await.unwrap();
        let status = object.as_ref().and_then(|o| o.status()).map(|s| serde_json::to_value(s).unwrap());
        let conditions =
            status.as_ref().map(|s| serde_json::from_value(s["conditions"].clone()).unwrap_or_default());
        let conditions: Vec<_> = conditions.unwrap_or_default();
        let ready = condition::get(&conditions, READY);
        if let Some(ready) = ready {
            if ready.reason == reason {
                return ready.message.clone();
            }
            *last.lock().unwrap() = format!("{}: {}", ready.reason, ready.message);
        }
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "waited a minute for {} {name} to be {reason}; it is {}",
            K::kind(&()),
            last.lock().unwrap()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until a condition of a volume has the reason; returns its message.
pub async fn until_said(cluster: &Cluster, name: &str, type_: &str, reason: &str) -> String {
    let volumes: Api<SharedPersistentVolume> = cluster.all();
    until(&format!("{type_} of volume {name} is {reason}"), || async {
        let status = volumes.get(name).await.unwrap().status?;
        condition::get(&status.conditions, type_).filter(|c| c.reason == reason).map(|c| c.message.clone())
    })
    .await
}

/// Waits until the object is gone.
pub async fn until_gone<K>(api: &Api<K>, name: &str)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    until(&format!("{} {name} is gone", K::kind(&())), || async {
        api.get_opt(name).await.unwrap().is_none().then_some(())
    })
    .await;
}

/// Removes the object's finalizers and deletes it, as a person in a hurry does.
pub async fn strip_and_delete<K>(api: &Api<K>, name: &str)
where
    K: Resource + Clone + Debug + DeserializeOwned,
{
    let strip = json!({"metadata": {"finalizers": null}});
    // The controller may have added a finalizer again, and would handle the end then.
    until(&format!("{name} is deleted without a finalizer"), || async {
        let bare = api.patch(name, &PatchParams::default(), &Patch::Merge(&strip)).await.unwrap();
        let seen = Preconditions { uid: None, resource_version: bare.resource_version() };
        api.delete(name, &DeleteParams { preconditions: Some(seen), ..Default::default() }).await.ok()
    })
    .await;
    until(&format!("{name} is gone"), || async { api.get_opt(name).await.unwrap().is_none().then_some(()) })
        .await;
}

/// Every object of Reservoir, as `kind namespace/name`.
pub async fn everything(cluster: &Cluster) -> std::collections::BTreeMap<String, DynamicObject> {
    let mut all = std::collections::BTreeMap::new();
    for crd in reservoir::api::crds() {
        let kind = &crd.spec.names.kind;
        let one = json!({"apiVersion": "reservoir.dev/v1alpha1", "kind": kind, "metadata": {"name": "any"}});
        let api = cluster.untyped(&serde_json::from_value(one).unwrap());
        let found = api.list(&Default::default()).await.unwrap().items;
        for object in found {
            let name = format!("{kind} {}/{}", object.namespace().unwrap_or_default(), object.name_any());
            all.insert(name, object);
        }
    }
    all
}
