//! The command line: kubectl's own flags, and the subcommands.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};

use super::fill::Source;
use super::kind::{Kind, VOLUME};
use super::rights::parse_verb;
use crate::api::{Role, Size, SizeError};

/// Shows Reservoir's disks, reservations, volumes and claims, explains a wait, and creates objects without a
/// manifest.
#[derive(Parser)]
#[command(name = "kubectl-reservoir", bin_name = "kubectl reservoir", version)]
pub(super) struct Cli {
    #[command(flatten)]
    pub connection: Connection,
    #[command(subcommand)]
    pub command: Command,
}

/// Cluster, namespace and user, by kubectl's flags.
#[derive(Args)]
pub(super) struct Connection {
    /// Namespace. Default: the namespace of the context, or all namespaces for status and tree.
    #[arg(short, long, global = true)]
    pub namespace: Option<String>,
    /// All namespaces, for status, tree and the lists, which is their default.
    #[arg(short = 'A', long, global = true, conflicts_with = "namespace")]
    pub all_namespaces: bool,
    /// Context of the kubeconfig.
    #[arg(long, global = true)]
    pub context: Option<String>,
    /// Path of the kubeconfig.
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// User to impersonate.
    #[arg(long = "as", global = true, value_name = "USER")]
    pub as_user: Option<String>,
    /// Group to impersonate; may be repeated.
    #[arg(long, global = true, value_name = "GROUP", requires = "as_user")]
    pub as_group: Vec<String>,
}

/// Form of the output.
#[derive(Args, Clone, Copy, Default)]
pub(super) struct Output {
    /// Prints the objects or the view as JSON or YAML.
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<Format>,
}

/// Output format for programs.
#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Format {
    Json,
    Yaml,
}

/// Options of a view.
#[derive(Args)]
pub(super) struct Show {
    #[command(flatten)]
    pub output: Output,
    /// Shows the view again after each change, until interrupted.
    #[arg(short, long)]
    pub watch: bool,
}

/// Options of a write.
#[derive(Args, Default)]
pub(super) struct Write {
    #[command(flatten)]
    pub output: Output,
    /// Writes nothing. With `client` no request is sent, and `-o yaml` prints the manifest; `server` lets the API server check it, rights included.
    #[arg(long, value_name = "WHERE", num_args = 0..=1, require_equals = true, default_missing_value = "client")]
    pub dry_run: Option<DryRun>,
    /// Waits until the write has taken effect, and prints the progress.
    #[arg(long)]
    pub wait: bool,
    /// Time limit of the wait, such as 30s, 5m or 1h.
    #[arg(long, default_value = "5m", value_parser = duration)]
    pub timeout: Duration,
}

/// The checker of a dry run.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub(super) enum DryRun {
    Client,
    Server,
}

