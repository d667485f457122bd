//! Objects that conflict with existing ones, have a forged status, or change immutable fields.

use serde_json::{Value, json};

use super::Answer::{Refused, Says};
use super::{Table, claim, n, reservation, volume, with};

/// The API server drops the status of a new object.
pub(super) fn forged(table: &mut Table) {
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
    // A name cannot reach into another namespace, and control characters have no effect.
    let said = "there is no SharedPersistentVolume team/kept for role eng; the claim waits for it";
    table.make(claim("bare", &n(table), json!({"volume": "team/kept"})), Says("NoSuchVolume", said));
    let said = "there is no SharedPersistentVolume kept\u{0} for role eng; the claim waits for it";
    table.make(claim("team", &n(table), json!({"volume": "kept\u{0}"})), Says("NoSuchVolume", said));
    let said =
        "there is no DiskReservation e\u{202e}ng; make it, or make the volume anew without spec.reservation";
    let spec = json!({"role": "eng", "size": "16Mi", "reservation": "e\u{202e}ng"});
    table.make(volume(&n(table), spec), Says("NoReservation", said));
    let said = "no NodeDisk is called n1.default\n; there are n1.default";
    let spec = json!({"role": "eng", "size": "16Mi", "nodeDisk": "n1.default\n"});
    table.make(reservation(&n(table), spec), Says("NoSuchDisk", said));
}

pub(super) fn changes(table: &mut Table) {
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

pub(super) fn claims(table: &mut Table) {
    let either = "give either volume or selector";
    table.make(claim("team", &n(table), json!({})), Refused(either));
    let both = json!({"volume": "kept", "selector": {}});
    table.make(claim("team", &n(table), both), Refused(either));

    let kept = json!({"volume": "kept"});
    let said =
        "volume kept is for role eng, to which this namespace is not subscribed; make a RoleSubscription";
    table.make(claim("bare", "kept", kept.clone()), Says("NoSubscription", said));
    let said = "this namespace is not subscribed to role eng; make a RoleSubscription";
    table.make(claim("bare", "any", json!({"selector": {}})), Says("NoSubscription", said));
    let said = "volume kept is shared; add SHARED_RESOURCES to the capabilities of RoleSubscription plain";
    table.make(claim("plain", "kept", kept), Says("NoCapability", said));
    let said = "there is no SharedPersistentVolume nope for role eng; the claim waits for it";
    table.make(claim("team", &n(table), json!({"volume": "nope"})), Says("NoSuchVolume", said));
    let said = "no volume on offer to namespace team ";
    for selector in [json!({"minSize": "1Ti"}), json!({"matchLabels": {"tier": "gold"}})] {
        table.make(claim("team", &n(table), json!({"selector": selector})), Says("NoMatch", said));
    }
    let said = "this namespace is not subscribed to role ops; make a RoleSubscription";
    for selector in [json!({}), json!({"minSize": "0.5"})] {
        let spec = json!({"selector": selector, "role": "ops"});
        table.make(claim("team", &n(table), spec), Says("NoSubscription", said));
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
    let said = "a PersistentVolumeClaim mine that Reservoir did not make is in the way; claim under another name, or delete it, if nobody \
                needs its data";
    table.make(claim("team", "mine", json!({"volume": "kept"})), Says("NameTaken", said));
}

pub(super) fn free_space(table: &mut Table) {
    let said = "1Ti asked for: n1.default has 224Mi free, ";
    table.make(reservation("huge", json!({"role": "eng", "size": "1Ti"})), Says("NotEnoughRoom", said));
    let said = "no NodeDisk is called n9.default; there are n1.default";
    let spec = json!({"role": "eng", "size": "16Mi", "nodeDisk": "n9.default"});
    table.make(reservation(&n(table), spec), Says("NoSuchDisk", said));
    let said = "node n9 has no NodeDisk; there are n1.default";
    let spec = json!({"role": "eng", "size": "16Mi", "nodeName": "n9"});
    table.make(reservation(&n(table), spec), Says("NoSuchDisk", said));
    let said = "no node with a NodeDisk has the label disk=fast; there are n1.default";
    let spec = json!({"role": "eng", "size": "16Mi", "nodeSelector": {"disk": "fast"}});
    table.make(reservation(&n(table), spec), Says("NoSuchDisk", said));

    let said = "nothing is reserved for role lonely or an ancestor of it; make a DiskReservation first";
    table.make(volume("lonely", json!({"role": "lonely", "size": "16Mi"})), Says("NoReservation", said));
    let said = "volume lonely is for role lonely, to which this namespace is not subscribed; make a RoleSubscription";
    table.make(
        claim("team", &n(table), json!({"role": "lonely", "volume": "lonely"})),
        Says("NoSubscription", said),
    );
    let said =
        "there is no DiskReservation dangling; make it, or make the volume anew without spec.reservation";
    let spec = json!({"role": "eng", "size": "16Mi", "reservation": "dangling"});
    table.make(volume(&n(table), spec), Says("NoReservation", said));
    let said = "DiskReservation other is for role ops, which does not cover role eng";
    let spec = json!({"role": "eng", "size": "16Mi", "reservation": "other"});
    table.make(volume(&n(table), spec), Says("NoReservation", said));
    let said = "DiskReservation huge has no disk yet: ";
    let spec = json!({"role": "eng", "size": "16Mi", "reservation": "huge"});
    table.make(volume(&n(table), spec), Says("NoReservation", said));
    let said = "1Gi asked for, eng has 208Mi left; reserve more for role eng or destroy a volume in it";
    table.make(volume("wide", json!({"role": "eng", "size": "1Gi"})), Says("ReservationFull", said));
    let said = "volume wide is not ready, the claim waits for it: 1Gi asked for";
    table.make(claim("plain", "wide", json!({"volume": "wide"})), Says("VolumeNotReady", said));
    // The reverse of R3: a sub-role's space is not its parent's.
    let said = "DiskReservation other is for role ops, which does not cover role op";
    let spec = json!({"role": "op", "size": "16Mi", "reservation": "other"});
    table.make(volume(&n(table), spec), Says("NoReservation", said));
}
