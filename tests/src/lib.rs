//! The ground for tests of whole runs: two private servers, a fresh pair of databases per test, and the real command.
//!
//! A test reads like a session at a terminal: given two schemas and rows, when `falkirk` runs, then the sides hold
//! this. Everything blocks; a test is a plain `#[test]`. Nothing here runs Falkirk with more rights than the files in
//! `examples/roles` give, and nothing outlives the test process, however it ends.

mod command;
mod component;
pub mod fences;
pub mod journal;
pub mod ledger;
mod open;
mod recipe;
mod side;
pub mod twins;
mod wait;
mod waiting;

pub use command::{Finished, Running};
pub use component::{
    FULL_IDENTITY, cart_component, cart_schemas, component_with_manifest, faulty_shop_component, operators_component,
    operators_schemas, rules_component, rules_schemas, shop_2_3_component, shop_component, shop_schemas,
    shop_v3_schema, swap_component,
};
pub use open::{Open, lose_a_deadlock};
pub use recipe::run_recipe;
pub use side::{HeldBack, Side};
pub use wait::{free_port, until};
pub use waiting::Waiting;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use falkirk::cluster::{Cluster, Options};
use tempfile::TempDir;

/// A server that several sides may share.
pub type Server = Arc<Mutex<Cluster>>;

/// How long a test waits for something that should happen at once.
pub const SOON: Duration = Duration::from_secs(30);

/// The server programs of green, if it is to run another version than blue.
const GREEN_BIN_VARIABLE: &str = "FALKIRK_PG_BIN_GREEN";

/// Which recipes the sides get.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Roles {
    /// Blue is only read, green is only written.
    OneWay,
    /// Each side is read and written.
    Both,
}

/// Which way a test's only link goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// As the test says: from blue to green.
    Forward,
    /// What the test calls blue is Falkirk's green, and the other way round.
    Backward,
}

impl Way {
    /// The way of a module: whatever stands inside of `tests/backward.rs` goes backward.
    pub fn of(module: &str) -> Way {
        if module.starts_with("backward::") { Way::Backward } else { Way::Forward }
    }

    /// The link's name.
    pub fn link(self) -> &'static str {
        match self {
            Way::Forward => "forward",
            Way::Backward => "backward",
        }
    }
}

/// The way of the file that says this: `tests/backward.rs` runs tests of the forward link once more, backward.
#[macro_export]
macro_rules! way {
    () => {
        $crate::Way::of(module_path!())
    };
}

/// Two databases, a folder for files, and the command.
pub struct Stage {
    /// The older schema; in a stage that goes backward, the newer one.
    pub blue: Side,
    /// The newer schema; in a stage that goes backward, the older one.
    pub green: Side,
    way: Way,
    name: String,
    folder: TempDir,
    roles: Roles,
}

impl Stage {
    /// Fresh databases on the shared servers; both sides may be read and written. `name` must be unique among the
    /// tests and fit a migration's name: slots are named after it, and those belong to a whole server.
    pub fn new(name: &str) -> Stage {
        let [blue, green] = shared_servers();
        Stage::build(name, blue, green, Roles::Both)
    }

    /// Like [`Stage::new`]; blue may only be read and green only be written.
    pub fn one_way(name: &str) -> Stage {
        let [blue, green] = shared_servers();
        Stage::build(name, blue, green, Roles::OneWay)
    }

    /// Like [`Stage::new`], on two servers of its own that the test may crash. `settings` go to both.
    pub fn with_own_servers(name: &str, settings: &[(&str, &str)]) -> Stage {
        let [blue, green] = start_pair(settings);
        Stage::build(name, blue, green, Roles::Both)
    }

    fn build(name: &str, blue: Server, green: Server, roles: Roles) -> Stage {
        let folder =
            tempfile::Builder::new().prefix("falkirk-stage-").tempdir().expect("a temporary folder can be made");
        Stage {
            blue: Side::create("blue", name, blue),
            green: Side::create("green", name, green),
            way: Way::Forward,
            name: name.to_owned(),
            folder,
            roles,
        }
    }

    /// The stage with its only link going that way: the test's blue is read and its green is written, whatever they are
    /// to Falkirk.
    pub fn toward(self, way: Way) -> Stage {
        Stage { way, ..self }
    }

    /// The name of the slot and publication of the only link.
    pub fn slot(&self) -> String {
        format!("falkirk_{}_{}", self.name, self.way.link())
    }

    /// Makes the schemas as the application would, and then runs the recipes for Falkirk's role as an administrator
    /// would. To be called again after tables were added.
    pub fn schemas(&self, blue: &str, green: &str) -> &Stage {
        self.blue.sql(blue);
        self.green.sql(green);
        let both = self.roles == Roles::Both;
        for (side, reads, writes) in [(&self.blue, true, both), (&self.green, both, true)] {
            if reads {
                run_recipe(side, "source.sql");
            }
            if writes {
                run_recipe(side, "target.sql");
            }
        }
        self
    }

