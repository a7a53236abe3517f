//! What is on the screen, without the screen: every event changes this, and asks for what has to be done outside.

mod events;
mod groups;
mod input;
mod panel;
#[cfg(test)]
pub(super) mod tests;

pub(super) use events::{Effect, Update};
pub(super) use groups::{Groups, Section, name_of};
pub(super) use panel::{Hit, Look, Panel, PanelLine};

use std::collections::HashMap;

use larder_client::{ContactRequest, GroupKey, GroupState, GroupSummary, Message, MessageKind, SendStatus};

use crate::failure::Failure;
use crate::slash::{self, Slash, Suggestion};
use crate::text::{label, plain};
use crate::tui::composer::Composer;
use crate::tui::keys::Keys;
use crate::tui::timeline::{DayAndMinute, Entry, Timeline};

/// Messages that are fetched at a time.
pub(super) const PAGE: u32 = 200;

/// How many KeyPackages others can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct PoolLevel {
    pub(super) available: u32,
    pub(super) target: u32,
    /// Whether somebody used the last resort, and it has not been replaced.
    pub(super) last_resort_used: bool,
}

/// What the status line tells.
#[derive(Debug, Clone, Default)]
pub(super) struct Status {
    /// `None` until it is known.
    pub(super) online: Option<bool>,
    pub(super) pool: Option<PoolLevel>,
    pub(super) changed: Vec<String>,
}

/// A word about what was done last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) text: String,
    pub(super) is_failure: bool,
}

/// The state of the interface.
pub(super) struct App {
    /// `user/device`.
    pub(super) me: String,
    pub(super) keys: Keys,
    pub(super) groups: Groups,
    pub(super) composer: Composer,
    pub(super) status: Status,
    pub(super) word: Option<Word>,
    pub(super) panel: Option<Panel>,
    pub(super) suggestions: Vec<Suggestion>,
    pub(super) suggested: usize,
    /// Whether the groups are shown where there is room.
    pub(super) groups_shown: bool,
    timelines: HashMap<GroupKey, Timeline>,
    drafts: HashMap<GroupKey, String>,
    members: HashMap<GroupKey, Vec<String>>,
    /// A message to be pointed at once it is in memory.
    wanted: Option<Hit>,
    /// Whether the terminal has the focus, as far as it tells.
    focused: bool,
    when: DayAndMinute,
    effects: Vec<Effect>,
}

impl App {
    pub(super) fn new(me: String, keys: Keys, when: DayAndMinute) -> Self {
        Self {
            me,
            keys,
            groups: Groups::default(),
            composer: Composer::default(),
            status: Status::default(),
            word: None,
            panel: None,
            suggestions: Vec::new(),
            suggested: 0,
            groups_shown: true,
            timelines: HashMap::new(),
            drafts: HashMap::new(),
            members: HashMap::new(),
            wanted: None,
            focused: true,
            when,
            effects: Vec::new(),
        }
    }

    /// What has to be done, in order.
    pub(super) fn effects(&mut self) -> Vec<Effect> {
        self.mark_read();
        std::mem::take(&mut self.effects)
    }

    pub(super) fn update(&mut self, update: Update) {
        match update {
            Update::Groups(groups) => {
                self.groups.replace(groups);
                if self.groups.open().is_none() && self.groups.pointed().is_none() {
                    self.groups.point_at_first();
                }
            }
            Update::Messages(messages) => self.arrived(messages),
            Update::History {
                group,
                messages,
                complete,
            } => self.loaded(&group, messages, complete),
            Update::Members { group, users } => {
                self.members.insert(group, users);
                self.suggest();
            }
            Update::Connection(online) => self.status.online = Some(online),
            Update::Pool(level) => self.status.pool = Some(level),
            Update::Changed(users) => self.status.changed = users,
            Update::Done(text) => self.say(text, false),
            Update::Failed(text) => self.say(text, true),
            Update::NotPosted { group, text, why } => {
                if self.groups.open() == Some(&group) && self.composer.is_empty() {
                    self.composer.replace(&text);
                } else {
                    self.drafts.entry(group).or_insert(text);
                }
                self.say(why, true);
            }
            Update::Panel(panel) => self.panel = Some(panel),
            Update::Open(group) => self.open(&group),
            Update::Edited(text) => {
                self.composer.replace(text.trim_end());
                self.suggest();
            }
        }
    }

    fn say(&mut self, text: String, is_failure: bool) {
        self.word = Some(Word { text, is_failure });
    }

    /// The group on the screen, with its messages.
    pub(super) fn shown(&mut self) -> Option<(&GroupSummary, &mut Timeline)> {
        let group = self.groups.shown()?;
        let timeline = self.timelines.entry(group.id.clone()).or_default();
        Some((group, timeline))
    }

