//! local-path-provisioner, built from its published sources, with its own manifests.

use std::fs;

use anyhow::{Context, ensure};

use crate::cache::Cache;
use crate::image;
use crate::node::Cluster;
use crate::programs::{self, Program};

const IMAGE: &str = "localhost/local-path-provisioner:bench";

const PROGRAM: Program = Program::Tool("local-path-provisioner");

/// The namespace of its manifests.
pub(super) const NAMESPACE: &str = "local-path-storage";

/// Installs it. Its volumes are of the StorageClass `local-path`.
pub(super) fn install(cluster: &Cluster) -> anyhow::Result<()> {
    let context = tempfile::tempdir()?;
    fs::copy(PROGRAM.build(&Cache::open()?)?, context.path().join("local-path-provisioner"))?;
    let dockerfile = "FROM scratch\nCOPY local-path-provisioner /bin/\nENV PATH=/bin\n";
    fs::write(context.path().join("Dockerfile"), dockerfile)?;
    let build = cluster.docker()?.build().args(["--tag", IMAGE, "."]).dir(context.path());
    build.progress("building the image of local-path-provisioner").run()?;
    cluster.load_image(IMAGE)?;
    let sources = programs::tool_sources(PROGRAM.name())?;
    let manifest = sources.join("deploy/local-path-storage.yaml");
    let manifest =
        fs::read_to_string(&manifest).with_context(|| format!("failed to read {}", manifest.display()))?;
    let own = format!("rancher/{}:{}", PROGRAM.name(), PROGRAM.version()?);
    let helper = "image: busybox\n";
    ensure!(
        manifest.contains(&own) && manifest.contains(helper),
        "its manifest names other images than {own} and busybox"
    );
    let manifest = manifest.replace(&own, IMAGE).replace(helper, &format!("image: {}\n", image::TEST));
    cluster.apply(&manifest)?;
    let rollout =
        ["-n", NAMESPACE, "rollout", "status", "deployment/local-path-provisioner", "--timeout=120s"];
    cluster.kubectl()?.args(rollout).run().map(drop)
}

/// Removes it.
pub(super) fn uninstall(cluster: &Cluster) -> anyhow::Result<()> {
    let cluster_wide =
        ["clusterrole/local-path-provisioner-role", "clusterrolebinding/local-path-provisioner-bind"];
    let mut delete = cluster.kubectl()?.args(["delete", "--ignore-not-found", "--timeout=120s"]);
    delete = delete.args(["storageclass/local-path", &format!("namespace/{NAMESPACE}")]);
    delete.args(cluster_wide).run().map(drop)
}
