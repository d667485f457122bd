//! The view `status`: disks, the shares of roles, and objects that are not ready or have other trouble.

use std::collections::BTreeSet;

use kube::ResourceExt;
use serde::Serialize;

use super::item::Item;
use super::kind::{CLAIM, DISK, PVC, VOLUME};
use super::paint::{Paint, human, table};
use super::snapshot::Snapshot;
use super::why;
use crate::api::condition::{self, RETIRING};
use crate::api::{ClaimPhase, Size, VolumeClaim, VolumeRole, VolumeRoleSpec};
use crate::plan::candidate::is_cordoned;
use crate::plan::{advice, allocatable, quota, summary};

/// The view; sizes are in bytes.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Status {
    pub disks: Vec<Disk>,
    pub roles: Vec<RoleShare>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volumes: Option<Count>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claims: Option<Count>,
    /// Volumes on offer, for callers who may not list volumes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub offered: Vec<String>,
    /// True if the caller may list disks.
    #[serde(skip)]
    pub sees_disks: bool,
    pub orphans: usize,
    /// Why no controller works.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leaderless: Option<String>,
    pub waiting: Vec<Waiting>,
}

/// Storage capacity of a disk.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Disk {
    pub name: String,
    pub allocatable: u64,
    pub reserved: u64,
    pub free: u64,
    pub state: String,
}

/// Reserved and used bytes of a role.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RoleShare {
    pub role: String,
    pub reserved: u64,
    pub used: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guarantee: Option<u64>,
    pub weight: u32,
}

/// Number of objects of a kind, and number of ready ones.
#[derive(Debug, Serialize)]
pub(super) struct Count {
    pub all: usize,
    pub ready: usize,
}

/// An object that is not ready, or that has trouble with another condition.
#[derive(Debug, Serialize)]
pub(super) struct Waiting {
    pub object: String,
    pub reason: String,
    pub message: String,
    /// Argument of `kubectl reservoir why`.
    #[serde(skip)]
    pub argument: String,
}

