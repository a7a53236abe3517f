//! No copies of this process's memory on a disk: it holds keys, and what was decrypted.

/// Forbids core dumps, of this process and of what it starts. Where that fails the system allows none, or
/// does as it did; no command depends on it.
#[cfg(unix)]
pub(crate) fn forbid() {
    use nix::sys::resource::{Resource, setrlimit};

    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    // A limit does not hold where dumps go through a pipe to a collector. This does, and keeps debuggers of
    // others away.
    #[cfg(target_os = "linux")]
    let _ = nix::sys::prctl::set_dumpable(false);
}

/// Where there are none.
#[cfg(not(unix))]
pub(crate) fn forbid() {}
