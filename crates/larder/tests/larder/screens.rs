//! The whole of a pseudo-terminal, which a terminal emulator reads, by the places of the chat on it.
//!
//! Every wait names its place: what was typed is in the composer, and satisfies no wait for what it leads to.

use std::fs::File;
use std::io::{Read, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Instant;

use expectrl::session::OsSession;

use crate::support::{PATIENCE, World};
use crate::terminal::on_terminal;

pub(crate) const ENTER: &str = "\r";
pub(crate) const ESCAPE: &str = "\x1b";
/// Columns below which the groups are not shown, and above which they have more room.
const GROUPS_COLUMNS: [u16; 2] = [60, 120];

/// A chat, and what is on its screen.
pub(crate) struct Screen {
    pub(crate) session: OsSession,
    keyboard: File,
    output: Receiver<Vec<u8>>,
    emulator: vt100::Parser,
    /// Everything that was written to the terminal.
    written: Vec<u8>,
}

/// The places of the screen at one moment, as text.
#[derive(Debug, Default)]
pub(crate) struct View {
    pub(crate) groups: String,
    /// Above the messages: the group.
    pub(crate) heading: String,
    /// Nothing while a panel or suggestions are over them.
    pub(crate) messages: Vec<String>,
    pub(crate) suggestions: String,
    pub(crate) panel: Vec<String>,
    /// The line of the screen that the panel begins in.
    pub(crate) panel_at: usize,
    /// What is typed, without its line breaks.
    pub(crate) composer: String,
    /// What was done last, or what can be done.
    pub(crate) word: String,
    pub(crate) status: String,
}

impl View {
    fn of(screen: &vt100::Screen) -> Self {
        let (height, width) = screen.size();
        let column = |row: u16, at: u16| screen.cell(row, at).map_or("", vt100::Cell::contents);
        let rows = |from: u16, columns: u16| -> Vec<String> { screen.rows(from, columns).collect() };
        let whole = rows(0, width);
        // Under it is what is typed.
        let Some(border) = (0..height.saturating_sub(2))
            .rev()
            .find(|row| column(*row, 0) == "─" && column(*row, width - 1) == "─")
        else {
            return Self::default();
        };
        let border = usize::from(border);
        let [narrow, wide] = GROUPS_COLUMNS;
        let left = match width {
            width if width < narrow => 0,
            width if width < wide => 21,
            _ => 30,
        };
        let mut view = Self {
            groups: rows(0, left)[..border].join("\n"),
            composer: rows(2, width - 2)[border + 1..usize::from(height) - 2].concat(),
            word: whole[usize::from(height) - 2].clone(),
            status: whole[usize::from(height) - 1].clone(),
            ..Self::default()
        };
        let corner = (0..height).find_map(|row| {
            let at = (0..width).find(|at| column(row, *at) == "┌")?;
            Some((row, at))
        });
        if let Some((top, at)) = corner {
            view.panel_at = usize::from(top);
            view.panel = rows(at, width - at).split_off(view.panel_at);
            return view;
        }
        let pane = &rows(left, width - left)[..border];
        let suggested = whole[..border].iter().position(|row| row.starts_with("  /"));
        match suggested {
            Some(first) => view.suggestions = whole[first..border].join("\n"),
            None => {
                view.heading = pane[0].clone();
                view.messages = pane[1..].iter().map(|row| row.trim_end().to_owned()).collect();
            }
        }
        view
    }

    /// Whether there is a message of this author with this text, and with this sign before it.
    fn has_message(&self, author: &str, sign: char, text: &str) -> bool {
        let expected = format!("{author:<12}{sign} {text}");
        // The minute comes before it.
        self.messages
            .iter()
            .any(|row| row.chars().skip(6).collect::<String>() == expected)
    }

    /// Whether a line of the messages contains a text.
    pub(crate) fn reads(&self, text: &str) -> bool {
        self.messages.iter().any(|row| row.contains(text))
    }
}

/// A text without blanks and line ends: where it was wrapped does not matter.
fn dense(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace()).collect()
}

impl Screen {
    pub(crate) fn of(world: &World, user: &str, arguments: &[&str]) -> Self {
        Self::sized(world, user, arguments, (80, 24), &[])
    }

