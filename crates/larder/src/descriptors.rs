//! File descriptors: a server needs one for each connection, and most systems allow a process few unless it asks.

/// Descriptors that a server needs beside those of its connections: two for each thread that reads a SQLite database, of
/// which there are 512 at most, and as many again for all else.
const OTHERS: u64 = 2048;

/// Raises this process's limit, as far as the system lets it, to what so many connections need. Where that is not far
/// enough, the server works until they run out, and then accepts nobody for a while: so it is only warned of.
pub(crate) fn allow_for(connections_max: usize) {
    let needed = u64::try_from(connections_max)
        .unwrap_or(u64::MAX)
        .saturating_add(OTHERS);
    if let Some(allowed) = raise(needed)
        && allowed < needed
    {
        tracing::warn!(
            allowed,
            needed,
            connections = connections_max,
            "too few file descriptors for all connections that are accepted: raise the hard limit (ulimit -Hn, LimitNOFILE)"
        );
    }
}

/// Raises this process's limit towards so many. How many it may have then; `None` where that cannot be told.
#[cfg(unix)]
pub(crate) fn raise(needed: u64) -> Option<u64> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};

    let (soft, hard) = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok(limits) => limits,
        Err(error) => {
            tracing::warn!(%error, needed, "the limit of file descriptors cannot be read");
            return None;
        }
    };
    let wanted = needed.min(hard);
    if soft >= wanted {
        return Some(soft);
    }
    match setrlimit(Resource::RLIMIT_NOFILE, wanted, hard) {
        Ok(()) => Some(wanted),
        Err(error) => {
            tracing::warn!(%error, wanted, "the limit of file descriptors cannot be raised");
            Some(soft)
        }
    }
}

/// Where there is no such limit.
#[cfg(not(unix))]
pub(crate) fn raise(_: u64) -> Option<u64> {
    None
}
