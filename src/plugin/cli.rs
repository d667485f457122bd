//! The command line: kubectl's own flags, and a subcommand for each thing that can be done.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Shows Reservoir's disks, reservations, volumes and claims, says why something waits, and does in a line what takes a
/// manifest otherwise.
#[derive(Parser)]
#[command(name = "kubectl-reservoir", bin_name = "kubectl reservoir", version)]
pub(super) struct Cli {
    #[command(flatten)]
    pub connection: Connection,
    #[command(subcommand)]
    pub command: Command,
}

/// Which cluster, as whom: as kubectl has it.
#[derive(Args)]
pub(super) struct Connection {
    /// The namespace; without it that of the context, or all where all are shown.
    #[arg(short, long, global = true)]
    pub namespace: Option<String>,
    /// The context of the kubeconfig to use.
    #[arg(long, global = true)]
    pub context: Option<String>,
    /// The kubeconfig to use.
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The user to act as.
    #[arg(long = "as", global = true, value_name = "USER")]
    pub as_user: Option<String>,
    /// A group to act as; can be given more than once.
    #[arg(long, global = true, value_name = "GROUP", requires = "as_user")]
    pub as_group: Vec<String>,
}

/// What is printed.
#[derive(Args, Default)]
pub(super) struct Output {
    /// Prints objects, or what is shown, as JSON or YAML.
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<Format>,
}

/// A format for programs.
#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Format {
    Json,
    Yaml,
}

/// What is shown, once or whenever it changes.
#[derive(Args)]
pub(super) struct Show {
    #[command(flatten)]
    pub output: Output,
    /// Shows it again whenever it changes, until it is interrupted.
    #[arg(short, long)]
    pub watch: bool,
}

/// How something is written.
#[derive(Args)]
pub(super) struct Write {
    #[command(flatten)]
    pub output: Output,
    /// Writes nothing: `client` prints what would be sent, `server` has it checked by the API server, rights included.
    #[arg(long, value_name = "WHERE")]
    pub dry_run: Option<DryRun>,
    /// Waits until it is done, and shows how it stands meanwhile.
    #[arg(long)]
    pub wait: bool,
    /// How long to wait, such as 30s, 5m or 1h.
    #[arg(long, default_value = "5m", value_parser = duration)]
    pub timeout: Duration,
}

/// Who looks at what would be written.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub(super) enum DryRun {
    Client,
    Server,
}

