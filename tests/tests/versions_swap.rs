//! L11 for a way of several steps: a revision of one step takes its predecessor's place in the running link, and the way is
//! composed anew beside it.
//!
//! Both steps are revisions of `tests/guests-swap`: the first signs `by`, the second signs `seal`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use falkirk_tests::{Finished, SOON, Stage, free_port, swap_component, until};

const V1: &str =
    "CREATE TABLE item (id bigint PRIMARY KEY, note text NOT NULL); ALTER TABLE item REPLICA IDENTITY FULL;";
const V3: &str = "CREATE TABLE item (id bigint PRIMARY KEY, note text NOT NULL, by text, seal text);";

fn rules(from: u32, note: &str, copied: &str, signs: &str) -> String {
    format!(
        r#"{{ "falkirk": 1, "name": "swap", "from": "{from}", "to": "{}", "forward": [ {{ "table": "item", "columns": ["note"],
      "outputs": [ {{ "table": "item", "copied": {{ "id": "id", "note": "{note}"{copied} }}, "computed": [ {{ "from": ["note"], "to": ["{signs}"] }} ] }} ] }} ],
  "backward": [] }}"#,
        from + 1
    )
}

/// A revision of the first step, 1 to 2.
fn first(stage: &Stage, number: u32, manner: &str) -> PathBuf {
    swap_component(stage, number, manner, Some(&rules(1, "note", "", "by")))
}

/// A revision of the second one, 2 to 3.
fn second(stage: &Stage, number: u32, manner: &str) -> PathBuf {
    swap_component(stage, number, manner, Some(&rules(2, "note", ", \"by\": \"by\"", "seal")))
}

/// Blue at version 1 with 200 rows, green at 3, and two artifacts between.
fn stage(name: &str, more: &str) -> Stage {
    let stage = Stage::one_way(name);
    stage.schemas(V1, V3);
    stage.blue.sql("INSERT INTO item SELECT n, 'old ' || n FROM generate_series(1, 200) n");
    let files = [second(&stage, 2, "ok"), first(&stage, 1, "ok")];
    let list: Vec<String> = files.iter().map(|file| format!("{:?}", file.to_string_lossy())).collect();
    let admin = format!("[admin]\nlisten = \"127.0.0.1:{}\"\n", free_port());
    let path = stage.config("forward", &format!("transforms = [{}]\n{more}{admin}", list.join(", ")));
    let text = std::fs::read_to_string(&path).expect("it was written");
    std::fs::write(path, text.replace("schema_version = \"2\"", "schema_version = \"3\"")).expect("it can be written");
    stage
}

fn swap(stage: &Stage, file: PathBuf) -> Finished {
    stage.falkirk(&["swap", "--json", &file.to_string_lossy()])
}

/// Changes old rows and brings new ones until told to stop.
fn load(stage: &Stage, stop: &AtomicBool, committed: &AtomicU64) {
    for number in 1_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let (new, old) = (1_000 + number, number % 200 + 1);
        stage.blue.sql(&format!(
            "BEGIN; INSERT INTO item VALUES ({new}, 'new {number}'); UPDATE item SET note = 'changed {number}' WHERE id = {old};
             UPDATE item SET note = note || '!' WHERE id = 1000 + {number} / 2; COMMIT"
        ));
        committed.fetch_add(1, Ordering::Relaxed);
    }
}

/// Ends the load also when the test fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn arrives(stage: &Stage) {
    until("everything arrives", SOON, || stage.same("SELECT id, note FROM item", "SELECT id, note FROM item"));
}

/// Who signed a row: by the first step and by the second.
fn signed(stage: &Stage, id: u32) -> String {
    stage.green.value(&format!("SELECT by || seal FROM item WHERE id = {id}"))
}

