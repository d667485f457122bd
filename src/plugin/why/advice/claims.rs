//! Steps for claims.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::super::owners::set_of;
use super::{About, message, word};
use crate::api::condition::reason::DIGEST_DIFFERS;
use crate::api::condition::{self, READY};
use crate::api::{
    AccessMode, ClaimSelector, DiskReservation, Role, RoleSubscription, SharedPersistentVolume, Size,
    VolumeClaimSpec, VolumeOffer,
};
use crate::cluster;
use crate::plan::enlarge::{Way, way};
use crate::plan::holder;
use crate::plan::own_pvc::pvc_of;
use crate::plan::resize::size_now;
use crate::plan::{advice, bind, foreign_finalizer, left_data, offer, pv_binding, seal};
use crate::plugin::kind::{CLAIM, SUBSCRIPTION, VOLUME, nearest};

impl<'a> About<'a> {
    /// Kubernetes keeps a PersistentVolumeClaim for finished pods, too.
    pub(super) fn in_use(&self) -> String {
        let claim = (self.namespace.to_owned(), self.name.to_owned());
        let finished = |pod: &&Pod| cluster::is_terminal(pod) && cluster::claims_of(pod).contains(&claim);
        match self.snapshot.pods.iter().find(finished) {
            Some(pod)
                if pod.metadata.deletion_timestamp.is_none()
                    && self.snapshot.pods_of(self.namespace, self.name).next().is_none() =>
            {
                advice::delete_finished_pod(pod.name_any(), self.namespace)
            }
            // Somebody ends them already.
            _ if let Some(pod) = self.last_ending_pod() => {
                advice::ask_why(format!("pod/{pod} -n {}", self.namespace))
            }
            _ => advice::end_pods(self.namespace),
        }
    }

    /// The command that ends the claim. `kubectl delete` waits for its pods.
    pub(super) fn end_claim(&self) -> String {
        match self.snapshot.pods_of(self.namespace, self.name).next() {
            Some(_) => format!("kubectl reservoir unclaim {} -n {}", self.name, self.namespace),
            None => self.delete(),
        }
    }

    /// The step for a claim whose volume is there, and does not list it any more.
    pub(super) fn claim_lost_binding_anew(&self) -> String {
        match self.snapshot.pods_of(self.namespace, self.name).next() {
            Some(_) => advice::claim_after_pods(
                self.end_claim(),
                self.claim_command(self.name, self.role, None, self.mode()),
            ),
            None => self.claim_anew(self.role, None, self.mode()),
        }
    }

    /// True if the volume of the claim is there, and only its list lacks the claim.
    pub(super) fn lost_only_its_binding(&self) -> bool {
        let noted = self.claim.and_then(|claim| claim.status.as_ref()?.volume.as_ref());
        let is_it = |v: &SharedPersistentVolume| {
            noted.is_some_and(|noted| v.metadata.uid.as_ref() == Some(&noted.uid))
        };
        self.snapshot.volumes.iter().any(is_it)
    }

