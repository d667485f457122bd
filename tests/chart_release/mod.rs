//! The files of a release, made of small stand-ins for the programs. `make release` builds the real ones, and runs them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use cyclonedx_bom::prelude::{Bom, Validate};
use reservoir_cluster::command::Cmd;
use reservoir_cluster::release::{ARCHS, Built, Release};
use serde_json::Value;

const VERSION: &str = env!("CARGO_PKG_VERSION");

fn release(version: &str) -> Release {
    Release {
        version: version.into(),
        image: "registry.test/reservoir".into(),
        url: "https://releases.test/v1".into(),
        profile: "release".into(),
    }
}

/// A release in `dir`.
fn packed(dir: &Path) -> PathBuf {
    let built = ARCHS.map(|arch| {
        let root = dir.join(arch.name);
        fs::create_dir_all(root.join("usr/local/bin")).unwrap();
        fs::write(root.join("usr/local/bin/reservoir"), arch.name).unwrap();
        let plugin = dir.join(format!("plugin-{}", arch.name));
        fs::write(&plugin, arch.name).unwrap();
        Built { arch, root, plugin, packages: vec![("libc6".into(), "2.41-12+deb13u5".into())] }
    });
    let out = dir.join("out");
    release(VERSION).pack(&out, &built).unwrap();
    out
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn sha256(path: &Path) -> String {
    Cmd::new("sha256sum").arg(path).run().unwrap().split(' ').next().unwrap().to_owned()
}

fn unpacked(archive: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    Cmd::new("tar").args(["--extract", "--file"]).arg(archive).arg("--directory").arg(to).run().unwrap();
}

/// The blob that a descriptor names, which has the size and the digest that it says.
fn blob(layout: &Path, descriptor: &Value) -> PathBuf {
    let digest = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
    let path = layout.join("blobs/sha256").join(digest);
    assert_eq!(sha256(&path), digest);
    assert_eq!(fs::metadata(&path).unwrap().len(), descriptor["size"].as_u64().unwrap());
    path
}

#[test]
fn a_release_has_all_files_and_they_agree() {
    let dir = tempfile::tempdir().unwrap();
    let out = packed(dir.path());
    let mut names: Vec<String> =
        fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let versioned = |name: &str| name.replace("VERSION", VERSION);
    let mut expected: Vec<String> = [
        "CHANGES.md",
        "SHA256SUMS",
        "krew.yaml",
        "kubectl-reservoir-VERSION-linux-amd64.tar.gz",
        "kubectl-reservoir-VERSION-linux-arm64.tar.gz",
        "reservoir-VERSION-image-amd64.cdx.json",
        "reservoir-VERSION-image-arm64.cdx.json",
        "reservoir-VERSION-image.tar",
        "reservoir-VERSION.cdx.json",
        "reservoir-VERSION.tgz",
    ]
    .map(versioned)
    .into();
    expected.sort();
    assert_eq!(names, expected);
    let sums = fs::read_to_string(out.join("SHA256SUMS")).unwrap();
    assert_eq!(sums.lines().count(), names.len() - 1);
    Cmd::new("sha256sum").args(["--check", "--strict", "SHA256SUMS"]).dir(&out).run().unwrap();

    image_is_of_both_architectures(&out, dir.path());
    chart_is_complete(&out, dir.path());
    plugin_is_the_one_of_krew(&out, dir.path());
    bills_of_material_name_all_parts(&out);
    let changes = fs::read_to_string(out.join("CHANGES.md")).unwrap();
    assert!(
        changes.starts_with(&format!("# Reservoir {VERSION}\n")) && changes.contains("\n- "),
        "{changes}"
    );
}

fn image_is_of_both_architectures(out: &Path, dir: &Path) {
    let layout = dir.join("layout");
    unpacked(&out.join(format!("reservoir-{VERSION}-image.tar")), &layout);
    let named = json(&layout.join("index.json"));
    let names = &named["manifests"][0]["annotations"];
    assert_eq!(names["io.containerd.image.name"], format!("registry.test/reservoir:{VERSION}"));
    assert_eq!(names["org.opencontainers.image.ref.name"], VERSION);
    let index = json(&blob(&layout, &named["manifests"][0]));
    let manifests = index["manifests"].as_array().unwrap();
    assert_eq!(manifests.len(), 2);
    for (arch, descriptor) in ["amd64", "arm64"].into_iter().zip(manifests) {
        assert_eq!(descriptor["platform"], serde_json::json!({ "architecture": arch, "os": "linux" }));
        let manifest = json(&blob(&layout, descriptor));
        let config = json(&blob(&layout, &manifest["config"]));
        assert_eq!(
            (&config["architecture"], &config["config"]["User"]),
            (&arch.into(), &"65532:65532".into())
        );
        assert_eq!(config["config"]["Entrypoint"], serde_json::json!(["/usr/local/bin/reservoir"]));
        assert_eq!(config["config"]["Labels"]["org.opencontainers.image.version"], VERSION);
        let layer = blob(&layout, &manifest["layers"][0]);
        let files = dir.join("files").join(arch);
        unpacked(&layer, &files);
        assert_eq!(fs::read_to_string(files.join("usr/local/bin/reservoir")).unwrap(), arch);
        let tar = dir.join("layer.tar");
        let decompress = format!("gzip --decompress --stdout {} > {}", layer.display(), tar.display());
        Cmd::new("sh").args(["-c", &decompress]).run().unwrap();
        assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{}", sha256(&tar)));
    }
}

fn chart_is_complete(out: &Path, dir: &Path) {
    let helm = reservoir_cluster::tools::helm().unwrap();
    let archive = out.join(format!("reservoir-{VERSION}.tgz"));
    Cmd::new(&helm).args(["lint", "--strict"]).arg(&archive).stdout_in_errors().run().unwrap();
    let shown = Cmd::new(&helm).args(["show", "chart"]).arg(&archive).run().unwrap();
    let chart: Value = serde_yaml::from_str(&shown).unwrap();
    assert_eq!((&chart["version"], &chart["appVersion"]), (&VERSION.into(), &VERSION.into()));
    let annotation = |key: &str| {
        let text = chart["annotations"][format!("artifacthub.io/{key}")].as_str();
        text.unwrap_or_else(|| panic!("the chart has no annotation {key}"))
    };
    assert_eq!((annotation("license"), annotation("category")), ("Apache-2.0", "storage"));
    let images: Value = serde_yaml::from_str(annotation("images")).unwrap();
    assert_eq!(images[0]["image"], format!("registry.test/reservoir:{VERSION}"));
    let kinds: Value = serde_yaml::from_str(annotation("crds")).unwrap();
    let kinds: BTreeSet<(&str, &str, &str)> = kinds
        .as_array()
        .unwrap()
        .iter()
        .map(|kind| ["kind", "name", "version"].map(|key| kind[key].as_str().unwrap()).into())
        .collect();
    let crds = reservoir::api::crds();
    let expected = crds.iter().map(|crd| {
        let name = crd.metadata.name.as_deref().unwrap();
        (crd.spec.names.kind.as_str(), name, crd.spec.versions[0].name.as_str())
    });
    assert_eq!(kinds, expected.collect());
    let changes: Value = serde_yaml::from_str(annotation("changes")).unwrap();
    assert!(changes.as_array().is_some_and(|changes| !changes.is_empty()));
    // The chart names the image of the release, and has its schema.
    let rendered = Cmd::new(&helm).args(["template", "reservoir"]).arg(&archive).run().unwrap();
    assert!(rendered.contains(&format!("image: registry.test/reservoir:{VERSION}\n")), "{rendered}");
    unpacked(&archive, &dir.join("chart"));
    assert!(dir.join("chart/reservoir/values.schema.json").is_file());
}

fn plugin_is_the_one_of_krew(out: &Path, dir: &Path) {
    let manifest: Value = serde_yaml::from_str(&fs::read_to_string(out.join("krew.yaml")).unwrap()).unwrap();
    assert_eq!(manifest["metadata"]["name"], "reservoir");
    assert_eq!(manifest["spec"]["version"], format!("v{VERSION}"));
    for (arch, platform) in
        ["amd64", "arm64"].into_iter().zip(manifest["spec"]["platforms"].as_array().unwrap())
    {
        let labels = serde_json::json!({ "os": "linux", "arch": arch });
        assert_eq!(platform["selector"]["matchLabels"], labels);
        let name = platform["uri"].as_str().unwrap().strip_prefix("https://releases.test/v1/").unwrap();
        assert_eq!(platform["sha256"], sha256(&out.join(name)));
        let files = dir.join("plugin").join(arch);
        unpacked(&out.join(name), &files);
        assert_eq!(fs::read_to_string(files.join(platform["bin"].as_str().unwrap())).unwrap(), arch);
        assert!(files.join("LICENSE").is_file());
    }
}

fn bills_of_material_name_all_parts(out: &Path) {
    let lock = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock")).unwrap();
    let references = |sbom: &Value| -> BTreeSet<String> {
        assert_eq!((&sbom["bomFormat"], &sbom["specVersion"]), (&"CycloneDX".into(), &"1.5".into()));
        let wrong = Bom::parse_json_value(sbom.clone()).unwrap().validate();
        assert!(wrong.passed(), "{wrong:?}");
        assert_eq!(sbom["metadata"]["component"]["version"], VERSION);
        let parts = sbom["components"].as_array().unwrap();
        let parts: BTreeSet<String> =
            parts.iter().map(|part| part["bom-ref"].as_str().unwrap().to_owned()).collect();
        let whole = sbom["metadata"]["component"]["bom-ref"].as_str().unwrap().to_owned();
        for dependency in sbom["dependencies"].as_array().unwrap() {
            for end in std::iter::once(&dependency["ref"]).chain(dependency["dependsOn"].as_array().unwrap())
            {
                let end = end.as_str().unwrap();
                assert!(end == whole || parts.contains(end), "{end} is no part");
            }
        }
        parts
    };
    let program = json(&out.join(format!("reservoir-{VERSION}.cdx.json")));
    let crates = references(&program);
    for part in program["components"].as_array().unwrap() {
        let (name, version) = (part["name"].as_str().unwrap(), part["version"].as_str().unwrap());
        assert!(lock.contains(&format!("name = \"{name}\"\nversion = \"{version}\"\n")), "{name} {version}");
        assert!(part["licenses"][0]["expression"].is_string(), "{name}");
    }
    let has = |name: &str| crates.iter().any(|part| part.starts_with(&format!("pkg:cargo/{name}@")));
    assert!(has("kube") && has("ring") && !has("proptest") && !has("protox"), "{crates:?}");
    for arch in ["amd64", "arm64"] {
        let image = json(&out.join(format!("reservoir-{VERSION}-image-{arch}.cdx.json")));
        let parts = references(&image);
        assert!(parts.is_superset(&crates) && parts.contains(&format!("pkg:cargo/reservoir@{VERSION}")));
        assert!(parts.contains(&format!("pkg:deb/debian/libc6@2.41-12%2Bdeb13u5?arch={arch}&distro=trixie")));
    }
}

/// A release is of sources that have its version already.
#[test]
fn a_release_of_another_version_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let error = release("99.0.0").pack(&dir.path().join("out"), &[]).unwrap_err().to_string();
    for words in
        ["Cargo.toml has the version", "Chart.yaml has version:", "has appVersion:", "write 99.0.0 there"]
    {
        assert!(error.contains(words), "{error}");
    }
    assert!(!dir.path().join("out").exists());
}
