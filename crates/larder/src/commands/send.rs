//! `send` and `retry`.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use larder_client::{Error, GroupKey, MlsConnection, ProblemType, SendStatus, SentMessage};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::{Context, group_name, resolve};
use crate::cli::Send;
use crate::failure::{Exit, Failure};
use crate::files::Outgoing;
use crate::follow::Follower;
use crate::input::{For, Line, Lines, MESSAGES_WAITING_MAX, lines, rest, whole};
use crate::output::Output;
use crate::record::Record;
use crate::shutdown::Shutdown;

/// A wait without an end that somebody set. Longer than any machine runs, and a time that can be counted with.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// Lines are sent together until they have so many bytes.
const TOGETHER_BYTES: usize = 256 * 1024;

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
    let (key, hindrance) = match (resolve(&client, &options.group).await, synced) {
        (Ok(key), Ok(())) => (key, None),
        (Ok(key), Err(error)) if is_in_the_way(&error) => (key, Some(Arc::new(error))),
        (Ok(key), Err(Error::Refused(problem))) if problem.problem_type != ProblemType::DeviceRemoved => {
            tracing::info!(code = problem.problem_type.code(), "sending without a sync");
            (key, None)
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
        hindrance: RefCell::new(hindrance),
        interrupted: Notify::new(),
        is_interrupted: Cell::new(false),
    };
    if let Some(file) = file {
        let status = sender.send_file(file).await?;
        if status != SendStatus::Sent || options.text.is_empty() {
            return Ok(sender.exit_of(status));
        }
    }
    match (options.stdin, options.whole) {
        (false, _) => Ok(sender.exit_of(sender.send(&options.text.join(" ")).await?)),
        (true, true) => Ok(sender.exit_of(sender.send(&whole(io::stdin().lock())?).await?)),
        (true, false) => sender.send_lines(lines(For::Messages)).await,
    }
}

/// Whether nothing can be sent as long as that is so: it need not be tried again.
fn is_in_the_way(error: &Error) -> bool {
    match error {
        Error::Unreachable(_) | Error::NotTheServer(_) | Error::UnknownAccount => true,
        Error::Refused(problem) => problem.problem_type == ProblemType::StateBehind,
        _ => false,
    }
}

struct Sender<'a> {
    client: &'a MlsConnection,
    key: &'a GroupKey,
    output: &'a Output,
    offline: bool,
    /// How long to wait for the server.
    until: Option<Instant>,
    /// Why the server was not there when it was last asked.
    hindrance: RefCell<Option<Arc<Error>>>,
    /// Ends a wait for the server: a signal came.
    interrupted: Notify,
    /// Whether one has come: nothing waits any more.
    is_interrupted: Cell<bool>,
}

