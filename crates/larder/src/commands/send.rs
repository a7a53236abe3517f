//! `send` and `retry`.

use std::io::{self, BufRead, Read};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use larder_client::{Error, GroupKey, MlsConnection, SendStatus, SentMessage, TEXT_BYTES_MAX};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, timeout_at};

use super::{Context, group_name, resolve};
use crate::cli::Send;
use crate::failure::{Exit, Failure};
use crate::files::Outgoing;
use crate::follow::Follower;
use crate::output::Output;
use crate::record::Record;

/// Lines that were read and are not sent yet. More wait where they come from.
const LINES_WAITING_MAX: usize = 16;
/// A wait without an end that somebody set. Longer than any machine runs, and a time that can be counted with.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

pub(super) async fn send(context: &Context<'_>, options: Send) -> Result<ExitCode> {
    let file = match &options.attach {
        Some(path) => Some(Outgoing::read(path).await?),
        None => None,
    };
    let client = context.open().await?;
    let until = options.wait.then(|| {
        let limit = options.timeout.map_or(FOREVER, Duration::from_secs);
        Instant::now() + limit.min(FOREVER)
    });
    // What is sent in an epoch that is over does not reach who has joined since.
    let synced = match (options.offline, until) {
        (true, _) => Ok(()),
        (false, None) => client.sync().await.map(drop),
        (false, Some(until)) => match timeout_at(until, client.sync()).await {
            Ok(synced) => synced.map(drop),
            // There is only to note down what is to be sent.
            Err(_) => Ok(()),
        },
    };
    let key = match (resolve(&client, &options.group).await, synced) {
        (Ok(key), Ok(())) => key,
        (Ok(key), Err(error @ (Error::Unreachable(_) | Error::Refused(_)))) => {
            tracing::info!(code = error.code(), "sending without a sync");
            key
        }
        (Ok(_), Err(error)) => return Err(error.into()),
        // It may be one that this device was invited to meanwhile.
        (Err(_), Err(error)) => return Err(error.into()),
        (Err(error), Ok(())) => return Err(error),
    };
    let sender = Sender {
        client: &client,
        key: &key,
        output: context.output,
        offline: options.offline,
        until,
    };
    if let Some(file) = file {
        let status = sender.send_file(file).await?;
        if status != SendStatus::Sent || options.text.is_empty() {
            return Ok(exit_of(status, options.offline));
        }
    }
    match (options.stdin, options.whole) {
        (false, _) => Ok(exit_of(
            sender.send(&options.text.join(" ")).await?,
            options.offline,
        )),
        (true, true) => Ok(exit_of(
            sender.send(&whole(io::stdin().lock())?).await?,
            options.offline,
        )),
        (true, false) => sender.send_lines(lines(io::stdin())).await,
    }
}

struct Sender<'a> {
    client: &'a MlsConnection,
    key: &'a GroupKey,
    output: &'a Output,
    offline: bool,
    /// How long to wait for the server.
    until: Option<Instant>,
}

