//! The forward link without a transform: copy, stream, and the values and rows that travel as they are.

use falkirk_tests::{SOON, Stage, until, way};

const PLAIN: &str = "
    CREATE TABLE customer (id bigint PRIMARY KEY, name text, email text UNIQUE, note text);
    CREATE TABLE line (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        customer_id bigint NOT NULL REFERENCES customer, quantity int NOT NULL, price numeric(10,2),
        total numeric GENERATED ALWAYS AS (quantity * price) STORED);";

fn same(stage: &Stage) -> bool {
    ["customer", "line"].iter().all(|table| {
        let query = format!("SELECT * FROM {table}");
        stage.same(&query, &query)
    })
}

#[test]
fn l5_rows_are_copied_and_then_changes_follow() {
    let stage = Stage::one_way("copy_and_stream").toward(way!());
    stage.schemas(PLAIN, PLAIN);
    stage.blue.sql(
        "INSERT INTO customer SELECT n, 'name ' || n, n || '@x', repeat('n', 50) FROM generate_series(1, 2000) n;
         INSERT INTO line (customer_id, quantity, price) SELECT n, n % 7, n / 10.0 FROM generate_series(1, 2000) n;",
    );
    stage.config("forward", "transforms = []");
    stage.falkirk(&["check"]).expect(0).says("ready");
    let host = stage.start_falkirk(&["run"]);
    until("the copy is there", SOON, || stage.green.count("line") == 2000);
    stage.blue.sql(
        "BEGIN;
         INSERT INTO customer VALUES (5000, 'new', '5000@x', NULL);
         INSERT INTO line (customer_id, quantity, price) VALUES (5000, 2, 3.50);
         UPDATE customer SET name = 'changed', note = NULL WHERE id <= 10;
         DELETE FROM line WHERE customer_id BETWEEN 20 AND 40;
         UPDATE customer SET id = 9000 WHERE id = 5000 AND false;
         COMMIT;
         UPDATE line SET quantity = quantity + 1 WHERE id % 3 = 0;",
    );
    until("the changes are there", SOON, || same(&stage));
    stage.falkirk(&["status"]).expect(0).says("streaming");
    let finished = host.terminate().expect(143);
    finished.says("done at");
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    assert!(same(&stage));
    stage.falkirk(&["clean"]).expect(0).says("removed slot");
    assert_eq!(
        stage.blue.value("SELECT count(*)::text FROM pg_replication_slots WHERE slot_name LIKE '%copy_and_stream%'"),
        "0"
    );
    stage.falkirk(&["clean"]).expect(0).says("nothing of");
}