impl Sender<'_> {
    async fn send(&self, text: &str) -> Result<SendStatus> {
        self.settle(self.store_or_send(text).await?).await
    }

    /// Sends texts together. One that cannot be sent does not keep the others back.
    async fn send_together(&self, texts: Vec<String>) -> Vec<Result<SentMessage>> {
        if texts.is_empty() {
            return Vec::new();
        }
        let all = texts.clone();
        let sent = match self.is_left_to_a_sync() {
            true => {
                let posted = self.client.post_all(self.key, all).await;
                posted.map(|posted| posted.into_iter().map(Ok).collect())
            }
            false => self.client.send_all(self.key, all).await,
        };
        if let Ok(sent) = sent {
            let told = |error: Arc<Error>| Failure::of_client(&error).into();
            return sent.into_iter().map(|one| one.map_err(told)).collect();
        }
        // Nothing of them is stored: each is told why by itself.
        let mut sent = Vec::with_capacity(texts.len());
        for text in texts {
            sent.push(self.store_or_send(&text).await);
        }
        sent
    }

    async fn store_or_send(&self, text: &str) -> Result<SentMessage> {
        Ok(match self.is_left_to_a_sync() {
            true => self.client.post(self.key, text).await?,
            false => self.client.send(self.key, text).await?,
        })
    }

    /// Whether what is said is only stored. Where there is a time limit it is the wait's.
    fn is_left_to_a_sync(&self) -> bool {
        self.offline || self.until.is_some() || self.is_hindered()
    }

    async fn send_file(&self, file: Outgoing) -> Result<SendStatus> {
        let sent = match self.is_hindered() {
            true => file.post(self.client, self.key).await?,
            false => file.send(self.client, self.key).await?,
        };
        self.settle(sent).await
    }

    fn is_hindered(&self) -> bool {
        self.hindrance.borrow().is_some()
    }

    /// Whether something is in the way that does not go away by itself.
    fn is_stuck(&self) -> bool {
        let hindrance = self.hindrance.borrow();
        hindrance.as_ref().is_some_and(|error| !error.is_temporary())
    }

    /// Waits if it is asked for, and tells what the message came to.
    async fn settle(&self, mut sent: SentMessage) -> Result<SendStatus> {
        if let Some(error) = &sent.because {
            self.hindrance.replace(Some(Arc::clone(error)));
        }
        if let (SendStatus::Pending, Some(until), false) = (sent.status, self.until, self.is_stuck()) {
            sent.status = self.wait(&sent.id, until).await?;
        }
        sent.because = match sent.status {
            SendStatus::Pending if !self.offline => self.hindrance.borrow().clone(),
            SendStatus::Pending | SendStatus::Sent | SendStatus::Failed | SendStatus::Lost => None,
        };
        let mut record = sent_record(self.client, self.key, &sent).await?;
        if let Record::Sent { offline, .. } = &mut record {
            *offline = self.offline;
        }
        self.output.print(&[record])?;
        Ok(sent.status)
    }

    /// Syncs until a message that is pending is not any more, or the time is over.
    async fn wait(&self, id: &str, until: Instant) -> Result<SendStatus> {
        let Some(row) = pending_row(self.client, id).await? else {
            return Ok(SendStatus::Sent);
        };
        if self.is_interrupted.get() {
            return Ok(SendStatus::Pending);
        }
        let (mut follower, nudge) = (Follower::new(self.client.clone()), Notify::new());
        let waiting = async {
            loop {
                let hindrance = match follower.step(&nudge).await {
                    Err(error) if is_in_the_way(&error) => Some(error),
                    step => step?,
                }
                .map(Arc::new);
                self.hindrance.replace(hindrance);
                let message = self.client.message(row).await?;
                match message.map_or(SendStatus::Failed, |message| message.status) {
                    SendStatus::Pending if self.is_stuck() => return Ok(SendStatus::Pending),
                    SendStatus::Pending if self.is_hindered() => follower.pause(&nudge).await,
                    SendStatus::Pending => nudge.notify_one(),
                    status @ (SendStatus::Sent | SendStatus::Failed | SendStatus::Lost) => {
                        return anyhow::Ok(status);
                    }
                }
            }
        };
        tokio::select! {
            waited = timeout_at(until, waiting) => waited.unwrap_or(Ok(SendStatus::Pending)),
            () = self.interrupted.notified() => Ok(SendStatus::Pending),
        }
    }

    /// Sends lines that are not empty until there are no more, or a signal comes: together those that are there. One that cannot
    /// be sent does not keep the others back.
    async fn send_lines(&self, mut lines: Lines) -> Result<ExitCode> {
        let mut shutdown = Shutdown::listen()?;
        let mut told = Told::default();
        // The first goes by itself, and then twice as many as before: what is wrong with all of them shows early.
        let mut most = 1;
        while !self.is_interrupted.get() {
            let batch = tokio::select! {
                biased;
                () = shutdown.requested() => {
                    self.is_interrupted.set(true);
                    break;
                }
                batch = there(&mut lines, most) => batch,
            };
            if batch.is_empty() {
                break;
            }
            most = MESSAGES_WAITING_MAX.min(most * 2);
            let sent = {
                let mut sending = pin!(self.send_batch(batch, &mut told));
                // What became of the lines is known only once it is done.
                tokio::select! {
                    sent = &mut sending => sent,
                    () = shutdown.requested() => {
                        self.is_interrupted.set(true);
                        self.interrupted.notify_one();
                        sending.await
                    }
                }
            };
            if let Err(error) = sent {
                return untold(error, lines).await;
            }
        }
        if self.is_interrupted.get()
            && let Some(Line { number, .. }) = rest(&mut lines).await
        {
            return Err(unsent(number, "interrupted", "a signal came").into());
        }
        Ok(match (told.failed, told.pending && !self.offline) {
            (Some(exit), _) => exit.into(),
            (None, true) => self.exit_of(SendStatus::Pending),
            (None, false) => ExitCode::SUCCESS,
        })
    }

    /// Sends lines together, and tells of each what it came to, in their order. Fails when that cannot be told.
    async fn send_batch(&self, batch: Vec<Line>, told: &mut Told) -> Result<()> {
        let texts = batch.iter().filter_map(|line| line.text.as_ref().ok());
        let texts: Vec<String> = texts.filter(|text| !text.is_empty()).cloned().collect();
        let mut sent = self.send_together(texts).await.into_iter();
        for Line { number, text } in batch {
            let status = match text.map(|text| text.is_empty()) {
                Ok(true) => continue,
                Ok(false) => match sent.next() {
                    Some(Ok(sent)) => self.settle(sent).await,
                    Some(Err(error)) => Err(error),
                    None => continue,
                },
                Err(flaw) => Err(flaw.into()),
            };
            match status {
                Ok(SendStatus::Sent) => {}
                Ok(SendStatus::Pending) => told.pending = true,
                Ok(SendStatus::Failed | SendStatus::Lost) => told.failed = Some(Exit::Refused),
                Err(error) if error.is::<io::Error>() => return Err(error),
                Err(error) => {
                    let failure = Failure::of(&error);
                    told.failed = Some(failure.exit);
                    self.output.failure_of_line(number, &failure)?;
                }
            }
        }
        Ok(())
    }

    /// What a message came to.
    fn exit_of(&self, status: SendStatus) -> ExitCode {
        exit_of(status, self.offline, self.hindrance.borrow().as_deref())
    }
}

