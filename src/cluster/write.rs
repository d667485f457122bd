//! Requests to the API server: live reads and writes.
//!
//! A write that decides something is a compare-and-swap with the resourceVersion that the decision is based on (S15).
//! Each writer has its own field manager for server-side apply of a status, so controller and agent never undo each
//! other.

use std::fmt::Debug;
use std::io::{BufReader, Cursor, Read};
use std::sync::Arc;
use std::time::Duration;

use futures::executor::block_on;
use futures::{AsyncRead, AsyncReadExt};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::authentication::v1::{SelfSubjectReview, UserInfo};
use kube::api::{Api, DeleteParams, GetParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::object::HasStatus;
use kube::core::{PartialObjectMeta, Request, Status};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use crate::api::condition::{BACKED, DISK_HEALTHY, INTACT, NEARLY_FULL, SEALED};
use crate::api::{
    AGENT_MANAGER, DiskReservation, FINALIZER, NodeDisk, RoleSubscription, SharedPersistentVolume,
    VolumeClaim, VolumeRole,
};
use crate::telemetry;

/// Why an object could not be read or written.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Another writer changed the object after the read: the reconcile starts again.
    #[error("another writer changed {0} at the same time; the reconcile starts again")]
    Conflict(String),
    /// The API server refused the request, or was not reached.
    #[error("failed to {action} {object}")]
    Api {
        /// Verb of the request.
        action: &'static str,
        /// Kind and name of the object.
        object: String,
        /// The API server's answer.
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

    /// The API server's answer, if there was one.
    fn status(&self) -> Option<&Status> {
        match self {
            Self::Api { source, .. } => match &**source {
                kube::Error::Api(status) => Some(status),
                _ => None,
            },
            Self::Conflict(_) => None,
        }
    }

    /// True if the API server answered 403.
    pub fn is_forbidden(&self) -> bool {
        self.status().is_some_and(|status| status.code == 403)
    }

    /// The API server's message, if others have to act first: a permission is missing, the object is invalid or too
    /// large, or admission refuses (F3). A webhook chooses any code; a webhook that cannot be reached is an error 500.
    pub fn refusal(&self) -> Option<String> {
        let is_refusal = |status: &&Status| match status.code {
            401 | 404 | 408..=410 | 429 => false,
            500 => status.message.contains("webhook"),
            code => (400..500).contains(&code),
        };
        self.status().filter(is_refusal).map(|status| status.message.clone())
    }

    /// The failed request with the API server's message, or else with the causes.
    pub fn report(&self) -> String {
        self.status().map_or_else(|| telemetry::chain(self), |status| format!("{self}: {}", status.message))
    }

    /// The pause that the API server asks for.
    pub(super) fn retry_after(&self) -> Duration {
        let details = self.status().and_then(|status| status.details.as_ref());
        Duration::from_secs(details.map_or(0, |details| details.retry_after_seconds.into()))
    }

    /// The `error` label of metrics, by status code. Webhooks choose their reasons freely, so reasons would be
    /// unbounded labels.
    pub fn label(&self) -> &'static str {
        if let Self::Conflict(_) = self {
            return "Conflict";
        }
        match self.status().map_or(0, |status| status.code) {
            0 => "Unreachable",
            400 => "BadRequest",
            401 => "Unauthorized",
            403 => "Forbidden",
            404 => "NotFound",
            409 => "AlreadyExists",
            413 => "TooLarge",
            422 => "Invalid",
            429 => "TooManyRequests",
            503 => "Unavailable",
            504 => "Timeout",
            _ => "Api",
        }
    }
}

