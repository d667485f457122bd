//! QUOTA: the most that a role may reserve, and the bytes that other roles cannot reserve away (Q2).
//!
//! Compare-and-swap on the ledger of the `VolumeRole` decides the limit. The guarantee spans all disks, and is decided
//! on reads of all disks.

use std::collections::BTreeMap;

use kube::ResourceExt;

use crate::api::condition::{self, READY, Verdict, reason};
use crate::api::{LedgerEntry, NodeDisk, Role, Size, VolumeRole};

use super::allocatable;
use super::ledger;
use super::list_share::{Entry, Full, full_for};
use super::names;

/// A role and its ancestors, the nearest first: `eng/ml`, `eng`.
pub fn lineage(role: &str) -> impl Iterator<Item = &str> {
    let ends = role.rmatch_indices('/').map(|(at, _)| at);
    std::iter::once(role.len()).chain(ends).map(|end| &role[..end])
}

/// The VolumeRoles that count, by role. Of two objects for one role, the older counts.
pub fn counting<'a>(roles: &[&'a VolumeRole]) -> BTreeMap<&'a str, &'a VolumeRole> {
    let age = |r: &VolumeRole| (r.creation_timestamp(), r.name_any());
    let mut counting: BTreeMap<&str, &VolumeRole> = BTreeMap::new();
    for role in roles.iter().copied().filter(|r| r.metadata.deletion_timestamp.is_none()) {
        let counts = counting.entry(&role.spec.role).or_insert(role);
        if age(role) < age(counts) {
            *counts = role;
        }
    }
    counting
}

/// True if a VolumeRole has a quota and so keeps a ledger. A VolumeRole without a quota has only sums.
pub fn has_quota(role: &VolumeRole) -> bool {
    role.spec.quota.limit.is_some() || role.spec.quota.guarantee.is_some()
}

/// True if the ledger includes the reservations from before the VolumeRole was created or changed. An earlier decision
/// would miss them.
pub fn is_current(role: &VolumeRole) -> bool {
    let ready = role.status.as_ref().and_then(|s| condition::get(&s.conditions, READY));
    ready.is_some_and(|c| c.observed_generation == role.metadata.generation && c.reason != reason::ROLE_TAKEN)
}

/// True if a reservation for `role` counts towards the quota of role `of`. `parent` is the role of the reservation's
/// parent, if any. Bytes that move within the roles covered by `of` are charged once (Q1).
pub fn charges(of: &str, role: &str, parent: Option<&str>) -> bool {
    Role::name_covers(of, role) && !parent.is_some_and(|parent| Role::name_covers(of, parent))
}

/// The VolumeRoles that keep a ledger, each with the sum of its ledger.
pub fn ledgers<'a>(roles: &[&'a VolumeRole]) -> Vec<(&'a VolumeRole, u64)> {
    let keeping = counting(roles).into_values().filter(|role| has_quota(role));
    keeping.map(|role| (role, ledger::total(entries(role)))).collect()
}

/// The bytes of a role that count against its limit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Taken<'a> {
    /// The sum of its ledger.
    pub reserved: u64,
    /// Unused guarantees of its sub-roles, which another sub-role does not get.
    pub open: Vec<(&'a VolumeRole, u64)>,
}

impl Taken<'_> {
    /// The bytes of the guarantees.
    pub fn guaranteed(&self) -> u64 {
        total(&self.open)
    }
}

/// The bytes of the limit of `of` that a request for `role` finds taken. `ledgers` is the result of [`ledgers`].
pub fn taken<'a>(of: &VolumeRole, role: &str, reserved: u64, ledgers: &[(&'a VolumeRole, u64)]) -> Taken<'a> {
    let (above, is_limited) = (&of.spec.role, of.spec.quota.limit.is_some());
    let is_below =
        |below: &VolumeRole| below.spec.role != *above && Role::name_covers(above, &below.spec.role);
    let below: Vec<_> = ledgers.iter().filter(|(of, _)| is_limited && is_below(of)).copied().collect();
    Taken { reserved, open: open_guarantees(role, &below) }
}

