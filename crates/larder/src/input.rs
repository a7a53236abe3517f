//! Lines of the standard input. Each is acted upon, or told with its number: none is dropped in silence.

use std::io::{self, BufRead};
use std::thread;
use std::time::Duration;

use larder_client::TEXT_BYTES_MAX;
use larder_wire::MESSAGES_MAX;
use tokio::sync::mpsc;

use crate::failure::{Exit, Failure};
use crate::slash::{self, Entered, Slash};

/// Lines of a chat that were read and are not handled yet. More wait where they come from.
pub(crate) const LINES_WAITING_MAX: usize = 16;
/// The same of messages, as many of which are sent together.
pub(crate) const MESSAGES_WAITING_MAX: usize = MESSAGES_MAX;
/// Bytes of a line that are kept: one more than a message may have, and a line's end of two bytes.
const LINE_BYTES_KEPT: usize = TEXT_BYTES_MAX + 3;

/// How long it may take until a line is there that was given before no more were taken.
const REST: Duration = Duration::from_millis(500);

/// The code of a failure after which no more is read.
pub(crate) const UNREADABLE: &str = "stdin-unreadable";

/// A line of the standard input, the first of them 1.
pub(crate) struct Line {
    pub(crate) number: u64,
    /// Without its end; what is wrong with it, if it cannot be a text.
    pub(crate) text: Result<String, Failure>,
}

/// Where lines come from. It ends with them, or after one that could not be read.
pub(crate) type Lines = mpsc::Receiver<Line>;

/// What the lines are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum For {
    /// Each is a message.
    Messages,
    /// They are a conversation, which `/quit` ends.
    Chat,
}

/// The lines of the standard input, read by a thread of its own. One that cannot be a text does not keep the others back.
pub(crate) fn lines(purpose: For) -> Lines {
    let (sender, lines) = mpsc::channel(match purpose {
        For::Messages => MESSAGES_WAITING_MAX,
        For::Chat => LINES_WAITING_MAX,
    });
    thread::spawn(move || {
        let mut input = io::stdin().lock();
        for number in 1.. {
            let text = match line(&mut input) {
                Ok(Some(read)) => read,
                Ok(None) => return,
                Err(error) => Read {
                    text: Err(unreadable(&error)),
                    more: false,
                },
            };
            let Read { text, more } = text;
            let quits = purpose == For::Chat && text.as_deref().is_ok_and(is_quit);
            let ends = quits || text.as_ref().is_err_and(|flaw| flaw.code == UNREADABLE);
            if sender.blocking_send(Line { number, text }).is_err() {
                return;
            }
            if ends {
                if quits && (more || is_waiting()) && has_more(&mut input) {
                    // That it is not read has to be told.
                    let text = Err(after_quit());
                    let _ = sender.blocking_send(Line {
                        number: number + 1,
                        text,
                    });
                }
                return;
            }
        }
    });
    lines
}

/// The first of the lines that are left when no more are taken. What is there to be read is read at once; what is not
/// there is not lost. Blank ones say nothing.
pub(crate) async fn rest(lines: &mut Lines) -> Option<Line> {
    loop {
        let line = tokio::time::timeout(REST, lines.recv()).await.ok().flatten()?;
        if !line.text.as_ref().is_ok_and(|text| text.trim().is_empty()) {
            return Some(line);
        }
    }
}

/// Whether a line ends a chat.
pub(crate) fn is_quit(line: &str) -> bool {
    matches!(slash::read(line), Entered::Slash(Slash::Quit))
}

/// What a read came to.
struct Read {
    text: Result<String, Failure>,
    /// Whether something is known to follow the line.
    more: bool,
}

/// The next line, of which no more is kept than a message may have.
fn line(input: &mut impl BufRead) -> io::Result<Option<Read>> {
    let mut bytes = Vec::new();
    let (mut any, mut more) = (false, false);
    loop {
        let buffer = match input.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            filled => filled?,
        };
        if buffer.is_empty() {
            break;
        }
        any = true;
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let part = end.map_or(buffer, |end| &buffer[..=end]);
        // What is too long stays too long, and ends where the line does.
        let kept = part.len().min(LINE_BYTES_KEPT - bytes.len());
        bytes.extend_from_slice(&part[..kept]);
        let taken = part.len();
        more = taken < buffer.len();
        input.consume(taken);
        if end.is_some() {
            break;
        }
    }
    Ok(any.then(|| Read {
        text: text(bytes),
        more,
    }))
}

/// Whether anything but line ends follows. Does not come back before that is known or the buffer is read.
fn has_more(input: &mut impl BufRead) -> bool {
    let is_blank = |bytes: &[u8]| bytes.iter().all(u8::is_ascii_whitespace);
    loop {
        let Ok(buffer) = input.fill_buf() else {
            return false;
        };
        if buffer.is_empty() {
            return false;
        }
        if !is_blank(buffer) {
            return true;
        }
        let taken = buffer.len();
        input.consume(taken);
        if !is_waiting() {
            return false;
        }
    }
}

/// Whether the standard input can be read without waiting: it has something, or has ended.
#[cfg(unix)]
fn is_waiting() -> bool {
    use std::os::fd::AsFd;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    let stdin = io::stdin();
    let mut polled = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
    poll(&mut polled, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

#[cfg(not(unix))]
fn is_waiting() -> bool {
    false
}

fn after_quit() -> Failure {
    let message = "it comes after /quit, and was not read; nor was what follows";
    Failure::new(Exit::Usage, "after-quit", message)
}

/// All of the standard input as one text, without the end of its last line.
pub(crate) fn whole(input: impl io::Read) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    let read = io::Read::read_to_end(&mut input.take(LINE_BYTES_KEPT as u64), &mut bytes);
    read.map_err(|error| unreadable(&error))?;
    text(bytes)
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

pub(crate) fn unreadable(error: &impl std::fmt::Display) -> Failure {
    let message = format!("the standard input cannot be read: {error}");
    Failure::new(Exit::Failed, UNREADABLE, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(input: &[u8]) -> Vec<Result<String, String>> {
        let mut input = io::BufReader::with_capacity(7, input);
        let mut read = Vec::new();
        while let Some(Read { text, .. }) = line(&mut input).unwrap() {
            read.push(text.map_err(|flaw| flaw.code.into_owned()));
        }
        read
    }

    #[test]
    fn lines_end_where_they_end_and_one_that_is_too_long_is_not_part_of_the_next() {
        let long = "x".repeat(TEXT_BYTES_MAX);
        let input = format!("one\n\n{long}\n{long}y\n{long}{long}{long}\r\ntwo\r\nthree");
        let too_long = Err("text-too-long".to_owned());
        assert_eq!(
            all(input.as_bytes()),
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
    }

    #[test]
    fn what_is_no_text_is_one_line_and_the_others_are_read() {
        assert_eq!(
            all(b"one\n\xff\xfe\ntwo\0\rx\xe2\x80\xa8y\n\xc3"),
            [
                Ok("one".to_owned()),
                Err("not-text".to_owned()),
                Ok("two\0\rx\u{2028}y".to_owned()),
                Err("not-text".to_owned())
            ]
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

    #[test]
    fn whatever_is_short_for_quit_ends_a_chat() {
        assert!(is_quit("/quit") && is_quit("/q ") && !is_quit("//quit") && !is_quit(" /quit"));
    }
}
