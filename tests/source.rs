//! What the product's own source must not have, where no lint of the compiler can see it.

use std::fs;
use std::path::{Path, PathBuf};

/// Every file of the product, by its path beneath src/, with its text.
fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut files, mut directories) = (Vec::new(), vec![root.clone()]);
    while let Some(directory) = directories.pop() {
        for path in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
            match path.is_dir() {
                true => directories.push(path),
                false => {
                    let text = fs::read_to_string(&path).unwrap();
                    files.push((path.strip_prefix(&root).unwrap().to_owned(), text));
                }
            }
        }
    }
    assert!(files.len() > 50, "{} files were found", files.len());
    files
}

/// `unsafe_code = "deny"` of the workspace can be allowed again, by anybody, in a line. One file does, and no other.
#[test]
fn unsafe_code_is_in_one_file() {
    let allowing: Vec<_> = sources()
        .into_iter()
        .filter(|(_, text)| {
            text.contains("unsafe_code") || text.contains("unsafe {") || text.contains("unsafe impl")
        })
        .map(|(path, _)| path)
        .collect();
    assert_eq!(allowing, [Path::new("host/sys/syscalls.rs")]);
}

/// S12. Programs are started with arguments, never through a shell, and see nothing of the agent's environment, in
/// which there may be more than they need to know.
#[test]
fn s12_no_shell_is_started_and_programs_see_no_environment() {
    let mut starting = 0;
    for (path, text) in sources() {
        for (i, _) in text.match_indices("Command::new(") {
            // A unit test's own programs are its own affair.
            if text[..i].contains("#[cfg(test)]") {
                continue;
            }
            starting += 1;
            let call = text[i..].split(';').next().unwrap();
            assert!(call.contains(".env_clear()"), "{}: {call}", path.display());
            assert!(!call.contains("sh\"") && !call.contains("\"-c\""), "{}: {call}", path.display());
        }
    }
    assert!(starting > 0);
}

/// T4. What the plug-in is made of: it never reaches what runs on nodes, and nothing that runs in the cluster has a part of
/// it.
#[test]
fn the_plug_in_uses_api_plan_and_cluster_and_nobody_uses_it() {
    let (ours, others): (Vec<_>, Vec<_>) =
        sources().into_iter().partition(|(path, _)| path.starts_with("plugin") || path.starts_with("bin"));
    assert!(ours.len() > 10, "{} files are the plug-in's", ours.len());
    for (path, text) in ours {
        for (i, _) in text.match_indices("crate::") {
            let used =
                text[i + "crate::".len()..].split([':', ';', ',', '{', ' ']).next().unwrap_or_default();
            assert!(
                ["api", "plan", "cluster", "plugin", ""].contains(&used),
                "{}: crate::{used}",
                path.display()
            );
        }
    }
    for (path, text) in others {
        assert!(!text.contains("plugin::"), "{}", path.display());
    }
}
