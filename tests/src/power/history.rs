//! What a client asked of a disk and was answered, in order; and what a power cut may leave of it.
//!
//! After each answer that promises durability the client leaves a mark in the device's log, named
//! like the event. So of a cut one knows which promises had been given: those whose marks lie
//! before it. It must leave
//! - of every sector, a write of the history as a whole, or zeros;
//! - every write that had been answered before a flush was asked for whose answer is marked;
//! - nothing later without everything earlier: where it leaves a write, every write that had been
//!   answered before that one was asked for;
//! - every snapshot whose mark it has, exactly, and none whose deletion is marked.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A write of whole sectors; each has a number of its own, ascending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write {
    /// Which.
    pub number: u64,
    /// Its first sector.
    pub first: u64,
    /// How many.
    pub count: u64,
}

/// Something that the client did or heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Asked for a write.
    Asked(Write),
    /// That write was answered.
    Answered(u64),
    /// Asked for a flush.
    FlushAsked(u64),
    /// That flush was answered; marked.
    Flushed(u64),
    /// Asked for a snapshot, with no request under way.
    SnapshotAsked(String),
    /// It was taken; marked.
    Taken(String),
    /// Asked for a snapshot to be deleted.
    DeletionAsked(String),
    /// It was deleted; marked.
    Deleted(String),
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked(Write { number, first, count }) => {
                write!(f, "asked {number} {first} {count}")
            }
            Self::Answered(number) => write!(f, "answered {number}"),
            Self::FlushAsked(number) => write!(f, "flush {number}"),
            Self::Flushed(number) => write!(f, "flushed {number}"),
            Self::SnapshotAsked(name) => write!(f, "snapshot {name}"),
            Self::Taken(name) => write!(f, "taken {name}"),
            Self::DeletionAsked(name) => write!(f, "delete {name}"),
            Self::Deleted(name) => write!(f, "deleted {name}"),
        }
    }
}

impl Event {
    fn parse(line: &str) -> Option<Self> {
        let (word, rest) = line.split_once(' ')?;
        let number = || rest.parse().ok();
        Some(match word {
            "asked" => {
                let numbers: Vec<u64> =
                    rest.split(' ').map_while(|word| word.parse().ok()).collect();
                let [number, first, count] = numbers[..] else { return None };
                Self::Asked(Write { number, first, count })
            }
            "answered" => Self::Answered(number()?),
            "flush" => Self::FlushAsked(number()?),
            "flushed" => Self::Flushed(number()?),
            "snapshot" => Self::SnapshotAsked(rest.to_owned()),
            "taken" => Self::Taken(rest.to_owned()),
            "delete" => Self::DeletionAsked(rest.to_owned()),
            "deleted" => Self::Deleted(rest.to_owned()),
            _ => return None,
        })
    }

    fn is_marked(&self) -> bool {
        matches!(self, Self::Flushed(_) | Self::Taken(_) | Self::Deleted(_))
    }
}

/// What a cut has left: of each sector the number of its write, 0 for zeros.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The disk itself.
    pub head: Vec<u64>,
    /// Its snapshots, by name.
    pub snapshots: BTreeMap<String, Vec<u64>>,
}

/// A promise that was not kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// A sector holds an older write than it must.
    #[error("sector {sector} of {version} holds write {found}; write {promised} was promised")]
    Lost {
        /// Of what.
        version: String,
        /// Which.
        sector: u64,
        /// What is there.
        found: u64,
        /// What must be, if nothing later.
        promised: u64,
    },
    /// A sector holds what nobody had written there.
    #[error("sector {sector} of {version} holds write {found}, which nobody had written there yet")]
    Invented {
        /// Of what.
        version: String,
        /// Which.
        sector: u64,
        /// What is there.
        found: u64,
    },
    /// A snapshot is not there.
    #[error("snapshot {0} was taken and is gone")]
    SnapshotLost(String),
    /// A snapshot is there.
    #[error("snapshot {0} is there and should not be")]
    SnapshotBack(String),
}

/// The events, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    events: Vec<Event>,
}

/// What lies between two moments of a history.
#[derive(Clone, Copy, Debug)]
struct Span {
    /// The last event that is known to have happened before the cut.
    from: usize,
    /// The first that is known not to have.
    to: usize,
}

impl History {
    /// Writes an event down; its mark, where it is to have one.
    pub fn note(&mut self, event: Event) -> Option<String> {
        let mark = event.is_marked().then(|| event.to_string().replace(' ', "-"));
        self.events.push(event);
        mark
    }

