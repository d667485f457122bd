//! Manifests as people write them where the API server has no MutatingAdmissionPolicy (F6): with who makes each object.

use std::io::Write;

use tempfile::NamedTempFile;

use super::Tour;

/// A line of a manifest of pods with a `ReadOnly` claim, which is to be written there.
const READER: &str = "# readOnly: true";

impl Tour {
    /// A manifest of `examples/`, for the caller whom the arguments `caller` of kubectl name.
    pub(super) fn manifest(&self, example: &str, caller: &[&str]) -> anyhow::Result<NamedTempFile> {
        let mut text = std::fs::read_to_string(self.repository.join("examples").join(example))?;
        if !self.admission_writes()? {
            let documents: anyhow::Result<Vec<String>> =
                text.split("\n---\n").map(|document| self.signed(document, caller)).collect();
            text = documents?.join("\n---\n").replace(READER, &READER.replace("# ", ""));
        }
        let mut file = tempfile::Builder::new().suffix(".yaml").tempfile()?;
        file.write_all(text.as_bytes())?;
        Ok(file)
    }

    /// True if the API server serves MutatingAdmissionPolicy.
    pub(super) fn admission_writes(&self) -> anyhow::Result<bool> {
        let served = self.quietly(&["get", "--raw", "/apis/admissionregistration.k8s.io/v1"])?;
        Ok(served.contains("mutatingadmissionpolicies"))
    }

    /// The name of a caller, as the API server knows it.
    pub(super) fn username(&self, caller: &[&str]) -> anyhow::Result<String> {
        let whoami = ["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"];
        Ok(self.quietly(&[caller, &whoami].concat())?.trim().to_owned())
    }

    fn signed(&self, document: &str, caller: &[&str]) -> anyhow::Result<String> {
        let Some((kind, name)) = signable(document) else { return Ok(document.to_owned()) };
        let made =
            self.quietly(&["get", kind, name, "--ignore-not-found", "-o", "jsonpath={.spec.principal}"])?;
        let principal = match made.trim() {
            "" => self.username(caller)?,
            made => made.to_owned(),
        };
        Ok(sign(document, &principal))
    }
}

/// Kind and name of an object that has a principal.
fn signable(document: &str) -> Option<(&str, &str)> {
    let value = |key: &str| document.lines().find_map(|line| line.strip_prefix(key));
    let kind = value("kind: ").filter(|kind| ["DiskReservation", "SharedPersistentVolume"].contains(kind))?;
    Some((kind, value("  name: ")?))
}

fn sign(document: &str, principal: &str) -> String {
    document.replacen("\nspec:\n", &format!("\nspec:\n  principal: {principal:?}\n"), 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f6_reservations_and_volumes_are_signed_and_nothing_else() {
        let volume = "# A volume.\nkind: SharedPersistentVolume\nmetadata:\n  name: v\nspec:\n  role: r\n";
        assert_eq!(signable(volume), Some(("SharedPersistentVolume", "v")));
        let claim = volume.replace("SharedPersistentVolume", "VolumeClaim");
        assert_eq!(signable(&claim), None);
        assert!(sign(volume, "a:b").ends_with("\nspec:\n  principal: \"a:b\"\n  role: r\n"));
    }
}
