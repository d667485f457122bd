//! Debian root file systems, made from packages on machines that cannot pull images, and packages of other architectures.

use std::fs;
use std::path::Path;

use anyhow::Context;

use crate::command::Cmd;
use crate::packages;

/// The description of a root file system.
pub(crate) struct Rootfs<'a> {
    /// The release's code name.
    pub(crate) suite: &'a str,
    /// mmdebstrap's variant: `minbase` for a system with apt, `extract` for nothing but the packages' files.
    pub(crate) variant: &'a str,
    /// The packages besides those of the variant.
    pub(crate) packages: &'a [&'a str],
}

impl Rootfs<'_> {
    /// Writes the root file system to `archive`, a path that ends in `.tar`. Blocks; needs root.
    ///
    /// The root file system has this machine's mirror and proxy, so that apt works in it.
    pub(crate) fn write(&self, archive: &Path) -> anyhow::Result<()> {
        packages::ensure(&["mmdebstrap"])?;
        packages::update();
        let mut cmd = Cmd::new("mmdebstrap")
            .arg(format!("--variant={}", self.variant))
            .args(["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*"].map(|path| {
                // Debian's slim images leave these files out, too.
                format!("--dpkgopt=path-exclude={path}")
            }))
            .args(apt_settings().into_iter().map(|setting| format!("--aptopt={setting}")));
        if !self.packages.is_empty() {
            cmd = cmd.arg(format!("--include={}", self.packages.join(",")));
        }
        cmd = cmd.arg(self.suite).arg(archive).args(mirror().iter().flat_map(|mirror| {
            ["", "-updates"].map(|pocket| format!("deb {mirror} {}{pocket} main", self.suite))
        }));
        cmd.progress(format!("making a Debian {} root file system", self.suite)).run()?;
        Ok(())
    }
}

/// Packages of any architecture, with all that they depend on.
pub(crate) struct Download<'a> {
    /// The release's code name.
    pub(crate) suite: &'a str,
    /// Debian's name of the architecture.
    pub(crate) arch: &'a str,
    /// The packages.
    pub(crate) packages: &'a [&'a str],
}

impl Download<'_> {
    /// Unpacks each package into a directory of `dir` with the package's number, and returns their names and versions in the
    /// order of the numbers. Installs nothing. Blocks; needs apt.
    pub(crate) fn unpack(&self, dir: &Path) -> anyhow::Result<Vec<(String, String)>> {
        packages::ensure(&["debian-archive-keyring"])?;
        let apt = dir.join("apt");
        for directory in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(apt.join(directory))?;
        }
        // To this apt nothing is installed, so that it downloads everything.
        fs::write(apt.join("status"), "")?;
        let mirror = mirror().unwrap_or_else(|| "http://deb.debian.org/debian".to_owned());
        let mirror = mirror.trim_end_matches('/');
        let pockets = ["", "-updates"].map(|pocket| format!("{mirror} {}{pocket}", self.suite));
        let security = format!("{mirror}-security {}-security", self.suite);
        let key = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]";
        let sources: String =
            pockets.iter().chain([&security]).map(|from| format!("deb {key} {from} main\n")).collect();
        fs::write(apt.join("sources.list"), sources)?;
        let path = apt.display();
        let options = [
            format!("Dir::Etc::sourcelist={path}/sources.list"),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            format!("Dir::State::lists={path}/lists"),
            format!("Dir::State::status={path}/status"),
            format!("Dir::Cache={path}/cache"),
            format!("APT::Architecture={}", self.arch),
            format!("APT::Architectures={}", self.arch),
            // The directory is this user's alone.
            "APT::Sandbox::User=root".to_owned(),
        ];
        let apt_get = || {
            let cmd = Cmd::new("apt-get").args(["--yes", "--no-install-recommends"]);
            cmd.args(options.iter().flat_map(|option| ["--option", option]))
        };
        let what = format!("Debian {} for {}", self.suite, self.arch);
        apt_get().arg("update").progress(format!("reading the lists of {what}")).run()?;
        let download = apt_get().args(["--download-only", "install"]).args(self.packages);
        download.progress(format!("downloading packages of {what}")).run()?;
        let archives = fs::read_dir(apt.join("cache/archives"))?;
        let mut archives: Vec<_> = archives.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<_>>()?;
        archives.retain(|path| path.extension().is_some_and(|extension| extension == "deb"));
        archives.sort();
        let unpack = |(number, archive): (usize, &std::path::PathBuf)| {
            Cmd::new("dpkg-deb").arg("--extract").arg(archive).arg(dir.join(number.to_string())).run()?;
            let show = ["--show", "--showformat=${Package} ${Version}"];
            let shown = Cmd::new("dpkg-deb").args(show).arg(archive).run()?;
            let (name, version) = shown.split_once(' ').context("dpkg-deb shows no version")?;
            Ok((name.to_owned(), version.to_owned()))
        };
        archives.iter().enumerate().map(unpack).collect()
    }
}

/// The mirror of this machine. On a machine without Debian, mmdebstrap uses its own default.
fn mirror() -> Option<String> {
    let fields = ["--format", "$(REPO_URI)", "Created-By: Packages", "Origin: Debian", "Label: Debian"];
    let listed = Cmd::new("apt-get").arg("indextargets").args(fields).run().unwrap_or_default();
    listed.lines().next().map(str::to_owned)
}

/// The options with which this machine's apt reaches its mirror.
fn apt_settings() -> Vec<String> {
    let dump = Cmd::new("apt-config").arg("dump").run().unwrap_or_default();
    settings(&dump).map(str::to_owned).collect()
}

fn settings(dump: &str) -> impl Iterator<Item = &str> {
    let wanted = ["Acquire::http::", "Acquire::https::", "Acquire::Check-"];
    let lines = dump.lines().filter(move |line| wanted.iter().any(|prefix| line.starts_with(prefix)));
    lines.filter(|line| !line.ends_with("\"\";")).map(|line| line.trim_end_matches(';'))
}

#[cfg(test)]
mod tests {
    #[test]
    fn settings_are_those_of_the_way_to_the_mirror() {
        let dump = "APT \"\";\nAcquire::http \"\";\nAcquire::http::Proxy \"http://proxy:3128\";\n\
                    Acquire::Check-Valid-Until \"false\";\nAcquire::Languages \"none\";\n";
        let settings: Vec<_> = super::settings(dump).collect();
        assert_eq!(
            settings,
            ["Acquire::http::Proxy \"http://proxy:3128\"", "Acquire::Check-Valid-Until \"false\""]
        );
    }
}
