use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, mpsc};

use larder_wire::{Inbox, InboxKind};

/// What happens to one request.
pub(crate) enum Action {
    Forward,
    /// The server never sees it.
    CutBefore,
    /// The server answers, and the client never sees that.
    CutAfter,
    /// The server never sees it, and this is the answer.
    Answer(Vec<u8>),
    /// The answer's body is changed on its way.
    Rewrite(Box<dyn FnOnce(Vec<u8>) -> Vec<u8> + Send>),
    /// Waits until the sender is dropped or used, and goes on.
    Hold(mpsc::Receiver<()>),
}

/// A request that came by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) idempotency_key: Option<String>,
    pub(crate) body: Vec<u8>,
}

impl Seen {
    pub(crate) fn is(&self, method: &str, path_end: &str) -> bool {
        let path = self.path.split('?').next().unwrap_or_default();
        self.method == method && path.ends_with(path_end)
    }
}

type Rule = Box<dyn FnMut(&Seen) -> Action + Send>;

/// An HTTP/1.1 proxy in front of one server: forwards every request, unless its rule says otherwise.
pub(crate) struct Proxy {
    pub(crate) url: String,
    rule: Arc<Mutex<Rule>>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Proxy {
    pub(crate) fn start(server: &str) -> Self {
        let upstream = server.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let rule: Arc<Mutex<Rule>> = Arc::new(Mutex::new(Box::new(|_| Action::Forward)));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (rules, sightings) = (Arc::clone(&rule), Arc::clone(&seen));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (upstream, rule, seen) = (upstream.clone(), Arc::clone(&rules), Arc::clone(&sightings));
                std::thread::spawn(move || {
                    let _ = converse(client, &upstream, &rule, &seen);
                });
            }
        });
        Self { url, rule, seen }
    }

    /// From now on.
    pub(crate) fn rule(&self, rule: impl FnMut(&Seen) -> Action + Send + 'static) {
        *self.rule.lock().unwrap() = Box::new(rule);
    }

    pub(crate) fn forward(&self) {
        self.rule(|_| Action::Forward);
    }

    /// Loses the answers to such requests.
    pub(crate) fn cut_after(&self, method: &'static str, path_end: &'static str) {
        self.rule(move |seen| {
            if seen.is(method, path_end) {
                Action::CutAfter
            } else {
                Action::Forward
            }
        });
    }

    /// Loses such requests.
    pub(crate) fn cut_before(&self, method: &'static str, path_end: &'static str) {
        self.rule(move |seen| {
            if seen.is(method, path_end) {
                Action::CutBefore
            } else {
                Action::Forward
            }
        });
    }

    /// Such requests so far.
    pub(crate) fn seen(&self, method: &str, path_end: &str) -> Vec<Seen> {
        let seen = self.seen.lock().unwrap();
        seen.iter()
            .filter(|seen| seen.is(method, path_end))
            .cloned()
            .collect()
    }
}

fn converse(
    client: TcpStream,
    upstream: &str,
    rule: &Mutex<Rule>,
    seen: &Mutex<Vec<Seen>>,
) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut from_client = BufReader::new(client.try_clone()?);
    let mut to_client = client;
    let server = TcpStream::connect(upstream)?;
    server.set_nodelay(true)?;
    let mut from_server = BufReader::new(server.try_clone()?);
    let mut to_server = server;
    loop {
        let (head, body) = read_message(&mut from_client)?;
        let request = sighting(&head, &body);
        seen.lock().unwrap().push(request.clone());
        let action = (rule.lock().unwrap())(&request);
        if let Action::CutBefore = action {
            return Ok(());
        }
        if let Action::Answer(answer) = &action {
            to_client.write_all(answer)?;
            continue;
        }
        if let Action::Hold(gate) = &action {
            let _ = gate.recv();
        }
        to_server.write_all(head.as_bytes())?;
        to_server.write_all(&body)?;
        let (head, body) = read_message(&mut from_server)?;
        let (head, body) = match action {
            Action::CutAfter => return Ok(()),
            Action::Rewrite(rewrite) => {
                let body = rewrite(body);
                (with_length(&head, body.len()), body)
            }
            Action::Forward | Action::Hold(_) | Action::CutBefore | Action::Answer(_) => (head, body),
        };
        to_client.write_all(head.as_bytes())?;
        to_client.write_all(&body)?;
    }
}

/// A head with its blank line, and a body of its Content-Length.
fn read_message(from: &mut impl BufRead) -> io::Result<(String, Vec<u8>)> {
    let mut head = String::new();
    loop {
        let start = head.len();
        if from.read_line(&mut head)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if &head[start..] == "\r\n" {
            break;
        }
    }
    let length = header(&head, "content-length").map_or(0, |value| value.parse().unwrap());
    let mut body = vec![0; length];
    from.read_exact(&mut body)?;
    Ok((head, body))
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
}

fn with_length(head: &str, length: usize) -> String {
    head.split_inclusive("\r\n")
        .map(|line| match line.split_once(':') {
            Some((key, _)) if key.eq_ignore_ascii_case("content-length") => format!("{key}: {length}\r\n"),
            _ => line.to_owned(),
        })
        .collect()
}

fn sighting(head: &str, body: &[u8]) -> Seen {
    let mut words = head.split(' ');
    Seen {
        method: words.next().unwrap_or_default().to_owned(),
        path: words.next().unwrap_or_default().to_owned(),
        idempotency_key: header(head, "idempotency-key").map(str::to_owned),
        body: body.to_vec(),
    }
}

/// Changes the bodies of inbox rows of one kind.
pub(crate) fn tamper_inbox(proxy: &Proxy, kind: InboxKind, change: fn(&mut [u8])) {
    proxy.rule(move |seen| {
        if !seen.is("GET", "/v1/inbox") {
            return Action::Forward;
        }
        Action::Rewrite(Box::new(move |body| {
            let mut inbox: Inbox = serde_json::from_slice(&body).unwrap();
            for row in inbox.rows.iter_mut().filter(|row| row.kind == kind) {
                change(&mut row.body.0);
            }
            serde_json::to_vec(&inbox).unwrap()
        }))
    });
}

pub(crate) fn flip_last(bytes: &mut [u8]) {
    if let Some(last) = bytes.last_mut() {
        *last ^= 1;
    }
}
