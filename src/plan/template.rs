//! Templates of reservations: a reservation on the disk of each node of a selector, as one object (R7).
//!
//! Each reservation is an object like any other: its quota, its place in the queue and its ledger are decided as ever. A
//! template only makes it, resizes it, and ends it once it is empty. So no decision of a template can cost data, and a stale
//! cache makes or ends an empty reservation at most.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashSet};

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;

use crate::api::condition::{self, READY, Verdict, reason};
use crate::api::{
    DiskReservation, DiskReservationSpec, DiskReservationStatus, NodeDisk, ReservationTemplate, Size,
    TemplateRef, TemplateStatus, VolumeRole, stable_hash,
};

use super::disk_identity::is_placeholder;
use super::holder::used;
use super::{kept, labels_of, labels_there, names, quota, undivided};

/// Labels of the Nodes by name. A name without labels here has no Node.
pub type NodeLabels<'a> = BTreeMap<&'a str, &'a BTreeMap<String, String>>;

/// The labels of the Nodes.
pub fn labels<'a, N: Borrow<Node> + 'a>(nodes: impl IntoIterator<Item = &'a N>) -> NodeLabels<'a> {
    let nodes = nodes.into_iter().map(Borrow::borrow);
    nodes.filter_map(|node| Some((node.metadata.name.as_deref()?, node.labels()))).collect()
}

/// The next step for a reservation that was made from a template.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// Delete the reservation, which is empty.
    Delete,
    /// Write this size into the spec.
    Resize(Size),
    /// The template asks for nothing.
    Rest,
}

/// True if the template has, or is to have, a reservation on the disk. A disk without a Node has none yet and keeps the one
/// that it has (D4).
fn selects(template: &ReservationTemplate, disk: &NodeDisk, nodes: &NodeLabels) -> Option<bool> {
    if disk.spec.gone
        || is_placeholder(disk)
        || disk.metadata.deletion_timestamp.is_some()
        || disk.spec.disk_name != template.disk_name
    {
        return Some(false);
    }
    let labels = nodes.get(disk.spec.node_name.as_str())?;
    Some(template.node_selector.as_ref().is_none_or(|wanted| super::selects(wanted, labels)))
}

/// The reservations that the templates of a role lack.
pub fn missing(
    role: &VolumeRole,
    all: &[&VolumeRole],
    disks: &[&NodeDisk],
    nodes: &NodeLabels,
    reservations: &[&DiskReservation],
) -> Vec<DiskReservation> {
    let counts = quota::counting(all).get(role.spec.role.as_str()).is_some_and(|it| it.uid() == role.uid());
    let templates = role.spec.reservation_templates.iter().filter(|_| counts);
    let names: HashSet<&str> = reservations.iter().filter_map(|r| r.metadata.name.as_deref()).collect();
    let wanted = templates.flat_map(|template| {
        let on = disks.iter().filter(|disk| selects(template, disk, nodes) == Some(true));
        on.map(move |disk| made_of(role, template, disk))
    });
    wanted.filter(|wanted| !names.contains(wanted.name_any().as_str())).collect()
}

fn made_of(role: &VolumeRole, template: &ReservationTemplate, disk: &NodeDisk) -> DiskReservation {
    let spec = DiskReservationSpec {
        role: role.spec.role.clone(),
        size: template.size.clone(),
        node_disk: Some(disk.name_any()),
        template: Some(TemplateRef { volume_role: role.name_any(), name: template.name.clone() }),
        ..Default::default()
    };
    DiskReservation::new(&name(&role.name_any(), &template.name, &disk.name_any()), spec)
}

/// The name of a template's reservation on a disk. A hash stands for the end of a name that would be too long.
fn name(role: &str, template: &str, disk: &str) -> String {
    const LONGEST: usize = 253;
    let name = format!("{role}.{template}.{disk}");
    if name.len() <= LONGEST {
        return name;
    }
    let hash = format!("x{:016x}", stable_hash(&name));
    let kept: String = name.chars().take(LONGEST - hash.len() - 1).collect();
    format!("{}.{hash}", kept.trim_end_matches(['.', '-']))
}

