//! The command `why`: the causes of a wait, root first, then the holders and the next step.

mod advice;
mod chain;
mod holders;
mod steps;
mod target;

use serde::Serialize;

pub(super) use target::Target;

use super::item::{CLAIM, PVC};
use super::paint::Paint;
use super::snapshot::Snapshot;
use chain::{Report, chain, reports};
use holders::holders;
use steps::{deletion_step, step_for};

/// The answer.
#[derive(Debug, Serialize)]
pub(super) struct Why {
    pub object: String,
    /// Reason and message of the object, in one line.
    #[serde(rename = "stands")]
    pub summary: String,
    pub ready: bool,
    /// The causes of the wait, from the root to the object itself.
    pub because: Vec<Report>,
    /// Holders, content, and earlier reservations in the queue.
    #[serde(rename = "held")]
    pub holders: Vec<String>,
    /// Next steps.
    pub next: Vec<String>,
}

/// Explains an object. The error for an unknown object has the most similar name.
pub(super) fn why(snapshot: &Snapshot, target: &Target) -> Result<Why, String> {
    if target.kind == &PVC {
        // A claim's PersistentVolumeClaim has the name of the claim, and waits for the claim.
        let claim = Target { kind: &CLAIM, ..target.clone() };
        let mut answer = why(snapshot, &claim).map_err(|_| target.not_found(snapshot))?;
        answer.holders.insert(0, format!("it belongs to {}", claim.title()));
        return Ok(Why { object: target.title(), ..answer });
    }
    let chain = chain(snapshot, target);
    let mut because = Vec::new();
    let mut next = Vec::new();
    for (i, link) in chain.iter().enumerate().rev() {
        let reports = reports(snapshot, link);
        if i == 0 && reports.is_none() {
            return Err(target.not_found(snapshot));
        }
        for report in reports.unwrap_or_default() {
            // The step for the root helps; its effects end by themselves.
            if report.trouble && (i + 1 == chain.len() || next.is_empty()) {
                let step = step_for(snapshot, link, &report.reason);
                next.extend(Some(step).filter(|step| !next.contains(step)));
            }
            because.push(report);
        }
    }
    let ready = next.is_empty();
    let holders = holders(snapshot, target);
    if ready && !holders.is_empty() {
        next.extend(deletion_step(snapshot, target));
    }
    let summary = match because.last() {
        Some(own) if because.len() > 1 => format!("{}, for the reasons below", own.reason),
        Some(own) if own.message.is_empty() => own.reason.clone(),
        Some(own) => format!("{}: {}", own.reason, own.message),
        None => "no condition is reported".into(),
    };
    if ready {
        because.clear();
    }
    Ok(Why { object: target.title(), summary, ready, because, holders, next })
}

