//! Watching the artifacts' files: others in their places are wished for like by command.
//!
//! Polled, because what counts is the content: Kubernetes replaces all files of a mounted folder at once by renaming a link
//! above them, others write a file anew. A file is taken once two looks in a row have seen the same bytes, so that one
//! that is being written is not taken half-way; what is compiled is what was read, whatever becomes of the file. Files that
//! change together are one wish, and so one exchange; what was refused together comes again together.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::door::{Brought, Door, What, Wish};
use crate::problem::Problem;
use crate::transform::Artifact;

/// How often the files are looked at.
const EVERY: Duration = Duration::from_millis(250);
/// Until a file that could not be put in for a passing reason is tried again.
const AGAIN: Duration = Duration::from_secs(2);

/// What tells that a file may have changed without reading it.
type Stamp = (u64, u64, i64, i64);

/// A file, and what was seen of it.
#[derive(Default)]
struct Seen {
    path: PathBuf,
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

/// All files of a host, each at its place in the configuration.
struct Watched {
    files: Vec<Seen>,
    /// Places of files that were refused in one wish: one of them may be to blame for the others.
    refused: BTreeSet<usize>,
}

/// Watches files, whose contents at the start have these digests, for ever.
pub async fn watch(files: Vec<(PathBuf, String)>, door: Door) {
    let bytes = |digest: &str| {
        (0..digest.len() / 2).filter_map(|at| u8::from_str_radix(&digest[at * 2..at * 2 + 2], 16).ok()).collect()
    };
    let seen = |(path, known): (PathBuf, String)| Seen { path, known: bytes(&known), ..Seen::default() };
    let mut watched = Watched { files: files.into_iter().map(seen).collect(), refused: BTreeSet::new() };
    loop {
        tokio::time::sleep(EVERY).await;
        let looked = tokio::task::spawn_blocking(move || {
            let changed = watched.look();
            (watched, changed)
        });
        let changed;
        (watched, changed) = match looked.await {
            Ok(looked) => looked,
            Err(_) => return,
        };
        if !changed.is_empty() {
            watched.take(changed, &door).await;
        }
    }
}

impl Watched {
    /// The files that are others now, once none is being written: their places and all that they hold.
    fn look(&mut self) -> Vec<(usize, Vec<u8>)> {
        let looks: Vec<Look> = self.files.iter_mut().map(Seen::look_or_say).collect();
        if looks.iter().any(|look| matches!(look, Look::Changing)) {
            return Vec::new();
        }
        let mut changed: Vec<(usize, Vec<u8>)> = Vec::new();
        for (at, look) in looks.into_iter().enumerate() {
            if let Look::Changed(bytes) = look {
                changed.push((at, bytes));
            }
        }
        if changed.iter().any(|(at, _)| self.refused.contains(at)) {
            let is_there = |at: &usize| changed.iter().any(|(other, _)| other == at);
            let others: Vec<usize> = self.refused.iter().copied().filter(|at| !is_there(at)).collect();
            // One that cannot be read now stays behind.
            let again = others.into_iter().filter_map(|at| Some((at, Artifact::read(&self.files[at].path).ok()?)));
            changed.extend(again.collect::<Vec<_>>());
        }
        changed.iter().for_each(|(at, bytes)| self.files[*at].is_dealt_with(bytes));
        changed
    }

    async fn take(&mut self, changed: Vec<(usize, Vec<u8>)>, door: &Door) {
        let places: BTreeSet<usize> = changed.iter().map(|(at, _)| *at).collect();
        let brought = changed.into_iter().map(|(at, bytes)| {
            let path = &self.files[at].path;
            let name =
                path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into());
            Brought { name, bytes, pin: None, place: Some(at) }
        });
        let wish = Wish { when_fits: true, ..Wish::now(What::Files(brought.collect())) };
        let problems = door.wish(wish).await.err().unwrap_or_default();
        let is = |code: &str| problems.iter().any(|problem| problem.code() == code);
        if is(super::NOT_NOW) {
            // The next look finds them changed once more.
            for at in places {
                self.files[at].known.clear();
                self.files[at].stamp = None;
            }
            tokio::time::sleep(AGAIN).await;
        } else if problems.is_empty() || is(super::door::SUPERSEDED) {
            self.refused.retain(|at| !places.contains(at));
        } else if places.len() > 1 {
            self.refused.extend(places);
        }
    }
}

impl Seen {
    fn look_or_say(&mut self) -> Look {
        match self.look() {
            Ok(look) => {
                self.missing = false;
                look
            }
            Err(problem) => {
                if !std::mem::replace(&mut self.missing, true) {
                    tracing::warn!("the artifact's file is watched and cannot be read now: {problem}");
                }
                Look::Same
            }
        }
    }

    fn look(&mut self) -> Result<Look, Problem> {
        let of = |data: std::fs::Metadata| (data.ino(), data.size(), data.mtime(), data.mtime_nsec());
        let stamp = std::fs::metadata(&self.path).ok().map(of);
        if stamp.is_some() && stamp == self.stamp && self.fresh.is_none() {
            return Ok(Look::Same);
        }
        let bytes = Artifact::read(&self.path)?;
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
        Ok(Look::Changed(bytes))
    }

    fn is_dealt_with(&mut self, bytes: &[u8]) {
        self.fresh = None;
        self.known = Sha256::digest(bytes).to_vec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("falkirk-watch-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder can be made");
        folder
    }

