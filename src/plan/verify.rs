//! Reads the files of a sealed volume again, because somebody asks or some time has passed (E4).
//!
//! A volume whose files differ is Ready no more. Nothing of it is changed, and its pods go on.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Resource;

use crate::api::condition::{self, BACKED, INTACT, SEALED, Verdict, reason};
use crate::api::{SharedPersistentVolume, SharedPersistentVolumeStatus, Verified};

/// The outcome of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The files are being read.
    Reading,
    /// The files were read.
    Read {
        /// `spec.verify` at the begin.
        request: Option<String>,
        /// The number of names that differ.
        differ: u64,
        /// The first ones, each a path and what differs.
        first: Vec<String>,
    },
    /// The files could not be read; the text is the reason.
    Failed(String),
}

/// The pause before the next look at files that are being read. Their end causes a look, too.
const WHILE_READING: Duration = Duration::from_secs(30);
/// The pause after a failure.
const AFTER_FAILURE: Duration = Duration::from_secs(60);

/// True if the files of a sealed volume are to be read again: for a request that is not done, or `every` so often.
pub fn is_due(volume: &SharedPersistentVolume, every: Option<Duration>, now: Timestamp) -> bool {
    is_verifiable(volume) && (is_requested(volume) || left(volume, every, now) == Some(Duration::ZERO))
}

/// True if somebody asks for another reading.
pub fn is_requested(volume: &SharedPersistentVolume) -> bool {
    let done = volume.status.as_ref().and_then(|status| status.verified.as_ref()?.request.as_ref());
    volume.spec.verify.is_some() && volume.spec.verify.as_ref() != done
}

/// The time until the files of a volume at rest are to be read again; `None`: nobody asks for that.
pub fn left(volume: &SharedPersistentVolume, every: Option<Duration>, now: Timestamp) -> Option<Duration> {
    let status = volume.status.as_ref().filter(|_| is_verifiable(volume))?;
    let sealed = condition::get(&status.conditions, SEALED)?;
    let last = status.verified.as_ref().map_or(sealed.last_transition_time.0, |verified| verified.at.0);
    let since = Duration::try_from(now.duration_since(last)).unwrap_or_default();
    every.map(|every| every.saturating_sub(since))
}

fn is_verifiable(volume: &SharedPersistentVolume) -> bool {
    volume.metadata.deletion_timestamp.is_none()
        && volume.status.as_ref().is_some_and(|status| {
            status.digest.is_some()
                && condition::is_true(&status.conditions, BACKED)
                && condition::is_true(&status.conditions, SEALED)
        })
}

/// Adds the outcome to the status. Returns the pause before the next look.
pub fn report(
    volume: &SharedPersistentVolume,
    status: &mut SharedPersistentVolumeStatus,
    outcome: Outcome,
    now: Timestamp,
) -> Option<Duration> {
    let (verdict, pause) = match outcome {
        Outcome::Reading => return Some(WHILE_READING),
        Outcome::Read { request, differ, first } => {
            let files = status.files.unwrap_or_default();
            status.verified = Some(Verified { request, at: Time(now), differ });
            let verdict = match differ {
                0 => Verdict::yes(
                    reason::VERIFIED,
                    format!("its {files} files were read again, and are what was sealed"),
                ),
                _ => Verdict::no(reason::COPY_DIFFERS, differing(volume, differ, &first)),
            };
            (verdict, None)
        }
        Outcome::Failed(why) => (Verdict::no(reason::VERIFY_FAILED, why), Some(AFTER_FAILURE)),
    };
    condition::set(&mut status.conditions, INTACT, verdict, volume.meta().generation, now);
    pause
}

