//! Everything that is printed goes through here.

use std::io::{self, IsTerminal, Write};
use std::sync::Mutex;

use rustyline::ExternalPrinter;
use schemars::JsonSchema;
use serde::Serialize;

use crate::failure::Failure;
use crate::record::Record;
use crate::text::plain;

/// A line editor's way to print above the line that is being typed.
type Printer = Box<dyn ExternalPrinter + Send>;

/// A failure as a JSON object.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Failed<'f> {
    /// Why the command failed.
    error: Told<'f>,
}

/// What is told of a failure.
#[derive(Serialize, JsonSchema)]
struct Told<'f> {
    /// Stands for the reason, and is never renamed.
    code: &'f str,
    /// A sentence for people.
    message: &'f str,
    /// The exit code.
    exit: u8,
}

impl<'f> From<&'f Failure> for Failed<'f> {
    fn from(failure: &'f Failure) -> Self {
        let Failure { code, message, exit } = failure;
        Self {
            error: Told {
                code,
                message,
                exit: *exit as u8,
            },
        }
    }
}

/// Where results go: stdout, as lines for people or as JSON.
pub(crate) struct Output {
    json: bool,
    printer: Mutex<Option<Printer>>,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self {
            json,
            printer: Mutex::new(None),
        }
    }

    /// Whether programs read this.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Whether a person sits at both ends.
    pub(crate) fn is_interactive(&self) -> bool {
        !self.json && io::stdin().is_terminal() && io::stdout().is_terminal()
    }

    /// Prints records above the line editor from now on, or to stdout again.
    pub(crate) fn print_through(&self, printer: Option<Printer>) {
        *self.lock() = printer;
    }

    /// Prints records and flushes: when this returns, they have left the process.
    pub(crate) fn print(&self, records: &[Record]) -> io::Result<()> {
        let mut text = String::new();
        for record in records {
            if self.json {
                text.push_str(&serde_json::to_string(record)?);
            } else {
                text.push_str(&record.line());
            }
            text.push('\n');
        }
        self.write(text)
    }

    /// A word from this program. Not for `--json`, where every line means something.
    pub(crate) fn note(&self, text: impl Into<String>) -> io::Result<()> {
        if self.json {
            return Ok(());
        }
        self.print(&[Record::Note { text: text.into() }])
    }

    /// Tells what is wrong with a line of the standard input.
    pub(crate) fn failure_of_line(&self, number: u64, failure: &Failure) -> io::Result<()> {
        self.failure(&Failure {
            message: format!("line {number}: {}", failure.message),
            ..failure.clone()
        })
    }

    /// Tells of a failure: on stdout as JSON, else on stderr.
    pub(crate) fn failure(&self, failure: &Failure) -> io::Result<()> {
        if self.json {
            let error = serde_json::to_string(&Failed::from(failure))?;
            return self.write(format!("{error}\n"));
        }
        let line = format!("larder: {}\n", plain(&failure.message));
        if self.lock().is_some() {
            return self.write(line);
        }
        // Where nobody reads it, the exit code tells.
        let _ = io::stderr().lock().write_all(line.as_bytes());
        Ok(())
    }

    fn write(&self, text: String) -> io::Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        if let Some(printer) = self.lock().as_mut() {
            return printer.print(text).map_err(io::Error::other);
        }
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.flush()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Printer>> {
        // A panic while printing leaves nothing half done that matters to the next line.
        self.printer
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
