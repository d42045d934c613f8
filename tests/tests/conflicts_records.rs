//! Another decision about a row that stands in one of several tables, or that another table's row describes: what lost is
//! written as a whole record (L8, counter-example 21).

use falkirk_tests::{FULL_IDENTITY, Finished, Open, SOON, Side, Stage, operators_component, operators_schemas, until};

const PARCELS: [&str; 2] = [
    "SELECT id, state, weight FROM parcel",
    "SELECT id, state, weight FROM parcel_open UNION ALL SELECT id, state, weight FROM parcel_done",
];
const MEMBERS: [&str; 2] =
    ["SELECT id, name, bio FROM member", "SELECT id, name, bio FROM member LEFT JOIN member_bio USING (id)"];
const MESSAGES: [&str; 2] = [
    "SELECT id, 'mail' AS kind, body, NULL::int AS postage FROM mail
     UNION ALL SELECT id, 'letter', body, postage FROM letter",
    "SELECT id, kind, body, CASE kind WHEN 'letter' THEN postage END AS postage FROM message",
];

/// Green's application moves a parcel.
const DONE: &str = "WITH gone AS (DELETE FROM parcel_open WHERE id = 1 RETURNING *)
    INSERT INTO parcel_done SELECT id, 'done', weight FROM gone";

/// The operators' two schemas with these rows on blue, both links caught up and nothing running.
fn stage(name: &str, policy: &str, rows: &str) -> Stage {
    let stage = Stage::new(name);
    let [blue, green] = operators_schemas().map(|schema| schema + FULL_IDENTITY);
    stage.schemas(&blue, &green);
    stage.config("both", &format!("conflict = \"{policy}\"\n{}", Stage::transforms(Some(operators_component()))));
    stage.blue.sql(rows);
    follow(&stage).expect(0);
    stage
}

fn follow(stage: &Stage) -> Finished {
    stage.falkirk(&["run", "--until", "caught-up"])
}

/// Id, kind and table of the conflicts in this state, oldest first.
fn listed(stage: &Stage, state: &str) -> Vec<[String; 3]> {
    let json = stage.falkirk(&["conflicts", "list", "--state", state, "--json"]).expect(0).json();
    let text = |entry: &serde_json::Value, name: &str| entry[name].as_str().unwrap_or_default().to_owned();
    let entries = json["conflicts"].as_array().cloned().expect("there is a list");
    entries.iter().map(|entry| ["id", "kind", "table"].map(|name| text(entry, name))).collect()
}

/// Kind and table of those that were decided, sorted.
fn decided(stage: &Stage) -> Vec<String> {
    let mut kinds: Vec<String> =
        listed(stage, "decided").into_iter().map(|[_, kind, table]| format!("{kind} {table}")).collect();
    kinds.sort();
    kinds
}

/// The id of the only decided conflict of this kind and table.
fn id_of(stage: &Stage, what: &str) -> String {
    let all = listed(stage, "decided");
    let ids: Vec<&String> =
        all.iter().filter(|[_, kind, table]| format!("{kind} {table}") == what).map(|[id, ..]| id).collect();
    assert_eq!(ids.len(), 1, "{what}: {all:?}");
    ids[0].clone()
}

fn resolve(stage: &Stage, id: &str, take: &str) -> Finished {
    stage.falkirk(&["conflicts", "resolve", id, "--take", take])
}

/// Takes the loser, lets the links run, and sees both sides hold just this, with nothing left to be decided.
#[track_caller]
fn take(stage: &Stage, what: &str, loser: &str, laws: [&str; 2], expected: &str) {
    let said = resolve(stage, &id_of(stage, what), loser).expect(0);
    said.keeps_quiet_about("secret");
    follow(stage).expect(0);
    stage.assert_same(laws[0], laws[1]);
    let expected: Vec<&str> = Some(expected).filter(|row| !row.is_empty()).into_iter().collect();
    assert_eq!(stage.blue.lines(laws[0]), expected);
    assert_eq!(decided(stage), [""; 0], "one word is about the whole record");
}

