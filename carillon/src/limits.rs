//! The operating system's limit on open files, and how many connections it allows.

use carillon_runtime::settings::Limits;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Open files that are not connections of clients: files of the store, of the bus, listeners and logs, and some spare
/// ones.
const OTHER_FILES: u64 = 128;

/// Raises the limit on open files to the highest allowed value and returns it. `None` means that there is no limit.
pub fn raise_open_files() -> Option<u64> {
    let now = getrlimit(Resource::Nofile);
    // Without the permission to raise it, the present limit stays.
    match setrlimit(Resource::Nofile, Rlimit { current: now.maximum, maximum: now.maximum }) {
        Ok(()) => now.maximum,
        Err(_) => now.current,
    }
}

/// Disables huge pages for this process. Ten thousand connections touch a little memory everywhere, and huge pages made
/// the process half as large again (measured: 18.8 instead of 12.3 KiB for each connection).
pub fn keep_pages_small() {
    // The call fails on kernels without huge pages, where it is not needed.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

/// The number of connections that both the settings and the limit on open files allow. `None` means any number.
pub fn connections(limits: &Limits, open_files: Option<u64>) -> Option<u64> {
    let by_files = open_files.map(|files| files.saturating_sub(OTHER_FILES));
    let by_settings = (limits.connections > 0).then_some(u64::from(limits.connections));
    match (by_settings, by_files) {
        (Some(settings), Some(files)) => Some(settings.min(files)),
        (one, other) => one.or(other),
    }
}

/// Lowers the settings' limit of connections to what the operating system allows, and logs the result. A connection
/// above the limit is then refused properly, instead of failing because no file can be opened.
pub fn fit(limits: &mut Limits, open_files: Option<u64>) {
    let Some(allowed) = connections(limits, open_files) else {
        tracing::info!("any number of connections is allowed");
        return;
    };
    if limits.connections > 0 && allowed < u64::from(limits.connections) {
        tracing::warn!(
            connections = allowed,
            wanted = limits.connections,
            open_files,
            "the limit on open files allows fewer connections than the settings: raise it (ulimit -Hn, LimitNOFILE=)"
        );
    } else {
        tracing::info!(connections = allowed, open_files, "connections allowed");
    }
    // 0 would mean that there is no limit.
    limits.connections = u32::try_from(allowed).unwrap_or(u32::MAX).max(1);
}

#[cfg(test)]
mod tests {
    use super::*;
    use carillon_runtime::settings::{Role, Settings};

    #[test]
    fn the_smaller_of_both_limits_applies() {
        let mut limits = Settings::defaults(Role::Gateway).limits;
        for (setting, files, allowed) in [
            (10_000, Some(1_048_576), Some(10_000)),
            (10_000, Some(1_024), Some(896)),
            (10_000, Some(10), Some(0)),
            (10_000, None, Some(10_000)),
            (0, Some(1_024), Some(896)),
            (0, None, None),
        ] {
            limits.connections = setting;
            assert_eq!(connections(&limits, files), allowed, "{setting} {files:?}");
        }
    }

    #[test]
    fn the_limit_is_lowered_to_the_allowed_number_and_never_to_zero() {
        for (setting, files, fitted) in
            [(10_000, Some(1_024), 896), (10_000, None, 10_000), (0, Some(1_024), 896), (5, Some(1), 1)]
        {
            let mut limits = Settings::defaults(Role::Gateway).limits;
            limits.connections = setting;
            fit(&mut limits, files);
            assert_eq!(limits.connections, fitted);
        }
    }

    #[test]
    fn open_files_are_raised_to_the_hard_limit() {
        let hard = getrlimit(Resource::Nofile).maximum;
        assert_eq!(raise_open_files(), hard);
        assert_eq!(getrlimit(Resource::Nofile).current, hard);
    }
}
