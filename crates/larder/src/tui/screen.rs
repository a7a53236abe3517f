//! The terminal while the interface has it.

use std::io::{self, IsTerminal, Stdout, Write};
use std::panic;

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::clipboard::CopyToClipboard;
use ratatui::crossterm::event::{
    DisableBracketedPaste, DisableFocusChange, EnableBracketedPaste, EnableFocusChange,
};
use ratatui::crossterm::execute;
use ratatui::crossterm::style::Print;
use ratatui::crossterm::terminal::{
    Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, SetTitle, disable_raw_mode, enable_raw_mode,
};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::keyboard::{self, Note};
use crate::terminal::is_dumb;

/// Text that is put on the clipboard, in bytes: terminals ignore longer sequences.
const COPY_BYTES_MAX: usize = 64 * 1024;

/// Without this, terminals make arrow keys of the wheel, which would call back what was entered before. The mode is saved
/// and restored (XTSAVE, XTRESTORE): not all terminals begin with the same.
const WHEEL_IS_NO_KEY: &str = "\x1b[?1007s\x1b[?1007l";
const WHEEL_AS_BEFORE: &str = "\x1b[?1007r";

/// Whether a whole screen can be used: a person at both ends, and a terminal that can move its cursor.
pub(crate) fn is_usable() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal() && !is_dumb()
}

/// The terminal, taken when this is made, and given back when it is dropped, however that comes about.
pub(super) struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
    notes: (UnboundedSender<Note>, UnboundedReceiver<Note>),
}

impl Screen {
    pub(super) fn take() -> io::Result<Self> {
        // What a panic says would be on the screen that is put away.
        let hook = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            leave();
            hook(panic);
        }));
        let notes = unbounded_channel();
        enter(&notes.0)?;
        match terminal() {
            Ok(terminal) => Ok(Self { terminal, notes }),
            Err(error) => {
                leave();
                Err(error)
            }
        }
    }

    pub(super) fn draw(&mut self, render: impl FnOnce(&mut ratatui::Frame<'_>)) -> io::Result<()> {
        self.terminal.draw(render).map(|_| ())
    }

    /// Draws everything anew the next time. The terminal is not asked for anything: its answer would be among the keys.
    pub(super) fn forget(&mut self) -> io::Result<()> {
        self.terminal = terminal()?;
        execute!(io::stdout(), Clear(ClearType::All))
    }

    /// Lets another program have the terminal.
    pub(super) fn lend<T>(&mut self, borrow: impl FnOnce() -> T) -> io::Result<T> {
        leave();
        let result = borrow();
        enter(&self.notes.0)?;
        self.forget()?;
        Ok(result)
    }

    /// Puts a text on the clipboard of the terminal, by OSC 52, which also works over SSH where the terminal allows it.
    /// Returns whether all of it went there.
    pub(super) fn copy(&mut self, text: &str) -> io::Result<bool> {
        let mut end = text.len().min(COPY_BYTES_MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        execute!(io::stdout(), CopyToClipboard::to_clipboard_from(&text[..end]))?;
        Ok(end == text.len())
    }

    /// Waits for something that the events of crossterm do not tell.
    pub(super) async fn note(&mut self) -> Option<Note> {
        self.notes.1.recv().await
    }

    pub(super) fn ring(&mut self) -> io::Result<()> {
        let mut stdout = io::stdout();
        stdout.write_all(b"\x07")?;
        stdout.flush()
    }

    /// The window's title. It holds no name: titles are shown where others look.
    pub(super) fn title(&mut self, unread: u64) -> io::Result<()> {
        match unread {
            0 => execute!(io::stdout(), SetTitle("larder")),
            unread => execute!(io::stdout(), SetTitle(format!("larder ({unread})"))),
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        leave();
    }
}

fn terminal() -> io::Result<Terminal<CrosstermBackend<Stdout>>> {
    Terminal::new(CrosstermBackend::new(io::stdout()))
}

fn enter(notes: &UnboundedSender<Note>) -> io::Result<()> {
    enable_raw_mode()?;
    if let Err(error) = keyboard::take(notes) {
        tracing::warn!(%error, "what is typed and is no UTF-8 will be missed: there is no pseudo-terminal");
    }
    let entered = execute!(
        io::stdout(),
        EnterAlternateScreen,
        EnableBracketedPaste,
        EnableFocusChange,
        Print(WHEEL_IS_NO_KEY)
    );
    if entered.is_err() {
        leave();
    }
    entered
}

fn leave() {
    keyboard::give_back();
    // The terminal may be gone.
    let _ = execute!(
        io::stdout(),
        Print(WHEEL_AS_BEFORE),
        DisableFocusChange,
        DisableBracketedPaste,
        LeaveAlternateScreen,
        ratatui::crossterm::cursor::Show
    );
    let _ = disable_raw_mode();
}
