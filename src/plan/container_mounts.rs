//! The mounts of a container that show a volume: the container runtime is asked to keep them read-only (M3).

use std::path::{Component, Path};

use crate::api::PV_PREFIX;

/// True for the source of a container's mount, if a claim's PersistentVolume may be there: the kubelet's target itself,
/// or the kubelet's own bind mount of a `subPath` (kubernetes 1.36, `pkg/volume/util/subpath`).
pub fn shows_a_claim(source: &Path, kubelet_dir: &Path) -> bool {
    let Ok(inside) = source.strip_prefix(kubelet_dir) else { return false };
    let parts: Option<Vec<&str>> = inside
        .components()
        .map(|part| match part {
            Component::Normal(part) => part.to_str(),
            _ => None,
        })
        .collect();
    match parts.as_deref() {
        Some(["pods", _, "volumes", "kubernetes.io~csi", pv, "mount"])
        | Some(["pods", _, "volume-subpaths", pv, _, _]) => pv.starts_with(PV_PREFIX),
        _ => false,
    }
}

/// The options of a mount that is to be read-only; `None` if they say so already.
pub fn read_only(options: &[String]) -> Option<Vec<String>> {
    if options.iter().any(|option| option == "ro" || option == "rro") {
        return None;
    }
    let kept = options.iter().filter(|option| *option != "rw").cloned();
    Some(kept.chain(["ro".to_owned()]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn m3_targets_and_sub_paths_of_claims_are_recognised() {
        let is = |path: &str| shows_a_claim(Path::new(path), Path::new("/var/lib/kubelet"));
        assert!(is("/var/lib/kubelet/pods/1/volumes/kubernetes.io~csi/reservoir-2/mount"));
        assert!(is("/var/lib/kubelet/pods/1/volume-subpaths/reservoir-2/c/0"));
        assert!(!is("/var/lib/kubelet/pods/1/volumes/kubernetes.io~csi/pvc-2/mount"), "another driver's");
        assert!(!is("/var/lib/kubelet/pods/1/volumes/kubernetes.io~empty-dir/reservoir-2"));
        assert!(!is("/var/lib/kubelet/pods/1/volume-subpaths/../../reservoir-2/c/0"));
        assert!(!is("/mnt/pods/1/volumes/kubernetes.io~csi/reservoir-2/mount"));
    }

    #[test]
    fn m3_a_writable_mount_becomes_a_read_only_one() {
        let options = |of: &[&str]| of.iter().map(|option| option.to_string()).collect::<Vec<_>>();
        let asked = options(&["rbind", "rprivate", "rw"]);
        assert_eq!(read_only(&asked), Some(options(&["rbind", "rprivate", "ro"])));
        assert_eq!(read_only(&options(&["rbind", "ro"])), None);
        assert_eq!(read_only(&options(&["rbind", "rro"])), None);
    }
}
