//! The next step for each reason of a condition: a command with all names filled in, or the person to ask.

use kube::ResourceExt;

use super::target::Target;
use crate::api::condition::reason::*;
use crate::api::{AccessMode, DiskReservation, Role, SharedPersistentVolume, Size, VolumeClaim};
use crate::plan::pvc_provisioner::pvc_of;
use crate::plan::{holder, quota, resize};
use crate::plugin::kind::{CLAIM, DISK, RESERVATION, VOLUME, nearest};
use crate::plugin::snapshot::Snapshot;

const FINE: &str = "there is nothing to do";
const LOOK_AGAIN: &str = "wait a few seconds; if the state stays the same: kubectl reservoir doctor";

/// The object with the condition, and its names for commands.
pub(super) struct About<'a> {
    snapshot: &'a Snapshot,
    name: &'a str,
    /// Argument of a command: `spv/data`, or `vclaim/data -n team`.
    argument: String,
    namespace: &'a str,
    role: &'a str,
    claim: Option<&'a VolumeClaim>,
    volume: Option<&'a SharedPersistentVolume>,
    reservation: Option<&'a DiskReservation>,
    disk: Option<String>,
}

impl<'a> About<'a> {
    pub fn new(snapshot: &'a Snapshot, target: &'a Target) -> Self {
        let item = snapshot.find(target.kind, target.namespace.as_deref(), &target.name);
        let (name, namespace) = (target.name.as_str(), target.namespace.as_deref().unwrap_or("default"));
        let claim = snapshot.claims.iter().filter(|_| target.kind == &CLAIM);
        let claim =
            claim.into_iter().find(|c| c.name_any() == name && c.namespace().as_deref() == Some(namespace));
        let volume = match claim {
            Some(claim) => claim.spec.volume.as_deref(),
            None => Some(name).filter(|_| target.kind == &VOLUME),
        };
        let volume = volume.and_then(|volume| snapshot.volumes.iter().find(|v| v.name_any() == volume));
        let status = volume.and_then(|v| v.status.as_ref());
        let reservation = match target.kind == &RESERVATION {
            true => Some(name),
            false => status
                .and_then(|s| s.reservation.as_ref())
                .map(|r| r.name.as_str())
                .or(volume.and_then(|v| v.spec.reservation.as_deref())),
        };
        let reservation = snapshot.reservations.iter().find(|r| Some(r.name_any().as_str()) == reservation);
        let disk = match target.kind == &DISK {
            true => Some(name.to_owned()),
            false => status
                .and_then(|s| s.node_disk.clone())
                .or(reservation.and_then(|r| r.status.as_ref()?.node_disk.clone())),
        };
        let argument = item.as_ref().map(|item| item.argument()).unwrap_or_default();
        let role = item.and_then(|item| item.role).unwrap_or_default();
        Self { snapshot, name, argument, namespace, role, claim, volume, reservation, disk }
    }

