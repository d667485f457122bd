//! A bound claim's PersistentVolume and PersistentVolumeClaim: how ordinary pods use the volume (C5).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    CSIPersistentVolumeSource, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, ObjectReference,
    PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimSpec, PersistentVolumeSpec,
    VolumeNodeAffinity, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::ListParams;
use kube::{Api, Resource, ResourceExt};
use serde_json::json;

use crate::api::condition::{Verdict, reason};
use crate::api::{
    AccessMode, DRIVER, LABEL_CLAIM_NAMESPACE, LABEL_CLAIM_UID, LABEL_MANAGED_BY, LABEL_PVC_UID,
    LABEL_VOLUME_UID, MANAGED_BY, PV_PREFIX, SharedPersistentVolume, Size, TOPOLOGY_NODE, VolumeClaim,
    VolumeMode, volume_for_pvc,
};
use crate::cluster::{self, SeenPvc};
use crate::plan::bind;
use crate::plan::plain::{self, Fate, pvc_of};
use crate::plan::resize::size_now;

use super::Error;
use super::context::{Context, VOLUME};

/// The annotation of a PersistentVolume by which the kubelet gives a group to every pod that mounts it, whatever its
/// driver and access mode (kubelet, `getPVVolumeGidAnnotationValue` and `GetExtraSupplementalGroupsForPod`; V11).
const GID: &str = "pv.beta.kubernetes.io/gid";

/// The annotation of a PersistentVolume by which Kubernetes leaves its end to whom it names.
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";

/// Name of the PersistentVolume of a claim.
fn pv_name(claim: &VolumeClaim) -> String {
    pv_name_of(&claim.uid().unwrap_or_default())
}

fn pv_name_of(claim_uid: &str) -> String {
    format!("{PV_PREFIX}{claim_uid}")
}

fn apis(claim: &VolumeClaim, ctx: &Context) -> (Api<PersistentVolume>, Api<PersistentVolumeClaim>) {
    let namespace = claim.namespace().unwrap_or_default();
    (Api::all(ctx.client.clone()), cluster::namespaced(&ctx.client, &namespace))
}

/// Whether the PersistentVolumeClaim was made for the claim, or the claim for it (P1). Its label is people's to take off; which
/// PersistentVolume it has never changes.
fn made_for(pvc: &PersistentVolumeClaim, claim: &VolumeClaim) -> bool {
    let labelled = || pvc.labels().get(LABEL_CLAIM_UID).is_some_and(|uid| Some(uid) == claim.uid().as_ref());
    let has = || pvc.spec.as_ref().and_then(|spec| spec.volume_name.as_ref()) == Some(&pv_name(claim));
    match pvc_of(claim) {
        Some(uid) => pvc.metadata.uid.as_deref() == Some(uid),
        None => labelled() || has(),
    }
}

/// The claim's PersistentVolumeClaim, as it was seen last; `None`: none was seen.
fn seen(claim: &VolumeClaim, ctx: &Context) -> Option<SeenPvc> {
    let stands_for = match pvc_of(claim) {
        Some(uid) => volume_for_pvc(uid),
        None => claim.uid().unwrap_or_default(),
    };
    ctx.stores.pvcs.made_for(&claim.namespace().unwrap_or_default(), &claim.name_any(), &stands_for)
}

/// Whether the claim's PersistentVolumeClaim is there.
pub(super) async fn is_there(claim: &VolumeClaim, ctx: &Context) -> Result<bool, Error> {
    Ok(seen(claim, ctx).is_some() || is_ours(claim, ctx).await?)
}

