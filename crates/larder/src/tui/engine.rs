//! What the interface wants done, and what it is told of: the client's side.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::Result;
use larder_client::{
    Error, GroupKey, GroupState, Message, MlsConnection, NotAdded, SendStatus, UserName, Verification,
};
use tokio::sync::{Mutex, Notify, mpsc};

use super::app::{Effect, Hit, Look, PAGE, Panel, PanelLine, PoolLevel, Update};
use super::panels;
use super::queues::Queues;
use crate::clock;
use crate::commands::{pool_records, quarantined_record};
use crate::failure::Failure;
use crate::files::{Outgoing, destination};
use crate::follow::Follower;
use crate::record::{group_label, untold};
use crate::slash::Slash;
use crate::text::{label, plain};

/// Messages that are found at most.
const HITS_MAX: u32 = 200;

/// Runs beside the interface until the interface is gone.
pub(super) struct Engine {
    client: MlsConnection,
    updates: mpsc::UnboundedSender<Update>,
    nudge: Notify,
    news: Mutex<News>,
}

/// How far the interface knows what there is.
#[derive(Default)]
struct News {
    /// Messages up to this row have been told.
    row: i64,
    /// What was told last of each own message that was not told as sent. What is read of a message may be older or newer than
    /// what is read of another, so each is told again whenever it differs from this.
    unsent: BTreeMap<i64, SendStatus>,
}

impl News {
    /// Notes what the interface is told of a message.
    fn told(&mut self, row: i64, status: SendStatus) {
        match status {
            SendStatus::Pending | SendStatus::Failed | SendStatus::Lost => {
                _ = self.unsent.insert(row, status)
            }
            SendStatus::Sent => _ = self.unsent.remove(&row),
        }
    }

    /// The rows of own messages that are not what they were told as, where these are not sent now.
    fn changed(&self, unsent: &BTreeMap<i64, SendStatus>) -> BTreeSet<i64> {
        let rows = self.unsent.keys().chain(unsent.keys());
        rows.filter(|row| self.unsent.get(row) != unsent.get(row))
            .copied()
            .collect()
    }
}

impl Engine {
    /// Starts; what happens is told through `updates`.
    pub(super) async fn start(
        client: MlsConnection,
        updates: mpsc::UnboundedSender<Update>,
    ) -> Result<Queues> {
        let engine = Arc::new(Self {
            client,
            updates,
            nudge: Notify::new(),
            news: Mutex::default(),
        });
        engine.begin().await?;
        let (quick, quickly) = mpsc::unbounded_channel();
        let (slow, slowly) = mpsc::unbounded_channel();
        let workers = [quickly, slowly].map(|queue| tokio::spawn(Arc::clone(&engine).work(queue)));
        tokio::spawn(engine.follow());
        Ok(Queues::new(quick, slow, workers))
    }

    fn tell(&self, update: Update) {
        // Nobody listens any more when the interface ends.
        let _ = self.updates.send(update);
    }

    /// What there is before anything happens.
    async fn begin(&self) -> Result<()> {
        let groups = self.client.groups().await?;
        let mut news = self.news.lock().await;
        news.row = groups.iter().map(|group| group.last_row).max().unwrap_or(0);
        news.unsent = self.client.unsent().await?.into_iter().collect();
        drop(news);
        self.tell(Update::Groups(groups));
        let mut notices = self.client.unread().await?;
        notices.retain(|message| message.group.is_none());
        self.tell_messages(notices).await?;
        self.levels().await
    }

    /// Keeps up with the server until the interface is gone.
    async fn follow(self: Arc<Self>) {
        let mut follower = Follower::new(self.client.clone());
        let mut reached = None;
        loop {
            let now = match follower.step(&self.nudge).await {
                Ok(hindrance) => hindrance.is_none(),
                Err(error) => {
                    self.tell(Update::Failed(sentence(error)));
                    false
                }
            };
            if reached != Some(now) {
                reached = Some(now);
                self.tell(Update::Connection(now));
            }
            self.news().await;
            if !now {
                follower.pause(&self.nudge).await;
            }
            if self.updates.is_closed() {
                return;
            }
        }
    }

    async fn work(self: Arc<Self>, mut queue: mpsc::UnboundedReceiver<Effect>) {
        while let Some(effect) = queue.recv().await {
            match self.carry_out(effect).await {
                Ok(Some(update)) => self.tell(update),
                Ok(None) => (),
                Err(error) => self.tell(Update::Failed(Failure::of(&error).message.clone())),
            }
        }
    }

