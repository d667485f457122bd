//! Tier *api*: etcd, kube-apiserver and, where wanted, kube-controller-manager as child processes.
//!
//! `RESERVOIR_KUBERNETES` chooses the release of Kubernetes ([`crate::programs::Release`]).
//!
//! Guarantees: ready within seconds from a warm cache; any number side by side; the processes end with this process,
//! however it ends. Assumes util-linux's `setpriv` and `openssl`; root is not needed.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use kube::{Api, Client};
use tempfile::TempDir;

use crate::cache::Cache;
use crate::interrupt;
use crate::ports;
use crate::process::Process;
use crate::programs::Program;

mod files;

/// The longest start of a process, on a machine that is busy with other tests.
const READY_WITHIN: Duration = Duration::from_secs(90);

/// Puts what an API server and a controller manager are started from into the cache. Blocks, the first time for minutes.
pub fn prepare() -> anyhow::Result<()> {
    Programs::find(true).map(drop)
}

/// The parts of an [`ApiServer`].
#[derive(Clone, Copy, Debug, Default)]
pub struct ApiOptions {
    /// Runs kube-controller-manager too: garbage collection, binding of PVs and PVCs, service accounts.
    ///
    /// Without it nobody makes the `default` service accounts, so the ServiceAccount admission plug-in, which demands
    /// one for every pod, is off.
    pub controller_manager: bool,
    /// Writes an audit log.
    pub audit: bool,
}

/// A kube-apiserver with its own etcd on free ports of 127.0.0.1.
///
/// Authorization is RBAC; every admission plug-in that is on by default is on. Dropping it ends the processes and
/// removes their data.
#[derive(Debug)]
pub struct ApiServer {
    // Fields drop in this order: each process before the one it talks to, their files last.
    scheduler: Option<Process>,
    controller_manager: Option<Process>,
    apiserver: Option<Process>,
    etcd: Option<Process>,
    etcd_program: PathBuf,
    etcd_args: Vec<String>,
    program: PathBuf,
    args: Vec<String>,
    port: u16,
    dir: TempDir,
}

impl ApiServer {
    /// Starts it and waits until it is ready. The first call on a machine builds the binaries, which takes minutes.
    ///
    /// The error carries the end of the log of the process that did not become ready.
    pub async fn start(options: ApiOptions) -> anyhow::Result<Self> {
        let programs =
            tokio::task::spawn_blocking(move || Programs::find(options.controller_manager)).await??;
        let dir = tempfile::Builder::new().prefix("reservoir-api-").tempdir();
        let dir = dir.context("failed to make a directory for the API server's data")?;
        files::write_inputs(dir.path())?;
        let (etcd_port, port) = (ports::free()?, ports::free()?);
        let mut server = Self {
            scheduler: None,
            controller_manager: None,
            apiserver: None,
            etcd: None,
            etcd_program: programs.etcd,
            etcd_args: files::etcd_args(dir.path(), etcd_port),
            program: programs.apiserver,
            args: files::apiserver_args(dir.path(), etcd_port, port, options),
            port,
            dir,
        };
        server.start_etcd()?;
        server.start_apiserver().await?;
        if let Some(program) = programs.controller_manager {
            server.start_controller_manager(&program).await?;
        }
        Ok(server)
    }

    /// Kills kube-apiserver and starts it again on the same port, with the same data and certificates.
    pub async fn restart_apiserver(&mut self) -> anyhow::Result<()> {
        self.apiserver = None;
        self.start_apiserver().await
    }

    /// Starts kube-scheduler, which binds pods to Nodes that are Ready and have room for pods.
    pub async fn start_scheduler(&mut self) -> anyhow::Result<()> {
        let find = || Programs::locate(Program::Kubernetes("kube-scheduler"));
        let program = tokio::task::spawn_blocking(find).await??;
        let kubeconfig = self.kubeconfig_path().display().to_string();
        let args = ["--leader-elect=false", "--secure-port=0"].map(str::to_owned).into_iter();
        let args: Vec<_> = args.chain([format!("--kubeconfig={kubeconfig}")]).collect();
        self.scheduler = Some(Process::start(&program, &args, &self.dir.path().join("kube-scheduler.log"))?);
        Ok(())
    }

    /// A copy of all that etcd has.
    pub async fn back_up(&mut self) -> anyhow::Result<TempDir> {
        let backup = tempfile::Builder::new().prefix("reservoir-etcd-").tempdir()?;
        self.apiserver = None;
        self.etcd = None;
        copy(&self.dir.path().join("etcd"), backup.path())?;
        self.start_etcd()?;
        self.start_apiserver().await.map(|()| backup)
    }

    /// Gives etcd what it had at that time. Clients have to be started again, as after any restore: revisions go back.
    pub async fn restore(&mut self, backup: &TempDir) -> anyhow::Result<()> {
        let data = self.dir.path().join("etcd");
        self.apiserver = None;
        self.etcd = None;
        std::fs::remove_dir_all(&data).context("failed to remove the data of etcd")?;
        copy(backup.path(), &data)?;
        self.start_etcd()?;
        self.start_apiserver().await
    }

    /// Ends the processes and removes their data.
    pub async fn stop(self) -> anyhow::Result<()> {
        let Self { scheduler, controller_manager, apiserver, etcd, dir, .. } = self;
        drop((scheduler, controller_manager, apiserver, etcd));
        dir.close().context("failed to remove the API server's data")
    }

