//! Fences: marks that both sides write, to tell when everything before them has passed.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Running, SOON, Side, Stage, until};

/// Their table, on both sides; a row of it travels like any other.
pub const FENCE: &str = "CREATE TABLE fence (side text PRIMARY KEY, number bigint NOT NULL);";

/// Waits until everything that was written before has arrived on both sides, also what the arrival itself set off. `when`
/// says to whoever waits in vain where that was.
pub fn quiet(stage: &Stage, host: &mut Running, when: &str) {
    static MARKS: AtomicU64 = AtomicU64::new(1);
    for _ in 0..2 {
        let mark = MARKS.fetch_add(1, Ordering::Relaxed);
        for side in [&stage.blue, &stage.green] {
            let name = side.name;
            side.sql(&format!(
                "INSERT INTO fence VALUES ('{name}', {mark}) ON CONFLICT (side) DO UPDATE SET number = {mark}"
            ));
        }
        let arrived = |side: &Side, other: &str| {
            side.count(&format!("(SELECT FROM fence WHERE side = '{other}' AND number = {mark})")) == 1
        };
        until(&format!("the fences are passed, {when}"), SOON, || {
            assert!(host.is_running(), "{when}: the host has ended\n{}{}", host.out(), host.err());
            arrived(&stage.blue, "green") && arrived(&stage.green, "blue")
        });
    }
}
