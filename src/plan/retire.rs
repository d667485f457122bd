//! RETIRE: the destruction that waits for the users, and can be taken back until then (X5).

use crate::api::condition::{self, RETIRING, Verdict, reason};
use crate::api::{SharedPersistentVolume, SharedPersistentVolumeStatus};

use super::names;

/// What is next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Nobody asked for it, ever.
    Nothing,
    /// Say that, in the condition `Retiring`.
    Say(Verdict),
    /// Say that, and delete the object if it is still the one on which nobody was seen.
    Delete(Verdict),
}

/// The next step; `status` has those who use the volume as they were counted last.
pub fn next(volume: &SharedPersistentVolume, status: &SharedPersistentVolumeStatus) -> Step {
    if !volume.spec.retire {
        return match condition::get(&status.conditions, RETIRING) {
            None => Step::Nothing,
            Some(_) => Step::Say(Verdict::no(
                reason::RETIRE_WITHDRAWN,
                "it is not to be retired any more: it is on offer as before",
            )),
        };
    }
    let waits = |what: String| {
        let said = format!(
            "no new claim binds to it, and it is destroyed when {what}; set spec.retire to false to keep it"
        );
        Step::Say(Verdict::yes(reason::RETIRING, said))
    };
    if !status.claims.is_empty() {
        return waits(format!("claim {} is deleted", names(&status.claims, status.claims.len())));
    }
    if status.user_count > 0 {
        return waits(format!("pod {} has ended", names(&status.users, status.user_count as usize)));
    }
    Step::Delete(Verdict::yes(reason::RETIRING, "nobody uses it any more: it is being destroyed"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::*;

    #[test]
    fn x5_it_waits_for_claims_then_pods_and_can_be_taken_back() {
        let mut v = ready_volume("v", "eng", true);
        let ask = |v: &SharedPersistentVolume| next(v, &v.status.clone().unwrap());
        let said = |step| match step {
            Step::Say(verdict) => verdict,
            other => panic!("{other:?}"),
        };
        assert_eq!(ask(&v), Step::Nothing);
        v.spec.retire = true;
        assert!(matches!(ask(&v), Step::Delete(_)));
        v.status.as_mut().unwrap().claims = vec![bound_by("a", "b", "u")];
        let waits = said(ask(&v));
        assert!(waits.ok && waits.message.contains("destroyed when claim a/b is deleted"), "{waits:?}");
        let status = v.status.as_mut().unwrap();
        (status.claims, status.users, status.user_count) = (vec![], vec![pod("a", "p")], 1);
        assert!(said(ask(&v)).message.contains("destroyed when pod a/p has ended"));
        let conditions = &mut v.status.as_mut().unwrap().conditions;
        condition::set(conditions, RETIRING, waits, None, jiff::Timestamp::UNIX_EPOCH);
        v.spec.retire = false;
        let withdrawn = said(ask(&v));
        assert_eq!((withdrawn.ok, withdrawn.reason), (false, "RetireWithdrawn"));
    }
}
