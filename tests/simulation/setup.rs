//! What differs between the clusters of two seeds: the configuration of the agents, and what the nodes can do.

use reservoir::api::{DiskKind, Lifetime, NodeDiskSpec, Size};

use crate::random::Random;

/// Name and path of the only disk in the configuration of every node.
pub const DISK: (&str, &str) = ("default", "/var/lib/reservoir");
/// The directory above those that volumes may adopt (V8).
pub const ADOPTABLE: &str = "/data";
/// The role of the static reservations (R2).
const STATIC_ROLE: &str = "dev";

/// The configuration of a run.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Disks have keys, and agents take them over (A7). Without keys a person says where a disk is.
    pub has_keys: bool,
    /// `Node`: disks go with their nodes (D7).
    pub lifetime: Lifetime,
    /// Kind of all disks (D2).
    pub kind: DiskKind,
    /// Nodes keep a reader's mount read-only, also in a pod that does not ask for that (M3).
    pub keeps_read_only: bool,
    /// Agents run in pods, and new nodes have the startup taint (F7).
    pub has_agent_pods: bool,
    /// The agents' configuration has static reservations (R2).
    pub has_static: bool,
    /// Volumes may adopt directories (V8).
    pub adopts: bool,
    /// Agents send and fill copies, and the controller labels nodes for them (E2, E3).
    pub copies: bool,
    /// The third node has a disk from the start.
    pub has_third_disk: bool,
}

impl Setup {
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(!seed);
        let mut often = |n| random.in_a_thousand(n);
        let kind = match () {
            () if often(100) => DiskKind::Mount,
            () if often(80) => DiskKind::Block,
            () => DiskKind::Path,
        };
        Self {
            has_keys: often(500),
            lifetime: if often(300) { Lifetime::Node } else { Lifetime::Disk },
            kind,
            keeps_read_only: often(500),
            has_agent_pods: often(500),
            has_static: often(400),
            adopts: often(500) && kind == DiskKind::Path,
            copies: often(400),
            has_third_disk: often(600),
        }
    }

    /// The spec of the disk by the configuration, as `agent/config.rs`.
    pub fn spec(&self, node: &str, id: &str) -> NodeDiskSpec {
        let (name, path) = DISK;
        NodeDiskSpec {
            adopt_roots: Vec::from_iter(self.adopts.then(|| ADOPTABLE.to_owned())),
            allow_unenforced: self.adopts,
            lifetime: self.lifetime,
            node_grace_seconds: (self.lifetime == Lifetime::Node).then_some(60),
            ..NodeDiskSpec::new(node.to_owned(), name.to_owned(), id.to_owned(), self.kind, path.to_owned())
        }
    }

    /// The static reservations in the configuration that the n-th agent of a node reads.
    pub fn configured(&self, agents: u64) -> Vec<(String, Size)> {
        let reserved = |gi: u64| (STATIC_ROLE.to_owned(), Size::from_bytes(gi << 30));
        match agents % 4 {
            _ if !self.has_static => vec![],
            3 => vec![],
            n => vec![reserved(4 + 3 * n)],
        }
    }
}
