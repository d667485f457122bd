//! Writes that decide something carry the resourceVersion that they were decided on (S15).
//!
//! Status is written by server-side apply with a field manager for each writer, so the controller and the agent
//! never undo each other; the `resourceVersion` in the applied object makes it a compare-and-swap.

use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::NamespaceResourceScope;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::PartialObjectMeta;
use kube::core::object::HasStatus;
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::api::condition::{BACKED, DISK_HEALTHY};
use crate::api::{
    AGENT_MANAGER, DiskReservation, FINALIZER, NodeDisk, RoleSubscription, SharedPersistentVolume,
    VolumeClaim, VolumeRole,
};

/// Why something could not be read or written.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Somebody else wrote the object in between; look again.
    #[error("{0} was changed meanwhile")]
    Conflict(String),
    /// The API server did not do it.
    #[error("failed to {action} {object}")]
    Api {
        /// Verb.
        action: &'static str,
        /// Kind and name.
        object: String,
        /// The API server's word.
        source: Arc<kube::Error>,
    },
}

impl Error {
    fn new<K: Resource<DynamicType = ()>>(action: &'static str, name: &str, source: kube::Error) -> Self {
        let object = format!("{} {name}", K::kind(&()));
        match source {
            kube::Error::Api(status) if status.is_conflict() => Self::Conflict(object),
            source => Self::Api { action, object, source: Arc::new(source) },
        }
    }

    /// Whether the API server refused it.
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::Api { source, .. } if matches!(&**source, kube::Error::Api(status) if status.code == 403))
    }

    /// What the API server said when it refused it for good: a right is missing, or a field is not as it has to be.
    pub fn refusal(&self) -> Option<String> {
        match self {
            Self::Api { source, .. } => match &**source {
                kube::Error::Api(status) if [403, 422].contains(&status.code) => Some(status.message.clone()),
                _ => None,
            },
            Self::Conflict(_) => None,
        }
    }

    /// Name of the variant, for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Conflict(_) => "Conflict",
            Self::Api { .. } => "Api",
        }
    }
}

/// A kind of ours with a status: which part of it the agent writes. All else is the controller's.
pub trait Owned: HasStatus<Status: Clone + Default + Serialize> {
    /// The agent's fields, as they are called in JSON.
    const AGENT_FIELDS: &'static [&'static str] = &[];
    /// The agent's condition type.
    const AGENT_CONDITION: &'static str = "";

    /// What of `status` belongs to the field manager.
    fn part_of(manager: &str, status: &Self::Status) -> Value {
        let is_agent = manager == AGENT_MANAGER;
        let mut part = serde_json::to_value(status).unwrap_or_default();
        if let Value::Object(fields) = &mut part {
            if let Some(Value::Array(conditions)) = fields.get_mut("conditions") {
                conditions.retain(|c| (c["type"] == Self::AGENT_CONDITION) == is_agent);
            }
            fields.retain(|key, _| {
                key == "conditions" || Self::AGENT_FIELDS.contains(&key.as_str()) == is_agent
            });
        }
        part
    }
}

impl Owned for NodeDisk {
    const AGENT_FIELDS: &'static [&'static str] =
        &["capacity", "systemReserved", "allocatable", "enforcement", "orphans"];
    const AGENT_CONDITION: &'static str = DISK_HEALTHY;
}

impl Owned for SharedPersistentVolume {
    const AGENT_FIELDS: &'static [&'static str] = &["node"];
    const AGENT_CONDITION: &'static str = BACKED;
}

impl Owned for DiskReservation {}
impl Owned for VolumeClaim {}
impl Owned for RoleSubscription {}
impl Owned for VolumeRole {}

/// Bounds that every kind of ours fulfils.
pub trait Kind:
    Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize + Send + Sync + 'static
{
}
impl<K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize + Send + Sync + 'static>
    Kind for K
{
}

/// Writes `desired` as the manager's part of the status, if it differs from what `current` has; fails with
/// [`Error::Conflict`] when the object is not the one that `current` is any more.
pub async fn write_status<K: Kind + Owned>(
    api: &Api<K>,
    current: &K,
    desired: &K::Status,
    manager: &str,
) -> Result<Option<K>, Error> {
    let name = current.name_any();
    let before = current.status().map_or(Value::Null, |status| K::part_of(manager, status));
    let desired = K::part_of(manager, desired);
    if before == desired {
        return Ok(None);
    }
    let patch = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": { "name": name, "namespace": current.namespace(), "uid": current.uid(), "resourceVersion": current.resource_version() },
        "status": desired,
    });
    let params = PatchParams::apply(manager).force();
    let written = api
        .patch_status(&name, &params, &Patch::Apply(&patch))
        .await
        .map_err(|e| Error::new::<K>("write the status of", &name, e))?;
    tracing::debug!(kind = %K::kind(&()), name, "status written");
    Ok(Some(written))
}

/// Reads an object by quorum; `None`: there is none.
pub async fn get<K: Kind>(api: &Api<K>, name: &str) -> Result<Option<K>, Error> {
    api.get_opt(name).await.map_err(|e| Error::new::<K>("read", name, e))
}

