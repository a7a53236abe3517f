/// zstd's default: on group states it halves the size in a fraction of what the signatures take.
const ZSTD_LEVEL: i32 = 3;

/// Compresses a public state or a ratchet tree to be stored; `None` when zstd fails.
pub fn compress(bytes: &[u8]) -> Option<Vec<u8>> {
    zstd::bulk::compress(bytes, ZSTD_LEVEL).ok()
}

/// Decompresses what [`compress`] made of at most `most` bytes; `None` for anything else.
pub fn decompress(compressed: &[u8], most: usize) -> Option<Vec<u8>> {
    zstd::bulk::Decompressor::upper_bound(compressed)
        .filter(|size| *size <= most)
        .and_then(|size| zstd::bulk::decompress(compressed, size).ok())
}
