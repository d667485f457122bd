//! The condition `NearlyFull` of a volume (M6). The distance between both limits, and a message without numbers, keep
//! the writes few.

use jiff::Timestamp;
use kube::Resource;

use crate::api::condition::{self, NEARLY_FULL, Verdict, reason};
use crate::api::{DiskKind, SharedPersistentVolume, SharedPersistentVolumeStatus};

use super::seal;

/// The condition is set at this share of the bytes or of the inodes, in percent.
const FULL: u128 = 90;
/// The condition is removed at this share of both, in percent.
const FREE: u128 = 80;

/// Used and available units of a file system. Both are zero if the file system does not count the units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Units {
    /// Units that are taken.
    pub used: u64,
    /// Units that pods can still take.
    pub available: u64,
}

impl Units {
    fn percent(self) -> u128 {
        let used = u128::from(self.used);
        (used * 100).checked_div(used + u128::from(self.available)).unwrap_or(0)
    }
}

/// The measurement of a volume's file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// Bytes.
    pub bytes: Units,
    /// Inodes.
    pub inodes: Units,
}

/// A side of the limits. Between the limits a volume stays on its side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Nearly all bytes are taken.
    Bytes,
    /// Nearly all inodes are taken, and not the bytes.
    Inodes,
    /// Enough of both is free.
    Free,
}

/// The side of the limits; `None` between them.
pub fn level(measured: Measured) -> Option<Level> {
    let (bytes, inodes) = (measured.bytes.percent(), measured.inodes.percent());
    match () {
        () if bytes >= FULL => Some(Level::Bytes),
        () if inodes >= FULL => Some(Level::Inodes),
        () if bytes <= FREE && inodes <= FREE => Some(Level::Free),
        () => None,
    }
}

/// Sets or removes the condition. Returns its message if the volume was not nearly full before.
pub fn update(
    volume: &SharedPersistentVolume,
    status: &mut SharedPersistentVolumeStatus,
    measured: Measured,
    now: Timestamp,
) -> Option<String> {
    let before = condition::get(&status.conditions, NEARLY_FULL).map(|present| present.message.clone());
    let is_before = |what: &str| before.as_ref().is_some_and(|before| *before == message(volume, what));
    // A volume stays nearly full of what its condition names until enough of that is free.
    let both = [("bytes", measured.bytes), ("inodes", measured.inodes)];
    let limit = |what: &str| if is_before(what) { FREE + 1 } else { FULL };
    // Nobody writes to a sealed volume, however full it is (E1).
    let full = both.iter().filter(|(what, units)| !seal::is_closed(volume) && units.percent() >= limit(what));
    let Some((what, _)) = full.max_by_key(|(what, _)| is_before(what)) else {
        status.conditions.retain(|condition| condition.type_ != NEARLY_FULL);
        return None;
    };
    let message = message(volume, what);
    let verdict = Verdict::yes(reason::NEARLY_FULL, message.clone());
    condition::set(&mut status.conditions, NEARLY_FULL, verdict, volume.meta().generation, now);
    before.is_none().then_some(message)
}

/// True if the volume can become larger. Its directory or its whole disk limits any other one.
pub fn can_grow(volume: &SharedPersistentVolume) -> bool {
    let kind = volume.status.as_ref().and_then(|status| status.disk_kind).unwrap_or_default();
    volume.spec.adopt.is_none() && kind == DiskKind::Path
}

fn message(volume: &SharedPersistentVolume, what: &str) -> String {
    let remedy = if can_grow(volume) { ", or make the volume larger" } else { "" };
    format!(
        "{FULL}% of its {what} were taken, and it has not fallen to {FREE}% since; writes fail when all are taken: remove files{remedy}"
    )
}

/// The message of the event of a pod that uses the volume.
pub fn on_pod(volume: &str, message: &str) -> String {
    format!("volume {volume} is nearly full: {message}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Adopt;
    use crate::plan::testing::*;

    fn measured(bytes: u64, inodes: u64) -> Measured {
        let units = |used| Units { used, available: 100 - used };
        Measured { bytes: units(bytes), inodes: units(inodes) }
    }

    #[test]
    fn m6_a_level_is_left_at_the_other_limit() {
        for (bytes, inodes, expected) in [
            (0, 0, Some(Level::Free)),
            (80, 80, Some(Level::Free)),
            (81, 80, None),
            (80, 89, None),
            (90, 0, Some(Level::Bytes)),
            (89, 90, Some(Level::Inodes)),
            (100, 100, Some(Level::Bytes)),
        ] {
            assert_eq!(level(measured(bytes, inodes)), expected, "{bytes} {inodes}");
        }
        let without_inodes = Measured { inodes: Units::default(), ..measured(100, 0) };
        assert_eq!(level(without_inodes), Some(Level::Bytes));
        let all = Units { used: u64::MAX, available: u64::MAX };
        assert_eq!(level(Measured { bytes: all, inodes: all }), Some(Level::Free));
    }

    /// M6, T2.
    #[test]
    fn m6_the_condition_changes_at_a_limit_only() {
        let v = ready_volume("v", "eng", true);
        let mut status = v.status.clone().unwrap();
        let mut at = |bytes, inodes| {
            let new = update(&v, &mut status, measured(bytes, inodes), Timestamp::UNIX_EPOCH);
            let present = condition::get(&status.conditions, NEARLY_FULL).map(|c| c.message.clone());
            (new.is_some(), present.map(|message| message.contains("bytes")))
        };
        assert_eq!(at(89, 89), (false, None));
        assert_eq!(at(90, 50), (true, Some(true)));
        assert_eq!(at(99, 95), (false, Some(true)), "no news");
        assert_eq!(at(81, 99), (false, Some(true)), "still too many bytes");
        assert_eq!(at(80, 90), (false, Some(false)), "now the inodes");
        assert_eq!(at(99, 81), (false, Some(false)));
        assert_eq!(at(89, 80), (false, None));
        assert_eq!(at(80, 80), (false, None));
    }

    #[test]
    fn e1_a_sealed_volume_may_be_full() {
        let mut v = ready_volume("v", "eng", true);
        let mut status = v.status.clone().unwrap();
        assert!(update(&v, &mut status, measured(99, 0), Timestamp::UNIX_EPOCH).is_some());
        v.spec.sealed = true;
        assert_eq!(update(&v, &mut status, measured(99, 0), Timestamp::UNIX_EPOCH), None);
        assert_eq!(condition::get(&status.conditions, NEARLY_FULL), None);
    }

    #[test]
    fn m6_the_remedy_is_one_that_the_volume_has() {
        let mut v = ready_volume("v", "eng", true);
        assert!(message(&v, "bytes").ends_with("remove files, or make the volume larger"));
        v.status.as_mut().unwrap().disk_kind = Some(DiskKind::Mount);
        assert!(message(&v, "bytes").ends_with("remove files"));
        v.status.as_mut().unwrap().disk_kind = None;
        v.spec.adopt = Some(Adopt { path: "/srv/a".into() });
        assert!(!can_grow(&v));
    }
}
