//! Steps for reservations and roles.

use kube::ResourceExt;

use super::super::holders::{left_by_template, queue};
use super::{About, message, up_to_mebibytes, whole_mebibytes, word};
use crate::api::condition::reason::{GUARANTEED, NOT_ENOUGH_ROOM, OVER_QUOTA, RESERVATION_FULL};
use crate::api::{DeletionPolicy, DiskReservation, NodeDisk, Role, SharedPersistentVolume, Size, VolumeRole};
use crate::plan::candidate::is_ready;
use crate::plan::quota::{self, Impossible};
use crate::plan::{advice, holder, kept, resize, space, template, undivided};
use crate::plugin::kind::nearest;

impl<'a> About<'a> {
    /// The step for a reservation that no disk has space for. One that has its place does not leave its disk.
    pub(super) fn not_enough_room(&self) -> String {
        let status = self.reservation.and_then(|r| r.status.as_ref());
        let own = status.and_then(|status| status.node_disk.as_ref());
        // No size fits a disk that is not ready.
        let mut fitting = self.fitting_disks().peekable();
        let first = fitting.peek().map(|disk| disk.name_any());
        if let Some(unready) = first.filter(|_| fitting.all(|disk| !is_ready(disk))) {
            return advice::ask_why(format!("nd/{unready}"));
        }
        let size = whole_mebibytes(self.largest_free());
        let wanted = self.reservation.map_or(0, |r| r.spec.size.bytes_or_zero());
        // There is enough, and it is kept for another one.
        let first = queue(self.snapshot).first().map(|first| first.name_any());
        if let Some(first) = first.filter(|first| size.bytes_or_zero() >= wanted && first != self.name) {
            return advice::let_first_go(first);
        }
        match (size.bytes_or_zero(), own) {
            (0, Some(_)) => self.free_own_disk(),
            (0, None) => advice::make_free_space(),
            (_, own) => self.resize_elsewhere(self.reservation, size.clone()).unwrap_or_else(|| match own {
                Some(disk) => advice::fit_own_disk(&self.argument, size, disk),
                None => advice::fit_free_space(&self.argument, size),
            }),
        }
    }

