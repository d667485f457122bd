//! Checks of the commands in sentences: each names a verb, kinds and flags that there are (T4).

use clap::Parser;
use clap::error::ErrorKind;

use super::cli::Cli;
use super::kind::KINDS;
use crate::plan::advice;

/// kubectl's verbs that sentences use, with their flags. A flag with `=` has a value.
const VERBS: &[(&str, &str)] = &[
    ("get", "-n= -A -l= -L= -o= --field-selector="),
    ("delete", "-n= --force --grace-period= --cascade="),
    ("describe", "-n="),
    ("edit", "-n="),
    ("patch", "-n= --type= -p="),
    ("label", "--overwrite"),
    ("logs", "-n= -c= --tail= --previous"),
    ("uncordon", ""),
    ("taint", ""),
    ("exec", "-it -n= --"),
    ("apply", "--server-side -f="),
    ("scale", "-n= --replicas="),
    ("create", "-n= --clusterrole= --user= --edit -f= --from="),
];

/// Kinds of Kubernetes in sentences.
const KINDS_OF_KUBERNETES: &str = "node nodes pod pods pv pvc event events storageclass storageclasses deployment deployments daemonset \
                                   statefulset job cronjob resourcequotas limitranges networkpolicies namespace clusterrole clusterrolebinding \
                                   rolebinding crds";

/// The commands in a sentence.
fn commands(text: &str) -> impl Iterator<Item = &str> {
    let ends =
        ["   #", "; ", " && ", "`", ", ", " prints", " brings", " lists", " checks", " shows", " has more"];
    text.match_indices("kubectl ").map(move |(begin, _)| {
        let rest = &text[begin..];
        let end = ends.iter().filter_map(|end| rest.find(end)).min().unwrap_or(rest.len());
        rest[..end].trim_end_matches(['\n', '.'])
    })
}

/// Panics at the first command that kubectl, or the plug-in, would not understand.
pub(super) fn check(text: &str) {
    for command in commands(text) {
        let words: Vec<&str> = command.split_whitespace().map(|word| word.trim_matches('\'')).collect();
        match &words[1..] {
            ["reservoir", ours @ ..] => check_ours(ours, text),
            [verb, theirs @ ..] => check_theirs(verb, theirs, text),
            [] => panic!("no command: {text}"),
        }
    }
}

fn check_ours(words: &[&str], text: &str) {
    let parsed = Cli::try_parse_from(["kubectl-reservoir"].iter().chain(words));
    match parsed.map(drop).map_err(|error| (error.kind(), error.to_string())) {
        Ok(()) | Err((ErrorKind::DisplayHelp, _)) => {}
        Err((_, why)) => panic!("{text}: {why}"),
    }
}

fn check_theirs(verb: &str, words: &[&str], text: &str) {
    let (_, flags) =
        VERBS.iter().find(|(known, _)| *known == verb).unwrap_or_else(|| panic!("verb {verb}: {text}"));
    let mut objects = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if !word.starts_with('-') {
            objects.push(*word);
            continue;
        }
        let (flag, has_value) = word.split_once('=').map_or((*word, false), |(flag, _)| (flag, true));
        let known = |suffix: &str| flags.split(' ').any(|known| known == format!("{flag}{suffix}"));
        assert!(known("=") || known("") && !has_value, "flag {word} of kubectl {verb}: {text}");
        if known("=") && !has_value {
            assert!(words.next().is_some(), "{word} has no value: {text}");
        }
    }
    // Files, nodes and pods are no kinds.
    if ["apply", "uncordon", "logs", "exec"].contains(&verb) || verb == "create" && objects.is_empty() {
        return;
    }
    let kinds = objects.first().unwrap_or_else(|| panic!("kubectl {verb} of nothing: {text}"));
    for kind in kinds.split('/').next().unwrap_or_default().split(',') {
        let is_ours = KINDS.iter().any(|known| {
            let name = known.name.to_lowercase();
            [known.short, known.plural, &name].contains(&kind)
        });
        assert!(is_ours || KINDS_OF_KUBERNETES.split(' ').any(|known| known == kind), "kind {kind}: {text}");
    }
    let named = kinds.contains('/') || objects.len() > 1;
    assert!(named || verb == "get", "kubectl {verb} names no object: {text}");
}

