//! CPU time and memory of processes and of the machine, from /proc.

use anyhow::{Context, Result};
use std::fs::read_to_string;

/// CPU time in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cpu {
    pub user_s: f64,
    pub system_s: f64,
}

impl Cpu {
    /// User and system time together.
    pub fn total_s(self) -> f64 {
        self.user_s + self.system_s
    }

    /// The time used since `earlier`.
    pub fn since(self, earlier: Cpu) -> Cpu {
        Cpu { user_s: self.user_s - earlier.user_s, system_s: self.system_s - earlier.system_s }
    }
}

/// The memory of a process in KiB. Swapped-out memory is included.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Memory {
    pub resident_kib: f64,
    /// The part that is not backed by a file: heap and stacks.
    pub anonymous_kib: f64,
}

/// CPU times at one moment. The difference of two readings is the use in a window.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reading {
    pub servers: Cpu,
    pub own: Cpu,
    pub machine: Cpu,
    /// Time that the hypervisor gave to other virtual machines.
    pub stolen_s: f64,
}

/// Reads the CPU times of the processes `pids`, of this process and of the machine.
pub fn read(pids: &[u32]) -> Result<Reading> {
    let mut servers = Cpu::default();
    for pid in pids {
        let cpu = cpu_of(&pid.to_string())?;
        servers = Cpu { user_s: servers.user_s + cpu.user_s, system_s: servers.system_s + cpu.system_s };
    }
    let stat = read_to_string("/proc/stat")?;
    let (machine, stolen_s) =
        machine(&stat, ticks_per_second()).context("no line of CPU times in /proc/stat")?;
    Ok(Reading { servers, own: cpu_of("self")?, machine, stolen_s })
}

fn cpu_of(pid: &str) -> Result<Cpu> {
    let stat =
        read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid} is gone"))?;
    process(&stat, ticks_per_second()).with_context(|| format!("no CPU times in /proc/{pid}/stat"))
}

/// Reads the memory of a process.
pub fn memory(pid: u32) -> Result<Memory> {
    let text = read_to_string(format!("/proc/{pid}/smaps_rollup"))
        .with_context(|| format!("process {pid} is gone"))?;
    let kib = |key: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
        line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or_default()
    };
    let swapped = kib("Swap:");
    Ok(Memory { resident_kib: kib("Rss:") + swapped, anonymous_kib: kib("Anonymous:") + swapped })
}

fn ticks_per_second() -> f64 {
    rustix::param::clock_ticks_per_second() as f64
}

/// The fields utime and stime. They include the process's running threads and those that have ended.
fn process(stat: &str, ticks_per_second: f64) -> Option<Cpu> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut times = after_name.split_whitespace().skip(11).map(|field| field.parse::<f64>().ok());
    Some(Cpu { user_s: times.next()?? / ticks_per_second, system_s: times.next()?? / ticks_per_second })
}

fn machine(stat: &str, ticks_per_second: f64) -> Option<(Cpu, f64)> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let times: Vec<f64> = line
        .split_whitespace()
        .filter_map(|field| field.parse::<f64>().ok())
        .map(|n| n / ticks_per_second)
        .collect();
    // user nice system idle iowait irq softirq steal
    let [user, nice, system, _, _, irq, softirq, stolen_s, ..] = *times else { return None };
    Some((Cpu { user_s: user + nice, system_s: system + irq + softirq }, stolen_s))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_after_any_process_name() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194304 100 0 0 0 250 150 3 4 20 0 1 0 1 1 1";
        assert_eq!(process(stat, 100.0), Some(Cpu { user_s: 2.5, system_s: 1.5 }));
        assert_eq!(process("7 (a", 100.0), None);
        let found = machine("cpu  100 50 30 1000 7 2 3 9 0 0\ncpu0 1", 100.0);
        let (cpu, stolen_s) = found.expect("complete");
        assert!((cpu.user_s - 1.5).abs() < 1e-9 && (cpu.system_s - 0.35).abs() < 1e-9, "{cpu:?}");
        assert!((stolen_s - 0.09).abs() < 1e-9);
    }

    #[test]
    fn this_process_uses_memory_and_time() {
        let memory = memory(std::process::id()).expect("this process");
        assert!(memory.anonymous_kib > 0.0 && memory.resident_kib >= memory.anonymous_kib, "{memory:?}");
        let before = read(&[std::process::id()]).expect("this machine");
        let mut sum = 0_u64;
        while read(&[]).expect("this machine").own.since(before.own).total_s() < 0.05 {
            sum = (0..100_000).fold(sum, |sum, n| sum.wrapping_mul(31).wrapping_add(n));
        }
        let used = read(&[std::process::id()]).expect("this machine").servers.since(before.servers);
        assert!(used.total_s() >= 0.05, "{used:?} {sum}");
    }
}
