//! The seal of a volume: readers only, a manifest, and its digest (E1).
//!
//! The order is: no new writer → the last writer ends → the files are read → the digest. The record of the node decides: it
//! refuses writers before the status says so, and it has the digest before the status has it. Until then the request can be
//! taken back, so a file that forbids the seal is no dead end.

use std::time::Duration;

use jiff::Timestamp;
use kube::{Resource, ResourceExt};

use crate::api::condition::{self, BACKED, SEALED, Verdict, reason};
use crate::api::{
    AccessMode, PodRef, SharedPersistentVolume, SharedPersistentVolumeStatus, Size, UidRef, VolumeClaimSpec,
};

use super::{names, verify};

/// The seal in the volume's record on its disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDisk {
    /// Writers are admitted.
    #[default]
    Open,
    /// Writers are refused; with `true`, pods of before have the volume mounted for writing.
    Closed(bool),
    /// The manifest is written.
    Sealed,
}

/// The agent's next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Refuse new writers, and look for the present ones.
    Close,
    /// Read the files and write the manifest, or report it.
    Read,
    /// Admit writers again.
    Open,
}

/// The content of a sealed volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// The digest of the manifest.
    pub digest: String,
    /// Number of the files.
    pub files: u64,
    /// Bytes of the files.
    pub bytes: u64,
}

/// The outcome of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Writers are admitted.
    Opened,
    /// New writers are refused, and these pods have the volume mounted for writing.
    Closed(Vec<PodRef>),
    /// The files are being read.
    Reading,
    /// The files are being received from that volume (E2).
    Copying(UidRef),
    /// Nothing is to be reported; that is the pause before the next look.
    Resting(Duration),
    /// They could not be received from the volume of that UID; the text is the reason.
    CopyFailed(String, String),
    /// The volume is sealed.
    Sealed(Content),
    /// A file forbids the seal; the text says which.
    Refused(String),
    /// The step failed; the text is the reason.
    Failed(String),
}

/// The pause before the next look for writers.
const WHILE_WRITTEN: Duration = Duration::from_secs(2);
/// The pause before the next look at files that are being read. Their end causes a look, too.
const WHILE_READING: Duration = Duration::from_secs(30);
/// The time after which a copy that is being filled is reported. A copy is mostly there before, and one write says all.
const COPYING_AFTER: Duration = Duration::from_secs(10);
/// The pause before the next look at a copy for which others have to end first.
const WHILE_OTHERS_COPY: Duration = Duration::from_secs(2);
/// The pause after a failure. The files are read again from the first one.
const AFTER_FAILURE: Duration = Duration::from_secs(60);

/// True if the volume admits no writer: it is sealed, or is to be. The digest counts without `spec.sealed`, which may have
/// been taken back in the moment in which the node was done, or be lost with a restored etcd.
pub fn is_closed(volume: &SharedPersistentVolume) -> bool {
    volume.spec.sealed || volume.status.as_ref().is_some_and(|status| status.digest.is_some())
}

/// The agent's next step for a made volume that is not being deleted; `None`: nothing is to be done for its seal.
///
/// An unusable volume comes first: it is not read, and its writers decide nothing.
pub fn next(volume: &SharedPersistentVolume, on_disk: OnDisk) -> Option<Step> {
    let status = volume.status.as_ref()?;
    if !condition::is_true(&status.conditions, BACKED) {
        return None;
    }
    match on_disk {
        OnDisk::Sealed if is_reported(status) => None,
        OnDisk::Sealed => Some(Step::Read),
        OnDisk::Open if volume.spec.sealed => Some(Step::Close),
        // A condition without a request is left from before a crash.
        OnDisk::Open => condition::get(&status.conditions, SEALED).map(|_| Step::Open),
        OnDisk::Closed(_) if !volume.spec.sealed => Some(Step::Open),
        OnDisk::Closed(_) if is_refused(volume) => None,
        OnDisk::Closed(true) => Some(Step::Close),
        OnDisk::Closed(false) => Some(Step::Read),
    }
}

fn is_reported(status: &SharedPersistentVolumeStatus) -> bool {
    status.digest.is_some() && condition::is_true(&status.conditions, SEALED)
}