/// What lines came to that are done.
#[derive(Default)]
struct Told {
    /// How the last one that failed did.
    failed: Option<Exit>,
    /// Whether one waits to be sent.
    pending: bool,
}

/// The next line, and those behind it that are there already: no more than `most`, and none once they have so many bytes that they
/// would not go out together. None when there are no more.
async fn there(lines: &mut Lines, most: usize) -> Vec<Line> {
    let mut batch: Vec<Line> = lines.recv().await.into_iter().collect();
    let bytes_of = |line: &Line| line.text.as_ref().map_or(0, String::len);
    let mut bytes: usize = batch.iter().map(bytes_of).sum();
    while (1..most).contains(&batch.len())
        && bytes < TOGETHER_BYTES
        && let Ok(line) = lines.try_recv()
    {
        bytes += bytes_of(&line);
        batch.push(line);
    }
    batch
}

/// What it means that nobody takes what a line came to: nothing, if it was the last one.
async fn untold(error: anyhow::Error, mut lines: Lines) -> Result<ExitCode> {
    match lines.recv().await {
        Some(Line { number, .. }) => Err(unsent(number, "output-closed", "nobody reads the output").into()),
        None => Err(error),
    }
}

/// That this line is the first that was not sent, for this reason.
fn unsent(number: u64, code: &'static str, why: &str) -> Failure {
    let message = format!("line {number} and what follows were not sent: {why}");
    Failure::new(Exit::Failed, code, message)
}

/// The row of an own message that waits to be sent.
pub(crate) async fn pending_row(client: &MlsConnection, id: &str) -> Result<Option<i64>> {
    for (row, _) in client.unsent().await?.into_iter().rev() {
        let message = client.message(row).await?;
        if message.is_some_and(|message| message.id == id) {
            return Ok(Some(row));
        }
    }
    Ok(None)
}

pub(super) async fn retry(context: &Context<'_>, group: &str) -> Result<ExitCode> {
    let (client, key) = context.open_group(group).await?;
    let messages = client.retry(&key).await?;
    let mut status = SendStatus::Sent;
    for (row, unsent) in client.unsent().await? {
        let message = client.message(row).await?;
        let here = message.is_some_and(|message| message.group.as_ref() == Some(&key));
        if here && unsent == SendStatus::Pending {
            status = unsent;
        }
    }
    context.output.print(&[Record::Retried {
        group: key.to_string(),
        group_name: group_name(&client, &key).await?,
        messages,
        status: status.as_str(),
    }])?;
    Ok(exit_of(status, false, None))
}

/// What a message came to. One that was not to be sent now is as it should be.
fn exit_of(status: SendStatus, offline: bool, hindrance: Option<&Error>) -> ExitCode {
    match (status, hindrance) {
        (SendStatus::Sent, _) => ExitCode::SUCCESS,
        (SendStatus::Pending, _) if offline => ExitCode::SUCCESS,
        (SendStatus::Pending, Some(error)) if !error.is_temporary() => Failure::of_client(error).exit.into(),
        (SendStatus::Pending, _) => Exit::Unreachable.into(),
        (SendStatus::Failed | SendStatus::Lost, _) => Exit::Refused.into(),
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
        code: sent.because.as_ref().map(|error| error.code()),
        reason: sent.because.as_deref().map(Failure::reason),
        stuck: sent.because.as_ref().is_some_and(|error| !error.is_temporary()),
        offline: false,
    })
}
