//! The programs that are built from source, their versions, and how Go builds them.
//!
//! Each version has one place. The `go.mod` files have those of Kubernetes and of the container runtime, and `go.sum`
//! fixes every byte of the sources. [`TOOLS`] has those of stand-alone tools.

/// The Go module of this name.
macro_rules! module {
    ($name:literal) => {
        $crate::programs::Module {
            name: $name,
            go_mod: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/go/", $name, "/go.mod")),
            go_sum: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/go/", $name, "/go.sum")),
        }
    };
}

mod release;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::cache::Cache;
use crate::command::{Cmd, which};
use crate::packages;

pub use release::Release;

/// A Go module of this crate, which fixes the versions of the programs that are built from it.
#[derive(Debug, PartialEq, Eq)]
struct Module {
    name: &'static str,
    go_mod: &'static str,
    go_sum: &'static str,
}

static KUBERNETES: Module = module!("kubernetes");
const RUNTIME: Module = module!("runtime");

/// Stand-alone tools: program, package, version.
const TOOLS: &[(&str, &str, &str)] = &[
    ("coredns", "github.com/coredns/coredns", "v1.14.2"),
    ("csi-sanity", "github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity", "v5.4.0"),
    ("helm", "helm.sh/helm/v4/cmd/helm", "v4.2.4"),
    ("kind", "sigs.k8s.io/kind", "v0.33.0"),
    ("local-path-provisioner", "github.com/rancher/local-path-provisioner", "v0.0.30"),
];

/// A program that can be built from source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// A command of the chosen [`Release`] of Kubernetes, by its name; or `e2e.test`, or `agnhost`, which its pods run.
    Kubernetes(&'static str),
    /// Kubernetes' store.
    Etcd,
    /// A command of containerd, by its name.
    Containerd(&'static str),
    /// A CNI plugin, by its directory among the plugins.
    Cni(&'static str),
    /// runc, built with seccomp.
    Runc,
    /// A stand-alone tool, by its name.
    Tool(&'static str),
}

impl Program {
    /// The name of the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kubernetes(name) | Self::Containerd(name) | Self::Tool(name) => name,
            Self::Cni(directory) => directory.rsplit('/').next().unwrap_or(directory),
            Self::Etcd => "etcd",
            Self::Runc => "runc",
        }
    }

    /// The version, such as `v1.36.3`.
    pub fn version(self) -> anyhow::Result<&'static str> {
        match self {
            Self::Kubernetes(_) => Release::chosen()?.version(),
            Self::Etcd => KUBERNETES.version("go.etcd.io/etcd/server/v3"),
            Self::Containerd(_) => RUNTIME.version("github.com/containerd/containerd/v2"),
            Self::Cni(_) => RUNTIME.version("github.com/containernetworking/plugins"),
            Self::Runc => RUNTIME.version("github.com/opencontainers/runc"),
            Self::Tool(name) => Ok(tool(name)?.1),
        }
    }

    /// Returns the built program in the cache. Blocks during the build.
    pub fn build(self, cache: &Cache) -> anyhow::Result<PathBuf> {
        let (name, version) = (self.name(), self.version()?);
        let project = match self {
            Self::Kubernetes(_) => "kubernetes",
            Self::Containerd(_) => "containerd",
            Self::Cni(_) => "cni-plugins",
            _ => name,
        };
        let title = format!("building {name} {version}");
        cache.get(&format!("bin/{project}-{version}/{name}"), |path| match self {
            Self::Kubernetes(_) => {
                let (go, directory) = match name {
                    // Vet would look at all that the tests import, which takes longer than the build.
                    "e2e.test" => (go_command(&["test", "-c", "-vet=off"])?, "test/e2e".to_owned()),
                    "agnhost" => (go()?, "test/images/agnhost".to_owned()),
                    _ => (go()?, format!("cmd/{name}")),
                };
                let go = go.progress(title).args(["-ldflags", &kubernetes_ldflags(version)]);
                Release::chosen()?.module().build(&format!("k8s.io/kubernetes/{directory}"), go, path)
            }
            Self::Etcd => {
                KUBERNETES.build("go.etcd.io/etcd/server/v3", stripped(go()?.progress(title)), path)
            }
            Self::Containerd(_) => {
                let package = format!("github.com/containerd/containerd/v2/cmd/{name}");
                RUNTIME.build(&package, stripped(go()?.progress(title)), path)
            }
            Self::Cni(directory) => {
                let package = format!("github.com/containernetworking/plugins/plugins/{directory}");
                RUNTIME.build(&package, stripped(go()?.progress(title)), path)
            }
            Self::Runc => {
                packages::ensure(&["gcc", "libc6-dev", "libseccomp-dev", "pkg-config"])?;
                // Without the seccomp tag every pod fails with "seccomp not supported", and seccomp needs cgo.
                let go = go()?.progress(title).env("CGO_ENABLED", "1").args([
                    "-tags",
                    "seccomp netgo osusergo",
                    "-ldflags",
                    "-s -w -extldflags -static",
                ]);
                RUNTIME.build("github.com/opencontainers/runc", go, path)
            }
            Self::Tool(_) => install(tool(name)?, Cmd::new(go_program()?).progress(title), path),
        })
    }
}

