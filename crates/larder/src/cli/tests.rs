use clap::CommandFactory;

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
    assert!(matches!(cli.unwrap().command, Command::Serve(Serve { suites, .. }) if suites == [3, 1]));
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
