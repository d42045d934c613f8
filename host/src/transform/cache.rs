//! Compiled code, kept for the next start.
//!
//! Native code cannot be checked, only recognized: every file carries a code of authentication (HMAC-SHA256) under a key
//! that lies in the same private folder and that no other host has. It is verified over the bytes in memory that are
//! then loaded. What it covers beside the code names the artifact's digest, the engine's version and all of its
//! configuration, so that a file under another name, of another host or of another release is not taken.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::hash::{Hash, Hasher};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use wasmtime::Engine;

use super::artifact::hex;
use super::trusted::Code;

const KEY_BYTES: usize = 32;
const MAC_BYTES: usize = 32;
/// The largest file that is read.
const FILE_LIMIT_BYTES: u64 = (256 << 20) + MAC_BYTES as u64;
/// So many files stay; the one that was not used for longest goes first.
const KEPT: usize = 16;
const SUFFIX: &str = "code";

/// The place of one artifact's code.
pub(super) struct Cache {
    folder: PathBuf,
    key: [u8; KEY_BYTES],
    /// Digest of everything that the code depends on.
    subject: [u8; 32],
}

/// What lies there.
pub(super) enum Found {
    Nothing,
    /// Something that this host did not put there, or not like this.
    Foreign,
    Code(Code),
}

impl Cache {
    /// Opens the folder, and makes it with its key if it is not there. Refuses one that others can read or write.
    pub(super) fn open(folder: &Path, engine: &Engine, digest: &str) -> Result<Self, String> {
        let said = |error: std::io::Error| error.to_string();
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(said)?;
        let own = fs::symlink_metadata(folder).map_err(said)?;
        if !own.is_dir() || !is_private(&own) {
            return Err("it must be a folder of this user that nobody else may enter: chmod 700".to_owned());
        }
        let key = key(folder)?;
        let mut subject = Subject(Sha256::new());
        engine.precompile_compatibility_hash().hash(&mut subject);
        (env!("CARGO_PKG_VERSION"), digest).hash(&mut subject);
        Ok(Cache { folder: folder.to_owned(), key, subject: subject.0.finalize().into() })
    }

    fn file(&self) -> PathBuf {
        self.folder.join(format!("{}.{SUFFIX}", hex(&self.subject[..16])))
    }

    fn mac(&self, code: &[u8]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("cannot happen: HMAC takes keys of any length");
        mac.update(&self.subject);
        mac.update(code);
        mac
    }

    /// What lies at the place.
    pub(super) fn find(&self) -> Found {
        let mut bytes = Vec::new();
        let Ok(file) = File::open(self.file()) else { return Found::Nothing };
        let read = (&file).take(FILE_LIMIT_BYTES + 1).read_to_end(&mut bytes);
        if read.is_err() || bytes.len() < MAC_BYTES || bytes.len() as u64 > FILE_LIMIT_BYTES {
            return Found::Foreign;
        }
        let code = bytes.split_off(MAC_BYTES);
        // L10: what is loaded are these very bytes, not the file, which may be another one by then.
        if self.mac(&code).verify_slice(&bytes).is_err() {
            return Found::Foreign;
        }
        // Used just now; that this cannot be noted shortens its stay and nothing else.
        let _ = file.set_modified(SystemTime::now());
        Found::Code(Code::vouched(code))
    }

    /// Keeps code at the place: whole or not at all.
    pub(super) fn keep(&self, code: &Code) -> std::io::Result<()> {
        let mac = self.mac(code.bytes()).finalize().into_bytes();
        let place = self.file();
        written(
            &place.with_extension(format!("{}.part", std::process::id())),
            &[mac.as_slice(), code.bytes()],
            |part| fs::rename(part, &place),
        )?;
        self.make_room()
    }

    fn make_room(&self) -> std::io::Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|suffix| suffix == SUFFIX) {
                // Another process may have removed it.
                let used = fs::metadata(&path).and_then(|file| file.modified());
                files.extend(used.ok().map(|used| (used, path)));
            }
        }
        files.sort();
        let surplus = files.len().saturating_sub(KEPT);
        files.iter().take(surplus).try_for_each(|(_, path)| fs::remove_file(path))
    }
}

/// Takes whatever is hashed into a digest. The length of what is written is part of it, so that no two cuts meet.
struct Subject(Sha256);

impl Hasher for Subject {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        // Nothing here is asked for 64 bits.
        0
    }
}

fn is_private(file: &fs::Metadata) -> bool {
    file.uid() == nix::unistd::geteuid().as_raw() && file.mode() & 0o077 == 0
}

/// Writes a file that nobody else may read, and hands it to `place`; nothing of it is left afterwards.
fn written(part: &Path, pieces: &[&[u8]], place: impl Fn(&Path) -> std::io::Result<()>) -> std::io::Result<()> {
    // One that another process of the same number left behind, long ago.
    let _ = fs::remove_file(part);
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(part);
    let filled = file.and_then(|mut file| pieces.iter().try_for_each(|piece| file.write_all(piece)));
    let placed = filled.and_then(|()| place(part));
    let _ = fs::remove_file(part);
    placed
}

