//! Why something waits or cannot go: the root first, then what follows from it, who holds it, and what to do.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use serde::Serialize;

use super::advice;
use super::item::{CLAIM, DISK, Item, Kind, POD, PVC, RESERVATION, ROLE, VOLUME, did_you_mean};
use super::paint::Paint;
use super::world::World;
use crate::api::condition::{RESIZED, RETIRING};
use crate::api::{LedgerEntry, Role};
use crate::cluster;
use crate::plan;
use crate::plan::{candidate::Candidate, share};

/// What is asked about.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Target {
    pub kind: &'static Kind,
    pub namespace: Option<String>,
    pub name: String,
}

/// The answer.
#[derive(Debug, Serialize)]
pub(super) struct Why {
    pub object: String,
    /// In one line, how it stands.
    pub stands: String,
    pub ready: bool,
    /// What it waits for, what that waits for and so on, the root first; its own word comes last.
    pub because: Vec<Said>,
    /// Who holds it, what it holds, who is before it in line.
    pub held: Vec<String>,
    /// What to do.
    pub next: Vec<String>,
}

/// What an object says of itself.
#[derive(Debug, Serialize)]
pub(super) struct Said {
    pub object: String,
    pub reason: String,
    pub message: String,
}

/// The answer, or that there is no such object, with the nearest one that there is.
pub(super) fn why(world: &World, target: &Target) -> Result<Why, String> {
    if target.kind == &PVC {
        // It is its claim's, and has its name.
        let claim = Target { kind: &CLAIM, ..target.clone() };
        let mut answer = why(world, &claim).map_err(|_| missing(world, target))?;
        answer.held.insert(0, format!("it is that of {}", title(&claim)));
        return Ok(Why { object: title(target), ..answer });
    }
    let mut chain = vec![target.clone()];
    while let Some(next) = upstream(world, &chain[chain.len() - 1]).into_iter().find(|t| !chain.contains(t)) {
        chain.push(next);
    }
    let mut because = Vec::new();
    let mut next = Vec::new();
    for (i, link) in chain.iter().enumerate().rev() {
        let said = said(world, link);
        if i == 0 && said.is_none() {
            return Err(missing(world, target));
        }
        for (trouble, told) in said.unwrap_or_default() {
            // What to do about the root is what helps; what follows from it goes by itself.
            if i + 1 == chain.len() || next.is_empty() {
                let step = filled(step(link, &told.reason), world, link);
                next.extend(Some(step).filter(|step| trouble && !next.contains(step)));
            }
            because.push(told);
        }
    }
    let own = because.last().map(|told| (told.reason.clone(), told.message.clone()));
    let ready = next.is_empty();
    let held = held(world, target);
    if ready && !held.is_empty() {
        next.extend(to_go(target).map(str::to_owned).map(|step| filled(&step, world, target)));
    }
    let stands = match own {
        Some((reason, _)) if because.len() > 1 => format!("{reason}, for the reasons below"),
        Some((reason, message)) if message.is_empty() => reason,
        Some((reason, message)) => format!("{reason}: {message}"),
        None => "nothing is said of it".into(),
    };
    Ok(Why {
        object: title(target),
        stands,
        ready,
        because: if ready { vec![] } else { because },
        held,
        next,
    })
}

/// The next step about an object that says that reason.
fn step(target: &Target, reason: &str) -> &'static str {
    match advice::next(reason) {
        _ if target.kind == &POD => {
            "kubectl describe pod {name} -n {namespace}   # its claims are bound: what it waits for is not Reservoir's"
        }
        Some(step) => step,
        None => "kubectl reservoir doctor   # whether the controller is there, and as new as this plug-in",
    }
}

fn title(target: &Target) -> String {
    let namespace = target.namespace.iter().map(|n| format!("{n}/")).collect::<String>();
    format!("{} {namespace}{}", target.kind.name, target.name)
}

