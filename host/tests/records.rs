//! Rows that stand in several tables of one side for one row of the other: which tables are one family, what is noted,
//! and the decision rule line by line. That the rule as a whole converges is shown in `interleavings.rs`.

#[path = "interleavings/tables.rs"]
mod tables;

use std::sync::Arc;

use falkirk::change::{Before, Datum, Event, Image};
use falkirk::delta::decide::{Claim, Facts, Lost, Outcome, Rules, Standing, Verdict, decide, kin};
use falkirk::delta::{ANY_OWNER, Effect, Key, Operation};
use falkirk::lsn::Lsn;
use falkirk::plan::parts::{ALL, EXISTENCE, LinkParts, Parts};
use falkirk::plan::{Columns, Plan};
use falkirk::stream::notes::Notebook;
use tables::{catalog, described, plans, routed};

/// What is there, and what was changed at 15: by record, and by row.
#[derive(Default)]
struct Rows {
    there: Vec<usize>,
    record: u64,
    rows: [u64; 2],
    asserted: Vec<usize>,
}

impl Facts for Rows {
    fn exists(&self, target: usize, _key: &Key) -> bool {
        self.there.contains(&target)
    }

    fn changed(&self, _target: usize, _key: &Key, after: Lsn) -> u64 {
        if after < Lsn(15) { self.record } else { 0 }
    }

    fn changed_row(&self, target: usize, _key: &Key, after: Lsn) -> u64 {
        if after < Lsn(15) { self.rows[target] } else { 0 }
    }

    fn asserted(&self, target: usize, _key: &Key) -> bool {
        self.asserted.contains(&target)
    }
}

fn key() -> Key {
    Box::from([Datum::text("7")])
}

fn values(texts: &[&str]) -> Box<[Datum]> {
    texts.iter().map(|text| Datum::text(*text)).collect()
}

fn claim(target: usize, effect: Effect, changed: u64) -> Claim {
    let operation = Operation { target, owner_before: 1, owner_after: 1, effect };
    Claim { operation, whole: None, changed, knew: Lsn(10), at: Lsn(20), from: None }
}

fn insert(target: usize, changed: u64, texts: &[&str]) -> Claim {
    let columns: Columns = (0..texts.len() as u16).collect();
    claim(target, Effect::Insert { columns, values: values(texts) }, changed)
}

fn patch(target: usize, changed: u64, column: u16, whole: &[&str]) -> Claim {
    let values_of = values(&whole[usize::from(column)..=usize::from(column)]);
    let effect = Effect::Patch { key: key(), columns: Arc::from([column]), values: values_of };
    let columns: Columns = (0..whole.len() as u16).collect();
    Claim { whole: Some((columns, values(whole))), ..claim(target, effect, changed) }
}

fn delete(target: usize, changed: u64) -> Claim {
    claim(target, Effect::Delete { key: key() }, changed)
}

fn absent(target: usize) -> Claim {
    claim(target, Effect::Absent { key: key() }, ALL)
}

fn judge(plan: &Plan, parts: &LinkParts, standing: Standing, facts: &Rows, claims: Vec<Claim>) -> Outcome {
    let standings = vec![standing; plan.targets.len()];
    let rules = Rules {
        targets: &plan.targets,
        parts: parts.targets(),
        records: parts.records(),
        cleared: parts.cleared(),
        standings: &standings,
        twins: parts.twins(),
    };
    decide(rules, facts, claims)
}

fn again(outcome: &Outcome) -> Vec<usize> {
    outcome.reassertions.iter().map(|row| row.target).collect()
}

fn effects(outcome: &Outcome) -> Vec<(usize, Effect)> {
    outcome.operations.iter().map(|operation| (operation.target, operation.effect.clone())).collect()
}

fn target(plan: &Plan, name: &str) -> usize {
    plan.targets.iter().position(|target| target.name.table == name).unwrap()
}

fn bits(parts: &LinkParts, target: usize, column: u16) -> u64 {
    parts.of_target(target, &Columns::from([column]))
}

