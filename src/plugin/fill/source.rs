//! The places that files come from: the addresses, and the programs that fetch from them.

/// The place that the files of a volume come from.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::plugin) struct Source {
    program: Program,
    /// Variables of the program.
    pub variables: Vec<(&'static str, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Program {
    Curl,
    Aws,
    Oras,
    HuggingFace,
}

/// The way in which a program gets the Secret of `--secret`.
#[derive(Debug, PartialEq)]
pub(super) enum Credentials {
    /// Each key is an environment variable.
    Variables,
    /// The key of this name is a file of the same name in [`CREDENTIALS`].
    File(&'static str),
}

/// The directory of the Secret.
pub(super) const CREDENTIALS: &str = "/credentials";

const FORMS: &str = "write https://HOST/FILE, http://HOST/FILE, s3://BUCKET/DIRECTORY/, s3://BUCKET/FILE, oci://REGISTRY/REPOSITORY:TAG, \
                     hf://OWNER/MODEL or hf://datasets/OWNER/NAME, with @REVISION if wanted";

impl Source {
    /// Parses an address.
    pub fn parse(address: &str) -> Result<Self, String> {
        let (scheme, rest) = address.split_once("://").ok_or(FORMS)?;
        let (path, _) = rest.split_once(['?', '#']).unwrap_or((rest, ""));
        let has_blank = |text: &str| text.contains(char::is_whitespace);
        let is_http = ["http", "https"].contains(&&*scheme.to_ascii_lowercase());
        if path.split('/').next().is_some_and(has_blank) || is_http && has_blank(rest) {
            return Err(format!(
                "`{address}` has a blank, which no name of a host has; in the rest of an address write %20 for it"
            ));
        }
        if path.split('/').next().is_some_and(|host| host.contains('@')) {
            return Err("an address with a password can be read by everybody who may read the Job: put it into a Secret, and name \
                        that with --secret"
                .to_owned());
        }
        let place = path.split_once('/').filter(|(first, second)| !first.is_empty() && !second.is_empty());
        let (host, inside) = place.ok_or(FORMS)?;
        let from = |address: &str| ("FROM", address.to_owned());
        let (program, variables) = match scheme.to_ascii_lowercase().as_str() {
            "https" | "http" => {
                let file = inside.rsplit('/').next().unwrap_or_default();
                if ["", ".", ".."].contains(&file) {
                    return Err(format!(
                        "{address} names no file, and a directory cannot be fetched by HTTP"
                    ));
                }
                (Program::Curl, vec![from(address), ("FILE", file.to_owned())])
            }
            "s3" => (Program::Aws, vec![from(address)]),
            "oci" => (Program::Oras, vec![from(rest)]),
            "hf" => {
                let (name, revision) = path.split_once('@').unwrap_or((path, ""));
                let (kind, name) = match (host, name.split_once('/')) {
                    ("datasets", Some((_, name))) => ("dataset", name),
                    _ => ("model", name),
                };
                if name.split('/').filter(|part| !part.is_empty()).count() != 2
                    || name.matches('/').count() != 1
                {
                    return Err(FORMS.to_owned());
                }
                let mut variables = vec![from(name), ("KIND", kind.to_owned())];
                variables.extend((!revision.is_empty()).then(|| ("REVISION", revision.to_owned())));
                (Program::HuggingFace, variables)
            }
            _ => return Err(format!("nothing is fetched by {scheme}: {FORMS}")),
        };
        Ok(Self { program, variables })
    }

    /// The image that has the program.
    pub(super) fn image(&self) -> &'static str {
        match self.program {
            Program::Curl => "docker.io/curlimages/curl:8.10.1",
            Program::Aws => "docker.io/amazon/aws-cli:2.17.0",
            Program::Oras => "ghcr.io/oras-project/oras:v1.2.0",
            Program::HuggingFace => "ghcr.io/astral-sh/uv:python3.13-bookworm-slim",
        }
    }

