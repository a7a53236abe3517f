//! `export` and `import`.

use std::process::ExitCode;

use anyhow::Result;
use larder_client::{Error, MlsConnection, ProfileForm};

use super::Context;
use crate::backup::{self, For, Sealed};
use crate::cli::{Export, Import};
use crate::clock;
use crate::failure::{Exit, Failure};
use crate::record::Record;

pub(super) async fn export(context: &Context<'_>, options: Export) -> Result<ExitCode> {
    let client = context.open().await?;
    if options.file.exists() {
        let message = format!("{} exists already", options.file.display());
        return Err(Failure::new(Exit::Refused, "file-exists", message).into());
    }
    let secret_of = match options.recipients.is_empty() {
        false => For::Recipients(options.recipients),
        true => For::Passphrase(options.passphrase.new_one(options.weak_passphrase)?),
    };
    let image = client.export().await?;
    backup::write(&options.file, &image, secret_of)?;
    context.output.print(&[Record::Exported {
        file: options.file.display().to_string(),
        user: client.me().user.to_string(),
    }])?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn import(context: &Context<'_>, options: &Import) -> Result<ExitCode> {
    match MlsConnection::profile_form(&context.profile())? {
        ProfileForm::Missing => {}
        ProfileForm::Plain | ProfileForm::Encrypted => {
            let message = format!(
                "there is a profile {} already; --profile names another",
                context.global.profile
            );
            return Err(Failure::new(Exit::Refused, Error::ProfileExists.code(), message).into());
        }
    }
    let sealed = Sealed::open(&options.file)?;
    let image = match (&options.identity, sealed.takes_passphrase()) {
        (None, true) => sealed.with_passphrase(&options.passphrase.existing()?)?,
        (Some(identity), false) => sealed.with_identities(identity)?,
        (None, false) => {
            let message = "the backup was made for a recipient: --identity names the file with the identity";
            return Err(Failure::new(Exit::Usage, "identity-needed", message).into());
        }
        (Some(_), true) => {
            let message = "the backup was made with a passphrase, and --identity does not open it";
            return Err(Failure::new(Exit::Usage, "passphrase-needed", message).into());
        }
    };
    let key = context.sources().of_new(options.new)?;
    let (access, now) = (context.access()?, clock::system()());
    let me = MlsConnection::import(&context.profile(), key.as_ref(), &image, &access, now)?;
    context.output.print(&[Record::Imported {
        user: me.user.to_string(),
        device_id: me.device_id.to_string(),
        server: me.server,
        profile: context.global.profile.to_string(),
        encrypted: key.is_some(),
    }])?;
    Ok(ExitCode::SUCCESS)
}