    /// The next step for a reason; `None` for an unknown reason.
    pub fn step(&self, reason: &str) -> Option<String> {
        let Self { name, argument, namespace, role, .. } = self;
        Some(match reason {
            READY | DISK_HEALTHY | RESIZED | BACKED | RETIRE_WITHDRAWN | BOUND | SUBSCRIBED | OFFERED => FINE.into(),
            CREATING | PARENT_NOT_RESERVED | RESIZING | BINDING | RELEASING => LOOK_AGAIN.into(),
            INVALID => format!("kubectl edit {argument}   # correct the field that the message names"),
            AGENT_SILENT | DISK_REFUSED | BACKING_FAILED | RESIZE_FAILED => self.agent_log(),
            // The node may have no object.
            NODE_UNREACHABLE => format!(
                "kubectl get nodes   # bring node {} back; if it is lost for good: kubectl patch nodedisk {} \
                 --type=merge -p '{{\"spec\":{{\"gone\":true}}}}'",
                self.node(),
                self.disk.as_deref().unwrap_or(name)
            ),
            DISK_GONE => {
                format!("kubectl reservoir tree   # delete the volumes and reservations of {argument}, then the NodeDisk")
            }
            SPACE_TAKEN => format!(
                "remove foreign files from the disk on node {}; no new volume is made there before",
                self.node()
            ),
            NOT_ENOUGH_ROOM => self.smaller(self.largest_free(), "kubectl reservoir status", "free space, or add a disk"),
            OVER_QUOTA => self.smaller(
                self.within_quota(),
                &format!("kubectl reservoir tree --role {}", self.role_with_limit()),
                "delete reservations of the role, or have an administrator raise spec.quota.limit of its VolumeRole",
            ),
            GUARANTEED => "kubectl get volumeroles   # wait for free space, or lower another role's guarantee".into(),
            PARENT_FULL => self.parent_full(),
            BELOW_USED => {
                self.smaller(self.used(), &format!("kubectl reservoir tree --role {role}"), "retire a volume in it")
            }
            NO_SUCH_DISK => self.no_such_disk(),
            DISK_MOVED => format!(
                "kubectl delete {argument}   # on the disk, reserve without the agent's configuration: kubectl reservoir reserve"
            ),
            NO_PARENT => self.no_parent(),
            NOT_A_SUB_ROLE => self.reserve_anew("", "without a parent; or for a sub-role of the parent's role"),
            HAS_VOLUMES if self.live().is_none() => self.content("kubectl reservoir erase", |r| r.volumes.first(), "its data is kept for an undo"),
            HAS_VOLUMES => self.content("kubectl reservoir retire", |r| r.volumes.iter().find(|entry| entry.kept.is_none()), "its data is erased"),
            HAS_REFINEMENTS => self.content("kubectl reservoir delete", |r| r.refinements.first(), "it was carved out"),
            NO_RESERVATION => self.no_reservation(),
            RESERVATION_FULL => self.reservation_full(),
            TOO_MANY_RESERVATIONS => {
                "kubectl reservoir tree   # delete reservations that are not needed, or use fewer and larger ones".into()
            }
            TOO_MANY_VOLUMES => format!(
                "kubectl reservoir tree --role {role}   # retire volumes that are not needed, or reserve once more"
            ),
            TOO_MANY_CLAIMS => {
                let volume = self.claim.and_then(|c| c.spec.volume.as_deref()).map(word).unwrap_or_default();
                format!("kubectl reservoir why spv/{volume}   # lists its claims; a namespace's pods can use one claim together")
            }
            SHARE_TAKEN if self.claim.is_some() => format!(
                "kubectl reservoir tree -n {namespace}   # end claims that are not needed: kubectl reservoir unclaim"
            ),
            SHARE_TAKEN => format!("kubectl reservoir tree --role {role}   # delete what is not needed of the role"),
            REFUSED => format!(
                "kubectl get resourcequotas,limitranges -n {namespace}   # change the one that the message names; then it \
                 goes on by itself"
            ),
            NO_ORPHAN => "kubectl reservoir orphans   # lists the data without an object".into(),
            WRONG_DISK => format!(
                "kubectl delete {argument}   # then create it in a reservation on a suitable disk: kubectl get nodedisks -o wide"
            ),
            BACKING_LOST => format!(
                "look for the disk and its data on node {}; if the data is lost for good: kubectl delete {argument}",
                self.node()
            ),
            CANNOT_SHRINK => self.present_size("back to the present size; or copy the data into a smaller volume"),
            SHRINK_IN_USE => self.present_size("keeps its size; or end the pods that use the volume"),
            RETIRING => format!(
                "kubectl reservoir unretire {name}   # keeps the volume; else delete the claims that are bound to it"
            ),
            DESTROYING => format!(
                "kubectl reservoir tree --role {role}   # end the claims and pods that use the volume; then it goes on by itself"
            ),
            NO_SUBSCRIPTION => self.no_subscription(),
            NO_CAPABILITY => self.no_capability(),
            ROLE_NOT_ALLOWED => {
                let role = self.volume.map_or(*role, |volume| &volume.spec.role);
                self.claim_anew(role, None, self.mode(), "for the role of the volume")
            }
            NO_SUCH_VOLUME => self.no_such_volume(),
            ALWAYS_WRITABLE => self.claim_anew(role, None, AccessMode::ReadWrite, "to read and write"),
            NO_MATCH if self.snapshot.sees(&VOLUME) => {
                "kubectl get spv --show-labels   # the labels and sizes of the volumes; to add a label: kubectl label spv".into()
            }
            NO_MATCH | VOLUME_RETIRING | VOLUME_DESTROYING => {
                format!("kubectl get volumeoffers -n {namespace}   # the volumes on offer")
            }
            VOLUME_NOT_READY => match (self.volume, self.claim.and_then(|c| c.spec.volume.as_ref())) {
                (Some(volume), _) => format!("kubectl reservoir why spv/{}", volume.name_any()),
                (None, Some(volume)) if !self.snapshot.sees(&VOLUME) => {
                    format!("have an administrator run: kubectl reservoir why spv/{}", word(volume))
                }
                _ => LOOK_AGAIN.into(),
            },
            VOLUME_HELD => self.held(),
            NAME_TAKEN => {
                let claim = self.claim_command(&format!("{name}-shared"), role, None, self.mode());
                format!("{claim}   # the claim under another name, since the PersistentVolumeClaim is somebody else's")
            }
            VOLUME_LOST => {
                format!("{}   # then claim another volume; data without an object: kubectl reservoir orphans", self.delete())
            }
            VOLUME_GONE | ROLE_TAKEN => self.delete(),
            IN_USE if self.claim.and_then(pvc_of).is_some() => format!(
                "kubectl describe pvc {name} -n {namespace}   # no new pod can use it, and the claim ends with it; the reclaim \
                 policy of its PersistentVolume decides about the data"
            ),
            IN_USE => format!("kubectl reservoir tree -n {namespace}   # end the pods that use the claim"),
            MOUNT_HELD => "kubectl get events -A --field-selector=reason=MountHeld   # end the process".into(),
            OVER_LIMIT => format!("kubectl reservoir tree --role {role}   # delete reservations, or raise spec.quota.limit"),
            _ => return None,
        })
    }

