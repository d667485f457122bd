//! The steps that people are told: what they name, and what somebody does who follows them.

use std::time::Duration;

use kube::Client;
use reservoir::plan::advice;
use reservoir::plugin;
use serde_json::{Value, json};

use crate::asker;
use crate::kubernetes::{self, delete, get, patch, text};
use crate::server::{self, Request, Server, Shared, lock};

/// The names of kinds in commands, with the plural.
const KINDS: [(&[&str], &str); 11] = [
    (&["nd", "nodedisk"], "nodedisks"),
    (&["dr", "diskreservation"], "diskreservations"),
    (&["spv", "sharedpersistentvolume"], "sharedpersistentvolumes"),
    (&["vrole", "volumerole"], "volumeroles"),
    (&["vclaim", "volumeclaim"], "volumeclaims"),
    (&["rsub", "rolesubscription"], "rolesubscriptions"),
    (&["pod"], "pods"),
    (&["pvc"], "persistentvolumeclaims"),
    (&["pv"], "persistentvolumes"),
    (&["node"], "nodes"),
    (&["storageclass"], "storageclasses"),
];
/// So many seconds somebody waits for the end of an object.
const PATIENCE: u64 = 300;

/// What is to be done, without the reason behind it.
pub fn main_part(step: &str) -> &str {
    advice::command(step)
}

/// The commands in a sentence, as words of a shell.
pub fn commands(sentence: &str) -> Vec<Vec<String>> {
    let ends = ["   #", "; ", " && ", ", ", " prints", " lists", " checks"];
    let begins = sentence.match_indices("kubectl ").map(|(begin, _)| begin);
    begins
        .map(|begin| {
            let rest = &sentence[begin..];
            let end = ends.iter().filter_map(|end| rest.find(end)).min().unwrap_or(rest.len());
            shell_words(rest[..end].trim_end_matches(['.', ')']))
        })
        .collect()
}

/// The words of a command line. A part in quotation marks keeps its spaces.
fn shell_words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut is_quoted) = (Vec::new(), String::new(), false);
    for c in line.chars() {
        match c {
            '\'' => is_quoted = !is_quoted,
            ' ' if !is_quoted => {
                words.extend(Some(std::mem::take(&mut word)).filter(|word| !word.is_empty()))
            }
            c => word.push(c),
        }
    }
    words.extend(Some(word).filter(|word| !word.is_empty()));
    words
}

fn flag<'a>(words: &[&'a str], names: [&str; 2]) -> Option<&'a str> {
    let at = words.iter().position(|word| names.contains(word))?;
    words.get(at + 1).copied()
}

fn plural_of(kind: &str) -> Option<&'static str> {
    let is_it = |(names, plural): &&(&[&str], &'static str)| names.contains(&kind) || *plural == kind;
    KINDS.iter().find(is_it).map(|(_, plural)| *plural)
}

