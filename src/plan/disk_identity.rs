//! The NodeDisk of a disk, found by the ID that is stored on the disk. Names of node and path do not count (D3).

use kube::ResourceExt;
use serde_json::{Value, json};

use crate::api::{DiskReservation, NodeDisk, TakeOver, UNKNOWN_DISK};

use super::disk_key;

/// The most NodeDisks of one node that are named after one disk of its configuration (A7).
const MOST_NAMES: usize = 9;

/// The NodeDisk of a configured disk.
#[derive(Clone, Debug, PartialEq)]
pub enum Identity<'a> {
    /// This node has a NodeDisk of that disk name already. A wrong disk is refused later, when the IDs are compared.
    Known(&'a NodeDisk),
    /// The disk's ID is new: make a NodeDisk of this name.
    New(String),
    /// The disk was in another node, or had another name in this node. A disk that is still in the old node may be a
    /// copy. So the API server refuses the request while the old Node exists (`reservoir-agent-takes-over`).
    TakeOver(&'a NodeDisk),
    /// The disk is not served, for the given reason.
    Refused(String),
}

/// The identity that is stored on a disk.
#[derive(Clone, Copy, Debug)]
pub struct Stored<'a> {
    /// The ID. Every process can read IDs in the API.
    pub id: &'a str,
    /// The public key, once the disk's NodeDisk has had it with a signature. From then on only a NodeDisk with a
    /// signature counts: a broken node may have made another one with this ID (A7).
    pub attested_key: Option<&'a str>,
}

/// Decides the NodeDisk of the disk that is named `disk` in the configuration of `node`, at `path`. `stored` is the identity
/// on the disk, or the error of reading it. `configured` lists the names of all disks of the node, and `reservations` all
/// reservations: a disk is [`Identity::New`] only after a look at them.
pub fn identify<'a>(
    node: &str,
    disk: &str,
    path: &str,
    configured: &[&str],
    stored: Result<Stored<'_>, String>,
    all: &'a [NodeDisk],
    reservations: &[DiskReservation],
) -> Identity<'a> {
    let is_it = |d: &&NodeDisk| d.spec.node_name == node && d.spec.disk_name == disk;
    let named: Vec<&NodeDisk> = all.iter().filter(is_it).filter(|d| !is_placeholder(d)).collect();
    // A disk that has had other names in the configuration of this node is the NodeDisk of its ID.
    let is_own = |d: &&NodeDisk, stored: &Stored<'_>| {
        d.spec.node_name == node
            && d.spec.disk_id == stored.id
            && !d.spec.gone
            && stored.attested_key.is_none_or(|key| disk_key::has_signed(key, d))
    };
    let own = stored.as_ref().ok().and_then(|stored| all.iter().find(|d| is_own(d, stored)));
    match own {
        Some(own) if own.spec.disk_name == disk => return Identity::Known(own),
        Some(own) if !configured.contains(&own.spec.disk_name.as_str()) => return Identity::TakeOver(own),
        _ => {}
    }
    // The existing NodeDisk comes first: another disk at the same path is refused, not adopted.
    if let Some(known) = named.iter().find(|d| d.spec.path == path).or(named.first()) {
        return Identity::Known(known);
    }
    let Stored { id, attested_key } = match stored {
        Ok(stored) => stored,
        Err(why) => return Identity::Refused(why),
    };
    let signed = |object: &&NodeDisk| attested_key.is_none_or(|key| disk_key::has_signed(key, object));
    let same = all.iter().filter(|object| object.spec.disk_id == id).filter(signed);
    let Some(found) = same.min_by_key(|object| object.creation_timestamp()) else {
        let name = format!("{node}.{disk}");
        // A disk that had this name may be in another node now. The disk's own placeholder becomes its NodeDisk.
        let is_free = |name: &String| {
            !all.iter()
                .any(|object| object.name_any() == *name && !(is_placeholder(object) && is_it(&object)))
        };
        let more = (2..=MOST_NAMES).map(|n| format!("{name}-{n}"));
        let names: Vec<String> = [name.clone()].into_iter().chain(more).filter(is_free).collect();
        return match of_record((node, disk), id, names, all, reservations) {
            Ok(Some(name)) => Identity::New(name),
            Ok(None) => Identity::Refused(no_name_left(&name)),
            Err(why) => Identity::Refused(why),
        };
    };
    // A disk that was declared gone under another node or name is gone here too (D4).
    if let Some(why) = declared_gone(found) {
        return Identity::Refused(why);
    }
    let (name, spec) = (found.name_any(), &found.spec);
    if spec.node_name == node && configured.contains(&spec.disk_name.as_str()) {
        return Identity::Refused(format!(
            "by its ID it is NodeDisk {name}, which the agent's configuration has as disk {}: correct the paths there",
            spec.disk_name
        ));
    }
    Identity::TakeOver(found)
}