    /// One event a line.
    pub fn to_text(&self) -> String {
        self.events.iter().map(|event| format!("{event}\n")).collect()
    }

    /// Reads it back; `None` where that is none.
    pub fn parse(text: &str) -> Option<Self> {
        let events: Option<Vec<Event>> = text.lines().map(Event::parse).collect();
        Some(Self { events: events? })
    }

    /// The number of sectors that were written up to the last one.
    pub fn sector_count(&self) -> u64 {
        self.writes().map(|write| write.first + write.count).max().unwrap_or(0)
    }

    fn writes(&self) -> impl Iterator<Item = &Write> {
        self.events.iter().filter_map(|event| match event {
            Event::Asked(write) => Some(write),
            _ => None,
        })
    }

    fn time_of(&self, event: &Event) -> Option<usize> {
        self.events.iter().position(|other| other == event)
    }

    /// Whether a cut may leave that, before which these marks had been made.
    ///
    /// # Errors
    /// The first promise that was not kept.
    pub fn check(&self, marks: &BTreeSet<String>, found: &Found) -> Result<(), Broken> {
        let span = self.span(marks);
        let promised = self.promised(span, &found.head);
        self.compare("the disk", &found.head, promised, span.to)?;
        self.check_snapshots(span, found)
    }

    fn span(&self, marks: &BTreeSet<String>) -> Span {
        let marked = |event: &Event| {
            event.is_marked().then(|| marks.contains(&event.to_string().replace(' ', "-")))
        };
        let from = self.events.iter().rposition(|event| marked(event) == Some(true));
        let from = from.map_or(0, |at| at + 1);
        let to = self.events[from..].iter().position(|event| marked(event) == Some(false));
        Span { from, to: to.map_or(self.events.len(), |at| from + at) }
    }

    /// Writes answered before this event are promised.
    fn promised(&self, span: Span, head: &[u64]) -> usize {
        let begun = |event: &Event| match event {
            Event::Flushed(number) => self.time_of(&Event::FlushAsked(*number)),
            Event::Taken(name) => self.time_of(&Event::SnapshotAsked(name.clone())),
            _ => None,
        };
        let flushed = self.events[..span.from].iter().filter_map(begun).max().unwrap_or(0);
        let latest = head.iter().copied().max().unwrap_or(0);
        let found = self
            .events
            .iter()
            .position(|event| matches!(event, Event::Asked(write) if write.number == latest));
        flushed.max(found.unwrap_or(0))
    }

    /// Compares a version with what was answered before `promised`, and asked for before `to`.
    fn compare(
        &self,
        version: &str,
        found: &[u64],
        promised: usize,
        to: usize,
    ) -> Result<(), Broken> {
        let mut least = vec![0; found.len()];
        let mut asked = BTreeMap::new();
        for (time, event) in self.events[..to].iter().enumerate() {
            match event {
                Event::Asked(write) => drop(asked.insert(write.number, *write)),
                Event::Answered(number) if time < promised => {
                    sectors(&asked[number]).for_each(|sector| least[sector] = *number);
                }
                _ => {}
            }
        }
        for ((sector, found), promised) in (0..).zip(found.iter().copied()).zip(least) {
            let version = || version.to_owned();
            if found < promised {
                return Err(Broken::Lost { version: version(), sector, found, promised });
            }
            let covers = |write: &Write| (write.first..write.first + write.count).contains(&sector);
            if found > 0 && !asked.get(&found).is_some_and(covers) {
                return Err(Broken::Invented { version: version(), sector, found });
            }
        }
        Ok(())
    }

    fn check_snapshots(&self, span: Span, found: &Found) -> Result<(), Broken> {
        for (time, event) in self.events.iter().enumerate() {
            let Event::SnapshotAsked(name) = event else { continue };
            let before = |event: &Event, end: usize| self.events[..end].contains(event);
            let deletion_asked = before(&Event::DeletionAsked(name.clone()), span.to);
            let deleted = before(&Event::Deleted(name.clone()), span.from);
            let taken = before(&Event::Taken(name.clone()), span.from);
            match found.snapshots.get(name) {
                Some(_) if deleted || time >= span.to => {
                    return Err(Broken::SnapshotBack(name.clone()));
                }
                Some(held) => self.compare(&format!("snapshot {name}"), held, time, time)?,
                None if taken && !deletion_asked => {
                    return Err(Broken::SnapshotLost(name.clone()));
                }
                None => {}
            }
        }
        Ok(())
    }
}

