//! Tests of the growth of a PersistentVolumeClaim.

use proptest::prelude::*;
use serde_json::{from_value, to_value};

use super::*;
use crate::api::condition::Verdict;
use crate::plan::testing::{gi, ready_volume};

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

/// A PersistentVolumeClaim with these sizes in Gi: request, capacity, `allocatedResources`.
fn pvc(requested: &str, has: u64, allocated: Option<u64>) -> PersistentVolumeClaim {
    let allocated = allocated.map(|bytes| json!({"storage": gi(bytes)}));
    from_value(json!({"metadata": {"name": "data", "namespace": "team", "uid": "u", "resourceVersion": "1"},
        "spec": {"resources": {"requests": {"storage": requested}}},
        "status": {"phase": "Bound", "capacity": {"storage": gi(has)}, "allocatedResources": allocated}}))
    .unwrap()
}

/// A volume with these sizes in Gi: in its spec, on the node.
fn volume(wished: u64, has: u64) -> SharedPersistentVolume {
    let mut volume = ready_volume("pvc-u", "eng", false);
    (volume.spec.size, volume.metadata.generation) = (gi(wished), Some(1));
    let status = volume.status.as_mut().unwrap();
    (status.size, status.node.as_mut().unwrap().size) = (Some(gi(has)), Some(gi(has)));
    volume
}

/// Nobody can take a request back to the present size, so the volume is not asked for more, and the report says so.
#[test]
fn e1_a_sealed_volume_is_not_asked_to_grow() {
    let (pvc, mut volume) = (pvc("2Gi", 1, None), volume(2, 1));
    volume.spec.sealed = true;
    assert_eq!(next(&pvc, &volume, None, NOW), Step::Resize(gi(1)), "what was asked for before");
    volume.spec.size = gi(1);
    let Step::Report(report) = next(&pvc, &volume, None, NOW) else { panic!() };
    let event = report.event.unwrap();
    assert_eq!(event.reason, "VolumeResizeFailed");
    assert!(event.message.contains("being sealed and keeps its 1Gi; its pods read on"), "{}", event.message);
}

fn resized(volume: &mut SharedPersistentVolume, reason: &'static str, message: &str, generation: i64) {
    let conditions = &mut volume.status.as_mut().unwrap().conditions;
    condition::set(conditions, RESIZED, Verdict::no(reason, message), Some(generation), NOW);
}

fn step(pvc: &PersistentVolumeClaim, volume: &SharedPersistentVolume) -> Step {
    next(pvc, volume, None, NOW)
}

/// The PersistentVolumeClaim after a JSON merge patch (RFC 7386), with another resourceVersion.
fn patched(pvc: &PersistentVolumeClaim, report: &Report) -> PersistentVolumeClaim {
    fn merge(into: &mut Value, patch: &Value) {
        let Value::Object(fields) = patch else { return *into = patch.clone() };
        if !into.is_object() {
            *into = json!({});
        }
        for (key, value) in fields {
            match value.is_null() {
                true => drop(into.as_object_mut().unwrap().remove(key)),
                false => merge(&mut into[key], value),
            }
        }
    }
    let mut value = to_value(pvc).unwrap();
    merge(&mut value, &report.patch);
    value["metadata"]["resourceVersion"] =
        json!((pvc.metadata.resource_version.as_ref().unwrap().parse::<u64>().unwrap() + 1).to_string());
    from_value(value).unwrap()
}

/// The types of the conditions, and the values of `allocatedResourceStatuses` and `allocatedResources`.
fn reported(pvc: &PersistentVolumeClaim) -> (Vec<String>, Option<String>, Option<u64>) {
    let status = pvc.status.clone().unwrap();
    let phase = status.allocated_resource_statuses.and_then(|all| all.get("storage").cloned());
    let types = status.conditions.unwrap_or_default().into_iter().map(|c| c.type_).collect();
    (types, phase, storage(status.allocated_resources.as_ref()).map(|bytes| bytes >> 30))
}

fn report_of(step: Step) -> Report {
    match step {
        Step::Report(report) | Step::Allocate(_, report) => *report,
        other => panic!("{other:?}"),
    }
}

fn names(types: &[&str]) -> Vec<String> {
    types.iter().map(|type_| (*type_).to_owned()).collect()
}