    /// The script of the Job, which runs in the volume. A file has its name only when all of it is on the disk, or its program
    /// sees by itself that it is incomplete.
    pub(super) fn script(&self, has_secret: bool) -> String {
        let secret = |option: &str| if has_secret { format!(" {option}") } else { String::new() };
        let fetch = match self.program {
            Program::Curl => format!(
                "curl --fail --location --no-progress-meter --retry 5 --retry-all-errors{} --output \".$FILE.part\" \"$FROM\"\nsync\nmv \
                 \".$FILE.part\" \"$FILE\"",
                secret("--header @/credentials/headers")
            ),
            Program::Aws if self.variables.iter().any(|(_, from)| from.ends_with('/')) => {
                "aws s3 sync --no-progress \"$FROM\" .".to_owned()
            }
            Program::Aws => "aws s3 cp --no-progress \"$FROM\" .".to_owned(),
            Program::Oras => format!(
                "oras pull --no-tty --output .{} \"$FROM\"",
                secret("--registry-config /credentials/.dockerconfigjson")
            ),
            Program::HuggingFace => {
                let revision = self.variables.iter().any(|(name, _)| *name == "REVISION");
                let revision = if revision { " --revision \"$REVISION\"" } else { "" };
                format!(
                    "uvx --from huggingface_hub hf download --repo-type \"$KIND\"{revision} --local-dir . \"$FROM\"\nrm -rf .cache/huggingface\nrmdir .cache || true"
                )
            }
        };
        format!("{fetch}\nsync\ndf -h .\n")
    }

    /// The way in which the program gets the Secret.
    pub(super) fn credentials(&self) -> Credentials {
        match self.program {
            Program::Curl => Credentials::File("headers"),
            Program::Oras => Credentials::File(".dockerconfigjson"),
            Program::Aws | Program::HuggingFace => Credentials::Variables,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e6_each_address_has_its_program_and_variables() {
        for (address, program, variables) in [
            (
                "https://files.example/a/b.tar?x=1",
                "curl ",
                &[("FROM", "https://files.example/a/b.tar?x=1"), ("FILE", "b.tar")][..],
            ),
            ("s3://bucket/sets/one/", "aws s3 sync ", &[("FROM", "s3://bucket/sets/one/")]),
            ("s3://bucket/one.bin", "aws s3 cp ", &[("FROM", "s3://bucket/one.bin")]),
            ("oci://registry.example/sets/one:1", "oras pull ", &[("FROM", "registry.example/sets/one:1")]),
            (
                "hf://owner/model",
                "uvx --from huggingface_hub hf download --repo-type \"$KIND\" --local-dir",
                &[("FROM", "owner/model"), ("KIND", "model")],
            ),
            (
                "hf://datasets/owner/set@v2",
                "uvx --from huggingface_hub hf download --repo-type \"$KIND\" --revision",
                &[("FROM", "owner/set"), ("KIND", "dataset"), ("REVISION", "v2")],
            ),
        ] {
            let source = Source::parse(address).unwrap();
            assert!(source.script(false).starts_with(program), "{address}: {}", source.script(false));
            let expected: Vec<_> =
                variables.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
            assert_eq!(source.variables, expected, "{address}");
        }
    }

    #[test]
    fn e6_a_wrong_address_is_told_with_the_right_forms() {
        for (address, why) in [
            ("files.example/a", "write https://HOST/FILE"),
            ("FTP://files.example/a", "nothing is fetched by FTP: write https://HOST/FILE"),
            ("ftp://files.example/a", "nothing is fetched by ftp: write https://HOST/FILE"),
            ("https://files.example", "write https://HOST/FILE"),
            ("https://files.example/a/", "names no file"),
            ("https://files.example/a/..", "names no file"),
            ("https://me:secret@files.example/a", "put it into a Secret"),
            ("http://us er/x", "has a blank, which no name of a host has"),
            ("https://h/a b", "write %20 for it"),
            ("s3://buck et/x", "has a blank"),
            ("s3://bucket", "write https://HOST/FILE"),
            ("hf://model", "write https://HOST/FILE"),
            ("hf://owner/model/file", "write https://HOST/FILE"),
            ("hf://datasets/one", "write https://HOST/FILE"),
        ] {
            let error = Source::parse(address).unwrap_err();
            assert!(error.contains(why), "{address}: {error}");
        }
    }

    #[test]
    fn e6_credentials_are_read_from_a_secret_only_if_one_is_named() {
        let script = |address: &str, secret| Source::parse(address).unwrap().script(secret);
        assert!(script("https://h/f", true).contains("--header @/credentials/headers"));
        assert!(script("oci://h/f:1", true).contains("--registry-config /credentials/.dockerconfigjson"));
        for address in ["https://h/f", "oci://h/f:1", "s3://b/f", "hf://o/m"] {
            assert!(!script(address, false).contains("credentials"), "{address}");
        }
    }
}