/// True if a file forbids the seal. Nobody can remove that file while writers are refused, so only a change of the spec
/// causes another attempt.
fn is_refused(volume: &SharedPersistentVolume) -> bool {
    let conditions = volume.status.as_ref().map_or(&[][..], |status| &status.conditions);
    condition::get(conditions, SEALED).is_some_and(|sealed| {
        sealed.reason == reason::SEAL_REFUSED && sealed.observed_generation == volume.meta().generation
    })
}

/// True if the agent has nothing to do for the seal until the volume changes, by the object alone.
pub fn is_settled(volume: &SharedPersistentVolume) -> bool {
    let status = volume.status.as_ref();
    let has_condition = status.is_some_and(|status| condition::get(&status.conditions, SEALED).is_some());
    match volume.spec.sealed {
        true => status.is_some_and(is_reported) || is_refused(volume),
        false => !has_condition || status.is_some_and(is_reported),
    }
}

/// The outcome of a copy that is being filled from `source` for so long; `None`: others have to end first.
pub fn copying(source: UidRef, since: Option<Duration>) -> Outcome {
    match since.map(|since| COPYING_AFTER.saturating_sub(since)) {
        Some(Duration::ZERO) => Outcome::Copying(source),
        Some(left) => Outcome::Resting(left),
        None => Outcome::Resting(WHILE_OTHERS_COPY),
    }
}

/// Adds the outcome of a step to the status. Returns the pause before the next look; `None`: only a change of the object
/// causes a look.
pub fn report(
    volume: &SharedPersistentVolume,
    status: &mut SharedPersistentVolumeStatus,
    outcome: Outcome,
    now: Timestamp,
) -> Option<Duration> {
    let back = "set spec.sealed back to false";
    let (verdict, pause) = match outcome {
        Outcome::Opened => {
            status.conditions.retain(|condition| condition.type_ != SEALED);
            return None;
        }
        Outcome::Closed(writers) if !writers.is_empty() => {
            let writers: Vec<String> = writers.iter().map(ToString::to_string).collect();
            let these = if writers.len() == 1 { "this pod has" } else { "these pods have" };
            let message = format!(
                "no new pod writes, and it is sealed when {these} ended: {}; or {back}",
                names(&writers, writers.len())
            );
            (Verdict::no(reason::HAS_WRITERS, message), Some(WHILE_WRITTEN))
        }
        Outcome::Closed(_) => (reading(), Some(Duration::ZERO)),
        Outcome::Reading => (reading(), Some(WHILE_READING)),
        Outcome::Resting(pause) => return Some(pause),
        Outcome::Copying(from) => {
            let message = format!("it is being filled from volume {}", from.name);
            (Verdict::no(reason::COPYING, message), Some(WHILE_READING))
        }
        Outcome::CopyFailed(from, why) => {
            status.node.get_or_insert_default().copy_failed_from = Some(from);
            (Verdict::no(reason::COPY_FAILED, why), Some(AFTER_FAILURE))
        }
        Outcome::Sealed(Content { digest, files, bytes }) => {
            let message = format!("it has readers only, and {files} files of {bytes} bytes: {digest}");
            (status.digest, status.files) = (Some(digest), Some(files));
            status.node.iter_mut().for_each(|node| node.copy_failed_from = None);
            status.bytes = Some(Size::from_bytes(bytes));
            (Verdict::yes(reason::SEALED, message), None)
        }
        Outcome::Refused(why) => {
            (Verdict::no(reason::SEAL_REFUSED, format!("{why}; for that, {back}")), None)
        }
        Outcome::Failed(why) => (Verdict::no(reason::SEAL_FAILED, why), Some(AFTER_FAILURE)),
    };
    condition::set(&mut status.conditions, SEALED, verdict, volume.meta().generation, now);
    pause
}

fn reading() -> Verdict {
    Verdict::no(
        reason::SEALING,
        "its node is reading the files; pods can read meanwhile, and nobody can write",
    )
}

