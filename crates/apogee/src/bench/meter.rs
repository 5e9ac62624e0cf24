//! What a run cost: CPU time and memory of the server, of the generator, of everything else, and the disk's writes.
//!
//! Read from `/proc` before and after the measured part; Linux only, zeros elsewhere.

use std::{fs, path::Path};

/// Clock ticks a second of `/proc/*/stat`: fixed at 100 by Linux for user space.
const TICKS_PER_SECOND: f64 = 100.0;

/// Counters of this machine at one moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Reading {
    server_cpu_s: f64,
    own_cpu_s: f64,
    machine_cpu_s: f64,
    disk_written_bytes: u64,
}

/// What passed between two readings.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cost {
    /// CPU seconds of the servers.
    pub(super) server_cpu_s: f64,
    /// CPU seconds of this generator.
    pub(super) own_cpu_s: f64,
    /// CPU seconds of all other work on the machine, kernel threads included.
    pub(super) outside_cpu_s: f64,
    /// Bytes written to whole disks.
    pub(super) disk_written_bytes: u64,
}

impl Reading {
    /// Reads the counters now; `servers` are process ids.
    pub(super) fn now(servers: &[u32]) -> Reading {
        Reading {
            server_cpu_s: servers.iter().map(|pid| cpu_seconds(&format!("/proc/{pid}/stat"))).sum(),
            own_cpu_s: cpu_seconds("/proc/self/stat"),
            machine_cpu_s: machine_cpu_seconds(),
            disk_written_bytes: disk_written_bytes(),
        }
    }

    /// What passed since `earlier`.
    pub(super) fn since(&self, earlier: &Reading) -> Cost {
        let server_cpu_s = self.server_cpu_s - earlier.server_cpu_s;
        let own_cpu_s = self.own_cpu_s - earlier.own_cpu_s;
        let machine = self.machine_cpu_s - earlier.machine_cpu_s;
        Cost {
            server_cpu_s,
            own_cpu_s,
            outside_cpu_s: (machine - server_cpu_s - own_cpu_s).max(0.0),
            disk_written_bytes: self.disk_written_bytes.saturating_sub(earlier.disk_written_bytes),
        }
    }
}

/// Anonymous resident memory of the processes, in MiB: what they allocated, without the page cache they mapped.
pub(super) fn anonymous_mib(servers: &[u32]) -> f64 {
    servers.iter().map(|pid| status_kib(*pid, "RssAnon:")).sum::<f64>() / 1024.0
}

/// All resident memory of the processes, in MiB.
pub(super) fn resident_mib(servers: &[u32]) -> f64 {
    servers.iter().map(|pid| status_kib(*pid, "VmRSS:")).sum::<f64>() / 1024.0
}

fn status_kib(pid: u32, name: &str) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0.0)
}

/// utime + stime, fields 14 and 15, counted from behind the command's closing bracket.
fn cpu_seconds(path: &str) -> f64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let fields = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    ticks as f64 / TICKS_PER_SECOND
}

/// All but idle and waiting time, over all cores.
fn machine_cpu_seconds() -> f64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields = text.lines().next().unwrap_or_default().split_whitespace().skip(1).take(8);
    let ticks: u64 = fields
        .enumerate()
        .filter(|(at, _)| *at != 3 && *at != 4)
        .filter_map(|(_, f)| f.parse::<u64>().ok())
        .sum();
    ticks as f64 / TICKS_PER_SECOND
}

/// Sectors written by whole disks, in bytes.
fn disk_written_bytes() -> u64 {
    let text = fs::read_to_string("/proc/diskstats").unwrap_or_default();
    let mut sectors = 0;
    for line in text.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let Some(name) = fields.get(2) else { continue };
        let whole = Path::new("/sys/block").join(name).join("device").exists();
        if whole {
            sectors += fields.get(9).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    sectors * 512
}