/// Makes both if they are not there; says the name of the PersistentVolume, or why they cannot be made. With `moved`, the
/// volume is in a node of another name now (D3): Kubernetes lets no PersistentVolume go elsewhere, so both are made anew.
/// Kubernetes keeps the old ones for as long as a pod that runs uses them.
pub(super) async fn ensure(
    claim: &VolumeClaim,
    volume: &SharedPersistentVolume,
    moved: bool,
    ctx: &Context,
) -> Result<Result<String, Verdict>, Error> {
    let name = pv_name(claim);
    let (volumes, claims) = apis(claim, ctx);
    if moved
        && let Some(old) = cluster::get(&volumes, &name).await?
        && !is_here(&old, volume)
    {
        let node = node_of(volume);
        if pvc_of(claim).is_some() {
            // It is somebody's, and what it is bound to is never changed.
            return Ok(Err(Verdict::no(
                reason::BINDING,
                format!(
                    "its volume is on node {node} now, where its PersistentVolume does not lead: set that one's reclaim policy \
                     to Retain, delete the PersistentVolumeClaim, and claim volume {} with a VolumeClaim",
                    volume.name_any()
                ),
            )));
        }
        remove(claim, ctx).await?;
        let said =
            format!("its volume is on node {node} now; its PersistentVolumeClaim is made anew for that");
        return Ok(Err(Verdict::no(reason::BINDING, said)));
    }
    // One that is not bound yet proves nothing of its PersistentVolume, which may be bound to one that was deleted.
    if let Some(seen) = seen(claim, ctx).filter(|seen| seen.bound && !moved) {
        let other = seen.capacity.is_some_and(|bytes| bytes != size_now(volume).bytes_or_zero());
        if other {
            // What people see of a size that changed (V7).
            cluster::merge(&volumes, &name, &json!({ "spec": { "capacity": storage(volume) } })).await?;
            let status = json!({ "status": { "capacity": storage(volume) } });
            cluster::merge_status(&claims, &claim.name_any(), &status).await?;
        }
        return Ok(Ok(name));
    }
    let there = cluster::get(&claims, &claim.name_any()).await?;
    if there.as_ref().is_some_and(|pvc| !made_for(pvc, claim)) {
        return Ok(Err(Verdict::no(
            reason::NAME_TAKEN,
            format!(
                "a PersistentVolumeClaim {} that Reservoir did not make is in the way; delete it, or claim under another name",
                claim.name_any()
            ),
        )));
    }
    let mut wanted = persistent_volume(claim, volume);
    if pvc_of(claim).is_some() {
        let Some(pvc) = &there else {
            return Ok(Err(Verdict::no(reason::BINDING, "its PersistentVolumeClaim has just gone")));
        };
        provision_for(&mut wanted, pvc, claim, ctx);
    }
    // Where the one is, the other is mostly, too.
    let mut pv = if there.is_some() { cluster::get(&volumes, &name).await? } else { None };
    if pv.is_none() && cluster::create(&volumes, &wanted).await?.is_none() {
        pv = cluster::get(&volumes, &name).await?;
    }
    let bound_to = |pv: &PersistentVolume| pv.spec.as_ref()?.claim_ref.as_ref()?.uid.clone();
    let useless = |pv: &PersistentVolume| {
        let other = bound_to(pv).is_some_and(|uid| there.as_ref().and_then(ResourceExt::uid) != Some(uid));
        other || pv.metadata.deletion_timestamp.is_some()
    };
    if let Some(pv) = pv.filter(useless) {
        // Somebody deleted the PersistentVolumeClaim: Kubernetes never binds its PersistentVolume to another one.
        cluster::delete(&volumes, &name, pv.uid()).await?;
        return Ok(Err(Verdict::no(
            reason::BINDING,
            "its PersistentVolumeClaim was deleted and is being made anew",
        )));
    }
    if there.is_none() {
        cluster::create(&claims, &persistent_volume_claim(claim, volume)).await?;
    }
    Ok(Ok(name))
}

/// How a bound claim stands.
pub(super) fn standing(claim: &VolumeClaim, ctx: &Context) -> Verdict {
    let name = claim.name_any();
    match seen(claim, ctx) {
        Some(seen) if seen.bound => {
            Verdict::yes(reason::BOUND, format!("pods may use PersistentVolumeClaim {name}"))
        }
        _ => Verdict::no(reason::BINDING, format!("PersistentVolumeClaim {name} is being bound")),
    }
}

/// Whether the PersistentVolumeClaim of the claim's name is the one that was made for it.
pub(super) async fn is_ours(claim: &VolumeClaim, ctx: &Context) -> Result<bool, Error> {
    let (_, claims) = apis(claim, ctx);
    Ok(cluster::get(&claims, &claim.name_any()).await?.is_some_and(|pvc| made_for(&pvc, claim)))
}

/// Removes both, the PersistentVolumeClaim first; says whether no pod can use it any more. Another claim's are left
/// alone.
///
/// The PersistentVolume may stay for a moment, until Kubernetes has seen that nothing is bound to it: without its
/// PersistentVolumeClaim no pod gets to it.
pub(super) async fn remove(claim: &VolumeClaim, ctx: &Context) -> Result<bool, Error> {
    let (volumes, claims) = apis(claim, ctx);
    if let Some(pvc) = cluster::get(&claims, &claim.name_any()).await?.filter(|pvc| made_for(pvc, claim)) {
        if pvc.metadata.deletion_timestamp.is_none() {
            cluster::delete(&claims, &pvc.name_any(), pvc.uid()).await?;
        }
        return Ok(false);
    }
    cluster::delete(&volumes, &pv_name(claim), None).await?;
    Ok(true)
}

