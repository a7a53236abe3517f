//! Keys, pastes and the focus.

use ratatui::crossterm::event::{Event, KeyEvent, KeyEventKind};

use super::{App, Effect};
use crate::tui::keys::Action;

impl App {
    /// Something that the person at the terminal did.
    pub(in crate::tui) fn input(&mut self, event: Event) {
        match event {
            // Some terminals tell of a key's release as well.
            Event::Key(key) if key.kind == KeyEventKind::Release => (),
            Event::Key(key) => self.key(key),
            Event::Paste(text) => {
                self.open_pointed();
                if let Err(why) = self.composer.paste(&text) {
                    self.say(why, true);
                }
                self.suggest();
            }
            Event::FocusGained => self.focused = true,
            Event::FocusLost => self.focused = false,
            Event::Resize(..) | Event::Mouse(_) => (),
        }
    }

    fn key(&mut self, key: KeyEvent) {
        // A terminal that tells of keys has somebody at it.
        self.focused = true;
        let action = self.keys.action(key);
        if self.panel.is_some() && self.panel_key(key, action) {
            return;
        }
        if self.suggestion_key(key) {
            return;
        }
        match action {
            Some(action) => self.act(action),
            None => {
                self.open_pointed();
                if self.composer.key(key) {
                    self.suggested = 0;
                    self.suggest();
                }
            }
        }
    }

    /// Who types in a group means to be there.
    fn open_pointed(&mut self) {
        if let Some(pointed) = self.groups.pointed().cloned() {
            self.open(&pointed);
        }
    }

    /// Up and down among what is suggested.
    fn suggestion_key(&mut self, key: KeyEvent) -> bool {
        use ratatui::crossterm::event::KeyCode;

        if self.suggestions.is_empty() || !key.modifiers.is_empty() {
            return false;
        }
        let last = self.suggestions.len() - 1;
        match key.code {
            KeyCode::Up => self.suggested = self.suggested.checked_sub(1).unwrap_or(last),
            KeyCode::Down => {
                self.suggested = if self.suggested == last {
                    0
                } else {
                    self.suggested + 1
                }
            }
            _ => return false,
        }
        true
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Send if self.composer.text().trim().is_empty() => {
                self.composer.replace("");
                self.open_pointed();
            }
            Action::Send => {
                self.open_pointed();
                self.entered();
            }
            Action::NewLine => self.composer.new_line(),
            Action::Complete => _ = self.complete(),
            Action::Cancel => self.cancel(),
            Action::NextGroup => self.groups.point(true),
            Action::PreviousGroup => self.groups.point(false),
            Action::NextUnread => match self.groups.next_unread() {
                Some(group) => self.open(&group),
                None => self.say("everything is read".to_owned(), false),
            },
            Action::PageUp => self.scroll(|timeline, page| timeline.scroll_up(page)),
            Action::PageDown => self.scroll(|timeline, page| timeline.scroll_down(page)),
            Action::Oldest => self.scroll(|timeline, _| timeline.scroll_up(usize::MAX)),
            Action::Newest => self.scroll(|timeline, _| timeline.scroll_to_end()),
            Action::PreviousMessage => self.scroll(|timeline, _| timeline.select(true)),
            Action::NextMessage => self.scroll(|timeline, _| timeline.select(false)),
            Action::PreviousEntered => self.composer.recall(true),
            Action::NextEntered => self.composer.recall(false),
            Action::Search => {
                self.composer.replace("/search ");
                self.suggest();
            }
            Action::Edit => {
                self.open_pointed();
                let text = self.composer.text();
                self.effects.push(Effect::Edit(text));
            }
            Action::Copy => self.copy(),
            Action::Help => self.panel = Some(super::Panel::help(&self.keys)),
            Action::Groups => self.groups_shown = !self.groups_shown,
            Action::Redraw => self.effects.push(Effect::Redraw),
            Action::Interrupt if self.composer.is_empty() => self.effects.push(Effect::Quit),
            Action::Interrupt => {
                self.composer.enter();
                self.suggest();
            }
            Action::Quit => self.effects.push(Effect::Quit),
        }
    }

    fn scroll(&mut self, how: impl FnOnce(&mut crate::tui::timeline::Timeline, usize)) {
        if let Some((_, timeline)) = self.shown() {
            // A line stays, to go on reading from.
            let page = timeline.height().saturating_sub(1).max(1);
            how(timeline, page);
        }
    }

    /// Away with what is in the way, one thing at a time.
    fn cancel(&mut self) {
        if self.word.take().is_some() || self.groups.unpoint() {
            return;
        }
        if let Some((_, timeline)) = self.shown()
            && !timeline.unselect()
        {
            timeline.scroll_to_end();
            timeline.set_new_after(None);
        }
    }

    /// Keys while a panel is open. Returns whether the key was for it.
    fn panel_key(&mut self, key: KeyEvent, action: Option<Action>) -> bool {
        use ratatui::crossterm::event::KeyCode;

        let Some(panel) = &mut self.panel else {
            return false;
        };
        match (action, key.code) {
            (Some(Action::Quit | Action::Redraw), _) => return false,
            (Some(Action::PageUp), _) => panel.scroll(-10),
            (Some(Action::PageDown), _) => panel.scroll(10),
            (_, KeyCode::Up) => panel.up(),
            (_, KeyCode::Down) => panel.down(),
            (Some(Action::Send), _) => {
                let hit = panel.chosen();
                self.panel = None;
                if let Some(hit) = hit {
                    self.go_to(hit);
                }
            }
            (Some(Action::Cancel | Action::Interrupt), _) | (_, KeyCode::Char('q')) => self.panel = None,
            _ => {
                // Whoever goes on typing is done with it.
                self.panel = None;
                return false;
            }
        }
        true
    }
}
