//! The chat on a whole screen.
//!
//! * `app` is everything that is on the screen, as values; `timeline` and `composer` are its larger parts, `keys` what can
//!   be pressed.
//! * `keyboard` is what is typed, before crossterm makes events of it.
//! * `view` draws it, in the colours of `theme`, on the `screen`.
//! * `engine` does what has to be done, in the order of its `queues`, and tells what happens: with its `panels` it alone knows
//!   the client.

mod app;
mod bench;
mod composer;
mod editor;
mod engine;
#[cfg(unix)]
mod keyboard;
#[cfg(not(unix))]
#[path = "without_keyboard.rs"]
mod keyboard;
mod keys;
#[cfg(feature = "notifications")]
mod notify;
#[cfg(not(feature = "notifications"))]
#[path = "without_notify.rs"]
mod notify;
mod panels;
mod queues;
mod screen;
mod theme;
mod timeline;
mod view;

pub(crate) use bench::frames;
pub(crate) use keys::{Keys, actions};
pub(crate) use screen::is_usable;

use std::time::Duration;

use anyhow::Result;
use crossterm::event::EventStream;
use futures_util::StreamExt;
use larder_client::{GroupKey, MlsConnection};
use tokio::sync::mpsc;

use self::app::{App, Effect, Update};
use self::engine::Engine;
use self::keyboard::Note;
use self::queues::Queues;
use self::screen::Screen;
use self::theme::Theme;
use crate::failure::{Exit, Failure};
use crate::shutdown::Shutdown;
use crate::{clock, logging};

/// Events that are taken together before the screen is drawn: a paste into a terminal that does not mark pastes is one
/// event for each letter.
const EVENTS_AT_ONCE: usize = 256;

/// How long what was entered last may take once the chat is left: a message is put into the profile at once, what waits for
/// the server may not come back.
const LEAVING: Duration = Duration::from_secs(5);

const NOT_TEXT: &str = "some of what was typed is not UTF-8 text: \u{fffd} stands for it";

/// How the interface is to be.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) keys: Keys,
    pub(crate) alert: Alert,
    /// Whether the list of groups is there at first.
    pub(crate) groups_shown: bool,
    /// What messages are written with, instead of `$VISUAL` or `$EDITOR`.
    pub(crate) editor: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            keys: Keys::default(),
            alert: Alert::default(),
            groups_shown: true,
            editor: None,
        }
    }
}

/// What is done when something arrives that nobody looks at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Alert {
    /// Ring the terminal's bell.
    pub(crate) bell: bool,
    /// Tell the desktop.
    pub(crate) notify: bool,
}

impl Default for Alert {
    fn default() -> Self {
        Self {
            bell: true,
            notify: false,
        }
    }
}

/// Shows the chat until the person ends it, or a signal does.
pub(crate) async fn chat(client: MlsConnection, group: Option<GroupKey>, settings: Settings) -> Result<()> {
    let mut shutdown = Shutdown::listen()?;
    let me = format!("{}/{}", client.me().user, client.me().device_id);
    let Settings {
        keys,
        alert,
        groups_shown,
        editor,
    } = settings;
    let mut app = App::new(me, keys, clock::day_and_minute);
    app.groups_shown = groups_shown;
    let (sender, mut updates) = mpsc::unbounded_channel();
    let queues = Engine::start(client, sender).await?;
    // What there is already comes before the first frame, so that nothing flickers.
    while let Ok(update) = updates.try_recv() {
        app.update(update);
    }
    if let Some(group) = group {
        app.update(Update::Open(group));
    }

    let held = logging::hold();
    let mut screen = Screen::take()?;
    let how = (alert, editor);
    let ended = run(&mut screen, &mut app, &mut updates, &queues, &mut shutdown, how).await;
    drop((screen, held));
    let unfinished = leave(queues, &mut updates).await;
    ended.and(unfinished)
}

