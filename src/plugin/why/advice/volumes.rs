//! Steps for volumes.

use std::path::Path;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::ResourceExt;

use super::super::ending_pvc;
use super::{About, message, up_to_mebibytes, whole_mebibytes, word};
use crate::api::condition::reason::{BACKING_FAILED, DESTROYING};
use crate::api::{
    BackingState, ClaimBinding, DeletionPolicy, DiskKind, DiskReservation, ErasePolicy, NodeDisk, PodRef,
    Role, SharedPersistentVolume, SharedPersistentVolumeSpec, Size, SubRoles, VolumeClaim, VolumeMode,
    condition,
};
use crate::plan::adopt::allows;
use crate::plan::candidate::is_ready;
use crate::plan::copies::{Keeper, keeper};
use crate::plan::enlarge::new_name;
use crate::plan::own_pvc::pvc_of;
use crate::plan::{advice, destroy, fullness, holder, resize};
use crate::plugin::item::Item;
use crate::plugin::kind::{CLAIM, VOLUME, nearest};

impl<'a> About<'a> {
    /// The claims of a class' volume end with its PersistentVolumeClaim.
    pub(super) fn retiring(&self) -> String {
        let Some(volume) = self.volume else { return advice::keep_volume(self.name) };
        if let Some(step) = self.of_ending_pvc(volume) {
            return step;
        }
        if let Some(pvc) = self.pvc_with(volume) {
            return advice::keep_volume_of_pvc(
                self.name,
                pvc.name_any(),
                pvc.namespace().unwrap_or_default(),
            );
        }
        if let Some(of) = &volume.spec.copy_of {
            return match keeper(volume, self.snapshot.original(of)) {
                Keeper::Selection => advice::end_users_of_copy(&of.name),
                Keeper::Original => advice::keep_with_original(&of.name),
                Keeper::NewCopy => advice::await_new_copy(&of.name),
                Keeper::Nothing => advice::end_users_of_last_copy(&of.name),
            };
        }
        let status = volume.status.clone().unwrap_or_default();
        let is_ending = |claim: &VolumeClaim| claim.metadata.deletion_timestamp.is_some();
        let of = |of: &ClaimBinding| self.snapshot.claim(Some(&of.namespace), &of.name);
        let mut claims = status.claims.iter();
        // Nothing is left to be deleted.
        if let Some(first) = status.claims.first()
            && claims.all(|claim| of(claim).is_some_and(is_ending))
        {
            return advice::ask_why(CLAIM.argument(&first.name, Some(&first.namespace)));
        }
        match (status.claims.is_empty(), status.copies.map_or(0, |copies| copies.used)) {
            (true, _) if status.user_count > 0 => advice::keep_used_volume(self.name),
            (true, 1..) => advice::keep_copied_volume(self.name, volume.uid().unwrap_or_default()),
            (true, 0) => advice::keep_unused_volume(self.name),
            (false, _) => advice::keep_volume(self.name),
        }
    }

    /// The step for a volume of which nearly all is taken: a quarter more.
    pub(super) fn nearly_full(&self) -> String {
        let Some(volume) = self.volume.filter(|volume| fullness::can_grow(volume)) else {
            return advice::remove_files(self.role);
        };
        let size = resize::size_now(volume).bytes_or_zero();
        let larger = whole_mebibytes(size.saturating_add(size / 4));
        // The growth that it waits for has a step of its own.
        if volume.spec.size.bytes_or_zero() >= larger.bytes_or_zero() {
            return advice::remove_files(self.role);
        }
        if let Some(step) = self.of_ending_pvc(volume) {
            return step;
        }
        match self.pvc_with(volume) {
            Some(pvc) => advice::resize_pvc(pvc.name_any(), pvc.namespace().unwrap_or_default(), larger),
            None => advice::enlarge_full(self.name, larger),
        }
    }

