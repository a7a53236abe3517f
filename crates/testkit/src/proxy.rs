use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, mpsc};

use larder_wire::{Gone, Handshakes, Inbox, InboxKind, InboxRow};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::http::{
    Answer, Seen, chunk_bytes, is_event_stream, read_body, read_chunk, read_head, read_message, request_bytes,
};

/// What happens to one request.
pub enum Action {
    /// The server answers it.
    Forward,
    /// The server never sees it, and the connection ends.
    CutBefore,
    /// The server answers, and the client never sees that.
    CutAfter,
    /// The server never sees it, and this is the answer.
    Answer(Answer),
    /// The server's answer is changed on its way.
    Rewrite(Box<dyn FnOnce(Answer) -> Answer + Send>),
    /// Waits until the sender is dropped or used, and goes on.
    Hold(mpsc::Receiver<()>),
}

impl Action {
    /// Changes the body of the server's answer.
    pub fn rewrite_body(change: impl FnOnce(Vec<u8>) -> Vec<u8> + Send + 'static) -> Self {
        Self::Rewrite(Box::new(|answer| Answer {
            body: change(answer.body),
            ..answer
        }))
    }

    /// Changes the server's answer where it is a success: its JSON is read as `T`, changed, and written again.
    pub fn rewrite_json<T: Serialize + DeserializeOwned>(
        change: impl FnOnce(&mut T) + Send + 'static,
    ) -> Self {
        Self::Rewrite(Box::new(|mut answer| {
            if (200..300).contains(&answer.status) {
                let mut value: T = serde_json::from_slice(&answer.body).unwrap();
                change(&mut value);
                answer.body = serde_json::to_vec(&value).unwrap();
            }
            answer
        }))
    }
}

type Rule = Box<dyn FnMut(&Seen) -> Action + Send>;
type EventRule = Box<dyn FnMut(InboxRow) -> Vec<InboxRow> + Send>;

/// An HTTP/1.1 proxy in front of one server: forwards every request, unless its rule says otherwise.
pub struct Proxy {
    /// Where clients find it.
    pub url: String,
    rule: Arc<Mutex<Rule>>,
    /// What becomes of each row of the streams of events.
    events: Arc<Mutex<EventRule>>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Proxy {
    /// In front of the server at this `http://` address, on a free port of the loopback interface.
    pub fn start(server: &str) -> Self {
        let upstream = server.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let rule: Arc<Mutex<Rule>> = Arc::new(Mutex::new(Box::new(|_| Action::Forward)));
        let events: Arc<Mutex<EventRule>> = Arc::new(Mutex::new(Box::new(|row| vec![row])));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (rules, of_events, sightings) = (Arc::clone(&rule), Arc::clone(&events), Arc::clone(&seen));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (upstream, rule, seen) = (upstream.clone(), Arc::clone(&rules), Arc::clone(&sightings));
                let events = Arc::clone(&of_events);
                std::thread::spawn(move || {
                    let _ = converse(client, &upstream, (&rule, &events), &seen);
                });
            }
        });
        Self {
            url,
            rule,
            events,
            seen,
        }
    }

    /// Decides about every request from now on.
    pub fn rule(&self, rule: impl FnMut(&Seen) -> Action + Send + 'static) {
        *self.rule.lock().unwrap() = Box::new(rule);
    }

    /// Decides about such requests from now on; all others are forwarded.
    pub fn rule_for(
        &self,
        method: &'static str,
        path_end: &'static str,
        mut rule: impl FnMut(&Seen) -> Action + Send + 'static,
    ) {
        self.rule(move |seen| {
            if seen.is(method, path_end) {
                rule(seen)
            } else {
                Action::Forward
            }
        });
    }

    /// Forwards everything from now on, in the streams that there are, too: an honest server again.
    pub fn forward(&self) {
        self.rule(|_| Action::Forward);
        self.lie_in_events(|row| vec![row]);
    }

    /// Changes the rows of streams of events from now on, of those that there are, too.
    pub fn lie_in_events(&self, lie: impl FnMut(InboxRow) -> Vec<InboxRow> + Send + 'static) {
        *self.events.lock().unwrap() = Box::new(lie);
    }

    /// Changes what the server answers to such requests, from now on. Answers that are no success pass as they are.
    pub fn lie<T: Serialize + DeserializeOwned>(
        &self,
        method: &'static str,
        path_end: &'static str,
        lie: impl FnMut(&mut T) + Send + 'static,
    ) {
        let lie = Arc::new(Mutex::new(lie));
        self.rule_for(method, path_end, move |_| {
            let lie = Arc::clone(&lie);
            Action::rewrite_json(move |value: &mut T| (lie.lock().unwrap())(value))
        });
    }

    /// Loses the answers to such requests.
    pub fn cut_after(&self, method: &'static str, path_end: &'static str) {
        self.rule_for(method, path_end, |_| Action::CutAfter);
    }

    /// Loses such requests.
    pub fn cut_before(&self, method: &'static str, path_end: &'static str) {
        self.rule_for(method, path_end, |_| Action::CutBefore);
    }

    /// Such requests so far.
    pub fn seen(&self, method: &str, path_end: &str) -> Vec<Seen> {
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
    (rule, events): (&Mutex<Rule>, &Mutex<EventRule>),
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
        let bytes = request_bytes(&head, &body);
        let request = Seen::of(&head, body);
        seen.lock().unwrap().push(request.clone());
        let action = (rule.lock().unwrap())(&request);
        match &action {
            Action::CutBefore => return Ok(()),
            Action::Answer(answer) => {
                to_client.write_all(&answer.to_bytes())?;
                continue;
            }
            Action::Hold(gate) => {
                let _ = gate.recv();
            }
            Action::Forward | Action::CutAfter | Action::Rewrite(_) => {}
        }
        to_server.write_all(&bytes)?;
        let head = read_head(&mut from_server)?;
        if is_event_stream(&head) && !matches!(action, Action::CutAfter) {
            to_client.write_all(&request_bytes(&head, &[]))?;
            return pass_events(&mut from_server, &mut to_client, events);
        }
        let body = read_body(&mut from_server, &head)?;
        let answer = Answer::of(&head, body);
        let answer = match action {
            Action::CutAfter => return Ok(()),
            Action::Rewrite(rewrite) => rewrite(answer),
            Action::Forward | Action::Hold(_) | Action::CutBefore | Action::Answer(_) => answer,
        };
        to_client.write_all(&answer.to_bytes())?;
    }
}