/// What a PersistentVolumeClaim that is gone leaves of its volume: it is destroyed, under the guard that is for all (X5), or
/// like any other from now on (P4). To be called before its PersistentVolume goes, which has the word.
pub(super) async fn let_go(claim: &VolumeClaim, ctx: &Context) -> Result<(), Error> {
    let volumes: Api<SharedPersistentVolume> = Api::all(ctx.client.clone());
    let name = claim.spec.volume.clone().unwrap_or_default();
    let Some(volume) = cluster::get(&volumes, &name).await?.filter(|volume| plain::is_own(claim, volume))
    else {
        return Ok(());
    };
    if volume.spec.retire || volume.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    let pvs: Api<PersistentVolume> = Api::all(ctx.client.clone());
    let pv = cluster::get(&pvs, &pv_name(claim)).await?;
    // From when it is on the volume's list it may have one, whoever was interrupted before he said so.
    let may_have_had_one = bind::is_bound(&volume, claim)
        || claim.status.as_ref().is_some_and(|status| status.persistent_volume.is_some());
    match plain::fate(pv.as_ref(), may_have_had_one) {
        Fate::Retire => {
            cluster::merge_seen(&volumes, &volume, json!({ "spec": { "retire": true } })).await?;
        }
        Fate::Keep => {
            let gone = format!("{}/{}", claim.namespace().unwrap_or_default(), claim.name_any());
            release(&volume, &format!("PersistentVolumeClaim {gone} is gone"), ctx).await?;
        }
    }
    Ok(())
}

/// Makes a volume that was made for a PersistentVolumeClaim one like any other, for the reason that `why` says.
async fn release(volume: &SharedPersistentVolume, why: &str, ctx: &Context) -> Result<(), Error> {
    let volumes: Api<SharedPersistentVolume> = Api::all(ctx.client.clone());
    let labels = json!({ LABEL_PVC_UID: null, LABEL_CLAIM_NAMESPACE: null });
    cluster::merge_seen(&volumes, volume, json!({ "metadata": { "labels": labels } })).await?;
    let name = volume.name_any();
    let said = format!("{why} and its data stays: claim volume {name} with a VolumeClaim, or delete it");
    ctx.events.publish(volume, None, true, "Release", "Retained", &said).await;
    Ok(())
}

/// Releases a volume that was made for a PersistentVolumeClaim and has nobody any more who sees to its end, because the
/// claim's finalizer was taken off by hand, its end was called off, or it came into being after all when its claim was gone:
/// nobody could claim it, ever. The claim is there before the volume is, and for good. Whether this was so.
pub(super) async fn release_lost(volume: &SharedPersistentVolume, ctx: &Context) -> Result<bool, Error> {
    let Some(uid) = pvc_of(volume) else { return Ok(false) };
    let claimed = volume.status.as_ref().is_some_and(|status| !status.claims.is_empty());
    if volume.spec.retire || claimed {
        return Ok(false);
    }
    let cached = ctx.stores.claims.by(VOLUME, &volume.name_any());
    if cached.iter().any(|claim| plain::is_own(claim, volume)) {
        return Ok(false);
    }
    if let Some(namespace) = volume.labels().get(LABEL_CLAIM_NAMESPACE) {
        let claims: Api<VolumeClaim> = cluster::namespaced(&ctx.client, namespace);
        let own = ListParams::default().labels(&format!("{LABEL_PVC_UID}={uid}"));
        if !cluster::list_metadata(&claims, &own).await?.is_empty() {
            return Ok(false);
        }
    }
    release(volume, "the VolumeClaim of the PersistentVolumeClaim that it was made for is gone", ctx).await?;
    Ok(true)
}

/// Makes the PersistentVolume what a PersistentVolumeClaim that was there before is bound to: Kubernetes looks at its class,
/// its access modes and the UID, and leaves to us what it says about the end.
fn provision_for(pv: &mut PersistentVolume, pvc: &PersistentVolumeClaim, claim: &VolumeClaim, ctx: &Context) {
    let asked = pvc.spec.clone().unwrap_or_default();
    let class = asked.storage_class_name.as_deref().and_then(|name| ctx.stores.classes.get(name));
    pv.annotations_mut().insert(PROVISIONED_BY.to_owned(), DRIVER.to_owned());
    if let Some(spec) = &mut pv.spec {
        // When in doubt, it is kept: there may have been one that said so.
        let is_first = claim.status.as_ref().is_none_or(|status| status.persistent_volume.is_none());
        let policy = class.filter(|_| is_first).and_then(|class| class.reclaim_policy.clone());
        let policy = policy.unwrap_or_else(|| "Retain".to_owned());
        spec.persistent_volume_reclaim_policy = Some(policy);
        spec.storage_class_name = asked.storage_class_name;
        spec.access_modes = asked.access_modes;
        if let Some(claim_ref) = &mut spec.claim_ref {
            claim_ref.uid = pvc.uid();
        }
    }
}

