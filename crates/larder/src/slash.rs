//! Slash commands: what can be typed, what it means, and what to suggest while it is typed.

use std::path::PathBuf;

use larder_client::UserName;
use larder_client::text::folded;

/// A command that was typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Slash {
    New(String),
    Invite(Vec<UserName>),
    Remove(UserName),
    Leave,
    Members,
    /// `None` shows, the others mark.
    Verify(UserName, Option<bool>),
    /// The same with devices that are not believed; whether the person has compared.
    NewIdentity(UserName, bool),
    Pool,
    Rename(String),
    Group(String),
    Search(String),
    Retry,
    Accept,
    Decline,
    Block(UserName),
    Trust(UserName),
    Mute,
    Edit,
    Copy,
    Attach(PathBuf),
    Save(Option<PathBuf>),
    Help,
    Quit,
}

/// What follows a command's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Takes {
    Nothing,
    Text(&'static str),
    User,
    UserAndAnswer,
    Users,
    Group,
    File,
    FileIfAny,
}

/// A command that there is.
#[derive(Debug)]
struct Spec {
    name: &'static str,
    takes: Takes,
    help: &'static str,
}

const fn spec(name: &'static str, takes: Takes, help: &'static str) -> Spec {
    Spec { name, takes, help }
}

const SPECS: &[Spec] = &[
    spec(
        "accept",
        Takes::Nothing,
        "join the conversation you were invited to",
    ),
    spec("attach", Takes::File, "send a file"),
    spec("block", Takes::User, "they can no longer find or invite you"),
    spec(
        "copy",
        Takes::Nothing,
        "copy the message pointed at, or the last one",
    ),
    spec("decline", Takes::Nothing, "refuse an invitation, and forget it"),
    spec("edit", Takes::Nothing, "write in $EDITOR"),
    spec("group", Takes::Group, "go to a group"),
    spec("help", Takes::Nothing, "commands and keys"),
    spec("invite", Takes::Users, "add users to this group, all or none"),
    spec("leave", Takes::Nothing, "leave this group"),
    spec("members", Takes::Nothing, "who is in this group"),
    spec("mute", Takes::Nothing, "no bell for this group, or again"),
    spec("new", Takes::Text("NAME"), "create a group"),
    spec("pool", Takes::Nothing, "the keys by which others can invite you"),
    spec("quit", Takes::Nothing, "end"),
    spec("remove", Takes::User, "remove a user from this group"),
    spec("rename", Takes::Text("NAME"), "give this group another name"),
    spec("retry", Takes::Nothing, "send again what could not be sent"),
    spec("save", Takes::FileIfAny, "store the attachment pointed at"),
    spec("search", Takes::Text("TEXT"), "find messages"),
    spec("trust", Takes::User, "a user who is new or missing is so rightly"),
    spec(
        "verify",
        Takes::UserAndAnswer,
        "compare safety numbers; then yes or no",
    ),
];

impl Takes {
    fn usage(self) -> &'static str {
        match self {
            Self::Nothing => "",
            Self::Text(what) => what,
            Self::User => "USER",
            Self::UserAndAnswer => "USER [yes|no|new]",
            Self::Users => "USER…",
            Self::Group => "GROUP",
            Self::File => "FILE",
            Self::FileIfAny => "[FILE]",
        }
    }
}

/// Every command with its arguments and what it does, for the help.
pub(crate) fn all() -> impl Iterator<Item = (String, &'static str)> {
    SPECS.iter().map(|spec| (usage(spec), spec.help))
}

fn usage(spec: &Spec) -> String {
    format!("/{} {}", spec.name, spec.takes.usage())
        .trim_end()
        .to_owned()
}

/// What a text that was entered is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entered {
    /// To be sent.
    Text(String),
    /// To be done.
    Slash(Slash),
    /// A command that cannot be understood, and why.
    Mistake(String),
}

