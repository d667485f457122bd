//! The names of the processes that hold a volume (F3).

use std::path::Path;
use std::process::{Child, Command, Stdio};

use reservoir::host::{ErasePolicy, Error, Held};

use crate::assert_error;
use crate::support::*;

/// A process of another program, ended by a drop.
struct Sleep(Child);

impl Sleep {
    fn in_directory(directory: &Path) -> Self {
        Self(Command::new("sleep").arg("60").current_dir(directory).stdin(Stdio::null()).spawn().unwrap())
    }

    fn is_first_of(&self, held: &Held) -> bool {
        let by = &held.by[0];
        (by.pid, &*by.command, &by.mount) == (self.0.id(), "sleep", &None)
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// F3, X3.
#[test]
fn f3_a_working_directory_in_a_volume_is_named() {
    on_a_node(|node| {
        let host = node.host();
        for spec in [ext4(1), xfs(27)] {
            host.create("d", &spec).unwrap();
            host.publish(&node.request(&spec.uid, "p", 0, false)).unwrap();
            host.publish(&node.request(&spec.uid, "other", 0, false)).unwrap();
            let (target, other) = (node.target("p", 0), node.target("other", 0));
            let sleep = Sleep::in_directory(&target);
            assert_error!(host.unpublish(&target), Error::Busy { .. });
            let held = host.holders_at(&spec.uid, &target).unwrap();
            assert!(sleep.is_first_of(&held) && held.by.len() == 1, "{held:?}");
            assert_eq!((&*held.volume, &*held.pods[0].name), (&*spec.name, "p"));
            assert_eq!(
                host.holders_at(&spec.uid, &other).unwrap().by,
                [],
                "the same file system, another mount"
            );
            host.unpublish(&other).unwrap();
            // The target is gone, and the process has the volume all the same.
            node.unmount_lazily(&target);
            host.unpublish(&target).unwrap();
            let report = host.fence(&spec.uid).unwrap();
            assert!(report.users.is_empty() && report.in_use);
            let held = host.holders(&spec.uid).unwrap();
            assert!(sleep.is_first_of(&held) && held.pods.is_empty(), "{held:?}");
            assert_error!(host.erase(&spec.uid, ErasePolicy::Discard), Error::Busy { .. });
            drop(sleep);
            assert_eq!(host.holders(&spec.uid).unwrap().by, []);
            host.erase(&spec.uid, ErasePolicy::Discard).unwrap();
            node.assert_base_line();
        }
    });
}

/// F3: as of a pod that has the kubelet's directory with `mountPropagation: HostToContainer`.
#[test]
fn f3_a_process_in_a_view_of_the_kubelets_directory_is_named() {
    on_a_node(|node| {
        let host = node.host();
        host.create("d", &ext4(1)).unwrap();
        let (target, view) = (node.target("p", 0), node.kubelet().with_file_name("view"));
        host.publish(&node.request(&uid(1), "p", 0, false)).unwrap();
        host.publish(&node.request(&uid(1), "other", 0, false)).unwrap();
        std::fs::create_dir(&view).unwrap();
        let inside = view.join(target.strip_prefix(node.kubelet()).unwrap());
        let (kubelet, view) = (node.kubelet().display().to_string(), view.display().to_string());
        let script = format!(
            "mount --rbind {kubelet} {view} && mount --make-rslave {view} && cd {} && exec sleep 60",
            inside.display()
        );
        let args = ["--mount", "--propagation", "slave", "sh", "-c", &script];
        let sleep = Sleep(Command::new("unshare").args(args).stdin(Stdio::null()).spawn().unwrap());
        let command = format!("/proc/{}/comm", sleep.0.id());
        eventually("no process is there", || {
            std::fs::read_to_string(&command).is_ok_and(|command| command == "sleep\n")
        });
        assert_error!(host.unpublish(&target), Error::Busy { .. });
        let held = host.holders_at(&uid(1), &target).unwrap();
        assert!(sleep.is_first_of(&held) && held.by.len() == 1, "{held:?}");
        assert_eq!(host.holders_at(&uid(1), &node.target("other", 0)).unwrap().by, []);
        drop(sleep);
        eventually("it is still busy", || host.unpublish(&target).is_ok());
        host.unpublish(&node.target("other", 0)).unwrap();
        node.assert_base_line();
    });
}

#[test]
fn f3_a_mount_in_another_namespace_is_named() {
    on_a_node(|node| {
        let host = node.host();
        host.create("d", &ext4(1)).unwrap();
        let target = node.target("p", 0);
        host.publish(&node.request(&uid(1), "p", 0, false)).unwrap();
        assert_eq!(host.holders(&uid(1)).unwrap().by, [], "the pod in the record is no stranger");
        let lingering = Elsewhere::new(node, &target);
        host.unpublish(&target).unwrap();
        let held = host.holders(&uid(1)).unwrap();
        assert_eq!(held.by.len(), 1, "{held:?}");
        assert_eq!(held.by[0].pid, std::process::id());
        assert!(held.by[0].mount.as_ref().unwrap().ends_with("/container"), "{held:?}");
        drop(lingering);
        eventually("still held", || host.holders(&uid(1)).unwrap().by.is_empty());
        // A mount inside the target keeps the target.
        host.publish(&node.request(&uid(1), "p", 0, false)).unwrap();
        let inside = target.join("inside");
        std::fs::create_dir(&inside).unwrap();
        rustix::mount::mount_bind(node.disk(), &inside).unwrap();
        assert_error!(host.unpublish(&target), Error::Busy { .. });
        let held = host.holders_at(&uid(1), &target).unwrap();
        assert!(held.by[0].mount.as_ref().unwrap().ends_with("/inside"), "{held:?}");
        rustix::mount::unmount(&inside, rustix::mount::UnmountFlags::empty()).unwrap();
        host.unpublish(&target).unwrap();
        node.assert_base_line();
    });
}
