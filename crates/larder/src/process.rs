//! This program as a child process, with nothing of the caller's own settings, that does not outlive its parent.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// Beginning of the variables that this program heeds.
const SETTINGS: &str = "LARDER_";

/// This program, which keeps everything in `home`.
pub(crate) fn command(home: &Path, arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("this program cannot be found")?);
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with(SETTINGS)) {
            command.env_remove(name);
        }
    }
    command
        .args(arguments)
        .env("LARDER_HOME", home)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    Ok(command)
}

/// A child that goes on until it is told to end.
pub(crate) struct Process {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    name: String,
}

impl Process {
    pub(crate) fn new(mut child: Child, name: &str) -> Result<Self> {
        let stdout = child.stdout.take().context("no pipe from the child")?;
        Ok(Self {
            child,
            lines: BufReader::new(stdout).lines(),
            name: name.to_owned(),
        })
    }

    /// Starts `larder serve` on a free port of this machine, keeping everything in `home` unless `store` names another place,
    /// with these options besides. Returns the URL where it listens, too.
    pub(crate) async fn serve(home: &Path, store: Option<&str>, options: &[&str]) -> Result<(Self, String)> {
        let arguments = [&["serve", "--listen", "127.0.0.1:0"], options].concat();
        let mut command = command(home, &arguments)?;
        if let Some(store) = store {
            command.env("LARDER_STORE", store);
        }
        let mut process = Self::new(command.spawn()?, "the server")?;
        let ready = process.line().await?;
        match ready.strip_prefix("listening on ") {
            Some(url) => Ok((process, url.to_owned())),
            None => bail!("the server said: {ready}"),
        }
    }

    /// The next line that it prints.
    pub(crate) async fn line(&mut self) -> Result<String> {
        let line = self.lines.next_line().await?;
        line.with_context(|| format!("{} ended early", self.name))
    }

    /// Its number, as long as it has not ended.
    pub(crate) fn id(&self) -> Result<u32> {
        self.child
            .id()
            .with_context(|| format!("{} ended early", self.name))
    }

    /// Ends it: the server by a signal would need one to be sent, and it is as safe to kill.
    pub(crate) async fn end(mut self) -> Result<()> {
        self.child.kill().await?;
        Ok(())
    }

    /// Waits until it has ended by itself, in order.
    pub(crate) async fn ended(mut self) -> Result<()> {
        let mut rest = Vec::new();
        self.lines.into_inner().read_to_end(&mut rest).await?;
        let status = self.child.wait().await?;
        if !status.success() {
            bail!("{} ended with {status}", self.name);
        }
        Ok(())
    }
}

/// Removes a directory that children wrote to. One that was killed a moment ago may still be ending, so a failure is tried
/// again.
pub(crate) async fn remove(directory: TempDir) -> Result<()> {
    let path = directory.keep();
    for _ in 0..20 {
        match tokio::fs::remove_dir_all(&path).await {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    std::fs::remove_dir_all(&path).with_context(|| format!("{} cannot be removed", path.display()))
}