    /// The migration's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The folder for this test's files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file into the test's folder.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder().join(name);
        std::fs::write(&path, content).expect("a file can be written");
        path
    }

    /// Writes `falkirk.toml`: the usual head with both addresses, then `more`: what stands before its first
    /// section belongs to `[migration]`.
    pub fn config(&self, direction: &str, more: &str) -> PathBuf {
        let is_head = |line: &&str| line.starts_with('[');
        let sections = more.lines().skip_while(|line| !is_head(line)).collect::<Vec<_>>().join("\n");
        let migration = more.lines().take_while(|line| !is_head(line)).collect::<Vec<_>>().join("\n");
        // Most tests are about one direction; what keeps the way back open has tests of its own.
        let one_way = direction != "both" && !migration.contains("rollback");
        let rollback = if one_way { "rollback = \"none\"\n" } else { "" };
        let (name, mut blue, mut green) = (&self.name, self.blue.url(), self.green.url());
        let (mut direction, mut migration) = (direction, migration);
        if self.way == Way::Backward {
            assert_eq!(direction, "forward", "only a stage with one link has a way");
            (blue, green) = (green, blue);
            (direction, migration) = ("backward", self.mirrored(&migration));
        }
        self.file(
            "falkirk.toml",
            format!(
                "[migration]\nname = \"{name}\"\ndirection = \"{direction}\"\n{rollback}{migration}\n\
                 [blue]\nurl = \"{blue}\"\nschema_version = \"1\"\n\n\
                 [green]\nurl = \"{green}\"\nschema_version = \"2\"\n\n{sections}"
            ),
        )
    }

    /// Runs `falkirk` in the test's folder to its end.
    pub fn falkirk(&self, arguments: &[&str]) -> Finished {
        self.start_falkirk(arguments).wait(Duration::from_secs(120))
    }

    /// Starts `falkirk` in the test's folder and leaves it running.
    pub fn start_falkirk(&self, arguments: &[&str]) -> Running {
        Running::start(self.folder(), arguments, &[])
    }

    /// Like [`Stage::start_falkirk`], with places that the environment names.
    pub fn start_falkirk_with(&self, places: &[(&str, &Path)], arguments: &[&str]) -> Running {
        Running::start(self.folder(), arguments, places)
    }

    /// Both sides give the same rows for these two queries, whatever their order.
    #[track_caller]
    pub fn assert_same(&self, blue: &str, green: &str) {
        if let Some(difference) = self.difference(blue, green) {
            panic!("blue and green differ:\n{difference}\n  blue:  {blue}\n  green: {green}");
        }
    }

    /// Whether both sides give the same rows for these two queries.
    pub fn same(&self, blue: &str, green: &str) -> bool {
        self.blue.digest(blue) == self.green.digest(green)
    }

    fn difference(&self, blue: &str, green: &str) -> Option<String> {
        if self.same(blue, green) {
            return None;
        }
        let (left, right) = (self.blue.lines(blue), self.green.lines(green));
        let only = |these: &[String], those: &[String], mark: char| -> Vec<String> {
            let mut rest = those.to_vec();
            let missing = these.iter().filter(|line| match rest.iter().position(|other| other == *line) {
                Some(place) => {
                    rest.swap_remove(place);
                    false
                }
                None => true,
            });
            missing.take(10).map(|line| format!("  {mark} {line}")).collect()
        };
        let mut text = vec![format!("  {} rows in blue, {} in green", left.len(), right.len())];
        text.extend(only(&left, &right, '-'));
        text.extend(only(&right, &left, '+'));
        Some(text.join("\n"))
    }
}

/// The pair of servers that the stages of one test process share.
fn shared_servers() -> [Server; 2] {
    static SERVERS: OnceLock<[Server; 2]> = OnceLock::new();
    SERVERS.get_or_init(|| start_pair(&[])).clone()
}

fn start_pair(settings: &[(&str, &str)]) -> [Server; 2] {
    let settings: Vec<_> = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let blue = Options { bin: None, settings };
    let green = Options { bin: std::env::var_os(GREEN_BIN_VARIABLE).map(PathBuf::from), ..blue.clone() };
    std::thread::scope(|scope| {
        let starts = [scope.spawn(|| Cluster::start(&blue)), scope.spawn(|| Cluster::start(&green))];
        starts.map(|start| {
            let cluster = start.join().expect("the thread that starts a server ends in peace");
            Arc::new(Mutex::new(cluster.unwrap_or_else(|problem| panic!("no server to test on: {problem}"))))
        })
    })
}