    /// The disks that the reservation may have, by the names in its spec.
    fn fitting_disks(&self) -> impl Iterator<Item = &'a NodeDisk> {
        let (disk, node) = (self.disk.clone(), self.reservation.and_then(|r| r.spec.node_name.clone()));
        let fits = move |of: &&NodeDisk| {
            disk.as_ref().is_none_or(|disk| of.name_any() == *disk)
                && node.as_ref().is_none_or(|node| of.spec.node_name == *node)
        };
        self.snapshot.disks.iter().filter(fits)
    }

    /// The most bytes that the reservation could have now.
    pub(super) fn largest_free(&self) -> u64 {
        let own = self.reservation.and_then(|r| r.status.as_ref()).map_or(0, holder::size);
        let free = |disk: &NodeDisk| disk.status.as_ref()?.free.as_ref()?.bytes().ok();
        let free = self.fitting_disks().filter(|disk| is_ready(disk)).filter_map(free).max().unwrap_or(0);
        if self.disk.is_some() { own.saturating_add(free) } else { free }
    }

    /// The message of the reservation's condition with that reason.
    fn said(&self, reason: &str) -> &str {
        let status = self.reservation.and_then(|r| r.status.as_ref());
        message(status.map_or(&[], |status| &status.conditions), reason)
    }

    /// The largest size that the limits allow in place of `own` bytes of the role. Bytes that are collected for others are not
    /// free (Q5). And the role whose limit has the least left, with the VolumeRole whose guarantee within that limit is open.
    fn within_quota(&self, own: u64) -> (u64, &str, Option<&'a VolumeRole>) {
        let roles: Vec<_> = self.snapshot.roles.iter().collect();
        let ledgers = quota::ledgers(&roles);
        let charged = ledgers.iter().filter(|(r, _)| Role::name_covers(&r.spec.role, self.role));
        let left = charged.filter_map(|(r, reserved)| {
            let limit = r.spec.quota.limit.as_ref()?.bytes_or_zero();
            let taken = quota::taken(r, self.role, *reserved, &ledgers);
            let collected = quota::collected(r, self.said(OVER_QUOTA));
            let without = limit.saturating_add(own).saturating_sub(taken.reserved.saturating_add(collected));
            // A smaller guarantee helps only where the role's own reservations leave space.
            let open = taken.open.iter().max_by_key(|(_, need)| *need).filter(|_| without >= 1 << 20);
            let left = without.saturating_sub(taken.guaranteed());
            Some((left, r.spec.role.as_str(), open.map(|(of, _)| *of)))
        });
        left.min_by_key(|(left, role, _)| (*left, *role)).unwrap_or((own, self.role, None))
    }

    /// The step for a reservation beyond the limit of its role. The reservations of a template have one size, so each gets an
    /// equal part, and a deleted one is made anew (R7). One with a whole disk has that, whatever it asks for (D2).
    pub(super) fn over_quota(&self) -> String {
        let left = self.reservation.filter(|r| left_by_template(self.snapshot, r).is_some());
        if let Some(step) = left.and_then(|left| self.resize_elsewhere(Some(left), left.spec.size.clone())) {
            return step;
        }
        let of = self.reservation.and_then(|r| r.spec.template.as_ref());
        let alike = |r: &&DiskReservation| match of {
            Some(of) => r.spec.template.as_ref() == Some(of),
            None => r.name_any() == self.name,
        };
        // A reservation that its template does not select keeps its size, as a whole disk does.
        let changes = |r: &&DiskReservation| {
            !undivided::has_whole_disk(r) && left_by_template(self.snapshot, r).is_none()
        };
        let alike = self.snapshot.reservations.iter().filter(alike).filter(changes);
        let alike: Vec<_> = alike.map(|r| r.status.clone().unwrap_or_default()).collect();
        let own = alike.iter().map(holder::size).fold(0, u64::saturating_add);
        let (left, role, open) = self.within_quota(own);
        let each = template::largest_size(left, alike.iter().map(template::least).collect());
        // A wish can be taken back, also if the limit has become less than what is reserved.
        let has = self.reservation.and_then(|r| r.status.as_ref()).map_or(0, holder::size);
        let each = each.max(has);
        match of {
            // Less would lead back from the volumes that wait for more.
            _ if each >= (1 << 20).max(self.needed_for_waiting()) => self
                .resize_elsewhere(self.reservation, whole_mebibytes(each))
                .unwrap_or_else(|| advice::fit_limit(&self.argument, whole_mebibytes(each), role)),
            Some(of) => advice::fit_templates(&of.volume_role),
            None => match (self.collects(role), open) {
                (Some(first), _) => advice::let_collecting_go(first.name_any(), role),
                (None, Some(open)) => advice::lower_guarantee_within(open.name_any(), role),
                (None, None) => advice::free_limit(role),
            },
        }
    }

    /// The bytes with which all volumes that wait for space in the reservation get it; 0 if none waits.
    fn needed_for_waiting(&self) -> u64 {
        let Some(own) = self.reservation else { return 0 };
        let more = |volume: &SharedPersistentVolume| {
            let (size, status) = (volume.spec.size.bytes_or_zero(), volume.status.as_ref()?);
            let is_full = status.conditions.iter().any(|c| c.reason == RESERVATION_FULL);
            match &status.reservation {
                _ if !is_full => None,
                Some(of) if Some(&of.uid) == own.metadata.uid.as_ref() => {
                    Some(size.saturating_sub(resize::size_now(volume).bytes_or_zero()))
                }
                None if volume.spec.reservation == own.metadata.name => Some(size),
                _ => None,
            }
        };
        match self.snapshot.volumes.iter().filter_map(more).fold(0, u64::saturating_add) {
            0 => 0,
            more => self.needed().saturating_add(more),
        }
    }

    /// The reservation for which the rest of the role's limit is collected: one that waits for space.
    fn collects(&self, role: &str) -> Option<&'a DiskReservation> {
        let is_collected =
            |of: &VolumeRole| of.spec.role == role && quota::collected(of, self.said(OVER_QUOTA)) > 0;
        let waits = |r: &&DiskReservation| {
            let conditions = r.status.as_ref().map_or(&[][..], |status| &status.conditions);
            let waits = conditions.iter().any(|c| [NOT_ENOUGH_ROOM, GUARANTEED].contains(&&*c.reason));
            waits && r.name_any() != self.name && Role::name_covers(role, &r.spec.role)
        };
        let is_any = self.snapshot.roles.iter().any(is_collected);
        queue(self.snapshot).into_iter().filter(|_| is_any).find(waits)
    }

    /// The step for a role that has more reserved than its limit allows: the least limit that does.
    pub(super) fn over_limit(&self) -> String {
        let roles: Vec<_> = self.snapshot.roles.iter().collect();
        let reserved = quota::ledgers(&roles).into_iter().find(|(role, _)| role.name_any() == self.name);
        let reserved = up_to_mebibytes(reserved.map_or(0, |(_, reserved)| reserved));
        advice::raise_limit(self.name, reserved, self.role)
    }

    /// True for a VolumeRole with templates, which make their reservations anew.
    pub(super) fn has_templates(&self) -> bool {
        let mut roles = self.snapshot.roles.iter();
        roles.any(|role| role.name_any() == self.name && !role.spec.reservation_templates.is_empty())
    }

    /// The step for a reservation that waits for the guarantee of another role: the largest one.
    pub(super) fn guaranteed(&self) -> String {
        let roles: Vec<_> = self.snapshot.roles.iter().collect();
        let open = quota::open_guarantees(self.role, &quota::ledgers(&roles));
        let kept = open.iter().fold(0, |sum: u64, (_, need)| sum.saturating_add(*need));
        let free = |disk: &NodeDisk| {
            disk.status.as_ref().map_or(0, |s| s.free.as_ref().map_or(0, Size::bytes_or_zero))
        };
        let ready = self.snapshot.disks.iter().filter(|disk| is_ready(disk));
        let free = ready.map(free).fold(0, u64::saturating_add);
        let unguaranteed = free.saturating_sub(kept);
        let own = self.reservation.and_then(|r| r.status.as_ref()).map_or(0, holder::size);
        let most = own.saturating_add(unguaranteed).min(self.largest_free());
        let first = space::kept_for(self.said(GUARANTEED));
        if let Some(first) = self.snapshot.reservations.iter().find(|r| r.metadata.name.as_deref() == first) {
            return advice::let_first_go(first.name_any());
        }
        let largest = open.into_iter().max_by_key(|(of, need)| (*need, of.name_any()));
        let Some((of, need)) = largest else { return advice::see_guarantees() };
        let disks: Vec<_> = self.snapshot.disks.iter().collect();
        match self.reservation.filter(|_| most > own && most >= 1 << 20) {
            Some(reservation) => {
                let size = whole_mebibytes(most);
                self.resize_elsewhere(Some(reservation), size.clone())
                    .unwrap_or_else(|| advice::fit_unguaranteed(&self.argument, size, of.name_any()))
            }
            None if quota::impossible(of, &roles, &disks).is_some() => advice::lower_guarantee(of.name_any()),
            None => {
                let asked = self.reservation.map_or(0, |r| r.spec.size.bytes_or_zero()).saturating_sub(own);
                let missing = asked.saturating_add(kept).saturating_sub(free);
                let guarantee = of.spec.quota.guarantee.as_ref().map_or(0, Size::bytes_or_zero);
                let left = whole_mebibytes(guarantee.saturating_sub(missing.min(need)));
                let left = if left.bytes_or_zero() == 0 { "null".to_owned() } else { format!("\"{left}\"") };
                advice::lower_guarantee_to(of.name_any(), left)
            }
        }
    }

    /// The step for a guarantee that nothing can meet.
    pub(super) fn guarantee_too_large(&self) -> String {
        let roles: Vec<_> = self.snapshot.roles.iter().collect();
        let disks: Vec<_> = self.snapshot.disks.iter().collect();
        let own = roles.iter().find(|role| role.name_any() == self.name);
        match own.and_then(|own| quota::impossible(own, &roles, &disks)) {
            Some(Impossible { instead: Some(other), .. }) => advice::ask_why(format!("vrole/{other}")),
            Some(found) if found.possible >= 1 << 20 => {
                advice::fit_guarantee(self.name, whole_mebibytes(found.possible), found.remedy)
            }
            Some(found) => advice::end_guarantee(self.name, found.remedy),
            None => advice::look_again(),
        }
    }

    /// The bytes of the reservation's volumes and refinements, without kept data, which gives way.
    pub(super) fn needed(&self) -> u64 {
        let status = self.reservation.and_then(|r| r.status.as_ref());
        status.map_or(0, |status| holder::used(status).saturating_sub(kept::bytes(status)))
    }

    /// True if only kept data is in the way of the size that is asked for: it is being erased.
    pub(super) fn gives_kept_way(&self) -> bool {
        let kept = self.reservation.and_then(|r| r.status.as_ref()).map_or(0, kept::bytes);
        kept > 0 && self.reservation.is_some_and(|r| r.spec.size.bytes_or_zero() >= self.needed())
    }

    pub(super) fn parent(&self) -> Option<&'a DiskReservation> {
        let parent = self.reservation?.spec.parent.as_ref()?;
        self.snapshot.reservations.iter().find(|r| r.name_any() == *parent)
    }

    /// The parent, if it is being deleted.
    pub(super) fn ending_parent(&self) -> Option<&'a DiskReservation> {
        self.parent().filter(|parent| parent.metadata.deletion_timestamp.is_some())
    }

    /// The step for a reservation that gets nothing from its parent any more. One with bytes is well, and stays as it is.
    pub(super) fn leave_ending(&self, parent: &DiskReservation) -> String {
        match self.reservation.and_then(|r| r.status.as_ref()?.size.as_ref()) {
            Some(has) => advice::keep_reserved_size(&self.argument, has, parent.name_any()),
            None => self
                .edit_anew()
                .unwrap_or_else(|| advice::reserve_beside_parent(self.reserve_anew(), parent.name_any())),
        }
    }

    pub(super) fn parent_full(&self) -> String {
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

    /// True for a reservation with bytes of a disk.
    pub(super) fn is_placed(&self) -> bool {
        self.reservation.and_then(|r| r.status.as_ref()).is_some_and(|status| status.node_disk.is_some())
    }

    /// The step for a reservation with fields for which the commands have no options.
    pub(super) fn edit_anew(&self) -> Option<String> {
        let reservation = self.reservation?;
        let has_more =
            !reservation.labels().is_empty() || reservation.spec.deletion_policy != DeletionPolicy::Refuse;
        has_more.then(|| advice::edit_anew(&self.argument, self.name))
    }

    /// The command that deletes an empty reservation, and makes it anew.
    pub(super) fn reserve_anew(&self) -> String {
        let size = self.reservation.map_or("1Gi", |r| r.spec.size.as_str());
        format!(
            "kubectl delete {} && kubectl reservoir reserve {} --role {} --size {size}",
            self.argument, self.name, self.role
        )
    }

    pub(super) fn no_such_disk(&self) -> String {
        let disks = &self.snapshot.disks;
        let spec = self.reservation.map(|r| &r.spec);
        // Nothing is reserved on a disk that is not ready.
        let ready = || disks.iter().filter(|disk| is_ready(disk));
        let names: Vec<String> = ready().map(ResourceExt::name_any).collect();
        let nodes = ready().map(|disk| disk.spec.node_name.as_str());
        let anew = self.reserve_anew();
        let asked_disk = spec.and_then(|s| s.node_disk.as_deref());
        let near_disk = asked_disk.and_then(|asked| nearest(asked, names.iter().map(String::as_str)));
        let selector = spec.and_then(|s| s.node_selector.as_ref()).filter(|_| asked_disk.is_none());
        let by_name = selector.and_then(|labels| labels.get("kubernetes.io/hostname")).map(String::as_str);
        let asked_node = spec.and_then(|s| s.node_name.as_deref()).or(by_name);
        // A node that is there is no mistyped one.
        let there = asked_node.filter(|asked| asked_disk.is_none() && self.snapshot.node(asked).is_some());
        match (asked_node.and_then(|asked| nearest(asked, nodes)), near_disk, selector) {
            _ if disks.is_empty() => advice::see_no_disk(),
            _ if let Some(node) = there => advice::find_disk_of_node(node, anew),
            _ if names.is_empty() => advice::ask_why(format!("nd/{}", disks[0].name_any())),
            (Some(node), ..) => advice::reserve_on_node(anew, node),
            (None, Some(disk), _) => advice::reserve_on_disk(anew, disk),
            // The labels of a node lead more than reservations to it, so the reservation is changed, and no node.
            (None, None, Some(selector)) => {
                let keys: Vec<String> = selector.keys().map(|key| word(key)).collect();
                advice::reserve_without_selector(anew, keys.join(","))
            }
            (None, None, None) => advice::reserve_on_any_disk(anew),
        }
    }

    pub(super) fn no_parent(&self) -> String {
        // From one that waits itself, or ends, nothing can be carved out.
        let above = |r: &&DiskReservation| {
            r.spec.role != self.role && Role::name_covers(&r.spec.role, self.role) && holder::serves(r)
        };
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

    /// The step that gives a reservation the size. One that asks for as much already waits for something else.
    pub fn enlarge(&self, reservation: &DiskReservation, size: Size) -> String {
        if reservation.spec.size.bytes_or_zero() >= size.bytes_or_zero() {
            return advice::ask_why(format!("dr/{}", reservation.name_any()));
        }
        if let Some(step) = self.raise_limit(&reservation.spec.role, Some(reservation), &size) {
            return step;
        }
        self.resize_elsewhere(Some(reservation), size.clone()).unwrap_or_else(|| {
            advice::enlarge_reservation(reservation.name_any(), size, &reservation.spec.role)
        })
    }

    /// The step before a reservation of that size, or one that gets it, if a limit of its role does not allow that (Q1).
    pub fn raise_limit(&self, role: &str, of: Option<&DiskReservation>, size: &Size) -> Option<String> {
        let roles: Vec<_> = self.snapshot.roles.iter().collect();
        let ledgers = quota::ledgers(&roles);
        let parent = of.and_then(|of| of.spec.parent.as_ref());
        let parent =
            parent.and_then(|name| self.snapshot.reservations.iter().find(|r| r.name_any() == *name));
        let own = of.and_then(|of| of.status.as_ref()).map_or(0, holder::size);
        let more = size.bytes_or_zero().saturating_sub(own);
        ledgers.iter().find_map(|(limited, reserved)| {
            let limit = limited.spec.quota.limit.as_ref()?.bytes_or_zero();
            let taken = quota::taken(limited, role, *reserved, &ledgers);
            let needed = taken.reserved.saturating_add(taken.guaranteed()).saturating_add(more);
            let charged =
                quota::charges(&limited.spec.role, role, parent.map(|parent| parent.spec.role.as_str()));
            (charged && needed > limit)
                .then(|| advice::raise_limit_to(limited.name_any(), up_to_mebibytes(needed)))
        })
    }

    /// The step that gives the size to a reservation of a template, or of the agents' configuration. Admission refuses every
    /// other change of its size (R2, R7).
    pub(super) fn resize_elsewhere(
        &self,
        reservation: Option<&DiskReservation>,
        size: Size,
    ) -> Option<String> {
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
            Some(index) if left_by_template(self.snapshot, reservation?).is_none() => {
                advice::resize_template(&of.volume_role, index, size, &of.name)
            }
            _ => advice::restore_template(&spec.role, &of.volume_role, &of.name),
        })
    }

    /// The step for the first reservation of a template that waits.
    pub(super) fn template_waits(&self) -> String {
        let is_of = |r: &&DiskReservation| {
            r.spec.template.as_ref().is_some_and(|of| of.volume_role == self.name) && !holder::serves(r)
        };
        let role = self.snapshot.roles.iter().find(|role| role.name_any() == self.name);
        let all = &self.snapshot.reservations;
        if let Some(taken) = role.and_then(|role| template::in_the_way(role, &self.snapshot.disks, all)) {
            return advice::free_reserved_name(taken.name_any());
        }
        match self.snapshot.reservations.iter().find(is_of) {
            Some(waiting) => advice::ask_why(format!("dr/{}", waiting.name_any())),
            None => advice::look_again(),
        }
    }
}
