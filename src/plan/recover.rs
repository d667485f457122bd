//! From what the disks know, the objects of a lost cluster (X6).

use std::collections::BTreeMap;

use kube::ResourceExt;

use crate::api::{
    DiskReservation, DiskReservationSpec, LABEL_PVC_UID, NodeDisk, Orphan, Reserved, SharedPersistentVolume,
    SharedPersistentVolumeSpec, Size,
};

/// A manifest that is to be applied, or what is to be said instead of one.
#[derive(Clone, Debug, PartialEq)]
pub enum Document {
    /// A reservation that orphans lived in and that is not there any more.
    Reservation(Box<DiskReservation>),
    /// A volume with the data of an orphan.
    Volume(Box<SharedPersistentVolume>),
    /// Why there is none.
    Said(String),
}

/// A reservation that has to be there first.
struct Wanted<'a> {
    noted: &'a Reserved,
    disk: String,
    parent: Option<String>,
    /// Bytes of orphans that lived in it: the reservation was at least that large.
    orphans: u64,
}

/// The manifests for all orphans on the disks: what is there already is left out or left alone.
pub fn documents(
    disks: &[NodeDisk],
    reservations: &[DiskReservation],
    volumes: &[SharedPersistentVolume],
) -> Vec<Document> {
    let mut wanted: BTreeMap<(usize, &str), Wanted> = BTreeMap::new();
    let mut documents = Vec::new();
    // Nothing is recovered on a disk that was declared gone (D4).
    for disk in disks.iter().filter(|disk| !disk.spec.gone) {
        let on = disk.name_any();
        for orphan in disk.status.iter().flat_map(|status| &status.orphans) {
            let volume = match manifest(orphan, &on, reservations, volumes) {
                Ok(volume) => volume,
                Err(why) => {
                    documents.push(Document::Said(why));
                    continue;
                }
            };
            documents.push(Document::Volume(Box::new(volume)));
            let chain = &orphan.reservations;
            for (i, noted) in chain.iter().enumerate() {
                if reservations.iter().any(|there| there.name_any() == noted.name) {
                    continue;
                }
                // The outermost come first.
                let parent = chain.get(i + 1).map(|parent| parent.name.clone());
                let place = wanted.entry((chain.len() - i, noted.name.as_str()));
                place.or_insert(Wanted { noted, disk: on.clone(), parent, orphans: 0 }).orphans +=
                    orphan.size.bytes_or_zero();
            }
        }
    }
    let first = wanted.into_values().map(|wanted| Document::Reservation(Box::new(wanted.manifest())));
    first.chain(documents).collect()
}

/// The manifests as YAML, to be looked at and applied; what cannot be made is said in a comment.
pub fn text(documents: &[Document]) -> Result<String, serde_yaml::Error> {
    let each = documents.iter().map(|document| match document {
        Document::Reservation(manifest) => Ok(format!("---\n{}\n", serde_yaml::to_string(manifest)?)),
        Document::Volume(manifest) => Ok(format!("---\n{}\n", serde_yaml::to_string(manifest)?)),
        Document::Said(why) => Ok(format!("---\n# {}\n\n", one_line(why))),
    });
    each.collect()
}

/// An administrator applies a node's report of its data: nothing in the report may end the comment. YAML 1.1 knows these line
/// breaks, too.
fn one_line(text: &str) -> String {
    text.replace(|c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}'), " ")
}

impl Wanted<'_> {
    fn manifest(self) -> DiskReservation {
        let spec = DiskReservationSpec {
            role: self.noted.role.clone(),
            size: Size::from_bytes(self.noted.size.bytes_or_zero().max(self.orphans)),
            node_disk: self.parent.is_none().then_some(self.disk),
            parent: self.parent,
            ..Default::default()
        };
        let mut manifest = DiskReservation::new(&self.noted.name, spec);
        manifest.metadata.labels = Some(self.noted.labels.clone()).filter(|labels| !labels.is_empty());
        manifest
    }
}

