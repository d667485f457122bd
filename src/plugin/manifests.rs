//! The manifests that the commands `reserve`, `create`, `claim` and `subscribe` write.

use serde_json::{Map, Value, json};

use super::cli::{Claim, Create, Reserve};
use super::kind::{self, Kind};
use crate::api::GROUP;
use crate::plan::enlarge::object_name;

/// A manifest without the fields that are null.
fn manifest(kind: &Kind, namespace: Option<&str>, name: &str, spec: Value) -> Value {
    let given = |spec: Value| match spec {
        Value::Object(fields) => fields.into_iter().filter(|(_, value)| !value.is_null()).collect(),
        _ => Map::new(),
    };
    let metadata = given(json!({"name": name, "namespace": namespace}));
    json!({"apiVersion": format!("{GROUP}/v1alpha1"), "kind": kind.name, "metadata": metadata, "spec": given(spec)})
}

fn map_of(pairs: &[(String, String)]) -> Option<Map<String, Value>> {
    let map = pairs.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
    Some(map).filter(|map: &Map<_, _>| !map.is_empty())
}

/// Builds the manifest of a DiskReservation.
pub(super) fn reservation_manifest(args: &Reserve) -> Value {
    let spec = json!({"role": args.role, "size": args.size, "nodeDisk": args.disk, "nodeName": args.node,
        "nodeSelector": map_of(&args.node_selector), "parent": args.parent});
    manifest(&kind::RESERVATION, None, &args.name, spec)
}

/// Builds the manifest of a SharedPersistentVolume.
pub(super) fn volume_manifest(args: &Create) -> Value {
    let fs_type = (!args.block && args.adopt.is_none()).then_some(&args.fs_type);
    let spec = json!({"role": args.role, "size": args.size, "reservation": args.reservation,
        "shared": (!args.exclusive).then(|| json!({})), "fsType": fs_type,
        "volumeMode": args.block.then_some("Block"), "gid": args.gid,
        "keepFor": args.keep_for, "adopt": args.adopt.as_ref().map(|path| json!({"path": path}))});
    let mut manifest = manifest(&kind::VOLUME, None, &args.name, spec);
    if let Some(labels) = map_of(&args.label) {
        manifest["metadata"]["labels"] = labels.into();
    }
    manifest
}

/// Builds the manifest of a VolumeClaim.
pub(super) fn claim_manifest(args: &Claim, namespace: &str) -> Value {
    let selector = args.volume.is_none().then(|| {
        let mut selector = Map::new();
        selector.extend(map_of(&args.selector).map(|labels| ("matchLabels".to_owned(), labels.into())));
        selector.extend(args.min_size.as_ref().map(|size| ("minSize".to_owned(), json!(size))));
        selector
    });
    let spec = json!({"role": args.role, "volume": args.volume, "selector": selector,
        "mode": if args.read_only { "ReadOnly" } else { "ReadWrite" }, "digest": args.digest});
    manifest(&kind::CLAIM, Some(namespace), &args.name, spec)
}

/// Builds the manifest of a RoleSubscription. Its default name is its first role.
pub(super) fn subscription_manifest(roles: &[String], name: Option<&str>, namespace: &str) -> Value {
    let default = || roles.first().map(|role| object_name(role)).unwrap_or_default();
    let spec = json!({"roles": roles, "capabilities": ["SHARED_RESOURCES"]});
    manifest(&kind::SUBSCRIPTION, Some(namespace), &name.map_or_else(default, str::to_owned), spec)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::plugin::cli::{Cli, Command};

    /// The manifest that a command line writes.
    fn manifest_of(line: &str) -> Value {
        let args = line.split(' ');
        match Cli::try_parse_from(["kubectl-reservoir"].into_iter().chain(args)).unwrap().command {
            Command::Reserve(args) => reservation_manifest(&args),
            Command::Create(args) => volume_manifest(&args),
            Command::Claim(args) => claim_manifest(&args, "team"),
            Command::Subscribe { roles, name, .. } => subscription_manifest(&roles, name.as_deref(), "team"),
            _ => unreachable!(),
        }
    }

    #[test]
    fn t4_a_command_line_writes_its_manifest() {
        let table = [
            ("reserve r --role eng --size 5Gi", json!({"role": "eng", "size": "5Gi"})),
            (
                "reserve r --role eng --size 5Gi --disk n.a",
                json!({"role": "eng", "size": "5Gi", "nodeDisk": "n.a"}),
            ),
            (
                "reserve r --role eng --size 5Gi --node-selector a=b --node-selector c=d",
                json!({"role": "eng", "size": "5Gi", "nodeSelector": {"a": "b", "c": "d"}}),
            ),
            (
                "create v --role eng --size 1Gi",
                json!({"role": "eng", "size": "1Gi", "shared": {}, "fsType": "ext4"}),
            ),
            (
                "create v --role eng --size 1Gi --exclusive --block",
                json!({"role": "eng", "size": "1Gi", "volumeMode": "Block"}),
            ),
            (
                "create v --role eng --size 1Gi --adopt /srv/a --gid 7",
                json!({"role": "eng", "size": "1Gi", "shared": {}, "adopt": {"path": "/srv/a"}, "gid": 7}),
            ),
            (
                "create v --role eng --size 1Gi --keep-for 72h",
                json!({"role": "eng", "size": "1Gi", "shared": {}, "fsType": "ext4", "keepFor": "72h"}),
            ),
            ("claim c --role eng --volume v", json!({"role": "eng", "volume": "v", "mode": "ReadWrite"})),
            (
                "claim c --role eng -l a=b --min-size 1Gi --read-only",
                json!({"role": "eng", "selector": {"matchLabels": {"a": "b"}, "minSize": "1Gi"}, "mode": "ReadOnly"}),
            ),
            (
                "subscribe eng/ml ops",
                json!({"roles": ["eng/ml", "ops"], "capabilities": ["SHARED_RESOURCES"]}),
            ),
        ];
        for (line, wanted) in table {
            assert_eq!(manifest_of(line)["spec"], wanted, "{line}");
        }
        assert_eq!(
            manifest_of("subscribe eng/ml")["metadata"],
            json!({"name": "eng-ml", "namespace": "team"})
        );
        assert_eq!(
            manifest_of("create v --role r --size 1Gi -l a=b")["metadata"]["labels"],
            json!({"a": "b"})
        );
    }
}
