//! What a release consists of, made in one directory and sent nowhere: `make release VERSION=…`.
//!
//! No Docker takes part, since one machine makes the images of both architectures. Programs are cross-compiled, and the
//! other files of the image are unpacked from Debian's packages. The Dockerfile is the recipe ([`files::Recipe`]), so the
//! released image has what tests and demo run. [`pack`] needs no network.

mod chart;
mod files;
mod oci;
mod sbom;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use sha2::{Digest, Sha256};

use crate::cache::Cache;
use crate::command::Cmd;
use crate::packages;
use crate::progress::say;

/// Version of cargo-auditable, which writes the list of crates into the programs.
const AUDITABLE: &str = "0.7.7";

/// An architecture of a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arch {
    /// The name in images, Debian and krew.
    pub name: &'static str,
    /// Rust's and QEMU's name of the processor.
    cpu: &'static str,
}

/// The architectures of a release.
pub const ARCHS: [Arch; 2] = [Arch { name: "amd64", cpu: "x86_64" }, Arch { name: "arm64", cpu: "aarch64" }];

impl Arch {
    fn is_native(self) -> bool {
        self.cpu == std::env::consts::ARCH
    }

    /// The target of the Rust compiler.
    fn target(self) -> String {
        format!("{}-unknown-linux-gnu", self.cpu)
    }

    /// The prefix of the C tool chain's programs, and Debian's directory of libraries.
    fn gnu(self) -> String {
        format!("{}-linux-gnu", self.cpu)
    }

    /// QEMU's program for programs of another processor.
    fn emulator(self) -> String {
        format!("qemu-{}-static", self.cpu)
    }
}

/// The description of a release.
#[derive(Debug)]
pub struct Release {
    /// The version, without `v`.
    pub version: String,
    /// The image's repository, as the chart names it.
    pub image: String,
    /// The address beneath which the files of this release will be.
    pub url: String,
    /// The profile of Cargo.toml with which the programs are built.
    pub profile: String,
}

/// What was built for one architecture.
#[derive(Debug)]
pub struct Built {
    /// The architecture.
    pub arch: Arch,
    /// The root directory of the image.
    pub root: PathBuf,
    /// The plug-in's program.
    pub plugin: PathBuf,
    /// Debian's packages that have files in the image: name and version.
    pub packages: Vec<(String, String)>,
}

impl Release {
    /// Builds the release into the directory `out`, which is made anew. Blocks for many minutes; needs root, apt and crates.io.
    pub fn make(&self, out: &Path) -> anyhow::Result<()> {
        self.check()?;
        let work = tempfile::tempdir_in(Cache::open()?.root())?;
        let recipe = files::Recipe::of_dockerfile()?;
        let mut built = Vec::new();
        for arch in ARCHS {
            let programs = self.build(arch)?;
            let root = work.path().join(arch.name);
            let packages = recipe.collect(arch, &programs.join("reservoir"), &root)?;
            files::try_programs(arch, &root, &recipe, &self.version, &packages)?;
            built.push(Built { arch, root, plugin: programs.join("kubectl-reservoir"), packages });
        }
        self.pack(out, &built)?;
        say(format_args!("the release is in {}", out.display()));
        Ok(())
    }

    /// Makes the files of the release of what was built, in the directory `out`, which is made anew.
    pub fn pack(&self, out: &Path, built: &[Built]) -> anyhow::Result<()> {
        self.check()?;
        if out.exists() {
            fs::remove_dir_all(out).with_context(|| format!("failed to remove {}", out.display()))?;
        }
        fs::create_dir_all(out).with_context(|| format!("failed to make {}", out.display()))?;
        let recipe = files::Recipe::of_dockerfile()?;
        let program = sbom::Program::read(&self.version)?;
        write_json(&out.join(format!("reservoir-{}.cdx.json", self.version)), &program.sbom())?;
        for Built { arch, packages, .. } in built {
            let name = format!("reservoir-{}-image-{}.cdx.json", self.version, arch.name);
            write_json(
                &out.join(name),
                &program.sbom_of_image(&self.image, *arch, recipe.suite(), packages),
            )?;
        }
        let archive = out.join(format!("reservoir-{}-image.tar", self.version));
        oci::write(&archive, &format!("{}:{}", self.image, self.version), &recipe, built)?;
        let changes = changes(&fs::read_to_string(repository().join("CHANGELOG.md"))?, &self.version)?;
        fs::write(out.join("CHANGES.md"), &changes)?;
        chart::package(out, self, &changes)?;
        self.pack_plugin(out, built)?;
        checksums(out)
    }