#[test]
fn p3_a_growth_is_counted_then_made_then_shown() {
    let (mut p, mut v) = (pvc("3Gi", 1, None), volume(1, 1));
    let Step::Allocate(size, report) = step(&p, &v) else { panic!() };
    assert_eq!(size, gi(3));
    p = patched(&p, &report);
    assert_eq!(reported(&p), (names(&[RESIZING]), Some(IN_PROGRESS.into()), Some(3)));
    assert_eq!(step(&p, &v), Step::Resize(gi(3)));
    v.spec.size = gi(3);
    assert_eq!(step(&p, &v), Step::Rest, "the node is at work");
    let status = v.status.as_mut().unwrap();
    (status.size, status.node.as_mut().unwrap().size) = (Some(gi(3)), Some(gi(3)));
    let report = report_of(step(&p, &v));
    assert_eq!((report.capacity.clone(), report.event.as_ref().unwrap().ok), (Some(gi(3)), true));
    assert_eq!(report.event.as_ref().unwrap().message, "volume pvc-u has 3Gi now");
    p = patched(&p, &report);
    assert_eq!(reported(&p), (vec![], None, Some(3)), "as Kubernetes' volume-expand tests want it");
    assert_eq!(p.annotations()[NO_NODE_EXPANSION], "true");
    assert_eq!(step(&p, &v), Step::Rest);
}

#[test]
fn p3_a_growth_without_space_is_reported_and_replaced() {
    let (mut p, mut v) = (pvc("9Gi", 1, Some(9)), volume(9, 1));
    let other = from_value(json!([{"type": "Unused", "status": "False"}])).unwrap();
    p.status.as_mut().unwrap().conditions = Some(other);
    resized(&mut v, "ReservationFull", "9Gi wished, 8Gi more than it has", 0);
    assert_eq!(step(&p, &v), Step::Rest, "the condition is about an earlier spec");
    resized(&mut v, "ReservationFull", "9Gi wished, 8Gi more than it has", 1);
    let report = report_of(step(&p, &v));
    let event = report.event.as_ref().unwrap();
    assert_eq!((event.ok, event.reason), (false, "VolumeResizeFailed"));
    p = patched(&p, &report);
    let types = names(&["Unused", RESIZING, CONTROLLER_ERROR]);
    assert_eq!(reported(&p), (types.clone(), Some(INFEASIBLE.into()), Some(9)));
    assert_eq!(step(&p, &v), Step::Rest);
    resized(&mut v, "ReservationFull", "9Gi wished, 7Gi more than it has", 1);
    let report = report_of(step(&p, &v));
    assert_eq!(report.event, None, "other numbers are no other event");

    // A smaller request replaces the wish. The old one counts until the volume was written for the new one.
    p.spec.as_mut().unwrap().resources = from_value(json!({"requests": {"storage": "2Gi"}})).unwrap();
    assert_eq!(step(&p, &v), Step::Resize(gi(2)));
    v.spec.size = gi(2);
    assert_eq!(step(&p, &v), Step::Resize(gi(2)), "not yet written for this request");
    v.metadata.annotations = Some([(ANNOTATION_DECIDED_BY.to_owned(), "2".to_owned())].into());
    v.metadata.generation = Some(2);
    assert_eq!(step(&p, &v), Step::Rest, "the volume's condition is the old one");
    resized(&mut v, "Resizing", "", 2);
    p = patched(&p, &report_of(step(&p, &v)));
    assert_eq!(reported(&p), (names(&["Unused", RESIZING]), Some(IN_PROGRESS.into()), Some(2)));
}

#[test]
fn p3_a_failure_on_the_node_is_told_apart() {
    let (p, mut v) = (pvc("3Gi", 1, Some(3)), volume(3, 1));
    resized(&mut v, "ResizeFailed", "it stays at 1Gi: 12 bytes are free", 1);
    let (types, phase, _) = reported(&patched(&p, &report_of(step(&p, &v))));
    assert_eq!((types, phase), (names(&[RESIZING, NODE_ERROR]), Some(IN_PROGRESS.into())));
    // A growth that the node has begun ends first; a failed one is taken back.
    let p = pvc("2Gi", 1, Some(3));
    v.status.as_mut().unwrap().node.as_mut().unwrap().growing = Some(gi(3));
    assert_ne!(step(&p, &v), Step::Resize(gi(2)));
    v.status.as_mut().unwrap().node.as_mut().unwrap().resize_failed = Some("12 bytes are free".into());
    assert_eq!(step(&p, &v), Step::Resize(gi(2)));
    v.spec.size = gi(2);
    let report = step(&p, &v);
    assert!(!matches!(report, Step::Resize(_)), "3Gi may still come: {report:?}");
}

