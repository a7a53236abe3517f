//! What is typed, on its way from the terminal to crossterm: through a pseudo-terminal of our own, in the place of the
//! standard input.
//!
//! Crossterm drops what is not UTF-8 without a word, and the key after it as well (`parse_utf8_char`). So it gets to read
//! nothing but UTF-8.

use std::fs::File;
use std::io::{self, ErrorKind, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Mutex;
use std::thread::{self, JoinHandle};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::pty::openpty;
use nix::sys::select::{FdSet, select};
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::dup2_stdin;
use tokio::sync::mpsc::UnboundedSender;

/// Bytes that are read from the terminal at once.
const READ_AT_ONCE: usize = 1024;

/// What crossterm does not tell of what is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Note {
    /// Some of it was not UTF-8. U+FFFD stands for it.
    NotText,
    /// The terminal is gone.
    Gone,
}

/// A process has one standard input, and a panic gives it back from wherever it is.
static KEYBOARD: Mutex<Option<Keyboard>> = Mutex::new(None);

/// Takes the standard input, which is a terminal in raw mode, until it is given back.
///
/// # Errors
/// The system has no pseudo-terminal to spare. The standard input is as it was.
pub(super) fn take(notes: &UnboundedSender<Note>) -> io::Result<()> {
    let Ok(mut keyboard) = KEYBOARD.try_lock() else {
        return Err(ErrorKind::ResourceBusy.into());
    };
    let keyboard = match &mut *keyboard {
        Some(keyboard) => keyboard,
        none => none.insert(Keyboard::new(notes.clone())?),
    };
    keyboard.start()
}

/// Gives the standard input back, if it was taken. What is typed from then on is for others.
pub(super) fn give_back() {
    // Where it is locked, somebody is at it.
    if let Ok(mut keyboard) = KEYBOARD.try_lock()
        && let Some(keyboard) = &mut *keyboard
    {
        keyboard.stop();
    }
}

struct Keyboard {
    /// The standard input as it was.
    terminal: OwnedFd,
    /// What takes its place. It stays open: crossterm asks the system once to be told when it can be read.
    ours: OwnedFd,
    /// Nothing while it runs.
    relay: Option<Relay>,
    running: Option<(PipeWriter, JoinHandle<Relay>)>,
}

impl Keyboard {
    fn new(notes: UnboundedSender<Note>) -> io::Result<Self> {
        let terminal = io::stdin().as_fd().try_clone_to_owned()?;
        let pair = openpty(None, None)?;
        let mut modes = tcgetattr(&pair.slave)?;
        cfmakeraw(&mut modes);
        tcsetattr(&pair.slave, SetArg::TCSANOW, &modes)?;
        // Whoever wants the terminal back does not wait until crossterm has read everything.
        fcntl(&pair.master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let relay = Relay {
            terminal: File::from(terminal.try_clone()?),
            to: File::from(pair.master),
            strained: Strained::default(),
            notes,
        };
        Ok(Self {
            terminal,
            ours: pair.slave,
            relay: Some(relay),
            running: None,
        })
    }

    fn start(&mut self) -> io::Result<()> {
        let (until, stop) = io::pipe()?;
        let mut relay = self.relay.take().ok_or(ErrorKind::ResourceBusy)?;
        let thread = thread::Builder::new().spawn(move || {
            relay.run(&until);
            relay
        })?;
        self.running = Some((stop, thread));
        dup2_stdin(&self.ours).map_err(|error| {
            self.stop();
            error.into()
        })
    }

    fn stop(&mut self) {
        // The number is a standard input's, and both are open: there is nothing that can fail.
        let _ = dup2_stdin(&self.terminal);
        if let Some((stop, thread)) = self.running.take() {
            drop(stop);
            if thread.thread().id() != thread::current().id() {
                self.relay = thread.join().ok();
            }
        }
    }
}

/// The way from the terminal to crossterm.
struct Relay {
    terminal: File,
    to: File,
    strained: Strained,
    notes: UnboundedSender<Note>,
}

impl Relay {
    /// Passes on what is typed until the other end of this pipe is closed, or the terminal is gone.
    fn run(&mut self, until: &PipeReader) {
        loop {
            match self.step(until) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
                Err(_) => {
                    let _ = self.notes.send(Note::Gone);
                    return;
                }
            }
        }
    }