    /// A kubeconfig file of a user in `system:masters`.
    pub fn kubeconfig_path(&self) -> PathBuf {
        self.dir.path().join(files::ADMIN_KUBECONFIG)
    }

    /// The content of [`Self::kubeconfig_path`].
    pub fn kubeconfig(&self) -> anyhow::Result<Kubeconfig> {
        Kubeconfig::read_from(self.kubeconfig_path()).context("failed to read the kubeconfig")
    }

    /// A client of a user in `system:masters`.
    pub async fn client(&self) -> anyhow::Result<Client> {
        client(self.kubeconfig()?).await
    }

    /// A client that acts as `user` in `groups`, with the rights that RBAC gives them.
    pub async fn client_as(&self, user: &str, groups: &[&str]) -> anyhow::Result<Client> {
        let mut kubeconfig = self.kubeconfig()?;
        for auth_info in kubeconfig.auth_infos.iter_mut().filter_map(|named| named.auth_info.as_mut()) {
            auth_info.impersonate = Some(user.to_owned());
            auth_info.impersonate_groups = Some(groups.iter().map(|&group| group.to_owned()).collect());
        }
        client(kubeconfig).await
    }

    /// The audit log, one JSON object per line: every write of every user, if [`ApiOptions::audit`] was set.
    pub fn audit_log(&self) -> PathBuf {
        self.dir.path().join(files::AUDIT_LOG)
    }

    fn start_etcd(&mut self) -> anyhow::Result<()> {
        let log = self.dir.path().join("etcd.log");
        self.etcd = Some(Process::start(&self.etcd_program, &self.etcd_args, &log)?);
        Ok(())
    }

    async fn start_apiserver(&mut self) -> anyhow::Result<()> {
        let log = self.dir.path().join("kube-apiserver.log");
        let apiserver = self.apiserver.insert(Process::start(&self.program, &self.args, &log)?);
        let started = Instant::now();
        let certificate = self.dir.path().join(files::CERTIFICATE);
        loop {
            if let Some(etcd) = &mut self.etcd {
                still_starting("etcd", etcd, started)?;
            }
            still_starting("kube-apiserver", apiserver, started)?;
            // kube-apiserver makes its certificate at its first start; clients need the certificate.
            if certificate.exists() {
                files::write_kubeconfigs(self.dir.path(), self.port)?;
                if ready(&self.dir.path().join(files::ADMIN_KUBECONFIG)).await.is_ok() {
                    return Ok(());
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn start_controller_manager(&mut self, program: &Path) -> anyhow::Result<()> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client().await?, "default");
        let log = self.dir.path().join("kube-controller-manager.log");
        let args = files::controller_manager_args(self.dir.path());
        let process = self.controller_manager.insert(Process::start(program, &args, &log)?);
        let started = Instant::now();
        // Every pod needs this account, so its being there is what "ready" means to a test.
        while accounts.get_opt("default").await?.is_none() {
            still_starting("kube-controller-manager", process, started)?;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }
}

/// Copies a directory with all that is in it.
fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let (from, to) = (entry?.path(), to.to_owned());
        let to = to.join(from.file_name().context("a file without a name")?);
        match from.is_dir() {
            true => copy(&from, &to)?,
            false => drop(std::fs::copy(&from, &to)?),
        }
    }
    Ok(())
}

/// An error if there is nothing to wait for any more.
fn still_starting(name: &str, process: &mut Process, since: Instant) -> anyhow::Result<()> {
    process.check().with_context(|| format!("{name} did not start"))?;
    ensure!(!interrupt::requested(), "asked to stop while {name} was starting");
    let waited = since.elapsed();
    ensure!(
        waited < READY_WITHIN,
        "{name} was not ready after {} s:\n{}",
        waited.as_secs(),
        process.log_tail()
    );
    Ok(())
}

/// The binaries, from `KUBEBUILDER_ASSETS` where it is set and has them, else from the cache.
struct Programs {
    etcd: PathBuf,
    apiserver: PathBuf,
    controller_manager: Option<PathBuf>,
}

impl Programs {
    fn find(controller_manager: bool) -> anyhow::Result<Self> {
        Ok(Self {
            etcd: Self::locate(Program::Etcd)?,
            apiserver: Self::locate(Program::Kubernetes("kube-apiserver"))?,
            controller_manager: controller_manager
                .then(|| Self::locate(Program::Kubernetes("kube-controller-manager")))
                .transpose()?,
        })
    }

    fn locate(program: Program) -> anyhow::Result<PathBuf> {
        let assets = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
        let given = assets.map(|dir| dir.join(program.name())).filter(|file| file.is_file());
        given.map_or_else(|| program.build(&Cache::open()?), Ok)
    }
}

async fn ready(kubeconfig: &Path) -> anyhow::Result<()> {
    let client = client(Kubeconfig::read_from(kubeconfig)?).await?;
    let answer = client.request_text(http::Request::get("/readyz").body(Vec::new())?);
    tokio::time::timeout(Duration::from_secs(5), answer).await??;
    Ok(())
}

async fn client(kubeconfig: Kubeconfig) -> anyhow::Result<Client> {
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    Client::try_from(config.context("failed to use the kubeconfig")?).context("failed to make a client")
}
