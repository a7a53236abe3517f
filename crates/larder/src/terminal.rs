//! The state of the terminal, which a line editor changes and a signal would leave changed.

#[cfg(unix)]
use nix::sys::termios::{SetArg, Termios, tcgetattr, tcsetattr};

/// Whether the terminal can do no more than print lines.
pub(crate) fn is_dumb() -> bool {
    std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb")
}

/// The terminal's settings, restored when this is dropped.
pub(crate) struct Saved {
    #[cfg(unix)]
    settings: Option<Termios>,
}

impl Saved {
    /// Remembers the settings of stdin, if it is a terminal.
    pub(crate) fn save() -> Self {
        Self {
            #[cfg(unix)]
            settings: tcgetattr(std::io::stdin()).ok(),
        }
    }
}

#[cfg(unix)]
impl Drop for Saved {
    fn drop(&mut self) {
        if let Some(settings) = &self.settings {
            // The terminal may be gone.
            let _ = tcsetattr(std::io::stdin(), SetArg::TCSADRAIN, settings);
        }
    }
}
