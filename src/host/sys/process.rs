//! A process in messages: its number, its program and its pod.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::host::types::VolumeUid;

/// The number of a process' directory in procfs.
pub(crate) fn number(process: &Path) -> Option<u32> {
    process.file_name()?.to_str()?.parse().ok()
}

/// The name of a process' program; `None` if the process is gone. Arguments are left out: they may be secret.
pub(crate) fn command(process: &Path) -> Option<String> {
    let name = std::fs::read(process.join("comm")).ok()?;
    Some(safe(OsStr::from_bytes(name.trim_ascii_end()), 15))
}

/// UID of the pod that a process runs in, by the process' control group, which no container can change.
pub(crate) fn pod_uid(process: &Path) -> Option<String> {
    pod_of_groups(&std::fs::read_to_string(process.join("cgroup")).ok()?)
}

/// The last pod in a text such as `0::/kubepods.slice/kubepods-pod0f3c8a52_6d1e_4b7a_9c55_2e8d4f6a1b03.slice/...`, or
/// with `/kubepods/pod0f3c8a52-6d1e-4b7a-9c55-2e8d4f6a1b03/`.
fn pod_of_groups(groups: &str) -> Option<String> {
    groups.rmatch_indices("pod").find_map(|(at, pod)| {
        let uid: VolumeUid = groups.get(at + pod.len()..)?.get(..36)?.replace('_', "-").parse().ok()?;
        Some(uid.to_string())
    })
}

/// Foreign text without a character that could end a line or a sentence, cut to `most` characters.
pub(crate) fn safe(text: &OsStr, most: usize) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+:@%".contains(c);
    text.to_string_lossy().chars().take(most).map(|c| if is_plain(c) { c } else { '?' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0f3c8a52-6d1e-4b7a-9c55-2e8d4f6a1b03";

    /// F3. The control groups of containerd with systemd and without, of a kind node, and of a process of the node.
    #[test]
    fn f3_a_process_pod_is_read_from_its_control_group() {
        let systemd = UID.replace('-', "_");
        for (groups, pod) in [
            (
                format!("0::/kubepods.slice/kubepods-burstable-pod{systemd}.slice/cri-containerd-1.scope\n"),
                true,
            ),
            (
                format!("12:pids:/kubepods/besteffort/pod{UID}/5d\n1:name=systemd:/kubepods/pod{UID}/5d\n"),
                true,
            ),
            (format!("0::/../../kubelet-kubepods-pod{systemd}.slice/cri-containerd-podman.scope\n"), true),
            ("0::/system.slice/ssh.service\n".into(), false),
            ("0::/kubepods/pod00112233445566778899aabbccddeeff/x\n".into(), false),
            ("0::/podp\u{fc}".into(), false),
        ] {
            assert_eq!(pod_of_groups(&groups), pod.then(|| UID.to_owned()), "{groups}");
        }
    }

    /// F3, S17.
    #[test]
    fn f3_the_words_of_a_process_cannot_shape_a_message() {
        let text = OsStr::from_bytes(b"a b) of pod x/y\n\x1b[1m\xff(sh");
        assert_eq!(safe(text, 15), "a?b??of?pod?x/y");
        assert_eq!(safe(OsStr::new("kube-proxy"), 15), "kube-proxy");
        assert_eq!(command(Path::new("/proc/none")), None);
    }
}
