//! What to do, decided from what was seen: no client, no clock, no I/O. Imports only [`crate::api`].
//!
//! Each file is one decision. The controller and the agent gather what it looks at and apply what it says.

pub mod adopt;
pub mod backing;
pub mod bind;
pub mod create;
pub mod destroy;
pub mod disk_identity;
pub mod ledger;
pub mod moment;
pub mod node_disk;
pub mod node_task;
pub mod offer;
pub mod orphans;
pub mod plain;
pub mod publish;
mod queue;
pub mod quota;
pub mod recover;
pub mod release;
pub mod reserve;
pub mod resize;
pub mod retire;
pub mod room;
pub mod share;
pub mod static_reservations;
pub mod summary;
pub mod usage;
pub mod whole;

/// At most this many pods are listed in a status; their number is always the whole one.
pub const LISTED_PODS: usize = 16;

/// `a`, `a and b`, `a, b and c`, `a, b, c and 7 more`: the first three names, and how many there are besides.
pub(crate) fn names<T: std::fmt::Display>(items: &[T], total: usize) -> String {
    let shown: Vec<String> = items.iter().take(3).map(ToString::to_string).collect();
    let more = total.saturating_sub(shown.len());
    match (shown.split_last(), more) {
        (None, more) => more.to_string(),
        (Some(_), 1..) => format!("{} and {more} more", shown.join(", ")),
        (Some((last, [])), 0) => last.clone(),
        (Some((last, rest)), 0) => format!("{} and {last}", rest.join(", ")),
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
pub(crate) mod testing;
