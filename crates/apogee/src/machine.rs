//! What the machine allows: descriptors, memory, cores.

use std::{fs, thread};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit of open descriptors to the hard one; returns the limit that then holds.
pub(crate) fn raise_descriptors() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok()
    {
        return maximum;
    }
    current
}

/// Memory of the machine or of the control group, whichever is less, in bytes; 0 when unknown.
pub(crate) fn memory_bytes() -> u64 {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
    });
    // version 2 of control groups, then version 1; `max` and huge numbers mean no limit
    let group = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .iter()
        .find_map(|path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok());
    match (machine, group) {
        (Some(machine), Some(group)) => machine.min(group),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => 0,
    }
}

/// Threads for sockets and rules where nothing is configured: one for each core, at most this many.
const WORKERS_MAX: usize = 16;

/// How many threads the runtime gets.
pub(crate) fn worker_threads(configured: usize) -> usize {
    match configured {
        0 => thread::available_parallelism().map_or(2, |cores| cores.get().min(WORKERS_MAX)),
        configured => configured,
    }
}