impl Sender<'_> {
    async fn send(&self, text: &str) -> Result<SendStatus> {
        // Where there is a time limit it is the wait's.
        let sent = match self.offline || self.until.is_some() {
            true => self.client.post(self.key, text).await?,
            false => self.client.send(self.key, text).await?,
        };
        self.settle(sent).await
    }

    async fn send_file(&self, file: Outgoing) -> Result<SendStatus> {
        let sent = file.send(self.client, self.key).await?;
        self.settle(sent).await
    }

    /// Waits if it is asked for, and tells what the message came to.
    async fn settle(&self, mut sent: SentMessage) -> Result<SendStatus> {
        if let (SendStatus::Pending, Some(until)) = (sent.status, self.until) {
            sent.status = self.wait(&sent.id, until).await?;
        }
        let mut record = sent_record(self.client, self.key, &sent).await?;
        if let Record::Sent { offline, .. } = &mut record {
            *offline = self.offline;
        }
        self.output.print(&[record])?;
        Ok(sent.status)
    }

    /// Syncs until a message that is pending is not any more, or the time is over.
    async fn wait(&self, id: &str, until: Instant) -> Result<SendStatus> {
        let Some(row) = self.pending_row(id).await? else {
            return Ok(SendStatus::Sent);
        };
        let (mut follower, nudge) = (Follower::new(self.client.clone()), Notify::new());
        let waiting = async {
            loop {
                let reached = follower.step(&nudge).await?;
                let message = self.client.message(row).await?;
                match message.map_or(SendStatus::Failed, |message| message.status) {
                    SendStatus::Pending if reached => nudge.notify_one(),
                    SendStatus::Pending => follower.pause(&nudge).await,
                    status @ (SendStatus::Sent | SendStatus::Failed) => return anyhow::Ok(status),
                }
            }
        };
        match timeout_at(until, waiting).await {
            Ok(status) => status,
            Err(_) => Ok(SendStatus::Pending),
        }
    }

    async fn pending_row(&self, id: &str) -> Result<Option<i64>> {
        for row in self.client.pending().await?.into_iter().rev() {
            let message = self.client.message(row).await?;
            if message.is_some_and(|message| message.id == id) {
                return Ok(Some(row));
            }
        }
        Ok(None)
    }

    /// Sends lines until there are no more. One that cannot be sent does not keep the others back.
    async fn send_lines(&self, mut lines: mpsc::Receiver<Line>) -> Result<ExitCode> {
        let (mut failed, mut pending) = (None, false);
        while let Some(Line { number, text }) = lines.recv().await {
            let sent = match text {
                Ok(text) => self.send(&text).await,
                Err(flaw) => Err(flaw.into()),
            };
            match sent {
                Ok(SendStatus::Sent) => {}
                Ok(SendStatus::Pending) => pending = true,
                Ok(SendStatus::Failed) => failed = Some(Exit::Refused),
                Err(error) if error.is::<io::Error>() => return Err(error),
                Err(error) => {
                    let failure = Failure::of(&error).into_owned();
                    failed = Some(failure.exit);
                    self.output.failure(&Failure {
                        message: format!("line {number}: {}", failure.message),
                        ..failure
                    })?;
                }
            }
        }
        Ok(match (failed, pending && !self.offline) {
            (Some(exit), _) => exit.into(),
            (None, true) => Exit::Unreachable.into(),
            (None, false) => ExitCode::SUCCESS,
        })
    }
}

/// A line of the standard input, the first of them 1.
struct Line {
    number: u64,
    text: Result<String, Failure>,
}

/// Lines that are not empty, read by a thread of its own.
fn lines(input: io::Stdin) -> mpsc::Receiver<Line> {
    let (sender, lines) = mpsc::channel(LINES_WAITING_MAX);
    thread::spawn(move || {
        let mut input = input.lock();
        for number in 1.. {
            let text = match line(&mut input) {
                Ok(Some(Ok(text))) if text.is_empty() => continue,
                Ok(Some(text)) => text,
                Ok(None) => return,
                Err(error) => Err(unreadable(&error)),
            };
            let was_read = text.as_ref().err().is_none_or(|flaw| flaw.code != UNREADABLE);
            if sender.blocking_send(Line { number, text }).is_err() || !was_read {
                return;
            }
        }
    });
    lines
}

/// The next line without its end, of which no more is kept than a message may have.
fn line(input: &mut impl BufRead) -> io::Result<Option<Result<String, Failure>>> {
    let mut bytes = Vec::new();
    // The line's end is two bytes at most.
    let limit = TEXT_BYTES_MAX as u64 + 2;
    if input.by_ref().take(limit).read_until(b'\n', &mut bytes)? == 0 {
        return Ok(None);
    }
    let ended = bytes.ends_with(b"\n");
    if !ended && bytes.len() as u64 == limit {
        input.skip_until(b'\n')?;
    }
    Ok(Some(text(bytes)))
}

