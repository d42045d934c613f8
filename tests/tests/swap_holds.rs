//! A revision that was put in by command holds over starts (L11): the host's end, however it comes, is no word of the
//! operator's. Other files in the configuration are one, and so is going back.
//!
//! The transform is `tests/guests-swap`: each revision signs the rows that it writes.

use std::path::{Path, PathBuf};

use falkirk_tests::{Finished, Running, SOON, Side, Stage, free_port, swap_component, until};

const BLUE: &str = "CREATE TABLE item (id bigint PRIMARY KEY, note text NOT NULL, back text);
    ALTER TABLE item REPLICA IDENTITY FULL;";
const GREEN: &str = "CREATE TABLE item (id bigint PRIMARY KEY, note text NOT NULL, by text);
    ALTER TABLE item REPLICA IDENTITY FULL;";

/// A stage with ten rows, whose configuration can be written anew.
struct Held {
    stage: Stage,
    direction: &'static str,
    more: &'static str,
    port: u16,
}

impl Held {
    fn new(name: &str, direction: &'static str, more: &'static str) -> Held {
        let stage = if direction == "both" { Stage::new(name) } else { Stage::one_way(name) };
        stage.schemas(BLUE, GREEN);
        stage.blue.sql("INSERT INTO item SELECT n, 'old', NULL FROM generate_series(1, 10) n");
        Held { stage, direction, more, port: free_port() }
    }

    /// The configuration names this file, with or without its digest.
    fn configure(&self, file: &str) {
        let text = format!("transforms = [{file:?}]\n{}[admin]\nlisten = \"127.0.0.1:{}\"\n", self.more, self.port);
        self.stage.config(self.direction, &text);
    }

    fn revision(&self, number: u32, manner: &str) -> PathBuf {
        swap_component(&self.stage, number, manner, None)
    }

    /// A host whose links stream.
    fn start(&self) -> Running {
        let host = self.stage.start_falkirk(&["run"]);
        until("the links stream", SOON, || {
            let status = self.stage.falkirk(&["status", "--json"]).expect(0).json();
            let streams = |status: &serde_json::Value| status["phase"] == "streaming" && status["running"] == true;
            streams(&status) && (self.direction != "both" || streams(&status["other"]))
        });
        host
    }

    fn swap(&self, file: &Path) -> Finished {
        self.stage.falkirk(&["swap", &file.to_string_lossy()])
    }

    fn follow(&self) -> Finished {
        self.stage.falkirk(&["run", "--until", "caught-up"])
    }

    fn status(&self) -> Finished {
        self.stage.falkirk(&["status"]).expect(0)
    }

    fn change(&self, id: u32, note: &str) {
        self.stage.blue.sql(&format!("UPDATE item SET note = '{note}' WHERE id = {id}"));
    }

    /// Which revision has written a row's newest note to green.
    fn signs(&self, id: u32) -> String {
        until("it arrives", SOON, || self.stage.same("SELECT id, note FROM item", "SELECT id, note FROM item"));
        self.stage.green.value(&format!("SELECT coalesce(by, '') FROM item WHERE id = {id}"))
    }

    /// Cleaning leaves nothing of Falkirk on either side.
    fn clean(&self) {
        self.stage.falkirk(&["clean"]).expect(0);
        for side in [&self.stage.blue, &self.stage.green] {
            assert!(side.admin("SELECT FROM pg_namespace WHERE nspname = 'falkirk'").is_empty());
        }
    }
}

fn digest(file: &Path) -> String {
    let output = std::process::Command::new("sha256sum").arg(file).output().expect("sha256sum is there");
    String::from_utf8_lossy(&output.stdout)[..64].to_owned()
}

/// As messages name a revision.
fn short(file: &Path) -> String {
    format!("sha256:{}", &digest(file)[..12])
}