/// Sums up a snapshot.
pub(super) fn status(snapshot: &Snapshot) -> Status {
    let disk = |disk: &crate::api::NodeDisk| {
        let status = disk.status.clone().unwrap_or_default();
        let bytes = |size: Option<&Size>| size.map_or(0, Size::bytes_or_zero);
        let ready = condition::get(&status.conditions, condition::READY);
        Disk {
            name: disk.name_any(),
            allocatable: allocatable::of_disk(disk),
            reserved: bytes(status.reserved.as_ref()),
            free: bytes(status.free.as_ref()),
            state: ready.map_or("not reconciled yet", |c| &c.reason).to_owned()
                + if is_cordoned(disk) { ", cordoned" } else { "" },
        }
    };
    let items = snapshot.items();
    let count = |kind| {
        let of: Vec<_> = items.iter().filter(|item| item.kind == kind).collect();
        let ready = of.iter().filter(|item| item.is_ready()).count();
        snapshot.sees(kind).then_some(Count { all: of.len(), ready })
    };
    // A bound claim stays bound while its volume is away.
    let bound = |claim: &&VolumeClaim| {
        let status = claim.status.as_ref();
        status.is_some_and(|s| s.phase == ClaimPhase::Bound) && claim.metadata.deletion_timestamp.is_none()
    };
    let claims = Count { all: snapshot.claims.len(), ready: snapshot.claims.iter().filter(bound).count() };
    let pvcs = snapshot.waiting_pvcs().map(|pvc| {
        let (namespace, name) = (pvc.namespace().unwrap_or_default(), pvc.name_any());
        let why = snapshot.refused(pvc).map(|(_, why)| why).or_else(|| snapshot.no_place(pvc));
        Waiting {
            object: format!("PersistentVolumeClaim {namespace}/{name}"),
            reason: if why.is_some() { why::PROVISIONING_FAILED } else { "Pending" }.into(),
            message: why.unwrap_or_else(|| "Reservoir has made no volume for it yet".into()),
            argument: PVC.argument(&name, Some(&namespace)),
        }
    });
    let unknown = snapshot.unknown_pvcs().map(|pvc| {
        let (namespace, name) = (pvc.namespace().unwrap_or_default(), pvc.name_any());
        Waiting {
            object: format!("PersistentVolumeClaim {namespace}/{name}"),
            reason: "Pending".into(),
            message: "it has no volume yet; you may not see its StorageClass, which may be Reservoir's"
                .into(),
            argument: PVC.argument(&name, Some(&namespace)),
        }
    });
    let grows = snapshot.pvcs.iter().filter(|pvc| snapshot.is_ours(pvc)).filter_map(|pvc| {
        let (namespace, name) = (pvc.namespace().unwrap_or_default(), pvc.name_any());
        let (reason, message) = why::growth(pvc)?;
        let (object, argument) =
            (format!("PersistentVolumeClaim {namespace}/{name}"), PVC.argument(&name, Some(&namespace)));
        Some(Waiting { object, reason, message, argument })
    });
    let of_claims = snapshot.claims.iter().map(|claim| (claim.namespace(), claim.name_any()));
    let of_classes = snapshot.pvcs.iter().filter(|pvc| snapshot.made_for(pvc).is_some());
    let served = of_claims.chain(of_classes.map(|pvc| (pvc.namespace(), pvc.name_any())));
    let ending = served.filter_map(|(namespace, name)| {
        let namespace = namespace.unwrap_or_default();
        let pvc = why::find_ending(snapshot, Some(&namespace), &name)?;
        let status = snapshot.claim(Some(&namespace), &name).and_then(|claim| claim.status.as_ref());
        let ready = status.and_then(|status| condition::get(&status.conditions, condition::READY));
        // A claim with that condition is listed as such.
        ready.is_none_or(|ready| ready.reason != why::TERMINATING).then(|| Waiting {
            object: format!("PersistentVolumeClaim {namespace}/{name}"),
            reason: why::TERMINATING.into(),
            message: why::explain_ending(snapshot, pvc).0,
            argument: PVC.argument(&name, Some(&namespace)),
        })
    });
    let waits = items.iter().filter(|item| !item.is_ready());
    // A retirement is a wish, and no trouble.
    let troubled = items.iter().filter(|item| item.is_ready()).flat_map(|item| {
        item.beside().filter(|c| c.type_ != RETIRING).map(|c| Waiting {
            object: item.title(),
            reason: c.reason.clone(),
            message: c.message.clone(),
            argument: item.argument(),
        })
    });
    let unseen = items.iter().filter(|item| item.is_ready() && item.is_outdated()).map(|item| Waiting {
        object: item.title(),
        reason: why::NOT_LOOKED_AT.into(),
        message: Item::OUTDATED.into(),
        argument: item.argument(),
    });
    Status {
        disks: snapshot.disks.iter().map(disk).collect(),
        roles: roles(snapshot),
        volumes: count(&VOLUME),
        claims: snapshot.sees(&CLAIM).then_some(claims),
        offered: if snapshot.sees(&VOLUME) { vec![] } else { offered(snapshot) },
        sees_disks: snapshot.sees(&DISK),
        orphans: snapshot.disks.iter().map(|disk| snapshot.count_lost(disk)).sum(),
        leaderless: snapshot.leaderless.clone(),
        waiting: waits
            .map(|item| Waiting {
                object: item.title(),
                reason: item.ready().map_or(why::NOT_LOOKED_AT, |c| &c.reason).to_owned(),
                message: item
                    .ready()
                    .map_or("the controller has not reconciled it yet: is the controller running?", |c| {
                        &c.message
                    })
                    .to_owned(),
                argument: item.argument(),
            })
            .chain(troubled)
            .chain(unseen)
            .chain(pvcs)
            .chain(unknown)
            .chain(grows)
            .chain(ending)
            .collect(),
    }
}

/// Text of an offered volume: `data (eng, 64Mi, shared) on node n1, for team`.
fn offered(snapshot: &Snapshot) -> Vec<String> {
    let mut all = Vec::new();
    for offer in &snapshot.offers {
        let (node, namespace) = (&offer.spec.node_name, offer.namespace().unwrap_or_default());
        for volume in &offer.spec.volumes {
            let access = if volume.shared { "shared" } else { "exclusive" };
            let size = human(volume.size.bytes_or_zero());
            all.push(format!(
                "{} ({}, {size}, {access}) on node {node}, for {namespace}",
                volume.name, volume.role
            ));
        }
    }
    all
}

/// Every role with a reservation or a VolumeRole.
fn roles(snapshot: &Snapshot) -> Vec<RoleShare> {
    let objects: Vec<&VolumeRole> = snapshot.roles.iter().collect();
    let counting = quota::counting(&objects);
    let reserved = snapshot.reservations.iter().map(|r| r.spec.role.as_str());
    let names: BTreeSet<&str> = reserved.chain(counting.keys().copied()).collect();
    let reservations: Vec<_> = snapshot.reservations.iter().collect();
    let share = |name: &str| {
        let spec = VolumeRoleSpec { role: name.to_owned(), weight: 1, ..Default::default() };
        let default = VolumeRole::new("", spec);
        let object = counting.get(name).copied().unwrap_or(&default);
        let totals = summary::role_totals(object, &reservations);
        let quota = &object.spec.quota;
        RoleShare {
            role: name.to_owned(),
            reserved: totals.reserved.as_ref().map_or(0, Size::bytes_or_zero),
            used: totals.used.as_ref().map_or(0, Size::bytes_or_zero),
            limit: quota.limit.as_ref().map(Size::bytes_or_zero),
            guarantee: quota.guarantee.as_ref().map(Size::bytes_or_zero),
            weight: object.spec.weight,
        }
    };
    names.into_iter().map(share).collect()
}