/// An object that a command names: plural, namespace and name.
type Named = (&'static str, String, String);

fn named(kind: &str, name: &str, words: &[&str]) -> Option<Named> {
    let plural = plural_of(kind)?;
    let namespace = match server::KINDS[plural].namespaced {
        true => flag(words, ["-n", "--namespace"]).unwrap_or("default"),
        false => "",
    };
    Some((plural, namespace.to_owned(), name.to_owned()))
}

/// The objects that a command is about, and that must be there.
pub fn objects(command: &[String]) -> Vec<Named> {
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    let both = |word: &str| word.split_once('/').and_then(|(kind, name)| named(kind, name, &words));
    let one = match words.as_slice() {
        ["kubectl", "reservoir", "why" | "delete", object, ..] => both(object),
        ["kubectl", "reservoir", "resize", object, ..] => {
            both(object).or_else(|| named("spv", object, &words))
        }
        ["kubectl", "reservoir", "retire" | "unretire" | "verify", volume, ..] => {
            named("spv", volume, &words)
        }
        ["kubectl", "reservoir", "unclaim", claim, ..] if !claim.starts_with('-') => {
            named("vclaim", claim, &words)
        }
        ["kubectl", "reservoir", "claim", ..] => {
            flag(&words, ["--volume"; 2]).and_then(|volume| named("spv", volume, &words))
        }
        ["kubectl", "reservoir", ..] => None,
        ["kubectl", "uncordon", node, ..] => named("node", node, &words),
        ["kubectl", "logs", pod, ..] if !pod.starts_with('-') => named("pod", pod, &words),
        ["kubectl", _, object, ..] if object.contains('/') => both(object),
        ["kubectl", _, kind, name, ..] if !name.starts_with('-') => named(kind, name, &words),
        _ => None,
    };
    one.into_iter().collect()
}

/// True for a command that ends an object or its data.
pub fn is_end(command: &[String]) -> bool {
    let words: Vec<&str> = command.iter().map(String::as_str).take(3).collect();
    matches!(
        words.as_slice(),
        ["kubectl", "delete", ..]
            | ["kubectl", "reservoir", "delete" | "retire" | "erase" | "unclaim" | "unsubscribe"]
    )
}

/// The fault of a step: a command that nobody understands, a placeholder, or an object that is not there.
pub fn fault(server: &Server, step: &str) -> Option<String> {
    let mut made = Vec::new();
    for command in commands(main_part(step)) {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        if let ["kubectl", "reservoir", ours @ ..] = words.as_slice() {
            if let Err(why) = plugin::check(ours) {
                return Some(format!("does not parse: {why}"));
            }
            // Such commands make what later ones name.
            if let ["reserve" | "create" | "claim", name, ..] = ours {
                made.push((*name).to_owned());
            }
        }
        let is_placeholder = |word: &&&str| {
            let is_flag = word.starts_with(['-', '{', '[']) || word.starts_with("jsonpath=");
            let is_loud = word.len() > 2 && word.chars().all(|c| c.is_ascii_uppercase());
            !is_flag
                && (is_loud
                    || word.contains(['<', '>', '{', '}']) && !word.ends_with(".yaml") && **word != ">")
        };
        if let Some(word) = words.iter().find(is_placeholder) {
            return Some(format!("has the placeholder {word}"));
        }
        let is_missing = |(plural, namespace, name): &Named| {
            !made.contains(name) && get(server, plural, namespace, name).is_none()
        };
        if let Some((plural, namespace, name)) = objects(&command).into_iter().find(is_missing) {
            return Some(format!("names {plural} {namespace}/{name}, which is not there"));
        }
    }
    // What comes later has to parse, too.
    let later =
        commands(step).into_iter().filter(|command| command.get(1).is_some_and(|word| word == "reservoir"));
    let unparsed = later.map(|command| command[2..].to_vec()).find_map(|words| {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        plugin::check(&words).err().map(|why| format!("{}: {why}", words.join(" ")))
    });
    unparsed.map(|why| format!("has a command that does not parse: {why}"))
}

fn to_do(step: &str) -> &str {
    main_part(step.strip_prefix("have an administrator run: ").unwrap_or(step))
}

/// False if the step is a look, or work for a person or another program.
pub fn can_follow(step: &str) -> bool {
    to_do(step).starts_with("kubectl ") && commands(to_do(step)).iter().all(|command| can_run(command))
}

/// Does what a step says.
pub async fn follow(server: &Shared, client: &Client, step: &str) -> Result<(), String> {
    lock(server).tell(|| format!("operator follows: {step}"));
    for command in commands(to_do(step)) {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let result = match words.as_slice() {
            ["kubectl", "reservoir", ours @ ..] => asker::ask(client, ours).await.map(drop),
            theirs => kubectl(&mut lock(server), theirs, &command),
        };
        result.map_err(|why| format!("{}: {why}", words.join(" ")))?;
        if words[1] == "delete" && !words.contains(&"--wait=false") {
            until_gone(server, &command).await.map_err(|why| format!("{}: {why}", words.join(" ")))?;
        }
    }
    Ok(())
}

/// kubectl waits for the end of what it deletes.
async fn until_gone(server: &Shared, command: &[String]) -> Result<(), String> {
    let gone = objects(command);
    for _ in 0..PATIENCE {
        while kubernetes::turn(server) {}
        let is_there =
            |(plural, namespace, name): &Named| get(&lock(server), plural, namespace, name).is_some();
        if !gone.iter().any(is_there) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    Err("it does not end".into())
}

fn can_run(command: &[String]) -> bool {
    let words: Vec<&str> = command.iter().map(String::as_str).take(3).collect();
    // `verify` and `erase` write the time of the wall clock.
    let ours = [
        "reserve",
        "create",
        "claim",
        "resize",
        "retire",
        "unretire",
        "subscribe",
        "unsubscribe",
        "unclaim",
        "undelete",
        "delete",
    ];
    match words.as_slice() {
        ["kubectl", "reservoir", verb, ..] => ours.contains(verb),
        ["kubectl", "delete" | "patch" | "uncordon" | "label", ..] => true,
        _ => false,
    }
}

/// What kubectl does.
fn kubectl(server: &mut Server, words: &[&str], command: &[String]) -> Result<(), String> {
    let Some((plural, namespace, name)) = objects(command).into_iter().next() else {
        return Err("the simulation does not know the object".into());
    };
    let object = get(server, plural, &namespace, &name).ok_or("not found")?;
    let request = match words[1] {
        "delete" => {
            let options =
                if words.contains(&"--force") { json!({"gracePeriodSeconds": 0}) } else { Value::Null };
            delete(plural, &namespace, &name, options)
        }
        "uncordon" => patch(plural, &object, "", json!({"spec": {"unschedulable": null}})),
        "label" => {
            let labels = words.iter().filter_map(|word| word.split_once('='));
            let labels: serde_json::Map<String, Value> =
                labels.map(|(key, value)| (key.to_owned(), json!(value))).collect();
            patch(plural, &object, "", json!({"metadata": {"labels": labels}}))
        }
        _ => {
            let body = flag(words, ["-p", "--patch"]).ok_or("no patch")?;
            let body: Value = serde_json::from_str(body).map_err(|error| error.to_string())?;
            match body.as_array() {
                None => patch(plural, &object, "", body),
                Some(all) => replaced(plural, &object, all)?,
            }
        }
    };
    let (code, answer) = server.answer("operator", &request);
    let message = text(&answer.value()["message"]);
    if code < 300 { Ok(()) } else { Err(format!("{code} {message}")) }
}

/// A JSON patch, of which the simulation knows `replace`.
fn replaced(plural: &'static str, object: &Value, all: &[Value]) -> Result<Request, String> {
    let mut now = object.clone();
    for change in all {
        let place = now.pointer_mut(change["path"].as_str().unwrap_or_default());
        *place.filter(|_| change["op"] == "replace").ok_or("no such place")? = change["value"].clone();
    }
    Ok(Request { method: "PUT".into(), body: now.clone(), ..patch(plural, &now, "", Value::Null) })
}
