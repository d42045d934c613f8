//! Catching up: the source has written a backlog while nobody read; how long until its last change is visible?

use std::time::Instant;

use crate::Wish;
use crate::ground::{Database, Ground, Outcome, Side};
use crate::link::Link;
use crate::native::Native;
use crate::report::Figure;
use crate::subject::{Load, Subject};

/// One turn: a fresh source and two fresh targets, one load, and both read it one after the other.
pub async fn measure(name: &str, wish: &Wish, ground: &Ground, subject: &Subject) -> Outcome<Figure> {
    let load = Load {
        insert_transactions: wish.scaled(5_000),
        update_transactions: wish.scaled(20_000),
        single_transactions: wish.scaled(100_000),
    };
    let what = format!("{} changes in {} transactions, {}", load.changes(), load.transactions(), subject.what);
    let mut figure = Figure::seconds(name, &what, Some((load.changes(), "changes/s")));
    for turn in 0..wish.turns {
        let source = ground.database(Side::Blue, &format!("backlog_{turn}"), &subject.source_schema).await?;
        source.run(subject.prepare_source).await?;
        source.run(&subject.fill(0, 0)).await?;
        let ours = ground.database(Side::Green, &format!("ours_{turn}"), &subject.target_schema).await?;
        let theirs = ground.database(Side::Green, &format!("theirs_{turn}"), &subject.source_schema).await?;
        theirs.run(&subject.fill(0, 0)).await?;

        let native = Native::prepare(&source, &theirs, subject.table).await?;
        native.hold().await?;
        let migration = format!("{}_{turn}", name.replace('-', "_"));
        let link = Link::new(ground, &migration, &source, &ours, subject.transform.as_deref())?;
        if ground.with_falkirk {
            // The first start makes slot and publication and copies row 0.
            link.catch_up().await?;
        }
        let wal_mib = write(&source, subject, &load).await?;
        eprintln!("{name}, turn {}: {wal_mib} MiB of WAL", turn + 1);
        // Whoever is second may find things warm: they take turns in that as well.
        let mut order = [true, false];
        order.rotate_left(turn % 2);
        for natively in order {
            ground.settle().await?;
            if natively {
                let begin = Instant::now();
                native.go().await?;
                theirs.wait_for(subject.ended).await?;
                figure.native.push(begin.elapsed().as_secs_f64());
                native.halt().await?;
            } else if ground.with_falkirk {
                let begin = Instant::now();
                let mut host = link.start(true)?;
                wait_beside(&ours, subject.ended, &mut host).await?;
                figure.falkirk.push(begin.elapsed().as_secs_f64());
                host.finish().await?;
                figure.note("to_exit_s", begin.elapsed().as_secs_f64());
            }
        }
        compare(&source, &theirs, subject.source_digest, subject).await?;
        if ground.with_falkirk {
            compare(&source, &ours, subject.target_digest, subject).await?;
        }
        for database in [ours, theirs, source] {
            ground.remove(database).await?;
        }
    }
    Ok(figure)
}

/// Writes the backlog; answers how much WAL it made.
async fn write(source: &Database, subject: &Subject, load: &Load) -> Outcome<String> {
    let before = source.one("SELECT pg_current_wal_insert_lsn()").await?;
    for statement in subject.load(load) {
        source.run(&statement).await?;
    }
    source.one(&format!("SELECT round((pg_current_wal_insert_lsn() - '{before}'::pg_lsn) / 1048576)")).await
}

/// Waits for a query on the target, and for no host that has already failed. A host that has ended well is caught up.
async fn wait_beside(target: &Database, query: &str, host: &mut crate::link::Running) -> Outcome<()> {
    tokio::select! {
        arrived = target.wait_for(query) => arrived,
        failed = async {
            loop {
                if let Err(words) = host.must_not_fail() {
                    break words;
                }
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        } => Err(failed),
    }
}

/// What arrived must be what the source holds.
pub async fn compare(source: &Database, target: &Database, digest: &str, subject: &Subject) -> Outcome<()> {
    let (wanted, got) = (source.one(subject.source_digest).await?, target.one(digest).await?);
    match wanted == got {
        true => Ok(()),
        false => Err(format!("{} does not hold what {} holds: {got} instead of {wanted}", target.name, source.name)),
    }
}
