//! What the wall clock said at each event, and which moment between two events a wall time is.

use super::history::Time;
use super::history::past::BeforeEvent;

#[derive(Default)]
pub struct Walls {
    /// In order of events.
    events: Vec<(Time, u64)>,
}

/// Where a wall time lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Before this event, the first at which the clock said more.
    Before(BeforeEvent),
    /// Behind all events so far.
    AfterAll,
    /// The clock was set back across it.
    Twice,
}

impl Walls {
    pub fn note(&mut self, event: Time, wall_ns: u64) {
        self.events.push((event, wall_ns));
    }

    pub fn events(&self) -> &[(Time, u64)] {
        &self.events
    }

    /// No event after `since` came at an earlier wall time than one before it.
    pub fn is_monotone_since(&self, since: Time) -> bool {
        let from = self.events.partition_point(|(event, _)| *event < since);
        self.events[from..].is_sorted_by_key(|(_, wall_ns)| *wall_ns)
    }

    /// The moment after the last event that came at `wall_ns` or earlier.
    pub fn find(&self, wall_ns: u64) -> Place {
        let Some(first) = self.events.iter().position(|(_, at)| *at > wall_ns) else { return Place::AfterAll };
        if self.events[first..].iter().any(|(_, at)| *at <= wall_ns) {
            return Place::Twice;
        }
        Place::Before(BeforeEvent(self.events[first].0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_times_find_their_moments() {
        let mut walls = Walls::default();
        for (event, wall_ns) in [(1, 10), (2, 10), (3, 20), (4, 40), (5, 30), (6, 50)] {
            walls.note(event, wall_ns);
        }
        let before = |event| Place::Before(BeforeEvent(event));
        for (wall_ns, place) in [
            (9, before(1)),
            (10, before(3)),
            (19, before(3)),
            (20, before(4)),
            (35, Place::Twice),
            (40, before(6)),
            (50, Place::AfterAll),
        ] {
            assert_eq!(walls.find(wall_ns), place, "{wall_ns}");
        }
        assert!(!walls.is_monotone_since(1) && walls.is_monotone_since(5));
    }
}