/// The view as text.
pub(super) fn text(status: &Status, paint: Paint) -> String {
    let row = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>();
    let mut disks = vec![row(&["DISK", "RESERVED", "", "OF", "FREE", "STATE"])];
    for disk in &status.disks {
        let state = if disk.state.starts_with(condition::reason::READY) {
            paint.good(&disk.state)
        } else {
            paint.bad(&disk.state)
        };
        let bar = paint.bar(disk.reserved, disk.allocatable);
        let (reserved, of, free) = (human(disk.reserved), human(disk.allocatable), human(disk.free));
        disks.push(vec![paint.bold(&disk.name), bar, reserved, of, free, state]);
    }
    let all: u64 = status.disks.iter().map(|d| d.allocatable).fold(0, u64::saturating_add);
    let mut roles =
        vec![row(&["ROLE", "SHARE OF ALL DISKS", "RESERVED", "USED", "", "LIMIT", "GUARANTEE", "WEIGHT"])];
    for role in &status.roles {
        let or_none = |bytes: Option<u64>| bytes.map_or("-".to_owned(), human);
        roles.push(vec![
            paint.bold(&role.role),
            paint.bar(role.reserved, all),
            human(role.reserved),
            paint.bar(role.used, role.reserved),
            human(role.used),
            or_none(role.limit),
            or_none(role.guarantee),
            role.weight.to_string(),
        ]);
    }
    let mut text = match status.disks.is_empty() {
        true if !status.sees_disks => "disks and roles may not be seen with your rights\n".to_owned(),
        true => "there are no disks: is the agent running? `kubectl reservoir doctor` checks it\n".to_owned(),
        false => table(&disks),
    };
    if !status.roles.is_empty() {
        text.push_str(&format!("\n{}", table(&roles)));
    }
    let count = |count: &Option<Count>, what: &str, state: &str| match count {
        Some(count) => format!("{} of {} {what} {state}", count.ready, count.all),
        None => format!("{what} may not be seen"),
    };
    let (volumes, claims) =
        (count(&status.volumes, "volumes", "ready"), count(&status.claims, "claims", "bound"));
    text.push_str(&format!("\n{volumes}, {claims}\n"));
    for volume in &status.offered {
        text.push_str(&format!("on offer: {volume}\n"));
    }
    if let Some(leaderless) = &status.leaderless {
        let step = advice::check_controller();
        text.push_str(&format!("{}: {step}\n", paint.bad(&format!("{leaderless}; this may be out of date"))));
    }
    if status.orphans > 0 {
        let orphans = format!("{} orphans: `kubectl reservoir orphans` lists them", status.orphans);
        text.push_str(&format!("{}\n", paint.warn(&orphans)));
    }
    for waiting in &status.waiting {
        text.push_str(&format!(
            "{} {}: {}\n  {}\n",
            paint.bold(&waiting.object),
            paint.warn(&waiting.reason),
            waiting.message,
            paint.dim(&advice::ask_why(&waiting.argument))
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Orphan, UnlistedOrphans};
    use crate::plan::testing::*;

    #[test]
    fn t4_status_shows_disks_roles_and_unready_objects() {
        let mut disk = disk("n1.a", "n1", 10, &[("eng", 4)]);
        let status_of = disk.status.as_mut().unwrap();
        (status_of.free, status_of.reserved) = (Some(gi(6)), Some(gi(4)));
        let mut eng = reserved("eng", "eng", 4, &[("data", 1)]);
        set_ready(&mut eng.status.as_mut().unwrap().conditions, true);
        let mut role = with_quota(volume_role("eng", "eng"), Some(8), Some(2), &[]);
        role.spec.weight = 3;
        let mut waits = claim("team", "data", "none");
        set_ready(&mut waits.status.get_or_insert_default().conditions, false);
        let snapshot = Snapshot {
            disks: vec![disk],
            reservations: vec![eng, reservation("big", "ops", 99)],
            roles: vec![role],
            volumes: vec![ready_volume("data", "eng", true)],
            claims: vec![waits],
            ..Snapshot::default()
        };
        assert_eq!(
            text(&status(&snapshot), Paint::plain()),
            "DISK   RESERVED                          OF     FREE   STATE\n\
             n1.a   ████████░░░░░░░░░░░░  40%   4Gi   10Gi   6Gi    Test\n\
             \n\
             ROLE   SHARE OF ALL DISKS          RESERVED   USED                              LIMIT   GUARANTEE   WEIGHT\n\
             eng    ████████░░░░░░░░░░░░  40%   4Gi        █████░░░░░░░░░░░░░░░  25%   1Gi   8Gi     2Gi         3\n\
             ops    ░░░░░░░░░░░░░░░░░░░░   0%   0          ░░░░░░░░░░░░░░░░░░░░   0%   0     -       -           1\n\
             \n\
             1 of 1 volumes ready, 0 of 1 claims bound\n\
             DiskReservation big NotLookedAt: the controller has not reconciled it yet: is the controller running?\n  \
             kubectl reservoir why dr/big\n\
             VolumeClaim team/data Test: said\n  \
             kubectl reservoir why vclaim/data -n team\n"
        );
    }

    /// T4, F3: what a finished pod keeps, and what has no place, is told with its cause.
    #[test]
    fn t4_status_tells_why_a_persistent_volume_claim_waits() {
        use serde_json::{from_value, json};
        let mut ready = claim("team", "data", "v");
        set_ready(&mut ready.status.get_or_insert_default().conditions, true);
        ready.status.get_or_insert_default().phase = ClaimPhase::Bound;
        let pod = |name: &str, claim: &str, phase: &str| {
            from_value(json!({"metadata": {"namespace": "team", "name": name},
                "spec": {"containers": [], "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]},
                "status": {"phase": phase}}))
            .unwrap()
        };
        let pvc = |name: &str, rest| {
            let mut pvc: k8s_openapi::api::core::v1::PersistentVolumeClaim = from_value(rest).unwrap();
            (pvc.metadata.name, pvc.metadata.namespace) = (Some(name.into()), Some("team".into()));
            pvc
        };
        let class = json!({"metadata": {"name": "eng"}, "provisioner": "csi.reservoir.dev", "parameters": {"role": "eng"},
            "volumeBindingMode": "WaitForFirstConsumer"});
        let big =
            json!({"spec": {"storageClassName": "eng", "resources": {"requests": {"storage": "10Gi"}}}});
        let ending = json!({"metadata": {"deletionTimestamp": "1970-01-01T00:00:00Z"}});
        let mut snapshot = Snapshot {
            claims: vec![ready],
            pvcs: vec![pvc("data", ending), pvc("big", big)],
            pods: vec![pod("job-x", "data", "Succeeded"), pod("web", "big", "Pending")],
            classes: vec!["eng".into()],
            our_classes: vec![from_value(class).unwrap()],
            reservations: vec![reserved("eng", "eng", 4, &[])],
            ..Snapshot::default()
        };
        let of = |snapshot: &Snapshot| text(&status(snapshot), Paint::plain());
        let told = of(&snapshot);
        assert!(told.contains("PersistentVolumeClaim team/data Terminating: it is being deleted"), "{told}");
        assert!(
            told.contains("pod team/job-x is finished, and Kubernetes keeps PersistentVolumeClaim data"),
            "{told}"
        );
        let big = "PersistentVolumeClaim team/big ProvisioningFailed: no node has a place for the volume: 10Gi asked for, eng \
                   has 4Gi left";
        assert!(told.contains(big), "{told}");
        assert!(told.contains("1 of 1 claims bound"), "{told}");
        set_ready(&mut snapshot.claims[0].status.get_or_insert_default().conditions, false);
        assert!(of(&snapshot).contains("1 of 1 claims bound"), "D4: {}", of(&snapshot));
        snapshot.pods.clear();
        assert!(
            of(&snapshot).contains("team/big Pending: Reservoir has made no volume"),
            "{}",
            of(&snapshot)
        );
    }

    #[test]
    fn x6_status_counts_orphans_that_are_not_listed() {
        let mut disk = disk("n1.a", "n1", 100, &[]);
        let of = disk.status.as_mut().unwrap();
        of.orphans = vec![Orphan::default()];
        of.unlisted_orphans = Some(UnlistedOrphans { count: 72, size: gi(71) });
        let shown = status(&Snapshot { disks: vec![disk], ..Snapshot::default() });
        let text = text(&shown, Paint::plain());
        assert!(text.contains("\n73 orphans: `kubectl reservoir orphans`"), "{text}");
    }

    /// X9: a restored etcd has the volume from before its placement, and the data is that volume's.
    #[test]
    fn x9_status_counts_no_data_that_has_its_volume() {
        let mut disk = disk("n1.a", "n1", 100, &[]);
        disk.status.as_mut().unwrap().orphans = vec![Orphan { uid: "uid-v".into(), ..Orphan::default() }];
        let volumes = vec![volume("v", "eng", 1)];
        let shown = status(&Snapshot { disks: vec![disk], volumes, ..Snapshot::default() });
        assert_eq!(shown.orphans, 0);
    }
}
