use clap::CommandFactory;
use larder_lifecycle::DrainLimits;
use larder_server::AddressLimits;

use super::*;

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn what_can_be_typed_in_the_chat_can_be_done_from_a_script() {
    let mut program = Cli::command();
    program.build();
    for (usage, _) in crate::slash::all() {
        let name = usage.trim_start_matches('/').split(' ').next().unwrap();
        let path: &[&str] = match name {
            "new" => &["group", "create"],
            "rename" => &["group", "rename"],
            "pool" => &["pool", "status"],
            // The argument of a command.
            "attach" => &["send"],
            // Of the screen.
            "copy" | "edit" | "group" | "help" | "quit" => continue,
            same => &[same],
        };
        let mut command = Some(&program);
        for name in path {
            command = command.and_then(|command| command.find_subcommand(name));
        }
        assert!(command.is_some(), "{usage}");
    }
}

#[test]
fn a_store_shows_no_password() {
    let cli = Cli::try_parse_from(["larder", "serve", "--store", "postgres://a:secret@db/larder"]).unwrap();
    assert!(!format!("{cli:?}").contains("secret"));
}

#[test]
fn an_invitation_code_is_not_shown_not_even_a_wrong_one() {
    let cli = Cli::try_parse_from(["larder", "register", "alice", "--invite", "nearly-a-code"]).unwrap();
    assert!(!format!("{cli:?}").contains("nearly"));
}

#[test]
fn suites_of_a_server_are_named_in_order_and_unknown_names_are_refused() {
    let cli = Cli::try_parse_from([
        "larder",
        "serve",
        "--suite",
        "0x0003",
        "--suite",
        "x25519-aes128gcm",
    ]);
    assert!(matches!(cli.unwrap().command, Command::Serve(serve) if serve.suites == [3, 1]));
    assert!(Cli::try_parse_from(["larder", "serve", "--suite", "rot13"]).is_err());
}

#[test]
fn a_message_is_words_and_takes_flags_only_after_two_hyphens() {
    let cli = Cli::try_parse_from(["larder", "send", "room", "-5", "degrees", "--json"]).unwrap();
    assert!(cli.global.json);
    assert!(matches!(cli.command, Command::Send(Send { text, .. }) if text == ["-5", "degrees"]));
    let cli = Cli::try_parse_from(["larder", "send", "room", "--", "--json"]).unwrap();
    assert!(!cli.global.json);
    assert!(matches!(cli.command, Command::Send(Send { text, .. }) if text == ["--json"]));
}

fn serve(arguments: &[&str]) -> Serve {
    let line = [&["larder", "serve"], arguments].concat();
    match Cli::try_parse_from(line).unwrap().command {
        Command::Serve(serve) => *serve,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_limits_of_a_server_are_its_own_defaults_unless_told() {
    let said = serve(&[]);
    let config = larder_server::Config::new(std::path::PathBuf::from("server.db"));
    let durations = [
        said.durations.sessions(),
        said.durations.messages(),
        said.durations.attachments(),
    ];
    assert_eq!(
        durations,
        [
            config.session_seconds,
            config.inbox_retention_seconds,
            config.blobs.retention_seconds
        ]
    );
    assert_eq!(
        said.store_attachments_mib * 1024 * 1024,
        config.blobs.store_bytes_max
    );
    assert_eq!(said.accounts_per_hour, config.accounts_per_hour);
    assert_eq!(DrainLimits::from(said.drain), config.drain);
    let addresses = AddressLimits::from(said.addresses);
    assert_eq!(format!("{addresses:?}"), format!("{:?}", config.addresses));
}

#[test]
fn limits_for_addresses_are_taken_away_by_noughts() {
    let said = serve(&[
        "--address-connections=0",
        "--address-requests-per-second=0",
        "--address-registrations=0",
        "--address-upload-mib=0",
    ]);
    let addresses = AddressLimits::from(said.addresses);
    assert_eq!(format!("{addresses:?}"), format!("{:?}", AddressLimits::none()));
}

#[test]
fn limits_that_cannot_be_are_refused() {
    for argument in [
        "--trusted-proxy=10.0.0.0/33",
        "--trusted-proxy=proxy",
        "--address-registration-seconds=0",
        "--drain-pair-burst=0",
        "--drain-device-seconds=0",
        "--message-days=31",
        "--message-days=0",
        "--attachment-days=367",
        "--session-minutes=1",
        "--postgres-connections=1",
    ] {
        let error = Cli::try_parse_from(["larder", "serve", argument]).unwrap_err();
        assert_eq!(
            error.kind(),
            clap::error::ErrorKind::ValueValidation,
            "{argument}"
        );
    }
}