    /// The version is in each file that has one; a release does not change sources.
    fn check(&self) -> anyhow::Result<()> {
        let version = &self.version;
        let cargo = sbom::metadata()?;
        let cargo = cargo["packages"].as_array().into_iter().flatten().find(|p| p["name"] == "reservoir");
        let cargo = cargo.and_then(|package| package["version"].as_str()).unwrap_or_default();
        let mut wrong = Vec::new();
        if cargo != version {
            wrong.push(format!("Cargo.toml has the version {cargo}"));
        }
        let chart = fs::read_to_string(crate::chart::path().join("Chart.yaml"))?;
        for key in ["version", "appVersion"] {
            let line = chart.lines().find_map(|line| line.strip_prefix(&format!("{key}: ")));
            if line != Some(version) {
                wrong.push(format!("charts/reservoir/Chart.yaml has {key}: {}", line.unwrap_or_default()));
            }
        }
        ensure!(
            wrong.is_empty(),
            "{}; write {version} there, then `cargo check` for Cargo.lock, and commit",
            wrong.join(", ")
        );
        Ok(())
    }

    /// Builds both programs for `arch`, and returns their directory.
    fn build(&self, arch: Arch) -> anyhow::Result<PathBuf> {
        let target = arch.target();
        let libraries = Cmd::new("rustc").args(["--print", "target-libdir", "--target", &target]).run()?;
        if !Path::new(libraries.trim()).is_dir() {
            let add = Cmd::new("rustup").args(["target", "add", &target]).dir(repository());
            add.progress(format!("getting Rust's libraries for {}", arch.name)).run()?;
        }
        let auditable = auditable()?;
        let path = auditable.parent().context("cargo-auditable is in no directory")?;
        let paths = std::env::var_os("PATH").unwrap_or_default();
        let paths = std::iter::once(path.to_owned()).chain(std::env::split_paths(&paths));
        // Messages of panics name source files; those of this machine tell nobody anything.
        let home =
            std::env::var("CARGO_HOME").or_else(|_| std::env::var("HOME").map(|h| format!("{h}/.cargo")))?;
        let flags = format!(
            "--remap-path-prefix={home}=/cargo --remap-path-prefix={}=/build",
            repository().display()
        );
        let mut cargo = Cmd::new("cargo")
            .args([
                "auditable",
                "build",
                "--locked",
                "--package=reservoir",
                "--bins",
                "--message-format=json",
            ])
            .args([format!("--target={target}"), format!("--profile={}", self.profile)])
            .env("PATH", std::env::join_paths(paths)?)
            .env("RUSTFLAGS", flags)
            .dir(repository());
        if !arch.is_native() {
            let gcc = format!("gcc-{}", arch.gnu().replace('_', "-"));
            packages::ensure(&[&gcc, &format!("libc6-dev-{}-cross", arch.name), "qemu-user-static"])?;
            let linker = format!("CARGO_TARGET_{}_LINKER", target.replace('-', "_").to_uppercase());
            cargo = cargo.env(&linker, format!("{}-gcc", arch.gnu()));
        }
        let said = cargo.progress(format!("building the programs for {}", arch.name)).run()?;
        let messages = said.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let made =
            messages.filter_map(|message| message["executable"].as_str().map(PathBuf::from)).next_back();
        let made = made.context("cargo does not say where it put the programs")?;
        Ok(made.parent().context("the programs are in no directory")?.to_owned())
    }

    /// The plug-in's archives, and the manifest by which krew installs it.
    fn pack_plugin(&self, out: &Path, built: &[Built]) -> anyhow::Result<()> {
        let mut platforms = String::new();
        for Built { arch, plugin, .. } in built {
            let name = format!("kubectl-reservoir-{}-linux-{}.tar.gz", self.version, arch.name);
            let dir = tempfile::tempdir()?;
            fs::copy(plugin, dir.path().join("kubectl-reservoir"))
                .with_context(|| format!("failed to copy {}", plugin.display()))?;
            fs::copy(repository().join("LICENSE"), dir.path().join("LICENSE"))?;
            tar(&out.join(&name))?.arg("--gzip").arg("--directory").arg(dir.path()).arg(".").run()?;
            platforms += &format!(
                "  - selector: {{matchLabels: {{os: linux, arch: {}}}}}\n    uri: {}/{name}\n    sha256: {}\n    bin: kubectl-reservoir\n",
                arch.name,
                self.url.trim_end_matches('/'),
                sha256(&out.join(&name))?
            );
        }
        let manifest = format!(
            "apiVersion: krew.googlecontainertools.github.com/v1alpha2\nkind: Plugin\nmetadata:\n  name: reservoir\nspec:\n  \
             version: v{}\n  homepage: {}\n  shortDescription: Shows and changes volumes of Reservoir\n  description: |\n    \
             Shows the place of every volume from disk to pod, says why something waits and what to do,\n    and makes \
             reservations, volumes and claims.\n  platforms:\n{platforms}",
            self.version, self.url
        );
        Ok(fs::write(out.join("krew.yaml"), manifest)?)
    }
}

