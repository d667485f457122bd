//! Properties of the product's own source that no lint of the compiler can see.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::Visit;

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

/// T4: every row of the table in docs/design.md. The plug-in, among others, never reaches what runs on nodes, and nothing that
/// runs in the cluster has a part of it.
#[test]
fn directories_import_what_the_design_allows() {
    let design = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/design.md")).unwrap();
    let names = |cell: &str| -> BTreeSet<String> {
        let quoted = cell.split('`').skip(1).step_by(2);
        quoted.map(|name| name.trim_start_matches("src/").to_owned()).collect()
    };
    let mut allowed: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for row in design.lines().filter(|line| line.starts_with("| `src/")) {
        let cells: Vec<&str> = row.split(" | ").collect();
        assert_eq!(cells.len(), 3, "{row}");
        names(cells[0]).into_iter().for_each(|of| drop(allowed.insert(of, names(cells[2]))));
    }
    let modules = Modules::parse();
    let directory = |file: &Path| file.iter().next().unwrap().to_str().unwrap().to_owned();
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (file, imports) in &modules.imports {
        let of = directory(file);
        // The programs and the library's root put everything together.
        if file.iter().count() == 1 || of == "bin" {
            continue;
        }
        let others = imports.iter().map(|import| directory(import)).filter(|other| *other != of);
        found.entry(of.clone()).or_default().extend(others);
    }
    assert_eq!(
        found.keys().collect::<Vec<_>>(),
        allowed.keys().collect::<Vec<_>>(),
        "a row for each directory"
    );
    for (of, imports) in &found {
        let more: Vec<_> = imports.difference(&allowed[of]).collect();
        assert!(
            more.is_empty(),
            "src/{of} imports {more:?}, which the table in docs/design.md does not allow"
        );
        let fewer: Vec<_> = allowed[of].difference(imports).collect();
        assert!(
            fewer.is_empty(),
            "src/{of} does not import {fewer:?}, which the table in docs/design.md has"
        );
    }
}

/// A reader can begin anywhere: no file needs, by way of others, itself.
#[test]
fn no_file_imports_itself_by_way_of_others() {
    let modules = Modules::parse();
    let mut circles = BTreeSet::new();
    for start in modules.imports.keys() {
        let mut ways = vec![vec![start]];
        let mut seen = BTreeSet::new();
        while let Some(way) = ways.pop() {
            for next in modules.imports.get(*way.last().unwrap()).into_iter().flatten() {
                if next == start {
                    let circle: Vec<_> = way.iter().map(|file| file.display().to_string()).collect();
                    let first = circle.iter().enumerate().min_by_key(|(_, file)| *file).unwrap().0;
                    circles.insert([&circle[first..], &circle[..first]].concat().join(" -> "));
                } else if seen.insert(next) {
                    ways.push([way.as_slice(), &[next]].concat());
                }
            }
        }
    }
    assert!(circles.is_empty(), "{circles:#?}");
}

/// T4: each step of the table is printed somewhere, and no other file of the plug-in has a step of its own.
#[test]
fn t4_next_steps_are_those_of_the_table() {
    let printing: String = sources()
        .into_iter()
        .filter(|(path, _)| path.starts_with("plugin") && !path.ends_with("tests.rs"))
        .map(|(_, text)| text.split("#[cfg(test)]").next().unwrap().to_owned())
        .collect();
    for (step, _) in reservoir::plan::advice::ALL {
        assert!(printing.contains(&format!("advice::{step}")), "nothing prints the step {step}");
    }
    let own: Vec<&str> = printing.lines().filter(|line| line.contains("next: kubectl")).collect();
    assert!(own.is_empty(), "{own:#?}");
}

/// The Makefile lists its tests, so that the quick ones run first.
#[test]
fn every_test_binary_is_in_the_makefile() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let makefile = fs::read_to_string(root.join("Makefile")).unwrap();
    let mut binaries = 0;
    for path in fs::read_dir(root.join("tests")).unwrap().map(|entry| entry.unwrap().path()) {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if path.join("main.rs").exists() || path.extension().is_some_and(|extension| extension == "rs") {
            let pattern = if name.starts_with("csi_") { "'csi_*'" } else { &*name };
            assert!(makefile.contains(&format!("--test {pattern}")), "make test leaves out tests/{name}");
            binaries += 1;
        }
    }
    assert!(binaries > 5, "{binaries}");
}

/// The imports between the files of src, tests left out.
struct Modules {
    imports: BTreeMap<PathBuf, BTreeSet<PathBuf>>,
}

