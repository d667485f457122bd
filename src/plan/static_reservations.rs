//! Static reservations: reservations that the agent's configuration makes on its disks, and the API cannot change (R2).

use kube::ResourceExt;

use crate::api::{DiskReservation, DiskReservationSpec, Size, stable_hash};

/// The difference between the configuration of a disk and its static reservations.
#[derive(Debug, Default, PartialEq)]
pub struct Changes {
    /// Reservations to make or to resize.
    pub apply: Vec<DiskReservation>,
    /// Unused reservations to delete, which are no longer configured.
    pub delete: Vec<DiskReservation>,
    /// Names of used reservations that are no longer configured, and stay.
    pub still_used: Vec<String>,
}

/// Compares the roles and sizes configured for a NodeDisk with the reservations on it.
pub fn changes(disk: &str, configured: &[(String, Size)], found: &[DiskReservation]) -> Changes {
    let found = || found.iter().filter(|reservation| reservation.spec.is_static);
    let mut changes = Changes::default();
    for (role, size) in configured {
        let name = name(disk, role);
        // A reservation that is being deleted is made anew after its end.
        let is_there = found().any(|r| {
            r.name_any() == name
                && (r.spec.size.bytes() == size.bytes() || r.metadata.deletion_timestamp.is_some())
        });
        if !is_there {
            let spec = DiskReservationSpec {
                role: role.clone(),
                size: size.clone(),
                node_disk: Some(disk.to_owned()),
                is_static: true,
                ..Default::default()
            };
            changes.apply.push(DiskReservation::new(&name, spec));
        }
    }
    let names: Vec<String> = configured.iter().map(|(role, _)| name(disk, role)).collect();
    for old in found().filter(|r| !names.contains(&r.name_any()) && r.metadata.deletion_timestamp.is_none()) {
        match old.status.as_ref().is_some_and(|s| !s.volumes.is_empty() || !s.refinements.is_empty()) {
            true => changes.still_used.push(old.name_any()),
            false => changes.delete.push(old.clone()),
        }
    }
    changes.still_used.sort();
    changes
}

/// Why a static reservation cannot be made beside the reservation that has its name.
pub fn in_the_way(there: &DiskReservation) -> Option<String> {
    let (name, principal) = (there.name_any(), there.spec.principal.as_deref().unwrap_or("somebody"));
    (!there.spec.is_static).then(|| {
        format!(
            "DiskReservation {name}, which {principal} made, has its name: delete that one once it is empty, and the agent makes its own"
        )
    })
}

/// The name of a disk's static reservation: `<disk>.<role>` with `/` as `.`. Names allow lower-case letters, digits and
/// inner `-`. Other characters are replaced, and a hash of the role follows, so that no two roles share a name.
fn name(disk: &str, role: &str) -> String {
    const LONGEST: usize = 253;
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let is_plain = |part: &str| part.chars().all(plain) && !part.starts_with('-') && !part.ends_with('-');
    let name = format!("{disk}.{}", role.replace('/', "."));
    if role.split('/').all(is_plain) && name.len() <= LONGEST {
        return name;
    }
    let hash = format!("x{:016x}", stable_hash(role));
    let kept = LONGEST.saturating_sub(disk.len() + hash.len() + 2);
    let role: String =
        role.to_lowercase().chars().map(|c| if plain(c) { c } else { '-' }).take(kept).collect();
    match role.trim_matches('-') {
        "" => format!("{disk}.{hash}"),
        role => format!("{disk}.{role}-{hash}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::*;

    /// R2: the API server's words about a field that cannot be changed lead nowhere.
    #[test]
    fn r2_a_static_reservation_says_whose_its_name_is() {
        let mut there = reserved("n1.a.eng", "eng", 1, &[]);
        there.spec.principal = Some("joe".into());
        assert_eq!(
            in_the_way(&there).as_deref(),
            Some(
                "DiskReservation n1.a.eng, which joe made, has its name: delete that one once it is empty, and the agent makes \
                 its own"
            )
        );
        there.spec.is_static = true;
        assert_eq!(in_the_way(&there), None);
    }

    #[test]
    fn r2_a_name_has_the_disk_and_the_role() {
        assert_eq!(name("n1.fast", "eng/ml-2"), "n1.fast.eng.ml-2");
        let long = "a".repeat(63);
        let long = [long.as_str(); 4].join("/");
        let odd = ["eng.ml", "Eng/ml", "eng_ml", "eng-/ml", "_", long.as_str()];
        let names: std::collections::BTreeSet<String> =
            odd.iter().map(|role| name("n1.fast", role)).collect();
        assert_eq!(names.len(), odd.len(), "no two have one name: {names:?}");
        for name in &names {
            let part = |part: &str| {
                let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
                edge(part.chars().next()) && edge(part.chars().last())
            };
            assert!(name.len() <= 253 && name.split('.').all(part), "{name} is no DNS-1123 subdomain");
        }
        assert_eq!(name("n1.fast", "Eng/ml"), name("n1.fast", "Eng/ml"));
    }

    #[test]
    fn r2_only_unused_reservations_follow_the_configuration() {
        let found = |role: &str, held: &[(&str, u64)]| {
            let mut found = reserved(&format!("n1.a.{role}"), role, 5, held);
            found.spec.is_static = true;
            found
        };
        let mut dynamic = found("ops", &[]);
        dynamic.spec.is_static = false;
        let mut deleted = found("gone", &[]);
        deleted.metadata.deletion_timestamp = some_time();
        let all = [found("eng", &[]), found("used", &[("v", 1)]), found("idle", &[]), dynamic, deleted];
        let (five, six) = (gi(5), gi(6));
        let sized = |roles: &[&str], size: &Size| -> Vec<(String, Size)> {
            roles.iter().map(|role| ((*role).to_owned(), size.clone())).collect()
        };
        let same = changes("n1.a", &sized(&["eng", "used", "idle"], &five), &all);
        assert_eq!(same, Changes::default());
        let other = changes("n1.a", &sized(&["eng", "gone"], &six), &all);
        let specs: Vec<_> = other.apply.iter().map(|r| (r.name_any(), r.spec.size.clone())).collect();
        assert_eq!(specs, [("n1.a.eng".to_owned(), six)]);
        assert_eq!(other.delete, [found("idle", &[])]);
        assert_eq!(other.still_used, ["n1.a.used"]);
    }
}