/// The directory of a tool's sources, from Go's module cache.
pub(crate) fn tool_sources(name: &str) -> anyhow::Result<PathBuf> {
    let (module, version) = tool(name)?;
    download(&format!("{module}@{version}"))
}

/// The directory of the Kubernetes sources, from Go's module cache.
pub(crate) fn kubernetes_sources() -> anyhow::Result<PathBuf> {
    download(&format!("k8s.io/kubernetes@{}", Release::chosen()?.version()?))
}

/// The directory of the Prometheus Operator's sources, which have its kinds.
pub(crate) fn prometheus_operator_sources() -> anyhow::Result<PathBuf> {
    download("github.com/prometheus-operator/prometheus-operator@v0.92.0")
}

fn download(module: &str) -> anyhow::Result<PathBuf> {
    let answer = Cmd::new(go_program()?).args(["mod", "download", "-json", module]).dir("/").run()?;
    let answer: serde_json::Value = serde_json::from_str(&answer).context("failed to read what go says")?;
    let dir = answer["Dir"].as_str().with_context(|| format!("go does not say where {module} is"))?;
    Ok(dir.into())
}

impl Module {
    /// The version of `module` that this module requires.
    fn version(&self, module: &str) -> anyhow::Result<&'static str> {
        required(self.go_mod, module).with_context(|| format!("{module} is not in go/{}/go.mod", self.name))
    }

    /// Builds `package` to `path` with exactly the versions and checksums of this module.
    fn build(&self, package: &str, go: Cmd, path: &Path) -> anyhow::Result<()> {
        let dir = tempfile::tempdir().context("failed to make a directory for the Go module")?;
        fs::write(dir.path().join("go.mod"), self.go_mod)?;
        fs::write(dir.path().join("go.sum"), self.go_sum)?;
        go.args(["-mod=readonly", "-o"]).arg(path).arg(package).dir(dir.path()).run()?;
        Ok(())
    }
}

fn required(go_mod: &'static str, module: &str) -> Option<&'static str> {
    go_mod.lines().find_map(|line| {
        let mut words = line.trim().trim_start_matches("require ").split_whitespace();
        (words.next() == Some(module)).then(|| words.next()).flatten().filter(|word| word.starts_with('v'))
    })
}

fn tool(name: &str) -> anyhow::Result<(&'static str, &'static str)> {
    let found = TOOLS.iter().find(|(program, ..)| *program == name);
    let (_, package, version) = found.with_context(|| format!("{name} is not a known tool"))?;
    Ok((*package, *version))
}

fn install((package, version): (&str, &str), go: Cmd, path: &Path) -> anyhow::Result<()> {
    let dir = path.parent().context("a program needs a directory")?;
    go.args(["install", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w"])
        .arg(format!("{package}@{version}"))
        .env("CGO_ENABLED", "0")
        .env("GOBIN", dir)
        .env("GOFLAGS", "")
        .dir("/")
        .run()?;
    Ok(())
}

fn go() -> anyhow::Result<Cmd> {
    go_command(&["build"])
}

fn go_command(command: &[&str]) -> anyhow::Result<Cmd> {
    let go = Cmd::new(go_program()?).args(command).args(["-trimpath", "-buildvcs=false"]);
    Ok(go.env("CGO_ENABLED", "0").env("GOFLAGS", "").env("GOWORK", "off"))
}

fn stripped(go: Cmd) -> Cmd {
    go.args(["-ldflags", "-s -w"])
}

/// Clients and kubeadm compare versions, so each program is built with its own version.
fn kubernetes_ldflags(version: &str) -> String {
    let mut numbers = version.trim_start_matches('v').split('.');
    let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    let variable = "-X k8s.io/component-base/version";
    format!("-s -w {variable}.gitVersion={version} {variable}.gitMajor={major} {variable}.gitMinor={minor}")
}

pub(crate) fn go_program() -> anyhow::Result<PathBuf> {
    let usual = Path::new("/usr/local/go/bin/go");
    match which("go").or_else(|| usual.is_file().then(|| usual.into())) {
        Some(go) => Ok(go),
        None => bail!(
            "Go is needed to build Kubernetes and was not found; install Go 1.26 or newer and put it in PATH"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_come_from_the_go_modules() {
        for program in [
            Program::Kubernetes("kubelet"),
            Program::Etcd,
            Program::Containerd("ctr"),
            Program::Runc,
            Program::Cni("bridge"),
        ] {
            let version = program.version().unwrap();
            assert!(crate::version::Version::parse(version).is_some(), "{program:?} has version {version}");
        }
    }

    #[test]
    fn a_requirement_is_not_a_replacement_or_a_tool() {
        let go_mod = "tool (\n\ta/b\n)\nrequire (\n\ta/b v1.2.3 // indirect\n)\nreplace a/c => a/c v9.9.9\nrequire a/d v4.5.6\n";
        assert_eq!(required(go_mod, "a/b"), Some("v1.2.3"));
        assert_eq!(required(go_mod, "a/c"), None);
        assert_eq!(required(go_mod, "a/d"), Some("v4.5.6"));
    }

    #[test]
    fn kubernetes_knows_its_version() {
        let flags = kubernetes_ldflags("v1.36.3");
        assert!(
            flags.contains("gitVersion=v1.36.3")
                && flags.contains("gitMajor=1 ")
                && flags.ends_with("gitMinor=36")
        );
    }
}