#[test]
fn l11_one_of_several_steps_is_exchanged_under_load_and_nothing_is_lost() {
    let stage = stage("versions_swap", "");
    let host = stage.start_falkirk(&["run"]);
    until("the copy is there", SOON, || stage.green.count("item") == 200);
    until("it streams", SOON, || stage.falkirk(&["status"]).out.contains("streaming"));
    let (stop, committed) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut ran = BTreeSet::from(["00010002".to_owned()]);
    let (mut one, mut two) = (1, 2);
    std::thread::scope(|scope| {
        scope.spawn(|| load(&stage, &stop, &committed));
        let _ends = Ends(&stop);
        for number in 3..13 {
            let before = committed.load(Ordering::Relaxed);
            until("the application goes on", SOON, || committed.load(Ordering::Relaxed) > before + 5);
            let file = if number % 2 == 0 { first(&stage, number, "ok") } else { second(&stage, number, "ok") };
            *(if number % 2 == 0 { &mut one } else { &mut two }) = number;
            let answer = swap(&stage, file).expect(0).json();
            assert_eq!(answer["exchanged"], true, "{answer}");
            let artifact = answer["artifact"].as_str().expect("a label");
            assert!(artifact.contains(&format!("revision_{one}_ok.wasm")), "{artifact}");
            assert!(artifact.contains(&format!("revision_{two}_ok.wasm")), "{artifact}");
            ran.insert(format!("{one:04}{two:04}"));
        }
    });
    arrives(&stage);
    // No row is signed by a pair that never ran together, and what is written now by the last one.
    let pairs = stage.green.rows("SELECT DISTINCT by || seal FROM item ORDER BY 1");
    assert!(pairs.iter().all(|pair| ran.contains(&pair[0])), "{pairs:?}, and only {ran:?} ran");
    assert!(pairs.len() > 3, "hardly any revision has written: {pairs:?}");
    stage.blue.sql("UPDATE item SET note = 'last' WHERE id = 7");
    arrives(&stage);
    assert_eq!(signed(&stage, 7), format!("{one:04}{two:04}"));
    // The history names what ran as one, and each step's own digest.
    let steps = stage.green.admin("SELECT step FROM falkirk.history WHERE outcome = 'took over'");
    assert_eq!(steps.len(), 10, "{steps:?}");
    let digests: BTreeSet<&str> = steps.iter().flat_map(|step| step[0].split("sha256:").skip(1)).collect();
    assert!(steps.iter().all(|step| step[0].starts_with("1 -> 2 (sha256:") && step[0].contains(", 2 -> 3 (sha256:")));
    // Five of each step, and of the second the one that the first exchange was made beside.
    assert!(digests.len() >= 11, "{digests:?}");
    let checkpoint = stage.green.admin("SELECT artifact FROM falkirk.checkpoint");
    let newest = "SELECT artifact FROM falkirk.history WHERE outcome = 'took over' ORDER BY at DESC LIMIT 1";
    assert_eq!(checkpoint, stage.green.admin(newest));
    host.terminate().expect(143).keeps_quiet_about("starting again from the checkpoint");
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn l11_of_several_steps_what_fits_none_is_refused_and_shadow_back_and_taking_back_are_about_the_whole_way() {
    let stage = stage("versions_swap_ways", "take_back_changes = 100\n");
    let mut host = stage.start_falkirk(&["run"]);
    until("the copy is there", SOON, || stage.green.count("item") == 200);
    until("it streams", SOON, || stage.falkirk(&["status"]).out.contains("streaming"));
    let other = swap_component(&stage, 3, "ok", Some(&rules(3, "note", "", "by")));
    swap(&stage, other).expect(1).says("NO_SUCH_STEP").says("from version 3 to 4").says("revision_1_ok.wasm@sha256:");
    let whole = rules(1, "note", "", "by").replace("\"to\": \"2\"", "\"to\": \"3\"");
    swap(&stage, swap_component(&stage, 4, "ok", Some(&whole))).expect(1).says("NO_SUCH_STEP");
    let misfit = swap_component(&stage, 5, "ok", Some(&rules(2, "nope", ", \"by\": \"by\"", "seal")));
    swap(&stage, misfit).expect(1).says("nope");
    let foreign = rules(2, "note", ", \"by\": \"by\"", "seal").replace("\"swap\"", "\"shop\"");
    swap(&stage, swap_component(&stage, 6, "ok", Some(&foreign))).expect(1).says("MIXED_APPLICATIONS");
    let refused = stage.green.admin("SELECT reason FROM falkirk.history WHERE outcome = 'refused'");
    assert!(refused.len() >= 4 && refused.iter().any(|reason| reason[0] == "NO_SUCH_STEP"), "{refused:?}");
    let change = |id: u32| {
        stage.blue.sql(&format!("UPDATE item SET note = 'x' || random() WHERE id = {id}"));
        arrives(&stage);
        signed(&stage, id)
    };
    assert_eq!(change(1), "00010002", "the old way runs on");
    // A trial: only the seal differs, and only if it is told to is it put in.
    let trial = |more: &[&str]| {
        let file = second(&stage, 7, "ok").to_string_lossy().into_owned();
        let mut asked = stage.start_falkirk(&[&["swap", &file, "--shadow", "3"], more].concat());
        until("enough was compared", SOON, || {
            stage.blue.sql("UPDATE item SET note = note || '.' WHERE id = 17");
            std::thread::sleep(std::time::Duration::from_millis(20));
            !asked.is_running()
        });
        asked.wait(SOON)
    };
    trial(&[]).expect(1).says("public.item").says(": seal").says("runs on");
    assert_eq!(change(2), "00010002");
    trial(&["--promote"]).expect(0);
    assert_eq!(change(3), "00010007");
    stage.falkirk(&["swap", "--back"]).expect(0).says("revision_2_ok.wasm");
    assert_eq!(change(4), "00010002");
    // A step that stops the link is taken back with the way that it was part of.
    swap(&stage, first(&stage, 8, "no")).expect(0);
    assert_eq!(change(5), "00080002");
    stage.blue.sql("UPDATE item SET note = 'odd' WHERE id = 6");
    arrives(&stage);
    assert_eq!(signed(&stage, 6), "00010002");
    assert!(host.is_running());
    host.terminate().expect(143).says("the one before it is taken back").says("revision_8_no.wasm");
    stage.falkirk(&["clean"]).expect(0);
}

/// A step that was put in by command holds over a restart, beside the file of the other step.
#[test]
fn l11_one_of_several_steps_that_was_put_in_by_command_goes_on_after_kill_9_and_back_is_back() {
    let stage = stage("versions_swap_holds", "");
    let start = || {
        let host = stage.start_falkirk(&["run"]);
        let streams = || stage.falkirk(&["status", "--json"]).expect(0).json();
        until("it streams", SOON, || streams()["phase"] == "streaming" && streams()["running"] == true);
        host
    };
    let change = |id: u32| {
        stage.blue.sql(&format!("UPDATE item SET note = 'x' || random() WHERE id = {id}"));
        arrives(&stage);
        signed(&stage, id)
    };
    let host = start();
    swap(&stage, second(&stage, 7, "ok")).expect(0);
    swap(&stage, first(&stage, 8, "ok")).expect(0);
    host.kill_9();
    let host = start();
    assert_eq!(change(1), "00080007");
    stage.falkirk(&["swap", "--back"]).expect(0).says("revision_1_ok.wasm").says("revision_7_ok.wasm");
    host.kill_9();
    let host = start();
    assert_eq!(change(2), "00010007");
    // Another file for one step: the configuration gets its way, whole.
    host.terminate().expect(143);
    std::fs::copy(first(&stage, 9, "ok"), stage.folder().join("revision_1_ok.wasm")).expect("it can be copied");
    let host = start();
    assert_eq!(change(3), "00090002");
    host.terminate().expect(143);
    stage.falkirk(&["clean"]).expect(0);
}

/// What was kept for columns to come is composed where it takes over: the step beside it was taken back meanwhile.
#[test]
fn l11_a_step_that_was_kept_takes_over_without_the_one_that_was_taken_back_meanwhile() {
    let stage = stage("versions_swap_kept", "take_back_changes = 1000\n");
    let host = stage.start_falkirk(&["run"]);
    until("the copy is there", SOON, || stage.green.count("item") == 200);
    until("it streams", SOON, || stage.falkirk(&["status"]).out.contains("streaming"));
    swap(&stage, second(&stage, 8, "no")).expect(0);
    let wider = swap_component(&stage, 5, "ok", Some(&rules(1, "note", ", \"more\": \"more\"", "by")));
    stage.falkirk(&["swap", "--when-fits", &wider.to_string_lossy()]).expect(1).says("more");
    let change = |id: u32, set: &str| {
        stage.blue.sql(&format!("UPDATE item SET {set} WHERE id = {id}"));
        arrives(&stage);
        signed(&stage, id)
    };
    assert_eq!(change(1, "note = 'fine'"), "00010008");
    assert_eq!(change(2, "note = 'odd'"), "00010002", "the second step is taken back");
    // An exchange of the one step says nothing about what is kept for the other one.
    swap(&stage, second(&stage, 9, "ok")).expect(0);
    assert_eq!(change(3, "note = 'fine'"), "00010009");
    stage.blue.sql("ALTER TABLE item ADD COLUMN more text");
    assert_eq!(change(4, "note = 'wider', more = 'x'"), "00050009");
    host.terminate().expect(143).says("took over where the columns changed");
    stage.falkirk(&["clean"]).expect(0);
}

/// As Kubernetes mounts a folder of files: the link to the folder that holds them is renamed.
#[test]
fn l11_several_files_that_are_watched_and_replaced_at_once_are_one_exchange_and_each_is_one_of_its_own() {
    let stage = stage("versions_watch", "");
    let place = |folder: &str, files: [&PathBuf; 2]| {
        let folder = stage.folder().join(folder);
        std::fs::create_dir(&folder).expect("a folder can be made");
        for (file, name) in files.iter().zip(["one.wasm", "two.wasm"]) {
            std::fs::copy(file, folder.join(name)).expect("a file can be copied");
        }
    };
    let link = |to: &str, name: &str| {
        std::os::unix::fs::symlink(to, stage.folder().join(name)).expect("a link can be made");
    };
    let turn_to = |folder: &str| {
        link(folder, "..data_tmp");
        let [from, to] = ["..data_tmp", "..data"].map(|name| stage.folder().join(name));
        std::fs::rename(from, to).expect("a link can be renamed");
    };
    place("v0", [&first(&stage, 1, "ok"), &second(&stage, 2, "ok")]);
    place("v1", [&first(&stage, 3, "ok"), &second(&stage, 4, "ok")]);
    place("v2", [&stage.file("broken.wasm", "no component"), &second(&stage, 6, "ok")]);
    link("v0", "..data");
    ["one.wasm", "two.wasm"].iter().for_each(|name| link(&format!("..data/{name}"), name));
    let path = stage.folder().join("falkirk.toml");
    let text = std::fs::read_to_string(&path).expect("it was written");
    let (head, rest) = text.split_once("transforms = [").expect("it names transforms");
    let rest = rest.split_once(']').expect("and ends").1;
    let watched = format!("{head}watch = true\ntransforms = [\"two.wasm\", \"one.wasm\"]{rest}");
    std::fs::write(path, watched).expect("it can be written");
    let host = stage.start_falkirk(&["run"]);
    until("the copy is there", SOON, || stage.green.count("item") == 200);
    let written = AtomicU64::new(1_000);
    let signs = |pair: &str| {
        until("the pair signs what is written", SOON, || {
            let id = written.fetch_add(1, Ordering::Relaxed);
            stage.blue.sql(&format!("INSERT INTO item VALUES ({id}, 'x')"));
            std::thread::sleep(std::time::Duration::from_millis(20));
            stage.green.count(&format!("(SELECT FROM item WHERE by || seal = '{pair}')")) > 0
        });
    };
    signs("00010002");
    turn_to("v1");
    signs("00030004");
    std::fs::copy(second(&stage, 5, "ok"), stage.folder().join("v1/two.wasm")).expect("a file can be copied");
    signs("00030005");
    // One of two is no transform: neither is put in, and the good one is not forgotten.
    turn_to("v2");
    until("the pair is refused", SOON, || host.err().contains("WASM_NOT_COMPONENT"));
    std::fs::copy(first(&stage, 7, "ok"), stage.folder().join("v2/one.wasm")).expect("a file can be copied");
    signs("00070006");
    arrives(&stage);
    let pairs = stage.green.rows("SELECT DISTINCT by || seal FROM item ORDER BY 1");
    assert_eq!(pairs, [["00010002"], ["00030004"], ["00030005"], ["00070006"]], "none that never ran together");
    let taken = stage.green.admin("SELECT FROM falkirk.history WHERE outcome = 'took over'");
    assert_eq!(taken.len(), 3);
    host.terminate().expect(143).keeps_quiet_about("starting again");
    stage.falkirk(&["clean"]).expect(0);
}