/// What an object says that is worth telling, each with whether it is a trouble; `None`: there is no such object.
fn said(world: &World, target: &Target) -> Option<Vec<(bool, Said)>> {
    let object = title(target);
    let told = |trouble, reason: &str, message: &str| {
        (trouble, Said { object: object.clone(), reason: reason.to_owned(), message: message.to_owned() })
    };
    if target.kind == &POD {
        let pod = find_pod(world, target)?;
        let (phase, message) = pod_says(pod);
        return Some(vec![told(!["Running", "Succeeded"].contains(&phase.as_str()), &phase, &message)]);
    }
    let item = world.find(target.kind, target.namespace.as_deref(), &target.name)?;
    let trouble = |c: &&Condition| match c.type_.as_str() {
        RESIZED => c.status != "True",
        RETIRING => c.status == "True",
        _ => false,
    };
    let mut all: Vec<(bool, Said)> =
        item.conditions.iter().filter(trouble).map(|c| told(true, &c.reason, &c.message)).collect();
    // That it is ready besides is not why it waits.
    match item.ready() {
        Some(ready) if ready.status == "True" && !all.is_empty() => {}
        Some(ready) => all.push(told(ready.status != "True", &ready.reason, &ready.message)),
        None => all.push(told(
            true,
            "NotLookedAt",
            "the controller has said nothing about it: is it running? `kubectl reservoir doctor` looks",
        )),
    }
    Some(all)
}

/// What the object may wait for, nearest first: those of them that are not as they should be.
fn upstream(world: &World, target: &Target) -> Vec<Target> {
    let namespace = target.namespace.as_deref();
    let own = said(world, target).is_some_and(|said| said.iter().any(|(trouble, _)| *trouble));
    if !own && [&VOLUME, &RESERVATION].contains(&target.kind) {
        return vec![];
    }
    let there = |kind: &'static Kind, namespace: Option<&str>, name: &str| {
        let item = world.find(kind, namespace, name)?;
        Some(Target { kind, namespace: item.namespace, name: item.name })
    };
    let named = |kind: &'static Kind, name: Option<&str>| name.and_then(|name| there(kind, None, name));
    let found: Vec<Option<Target>> = if target.kind == &POD {
        let claims = find_pod(world, target).map(cluster::claims_of).unwrap_or_default();
        claims.iter().map(|(namespace, name)| there(&CLAIM, Some(namespace), name)).collect()
    } else if target.kind == &CLAIM {
        let claim = world
            .claims
            .iter()
            .find(|c| c.name_any() == target.name && c.namespace().as_deref() == namespace);
        let bound = claim.and_then(|c| c.status.as_ref()?.volume.as_ref()).map(|v| v.name.as_str());
        vec![named(&VOLUME, bound.or(claim.and_then(|c| c.spec.volume.as_deref())))]
    } else if target.kind == &VOLUME {
        let Some(volume) = world.volumes.iter().find(|v| v.name_any() == target.name) else { return vec![] };
        let status = volume.status.as_ref();
        let home = status.and_then(|s| s.reservation.as_ref()).map(|r| r.name.as_str());
        let may = |role: &str| Role::name_covers(role, &volume.spec.role);
        let waits = world.reservations.iter().find(|r| may(&r.spec.role)).map(ResourceExt::name_any);
        let waits = waits.filter(|_| status.is_none_or(|s| s.node_disk.is_none()));
        let home = home.or(volume.spec.reservation.as_deref()).map(str::to_owned).or(waits);
        vec![named(&RESERVATION, home.as_deref()), named(&DISK, status.and_then(|s| s.node_disk.as_deref()))]
    } else if target.kind == &RESERVATION {
        let Some(r) = world.reservations.iter().find(|r| r.name_any() == target.name) else { return vec![] };
        let disk = r.status.as_ref().and_then(|s| s.node_disk.as_deref()).or(r.spec.node_disk.as_deref());
        vec![named(&RESERVATION, r.spec.parent.as_deref()), named(&DISK, disk)]
    } else {
        vec![]
    };
    let troubled = |t: &Target| {
        let not_ready =
            world.find(t.kind, t.namespace.as_deref(), &t.name).is_some_and(|item| !item.is_ready());
        not_ready
            || own && said(world, t).is_some_and(|said| said.iter().any(|(trouble, _)| *trouble))
            || t.kind == &CLAIM && !upstream(world, t).is_empty()
    };
    found.into_iter().flatten().filter(troubled).collect()
}

fn find_pod<'a>(world: &'a World, target: &Target) -> Option<&'a Pod> {
    world.pods.iter().find(|p| p.name_any() == target.name && p.namespace() == target.namespace)
}