#[test]
fn l8_tables_that_one_row_stands_for_are_one_family_and_share_no_parts() {
    let [forward, backward] = routed();
    let parts = Parts::new(&forward, &backward);
    let (open, done) = (target(&forward, "open"), target(&forward, "done"));
    let records = parts.forward.records();
    assert_eq!(
        records[open].as_ref().map(|record| &record.family),
        records[done].as_ref().map(|record| &record.family)
    );
    assert!(records.iter().flatten().all(|record| !record.is_detail && record.says == ALL));
    assert_eq!(parts.forward.source_record(0), None, "blue's table is alone");
    assert_eq!(bits(&parts.forward, open, 2), bits(&parts.forward, done, 2), "both are blue's a");
    assert_eq!(bits(&parts.forward, open, 1) & bits(&parts.forward, open, 2), 0);
    assert!(parts.forward.says_absent(open) && parts.forward.says_absent(done) && parts.backward.says_absent(0));
    assert_eq!(kin(records, open, &key()).len(), 2);

    let [forward, backward] = described();
    let parts = Parts::new(&forward, &backward);
    let (member, bio) = (target(&forward, "member"), target(&forward, "bio"));
    let records = parts.forward.records();
    let part = bits(&parts.forward, bio, 1);
    assert!(!records[member].as_ref().unwrap().is_detail && records[bio].as_ref().unwrap().is_detail);
    assert_eq!((records[bio].as_ref().unwrap().says, records[member].as_ref().unwrap().says), (part, ALL & !part));
    assert_eq!(part & EXISTENCE, 0, "whether it is there is a value of the row");
    assert_eq!(parts.forward.of_source(0, [2]), part, "and so is what that depends on");
    assert_eq!(parts.backward.cleared()[0].as_ref(), [2]);
    assert_eq!(kin(records, bio, &key())[0].0, member, "owners first");
}

#[test]
fn l8_keys_of_one_family_are_noted_in_one_order() {
    let blue = catalog(&[("t", &["a", "b", "kind"], 2)]);
    let green = catalog(&[("x", &["a", "b", "kind"], 2), ("y", &["b", "a", "kind"], 2)]);
    let to = |table: &str| serde_json::json!({ "table": table, "when": ["kind"], "same_named": true });
    let back = |table: &str| serde_json::json!({ "table": table, "outputs": [{ "table": "t", "same_named": true, "shares": true }] });
    let forward = serde_json::json!([{ "table": "t", "columns": ["kind"], "outputs": [to("x"), to("y")] }]);
    let [forward, backward] = plans([&blue, &green], [forward, serde_json::json!([back("x"), back("y")])]);
    let notebook = Notebook::new(&backward, &forward, Parts::new(&forward, &backward).backward);
    let noted = |table: &str, cells: [&str; 3]| {
        let source = backward.sources.iter().position(|source| source.name.table == table).unwrap();
        let image = Image::from_datums(&cells.map(Datum::text));
        let mut notes = Vec::new();
        notebook.note(source, &Event::Delete(Before::Full(image)), &mut notes);
        notes
    };
    let (x, y) = (noted("x", ["1", "2", "k"]), noted("y", ["2", "1", "k"]));
    assert_eq!((x.len(), y.len()), (2, 2), "the row and the record");
    assert_ne!(x[0], y[0], "two rows");
    assert_eq!(x[1], y[1], "one record");
    assert_ne!(x[1].0, noted("y", ["1", "2", "k"])[1].0, "another one");
}

#[test]
fn counter_example_10_a_part_of_a_key_is_no_family() {
    let blue = catalog(&[("message", &["kind", "id", "body"], 2)]);
    let green = catalog(&[("mail", &["id", "body"], 1), ("letter", &["id", "body"], 1)]);
    let to = |table: &str| serde_json::json!({ "table": table, "when": ["kind"], "same_named": true });
    let forward =
        serde_json::json!([{ "table": "message", "columns": ["kind"], "outputs": [to("mail"), to("letter")] }]);
    let [forward, backward] = plans(
        [&blue, &green],
        [
            forward,
            serde_json::json!([
        { "table": "mail", "outputs": [] }, { "table": "letter", "outputs": [] }]),
        ],
    );
    let parts = Parts::new(&forward, &backward).forward;
    assert_eq!(parts.records(), [None, None], "mail 7 and letter 7 are two messages");
}

