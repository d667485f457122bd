//! `--wait`: until a condition is true or the object is gone, or until neither can come by itself.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures::StreamExt;
use kube::ResourceExt;
use kube::api::{Api, DynamicObject};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::watch_object;
use serde_json::Value;

use super::cli::Write;
use super::kind::Kind;
use crate::api::Size;
use crate::api::condition::reason::*;
use crate::api::condition::{INTACT, RESIZED, SEALED};
use crate::plan::advice;

/// Reasons that end a wait, because only another spec or another person can end the state. Such a state may pass in a
/// moment: the controller may not have seen new objects yet.
const FINAL: &[&str] = &[
    INVALID,
    NO_SUCH_DISK,
    NOT_A_SUB_ROLE,
    CANNOT_SHRINK,
    SHRINK_IN_USE,
    HAS_WRITERS,
    REFUSED,
    ROLE_NOT_ALLOWED,
    ALWAYS_WRITABLE,
    NO_SUBSCRIPTION,
    NO_CAPABILITY,
    ROLE_TAKEN,
    NAME_TAKEN,
    VOLUME_LOST,
    VOLUME_GONE,
    DISK_GONE,
    DISK_MOVED,
    WRONG_DISK,
    BACKING_LOST,
    NO_ORPHAN,
    VOLUME_RETIRING,
    VOLUME_DESTROYING,
    VOLUME_SEALED,
    SEALED_SIZE,
    SEAL_REFUSED,
    COPY_DIFFERS,
    COPIES_OFF,
    NO_NODE_SELECTED,
];

/// Time after which such a state counts as lasting.
const STUCK: Duration = Duration::from_secs(3);

/// The same for a failed resize, which the node tries again after fifteen seconds.
const FAILED_AGAIN: Duration = Duration::from_secs(20);

