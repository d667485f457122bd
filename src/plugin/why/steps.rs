//! Next steps: for a condition, for an object that Kubernetes keeps waiting, and towards the end of a healthy object.

use kube::ResourceExt;

use super::advice::About;
use super::target::Target;
use super::waits;
use crate::api::condition::reason::VOLUME_HELD;
use crate::plan::pvc_provisioner::pvc_of;
use crate::plugin::kind::{CLAIM, POD, PVC, VOLUME};
use crate::plugin::snapshot::Snapshot;

/// The next step for an object with a report of the given reason.
pub(super) fn step_for(snapshot: &Snapshot, target: &Target, reason: &str) -> String {
    let (name, namespace) = (&target.name, target.namespace.as_deref().unwrap_or("default"));
    let describe = format!("kubectl describe {} {name} -n {namespace}", target.kind.short);
    if target.kind == &PVC {
        return waits::pvc_step(snapshot, target, reason);
    }
    if target.kind == &POD && reason == VOLUME_HELD {
        return waits::holder_step(snapshot, target);
    }
    if target.kind == &POD {
        return match snapshot.sees(&CLAIM) && snapshot.sees(&PVC) {
            true => {
                format!("{describe}   # its claims are bound: it waits for something else than Reservoir")
            }
            false => format!("{describe}   # its claims may not be seen with your rights"),
        };
    }
    if target.kind.workload {
        return format!("{describe}   # its events and its template say why pods are missing");
    }
    let step = About::new(snapshot, target).step(reason);
    step.unwrap_or_else(|| {
        "kubectl reservoir doctor   # checks that the controller runs in the version of this plug-in".into()
    })
}

/// The step to end a healthy object that is in use.
pub(super) fn deletion_step(snapshot: &Snapshot, target: &Target) -> Option<String> {
    let name = &target.name;
    let role = snapshot.find(target.kind, None, name).and_then(|item| item.role);
    let volume = snapshot.volumes.iter().find(|volume| target.kind == &VOLUME && volume.name_any() == *name);
    let of_pvc = volume.and_then(|v| pvc_of(v).and(v.status.as_ref()?.claims.first()));
    Some(match target.kind.short {
        "spv" if of_pvc.is_some() => format!(
            "there is nothing to do; the volume is that of PersistentVolumeClaim {}, whose StorageClass decides about the data",
            of_pvc.map(ToString::to_string).unwrap_or_default()
        ),
        "spv" => format!(
            "a volume in use cannot be deleted; to destroy it after its last use: kubectl reservoir retire {name}"
        ),
        "dr" => format!(
            "a reservation with content cannot be deleted: kubectl reservoir tree --role {}",
            role.unwrap_or_default()
        ),
        "nd" => "a disk with reservations cannot be deleted: kubectl reservoir tree".into(),
        "vclaim" => {
            let namespace = target.namespace.as_deref().unwrap_or("default");
            let claim =
                snapshot.claims.iter().find(|c| c.name_any() == *name && c.namespace() == target.namespace);
            match claim.and_then(pvc_of) {
                Some(_) => format!(
                    "there is nothing to do; the claim ends with PersistentVolumeClaim {name}, and its StorageClass decides about the data"
                ),
                None => format!(
                    "there is nothing to do; to end the claim after its pods, with the data kept: \
                     kubectl reservoir unclaim {name} -n {namespace}"
                ),
            }
        }
        _ => return None,
    })
}
