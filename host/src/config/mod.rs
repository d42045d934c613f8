//! The configuration: what a person wrote (`written`) becomes what the program needs (`Settings`), in one place.
//!
//! TOML, unknown keys refused with the nearest known one named, every setting with its unit in its name. A secret is
//! read from the environment or from a file and is never printed.

mod admin;
mod compile;
mod limits;
mod written;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::marker::Link;
use crate::names::TableName;
use crate::pg::address::Address;
use crate::problem::{Blame, Outcome, Problem};
use crate::transform::{Compiler, Limits};

pub use admin::{Admin, Token};
pub use written::{Direction, Policy};

/// The largest configuration file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Everything a command needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The migration's name: `[a-z0-9_]{1,30}`. Names slots, publications and rows.
    pub name: String,
    /// Which links run.
    pub direction: Direction,
    /// The link that these settings are seen from: it decides which side is the source.
    pub link: Link,
    /// Whether the way back is kept open while only one link applies: the other one watches.
    pub rollback: bool,
    /// No setting of the file: this start is the repair that opens the way back (`link::way`).
    pub reopens: bool,
    /// No setting of the file: this start takes what the file names, whatever was put in by command.
    pub as_configured: bool,
    /// Who wins where both sides changed one thing; there is no default for `both`.
    pub conflict: Option<Policy>,
    /// The same for single tables, whichever side the name is of.
    pub conflict_of: BTreeMap<TableName, Policy>,
    /// The artifacts; empty: every table is copied as it is.
    pub transforms: Vec<TransformFile>,
    /// The older side.
    pub blue: Side,
    /// The newer side.
    pub green: Side,
    /// Only these tables, if any are named.
    pub include: Vec<TableName>,
    /// Not these.
    pub exclude: Vec<TableName>,
    /// Target tables whose triggers may fire for what the link writes.
    pub allow_triggers: Vec<TableName>,
    /// Limits of each transform instance.
    pub limits: Limits,
    /// How artifacts are compiled, and where their code is kept.
    pub compiler: Compiler,
    /// How many chunks are copied at once.
    pub copy_workers: usize,
    /// About how many bytes of a table one chunk holds.
    pub copy_chunk_bytes: u64,
    /// How many numbers lie at least between what the two sides' sequences hand out while both write.
    pub sequence_gap: i128,
    /// How long the values of a decided conflict are kept, in days.
    pub conflict_values_days: u32,
    /// The share of the watched side's changed rows that are tried for the way back, from 0 to 1.
    pub trial_share: f64,
    /// Source log held back by the slot, in bytes, from which on a warning is given.
    pub retained_wal_warn_bytes: u64,
    /// The artifact's file is watched: another one in its place is swapped in.
    pub watch: bool,
    /// No artifact is taken without a pin.
    pub strict: bool,
    /// A revision that stops the link within its first so many changes is taken back; 0: none is.
    pub take_back_changes: u64,
    /// A column that was added to a source table and that no rule uses keeps the link from nothing.
    pub ignores_added_columns: bool,
    /// Where a running host listens for its operator, if anywhere.
    pub admin: Option<Admin>,
    /// What is legal and yet unwise.
    pub warnings: Vec<String>,
}

/// One artifact that the configuration names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransformFile {
    /// The file.
    pub path: PathBuf,
    /// The digest that its bytes must have, 64 hexadecimal digits.
    pub pin: Option<String>,
}

/// One database.
#[derive(Clone, Debug)]
pub struct Side {
    /// Where it is.
    pub address: Address,
    /// The schema version that it holds.
    pub schema_version: String,
}

impl Settings {
    /// The same settings seen from a link.
    pub fn seen_from(&self, link: Link) -> Settings {
        Settings { link, ..self.clone() }
    }

    /// The name of the link's slot and publication.
    pub fn slot(&self) -> String {
        format!("falkirk_{}_{}", self.name, self.link)
    }

