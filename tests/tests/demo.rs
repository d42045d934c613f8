//! The demo: its shop, its load, and the whole story as a person starts it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use falkirk::cluster::{BIN_VARIABLE, find_programs};
use falkirk::demo::load::{Load, Pace};
use falkirk::demo::servers::{Servers, connect};
use falkirk::pg::address::Address;
use falkirk_tests::{SOON, Stage, until};
use nix::sys::signal::Signal;
use tempfile::TempDir;

#[tokio::test(flavor = "multi_thread")]
async fn the_shop_is_filled_in_seconds_and_the_load_does_everything_that_users_do() {
    let servers = Servers::start(Vec::new()).await.unwrap();
    servers.furnish().await.unwrap();
    let rows = servers.seed().await.unwrap();
    assert!(rows >= 200_000, "{rows} rows");

    let shop = Address::parse(&servers.blue_url()).unwrap();
    let load = Load::start(&shop, Pace { users: 4, deeds_per_s: 2_000, seed: 1 }).await.unwrap();
    for _ in 0..60 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        if load.tally().deeds.iter().all(|(_, count)| *count > 0) {
            break;
        }
    }
    let tally = load.stop().await.unwrap();
    assert!(tally.deeds.iter().all(|(_, count)| *count > 0), "{tally:?}");
    assert!(tally.declined * 20 < tally.total(), "{tally:?}");

    // The tables say themselves that all of it arrived: inserts, updates and deletes in every one of them.
    let session = connect(&servers.blue_url()).await.unwrap();
    let sql = "SELECT count(*) FROM public.orders WHERE id > 60000 UNION ALL
               SELECT count(*) FROM public.order_line WHERE line_no > 100 UNION ALL
               SELECT count(*) FROM public.customer WHERE email LIKE 'new-%' UNION ALL
               SELECT count(*) FROM public.event WHERE id > 25000 UNION ALL
               SELECT count(*) FROM public.coupon WHERE code LIKE 'SWAP-%' UNION ALL
               SELECT 1000 - count(*) FROM public.coupon WHERE code LIKE 'SEED-%'";
    for row in session.rows(sql).await.unwrap() {
        assert!(row.number::<i64>(0).unwrap() > 0, "{tally:?}");
    }
    servers.remove().await;
}

/// A folder for the temporary files of one demo, in which the servers' account may make its own.
struct Ground(TempDir);

impl Ground {
    fn new() -> Ground {
        let folder = tempfile::Builder::new().prefix("demo-").tempdir().expect("a temporary folder can be made");
        fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).expect("a folder has a mode");
        Ground(folder)
    }

    fn variable(&self) -> (&str, &Path) {
        ("TMPDIR", self.0.path())
    }

    /// The folders of private servers.
    fn folders(&self) -> usize {
        fs::read_dir(self.0.path()).expect("the folder is there").count()
    }

    /// Processes that were told of a place in the folder, as a server is of its data and a watcher of what it watches.
    fn processes(&self) -> Vec<String> {
        let place = self.0.path().to_str().expect("a path of plain letters").to_owned();
        let all = fs::read_dir("/proc").expect("there are processes").flatten();
        let lines = all.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
        lines
            .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
            .filter(|line| line.contains(&place))
            .collect()
    }

    #[track_caller]
    fn holds_two_servers(&self) {
        let servers = || self.processes().iter().filter(|line| line.contains("postgres -D")).count();
        until("two servers run there", SOON, || self.folders() == 2 && servers() == 2);
    }

    #[track_caller]
    fn is_empty(&self) {
        let left = (self.folders(), self.processes());
        assert_eq!(left, (0, Vec::new()), "the demo has left something behind");
    }
}

#[test]
fn l8_the_whole_story_ends_with_no_difference_while_a_load_was_running_and_leaves_nothing() {
    let (stage, ground) = (Stage::one_way("demo_whole"), Ground::new());
    let demo = stage.start_falkirk_with(&[ground.variable()], &["demo", "--json", "--stream", "3"]);
    ground.holds_two_servers();
    let story = demo.wait(Duration::from_secs(120)).expect(0);
    ground.is_empty();
    let said = story.json();
    assert_eq!(said["ok"], true, "{said}");
    assert_eq!(said["rows_wrong"], 0, "{said}");
    assert!(said["rows_compared"].as_u64().unwrap() >= 200_000, "{said}");
    let report = &said["report"];
    assert!(report["rows_changed"].as_u64().unwrap() > 100, "{said}");
    assert!(report["rows_changed_back"].as_u64().unwrap() > 100, "{said}");
    assert_eq!(report["acts"].as_array().unwrap().len(), 10, "{said}");
    // Once while only forward applied, and three times each way.
    assert_eq!(report["comparisons"].as_array().unwrap().len(), 7, "{said}");
    let new_deeds = report["load_of_release_2"]["deeds"].as_array().unwrap();
    assert!(new_deeds.iter().filter(|deed| deed[1].as_u64().unwrap() > 0).count() > 10, "{said}");
}