/// A kind of ours with a status. The agent writes the fields that are listed here, and the controller all others.
pub trait Owned: HasStatus<Status: Clone + Default + PartialEq + Serialize> {
    /// The JSON names of the agent's fields.
    const AGENT_FIELDS: &'static [&'static str] = &[];
    /// The types of the agent's conditions.
    const AGENT_CONDITIONS: &'static [&'static str] = &[];

    /// The fields of `status` that the field manager owns.
    fn part_of(manager: &str, status: &Self::Status) -> Value {
        let is_agent = manager == AGENT_MANAGER;
        let mut part = serde_json::to_value(status).unwrap_or_default();
        if let Value::Object(fields) = &mut part {
            if let Some(Value::Array(conditions)) = fields.get_mut("conditions") {
                let is_agents = |c: &Value| Self::AGENT_CONDITIONS.iter().any(|type_| c["type"] == *type_);
                conditions.retain(|c| is_agents(c) == is_agent);
            }
            fields.retain(|key, _| {
                key == "conditions" || Self::AGENT_FIELDS.contains(&key.as_str()) == is_agent
            });
        }
        part
    }
}

impl Owned for NodeDisk {
    const AGENT_FIELDS: &'static [&'static str] = &[
        "capacity",
        "systemReserved",
        "allocatable",
        "enforcement",
        "keepsReadOnly",
        "transfer",
        "otherDisk",
        "devices",
        "orphans",
        "unlistedOrphans",
    ];
    const AGENT_CONDITIONS: &'static [&'static str] = &[DISK_HEALTHY];
}

impl Owned for SharedPersistentVolume {
    const AGENT_FIELDS: &'static [&'static str] = &["node", "digest", "files", "bytes", "verified"];
    const AGENT_CONDITIONS: &'static [&'static str] = &[BACKED, NEARLY_FULL, SEALED, INTACT];
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

/// Writes `desired` as the manager's part of the status, unless `current` already has that part. Fails with
/// [`Error::Conflict`] if the object has changed since `current` was read.
pub async fn write_status<K: Kind + Owned>(
    api: &Api<K>,
    current: &K,
    desired: &K::Status,
    manager: &str,
) -> Result<Option<K>, Error> {
    // Most reconciles end here. To compare parts costs more.
    if current.status() == Some(desired) {
        return Ok(None);
    }
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

/// A live read sends no resourceVersion. The API server then answers from etcd's quorum, and not from its watch cache.
const LIVE: GetParams = GetParams { resource_version: None };

fn live(params: &ListParams) -> ListParams {
    ListParams { resource_version: LIVE.resource_version, version_match: None, ..params.clone() }
}

/// True for a segment of a path. A claim may name `../diskreservations/r` as its volume, and kube puts each name into the
/// path of the request as it is.
fn is_segment(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"/?#%".contains(&byte);
    !matches!(name, "" | "." | "..") && name.bytes().all(is_plain)
}

/// Reads an object live; `None`: no object has the name.
pub async fn get<K: Kind>(api: &Api<K>, name: &str) -> Result<Option<K>, Error> {
    if !is_segment(name) {
        return Ok(None);
    }
    match api.get_with(name, &LIVE).await {
        Ok(object) => Ok(Some(object)),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(None),
        Err(e) => Err(Error::new::<K>("read", name, e)),
    }
}

/// Reads an object live; `None`: the object is gone, and perhaps replaced by another one of the same name.
pub async fn get_same<K: Kind>(api: &Api<K>, seen: &K) -> Result<Option<K>, Error> {
    Ok(get(api, &seen.name_any()).await?.filter(|now| now.uid() == seen.uid()))
}

/// Bytes that no short answer has. A short one is decoded at once, without another thread.
const SHORT: u64 = 1 << 20;

/// Lists objects live. A long answer is decoded while it arrives: the text of a list of large objects would not fit into
/// the memory limit (A9).
pub async fn list<K: Kind>(api: &Api<K>, params: &ListParams) -> Result<Vec<K>, Error> {
    #[derive(Deserialize)]
    struct List<T> {
        items: Option<Vec<T>>,
    }

    let answer = async {
        let request =
            Request::new(api.resource_url()).list(&live(params)).map_err(kube::Error::BuildRequest)?;
        let mut body = Box::pin(api.clone().into_client().request_stream(request).await?);
        let mut text = Vec::new();
        (&mut body).take(SHORT).read_to_end(&mut text).await.map_err(kube::Error::ReadEvents)?;
        let decoded = if (text.len() as u64) < SHORT {
            serde_json::from_slice(&text)
        } else {
            let body = BufReader::new(Cursor::new(text).chain(Blocking(body)));
            spawn_blocking(|| serde_json::from_reader(body))
                .await
                .map_err(|panic| kube::Error::Service(panic.into()))?
        };
        decoded.map_err(kube::Error::SerdeError)
    };
    let list: List<K> = answer.await.map_err(|e| Error::new::<K>("list", "objects", e))?;
    Ok(list.items.unwrap_or_default())
}

/// Reads an answer on a thread that may block.
struct Blocking<R>(R);

impl<R: AsyncRead + Unpin> Read for Blocking<R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        block_on(self.0.read(buf))
    }
}

