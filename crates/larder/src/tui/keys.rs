//! Keys, and what they do.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// Something that a key can be bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Action {
    Send,
    NewLine,
    Complete,
    Cancel,
    NextGroup,
    PreviousGroup,
    NextUnread,
    PageUp,
    PageDown,
    Oldest,
    Newest,
    PreviousMessage,
    NextMessage,
    PreviousEntered,
    NextEntered,
    Search,
    Edit,
    Copy,
    Help,
    Groups,
    Redraw,
    Interrupt,
    Quit,
}

/// Every action with its name in the configuration, its keys, and what it does.
const ACTIONS: &[(Action, &str, &[&str], &str)] = &[
    (
        Action::Send,
        "send",
        &["enter"],
        "send, or go to the group pointed at",
    ),
    (
        Action::NewLine,
        "new-line",
        &["alt-enter", "shift-enter", "ctrl-j"],
        "begin a new line",
    ),
    (
        Action::Complete,
        "complete",
        &["tab"],
        "complete what is suggested",
    ),
    (
        Action::Cancel,
        "cancel",
        &["esc"],
        "close, go back, forget the new line",
    ),
    (
        Action::NextGroup,
        "next-group",
        &["alt-down"],
        "point at the next group",
    ),
    (
        Action::PreviousGroup,
        "previous-group",
        &["alt-up"],
        "point at the group before",
    ),
    (
        Action::NextUnread,
        "next-unread",
        &["alt-n", "f4"],
        "go to the next unread messages",
    ),
    (Action::PageUp, "page-up", &["pageup"], "older messages"),
    (Action::PageDown, "page-down", &["pagedown"], "newer messages"),
    (
        Action::Oldest,
        "oldest",
        &["ctrl-home"],
        "the oldest messages in memory",
    ),
    (Action::Newest, "newest", &["ctrl-end"], "the newest messages"),
    (
        Action::PreviousMessage,
        "previous-message",
        &["shift-up"],
        "point at a message",
    ),
    (
        Action::NextMessage,
        "next-message",
        &["shift-down"],
        "point at the message after",
    ),
    (
        Action::PreviousEntered,
        "previous-entered",
        &["ctrl-p"],
        "what was entered before",
    ),
    (
        Action::NextEntered,
        "next-entered",
        &["ctrl-n"],
        "what was entered after it",
    ),
    (Action::Search, "search", &["ctrl-r", "f3"], "search"),
    (Action::Edit, "edit", &["alt-e"], "write in $EDITOR"),
    (Action::Copy, "copy", &["alt-c"], "copy the message pointed at"),
    (Action::Help, "help", &["f1"], "help"),
    (Action::Groups, "groups", &["f2"], "show or hide the groups"),
    (Action::Redraw, "redraw", &["ctrl-l"], "draw everything anew"),
    (
        Action::Interrupt,
        "interrupt",
        &["ctrl-c"],
        "forget what is typed; twice: end",
    ),
    (Action::Quit, "quit", &["ctrl-q"], "end"),
];

/// A key with its modifiers, as the configuration writes it: `alt-n`, `ctrl-home`, `f1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd)]
pub(crate) struct Key {
    code: KeyCode,
    modifiers: KeyModifiers,
}

const NAMED: &[(&str, KeyCode)] = &[
    ("enter", KeyCode::Enter),
    ("tab", KeyCode::Tab),
    ("esc", KeyCode::Esc),
    ("up", KeyCode::Up),
    ("down", KeyCode::Down),
    ("left", KeyCode::Left),
    ("right", KeyCode::Right),
    ("home", KeyCode::Home),
    ("end", KeyCode::End),
    ("pageup", KeyCode::PageUp),
    ("pagedown", KeyCode::PageDown),
    ("insert", KeyCode::Insert),
    ("delete", KeyCode::Delete),
    ("backspace", KeyCode::Backspace),
    ("space", KeyCode::Char(' ')),
    ("minus", KeyCode::Char('-')),
];

const MODIFIERS: &[(&str, KeyModifiers)] = &[
    ("ctrl", KeyModifiers::CONTROL),
    ("alt", KeyModifiers::ALT),
    ("shift", KeyModifiers::SHIFT),
];

/// Why something is no key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NoKey(String);

