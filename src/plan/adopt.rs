//! The disks on which a volume may adopt an existing directory with data (V8).

use std::path::Path;

use kube::ResourceExt;

use crate::api::condition::{Verdict, reason};
use crate::api::{DiskReservation, NodeDisk, NodeDiskSpec, SharedPersistentVolume};

/// Refuses a reservation on whose disk the volume may not adopt its directory, with the next step. The agent decides
/// again, by its own configuration.
pub fn suits(
    volume: &SharedPersistentVolume,
    reservation: &DiskReservation,
    disks: &[&NodeDisk],
) -> Result<(), Verdict> {
    let Some(adopt) = &volume.spec.adopt else { return Ok(()) };
    let path = Path::new(&adopt.path);
    let on = reservation.status.as_ref().and_then(|s| s.node_disk.as_deref()).unwrap_or("?");
    let disk = disks.iter().find(|disk| disk.name_any() == on);
    let refuse = |why: String| {
        let name = reservation.name_any();
        Err(Verdict::no(reason::WRONG_DISK, format!("DiskReservation {name} is on NodeDisk {on}, {why}")))
    };
    match disk.map(|disk| &disk.spec) {
        None => refuse("which is not there".to_owned()),
        Some(spec) if allows(spec, path) => Ok(()),
        Some(spec) if has_root(spec, path) => refuse(
            "which allows no volume whose size is not enforced, and that of an adopted directory is not: set \
             allowUnenforced on the agent's disk, or reserve another disk"
                .to_owned(),
        ),
        Some(_) => refuse(format!(
            "from which {} cannot be adopted: add a directory above it to adoptRoots of the agent's disk, with allowUnenforced, \
             or reserve another disk",
            adopt.path
        )),
    }
}

/// True if volumes of the disk may adopt the directory.
pub fn allows(disk: &NodeDiskSpec, path: &Path) -> bool {
    has_root(disk, path) && disk.allow_unenforced
}

fn has_root(disk: &NodeDiskSpec, path: &Path) -> bool {
    disk.adopt_roots.iter().any(|root| path != Path::new(root) && path.starts_with(root))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Adopt;
    use crate::plan::testing::*;

    #[test]
    fn v8_a_directory_lies_beneath_a_root_of_its_own_disk() {
        let reservation = reserved("r", "eng", 10, &[]);
        let with = |name: &str, roots: &[&str], allow_unenforced| {
            let mut disk = disk(name, "n1", 10, &[]);
            disk.spec.adopt_roots = roots.iter().map(|root| (*root).to_owned()).collect();
            disk.spec.allow_unenforced = allow_unenforced;
            disk
        };
        let other = with("n1.b", &["/srv"], true);
        for (path, disk, refused) in [
            ("/srv/data", with("n1.a", &["/srv"], true), None),
            ("/srv/data/a", with("n1.a", &["/mnt", "/srv/data/"], true), None),
            ("/srv", with("n1.a", &["/srv"], true), Some("cannot be adopted")),
            ("/srvdata", with("n1.a", &["/srv"], true), Some("cannot be adopted")),
            ("/srv/data", with("n1.a", &["/srv/data/a"], true), Some("to adoptRoots of")),
            ("/srv/data", with("n1.a", &[], true), Some("to adoptRoots of")),
            ("/srv/data", with("n1.a", &["/srv"], false), Some("set allowUnenforced")),
            ("/srv/data", with("n1.c", &["/srv"], true), Some("NodeDisk n1.a, which is not there")),
        ] {
            let mut volume = volume("v", "eng", 1);
            volume.spec.adopt = Some(Adopt { path: path.into() });
            match (suits(&volume, &reservation, &[&other, &disk]), refused) {
                (Ok(()), None) => {}
                (Err(why), Some(part)) if why.reason == reason::WRONG_DISK && why.message.contains(part) => {}
                (found, _) => panic!("{path} on {:?}: {found:?}", disk.spec),
            }
        }
        assert_eq!(suits(&volume("v", "eng", 1), &reservation, &[]), Ok(()), "it adopts nothing");
    }
}