/// The pod's phase, and why it does not run.
fn pod_says(pod: &Pod) -> (String, String) {
    let status = pod.status.clone().unwrap_or_default();
    let scheduled =
        status.conditions.iter().flatten().find(|c| c.type_ == "PodScheduled" && c.status == "False");
    let containers = status.container_statuses.iter().flatten();
    let waiting = containers.filter_map(|c| c.state.as_ref()?.waiting.as_ref()).next();
    let message = scheduled.and_then(|c| c.message.clone());
    let message = message.or(waiting.and_then(|w| w.message.clone().or(w.reason.clone())));
    (status.phase.unwrap_or_else(|| "Pending".into()), message.unwrap_or_default())
}

fn lines(entries: &[LedgerEntry]) -> String {
    entries.iter().map(|e| format!("{} ({})", e.name, e.size)).collect::<Vec<_>>().join(", ")
}

/// Who holds it, what it holds, and who is before it in line.
fn held(world: &World, target: &Target) -> Vec<String> {
    let mut held = Vec::new();
    let mut say = |what: &str, who: String| {
        if !who.is_empty() {
            held.push(format!("{what} {who}"));
        }
    };
    if target.kind == &CLAIM {
        let claim =
            world.claims.iter().find(|c| c.name_any() == target.name && c.namespace() == target.namespace);
        let named = (target.namespace.clone().unwrap_or_default(), target.name.clone());
        let users =
            world.pods.iter().filter(|p| !cluster::is_terminal(p) && cluster::claims_of(p).contains(&named));
        let users: Vec<String> = users.map(|p| cluster::pod_ref(p).to_string()).collect();
        say("used by pod", plan_names(&users));
        let volume = claim.and_then(|c| c.spec.volume.as_ref());
        let volume = world.volumes.iter().find(|v| Some(&v.name_any()) == volume && v.spec.shared.is_none());
        let uid = claim.and_then(|c| c.metadata.uid.as_deref());
        if let Some(status) = volume.and_then(|v| v.status.as_ref()) {
            let others: Vec<String> = status
                .claims
                .iter()
                .filter(|b| Some(b.uid.as_str()) != uid)
                .map(ToString::to_string)
                .collect();
            say("its volume is held by claim", plan_names(&others));
            let users: Vec<String> = status.users.iter().map(ToString::to_string).collect();
            if !others.is_empty() && !users.is_empty() {
                say("and used by pod", plan::names(&users, status.user_count as usize));
            }
        }
    } else if target.kind == &VOLUME {
        let status =
            world.volumes.iter().find(|v| v.name_any() == target.name).and_then(|v| v.status.as_ref());
        if let Some(status) = status {
            let claims: Vec<String> = status.claims.iter().map(|c| format!("{c} ({:?})", c.mode)).collect();
            say("claimed by", plan_names(&claims));
            let users: Vec<String> = status.users.iter().map(ToString::to_string).collect();
            if !users.is_empty() {
                say("used by pod", plan::names(&users, status.user_count as usize));
            }
        }
    } else if target.kind == &RESERVATION {
        let reservation = world.reservations.iter().find(|r| r.name_any() == target.name);
        let status = reservation.and_then(|r| r.status.clone()).unwrap_or_default();
        say("holds volume", lines(&status.volumes));
        say("was carved for", lines(&status.refinements));
        let all: Vec<_> = world.reservations.iter().collect();
        let candidates: Vec<_> =
            world.disks.iter().map(|disk| Candidate { disk, node_labels: None }).collect();
        let line: Vec<String> = share::in_order(&all, &candidates, &world.roles.iter().collect::<Vec<_>>())
            .into_iter()
            .map(|r| format!("{} ({}, {})", r.name_any(), r.spec.role, r.spec.size))
            .collect();
        let place = line.iter().position(|said| said.starts_with(&format!("{} (", target.name)));
        match place {
            Some(0) => say("it is first in line for room", "by the shares of the roles".into()),
            Some(place) => say("before it in line, by the shares of the roles:", plan_names(&line[..place])),
            None => {}
        }
    } else if target.kind == &DISK {
        let disk = world.disks.iter().find(|d| d.name_any() == target.name).and_then(|d| d.status.as_ref());
        say("holds reservation", disk.map(|s| lines(&s.reservations)).unwrap_or_default());
        let orphans: Vec<String> =
            disk.iter().flat_map(|s| &s.orphans).map(|o| format!("{} ({})", o.uid, o.name)).collect();
        say("has data without an object:", plan_names(&orphans));
    } else if target.kind == &ROLE {
        let role = world.roles.iter().find(|r| r.name_any() == target.name).and_then(|r| r.status.as_ref());
        say("has reserved", role.map(|s| lines(&s.reservations)).unwrap_or_default());
    }
    held
}

