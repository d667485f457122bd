//! Kubernetes' own storage tests against Reservoir: the external-storage suite of `e2e.test`.
//!
//! `tests/conformance` holds the passes, the description of the driver for each, and the expected failures.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};

use crate::cache::Cache;
use crate::command::Cmd;
use crate::docker::Docker;
use crate::image;
use crate::node::Cluster;
use crate::programs::Program;
use crate::progress::say;
use crate::tools;

mod report;

use report::{Outcome, Spec};

/// The tests of the suite have this before their own name.
const PREFIX: &str = r"External.Storage.*csi\.reservoir\.dev";

/// Tests that no pass runs. They need ssh to the nodes, Windows, snapshots, or images of other projects.
const LEFT_OUT: &str = r"\[Disruptive\]|\[Feature:Windows\]|[Ss]napshot|volumegroup|any volume data source";

/// The images that pods of the storage tests have.
const IMAGES: [&str; 4] = ["agnhost", "busybox", "glibc-dns-testing", "nginx"];

const DOCKERFILE: &str = include_str!("../assets/e2e.Dockerfile");

/// A run of `e2e.test`: one description of the driver, and the tests that are selected for that description.
struct Pass {
    name: String,
    /// Part of the name of `testdriver-….yaml`.
    driver: String,
    /// A regular expression on the names of tests, as ginkgo reads it. `skip` is another one.
    focus: String,
    skip: String,
}

/// Runs passes on a cluster that Reservoir is installed in; all but `quick` if `only` is empty.
///
/// An error if a test failed unexpectedly, or passed although the test is expected to fail. After an error, the objects of
/// the suite stay for a look at them.
pub fn run(cluster: &Cluster, only: &[String]) -> anyhow::Result<()> {
    let repository = repository();
    let directory = repository.join("tests/conformance");
    let passes = select(read(&directory.join("passes.tsv"))?, only)?;
    let expected = read::<3>(&directory.join("expected-failures.tsv"))?;
    let documented = fs::read_to_string(repository.join("docs/conformance.md"))?;
    let e2e = Program::Kubernetes("e2e.test").build(&Cache::open()?)?;
    if let Ok(docker) = cluster.docker() {
        load_images(cluster, docker, &e2e)?;
    }
    set_up(cluster, &directory)?;
    let mut faults = 0;
    for pass in &passes {
        let specs = run_pass(cluster, &e2e, &directory, pass)?;
        let expected: Vec<_> = expected.iter().filter(|[name, ..]| *name == pass.name).collect();
        let outcome = Outcome::of(&specs, &expected, &documented);
        println!("{}: {outcome}", pass.name);
        faults += outcome.faults.len();
    }
    ensure!(
        faults == 0,
        "the storage tests showed {faults} faults; the lines of their passes above say which"
    );
    tear_down(cluster, &directory)
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).map_or_else(PathBuf::new, PathBuf::from)
}

fn select(passes: Vec<[String; 4]>, only: &[String]) -> anyhow::Result<Vec<Pass>> {
    if let Some(unknown) = only.iter().find(|wanted| !passes.iter().any(|[name, ..]| name == *wanted)) {
        bail!("there is no pass {unknown} in tests/conformance/passes.tsv");
    }
    let wanted = |name: &String| if only.is_empty() { name != "quick" } else { only.contains(name) };
    let passes = passes.into_iter().filter(|[name, ..]| wanted(name));
    Ok(passes.map(|[name, driver, focus, skip]| Pass { name, driver, focus, skip }).collect())
}

/// The lines of a file of `N` columns, which tabs separate. Lines with `#` are comments.
fn read<const N: usize>(path: &Path) -> anyhow::Result<Vec<[String; N]>> {
    let text = fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))?;
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let columns = lines.map(|line| {
        let columns: Vec<_> = line.split('\t').map(str::to_owned).collect();
        columns.try_into().map_err(|_| anyhow::anyhow!("{} needs {N} columns: {line}", path.display()))
    });
    columns.collect()
}

/// Puts the suite's images on the nodes. Where images cannot be pulled, one image of ours gets each of the names.
fn load_images(cluster: &Cluster, docker: &Docker, e2e: &Path) -> anyhow::Result<()> {
    let listed = Cmd::new(e2e).arg("--list-images").run()?;
    let is_wanted = |image: &&str| {
        let name = image.rsplit('/').next().and_then(|last| last.split(':').next());
        image.contains("/e2e-test-images/") && name.is_some_and(|name| IMAGES.contains(&name))
    };
    let mut composed = None;
    for image in listed.lines().filter(is_wanted) {
        if !docker.pull(image)? {
            let ours = match &composed {
                Some(ours) => ours,
                None => composed.insert(compose(docker)?),
            };
            docker.cmd(["tag", ours, image]).run()?;
        }
        cluster.load_image(image)?;
    }
    Ok(())
}

