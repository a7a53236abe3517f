//! `chat`: on a whole screen, or line by line: what is typed is sent, what arrives is printed.

use std::io;
use std::process::ExitCode;
use std::thread;

use anyhow::Result;
use larder_client::{GroupKey, GroupState, MlsConnection, SendStatus};
use rustyline::error::ReadlineError;
use tokio::sync::{Notify, mpsc};

use crate::commands::{
    Context, Reading, group_name, invite, members, pending_row, pool_records, sent_record,
};
use crate::failure::{Exit, Failure};
use crate::follow::{Connection, follow};
use crate::input::{self, For, LINES_WAITING_MAX, Line, Lines, is_quit};
use crate::output::Output;
use crate::record::Record;
use crate::shutdown::Shutdown;
use crate::slash::{self, Entered, Slash};
use crate::text::{label, plain};
use crate::{terminal, tui};

const HELP: &str = "\
/invite USER…  add users to the group
/remove USER   remove a user from the group
/members       list the members
/rename NAME   give the group another name
/pool          show this device's KeyPackages
/retry         send again what could not be sent
/accept        join the conversation you were invited to
/leave         leave the group
/quit          end; messages that arrive meanwhile are shown next time
//text         send a line that begins with a slash";

pub(crate) async fn chat(context: &Context<'_>, group: Option<&str>, plain: bool) -> Result<ExitCode> {
    let output = context.output;
    if !plain && !output.is_json() && tui::is_usable() {
        return on_screen(context, group).await;
    }
    let Some(group) = group else {
        let message = "name the group: larder chat GROUP; without one, chat needs a whole terminal";
        return Err(Failure::new(Exit::Usage, "usage", message).into());
    };
    let mut shutdown = Shutdown::listen()?;
    let (client, key) = context.open_group(group).await?;
    if output.is_interactive() {
        // However this ends, the terminal is left as it was found.
        let _restored = terminal::Saved::save();
        let lines = match terminal::is_dumb() {
            true => input::lines(For::Chat),
            false => edited_lines(output)?,
        };
        output.note(format!(
            "#{}: /help tells what can be typed",
            label(&group_name(&client, &key).await?)
        ))?;
        let ended = converse(&client, &key, output, lines, &mut shutdown).await;
        output.print_through(None);
        // What failed before its end was told to a person, who has gone on.
        return Ok(match ended?.cut_short {
            Some(exit) => exit.into(),
            None => ExitCode::SUCCESS,
        });
    }
    let ended = converse(&client, &key, output, input::lines(For::Chat), &mut shutdown).await?;
    match ended.cut_short.or(ended.failed) {
        Some(exit) => Ok(exit.into()),
        None => settled(&client, &ended.pending).await,
    }
}

/// What became of the messages in these rows, which had to wait for the server.
async fn settled(client: &MlsConnection, pending: &[i64]) -> Result<ExitCode> {
    if pending.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    // They may have been sent since.
    let synced = client.sync().await;
    let mut hindrance = synced.err().map(|error| Failure::of_client(&error).exit);
    for row in pending {
        let message = client.message(*row).await?;
        match message.map_or(SendStatus::Failed, |message| message.status) {
            SendStatus::Sent => (),
            SendStatus::Pending => _ = hindrance.get_or_insert(Exit::Unreachable),
            SendStatus::Failed | SendStatus::Lost => {
                let message = "a message that waited for the server was refused: larder retry sends it again";
                return Err(Failure::new(Exit::Refused, "not-sent", message).into());
            }
        }
    }
    Ok(hindrance.map_or(ExitCode::SUCCESS, ExitCode::from))
}

async fn on_screen(context: &Context<'_>, group: Option<&str>) -> Result<ExitCode> {
    let (client, group) = match group {
        Some(group) => {
            let (client, key) = context.open_group(group).await?;
            (client, Some(key))
        }
        None => (context.open().await?, None),
    };
    tui::chat(client, group, context.settings.clone()).await?;
    Ok(ExitCode::SUCCESS)
}

/// What became of the lines that were typed.
#[derive(Default)]
struct Ended {
    /// Why the last one failed that did.
    failed: Option<Exit>,
    /// Why some were not read, or not acted upon.
    cut_short: Option<Exit>,
    /// The rows of those that had to wait for the server.
    pending: Vec<i64>,
}

/// Why no more lines are taken.
enum Last {
    /// There are none.
    Line,
    Quit,
    Signal,
    /// What arrives cannot be told, or what was done.
    Outage,
}

