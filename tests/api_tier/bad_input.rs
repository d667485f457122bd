//! What nobody should ask for, and the one sentence that each gets.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::core::DynamicObject;
use kube::{Api, ResourceExt};
use reservoir::api::{
    DiskReservation, NodeDisk, RoleSubscription, SharedPersistentVolume, VolumeClaim, VolumeRole,
};
use serde_json::{Value, json};

use crate::support::{Agent, Cluster, until, until_reason};

/// What has to come of a manifest.
enum Answer {
    /// The API server refuses it, and says this.
    Refused(&'static str),
    /// It is taken, and its `Ready` is `False` for this reason and says this.
    Says(&'static str, &'static str),
}
use Answer::{Refused, Says};

struct Row {
    manifest: Value,
    /// Changes an object that is there, instead of making one.
    change: bool,
    answer: Answer,
}

#[derive(Default)]
struct Table(Vec<Row>);

impl Table {
    fn make(&mut self, manifest: Value, answer: Answer) {
        self.0.push(Row { manifest, change: false, answer });
    }

    fn change(&mut self, manifest: Value, answer: Answer) {
        self.0.push(Row { manifest, change: true, answer });
    }
}

fn object(kind: &str, namespace: Option<&str>, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "reservoir.dev/v1alpha1", "kind": kind,
        "metadata": {"name": name, "namespace": namespace}, "spec": spec})
}

fn reservation(name: &str, spec: Value) -> Value {
    object("DiskReservation", None, name, spec)
}

fn volume(name: &str, spec: Value) -> Value {
    object("SharedPersistentVolume", None, name, spec)
}

fn claim(namespace: &str, name: &str, spec: Value) -> Value {
    let spec = if spec["role"].is_null() { with(&spec, "role", json!("eng")) } else { spec };
    object("VolumeClaim", Some(namespace), name, spec)
}

fn with(spec: &Value, key: &str, value: Value) -> Value {
    let mut spec = spec.clone();
    spec[key] = value;
    spec
}

fn subscription(name: &str, spec: Value) -> Value {
    object("RoleSubscription", Some("team"), name, spec)
}

/// A name for the object of the row, since what is refused never takes one.
fn n(table: &Table) -> String {
    format!("bad-{}", table.0.len())
}

const SIZE: &str =
    "a size is a whole positive number of bytes below 8Ei, or a quantity such as 512Mi or 10Gi";
const ROLE: &str = "a role is one or more components of letters, digits, `-`, `_`, `.` joined by `/`, such as eng/ml; \
                    no component is empty or starts with `-` or `.`, and there are at most eight";
const NAME: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters";

fn sizes(table: &mut Table) {
    for size in [
        json!("0"),
        json!(0),
        json!(-5),
        json!("-1Gi"),
        json!("8Ei"),
        json!("9Ei"),
        json!("99999999999999999999999999"),
        json!("1e30"),
        json!("1e100"),
        json!("lots"),
        json!("10GB"),
        json!("0x10"),
        json!(""),
        json!(" 1Gi"),
        json!("NaN"),
        json!("١Gi"),
    ] {
        table.make(reservation(&n(table), json!({"role": "eng", "size": size})), Refused(SIZE));
        table.make(volume(&n(table), json!({"role": "eng", "size": size})), Refused(SIZE));
        let asked = json!({"selector": {"minSize": size}});
        table.make(claim("team", &n(table), asked), Refused(SIZE));
    }
    table.make(reservation(&n(table), json!({"role": "eng", "size": true})), Refused("spec.size"));
    table.make(reservation(&n(table), json!({"role": "eng", "size": 1.5})), Refused("spec.size"));
    table.make(reservation(&n(table), json!({"role": "eng"})), Refused("spec.size: Required value"));
    // What Kubernetes takes for a quantity, and what nevertheless is no number of bytes.
    let not_whole = "`0.5` is not a whole positive number of bytes";
    table.make(reservation(&n(table), json!({"role": "eng", "size": "0.5"})), Says("Invalid", not_whole));
    let milli = "`1500m` is not a size; write a number of bytes or a quantity such as 10Gi";
    table.make(reservation(&n(table), json!({"role": "eng", "size": "1500m"})), Says("Invalid", milli));

    for size in [json!(1), json!("8Mi"), json!(16777215)] {
        let small = Refused("a volume has at least 16Mi");
        table.make(volume(&n(table), json!({"role": "eng", "size": size})), small);
    }
    let xfs = json!({"role": "eng", "size": "100Mi", "fsType": "xfs"});
    let small = "an xfs volume has at least 300Mi: ask for more, or for fsType ext4";
    table.make(volume(&n(table), xfs), Refused(small));
}

