//! `export` and `import`.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use crate::support::{World, bytes_below, contains, texts};
use crate::transcripts::fails;

const PASSPHRASE: [&str; 2] = ["--backup-passphrase-command", "echo open sesame"];

/// alice has written to bob, and he has written back.
fn alice_and_bob() -> World {
    let world = World::new();
    world.register(&["alice", "bob"]);
    world.ok("alice", &["group", "create", "room"]);
    world.ok("alice", &["invite", "room", "bob"]);
    world.ok("alice", &["send", "room", "what is written stays"]);
    world.ok("bob", &["recv"]);
    world.ok("bob", &["send", "room", "so it does"]);
    world
}

fn export(world: &World, file: &Path) {
    let told = world.ok(
        "bob",
        &[&["export", file.to_str().unwrap()], &PASSPHRASE[..]].concat(),
    );
    assert_eq!(
        told,
        format!(
            "exported bob to {}: whoever can open it can read all and be bob\n",
            file.display()
        )
    );
}

#[test]
fn a_profile_that_is_lost_goes_on_from_its_backup_with_its_history() {
    let world = alice_and_bob();
    let file = world.path("bob.age");
    export(&world, &file);
    let sealed = fs::read(&file).unwrap();
    assert!(sealed.starts_with(b"age-encryption.org/v1\n-> scrypt "));
    assert!(!contains(&sealed, b"what is written stays") && !contains(&sealed, b"SQLite format 3"));
    fs::remove_dir_all(world.profile("bob")).unwrap();
    world.ok("alice", &["send", "room", "are you there?"]);

    let name = file.to_str().unwrap();
    let import = [&["--json", "import", "--no-encryption", name], &PASSPHRASE[..]].concat();
    let imported = crate::support::parse(&world.ok("saved", &import));
    assert_eq!(
        (&imported["type"], &imported["user"], &imported["profile"]),
        (&"imported".into(), &"bob".into(), &"saved".into())
    );
    let history = world.json("saved", &["history", "room"]);
    assert_eq!(texts(&history), ["what is written stays", "so it does"]);
    let told = world.ok("saved", &["recv"]);
    assert!(told.contains("this profile is an older copy"), "{told}");
    world.ok("saved", &["send", "room", "here again"]);
    world.ok("alice", &["send", "room", "welcome back"]);
    assert_eq!(texts(&world.json("saved", &["recv"])), ["welcome back"]);
    assert_eq!(
        texts(&world.json("alice", &["recv"])),
        ["so it does", "here again"]
    );
    assert!(
        world
            .ok("saved", &["pool", "probe"])
            .contains("this device can be added")
    );
}

#[cfg(feature = "sqlcipher")]
#[test]
fn an_encrypted_profile_is_never_in_the_clear_on_a_disk_on_its_way() {
    let world = World::new();
    world.register(&["alice"]);
    let own = ["--passphrase-command", "echo the first one"];
    world.ok("bob", &[&own[..], &["register", "bob"]].concat());
    world.ok("bob", &[&own[..], &["group", "create", "canary-room"]].concat());
    let text = "the canary sings at midnight";
    world.ok("bob", &[&own[..], &["send", "canary-room", text]].concat());
    let file = world.path("bob.age");
    let name = file.to_str().unwrap();
    world.ok("bob", &[&own[..], &["export", name], &PASSPHRASE[..]].concat());
    let other = ["--passphrase-command", "echo the second one"];
    world.ok(
        "saved",
        &[&other[..], &["import", name], &PASSPHRASE[..]].concat(),
    );
    let history = world.json("saved", &[&other[..], &["history", "canary-room"]].concat());
    assert_eq!(texts(&history), [text]);
    assert_eq!(world.run("saved", &[&own[..], &["groups"]].concat()).code, 7);
    for place in [world.path("home"), file] {
        let bytes = match place.is_dir() {
            true => bytes_below(&place),
            false => fs::read(&place).unwrap(),
        };
        assert!(!contains(&bytes, text.as_bytes()) && !contains(&bytes, b"canary-room"));
    }
}

#[test]
fn a_backup_for_a_recipient_is_opened_by_the_identity_and_by_nothing_else() {
    let world = alice_and_bob();
    let (file, identity, other) = (
        world.path("bob.age"),
        world.path("key.txt"),
        world.path("other.txt"),
    );
    let recipient = age::x25519::Identity::generate();
    let write = |path: &Path, identity: &age::x25519::Identity| {
        use age::secrecy::ExposeSecret;
        fs::write(
            path,
            format!("# a comment\n{}\n", identity.to_string().expose_secret()),
        )
        .unwrap();
    };
    write(&identity, &recipient);
    write(&other, &age::x25519::Identity::generate());
    let recipient = recipient.to_public().to_string();
    let name = file.to_str().unwrap();
    world.ok("bob", &["export", name, "--recipient", &recipient]);

    let import = |arguments: &[&str]| {
        fails(
            &world,
            "saved",
            &[&["import", "--no-encryption", name], arguments].concat(),
        )
    };
    let (exit, _, code) = import(&["--identity", other.to_str().unwrap()]);
    assert_eq!((exit, code.as_str()), (7, "wrong-identity"));
    let (exit, _, code) = import(&PASSPHRASE);
    assert_eq!((exit, code.as_str()), (2, "identity-needed"));
    assert!(!world.profile("saved").join("larder.db").exists());
    world.ok(
        "saved",
        &[
            "import",
            "--no-encryption",
            name,
            "--identity",
            identity.to_str().unwrap(),
        ],
    );
    assert_eq!(texts(&world.json("saved", &["history", "room"])).len(), 2);
    assert_eq!(
        world
            .run("bob", &["export", "x", "--recipient", "age1nonsense"])
            .code,
        2
    );
}