    /// The claim of a StorageClass can end only with its PersistentVolumeClaim.
    fn delete(&self) -> String {
        match self.claim.and_then(pvc_of) {
            Some(_) => format!("kubectl delete pvc/{} -n {}", self.name, self.namespace),
            None => format!("kubectl delete {}", self.argument),
        }
    }

    fn node(&self) -> String {
        let disk = self.snapshot.disks.iter().find(|d| Some(d.name_any()) == self.disk);
        disk.map_or_else(|| "of the object".to_owned(), |disk| disk.spec.node_name.clone())
    }

    fn agent_log(&self) -> String {
        let node = self.node();
        let is_agent = |p: &&k8s_openapi::api::core::v1::Pod| {
            p.labels().get("app.kubernetes.io/component").is_some_and(|component| component == "agent")
                && p.spec.as_ref().and_then(|spec| spec.node_name.as_ref()) == Some(&node)
        };
        match self.snapshot.pods.iter().find(is_agent) {
            Some(pod) => {
                format!(
                    "kubectl logs -n {} {} --tail=50",
                    pod.namespace().unwrap_or_default(),
                    pod.name_any()
                )
            }
            None => format!("kubectl reservoir doctor   # looks for the agent of node {node}"),
        }
    }

    /// The advice to resize to at most `bytes`. The other way is what the view `look` shows, and the only one if `bytes`
    /// is 0.
    fn smaller(&self, bytes: u64, look: &str, other: &str) -> String {
        match bytes {
            0 => format!("{look}   # {other}"),
            _ => format!(
                "kubectl reservoir resize {} {}   # or {other}: {look}",
                self.argument,
                whole_mebibytes(bytes)
            ),
        }
    }

    /// The most bytes that the reservation could have now.
    fn largest_free(&self) -> u64 {
        let own = self.reservation.and_then(|r| r.status.as_ref()).map_or(0, holder::size);
        let on = |disk: &&crate::api::NodeDisk| self.disk.as_ref().is_none_or(|own| disk.name_any() == *own);
        let free = |disk: &crate::api::NodeDisk| disk.status.as_ref()?.free.as_ref()?.bytes().ok();
        let free = self.snapshot.disks.iter().filter(on).filter_map(free).max().unwrap_or(0);
        if self.disk.is_some() { own.saturating_add(free) } else { free }
    }

    fn within_quota(&self) -> u64 {
        let own = self.reservation.and_then(|r| r.status.as_ref()).map_or(0, holder::size);
        let roles: Vec<_> = self.snapshot.roles.iter().collect();
        let charged =
            quota::ledgers(&roles).into_iter().filter(|(r, _)| Role::name_covers(&r.spec.role, self.role));
        let left = charged.filter_map(|(r, reserved)| {
            Some(r.spec.quota.limit.as_ref()?.bytes_or_zero().saturating_sub(reserved))
        });
        left.min().map_or(0, |left| left.saturating_add(own))
    }