/// Reads an object anew by quorum; `None`: it is gone, whatever has its name now.
pub async fn get_same<K: Kind>(api: &Api<K>, seen: &K) -> Result<Option<K>, Error> {
    Ok(get(api, &seen.name_any()).await?.filter(|now| now.uid() == seen.uid()))
}

/// Lists objects by quorum: no resourceVersion is given, so the answer is not from a cache.
pub async fn list<K: Kind>(api: &Api<K>, params: &ListParams) -> Result<Vec<K>, Error> {
    api.list(params).await.map(|list| list.items).map_err(|e| Error::new::<K>("list", "objects", e))
}

/// The same, where names and UIDs are all that is looked at: nothing else is sent.
pub async fn list_metadata<K: Kind>(
    api: &Api<K>,
    params: &ListParams,
) -> Result<Vec<PartialObjectMeta<K>>, Error> {
    let listed = api.list_metadata(params).await;
    listed.map(|list| list.items).map_err(|e| Error::new::<K>("list", "objects", e))
}

/// Applies an object whole, as its only writer.
pub async fn apply<K: Kind>(api: &Api<K>, object: &K, manager: &str) -> Result<K, Error> {
    let name = object.name_any();
    let params = PatchParams::apply(manager).force();
    api.patch(&name, &params, &Patch::Apply(object)).await.map_err(|e| Error::new::<K>("apply", &name, e))
}

/// Changes fields of an object that somebody else decides on as a whole; one that is gone is left at that.
pub async fn merge<K: Kind>(api: &Api<K>, name: &str, fields: &Value) -> Result<(), Error> {
    merged::<K>(name, api.patch(name, &PatchParams::default(), &Patch::Merge(fields)).await)
}

/// The same of the very object that was seen: who wrote it since wins (S15).
pub async fn merge_seen<K: Kind>(api: &Api<K>, seen: &K, mut fields: Value) -> Result<(), Error> {
    fields["metadata"]["resourceVersion"] = json!(seen.resource_version());
    merge(api, &seen.name_any(), &fields).await
}

/// The same as [`merge`] in its status.
pub async fn merge_status<K: Kind>(api: &Api<K>, name: &str, fields: &Value) -> Result<(), Error> {
    merged::<K>(name, api.patch_status(name, &PatchParams::default(), &Patch::Merge(fields)).await)
}

fn merged<K: Kind>(name: &str, done: kube::Result<K>) -> Result<(), Error> {
    match done {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        Err(e) => Err(Error::new::<K>("change", name, e)),
    }
}

/// Creates an object; `None`: one of that name is there already.
pub async fn create<K: Kind>(api: &Api<K>, object: &K) -> Result<Option<K>, Error> {
    match api.create(&PostParams::default(), object).await {
        Ok(made) => Ok(Some(made)),
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(None),
        Err(e) => Err(Error::new::<K>("create", &object.name_any(), e)),
    }
}

/// Deletes the object of that UID, and no other of its name; one that is gone already is fine.
pub async fn delete<K: Kind>(api: &Api<K>, name: &str, uid: Option<String>) -> Result<(), Error> {
    let preconditions = uid.map(|uid| Preconditions { uid: Some(uid), resource_version: None });
    match delete_if(api, name, preconditions).await {
        Err(Error::Conflict(_)) => Ok(()),
        result => result,
    }
}

/// Deletes the object if it is still the one that was seen: nobody has written it since.
pub async fn delete_seen<K: Kind>(api: &Api<K>, seen: &K) -> Result<(), Error> {
    let preconditions = Preconditions { uid: seen.uid(), resource_version: seen.resource_version() };
    delete_if(api, &seen.name_any(), Some(preconditions)).await
}

async fn delete_if<K: Kind>(
    api: &Api<K>,
    name: &str,
    preconditions: Option<Preconditions>,
) -> Result<(), Error> {
    match api.delete(name, &DeleteParams { preconditions, ..Default::default() }).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        Err(e) => Err(Error::new::<K>("delete", name, e)),
    }
}

/// Whether our finalizer is on the object.
pub fn finalizer_present<K: Resource>(object: &K) -> bool {
    object.finalizers().iter().any(|f| f == FINALIZER)
}

/// Puts our finalizer on the object or takes it off, by compare-and-swap.
pub async fn set_finalizer<K: Kind>(api: &Api<K>, object: &K, present: bool) -> Result<(), Error> {
    let name = object.name_any();
    let mut finalizers: Vec<String> =
        object.finalizers().iter().filter(|f| *f != FINALIZER).cloned().collect();
    if present {
        finalizers.push(FINALIZER.to_owned());
    }
    let patch =
        json!({ "metadata": { "resourceVersion": object.resource_version(), "finalizers": finalizers } });
    match api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() && !present => Ok(()),
        Err(e) => Err(Error::new::<K>("set the finalizer of", &name, e)),
    }
}

/// The API for an object's own namespace.
pub fn namespaced<K>(client: &Client, namespace: &str) -> Api<K>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
{
    Api::namespaced(client.clone(), namespace)
}
