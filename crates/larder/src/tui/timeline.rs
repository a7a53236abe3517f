//! The messages of one group, and which lines of them are on the screen.

use std::collections::VecDeque;

use larder_client::{Message, MessageKind, SendStatus};
use textwrap::{Options, WordSplitter, WrapAlgorithm};

use crate::text;

/// Columns of a line before its text: the minute and the author.
pub(super) const MARGIN: u16 = 6 + NAME + 2;
/// Columns of an author's name.
pub(super) const NAME: u16 = 12;
/// The fewest columns that text is wrapped to.
const TEXT_MIN: u16 = 8;

/// Writes a point in time: the day, and the minute of it.
pub(super) type DayAndMinute = fn(larder_client::UnixSeconds) -> (String, String);

/// Who a line is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Author {
    /// This device.
    Me,
    /// A user; also this one, on another device.
    User(String),
    /// Nobody: something happened.
    Event,
}

/// A message, ready to be shown.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) row: i64,
    pub(super) author: Author,
    pub(super) status: SendStatus,
    pub(super) minute: String,
    day: String,
    /// As it was written, for copying.
    pub(super) text: String,
    wrapped: Option<Wrapped>,
}

#[derive(Debug, Clone)]
struct Wrapped {
    columns: u16,
    lines: Vec<String>,
}

impl Entry {
    /// Whether `/retry` would send it.
    fn is_to_be_sent_again(&self) -> bool {
        match self.status {
            SendStatus::Failed | SendStatus::Lost => true,
            SendStatus::Sent | SendStatus::Pending => false,
        }
    }

    pub(super) fn new(message: Message, when: DayAndMinute) -> Self {
        let (day, minute) = when(message.sent_at);
        let author = match (message.kind, message.sender) {
            (MessageKind::Text | MessageKind::Attachment, _) if message.mine => Author::Me,
            (MessageKind::Text | MessageKind::Attachment, Some(sender)) => Author::User(sender.to_string()),
            (MessageKind::Text | MessageKind::Attachment, None) => Author::User("?".to_owned()),
            (
                MessageKind::Joined
                | MessageKind::Added
                | MessageKind::Removed
                | MessageKind::Left
                | MessageKind::Notice,
                _,
            ) => Author::Event,
        };
        let text = match message.kind {
            MessageKind::Attachment => format!("(file) {}", message.text),
            MessageKind::Text
            | MessageKind::Joined
            | MessageKind::Added
            | MessageKind::Removed
            | MessageKind::Left
            | MessageKind::Notice => message.text,
        };
        Self {
            row: message.row,
            author,
            status: message.status,
            minute,
            day,
            text,
            wrapped: None,
        }
    }

    /// The text in lines of so many columns.
    fn lines(&mut self, columns: u16) -> &[String] {
        let columns = columns.max(TEXT_MIN);
        if self
            .wrapped
            .as_ref()
            .is_none_or(|wrapped| wrapped.columns != columns)
        {
            self.wrapped = None;
        }
        let text = &self.text;
        &self
            .wrapped
            .get_or_insert_with(|| Wrapped {
                columns,
                lines: wrap(text, columns),
            })
            .lines
    }
}

/// Text of others in lines of so many columns.
pub(super) fn wrap(text: &str, columns: u16) -> Vec<String> {
    let options = Options::new(usize::from(columns))
        .word_splitter(WordSplitter::NoHyphenation)
        .wrap_algorithm(WrapAlgorithm::FirstFit);
    text::lines(text)
        .iter()
        .flat_map(|line| textwrap::wrap(line, &options))
        .map(|line| line.into_owned())
        .collect()
}

/// One line of the screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Line {
    /// A day begins.
    Day(String),
    /// What follows is new.
    New,
    /// The message above was refused.
    NotSent,
    /// The server has lost the message above.
    Lost,
    /// The first line of a message, or a later one.
    Text {
        /// Which message.
        row: i64,
        /// The minute and the author, on the first line.
        head: Option<(String, Author)>,
        text: String,
        /// On the first line of an own message that is not sent.
        mark: Option<SendStatus>,
        /// Whether it is the message that keys point at.
        selected: bool,
        /// Whether nobody wrote it.
        event: bool,
    },
}