/// The section of the changelog for `version`, or, for a version without one, what is unreleased.
fn changes(changelog: &str, version: &str) -> anyhow::Result<String> {
    let section = |name: &str| {
        let start = changelog.find(&format!("\n## [{name}]"))?;
        let text = changelog[start..].split_once('\n')?.1.split_once('\n')?.1;
        Some(text.split("\n## [").next().unwrap_or_default().trim())
    };
    let text = section(version).or_else(|| section("Unreleased"));
    match text.filter(|text| !text.is_empty()) {
        Some(text) => Ok(format!("# Reservoir {version}\n\n{text}\n")),
        None => bail!("CHANGELOG.md has no section [{version}], and nothing is [Unreleased]; write one"),
    }
}

/// The checksums of all files, in the form of sha256sum.
fn checksums(out: &Path) -> anyhow::Result<()> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(out)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    files.sort();
    let mut lines = String::new();
    for file in files {
        let name = file.file_name().and_then(OsStr::to_str).context("a file without a name")?;
        lines += &format!("{}  {name}\n", sha256(&file)?);
    }
    Ok(fs::write(out.join("SHA256SUMS"), lines)?)
}

fn sha256(file: &Path) -> anyhow::Result<String> {
    let bytes = fs::read(file).with_context(|| format!("failed to read {}", file.display()))?;
    Ok(format!("{:x}", Sha256::digest(bytes)))
}

fn write_json(path: &Path, value: &serde_json::Value) -> anyhow::Result<()> {
    Ok(fs::write(path, serde_json::to_string_pretty(value)? + "\n")?)
}

/// tar with the same bytes for the same files: order, owner and time are fixed.
fn tar(archive: &Path) -> anyhow::Result<Cmd> {
    let tar = Cmd::new("tar").args(["--create", "--sort=name", "--owner=0", "--group=0", "--numeric-owner"]);
    // gzip writes no time either.
    Ok(tar.env("GZIP", "-n").arg(format!("--mtime=@{}", time()?)).arg("--file").arg(archive))
}

/// The time of the release: that of its commit, in seconds since 1970.
fn time() -> anyhow::Result<u64> {
    let time = Cmd::new("git").args(["log", "-1", "--format=%ct"]).dir(repository()).run()?;
    time.trim().parse().context("git does not say when the last commit was made")
}

/// The time of the release, as in RFC 3339.
fn date() -> anyhow::Result<String> {
    let time =
        Cmd::new("date").args(["--utc", "+%Y-%m-%dT%H:%M:%SZ", &format!("--date=@{}", time()?)]).run()?;
    Ok(time.trim().to_owned())
}

fn repository() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    path.canonicalize().unwrap_or(path)
}

/// cargo-auditable, built once.
fn auditable() -> anyhow::Result<PathBuf> {
    Cache::open()?.get(&format!("bin/cargo-auditable-v{AUDITABLE}/cargo-auditable"), |path| {
        let root = tempfile::tempdir()?;
        let install = Cmd::new("cargo").args(["install", "--locked", "--version", AUDITABLE, "--root"]);
        let install = install.arg(root.path()).arg("cargo-auditable");
        install.progress("building cargo-auditable").run()?;
        fs::copy(root.path().join("bin/cargo-auditable"), path).map(drop)?;
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_those_of_the_version_or_unreleased() {
        let log = "# Changelog\n\n## [Unreleased]\n\n- new\n\n## [0.2.0] - 2026-01-02\n\n### Added\n\n- old\n\n## [0.1.0]\n\n- first\n";
        assert_eq!(changes(log, "0.2.0").unwrap(), "# Reservoir 0.2.0\n\n### Added\n\n- old\n");
        assert_eq!(changes(log, "0.3.0").unwrap(), "# Reservoir 0.3.0\n\n- new\n");
        let error =
            changes("# Changelog\n\n## [Unreleased]\n\n## [0.1.0]\n\n- first\n", "0.2.0").unwrap_err();
        assert!(error.to_string().contains("no section [0.2.0]"), "{error}");
    }
}