/// Reason and message of the event to publish after a write of the status: the end of the sealing, once (T2).
pub fn event<'a>(
    before: &SharedPersistentVolume,
    now: &'a SharedPersistentVolumeStatus,
) -> Option<(&'a str, &'a str)> {
    let sealed = condition::get(&now.conditions, SEALED)?;
    let before = before.status.as_ref().and_then(|status| condition::get(&status.conditions, SEALED));
    let is_end = [reason::SEALED, reason::SEAL_REFUSED, reason::SEAL_FAILED, reason::COPY_FAILED]
        .contains(&&*sealed.reason);
    let is_new = before.is_none_or(|before| before.reason != sealed.reason);
    (is_end && is_new).then_some((&sealed.reason, &sealed.message))
}

/// The addition to the condition of a bound claim that could write to the volume before; `None`: nothing changed for it.
pub fn bound(volume: &SharedPersistentVolume, mode: AccessMode) -> Option<String> {
    let (name, word) = (volume.name_any(), closed(volume).filter(|_| mode == AccessMode::ReadWrite)?);
    // Files that differ did not stay as they were (E4).
    let stay = match volume.status.as_ref().and_then(verify::differs) {
        Some(_) => "",
        None => ", so its files stay as they are; to change them, copy them into another volume",
    };
    Some(format!(", {NO_WRITER}: volume {name} is {word}{stay}"))
}

/// The words of [`bound`].
const NO_WRITER: &str = "and no new pod writes";

/// True for the condition of a bound claim that could write to its volume before. For a caller who may not see the volume.
pub fn says_closed(message: &str) -> bool {
    message.contains(NO_WRITER)
}

/// The event of a pod that could write through its claim before the seal and did not ask to read; `None`: it gets what it asks for.
pub fn on_pod(volume: &SharedPersistentVolume, claim_uid: &str, read_only: bool) -> Option<String> {
    let mut claims = volume.status.iter().flat_map(|status| &status.claims);
    let writes = claims.any(|claim| claim.uid == claim_uid && claim.mode == AccessMode::ReadWrite);
    let word = closed(volume).filter(|_| writes && !read_only)?;
    Some(format!(
        "volume {} is {word}, so this pod has it for reading alone: a write fails with \"Read-only file system\"; for writing, claim \
         another volume",
        volume.name_any()
    ))
}

/// The event of a pod that came while the volume was being sealed, after the request was taken back: the kernel lets nobody make
/// its mount writable.
pub fn reads_on(volume: &str) -> String {
    format!(
        "volume {volume} is not being sealed any more, and this pod, which came meanwhile, still has it for reading alone: a write \
         fails with \"Read-only file system\" until the pod is made anew"
    )
}

/// The word for a volume that admits no writer; `None`: it admits them.
pub fn closed(volume: &SharedPersistentVolume) -> Option<&'static str> {
    let is_sealed = volume.status.as_ref().is_some_and(|s| s.digest.is_some());
    is_closed(volume).then_some(if is_sealed { "sealed" } else { "being sealed" })
}

/// Refuses a claim that is to write to a volume without writers, or that demands another content, with the next step.
pub fn claimable(volume: &SharedPersistentVolume, claim: &VolumeClaimSpec) -> Result<(), Verdict> {
    has_digest(volume, claim.digest.as_deref())?;
    let Some(word) = closed(volume).filter(|_| claim.mode == AccessMode::ReadWrite) else { return Ok(()) };
    let name = volume.name_any();
    let why =
        format!("volume {name} is {word}, so nobody writes to it any more: claim it with mode ReadOnly");
    Err(Verdict::no(reason::VOLUME_SEALED, why))
}

/// The words about a digest that no volume changes any more.
const FOR_GOOD: &str = ", for good, and not ";

/// True if the refusal of a claim names the digest of its volume.
pub fn says_digest(message: &str) -> bool {
    message.contains(FOR_GOOD)
}

