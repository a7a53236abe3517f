//! The manual: a page for each command, from the command line's definition, and one for the output with `--json`, from its
//! schema.

use std::io;

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, italic, roman};

use crate::cli::{AFTER_HELP, Cli};
use crate::schema;

/// The page of the output with `--json`.
const JSON_PAGE: &str = "larder-json.5";

/// A page of the manual.
#[derive(Debug)]
pub(crate) struct Page {
    /// Its file's name.
    pub(crate) name: String,
    pub(crate) text: String,
}

impl Page {
    /// The section of the manual that it belongs to.
    pub(crate) fn section(&self) -> &str {
        self.name.rsplit_once('.').map_or("1", |(_, section)| section)
    }
}

/// The page of one command: of `larder` itself, if none is named.
pub(crate) fn page(names: &[String]) -> io::Result<Option<Page>> {
    let program = program();
    let mut command = &program;
    for name in names {
        match command.find_subcommand(name) {
            Some(below) => command = below,
            None => return Ok(None),
        }
    }
    of_command(command, names.is_empty()).map(Some)
}

/// Every page.
pub(crate) fn pages() -> io::Result<Vec<Page>> {
    let mut pages = Vec::new();
    let program = program();
    let mut waiting = vec![&program];
    while let Some(command) = waiting.pop() {
        pages.push(of_command(command, pages.is_empty())?);
        waiting.extend(command.get_subcommands().filter(|below| !below.is_hide_set()));
    }
    pages.push(of_output()?);
    Ok(pages)
}

fn program() -> Command {
    let mut program = Cli::command().disable_help_subcommand(true);
    program.build();
    program
}

fn of_command(command: &Command, is_program: bool) -> io::Result<Page> {
    let man = Man::new(command.clone()).source(source());
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if command.get_subcommands().any(|below| !below.is_hide_set()) {
        man.render_subcommands_section(&mut text)?;
    }
    let mut roff = Roff::new();
    if is_program {
        after_help(&mut roff);
    }
    roff.control("SH", ["SEE ALSO"]);
    roff.text(match is_program {
        true => references(&["larder-json(5)"]),
        false => references(&["larder(1)", "larder-json(5)"]),
    });
    roff.to_writer(&mut text)?;
    finished(man.get_filename(), text)
}

/// The sections that `--help` ends with, as they are set there.
fn after_help(roff: &mut Roff) {
    for paragraph in AFTER_HELP.split("\n\n") {
        match paragraph.split_once(":\n") {
            Some((heading, lines)) => {
                roff.control("SH", [heading.to_uppercase().as_str()]);
                roff.control("nf", []);
                for line in lines.lines() {
                    roff.text([roman(line.strip_prefix("  ").unwrap_or(line))]);
                }
                roff.control("fi", []);
            }
            None => {
                roff.control("SH", ["GROUPS"]);
                roff.text([roman(paragraph)]);
            }
        }
    }
}

fn of_output() -> io::Result<Page> {
    let schema = schema::schema();
    let mut roff = Roff::new();
    roff.control("TH", ["larder-json", "5", "", source().as_str(), ""]);
    roff.control("SH", ["NAME"]);
    roff.text([roman("larder-json - what larder prints with --json")]);
    roff.control("SH", ["DESCRIPTION"]);
    for line in [
        "With --json every line of the standard output is one JSON object. Its type says which; keys are never renamed, and \
         new ones may be added.",
        "Times are Unix seconds. The key row numbers the messages of a profile in the order of arrival and never repeats; \
         the key id of a message is the same on every device.",
        "A JSON Schema of it is what larder schema prints.",
    ] {
        roff.text([roman(line)]);
        roff.control("PP", []);
    }
    roff.control("SH", ["OBJECTS"]);
    for object in schema::objects(&schema) {
        roff.control("TP", []);
        roff.text([bold(object.name)]);
        roff.text([roman(object.description)]);
        for key in object.keys {
            roff.control("RS", []);
            roff.control("TP", []);
            roff.text([italic(key.name), roman(format!(" ({})", key.form))]);
            roff.text([roman(key.description)]);
            roff.control("RE", []);
        }
    }
    roff.control("SH", ["SEE ALSO"]);
    roff.text(references(&["larder(1)"]));
    finished(JSON_PAGE.to_owned(), roff.render().into_bytes())
}

fn references(pages: &[&str]) -> Vec<Inline> {
    vec![roman(pages.join(", "))]
}

fn source() -> String {
    format!("larder {}", env!("CARGO_PKG_VERSION"))
}

fn finished(name: String, text: Vec<u8>) -> io::Result<Page> {
    let text = String::from_utf8(text).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok(Page { name, text })
}
