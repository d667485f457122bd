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

/// Why a reservation that is being deleted stays for now; `None`: no volume lives in it.
pub fn reservation_held(status: &DiskReservationStatus) -> Option<Verdict> {
    let volumes: Vec<&str> = status.volumes.iter().map(|v: &LedgerEntry| v.name.as_str()).collect();
    (!volumes.is_empty()).then(|| {
        Verdict::no(
            reason::HAS_VOLUMES,
            format!(
                "volume {} lives in it; delete what is not needed any more first",
                names(&volumes, volumes.len())
            ),
        )
    })
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

    #[test]
    fn r6_a_reservation_waits_for_its_volumes_and_names_them() {
        let held = reserved("r", "eng", 10, &[("v1", 1), ("v2", 1)]).status.unwrap();
        assert!(reservation_held(&held).unwrap().message.starts_with("volume v1 and v2 lives in it"));
        assert_eq!(reservation_held(&DiskReservationStatus::default()), None);
    }
}