/// Why a role with so many bytes taken may not reserve `asked` more; `None`: the bytes are within the limit, and the
/// ledger has space. `new` is the role of a new entry; `None`: the ledger has the entry already.
pub fn refusal(role: &VolumeRole, new: Option<&str>, taken: &Taken, asked: u64) -> Option<Verdict> {
    let (of, listed) = (&role.spec.role, entries(role).iter().map(Entry::of));
    let full = match new {
        _ if asked == 0 => None,
        _ if leaves_out(role) => Some(Full::List),
        new => new.and_then(|new| full_for(of, Entry::for_role(new), listed)),
    };
    let Some(full) = full else { return over_limit(role, taken, asked) };
    let object = format!("VolumeRole {}", role.name_any());
    let why = full.why(&object, "reservations", of, Entry::for_role(new.unwrap_or(of)));
    let message = format!("{why}; delete some that are not needed, or use fewer and larger ones");
    Some(Verdict::no(full.reason(reason::TOO_MANY_RESERVATIONS), message))
}

/// True if the role has reservations that do not fit into its ledger.
fn leaves_out(role: &VolumeRole) -> bool {
    let ready = role.status.as_ref().and_then(|s| condition::get(&s.conditions, READY));
    ready.is_some_and(|ready| ready.reason == reason::TOO_MANY_RESERVATIONS)
}

fn entries(role: &VolumeRole) -> &[LedgerEntry] {
    role.status.as_ref().map_or(&[], |status| &status.reservations)
}

fn over_limit(role: &VolumeRole, taken: &Taken, asked: u64) -> Option<Verdict> {
    let limit = role.spec.quota.limit.as_ref()?.bytes_or_zero();
    let has = taken.reserved.saturating_add(taken.guaranteed());
    let over = has.saturating_add(asked).saturating_sub(limit);
    if over == 0 || asked == 0 {
        return None;
    }
    let size = Size::from_bytes;
    let open = |each: &dyn Fn(&VolumeRole, u64) -> String| {
        let all: Vec<String> = taken.open.iter().map(|(of, need)| each(of, *need)).collect();
        names(&all, all.len())
    };
    let kept = match taken.open.is_empty() {
        true => String::new(),
        false => {
            format!(
                " and {}",
                open(&|of, need| format!("{} guaranteed to role {}", size(need), of.spec.role))
            )
        }
    };
    // Bytes of a role with an open guarantee would be guaranteed to it again.
    let is_kept =
        |entry: &&LedgerEntry| taken.open.iter().any(|(of, _)| Role::name_covers(&of.spec.role, &entry.role));
    let others = entries(role).iter().filter(|entry| !is_kept(entry));
    let others = others.map(|entry| entry.size.bytes_or_zero()).fold(0, u64::saturating_add);
    let mut remedies = Vec::new();
    match taken.open.is_empty() {
        true if taken.reserved > 0 => remedies.push("unreserve something".to_owned()),
        true => remedies.push("ask for less".to_owned()),
        false => {
            remedies.extend((has < limit).then(|| "ask for less".to_owned()));
            remedies.extend((others >= over).then(|| "unreserve something".to_owned()));
            remedies.push(format!("lower the guarantee of VolumeRole {}", open(&|of, _| of.name_any())));
        }
    }
    let message = format!(
        "role {} has {} of its limit of {} reserved{kept}, {} asked for is {} too much; {} or raise the limit of VolumeRole {}",
        role.spec.role,
        size(taken.reserved),
        size(limit),
        size(asked),
        size(over),
        remedies.join(", "),
        role.name_any()
    );
    Some(Verdict::no(reason::OVER_QUOTA, message))
}

/// The end of a refusal for bytes that are collected for others.
const COLLECTED: &str = " are collected for reservations that wait";

/// The refusal, with the bytes of the limit that are collected for reservations that wait (Q5).
pub fn beside_collected(refusal: Verdict, collected: u64) -> Verdict {
    let message = format!("{}; of these {}{COLLECTED}", refusal.message, Size::from_bytes(collected));
    Verdict { message, ..refusal }
}

/// The bytes of the role's limit that are collected for others, in the words of a refusal. No object has this number.
pub fn collected(role: &VolumeRole, said: &str) -> u64 {
    let own = said.strip_prefix(&format!("role {} has ", role.spec.role));
    let bytes = own.and_then(|said| said.strip_suffix(COLLECTED)?.rsplit_once("; of these "));
    bytes.map_or(0, |(_, size)| Size::written(size.to_owned()).bytes_or_zero())
}

