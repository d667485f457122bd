//! Static reservations: what the agent's configuration reserves on its disks (R2).

use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};

use crate::api::{AGENT_MANAGER, DiskReservation, DiskReservationSpec, stable_hash};
use crate::cluster;
use crate::telemetry;

use super::config::StaticReservation;

/// The name of a disk's static reservation: `<disk>.<role>` with `/` as `.`. A role that is not all lower-case letters,
/// digits and inner `-` is made so, with a hash of it behind, so that no two roles have one name.
fn name(disk: &str, role: &str) -> String {
    const LONGEST: usize = 253;
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let whole = |part: &str| part.chars().all(plain) && !part.starts_with('-') && !part.ends_with('-');
    let name = format!("{disk}.{}", role.replace('/', "."));
    if role.split('/').all(whole) && name.len() <= LONGEST {
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

/// Brings the static reservations of a disk to what is configured; writes nothing when nothing changed. One that is
/// configured no more goes if nothing lives in it; the others are returned.
pub(super) async fn keep(
    client: &Client,
    disk: &str,
    configured: &[StaticReservation],
) -> Result<Vec<String>, cluster::Error> {
    let api: Api<DiskReservation> = Api::all(client.clone());
    let on_it = ListParams::default().fields(&format!("spec.nodeDisk={disk}"));
    let mut there = cluster::list(&api, &on_it).await?;
    there.retain(|reservation| reservation.spec.is_static);
    for wanted in configured {
        let name = name(disk, &wanted.role);
        let same = |r: &&DiskReservation| {
            r.name_any() == name
                && (r.spec.size.bytes() == wanted.size.bytes() || r.metadata.deletion_timestamp.is_some())
        };
        if there.iter().any(|r| same(&r)) {
            continue;
        }
        let spec = DiskReservationSpec {
            role: wanted.role.clone(),
            size: wanted.size.clone(),
            node_disk: Some(disk.to_owned()),
            is_static: true,
            ..Default::default()
        };
        // The disk is served all the same.
        match cluster::apply(&api, &DiskReservation::new(&name, spec), AGENT_MANAGER).await {
            Ok(_) => {
                tracing::info!(reservation = name, size = wanted.size.as_str(), "reserved as configured")
            }
            Err(error) => {
                tracing::error!(reservation = name, error = telemetry::chain(&error), "failed to reserve");
            }
        }
    }
    let is_configured = |r: &DiskReservation| configured.iter().any(|c| name(disk, &c.role) == r.name_any());
    let mut kept = Vec::new();
    for old in there.iter().filter(|r| !is_configured(r) && r.metadata.deletion_timestamp.is_none()) {
        match old.status.as_ref().filter(|s| !s.volumes.is_empty() || !s.refinements.is_empty()) {
            Some(_) => kept.push(old.name_any()),
            None => {
                tracing::info!(reservation = old.name_any(), "not configured any more, and empty");
                // The disk is served all the same.
                if let Err(error) = cluster::delete(&api, &old.name_any(), old.uid()).await {
                    tracing::error!(
                        reservation = old.name_any(),
                        error = telemetry::chain(&error),
                        "failed to unreserve"
                    );
                }
            }
        }
    }
    kept.sort();
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r2_a_name_is_the_disks_and_the_roles() {
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
}