    /// The side that the link reads.
    pub fn source(&self) -> &Side {
        match self.link {
            Link::Forward => &self.blue,
            Link::Backward => &self.green,
        }
    }

    /// The side that the link writes.
    pub fn target(&self) -> &Side {
        match self.link {
            Link::Forward => &self.green,
            Link::Backward => &self.blue,
        }
    }

    /// The link that copies what is there before the first start.
    pub fn origin(&self) -> Link {
        match self.direction {
            Direction::Forward | Direction::Both => Link::Forward,
            Direction::Backward => Link::Backward,
        }
    }

    /// Whether a link writes its target; one that does not may still watch its source.
    pub fn applies(&self, link: Link) -> bool {
        self.direction == Direction::Both || link == self.origin()
    }

    /// Who wins on rows of these tables, which stand for each other, whichever side their names are of: the side that the
    /// returned link reads, or nobody. A problem if they are given different winners.
    pub fn winner<'t>(&self, tables: impl Iterator<Item = &'t TableName>) -> Outcome<Option<Link>> {
        let mut named: Option<(&TableName, Policy)> = None;
        for (table, policy) in tables.filter_map(|table| Some((table, *self.conflict_of.get(table)?))) {
            if let Some((other, _)) = named.filter(|(_, known)| *known != policy) {
                return Err(Problem::refuse(
                    Blame::Config,
                    "CONFLICT_POLICIES",
                    format!("rows of {table} and of {other} stand for each other and cannot have different winners"),
                )
                .table(table)
                .remedy("give them one policy in [tables] conflict"));
            }
            named = Some((table, policy));
        }
        Ok(match named.map(|(_, policy)| policy).or(self.conflict) {
            Some(Policy::BlueWins) => Some(Link::Forward),
            Some(Policy::GreenWins) => Some(Link::Backward),
            Some(Policy::Stop) | None => None,
        })
    }

    /// What the side that the link reads is called.
    pub fn source_name(&self) -> &'static str {
        match self.link {
            Link::Forward => "blue",
            Link::Backward => "green",
        }
    }

    /// What the side that the link writes is called.
    pub fn target_name(&self) -> &'static str {
        match self.link {
            Link::Forward => "green",
            Link::Backward => "blue",
        }
    }

    /// Whether both links write.
    pub fn direction_is_both(&self) -> bool {
        self.direction == Direction::Both
    }

    /// Whether both links are set up: both apply, or one applies and the other watches.
    pub fn two_way(&self) -> bool {
        self.direction == Direction::Both || self.rollback
    }
}

