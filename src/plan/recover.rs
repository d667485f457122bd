//! Recovery of the objects of a lost cluster, from the nodes' reports of orphans (X6).

use std::collections::BTreeMap;
use std::path::Path;

use kube::ResourceExt;

use crate::api::{
    ANNOTATION_MADE_FOR, DiskReservation, DiskReservationSpec, DiskReservationStatus, LABEL_PVC_UID,
    NodeDisk, Orphan, Reserved, Role, SharedPersistentVolume, SharedPersistentVolumeSpec, Size,
};

use super::orphans;

/// A manifest for an administrator to apply, or the reason why there is no manifest. A note names the fields that only
/// the node's report supports, since a compromised node may report anything.
#[derive(Clone, Debug, PartialEq)]
pub enum Document {
    /// A lost reservation of orphans.
    Reservation(Box<DiskReservation>, String),
    /// A volume with the data of an orphan.
    Volume(Box<SharedPersistentVolume>, Option<String>),
    /// The reason.
    Refused(String),
}

/// A lost reservation.
struct Wanted<'a> {
    noted: &'a Reserved,
    on: &'a NodeDisk,
    parent: Option<&'a str>,
    /// Bytes of the orphans in the reservation, which was at least that large.
    orphans: u64,
}

/// The manifests for orphans on the disks, reservations first. Selected are the orphans whose UID, name or NodeDisk is in
/// `only`, or all. Data of destroyed volumes has to be selected by UID or name (X8). Existing objects get no manifest. The error is an element of `only` that selects nothing.
pub fn documents<'a>(
    disks: &'a [NodeDisk],
    reservations: &[DiskReservation],
    volumes: &[SharedPersistentVolume],
    only: &[String],
) -> Result<Vec<Document>, String> {
    // No data of a disk that was declared gone is recovered (D4).
    let disks = disks.iter().filter(|disk| !disk.spec.gone);
    let on =
        |disk: &'a NodeDisk| disk.status.iter().flat_map(move |s| s.orphans.iter().map(move |o| (disk, o)));
    let called = |(disk, orphan): &(&NodeDisk, &Orphan), word: &String| {
        [&orphan.uid, &orphan.name, &disk.name_any()].contains(&word)
    };
    let all: Vec<(&NodeDisk, &Orphan)> = disks.clone().flat_map(on).collect();
    if let Some(unknown) = only.iter().find(|word| !all.iter().any(|orphan| called(orphan, word))) {
        return Err(format!(
            "no data without an object is called {unknown}: kubectl reservoir orphans lists all of it"
        ));
    }
    let chosen =
        |orphan: &&(&NodeDisk, &Orphan)| only.is_empty() || only.iter().any(|word| called(orphan, word));
    let named = |orphan: &Orphan| only.iter().any(|word| [&orphan.uid, &orphan.name].contains(&word));
    let (kept, orphans): (Vec<_>, Vec<_>) =
        all.iter().filter(chosen).copied().partition(|(_, orphan)| orphan.kept.is_some() && !named(orphan));
    let mut wanted: BTreeMap<(usize, &str), Wanted> = BTreeMap::new();
    let mut documents = Vec::new();
    for disk in disks.clone() {
        if let Some(others) = disk.status.as_ref().and_then(|status| status.unlisted_orphans.as_ref()) {
            let (on, count) = (disk.name_any(), others.count);
            documents.push(Document::Refused(format!(
                "NodeDisk {on} has the data of {count} more volumes, which status.orphans cannot list: recover what is listed, \
                 then run this again"
            )));
        }
    }
    for (disk, orphan) in kept {
        let (name, uid, on) = (&orphan.name, &orphan.uid, disk.name_any());
        documents.push(Document::Refused(format!(
            "volume {name} on NodeDisk {on} was destroyed, and its data is kept for an undo: kubectl reservoir undelete {uid}, or \
             without its reservation: kubectl reservoir recover {uid}"
        )));
    }
    for &(disk, orphan) in &orphans {
        let others = orphans.iter().copied().filter(|(_, other)| !std::ptr::eq(*other, orphan));
        let checked = check_report(orphan, &disk.name_any())
            .and_then(|()| check_others(orphan, disk, others))
            .and_then(|()| manifest(orphan, disk, reservations, volumes));
        match checked {
            Ok((volume, note)) => documents.push(Document::Volume(Box::new(volume), note)),
            Err(why) => {
                let on = disk.name_any();
                let of = called_in_words(orphan);
                documents.push(Document::Refused(format!("{of} on NodeDisk {on} {why}")));
                continue;
            }
        }
        let chain = &orphan.reservations;
        for (i, noted) in chain.iter().enumerate() {
            if reservations.iter().any(|there| there.name_any() == noted.name) {
                continue;
            }
            // The outermost reservations come first.
            let parent = chain.get(i + 1).map(|parent| parent.name.as_str());
            let place = wanted.entry((chain.len() - i, noted.name.as_str()));
            place.or_insert(Wanted { noted, on: disk, parent, orphans: 0 }).orphans +=
                orphan.size.bytes_or_zero();
        }
    }
    Ok(wanted.into_values().map(Wanted::document).chain(documents).collect())
}

