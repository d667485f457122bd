//! A real Prometheus for tests, and its promtool.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cache::Cache;
use crate::command::{Cmd, which};
use crate::packages;
use crate::ports;
use crate::process::Process;

/// The longest wait for an answer.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// A Prometheus on a free port of 127.0.0.1. A drop ends the process and removes its data.
#[derive(Debug)]
pub struct Prometheus {
    process: Process,
    url: String,
    _dir: TempDir,
}

impl Prometheus {
    /// Starts Prometheus with these `scrape_configs` and files of rules, and waits until it answers. It scrapes and evaluates each
    /// second. Blocks.
    pub fn start(scrape_configs: &Value, rules: &[&Path]) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("reservoir-prometheus-").tempdir()?;
        let config = json!({
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": rules,
            "scrape_configs": scrape_configs,
        });
        let file = dir.path().join("prometheus.json");
        fs::write(&file, serde_json::to_vec(&config)?)?;
        let url = format!("127.0.0.1:{}", ports::free()?);
        let args = [
            format!("--config.file={}", file.display()),
            format!("--storage.tsdb.path={}", dir.path().join("data").display()),
            format!("--web.listen-address={url}"),
        ];
        let process = Process::start(&program("prometheus")?, &args, &dir.path().join("prometheus.log"))?;
        let mut prometheus = Self { process, url: format!("http://{url}"), _dir: dir };
        let started = Instant::now();
        while prometheus.query("vector(1)").is_err() {
            prometheus.process.check().context("Prometheus did not start")?;
            ensure!(
                started.elapsed() < READY_WITHIN,
                "Prometheus does not answer:\n{}",
                prometheus.process.log_tail()
            );
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(prometheus)
    }

    /// The present value of an expression, a list of `{metric, value}`, or an error if the expression is invalid. Blocks.
    pub fn query(&self, expression: &str) -> anyhow::Result<Vec<Value>> {
        let query = Cmd::new(program("promtool")?).args(["query", "instant", "--format=json"]);
        let answer = query.args([self.url.as_str(), expression]).stdout_in_errors().run()?;
        serde_json::from_str(&answer).with_context(|| format!("{expression} is no list of samples: {answer}"))
    }
}

/// A program from Debian's package, or the user's own. An installed package would start a service, so the package is
/// unpacked into the cache.
pub fn program(name: &str) -> anyhow::Result<PathBuf> {
    if let Some(own) = which(name) {
        return Ok(own);
    }
    let unpacked = Cache::open()?.get("debian/prometheus", |path| packages::unpack("prometheus", path))?;
    Ok(unpacked.join("usr/bin").join(name))
}