/// F1: each request that no volume can have is told on the PersistentVolumeClaim, and counts for nothing.
#[test]
fn f1_a_request_that_cannot_be_met_is_reported() {
    let v = volume(1, 1);
    for (requested, said) in [
        ("9223372036854775807", "larger than the 8Ei - 2 bytes"),
        ("10E", "larger than the 8Ei - 2 bytes"),
        ("ten", "is not a size"),
        ("-1", "is not a positive number"),
    ] {
        let p = pvc(requested, 1, None);
        let report = report_of(step(&p, &v));
        assert!(report.event.as_ref().unwrap().message.contains(said), "{report:?}");
        let p = patched(&p, &report);
        let types = names(&[RESIZING, CONTROLLER_ERROR]);
        assert_eq!(reported(&p), (types, Some(INFEASIBLE.into()), None));
        assert_eq!(step(&p, &v), Step::Rest);
    }
    assert_eq!(step(&pvc("1073741823.5", 1, None), &v), Step::Rest, "rounded up, it is what the volume has");
    let mut named = pvc("1Gi", 1, None);
    named.spec.as_mut().unwrap().volume_attributes_class_name = Some("gold".into());
    assert!(
        matches!(step(&named, &v), Step::Refuse(why) if why.contains("leave volumeAttributesClassName out"))
    );
}

/// A5: without the verb `resize` nothing is counted, and the refusal is reported.
#[test]
fn p5_a_refused_growth_is_reported() {
    let (p, v) = (pvc("3Gi", 1, None), volume(1, 1));
    let why = "the service accounts of namespace team lack the verb resize";
    let report = report_of(next(&p, &v, Some(why), NOW));
    assert_eq!(report.event.as_ref().unwrap().message, why);
    assert_eq!(reported(&patched(&p, &report)).2, None);
    let lowering = next(&pvc("1Gi", 1, Some(3)), &v, Some(why), NOW);
    assert_eq!(lowering, Step::Refuse(why.into()));
}

#[test]
fn p3_settled_is_what_asks_for_no_step() {
    let (v, cached) =
        (volume(2, 2), |requested| Cached { requested, capacity: Some(2 << 30), ..Default::default() });
    let right = cached(Some(2 << 30));
    assert!(is_settled(right, &v) && is_settled(cached(Some(1 << 30)), &v));
    for (pvc, volume) in [
        (cached(None), &v),
        (cached(Some(3 << 30)), &v),
        (Cached { capacity: Some(1 << 30), ..right }, &v),
        (Cached { allocated: Some(3 << 30), ..right }, &v),
        (Cached { resizing: true, ..right }, &v),
        (Cached { attributes_class: true, ..right }, &v),
        (right, &volume(3, 2)),
    ] {
        assert!(!is_settled(pvc, volume), "{pvc:?}");
    }
}

#[test]
fn f1_the_largest_size_of_a_volume_counts() {
    for (spec, status, node, growing) in [(3, 1, 1, 1), (1, 3, 1, 1), (1, 1, 3, 1), (1, 1, 1, 3)] {
        let mut volume = volume(spec, 1);
        let part = volume.status.as_mut().unwrap();
        part.size = Some(gi(status));
        let on_node = part.node.as_mut().unwrap();
        (on_node.size, on_node.growing) = (Some(gi(node)), Some(gi(growing)));
        assert_eq!(most(&volume), 3 << 30, "{spec} {status} {node} {growing}");
    }
    assert_eq!(step(&pvc("1Gi", 3, Some(3)), &volume(3, 3)), Step::Rest, "it never shrinks");
}

#[test]
fn p3_only_the_end_of_a_growth_is_an_event() {
    let mut taken_back = pvc("1Gi", 1, None);
    let phases = [("storage".to_owned(), IN_PROGRESS.to_owned())];
    taken_back.status.as_mut().unwrap().allocated_resource_statuses = Some(phases.into());
    assert_eq!(report_of(step(&taken_back, &volume(1, 1))).event, None, "nothing has grown");
    let first = report_of(step(&pvc("1Gi", 1, None), &volume(2, 2)));
    assert_eq!((first.capacity, first.event), (Some(gi(2)), None), "no growth was reported");
}

/// One of two controllers: the objects that it read, volume first.
#[derive(Clone, Default)]
struct Read {
    volume: Option<SharedPersistentVolume>,
    pvc: Option<PersistentVolumeClaim>,
}