/// Reads and settles a configuration file. `variable` looks up an environment variable.
pub fn load(file: &Path, variable: &dyn Fn(&str) -> Option<String>) -> Outcome<Settings> {
    let refuse = |what: String| Problem::refuse(Blame::Config, "CONFIG_UNREADABLE", what);
    let shown = file.display();
    let size = std::fs::metadata(file).map_err(|error| refuse(format!("cannot read {shown}: {error}")))?.len();
    if size > FILE_BYTES_MAX {
        return Err(refuse(format!("{shown} has {size} bytes; a configuration has at most {FILE_BYTES_MAX}"))
            .remedy("check that the path names the configuration and not another file"));
    }
    let bytes = std::fs::read(file).map_err(|error| refuse(format!("cannot read {shown}: {error}")))?;
    if bytes.starts_with(&[0xEF, 0xBB, 0xBF]) {
        return Err(refuse(format!("{shown} starts with a byte order mark")).remedy("save it as UTF-8 without one"));
    }
    let text = String::from_utf8(bytes).map_err(|_| refuse(format!("{shown} is not UTF-8")))?;
    let base = file.parent().unwrap_or(Path::new("."));
    written::parse(&text)?.settle(base, variable)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
[migration]
name = "shop"
direction = "forward"
transforms = ["shop_1_2.wasm@sha256:0000000000000000000000000000000000000000000000000000000000000000"]
[blue]
url = "env:BLUE_URL"
schema_version = "1"
[green]
url = "postgres://falkirk@127.0.0.1:5433/green"
schema_version = "2"
"#;

    fn settle(text: &str) -> Outcome<Settings> {
        let variable = |name: &str| (name == "BLUE_URL").then(|| "postgres://f:hidden@localhost/blue".to_owned());
        written::parse(text)?.settle(Path::new("/etc/falkirk"), &variable)
    }

    fn refused(text: &str, code: &str, needle: &str) {
        let problem = settle(text).expect_err("must be refused");
        let shown = problem.to_string();
        assert_eq!(problem.code(), code, "{shown}");
        assert!(shown.contains(needle), "{shown:?} lacks {needle:?}");
        assert!(!shown.contains("hidden"), "a secret in {shown:?}");
    }

    #[test]
    fn a_good_configuration_settles() {
        let settings = settle(GOOD).unwrap();
        assert_eq!(settings.transforms[0].path, Path::new("/etc/falkirk/shop_1_2.wasm"));
        assert_eq!(settings.transforms[0].pin.as_deref(), Some("0".repeat(64).as_str()));
        assert_eq!(settings.slot(), "falkirk_shop_forward");
        assert!(!format!("{settings:?}").contains("hidden"));
    }

    #[test]
    fn row_1_an_unknown_key_is_refused_and_the_nearest_named() {
        refused(&format!("{GOOD}[tabels]\nexclude = []"), "CONFIG_UNKNOWN_KEY", "did you mean `tables`");
        refused(&GOOD.replace("direction", "directon"), "CONFIG_UNKNOWN_KEY", "did you mean `direction`");
    }

    #[test]
    fn row_2_a_key_given_twice_is_refused() {
        refused(&GOOD.replace("name = \"shop\"", "name = \"shop\"\nname = \"b\""), "CONFIG_INVALID", "line 4");
        refused(
            &format!("{GOOD}[tables]\ninclude = [\"public.a\"]\nexclude = [\"a\"]"),
            "CONFIG_INVALID",
            "both included and excluded",
        );
    }

    #[test]
    fn row_3_a_secret_in_the_file_is_warned_of_and_never_shown() {
        let settings = settle(&GOOD.replace("falkirk@127", "falkirk:hidden@127")).unwrap();
        assert!(settings.warnings.iter().any(|warning| warning.contains("[green]")), "{:?}", settings.warnings);
        assert!(!settings.warnings.concat().contains("hidden"));
    }

    #[test]
    fn row_5_a_name_that_could_not_name_a_slot_is_refused_before_any_connection() {
        for name in ["", "Shop", "sh op", "sh'op", "sh\\\"op", &"x".repeat(31)] {
            refused(&GOOD.replace("\"shop\"", &format!("\"{name}\"")), "CONFIG_INVALID", "[a-z0-9_]{1,30}");
        }
    }

    #[test]
    fn row_7_plaintext_to_another_host_is_refused() {
        refused(
            &GOOD.replace("127.0.0.1:5433/green", "db.example:5433/green?sslmode=disable"),
            "PLAINTEXT_REFUSED",
            "db.example",
        );
    }

    #[test]
    fn row_9_limits_beyond_the_container_are_refused_and_what_fits_exactly_is_not() {
        let within = |wanted, limit| limits::within_container(wanted, limit).map_err(|problem| problem.to_string());
        assert_eq!(within(1_000, None), Ok(()), "no limit to exceed");
        assert_eq!(within(1_000, Some(1_000)), Ok(()));
        let refused = within(1_001, Some(1_000)).expect_err("more than the container has");
        for part in ["LIMIT_EXCEEDS_CGROUP", "1001 MiB", "1000 MiB", "limits.memory_mib"] {
            assert!(refused.contains(part), "{refused}");
        }
    }

    #[test]
    fn row_8_numbers_out_of_range_are_refused_with_the_range() {
        for workers in ["0", "-1", "1000000000000", "nan", "\"1 GB\"", "2.5"] {
            let text = format!("{GOOD}[copy]\nworkers = {workers}");
            let problem = settle(&text).expect_err(workers);
            assert_eq!(problem.code(), "CONFIG_INVALID");
        }
        refused(&format!("{GOOD}[limits]\nmemory_mib = 0"), "CONFIG_INVALID", "between");
        refused(&format!("{GOOD}[limits]\ninstances = 0"), "CONFIG_INVALID", "between");
        for share in ["-0.1", "1.5", "nan"] {
            refused(&format!("{GOOD}[limits]\ndeterminism_share = {share}"), "CONFIG_INVALID", "between 0 and 1");
        }
        let text = format!("{GOOD}[limits]\ndeterminism_share = 1.0\non_nondeterminism = \"warn\"");
        assert_eq!(settle(&text).unwrap().limits.on_nondeterminism, crate::transform::OnNondeterminism::Warn);
        assert_eq!(settle(&format!("{GOOD}[limits]\ninstances = 3")).unwrap().limits.instances, 3);
        assert!(settle(GOOD).unwrap().limits.instances >= 1);
    }

    #[test]
    fn row_13_a_missing_environment_variable_is_named() {
        refused(&GOOD.replace("BLUE_URL", "BLUE_DSN"), "CONFIG_INVALID", "BLUE_DSN");
    }

    #[test]
    fn both_directions_need_a_word_on_conflicts() {
        let both = GOOD.replace("\"forward\"", "\"both\"");
        refused(&both, "CONFIG_INVALID", "who wins");
        let text = both.replace("name = \"shop\"", "name = \"shop\"\nconflict = \"green_wins\"");
        let settings = settle(&format!("{text}[tables]\nconflict = {{ \"public.product\" = \"blue_wins\" }}")).unwrap();
        assert_eq!(settings.conflict, Some(Policy::GreenWins));
        assert_eq!(settings.conflict_of.values().next(), Some(&Policy::BlueWins));
        assert!(settings.applies(Link::Forward) && settings.applies(Link::Backward));
        let latest = GOOD.replace("name = \"shop\"", "name = \"shop\"\nconflict = \"latest_wins\"");
        refused(&latest, "CONFIG_INVALID", "latest_wins");
    }

    #[test]
    fn backward_reads_green_and_writes_blue() {
        let settings = settle(&GOOD.replace("\"forward\"", "\"backward\"")).unwrap();
        assert_eq!((settings.source_name(), settings.target_name()), ("green", "blue"));
        assert_eq!(settings.slot(), "falkirk_shop_backward");
        assert_eq!(settings.seen_from(Link::Forward).slot(), "falkirk_shop_forward");
    }

    #[test]
    fn strict_takes_no_artifact_without_a_pin_and_a_pinned_one_cannot_be_watched() {
        let migration = |more: &str| GOOD.replace("name = \"shop\"", &format!("name = \"shop\"\n{more}"));
        let pin = format!("@sha256:{}", "0".repeat(64));
        assert!(settle(&migration("strict = true")).is_ok_and(|settings| settings.strict));
        refused(&migration("strict = true").replace(&pin, ""), "UNPINNED", "shop_1_2.wasm");
        refused(&migration("watch = true"), "CONFIG_INVALID", "falkirk swap FILE@sha256");
        assert!(settle(&migration("watch = true").replace(&pin, "")).is_ok_and(|settings| settings.watch));
    }

    #[test]
    fn what_a_later_release_brings_is_refused_by_name_and_not_ignored() {
        refused(
            &GOOD.replace("name = \"shop\"", "name = \"shop\"\non_error = \"dead_letter\""),
            "NOT_SUPPORTED",
            "dead_letter",
        );
    }
}