/// The end of the wait of `--wait`.
pub(super) enum Until {
    /// The condition of this type is true for the written spec.
    Condition(&'static str),
    Deleted,
}

/// Waits, and prints each change of the condition on standard error.
pub(super) async fn wait_until(
    api: &Api<DynamicObject>,
    kind: &Kind,
    written: &DynamicObject,
    write: &Write,
    until: &Until,
) -> anyhow::Result<()> {
    if !write.wait || write.dry_run.is_some() {
        return Ok(());
    }
    let (started, name) = (Instant::now(), written.name_any());
    let mut last = String::new();
    let watched = watch_object(api.clone(), &name).default_backoff();
    futures::pin_mut!(watched);
    let argument = kind.argument(&name, written.namespace().as_deref());
    let mut stuck = None;
    loop {
        let left = write.timeout.saturating_sub(started.elapsed());
        let patience = stuck.map_or(left, |stuck| left.min(stuck));
        let Ok(seen) = tokio::time::timeout(patience, watched.next()).await else {
            if patience < left {
                bail!("{} {name} is stuck ({last}): {}", kind.name, advice::ask_why(&argument));
            }
            let reported =
                if last.is_empty() { ", with no report about it yet".into() } else { format!(" ({last})") };
            bail!(
                "{} {name} is not done after {} s{reported}, and goes on: {}",
                kind.name,
                write.timeout.as_secs(),
                advice::ask_why(&argument)
            );
        };
        match seen.context("the watch ended")? {
            // kube-rs restarts a failed watch by itself.
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            Ok(None) if matches!(until, Until::Deleted) => {
                eprintln!("{:>4} s  gone", started.elapsed().as_secs());
                return Ok(());
            }
            Ok(None) => bail!("{} {name} was deleted during the wait", kind.name),
            Ok(Some(object)) if object.uid() != written.uid() => {
                bail!("{} {name} was replaced by another object during the wait", kind.name)
            }
            Ok(Some(object)) => {
                let progress = progress(&object, until, written.metadata.generation);
                stuck = progress.as_ref().and_then(|(_, text)| lasting_after(text));
                if let Some((_, text)) = progress.as_ref().filter(|(_, text)| *text != last) {
                    eprintln!("{:>4} s  {text}", started.elapsed().as_secs());
                    last.clone_from(text);
                }
                if progress.is_some_and(|(done, _)| done) {
                    return Ok(());
                }
            }
        }
    }
}

/// True if a reservation or volume has the size in its spec, or all of an undivided disk.
fn has_its_size(object: &DynamicObject) -> bool {
    let (spec, status) = (&object.data["spec"], &object.data["status"]);
    let has = bytes_of(&status["node"]["size"]).or_else(|| bytes_of(&status["size"]));
    let is_undivided = ["Mount", "Block"].iter().any(|kind| status["diskKind"] == *kind);
    is_undivided || has.is_some() && has == bytes_of(&spec["size"])
}

/// The bytes of a size in a field of an object.
pub(super) fn bytes_of(size: &Value) -> Option<u64> {
    Size::written(size.as_str()?).bytes().ok()
}

/// The time after which the text of a condition counts as lasting; `None`: the state ends by itself.
fn lasting_after(text: &str) -> Option<Duration> {
    match text.split(':').next()? {
        RESIZE_FAILED => Some(FAILED_AGAIN),
        reason => FINAL.contains(&reason).then_some(STUCK),
    }
}

/// Returns true if the wait is over, with the text of the condition. `None`: the condition refers to an older
/// spec.
fn progress(object: &DynamicObject, until: &Until, generation: Option<i64>) -> Option<(bool, String)> {
    let type_ = match until {
        Until::Condition(type_) => type_,
        Until::Deleted if object.metadata.deletion_timestamp.is_some() => "Ready",
        Until::Deleted => "Retiring",
    };
    let conditions = object.data["status"]["conditions"].as_array()?;
    // An object that was never served has no condition Resized: its first size is that of the spec. A verification follows the seal.
    let is_before = |c: &&Value| match type_ {
        RESIZED => c["type"] == "Ready",
        INTACT => c["type"] == SEALED && c["status"] == "False",
        _ => false,
    };
    let first = conditions.iter().find(is_before);
    let condition = conditions.iter().find(|c| c["type"] == type_).or(first)?;
    if condition["observedGeneration"].as_i64() < generation {
        return None;
    }
    let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
    let done = matches!(until, Until::Condition(_)) && condition["status"] == "True";
    // Ready speaks of the size that the object has, which the controller may be about to change.
    let done = done && (type_ != RESIZED || condition["type"] == RESIZED || has_its_size(object));
    Some((done, format!("{}: {}", text("reason"), text("message"))))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// T4: a wait ends early exactly if the message asks for another spec.
    #[test]
    fn t4_a_wait_ends_on_what_does_not_end_by_itself() {
        for (text, wanted) in [
            ("NoSubscription: subscribe first", Some(STUCK)),
            (
                "VolumeRetiring: volume v is being retired and takes no new claim; claim another one",
                Some(STUCK),
            ),
            ("VolumeDestroying: said", Some(STUCK)),
            ("VolumeSealed: said", Some(STUCK)),
            ("SealedSize: said", Some(STUCK)),
            ("ShrinkInUse: said", Some(STUCK)),
            ("HasWriters: said", Some(STUCK)),
            ("Refused: PersistentVolumeClaim q1 cannot be made: exceeded quota", Some(STUCK)),
            ("ResizeFailed: said", Some(FAILED_AGAIN)),
            ("VolumeNotReady: said", None),
            ("VolumeHeld: said", None),
        ] {
            assert_eq!(lasting_after(text), wanted, "{text}");
        }
    }

    /// T4, E4: files are read again once the volume is sealed, so the seal is what the wait shows before.
    #[test]
    fn t4_e4_a_wait_for_files_shows_the_seal_before() {
        let object = |conditions: Value| {
            let object = json!({"apiVersion": "reservoir.dev/v1alpha1", "kind": "SharedPersistentVolume",
                "metadata": {"name": "v"}, "status": {"conditions": conditions}});
            serde_json::from_value::<DynamicObject>(object).unwrap()
        };
        let condition = |type_: &str, status: &str, reason: &str| json!({"type": type_, "status": status, "reason": reason, "message": "said", "observedGeneration": 2});
        let seen = |conditions| progress(&object(conditions), &Until::Condition(INTACT), Some(2));
        let waits = json!([condition("Ready", "True", "Ready"), condition(SEALED, "False", "HasWriters")]);
        assert_eq!(seen(waits), Some((false, "HasWriters: said".into())));
        assert_eq!(seen(json!([condition(SEALED, "True", "Sealed")])), None);
        let read = json!([condition(SEALED, "True", "Sealed"), condition(INTACT, "True", "Verified")]);
        assert_eq!(seen(read), Some((true, "Verified: said".into())));
    }

    #[test]
    fn t4_a_wait_ignores_the_condition_of_an_older_spec() {
        let object = |generation: i64, status: &str| {
            let object = json!({"apiVersion": "reservoir.dev/v1alpha1", "kind": "DiskReservation", "metadata": {"name": "r"},
                "status": {"conditions": [{"type": "Resized", "status": status, "reason": "Why", "message": "said",
                    "observedGeneration": generation}]}});
            serde_json::from_value::<DynamicObject>(object).unwrap()
        };
        let seen = |object| progress(&object, &Until::Condition("Resized"), Some(2));
        assert_eq!(seen(object(1, "True")), None);
        assert_eq!(seen(object(2, "False")), Some((false, "Why: said".into())));
        assert_eq!(seen(object(3, "True")), Some((true, "Why: said".into())));
        assert_eq!(progress(&object(2, "True"), &Until::Condition("Ready"), Some(2)), None);
        // Without the condition, Ready ends the wait once the size is there.
        for (status, done) in [
            (json!({"size": "32Mi", "node": {"size": "32Mi"}}), false),
            (json!({"size": "40Mi", "node": {"size": "32Mi"}}), false),
            (json!({"size": "40Mi", "node": {"size": "40Mi"}}), true),
            (json!({"size": "40Mi"}), true),
            (json!({"size": "1Gi", "diskKind": "Mount"}), true),
            (json!({}), false),
        ] {
            let mut first = object(2, "True");
            first.data = json!({"spec": {"size": "40Mi"}, "status": status});
            first.data["status"]["conditions"] = json!([{"type": "Ready", "status": "True", "reason": "Ready", "message": "32Mi", "observedGeneration": 2}]);
            assert_eq!(seen(first), Some((done, "Ready: 32Mi".into())), "{status}");
        }
    }
}