#[derive(Subcommand)]
pub(super) enum Command {
    /// Disks, roles and their shares as bars, and what waits.
    Status {
        #[command(flatten)]
        show: Show,
    },
    /// Everything in its place: disk, reservation, volume, claim, pod.
    Tree {
        /// Only what belongs to this role or to one beneath it.
        #[arg(long)]
        role: Option<String>,
        #[command(flatten)]
        show: Show,
    },
    /// Says why something waits or cannot go, who holds it, and what to do next.
    Why {
        /// Such as pod/web-0, pvc/data, vclaim/data, spv/data, dr/eng, nd/n1.fast, rsub/eng, vrole/eng, offer/eng.n1.
        #[arg(value_name = "KIND/NAME", num_args = 1..=2, required = true)]
        object: Vec<String>,
        #[command(flatten)]
        output: Output,
    },
    /// Reserves disk for a role.
    Reserve(Reserve),
    /// Creates a volume.
    Create(Create),
    /// Subscribes the namespace to roles, so that it is offered their volumes.
    Subscribe {
        /// The roles.
        #[arg(required = true)]
        roles: Vec<String>,
        /// Name of the RoleSubscription; without it that of the first role.
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        write: Write,
    },
    /// Claims a volume for the namespace; pods use it by the PersistentVolumeClaim of the claim's name.
    Claim(Claim),
    /// Has a volume destroyed as soon as nobody uses it any more.
    Retire {
        /// Name of the volume.
        volume: String,
        #[command(flatten)]
        write: Write,
    },
    /// Takes that back, as long as the volume is there.
    Unretire {
        /// Name of the volume.
        volume: String,
        #[command(flatten)]
        write: Write,
    },
    /// Makes a volume or a reservation larger or smaller.
    Resize {
        /// spv/NAME or dr/NAME; a name alone is a volume's.
        #[arg(value_name = "[KIND/]NAME")]
        object: String,
        /// The new size, such as 20Gi.
        size: String,
        #[command(flatten)]
        write: Write,
    },
    /// Data on the disks that has no object any more.
    Orphans {
        #[command(flatten)]
        output: Output,
    },
    /// Prints manifests that bring such data back, to be looked at and applied.
    Recover {
        /// UIDs or names of it; without any, all.
        data: Vec<String>,
        #[command(flatten)]
        output: Output,
    },
    /// Looks for what is wrong with the installation, and with your rights.
    Doctor {
        #[command(flatten)]
        output: Output,
    },
    /// Prints a script that completes `kubectl-reservoir` in a shell.
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

#[derive(Args)]
pub(super) struct Reserve {
    /// Name of the reservation.
    pub name: String,
    /// The role that it is for.
    #[arg(long)]
    pub role: String,
    /// How much, such as 100Gi.
    #[arg(long)]
    pub size: String,
    /// The NodeDisk to take it from.
    #[arg(long, group = "place")]
    pub disk: Option<String>,
    /// The node whose disks may serve it.
    #[arg(long, group = "place")]
    pub node: Option<String>,
    /// A label of the nodes whose disks may serve it; can be given more than once.
    #[arg(long, group = "place", value_name = "KEY=VALUE", value_parser = pair)]
    pub node_selector: Vec<(String, String)>,
    /// The reservation to carve it out of, for a sub-role.
    #[arg(long, group = "place")]
    pub parent: Option<String>,
    #[command(flatten)]
    pub write: Write,
}

#[derive(Args)]
pub(super) struct Create {
    /// Name of the volume.
    pub name: String,
    /// The role that it belongs to.
    #[arg(long)]
    pub role: String,
    /// How large, such as 10Gi.
    #[arg(long)]
    pub size: String,
    /// The reservation to take it from; without it any of the role that has room.
    #[arg(long)]
    pub reservation: Option<String>,
    /// For one claim and one pod at a time, instead of many.
    #[arg(long)]
    pub exclusive: bool,
    /// Its file system: ext4, xfs or btrfs.
    #[arg(long, value_name = "TYPE", default_value = "ext4", value_parser = ["ext4", "xfs", "btrfs"])]
    pub fs_type: String,
    /// A raw device, of a disk of kind Block.
    #[arg(long)]
    pub block: bool,
    /// The group that its pods are in.
    #[arg(long)]
    pub gid: Option<i64>,
    /// A directory that holds data already, to be adopted as it is.
    #[arg(long, value_name = "PATH")]
    pub adopt: Option<String>,
    /// A label of the volume, by which claims may select it; can be given more than once.
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = pair)]
    pub label: Vec<(String, String)>,
    #[command(flatten)]
    pub write: Write,
}

#[derive(Args)]
pub(super) struct Claim {
    /// Name of the claim, and of the PersistentVolumeClaim that it brings.
    pub name: String,
    /// The role that it is for.
    #[arg(long)]
    pub role: String,
    /// The volume.
    #[arg(long, required_unless_present_any = ["selector", "min_size"], conflicts_with_all = ["selector", "min_size"])]
    pub volume: Option<String>,
    /// A label that the volume is to have; can be given more than once.
    #[arg(short = 'l', long, value_name = "KEY=VALUE", value_parser = pair)]
    pub selector: Vec<(String, String)>,
    /// How large the volume is to be at least.
    #[arg(long, value_name = "SIZE")]
    pub min_size: Option<String>,
    /// Its pods may only read.
    #[arg(long)]
    pub read_only: bool,
    #[command(flatten)]
    pub write: Write,
}

fn pair(text: &str) -> Result<(String, String), String> {
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
    fn the_command_line_is_consistent_and_durations_are_read() {
        Cli::command().debug_assert();
        for (text, seconds) in
            [("30s", Some(30)), ("5m", Some(300)), ("1h", Some(3600)), ("5", None), ("m", None)]
        {
            assert_eq!(duration(text).ok().map(|d| d.as_secs()), seconds, "{text}");
        }
    }
}
