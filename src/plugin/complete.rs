//! Completion of `kubectl reservoir …`. By convention kubectl runs a program `kubectl_complete-reservoir` with the
//! typed words. The program is this plug-in under another name.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgAction, CommandFactory};
use kube::ResourceExt;

use super::cli::{Cli, Connection};
use super::connection::connect;
use super::kind::{self, KINDS, Kind};
use super::snapshot::Snapshot;

/// Candidates for the last word.
#[derive(Debug, PartialEq)]
enum Candidates {
    Words(Vec<String>),
    /// The name of an object of this kind, after a fixed prefix.
    Names(&'static Kind, String),
}

/// Prints the candidates for the last word, in the form that kubectl reads.
pub(super) async fn print_completions(args: Vec<OsString>) -> ExitCode {
    let words: Vec<String> = args.into_iter().skip(1).filter_map(|word| word.into_string().ok()).collect();
    let candidates = match candidates(&words) {
        Candidates::Words(words) => words,
        Candidates::Names(kind, prefix) => {
            let names = tokio::time::timeout(Duration::from_secs(3), object_names(&words, kind)).await;
            // After a timeout there are no candidates, because the shell must not hang.
            let names = names.ok().and_then(Result::ok).unwrap_or_default();
            names.into_iter().map(|name| format!("{prefix}{name}")).collect()
        }
    };
    for word in candidates {
        println!("{word}");
    }
    // kubectl's directive 6: no file names, and no space after a candidate such as `spv/`.
    println!(":6");
    ExitCode::SUCCESS
}

/// The names of the objects of a kind, in the cluster and namespace of the typed flags.
async fn object_names(words: &[String], kind: &Kind) -> anyhow::Result<Vec<String>> {
    let value_of = |flag: &[&str]| {
        let at = words.iter().position(|word| flag.contains(&word.as_str()))?;
        words.get(at + 1).cloned()
    };
    let connection = Connection {
        namespace: value_of(&["-n", "--namespace"]),
        all_namespaces: false,
        context: value_of(&["--context"]),
        kubeconfig: value_of(&["--kubeconfig"]).map(PathBuf::from),
        as_user: None,
        as_group: vec![],
    };
    let (client, namespace) = connect(&connection).await?;
    let snapshot = Snapshot::read(&client, Some(&namespace), &namespace).await?;
    Ok(match kind {
        kind if kind == &kind::POD => snapshot.pods.iter().map(ResourceExt::name_any).collect(),
        kind => {
            // A claim's PersistentVolumeClaim has the name of the claim.
            let kind = if kind == &kind::PVC { &kind::CLAIM } else { kind };
            snapshot.items().into_iter().filter(|item| item.kind == kind).map(|item| item.name).collect()
        }
    })
}

/// The candidates for the last of `words`, which may be empty.
fn candidates(words: &[String]) -> Candidates {
    let (last, before) = words.split_last().map_or(("", &[][..]), |(last, before)| (last.as_str(), before));
    let mut command = Cli::command();
    command.build();
    let mut command = &command;
    let mut value_of = None;
    for word in before {
        value_of = match value_of {
            Some(_) => None,
            None => option_with_value(command, word),
        };
        if value_of.is_none()
            && let Some(sub) = command.find_subcommand(word)
        {
            command = sub;
        }
    }
    if let Some(option) = value_of {
        let values = option.get_possible_values();
        return Candidates::Words(values.iter().map(|value| value.get_name().to_owned()).collect());
    }
    if last.starts_with('-') {
        let long = command.get_arguments().filter_map(|arg| arg.get_long());
        return Candidates::Words(
            long.map(|long| format!("--{long}")).filter(|l| l.starts_with(last)).collect(),
        );
    }
    match (command.get_name(), last.split_once('/')) {
        ("why" | "resize" | "delete", Some((kind, _))) => match Kind::parse(kind) {
            Ok(found) => Candidates::Names(found, format!("{kind}/")),
            Err(_) => Candidates::Words(vec![]),
        },
        ("why" | "delete", None) => {
            Candidates::Words(KINDS.iter().map(|kind| format!("{}/", kind.short)).collect())
        }
        ("retire" | "unretire" | "resize" | "verify", _) => Candidates::Names(&kind::VOLUME, String::new()),
        ("unclaim" | "fill", _) => Candidates::Names(&kind::CLAIM, String::new()),
        ("completion", _) => Candidates::Words(["bash", "zsh", "fish"].map(str::to_owned).to_vec()),
        _ => Candidates::Words(command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect()),
    }
}

/// Returns the option that `word` names, if its value is the next word.
fn option_with_value<'a>(command: &'a clap::Command, word: &str) -> Option<&'a clap::Arg> {
    let named = |arg: &&clap::Arg| {
        arg.get_long().is_some_and(|long| word.strip_prefix("--") == Some(long))
            || arg.get_short().is_some_and(|short| word == format!("-{short}"))
    };
    let takes = |arg: &&clap::Arg| {
        matches!(arg.get_action(), ArgAction::Set | ArgAction::Append) && !arg.is_require_equals_set()
    };
    command.get_arguments().filter(takes).find(named)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::kind::VOLUME;

    #[test]
    fn t4_each_word_has_its_candidates() {
        let of = |line: &str| candidates(&line.split(' ').map(str::to_owned).collect::<Vec<_>>());
        let words = |line: &str| match of(line) {
            Candidates::Words(words) => words,
            other => panic!("{other:?}"),
        };
        assert!(words("").contains(&"tree".into()) && words("-n team ").contains(&"why".into()));
        assert_eq!(words("tree --ro"), ["--role"]);
        assert_eq!(words("tree -o "), ["json", "yaml"]);
        assert!(!words("create x --dry-run ").contains(&"client".into()), "--dry-run=client");
        assert!(words("why ").contains(&"vclaim/".into()));
        assert_eq!(of("why spv/da"), Candidates::Names(&VOLUME, "spv/".into()));
        assert_eq!(of("retire "), Candidates::Names(&VOLUME, String::new()));
        assert_eq!(of("verify "), Candidates::Names(&VOLUME, String::new()));
        assert_eq!(words("status "), Vec::<String>::new());
    }
}