/// Paths of one file, as they are written: `["crate", "api", "Size"]`.
#[derive(Default)]
struct Paths {
    used: Vec<Vec<String>>,
    /// By name, what is re-exported.
    exported: BTreeMap<String, Vec<String>>,
}

impl Paths {
    fn add_tree(&mut self, tree: &syn::UseTree, mut prefix: Vec<String>, exported: bool) {
        let (name, path) = match tree {
            syn::UseTree::Path(path) => {
                prefix.push(path.ident.to_string());
                return self.add_tree(&path.tree, prefix, exported);
            }
            syn::UseTree::Group(group) => {
                return group.items.iter().for_each(|item| self.add_tree(item, prefix.clone(), exported));
            }
            syn::UseTree::Glob(_) => ("*".to_owned(), prefix),
            syn::UseTree::Name(name) if name.ident == "self" => {
                (prefix.last().cloned().unwrap_or_default(), prefix)
            }
            syn::UseTree::Name(name) => {
                (name.ident.to_string(), [prefix, vec![name.ident.to_string()]].concat())
            }
            syn::UseTree::Rename(rename) => {
                (rename.rename.to_string(), [prefix, vec![rename.ident.to_string()]].concat())
            }
        };
        match exported {
            true => drop(self.exported.insert(name, path)),
            false => self.used.push(path),
        }
    }
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|a| {
        a.path().is_ident("cfg") && a.meta.require_list().is_ok_and(|l| l.tokens.to_string() == "test")
    })
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let exported = !matches!(item.vis, syn::Visibility::Inherited);
        if !is_test(&item.attrs) {
            self.add_tree(&item.tree, vec![], exported);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_test(&item.attrs) {
            syn::visit::visit_item_mod(self, item);
        }
    }

    /// `pub(super)` imports nothing.
    fn visit_vis_restricted(&mut self, _: &'ast syn::VisRestricted) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.used.push(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        syn::visit::visit_path(self, path);
    }
}

impl Modules {
    fn parse() -> Self {
        let files: BTreeMap<PathBuf, Paths> = sources()
            .into_iter()
            .map(|(file, text)| {
                let mut paths = Paths::default();
                paths.visit_file(&syn::parse_file(&text).unwrap());
                (file, paths)
            })
            .collect();
        let is_test = |file: &Path| file.starts_with("plan/model") || file == Path::new("plan/testing.rs");
        let imports = files
            .iter()
            .filter(|(file, _)| !is_test(file))
            .map(|(file, paths)| {
                let here = module_of(file);
                let used = paths.used.iter().filter_map(|path| resolve(&files, &here, path));
                (file.clone(), used.filter(|other| other != file && !is_test(other)).collect())
            })
            .collect();
        Self { imports }
    }
}

/// `["host", "record"]` of `host/record.rs`.
fn module_of(file: &Path) -> Vec<String> {
    let mut module: Vec<String> =
        file.with_extension("").iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    if ["mod", "lib", "main"].contains(&module.last().unwrap().as_str()) {
        module.pop();
    }
    module
}

/// The file that has what `path` names in the module `here`; a re-export leads to the file that it is of.
fn resolve(files: &BTreeMap<PathBuf, Paths>, here: &[String], path: &[String]) -> Option<PathBuf> {
    let (mut module, mut rest): (Vec<String>, &[String]) = match path.first()?.as_str() {
        "crate" | "reservoir" => (vec![], &path[1..]),
        "self" => (here.to_vec(), &path[1..]),
        "super" => (here[..here.len().checked_sub(1)?].to_vec(), &path[1..]),
        first => {
            let mut child = here.to_vec();
            child.push(first.to_owned());
            file_of(files, &child)?;
            (here.to_vec(), path)
        }
    };
    while let [next, more @ ..] = rest {
        if next == "super" {
            module.pop()?;
        } else {
            module.push(next.clone());
            if file_of(files, &module).is_none() {
                module.pop();
                let file = file_of(files, &module)?;
                return match files[&file].exported.get(next) {
                    Some(exported) => resolve(files, &module, exported).or(Some(file)),
                    None => Some(file),
                };
            }
        }
        rest = more;
    }
    file_of(files, &module)
}

fn file_of(files: &BTreeMap<PathBuf, Paths>, module: &[String]) -> Option<PathBuf> {
    let path: PathBuf = module.iter().collect();
    let candidates = match module {
        [] => vec![PathBuf::from("lib.rs")],
        _ => vec![path.with_extension("rs"), path.join("mod.rs")],
    };
    candidates.into_iter().find(|candidate| files.contains_key(candidate))
}