/// The messages of a group that are in memory: the newest, and older ones as far as somebody scrolled.
#[derive(Debug, Default)]
pub(super) struct Timeline {
    entries: VecDeque<Entry>,
    /// Whether the oldest one is in memory.
    complete: bool,
    /// Whether older ones were asked for.
    loading: bool,
    /// Lines below the lowest one on the screen.
    below: usize,
    /// What was newest when the group was last left: what others wrote after it is new.
    new_after: Option<i64>,
    /// Whether the next screen is to begin there.
    begins_at_new: bool,
    selected: Option<i64>,
    columns: u16,
    height: usize,
}

impl Timeline {
    /// Puts older messages, oldest first, before the others.
    pub(super) fn prepend(&mut self, older: Vec<Entry>, complete: bool) {
        self.loading = false;
        self.complete = complete;
        let oldest = self.entries.front().map_or(i64::MAX, |entry| entry.row);
        for entry in older.into_iter().rev().filter(|entry| entry.row < oldest) {
            self.entries.push_front(entry);
        }
    }

    /// Puts a newer message after the others, or what became of one in its place. What is on the screen stays there.
    pub(super) fn put(&mut self, entry: Entry) {
        match self.entries.binary_search_by_key(&entry.row, |known| known.row) {
            Ok(at) => self.entries[at] = entry,
            // Older than what is in memory: it comes when somebody scrolls there.
            Err(0) if !self.complete && !self.entries.is_empty() => (),
            Err(at) => {
                self.entries.insert(at, entry);
                if self.below > 0 {
                    self.below += self.height_of(at);
                }
            }
        }
    }

    /// The newest message's row; 0 if there is none.
    pub(super) fn newest(&self) -> i64 {
        self.entries.back().map_or(0, |entry| entry.row)
    }

    pub(super) fn oldest(&self) -> Option<i64> {
        self.entries.front().map(|entry| entry.row)
    }