fn plan_names(items: &[String]) -> String {
    if items.is_empty() { String::new() } else { plan::names(items, items.len()) }
}

/// What lets it go that is held.
fn to_go(target: &Target) -> Option<&'static str> {
    Some(match target.kind.short {
        "spv" => {
            "it cannot be deleted while it is used; to have it go when nobody uses it any more: kubectl reservoir retire {name}"
        }
        "dr" => "it cannot be deleted while it holds something: kubectl reservoir tree --role {role}",
        "nd" => "it cannot be deleted while something is reserved on it: kubectl reservoir tree",
        "vclaim" => "it goes when the pods that use it have ended: kubectl delete {ref}",
        _ => return None,
    })
}

/// A step with the names of this object in it; what is not known is left for people to fill in.
fn filled(step: &str, world: &World, target: &Target) -> String {
    let item: Option<Item> = world.find(target.kind, target.namespace.as_deref(), &target.name);
    let mut facts: BTreeMap<&str, String> = BTreeMap::new();
    facts.insert("name", target.name.clone());
    if let Some(item) = &item {
        facts.insert("ref", item.asked());
        facts.extend(item.role.map(|role| ("role", role.to_owned())));
    }
    facts.extend(target.namespace.clone().map(|namespace| ("namespace", namespace)));
    let named = |name: Option<String>| name == Some(target.name.clone());
    match target.kind.short {
        "nd" => {
            facts.insert("disk", target.name.clone());
            let disk = world.disks.iter().find(|d| named(d.metadata.name.clone()));
            facts.extend(disk.map(|d| ("node", d.spec.node_name.clone())));
        }
        "dr" => {
            facts.insert("reservation", target.name.clone());
            let r = world.reservations.iter().find(|r| named(r.metadata.name.clone()));
            let status = r.and_then(|r| r.status.clone()).unwrap_or_default();
            facts.extend(status.node_disk.map(|disk| ("disk", disk)));
            facts.extend(status.node_name.map(|node| ("node", node)));
        }
        "spv" => {
            facts.insert("volume", target.name.clone());
            let v = world.volumes.iter().find(|v| named(v.metadata.name.clone()));
            let status = v.and_then(|v| v.status.clone()).unwrap_or_default();
            facts.extend(status.node_disk.map(|disk| ("disk", disk)));
            facts.extend(status.node_name.map(|node| ("node", node)));
            let home = status.reservation.map(|r| r.name).or(v.and_then(|v| v.spec.reservation.clone()));
            facts.extend(home.map(|home| ("reservation", home)));
        }
        "vclaim" => {
            let c = world
                .claims
                .iter()
                .find(|c| named(c.metadata.name.clone()) && c.namespace() == target.namespace);
            facts.extend(c.and_then(|c| c.spec.volume.clone()).map(|volume| ("volume", volume)));
        }
        _ => {}
    }
    let mut text = step.to_owned();
    for key in ["name", "ref", "role", "namespace", "node", "disk", "volume", "reservation"] {
        let value = facts.get(key).cloned().unwrap_or_else(|| key.to_uppercase());
        text = text.replace(&format!("{{{key}}}"), &value);
    }
    text
}

/// That there is no such object, with the nearest name.
fn missing(world: &World, target: &Target) -> String {
    let pods: Vec<String> =
        world.pods.iter().filter(|p| p.namespace() == target.namespace).map(|p| p.name_any()).collect();
    let items = world.items();
    let same = items.iter().filter(|i| i.kind == if target.kind == &PVC { &CLAIM } else { target.kind });
    let here: Vec<&str> = match target.kind == &POD {
        true => pods.iter().map(String::as_str).collect(),
        false => same.filter(|i| i.namespace == target.namespace).map(|i| i.name.as_str()).collect(),
    };
    let elsewhere = items.iter().find(|i| i.kind == target.kind && i.name == target.name);
    let nearest = match elsewhere.and_then(|i| i.namespace.as_ref()) {
        Some(namespace) => format!("; there is one in namespace {namespace}: add -n {namespace}"),
        None => did_you_mean(&target.name, here.iter().copied()),
    };
    if target.kind == &PVC && nearest.is_empty() {
        let namespace = target.namespace.as_deref().unwrap_or("default");
        return format!(
            "no volume of Reservoir's was made for {} yet; its events say why: kubectl describe pvc {} -n {namespace}",
            title(target),
            target.name
        );
    }
    format!("there is no {}{nearest}", title(target))
}