#[test]
fn l8_a_routed_row_that_both_sides_changed_loses_in_both_tables_and_is_sent_again_from_where_it_is() {
    let [forward, backward] = routed();
    let parts = Parts::new(&forward, &backward).forward;
    let (open, done) = (target(&forward, "open"), target(&forward, "done"));
    let a = bits(&parts, open, 2);
    let mut facts = Rows { there: vec![open], record: a, ..Rows::default() };
    facts.rows[open] = a;
    let moved = || vec![delete(open, EXISTENCE | 4), insert(done, EXISTENCE | 4, &["7", "1", "0"])];
    let outcome = judge(&forward, &parts, Standing::Yields, &facts, moved());
    assert!(outcome.operations.is_empty() && outcome.verdict.is_none());
    assert_eq!(outcome.conflicts.iter().map(|lost| lost.lost).collect::<Vec<_>>(), [Lost::Delete, Lost::Insert]);
    assert_eq!(again(&outcome), [open]);
    // What the same transaction then does where it believes the row to be is explained by what is sent again.
    let mut claims = moved();
    claims.push(patch(done, a, 2, &["7", "1", "1"]));
    let outcome = judge(&forward, &parts, Standing::Yields, &facts, claims);
    assert!(matches!(outcome.verdict, Some(Verdict::Unexpected { .. })));
    assert_eq!(again(&outcome), [open], "the verdict counts only after that");
    // A row that the winner itself moved is on its way whole.
    let mut facts = Rows { there: vec![done], record: ALL, ..Rows::default() };
    facts.rows = [ALL; 2];
    let outcome = judge(&forward, &parts, Standing::Yields, &facts, vec![patch(open, a, 2, &["7", "0", "1"])]);
    assert_eq!((outcome.conflicts.len(), again(&outcome).len()), (1, 0));
}

#[test]
fn l8_a_delete_of_a_row_that_the_winner_has_moved_loses_where_the_row_stands_and_is_recorded() {
    let [forward, backward] = routed();
    let parts = Parts::new(&forward, &backward).forward;
    let (open, done) = (target(&forward, "open"), target(&forward, "done"));
    let mut facts = Rows { there: vec![done], record: ALL, ..Rows::default() };
    facts.rows = [ALL; 2];
    let claims = || vec![delete(open, ALL), absent(done)];
    let lost = judge(&forward, &parts, Standing::Yields, &facts, claims());
    let conflicts: Vec<_> = lost.conflicts.iter().map(|conflict| (conflict.target, conflict.lost)).collect();
    assert_eq!((conflicts, lost.agreements, again(&lost).len()), (vec![(done, Lost::Delete)], 0, 0));
    let stops = judge(&forward, &parts, Standing::Stops, &facts, claims());
    assert!(matches!(stops.verdict, Some(Verdict::Stop(conflict)) if conflict.target == done));
    // A move that lost is recorded where it goes to; a row that is gone is agreed on.
    let moved = vec![delete(open, EXISTENCE | 4), insert(done, EXISTENCE | 4, &["7", "1", "0"])];
    assert_eq!(judge(&forward, &parts, Standing::Yields, &facts, moved).conflicts.len(), 1);
    let gone = judge(&forward, &parts, Standing::Yields, &Rows { there: vec![], ..facts }, claims());
    assert_eq!((gone.conflicts.len(), gone.agreements), (0, 1));
}

#[test]
fn l8_only_the_winner_says_where_a_row_is_not() {
    let [forward, backward] = routed();
    let parts = Parts::new(&forward, &backward).forward;
    let (open, done) = (target(&forward, "open"), target(&forward, "done"));
    let facts = Rows { there: vec![done], record: ALL, ..Rows::default() };
    let claims = || vec![patch(open, 1, 2, &["7", "0", "1"]), absent(done)];
    let wins = judge(&forward, &parts, Standing::Wins, &facts, claims());
    let deleted = (done, Effect::Delete { key: key() });
    assert!(matches!(&effects(&wins)[..], [(_, Effect::Insert { .. }), last] if *last == deleted));
    let none = judge(&forward, &parts, Standing::Wins, &Rows::default(), vec![absent(done)]);
    assert_eq!((none.operations.len(), none.agreements), (0, 0), "what is not there is as it should be");
    for standing in [Standing::Yields, Standing::Stops] {
        let outcome = judge(&forward, &parts, standing, &facts, vec![absent(done)]);
        assert_eq!((outcome.operations.len(), outcome.conflicts.len(), outcome.verdict), (0, 0, None));
    }
}

