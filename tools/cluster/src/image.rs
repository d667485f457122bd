//! The images that run in a cluster: the product's, and one for ordinary pods.
//!
//! Base images are pulled if this machine can pull images, else made from Debian packages under the same names. Every
//! function blocks.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use sha2::{Digest, Sha256};

use crate::command::Cmd;
use crate::debian::Rootfs;
use crate::docker::{self, Docker};
use crate::packages;
use crate::programs::go_program;
use crate::version::Version;

/// The product, built from the repository's Dockerfile.
pub const PRODUCT: &str = "localhost/reservoir:dev";

/// A shell and the usual small tools, for pods.
pub const TEST: &str = "localhost/reservoir-test:dev";

/// A small database, for a StatefulSet.
pub const STORE: &str = "localhost/reservoir-valkey:dev";

/// Stages of the product's image; a name keeps the layers, and with them the built dependencies and the installed packages.
const STAGES: [(&str, &str); 2] =
    [("build", "localhost/reservoir-build:dev"), ("tools", "localhost/reservoir-tools:dev")];

const DEBIAN: &str = "debian:trixie-slim";
const RUST_DOCKERFILE: &str = include_str!("../assets/rust.Dockerfile");
const STORE_DOCKERFILE: &str = include_str!("../assets/valkey.Dockerfile");

/// The bases of both images. The first time on a machine takes a minute.
pub(crate) fn ensure_bases(docker: &Docker) -> anyhow::Result<()> {
    if !docker.has_image(DEBIAN) && !docker.pull(DEBIAN)? {
        let work = tempfile::tempdir_in(docker.cache().root())?;
        let archive = work.path().join("debian.tar");
        Rootfs { suite: "trixie", variant: "minbase", packages: &[] }.write(&archive)?;
        docker.import(&archive, &["CMD [\"bash\"]"], DEBIAN)?;
    }
    let rust = rust_image(&rust_version()?);
    if !docker.has_image(&rust) && !docker.pull(&rust)? {
        compose_rust(docker, &rust)?;
    }
    Ok(())
}

/// Makes all images of the tour's pods.
pub fn build_all(docker: &Docker) -> anyhow::Result<[&'static str; 3]> {
    Ok([build_product(docker)?, build_test_image(docker)?, build_store(docker)?])
}

/// Builds [`PRODUCT`] from this crate's repository.
fn build_product(docker: &Docker) -> anyhow::Result<&'static str> {
    let _lock = docker::lock(docker.cache())?;
    ensure_bases(docker)?;
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let build = || -> anyhow::Result<Cmd> {
        let rust = format!("RUST={}", rust_version()?);
        // No test depends on the way of linking, so the fast way is used.
        Ok(docker.build().args(["--build-arg", &rust, "--build-arg", "PROFILE=image"]).dir(&repository))
    };
    for (stage, name) in STAGES {
        let target = format!("--target={stage}");
        let progress = format!("building the stage {stage} of the product's image");
        build()?.args([&target, "--tag", name, "."]).progress(progress).run()?;
    }
    build()?.args(["--tag", PRODUCT, "."]).progress("building the product's image").run()?;
    // Earlier images of these names are of no use any more.
    docker.cmd(["image", "prune", "--force", "--filter", "label=dev.reservoir.image"]).run()?;
    Ok(PRODUCT)
}

/// Makes [`TEST`]: Debian's static busybox and its applets, curl, and in `/dataset` the Go tool chain, as a data set of many
/// files that is on the machine anyway.
fn build_test_image(docker: &Docker) -> anyhow::Result<&'static str> {
    let _lock = docker::lock(docker.cache())?;
    let contents = test_contents()?;
    let label = ["image", "inspect", "--format", "{{index .Config.Labels \"dev.reservoir.contents\"}}", TEST];
    if docker.cmd(label).run().is_ok_and(|found| found.trim() == contents) {
        return Ok(TEST);
    }
    packages::ensure(&["busybox-static", "curl"])?;
    let work = tempfile::tempdir_in(docker.cache().root())?;
    let root = work.path().join("root");
    let bin = root.join("bin");
    for dir in ["bin", "etc", "tmp"] {
        fs::create_dir_all(root.join(dir))?;
    }
    fs::copy("/bin/busybox", bin.join("busybox")).context("failed to copy busybox")?;
    for applet in Cmd::new("/bin/busybox").arg("--list").run()?.lines().filter(|applet| *applet != "busybox")
    {
        symlink("busybox", bin.join(applet))?;
    }
    copy_program("/usr/bin/curl", &root)?;
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n")?;
    fs::write(root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n")?;
    let archive = work.path().join("test.tar");
    fs::set_permissions(root.join("tmp"), Permissions::from_mode(0o1777))?;
    let go = fs::canonicalize(Cmd::new(go_program()?).args(["env", "GOROOT"]).run()?.trim())?;
    let name = go.file_name().context("GOROOT is no directory")?.to_string_lossy();
    tar(&archive)
        .arg("--directory")
        .arg(&root)
        .args([".", &format!("--transform=s,^{name},./dataset,S")])
        .arg("--directory")
        .arg(go.parent().unwrap_or(&go))
        .arg(format!("{name}/"))
        .progress("packing the test image")
        .run()?;
    let label = format!("LABEL dev.reservoir.image=test dev.reservoir.contents={contents}");
    docker.import(&archive, &["ENV PATH=/bin:/usr/bin", "CMD [\"sh\"]", &label], TEST)?;
    Ok(TEST)
}