    /// The members of the open group that can be named.
    fn known_members(&self) -> &[String] {
        self.groups
            .open()
            .and_then(|group| self.members.get(group))
            .map_or(&[], Vec::as_slice)
    }

    fn arrived(&mut self, messages: Vec<Message>) {
        let mut alerting: Option<(String, usize)> = None;
        for message in messages {
            let Some(key) = message.group.clone() else {
                // Of no group: it is told where everything is told that concerns this device.
                self.say(plain(&message.text).into_owned(), true);
                continue;
            };
            let is_seen = self.is_seen(&key);
            let by_others =
                !message.mine && matches!(message.kind, MessageKind::Text | MessageKind::Attachment);
            let timeline = self.timelines.entry(key.clone()).or_default();
            let is_new = message.row > timeline.newest();
            if is_new && by_others && !is_seen {
                let group = self.groups.get(&key);
                if group.is_none_or(|group| !group.muted && group.request.is_none()) {
                    let name = message.group_name.as_deref().unwrap_or("a group");
                    let count = alerting.map_or(0, |(_, count)| count);
                    alerting = Some((label(name).into_owned(), count + 1));
                }
                // What arrives while nobody looks is new to who looks next.
                let read = group.map_or(0, |group| group.read_up_to);
                if self.groups.open() == Some(&key) && timeline.new_after().is_none() {
                    timeline.set_new_after(Some(read));
                }
            }
            // A status that was not asked for, of a message that is not in memory, is not needed.
            if is_new || message.status == SendStatus::Sent || message.mine {
                timeline.put(Entry::new(message, self.when));
            }
        }
        if let Some((group, count)) = alerting {
            self.effects.push(Effect::Alert { group, count });
        }
    }

    /// Whether somebody looks at the end of the group.
    fn is_seen(&self, group: &GroupKey) -> bool {
        self.focused
            && self.groups.open() == Some(group)
            && self.groups.pointed().is_none()
            && self.timelines.get(group).is_none_or(Timeline::is_at_end)
    }

    fn loaded(&mut self, group: &GroupKey, messages: Vec<Message>, complete: bool) {
        let timeline = self.timelines.entry(group.clone()).or_default();
        let is_first = timeline.oldest().is_none();
        let entries = messages
            .into_iter()
            .map(|message| Entry::new(message, self.when))
            .collect();
        timeline.prepend(entries, complete);
        if is_first {
            timeline.show_new();
        }
        match &self.wanted {
            Some(hit) if &hit.group == group => {
                let found = timeline.select_row(hit.row);
                let before = timeline.oldest();
                if found || complete {
                    self.wanted = None;
                } else {
                    self.effects.push(Effect::Load {
                        group: group.clone(),
                        before,
                    });
                }
            }
            Some(_) | None => (),
        }
    }

    /// Goes to a group, which counts as reading it.
    fn open(&mut self, group: &GroupKey) {
        if let Some(left) = self.groups.open().cloned() {
            if &left == group {
                self.groups.unpoint();
                return;
            }
            let draft = self.composer.replace("");
            self.drafts.insert(left.clone(), draft);
            if let Some(timeline) = self.timelines.get_mut(&left) {
                timeline.set_new_after(None);
                timeline.unselect();
                timeline.scroll_to_end();
            }
        }
        let draft = self.drafts.remove(group).unwrap_or_default();
        let typed = self.composer.replace(&draft);
        if !typed.is_empty() && draft.is_empty() {
            // It was typed before any group was open.
            self.composer.replace(&typed);
        }
        self.groups.set_open(group);
        self.word = None;
        let timeline = self.timelines.entry(group.clone()).or_default();
        if let Some(summary) = self.groups.get(group).filter(|summary| summary.unread > 0) {
            timeline.set_new_after(Some(summary.read_up_to));
            timeline.show_new();
        }
        self.effects.push(Effect::Members(group.clone()));
        self.suggest();
    }

    /// Goes to a message.
    fn go_to(&mut self, hit: Hit) {
        self.open(&hit.group);
        let timeline = self.timelines.entry(hit.group.clone()).or_default();
        if timeline.select_row(hit.row) {
            return;
        }
        let before = timeline.oldest();
        self.effects.push(Effect::Load {
            group: hit.group.clone(),
            before,
        });
        self.wanted = Some(hit);
    }

    /// What is at the end of the open group has been seen, if somebody looks at it.
    fn mark_read(&mut self) {
        let Some(group) = self.groups.open().cloned() else {
            return;
        };
        if !self.is_seen(&group) {
            return;
        }
        let up_to = self.timelines.get(&group).map_or(0, Timeline::newest);
        if self.groups.read(&group, up_to) {
            self.effects.push(Effect::MarkRead { group, up_to });
        }
    }