    /// The role whose limit has the least left for the object.
    fn role_with_limit(&self) -> &str {
        let roles: Vec<_> = self.snapshot.roles.iter().collect();
        let charged = quota::ledgers(&roles).into_iter();
        let charged = charged.filter(|(r, _)| Role::name_covers(&r.spec.role, self.role));
        let left = charged.filter_map(|(r, reserved)| {
            let limit = r.spec.quota.limit.as_ref()?.bytes_or_zero();
            Some((limit.saturating_sub(reserved), r.spec.role.as_str()))
        });
        left.min().map_or(self.role, |(_, role)| role)
    }

    fn used(&self) -> u64 {
        self.reservation.and_then(|r| r.status.as_ref()).map_or(0, holder::used)
    }

    fn parent(&self) -> Option<&'a DiskReservation> {
        let parent = self.reservation?.spec.parent.as_ref()?;
        self.snapshot.reservations.iter().find(|r| r.name_any() == *parent)
    }

    fn parent_full(&self) -> String {
        let Some((reservation, parent)) = self.reservation.zip(self.parent()) else {
            return LOOK_AGAIN.into();
        };
        let (size, free) = parent.status.as_ref().map_or((0, 0), |s| (holder::size(s), holder::free(s)));
        let own = reservation.status.as_ref().map_or(0, holder::size);
        let missing = reservation.spec.size.bytes_or_zero().saturating_sub(own).saturating_sub(free);
        format!(
            "kubectl reservoir resize dr/{} {}   # or ask for less: kubectl reservoir resize {} {}",
            parent.name_any(),
            Size::from_bytes(size.saturating_add(missing)),
            self.argument,
            whole_mebibytes(own.saturating_add(free).max(1 << 20)),
        )
    }

    /// Deletes an empty reservation, and makes it anew.
    fn reserve_anew(&self, place: &str, why: &str) -> String {
        let size = self.reservation.map_or("1Gi", |r| r.spec.size.as_str());
        format!(
            "kubectl delete {} && kubectl reservoir reserve {} --role {} --size {size}{place}   # {why}",
            self.argument, self.name, self.role
        )
    }

    fn no_such_disk(&self) -> String {
        let names: Vec<String> = self.snapshot.disks.iter().map(ResourceExt::name_any).collect();
        if let Some(asked) = self.reservation.and_then(|r| r.spec.node_name.as_deref()) {
            let nodes = self.snapshot.disks.iter().map(|disk| disk.spec.node_name.as_str());
            if let Some(near) = nearest(asked, nodes) {
                return self.reserve_anew(&format!(" --node {near}"), &format!("if node {near} is meant"));
            }
        }
        let Some(asked) = self.reservation.and_then(|r| r.spec.node_disk.as_deref()) else {
            let place = "or label the node of a disk: kubectl get nodedisks lists them";
            return match names.is_empty() {
                true => "kubectl reservoir doctor   # there is no disk".into(),
                false => self.reserve_anew("", &format!("on any disk; {place}")),
            };
        };
        match nearest(asked, names.iter().map(String::as_str)) {
            Some(near) => {
                self.reserve_anew(&format!(" --disk {near}"), &format!("if NodeDisk {near} is meant"))
            }
            None if names.is_empty() => "kubectl reservoir doctor   # there is no disk".into(),
            None => self.reserve_anew("", "on any disk; kubectl get nodedisks lists all of them"),
        }
    }

    fn no_parent(&self) -> String {
        let above =
            |r: &&DiskReservation| r.spec.role != self.role && Role::name_covers(&r.spec.role, self.role);
        let names: Vec<String> =
            self.snapshot.reservations.iter().filter(above).map(ResourceExt::name_any).collect();
        let asked = self.reservation.and_then(|r| r.spec.parent.as_deref()).unwrap_or_default();
        if let Some(near) = nearest(asked, names.iter().map(String::as_str)) {
            return self
                .reserve_anew(&format!(" --parent {near}"), &format!("if reservation {near} is meant"));
        }
        let size = self.reservation.map_or("1Gi", |r| r.spec.size.as_str());
        match self.role.rsplit_once('/') {
            Some((above, _)) => {
                format!(
                    "kubectl reservoir reserve {} --role {above} --size {size}   # makes the parent",
                    word(asked)
                )
            }
            None => self.reserve_anew("", "without a parent: the role has no ancestor"),
        }
    }

    /// A volume in the reservation that is not destroyed.
    fn live(&self) -> Option<&crate::api::LedgerEntry> {
        self.reservation.and_then(|r| r.status.as_ref()?.volumes.iter().find(|entry| entry.kept.is_none()))
    }

    /// A command for the first object in the reservation.
    fn content(
        &self,
        command: &str,
        first: impl Fn(&crate::api::DiskReservationStatus) -> Option<&crate::api::LedgerEntry>,
        why: &str,
    ) -> String {
        let kind = if command.ends_with("delete") { "dr/" } else { "" };
        match self.reservation.and_then(|r| first(r.status.as_ref()?)) {
            Some(entry) => {
                format!("{command} {kind}{}   # {why}; the same for each one in the reservation", entry.name)
            }
            None => LOOK_AGAIN.into(),
        }
    }

    fn no_reservation(&self) -> String {
        let size = self.volume.map_or("1Gi", |v| v.spec.size.as_str());
        let roles = self.snapshot.reservations.iter().map(|r| r.spec.role.as_str());
        if let Some(near) = nearest(self.role, roles) {
            let access =
                if self.volume.is_some_and(|v| v.spec.shared.is_none()) { " --exclusive" } else { "" };
            return format!(
                "kubectl delete {} && kubectl reservoir create {} --role {near} --size {size}{access}   # if role {near} is meant",
                self.argument, self.name
            );
        }
        let name = self.role.to_lowercase().replace(['/', '_'], "-");
        format!("kubectl reservoir reserve {name} --role {} --size {size}", self.role)
    }

    fn reservation_full(&self) -> String {
        let may_use = |r: &&DiskReservation| Role::name_covers(&r.spec.role, self.role) && holder::serves(r);
        let free = |r: &DiskReservation| r.status.as_ref().map_or(0, holder::free);
        let largest = self.snapshot.reservations.iter().filter(may_use).max_by_key(|r| free(r));
        let Some((reservation, volume)) = self.reservation.or(largest).zip(self.volume) else {
            return LOOK_AGAIN.into();
        };
        let placed = volume.status.as_ref().is_some_and(|s| s.reservation.is_some());
        let has = if placed { resize::size_now(volume).bytes_or_zero() } else { 0 };
        let missing = volume.spec.size.bytes_or_zero().saturating_sub(has).saturating_sub(free(reservation));
        let size = reservation.status.as_ref().map_or(0, holder::size).saturating_add(missing);
        format!(
            "kubectl reservoir resize dr/{} {}   # or retire a volume in it: kubectl reservoir tree --role {}",
            reservation.name_any(),
            Size::from_bytes(size),
            reservation.spec.role
        )
    }

    fn present_size(&self, why: &str) -> String {
        let size = self.volume.map_or("1Gi", |volume| resize::size_now(volume).as_str());
        format!("kubectl reservoir resize spv/{} {size}   # {why}", self.name)
    }

    fn no_subscription(&self) -> String {
        let subscribed =
            self.snapshot.subscriptions.iter().filter(|s| s.namespace().as_deref() == Some(self.namespace));
        let subscribed = subscribed.flat_map(|s| s.spec.roles.iter().map(String::as_str));
        let exists = self.snapshot.items().iter().any(|i| i.kind != &CLAIM && i.role == Some(self.role));
        match nearest(self.role, subscribed).filter(|_| !exists) {
            Some(near) => self.claim_anew(near, None, self.mode(), &format!("if role {near} is meant")),
            None => format!("kubectl reservoir subscribe {} -n {}", self.role, self.namespace),
        }
    }

    fn no_capability(&self) -> String {
        let covers = |s: &&crate::api::RoleSubscription| {
            s.namespace().as_deref() == Some(self.namespace)
                && s.spec.roles.iter().any(|role| Role::name_covers(role, self.role))
        };
        let Some(subscription) = self.snapshot.subscriptions.iter().find(covers) else {
            let list = format!("kubectl get rolesubscriptions -n {}", self.namespace);
            return format!("{list}   # add SHARED_RESOURCES to spec.capabilities of the one for the role");
        };
        format!(
            "kubectl patch rolesubscription {} -n {} --type=merge -p '{{\"spec\":{{\"capabilities\":[\"SHARED_RESOURCES\"]}}}}'   \
             # the namespace's pods share the volume then",
            subscription.name_any(),
            self.namespace
        )
    }

    fn no_such_volume(&self) -> String {
        let asked = self.claim.and_then(|c| c.spec.volume.as_deref()).unwrap_or_default();
        let offers = self.snapshot.offers.iter().filter(|o| o.namespace().as_deref() == Some(self.namespace));
        let offered = offers.flat_map(|o| o.spec.volumes.iter().map(|v| v.name.clone()));
        let names: Vec<String> =
            offered.chain(self.snapshot.volumes.iter().map(ResourceExt::name_any)).collect();
        match nearest(asked, names.iter().map(String::as_str)) {
            Some(near) => {
                self.claim_anew(self.role, Some(near), self.mode(), &format!("if volume {near} is meant"))
            }
            None => format!(
                "kubectl reservoir create {} --role {} --size 1Gi   # in the size that is needed; or claim a volume on \
                 offer: kubectl get volumeoffers -n {}",
                word(asked),
                self.role,
                self.namespace
            ),
        }
    }

    fn held(&self) -> String {
        let holder = self.volume.and_then(|v| v.status.as_ref()?.claims.first());
        let other = format!("or claim another volume: kubectl get volumeoffers -n {}", self.namespace);
        match holder {
            Some(holder) => {
                format!("kubectl reservoir why vclaim/{} -n {}   # {other}", holder.name, holder.namespace)
            }
            None => format!("wait for the claim that holds the volume, {other}"),
        }
    }

    fn mode(&self) -> AccessMode {
        self.claim.map_or(AccessMode::ReadWrite, |claim| claim.spec.mode)
    }

    /// Deletes an unbound claim, and makes it anew.
    fn claim_anew(&self, role: &str, volume: Option<&str>, mode: AccessMode, why: &str) -> String {
        format!("{} && {}   # {why}", self.delete(), self.claim_command(self.name, role, volume, mode))
    }

    fn claim_command(&self, name: &str, role: &str, volume: Option<&str>, mode: AccessMode) -> String {
        let mut command = format!("kubectl reservoir claim {name} --role {role}");
        let spec = self.claim.map(|claim| &claim.spec);
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
        format!("{command} -n {}", self.namespace)
    }
}

