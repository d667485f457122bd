//! The image of both architectures as an archive of an OCI image layout, which every container runtime and tool reads.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::files::Recipe;
use super::{Built, date, repository, sha256, tar, write_json};
use crate::command::Cmd;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Writes the archive of the image `name`, such as `localhost/reservoir:0.1.0`.
pub(super) fn write(archive: &Path, name: &str, recipe: &Recipe, built: &[Built]) -> anyhow::Result<()> {
    let layout = tempfile::tempdir()?;
    let dir = layout.path();
    fs::create_dir_all(dir.join("blobs/sha256"))?;
    let (created, revision) = (date()?, Cmd::new("git").args(["rev-parse", "HEAD"]).dir(repository()).run()?);
    let tag = name.rsplit_once(':').map_or("", |(_, tag)| tag);
    let annotations = json!({
        "org.opencontainers.image.title": "reservoir",
        "org.opencontainers.image.version": tag,
        "org.opencontainers.image.revision": revision.trim(),
        "org.opencontainers.image.licenses": "Apache-2.0",
        "org.opencontainers.image.created": created,
    });
    let mut manifests = Vec::new();
    for Built { arch, root, .. } in built {
        let layer = dir.join("layer.tar");
        tar(&layer)?.arg("--directory").arg(root).arg(".").run()?;
        let diff = sha256(&layer)?;
        Cmd::new("gzip").args(["--no-name", "--best"]).arg(&layer).run()?;
        let layer = blob(dir, &dir.join("layer.tar.gz"), "application/vnd.oci.image.layer.v1.tar+gzip")?;
        let config = json!({
            "architecture": arch.name,
            "os": "linux",
            "created": created,
            "config": { "User": recipe.user, "Entrypoint": [recipe.entrypoint], "Labels": annotations },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{diff}")] },
            "history": [{ "created": created, "created_by": "make release" }],
        });
        let config = json_blob(dir, &config, "application/vnd.oci.image.config.v1+json")?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config,
            "layers": [layer],
            "annotations": annotations,
        });
        let mut manifest = json_blob(dir, &manifest, MANIFEST)?;
        manifest["platform"] = json!({ "architecture": arch.name, "os": "linux" });
        manifests.push(manifest);
    }
    let kind = "application/vnd.oci.image.index.v1+json";
    let index =
        json!({ "schemaVersion": 2, "mediaType": kind, "manifests": manifests, "annotations": annotations });
    let mut index = json_blob(dir, &index, kind)?;
    // skopeo and podman read the first name, containerd the second.
    index["annotations"] =
        json!({ "org.opencontainers.image.ref.name": tag, "io.containerd.image.name": name });
    write_json(
        &dir.join("index.json"),
        &json!({ "schemaVersion": 2, "mediaType": kind, "manifests": [index] }),
    )?;
    fs::write(dir.join("oci-layout"), "{\"imageLayoutVersion\":\"1.0.0\"}")?;
    tar(archive)?.arg("--directory").arg(dir).args(["oci-layout", "index.json", "blobs"]).run().map(drop)
}

/// Moves a file among the blobs, and returns its descriptor.
fn blob(dir: &Path, file: &Path, kind: &str) -> anyhow::Result<Value> {
    let (digest, size) = (sha256(file)?, fs::metadata(file)?.len());
    fs::rename(file, dir.join("blobs/sha256").join(&digest))?;
    Ok(json!({ "mediaType": kind, "digest": format!("sha256:{digest}"), "size": size }))
}

fn json_blob(dir: &Path, value: &Value, kind: &str) -> anyhow::Result<Value> {
    let file = dir.join("blob.json");
    fs::write(&file, serde_json::to_vec(value)?)?;
    blob(dir, &file, kind)
}
