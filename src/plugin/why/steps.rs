//! Next steps: for a condition, for an object that Kubernetes keeps waiting, and towards the end of a healthy object.

use kube::ResourceExt;

use super::advice::About;
use super::chain::{DELETING, NOT_AS_CONFIGURED};
use super::holders::{full_volumes, is_unconfigured, left_by_template, reads_on_step};
use super::owners::again;
use super::report::TERMINATING;
use super::target::Target;
use super::{containers, ending_pvc, growth, placing, pods, pvcs, workloads};
use crate::api::condition::reason::{NAME_TAKEN, NEARLY_FULL, VOLUME_HELD};
use crate::api::{Capability, DiskReservation, RoleSubscription, Size, VolumeOffer};
use crate::cluster;
use crate::plan::copies::{Keeper, keeper};
use crate::plan::{advice, node_disk, own_pvc::pvc_of};
use crate::plugin::kind::{CLAIM, DISK, OFFER, POD, PVC, RESERVATION, SUBSCRIPTION, VOLUME};
use crate::plugin::snapshot::Snapshot;

/// The next step for an object with a report of the given reason. Only who may see the installation can check it.
pub(super) fn step_for(snapshot: &Snapshot, target: &Target, reason: &str) -> String {
    let step = step_of(snapshot, target, reason);
    match step == advice::look_again() && !snapshot.sees(&DISK) {
        true => advice::look_again_or_ask(target.argument()),
        false => step,
    }
}

fn step_of(snapshot: &Snapshot, target: &Target, reason: &str) -> String {
    let (name, namespace) = (&target.name, target.namespace.as_deref().unwrap_or("default"));
    if reason == DELETING {
        return advice::look_again();
    }
    if target.kind == &PVC {
        return pvcs::pvc_step(snapshot, target, reason);
    }
    let pod = target.find_pod(snapshot).filter(|_| target.kind == &POD);
    if let Some(step) = pod.filter(|_| reason != TERMINATING).and_then(placing::gate_step) {
        return step;
    }
    if target.kind == &POD && reason == VOLUME_HELD {
        return pods::holder_step(snapshot, target);
    }
    if target.kind == &POD && pods::is_node_lost(snapshot, target) {
        return advice::have_node_brought_back(name, namespace);
    }
    if target.kind == &POD && reason == TERMINATING {
        let node = pod.and_then(|pod| pod.spec.as_ref()?.node_name.as_ref());
        return match node.filter(|_| pods::mount_held(snapshot, target).is_some()) {
            Some(node) if snapshot.sees(&VOLUME) => advice::end_holder(node),
            Some(_) => advice::have_administrator_ask(target.argument()),
            None => match pod.and_then(|pod| pods::unmounting(snapshot, pod)) {
                Some(node) if snapshot.sees(&DISK) => advice::await_unmount(node),
                Some(node) => advice::have_run(advice::await_unmount(node)),
                None => advice::await_end(name, namespace),
            },
        };
    }
    if let Some(pod) = pod.filter(|_| reason == pods::INLINE_VOLUME) {
        return advice::leave_inline_volume(again(snapshot, pod));
    }
    let taken = pod.filter(|_| reason == NAME_TAKEN);
    if let Some(step) = taken.and_then(|pod| placing::taken_step(snapshot, pod)) {
        return step;
    }
    if target.kind == &POD && [placing::OTHER_NODE, placing::VOLUME_NODE].contains(&reason) {
        return placing::other_node_step(snapshot, target);
    }
    if target.kind == &POD && reason == pods::FAILED {
        return match pod.and_then(containers::failed_log) {
            Some(container) => advice::read_end_of_log(name, namespace, container),
            None => advice::look_at_failed(name, namespace),
        };
    }
    if let Some(claim) = pod.and_then(|pod| pods::read_only_claim(snapshot, pod)) {
        return advice::leave_to_writer(name, namespace, claim);
    }
    let crashed = pod.filter(|_| reason == containers::CRASHES);
    if let Some((container, run)) = crashed.and_then(containers::crashed) {
        if let Some(step) = reads_on_step(snapshot, target) {
            return step;
        }
        return advice::read_own_crash_log(name, namespace, container, run);
    }
    if let Some(step) = pod.and_then(|pod| placing::by_node_name(snapshot, pod)) {
        return step;
    }
    if let Some(pod) = pod.filter(|_| pods::has_own_pv(snapshot, target)) {
        return advice::leave_own_pv(again(snapshot, pod));
    }
    // The agent is there, and has answered.
    if target.kind == &POD && pods::is_refused(snapshot, target) {
        return advice::follow_event();
    }
    if target.kind == &POD && pods::is_silent(snapshot, target) {
        return pods::mount_step(snapshot, target);
    }
    let waits = |(namespace, name)| {
        pvcs::unscheduled_pod(snapshot, &Target::new(&PVC, Some(namespace), name)).is_some()
    };
    if let Some(pod) = pod.filter(|pod| cluster::claims_of(pod).into_iter().any(waits)) {
        return placing::schedule_step(snapshot, pod);
    }
    if let Some(step) = pod.and_then(placing::scheduler_step) {
        return step;
    }
    if target.kind == &POD {
        let has_none = pod.is_some_and(|pod| cluster::claims_of(pod).is_empty());
        return match (snapshot.sees(&CLAIM) && snapshot.sees(&PVC), snapshot.sees(&VOLUME)) {
            _ if has_none => advice::look_elsewhere(name, namespace),
            (true, true) => advice::look_elsewhere(name, namespace),
            (true, false) => advice::volumes_unseen(name, namespace),
            (false, _) => advice::claims_unseen(name, namespace),
        };
    }
    if target.kind.workload {
        return workloads::step(snapshot, target, reason);
    }
    let about = About::new(snapshot, target);
    if reason == NOT_AS_CONFIGURED {
        let failed = about.disk().and_then(node_disk::failed_static);
        let is_taken =
            |r: &&DiskReservation| !r.spec.is_static && failed.is_some_and(|failed| r.name_any() == failed);
        let taken = snapshot.reservations.iter().find(is_taken).map(ResourceExt::name_any);
        return taken.map_or_else(|| about.mend_disk(), advice::free_reserved_name);
    }
    about.step(reason).unwrap_or_else(|| match snapshot.sees(&DISK) {
        true => advice::check_controller(),
        false => advice::have_controller_checked(),
    })
}

