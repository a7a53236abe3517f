//! `chat`: on a whole screen, or line by line: what is typed is sent, what arrives is printed.

use std::io::{self, BufRead};
use std::process::ExitCode;
use std::thread;

use anyhow::Result;
use larder_client::{GroupKey, MlsConnection, SendStatus};
use rustyline::error::ReadlineError;
use tokio::sync::{Notify, mpsc};

use crate::commands::{Context, Reading, group_name, invite, members, pool_records, sent_record};
use crate::failure::{Exit, Failure};
use crate::follow::{Connection, follow};
use crate::output::Output;
use crate::record::Record;
use crate::shutdown::Shutdown;
use crate::slash::{self, Entered, Slash};
use crate::text::label;
use crate::{terminal, tui};

/// Lines that were typed and are not handled yet. More wait in the terminal.
const LINES_WAITING_MAX: usize = 16;

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

/// Where typed lines come from.
type Lines = mpsc::Receiver<String>;

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
            true => plain_lines(),
            false => edited_lines(output)?,
        };
        output.note(format!(
            "#{}: /help tells what can be typed",
            label(&group_name(&client, &key).await?)
        ))?;
        let ended = converse(&client, &key, output, lines, &mut shutdown).await;
        output.print_through(None);
        ended?;
        return Ok(ExitCode::SUCCESS);
    }
    let ended = converse(&client, &key, output, plain_lines(), &mut shutdown).await?;
    match ended {
        Ended {
            failed: Some(exit), ..
        } => Ok(exit.into()),
        // What was pending may have been sent since.
        Ended { pending: true, .. } if client.sync().await.is_err() => Ok(Exit::Unreachable.into()),
        Ended { .. } => Ok(ExitCode::SUCCESS),
    }
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
    /// Whether one had to wait for the server.
    pending: bool,
}

/// Until the lines end, `/quit`, or a signal.
async fn converse(
    client: &MlsConnection,
    key: &GroupKey,
    output: &Output,
    mut lines: Lines,
    shutdown: &mut Shutdown,
) -> Result<Ended> {
    let (nudge, quit) = (Notify::new(), Notify::new());
    let tell = |connection| {
        match connection {
            Connection::Lost => output.note("-- the server cannot be reached; trying again")?,
            Connection::Back => output.note("-- connected again")?,
        }
        Ok(())
    };
    let incoming = follow(client, output, Reading::default(), &nudge, quit.notified(), tell);
    let typed = async {
        let mut ended = Ended::default();
        loop {
            let line = tokio::select! {
                line = lines.recv() => line,
                () = shutdown.requested() => break,
            };
            let Some(line) = line else { break };
            let session = Session {
                client,
                key,
                output,
                nudge: &nudge,
            };
            match session.handle(&line).await {
                Ok(Next::Quit) => break,
                Ok(Next::Go) => (),
                Ok(Next::Pending) => ended.pending = true,
                Ok(Next::Failed(exit)) => ended.failed = Some(exit),
                Err(error) if error.is::<io::Error>() => return Err(error),
                Err(error) => {
                    let failure = Failure::of(&error);
                    output.failure(&failure)?;
                    ended.failed = Some(failure.exit);
                }
            }
        }
        quit.notify_one();
        Ok(ended)
    };
    let (ended, ()) = tokio::try_join!(typed, incoming)?;
    Ok(ended)
}

enum Next {
    Go,
    Pending,
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
                client.leave(key).await?;
                Record::Left {
                    group: group_name(client, key).await?,
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
                client.accept(key).await?;
                self.nudge.notify_one();
                Record::Accepted {
                    group,
                    group_name: group_name(client, key).await?,
                }
            }
            Slash::New(_)
            | Slash::Verify(..)
            | Slash::Group(_)
            | Slash::Search(_)
            | Slash::Decline
            | Slash::Block(_)
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
                Next::Pending
            }
            SendStatus::Failed => Next::Failed(Exit::Refused),
        };
        // People see their line where they typed it; a program is told of each.
        if self.output.is_json() || !matches!(next, Next::Go) {
            self.output
                .print(&[sent_record(self.client, self.key, &sent).await?])?;
        }
        Ok(next)
    }
}

/// The lines of stdin.
fn plain_lines() -> Lines {
    let (sender, lines) = mpsc::channel(LINES_WAITING_MAX);
    thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            let Ok(line) = line else { return };
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// Lines from a line editor, above which everything else is printed from now on.
fn edited_lines(output: &Output) -> Result<Lines> {
    let mut editor = rustyline::DefaultEditor::new()?;
    output.print_through(Some(Box::new(editor.create_external_printer()?)));
    let (sender, lines) = mpsc::channel(LINES_WAITING_MAX);
    thread::spawn(move || {
        loop {
            match editor.readline("> ") {
                Ok(line) => {
                    let last = line.trim() == "/quit";
                    // History is a convenience.
                    let _ = editor.add_history_entry(&line);
                    if sender.blocking_send(line).is_err() || last {
                        return;
                    }
                }
                Err(ReadlineError::Interrupted | ReadlineError::Eof) => return,
                Err(error) => {
                    tracing::error!(%error, "the terminal cannot be read");
                    return;
                }
            }
        }
    });
    Ok(lines)
}