    fn watched(files: &[(&Path, &str)]) -> Watched {
        let seen = |(path, known): &(&Path, &str)| Seen {
            path: path.to_path_buf(),
            known: Sha256::digest(known).to_vec(),
            ..Seen::default()
        };
        Watched { files: files.iter().map(seen).collect(), refused: BTreeSet::new() }
    }

    /// Places and contents of what is taken.
    fn taken(watched: &mut Watched) -> Vec<(usize, String)> {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("it is text");
        watched.look().into_iter().map(|(at, bytes)| (at, text(bytes))).collect()
    }

    fn write(path: &Path, text: &str) {
        std::fs::write(path, text).expect("a file can be written");
    }

    #[test]
    fn a_file_is_taken_once_it_was_seen_twice_and_never_while_it_is_being_written() {
        let folder = folder("twice");
        let path = folder.join("x.wasm");
        write(&path, "one");
        let mut watched = watched(&[(&path, "one")]);
        assert!(taken(&mut watched).is_empty(), "it is the one that runs");
        for part in ["t", "tw", "two"] {
            write(&path, part);
            assert!(taken(&mut watched).is_empty(), "it is being written");
        }
        assert_eq!(taken(&mut watched), [(0, "two".to_owned())]);
        assert!(taken(&mut watched).is_empty(), "once");
        std::fs::remove_dir_all(folder).expect("a folder can be removed");
    }

    #[test]
    fn files_behind_a_link_that_is_renamed_are_seen_at_once_as_kubernetes_replaces_them() {
        let folder = folder("link");
        for (version, content) in [("v1", "one"), ("v2", "two")] {
            std::fs::create_dir_all(folder.join(version)).expect("a folder can be made");
            write(&folder.join(version).join("x.wasm"), content);
            write(&folder.join(version).join("y.wasm"), &format!("{content} of y"));
            write(&folder.join(version).join("z.wasm"), "the same");
        }
        let link =
            |to: &str, name: &str| std::os::unix::fs::symlink(to, folder.join(name)).expect("a link can be made");
        link("v1", "..data");
        let [x, y, z] = ["x.wasm", "y.wasm", "z.wasm"].map(|name| {
            link(&format!("..data/{name}"), name);
            folder.join(name)
        });
        let mut watched = watched(&[(&x, "one"), (&y, "one of y"), (&z, "the same")]);
        assert!(taken(&mut watched).is_empty());
        link("v2", "..data_tmp");
        std::fs::rename(folder.join("..data_tmp"), folder.join("..data")).expect("a link can be renamed");
        assert!(taken(&mut watched).is_empty());
        assert_eq!(taken(&mut watched), [(0, "two".to_owned()), (1, "two of y".to_owned())]);
        std::fs::remove_dir_all(folder).expect("a folder can be removed");
    }

    #[test]
    fn a_file_that_has_changed_waits_for_one_that_is_being_written_and_not_for_one_that_is_gone() {
        let folder = folder("several");
        let [x, y] = ["x.wasm", "y.wasm"].map(|name| folder.join(name));
        write(&x, "one");
        write(&y, "one of y");
        let mut watched = watched(&[(&x, "one"), (&y, "one of y")]);
        write(&x, "two");
        assert!(taken(&mut watched).is_empty());
        write(&y, "two of");
        assert!(taken(&mut watched).is_empty(), "y has just changed");
        write(&y, "two of y");
        assert!(taken(&mut watched).is_empty(), "and once more");
        assert_eq!(taken(&mut watched), [(0, "two".to_owned()), (1, "two of y".to_owned())]);
        std::fs::remove_file(&y).expect("a file can be removed");
        write(&x, "three");
        assert!(taken(&mut watched).is_empty());
        assert_eq!(taken(&mut watched), [(0, "three".to_owned())]);
        std::fs::remove_dir_all(folder).expect("a folder can be removed");
    }

    #[tokio::test]
    async fn what_was_refused_together_comes_again_together_and_what_was_put_in_does_not() {
        let folder = folder("refused");
        let [x, y, z] = ["x.wasm", "y.wasm", "z.wasm"].map(|name| folder.join(name));
        let all = [&x, &y, &z];
        all.iter().for_each(|path| write(path, "one"));
        let mut watched = watched(&all.map(|path| (path.as_path(), "one")));
        let mut brings = async |changed: &[&PathBuf], refused: bool| {
            changed
                .iter()
                // Longer each time: a clock may stand still between two writes.
                .for_each(|path| {
                    write(path, &"more".repeat(1 + path.metadata().map_or(0, |data| data.len() as usize)))
                });
            assert!(watched.look().is_empty());
            let changed = watched.look();
            let places: Vec<usize> = changed.iter().map(|(at, _)| *at).collect();
            let door = Door::default();
            let answers = async {
                let job = door.next().await;
                job.answer.give(if refused { Err(vec![super::super::taken_back()]) } else { Ok(Default::default()) });
            };
            tokio::join!(watched.take(changed, &door), answers);
            places
        };
        assert_eq!(brings(&[&x, &y], true).await, [0, 1]);
        assert_eq!(brings(&[&z], true).await, [2], "it was not refused with the others");
        assert_eq!(brings(&[&x], false).await, [0, 1], "y is not in yet");
        assert_eq!(brings(&[&x], false).await, [0]);
        std::fs::remove_dir_all(folder).expect("a folder can be removed");
    }
}
