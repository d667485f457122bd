//! The image of a node: kind's own image if that can be pulled, else the same image composed from source.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use sha2::{Digest, Sha256};

use crate::command::Cmd;
use crate::debian::Rootfs;
use crate::docker::{Docker, lacks_resource_capability};
use crate::packages;
use crate::programs::{self, Program};
use crate::progress::say;

const DOCKERFILE: &str = include_str!("../../assets/node.Dockerfile");
const POD_ROUTES: &str = include_str!("../../assets/pod-routes.service");

/// Debian release. Later releases have a systemd that does not boot on cgroup v1.
const SUITE: &str = "bookworm";

/// The packages of kind's base image without those for network storage, and the packages that volumes need.
const PACKAGES: &[&str] = &[
    "bash",
    "btrfs-progs",
    "ca-certificates",
    "conntrack",
    "curl",
    "dbus",
    "e2fsprogs",
    "ethtool",
    "iproute2",
    "iptables",
    "jq",
    "kmod",
    "libseccomp2",
    "lvm2",
    "mount",
    "nftables",
    "pigz",
    "procps",
    "systemd",
    "systemd-sysv",
    "util-linux",
    "xfsprogs",
];

const CONTAINERD: [&str; 3] = ["containerd", "containerd-shim-runc-v2", "ctr"];
const CNI: [&str; 4] = ["main/bridge", "main/loopback", "ipam/host-local", "meta/portmap"];
const CONTROL_PLANE: [&str; 4] =
    ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy"];
const NODE: [&str; 3] = ["kubeadm", "kubectl", "kubelet"];

/// A node image.
#[derive(Clone, Debug)]
pub(super) struct NodeImage {
    pub(super) name: String,
    /// True if the image lacks kind's network plug-in.
    pub(super) composed: bool,
}

/// Returns the image, pulled or composed if Docker lacks it. Blocks, for many minutes the first time.
pub(super) fn ensure(docker: &Docker) -> anyhow::Result<NodeImage> {
    let version = Program::Kubernetes("kubelet").version()?;
    let pulled = NodeImage { name: format!("kindest/node:{version}"), composed: false };
    let composed =
        NodeImage { name: format!("localhost/reservoir-node:{version}-{}", fingerprint()?), composed: true };
    for image in [&pulled, &composed] {
        if docker.has_image(&image.name) {
            return Ok(image.clone());
        }
    }
    if docker.pull(&pulled.name)? {
        return Ok(pulled);
    }
    say("images cannot be pulled here; composing the node image from source");
    compose(docker, &composed.name)?;
    Ok(composed)
}

/// A key that changes with each part of the image.
fn fingerprint() -> anyhow::Result<String> {
    let mut digest = Sha256::new().chain_update(DOCKERFILE).chain_update(POD_ROUTES).chain_update(SUITE);
    for word in PACKAGES.iter().copied().chain(versions()?) {
        digest.update(word);
    }
    digest.update([lacks_resource_capability()? as u8]);
    Ok(format!("{:x}", digest.finalize())[..8].to_owned())
}

fn versions() -> anyhow::Result<Vec<&'static str>> {
    let programs = [Program::Etcd, Program::Containerd("ctr"), Program::Runc, Program::Cni("bridge")];
    let tools = [Program::Tool("coredns"), Program::Tool("kind")];
    programs.into_iter().chain(tools).map(Program::version).collect()
}

/// Everything in the image that is built from source.
fn programs() -> impl Iterator<Item = Program> {
    let kubernetes = NODE.into_iter().chain(CONTROL_PLANE).map(Program::Kubernetes);
    let runtime = CONTAINERD.into_iter().map(Program::Containerd).chain(CNI.into_iter().map(Program::Cni));
    kubernetes.chain(runtime).chain([Program::Etcd, Program::Runc, Program::Tool("coredns")])
}