    /// Waits, and reads or writes once. Returns whether to go on.
    fn step(&mut self, until: &PipeReader) -> io::Result<bool> {
        let (mut readable, mut writable) = (FdSet::new(), FdSet::new());
        readable.insert(until.as_fd());
        let passes_on = !self.strained.text.is_empty();
        match passes_on {
            true => writable.insert(self.to.as_fd()),
            false => readable.insert(self.terminal.as_fd()),
        }
        select(None, &mut readable, &mut writable, None, None)?;
        if readable.contains(until.as_fd()) {
            return Ok(false);
        }
        if passes_on {
            let written = self.to.write(&self.strained.text)?;
            self.strained.text.drain(..written);
            return Ok(true);
        }
        let mut typed = [0; READ_AT_ONCE];
        match self.terminal.read(&mut typed)? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            read => {
                if !self.strained.add(&typed[..read]) {
                    let _ = self.notes.send(Note::NotText);
                }
                Ok(true)
            }
        }
    }
}

/// Bytes as UTF-8, however they are cut into pieces.
#[derive(Debug, Default)]
struct Strained {
    text: Vec<u8>,
    /// The beginning of a character, which the next bytes may complete.
    begun: Vec<u8>,
}

impl Strained {
    /// Returns whether all of it is text so far. U+FFFD stands for what is not.
    fn add(&mut self, typed: &[u8]) -> bool {
        let all = [&std::mem::take(&mut self.begun), typed].concat();
        let (mut rest, mut is_text) = (all.as_slice(), true);
        while let Err(flaw) = str::from_utf8(rest) {
            let (text, after) = rest.split_at(flaw.valid_up_to());
            self.text.extend_from_slice(text);
            let Some(wrong) = flaw.error_len() else {
                self.begun = after.to_vec();
                return is_text;
            };
            self.text.extend_from_slice("\u{fffd}".as_bytes());
            (rest, is_text) = (&after[wrong..], false);
        }
        self.text.extend_from_slice(rest);
        is_text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of bytes that are typed in these pieces, and whether something is told.
    fn strained(pieces: &[&[u8]]) -> (String, bool) {
        let mut strained = Strained::default();
        let told = pieces
            .iter()
            .fold(false, |told, piece| !strained.add(piece) | told);
        (String::from_utf8(strained.text).unwrap(), told)
    }

    #[test]
    fn what_is_no_text_is_replaced_and_takes_nothing_along() {
        for (typed, text) in [
            (&b"caf\xe9 au lait\r"[..], "caf\u{fffd} au lait\r"),
            (b"\xff\xfe\x1b[A", "\u{fffd}\u{fffd}\x1b[A"),
            (b"\xf0\x9f\x98x", "\u{fffd}x"),
            // An overlong slash, and half of a surrogate pair.
            (b"\xc0\xafx", "\u{fffd}\u{fffd}x"),
            (b"\xed\xa0\x80x", "\u{fffd}\u{fffd}\u{fffd}x"),
        ] {
            assert_eq!(strained(&[typed]), (text.to_owned(), true), "{typed:?}");
        }
    }

    #[test]
    fn text_stays_as_it_is_however_it_is_cut() {
        let text = "\x1b[200~naïve 😀\x1b[201~\0\r";
        let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
        assert_eq!(strained(&bytes), (text.to_owned(), false));
        assert_eq!(
            strained(&[b"\xf0\x9f", b"\x98", b"\r"]),
            ("\u{fffd}\r".to_owned(), true)
        );
    }
}
