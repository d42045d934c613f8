//! Both links at once, each side with a load of its own, beside one link alone: how far each is behind.
//!
//! What stands under `native` is the same link alone here, at the pace of one side: a ratio of 0.5 is twice its lag, and the
//! most that is allowed.

use crate::Wish;
use crate::ground::{Ground, Outcome, Side};
use crate::latency::{Trial, ping, share};
use crate::link::Link;
use crate::report::Figure;

const TABLES: &str = "
CREATE TABLE ping (writer int NOT NULL, n bigint NOT NULL, sent_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    padding text NOT NULL DEFAULT 'as much as a short row holds, about a hundred bytes in all', PRIMARY KEY (writer, n));
CREATE TABLE pong (LIKE ping INCLUDING ALL);
ALTER TABLE ping REPLICA IDENTITY FULL;
ALTER TABLE pong REPLICA IDENTITY FULL;
";

const TRANSACTIONS_PER_SECOND: u64 = 400;

/// Median and 99th percentile of each link, as four figures.
pub async fn measure(wish: &Wish, ground: &Ground) -> Outcome<Vec<Figure>> {
    let seconds = if wish.quick { 5 } else { 20 };
    let figure = |link: &str, share: &str| {
        let what = format!(
            "{share} of {seconds} s, {link} link at {TRANSACTIONS_PER_SECOND} transactions/s each way; native: it alone"
        );
        Figure::milliseconds(&format!("both-{link}-{share}"), &what).wanted(0.5)
    };
    let mut figures = [("forward", "median"), ("forward", "p99"), ("backward", "median"), ("backward", "p99")]
        .map(|(l, s)| figure(l, s));
    let trial = |table| Trial { table, seconds, transactions_per_second: TRANSACTIONS_PER_SECOND };
    for turn in 0..wish.turns {
        let alone = [alone(ground, turn, false, trial).await?, alone(ground, turn, true, trial).await?];
        let (blue, green) = (format!("both_{turn}"), format!("both_{turn}"));
        let source = ground.database(Side::Blue, &blue, TABLES).await?;
        let target = ground.database(Side::Green, &green, TABLES).await?;
        let mut host = Link::new(ground, &format!("both_{turn}"), &source, &target, None)?.both()?.start(false)?;
        // Green is to be empty until the copy is over.
        source.run("INSERT INTO ping (writer, n) VALUES (0, 0)").await?;
        target.wait_for("SELECT EXISTS (SELECT 1 FROM ping)").await?;
        let (forward, backward) =
            tokio::join!(ping(trial("ping"), &source, &target), ping(trial("pong"), &target, &source));
        host.must_not_fail()?;
        for (at, measured) in [forward?, backward?].iter().enumerate() {
            for (figure, part) in [(at * 2, 0.5), (at * 2 + 1, 0.99)] {
                figures[figure].native.push(share(&alone[at], part));
                figures[figure].falkirk.push(share(measured, part));
            }
        }
        host.stop().await?;
        ground.remove(target).await?;
        ground.remove(source).await?;
        eprintln!("both, turn {}", turn + 1);
    }
    Ok(figures.into())
}

/// One link alone, with a load on the side that it reads.
async fn alone(
    ground: &Ground,
    turn: usize,
    is_backward: bool,
    trial: impl Fn(&'static str) -> Trial,
) -> Outcome<Vec<f64>> {
    let name = format!("alone_{turn}_{}", if is_backward { "back" } else { "forth" });
    let blue = ground.database(Side::Blue, &name, TABLES).await?;
    let green = ground.database(Side::Green, &name, TABLES).await?;
    let link = Link::new(ground, &name, &blue, &green, None)?;
    let link = if is_backward { link.backward()? } else { link };
    let mut host = link.start(false)?;
    let measured = match is_backward {
        true => ping(trial("pong"), &green, &blue).await,
        false => ping(trial("ping"), &blue, &green).await,
    };
    host.must_not_fail()?;
    let measured = measured?;
    host.stop().await?;
    ground.remove(green).await?;
    ground.remove(blue).await?;
    Ok(measured)
}