/// Refuses a claim that demands another content (E4).
fn has_digest(volume: &SharedPersistentVolume, wanted: Option<&str>) -> Result<(), Verdict> {
    let (name, has) = (volume.name_any(), volume.status.as_ref().and_then(|status| status.digest.as_deref()));
    let Some(wanted) = wanted.filter(|wanted| has != Some(wanted)) else { return Ok(()) };
    let why = match has {
        None => format!("volume {name} has no digest before it is sealed, and the claim waits for {wanted}"),
        Some(has) => format!(
            "volume {name} has the digest {has}{FOR_GOOD}{wanted}: claim that digest, or another volume"
        ),
    };
    Err(Verdict::no(reason::DIGEST_DIFFERS, why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ClaimBinding;
    use crate::plan::testing::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn sealing(sealed: bool) -> SharedPersistentVolume {
        let mut volume = ready_volume("v", "eng", true);
        volume.spec.sealed = sealed;
        volume
    }

    fn content() -> Content {
        Content { digest: "blake3:00".into(), files: 2, bytes: 5 }
    }

    fn after(volume: &SharedPersistentVolume, outcome: Outcome) -> SharedPersistentVolume {
        let mut volume = volume.clone();
        let mut status = volume.status.clone().unwrap();
        report(&volume, &mut status, outcome, NOW);
        volume.status = Some(status);
        volume
    }

    #[test]
    fn e1_each_state_of_the_record_has_its_step() {
        use OnDisk::{Closed, Open, Sealed};
        let (asked, plain) = (sealing(true), sealing(false));
        let refused = after(&asked, Outcome::Refused("d/s is a socket".into()));
        let mut asked_again = refused.clone();
        asked_again.metadata.generation = Some(3);
        let done = after(&asked, Outcome::Sealed(content()));
        let mut lost = done.clone();
        lost.spec.sealed = false;
        let mut unbacked = asked.clone();
        unbacked.status.as_mut().unwrap().conditions.clear();
        for (volume, on_disk, step, settled) in [
            (&plain, Open, None, true),
            (&plain, Closed(false), Some(Step::Open), true),
            (&plain, Closed(true), Some(Step::Open), true),
            (&plain, Sealed, Some(Step::Read), true),
            (&asked, Open, Some(Step::Close), false),
            (&asked, Closed(true), Some(Step::Close), false),
            (&asked, Closed(false), Some(Step::Read), false),
            (&asked, Sealed, Some(Step::Read), false),
            (&refused, Closed(false), None, true),
            (&asked_again, Closed(false), Some(Step::Read), false),
            (&done, Sealed, None, true),
            (&lost, Sealed, None, true),
            (&unbacked, Open, None, false),
        ] {
            assert_eq!(next(volume, on_disk), step, "{on_disk:?} {:?}", volume.status);
            assert_eq!(is_settled(volume), settled, "{on_disk:?} {:?}", volume.status);
        }
        let waits = after(&asked, Outcome::Closed(vec![pod("ns", "p")]));
        let mut back = waits.clone();
        back.spec.sealed = false;
        assert_eq!(
            (next(&back, Open), is_settled(&back)),
            (Some(Step::Open), false),
            "the condition is left"
        );
        let opened = after(&back, Outcome::Opened);
        assert_eq!((next(&opened, Open), is_settled(&opened)), (None, true));
    }

    #[test]
    fn e1_the_condition_names_the_writers_and_the_next_step() {
        let volume = sealing(true);
        let mut status = volume.status.clone().unwrap();
        let mut said = |outcome| {
            let pause = report(&volume, &mut status, outcome, NOW);
            let sealed = condition::get(&status.conditions, SEALED).unwrap();
            (sealed.status.clone(), sealed.reason.clone(), sealed.message.clone(), pause)
        };
        let (status, reason, message, pause) = said(Outcome::Closed(vec![pod("ns", "a"), pod("ns", "b")]));
        assert_eq!((&*status, &*reason, pause), ("False", "HasWriters", Some(WHILE_WRITTEN)));
        assert_eq!(
            message,
            "no new pod writes, and it is sealed when these pods have ended: ns/a and ns/b; or set spec.sealed back to false"
        );
        assert_eq!(said(Outcome::Closed(vec![])).3, Some(Duration::ZERO), "its files are read at once");
        let (_, reason, message, pause) = said(Outcome::Refused("d/s is a socket: remove it".into()));
        assert_eq!((&*reason, pause), ("SealRefused", None));
        assert_eq!(message, "d/s is a socket: remove it; for that, set spec.sealed back to false");
        let (status, reason, message, pause) = said(Outcome::Sealed(content()));
        assert_eq!((&*status, &*reason, pause), ("True", "Sealed", None));
        assert_eq!(message, "it has readers only, and 2 files of 5 bytes: blake3:00");
    }

    /// T2: most copies are there before anybody is told about them.
    #[test]
    fn e2_a_copy_that_takes_long_is_reported() {
        let source = UidRef { name: "o".into(), uid: "o".into() };
        let after = |since: Option<u64>| copying(source.clone(), since.map(Duration::from_secs));
        assert_eq!(after(Some(3)), Outcome::Resting(Duration::from_secs(7)));
        assert_eq!(after(Some(10)), Outcome::Copying(source.clone()));
        assert_eq!(after(None), Outcome::Resting(WHILE_OTHERS_COPY));
    }

    /// T2.
    #[test]
    fn e1_the_end_of_the_sealing_is_one_event() {
        let volume = sealing(true);
        let reason_of = |before: &SharedPersistentVolume, outcome| {
            let after = after(before, outcome);
            event(before, after.status.as_ref().unwrap()).map(|(reason, _)| reason.to_owned())
        };
        assert_eq!(reason_of(&volume, Outcome::Reading), None);
        let sealed = Outcome::Sealed(content());
        assert_eq!(reason_of(&after(&volume, Outcome::Reading), sealed.clone()), Some("Sealed".into()));
        assert_eq!(reason_of(&after(&volume, sealed.clone()), sealed), None);
        let failed = Outcome::Failed("no".into());
        assert_eq!(reason_of(&after(&volume, Outcome::Reading), failed.clone()), Some("SealFailed".into()));
        assert_eq!(reason_of(&after(&volume, failed.clone()), failed), None);
    }

    #[test]
    fn e1_a_pod_that_came_meanwhile_is_told_that_it_reads_on() {
        let said = reads_on("v");
        assert!(said.starts_with("volume v is not being sealed any more, and this pod"), "{said}");
        assert!(said.ends_with("until the pod is made anew"), "{said}");
    }

    #[test]
    fn e1_a_pod_is_told_that_it_cannot_write_any_more() {
        let mut volume = sealing(false);
        let reader = ClaimBinding { mode: AccessMode::ReadOnly, ..bound_by("ns", "r", "reader") };
        volume.status.as_mut().unwrap().claims = vec![bound_by("ns", "w", "writer"), reader];
        assert_eq!(on_pod(&volume, "writer", false), None);
        volume.spec.sealed = true;
        let said = on_pod(&volume, "writer", false).unwrap();
        assert!(said.starts_with("volume v is being sealed, so this pod has it for reading alone"), "{said}");
        assert_eq!((on_pod(&volume, "writer", true), on_pod(&volume, "reader", false)), (None, None));
    }

    /// C4.
    #[test]
    fn e1_a_sealed_volume_is_claimed_for_reading_alone() {
        let done = after(&sealing(true), Outcome::Sealed(content()));
        let with = |mode| VolumeClaimSpec { mode, ..Default::default() };
        for (volume, word) in [(sealing(true), "being sealed"), (done, "sealed")] {
            let why = claimable(&volume, &with(AccessMode::ReadWrite)).unwrap_err();
            let expected =
                format!("volume v is {word}, so nobody writes to it any more: claim it with mode ReadOnly");
            assert_eq!((why.reason, why.message), ("VolumeSealed", expected));
            assert_eq!(claimable(&volume, &with(AccessMode::ReadOnly)), Ok(()));
        }
        assert_eq!(claimable(&sealing(false), &with(AccessMode::ReadWrite)), Ok(()));
    }

    /// C4.
    #[test]
    fn e4_a_claim_binds_to_the_digest_that_it_demands() {
        let done = after(&sealing(true), Outcome::Sealed(content()));
        let wants = |digest: &str| VolumeClaimSpec {
            mode: AccessMode::ReadOnly,
            digest: Some(digest.to_owned()),
            ..Default::default()
        };
        assert_eq!(claimable(&done, &wants("blake3:00")), Ok(()));
        let other = claimable(&done, &wants("blake3:11")).unwrap_err();
        assert_eq!(other.reason, "DigestDiffers");
        assert_eq!(
            other.message,
            "volume v has the digest blake3:00, for good, and not blake3:11: claim that digest, or another volume"
        );
        let early = claimable(&sealing(false), &wants("blake3:00")).unwrap_err();
        assert_eq!(
            early.message,
            "volume v has no digest before it is sealed, and the claim waits for blake3:00"
        );
    }
}