/// Why `role` does not get `asked` bytes out of the `free` bytes of all disks; `None`: the role may have them. The
/// reason is an unused guarantee of roles that do not cover `role`. `ledgers` is the result of [`ledgers`].
pub fn guaranteed(role: &str, asked: u64, free: u64, ledgers: &[(&VolumeRole, u64)]) -> Option<Verdict> {
    let open = open_guarantees(role, ledgers);
    let kept = total(&open);
    let missing = asked.saturating_add(kept).saturating_sub(free);
    (missing > 0 && kept > 0 && asked > 0).then(|| {
        let mut whose: Vec<(String, String)> = open
            .iter()
            .map(|(of, need)| {
                (format!("{} to role {}", Size::from_bytes(*need), of.spec.role), of.name_any())
            })
            .collect();
        whose.sort();
        let (whose, objects): (Vec<String>, Vec<String>) = whose.into_iter().unzip();
        Verdict::no(
            reason::GUARANTEED,
            format!(
                "{} asked for is {} too much: of {} free on all disks are guaranteed {}; \
                 unreserve something or lower the guarantee of VolumeRole {}",
                Size::from_bytes(asked),
                Size::from_bytes(missing.min(asked)),
                Size::from_bytes(free),
                names(&whose, whose.len()),
                names(&objects, objects.len())
            ),
        )
    })
}

/// The VolumeRoles whose guarantees are kept from `role`, each with the bytes that its role has not reserved. The guarantee
/// of a sub-role is part of the guarantee of its ancestor.
pub fn open_guarantees<'a>(role: &str, ledgers: &[(&'a VolumeRole, u64)]) -> Vec<(&'a VolumeRole, u64)> {
    let mut open: Vec<(&str, u64, &VolumeRole)> = ledgers
        .iter()
        .filter(|(of, _)| !Role::name_covers(&of.spec.role, role))
        .filter_map(|(of, reserved)| {
            let guarantee = of.spec.quota.guarantee.as_ref()?.bytes_or_zero();
            Some((of.spec.role.as_str(), guarantee.saturating_sub(*reserved), *of))
        })
        .collect();
    open.sort_by_key(|(of, ..)| std::cmp::Reverse((of.matches('/').count(), *of)));
    let known: Vec<&str> = open.iter().map(|(of, ..)| *of).collect();
    let mut within: BTreeMap<&str, u64> = BTreeMap::new();
    let mut outermost = Vec::new();
    for (of, unmet, object) in open {
        let need = unmet.max(within.get(of).copied().unwrap_or(0));
        if need == 0 {
            continue;
        }
        match lineage(of).skip(1).find(|ancestor| known.contains(ancestor)) {
            Some(ancestor) => {
                let sum = within.entry(ancestor).or_default();
                *sum = sum.saturating_add(need);
            }
            None => outermost.push((object, need)),
        }
    }
    outermost
}

fn total(guarantees: &[(&VolumeRole, u64)]) -> u64 {
    guarantees.iter().fold(0, |sum, (_, need)| sum.saturating_add(*need))
}

/// A guarantee that its role can never have, however little the others reserve (Q2).
#[derive(Debug, PartialEq)]
pub struct Impossible {
    /// The reason, with the numbers.
    pub why: String,
    /// The bytes that the role can be guaranteed.
    pub possible: u64,
    /// Another remedy than a smaller guarantee.
    pub remedy: String,
    /// Another VolumeRole, whose guarantee is to be lowered: it is more than all disks have, or this role has its own in full.
    pub instead: Option<String>,
}

