//! `demo`: a server and three accounts, as processes of their own, doing what people do.

use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use larder_client::zeroize::Zeroizing;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, ChildStdin};
use tokio::time::Instant;

use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::passphrase::random_passphrase;
use crate::process::{self, Process};
use crate::shutdown::Shutdown;

/// Far more than it takes.
const TIME_MAX: Duration = Duration::from_secs(300);
const GROUP: &str = "kitchen";
const PEOPLE: [&str; 3] = ["alice", "bob", "carol"];

pub(crate) async fn demo(output: &Output) -> Result<ExitCode> {
    let mut shutdown = Shutdown::listen()?;
    let started = Instant::now();
    let directory = tempfile::Builder::new().prefix("larder-demo-").tempdir()?;
    let told = tokio::select! {
        told = tokio::time::timeout(TIME_MAX, tell(output, directory.path())) => {
            told.unwrap_or_else(|_| bail!("the demonstration takes too long"))
        }
        () = shutdown.requested() => Err(Failure::new(Exit::Failed, "interrupted", "interrupted").into()),
    };
    // Every process is a value of the story, killed when it is dropped: none is left to write there.
    process::remove(directory).await?;
    told?;
    let seconds = started.elapsed().as_secs_f32();
    output.note(format!(
        "\nDone in {seconds:.1} s. The server has ended and the directory is gone."
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// The story.
async fn tell(output: &Output, directory: &Path) -> Result<()> {
    let mut stage = Stage {
        output,
        home: directory.to_owned(),
        server: String::new(),
        passphrase: random_passphrase()?,
    };

    stage.chapter(
        "A server, and three accounts. Each leaves 32 KeyPackages there, to be invited with while away, and has its \
         profile encrypted.",
    )?;
    let server = stage.start_server().await?;
    for person in PEOPLE {
        match stage.passphrase {
            Some(_) => stage.run(person, &["register", person]).await?,
            None => {
                stage
                    .run(person, &["register", "--no-encryption", person])
                    .await?
            }
        };
    }
    let full = stage.pools("before").await?;
    stage.expect(full == [32, 32, 32], "every pool is full")?;

    stage.chapter("alice makes a group and invites the others. Neither is online.")?;
    stage.run("alice", &["group", "create", GROUP]).await?;
    stage.run("alice", &["invite", GROUP, "bob", "carol"]).await?;
    stage.run("alice", &["send", GROUP, "bread at noon?"]).await?;

    stage.chapter("Each invitation spent one KeyPackage for good. The next refresh replaces it.")?;
    for person in ["bob", "carol"] {
        stage.refill(person).await?;
    }

    stage
        .chapter("alice is a stranger to them: until they accept, nothing of theirs is sent to her group.")?;
    let asked = stage.run("bob", &["recv"]).await?;
    stage.expect(asked.contains("alice invites you"), "bob is asked")?;
    stage.run("bob", &["accept", GROUP]).await?;

    stage.chapter("alice and bob chat, each in a process of their own. carol is still away.")?;
    let mut alice = stage.chat("alice").await?;
    let mut bob = stage.chat("bob").await?;
    bob.sees(&stage, "#kitchen <alice> bread at noon?").await?;
    bob.says(&stage, "yes, and soup").await?;
    alice.sees(&stage, "#kitchen <bob> yes, and soup").await?;
    alice.says(&stage, "bring a spoon").await?;
    bob.sees(&stage, "#kitchen <alice> bring a spoon").await?;

    stage.chapter("carol comes back and gets everything, in order and once.")?;
    stage.run("carol", &["accept", GROUP]).await?;
    let caught_up = stage.run("carol", &["recv"]).await?;
    let texts: Vec<&str> = caught_up.lines().filter(|line| line.contains("> ")).collect();
    let all = [
        "#kitchen <alice> bread at noon?",
        "#kitchen <bob> yes, and soup",
        "#kitchen <alice> bring a spoon",
    ];
    stage.expect(texts == all, "carol has the three messages")?;

    stage.chapter("alice removes carol. What is said from then on is not for her.")?;
    alice.says(&stage, "/remove carol").await?;
    alice.sees(&stage, "carol was removed from #kitchen").await?;
    bob.sees(&stage, "#kitchen * alice removed carol").await?;
    bob.says(&stage, "more soup for us").await?;
    alice.sees(&stage, "#kitchen <bob> more soup for us").await?;
    let last = stage.run("carol", &["recv"]).await?;
    stage.expect(!last.contains("more soup"), "carol does not see it")?;
    alice.quits().await?;
    bob.quits().await?;

    stage.chapter("Every pool is full again.")?;
    let full = stage.pools("after").await?;
    stage.expect(full == [32, 32, 32], "every pool is full")?;
    server.end().await
}

/// What the story needs: a directory, an address, and somewhere to print.
struct Stage<'a> {
    output: &'a Output,
    home: PathBuf,
    server: String,
    /// Of every profile. It is handed over through the pipe that is a child's standard input.
    passphrase: Option<Zeroizing<String>>,
}

impl Stage<'_> {
    fn chapter(&self, text: &str) -> Result<()> {
        self.output.note(format!("\n{text}"))?;
        Ok(())
    }

    fn line(&self, text: &str) -> Result<()> {
        self.output.note(format!("   {text}"))?;
        Ok(())
    }

    fn expect(&self, holds: bool, what: &str) -> Result<()> {
        if !holds {
            bail!("the demonstration expected that {what}");
        }
        Ok(())
    }

    /// Starts a command of a person, whose first line of input is the passphrase.
    async fn start_as_person(&self, person: &str, arguments: &[&str]) -> Result<(Child, ChildStdin)> {
        let mut command = process::command(&self.home, arguments)?;
        command
            .env("LARDER_PROFILE", person)
            .env("LARDER_SERVER", &self.server)
            .stdin(Stdio::piped());
        if self.passphrase.is_some() {
            command.args(["--passphrase-fd", "0"]);
        }
        let mut child = command.spawn()?;
        let mut keyboard = child.stdin.take().context("no pipe to the child")?;
        if let Some(passphrase) = &self.passphrase {
            keyboard.write_all(passphrase.as_bytes()).await?;
            keyboard.write_all(b"\n").await?;
        }
        Ok((child, keyboard))
    }

    async fn start_server(&mut self) -> Result<Process> {
        self.line("$ larder serve")?;
        let (process, url) = Process::serve(&self.home, None, &[]).await?;
        self.line(&format!("listening on {url}"))?;
        self.server = url;
        Ok(process)
    }

    /// Runs a command to its end, shows it as one would type it, and what it prints.
    async fn run(&self, person: &str, arguments: &[&str]) -> Result<String> {
        let shown: Vec<String> = arguments.iter().map(|argument| quoted(argument)).collect();
        self.line(&format!("{person}$ larder {}", shown.join(" ")))?;
        let printed = self.run_quietly(person, arguments).await?;
        for line in printed.lines() {
            self.line(line)?;
        }
        Ok(printed)
    }

    async fn run_quietly(&self, person: &str, arguments: &[&str]) -> Result<String> {
        let (child, _) = self.start_as_person(person, arguments).await?;
        let ended = child.wait_with_output().await?;
        if !ended.status.success() {
            bail!(
                "`larder {}` as {person} ended with {}",
                arguments.join(" "),
                ended.status
            );
        }
        Ok(String::from_utf8_lossy(&ended.stdout).into_owned())
    }

    async fn json(&self, person: &str, arguments: &[&str]) -> Result<Value> {
        let arguments = [arguments, &["--json"]].concat();
        Ok(serde_json::from_str(
            &self.run_quietly(person, &arguments).await?,
        )?)
    }

    /// How many KeyPackages of each person can be handed out.
    async fn pools(&self, when: &str) -> Result<Vec<u64>> {
        let mut counts = Vec::new();
        for person in PEOPLE {
            let pool = self.json(person, &["pool", "status"]).await?;
            counts.push(pool["available"].as_u64().unwrap_or_default());
        }
        let shown: Vec<String> = PEOPLE
            .iter()
            .zip(&counts)
            .map(|(person, count)| format!("{person} {count}"))
            .collect();
        self.line(&format!("pools {when}: {}", shown.join(", ")))?;
        Ok(counts)
    }

    /// Refreshes a pool from which one KeyPackage was taken.
    async fn refill(&self, person: &str) -> Result<()> {
        let refreshed = self.json(person, &["pool", "refresh"]).await?;
        let after = refreshed["pool"]["available"].as_u64().unwrap_or_default();
        let left = after.saturating_sub(refreshed["uploaded"].as_u64().unwrap_or_default());
        self.line(&format!("{person}$ larder pool refresh"))?;
        self.line(&format!(
            "pool of {person}: {left} left, {after} after the refresh"
        ))?;
        self.expect((left, after) == (31, 32), "the invitation took one KeyPackage")
    }

    async fn chat(&self, person: &str) -> Result<Chat> {
        self.line(&format!("{person}$ larder chat {GROUP}"))?;
        let (child, keyboard) = self.start_as_person(person, &["chat", GROUP]).await?;
        Ok(Chat {
            person: person.to_owned(),
            process: Process::new(child, &format!("the chat of {person}"))?,
            keyboard,
        })
    }
}

/// A person at a keyboard.
struct Chat {
    person: String,
    process: Process,
    keyboard: ChildStdin,
}

impl Chat {
    async fn says(&mut self, stage: &Stage<'_>, line: &str) -> Result<()> {
        stage.line(&format!("{:<5} types  {line}", self.person))?;
        self.keyboard.write_all(format!("{line}\n").as_bytes()).await?;
        Ok(())
    }

    /// Waits until a line is printed; others that come before are events of the group.
    async fn sees(&mut self, stage: &Stage<'_>, expected: &str) -> Result<()> {
        while self.process.line().await? != expected {}
        stage.line(&format!("{:<5} sees   {expected}", self.person))
    }

    async fn quits(mut self) -> Result<()> {
        self.keyboard.write_all(b"/quit\n").await?;
        self.process.ended().await
    }
}

fn quoted(argument: &str) -> String {
    match argument
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "-_./:".contains(c))
    {
        true => argument.to_owned(),
        false => format!("'{argument}'"),
    }
}
