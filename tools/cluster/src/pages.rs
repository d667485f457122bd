//! The documentation's commands, run: each fenced block of a page is treated in one of the ways below, or the page is refused.
//!
//! | the fence says | what is done with the block |
//! |---|---|
//! | `sh` | bash runs it, in the order of the page; it must succeed |
//! | `console` | each command after `$ ` is run and what it prints is compared: blanks count as one, ages and UIDs as any, `…` as anything; where nothing is shown, anything is right. If an error is shown, the command must fail |
//! | `yaml` | a manifest is tried on the API server and not kept; anything else is rendered by the chart as its values |
//! | `play` | something happens to the cluster that no command does, such as the end of a node; it belongs into a comment of the page |
//! | `text`, `rust` | nothing |
//!
//! A second word says what a `sh` or `console` block needs: `cluster` pods that run, so only the node tier runs it; `make` the
//! repository, so it is looked up in the Makefile; `api` what only the api tier has, a cluster without Reservoir or the nodes'
//! directories; `elsewhere` something that no test has, such as a registry. What is not run is at least read by bash.
//!
//! Blocks in comments of a page (`<!-- … -->`) are run like others: what a reader has already and a test has not.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::command::Cmd;

/// The longest wait for a command that looks to print the page's text.
const PATIENCE: Duration = Duration::from_secs(60);

/// The longest run of a block.
const BLOCK_LIMIT: Duration = Duration::from_secs(300);

/// The kind of a fenced block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Code {
    /// A script.
    Script(String),
    /// Commands, each with what it prints.
    Console(Vec<(String, String)>),
    /// A manifest, or values of the chart.
    Yaml(String),
    /// Events of the cluster, a line each.
    Play(Vec<String>),
    /// Not code that could be run.
    Text,
}

/// The need of a block besides an API server with Reservoir.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing.
    Nothing,
    /// Pods that run.
    Cluster,
    /// A cluster in which Reservoir is not installed by Helm yet, or nodes whose directories are this machine's.
    Api,
    /// The repository; it is a target of the Makefile.
    Make,
    /// Something that no test has.
    Elsewhere,
}

/// A fenced block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The line of its fence.
    pub line: usize,
    /// The kind of the block.
    pub code: Code,
    /// The need of the block.
    pub needs: Needs,
}

/// A page.
#[derive(Clone, Debug)]
pub struct Page {
    /// Path beneath the repository.
    pub path: PathBuf,
    /// Blocks, in order.
    pub blocks: Vec<Block>,
}

impl Page {
    /// README, CONTRIBUTING, the chart's README and every page beneath docs/, in order of their names. A block that nothing is known to be done with
    /// is an error. `names` is what pages call something, and what it is called where they are run.
    pub fn all(repository: &Path, names: &[(String, String)]) -> anyhow::Result<Vec<Self>> {
        let mut paths: Vec<PathBuf> =
            ["CONTRIBUTING.md", "README.md", "charts/reservoir/README.md"].map(PathBuf::from).into();
        let mut directories = vec![PathBuf::from("docs")];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(repository.join(&directory))? {
                let path = directory.join(entry?.file_name());
                match repository.join(&path).is_dir() {
                    true => directories.push(path),
                    false if path.extension().is_some_and(|e| e == "md") => paths.push(path),
                    false => {}
                }
            }
        }
        paths.sort();
        paths.into_iter().map(|path| Self::read(repository, path, names)).collect()
    }

    fn read(repository: &Path, path: PathBuf, names: &[(String, String)]) -> anyhow::Result<Self> {
        let text = fs::read_to_string(repository.join(&path))?;
        let text = names.iter().fold(text, |text, (page, here)| text.replace(page, here));
        let blocks = parse(&text).with_context(|| format!("in {}", path.display()))?;
        Ok(Self { path, blocks })
    }

    /// True if a block of the page runs on an API server alone.
    pub fn is_for_api_tier(&self) -> bool {
        let runs =
            |b: &Block| matches!(b.needs, Needs::Nothing | Needs::Api) && !matches!(b.code, Code::Text);
        self.blocks.iter().any(runs)
    }

    /// True if a block of the page needs running pods.
    pub fn is_for_node_tier(&self) -> bool {
        self.blocks.iter().any(|block| block.needs == Needs::Cluster)
    }
}

