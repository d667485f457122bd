//! Fields with an impossible value: of the wrong type, out of range, or not on the list.

use serde_json::{Value, json};

use super::Answer::{Refused, Says};
use super::{Table, claim, n, object, reservation, subscription, volume, with};

const SIZE: &str = "a size is a positive quantity below 8Ei, such as 512Mi, 10Gi or a number of bytes";
const ROLE: &str = "a role is one or more components of letters, digits, `-`, `_`, `.` joined by `/`, such as eng/ml; \
                    no component is empty or starts with `-` or `.`, and there are at most eight";
const NAME: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters";

pub(super) fn sizes(table: &mut Table) {
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
    for size in [json!("0.5"), json!("1500m"), json!("1023Ki"), json!(1048575)] {
        let small = Refused("a reservation has at least 1Mi");
        table.make(reservation(&n(table), json!({"role": "eng", "size": size})), small);
    }

    for size in [json!(1), json!("8Mi"), json!(16777215)] {
        let small = Refused("a volume has at least 16Mi");
        table.make(volume(&n(table), json!({"role": "eng", "size": size})), small);
    }
    let xfs = json!({"role": "eng", "size": "100Mi", "fsType": "xfs"});
    let small = "an xfs volume has at least 300Mi: ask for more, or for fsType ext4";
    table.make(volume(&n(table), xfs), Refused(small));
}

pub(super) fn names(table: &mut Table) {
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
    // Names of other objects, in specs.
    table.make(claim("team", &n(table), json!({"volume": ""})), Refused("spec.volume"));
    table.make(claim("team", &n(table), json!({"volume": long})), Refused("spec.volume: Too long"));
    let away = json!({"role": "eng", "size": "16Mi", "reservation": "../../eng"});
    let said =
        "there is no DiskReservation ../../eng; make it, or make the volume anew without spec.reservation";
    table.make(volume(&n(table), away), Says("NoReservation", said));
    let said = "there is no SharedPersistentVolume ../kept for role eng; the claim waits for it";
    table.make(claim("team", &n(table), json!({"volume": "../kept"})), Says("NoSuchVolume", said));
}

pub(super) fn roles(table: &mut Table) {
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

pub(super) fn fields(table: &mut Table) {
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
    // Kubernetes answers an apply with an unknown field by status 500. The message is right.
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

/// Values of a wrong type or out of range, field by field.
pub(super) fn types(table: &mut Table) {
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
    // Metadata, which every kind has.
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

/// V11, V12: only options on the list reach a mount.
pub(super) fn access(table: &mut Table) {
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
