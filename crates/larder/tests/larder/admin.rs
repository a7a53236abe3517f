//! What an operator does with a server's store.

use crate::support::World;
use crate::transcripts::fails;

fn database(world: &World) -> String {
    world
        .path("server")
        .join("server.db")
        .to_str()
        .unwrap()
        .to_owned()
}

#[test]
fn a_store_is_checked_saved_while_it_is_served_and_made_safe_after_a_restore() {
    let mut world = World::new();
    world.register(&["alice", "bob"]);
    let (store, copy) = (database(&world), world.path("backup.db"));
    let copy = copy.to_str().unwrap().to_owned();
    // While the server runs, it is saved but not checked.
    assert_eq!(
        world.ok("admin", &["admin", "backup", "--database", &store, &copy]),
        format!("backed up to {copy}\n")
    );
    let (exit, _, code) = fails(&world, "admin", &["admin", "check", "--database", &store]);
    assert_eq!((exit, code.as_str()), (6, "database-locked"));
    let (exit, _, code) = fails(&world, "admin", &["admin", "restored", "--database", &store]);
    assert_eq!((exit, code.as_str()), (6, "database-locked"));
    let (exit, sentence, _) = fails(&world, "admin", &["admin", "backup", "--database", &store, &copy]);
    assert_eq!(exit, 1, "a backup is never written over");
    assert!(sentence.contains("backup.db"), "{sentence}");
    let (exit, _, code) = fails(
        &world,
        "admin",
        &["admin", "check", "--database", "/nowhere/larder.db"],
    );
    assert_eq!((exit, code.as_str()), (3, "no-database"));

    assert_eq!(
        world.ok("admin", &["admin", "check", "--database", &copy]),
        "nothing is wrong; checked 2 devices, 66 KeyPackages, 0 groups\n"
    );
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(&copy).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    // The copy takes the place of the database.
    world.kill_server();
    for file in std::fs::read_dir(world.path("server")).unwrap() {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }
    std::fs::copy(&copy, &store).unwrap();
    assert_eq!(
        world.ok("admin", &["admin", "restored", "--database", &store]),
        "withdrew 66 KeyPackages of 2 devices; the store can be served\n"
    );
    rusqlite::Connection::open(&store)
        .unwrap()
        .execute("UPDATE audit SET time = 0 WHERE seq = 1", [])
        .unwrap();
    let run = world.run("admin", &["--json", "admin", "check", "--database", &store]);
    assert_eq!(run.code, 3);
    let first = crate::support::parse(run.out.lines().next().unwrap());
    assert_eq!(
        (&first["type"], &first["code"]),
        (&"finding".into(), &"audit-broken".into())
    );
}
