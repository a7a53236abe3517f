//! A world for one test: a directory, a server process and client processes, all gone at the end.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use jsonschema::Validator;
use serde_json::Value;
use tempfile::TempDir;

use crate::process::alone;

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_larder");

/// No step takes this long unless it hangs: it bounds failures, on however busy a machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) struct World {
    directory: TempDir,
    server: Option<Running>,
    address: String,
    log: &'static str,
    suites: &'static [&'static str],
    registration: &'static str,
}

impl World {
    /// A server on a free port.
    pub(crate) fn new() -> Self {
        Self::logging("warn")
    }

    /// Every process logs as `RUST_LOG` says, to files that [`World::logs`] reads.
    pub(crate) fn logging(log: &'static str) -> Self {
        let mut world = Self::without_server();
        world.log = log;
        world.start_server();
        world
    }

    /// No server, and an address where none listens.
    pub(crate) fn without_server() -> Self {
        Self {
            directory: TempDir::new().unwrap(),
            server: None,
            address: format!("{}:0", loopback()),
            log: "warn",
            suites: &[],
            registration: "open",
        }
    }

    /// A server where these may register. Every process logs as `RUST_LOG` says.
    pub(crate) fn with_registration(registration: &'static str, log: &'static str) -> Self {
        let mut world = Self::without_server();
        world.log = log;
        world.restart_with_registration(registration);
        world
    }

    /// The server again, where these may register.
    pub(crate) fn restart_with_registration(&mut self, registration: &'static str) {
        self.registration = registration;
        self.kill_server();
        self.start_server();
    }

