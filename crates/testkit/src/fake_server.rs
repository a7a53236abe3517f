use std::io::{self, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use crate::http::{Answer, Seen, read_message};

/// How a fake server reacts to one request.
pub enum Reply {
    /// This answer.
    Answer(Answer),
    /// These bytes, whatever they are.
    Bytes(Vec<u8>),
    /// Nothing, with the connection open, until the client or the test gives up.
    Silence,
    /// The connection ends without an answer.
    Close,
    /// The answer, its body byte by byte with so much time between two.
    Drip(Answer, Duration),
    /// The head of the answer without a length, and its body again and again until the client has had enough.
    Flood(Answer),
}

/// A server that is none: it takes HTTP/1.1 requests and reacts as a closure says. It ends with the test.
pub struct FakeServer {
    /// Where clients find it.
    pub url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    /// Dropped with the server; then nothing waits any more.
    _alive: mpsc::Sender<()>,
}

type React = dyn Fn(&Seen) -> Reply + Send + Sync;

impl FakeServer {
    /// On a free port of the loopback interface.
    pub fn start(react: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let react: Arc<React> = Arc::new(react);
        let (alive, until) = mpsc::channel();
        let (until, sightings) = (Arc::new(Mutex::new(until)), Arc::clone(&seen));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (react, until, seen) = (Arc::clone(&react), Arc::clone(&until), Arc::clone(&sightings));
                std::thread::spawn(move || {
                    let _ = converse(client, &*react, &seen, &until);
                });
            }
        });
        Self {
            url,
            seen,
            _alive: alive,
        }
    }

    /// All requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

fn converse(
    client: TcpStream,
    react: &React,
    seen: &Mutex<Vec<Seen>>,
    until: &Mutex<mpsc::Receiver<()>>,
) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut from_client = BufReader::new(client.try_clone()?);
    let mut to_client = client;
    loop {
        let (head, body) = read_message(&mut from_client)?;
        let request = Seen::of(&head, body);
        seen.lock().unwrap().push(request.clone());
        match react(&request) {
            Reply::Answer(answer) => to_client.write_all(&answer.to_bytes())?,
            Reply::Bytes(bytes) => to_client.write_all(&bytes)?,
            Reply::Close => return Ok(()),
            Reply::Silence => {
                // Ends when the client closes, or with the server.
                let _ = read_message(&mut from_client);
                return Ok(());
            }
            Reply::Drip(answer, pause) => {
                to_client.write_all(&answer.head(Some(answer.body.len())))?;
                for byte in &answer.body {
                    to_client.write_all(std::slice::from_ref(byte))?;
                    match until.lock().unwrap().recv_timeout(pause) {
                        Err(mpsc::RecvTimeoutError::Timeout) => {}
                        Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(()),
                    }
                }
            }
            Reply::Flood(answer) => {
                to_client.write_all(&answer.head(None))?;
                loop {
                    to_client.write_all(&answer.body)?;
                }
            }
        }
    }
}
