//! What this process has used, as the kernel counts it: for `/metrics`, and for whoever works out what an
//! operation costs (`quorate bench`).
//!
//! * Read when somebody asks; nothing is counted on the way of a request.
//! * What only Linux tells is absent elsewhere, never zero.
//! * Of the process: several servers in one process give the same figures.

use std::fs;

/// Processor time used so far, in the program and in the kernel on its behalf.
pub(crate) fn cpu_seconds() -> f64 {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let duration = std::time::Duration::try_from(used).unwrap_or_default();
    duration.as_secs_f64()
}

/// Memory that is resident now, shared pages included.
pub(crate) fn resident_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/statm").ok()?;
    Some(resident_pages(&text)? * rustix::param::page_size() as u64)
}

/// Bytes that this process made the kernel write to disks: the log, the engine, snapshots. Absent where the
/// kernel does not count them.
pub(crate) fn disk_written_bytes() -> Option<u64> {
    written_bytes(&fs::read_to_string("/proc/self/io").ok()?)
}

/// The second number of `statm`.
fn resident_pages(statm: &str) -> Option<u64> {
    statm.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// The line `write_bytes: N` of `io`.
fn written_bytes(io: &str) -> Option<u64> {
    io.lines().find_map(|line| line.strip_prefix("write_bytes:"))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_parsed_and_nonsense_is_absent() {
        assert_eq!(resident_pages("5120 1284 900 12 0 700 0\n"), Some(1284));
        assert_eq!(written_bytes("rchar: 1\nwrite_bytes: 4096\ncancelled_write_bytes: 7\n"), Some(4096));
        assert_eq!((resident_pages("12"), written_bytes("write_bytes: many")), (None, None));
    }

    #[test]
    fn work_uses_processor_time() {
        let before = cpu_seconds();
        let mut sum = 0u64;
        while cpu_seconds() <= before {
            sum = sum.wrapping_mul(31).wrapping_add(7);
        }
        assert!(std::hint::black_box(sum) != 1);
    }
}