impl fmt::Display for NoKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is no key: write it like \"alt-n\", \"ctrl-home\" or \"f1\"",
            self.0
        )
    }
}

impl std::error::Error for NoKey {}

impl FromStr for Key {
    type Err = NoKey;

    fn from_str(text: &str) -> Result<Self, NoKey> {
        let no_key = || NoKey(text.to_owned());
        let lower = text.to_lowercase();
        let mut rest = lower.as_str();
        let mut modifiers = KeyModifiers::NONE;
        while let Some((name, after)) = rest.split_once('-') {
            let (_, modifier) = MODIFIERS
                .iter()
                .find(|(known, _)| *known == name)
                .ok_or_else(no_key)?;
            modifiers |= *modifier;
            rest = after;
        }
        let named = NAMED.iter().find(|(name, _)| *name == rest);
        let function = rest.strip_prefix('f').and_then(|number| number.parse().ok());
        let mut chars = rest.chars();
        let code = match (named, function, chars.next(), chars.next()) {
            (Some((_, code)), ..) => *code,
            (None, Some(number @ 1..=24), ..) => KeyCode::F(number),
            (None, _, Some(c), None) if !c.is_control() => KeyCode::Char(c),
            _ => return Err(no_key()),
        };
        Ok(Self { code, modifiers })
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, modifier) in MODIFIERS {
            if self.modifiers.contains(*modifier) {
                write!(f, "{name}-")?;
            }
        }
        match (NAMED.iter().find(|(_, code)| *code == self.code), self.code) {
            (Some((name, _)), _) => f.write_str(name),
            (None, KeyCode::F(number)) => write!(f, "f{number}"),
            (None, KeyCode::Char(c)) => write!(f, "{c}"),
            (None, other) => write!(f, "{other}"),
        }
    }
}

#[cfg(test)]
impl Key {
    pub(super) fn code(self) -> KeyCode {
        self.code
    }

    pub(super) fn modifiers(self) -> KeyModifiers {
        self.modifiers
    }
}

impl From<KeyEvent> for Key {
    /// Terminals differ in whether a letter comes with SHIFT.
    fn from(event: KeyEvent) -> Self {
        let mut modifiers =
            event.modifiers & (KeyModifiers::CONTROL | KeyModifiers::ALT | KeyModifiers::SHIFT);
        let code = match event.code {
            KeyCode::Char(c) => {
                modifiers -= KeyModifiers::SHIFT;
                KeyCode::Char(c.to_lowercase().next().unwrap_or(c))
            }
            KeyCode::BackTab => KeyCode::Tab,
            other => other,
        };
        Self { code, modifiers }
    }
}

/// What each key does.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    bound: Vec<(Key, Action)>,
}

impl Default for Keys {
    fn default() -> Self {
        // What is in the table is what its test says it is.
        Self::configured(&BTreeMap::new()).unwrap_or(Self { bound: Vec::new() })
    }
}

impl Keys {
    /// The keys that there are without a configuration, but those of the actions named in it. An action that is given no
    /// keys has none.
    ///
    /// # Errors
    /// A name that is no action's, something that is no key, and a key that is to do two things.
    pub(crate) fn configured(wanted: &BTreeMap<String, Vec<String>>) -> Result<Self, String> {
        let mut bound: Vec<(Key, Action)> = Vec::new();
        for (name, keys) in wanted {
            let (action, ..) = ACTIONS
                .iter()
                .find(|(_, known, ..)| known == name)
                .ok_or_else(|| format!("keys.{name}: there is no such action"))?;
            for key in keys {
                let key: Key = key.parse().map_err(|error| format!("keys.{name}: {error}"))?;
                if bound.iter().any(|(other, _)| *other == key) {
                    return Err(format!("keys.{name}: {key} does something else already"));
                }
                bound.push((key, *action));
            }
        }
        for (action, name, keys, _) in ACTIONS {
            if wanted.contains_key(*name) {
                continue;
            }
            // A key that the configuration uses for something else is that.
            let free = keys
                .iter()
                .filter_map(|key| key.parse().ok())
                .filter(|key| !bound.iter().any(|(other, _)| other == key))
                .collect::<Vec<Key>>();
            bound.extend(free.into_iter().map(|key| (key, *action)));
        }
        Ok(Self { bound })
    }

