//! The data of destroyed volumes that is kept for an undo: `kept`, `undelete` and `erase` (X8).

use std::borrow::Cow;
use std::collections::BTreeSet;

use jiff::Timestamp;
use kube::{Client, ResourceExt};
use serde::Serialize;
use serde_json::json;

use super::cli::{Erase, Undelete};
use super::kind::{CLAIM, RESERVATION, VOLUME, did_you_mean};
use super::output::{confirm, note};
use super::paint::{human, table};
use super::snapshot::Snapshot;
use super::write;
use crate::api::condition::reason;
use crate::api::{
    DiskReservation, Kept, LedgerEntry, Orphan, RoleSubscription, SharedPersistentVolume, VolumeClaim,
};
use crate::plan::offer::entitled;
use crate::plan::{advice, kept, kept_on_disk, names};

/// Kept data, with its place.
#[derive(Serialize)]
pub(super) struct KeptData<'a> {
    reservation: String,
    disk: String,
    #[serde(flatten)]
    entry: Cow<'a, LedgerEntry>,
    /// True if the reservation does not list the data, since its object was made anew.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    unlisted: bool,
    /// The reservation of the volume that erases the data, or brings it back; or why none can.
    #[serde(skip)]
    of: Result<&'a DiskReservation, String>,
}

impl KeptData<'_> {
    fn kept(&self) -> Option<&Kept> {
        self.entry.kept.as_deref()
    }

    fn since(&self) -> String {
        self.kept().map(|kept| kept.since.0.to_string()).unwrap_or_default()
    }
}

/// All kept data, by reservation and age.
pub(super) fn list(snapshot: &Snapshot) -> Vec<KeptData<'_>> {
    let of = |reservation| -> Vec<KeptData<'_>> {
        let reservation: &DiskReservation = reservation;
        let Some(status) = &reservation.status else { return vec![] };
        let disk = status.node_disk.clone().unwrap_or_default();
        let entries = kept::entries(status).into_iter();
        let data = |(entry, _)| KeptData {
            reservation: reservation.name_any(),
            disk: disk.clone(),
            entry: Cow::Borrowed(entry),
            unlisted: false,
            of: Ok(reservation),
        };
        entries.map(data).collect()
    };
    let mut all: Vec<_> = snapshot.reservations.iter().flat_map(of).collect();
    let Snapshot { disks, reservations, volumes, .. } = snapshot;
    all.extend(kept_on_disk::unlisted(disks, reservations, volumes).into_iter().map(|data| KeptData {
        of: data.reservation(),
        disk: data.disk_name(),
        reservation: data.reservation_name,
        entry: Cow::Owned(data.entry),
        unlisted: true,
    }));
    all.sort_by(|a, b| a.reservation.cmp(&b.reservation));
    all
}

pub(super) fn text(all: &[KeptData]) -> String {
    if all.is_empty() {
        return "no data of destroyed volumes is kept\n".into();
    }
    let heads = ["NAME", "MADE FOR", "SIZE", "ROLE", "RESERVATION", "DISK", "DESTROYED", "KEPT UNTIL", "UID"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    for data in all {
        let KeptData { reservation, disk, entry, .. } = data;
        rows.push(vec![
            entry.name.clone(),
            data.kept().and_then(|kept| kept.made_for.clone()).unwrap_or_else(|| "-".to_owned()),
            human(entry.size.bytes_or_zero()),
            entry.role.clone(),
            reservation.clone(),
            disk.clone(),
            data.since(),
            data.kept().map(|kept| kept.until.0.to_string()).unwrap_or_default(),
            entry.uid.clone(),
        ]);
    }
    let mut text = format!("{}\n", table(&rows));
    if let Some(first) = all.iter().find(|data| data.of.is_ok()) {
        let KeptData { entry, .. } = first;
        text.push_str(&format!(
            "kubectl reservoir undelete {} brings volume {} back; a reservation takes the bytes back earlier if it needs them\n",
            entry.uid, entry.name
        ));
    }
    for KeptData { reservation, entry, of, .. } in all.iter().filter(|data| data.unlisted) {
        text.push_str(&match of {
            Ok(_) => format!(
                "DiskReservation {reservation} does not list {}, which its disk has reported within half a minute; if it stays, nothing \
                 erases it by itself: {}\n",
                entry.name,
                advice::end_unlisted(&entry.uid)
            ),
            Err(why) => format!("{why}\n"),
        });
    }
    text
}

/// The kept data of that name or UID.
fn find<'a>(snapshot: &'a Snapshot, word: &str) -> Result<KeptData<'a>, String> {
    let mut found = list(snapshot);
    let all: Vec<String> = found.iter().map(|data| data.entry.name.clone()).collect();
    let made_for = |data: &KeptData| data.kept().is_some_and(|kept| kept.made_for.as_deref() == Some(word));
    found.retain(|data| data.entry.name == word || data.entry.uid == word || made_for(data));
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => {
            let nearest = did_you_mean(word, all.iter().map(String::as_str));
            let is_it = |orphan: &Orphan| [&orphan.name, &orphan.uid].iter().any(|name| *name == word);
            let next = match snapshot.disks.iter().flat_map(|disk| snapshot.lost(disk)).any(is_it) {
                true => advice::recover_orphan(word),
                false => advice::see_kept(),
            };
            Err(format!("no data of a volume {word} is kept{nearest}: {next}"))
        }
        _ => {
            let each = |data: &KeptData| format!("{} of {}", data.entry.uid, data.since());
            let each: Vec<String> = found.iter().map(each).collect();
            Err(format!("several volumes {word} are kept; give one UID: {}", names(&each, each.len())))
        }
    }
}