/// The answer as text.
pub(super) fn text(why: &Why, paint: Paint) -> String {
    let summary = if why.ready { paint.good(&why.summary) } else { paint.warn(&why.summary) };
    let mut text = format!("{}: {summary}\n", paint.bold(&why.object));
    // A single cause is already in the first line.
    for (i, report) in why.because.iter().enumerate().filter(|_| why.because.len() > 1) {
        let word = if i == 0 { "because" } else { "so" };
        let message = if report.message.is_empty() { String::new() } else { format!(": {}", report.message) };
        text.push_str(&format!("  {word} {} is {}{message}\n", report.object, paint.bold(&report.reason)));
    }
    for line in &why.holders {
        text.push_str(&format!("  {line}\n"));
    }
    for step in &why.next {
        text.push_str(&format!("{} {step}\n", paint.bold("next:")));
    }
    text
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

    use super::*;
    use crate::api::condition::{READY, Verdict, reason, set};
    use crate::plan::testing::*;
    use crate::plugin::item::{DISK, Kind, POD, RESERVATION, ROLE, VOLUME};

    fn set_not_ready(conditions: &mut Vec<Condition>, reason: &'static str, message: &str) {
        set(conditions, READY, Verdict::no(reason, message), None, jiff::Timestamp::UNIX_EPOCH);
    }

    fn ask(
        snapshot: &Snapshot,
        kind: &'static Kind,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<String, String> {
        let target = Target { kind, namespace: namespace.map(str::to_owned), name: name.into() };
        why(snapshot, &target).map(|why| text(&why, Paint::plain()))
    }

    fn pod_of(claim: &str, phase: &str) -> Pod {
        serde_json::from_value(serde_json::json!({"metadata": {"namespace": "team", "name": "web"},
            "spec": {"containers": [], "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]},
            "status": {"phase": phase}}))
        .unwrap()
    }

    /// A pod whose claim's volume is on an unreachable node.
    fn unreachable() -> Snapshot {
        let mut disk = disk("n1.a", "n1", 10, &[("eng", 4)]);
        set_not_ready(
            &mut disk.status.as_mut().unwrap().conditions,
            reason::NODE_UNREACHABLE,
            "node n1 is not Ready",
        );
        let mut volume = ready_volume("data", "eng", true);
        let status = volume.status.as_mut().unwrap();
        set_not_ready(&mut status.conditions, reason::NODE_UNREACHABLE, "NodeDisk n1.a is not ready");
        let mut waits = claim("team", "data", "data");
        set_not_ready(
            &mut waits.status.get_or_insert_default().conditions,
            reason::VOLUME_NOT_READY,
            "volume data is not ready",
        );
        let pods = vec![pod_of("data", "Pending")];
        Snapshot {
            disks: vec![disk],
            volumes: vec![volume],
            claims: vec![waits],
            pods,
            ..Snapshot::default()
        }
    }

    #[test]
    fn t4_why_prints_the_root_first_and_then_its_effects() {
        assert_eq!(
            ask(&unreachable(), &POD, Some("team"), "web").unwrap(),
            "Pod team/web: Pending, for the reasons below\n  \
             because NodeDisk n1.a is NodeUnreachable: node n1 is not Ready\n  \
             so SharedPersistentVolume data is NodeUnreachable: NodeDisk n1.a is not ready\n  \
             so VolumeClaim team/data is VolumeNotReady: volume data is not ready\n  \
             so Pod team/web is Pending\n\
             next: kubectl describe node n1   # bring it back; if it is lost for good: kubectl patch nodedisk n1.a \
             --type=merge -p '{\"spec\":{\"gone\":true}}'\n"
        );
        let pvc = ask(&unreachable(), &PVC, Some("team"), "data").unwrap();
        assert!(
            pvc.contains("because NodeDisk n1.a") && pvc.contains("it belongs to VolumeClaim team/data"),
            "{pvc}"
        );
        // A PersistentVolumeClaim of a class waits for its first pod, or is refused (P1, P6).
        assert_eq!(
            ask(&Snapshot::default(), &PVC, Some("team"), "data-db-0").unwrap_err(),
            "Reservoir has made no volume for PersistentVolumeClaim team/data-db-0 yet; its events have the cause: \
             kubectl describe pvc data-db-0 -n team"
        );
        let fine = Snapshot { pods: vec![pod_of("none", "Pending")], ..Snapshot::default() };
        assert!(
            ask(&fine, &POD, Some("team"), "web").unwrap().contains("next: kubectl describe pod web -n team")
        );
    }

    /// T4: for an object of every kind with every reason, `why` prints the object's own message and a
    /// complete next step.
    #[test]
    fn t4_why_prints_message_and_next_step_of_every_reason() {
        for reason in advice::reasons() {
            let mut snapshot = Snapshot {
                disks: vec![disk("n1.a", "n1", 10, &[])],
                roles: vec![volume_role("x", "eng")],
                reservations: vec![reservation("x", "ops", 1)],
                volumes: vec![volume("x", "eng", 1)],
                claims: vec![claim("team", "x", "gone")],
                ..Snapshot::default()
            };
            set_not_ready(
                &mut snapshot.disks[0].status.as_mut().unwrap().conditions,
                reason,
                "its own message",
            );
            set_not_ready(
                &mut snapshot.roles[0].status.get_or_insert_default().conditions,
                reason,
                "its own message",
            );
            set_not_ready(
                &mut snapshot.reservations[0].status.get_or_insert_default().conditions,
                reason,
                "its own message",
            );
            set_not_ready(
                &mut snapshot.volumes[0].status.get_or_insert_default().conditions,
                reason,
                "its own message",
            );
            set_not_ready(
                &mut snapshot.claims[0].status.get_or_insert_default().conditions,
                reason,
                "its own message",
            );
            for (kind, namespace, name) in [
                (&DISK, None, "n1.a"),
                (&ROLE, None, "x"),
                (&RESERVATION, None, "x"),
                (&VOLUME, None, "x"),
                (&CLAIM, Some("team"), "x"),
            ] {
                let answer = ask(&snapshot, kind, namespace, name).unwrap();
                assert!(
                    answer.starts_with(&format!("{} ", kind.name))
                        && answer.contains(&format!("{name}: {reason}: its own message")),
                    "{answer}"
                );
                assert!(answer.contains("\nnext: "), "{reason}: {answer}");
                assert!(!answer.contains("{name}") && !answer.contains("{ref}"), "{reason}: {answer}");
            }
        }
    }

    #[test]
    fn t4_why_names_holders_and_earlier_reservations() {
        let mut held = ready_volume("v", "eng", false);
        let status = held.status.as_mut().unwrap();
        status.claims = vec![bound_by("other", "holder", "u0")];
        (status.users, status.user_count) = (vec![pod("other", "p")], 1);
        let mut waits = claim("team", "c", "v");
        set_not_ready(
            &mut waits.status.get_or_insert_default().conditions,
            reason::VOLUME_HELD,
            "it is held",
        );
        let mut last = reservation("last", "eng", 99);
        last.metadata.creation_timestamp = later();
        set_not_ready(
            &mut last.status.get_or_insert_default().conditions,
            reason::NOT_ENOUGH_ROOM,
            "too little",
        );
        let snapshot = Snapshot {
            disks: vec![disk("n1.a", "n1", 10, &[])],
            volumes: vec![held],
            claims: vec![waits],
            reservations: vec![last, reservation("first", "eng", 50)],
            ..Snapshot::default()
        };
        let answer = ask(&snapshot, &CLAIM, Some("team"), "c").unwrap();
        assert!(answer.contains("held by claim other/holder\n  and used by pod other/p\n"), "{answer}");
        let answer = ask(&snapshot, &VOLUME, None, "v").unwrap();
        assert!(
            answer.contains("claimed by other/holder (ReadWrite)")
                && answer.contains("kubectl reservoir retire v"),
            "{answer}"
        );
        let answer = ask(&snapshot, &RESERVATION, None, "last").unwrap();
        assert!(
            answer.contains("before it in the queue, by the shares of the roles: first (eng, 50Gi)"),
            "{answer}"
        );
    }

    #[test]
    fn t4_an_unknown_name_is_answered_with_the_nearest() {
        let snapshot = unreachable();
        let wrong = |kind, namespace, name| ask(&snapshot, kind, namespace, name).unwrap_err();
        assert_eq!(wrong(&VOLUME, None, "dta"), "there is no SharedPersistentVolume dta; did you mean data?");
        assert_eq!(
            wrong(&CLAIM, Some("other"), "data"),
            "there is no VolumeClaim other/data; there is one in namespace team: add -n team"
        );
        assert_eq!(wrong(&DISK, None, "xyz"), "there is no NodeDisk xyz");
    }
}