/// Lists the metadata of objects live.
pub async fn list_metadata<K: Kind>(
    api: &Api<K>,
    params: &ListParams,
) -> Result<Vec<PartialObjectMeta<K>>, Error> {
    let listed = api.list_metadata(&live(params)).await;
    listed.map(|list| list.items).map_err(|e| Error::new::<K>("list", "objects", e))
}

/// Applies a whole object as its only writer.
pub async fn apply<K: Kind>(api: &Api<K>, object: &K, manager: &str) -> Result<K, Error> {
    let name = object.name_any();
    let params = PatchParams::apply(manager).force();
    api.patch(&name, &params, &Patch::Apply(object)).await.map_err(|e| Error::new::<K>("apply", &name, e))
}

/// Changes fields of an object that another writer owns. A missing object is no error.
pub async fn merge<K: Kind>(api: &Api<K>, name: &str, fields: &Value) -> Result<(), Error> {
    merged::<K>(name, api.patch(name, &PatchParams::default(), &Patch::Merge(fields)).await)
}

/// Same as [`merge`], as a compare-and-swap on the object that was read (S15); returns the new object.
pub async fn merge_seen<K: Kind>(api: &Api<K>, seen: &K, fields: Value) -> Result<Option<K>, Error> {
    let name = seen.name_any();
    let done = api.patch(&name, &PatchParams::default(), &Patch::Merge(as_seen(seen, fields))).await;
    unless_missing::<K>(&name, done)
}

/// Dry run of [`merge_seen`]: fails if the API server would refuse the change.
pub async fn may_merge_seen<K: Kind>(api: &Api<K>, seen: &K, fields: Value) -> Result<(), Error> {
    let params = PatchParams { dry_run: true, ..Default::default() };
    let name = seen.name_any();
    merged::<K>(&name, api.patch(&name, &params, &Patch::Merge(as_seen(seen, fields))).await)
}

/// Same as [`merge_seen`], for fields of the status.
pub async fn merge_status_seen<K: Kind>(api: &Api<K>, seen: &K, fields: Value) -> Result<Option<K>, Error> {
    let name = seen.name_any();
    let patch = Patch::Merge(as_seen(seen, fields));
    unless_missing::<K>(&name, api.patch_status(&name, &PatchParams::default(), &patch).await)
}

/// The fields, with the `resourceVersion` that was read.
fn as_seen<K: Resource>(seen: &K, mut fields: Value) -> Value {
    fields["metadata"]["resourceVersion"] = json!(seen.meta().resource_version);
    fields
}

/// Same as [`merge`], for fields of the status.
pub async fn merge_status<K: Kind>(api: &Api<K>, name: &str, fields: &Value) -> Result<(), Error> {
    merged::<K>(name, api.patch_status(name, &PatchParams::default(), &Patch::Merge(fields)).await)
}

fn merged<K: Kind>(name: &str, done: kube::Result<K>) -> Result<(), Error> {
    unless_missing(name, done).map(drop)
}

/// The new object; `None`: the object is gone.
fn unless_missing<K: Kind>(name: &str, done: kube::Result<K>) -> Result<Option<K>, Error> {
    match done {
        Ok(written) => Ok(Some(written)),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(None),
        Err(e) => Err(Error::new::<K>("change", name, e)),
    }
}

/// Creates an object; `None`: the name is taken.
pub async fn create<K: Kind>(api: &Api<K>, object: &K) -> Result<Option<K>, Error> {
    match api.create(&PostParams::default(), object).await {
        Ok(made) => Ok(Some(made)),
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(None),
        Err(e) => Err(Error::new::<K>("create", &object.name_any(), e)),
    }
}