/// The next step for a reservation that was made from a template. `disk` is the disk that it names, if there is one.
pub fn next(
    reservation: &DiskReservation,
    roles: &[&VolumeRole],
    disk: Option<&NodeDisk>,
    nodes: &NodeLabels,
) -> Step {
    let (Some(of), None) = (&reservation.spec.template, &reservation.metadata.deletion_timestamp) else {
        return Step::Rest;
    };
    let counting = quota::counting(roles);
    let role = counting.get(reservation.spec.role.as_str()).filter(|role| role.name_any() == of.volume_role);
    let templates = role.map_or(&[][..], |role| &role.spec.reservation_templates);
    let template = templates.iter().find(|template| template.name == of.name);
    let wanted =
        template.filter(|template| disk.is_some_and(|disk| selects(template, disk, nodes) != Some(false)));

    let status = reservation.status.clone().unwrap_or_default();
    let size = |size: &Size| size.bytes_or_zero();
    match wanted {
        None if status.volumes.is_empty() && status.refinements.is_empty() => Step::Delete,
        None => Step::Rest,
        Some(template) => {
            // Admission refuses less than what volumes and refinements have (R6).
            let wanted = size(&template.size).max(least(&status));
            match size(&reservation.spec.size) == wanted {
                true => Step::Rest,
                false => Step::Resize(Size::from_bytes(wanted)),
            }
        }
    }
}

/// The reservations of a role's templates, counted.
pub fn status(
    role: &VolumeRole,
    disks: &[&NodeDisk],
    nodes: &NodeLabels,
    reservations: &[&DiskReservation],
) -> Vec<TemplateStatus> {
    let is_ready = |r: &&&DiskReservation| {
        r.status.as_ref().is_some_and(|status| condition::is_true(&status.conditions, READY))
    };
    let count = |template: &ReservationTemplate| {
        let of = TemplateRef { volume_role: role.name_any(), name: template.name.clone() };
        let made: HashSet<&str> = reservations
            .iter()
            .filter(|r| r.spec.template.as_ref() == Some(&of))
            .filter(is_ready)
            .filter_map(|r| r.spec.node_disk.as_deref())
            .collect();
        let disks = disks.iter().filter(|disk| selects(template, disk, nodes) == Some(true));
        let (mut selected, mut ready) = (0, 0);
        for disk in disks {
            selected += 1;
            ready += u32::from(made.contains(disk.metadata.name.as_deref().unwrap_or_default()));
        }
        TemplateStatus { name: template.name.clone(), disks: selected, ready }
    };
    role.spec.reservation_templates.iter().map(count).collect()
}