async fn read(client: &Client) -> anyhow::Result<Snapshot> {
    let snapshot = Snapshot::read(client, None, "default").await?;
    snapshot.require(&[&RESERVATION, &VOLUME])?;
    Ok(snapshot)
}

/// Makes the volume again, with its data.
pub(super) async fn undelete(client: &Client, args: &Undelete, namespace: &str) -> anyhow::Result<()> {
    let snapshot = read(client).await?;
    let volume = undeleted(&snapshot, args).map_err(anyhow::Error::msg)?;
    let step = match waiting_claims(&snapshot, &volume.name_any()).first() {
        None => claimed_again(&snapshot, &args.volume, &volume, namespace),
        Some(claim) => {
            let (of, name) = (claim.namespace().unwrap_or_default(), claim.name_any());
            let why = advice::ask_why(CLAIM.argument(&name, Some(&of)));
            format!("VolumeClaim {of}/{name} waits for it already: {why}")
        }
    };
    write::create_object(client, &VOLUME, json!(volume), &args.write).await?;
    note(step);
    Ok(())
}

/// The claims without a volume that name this one.
fn waiting_claims<'a>(snapshot: &'a Snapshot, volume: &str) -> Vec<&'a VolumeClaim> {
    let waits = |claim: &&VolumeClaim| {
        claim.spec.volume.as_deref() == Some(volume)
            && claim.metadata.deletion_timestamp.is_none()
            && claim.status.as_ref().is_none_or(|status| status.volume.is_none())
    };
    snapshot.claims.iter().filter(waits).collect()
}

/// The command that claims the volume: for the pods of the PersistentVolumeClaim that it was made for, if there was one; or else in
/// `namespace`, or in another one to which the volume is offered.
fn claimed_again(
    snapshot: &Snapshot,
    word: &str,
    volume: &SharedPersistentVolume,
    namespace: &str,
) -> String {
    let (name, role) = (volume.name_any(), &volume.spec.role);
    let data = find(snapshot, word).ok();
    let made_for = data.and_then(|data| data.kept()?.made_for.clone());
    let mode = if volume.spec.sealed { " --read-only" } else { "" };
    if let Some((namespace, pvc)) = made_for.as_deref().and_then(|made_for| made_for.split_once('/')) {
        return advice::claim_again(pvc, role, &name, mode, namespace);
    }
    // A claim elsewhere would wait.
    let subscribed = snapshot.subscriptions.iter().filter(|s| entitled(volume, &[s]).is_ok());
    let subscribed: BTreeSet<String> = subscribed.filter_map(ResourceExt::namespace).collect();
    match subscribed.get(namespace).or(subscribed.first()) {
        Some(of) => advice::claim_again(&name, role, &name, mode, of),
        None => match incapable(snapshot, volume, namespace) {
            Some((subscription, of)) => advice::share_resources(subscription, of),
            None => advice::claim_again_unsubscribed(&name, role, &name, mode),
        },
    }
}

/// A subscription that lacks the capability for the volume, and its namespace: `namespace`, or another one.
fn incapable(
    snapshot: &Snapshot,
    volume: &SharedPersistentVolume,
    namespace: &str,
) -> Option<(String, String)> {
    let lacks =
        |s: &&RoleSubscription| entitled(volume, &[s]).is_err_and(|why| why.reason == reason::NO_CAPABILITY);
    let lacking = snapshot.subscriptions.iter().filter(lacks);
    let nearest = lacking.min_by_key(|s| s.namespace().as_deref() != Some(namespace))?;
    Some((nearest.name_any(), nearest.namespace().unwrap_or_default()))
}

