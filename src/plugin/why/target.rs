//! The object that `why` explains.

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt;

use crate::api::LedgerEntry;
use crate::plan::{advice, kept_on_disk};
use crate::plugin::kind::{CLAIM, Kind, POD, PVC, VOLUME, did_you_mean};
use crate::plugin::snapshot::Snapshot;

/// An object by kind and name. The object may not exist.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::plugin) struct Target {
    pub kind: &'static Kind,
    pub namespace: Option<String>,
    pub name: String,
}

impl Target {
    pub fn new(kind: &'static Kind, namespace: Option<String>, name: String) -> Self {
        Self { kind, namespace, name }
    }

    /// Parses `KIND/NAME` or `KIND NAME`. An object of a namespaced kind is in `namespace`.
    pub fn parse(object: &[String], namespace: &str) -> anyhow::Result<Self> {
        if let Some((first, _)) = object.iter().find_map(|word| word.split_once(',')) {
            bail!("{}: write the objects apart, without a comma: {first}", object.join(" "));
        }
        let (kind, name) = match object {
            [both] => both.split_once('/').with_context(|| {
                format!("`{both}`: write KIND/NAME, such as spv/{both}, vclaim/{both} or pod/{both}")
            })?,
            [kind, name] if !kind.contains('/') && !name.contains('/') => (kind.as_str(), name.as_str()),
            [both, ..] if both.contains('/') => bail!("one object at a time: {both}"),
            _ => bail!("write KIND/NAME, such as spv/data or pod/web-0"),
        };
        let kind = Kind::parse(kind).map_err(anyhow::Error::msg)?;
        if name.is_empty() {
            bail!("{}/: write its name, too, such as {}/data", kind.short, kind.short);
        }
        if let Some((within, name)) = name.split_once('/').filter(|_| kind.namespaced) {
            bail!("`{}/{within}/{name}`: write {}/{name} -n {within}", kind.short, kind.short);
        }
        Ok(Self::new(kind, kind.namespaced.then(|| namespace.to_owned()), name.to_owned()))
    }

    /// Parses several objects: `KIND/NAME KIND/NAME` or `KIND NAME NAME`.
    pub fn parse_all(objects: &[String], namespace: &str) -> anyhow::Result<Vec<Self>> {
        match objects {
            [kind, names @ ..] if !kind.contains('/') && !names.is_empty() => {
                names.iter().map(|name| Self::parse(&[kind.clone(), name.clone()], namespace)).collect()
            }
            each => each.iter().map(|both| Self::parse(std::slice::from_ref(both), namespace)).collect(),
        }
    }

    /// `VolumeClaim team/data`: kind and path of the object.
    pub fn title(&self) -> String {
        let namespace = self.namespace.iter().map(|n| format!("{n}/")).collect::<String>();
        format!("{} {namespace}{}", self.kind.name, self.name)
    }

    /// `vclaim/data -n team`: the argument of a command.
    pub fn argument(&self) -> String {
        self.kind.argument(&self.name, self.namespace.as_deref())
    }

