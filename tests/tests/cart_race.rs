//! Both releases give one customer a cart at the same moment: release 1 by its lines, for which the host makes a cart, and
//! release 2 by itself. One cart remains, the lines of both are in it, and what both wrote of one line is decided.

use falkirk_tests::{Open, SOON, Stage, cart_component, cart_schemas, until};

/// Blue's lines, and green's as their customers see them.
const OLD: &str = "SELECT product_id, customer_id, quantity FROM cart_line";
const NEW: &str =
    "SELECT l.product_id, c.id AS customer_id, l.quantity FROM cart_line l JOIN customer c ON c.cart_id = l.cart_id";

/// Both sides with four products and a customer who has no cart yet.
fn stage(name: &str, policy: &str) -> Stage {
    let stage = Stage::new(name);
    let [blue, green] = cart_schemas();
    stage.schemas(&blue, &green);
    stage.config("both", &format!("conflict = \"{policy}\"\n{}", Stage::transforms(Some(cart_component()))));
    stage.blue.sql(
        "INSERT INTO product (id, title) SELECT n, 'p' || n FROM generate_series(1, 4) n;
         INSERT INTO customer (id, name) VALUES (41, 'Ann')",
    );
    follow(&stage);
    stage
}

fn follow(stage: &Stage) {
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
}

fn kinds(stage: &Stage) -> Vec<Vec<String>> {
    let select = "SELECT kind FROM falkirk.conflict ORDER BY 1";
    [stage.blue.admin(select), stage.green.admin(select)].concat()
}