/// Passes a stream of events on, event by event, until either side has ended.
fn pass_events(from: &mut impl BufRead, to: &mut impl Write, rule: &Mutex<EventRule>) -> io::Result<()> {
    let mut unread = Vec::new();
    loop {
        let chunk = read_chunk(from)?;
        if chunk.is_empty() {
            return to.write_all(&chunk_bytes(&chunk));
        }
        unread.extend_from_slice(&chunk);
        while let Some(end) = unread.windows(2).position(|pair| pair == b"\n\n") {
            let event: Vec<u8> = unread.drain(..end + 2).collect();
            let Some(data) = event.strip_prefix(b"data: ") else {
                to.write_all(&chunk_bytes(&event))?;
                continue;
            };
            let row: InboxRow = serde_json::from_slice(data).unwrap();
            let rows = (rule.lock().unwrap())(row);
            for row in rows {
                let mut event = b"data: ".to_vec();
                serde_json::to_writer(&mut event, &row).unwrap();
                event.extend_from_slice(b"\n\n");
                to.write_all(&chunk_bytes(&event))?;
            }
        }
    }
}

/// Changes the bodies of inbox rows of one kind.
pub fn tamper_inbox(proxy: &Proxy, kind: InboxKind, change: fn(&mut [u8])) {
    proxy.lie("POST", "/v1/inbox/next", move |inbox: &mut Inbox| {
        for row in inbox.rows.iter_mut().filter(|row| row.kind == kind) {
            change(&mut row.body.0);
        }
    });
}

/// Flips a bit of the last byte.
pub fn flip_last(bytes: &mut [u8]) {
    if let Some(last) = bytes.last_mut() {
        *last ^= 1;
    }
}

/// What a server answers that has kept no Commits, neither for this device nor of the group; `None` for other requests.
pub fn keeps_no_commits(seen: &Seen) -> Option<Action> {
    if seen.is("POST", "/v1/inbox/next") {
        return Some(Action::rewrite_json(|inbox: &mut Inbox| {
            for row in inbox.rows.iter_mut().filter(|row| row.kind == InboxKind::Commit) {
                row.gone = Some(Gone::Age);
                row.body.0.clear();
            }
        }));
    }
    seen.is("GET", "/commits").then(|| {
        Action::rewrite_json(|told: &mut Handshakes| {
            for handshake in &mut told.handshakes {
                handshake.message = None;
            }
        })
    })
}
