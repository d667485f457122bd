//! Old data under the name of something new, which starts empty: told in an event, never in silence (F5).

use kube::ResourceExt;

use crate::api::{ANNOTATION_RELEASED_FROM, NodeDisk, SharedPersistentVolume};

use super::orphans;

/// The event of a new volume while a disk has data without an object under the same name.
pub fn orphaned(volume: &SharedPersistentVolume, disks: &[&NodeDisk]) -> Option<String> {
    let name = volume.name_any();
    let has =
        |disk: &&&NodeDisk| disk.status.iter().flat_map(orphans::lost).any(|orphan| orphan.name == name);
    let disk = disks.iter().find(has).filter(|_| volume.spec.recover.is_none())?;
    Some(format!(
        "volume {name} starts empty, while NodeDisk {} has data of an earlier volume of this name without an object: to have \
         that data, delete this volume, and apply what `kubectl reservoir recover {name}` prints",
        disk.name_any()
    ))
}

/// The event of a new PersistentVolumeClaim while a volume of an earlier one of the same name is kept, and nobody has it.
pub fn kept(
    namespace: &str,
    name: &str,
    volume: &SharedPersistentVolume,
    volumes: &[&SharedPersistentVolume],
) -> Option<String> {
    let from = format!("{namespace}/{name}");
    let is_it = |old: &&&SharedPersistentVolume| {
        old.annotations().get(ANNOTATION_RELEASED_FROM) == Some(&from)
            && old.metadata.uid != volume.metadata.uid
            && old.metadata.deletion_timestamp.is_none()
            && old.status.as_ref().is_none_or(|status| status.claims.is_empty())
    };
    let old = volumes.iter().find(is_it)?;
    Some(format!(
        "this PersistentVolumeClaim starts empty, while volume {old} has the data of an earlier one of its name: to have that \
         data, delete this one, and run kubectl reservoir claim {name} --namespace {namespace} --role {} --volume {old}",
        old.spec.role,
        old = old.name_any(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Orphan, Recover};
    use crate::plan::testing::*;

    #[test]
    fn f5_old_data_of_the_same_name_is_told() {
        let (mut new, mut on) = (volume("v", "eng", 1), disk("n1.a", "n1", 10, &[]));
        assert_eq!(orphaned(&new, &[&on]), None);
        on.status.get_or_insert_default().orphans =
            vec![Orphan { uid: "u".into(), size: gi(1), name: "v".into(), ..Default::default() }];
        let said = orphaned(&new, &[&on]).unwrap();
        assert!(said.contains("NodeDisk n1.a has data") && said.contains("recover v"), "{said}");
        assert_eq!(orphaned(&volume("w", "eng", 1), &[&on]), None);
        new.spec.recover = Some(Recover { uid: "u".into() });
        assert_eq!(orphaned(&new, &[&on]), None);

        let mut old = ready_volume("pvc-1", "eng", false);
        let new = volume("pvc-2", "eng", 1);
        assert_eq!(kept("ns", "data", &new, &[&old]), None);
        let from = [(ANNOTATION_RELEASED_FROM.to_owned(), "ns/data".to_owned())];
        old.metadata.annotations = Some(from.into());
        let said = kept("ns", "data", &new, &[&old]).unwrap();
        assert!(said.ends_with("claim data --namespace ns --role eng --volume pvc-1"), "{said}");
        assert_eq!(kept("other", "data", &new, &[&old]), None);
        old.status.as_mut().unwrap().claims = vec![bound_by("ns", "c", "u")];
        assert_eq!(kept("ns", "data", &new, &[&old]), None, "somebody has it");
    }
}
