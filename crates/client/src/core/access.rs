//! What a person has decided about how the server may be talked to.

use larder_pool::Tx;
use rusqlite::Connection;

use crate::access::{Access, Authorities};
use crate::error::Error;

/// Remembers what was decided now, and returns what holds.
pub(crate) fn remember(tx: &Tx<'_>, decided: &Access) -> Result<Access, Error> {
    let connection = tx.connection();
    let mut access = remembered(connection)?;
    if decided.insecure_http && !access.insecure_http {
        connection.execute("UPDATE profile SET insecure_http = 1", [])?;
        access.insecure_http = true;
    }
    if decided.authorities.is_some() && decided.authorities != access.authorities {
        connection.execute("DELETE FROM authorities", [])?;
        for certificate in decided.authorities.iter().flat_map(Authorities::certificates) {
            connection.execute(
                "INSERT INTO authorities (certificate) VALUES (?1) ON CONFLICT DO NOTHING",
                [certificate],
            )?;
        }
        access.authorities.clone_from(&decided.authorities);
    }
    Ok(access)
}

fn remembered(connection: &Connection) -> Result<Access, Error> {
    let mut statement = connection.prepare("SELECT certificate FROM authorities ORDER BY certificate")?;
    let certificates: Vec<Vec<u8>> = statement
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    let authorities = match certificates.is_empty() {
        true => None,
        false => {
            let read = Authorities::from_der(certificates);
            Some(read.map_err(|_| Error::Corrupt("the certificate of an authority"))?)
        }
    };
    Ok(Access {
        insecure_http: connection.query_row("SELECT insecure_http FROM profile", [], |row| row.get(0))?,
        authorities,
    })
}
