//! The files of the image: what the Dockerfile names, from Debian's packages of any architecture, without running them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, bail, ensure};

use super::Arch;
use crate::command::Cmd;
use crate::debian::Download;

const DOCKERFILE: &str = include_str!("../../../../Dockerfile");

/// What the Dockerfile says of the image.
#[derive(Debug)]
pub(super) struct Recipe {
    programs: Vec<&'static str>,
    packages: Vec<&'static str>,
    suite: &'static str,
    pub(super) user: &'static str,
    pub(super) entrypoint: &'static str,
}

impl Recipe {
    pub(super) fn of_dockerfile() -> anyhow::Result<Self> {
        let between = |from: &str, to: &str| {
            let found = DOCKERFILE.split_once(from).and_then(|(_, rest)| rest.split_once(to));
            found.map(|(text, _)| text.trim()).with_context(|| format!("the Dockerfile has no `{from}…{to}`"))
        };
        Ok(Self {
            programs: between("for program in ", ";")?.split_whitespace().collect(),
            packages: between("--no-install-recommends ", "\\")?.split_whitespace().collect(),
            suite: between("\nFROM debian:", "-slim")?,
            user: between("\nUSER ", "\n")?,
            entrypoint: between("\nENTRYPOINT [\"", "\"]")?,
        })
    }

    /// The release of Debian.
    pub(super) fn suite(&self) -> &'static str {
        self.suite
    }

    /// Puts the files of the image into the new directory `root`. Returns name and version of the packages that they are from.
    pub(super) fn collect(
        &self,
        arch: Arch,
        program: &Path,
        root: &Path,
    ) -> anyhow::Result<Vec<(String, String)>> {
        let unpacked = tempfile::tempdir_in(root.parent().context("the image has no directory")?)?;
        let download = Download { suite: self.suite, arch: arch.name, packages: &self.packages };
        let unpacked =
            Unpacked { packages: download.unpack(unpacked.path())?, dir: unpacked.path(), arch, root };
        // Debian's base-files has these links, and the programs name their loader by them.
        for dir in ["lib", "lib64"] {
            fs::create_dir_all(root.join("usr").join(dir))?;
            symlink(format!("usr/{dir}"), root.join(dir))?;
        }
        let mut used = Vec::new();
        for name in &self.programs {
            match *name {
                "reservoir" => {
                    let to = root.join(self.entrypoint.trim_start_matches('/'));
                    fs::create_dir_all(to.parent().unwrap_or(root))?;
                    fs::copy(program, &to)?;
                    unpacked.libraries(&to, &mut used)?;
                }
                _ => unpacked.copy(&["usr/sbin", "usr/bin", "sbin", "bin"], name, &mut used)?,
            }
        }
        unpacked.copy(&["etc"], "mke2fs.conf", &mut used)?;
        used.sort_unstable();
        used.dedup();
        Ok(used.into_iter().map(|package| unpacked.packages[package].clone()).collect())
    }
}

/// Unpacked packages, each in the directory with its number.
struct Unpacked<'a> {
    packages: Vec<(String, String)>,
    dir: &'a Path,
    arch: Arch,
    root: &'a Path,
}

impl Unpacked<'_> {
    /// Copies a file that is in one of these directories, with all libraries that it loads, and notes the packages.
    fn copy(&self, directories: &[&str], name: &str, used: &mut Vec<usize>) -> anyhow::Result<()> {
        let paths = directories.iter().map(|directory| Path::new(directory).join(name));
        let (package, path) = paths
            .flat_map(|path| (0..self.packages.len()).map(move |package| (package, path.clone())))
            .find(|(package, path)| self.dir.join(package.to_string()).join(path).is_file())
            .with_context(|| format!("no package for {} has {name}", self.arch.name))?;
        let to = self.root.join(&path);
        if to.exists() {
            return Ok(());
        }
        used.push(package);
        fs::create_dir_all(to.parent().unwrap_or(self.root))?;
        fs::copy(self.dir.join(package.to_string()).join(path), &to)?;
        self.libraries(&to, used)
    }

    /// Copies the libraries that a file loads, if it is a program or library.
    fn libraries(&self, file: &Path, used: &mut Vec<usize>) -> anyhow::Result<()> {
        if !fs::read(file)?.starts_with(b"\x7fELF") {
            return Ok(());
        }
        let gnu = self.arch.gnu();
        let triple = format!("usr/lib/{gnu}");
        for name in needed(&Cmd::new("readelf").args(["--wide", "--dynamic"]).arg(file).run()?) {
            self.copy(&[&triple, "usr/lib", "usr/lib64", &format!("lib/{gnu}"), "lib64"], &name, used)?;
        }
        // A static library has no loader; every other file has the loader of libc.
        self.copy(&["usr/lib64", "usr/lib", &triple], loader(self.arch)?, used)
    }
}