/// Dry run of a creation: fails if the API server would refuse to create the object.
pub async fn may_create<K: Kind>(api: &Api<K>, object: &K) -> Result<(), Error> {
    match api.create(&PostParams { dry_run: true, ..Default::default() }, object).await {
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        done => done.map(drop).map_err(|e| Error::new::<K>("create", &object.name_any(), e)),
    }
}

/// The name of the client's user, as the API server knows it.
pub async fn username(client: &Client) -> Result<String, Error> {
    Ok(user(client).await?.username.unwrap_or_default())
}

/// The UID of the Node that the client's pod runs on, from its token (`ServiceAccountTokenPodNodeInfo`).
pub async fn node_uid(client: &Client) -> Result<Option<String>, Error> {
    let extra = user(client).await?.extra.unwrap_or_default();
    Ok(extra.get("authentication.kubernetes.io/node-uid").and_then(|uids| uids.first().cloned()))
}

async fn user(client: &Client) -> Result<UserInfo, Error> {
    let reviews: Api<SelfSubjectReview> = Api::all(client.clone());
    let made = reviews.create(&PostParams::default(), &SelfSubjectReview::default()).await;
    let review = made.map_err(|e| Error::new::<SelfSubjectReview>("create", "of the client's user", e))?;
    Ok(review.status.and_then(|status| status.user_info).unwrap_or_default())
}

/// Deletes the object with that UID, and no other object of the name. A missing object is no error.
pub async fn delete<K: Kind>(api: &Api<K>, name: &str, uid: Option<String>) -> Result<(), Error> {
    let preconditions = uid.map(|uid| Preconditions { uid: Some(uid), resource_version: None });
    match delete_if(api, name, preconditions).await {
        Err(Error::Conflict(_)) => Ok(()),
        result => result,
    }
}

/// Deletes the object if nobody has written the object since the read.
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

/// True if our finalizer is on the object.
pub fn finalizer_present<K: Resource>(object: &K) -> bool {
    object.finalizers().iter().any(|f| f == FINALIZER)
}

/// Adds or removes our finalizer, by compare-and-swap.
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

/// The API for objects of one namespace.
pub fn namespaced<K>(client: &Client, namespace: &str) -> Api<K>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
{
    Api::namespaced(client.clone(), namespace)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::DiskReservation;

    /// D8: the API server's sentence, and no dump of its answer.
    #[test]
    fn d8_a_refusal_is_reported_in_its_words() {
        let status: Status =
            serde_json::from_value(json!({"status": "Failure", "code": 422, "reason": "Invalid",
            "message": "spec.size: a reservation has at least 1Mi", "metadata": {}}))
            .unwrap();
        let error = Error::new::<DiskReservation>("apply", "n1.a.eng", kube::Error::Api(Box::new(status)));
        let said = "failed to apply DiskReservation n1.a.eng: spec.size: a reservation has at least 1Mi";
        assert_eq!(error.report(), said);
        assert_eq!(error.refusal().as_deref(), Some("spec.size: a reservation has at least 1Mi"));
    }

    /// A9: a short answer is decoded at once, and a long one while it arrives.
    #[tokio::test]
    async fn a9_short_and_long_lists_are_read_whole() {
        for count in [0, 1, 20_000] {
            let item = json!({"metadata": {"name": "one-of-many-of-the-same-name"}, "spec": {"role": "eng"}});
            let list = json!({"metadata": {}, "items": vec![item; count]}).to_string();
            assert_eq!(list.len() as u64 >= SHORT, count == 20_000);
            let service = tower::service_fn(move |_: http::Request<kube::client::Body>| {
                let answer = http::Response::new(kube::client::Body::from(list.clone().into_bytes()));
                async move { Ok::<_, std::io::Error>(answer) }
            });
            let roles: Api<VolumeRole> = Api::all(Client::new(service, "default"));
            let read = super::list(&roles, &ListParams::default()).await.unwrap();
            assert_eq!(read.len(), count);
            assert!(read.iter().all(|role| role.spec.role == "eng"));
        }
    }
}