/// Until the lines end, `/quit`, or a signal. What was typed and is not acted upon is told.
async fn converse(
    client: &MlsConnection,
    key: &GroupKey,
    output: &Output,
    mut lines: Lines,
    shutdown: &mut Shutdown,
) -> Result<Ended> {
    let (nudge, quit, outage) = (Notify::new(), Notify::new(), Notify::new());
    let tell = |connection| {
        match connection {
            Connection::Lost(why) => output.note(format!("-- {}; trying again", plain(&why)))?,
            Connection::Back => output.note("-- connected again")?,
        }
        Ok(())
    };
    let incoming = async {
        let followed = follow(client, output, Reading::default(), &nudge, quit.notified(), tell).await;
        // The line that is being handled is not left half done.
        outage.notify_one();
        followed
    };
    let session = Session {
        client,
        key,
        output,
        nudge: &nudge,
    };
    let typed = async {
        let mut ended = Ended::default();
        let (mut result, mut last) = (Ok(()), Last::Line);
        loop {
            let line = tokio::select! {
                biased;
                () = shutdown.requested() => { last = Last::Signal; break }
                () = outage.notified() => { last = Last::Outage; break }
                line = lines.recv() => line,
            };
            let Some(line) = line else { break };
            match session.take(line, &mut ended).await {
                Ok(true) => (),
                Ok(false) => {
                    last = Last::Quit;
                    break;
                }
                Err(error) => {
                    (result, last) = (Err(error), Last::Outage);
                    break;
                }
            }
        }
        quit.notify_one();
        session.tell_rest(&last, &mut lines, &mut ended).await;
        (ended, result)
    };
    let (followed, (ended, handled)) = tokio::join!(incoming, typed);
    match followed.and(handled) {
        // What was not taken has been told; that nobody reads on is no more to tell.
        Err(error) if ended.cut_short.is_some() && is_closed(&error) => Ok(ended),
        Err(error) => Err(error),
        Ok(()) => Ok(ended),
    }
}

/// Whether this is that nobody takes what is printed.
fn is_closed(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

enum Next {
    Go,
    /// In this row, unless it was sent meanwhile.
    Pending(Option<i64>),
    Failed(Exit),
    Quit,
}

struct Session<'a> {
    client: &'a MlsConnection,
    key: &'a GroupKey,
    output: &'a Output,
    nudge: &'a Notify,
}

