//! `chat`: on a whole screen, or line by line: what is typed is sent, what arrives is printed.

use std::io::{self, BufRead};
use std::process::ExitCode;
use std::thread;

use anyhow::Result;
use larder_client::{GroupKey, MlsConnection, SendStatus, UserName};
use rustyline::error::ReadlineError;
use tokio::sync::{Notify, mpsc};

use crate::commands::{Context, Reading, group_name, invite, members, pool_records, sent_record};
use crate::failure::{Exit, Failure};
use crate::follow::{Connection, follow};
use crate::output::Output;
use crate::record::Record;
use crate::shutdown::Shutdown;
use crate::text::label;
use crate::{terminal, tui};

/// Lines that were typed and are not handled yet. More wait in the terminal.
const LINES_WAITING_MAX: usize = 16;

const HELP: &str = "\
/invite USER…  add users to the group
/remove USER   remove a user from the group
/list          list the members
/pool          show this device's KeyPackages
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
        let line = line.trim_end();
        if let Some(text) = line.strip_prefix('/').filter(|text| text.starts_with('/')) {
            return self.send(text).await;
        }
        let Some(command) = line.strip_prefix('/') else {
            return if line.is_empty() {
                Ok(Next::Go)
            } else {
                self.send(line).await
            };
        };
        let mut words = command.split_whitespace();
        match (
            words.next().unwrap_or_default(),
            words.collect::<Vec<_>>().as_slice(),
        ) {
            ("quit", []) => return Ok(Next::Quit),
            ("help", []) => self.output.note(HELP)?,
            ("list", []) => members(self.client, self.key, self.output).await?,
            ("pool", []) => {
                self.output.print(&pool_records(&self.client.pools().await?))?;
            }
            ("invite", names @ [_, ..]) => {
                let users = names.iter().map(|name| user(name)).collect::<Result<Vec<_>>>()?;
                invite(self.client, self.key, &users, self.output).await?;
            }
            ("remove", [name]) => {
                let user = user(name)?;
                self.client.remove(self.key, &user).await?;
                self.output.print(&[Record::Removed {
                    group: group_name(self.client, self.key).await?,
                    user: user.to_string(),
                }])?;
            }
            ("leave", []) => {
                self.client.leave(self.key).await?;
                self.output.print(&[Record::Left {
                    group: group_name(self.client, self.key).await?,
                }])?;
            }
            _ => {
                let message = format!("/{command}: not understood; /help tells what can be typed");
                return Err(Failure::new(Exit::Usage, "usage", message).into());
            }
        }
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

fn user(name: &str) -> Result<UserName> {
    name.parse()
        .map_err(|error| Failure::new(Exit::Usage, "usage", format!("{name}: {error}")).into())
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
