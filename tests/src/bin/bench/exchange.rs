//! The stall of an exchange: how long a link writes nothing because another revision takes over, under load.
//!
//! Each revision is the shop's transform with a section that nothing reads, so each is compiled, checked and bound like a
//! new one. What stands under `native` is one link alone here; with both links the first one waits for the second.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::Wish;
use crate::backlog::compare;
use crate::ground::{Database, Ground, Outcome, Side, text};
use crate::latency::share;
use crate::link::Link;
use crate::report::Figure;
use crate::subject::Subject;

const ROWS: u64 = 1_000;
/// Of each side that is written to.
const TRANSACTIONS_PER_SECOND: u64 = 200;
/// Between two exchanges, so that each meets a link that has caught up.
const PAUSE: Duration = Duration::from_millis(100);
/// How often what has arrived is compared before it counts as wrong.
const LOOKS: u32 = 300;

/// Median and 99th percentile, of one link and of both.
pub async fn measure(wish: &Wish, ground: &Ground) -> Outcome<Vec<Figure>> {
    let shop = Subject::shop(ground)?;
    let path = shop.transform.as_deref().ok_or("there is no transform")?;
    let mut revisions = Revisions { bytes: std::fs::read(path).map_err(|error| error.to_string())?, number: 0 };
    let each = wish.scaled(40);
    let mut stalls = [Vec::new(), Vec::new()];
    for turn in 0..wish.turns {
        for (both, stalls) in [false, true].into_iter().zip(&mut stalls) {
            stalls.extend(exchanges(ground, &shop, &mut revisions, (turn, both, each)).await?);
        }
        eprintln!("exchange, turn {}", turn + 1);
    }
    stalls.iter_mut().for_each(|stalls| stalls.sort_by(f64::total_cmp));
    let count = stalls[0].len();
    let figure = |(name, part): (&str, f64)| {
        let what = format!(
            "{name} of {count} exchanges at {TRANSACTIONS_PER_SECOND} transactions/s each way: both links write nothing; native: one link"
        );
        let mut figure = Figure::milliseconds(&format!("exchange-{name}"), &what);
        figure.native.push(share(&stalls[0], part));
        figure.falkirk.push(share(&stalls[1], part));
        figure
    };
    let mut figures = [("p50", 0.5), ("p99", 0.99)].map(figure);
    for (note, stalls) in ["one_link_ms", "both_links_ms"].into_iter().zip(&stalls) {
        stalls.iter().for_each(|stall| figures[1].note(note, *stall));
    }
    Ok(figures.into())
}

/// Fresh databases, a host, and so many exchanges while both sides or blue alone are written to.
async fn exchanges(
    ground: &Ground,
    shop: &Subject,
    revisions: &mut Revisions,
    (turn, both, count): (usize, bool, u64),
) -> Outcome<Vec<f64>> {
    let blue = ground.database(Side::Blue, &format!("exchange_{turn}"), &shop.source_schema).await?;
    blue.run(shop.prepare_source).await?;
    blue.run(&shop.fill(1, ROWS)).await?;
    let green = ground.database(Side::Green, &format!("exchange_{turn}"), &shop.target_schema).await?;
    green.run(PREPARE_GREEN).await?;
    let name = format!("exchange_{turn}_{}", if both { "both" } else { "one" });
    let link = Link::new(ground, &name, &blue, &green, shop.transform.as_deref())?.with_admin()?;
    let link = if both { link.both()? } else { link };
    let mut host = link.start(false)?;
    green.wait_for(&format!("SELECT count(*) = {ROWS} FROM customer")).await?;
    link.streams().await?;

    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = vec![load(&blue, 0, stop.clone()).await?];
    if both {
        writers.push(load(&green, 1, stop.clone()).await?);
    }
    let mut stalls = Vec::new();
    let mut failed = None;
    for _ in 0..count {
        tokio::time::sleep(PAUSE).await;
        let file = revisions.next(ground)?;
        match link.swap(&file).await {
            Ok(stall_us) => stalls.push(stall_us as f64 / 1_000.0),
            Err(said) => failed = Some(said),
        }
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.map_err(|error| error.to_string())??;
    }
    host.must_not_fail()?;
    if let Some(said) = failed {
        return Err(said);
    }
    arrived(&blue, &green, shop).await?;
    host.stop().await?;
    ground.remove(green).await?;
    ground.remove(blue).await?;
    Ok(stalls)
}

/// The way back reads green as the way there reads blue.
const PREPARE_GREEN: &str = "DO $$ DECLARE leaf regclass; BEGIN
    FOR leaf IN SELECT oid FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace LOOP
        EXECUTE format('ALTER TABLE %s REPLICA IDENTITY FULL', leaf);
    END LOOP; END $$";

/// Changes rows whose numbers are `parity` modulo 2, one a transaction.
async fn load(side: &Database, parity: u64, stop: Arc<AtomicBool>) -> Outcome<JoinHandle<Outcome<()>>> {
    let client = side.connect().await?;
    let update = "UPDATE customer SET email = $2 || '@example.com' WHERE id = $1";
    let update = client.prepare(update).await.map_err(text)?;
    let mut clock = tokio::time::interval(Duration::from_micros(1_000_000 / TRANSACTIONS_PER_SECOND));
    Ok(tokio::spawn(async move {
        for number in 0_u64.. {
            clock.tick().await;
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let id = (number * 2 + parity) % ROWS + 1;
            client.execute(&update, &[&(id as i64), &format!("changed{id}at{number}")]).await.map_err(text)?;
        }
        Ok(())
    }))
}

/// Waits until both sides hold the same.
async fn arrived(blue: &Database, green: &Database, shop: &Subject) -> Outcome<()> {
    for _ in 0..LOOKS {
        if compare(blue, green, shop.target_digest, shop).await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    compare(blue, green, shop.target_digest, shop).await
}

/// Revisions of one transform.
struct Revisions {
    bytes: Vec<u8>,
    number: u32,
}

impl Revisions {
    /// A file with the next one.
    fn next(&mut self, ground: &Ground) -> Outcome<PathBuf> {
        self.number += 1;
        let name = b"revision";
        // A custom section: its kind, its length, the length of its name, the name, and what is in it.
        let section = [&[0, name.len() as u8 + 5, name.len() as u8], name.as_slice(), &self.number.to_le_bytes()];
        let path = ground.files.path().join("revision.wasm");
        std::fs::write(&path, [self.bytes.as_slice(), &section.concat()].concat())
            .map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(path)
    }
}
