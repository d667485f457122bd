//! What `kubectl reservoir …` may go on with, in the words of kubectl's convention for plug-ins: it runs
//! `kubectl_complete-reservoir` with what was typed, which is this program under that name.

use clap::{ArgAction, CommandFactory};

use super::cli::Cli;
use super::item::{KINDS, Kind};

/// What comes next.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    /// One of these.
    Words(Vec<String>),
    /// The name of an object of that kind, after a prefix that stays.
    Names(&'static Kind, String),
}

/// What the last of `words`, which may be empty, can become.
pub(super) fn next(words: &[String]) -> Next {
    let (last, before) = words.split_last().map_or(("", &[][..]), |(last, before)| (last.as_str(), before));
    let mut command = Cli::command();
    command.build();
    let mut command = &command;
    let mut value_of = None;
    for word in before {
        value_of = match value_of {
            Some(_) => None,
            None => option(command, word),
        };
        if value_of.is_none()
            && let Some(sub) = command.find_subcommand(word)
        {
            command = sub;
        }
    }
    if let Some(option) = value_of {
        let values = option.get_possible_values();
        return Next::Words(values.iter().map(|value| value.get_name().to_owned()).collect());
    }
    if last.starts_with('-') {
        let long = command.get_arguments().filter_map(|arg| arg.get_long());
        return Next::Words(long.map(|long| format!("--{long}")).filter(|l| l.starts_with(last)).collect());
    }
    match (command.get_name(), last.split_once('/')) {
        ("why" | "resize", Some((kind, _))) => match Kind::parse(kind) {
            Ok(found) => Next::Names(found, format!("{kind}/")),
            Err(_) => Next::Words(vec![]),
        },
        ("why", None) => Next::Words(KINDS.iter().map(|kind| format!("{}/", kind.short)).collect()),
        ("retire" | "unretire" | "resize", _) => Next::Names(&super::item::VOLUME, String::new()),
        ("completion", _) => Next::Words(["bash", "zsh", "fish"].map(str::to_owned).to_vec()),
        _ => Next::Words(command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect()),
    }
}

/// The option of that name, if it takes a value that is not in the same word.
fn option<'a>(command: &'a clap::Command, word: &str) -> Option<&'a clap::Arg> {
    let named = |arg: &&clap::Arg| {
        arg.get_long().is_some_and(|long| word.strip_prefix("--") == Some(long))
            || arg.get_short().is_some_and(|short| word == format!("-{short}"))
    };
    let takes = |arg: &&clap::Arg| matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
    command.get_arguments().filter(takes).find(named)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::item::VOLUME;

    #[test]
    fn t4_what_can_follow() {
        let of = |line: &str| next(&line.split(' ').map(str::to_owned).collect::<Vec<_>>());
        let words = |line: &str| match of(line) {
            Next::Words(words) => words,
            other => panic!("{other:?}"),
        };
        assert!(words("").contains(&"tree".into()) && words("-n team ").contains(&"why".into()));
        assert_eq!(words("tree --ro"), ["--role"]);
        assert_eq!(words("tree -o "), ["json", "yaml"]);
        assert_eq!(words("create x --dry-run "), ["client", "server"]);
        assert!(words("why ").contains(&"vclaim/".into()));
        assert_eq!(of("why spv/da"), Next::Names(&VOLUME, "spv/".into()));
        assert_eq!(of("retire "), Next::Names(&VOLUME, String::new()));
        assert_eq!(words("status "), Vec::<String>::new());
    }
}
