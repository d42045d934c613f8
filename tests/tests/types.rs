//! Every type that an application is likely to have, through copy and stream, with settings on the roles that would
//! change the text of values: what arrives is what was sent (pitfalls 29 to 41, row 49).

use std::path::Path;

use falkirk_tests::ledger::Dice;
use falkirk_tests::{SOON, Side, Stage, rules_component, rules_schemas, until, way};

/// A type, values at its edges, and an expression for any number of others (`i` is the row's number).
type Kind = (&'static str, &'static [&'static str], &'static str);

const WORD: &str = "substr(md5(random()::text), 1, 1 + (random() * 11)::int)";

#[rustfmt::skip]
const KINDS: &[Kind] = &[
    ("boolean", &["t", "f"], "random() < 0.5"),
    ("smallint", &["-32768", "32767", "0"], "(random() * 65535 - 32768)::int"),
    ("integer", &["-2147483648", "2147483647", "0"], "(random() * 4294967295 - 2147483648)::bigint"),
    ("bigint", &["-9223372036854775808", "9223372036854775807", "9007199254740993"], "(random() * 1e18)::bigint * (1 - 2 * (i % 2))"),
    ("real", &["NaN", "Infinity", "-Infinity", "-0", "1e-45", "3.4028235e38", "0.1"], "(random() * 1e6)::real"),
    ("double precision", &["NaN", "Infinity", "-Infinity", "-0", "5e-324", "1.7976931348623157e308", "0.30000000000000004"], "random() * 10 ^ (i % 300)"),
    ("numeric", &["NaN", "Infinity", "-Infinity", "0", "0.00", "-0.10", "1e400", "1e-400", "123456789012345678901234567890.12345678901234567890"], "(random()::numeric * 10 ^ (i % 60)::numeric)"),
    ("numeric(10,2)", &["NaN", "99999999.99", "-99999999.99", "1.10"], "(random() * 1e7)::numeric(10,2)"),
    ("numeric(5,-2)", &["1234567", "-99"], "(random() * 1e6)::int"),
    ("money", &["-92233720368547758.08", "92233720368547758.07", "0.01"], "(random() * 1e6)::numeric::money"),
    ("text", &["", " ", "\\N", "NULL", "~", "it's \"quoted\"", "a\\b\\\\c", "zwölf \u{1F6F6} \u{10FFFF}", "tab\tline\nreturn\r\\."], "repeat(md5(random()::text), (random() * 5)::int)"),
    ("varchar(20)", &["", "   ", "exactly twenty chars"], WORD),
    ("char(5)", &["", "a", "abcde", "     "], "substr(md5(random()::text), 1, i % 6)"),
    ("\"char\"", &["a", "~", ""], "chr(33 + i % 90)"),
    ("name", &["some name", "Mixed\"Case"], WORD),
    ("citext", &["MiXeD", "mixed"], "upper(md5(random()::text))"),
    ("bytea", &["\\x", "\\x00ff5c27", "\\x5c5c"], "decode(repeat(md5(random()::text), i % 9), 'hex')"),
    ("uuid", &["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"], "md5(random()::text)::uuid"),
    ("date", &["infinity", "-infinity", "4713-01-01 BC", "0001-12-31 BC", "5874897-12-31", "10000-01-01", "2026-02-01"], "date '0001-01-01' + (random() * 4e6)::int"),
    ("time", &["00:00:00", "24:00:00", "23:59:59.999999"], "time '00:00' + random() * interval '1 day'"),
    ("timetz", &["24:00:00+00", "00:00:00-15:59", "23:59:59.999999+15:59"], "(time '00:00' + random() * interval '1 day')::text || '+05:30'"),
    ("timestamp", &["infinity", "-infinity", "4713-01-01 00:00:00 BC", "294276-12-31 23:59:59.999999", "2026-02-01 03:04:05.000001"], "timestamp '0001-01-01' + random() * interval '9999 years'"),
    ("timestamp(3)", &["infinity", "2026-02-01 03:04:05.006"], "timestamp(3) '2000-01-01' + random() * interval '99 years'"),
    ("timestamptz", &["infinity", "-infinity", "4713-01-02 00:00:00+00 BC", "0044-03-15 12:00:00+00 BC", "294276-12-31 23:59:59.999999+00", "10001-02-03 04:05:06+07"], "timestamptz '1900-01-01+00' + random() * interval '9000 years'"),
    ("interval", &["178000000 years", "-178000000 years", "0", "1 mon -1 day 00:00:01", "P1Y2M3DT4H5M6.789S", "-00:00:00.000001"], "random() * interval '99 years' - (i % 50) * interval '1 mon -3 days'"),
    ("json", &["{\"a\": 1, \"a\": 2}", " [1,  2 ] ", "\"\\u0000\"", "null"], "format('{\"a\":   %s, \"a\": \"%s\"}', i, random())::json"),
    ("jsonb", &["{\"b\": 1, \"a\": [null, 1.10]}", "1e300", "\"\\\"\"", "null"], "jsonb_build_object('k', random(), md5(random()::text), i)"),
    ("jsonpath", &["$.\"a\"[*]?(@ > 1)", "$"], "format('$.a[%s]', i)::jsonpath"),
    ("xml", &["<a b=\"c\">d</a>", "only text", "<a/><b/>"], "('<i>' || i || '</i>')::xml"),
    ("tsvector", &["'a b':1A 'it''s':2", "", "a:1,2B c"], "to_tsvector('simple', md5(random()::text) || ' ' || i)"),
    ("tsquery", &["a & !( b | c:*A )", "", "a <2> b"], "plainto_tsquery('simple', md5(random()::text) || ' ' || i)"),
    ("inet", &["::1", "10.0.0.1/8", "255.255.255.255", "2001:db8::1/64"], "('10.1.' || i % 256 || '.7/' || 8 + i % 25)::inet"),
    ("cidr", &["10.0.0.0/8", "2001:db8::/32", "0.0.0.0/0"], "('10.' || i % 256 || '.0.0/16')::cidr"),
    ("macaddr", &["ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00"], "substr(md5(random()::text), 1, 12)::macaddr"),
    ("macaddr8", &["ff:ff:ff:ff:ff:ff:ff:ff"], "substr(md5(random()::text), 1, 16)::macaddr8"),
    ("bit(5)", &["00000", "10101"], "(i % 32)::bit(5)"),
    ("varbit", &["", "1", "101010101010101"], "i::bit(16)::varbit"),
    ("varbit(9)", &["", "111111111"], "(i % 512)::bit(9)::varbit"),
    ("point", &["(1.5,-2)", "(NaN,Infinity)", "(-0,1e300)"], "point(random(), i)"),
    ("line", &["{1,2,3}", "{0,-1,0.1}"], "line(point(random(), i), point(i + 1, random()))"),
    ("lseg", &["[(0,0),(1,1)]"], "lseg(point(random(), i), point(i, random()))"),
    ("box", &["(1,1),(0,0)"], "box(point(random(), i), point(i, random()))"),
    ("path", &["[(0,0),(1,1)]", "((0,0),(1,1),(2,0))"], "path(format('[(%s,%s),(1,2)]', random(), i)::path)"),
    ("polygon", &["((0,0),(1,1),(2,0))"], "polygon(box(point(random(), i), point(i, random())))"),
    ("circle", &["<(0,0),0>", "<(1,2),3.5>"], "circle(point(random(), i), random())"),
    ("pg_lsn", &["0/0", "FFFFFFFF/FFFFFFFF"], "('A/' || to_hex(i))::pg_lsn"),
    ("oid", &["0", "4294967295"], "i::oid"),
    ("xid8", &["0", "18446744073709551615"], "i::text::xid8"),
    ("pg_snapshot", &["10:20:10,14", "1:1:"], "(i || ':' || i + 9 || ':' || i + 1)::pg_snapshot"),
    ("int4range", &["empty", "(,)", "[1,10)", "[-2147483648,2147483647)"], "int4range(i, i + 5)"),
    ("int8range", &["empty", "[,5)"], "int8range(i, i + 5)"),
    ("numrange", &["empty", "(1.10,2.20]", "[NaN,)"], "numrange(i, i + 1.5, '(]')"),
    ("daterange", &["empty", "[-infinity,infinity)", "[2026-02-01,10000-01-01)"], "daterange(current_date - i, current_date, '[)')"),
    ("tsrange", &["empty", "[\"2026-02-01 03:04:05.000001\",)"], "tsrange(timestamp '2000-01-01', timestamp '2000-01-02' + i * interval '1 us')"),
    ("tstzrange", &["empty", "[\"0044-03-15 12:00:00+00 BC\",infinity]"], "tstzrange(timestamptz '2000-01-01+00', timestamptz '2000-01-02+00' + i * interval '1 hour')"),
    ("int4multirange", &["{}", "{[1,3),[5,6)}", "{(,)}"], "int4multirange(int4range(i, i + 2), int4range(i + 9, i + 11))"),
    ("nummultirange", &["{}", "{[1.1,1.2],(3,)}"], "nummultirange(numrange(i, i + 0.5))"),
    ("tstzmultirange", &["{}", "{[\"2026-02-01 00:00:00+00\",\"2026-02-02 00:00:00+00\")}"], "tstzmultirange(tstzrange(timestamptz '2000-01-01+00', timestamptz '2000-01-02+00' + i * interval '1 hour'))"),
    ("integer[]", &["{}", "{1,NULL,3}", "[5:6]={1,2}", "[-1:0][2:3]={{1,2},{3,4}}"], "ARRAY[i, NULL, i + 1]"),
    ("bigint[]", &["{}", "{9223372036854775807,NULL}"], "ARRAY[i, NULL]::bigint[]"),
    ("text[]", &["{}", "{NULL,\"NULL\",\"\",\"a\\\"b\",\"a,b\",\"{}\",\"\\\\\"}", "[0:0]={x}"], "ARRAY[md5(random()::text), NULL, '', 'null', i || ',\"']"),
    ("numeric[]", &["{NaN,NULL,1.10,Infinity}"], "ARRAY[random()::numeric, i]"),
    ("double precision[]", &["{NaN,-0,0.30000000000000004}"], "ARRAY[random(), i]"),
    ("bytea[]", &["{\"\\\\x00ff\",NULL,\"\\\\x\"}"], "ARRAY[decode(md5(random()::text), 'hex')]"),
    ("timestamptz[]", &["{infinity,NULL,\"0044-03-15 12:00:00+00 BC\"}"], "ARRAY[timestamptz '2000-01-01+00' + i * interval '1 hour']"),
    ("date[]", &["{infinity,\"4713-01-01 BC\"}"], "ARRAY[date '2000-01-01' + i]"),
    ("interval[]", &["{\"1 mon -1 day\",NULL}"], "ARRAY[i * interval '1 mon 1 day']"),
    ("boolean[]", &["{t,f,NULL}"], "ARRAY[i % 2 = 0]"),
    ("uuid[]", &["{}"], "ARRAY[md5(random()::text)::uuid]"),
    ("jsonb[]", &["{\"{\\\"a\\\": 1}\",NULL}"], "ARRAY[to_jsonb(i)]"),
    ("hstore", &["\"a\"=>NULL, \"b\"=>\"c,d\"", "", "\"\"=>\"\""], "hstore(md5(random()::text), i::text)"),
    ("mood", &["sad", "a,b", "with \"quote\"", "Ünicode"], "(ARRAY['sad', 'a,b', 'Ünicode'])[1 + i % 3]::mood"),
    ("mood[]", &["{sad,NULL,\"a,b\"}"], "ARRAY['sad', 'a,b']::mood[]"),
    ("positive", &["1", "2147483647"], "i"),
    ("short", &["", "sevenis"], "substr(md5(random()::text), 1, i % 8)"),
    ("price", &["1.10", "NaN"], "(random() * 1e6)::numeric(10,2)"),
    ("padded", &["a", "abc"], "substr(md5(random()::text), 1, i % 4)"),
    ("moods", &["{sad}", "{}"], "ARRAY['sad']::mood[]"),
    ("pair", &["(1,\"a,b\")", "(,)", "(2,\"\")"], "ROW(i, random()::text || ',\"')::pair"),
    ("pair[]", &["{\"(1,\\\"a,b\\\")\",NULL}"], "ARRAY[ROW(i, 'x')::pair]"),
];

const RANDOM: usize = 150;

/// The first major version in which a numeric may have a negative scale.
const NEGATIVE_SCALE: u32 = 15;

/// The types that both servers know, in the same places whatever the version.
fn kinds(stage: &Stage) -> Vec<Kind> {
    let major = |side: &Side| side.value("SHOW server_version_num").parse::<u32>().expect("a number") / 10_000;
    let oldest = major(&stage.blue).min(major(&stage.green));
    let known = |kind: &Kind| match kind.0 {
        "numeric(5,-2)" if oldest < NEGATIVE_SCALE => ("numeric(7)", kind.1, kind.2),
        _ => *kind,
    };
    KINDS.iter().map(known).collect()
}

/// The types, and a table `member` with a column of each. The rules' table of that name gets the columns added.
fn schema(kinds: &[Kind], table: &str) -> String {
    let columns: Vec<String> = kinds.iter().enumerate().map(|(at, kind)| format!("ADD c{at} {}", kind.0)).collect();
    format!(
        "CREATE TYPE mood AS ENUM ('sad', 'a,b', 'with \"quote\"', 'Ünicode');
         CREATE DOMAIN positive AS int CHECK (VALUE > 0); CREATE DOMAIN short AS varchar(7);
         CREATE DOMAIN price AS numeric(10,2); CREATE DOMAIN padded AS char(3); CREATE DOMAIN moods AS mood[];
         CREATE TYPE pair AS (a int, b text); {table}; ALTER TABLE member {};",
        columns.join(", ")
    )
}

/// Statements that insert every edge and many random values, with ids from `first` on.
fn values(kinds: &[Kind], first: usize, dice: &mut Dice) -> String {
    // PostgreSQL takes a seed between -1 and 1.
    let seed = dice.below(2_000_001) as f64 / 1e6 - 1.0;
    let edges = kinds.iter().map(|kind| kind.1.len()).max().unwrap();
    let row = |at: usize| -> String {
        let cells = kinds.iter().map(|(name, values, _)| match values.get(at) {
            Some(value) => format!("'{}'::{name}", value.replace('\'', "''")),
            None => "NULL".to_owned(),
        });
        format!("({}, 'edge', {})", first + at, cells.collect::<Vec<_>>().join(", "))
    };
    let rows: Vec<String> = (0..edges).map(row).collect();
    let names: Vec<String> = (0..kinds.len()).map(|at| format!("c{at}")).collect();
    let random: Vec<String> = kinds.iter().map(|(name, _, any)| format!("({any})::{name}")).collect();
    format!(
        "SET extra_float_digits = 3; SET standard_conforming_strings = on;
         INSERT INTO member (id, note, {0}) VALUES {1}; SELECT setseed({seed});
         INSERT INTO member (id, note, {0}) SELECT {2} + i, 'random', {3} FROM generate_series(1, {RANDOM}) i;",
        names.join(", "),
        rows.join(", "),
        first + edges,
        random.join(", ")
    )
}

/// Settings that would change what values look like.
fn hostile(stage: &Stage) {
    for (side, style) in [(&stage.blue, "SQL, DMY"), (&stage.green, "German, MDY")] {
        let zone = if side.name == "blue" { "America/St_Johns" } else { "Asia/Kathmandu" };
        for role in [side.role(), side.owner()] {
            side.admin(&format!(
                "ALTER ROLE \"{role}\" SET DateStyle = '{style}'; ALTER ROLE \"{role}\" SET IntervalStyle = 'sql_standard';
                 ALTER ROLE \"{role}\" SET TimeZone = '{zone}'; ALTER ROLE \"{role}\" SET extra_float_digits = -15;
                 ALTER ROLE \"{role}\" SET bytea_output = 'escape'; ALTER ROLE \"{role}\" SET xmloption = 'document';
                 ALTER ROLE \"{role}\" SET standard_conforming_strings = off;"
            ));
        }
    }
}

/// Compares type by type, with settings that show everything.
#[track_caller]
fn compare(stage: &Stage, kinds: &[Kind], when: &str) {
    for side in [&stage.blue, &stage.green] {
        side.sql(
            "SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'postgres'; SET TimeZone = 'UTC';
             SET extra_float_digits = 3; SET bytea_output = 'hex'; SET standard_conforming_strings = on; SET xmloption = 'content'",
        );
    }
    let differing: Vec<&str> = kinds
        .iter()
        .enumerate()
        .filter(|(at, _)| {
            let query = format!("SELECT id, c{at}::text AS v FROM member");
            !stage.same(&query, &query)
        })
        .map(|(_, kind)| kind.0)
        .collect();
    if let Some(name) = differing.first() {
        let at = kinds.iter().position(|kind| kind.0 == *name).unwrap();
        let query = format!("SELECT id, c{at}::text AS v FROM member");
        eprintln!("{when}: types that differ: {differing:?}");
        stage.assert_same(&query, &query);
    }
    stage.assert_same("SELECT id, note FROM member", "SELECT id, note FROM member");
}

fn travel(name: &str, component: Option<&Path>) {
    let stage = Stage::one_way(name).toward(way!());
    for side in [&stage.blue, &stage.green] {
        side.admin("CREATE EXTENSION hstore SCHEMA public; CREATE EXTENSION citext SCHEMA public;");
    }
    let plain = || "CREATE TABLE member (id bigint PRIMARY KEY, note text)".to_owned();
    let [blue, green] = if component.is_some() { rules_schemas() } else { [plain(), plain()] };
    let (kinds, mut dice) = (kinds(&stage), Dice::of_this_run(name));
    stage.schemas(&schema(&kinds, &blue), &schema(&kinds, &green));
    hostile(&stage);
    stage.config("forward", &Stage::transforms(component));
    stage.blue.sql(&values(&kinds, 1, &mut dice));
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    compare(&stage, &kinds, "copied");
    let host = stage.start_falkirk(&["run"]);
    stage.blue.sql(&values(&kinds, 100_001, &mut dice));
    let columns: Vec<String> = (0..kinds.len()).map(|at| format!("c{at}")).collect();
    let columns = columns.join(", ");
    // Every value of one row goes to another by an update, and some columns alone.
    stage.blue.sql(&format!(
        "UPDATE member a SET ({columns}) = (SELECT {columns} FROM member b WHERE b.id = a.id + 1) WHERE a.id BETWEEN 100001 AND 100080;
         UPDATE member SET c10 = c10 || '!', c58 = c58 || 7, c22 = 'infinity' WHERE id % 3 = 0;
         UPDATE member SET ({columns}) = (SELECT {columns} FROM member b WHERE b.id = 100003), note = 'vip' WHERE id BETWEEN 5 AND 9;
         UPDATE member SET id = id + 500000 WHERE id BETWEEN 100090 AND 100099; DELETE FROM member WHERE id % 17 = 0;
         INSERT INTO member (id, note) VALUES (999999, 'last');"
    ));
    until("the last row is there", SOON, || stage.green.count("(SELECT FROM member WHERE id = 999999)") == 1);
    compare(&stage, &kinds, "streamed");
    host.terminate().expect(143);
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn pitfall_29_to_41_every_type_travels_as_it_is_whatever_the_roles_are_set_to() {
    assert!(KINDS.len() >= 40);
    travel("types_plain", None);
}

#[test]
fn pitfall_29_to_41_every_type_travels_beside_a_computed_column() {
    travel("types_rule", Some(rules_component()));
}

#[test]
fn row_49_a_megabyte_of_text_and_of_bytes_travels_by_copy_insert_and_update_whatever_the_roles_are_set_to() {
    let stage = Stage::one_way("types_large").toward(way!());
    let schema = "CREATE TABLE large (id int PRIMARY KEY, body text, raw bytea, document jsonb, note text)";
    stage.schemas(schema, schema);
    hostile(&stage);
    let row = |id: u32| {
        format!(
            "INSERT INTO large SELECT {id}, string_agg(md5(({id} + n)::text), ''), decode(string_agg(md5(n::text), ''), 'hex'),
                 jsonb_agg(md5(n::text)), 'small' FROM generate_series(1, 32768) n;"
        )
    };
    stage.blue.sql(&row(1));
    stage.config("forward", "transforms = []");
    let query = "SELECT id, md5(body), md5(raw), md5(document::text), note FROM large";
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    stage.assert_same(query, query);
    // Unchanged values that lie out of line are not sent again: they must stay.
    stage.blue.sql(
        &(row(2)
            + "UPDATE large SET note = 'changed'; UPDATE large SET body = body || 'x' WHERE id = 1;
        UPDATE large SET id = 3 WHERE id = 2; UPDATE large SET raw = NULL WHERE id = 3"),
    );
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    stage.assert_same(query, query);
    stage.falkirk(&["clean"]).expect(0);
}