/// The answer as text.
pub(super) fn text(why: &Why, paint: Paint) -> String {
    let stands = if why.ready { paint.good(&why.stands) } else { paint.warn(&why.stands) };
    let mut text = format!("{}: {stands}\n", paint.bold(&why.object));
    // One link is what the first line says.
    for (i, said) in why.because.iter().enumerate().filter(|_| why.because.len() > 1) {
        let so = if i == 0 { "because" } else { "so" };
        let message = if said.message.is_empty() { String::new() } else { format!(": {}", said.message) };
        text.push_str(&format!("  {so} {} is {}{message}\n", said.object, paint.bold(&said.reason)));
    }
    for line in &why.held {
        text.push_str(&format!("  {line}\n"));
    }
    for line in &why.next {
        text.push_str(&format!("{} {line}\n", paint.bold("next:")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::condition::{READY, Verdict, reason, set};
    use crate::plan::testing::*;

    fn says(conditions: &mut Vec<Condition>, reason: &'static str, message: &str) {
        set(conditions, READY, Verdict::no(reason, message), None, jiff::Timestamp::UNIX_EPOCH);
    }

    fn ask(
        world: &World,
        kind: &'static Kind,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<String, String> {
        let target = Target { kind, namespace: namespace.map(str::to_owned), name: name.into() };
        why(world, &target).map(|why| text(&why, Paint::plain()))
    }

    fn pod_of(claim: &str, phase: &str) -> Pod {
        serde_json::from_value(serde_json::json!({"metadata": {"namespace": "team", "name": "web"},
            "spec": {"containers": [], "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]},
            "status": {"phase": phase}}))
        .unwrap()
    }

    /// A pod whose claim's volume is on a node that is gone.
    fn unreachable() -> World {
        let mut disk = disk("n1.a", "n1", 10, &[("eng", 4)]);
        says(&mut disk.status.as_mut().unwrap().conditions, reason::NODE_UNREACHABLE, "node n1 is not Ready");
        let mut volume = ready_volume("data", "eng", true);
        let status = volume.status.as_mut().unwrap();
        says(&mut status.conditions, reason::NODE_UNREACHABLE, "NodeDisk n1.a is not ready");
        let mut waits = claim("team", "data", "data");
        says(
            &mut waits.status.get_or_insert_default().conditions,
            reason::VOLUME_NOT_READY,
            "volume data is not ready",
        );
        let pods = vec![pod_of("data", "Pending")];
        World { disks: vec![disk], volumes: vec![volume], claims: vec![waits], pods, ..World::default() }
    }

    #[test]
    fn t4_the_root_comes_first_and_then_what_follows_from_it() {
        assert_eq!(
            ask(&unreachable(), &POD, Some("team"), "web").unwrap(),
            "Pod team/web: Pending, for the reasons below\n  \
             because NodeDisk n1.a is NodeUnreachable: node n1 is not Ready\n  \
             so SharedPersistentVolume data is NodeUnreachable: NodeDisk n1.a is not ready\n  \
             so VolumeClaim team/data is VolumeNotReady: volume data is not ready\n  \
             so Pod team/web is Pending\n\
             next: kubectl describe node n1   # bring it back; if it never comes back: kubectl patch nodedisk n1.a \
             --type=merge -p '{\"spec\":{\"gone\":true}}'\n"
        );
        let pvc = ask(&unreachable(), &PVC, Some("team"), "data").unwrap();
        assert!(
            pvc.contains("because NodeDisk n1.a") && pvc.contains("it is that of VolumeClaim team/data"),
            "{pvc}"
        );
        // A plain one that waits for its first pod, or is refused (P1, P6).
        assert_eq!(
            ask(&World::default(), &PVC, Some("team"), "data-db-0").unwrap_err(),
            "no volume of Reservoir's was made for PersistentVolumeClaim team/data-db-0 yet; its events say why: \
             kubectl describe pvc data-db-0 -n team"
        );
        let fine = World { pods: vec![pod_of("none", "Pending")], ..World::default() };
        assert!(
            ask(&fine, &POD, Some("team"), "web").unwrap().contains("next: kubectl describe pod web -n team")
        );
    }

    /// T4: for every reason, of an object of every kind: what it says itself is told, and a whole next step, unless
    /// nothing is wrong.
    #[test]
    fn t4_why_tells_of_every_reason_what_the_object_says_and_the_next_step() {
        for said in advice::reasons() {
            let mut world = World {
                disks: vec![disk("n1.a", "n1", 10, &[])],
                roles: vec![volume_role("x", "eng")],
                reservations: vec![reservation("x", "ops", 1)],
                volumes: vec![volume("x", "eng", 1)],
                claims: vec![claim("team", "x", "gone")],
                ..World::default()
            };
            says(&mut world.disks[0].status.as_mut().unwrap().conditions, said, "its own word");
            says(&mut world.roles[0].status.get_or_insert_default().conditions, said, "its own word");
            says(&mut world.reservations[0].status.get_or_insert_default().conditions, said, "its own word");
            says(&mut world.volumes[0].status.get_or_insert_default().conditions, said, "its own word");
            says(&mut world.claims[0].status.get_or_insert_default().conditions, said, "its own word");
            for (kind, namespace, name) in [
                (&DISK, None, "n1.a"),
                (&ROLE, None, "x"),
                (&RESERVATION, None, "x"),
                (&VOLUME, None, "x"),
                (&CLAIM, Some("team"), "x"),
            ] {
                let told = ask(&world, kind, namespace, name).unwrap();
                assert!(
                    told.starts_with(&format!("{} ", kind.name))
                        && told.contains(&format!("{name}: {said}: its own word")),
                    "{told}"
                );
                assert!(told.contains("\nnext: "), "{said}: {told}");
                assert!(!told.contains("{name}") && !told.contains("{ref}"), "{said}: {told}");
            }
        }
    }

    #[test]
    fn t4_who_holds_it_and_who_is_before_it_in_line() {
        let mut held = ready_volume("v", "eng", false);
        let status = held.status.as_mut().unwrap();
        status.claims = vec![bound_by("other", "holder", "u0")];
        (status.users, status.user_count) = (vec![pod("other", "p")], 1);
        let mut waits = claim("team", "c", "v");
        says(&mut waits.status.get_or_insert_default().conditions, reason::VOLUME_HELD, "it is held");
        let mut last = reservation("last", "eng", 99);
        last.metadata.creation_timestamp = later();
        says(&mut last.status.get_or_insert_default().conditions, reason::NOT_ENOUGH_ROOM, "too little");
        let world = World {
            disks: vec![disk("n1.a", "n1", 10, &[])],
            volumes: vec![held],
            claims: vec![waits],
            reservations: vec![last, reservation("first", "eng", 50)],
            ..World::default()
        };
        let told = ask(&world, &CLAIM, Some("team"), "c").unwrap();
        assert!(told.contains("held by claim other/holder\n  and used by pod other/p\n"), "{told}");
        let told = ask(&world, &VOLUME, None, "v").unwrap();
        assert!(
            told.contains("claimed by other/holder (ReadWrite)")
                && told.contains("kubectl reservoir retire v"),
            "{told}"
        );
        let told = ask(&world, &RESERVATION, None, "last").unwrap();
        assert!(told.contains("before it in line, by the shares of the roles: first (eng, 50Gi)"), "{told}");
    }

    #[test]
    fn t4_a_wrong_name_is_told_the_nearest_one() {
        let world = unreachable();
        let wrong = |kind, namespace, name| ask(&world, kind, namespace, name).unwrap_err();
        assert_eq!(wrong(&VOLUME, None, "dta"), "there is no SharedPersistentVolume dta; did you mean data?");
        assert_eq!(
            wrong(&CLAIM, Some("other"), "data"),
            "there is no VolumeClaim other/data; there is one in namespace team: add -n team"
        );
        assert_eq!(wrong(&DISK, None, "xyz"), "there is no NodeDisk xyz");
    }
}