fn compose(docker: &Docker, name: &str) -> anyhow::Result<()> {
    let cache = docker.cache();
    packages::ensure(&["gcc", "libc6-dev", "mmdebstrap"])?;
    for program in programs() {
        program.build(cache)?;
    }
    // A gigabyte may be too much for /tmp, so the cache's directory holds the files.
    let work = tempfile::Builder::new().prefix(".node-image-").tempdir_in(cache.root())?;
    let images = Images { docker, work: work.path() };
    let kubeadm = Program::Kubernetes("kubeadm");
    let listed = ["config", "images", "list", "--kubernetes-version", kubeadm.version()?];
    let listed = Cmd::new(kubeadm.build(cache)?).args(listed).run()?;
    let listed: Vec<_> = listed.lines().collect();
    for image in &listed {
        images.import(image)?;
    }
    let pause =
        listed.iter().find(|image| image.contains("/pause:")).context("kubeadm lists no pause image")?;
    let base = images.base()?;
    let bare = format!("{name}-bare");
    images.build(&base, pause, &bare)?;
    let archive = work.path().join("control-plane.tar");
    docker
        .cmd(["save", "--output"])
        .arg(&archive)
        .args(&listed)
        .progress("packing the control plane's images")
        .run()?;
    images.load(&bare, &archive, name)?;
    // The node image contains all images of the control plane.
    docker.cmd(["image", "rm", "--force", &bare]).args(&listed).run()?;
    Ok(())
}

/// Images in a node image, and images that it is built on.
struct Images<'a> {
    docker: &'a Docker,
    work: &'a Path,
}

