//! The report of `e2e.test`, and the verdict on it.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::Context;
use serde::Deserialize;

/// The end of the part that the names of all tests of the suite have in common.
const DRIVER: &str = "csi.reservoir.dev]";

/// A test, or a part of the suite that runs before or after all tests.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[derive(Default)]
pub(super) struct Spec {
    container_hierarchy_texts: Option<Vec<String>>,
    leaf_node_type: String,
    leaf_node_text: String,
    state: String,
    failure: Failure,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Failure {
    message: String,
}

/// The verdict on a run.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    passed: usize,
    failed: usize,
    /// The number of tests that skipped themselves, by their reason.
    skipped: BTreeMap<String, usize>,
    /// Faults that fail the run, a sentence each.
    pub(super) faults: Vec<String>,
}

/// The tests of a report that were selected.
pub(super) fn specs(json: &[u8]) -> anyhow::Result<Vec<Spec>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Report {
        spec_reports: Vec<Spec>,
    }
    let reports: Vec<Report> =
        serde_json::from_slice(json).context("failed to read the report of e2e.test")?;
    let specs = reports.into_iter().flat_map(|report| report.spec_reports);
    Ok(specs.filter(Spec::was_selected).collect())
}

impl Spec {
    /// A test that the command line leaves out is reported as skipped without a reason.
    fn was_selected(&self) -> bool {
        self.state != "skipped" || !self.failure.message.is_empty()
    }

    /// The name without the part that is the same for all.
    fn name(&self) -> String {
        let containers = self.container_hierarchy_texts.iter().flatten().map(String::as_str);
        let words: Vec<_> = containers.chain([self.leaf_node_text.as_str()]).collect();
        let name = words.join(" ");
        let own = name.split_once(DRIVER).map_or(name.as_str(), |(_, own)| own).trim();
        if own.is_empty() { self.leaf_node_type.clone() } else { own.to_owned() }
    }
}

impl Outcome {
    /// The verdict. `expected` has the tests that are expected to fail, as pass, name and reason; the page `documented`
    /// explains why tests skip themselves.
    pub(super) fn of(specs: &[Spec], expected: &[&[String; 3]], documented: &str) -> Self {
        let mut outcome = Self::default();
        let mut missing: BTreeMap<_, _> =
            expected.iter().map(|[_, name, reason]| (name.as_str(), reason)).collect();
        for spec in specs {
            let name = spec.name();
            let is_test = spec.leaf_node_type == "It";
            match spec.state.as_str() {
                "passed" if !is_test => {}
                "passed" => {
                    outcome.passed += 1;
                    if let Some(reason) = missing.remove(name.as_str()) {
                        outcome.faults.push(format!(
                            "passed although it is expected to fail ({reason}); take it out of expected-failures.tsv: {name}"
                        ));
                    }
                }
                "skipped" | "pending" => {
                    let reason = reason(&spec.failure.message);
                    *outcome.skipped.entry(reason).or_default() += 1;
                }
                state => {
                    outcome.failed += 1;
                    if missing.remove(name.as_str()).is_none() {
                        outcome.faults.push(format!("{state}: {name}\n    {}", start(&spec.failure.message)));
                    }
                }
            }
        }
        if outcome.passed + outcome.failed == 0 {
            outcome.faults.push("no test ran; correct the focus in passes.tsv".into());
        }
        let unexplained = outcome.skipped.keys().filter(|reason| !documented.contains(reason.as_str()));
        let unexplained: Vec<_> = unexplained
            .map(|reason| format!("docs/conformance.md does not explain the skip: {reason}"))
            .collect();
        outcome.faults.extend(unexplained);
        outcome.faults.extend(missing.into_keys().map(|name| {
            format!("did not run although it is in expected-failures.tsv; correct its name, or take it out: {name}")
        }));
        outcome
    }
}

