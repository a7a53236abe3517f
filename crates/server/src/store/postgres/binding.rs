//! Binds a login by SCRAM to the TLS connection that it is made on (RFC 5929 §4), so that nobody can pass it on.

use sha2::{Digest as _, Sha256, Sha384, Sha512};

const SEQUENCE: u8 = 0x30;
const OBJECT_IDENTIFIER: u8 = 0x06;

/// 1.2.840.113549.1.1: sha256WithRSAEncryption is 11 of it, then 384 and 512; for sha1WithRSAEncryption, which is 5, RFC 5929 takes
/// SHA-256.
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
/// 1.2.840.10045.4.3: ecdsa-with-SHA256 is 2 of it, then 384 and 512.
const ECDSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03];

/// `tls-server-end-point` of a certificate in DER: its hash, by the hash function that its signature uses. None if that is
/// one which says nothing about hashes (Ed25519, RSA-PSS).
pub(super) fn end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let (family, [last]) = signature_algorithm(certificate)?.split_last_chunk::<1>()?;
    Some(match (family, last) {
        (RSA, 5 | 11) | (ECDSA, 2) => Sha256::digest(certificate).to_vec(),
        (RSA, 12) | (ECDSA, 3) => Sha384::digest(certificate).to_vec(),
        (RSA, 13) | (ECDSA, 4) => Sha512::digest(certificate).to_vec(),
        _ => return None,
    })
}

/// The object identifier of the signature: `SEQUENCE { tbsCertificate, SEQUENCE { OBJECT IDENTIFIER, … }, … }`.
fn signature_algorithm(certificate: &[u8]) -> Option<&[u8]> {
    let (inner, _) = element(certificate, SEQUENCE)?;
    let (_, after) = element(inner, SEQUENCE)?;
    let (algorithm, _) = element(after, SEQUENCE)?;
    Some(element(algorithm, OBJECT_IDENTIFIER)?.0)
}

/// The content of the first element, which has this tag, and what comes after it.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<2>()?;
    if head[0] != tag {
        return None;
    }
    let (length, rest) = match head[1] {
        short @ 0..=0x7f => (usize::from(short), rest),
        long @ 0x81..=0x83 => {
            let (length, rest) = rest.split_at_checked(usize::from(long & 0x7f))?;
            (
                length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)),
                rest,
            )
        }
        // Without a length, or longer than any certificate.
        0x80 | 0x84.. => return None,
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;

    use super::*;

    #[test]
    fn a_certificate_is_hashed_as_its_signature_does() {
        let certificate = CertificateDer::from_pem_slice(larder_testkit::AUTHORITY.as_bytes()).unwrap();
        assert_eq!(
            end_point(&certificate),
            Some(Sha256::digest(&certificate).to_vec())
        );
        for end in 0..certificate.len() {
            // Cut short, it is none; and nothing panics.
            assert_eq!(end_point(&certificate[..end]), None);
        }
    }
}
