//! The demo: its shop, its load, and the whole story as a person starts it.

use std::time::Duration;

use falkirk::demo::load::{Load, Pace};
use falkirk::demo::servers::{Servers, connect};
use falkirk::pg::address::Address;
use falkirk_tests::Stage;
use nix::sys::signal::Signal;

#[tokio::test(flavor = "multi_thread")]
async fn the_shop_is_filled_in_seconds_and_the_load_does_everything_that_users_do() {
    let servers = Servers::start(Vec::new()).await.unwrap();
    servers.furnish().await.unwrap();
    let rows = servers.seed().await.unwrap();
    assert!(rows >= 200_000, "{rows} rows");

    let shop = Address::parse(&servers.blue_url()).unwrap();
    let load = Load::start(&shop, Pace { users: 4, deeds_per_s: 2_000, seed: 1 }).await.unwrap();
    for _ in 0..60 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        if load.tally().deeds.iter().all(|(_, count)| *count > 0) {
            break;
        }
    }
    let tally = load.stop().await.unwrap();
    assert!(tally.deeds.iter().all(|(_, count)| *count > 0), "{tally:?}");
    assert!(tally.declined * 20 < tally.total(), "{tally:?}");

    // The tables say themselves that all of it arrived: inserts, updates and deletes in every one of them.
    let session = connect(&servers.blue_url()).await.unwrap();
    let sql = "SELECT count(*) FROM public.orders WHERE id > 60000 UNION ALL
               SELECT count(*) FROM public.order_line WHERE line_no > 100 UNION ALL
               SELECT count(*) FROM public.customer WHERE email LIKE 'new-%' UNION ALL
               SELECT count(*) FROM public.event WHERE id > 25000 UNION ALL
               SELECT count(*) FROM public.coupon WHERE code LIKE 'SWAP-%' UNION ALL
               SELECT 1000 - count(*) FROM public.coupon WHERE code LIKE 'SEED-%'";
    for row in session.rows(sql).await.unwrap() {
        assert!(row.number::<i64>(0).unwrap() > 0, "{tally:?}");
    }
    servers.remove().await;
}

#[test]
fn l8_the_whole_story_ends_with_no_difference_while_a_load_was_running() {
    let stage = Stage::one_way("demo_whole");
    let story = stage.falkirk(&["demo", "--json", "--stream", "3"]).expect(0);
    let said = story.json();
    assert_eq!(said["ok"], true, "{said}");
    assert_eq!(said["rows_wrong"], 0, "{said}");
    assert!(said["rows_compared"].as_u64().unwrap() >= 200_000, "{said}");
    let report = &said["report"];
    assert!(report["rows_changed"].as_u64().unwrap() > 100, "{said}");
    assert!(report["rows_changed_back"].as_u64().unwrap() > 100, "{said}");
    assert_eq!(report["acts"].as_array().unwrap().len(), 10, "{said}");
    // Once while only forward applied, and three times each way.
    assert_eq!(report["comparisons"].as_array().unwrap().len(), 7, "{said}");
    let new_deeds = report["load_of_release_2"]["deeds"].as_array().unwrap();
    assert!(new_deeds.iter().filter(|deed| deed[1].as_u64().unwrap() > 0).count() > 10, "{said}");
}

#[test]
fn a_signal_ends_the_demo_at_any_time_and_says_so() {
    let stage = Stage::one_way("demo_signal");
    for after_ms in [300, 2_500, 6_000, 18_000] {
        let demo = stage.start_falkirk(&["demo", "--stream", "3"]);
        std::thread::sleep(Duration::from_millis(after_ms));
        demo.signal(Signal::SIGINT);
        let ended = demo.wait(Duration::from_secs(30)).expect(130);
        assert!(ended.out.is_empty(), "no figures of a story without its end\n{}", ended.out);
    }
}
