//! Agents that do not serve (D8). A disk without its agent is not Ready, but the restart of an agent changes no status.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;

/// The time without an agent after which the disks of a node are not Ready. An agent restarts within this time.
pub const SILENT_AFTER: Duration = Duration::from_secs(60);

/// The nodes whose agent does not serve, each with the time since when, in the memory of one controller. Another
/// controller begins to count anew.
#[derive(Debug, Default)]
pub struct Silence(HashMap<String, Timestamp>);

impl Silence {
    /// Notes that the agent of a node serves or does not. Returns the time until it counts as silent, which is zero for a
    /// silent one; `None` if it serves.
    pub fn note(&mut self, node: &str, serves: bool, now: Timestamp) -> Option<Duration> {
        if serves {
            self.0.remove(node);
            return None;
        }
        let since = *self.0.entry(node.to_owned()).or_insert(now);
        let elapsed = now.duration_since(since).try_into().unwrap_or_default();
        Some(SILENT_AFTER.saturating_sub(elapsed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d8_an_agent_is_silent_after_a_minute() {
        let mut silence = Silence::default();
        let mut at = |second: i64, serves| {
            let left = silence.note("n1", serves, Timestamp::from_second(second).unwrap());
            left.map(|left| left.as_secs())
        };
        assert_eq!([at(0, true), at(1, false), at(31, false)], [None, Some(60), Some(30)]);
        assert_eq!(
            [at(60, true), at(70, false), at(130, false), at(999, false)],
            [None, Some(60), Some(0), Some(0)]
        );
        assert_eq!(
            [at(1_000, true), at(1_001, false), at(0, false)],
            [None, Some(60), Some(60)],
            "a clock that is set back"
        );
    }
}
