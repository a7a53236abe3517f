use larder_client::GroupKey;

use crate::slash;
use crate::tui::keys::Keys;

/// How a line of a panel looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::tui) enum Look {
    Plain,
    Strong,
    Alarm,
    /// Half blocks, dark on light whatever the terminal's colours are: cameras want that.
    Code,
}

/// A line of a panel, made harmless.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::tui) struct PanelLine {
    pub(in crate::tui) text: String,
    pub(in crate::tui) look: Look,
}

impl PanelLine {
    pub(in crate::tui) fn new(text: impl Into<String>, look: Look) -> Self {
        Self {
            text: text.into(),
            look,
        }
    }
}

/// A message that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::tui) struct Hit {
    pub(in crate::tui) group: GroupKey,
    pub(in crate::tui) row: i64,
}

/// Something to be looked at, over the messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::tui) struct Panel {
    pub(in crate::tui) title: String,
    pub(in crate::tui) lines: Vec<PanelLine>,
    /// The message that each line stands for, where they do.
    hits: Vec<Hit>,
    /// The first line on the screen, or the line pointed at among hits.
    at: usize,
}

impl Panel {
    pub(in crate::tui) fn new(title: impl Into<String>, lines: Vec<PanelLine>) -> Self {
        Self {
            title: title.into(),
            lines,
            hits: Vec::new(),
            at: 0,
        }
    }

    /// One line for each message that was found.
    pub(in crate::tui) fn of_hits(title: impl Into<String>, found: Vec<(Hit, String)>) -> Self {
        let (hits, texts): (Vec<_>, Vec<_>) = found.into_iter().unzip();
        let lines = texts
            .into_iter()
            .map(|text| PanelLine::new(text, Look::Plain))
            .collect();
        Self {
            hits,
            ..Self::new(title, lines)
        }
    }

    pub(super) fn help(keys: &Keys) -> Self {
        let heading = |text: &str| PanelLine::new(text, Look::Strong);
        let row = |what: String, help: &str| PanelLine::new(format!("{what:<24} {help}"), Look::Plain);
        let mut lines = vec![heading("Commands")];
        lines.extend(slash::all().map(|(usage, help)| row(usage, help)));
        lines.push(row("//TEXT".to_owned(), "send a line that begins with a slash"));
        lines.push(PanelLine::new("", Look::Plain));
        lines.push(heading("Keys"));
        lines.extend(keys.all().map(|(keys, help)| row(keys, help)));
        lines.push(row(
            "ctrl-a e b f w u k y".to_owned(),
            "edit, as in a shell; ctrl-_ undoes",
        ));
        Self::new("help", lines)
    }

    pub(super) fn scroll(&mut self, lines: isize) {
        let last = self.lines.len().saturating_sub(1);
        self.at = self.at.saturating_add_signed(lines).min(last);
    }

    pub(super) fn up(&mut self) {
        self.scroll(-1);
    }

    pub(super) fn down(&mut self) {
        self.scroll(1);
    }

    /// The message pointed at.
    pub(super) fn chosen(&self) -> Option<Hit> {
        self.hits.get(self.at).cloned()
    }

    /// The first line on a screen with room for so many, and the one pointed at.
    pub(in crate::tui) fn window(&mut self, height: usize) -> (usize, Option<usize>) {
        let most = self.lines.len().saturating_sub(height);
        if self.hits.is_empty() {
            self.at = self.at.min(most);
            return (self.at, None);
        }
        ((self.at + 1).saturating_sub(height).min(most), Some(self.at))
    }
}
