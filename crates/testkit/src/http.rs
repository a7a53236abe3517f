//! As much of HTTP/1.1 as the kit needs: heads, bodies of a `Content-Length`, and streams in chunks.

use std::io::{self, BufRead};

use larder_wire::{Problem, ProblemType};
use serde::Serialize;

/// A request that came by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// `GET` and the like.
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// The headers in their order, as they were written.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Seen {
    /// Whether it is of this method, for a path (without its query) that ends so.
    pub fn is(&self, method: &str, path_end: &str) -> bool {
        let path = self.path.split('?').next().unwrap_or_default();
        self.method == method && path.ends_with(path_end)
    }

    /// The first header of this name, in whatever case.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    /// Whether it asks for the same as another one: the method, path, `Idempotency-Key` and body are the same.
    pub fn repeats(&self, earlier: &Self) -> bool {
        let key = "idempotency-key";
        self.method == earlier.method
            && self.path == earlier.path
            && self.header(key) == earlier.header(key)
            && self.body == earlier.body
    }

    pub(crate) fn of(head: &Head, body: Vec<u8>) -> Self {
        let mut words = head.start.split(' ');
        Self {
            method: words.next().unwrap_or_default().to_owned(),
            path: words.next().unwrap_or_default().to_owned(),
            headers: head.headers.clone(),
            body,
        }
    }
}

/// An answer, as a server could give it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// 200 and the like.
    pub status: u16,
    /// Headers; the `Content-Length` is made from the body.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// An answer without a body.
    pub fn empty(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    /// An answer of this media type.
    pub fn of_type(status: u16, media_type: &str, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: vec![("Content-Type".to_owned(), media_type.to_owned())],
            body: body.into(),
        }
    }

    /// This value as JSON.
    pub fn json(status: u16, value: &impl Serialize) -> Self {
        Self::of_type(status, "application/json", serde_json::to_vec(value).unwrap())
    }

    /// A problem (RFC 9457) of this type, with its status.
    pub fn problem(kind: ProblemType) -> Self {
        Self::of_problem(&Problem::new(kind))
    }

    /// The answer of a server that refuses for this reason.
    pub fn of_problem(problem: &Problem) -> Self {
        let body = serde_json::to_vec(problem).unwrap();
        Self::of_type(problem.status, "application/problem+json", body)
    }

    /// The same with this header.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// The bytes of the answer, its length included.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.head(Some(self.body.len()));
        bytes.extend_from_slice(&self.body);
        bytes
    }

    /// The head alone, promising so many bytes.
    pub(crate) fn head(&self, length: Option<usize>) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {} Status\r\n", self.status);
        for (name, value) in &self.headers {
            if !name.eq_ignore_ascii_case("content-length") {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
        }
        if let Some(length) = length {
            head.push_str(&format!("content-length: {length}\r\n"));
        }
        head.push_str("\r\n");
        head.into_bytes()
    }

    pub(crate) fn of(head: &Head, body: Vec<u8>) -> Self {
        let status = head
            .start
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        Self {
            status: status.unwrap_or_default(),
            headers: head.headers.clone(),
            body,
        }
    }
}

/// The first line of a message, and its headers.
pub(crate) struct Head {
    pub(crate) start: String,
    pub(crate) headers: Vec<(String, String)>,
}

fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers
        .iter()
        .find(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.as_str())
}

fn read_line(from: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    match from.read_line(&mut line)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(line.trim_end_matches(['\r', '\n']).to_owned()),
    }
}

/// One message: a head with its blank line, and a body of its `Content-Length`.
pub(crate) fn read_message(from: &mut impl BufRead) -> io::Result<(Head, Vec<u8>)> {
    let head = read_head(from)?;
    let body = read_body(from, &head)?;
    Ok((head, body))
}

/// The head of a message with its blank line.
pub(crate) fn read_head(from: &mut impl BufRead) -> io::Result<Head> {
    let start = read_line(from)?;
    let mut headers = Vec::new();
    loop {
        let line = read_line(from)?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').ok_or(io::ErrorKind::InvalidData)?;
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    Ok(Head { start, headers })
}

/// The body that a head announces by its `Content-Length`.
pub(crate) fn read_body(from: &mut impl BufRead, head: &Head) -> io::Result<Vec<u8>> {
    let length = header(&head.headers, "content-length").map_or(0, |value| value.parse().unwrap());
    let mut body = vec![0; length];
    from.read_exact(&mut body)?;
    Ok(body)
}

/// Whether the head is that of a stream of events in chunks.
pub(crate) fn is_event_stream(head: &Head) -> bool {
    let is = |name, value: &str| header(&head.headers, name).is_some_and(|found| found.starts_with(value));
    is("content-type", "text/event-stream") && is("transfer-encoding", "chunked")
}

/// The next chunk of a body; empty at its end.
pub(crate) fn read_chunk(from: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let length = usize::from_str_radix(&read_line(from)?, 16).map_err(|_| io::ErrorKind::InvalidData)?;
    let mut chunk = vec![0; length];
    from.read_exact(&mut chunk)?;
    read_line(from)?;
    Ok(chunk)
}

/// A chunk as it travels.
pub(crate) fn chunk_bytes(chunk: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{:x}\r\n", chunk.len()).into_bytes();
    bytes.extend_from_slice(chunk);
    bytes.extend_from_slice(b"\r\n");
    bytes
}

/// The bytes of a request, or of an answer that goes on as it came.
pub(crate) fn request_bytes(head: &Head, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{}\r\n", head.start);
    for (name, value) in &head.headers {
        bytes.push_str(&format!("{name}: {value}\r\n"));
    }
    bytes.push_str("\r\n");
    let mut bytes = bytes.into_bytes();
    bytes.extend_from_slice(body);
    bytes
}