    /// Tells what is new in the profile.
    async fn news(&self) {
        if let Err(error) = self.try_news().await {
            self.tell(Update::Failed(Failure::of(&error).message.clone()));
        }
    }

    async fn try_news(&self) -> Result<()> {
        let mut news = self.news.lock().await;
        let fresh = self.fresh(&mut news).await?;
        // The groups first: what arrives in a new one has a place then.
        self.tell(Update::Groups(self.client.groups().await?));
        self.tell_messages(fresh).await?;
        drop(news);
        self.levels().await
    }

    /// The messages that were not told yet, and those that are something else by now. They are told before `news` is let go of:
    /// another task might tell something newer before them.
    async fn fresh(&self, news: &mut News) -> Result<Vec<Message>> {
        let mut fresh = Vec::new();
        loop {
            let some = self.client.messages_after(news.row, PAGE).await?;
            let Some(last) = some.last() else { break };
            news.row = last.row;
            for message in &some {
                news.told(message.row, message.status);
            }
            fresh.extend(some);
        }
        let unsent = self.client.unsent().await?.into_iter().collect();
        for row in news.changed(&unsent) {
            if let Some(message) = self.client.message(row).await? {
                news.told(row, message.status);
                fresh.push(message);
            }
        }
        Ok(fresh)
    }

    async fn tell_messages(&self, messages: Vec<Message>) -> Result<()> {
        if messages.is_empty() {
            return Ok(());
        }
        // What concerns no group has no place but this one.
        let notice = messages
            .iter()
            .rfind(|message| message.group.is_none())
            .map(|message| message.row);
        self.tell(Update::Messages(messages));
        if let Some(row) = notice {
            self.client.mark_notices_read(row).await?;
        }
        Ok(())
    }

    /// Tells how many KeyPackages there are, and whose keys have changed.
    async fn levels(&self) -> Result<()> {
        let pools = self.client.pools().await?;
        let mut level = PoolLevel::default();
        for pool in pools.iter().filter(|pool| pool.stocked) {
            level.available += pool.health.available;
            level.target += pool.target;
            level.last_resort_used |= pool.health.last_resort.is_some_and(|last| last.used);
        }
        self.tell(Update::Pool(level));
        let changed = self.client.changed_users().await?;
        self.tell(Update::Changed(changed.iter().map(ToString::to_string).collect()));
        Ok(())
    }

    async fn carry_out(&self, effect: Effect) -> Result<Option<Update>> {
        match effect {
            Effect::Load { group, before } => {
                let mut news = self.news.lock().await;
                let messages = self.client.history_before(&group, before, PAGE).await?;
                let complete = messages.len() < PAGE as usize;
                for message in &messages {
                    news.told(message.row, message.status);
                }
                self.tell(Update::History {
                    group,
                    messages,
                    complete,
                });
                Ok(None)
            }
            Effect::Post { group, text } => {
                if let Err(error) = self.client.post(&group, &text).await {
                    return Ok(Some(Update::NotPosted {
                        group,
                        text,
                        why: sentence(error),
                    }));
                }
                let mut news = self.news.lock().await;
                let fresh = self.fresh(&mut news).await?;
                // What was written waits for no look at all groups, unless something came that may have brought one.
                if fresh.iter().any(|message| message.group.as_ref() != Some(&group)) {
                    self.tell(Update::Groups(self.client.groups().await?));
                }
                self.tell_messages(fresh).await?;
                self.nudge.notify_one();
                Ok(None)
            }
            Effect::MarkRead { group, up_to } => {
                self.client.mark_group_read(&group, up_to).await?;
                Ok(None)
            }
            Effect::Members(group) => {
                let members = self.client.members(&group).await?;
                let others: BTreeSet<String> = members
                    .into_iter()
                    .filter(|member| member.user != self.client.me().user)
                    .map(|member| member.user.to_string())
                    .collect();
                let users = others.into_iter().collect();
                Ok(Some(Update::Members { group, users }))
            }
            Effect::Do { group, slash } => {
                let done = self.run(group.as_ref(), slash).await;
                self.news().await;
                if let Some(group) = group.filter(|_| matches!(done, Ok(Some(Update::Done(_))))) {
                    let members = Box::pin(self.carry_out(Effect::Members(group))).await;
                    // A group that was left has none.
                    if let Ok(Some(members)) = members {
                        self.tell(members);
                    }
                }
                done
            }
            Effect::Save { row, to } => {
                let (directory, name) = destination(to.as_deref());
                let saved = self
                    .client
                    .save_attachment(row, &directory, name.as_deref())
                    .await?;
                let shown = saved.display().to_string();
                Ok(Some(Update::Done(format!("saved {}", plain(&shown)))))
            }
            // These are the terminal's.
            Effect::Copy(_) | Effect::Edit(_) | Effect::Alert { .. } | Effect::Redraw | Effect::Quit => {
                Ok(None)
            }
        }
    }

