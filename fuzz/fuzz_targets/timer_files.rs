#![no_main]
//! Units of the timer log, and slots of the wheel: a store opens whatever they say, and takes in what comes.
//!
//! The input is a run of pieces of 52 bytes: where the first byte says so a unit gets its length and magic, and where it
//! does not the bytes stand as they are. Slots are the same bytes.

use std::{
    io::IoSlice,
    path::{Path, PathBuf},
    sync::Arc,
};

use env::{
    Disk, Env, Open,
    sim::{SimClock, SimDisk},
};
use store::{
    Options, Store,
    timer::{
        TimerOptions,
        log::{UNIT_BYTES, Unit, magic},
        wheel::FILE_BYTES,
    },
};

const NOW: i64 = 1_700_000_000_000;
const FILE_LEN: u64 = 1 << 16;

fn put(disk: &SimDisk, path: &str, len: u64, bytes: &[u8]) {
    let path = Path::new("/store").join(path);
    disk.create_dir_all(path.parent().expect("a folder")).expect("the disk is well");
    let file = disk.open(&path, Open::Length(len)).expect("the disk is well");
    file.write_at(0, &[IoSlice::new(bytes)]).expect("the disk is well");
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut units = Vec::new();
    for (place, piece) in data.chunks_exact(UNIT_BYTES).take(1_000).enumerate() {
        let mut unit = piece.to_vec();
        if piece[0] & 1 == 0 {
            unit[..4].copy_from_slice(&(UNIT_BYTES as u32).to_be_bytes());
            unit[12..16].copy_from_slice(&(1 | u32::from(piece[1] & 7)).to_be_bytes());
        }
        if piece[0] & 2 == 0 {
            let previous = place as i64 - i64::from(piece[2] % 4);
            unit[4..12].copy_from_slice(&(previous * UNIT_BYTES as i64).to_be_bytes());
        }
        let _ = Unit::decode(&unit);
        units.extend(unit);
    }
    let mut wheel = Vec::new();
    for (place, piece) in data.chunks_exact(32).take(1_000).enumerate() {
        let mut slot = piece.to_vec();
        if piece[0] & 1 == 0 {
            // One that can stand in its place.
            let turn = i64::from(piece[1]) * 1_209_600;
            slot[..8].copy_from_slice(&(turn + place as i64).to_be_bytes());
        }
        wheel.extend(slot);
    }

    let clock = SimClock::new(NOW);
    let disk = SimDisk::new(1, clock.clone());
    put(&disk, "timerlog/00000000000000000000", FILE_LEN, &units);
    put(&disk, "timerwheel", FILE_BYTES, &wheel);
    put(&disk, "config/timercheck", 4096, &data[..data.len().min(4096)]);
    let options = Options {
        store_path_root_dir: PathBuf::from("/store"),
        mapped_file_size_commit_log: 16 << 10,
        mapped_file_size_consume_queue: 20 * 64,
        max_hash_slot_num: 10,
        max_index_num: 40,
        ..Options::default()
    };
    let env = Env::new(clock.into(), Arc::new(disk), fastrand::Rng::with_seed(1));
    let (store, _) = Store::open(options, env).expect("the store opens");
    let options = TimerOptions { precision: 1000, file_len: FILE_LEN };
    let mut timers = store.open_timers(&options).expect("the timers open");
    let (mut from, wheel) = (0, timers.wheel().clone());
    while let Some(time) = wheel.first_between(from, i64::MAX) {
        let slot = wheel.get(time).expect("it is in use");
        let mut chain = Vec::new();
        timers.log().chain(slot.last.unsigned_abs(), 10_000, &mut chain).expect("it is read");
        timers.clear(time);
        from = time;
    }
    let time = timers.slot_for(NOW + 10_000, None).expect("there is room");
    let unit = Unit {
        previous: -1,
        magic: magic::DEFAULT,
        written_at: NOW,
        delay: 0,
        log_offset: 0,
        len: 1,
        topic_hash: 0,
    };
    timers.insert(time, unit).expect("it is taken in");
    timers.capture(NOW, NOW, None, 0);
    timers.save(u64::MAX).expect("it is saved");
});