#[test]
fn l11_a_revision_that_was_put_in_by_command_goes_on_after_kill_9_in_both_links_until_it_is_swapped_back() {
    let held = Held::new("holds_both", "both", "conflict = \"green_wins\"\n");
    let (first, second) = (held.revision(1, "ok"), held.revision(2, "ok"));
    held.configure(&first.to_string_lossy());
    let host = held.start();
    held.swap(&second).expect(0).says("it runs after a restart as well").says("migration.transforms");
    let names = [short(&first), short(&second)];
    let says =
        |said: Finished| said.says("REVISION_COMMANDED").says(&names[0]).says(&names[1]).says("falkirk swap --back");
    says(held.status());
    // The file that was brought is not there any more.
    std::fs::remove_file(&second).expect("it can be removed");
    held.change(1, "before the kill");
    host.kill_9();
    held.change(2, "while nothing ran");
    held.stage.green.sql("UPDATE item SET note = 'of green while nothing ran' WHERE id = 3");
    let host = held.start();
    held.change(4, "after it");
    assert_eq!([1, 2, 4].map(|id| held.signs(id)), ["0002", "0002", "0002"]);
    assert_eq!(held.stage.blue.value("SELECT back FROM item WHERE id = 3"), "0002");
    says(held.status()).keeps_quiet_about("REVISION_RETURNED");
    // What an earlier host replaced can be gone back to, and that holds as well.
    held.stage.falkirk(&["swap", "--back"]).expect(0).says("revision_1_ok.wasm").says("what the configuration names");
    held.change(5, "gone back");
    assert_eq!(held.signs(5), "0001");
    says(host.kill_9()).keeps_quiet_about("REVISION_RETURNED");
    held.status().keeps_quiet_about("REVISION_COMMANDED");
    let host = held.start();
    held.change(6, "gone back for good");
    assert_eq!(held.signs(6), "0001");
    held.stage.falkirk(&["swap", "--back"]).expect(1).says("NO_REVISION_BEFORE");
    host.terminate().expect(143).keeps_quiet_about("REVISION_COMMANDED");
    assert_eq!(held.stage.green.admin("SELECT FROM falkirk.artifact").len(), 0, "what nobody needs is not kept");
    held.clean();
}

#[test]
fn l11_other_files_in_the_configuration_win_over_a_command_once_and_for_all() {
    let held = Held::new("holds_config", "forward", "");
    let [first, second, third] = [1, 2, 3].map(|number| held.revision(number, "ok"));
    held.configure(&first.to_string_lossy());
    let host = held.start();
    held.swap(&second).expect(0);
    held.stage.blue.sql("UPDATE item SET note = 'by the second'");
    assert_eq!(held.signs(1), "0002");
    host.terminate().expect(143);
    // What is compared is what runs.
    held.stage.falkirk(&["verify"]).expect(0);
    // Another file in the same place.
    let whole = std::fs::read(&first).expect("it is there");
    std::fs::copy(&third, &first).expect("it can be copied");
    held.change(2, "by the third");
    held.follow().expect(0).says("REVISION_RETURNED").keeps_quiet_about("REVISION_COMMANDED");
    assert_eq!(held.signs(2), "0003");
    // The command does not return with the file that it was given over.
    std::fs::write(&first, whole).expect("it can be written");
    held.change(3, "by the first");
    held.follow().expect(0).keeps_quiet_about("REVISION_COMMANDED");
    assert_eq!(held.signs(3), "0001");
    // Nor is it needed any more once the configuration names it.
    let host = held.start();
    held.swap(&second).expect(0);
    host.terminate().expect(143);
    held.configure(&second.to_string_lossy());
    held.change(4, "by the second");
    held.follow().expect(0).keeps_quiet_about("REVISION_COMMANDED").keeps_quiet_about("REVISION_RETURNED");
    assert_eq!(held.signs(4), "0002");
    held.status().keeps_quiet_about("REVISION_COMMANDED");
    held.clean();
}

