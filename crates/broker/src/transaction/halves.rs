//! What is known of half messages: which wait, what became of the others, and how far both queues are done with.
//!
//! A state machine without I/O. A half message is known by its key (producer group and unique key) through all records
//! that were ever stored for it: sent again by an impatient client, put back by a check. The latest record stands for it,
//! the older ones are *superseded*. Memory is one entry for each that waits and one for each of the last that ended.
//!
//! Invariants: of a key at most one record waits; a record below [`Halves::end`] waits, or is written or about to be
//! written as done in the op queue, or lies below the progress of the half queue.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    ops::RangeBounds,
    sync::Arc,
};

use env::Millis;

use crate::api::Verdict;

/// Names a half message: a hash of producer group and unique key, long and random enough to meet no other.
pub(super) type Key = u128;

/// Makes keys. The seeds differ in each process, so nobody can prepare two texts with one hash.
pub(super) struct Keys([u64; 2]);

impl Keys {
    pub(super) fn new(random: &mut fastrand::Rng) -> Keys {
        Keys([random.u64(..), random.u64(..)])
    }

    pub(super) fn key(&self, group: &str, unique_key: &str) -> Key {
        let [low, high] = self.0.map(|seed| {
            let mut hasher = DefaultHasher::new();
            (seed, group, unique_key).hash(&mut hasher);
            hasher.finish()
        });
        u128::from(high) << 64 | u128::from(low)
    }
}

/// Who sent a half message, and where it is to go; shared by all that have both in common.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Origin {
    pub(super) group: Box<str>,
    pub(super) topic: Box<str>,
}

/// A half message that waits for its end.
#[derive(Debug, Clone)]
pub(super) struct Half {
    pub(super) key: Key,
    pub(super) origin: Arc<Origin>,
    pub(super) log_offset: u64,
    pub(super) len: u32,
    pub(super) born_at: Millis,
    /// `CHECK_IMMUNITY_TIME_IN_SECONDS`, if it says one.
    pub(super) immunity: Option<u32>,
    /// How often its producer was asked.
    pub(super) checks: u32,
    pub(super) proof: Proof,
}

/// Whether a half message that waits certainly has no final message in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proof {
    Proven,
    /// It was there at a start, and may have been committed just before: since this time, ms since the epoch.
    MissingSince(Millis),
}

impl Proof {
    /// What holds of a half message with two records.
    fn and(self, other: Proof) -> Proof {
        match (self, other) {
            (Proof::Proven, only) | (only, Proof::Proven) => only,
            (Proof::MissingSince(one), Proof::MissingSince(other)) => {
                Proof::MissingSince(one.min(other))
            }
        }
    }
}

/// When half messages are checked and given up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Age at which one is checked that does not say its own, ms.
    pub(super) timeout: i64,
    pub(super) checks_max: u32,
    /// Age at which one is given up unasked, ms.
    pub(super) age_max: i64,
}

/// What to do about a half message now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing, it is young or immune.
    Wait,
    /// Ask its producer.
    Check,
    /// Nobody could say what is to become of it: give it up.
    GiveUp,
}

impl Half {
    pub(super) fn due(&self, now: Millis, limits: Limits) -> Due {
        let age = now.saturating_sub(self.born_at);
        if (self.checks > 0 && self.checks >= limits.checks_max) || age > limits.age_max {
            return Due::GiveUp;
        }
        let is_young = match self.immunity {
            Some(seconds) => age <= i64::from(seconds) * 1_000,
            // Whoever is ahead of our clock is asked at once, as in the original.
            None => (0..=limits.timeout).contains(&age),
        };
        if is_young { Due::Wait } else { Due::Check }
    }
}

/// What an entry of the op queue says of a half record; the letter is ours, beside the offset that is the original's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Done {
    Committed,
    RolledBack,
    GivenUp,
    /// A later record stands for the half message, or it had ended before this one came.
    Superseded,
    /// In one of these ways: the original had noted it.
    Somehow,
}

impl Done {
    pub(super) fn letter(self) -> char {
        match self {
            Done::Committed => 'c',
            Done::RolledBack => 'r',
            Done::GivenUp => 'g',
            Done::Superseded => 's',
            Done::Somehow => '?',
        }
    }