/// The condition of a role's templates (R7): each selects a disk, and each of its reservations is served. `counted` is their
/// [`status`], and `refused` why the API server refuses to make missing ones. `None` for a role without templates.
pub fn verdict(
    role: &VolumeRole,
    disks: &[&NodeDisk],
    nodes: &NodeLabels,
    reservations: &[&DiskReservation],
    counted: &[TemplateStatus],
    refused: Option<&str>,
) -> Option<Verdict> {
    let templates = &role.spec.reservation_templates;
    let mut reasons = Vec::new();
    let mut messages = Vec::new();
    for (template, counted) in templates.iter().zip(counted) {
        let trouble = match (counted.disks, counted.disks - counted.ready) {
            (0, _) => Some((reason::NO_SUCH_DISK, selects_nothing(template, disks, nodes))),
            (_, 0) => None,
            (all, waiting) => {
                let on = disks.iter().filter(|disk| selects(template, disk, nodes) == Some(true));
                let names = on.map(|disk| name(&role.name_any(), &template.name, &disk.name_any()));
                let of = TemplateRef { volume_role: role.name_any(), name: template.name.clone() };
                let first = names.filter_map(|name| first_waiting(&name, &of, reservations)).next();
                let (reason, why) = match (first, refused) {
                    (Some(first), _) => (reason::TEMPLATE_WAITS, first),
                    (None, Some(why)) => {
                        (reason::REFUSED, format!("and the API server refuses to make them: {why}"))
                    }
                    (None, None) => (reason::TEMPLATE_WAITS, "they are being made".to_owned()),
                };
                Some((reason, format!("{waiting} of {all} reservations are not Ready, {why}")))
            }
        };
        if let Some((reason, message)) = trouble {
            reasons.push(reason);
            messages.push(format!("template {}: {message}", template.name));
        }
    }
    if messages.is_empty() {
        messages.push("each template has its reservations".to_owned());
    }
    messages.extend(larger(role, disks, nodes, reservations));
    messages.extend(left(role, disks, nodes, reservations));
    let message = messages.join("; ");
    let verdict = match reasons.first() {
        None => Verdict::yes(reason::READY, message),
        Some(reason) => Verdict::no(reason, message),
    };
    (!templates.is_empty()).then_some(verdict)
}

/// The words about reservations on disks that their templates do not select any more.
const UNSELECTED: &str = "on a disk that its template does not select any more";

/// True if the condition of the templates names the reservation as one on such a disk.
pub fn says_unselected(message: &str, reservation: &str) -> bool {
    let before = message.split_once(UNSELECTED).map_or("", |(before, _)| before);
    let named = before.rsplit_once("DiskReservation ").map_or("", |(_, names)| names);
    named.split([' ', ',']).any(|name| name == reservation)
}

/// The largest size with which the reservations of a template take no more than these bytes. Each of them keeps at least what is in
/// `least`, whatever the template asks for (R6).
pub fn largest_size(mut bytes: u64, mut least: Vec<u64>) -> u64 {
    least.sort_unstable();
    while let Some(last) = least.last() {
        let each = bytes / least.len() as u64;
        if *last <= each {
            return each;
        }
        bytes = bytes.saturating_sub(*last);
        least.pop();
    }
    0
}

/// The bytes that a reservation keeps, whatever its template asks for.
pub fn least(status: &DiskReservationStatus) -> u64 {
    used(status).saturating_sub(kept::bytes(status))
}

/// The template of the role that made the reservation.
fn template_of<'a>(role: &'a VolumeRole, reservation: &DiskReservation) -> Option<&'a ReservationTemplate> {
    let of = reservation.spec.template.as_ref()?;
    let mut templates = role.spec.reservation_templates.iter();
    templates
        .find(|template| role.metadata.name.as_ref() == Some(&of.volume_role) && template.name == of.name)
}

/// True for a reservation of a template of the role on a disk that the template does not select any more. Its content keeps it.
pub fn is_left(
    role: &VolumeRole,
    reservation: &DiskReservation,
    disks: &[&NodeDisk],
    nodes: &NodeLabels,
) -> bool {
    let spec = &reservation.spec;
    let is_on = |disk: &&&NodeDisk| disk.metadata.name == spec.node_disk && spec.node_disk.is_some();
    let disk = disks.iter().find(is_on);
    template_of(role, reservation)
        .zip(disk)
        .is_some_and(|(template, disk)| selects(template, disk, nodes) == Some(false))
}

/// The names of the reservations that `is` accepts. Caches have no order, and a message in varying order would be written each time.
fn sorted_names(reservations: &[&DiskReservation], is: impl Fn(&DiskReservation) -> bool) -> Vec<String> {
    let mut found: Vec<String> = reservations.iter().filter(|r| is(r)).map(|r| r.name_any()).collect();
    found.sort();
    found
}