fn end(stage: &Stage) {
    stage.falkirk(&["clean"]).expect(0);
}

const PARCEL: &str = "INSERT INTO parcel VALUES (1, 'open', 3)";

#[test]
fn l8_what_lost_against_a_move_takes_the_row_back_into_its_own_table() {
    let stage = stage("records_moved", "green_wins", PARCEL);
    stage.blue.sql("UPDATE parcel SET weight = 5");
    stage.green.sql(DONE);
    follow(&stage).expect(0);
    stage.assert_same(PARCELS[0], PARCELS[1]);
    let id = id_of(&stage, "update public.parcel_open");
    let shown = stage.falkirk(&["conflicts", "show", &id]).expect(0);
    shown
        .says("blue has a row in public.parcel_open that green has in public.parcel_done")
        .says("moves green's row from public.parcel_done to public.parcel_open now");
    resolve(&stage, &id, "blue").expect(0).says("from public.parcel_done to public.parcel_open, as blue has it");
    assert_eq!((stage.green.count("parcel_open"), stage.green.count("parcel_done")), (1, 0), "one row, in one table");
    follow(&stage).expect(0);
    stage.assert_same(PARCELS[0], PARCELS[1]);
    assert_eq!(stage.blue.lines(PARCELS[0]), ["(1,open,5)"]);
    resolve(&stage, &id, "blue").expect(1).says("ALREADY_RESOLVED");
    end(&stage);
}

#[test]
fn l8_a_move_that_lost_is_taken_as_a_whole_by_either_of_its_records() {
    for (name, what) in
        [("records_move_d", "delete public.parcel_open"), ("records_move_i", "insert public.parcel_done")]
    {
        let stage = stage(name, "green_wins", PARCEL);
        stage.blue.sql("UPDATE parcel SET state = 'done'");
        stage.green.sql("UPDATE parcel_open SET weight = 7");
        follow(&stage).expect(0);
        assert_eq!(decided(&stage), ["delete public.parcel_open", "insert public.parcel_done"]);
        assert_eq!(stage.blue.lines(PARCELS[0]), ["(1,open,7)"]);
        take(&stage, what, "blue", PARCELS, "(1,done,3)");
        assert_eq!(listed(&stage, "resolved").len(), 2);
        end(&stage);
    }
}

#[test]
fn l8_a_delete_that_lost_against_a_move_is_recorded_and_can_be_taken() {
    let stage = stage("records_deleted", "green_wins", PARCEL);
    stage.blue.sql("DELETE FROM parcel");
    stage.green.sql(DONE);
    follow(&stage).expect(0);
    assert_eq!(stage.blue.lines(PARCELS[0]), ["(1,done,3)"], "green wins");
    assert_eq!(decided(&stage), ["delete public.parcel_done"], "L3: what blue did was not done");
    take(&stage, "delete public.parcel_done", "blue", PARCELS, "");
    end(&stage);
}

#[test]
fn counter_example_21_a_record_of_which_any_row_has_changed_since_is_left_alone() {
    let moves_back = "WITH gone AS (DELETE FROM parcel_done RETURNING *) INSERT INTO parcel_open SELECT * FROM gone";
    for (name, later) in [("records_since_w", "UPDATE parcel_done SET weight = 8"), ("records_since_m", moves_back)] {
        let stage = stage(name, "green_wins", PARCEL);
        stage.blue.sql("UPDATE parcel SET weight = 5");
        stage.green.sql(DONE);
        follow(&stage).expect(0);
        let id = id_of(&stage, "update public.parcel_open");
        stage.green.sql(later);
        let before = stage.green.lines(PARCELS[1]);
        resolve(&stage, &id, "blue").expect(1).says("ROW_CHANGED").says("public.parcel_open");
        assert_eq!(stage.green.lines(PARCELS[1]), before);
        resolve(&stage, &id, "green").expect(0).says("confirmed");
        end(&stage);
    }
}