    /// The original of a copy that nobody fills, if the original is not ready (E2).
    pub(super) fn waits_for_original(&self) -> Option<&'a str> {
        let copy = self.volume.filter(|copy| copy.status.as_ref().is_none_or(|s| s.source.is_none()))?;
        let of = copy.spec.copy_of.as_ref()?;
        let original = self.snapshot.find(&VOLUME, None, &of.name)?;
        (!original.is_ready()).then_some(of.name.as_str())
    }

    /// The PersistentVolumeClaim that the volume was made for.
    pub(super) fn pvc_with(&self, volume: &SharedPersistentVolume) -> Option<&'a PersistentVolumeClaim> {
        let uid = pvc_of(volume)?;
        self.snapshot.pvcs.iter().find(|pvc| pvc.metadata.uid.as_deref() == Some(uid))
    }

    /// The step for the volume of a PersistentVolumeClaim that is being deleted, which grows no more.
    pub(super) fn of_ending_pvc(&self, volume: &SharedPersistentVolume) -> Option<String> {
        let ending = self.pvc_with(volume).filter(|pvc| pvc.metadata.deletion_timestamp.is_some())?;
        Some(ending_pvc::explain(self.snapshot, ending).1)
    }

    /// True if pods that only the API server knows may have the volume mounted, which is being destroyed.
    pub(super) fn waits_for_pods(&self) -> bool {
        self.is_unused() && destroy::says_pods(message(self.conditions, DESTROYING))
    }

    /// The first VolumeClaim of the volume. That of a class ends with its PersistentVolumeClaim.
    pub(super) fn first_claim(&self) -> Option<ClaimBinding> {
        let claims = &self.volume?.status.as_ref()?.claims;
        claims.iter().find(|claim| claim.pvc_uid.is_none()).cloned()
    }

    /// True if no claim and no pod uses the volume: its node is at work, or does not answer.
    pub(super) fn is_unused(&self) -> bool {
        let status = self.volume.and_then(|volume| volume.status.as_ref());
        status.is_some_and(|status| status.claims.is_empty() && status.user_count == 0)
    }

    /// True if the kernel of its node has the volume mounted or open, although no pod uses it.
    pub(super) fn is_held(&self) -> bool {
        let node = self.volume.and_then(|volume| volume.status.as_ref()?.node.as_ref());
        self.is_unused() && node.is_some_and(|node| node.fenced && node.in_use && node.mounted_by.is_empty())
    }

    pub(super) fn is_unbacked(&self) -> bool {
        let status = self.volume.and_then(|volume| volume.status.as_ref());
        let backed = status.and_then(|status| condition::get(&status.conditions, condition::BACKED));
        backed.is_some_and(|backed| backed.status != "True")
    }

    /// The least size, in whole Mi, that the agent says the volume needs.
    pub(super) fn least(&self) -> Option<Size> {
        let status = self.volume?.status.as_ref()?;
        let backed = condition::get(&status.conditions, condition::BACKED).filter(|c| c.status != "True");
        let failed = status.node.as_ref().and_then(|node| node.resize_failed.as_deref());
        let least = resize::least_size(failed.or(backed.map(|c| &*c.message))?)?;
        Some(up_to_mebibytes(least))
    }

    /// The step for an adopted directory that cannot be used. A volume that was made has its users, and its directory.
    pub(super) fn adopt(&self) -> String {
        let is_made = self.volume.and_then(|volume| volume.status.as_ref()?.node.as_ref());
        let is_made = is_made.is_some_and(|node| node.backing == BackingState::Made);
        match (is_made, self.least(), self.volume.and_then(|volume| volume.spec.adopt.as_ref())) {
            (true, _, Some(adopt)) => advice::allow_adoption(&adopt.path),
            (false, Some(least), _) => {
                let anew =
                    self.create_anew(self.role, self.volume.and_then(|v| v.spec.reservation.as_deref()));
                let old = self.volume.map_or(String::new(), |volume| format!("--size {}", volume.spec.size));
                advice::adopt_in_size(anew.replacen(&old, &format!("--size {least}"), 1))
            }
            _ => match self.unready_disk_beside() {
                Some(disk) => advice::ask_why(format!("nd/{disk}")),
                None => advice::adopt_elsewhere(&self.argument),
            },
        }
    }

    /// The disk of the volume's node that keeps it from adopting the directory, by the message: one that is not ready may have a volume
    /// that has adopted it (V8).
    fn unready_disk_beside(&self) -> Option<String> {
        let node = self.volume?.status.as_ref()?.node_name.as_ref()?;
        let said = message(self.conditions, BACKING_FAILED);
        let is_it = |disk: &&NodeDisk| {
            disk.spec.node_name == *node
                && !disk.spec.gone
                && !is_ready(disk)
                && said.contains(&disk.name_any())
        };
        self.snapshot.disks.iter().find(is_it).map(ResourceExt::name_any)
    }

    /// The data that a volume is to recover, if the volume is described otherwise than the data is.
    pub(super) fn recovers_otherwise(&self) -> Option<&'a str> {
        let spec = &self.volume?.spec;
        let recover = spec.recover.as_ref()?;
        let orphans = self.snapshot.disks.iter().flat_map(|disk| &disk.status).flat_map(|s| &s.orphans);
        let orphan = orphans.into_iter().find(|orphan| orphan.uid == recover.uid)?;
        let data: SharedPersistentVolumeSpec = serde_json::from_value(orphan.spec.clone()).ok()?;
        let is_alike = (&data.role, data.fs_type, data.volume_mode, data.shared.is_some())
            == (&spec.role, spec.fs_type, spec.volume_mode, spec.shared.is_some())
            && orphan.size.bytes_or_zero() == spec.size.bytes_or_zero();
        (!is_alike).then_some(recover.uid.as_str())
    }

    /// The step for a volume without its bytes. A pod that has it mounted may be the last that can read them.
    pub(super) fn lost_data(&self) -> String {
        if let Some((copy, of)) = self.volume.and_then(|volume| Some((volume, volume.spec.copy_of.as_ref()?)))
            && let Keeper::NewCopy | Keeper::Selection = keeper(copy, self.snapshot.original(of))
        {
            return advice::await_new_copy(&of.name);
        }
        let claimed =
            self.volume.and_then(|volume| volume.status.as_ref()).map(|status| !status.claims.is_empty());
        match (self.placed_user(), self.volume) {
            (Some(pod), _) => advice::save_lost_data(&pod.name, &pod.namespace, self.name),
            // Copies are not retired, and the refusal of their deletion names what uses them.
            (None, Some(volume))
                if claimed == Some(true) && pvc_of(volume).is_none() && volume.spec.copy_of.is_none() =>
            {
                advice::retire_lost(self.node(), self.name)
            }
            _ => advice::find_lost_data(self.node(), self.to_delete()),
        }
    }

    /// True if the volume cannot grow while pods have it mounted, and some have.
    pub(super) fn is_mounted_meanwhile(&self) -> bool {
        let status = self.volume.and_then(|volume| volume.status.as_ref());
        let failed = status.and_then(|status| status.node.as_ref()?.resize_failed.as_deref());
        failed.is_some_and(|why| why.contains(resize::BUSY)) && status.is_some_and(|s| !s.users.is_empty())
    }

    /// The first pod on a node that uses the volume.
    fn placed_user(&self) -> Option<&PodRef> {
        let is_placed = |user: &&PodRef| {
            let pod = self.snapshot.pods.iter().find(|pod| pod.metadata.uid.as_ref() == Some(&user.uid));
            pod.is_some_and(|pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()))
        };
        self.volume?.status.as_ref()?.users.iter().find(is_placed)
    }

    /// The first pod that uses the volume: one on a node, which others have not mounted it on.
    fn first_user(&self) -> Option<&PodRef> {
        self.placed_user().or(self.volume?.status.as_ref()?.users.first())
    }

    /// The step for such a volume, with its first pod.
    pub(super) fn end_users_to_grow(&self) -> String {
        let first = self.first_user();
        first.map_or_else(advice::look_again, |pod| advice::end_users_to_grow(&pod.name, &pod.namespace))
    }

    /// The same for one whose growth was taken back.
    pub(super) fn await_users_to_settle(&self) -> String {
        let first = self.first_user();
        first.map_or_else(advice::look_again, |pod| advice::await_users_to_settle(&pod.name, &pod.namespace))
    }

    pub(super) fn no_reservation(&self) -> String {
        let size = self.volume.map_or("1Gi", |v| v.spec.size.as_str());
        let above = |r: &&DiskReservation| Role::name_covers(&r.spec.role, self.role);
        let (ending, lasting): (Vec<_>, Vec<_>) = self
            .snapshot
            .reservations
            .iter()
            .filter(above)
            .partition(|r| r.metadata.deletion_timestamp.is_some());
        let usable: Vec<String> = lasting.into_iter().map(ResourceExt::name_any).collect();
        let asked = self.volume.and_then(|v| v.spec.reservation.as_deref());
        let serving = self.snapshot.reservations.iter().filter(|r| holder::serves(r));
        let near: Vec<String> = serving.clone().filter(above).map(ResourceExt::name_any).collect();
        let near = asked.and_then(|asked| nearest(asked, near.iter().map(String::as_str)));
        let foreign = asked.filter(|asked| {
            let is_it = |r: &DiskReservation| r.name_any() == *asked && !above(&r);
            usable.is_empty() && self.snapshot.reservations.iter().any(is_it)
        });
        if let Some(foreign) = foreign {
            return self
                .made_anew(true)
                .unwrap_or_else(|| self.create_beside(size, foreign, "for another role"));
        }
        // Another volume of the name would not have the data.
        if let Some(recover) = self.volume.and_then(|volume| volume.spec.recover.as_ref()) {
            let name = asked.map_or_else(|| new_name(self.role, &self.snapshot.reservations), word);
            let has = |disk: &&NodeDisk| {
                disk.status.as_ref().is_some_and(|status| status.orphans.iter().any(|o| o.uid == recover.uid))
            };
            return match self.snapshot.disks.iter().find(has) {
                Some(disk) => advice::reserve_for_data(name, self.role, size, disk.name_any()),
                None => advice::reserve_for_role(name, self.role, size),
            };
        }
        let near_role = nearest(self.role, serving.map(|r| r.spec.role.as_str()))
            .filter(|_| usable.is_empty() && !self.is_role_known());
        let ending = ending.into_iter().find(|r| asked.is_none_or(|asked| asked == r.name_any()));
        let by_class = near.is_some()
            || near_role.is_some()
            || asked.is_some() && (!usable.is_empty() || ending.is_some());
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
            (None, None, asked) => self.reserve_for(asked, ending, size),
        }
    }

    /// True if another object has the role of the volume, which is no mistyped one then.
    fn is_role_known(&self) -> bool {
        let is_own = |item: &Item<'_>| item.kind == &VOLUME && item.name == self.name;
        let mut items = self.snapshot.items().into_iter().filter(|item| !is_own(item));
        let mut subscribed = self.snapshot.subscriptions.iter().flat_map(|s| &s.spec.roles);
        items.any(|item| item.role == Some(self.role)) || subscribed.any(|role| role == self.role)
    }

    /// The step that reserves for a volume. The reservation that it could have is being deleted, if there is one.
    fn reserve_for(&self, asked: Option<&str>, ending: Option<&DiskReservation>, size: &str) -> String {
        let (role, name) = (self.role, new_name(self.role, &self.snapshot.reservations));
        let Some(deleting) = ending.map(ResourceExt::name_any) else {
            return advice::reserve_for_role(asked.map_or(name, word), role, size);
        };
        if asked.is_some() {
            return self.create_beside(size, &deleting, "being deleted");
        }
        let entries = ending.and_then(|r| r.status.as_ref()).map_or(&[][..], |status| &status.volumes);
        // The data of an earlier volume of this name comes first.
        let kept = || entries.iter().filter(|entry| entry.kept.is_some());
        match kept().find(|entry| entry.name == self.name).or(kept().next()) {
            Some(old) => {
                let is_taken = self.snapshot.volumes.iter().any(|volume| volume.name_any() == old.name);
                let back = if is_taken { format!("{}-old", old.name) } else { old.name.clone() };
                advice::reserve_beside_kept(name, role, size, deleting, &old.uid, back)
            }
            None => advice::reserve_beside(name, role, size, deleting),
        }
    }

    /// The step that reserves anew for a volume that names a reservation which it cannot use.
    fn create_beside(&self, size: &str, asked: &str, trouble: &str) -> String {
        let name = new_name(self.role, &self.snapshot.reservations);
        let anew = self.create_anew(self.role, Some(&name));
        advice::create_in_new_reservation(name, self.role, size, anew, asked, trouble)
    }

    /// The command that deletes a volume without data, and makes it anew.
    pub(super) fn create_anew(&self, role: &str, reservation: Option<&str>) -> String {
        self.create(role, reservation, true)
    }

    /// The same, with what it is to recover, or without.
    pub(super) fn create(&self, role: &str, reservation: Option<&str>, recovers: bool) -> String {
        let Some(spec) = self.volume.map(|volume| &volume.spec) else { return self.delete() };
        let (argument, name, size) = (&self.argument, self.name, &spec.size);
        // The options have not all fields, and most of these cannot be changed afterwards.
        let has_more = spec.erase_policy != ErasePolicy::Discard
            || spec.sub_roles != SubRoles::Allow
            || spec.deletion_policy != DeletionPolicy::Refuse
            || spec.permissions.is_some()
            || recovers && spec.recover.is_some()
            || spec.sealed
            || spec.copies.is_some()
            || !spec.mount_options.is_empty();
        if has_more {
            return format!(
                "kubectl get {argument} -o yaml > {name}.yaml && kubectl delete {argument} && kubectl create --edit -f {name}.yaml"
            );
        }
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
    pub(super) fn wrong_disk(&self) -> String {
        let kind = |kind| self.snapshot.disks.iter().any(|disk| disk.spec.kind == kind);
        let spec = self.volume.map(|volume| &volume.spec);
        let is_block = spec.is_some_and(|spec| spec.volume_mode == VolumeMode::Block);
        let adopts = spec.and_then(|spec| spec.adopt.as_ref());
        if let Some(step) = self.made_anew(!is_block) {
            return step;
        }
        let anew = self.create_anew(self.role, spec.and_then(|spec| spec.reservation.as_deref()));
        match adopts {
            Some(adopt)
                if !self.snapshot.disks.iter().any(|disk| allows(&disk.spec, Path::new(&adopt.path))) =>
            {
                advice::allow_adoption(&adopt.path)
            }
            None if is_block && !kind(DiskKind::Block) => {
                advice::create_without_block(anew.trim_end_matches(" --block"))
            }
            _ => advice::leave_wrong_disk(&self.argument),
        }
    }

    pub(super) fn present_size(&self) -> &str {
        self.volume.map_or("1Gi", |volume| resize::size_now(volume).as_str())
    }
}