/// The command that resizes the volume of an object without a size of its own.
pub(in crate::plugin) fn resize_instead(snapshot: &Snapshot, target: &Target, size: &str) -> String {
    let (name, namespace) = (&target.name, target.namespace.as_deref().unwrap_or("default"));
    let claim = snapshot.claim(target.namespace.as_deref(), name);
    let is_missing = match target.kind {
        kind if kind == &PVC => target.find_pvc(snapshot).is_none() && claim.is_none(),
        kind => kind == &CLAIM && claim.is_none(),
    };
    // A mistyped name leads to no command with it.
    if is_missing && snapshot.sees(target.kind) {
        return target.not_found(snapshot);
    }
    let claim = claim.filter(|_| [&CLAIM, &PVC].contains(&target.kind));
    let bound = claim.and_then(|claim| claim.status.as_ref()?.volume.as_ref());
    match bound {
        Some(volume) if snapshot.sees(&VOLUME) => {
            format!("{}: {}", target.title(), advice::resize_volume(&volume.name, size))
        }
        Some(volume) => format!("{}: {}", target.title(), advice::have_volume_resized(&volume.name, size)),
        None if target.kind == &PVC => {
            let ending = target.find_pvc(snapshot).filter(|pvc| pvc.metadata.deletion_timestamp.is_some());
            let step = match ending {
                Some(pvc) => ending_pvc::explain(snapshot, pvc).1,
                None => {
                    let pvc = target.find_pvc(snapshot);
                    let wished = Size::written(size.to_owned()).bytes_or_zero();
                    let is_less = |has: &Size| (1..has.bytes_or_zero()).contains(&wished);
                    if let Some(has) = pvc.and_then(growth::capacity).filter(is_less) {
                        return format!("{}: {}", target.title(), advice::never_shrinks(name, has));
                    }
                    let resize = advice::resize_pvc(name, namespace, size);
                    let class = pvc.and_then(|pvc| snapshot.our_class(pvc));
                    match class.filter(|class| class.allow_volume_expansion != Some(true)) {
                        Some(class) => advice::let_grow(class.name_any(), advice::command(&resize)),
                        None => resize,
                    }
                }
            };
            format!("{}: {step}", target.title())
        }
        _ => format!("a {} has no size: resize spv/NAME or dr/NAME", target.kind.name),
    }
}

/// The step for a subscription that is in force, and offers nothing that the subscriber could mean.
pub(super) fn subscription_step(snapshot: &Snapshot, target: &Target) -> Option<String> {
    let is_it = |s: &&RoleSubscription| s.name_any() == target.name && s.namespace() == target.namespace;
    let subscription = snapshot.subscriptions.iter().find(is_it).filter(|_| target.kind == &SUBSCRIPTION)?;
    let namespace = target.namespace.as_deref().unwrap_or("default");
    let mut roles = subscription.spec.roles.iter();
    let near = roles.find_map(|role| Some((role, snapshot.near_role(role)?)));
    match near {
        Some((role, near)) => Some(advice::subscribe_to_near_role(role, namespace, near)),
        None if !subscription.spec.capabilities.contains(&Capability::SharedResources) => {
            Some(advice::share_resources(&target.name, namespace))
        }
        None => {
            let is_its = |offer: &VolumeOffer| {
                offer.namespace() == subscription.namespace() && offer.spec.subscription == target.name
            };
            let is_alone = snapshot.sees(&OFFER) && !snapshot.offers.iter().any(is_its);
            let role = subscription.spec.roles.first().filter(|_| is_alone)?;
            Some(advice::await_offer(role, namespace))
        }
    }
}

