//! The price of the WebAssembly boundary: rows through the shop's transform on one thread, beside the same function
//! called directly, and through one and two instances of it; and of another guest with the shop's rule for customers, if
//! `FALKIRK_JS_GUEST` names one. In process, without a database in the way: the plan comes from the shop's two schemas.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use falkirk::change::{Datum, Image};
use falkirk::pg::address::Address;
use falkirk::pg::catalog;
use falkirk::pg::session::Session;
use falkirk::plan::bind::{Binding, bind};
use falkirk::plan::{Answer, OutputRow, Plan, Source};
use falkirk::transform::{Artifact, Compiler, Direction, Guest, Limits};

use crate::Wish;
use crate::ground::{Database, Ground, Outcome, Side};
use crate::report::Figure;
use crate::subject::Subject;

const BATCHES: [usize; 2] = [100, 1_000];
/// Enough calls for several instances.
const SPREAD: usize = 10_000;

/// Rows a second and core, for each size of batch.
pub async fn measure(wish: &Wish, ground: &Ground) -> Outcome<Vec<Figure>> {
    let shop = Subject::shop(ground)?;
    let path = shop.transform.as_deref().ok_or("there is no transform")?;
    let limits = Limits::default();
    let artifact = Arc::new(Artifact::load(path, None, &limits, &Compiler::default()).map_err(said)?);
    let plan = plan(ground, &shop, &artifact).await?;
    let customer = plan.sources.iter().find(|source| source.name.table == "customer").ok_or("no table customer")?;
    let rows: Vec<Image> = (0..SPREAD).map(|number| customer_row(customer, number)).collect();
    let time = Duration::from_millis(if wish.quick { 300 } else { 2_000 });

    let mut guest = Guest::new(artifact.clone(), Direction::Forward, limits);
    let mut figures = Vec::new();
    for size in BATCHES {
        let what =
            format!("rows/s on one core in batches of {size}, customer's name split; native: the function alone");
        let mut figure = Figure::rate(&format!("boundary-{size}"), &what, "/s");
        let batch: Vec<&Image> = rows[..size].iter().collect();
        let name = customer.columns.iter().position(|column| column.name == "name").ok_or("no column name")?;
        let wanted: Vec<Answer> = batch.iter().map(|row| split(row, name)).collect::<Outcome<_>>()?;
        let answer = guest.answer(&plan, customer, &batch).map_err(|fault| fault.problem.to_string())?;
        if answer != wanted {
            return Err("the transform and the function do not agree".to_owned());
        }
        for _ in 0..wish.turns {
            figure.native.push(rate(time, size, || {
                let answers = batch.iter().map(|row| split(row, name)).collect::<Outcome<Vec<Answer>>>();
                answers.map(|answers| drop(black_box(answers)))
            })?);
            figure.falkirk.push(rate(time, size, || {
                let answers = guest.answer(&plan, customer, &batch).map_err(|fault| fault.problem.to_string());
                answers.map(|answers| drop(black_box(answers)))
            })?);
        }
        figures.push(figure);
    }
    figures.push(spread(wish, "rust", &artifact, (&plan, customer), &rows)?);
    figures.push(match std::env::var_os("FALKIRK_JS_GUEST") {
        Some(path) => {
            let artifact = Artifact::load(path.as_ref(), None, &roomy(1), &Compiler::default()).map_err(said)?;
            spread(wish, "js", &Arc::new(artifact), (&plan, customer), &rows)?
        }
        None => Figure::not_measured(&instances("js"), "`make guest-js` builds the guest, `make bench` takes it then"),
    });
    Ok(figures)
}

fn instances(language: &str) -> String {
    format!("boundary-{language}-instances")
}

/// Rows a second on two instances beside one.
fn spread(
    wish: &Wish,
    language: &str,
    artifact: &Arc<Artifact>,
    (plan, customer): (&Plan, &Source),
    rows: &[Image],
) -> Outcome<Figure> {
    let time = Duration::from_millis(if wish.quick { 300 } else { 2_000 });
    let what = format!("rows/s of a guest in {language} on two instances, batches of {SPREAD}; native: on one");
    let mut figure = Figure::rate(&instances(language), &what, "/s");
    let batch: Vec<&Image> = rows.iter().collect();
    let mut guests = [1, 2].map(|instances| Guest::new(artifact.clone(), Direction::Forward, roomy(instances)));
    for _ in 0..wish.turns {
        let [one, two] = &mut guests;
        for (guest, rates) in [(one, &mut figure.native), (two, &mut figure.falkirk)] {
            rates.push(rate(time, SPREAD, || {
                let answers = guest.answer(plan, customer, &batch).map_err(|fault| fault.problem.to_string());
                answers.map(|answers| drop(black_box(answers)))
            })?);
        }
    }
    Ok(figure)
}

/// Room for an engine that frees little.
fn roomy(instances: u32) -> Limits {
    Limits { instances, memory_mib: 256, ..Limits::default() }
}

/// The plan as a link makes it, from two databases that hold nothing but the schemas.
async fn plan(ground: &Ground, shop: &Subject, artifact: &Artifact) -> Outcome<Plan> {
    let blue = ground.database(Side::Blue, "bare_1", &shop.source_schema).await?;
    blue.run(shop.prepare_source).await?;
    let green = ground.database(Side::Green, "bare_2", &shop.target_schema).await?;
    let (source, target) = (read(&blue).await?, read(&green).await?);
    let rules = &artifact.manifest().forward;
    let bound = bind(&Binding {
        rules,
        artifact: artifact.label(),
        source: &source,
        target: &target,
        include: &[],
        exclude: &[],
        manifest: None,
    });
    for database in [blue, green] {
        ground.remove(database).await?;
    }
    bound.map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

async fn read(database: &Database) -> Outcome<falkirk::catalog::Catalog> {
    let address = Address::parse(&database.url).map_err(said)?;
    let session = Session::connect(&address, "bench").await.map_err(said)?;
    catalog::read(&session).await.map_err(said)
}

fn customer_row(customer: &Source, number: usize) -> Image {
    let value = |column: &str| match column {
        "id" => number.to_string(),
        "name" => format!("Given{} Family{}", number % 5_000, number % 70_000),
        "email" => format!("customer{number}@example.com"),
        "created_at" => "2026-01-01 00:00:00+00".to_owned(),
        _ => "{}".to_owned(),
    };
    let datums: Vec<Datum> = customer.columns.iter().map(|column| Datum::text(value(&column.name))).collect();
    Image::from_datums(&datums)
}

/// What the shop's transform does with a name, from the same rows to the same answers.
fn split(row: &Image, name: usize) -> Outcome<Answer> {
    let name = row.text(name).and_then(|text| std::str::from_utf8(text).ok()).ok_or("a row without a name")?;
    let values = match name.split_once(' ') {
        Some((first, last)) => vec![Datum::text(first), Datum::text(last)],
        None => vec![Datum::Null, Datum::text(name)],
    };
    Ok(vec![OutputRow { output: 0, values }])
}

fn rate(time: Duration, size: usize, mut batch: impl FnMut() -> Outcome<()>) -> Outcome<f64> {
    let begin = Instant::now();
    let mut rows = 0;
    while begin.elapsed() < time {
        batch()?;
        rows += size;
    }
    Ok(rows as f64 / begin.elapsed().as_secs_f64())
}

fn said(problem: falkirk::problem::Problem) -> String {
    problem.to_string()
}
