//! Whom the files of servers and profiles are open to.

use std::fs::{Permissions, create_dir, set_permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::support::{Running, World};

/// Of each file in a directory, by name.
fn modes(directory: &Path) -> Vec<(String, u32)> {
    let mut modes: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
            (entry.file_name().into_string().unwrap(), mode)
        })
        .collect();
    modes.sort();
    modes
}

fn private<const N: usize>(names: [&str; N]) -> Vec<(String, u32)> {
    names.map(|name| (name.to_owned(), 0o600)).to_vec()
}

const FILES: [&str; 4] = ["server.db", "server.db-shm", "server.db-wal", "server.db.lock"];

/// A server in this directory, that lets whatever it creates be open to everybody. Returns its URL, too.
fn serve(world: &World, data: &Path) -> (Running, String) {
    let script = format!(
        "umask 0; exec \"$LARDER\" serve --listen 127.0.0.1:0 --store {}/server.db",
        data.display()
    );
    let mut server = Running::start(world.shell("server", &script));
    let ready = server.line();
    let url = ready.strip_prefix("listening on ").unwrap().to_owned();
    (server, url)
}

#[test]
fn files_are_their_owners_in_an_open_directory_without_a_umask() {
    let world = World::without_server();
    let data = world.path("state");
    create_dir(&data).unwrap();
    set_permissions(&data, Permissions::from_mode(0o755)).unwrap();
    let (_server, url) = serve(&world, &data);
    let script = format!("umask 0; exec \"$LARDER\" --server {url} register --no-encryption alice");
    let mut client = Running::start(world.shell("alice", &script));
    assert_eq!(client.ended(), 0);
    assert_eq!(modes(&data), private(FILES));
    let profile = world.profile("alice");
    assert!(!modes(&profile).is_empty());
    for (name, mode) in modes(&profile) {
        assert_eq!(mode, 0o600, "{name}");
    }
}

#[test]
fn files_that_were_open_to_others_are_closed_to_them() {
    let world = World::without_server();
    let data = world.path("state");
    // Killed, so that its log stays.
    serve(&world, &data).0.kill();
    assert_eq!(modes(&data), private(FILES));
    for name in FILES {
        set_permissions(data.join(name), Permissions::from_mode(0o644)).unwrap();
    }
    let _server = serve(&world, &data);
    assert_eq!(modes(&data), private(FILES));
}