fn manifest(
    orphan: &Orphan,
    on: &str,
    reservations: &[DiskReservation],
    volumes: &[SharedPersistentVolume],
) -> Result<SharedPersistentVolume, String> {
    let data = format!("data {} on NodeDisk {on}", orphan.uid);
    if let Some(problem) = &orphan.problem {
        return Err(format!("{data} cannot be recovered, and stays: {problem}"));
    }
    let recovers = |v: &&SharedPersistentVolume| v.spec.recover.as_ref().is_some_and(|r| r.uid == orphan.uid);
    if let Some(volume) = volumes.iter().find(recovers) {
        return Err(format!("{data} is being recovered by SharedPersistentVolume {}", volume.name_any()));
    }
    let name = &orphan.name;
    if volumes.iter().any(|volume| volume.name_any() == *name) {
        return Err(format!(
            "{data} was SharedPersistentVolume {name}, a name that another one has now: create one of another name with \
             the spec that status.orphans has"
        ));
    }
    for noted in &orphan.reservations {
        let there = reservations.iter().find(|there| there.name_any() == noted.name);
        if let Some(there) = there.filter(|there| there.spec.role != noted.role) {
            return Err(format!(
                "{data} was in DiskReservation {} of role {}, a name that one of role {} has now: create the volume in \
                 another one on this disk, with the spec that status.orphans has",
                noted.name, noted.role, there.spec.role
            ));
        }
        let now_on = there.and_then(|there| there.status.as_ref()?.node_disk.as_deref());
        if let Some(other) = now_on.filter(|disk| *disk != on) {
            return Err(format!(
                "{data} was in DiskReservation {}, which is on NodeDisk {other} now: create the volume in another one on this \
                 disk, with the spec that status.orphans has",
                noted.name
            ));
        }
    }
    let spec: SharedPersistentVolumeSpec = serde_json::from_value(orphan.spec.clone())
        .map_err(|error| format!("{data} was written down by another version, and stays: {error}"))?;
    let mut volume = SharedPersistentVolume::new(name, spec);
    let mut labels = orphan.labels.clone();
    // It is no PersistentVolumeClaim's any more (P4).
    labels.remove(LABEL_PVC_UID);
    volume.metadata.labels = Some(labels).filter(|labels| !labels.is_empty());
    Ok(volume)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plan::testing::*;

    fn reserved_in(name: &str, role: &str, size: u64) -> Reserved {
        Reserved { name: name.into(), role: role.into(), size: gi(size), ..Default::default() }
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

    fn told(documents: &[Document]) -> Vec<String> {
        let tell = |document: &Document| match document {
            Document::Reservation(r) => {
                let home = r.spec.parent.as_ref().or(r.spec.node_disk.as_ref()).unwrap();
                format!("{} {} {} in {home}", r.name_any(), r.spec.role, r.spec.size)
            }
            Document::Volume(v) => format!("{} of {}", v.name_any(), v.spec.recover.as_ref().unwrap().uid),
            Document::Said(why) => why.clone(),
        };
        documents.iter().map(tell).collect()
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
            told(&documents(std::slice::from_ref(&disk), &[], &[])),
            [
                "eng eng 11Gi in n1.a",
                "ml eng/ml 4Gi in eng",
                "a of uid-of-a",
                "b of uid-of-b",
                "data dark on NodeDisk n1.a cannot be recovered, and stays: it is damaged",
            ]
        );
        // Present objects are left alone.
        let there = [reserved("eng", "eng", 10, &[])];
        let mut taken = volume("a", "eng", 1);
        let again = told(&documents(std::slice::from_ref(&disk), &there, std::slice::from_ref(&taken)));
        assert_eq!(again[0], "ml eng/ml 4Gi in eng");
        assert!(again[1].contains("a name that another one has now"), "{again:?}");
        taken.metadata.name = Some("other".into());
        taken.spec.recover = Some(crate::api::Recover { uid: "uid-of-a".into() });
        let again = told(&documents(std::slice::from_ref(&disk), &there, std::slice::from_ref(&taken)));
        assert!(again[1].ends_with("is being recovered by SharedPersistentVolume other"), "{again:?}");
        let foreign = [reserved("eng", "ops", 10, &[])];
        let again = told(&documents(std::slice::from_ref(&disk), &foreign, &[]));
        assert!(again[0].contains("a name that one of role ops has now"), "{again:?}");
        // Somebody made it anew, and it found room elsewhere.
        let mut elsewhere = reserved("eng", "eng", 10, &[]);
        elsewhere.status.as_mut().unwrap().node_disk = Some("n2.b".into());
        let again = told(&documents(std::slice::from_ref(&disk), &[elsewhere], &[]));
        assert_eq!(
            again.iter().filter(|said| said.contains("which is on NodeDisk n2.b now")).count(),
            2,
            "{again:?}"
        );
    }

    /// X6. Who applies this has rights that no node has.
    #[test]
    fn x6_a4_what_a_node_says_of_its_data_is_never_a_manifest() {
        let mut disk = disk("n1.a", "n1", 100, &[]);
        let manifest = "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: mine}";
        disk.status.as_mut().unwrap().orphans = ["\n", "\r", "\u{85}", "\u{2028}", "\u{2029}"]
            .map(|end| Orphan {
                uid: format!("dark{end}{manifest}"),
                problem: Some(format!("it is damaged{end}{}", manifest.replace('\n', end))),
                ..Default::default()
            })
            .into();
        let text = text(&documents(std::slice::from_ref(&disk), &[], &[])).unwrap();
        assert!(text.contains("it is damaged"));
        let plain = |line: &str| line.is_empty() || line == "---" || line.starts_with("# ");
        let ends = |c: char| matches!(c, '\n' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}');
        assert!(text.split(ends).all(plain), "{text}");
    }
}