    /// What a key does; nothing if it is for the composer.
    pub(super) fn action(&self, event: KeyEvent) -> Option<Action> {
        let pressed = Key::from(event);
        self.bound
            .iter()
            .find(|(key, _)| *key == pressed)
            .map(|(_, action)| *action)
    }

    /// The key that does something, to be shown; the first where there are several.
    pub(super) fn of(&self, action: Action) -> String {
        self.bound
            .iter()
            .find(|(_, bound)| *bound == action)
            .map_or_else(|| "-".to_owned(), |(key, _)| key.to_string())
    }

    /// Every action's keys, and what it does.
    pub(super) fn all(&self) -> impl Iterator<Item = (String, &'static str)> + '_ {
        ACTIONS.iter().map(|(action, _, _, help)| {
            let keys: Vec<String> = self
                .bound
                .iter()
                .filter(|(_, bound)| bound == action)
                .map(|(key, _)| key.to_string())
                .collect();
            (keys.join(", "), *help)
        })
    }
}

/// Every action that keys can be bound to: its name in the configuration, its keys without one, and what it does.
pub(crate) fn actions() -> impl Iterator<Item = (&'static str, &'static [&'static str], &'static str)> {
    ACTIONS.iter().map(|(_, name, keys, help)| (*name, *keys, *help))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(text: &str) -> KeyEvent {
        let key: Key = text.parse().unwrap();
        KeyEvent::new(key.code, key.modifiers)
    }

    fn configured(wanted: &[(&str, &[&str])]) -> Result<Keys, String> {
        let wanted = wanted
            .iter()
            .map(|(name, keys)| {
                (
                    (*name).to_owned(),
                    keys.iter().map(|key| (*key).to_owned()).collect(),
                )
            })
            .collect();
        Keys::configured(&wanted)
    }

    #[test]
    fn every_action_has_keys_and_no_key_does_two_things() {
        let keys = configured(&[]).unwrap();
        let mut seen = Vec::new();
        for (name, keys, _) in actions() {
            assert!(!keys.is_empty(), "{name}");
            for key in keys {
                let key: Key = key.parse().unwrap();
                assert!(!seen.contains(&key), "{key}");
                seen.push(key);
            }
        }
        assert_eq!(keys.bound.len(), seen.len());
    }

    #[test]
    fn keys_are_written_as_they_are_read() {
        for text in [
            "enter",
            "alt-n",
            "ctrl-alt-home",
            "f12",
            "space",
            "ctrl-minus",
            "/",
        ] {
            assert_eq!(text.parse::<Key>().unwrap().to_string(), text);
        }
        for text in ["", "hyper-n", "ctrl-", "f0", "f99", "nn", "-"] {
            assert!(text.parse::<Key>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_configuration_moves_keys_and_takes_them_away() {
        let keys = configured(&[("quit", &["ctrl-x"]), ("next-unread", &["f1"]), ("copy", &[])]).unwrap();
        assert_eq!(keys.action(press("ctrl-x")), Some(Action::Quit));
        assert_eq!(keys.action(press("ctrl-q")), None);
        assert_eq!(keys.action(press("f1")), Some(Action::NextUnread));
        assert_eq!(keys.action(press("alt-c")), None);
        assert_eq!(keys.of(Action::Copy), "-");
        assert_eq!(keys.action(press("enter")), Some(Action::Send));
    }

    #[test]
    fn a_configuration_that_makes_no_sense_is_refused_with_its_place() {
        let error = |wanted: &[(&str, &[&str])]| configured(wanted).unwrap_err();
        assert!(error(&[("fly", &["f5"])]).starts_with("keys.fly:"));
        assert!(error(&[("quit", &["hyper-q"])]).contains("hyper-q"));
        assert!(error(&[("quit", &["f5"]), ("send", &["f5"])]).contains("f5"));
    }

    #[test]
    fn a_letter_is_the_same_with_and_without_shift_reported() {
        let keys = configured(&[]).unwrap();
        let event = KeyEvent::new(KeyCode::Char('N'), KeyModifiers::ALT | KeyModifiers::SHIFT);
        assert_eq!(keys.action(event), Some(Action::NextUnread));
    }
}