#[test]
fn l8_a_detail_is_a_value_of_its_row_until_the_row_itself_comes_or_goes() {
    let [forward, backward] = described();
    let parts = Parts::new(&forward, &backward).forward;
    let (member, bio) = (target(&forward, "member"), target(&forward, "bio"));
    let (name, part) = (bits(&parts, member, 1), bits(&parts, bio, 1));
    let mut facts = Rows { there: vec![member, bio], record: name, ..Rows::default() };
    facts.rows[member] = name;
    let yields = |facts: &Rows, claims| judge(&forward, &parts, Standing::Yields, facts, claims);
    // The winner changed the name: the loser's bio goes, its member does not, and then the bio stays as well.
    assert_eq!(yields(&facts, vec![delete(bio, part)]).operations.len(), 1);
    let gone = yields(&facts, vec![delete(member, ALL), delete(bio, ALL)]);
    assert_eq!((gone.operations.len(), gone.conflicts.len(), again(&gone)), (0, 2, vec![member, bio]));
    facts.asserted = vec![member, bio];
    assert!(yields(&facts, vec![delete(member, ALL), delete(bio, ALL)]).reassertions.is_empty(), "once is enough");
    // The winner changed the bio: the loser's bio loses, its name does not.
    let facts = Rows { there: vec![member, bio], record: part, rows: [part; 2], ..Rows::default() };
    assert_eq!(yields(&facts, vec![patch(bio, part, 1, &["7", "x"])]).conflicts.len(), 1);
    assert_eq!(yields(&facts, vec![patch(member, name, 1, &["7", "x"])]).operations.len(), 1);
    // A winner's change of the name says nothing of the bio.
    let repeated = Claim { changed: name, ..patch(bio, name, 1, &["7", "x"]) };
    let wins = judge(&forward, &parts, Standing::Wins, &Rows::default(), vec![repeated]);
    assert_eq!((wins.operations.len(), wins.agreements), (0, 0));
}

#[test]
fn l8_what_describes_a_row_that_is_gone_is_left_out_and_a_new_row_has_no_details_yet() {
    let [forward, backward] = described();
    let parts = Parts::new(&forward, &backward).backward;
    let effect = Effect::Patch { key: key(), columns: Arc::from([2]), values: values(&["x"]) };
    let operation = Operation { owner_before: ANY_OWNER, owner_after: ANY_OWNER, ..claim(0, effect, ALL).operation };
    let describes = || Claim { operation: operation.clone(), ..delete(0, ALL) };
    let gone = judge(&backward, &parts, Standing::Wins, &Rows::default(), vec![describes()]);
    assert_eq!((gone.operations.len(), gone.agreements, gone.verdict), (0, 1, None));
    let facts = Rows { there: vec![0], ..Rows::default() };
    let new = judge(&backward, &parts, Standing::Wins, &facts, vec![insert(0, ALL, &["7", "n"]), describes()]);
    let Effect::Patch { columns, values, .. } = &new.operations[0].effect else { panic!("the row is there") };
    assert_eq!((columns.as_ref(), &values[1]), (&[1, 2][..], &Datum::Null));
    assert_eq!(new.operations.len(), 2);
    // The loser lets go of a value that the winner has changed.
    let part = bits(&parts, 0, 2);
    let effect = Effect::Clear { key: key(), columns: Arc::from([2]), values: Box::from([Datum::Null]) };
    let clears = || Claim { operation: Operation { effect: effect.clone(), ..operation.clone() }, ..describes() };
    let facts = Rows { there: vec![0], record: part, rows: [part; 2], ..Rows::default() };
    let yields = |facts: &Rows| judge(&backward, &parts, Standing::Yields, facts, vec![clears()]);
    assert_eq!((yields(&facts).conflicts.len(), yields(&facts).reassertions.len()), (1, 0));
    assert_eq!(yields(&Rows { there: vec![0], ..Rows::default() }).operations.len(), 1);
    assert_eq!(yields(&Rows::default()).agreements, 1, "there is nothing to let go of");
}
