//! What must not be found in logs, on the wire and in the server's database.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use ciborium::Value as Cbor;
use larder_wire::InviteCode;
use rusqlite::{Connection, OpenFlags};

use crate::support::{World, bytes_below, contains, find_any};

const PLAINTEXT: &str = "the canary sings at midnight";
const GROUP: &str = "canary-lovers-of-leeds";

/// Passes connections on to a server, and remembers all that went through, in both directions.
struct Tap {
    address: String,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl Tap {
    fn on(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (server, shared) = (server.to_owned(), Arc::clone(&heard));
        thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                let server = TcpStream::connect(&server).unwrap();
                for (from, to) in [
                    (client.try_clone().unwrap(), server.try_clone().unwrap()),
                    (server, client),
                ] {
                    let heard = Arc::clone(&shared);
                    thread::spawn(move || pass_on(from, to, &heard));
                }
            }
        });
        Self { address, heard }
    }

    fn heard(&self) -> Vec<u8> {
        self.heard.lock().unwrap().clone()
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, heard: &Mutex<Vec<u8>>) {
    let mut bytes = [0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        heard.lock().unwrap().extend_from_slice(&bytes[..count]);
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

/// The bearer tokens in what a tap has heard.
fn tokens(heard: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(heard);
    let mut tokens: Vec<String> = text
        .split("earer ")
        .skip(1)
        .map(|rest| rest.chars().take_while(|c| c.is_ascii_graphic()).collect())
        .collect();
    tokens.sort();
    tokens.dedup();
    tokens
}

/// Every byte string below a key that speaks of something private, in what OpenMLS and the client store.
fn private_keys(world: &World, user: &str) -> Vec<Vec<u8>> {
    let path = world.profile(user).join("larder.db");
    let database = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let tables: Vec<String> = database
        .prepare("SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'openmls_%'")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    let mut keys = Vec::new();
    for table in tables {
        let mut statement = database.prepare(&format!("SELECT * FROM {table}")).unwrap();
        let columns = statement.column_count();
        let mut rows = statement.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            for column in 0..columns {
                if let Ok(blob) = row.get::<_, Vec<u8>>(column)
                    && let Ok(value) = ciborium::from_reader::<Cbor, _>(blob.as_slice())
                {
                    collect(&value, false, &mut keys);
                }
            }
        }
    }
    keys.retain(|key| key.len() >= 16);
    keys
}

fn collect(value: &Cbor, private: bool, keys: &mut Vec<Vec<u8>>) {
    match value {
        Cbor::Bytes(bytes) if private => keys.push(bytes.clone()),
        Cbor::Array(items) => {
            let bytes: Option<Vec<u8>> = items
                .iter()
                .map(|item| item.as_integer().and_then(|integer| u8::try_from(integer).ok()))
                .collect();
            match bytes {
                Some(bytes) if private => keys.push(bytes),
                _ => items.iter().for_each(|item| collect(item, private, keys)),
            }
        }
        Cbor::Map(entries) => {
            for (key, value) in entries {
                let private = private || key.as_text().is_some_and(|key| key.contains("private"));
                collect(value, private, keys);
            }
        }
        Cbor::Tag(_, value) => collect(value, private, keys),
        _ => (),
    }
}

/// The ways in which bytes end up in files: as they are, as a CBOR array of numbers, and as text.
fn spellings(bytes: &[u8]) -> Vec<Vec<u8>> {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut cbor = Vec::new();
    ciborium::into_writer(bytes, &mut cbor).unwrap();
    vec![
        bytes.to_vec(),
        cbor,
        hex.to_uppercase().into_bytes(),
        hex.into_bytes(),
        URL_SAFE_NO_PAD.encode(bytes).into_bytes(),
        STANDARD_NO_PAD.encode(bytes).into_bytes(),
        format!("{bytes:?}")
            .trim_matches(['[', ']'])
            .to_owned()
            .into_bytes(),
    ]
}

#[test]
fn no_key_token_code_plaintext_or_group_name_is_logged_sent_or_kept_by_the_server() {
    let mut world = World::with_registration("invited", "trace");
    let tap = Tap::on(world.address());
    let users = ["alice", "bob", "carol"];
    let url = format!("http://{}", tap.address);
    let larder = |user: &str, arguments: &[&str]| {
        let arguments = [&["--server", url.as_str()], arguments].concat();
        let ended = world.run(user, &arguments);
        assert_eq!(ended.code, 0, "{user} {arguments:?}: {}", ended.out);
        ended.out
    };
    let codes = users.map(|_| world.invitation());
    let unused = world.invitation();
    for (user, code) in users.into_iter().zip(&codes) {
        larder(user, &["register", "--no-encryption", "--invite", code, user]);
    }
    let before: Vec<Vec<u8>> = users.iter().flat_map(|user| private_keys(&world, user)).collect();
    larder("alice", &["group", "create", GROUP]);
    larder("alice", &["invite", GROUP, "bob", "carol"]);
    larder("alice", &["send", GROUP, PLAINTEXT]);
    for user in ["bob", "carol"] {
        assert!(larder(user, &["recv"]).contains(PLAINTEXT));
        larder(user, &["send", GROUP, PLAINTEXT]);
    }
    larder("alice", &["remove", GROUP, "carol"]);
    larder("alice", &["recv"]);
    larder("carol", &["recv"]);
    assert_eq!(world.stop_server(), 0);

    let after = users.iter().flat_map(|user| private_keys(&world, user));
    let keys: Vec<Vec<u8>> = before.into_iter().chain(after).collect();
    assert!(
        keys.len() >= 3 * 32,
        "the scan finds keys to look for: {}",
        keys.len()
    );
    let heard = tap.heard();
    let tokens = tokens(&heard);
    assert!(tokens.len() >= 3, "each client had a session: {}", tokens.len());

    let spelled: Vec<Vec<u8>> = keys.iter().flat_map(|key| spellings(key)).collect();
    let words = [PLAINTEXT, GROUP].map(str::as_bytes);
    let database = bytes_below(&world.path("server"));
    for code in codes.iter().chain([&unused]) {
        let heard_of = contains(&heard, code.as_bytes());
        assert_eq!(heard_of, *code != unused, "a code travels as it is");
        let secret = *code.parse::<InviteCode>().unwrap().secret();
        let bare = code.strip_prefix("larder-invite:").unwrap();
        let mut spelled = spellings(&secret);
        spelled.extend([bare.into(), bare.replace('-', "").into()]);
        assert_eq!(
            find_any(&database, &spelled),
            None,
            "a code in the server's database"
        );
        for process in ["server", "admin", "alice", "bob", "carol"] {
            let log = world.logs(process);
            assert_eq!(find_any(&log, &spelled), None, "a code in the log of {process}");
        }
    }
    for (what, bytes) in [("the wire", &heard), ("the server's database", &database)] {
        for word in words {
            assert!(
                !contains(bytes, word),
                "{:?} in {what}",
                String::from_utf8_lossy(word)
            );
        }
        assert_eq!(find_any(bytes, &spelled), None, "a private key in {what}");
    }
    for token in &tokens {
        assert!(
            !contains(&database, token.as_bytes()),
            "a token in the server's database"
        );
    }

    for process in ["server", "alice", "bob", "carol"] {
        let log = world.logs(process);
        assert!(contains(&log, b"TRACE"), "{process} logs everything");
        for word in words.into_iter().chain(tokens.iter().map(String::as_bytes)) {
            assert!(
                !contains(&log, word),
                "{:?} in the log of {process}",
                String::from_utf8_lossy(word)
            );
        }
        assert_eq!(
            find_any(&log, &spelled),
            None,
            "a private key in the log of {process}"
        );
    }
}

#[test]
fn the_scan_for_secrets_finds_what_it_looks_for() {
    let world = World::new();
    world.register(&["alice"]);
    let keys = private_keys(&world, "alice");
    let database = bytes_below(&world.profile("alice"));
    let spelled: Vec<Vec<u8>> = keys.iter().flat_map(|key| spellings(key)).collect();
    assert!(find_any(&database, &spelled).is_some(), "{} keys", keys.len());
}