fn compose(docker: &Docker) -> anyhow::Result<String> {
    image::ensure_bases(docker)?;
    let name = format!("localhost/reservoir-e2e:{}", Program::Kubernetes("agnhost").version()?);
    let context = tempfile::tempdir_in(docker.cache().root())?;
    fs::write(context.path().join("Dockerfile"), DOCKERFILE)?;
    fs::copy(Program::Kubernetes("agnhost").build(docker.cache())?, context.path().join("agnhost"))?;
    let build = docker.build().args(["--tag", &name, "."]).dir(context.path());
    build.progress("building the image of the storage tests").run()?;
    Ok(name)
}

fn set_up(cluster: &Cluster, directory: &Path) -> anyhow::Result<()> {
    cluster.kubectl()?.args(["apply", "-f"]).arg(directory.join("setup.yaml")).run()?;
    let ready =
        ["wait", "--for=condition=Ready", "--timeout=120s", "diskreservation/e2e-1", "diskreservation/e2e-2"];
    cluster.kubectl()?.args(ready).run().map(drop)
}

/// Removes what [`set_up`] has made. The volumes of the last test may still be ending.
fn tear_down(cluster: &Cluster, directory: &Path) -> anyhow::Result<()> {
    let delete = cluster.kubectl()?.args(["delete", "--timeout=120s", "-f"]);
    delete.arg(directory.join("setup.yaml")).run().map(drop)
}

fn run_pass(cluster: &Cluster, e2e: &Path, directory: &Path, pass: &Pass) -> anyhow::Result<Vec<Spec>> {
    let reports = reports()?;
    let report = reports.join(format!("{}.json", pass.name));
    // A report of an earlier run must not be taken for the report of this run.
    let _ = fs::remove_file(&report);
    let e2e = Cmd::new(e2e)
        .args(["-ginkgo.no-color", "-ginkgo.timeout=2h", "-provider=skeleton", "-allowed-not-ready-nodes=0"])
        .arg(format!("-ginkgo.focus={PREFIX}.*({})", pass.focus))
        .arg(format!("-ginkgo.skip={LEFT_OUT}|{}", pass.skip))
        .arg(format!("-ginkgo.json-report={}", report.display()))
        .arg(format!("-storage.testdriver=testdriver-{}.yaml", pass.driver))
        .arg(format!("-e2e-output-dir={}", reports.display()))
        .arg(format!("-kubectl-path={}", tools::kubectl()?.display()))
        .arg(format!("-kubeconfig={}", cluster.kubeconfig().display()))
        // Files that a description names are beneath this directory.
        .arg(format!("-repo-root={}", directory.display()))
        .dir(directory)
        .stdout_in_errors();
    let run = e2e.progress(format!("running the pass {}", pass.name)).run();
    // e2e.test fails when a test does. Only a run without a report is a failure of the run itself.
    match fs::read(&report) {
        Ok(json) => {
            say(format_args!("the whole report of the pass {}: {}", pass.name, report.display()));
            report::specs(&json)
        }
        Err(error) => Err(run.err().unwrap_or(error.into())),
    }
}

/// The directory of the reports.
fn reports() -> anyhow::Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let reports =
        std::path::absolute(target.unwrap_or_else(|| repository().join("target")))?.join("conformance");
    fs::create_dir_all(&reports).with_context(|| format!("failed to make {}", reports.display()))?;
    Ok(reports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_and_expected_failures_fit_together() {
        let directory = repository().join("tests/conformance");
        let passes = select(read(&directory.join("passes.tsv")).unwrap(), &[]).unwrap();
        for pass in &passes {
            let driver = directory.join(format!("testdriver-{}.yaml", pass.driver));
            assert!(driver.is_file(), "{} has no {}", pass.name, driver.display());
        }
        for [of, name, reason] in read(&directory.join("expected-failures.tsv")).unwrap() {
            assert!(passes.iter().any(|pass| pass.name == of), "{of} is no pass: {name}");
            assert!(!reason.trim().is_empty(), "no reason is given for {name}");
        }
    }

    #[test]
    fn a_part_is_run_by_name_only() {
        let passes = || read(&repository().join("tests/conformance/passes.tsv")).unwrap();
        assert!(select(passes(), &[]).unwrap().iter().all(|pass| pass.name != "quick"));
        assert_eq!(select(passes(), &["quick".into()]).unwrap().len(), 1);
        assert!(select(passes(), &["all".into()]).is_err());
    }
}