/// The host's own key; made if there is none.
fn key(folder: &Path) -> Result<[u8; KEY_BYTES], String> {
    let path = folder.join("key");
    if fs::symlink_metadata(&path).is_err() {
        let mut fresh = [0; KEY_BYTES];
        getrandom::fill(&mut fresh).map_err(|error| error.to_string())?;
        // A link, not a renaming: if two hosts start at once, the key of the first one counts.
        let made = written(&folder.join(format!("key.{}.part", std::process::id())), &[&fresh], |part| {
            fs::hard_link(part, &path)
        });
        if let Err(error) = made.or_else(|error| if path.exists() { Ok(()) } else { Err(error) }) {
            return Err(format!("its key cannot be written: {error}"));
        }
    }
    let own = fs::symlink_metadata(&path).map_err(|error| error.to_string())?;
    if !own.is_file() || !is_private(&own) {
        return Err("its key must be a file of this user that nobody else may read".to_owned());
    }
    let bytes = fs::read(&path).map_err(|error| error.to_string())?;
    bytes
        .try_into()
        .map_err(|_| format!("its key does not have {KEY_BYTES} bytes: remove the file, and it is made anew"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn engine(epochs: bool, nan: bool) -> Engine {
        let mut config = wasmtime::Config::new();
        config.gc_support(false).epoch_interruption(epochs).cranelift_nan_canonicalization(nan);
        Engine::new(&config).unwrap()
    }

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
        folder
    }

    fn code(engine: &Engine) -> Code {
        Code::vouched(engine.precompile_component(&wat::parse_str("(component)").unwrap()).unwrap())
    }

    fn is_foreign(cache: &Cache) -> bool {
        matches!(cache.find(), Found::Foreign)
    }

    #[test]
    fn l10_code_in_the_cache_is_taken_as_it_was_put_there_and_with_any_byte_changed_not_at_all() {
        let (folder, engine) = (folder(), engine(true, true));
        let cache = Cache::open(folder.path(), &engine, "a").unwrap();
        assert!(matches!(cache.find(), Found::Nothing));
        cache.keep(&code(&engine)).unwrap();
        let again = Cache::open(folder.path(), &engine, "a").unwrap();
        let Found::Code(found) = again.find() else { panic!("it was put there") };
        assert!(found.component(&engine).is_ok());
        let whole = fs::read(cache.file()).unwrap();
        for at in (0..whole.len()).step_by(41).chain([0, MAC_BYTES - 1, MAC_BYTES, whole.len() - 1]) {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs::write(cache.file(), bytes).unwrap();
            assert!(is_foreign(&cache), "the byte at {at} was changed");
        }
        for length in [0, 1, MAC_BYTES, MAC_BYTES + 1, whole.len() - 1] {
            fs::write(cache.file(), &whole[..length]).unwrap();
            assert!(is_foreign(&cache), "cut to {length} bytes");
        }
        fs::write(cache.file(), [whole.as_slice(), b"x"].concat()).unwrap();
        assert!(is_foreign(&cache), "a byte more");
    }

    #[test]
    fn l10_code_of_another_artifact_engine_or_host_is_not_taken_also_under_the_right_name() {
        let (folder, elsewhere, one) = (folder(), folder(), engine(true, true));
        let cache = Cache::open(folder.path(), &one, "a").unwrap();
        cache.keep(&code(&one)).unwrap();
        let others = [
            Cache::open(folder.path(), &one, "b").unwrap(),
            Cache::open(folder.path(), &engine(false, true), "a").unwrap(),
            Cache::open(folder.path(), &engine(true, false), "a").unwrap(),
            Cache::open(elsewhere.path(), &one, "a").unwrap(),
        ];
        for (at, other) in others.iter().enumerate() {
            assert!(matches!(other.find(), Found::Nothing), "{at} hits");
            fs::copy(cache.file(), other.file()).unwrap();
            assert!(is_foreign(other), "{at} takes what is another's");
        }
    }

    #[test]
    fn l10_a_folder_or_a_key_that_others_may_touch_is_refused() {
        let (folder, engine) = (folder(), engine(true, true));
        let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let refusal = || Cache::open(folder.path(), &engine, "a").err().unwrap_or_default();
        Cache::open(folder.path(), &engine, "a").unwrap();
        for open in [0o755, 0o770, 0o701] {
            mode(folder.path(), open);
            assert!(refusal().contains("chmod 700"), "{open:o}");
        }
        mode(folder.path(), 0o700);
        let key = folder.path().join("key");
        mode(&key, 0o640);
        assert!(refusal().contains("nobody else may read"));
        mode(&key, 0o600);
        fs::write(&key, b"short").unwrap();
        assert!(refusal().contains("32 bytes"));
        fs::remove_file(&key).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &key).unwrap();
        assert!(refusal().contains("nobody else may read"));
    }

    #[test]
    fn the_cache_keeps_what_was_used_last_and_leaves_nothing_half_written() {
        let (folder, engine) = (folder(), engine(true, true));
        let code = code(&engine);
        let cache = |number: usize| Cache::open(folder.path(), &engine, &number.to_string()).unwrap();
        for number in 0..KEPT + 3 {
            cache(number).keep(&code).unwrap();
            // The first one is in use all the time; the clock of the files is set by hand, as it may be coarse.
            let used = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(number as u64);
            File::open(cache(number).file()).unwrap().set_modified(used).unwrap();
            assert!(matches!(cache(0).find(), Found::Code(_)));
        }
        let there = (0..KEPT + 3).filter(|number| cache(*number).file().exists()).collect::<Vec<_>>();
        assert_eq!(there.len(), KEPT);
        assert!(there.contains(&0) && there.contains(&(KEPT + 2)) && !there.contains(&1), "{there:?}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), KEPT + 1, "the key and the files");
    }
}