/// Both sides have these lines of the customer, in cart 700.
fn converged(stage: &Stage, lines: &[&str]) {
    stage.assert_same(OLD, NEW);
    assert_eq!(stage.blue.lines(OLD), lines);
    assert_eq!(stage.green.value("SELECT cart_id FROM customer WHERE id = 41"), "700");
    assert_eq!(stage.green.count("(SELECT FROM cart_line WHERE cart_id <> 700)"), 0, "no line is in nobody's cart");
    assert_eq!(stage.green.admin("SELECT blue, green FROM falkirk.key"), [["41", "700"]]);
    stage.falkirk(&["verify"]).expect(0);
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn l8_first_carts_of_one_customer_made_on_both_sides_while_nothing_ran_become_one() {
    for (policy, quantity) in [("green_wins", 20), ("blue_wins", 2)] {
        let stage = stage(&format!("cart_first_{policy}"), policy);
        stage.blue.sql("INSERT INTO cart_line VALUES (1, 41, 1), (2, 41, 2)");
        stage.green.sql(
            "BEGIN; INSERT INTO cart (id) VALUES (700); UPDATE customer SET cart_id = 700 WHERE id = 41;
             INSERT INTO cart_line VALUES (2, 700, 20), (3, 700, 3); COMMIT",
        );
        follow(&stage);
        follow(&stage);
        assert_eq!(kinds(&stage), [["insert"]], "{policy}: what both wrote of product 2");
        converged(&stage, &["(1,41,1)", &format!("(2,41,{quantity})"), "(3,41,3)"]);
    }
}

#[test]
fn l8_a_cart_that_is_opened_while_the_host_makes_one_for_the_same_customer_is_taken_instead() {
    for (policy, quantity) in [("green_wins", 20), ("blue_wins", 2)] {
        let stage = stage(&format!("cart_race_{policy}"), policy);
        let running = stage.start_falkirk(&["run"]);
        until("both links stream", SOON, || running.err().matches("streaming").count() >= 2);
        // The pod of release 2 is in the middle of it when the host sees the line of release 1.
        let opening = Open::transaction(
            &stage.green.application_url(),
            "INSERT INTO cart (id) VALUES (700); UPDATE customer SET cart_id = 700 WHERE id = 41;
             INSERT INTO cart_line VALUES (2, 700, 20), (3, 700, 3)",
        );
        stage.blue.sql("INSERT INTO cart_line VALUES (1, 41, 1), (2, 41, 2)");
        until("the host has made a cart of its own", SOON, || {
            stage.green.admin("SELECT FROM falkirk.key WHERE blue = '41'").len() == 1
        });
        opening.commit();
        until("both sides agree", SOON, || stage.blue.count("cart_line") == 3 && stage.same(OLD, NEW));
        // What release 1 changes of a line that is still on its way back to it is a conflict as well.
        stage.green.sql("INSERT INTO product (id, title) VALUES (5, 'heard of')");
        until("release 1 has heard of it", SOON, || stage.blue.count("product") == 5);
        // Both releases go on with it.
        stage
            .blue
            .sql("UPDATE cart_line SET quantity = 9 WHERE product_id = 1; INSERT INTO cart_line VALUES (4, 41, 4)");
        stage.green.sql("DELETE FROM cart_line WHERE product_id = 3");
        until("both sides agree again", SOON, || {
            stage.blue.count("cart_line") == 3 && stage.green.count("cart_line") == 3 && stage.same(OLD, NEW)
        });
        running.terminate().expect(143);
        assert_eq!(kinds(&stage), [["insert"]], "{policy}: what both wrote of product 2");
        converged(&stage, &["(1,41,9)", &format!("(2,41,{quantity})"), "(4,41,4)"]);
    }
}

#[test]
fn l8_a_cart_that_release_2_replaces_while_release_1_writes_its_lines_stops_no_link() {
    for (policy, lines, recorded) in [
        ("green_wins", ["(2,41,20)", "(3,41,3)", "(4,41,4)"].as_slice(), "update"),
        ("blue_wins", &["(1,41,9)", "(2,41,20)", "(3,41,3)", "(4,41,4)"], "delete"),
    ] {
        let stage = stage(&format!("cart_replaced_{policy}"), policy);
        stage.blue.sql("INSERT INTO cart_line VALUES (1, 41, 1), (2, 41, 2)");
        follow(&stage);
        // Nothing runs: the host's cart is replaced, and release 1 goes on with its lines.
        stage.green.sql(
            "BEGIN; INSERT INTO cart (id) VALUES (700); INSERT INTO cart_line VALUES (2, 700, 20), (3, 700, 3);
             UPDATE customer SET cart_id = 700 WHERE id = 41; COMMIT",
        );
        stage
            .blue
            .sql("UPDATE cart_line SET quantity = 9 WHERE product_id = 1; INSERT INTO cart_line VALUES (4, 41, 4)");
        follow(&stage);
        follow(&stage);
        stage.assert_same(OLD, NEW);
        assert_eq!(stage.blue.lines(OLD), lines, "{policy}");
        assert_eq!(kinds(&stage), [[recorded]], "{policy}: release 1's change of a line that release 2 took away");
        // The lines of the cart before are nobody's by now, and green's own.
        assert_eq!(stage.green.count("(SELECT FROM cart_line WHERE cart_id <> 700)"), 2);
        stage.falkirk(&["clean"]).expect(0);
    }
}

#[test]
fn l8_a_line_that_release_1_makes_anew_while_its_cart_is_replaced_stays_on_both_sides() {
    for policy in ["green_wins", "blue_wins"] {
        let stage = stage(&format!("cart_anew_{policy}"), policy);
        stage.blue.sql("INSERT INTO cart_line VALUES (1, 41, 1), (2, 41, 2)");
        follow(&stage);
        // The line leaves with the cart before, and release 1, which does not know, makes another one of the same key.
        stage.green.sql(
            "BEGIN; INSERT INTO cart (id) VALUES (700); INSERT INTO cart_line VALUES (3, 700, 3);
             UPDATE customer SET cart_id = 700 WHERE id = 41; COMMIT",
        );
        stage.blue.sql("DELETE FROM cart_line WHERE product_id = 1");
        stage.blue.sql("INSERT INTO cart_line VALUES (1, 41, 7)");
        follow(&stage);
        follow(&stage);
        stage.assert_same(OLD, NEW);
        assert_eq!(stage.blue.lines(OLD), ["(1,41,7)", "(3,41,3)"], "{policy}");
        stage.falkirk(&["verify"]).expect(0);
        stage.falkirk(&["clean"]).expect(0);
    }
}

/// Nothing runs, and both releases write: release 2 does something to the cart, release 1 goes on with its lines.
fn raced(stage: &Stage, new_release: &str) {
    stage.blue.sql("INSERT INTO cart_line VALUES (1, 41, 1), (2, 41, 2)");
    follow(stage);
    stage.green.sql(new_release);
    stage.blue.sql("UPDATE cart_line SET quantity = 9 WHERE product_id = 1");
    stage.blue.sql("INSERT INTO cart_line VALUES (4, 41, 4)");
    (0..3).for_each(|_| follow(stage));
    stage.assert_same(OLD, NEW);
    stage.falkirk(&["verify"]).expect(0);
}

#[test]
fn l8_a_cart_that_release_2_throws_away_while_release_1_writes_its_lines_is_made_anew_for_those() {
    for (policy, lines, recorded) in
        [("green_wins", ["(4,41,4)"].as_slice(), "update"), ("blue_wins", &["(1,41,9)", "(4,41,4)"], "delete")]
    {
        let stage = stage(&format!("cart_lost_{policy}"), policy);
        raced(&stage, "UPDATE customer SET cart_id = NULL WHERE id = 41");
        assert_eq!(stage.blue.lines(OLD), lines, "{policy}");
        assert_eq!(kinds(&stage), [[recorded]], "{policy}");
        // Both releases go on with the cart that the host has made.
        stage.blue.sql("INSERT INTO cart_line VALUES (3, 41, 3)");
        stage.green.sql("UPDATE cart_line SET quantity = 40 WHERE product_id = 4");
        follow(&stage);
        stage.assert_same(OLD, NEW);
        assert_eq!(stage.blue.lines(OLD)[lines.len() - 1..], ["(3,41,3)", "(4,41,40)"], "{policy}");
        stage.falkirk(&["clean"]).expect(0);
    }
}

#[test]
fn l8_a_cart_that_release_2_replaces_again_and_again_while_release_1_writes_its_lines_stays_one() {
    let open = |cart: u32| {
        format!(
            "BEGIN; INSERT INTO cart (id) VALUES ({cart}); INSERT INTO cart_line VALUES (2, {cart}, {cart}), (3, {cart}, 3);
             UPDATE customer SET cart_id = {cart} WHERE id = 41; COMMIT;"
        )
    };
    for (name, new_release, last) in [
        ("twice", format!("{}{}", open(700), open(701)), "701"),
        ("thrown", format!("{}UPDATE customer SET cart_id = NULL WHERE id = 41;{}", open(700), open(701)), "701"),
        ("back", format!("{}{}UPDATE customer SET cart_id = 700 WHERE id = 41;", open(700), open(701)), "700"),
    ] {
        for policy in ["green_wins", "blue_wins"] {
            let stage = stage(&format!("cart_{name}_{policy}"), policy);
            raced(&stage, &new_release);
            let all = [format!("(2,41,{last})"), "(3,41,3)".to_owned(), "(4,41,4)".to_owned()];
            let own = (policy == "blue_wins").then(|| "(1,41,9)".to_owned());
            assert_eq!(stage.blue.lines(OLD), own.into_iter().chain(all).collect::<Vec<_>>(), "{name}, {policy}");
            stage.falkirk(&["clean"]).expect(0);
        }
    }
}

#[test]
fn l8_a_customer_goes_back_to_the_cart_that_the_host_had_made_while_release_1_writes_its_lines() {
    for policy in ["green_wins", "blue_wins"] {
        let stage = stage(&format!("cart_first_again_{policy}"), policy);
        raced(
            &stage,
            "INSERT INTO cart (id) VALUES (700);
             CREATE TEMPORARY TABLE first AS SELECT cart_id FROM customer WHERE id = 41;
             UPDATE customer SET cart_id = 700 WHERE id = 41;
             UPDATE customer SET cart_id = (SELECT cart_id FROM first) WHERE id = 41",
        );
        stage.falkirk(&["clean"]).expect(0);
    }
}
