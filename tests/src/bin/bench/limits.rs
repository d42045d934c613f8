//! The price of the sandbox's limits: the shop's transform called by the bare engine, without and with the deadline that
//! ends a loop and the limiter that counts memory. Nothing of the host's own code is in it.

use std::hint::black_box;
use std::time::{Duration, Instant};

use wasmtime::component::{Component, Linker};
use wasmtime::{Config, Engine, ResourceLimiter, Store};

use crate::Wish;
use crate::ground::{Ground, Outcome};
use crate::report::Figure;
use crate::subject::Subject;

mod wire {
    #![allow(missing_docs)]
    wasmtime::component::bindgen!({ path: "../wit", world: "migration" });
}

use wire::exports::falkirk::migration::transform::{InputRow, Value};

const ROWS: usize = 1_000;
const TICK: Duration = Duration::from_millis(10);

/// Counts what the memories hold, as the host's does.
#[derive(Default)]
struct Meter {
    bytes: usize,
}

impl ResourceLimiter for Meter {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        self.bytes += desired.saturating_sub(current);
        Ok(self.bytes <= 64 << 20)
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= 20_000)
    }
}

/// Which limits hold.
#[derive(Clone, Copy)]
struct Limits {
    deadline: bool,
    limiter: bool,
}

const NONE: Limits = Limits { deadline: false, limiter: false };
const EACH: [(&str, &str, Limits); 3] = [
    ("limits-deadline", "the deadline", Limits { deadline: true, limiter: false }),
    ("limits-limiter", "the limiter", Limits { deadline: false, limiter: true }),
    ("limits", "deadline and limiter", Limits { deadline: true, limiter: true }),
];

/// Rows a second with each limit and with both, beside none.
pub fn measure(wish: &Wish, ground: &Ground) -> Outcome<Vec<Figure>> {
    let shop = Subject::shop(ground)?;
    let path = shop.transform.as_deref().ok_or("there is no transform")?;
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    let time = Duration::from_millis(if wish.quick { 300 } else { 2_000 });
    let rate = |limits| rate(&bytes, time, limits).map_err(|error| format!("{error:#}"));
    let mut figures = Vec::new();
    for (name, which, limits) in EACH {
        let what = format!("rows/s of the bare engine in batches of {ROWS} with {which}; native: without");
        let mut figure = Figure::rate(name, &what, "/s");
        for _ in 0..wish.turns {
            figure.native.push(rate(NONE)?);
            figure.falkirk.push(rate(limits)?);
        }
        figures.push(figure);
    }
    Ok(figures)
}

fn rate(bytes: &[u8], time: Duration, limits: Limits) -> wasmtime::Result<f64> {
    let mut config = Config::new();
    config.epoch_interruption(limits.deadline);
    // As the host's: no collector is built in.
    config.gc_support(false);
    let engine = Engine::new(&config)?;
    let component = Component::from_binary(&engine, bytes)?;
    let mut store = Store::new(&engine, Meter::default());
    if limits.limiter {
        store.limiter(|meter| meter);
    }
    if limits.deadline {
        store.set_epoch_deadline(1_000);
        // It ends with the engine's last user but itself, which it sees by the count of the weak handle.
        let weak = engine.weak();
        std::thread::spawn(move || {
            while let Some(engine) = weak.upgrade() {
                engine.increment_epoch();
                drop(engine);
                std::thread::sleep(TICK);
            }
        });
    }
    let transform = wire::Migration::instantiate(&mut store, &component, &Linker::new(&engine))?;
    let rows: Vec<InputRow> = (0..ROWS)
        .map(|number| Value::Text(format!("Given{} Family{}", number % 5_000, number % 70_000)))
        .map(|name| InputRow { values: vec![name], related: Vec::new() })
        .collect();
    let (begin, mut done) = (Instant::now(), 0);
    while begin.elapsed() < time {
        if limits.deadline {
            store.set_epoch_deadline(1_000);
        }
        let exports = transform.falkirk_migration_transform();
        drop(black_box(exports.call_forward(&mut store, "public.customer", &rows)?));
        done += ROWS;
    }
    Ok(done as f64 / begin.elapsed().as_secs_f64())
}
