//! Where text is typed: an editor of several lines with the keys of readline, and what was entered before.

use larder_client::TEXT_BYTES_MAX;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui_textarea::{CursorMove, TextArea, WrapMode};

/// Texts that can be called back.
const ENTERED_MAX: usize = 100;
/// Bytes of a paste that can be taken. A message has at most 32 KiB; more would only make the terminal slow.
const PASTE_BYTES_MAX: usize = 64 * 1024;

/// The editor. Each group has a draft of its own; what was entered is common.
pub(super) struct Composer {
    area: TextArea<'static>,
    entered: Vec<String>,
    /// Which of them is shown; their number while none is.
    shown: usize,
    /// What was typed before one of them was called back.
    kept: String,
}

impl Default for Composer {
    fn default() -> Self {
        Self {
            area: editor(""),
            entered: Vec::new(),
            shown: 0,
            kept: String::new(),
        }
    }
}

fn editor(text: &str) -> TextArea<'static> {
    let mut area = TextArea::new(text.split('\n').map(str::to_owned).collect());
    area.set_wrap_mode(WrapMode::WordOrGlyph);
    area.set_cursor_line_style(ratatui::style::Style::default());
    area.set_max_histories(200);
    area.move_cursor(CursorMove::Bottom);
    area.move_cursor(CursorMove::End);
    area
}

impl Composer {
    pub(super) fn area(&self) -> &TextArea<'static> {
        &self.area
    }

    pub(super) fn text(&self) -> String {
        self.area.lines().join("\n")
    }

    pub(super) fn is_empty(&self) -> bool {
        self.area.is_empty()
    }

    /// Lines that the text takes in so many columns.
    pub(super) fn height(&self, columns: u16) -> u16 {
        let columns = usize::from(columns.max(1));
        let lines = self.area.lines().iter().map(|line| {
            // The cursor wants a place at the end as well.
            (unicode_width::UnicodeWidthStr::width(line.as_str()) + 1).div_ceil(columns)
        });
        u16::try_from(lines.sum::<usize>()).unwrap_or(u16::MAX)
    }

    /// Puts a text in the place of what is there, and returns that.
    pub(super) fn replace(&mut self, text: &str) -> String {
        let old = self.text();
        self.area = editor(&clean(text).0);
        self.shown = self.entered.len();
        old
    }

    /// Takes what was typed, to be called back later.
    pub(super) fn enter(&mut self) -> String {
        let text = self.replace("");
        if !text.trim().is_empty() && self.entered.last() != Some(&text) {
            self.entered.push(text.clone());
            if self.entered.len() > ENTERED_MAX {
                self.entered.remove(0);
            }
        }
        self.shown = self.entered.len();
        text
    }

    /// Calls back what was entered before (or after) what is shown.
    pub(super) fn recall(&mut self, before: bool) {
        let to = match before {
            true => self.shown.checked_sub(1),
            false => Some(self.shown + 1).filter(|to| *to <= self.entered.len()),
        };
        let Some(to) = to else { return };
        if self.shown == self.entered.len() {
            self.kept = self.text();
        }
        let text = match self.entered.get(to) {
            Some(entered) => entered.clone(),
            None => std::mem::take(&mut self.kept),
        };
        self.area = editor(&text);
        self.shown = to;
    }

    /// Inserts text from the clipboard, as text: all of it, or nothing of what is too long for a message.
    ///
    /// # Errors
    /// A sentence about what was not taken.
    pub(super) fn paste(&mut self, text: &str) -> Result<(), String> {
        if text.len() > PASTE_BYTES_MAX {
            return Err(format!(
                "nothing was pasted: it has {} bytes, a message {TEXT_BYTES_MAX} at most",
                text.len()
            ));
        }
        let (text, left_out) = clean(text);
        self.area.insert_str(text);
        match left_out {
            0 => Ok(()),
            1 => Err("one control character of what was pasted was left out".to_owned()),
            many => Err(format!(
                "{many} control characters of what was pasted were left out"
            )),
        }
    }

    pub(super) fn new_line(&mut self) {
        self.area.insert_newline();
    }

    /// Edits, as readline would. Returns whether the key meant anything.
    pub(super) fn key(&mut self, key: KeyEvent) -> bool {
        let area = &mut self.area;
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        let alt = key.modifiers.contains(KeyModifiers::ALT);
        match key.code {
            KeyCode::Char(c) if control && !alt => match c.to_ascii_lowercase() {
                'a' => area.move_cursor(CursorMove::Head),
                'e' => area.move_cursor(CursorMove::End),
                'b' => area.move_cursor(CursorMove::Back),
                'f' => area.move_cursor(CursorMove::Forward),
                'h' => _ = area.delete_char(),
                'd' => _ = area.delete_next_char(),
                'w' => _ = area.delete_word(),
                'u' => _ = area.delete_line_by_head(),
                'k' => _ = area.delete_line_by_end(),
                'y' => _ = area.paste(),
                '_' | '/' | '7' | 'z' => _ = area.undo(),
                _ => return false,
            },
            KeyCode::Char(c) if alt && !control => match c.to_ascii_lowercase() {
                'b' => area.move_cursor(CursorMove::WordBack),
                'f' => word_forward(area),
                'd' => _ = area.delete_next_word(),
                '<' => area.move_cursor(CursorMove::Top),
                '>' => area.move_cursor(CursorMove::Bottom),
                _ => return false,
            },
            KeyCode::Char(c) if !control && !alt => area.insert_char(c),
            KeyCode::Backspace if control || alt => _ = area.delete_word(),
            KeyCode::Backspace => _ = area.delete_char(),
            KeyCode::Delete => _ = area.delete_next_char(),
            KeyCode::Left if control || alt => area.move_cursor(CursorMove::WordBack),
            KeyCode::Right if control || alt => word_forward(area),
            KeyCode::Left => area.move_cursor(CursorMove::Back),
            KeyCode::Right => area.move_cursor(CursorMove::Forward),
            KeyCode::Home => area.move_cursor(CursorMove::Head),
            KeyCode::End => area.move_cursor(CursorMove::End),
            // Above the first line is what was entered before.
            KeyCode::Up if area.cursor().0 == 0 => self.recall(true),
            KeyCode::Down if area.cursor().0 + 1 == area.lines().len() => self.recall(false),
            KeyCode::Up => area.move_cursor(CursorMove::Up),
            KeyCode::Down => area.move_cursor(CursorMove::Down),
            _ => return false,
        }
        true
    }
}