fn undeleted(snapshot: &Snapshot, args: &Undelete) -> Result<SharedPersistentVolume, String> {
    let data = find(snapshot, &args.volume)?;
    let name = args.name.as_deref().unwrap_or(&data.entry.name);
    if snapshot.volumes.iter().any(|volume| volume.name_any() == name) {
        let undelete = advice::undelete(&data.entry.uid, format!("{name}-undeleted"));
        return Err(format!("another volume is called {name} now: {undelete}"));
    }
    kept::undeleted(name, &data.entry, data.of?)
}

/// Erases kept data now: by a volume that recovers the data and retires, as the controller does in the end.
pub(super) async fn erase(client: &Client, args: &Erase) -> anyhow::Result<()> {
    let snapshot = read(client).await?;
    let data = find(&snapshot, &args.volume).map_err(anyhow::Error::msg)?;
    let of = data.of.clone().map_err(anyhow::Error::msg)?;
    let volume = kept::erasing(&data.entry, of, Timestamp::now()).map_err(anyhow::Error::msg)?;
    if args.dry_run.is_none() {
        let (name, size) = (&data.entry.name, human(data.entry.size.bytes_or_zero()));
        let question = format!(
            "Erase the {size} of volume {name}, destroyed at {}? Nobody can bring it back.",
            data.since()
        );
        confirm(&question, args.yes)?;
    }
    let write = super::cli::Write { dry_run: args.dry_run, ..Default::default() };
    write::create_object(client, &VOLUME, json!(volume), &write).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{KeptOnDisk, Orphan, Reserved};
    use crate::plan::testing::*;

    fn snapshot() -> Snapshot {
        Snapshot {
            reservations: vec![with_kept(&[("a", 0, 60), ("b", 5, 65), ("b", 9, 69)])],
            ..Default::default()
        }
    }

    fn of(snapshot: &Snapshot, volume: &str, name: Option<&str>) -> Result<SharedPersistentVolume, String> {
        let args = Undelete {
            volume: volume.into(),
            name: name.map(str::to_owned),
            write: super::super::cli::Write::default(),
        };
        undeleted(snapshot, &args)
    }

    #[test]
    fn x8_kept_data_is_listed_with_its_end() {
        let snapshot = snapshot();
        let text = text(&list(&snapshot));
        assert!(text.starts_with("NAME"), "{text}");
        let row = "a      -          1Gi    eng    r             n1.a   1970-01-01T00:00:00Z   1970-01-01T00:01:00Z   uid-a-0\n";
        assert!(text.contains(row), "{text}");
        assert!(text.contains("kubectl reservoir undelete uid-a-0 brings volume a back"), "{text}");
    }

    #[test]
    fn x8_kept_data_is_known_by_the_pvc_that_it_was_made_for() {
        let mut snapshot = snapshot();
        let entries = &mut snapshot.reservations[0].status.as_mut().unwrap().volumes;
        entries[0].kept.as_mut().unwrap().made_for = Some("ns/data".into());
        assert!(text(&list(&snapshot)).contains("a      ns/data    1Gi "), "{}", text(&list(&snapshot)));
        let back = of(&snapshot, "ns/data", None).unwrap();
        assert_eq!(
            (back.name_any(), &*back.annotations()["reservoir.dev/made-for"]),
            ("a".into(), "ns/data")
        );
        let claim = claimed_again(&snapshot, "ns/data", &back, "default");
        assert!(claim.starts_with("kubectl reservoir claim data --role eng --volume a -n ns "), "{claim}");
        // Nobody knows the namespaces of another volume's claims: one of a subscription fits.
        let b = of(&snapshot, "uid-b-5", None).unwrap();
        let claim = |snapshot: &Snapshot, namespace| claimed_again(snapshot, "uid-b-5", &b, namespace);
        let none = claim(&snapshot, "default");
        assert!(
            none.starts_with("kubectl reservoir claim b --role eng --volume b   # in the namespace"),
            "{none}"
        );
        // R3, O3: a namespace that is subscribed is not always offered the volume.
        snapshot.subscriptions = vec![subscription("web", &["eng/web"], true)];
        let mut denies = b.clone();
        denies.spec.sub_roles = crate::api::SubRoles::Deny;
        let none = claimed_again(&snapshot, "uid-b-5", &denies, "web");
        assert!(none.contains("-n: the volume is offered to no namespace that you may see"), "{none}");
        snapshot.subscriptions = vec![subscription("team", &["eng"], false)];
        let incapable = claim(&snapshot, "default");
        assert!(incapable.starts_with("kubectl patch rolesubscription "), "{incapable}");
        assert!(incapable.contains(" -n team --type=merge"), "{incapable}");
        snapshot.subscriptions =
            vec![subscription("ops", &["ops"], true), subscription("team", &["eng"], true)];
        for (namespace, end) in [("default", " -n team "), ("team", " -n team "), ("ops", " -n team ")] {
            assert!(claim(&snapshot, namespace).contains(end), "{}", claim(&snapshot, namespace));
        }
        snapshot.subscriptions.push(subscription("web", &["eng/web"], true));
        assert!(claim(&snapshot, "web").contains(" -n web "), "R3: its own, by a sub-role");
        assert!(waiting_claims(&snapshot, "a").is_empty());
        let named = |name, volume| crate::plan::testing::claim("ns", name, volume);
        snapshot.claims = vec![named("b", "b"), named("early", "a")];
        let waiting = waiting_claims(&snapshot, "a");
        assert_eq!(waiting.len(), 1, "one that waits needs no other");
        assert_eq!(waiting[0].name_any(), "early");
        let mut sealed = back;
        sealed.spec.sealed = true;
        let claim = claimed_again(&snapshot, "ns/data", &sealed, "default");
        assert!(claim.contains(" --volume a --read-only -n ns "), "{claim}");
    }

    /// X6: data that no object has is not kept, and one command away.
    #[test]
    fn x8_undelete_of_lost_data_leads_to_recover() {
        let mut snapshot = snapshot();
        let none = of(&snapshot, "c", None).unwrap_err();
        assert!(none.ends_with(&advice::see_kept()), "{none}");
        let mut disk = disk("n1.a", "n1", 10, &[]);
        disk.status.as_mut().unwrap().orphans =
            vec![Orphan { uid: "uid-c".into(), name: "c".into(), size: gi(2), ..Default::default() }];
        snapshot.disks = vec![disk];
        for word in ["c", "uid-c"] {
            let told = of(&snapshot, word, None).unwrap_err();
            assert!(told.ends_with(&advice::recover_orphan(word)), "{told}");
        }
        // A restored etcd has its volume from before the placement (X9).
        snapshot.volumes = vec![volume("c", "eng", 2)];
        let none = of(&snapshot, "c", None).unwrap_err();
        assert!(none.ends_with(&advice::see_kept()), "{none}");
    }

    /// X8: the objects of the reservation were lost and recovered, and its list has the kept data no more.
    #[test]
    fn x8_kept_data_that_no_reservation_lists_is_shown_and_comes_back() {
        let mut snapshot = snapshot();
        let mut disk = disk("n1.a", "n1", 10, &[("r", 10)]);
        disk.status.as_mut().unwrap().orphans = vec![Orphan {
            uid: "uid-c-1".into(),
            name: "c".into(),
            size: gi(2),
            reservations: vec![Reserved { name: "r".into(), role: "eng".into(), ..Default::default() }],
            spec: json!({"role": "eng", "size": "2Gi", "reservation": "r", "shared": {}}),
            kept: Some(KeptOnDisk { since: some_time().unwrap(), until: later().unwrap(), over: false }),
            ..Default::default()
        }];
        snapshot.disks = vec![disk];
        let shown = text(&list(&snapshot));
        let row = "c      -          2Gi    eng    r             n1.a   1970-01-01T00:00:00Z   1970-01-01T00:01:00Z   uid-c-1\n";
        assert!(
            shown.contains(row)
                && shown.ends_with(
                    "if it stays, nothing erases it by itself: kubectl reservoir erase uid-c-1   # ends it; or has it \
                     back: kubectl reservoir undelete uid-c-1\n"
                ),
            "{shown}"
        );
        let back = of(&snapshot, "c", None).unwrap();
        assert_eq!(
            (back.spec.recover.unwrap().uid, back.spec.reservation),
            ("uid-c-1".into(), Some("r".into()))
        );
        snapshot.reservations.clear();
        let lost = of(&snapshot, "c", None).unwrap_err();
        assert!(
            lost.contains("DiskReservation r, which is lost: apply what kubectl reservoir recover uid-c-1"),
            "{lost}"
        );
    }

    #[test]
    fn x8_undelete_finds_one_volume_and_no_taken_name() {
        let mut snapshot = snapshot();
        assert_eq!(of(&snapshot, "a", None).unwrap().name_any(), "a");
        let several = of(&snapshot, "b", None).unwrap_err();
        assert!(several.contains("give one UID: uid-b-5 of 1970-01-01T00:00:05Z and uid-b-9"), "{several}");
        assert_eq!(of(&snapshot, "uid-b-9", None).unwrap().spec.recover.unwrap().uid, "uid-b-9");
        assert!(of(&snapshot, "c", None).unwrap_err().contains("no data of a volume c is kept"));
        snapshot.volumes.push(ready_volume("a", "eng", true));
        assert!(of(&snapshot, "a", None).unwrap_err().contains("undelete uid-a-0 --name a-undeleted"));
        assert_eq!(of(&snapshot, "a", Some("a2")).unwrap().name_any(), "a2");
    }
}