proptest! {
    /// F1, S15: for two controllers with reads of any age, any requests and any progress of the node, a ResourceQuota
    /// counts at least what the volume has or may get. Afterwards the last request comes about.
    #[test]
    fn f1_no_volume_is_larger_than_what_its_quota_counts(
        script in proptest::collection::vec((0u8..8, 2u64..9), 0..80)
    ) {
        const ALL: u64 = 5;
        let (mut p, mut v) = (pvc("1Gi", 1, None), volume(1, 1));
        v.metadata.resource_version = Some("1".into());
        let mut readers = [Read::default(), Read::default()];
        let bump = |v: &mut SharedPersistentVolume| {
            let next = v.metadata.resource_version.as_ref().unwrap().parse::<u64>().unwrap() + 1;
            v.metadata.resource_version = Some(next.to_string());
        };
        let act = |read: &mut Read, p: &mut PersistentVolumeClaim, v: &mut SharedPersistentVolume| -> bool {
            let (Some(seen_v), Some(seen_p)) = (&read.volume, &read.pvc) else { return false };
            let (same_v, same_p) = (
                seen_v.metadata.resource_version == v.metadata.resource_version,
                seen_p.metadata.resource_version == p.metadata.resource_version,
            );
            match step(seen_p, seen_v) {
                Step::Allocate(_, report) if same_p => {
                    *p = patched(p, &report);
                    read.pvc = Some(p.clone());
                    return true;
                }
                Step::Resize(size) if same_v => {
                    v.spec.size = size;
                    let rv = seen_p.metadata.resource_version.clone().unwrap();
                    v.metadata.annotations = Some([(ANNOTATION_DECIDED_BY.to_owned(), rv)].into());
                    v.metadata.generation = v.metadata.generation.map(|g| g + 1);
                    bump(v);
                }
                Step::Report(report) if same_p => *p = patched(p, &report),
                Step::Rest | Step::Refuse(_) => return false,
                _ => {}
            }
            *read = Read::default();
            true
        };
        let node = |v: &mut SharedPersistentVolume, n: u64| {
            let (wished, generation) = (v.spec.size.bytes().unwrap() >> 30, v.metadata.generation.unwrap());
            let status = v.status.as_mut().unwrap();
            let part = status.node.as_mut().unwrap();
            let has = part.size.as_ref().unwrap().bytes().unwrap() >> 30;
            let said = match part.growing.clone() {
                Some(growing) if n.is_multiple_of(2) => {
                    (part.size, part.growing) = (Some(growing), None);
                    ("Resized", true)
                }
                Some(growing) if wished << 30 < growing.bytes_or_zero() => {
                    (part.growing, part.resize_failed) = (None, None);
                    ("Resizing", false)
                }
                Some(_) => {
                    part.resize_failed = Some("12 bytes are free".into());
                    ("ResizeFailed", false)
                }
                None if wished > ALL => ("ReservationFull", false),
                None if wished > has => {
                    (part.growing, part.resize_failed) = (Some(gi(wished)), None);
                    ("Resizing", false)
                }
                None => ("Resized", true),
            };
            let granted = part.growing.clone().unwrap_or_else(|| part.size.clone().unwrap());
            status.size = Some(granted);
            let verdict = Verdict { ok: said.1, reason: said.0, message: String::new() };
            condition::set(&mut status.conditions, RESIZED, verdict, Some(generation), NOW);
            bump(v);
        };
        let counted = |p: &PersistentVolumeClaim| {
            let allocated = storage(p.status.as_ref().unwrap().allocated_resources.as_ref());
            class::requested(p).unwrap().max(allocated.unwrap_or(0))
        };
        let request = |p: &mut PersistentVolumeClaim, gi: u64| {
            p.spec.as_mut().unwrap().resources = from_value(json!({"requests": {"storage": format!("{gi}Gi")}})).unwrap();
            let rv = p.metadata.resource_version.as_ref().unwrap().parse::<u64>().unwrap() + 1;
            p.metadata.resource_version = Some(rv.to_string());
        };
        for (who, n) in script {
            let i = usize::from(who % 2);
            match who {
                // Kubernetes accepts no request below the capacity in the status.
                0 | 1 if n << 30 > storage(p.status.as_ref().unwrap().capacity.as_ref()).unwrap() => request(&mut p, n),
                2 | 3 => readers[i] = Read { volume: Some(v.clone()), pvc: None },
                4 | 5 if readers[i].volume.is_some() && readers[i].pvc.is_none() => readers[i].pvc = Some(p.clone()),
                6 | 7 if n > 5 => node(&mut v, n),
                _ => drop(act(&mut readers[i], &mut p, &mut v)),
            }
            prop_assert!(counted(&p) >= most(&v), "{:?}\n{:?}\n{:?}", p.spec, p.status, v);
        }
        let mut rounds = 0;
        loop {
            let mut read = Read { volume: Some(v.clone()), pvc: Some(p.clone()) };
            let mut acted = false;
            while act(&mut read, &mut p, &mut v) { acted = true; }
            let before = v.clone();
            node(&mut v, 2);
            prop_assert!(counted(&p) >= most(&v));
            v.metadata.resource_version = before.metadata.resource_version.clone();
            if !acted && v == before { break; }
            bump(&mut v);
            rounds += 1;
            prop_assert!(rounds < 50, "it does not come to rest: {:?} {:?}", p, v);
        }
        let (requested, has) = (class::requested(&p).unwrap(), size_now(&v).bytes().unwrap());
        prop_assert!(has >= requested || requested > ALL << 30, "{:?}", v);
        prop_assert_eq!(counted(&p), requested.max(has));
        prop_assert_eq!(storage(p.status.as_ref().unwrap().capacity.as_ref()), Some(has));
    }
}
