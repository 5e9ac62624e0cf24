//! The wheel: for each slot of time, where its chain of timer log units begins and ends (Java: `TimerWheel`, `Slot`).
//!
//! ```text
//! file timerwheel, 38,707,200 bytes, sparse: 1,209,600 slots, the slot of a time at (time / precision) mod 1,209,600
//! slot, 32 bytes: long time / precision, long position of the first unit, long of the last, int count, int magic (0)
//! ```
//! It covers fourteen days at a precision of a second. It is kept in memory by pages, of which only those exist that have
//! a slot in use, and is written page by page when the timers are saved.
//!
//! Invariant: a slot in use is one whose units were not all delivered. The original leaves delivered slots behind and
//! goes by its read time; they are cleared when its wheel is opened.

use std::{
    io::{self, IoSlice},
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use env::{Disk, File, Millis, Open};

/// Slots of the wheel (Java: `TIMER_WHEEL_TTL_DAY` days of seconds, twice).
pub const SLOTS: i64 = 2 * 7 * 86_400;
/// Bytes of the file.
pub const FILE_BYTES: u64 = SLOTS as u64 * SLOT_BYTES as u64;
const SLOT_BYTES: usize = 32;
const PAGE_BYTES: usize = 4096;
const SLOTS_PER_PAGE: i64 = (PAGE_BYTES / SLOT_BYTES) as i64;
const PAGES: usize = FILE_BYTES as usize / PAGE_BYTES;

/// What waits for one slot of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The slot's time in units of the precision; 0 for a slot that is not in use.
    pub tick: i64,
    /// Position of its oldest unit in the timer log; too old after some recoveries.
    pub first: i64,
    /// Position of its newest unit.
    pub last: i64,
    /// How many messages wait: marks of deletion count as one less.
    pub count: i32,
    /// Of no use, carried along.
    pub magic: i32,
}

impl Slot {
    fn encode(&self) -> [u8; SLOT_BYTES] {
        let mut bytes = [0; SLOT_BYTES];
        for (at, long) in [self.tick, self.first, self.last].into_iter().enumerate() {
            bytes[at * 8..][..8].copy_from_slice(&long.to_be_bytes());
        }
        bytes[24..28].copy_from_slice(&self.count.to_be_bytes());
        bytes[28..].copy_from_slice(&self.magic.to_be_bytes());
        bytes
    }

    /// Decodes the first 32 of `bytes`.
    fn decode(bytes: &[u8]) -> Slot {
        let long = |at: usize| i64::from_be_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        let int = |at: usize| i32::from_be_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        Slot { tick: long(0), first: long(8), last: long(16), count: int(24), magic: int(28) }
    }
}

/// A page as it is to be written.
pub(super) struct DirtyPage {
    number: usize,
    bytes: Box<[u8; PAGE_BYTES]>,
}

/// The wheel of one store; shared by who delivers and those who ask how crowded a slot is.
pub struct Wheel {
    precision: i64,
    pages: Mutex<Pages>,
}

struct Pages {
    pages: Vec<Option<Box<[u8; PAGE_BYTES]>>>,
    /// A bit for each page that differs from the file.
    dirty: Vec<u64>,
    /// Sum of the counts of all slots.
    count: i64,
}

impl Wheel {
    /// Returns a wheel without any slot in use; `precision` is in milliseconds.
    pub(super) fn empty(precision: Millis) -> Wheel {
        let pages = Pages {
            pages: std::iter::repeat_with(|| None).take(PAGES).collect(),
            dirty: vec![0; PAGES.div_ceil(64)],
            count: 0,
        };
        Wheel { precision, pages: Mutex::new(pages) }
    }