fn differing(volume: &SharedPersistentVolume, differ: u64, first: &[String]) -> String {
    let more = match differ - first.len() as u64 {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    let next = match &volume.spec.copy_of {
        Some(of) => format!("it is made anew from volume {} after its last use", of.name),
        None => "fill another volume from where the files came, and delete this one then".to_owned(),
    };
    format!(
        "its files are not what was sealed: {}{more}; no new claim binds to it, and its pods go on; {next}",
        first.join(", ")
    )
}

/// Reason and message of the event to publish after a write of the status: what was asked for, and each change (T2).
pub fn event<'a>(
    before: &SharedPersistentVolume,
    now: &'a SharedPersistentVolumeStatus,
) -> Option<(&'a str, &'a str)> {
    let intact = condition::get(&now.conditions, INTACT)?;
    let status = before.status.as_ref();
    let told = status.and_then(|status| condition::get(&status.conditions, INTACT));
    let request = |status: &SharedPersistentVolumeStatus| status.verified.as_ref()?.request.clone();
    let is_new = told.is_none_or(|told| told.reason != intact.reason) && intact.reason != reason::VERIFIED;
    let is_answer = request(now) != status.and_then(request);
    (is_new || is_answer).then_some((&intact.reason, &intact.message))
}

/// The message for the people whose pods read a volume with files that differ. They may not see the volume.
pub fn on_pod(volume: &str, message: &str) -> String {
    format!("volume {volume} {NOT_INTACT}: {message}")
}

/// The words of [`on_pod`].
const NOT_INTACT: &str = "is not intact";

/// True for words about files that differ, as the condition of a claim has them. For a caller who may not see the volume.
pub fn says_differs(message: &str) -> bool {
    message.contains(NOT_INTACT)
}