/// `the data of volume a (UID)`; a record that cannot be read has no name.
fn called_in_words(orphan: &Orphan) -> String {
    match orphan.name.as_str() {
        "" => format!("the data of a volume without a name ({})", orphan.uid),
        name => format!("the data of volume {name} ({})", orphan.uid),
    }
}

/// Writes into each manifest the user who applies it. An API server without MutatingAdmissionPolicy wants that (R5, A3).
pub fn sign(documents: &mut [Document], principal: &str) {
    for document in documents {
        let place = match document {
            Document::Reservation(manifest, _) => &mut manifest.spec.principal,
            Document::Volume(manifest, _) => &mut manifest.spec.principal,
            Document::Refused(_) => continue,
        };
        *place = Some(principal.to_owned());
    }
}

/// The manifests as YAML. Reasons and notes are comments.
pub fn text(documents: &[Document]) -> Result<String, serde_yaml::Error> {
    let each = documents.iter().map(|document| match document {
        Document::Reservation(manifest, note) => {
            Ok(format!("---\n{}{}\n", comment(note), serde_yaml::to_string(manifest)?))
        }
        Document::Volume(manifest, note) => {
            let note = note.as_deref().map(comment).unwrap_or_default();
            Ok(format!("---\n{note}{}\n", serde_yaml::to_string(manifest)?))
        }
        Document::Refused(why) => Ok(format!("---\n{}\n", comment(why))),
    });
    each.collect()
}

/// Writes a text as a comment of one line. An administrator applies the output, so no text of a node may end the comment.
/// YAML 1.1 has these further line breaks.
fn comment(text: &str) -> String {
    let one_line = text.replace(|c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}'), " ");
    format!("# {one_line}\n")
}

impl Wanted<'_> {
    fn document(self) -> Document {
        let on = self.on.name_any();
        let spec = DiskReservationSpec {
            role: self.noted.role.clone(),
            size: Size::from_bytes(self.noted.size.bytes_or_zero().max(self.orphans)),
            node_disk: self.parent.is_none().then_some(on),
            parent: self.parent.map(str::to_owned),
            ..Default::default()
        };
        let mut manifest = DiskReservation::new(&self.noted.name, spec);
        manifest.metadata.labels = Some(self.noted.labels.clone()).filter(|labels| !labels.is_empty());
        let note = format!(
            "Only node {} says that there was this reservation: compare its role, size and labels with your own manifests",
            self.on.spec.node_name
        );
        Document::Reservation(Box::new(manifest), note)
    }
}

