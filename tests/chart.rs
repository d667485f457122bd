//! What the chart must not do: mistakes that others have published.

use std::fs;
use std::path::{Path, PathBuf};

/// Every file of the chart, with its text.
fn chart() -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    let mut directories = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/reservoir")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => directories.push(path),
                false => files.push((path.clone(), fs::read_to_string(path).unwrap())),
            }
        }
    }
    files
}

/// A4. CVE-2026-44543: a template of a helper pod into which users could write. Nobody here can make a pod at all.
#[test]
fn cve_2026_44543_there_are_no_helper_pods() {
    let mut rules = 0;
    for (path, text) in chart() {
        let mut resources = "";
        for line in text.lines().map(str::trim) {
            if let Some(list) = line.strip_prefix("resources: ") {
                resources = list;
            } else if let Some(verbs) = line.strip_prefix("verbs: ") {
                rules += 1;
                let runs_something = ["pods", "jobs", "daemonsets", "deployments", "statefulsets", "\"*\""]
                    .iter()
                    .any(|kind| resources.contains(kind));
                let writes = ["create", "update", "patch", "\"*\""].iter().any(|verb| verbs.contains(verb));
                assert!(!(runs_something && writes), "{}: {resources} {verbs}", path.display());
            }
        }
    }
    assert!(rules > 10, "{rules} rules were found");
}

/// X7. zfs-localpv 517, topolvm 1206: uninstalling or upgrading a chart deleted the kinds, and with them all data.
#[test]
fn zfs_localpv_517_topolvm_1206_helm_keeps_the_kinds() {
    let mut kinds = 0;
    for (path, text) in chart() {
        assert!(!text.contains("helm.sh/hook-delete-policy"), "{}", path.display());
        if text.contains("kind: CustomResourceDefinition") && path.extension().is_some_and(|e| e == "yaml") {
            kinds += 1;
            assert!(text.contains("helm.sh/resource-policy: keep"), "{}", path.display());
        }
    }
    assert_eq!(kinds, reservoir::api::crds().len());
}