/// Why a volume is not Ready, for the files that differ; `None`: none is known to. A later reading that failed says nothing
/// about them.
pub fn differs(status: &SharedPersistentVolumeStatus) -> Option<Verdict> {
    let differ = status.verified.as_ref().map(|verified| verified.differ).filter(|differ| *differ > 0)?;
    let named = condition::get(&status.conditions, INTACT).filter(|c| c.reason == reason::COPY_DIFFERS);
    let why = named.map_or_else(
        || format!("{differ} of its names were not what was sealed, when all files could be read last"),
        |named| named.message.clone(),
    );
    Some(Verdict::no(reason::COPY_DIFFERS, why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::*;

    const WEEK: Option<Duration> = Some(Duration::from_secs(604_800));

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn sealed() -> SharedPersistentVolume {
        let mut volume = ready_volume("v", "eng", true);
        volume.spec.sealed = true;
        let generation = volume.meta().generation;
        let status = volume.status.as_mut().unwrap();
        (status.digest, status.files) = (Some("blake3:00".into()), Some(7));
        condition::set(&mut status.conditions, SEALED, Verdict::yes(reason::SEALED, "so"), generation, at(0));
        volume
    }

    fn after(volume: &SharedPersistentVolume, outcome: Outcome, now: i64) -> SharedPersistentVolume {
        let mut volume = volume.clone();
        let mut status = volume.status.clone().unwrap();
        report(&volume, &mut status, outcome, at(now));
        volume.status = Some(status);
        volume
    }

    fn read(request: Option<&str>, differ: u64) -> Outcome {
        let first = (0..differ.min(2)).map(|i| format!("f{i} has other bytes")).collect();
        Outcome::Read { request: request.map(str::to_owned), differ, first }
    }

    #[test]
    fn e4_files_are_read_once_for_each_request() {
        let mut volume = sealed();
        assert!(!is_due(&volume, None, at(9_999_999)));
        volume.spec.verify = Some("a".into());
        assert!(is_due(&volume, None, at(0)));
        let done = after(&volume, read(Some("a"), 0), 5);
        assert!(!is_due(&done, None, at(9)));
        let failed = after(&volume, Outcome::Failed("no".into()), 5);
        assert!(is_due(&failed, None, at(9)), "it is tried again");
        let mut again = done.clone();
        again.spec.verify = Some("b".into());
        assert!(is_due(&again, None, at(9)));
        assert!(is_due(&after(&again, read(Some("a"), 0), 7), None, at(9)), "it was asked for meanwhile");
        again.spec.verify = None;
        assert!(!is_due(&again, None, at(9)));
        let mut open = volume.clone();
        open.status.as_mut().unwrap().digest = None;
        assert!(!is_due(&open, WEEK, at(9_999_999)), "it is not sealed");
    }

    #[test]
    fn e4_files_are_read_again_after_some_time() {
        let volume = sealed();
        assert_eq!(left(&volume, WEEK, at(600_000)), Some(Duration::from_secs(4800)));
        assert!(!is_due(&volume, WEEK, at(600_000)) && is_due(&volume, WEEK, at(604_800)));
        let volume = after(&volume, read(None, 0), 604_800);
        assert!(!is_due(&volume, WEEK, at(604_801)));
        assert_eq!(left(&volume, None, at(604_801)), None);
        assert_eq!(left(&volume, WEEK, at(-5)), WEEK, "a clock that was set back");
    }

    #[test]
    fn e4_what_differs_is_named() {
        let volume = sealed();
        let said = |outcome| {
            let after = after(&volume, outcome, 5);
            let status = after.status.unwrap();
            let intact = condition::get(&status.conditions, INTACT).unwrap().clone();
            (intact.status, intact.reason, intact.message, differs(&status).is_some())
        };
        let (status, reason, message, differs) = said(read(None, 0));
        assert_eq!((&*status, &*reason, differs), ("True", "Verified", false));
        assert_eq!(message, "its 7 files were read again, and are what was sealed");
        let (status, reason, message, differs) = said(read(None, 4));
        assert_eq!((&*status, &*reason, differs), ("False", "CopyDiffers", true));
        assert!(
            message.contains("sealed: f0 has other bytes, f1 has other bytes, and 2 more; no new claim"),
            "{message}"
        );
        let (status, reason, _, differs) = said(Outcome::Failed("f: input/output error".into()));
        assert_eq!((&*status, &*reason, differs), ("False", "VerifyFailed", false));
    }

    #[test]
    fn e4_a_copy_that_differs_is_made_anew() {
        let mut copy = sealed();
        copy.spec.copy_of = Some(crate::api::CopyOf { name: "data".into(), ..Default::default() });
        let status = after(&copy, read(None, 1), 5).status.unwrap();
        let said = &condition::get(&status.conditions, INTACT).unwrap().message;
        assert!(said.ends_with("it is made anew from volume data after its last use"), "{said}");
    }

    #[test]
    fn e4_a_failed_reading_takes_nothing_back() {
        let differing = after(&sealed(), read(None, 3), 5);
        let failed = after(&differing, Outcome::Failed("no".into()), 6).status.unwrap();
        let why = differs(&failed).unwrap();
        assert_eq!(why.reason, "CopyDiffers");
        assert_eq!(why.message, "3 of its names were not what was sealed, when all files could be read last");
        let mended = after(&differing, read(None, 0), 7).status.unwrap();
        assert_eq!(differs(&mended), None);
    }

    /// T2.
    #[test]
    fn e4_events_are_for_what_was_asked_and_what_changed() {
        let volume = sealed();
        let told = |before: &SharedPersistentVolume, outcome| {
            event(before, after(before, outcome, 5).status.as_ref().unwrap())
                .map(|(reason, _)| reason.to_owned())
        };
        assert_eq!(told(&volume, read(None, 0)), None, "all is well, and nobody asked");
        assert_eq!(told(&volume, read(Some("a"), 0)).as_deref(), Some("Verified"));
        assert_eq!(told(&volume, read(None, 1)).as_deref(), Some("CopyDiffers"));
        let differs = after(&volume, read(None, 1), 5);
        assert_eq!(told(&differs, read(None, 1)), None);
        assert_eq!(told(&differs, Outcome::Failed("no".into())).as_deref(), Some("VerifyFailed"));
    }
}