    /// Reads a letter; [`Done::Somehow`] has none that says more than the offset does.
    pub(super) fn of_letter(letter: char) -> Option<Done> {
        [Done::Committed, Done::RolledBack, Done::GivenUp, Done::Superseded]
            .into_iter()
            .find(|done| done.letter() == letter)
    }
}

/// What became of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Its latest record waits at this queue offset.
    Waits(i64),
    Ended(Verdict),
    /// The original has noted an end and not which.
    EndedSomehow,
    GivenUp,
}

/// What may be done about the end of a half message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Judgement {
    /// It may end; if it waits, this is where.
    Ends(Option<i64>),
    /// Look in the log for its final message first, from this time on if it is said, and tell by [`Halves::prove`].
    Unproven(Option<Millis>),
    /// It has ended like this already.
    Again,
    /// It has ended otherwise.
    Contradicts(Verdict),
    /// It has ended so long ago that nobody remembers how.
    Forgotten,
}

/// Ends that the op queue has still to be told.
#[derive(Default)]
struct Unwritten {
    dones: VecDeque<(i64, Done)>,
    /// Bytes of their offsets, each with its comma.
    len: usize,
}

/// All half messages.
pub(super) struct Halves {
    waiting: BTreeMap<i64, Half>,
    fates: HashMap<Key, Fate>,
    /// Keys in the order of their ends; revived ones are still among them.
    ended: VecDeque<Key>,
    ended_max: usize,
    origins: HashSet<Arc<Origin>>,
    /// Behind the last record of the half queue.
    end: i64,
    unwritten: Unwritten,
    /// Entries of the op queue that are not done with: their offset, and the highest half offset in them.
    ops: VecDeque<(i64, i64)>,
    /// Behind the last entry of the op queue.
    ops_end: i64,
    /// How far the half queue was done with when that was last asked: it is never less.
    half_done: i64,
}

impl Halves {
    /// Begins with nothing, at the progress of both queues.
    pub(super) fn new(progress: Progress, ended_max: usize) -> Halves {
        Halves {
            waiting: BTreeMap::new(),
            fates: HashMap::new(),
            ended: VecDeque::new(),
            ended_max,
            origins: HashSet::new(),
            end: progress.half,
            unwritten: Unwritten::default(),
            ops: VecDeque::new(),
            ops_end: progress.op,
            half_done: progress.half,
        }
    }

    pub(super) fn count(&self) -> usize {
        self.waiting.len()
    }

    /// Behind the last record of the half queue that is known.
    pub(super) fn end(&self) -> i64 {
        self.end
    }

    /// Returns the half message whose record at this offset waits, if it still has this key.
    pub(super) fn at(&self, offset: i64, key: Key) -> Option<&Half> {
        self.waiting.get(&offset).filter(|half| half.key == key)
    }

    /// Iterates over those that wait, in the order of their records.
    pub(super) fn range(
        &self,
        offsets: impl RangeBounds<i64>,
    ) -> impl Iterator<Item = (i64, &Half)> {
        self.waiting.range(offsets).map(|(offset, half)| (*offset, half))
    }

    /// Returns how many wait for each topic that any waits for, or waited for lately.
    pub(super) fn count_by_topic(&self) -> BTreeMap<&str, i64> {
        let mut counts = BTreeMap::new();
        for origin in &self.origins {
            // Each that waits holds its origin, and the set does.
            let count = Arc::strong_count(origin) as i64 - 1;
            *counts.entry(&*origin.topic).or_default() += count;
        }
        counts
    }

    /// Returns the origin that those with this group and topic share.
    pub(super) fn origin(&mut self, group: &str, topic: &str) -> Arc<Origin> {
        let origin = Origin { group: group.into(), topic: topic.into() };
        if let Some(known) = self.origins.get(&origin) {
            return known.clone();
        }
        if self.origins.len() > 1_000 && self.origins.len() > 2 * self.waiting.len() {
            self.origins.retain(|origin| Arc::strong_count(origin) > 1);
        }
        let origin = Arc::new(origin);
        self.origins.insert(origin.clone());
        origin
    }