    /// A server that is run with these ciphersuites.
    pub(crate) fn with_suites(suites: &'static [&'static str]) -> Self {
        let mut world = Self::without_server();
        world.restart_with_suites(suites);
        world
    }

    /// The server again, with these ciphersuites.
    pub(crate) fn restart_with_suites(&mut self, suites: &'static [&'static str]) {
        self.suites = suites;
        self.kill_server();
        self.start_server();
    }

    /// Starts the server; again on the same database and port, once it was started.
    pub(crate) fn start_server(&mut self) {
        let data = self.path("server").join("server.db");
        let mut arguments = vec![
            "serve",
            "--listen",
            &self.address,
            "--store",
            data.to_str().unwrap(),
            "--registration",
            self.registration,
        ];
        arguments.extend(self.suites.iter().flat_map(|suite| ["--suite", suite]));
        let mut server = Running::start(self.command("server", &arguments));
        let ready = server.line();
        let address = ready
            .strip_prefix("listening on http://")
            .unwrap_or_else(|| panic!("{ready}"));
        self.address = address.to_owned();
        self.server = Some(server);
    }

    pub(crate) fn kill_server(&mut self) {
        drop(self.server.take());
    }

    /// Ends the server as an administrator would.
    pub(crate) fn stop_server(&mut self) -> i32 {
        let mut server = self.server.take().unwrap();
        server.signal("TERM");
        server.ended()
    }

    /// Sends the server a signal.
    #[cfg(unix)]
    pub(crate) fn signal_server(&self, name: &str) {
        self.server.as_ref().unwrap().signal(name);
    }

    /// The process of the server.
    #[cfg(target_os = "linux")]
    pub(crate) fn server_id(&self) -> u32 {
        self.server.as_ref().unwrap().id()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn profile(&self, name: &str) -> PathBuf {
        self.path("home").join("profiles").join(name)
    }

    /// `larder` with these arguments, which inherits nothing, and with the standard streams of whoever starts it.
    pub(crate) fn bare(&self, profile: &str, arguments: &[&str]) -> Command {
        let mut command = alone(PROGRAM, arguments, self.directory.path());
        self.settle(&mut command, profile);
        command
    }

    /// The same with streams of its own.
    pub(crate) fn command(&self, profile: &str, arguments: &[&str]) -> Command {
        let mut command = self.bare(profile, arguments);
        self.log_to(&mut command, profile);
        command
    }

    /// A shell that inherits nothing and has `larder` as `$LARDER`.
    pub(crate) fn shell(&self, profile: &str, script: &str) -> Command {
        let mut command = alone("sh", &["-c", script], self.directory.path());
        command.env("LARDER", PROGRAM);
        self.settle(&mut command, profile);
        self.log_to(&mut command, profile);
        command
    }

    /// The environment of a profile.
    fn settle(&self, command: &mut Command, profile: &str) {
        command
            .env("LARDER_HOME", self.path("home"))
            .env("LARDER_PROFILE", profile)
            .env("LARDER_SERVER", self.url())
            // What comes of the other choice has tests of its own.
            .env("LARDER_INVITATIONS", "accept")
            .env("RUST_LOG", self.log);
    }

    fn log_to(&self, command: &mut Command, profile: &str) {
        let mut options = File::options();
        let log = options.create(true).append(true);
        let log = log.open(self.path(&format!("{profile}.log"))).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
    }

    /// Runs a command to its end. Standard error is captured, unless the world logs.
    pub(crate) fn run(&self, profile: &str, arguments: &[&str]) -> Ended {
        let mut command = self.command(profile, arguments);
        if self.log == "warn" {
            command.stderr(Stdio::piped());
        }
        let output = command.output().unwrap();
        Ended {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Runs a command on the server's database. It may be that the server is running.
    pub(crate) fn admin(&self, arguments: &[&str]) -> Vec<Value> {
        let data = self.path("server").join("server.db");
        let arguments = [&["admin"], arguments, &["--store", data.to_str().unwrap()]].concat();
        self.json("admin", &arguments)
    }

    /// An invitation code.
    pub(crate) fn invitation(&self) -> String {
        let invited = self.admin(&["invite"]);
        invited[0]["code"].as_str().unwrap().to_owned()
    }

    /// Runs a command that must succeed, and returns what it printed.
    pub(crate) fn ok(&self, profile: &str, arguments: &[&str]) -> String {
        let Ended { code, out, err } = self.run(profile, arguments);
        assert_eq!(code, 0, "{profile}: {arguments:?}: {out}{err}");
        out
    }

    /// Like [`World::ok`], with `--json`.
    pub(crate) fn json(&self, profile: &str, arguments: &[&str]) -> Vec<Value> {
        let arguments = [&["--json"], arguments].concat();
        self.ok(profile, &arguments).lines().map(parse).collect()
    }

    /// Starts a command that goes on.
    pub(crate) fn start(&self, profile: &str, arguments: &[&str]) -> Running {
        Running::start(self.command(profile, arguments))
    }

    /// Registers accounts whose profiles are not encrypted: deriving keys takes time, and some tests look inside.
    pub(crate) fn register(&self, users: &[&str]) {
        for user in users {
            self.ok(user, &["register", "--no-encryption", user]);
        }
    }

    /// What the processes of a profile, or of the `server`, have logged.
    pub(crate) fn logs(&self, profile: &str) -> Vec<u8> {
        std::fs::read(self.path(&format!("{profile}.log"))).unwrap()
    }
}

/// A loopback address of this world's own, where the system has many: no other process takes the server's port there
/// while it is down.
fn loopback() -> Ipv4Addr {
    static WORLDS: AtomicU32 = AtomicU32::new(0);
    if !cfg!(target_os = "linux") {
        return Ipv4Addr::LOCALHOST;
    }
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let world = WORLDS.fetch_add(1, Ordering::Relaxed) % 200;
    Ipv4Addr::from([127, 1 + world as u8, high, low.clamp(1, 254)])
}

#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// A process that goes on until it is killed, which happens at the latest when this is dropped.
pub(crate) struct Running {
    child: Child,
    lines: Receiver<String>,
    input: Option<ChildStdin>,
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || {
            for line in output.lines() {
                if line.is_ok_and(|line| sender.send(line).is_ok()) {
                    continue;
                }
                return;
            }
        });
        Self {
            input: child.stdin.take(),
            child,
            lines,
        }
    }

    /// The next line that it prints.
    pub(crate) fn line(&mut self) -> String {
        self.next().expect("the process ended")
    }

    /// The next line that it prints, or `None` when it has ended.
    pub(crate) fn next(&mut self) -> Option<String> {
        self.next_in(PATIENCE)
            .unwrap_or_else(|_| panic!("nothing was printed for {PATIENCE:?}"))
    }

    /// Like [`Running::next`], and an error when it takes longer than this.
    pub(crate) fn next_in(&mut self, patience: Duration) -> Result<Option<String>, RecvTimeoutError> {
        match self.lines.recv_timeout(patience) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(timeout) => Err(timeout),
        }
    }

    /// Waits for a line.
    pub(crate) fn sees(&mut self, expected: &str) {
        let mut seen = Vec::new();
        while let Some(line) = self.next() {
            if line == expected {
                return;
            }
            seen.push(line);
        }
        panic!("never printed {expected:?}, but {seen:?}");
    }

    /// Types a line. A process that was killed does not read it.
    pub(crate) fn types(&mut self, line: &str) {
        let input = self.input.as_mut().unwrap();
        let _ = input.write_all(format!("{line}\n").as_bytes());
    }

    /// Ends its input.
    pub(crate) fn closes_input(&mut self) {
        self.input = None;
    }

    /// Of the process.
    #[cfg(target_os = "linux")]
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    #[cfg(unix)]
    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("sh")
            .args(["-c", &format!("kill -{name} {}", self.child.id())])
            .status()
            .unwrap();
        assert!(status.success());
    }

    /// kill -9. Returns what it had printed and nobody had read.
    pub(crate) fn kill(mut self) -> Vec<String> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::iter::from_fn(|| self.lines.recv_timeout(PATIENCE).ok()).collect()
    }

    /// Waits for its end, and returns the exit code.
    pub(crate) fn ended(&mut self) -> i32 {
        while self.next().is_some() {}
        self.child.wait().unwrap().code().expect("killed by a signal")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A line of `--json`, which must be as the schema says.
pub(crate) fn parse(line: &str) -> Value {
    static SCHEMA: LazyLock<Validator> = LazyLock::new(|| {
        let mut schema = serde_json::from_str(schema_text()).unwrap();
        close(&mut schema);
        jsonschema::validator_for(&schema).unwrap()
    });
    let value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    if let Err(error) = SCHEMA.validate(&value) {
        panic!("{error}: {line}");
    }
    value
}

/// What is documented of the output.
pub(crate) fn schema_text() -> &'static str {
    include_str!("../../../../docs/output.schema.json")
}