fn loader(arch: Arch) -> anyhow::Result<&'static str> {
    match arch.name {
        "amd64" => Ok("ld-linux-x86-64.so.2"),
        "arm64" => Ok("ld-linux-aarch64.so.1"),
        other => bail!("the loader of {other} is not known"),
    }
}

/// The libraries that readelf's list of a file names.
fn needed(list: &str) -> Vec<String> {
    let lines = list.lines().filter(|line| line.contains("(NEEDED)"));
    lines.filter_map(|line| Some(line.split_once('[')?.1.split_once(']')?.0.to_owned())).collect()
}

/// Runs each program of the image with nothing but the image's files, under QEMU's emulation if the processor is another one.
/// Each says the version of this release, or of one of these packages of Debian.
pub(super) fn try_programs(
    arch: Arch,
    root: &Path,
    recipe: &Recipe,
    release: &str,
    packages: &[(String, String)],
) -> anyhow::Result<()> {
    let emulator = root.join("emulator");
    if !arch.is_native() {
        let from = Path::new("/usr/bin").join(arch.emulator());
        fs::copy(&from, &emulator).with_context(|| format!("failed to copy {}", from.display()))?;
    }
    let versions: Vec<&str> = packages.iter().map(|(_, version)| upstream(version)).collect();
    for name in &recipe.programs {
        let directories = ["usr/local/bin", "usr/sbin", "usr/bin"];
        let path =
            directories.iter().map(|dir| Path::new(dir).join(name)).find(|path| root.join(path).is_file());
        let path = path.with_context(|| format!("{name} is not in the image"))?;
        let (argument, versions) = match *name {
            "reservoir" => ("--version", &[release][..]),
            "lvm" => ("version", &versions[..]),
            _ => ("-V", &versions[..]),
        };
        // resize2fs and e2image print their version with their usage, to standard error, and fail.
        let script = "cd / && chroot \"$@\" 2>&1 || true";
        let emulated = (!arch.is_native()).then_some("/emulator");
        let command = Cmd::new("sh").args(["-c", script, "sh"]).arg(root).args(emulated);
        let said = command.arg(Path::new("/").join(path)).arg(argument).run()?;
        ensure!(
            versions.iter().any(|version| said.contains(version)),
            "{name} of the image for {} does not say its version, but: {said}",
            arch.name
        );
    }
    if emulator.exists() {
        fs::remove_file(emulator)?;
    }
    Ok(())
}

/// The version of the program in that of its package: `1.47.2` in `1:1.47.2-3+b12`.
fn upstream(version: &str) -> &str {
    let version = version.split_once(':').map_or(version, |(_, version)| version);
    version.rsplit_once('-').map_or(version, |(version, _)| version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recipe_is_the_dockerfile() {
        let recipe = Recipe::of_dockerfile().unwrap();
        assert!(
            recipe.programs.contains(&"mkfs.xfs") && recipe.programs.contains(&"reservoir"),
            "{recipe:?}"
        );
        assert_eq!(recipe.packages, ["e2fsprogs", "lvm2", "xfsprogs"]);
        assert_eq!(
            (recipe.suite, recipe.user, recipe.entrypoint),
            ("trixie", "65532:65532", "/usr/local/bin/reservoir")
        );
    }

    #[test]
    fn the_version_of_a_program_is_in_that_of_its_package() {
        assert_eq!(["1:1.47.2-3+b12", "2.03.31-2", "6"].map(upstream), ["1.47.2", "2.03.31", "6"]);
    }

    #[test]
    fn libraries_are_read_from_readelf() {
        let list =
            " 0x0001 (NEEDED)  Shared library: [libc.so.6]\n 0x000e (SONAME) Library soname: [libx.so.1]\n";
        assert_eq!(needed(list), ["libc.so.6"]);
    }
}
