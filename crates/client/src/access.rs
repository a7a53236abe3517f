//! How a server may be talked to.

use std::fmt;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::error::Error;

/// The certificates of a file are this large together at most, in bytes.
const PEM_BYTES_MAX: usize = 1024 * 1024;

/// How a server may be talked to, as a person has decided. A profile remembers it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// Whether HTTP without TLS will do beyond this machine. Whoever is on the way sees the tokens of
    /// sessions then, and who talks to whom.
    pub insecure_http: bool,
    /// Who may vouch for the server beside those whom the system trusts. `None` says nothing: what is
    /// remembered holds.
    pub authorities: Option<Authorities>,
}

/// Certificates of authorities: at least one.
#[derive(Clone, PartialEq, Eq)]
pub struct Authorities(Vec<Vec<u8>>);

impl Authorities {
    /// Reads a file of one certificate or more, in PEM. Whatever else is in it is not looked at.
    ///
    /// # Errors
    /// [`Error::InvalidAuthorities`]: there is none in it, or one that cannot be an authority's.
    pub fn from_pem(pem: &[u8]) -> Result<Self, Error> {
        if pem.len() > PEM_BYTES_MAX {
            return Err(Error::InvalidAuthorities);
        }
        let mut certificates = Vec::new();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            certificates.push(certificate.map_err(|_| Error::InvalidAuthorities)?.to_vec());
        }
        Self::from_der(certificates)
    }

    /// Takes certificates in DER.
    pub(crate) fn from_der(certificates: Vec<Vec<u8>>) -> Result<Self, Error> {
        let mut store = RootCertStore::empty();
        for certificate in &certificates {
            store
                .add(CertificateDer::from_slice(certificate))
                .map_err(|_| Error::InvalidAuthorities)?;
        }
        match certificates.is_empty() {
            true => Err(Error::InvalidAuthorities),
            false => Ok(Self(certificates)),
        }
    }

    /// The certificates, in DER.
    pub(crate) fn certificates(&self) -> &[Vec<u8>] {
        &self.0
    }
}

impl fmt::Debug for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authorities({})", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_no_certificate_is_not_an_authority() {
        let key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        let damaged = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let cut = "-----BEGIN CERTIFICATE-----\nAAAA\n";
        for bad in ["", "nonsense", key, damaged, cut, "\u{0}\u{1}"] {
            let read = Authorities::from_pem(bad.as_bytes());
            assert!(
                matches!(read, Err(Error::InvalidAuthorities)),
                "{bad:?}: {read:?}"
            );
        }
        assert!(Authorities::from_pem(&vec![b' '; PEM_BYTES_MAX + 1]).is_err());
    }
}