/// The reason of a skip without the words that all reasons have in common.
fn reason(message: &str) -> String {
    let message = message.trim().trim_end_matches("skipping").trim_end_matches([' ', '-', ',']);
    let rest = message.replace('"', "");
    rest.strip_prefix("Driver csi.reservoir.dev ").unwrap_or(&rest).to_owned()
}

/// The first lines of a message, which may go on with whole objects.
fn start(message: &str) -> String {
    let lines = message.lines().map(str::trim_end).filter(|line| !line.is_empty()).take(6);
    lines.map(|line| line.chars().take(300).collect::<String>()).collect::<Vec<_>>().join("\n    ")
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let skipped: usize = self.skipped.values().sum();
        write!(f, "{} passed, {} failed, {skipped} skipped", self.passed, self.failed)?;
        for (reason, count) in &self.skipped {
            write!(f, "\n  {count:>3} skipped: {reason}")?;
        }
        for fault in &self.faults {
            write!(f, "\n  {fault}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = r#"[{"SuiteDescription": "Kubernetes e2e suite", "SpecReports": [
        {"LeafNodeType": "SynchronizedBeforeSuite", "ContainerHierarchyTexts": null, "LeafNodeText": "", "State": "passed"},
        {"LeafNodeType": "It", "ContainerHierarchyTexts": ["External Storage [Driver: csi.reservoir.dev]", "volumes"],
         "LeafNodeText": "store data", "State": "passed"},
        {"LeafNodeType": "It", "ContainerHierarchyTexts": ["External Storage [Driver: csi.reservoir.dev]", "volumes"],
         "LeafNodeText": "mount options", "State": "timedout", "Failure": {"Message": "no noatime\n\nin it"}},
        {"LeafNodeType": "It", "ContainerHierarchyTexts": ["External Storage [Driver: csi.reservoir.dev]", "block"],
         "LeafNodeText": "store data", "State": "skipped", "Failure": {"Message": "Driver \"csi.reservoir.dev\" has no block volumes - skipping"}},
        {"LeafNodeType": "It", "ContainerHierarchyTexts": ["Network"], "LeafNodeText": "works", "State": "skipped"}
    ]}]"#;

    fn faults(expected: &[&str], documented: &str) -> Vec<String> {
        let expected: Vec<_> = expected.iter().map(|name| ["any", name, "D5"].map(str::to_owned)).collect();
        let outcome =
            Outcome::of(&specs(REPORT.as_bytes()).unwrap(), &expected.iter().collect::<Vec<_>>(), documented);
        assert_eq!((outcome.passed, outcome.failed, outcome.skipped.len()), (1, 1, 1));
        outcome.faults
    }

    #[test]
    fn an_expected_failure_is_no_fault() {
        assert_eq!(faults(&["volumes mount options"], "has no block volumes"), [""; 0]);
        let unexpected = faults(&[], "has no block volumes");
        assert_eq!(unexpected, ["timedout: volumes mount options\n    no noatime\n    in it"]);
    }

    #[test]
    fn an_expected_failure_that_passes_is_a_fault() {
        let faults = faults(&["volumes mount options", "volumes store data"], "has no block volumes");
        assert!(faults.len() == 1 && faults[0].starts_with("passed although"), "{faults:?}");
    }

    #[test]
    fn an_expected_failure_that_does_not_run_is_a_fault() {
        let faults = faults(&["volumes mount options", "block store data"], "has no block volumes");
        assert!(faults.len() == 1 && faults[0].starts_with("did not run"), "{faults:?}");
    }

    #[test]
    fn a_skip_without_an_explanation_is_a_fault() {
        let faults = faults(&["volumes mount options"], "");
        assert_eq!(faults, ["docs/conformance.md does not explain the skip: has no block volumes"]);
    }

    #[test]
    fn a_run_without_a_test_is_a_fault() {
        assert_eq!(Outcome::of(&[], &[], "").faults.len(), 1);
    }
}