#[derive(Subcommand)]
pub(super) enum Command {
    /// Shows disks, the shares of roles as bars, and the objects that are not ready.
    Status {
        #[command(flatten)]
        show: Show,
    },
    /// Shows the tree of disk, reservation, volume, claim and pod.
    Tree {
        /// Only objects of this role or of a role beneath it.
        #[arg(long)]
        role: Option<String>,
        #[command(flatten)]
        show: Show,
    },
    /// Explains why an object waits or cannot be deleted, with its holders and the next step.
    Why {
        /// Kind and name, such as pod/web-0, pvc/data, vclaim/data, spv/data, dr/eng, nd/n1.fast, rsub/eng,
        /// vrole/eng, offer/eng.n1.
        #[arg(value_name = "KIND/NAME", num_args = 1.., required = true)]
        object: Vec<String>,
        #[command(flatten)]
        output: Output,
    },
    /// Reserves disk for a role.
    Reserve(Reserve),
    /// Creates a volume.
    Create(Create),
    /// Subscribes the namespace to the offers of roles.
    Subscribe {
        /// Names of the roles.
        #[arg(required = true)]
        roles: Vec<String>,
        /// Name of the RoleSubscription. Default: the first role.
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        write: Write,
    },
    /// Claims a volume for the namespace. Pods use the PersistentVolumeClaim of the claim's name.
    Claim(Claim),
    /// Fetches files into the volume of a claim, by a Job in the namespace, which goes on after the time limit of the wait.
    #[command(mut_arg("timeout", |arg| arg.default_value("24h")))]
    Fill(Fill),
    /// Ends the namespace's subscription to roles. Bound claims go on.
    Unsubscribe(Unsubscribe),
    /// Ends claims: each goes when its pods have ended. The data stays, except that of volumes that are being retired or destroyed.
    Unclaim(Unclaim),
    /// Deletes an object of Reservoir's kinds, or names what stands in the way.
    Delete {
        /// Kinds and names, such as dr/eng, spv/data, rsub/eng, vrole/eng, nd/n1.fast.
        #[arg(value_name = "KIND/NAME", num_args = 1.., required = true)]
        object: Vec<String>,
        #[command(flatten)]
        write: Write,
    },
    /// Requests the destruction of a volume after its last use.
    Retire {
        /// Name of the volume.
        #[arg(value_parser = volume)]
        volume: String,
        #[command(flatten)]
        write: Write,
    },
    /// Reads the files of a sealed volume again, and compares them with its digest. With --wait it waits for the answer.
    Verify {
        /// Name of the volume.
        #[arg(value_parser = volume)]
        volume: String,
        #[command(flatten)]
        write: Write,
    },
    /// Cancels the request of retire, until the last user of the volume is gone.
    Unretire {
        /// Name of the volume.
        #[arg(value_parser = volume)]
        volume: String,
        #[command(flatten)]
        write: Write,
    },
    /// Lists the data of destroyed volumes that is kept for an undo.
    Kept {
        #[command(flatten)]
        output: Output,
    },
    /// Brings a destroyed volume back with its data, as long as the data is kept.
    Undelete(Undelete),
    /// Erases the data of a destroyed volume before its time is over.
    Erase(Erase),
    /// Makes a volume or a reservation larger or smaller.
    Resize {
        /// spv/NAME or dr/NAME; NAME alone is a volume.
        #[arg(value_name = "[KIND/]NAME")]
        object: String,
        /// New size, such as 20Gi.
        #[arg(value_parser = size, allow_hyphen_values = true)]
        size: String,
        #[command(flatten)]
        write: Write,
    },
    /// Gives a user, a group or a service account verbs on a role and its sub-roles.
    Grant(Grant),
    /// Takes verbs back that `grant` gave, and lists the claims that go on.
    Revoke(Revoke),
    /// Lists who has a verb on a role, by any ClusterRole.
    WhoCan {
        /// Verb, such as use.
        #[arg(value_parser = parse_verb)]
        verb: &'static str,
        /// Name of the role.
        #[arg(value_parser = Role::parse)]
        role: Role,
        #[command(flatten)]
        output: Output,
    },
    /// Lists the devices of the nodes.
    Disks {
        /// Every block device of the nodes' hardware, with what is on it, before a disk takes any.
        #[arg(long, required = true)]
        discover: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Lists data on the disks without an object.
    Orphans {
        #[command(flatten)]
        output: Output,
    },
    /// Prints manifests that recover data without an object, for kubectl apply.
    Recover {
        /// UIDs, names or NodeDisks of the data. Default: all.
        data: Vec<String>,
        #[command(flatten)]
        output: Output,
    },
    /// Removes Reservoir from the cluster, with the data kept on the disks or erased.
    Uninstall(Uninstall),
    /// Checks the installation and your rights.
    Doctor {
        #[command(flatten)]
        output: Output,
    },
    /// Prints a completion script of `kubectl-reservoir` for a shell.
    Completion {
        /// Name of the shell.
        shell: clap_complete::Shell,
    },
}

impl Command {
    /// Refuses `-A` where one namespace, or none, is meant.
    pub fn check_all_namespaces(&self) -> Result<(), String> {
        match self {
            Self::Status { .. }
            | Self::Tree { .. }
            | Self::Doctor { .. }
            | Self::Disks { .. }
            | Self::Orphans { .. }
            | Self::Kept { .. } => Ok(()),
            Self::Unclaim(_) | Self::Unsubscribe(_) | Self::Subscribe { .. } | Self::Claim(_) | Self::Fill(_) | Self::Revoke(_) => {
                Err("-A is for views: name the namespace with -n".into())
            }
            Self::Why { .. } | Self::Delete { .. } => {
                Err("-A is for views: name the namespace of the object with -n; kubectl reservoir status -A lists all that wait".into())
            }
            _ => Err("-A is for views: this command is about the whole cluster".into()),
        }
    }
}

#[derive(Args)]
pub(super) struct Reserve {
    /// Name of the reservation.
    pub name: String,
    /// Role of the reservation.
    #[arg(long)]
    pub role: String,
    /// Size, such as 100Gi.
    #[arg(long, value_parser = size, allow_hyphen_values = true)]
    pub size: String,
    /// NodeDisk that serves the reservation.
    #[arg(long, group = "place")]
    pub disk: Option<String>,
    /// Node whose disks may serve the reservation.
    #[arg(long, group = "place")]
    pub node: Option<String>,
    /// Label of the nodes whose disks may serve the reservation; may be repeated.
    #[arg(long, group = "place", value_name = "KEY=VALUE", value_parser = key_value)]
    pub node_selector: Vec<(String, String)>,
    /// Parent reservation to carve the reservation out of, for a sub-role.
    #[arg(long, group = "place")]
    pub parent: Option<String>,
    #[command(flatten)]
    pub write: Write,
}

#[derive(Args)]
pub(super) struct Create {
    /// Name of the volume.
    pub name: String,
    /// Role of the volume.
    #[arg(long)]
    pub role: String,
    /// Size, such as 10Gi.
    #[arg(long, value_parser = size, allow_hyphen_values = true)]
    pub size: String,
    /// Reservation of the volume. Default: any reservation of the role with enough free space.
    #[arg(long)]
    pub reservation: Option<String>,
    /// One claim and one pod at a time, instead of many.
    #[arg(long)]
    pub exclusive: bool,
    /// File system: ext4, xfs or btrfs.
    #[arg(long, value_name = "TYPE", default_value = "ext4", value_parser = ["ext4", "xfs", "btrfs"])]
    pub fs_type: String,
    /// Raw device, on a disk of kind Block.
    #[arg(long)]
    pub block: bool,
    /// Supplemental group of the volume's pods.
    #[arg(long)]
    pub gid: Option<i64>,
    /// Time for which the data is kept after the volume's destruction, such as 72h.
    #[arg(long, value_name = "TIME")]
    pub keep_for: Option<String>,
    /// Existing directory with data, which becomes the volume as it is.
    #[arg(long, value_name = "PATH")]
    pub adopt: Option<String>,
    /// Label of the volume, for the selectors of claims; may be repeated.
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = key_value)]
    pub label: Vec<(String, String)>,
    #[command(flatten)]
    pub write: Write,
}