/// The blocks of a page's text.
fn parse(text: &str) -> anyhow::Result<Vec<Block>> {
    let mut blocks = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((i, line)) = lines.next() {
        let Some(info) = line.trim_start().strip_prefix("```") else { continue };
        let indent = line.len() - line.trim_start().len();
        let mut code = String::new();
        loop {
            let (_, line) = lines.next().with_context(|| format!("line {}: it has no end", i + 1))?;
            if line.trim() == "```" {
                break;
            }
            code.push_str(line.get(indent..).unwrap_or_default());
            code.push('\n');
        }
        blocks.push(block(i + 1, info, code).with_context(|| format!("line {}: ```{info}", i + 1))?);
    }
    Ok(blocks)
}

fn block(line: usize, info: &str, code: String) -> anyhow::Result<Block> {
    let (language, needs) = info.trim().split_once(' ').unwrap_or((info.trim(), ""));
    let code = match language {
        "sh" => Code::Script(code),
        "console" => Code::Console(commands(&code)?),
        "yaml" => Code::Yaml(code),
        "play" => Code::Play(code.lines().map(str::to_owned).collect()),
        "text" | "rust" => Code::Text,
        _ => bail!("nothing is known to be done with it: say sh, console, yaml or text"),
    };
    let needs = match needs.trim() {
        "" => Needs::Nothing,
        "cluster" => Needs::Cluster,
        "api" => Needs::Api,
        "make" => Needs::Make,
        "elsewhere" => Needs::Elsewhere,
        other => bail!("`{other}` is not known: say cluster, api, make or elsewhere, or leave it out"),
    };
    let can_need = matches!(code, Code::Script(_) | Code::Console(_));
    ensure!(can_need || needs == Needs::Nothing, "only sh and console need something");
    Ok(Block { line, code, needs })
}

/// The commands of a console block, each with what it prints. A line that ends in `\` goes on in the next.
fn commands(code: &str) -> anyhow::Result<Vec<(String, String)>> {
    let mut commands: Vec<(String, String)> = Vec::new();
    let mut goes_on = false;
    for line in code.lines() {
        match (line.strip_prefix("$ "), commands.last_mut()) {
            (_, Some((command, _))) if goes_on => {
                command.push('\n');
                command.push_str(line);
            }
            (Some(command), _) => commands.push((command.to_owned(), String::new())),
            (None, Some((_, printed))) => {
                printed.push_str(line);
                printed.push('\n');
                continue;
            }
            (None, None) => bail!("it does not begin with `$ `"),
        }
        goes_on = line.ends_with('\\');
    }
    ensure!(!commands.is_empty(), "there is no command in it");
    Ok(commands)
}

/// The tier that a page is run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// An API server, without pods that run.
    Api,
    /// A cluster.
    Node,
}

/// The environment of a page's commands.
pub struct Shell {
    /// The kubeconfig of the API server.
    pub kubeconfig: PathBuf,
    /// Directories of kubectl, helm and other programs, before those of PATH.
    pub programs: Vec<PathBuf>,
    /// The command prefix with which bash is started.
    pub within: Vec<String>,
    /// The repository.
    pub repository: PathBuf,
    directory: tempfile::TempDir,
}

impl Shell {
    /// A shell in a directory of its own, in which the repository's examples and chart are.
    pub fn new(
        repository: &Path,
        kubeconfig: PathBuf,
        programs: Vec<PathBuf>,
        within: Vec<String>,
    ) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("reservoir-page-").tempdir()?;
        for name in ["charts", "crds", "docs", "examples"] {
            std::os::unix::fs::symlink(repository.join(name), directory.path().join(name))?;
        }
        Ok(Self { kubeconfig, programs, within, repository: repository.to_owned(), directory })
    }

    fn bash(&self, script: &str, flags: &str) -> anyhow::Result<Cmd> {
        let mut path = self.programs.clone();
        path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
        let words =
            self.within.iter().map(String::as_str).chain(["bash", flags, "-o", "pipefail", "-c", script]);
        let words: Vec<&str> = words.collect();
        Ok(Cmd::new(words[0])
            .args(&words[1..])
            .env("KUBECONFIG", &self.kubeconfig)
            .env("PATH", std::env::join_paths(path)?)
            .dir(self.directory.path())
            .timeout(BLOCK_LIMIT))
    }

    /// The success of the command, and its whole output.
    fn ask(&self, command: &str) -> anyhow::Result<(bool, String)> {
        // Both streams in the order in which they were written, as on a terminal.
        let script = format!("exec 2>&1\n{command}\n");
        let printed = self.bash(&format!("{script}echo \" $?\""), "+e")?.run()?;
        let (printed, code) = printed.trim_end().rsplit_once(' ').context("no exit code")?;
        Ok((code == "0", printed.trim_end().to_owned()))
    }
}