/// The step for a healthy claim or pod with a volume of which nearly all is taken.
pub(super) fn full_step(snapshot: &Snapshot, target: &Target) -> Option<String> {
    let (volume, _) = full_volumes(snapshot, target).into_iter().next()?;
    About::new(snapshot, &Target::new(&VOLUME, None, volume.name_any())).step(NEARLY_FULL)
}

/// The step to end a healthy object that is in use.
pub(super) fn deletion_step(snapshot: &Snapshot, target: &Target) -> Option<String> {
    let name = &target.name;
    let volume = snapshot.volumes.iter().find(|volume| target.kind == &VOLUME && volume.name_any() == *name);
    let status = volume.and_then(|volume| volume.status.as_ref());
    let of_pvc = volume.and_then(|v| pvc_of(v).and(status?.claims.first()));
    let is_used = status.is_some_and(|status| status.user_count > 0);
    Some(match target.kind.short {
        "spv" if let Some(of) = volume.and_then(|volume| volume.spec.copy_of.as_ref()) => {
            advice::leave_copy(&of.name)
        }
        "spv" => match of_pvc {
            None if is_used => advice::retire_after_use(name),
            None => advice::retire_after_claims(name),
            Some(of) => match snapshot.pvc(Some(&of.namespace), &of.name) {
                Some(pvc) if pvc.metadata.deletion_timestamp.is_some() => {
                    ending_pvc::explain(snapshot, pvc).1
                }
                _ => advice::leave_volume_to_class(of),
            },
        },
        "dr" => return reservation_end(snapshot, name),
        "nd" => {
            let disk = snapshot.disks.iter().find(|disk| disk.name_any() == *name)?;
            disk.status.as_ref().filter(|status| !status.reservations.is_empty())?;
            advice::see_disk()
        }
        "vclaim" => {
            let namespace = target.namespace.as_deref().unwrap_or("default");
            match snapshot.volume_of(namespace, name) {
                Some(volume) if volume.metadata.deletion_timestamp.is_some() => {
                    advice::unclaim_ending(name, namespace, volume.name_any())
                }
                Some(volume) if volume.spec.retire => match &volume.spec.copy_of {
                    Some(of) => match keeper(volume, snapshot.original(of)) {
                        Keeper::Selection | Keeper::NewCopy => {
                            advice::unclaim_leaving_copy(name, namespace, volume.name_any(), &of.name)
                        }
                        Keeper::Original => {
                            advice::unclaim_with_original(name, namespace, volume.name_any(), &of.name)
                        }
                        Keeper::Nothing => advice::unclaim_ending(name, namespace, volume.name_any()),
                    },
                    None => advice::unclaim_retiring(name, namespace, volume.name_any()),
                },
                None if !snapshot.sees(&VOLUME) => advice::unclaim_unseen(name, namespace),
                _ => advice::unclaim(name, namespace),
            }
        }
        "pvc" => match target.find_pvc(snapshot).and_then(|pvc| snapshot.made_for(pvc))? {
            volume if volume.spec.retire && volume.metadata.deletion_timestamp.is_none() => {
                advice::keep_retiring(volume.name_any())
            }
            _ => advice::leave_volume_to_class(name),
        },
        _ => return None,
    })
}

/// The step to end a healthy reservation. One without content goes at once, unless somebody makes it anew.
fn reservation_end(snapshot: &Snapshot, name: &str) -> Option<String> {
    let reservation = snapshot.reservations.iter().find(|r| r.name_any() == name)?;
    let spec = &reservation.spec;
    let status = reservation.status.as_ref();
    if is_unconfigured(snapshot, reservation) {
        return Some(advice::await_unconfigured(&spec.role));
    }
    if status.is_some_and(|status| !status.volumes.is_empty() || !status.refinements.is_empty()) {
        let target = Target::new(&RESERVATION, None, name.to_owned());
        return About::new(snapshot, &target)
            .orphan_within()
            .or_else(|| Some(advice::see_reservation(&spec.role)));
    }
    if let Some(of) = &spec.template {
        return left_by_template(snapshot, reservation)
            .is_none()
            .then(|| advice::leave_reservation_to_template(&of.name, &of.volume_role));
    }
    let disk = snapshot.disks.iter().find(|disk| disk.metadata.name == spec.node_disk);
    disk.filter(|_| spec.is_static).map(|disk| advice::leave_static_reservation(&disk.spec.disk_name))
}
