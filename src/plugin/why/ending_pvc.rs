//! A PersistentVolumeClaim that is being deleted, and what keeps it (F3).

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt;

use super::ending_pod;
use super::report::LOST;
use super::target::Target;
use crate::cluster;
use crate::plan::{advice, unclaim};
use crate::plugin::kind::{POD, PVC, VOLUME};
use crate::plugin::snapshot::Snapshot;

/// Why a PersistentVolumeClaim that is being deleted is there yet, and the next step.
pub(in crate::plugin) fn explain(snapshot: &Snapshot, pvc: &PersistentVolumeClaim) -> (String, String) {
    let (name, namespace) = (pvc.name_any(), pvc.namespace().unwrap_or_default());
    let own = (namespace.clone(), name.clone());
    let claim = snapshot.claim(Some(&namespace), &name);
    // The controller makes the PersistentVolumeClaim of such a claim anew (C7).
    let comes_back = claim.is_some_and(|claim| claim.metadata.deletion_timestamp.is_none())
        && snapshot.made_for(pvc).is_none();
    let end = if comes_back { ", and its VolumeClaim makes it anew when it is gone" } else { "" };
    let finished: Vec<&Pod> = snapshot
        .pods
        .iter()
        .filter(|pod| cluster::is_terminal(pod) && cluster::claims_of(pod).contains(&own))
        .collect();
    let message = format!("it is being deleted, so no new pod may use it{end}");
    if snapshot.pods_of(&namespace, &name).next().is_some() {
        let is_lost = pvc.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some(LOST));
        let volume = pvc.spec.as_ref().and_then(|spec| spec.volume_name.as_deref());
        return match volume.filter(|_| snapshot.is_ours(pvc)) {
            _ if comes_back => (message, advice::await_new_pvc(&name, &namespace)),
            None => (message, advice::end_pods_of_pvc(&name, &namespace)),
            // No reclaim policy keeps a volume that retires (X5).
            Some(pv) if let Some(volume) = snapshot.made_for(pvc).filter(|volume| volume.is_ending()) => (
                format!(
                    "{message}; when its pods have ended, its volume {} is destroyed, whatever the reclaim policy of \
                     PersistentVolume {pv} says",
                    volume.name_any()
                ),
                match volume.metadata.deletion_timestamp {
                    None if is_lost => advice::keep_used_volume(volume.name_any()),
                    None => advice::keep_retiring_of_ending_pvc(volume.name_any(), pv),
                    Some(_) => advice::end_pods_of_pvc(&name, &namespace),
                },
            ),
            // Without a reclaim policy the data stays (P4).
            Some(pv) if is_lost => (
                format!(
                    "{message}; PersistentVolume {pv} is gone, and its data stays when its pods have ended"
                ),
                advice::end_pods_of_pvc(&name, &namespace),
            ),
            Some(pv) => (
                format!(
                    "{message}; when its pods have ended, its volume ends as the reclaim policy of PersistentVolume {pv} says"
                ),
                match snapshot.sees(&VOLUME) {
                    true => advice::keep_data_of_ending_pvc(pv, &namespace),
                    false => advice::have_data_kept(pv),
                },
            ),
        };
    }
    let foreign = pvc.finalizers().iter().find(|finalizer| *finalizer != unclaim::PVC_PROTECTION);
    match (finished.first(), foreign) {
        (Some(pod), _) => {
            let pods: Vec<_> = finished.iter().map(|pod| cluster::pod_ref(pod)).collect();
            let kept = unclaim::kept_for_ended(&name, &pods);
            let step = ending_pod::force_step(snapshot, pod);
            let step = step.unwrap_or_else(|| match pod.metadata.deletion_timestamp {
                Some(_) => advice::ask_why(POD.argument(&pod.name_any(), Some(&namespace))),
                None => advice::delete_finished_pod(pod.name_any(), &namespace),
            });
            (format!("{message}: {kept}"), step)
        }
        (None, Some(finalizer)) => (
            format!("{message}, and finalizer {finalizer} keeps it"),
            advice::see_finalizers(&name, &namespace, finalizer),
        ),
        (None, None) => (message, advice::look_again()),
    }
}

/// The PersistentVolumeClaim of that name that is being deleted, of a claim that is not.
pub(in crate::plugin) fn find<'a>(
    snapshot: &'a Snapshot,
    namespace: Option<&str>,
    name: &str,
) -> Option<&'a PersistentVolumeClaim> {
    let is_ending = snapshot.claim(namespace, name).is_some_and(|c| c.metadata.deletion_timestamp.is_some());
    let is_it =
        |pvc: &&PersistentVolumeClaim| pvc.name_any() == name && pvc.namespace().as_deref() == namespace;
    let pvc = snapshot.pvcs.iter().find(is_it)?;
    (pvc.metadata.deletion_timestamp.is_some() && !is_ending).then_some(pvc)
}

/// The target of such a PersistentVolumeClaim.
pub(super) fn target(pvc: &PersistentVolumeClaim) -> Target {
    Target::new(&PVC, pvc.namespace(), pvc.name_any())
}
