//! The objects of the cluster that the caller may list.

use std::collections::BTreeSet;

use anyhow::bail;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event, Namespace, Node, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client, Resource, ResourceExt};

use super::errors::{explain_api_error, explain_cluster_error};
use super::kind;
use super::output::note;
use crate::api::condition::{self, reason::NAME_TAKEN};
use crate::api::{
    CopyOf, DRIVER, DiskReservation, NodeDisk, Orphan, Role, RoleSubscription, SharedPersistentVolume,
    VolumeClaim, VolumeOffer, VolumeRole,
};
use crate::cluster::{self, Kind};
use crate::plan::own_pvc::pvc_of;
use crate::plan::pv_binding::earlier_claim;
use crate::plan::pvc_provisioner::{class, placement};
use crate::plan::{names, orphans};

/// The input of every view.
#[derive(Default)]
pub(super) struct Snapshot {
    pub disks: Vec<NodeDisk>,
    pub roles: Vec<VolumeRole>,
    pub reservations: Vec<DiskReservation>,
    pub volumes: Vec<SharedPersistentVolume>,
    pub subscriptions: Vec<RoleSubscription>,
    pub offers: Vec<VolumeOffer>,
    pub claims: Vec<VolumeClaim>,
    pub pods: Vec<Pod>,
    pub pvcs: Vec<PersistentVolumeClaim>,
    /// Names of the StorageClasses that Reservoir serves.
    pub classes: Vec<String>,
    /// The StorageClasses that Reservoir serves.
    pub our_classes: Vec<StorageClass>,
    /// The other StorageClasses.
    pub other_classes: Vec<StorageClass>,
    /// True if the caller may not list StorageClasses.
    pub classes_unseen: bool,
    /// Events of one namespace, for `why`.
    pub events: Vec<Event>,
    /// The nodes, for `why` of what runs on them.
    pub nodes: Vec<Node>,
    /// The Jobs of one namespace, for `why` of their pods.
    pub jobs: Vec<Job>,
    /// Workloads of one kind in one namespace, for `why`.
    pub workloads: Vec<DynamicObject>,
    /// The namespace of the question, if it is being deleted.
    pub ending_namespace: Option<String>,
    /// The kinds that the caller may not list, or not in all namespaces.
    pub denied: Vec<Denied>,
    /// Why no controller works, so that conditions may be out of date.
    pub leaderless: Option<String>,
}

/// A kind that the caller may not list.
pub(super) struct Denied {
    plural: String,
    within: Within,
}

/// The place in which the caller may not list a kind.
#[derive(PartialEq)]
enum Within {
    /// Anywhere: the kind has no namespace.
    Cluster,
    /// In all namespaces. The snapshot has the objects of this one.
    AllBut(String),
    /// In this namespace either.
    Namespace(String),
}

impl Within {
    fn note(&self, kinds: &str) -> String {
        match self {
            Self::Cluster => format!("you may not list {kinds}: ask for ClusterRole reservoir-viewer"),
            Self::AllBut(namespace) => {
                format!("you may not list {kinds} of all namespaces: only namespace {namespace} is shown")
            }
            Self::Namespace(namespace) => format!(
                "you may not list {kinds} of namespace {namespace}: ask for Kubernetes' ClusterRole view there"
            ),
        }
    }
}

#[cfg(test)]
impl Denied {
    pub fn unseen(kind: &kind::Kind) -> Self {
        Self { plural: kind.plural.to_owned(), within: Within::Cluster }
    }
}

impl Snapshot {
    /// Lists every kind. Namespaced kinds are listed in namespace `only`, or else in all namespaces. If the
    /// caller may not list all namespaces, they are listed in `namespace`.
    pub async fn read(client: &Client, only: Option<&str>, namespace: &str) -> anyhow::Result<Self> {
        let mut snapshot = Self::default();
        let denied = &mut snapshot.denied;
        snapshot.disks = list_cluster_wide(client, denied).await?;
        snapshot.roles = list_cluster_wide(client, denied).await?;
        snapshot.reservations = list_cluster_wide(client, denied).await?;
        snapshot.volumes = list_cluster_wide(client, denied).await?;
        snapshot.subscriptions = list_namespaced(client, only, namespace, denied).await?;
        snapshot.offers = list_namespaced(client, only, namespace, denied).await?;
        snapshot.claims = list_namespaced(client, only, namespace, denied).await?;
        snapshot.pods = list_namespaced(client, only, namespace, denied).await?;
        snapshot.pvcs = list_namespaced(client, only, namespace, denied).await?;
        // Without the right to list StorageClasses the annotation of PersistentVolumeClaims serves nearly as well.
        let mut unseen = vec![];
        let classes: Vec<StorageClass> = list_cluster_wide(client, &mut unseen).await?;
        let (ours, others): (Vec<_>, Vec<_>) = classes.into_iter().partition(class::is_ours);
        snapshot.classes = ours.iter().map(ResourceExt::name_any).collect();
        snapshot.our_classes = ours;
        snapshot.other_classes = others;
        snapshot.classes_unseen = !unseen.is_empty();
        Ok(snapshot)
    }