    /// Reads the file; `None` if there is none. One of another length is an error of kind `InvalidData`.
    pub(super) fn load(disk: &dyn Disk, path: &Path) -> io::Result<Option<Wheel>> {
        let file = match disk.open(path, Open::ReadOnly) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        match file.len()? {
            0 => return Ok(None),
            FILE_BYTES => {}
            len => {
                let why = format!("a timer wheel has {FILE_BYTES} bytes, not {len}");
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
        }
        let wheel = Wheel::empty(1);
        wheel.read(&*file)?;
        Ok(Some(wheel))
    }

    fn read(&self, file: &dyn File) -> io::Result<()> {
        const READ_PAGES: usize = 256;
        let mut state = self.lock();
        let mut buffer = vec![0; READ_PAGES * PAGE_BYTES];
        for first in (0..PAGES).step_by(READ_PAGES) {
            let pages = READ_PAGES.min(PAGES - first);
            let buffer = &mut buffer[..pages * PAGE_BYTES];
            file.read_at((first * PAGE_BYTES) as u64, buffer)?;
            for (at, bytes) in buffer.as_chunks::<PAGE_BYTES>().0.iter().enumerate() {
                if bytes != &[0; PAGE_BYTES] {
                    state.pages[first + at] = Some(Box::new(*bytes));
                    state.drop_strangers(first + at);
                }
            }
        }
        let counts = state.slots().map(|slot| i64::from(slot.count)).sum();
        state.count = counts;
        Ok(())
    }

    /// The same slots under another precision: what they say is in units of it.
    pub(super) fn with_precision(self, precision: Millis) -> Wheel {
        Wheel { precision, ..self }
    }

    /// Returns the span of time of a slot, ms.
    pub fn precision(&self) -> Millis {
        self.precision
    }

    /// Returns the start of the slot that a time falls into. What cannot be a time is the nearest that can.
    pub fn floor(&self, time: Millis) -> Millis {
        (time / self.precision).max(1) * self.precision
    }

    /// Returns how many messages wait in all slots.
    pub fn count(&self) -> i64 {
        self.lock().count
    }

    /// Returns how many messages wait in the slot of a time.
    pub fn count_at(&self, time: Millis) -> i32 {
        self.get(time).map_or(0, |slot| slot.count)
    }

    /// Returns the slot of a time, if it is in use for that time.
    pub fn get(&self, time: Millis) -> Option<Slot> {
        self.occupant(time).filter(|slot| slot.tick == time / self.precision)
    }

    /// Returns the slot that stands where that of a time belongs, if it is in use: perhaps for a time that is a multiple of
    /// the whole wheel away.
    pub(super) fn occupant(&self, time: Millis) -> Option<Slot> {
        Some(self.lock().slot(time / self.precision)).filter(|slot| slot.tick != 0)
    }

    /// Puts a slot in its place, over whatever stands there.
    pub(super) fn put(&self, slot: Slot) {
        self.lock().set(slot.tick, &slot);
    }

    /// Takes a slot out of use.
    pub(super) fn clear(&self, time: Millis) {
        if self.get(time).is_some() {
            self.lock().erase(time / self.precision);
        }
    }

    /// Returns the time of the first slot in use from that of `from` on, before that of `to`.
    pub fn first_between(&self, from: Millis, to: Millis) -> Option<Millis> {
        let state = self.lock();
        let (from, to) = (from.div_euclid(self.precision), to.div_euclid(self.precision));
        let tick = if to.saturating_sub(from) > SLOTS {
            state.slots().map(|slot| slot.tick).filter(|tick| (from..to).contains(tick)).min()
        } else {
            state.first_tick(from, to)
        };
        tick.map(|tick| tick * self.precision)
    }

    /// Shows every slot in use, in no order, and puts back what comes of it; `None` takes it out of use.
    pub(super) fn revise(&self, mut change: impl FnMut(Slot) -> Option<Slot>) {
        let mut state = self.lock();
        let slots: Vec<Slot> = state.slots().collect();
        for slot in slots {
            match change(slot) {
                Some(changed) if changed == slot => {}
                Some(changed) => state.set(slot.tick, &changed),
                None => state.erase(slot.tick),
            }
        }
    }

    /// Returns the pages that were changed since the last call, in order, and lets go of those that became empty.
    pub(super) fn take_dirty(&self) -> Vec<DirtyPage> {
        let mut state = self.lock();
        let mut taken = Vec::new();
        for number in 0..PAGES {
            if state.dirty[number / 64] & 1 << (number % 64) == 0 {
                continue;
            }
            let page = &mut state.pages[number];
            let bytes = page.clone().unwrap_or_else(|| Box::new([0; PAGE_BYTES]));
            if *bytes == [0; PAGE_BYTES] {
                *page = None;
            }
            taken.push(DirtyPage { number, bytes });
        }
        state.dirty.fill(0);
        taken
    }

    fn lock(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes pages into the file, neighbours at once.
pub(super) fn write_pages(file: &dyn File, pages: &[DirtyPage]) -> io::Result<()> {
    const PARTS_MAX: usize = 64;
    let is_next = |a: &DirtyPage, b: &DirtyPage| a.number + 1 == b.number;
    for run in pages.chunk_by(is_next).flat_map(|run| run.chunks(PARTS_MAX)) {
        let parts: Vec<IoSlice<'_>> = run.iter().map(|page| IoSlice::new(&*page.bytes)).collect();
        file.write_at((run[0].number * PAGE_BYTES) as u64, &parts)?;
    }
    Ok(())
}

impl Pages {
    fn slot(&self, tick: i64) -> Slot {
        let place = tick.rem_euclid(SLOTS);
        let at = (place % SLOTS_PER_PAGE) as usize * SLOT_BYTES;
        match &self.pages[(place / SLOTS_PER_PAGE) as usize] {
            Some(page) => Slot::decode(&page[at..]),
            None => Slot { tick: 0, first: 0, last: 0, count: 0, magic: 0 },
        }
    }

    fn set(&mut self, tick: i64, slot: &Slot) {
        self.count += i64::from(slot.count) - i64::from(self.slot(tick).count);
        self.write(tick, &slot.encode());
    }

    fn erase(&mut self, tick: i64) {
        self.count -= i64::from(self.slot(tick).count);
        self.write(tick, &[0; SLOT_BYTES]);
    }

    fn write(&mut self, tick: i64, bytes: &[u8; SLOT_BYTES]) {
        let place = tick.rem_euclid(SLOTS);
        let number = (place / SLOTS_PER_PAGE) as usize;
        let page = self.pages[number].get_or_insert_with(|| Box::new([0; PAGE_BYTES]));
        let at = (place % SLOTS_PER_PAGE) as usize * SLOT_BYTES;
        page[at..at + SLOT_BYTES].copy_from_slice(bytes);
        self.dirty[number / 64] |= 1 << (number % 64);
    }

    /// Clears what stands in a page and cannot stand there.
    fn drop_strangers(&mut self, number: usize) {
        let Some(page) = &mut self.pages[number] else { return };
        for (at, bytes) in page.as_chunks_mut::<SLOT_BYTES>().0.iter_mut().enumerate() {
            let (tick, place) =
                (Slot::decode(bytes).tick, number as i64 * SLOTS_PER_PAGE + at as i64);
            if tick != 0 && (tick < 0 || tick % SLOTS != place) {
                bytes.fill(0);
                self.dirty[number / 64] |= 1 << (number % 64);
            }
        }
    }

    /// Iterates over the slots in use.
    fn slots(&self) -> impl Iterator<Item = Slot> {
        let slots = self.pages.iter().flatten();
        let slots = slots.flat_map(|page| page.as_chunks::<SLOT_BYTES>().0);
        slots.map(|bytes| Slot::decode(bytes)).filter(|slot| slot.tick != 0)
    }

    fn first_tick(&self, from: i64, to: i64) -> Option<i64> {
        // Tick 0 is that of a slot which is not in use.
        let mut tick = from.max(1);
        while tick < to {
            let place = tick.rem_euclid(SLOTS);
            if self.pages[(place / SLOTS_PER_PAGE) as usize].is_none() {
                // To the next page; the wheel ends with a whole one.
                tick += SLOTS_PER_PAGE - place % SLOTS_PER_PAGE;
                continue;
            }
            if self.slot(tick).tick == tick {
                return Some(tick);
            }
            tick += 1;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use env::sim::{SimClock, SimDisk};
    use proptest::prelude::*;

    use super::*;

    fn slot(tick: i64, count: i32) -> Slot {
        Slot { tick, first: tick * 2, last: tick * 3, count, magic: 7 }
    }

    #[test]
    fn a_slot_is_the_originals_byte_for_byte() {
        let bytes = Slot { tick: 1_700_000_000, first: 52, last: 104, count: 2, magic: 0 }.encode();
        assert_eq!(bytes[..8], 1_700_000_000_i64.to_be_bytes());
        assert_eq!(bytes[8..16], 52_i64.to_be_bytes());
        assert_eq!(bytes[16..24], 104_i64.to_be_bytes());
        assert_eq!(bytes[24..], [0, 0, 0, 2, 0, 0, 0, 0]);
        assert_eq!(FILE_BYTES, 38_707_200);
        assert_eq!(PAGES * PAGE_BYTES, FILE_BYTES as usize);
    }

    #[test]
    fn what_was_written_is_read_and_empty_pages_cost_no_memory() {
        let disk = SimDisk::new(1, SimClock::new(0));
        let path = Path::new("timerwheel");
        assert!(Wheel::load(&disk, path).expect("no error").is_none());
        disk.create_dir_all(Path::new("")).expect("a root");
        let file = disk.open(path, Open::Length(FILE_BYTES)).expect("a file");
        let wheel = Wheel::empty(1000);
        for tick in [1, 127, 128, SLOTS - 1, SLOTS + 5] {
            wheel.put(slot(tick, 1));
        }
        write_pages(&*file, &wheel.take_dirty()).expect("it is written");
        assert!(wheel.take_dirty().is_empty());
        let read = Wheel::load(&disk, path).expect("it is read").expect("it is there");
        let read = read.with_precision(1000);
        assert_eq!(read.count(), 5);
        assert_eq!(read.get((SLOTS + 5) * 1000 + 999), Some(slot(SLOTS + 5, 1)));
        assert_eq!(read.get(5_000), None, "another time stands there");
        assert_eq!(read.occupant(5_000), Some(slot(SLOTS + 5, 1)));

        for tick in [1, 127, 128, SLOTS - 1, SLOTS + 5] {
            read.clear(tick * 1000);
        }
        write_pages(&*file, &read.take_dirty()).expect("it is written");
        assert_eq!(read.count(), 0);
        assert!(read.lock().pages.iter().all(Option::is_none));
        let again = Wheel::load(&disk, path).expect("it is read").expect("it is there");
        assert!(again.lock().pages.iter().all(Option::is_none));
    }

    #[test]
    fn a_file_of_another_length_is_refused() {
        let disk = SimDisk::new(1, SimClock::new(0));
        disk.create_dir_all(Path::new("")).expect("a root");
        disk.open(Path::new("timerwheel"), Open::Length(4096)).expect("a file");
        let error = Wheel::load(&disk, Path::new("timerwheel")).map(|_| ()).expect_err("too short");
        assert!(error.to_string().contains("38707200"), "{error}");
    }

    proptest! {
        #[test]
        fn a_wheel_is_a_map_of_times(
            steps in prop::collection::vec((0..4u8, 1..600i64, 0..3i32), 1..80),
            from in 0..700i64,
            to in prop_oneof![0..700i64, Just(i64::MAX)],
        ) {
            let (wheel, mut model) = (Wheel::empty(10), BTreeMap::new());
            for (what, tick, count) in steps {
                if what == 0 {
                    wheel.clear(tick * 10);
                    model.remove(&tick);
                } else {
                    wheel.put(slot(tick, count));
                    model.insert(tick, count);
                }
            }
            prop_assert_eq!(wheel.count(), model.values().map(|count| i64::from(*count)).sum::<i64>());
            let first = model.keys().find(|tick| (from..to / 10).contains(tick)).copied();
            prop_assert_eq!(wheel.first_between(from * 10 + 3, to), first.map(|tick| tick * 10));
            wheel.revise(|slot| (slot.tick % 2 == 0).then_some(Slot { count: 5, ..slot }));
            model.retain(|tick, _| tick % 2 == 0);
            prop_assert_eq!(wheel.count(), model.len() as i64 * 5);
        }
    }
}
