//! TURN: the time in which free space is held back for one reservation, and the order of turns (Q5).
//!
//! The clock decides only the order: ledgers and limits hold for any clock.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::api::condition::reason;
use crate::api::{CollectingTurn, DiskReservation};

use super::queue::Request;

/// The length of a turn.
pub const TURN: SignedDuration = SignedDuration::from_mins(5);
/// The wait after which a reservation with the turn is served before all others.
pub const LONG: SignedDuration = SignedDuration::from_hours(1);

/// The end of a turn.
pub fn end(turn: Timestamp) -> Timestamp {
    turn.checked_add(TURN).unwrap_or(Timestamp::MAX)
}

/// True if a turn has not ended. The clock may have been set back since the begin of the turn.
fn lasts(turn: Timestamp, now: Timestamp) -> bool {
    now.duration_since(turn).abs() < TURN
}

/// The time until the first of these turns ends, and at most the length of a turn. Then the sharing out is repeated.
pub fn first_end<'a>(turns: impl Iterator<Item = &'a CollectingTurn>, now: Timestamp) -> Duration {
    let begins = turns.map(|turn| turn.since.0).filter(|since| lasts(*since, now));
    let left = begins.map(|since| end(since).duration_since(now));
    left.chain([TURN]).min().and_then(|left| left.try_into().ok()).unwrap_or_default()
}

/// True if the turns of reservations change why this one waits. What repeats its words would be written at each turn (T2).
pub fn changes(reservation: &DiskReservation, ready: &Condition) -> bool {
    let had_turn = reservation.status.as_ref().is_some_and(|status| status.turn.is_some());
    had_turn || [reason::OVER_QUOTA, reason::GUARANTEED].contains(&&*ready.reason)
}

impl Request<'_> {
    pub(super) fn has_turn(&self, now: Timestamp) -> bool {
        self.turn.as_ref().is_some_and(|turn| lasts(turn.since.0, now))
    }

    /// True if the request has a turn, or this controller gave one within the length of a turn. A second leader with
    /// another clock has replaced that turn. Without this bound, each leader would replace the other's turn at once.
    pub(super) fn had_turn_lately(&self, now: Timestamp) -> bool {
        self.has_turn(now) || self.gave.is_some_and(|gave| lasts(gave, now))
    }

    pub(super) fn waits_long(&self, now: Timestamp) -> bool {
        now.duration_since(self.waits_since) >= LONG
    }

    /// The time since when the request has had no turn. The smallest time comes first, so a new request and a request
    /// whose turn has ended come last.
    pub(super) fn without_turn_since(&self) -> (Timestamp, &str) {
        (self.turn.as_ref().map_or(self.waits_since, |turn| end(turn.since.0)), &self.uid)
    }
}
