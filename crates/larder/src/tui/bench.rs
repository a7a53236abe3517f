//! How long a keystroke takes to be on the screen.

use std::io;
use std::time::{Duration, Instant};

use anyhow::Result;
use larder_client::{GroupKey, GroupState, GroupSummary, Message, MessageKind, SendStatus, UnixSeconds};
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::event::{Event, KeyCode, KeyEvent, KeyModifiers};
use ratatui::layout::Rect;
use ratatui::{Terminal, TerminalOptions, Viewport};

use super::app::{App, Update};
use super::keys::Keys;
use super::theme::Theme;
use super::{clock, view};

const GROUPS: u32 = 200;
const MESSAGES: i64 = 10_000;
/// Columns and lines.
const SCREEN: (u16, u16) = (200, 60);

/// Frame times, sorted.
pub(crate) struct Frames(Vec<Duration>);

impl Frames {
    /// The time that so many of a hundred frames took at most.
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        let at = (self.0.len() * percent).div_ceil(100).saturating_sub(1);
        self.0.get(at).copied().unwrap_or_default()
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }
}

/// Types into a group with ten thousand messages, all of them in memory, beside two hundred groups. With `scrolled`, while
/// the oldest messages are on the screen. A frame is the key's effect, the layout, and the bytes for the terminal.
pub(crate) fn frames(keys: usize, scrolled: bool) -> Result<Frames> {
    let mut app = App::new("alice/laptop".to_owned(), Keys::default(), clock::day_and_minute);
    let key = |number: u32| GroupKey::from_bytes(&number.to_be_bytes());
    let groups = (0..GROUPS).map(|number| {
        Ok(GroupSummary {
            id: key(number)?,
            name: Some(format!("group {number}")),
            epoch: 1,
            members: 5,
            state: GroupState::Active,
            unread: u64::from(number % 3),
            read_up_to: 0,
            last_row: 0,
            muted: false,
            denied: false,
            held: Vec::new(),
            request: None,
        })
    });
    app.update(Update::Groups(groups.collect::<Result<_>>()?));
    let messages = (1..=MESSAGES).map(|row| {
        let words = usize::try_from(row % 60).unwrap_or_default();
        Ok(Message {
            row,
            group: Some(key(0)?),
            group_name: Some("group 0".to_owned()),
            sender: Some(format!("user{}", row % 7).parse()?),
            id: row.to_string(),
            kind: MessageKind::Text,
            text: format!("message {row} {}", "wörter und ähnliches ".repeat(words / 4)),
            sent_at: UnixSeconds(1_700_000_000 + row.unsigned_abs() * 60),
            received_at: UnixSeconds(1_700_000_000),
            mine: row % 7 == 0,
            status: SendStatus::Sent,
        })
    });
    app.update(Update::History {
        group: key(0)?,
        messages: messages.collect::<Result<_>>()?,
        complete: true,
    });
    app.update(Update::Open(key(0)?));
    let (width, height) = SCREEN;
    let mut terminal = Terminal::with_options(
        CrosstermBackend::new(io::sink()),
        TerminalOptions {
            viewport: Viewport::Fixed(Rect::new(0, 0, width, height)),
        },
    )?;
    let press = |app: &mut App, code, modifiers| app.input(Event::Key(KeyEvent::new(code, modifiers)));
    if scrolled {
        press(&mut app, KeyCode::Home, KeyModifiers::CONTROL);
        terminal.draw(|frame| view::draw(frame, &mut app, Theme::of_environment()))?;
    }
    let mut times = Vec::with_capacity(keys);
    for number in 0..keys {
        let code = match number % 40 {
            39 => KeyCode::Backspace,
            letter => KeyCode::Char(char::from(b'a' + u8::try_from(letter % 26).unwrap_or_default())),
        };
        let start = Instant::now();
        press(&mut app, code, KeyModifiers::NONE);
        terminal.draw(|frame| view::draw(frame, &mut app, Theme::of_environment()))?;
        app.effects();
        times.push(start.elapsed());
        if number % 200 == 199 {
            app.composer.replace("");
        }
    }
    times.sort();
    Ok(Frames(times))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_a_frame() {
        let frames = frames(50, true).unwrap();
        assert_eq!(frames.count(), 50);
        assert!(frames.percentile(50) <= frames.percentile(99));
        assert!(frames.percentile(50) > Duration::ZERO);
    }
}