    /// What was entered.
    fn entered(&mut self) {
        let text = self.composer.text();
        match slash::read(&text) {
            slash::Entered::Text(text) if text.trim().is_empty() => (),
            slash::Entered::Text(text) => self.post(text),
            slash::Entered::Slash(slash) => {
                self.composer.enter();
                self.word = None;
                self.run(slash);
            }
            slash::Entered::Mistake(why) => {
                if !self.complete() {
                    self.say(why, true);
                }
            }
        }
        self.suggest();
    }

    fn post(&mut self, text: String) {
        let Some(group) = self.groups.open().and_then(|key| self.groups.get(key)) else {
            return self.say("no group is open: /new NAME creates one".to_owned(), true);
        };
        if let Some(request) = &group.request {
            let what = match request {
                ContactRequest::Invitation { by } => format!("{by} invited you"),
                ContactRequest::Listed { .. } => request.to_string(),
            };
            return self.say(format!("{what}: /accept or /decline first"), true);
        }
        if group.state == GroupState::Left {
            return self.say("you are not a member of this group any more".to_owned(), true);
        }
        let group = group.id.clone();
        self.composer.enter();
        self.word = None;
        if let Some(timeline) = self.timelines.get_mut(&group) {
            timeline.set_new_after(None);
            timeline.unselect();
            timeline.scroll_to_end();
        }
        self.effects.push(Effect::Post { group, text });
    }

    fn run(&mut self, slash: Slash) {
        match slash {
            Slash::Help => self.panel = Some(Panel::help(&self.keys)),
            Slash::Quit => self.effects.push(Effect::Quit),
            Slash::Copy => self.copy(),
            Slash::Edit => self.effects.push(Effect::Edit(String::new())),
            Slash::Group(name) => match self.groups.find(&name) {
                Ok(group) => self.open(&group),
                Err(groups) if groups.is_empty() => {
                    self.say(format!("no group is called {}", label(&name)), true);
                }
                Err(groups) => {
                    let error = larder_client::Error::Ambiguous { groups };
                    self.say(Failure::of(&error.into()).message.clone(), true);
                }
            },
            Slash::Save(to) => {
                let group = self.groups.shown().map(|group| group.id.clone());
                let timeline = group.and_then(|group| self.timelines.get(&group));
                match timeline.and_then(Timeline::chosen).map(|entry| entry.row) {
                    Some(row) => self.effects.push(Effect::Save { row, to }),
                    None => self.say("there is no message".to_owned(), true),
                }
            }
            Slash::New(_)
            | Slash::Search(_)
            | Slash::Pool
            | Slash::Block(_)
            | Slash::Trust(_)
            | Slash::Verify(..)
            | Slash::NewIdentity(..)
            | Slash::Invite(_)
            | Slash::Remove(_)
            | Slash::Leave
            | Slash::Members
            | Slash::Rename(_)
            | Slash::Retry
            | Slash::Accept
            | Slash::Decline
            | Slash::Mute
            | Slash::Attach(_) => {
                let group = self.groups.shown().map(|group| group.id.clone());
                self.effects.push(Effect::Do { group, slash });
            }
        }
    }

    fn copy(&mut self) {
        let chosen = self
            .shown()
            .and_then(|(_, timeline)| timeline.chosen().map(|entry| entry.text.clone()));
        match chosen {
            Some(text) => self.effects.push(Effect::Copy(text)),
            None => self.say("there is no message".to_owned(), true),
        }
    }

    /// What is typed could become something.
    fn suggest(&mut self) {
        let names = self.groups.names();
        self.suggestions = slash::suggest(
            &self.composer.text(),
            slash::Names {
                groups: &names,
                members: self.known_members(),
            },
        );
        self.suggested = self.suggested.min(self.suggestions.len().saturating_sub(1));
    }

    /// Takes what is suggested. Returns whether something was.
    fn complete(&mut self) -> bool {
        let Some(suggestion) = self.suggestions.get(self.suggested) else {
            return false;
        };
        let text = suggestion.text.clone();
        let changed = text != self.composer.replace(&text);
        self.suggested = 0;
        self.suggest();
        changed
    }

    /// Asks for older messages of the group on the screen.
    pub(super) fn load_older(&mut self) {
        if let Some((group, timeline)) = self.shown() {
            let load = Effect::Load {
                group: group.id.clone(),
                before: timeline.oldest(),
            };
            self.effects.push(load);
        }
    }

    /// Messages of this device that are not sent, of which news is wanted.
    pub(super) fn unsent(&self) -> Vec<i64> {
        self.timelines.values().flat_map(Timeline::unsent).collect()
    }
}
