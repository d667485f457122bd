//! The events of a change of conditions (T2). A wait becomes an event only if it lasts (F2): objects that are applied at
//! once find each other within moments, in any order.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::api::condition::{self, COPIED, READY, RESIZED, RETIRING, TEMPLATED, reason};

/// The time after which a wait becomes an event.
pub const LASTING: Duration = Duration::from_secs(5);

/// The time of a transition's event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// No event. An earlier wait of this condition is over, or has turned into an intermediate step.
    Never,
    /// A change for the better, or for good. An earlier wait of this condition is over.
    AtOnce,
    /// A wait, unless it ends within [`LASTING`].
    IfItLasts,
    /// The same wait with another message, which replaces the message of an event that is still to come.
    Reworded,
}

/// A change of a condition.
#[derive(Debug)]
pub struct Transition<'a> {
    /// Type of the condition.
    pub type_: &'static str,
    /// The new condition.
    pub is: &'a Condition,
    /// The time of the event.
    pub when: When,
}

/// Reasons without an event: intermediate steps, and [`reason::REFUSED`], of which every failed reconcile has its own
/// event.
const QUIET: [&str; 6] = [
    reason::CREATING,
    reason::BINDING,
    reason::RELEASING,
    reason::RESIZING,
    reason::COPYING,
    reason::REFUSED,
];

/// The changes of conditions that people are told about.
pub fn transitions<'a>(before: &[Condition], after: &'a [Condition]) -> Vec<Transition<'a>> {
    let changed = [READY, RESIZED, RETIRING, TEMPLATED, COPIED].into_iter().filter_map(|type_| {
        let is = condition::get(after, type_)?;
        let was = condition::get(before, type_);
        let when = match was.filter(|was| was.status == is.status && was.reason == is.reason) {
            None if is_plain_start(was, is) => When::Never,
            None => when(is),
            Some(was) if was.message != is.message && when(is) == When::IfItLasts => When::Reworded,
            Some(_) => return None,
        };
        Some(Transition { type_, is, when })
    });
    changed.collect()
}

/// True if an object became ready as it should, after no wait that was an event: its condition says so to everybody who looks.
fn is_plain_start(was: Option<&Condition>, is: &Condition) -> bool {
    let has_lasted = |was: &Condition| {
        let waited = is.last_transition_time.0.duration_since(was.last_transition_time.0);
        let is_long = Duration::try_from(waited).is_ok_and(|waited| waited >= LASTING);
        was.status == "True" || is_long && !QUIET.contains(&was.reason.as_str())
    };
    is.type_ == READY && is.status == "True" && !was.is_some_and(has_lasted)
}

fn when(is: &Condition) -> When {
    match is.reason.as_str() {
        quiet if QUIET.contains(&quiet) => When::Never,
        // The cancelled retirement of a volume is no wait.
        reason::RETIRE_WITHDRAWN => When::AtOnce,
        // The object may be deleted soon after that (D7).
        reason::NODE_GONE => When::AtOnce,
        _ if is.status == "True" => When::AtOnce,
        _ => When::IfItLasts,
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::api::condition::Verdict;

    #[test]
    fn f2_only_a_wait_has_to_last() {
        let at = |second, ok, reason| {
            let mut conditions = vec![];
            let verdict = Verdict { ok, reason, message: String::new() };
            condition::set(&mut conditions, READY, verdict, None, Timestamp::from_second(second).unwrap());
            conditions
        };
        let of = |ok, reason| at(0, ok, reason);
        for (before, after, expected) in [
            (vec![], of(false, reason::NOT_ENOUGH_ROOM), Some(When::IfItLasts)),
            (of(false, reason::NOT_ENOUGH_ROOM), of(false, reason::NOT_ENOUGH_ROOM), None),
            (of(false, reason::NOT_ENOUGH_ROOM), at(5, true, reason::READY), Some(When::AtOnce)),
            (of(false, reason::NOT_ENOUGH_ROOM), at(4, true, reason::READY), Some(When::Never)),
            (vec![], of(true, reason::READY), Some(When::Never)),
            (of(false, reason::CREATING), at(9, true, reason::READY), Some(When::Never)),
            (of(true, reason::READY), of(true, reason::BOUND), Some(When::AtOnce)),
            (of(true, reason::READY), of(false, reason::NODE_UNREACHABLE), Some(When::IfItLasts)),
            (of(false, reason::NO_SUCH_VOLUME), of(false, reason::BINDING), Some(When::Never)),
            (vec![], of(false, reason::RETIRE_WITHDRAWN), Some(When::AtOnce)),
            (vec![], of(false, reason::NODE_GONE), Some(When::AtOnce)),
        ] {
            let found: Vec<When> =
                transitions(&before, &after).into_iter().map(|change| change.when).collect();
            assert_eq!(found, Vec::from_iter(expected), "{after:?}");
        }
        let (before, mut after) = (of(false, reason::NO_MATCH), of(false, reason::NO_MATCH));
        after[0].message = "with the numbers".into();
        assert_eq!(transitions(&before, &after)[0].when, When::Reworded);
    }
}