/// Refuses a report that contradicts itself, since no agent writes such a report.
fn check_report(orphan: &Orphan, on: &str) -> Result<(), String> {
    if let Some(problem) = &orphan.problem {
        return Err(format!("cannot be recovered, and stays: {problem}"));
    }
    let spec = &orphan.spec;
    let chain = &orphan.reservations;
    let reservation = chain.first().map(|first| first.name.as_str());
    let strays = |child: &Reserved, parent: &Reserved| !Role::name_covers(&parent.role, &child.role);
    let contradiction = if spec["recover"]["uid"] != orphan.uid.as_str() {
        "its spec is for other data"
    } else if reservation.is_none() || spec["reservation"].as_str() != reservation {
        "its spec names another reservation"
    } else if !chain
        .first()
        .is_some_and(|first| Role::name_covers(&first.role, spec["role"].as_str().unwrap_or_default()))
    {
        "its role may not use its reservation"
    } else if chain.windows(2).any(|pair| strays(&pair[0], &pair[1])) {
        "its reservation may not be carved out of the one above"
    } else if spec["size"] != serde_json::json!(orphan.size) {
        "its spec has another size"
    } else if !spec["principal"].is_null() || spec["retire"] == true {
        "its spec has a principal, or asks for destruction"
    } else {
        return Ok(());
    };
    Err(format!(
        "is reported with a contradiction ({contradiction}), and stays: look at the agent of NodeDisk {on}"
    ))
}

/// Refuses a name that another disk reports differently, since one of the two nodes is wrong.
fn check_others<'a>(
    orphan: &Orphan,
    disk: &NodeDisk,
    others: impl Iterator<Item = (&'a NodeDisk, &'a Orphan)>,
) -> Result<(), String> {
    let right =
        |word: &str| format!("if this one is right, recover it alone: kubectl reservoir recover {word}");
    for (other_disk, other) in others.filter(|(_, other)| other.problem.is_none()) {
        let on = other_disk.name_any();
        if other.name == orphan.name || other.uid == orphan.uid {
            return Err(format!(
                "was SharedPersistentVolume {}, and so was data {} on NodeDisk {on}; {}",
                orphan.name,
                other.uid,
                right(&orphan.uid)
            ));
        }
        let same = |noted: &&Reserved| other.reservations.iter().any(|of| of.name == noted.name);
        if on != disk.name_any()
            && let Some(noted) = orphan.reservations.iter().find(same)
        {
            return Err(format!(
                "was in DiskReservation {}, which NodeDisk {on} reports as its own; {}",
                noted.name,
                right(&disk.name_any())
            ));
        }
    }
    Ok(())
}

