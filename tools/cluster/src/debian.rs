//! Debian root file systems, made from packages on machines that cannot pull images.

use std::path::Path;

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
