//! The configuration as a person writes it.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::{Settings, Side, TransformFile};
use crate::marker::Link;
use crate::names::TableName;
use crate::pg::address::Address;
use crate::problem::{Blame, Outcome, Problem};

/// Which links run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Blue to green.
    Forward,
    /// Green to blue.
    Backward,
    /// Both at once.
    Both,
}

/// Who wins where both sides changed one thing and neither knew of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// What blue's application wrote.
    BlueWins,
    /// What green's application wrote.
    GreenWins,
    /// Nobody: the link stops, and an operator decides.
    Stop,
}

/// What the link that does not apply is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Rollback {
    /// It watches: the way back stays open.
    Watch,
    /// There is none: going back would need a new copy.
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum OnError {
    Stop,
    DeadLetter,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    migration: Migration,
    blue: Database,
    green: Database,
    #[serde(default)]
    tables: Tables,
    #[serde(default)]
    limits: super::limits::WrittenLimits,
    #[serde(default)]
    compile: super::compile::WrittenCompile,
    #[serde(default)]
    copy: Copy,
    #[serde(default)]
    sequences: Sequences,
    #[serde(default)]
    rollback: RollbackTrial,
    #[serde(default)]
    retention: Retention,
    #[serde(default)]
    warn: Warn,
    admin: Option<super::admin::WrittenAdmin>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Migration {
    name: String,
    direction: Direction,
    transforms: Vec<String>,
    #[serde(default = "stop")]
    on_error: OnError,
    #[serde(default = "watch")]
    rollback: Rollback,
    conflict: Option<Policy>,
    #[serde(default)]
    watch: bool,
    #[serde(default)]
    strict: bool,
    #[serde(default)]
    take_back_changes: i64,
}

fn watch() -> Rollback {
    Rollback::Watch
}

fn stop() -> OnError {
    OnError::Stop
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Database {
    url: Option<String>,
    url_file: Option<String>,
    schema_version: String,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database").field("schema_version", &self.schema_version).finish_non_exhaustive()
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Tables {
    include: Vec<TableName>,
    exclude: Vec<TableName>,
    allow_triggers: Vec<TableName>,
    conflict: BTreeMap<TableName, Policy>,
    added_columns: Added,
}

/// What becomes of a column that was added to a source table and that no rule uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Added {
    /// The link waits for somebody to decide.
    #[default]
    Stop,
    /// It goes on without the column.
    Ignore,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Copy {
    workers: i64,
    chunk_mib: i64,
}

impl Default for Copy {
    fn default() -> Self {
        Copy { workers: 2, chunk_mib: 16 }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Sequences {
    gap_numbers: i64,
}

impl Default for Sequences {
    fn default() -> Self {
        Sequences { gap_numbers: 1_000_000 }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RollbackTrial {
    trial_share: f64,
}

impl Default for RollbackTrial {
    fn default() -> Self {
        RollbackTrial { trial_share: 1.0 }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Retention {
    conflict_values_days: i64,
}

impl Default for Retention {
    fn default() -> Self {
        Retention { conflict_values_days: 90 }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Warn {
    retained_wal_mib: i64,
}

impl Default for Warn {
    fn default() -> Self {
        Warn { retained_wal_mib: 1_024 }
    }
}

/// Every key that a configuration may hold, for the nearest one to a mistyped one.
const KEYS: &[&str] = &[
    "migration",
    "name",
    "direction",
    "transforms",
    "on_error",
    "rollback",
    "conflict",
    "watch",
    "strict",
    "take_back_changes",
    "blue",
    "green",
    "url",
    "url_file",
    "schema_version",
    "tables",
    "include",
    "exclude",
    "allow_triggers",
    "added_columns",
    "limits",
    "memory_mib",
    "batch_time_ms",
    "output_mib",
    "instances",
    "determinism_share",
    "compile",
    "time_s",
    "cache",
    "on_nondeterminism",
    "copy",
    "workers",
    "chunk_mib",
    "sequences",
    "gap_numbers",
    "trial_share",
    "retention",
    "conflict_values_days",
    "warn",
    "retained_wal_mib",
    "admin",
    "listen",
    "token",
    "token_file",
];

pub(super) fn invalid(what: impl std::fmt::Display) -> Problem {
    Problem::refuse(Blame::Config, "CONFIG_INVALID", what)
}

/// Parses the text. The library's message shows the offending line; only its first line is kept, since the line
/// itself may hold a secret.
pub(super) fn parse(text: &str) -> Outcome<Written> {
    toml::from_str(text).map_err(|error| {
        let line = error.span().map_or(0, |span| text[..span.start].matches('\n').count() + 1);
        let message = error.message().lines().next().unwrap_or_default().to_owned();
        let Some(key) = message.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next()) else {
            return invalid(format!("line {line}: {message}"));
        };
        let nearest = KEYS.iter().min_by_key(|known| strsim::damerau_levenshtein(known, key));
        let problem =
            Problem::refuse(Blame::Config, "CONFIG_UNKNOWN_KEY", format!("line {line}: there is no setting `{key}`"));
        match nearest.filter(|known| strsim::damerau_levenshtein(known, key) < 4) {
            Some(known) => problem.remedy(format!("did you mean `{known}`?")),
            None => problem.remedy("see the README for the settings"),
        }
    })
}

impl Written {
    pub(super) fn settle(self, base: &Path, variable: &dyn Fn(&str) -> Option<String>) -> Outcome<Settings> {
        let mut warnings = Vec::new();
        let name = self.migration.name;
        let letters = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        if name.is_empty() || name.len() > 30 || !letters {
            return Err(invalid("the migration's name must match [a-z0-9_]{1,30}: it names slots and publications"));
        }
        not_yet(self.migration.on_error == OnError::DeadLetter, "on_error = \"dead_letter\"")?;
        if let Some(table) = self.tables.include.iter().find(|table| self.tables.exclude.contains(table)) {
            return Err(invalid("a table is both included and excluded in [tables]").table(table));
        }
        if self.migration.direction == Direction::Both && self.migration.conflict.is_none() {
            return Err(invalid("direction = \"both\" needs a word on who wins where both sides changed one thing")
                .remedy("set conflict = \"blue_wins\", \"green_wins\" or \"stop\" in [migration]; [tables] conflict names exceptions"));
        }
        let links = if self.migration.direction == Direction::Both { 2 } else { 1 };
        let limits = self.limits.settle(links)?;
        let copy_workers = range("copy.workers", self.copy.workers, 1, 32)? as usize;
        let transforms: Vec<TransformFile> =
            self.migration.transforms.iter().map(|text| transform(text, base)).collect::<Outcome<_>>()?;
        pins(&transforms, self.migration.strict, self.migration.watch)?;
        Ok(Settings {
            transforms,
            blue: self.blue.settle("blue", base, variable, &mut warnings)?,
            green: self.green.settle("green", base, variable, &mut warnings)?,
            name,
            direction: self.migration.direction,
            link: match self.migration.direction {
                Direction::Forward | Direction::Both => Link::Forward,
                Direction::Backward => Link::Backward,
            },
            rollback: self.migration.rollback == Rollback::Watch,
            reopens: false,
            as_configured: false,
            watch: self.migration.watch,
            strict: self.migration.strict,
            take_back_changes: range("migration.take_back_changes", self.migration.take_back_changes, 0, 1 << 40)?,
            ignores_added_columns: self.tables.added_columns == Added::Ignore,
            admin: self.admin.map(|admin| admin.settle(base, variable)).transpose()?,
            conflict: self.migration.conflict,
            conflict_of: self.tables.conflict,
            include: self.tables.include,
            exclude: self.tables.exclude,
            allow_triggers: self.tables.allow_triggers,
            limits,
            compiler: self.compile.settle(base)?,
            copy_workers,
            copy_chunk_bytes: range("copy.chunk_mib", self.copy.chunk_mib, 1, 1_024)? << 20,
            sequence_gap: range("sequences.gap_numbers", self.sequences.gap_numbers, 100, 1 << 40)?.into(),
            trial_share: share("rollback.trial_share", self.rollback.trial_share)?,
            conflict_values_days: small_range(
                "retention.conflict_values_days",
                self.retention.conflict_values_days,
                1,
                36_500,
            )?,
            retained_wal_warn_bytes: range("warn.retained_wal_mib", self.warn.retained_wal_mib, 1, 1 << 24)? << 20,
            warnings,
        })
    }
}

fn not_yet(used: bool, what: &str) -> Outcome<()> {
    let problem = || Problem::refuse(Blame::Config, "NOT_SUPPORTED", format!("this release does not carry out {what}"));
    if used { Err(problem().remedy("use on_error = \"stop\"")) } else { Ok(()) }
}

/// Row 8: numbers are read with their sign, so that a negative one is answered with the range as well.
fn range(name: &str, value: i64, least: u64, most: u64) -> Outcome<u64> {
    match u64::try_from(value) {
        Ok(value) if (least..=most).contains(&value) => Ok(value),
        _ => Err(invalid(format!("{name} = {value} is out of range: it must be between {least} and {most}"))),
    }
}

fn share(name: &str, value: f64) -> Outcome<f64> {
    match (0.0..=1.0).contains(&value) {
        true => Ok(value),
        false => Err(invalid(format!("{name} = {value} is out of range: it must be between 0.0 and 1.0"))),
    }
}

pub(super) fn small_range(name: &str, value: i64, least: u32, most: u32) -> Outcome<u32> {
    // The range holds, so the value fits.
    range(name, value, least.into(), most.into()).map(|value| value as u32)
}

/// `strict` takes no artifact on trust, and a file that is watched has to be allowed to change.
fn pins(transforms: &[TransformFile], strict: bool, watch: bool) -> Outcome<()> {
    if let Some(file) = transforms.iter().find(|file| strict && file.pin.is_none()) {
        let what = format!("strict = true, and {} has no pin", file.path.display());
        return Err(Problem::refuse(Blame::Config, "UNPINNED", what)
            .remedy("name it with its digest: \"shop_1_2.wasm@sha256:...\" (sha256sum prints it)"));
    }
    match transforms.iter().any(|file| watch && file.pin.is_some()) {
        true => Err(invalid("watch = true, and a pinned artifact can never be replaced by another file")
            .remedy("leave watch out and bring each revision by `falkirk swap FILE@sha256:...`, or leave the pin out")),
        false => Ok(()),
    }
}

fn transform(text: &str, base: &Path) -> Outcome<TransformFile> {
    let (path, pin) = match text.split_once("@sha256:") {
        None => (text, None),
        Some((path, digest)) => (path, Some(digest.to_ascii_lowercase())),
    };
    if pin.as_ref().is_some_and(|digest| digest.len() != 64 || !digest.bytes().all(|byte| byte.is_ascii_hexdigit())) {
        return Err(invalid(format!("the pin of {path} is not a sha256 digest of 64 hexadecimal digits")));
    }
    Ok(TransformFile { path: base.join(path), pin })
}

impl Database {
    fn settle(
        self,
        side: &str,
        base: &Path,
        variable: &dyn Fn(&str) -> Option<String>,
        warnings: &mut Vec<String>,
    ) -> Outcome<Side> {
        let mut in_the_file = false;
        let url = match (self.url, self.url_file) {
            (Some(url), None) => match url.strip_prefix("env:") {
                Some(name) => variable(name).ok_or_else(|| {
                    invalid(format!("[{side}] url: the environment variable {name} is not set"))
                        .remedy(format!("set {name}, or give the address by url_file"))
                })?,
                None => {
                    in_the_file = true;
                    url
                }
            },
            (None, Some(file)) => read_secret(&format!("[{side}] url_file"), &base.join(file))?,
            _ => return Err(invalid(format!("[{side}] needs either url or url_file"))),
        };
        let address = Address::parse(url.trim())?;
        if in_the_file && address.has_password() {
            warnings
                .push(format!("[{side}] url holds a password in the configuration; env:NAME or url_file keep it out"));
        }
        Ok(Side { address, schema_version: self.schema_version })
    }
}

pub(super) fn read_secret(setting: &str, file: &Path) -> Outcome<String> {
    std::fs::read_to_string(file)
        .map(|text| text.trim().to_owned())
        .map_err(|error| invalid(format!("{setting}: cannot read {}: {error}", file.display())))
}