/// Runs a page; returns how many blocks were treated how.
pub fn run(
    page: &Page,
    tier: Tier,
    shell: &Shell,
    mut play: impl FnMut(&str) -> anyhow::Result<()>,
) -> anyhow::Result<BTreeMap<&'static str, usize>> {
    let mut counts = BTreeMap::new();
    for block in &page.blocks {
        println!("--- {}:{}", page.path.display(), block.line);
        let treated = treat(block, tier, shell, &mut play);
        *counts
            .entry(treated.with_context(|| format!("{}:{}", page.path.display(), block.line))?)
            .or_default() += 1;
    }
    Ok(counts)
}

fn treat(
    block: &Block,
    tier: Tier,
    shell: &Shell,
    play: &mut impl FnMut(&str) -> anyhow::Result<()>,
) -> anyhow::Result<&'static str> {
    let runs = match block.needs {
        Needs::Nothing => true,
        Needs::Cluster => tier == Tier::Node,
        Needs::Api => tier == Tier::Api,
        Needs::Make | Needs::Elsewhere => false,
    };
    match &block.code {
        Code::Text => return Ok("text"),
        Code::Yaml(text) => yaml(text, shell)?,
        Code::Play(lines) => lines.iter().try_for_each(|line| play(line))?,
        Code::Script(script) if runs => {
            println!("{script}");
            println!("{}", shell.bash(script, "-e")?.stdout_in_errors().run()?);
        }
        Code::Console(commands) if runs => {
            commands.iter().try_for_each(|(command, printed)| console(shell, command, printed))?;
        }
        Code::Script(script) => read(block.needs, script, shell)?,
        Code::Console(commands) => commands.iter().try_for_each(|(c, _)| read(block.needs, c, shell))?,
    }
    Ok(match (&block.code, block.needs) {
        (Code::Play(_), _) => "played",
        (Code::Yaml(_), _) => "tried",
        _ if runs => "run",
        (_, Needs::Make) => "found in the Makefile",
        (_, Needs::Cluster) => "left to the node tier",
        (_, Needs::Api) => "left to the api tier",
        _ => "read by bash",
    })
}

