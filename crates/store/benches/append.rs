//! Nanoseconds per 1 KiB message for appending and writing, and for reading back: `cargo bench -p store`.
//!
//! Bound: a message is copied twice (into the tail, into the page cache), about 0.15 µs a KiB on the machines we use, and
//! its share of a system call in runs of 64 is below 0.05 µs.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use bytes::Bytes;
use env::Env;
use store::{Draft, Entry, Options, Store};
use wire::record::Message;

const BODY: usize = 1024;

fn main() {
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    let messages: usize = args.next().and_then(|arg| arg.parse().ok()).unwrap_or(2_000_000);
    let dir = args.next().map_or_else(std::env::temp_dir, PathBuf::from);
    for run in [1, 64, 256] {
        // A lone message pays for a system call of its own.
        measure(&dir, if run == 1 { messages / 4 } else { messages }, run);
    }
}

fn measure(dir: &std::path::Path, messages: usize, run: usize) {
    let dir = dir.join(format!("apogee-bench-{}", std::process::id()));
    let options = Options { store_path_root_dir: dir.clone(), ..Options::default() };
    let (store, _) = Store::open(options, Env::real()).expect("an empty directory opens");
    let workers = store.start().expect("threads start");
    let queues: Vec<_> = (0..8).map(|id| store.queue("BenchTopic", id)).collect();
    let body = Bytes::from(vec![7; BODY]);
    let message = |queue: usize| Message {
        topic: "BenchTopic".into(),
        queue_id: queue as i32,
        flag: 0,
        sys_flag: 0,
        born_at: 1_700_000_000_000,
        born_host: "127.0.0.1:4711".parse().expect("an address"),
        store_host: "127.0.0.1:10911".parse().expect("an address"),
        reconsume_times: 0,
        prepared_offset: 0,
        body: body.clone(),
        properties: "UNIQ_KEY\u{1}7F0000010A0B18B4AAC2000000000001\u{2}TAGS\u{1}TagA\u{2}".into(),
    };
    let (mut drafting, mut appending, mut writing) =
        (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    let (mut refused, mut first_refusal) = (0, None);
    let (started, cpu) = (Instant::now(), cpu_time());
    for batch in 0..messages / run {
        let at = Instant::now();
        let entries: Vec<Entry> = (0..run)
            .map(|n| {
                let queue = (batch + n) % queues.len();
                Entry::One(Draft::new(message(queue), queues[queue].clone()))
            })
            .collect();
        let drafted = Instant::now();
        let outcomes = store.append(&entries);
        let appended = Instant::now();
        store.drive();
        let written = Instant::now();
        // A broker's clients wait for their answers: no more than this is ever under way.
        while store.marks().appended.get() - store.marks().written.get() > 8 << 20 {
            std::thread::yield_now();
        }
        for outcome in &outcomes {
            if let Err(why) = outcome {
                first_refusal.get_or_insert(*why);
                refused += 1;
            }
        }
        drafting += drafted - at;
        appending += appended - drafted;
        writing += written - appended;
    }
    let end = store.marks().appended.get();
    while store.marks().dispatched.get() < end {
        std::thread::yield_now();
    }
    let (took, cpu) = (started.elapsed(), cpu_time() - cpu);
    let per = |duration: Duration| duration.as_nanos() as f64 / messages as f64;
    println_row(&format!(
        "run={run} draft_ns={:.0} append_ns={:.0} write_ns={:.0} all_ns={:.0} cpu_ns={:.0} refused={refused} mb_s={:.0}",
        per(drafting),
        per(appending),
        per(writing),
        per(took),
        per(cpu),
        end as f64 / took.as_secs_f64() / 1e6,
    ));
    if let Some(why) = first_refusal {
        println_row(&format!("first refusal: {why}"));
    }
    read_back(&store, &queues, messages);
    workers.stop();
    store.shutdown().expect("a clean stop");
    drop(store);
    std::fs::remove_dir_all(&dir).expect("the bench's own directory");
}

/// Pulls of 32 from all queues in turn, as many consumers of one topic do.
fn read_back(store: &Store, queues: &[std::sync::Arc<store::Queue>], messages: usize) {
    let started = Instant::now();
    let (mut read, mut waited, mut bytes) = (0, 0, 0);
    let mut from = 0;
    let mut entries = Vec::new();
    while read < messages {
        let before = read;
        for queue in queues {
            entries.clear();
            queue.read(from, 32, &mut entries).expect("queues can be read");
            for entry in &entries {
                let record = store.try_read(entry.log_offset, entry.len).expect("the log has it");
                let record = record.unwrap_or_else(|| {
                    waited += 1;
                    store.read_blocking(entry.log_offset, entry.len).expect("the log has it")
                });
                bytes += record.len();
                read += 1;
            }
        }
        if read == before {
            break;
        }
        from += 32;
    }
    let took = started.elapsed();
    println_row(&format!(
        "read={read} waited={waited} read_ns={:.0} mb_s={:.0}",
        took.as_nanos() as f64 / read as f64,
        bytes as f64 / took.as_secs_f64() / 1e6,
    ));
}

/// Processor time of this process so far, in ticks of 10 ms; zero where there is no `/proc`.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The second field is the name in brackets; user and system time are the 14th and 15th.
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks =
        fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok());
    Duration::from_millis(ticks.sum::<u64>() * 10)
}

#[expect(clippy::print_stdout, reason = "a bench reports to its caller")]
fn println_row(row: &str) {
    println!("{row}");
}