#[test]
fn counter_example_21_a_row_that_moves_while_its_record_is_being_resolved_is_not_written_twice() {
    let stage = stage("records_passes", "green_wins", PARCEL);
    stage.blue.sql("UPDATE parcel SET weight = 5");
    stage.green.sql(DONE);
    follow(&stage).expect(0);
    let id = id_of(&stage, "update public.parcel_open");
    let moves = "WITH gone AS (DELETE FROM parcel_done RETURNING *) INSERT INTO parcel_open SELECT * FROM gone";
    let application = Open::transaction(&stage.green.application_url(), moves);
    let resolving = stage.start_falkirk(&["conflicts", "resolve", &id, "--take", "blue"]);
    let waits =
        format!("SELECT FROM pg_stat_activity WHERE usename = '{}' AND wait_event_type = 'Lock'", stage.green.role());
    until("it waits for the application", SOON, || !stage.green.admin(&waits).is_empty());
    application.commit();
    resolving.wait(SOON).expect(1).says("ROW_CHANGED");
    assert_eq!(stage.green.lines(PARCELS[1]), ["(1,done,3)"]);
    end(&stage);
}

/// What describes a row, and whether the row itself is there.
#[test]
fn l8_what_describes_a_row_comes_back_with_it_and_goes_with_it() {
    let gone = "BEGIN; DELETE FROM member_bio; DELETE FROM member; COMMIT";
    let cases = [
        // Only the detail lost, and its row is gone.
        ("bio", "UPDATE member SET bio = 'x'", gone, "update public.member_bio", "(1,a,x)"),
        ("name", "UPDATE member SET name = 'n'", gone, "update public.member", "(1,n,b)"),
        ("delete", "DELETE FROM member", "UPDATE member_bio SET bio = 'g'", "delete public.member", ""),
        ("delete_b", "DELETE FROM member", "UPDATE member_bio SET bio = 'g'", "delete public.member_bio", ""),
        (
            "clear",
            "UPDATE member SET bio = NULL",
            "UPDATE member_bio SET bio = 'g'",
            "delete public.member_bio",
            "(1,a,)",
        ),
    ];
    for (name, blue, green, what, expected) in cases {
        let name = format!("records_{name}");
        let stage = stage(&name, "green_wins", "INSERT INTO member VALUES (1, 'a', 'b')");
        stage.blue.sql(blue);
        stage.green.sql(green);
        follow(&stage).expect(0);
        stage.assert_same(MEMBERS[0], MEMBERS[1]);
        take(&stage, what, "blue", MEMBERS, expected);
        assert!(stage.green.count("member_bio") <= stage.green.count("member"), "nothing describes a row that is gone");
        end(&stage);
    }
}

#[test]
fn l8_a_row_that_both_sides_made_is_taken_with_what_describes_it_on_the_side_that_lost() {
    for (name, what) in [("records_both_m", "insert public.member"), ("records_both_b", "insert public.member_bio")] {
        let stage = stage(name, "green_wins", "");
        stage.blue.sql("INSERT INTO member VALUES (9, 'blue', 'of blue')");
        stage.green.sql("INSERT INTO member VALUES (9, 'green')");
        follow(&stage).expect(0);
        assert_eq!(stage.blue.lines(MEMBERS[0]), ["(9,green,)"]);
        take(&stage, what, "blue", MEMBERS, "(9,blue,\"of blue\")");
        end(&stage);
    }
}

#[test]
fn l8_a_column_that_lost_is_taken_alone_whatever_became_of_the_rest_of_its_record() {
    let stage = stage("records_column", "green_wins", "INSERT INTO member VALUES (1, 'a', 'b')");
    stage.blue.sql("UPDATE member SET name = 'blue'");
    stage.green.sql("BEGIN; UPDATE member SET name = 'green'; DELETE FROM member_bio; COMMIT");
    follow(&stage).expect(0);
    take(&stage, "update public.member", "blue", MEMBERS, "(1,blue,)");
    end(&stage);
}