    /// The volume of a claim, or the one that its selector finds and that is closed for that reason.
    pub(super) fn closed(&self, reason: &str) -> Option<&'a SharedPersistentVolume> {
        self.volume.or_else(|| self.selected(reason))
    }

    /// The volume that the selector of a claim finds and that is closed for that reason.
    pub(super) fn selected(&self, reason: &str) -> Option<&'a SharedPersistentVolume> {
        bind::closed(self.claim?, &self.snapshot.volumes, reason)
    }

    /// A pod that uses the claim, and is ending: Kubernetes keeps the PersistentVolumeClaim for it.
    pub(super) fn ending_pod(&self) -> Option<String> {
        // Also one whose containers have ended: its mounts may be there yet.
        let own = (self.namespace.to_owned(), self.name.to_owned());
        let is_ending =
            |pod: &&Pod| pod.metadata.deletion_timestamp.is_some() && cluster::claims_of(pod).contains(&own);
        self.snapshot.pods.iter().find(is_ending).map(ResourceExt::name_any)
    }

    /// A pod that uses the claim, if each pod that does is ending.
    fn last_ending_pod(&self) -> Option<String> {
        let mut pods = self.snapshot.pods_of(self.namespace, self.name);
        let all = pods.all(|pod| pod.metadata.deletion_timestamp.is_some());
        self.ending_pod().filter(|_| all)
    }

    /// The finalizer of others that keeps a claim which is being deleted.
    pub(super) fn foreign_finalizer(&self) -> Option<&'a str> {
        let claim = self.claim.filter(|claim| claim.metadata.deletion_timestamp.is_some())?;
        foreign_finalizer(claim).map(String::as_str)
    }

    /// True if the claim is to the data of the PersistentVolumeClaim of before, and the present one of the name is in the way.
    pub fn is_after_old_data(&self) -> bool {
        let ready = self.claim.and_then(|claim| condition::get(&claim.status.as_ref()?.conditions, READY));
        ready.is_some_and(|ready| ready.message.contains(pv_binding::WAITS_EMPTY))
    }

    /// The step that frees the name. A StatefulSet makes a PersistentVolumeClaim anew for as long as it has the pod.
    pub(super) fn free_name_of_empty(&self) -> String {
        match self.lower_members() {
            Some((set, replicas)) => advice::free_name_of_set(set, self.namespace, replicas, self.name),
            None => advice::free_name_of_empty(self.name, self.namespace),
        }
    }

    /// The StatefulSet of a pod that uses the PersistentVolumeClaim, and the number of its pods before this one.
    pub fn lower_members(&self) -> Option<(String, usize)> {
        let (snapshot, namespace, name) = (self.snapshot, self.namespace, self.name);
        let (set, ordinal) =
            snapshot.pods_of(namespace, name).find_map(|pod| member(&pod.name_any(), set_of(pod)?))?;
        let is_lower = |pod: &&Pod| {
            let of = set_of(pod).and_then(|of| member(&pod.name_any(), of));
            pod.namespace().as_deref() == Some(namespace)
                && of.is_some_and(|(of, lower)| of == set && lower < ordinal)
        };
        let lower = snapshot.pods.iter().filter(is_lower).count();
        Some((set, lower))
    }

    /// The step for a claim whose volume has another digest, or none yet. A claim that names its volume gets no other one.
    pub(super) fn digest_differs(&self) -> String {
        let digest = self.volume.and_then(|volume| volume.status.as_ref()?.digest.as_deref());
        match (digest, self.claim) {
            (Some(digest), Some(claim)) => {
                let spec = VolumeClaimSpec { digest: Some(digest.to_owned()), ..claim.spec.clone() };
                let command = self.command_of(Some(&spec), self.name, self.role, None, self.mode());
                advice::claim_content(format!("{} && {command}", self.delete()))
            }
            _ if self.snapshot.sees(&VOLUME) => advice::see_digests(),
            _ if seal::says_digest(message(self.conditions, DIGEST_DIFFERS)) => {
                advice::claim_named_digest(self.delete())
            }
            _ => advice::have_administrator_ask(&self.argument),
        }
    }

    pub(super) fn no_match(&self) -> String {
        let Some(selector) = self.claim.and_then(|claim| claim.spec.selector.as_ref()) else {
            return advice::see_offers(self.namespace);
        };
        // A new volume of the role would not be offered.
        let is_subscribed = self.subscribed().any(|role| Role::name_covers(self.role, role));
        if self.snapshot.sees(&SUBSCRIPTION) && !is_subscribed {
            return advice::subscribe(self.role, self.namespace);
        }
        let there = self.snapshot.volumes.iter().any(|volume| volume.name_any() == self.name);
        let name = if there { format!("{}-2", self.name) } else { self.name.to_owned() };
        let labels = selector.match_labels.iter().flatten();
        let labels: String =
            labels.map(|(key, value)| format!(" --label {}", word(&format!("{key}={value}")))).collect();
        let size = selector.min_size.as_ref().map_or("1Gi", Size::as_str);
        let fits =
            |volume: &SharedPersistentVolume| self.claim.is_some_and(|claim| bind::fits(claim, volume));
        let create = advice::create_fitting(name, self.role, size, labels, self.namespace);
        if !self.sees_old_data() {
            return advice::have_administrator_ask(&self.argument);
        }
        // Nobody makes a volume with a digest.
        let made = || match self.claim.is_some_and(|claim| claim.spec.digest.is_some()) {
            true => advice::see_digests(),
            false => self.select_less(selector).unwrap_or_else(|| create.clone()),
        };
        self.old_data(fits, &create).unwrap_or_else(made)
    }

    /// The step for a claim that selects a larger volume than there can be now: the most that there can be, or the size of the
    /// largest volume that fits otherwise. Kept data is left alone, although it gives way to volumes (X8).
    fn select_less(&self, selector: &ClaimSelector) -> Option<String> {
        let asked = selector.min_size.as_ref()?.bytes_or_zero();
        if !self.snapshot.sees_space() {
            return None;
        }
        let may_use = |r: &&DiskReservation| Role::name_covers(&r.spec.role, self.role) && holder::serves(r);
        let reservations: Vec<_> = self.snapshot.reservations.iter().filter(may_use).collect();
        let disks: Vec<_> = self.snapshot.disks.iter().collect();
        let can_be = match way(asked, 0, &reservations, &disks, true) {
            Way::Enlarge(..) | Way::Reserve => return None,
            Way::AskFor(most, _) => most,
            Way::Nothing => 0,
        };
        let mut less = self.claim?.clone();
        less.spec.selector = Some(ClaimSelector { min_size: None, ..selector.clone() });
        let subscriptions: Vec<_> = self.subscriptions().collect();
        let is_entitled = |v: &SharedPersistentVolume| {
            !self.snapshot.sees(&SUBSCRIPTION) || offer::entitled(v, &subscriptions).is_ok()
        };
        let is_claimed = |v: &SharedPersistentVolume| v.status.as_ref().is_some_and(|s| !s.claims.is_empty());
        let fits = |v: &&SharedPersistentVolume| {
            Role::name_covers(&v.spec.role, self.role)
                && (v.spec.shared.is_some() || !is_claimed(v))
                && bind::fits(&less, v)
                && is_entitled(v)
                && offer::available(v).is_ok()
        };
        let there = self.snapshot.volumes.iter().filter(fits).map(|v| size_now(v).bytes_or_zero()).max();
        let most =
            Some(can_be.max(there.unwrap_or(0)) >> 20 << 20).filter(|most| (1..asked).contains(most))?;
        less.spec.selector =
            Some(ClaimSelector { min_size: Some(Size::from_bytes(most)), ..selector.clone() });
        let command = self.command_of(Some(&less.spec), self.name, self.role, None, self.mode());
        Some(advice::select_less(format!("{} && {command}", self.delete()), &less.spec.role))
    }

    pub(super) fn no_subscription(&self) -> String {
        // The volume that the claim names is for that role, also where its reader may not see it (C4).
        let is_named = self.claim.is_some_and(|claim| claim.spec.volume.is_some());
        let seen = || self.snapshot.items().iter().any(|i| i.kind != &CLAIM && i.role == Some(self.role));
        let exists = is_named || seen();
        match nearest(self.role, self.subscribed()).filter(|_| !exists) {
            Some(near) => advice::for_near_role(self.claim_anew(near, None, self.mode()), near),
            None => advice::subscribe(self.role, self.namespace),
        }
    }

    /// The subscriptions of the namespace.
    fn subscriptions(&self) -> impl Iterator<Item = &'a RoleSubscription> + use<'a> {
        let (snapshot, namespace) = (self.snapshot, self.namespace);
        let own = move |s: &&RoleSubscription| s.namespace().as_deref() == Some(namespace);
        snapshot.subscriptions.iter().filter(own)
    }

    /// The roles to which the namespace is subscribed.
    pub fn subscribed(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.subscriptions().flat_map(|s| s.spec.roles.iter().map(String::as_str))
    }

    pub(super) fn no_capability(&self) -> String {
        let covers =
            |s: &&RoleSubscription| s.spec.roles.iter().any(|role| Role::name_covers(role, self.role));
        match self.subscriptions().find(covers) {
            Some(subscription) => advice::share_resources(subscription.name_any(), self.namespace),
            None => advice::find_subscription(self.namespace),
        }
    }

    pub(super) fn no_such_volume(&self) -> String {
        let asked = self.claim.and_then(|c| c.spec.volume.as_deref()).unwrap_or_default();
        if let Some(volume) = self.snapshot.volumes.iter().find(|volume| volume.name_any() == asked) {
            return match pvc_of(volume) {
                None => {
                    advice::claim_for_role_of_volume(self.claim_anew(&volume.spec.role, None, self.mode()))
                }
                Some(_) => advice::see_offers(self.namespace),
            };
        }
        // Data of this name comes before volumes of similar names.
        let is_it = |volume: &SharedPersistentVolume| {
            left_data::is_called(volume, self.namespace, asked)
                && Role::name_covers(&volume.spec.role, self.role)
        };
        let create = advice::create_volume(word(asked), self.role, self.namespace);
        if let Some(step) = self.old_data(is_it, &create) {
            return step;
        }
        let offers = self.snapshot.offers.iter().filter(|o| o.namespace().as_deref() == Some(self.namespace));
        let offered = offers.flat_map(|o| o.spec.volumes.iter().map(|v| v.name.clone()));
        // A volume that was made for a PersistentVolumeClaim is for no other, however similar the names are. For one that waits
        // itself the claim would wait as before.
        let fits = |v: &&SharedPersistentVolume| {
            Role::name_covers(&v.spec.role, self.role)
                && pvc_of(*v).is_none()
                && v.is_ready()
                && !v.is_ending()
        };
        let fitting = self.snapshot.volumes.iter().filter(fits).map(ResourceExt::name_any);
        // A user who sees no volumes sees offers.
        let offered = offered.filter(|_| !self.snapshot.sees(&VOLUME));
        let names: Vec<String> = fitting.chain(offered).collect();
        match nearest(asked, names.iter().map(String::as_str)) {
            Some(near) => {
                advice::claim_near_volume(self.claim_anew(self.role, Some(near), self.mode()), near)
            }
            None if self.sees_old_data() => create,
            None => advice::have_administrator_ask(&self.argument),
        }
    }

    pub(super) fn mode(&self) -> AccessMode {
        self.claim.map_or(AccessMode::ReadWrite, |claim| claim.spec.mode)
    }

    /// The command that deletes an unbound claim, and makes it anew.
    pub(super) fn claim_anew(&self, role: &str, volume: Option<&str>, mode: AccessMode) -> String {
        format!("{} && {}", self.delete(), self.claim_command(self.name, role, volume, mode))
    }

    /// The role of the volume. Who may not see it reads the role in an offer.
    pub(super) fn role_of_volume(&self) -> Option<&'a str> {
        if let Some(volume) = self.volume {
            return Some(&volume.spec.role);
        }
        let named = self.claim?.spec.volume.as_ref()?;
        let of_namespace = |offer: &&VolumeOffer| offer.namespace().as_deref() == Some(self.namespace);
        let mut offered =
            self.snapshot.offers.iter().filter(of_namespace).flat_map(|offer| &offer.spec.volumes);
        offered.find(|offered| offered.name == *named).map(|offered| offered.role.as_str())
    }

    pub(super) fn claim_command(
        &self,
        name: &str,
        role: &str,
        volume: Option<&str>,
        mode: AccessMode,
    ) -> String {
        self.command_of(self.claim.map(|claim| &claim.spec), name, role, volume, mode)
    }

    fn command_of(
        &self,
        spec: Option<&VolumeClaimSpec>,
        name: &str,
        role: &str,
        volume: Option<&str>,
        mode: AccessMode,
    ) -> String {
        let mut command = format!("kubectl reservoir claim {name} --role {role}");
        if let Some(volume) = volume.or(spec.and_then(|spec| spec.volume.as_deref())) {
            command.push_str(&format!(" --volume {}", word(volume)));
        }
        if let Some(selector) = spec.and_then(|spec| spec.selector.as_ref()) {
            for (key, value) in selector.match_labels.iter().flatten() {
                command.push_str(&format!(" --selector {}", word(&format!("{key}={value}"))));
            }
            command.extend(selector.min_size.iter().map(|size| format!(" --min-size {size}")));
        }
        if mode == AccessMode::ReadOnly {
            command.push_str(" --read-only");
        }
        if let Some(digest) = spec.and_then(|spec| spec.digest.as_deref()) {
            command.push_str(&format!(" --digest {}", word(digest)));
        }
        format!("{command} -n {}", self.namespace)
    }
}

/// The step for the API server's words about a ResourceQuota, a LimitRange, or a namespace or kind that is being deleted,
/// which have no reason of their own.
pub fn refusal(said: &str, namespace: &str) -> Option<String> {
    refused(said, namespace, "it goes on by itself")
}

/// The step for such words about an object of a command, which was not made.
pub fn refusal_of_command(said: &str, namespace: &str) -> Option<String> {
    refused(said, namespace, "run the command again")
}

fn refused(said: &str, namespace: &str, end: &str) -> Option<String> {
    let is_quota =
        || ["exceeded quota", "failed quota", " usage per "].iter().any(|words| said.contains(words));
    match said {
        _ if said.contains("because it is being terminated") => {
            Some(advice::leave_ending_namespace(namespace))
        }
        _ if said.contains("custom resource definition is terminating") => Some(advice::see_kind_out()),
        _ => is_quota().then(|| advice::change_quota(namespace, end)),
    }
}

/// The StatefulSet, and the ordinal of its pod.
fn member(pod: &str, set: &str) -> Option<(String, u32)> {
    Some((set.to_owned(), pod.strip_prefix(set)?.strip_prefix('-')?.parse().ok()?))
}
