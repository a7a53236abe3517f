use larder_client::text::folded;
use larder_client::{GroupKey, GroupState, GroupSummary};

use crate::record::group_label;

/// Where a group is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::tui) enum Section {
    /// Somebody who shares no group with this user invited them, or the server alone lists them; and they have not answered.
    Requests,
    Groups,
    /// Not a member any more.
    Left,
}

impl Section {
    pub(in crate::tui) fn of(group: &GroupSummary) -> Self {
        match (&group.request, group.state) {
            (Some(_), _) => Self::Requests,
            (None, GroupState::Left) => Self::Left,
            (None, GroupState::Creating | GroupState::Active | GroupState::NeedsRejoin) => Self::Groups,
        }
    }
}

/// The groups in the order of the list: it changes only when a name does, so that what one reaches for stays where it is.
#[derive(Debug, Default)]
pub(in crate::tui) struct Groups {
    all: Vec<GroupSummary>,
    open: Option<GroupKey>,
    /// Looked at in passing, which is not reading.
    pointed: Option<GroupKey>,
}

impl Groups {
    pub(super) fn replace(&mut self, mut groups: Vec<GroupSummary>) {
        groups
            .sort_by_cached_key(|group| (Section::of(group), folded(&name_of(group)), group.id.to_string()));
        let known = |key: &GroupKey| groups.iter().any(|group| &group.id == key);
        self.open = self.open.take().filter(known);
        self.pointed = self.pointed.take().filter(known);
        self.all = groups;
    }

    pub(in crate::tui) fn all(&self) -> &[GroupSummary] {
        &self.all
    }

    pub(in crate::tui) fn open(&self) -> Option<&GroupKey> {
        self.open.as_ref()
    }

    pub(in crate::tui) fn pointed(&self) -> Option<&GroupKey> {
        self.pointed.as_ref()
    }

    pub(super) fn get(&self, key: &GroupKey) -> Option<&GroupSummary> {
        self.all.iter().find(|group| &group.id == key)
    }

    /// The group on the screen.
    pub(in crate::tui) fn shown(&self) -> Option<&GroupSummary> {
        self.get(self.pointed.as_ref().or(self.open.as_ref())?)
    }

    /// Messages that are not read, in all groups that are not muted.
    pub(in crate::tui) fn unread(&self) -> u64 {
        self.all
            .iter()
            .filter(|group| !group.muted)
            .map(|group| group.unread)
            .sum()
    }

    pub(super) fn set_open(&mut self, key: &GroupKey) {
        self.pointed = None;
        self.open = Some(key.clone());
    }

    pub(super) fn unpoint(&mut self) -> bool {
        self.pointed.take().is_some()
    }

    pub(super) fn point_at_first(&mut self) {
        self.pointed = self.all.first().map(|group| group.id.clone());
    }

    /// Points at the next (or previous) group of the list.
    pub(super) fn point(&mut self, next: bool) {
        let current = self.shown().map(|group| group.id.clone());
        let at = self
            .all
            .iter()
            .position(|group| Some(&group.id) == current.as_ref());
        let to = match (at, next) {
            (None, _) => 0,
            (Some(at), true) => (at + 1).min(self.all.len().saturating_sub(1)),
            (Some(at), false) => at.saturating_sub(1),
        };
        self.pointed = self
            .all
            .get(to)
            .map(|group| group.id.clone())
            .filter(|key| Some(key) != self.open.as_ref());
    }

    /// The next group after the one on the screen with unread messages, muted ones last.
    pub(super) fn next_unread(&self) -> Option<GroupKey> {
        let current = self.shown().map(|group| &group.id);
        let at = self
            .all
            .iter()
            .position(|group| Some(&group.id) == current)
            .map_or(0, |at| at + 1);
        let (before, after) = self.all.split_at(at.min(self.all.len()));
        let unread = |muted: bool| {
            after
                .iter()
                .chain(before)
                .find(|group| group.unread > 0 && group.muted == muted)
                .map(|group| group.id.clone())
        };
        unread(false).or_else(|| unread(true))
    }

    /// Remembers that a group is read. Returns whether that is news.
    pub(super) fn read(&mut self, key: &GroupKey, up_to: i64) -> bool {
        let Some(group) = self.all.iter_mut().find(|group| &group.id == key) else {
            return false;
        };
        if up_to <= group.read_up_to {
            return false;
        }
        group.read_up_to = up_to;
        group.unread = 0;
        true
    }

    /// The group with this name, else the only one whose name or id begins like this. A request or a group that was left is
    /// meant only if no other has the name.
    ///
    /// # Errors
    /// Those that it could be, several or none.
    pub(super) fn find(&self, text: &str) -> Result<GroupKey, Vec<GroupKey>> {
        let wanted = folded(text);
        // As it is called, and as that is shown.
        let names = |group: &GroupSummary| [group.name.as_deref().map(folded), Some(folded(&name_of(group)))];
        let is_named = |group: &GroupSummary| names(group).into_iter().flatten().any(|name| name == wanted);
        let kinds: [&dyn Fn(&GroupSummary) -> bool; 4] = [
            &|group| is_named(group) && Section::of(group) == Section::Groups,
            &|group| is_named(group) && Section::of(group) == Section::Requests,
            &is_named,
            &|group| {
                let mut names = names(group).into_iter().flatten();
                names.any(|name| name.starts_with(&wanted)) || group.id.to_string().starts_with(text)
            },
        ];
        for is_meant in kinds {
            let meant: Vec<GroupKey> = self
                .all
                .iter()
                .filter(|group| is_meant(group))
                .map(|group| group.id.clone())
                .collect();
            match meant.as_slice() {
                [] => (),
                [only] => return Ok(only.clone()),
                _ => return Err(meant),
            }
        }
        Err(Vec::new())
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.all.iter().map(name_of).collect()
    }
}

/// How a group is called, made harmless.
pub(in crate::tui) fn name_of(group: &GroupSummary) -> String {
    match &group.name {
        Some(name) => crate::text::name(name).into_owned(),
        None => group_label(None, &group.id.to_string()),
    }
}