    async fn run(&self, group: Option<&GroupKey>, slash: Slash) -> Result<Option<Update>> {
        let client = &self.client;
        let open = || match group {
            Some(group) => Ok(group),
            None => Err(anyhow::anyhow!("no group is open")),
        };
        let done = match slash {
            Slash::New(name) => {
                let created = client.create_group(&name).await?;
                self.news().await;
                return Ok(Some(Update::Open(created.id)));
            }
            Slash::Invite(users) => return self.invite(open()?, &users).await.map(Some),
            Slash::Remove(user) => {
                client.remove(open()?, &user).await?;
                format!("{user} was removed")
            }
            Slash::Leave => {
                let told = client.leave(open()?).await?;
                format!("you have left{}", untold(told))
            }
            Slash::Rename(name) => {
                client.rename_group(open()?, &name).await?;
                format!("this group is called {} now", label(&name))
            }
            Slash::Retry => match client.retry(open()?).await? {
                0 => "there is nothing to send again".to_owned(),
                1 => "sending 1 message again".to_owned(),
                messages => format!("sending {messages} messages again"),
            },
            Slash::Mute => {
                let open = open()?;
                let groups = client.groups().await?;
                let muted = groups.iter().any(|known| &known.id == open && known.muted);
                client.set_muted(open, !muted).await?;
                match muted {
                    true => "not muted any more".to_owned(),
                    false => "muted: no bell for this group".to_owned(),
                }
            }
            Slash::Block(user) => {
                let blocked = client.block(&user).await?;
                let declined = match blocked.declined.len() {
                    0 => "",
                    _ => ", and their invitation declined",
                };
                format!("{user} is blocked{declined}{}", untold(blocked.told))
            }
            Slash::Trust(user) => match client.trust(&user).await? {
                0 => format!("no group is held for {user}"),
                _ => {
                    self.nudge.notify_one();
                    format!("{user} is rightly there, or not there")
                }
            },
            Slash::Accept => {
                let state = client.accept(open()?).await?;
                self.nudge.notify_one();
                match state == GroupState::Left {
                    true => "you were removed before you answered; what was written is kept",
                    false => "accepted: what you write is sent",
                }
                .to_owned()
            }
            Slash::Decline => {
                let declined = client.decline(open()?).await?;
                let kept = match declined.kept {
                    true => "; what you had of the group before is kept",
                    false => "",
                };
                format!("declined{kept}{}", untold(declined.told))
            }
            Slash::Verify(user, None) => {
                return Ok(Some(Update::Panel(panels::verify(client, &user).await?)));
            }
            Slash::Verify(user, Some(verified)) => {
                client.set_verified(&user, verified).await?;
                match client.verification(&user).await? {
                    Verification::Verified => format!("{user} is verified"),
                    Verification::Unverified => format!("{user} is not verified"),
                    Verification::Changed => format!("{user} has other keys by now: /verify {user} again"),
                }
            }
            Slash::NewIdentity(user, false) => {
                return Ok(Some(Update::Panel(panels::new_identity(client, &user).await?)));
            }
            Slash::NewIdentity(user, true) => {
                client.take_new_identity(&user).await?;
                self.nudge.notify_one();
                format!("{user} is verified, with the new identity")
            }
            Slash::Members => return Ok(Some(Update::Panel(panels::members(client, open()?).await?))),
            Slash::Pool => return Ok(Some(Update::Panel(self.pool().await?))),
            Slash::Search(text) => return Ok(Some(Update::Panel(self.search(&text).await?))),
            Slash::Attach(path) => {
                let open = open()?;
                let sent = Outgoing::read(&path).await?.send(client, open).await?;
                match sent.status {
                    SendStatus::Sent => "the file was sent".to_owned(),
                    SendStatus::Pending => "the file waits for the server".to_owned(),
                    SendStatus::Failed | SendStatus::Lost => {
                        "the file was not sent: /retry tries again".to_owned()
                    }
                }
            }
            Slash::Group(_) | Slash::Edit | Slash::Copy | Slash::Save(_) | Slash::Help | Slash::Quit => {
                return Ok(None);
            }
        };
        Ok(Some(Update::Done(done)))
    }

