use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::ServerCertificate;

/// What a [`PostgresCluster`] lets in: `locked` with a password, everybody else without.
const ACCESS: &str = "local all all trust\nhost all locked all scram-sha-256\nhost all all all trust\n";

/// A PostgreSQL server of a test's own, on a port of the loopback interface. It is gone when this is dropped.
pub struct PostgresCluster {
    programs: PathBuf,
    directory: tempfile::TempDir,
    owner: Option<String>,
    port: u16,
}

impl PostgresCluster {
    /// A cluster that is not running yet, with a superuser `larder`. With a certificate, it has TLS.
    pub fn create(certificate: Option<ServerCertificate>) -> Self {
        let cluster = Self {
            programs: server_programs(),
            // Short: the path of a socket has a limit.
            directory: tempfile::Builder::new()
                .prefix("larder-pg.")
                .tempdir_in("/tmp")
                .unwrap(),
            owner: owner(),
            port: free_port(),
        };
        cluster.give_away(cluster.directory.path());
        let initdb = "-U larder -A trust -E UTF8 --locale C --no-sync".split(' ');
        cluster.run("initdb", initdb);
        cluster.write("data/pg_hba.conf", ACCESS);
        let mut settings = format!(
            "listen_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = '{}'\nfsync = off\n\
             max_connections = 100\n",
            cluster.port,
            cluster.directory.path().display(),
        );
        if let Some(certificate) = certificate {
            cluster.write("data/server.crt", certificate.pem());
            cluster.write("data/server.key", crate::tls_front::KEY);
            settings.push_str("ssl = on\n");
        }
        cluster.write("data/postgresql.auto.conf", &settings);
        cluster
    }

    /// Starts the server, and waits until it answers.
    pub fn start(&self) {
        let log = self.directory.path().join("log");
        self.run("pg_ctl", ["-w", "-l", log.to_str().unwrap(), "start"]);
    }

    /// Where it listens, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Runs a statement in the database `postgres`.
    pub fn execute(&self, sql: &str) {
        let mut psql = Command::new(self.programs.join("psql"));
        psql.args(["-q", "-U", "larder", "-h"])
            .arg(self.directory.path())
            .args(["-p", &self.port.to_string(), "-d", "postgres", "-c", sql]);
        assert!(psql.status().unwrap().success(), "{sql}");
    }

    fn run<'a>(&self, program: &str, arguments: impl IntoIterator<Item = &'a str>) {
        let mut command = self.unprivileged(program);
        command.args(arguments);
        // Not a pipe: the server would keep it open.
        let output = tempfile::tempfile().unwrap();
        let status = command
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .status();
        assert!(
            status.unwrap().success(),
            "{program} failed: {}",
            fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
        );
    }

    /// A program of PostgreSQL's as somebody who may run it, which root may not.
    fn unprivileged(&self, program: &str) -> Command {
        let program = self.programs.join(program);
        let mut command = match &self.owner {
            None => Command::new(program),
            Some(owner) => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid", owner, "--regid", &group_of(owner), "--clear-groups"]);
                command.arg(program);
                command
            }
        };
        command
            .arg("-D")
            .arg(self.directory.path().join("data"))
            .current_dir(self.directory.path());
        command
    }

    /// Writes a file that only the server may read.
    fn write(&self, name: &str, text: &str) {
        let path = self.directory.path().join(name);
        let mut file = fs::File::create(&path).unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            file.set_permissions(fs::Permissions::from_mode(0o600)).unwrap();
        }
        file.write_all(text.as_bytes()).unwrap();
        self.give_away(&path);
    }

    fn give_away(&self, path: &Path) {
        if let Some(owner) = &self.owner {
            let status = Command::new("chown").arg(owner).arg(path).status();
            assert!(status.unwrap().success());
        }
    }
}

impl Drop for PostgresCluster {
    fn drop(&mut self) {
        let mut stop = self.unprivileged("pg_ctl");
        stop.args(["-m", "immediate", "stop"])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let _ = stop.status();
    }
}

/// Where PostgreSQL's server programs are, the newest first, as `scripts/test` looks for them.
fn server_programs() -> PathBuf {
    let mut directories = Vec::new();
    for versions in ["/usr/lib/postgresql", "/opt/homebrew/opt"] {
        let found = fs::read_dir(versions).into_iter().flatten().flatten();
        directories.extend(found.map(|version| version.path().join("bin")));
    }
    directories.sort();
    directories.reverse();
    directories.extend(["/usr/local/bin", "/usr/bin"].map(PathBuf::from));
    let complete = |directory: &PathBuf| {
        ["initdb", "pg_ctl", "psql"]
            .iter()
            .all(|name| directory.join(name).exists())
    };
    let found = directories.into_iter().find(complete);
    found.expect("the server programs of PostgreSQL: run scripts/test, which installs them")
}

/// Who runs the server, if it cannot be who runs the tests.
fn owner() -> Option<String> {
    if id(&["-u"])? != "0" {
        return None;
    }
    let postgres = id(&["-u", "postgres"]).map(|_| "postgres");
    Some(postgres.unwrap_or("nobody").to_owned())
}

fn group_of(user: &str) -> String {
    id(&["-g", user]).unwrap()
}

fn id(arguments: &[&str]) -> Option<String> {
    let output = Command::new("id").args(arguments).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    output.status.success().then(|| text.trim().to_owned())
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}
