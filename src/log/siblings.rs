//! The names that a rotation gives to a log.

use std::{
    fs::Metadata,
    io,
    path::{Path, PathBuf},
};

/// The files at `path` and those beside it that a rotation may have made of them, except compressed ones.
pub fn find(path: &Path) -> io::Result<Vec<(PathBuf, Metadata)>> {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return Ok(vec![]) };
    let name = name.as_encoded_bytes();
    let mut found = Vec::new();
    for entry in folder.read_dir()? {
        let Ok(entry) = entry else { continue };
        let other = entry.file_name();
        let suffix = other.as_encoded_bytes().strip_prefix(name);
        if suffix.is_some_and(is_rotation) {
            // One that is renamed meanwhile must not hide the others.
            found.extend(entry.metadata().ok().map(|metadata| (entry.path(), metadata)));
        }
    }
    found.retain(|(_, metadata)| metadata.is_file());
    found.sort_by_key(|(_, metadata)| metadata.created().ok());
    Ok(found)
}

/// Whether a rotation may have added `suffix` to a name: nothing, `.1`, `-20261123`, but none of a compression.
fn is_rotation(suffix: &[u8]) -> bool {
    matches!(suffix, [] | [b'.' | b'-', ..]) && !is_compressed(suffix)
}

/// Whether a name ends as compressed files' do.
pub fn is_compressed(name: &[u8]) -> bool {
    [&b".gz"[..], b".xz", b".zst", b".bz2"].iter().any(|end| name.ends_with(end))
}
