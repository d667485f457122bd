//! The minor releases of Kubernetes that the api tier runs, the oldest first.

use anyhow::Context;

use super::{KUBERNETES, Module};
use crate::version::Version;

static OLDER: [Module; 2] = [module!("kubernetes-1.34"), module!("kubernetes-1.35")];
static NEWER: [Module; 1] = [module!("kubernetes-1.37")];

/// A release that the tiers can run: the api tier each of them, the node tier the oldest and the default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release(&'static Module);

impl Default for Release {
    fn default() -> Self {
        Self(&KUBERNETES)
    }
}

impl Release {
    /// All of them, the oldest first.
    pub fn all() -> Vec<Self> {
        OLDER.iter().chain([&KUBERNETES]).chain(&NEWER).map(Self).collect()
    }

    /// The release that `RESERVOIR_KUBERNETES` names, such as `1.34`; without it the default.
    pub fn chosen() -> anyhow::Result<Self> {
        let Some(name) = std::env::var("RESERVOIR_KUBERNETES").ok().filter(|name| !name.is_empty()) else {
            return Ok(Self::default());
        };
        let mut minors = Vec::new();
        for release in Self::all() {
            let minor = release.minor()?;
            if name == minor || name == release.version()? {
                return Ok(release);
            }
            minors.push(minor);
        }
        anyhow::bail!("RESERVOIR_KUBERNETES is {name}, which is none of {}", minors.join(", "))
    }

    /// The version, such as `v1.34.4`.
    pub fn version(self) -> anyhow::Result<&'static str> {
        self.0.version("k8s.io/kubernetes")
    }

    /// The version without its patch, such as `1.34`.
    pub fn minor(self) -> anyhow::Result<String> {
        let version = self.number()?;
        Ok(format!("{}.{}", version.major, version.minor))
    }

    /// True if its API server serves MutatingAdmissionPolicy without a feature gate.
    pub fn has_mutating_policies(self) -> anyhow::Result<bool> {
        Ok(self.number()? >= Version { major: 1, minor: 36, patch: 0 })
    }

    pub(super) fn module(self) -> &'static Module {
        self.0
    }

    fn number(self) -> anyhow::Result<Version> {
        let version = self.version()?;
        Version::parse(version).with_context(|| format!("{version} is no version"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Cmd;
    use crate::programs::go_program;

    #[test]
    fn releases_are_of_all_minors_in_order() {
        let numbers: Vec<u32> =
            Release::all().into_iter().map(|release| release.number().unwrap().minor).collect();
        assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{numbers:?}");
        assert!(Release::all().contains(&Release::default()));
        for release in Release::all() {
            let minor = release.minor().unwrap();
            assert!(
                release == Release::default() || release.0.name == format!("kubernetes-{minor}"),
                "{release:?}"
            );
            // Each staging module is of the same release.
            let staging = release.version().unwrap().replace("v1.", "v0.");
            let replaced: Vec<&str> = release.0.go_mod.lines().filter(|line| line.contains(" => ")).collect();
            assert!(
                replaced.len() > 25 && replaced.iter().all(|line| line.ends_with(&staging)),
                "{replaced:?}"
            );
        }
    }

    #[test]
    fn a_later_patch_and_a_later_minor_are_newer() {
        let ours = ["1.34.4", "1.36.3"].map(|version| Version::parse(version).unwrap());
        let listed = "k8s.io/kubernetes v1.0.0 v1.33.9 v1.34.4 v1.34.5 v1.34.6 v1.35.1 v1.36.3 v1.36.4-rc.0 v1.37.0-alpha.1";
        assert_eq!(newer(listed, &ours), ["v1.34.6"]);
        assert_eq!(newer("k8s.io/kubernetes v1.36.3 v1.37.0 v1.38.1", &ours), ["v1.37.0", "v1.38.1"]);
        assert_eq!(newer("k8s.io/kubernetes v1.34.4", &ours), [""; 0]);
    }

    /// F6. What the Go module proxy has: a later patch of a release, or a later release.
    #[test]
    #[ignore = "needs the network, and fails when Kubernetes publishes a release: make test-versions runs it"]
    fn f6_the_releases_are_the_newest_that_are_published() {
        let list = Cmd::new(go_program().unwrap()).args(["list", "-m", "-versions", "k8s.io/kubernetes"]);
        let listed = list.dir("/").run().unwrap();
        let ours: Vec<Version> =
            Release::all().into_iter().map(|release| release.number().unwrap()).collect();
        let newer = newer(&listed, &ours);
        assert!(
            newer.is_empty(),
            "the Go module proxy has {}: add them to tools/cluster/go",
            newer.join(", ")
        );
    }

    /// The newest published version of each minor release that is newer than ours.
    fn newer(listed: &str, ours: &[Version]) -> Vec<String> {
        let same = |a: &Version, b: &Version| (a.major, a.minor) == (b.major, b.minor);
        let is_newer = |theirs: &Version| match ours.iter().find(|our| same(our, theirs)) {
            Some(our) => theirs > our,
            None => ours.iter().all(|our| theirs > our),
        };
        let published = listed.split_whitespace().filter(|word| !word.contains('-'));
        let published: Vec<Version> = published.filter_map(Version::parse).collect();
        let newest = |theirs: &&Version| !published.iter().any(|other| same(other, theirs) && other > theirs);
        let newer = published.iter().filter(newest).filter(|theirs| is_newer(theirs));
        newer.map(|Version { major, minor, patch }| format!("v{major}.{minor}.{patch}")).collect()
    }
}
