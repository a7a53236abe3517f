//! Logs, on stderr only.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

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
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .try_init();
}