    pub fn find_pod<'a>(&self, snapshot: &'a Snapshot) -> Option<&'a Pod> {
        snapshot.pods.iter().find(|p| p.name_any() == self.name && p.namespace() == self.namespace)
    }

    pub fn find_pvc<'a>(&self, snapshot: &'a Snapshot) -> Option<&'a PersistentVolumeClaim> {
        snapshot.pvc(self.namespace.as_deref(), &self.name)
    }

    /// The UID of a pod, a PersistentVolumeClaim or a workload.
    pub fn uid<'a>(&self, snapshot: &'a Snapshot) -> Option<&'a str> {
        let workload = || snapshot.workloads.iter().find(|w| self.kind.workload && w.name_any() == self.name);
        let meta = match self.kind {
            kind if kind == &POD => self.find_pod(snapshot).map(|pod| &pod.metadata),
            kind if kind == &PVC => self.find_pvc(snapshot).map(|pvc| &pvc.metadata),
            _ => workload().map(|workload| &workload.metadata),
        };
        meta?.uid.as_deref()
    }

    /// True for a PersistentVolumeClaim of a StorageClass with its volume.
    pub fn is_made_of_class(&self, snapshot: &Snapshot) -> bool {
        self.kind == &PVC && self.find_pvc(snapshot).is_some_and(|pvc| snapshot.made_for(pvc).is_some())
    }

    /// The message for a missing object, with the most similar name. An object that the caller may not see may exist.
    pub fn not_found(&self, snapshot: &Snapshot) -> String {
        if !snapshot.sees(self.kind) {
            let ask = advice::have_administrator_ask(self.argument());
            return format!("{} may not be seen with your rights: {ask}", self.title());
        }
        let mut ledgers = snapshot.reservations.iter().filter_map(|r| r.status.as_ref());
        let is_kept = |entry: &LedgerEntry| entry.kept.is_some() && entry.name == self.name;
        let Snapshot { disks, reservations, volumes, .. } = snapshot;
        let unlisted = || kept_on_disk::unlisted(disks, reservations, volumes);
        if self.kind == &VOLUME
            && (ledgers.any(|status| status.volumes.iter().any(is_kept))
                || unlisted().iter().any(|data| is_kept(&data.entry)))
        {
            return format!(
                "{} was destroyed, and its data is kept: {}",
                self.title(),
                advice::bring_back(&self.name)
            );
        }
        let mut lost = disks.iter().flat_map(|disk| snapshot.lost(disk));
        if self.kind == &VOLUME && lost.any(|orphan| orphan.name == self.name) {
            return format!(
                "there is no {}, and a disk has its data without it: {}",
                self.title(),
                advice::recover_orphan(&self.name)
            );
        }
        let pods = snapshot.pods.iter().map(|pod| (&POD, pod.namespace(), pod.name_any()));
        let pvcs = snapshot.pvcs.iter().map(|pvc| (&PVC, pvc.namespace(), pvc.name_any()));
        let workloads = snapshot.workloads.iter().map(|w| (self.kind, w.namespace(), w.name_any()));
        let items = snapshot.items().into_iter().map(|item| {
            // A claim's PersistentVolumeClaim has the name of the claim.
            let kind = if self.kind == &PVC && item.kind == &CLAIM { &PVC } else { item.kind };
            (kind, item.namespace, item.name)
        });
        let all: Vec<_> =
            pods.chain(pvcs).chain(workloads).chain(items).filter(|(kind, ..)| *kind == self.kind).collect();
        let here = all
            .iter()
            .filter(|(_, namespace, _)| *namespace == self.namespace)
            .map(|(.., name)| name.as_str());
        let elsewhere =
            all.iter().find(|(.., name)| *name == self.name).and_then(|(_, namespace, _)| namespace.as_ref());
        let nearest = match elsewhere {
            Some(namespace) => format!("; there is one in namespace {namespace}: add -n {namespace}"),
            None => did_you_mean(&self.name, here),
        };
        format!("there is no {}{nearest}", self.title())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// T4, X6: the data of a volume that was destroyed or lost is one command away, whatever command has its name.
    #[test]
    fn t4_x6_a_volume_that_is_not_there_leads_to_its_data() {
        let mut disk = crate::plan::testing::disk("n1.a", "n1", 10, &[]);
        let orphan = crate::api::Orphan { uid: "uid-c".into(), name: "c".into(), ..Default::default() };
        disk.status.as_mut().unwrap().orphans = vec![orphan];
        let reservations = vec![crate::plan::testing::with_kept(&[("a", 0, 60)])];
        let snapshot = Snapshot { disks: vec![disk], reservations, ..Snapshot::default() };
        let said = |name: &str| Target::new(&VOLUME, None, name.to_owned()).not_found(&snapshot);
        assert!(said("a").ends_with("its data is kept: kubectl reservoir undelete a"), "{}", said("a"));
        assert!(said("c").contains("without it: kubectl reservoir recover c"), "{}", said("c"));
        assert_eq!(said("x"), "there is no SharedPersistentVolume x");
        // The volume of the data has another name by now (X9).
        let mut owner = crate::plan::testing::volume("d", "eng", 1);
        owner.metadata.uid = Some("uid-c".into());
        let snapshot = Snapshot { volumes: vec![owner], ..snapshot };
        let told = Target::new(&VOLUME, None, "c".to_owned()).not_found(&snapshot);
        assert!(!told.contains("recover"), "{told}");
    }

    /// T4: as for kubectl, several objects have each its kind, or one kind comes first.
    #[test]
    fn t4_several_objects_are_parsed() {
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let all = |line| Target::parse_all(&words(line), "team").map_err(|error| error.to_string());
        let volume = |name: &str| Target::new(&VOLUME, None, name.to_owned());
        let apart = Err("spv/a,spv/b: write the objects apart, without a comma: spv/a".to_owned());
        assert_eq!(all("spv/a,spv/b"), apart);
        for line in ["spv/a spv/b", "spv a b"] {
            assert_eq!(all(line), Ok(vec![volume("a"), volume("b")]), "{line}");
        }
        assert!(all("a").unwrap_err().contains("write KIND/NAME"));
        let path = Target::parse(&words("pod/web/w3"), "team").unwrap_err().to_string();
        assert_eq!(path, "`pod/web/w3`: write pod/w3 -n web");
        let one = Target::parse(&words("spv/a spv/b"), "team").unwrap_err().to_string();
        assert_eq!(one, "one object at a time: spv/a");
    }
}