#[derive(Args)]
#[command(group = ArgGroup::new("chosen").args(["volume", "selector", "min_size"]).required(true).multiple(true))]
pub(super) struct Claim {
    /// Name of the claim and of its PersistentVolumeClaim.
    pub name: String,
    /// Role of the claim.
    #[arg(long)]
    pub role: String,
    /// Name of the volume.
    #[arg(long, conflicts_with_all = ["selector", "min_size"])]
    pub volume: Option<String>,
    /// Label that the volume must have; may be repeated.
    #[arg(short = 'l', long, value_name = "KEY=VALUE", value_parser = key_value)]
    pub selector: Vec<(String, String)>,
    /// Smallest size of the volume.
    #[arg(long, value_name = "SIZE", value_parser = size, allow_hyphen_values = true)]
    pub min_size: Option<String>,
    /// Read-only access for the claim's pods.
    #[arg(long)]
    pub read_only: bool,
    /// Digest of the content that a sealed volume must have.
    #[arg(long)]
    pub digest: Option<String>,
    #[command(flatten)]
    pub write: Write,
}

#[derive(Args)]
pub(super) struct Fill {
    /// Name of the PersistentVolumeClaim, which is the name of its VolumeClaim.
    pub claim: String,
    /// Address of the files: https://, http://, s3://, oci:// or hf://.
    #[arg(long, value_name = "ADDRESS", value_parser = Source::parse)]
    pub from: Source,
    /// Image of the Job, with the program that fetches: curl, aws, oras or uvx. Default: a public image with it.
    #[arg(long)]
    pub image: Option<String>,
    /// Secret of the namespace for the source: variables for s3 and hf, the key headers for https, a registry's login for oci.
    #[arg(long, value_name = "NAME")]
    pub secret: Option<String>,
    /// Waits for the files, and seals the volume then, for good.
    #[arg(long)]
    pub seal: bool,
    #[command(flatten)]
    pub write: Write,
}

#[derive(Args)]
pub(super) struct Undelete {
    /// Name or UID of the destroyed volume.
    pub volume: String,
    /// Name of the volume that gets the data. Default: the old name.
    #[arg(long)]
    pub name: Option<String>,
    #[command(flatten)]
    pub write: Write,
}