#[test]
fn nothing_is_overwritten_and_what_cannot_be_opened_is_told_apart() {
    let world = alice_and_bob();
    let file = world.path("bob.age");
    export(&world, &file);
    let name = file.to_str().unwrap();
    let sealed = fs::read(&file).unwrap();
    let (exit, _, code) = fails(&world, "bob", &[&["export", name], &PASSPHRASE[..]].concat());
    assert_eq!((exit, code.as_str()), (3, "file-exists"));
    assert_eq!(fs::read(&file).unwrap(), sealed);
    let (exit, sentence, code) = fails(&world, "alice", &[&["import", name], &PASSPHRASE[..]].concat());
    assert_eq!((exit, code.as_str()), (3, "profile-exists"));
    assert!(sentence.contains("--profile names another"), "{sentence}");
    let wrong = [
        "import",
        "--no-encryption",
        name,
        "--backup-passphrase-command",
        "echo sesame",
    ];
    let (exit, sentence, code) = fails(&world, "saved", &wrong);
    assert_eq!((exit, code.as_str()), (7, "wrong-passphrase"));
    assert!(!sentence.contains("echo"), "{sentence}");

    let mut damaged = sealed.clone();
    let last = damaged.len() - 100;
    damaged[last] ^= 1;
    for bytes in [&b"nonsense"[..], &damaged, &sealed[..sealed.len() / 2]] {
        let broken = world.path("broken.age");
        fs::write(&broken, bytes).unwrap();
        let import = ["import", "--no-encryption", broken.to_str().unwrap()];
        let (exit, _, code) = fails(&world, "saved", &[&import[..], &PASSPHRASE].concat());
        assert_eq!((exit, code.as_str()), (3, "not-a-backup"));
    }
    assert!(!world.profile("saved").join("larder.db").exists());
    let mut left: Vec<_> = fs::read_dir(world.path("."))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    left.retain(|entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with(".tmp"));
    assert!(left.is_empty(), "{left:?}");
}

#[cfg(unix)]
#[test]
fn a_backup_is_for_its_owner_only_and_its_passphrase_may_come_from_a_descriptor() {
    use std::os::unix::fs::PermissionsExt;
    let world = alice_and_bob();
    let file = world.path("bob.age");
    let arguments = ["export", file.to_str().unwrap(), "--backup-passphrase-fd", "0"];
    let passphrase = world.path("passphrase");
    fs::write(&passphrase, "open sesame\nrest").unwrap();
    let status = world
        .command("bob", &arguments)
        .stdin(Stdio::from(fs::File::open(&passphrase).unwrap()))
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let import = ["import", "--no-encryption", file.to_str().unwrap()];
    world.ok("saved", &[&import[..], &PASSPHRASE].concat());
    let (exit, _, code) = fails(&world, "bob", &["export", "other.age"]);
    assert_eq!((exit, code.as_str()), (7, "no-terminal"));
}

/// Copies a profile, as somebody does who copies a home directory.
fn copied(world: &World, from: &str, to: &str) {
    fs::create_dir(world.profile(to)).unwrap();
    for entry in fs::read_dir(world.profile(from)).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), world.profile(to).join(entry.file_name())).unwrap();
    }
}

#[test]
fn a_stale_copy_says_what_it_is_and_keeps_what_it_cannot_send() {
    let world = alice_and_bob();
    copied(&world, "bob", "copy");
    world.ok("bob", &["send", "room", "from the original"]);
    // Each is brought up to date once.
    world.ok("copy", &["send", "room", "from the copy"]);
    world.ok("bob", &["send", "room", "from the original again"]);
    let why = "this profile is an older copy of one that was used since, and was brought up to date less than an hour \
               ago: nothing is sent until it may be again";
    for arguments in [
        &["send", "room", "too often"][..],
        &["send", "room", "--wait", "too often, and waiting"],
    ] {
        let sent = world.run("copy", arguments);
        assert_eq!(sent.code, 3, "{arguments:?}: {sent:?}");
        let expected = format!("pending: {why}; the message is kept, and not sent as long as that is so\n");
        assert_eq!(sent.out, expected, "{arguments:?}: {sent:?}");
        let sent = world.run("copy", &[&["--json"], arguments].concat());
        let told = crate::support::parse(&sent.out);
        assert_eq!(
            (&told["status"], &told["code"], &told["reason"], sent.code),
            (&"pending".into(), &"state-behind".into(), &why.into(), 3)
        );
    }
    // What is logged comes before it.
    let received = world.run("copy", &["recv"]);
    assert_eq!(received.code, 3, "{received:?}");
    assert!(
        received.err.ends_with(&format!("larder: {why}\n")),
        "{received:?}"
    );
    assert_eq!(
        texts(&world.json("alice", &["recv"])),
        [
            "so it does",
            "from the original",
            "from the copy",
            "from the original again"
        ]
    );
}