impl Images<'_> {
    /// An image of the control plane, under the name that kubeadm expects.
    fn import(&self, name: &str) -> anyhow::Result<()> {
        let program = name.rsplit('/').next().and_then(|last| last.split(':').next()).unwrap_or_default();
        let archive = self.work.join("image.tar");
        let root = self.work.join(program);
        let bin = root.join("usr/local/bin");
        fs::create_dir_all(&bin)?;
        let mut changes = vec!["ENV PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()];
        match program {
            "pause" => {
                self.pause(&root.join(program))?;
                changes.push("ENTRYPOINT [\"/pause\"]".into());
            }
            "coredns" => {
                fs::copy(Program::Tool("coredns").build(self.docker.cache())?, root.join(program))?;
                changes.push("ENTRYPOINT [\"/coredns\"]".into());
            }
            "etcd" => drop(fs::copy(Program::Etcd.build(self.docker.cache())?, bin.join(program))?),
            _ => {
                let known = CONTROL_PLANE.into_iter().find(|known| *known == program);
                let known = known.with_context(|| format!("kubeadm asks for an unknown image: {name}"))?;
                fs::copy(Program::Kubernetes(known).build(self.docker.cache())?, bin.join(program))?;
            }
        }
        if program == "kube-proxy" {
            let packages = &["conntrack", "iptables", "kmod"];
            Rootfs { suite: SUITE, variant: "extract", packages }.write(&archive)?;
            Cmd::new("tar")
                .arg("--extract")
                .arg("--file")
                .arg(&archive)
                .arg("--directory")
                .arg(&root)
                .run()?;
            iptables_alternatives(&root.join("usr/sbin"))?;
        }
        Cmd::new("tar")
            .arg("--create")
            .arg("--file")
            .arg(&archive)
            .arg("--directory")
            .arg(&root)
            .arg(".")
            .run()?;
        let changes: Vec<_> = changes.iter().map(String::as_str).collect();
        self.docker.import(&archive, &changes, name)?;
        Ok(fs::remove_file(&archive)?)
    }

    /// The process that holds a pod's namespaces; part of Kubernetes' sources.
    fn pause(&self, to: &Path) -> anyhow::Result<()> {
        let source = programs::kubernetes_sources()?.join("build/pause/linux/pause.c");
        Cmd::new("gcc").args(["-Os", "-static", "-DVERSION=composed", "-o"]).arg(to).arg(source).run()?;
        Ok(())
    }

    /// Debian with the packages of a node.
    fn base(&self) -> anyhow::Result<String> {
        let digest = format!("{:x}", Sha256::digest(PACKAGES.join(" ")));
        let name = format!("localhost/reservoir-node-base:{SUITE}-{}", &digest[..8]);
        if !self.docker.has_image(&name) {
            let archive = self.work.join("base.tar");
            Rootfs { suite: SUITE, variant: "minbase", packages: PACKAGES }.write(&archive)?;
            self.docker.import(&archive, &[], &name)?;
            fs::remove_file(&archive)?;
        }
        Ok(name)
    }

    /// The node without the control plane's images.
    fn build(&self, base: &str, pause: &str, name: &str) -> anyhow::Result<()> {
        let context = self.work.join("context");
        let rootfs = context.join("rootfs");
        fs::create_dir_all(&rootfs)?;
        let kind = programs::tool_sources("kind")?.join("images/base/files");
        Cmd::new("cp").args(["-R", "--no-preserve=mode"]).arg(kind.join(".")).arg(&rootfs).run()?;
        let at = |dir: &str| -> anyhow::Result<PathBuf> {
            fs::create_dir_all(rootfs.join(dir))?;
            Ok(rootfs.join(dir))
        };
        for program in programs() {
            let dir = match program {
                Program::Kubernetes(name) if NODE.contains(&name) => at("usr/bin")?,
                Program::Containerd(_) => at("usr/local/bin")?,
                Program::Cni(_) => at("opt/cni/bin")?,
                Program::Runc => at("usr/local/sbin")?,
                _ => continue,
            };
            fs::copy(program.build(self.docker.cache())?, dir.join(program.name()))?;
        }
        fs::write(at("kind")?.join("version"), Program::Kubernetes("kubelet").version()?)?;
        fs::write(at("etc/systemd/system")?.join("pod-routes.service"), POD_ROUTES)?;
        fs::write(context.join("Dockerfile"), DOCKERFILE)?;
        let restrict = lacks_resource_capability()?;
        self.docker
            .build()
            .args(["--build-arg", &format!("BASE={base}"), "--build-arg", &format!("PAUSE={pause}")])
            .args(["--build-arg", &format!("RESTRICT_OOM_SCORE={restrict}"), "--tag", name])
            .arg(&context)
            .progress("building the node image")
            .run()?;
        Ok(())
    }

    /// Puts the control plane's images into the node's containerd.
    fn load(&self, bare: &str, archive: &Path, name: &str) -> anyhow::Result<()> {
        let container = format!("reservoir-compose-{}", std::process::id());
        let _guard = Container { docker: self.docker, name: &container };
        let run = [
            "run",
            "--detach",
            "--network=none",
            "--security-opt=seccomp=unconfined",
            "--entrypoint=containerd",
        ];
        self.docker.cmd(run).args([&format!("--name={container}"), bare]).run()?;
        let inside = |script: &str| {
            let shell = ["exec", "--interactive", &container, "bash", "-ec", script];
            self.docker.cmd(shell).timeout(Duration::from_secs(300))
        };
        inside("until ctr version >/dev/null 2>&1; do sleep .1; done").run()?;
        inside("ctr --namespace=k8s.io images import --label=io.cri-containerd.pinned=pinned --all-platforms --no-unpack -")
            .stdin(fs::File::open(archive)?)
            .progress("loading the control plane's images into the node image")
            .run()?;
        // containerd's database must be complete before its files are copied.
        self.docker.cmd(["stop", &container]).run()?;
        let entrypoint = "ENTRYPOINT [ \"/usr/local/bin/entrypoint\", \"/sbin/init\" ]";
        self.docker
            .cmd(["commit", "--change", entrypoint, &container, name])
            .progress("storing the node image")
            .run()?;
        Ok(())
    }
}

/// A container that is removed when this value is dropped.
struct Container<'a> {
    docker: &'a Docker,
    name: &'a str,
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        self.docker.cmd(["rm", "--force", "--volumes", self.name]).cleanup().succeeds();
    }
}

/// Links that the installation of a package makes. The packages are unpacked without installation.
fn iptables_alternatives(sbin: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(sbin)?;
    for name in ["iptables", "ip6tables"]
        .into_iter()
        .flat_map(|name| ["", "-save", "-restore"].map(|end| format!("{name}{end}")))
    {
        symlink("xtables-nft-multi", sbin.join(name))?;
    }
    Ok(())
}
