//! The next step for each reason of a condition, with all names filled in.

mod anew;
mod claims;
mod content;
mod copies;
mod disks;
mod left_data;
mod reservations;
mod space;
mod volumes;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;

use super::ending_pvc;
use super::target::Target;
use crate::api::condition::{self, reason::*};
use crate::api::{AccessMode, DiskReservation, SharedPersistentVolume, Size, VolumeClaim};
use crate::plan::own_pvc::{self, pvc_of};
use crate::plan::{advice, held_by};
use crate::plugin::kind::{CLAIM, DISK, PVC, RESERVATION, VOLUME};
use crate::plugin::snapshot::Snapshot;

pub(super) use anew::{AS_SAID, UNNAMED, anew, by_template, claim_after_lost, deletion, of_class, template};
pub(in crate::plugin) use claims::{refusal, refusal_of_command};

/// The message of the condition with that reason; empty without one.
fn message<'a>(conditions: &'a [Condition], reason: &str) -> &'a str {
    conditions.iter().find(|condition| condition.reason == reason).map_or("", |condition| &condition.message)
}

/// The object with the condition, and its names for commands.
pub(super) struct About<'a> {
    snapshot: &'a Snapshot,
    name: &'a str,
    /// Argument of a command: `spv/data`, or `vclaim/data -n team`.
    argument: String,
    namespace: &'a str,
    role: &'a str,
    conditions: &'a [Condition],
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
            Some(claim) => volume_of(claim),
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
        let conditions = item.as_ref().map(|item| item.conditions).unwrap_or_default();
        let role = item.and_then(|item| item.role).unwrap_or_default();
        Self { snapshot, name, argument, namespace, role, conditions, claim, volume, reservation, disk }
    }

    /// The next step for a reason; `None` for an unknown reason.
    pub fn step(&self, reason: &str) -> Option<String> {
        let Self { name, argument, namespace, role, .. } = self;
        Some(match reason {
            READY | DISK_HEALTHY | RESIZED | BACKED | RETIRE_WITHDRAWN | BOUND | SUBSCRIBED | OFFERED
            | SEALED | VERIFIED | SEAL_WITHDRAWN | COPIED => advice::nothing_to_do(),
            RELEASING if self.foreign_finalizer().is_some() => {
                advice::see_finalizers_of(argument, self.foreign_finalizer().unwrap_or_default())
            }
            RESIZING if self.is_mounted_meanwhile() => self.await_users_to_settle(),
            RELEASING if self.claim.is_some() && self.ending_pod().is_some() => {
                advice::ask_why(format!("pod/{} -n {namespace}", self.ending_pod().unwrap_or_default()))
            }
            COPYING if let Some(original) = self.waits_for_original() => {
                advice::ask_why(format!("spv/{original}"))
            }
            COPYING if let Some(copy) = self.ending_copy() => advice::ask_why(format!("spv/{copy}")),
            // The one of before goes after its pods, and then it is made anew.
            BINDING if let Some(pvc) = ending_pvc::find(self.snapshot, Some(namespace), name) => {
                ending_pvc::explain(self.snapshot, pvc).1
            }
            PARENT_NOT_RESERVED if let Some(parent) = self.ending_parent() => self.leave_ending(parent),
            CREATING | PARENT_NOT_RESERVED | RESIZING | SEALING | COPYING | BINDING | RELEASING => {
                advice::look_again()
            }
            INVALID => advice::correct_field(argument),
            RESIZE_FAILED if self.is_mounted_meanwhile() => self.end_users_to_grow(),
            RESIZE_FAILED if self.least().is_some() => {
                advice::ask_for_content(name, self.least().unwrap_or_else(|| Size::from_bytes(0)))
            }
            RESIZE_FAILED if self.volume.is_some_and(|volume| pvc_of(volume).is_none()) => {
                advice::take_size_back(name, self.present_size())
            }
            DISK_REFUSED => self.mend_disk(),
            BACKING_FAILED if self.volume.is_some_and(|volume| volume.spec.adopt.is_some()) => self.adopt(),
            BACKING_FAILED if let Some(uid) = self.recovers_otherwise() => {
                advice::recover_as_it_is(self.to_delete(), uid)
            }
            BACKING_FAILED if held_by::says_in_use(message(self.conditions, BACKING_FAILED)) => {
                advice::end_named_pods(name)
            }
            SEALED_SIZE => advice::take_size_back(name, self.present_size()),
            HAS_WRITERS => advice::let_writers_go_on(name),
            SEAL_REFUSED => advice::take_seal_back(name),
            AGENT_SILENT | BACKING_FAILED | RESIZE_FAILED | SEAL_FAILED | VERIFY_FAILED => self.agent_log(),
            COPY_FAILED => self.copy_failed(),
            COPIES_MISSING => self.copies_missing(),
            NOT_SEALED => match self.volume.filter(|volume| volume.spec.sealed) {
                Some(volume) => {
                    match condition::get(&volume.status.as_ref()?.conditions, condition::SEALED) {
                        Some(sealed) => self.step(&sealed.reason)?,
                        None => advice::look_again(),
                    }
                }
                None => advice::seal_for_copies(name),
            },
            NO_NODE_SELECTED => advice::select_nodes(name),
            COPIES_OFF => advice::turn_copies_on(),
            COPY_DIFFERS => match self.volume.and_then(|volume| volume.spec.copy_of.as_ref()) {
                Some(of) => advice::await_new_copy(&of.name),
                None => self.replace_content(),
            },
            // The node may have no object.
            NODE_UNREACHABLE if !self.snapshot.sees(&DISK) => {
                advice::have_administrator_ask(match &self.disk {
                    Some(disk) => format!("nd/{disk}"),
                    None => argument.clone(),
                })
            }
            DISK_NOT_READY => match (&self.disk, self.snapshot.sees(&DISK)) {
                (Some(disk), true) if self.snapshot.disks.iter().any(|d| d.name_any() == *disk) => {
                    advice::ask_why(format!("nd/{disk}"))
                }
                (Some(disk), false) => advice::have_administrator_ask(format!("nd/{disk}")),
                _ => advice::find_agent(self.node()),
            },
            TERMINATING => match ending_pvc::find(self.snapshot, Some(namespace), name) {
                Some(pvc) => ending_pvc::explain(self.snapshot, pvc).1,
                None => advice::await_new_pvc(name, namespace),
            },
            NODE_UNREACHABLE => advice::bring_node_back(self.node(), self.disk.as_deref().unwrap_or(name)),
            NODE_CORDONED => self.cordoned_node().map_or_else(advice::look_again, advice::uncordon_for_new),
            DISK_GONE => self.empty_gone_disk(),
            SPACE_TAKEN if self.is_overbooked() => self.mend_disk(),
            SPACE_TAKEN => advice::remove_foreign_files(self.node()),
            NOT_ENOUGH_ROOM => self.not_enough_room(),
            OVER_QUOTA => self.over_quota(),
            GUARANTEED => self.guaranteed(),
            GUARANTEE_TOO_LARGE => self.guarantee_too_large(),
            PARENT_FULL => self.parent_full(),
            BELOW_USED if self.gives_kept_way() => advice::look_again(),
            BELOW_USED => advice::fit_content(argument, up_to_mebibytes(self.needed()), role),
            // It has bytes, and maybe data, on the disk whose NodeDisk is missing.
            NO_SUCH_DISK if self.is_placed() => advice::find_agent(self.node()),
            NO_PARENT if self.is_placed() => advice::leave_parentless(role, argument),
            NO_SUCH_DISK | NO_PARENT | NOT_A_SUB_ROLE if self.edit_anew().is_some() => {
                self.edit_anew().unwrap_or_default()
            }
            NO_SUCH_DISK if self.reservation.is_none() => advice::correct_template(name),
            NO_SUCH_DISK => self.no_such_disk(),
            TEMPLATE_WAITS => self.template_waits(),
            DISK_MOVED => advice::leave_moved_disk(argument),
            NO_PARENT => self.no_parent(),
            NOT_A_SUB_ROLE => advice::reserve_without_parent(self.reserve_anew()),
            HAS_VOLUMES | HAS_REFINEMENTS => self.content(reason),
            NO_RESERVATION => self.no_reservation(),
            RESERVATION_FULL | TOO_MANY_VOLUMES | SHARE_TAKEN if let Some(step) = self.undelete_instead() => {
                step
            }
            RESERVATION_FULL => self.reservation_full(),
            TOO_MANY_RESERVATIONS => advice::use_fewer_reservations(),
            TOO_MANY_VOLUMES => advice::use_fewer_volumes(role),
            TOO_MANY_CLAIMS => {
                let named = self.claim.and_then(volume_of).map(word);
                let found = self.closed(reason).map(ResourceExt::name_any);
                match (named.or(found), self.snapshot.sees(&VOLUME)) {
                    (Some(volume), true) => advice::ask_about_claims(volume),
                    (Some(volume), false) => advice::have_administrator_ask(format!("spv/{volume}")),
                    (None, _) => advice::have_administrator_ask(argument),
                }
            }
            SHARE_TAKEN if self.claim.is_some() => advice::use_fewer_claims(namespace),
            SHARE_TAKEN => advice::use_less_of_role(role),
            REFUSED => refusal(message(self.conditions, REFUSED), namespace)
                .unwrap_or_else(|| advice::have_allowed(argument)),
            NO_ORPHAN => self.no_orphan(),
            WRONG_DISK => self.wrong_disk(),
            BACKING_LOST => self.lost_data(),
            CANNOT_SHRINK => advice::keep_file_system(name, self.present_size()),
            SHRINK_IN_USE => advice::keep_size(name, self.present_size()),
            RETIRING => self.retiring(),
            NEARLY_FULL => self.nearly_full(),
            // The message has the words of the agent, which cannot go on.
            DESTROYING if self.is_held() => advice::end_holder(self.node()),
            DESTROYING if self.is_unused() && self.is_unbacked() => self.mend_disk(),
            DESTROYING if self.waits_for_pods() => advice::end_named_pods(name),
            DESTROYING if self.is_unused() => advice::look_again(),
            DESTROYING => advice::end_users(role),
            NO_SUBSCRIPTION => self.no_subscription(),
            NO_CAPABILITY => self.no_capability(),
            ROLE_NOT_ALLOWED => match self.role_of_volume() {
                Some(role) => advice::claim_for_role_of_volume(self.claim_anew(role, None, self.mode())),
                None => advice::claim_for_named_role(self.delete()),
            },
            NO_SUCH_VOLUME => self.no_such_volume(),
            ALWAYS_WRITABLE => advice::claim_writable(self.claim_anew(role, None, AccessMode::ReadWrite)),
            VOLUME_SEALED => advice::claim_for_reading(self.claim_anew(role, None, AccessMode::ReadOnly)),
            DIGEST_DIFFERS => self.digest_differs(),
            NO_MATCH => self.no_match(),
            // A claim by name is for another volume; one with a selector may get this one.
            VOLUME_RETIRING if let Some(volume) = self.selected(reason) => {
                advice::ask_why(format!("spv/{}", volume.name_any()))
            }
            VOLUME_RETIRING | VOLUME_DESTROYING => advice::see_offers(namespace),
            VOLUME_NOT_READY => match (self.closed(reason), self.claim.and_then(volume_of)) {
                (Some(volume), _) => advice::ask_why(format!("spv/{}", volume.name_any())),
                (None, Some(volume)) if !self.snapshot.sees(&VOLUME) => {
                    advice::have_administrator_ask(format!("spv/{}", word(volume)))
                }
                _ => advice::look_again(),
            },
            VOLUME_HELD if self.volume.is_some_and(|volume| own_pvc::held(volume).is_some()) => {
                advice::see_offers(namespace)
            }
            VOLUME_HELD => match self.closed(reason).and_then(|v| v.status.as_ref()?.claims.first()) {
                Some(holder) => {
                    let kind = if holder.pvc_uid.is_some() { &PVC } else { &CLAIM };
                    let holder = kind.argument(&holder.name, Some(&holder.namespace));
                    advice::ask_about_holder(holder, namespace)
                }
                None => advice::claim_other_volume(namespace),
            },
            NAME_TAKEN if self.is_after_old_data() => self.free_name_of_empty(),
            NAME_TAKEN => {
                let is_exclusive = self.volume.is_some_and(|volume| volume.spec.shared.is_none());
                let suffix = if is_exclusive { "2" } else { "shared" };
                let other = self.claim_command(&format!("{name}-{suffix}"), role, None, self.mode());
                advice::claim_under_other_name(format!("{} && {other}", self.delete()))
            }
            VOLUME_LOST if self.lost_only_its_binding() => self.claim_lost_binding_anew(),
            VOLUME_LOST => advice::leave_lost_volume(self.end_claim()),
            NODE_GONE | VOLUME_GONE if self.claim.is_some() => advice::leave_lost_volume(self.end_claim()),
            NODE_GONE => advice::look_again(),
            VOLUME_GONE => match self.first_claim() {
                Some(first) => advice::unclaim_gone(first.name, first.namespace, name),
                None => self.delete(),
            },
            ROLE_TAKEN => self.delete(),
            IN_USE => self.in_use(),
            MOUNT_HELD => advice::end_process(),
            OVER_LIMIT if self.has_templates() => advice::fit_templates(name),
            OVER_LIMIT => self.over_limit(),
            _ => return None,
        })
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
}

/// The volume that a claim names. A claim that selects has it in its status.
fn volume_of(claim: &VolumeClaim) -> Option<&str> {
    let chosen = || claim.status.as_ref()?.volume.as_ref().map(|of| of.name.as_str());
    claim.spec.volume.as_deref().or_else(chosen)
}

/// A size of at most `bytes`, in whole Mi if it is that large.
fn whole_mebibytes(bytes: u64) -> Size {
    Size::from_bytes(if bytes < 1 << 20 { bytes } else { bytes >> 20 << 20 })
}

/// A size of at least `bytes`, in whole Mi: commands take no size without a unit.
fn up_to_mebibytes(bytes: u64) -> Size {
    Size::from_bytes(bytes.div_ceil(1 << 20) << 20)
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