const ACCOUNTS: [&str; 2] =
    ["SELECT id, name, picture FROM account LEFT JOIN avatar USING (id)", "SELECT id, name, picture FROM account"];

#[test]
fn l8_columns_of_a_row_of_others_that_is_gone_are_taken_with_the_row_or_refused_by_name() {
    let rows = "INSERT INTO account VALUES (1, 'a'); INSERT INTO avatar VALUES (1, 'p')";
    let gone = "DELETE FROM account";
    let alone = stage("records_avatar", "green_wins", rows);
    alone.blue.sql("UPDATE avatar SET picture = 'x'");
    alone.green.sql(gone);
    follow(&alone).expect(0);
    let id = id_of(&alone, "update public.account");
    resolve(&alone, &id, "blue").expect(1).says("RECORD_UNKNOWN").says("public.account");
    assert_eq!((alone.green.count("account"), decided(&alone).len()), (0, 1));
    end(&alone);
    let both = stage("records_account", "green_wins", rows);
    both.blue.sql("BEGIN; UPDATE avatar SET picture = 'x'; UPDATE account SET name = 'n'; COMMIT");
    both.green.sql(gone);
    follow(&both).expect(0);
    assert_eq!(decided(&both), ["update public.account", "update public.account"]);
    resolve(&both, &listed(&both, "decided")[0][0], "blue").expect(0);
    follow(&both).expect(0);
    both.assert_same(ACCOUNTS[0], ACCOUNTS[1]);
    assert_eq!((both.blue.lines(ACCOUNTS[0]), decided(&both).len()), (vec!["(1,n,x)".to_owned()], 0));
    end(&both);
}

#[test]
fn l8_the_same_holds_where_blue_has_the_two_tables_and_wins() {
    let stage = stage("records_blue", "blue_wins", "INSERT INTO mail VALUES (1, 'a')");
    stage.green.sql("UPDATE message SET kind = 'letter', postage = 4");
    stage.blue.sql("UPDATE mail SET body = 'blue'");
    follow(&stage).expect(0);
    assert_eq!(decided(&stage), ["delete public.mail", "insert public.letter"]);
    take(&stage, "insert public.letter", "green", MESSAGES, "(1,letter,a,4)");
    end(&stage);
}

#[test]
fn counter_example_21_under_stop_a_word_about_one_row_of_a_record_is_one_about_all() {
    for (name, word, expected) in [("records_stop_b", "blue", "(1,open,5)"), ("records_stop_g", "green", "(1,done,3)")]
    {
        let stage = stage(name, "stop", PARCEL);
        stage.blue.sql("UPDATE parcel SET weight = 5");
        stage.green.sql(DONE);
        let stopped = follow(&stage).expect(3).says("CONFLICT");
        let open = listed(&stage, "open");
        let mut ids = open.iter().map(|[id, ..]| id);
        let said = |id: &&String| stopped.err.contains(&format!("resolve {id} "));
        let id = ids.find(said).unwrap_or_else(|| panic!("none of {open:?} is said\n{}", stopped.err));
        resolve(&stage, id, word).expect(0);
        follow(&stage).expect(0);
        stage.assert_same(PARCELS[0], PARCELS[1]);
        assert_eq!(stage.blue.lines(PARCELS[0]), [expected]);
        assert_eq!(listed(&stage, "open"), [[""; 3]; 0], "the other link's record is closed as well");
        end(&stage);
    }
}