/// The name for a disk without a NodeDisk, out of `names`, or the reason for none. NodeDisks may have gone with their
/// kind. Reservations and volumes have their names still, and reservations the IDs of their disks (D3).
fn of_record(
    (node, disk): (&str, &str),
    id: &str,
    names: Vec<String>,
    all: &[NodeDisk],
    reservations: &[DiskReservation],
) -> Result<Option<String>, String> {
    let places = reservations.iter().filter_map(|reservation| {
        let status = reservation.status.as_ref()?;
        Some((status.node_disk.as_deref()?, status.disk_id.as_deref()?, status.node_name.as_deref()))
    });
    let (own, others): (Vec<_>, Vec<_>) = places.partition(|(_, of, _)| *of == id);
    // A broken node may have made a NodeDisk with the ID of this disk (A7), so the disk's own names come first.
    if let Some(name) = names.iter().find(|name| own.iter().any(|(own, ..)| own == name)) {
        return Ok(Some(name.clone()));
    }
    let there = |name: &str| all.iter().find(|object| object.name_any() == name);
    let of_this = |name: &str| there(name).is_none_or(|object| object.spec.disk_id == id);
    let mut own: Vec<_> = own.into_iter().filter(|(name, ..)| of_this(name)).collect();
    own.sort_by_key(|(_, _, on)| *on != Some(node));
    if let Some((name, ..)) = own.first() {
        return Err(match there(name) {
            None => {
                format!("by its ID it is NodeDisk {name}, which is missing: the controller makes it anew")
            }
            Some(object) => format!(
                "by its ID it is NodeDisk {name} of node {}, which was made anew without a key to prove that: set \
                 spec.nodeName to {node} and spec.diskName to {disk} in NodeDisk {name} if the disk is here for good",
                object.spec.node_name
            ),
        });
    }
    let is_others = |name: &String| others.iter().any(|(other, ..)| other == name);
    Ok(names.into_iter().find(|name| !is_others(name)))
}

/// The name that the first NodeDisk of the same configured disk has. Later ones have a number behind it.
pub(super) fn first_name(object: &NodeDisk) -> &str {
    let name = object.metadata.name.as_deref().unwrap_or_default();
    let is_first = name.strip_prefix(&*object.spec.node_name).and_then(|rest| rest.strip_prefix('.'))
        == Some(&object.spec.disk_name);
    let numbered =
        name.rsplit_once('-').filter(|(_, n)| n.parse().is_ok_and(|n| (2..=MOST_NAMES).contains(&n)));
    numbered.filter(|_| !is_first).map_or(name, |(first, _)| first)
}

/// True for the NodeDisk of a configured disk that the agent could not open yet, or may not serve. The object only shows
/// the reason (D8). It belongs to no disk, so it is never reserved on, moved or compared with a disk.
pub fn is_placeholder(object: &NodeDisk) -> bool {
    object.spec.disk_id == UNKNOWN_DISK
}

