//! The freezer of cgroup v1, in which runc leaves a process of a busy machine now and then ("unable to freeze"). Nobody can
//! kill a frozen process, and so nobody can remove its node.

use std::fs;
use std::path::Path;

/// The directory of the cgroups of Docker's containers. Absent with cgroup v2, where a frozen process can be killed.
const CONTAINERS: &str = "/sys/fs/cgroup/freezer/docker";

/// Thaws all processes of these containers, named by prefixes of their IDs.
pub(super) fn thaw(containers: &[String]) {
    for cgroup in fs::read_dir(CONTAINERS).into_iter().flatten().flatten() {
        let id = cgroup.file_name();
        if containers.iter().any(|container| id.to_string_lossy().starts_with(container.as_str())) {
            thaw_below(&cgroup.path());
        }
    }
}

/// A cgroup may end meanwhile, so errors are left to the removal of the node.
fn thaw_below(cgroup: &Path) {
    let _ = fs::write(cgroup.join("freezer.state"), "THAWED");
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            thaw_below(&entry.path());
        }
    }
}
