//! Bills of material in the form of CycloneDX: the crates of the program, and Debian's packages in the image.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use serde_json::{Value, json};

use super::{Arch, date, repository};
use crate::command::Cmd;

/// The program with the crates that are linked into it.
pub(super) struct Program {
    version: String,
    created: String,
    /// The components by their references.
    crates: BTreeMap<String, Value>,
    /// The references of what each reference depends on.
    dependencies: BTreeMap<String, Vec<String>>,
}

/// What cargo knows of the workspace and its dependencies on Linux.
pub(super) fn metadata() -> anyhow::Result<Value> {
    // Both architectures have the same crates; test below.
    let cargo = Cmd::new("cargo").args(["metadata", "--locked", "--format-version=1"]);
    let said = cargo.arg("--filter-platform=x86_64-unknown-linux-gnu").dir(repository()).run()?;
    serde_json::from_str(&said).context("failed to read what cargo says of the dependencies")
}

impl Program {
    pub(super) fn read(version: &str) -> anyhow::Result<Self> {
        let metadata = metadata()?;
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let packages: BTreeMap<String, Value> =
            list(&metadata["packages"]).into_iter().map(|package| (text(&package["id"]), package)).collect();
        let nodes: BTreeMap<String, Value> =
            list(&metadata["resolve"]["nodes"]).into_iter().map(|node| (text(&node["id"]), node)).collect();
        let root = packages.iter().find(|(_, package)| package["name"] == "reservoir");
        let root = root.context("cargo does not know the package reservoir")?.0;
        let (mut crates, mut dependencies) = (BTreeMap::new(), BTreeMap::new());
        let (mut seen, mut open) = (BTreeSet::from([root.clone()]), vec![root.clone()]);
        while let Some(id) = open.pop() {
            let mut needs = Vec::new();
            for dependency in list(&nodes[&id]["deps"]) {
                // Without a kind it is linked; the others are for builds and tests.
                if list(&dependency["dep_kinds"]).iter().any(|kind| kind["kind"].is_null()) {
                    let needed = text(&dependency["pkg"]);
                    needs.push(reference(&packages[&needed]));
                    if seen.insert(needed.clone()) {
                        open.push(needed);
                    }
                }
            }
            dependencies.insert(reference(&packages[&id]), needs);
            if id != *root {
                crates.insert(reference(&packages[&id]), component(&packages[&id]));
            }
        }
        Ok(Self { version: version.to_owned(), created: date()?, crates, dependencies })
    }

    fn itself(&self) -> Value {
        let mut program = json!({ "type": "application", "name": "reservoir", "version": self.version });
        let reference = format!("pkg:cargo/reservoir@{}", self.version);
        program["bom-ref"] = json!(reference);
        program["purl"] = json!(reference);
        program["licenses"] = json!([{ "expression": "Apache-2.0" }]);
        program
    }

    /// Of the programs, which are of the same crates on both architectures.
    pub(super) fn sbom(&self) -> Value {
        self.document(self.itself(), self.crates.values().cloned().collect(), self.dependencies.clone())
    }

    /// Of the image for one architecture.
    pub(super) fn sbom_of_image(
        &self,
        image: &str,
        arch: Arch,
        suite: &str,
        packages: &[(String, String)],
    ) -> Value {
        let reference = format!("{image}:{}@{}", self.version, arch.name);
        let mut whole = json!({ "type": "container", "name": image, "version": self.version });
        whole["bom-ref"] = json!(reference);
        let debian = packages.iter().map(|(name, version)| {
            let encoded = version.replace('+', "%2B").replace(':', "%3A").replace('~', "%7E");
            let purl = format!("pkg:deb/debian/{name}@{encoded}?arch={}&distro={suite}", arch.name);
            json!({ "type": "library", "bom-ref": purl, "purl": purl, "name": name, "version": version })
        });
        let parts: Vec<Value> =
            std::iter::once(self.itself()).chain(self.crates.values().cloned()).chain(debian).collect();
        let mut dependencies = self.dependencies.clone();
        let of = |part: &Value| part["bom-ref"].as_str().unwrap_or_default().to_owned();
        let direct = parts.iter().filter(|part| !self.crates.contains_key(&of(part))).map(of).collect();
        dependencies.insert(reference, direct);
        self.document(whole, parts, dependencies)
    }

    fn document(&self, of: Value, parts: Vec<Value>, needs: BTreeMap<String, Vec<String>>) -> Value {
        let needs: Vec<Value> =
            needs.into_iter().map(|(part, needed)| json!({ "ref": part, "dependsOn": needed })).collect();
        json!({
            "bomFormat": "CycloneDX",
            "specVersion": "1.5",
            "version": 1,
            "metadata": { "timestamp": self.created, "component": of },
            "components": parts,
            "dependencies": needs,
        })
    }
}

/// The package URL of a crate.
fn reference(package: &Value) -> String {
    let text = |key: &str| package[key].as_str().unwrap_or_default();
    format!("pkg:cargo/{}@{}", text("name"), text("version").replace('+', "%2B"))
}

fn component(package: &Value) -> Value {
    let reference = reference(package);
    let mut component = json!({ "type": "library", "name": package["name"], "version": package["version"] });
    component["bom-ref"] = json!(reference);
    component["purl"] = json!(reference);
    if let Some(license) = package["license"].as_str() {
        // Old crates write a slash for "or".
        component["licenses"] = json!([{ "expression": license.replace('/', " OR ") }]);
    }
    component
}