/// The manifest of an orphan, with a note about the fields that no object in the cluster supports.
fn manifest(
    orphan: &Orphan,
    disk: &NodeDisk,
    reservations: &[DiskReservation],
    volumes: &[SharedPersistentVolume],
) -> Result<(SharedPersistentVolume, Option<String>), String> {
    let (on, name) = (disk.name_any(), &orphan.name);
    let other_one = "create the volume in another one on this disk, with the spec that status.orphans has";
    // A volume of another role, or on another disk, gets none of this data, and is no reason to keep the data from its role.
    let recovers = |v: &&SharedPersistentVolume| {
        v.spec.recover.as_ref().is_some_and(|r| r.uid == orphan.uid)
            && orphan.spec["role"] == v.spec.role.as_str()
            && v.status.as_ref().and_then(|s| s.node_disk.as_ref()).is_none_or(|place| *place == on)
    };
    if let Some(volume) = volumes.iter().find(recovers) {
        return Err(format!("is being recovered by SharedPersistentVolume {}", volume.name_any()));
    }
    if orphans::owner(orphan, volumes).is_some() {
        return Err(format!(
            "is that of SharedPersistentVolume {name}, which is there: kubectl reservoir why spv/{name} says what it waits for"
        ));
    }
    if volumes.iter().any(|volume| volume.name_any() == *name) {
        return Err(format!(
            "was SharedPersistentVolume {name}, a name that another one has now: create one of another name with the spec \
             that status.orphans has"
        ));
    }
    let mut confirmed = false;
    for (i, noted) in orphan.reservations.iter().enumerate() {
        let Some(there) = reservations.iter().find(|there| there.name_any() == noted.name) else { continue };
        let (lost, role) = (&noted.name, &there.spec.role);
        if *role != noted.role {
            return Err(format!(
                "was in DiskReservation {lost} of role {}, a name that one of role {role} has now: {other_one}",
                noted.role
            ));
        }
        let status = there.status.as_ref();
        let carved = orphan
            .reservations
            .get(i + 1)
            .is_some_and(|parent| there.spec.parent.as_ref() == Some(&parent.name));
        match status.and_then(|s| s.node_disk.as_ref()).or(there.spec.node_disk.as_ref()) {
            Some(place) if *place == on => {}
            None if carved => {}
            Some(place) => {
                return Err(format!(
                    "was in DiskReservation {lost}, which is on NodeDisk {place} now: {other_one}"
                ));
            }
            None => {
                return Err(format!(
                    "was in DiskReservation {lost}, which has no disk yet: try again when it is Ready"
                ));
            }
        }
        let has_entry = |s: &DiskReservationStatus| {
            s.volumes.iter().any(|entry| entry.uid == orphan.uid && entry.name == *name)
        };
        confirmed |= i == 0 && status.is_some_and(has_entry);
    }
    let spec: SharedPersistentVolumeSpec = serde_json::from_value(orphan.spec.clone())
        .map_err(|error| format!("was written down by another version, and stays: {error}"))?;
    let adopted = spec.adopt.as_ref().map(|adopt| adopt.path.as_str());
    let beneath = |root: &String| adopted.is_some_and(|path| Path::new(path).starts_with(root));
    if let Some(path) = adopted.filter(|_| !disk.spec.adopt_roots.iter().any(beneath)) {
        return Err(format!(
            "is said to be {path}, which lies beneath no adoptRoots of that disk: look at the agent's configuration"
        ));
    }
    let mut volume = SharedPersistentVolume::new(name, spec);
    let mut labels = orphan.labels.clone();
    // The PersistentVolumeClaim for which the volume was made is no longer the owner (P4).
    labels.remove(LABEL_PVC_UID);
    let only = match labels.is_empty() {
        true => "name, role and access",
        false => "name, role, access and labels, by which claims choose,",
    };
    volume.metadata.labels = Some(labels).filter(|labels| !labels.is_empty());
    let made_for = orphan.made_for.iter().map(|of| (ANNOTATION_MADE_FOR.to_owned(), of.clone()));
    volume.metadata.annotations = Some(made_for.collect()).filter(|all: &BTreeMap<_, _>| !all.is_empty());
    let adopted = orphan.spec["adopt"]["path"].as_str();
    let adopted = adopted.map(|path| format!(", and is the directory {path}")).unwrap_or_default();
    let node = &disk.spec.node_name;
    let note = (!confirmed).then(|| {
        format!(
            "Only node {node} says that data {} has this {only}{adopted}: compare with your own manifests",
            orphan.uid
        )
    });
    Ok((volume, note))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plan::testing::*;

    fn reserved_in(name: &str, role: &str, size: u64) -> Reserved {
        Reserved { name: name.into(), role: role.into(), size: gi(size), ..Default::default() }
    }

    /// A7: whatever a node reports of its data, each orphan gets a document, and every document is YAML of its object alone.
    #[test]
    fn fuzz_reports_of_lost_data() {
        let chain = [reserved_in("r", "eng/ml", 4), reserved_in("parent", "eng", 9)];
        let mut there = disk("n1.a", "n1", 20, &[]);
        there.status.as_mut().unwrap().orphans = vec![orphan("a", &chain, 1), orphan("b", &chain[1..], 2)];
        let seed = json!(there.status).to_string();
        crate::fuzz::fuzz("reports-of-lost-data", &[seed.as_bytes()], |bytes| {
            let status = serde_json::from_slice(bytes).map_err(crate::fuzz::words)?;
            let disk = NodeDisk { status: Some(status), ..there.clone() };
            let disks = [disk];
            let all = documents(&disks, &[], &[], &[]).expect("nothing is named");
            let text = text(&all).map_err(crate::fuzz::words)?;
            let made = all.iter().filter(|of| !matches!(of, Document::Refused(_))).count();
            let parts = format!("\n{text}");
            let objects = parts.split("\n---\n").filter(|part| {
                serde_yaml::from_str::<serde_json::Value>(part).is_ok_and(|object| object["kind"].is_string())
            });
            assert_eq!(objects.count(), made, "{text}");
            let of = |document: &Document| match document {
                Document::Reservation(..) => "reservation".to_owned(),
                Document::Volume(_, note) => format!("volume {}", note.is_some()),
                Document::Refused(why) => crate::fuzz::words(why),
            };
            Ok::<_, String>(all.iter().take(4).map(of).collect::<Vec<_>>())
        });
    }

    fn orphan(name: &str, chain: &[Reserved], size: u64) -> Orphan {
        let role = &chain[0].role;
        let spec = json!({"role": role, "size": gi(size), "reservation": chain[0].name, "shared": {},
            "recover": {"uid": format!("uid-of-{name}")}});
        let uid = format!("uid-of-{name}");
        Orphan {
            uid,
            name: name.into(),
            size: gi(size),
            reservations: chain.to_vec(),
            spec,
            ..Default::default()
        }
    }

    fn printed(
        disks: &[NodeDisk],
        reservations: &[DiskReservation],
        volumes: &[SharedPersistentVolume],
    ) -> Vec<String> {
        let print = |document: &Document| match document {
            Document::Reservation(r, _) => {
                let place = r.spec.parent.as_ref().or(r.spec.node_disk.as_ref()).unwrap();
                format!("{} {} {} in {place}", r.name_any(), r.spec.role, r.spec.size)
            }
            Document::Volume(v, _) => format!("{} of {}", v.name_any(), v.spec.recover.as_ref().unwrap().uid),
            Document::Refused(why) => why.clone(),
        };
        documents(disks, reservations, volumes, &[]).unwrap().iter().map(print).collect()
    }

    #[test]
    fn x6_reservations_come_first_each_once_and_large_enough() {
        let mut disk = disk("n1.a", "n1", 100, &[]);
        let (eng, ml) = (reserved_in("eng", "eng", 10), reserved_in("ml", "eng/ml", 4));
        disk.status.as_mut().unwrap().orphans = vec![
            orphan("a", std::slice::from_ref(&eng), 8),
            orphan("b", &[ml, eng.clone()], 3),
            Orphan { uid: "dark".into(), problem: Some("it is damaged".into()), ..Default::default() },
        ];
        assert_eq!(
            printed(std::slice::from_ref(&disk), &[], &[]),
            [
                "eng eng 11Gi in n1.a",
                "ml eng/ml 4Gi in eng",
                "a of uid-of-a",
                "b of uid-of-b",
                "the data of a volume without a name (dark) on NodeDisk n1.a cannot be recovered, and stays: it is damaged",
            ]
        );
        // Existing objects get no manifest.
        let there = [reserved("eng", "eng", 10, &[])];
        let mut taken = volume("a", "eng", 1);
        let again = printed(std::slice::from_ref(&disk), &there, std::slice::from_ref(&taken));
        assert_eq!(again[0], "ml eng/ml 4Gi in eng");
        assert!(again[1].contains("a name that another one has now"), "{again:?}");
        taken.metadata.uid = Some("uid-of-a".into());
        let own = printed(std::slice::from_ref(&disk), &there, std::slice::from_ref(&taken));
        assert!(own[1].contains("is that of SharedPersistentVolume a, which is there"), "X9: {own:?}");
        taken.metadata.uid = Some("new".into());
        taken.metadata.name = Some("other".into());
        taken.spec.recover = Some(crate::api::Recover { uid: "uid-of-a".into() });
        let again = printed(std::slice::from_ref(&disk), &there, std::slice::from_ref(&taken));
        assert!(again[1].ends_with("is being recovered by SharedPersistentVolume other"), "{again:?}");
        taken.status.get_or_insert_default().node_disk = Some("n2.b".into());
        let again = printed(std::slice::from_ref(&disk), &there, std::slice::from_ref(&taken));
        assert_eq!(again[1], "a of uid-of-a", "a volume on another disk");
        taken.status = None;
        taken.spec.role = "ops".into();
        let again = printed(std::slice::from_ref(&disk), &there, std::slice::from_ref(&taken));
        assert_eq!(again[1], "a of uid-of-a", "a volume of another role");
        let foreign = [reserved("eng", "ops", 10, &[])];
        let again = printed(std::slice::from_ref(&disk), &foreign, &[]);
        assert!(again[0].contains("a name that one of role ops has now"), "{again:?}");
        // The reservation was made anew, and placed on another disk.
        let mut elsewhere = reserved("eng", "eng", 10, &[]);
        elsewhere.status.as_mut().unwrap().node_disk = Some("n2.b".into());
        let again = printed(std::slice::from_ref(&disk), &[elsewhere], &[]);
        assert_eq!(
            again.iter().filter(|said| said.contains("which is on NodeDisk n2.b now")).count(),
            2,
            "{again:?}"
        );
    }

    #[test]
    fn x6_data_that_is_not_listed_is_reported() {
        let mut disk = disk("n1.a", "n1", 100, &[]);
        let others = crate::api::UnlistedOrphans { count: 72, size: gi(1) };
        disk.status.as_mut().unwrap().unlisted_orphans = Some(others);
        let printed = printed(&[disk], &[], &[]);
        assert!(printed[0].contains("NodeDisk n1.a has the data of 72 more volumes"), "{printed:?}");
    }

    /// X6, A7: a report that no agent would write is refused, and so is a report that another disk contradicts.
    #[test]
    fn x6_a7_a_contradictory_report_is_refused() {
        let eng = reserved_in("eng", "eng", 10);
        let lone = |break_it: &dyn Fn(&mut Orphan)| {
            let mut disk = disk("n1.a", "n1", 100, &[]);
            let mut orphan = orphan("a", &[reserved_in("ml", "eng/ml", 4), eng.clone()], 3);
            break_it(&mut orphan);
            disk.status.as_mut().unwrap().orphans = vec![orphan];
            disk
        };
        type Break<'a> = (&'a str, &'a dyn Fn(&mut Orphan));
        let table: [Break; 9] = [
            ("its spec is for other data", &|o| o.spec["recover"]["uid"] = json!("uid-of-b")),
            ("its spec is for other data", &|o| drop(o.spec.as_object_mut().unwrap().remove("recover"))),
            ("its spec names another reservation", &|o| o.spec["reservation"] = json!("ops")),
            ("its role may not use its reservation", &|o| o.spec["role"] = json!("ops")),
            ("its reservation may not be carved", &|o| o.reservations[1].role = "ops".into()),
            ("its spec has another size", &|o| o.spec["size"] = json!(gi(90))),
            ("asks for destruction", &|o| o.spec["retire"] = json!(true)),
            ("has a principal", &|o| o.spec["principal"] = json!("admin")),
            ("lies beneath no adoptRoots", &|o| o.spec["adopt"] = json!({"path": "/etc"})),
        ];
        assert_eq!(printed(&[lone(&|_| ())], &[], &[]).len(), 3, "two reservations, and the volume");
        for (why, break_it) in table {
            let printed = printed(&[lone(break_it)], &[], &[]);
            assert!(printed.len() == 1 && printed[0].contains(why), "{why}: {printed:?}");
        }
        // A node's report about a reservation of another node is ignored, with or without an object.
        let mut foreign = reservation("ml", "eng/ml", 4);
        assert!(printed(&[lone(&|_| ())], &[foreign.clone()], &[])[0].contains("which has no disk yet"));
        foreign.spec.node_disk = Some("n2.b".into());
        assert!(printed(&[lone(&|_| ())], &[foreign], &[])[0].contains("which is on NodeDisk n2.b now"));
        let mut second = disk("n2.b", "n2", 100, &[]);
        let both = |second: &NodeDisk| [lone(&|_| ()), second.clone()];
        second.status.as_mut().unwrap().orphans = vec![orphan("b", std::slice::from_ref(&eng), 1)];
        let refused = printed(&both(&second), &[], &[]);
        let next = "which NodeDisk n2.b reports as its own; if this one is right, recover it alone: kubectl reservoir recover n1.a";
        assert!(refused.len() == 2 && refused[0].contains(next), "{refused:?}");
        second.status.as_mut().unwrap().orphans = vec![orphan("a", &[reserved_in("x", "x", 1)], 1)];
        let refused = printed(&both(&second), &[], &[]);
        assert!(
            refused.len() == 2 && refused[1].contains("and so was data uid-of-a on NodeDisk n1.a"),
            "{refused:?}"
        );
        let one = documents(&both(&second), &[], &[], &["n2.b".into()]).unwrap();
        assert!(matches!(one.as_slice(), [Document::Reservation(..), Document::Volume(..)]), "{one:?}");
    }

    /// X6, A7: a comment names the fields that only the node reports.
    #[test]
    fn x6_a7_unconfirmed_reports_are_marked() {
        let mut disk = disk("n1.a", "n1", 100, &[]);
        disk.status.as_mut().unwrap().orphans = vec![orphan("a", &[reserved_in("eng", "eng", 10)], 3)];
        let text = |there: &[DiskReservation]| {
            text(&documents(std::slice::from_ref(&disk), there, &[], &[]).unwrap()).unwrap()
        };
        let lost = text(&[]);
        assert_eq!(lost.matches("\n# Only node n1 says that").count(), 2, "{lost}");
        let mut there = reserved("eng", "eng", 10, &[("a", 3)]);
        there.status.as_mut().unwrap().node_disk = Some("n1.a".into());
        assert!(
            text(std::slice::from_ref(&there))
                .contains("# Only node n1 says that data uid-of-a has this name")
        );
        there.status.as_mut().unwrap().volumes[0].uid = "uid-of-a".into();
        assert!(!text(&[there]).contains('#'), "the reservation's ledger says the same");
    }

    /// X6, A7. The administrator who applies the output has rights that no node has.
    #[test]
    fn x6_a7_what_a_node_says_of_its_data_is_never_a_manifest() {
        let mut disk = disk("n1.a", "n1", 100, &[]);
        let manifest = "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: mine}";
        disk.status.as_mut().unwrap().orphans = ["\n", "\r", "\u{85}", "\u{2028}", "\u{2029}"]
            .map(|end| Orphan {
                uid: format!("dark{end}{manifest}"),
                problem: Some(format!("it is damaged{end}{}", manifest.replace('\n', end))),
                ..Default::default()
            })
            .into();
        let text = text(&documents(std::slice::from_ref(&disk), &[], &[], &[]).unwrap()).unwrap();
        assert!(text.contains("it is damaged"));
        let plain = |line: &str| line.is_empty() || line == "---" || line.starts_with("# ");
        let ends = |c: char| matches!(c, '\n' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}');
        assert!(text.split(ends).all(plain), "{text}");
    }
}