/// The reservations of the role's templates on such disks.
fn left(
    role: &VolumeRole,
    disks: &[&NodeDisk],
    nodes: &NodeLabels,
    reservations: &[&DiskReservation],
) -> Option<String> {
    let left = sorted_names(reservations, |r| is_left(role, r, disks, nodes));
    let (are, end) = match left.len() {
        0 => return None,
        1 => ("is", "ends with its last volume"),
        _ => ("are each", "end with their last volumes"),
    };
    Some(format!("DiskReservation {} {are} {UNSELECTED}, and {end}", names(&left, left.len())))
}

/// The reservations that are larger than their template, because of what they hold. A whole disk has its own size (D2).
fn larger(
    role: &VolumeRole,
    disks: &[&NodeDisk],
    nodes: &NodeLabels,
    reservations: &[&DiskReservation],
) -> Option<String> {
    let is_larger = |r: &DiskReservation| {
        let held = r.status.as_ref().map_or(0, least);
        template_of(role, r).is_some_and(|template| held > template.size.bytes_or_zero())
            && r.metadata.deletion_timestamp.is_none()
            && !undivided::has_whole_disk(r)
            && !is_left(role, r, disks, nodes)
    };
    let larger = sorted_names(reservations, is_larger);
    let by = match larger.len() {
        0 => return None,
        1 => "is larger than its template: it keeps what it holds",
        _ => "are larger than their template: they keep what they hold",
    };
    Some(format!("DiskReservation {} {by}", names(&larger, larger.len())))
}

/// `first DiskReservation eng.scratch.n1.a`, if the reservation of that name waits, or is not the template's. Without its reason,
/// which may change at each turn: the role would be written again and again (T2).
fn first_waiting(name: &str, of: &TemplateRef, reservations: &[&DiskReservation]) -> Option<String> {
    let reservation = reservations.iter().find(|r| r.metadata.name.as_deref() == Some(name))?;
    if reservation.spec.template.as_ref() != Some(of) {
        return Some(format!(
            "first DiskReservation {name}, which is not of the template: delete it once it is empty, and the template makes its own"
        ));
    }
    let ready = condition::get(&reservation.status.as_ref()?.conditions, READY)?;
    (ready.status != "True").then(|| format!("first DiskReservation {name}"))
}

/// A reservation with the name of one that a template would make, and not of that template.
pub fn in_the_way<'a>(
    role: &VolumeRole,
    disks: &[NodeDisk],
    reservations: &'a [DiskReservation],
) -> Option<&'a DiskReservation> {
    let wanted = role.spec.reservation_templates.iter().flat_map(|template| {
        disks
            .iter()
            .filter(|disk| disk.spec.disk_name == template.disk_name)
            .map(|disk| made_of(role, template, disk))
    });
    let taken = |wanted: DiskReservation| {
        reservations
            .iter()
            .find(|r| r.metadata.name == wanted.metadata.name && r.spec.template != wanted.spec.template)
    };
    wanted.into_iter().find_map(taken)
}