/// Reads what was entered. A text that begins with two slashes is sent with one.
pub(crate) fn read(text: &str) -> Entered {
    let text = text.trim_end();
    let Some(line) = text.strip_prefix('/').filter(|_| !text.contains('\n')) else {
        return Entered::Text(text.to_owned());
    };
    if line.starts_with('/') {
        return Entered::Text(line.to_owned());
    }
    let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let mut matching = SPECS.iter().filter(|spec| spec.name.starts_with(name));
    let exact = SPECS.iter().find(|spec| spec.name == name);
    let spec = match (exact, matching.next(), matching.next()) {
        (Some(spec), _, _) | (None, Some(spec), None) if !name.is_empty() => spec,
        _ => return Entered::Mistake(format!("there is no /{name}; /help lists what there is")),
    };
    match parse(spec, rest.trim()) {
        Ok(slash) => Entered::Slash(slash),
        Err(why) => Entered::Mistake(why),
    }
}

fn parse(spec: &Spec, rest: &str) -> Result<Slash, String> {
    let wrong = || Err(format!("usage: {}", usage(spec)));
    let is_empty = rest.is_empty();
    let fits = match spec.takes {
        Takes::Nothing => is_empty,
        Takes::FileIfAny => true,
        Takes::User => !is_empty && !rest.contains(char::is_whitespace),
        Takes::Text(_) | Takes::UserAndAnswer | Takes::Users | Takes::Group | Takes::File => !is_empty,
    };
    if !fits {
        return wrong();
    }
    let text = rest.to_owned();
    Ok(match spec.name {
        "accept" => Slash::Accept,
        "attach" => Slash::Attach(expanded(rest)),
        "block" => Slash::Block(user(rest)?),
        "trust" => Slash::Trust(user(rest)?),
        "copy" => Slash::Copy,
        "decline" => Slash::Decline,
        "edit" => Slash::Edit,
        "group" => Slash::Group(text),
        "help" => Slash::Help,
        "invite" => Slash::Invite(rest.split_whitespace().map(user).collect::<Result<_, _>>()?),
        "leave" => Slash::Leave,
        "members" => Slash::Members,
        "mute" => Slash::Mute,
        "new" => Slash::New(text),
        "pool" => Slash::Pool,
        "quit" => Slash::Quit,
        "remove" => Slash::Remove(user(rest)?),
        "rename" => Slash::Rename(text),
        "retry" => Slash::Retry,
        "save" => Slash::Save((!is_empty).then(|| expanded(rest))),
        "search" => Slash::Search(text),
        "verify" => match rest.split_whitespace().collect::<Vec<_>>().as_slice() {
            [name] => Slash::Verify(user(name)?, None),
            [name, "yes"] => Slash::Verify(user(name)?, Some(true)),
            [name, "no"] => Slash::Verify(user(name)?, Some(false)),
            [name, "new"] => Slash::NewIdentity(user(name)?, false),
            [name, "new", "yes"] => Slash::NewIdentity(user(name)?, true),
            _ => return wrong(),
        },
        _ => return wrong(),
    })
}

fn user(name: &str) -> Result<UserName, String> {
    name.parse().map_err(|error| format!("{name}: {error}"))
}

/// A file as a shell would find it: `~/` is the home directory.
fn expanded(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), etcetera::home_dir()) {
        (Some(rest), Ok(home)) => home.join(rest),
        (Some(_) | None, _) => PathBuf::from(path),
    }
}

/// Something that could be meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Suggestion {
    /// What would be typed.
    pub(crate) text: String,
    /// What it is.
    pub(crate) help: String,
}

/// What can be named in a command.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Names<'a> {
    pub(crate) groups: &'a [String],
    /// The members of the open group, others first.
    pub(crate) members: &'a [String],
}