/// Compares the guarantee of a VolumeRole with the limits of its ancestors, and with all disks, whose bytes all guarantees
/// share. A disk that is away now comes back.
pub fn impossible(role: &VolumeRole, roles: &[&VolumeRole], disks: &[&NodeDisk]) -> Option<Impossible> {
    let own = role.spec.quota.guarantee.as_ref()?.bytes_or_zero();
    let size = Size::from_bytes;
    let counting = counting(roles);
    let above = lineage(&role.spec.role).skip(1).filter_map(|of| {
        let above = counting.get(of)?;
        Some((above.spec.quota.limit.as_ref()?.bytes_or_zero(), *above))
    });
    let above: Vec<(u64, &VolumeRole)> = above.collect();
    let raise = |above: &VolumeRole| format!("raise the limit of VolumeRole {}", above.name_any());
    if let Some((limit, least)) =
        above.iter().min_by_key(|(limit, _)| *limit).filter(|(limit, _)| *limit < own)
    {
        let why = format!(
            "the guarantee of {} is more than the limit of {} of VolumeRole {}",
            size(own),
            size(*limit),
            least.name_any()
        );
        return Some(Impossible { why, possible: *limit, remedy: raise(least), instead: None });
    }
    let each = |promised: &[(&VolumeRole, u64)]| {
        let mut each: Vec<String> = promised
            .iter()
            .map(|(of, need)| format!("{} of VolumeRole {}", size(*need), of.name_any()))
            .collect();
        each.sort();
        names(&each, each.len())
    };
    for (limit, above) in above.into_iter().filter(|_| own > 0) {
        let is_below = |of: &&VolumeRole| {
            of.spec.role != above.spec.role && Role::name_covers(&above.spec.role, &of.spec.role)
        };
        let below: Vec<(&VolumeRole, u64)> =
            counting.values().copied().filter(is_below).map(|of| (of, 0)).collect();
        let promised = open_guarantees("", &below);
        let sum = total(&promised);
        if sum > limit {
            let why = format!(
                "the guarantees below VolumeRole {} are {} together, and its limit is {}: {}",
                above.name_any(),
                size(sum),
                size(limit),
                each(&promised)
            );
            let possible = own.saturating_sub(sum - limit);
            return Some(Impossible { why, possible, remedy: raise(above), instead: None });
        }
    }
    let there = disks.iter().filter(|disk| !disk.spec.gone && disk.metadata.deletion_timestamp.is_none());
    let capacity = there.map(|disk| allocatable::of_disk(disk)).fold(0, u64::saturating_add);
    let has_its_own = |of: &VolumeRole| {
        let guarantee = of.spec.quota.guarantee.as_ref().map_or(0, Size::bytes_or_zero);
        guarantee <= ledger::total(entries(of))
    };
    let all: Vec<(&VolumeRole, u64)> = counting.into_values().map(|role| (role, 0)).collect();
    // No role is called like this, so no guarantee is left out.
    let promised = open_guarantees("", &all);
    let sum = total(&promised);
    let why = match (own > capacity, sum > capacity) {
        _ if own == 0 => return None,
        (true, _) => {
            format!("the guarantee of {} is more than all disks have, which is {}", size(own), size(capacity))
        }
        (false, true) => {
            format!(
                "the guarantees of all roles are {} together, and all disks have {}: {}",
                size(sum),
                size(capacity),
                each(&promised)
            )
        }
        (false, false) => return None,
    };
    // One that is to be lowered leads to no other one, so no two lead to each other.
    let is_instead =
        |(of, need): &&(&VolumeRole, u64)| *need > capacity || has_its_own(role) && !has_its_own(of);
    let others = promised.iter().filter(|(of, _)| own <= capacity && of.name_any() != role.name_any());
    let instead = others.filter(is_instead).map(|(of, need)| (*need, of.name_any())).max();
    let possible = own.saturating_sub(sum.max(own).saturating_sub(capacity));
    Some(Impossible {
        why,
        possible,
        remedy: "add disks".to_owned(),
        instead: instead.map(|(_, other)| other),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::*;

    #[test]
    fn a8_a_full_ledger_refuses_nobody_who_asks_for_no_bytes() {
        let names: Vec<String> = (0..1000).map(|i| format!("r{i}")).collect();
        let held: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 1)).collect();
        let role = with_quota(volume_role("eng", "eng"), Some(5000), None, &held);
        let refusal = |asked| refusal(&role, Some("eng"), &Taken::default(), asked);
        assert_eq!(refusal(1).unwrap().reason, reason::TOO_MANY_RESERVATIONS);
        assert_eq!(refusal(0), None);
    }

    #[test]
    fn q1_bytes_that_move_within_a_role_are_charged_once() {
        assert_eq!(lineage("eng/ml/x").collect::<Vec<_>>(), ["eng/ml/x", "eng/ml", "eng"]);
        let table = [
            ("eng", "eng", None, true),
            ("eng", "eng/ml", None, true),
            ("eng/ml", "eng", None, false),
            ("eng", "engx", None, false),
            ("eng", "eng/ml", Some("eng"), false),
            ("eng/ml", "eng/ml", Some("eng"), true),
            ("eng/ml", "eng/ml/x", Some("eng/ml"), false),
        ];
        for (of, role, parent, charged) in table {
            assert_eq!(charges(of, role, parent), charged, "{of} {role} {parent:?}");
        }
    }

    #[test]
    fn q2_the_older_object_of_a_role_counts_once_it_has_summed_up() {
        let (a, mut b) = (volume_role("a", "eng"), volume_role("b", "eng"));
        b.metadata.creation_timestamp = later();
        assert_eq!(counting(&[&b, &a])["eng"].name_any(), "a");
        let mut eng = with_quota(volume_role("eng", "eng"), Some(10), None, &[]);
        assert!(!is_current(&volume_role("eng", "eng")) && is_current(&eng));
        eng.metadata.generation = Some(2);
        assert!(!is_current(&eng), "its limit has just been changed");
    }

    #[test]
    fn q2_others_cannot_reserve_a_guarantee_away() {
        let role = |name: &str, guarantee| {
            with_quota(volume_role(&name.replace('/', "-"), name), None, Some(guarantee), &[])
        };
        let (ops, eng, ml) = (role("ops", 4), role("eng", 3), role("eng/ml", 2));
        let refused = |who, asked: u64, free: u64, books: &[(&VolumeRole, u64)]| {
            let books: Vec<_> = books.iter().map(|(role, n)| (*role, n << 30)).collect();
            guaranteed(who, asked << 30, free << 30, &books).map(|v| v.message)
        };
        assert_eq!(refused("eng", 6, 10, &[(&ops, 0)]), None);
        assert_eq!(
            refused("eng", 7, 10, &[(&ops, 0)]).unwrap(),
            "7Gi asked for is 1Gi too much: of 10Gi free on all disks are guaranteed 4Gi to role ops; \
             unreserve something or lower the guarantee of VolumeRole ops"
        );
        assert_eq!(
            refused("eng", 7, 10, &[(&ops, 1)]),
            None,
            "what ops has reserved is not kept for it again"
        );
        assert_eq!(refused("ops", 10, 10, &[(&ops, 0)]), None, "it is its own");
        assert_eq!(refused("ops/x", 10, 10, &[(&ops, 0)]), None, "and its sub-roles'");
        assert_eq!(
            refused("new", 3, 10, &[(&ops, 0), (&eng, 0), (&ml, 0)]),
            None,
            "eng/ml's is part of eng's"
        );
        assert!(refused("new", 4, 10, &[(&ops, 0), (&eng, 0), (&ml, 0)]).is_some());
        assert!(
            refused("new", 5, 10, &[(&ops, 0), (&eng, 3), (&ml, 0)]).is_some(),
            "eng has its own, ml not yet"
        );
        assert!(
            refused("eng", 5, 10, &[(&ops, 0), (&ml, 0)]).is_some(),
            "a parent cannot take its sub-role's"
        );
    }

    /// Q2: the rest of an ancestor's limit is not given to one sub-role beside the guarantee of another one.
    #[test]
    fn q2_others_cannot_reserve_a_guarantee_away_within_a_limit() {
        let role = |name: &str, limit, guarantee| {
            with_quota(volume_role(&name.replace('/', "-"), name), limit, guarantee, &[])
        };
        let (corp, a, b) =
            (role("corp", Some(10), Some(5)), role("corp/a", None, Some(8)), role("corp/b", None, None));
        let books = |has: u64| vec![(&corp, has << 30), (&a, has << 30), (&b, 0)];
        let said = |who, has: u64, asked: u64| {
            let books = books(has);
            let taken = taken(&corp, who, has << 30, &books);
            refusal(&corp, None, &taken, asked << 30).map(|why| why.message)
        };
        let beside = "role corp has 0 of its limit of 10Gi reserved and 8Gi guaranteed to role corp/a, 6Gi asked for is 4Gi too much; \
                      ask for less, lower the guarantee of VolumeRole corp-a or raise the limit of VolumeRole corp";
        for other in ["corp/b", "corp", "corp/b/c"] {
            assert_eq!(said(other, 0, 6).as_deref(), Some(beside), "{other}");
            assert_eq!(said(other, 0, 2), None, "{other}");
            assert_eq!(said(other, 8, 2), None, "{other}: a has its own");
        }
        for own in ["corp/a", "corp/a/x"] {
            assert_eq!(said(own, 0, 10), None, "{own}: it is its own");
        }
        let free = role("corp", None, None);
        assert_eq!(taken(&free, "corp/b", 1, &books(0)), Taken { reserved: 1, open: vec![] }, "no limit");
        // A role that unreserves bytes within its guarantee is guaranteed them again.
        let with = |of: &str| {
            let mut has = with_quota(volume_role("corp", "corp"), Some(10), None, &[("r", 5)]);
            has.status.as_mut().unwrap().reservations[0].role = of.into();
            let a = (&a, if of == "corp/a" { 5 << 30 } else { 0 });
            let books = [(&has, 5 << 30), a];
            refusal(&has, None, &taken(&has, "corp/b", 5 << 30, &books), 2 << 30).map(|why| why.message)
        };
        let said = with("corp/b").unwrap();
        assert!(
            said.contains("too much; unreserve something, lower the guarantee of VolumeRole corp-a or"),
            "{said}"
        );
        assert_eq!(with("corp/a"), None, "3Gi are kept for it beside its 5Gi");
    }

    #[test]
    fn q2_a_guarantee_that_nothing_can_meet_is_known() {
        let role = |name: &str, limit, guarantee| {
            with_quota(volume_role(&name.replace('/', "-"), name), limit, guarantee, &[])
        };
        let (small, mut away) = (disk("n1.a", "n1", 6, &[("has", 6)]), disk("n2.a", "n2", 4, &[]));
        set_ready(&mut away.status.as_mut().unwrap().conditions, false);
        let mut gone = disk("n3.a", "n3", 100, &[]);
        gone.spec.gone = true;
        let disks = [&small, &away, &gone];
        let told = |of: &VolumeRole, all: &[&VolumeRole]| {
            impossible(of, all, &disks).map(|found| (found.why, found.possible >> 30))
        };
        let (ops, eng, ml) =
            (role("ops", None, Some(6)), role("eng", None, Some(4)), role("eng/ml", None, Some(3)));
        assert_eq!(
            told(&ops, &[&ops, &eng, &ml]),
            None,
            "10 of 10, also while one is away and the other full"
        );
        let lord = role("lord", None, Some(11));
        let alone = "the guarantee of 11Gi is more than all disks have, which is 10Gi";
        assert_eq!(told(&lord, &[&lord]), Some((alone.to_owned(), 10)));
        let more = role("more", None, Some(1));
        let together = "the guarantees of all roles are 11Gi together, and all disks have 10Gi: 1Gi of VolumeRole more, \
                        4Gi of VolumeRole eng and 6Gi of VolumeRole ops";
        assert_eq!(told(&ops, &[&ops, &eng, &ml, &more]), Some((together.to_owned(), 5)));
        assert_eq!(told(&more, &[&ops, &eng, &more]), Some((together.to_owned(), 0)));
        let above = role("eng", Some(2), None);
        let beneath = "the guarantee of 3Gi is more than the limit of 2Gi of VolumeRole eng";
        assert_eq!(told(&ml, &[&above, &ml]), Some((beneath.to_owned(), 2)));
        let (above, web) = (role("eng", Some(5), None), role("eng/web", None, Some(3)));
        let below = "the guarantees below VolumeRole eng are 6Gi together, and its limit is 5Gi: 3Gi of VolumeRole eng-ml and 3Gi of \
                     VolumeRole eng-web";
        assert_eq!(told(&ml, &[&above, &ml, &web]), Some((below.to_owned(), 2)));
        assert_eq!(told(&above, &[&above, &ml, &web]), None);
        let none = role("none", Some(2), None);
        assert_eq!(told(&none, &[&none, &lord]), None, "it guarantees nothing");
        let instead = |of: &VolumeRole, all: &[&VolumeRole]| impossible(of, all, &disks).unwrap().instead;
        assert_eq!(instead(&ops, &[&ops, &lord]).as_deref(), Some("lord"), "it is too large by itself");
        assert_eq!(instead(&lord, &[&ops, &lord]), None);
        let mut lady = lord.clone();
        (lady.metadata.name, lady.spec.role) = (Some("lady".into()), "lady".into());
        for of in [&lord, &lady] {
            assert_eq!(instead(of, &[&ops, &lord, &lady]), None, "no circle (seed 30196)");
        }
        assert_eq!(instead(&more, &[&ops, &eng, &more]), None, "the last one is the one too much");
        let served = with_quota(volume_role("eng", "eng"), None, Some(4), &[("eng-1", 4)]);
        assert_eq!(
            instead(&served, &[&ops, &served, &more]).as_deref(),
            Some("ops"),
            "it has its own in full"
        );
    }
}