    /// All of them, or nobody.
    async fn invite(&self, group: &GroupKey, users: &[UserName]) -> Result<Update> {
        let invited = match self.client.invite_all(group, users).await {
            Err(Error::NoKeyPackages { outcomes }) => return Ok(Update::Failed(not_added(&outcomes))),
            invited => invited?,
        };
        if !invited.not_added.is_empty() {
            return Ok(Update::Failed(not_added(&invited.not_added)));
        }
        let by_last_resort: Vec<String> = invited.by_last_resort.iter().map(ToString::to_string).collect();
        Ok(Update::Done(match by_last_resort.is_empty() {
            true => format!("{} joined", list(&invited.added)),
            false => format!(
                "{} joined; {} had no fresh keys for you: a last-resort key was used",
                list(&invited.added),
                by_last_resort.join(", ")
            ),
        }))
    }

    async fn pool(&self) -> Result<Panel> {
        let mut lines: Vec<PanelLine> = pool_records(&self.client.pools().await?)
            .iter()
            .flat_map(|record| super::timeline::wrap(&record.line(), 56))
            .map(|line| PanelLine::new(line, Look::Plain))
            .collect();
        for failed in self.client.quarantined_welcomes().await? {
            let wrapped = super::timeline::wrap(&quarantined_record(&failed).line(), 56);
            lines.extend(wrapped.into_iter().map(|line| PanelLine::new(line, Look::Alarm)));
        }
        Ok(Panel::new("keys that others can invite you with", lines))
    }

    async fn search(&self, text: &str) -> Result<Panel> {
        let found: Vec<Message> = self.client.search(text, None, HITS_MAX).await?;
        let hits: Vec<(Hit, String)> = found
            .into_iter()
            .filter_map(|message| {
                let group = message.group?;
                let name = group_label(message.group_name.as_deref(), &group.to_string());
                let sender = message
                    .sender
                    .map_or_else(|| "?".to_owned(), |sender| sender.to_string());
                let line = format!(
                    "{}  #{name} {sender}: {}",
                    clock::date(message.sent_at),
                    plain(&message.text)
                );
                let row = message.row;
                Some((Hit { group, row }, line))
            })
            .collect();
        let title = match hits.len() {
            0 => format!("nothing contains {}", label(text)),
            1 => "1 message".to_owned(),
            many => format!("{many} messages"),
        };
        Ok(Panel::of_hits(title, hits))
    }
}

fn list(users: &[UserName]) -> String {
    users
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

/// Why nobody was added: those who could not be, in plain words.
fn not_added(outcomes: &[(UserName, NotAdded)]) -> String {
    let reasons: Vec<String> = outcomes
        .iter()
        .filter(|(_, why)| *why != NotAdded::Withheld)
        .map(|(user, why)| format!("{user} {}", plain(&why.to_string())))
        .collect();
    format!("nobody was added: {}", reasons.join("; "))
}

fn sentence(error: Error) -> String {
    Failure::of(&error.into()).message.clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_told_again_until_it_was_told_as_what_it_is() {
        let mut news = News::default();
        let one = |status| BTreeMap::from([(1, status)]);
        news.told(1, SendStatus::Failed);
        assert!(news.changed(&one(SendStatus::Failed)).is_empty());
        // It was taken up between the look at all and the look at this one.
        news.told(1, SendStatus::Pending);
        assert_eq!(news.changed(&BTreeMap::new()), BTreeSet::from([1]));
        assert_eq!(news.changed(&one(SendStatus::Failed)), BTreeSet::from([1]));
        assert!(news.changed(&one(SendStatus::Pending)).is_empty());
        news.told(1, SendStatus::Sent);
        assert!(news.changed(&BTreeMap::new()).is_empty());
        // The server was restored.
        assert_eq!(news.changed(&one(SendStatus::Lost)), BTreeSet::from([1]));
    }
}