/// The name of a placeholder for the disk that is named `disk` in the configuration of `node`. `recorded` lists all
/// reservations: a NodeDisk that went with its kind comes back under its name, in whatever node its disk is (D3).
pub fn placeholder_name(node: &str, disk: &str, all: &[NodeDisk], recorded: &[DiskReservation]) -> String {
    let name = format!("{node}.{disk}");
    let is_on_record =
        |of: &DiskReservation| of.status.as_ref().and_then(|status| status.node_disk.as_ref()) == Some(&name);
    let is_taken = all.iter().any(|object| object.name_any() == name && !is_placeholder(object))
        || recorded.iter().any(is_on_record);
    if is_taken { format!("{name}-{UNKNOWN_DISK}") } else { name }
}

/// Refuses a disk that an administrator declared gone; `None` for any other disk.
pub fn declared_gone(object: &NodeDisk) -> Option<String> {
    let name = object.name_any();
    object.spec.gone.then(|| {
        format!(
            "NodeDisk {name}, which it is by its ID, was declared gone: all that is on it is kept and nothing of it is \
             served; give the agent an empty directory under another disk name, or delete NodeDisk {name} when nothing \
             is reserved on it any more"
        )
    })
}

/// The refusal of a disk with a name that many NodeDisks have.
fn no_name_left(name: &str) -> String {
    format!(
        "the NodeDisks {name} to {name}-{MOST_NAMES} are there, of disks that are in other nodes now: give the disk another \
         name in the agent's configuration, or delete those of them that are not needed"
    )
}

/// The event on a NodeDisk that has the ID of a disk of `node`, and is not the disk's.
pub fn not_signed(node: &str) -> String {
    format!(
        "node {node} has the disk with the ID of this one, and the key on the disk has not signed this NodeDisk: delete it if \
         nothing is reserved on it"
    )
}

/// The event on a NodeDisk whose take-over the API server refused, because a disk of another node has the same ID.
pub fn copy_refused(node: &str, why: &str) -> String {
    format!("node {node} has a disk with the ID of this one: {why}")
}

/// The refusal of a disk that has a NodeDisk on another node and no key as a proof.
pub fn without_key(object: &NodeDisk) -> String {
    let (name, node) = (object.name_any(), &object.spec.node_name);
    format!(
        "by its ID it is NodeDisk {name} of node {node}, and no agent has served it since disks have a key to prove that: \
         set spec.nodeName and spec.diskName of NodeDisk {name} if the disk is here for good"
    )
}

