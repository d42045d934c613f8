//! Watching the artifact's file: another one in its place is wished for like by command.
//!
//! Polled, because what counts is the content: Kubernetes replaces a mounted file by renaming a link in a folder above
//! it, others write the file anew. A file is taken once two looks in a row have seen the same bytes, so that one that
//! is being written is not taken half-way; what is compiled is what was read, whatever becomes of the file.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::door::{Door, What, Wish};
use crate::problem::Problem;
use crate::transform::Artifact;

/// How often the file is looked at.
const EVERY: Duration = Duration::from_millis(250);
/// Until a file that could not be put in for a passing reason is tried again.
const AGAIN: Duration = Duration::from_secs(2);

/// What tells that a file may have changed without reading it.
type Stamp = (u64, u64, i64, i64);

/// What was seen of the file.
#[derive(Default)]
struct Seen {
    stamp: Option<Stamp>,
    /// Digest of the content that was dealt with last.
    known: Vec<u8>,
    /// Digest of the content at the last look, if that was another one.
    fresh: Option<Vec<u8>>,
    /// It could not be read at the last look, and that was said.
    missing: bool,
}

enum Look {
    Same,
    /// It has just changed: look again before taking it.
    Changing,
    Changed(Vec<u8>),
}

/// Watches `file`, whose content at the start has the digest `known`, for ever.
pub async fn watch(file: PathBuf, known: String, door: Door) {
    let known = (0..known.len() / 2).filter_map(|at| u8::from_str_radix(&known[at * 2..at * 2 + 2], 16).ok()).collect();
    let mut seen = Seen { known, ..Seen::default() };
    loop {
        tokio::time::sleep(EVERY).await;
        let path = file.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let look = seen.look(&path);
            (seen, look)
        });
        let look;
        (seen, look) = match looked.await {
            Ok(looked) => looked,
            Err(_) => return,
        };
        match look {
            Ok(Look::Same | Look::Changing) => seen.missing = false,
            Ok(Look::Changed(bytes)) => take(&file, bytes, &door, &mut seen).await,
            Err(problem) if !seen.missing => {
                tracing::warn!("the artifact's file is watched and cannot be read now: {problem}");
                seen.missing = true;
            }
            Err(_) => {}
        }
    }
}

async fn take(file: &Path, bytes: Vec<u8>, door: &Door, seen: &mut Seen) {
    let name = file.file_name().map_or_else(|| file.display().to_string(), |name| name.to_string_lossy().into());
    let wish = Wish { when_fits: true, ..Wish::now(What::Bytes { name, bytes, pin: None }) };
    let Err(problems) = door.wish(wish).await else { return };
    if problems.iter().any(|problem| problem.code() == super::NOT_NOW) {
        // The next look finds it changed once more.
        seen.known.clear();
        seen.stamp = None;
        tokio::time::sleep(AGAIN).await;
    }
}

impl Seen {
    fn look(&mut self, path: &Path) -> Result<Look, Problem> {
        let stamp = std::fs::metadata(path).ok().map(|data| (data.ino(), data.size(), data.mtime(), data.mtime_nsec()));
        if stamp.is_some() && stamp == self.stamp && self.fresh.is_none() {
            return Ok(Look::Same);
        }
        let bytes = Artifact::read(path)?;
        self.stamp = stamp;
        let digest = Sha256::digest(&bytes).to_vec();
        if digest == self.known {
            self.fresh = None;
            return Ok(Look::Same);
        }
        if self.fresh.as_ref() != Some(&digest) {
            self.fresh = Some(digest);
            return Ok(Look::Changing);
        }
        self.fresh = None;
        self.known = digest;
        Ok(Look::Changed(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("falkirk-watch-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder can be made");
        folder
    }

    fn changed(seen: &mut Seen, path: &Path) -> Option<Vec<u8>> {
        match seen.look(path) {
            Ok(Look::Changed(bytes)) => Some(bytes),
            _ => None,
        }
    }

    #[test]
    fn a_file_is_taken_once_it_was_seen_twice_and_never_while_it_is_being_written() {
        let folder = folder("twice");
        let path = folder.join("x.wasm");
        std::fs::write(&path, "one").expect("a file can be written");
        let mut seen = Seen { known: Sha256::digest("one").to_vec(), ..Seen::default() };
        assert_eq!(changed(&mut seen, &path), None, "it is the one that runs");
        for part in ["t", "tw", "two"] {
            std::fs::write(&path, part).expect("a file can be written");
            assert_eq!(changed(&mut seen, &path), None, "it is being written");
        }
        assert_eq!(changed(&mut seen, &path).as_deref(), Some(&b"two"[..]));
        assert_eq!(changed(&mut seen, &path), None, "once");
        std::fs::remove_dir_all(folder).expect("a folder can be removed");
    }

    #[test]
    fn a_file_behind_a_link_that_is_renamed_is_seen_as_kubernetes_replaces_it() {
        let folder = folder("link");
        for (version, content) in [("v1", "one"), ("v2", "two")] {
            std::fs::create_dir_all(folder.join(version)).expect("a folder can be made");
            std::fs::write(folder.join(version).join("x.wasm"), content).expect("a file can be written");
        }
        let link =
            |to: &str, name: &str| std::os::unix::fs::symlink(to, folder.join(name)).expect("a link can be made");
        link("v1", "..data");
        link("..data/x.wasm", "x.wasm");
        let path = folder.join("x.wasm");
        let mut seen = Seen { known: Sha256::digest("one").to_vec(), ..Seen::default() };
        assert_eq!(changed(&mut seen, &path), None);
        link("v2", "..data_tmp");
        std::fs::rename(folder.join("..data_tmp"), folder.join("..data")).expect("a link can be renamed");
        assert_eq!(changed(&mut seen, &path), None);
        assert_eq!(changed(&mut seen, &path).as_deref(), Some(&b"two"[..]));
        std::fs::remove_dir_all(folder).expect("a folder can be removed");
    }
}
