//! What the kernel says about this process: memory, CPU time, descriptors.

use rustix::process::{Resource, getrlimit};
use std::fs;
use std::io;

#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Stats {
    pub resident_bytes: u64,
    /// User and system time of all threads, kernel workers of the rings included.
    pub cpu_seconds: f64,
    pub open_descriptors: u64,
    /// The limit in force.
    pub descriptors_max: u64,
    pub threads: u64,
}

/// Reads /proc/self; takes some ten microseconds and more with thousands of descriptors, so not for a hot path.
pub fn stats() -> io::Result<Stats> {
    let status = fs::read_to_string("/proc/self/stat")?;
    // The descriptor that reads the folder is in the folder.
    let open_descriptors = fs::read_dir("/proc/self/fd")?.count().saturating_sub(1) as u64;
    let page_bytes = rustix::param::page_size() as u64;
    let ticks_per_second = rustix::param::clock_ticks_per_second();
    // `None` is "unlimited".
    let descriptors_max = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    parse(&status, page_bytes, ticks_per_second)
        .map(|stats| Stats { open_descriptors, descriptors_max, ..stats })
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/self/stat has an unknown shape"))
}

/// proc_pid_stat(5): utime 14, stime 15, num_threads 20, rss (pages) 24; the command name (2) may hold spaces and
/// parentheses, so fields are counted from the last one that closes.
fn parse(status: &str, page_bytes: u64, ticks_per_second: u64) -> Option<Stats> {
    let after_name = status.get(status.rfind(')')? + 1..)?;
    let fields: Vec<&str> = after_name.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(Stats {
        resident_bytes: field(24)? * page_bytes,
        cpu_seconds: (field(14)? + field(15)?) as f64 / ticks_per_second as f64,
        threads: field(20)?,
        ..Stats::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let line = "17 (a ) b) S 1 2 3 4 5 6 7 8 9 10 250 150 0 0 20 0 5 0 900 1000 33 18446744073709551615";
        let expect = Stats { resident_bytes: 33 * 4096, cpu_seconds: 4.0, threads: 5, ..Stats::default() };
        assert_eq!(parse(line, 4096, 100), Some(expect));
        assert_eq!(parse("17 (a", 4096, 100), None);
        assert_eq!(parse("17 (a) S 1 2", 4096, 100), None);
    }

    #[test]
    fn this_process_has_memory_threads_and_descriptors() {
        let before = stats().expect("/proc is there");
        assert!(before.resident_bytes > 100_000 && before.threads >= 1, "{before:?}");
        assert!(before.open_descriptors <= before.descriptors_max, "{before:?}");
        let files: Vec<_> = (0..300).map(|_| fs::File::open("/dev/null").expect("opens")).collect();
        let after = stats().expect("/proc is there");
        assert!(after.open_descriptors >= before.open_descriptors + 200, "{before:?} {after:?}");
        drop(files);
    }
}