/// Removes the PersistentVolume that was made for a claim of that UID on that volume, if there is one.
pub(super) async fn forget(claim_uid: &str, volume_uid: &str, ctx: &Context) -> Result<(), Error> {
    let volumes: Api<PersistentVolume> = Api::all(ctx.client.clone());
    let name = pv_name_of(claim_uid);
    let found = cluster::get(&volumes, &name).await?;
    match found.filter(|pv| pv.labels().get(LABEL_VOLUME_UID).is_some_and(|uid| uid == volume_uid)) {
        Some(pv) => Ok(cluster::delete(&volumes, &name, pv.uid()).await?),
        None => Ok(()),
    }
}

fn node_of(volume: &SharedPersistentVolume) -> String {
    volume.status.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default()
}

/// Whether the PersistentVolume sends pods to the volume's node.
fn is_here(pv: &PersistentVolume, volume: &SharedPersistentVolume) -> bool {
    pv.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref()) == Some(&affinity(volume))
}

fn affinity(volume: &SharedPersistentVolume) -> VolumeNodeAffinity {
    let here = NodeSelectorRequirement {
        key: TOPOLOGY_NODE.to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node_of(volume)]),
    };
    let term = NodeSelectorTerm { match_expressions: Some(vec![here]), match_fields: None };
    VolumeNodeAffinity { required: Some(NodeSelector { node_selector_terms: vec![term] }) }
}

fn access_mode(claim: &VolumeClaim, volume: &SharedPersistentVolume) -> String {
    match (volume.spec.shared.is_some(), claim.spec.mode) {
        (false, _) => "ReadWriteOncePod",
        (true, AccessMode::ReadWrite) => "ReadWriteMany",
        (true, AccessMode::ReadOnly) => "ReadOnlyMany",
    }
    .to_owned()
}

fn volume_mode(volume: &SharedPersistentVolume) -> String {
    match volume.spec.volume_mode {
        VolumeMode::Filesystem => "Filesystem",
        VolumeMode::Block => "Block",
    }
    .to_owned()
}

fn labels(claim: &VolumeClaim, volume: &SharedPersistentVolume) -> BTreeMap<String, String> {
    let pairs = [
        (LABEL_MANAGED_BY, MANAGED_BY.to_owned()),
        (LABEL_VOLUME_UID, volume.uid().unwrap_or_default()),
        (LABEL_CLAIM_UID, claim.uid().unwrap_or_default()),
        (LABEL_CLAIM_NAMESPACE, claim.namespace().unwrap_or_default()),
    ];
    pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
}

fn storage(volume: &SharedPersistentVolume) -> BTreeMap<String, Quantity> {
    BTreeMap::from([("storage".to_owned(), Quantity(Size::as_str(size_now(volume)).to_owned()))])
}

fn persistent_volume(claim: &VolumeClaim, volume: &SharedPersistentVolume) -> PersistentVolume {
    let (volume_uid, claim_uid) = (volume.uid().unwrap_or_default(), claim.uid().unwrap_or_default());
    PersistentVolume {
        metadata: ObjectMeta {
            name: Some(pv_name(claim)),
            labels: Some(labels(claim, volume)),
            annotations: volume.spec.gid.map(|gid| BTreeMap::from([(GID.to_owned(), gid.to_string())])),
            ..Default::default()
        },
        spec: Some(PersistentVolumeSpec {
            access_modes: Some(vec![access_mode(claim, volume)]),
            capacity: Some(storage(volume)),
            claim_ref: Some(ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("PersistentVolumeClaim".to_owned()),
                name: Some(claim.name_any()),
                namespace: claim.namespace(),
                ..Default::default()
            }),
            csi: Some(CSIPersistentVolumeSource {
                driver: DRIVER.to_owned(),
                // One handle per claim: the kubelet takes two volumes of one handle on a node for one.
                volume_handle: format!("{volume_uid}.{claim_uid}"),
                volume_attributes: Some(BTreeMap::from([("volume".to_owned(), volume.name_any())])),
                ..Default::default()
            }),
            node_affinity: Some(affinity(volume)),
            persistent_volume_reclaim_policy: Some("Retain".to_owned()),
            volume_mode: Some(volume_mode(volume)),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn persistent_volume_claim(claim: &VolumeClaim, volume: &SharedPersistentVolume) -> PersistentVolumeClaim {
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(claim.name_any()),
            namespace: claim.namespace(),
            labels: Some(labels(claim, volume)),
            owner_references: claim.controller_owner_ref(&()).map(|owner| vec![owner]),
            ..Default::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec![access_mode(claim, volume)]),
            resources: Some(VolumeResourceRequirements { requests: Some(storage(volume)), limits: None }),
            // Empty, not absent: no default class may turn it into something else.
            storage_class_name: Some(String::new()),
            volume_mode: Some(volume_mode(volume)),
            volume_name: Some(pv_name(claim)),
            ..Default::default()
        }),
        ..Default::default()
    }
}