    /// Takes a new record of a half message. One whose key has ended does not wait again.
    pub(super) fn prepare(&mut self, offset: i64, mut half: Half) {
        self.end = self.end.max(offset + 1);
        match self.fates.get(&half.key) {
            Some(Fate::Ended(_) | Fate::EndedSomehow) => {
                self.unwritten.push(offset, Done::Superseded);
                return;
            }
            Some(Fate::Waits(older)) => {
                let older = *older;
                let before = self.waiting.remove(&older).expect("fates point to those that wait");
                half.proof = half.proof.and(before.proof);
                self.unwritten.push(older, Done::Superseded);
            }
            Some(Fate::GivenUp) | None => {}
        }
        self.fates.insert(half.key, Fate::Waits(offset));
        self.waiting.insert(offset, half);
    }

    /// Says what may be done about an end.
    pub(super) fn judge(&self, key: Key, verdict: Verdict) -> Judgement {
        match self.fates.get(&key) {
            Some(Fate::Waits(at)) => match self.waiting[at].proof {
                Proof::Proven => Judgement::Ends(Some(*at)),
                Proof::MissingSince(since) => Judgement::Unproven(Some(since)),
            },
            Some(Fate::Ended(before)) if *before == verdict => Judgement::Again,
            Some(Fate::Ended(before)) => Judgement::Contradicts(*before),
            Some(Fate::EndedSomehow) => Judgement::Unproven(None),
            Some(Fate::GivenUp) => Judgement::Ends(None),
            None => Judgement::Forgotten,
        }
    }

    /// Takes what a look into the log has shown: whether the key has a final message.
    pub(super) fn prove(&mut self, key: Key, has_final: bool) {
        match self.fates.get(&key) {
            Some(Fate::Waits(at)) if has_final => {
                let at = *at;
                self.finish(key, at, Verdict::Commit);
            }
            Some(Fate::Waits(at)) => {
                let half = self.waiting.get_mut(at).expect("fates point to those that wait");
                half.proof = Proof::Proven;
            }
            Some(Fate::EndedSomehow) => {
                let verdict = if has_final { Verdict::Commit } else { Verdict::Rollback };
                self.fates.insert(key, Fate::Ended(verdict));
            }
            Some(Fate::Ended(_) | Fate::GivenUp) | None => {}
        }
    }

    /// Ends a half message; `offset` is where it waits, or what the caller named if it was given up.
    pub(super) fn finish(&mut self, key: Key, offset: i64, verdict: Verdict) {
        let done = match verdict {
            Verdict::Commit => Done::Committed,
            Verdict::Rollback => Done::RolledBack,
        };
        self.unwritten.push(offset, done);
        self.note_end(key, Fate::Ended(verdict));
    }

    /// Gives up a half message that waits at `offset`.
    pub(super) fn give_up(&mut self, key: Key, offset: i64) {
        self.unwritten.push(offset, Done::GivenUp);
        self.note_end(key, Fate::GivenUp);
    }

    /// Forgets a half message whose record is gone.
    pub(super) fn lose(&mut self, key: Key, offset: i64) {
        self.waiting.remove(&offset);
        self.fates.remove(&key);
    }

    fn note_end(&mut self, key: Key, fate: Fate) {
        let before = self.fates.insert(key, fate);
        if let Some(Fate::Waits(at)) = before {
            self.waiting.remove(&at);
        }
        // Who was given up and ends after all stands in the list already.
        if matches!(before, Some(Fate::Waits(_)) | None) {
            self.ended.push_back(key);
        }
        while self.ended.len() > self.ended_max {
            let Some(oldest) = self.ended.pop_front() else { break };
            if !matches!(self.fates.get(&oldest), Some(Fate::Waits(_))) {
                self.fates.remove(&oldest);
            }
        }
    }

    // ------------------------------------------------------------------------------------------------- rebuild

    /// Takes a record that the half queue has at a start, with what the op queue says of it. Called in queue order.
    pub(super) fn recall(&mut self, offset: i64, half: Half, done: Option<Recalled>) {
        self.end = self.end.max(offset + 1);
        let Some(done) = done else {
            // Whatever older record of the key ended, the key ended.
            self.prepare(offset, half);
            return;
        };
        self.recall_end(half.key, done);
    }