impl Session<'_> {
    /// Does what a line says, and notes what came of it. Returns whether there may be more.
    async fn take(&self, Line { number, text }: Line, ended: &mut Ended) -> Result<bool> {
        let handled = match text {
            Ok(text) => self.handle(&text).await,
            Err(flaw) => {
                if flaw.code == input::UNREADABLE {
                    ended.cut_short = Some(flaw.exit);
                }
                Err(flaw.into())
            }
        };
        match handled {
            Ok(Next::Quit) => return Ok(false),
            Ok(Next::Go) => (),
            Ok(Next::Pending(row)) => ended.pending.extend(row),
            Ok(Next::Failed(exit)) => ended.failed = Some(exit),
            Err(error) if error.is::<io::Error>() => return Err(error),
            Err(error) => {
                let failure = Failure::of(&error);
                ended.failed = Some(failure.exit);
                // People see which line it was.
                match self.output.is_interactive() {
                    true => self.output.failure(&failure)?,
                    false => self.output.failure_of_line(number, &failure)?,
                }
            }
        }
        Ok(true)
    }

    /// Tells of what was typed and is not taken any more.
    async fn tell_rest(&self, last: &Last, lines: &mut Lines, ended: &mut Ended) {
        let rest = match last {
            Last::Line => None,
            // Whoever reads the lines knows, and says, whether this was the last one.
            Last::Quit => lines.recv().await,
            Last::Signal | Last::Outage => input::rest(lines).await,
        };
        let Some(Line { number, text }) = rest else { return };
        let why = match last {
            Last::Signal => "a signal ended the chat: this and what follows was not taken",
            Last::Line | Last::Quit | Last::Outage => {
                "the chat has ended: this and what follows was not taken"
            }
        };
        let failure = match text {
            Err(flaw) => flaw,
            Ok(_) => Failure::new(Exit::Failed, "not-taken", why),
        };
        ended.cut_short = Some(failure.exit);
        // Where nobody reads it, the exit code tells.
        let _ = self.output.failure_of_line(number, &failure);
    }

    async fn handle(&self, line: &str) -> Result<Next> {
        match slash::read(line) {
            Entered::Text(text) if text.is_empty() => Ok(Next::Go),
            Entered::Text(text) => self.send(&text).await,
            Entered::Slash(slash) => self.run(slash).await,
            Entered::Mistake(why) => Err(Failure::new(Exit::Usage, "usage", why).into()),
        }
    }

    async fn run(&self, slash: Slash) -> Result<Next> {
        let (client, key, output) = (self.client, self.key, self.output);
        let group = key.to_string();
        let record = match slash {
            Slash::Quit => return Ok(Next::Quit),
            Slash::Help if output.is_json() => {
                let message = "/help is for people: see larder chat --help";
                return Err(Failure::new(Exit::Usage, "usage", message).into());
            }
            Slash::Help => {
                output.note(HELP)?;
                return Ok(Next::Go);
            }
            Slash::Members => {
                members(client, key, output).await?;
                return Ok(Next::Go);
            }
            Slash::Pool => {
                output.print(&pool_records(&client.pools().await?))?;
                return Ok(Next::Go);
            }
            Slash::Invite(users) => {
                invite(client, key, &users, output).await?;
                return Ok(Next::Go);
            }
            Slash::Remove(user) => {
                client.remove(key, &user).await?;
                Record::Removed {
                    group: group_name(client, key).await?,
                    user: user.to_string(),
                }
            }
            Slash::Leave => {
                let told = client.leave(key).await?;
                Record::Left {
                    group: group_name(client, key).await?,
                    told,
                }
            }
            Slash::Rename(name) => {
                client.rename_group(key, &name).await?;
                Record::Renamed {
                    group,
                    group_name: name,
                }
            }
            Slash::Retry => {
                let messages = client.retry(key).await?;
                self.nudge.notify_one();
                Record::Retried {
                    group,
                    group_name: group_name(client, key).await?,
                    messages,
                    status: SendStatus::Pending.as_str(),
                }
            }
            Slash::Accept => {
                let state = client.accept(key).await?;
                self.nudge.notify_one();
                Record::Accepted {
                    group,
                    group_name: group_name(client, key).await?,
                    over: state == GroupState::Left,
                }
            }
            Slash::New(_)
            | Slash::Verify(..)
            | Slash::NewIdentity(..)
            | Slash::Group(_)
            | Slash::Search(_)
            | Slash::Decline
            | Slash::Block(_)
            | Slash::Trust(_)
            | Slash::Mute
            | Slash::Edit
            | Slash::Copy
            | Slash::Attach(_)
            | Slash::Save(_) => {
                let message = "that needs the whole screen, or a command of its own: see larder --help";
                return Err(Failure::new(Exit::Usage, "usage", message).into());
            }
        };
        output.print(&[record])?;
        Ok(Next::Go)
    }

    async fn send(&self, text: &str) -> Result<Next> {
        let sent = self.client.send(self.key, text).await?;
        let next = match sent.status {
            SendStatus::Sent => Next::Go,
            SendStatus::Pending => {
                self.nudge.notify_one();
                Next::Pending(pending_row(self.client, &sent.id).await?)
            }
            SendStatus::Failed | SendStatus::Lost => Next::Failed(Exit::Refused),
        };
        // People see their line where they typed it; a program is told of each.
        if self.output.is_json() || !matches!(next, Next::Go) {
            self.output
                .print(&[sent_record(self.client, self.key, &sent).await?])?;
        }
        Ok(next)
    }
}

/// Lines from a line editor, above which everything else is printed from now on.
fn edited_lines(output: &Output) -> Result<Lines> {
    let mut editor = rustyline::DefaultEditor::new()?;
    output.print_through(Some(Box::new(editor.create_external_printer()?)));
    let (sender, lines) = mpsc::channel(LINES_WAITING_MAX);
    thread::spawn(move || {
        for number in 1.. {
            let text = match editor.readline("> ") {
                Ok(line) => {
                    // History is a convenience.
                    let _ = editor.add_history_entry(&line);
                    Ok(line)
                }
                Err(ReadlineError::Interrupted | ReadlineError::Eof) => return,
                Err(ReadlineError::Io(error)) if error.kind() == io::ErrorKind::InvalidData => {
                    let message =
                        "what was typed is not UTF-8; it was not sent, up to the end of what came with it";
                    Err(Failure::new(Exit::Usage, "not-text", message))
                }
                Err(error) => Err(input::unreadable(&error)),
            };
            let ends = match &text {
                Ok(line) => is_quit(line),
                Err(flaw) => flaw.code == input::UNREADABLE,
            };
            if sender.blocking_send(Line { number, text }).is_err() || ends {
                return;
            }
        }
    });
    Ok(lines)
}