    /// The messages that were not sent, or not yet.
    pub(super) fn unsent(&self) -> impl Iterator<Item = i64> + '_ {
        let unsent = |entry: &&Entry| entry.author == Author::Me && entry.status != SendStatus::Sent;
        self.entries.iter().filter(unsent).map(|entry| entry.row)
    }

    /// Whether the newest message is on the screen.
    pub(super) fn is_at_end(&self) -> bool {
        self.below == 0 && !self.begins_at_new
    }

    /// Draws the line under this message; `None` takes it away.
    pub(super) fn set_new_after(&mut self, row: Option<i64>) {
        self.new_after = row;
    }

    /// Begins where what is new begins, if it does not fit on the screen.
    pub(super) fn show_new(&mut self) {
        self.begins_at_new = self.new_after.is_some();
    }

    fn scroll_to_new(&mut self) {
        let Some(row) = self
            .new_after
            .filter(|_| self.begins_at_new && !self.entries.is_empty())
        else {
            return;
        };
        self.begins_at_new = false;
        let first = self.entries.partition_point(|entry| entry.row <= row);
        let new: usize = (first..self.entries.len()).map(|at| self.height_of(at)).sum();
        self.below = new.saturating_sub(self.height.max(1));
    }

    pub(super) fn new_after(&self) -> Option<i64> {
        self.new_after
    }

    /// How many lines there were room for.
    pub(super) fn height(&self) -> usize {
        self.height
    }

    pub(super) fn scroll_up(&mut self, lines: usize) {
        self.below = self.below.saturating_add(lines);
    }

    pub(super) fn scroll_down(&mut self, lines: usize) {
        self.below = self.below.saturating_sub(lines);
    }

    pub(super) fn scroll_to_end(&mut self) {
        self.begins_at_new = false;
        self.below = 0;
    }

    /// Points at the message before (or after) the one pointed at, and returns it.
    pub(super) fn select(&mut self, before: bool) {
        let at = match self.selected {
            None if before => self.entries.len().checked_sub(1),
            None => None,
            Some(row) => {
                let at = self.entries.partition_point(|entry| entry.row < row);
                match before {
                    true => Some(at.saturating_sub(1)),
                    false => Some(at + 1).filter(|at| *at < self.entries.len()),
                }
            }
        };
        self.selected = at.map(|at| self.entries[at].row);
        match at {
            Some(at) => self.show(at),
            None => self.scroll_to_end(),
        }
    }

    pub(super) fn unselect(&mut self) -> bool {
        self.selected.take().is_some()
    }

    /// Points at a message and scrolls to it. Returns whether it is in memory.
    pub(super) fn select_row(&mut self, row: i64) -> bool {
        let Ok(at) = self.entries.binary_search_by_key(&row, |entry| entry.row) else {
            return false;
        };
        self.selected = Some(row);
        self.show(at);
        true
    }

    /// The message pointed at, else the newest that somebody wrote.
    pub(super) fn chosen(&self) -> Option<&Entry> {
        match self.selected {
            Some(row) => self.entries.iter().rfind(|entry| entry.row == row),
            None => self.entries.iter().rfind(|entry| entry.author != Author::Event),
        }
    }

    /// Scrolls as little as brings a message onto the screen.
    fn show(&mut self, at: usize) {
        let after: usize = (at + 1..self.entries.len()).map(|at| self.height_of(at)).sum();
        let own = self.height_of(at);
        let room = self.height.max(1);
        if after < self.below {
            self.below = after;
        } else if after + own > self.below + room {
            self.below = (after + own).saturating_sub(room);
        }
    }

    /// The lines on a screen with so much room, and whether older messages have to be fetched for it, which is said once.
    pub(super) fn view(&mut self, columns: u16, height: usize) -> (Vec<Line>, bool) {
        self.columns = columns;
        self.height = height;
        self.scroll_to_new();
        // From the last line upwards, as many as are wanted.
        let mut lines: Vec<Line> = Vec::with_capacity(height * 2);
        let mut at = self.entries.len();
        let wanted = self.below.saturating_add(height);
        let mut passed = 0;
        while at > 0 && passed + lines.len() < wanted {
            at -= 1;
            // What is below the screen is counted and not made.
            let height = self.height_of(at);
            if passed + lines.len() + height <= self.below {
                passed += height;
                continue;
            }
            let mut own = self.lines_of(at);
            own.reverse();
            lines.append(&mut own);
        }
        let total = passed + lines.len();
        self.below = self.below.min(total.saturating_sub(height));
        let skip = self.below.saturating_sub(passed);
        let mut shown: Vec<Line> = match self.below < passed {
            // Scrolled beyond the beginning, by less than what was passed: once more, from where the beginning is.
            true => return self.view(columns, height),
            false => lines.into_iter().skip(skip).take(height).collect(),
        };
        shown.reverse();
        let needs_older = at == 0 && !self.complete && !self.loading;
        self.loading |= needs_older;
        (shown, needs_older)
    }

    /// Whether a message is the first of its day, and whether what is new begins with it.
    fn begins(&self, at: usize) -> (bool, bool) {
        let previous = at.checked_sub(1).and_then(|at| self.entries.get(at));
        let is_first_of_day = previous.is_none_or(|previous| previous.day != self.entries[at].day);
        let starts_new = self.new_after.is_some_and(|row| {
            self.entries[at].row > row && previous.is_none_or(|previous| previous.row <= row)
        });
        (is_first_of_day, starts_new)
    }

    /// How many lines [`lines_of`](Self::lines_of) returns.
    fn height_of(&mut self, at: usize) -> usize {
        let (is_first_of_day, starts_new) = self.begins(at);
        let columns = self.columns.saturating_sub(MARGIN);
        let entry = &mut self.entries[at];
        let failed = entry.is_to_be_sent_again();
        entry.lines(columns).len()
            + usize::from(is_first_of_day)
            + usize::from(starts_new)
            + usize::from(failed)
    }

    /// All lines of a message, and those above it that belong to it.
    fn lines_of(&mut self, at: usize) -> Vec<Line> {
        let mut lines = Vec::new();
        let (is_first_of_day, starts_new) = self.begins(at);
        let selected = self.selected;
        let columns = self.columns.saturating_sub(MARGIN);
        let entry = &mut self.entries[at];
        if is_first_of_day {
            lines.push(Line::Day(entry.day.clone()));
        }
        if starts_new {
            lines.push(Line::New);
        }
        let mut head = Some((entry.minute.clone(), entry.author.clone()));
        let mark = Some(entry.status).filter(|status| *status != SendStatus::Sent);
        let failed = entry.is_to_be_sent_again();
        let lost = entry.status == SendStatus::Lost;
        let (row, event) = (entry.row, entry.author == Author::Event);
        for (number, text) in entry.lines(columns).iter().enumerate() {
            lines.push(Line::Text {
                row,
                head: head.take(),
                text: text.clone(),
                mark: mark.filter(|_| number == 0),
                selected: selected == Some(row),
                event,
            });
        }
        if failed {
            lines.push(match lost {
                true => Line::Lost,
                false => Line::NotSent,
            });
        }
        lines
    }
}

#[cfg(test)]
mod tests;