/// All of the standard input, without the end of its last line.
fn whole(input: impl Read) -> Result<String> {
    let mut bytes = Vec::new();
    let read = input.take(TEXT_BYTES_MAX as u64 + 3).read_to_end(&mut bytes);
    read.map_err(|error| unreadable(&error))?;
    Ok(text(bytes)?)
}

/// What was read, as the text of a message.
fn text(mut bytes: Vec<u8>) -> Result<String, Failure> {
    if bytes.ends_with(b"\n") {
        bytes.pop();
        if bytes.ends_with(b"\r") {
            bytes.pop();
        }
    }
    if bytes.len() > TEXT_BYTES_MAX {
        let message = format!("a message has {TEXT_BYTES_MAX} bytes at most");
        return Err(Failure::new(Exit::Usage, "text-too-long", message));
    }
    String::from_utf8(bytes).map_err(|_| Failure::new(Exit::Usage, "not-text", "not UTF-8"))
}

const UNREADABLE: &str = "stdin-unreadable";

fn unreadable(error: &io::Error) -> Failure {
    let message = format!("the standard input cannot be read: {error}");
    Failure::new(Exit::Failed, UNREADABLE, message)
}

pub(super) async fn retry(context: &Context<'_>, group: &str) -> Result<ExitCode> {
    let (client, key) = context.open_group(group).await?;
    let messages = client.retry(&key).await?;
    let mut status = SendStatus::Sent;
    for row in client.pending().await? {
        let message = client.message(row).await?;
        if message.is_some_and(|message| message.group.as_ref() == Some(&key)) {
            status = SendStatus::Pending;
        }
    }
    context.output.print(&[Record::Retried {
        group: key.to_string(),
        group_name: group_name(&client, &key).await?,
        messages,
        status: status.as_str(),
    }])?;
    Ok(exit_of(status, false))
}

/// What a message came to. One that was not to be sent now is as it should be.
fn exit_of(status: SendStatus, offline: bool) -> ExitCode {
    match status {
        SendStatus::Sent => ExitCode::SUCCESS,
        SendStatus::Pending if offline => ExitCode::SUCCESS,
        SendStatus::Pending => Exit::Unreachable.into(),
        SendStatus::Failed => Exit::Refused.into(),
    }
}

pub(crate) async fn sent_record(
    client: &MlsConnection,
    key: &GroupKey,
    sent: &SentMessage,
) -> Result<Record> {
    Ok(Record::Sent {
        group: key.to_string(),
        group_name: group_name(client, key).await?,
        id: sent.id.clone(),
        status: sent.status.as_str(),
        offline: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_where_they_end_and_one_that_is_too_long_is_not_part_of_the_next() {
        let long = "x".repeat(TEXT_BYTES_MAX);
        let input = format!("one\n\n{long}\n{long}y\n{long}{long}{long}\r\ntwo\r\nthree");
        let mut input = input.as_bytes();
        let mut read = Vec::new();
        while let Some(text) = line(&mut input).unwrap() {
            read.push(text.map_err(|flaw| flaw.code.into_owned()));
        }
        let too_long = Err("text-too-long".to_owned());
        assert_eq!(
            read,
            [
                Ok("one".to_owned()),
                Ok(String::new()),
                Ok(long),
                too_long.clone(),
                too_long,
                Ok("two".to_owned()),
                Ok("three".to_owned())
            ]
        );
        assert_eq!(
            line(&mut &b"\xff\n"[..]).unwrap().unwrap().unwrap_err().code,
            "not-text"
        );
    }

    #[test]
    fn the_whole_input_is_one_text_with_its_line_feeds() {
        assert_eq!(whole(&b"a\n\nb\n"[..]).unwrap(), "a\n\nb");
        assert_eq!(whole(&b"a\n\n"[..]).unwrap(), "a\n");
        assert_eq!(
            whole("x".repeat(TEXT_BYTES_MAX).as_bytes()).unwrap().len(),
            TEXT_BYTES_MAX
        );
        for bytes in ["x".repeat(TEXT_BYTES_MAX + 1).into_bytes(), vec![0xff]] {
            assert!(whole(bytes.as_slice()).is_err());
        }
    }
}