    pub(crate) fn sized(
        world: &World,
        user: &str,
        arguments: &[&str],
        (columns, lines): (u16, u16),
        environment: &[(&str, &str)],
    ) -> Self {
        let arguments: Vec<&str> = std::iter::once("chat").chain(arguments.iter().copied()).collect();
        let mut session = on_terminal(world, user, &arguments, environment);
        session.get_process_mut().set_window_size(columns, lines).unwrap();
        let keyboard = session.get_process().get_raw_handle().unwrap();
        let mut reader = keyboard.try_clone().unwrap();
        let (sender, output) = channel();
        thread::spawn(move || {
            let mut buffer = [0; 16 * 1024];
            // A pseudo-terminal whose program is gone answers with an error.
            while let Ok(read @ 1..) = reader.read(&mut buffer) {
                if sender.send(buffer[..read].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self {
            session,
            keyboard,
            output,
            emulator: vt100::Parser::new(lines, columns, 0),
            written: Vec::new(),
        }
    }

    pub(crate) fn press(&mut self, keys: impl AsRef<[u8]>) {
        self.keyboard.write_all(keys.as_ref()).unwrap();
    }

    /// Types a text, and waits until it is in the composer.
    pub(crate) fn types(&mut self, text: &str) {
        self.press(text);
        let typed = dense(text);
        self.until(text, |view| dense(&view.composer).ends_with(&typed));
    }

    /// Types a text and enters it, and waits until it was taken. What is on the screen from then on came after it.
    pub(crate) fn enter(&mut self, text: &str) {
        self.types(text);
        self.press(ENTER);
        self.until("an empty composer", |view| dense(&view.composer).is_empty());
    }

    /// Enters a text that is refused, and stays where it was typed.
    pub(crate) fn refuses(&mut self, text: &str, why: &str) {
        self.types(text);
        let before = self.view();
        assert!(!before.word.contains(why), "it is said already: {before:#?}");
        self.press(ENTER);
        let typed = dense(text);
        self.until(why, |view| {
            view.word.contains(why) && dense(&view.composer) == typed
        });
    }

    /// Takes away what is typed.
    pub(crate) fn clears(&mut self) {
        self.press("\x15");
        self.until("an empty composer", |view| dense(&view.composer).is_empty());
    }

    pub(crate) fn view(&self) -> View {
        View::of(self.emulator.screen())
    }

    /// Waits until the places of the screen are as they are to be, and returns them.
    pub(crate) fn until(&mut self, what: &str, is_there: impl Fn(&View) -> bool) -> View {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let view = self.view();
            if is_there(&view) {
                return view;
            }
            // A chat that waits for something else may go on drawing.
            match self
                .output
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(bytes) => self.reads_bytes(bytes),
                Err(error) => panic!(
                    "{what}: {error}; the screen:\n{}",
                    self.emulator.screen().contents()
                ),
            }
        }
    }

    fn reads_bytes(&mut self, bytes: Vec<u8>) {
        self.emulator.process(&bytes);
        self.written.extend(bytes);
    }

    /// Waits for a message, which was sent if it is of this user.
    pub(crate) fn says(&mut self, author: &str, text: &str) -> View {
        self.until(text, |view| view.has_message(author, ' ', text))
    }

    /// Waits for a message of this user that waits for the server.
    pub(crate) fn waits(&mut self, author: &str, text: &str) -> View {
        self.until(text, |view| view.has_message(author, '…', text))
    }

    /// Waits for a message of this user that was refused.
    pub(crate) fn fails(&mut self, author: &str, text: &str) -> View {
        self.until(text, |view| view.has_message(author, '✗', text))
    }

    /// Waits for a line of the messages, whosoever it is.
    pub(crate) fn reads(&mut self, text: &str) -> View {
        self.until(text, |view| view.reads(text))
    }

    pub(crate) fn heading(&mut self, text: &str) -> View {
        self.until(text, |view| view.heading.contains(text))
    }

    /// Waits for a word about what was done last.
    pub(crate) fn word(&mut self, text: &str) -> View {
        self.until(text, |view| view.word.contains(text))
    }

    pub(crate) fn status(&mut self, text: &str) -> View {
        self.until(text, |view| view.status.contains(text))
    }

    pub(crate) fn panel(&mut self, text: &str) -> View {
        self.until(text, |view| view.panel.iter().any(|row| row.contains(text)))
    }

    /// Closes the panel.
    pub(crate) fn closes_panel(&mut self) {
        self.press(ESCAPE);
        // What follows an escape at once is one key with it.
        self.until("no panel", |view| {
            view.panel.is_empty() && !view.heading.is_empty()
        });
    }

    pub(crate) fn resize(&mut self, columns: u16, lines: u16) {
        self.session
            .get_process_mut()
            .set_window_size(columns, lines)
            .unwrap();
        self.emulator.screen_mut().set_size(lines, columns);
    }

    /// Presses a key that ends it, and returns everything that it wrote.
    pub(crate) fn quit(mut self) -> Vec<u8> {
        self.press("\x11");
        self.ends()
    }

    /// Waits for its end, at which the terminal is as it was, and returns everything that it wrote.
    pub(crate) fn ends(mut self) -> Vec<u8> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self
                .output
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(bytes) => self.reads_bytes(bytes),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    panic!("it does not end:\n{}", self.emulator.screen().contents())
                }
            }
        }
        assert!(!self.emulator.screen().alternate_screen());
        assert!(!self.emulator.screen().hide_cursor());
        self.written
    }
}
