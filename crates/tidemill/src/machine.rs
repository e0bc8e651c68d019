//! [`memory`]: how much memory this process may have.
//!
//! **Invariant:** where the machine does not say, nothing is made up.

use std::path::Path;

/// The memory of the machine, or of the container that this process is in, in bytes.
pub(crate) fn memory() -> Option<u64> {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().as_deref().and_then(total);
    let container = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let container = container.iter().filter_map(|path| limit(&std::fs::read_to_string(Path::new(path)).ok()?)).min();
    machine.into_iter().chain(container).min()
}

/// The line `MemTotal:  24615384 kB`.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

/// A number of bytes; `max` where there is no limit.
fn limit(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_says_is_understood() {
        assert_eq!(total("MemFree: 1 kB\nMemTotal:       24615384 kB\n"), Some(24_615_384 << 10));
        assert_eq!(total("MemTotal: much\n"), None);
        assert_eq!((limit("max\n"), limit("536870912\n")), (None, Some(512 << 20)));
    }
}