    /// Takes the end of a half message whose record is not of interest any more.
    pub(super) fn recall_end(&mut self, key: Key, done: Recalled) {
        if let Some(Fate::Waits(at)) = self.fates.get(&key)
            && done != Recalled::Known(Done::Superseded)
        {
            let at = *at;
            self.unwritten.push(at, Done::Superseded);
        }
        match done {
            Recalled::Known(Done::Committed) => self.note_end(key, Fate::Ended(Verdict::Commit)),
            Recalled::Known(Done::RolledBack) => self.note_end(key, Fate::Ended(Verdict::Rollback)),
            Recalled::Known(Done::GivenUp) => {
                if !matches!(self.fates.get(&key), Some(Fate::Ended(_) | Fate::EndedSomehow)) {
                    self.note_end(key, Fate::GivenUp);
                }
            }
            Recalled::Known(Done::Superseded) => {}
            Recalled::Known(Done::Somehow) | Recalled::Unknown => {
                self.note_end(key, Fate::EndedSomehow)
            }
        }
    }

    /// Has the op queue told again of an end that it has in a form that not everybody reads.
    pub(super) fn tell_again(&mut self, offset: i64, done: Recalled) {
        let done = match done {
            Recalled::Known(done) => done,
            Recalled::Unknown => Done::Somehow,
        };
        self.unwritten.push(offset, done);
    }

    /// Notes that the half queue ends at this offset, whatever could be read of it.
    pub(super) fn pass(&mut self, end: i64) {
        self.end = self.end.max(end);
    }

    // ------------------------------------------------------------------------------------------- the op queue

    pub(super) fn has_unwritten(&self) -> bool {
        !self.unwritten.dones.is_empty()
    }

    /// Bytes that an op entry with all that is unwritten would have.
    pub(super) fn unwritten_len(&self) -> usize {
        self.unwritten.len
    }

    /// Returns what the next op entry is to say: offsets, oldest first, until they have `len_max` bytes. The caller
    /// writes it and tells by [`Halves::op_written`].
    pub(super) fn next_op(&self, len_max: usize) -> Vec<(i64, Done)> {
        let mut len = 0;
        let dones = self.unwritten.dones.iter().take_while(|(offset, _)| {
            let is_room = len == 0 || len < len_max;
            len += text_len(*offset);
            is_room
        });
        dones.copied().collect()
    }

    /// Notes that the oldest `count` ends are written, as the op entry at `op_offset`.
    pub(super) fn op_written(&mut self, op_offset: i64, count: usize) {
        let mut highest = -1;
        for (offset, _) in self.unwritten.dones.drain(..count) {
            self.unwritten.len -= text_len(offset);
            highest = highest.max(offset);
        }
        self.recall_op(op_offset, highest);
    }

    /// Notes an op entry and the highest half offset in it.
    pub(super) fn recall_op(&mut self, op_offset: i64, highest: i64) {
        self.ops.push_back((op_offset, highest));
        self.ops_end = op_offset + 1;
    }

    /// Says how far both queues are done with. What is not written as done counts as waiting, but for one that was given
    /// up long ago and has ended after all: what lies between was done with meanwhile, and its op entries may be gone.
    pub(super) fn progress(&mut self) -> Progress {
        let waiting = self.waiting.first_key_value().map_or(self.end, |(offset, _)| *offset);
        let unwritten = self.unwritten.dones.iter().map(|(offset, _)| *offset);
        let half = unwritten.fold(waiting, i64::min).max(self.half_done);
        self.half_done = half;
        while self.ops.front().is_some_and(|(_, highest)| *highest < half) {
            self.ops.pop_front();
        }
        let op = self.ops.front().map_or(self.ops_end, |(offset, _)| *offset);
        Progress { half, op }
    }
}

/// What the op queue says of a record at a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Recalled {
    Known(Done),
    /// Written by the original, which notes that a half message has ended and not how.
    Unknown,
}

/// How far the half queue and the op queue are done with: nothing before these offsets is needed again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) half: i64,
    pub(super) op: i64,
}

impl Unwritten {
    fn push(&mut self, offset: i64, done: Done) {
        self.len += text_len(offset);
        self.dones.push_back((offset, done));
    }
}

/// Bytes of an offset and its comma.
fn text_len(offset: i64) -> usize {
    offset.checked_ilog10().map_or(1, |digits| digits as usize + 1) + 1
}
