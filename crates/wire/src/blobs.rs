use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::bytes::{MalformedBytes, parse};

/// A blob id, in bytes.
const BLOB_ID_BYTES: usize = 32;

/// Names a blob: 32 random bytes that the server chose. Whoever knows them may fetch it, so `Debug` hides them.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct BlobId([u8; BLOB_ID_BYTES]);

impl BlobId {
    /// Takes raw bytes.
    pub fn from_bytes(bytes: [u8; BLOB_ID_BYTES]) -> Self {
        Self(bytes)
    }

    /// The raw bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BlobId(..)")
    }
}

impl fmt::Display for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl FromStr for BlobId {
    type Err = MalformedBytes;

    fn from_str(text: &str) -> Result<Self, MalformedBytes> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| MalformedBytes)?;
        bytes.try_into().map(Self).map_err(|_| MalformedBytes)
    }
}

impl Serialize for BlobId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for BlobId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parse(deserializer)
    }
}

/// The answer to `POST /v1/blobs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BlobStored {
    /// What to fetch it by.
    pub blob_id: BlobId,
    /// When it is removed, in Unix seconds.
    pub expires_at: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_id_round_trips_through_json_and_hides_in_debug() {
        let stored = BlobStored {
            blob_id: BlobId::from_bytes([0xfb; 32]),
            expires_at: 9,
        };
        let json = serde_json::to_string(&stored).unwrap();
        assert!(json.contains("-_v7"), "{json}");
        assert_eq!(serde_json::from_str::<BlobStored>(&json).unwrap(), stored);
        assert_eq!(
            format!("{stored:?}"),
            "BlobStored { blob_id: BlobId(..), expires_at: 9 }"
        );
    }

    #[test]
    fn a_blob_id_has_its_length() {
        for length in [0, 31, 33] {
            let text = URL_SAFE_NO_PAD.encode(vec![1; length]);
            assert_eq!(text.parse::<BlobId>(), Err(MalformedBytes), "{length}");
        }
    }
}
