//! The initial copy: how long until all rows there are have been copied?

use std::time::Instant;

use crate::Wish;
use crate::backlog::compare;
use crate::ground::{Ground, Outcome, Side};
use crate::link::Link;
use crate::native::Native;
use crate::report::Figure;
use crate::subject::Subject;

/// One source for all turns, a fresh target for each side of each turn.
///
/// Natively the end is the table's state in the catalog. Falkirk's end is that of its process, start-up and
/// catching up included.
pub async fn measure(name: &str, wish: &Wish, ground: &Ground, subject: &Subject) -> Outcome<Figure> {
    let rows = wish.scaled(2_000_000);
    let mut figure = Figure::seconds(name, &format!("{rows} rows, {}", subject.what), Some((rows, "rows/s")));
    let source = ground.database(Side::Blue, "filled", &subject.source_schema).await?;
    source.run(subject.prepare_source).await?;
    source.run(&subject.fill(1, rows)).await?;
    source.run(&format!("VACUUM (FREEZE, ANALYZE) {}", subject.table)).await?;
    for turn in 0..wish.turns {
        let mut order = [true, false];
        order.rotate_left(turn % 2);
        for natively in order {
            if natively {
                let target = ground.database(Side::Green, &format!("theirs_{turn}"), &subject.source_schema).await?;
                let native = Native::prepare(&source, &target, subject.table).await?;
                ground.settle().await?;
                let begin = Instant::now();
                native.copy().await?;
                figure.native.push(begin.elapsed().as_secs_f64());
                native.halt().await?;
                compare(&source, &target, subject.source_digest, subject).await?;
                ground.remove(target).await?;
                ground.release(&source).await?;
            } else if ground.with_falkirk {
                let target = ground.database(Side::Green, &format!("ours_{turn}"), &subject.target_schema).await?;
                let migration = format!("{}_{turn}", name.replace('-', "_"));
                let link = Link::new(ground, &migration, &source, &target, subject.transform.as_deref())?;
                ground.settle().await?;
                let begin = Instant::now();
                link.catch_up().await?;
                figure.falkirk.push(begin.elapsed().as_secs_f64());
                compare(&source, &target, subject.target_digest, subject).await?;
                ground.remove(target).await?;
                ground.release(&source).await?;
            }
        }
        eprintln!("{name}, turn {}", turn + 1);
    }
    ground.remove(source).await?;
    Ok(figure)
}