    /// Reads the nodes, if the caller may list them.
    pub async fn read_nodes(&mut self, client: &Client) -> anyhow::Result<()> {
        self.nodes = list_cluster_wide(client, &mut vec![]).await?;
        Ok(())
    }

    /// Reads a namespace, its events, the Jobs of its pods, and its workloads of a kind. What the caller may not read is left out.
    pub async fn read_namespace(
        &mut self,
        client: &Client,
        namespace: &str,
        kind: &kind::Kind,
    ) -> anyhow::Result<()> {
        let denied = &mut vec![];
        self.events = list_namespaced(client, Some(namespace), namespace, denied).await?;
        let found = match Api::<Namespace>::all(client.clone()).get_metadata_opt(namespace).await {
            Err(kube::Error::Api(status)) if status.code == 403 => None,
            found => found.map_err(|error| explain_api_error(&error))?,
        };
        let is_ending = found.is_some_and(|found| found.metadata.deletion_timestamp.is_some());
        self.ending_namespace = is_ending.then(|| namespace.to_owned());
        let is_of_job = |pod: &Pod| pod.owner_references().iter().any(|owner| owner.kind == "Job");
        if self.pods.iter().any(|pod| pod.namespace().as_deref() == Some(namespace) && is_of_job(pod)) {
            self.jobs = list_namespaced(client, Some(namespace), namespace, denied).await?;
        }
        if kind.workload {
            let group = if kind.name == "Job" { "batch" } else { "apps" };
            let gvk = GroupVersionKind::gvk(group, "v1", kind.name);
            let resource = ApiResource::from_gvk_with_plural(&gvk, kind.plural);
            let api = Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &resource);
            let listed = api.list(&ListParams::default()).await.map_err(|error| explain_api_error(&error))?;
            self.workloads = listed.items;
        }
        Ok(())
    }

    /// True if the caller may list the kind, at least in one namespace.
    pub fn sees(&self, kind: &kind::Kind) -> bool {
        let unseen = |denied: &&Denied| !matches!(denied.within, Within::AllBut(_));
        !self.denied.iter().filter(unseen).any(|denied| denied.plural == kind.plural)
    }

    /// True if the caller may list the kind in all namespaces.
    pub fn sees_all(&self, kind: &kind::Kind) -> bool {
        !self.denied.iter().any(|denied| denied.plural == kind.plural)
    }

    /// True if the caller sees what decides on the place of a new volume.
    pub fn sees_space(&self) -> bool {
        !self.classes_unseen && self.sees(&kind::RESERVATION) && self.sees(&kind::DISK)
    }

    /// Fails if the caller may not list one of the kinds: what may not be seen may be there.
    pub fn require(&self, kinds: &[&kind::Kind]) -> anyhow::Result<()> {
        match kinds.iter().find(|kind| !self.sees(kind)) {
            Some(kind) if kind.namespaced => {
                bail!(
                    "you may not list {}: ask for Kubernetes' ClusterRole view in the namespace",
                    kind.plural
                )
            }
            Some(kind) => bail!("you may not list {}: ask for ClusterRole reservoir-viewer", kind.plural),
            None => Ok(()),
        }
    }

    /// A sentence for each right to list that the caller lacks, with all kinds.
    pub fn notes(&self) -> Vec<String> {
        let mut notes: Vec<(&Within, Vec<&str>)> = vec![];
        for Denied { plural, within } in &self.denied {
            let nowhere =
                |other: &Denied| matches!(other.within, Within::Namespace(_)) && other.plural == *plural;
            if matches!(within, Within::AllBut(_)) && self.denied.iter().any(nowhere) {
                continue;
            }
            match notes.iter_mut().find(|(of, _)| *of == within) {
                Some((_, plurals)) => plurals.push(plural),
                None => notes.push((within, vec![plural])),
            }
        }
        let mut notes: Vec<String> =
            notes.iter().map(|(within, plurals)| within.note(&names(plurals, plurals.len()))).collect();
        if self.unknown_pvcs().next().is_some() {
            let unseen = "you may not list storageclasses: a PersistentVolumeClaim without a volume may be Reservoir's, too";
            notes.push(unseen.to_owned());
        }
        notes
    }

    /// Prints a note if no object has the role or a related one, and another role has a similar name: a grant on a mistyped
    /// role, or a subscription to it, would have no effect.
    pub fn note_unknown_role(&self, role: &str) {
        if let Some(unknown) = self.unknown_role(role) {
            note(unknown);
        }
    }

    /// That note.
    pub fn unknown_role(&self, role: &str) -> Option<String> {
        let near = self.near_role(role)?;
        let sees_all = [&kind::ROLE, &kind::RESERVATION, &kind::VOLUME].iter().all(|kind| self.sees(kind));
        let which = if sees_all { "" } else { " that you may see" };
        Some(format!("note: no object{which} is of role {role}; did you mean {near}?"))
    }

    /// The most similar role of an object, if none has the role or a related one. A bound claim and an offer name roles that are
    /// there to who may see nothing else.
    pub fn near_role(&self, role: &str) -> Option<&str> {
        let of_claims = self.claims.iter().filter(|c| c.status.as_ref().is_some_and(|s| s.volume.is_some()));
        let offers = self.offers.iter().map(|offer| &offer.spec);
        let offered = offers.clone().flat_map(|offer| &offer.volumes).map(|volume| &volume.role);
        let known: BTreeSet<&str> = (self.roles.iter().map(|of| &of.spec.role))
            .chain(self.reservations.iter().map(|of| &of.spec.role))
            .chain(self.volumes.iter().map(|of| &of.spec.role))
            .chain(of_claims.map(|of| &of.spec.role))
            .chain(offered)
            .chain(offers.flat_map(|offer| &offer.reservations).map(|of| &of.role))
            .map(String::as_str)
            .collect();
        let is_related = |other: &&str| Role::name_covers(other, role) || Role::name_covers(role, other);
        if known.iter().any(is_related) {
            return None;
        }
        // The role with its kind, as other commands take objects.
        let rest = role.split_once('/').map(|(_, rest)| rest);
        let with_kind = rest.and_then(|rest| known.get(rest).copied());
        with_kind.or_else(|| kind::nearest(role, known.iter().copied()))
    }

    /// Prints a note if the namespace has nothing of what is shown, and does not exist.
    pub async fn note_unknown_namespace(&self, client: &Client, namespace: &str) {
        let found = [self.pods.len(), self.claims.len(), self.pvcs.len(), self.subscriptions.len()];
        if found.iter().any(|found| *found > 0) {
            return;
        }
        // Without the right to list namespaces nothing is known.
        let Ok(all) = list(&Api::<Namespace>::all(client.clone())).await else { return };
        let names: Vec<String> = all.iter().map(ResourceExt::name_any).collect();
        if !names.iter().any(|name| name == namespace) {
            let near = kind::did_you_mean(namespace, names.iter().map(String::as_str));
            note(format!("note: there is no namespace {namespace}{near}"));
        }
    }

    /// The pods that use a claim and have not ended.
    pub fn pods_of<'a>(&'a self, namespace: &str, claim: &str) -> impl Iterator<Item = &'a Pod> + use<'a> {
        let named = (namespace.to_owned(), claim.to_owned());
        self.pods
            .iter()
            .filter(move |pod| !cluster::is_terminal(pod) && cluster::claims_of(pod).contains(&named))
    }

    /// The pods that use the volume of a VolumeClaim: none if somebody else's PersistentVolumeClaim has its name.
    pub fn users_of<'a>(&'a self, namespace: &str, claim: &str) -> impl Iterator<Item = &'a Pod> + use<'a> {
        let is_taken = self.is_name_taken(Some(namespace), claim);
        self.pods_of(namespace, claim).filter(move |_| !is_taken)
    }

    /// The Node of that name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.metadata.name.as_deref() == Some(name))
    }

    /// The data on the disk that no volume has.
    pub fn lost<'a>(&'a self, disk: &'a NodeDisk) -> impl Iterator<Item = &'a Orphan> {
        orphans::lost(disk).filter(|orphan| orphans::owner(orphan, &self.volumes).is_none())
    }

    /// Number of such data, listed or not.
    pub fn count_lost(&self, disk: &NodeDisk) -> usize {
        self.lost(disk).count() + orphans::unlisted(disk).map_or(0, |others| others.count as usize)
    }

    /// The VolumeClaim of that name.
    pub fn claim(&self, namespace: Option<&str>, name: &str) -> Option<&VolumeClaim> {
        self.claims.iter().find(|c| c.name_any() == name && c.namespace().as_deref() == namespace)
    }

    /// True if the PersistentVolumeClaim with the claim's name is another one's. The claim waits for the name, or has no volume
    /// yet, and would wait then.
    pub fn is_name_taken(&self, namespace: Option<&str>, name: &str) -> bool {
        let Some(claim) = self.claim(namespace, name) else { return false };
        let ready =
            claim.status.as_ref().and_then(|status| condition::get(&status.conditions, condition::READY));
        let is_bound = claim.status.as_ref().is_some_and(|status| status.volume.is_some());
        let is_anothers = |pvc: &PersistentVolumeClaim| {
            let is_owned = pvc.owner_references().iter().any(|owner| owner.kind == kind::CLAIM.name);
            pvc_of(claim).is_none() && !is_owned && earlier_claim(pvc).is_none()
        };
        ready.is_some_and(|ready| ready.reason == NAME_TAKEN)
            || !is_bound && self.pvc(namespace, name).is_some_and(is_anothers)
    }

    /// The volume that a claim, or a PersistentVolumeClaim of a StorageClass, is bound to.
    pub fn volume_of(&self, namespace: &str, claim: &str) -> Option<&SharedPersistentVolume> {
        let bound =
            self.claim(Some(namespace), claim).and_then(|claim| claim.status.as_ref()?.volume.as_ref());
        match bound {
            Some(bound) => self.volumes.iter().find(|v| v.metadata.uid.as_ref() == Some(&bound.uid)),
            None => self.pvc(Some(namespace), claim).and_then(|pvc| self.made_for(pvc)),
        }
    }

    /// The volume of which another one is a copy.
    pub fn original(&self, of: &CopyOf) -> Option<&SharedPersistentVolume> {
        self.volumes.iter().find(|volume| volume.metadata.uid.as_ref() == Some(&of.uid))
    }

    /// The PersistentVolumeClaim of that name.
    pub fn pvc(&self, namespace: Option<&str>, name: &str) -> Option<&PersistentVolumeClaim> {
        self.pvcs.iter().find(|pvc| pvc.name_any() == name && pvc.namespace().as_deref() == namespace)
    }

    /// The volume that was made for a PersistentVolumeClaim.
    pub fn made_for(&self, pvc: &PersistentVolumeClaim) -> Option<&SharedPersistentVolume> {
        let uid = pvc.metadata.uid.as_deref();
        self.volumes.iter().find(|volume| uid.is_some() && pvc_of(*volume) == uid)
    }

    /// True if Reservoir makes the volume of this PersistentVolumeClaim.
    pub fn is_ours(&self, pvc: &PersistentVolumeClaim) -> bool {
        let class = pvc.spec.as_ref().and_then(|spec| spec.storage_class_name.as_ref());
        let annotated = pvc.annotations().get("volume.kubernetes.io/storage-provisioner");
        // Before a node is chosen, no annotation names the driver to those who may not see the class.
        let is_told = |event: &Event| {
            event.reporting_component.as_deref() == Some(cluster::CONTROLLER)
                && event.involved_object.uid.is_some()
                && event.involved_object.uid == pvc.metadata.uid
        };
        annotated.is_some_and(|by| by == DRIVER)
            || class.is_some_and(|class| self.classes.contains(class))
            || self.events.iter().any(is_told)
    }

    /// Why no volume can be made for a PersistentVolumeClaim of Reservoir, whatever is free; and its StorageClass, if that is
    /// wrong.
    pub fn refused(&self, pvc: &PersistentVolumeClaim) -> Option<(Option<String>, String)> {
        let of = self.our_class(pvc)?;
        let why = class::volume(pvc, of).err()?;
        Some((class::of_class(of).is_err().then(|| of.name_any()), why))
    }

    /// The volume that is to be made for a PersistentVolumeClaim of Reservoir.
    pub fn wanted(&self, pvc: &PersistentVolumeClaim) -> Option<SharedPersistentVolume> {
        class::volume(pvc, self.our_class(pvc)?).ok()
    }

    /// Why no node has a place for the volume of a PersistentVolumeClaim that a pod uses, by the present numbers. `None`: some
    /// node has one, or not all is seen that decides.
    pub fn no_place(&self, pvc: &PersistentVolumeClaim) -> Option<String> {
        let class = self.our_class(pvc).filter(|class| class::is_delayed(class))?;
        let used = self.pods_of(&pvc.namespace().unwrap_or_default(), &pvc.name_any()).next().is_some();
        let seen = self.sees(&kind::RESERVATION) && self.sees(&kind::DISK);
        if !used || !seen || class.allowed_topologies.is_some() {
            return None;
        }
        let wanted = self.wanted(pvc)?;
        let reservations: Vec<_> = self.reservations.iter().collect();
        let disks: Vec<_> = self.disks.iter().collect();
        let why = placement::place_emptied(&wanted, |_| true, &reservations, &disks).err()?;
        Some(placement::nowhere(&wanted, &why))
    }

    /// The message about a pod that is not placed where its PersistentVolumeClaim has a place, by the present numbers, if the
    /// event is about that, or about the lack of a place.
    pub fn places_now(&self, pvc: &PersistentVolumeClaim, event: &Event) -> Option<String> {
        let said = event.message.as_ref()?;
        let is_about_that = said.contains(placement::ON_NO_NODE) || said.starts_with(placement::NO_PLACE);
        let class =
            self.our_class(pvc).filter(|class| is_about_that && class.allowed_topologies.is_none())?;
        let wanted = self.wanted(pvc)?;
        let pod = self.pods_of(&pvc.namespace().unwrap_or_default(), &pvc.name_any()).next()?;
        let (reservations, disks): (Vec<_>, Vec<_>) =
            (self.reservations.iter().collect(), self.disks.iter().collect());
        let places = placement::places(&wanted, class, &[], |_| true, &reservations, &disks);
        (!places.is_empty()).then(|| placement::elsewhere(&wanted, &pod.name_any(), &places))
    }

    /// The StorageClass of a PersistentVolumeClaim of Reservoir.
    pub fn our_class(&self, pvc: &PersistentVolumeClaim) -> Option<&StorageClass> {
        let name = pvc.spec.as_ref()?.storage_class_name.as_ref()?;
        self.our_classes.iter().find(|class| class.name_any() == *name)
    }

    /// The PersistentVolumeClaims without a volume whose StorageClass the caller may not see.
    pub fn unknown_pvcs(&self) -> impl Iterator<Item = &PersistentVolumeClaim> {
        let unknown = |pvc: &&PersistentVolumeClaim| {
            let spec = pvc.spec.as_ref().filter(|spec| spec.volume_name.is_none());
            // The empty name asks for no class.
            let names_none = |class: &String| class.is_empty();
            spec.is_some_and(|s| !s.storage_class_name.as_ref().is_some_and(names_none)) && !self.is_ours(pvc)
        };
        self.pvcs.iter().filter(|_| self.classes_unseen).filter(unknown)
    }

    /// The PersistentVolumeClaims of Reservoir's StorageClasses that have no volume yet.
    pub fn waiting_pvcs(&self) -> impl Iterator<Item = &PersistentVolumeClaim> {
        let unbound =
            |pvc: &PersistentVolumeClaim| pvc.spec.as_ref().is_some_and(|s| s.volume_name.is_none());
        self.pvcs.iter().filter(move |pvc| self.is_ours(pvc) && unbound(pvc) && self.made_for(pvc).is_none())
    }
}

