//! What the deletion of a claim and of a reservation waits for (C6, R6).

use crate::api::condition::{Verdict, reason};
use crate::api::{DiskReservationStatus, LedgerEntry, PodRef};

use super::names;

/// Why a claim that is being deleted stays for now; `None`: nothing uses it.
pub fn claim_held(users: &[PodRef]) -> Option<Verdict> {
    (!users.is_empty()).then(|| {
        Verdict::no(
            reason::IN_USE,
            format!("the claim goes when pod {} has ended; the data stays", names(users, users.len())),
        )
    })
}

/// Why a reservation that is being deleted stays for now; `None`: nothing lives in it, nothing was carved out of it.
pub fn reservation_held(status: &DiskReservationStatus) -> Option<Verdict> {
    let held = |entries: &[LedgerEntry], reason, kind: &str| {
        let listed: Vec<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
        let (plural, live) = if listed.len() == 1 { ("", "lives") } else { ("s", "live") };
        let listed = names(&listed, listed.len());
        let message =
            format!("{kind}{plural} {listed} {live} in it; delete what is not needed any more first");
        (!entries.is_empty()).then(|| Verdict::no(reason, message))
    };
    held(&status.volumes, reason::HAS_VOLUMES, "volume")
        .or_else(|| held(&status.refinements, reason::HAS_REFINEMENTS, "reservation"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::*;

    #[test]
    fn c6_a_claim_waits_for_its_pods_and_names_them() {
        assert_eq!(claim_held(&[]), None);
        let pods: Vec<PodRef> = (0..5).map(|i| pod("ns", &format!("p{i}"))).collect();
        let said = claim_held(&pods).unwrap().message;
        assert_eq!(said, "the claim goes when pod ns/p0, ns/p1, ns/p2 and 2 more has ended; the data stays");
    }

    /// S3.
    #[test]
    fn r6_a_reservation_waits_for_its_volumes_and_names_them() {
        let held = reserved("r", "eng", 10, &[("v1", 1), ("v2", 1)]).status.unwrap();
        assert!(reservation_held(&held).unwrap().message.starts_with("volumes v1 and v2 live in it"));
        let held = reserved("r", "eng", 10, &[("v1", 1)]).status.unwrap();
        assert!(reservation_held(&held).unwrap().message.starts_with("volume v1 lives in it"));
        assert_eq!(reservation_held(&DiskReservationStatus::default()), None);
    }

    #[test]
    fn r4_a_reservation_waits_for_what_was_carved_out_of_it() {
        let mut held = reserved("r", "eng", 10, &[("ml", 1)]).status.unwrap();
        held.refinements = std::mem::take(&mut held.volumes);
        let said = reservation_held(&held).unwrap();
        assert_eq!(said.reason, "HasRefinements");
        assert_eq!(said.message, "reservation ml lives in it; delete what is not needed any more first");
    }
}