#[derive(Args)]
pub(super) struct Erase {
    /// Name or UID of the destroyed volume.
    pub volume: String,
    /// Does not ask.
    #[arg(short, long)]
    pub yes: bool,
    /// Writes nothing. With `client` no request is sent, and `-o yaml` prints the manifest; `server` lets the API server check it, rights included.
    #[arg(long, value_name = "WHERE", num_args = 0..=1, require_equals = true, default_missing_value = "client")]
    pub dry_run: Option<DryRun>,
}

#[derive(Args)]
pub(super) struct Unsubscribe {
    /// Names of the roles.
    #[arg(required = true, value_parser = Role::parse)]
    pub roles: Vec<Role>,
    /// Writes nothing. `server` lets the API server check the request, rights included.
    #[arg(long, value_name = "WHERE", num_args = 0..=1, require_equals = true, default_missing_value = "client")]
    pub dry_run: Option<DryRun>,
}

#[derive(Args)]
pub(super) struct Unclaim {
    /// Names of the claims.
    #[arg(required_unless_present = "role", conflicts_with = "role")]
    pub claims: Vec<String>,
    /// Ends all claims of the namespace for this role and its sub-roles.
    #[arg(long, value_parser = Role::parse)]
    pub role: Option<Role>,
    /// Does not ask.
    #[arg(short, long)]
    pub yes: bool,
    /// Writes nothing. `server` lets the API server check the request, rights included.
    #[arg(long, value_name = "WHERE", num_args = 0..=1, require_equals = true, default_missing_value = "client")]
    pub dry_run: Option<DryRun>,
}

#[derive(Args)]
#[command(group(clap::ArgGroup::new("fate").multiple(false)))]
pub(super) struct Uninstall {
    /// Removes kinds, objects and policies after `helm uninstall`. The data stays on the disks, and can be recovered.
    #[arg(long, group = "fate")]
    pub keep_data: bool,
    /// Deletes all claims and volumes while Reservoir runs, which erases their data; after `helm uninstall`, the rest.
    #[arg(long, group = "fate")]
    pub erase: bool,
    /// Changes nothing, and prints the next steps.
    #[arg(long)]
    pub dry_run: bool,
    /// Does not ask.
    #[arg(short, long)]
    pub yes: bool,
    /// Time limit of each stage of an erasure, such as 10m.
    #[arg(long, default_value = "10m", value_parser = duration)]
    pub timeout: Duration,
}

#[derive(Args)]
pub(super) struct Grant {
    /// Role, whose sub-roles the grant covers, too.
    #[arg(value_parser = Role::parse)]
    pub role: Role,
    /// Verbs, separated by commas: reserve, unreserve, create, destroy, resize, recover, subscribe, use, use-readonly.
    #[arg(long, value_name = "VERB", value_delimiter = ',', required = true, value_parser = parse_verb)]
    pub verbs: Vec<&'static str>,
    /// Receiver: user NAME, group NAME or serviceaccount NAMESPACE/NAME.
    #[arg(long, num_args = 2, value_names = ["KIND", "NAME"], required = true)]
    pub to: Vec<String>,
    #[command(flatten)]
    pub output: Output,
    /// Writes nothing, and prints the ClusterRole and its ClusterRoleBinding. `server` lets the API server check them.
    #[arg(long, value_name = "WHERE", num_args = 0..=1, require_equals = true, default_missing_value = "client")]
    pub dry_run: Option<DryRun>,
}

#[derive(Args)]
pub(super) struct Revoke {
    /// Role that `grant` named.
    #[arg(value_parser = Role::parse)]
    pub role: Role,
    /// Verbs, separated by commas. Default: all.
    #[arg(long, value_name = "VERB", value_delimiter = ',', value_parser = parse_verb)]
    pub verbs: Vec<&'static str>,
    /// Receiver: user NAME, group NAME or serviceaccount NAMESPACE/NAME.
    #[arg(long, num_args = 2, value_names = ["KIND", "NAME"], required = true)]
    pub from: Vec<String>,
    /// Ends the claims of the namespace that need the right, too: each goes when its pods have ended.
    #[arg(long)]
    pub end_claims: bool,
    /// Does not ask.
    #[arg(short, long)]
    pub yes: bool,
    /// Writes nothing. `server` lets the API server check the requests.
    #[arg(long, value_name = "WHERE", num_args = 0..=1, require_equals = true, default_missing_value = "client")]
    pub dry_run: Option<DryRun>,
}