/// A size of at most `bytes`, in whole Mi if it is that large.
fn whole_mebibytes(bytes: u64) -> Size {
    Size::from_bytes(if bytes < 1 << 20 { bytes } else { bytes >> 20 << 20 })
}

/// A text from a spec as one word of a shell. The author of the spec is not the user who runs the command.
fn word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._/=".contains(c);
    match text.chars().all(is_plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::*;
    use crate::plugin::kind::Kind;

    fn step(snapshot: &Snapshot, kind: &'static Kind, name: &str, reason: &str) -> String {
        let target = Target::new(kind, kind.namespaced.then(|| "team".to_owned()), name.to_owned());
        About::new(snapshot, &target).step(reason).unwrap()
    }

    /// T4: no reason of this version is answered with a question about the controller's version.
    #[test]
    fn t4_each_reason_has_its_own_advice() {
        let snapshot = Snapshot {
            claims: vec![claim("team", "c", "v")],
            volumes: vec![volume("c", "eng", 1)],
            ..Snapshot::default()
        };
        for kind in [&CLAIM, &VOLUME] {
            ALL.iter().for_each(|(reason, _)| drop(step(&snapshot, kind, "c", reason)));
        }
    }

    #[test]
    fn t4_a_name_is_one_word_of_a_shell() {
        assert_eq!((word("data-1.x"), word("tier=hot")), ("data-1.x".into(), "tier=hot".into()));
        assert_eq!(word("x; rm 'y'"), r"'x; rm '\''y'\'''");
    }

    /// T4: the advice does not repeat a mistyped name. A similar name comes first.
    #[test]
    fn t4_advice_looks_for_the_similar_name_first() {
        let mut eng = reserved("eng", "eng", 4, &[]);
        let mut typo = reservation("typo", "eng", 1);
        typo.spec.node_disk = Some("n1.b".into());
        let mut orphaned = reservation("sub", "eng/ml", 1);
        orphaned.spec.parent = Some("egn".into());
        eng.status.as_mut().unwrap().node_disk = Some("n1.a".into());
        let mut snapshot = Snapshot {
            disks: vec![disk("n1.a", "n1", 10, &[])],
            reservations: vec![eng, typo, orphaned],
            volumes: vec![ready_volume("data", "eng", true), volume("lost", "egn", 1)],
            claims: vec![claim("team", "c", "dta")],
            subscriptions: vec![subscription("team", &["eng"], false)],
            ..Snapshot::default()
        };
        snapshot.reservations.push(reservation("elsewhere", "eng", 1));
        snapshot.reservations[3].spec.node_name = Some("n2".into());
        for (kind, name, reason, wanted) in [
            (
                &RESERVATION,
                "elsewhere",
                NO_SUCH_DISK,
                "kubectl reservoir reserve elsewhere --role eng --size 1Gi --node n1   # if node n1 is meant",
            ),
            (&CLAIM, "c", NO_SUCH_VOLUME, "kubectl reservoir claim c --role eng --volume data -n team"),
            (
                &RESERVATION,
                "typo",
                NO_SUCH_DISK,
                "kubectl reservoir reserve typo --role eng --size 1Gi --disk n1.a",
            ),
            (
                &RESERVATION,
                "sub",
                NO_PARENT,
                "kubectl reservoir reserve sub --role eng/ml --size 1Gi --parent eng",
            ),
            (&VOLUME, "lost", NO_RESERVATION, "kubectl reservoir create lost --role eng --size 1Gi"),
        ] {
            let step = step(&snapshot, kind, name, reason);
            assert!(step.starts_with("kubectl delete ") && step.contains(wanted), "{reason}: {step}");
        }
    }

    /// T4: where no size fits, the advice is no way back to itself.
    #[test]
    fn t4_advice_leads_on_where_nothing_is_left() {
        let full = with_quota(volume_role("eng", "eng"), Some(5), None, &[("x", 5)]);
        let mut releasing = claim("team", "c", "v");
        releasing.metadata.labels = Some([(crate::api::LABEL_PVC_UID.to_owned(), "u".to_owned())].into());
        let snapshot = Snapshot {
            reservations: vec![reservation("more", "eng/ml", 1)],
            roles: vec![full],
            claims: vec![releasing],
            ..Snapshot::default()
        };
        for (kind, name, reason, wanted) in [
            (&RESERVATION, "more", OVER_QUOTA, "kubectl reservoir tree --role eng   # delete reservations"),
            (&RESERVATION, "more", NOT_ENOUGH_ROOM, "kubectl reservoir status   # free space"),
            (&CLAIM, "c", IN_USE, "kubectl describe pvc c -n team   # no new pod can use it"),
        ] {
            let step = step(&snapshot, kind, name, reason);
            assert!(step.starts_with(wanted), "{step}");
        }
    }

    /// T4: the advice has sizes that suffice.
    #[test]
    fn t4_advice_has_sizes_that_suffice() {
        let mut free = disk("n1.a", "n1", 10, &[]);
        free.status.as_mut().unwrap().free = Some(gi(6));
        let mut big = volume("big", "eng", 5);
        big.spec.reservation = Some("eng".into());
        let mut sub = reservation("sub", "eng/ml", 3);
        sub.spec.parent = Some("eng".into());
        let snapshot = Snapshot {
            disks: vec![free],
            reservations: vec![
                reserved("eng", "eng", 4, &[("data", 3)]),
                reservation("large", "eng", 99),
                sub,
            ],
            volumes: vec![big],
            roles: vec![with_quota(volume_role("eng", "eng"), Some(8), None, &[("x", 5)])],
            ..Snapshot::default()
        };
        for (kind, name, reason, wanted) in [
            (&VOLUME, "big", RESERVATION_FULL, "kubectl reservoir resize dr/eng 8Gi "),
            (&RESERVATION, "large", NOT_ENOUGH_ROOM, "kubectl reservoir resize dr/large 6Gi "),
            (&RESERVATION, "large", OVER_QUOTA, "kubectl reservoir resize dr/large 3Gi "),
            (&RESERVATION, "eng", BELOW_USED, "kubectl reservoir resize dr/eng 3Gi "),
            (&RESERVATION, "sub", PARENT_FULL, "kubectl reservoir resize dr/eng 6Gi "),
            (&RESERVATION, "sub", PARENT_FULL, "kubectl reservoir resize dr/sub 1Gi"),
        ] {
            let step = step(&snapshot, kind, name, reason);
            assert!(step.contains(wanted), "{name} {reason}: {step}");
        }
    }
}