/// The answer to a request to take over a NodeDisk: the changes of the NodeDisk, and the reason of a refusal (D3, A7).
/// `node_is_there` is a live read of the disk's former Node. The NodeDisk has the signature as its own until the agent has
/// made a new key.
pub fn answer(object: &NodeDisk, request: &TakeOver, node_is_there: bool) -> (Value, Option<String>) {
    let TakeOver { node_name: node, disk_name: disk, proof } = request;
    let is_signed = || {
        disk_key::verifies(
            object.spec.key.as_deref()?,
            &disk_key::text_of(&object.name_any(), &object.spec.disk_id, node, disk),
            proof,
        )
    };
    let refused = if node_is_there {
        Some(format!(
            "Node {} is still there: delete it if its disk is in node {node} now",
            object.spec.node_name
        ))
    } else if let Some(why) = declared_gone(object) {
        Some(why)
    } else {
        is_signed().is_none().then(|| format!("node {node} has not signed it with the key of the disk"))
    };
    match refused {
        None => (
            json!({"spec": {"nodeName": node, "diskName": disk, "nodeUID": null, "takeOver": null, "key": null, "keyProof": proof}}),
            None,
        ),
        Some(why) => (json!({"spec": {"takeOver": null}}), Some(why)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::NodeDiskSpec;
    use crate::plan::testing;

    fn object(name: &str, node: &str, disk: &str) -> NodeDisk {
        let mut object = testing::disk(name, node, 10, &[]);
        object.spec.disk_name = disk.into();
        object
    }

    fn stored(id: &str) -> Result<Stored<'_>, String> {
        Ok(Stored { id, attested_key: None })
    }

    fn refused(identity: Identity<'_>, part: &str) -> bool {
        matches!(identity, Identity::Refused(why) if why.contains(part))
    }

    #[test]
    fn d3_a_disk_is_its_id_whatever_its_node_is_called() {
        let all = [object("n1.a", "n1", "a"), object("n2.a", "n2", "a"), object("n3.a", "old", "a")];
        let ask = |node, disk, id| identify(node, disk, "", &["a", "b"], stored(id), &all, &[]);
        assert_eq!(
            ask("n1", "a", "id-n2.a"),
            Identity::Known(&all[0]),
            "another disk there is refused later"
        );
        assert_eq!(ask("n1", "b", "new-id-of-b"), Identity::New("n1.b".into()));
        assert_eq!(ask("n1", "b", "id-n2.a"), Identity::TakeOver(&all[1]));
        assert_eq!(ask("n3", "a", "new-id-of-a"), Identity::New("n3.a-2".into()), "the name is taken");
        assert!(refused(ask("n1", "b", "id-n1.a"), "has as disk a: correct the paths"));
        assert!(refused(
            identify("n1", "b", "", &["b"], Err("it is not readable".into()), &all, &[]),
            "not readable"
        ));
        let renamed = identify("n1", "b", "", &["b"], stored("id-n1.a"), &all, &[]);
        assert_eq!(renamed, Identity::TakeOver(&all[0]), "the configuration calls it otherwise now");
    }

    /// The name in the configuration was another one for a while, and another disk had the name meanwhile.
    #[test]
    fn d3_a_disk_that_has_its_name_again_is_served_again() {
        let mut all = [object("n1.a", "n1", "earlier"), object("n1.a-2", "n1", "a")];
        (all[0].spec.path, all[1].spec.path) = ("/a".into(), "/b".into());
        let ask = |all, id| identify("n1", "a", "/a", &["a"], id, all, &[]);
        assert_eq!(ask(&all, stored("id-n1.a")), Identity::TakeOver(&all[0]), "by its ID");
        assert_eq!(ask(&all, stored("new")), Identity::Known(&all[1]), "refused later");
        let mut both = all.clone();
        both[0].spec.disk_name = "a".into();
        both.reverse();
        assert_eq!(ask(&both, stored("id-n1.a")), Identity::Known(&both[1]));
        assert_eq!(ask(&both, stored("id-n1.a-2")), Identity::Known(&both[0]));
        assert_eq!(ask(&both, Err("no mount".into())), Identity::Known(&both[1]), "that with its path");
    }

    /// The kind NodeDisk was deleted and applied again. Reservations and volumes refer to names.
    #[test]
    fn d3_a_disk_without_a_nodedisk_has_the_name_on_record() {
        let on = |name: &str, node: &str, id: &str| {
            let mut reservation = testing::reserved(name, "eng", 1, &[]);
            let status = reservation.status.as_mut().unwrap();
            (status.node_disk, status.node_name) = (Some(name.into()), Some(node.into()));
            (status.disk_id, status.disk_name) = (Some(id.into()), Some("a".into()));
            reservation
        };
        let ask = |all: &[NodeDisk], recorded: &[DiskReservation]| match identify(
            "n2",
            "a",
            "",
            &["a"],
            stored("id"),
            all,
            recorded,
        ) {
            Identity::New(name) => name,
            Identity::Refused(why) => why,
            identity => panic!("{identity:?}"),
        };
        assert_eq!(ask(&[], &[on("n2.a-2", "n2", "id")]), "n2.a-2");
        assert_eq!(
            ask(&[], &[on("n2.a", "n3", "other"), on("n1.a", "n1", "more")]),
            "n2.a-2",
            "another's name"
        );
        let moved = [on("n3.a", "n3", "id"), on("n1.a", "n2", "id")];
        assert_eq!(
            ask(&[], &moved),
            "by its ID it is NodeDisk n1.a, which is missing: the controller makes it anew",
            "the one on this node comes first"
        );
        let mut there = object("n1.a", "n1", "a");
        assert_eq!(ask(&[there.clone()], &moved[1..]), "n2.a", "the name is another disk's now");
        (there.spec.disk_id, there.spec.key_proof) = ("id".into(), None);
        let key = testing::disk_public_key(1);
        let with_key = Stored { id: "id", attested_key: Some(&key) };
        let unsigned = [there];
        let found = identify("n2", "a", "", &["a"], Ok(with_key), &unsigned, &moved[1..]);
        assert!(refused(found, "set spec.nodeName to n2 and spec.diskName to a in NodeDisk n1.a"));
        // A7: a broken node has made a NodeDisk with this ID, and something is reserved on it.
        let forged = [on("n3.x", "n3", "id"), on("n2.a", "n2", "id")];
        assert_eq!(ask(&[], &forged), "n2.a");
    }

    #[test]
    fn d8_a_placeholder_becomes_the_disk_and_is_taken_for_none() {
        let mut all = [object("n1.a", "n1", "a"), object("n2.a", "n2", "a")];
        all[0].spec.disk_id = UNKNOWN_DISK.into();
        let ask = |disk, id| identify("n1", disk, "", &["a", "b"], id, &all, &[]);
        assert!(refused(ask("a", Err("no such directory".into())), "no such directory"));
        assert_eq!(ask("a", stored("id-of-a")), Identity::New("n1.a".into()));
        assert_eq!(
            ask("a", stored("id-n2.a")),
            Identity::TakeOver(&all[1]),
            "the disk came from another node"
        );
        let name = |disk| placeholder_name("n1", disk, &all, &[]);
        assert_eq!((name("a"), name("b")), ("n1.a".into(), "n1.b".into()));
        all[0].spec = object("n1.a", "n3", "a").spec;
        assert_eq!(placeholder_name("n1", "a", &all, &[]), "n1.a-unknown", "the disk of that name moved");
        let mut recorded = testing::reserved("r", "eng", 1, &[]);
        recorded.status.as_mut().unwrap().node_disk = Some("n1.a".into());
        let name = |disk| placeholder_name("n1", disk, &[], std::slice::from_ref(&recorded));
        assert_eq!((name("a"), name("b")), ("n1.a-unknown".into(), "n1.b".into()), "D3: it comes back");
    }

    #[test]
    fn d4_a_disk_that_was_declared_gone_stays_gone_elsewhere() {
        let mut gone = object("n1.a", "n1", "a");
        gone.spec.gone = true;
        let all = [gone];
        assert!(refused(
            identify("n2", "a", "", &["a"], stored("id-n1.a"), &all, &[]),
            "NodeDisk n1.a, which it is by its ID"
        ));
        assert_eq!(identify("n1", "a", "", &["a"], stored("id-n1.a"), &all, &[]), Identity::Known(&all[0]));
        assert!(declared_gone(&all[0]).is_some() && declared_gone(&object("n1.b", "n1", "b")).is_none());
    }

    /// A node that has read the ID of a disk makes a NodeDisk with it, while the disk's own one is missing.
    #[test]
    fn a7_a_nodedisk_that_the_disk_has_not_signed_is_not_its_own() {
        let mut forged = object("n2.x", "n2", "x");
        (forged.spec.disk_id, forged.spec.key) = ("id".into(), Some(testing::disk_public_key(2)));
        testing::sign(&mut forged, 2);
        let key = testing::disk_public_key(1);
        let stored_here = Stored { id: "id", attested_key: Some(&key) };
        let copied = NodeDiskSpec { key: Some(key.clone()), ..forged.spec.clone() };
        let copied = NodeDisk { spec: copied, ..forged.clone() };
        for object in [&forged, &copied] {
            let found = identify("n1", "a", "", &["a"], Ok(stored_here), std::slice::from_ref(object), &[]);
            assert_eq!(found, Identity::New("n1.a".into()));
        }
        // The disk's own NodeDisk is found in any node, whatever else is there.
        let mut own = object("n1.a", "n1", "a");
        (own.spec.disk_id, own.spec.key) = ("id".into(), Some(key.clone()));
        testing::sign(&mut own, 1);
        let all = [forged, own];
        for (node, disk) in [("n3", "c"), ("n1", "renamed")] {
            let found = identify(node, disk, "", &[disk], Ok(stored_here), &all, &[]);
            assert_eq!(found, Identity::TakeOver(&all[1]));
        }
        // A disk whose NodeDisk has had no signature yet is one of an earlier version.
        let earlier = identify("n3", "c", "", &["c"], stored("id"), &all[..1], &[]);
        assert_eq!(earlier, Identity::TakeOver(&all[0]));
    }

    /// A broken node has a bounded number of names.
    #[test]
    fn a7_names_of_nodedisks_end_at_nine() {
        let mut all = vec![object("n1.a", "n2", "a")];
        for n in 2..=MOST_NAMES {
            assert_eq!(
                identify("n1", "a", "", &["a"], stored("new"), &all, &[]),
                Identity::New(format!("n1.a-{n}"))
            );
            all.push(object(&format!("n1.a-{n}"), "n2", "a"));
        }
        assert!(refused(
            identify("n1", "a", "", &["a"], stored("new"), &all, &[]),
            "n1.a to n1.a-9 are there"
        ));
    }

    #[test]
    fn a7_a_disk_moves_only_with_the_signature_of_its_key() {
        let mut disk = testing::disk("n1.a", "n1", 10, &[]);
        disk.spec.key = Some(testing::disk_public_key(1));
        let request = |by: u8, of: &NodeDisk, signed_for: &str| TakeOver {
            node_name: "n2".into(),
            disk_name: "b".into(),
            proof: testing::disk_signature(
                by,
                &disk_key::text_of(&of.name_any(), &of.spec.disk_id, signed_for, "b"),
            ),
        };
        let moves = |disk: &NodeDisk, request: &TakeOver, there| answer(disk, request, there).1.is_none();
        let good = request(1, &disk, "n2");
        let (fields, refused) = answer(&disk, &good, false);
        assert_eq!((fields["spec"]["nodeName"].as_str(), refused), (Some("n2"), None));
        assert!(!moves(&disk, &good, true), "D3: a copy, perhaps");
        assert!(!moves(&disk, &request(2, &disk, "n2"), false), "the key of another disk");
        assert!(!moves(&disk, &request(1, &disk, "n3"), false), "another node's proof");
        assert!(
            !moves(&disk, &request(1, &testing::disk("n1.b", "n1", 10, &[]), "n2"), false),
            "another disk's proof"
        );
        assert!(!moves(&disk, &TakeOver { proof: "é".into(), ..good.clone() }, false));
        let (mut gone, mut old) = (disk.clone(), disk.clone());
        (gone.spec.gone, old.spec.key) = (true, None);
        assert!(!moves(&gone, &good, false), "D4");
        assert!(!moves(&old, &good, false), "a NodeDisk of an earlier version has no key");
    }

    /// D3: until the agent of the new node has made a new key, the NodeDisk is still the disk's, and the old key is not
    /// attested.
    #[test]
    fn a7_a_disk_that_moved_is_known_by_the_request_for_it() {
        let mut disk = testing::disk("n1.a", "n1", 10, &[]);
        let key = testing::disk_public_key(1);
        disk.spec.key = Some(key.clone());
        testing::sign(&mut disk, 1);
        assert_eq!(disk_key::attested(&disk), Some(&*key));
        let proof = testing::disk_signature(1, &disk_key::text_of("n1.a", &disk.spec.disk_id, "n2", "b"));
        let request = TakeOver { node_name: "n2".into(), disk_name: "b".into(), proof };
        let (fields, _) = answer(&disk, &request, false);
        let mut object = serde_json::to_value(&disk).unwrap();
        for (field, value) in fields["spec"].as_object().unwrap() {
            object["spec"][field] = value.clone();
        }
        let moved: NodeDisk = serde_json::from_value(object).unwrap();
        assert_eq!(
            (&*moved.spec.node_name, disk_key::has_signed(&key, &moved), disk_key::attested(&moved)),
            ("n2", true, None)
        );
        disk.spec.disk_name = "c".into();
        assert_eq!(
            (disk_key::has_signed(&key, &disk), disk_key::attested(&disk)),
            (false, None),
            "it was signed for another name"
        );
    }
}
