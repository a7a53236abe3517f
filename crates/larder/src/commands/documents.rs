//! `config`, `completions`, `man` and `schema`: files that follow from what this program is.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::CommandFactory;
use clap_complete::Shell;

use super::Context;
use crate::cli::Cli;
use crate::failure::{Exit, Failure};
use crate::record::Record;
use crate::{config, manual, schema};

pub(super) fn config(context: &Context<'_>, path: bool) -> Result<ExitCode> {
    if !path {
        return document(context, "config.toml", config::document());
    }
    let path = config::path(&context.global)?;
    context.output.print(&[Record::ConfigPath {
        exists: path.exists(),
        path: path.display().to_string(),
    }])?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn completions(context: &Context<'_>, shell: Shell) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "larder", &mut script);
    document(context, &format!("larder.{shell}"), String::from_utf8(script)?)
}

pub(super) fn man(context: &Context<'_>, command: &[String], directory: Option<&Path>) -> Result<ExitCode> {
    let Some(directory) = directory else {
        let page = manual::page(command)?.ok_or_else(|| {
            let message = format!("there is no command {}", command.join(" "));
            Failure::new(Exit::Usage, "usage", message)
        })?;
        return document(context, &page.name, page.text);
    };
    for page in manual::pages()? {
        let directory = directory.join(format!("man{}", page.section()));
        fs::create_dir_all(&directory)
            .with_context(|| format!("the directory {} cannot be created", directory.display()))?;
        let file = directory.join(&page.name);
        fs::write(&file, page.text).with_context(|| format!("{} cannot be written", file.display()))?;
        context.output.print(&[Record::Written {
            file: file.display().to_string(),
        }])?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn schema(context: &Context<'_>) -> Result<ExitCode> {
    let schema = serde_json::to_string_pretty(&schema::schema())?;
    document(context, "output.schema.json", schema)
}

fn document(context: &Context<'_>, name: &str, text: String) -> Result<ExitCode> {
    context.output.print(&[Record::Document {
        name: name.to_owned(),
        text,
    }])?;
    Ok(ExitCode::SUCCESS)
}
