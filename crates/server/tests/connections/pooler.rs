//! A small pooler of PostgreSQL sessions, which lends them as PgBouncer does.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// `SSLRequest` of the protocol.
const TLS_WANTED: [u8; 4] = 80_877_103_u32.to_be_bytes();

/// Who gets which session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lending {
    /// A client keeps its session (`pool_mode = session`).
    ForSessions,
    /// A transaction gets the one that was given back last (`pool_mode = transaction`).
    LastUsed,
    /// A transaction gets the one that was given back first (with `server_round_robin`).
    InTurn,
}

pub(crate) struct Pooler {
    pub(crate) port: u16,
}

type Sessions = Arc<Mutex<VecDeque<TcpStream>>>;

impl Pooler {
    /// In front of the server at this port, on another one.
    pub(crate) fn start(server: u16, lending: Lending) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let sessions = Sessions::default();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let sessions = Arc::clone(&sessions);
                // It ends when its client or its session does.
                std::thread::spawn(move || serve(client, server, lending, &sessions));
            }
        });
        Self { port }
    }
}

fn serve(mut client: TcpStream, server: u16, lending: Lending, idle: &Sessions) -> io::Result<()> {
    let mut session = Some(log_in(&mut client, server)?);
    loop {
        if lending != Lending::ForSessions
            && let Some(unused) = session.take()
        {
            idle.lock().unwrap().push_back(unused);
        }
        // A transaction, which begins with the next message.
        let mut status = b'T';
        while status != b'I' {
            let message = read_message(&mut client)?;
            let session = session.get_or_insert_with(|| {
                let mut idle = idle.lock().unwrap();
                let lent = match lending {
                    Lending::InTurn => idle.pop_front(),
                    Lending::LastUsed | Lending::ForSessions => idle.pop_back(),
                };
                lent.unwrap()
            });
            session.write_all(&message)?;
            if matches!(message[0], b'Q' | b'S') {
                status = pass_answer(session, &mut client)?;
            }
        }
    }
}

/// Passes the login on to a session of its own.
fn log_in(client: &mut TcpStream, server: u16) -> io::Result<TcpStream> {
    let mut startup = read_body(client)?;
    if startup[4..] == TLS_WANTED {
        client.write_all(b"N")?;
        startup = read_body(client)?;
    }
    let mut session = TcpStream::connect(("127.0.0.1", server))?;
    session.write_all(&startup)?;
    pass_answer(&mut session, client)?;
    Ok(session)
}

/// Passes messages of the session on until it is ready, and returns the state of its transaction.
fn pass_answer(session: &mut TcpStream, client: &mut TcpStream) -> io::Result<u8> {
    loop {
        let message = read_message(session)?;
        client.write_all(&message)?;
        if message[0] == b'Z' {
            return Ok(message[5]);
        }
    }
}

fn read_message(from: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut kind = [0];
    from.read_exact(&mut kind)?;
    Ok([&kind[..], &read_body(from)?].concat())
}

/// The length, and what it counts.
fn read_body(from: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut body = vec![0; 4];
    from.read_exact(&mut body)?;
    let length = u32::from_be_bytes([body[0], body[1], body[2], body[3]]);
    body.resize(usize::try_from(length).unwrap(), 0);
    from.read_exact(&mut body[4..])?;
    Ok(body)
}