/// A size without a unit would be a number of bytes, which few people mean.
fn size(text: &str) -> Result<String, String> {
    if let Some(more) = text.strip_prefix('+') {
        return Err(format!("{more} more? Write the size that it is to have in all"));
    }
    match Size::written(text).bytes() {
        Ok(bytes) if bytes < 1 << 20 && text.chars().all(|c| c.is_ascii_digit()) => {
            Err(format!("{text} bytes? Write the unit, such as {text}Gi"))
        }
        Ok(bytes) if bytes < 1 << 20 && text.ends_with('m') => {
            Err(format!("m is a thousandth; write millions of bytes as {}", text.replace('m', "M")))
        }
        Ok(bytes) if bytes < 1 << 20 => Err("a size is at least 1Mi".to_owned()),
        Ok(_) => Ok(text.to_owned()),
        Err(SizeError::NotAQuantity(_)) => {
            Err("write a number with a unit: Mi, Gi or Ti, or M, G or T for powers of 1000, such as 10Gi"
                .to_owned())
        }
        Err(other) => Err(other.to_string()),
    }
}

/// The name of a volume, also as `spv/NAME`.
fn volume(text: &str) -> Result<String, String> {
    match text.split_once('/') {
        None => Ok(text.to_owned()),
        Some((kind, name)) if Kind::parse(kind)? == &VOLUME => Ok(name.to_owned()),
        Some((kind, _)) => {
            Err(format!("{kind} is no kind of volume: write the name of a SharedPersistentVolume"))
        }
    }
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "write a number with its unit, such as 30s, 5m or 1h".to_owned();
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?);
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_durations_parse() {
        Cli::command().debug_assert();
        for (text, seconds) in
            [("30s", Some(30)), ("5m", Some(300)), ("1h", Some(3600)), ("5", None), ("m", None)]
        {
            assert_eq!(duration(text).ok().map(|d| d.as_secs()), seconds, "{text}");
        }
        assert_eq!(volume("spv/data"), volume("data"));
        assert!(volume("dr/data").unwrap_err().contains("is no kind of volume"));
    }

    /// T4: kubectl's flag, where people type it.
    #[test]
    fn t4_all_namespaces_is_a_flag_of_views() {
        let parse = |line: &str| {
            let words = ["kubectl-reservoir"].into_iter().chain(line.split(' '));
            Cli::try_parse_from(words).map_err(|error| error.to_string())
        };
        let checked = |line: &str| {
            let cli = parse(line).unwrap();
            assert!(cli.connection.all_namespaces);
            cli.command.check_all_namespaces()
        };
        for line in ["status -A", "tree --all-namespaces", "-A kept", "orphans -A"] {
            assert_eq!(checked(line), Ok(()), "{line}");
        }
        assert!(checked("unclaim --role eng -A").unwrap_err().contains("name the namespace with -n"));
        assert!(checked("why pod/web -A").unwrap_err().contains("status -A lists"));
        assert!(checked("retire data -A").unwrap_err().contains("the whole cluster"));
        assert!(parse("status -A -n team").err().unwrap().contains("cannot be used with"));
    }

    #[test]
    fn t4_a_size_without_a_unit_is_a_question() {
        assert_eq!(size("300"), Err("300 bytes? Write the unit, such as 300Gi".into()));
        assert_eq!(size("3Ki"), Err("a size is at least 1Mi".into()));
        assert_eq!(size("100m"), Err("m is a thousandth; write millions of bytes as 100M".into()));
        for wrong in ["10GB", "1Gib", "lots", ""] {
            assert!(size(wrong).unwrap_err().starts_with("write a number with a unit"), "{wrong}");
        }
        assert!(size("-1Gi").unwrap_err().contains("is not a positive number"));
        let line = ["kubectl-reservoir", "resize", "data", "-1Gi"];
        let error = Cli::try_parse_from(line).err().unwrap().to_string();
        assert!(error.contains("is not a positive number"), "{error}");
        assert_eq!(size("+1Gi"), Err("1Gi more? Write the size that it is to have in all".into()));
        for good in ["1Mi", "1.5Gi", "1073741824"] {
            assert_eq!(size(good), Ok(good.to_owned()));
        }
    }
}