/// The text of the table with names in the place of its parts.
fn filled(name: &str, template: &str) -> String {
    let value = |part: &str| match part {
        "object" => "spv/data",
        "size" | "more" | "less" | "larger" => "10Gi",
        "index" => "0",
        "labels" if template.contains("label node") => "disk=fast",
        "labels" => " --label disk=fast",
        "resize" => "kubectl reservoir resize spv/data 10Gi",
        "anew" if name.starts_with("reserve_") => {
            "kubectl delete dr/eng && kubectl reservoir reserve eng --role eng --size 1Gi"
        }
        "anew" if name.starts_with("create_") => {
            "kubectl delete spv/data && kubectl reservoir create data --role eng --size 1Gi"
        }
        "anew" => "kubectl delete vclaim/c && kubectl reservoir claim c --role eng --volume data",
        "claim" if name == "claim_under_other_name" => "kubectl reservoir claim c --role eng --volume data",
        "delete" => "kubectl delete vclaim/c -n team",
        "workload" => "deployment/reservoir-controller",
        "again" => "kubectl delete pod web -n team   # make it again",
        "kind" => "pod",
        "how" => "as the message says",
        "made" => "it",
        "verbs" => "use,create",
        "receiver" => "user jane",
        "patch" => "{}",
        "uid" => "00112233",
        _ => "name",
    };
    let text = template.replace("{{", "\u{1}").replace("}}", "\u{2}");
    let parts = text.split(['{', '}']).enumerate();
    let text: String = parts.map(|(i, part)| if i % 2 == 0 { part } else { value(part) }).collect();
    text.replace('\u{1}', "{").replace('\u{2}', "}")
}

#[test]
fn t4_each_command_of_the_advice_is_one_that_there_is() {
    let mut found = 0;
    for (name, template) in advice::ALL {
        let text = filled(name, template);
        assert!(!text.contains(['\u{1}', '\u{2}']), "{name}");
        found += commands(&text).count();
        check(&text);
    }
    assert!(found > 150, "{found} commands");
}

/// No command has a mistyped subcommand in any sentence of the sources, the chart or a message of admission.
#[test]
fn t4_each_subcommand_in_a_sentence_is_one_that_there_is() {
    use clap::CommandFactory;
    let known: Vec<String> =
        Cli::command().get_subcommands().map(|command| command.get_name().to_owned()).collect();
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut directories = vec![root.join("src"), root.join("charts"), root.join("docs")];
    let mut found = 0;
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let Ok(text) = std::fs::read_to_string(&path) else { continue };
            // The mistakes of the test below.
            if path.ends_with("advised_commands.rs") {
                continue;
            }
            for (at, phrase) in text.match_indices("kubectl reservoir ") {
                let rest = text[at + phrase.len()..].trim_start_matches(['\\', '\n', ' ', '/', '!']);
                let word: String =
                    rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
                let is_prose =
                    ["is", "and", "of", "in", "as", "a", "has", "takes", "about"].contains(&word.as_str());
                assert!(
                    word.is_empty()
                        || is_prose
                        || word.starts_with('-')
                        || known.contains(&word)
                        || word == "help",
                    "{}: kubectl reservoir {word}",
                    path.display()
                );
                found += 1;
            }
        }
    }
    assert!(found > 200, "{found} commands");
}

#[test]
fn mistakes_in_commands_are_found() {
    for wrong in [
        "kubectl reservoir undelte x",
        "kubectl reservoir create x --role eng",
        "kubectl get volumesoffers",
        "kubectl delete spv",
        "kubectl frob pod/x",
        "kubectl delete pod/x --farce",
        "kubectl get pods -n",
    ] {
        assert!(std::panic::catch_unwind(|| check(wrong)).is_err(), "{wrong}");
    }
    check("kubectl delete spv/x -n y && kubectl get pods -A   # none; kubectl reservoir grant --help");
}