fn names(table: &mut Table) {
    let long = "n".repeat(254);
    for name in ["..", "../../etc", "Upper", "a b", "-a", "a_b", "ä", "a\nb", "a\0b"] {
        for (kind, spec) in [
            ("DiskReservation", json!({"role": "eng", "size": "16Mi"})),
            ("SharedPersistentVolume", json!({"role": "eng", "size": "16Mi"})),
        ] {
            table.make(object(kind, None, name, spec), Refused(NAME));
        }
        table.make(claim("team", name, json!({"volume": "kept"})), Refused(NAME));
    }
    let spec = json!({"role": "eng", "size": "16Mi"});
    table.make(volume(&long, spec.clone()), Refused("must be no more than 253 "));
    table.make(reservation(&long, spec), Refused("must be no more than 253 "));
    table.make(claim("team", &long, json!({"volume": "kept"})), Refused("must be no more than 253 "));
    // Names of others, in specs.
    table.make(claim("team", &n(table), json!({"volume": ""})), Refused("spec.volume"));
    table.make(claim("team", &n(table), json!({"volume": long})), Refused("spec.volume: Too long"));
    let away = json!({"role": "eng", "size": "16Mi", "reservation": "../../eng"});
    let said = "there is no DiskReservation ../../eng; make it, or leave spec.reservation out";
    table.make(volume(&n(table), away), Says("NoReservation", said));
    let said = "there is no SharedPersistentVolume ../kept; the claim waits for it";
    table.make(claim("team", &n(table), json!({"volume": "../kept"})), Says("NoSuchVolume", said));
}

fn roles(table: &mut Table) {
    let long = vec!["r".repeat(60); 5].join("/");
    for role in [
        "*",
        ".",
        "..",
        "a//b",
        "/a",
        "a/",
        "-a",
        "a/-b",
        "a/../b",
        "a b",
        "a\tb",
        "a\n",
        "é",
        "eng/机",
        "a/*",
        "a/b/c/d/e/f/g/h/i",
    ] {
        let spec = json!({"role": role, "size": "16Mi"});
        table.make(reservation(&n(table), spec.clone()), Refused(ROLE));
        table.make(volume(&n(table), spec), Refused(ROLE));
        table.make(subscription(&n(table), json!({"roles": ["eng", role]})), Refused(ROLE));
        table.make(object("VolumeRole", None, &n(table), json!({"role": role})), Refused(ROLE));
        table.make(claim("team", &n(table), json!({"role": role, "selector": {}})), Refused(ROLE));
    }
    for role in [&*long, ""] {
        let spec = json!({"role": role, "size": "16Mi"});
        table.make(reservation(&n(table), spec), Refused("spec.role"));
        table.make(subscription(&n(table), json!({"roles": [role]})), Refused("spec.roles[0]"));
    }
    table.make(subscription(&n(table), json!({"roles": []})), Refused("spec.roles"));
    let taken = "VolumeRole eng speaks for role eng already; delete this one";
    table.make(object("VolumeRole", None, "eng-again", json!({"role": "eng"})), Says("RoleTaken", taken));
    let fixed = "the role of a VolumeRole cannot be changed: create another VolumeRole";
    table.change(object("VolumeRole", None, "eng", json!({"role": "ops"})), Refused(fixed));
}