/// What the text could become. Empty where nothing is to be suggested.
pub(crate) fn suggest(text: &str, names: Names<'_>) -> Vec<Suggestion> {
    let Some(line) = text.strip_prefix('/') else {
        return Vec::new();
    };
    if line.starts_with('/') || text.contains('\n') {
        return Vec::new();
    }
    let Some((name, rest)) = line.split_once(' ') else {
        return SPECS
            .iter()
            .filter(|spec| spec.name.starts_with(line))
            .map(|spec| Suggestion {
                // Where something can follow, it can be typed at once.
                text: match spec.takes == Takes::Nothing {
                    true => format!("/{}", spec.name),
                    false => format!("/{} ", spec.name),
                },
                help: format!("{:<8} {}", spec.takes.usage(), spec.help),
            })
            .collect();
    };
    let Some(spec) = SPECS.iter().find(|spec| spec.name == name) else {
        return Vec::new();
    };
    let known = match spec.takes {
        Takes::Group => names.groups,
        Takes::User | Takes::UserAndAnswer => names.members,
        Takes::Nothing | Takes::Text(_) | Takes::Users | Takes::File | Takes::FileIfAny => return Vec::new(),
    };
    let typed = folded(rest);
    known
        .iter()
        .filter(|known| folded(known).starts_with(&typed) && **known != rest)
        .map(|known| Suggestion {
            text: format!("/{name} {known}"),
            help: String::new(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: Names<'static> = Names {
        groups: &[],
        members: &[],
    };

    fn slash(text: &str) -> Slash {
        match read(text) {
            Entered::Slash(slash) => slash,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn every_command_of_the_list_is_understood() {
        for spec in SPECS {
            let text = match spec.takes == Takes::Nothing {
                true => "",
                false => "word",
            };
            slash(&format!("/{} {text}", spec.name));
        }
        assert!(SPECS.is_sorted_by_key(|spec| spec.name));
    }

    #[test]
    fn commands_take_what_they_say() {
        assert_eq!(
            slash("/new a room of one's own "),
            Slash::New("a room of one's own".to_owned())
        );
        assert_eq!(
            slash("/invite bob  carol"),
            Slash::Invite(vec!["bob".parse().unwrap(), "carol".parse().unwrap()])
        );
        assert_eq!(
            slash("/verify bob yes"),
            Slash::Verify("bob".parse().unwrap(), Some(true))
        );
        for (line, compared) in [("/verify bob new", false), ("/verify bob new yes", true)] {
            assert_eq!(slash(line), Slash::NewIdentity("bob".parse().unwrap(), compared));
        }
        assert_eq!(slash("/q"), Slash::Quit);
        assert_eq!(slash("/rem bob"), Slash::Remove("bob".parse().unwrap()));
        for mistake in [
            "/",
            "/re x",
            "/nonsense",
            "/new",
            "/leave now",
            "/remove a b",
            "/invite Bob!",
        ] {
            assert!(matches!(read(mistake), Entered::Mistake(_)), "{mistake}");
        }
    }

    #[test]
    fn text_is_text_whatever_it_holds() {
        for text in ["hello", "a /quit", "/quit\nand more", " /quit"] {
            assert_eq!(read(text), Entered::Text(text.to_owned()));
        }
        assert_eq!(read("//quit"), Entered::Text("/quit".to_owned()));
    }

    #[test]
    fn what_is_typed_is_suggested_to_its_end() {
        let texts = |text, names| -> Vec<String> {
            suggest(text, names)
                .into_iter()
                .map(|suggestion| suggestion.text)
                .collect()
        };
        assert_eq!(texts("/", NAMES).len(), SPECS.len());
        assert_eq!(texts("/re", NAMES), ["/remove ", "/rename ", "/retry"]);
        assert!(texts("hello", NAMES).is_empty() && texts("//re", NAMES).is_empty());
        let names = Names {
            groups: &["Kitchen".to_owned(), "garden".to_owned(), "Straße".to_owned()],
            members: &["bob".to_owned(), "carol".to_owned()],
        };
        assert_eq!(texts("/group k", names), ["/group Kitchen"]);
        assert_eq!(texts("/group STRASS", names), ["/group Straße"]);
        assert_eq!(texts("/verify ", names), ["/verify bob", "/verify carol"]);
        assert!(texts("/verify bob", names).is_empty());
    }
}