fn sectors(write: &Write) -> impl Iterator<Item = usize> {
    let range = write.first..write.first + write.count;
    range.filter_map(|sector| usize::try_from(sector).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes 1 and 2, a flush, 3 over 1, a snapshot, 4 over 2, unanswered; the snapshot's end.
    fn history() -> History {
        let text = "asked 1 0 2\nasked 2 2 2\nanswered 1\nanswered 2\nflush 1\nflushed 1\n\
                    asked 3 0 1\nanswered 3\nsnapshot s\ntaken s\nasked 4 3 1\n\
                    delete s\ndeleted s\n";
        let history = History::parse(text).unwrap();
        assert_eq!(history.to_text(), text);
        history
    }

    fn check(marks: &[&str], head: [u64; 4], snapshot: Option<[u64; 4]>) -> Result<(), Broken> {
        let marks = marks.iter().map(|mark| (*mark).to_owned()).collect();
        let snapshots = snapshot.map(|held| ("s".to_owned(), held.to_vec()));
        let found = Found { head: head.to_vec(), snapshots: snapshots.into_iter().collect() };
        history().check(&marks, &found)
    }

    #[test]
    fn what_was_not_promised_may_be_gone() {
        for head in [[0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 2, 0], [1, 0, 0, 2]] {
            assert_eq!(check(&[], head, None), Ok(()));
        }
    }

    #[test]
    fn what_was_flushed_must_be_there_and_later_writes_may_be() {
        for head in [[1, 1, 2, 2], [3, 1, 2, 2]] {
            assert_eq!(check(&["flushed-1"], head, None), Ok(()));
        }
        let lost = check(&["flushed-1"], [1, 1, 2, 0], None);
        assert!(matches!(lost, Err(Broken::Lost { sector: 3, found: 0, promised: 2, .. })));
    }

    #[test]
    fn a_later_write_never_survives_an_earlier_one() {
        let text = "asked 1 0 2\nasked 2 2 2\nanswered 1\nanswered 2\nasked 3 0 1\n";
        let check = |head: [u64; 4]| {
            let found = Found { head: head.to_vec(), snapshots: BTreeMap::new() };
            History::parse(text).unwrap().check(&BTreeSet::new(), &found)
        };
        assert_eq!(check([1, 0, 2, 0]), Ok(()));
        assert_eq!(check([3, 1, 2, 2]), Ok(()));
        // 3 was asked for after 1 and 2 had been answered.
        assert!(matches!(check([3, 1, 2, 0]), Err(Broken::Lost { sector: 3, .. })));
    }

    #[test]
    fn nothing_is_there_that_nobody_wrote_there_or_not_yet() {
        let elsewhere = check(&["flushed-1"], [1, 1, 2, 3], None);
        assert!(matches!(elsewhere, Err(Broken::Invented { sector: 3, found: 3, .. })));
        let early = check(&["flushed-1"], [3, 1, 2, 4], None);
        assert!(matches!(early, Err(Broken::Invented { sector: 3, found: 4, .. })), "{early:?}");
    }

    #[test]
    fn a_snapshot_that_was_taken_is_there_exactly_until_it_is_deleted() {
        let (marks, head) = (["flushed-1", "taken-s"], [3, 1, 2, 4]);
        assert_eq!(check(&marks, head, Some([3, 1, 2, 2])), Ok(()));
        let other = check(&marks, head, Some([3, 1, 2, 4]));
        assert!(matches!(other, Err(Broken::Invented { sector: 3, .. })), "{other:?}");
        // Its deletion may have begun; before that was asked for, it must be there.
        assert_eq!(check(&marks, head, None), Ok(()));
        let before = History { events: history().events[..11].to_vec() };
        let found = Found { head: head.to_vec(), snapshots: BTreeMap::new() };
        let marks: BTreeSet<String> = marks.iter().map(|mark| (*mark).to_owned()).collect();
        assert_eq!(before.check(&marks, &found), Err(Broken::SnapshotLost("s".into())));
        let all = ["flushed-1", "taken-s", "deleted-s"];
        assert_eq!(check(&all, head, None), Ok(()));
        let back = check(&all, head, Some([3, 1, 2, 2]));
        assert_eq!(back, Err(Broken::SnapshotBack("s".into())));
    }
}