/// Runs a command and compares what it prints. One that only looked, or was refused, is asked again for a while.
fn console(shell: &Shell, command: &str, shown: &str) -> anyhow::Result<()> {
    let must_fail = shown.trim_start().to_lowercase().starts_with("error");
    let looks =
        ["kubectl get ", "kubectl describe ", "kubectl explain "].iter().any(|look| command.contains(look));
    let started = Instant::now();
    loop {
        let (succeeded, printed) = shell.ask(command)?;
        if succeeded != must_fail && matches(shown, &printed) {
            println!("$ {command}\n{printed}");
            return Ok(());
        }
        let again = !succeeded || looks;
        ensure!(
            again && started.elapsed() < PATIENCE,
            "$ {command}\nprinted\n{printed}\nand the page says\n{shown}"
        );
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// A block that is not run is at least parsed.
fn read(needs: Needs, script: &str, shell: &Shell) -> anyhow::Result<()> {
    shell.bash(script, "-en")?.run()?;
    if needs == Needs::Make {
        for line in script.lines().filter(|line| !line.trim_start().starts_with('#')) {
            let line = line.split(" #").next().unwrap_or_default().trim();
            let target = line.split_once("make ").map(|(_, rest)| rest.split(' ').next().unwrap_or_default());
            let target = target.with_context(|| format!("`{line}` is no make"))?;
            Cmd::new("make").args(["--dry-run", target]).dir(&shell.repository).run()?;
        }
    }
    Ok(())
}

fn yaml(text: &str, shell: &Shell) -> anyhow::Result<()> {
    let file = shell.directory.path().join("block.yaml");
    fs::write(&file, text)?;
    let script = match text.contains("\nkind: ") || text.starts_with("kind: ") {
        true => "kubectl apply --dry-run=server -f block.yaml",
        false => "helm template reservoir charts/reservoir -f block.yaml > rendered.yaml",
    };
    shell.bash(script, "-e")?.run().map(drop)
}

/// True if `printed` is what the page shows.
fn matches(shown: &str, printed: &str) -> bool {
    let (shown, printed) = (plain(shown), plain(printed));
    if shown.is_empty() {
        return true;
    }
    let mut parts: Vec<&str> = shown.split('…').map(str::trim).collect();
    let (Some(last), false) = (parts.pop(), parts.is_empty()) else { return shown == printed };
    let Some(mut rest) = printed.strip_prefix(parts.remove(0)) else { return false };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// Words with one blank between them, ages and UIDs all alike.
fn plain(text: &str) -> String {
    let words = text.split_whitespace().map(|word| match word {
        word if is_age(word) => "AGE".to_owned(),
        word => hide_uids(word),
    });
    words.collect::<Vec<_>>().join(" ")
}

/// `42s`, `3m12s`, `5h`, `2d3h`.
fn is_age(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_digit())
        && word.ends_with(['s', 'm', 'h', 'd'])
        && word.chars().all(|c| c.is_ascii_digit() || "smhd".contains(c))
}

fn hide_uids(word: &str) -> String {
    let is_uid = |text: &str| {
        text.split('-').map(str::len).eq([8, 4, 4, 4, 12])
            && text.chars().all(|c| c == '-' || c.is_ascii_hexdigit())
    };
    let mut word = word.to_owned();
    while let Some(at) = (0..word.len()).find(|at| word.get(*at..at + 36).is_some_and(is_uid)) {
        word.replace_range(at..at + 36, "UID");
    }
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(text: &str) -> Block {
        parse(text).unwrap().remove(0)
    }

    #[test]
    fn blocks_are_found_in_lists_and_comments() {
        let block = only("words\n\n- item\n\n  ```sh\n  kubectl get spv\n  ```\n");
        assert_eq!((block.line, block.code), (5, Code::Script("kubectl get spv\n".into())));
        assert_eq!(
            only("<!--\n```play\nlose spv/data\n```\n-->").code,
            Code::Play(vec!["lose spv/data".into()])
        );
    }

    #[test]
    fn a_block_that_nothing_is_done_with_is_refused() {
        for text in
            ["```\nls\n```", "```bash\nls\n```", "```sh skip\nls\n```", "```yaml cluster\n```", "```sh\nls"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse("```console\nls\n```").is_err(), "no prompt");
    }

    #[test]
    fn a_command_goes_on_after_a_backslash() {
        let block = only("```console cluster\n$ a \\\n    b\nprinted\n\n$ c\n```");
        let commands = vec![("a \\\n    b".into(), "printed\n\n".into()), ("c".into(), String::new())];
        assert_eq!((block.code, block.needs), (Code::Console(commands), Needs::Cluster));
    }

    #[test]
    fn what_is_printed_is_compared_but_for_ages_and_uids() {
        let uid = "16bd33da-c3e2-4b83-a5ee-a533ed5d2a44";
        for (shown, printed) in [
            ("NAME  AGE\na  2s", "NAME   AGE\na      3m12s\n"),
            (
                "volume datasets (16bd33da-c3e2-4b83-a5ee-a533ed5d2a45) is",
                &format!("volume datasets ({uid}) is"),
            ),
            (
                "in use by 3 pods: team-a/writer-…, team-b/…",
                "in use by 3 pods: team-a/writer-x, team-b/readers-1",
            ),
            ("… denied", "Error: denied"),
            ("one\ntwo", "one two"),
            ("", "anything"),
        ] {
            assert!(matches(shown, printed), "{shown} | {printed}");
        }
        for (shown, printed) in
            [("2Gi", "1Gi"), ("a", "a b"), ("a … c", "a b"), ("a … b", "a b c"), ("3 pods", "3")]
        {
            assert!(!matches(shown, printed), "{shown} | {printed}");
        }
    }
}