/// Blue's change of a row, green's, and what is left where blue's word is taken and where green's is.
const CAME_OR_WENT: [(&str, &str, &str, [&str; 2]); 4] = [
    ("d", "DELETE FROM client", "UPDATE patron SET name = 'g'", ["", "(1,g)"]),
    (
        "n",
        "BEGIN; DELETE FROM client; INSERT INTO client VALUES (1, 'new'); COMMIT",
        "UPDATE patron SET name = 'g'",
        ["(1,new)", "(1,g)"],
    ),
    (
        "u",
        "UPDATE client SET name = 'b'",
        "BEGIN; DELETE FROM patron; INSERT INTO patron VALUES (1, 'new'); COMMIT",
        ["(1,b)", "(1,new)"],
    ),
    (
        "i",
        "INSERT INTO client VALUES (2, 'b'); DELETE FROM client WHERE id = 1",
        "INSERT INTO patron VALUES (2, 'g')",
        ["(2,b)", "(2,g)"],
    ),
];

#[test]
fn counter_example_21_under_stop_a_word_about_a_row_that_came_or_went_is_carried_out_by_both_links() {
    for (name, blue, green, left) in CAME_OR_WENT {
        for (word, left) in ["blue", "green"].into_iter().zip(left) {
            let name = format!("records_word_{name}_{}", &word[..1]);
            let stage = stage(&name, "stop", "INSERT INTO client VALUES (1, 'a')");
            stage.blue.sql(blue);
            stage.green.sql(green);
            follow(&stage).expect(3).says("CONFLICT");
            let open = listed(&stage, "open");
            resolve(&stage, &open[0][0], word).expect(0);
            follow(&stage).expect(0);
            let laws = ["SELECT id, name FROM client", "SELECT id, name FROM patron"];
            stage.assert_same(laws[0], laws[1]);
            assert_eq!(stage.blue.lines(laws[0]).join(" "), left, "{word}'s word about {name}");
            assert_eq!(listed(&stage, "open"), [[""; 3]; 0]);
            end(&stage);
        }
    }
}

#[test]
fn counter_example_21_under_stop_a_word_is_not_taken_about_a_record_that_has_moved_since() {
    let stage = stage("records_stop_m", "stop", PARCEL);
    stage.blue.sql("UPDATE parcel SET weight = 5");
    stage.green.sql(DONE);
    until("green holds a record", SOON, || {
        follow(&stage).expect(3);
        listed(&stage, "open").iter().any(|[id, ..]| id.starts_with("green"))
    });
    let open = listed(&stage, "open");
    let id = open.iter().map(|[id, ..]| id).find(|id| id.starts_with("green")).expect("green holds one");
    stage.green.sql("UPDATE parcel_done SET weight = 8");
    resolve(&stage, id, "blue").expect(1).says("ROW_CHANGED").says("then resolve again");
    resolve(&stage, id, "blue").expect(0);
    until("both sides agree", SOON, || {
        follow(&stage);
        stage.same(PARCELS[0], PARCELS[1]) && listed(&stage, "open").is_empty()
    });
    assert_eq!(stage.green.lines(PARCELS[1]), ["(1,open,5)"]);
    end(&stage);
}

#[test]
fn the_rows_of_a_record_are_erased_with_its_values() {
    let stage = stage("records_erased", "green_wins", "INSERT INTO member VALUES (1, 'a', 'b')");
    stage.blue.sql("UPDATE member SET bio = 'blue secret'");
    stage.green.sql("BEGIN; DELETE FROM member_bio; DELETE FROM member; COMMIT");
    follow(&stage).expect(0);
    let id = id_of(&stage, "update public.member_bio");
    let holds = |side: &Side| side.admin("SELECT FROM falkirk.conflict AS c WHERE c::text LIKE '%secret%'").len();
    assert_eq!(holds(&stage.green), 1);
    stage.green.admin("UPDATE falkirk.conflict SET at = now() - interval '91 days'");
    let host = stage.start_falkirk(&["run"]);
    until("it is erased", SOON, || holds(&stage.green) == 0);
    host.terminate().expect(143);
    resolve(&stage, &id, "blue").expect(1).says("VALUES_ERASED");
    end(&stage);
}
