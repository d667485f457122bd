//! The next step for each reason of a condition, with all names filled in.

mod space;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt;

use super::target::Target;
use crate::api::condition::{self, reason::*};
use crate::api::{
    AccessMode, DiskKind, DiskReservation, NodeDisk, Role, SharedPersistentVolume, Size, VolumeClaim,
    VolumeMode,
};
use crate::cluster;
use crate::plan::candidate::is_cordoned;
use crate::plan::node_disk::UNCONFIGURED;
use crate::plan::own_pvc::pvc_of;
use crate::plan::{advice, foreign_finalizer, fullness, holder, quota, resize};
use crate::plugin::kind::{CLAIM, DISK, RESERVATION, VOLUME, nearest};
use crate::plugin::snapshot::Snapshot;

pub(super) use space::pod_of;

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
        let asked = reservation.filter(|_| target.kind == &RESERVATION);
        let disk = disk.or(asked.and_then(|r| r.spec.node_disk.clone()));
        let argument = item.as_ref().map(|item| item.argument()).unwrap_or_default();
        let role = item.and_then(|item| item.role).unwrap_or_default();
        Self { snapshot, name, argument, namespace, role, claim, volume, reservation, disk }
    }

    /// The next step for a reason; `None` for an unknown reason.
    pub fn step(&self, reason: &str) -> Option<String> {
        let Self { name, argument, namespace, role, .. } = self;
        Some(match reason {
            READY | DISK_HEALTHY | RESIZED | BACKED | RETIRE_WITHDRAWN | BOUND | SUBSCRIBED | OFFERED
            | SEALED => advice::nothing_to_do(),
            RELEASING if self.foreign_finalizer().is_some() => {
                advice::see_finalizers_of(argument, self.foreign_finalizer().unwrap_or_default())
            }
            CREATING | PARENT_NOT_RESERVED | RESIZING | SEALING | BINDING | RELEASING => advice::look_again(),
            INVALID => advice::correct_field(argument),
            RESIZE_FAILED if self.is_mounted_meanwhile() => self.end_users_to_grow(),
            RESIZE_FAILED if self.volume.is_some_and(|volume| pvc_of(volume).is_none()) => {
                advice::take_size_back(name, self.present_size())
            }
            DISK_REFUSED => self.mend_disk(),
            BACKING_FAILED if self.volume.is_some_and(|volume| volume.spec.adopt.is_some()) => {
                advice::adopt_elsewhere(argument)
            }
            SEALED_SIZE => advice::take_size_back(name, self.present_size()),
            HAS_WRITERS => advice::let_writers_go_on(name),
            SEAL_REFUSED => advice::take_seal_back(name),
            AGENT_SILENT | BACKING_FAILED | RESIZE_FAILED | SEAL_FAILED => self.agent_log(),
            // The node may have no object.
            NODE_UNREACHABLE if !self.snapshot.sees(&DISK) => {
                advice::have_administrator_ask(match &self.disk {
                    Some(disk) => format!("nd/{disk}"),
                    None => argument.clone(),
                })
            }
            NODE_UNREACHABLE => advice::bring_node_back(self.node(), self.disk.as_deref().unwrap_or(name)),
            NODE_CORDONED => self.cordoned_node().map_or_else(advice::look_again, advice::uncordon_for_new),
            DISK_GONE => advice::empty_gone_disk(argument),
            SPACE_TAKEN => advice::remove_foreign_files(self.node()),
            NOT_ENOUGH_ROOM => self.not_enough_room(),
            OVER_QUOTA => match self.within_quota() {
                (0, role) => advice::free_limit(role),
                (left, role) => self
                    .resize_elsewhere(self.reservation, whole_mebibytes(left))
                    .unwrap_or_else(|| advice::fit_limit(argument, whole_mebibytes(left), role)),
            },
            GUARANTEED => self.guaranteed(),
            GUARANTEE_TOO_LARGE => self.guarantee_too_large(),
            PARENT_FULL => self.parent_full(),
            BELOW_USED => advice::fit_content(argument, whole_mebibytes(self.used()), role),
            NO_SUCH_DISK if self.reservation.is_none() => advice::correct_template(name),
            NO_SUCH_DISK => self.no_such_disk(),
            TEMPLATE_WAITS => self.template_waits(),
            DISK_MOVED => advice::leave_moved_disk(argument),
            NO_PARENT => self.no_parent(),
            NOT_A_SUB_ROLE => advice::reserve_without_parent(self.reserve_anew()),
            HAS_VOLUMES | HAS_REFINEMENTS => self.content(reason),
            NO_RESERVATION => self.no_reservation(),
            RESERVATION_FULL => self.reservation_full(),
            TOO_MANY_RESERVATIONS => advice::use_fewer_reservations(),
            TOO_MANY_VOLUMES => advice::use_fewer_volumes(role),
            TOO_MANY_CLAIMS => {
                let volume = self.claim.and_then(|c| c.spec.volume.as_deref());
                advice::ask_about_claims(volume.map(word).unwrap_or_default())
            }
            SHARE_TAKEN if self.claim.is_some() => advice::use_fewer_claims(namespace),
            SHARE_TAKEN => advice::use_less_of_role(role),
            REFUSED => advice::change_quota(namespace),
            NO_ORPHAN => advice::list_orphans(self.to_delete()),
            WRONG_DISK => self.wrong_disk(),
            BACKING_LOST => advice::find_lost_data(self.node(), self.to_delete()),
            CANNOT_SHRINK => advice::keep_file_system(name, self.present_size()),
            SHRINK_IN_USE => advice::keep_size(name, self.present_size()),
            RETIRING => self.retiring(),
            NEARLY_FULL => self.nearly_full(),
            // The message has the words of the agent, which cannot go on.
            DESTROYING if self.is_unused() && self.is_unbacked() => self.mend_disk(),
            DESTROYING if self.is_unused() => advice::look_again(),
            DESTROYING => advice::end_users(role),
            NO_SUBSCRIPTION => self.no_subscription(),
            NO_CAPABILITY => self.no_capability(),
            ROLE_NOT_ALLOWED => {
                let role = self.volume.map_or(*role, |volume| &volume.spec.role);
                advice::claim_for_role_of_volume(self.claim_anew(role, None, self.mode()))
            }
            NO_SUCH_VOLUME => self.no_such_volume(),
            ALWAYS_WRITABLE => advice::claim_writable(self.claim_anew(role, None, AccessMode::ReadWrite)),
            VOLUME_SEALED => advice::claim_for_reading(self.claim_anew(role, None, AccessMode::ReadOnly)),
            NO_MATCH => self.no_match(),
            VOLUME_RETIRING | VOLUME_DESTROYING => advice::see_offers(namespace),
            VOLUME_NOT_READY => match (self.volume, self.claim.and_then(|c| c.spec.volume.as_ref())) {
                (Some(volume), _) => advice::ask_why(format!("spv/{}", volume.name_any())),
                (None, Some(volume)) if !self.snapshot.sees(&VOLUME) => {
                    advice::have_administrator_ask(format!("spv/{}", word(volume)))
                }
                _ => advice::look_again(),
            },
            VOLUME_HELD => match self.volume.and_then(|v| v.status.as_ref()?.claims.first()) {
                Some(holder) => advice::ask_about_holder(&holder.name, &holder.namespace, namespace),
                None => advice::claim_other_volume(namespace),
            },
            NAME_TAKEN => advice::claim_under_other_name(self.claim_command(
                &format!("{name}-shared"),
                role,
                None,
                self.mode(),
            )),
            VOLUME_LOST if self.lost_only_its_binding() => self.claim_anew(role, None, self.mode()),
            VOLUME_LOST => advice::leave_lost_volume(self.delete()),
            NODE_GONE if self.claim.is_some() => advice::leave_lost_volume(self.delete()),
            NODE_GONE => advice::look_again(),
            VOLUME_GONE | ROLE_TAKEN => self.delete(),
            IN_USE => self.in_use(),
            MOUNT_HELD => advice::end_process(),
            OVER_LIMIT => advice::raise_limit(role),
            _ => return None,
        })
    }

    /// The claims of a class' volume end with its PersistentVolumeClaim.
    fn retiring(&self) -> String {
        match self.volume.and_then(|volume| self.pvc_with(volume)) {
            Some(pvc) => {
                let namespace = pvc.namespace().unwrap_or_default();
                advice::keep_volume_of_pvc(self.name, pvc.name_any(), namespace)
            }
            None => advice::keep_volume(self.name),
        }
    }

    /// The step for a volume of which nearly all is taken: a quarter more.
    fn nearly_full(&self) -> String {
        let Some(volume) = self.volume.filter(|volume| fullness::can_grow(volume)) else {
            return advice::remove_files(self.role);
        };
        let size = resize::size_now(volume).bytes_or_zero();
        let larger = whole_mebibytes(size.saturating_add(size / 4));
        match self.pvc_with(volume) {
            Some(pvc) => advice::resize_pvc(pvc.name_any(), pvc.namespace().unwrap_or_default(), larger),
            None => advice::enlarge_full(self.name, larger),
        }
    }

    /// The PersistentVolumeClaim that the volume was made for.
    fn pvc_with(&self, volume: &SharedPersistentVolume) -> Option<&'a PersistentVolumeClaim> {
        let uid = pvc_of(volume)?;
        self.snapshot.pvcs.iter().find(|pvc| pvc.metadata.uid.as_deref() == Some(uid))
    }

    /// True if no claim and no pod uses the volume: its node is at work, or does not answer.
    fn is_unused(&self) -> bool {
        let status = self.volume.and_then(|volume| volume.status.as_ref());
        status.is_some_and(|status| status.claims.is_empty() && status.user_count == 0)
    }

    fn is_unbacked(&self) -> bool {
        let status = self.volume.and_then(|volume| volume.status.as_ref());
        let backed = status.and_then(|status| condition::get(&status.conditions, condition::BACKED));
        backed.is_some_and(|backed| backed.status != "True")
    }

    /// Kubernetes keeps a PersistentVolumeClaim for finished pods, too.
    fn in_use(&self) -> String {
        let claim = (self.namespace.to_owned(), self.name.to_owned());
        let finished = |pod: &&Pod| cluster::is_terminal(pod) && cluster::claims_of(pod).contains(&claim);
        match self.snapshot.pods.iter().find(finished) {
            Some(pod) if self.snapshot.pods_of(self.namespace, self.name).next().is_none() => {
                advice::delete_finished_pod(pod.name_any(), self.namespace)
            }
            _ => advice::end_pods(self.namespace),
        }
    }

    /// True if the volume of the claim is there, and only its list lacks the claim.
    fn lost_only_its_binding(&self) -> bool {
        let noted = self.claim.and_then(|claim| claim.status.as_ref()?.volume.as_ref());
        let is_it = |v: &SharedPersistentVolume| {
            noted.is_some_and(|noted| v.metadata.uid.as_ref() == Some(&noted.uid))
        };
        self.snapshot.volumes.iter().any(is_it)
    }

    fn delete(&self) -> String {
        advice::delete(self.to_delete())
    }

    /// The argument of a deletion. The volume of a StorageClass can end only with its PersistentVolumeClaim.
    fn to_delete(&self) -> String {
        let of_volume = self.volume.filter(|_| self.claim.is_none()).and_then(|volume| self.made_for(volume));
        match of_volume {
            Some((pvc, namespace)) => format!("pvc/{pvc} -n {namespace}"),
            None => self.argument.clone(),
        }
    }

    /// True if the volume cannot grow while pods have it mounted, and some have.
    fn is_mounted_meanwhile(&self) -> bool {
        let status = self.volume.and_then(|volume| volume.status.as_ref());
        let failed = status.and_then(|status| status.node.as_ref()?.resize_failed.as_deref());
        failed.is_some_and(|why| why.contains(resize::BUSY)) && status.is_some_and(|s| !s.users.is_empty())
    }

    /// The finalizer of others that keeps a claim which is being deleted.
    fn foreign_finalizer(&self) -> Option<&'a str> {
        let claim = self.claim.filter(|claim| claim.metadata.deletion_timestamp.is_some())?;
        foreign_finalizer(claim).map(String::as_str)
    }

    /// The step for such a volume, with its first pod.
    fn end_users_to_grow(&self) -> String {
        let users = self.volume.and_then(|volume| volume.status.as_ref()).map_or(&[][..], |s| &s.users);
        let first = users.first();
        first.map_or_else(advice::look_again, |pod| advice::end_users_to_grow(&pod.name, &pod.namespace))
    }

    /// The step for a reservation that no disk has space for. One that has its place does not leave its disk.
    fn not_enough_room(&self) -> String {
        let status = self.reservation.and_then(|r| r.status.as_ref());
        let own = status.and_then(|status| status.node_disk.as_ref());
        let size = whole_mebibytes(self.largest_free());
        match (size.bytes_or_zero(), own) {
            (0, Some(_)) => self.free_own_disk(),
            (0, None) => advice::make_free_space(),
            (_, own) => self.resize_elsewhere(self.reservation, size.clone()).unwrap_or_else(|| match own {
                Some(disk) => advice::fit_own_disk(&self.argument, size, disk),
                None => advice::fit_free_space(&self.argument, size),
            }),
        }
    }

    /// `node n1`.
    fn node(&self) -> String {
        let disk = self.snapshot.disks.iter().find(|d| Some(d.name_any()) == self.disk);
        let placed = self.volume.and_then(|volume| volume.status.as_ref()?.node_name.clone());
        let node = disk.map(|disk| disk.spec.node_name.clone()).or(placed);
        node.map_or_else(|| "its node".to_owned(), |node| format!("node {node}"))
    }

    /// The pod of the agent on the object's node.
    fn agent(&self) -> Option<&'a Pod> {
        let node = self.node();
        let is_agent = |p: &&Pod| {
            let on = p.spec.as_ref().and_then(|spec| spec.node_name.as_ref());
            p.labels().get("app.kubernetes.io/component").is_some_and(|component| component == "agent")
                && on.is_some_and(|on| node == format!("node {on}"))
        };
        self.snapshot.pods.iter().find(is_agent)
    }

    fn agent_log(&self) -> String {
        match self.agent() {
            Some(pod) => advice::read_agent_log(pod.namespace().unwrap_or_default(), pod.name_any()),
            None => advice::find_agent(self.node()),
        }
    }

    /// The agent's message has the cause, so its log adds nothing. A disk without content that is no longer configured can go.
    fn mend_disk(&self) -> String {
        let disk = self.snapshot.disks.iter().find(|disk| Some(disk.name_any()) == self.disk);
        let is_left = |disk: &&NodeDisk| {
            disk.status.as_ref().is_some_and(|status| {
                let ready = condition::get(&status.conditions, condition::READY);
                status.reservations.is_empty()
                    && status.orphans.is_empty()
                    && ready.is_some_and(|ready| ready.message.starts_with(UNCONFIGURED))
            })
        };
        let release = self.agent().and_then(|pod| {
            Some((pod.labels().get("app.kubernetes.io/instance")?, pod.namespace().unwrap_or_default()))
        });
        match (disk.filter(is_left), release) {
            (Some(disk), _) => advice::delete(format!("nd/{}", disk.name_any())),
            (None, Some((release, namespace))) => advice::mend_disk(release, namespace),
            (None, None) => self.agent_log(),
        }
    }

    /// The most bytes that the reservation could have now.
    fn largest_free(&self) -> u64 {
        let own = self.reservation.and_then(|r| r.status.as_ref()).map_or(0, holder::size);
        let on = |disk: &&NodeDisk| self.disk.as_ref().is_none_or(|own| disk.name_any() == *own);
        let free = |disk: &NodeDisk| disk.status.as_ref()?.free.as_ref()?.bytes().ok();
        let free = self.snapshot.disks.iter().filter(on).filter_map(free).max().unwrap_or(0);
        if self.disk.is_some() { own.saturating_add(free) } else { free }
    }

    /// The most bytes that the limits allow the object to have, and the role whose limit has the least left.
    fn within_quota(&self) -> (u64, &str) {
        let own = self.reservation.and_then(|r| r.status.as_ref()).map_or(0, holder::size);
        let roles: Vec<_> = self.snapshot.roles.iter().collect();
        let charged =
            quota::ledgers(&roles).into_iter().filter(|(r, _)| Role::name_covers(&r.spec.role, self.role));
        let left = charged.filter_map(|(r, reserved)| {
            let limit = r.spec.quota.limit.as_ref()?.bytes_or_zero();
            Some((limit.saturating_sub(reserved), r.spec.role.as_str()))
        });
        left.min().map_or((0, self.role), |(left, role)| (left.saturating_add(own), role))
    }

    /// The step for a reservation that waits for the guarantee of another role: the largest one.
    fn guaranteed(&self) -> String {
        let roles: Vec<_> = self.snapshot.roles.iter().collect();
        let open = quota::open_guarantees(self.role, &quota::ledgers(&roles));
        let largest = open.into_iter().max_by_key(|(of, need)| (*need, of.name_any()));
        largest.map_or_else(advice::see_guarantees, |(of, _)| advice::lower_guarantee(of.name_any()))
    }

    /// The step for a guarantee that nothing can meet.
    fn guarantee_too_large(&self) -> String {
        let roles: Vec<_> = self.snapshot.roles.iter().collect();
        let disks: Vec<_> = self.snapshot.disks.iter().collect();
        let own = roles.iter().find(|role| role.name_any() == self.name);
        match own.and_then(|own| quota::impossible(own, &roles, &disks)) {
            Some(found) if found.possible >= 1 << 20 => {
                advice::fit_guarantee(self.name, whole_mebibytes(found.possible))
            }
            Some(_) => advice::end_guarantee(self.name),
            None => advice::look_again(),
        }
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
            return advice::look_again();
        };
        let (size, free) = parent.status.as_ref().map_or((0, 0), |s| (holder::size(s), holder::free(s)));
        let own = reservation.status.as_ref().map_or(0, holder::size);
        let missing = reservation.spec.size.bytes_or_zero().saturating_sub(own).saturating_sub(free);
        let less = own.saturating_add(free);
        let more = Size::from_bytes(size.saturating_add(missing));
        if let Some(step) = self.resize_elsewhere(Some(parent), more.clone()) {
            return step;
        }
        match less >= 1 << 20 {
            true => advice::fit_parent(parent.name_any(), more, &self.argument, whole_mebibytes(less)),
            false => advice::enlarge_parent(parent.name_any(), more),
        }
    }

    /// The command that deletes an empty reservation, and makes it anew.
    fn reserve_anew(&self) -> String {
        let size = self.reservation.map_or("1Gi", |r| r.spec.size.as_str());
        format!(
            "kubectl delete {} && kubectl reservoir reserve {} --role {} --size {size}",
            self.argument, self.name, self.role
        )
    }

    /// The cordoned node of the disk, or else the first cordoned node.
    fn cordoned_node(&self) -> Option<&str> {
        let cordoned = || self.snapshot.disks.iter().filter(|disk| is_cordoned(disk));
        let own = cordoned().find(|disk| disk.metadata.name == self.disk);
        own.or(cordoned().next()).map(|disk| &*disk.spec.node_name)
    }

    fn no_such_disk(&self) -> String {
        let disks = &self.snapshot.disks;
        let spec = self.reservation.map(|r| &r.spec);
        let names: Vec<String> = disks.iter().map(ResourceExt::name_any).collect();
        let nodes = disks.iter().map(|disk| disk.spec.node_name.as_str());
        let anew = self.reserve_anew();
        let near_node = spec.and_then(|s| s.node_name.as_deref()).and_then(|asked| nearest(asked, nodes));
        let asked_disk = spec.and_then(|s| s.node_disk.as_deref());
        let near_disk = asked_disk.and_then(|asked| nearest(asked, names.iter().map(String::as_str)));
        match (near_node, near_disk) {
            _ if names.is_empty() => advice::see_no_disk(),
            (Some(node), _) => advice::reserve_on_node(anew, node),
            (None, Some(disk)) => advice::reserve_on_disk(anew, disk),
            (None, None) => {
                match spec.and_then(|s| s.node_selector.as_ref()).filter(|_| asked_disk.is_none()) {
                    Some(selector) => {
                        let labels = selector.iter().map(|(key, value)| word(&format!("{key}={value}")));
                        let labels: Vec<String> = labels.collect();
                        advice::reserve_without_selector(anew, &disks[0].spec.node_name, labels.join(" "))
                    }
                    None => advice::reserve_on_any_disk(anew),
                }
            }
        }
    }

    fn no_parent(&self) -> String {
        let above =
            |r: &&DiskReservation| r.spec.role != self.role && Role::name_covers(&r.spec.role, self.role);
        let names: Vec<String> =
            self.snapshot.reservations.iter().filter(above).map(ResourceExt::name_any).collect();
        let asked = self.reservation.and_then(|r| r.spec.parent.as_deref()).unwrap_or_default();
        let size = self.reservation.map_or("1Gi", |r| r.spec.size.as_str());
        match (nearest(asked, names.iter().map(String::as_str)), self.role.rsplit_once('/')) {
            (Some(near), _) => advice::reserve_from_parent(self.reserve_anew(), near),
            (None, Some((above, _))) => advice::make_parent(word(asked), above, size),
            (None, None) => advice::reserve_without_ancestor(self.reserve_anew()),
        }
    }

    /// The step for the first object in a reservation that is being deleted.
    fn content(&self, reason: &str) -> String {
        let Some(status) = self.reservation.and_then(|r| r.status.as_ref()) else {
            return advice::look_again();
        };
        let (kept, live): (Vec<_>, Vec<_>) = status.volumes.iter().partition(|entry| entry.kept.is_some());
        match (reason, live.first(), kept.first(), status.refinements.first()) {
            (HAS_VOLUMES, Some(volume), ..) => advice::retire_content(&volume.name),
            (HAS_VOLUMES, None, Some(volume), _) => advice::erase_content(&volume.name),
            (HAS_REFINEMENTS, .., Some(refinement)) => advice::delete_content(&refinement.name),
            _ => advice::look_again(),
        }
    }

    fn no_reservation(&self) -> String {
        let size = self.volume.map_or("1Gi", |v| v.spec.size.as_str());
        let above = |r: &&DiskReservation| Role::name_covers(&r.spec.role, self.role);
        let usable: Vec<String> =
            self.snapshot.reservations.iter().filter(above).map(ResourceExt::name_any).collect();
        let asked = self.volume.and_then(|v| v.spec.reservation.as_deref());
        let near = asked.and_then(|asked| nearest(asked, usable.iter().map(String::as_str)));
        // Another volume of the name would not have the data.
        if let Some(recover) = self.volume.and_then(|volume| volume.spec.recover.as_ref()) {
            let name = asked.map_or_else(|| self.role.to_lowercase().replace(['/', '_'], "-"), word);
            let has = |disk: &&NodeDisk| {
                disk.status.as_ref().is_some_and(|status| status.orphans.iter().any(|o| o.uid == recover.uid))
            };
            return match self.snapshot.disks.iter().find(has) {
                Some(disk) => advice::reserve_for_data(name, self.role, size, disk.name_any()),
                None => advice::reserve_for_role(name, self.role, size),
            };
        }
        let roles = self.snapshot.reservations.iter().map(|r| r.spec.role.as_str());
        let near_role = nearest(self.role, roles).filter(|_| usable.is_empty());
        let by_class = near.is_some() || near_role.is_some() || asked.is_some() && !usable.is_empty();
        if let Some(step) = by_class.then(|| self.made_anew(true)).flatten() {
            return step;
        }
        match (near, near_role, asked) {
            (Some(near), ..) => {
                advice::create_in_near_reservation(self.create_anew(self.role, Some(near)), near)
            }
            (None, Some(role), _) => advice::for_near_role(self.create_anew(role, asked), role),
            (None, None, Some(_)) if !usable.is_empty() => {
                advice::create_in_any_reservation(self.create_anew(self.role, None), self.role)
            }
            (None, None, Some(asked)) => advice::reserve_for_role(word(asked), self.role, size),
            (None, None, None) => {
                let name = self.role.to_lowercase().replace(['/', '_'], "-");
                advice::reserve_for_role(name, self.role, size)
            }
        }
    }

    /// The command that deletes a volume without data, and makes it anew.
    fn create_anew(&self, role: &str, reservation: Option<&str>) -> String {
        let Some(spec) = self.volume.map(|volume| &volume.spec) else { return self.delete() };
        let (argument, name, size) = (&self.argument, self.name, &spec.size);
        let mut command = format!(
            "kubectl delete {argument} && kubectl reservoir create {name} --role {role} --size {size}"
        );
        let mut add = |option: &str, value: Option<String>| {
            command.extend(value.map(|value| format!(" --{option} {}", word(&value))));
        };
        add("reservation", reservation.map(str::to_owned));
        let is_block = spec.volume_mode == VolumeMode::Block;
        let fs_type = format!("{:?}", spec.fs_type).to_lowercase();
        add("fs-type", Some(fs_type).filter(|fs| fs != "ext4" && !is_block && spec.adopt.is_none()));
        add("gid", spec.gid.map(|gid| gid.to_string()));
        add("keep-for", spec.keep_for.clone());
        add("adopt", spec.adopt.as_ref().map(|adopt| adopt.path.clone()));
        for (key, value) in self.volume.into_iter().flat_map(|volume| volume.labels()) {
            add("label", Some(format!("{key}={value}")));
        }
        command.push_str(if spec.shared.is_none() { " --exclusive" } else { "" });
        command.push_str(if is_block { " --block" } else { "" });
        command
    }

    /// The step without the field that no disk of the cluster serves, if there is one.
    fn wrong_disk(&self) -> String {
        let kind = |kind| self.snapshot.disks.iter().any(|disk| disk.spec.kind == kind);
        let spec = self.volume.map(|volume| &volume.spec);
        let is_block = spec.is_some_and(|spec| spec.volume_mode == VolumeMode::Block);
        let adopts = spec.and_then(|spec| spec.adopt.as_ref());
        if let Some(step) = self.made_anew(!is_block) {
            return step;
        }
        let anew = self.create_anew(self.role, spec.and_then(|spec| spec.reservation.as_deref()));
        match adopts {
            Some(adopt) if self.snapshot.disks.iter().all(|disk| disk.spec.adopt_roots.is_empty()) => {
                advice::allow_adoption(&adopt.path)
            }
            None if is_block && !kind(DiskKind::Block) => {
                advice::create_without_block(anew.trim_end_matches(" --block"))
            }
            _ => advice::leave_wrong_disk(&self.argument),
        }
    }

    fn no_match(&self) -> String {
        let Some(selector) = self.claim.and_then(|claim| claim.spec.selector.as_ref()) else {
            return advice::see_offers(self.namespace);
        };
        let there = self.snapshot.volumes.iter().any(|volume| volume.name_any() == self.name);
        let name = if there { format!("{}-2", self.name) } else { self.name.to_owned() };
        let labels = selector.match_labels.iter().flatten();
        let labels: String =
            labels.map(|(key, value)| format!(" --label {}", word(&format!("{key}={value}")))).collect();
        let size = selector.min_size.as_ref().map_or("1Gi", Size::as_str);
        advice::create_fitting(name, self.role, size, labels, self.namespace)
    }

    /// The step that gives a reservation the size.
    pub fn enlarge(&self, reservation: &DiskReservation, size: Size) -> String {
        self.resize_elsewhere(Some(reservation), size.clone()).unwrap_or_else(|| {
            advice::enlarge_reservation(reservation.name_any(), size, &reservation.spec.role)
        })
    }

    /// The step that gives the size to a reservation of a template, or of the agents' configuration. Admission refuses every
    /// other change of its size (R2, R7).
    fn resize_elsewhere(&self, reservation: Option<&DiskReservation>, size: Size) -> Option<String> {
        let spec = &reservation?.spec;
        if spec.is_static {
            let disk = self.snapshot.disks.iter().find(|disk| Some(disk.name_any()) == spec.node_disk);
            let name = disk.map_or("?", |disk| &disk.spec.disk_name);
            return Some(advice::resize_static(name, &spec.role, size));
        }
        let of = spec.template.as_ref()?;
        let role = self.snapshot.roles.iter().find(|role| role.name_any() == of.volume_role);
        let templates = role.map_or(&[][..], |role| &role.spec.reservation_templates);
        Some(match templates.iter().position(|template| template.name == of.name) {
            Some(index) => advice::resize_template(&of.volume_role, index, size, &of.name),
            None => advice::restore_template(&spec.role, &of.volume_role, &of.name),
        })
    }

    /// The step for the first reservation of a template that waits.
    fn template_waits(&self) -> String {
        let is_of = |r: &&DiskReservation| {
            r.spec.template.as_ref().is_some_and(|of| of.volume_role == self.name) && !holder::serves(r)
        };
        match self.snapshot.reservations.iter().find(is_of) {
            Some(waiting) => advice::ask_why(format!("dr/{}", waiting.name_any())),
            None => advice::look_again(),
        }
    }

    fn present_size(&self) -> &str {
        self.volume.map_or("1Gi", |volume| resize::size_now(volume).as_str())
    }

    fn no_subscription(&self) -> String {
        let subscribed =
            self.snapshot.subscriptions.iter().filter(|s| s.namespace().as_deref() == Some(self.namespace));
        let subscribed = subscribed.flat_map(|s| s.spec.roles.iter().map(String::as_str));
        let exists = self.snapshot.items().iter().any(|i| i.kind != &CLAIM && i.role == Some(self.role));
        match nearest(self.role, subscribed).filter(|_| !exists) {
            Some(near) => advice::for_near_role(self.claim_anew(near, None, self.mode()), near),
            None => advice::subscribe(self.role, self.namespace),
        }
    }

    fn no_capability(&self) -> String {
        let covers = |s: &&crate::api::RoleSubscription| {
            s.namespace().as_deref() == Some(self.namespace)
                && s.spec.roles.iter().any(|role| Role::name_covers(role, self.role))
        };
        match self.snapshot.subscriptions.iter().find(covers) {
            Some(subscription) => advice::share_resources(subscription.name_any(), self.namespace),
            None => advice::find_subscription(self.namespace),
        }
    }

    fn no_such_volume(&self) -> String {
        let asked = self.claim.and_then(|c| c.spec.volume.as_deref()).unwrap_or_default();
        let offers = self.snapshot.offers.iter().filter(|o| o.namespace().as_deref() == Some(self.namespace));
        let offered = offers.flat_map(|o| o.spec.volumes.iter().map(|v| v.name.clone()));
        // A volume that was made for a PersistentVolumeClaim is for no other, however similar the names are.
        let fits =
            |v: &&SharedPersistentVolume| Role::name_covers(&v.spec.role, self.role) && pvc_of(*v).is_none();
        let fitting = self.snapshot.volumes.iter().filter(fits).map(ResourceExt::name_any);
        // A user who sees no volumes sees offers.
        let offered = offered.filter(|_| !self.snapshot.sees(&VOLUME));
        let names: Vec<String> = fitting.chain(offered).collect();
        match nearest(asked, names.iter().map(String::as_str)) {
            Some(near) => {
                advice::claim_near_volume(self.claim_anew(self.role, Some(near), self.mode()), near)
            }
            None => match self.snapshot.volumes.iter().find(|volume| volume.name_any() == asked) {
                Some(volume) if pvc_of(volume).is_none() => {
                    advice::claim_for_role_of_volume(self.claim_anew(&volume.spec.role, None, self.mode()))
                }
                Some(_) => advice::see_offers(self.namespace),
                None => advice::create_volume(word(asked), self.role, self.namespace),
            },
        }
    }

    fn mode(&self) -> AccessMode {
        self.claim.map_or(AccessMode::ReadWrite, |claim| claim.spec.mode)
    }

    /// The command that deletes an unbound claim, and makes it anew.
    fn claim_anew(&self, role: &str, volume: Option<&str>, mode: AccessMode) -> String {
        format!("{} && {}", self.delete(), self.claim_command(self.name, role, volume, mode))
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
mod tests;