/// Later versions may add keys; this one has no others than its schema says.
fn close(schema: &mut Value) {
    for definition in ["/$defs/Record/oneOf", "/$defs"] {
        let Some(definitions) = schema.pointer_mut(definition) else {
            continue;
        };
        let objects: Vec<&mut Value> = match definitions {
            Value::Array(objects) => objects.iter_mut().collect(),
            Value::Object(objects) => {
                // These are parts of records too, which have other keys beside.
                let parts = ["Record", "Pool", "Measured", "Migration", "FirstAndAll"];
                let whole = objects
                    .iter_mut()
                    .filter(|(name, _)| !parts.contains(&name.as_str()));
                whole.map(|(_, object)| object).collect()
            }
            _ => continue,
        };
        for object in objects {
            object["unevaluatedProperties"] = false.into();
        }
    }
}

/// The texts of the messages among these records, in order.
pub(crate) fn texts(records: &[Value]) -> Vec<String> {
    records
        .iter()
        .filter(|record| record["type"] == "message" && record["kind"] == "text")
        .map(|record| record["text"].as_str().unwrap().to_owned())
        .collect()
}

/// The bytes of every file in a directory, its subdirectories included.
pub(crate) fn bytes_below(directory: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            bytes.extend(bytes_below(&path));
        } else {
            File::open(path).unwrap().read_to_end(&mut bytes).unwrap();
        }
    }
    bytes
}

/// The first of these that occurs. Each has 12 bytes or more.
pub(crate) fn find_any<'a>(haystack: &[u8], needles: &'a [Vec<u8>]) -> Option<&'a Vec<u8>> {
    const PROBE: usize = 12;
    let mut by_probe: HashMap<&[u8], Vec<&Vec<u8>>> = HashMap::new();
    for needle in needles {
        by_probe.entry(&needle[..PROBE]).or_default().push(needle);
    }
    haystack.windows(PROBE).enumerate().find_map(|(at, probe)| {
        let candidates = by_probe.get(probe)?;
        candidates
            .iter()
            .find(|needle| haystack[at..].starts_with(needle))
            .copied()
    })
}

pub(crate) fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    assert!(!needle.is_empty());
    haystack.windows(needle.len()).any(|window| window == needle)
}