/// Lets what was entered last be done. What is not is told: it is not on the screen any more.
async fn leave(queues: Queues, updates: &mut mpsc::UnboundedReceiver<Update>) -> Result<()> {
    let is_done = queues.finish(LEAVING).await;
    let (mut unsent, mut reason) = (0, String::new());
    while let Ok(update) = updates.try_recv() {
        if let Update::NotPosted { why, .. } = update {
            unsent += 1;
            reason = why;
        }
    }
    if unsent > 0 {
        let message = format!("what was written last was not sent ({unsent}): {reason}");
        return Err(Failure::new(Exit::Refused, "not-sent", message).into());
    }
    if !is_done {
        let message = "the chat ended before the command that was typed last was done; look what came of it";
        return Err(Failure::new(Exit::Unreachable, "not-finished", message).into());
    }
    Ok(())
}

/// Draws, and does what is typed, until the person ends it, a signal does, or the terminal is gone.
async fn run(
    screen: &mut Screen,
    app: &mut App,
    updates: &mut mpsc::UnboundedReceiver<Update>,
    queues: &Queues,
    shutdown: &mut Shutdown,
    (alert, editor): (Alert, Option<String>),
) -> Result<()> {
    let theme = Theme::of_environment();
    let mut events = EventStream::new();
    let mut unread = None;
    loop {
        // Drawing tells what is missing on the screen, and that is asked for as well.
        screen.draw(|frame| view::draw(frame, app, theme))?;
        let mut drawn = true;
        for effect in app.effects() {
            // What the terminal does changes what is on it.
            drawn &= !effect.is_of_terminal();
            match effect {
                Effect::Quit => return Ok(()),
                Effect::Edit(text) => {
                    // It would take the editor's keys.
                    drop(events);
                    let edited = screen.lend(|| editor::edit(editor.as_deref(), &text))?;
                    events = EventStream::new();
                    app.update(match edited {
                        Ok(text) => Update::Edited(text),
                        Err(error) => Update::Failed(format!("{error:#}")),
                    });
                }
                effect => carry_out(effect, app, screen, queues, alert)?,
            }
        }
        if !drawn {
            continue;
        }
        if unread != Some(app.groups.unread()) {
            unread = Some(app.groups.unread());
            screen.title(app.groups.unread())?;
        }
        tokio::select! {
            event = events.next() => match event {
                Some(event) => app.input(event?),
                // The terminal is gone.
                None => return Ok(()),
            },
            update = updates.recv() => match update {
                Some(update) => app.update(update),
                None => return Ok(()),
            },
            note = screen.note() => match note {
                Some(Note::NotText) => app.update(Update::Failed(NOT_TEXT.to_owned())),
                Some(Note::Gone) | None => return Ok(()),
            },
            () = shutdown.requested() => return Ok(()),
        }
        // What is there already is drawn together.
        for _ in 0..EVENTS_AT_ONCE {
            tokio::select! {
                biased;
                event = events.next() => match event {
                    Some(event) => app.input(event?),
                    None => return Ok(()),
                },
                Some(update) = updates.recv() => app.update(update),
                () = std::future::ready(()) => break,
            }
        }
    }
}

fn carry_out(
    effect: Effect,
    app: &mut App,
    screen: &mut Screen,
    queues: &Queues,
    alert: Alert,
) -> Result<()> {
    match effect {
        Effect::Copy(text) => {
            let text = match screen.copy(&text)? {
                true => "copied",
                false => "copied the beginning: it is too long for a terminal",
            };
            app.update(Update::Done(text.to_owned()));
        }
        Effect::Alert { group, count } => {
            if alert.bell {
                screen.ring()?;
            }
            if alert.notify {
                notify::tell(group, count);
            }
        }
        Effect::Redraw => screen.forget()?,
        Effect::Load { .. }
        | Effect::Post { .. }
        | Effect::MarkRead { .. }
        | Effect::Members(_)
        | Effect::Do { .. }
        | Effect::Save { .. }
        | Effect::Edit(_)
        | Effect::Quit => queues.push(effect),
    }
    Ok(())
}