fn fields(table: &mut Table) {
    let unknown = r#"strict decoding error: unknown field "spec.shard""#;
    let spec = json!({"role": "eng", "size": "16Mi", "shard": {}});
    table.make(volume(&n(table), spec.clone()), Refused(unknown));
    table.make(reservation(&n(table), spec), Refused(unknown));
    let spec = json!({"volume": "kept", "shard": 1});
    table.make(claim("team", &n(table), spec), Refused(unknown));
    let spec = json!({"role": "eng", "size": "16Mi", "shared": {"with": "all"}});
    table.make(volume(&n(table), spec), Refused(r#"unknown field "spec.shared.with""#));
    let spec = json!({"roles": ["eng"], "capability": []});
    table.make(subscription(&n(table), spec), Refused(r#"unknown field "spec.capability""#));
    // Kubernetes answers an apply with an unknown field by 500, of all numbers; the sentence is right.
    let kept = json!({"role": "eng", "size": "32Mi", "shared": {}, "shard": 1});
    table.change(volume("kept", kept), Refused(".spec.shard: field not declared in schema"));

    let spec = json!({"role": "eng", "size": "16Mi", "fsType": "ntfs"});
    let one_of = r#"spec.fsType: Unsupported value: "ntfs": supported values: "ext4", "xfs""#;
    table.make(volume(&n(table), spec), Refused(one_of));
    let spec = json!({"role": "eng", "size": "16Mi", "erasePolicy": "Shred"});
    let one_of = r#"spec.erasePolicy: Unsupported value: "Shred": supported values: "Discard", "Zero""#;
    table.make(volume(&n(table), spec), Refused(one_of));
    let one_of = r#"spec.mode: Unsupported value: "Write": supported values: "ReadWrite", "ReadOnly""#;
    table.make(claim("team", &n(table), json!({"volume": "kept", "mode": "Write"})), Refused(one_of));
    let spec = json!({"roles": ["eng"], "capabilities": ["SHARED"]});
    let one_of = r#"spec.capabilities[0]: Unsupported value: "SHARED": supported values: "SHARED_RESOURCES""#;
    table.make(subscription(&n(table), spec), Refused(one_of));
}

/// What is not of the type that it should be, or not in its range; field by field.
fn types(table: &mut Table) {
    let long = "x".repeat(254);
    let room = json!({"role": "eng", "size": "16Mi"});
    for (field, value, said) in [
        ("role", json!(7), "spec.role: Invalid value"),
        ("role", json!(["eng"]), "spec.role: Invalid value"),
        ("nodeDisk", json!(""), "spec.nodeDisk"),
        ("nodeDisk", json!(1), "spec.nodeDisk: Invalid value"),
        ("nodeDisk", json!(long), "spec.nodeDisk: Too long"),
        ("nodeName", json!(""), "spec.nodeName"),
        ("nodeName", json!({}), "spec.nodeName: Invalid value"),
        ("nodeName", json!(long), "spec.nodeName: Too long"),
        ("nodeSelector", json!("disk=fast"), "spec.nodeSelector: Invalid value"),
        ("nodeSelector", json!({"disk": 1}), "spec.nodeSelector.disk: Invalid value"),
        ("parent", json!(""), "spec.parent"),
        ("parent", json!(true), "spec.parent: Invalid value"),
        ("parent", json!(long), "spec.parent: Too long"),
        ("static", json!("yes"), "spec.static: Invalid value"),
    ] {
        table.make(reservation(&n(table), with(&room, field, value)), Refused(said));
    }
    for (field, value, said) in [
        ("role", json!(null), "spec.role: Required value"),
        ("size", json!(["16Mi"]), "spec.size"),
        ("size", json!({"bytes": 1}), "spec.size"),
        ("shared", json!(true), "spec.shared: Invalid value"),
        ("shared", json!("yes"), "spec.shared: Invalid value"),
        ("reservation", json!(""), "spec.reservation"),
        ("reservation", json!(long), "spec.reservation: Too long"),
        ("reservation", json!(["eng"]), "spec.reservation: Invalid value"),
        ("fsType", json!("EXT4"), r#"spec.fsType: Unsupported value: "EXT4""#),
        ("fsType", json!(4), "spec.fsType: Invalid value"),
        ("erasePolicy", json!(false), "spec.erasePolicy: Invalid value"),
        ("retire", json!("true"), "spec.retire: Invalid value"),
        ("retire", json!(1), "spec.retire: Invalid value"),
    ] {
        table.make(volume(&n(table), with(&room, field, value)), Refused(said));
    }
    let kept = json!({"role": "eng", "volume": "kept"});
    for (field, value, said) in [
        ("role", json!(""), "spec.role"),
        ("role", json!(1), "spec.role: Invalid value"),
        ("role", json!("eng\u{7}"), ROLE),
        ("volume", json!(1), "spec.volume: Invalid value"),
        ("volume", json!(["kept"]), "spec.volume: Invalid value"),
        ("mode", json!("readonly"), r#"spec.mode: Unsupported value: "readonly""#),
        ("mode", json!(["ReadOnly"]), "spec.mode: Invalid value"),
        ("selector", json!("tier=gold"), "spec.selector: Invalid value"),
        ("selector", json!({"matchLabels": ["tier"]}), "spec.selector.matchLabels: Invalid value"),
        ("selector", json!({"matchLabels": {"tier": 1}}), "spec.selector.matchLabels.tier: Invalid value"),
        ("selector", json!({"matchExpressions": []}), r#"unknown field "spec.selector.matchExpressions""#),
    ] {
        table.make(claim("team", &n(table), with(&kept, field, value)), Refused(said));
    }
    let spec = json!({"volume": "kept"});
    table.make(object("VolumeClaim", Some("team"), &n(table), spec), Refused("spec.role: Required value"));
    for (spec, said) in [
        (json!({}), "spec.roles: Required value"),
        (json!({"roles": "eng"}), "spec.roles: Invalid value"),
        (json!({"roles": [1]}), "spec.roles[0]: Invalid value"),
        (json!({"roles": vec!["eng"; 33]}), "spec.roles: Too many"),
        (json!({"roles": ["eng"], "capabilities": "SHARED_RESOURCES"}), "spec.capabilities: Invalid value"),
        (
            json!({"roles": ["eng"], "capabilities": vec!["SHARED_RESOURCES"; 9]}),
            "spec.capabilities: Too many",
        ),
    ] {
        table.make(subscription(&n(table), spec), Refused(said));
    }
    let both = "the guarantee of a role is not more than its limit";
    let weight = "spec.weight";
    for (field, value, said) in [
        ("role", json!(null), "spec.role: Required value"),
        ("quota", json!("1Gi"), "spec.quota: Invalid value"),
        ("quota", json!({"limits": "1Gi"}), r#"unknown field "spec.quota.limits""#),
        ("quota", json!({"limit": "0"}), SIZE),
        ("quota", json!({"limit": "-1Gi"}), SIZE),
        ("quota", json!({"limit": "all"}), SIZE),
        ("quota", json!({"limit": 1.5}), "spec.quota.limit"),
        ("quota", json!({"guarantee": "8Ei"}), SIZE),
        ("quota", json!({"guarantee": " 1Gi"}), SIZE),
        ("quota", json!({"guarantee": true}), "spec.quota.guarantee"),
        ("quota", json!({"limit": "1Gi", "guarantee": "1025Mi"}), both),
        ("quota", json!({"limit": 1023, "guarantee": "1Ki"}), both),
        ("weight", json!(0), weight),
        ("weight", json!(-1), weight),
        ("weight", json!(1001), weight),
        ("weight", json!(0.5), weight),
        ("weight", json!("heavy"), weight),
    ] {
        let spec = with(&json!({"role": "odd"}), field, value);
        table.make(object("VolumeRole", None, &n(table), spec), Refused(said));
    }
    let disk = json!({"nodeName": "n1", "diskName": "x", "diskID": "x", "kind": "Path", "backing": "Loop", "path": "/x"});
    for (field, value, said) in [
        ("nodeName", json!(null), "spec.nodeName: Required value"),
        ("nodeName", json!(1), "spec.nodeName: Invalid value"),
        ("diskName", json!(null), "spec.diskName: Required value"),
        ("diskName", json!(1), "spec.diskName: Invalid value"),
        ("diskID", json!(null), "spec.diskID: Required value"),
        ("diskID", json!(1), "spec.diskID: Invalid value"),
        ("kind", json!("Tape"), r#"spec.kind: Unsupported value: "Tape""#),
        ("backing", json!("Zfs"), r#"spec.backing: Unsupported value: "Zfs""#),
        ("path", json!(["/x"]), "spec.path: Invalid value"),
        ("gone", json!("yes"), "spec.gone: Invalid value"),
        ("size", json!("1Gi"), r#"unknown field "spec.size""#),
    ] {
        table.make(object("NodeDisk", None, &n(table), with(&disk, field, value)), Refused(said));
    }
    let offer = json!({"subscription": "team", "nodeName": "n1", "reservations": [], "volumes": []});
    for (field, value, said) in [
        ("subscription", json!(null), "spec.subscription: Required value"),
        ("nodeName", json!(1), "spec.nodeName: Invalid value"),
        ("reservations", json!("all"), "spec.reservations: Invalid value"),
        ("volumes", json!([{"name": "kept"}]), "spec.volumes[0].role: Required value"),
    ] {
        table.make(object("VolumeOffer", Some("team"), &n(table), with(&offer, field, value)), Refused(said));
    }
    // What every kind has.
    let labelled = |labels: Value| {
        let mut manifest = volume("labelled", room.clone());
        manifest["metadata"]["labels"] = labels;
        manifest
    };
    table.make(
        labelled(json!({"tier": "g o l d"})),
        Refused("a valid label must be an empty string or consist of"),
    );
    table.make(labelled(json!({"a/b/c": "x"})), Refused("metadata.labels"));
    table.make(labelled(json!({"tier": "x".repeat(64)})), Refused("must be no more than 63"));
}

/// What says of itself how it stands is not believed: a status that comes with a new object is dropped.
fn forged(table: &mut Table) {
    let ready = json!([{"type": "Ready", "status": "True", "reason": "Ready", "message": "all is well",
        "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
    let forge = |mut manifest: Value, status: Value| {
        manifest["status"] = with(&status, "conditions", ready.clone());
        manifest
    };
    let status = json!({"phase": "Reserved", "nodeDisk": "n1.default", "nodeName": "n1", "size": "1Ti"});
    let manifest = forge(reservation("forged", json!({"role": "forged", "size": "1Ti"})), status);
    table.make(manifest, Says("NotEnoughRoom", "1Ti asked for: n1.default has "));
    let home = json!({"name": "forged", "uid": "1"});
    let status = json!({"phase": "Ready", "nodeName": "n1", "nodeDisk": "n1.default", "reservation": home});
    let manifest = forge(volume("forged", json!({"role": "outlaws", "size": "16Mi", "shared": {}})), status);
    let said = "nothing is reserved for role outlaws or an ancestor of it; make a DiskReservation first";
    table.make(manifest, Says("NoReservation", said));
    let status = json!({"phase": "Bound", "volume": {"name": "kept", "uid": "1"}, "persistentVolume": "x"});
    let manifest = forge(claim("bare", "forged", json!({"volume": "kept"})), status);
    let said =
        "volume kept is for role eng, to which this namespace is not subscribed; make a RoleSubscription";
    table.make(manifest, Says("NoSubscription", said));
    // A name is a name: nothing reaches into another namespace, and control characters stay where they are.
    let said = "there is no SharedPersistentVolume team/kept; the claim waits for it";
    table.make(claim("bare", &n(table), json!({"volume": "team/kept"})), Says("NoSuchVolume", said));
    let said = "there is no SharedPersistentVolume kept\u{0}; the claim waits for it";
    table.make(claim("team", &n(table), json!({"volume": "kept\u{0}"})), Says("NoSuchVolume", said));
    let said = "there is no DiskReservation e\u{202e}ng; make it, or leave spec.reservation out";
    let spec = json!({"role": "eng", "size": "16Mi", "reservation": "e\u{202e}ng"});
    table.make(volume(&n(table), spec), Says("NoReservation", said));
    let said = "no NodeDisk is called n1.default\n; there are n1.default";
    let spec = json!({"role": "eng", "size": "16Mi", "nodeDisk": "n1.default\n"});
    table.make(reservation(&n(table), spec), Says("NoSuchDisk", said));
}

fn changes(table: &mut Table) {
    let kept = json!({"role": "eng", "size": "32Mi", "shared": {}});
    let solo = json!({"role": "eng", "size": "16Mi", "reservation": "eng"});
    let without = |spec: &Value, key: &str| {
        let mut spec = spec.clone();
        spec.as_object_mut().unwrap().remove(key);
        spec
    };
    let shared = "the sharing of a volume cannot be changed after its creation (V2): create another volume";
    table.change(volume("kept", without(&kept, "shared")), Refused(shared));
    table.change(volume("solo", with(&solo, "shared", json!({}))), Refused(shared));
    let role = "the role of a volume cannot be changed: create another volume";
    table.change(volume("kept", with(&kept, "role", json!("eng/ml"))), Refused(role));
    let fs = "the file system of a volume cannot be changed: create another volume";
    let xfs = json!({"role": "eng", "size": "32Mi", "shared": {}, "fsType": "xfs"});
    table.change(volume("kept", xfs), Refused(fs));
    let home = "the reservation of a volume cannot be changed: create another volume";
    table.change(volume("kept", with(&kept, "reservation", json!("eng"))), Refused(home));
    table.change(volume("solo", with(&solo, "reservation", json!("other"))), Refused(home));
    table.change(volume("solo", without(&solo, "reservation")), Refused(home));

    let eng = json!({"role": "eng", "size": "256Mi", "nodeName": "n1"});
    let role = "the role of a reservation cannot be changed: delete it and reserve anew";
    table.change(reservation("eng", with(&eng, "role", json!("ops"))), Refused(role));
    let place = "the placement of a reservation cannot be changed: delete it and reserve anew";
    table.change(reservation("eng", with(&eng, "nodeName", json!("n2"))), Refused(place));
    table.change(reservation("eng", without(&eng, "nodeName")), Refused(place));
    table.change(
        reservation("other", json!({"role": "ops", "size": "32Mi", "nodeDisk": "n1.default"})),
        Refused(place),
    );
    let both = "give at most one of nodeDisk, nodeName, nodeSelector and parent";
    let spec = json!({"role": "eng", "size": "16Mi", "nodeDisk": "n1.default", "nodeName": "n1"});
    table.make(reservation(&n(table), spec), Refused(both));

    let fixed = "the field static of a reservation cannot be changed";
    table.change(reservation("eng", with(&eng, "static", json!(true))), Refused(fixed));
    table.change(
        reservation("eng", with(&without(&eng, "nodeName"), "parent", json!("other"))),
        Refused(place),
    );

    let fixed = "the spec of a claim cannot be changed: create another claim";
    table.change(claim("team", "kept", json!({"role": "eng/ml", "volume": "kept"})), Refused(fixed));
    table.change(claim("team", "kept", json!({"volume": "solo"})), Refused(fixed));
    table.change(claim("team", "kept", json!({"volume": "kept", "mode": "ReadOnly"})), Refused(fixed));
    table.change(claim("team", "kept", json!({"selector": {}})), Refused(fixed));
}

/// V11, V12: nothing but what is on the list gets near a mount.
fn access(table: &mut Table) {
    let room = json!({"role": "eng", "size": "16Mi"});
    for gid in [json!(0), json!(-1), json!(2147483648_i64), json!("root"), json!(1.5)] {
        table.make(volume(&n(table), with(&room, "gid", gid)), Refused("spec.gid"));
    }
    let octal = "permissions are octal and at most 3777, such as 0750 or 2770";
    for permissions in ["", "7", "778", "4755", "u+s", "-1", " 755", "0o77"] {
        table.make(volume(&n(table), with(&room, "permissions", json!(permissions))), Refused(octal));
    }
    table.make(
        volume(&n(table), with(&room, "permissions", json!("00755"))),
        Refused("spec.permissions: Too long"),
    );
    table.make(
        volume(&n(table), with(&room, "permissions", json!(755))),
        Refused("spec.permissions: Invalid value"),
    );
    let listed = "mount options are limited to noatime, nodiratime, strictatime, noexec, nosymfollow; nosuid and nodev are always on";
    for option in [
        "suid",
        "dev",
        "exec",
        "rw",
        "NOATIME",
        "noatime,suid",
        "noatime\u{0}",
        " noexec",
        "data=journal",
        "",
    ] {
        table
            .make(volume(&n(table), with(&room, "mountOptions", json!(["noexec", option]))), Refused(listed));
    }
    let long = json!(["x".repeat(4096)]);
    table.make(
        volume(&n(table), with(&room, "mountOptions", long)),
        Refused("spec.mountOptions[0]: Too long"),
    );
    let many = json!(vec!["noexec"; 6]);
    table.make(volume(&n(table), with(&room, "mountOptions", many)), Refused("spec.mountOptions: Too many"));
    let both = json!(["noatime", "strictatime"]);
    let exclude = "noatime and strictatime exclude each other: leave one out";
    table.make(volume(&n(table), with(&room, "mountOptions", both)), Refused(exclude));
    let raw = "a raw device is not mounted: leave gid, permissions and mountOptions out, or volumeMode";
    for (field, value) in
        [("gid", json!(9)), ("permissions", json!("0700")), ("mountOptions", json!(["noexec"]))]
    {
        let spec = with(&with(&room, "volumeMode", json!("Block")), field, value.clone());
        table.make(volume(&n(table), spec), Refused(raw));
        let kept = with(&json!({"role": "eng", "size": "32Mi", "shared": {}}), field, value);
        let fixed = "gid, permissions and mountOptions of a volume cannot be changed: create another volume";
        table.change(volume("kept", kept), Refused(fixed));
    }
    let adopts = with(&with(&room, "adopt", json!({"path": "/srv/a"})), "permissions", json!("0700"));
    let stays = "an adopted directory keeps its permissions: leave permissions out";
    table.make(volume(&n(table), adopts), Refused(stays));
}

fn claims(table: &mut Table) {
    let either = "give either volume or selector";
    table.make(claim("team", &n(table), json!({})), Refused(either));
    let both = json!({"volume": "kept", "selector": {}});
    table.make(claim("team", &n(table), both), Refused(either));

    let kept = json!({"volume": "kept"});
    let said =
        "volume kept is for role eng, to which this namespace is not subscribed; make a RoleSubscription";
    table.make(claim("bare", "kept", kept.clone()), Says("NoSubscription", said));
    let said = "this namespace is subscribed to no role; make a RoleSubscription";
    table.make(claim("bare", "any", json!({"selector": {}})), Says("NoSubscription", said));
    let said = "volume kept is shared; add SHARED_RESOURCES to the capabilities of RoleSubscription plain";
    table.make(claim("plain", "kept", kept), Says("NoCapability", said));
    let said = "there is no SharedPersistentVolume nope; the claim waits for it";
    table.make(claim("team", &n(table), json!({"volume": "nope"})), Says("NoSuchVolume", said));
    let said = "no volume on offer to this namespace fits the selector; see `kubectl get volumeoffers`";
    for spec in [
        json!({"selector": {"minSize": "1Ti"}}),
        json!({"selector": {}, "role": "ops"}),
        json!({"selector": {"matchLabels": {"tier": "gold"}}}),
        json!({"selector": {"minSize": "0.5"}, "role": "ops"}),
    ] {
        table.make(claim("team", &n(table), spec), Says("NoMatch", said));
    }
    let said = "volume kept is for role eng, which does not cover the claim's role ops; claim it for a role that may \
                use it";
    table.make(
        claim("team", &n(table), json!({"role": "ops", "volume": "kept"})),
        Says("RoleNotAllowed", said),
    );
    let said =
        "volume solo is exclusive and held by claim team/solo; this claim is bound when that one is deleted";
    table.make(claim("plain", "solo", json!({"volume": "solo"})), Says("VolumeHeld", said));
    let said = "a PersistentVolumeClaim mine that Reservoir did not make is in the way; delete it, or claim under \
                another name";
    table.make(claim("team", "mine", json!({"volume": "kept"})), Says("NameTaken", said));
}

fn room(table: &mut Table) {
    let said = "1Ti asked for: n1.default has 224Mi free, ";
    table.make(reservation("huge", json!({"role": "eng", "size": "1Ti"})), Says("NotEnoughRoom", said));
    let said = "no NodeDisk is called n9.default; there are n1.default";
    let spec = json!({"role": "eng", "size": "16Mi", "nodeDisk": "n9.default"});
    table.make(reservation(&n(table), spec), Says("NoSuchDisk", said));
    let said = "node n9 has no NodeDisk; there are n1.default";
    let spec = json!({"role": "eng", "size": "16Mi", "nodeName": "n9"});
    table.make(reservation(&n(table), spec), Says("NoSuchDisk", said));
    let said = "no node with a NodeDisk has all labels of nodeSelector; there are n1.default";
    let spec = json!({"role": "eng", "size": "16Mi", "nodeSelector": {"disk": "fast"}});
    table.make(reservation(&n(table), spec), Says("NoSuchDisk", said));

    let said = "nothing is reserved for role lonely or an ancestor of it; make a DiskReservation first";
    table.make(volume("lonely", json!({"role": "lonely", "size": "16Mi"})), Says("NoReservation", said));
    let said = "volume lonely is for role lonely, to which this namespace is not subscribed; make a RoleSubscription";
    table.make(
        claim("team", &n(table), json!({"role": "lonely", "volume": "lonely"})),
        Says("NoSubscription", said),
    );
    let said = "there is no DiskReservation dangling; make it, or leave spec.reservation out";
    let spec = json!({"role": "eng", "size": "16Mi", "reservation": "dangling"});
    table.make(volume(&n(table), spec), Says("NoReservation", said));
    let said = "DiskReservation other is for role ops, which does not cover role eng";
    let spec = json!({"role": "eng", "size": "16Mi", "reservation": "other"});
    table.make(volume(&n(table), spec), Says("NoReservation", said));
    let said = "DiskReservation huge is itself still waiting for room";
    let spec = json!({"role": "eng", "size": "16Mi", "reservation": "huge"});
    table.make(volume(&n(table), spec), Says("NoReservation", said));
    let said = "1Gi asked for, eng has 208Mi left; reserve more for role eng or destroy a volume in it";
    table.make(volume("wide", json!({"role": "eng", "size": "1Gi"})), Says("ReservationFull", said));
    let said = "volume wide is not ready, the claim waits for it: 1Gi asked for";
    table.make(claim("plain", "wide", json!({"volume": "wide"})), Says("VolumeNotReady", said));
    // The reverse of R3: what is a sub-role's is not its parent's.
    let said = "DiskReservation other is for role ops, which does not cover role op";
    let spec = json!({"role": "op", "size": "16Mi", "reservation": "other"});
    table.make(volume(&n(table), spec), Says("NoReservation", said));
}

const GOOD: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: team}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: bare}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: plain}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: DiskReservation, metadata: {name: eng},
 spec: {role: eng, size: 256Mi, nodeName: n1}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: DiskReservation, metadata: {name: other}, spec: {role: ops, size: 32Mi}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: VolumeRole, metadata: {name: eng}, spec: {role: eng}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: SharedPersistentVolume, metadata: {name: kept},
 spec: {role: eng, size: 32Mi, shared: {}}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: SharedPersistentVolume, metadata: {name: solo},
 spec: {role: eng, size: 16Mi, reservation: eng}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: RoleSubscription, metadata: {name: team, namespace: team},
 spec: {roles: [eng], capabilities: [SHARED_RESOURCES]}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: RoleSubscription, metadata: {name: plain, namespace: plain},
 spec: {roles: [eng]}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: VolumeClaim, metadata: {name: kept, namespace: team}, spec: {role: eng, volume: kept}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: VolumeClaim, metadata: {name: solo, namespace: team}, spec: {role: eng, volume: solo}}
---
{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: mine, namespace: team},
 spec: {accessModes: [ReadWriteOnce], storageClassName: manual, resources: {requests: {storage: 1Mi}}}}
";

/// What must not change: UID, spec, and the parts of the status that decide.
async fn standing(cluster: &Cluster) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    macro_rules! note {
        ($kind:ty, $api:expr, $names:expr, $fields:expr) => {
            let api: Api<$kind> = $api;
            for name in $names {
                let object = serde_json::to_value(api.get(name).await.unwrap()).unwrap();
                let fields: Vec<Value> =
                    $fields.iter().map(|field| object["status"][field].clone()).collect();
                let kept = json!([object["metadata"]["uid"], object["spec"], fields]);
                all.insert(format!("{} {name}", stringify!($kind)), kept);
            }
        };
    }
    note!(DiskReservation, cluster.all(), ["eng", "other"], ["phase", "volumes", "free", "conditions"]);
    note!(NodeDisk, cluster.all(), ["n1.default"], ["reservations", "free", "conditions"]);
    note!(VolumeRole, cluster.all(), ["eng"], ["reserved", "used", "conditions"]);
    note!(SharedPersistentVolume, cluster.all(), ["solo"], ["claims", "users", "conditions"]);
    note!(SharedPersistentVolume, cluster.all(), ["kept"], ["users", "conditions"]);
    note!(VolumeClaim, cluster.within("team"), ["kept", "solo"], ["volume", "conditions"]);
    note!(RoleSubscription, cluster.within("team"), ["team"], ["offers", "conditions"]);
    note!(PersistentVolumeClaim, cluster.within("team"), ["mine", "kept", "solo"], ["phase"]);
    all
}

async fn answered(cluster: &Cluster, row: &Row) -> Result<(), String> {
    let text = row.manifest.to_string();
    let object: DynamicObject = serde_json::from_value(row.manifest.clone()).unwrap();
    let applied = if row.change { cluster.try_apply(&text).await } else { cluster.try_create(&text).await };
    match (&row.answer, applied) {
        (Refused(sentence), Err(kube::Error::Api(refusal)))
            if refusal.message.contains(sentence)
                && (refusal.code < 500 || refusal.message.contains("not declared in schema")) =>
        {
            Ok(())
        }
        (Refused(sentence), answer) => Err(format!("{text}\n  not refused with `{sentence}`: {answer:?}")),
        (Says(..), Err(error)) => Err(format!("{text}\n  {error}")),
        (Says(reason, sentence), Ok(())) => {
            let api = cluster.untyped(&object);
            let ready = until(&format!("{text} to be {reason}"), || async {
                let now = api.get(&object.name_any()).await.unwrap();
                let conditions = now.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
                conditions.into_iter().find(|c| c["type"] == "Ready" && c["reason"] == *reason)
            })
            .await;
            let said = ready["message"].as_str().unwrap();
            let fits = said.starts_with(sentence) && ready["status"] == "False";
            fits.then_some(()).ok_or(format!("{text}\n  should say `{sentence}`: {ready}"))
        }
    }
}

/// Who may write objects may not write how they stand: that takes a right of its own, which the chart gives to nobody else.
async fn status_is_not_for_users(cluster: &Cluster) {
    let rights = "
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: mallory},
 rules: [{apiGroups: [reservoir.dev], verbs: ['*'], resources: [nodedisks, diskreservations, sharedpersistentvolumes,
   volumeclaims, rolesubscriptions, volumeoffers, volumeroles]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: mallory},
 roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: mallory},
 subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: mallory}]}
";
    cluster.apply_text(rights).await;
    let mallory = cluster.server.client_as("mallory", &["system:authenticated"]).await.unwrap();
    let patch = async |path: &str| {
        let request = http::Request::patch(format!("/apis/reservoir.dev/v1alpha1/{path}"))
            .header("Content-Type", "application/merge-patch+json")
            .body(json!({"status": {"phase": "Ready"}}).to_string().into_bytes())
            .unwrap();
        mallory.request::<Value>(request).await.map_err(|e| e.to_string())
    };
    until("mallory may change a role", || async { patch("volumeroles/eng").await.ok() }).await;
    for path in [
        "nodedisks/n1.default",
        "diskreservations/eng",
        "sharedpersistentvolumes/kept",
        "volumeroles/eng",
        "namespaces/team/volumeclaims/kept",
        "namespaces/team/rolesubscriptions/team",
    ] {
        let refused = patch(&format!("{path}/status")).await.unwrap_err();
        assert!(
            refused.contains("is forbidden: User \"mallory\" cannot patch resource"),
            "{path}: {refused}"
        );
    }
}

/// R1, R3, V1, V2, V3, V11, V12, O1, O3, C3, C4, C5, L2.
#[tokio::test(flavor = "multi_thread")]
async fn each_gets_one_clear_sentence() {
    let cluster = Cluster::start().await;
    cluster.node("n1", true).await;
    let mut agent = Agent::start(&cluster, "n1", "512Mi").await;
    until_reason(&cluster.all::<NodeDisk>(), "n1.default", "Ready").await;
    cluster.apply_text(GOOD).await;
    for claim in ["kept", "solo"] {
        until_reason(&cluster.within::<VolumeClaim>("team"), claim, "Bound").await;
    }
    let kept = cluster.within::<VolumeClaim>("team").get("kept").await.unwrap();
    let pod = cluster.pod("team", "user", &["kept"]).await;
    let target = agent.publish(&cluster, &kept, &pod, false).await.unwrap();
    std::fs::write(target.join("file"), "kept").unwrap();
    until("the pod is counted", || async {
        let volume = cluster.all::<SharedPersistentVolume>().get("kept").await.unwrap();
        (volume.status.unwrap().user_count == 1).then_some(())
    })
    .await;
    cluster.quiet_for(Duration::from_millis(1500)).await;
    let before = standing(&cluster).await;

    let mut table = Table::default();
    for part in [sizes, names, roles, fields, types, access, changes, room, forged, claims] {
        part(&mut table);
    }
    let mut wrong = Vec::new();
    for row in &table.0 {
        if let Err(what) = answered(&cluster, row).await {
            wrong.push(what);
        }
    }
    status_is_not_for_users(&cluster).await;
    println!("{} rows", table.0.len());
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), table.0.len(), wrong.join("\n"));

    // Only what was taken is there, nothing crashed, nothing goes round in circles, and the good stand as they stood.
    let taken = table.0.iter().filter(|row| !row.change && matches!(row.answer, Says(..))).count();
    let there = cluster.all::<DiskReservation>().list(&Default::default()).await.unwrap().items.len()
        + cluster.all::<SharedPersistentVolume>().list(&Default::default()).await.unwrap().items.len()
        + Api::<VolumeClaim>::all(cluster.client.clone())
            .list(&Default::default())
            .await
            .unwrap()
            .items
            .len()
        + cluster.all::<VolumeRole>().list(&Default::default()).await.unwrap().items.len();
    assert_eq!(there, taken + 7);
    cluster.quiet_for(Duration::from_secs(7)).await;
    assert_eq!(cluster.controllers_alive(), 1);
    assert!(agent.alive());
    assert_eq!(standing(&cluster).await, before);
    assert_eq!(std::fs::read_to_string(target.join("file")).unwrap(), "kept");

    // Nothing was made that Kubernetes could bind the other's PersistentVolumeClaim to.
    let volumes = cluster.all::<PersistentVolume>().list(&Default::default()).await.unwrap();
    assert_eq!(volumes.items.len(), 2, "those of the claims kept and solo");

    // What is gone is gone.
    let lost = json!({"nodeName": "n9", "diskName": "old", "diskID": "x", "kind": "Path", "backing": "Loop", "path": "/x",
        "gone": true});
    cluster.apply_text(&object("NodeDisk", None, "n9.old", lost.clone()).to_string()).await;
    let back = object("NodeDisk", None, "n9.old", with(&lost, "gone", json!(false))).to_string();
    let refused = cluster.try_apply(&back).await.unwrap_err().to_string();
    let said = "a disk that was declared gone stays gone: give the agent a new disk under another name";
    assert!(refused.contains(said), "{refused}");

    // A claim whose name is taken leaves the other's PersistentVolumeClaim alone, in its end too.
    let claims = cluster.within::<VolumeClaim>("team");
    claims.delete("mine", &Default::default()).await.unwrap();
    crate::support::until_gone(&claims, "mine").await;
    let mine = cluster.within::<PersistentVolumeClaim>("team").get("mine").await.unwrap();
    assert_eq!(json!(mine.metadata.uid), before["PersistentVolumeClaim mine"][0]);
    assert!(mine.metadata.deletion_timestamp.is_none());
}
