//! The deletion of a reservation waits for its volumes and refinements (R4, R6).

use crate::api::condition::{Verdict, reason};
use crate::api::{DiskReservationStatus, LedgerEntry};

use super::names;

/// Why a reservation that is being deleted stays for now; `None`: the reservation has no volumes and no refinements.
pub fn reservation_held(status: &DiskReservationStatus) -> Option<Verdict> {
    let held = |entries: &[LedgerEntry], reason, what: &str| {
        let name = |entry: &LedgerEntry| match &entry.kept {
            Some(kept) => format!("{} (destroyed, kept until {})", entry.name, kept.until.0),
            None => entry.name.clone(),
        };
        let listed: Vec<String> = entries.iter().map(name).collect();
        let listed = names(&listed, listed.len());
        let (plural, live) = if entries.len() == 1 { ("", "lives") } else { ("s", "live") };
        let end = match entries.iter().all(|entry| entry.kept.is_some()) {
            true => "the reservation goes when that time is over, and the data with it",
            false => "delete what is not needed any more first",
        };
        let said = format!("{what}{plural} {listed} {live} in it; {end}");
        (!entries.is_empty()).then(|| Verdict::no(reason, said))
    };
    held(&status.volumes, reason::HAS_VOLUMES, "volume")
        .or_else(|| held(&status.refinements, reason::HAS_REFINEMENTS, "reservation"))
}

/// Why the object of a reservation that is released stays: a finalizer of others (F3).
pub fn left_to(finalizer: &str) -> Verdict {
    let why = format!("its bytes are released, and its object goes when finalizer {finalizer} is removed");
    Verdict::no(reason::RELEASING, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::*;

    /// S3.
    #[test]
    fn r6_a_reservation_names_the_volumes_in_it() {
        let held = reserved("r", "eng", 10, &[("v1", 1), ("v2", 1)]).status.unwrap();
        assert!(reservation_held(&held).unwrap().message.starts_with("volumes v1 and v2 live in it"));
        let held = reserved("r", "eng", 10, &[("v1", 1)]).status.unwrap();
        assert!(reservation_held(&held).unwrap().message.starts_with("volume v1 lives in it"));
        let kept = with_kept(&[("v1", 0, 60)]).status.unwrap();
        let said = reservation_held(&kept).unwrap().message;
        assert!(
            said.ends_with("until 1970-01-01T00:01:00Z) lives in it; the reservation goes when that time is over, and the data with it"),
            "{said}"
        );
        assert_eq!(reservation_held(&DiskReservationStatus::default()), None);
    }

    #[test]
    fn r4_a_reservation_names_its_refinements() {
        let mut held = reserved("r", "eng", 10, &[("ml", 1)]).status.unwrap();
        held.refinements = std::mem::take(&mut held.volumes);
        let said = reservation_held(&held).unwrap();
        assert_eq!(said.reason, "HasRefinements");
        assert_eq!(said.message, "reservation ml lives in it; delete what is not needed any more first");
    }
}