/// Behind the end of the next word, where readline goes.
fn word_forward(area: &mut TextArea<'_>) {
    area.move_cursor(CursorMove::WordEnd);
    area.move_cursor(CursorMove::Forward);
}

/// Text that was pasted, or written elsewhere, without what is not text, and how many characters that were.
fn clean(text: &str) -> (String, usize) {
    let text = text
        .replace("\r\n", "\n")
        .replace('\r', "\n")
        .replace('\t', "    ");
    let is_text = |c: &char| *c == '\n' || !c.is_control();
    let left_out = text.chars().filter(|c| !is_text(c)).count();
    (text.chars().filter(is_text).collect(), left_out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(composer: &mut Composer, keys: &str) {
        for key in keys.split(' ') {
            let (modifiers, key) = match key.split_once('-') {
                Some(("ctrl", key)) => (KeyModifiers::CONTROL, key),
                Some(("alt", key)) => (KeyModifiers::ALT, key),
                _ => (KeyModifiers::NONE, key),
            };
            let code = match key {
                "up" => KeyCode::Up,
                "down" => KeyCode::Down,
                "backspace" => KeyCode::Backspace,
                key => KeyCode::Char(key.chars().next().unwrap()),
            };
            assert!(composer.key(KeyEvent::new(code, modifiers)), "{key}");
        }
    }

    fn composer(text: &str) -> Composer {
        let mut composer = Composer::default();
        composer.replace(text);
        composer
    }

    #[test]
    fn readline_keys_move_and_delete() {
        let mut composer = composer("one two three");
        press(&mut composer, "ctrl-w");
        assert_eq!(composer.text(), "one two ");
        press(&mut composer, "ctrl-a alt-d");
        assert_eq!(composer.text(), " two ");
        press(&mut composer, "ctrl-e x ctrl-b ctrl-k");
        assert_eq!(composer.text(), " two ");
        press(&mut composer, "ctrl-y");
        assert_eq!(composer.text(), " two x");
        press(&mut composer, "ctrl-u");
        assert!(composer.is_empty());
        press(&mut composer, "ctrl-_");
        assert_eq!(composer.text(), " two x");
        press(&mut composer, "alt-b alt-b ctrl-d alt-f backspace");
        assert_eq!(composer.text(), " w x");
    }

    #[test]
    fn what_was_entered_comes_back_and_what_was_being_typed_too() {
        let mut composer = Composer::default();
        for text in ["first", "second", "second"] {
            composer.replace(text);
            assert_eq!(composer.enter(), text);
        }
        composer.replace("draft");
        press(&mut composer, "up");
        assert_eq!(composer.text(), "second");
        press(&mut composer, "up up");
        assert_eq!(composer.text(), "first");
        press(&mut composer, "down down");
        assert_eq!(composer.text(), "draft");
    }

    #[test]
    fn a_paste_is_text_of_several_lines_and_no_key() {
        let mut composer = Composer::default();
        let told = composer.paste("one\r\ntwo\rthree\u{1b}[A\u{7}\tend").unwrap_err();
        assert_eq!(composer.text(), "one\ntwo\nthree[A    end");
        assert_eq!(told, "2 control characters of what was pasted were left out");
        composer.replace("");
        assert!(composer.paste(&"x".repeat(PASTE_BYTES_MAX)).is_ok());
        assert_eq!(composer.text().len(), PASTE_BYTES_MAX);
    }

    #[test]
    fn a_paste_that_is_too_long_is_refused_whole_and_told() {
        let mut composer = composer("as it was");
        let told = composer.paste(&"ü".repeat(PASTE_BYTES_MAX)).unwrap_err();
        assert_eq!(
            told,
            "nothing was pasted: it has 131072 bytes, a message 32768 at most"
        );
        assert_eq!(composer.text(), "as it was");
    }

    #[test]
    fn it_grows_with_what_is_typed() {
        let mut composer = composer("one\ntwo");
        assert_eq!(composer.height(80), 2);
        composer.replace(&"x".repeat(80));
        assert_eq!(composer.height(80), 2);
        assert_eq!(Composer::default().height(80), 1);
    }
}