fn selects_nothing(template: &ReservationTemplate, disks: &[&NodeDisk], nodes: &NodeLabels) -> String {
    let ReservationTemplate { disk_name, node_selector, .. } = template;
    let mut known: Vec<&str> = disks.iter().map(|disk| disk.spec.disk_name.as_str()).collect();
    known.sort_unstable();
    known.dedup();
    match (known.contains(&disk_name.as_str()), node_selector) {
        (true, Some(selector)) => {
            let on = disks.iter().filter(|disk| disk.spec.disk_name == *disk_name);
            let on = on.filter_map(|disk| nodes.get(disk.spec.node_name.as_str()).copied());
            format!(
                "no node with disk {disk_name} has the {}{}",
                labels_of(selector),
                labels_there(selector, on)
            )
        }
        (true, None) => format!("no node with disk {disk_name} is there"),
        (false, _) if known.is_empty() => "there is no NodeDisk: is the agent running?".to_owned(),
        (false, _) => format!(
            "no disk is called {disk_name} in the agents' configuration; there are {}",
            names(&known, known.len())
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::*;

    fn eng(size: u64, label: Option<&str>) -> VolumeRole {
        let mut role = volume_role("eng-role", "eng");
        role.spec.reservation_templates = vec![ReservationTemplate {
            name: "scratch".into(),
            size: gi(size),
            disk_name: "a".into(),
            node_selector: label.map(|value| [("pool".to_owned(), value.to_owned())].into()),
        }];
        role
    }

    fn labels(value: &str) -> BTreeMap<String, String> {
        [("pool".to_owned(), value.to_owned())].into()
    }

    /// R7: what keeps its size leaves the others less.
    #[test]
    fn r7_a_size_fits_beside_what_keeps_its_own() {
        assert_eq!(largest_size(2048, vec![0, 1024, 0]), 512, "seed 30276");
        assert_eq!(largest_size(2048, vec![512, 0]), 1024);
        assert_eq!(largest_size(9, vec![10]), 0);
        assert_eq!(largest_size(7, vec![6, 5]), 0);
    }

    #[test]
    fn r7_the_condition_names_what_is_not_selected_any_more() {
        let said = format!(
            "template b: 1 of 1 reservations are not Ready, first DiskReservation b.n2; DiskReservation b.n1 and b.n3 are each {UNSELECTED}, and end with \
             their last volumes"
        );
        assert!(says_unselected(&said, "b.n1") && says_unselected(&said, "b.n3"));
        assert!(!says_unselected(&said, "b.n2"), "seed 30284");
        assert!(!says_unselected("first DiskReservation b.n1", "b.n1"));
    }

    #[test]
    fn r7_each_disk_of_a_selected_node_gets_its_reservation() {
        let (role, gpu, cpu) = (eng(5, Some("gpu")), labels("gpu"), labels("cpu"));
        let nodes: NodeLabels = [("n1", &gpu), ("n2", &cpu), ("n3", &gpu), ("n5", &gpu)].into();
        let mut other = disk("n1.b", "n1", 10, &[]);
        other.spec.disk_name = "b".into();
        let mut gone = disk("n5.a", "n5", 10, &[]);
        gone.spec.gone = true;
        let mut unknown = disk("n5.b", "n5", 10, &[]);
        unknown.spec.disk_id = crate::api::UNKNOWN_DISK.into();
        let named = |name: &str| disk(&format!("{name}.a"), name, 10, &[]);
        let disks = [named("n1"), named("n2"), named("n3"), named("n4"), other, gone, unknown];
        let disks: Vec<_> = disks.iter().collect();
        let made = missing(&role, &[&role], &disks, &nodes, &[]);
        let names: Vec<_> = made.iter().map(ResourceExt::name_any).collect();
        assert_eq!(names, ["eng-role.scratch.n1.a", "eng-role.scratch.n3.a"], "n4 has no Node");
        let spec = &made[0].spec;
        assert_eq!(
            (spec.role.as_str(), &spec.size, spec.node_disk.as_deref()),
            ("eng", &gi(5), Some("n1.a"))
        );

        let all: Vec<_> = made.iter().collect();
        assert_eq!(missing(&role, &[&role], &disks, &nodes, &all), []);
        let mut older = volume_role("older", "eng");
        older.metadata.creation_timestamp = some_time();
        let mut younger = role.clone();
        younger.metadata.creation_timestamp = later();
        assert_eq!(missing(&younger, &[&older, &younger], &disks, &nodes, &[]), [], "Q1: the older counts");

        let mut ready = made[0].clone();
        set_ready(&mut ready.status.get_or_insert_default().conditions, true);
        let counted = status(&role, &disks, &nodes, &[&ready, &made[1]]);
        assert_eq!(counted, [TemplateStatus { name: "scratch".into(), disks: 2, ready: 1 }]);
    }

    #[test]
    fn r7_a_reservation_follows_its_template_and_ends_when_empty() {
        let (role, gpu, cpu) = (eng(5, Some("gpu")), labels("gpu"), labels("cpu"));
        let (there, changed): (NodeLabels, NodeLabels) = ([("n1", &gpu)].into(), [("n1", &cpu)].into());
        let on = disk("n1.a", "n1", 20, &[]);
        let made = |size, held: &[(&str, u64)]| {
            let mut made = reserved("eng-role.scratch.n1.a", "eng", size, held);
            made.spec.template = Some(TemplateRef { volume_role: "eng-role".into(), name: "scratch".into() });
            made.status.as_mut().unwrap().used = Some(gi(held.iter().map(|(_, n)| n).sum()));
            made
        };
        let (empty, full) = (made(5, &[]), made(5, &[("v", 4)]));
        let mut gone = on.clone();
        gone.spec.gone = true;
        let mut other = eng(5, None);
        other.spec.reservation_templates[0].name = "other".into();
        let mut deleted = role.clone();
        deleted.metadata.deletion_timestamp = some_time();
        // The role, the disk, the nodes; and if the reservation is still asked for.
        for (case, role, disk, nodes, is_wanted) in [
            ("as made", &role, Some(&on), &there, true),
            ("D4: no Node", &role, Some(&on), &NodeLabels::new(), true),
            ("other labels", &role, Some(&on), &changed, false),
            ("no NodeDisk", &role, None, &there, false),
            ("a disk that is gone", &role, Some(&gone), &there, false),
            ("no such template", &other, Some(&on), &there, false),
            ("no VolumeRole", &deleted, Some(&on), &there, false),
        ] {
            let step = |reservation| next(reservation, &[role], disk, nodes);
            assert_eq!(step(&empty), if is_wanted { Step::Rest } else { Step::Delete }, "{case}");
            assert_eq!(step(&full), Step::Rest, "{case}");
        }
        let resized = |size, reservation| next(reservation, &[&eng(size, None)], Some(&on), &there);
        assert_eq!(resized(9, &full), Step::Resize(gi(9)));
        assert_eq!(resized(1, &empty), Step::Resize(gi(1)));
        assert_eq!(resized(1, &full), Step::Resize(gi(4)), "R6: no less than what is used");
        let ready = [TemplateStatus { name: "scratch".into(), disks: 1, ready: 1 }];
        let told = |size| verdict(&eng(size, None), &[&on], &there, &[&full], &ready, None).unwrap();
        assert_eq!(told(4).message, "each template has its reservations");
        assert!(told(3).message.ends_with(
            "DiskReservation eng-role.scratch.n1.a is larger than its template: it keeps what it holds"
        ));
        let mut own = empty.clone();
        own.spec.template = None;
        assert_eq!(next(&own, &[], None, &there), Step::Rest);
    }

    #[test]
    fn r7_a_template_without_its_reservations_says_why() {
        let (role, gpu, cpu) = (eng(5, Some("gpu")), labels("gpu"), labels("cpu"));
        let on = disk("n1.a", "n1", 20, &[]);
        let said = |role: &VolumeRole, disks: &[&NodeDisk], labels, reservations: &[&DiskReservation]| {
            let nodes: NodeLabels = [("n1", labels)].into();
            let counted = status(role, disks, &nodes, reservations);
            let verdict = verdict(role, disks, &nodes, reservations, &counted, None).unwrap();
            format!("{}: {}", verdict.reason, verdict.message)
        };
        assert_eq!(
            said(&role, &[], &gpu, &[]),
            "NoSuchDisk: template scratch: there is no NodeDisk: is the agent running?"
        );
        assert_eq!(
            said(&role, &[&on], &cpu, &[]),
            "NoSuchDisk: template scratch: no node with disk a has the label pool=gpu; the nodes have pool=cpu"
        );
        let mut mistyped = role.clone();
        mistyped.spec.reservation_templates[0].disk_name = "aa".into();
        assert_eq!(
            said(&mistyped, &[&on], &gpu, &[]),
            "NoSuchDisk: template scratch: no disk is called aa in the agents' configuration; there are a"
        );
        assert!(
            said(&role, &[&on], &gpu, &[])
                .ends_with("1 of 1 reservations are not Ready, they are being made")
        );
        let nodes: NodeLabels = [("n1", &gpu)].into();
        let counted = status(&role, &[&on], &nodes, &[]);
        let refused = verdict(&role, &[&on], &nodes, &[], &counted, Some("no more of this kind")).unwrap();
        assert_eq!(
            (refused.reason, refused.message.as_str()),
            (
                reason::REFUSED,
                "template scratch: 1 of 1 reservations are not Ready, and the API server refuses to make them: no more of this kind"
            )
        );
        let mut made = reserved("eng-role.scratch.n1.a", "eng", 5, &[]);
        made.spec.template = Some(TemplateRef { volume_role: "eng-role".into(), name: "scratch".into() });
        made.spec.node_disk = Some("n1.a".into());
        // T2: a turn changes the reason of the reservation, and writes nothing to the role.
        for reason in [reason::NOT_ENOUGH_ROOM, reason::OVER_QUOTA] {
            let conditions = &mut made.status.as_mut().unwrap().conditions;
            condition::set(conditions, READY, Verdict::no(reason, "said"), None, jiff::Timestamp::UNIX_EPOCH);
            assert_eq!(
                said(&role, &[&on], &gpu, &[&made]),
                "TemplateWaits: template scratch: 1 of 1 reservations are not Ready, first DiskReservation \
                 eng-role.scratch.n1.a"
            );
        }
        set_ready(&mut made.status.as_mut().unwrap().conditions, true);
        assert_eq!(said(&role, &[&on], &gpu, &[&made]), "Ready: each template has its reservations");
        let mut by_hand = made.clone();
        by_hand.spec.template = None;
        assert_eq!(
            said(&role, &[&on], &gpu, &[&by_hand]),
            "TemplateWaits: template scratch: 1 of 1 reservations are not Ready, first DiskReservation eng-role.scratch.n1.a, which is \
             not of the template: delete it once it is empty, and the template makes its own"
        );
        assert_eq!(
            in_the_way(&role, std::slice::from_ref(&on), std::slice::from_ref(&by_hand)),
            Some(&by_hand)
        );
        assert_eq!(in_the_way(&role, std::slice::from_ref(&on), std::slice::from_ref(&made)), None);
        let other = disk("n2.a", "n2", 20, &[]);
        let mut left = made.clone();
        (left.metadata.name, left.spec.node_disk) = (Some("left".into()), Some("n2.a".into()));
        let cpu = labels("cpu");
        let nodes: NodeLabels = [("n1", &gpu), ("n2", &cpu)].into();
        let (disks, all) = ([&on, &other], [&made, &left]);
        let verdict_of =
            |role| verdict(role, &disks, &nodes, &all, &status(role, &disks, &nodes, &all), None).unwrap();
        assert_eq!(
            verdict_of(&role).message,
            format!(
                "each template has its reservations; DiskReservation left is {UNSELECTED}, and ends with its last volume"
            )
        );
        assert!(verdict(&volume_role("r", "r"), &[], &NodeLabels::new(), &[], &[], None).is_none());
    }

    #[test]
    fn r7_a_long_name_ends_with_a_hash() {
        assert_eq!(name("eng", "t", "n1.a"), "eng.t.n1.a");
        let long = "a".repeat(200);
        let names = [name(&long, "t", &format!("{long}.a")), name(&long, "t", &format!("{long}.b"))];
        assert!(names[0] != names[1] && names.iter().all(|name| name.len() <= 253), "{names:?}");
    }
}