#[test]
fn a_signal_ends_the_demo_at_any_time_says_so_and_leaves_nothing() {
    let stage = Stage::one_way("demo_signal");
    for after_ms in [300, 2_500, 6_000, 18_000] {
        let ground = Ground::new();
        let demo = stage.start_falkirk_with(&[ground.variable()], &["demo", "--stream", "3"]);
        std::thread::sleep(Duration::from_millis(after_ms));
        if after_ms >= 6_000 {
            ground.holds_two_servers();
        }
        demo.signal(Signal::SIGINT);
        let ended = demo.wait(Duration::from_secs(30)).expect(130);
        assert!(ended.out.is_empty(), "no figures of a story without its end\n{}", ended.out);
        ground.is_empty();
    }
}

/// Server programs of which the one that starts and stops a server takes two seconds longer.
fn slow_programs() -> TempDir {
    let (real, slow) = (find_programs(None).unwrap(), tempfile::tempdir().unwrap());
    fs::set_permissions(slow.path(), Permissions::from_mode(0o755)).unwrap();
    for (program, pause_s) in [("initdb", 0), ("postgres", 0), ("pg_ctl", 2)] {
        let script = format!("#!/bin/sh\nsleep {pause_s}\nexec '{}' \"$@\"\n", real.join(program).display());
        fs::write(slow.path().join(program), script).unwrap();
        fs::set_permissions(slow.path().join(program), Permissions::from_mode(0o755)).unwrap();
    }
    slow
}

#[test]
fn a_signal_while_the_servers_of_the_demo_are_still_starting_leaves_nothing() {
    let (stage, programs) = (Stage::one_way("demo_starting"), slow_programs());
    for after_ms in [500, 1_200, 2_000] {
        let ground = Ground::new();
        let demo = stage.start_falkirk_with(&[ground.variable(), (BIN_VARIABLE, programs.path())], &["demo"]);
        std::thread::sleep(Duration::from_millis(after_ms));
        demo.signal(Signal::SIGINT);
        demo.wait(Duration::from_secs(60)).expect(130);
        ground.is_empty();
    }
}

/// As a person would ask who has that address.
#[tokio::main]
async fn rows(url: &str, table: &str) -> u64 {
    let session = connect(url).await.unwrap();
    session.one(&format!("SELECT count(*) FROM public.{table}")).await.unwrap().number(0).unwrap()
}

#[test]
fn a_demo_that_is_kept_can_be_used_by_what_it_prints_and_removed_by_what_it_prints() {
    let (stage, ground) = (Stage::one_way("demo_kept"), Ground::new());
    let demo = stage.start_falkirk_with(&[ground.variable()], &["demo", "--keep", "--json", "--stream", "1"]);
    let story = demo.wait(Duration::from_secs(120)).expect(0);
    assert_eq!(story.json()["ok"], true, "figures alone on standard output: {}", story.out);
    ground.holds_two_servers();
    let printed: Vec<&str> = story.err.lines().map(str::trim).collect();
    for (side, table) in [("# blue", "customer"), ("# green", "archived_orders")] {
        let line = printed.iter().find(|line| line.starts_with("psql '") && line.ends_with(side));
        let url = line.and_then(|line| line.split('\'').nth(1)).unwrap_or_else(|| panic!("no address\n{}", story.err));
        let rows = rows(url, table);
        assert!(rows > 1_000, "{side} has {rows} rows of {table}");
    }
    let command = printed.iter().find_map(|line| line.strip_prefix("falkirk run -c ")).expect("a configuration");
    let path = command.split("  #").next().unwrap().to_owned();
    stage.falkirk(&["status", "-c", &path]).expect(0);
    let removals: Vec<&&str> = printed.iter().filter(|line| line.starts_with("kill -QUIT ")).collect();
    assert_eq!(removals.len(), 2, "{}", story.err);
    for removal in removals {
        assert!(Command::new("/bin/sh").arg("-c").arg(removal).status().unwrap().success(), "{removal}");
    }
    ground.is_empty();
}