/// Copies a program, and the libraries that it is linked with, to the same paths beneath `root`.
fn copy_program(program: &str, root: &Path) -> anyhow::Result<()> {
    let linked = Cmd::new("ldd").arg(program).run()?;
    let libraries = linked.split_whitespace().filter(|word| word.starts_with('/'));
    for path in libraries.chain([program]) {
        let copy = root.join(path.trim_start_matches('/'));
        fs::create_dir_all(copy.parent().context("a library is in a directory")?)?;
        fs::copy(path, copy).with_context(|| format!("failed to copy {path}"))?;
    }
    Ok(())
}

/// Makes [`STORE`] from Debian's package.
fn build_store(docker: &Docker) -> anyhow::Result<&'static str> {
    let _lock = docker::lock(docker.cache())?;
    ensure_bases(docker)?;
    let context = tempfile::tempdir_in(docker.cache().root())?;
    fs::write(context.path().join("Dockerfile"), STORE_DOCKERFILE)?;
    let build = docker.build().args(["--tag", STORE, "."]).dir(context.path());
    build.progress("building the image of the database").run()?;
    Ok(STORE)
}

/// A key that changes with each part of [`TEST`]: this file, or the Go tool chain.
fn test_contents() -> anyhow::Result<String> {
    let go = Cmd::new(go_program()?).arg("version").run()?;
    Ok(format!("{:x}", Sha256::new().chain_update(include_str!("image.rs")).chain_update(go).finalize()))
}

/// The name of Rust's image for a version such as `1.95`, as the Dockerfile has it.
fn rust_image(version: &str) -> String {
    format!("rust:{version}-slim-trixie")
}

fn rust_version() -> anyhow::Result<String> {
    let said =
        Cmd::new("rustc").arg("--version").run().context("Rust is needed; install it and put it in PATH")?;
    let version = Version::find(&said).with_context(|| format!("no version in what rustc says: {said}"))?;
    Ok(format!("{}.{}", version.major, version.minor))
}

fn compose_rust(docker: &Docker, name: &str) -> anyhow::Result<()> {
    let sysroot = PathBuf::from(Cmd::new("rustc").args(["--print", "sysroot"]).run()?.trim());
    if sysroot == Path::new("/usr") {
        bail!("the toolchain is Debian's own and cannot be put into an image; install one with rustup");
    }
    let work = tempfile::tempdir_in(docker.cache().root())?;
    let machine = work.path().join("machine");
    fs::write(work.path().join("Dockerfile"), RUST_DOCKERFILE)?;
    copy_if_there(
        "/etc/ssl/certs/ca-certificates.crt".as_ref(),
        &machine.join("etc/ssl/certs/ca-certificates.crt"),
    )?;
    if let Some(home) = cargo_home() {
        copy_if_there(&home.join("config.toml"), &machine.join("usr/local/cargo/config.toml"))?;
    }
    let context = work.path().join("context.tar");
    tar(&context)
        .arg("--directory")
        .arg(&sysroot)
        .args(["--exclude=lib/rustlib/src", "bin/cargo", "bin/rustc", "lib"])
        .arg("--directory")
        .arg(work.path())
        .args(["Dockerfile", "machine"])
        .run()?;
    let build = docker.build().args(["--tag", name, "-"]).stdin(File::open(&context)?);
    build.progress("putting the Rust toolchain into an image").run()?;
    Ok(())
}

fn cargo_home() -> Option<PathBuf> {
    let set = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    set.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")))
}

fn copy_if_there(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to.parent().unwrap_or(to))?;
    if from.is_file() {
        fs::copy(from, to).with_context(|| format!("failed to copy {}", from.display()))?;
    }
    Ok(())
}

fn tar(archive: &Path) -> Cmd {
    Cmd::new("tar").args(["--create", "--owner=0", "--group=0", "--file"]).arg(archive)
}
