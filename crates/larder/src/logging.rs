//! Logs, on stderr only.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// What is logged without `--verbose` and `RUST_LOG`.
const QUIET: &str = "warn";

/// Starts logging. `RUST_LOG` wins over `--verbose`.
pub(crate) fn start(verbose: u8) {
    let default = match verbose {
        0 => QUIET,
        1 => "warn,larder=info,larder_client=info,larder_pool=info,larder_server=info",
        2 => "info,larder=debug,larder_client=debug,larder_pool=debug,larder_server=debug",
        _ => "debug,larder=trace,larder_client=trace,larder_pool=trace,larder_server=trace",
    };
    let mut filter = match std::env::var("RUST_LOG") {
        Ok(directives) if !directives.is_empty() => EnvFilter::new(directives),
        Ok(_) | Err(_) => EnvFilter::new(default),
    };
    // The line editor logs what is typed.
    if let Ok(directive) = "rustyline=off".parse() {
        filter = filter.add_directive(directive);
    }
    // Fails only when logging was started before.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(Stderr)
        .with_ansi(io::stderr().is_terminal())
        .try_init();
}

/// Whether something else is drawn on the terminal that stderr is.
static HELD: AtomicBool = AtomicBool::new(false);

/// Keeps logs off the screen until this is dropped, if stderr goes there; a file that it was sent to gets them all.
pub(crate) fn hold() -> Held {
    HELD.store(io::stderr().is_terminal(), Ordering::Relaxed);
    Held(())
}

/// See [`hold`].
pub(crate) struct Held(());

impl Drop for Held {
    fn drop(&mut self) {
        HELD.store(false, Ordering::Relaxed);
    }
}

/// Stderr, or nowhere while it is held.
struct Stderr;

impl MakeWriter<'_> for Stderr {
    type Writer = Box<dyn Write>;

    fn make_writer(&self) -> Self::Writer {
        match HELD.load(Ordering::Relaxed) {
            true => Box::new(io::sink()),
            false => Box::new(io::stderr()),
        }
    }
}