#[test]
fn l11_bytes_that_are_not_the_ones_that_were_put_in_are_never_run_and_strict_takes_none_that_came_without_a_pin() {
    let held = Held::new("holds_bytes", "forward", "");
    let (first, second) = (held.revision(1, "ok"), held.revision(2, "ok"));
    held.configure(&first.to_string_lossy());
    let host = held.start();
    held.swap(&second).expect(0);
    host.kill_9();
    let strict = Held { more: "strict = true\n", ..held };
    let pinned = |file: &Path| format!("{}@sha256:{}", file.display(), digest(file));
    strict.configure(&pinned(&first));
    strict.follow().expect(1).says("UNPINNED").says("revision_2_ok.wasm").says("falkirk run --configured");
    strict.change(1, "as configured");
    strict.stage.falkirk(&["run", "--configured", "--until", "caught-up"]).expect(0).says("REVISION_RETURNED");
    assert_eq!(strict.signs(1), "0001");
    // One that is brought with its digest holds under strict.
    let host = strict.start();
    strict.stage.falkirk(&["swap", &pinned(&second)]).expect(0);
    host.kill_9();
    strict.change(2, "pinned");
    strict.follow().expect(0).says("REVISION_COMMANDED");
    assert_eq!(strict.signs(2), "0002");
    // A good component, and not the one that was put in.
    let third = std::fs::read(strict.revision(3, "ok")).expect("it is there");
    let hex: String = third.iter().map(|byte| format!("{byte:02x}")).collect();
    strict.stage.green.admin(&format!("UPDATE falkirk.artifact SET bytes = decode('{hex}', 'hex')"));
    strict.change(3, "by whom?");
    strict.follow().expect(1).says("REVISION_LOST").says(&short(&second)).says("falkirk run --configured");
    assert_eq!(strict.stage.green.count("(SELECT FROM item WHERE by = '0003')"), 0);
    strict.stage.falkirk(&["run", "--configured", "--until", "caught-up"]).expect(0);
    assert_eq!(strict.signs(3), "0001");
    strict.clean();
}

#[test]
fn l11_what_was_taken_back_stays_out_after_a_restart_and_back_says_what_has_become_of_it() {
    let held = Held::new("holds_taken", "forward", "take_back_changes = 100\n");
    let (first, second, fails) = (held.revision(1, "ok"), held.revision(2, "ok"), held.revision(3, "no"));
    held.configure(&first.to_string_lossy());
    let host = held.start();
    held.swap(&second).expect(0);
    held.swap(&fails).expect(0);
    held.change(1, "fine");
    assert_eq!(held.signs(1), "0003");
    held.change(2, "odd");
    assert_eq!(held.signs(2), "0002", "the one before it goes on");
    let said = held.stage.falkirk(&["swap", "--back"]).expect(0).says("revision_2_ok.wasm").says("runs already");
    said.says("TAKEN_BACK").says(&short(&fails)).says("TRANSFORM_TRAP").says("falkirk.history in green");
    host.kill_9();
    held.change(3, "odd once more");
    let host = held.start();
    assert_eq!(held.signs(3), "0002");
    held.status().says("REVISION_COMMANDED").says(&short(&second)).keeps_quiet_about(&short(&fails));
    let said = held.stage.falkirk(&["swap", "--back"]).expect(1).says("NO_REVISION_BEFORE");
    said.says("TAKEN_BACK").says(&short(&fails)).says("revision_2_ok.wasm");
    host.terminate().expect(143);
    held.clean();
}

/// A host that waits for the links while another one is given a command has read the record before it.
#[test]
fn l11_a_host_that_waited_for_the_links_while_a_command_was_given_writes_nothing_with_what_it_has_read() {
    for (direction, more) in [("forward", ""), ("both", "conflict = \"green_wins\"\n")] {
        let held = Held::new(&format!("holds_waits_{direction}"), direction, more);
        let (first, second) = (held.revision(1, "ok"), held.revision(2, "ok"));
        held.configure(&first.to_string_lossy());
        let host = held.start();
        let text = std::fs::read_to_string(held.stage.folder().join("falkirk.toml")).expect("it is there");
        held.stage.file("other.toml", text.replace(&held.port.to_string(), &free_port().to_string()));
        let other = held.stage.start_falkirk(&["run", "--config", "other.toml"]);
        let holds = "SELECT FROM pg_stat_activity WHERE application_name LIKE '%hold%'";
        let is_held_twice = |side: &Side| side.admin(holds).len() == 2;
        until("the other one wants the links", SOON, || {
            is_held_twice(&held.stage.green) && (direction != "both" || is_held_twice(&held.stage.blue))
        });
        held.swap(&second).expect(0);
        host.kill_9();
        held.change(1, "by whom?");
        other.wait(SOON).expect(1).says("REVISION_CHANGED").says("start it again");
        assert_eq!(held.stage.green.value("SELECT note FROM item WHERE id = 1"), "old");
        held.follow().expect(0);
        assert_eq!(held.signs(1), "0002");
        held.clean();
    }
}