/// The objects with control characters escaped: what somebody wrote into a field must not steer the reader's terminal.
async fn list<K: Kind>(api: &Api<K>) -> Result<Vec<K>, cluster::Error> {
    let listed = cluster::list(api, &ListParams::default()).await?;
    Ok(listed.into_iter().map(printable).collect())
}

fn printable<K: Kind>(object: K) -> K {
    let Ok(mut value) = serde_json::to_value(&object) else { return object };
    escape(&mut value);
    serde_json::from_value(value).unwrap_or(object)
}

fn escape(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::String(text) if text.contains(char::is_control) => {
            *text = text.escape_debug().to_string()
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(escape),
        serde_json::Value::Object(fields) => fields.values_mut().for_each(escape),
        _ => {}
    }
}

async fn list_cluster_wide<K>(client: &Client, denied: &mut Vec<Denied>) -> anyhow::Result<Vec<K>>
where
    K: Kind + Resource<Scope = k8s_openapi::ClusterResourceScope>,
{
    match list(&Api::<K>::all(client.clone())).await {
        Err(error) if error.is_forbidden() => {
            let plural = K::plural(&()).into_owned();
            denied.push(Denied { plural, within: Within::Cluster });
            Ok(vec![])
        }
        other => other.map_err(|error| explain_cluster_error(&error)),
    }
}

async fn list_namespaced<K>(
    client: &Client,
    only: Option<&str>,
    namespace: &str,
    denied: &mut Vec<Denied>,
) -> anyhow::Result<Vec<K>>
where
    K: Kind + Resource<Scope = NamespaceResourceScope>,
{
    let plural = K::plural(&());
    if only.is_none() {
        match list(&Api::<K>::all(client.clone())).await {
            Err(error) if error.is_forbidden() => {
                denied.push(Denied {
                    plural: plural.to_string(),
                    within: Within::AllBut(namespace.to_owned()),
                });
            }
            other => return other.map_err(|error| explain_cluster_error(&error)),
        }
    }
    let namespace = only.unwrap_or(namespace);
    match list(&Api::<K>::namespaced(client.clone(), namespace)).await {
        Err(error) if error.is_forbidden() => {
            denied
                .push(Denied { plural: plural.to_string(), within: Within::Namespace(namespace.to_owned()) });
            Ok(vec![])
        }
        other => other.map_err(|error| explain_cluster_error(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// T4: who has no rights reads two sentences, and not one for each kind.
    #[test]
    fn t4_missing_rights_are_told_in_a_sentence_each() {
        let of = |plural: &str, within| Denied { plural: plural.to_owned(), within };
        let team = || "team".to_owned();
        let denied = vec![
            of("nodedisks", Within::Cluster),
            of("volumeroles", Within::Cluster),
            of("volumeclaims", Within::AllBut(team())),
            of("pods", Within::AllBut(team())),
            of("pods", Within::Namespace(team())),
        ];
        let notes = Snapshot { denied, ..Default::default() }.notes();
        assert_eq!(
            notes,
            [
                "you may not list nodedisks and volumeroles: ask for ClusterRole reservoir-viewer",
                "you may not list volumeclaims of all namespaces: only namespace team is shown",
                "you may not list pods of namespace team: ask for Kubernetes' ClusterRole view there",
            ]
        );
    }

    /// T4: a list that may not be seen is not an empty list.
    #[test]
    fn t4_a_list_that_may_not_be_seen_is_not_empty() {
        let blind = Snapshot { denied: vec![Denied::unseen(&kind::DISK)], ..Default::default() };
        let error = blind.require(&[&kind::VOLUME, &kind::DISK]).unwrap_err().to_string();
        assert_eq!(error, "you may not list nodedisks: ask for ClusterRole reservoir-viewer");
        assert!(blind.require(&[&kind::VOLUME]).is_ok());
        let blind = Snapshot { denied: vec![Denied::unseen(&kind::CLAIM)], ..Default::default() };
        let error = blind.require(&[&kind::CLAIM]).unwrap_err().to_string();
        assert!(error.contains("ClusterRole view in the namespace"), "{error}");
    }

    /// T4: a PersistentVolumeClaim whose StorageClass may not be seen is not left out in silence.
    #[test]
    fn t4_an_unseen_storage_class_is_told() {
        let pvc = serde_json::json!({"metadata": {"name": "q"}, "spec": {"storageClassName": "enx"}});
        let pvcs = vec![serde_json::from_value(pvc).unwrap()];
        let mut snapshot = Snapshot { pvcs, classes_unseen: true, ..Default::default() };
        assert_eq!(snapshot.notes().len(), 1);
        assert_eq!(snapshot.unknown_pvcs().count(), 1);
        // No class is asked for.
        snapshot.pvcs[0].spec.as_mut().unwrap().storage_class_name = Some(String::new());
        assert_eq!(snapshot.unknown_pvcs().count(), 0);
        snapshot.pvcs[0].spec.as_mut().unwrap().storage_class_name = Some("enx".into());
        snapshot.classes_unseen = false;
        assert_eq!(snapshot.notes().len(), 0);
    }

    /// A tenant's claim, which an administrator looks at.
    #[test]
    fn t4_control_characters_are_escaped() {
        let mut claim = crate::plan::testing::claim("ns", "c", "v");
        claim.spec.volume = Some("x\u{1b}[2J\nnext: kubectl delete ns kube-system".into());
        let shown = printable(claim).spec.volume.unwrap();
        assert_eq!(shown, "x\\u{1b}[2J\\nnext: kubectl delete ns kube-system");
    }
}
